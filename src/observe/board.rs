//! Everything that is shown, put together from what the controller's threads tell.

mod telling;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::Value;

use super::clients::Clients;
use super::engines::{Current, Engines, Usage};
use super::expected::Expected;
use super::function::{error_of, shortened, title_of};
use super::history::{History, Host, Sample};
use super::stream::{Entry, Status, Stream};
use super::window::{Channel, Output, Reply, Request, Step, Tally, Waiting, Window};
use super::{EngineRow, Histogram};
use crate::protocol::{
    EngineId, EngineUuid, ExpectedSet, Header, Leaving, MsgId, Timestamp, session_of,
};

/// Ended requests that are kept.
pub const STREAM: usize = 20_000;

/// Requests that were followed to an engine and have not ended.
const RUNNING: usize = 100_000;

/// Between two samples.
const SAMPLE: Duration = Duration::from_secs(1);

/// Figures of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub tally: Tally,
    /// Without an engine.
    pub waiting: Waiting,
    /// At engines.
    pub running: u64,
}

/// A followed request that an engine has.
#[derive(Debug)]
struct Running {
    engine: EngineUuid,
    channel: Channel,
    name: Arc<str>,
    label: Option<Arc<str>>,
    client: Arc<str>,
    submitted: Option<i64>,
    sent: i64,
}

/// What pages, metrics and terminals show.
#[derive(Debug)]
pub struct Board {
    start: Instant,
    /// The same moment by the clock.
    started: Timestamp,
    totals: [Totals; 3],
    engines: Engines,
    expected: Expected,
    clients: Clients,
    clients_connected: u64,
    running: HashMap<MsgId, Running>,
    /// What each engine has, in the order in which it was sent.
    at_engine: HashMap<EngineUuid, VecDeque<MsgId>>,
    stream: Stream,
    unfollowed: u64,
    history: History,
    host: Host,
    waits: Histogram,
    runs: Histogram,
    sampled: Sampled,
    /// Up to which entry [`changes`](Self::changes) were told.
    told: u64,
    has_news: bool,
}

/// What the last sample was made of.
#[derive(Clone, Copy, Debug)]
struct Sampled {
    at: Instant,
    tally: Tally,
    cpu_seconds: f64,
}

impl Board {
    pub fn new(start: Instant, started: Timestamp) -> Self {
        Self {
            start,
            started,
            totals: [Totals::default(); 3],
            engines: Engines::default(),
            expected: Expected::default(),
            clients: Clients::default(),
            clients_connected: 0,
            running: HashMap::new(),
            at_engine: HashMap::new(),
            stream: Stream::new(STREAM),
            unfollowed: 0,
            history: History::default(),
            host: Host::default(),
            waits: Histogram::default(),
            runs: Histogram::default(),
            sampled: Sampled {
                at: start,
                tally: Tally::default(),
                cpu_seconds: 0.0,
            },
            told: 0,
            has_news: false,
        }
    }

    /// It has asked to be registered, and is not ready yet.
    pub fn on_engine_starting(
        &mut self,
        now: Instant,
        id: EngineId,
        uuid: &EngineUuid,
        host: Option<String>,
        set: Option<String>,
    ) {
        let now = self.micros(now);
        self.engines.on_starting(now, id, uuid, host, set);
        self.has_news = true;
    }

    /// Somebody starts these sets of engines, and no others any more.
    pub fn on_expected(&mut self, now: Instant, by: String, sets: Vec<ExpectedSet>) {
        self.expected.on_announced(self.micros(now), by, sets);
        self.has_news = true;
    }

    pub fn on_engine_registered(&mut self, now: Instant, id: EngineId, uuid: &EngineUuid) {
        self.engines.on_registered(self.micros(now), id, uuid);
        self.has_news = true;
    }

    pub fn on_engine_left(
        &mut self,
        now: Instant,
        id: EngineId,
        uuid: &EngineUuid,
        how: &str,
        leaving: Leaving,
    ) {
        let now = self.micros(now);
        self.remember_who_came(now);
        self.engines.on_left(now, id, uuid, how, leaving);
        // What becomes of its requests is told for each of them, and perhaps later.
        self.has_news = true;
    }

    /// Also when nobody looks: engines that came and left are not missing.
    fn remember_who_came(&mut self, now: i64) {
        if self.expected.is_incomplete() {
            self.expected.on_there(now, &self.engines.by_set());
        }
    }

    pub fn on_usage(&mut self, uuid: &EngineUuid, usage: Usage) {
        self.engines.on_usage(uuid, usage);
        self.has_news = true;
    }

    pub fn on_output(&mut self, output: &Output) {
        self.engines.on_output(output);
        self.has_news = true;
    }

    pub fn on_client_connected(&mut self) {
        self.clients_connected += 1;
    }

