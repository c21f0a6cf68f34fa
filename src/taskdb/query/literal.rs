//! The values that stand in a query, and how a record's values compare with them.

use std::cmp::Ordering;

use hashbrown::HashSet;
use jiff::tz::TimeZone;
use serde_json::{Number, Value};

use crate::protocol::Timestamp;

/// A value of a query.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::taskdb) enum Literal {
    Null,
    Bool(bool),
    Number(Number),
    Text {
        text: Box<str>,
        /// Set where a date field may take it for a date: `2024-01-31`, `2024-01-31 12:00`.
        loose: Option<Timestamp>,
    },
    Date(Timestamp),
    List(Vec<Self>),
    Object(Vec<(Box<str>, Self)>),
}

/// A record's value as a test sees it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen<'a> {
    Null,
    Text(&'a str),
    Date(Timestamp),
    Json(&'a Value),
    Buffers,
}

impl Literal {
    pub(super) fn parse(value: &Value, local: &TimeZone) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(text) => match date(text, local) {
                Some(date) => Self::Date(date),
                None => Self::Text {
                    text: text.as_str().into(),
                    loose: loose_date(text, local),
                },
            },
            Value::Array(items) => {
                Self::List(items.iter().map(|item| Self::parse(item, local)).collect())
            }
            Value::Object(map) => Self::Object(
                map.iter()
                    .map(|(name, item)| (name.as_str().into(), Self::parse(item, local)))
                    .collect(),
            ),
        }
    }

    /// A text that is never a date, such as a msg_id.
    pub(super) fn exact_text(text: &str) -> Self {
        Self::Text {
            text: text.into(),
            loose: None,
        }
    }

    /// What a date field is compared with.
    pub(in crate::taskdb) fn as_date(&self) -> Option<Timestamp> {
        match self {
            Self::Date(date) => Some(*date),
            Self::Text { loose, .. } => *loose,
            _ => None,
        }
    }

    pub(super) fn equals(&self, seen: Seen<'_>, local: &TimeZone) -> bool {
        match (self, seen) {
            (Self::Null, Seen::Null) => true,
            (_, Seen::Null | Seen::Buffers) => false,
            (_, Seen::Json(value)) => self.equals_json(value, local),
            (Self::Text { text, .. }, Seen::Text(seen)) => **text == *seen,
            (Self::Text { loose, .. }, Seen::Date(seen)) => *loose == Some(seen),
            (Self::Date(wanted), Seen::Date(seen)) => *wanted == seen,
            (Self::Date(wanted), Seen::Text(seen)) => date(seen, local) == Some(*wanted),
            _ => false,
        }
    }

    fn equals_json(&self, value: &Value, local: &TimeZone) -> bool {
        match (self, value) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(wanted), Value::Bool(seen)) => wanted == seen,
            (Self::Number(wanted), Value::Number(seen)) => {
                compare_numbers(seen, wanted) == Some(Ordering::Equal)
            }
            (Self::Text { .. } | Self::Date(_), Value::String(seen)) => {
                self.equals(Seen::Text(seen), local)
            }
            (Self::List(wanted), Value::Array(seen)) => {
                wanted.len() == seen.len()
                    && wanted
                        .iter()
                        .zip(seen)
                        .all(|(wanted, seen)| wanted.equals_json(seen, local))
            }
            (Self::Object(wanted), Value::Object(seen)) => {
                wanted.len() == seen.len()
                    && wanted.iter().all(|(name, wanted)| {
                        seen.get(&**name)
                            .is_some_and(|seen| wanted.equals_json(seen, local))
                    })
            }
            _ => false,
        }
    }

    /// How a record's value stands to this one; [`None`] for another type.
    pub(super) fn order(&self, seen: Seen<'_>, local: &TimeZone) -> Option<Ordering> {
        match (self, seen) {
            (Self::Text { text, .. }, Seen::Text(seen)) => Some(seen.cmp(text)),
            (Self::Text { loose, .. }, Seen::Date(seen)) => loose.map(|wanted| seen.cmp(&wanted)),
            (Self::Date(wanted), Seen::Date(seen)) => Some(seen.cmp(wanted)),
            (Self::Date(wanted), Seen::Text(seen)) => {
                date(seen, local).map(|seen| seen.cmp(wanted))
            }
            (_, Seen::Json(Value::String(seen))) => self.order(Seen::Text(seen), local),
            (Self::Number(wanted), Seen::Json(Value::Number(seen))) => {
                compare_numbers(seen, wanted)
            }
            _ => None,
        }
    }
}

