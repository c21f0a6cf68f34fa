//! What an engine and its kernel tell each other, on top of the link's framing.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::link::{LinkFrame, LinkMessage};
use crate::transport::Frame;

/// Tags of messages to a kernel.
pub(in crate::engine) mod to_kernel {
    pub(in crate::engine) const CONFIGURE: u32 = 1;
    pub(in crate::engine) const APPLY: u32 = 2;
    pub(in crate::engine) const REQUEST: u32 = 3;
    pub(in crate::engine) const EXIT: u32 = 4;
    pub(in crate::engine) const MAPPED: u32 = 5;
}

/// Tags of messages from a kernel.
pub(in crate::engine) mod from_kernel {
    pub(in crate::engine) const READY: u32 = 101;
    pub(in crate::engine) const FAILED: u32 = 102;
    pub(in crate::engine) const REPLY: u32 = 103;
    pub(in crate::engine) const IOPUB: u32 = 104;
    pub(in crate::engine) const STREAM: u32 = 105;
    pub(in crate::engine) const DONE: u32 = 106;
    pub(in crate::engine) const LOG: u32 = 107;
}

/// Tags of messages to the fork server.
pub(in crate::engine) mod to_fork_server {
    pub(in crate::engine) const PRELOAD: u32 = 201;
    pub(in crate::engine) const FORK: u32 = 202;
    pub(in crate::engine) const SIGNAL: u32 = 203;
}

/// A message from a kernel.
#[derive(Debug)]
pub(in crate::engine) enum FromKernel {
    Ready(KernelInfo),
    Failed(KernelFailure),
    /// `metadata` may be empty.
    Reply {
        msg_id: String,
        content: Vec<u8>,
        metadata: Vec<u8>,
        buffers: Vec<Frame>,
    },
    /// `parent` is empty for the request that is being handled.
    Iopub {
        msg_type: String,
        parent: Vec<u8>,
        metadata: Vec<u8>,
        content: Vec<u8>,
        buffers: Vec<Frame>,
    },
    Stream {
        stderr: bool,
        parent: Vec<u8>,
        text: String,
    },
    Done {
        msg_id: String,
    },
    Log {
        level: String,
        text: String,
    },
}

/// What a kernel says of itself when it is ready.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::engine) struct KernelInfo {
    pub(in crate::engine) pid: i32,
    pub(in crate::engine) python: String,
    pub(in crate::engine) executable: String,
    #[serde(default)]
    pub(in crate::engine) ipyparallel: Option<String>,
    /// `ipyparallel`, `ipython` or `plain`; `jupyter` for a kernel that is not ours.
    pub(in crate::engine) mode: String,
    /// It can map memory of this process.
    #[serde(default)]
    pub(in crate::engine) maps: bool,
    /// What is known of a kernel of mode `jupyter`.
    #[serde(default)]
    pub(in crate::engine) kernel: Option<JupyterKernel>,
}

#[derive(Clone, Debug, Deserialize)]
pub(in crate::engine) struct JupyterKernel {
    pub(in crate::engine) name: String,
    pub(in crate::engine) language: String,
    pub(in crate::engine) version: String,
}

/// Why a kernel cannot be one.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::engine) struct KernelFailure {
    pub(in crate::engine) ename: String,
    pub(in crate::engine) evalue: String,
    #[serde(default)]
    pub(in crate::engine) hint: Option<String>,
}

/// How a kernel's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::engine) enum ExitStatus {
    Code(i32),
    Signal(i32),
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}

/// A message from the fork server.
#[derive(Debug)]
pub(in crate::engine) enum FromForkServer {
    Warm(KernelInfo),
    Forked {
        rank: u32,
        pid: i32,
    },
    Exited {
        rank: u32,
        status: ExitStatus,
    },
    Error {
        rank: Option<u32>,
        failure: KernelFailure,
    },
}

impl FromKernel {
    /// `None` for a message that this engine does not know, or that is not of its shape.
    pub(in crate::engine) fn parse(message: LinkMessage) -> Option<Self> {
        let LinkMessage { tag, frames } = message;
        let mut frames = frames.into_iter();
        let mut next = || frames.next().map(LinkFrame::into_bytes);
        Some(match tag {
            from_kernel::READY => Self::Ready(serde_json::from_slice(&next()?).ok()?),
            from_kernel::FAILED => Self::Failed(serde_json::from_slice(&next()?).ok()?),
            from_kernel::REPLY => Self::Reply {
                msg_id: text(next()?)?,
                content: next()?,
                metadata: next()?,
                buffers: frames.map(LinkFrame::into_frame).collect(),
            },
            from_kernel::IOPUB => Self::Iopub {
                msg_type: text(next()?)?,
                parent: next()?,
                metadata: next()?,
                content: next()?,
                buffers: frames.map(LinkFrame::into_frame).collect(),
            },
            from_kernel::STREAM => Self::Stream {
                stderr: next()? == b"stderr",
                parent: next()?,
                text: text(next()?)?,
            },
            from_kernel::DONE => Self::Done {
                msg_id: text(next()?)?,
            },
            from_kernel::LOG => Self::Log {
                level: text(next()?)?,
                text: text(next()?)?,
            },
            _ => return None,
        })
    }
}

impl FromForkServer {
    pub(in crate::engine) fn parse(message: &LinkMessage) -> Option<Self> {
        let content: Value = serde_json::from_slice(message.frames.first()?.as_ref()).ok()?;
        let rank = || {
            content["rank"]
                .as_u64()
                .and_then(|rank| u32::try_from(rank).ok())
        };
        Some(match message.tag {
            301 => Self::Warm(serde_json::from_value(content).ok()?),
            302 => Self::Forked {
                rank: rank()?,
                pid: i32::try_from(content["pid"].as_i64()?).ok()?,
            },
            303 => Self::Exited {
                rank: rank()?,
                status: serde_json::from_value(content["status"].clone()).ok()?,
            },
            304 => Self::Error {
                rank: rank(),
                failure: serde_json::from_value(content).ok()?,
            },
            _ => return None,
        })
    }
}

fn text(bytes: Vec<u8>) -> Option<String> {
    Some(
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}
