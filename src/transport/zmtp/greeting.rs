//! The first 64 bytes of a connection, the same from both sides.

use super::Violation;

pub(in crate::transport) const LEN: usize = 64;

/// The part that all versions have.
pub(in crate::transport) const SIGNATURE: usize = 10;

/// Signature, version 3.0, mechanism, role, padding.
const VERSION: usize = 10;
const MECHANISM: std::ops::Range<usize> = 12..32;
const AS_SERVER: usize = 32;

/// Which mechanism is to secure a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Mechanism {
    Null,
    Curve,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Curve => "CURVE",
        }
    }
}

/// Version 3.0 is said: a peer of a later one then subscribes by messages, as all do.
pub(in crate::transport) fn compose(mechanism: Mechanism, as_server: bool) -> [u8; LEN] {
    let mut greeting = [0; LEN];
    greeting[0] = 0xff;
    greeting[8] = 1;
    greeting[9] = 0x7f;
    greeting[VERSION] = 3;
    let name = mechanism.name().as_bytes();
    greeting[MECHANISM][..name.len()].copy_from_slice(name);
    greeting[AS_SERVER] = u8::from(as_server);
    greeting
}

/// Is this, as far as it goes, the start of a greeting that can be answered? What is none is refused at its first byte.
pub(in crate::transport) fn may_become_one(start: &[u8]) -> bool {
    start.first().is_none_or(|byte| *byte == 0xff)
        && start.get(9).is_none_or(|byte| *byte == 0x7f)
        && start.get(VERSION).is_none_or(|major| *major >= 3)
}

pub(in crate::transport) fn check(
    greeting: &[u8; LEN],
    mechanism: Mechanism,
) -> Result<(), Violation> {
    if !may_become_one(greeting) {
        return Err(Violation::NotZmtp);
    }
    let theirs = &greeting[MECHANISM];
    let end = theirs.iter().position(|byte| *byte == 0);
    let theirs = &theirs[..end.unwrap_or(theirs.len())];
    if theirs == mechanism.name().as_bytes() {
        return Ok(());
    }
    Err(Violation::Mechanism {
        theirs: theirs.escape_ascii().to_string(),
        ours: mechanism.name(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_understood_and_what_is_none_is_refused() {
        let greeting = compose(Mechanism::Null, true);
        check(&greeting, Mechanism::Null).unwrap();
        for end in 0..LEN {
            assert!(may_become_one(&greeting[..end]));
        }
        let mut old = greeting;
        old[VERSION] = 1;
        assert_eq!(check(&old, Mechanism::Null), Err(Violation::NotZmtp));
        assert!(!may_become_one(b"GET / HTTP/1.1"));
        let mut plain = greeting;
        plain[MECHANISM][..5].copy_from_slice(b"PLAIN");
        assert!(matches!(
            check(&plain, Mechanism::Null),
            Err(Violation::Mechanism { theirs, .. }) if theirs == "PLAIN"
        ));
    }
}
