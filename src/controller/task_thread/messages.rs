//! What the messages of the task queue say.

use crate::protocol::header::{Brief, FAREWELL, parent_id};
use crate::protocol::metadata::ReplyMetadata;
use crate::protocol::{Composer, Identity, TaskMetadata, Wire};
use crate::scheduler::Outcome;
use crate::transport::Frame;

/// What is left of a request when it has been read.
pub(super) struct Submission {
    pub(super) client: Identity,
    pub(super) msg_id: String,
    pub(super) msg_type: String,
    pub(super) metadata: Result<TaskMetadata, String>,
}

/// Requests that every engine answers; any other would occupy an engine for ever.
pub(super) fn is_answered(msg_type: &str) -> bool {
    matches!(
        msg_type,
        "apply_request"
            | "execute_request"
            | "complete_request"
            | "inspect_request"
            | "history_request"
            | "is_complete_request"
            | "kernel_info_request"
            | "comm_info_request"
    )
}

pub(super) fn read_submission(wire: &Wire<'_, Frame>) -> Result<Submission, String> {
    let [client] = wire.identities() else {
        return Err("a task has no address before it".to_owned());
    };
    let header = Brief::parse(wire.header()).map_err(|error| error.to_string())?;
    Ok(Submission {
        client: Identity::from(&client[..]),
        msg_id: header.msg_id.into_owned(),
        msg_type: header.msg_type.into_owned(),
        metadata: TaskMetadata::parse(wire.metadata())
            .map_err(|error| format!("metadata: {error}")),
    })
}

/// What an engine says.
pub(super) enum Word {
    /// An answer to a task.
    Reply {
        msg_id: String,
        /// How it ended; none when the engine gives it back.
        outcome: Option<Outcome>,
        /// The engine is about to leave.
        leaving: bool,
    },
    /// It has answered all that has reached it.
    Farewell,
}

pub(super) fn read_word(wire: &Wire<'_, Frame>) -> Result<Word, String> {
    let header = Brief::parse(wire.header()).map_err(|error| error.to_string())?;
    if header.msg_type == FAREWELL {
        return Ok(Word::Farewell);
    }
    if wire.identities().len() != 2 {
        return Err("a reply without the address of a client".to_owned());
    }
    if !header.msg_type.ends_with("_reply") {
        return Err("not a reply".to_owned());
    }
    let parent = parent_id(wire.parent_header()).map_err(|error| error.to_string())?;
    let parent = parent.ok_or("a reply to nothing")?;
    let metadata = ReplyMetadata::parse(wire.metadata()).map_err(|error| error.to_string())?;
    let outcome = if metadata.is_returned() {
        None
    } else if metadata.is_unmet() {
        Some(Outcome::Unmet)
    } else if metadata.is_ok() {
        Some(Outcome::Ok)
    } else if metadata.status.as_deref() == Some("aborted") {
        Some(Outcome::Aborted)
    } else {
        Some(Outcome::Failed)
    };
    Ok(Word::Reply {
        msg_id: parent.into_owned(),
        outcome,
        leaving: metadata.is_leaving(),
    })
}

/// Gives a message that its engine has had before a new signature: engines refuse one that they know.
pub(super) fn mark_as_resent(frames: &mut [Frame], composer: &Composer) {
    let Ok(layout) = Wire::parse(frames).map(|wire| wire.layout()) else {
        return;
    };
    let Ok(mut metadata) = serde_json::from_slice::<serde_json::Value>(&frames[layout.metadata()])
    else {
        return;
    };
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    metadata["resent"] = serde_json::Value::from(nonce);
    frames[layout.metadata()] = Frame::from(metadata.to_string().into_bytes());
    let parts = [
        layout.header(),
        layout.parent_header(),
        layout.metadata(),
        layout.content(),
    ];
    let signature = composer.signer().sign(parts.map(|part| &frames[part][..]));
    frames[layout.signature()] = Frame::from(signature);
}
