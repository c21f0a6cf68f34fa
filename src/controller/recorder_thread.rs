//! The task database's thread: takes note of traffic, and answers questions about records, in the order in which they
//! come. Storage that is slow holds nobody up but those who ask it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;

use super::backlog::Backlog;
use super::mail::{HubMail, SchedulerMail};
use super::replies::now;
use crate::hub::Request;
use crate::hub::recorder::{Answer, Ask, Recorder, Restored, StoredMessage, Traffic};
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

/// Changes that come within this time are stored together: it is what a kill of the controller may lose.
const GATHER: Duration = Duration::from_millis(20);

/// Between two looks at the limits of a database.
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);

const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// To the recorder's thread.
#[derive(Debug)]
pub(super) enum RecorderMail {
    Traffic(Traffic),
    Ask {
        request: Request,
        engines: Vec<(EngineId, EngineUuid)>,
    },
    Stop,
}

/// A scheduler's way to the recorder. Traffic is gathered and handed over once per round.
#[derive(Debug)]
pub(super) struct Reporter {
    recorder: Sender<RecorderMail>,
    gathered: Vec<RecorderMail>,
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
            backlog,
        }
    }

    pub(super) fn report(&mut self, traffic: Traffic) {
        self.gathered.push(RecorderMail::Traffic(traffic));
    }

    pub(super) fn hand_over(&mut self) {
        if !self.gathered.is_empty() {
            self.backlog.on_handed_over(self.gathered.len());
            self.recorder.send_all(self.gathered.drain(..));
        }
    }

    /// Storage is so far behind that no new requests are taken in until it has caught up.
    pub(super) fn is_behind(&self) -> bool {
        self.backlog.is_full()
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
    complained: Option<Instant>,
    flush_at: Option<Instant>,
    maintain_at: Option<Instant>,
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
            complained: None,
            flush_at: None,
            maintain_at: None,
        }
    }

    /// Hands what a former controller left unfinished to the schedulers; how many requests. Its clients have to connect
    /// anew and ask the hub for the results: what their routing ids are now, nobody knows.
    pub(super) fn restore(&mut self, mux: &Sender<SchedulerMail>) -> Result<u64, StoreError> {
        let (task, composer) = (&self.task, &self.composer);
        let count = self
            .recorder
            .restore(now(), &mut |restored| match restored {
                Restored::Ended { msg_id, ok, engine } => {
                    task.send(SchedulerMail::Ended { msg_id, ok, engine });
                }
                Restored::Unfinished(again) => {
                    let message = sent_anew(again.message);
                    let mut frames = frames_of(message, composer);
                    if again.queue == Queue::Mux {
                        let engine = again.engine.as_ref().map_or("", EngineUuid::as_str);
                        frames.insert(1, Frame::from(engine.as_bytes()));
                        mux.send(SchedulerMail::Resubmit(frames));
                    } else {
                        task.send(SchedulerMail::Resubmit(frames));
                    }
                }
            })?;
        self.recorder.store().flush()?;
        Ok(count)
    }

    pub(super) fn run(mut self) {
        let mut poller = Poller::new();
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        loop {
            let busy = self.mailbox.take(&mut mail);
            self.backlog.on_taken(mail.len());
            for message in mail.drain(..) {
                match message {
                    RecorderMail::Traffic(traffic) => self.note(traffic),
                    RecorderMail::Ask { request, engines } => self.answer(request, &engines),
                    RecorderMail::Stop => return self.close(),
                }
            }
            self.on_time();
            if !busy && let Err(error) = poller.wait(time_left([self.flush_at, self.maintain_at])) {
                tracing::error!("recorder: cannot wait for messages: {error}");
                return self.close();
            }
        }
    }

    /// What has been noted is made to last in groups: one transaction for all of [`GATHER`].
    fn on_time(&mut self) {
        let now = Instant::now();
        if self.flush_at.take_if(|at| *at <= now).is_some()
            && let Err(error) = self.recorder.store().flush()
        {
            self.complain(&error);
        }
        if self.maintain_at.take_if(|at| *at <= now).is_some()
            && let Err(error) = self.recorder.store().maintain(super::replies::now())
        {
            self.complain(&error);
        }
    }

    fn note(&mut self, traffic: Traffic) {
        let now = Instant::now();
        self.flush_at.get_or_insert(now + GATHER);
        self.maintain_at.get_or_insert(now + MAINTAIN_EVERY);
        if let Err(error) = self.recorder.on_traffic(traffic) {
            self.complain(&error);
        }
    }

    /// Once a minute: a full disk would fill another one with lines about it.
    fn complain(&mut self, error: &StoreError) {
        let now = Instant::now();
        if self
            .complained
            .is_none_or(|last| now - last >= COMPLAIN_EVERY)
        {
            self.complained = Some(now);
            tracing::error!("task records cannot be stored; the cluster goes on without: {error}");
        }
    }

    fn answer(&mut self, request: Request, engines: &[(EngineId, EngineUuid)]) {
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
        };
        let answer = self
            .recorder
            .answer(&request.msg_type, &request.content, &mut ask);
        let Answer {
            msg_type,
            content,
            buffers,
            resubmit,
        } = answer;
        for again in resubmit {
            self.task.send(SchedulerMail::Resubmit(frames_of(
                again.message,
                &self.composer,
            )));
        }
        self.hub.send(HubMail::Answered {
            to: request.from,
            parent: request.header,
            msg_type,
            content,
            buffers,
        });
    }

    fn close(mut self) {
        if let Err(error) = self.recorder.store().close() {
            tracing::error!("the task database could not be closed in order: {error}");
        }
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
