//! Messages that differ in little but their number: composed once, then numbered and signed for each.

use ipcluster::protocol::{DELIMITER, Signer};
use ipcluster::transport::Frame;

/// Makes the headers of one sender.
pub(crate) struct Headers {
    json: Vec<u8>,
    /// Where the number is; it always has [`DIGITS`] digits.
    at: usize,
    next: u64,
    msg_type: String,
}

const DIGITS: usize = 9;

impl Headers {
    pub(crate) fn new(msg_type: &str, session: &str) -> Self {
        let before = format!("{{\"msg_id\": \"{session}_1_");
        let json = format!(
            "{before}{:0DIGITS$}\", \"msg_type\": \"{msg_type}\", \"username\": \"bench\", \"session\": \"{session}\", \
             \"date\": \"2025-01-01T12:00:00.000000Z\", \"version\": \"5.3\"}}",
            0
        );
        Self {
            json: json.into_bytes(),
            at: before.len(),
            next: 0,
            msg_type: msg_type.to_owned(),
        }
    }

    pub(crate) fn msg_type(&self) -> &str {
        &self.msg_type
    }

    /// The next header; they are numbered from 0.
    pub(crate) fn next(&mut self) -> &[u8] {
        let mut number = self.next;
        self.next += 1;
        for digit in self.json[self.at..self.at + DIGITS].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        &self.json
    }
}

/// The number in a message id that [`Headers`] made.
pub(crate) fn number_of(msg_id: &str) -> Option<u64> {
    msg_id.rsplit_once('_')?.1.parse().ok()
}

/// Appends delimiter, signature and the four JSON parts.
pub(crate) fn seal(
    frames: &mut Vec<Frame>,
    signer: &Signer,
    header: &[u8],
    [parent, metadata, content]: [&Frame; 3],
) {
    frames.extend([
        Frame::from(DELIMITER),
        Frame::from(signer.sign([header, parent, metadata, content])),
        Frame::from(header),
        parent.clone(),
        metadata.clone(),
        content.clone(),
    ]);
}
