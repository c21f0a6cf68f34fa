//! Messages of peers.

use crate::protocol::header::{self, Brief};
use crate::protocol::metadata::{ReplyMetadata, says_failed};
use crate::protocol::{Header, Signer, TaskMetadata, Wire};

/// The frames of a message, as the bytes between line feeds; then its parts.
pub fn frames(data: &[u8]) {
    let frames: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let signer = Signer::new(b"key");
    let Ok(wire) = Wire::parse(&frames) else {
        return;
    };
    let parts = wire.identities().len() + 6 + wire.buffers().len();
    assert_eq!(parts, frames.len(), "every frame has its place");
    if wire.verify(&signer).is_ok_and(|digest| digest.is_some()) {
        let signed = [
            wire.header(),
            wire.parent_header(),
            wire.metadata(),
            wire.content(),
        ];
        let signature = frames[wire.layout().signature()];
        assert_eq!(signer.sign(signed), signature.to_ascii_lowercase());
    }
    let whole = Header::parse(wire.header());
    let brief = Brief::parse(wire.header());
    if let Ok(header) = whole {
        let _ = header::reply_type(&header.msg_type);
        assert!(brief.is_ok(), "a whole header can be read in brief");
    }
    let _ = Header::parse_parent(wire.parent_header());
    let _ = header::parent_id(wire.parent_header());
    task_metadata(wire.metadata());
}

/// The metadata of requests and replies.
pub fn task_metadata(data: &[u8]) {
    let _ = TaskMetadata::parse(data);
    if let Ok(reply) = ReplyMetadata::parse(data) {
        let _ = (
            reply.is_ok(),
            reply.is_returned(),
            reply.is_leaving(),
            reply.is_unmet(),
        );
    }
    let _ = says_failed(data);
}