/// The values of an `$in`, so that ten thousand msg_ids cost no more than one.
#[derive(Clone, Debug, Default)]
pub(in crate::taskdb) struct LiteralSet {
    texts: HashSet<Box<str>>,
    /// What date fields take the texts for.
    loose: HashSet<Timestamp>,
    dates: HashSet<Timestamp>,
    null: bool,
    others: Vec<Literal>,
}

impl FromIterator<Literal> for LiteralSet {
    fn from_iter<I: IntoIterator<Item = Literal>>(literals: I) -> Self {
        let mut set = Self::default();
        for literal in literals {
            match literal {
                Literal::Null => set.null = true,
                Literal::Text { text, loose } => {
                    set.texts.insert(text);
                    set.loose.extend(loose);
                }
                Literal::Date(date) => {
                    set.dates.insert(date);
                }
                other => set.others.push(other),
            }
        }
        set
    }
}

impl LiteralSet {
    pub(super) fn contains(&self, seen: Seen<'_>, local: &TimeZone) -> bool {
        match seen {
            Seen::Null | Seen::Json(Value::Null) => self.null,
            Seen::Buffers => false,
            Seen::Date(seen) => self.dates.contains(&seen) || self.loose.contains(&seen),
            Seen::Text(seen) => {
                self.texts.contains(seen)
                    || (!self.dates.is_empty()
                        && date(seen, local).is_some_and(|seen| self.dates.contains(&seen)))
            }
            Seen::Json(Value::String(seen)) => self.contains(Seen::Text(seen), local),
            Seen::Json(_) => self.others.iter().any(|other| other.equals(seen, local)),
        }
    }

    pub(in crate::taskdb) fn has_null(&self) -> bool {
        self.null
    }

    /// Whether texts of records are compared as dates.
    pub(in crate::taskdb) fn has_dates(&self) -> bool {
        !self.dates.is_empty()
    }

    pub(in crate::taskdb) fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(|text| &**text)
    }

    /// What a date field may be.
    pub(in crate::taskdb) fn dates(&self) -> impl Iterator<Item = Timestamp> {
        self.dates.union(&self.loose).copied()
    }

    /// The texts, if there is nothing else.
    pub(super) fn only_texts(&self) -> Option<Vec<&str>> {
        let only = !self.null && self.dates.is_empty() && self.others.is_empty();
        only.then(|| self.texts.iter().map(|text| &**text).collect())
    }
}

/// Text that is a date wherever it stands: the form that ipyparallel's `extract_dates` takes for one.
pub(super) fn date(text: &str, local: &TimeZone) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let form = b"dddd-dd-ddTdd:dd:dd";
    if bytes.len() < form.len() || bytes.len() > 32 {
        return None;
    }
    let fits = form.iter().zip(bytes).all(|(form, byte)| match form {
        b'd' => byte.is_ascii_digit(),
        form => form == byte,
    });
    if !fits {
        return None;
    }
    let mut rest = &bytes[form.len()..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=6).contains(&digits) {
            return None;
        }
        rest = &fraction[digits..];
    }
    match rest {
        [] | b"Z" => {}
        [b'+' | b'-', zone @ ..] => {
            let digits = match zone {
                [h1, h2, b':', m1, m2] | [h1, h2, m1, m2] => [h1, h2, m1, m2],
                _ => return None,
            };
            if !digits.iter().all(|b| b.is_ascii_digit()) {
                return None;
            }
        }
        _ => return None,
    }
    loose_date(text, local)
}

