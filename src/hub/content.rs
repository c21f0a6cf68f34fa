//! What requests hold.

use serde::Deserialize;

use crate::protocol::error::RemoteError;

/// A request's content. What lacks a field is a KeyError of the field's name, as it is in the original.
pub(super) fn parse<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, RemoteError> {
    serde_json::from_slice(content).map_err(|error| {
        let text = error.to_string();
        let missing = text.strip_prefix("missing field `");
        match missing.and_then(|rest| rest.split('`').next()) {
            Some(field) => RemoteError::key_error(field),
            None if error.is_data() => RemoteError::key_error(&text),
            None => RemoteError::new("ValueError", format!("content is no JSON: {text}")),
        }
    })
}
