//! What the controller's threads tell of themselves to whoever shows it. Nobody does unless a dashboard is asked for.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::observe::{Channel, Look, Output, Parts, Status, Usage, Watch, Window};
use crate::protocol::metadata::ReplyMetadata;
use crate::protocol::wire::Layout;
use crate::protocol::{EngineId, EngineUuid, Leaving, Wire};
use crate::transport::{Frame, Sender};

/// What is seen at a controller.
#[derive(Debug)]
pub enum Sighting {
    /// At a scheduler.
    Window(Box<Window>),
    /// It has asked to be registered, and is not ready yet.
    EngineStarting {
        at: Instant,
        id: EngineId,
        uuid: EngineUuid,
        host: Option<String>,
    },
    EngineRegistered {
        at: Instant,
        id: EngineId,
        uuid: EngineUuid,
    },
    EngineLeft {
        at: Instant,
        id: EngineId,
        uuid: EngineUuid,
        how: String,
        leaving: Leaving,
    },
    /// What an engine's host says of it.
    Usage {
        uuid: EngineUuid,
        usage: Usage,
    },
    ClientConnected,
    Outputs(Vec<Output>),
    /// The controller ends.
    Stop,
}

/// A scheduler's [`Watch`], and where its windows go.
pub(super) struct Lookout {
    watch: Watch,
    sightings: Sender<Sighting>,
    /// Of the present round: to ask the clock for every message costs more than all the counting.
    now: Instant,
}

impl Lookout {
    pub(super) fn new(channel: Channel, sightings: Sender<Sighting>) -> Self {
        Self {
            watch: Watch::new(channel, Instant::now()),
            sightings,
            now: Instant::now(),
        }
    }

    /// A round of the scheduler's thread begins.
    pub(super) fn begin_round(&mut self) {
        self.now = Instant::now();
    }

    pub(super) fn on_submitted(&mut self, msg_id: &str) {
        self.watch.on_submitted(self.now, msg_id);
    }

    /// `frames`: the whole message, whatever stands before its delimiter.
    pub(super) fn on_sent(
        &mut self,
        msg_id: &str,
        engine: impl FnOnce() -> EngineUuid,
        frames: &[Frame],
    ) {
        let parts = || Some(parts(frames, Wire::parse(frames).ok()?.layout()));
        self.watch.on_sent(self.now, msg_id, engine, parts);
    }

    pub(super) fn on_returned(&mut self, msg_id: &str) {
        self.watch.on_returned(self.now, msg_id);
    }

    pub(super) fn on_ended(
        &mut self,
        msg_id: &str,
        engine: Option<&str>,
        status: Status,
        frames: &[Frame],
    ) {
        let parts = || Some(parts(frames, Wire::parse(frames).ok()?.layout()));
        self.watch.on_ended(self.now, msg_id, engine, status, parts);
    }

    /// A set of engines that changes shows in the loads.
    pub(super) fn touch(&mut self) {
        self.watch.touch(self.now);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.watch.next_deadline()
    }

    /// `look` tells what waits, and the load of every engine.
    pub(super) fn hand_over(&mut self, look: impl FnOnce() -> Look) {
        if self.watch.next_deadline().is_none() {
            return;
        }
        if let Some(window) = self.watch.hand_over(Instant::now(), look) {
            self.sightings.send(Sighting::Window(Box::new(window)));
        }
    }
}

fn parts(frames: &[Frame], layout: Layout) -> Parts<'_, Frame> {
    Parts {
        header: &frames[layout.header()],
        metadata: &frames[layout.metadata()],
        content: &frames[layout.content()],
        buffers: &frames[layout.buffers()],
    }
}

/// What a reply says of its outcome.
pub(super) fn status_of(wire: &Wire<'_, Frame>) -> Status {
    // As engines of Python and ours write it, in nearly every reply.
    const OK: [&[u8]; 2] = [br#"{"status": "ok"}"#, br#"{"status":"ok"}"#];
    if OK.contains(&wire.content()) {
        return Status::Ok;
    }
    match ReplyMetadata::parse(wire.metadata())
        .unwrap_or_default()
        .status
        .as_deref()
    {
        // Replies that are no task's do not say.
        Some("ok") | None => Status::Ok,
        Some("aborted") => Status::Aborted,
        Some(_) => Status::Failed,
    }
}

/// What engines write, as far as it can be shown: nobody reads more.
pub(super) struct OutputTap {
    sightings: Sender<Sighting>,
    gathered: Vec<Output>,
    opened: Option<Instant>,
}

/// From the first output until it is handed over.
const GATHER: Duration = Duration::from_millis(200);

/// Messages that are shown of one such time.
const SHOWN: usize = 200;

/// Messages that are longer are shown with their last so many bytes.
const LAST: usize = 4 * 1024;

/// Messages that are longer still are not looked at.
const LONG: usize = 256 * 1024;

impl OutputTap {
    pub(super) fn new(sightings: Sender<Sighting>) -> Self {
        Self {
            sightings,
            gathered: Vec::new(),
            opened: None,
        }
    }

    /// A message of type `stream`, of this session.
    pub(super) fn on_stream(
        &mut self,
        now: Instant,
        session: &str,
        metadata: &[u8],
        content: &[u8],
    ) {
        #[derive(Deserialize)]
        struct Content {
            name: String,
            text: String,
        }
        if self.gathered.len() >= SHOWN || content.len() > LONG {
            return;
        }
        let Ok(Content { name, mut text }) = serde_json::from_slice(content) else {
            return;
        };
        if text.len() > LAST {
            let from = (text.len() - LAST..).find(|at| text.is_char_boundary(*at));
            text.drain(..from.unwrap_or(0));
        }
        let metadata = ReplyMetadata::parse(metadata).unwrap_or_default();
        self.opened.get_or_insert(now);
        self.gathered.push(Output {
            engine: EngineUuid::from(metadata.engine.as_deref().unwrap_or(session)),
            is_error: name == "stderr",
            text,
        });
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.opened.map(|opened| opened + GATHER)
    }

    pub(super) fn hand_over(&mut self, now: Instant) {
        if self.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.opened = None;
            let outputs = std::mem::take(&mut self.gathered);
            self.sightings.send(Sighting::Outputs(outputs));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::mailbox;

    #[test]
    fn output_is_gathered_and_bounded() {
        let (sender, mut receiver) = mailbox().unwrap();
        let mut tap = OutputTap::new(sender);
        let start = Instant::now();
        let long = serde_json::json!({"name": "stderr", "text": format!("{}é", "x".repeat(9_000))});
        tap.on_stream(
            start,
            "s",
            b"{\"engine\": \"e\"}",
            long.to_string().as_bytes(),
        );
        for _ in 0..500 {
            tap.on_stream(start, "s", b"{}", br#"{"name": "stdout", "text": "a"}"#);
        }
        tap.on_stream(start, "s", b"{}", b"nonsense");
        tap.hand_over(start);
        let mut got = Vec::new();
        assert!(!receiver.take(&mut got));
        tap.hand_over(tap.next_deadline().unwrap());
        assert!(receiver.take(&mut got));
        let Some(Sighting::Outputs(outputs)) = got.pop() else {
            unreachable!("output was told")
        };
        assert_eq!(outputs.len(), SHOWN);
        assert!(
            outputs[0].is_error && outputs[0].text.len() <= LAST && outputs[0].text.ends_with('é')
        );
        assert_eq!(
            (outputs[0].engine.as_str(), outputs[1].engine.as_str()),
            ("e", "s")
        );
        assert_eq!(tap.next_deadline(), None);
    }
}