    pub fn on_window(&mut self, now: Instant, window: Window) {
        let at = self.micros(now);
        let index = Channel::ALL.iter().position(|one| *one == window.channel);
        let totals = &mut self.totals[index.expect("all channels are among all channels")];
        totals.tally.add(window.tally);
        totals.waiting = window.look.waiting;
        let loads = window.look.loads.iter();
        totals.running = loads.map(|load| load.pending).sum();
        self.unfollowed += window.unfollowed;
        for (session, tally) in &window.clients {
            self.clients.on_tally(at, session, *tally);
        }
        if window.channel == Channel::Task {
            self.clients.on_waiting(&window.look.clients);
        }
        self.engines.on_window(&window);
        for step in window.steps {
            match step {
                Step::Sent {
                    msg_id,
                    engine,
                    at,
                    request,
                } => self.on_sent(window.channel, msg_id, engine, at, &request),
                Step::Returned { msg_id, at: _ } => self.forget(&msg_id),
                Step::Ended {
                    msg_id,
                    engine,
                    at,
                    status,
                    reply,
                } => self.on_ended(window.channel, msg_id, engine, at, status, &reply),
            }
        }
        self.has_news = true;
    }

    fn on_sent(
        &mut self,
        channel: Channel,
        msg_id: MsgId,
        engine: EngineUuid,
        at: Instant,
        request: &Request,
    ) {
        // One that was sent before and came back without a word.
        self.forget(&msg_id);
        if self.running.len() >= RUNNING {
            self.unfollowed += 1;
            return;
        }
        let sent = self.micros(at);
        let header = Header::parse(&request.header).unwrap_or_default();
        let name: Arc<str> = title_of(request, &header.msg_type).into();
        let client: Arc<str> = match &*header.session {
            "" => session_of(msg_id.as_str()).into(),
            session => session.into(),
        };
        self.clients.on_name(session_of(msg_id.as_str()), &name);
        let running = Running {
            engine: engine.clone(),
            channel,
            name,
            label: label_of(&request.metadata),
            client,
            submitted: self.date(&header.date).map(|date| date.min(sent)),
            sent,
        };
        self.running.insert(msg_id.clone(), running);
        self.at_engine
            .entry(engine.clone())
            .or_default()
            .push_back(msg_id);
        self.show_current(&engine);
    }

    /// A request that no engine has any more.
    fn forget(&mut self, msg_id: &MsgId) {
        if let Some(running) = self.running.remove(msg_id) {
            self.leave_engine(msg_id, &running.engine);
        }
    }

    fn leave_engine(&mut self, msg_id: &MsgId, engine: &EngineUuid) {
        if let Some(at_engine) = self.at_engine.get_mut(engine) {
            if let Some(index) = at_engine.iter().position(|one| one == msg_id) {
                at_engine.remove(index);
            }
            if at_engine.is_empty() {
                self.at_engine.remove(engine);
            }
        }
        self.show_current(engine);
    }

    /// An engine works on what it was sent first.
    fn show_current(&mut self, engine: &EngineUuid) {
        let first = self.at_engine.get(engine).and_then(VecDeque::front);
        let current = first.and_then(|msg_id| {
            let running = self.running.get(msg_id)?;
            Some(Current {
                msg_id: msg_id.clone(),
                name: running.name.clone(),
                label: running.label.clone(),
                since: running.sent,
            })
        });
        self.engines.on_current(engine, current);
    }

    fn on_ended(
        &mut self,
        channel: Channel,
        msg_id: MsgId,
        engine: Option<EngineUuid>,
        at: Instant,
        status: Status,
        reply: &Reply,
    ) {
        let ended = self.micros(at);
        let running = self.running.remove(&msg_id);
        if let Some(running) = &running {
            self.leave_engine(&msg_id, &running.engine.clone());
        }
        let engine = engine.or_else(|| running.as_ref().map(|running| running.engine.clone()));
        let sent = running.as_ref().map_or(ended, |running| running.sent);
        // The engine's clock may be another's: only how long it took is taken from it.
        let started = match self.took(reply) {
            Some(took) => (ended - took).max(sent).min(ended),
            None => sent,
        };
        let running = running.unwrap_or_else(|| Running {
            engine: EngineUuid::from(""),
            channel,
            name: "?".into(),
            label: label_of(&reply.metadata),
            client: session_of(msg_id.as_str()).into(),
            submitted: None,
            sent,
        });
        if status == Status::Ok {
            self.runs.add(micros(ended - started));
            if let Some(submitted) = running.submitted {
                self.waits.add(micros(started - submitted));
                self.history.on_duration(ended - submitted);
            }
        }
        self.stream.push(Entry {
            seq: 0,
            engine: engine.and_then(|uuid| self.engines.id_of(&uuid)),
            msg_id,
            channel: running.channel,
            name: running.name,
            label: running.label,
            client: running.client,
            submitted: running.submitted,
            started,
            ended,
            status,
            error: error_of(&reply.content),
        });
    }