/// Any ISO 8601 date or time, to the microsecond.
fn loose_date(text: &str, local: &TimeZone) -> Option<Timestamp> {
    if !text.as_bytes().first().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let parsed = Timestamp::parse(text, local)?;
    Some(Timestamp::from_micros(parsed.as_micros()))
}

/// Exact, also between large integers and fractions, as Python compares them.
pub(super) fn compare_numbers(a: &Number, b: &Number) -> Option<Ordering> {
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        (None, None) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Some(a), None) => compare_mixed(a, b.as_f64()?),
        (None, Some(b)) => compare_mixed(b, a.as_f64()?).map(Ordering::reverse),
    }
}

pub(super) fn integer(number: &Number) -> Option<i128> {
    let signed = number.as_i64().map(i128::from);
    signed.or_else(|| number.as_u64().map(i128::from))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "what is outside of the integers' range was compared before"
)]
fn compare_mixed(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        return None;
    }
    // JSON's integers have 64 bits.
    if b >= 2e19 {
        return Some(Ordering::Less);
    }
    if b <= -2e19 {
        return Some(Ordering::Greater);
    }
    let whole = b.trunc();
    let order = a.cmp(&(whole as i128));
    Some(order.then_with(|| 0.0_f64.total_cmp(&(b - whole + 0.0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_wire_form_is_a_date_everywhere() {
        let utc = TimeZone::UTC;
        for text in [
            "2024-01-31T12:00:00",
            "2024-01-31T12:00:00.5",
            "2024-01-31T12:00:00.123456Z",
            "2024-01-31T12:00:00+01:00",
            "2024-01-31T12:00:00-0130",
        ] {
            assert!(date(text, &utc).is_some(), "{text}");
        }
        for text in [
            "2024-01-31",
            "2024-01-31 12:00:00",
            "2024-01-31T12:00",
            "2024-01-31T12:00:00.1234567",
            "2024-01-31T12:00:00.",
            "2024-01-31T12:00:00z",
            "2024-01-31T12:00:00+1",
            "2024-13-31T12:00:00",
            "é024-01-31T12:00:00",
            "",
        ] {
            assert_eq!(date(text, &utc), None, "{text}");
        }
        assert!(loose_date("2024-01-31", &utc).is_some());
        assert!(loose_date("2024-01-31 12:00", &utc).is_some());
        assert_eq!(loose_date("31", &utc), None);
    }

    #[test]
    fn zones_are_honoured() {
        let east = TimeZone::fixed(jiff::tz::offset(2));
        let noon = date("2024-01-31T12:00:00Z", &TimeZone::UTC);
        for text in [
            "2024-01-31T14:00:00",
            "2024-01-31T13:00:00+0100",
            "2024-01-31T10:30:00-01:30",
        ] {
            assert_eq!(date(text, &east), noon, "{text}");
        }
    }

    #[test]
    fn numbers_compare_exactly() {
        let big = (1_u64 << 53) + 1;
        for (a, b, order) in [
            (json!(1), json!(1.0), Ordering::Equal),
            (
                json!(big),
                json!(9_007_199_254_740_992.0),
                Ordering::Greater,
            ),
            (json!(-3), json!(-3.5), Ordering::Greater),
            (json!(0), json!(-0.0), Ordering::Equal),
            (json!(u64::MAX), json!(1e300), Ordering::Less),
            (json!(i64::MIN), json!(-1e300), Ordering::Greater),
            (json!(3), json!(3.25), Ordering::Less),
        ] {
            let (Value::Number(a), Value::Number(b)) = (a, b) else {
                unreachable!("all are numbers")
            };
            assert_eq!(compare_numbers(&a, &b), Some(order), "{a} {b}");
            assert_eq!(compare_numbers(&b, &a), Some(order.reverse()), "{b} {a}");
        }
    }
}
