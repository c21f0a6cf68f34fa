//! The task database's thread: takes note of traffic, and answers questions about records, in the order in which they
//! come. Storage that is slow holds nobody up but those who ask it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;

use super::backlog::Backlog;
use super::delay::DelayMeter;
use super::mail::{HubMail, SchedulerMail};
use super::questions::Place;
use super::reader_thread::{ReaderMail, answer_request};
use super::replies::now;
use super::storage_health::{RETRY, StorageHealth, StorageReport};
use crate::hub::recorder::{Ask, Behind, Lookup, Recorder, Restored, StoredMessage, Traffic};
use crate::hub::{Request, StorageFault};
use crate::protocol::wire::Layout;
use crate::protocol::{Composer, DELIMITER, EngineId, EngineUuid, Timestamp};
use crate::taskdb::{Queue, StoreError, TaskStore};
use crate::transport::{Frame, Mailbox, Poller, Sender, time_left};

/// Does a client send a request for the first time? What is queued again has its record already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fresh {
    Yes,
    No,
}

/// A resubmitted task's reply goes to nobody: this is no client's routing id, which never begins with a zero and a
/// letter.
pub(super) const NOBODY: &[u8] = b"\0nobody";

/// Changes that come within this time are stored together. Twice of it is what a kill of the controller may lose: a
/// request that is unfinished may wait once more, so that a task which is done within it is written once.
const GATHER: Duration = Duration::from_millis(50);

/// Between two looks at the limits of a database.
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);

/// The same while nothing is recorded.
const MAINTAIN_IDLE: Duration = Duration::from_secs(60);

/// Reports that are taken note of between two looks at the clock.
const PIECE: usize = 256;

/// To the recorder's thread.
#[derive(Debug)]
pub(super) enum RecorderMail {
    Traffic {
        traffic: Traffic,
        /// When it was gathered, or what was gathered with it.
        since: Instant,
    },
    Ask {
        request: Request,
        engines: Vec<(EngineId, EngineUuid)>,
        place: Place,
    },
    Stop,
}

/// A scheduler's way to the recorder. Traffic is gathered and handed over once per round.
#[derive(Debug)]
pub(super) struct Reporter {
    recorder: Sender<RecorderMail>,
    gathered: Vec<RecorderMail>,
    gathered_bytes: u64,
    /// When the first of it came.
    gathered_since: Option<Instant>,
    backlog: Arc<Backlog>,
}

/// A clone has gathered nothing yet.
impl Clone for Reporter {
    fn clone(&self) -> Self {
        Self::new(self.recorder.clone(), self.backlog.clone())
    }
}

impl Reporter {
    pub(super) fn new(recorder: Sender<RecorderMail>, backlog: Arc<Backlog>) -> Self {
        Self {
            recorder,
            gathered: Vec::new(),
            gathered_bytes: 0,
            gathered_since: None,
            backlog,
        }
    }

    pub(super) fn report(&mut self, traffic: Traffic) {
        self.gathered_bytes += traffic.bytes();
        let since = *self.gathered_since.get_or_insert_with(Instant::now);
        self.gathered.push(RecorderMail::Traffic { traffic, since });
    }

    pub(super) fn hand_over(&mut self) {
        if !self.gathered.is_empty() {
            let bytes = std::mem::take(&mut self.gathered_bytes);
            let now = Instant::now();
            let since = self.gathered_since.take().unwrap_or(now);
            let reports = self.gathered.len();
            self.backlog.on_handed_over(now, since, reports, bytes);
            self.recorder.send_all(self.gathered.drain(..));
        }
    }

    /// Storage is so far behind that no new requests are taken in until it has caught up.
    pub(super) fn is_behind(&self) -> bool {
        self.backlog.is_full()
    }
}

