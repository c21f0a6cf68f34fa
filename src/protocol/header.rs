//! `header` and `parent_header`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::wire::WireError;

/// The fields of a header that the controller or an engine acts upon. Everything else in it is passed on as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header<'a> {
    #[serde(borrow)]
    pub msg_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub msg_type: Cow<'a, str>,
    #[serde(borrow, default)]
    pub session: Cow<'a, str>,
    /// ISO 8601. Kept as text: some senders write dates that no parser takes, and most are never looked at.
    #[serde(borrow, default, deserialize_with = "text_or_nothing")]
    pub date: Cow<'a, str>,
}

impl<'a> Header<'a> {
    pub fn parse(json: &'a [u8]) -> Result<Self, WireError> {
        read(json)
    }

    /// A parent header, which is `{}` in a message that answers nothing.
    pub fn parse_parent(json: &'a [u8]) -> Result<Option<Self>, WireError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Parent<'a> {
            #[serde(borrow)]
            msg_id: Option<Cow<'a, str>>,
            #[serde(borrow)]
            msg_type: Cow<'a, str>,
            #[serde(borrow)]
            session: Cow<'a, str>,
            #[serde(borrow, deserialize_with = "text_or_nothing")]
            date: Cow<'a, str>,
        }
        if is_empty(json) {
            return Ok(None);
        }
        let parent: Parent<'_> = read(json)?;
        Ok(parent.msg_id.map(|msg_id| Self {
            msg_id,
            msg_type: parent.msg_type,
            session: parent.session,
            date: parent.date,
        }))
    }
}

/// As much of a header as the queues look at, for every message that passes through.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Brief<'a> {
    #[serde(borrow)]
    pub msg_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub msg_type: Cow<'a, str>,
}

impl<'a> Brief<'a> {
    pub fn parse(json: &'a [u8]) -> Result<Self, WireError> {
        read(json)
    }
}

/// The message that a message answers, by its parent header.
pub fn parent_id(json: &[u8]) -> Result<Option<Cow<'_, str>>, WireError> {
    #[derive(Deserialize)]
    struct Parent<'a> {
        #[serde(borrow, default)]
        msg_id: Option<Cow<'a, str>>,
    }
    if is_empty(json) {
        return Ok(None);
    }
    Ok(read::<Parent<'_>>(json)?.msg_id)
}

fn is_empty(json: &[u8]) -> bool {
    matches!(json, b"{}" | b"null")
}

/// Reads a part of a message. The encoding is checked once for the whole: doing so text by text, as
/// `serde_json::from_slice` does, takes longer than everything else about a header.
pub(super) fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, WireError> {
    let text = std::str::from_utf8(json).map_err(|_| WireError::Json)?;
    // An array would be taken for an object's values.
    if !text.trim_start().starts_with('{') {
        return Err(WireError::Json);
    }
    serde_json::from_str(text).map_err(|_| WireError::Json)
}

/// A date of another JSON type (old senders wrote numbers) is no date, and no reason to refuse the message.
fn text_or_nothing<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Cow<'de, str>, D::Error> {
    // A text is the usual case; only what else it might be is worth a second look.
    let raw = <&serde_json::value::RawValue>::deserialize(deserializer)?.get();
    if raw.starts_with('"') {
        return serde_json::from_str::<Text<'de>>(raw)
            .map(|text| text.0)
            .map_err(serde::de::Error::custom);
    }
    Ok(Cow::Borrowed(""))
}

/// Borrowed where it can be, which a bare `Cow` never is.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Ours: an engine's last word to the task queue, after all of its answers.
pub const FAREWELL: &str = "farewell";

/// The reply type of a request: `apply_request` is answered by `apply_reply`.
pub fn reply_type(request: &str) -> String {
    format!(
        "{}_reply",
        request.strip_suffix("_request").unwrap_or(request)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_and_odd_dates_are_tolerated() {
        let header = Header::parse(
            br#"{"msg_id":"a_1","msg_type":"apply_request","session":"s","date":12,"username":"u","version":"5.3","x":{}}"#,
        )
        .unwrap();
        assert_eq!(
            (&*header.msg_id, &*header.msg_type, &*header.date),
            ("a_1", "apply_request", "")
        );
        assert_eq!(Header::parse(br#"{"msg_type":"x"}"#), Err(WireError::Json));
        assert_eq!(Header::parse(b"\xff{"), Err(WireError::Json));
        assert_eq!(Header::parse(b"[]"), Err(WireError::Json));
        assert_eq!(Header::parse(br#"["a","b"]"#), Err(WireError::Json));
    }

    #[test]
    fn an_empty_parent_is_none() {
        assert_eq!(Header::parse_parent(b"{}").unwrap(), None);
        assert_eq!(Header::parse_parent(br#"{"session":"s"}"#).unwrap(), None);
        assert_eq!(
            Header::parse_parent(br#"{"msg_id":"m"}"#)
                .unwrap()
                .unwrap()
                .msg_id,
            "m"
        );
        assert!(Header::parse_parent(b"nonsense").is_err());
        assert_eq!(parent_id(b"{}"), Ok(None));
        assert_eq!(parent_id(br#"{"session":"s"}"#), Ok(None));
        assert_eq!(
            parent_id(br#"{"session":"s","msg_id":"m"}"#),
            Ok(Some("m".into()))
        );
        assert!(parent_id(b"nonsense").is_err() && parent_id(b"{\"\xff\":1}").is_err());
    }

    #[test]
    fn reply_types() {
        assert_eq!(reply_type("apply_request"), "apply_reply");
        assert_eq!(reply_type("odd"), "odd_reply");
    }
}
