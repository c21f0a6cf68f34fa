//! Engines from registration to departure.
//!
//! An engine is *registering* until its heart beats, then *entering* until every scheduler has taken it in, then *ready*
//! until it is announced. Announcements go out in ascending order of ids, because a client of the `pure` scheme that
//! sees a gap stops using the task queue for good; a registration that stalls holds the others back for [`PATIENCE`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use serde_json::{Value, json};

use super::{Action, Event, Token};
use crate::protocol::{EngineId, EngineUuid, Identity, Leaving, MsgId};

/// How long an engine that is ready waits for one with a lower id.
const PATIENCE: Duration = Duration::from_secs(2);

/// A client that learns of a departure fails the requests that it has at that engine by itself, and is confused by a
/// reply that comes later. So replies, of the engine that dies and of the schedulers, get this head start.
const HEAD_START: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Registry {
    engines: BTreeMap<EngineId, Engine>,
    /// Those that clients do not know of yet.
    coming: BTreeSet<EngineId>,
    by_heart: HashMap<Identity, EngineId>,
    /// Changes that schedulers are carrying out.
    changes: HashMap<Token, Change>,
    departures: Vec<Departure>,
    next_id: u32,
    /// Engines that are ready wait for one with a lower id, at most until then.
    patience_ends: Option<Instant>,
}

/// The engines of a controller, as a later one has to know them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    pub engines: Vec<(EngineId, EngineUuid)>,
    /// Those of them that ask for their registration again when a controller is back.
    pub returning: BTreeSet<EngineId>,
    pub next_id: u32,
}

#[derive(Debug)]
struct Engine {
    uuid: EngineUuid,
    host: Option<Identity>,
    since: Instant,
    state: State,
    origin: Origin,
    /// Of a former controller: schedulers hold back what is meant for it, and have to be told if it does not come.
    expected: bool,
    /// Ours: it asks for its registration again when a controller is back, and says then what it has.
    returns: bool,
    /// It returns from a former controller, and has not asked yet.
    is_silent: bool,
    /// What it says that it has.
    unanswered: Arc<HashSet<MsgId>>,
}

/// Where an engine runs, as it says itself when it registers. Those of ipyparallel say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) host: Option<String>,
    /// Of the process that registers, which may run several engines.
    pub(super) pid: Option<i64>,
    /// Names the engines that were started together.
    pub(super) set: Option<String>,
    /// All of its connections go through one of ssh.
    pub(super) is_tunneled: bool,
}

impl Origin {
    /// Odd values are as good as none: nothing depends on them.
    pub(super) fn read(content: &[u8]) -> Self {
        const LONGEST: usize = 255;
        let content: Value = serde_json::from_slice(content).unwrap_or_default();
        let text = |key: &str| {
            let text = content[key].as_str()?;
            Some(text.chars().take(LONGEST).collect())
        };
        Self {
            host: text("hostname"),
            pid: content["pid"].as_i64(),
            set: text("set"),
            is_tunneled: content["tunnel"].as_bool().unwrap_or(false),
        }
    }
}

/// What is known of one engine without asking the schedulers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EngineFacts {
    pub(super) id: EngineId,
    pub(super) uuid: EngineUuid,
    pub(super) origin: Origin,
    pub(super) is_published: bool,
    /// Since it asked to be registered.
    pub(super) age: Duration,
}

/// How an engine has come to leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exit<'a> {
    pub(super) how: &'a str,
    pub(super) leaving: Leaving,
    /// It has sent a last word to the task queue.
    pub(super) farewell: bool,
}