/// However its thread ends, what it has reported is handed over.
impl Drop for Reporter {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// The parts of a message, to be kept. Large frames are shared; small ones are copied together.
pub(super) fn stored(frames: &[Frame], layout: Layout) -> StoredMessage {
    const SMALL: usize = 4 * 1024;
    let parts = [
        layout.header(),
        layout.parent_header(),
        layout.metadata(),
        layout.content(),
    ];
    let all = || {
        parts
            .into_iter()
            .chain(layout.buffers())
            .map(|index| &frames[index])
    };
    let mut block = Vec::with_capacity(
        all()
            .map(|frame| frame.len())
            .filter(|len| *len < SMALL)
            .sum(),
    );
    for frame in all().filter(|frame| frame.len() < SMALL) {
        block.extend_from_slice(frame);
    }
    let mut block = bytes::Bytes::from(block);
    let mut kept = all()
        .map(|frame| {
            if frame.len() < SMALL {
                block.split_to(frame.len())
            } else {
                frame.to_bytes()
            }
        })
        .collect::<Vec<_>>()
        .into_iter();
    let mut next = || kept.next().expect("a layout has these four parts");
    let (header, parent_header, metadata, content) = (next(), next(), next(), next());
    StoredMessage {
        header,
        parent_header,
        metadata,
        content,
        buffers: kept.collect(),
    }
}

pub(super) struct RecorderThread<S> {
    recorder: Recorder<S>,
    composer: Composer,
    hub: Sender<HubMail>,
    task: Sender<SchedulerMail>,
    mailbox: Mailbox<RecorderMail>,
    backlog: Arc<Backlog>,
    /// Threads that answer what takes its time: what is asked for by id, and queries. None where the store has no readers.
    readers: Option<Readers>,
    health: StorageHealth,
    delay: DelayMeter,
    /// What the hub was told last.
    told: Option<StorageFault>,
    flush_at: Option<Instant>,
    maintain_at: Option<Instant>,
}

/// Ways to the threads that answer questions.
#[derive(Debug)]
pub(super) struct Readers {
    pub(super) by_id: Sender<ReaderMail>,
    pub(super) queries: Sender<ReaderMail>,
}

impl<S: TaskStore> RecorderThread<S> {
    pub(super) fn new(
        store: S,
        composer: Composer,
        hub: Sender<HubMail>,
        task: Sender<SchedulerMail>,
        mailbox: Mailbox<RecorderMail>,
        backlog: Arc<Backlog>,
    ) -> Self {
        let recorder = Recorder::new(store, TimeZone::system());
        Self {
            recorder,
            composer,
            hub,
            task,
            mailbox,
            backlog,
            readers: None,
            health: StorageHealth::default(),
            delay: DelayMeter::default(),
            told: None,
            flush_at: None,
            maintain_at: None,
        }
    }

    pub(super) fn store(&mut self) -> &mut S {
        self.recorder.store()
    }

    /// What takes its time is asked of these threads from now on.
    pub(super) fn ask_readers(&mut self, readers: Readers) {
        self.readers = Some(readers);
    }

    /// Hands what a former controller left unfinished to the schedulers; how many requests. Its clients have to connect
    /// anew and ask the hub for the results: what their routing ids are now, nobody knows.
    pub(super) fn restore(&mut self, mux: &Sender<SchedulerMail>) -> Result<u64, StoreError> {
        let (task, composer) = (&self.task, &self.composer);
        let count = self
            .recorder
            .restore(now(), &mut |restored| match restored {
                Restored::Ended(ended) => {
                    task.send(SchedulerMail::Ended(ended));
                }
                Restored::Unfinished(again) => {
                    let message = sent_anew(again.message);
                    let mut frames = frames_of(message, composer);
                    if again.queue == Queue::Mux {
                        let engine = again.engine.as_ref().map_or("", EngineUuid::as_str);
                        frames.insert(1, Frame::from(engine.as_bytes()));
                        mux.send(SchedulerMail::Resubmit { frames, at: None });
                    } else {
                        let at = again.engine;
                        task.send(SchedulerMail::Resubmit { frames, at });
                    }
                }
            })?;
        self.recorder.store().flush()?;
        Ok(count)
    }

