//! Who answers pings and who has stopped. Pure.
//!
//! Engines listen to a PUB socket and echo each ping through a DEALER whose routing id is their uuid
//! (ipyparallel `heartmonitor.py`). Beyond the original's beat every `period`:
//!
//! - a ping goes out as soon as somebody new listens, so that a registration takes milliseconds, not a period;
//! - a connection that ends is a hint: a local engine that does not come back within [`COME_BACK`] has stopped. An
//!   engine that is only slow or stopped by a signal keeps its connection, and has until the limit of missed beats;
//! - an engine behind a tunnel has twice as long: when the way has been interrupted, ssh's connection hears so only at the
//!   system's next attempt, and each comes after twice the time of the one before it;
//! - any other on another machine has [`RETURN`] longer, though never more than half as long again, for it connects anew
//!   itself: a silence of as many beats as may be missed is outlived, and not only if the rest goes quickly.

use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::protocol::Identity;

/// Pings for new listeners are held this long, so that a crowd of them shares one.
const GATHER: Duration = Duration::from_millis(5);

/// And this much longer for each heart that beats, since each of them echoes the ping as well: thousands of engines that
/// register at the same time would otherwise be busy with the hearts of those before them.
const GATHER_PER_HEART: Duration = Duration::from_micros(20);

/// Time that a local engine has to connect again when its connection ended. It tries every 100 to 200 ms.
pub const COME_BACK: Duration = Duration::from_millis(600);

/// Time that an engine on another machine has to connect again and to be pinged when the way to it is open again: an attempt
/// that meets a closed one is given up after 2 s.
pub const RETURN: Duration = Duration::from_secs(5);

/// Between the pings that ask an engine whose connection ended.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Hearts that the hub does not know, such as those of engines it has dropped; more are not remembered.
const MAX_STRANGERS: usize = 10_000;

#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Between two beats.
    pub period: Duration,
    /// Beats in a row that an engine may miss.
    pub max_misses: u32,
}

