//! A type for every id, so that none can be passed for another.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The small integer by which users name an engine (`rc[3]`). Counts up from 0; never reused unless asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineId(pub u32);

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Defines a cheaply cloned text id.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_id! {
    /// The name under which an engine's sockets are routed; also the session id of what it sends.
    EngineUuid
}

text_id! {
    /// `header.msg_id`: unique for every message, made by its sender.
    MsgId
}

/// The session of a message id. A client's ids are `SESSION_PID_NUMBER`, or `SESSION_NUMBER` (jupyter_client
/// `Session.msg_id`); a broadcast's part has an engine's uuid behind that.
pub fn session_of(msg_id: &str) -> &str {
    let end = msg_id.find('_').unwrap_or(msg_id.len());
    &msg_id[..end]
}

/// Tells clusters of one profile apart; empty for the usual one. Part of file names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub String);

impl ClusterId {
    /// `name` or `name-ID`: how ipyparallel builds the names of a cluster's files.
    pub fn suffixed(&self, name: &str) -> String {
        if self.0.is_empty() {
            name.to_owned()
        } else {
            format!("{name}-{}", self.0)
        }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A ZeroMQ routing id: up to 255 arbitrary bytes that a ROUTER puts before what it receives.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<[u8]>);

impl Identity {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Identity {
    fn from(bytes: &[u8]) -> Self {
        Self(Arc::from(bytes))
    }
}

impl From<&EngineUuid> for Identity {
    fn from(uuid: &EngineUuid) -> Self {
        Self(Arc::from(uuid.as_str().as_bytes()))
    }
}

impl AsRef<[u8]> for Identity {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Identity {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Text where it is text, hexadecimal where it is a number that a router made up; never more than 64 characters.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
                f.write_str(text.get(..64).unwrap_or(text))
            }
            _ => {
                f.write_str("0x")?;
                self.0
                    .iter()
                    .take(31)
                    .try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_carry_the_cluster_id_only_when_there_is_one() {
        assert_eq!(
            ClusterId::default().suffixed("ipcontroller"),
            "ipcontroller"
        );
        assert_eq!(
            ClusterId("a".into()).suffixed("ipcontroller"),
            "ipcontroller-a"
        );
    }

    #[test]
    fn a_made_up_identity_is_shown_in_hexadecimal() {
        assert_eq!(
            Identity::from(&b"\0k\x8bE)"[..]).to_string(),
            "0x006b8b4529"
        );
        assert_eq!(Identity::from(&b"engine-1"[..]).to_string(), "engine-1");
        assert_eq!(Identity::from(&b""[..]).to_string(), "0x");
    }
}
