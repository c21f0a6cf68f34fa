//! Python literals: what `ast.literal_eval` accepts, less complex numbers. Pure; no input makes it panic.

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

/// How deep lists may nest; Python itself gives up at about 100.
const MAX_DEPTH: usize = 60;

impl Literal {
    /// Reads the whole text as one literal; space and comments around it do not matter.
    pub fn parse(text: &str) -> Result<Self, LiteralError> {
        let mut parser = Parser { text, at: 0 };
        let literal = parser.top()?;
        parser.skip_space();
        match parser.rest() {
            "" => Ok(literal),
            _ => Err(parser.error("something follows the value")),
        }
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

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn error(&self, what: &'static str) -> LiteralError {
        LiteralError { what, at: self.at }
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    /// Blanks, line ends, comments, and backslashes at line ends.
    fn skip_space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with('#') {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("\\\n") {
                self.at += 2;
            } else if trimmed.starts_with("\\\r\n") {
                self.at += 3;
            } else {
                return;
            }
        }
    }

    /// A value, or several with commas: a tuple without parentheses.
    fn top(&mut self) -> Result<Literal, LiteralError> {
        self.skip_space();
        let first = self.value(0)?;
        self.skip_space();
        if self.peek() != Some(',') {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.eat(',') {
            self.skip_space();
            if self.rest().is_empty() {
                break;
            }
            items.push(self.value(0)?);
            self.skip_space();
        }
        Ok(Literal::Tuple(items))
    }

    fn value(&mut self, depth: usize) -> Result<Literal, LiteralError> {
        if depth > MAX_DEPTH {
            return Err(self.error("it is nested too deeply"));
        }
        match self.peek() {
            None => Err(self.error("a value is missing")),
            Some('[') => {
                self.at += 1;
                Ok(Literal::List(self.items(']', depth)?.0))
            }
            Some('(') => {
                self.at += 1;
                let (mut items, has_comma) = self.items(')', depth)?;
                if items.len() == 1 && !has_comma {
                    return Ok(items.remove(0));
                }
                Ok(Literal::Tuple(items))
            }
            Some('{') => {
                self.at += 1;
                self.braces(depth)
            }
            Some('0'..='9' | '.' | '+' | '-') => self.number(),
            Some('\'' | '"') => self.strings(),
            Some(_) => self.word(),
        }
    }

    /// Items up to the closing bracket, and whether a comma stood anywhere.
    fn items(&mut self, close: char, depth: usize) -> Result<(Vec<Literal>, bool), LiteralError> {
        let mut items = Vec::new();
        let mut has_comma = false;
        loop {
            self.skip_space();
            if self.eat(close) {
                return Ok((items, has_comma));
            }
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.eat(',') {
                has_comma = true;
            } else if self.peek() != Some(close) {
                return Err(self.error("a comma or a closing bracket is missing"));
            }
        }
    }

    fn braces(&mut self, depth: usize) -> Result<Literal, LiteralError> {
        self.skip_space();
        if self.eat('}') {
            return Ok(Literal::Dict(Vec::new()));
        }
        let first = self.value(depth + 1)?;
        self.skip_space();
        if !self.eat(':') {
            let mut items = vec![first];
            if self.eat(',') {
                items.extend(self.items('}', depth)?.0);
            } else if !self.eat('}') {
                return Err(self.error("a comma or a closing bracket is missing"));
            }
            return Ok(Literal::Set(items));
        }
        let mut pairs = Vec::new();
        let mut key = first;
        loop {
            self.skip_space();
            let value = self.value(depth + 1)?;
            // A later value takes the place of an earlier one, as in Python.
            match pairs.iter_mut().find(|(known, _)| *known == key) {
                Some((_, old)) => *old = value,
                None => pairs.push((key, value)),
            }
            self.skip_space();
            let has_comma = self.eat(',');
            self.skip_space();
            if self.eat('}') {
                return Ok(Literal::Dict(pairs));
            }
            if !has_comma {
                return Err(self.error("a comma or a closing bracket is missing"));
            }
            key = self.value(depth + 1)?;
            self.skip_space();
            if !self.eat(':') {
                return Err(self.error("a colon is missing"));
            }
        }
    }

    fn word(&mut self) -> Result<Literal, LiteralError> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let word = &rest[..end];
        if rest[end..].starts_with(['\'', '"']) {
            return self.strings();
        }
        let literal = match word {
            "None" => Literal::None,
            "True" => Literal::Bool(true),
            "False" => Literal::Bool(false),
            _ => return Err(self.error("it is no plain value")),
        };
        self.at += end;
        Ok(literal)
    }

    fn number(&mut self) -> Result<Literal, LiteralError> {
        let start = self.at;
        let negative = match self.peek() {
            Some('-') => {
                self.at += 1;
                true
            }
            Some('+') => {
                self.at += 1;
                false
            }
            _ => false,
        };
        self.skip_space();
        let rest = self.rest();
        let end = number_end(rest);
        let token = &rest[..end];
        self.at += end;
        let number = unsigned(token).ok_or(LiteralError {
            what: "it is no number",
            at: start,
        })?;
        match (number, negative) {
            (Unsigned::Int(value), _) => signed(value, negative).ok_or(LiteralError {
                what: "the number is too large",
                at: start,
            }),
            (Unsigned::Float(value), true) => Ok(Literal::Float(-value)),
            (Unsigned::Float(value), false) => Ok(Literal::Float(value)),
        }
    }

    /// One or more string literals side by side, which Python joins.
    fn strings(&mut self) -> Result<Literal, LiteralError> {
        let mut joined = self.string()?;
        loop {
            let before = self.at;
            self.skip_space();
            if !starts_string(self.rest()) {
                self.at = before;
                return Ok(joined);
            }
            match (&mut joined, self.string()?) {
                (Literal::Str(text), Literal::Str(more)) => text.push_str(&more),
                (Literal::Bytes(bytes), Literal::Bytes(more)) => bytes.extend(more),
                _ => return Err(self.error("text and bytes cannot be joined")),
            }
        }
    }

    fn string(&mut self) -> Result<Literal, LiteralError> {
        let prefix =
            string_prefix(self.rest()).ok_or_else(|| self.error("it is no plain value"))?;
        self.at += prefix.len;
        let quote = self.peek().unwrap_or('\'');
        let triple: String = std::iter::repeat_n(quote, 3).collect();
        let (close, is_triple) = if self.rest().starts_with(&triple) {
            (triple, true)
        } else {
            (quote.to_string(), false)
        };
        self.at += close.len();
        let mut text = Text::new(prefix.is_bytes);
        loop {
            if self.rest().starts_with(&close) {
                self.at += close.len();
                return Ok(text.finish());
            }
            let Some(c) = self.peek() else {
                return Err(self.error("the closing quote is missing"));
            };
            match c {
                '\n' | '\r' if !is_triple => {
                    return Err(self.error("the closing quote is missing"));
                }
                '\\' if prefix.is_raw => {
                    // In a raw string a backslash keeps the quote after it from closing, and both stay.
                    self.at += 1;
                    text.push('\\').map_err(|what| self.error(what))?;
                    if let Some(next) = self.peek() {
                        self.at += next.len_utf8();
                        text.push(next).map_err(|what| self.error(what))?;
                    }
                }
                '\\' => self.escape(&mut text)?,
                '\r' => {
                    // Python reads source with universal newlines.
                    self.at += 1;
                    self.eat('\n');
                    text.push('\n').map_err(|what| self.error(what))?;
                }
                c => {
                    self.at += c.len_utf8();
                    text.push(c).map_err(|what| self.error(what))?;
                }
            }
        }
    }

    fn escape(&mut self, text: &mut Text) -> Result<(), LiteralError> {
        self.at += 1;
        let Some(c) = self.peek() else {
            return Err(self.error("the closing quote is missing"));
        };
        let at = self.at;
        self.at += c.len_utf8();
        let plain = match c {
            '\n' => return Ok(()),
            '\r' => {
                self.eat('\n');
                return Ok(());
            }
            '\\' | '\'' | '"' => c,
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '0'..='7' => {
                self.at = at;
                let code = self.digits(8, 1, 3)?;
                return text.push_code(code).map_err(|what| self.error(what));
            }
            'x' => {
                let code = self.digits(16, 2, 2)?;
                return text.push_code(code).map_err(|what| self.error(what));
            }
            'u' | 'U' if !text.is_bytes => {
                let count = if c == 'u' { 4 } else { 8 };
                let code = self.digits(16, count, count)?;
                return text.push_code(code).map_err(|what| self.error(what));
            }
            'N' if !text.is_bytes => {
                return Err(self.error("characters cannot be written by their names here"));
            }
            // Unknown escapes stay as they are.
            other => {
                text.push('\\').map_err(|what| self.error(what))?;
                other
            }
        };
        text.push(plain).map_err(|what| self.error(what))
    }

    fn digits(&mut self, radix: u32, least: usize, most: usize) -> Result<u32, LiteralError> {
        let mut code: u32 = 0;
        let mut count = 0;
        while count < most {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(radix)) else {
                break;
            };
            code = code.saturating_mul(radix).saturating_add(digit);
            self.at += 1;
            count += 1;
        }
        if count < least {
            return Err(self.error("a character's code is too short"));
        }
        Ok(code)
    }
}