    /// What is to be said at the end.
    pub(super) fn run(mut self) -> Option<StorageReport> {
        let mut poller = Poller::new();
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        loop {
            let busy = self.mailbox.take(&mut mail);
            let mut mail = mail.drain(..);
            loop {
                // Reports count as waiting until the store has them.
                let (mut reports, mut bytes, mut last) = (0, 0, None);
                for message in mail.by_ref().take(PIECE) {
                    match message {
                        RecorderMail::Traffic { traffic, since } => {
                            reports += 1;
                            bytes += traffic.bytes();
                            last = Some(since);
                            self.delay.on_report(since);
                            self.note(traffic);
                        }
                        RecorderMail::Ask {
                            request,
                            engines,
                            place,
                        } => self.answer(request, &engines, place),
                        RecorderMail::Stop => return self.close(),
                    }
                }
                self.on_time();
                self.backlog.on_taken(Instant::now(), last, reports, bytes);
                if mail.len() == 0 {
                    break;
                }
            }
            drop(mail);
            if !busy
                && let Err(error) = poller.wait(time_left([self.flush_at, self.maintain_due()]))
            {
                tracing::error!("recorder: cannot wait for messages: {error}");
                return self.close();
            }
        }
    }

    /// What has been noted is made to last in groups: one transaction for all of [`GATHER`]. What fails is tried again.
    fn on_time(&mut self) {
        let now = Instant::now();
        if self.flush_at.take_if(|at| *at <= now).is_some() {
            self.flush();
        }
        if self.maintain_due().is_some_and(|at| at <= now) {
            // While nothing happens, records grow old all the same.
            let pause = match self.recorder.store().maintain(super::replies::now()) {
                Ok(0) => MAINTAIN_IDLE,
                Ok(_) => MAINTAIN_EVERY,
                Err(error) => {
                    self.on_fault(error);
                    MAINTAIN_IDLE
                }
            };
            self.maintain_at = Some(now + pause);
        }
    }

    /// Not while the store is at fault: there is nothing to be done then.
    fn maintain_due(&self) -> Option<Instant> {
        self.maintain_at.filter(|_| !self.health.is_faulty())
    }

    fn flush(&mut self) {
        match self.recorder.store().flush_due() {
            Ok(()) => {
                let backlog = self.recorder.store().backlog();
                let now = Instant::now();
                self.delay.on_written(now, backlog.records == 0);
                // What was left out has its turn then.
                self.flush_at = (backlog.records > 0).then(|| now + GATHER);
                if let Some(line) = self.health.on_success(now, backlog) {
                    line.log();
                }
            }
            Err(error) => {
                self.on_fault(error);
                self.flush_at = Some(Instant::now() + RETRY);
            }
        }
        self.tell_hub();
    }

    fn note(&mut self, traffic: Traffic) {
        if self.flush_at.is_none() {
            let now = Instant::now();
            self.flush_at = Some(now + GATHER);
            let maintain = now + MAINTAIN_EVERY;
            self.maintain_at = Some(self.maintain_at.map_or(maintain, |at| at.min(maintain)));
        }
        if let Err(error) = self.recorder.on_traffic(traffic) {
            self.on_fault(error);
        }
    }

    fn on_fault(&mut self, error: StoreError) {
        let at = now();
        if let Some(line) = self.health.on_fault(Instant::now(), at, error) {
            line.log();
        }
    }

    fn tell_hub(&mut self) {
        let backlog = self.recorder.store().backlog();
        self.backlog.set_at_fault(self.health.is_faulty());
        let figures = self.health.figures(backlog);
        if figures != self.told {
            self.told.clone_from(&figures);
            self.hub.send(HubMail::Storage(figures));
        }
    }

