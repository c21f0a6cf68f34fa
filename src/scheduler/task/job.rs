//! A live task.

use super::deadlines::Nanos;
use super::ids::JobIx;
use super::queues::{ClassIx, ClientIx, LaneIx};
use super::request::Dependency;
use super::roster::{Serial, Slot};
use super::slab::ix;

ix! {
    /// One task's need of another.
    EdgeIx,
}

#[derive(Debug)]
pub(super) struct Job<P> {
    pub(super) payload: P,
    /// Counts submissions.
    pub(super) sequence: u64,
    pub(super) client: ClientIx,
    /// The engines that may have it.
    pub(super) class: ClassIx,
    pub(super) state: State,
    pub(super) retries: u32,
    /// A client asked to abort it while it ran: it is not tried again.
    pub(super) aborted: bool,
    /// The tasks that need this one, in the order of their submission.
    pub(super) first_dependent: Option<EdgeIx>,
    pub(super) last_dependent: Option<EdgeIx>,
    pub(super) attempts: Option<Box<Attempts>>,
    pub(super) terms: Option<Box<Terms>>,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Waits for other tasks.
    Blocked,
    /// Waits for an engine, in this lane at this place.
    Ready { lane: LaneIx, order: u64 },
    /// On an engine, at this place among those that run there.
    Running { engine: Slot, place: u32 },
    /// In the list of those to be placed, within one event.
    Moving,
    /// In the list of those to be ended, within one event.
    Doomed,
}

/// What only some tasks have.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) timeout: Option<Nanos>,
    /// While it waits.
    pub(super) deadline: Option<Nanos>,
    /// What `targets` named, before `follow` narrowed it.
    pub(super) targets: ClassIx,
    /// None once it is met.
    pub(super) after: Option<Need>,
    pub(super) follow: Option<Follow>,
    /// The first of its own needs.
    pub(super) needs: Option<EdgeIx>,
}

/// A dependency, counted down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Tasks that have not ended.
    pub(super) open: u32,
    pub(super) all: bool,
    success: bool,
    failure: bool,
}

impl Need {
    pub(super) fn new(dependency: &Dependency<'_>, open: u32) -> Self {
        Self {
            open,
            all: dependency.all,
            success: dependency.success,
            failure: dependency.failure,
        }
    }

    pub(super) fn accepts(self, ok: bool) -> bool {
        if ok { self.success } else { self.failure }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Follow {
    pub(super) need: Need,
    /// An engine where it may run on its account: with `all` the only one, else one of some.
    pub(super) at: Option<Serial>,
}

/// Which of a task's dependencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    After,
    Follow,
}

/// `dependent` needs `on`.
#[derive(Debug)]
pub(super) struct Edge {
    /// None once that task has ended.
    pub(super) on: Option<JobIx>,
    pub(super) dependent: JobIx,
    pub(super) kind: Kind,
    /// Neighbours among the dependents of `on`.
    pub(super) previous: Option<EdgeIx>,
    pub(super) next: Option<EdgeIx>,
    /// The next need of `dependent`.
    pub(super) next_need: Option<EdgeIx>,
}

/// What engines have had to do with a task that came back from one.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// In the order of serials.
    list: Vec<(Serial, u8)>,
    last: Option<Serial>,
}

/// The engine has had the message.
pub(super) const HAD: u8 = 1;
/// It said that the task's dependencies are not met there. Never forgiven.
pub(super) const REFUSED: u8 = 2;
/// The task failed there.
pub(super) const FAILED: u8 = 4;
/// It gave the task back unseen.
pub(super) const RETURNED: u8 = 8;
/// It went away with the task; its reply still counts.
pub(super) const LOST: u8 = 16;

/// Marks for which a task stays away from an engine.
const EXCLUDING: u8 = REFUSED | FAILED | RETURNED;

impl Attempts {
    pub(super) fn mark(&mut self, serial: Serial, marks: u8) {
        self.last = Some(serial);
        match self.list.binary_search_by_key(&serial, |entry| entry.0) {
            Ok(at) => self.list[at].1 |= marks,
            Err(at) => self.list.insert(at, (serial, marks)),
        }
    }

    pub(super) fn marks(&self, serial: Serial) -> u8 {
        self.list
            .binary_search_by_key(&serial, |entry| entry.0)
            .map_or(0, |at| self.list[at].1)
    }

    pub(super) fn unmark(&mut self, serial: Serial, marks: u8) {
        if let Ok(at) = self.list.binary_search_by_key(&serial, |entry| entry.0) {
            self.list[at].1 &= !marks;
        }
    }

    /// Forgives every engine these marks, but not the last one if `but_last`.
    pub(super) fn forgive(&mut self, marks: u8, but_last: bool) {
        for (serial, held) in &mut self.list {
            if !(but_last && self.last == Some(*serial)) {
                *held &= !marks;
            }
        }
    }

    pub(super) fn excluded(&self) -> impl Iterator<Item = (Serial, u8)> {
        self.list
            .iter()
            .copied()
            .filter(|entry| entry.1 & EXCLUDING != 0)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}

impl<P> Job<P> {
    pub(super) fn marks(&self, serial: Serial) -> u8 {
        self.attempts
            .as_ref()
            .map_or(0, |attempts| attempts.marks(serial))
    }

    pub(super) fn mark(&mut self, serial: Serial, marks: u8) {
        self.attempts
            .get_or_insert_default()
            .mark(serial, marks | HAD);
    }

    pub(super) fn excludes(&self, serial: Serial) -> bool {
        self.marks(serial) & EXCLUDING != 0
    }

    pub(super) fn excludes_any(&self) -> bool {
        self.attempts
            .as_ref()
            .is_some_and(|attempts| attempts.excluded().next().is_some())
    }

    pub(super) fn timeout(&self) -> Option<Nanos> {
        self.terms.as_ref().and_then(|terms| terms.timeout)
    }
}

impl Terms {
    /// Whether tasks that end from now on may add to the engines where it may run.
    pub(super) fn may_follow_more(&self) -> bool {
        self.follow
            .is_some_and(|follow| !follow.need.all && follow.need.open > 0)
    }

    /// Whether no other task stands in the way any more.
    pub(super) fn are_met(&self) -> bool {
        self.after.is_none()
            && self.follow.is_none_or(|follow| {
                if follow.need.all {
                    follow.need.open == 0
                } else {
                    follow.at.is_some()
                }
            })
    }
}
