//! Requests as an engine keeps them.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::engine::queue::Queued;
use crate::protocol::{Header, Timestamp, Wire};
use crate::transport::Frame;

/// The routing id of the controller's task queue, where tasks can be given back.
pub(super) const TASK_QUEUE: &[u8] = b"task_out";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Shell,
    Control,
}

impl Origin {
    pub(super) fn name(self) -> &'static [u8] {
        match self {
            Self::Shell => b"shell",
            Self::Control => b"control",
        }
    }
}

/// A request of a client.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) origin: Origin,
    pub(super) msg_id: String,
    pub(super) msg_type: String,
    /// Routing ids under which the reply goes back.
    pub(super) route: Vec<Frame>,
    /// The header's JSON, parent of everything that the request causes.
    pub(super) header: Bytes,
    pub(super) parent_header: Frame,
    pub(super) metadata: Frame,
    pub(super) content: Frame,
    pub(super) buffers: Vec<Frame>,
    pub(super) started: Timestamp,
    pub(super) replied: bool,
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
    pub(super) fn read(
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

    pub(super) fn is_task(&self) -> bool {
        self.route
            .first()
            .is_some_and(|queue| &queue[..] == TASK_QUEUE)
    }

    /// Are failures of this execution a reason not to run those that wait behind it?
    pub(super) fn stops_on_error(&self) -> bool {
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
pub(super) fn is_comm(msg_type: &str) -> bool {
    matches!(msg_type, "comm_open" | "comm_msg" | "comm_close")
}

/// Requests that a kernel answers, on whichever channel.
pub(super) fn is_for_kernel(msg_type: &str) -> bool {
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
