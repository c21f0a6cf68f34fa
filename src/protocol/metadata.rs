//! `metadata` of a request on the task, broadcast or mux queue, and of an engine's reply.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::header::read;
use super::wire::WireError;

/// What the task scheduler reads from a request's metadata (ipyparallel `LoadBalancedView._really_apply`). Fields keep
/// the shape in which they came; whether they make sense is for the scheduler to say, in a reply.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct TaskMetadata {
    #[serde(default)]
    pub targets: Option<Value>,
    #[serde(default)]
    pub after: Option<Value>,
    #[serde(default)]
    pub follow: Option<Value>,
    #[serde(default)]
    pub retries: Option<Value>,
    #[serde(default)]
    pub timeout: Option<Value>,
    #[serde(default)]
    pub label: Option<Value>,
}

impl TaskMetadata {
    pub fn parse(json: &[u8]) -> Result<Self, WireError> {
        if matches!(json, b"{}" | b"null") {
            return Ok(Self::default());
        }
        read(json)
    }
}

/// What a scheduler reads from the metadata of an engine's reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ReplyMetadata<'a> {
    #[serde(borrow, default)]
    pub status: Option<Cow<'a, str>>,
    /// Absent means met.
    #[serde(default)]
    pub dependencies_met: Option<bool>,
    #[serde(borrow, default)]
    pub engine: Option<Cow<'a, str>>,
    #[serde(default)]
    pub is_coalescing: Option<bool>,
    #[serde(borrow, default)]
    pub original_msg_id: Option<Cow<'a, str>>,
    /// Ours: the task never reached the kernel, and the engine is about to leave.
    #[serde(default)]
    pub returned: Option<bool>,
    /// Ours: the engine is about to leave, and this is its last answer to a task.
    #[serde(default)]
    pub leaving: Option<bool>,
}

impl<'a> ReplyMetadata<'a> {
    pub fn parse(json: &'a [u8]) -> Result<Self, WireError> {
        read(json)
    }

    pub fn is_ok(&self) -> bool {
        self.status.as_deref() == Some("ok")
    }

    pub fn is_returned(&self) -> bool {
        self.returned == Some(true)
    }

    pub fn is_farewell(&self) -> bool {
        self.leaving == Some(true)
    }

    pub fn is_unmet(&self) -> bool {
        self.dependencies_met == Some(false)
    }
}

/// Does the metadata of an engine's reply say that the request failed? For counting: a look at the text, which costs a
/// part of what parsing does.
pub fn says_failed(metadata: &[u8]) -> bool {
    const KEY: &[u8] = b"\"status\"";
    let mut rest = metadata;
    while let Some(at) = rest.windows(KEY.len()).position(|window| window == KEY) {
        let escaped = at > 0 && rest[at - 1] == b'\\';
        rest = &rest[at + KEY.len()..];
        let value = rest.trim_ascii_start().strip_prefix(b":");
        if let Some(value) = value.filter(|_| !escaped) {
            return value.trim_ascii_start().starts_with(b"\"error\"");
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_fields_are_none_and_odd_ones_are_kept() {
        assert_eq!(TaskMetadata::parse(b"{}").unwrap(), TaskMetadata::default());
        let metadata = TaskMetadata::parse(br#"{"timeout":"soon","retries":2,"x":1}"#).unwrap();
        assert_eq!(metadata.timeout, Some(Value::from("soon")));
        assert_eq!(metadata.retries, Some(Value::from(2)));
        for odd in [&b"[1"[..], b"[]", b"[[], [], [], 3]", b"7"] {
            assert!(TaskMetadata::parse(odd).is_err());
        }
    }

    #[test]
    fn a_reply_without_dependencies_met_has_them_met() {
        let metadata = ReplyMetadata::parse(br#"{"status":"ok","engine":"e"}"#).unwrap();
        assert!(metadata.is_ok() && !metadata.is_unmet());
        assert!(
            ReplyMetadata::parse(br#"{"status":"error","dependencies_met":false}"#)
                .unwrap()
                .is_unmet()
        );
    }

    #[test]
    fn a_failure_is_seen_without_parsing() {
        for (metadata, failed) in [
            (&br#"{"status": "error"}"#[..], true),
            (br#"{"engine":"e","status":"error","started":"x"}"#, true),
            (br#"{"status": "ok", "why": "error"}"#, false),
            (
                br#"{"label": "\"status\": \"error\"", "status": "ok"}"#,
                false,
            ),
            (br#"{"label": "status", "status" : "error"}"#, true),
            (b"{}", false),
            (b"\"status\"", false),
            (b"", false),
        ] {
            let text = String::from_utf8_lossy(metadata);
            assert_eq!(says_failed(metadata), failed, "{text}");
        }
    }
}
