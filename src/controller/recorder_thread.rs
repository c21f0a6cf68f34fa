//! The task database's thread: takes note of traffic, and answers questions about records, in the order in which they
//! come. Storage that is slow holds nobody up but those who ask it.

use std::time::SystemTime;

use jiff::tz::TimeZone;

use super::mail::{HubMail, SchedulerMail};
use super::replies::now;
use crate::hub::Request;
use crate::hub::recorder::{Answer, Ask, Recorder, StoredMessage, Traffic};
use crate::protocol::wire::Layout;
use crate::protocol::{Composer, DELIMITER, EngineId, EngineUuid, Timestamp};
use crate::taskdb::TaskStore;
use crate::transport::{Frame, Mailbox, Poller, Sender};

/// A resubmitted task's reply goes to nobody: this is no client's routing id, which never begins with a zero and a
/// letter.
pub(super) const NOBODY: &[u8] = b"\0nobody";

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
}

/// A clone has gathered nothing yet.
impl Clone for Reporter {
    fn clone(&self) -> Self {
        Self::new(self.recorder.clone())
    }
}

impl Reporter {
    pub(super) fn new(recorder: Sender<RecorderMail>) -> Self {
        Self {
            recorder,
            gathered: Vec::new(),
        }
    }

    pub(super) fn report(&mut self, traffic: Traffic) {
        self.gathered.push(RecorderMail::Traffic(traffic));
    }

    pub(super) fn hand_over(&mut self) {
        if !self.gathered.is_empty() {
            self.recorder.send_all(self.gathered.drain(..));
        }
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
    complained: Option<SystemTime>,
}

impl<S: TaskStore> RecorderThread<S> {
    pub(super) fn new(
        store: S,
        composer: Composer,
        hub: Sender<HubMail>,
        task: Sender<SchedulerMail>,
        mailbox: Mailbox<RecorderMail>,
    ) -> Self {
        let recorder = Recorder::new(store, TimeZone::system());
        Self {
            recorder,
            composer,
            hub,
            task,
            mailbox,
            complained: None,
        }
    }

    pub(super) fn run(mut self) {
        let mut poller = Poller::new();
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        loop {
            let busy = self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                match message {
                    RecorderMail::Traffic(traffic) => self.note(traffic),
                    RecorderMail::Ask { request, engines } => self.answer(request, &engines),
                    RecorderMail::Stop => return self.close(),
                }
            }
            if !busy && let Err(error) = poller.wait(None) {
                tracing::error!("recorder: cannot wait for messages: {error}");
                return self.close();
            }
        }
    }

    fn note(&mut self, traffic: Traffic) {
        if let Err(error) = self.recorder.on_traffic(traffic) {
            // Once a minute: a full disk would fill another one with lines about it.
            const AGAIN: std::time::Duration = std::time::Duration::from_secs(60);
            let now = SystemTime::now();
            if self
                .complained
                .is_none_or(|last| now.duration_since(last).unwrap_or_default() >= AGAIN)
            {
                self.complained = Some(now);
                tracing::error!("a task record could not be stored: {error}");
            }
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
pub(super) fn completed(
    queue: crate::taskdb::Queue,
    engine: Option<EngineUuid>,
    frames: &[Frame],
    layout: Layout,
) -> Traffic {
    let received: Timestamp = now();
    Traffic::Completed {
        queue,
        engine,
        received,
        message: stored(frames, layout),
    }
}
