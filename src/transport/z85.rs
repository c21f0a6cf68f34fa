//! Z85, in which ZeroMQ writes keys: five printable characters for four bytes (<https://rfc.zeromq.org/spec/32/>).

const DIGITS: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

/// Characters of a key.
const KEY: usize = 40;

pub(super) fn encode_key(key: &[u8; 32]) -> String {
    let mut text = String::with_capacity(KEY);
    for chunk in key.as_chunks::<4>().0 {
        let number = u32::from_be_bytes(*chunk);
        for power in (0..5).rev() {
            let digit = number / 85u32.pow(power) % 85;
            text.push(char::from(DIGITS[digit as usize]));
        }
    }
    text
}

/// `None` if `text` is no key.
pub(super) fn decode_key(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != KEY {
        return None;
    }
    let mut key = [0; 32];
    for (five, four) in text.chunks(5).zip(key.chunks_mut(4)) {
        let mut number = 0u32;
        for digit in five {
            let value = DIGITS.iter().position(|other| other == digit)? as u32;
            number = number.checked_mul(85)?.checked_add(value)?;
        }
        four.copy_from_slice(&number.to_be_bytes());
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_the_specification_has_them() {
        // From CurveZMQ's own example (https://rfc.zeromq.org/spec/32/ and libzmq's zmq_curve_keypair manual).
        let text = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";
        let key = decode_key(text).unwrap();
        assert_eq!(key[..4], [0x8e, 0x0b, 0xdd, 0x69]);
        assert_eq!(encode_key(&key), text);
        for wrong in ["", "short", &"~".repeat(KEY), &"#".repeat(KEY)] {
            assert_eq!(decode_key(wrong), None, "{wrong}");
        }
    }
}
