//! HMAC-SHA256 over header, parent header, metadata and content, as lower-case hexadecimal text
//! (jupyter_client `Session.sign`). An empty key switches signing off.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

/// The one scheme that is spoken; also its name in connection files.
pub const SCHEME: &str = "hmac-sha256";

/// The bytes of a signature that was found right.
pub type Digest = [u8; 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    #[error("the message is not signed")]
    Unsigned,
    #[error("the signature is wrong")]
    Wrong,
    #[error("the message was received before")]
    Replayed,
}

/// Signs and checks with one connection file's key. Cloning is cheap; the padded key is hashed once.
#[derive(Clone)]
pub struct Signer {
    keyed: Option<Hmac<Sha256>>,
}

impl Signer {
    pub fn new(key: &[u8]) -> Self {
        let keyed = (!key.is_empty())
            .then(|| Hmac::new_from_slice(key).expect("HMAC takes a key of any length"));
        Self { keyed }
    }

    /// The signature frame: 64 hexadecimal digits, or nothing without a key.
    pub fn sign(&self, parts: [&[u8]; 4]) -> Vec<u8> {
        let Some(keyed) = &self.keyed else {
            return Vec::new();
        };
        let digest = Self::feed(keyed, parts).finalize().into_bytes();
        let mut hex = Vec::with_capacity(2 * digest.len());
        for byte in digest {
            hex.push(HEX[usize::from(byte >> 4)]);
            hex.push(HEX[usize::from(byte & 15)]);
        }
        hex
    }

    /// `Ok(None)` without a key; the digest, to be remembered, when the signature is right.
    pub fn verify(
        &self,
        signature: &[u8],
        parts: [&[u8]; 4],
    ) -> Result<Option<Digest>, SignatureError> {
        let Some(keyed) = &self.keyed else {
            return Ok(None);
        };
        if signature.is_empty() {
            return Err(SignatureError::Unsigned);
        }
        let digest = unhex(signature).ok_or(SignatureError::Wrong)?;
        Self::feed(keyed, parts)
            .verify_slice(&digest)
            .map_err(|_| SignatureError::Wrong)?;
        Ok(Some(digest))
    }

    fn feed(keyed: &Hmac<Sha256>, parts: [&[u8]; 4]) -> Hmac<Sha256> {
        let mut mac = keyed.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn unhex(text: &[u8]) -> Option<Digest> {
    let mut digest = [0; 32];
    if text.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

/// Lower case only: `hexdigest` writes nothing else, and one message must not have two signatures.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("signs", &self.keyed.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [&[u8]; 4] = [b"{\"msg_id\":\"1\"}", b"{}", b"{}", b"{\"a\":2}"];

    #[test]
    fn a_known_signature() {
        // python: hmac.new(b"key", b'{"msg_id":"1"}{}{}{"a":2}', "sha256").hexdigest()
        let signature = Signer::new(b"key").sign(PARTS);
        assert_eq!(
            String::from_utf8(signature).unwrap(),
            "ac8080b66a8170aa2e9974a4d717577d318a9cd3aa2884f5f6e3e4a5aa7798aa"
        );
    }

    #[test]
    fn only_the_exact_signature_passes() {
        let signer = Signer::new(b"key");
        let right = signer.sign(PARTS);
        assert!(signer.verify(&right, PARTS).unwrap().is_some());
        assert_eq!(signer.verify(b"", PARTS), Err(SignatureError::Unsigned));
        assert_eq!(
            signer.verify(&right[1..], PARTS),
            Err(SignatureError::Wrong)
        );
        assert_eq!(
            signer.verify(&right.to_ascii_uppercase(), PARTS),
            Err(SignatureError::Wrong)
        );
        assert_eq!(
            Signer::new(b"other").verify(&right, PARTS),
            Err(SignatureError::Wrong)
        );
        let mut changed = PARTS;
        changed[3] = b"{\"a\":3}";
        assert_eq!(signer.verify(&right, changed), Err(SignatureError::Wrong));
    }

    #[test]
    fn without_a_key_nothing_is_signed_or_checked() {
        let signer = Signer::new(b"");
        assert!(signer.sign(PARTS).is_empty());
        assert_eq!(signer.verify(b"whatever", PARTS), Ok(None));
    }
}
