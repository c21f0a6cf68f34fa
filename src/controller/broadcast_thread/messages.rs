//! What the messages of the broadcast queue say.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::controller::replies::queue_reply_type;
use crate::protocol::header::parent_id;
use crate::protocol::metadata::ReplyMetadata;
use crate::protocol::wire::Layout;
use crate::protocol::{EngineId, EngineUuid, MsgId, RemoteError, Wire};
use crate::scheduler::BroadcastTarget;
use crate::transport::Frame;

/// An engine's reply as it came: `engine, client, <IDS|MSG>, …`.
pub(super) struct Reply {
    pub(super) frames: Vec<Frame>,
    pub(super) layout: Layout,
}

/// A request that makes sense.
pub(super) struct BroadcastRequest {
    pub(super) msg_id: MsgId,
    pub(super) targets: Vec<BroadcastTarget>,
    pub(super) coalescing: bool,
    pub(super) header: Map<String, Value>,
    pub(super) metadata: Map<String, Value>,
}

pub(super) fn to_json(map: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(map).expect("a map of JSON values is JSON")
}

/// The one reply to a coalescing request: metadata, content, and all engines' buffers in the order of targets.
///
/// One engine's error is the reply's: the client could not tell from the buffers that one is missing.
pub(super) fn coalesce(
    msg_id: &MsgId,
    targets: &[BroadcastTarget],
    replies: &[Reply],
    lost: &[(BroadcastTarget, String)],
) -> (Value, Value, Vec<Frame>) {
    let failed = replies.iter().find(|reply| {
        let metadata = ReplyMetadata::parse(&reply.frames[reply.layout.metadata()]);
        !metadata.is_ok_and(|metadata| metadata.is_ok())
    });
    let content = match (lost.first(), failed) {
        (Some((target, how)), _) => {
            RemoteError::engine_died(target.id, msg_id.as_str(), how).to_content()
        }
        (None, Some(reply)) => serde_json::from_slice(&reply.frames[reply.layout.content()])
            .ok()
            .filter(|content: &Value| content["status"].is_string())
            .unwrap_or_else(|| {
                let why = "an engine failed, and its reply does not say how";
                RemoteError::new("EngineError", why).to_content()
            }),
        (None, None) => json!({ "status": "ok" }),
    };
    let first = failed.or_else(|| replies.first());
    let mut metadata: Value = first
        .and_then(|reply| serde_json::from_slice(&reply.frames[reply.layout.metadata()]).ok())
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({}));
    metadata["status"] = content["status"].clone();
    metadata["is_broadcast"] = json!(true);
    metadata["is_coalescing"] = json!(true);
    metadata["original_msg_id"] = json!(msg_id);
    metadata["broadcast_targets"] = targets
        .iter()
        .map(|target| json!([target.uuid, target.id]))
        .collect();
    let buffers = if content["status"] == "ok" {
        replies
            .iter()
            .flat_map(|reply| reply.frames[reply.layout.buffers()].iter().cloned())
            .collect()
    } else {
        Vec::new()
    };
    (metadata, content, buffers)
}

pub(super) fn read_request(
    wire: &Wire<'_, Frame>,
    msg_id: MsgId,
) -> Result<BroadcastRequest, RemoteError> {
    let bad = |what: &str| RemoteError::new("ValueError", format!("bad broadcast request: {what}"));
    let header =
        serde_json::from_slice(wire.header()).map_err(|_| bad("its header is no object"))?;
    let metadata: Map<String, Value> =
        serde_json::from_slice(wire.metadata()).map_err(|_| bad("its metadata is no object"))?;
    let targets: Vec<(EngineUuid, EngineId)> = metadata
        .get("targets")
        .cloned()
        .and_then(|targets| serde_json::from_value(targets).ok())
        .ok_or_else(|| bad("metadata.targets must be a list of [uuid, id]"))?;
    let targets = targets
        .into_iter()
        .map(|(uuid, id)| BroadcastTarget { uuid, id })
        .collect();
    let coalescing = metadata
        .get("is_coalescing")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    Ok(BroadcastRequest {
        msg_id,
        targets,
        coalescing,
        header,
        metadata,
    })
}

/// Engine, original message id, and the id under which the engine had the message.
pub(super) fn read_reply(wire: &Wire<'_, Frame>) -> Result<(EngineUuid, String, String), String> {
    let [engine, _client] = wire.identities() else {
        return Err("a reply without the address of a client".to_owned());
    };
    let engine = std::str::from_utf8(engine).map_err(|_| "an engine's uuid is text")?;
    let parent = parent_id(wire.parent_header()).map_err(|error| error.to_string())?;
    let outgoing = parent.ok_or("a reply to nothing")?.into_owned();
    let metadata = ReplyMetadata::parse(wire.metadata()).map_err(|error| error.to_string())?;
    // An engine that fails before it has read the request's metadata leaves the original id out.
    let original = match metadata.original_msg_id {
        Some(original) if !original.is_empty() => original.into_owned(),
        _ => outgoing
            .strip_suffix(engine)
            .and_then(|id| id.strip_suffix('_'))
            .unwrap_or_default()
            .to_owned(),
    };
    Ok((EngineUuid::from(engine), original, outgoing))
}

pub(super) fn reply_type_of(header: &Frame) -> &'static str {
    #[derive(Deserialize)]
    struct Type<'a> {
        #[serde(borrow)]
        msg_type: std::borrow::Cow<'a, str>,
    }
    queue_reply_type(
        serde_json::from_slice::<Type<'_>>(header)
            .map(|header| header.msg_type)
            .as_deref()
            .unwrap_or(""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DELIMITER;

    fn failed(content: &[u8]) -> Reply {
        let frames = [
            &b"engine"[..],
            b"client",
            DELIMITER,
            b"",
            b"{}",
            b"{}",
            br#"{"status": "error"}"#,
            content,
        ]
        .map(Frame::from)
        .to_vec();
        let layout = Wire::parse(&frames).unwrap().layout();
        Reply { frames, layout }
    }

    #[test]
    fn an_engine_s_error_that_cannot_be_read_is_an_error_all_the_same() {
        let joined = |content| coalesce(&MsgId::from("m"), &[], &[failed(content)], &[]);
        for content in [&b"{"[..], b"null", b"[]", b"7", b"{}", b"\xff"] {
            let (metadata, content, buffers) = joined(content);
            assert_eq!(metadata["status"], "error");
            assert_eq!(content["status"], "error");
            assert_eq!(content["ename"], "EngineError");
            assert!(buffers.is_empty());
        }
        let (_, content, _) = joined(br#"{"status": "error", "ename": "KeyError"}"#);
        assert_eq!(content["ename"], "KeyError");
    }
}
