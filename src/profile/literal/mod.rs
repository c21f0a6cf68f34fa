//! Python literals: what `ast.literal_eval` accepts, less complex numbers. Pure; no input makes it panic.

mod number;
mod parser;

use std::fmt::{self, Write as _};

use serde_json::{Map, Number, Value};
use thiserror::Error;

/// A Python value that is written down as such.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<Self>),
    Tuple(Vec<Self>),
    Set(Vec<Self>),
    /// In the order written.
    Dict(Vec<(Self, Self)>),
}

/// Why a text is no literal, and at which byte that shows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}")]
pub struct LiteralError {
    pub what: &'static str,
    pub at: usize,
}

impl Literal {
    /// Reads the whole text as one literal; space and comments around it do not matter.
    pub fn parse(text: &str) -> Result<Self, LiteralError> {
        parser::parse(text)
    }

    /// As JSON has it: tuples and sets become lists, bytes become text when they are UTF-8. Nothing for values that
    /// JSON cannot say (dictionaries with odd keys, infinite numbers, bytes that are no text).
    pub fn to_json(&self) -> Option<Value> {
        Some(match self {
            Self::None => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::from(*value),
            Self::Float(value) => Value::Number(Number::from_f64(*value)?),
            Self::Str(text) => Value::String(text.clone()),
            Self::Bytes(bytes) => Value::String(String::from_utf8(bytes.clone()).ok()?),
            Self::List(items) | Self::Tuple(items) | Self::Set(items) => {
                Value::Array(items.iter().map(Self::to_json).collect::<Option<_>>()?)
            }
            Self::Dict(pairs) => {
                let mut map = Map::new();
                for (key, value) in pairs {
                    let Self::Str(key) = key else { return None };
                    map.insert(key.clone(), value.to_json()?);
                }
                Value::Object(map)
            }
        })
    }

    /// The reverse of [`Self::to_json`].
    pub fn from_json(value: &Value) -> Self {
        match value {
            Value::Null => Self::None,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => number.as_i64().map_or_else(
                || Self::Float(number.as_f64().unwrap_or(f64::INFINITY)),
                Self::Int,
            ),
            Value::String(text) => Self::Str(text.clone()),
            Value::Array(items) => Self::List(items.iter().map(Self::from_json).collect()),
            Value::Object(map) => Self::Dict(
                map.iter()
                    .map(|(key, value)| (Self::Str(key.clone()), Self::from_json(value)))
                    .collect(),
            ),
        }
    }

    /// What Python calls it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Set(_) => "set",
            Self::Dict(_) => "dict",
        }
    }
}

/// As Python's `repr` writes it.
impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Str(text) => write_quoted(f, text, false),
            Self::Bytes(bytes) => {
                f.write_char('b')?;
                let text: String = bytes.iter().copied().map(char::from).collect();
                write_quoted(f, &text, true)
            }
            Self::List(items) => write_items(f, "[", items, "]"),
            Self::Tuple(items) if items.len() == 1 => write_items(f, "(", items, ",)"),
            Self::Tuple(items) => write_items(f, "(", items, ")"),
            Self::Set(items) if items.is_empty() => f.write_str("set()"),
            Self::Set(items) => write_items(f, "{", items, "}"),
            Self::Dict(pairs) => {
                f.write_char('{')?;
                for (index, (key, value)) in pairs.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{key}: {value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

fn write_items(
    f: &mut fmt::Formatter<'_>,
    open: &str,
    items: &[Literal],
    close: &str,
) -> fmt::Result {
    f.write_str(open)?;
    for (index, item) in items.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    f.write_str(close)
}

/// Between single quotes, or double ones when only single ones stand in it.
fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str, is_bytes: bool) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    f.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c == quote => write!(f, "\\{c}")?,
            c if c.is_control() || (is_bytes && !c.is_ascii()) => {
                write!(f, "\\x{:02x}", u32::from(c))?;
            }
            c => f.write_char(c)?,
        }
    }
    f.write_char(quote)
}

#[cfg(test)]
mod tests;
