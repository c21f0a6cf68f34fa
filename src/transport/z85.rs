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
        // The example of https://rfc.zeromq.org/spec/32/, four times over.
        let bytes = [0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b].repeat(4);
        let key: [u8; 32] = bytes.try_into().unwrap();
        let text = "HelloWorld".repeat(4);
        assert_eq!(encode_key(&key), text);
        assert_eq!(decode_key(&text), Some(key));
    }

    #[test]
    fn what_is_no_key_is_told() {
        for wrong in [
            "",
            "short",
            &"~".repeat(KEY),
            &"#".repeat(KEY),
            &"é".repeat(KEY / 2),
        ] {
            assert_eq!(decode_key(wrong), None, "{wrong}");
        }
    }
}
