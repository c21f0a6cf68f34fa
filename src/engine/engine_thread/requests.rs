//! Requests as an engine keeps them.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::engine::queue::Queued;
use crate::os::shared_memory::SharedMemory;
use crate::protocol::{Header, Timestamp, Wire};
use crate::transport::Frame;

/// The routing id of the controller's task queue, where tasks can be given back.
pub(in crate::engine) const TASK_QUEUE: &[u8] = b"task_out";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Origin {
    Shell,
    Control,
}

impl Origin {
    pub(in crate::engine) fn name(self) -> &'static [u8] {
        match self {
            Self::Shell => b"shell",
            Self::Control => b"control",
        }
    }
}

/// Buffers from this size on are mapped by several kernels rather than copied to each.
const MAP_FROM: usize = 1 << 20;

/// A request of a client.
#[derive(Debug)]
pub(in crate::engine) struct Request {
    pub(in crate::engine) origin: Origin,
    pub(in crate::engine) msg_id: String,
    pub(in crate::engine) msg_type: String,
    /// Routing ids under which the reply goes back.
    pub(in crate::engine) route: Vec<Frame>,
    /// The header's JSON, parent of everything that the request causes.
    pub(in crate::engine) header: Bytes,
    pub(in crate::engine) parent_header: Frame,
    pub(in crate::engine) metadata: Frame,
    pub(in crate::engine) content: Frame,
    pub(in crate::engine) buffers: Vec<Frame>,
    pub(in crate::engine) started: Timestamp,
    pub(in crate::engine) replied: bool,
}

impl Queued for Request {
    fn msg_id(&self) -> &str {
        &self.msg_id
    }

    fn msg_type(&self) -> &str {
        &self.msg_type
    }
}

impl Request {
    pub(in crate::engine) fn read(
        wire: &Wire<'_, Frame>,
        frames: &[Frame],
        origin: Origin,
    ) -> Result<Self, String> {
        let header = Header::parse(wire.header()).map_err(|error| error.to_string())?;
        let layout = wire.layout();
        Ok(Self {
            origin,
            msg_id: header.msg_id.into_owned(),
            msg_type: header.msg_type.into_owned(),
            route: wire.identities().to_vec(),
            header: frames[layout.header()].to_bytes(),
            parent_header: frames[layout.parent_header()].clone(),
            metadata: frames[layout.metadata()].clone(),
            content: frames[layout.content()].clone(),
            buffers: wire.buffers().to_vec(),
            started: Timestamp::from_micros(0),
            replied: false,
        })
    }

    /// Puts large buffers where the kernels of several engines can map them.
    pub(in crate::engine) fn share_buffers(&mut self) -> io::Result<()> {
        if self.msg_type != "apply_request" {
            return Ok(());
        }
        let large = self.buffers.iter_mut().filter(|it| it.len() >= MAP_FROM);
        for frame in large.filter(|it| it.memory().is_none()) {
            *frame = Frame::from(Arc::new(SharedMemory::holding(frame)?));
        }
        Ok(())
    }

    /// The same request under another message id, for one of the engines that it was sent to.
    pub(in crate::engine) fn for_one(&self, msg_id: String, header: Bytes) -> Self {
        Self {
            origin: self.origin,
            msg_id,
            msg_type: self.msg_type.clone(),
            route: self.route.clone(),
            header,
            parent_header: self.parent_header.clone(),
            metadata: self.metadata.clone(),
            content: self.content.clone(),
            buffers: self.buffers.clone(),
            started: self.started,
            replied: false,
        }
    }

    pub(in crate::engine) fn is_task(&self) -> bool {
        self.route
            .first()
            .is_some_and(|queue| &queue[..] == TASK_QUEUE)
    }

    /// Are failures of this execution a reason not to run those that wait behind it?
    pub(in crate::engine) fn stops_on_error(&self) -> bool {
        #[derive(Deserialize)]
        struct Content {
            #[serde(default)]
            silent: Value,
            #[serde(default = "yes")]
            stop_on_error: bool,
        }
        fn yes() -> bool {
            true
        }
        self.msg_type == "execute_request"
            && serde_json::from_slice::<Content>(&self.content)
                .is_ok_and(|content| content.silent != Value::Bool(true) && content.stop_on_error)
    }
}

/// Comm messages are handled beside the queue, and nobody waits for an answer.
pub(in crate::engine) fn is_comm(msg_type: &str) -> bool {
    matches!(msg_type, "comm_open" | "comm_msg" | "comm_close")
}

/// Requests that a kernel answers, on whichever channel.
pub(in crate::engine) fn is_for_kernel(msg_type: &str) -> bool {
    is_comm(msg_type)
        || matches!(
            msg_type,
            "apply_request"
                | "execute_request"
                | "complete_request"
                | "inspect_request"
                | "history_request"
                | "is_complete_request"
                | "kernel_info_request"
                | "comm_info_request"
                | "connect_request"
                | "clear_request"
                | "usage_request"
        )
}
