//! What is shown, and the pages that are open.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

use super::About;
use crate::controller::Sighting;
use crate::observe::{Board, Host, Phase};
use crate::os::{log, memory};
use crate::protocol::{EngineId, EngineUuid, Timestamp};
use crate::transport::Mailbox;

/// Pages that are fed at once.
const PAGES: usize = 64;

/// Messages that wait for a page that reads slowly; one that falls behind is told everything anew when it has caught up.
const WAITING: usize = 8;

/// A page that has taken nothing for so long is closed.
const DEAF: Duration = Duration::from_secs(60);

/// Between two messages to pages.
const PAUSE: Duration = Duration::from_millis(250);

/// The same with so many engines that a message is large.
const LONG_PAUSE: Duration = Duration::from_secs(1);
const MANY_ENGINES: u64 = 200;

pub(super) struct Feed {
    board: Board,
    mailbox: Option<Mailbox<Sighting>>,
    about: About,
    pages: Vec<Page>,
    /// Up to which line of the log pages were told.
    logged: u64,
    sent: Instant,
}

struct Page {
    events: Sender<Bytes>,
    is_behind: bool,
    /// When it last took something.
    took: Instant,
}

impl Feed {
    pub(super) fn new(mailbox: Mailbox<Sighting>, about: About) -> Self {
        let now = Instant::now();
        Self {
            board: Board::new(now, Timestamp::from(SystemTime::now())),
            mailbox: Some(mailbox),
            about,
            pages: Vec::new(),
            logged: log::tail().map_or(0, |tail| tail.total()),
            sent: now,
        }
    }