impl<'a> Exit<'a> {
    pub(super) fn died(how: &'a str) -> Self {
        Self {
            how,
            leaving: Leaving::Died,
            farewell: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Registering,
    Entering,
    Ready,
    Published,
}

#[derive(Debug)]
struct Change {
    waiting_for: usize,
    engine: EngineId,
    kind: ChangeKind,
}

#[derive(Debug)]
enum ChangeKind {
    Entering,
    Leaving { uuid: EngineUuid, published: bool },
}

/// An engine that has left, and when clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    pub at: Instant,
    pub id: EngineId,
    pub uuid: EngineUuid,
}

impl Departure {
    fn notification(&self) -> Action {
        Action::Notify {
            msg_type: "unregistration_notification",
            content: json!({ "id": self.id, "uuid": self.uuid }),
        }
    }
}

impl Registry {
    pub(super) fn restore(
        &mut self,
        now: Instant,
        EngineState {
            engines,
            returning,
            next_id,
        }: EngineState,
    ) {
        for (wanted, uuid) in engines {
            if let Some(id) = self.register(now, &uuid, Some(wanted.0), None)
                && let Some(engine) = self.engines.get_mut(&id)
            {
                engine.expected = true;
                engine.returns = returning.contains(&wanted);
                engine.is_silent = engine.returns;
            }
        }
        self.next_id = self.next_id.max(next_id);
    }

    /// Begins a registration. A requested id is granted if it is free. Fails if the uuid is in use; one that is only
    /// registering may ask again.
    pub(super) fn register(
        &mut self,
        now: Instant,
        uuid: &EngineUuid,
        requested: Option<u32>,
        host: Option<Identity>,
    ) -> Option<EngineId> {
        let heart = Identity::from(uuid);
        if let Some(id) = self.by_heart.get(&heart) {
            let engine = self.engines.get_mut(id)?;
            if engine.state != State::Registering {
                return None;
            }
            engine.host = host;
            return Some(*id);
        }
        let id = match requested.map(EngineId) {
            Some(id) if !self.engines.contains_key(&id) => id,
            _ => self.unused_id(),
        };
        self.next_id = self.next_id.max(id.0.saturating_add(1));
        self.by_heart.insert(heart, id);
        self.coming.insert(id);
        self.engines.insert(
            id,
            Engine {
                uuid: uuid.clone(),
                host,
                since: now,
                state: State::Registering,
                origin: Origin::default(),
                expected: false,
                returns: false,
                is_silent: false,
                unanswered: Arc::default(),
            },
        );
        Some(id)
    }

    /// What an engine says of itself when it asks to be registered.
    pub(super) fn describe(
        &mut self,
        id: EngineId,
        origin: Origin,
        returns: bool,
        unanswered: HashSet<MsgId>,
    ) {
        if let Some(engine) = self.engines.get_mut(&id) {
            engine.origin = origin;
            engine.returns = returns;
            engine.is_silent = false;
            engine.unanswered = Arc::new(unanswered);
        }
    }

    /// Every engine, those that are on their way included, in ascending order.
    pub(super) fn facts(&self, now: Instant) -> Vec<EngineFacts> {
        let engines = self.engines.iter();
        engines
            .map(|(id, engine)| EngineFacts {
                id: *id,
                uuid: engine.uuid.clone(),
                origin: engine.origin.clone(),
                is_published: engine.state == State::Published,
                age: now.saturating_duration_since(engine.since),
            })
            .collect()
    }

    /// The next id; one that is lower when somebody has asked for the highest there is.
    fn unused_id(&self) -> EngineId {
        (self.next_id..=u32::MAX)
            .chain(0..self.next_id)
            .map(EngineId)
            .find(|id| !self.engines.contains_key(id))
            .unwrap_or(EngineId(self.next_id))
    }

    /// The uuid that is registering with this heart. One that is going to ask is not yet: its heart is reported again
    /// when it does.
    pub(super) fn registering(&self, heart: &Identity) -> Option<EngineUuid> {
        let engine = self.engines.get(self.by_heart.get(heart)?)?;
        let is_registering = engine.state == State::Registering && !engine.is_silent;
        is_registering.then(|| engine.uuid.clone())
    }

