//! Python's numbers, without their signs.

use super::Literal;

pub(super) enum Unsigned {
    Int(u64),
    Float(f64),
}

pub(super) fn signed(value: u64, negative: bool) -> Option<Literal> {
    let value = i128::from(value);
    let value = if negative { -value } else { value };
    i64::try_from(value).ok().map(Literal::Int)
}

/// Where a number's token ends: letters and digits belong to it, and a sign after an exponent's `e`.
pub(super) fn number_end(text: &str) -> usize {
    let is_hexadecimal = text.starts_with("0x") || text.starts_with("0X");
    let mut previous = ' ';
    for (at, c) in text.char_indices() {
        let exponent_sign =
            matches!(c, '+' | '-') && matches!(previous, 'e' | 'E') && !is_hexadecimal;
        if !(c.is_alphanumeric() || matches!(c, '.' | '_') || exponent_sign) {
            return at;
        }
        previous = c;
    }
    text.len()
}

pub(super) fn unsigned(token: &str) -> Option<Unsigned> {
    let lower = token.to_ascii_lowercase();
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = lower.strip_prefix(prefix) {
            // An underscore may stand right after the prefix.
            let digits = digits.strip_prefix('_').unwrap_or(digits);
            return integer(digits, radix).map(Unsigned::Int);
        }
    }
    if lower
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'_')
    {
        let leading_zero =
            lower.starts_with('0') && lower.bytes().any(|b| !matches!(b, b'0' | b'_'));
        return integer(&lower, 10)
            .filter(|_| !leading_zero)
            .map(Unsigned::Int);
    }
    float(&lower).map(Unsigned::Float)
}

/// Digits with single underscores between them. Too large ones saturate, which the caller refuses.
fn integer(digits: &str, radix: u32) -> Option<u64> {
    let digits = without_underscores(digits, radix)?;
    if digits.is_empty() {
        return None;
    }
    Some(u64::from_str_radix(&digits, radix).unwrap_or(u64::MAX))
}

fn without_underscores(digits: &str, radix: u32) -> Option<String> {
    let mut plain = String::with_capacity(digits.len());
    for part in digits.split('_') {
        let fits = part.chars().all(|c| c.is_digit(radix));
        if !fits || (part.is_empty() && !digits.is_empty()) {
            return None;
        }
        plain.push_str(part);
    }
    Some(plain)
}

fn float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = without_underscores(whole, 10)?;
    let fraction = without_underscores(fraction, 10)?;
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let exponent = match exponent {
        None => "0".to_owned(),
        Some(exponent) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ("-", digits),
                None => ("", exponent.strip_prefix('+').unwrap_or(exponent)),
            };
            let digits = without_underscores(digits, 10)?;
            if digits.is_empty() {
                return None;
            }
            format!("{sign}{digits}")
        }
    };
    format!("0{whole}.{fraction}0e{exponent}").parse().ok()
}
