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
        serde_json::from_slice(json).map_err(|_| WireError::Json)
    }

    /// A parent header, which is `{}` in a message that answers nothing.
    pub fn parse_parent(json: &'a [u8]) -> Result<Option<Self>, WireError> {
        if matches!(json, b"{}" | b"null") {
            return Ok(None);
        }
        #[derive(Deserialize)]
        struct Parent<'a> {
            #[serde(borrow, default)]
            msg_id: Option<Cow<'a, str>>,
        }
        let parent: Parent<'_> = serde_json::from_slice(json).map_err(|_| WireError::Json)?;
        match parent.msg_id {
            Some(_) => Self::parse(json).map(Some),
            None => Ok(None),
        }
    }
}

/// A date of another JSON type (old senders wrote numbers) is no date, and no reason to refuse the message.
fn text_or_nothing<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Cow<'de, str>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Date<'a> {
        #[serde(borrow)]
        Text(Cow<'a, str>),
        Other(serde::de::IgnoredAny),
    }
    Ok(match Date::deserialize(deserializer)? {
        Date::Text(text) => text,
        Date::Other(_) => Cow::Borrowed(""),
    })
}

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
    }

    #[test]
    fn reply_types() {
        assert_eq!(reply_type("apply_request"), "apply_reply");
        assert_eq!(reply_type("odd"), "odd_reply");
    }
}
