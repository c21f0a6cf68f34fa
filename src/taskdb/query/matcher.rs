//! Does a record match? The reference for every store.

use std::cell::OnceCell;

use jiff::tz::TimeZone;
use serde_json::{Number, Value};

use super::literal::{Seen, compare_numbers, integer};
use super::{Node, Path, Query, Test};
use crate::taskdb::record::{Key, Kind, TaskRecord};

impl Query {
    /// Whether the record matches. JSON that is none counts as null.
    pub fn matches(&self, record: &TaskRecord) -> bool {
        let view = View {
            record,
            local: &self.local,
            parsed: Default::default(),
        };
        view.holds(&self.root)
    }
}

/// A record, and what of it has been parsed.
struct View<'a> {
    record: &'a TaskRecord,
    local: &'a TimeZone,
    parsed: [OnceCell<Value>; JSON_KEYS.len()],
}

const JSON_KEYS: [Key; 9] = [
    Key::Header,
    Key::Metadata,
    Key::Content,
    Key::ResultHeader,
    Key::ResultMetadata,
    Key::ResultContent,
    Key::ExecuteResult,
    Key::Error,
    Key::DisplayData,
];

const NULL: &Value = &Value::Null;

impl View<'_> {
    fn holds(&self, node: &Node) -> bool {
        match node {
            Node::And(nodes) => nodes.iter().all(|node| self.holds(node)),
            Node::Or(nodes) => nodes.iter().any(|node| self.holds(node)),
            Node::Not(node) => !self.holds(node),
            Node::Test(path, test) => self.test(path, test),
        }
    }

    fn test(&self, path: &Path, test: &Test) -> bool {
        match path.key.kind() {
            Kind::Text => {
                let text = self.record.text(path.key);
                test.holds(text.map_or(Seen::Null, Seen::Text), self.local)
            }
            Kind::Date => {
                let date = self.record.date(path.key);
                test.holds(date.map_or(Seen::Null, Seen::Date), self.local)
            }
            Kind::Buffers => {
                let some = self.record.buffer_list(path.key).is_some();
                test.holds(if some { Seen::Buffers } else { Seen::Null }, self.local)
            }
            Kind::Json => {
                let mut found = Found::default();
                collect(self.parsed(path.key), &path.steps, &mut found);
                self.test_found(&found, test)
            }
        }
    }

    /// A list satisfies what one of its elements satisfies, and what it satisfies as a whole.
    fn test_found(&self, found: &Found<'_>, test: &Test) -> bool {
        if let Test::All(wanted) = test {
            return !wanted.is_empty()
                && wanted.iter().all(|wanted| {
                    let equal = |value| wanted.equals(Seen::Json(value), self.local);
                    found.candidates().any(equal)
                });
        }
        if let Test::Exists = test {
            return found.exists();
        }
        found
            .candidates()
            .any(|value| test.holds(see(value), self.local))
    }

    fn parsed(&self, key: Key) -> &Value {
        let Some(slot) = JSON_KEYS.iter().position(|known| *known == key) else {
            return NULL;
        };
        self.parsed[slot].get_or_init(|| {
            let json = self.record.json(key);
            json.and_then(|json| serde_json::from_slice(json).ok())
                .unwrap_or_default()
        })
    }
}

fn see(value: &Value) -> Seen<'_> {
    match value {
        Value::Null => Seen::Null,
        value => Seen::Json(value),
    }
}

/// What a path leads to: one value, or one for each element of a list on the way.
#[derive(Default)]
struct Found<'a> {
    values: Vec<&'a Value>,
}

impl<'a> Found<'a> {
    /// Everything that may satisfy a test: the values and the elements of those that are lists; null when there is
    /// nothing.
    fn candidates(&self) -> impl Iterator<Item = &'a Value> {
        let nothing = self.values.is_empty().then_some(NULL);
        let values = self.values.iter().copied();
        let elements = values.clone().filter_map(Value::as_array).flatten();
        nothing.into_iter().chain(values).chain(elements)
    }

    fn exists(&self) -> bool {
        self.values.iter().any(|value| !value.is_null())
    }
}

fn collect<'a>(value: &'a Value, steps: &[Box<str>], found: &mut Found<'a>) {
    let Some((step, rest)) = steps.split_first() else {
        found.values.push(value);
        return;
    };
    match value {
        Value::Object(map) => match map.get(&**step) {
            Some(inner) => collect(inner, rest, found),
            // Of a list of objects one that lacks the name is enough for null.
            None => found.values.push(NULL),
        },
        Value::Array(items) => {
            if let Ok(index) = step.parse::<usize>() {
                if let Some(inner) = items.get(index) {
                    collect(inner, rest, found);
                }
            } else {
                for item in items.iter().filter(|item| item.is_object()) {
                    collect(item, steps, found);
                }
            }
        }
        _ => {}
    }
}

impl Test {
    /// Whether one value satisfies it.
    fn holds(&self, seen: Seen<'_>, local: &TimeZone) -> bool {
        match self {
            Self::Eq(literal) => literal.equals(seen, local),
            Self::Compare(order, literal) => literal
                .order(seen, local)
                .is_some_and(|found| order.holds(found)),
            Self::In(set) => set.contains(seen, local),
            Self::All(wanted) => {
                !wanted.is_empty() && wanted.iter().all(|wanted| wanted.equals(seen, local))
            }
            Self::Mod { divisor, remainder } => match seen {
                Seen::Json(Value::Number(number)) => modulo(number, divisor).is_some_and(|found| {
                    compare_numbers(&found, remainder).is_some_and(|o| o.is_eq())
                }),
                _ => false,
            },
            Self::Exists => !matches!(seen, Seen::Null),
            Self::Glob(glob) => text(seen).is_some_and(|text| glob.matches(text)),
            Self::Regex(regex) => text(seen).is_some_and(|text| regex.is_match(text)),
        }
    }
}

fn text(seen: Seen<'_>) -> Option<&str> {
    match seen {
        Seen::Text(text) => Some(text),
        Seen::Json(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Python's `%`: the result has the sign of the divisor.
fn modulo(number: &Number, divisor: &Number) -> Option<Number> {
    if let (Some(number), Some(divisor)) = (integer(number), integer(divisor)) {
        let rest = number.checked_rem(divisor)?;
        let rest = if rest != 0 && (rest < 0) != (divisor < 0) {
            rest + divisor
        } else {
            rest
        };
        return Number::from_i128(rest);
    }
    let (number, divisor) = (number.as_f64()?, divisor.as_f64()?);
    let rest = number % divisor;
    let rest = if rest != 0.0 && (rest < 0.0) != (divisor < 0.0) {
        rest + divisor
    } else {
        rest
    };
    Number::from_f64(rest)
}
