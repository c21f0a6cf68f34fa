//! The engines: who is there, what each has, and which of them takes the next task.

use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};

use super::ids::JobIx;
use super::slab::{Ix, Slab, ix};
use super::types::TaskConfig;
use crate::protocol::{EngineUuid, MsgId};
use crate::scheduler::Scheme;
use crate::scheduler::scheme::{Chooser, Standing};

ix! {
    /// An engine that is known; its place may be taken by another once it is forgotten.
    Slot,
}

/// Numbers engines through the scheduler's life, so that nothing that outlives one points at another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Serial(pub(super) u32);

/// How many engines that are gone are known by name: their late replies count, and one that comes back is the same.
const REMEMBERED_GONE: usize = 4096;

/// Where the count of uses begins. New engines count down from here: the newest is the least recently used, as in
/// ipyparallel.
const FIRST_USE: u64 = 1 << 63;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Here,
    /// It is said to come: tasks may wait for it.
    Expected,
    /// The number of its departure.
    Gone(u64),
}

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) uuid: EngineUuid,
    pub(super) serial: Serial,
    pub(super) presence: Presence,
    pub(super) completed: u64,
    pub(super) failed: u64,
    /// In no order; each job knows its place.
    pub(super) running: Vec<JobIx>,
    /// Tasks that ended by another engine's late reply while this one was at work on them.
    pub(super) ghosts: HashSet<MsgId>,
    /// Room has just appeared, and who gets it is not settled yet.
    held: bool,
    /// It is about to go: what it has may still be answered, but it is given nothing more.
    leaving: bool,
    used: u64,
}

impl Engine {
    pub(super) fn load(&self) -> usize {
        self.running.len() + self.ghosts.len()
    }
}

#[derive(Debug)]
pub(super) struct Roster {
    engines: Slab<Slot, Engine>,
    by_uuid: HashMap<EngineUuid, Slot>,
    by_serial: HashMap<Serial, Slot>,
    /// In the order of departure; some have come back since.
    gone: VecDeque<(Slot, u64)>,
    departures: u64,
    chooser: Chooser,
    /// `usize::MAX` for no limit.
    hwm: usize,
    /// Engines that are there or expected.
    present: usize,
    next_serial: u32,
    oldest_use: u64,
    newest_use: u64,
}

impl Roster {
    pub(super) fn new(config: &TaskConfig) -> Self {
        let unlimited = config.hwm == 0 || config.scheme == Scheme::Pure;
        Self {
            engines: Slab::new(),
            by_uuid: HashMap::new(),
            by_serial: HashMap::new(),
            gone: VecDeque::new(),
            departures: 0,
            chooser: Chooser::new(config.scheme, config.seed),
            hwm: if unlimited {
                usize::MAX
            } else {
                config.hwm as usize
            },
            present: 0,
            next_serial: 0,
            oldest_use: FIRST_USE,
            newest_use: FIRST_USE,
        }
    }

    pub(super) fn find(&self, uuid: &str) -> Option<Slot> {
        self.by_uuid.get(uuid).copied()
    }

    /// An engine that is there or expected.
    pub(super) fn find_present(&self, uuid: &str) -> Option<Slot> {
        self.find(uuid).filter(|slot| self.is_present(*slot))
    }

    /// An engine that is there or expected.
    pub(super) fn present_with(&self, serial: Serial) -> Option<Slot> {
        let slot = self.by_serial.get(&serial).copied()?;
        self.is_present(slot).then_some(slot)
    }

    pub(super) fn is_present(&self, slot: Slot) -> bool {
        !matches!(self.engines[slot].presence, Presence::Gone(_))
    }

    /// How many engines are there or expected.
    pub(super) fn present(&self) -> usize {
        self.present
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Engine)> {
        self.engines.iter()
    }

    /// The name of an engine, for a message.
    pub(super) fn name_of(&self, serial: Serial) -> &str {
        self.by_serial
            .get(&serial)
            .map_or("that is long gone", |slot| {
                self.engines[*slot].uuid.as_str()
            })
    }

    /// The engine is there, or expected. None when that is nothing new.
    pub(super) fn arrive(&mut self, uuid: EngineUuid, presence: Presence) -> Option<Slot> {
        let slot = match self.find(uuid.as_str()) {
            Some(slot) => {
                let was = self.engines[slot].presence;
                if was == Presence::Here || was == presence {
                    return None;
                }
                self.engines[slot].presence = presence;
                self.engines[slot].leaving = false;
                self.present += usize::from(matches!(was, Presence::Gone(_)));
                slot
            }
            None => {
                let serial = Serial(self.next_serial);
                self.next_serial += 1;
                let slot = self.engines.insert(Engine {
                    uuid: uuid.clone(),
                    serial,
                    presence,
                    completed: 0,
                    failed: 0,
                    running: Vec::new(),
                    ghosts: HashSet::new(),
                    held: false,
                    leaving: false,
                    used: 0,
                });
                self.by_uuid.insert(uuid, slot);
                self.by_serial.insert(serial, slot);
                self.present += 1;
                slot
            }
        };
        self.oldest_use -= 1;
        self.engines[slot].used = self.oldest_use;
        self.refresh(slot);
        Some(slot)
    }

    /// The engine is given nothing more.
    pub(super) fn leave(&mut self, slot: Slot) {
        self.engines[slot].leaving = true;
        self.refresh(slot);
    }

    /// The engine is gone; what ran on it is handed out.
    pub(super) fn depart(&mut self, slot: Slot) -> Vec<JobIx> {
        self.departures += 1;
        self.present -= 1;
        let engine = &mut self.engines[slot];
        engine.presence = Presence::Gone(self.departures);
        engine.ghosts = HashSet::new();
        engine.held = false;
        let running = std::mem::take(&mut engine.running);
        self.refresh(slot);
        self.gone.push_back((slot, self.departures));
        running
    }

