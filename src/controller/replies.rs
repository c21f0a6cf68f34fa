//! Replies that the controller makes itself, in an engine's place.

use serde_json::{Value, json};

use crate::protocol::{Composer, EngineUuid, Identity, Outgoing, RemoteError, Timestamp};
use crate::transport::Frame;

/// The reply type that a client of a queue understands: it knows two (ipyparallel `Client._queue_handlers`).
pub(super) fn queue_reply_type(request: &str) -> &'static str {
    if request == "execute_request" {
        "execute_reply"
    } else {
        "apply_reply"
    }
}

/// The frames of an error reply to `client`.
///
/// `engine_info` stays empty, by which the client knows that no output will follow.
pub(super) fn error_reply(
    composer: &mut Composer,
    client: &Identity,
    msg_type: &str,
    parent: &[u8],
    engine: Option<&EngineUuid>,
    error: &RemoteError,
) -> Vec<Frame> {
    let aborted = error.ename == "TaskAborted";
    let mut content = error.to_content();
    if aborted {
        content["status"] = json!("aborted");
    }
    let mut metadata = json!({ "status": content["status"], "date": now() });
    if let Some(engine) = engine {
        metadata["engine"] = json!(engine);
    }
    let mut frames = vec![Frame::from(client.as_bytes())];
    frames.extend(compose(composer, msg_type, parent, metadata, content));
    frames
}

/// The frames of a message from the delimiter on.
pub(super) fn compose(
    composer: &mut Composer,
    msg_type: &str,
    parent: &[u8],
    metadata: Value,
    content: Value,
) -> impl Iterator<Item = Frame> {
    let message = Outgoing::new(msg_type, content)
        .parent(parent)
        .metadata(metadata);
    composer
        .compose(&message, now())
        .into_iter()
        .map(Frame::from)
}

pub(super) fn now() -> Timestamp {
    Timestamp::from(std::time::SystemTime::now())
}