    /// Takes what is told, until the controller ends.
    pub(super) async fn run(feed: Rc<RefCell<Self>>) -> io::Result<()> {
        let mailbox = feed.borrow_mut().mailbox.take();
        let Some(mut mailbox) = mailbox else {
            return Ok(());
        };
        // SAFETY: the mailbox, whose descriptor it is, lives as long as this call.
        let fd = unsafe { BorrowedFd::borrow_raw(mailbox.fd()) };
        let own = fd.try_clone_to_owned()?;
        // SAFETY: the descriptor belongs to what waits for it, which closes it when it waits no more.
        let readable = unsafe { AsyncFd::register(own)? };
        let mut sightings = Vec::new();
        loop {
            while mailbox.take(&mut sightings) {
                let mut feed = feed.borrow_mut();
                for sighting in sightings.drain(..) {
                    if matches!(sighting, Sighting::Stop) {
                        return Ok(());
                    }
                    feed.on_sighting(sighting);
                }
            }
            let next = feed.borrow_mut().on_time();
            tokio::select! {
                guard = readable.readable() => guard?.clear_ready(),
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    fn on_sighting(&mut self, sighting: Sighting) {
        match sighting {
            Sighting::Window(window) => self.board.on_window(Instant::now(), *window),
            Sighting::EngineStarting {
                at,
                id,
                uuid,
                host,
                set,
            } => self.board.on_engine_starting(at, id, &uuid, host, set),
            Sighting::Expected { by, sets } => self.board.on_expected(Instant::now(), by, sets),
            Sighting::EngineRegistered { at, id, uuid } => {
                self.board.on_engine_registered(at, id, &uuid);
            }
            Sighting::EngineLeft {
                at,
                id,
                uuid,
                how,
                leaving,
            } => {
                self.board.on_engine_left(at, id, &uuid, &how, leaving);
            }
            Sighting::Usage { uuid, usage } => self.board.on_usage(&uuid, usage),
            Sighting::ClientConnected => self.board.on_client_connected(),
            Sighting::Outputs(outputs) => {
                for output in outputs {
                    self.board.on_output(&output);
                }
            }
            Sighting::Stop => {}
        }
    }

    /// Takes samples and tells pages; when there is something to do again.
    fn on_time(&mut self) -> Instant {
        let now = Instant::now();
        self.board.on_time(now, this_process);
        let sample = self.board.next_deadline();
        self.pages.retain(|page| !page.events.is_closed());
        if self.pages.is_empty() {
            return sample;
        }
        let many = self.board.engines().count() as u64 > MANY_ENGINES;
        let pause = if many { LONG_PAUSE } else { PAUSE };
        if now >= self.sent + pause {
            self.sent = now;
            self.tell(now);
        }
        sample.min(self.sent + pause)
    }

    fn tell(&mut self, now: Instant) {
        let lines = self.log_lines(self.logged);
        self.logged = log::tail().map_or(0, |tail| tail.total());
        let changes = self.board.changes(now);
        let message = match (changes, lines.is_empty()) {
            (None, true) => None,
            (changes, _) => {
                let mut message = changes
                    .unwrap_or_else(|| Map::from_iter([("kind".to_owned(), json!("changes"))]));
                message.insert("log".to_owned(), lines.into());
                Some(event(&message))
            }
        };
        let mut pages = std::mem::take(&mut self.pages);
        // Those that were behind all get the same.
        let mut state: Option<Bytes> = None;
        pages.retain_mut(|page| {
            let next = if !page.is_behind {
                message.clone()
            } else if page.events.capacity() == WAITING {
                let all = state.get_or_insert_with(|| event(&self.state(None)));
                Some(all.clone())
            } else {
                None
            };
            let Some(next) = next else {
                return !page.is_behind || now < page.took + DEAF;
            };
            match page.events.try_send(next) {
                Ok(()) => (page.is_behind, page.took) = (false, now),
                Err(TrySendError::Full(_)) => page.is_behind = true,
                Err(TrySendError::Closed(_)) => return false,
            }
            true
        });
        self.pages = pages;
    }

    /// A new page, which is told everything first; nothing if there are too many.
    pub(super) fn open(&mut self) -> Option<Receiver<Bytes>> {
        self.pages.retain(|page| !page.events.is_closed());
        if self.pages.len() >= PAGES {
            return None;
        }
        let (events, receiver) = channel(WAITING);
        // There is room for it.
        let _ = events.try_send(event(&self.state(None)));
        self.pages.push(Page {
            events,
            is_behind: false,
            took: Instant::now(),
        });
        Some(receiver)
    }

    /// Everything that is shown. `stream`: ended requests at most.
    pub(super) fn state(&self, stream: Option<usize>) -> Map<String, Value> {
        let mut state = self.board.state(Instant::now(), stream);
        let about = json!({
            "profile": self.about.profile,
            "cluster_id": self.about.cluster_id,
            "database": self.about.database,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
        });
        state.insert("about".to_owned(), about);
        state.insert("log".to_owned(), self.log_lines(0).into());
        state
    }

    /// Lines from this one on: `[number, milliseconds since 1970, level, component, text]`.
    fn log_lines(&self, from: u64) -> Vec<Value> {
        let Some(tail) = log::tail() else {
            return Vec::new();
        };
        tail.since(from)
            .into_iter()
            .map(|line| {
                json!([
                    line.number,
                    line.at_ms,
                    line.level,
                    line.component,
                    line.text
                ])
            })
            .collect()
    }

    pub(super) fn metrics(&self) -> String {
        crate::observe::render_metrics(&self.board, env!("CARGO_PKG_VERSION"), self.pages.len())
    }

    /// An engine that can be told something: those that start, and those that have died, cannot.
    pub(super) fn engine(&self, id: u32) -> Option<EngineUuid> {
        let row = self.board.engine(EngineId(id))?;
        (row.phase == Phase::Up).then(|| row.uuid.clone())
    }

    /// The newest ended request with this id, as far as it is remembered.
    pub(super) fn ended(&self, msg_id: &str) -> Option<Value> {
        Some(self.board.stream().find(msg_id)?.to_json())
    }
}

/// A server-sent event.
fn event(message: &Map<String, Value>) -> Bytes {
    let json = serde_json::to_string(message).expect("a map of JSON values is JSON");
    format!("data: {json}\n\n").into()
}

fn this_process() -> Host {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    let seconds = |time: nix::sys::time::TimeVal| {
        use nix::sys::time::TimeValLike;
        time.num_microseconds() as f64 / 1e6
    };
    Host {
        cpu_seconds: usage.map_or(0.0, |usage| {
            seconds(usage.user_time()) + seconds(usage.system_time())
        }),
        memory: memory::taken().map_or(0, |bytes| bytes as u64),
    }
}