    pub(super) fn is_tunneled(&self, uuid: &EngineUuid) -> bool {
        self.id_of(&Identity::from(uuid))
            .and_then(|id| self.engines.get(&id))
            .is_some_and(|engine| engine.origin.is_tunneled)
    }

    pub(super) fn id_of(&self, heart: &Identity) -> Option<EngineId> {
        self.by_heart.get(heart).copied()
    }

    pub(super) fn on_alive(
        &mut self,
        uuid: &EngineUuid,
        token: Token,
        schedulers: usize,
        out: &mut Vec<Action>,
    ) {
        let Some(id) = self.id_of(&Identity::from(uuid)) else {
            return;
        };
        let Some(engine) = self.engines.get_mut(&id) else {
            return;
        };
        engine.state = State::Entering;
        self.changes.insert(
            token,
            Change {
                waiting_for: schedulers,
                engine: id,
                kind: ChangeKind::Entering,
            },
        );
        out.push(Action::TakeIn {
            token,
            engine: uuid.clone(),
            host: engine.host.clone(),
            unanswered: std::mem::take(&mut engine.unanswered),
        });
    }

    pub(super) fn on_gone(
        &mut self,
        now: Instant,
        id: EngineId,
        exit: &Exit<'_>,
        (token, schedulers): (Token, usize),
        out: &mut Vec<Action>,
    ) {
        let Some(engine) = self.engines.remove(&id) else {
            return;
        };
        self.coming.remove(&id);
        let uuid = engine.uuid;
        self.by_heart.remove(&Identity::from(&uuid));
        out.push(Action::ForgetHeart(uuid.clone()));
        out.push(Action::Log(Event::EngineLeft {
            id,
            uuid: uuid.clone(),
            how: exit.how.to_owned(),
            leaving: exit.leaving,
        }));
        if engine.state != State::Registering || engine.expected {
            let published = engine.state == State::Published;
            let kind = ChangeKind::Leaving {
                uuid: uuid.clone(),
                published,
            };
            self.changes.insert(
                token,
                Change {
                    waiting_for: schedulers,
                    engine: id,
                    kind,
                },
            );
            out.push(Action::LetGo {
                token,
                engine: uuid,
                id,
                how: exit.how.to_owned(),
                farewell: exit.farewell,
            });
        }
        // It may have been the one that held others back.
        self.publish_ready(now, out);
    }

    pub(super) fn on_scheduler_done(&mut self, now: Instant, token: Token, out: &mut Vec<Action>) {
        let Some(change) = self.changes.get_mut(&token) else {
            return;
        };
        change.waiting_for = change.waiting_for.saturating_sub(1);
        if change.waiting_for > 0 {
            return;
        }
        let Some(Change {
            engine: id, kind, ..
        }) = self.changes.remove(&token)
        else {
            return;
        };
        match kind {
            ChangeKind::Entering => {
                if let Some(engine) = self.engines.get_mut(&id)
                    && engine.state == State::Entering
                {
                    engine.state = State::Ready;
                    self.publish_ready(now, out);
                }
            }
            ChangeKind::Leaving {
                uuid,
                published: true,
            } => {
                self.departures.push(Departure {
                    at: now + HEAD_START,
                    id,
                    uuid,
                });
            }
            ChangeKind::Leaving {
                published: false, ..
            } => {}
        }
    }

    pub(super) fn next_deadline(&self, registration_timeout: Duration) -> Option<Instant> {
        let registering = self
            .those_coming()
            .filter(|(_, engine)| engine.state == State::Registering)
            .map(|(_, engine)| engine);
        let stalled = registering
            .map(|engine| engine.since + registration_timeout)
            .min();
        let departing = self.departures.iter().map(|departure| departure.at).min();
        [stalled, self.patience_ends, departing]
            .into_iter()
            .flatten()
            .min()
    }