impl Config {
    /// Beats in a row that this one may miss.
    fn allowed(&self, heart: &Heart) -> u32 {
        let beats = self.max_misses;
        if heart.is_tunneled {
            return beats.saturating_mul(2);
        }
        if heart.local {
            return beats;
        }
        let returning = RETURN.as_nanos().div_ceil(self.period.as_nanos().max(1));
        let returning = u32::try_from(returning).unwrap_or(u32::MAX);
        // Who wants to know soon is not kept waiting for long.
        beats.saturating_add(returning.min(beats.div_ceil(2)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish this ping.
    Ping(Vec<u8>),
    /// A heart beats for the first time.
    Started(Identity),
    /// A heart that had been accepted has stopped; the text says how that was known.
    Stopped(Identity, String),
}

/// What a heart's connection is known by: a number that no other has.
pub type Connection = u64;

#[derive(Debug)]
struct Heart {
    /// The hub has an engine of this uuid.
    accepted: bool,
    /// Answered a ping since the last beat.
    responded: bool,
    misses: u32,
    connection: Option<Connection>,
    /// On the controller's own host.
    local: bool,
    is_tunneled: bool,
}

#[derive(Debug)]
pub struct HeartMonitor {
    config: Config,
    hearts: HashMap<Identity, Heart>,
    by_connection: HashMap<Connection, Identity>,
    /// Hearts whose connection ended, and until when they have to come back.
    lost: HashMap<Identity, Instant>,
    strangers: usize,
    count: u64,
    next_beat: Instant,
    extra_ping: Option<Instant>,
}

impl HeartMonitor {
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            hearts: HashMap::new(),
            by_connection: HashMap::new(),
            lost: HashMap::new(),
            strangers: 0,
            count: 0,
            next_beat: now + config.period,
            extra_ping: None,
        }
    }

    /// A new listener: it is pinged without waiting for the next beat.
    pub fn on_subscribed(&mut self, now: Instant) {
        let hearts = u32::try_from(self.hearts.len()).unwrap_or(u32::MAX);
        self.ask_at(now + GATHER + GATHER_PER_HEART * hearts);
    }

    /// An echo. Any of this monitor's pings will do: a late answer is a sign of life too.
    pub fn on_pong(
        &mut self,
        identity: Identity,
        payload: &[u8],
        connection: Option<Connection>,
        local: bool,
        out: &mut Vec<Action>,
    ) {
        if !self.is_ours(payload) {
            return;
        }
        if let Some(heart) = self.hearts.get_mut(&identity) {
            heart.responded = true;
            heart.misses = 0;
            self.lost.remove(&identity);
            heart.local = local;
            if heart.connection != connection {
                if let Some(old) = heart.connection {
                    self.by_connection.remove(&old);
                }
                heart.connection = connection;
                self.by_connection
                    .extend(connection.map(|connection| (connection, identity)));
            }
            return;
        }
        if self.strangers >= MAX_STRANGERS {
            return;
        }
        self.strangers += 1;
        self.by_connection
            .extend(connection.map(|connection| (connection, identity.clone())));
        let heart = Heart {
            accepted: false,
            responded: true,
            misses: 0,
            connection,
            local,
            is_tunneled: false,
        };
        self.hearts.insert(identity.clone(), heart);
        out.push(Action::Started(identity));
    }

    /// An engine registers under this uuid. Its heart may have been beating for long, when the controller is new and
    /// the engine is not: then its beginning is reported again. An engine that the hub has asks when its connections were
    /// down: it lives, and that of its heart may be the last to be up again.
    pub fn expect(&mut self, identity: &Identity, out: &mut Vec<Action>) {
        match self.hearts.get(identity) {
            Some(heart) if heart.accepted => {
                self.lost.remove(identity);
            }
            Some(_) => out.push(Action::Started(identity.clone())),
            None => {}
        }
    }

    /// The hub has an engine of this uuid: its end will be reported, also if it has stopped since its beginning was.
    pub fn accept(&mut self, identity: &Identity, is_tunneled: bool, out: &mut Vec<Action>) {
        match self.hearts.get_mut(identity) {
            Some(heart) if heart.accepted => {}
            Some(heart) => {
                heart.accepted = true;
                heart.is_tunneled = is_tunneled;
                self.strangers -= 1;
            }
            None => {
                let how = "its heart stopped as it registered".to_owned();
                out.push(Action::Stopped(identity.clone(), how));
            }
        }
    }

    /// The engine has left. Should its heart go on, it is a stranger's, reported once more.
    pub fn forget(&mut self, identity: &Identity) {
        self.lost.remove(identity);
        if let Some(heart) = self.hearts.remove(identity) {
            self.strangers -= usize::from(!heart.accepted);
            if let Some(connection) = heart.connection {
                self.by_connection.remove(&connection);
            }
        }
    }

    /// A connection to the pong socket ended.
    pub fn on_disconnected(&mut self, now: Instant, connection: Connection) {
        let Some(identity) = self.by_connection.remove(&connection) else {
            return;
        };
        let Some(heart) = self.hearts.get_mut(&identity) else {
            return;
        };
        heart.connection = None;
        if heart.local {
            self.lost.insert(identity, now + COME_BACK);
        }
        self.ask_at(now + GATHER);
    }

    pub fn next_deadline(&self) -> Instant {
        let lost = self.lost.values().min().copied();
        [self.extra_ping, lost]
            .into_iter()
            .flatten()
            .fold(self.next_beat, Instant::min)
    }

    pub fn on_time(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.end_lost(now, out);
        if now >= self.next_beat {
            self.beat(out);
            // After a pause of the whole machine, beats are not made up for.
            self.next_beat =
                (self.next_beat + self.config.period).max(now + self.config.period / 2);
        } else if self.extra_ping.is_some_and(|at| now >= at) {
            self.extra_ping = None;
            self.ping(out);
            if !self.lost.is_empty() {
                self.ask_at(now + ASK_AGAIN);
            }
        }
    }

    fn end_lost(&mut self, now: Instant, out: &mut Vec<Action>) {
        let lost: Vec<_> = self
            .lost
            .iter()
            .filter(|(_, until)| now >= **until)
            .map(|(identity, _)| identity.clone())
            .collect();
        for identity in lost {
            self.stop(&identity, "its connection closed".to_owned(), out);
        }
    }

    fn beat(&mut self, out: &mut Vec<Action>) {
        let mut stopped = Vec::new();
        for (identity, heart) in &mut self.hearts {
            if !std::mem::take(&mut heart.responded) {
                heart.misses += 1;
                if heart.misses > self.config.allowed(heart) {
                    stopped.push((identity.clone(), heart.misses));
                }
            }
        }
        for (identity, misses) in stopped {
            self.stop(&identity, format!("it missed {misses} heartbeats"), out);
        }
        self.ping(out);
    }

    fn stop(&mut self, identity: &Identity, how: String, out: &mut Vec<Action>) {
        let accepted = self
            .hearts
            .get(identity)
            .is_some_and(|heart| heart.accepted);
        self.forget(identity);
        if accepted {
            out.push(Action::Stopped(identity.clone(), how));
        }
    }

    fn ping(&mut self, out: &mut Vec<Action>) {
        self.count += 1;
        out.push(Action::Ping(self.count.to_string().into_bytes()));
    }

    fn ask_at(&mut self, at: Instant) {
        self.extra_ping = Some(self.extra_ping.map_or(at, |earlier| earlier.min(at)));
    }

    fn is_ours(&self, payload: &[u8]) -> bool {
        let count: Option<u64> = std::str::from_utf8(payload)
            .ok()
            .and_then(|text| text.parse().ok());
        count.is_some_and(|count| count >= 1 && count <= self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config {
        period: Duration::from_secs(3),
        max_misses: 2,
    };

    struct World {
        monitor: HeartMonitor,
        now: Instant,
        out: Vec<Action>,
        last_ping: Vec<u8>,
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                monitor: HeartMonitor::new(CONFIG, now),
                now,
                out: Vec::new(),
                last_ping: Vec::new(),
            }
        }

        /// Lets time pass up to the next deadline, and returns what happened but for pings.
        fn step(&mut self) -> Vec<Action> {
            self.now = self.now.max(self.monitor.next_deadline());
            self.monitor.on_time(self.now, &mut self.out);
            self.events()
        }

        fn events(&mut self) -> Vec<Action> {
            let mut events = Vec::new();
            for action in self.out.drain(..) {
                match action {
                    Action::Ping(payload) => self.last_ping = payload,
                    other => events.push(other),
                }
            }
            events
        }

        fn pong(&mut self, name: &str, connection: Connection) -> Vec<Action> {
            let payload = self.last_ping.clone();
            self.monitor.on_pong(
                identity(name),
                &payload,
                Some(connection),
                true,
                &mut self.out,
            );
            self.events()
        }
    }

    fn identity(name: &str) -> Identity {
        Identity::from(name.as_bytes())
    }

    #[test]
    fn a_heart_that_stops_before_it_is_accepted_is_reported_when_it_is() {
        let mut world = World::new();
        world.monitor.on_subscribed(world.now);
        world.step();
        assert_eq!(world.pong("a", 7), [Action::Started(identity("a"))]);
        world.monitor.on_disconnected(world.now, 7);
        world.now += COME_BACK;
        assert_eq!(world.step(), [], "the hub did not have it yet");
        world.monitor.accept(&identity("a"), false, &mut world.out);
        assert!(
            matches!(&world.events()[..], [Action::Stopped(heart, _)] if *heart == identity("a"))
        );
    }

    #[test]
    fn a_new_listener_is_pinged_at_once_and_its_heart_starts() {
        let mut world = World::new();
        let start = world.now;
        world.monitor.on_subscribed(world.now);
        world.monitor.on_subscribed(world.now);
        world.step();
        assert_eq!(world.last_ping, b"1");
        assert!(world.now - start < Duration::from_millis(10));
        assert_eq!(world.pong("a", 5), [Action::Started(identity("a"))]);
        assert_eq!(world.pong("a", 5), []);
    }

    #[test]
    fn silence_beyond_the_limit_stops_an_accepted_heart() {
        let mut world = World::new();
        world.step();
        world.pong("a", 5);
        world.pong("stranger", 6);
        world.monitor.accept(&identity("a"), false, &mut world.out);
        let beats: Vec<_> = (0..4).map(|_| world.step()).collect();
        assert!(beats[..3].iter().all(Vec::is_empty), "{beats:?}");
        assert!(
            matches!(&beats[3][..], [Action::Stopped(who, _)] if *who == identity("a")),
            "{beats:?}"
        );
        assert!(world.monitor.hearts.is_empty() && world.monitor.by_connection.is_empty());
        assert_eq!(world.monitor.strangers, 0);
    }

    #[test]
    fn a_local_heart_whose_connection_ends_stops_within_a_second() {
        let mut world = World::new();
        world.step();
        world.pong("a", 5);
        world.monitor.accept(&identity("a"), false, &mut world.out);
        let lost_at = world.now;
        world.monitor.on_disconnected(world.now, 5);
        let stopped = std::iter::repeat_with(|| world.step())
            .find(|events| !events.is_empty())
            .unwrap();
        assert!(matches!(&stopped[..], [Action::Stopped(..)]));
        assert!(world.now - lost_at < Duration::from_secs(1));
    }

    #[test]
    fn behind_a_tunnel_twice_as_many_beats_may_be_missed() {
        for (is_tunneled, beats) in [(false, 4), (true, 6)] {
            let mut world = World::new();
            world.step();
            world.pong("a", 5);
            world
                .monitor
                .accept(&identity("a"), is_tunneled, &mut world.out);
            let missed = std::iter::repeat_with(|| world.step())
                .position(|events| !events.is_empty())
                .unwrap();
            assert_eq!(missed + 1, beats);
        }
    }

    #[test]
    fn an_engine_elsewhere_has_the_time_to_connect_again() {
        for (config, beats) in [
            (CONFIG, 4 + 1),
            (
                Config {
                    period: Duration::from_secs(3),
                    max_misses: 10,
                },
                12 + 2,
            ),
        ] {
            let mut world = World::new();
            world.monitor = HeartMonitor::new(config, world.now);
            world.step();
            let payload = world.last_ping.clone();
            world
                .monitor
                .on_pong(identity("a"), &payload, None, false, &mut world.out);
            world.monitor.accept(&identity("a"), false, &mut world.out);
            world.events();
            let missed = std::iter::repeat_with(|| world.step())
                .position(|events| !events.is_empty())
                .unwrap();
            assert_eq!(missed + 1, beats);
        }
    }

    #[test]
    fn a_heart_that_connects_again_lives_on() {
        let mut world = World::new();
        world.step();
        world.pong("a", 5);
        world.monitor.accept(&identity("a"), false, &mut world.out);
        world.monitor.on_disconnected(world.now, 5);
        world.step();
        assert_eq!(world.pong("a", 7), []);
        for _ in 0..10 {
            assert_eq!(world.step(), []);
            world.pong("a", 7);
        }
        world.monitor.on_disconnected(world.now, 5);
        assert!(
            world.monitor.lost.is_empty(),
            "an old descriptor means nothing"
        );
    }

    #[test]
    fn an_engine_that_asks_for_its_registration_again_is_alive() {
        let mut world = World::new();
        world.step();
        world.pong("a", 5);
        world.monitor.accept(&identity("a"), false, &mut world.out);
        world.monitor.on_disconnected(world.now, 5);
        world.monitor.expect(&identity("a"), &mut world.out);
        let lost_at = world.now;
        let stopped = std::iter::repeat_with(|| world.step()).find(|events| !events.is_empty());
        // Its heart has as long as any other to beat.
        assert!(
            matches!(&stopped.unwrap()[..], [Action::Stopped(_, how)] if how.contains("missed"))
        );
        assert!(world.now - lost_at > CONFIG.period);
    }

    #[test]
    fn a_heart_that_has_been_beating_is_reported_when_its_engine_registers() {
        let mut world = World::new();
        world.step();
        world.monitor.expect(&identity("a"), &mut world.out);
        assert_eq!(world.events(), []);
        assert_eq!(world.pong("a", 5), [Action::Started(identity("a"))]);
        world.monitor.expect(&identity("a"), &mut world.out);
        assert_eq!(world.events(), [Action::Started(identity("a"))]);
        world.monitor.accept(&identity("a"), false, &mut world.out);
        world.monitor.expect(&identity("a"), &mut world.out);
        assert_eq!(world.events(), []);
    }

    #[test]
    fn echoes_of_pings_that_were_never_sent_are_nobodys_heart() {
        let mut world = World::new();
        world.step();
        for payload in [&b"0"[..], b"2", b"-1", b"x", b"\xff", b""] {
            world
                .monitor
                .on_pong(identity("a"), payload, None, true, &mut world.out);
        }
        assert_eq!(world.events(), []);
        assert!(world.monitor.hearts.is_empty());
    }

    #[test]
    fn strangers_are_bounded() {
        let mut world = World::new();
        world.step();
        for n in 0..2 * MAX_STRANGERS as u64 {
            world.pong(&n.to_string(), n);
        }
        assert_eq!(world.monitor.hearts.len(), MAX_STRANGERS);
    }
}
