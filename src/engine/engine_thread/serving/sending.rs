//! Replies, and what is published on iopub.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Serving;
use crate::engine::engine_thread::now;
use crate::engine::engine_thread::requests::{Origin, Request};
use crate::engine::replies::{Outcome, aborted, task_metadata};
use crate::protocol::header::reply_type;
use crate::protocol::{Outgoing, RemoteError};
use crate::transport::{Frame, SendError};

/// A task that ends within this time, while others wait, has its beginning told together with its end.
const HOLD_BUSY: Duration = Duration::from_millis(1);

impl Serving {
    pub(super) fn send_reply(&mut self, request: &Request, msg_type: &str, content: Value) {
        let metadata = object(json!({ "engine": self.who.uuid }));
        self.send_parts(
            request,
            msg_type,
            metadata,
            content.to_string().into_bytes(),
            Vec::new(),
        );
    }

    pub(super) fn send_failure(&mut self, request: &Request, error: &RemoteError) {
        self.send_outcome(request, error.to_content(), Map::new());
    }

    pub(super) fn send_aborted(&mut self, request: &Request) {
        self.publish_busy(&request.header);
        self.send_outcome(request, aborted(&request.msg_id), Map::new());
        self.publish_idle(&request.header);
    }

    /// A reply that the kernel had no part in.
    pub(super) fn send_outcome(
        &mut self,
        request: &Request,
        content: Value,
        extra: Map<String, Value>,
    ) {
        let outcome = Outcome {
            status: content["status"].as_str().unwrap_or_default().to_owned(),
            ename: content["ename"].as_str().map(str::to_owned),
        };
        let mut metadata = task_metadata(&self.who, &request.metadata, now(), &outcome);
        metadata.extend(extra);
        let msg_type = reply_type(&request.msg_type);
        self.send_parts(
            request,
            &msg_type,
            metadata,
            content.to_string().into_bytes(),
            Vec::new(),
        );
    }

    pub(super) fn send_parts(
        &mut self,
        request: &Request,
        msg_type: &str,
        metadata: Map<String, Value>,
        content: Vec<u8>,
        buffers: Vec<Frame>,
    ) {
        self.note_answered(request);
        let header = self.composer.header(msg_type, now());
        let metadata = Value::from(metadata).to_string().into_bytes();
        let parts = self
            .composer
            .seal(header, &request.header, metadata, content);
        let mut frames = request.route.clone();
        frames.extend(parts.into_iter().map(Frame::from));
        frames.extend(buffers);
        match request.origin {
            Origin::Shell => self.shell_out.send(&mut self.sockets.shell, &mut frames),
            Origin::Control => self
                .control_out
                .send(&mut self.sockets.control, &mut frames),
        }
    }

    // ---- output

    pub(super) fn publish_busy(&mut self, parent: &[u8]) {
        let mut frames = self.status("busy", parent);
        // A client that waits for a single task reads this while the kernel works.
        let sent = if self.queue.has_waiting() {
            self.sockets.iopub.send_within(HOLD_BUSY, &mut frames)
        } else {
            self.sockets.iopub.send(&mut frames)
        };
        self.note_published(sent);
    }

    pub(super) fn publish_idle(&mut self, parent: &[u8]) {
        let mut frames = self.status("idle", parent);
        let sent = self.sockets.iopub.send(&mut frames);
        self.note_published(sent);
    }

    fn status(&mut self, state: &str, parent: &[u8]) -> Vec<Frame> {
        let metadata = json!({ "engine": self.who.uuid });
        let message = Outgoing::new("status", json!({ "execution_state": state }))
            .parent(parent)
            .metadata(metadata);
        let parts = self.composer.compose(&message, now());
        self.published("status", parts, Vec::new())
    }

    pub(super) fn relay_iopub(
        &mut self,
        msg_type: &str,
        parent: &[u8],
        metadata: &[u8],
        content: Vec<u8>,
        buffers: Vec<Frame>,
    ) {
        let mut full = match serde_json::from_slice(metadata) {
            Ok(Value::Object(own)) => own,
            _ => Map::new(),
        };
        full.entry("engine").or_insert_with(|| json!(self.who.uuid));
        let header = self.composer.header(msg_type, now());
        let parts = self.composer.seal(
            header,
            parent,
            Value::from(full).to_string().into_bytes(),
            content,
        );
        self.send_iopub(msg_type, parts, buffers);
    }

    pub(super) fn send_iopub(&mut self, topic: &str, parts: [Vec<u8>; 6], buffers: Vec<Frame>) {
        let mut frames = self.published(topic, parts, buffers);
        let sent = self.sockets.iopub.send(&mut frames);
        self.note_published(sent);
    }

    fn published(&self, topic: &str, parts: [Vec<u8>; 6], buffers: Vec<Frame>) -> Vec<Frame> {
        let topic = format!("engine.{}.{topic}", self.who.id);
        let mut frames = vec![Frame::from(topic.as_bytes())];
        frames.extend(parts.into_iter().map(Frame::from));
        frames.extend(buffers);
        frames
    }

    fn note_published(&self, sent: Result<(), SendError>) {
        if let Err(error) = sent {
            tracing::debug!(
                "engine {}: output could not be published: {error}",
                self.who.id
            );
        }
    }
}

pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
