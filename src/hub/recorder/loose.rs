//! The few values that the recorder reads from metadata and contents. Whatever a peer puts there instead of text counts
//! as nothing, and never spoils the rest.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Text, borrowed where it has no escapes; empty for anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl Text<'_> {
    /// The text, unless it is empty.
    pub(super) fn get(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(&*self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Text::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Text::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Text::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Text::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Text::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }
}

/// Reads the named texts of a JSON object; all are empty when it is none.
pub(super) fn read<'a, T: Deserialize<'a> + Default>(json: &'a [u8]) -> T {
    if matches!(json, b"{}" | b"null") {
        return T::default();
    }
    serde_json::from_slice(json).unwrap_or_default()
}

/// Metadata of an engine's reply.
#[derive(Default, Deserialize)]
pub(super) struct ReplyMetadata<'a> {
    #[serde(borrow, default)]
    pub(super) status: Text<'a>,
    #[serde(borrow, default)]
    pub(super) engine: Text<'a>,
    #[serde(borrow, default)]
    pub(super) started: Text<'a>,
    #[serde(borrow, default)]
    pub(super) original_msg_id: Text<'a>,
    /// Only the joined reply of a coalescing broadcast names its targets.
    #[serde(default)]
    pub(super) broadcast_targets: Option<IgnoredAny>,
}

/// What contents say of themselves.
#[derive(Default, Deserialize)]
pub(super) struct ReplyContent<'a> {
    #[serde(borrow, default)]
    pub(super) status: Text<'a>,
    #[serde(borrow, default)]
    pub(super) ename: Text<'a>,
}

/// Content of `stream` and `execute_input`.
#[derive(Default, Deserialize)]
pub(super) struct OutputContent<'a> {
    #[serde(borrow, default)]
    pub(super) name: Text<'a>,
    #[serde(borrow, default)]
    pub(super) text: Text<'a>,
    #[serde(borrow, default)]
    pub(super) code: Text<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_nothing_and_spoils_nothing() {
        for odd in ["12", "-1", "1.5", "true", "null", "[1,[2]]", "{\"a\":{}}"] {
            let json =
                format!("{{\"status\":{odd},\"engine\":\"e\\u00e9\",\"started\":\"s\",\"x\":[]}}");
            let metadata: ReplyMetadata<'_> = read(json.as_bytes());
            assert_eq!(metadata.status.get(), None, "{odd}");
            assert_eq!(metadata.engine.get(), Some("eé"));
            assert!(matches!(metadata.started.0, Cow::Borrowed("s")));
        }
        let none: ReplyMetadata<'_> = read(b"[nonsense");
        assert_eq!(none.engine.get(), None);
    }
}