    /// Engines of a former controller that have not come back in time.
    pub(super) fn overdue(&self, now: Instant, registration_timeout: Duration) -> Vec<EngineId> {
        let overdue = self.those_coming().filter(|(_, engine)| {
            engine.expected
                && engine.state == State::Registering
                && now >= engine.since + registration_timeout
        });
        overdue.map(|(id, _)| id).collect()
    }

    fn those_coming(&self) -> impl Iterator<Item = (EngineId, &Engine)> {
        self.coming.iter().map(|id| (*id, &self.engines[id]))
    }

    pub(super) fn on_time(
        &mut self,
        now: Instant,
        registration_timeout: Duration,
        out: &mut Vec<Action>,
    ) {
        let stalled: Vec<EngineId> = self
            .those_coming()
            .filter(|(_, engine)| {
                engine.state == State::Registering && now >= engine.since + registration_timeout
            })
            .map(|(id, _)| id)
            .collect();
        for id in stalled {
            if let Some(engine) = self.engines.remove(&id) {
                self.coming.remove(&id);
                self.by_heart.remove(&Identity::from(&engine.uuid));
                out.push(Action::Log(Event::RegistrationStalled {
                    id,
                    uuid: engine.uuid,
                }));
            }
        }
        self.publish_ready(now, out);
        self.announce_departures(now, out);
    }

    /// Engines that clients know of, in ascending order.
    pub(super) fn published(&self) -> Vec<(EngineId, EngineUuid)> {
        self.engines
            .iter()
            .filter(|(_, engine)| engine.state == State::Published)
            .map(|(id, engine)| (*id, engine.uuid.clone()))
            .collect()
    }

    /// Announces engines that are ready, up to the first one that is still on its way and may yet be waited for.
    fn publish_ready(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.patience_ends = None;
        let mut published = false;
        while let Some(id) = self.next_to_publish(now) {
            self.coming.remove(&id);
            let Some(engine) = self.engines.get_mut(&id) else {
                continue;
            };
            engine.state = State::Published;
            let (uuid, since) = (engine.uuid.clone(), engine.since);
            published = true;
            // A client that hears of the departure later would take it for this engine's.
            let departures = &mut self.departures;
            for departure in departures.extract_if(.., |departure| departure.id == id) {
                out.push(departure.notification());
            }
            out.push(Action::Notify {
                msg_type: "registration_notification",
                content: json!({ "id": id, "uuid": uuid }),
            });
            let took = now.saturating_duration_since(since);
            out.push(Action::Log(Event::EngineRegistered { id, uuid, took }));
        }
        if published {
            out.push(Action::SaveEngines);
        }
    }

    /// The first engine that is ready, if none with a lower id may yet be waited for.
    fn next_to_publish(&mut self, now: Instant) -> Option<EngineId> {
        for id in &self.coming {
            let engine = &self.engines[id];
            if engine.state == State::Ready {
                return Some(*id);
            }
            let until = engine.since + PATIENCE;
            if now < until {
                self.patience_ends = Some(until);
                return None;
            }
        }
        None
    }

    fn announce_departures(&mut self, now: Instant, out: &mut Vec<Action>) {
        let due: Vec<Departure> = self
            .departures
            .extract_if(.., |departure| departure.at <= now)
            .collect();
        if due.is_empty() {
            return;
        }
        out.extend(due.iter().map(Departure::notification));
        out.push(Action::SaveEngines);
    }

    /// What is written down for the next controller, and the next id. Those that are still expected are expected by that
    /// one, too.
    pub(super) fn state(&self) -> EngineState {
        let engines = self
            .engines
            .iter()
            .filter(|(_, engine)| engine.expected || engine.state == State::Published);
        let returning = engines.clone().filter(|(_, engine)| engine.returns);
        EngineState {
            returning: returning.map(|(id, _)| *id).collect(),
            engines: engines
                .map(|(id, engine)| (*id, engine.uuid.clone()))
                .collect(),
            next_id: self.next_id,
        }
    }
}