    /// Microseconds from the beginning of the work to the reply, both by the engine's clock.
    fn took(&self, reply: &Reply) -> Option<i64> {
        #[derive(Deserialize)]
        struct Metadata<'a> {
            #[serde(borrow, default)]
            started: Option<std::borrow::Cow<'a, str>>,
        }
        let metadata: Metadata<'_> = serde_json::from_slice(&reply.metadata).ok()?;
        let header = Header::parse(&reply.header).ok()?;
        let (started, ended) = (self.date(&metadata.started?)?, self.date(&header.date)?);
        (ended >= started).then_some(ended - started)
    }

    /// Takes a sample, if it is time.
    pub fn on_time(&mut self, now: Instant, host: impl FnOnce() -> Host) {
        let passed = now.saturating_duration_since(self.sampled.at);
        if passed < SAMPLE {
            return;
        }
        self.host = host();
        let seconds = passed.as_secs_f64();
        let mut tally = Tally::default();
        for totals in &self.totals {
            tally.add(totals.tally);
        }
        self.remember_who_came(self.micros(now));
        self.engines.on_time(self.micros(now));
        self.expected.on_time(self.micros(now));
        let before = self.sampled;
        let rate = |now: u64, before: u64| (now - before) as f64 / seconds;
        let known = |figure: fn(&Usage) -> Option<f64>| {
            let figures = self.engines.up().filter_map(|row| figure(&row.usage));
            figures.sum::<f64>()
        };
        let sample = Sample {
            at: self.micros(now),
            submitted: rate(tally.submitted, before.tally.submitted),
            ok: rate(tally.ok, before.tally.ok),
            failed: rate(
                tally.failed + tally.aborted,
                before.tally.failed + before.tally.aborted,
            ),
            waiting: self.totals.iter().map(|totals| totals.waiting.all()).sum(),
            running: self.totals.iter().map(|totals| totals.running).sum(),
            engines: self.engines.up().count() as u64,
            busy: self.engines.up().filter(|row| row.is_busy()).count() as u64,
            cpu: ((self.host.cpu_seconds - before.cpu_seconds) / seconds).max(0.0),
            memory: self.host.memory,
            kernels_cpu: known(|usage| usage.cpu),
            kernels_memory: known(|usage| usage.memory.map(|bytes| bytes as f64)) as u64,
            ..Sample::default()
        };
        self.history.push(sample);
        self.sampled = Sampled {
            at: now,
            tally,
            cpu_seconds: self.host.cpu_seconds,
        };
        self.has_news = true;
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub fn next_deadline(&self) -> Instant {
        self.sampled.at + SAMPLE
    }

    pub fn totals(&self) -> impl Iterator<Item = (Channel, Totals)> {
        Channel::ALL.into_iter().zip(self.totals)
    }

    /// Those that are registered.
    pub fn engines(&self) -> impl Iterator<Item = &EngineRow> {
        self.engines.up()
    }

    /// Those that are shown: also engines that are starting, and for a while those that have died.
    pub fn rows(&self) -> impl Iterator<Item = &EngineRow> {
        self.engines.all()
    }

    pub fn engine(&self, id: EngineId) -> Option<&EngineRow> {
        self.engines.get(id)
    }

    /// Engines that ever registered, and that ever left.
    pub fn registrations(&self) -> (u64, u64) {
        (self.engines.registered, self.engines.left)
    }

    pub fn clients_connected(&self) -> u64 {
        self.clients_connected
    }

    pub fn unfollowed(&self) -> u64 {
        self.unfollowed
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Requests that are followed and have not ended.
    pub fn followed(&self) -> usize {
        self.running.len()
    }

    pub fn host(&self) -> Host {
        self.host
    }

    /// From submission, by the client's clock, to the start of work; and from there to the end. Of followed requests that
    /// succeeded.
    pub fn durations(&self) -> (&Histogram, &Histogram) {
        (&self.waits, &self.runs)
    }

    /// Each followed request is at one engine, in its order, and the engine shows the first.
    #[cfg(test)]
    pub(super) fn sanity_check(&self) {
        let listed: usize = self.at_engine.values().map(VecDeque::len).sum();
        assert_eq!(listed, self.running.len());
        for (engine, at_engine) in &self.at_engine {
            assert!(!at_engine.is_empty());
            for msg_id in at_engine {
                assert_eq!(self.running[msg_id].engine, *engine);
            }
        }
        for row in self.engines.up() {
            let first = self.at_engine.get(&row.uuid).and_then(VecDeque::front);
            assert_eq!(row.current.as_ref().map(|current| &current.msg_id), first);
        }
        assert!(self.stream.len() <= STREAM && self.running.len() <= RUNNING);
    }

    /// Microseconds since the beginning.
    fn micros(&self, at: Instant) -> i64 {
        let passed = at.saturating_duration_since(self.start);
        i64::try_from(passed.as_micros()).unwrap_or(i64::MAX)
    }

    fn date(&self, text: &str) -> Option<i64> {
        let date = Timestamp::parse(text, &TimeZone::UTC)?;
        date.as_micros().checked_sub(self.started.as_micros())
    }
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn label_of(metadata: &[u8]) -> Option<Arc<str>> {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        label: Value,
    }
    let metadata: Metadata = serde_json::from_slice(metadata).ok()?;
    let text = match metadata.label {
        Value::Null => return None,
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => text,
        other => other.to_string(),
    };
    Some(shortened(&text).into())
}
