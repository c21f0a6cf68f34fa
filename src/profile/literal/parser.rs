//! From text to literal: recursive descent, no deeper than [`MAX_DEPTH`].

use super::number::{Unsigned, number_end, signed, unsigned};
use super::{Literal, LiteralError};

/// How deep lists may nest; Python itself gives up at about 100.
const MAX_DEPTH: usize = 60;

/// Reads the whole text as one literal.
pub(super) fn parse(text: &str) -> Result<Literal, LiteralError> {
    let mut parser = Parser { text, at: 0 };
    let literal = parser.top()?;
    parser.skip_space();
    match parser.rest() {
        "" => Ok(literal),
        _ => Err(parser.error("something follows the value")),
    }
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