    /// Forgets those that have been gone longest, when they are too many.
    pub(super) fn forget(&mut self) {
        while self.gone.len() > REMEMBERED_GONE {
            let Some((slot, departure)) = self.gone.pop_front() else {
                break;
            };
            let departed = self.engines.get(slot).map(|engine| engine.presence);
            if departed == Some(Presence::Gone(departure)) {
                let engine = self.engines.remove(slot);
                self.by_uuid.remove(&engine.uuid);
                self.by_serial.remove(&engine.serial);
            }
        }
    }

    /// There, to stay, and below the high water mark.
    pub(super) fn has_room(&self, slot: Slot) -> bool {
        let engine = &self.engines[slot];
        engine.presence == Presence::Here && !engine.leaving && engine.load() < self.hwm
    }

    /// One of all engines with room.
    pub(super) fn choose(&mut self) -> Option<Slot> {
        self.chooser.choose().map(Slot::new)
    }

    /// One of those engines with room that are among `members` (sorted; none: all) and are not excluded.
    pub(super) fn choose_among(
        &mut self,
        members: Option<&[Slot]>,
        excluded: impl Fn(Serial) -> bool,
    ) -> Option<Slot> {
        let is_member =
            |slot: Slot| members.is_none_or(|members| members.binary_search(&slot).is_ok());
        if self.chooser.is_ordered() {
            let best = self.choose()?;
            if is_member(best) && !excluded(self.engines[best].serial) {
                return Some(best);
            }
        }
        let fits = |slot: Slot| {
            self.chooser.get(slot.index()).is_some() && !excluded(self.engines[slot].serial)
        };
        let candidates: Vec<u32> = match members {
            Some(members) => members
                .iter()
                .filter(|slot| fits(**slot))
                .map(|slot| slot.index())
                .collect(),
            None => self
                .engines
                .iter()
                .filter(|(slot, _)| fits(*slot))
                .map(|(slot, _)| slot.index())
                .collect(),
        };
        self.chooser.choose_among(&candidates).map(Slot::new)
    }

    /// Gives a job to an engine; its place there.
    pub(super) fn put_on(&mut self, slot: Slot, job: JobIx) -> u32 {
        self.newest_use += 1;
        let engine = &mut self.engines[slot];
        engine.used = self.newest_use;
        engine.running.push(job);
        let place = engine.running.len() as u32 - 1;
        self.refresh(slot);
        place
    }

    /// Takes a job off an engine; the job that has its place now. An engine that was full is held.
    pub(super) fn take_off(&mut self, slot: Slot, place: u32) -> Option<JobIx> {
        self.hold_if_full(slot);
        let engine = &mut self.engines[slot];
        engine.running.swap_remove(place as usize);
        let moved = engine.running.get(place as usize).copied();
        self.refresh(slot);
        moved
    }

    /// The engine works on for nothing: the task has ended. As [`take_off`](Self::take_off), but no room appears.
    pub(super) fn haunt(&mut self, slot: Slot, place: u32, msg_id: MsgId) -> Option<JobIx> {
        let engine = &mut self.engines[slot];
        engine.running.swap_remove(place as usize);
        engine.ghosts.insert(msg_id);
        engine.running.get(place as usize).copied()
    }

    /// The engine has answered a task that ended before. An engine that was full is held.
    pub(super) fn lay_ghost(&mut self, slot: Slot, msg_id: &str) -> bool {
        if !self.engines[slot].ghosts.contains(msg_id) {
            return false;
        }
        self.hold_if_full(slot);
        self.engines[slot].ghosts.remove(msg_id);
        self.refresh(slot);
        true
    }

    pub(super) fn release(&mut self, slot: Slot) {
        self.engines[slot].held = false;
        self.refresh(slot);
    }

    /// Until `release`, nobody finds room on an engine that was full: tasks that wait come before new ones.
    fn hold_if_full(&mut self, slot: Slot) {
        if !self.has_room(slot) {
            self.engines[slot].held = true;
        }
    }

    fn refresh(&mut self, slot: Slot) {
        let engine = &self.engines[slot];
        let standing = (self.has_room(slot) && !engine.held).then(|| Standing {
            load: u32::try_from(engine.load()).unwrap_or(u32::MAX),
            used: engine.used,
        });
        self.chooser.set(slot.index(), standing);
    }
}

impl std::ops::Index<Slot> for Roster {
    type Output = Engine;

    fn index(&self, slot: Slot) -> &Engine {
        &self.engines[slot]
    }
}

impl std::ops::IndexMut<Slot> for Roster {
    fn index_mut(&mut self, slot: Slot) -> &mut Engine {
        &mut self.engines[slot]
    }
}

#[cfg(test)]
impl Roster {
    pub(super) fn sanity_check(&self) {
        let present = self.iter().filter(|(slot, _)| self.is_present(*slot));
        assert_eq!(present.count(), self.present);
        assert_eq!(self.by_uuid.len(), self.engines.len());
        assert_eq!(self.by_serial.len(), self.engines.len());
        for (slot, engine) in self.iter() {
            assert!(!engine.held, "nothing is held between events");
            assert_eq!(self.by_uuid[&engine.uuid], slot);
            assert_eq!(self.by_serial[&engine.serial], slot);
            assert!(!matches!(engine.presence, Presence::Gone(_)) || engine.load() == 0);
            let standing = self.chooser.get(slot.index());
            assert_eq!(standing.is_some(), self.has_room(slot));
            if let Some(standing) = standing {
                assert_eq!(standing.load as usize, engine.load());
                assert_eq!(standing.used, engine.used);
            }
        }
    }
}