    fn answer(&mut self, request: Request, engines: &[(EngineId, EngineUuid)], place: Place) {
        let lookup = self.recorder.lookup(&request.msg_type, &request.content);
        match lookup {
            Some(Err(answer)) => answer_request(&self.hub, request, answer),
            Some(Ok(lookup)) => self.look_up(request, lookup, place),
            None => self.change(request, engines),
        }
    }

    /// An answer has everything in it that was reported before it was asked for.
    fn look_up(&mut self, request: Request, lookup: Lookup, place: Place) {
        let reader = match &self.readers {
            Some(readers) if !lookup.is_quick() => {
                if lookup.is_by_id() {
                    &readers.by_id
                } else {
                    &readers.queries
                }
            }
            _ => {
                let answer = lookup.answer(self.recorder.store());
                return answer_request(&self.hub, request, answer);
            }
        };
        match self.recorder.store().flush() {
            Ok(()) => {
                reader.send(ReaderMail::Ask {
                    request,
                    lookup,
                    place,
                });
            }
            Err(error) => {
                let answer = lookup.refused(&error);
                answer_request(&self.hub, request, answer);
            }
        }
    }

    fn change(&mut self, request: Request, engines: &[(EngineId, EngineUuid)]) {
        let composer = &mut self.composer;
        let mut ask = Ask {
            now: now(),
            new_id: &mut || composer.next_msg_id(),
            engine: &|id| {
                engines
                    .iter()
                    .find(|(known, _)| *known == id)
                    .map(|(_, uuid)| uuid.clone())
            },
            behind: Behind {
                reports: self.backlog.reports(),
                delays: self.delay.delays(),
            },
        };
        let mut answer = self
            .recorder
            .answer(&request.msg_type, &request.content, &mut ask);
        for again in std::mem::take(&mut answer.resubmit) {
            let frames = frames_of(again.message, &self.composer);
            self.task.send(SchedulerMail::Resubmit { frames, at: None });
        }
        answer_request(&self.hub, request, answer);
    }

    fn close(mut self) -> Option<StorageReport> {
        if let Some(readers) = &self.readers {
            readers.by_id.send(ReaderMail::Stop);
            readers.queries.send(ReaderMail::Stop);
        }
        let unwritten = self.recorder.store().backlog().records;
        self.backlog.set_unwritten(unwritten);
        let closed = self.recorder.store().close();
        let backlog = self.recorder.store().backlog();
        self.health.at_the_end(backlog, closed)
    }
}

/// A request that gets another signature than before: its engine may have had it, and refuses what it knows.
fn sent_anew(mut message: StoredMessage) -> StoredMessage {
    let metadata = serde_json::from_slice(&message.metadata);
    let mut metadata: serde_json::Map<String, serde_json::Value> = metadata.unwrap_or_default();
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    metadata.insert("resent".to_owned(), nonce.into());
    message.metadata = serde_json::Value::Object(metadata).to_string().into();
    message
}

/// A stored request as a client would send it.
fn frames_of(message: StoredMessage, composer: &Composer) -> Vec<Frame> {
    let StoredMessage {
        header,
        parent_header,
        metadata,
        content,
        buffers,
    } = message;
    let signature = composer
        .signer()
        .sign([&header, &parent_header, &metadata, &content]);
    let mut frames = vec![
        Frame::from(NOBODY),
        Frame::from(DELIMITER),
        Frame::from(signature),
    ];
    frames.extend(
        [header, parent_header, metadata, content]
            .into_iter()
            .chain(buffers)
            .map(Frame::from),
    );
    frames
}

/// A reply that has just been received, or made.
pub(super) fn completed(engine: Option<EngineUuid>, frames: &[Frame], layout: Layout) -> Traffic {
    let received: Timestamp = now();
    Traffic::Completed {
        engine,
        received,
        message: stored(frames, layout),
    }
}