/// What is being read between quotes.
struct Text {
    is_bytes: bool,
    text: String,
    bytes: Vec<u8>,
}

impl Text {
    fn new(is_bytes: bool) -> Self {
        Self {
            is_bytes,
            text: String::new(),
            bytes: Vec::new(),
        }
    }

    fn push(&mut self, c: char) -> Result<(), &'static str> {
        if !self.is_bytes {
            self.text.push(c);
        } else if c.is_ascii() {
            self.bytes.push(c as u8);
        } else {
            return Err("bytes can only hold ASCII characters");
        }
        Ok(())
    }

    fn push_code(&mut self, code: u32) -> Result<(), &'static str> {
        if self.is_bytes {
            // Python keeps the low eight bits of an octal code.
            self.bytes.push((code & 0xff) as u8);
            return Ok(());
        }
        self.text
            .push(char::from_u32(code).ok_or("there is no such character")?);
        Ok(())
    }

    fn finish(self) -> Literal {
        if self.is_bytes {
            Literal::Bytes(self.bytes)
        } else {
            Literal::Str(self.text)
        }
    }
}

struct Prefix {
    len: usize,
    is_raw: bool,
    is_bytes: bool,
}

/// `r`, `b`, `u` and their pairs before a quote. Formatted strings are no literals.
fn string_prefix(text: &str) -> Option<Prefix> {
    let len = text.find(['\'', '"'])?;
    let prefix = text.get(..len)?.to_ascii_lowercase();
    let (is_raw, is_bytes) = match prefix.as_str() {
        "" | "u" => (false, false),
        "r" => (true, false),
        "b" => (false, true),
        "rb" | "br" => (true, true),
        _ => return None,
    };
    Some(Prefix {
        len,
        is_raw,
        is_bytes,
    })
}

/// Begins this text with a quote, with or without a prefix, of whatever kind?
fn starts_string(text: &str) -> bool {
    let quote = text.find(['\'', '"']);
    quote.is_some_and(|at| at <= 2 && text[..at].chars().all(|c| c.is_ascii_alphabetic()))
}

enum Unsigned {
    Int(u64),
    Float(f64),
}

fn signed(value: u64, negative: bool) -> Option<Literal> {
    let value = i128::from(value);
    let value = if negative { -value } else { value };
    i64::try_from(value).ok().map(Literal::Int)
}

/// Where a number's token ends: letters and digits belong to it, and a sign after an exponent's `e`.
fn number_end(text: &str) -> usize {
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

fn unsigned(token: &str) -> Option<Unsigned> {
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

#[cfg(test)]
#[path = "literal_tests.rs"]
mod tests;
