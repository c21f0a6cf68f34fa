//! Composing messages: header, signature, frames.

use serde_json::{Value, json};

use super::ids::MsgId;
use super::signature::Signer;
use super::time::Timestamp;
use super::wire::DELIMITER;

/// The version of the Jupyter messaging specification that headers name.
const PROTOCOL_VERSION: &str = "5.3";

/// Makes the messages of one sender: its session id, its user name, its key and its counter.
#[derive(Clone, Debug)]
pub struct Composer {
    session: String,
    username: String,
    pid: u32,
    signer: Signer,
    count: u64,
}

/// A message to be composed. `parent` is the raw JSON of the request's header; `{}` when it answers nothing.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    pub msg_type: &'a str,
    pub parent: &'a [u8],
    pub metadata: Value,
    pub content: Value,
}

impl<'a> Outgoing<'a> {
    pub fn new(msg_type: &'a str, content: Value) -> Self {
        Self {
            msg_type,
            parent: b"{}",
            metadata: json!({}),
            content,
        }
    }

    pub fn parent(mut self, header: &'a [u8]) -> Self {
        self.parent = header;
        self
    }

    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = metadata;
        self
    }
}

impl Composer {
    /// `session` must be unlike that of any other sender; an engine's is its uuid.
    pub fn new(
        session: impl Into<String>,
        username: impl Into<String>,
        pid: u32,
        signer: Signer,
    ) -> Self {
        Self {
            session: session.into(),
            username: username.into(),
            pid,
            signer,
            count: 0,
        }
    }

    pub fn session(&self) -> &str {
        &self.session
    }

    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// `SESSION_PID_COUNT`, as jupyter_client makes them.
    pub fn next_msg_id(&mut self) -> MsgId {
        let id = format!("{}_{}_{}", self.session, self.pid, self.count);
        self.count += 1;
        MsgId::from(id)
    }

    /// The JSON of a fresh header.
    pub fn header(&mut self, msg_type: &str, now: Timestamp) -> Vec<u8> {
        let msg_id = self.next_msg_id();
        json!({
            "msg_id": msg_id,
            "msg_type": msg_type,
            "username": self.username,
            "session": self.session,
            "date": now,
            "version": PROTOCOL_VERSION,
        })
        .to_string()
        .into_bytes()
    }

    /// The frames from the delimiter to the content. The caller puts identities before and buffers behind.
    pub fn compose(&mut self, message: &Outgoing<'_>, now: Timestamp) -> [Vec<u8>; 6] {
        let header = self.header(message.msg_type, now);
        self.seal(
            header,
            message.parent,
            message.metadata.to_string().into_bytes(),
            message.content.to_string().into_bytes(),
        )
    }

    /// Signs parts that are JSON already.
    pub fn seal(
        &self,
        header: Vec<u8>,
        parent: &[u8],
        metadata: Vec<u8>,
        content: Vec<u8>,
    ) -> [Vec<u8>; 6] {
        let signature = self.signer.sign([&header, parent, &metadata, &content]);
        [
            DELIMITER.to_vec(),
            signature,
            header,
            parent.to_vec(),
            metadata,
            content,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Header, Wire};

    #[test]
    fn what_is_composed_verifies_and_ids_differ() {
        let signer = Signer::new(b"k");
        let mut composer = Composer::new("s", "u", 7, signer.clone());
        let now = Timestamp::from_micros(1);
        let message =
            Outgoing::new("apply_reply", json!({"status": "ok"})).parent(br#"{"msg_id":"p"}"#);
        let first = composer.compose(&message, now);
        let second = composer.compose(&message, now);
        let wire = Wire::parse(&first).unwrap();
        assert!(wire.verify(&signer).unwrap().is_some());
        assert_eq!(
            Header::parse_parent(wire.parent_header())
                .unwrap()
                .unwrap()
                .msg_id,
            "p"
        );
        let header = Header::parse(wire.header()).unwrap();
        assert_eq!((&*header.msg_id, &*header.session), ("s_7_0", "s"));
        assert_ne!(first[2], second[2]);
    }
}
