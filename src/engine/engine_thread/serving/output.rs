//! What the kernel writes to its standard streams.

use std::time::Instant;

use bytes::Bytes;
use serde_json::json;

use super::{Entries, READS_OF_A_FULL_PIPE, Serving};
use crate::engine::engine_thread::now;
use crate::engine::outputs::Stream;
use crate::protocol::Outgoing;
use crate::transport::Poller;

impl Serving {
    pub(super) fn parent_of(&self, parent: Vec<u8>) -> Bytes {
        if parent.is_empty() {
            self.queue.running().map_or_else(
                || self.last_parent.clone(),
                |request| request.header.clone(),
            )
        } else {
            Bytes::from(parent)
        }
    }

    pub(super) fn flush_outputs(&mut self) {
        for held in self.outputs.flush() {
            let content = json!({ "name": held.stream.name(), "text": held.text });
            let metadata = json!({ "engine": self.who.uuid });
            let message = Outgoing::new("stream", content)
                .parent(&held.parent)
                .metadata(metadata);
            let parts = self.composer.compose(&message, now());
            self.send_iopub(held.stream.name(), parts, Vec::new());
        }
    }

    pub(super) fn receive_output(&mut self, poller: &mut Poller, entries: &Entries) {
        if poller.has_events(entries.stdout) {
            self.read_pipe(Stream::Stdout);
        }
        if poller.has_events(entries.stderr) {
            self.read_pipe(Stream::Stderr);
        }
        if self.kernel.stdout.is_none() {
            poller.replace_fd(entries.stdout, -1);
        }
        if self.kernel.stderr.is_none() {
            poller.replace_fd(entries.stderr, -1);
        }
    }

    /// Reads what was written so far, and not what a process that writes without end adds meanwhile.
    pub(super) fn drain_pipes(&mut self) {
        for _ in 0..READS_OF_A_FULL_PIPE {
            if !(self.read_pipe(Stream::Stdout) | self.read_pipe(Stream::Stderr)) {
                return;
            }
        }
    }

    pub(super) fn read_pipe(&mut self, stream: Stream) -> bool {
        let (pipe, pieces) = match stream {
            Stream::Stdout => (&mut self.kernel.stdout, &mut self.kernel.stdout_text),
            Stream::Stderr => (&mut self.kernel.stderr, &mut self.kernel.stderr_text),
        };
        let Some(reader) = pipe else { return false };
        let Some(bytes) = reader.read() else {
            *pipe = None;
            return false;
        };
        if bytes.is_empty() {
            return false;
        }
        let text = pieces.push(&bytes);
        if !self.kernel.ready {
            self.kernel.words.push(&text);
            return true;
        }
        let parent = self.parent_of(Vec::new());
        if self.outputs.write(Instant::now(), stream, &parent, &text) {
            self.flush_outputs();
        }
        true
    }
}
