//! Commands: what the two ends of a connection say to each other, beside messages.

use super::{COMMAND, LONG, Violation};

/// A command that matters here. Others are passed over, as the specification wants.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::transport) enum Command<'a> {
    Ready(Properties<'a>),
    Error(&'a [u8]),
    Subscribe(&'a [u8]),
    Cancel(&'a [u8]),
    /// To be answered with a PONG that holds the same context.
    Ping {
        context: &'a [u8],
    },
    /// A frame of a message, which lies in the memory that comes along.
    Memory {
        more: bool,
        length: usize,
    },
    Other,
}

/// Ours, between processes of one machine: in place of a large frame, which is not copied from one to the other.
const MEMORY: &[u8] = b"MEMORY";

/// The command, framed, that goes with the memory of a frame.
pub(in crate::transport) fn memory(more: bool, length: usize) -> Vec<u8> {
    let mut data = vec![u8::from(more)];
    data.extend_from_slice(&(length as u64).to_be_bytes());
    compose("MEMORY", &data)
}

/// Of such a command: other frames of the message follow.
pub(super) fn is_more(memory: &[u8]) -> bool {
    // After the frame's head of two bytes and the name.
    memory.get(2 + 1 + MEMORY.len()) == Some(&1)
}

/// What a peer says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::transport) struct Properties<'a> {
    pub(in crate::transport) socket_type: &'a [u8],
    pub(in crate::transport) identity: &'a [u8],
}

impl<'a> Command<'a> {
    pub(in crate::transport) fn parse(body: &'a [u8]) -> Result<Self, Violation> {
        let malformed = Violation::Handshake;
        let (name, rest) = short_text(body).ok_or_else(|| malformed.clone())?;
        Ok(match name {
            b"READY" => Self::Ready(Properties::parse(rest)?),
            b"ERROR" => Self::Error(short_text(rest).ok_or(malformed)?.0),
            b"SUBSCRIBE" => Self::Subscribe(rest),
            b"CANCEL" => Self::Cancel(rest),
            // After a time to live of two bytes.
            b"PING" => Self::Ping {
                context: rest.get(2..).ok_or(malformed)?,
            },
            MEMORY => {
                let (more, length) = rest.split_first().ok_or(malformed)?;
                let length = length.try_into().map_err(|_| Violation::Handshake)?;
                let length = u64::from_be_bytes(length);
                Self::Memory {
                    more: *more != 0,
                    length: usize::try_from(length).map_err(|_| Violation::Handshake)?,
                }
            }
            _ => Self::Other,
        })
    }
}

impl<'a> Properties<'a> {
    /// Name (one byte for its length), value (four bytes for its length), and so on.
    pub(in crate::transport) fn parse(mut rest: &'a [u8]) -> Result<Self, Violation> {
        let mut properties = Self::default();
        while !rest.is_empty() {
            let (name, value, after) = property(rest).ok_or(Violation::Handshake)?;
            if name.eq_ignore_ascii_case(b"Socket-Type") {
                properties.socket_type = value;
            } else if name.eq_ignore_ascii_case(b"Identity") {
                properties.identity = value;
            }
            rest = after;
        }
        if properties.identity.len() > usize::from(u8::MAX) {
            return Err(Violation::Handshake);
        }
        Ok(properties)
    }

    pub(in crate::transport) fn compose(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in [
            (&b"Socket-Type"[..], self.socket_type),
            (&b"Identity"[..], self.identity),
        ] {
            bytes.push(name.len() as u8);
            bytes.extend_from_slice(name);
            let len = u32::try_from(value.len()).expect("names of sockets are short");
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }
}

fn short_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

fn property(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = short_text(bytes)?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    Some((name, value, rest))
}

/// A command as a frame.
pub(in crate::transport) fn compose(name: &str, data: &[u8]) -> Vec<u8> {
    frame(&body(name, data))
}

/// What a frame that is a command holds.
pub(in crate::transport) fn body(name: &str, data: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(1 + name.len() + data.len());
    body.push(name.len() as u8);
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    body
}

/// The frame of a command's body.
pub(in crate::transport) fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(9 + body.len());
    match u8::try_from(body.len()) {
        Ok(len) => frame.extend_from_slice(&[COMMAND, len]),
        Err(_) => {
            frame.push(COMMAND | LONG);
            frame.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(body);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_and_cut_ones_are_refused() {
        let properties = Properties {
            socket_type: b"DEALER",
            identity: b"me",
        };
        let bytes = properties.compose();
        assert_eq!(Properties::parse(&bytes), Ok(properties));
        for end in 1..bytes.len() {
            // Cut between two properties, it is whole.
            if end != 1 + 11 + 4 + 6 {
                assert!(Properties::parse(&bytes[..end]).is_err(), "{end}");
            }
        }
    }

    #[test]
    fn commands_are_told_apart() {
        let frame = compose("PING", b"\0\x0ahello");
        assert_eq!(frame[..2], [COMMAND, 12]);
        assert_eq!(
            Command::parse(&frame[2..]),
            Ok(Command::Ping { context: b"hello" })
        );
        assert_eq!(Command::parse(b"\x04WHAT"), Ok(Command::Other));
        assert!(Command::parse(b"\x09PING").is_err());
        assert!(Command::parse(b"").is_err());
        let long = compose("SUBSCRIBE", &[7; 300]);
        assert_eq!(long[..9], [6, 0, 0, 0, 0, 0, 0, 1, 54]);
    }
}
