//! ipyparallel's configuration files, `ipcontroller_config.py` and its like, read without Python: plain assignments of
//! literals are understood, and whatever else stands in a file is listed, never executed. Pure.

use std::path::Path;

use serde_json::{Map, Value};

use super::literal::Literal;
use super::settings::{Origin, SettingsError};
use super::traitlets::{Action, Assignment, Written};

/// What one statement of a file says.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    Assignment(Assignment),
    /// `load_subconfig(file, profile=…)`: another file, read here.
    Subconfig {
        file: String,
        profile: Option<String>,
        line: usize,
    },
    /// Not understood.
    Skipped {
        line: usize,
        /// Its first line.
        text: String,
        reason: &'static str,
    },
}

/// Reads a configuration file in Python.
pub fn read_python(text: &str, path: &Path) -> Vec<Statement> {
    let mut reader = Reader {
        path,
        configs: vec!["c".to_owned()],
        statements: Vec::new(),
    };
    let mut in_block = false;
    for line in logical_lines(text) {
        if line.is_indented {
            if !in_block {
                reader.skip(&line, "it is indented without need");
                in_block = true;
            }
            continue;
        }
        in_block = is_compound(&line.text);
        if in_block {
            reader.skip(&line, "conditions, loops and definitions are not followed");
            continue;
        }
        for statement in split_top_level(&line.text, ';') {
            let statement = statement.trim();
            if !statement.is_empty() {
                reader.statement(&Logical {
                    text: statement.to_owned(),
                    ..line.clone()
                });
            }
        }
    }
    reader.statements
}

/// Reads a configuration file in JSON: `{"Class": {"trait": value}}`.
pub fn read_json(text: &str, path: &Path) -> Result<Vec<Statement>, SettingsError> {
    let origin = Origin::File {
        path: path.to_owned(),
        line: None,
    };
    let map: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| SettingsError::Syntax {
            origin: Origin::File {
                path: path.to_owned(),
                line: Some(error.line()),
            },
            reason: error.to_string(),
        })?;
    let mut statements = Vec::new();
    for (class, traits) in map {
        match traits {
            Value::Object(traits) => json_section(&class, traits, &origin, &mut statements),
            _ if class == "version" => {}
            other => {
                return Err(SettingsError::Syntax {
                    origin,
                    reason: format!("{class:?} must be a table of traits, not {other}"),
                });
            }
        }
    }
    Ok(statements)
}

/// A class may hold another one, whose traits then are those that the outer one's children have.
fn json_section(
    class: &str,
    traits: Map<String, Value>,
    origin: &Origin,
    found: &mut Vec<Statement>,
) {
    for (name, value) in traits {
        match value {
            Value::Object(inner) if is_class(&name) => json_section(&name, inner, origin, found),
            value => found.push(Statement::Assignment(Assignment {
                class: class.to_owned(),
                name,
                action: Action::Set(Written::Literal(Literal::from_json(&value))),
                origin: origin.clone(),
            })),
        }
    }
}

/// Section names begin with a capital.
fn is_class(name: &str) -> bool {
    name.starts_with(char::is_uppercase)
}

struct Reader<'a> {
    path: &'a Path,
    /// Names that stand for the configuration object.
    configs: Vec<String>,
    statements: Vec<Statement>,
}

impl Reader<'_> {
    fn skip(&mut self, line: &Logical, reason: &'static str) {
        let first = line.text.lines().next().unwrap_or("").trim_end();
        let mut text: String = first.chars().take(100).collect();
        if text.len() < line.text.len() {
            text.push_str(" …");
        }
        self.statements.push(Statement::Skipped {
            line: line.number,
            text,
            reason,
        });
    }

    fn statement(&mut self, line: &Logical) {
        let text = line.text.as_str();
        if is_harmless(text) {
            return;
        }
        if let Some(name) = assigned_config(text) {
            self.configs.push(name.to_owned());
            return;
        }
        if let Some(arguments) = call_of("load_subconfig", text) {
            match subconfig(arguments) {
                Some((file, profile)) => self.statements.push(Statement::Subconfig {
                    file,
                    profile,
                    line: line.number,
                }),
                None => self.skip(line, "only load_subconfig('file', profile='name') is read"),
            }
            return;
        }
        if let Err(reason) = self.change(line) {
            self.skip(line, reason);
        }
    }

    /// `c.Class.trait = …` and `c.Class.trait.append(…)`.
    fn change(&mut self, line: &Logical) -> Result<(), &'static str> {
        const NO_ASSIGNMENT: &str = "it is no assignment to c.Class.trait";
        let text = line.text.as_str();
        let end = text
            .find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.')))
            .unwrap_or(text.len());
        let (path, rest) = text.split_at(end);
        let rest = rest.trim_start();
        let parts: Vec<&str> = path.split('.').collect();
        let Some((config, names)) = parts.split_first() else {
            return Err(NO_ASSIGNMENT);
        };
        if !self.configs.iter().any(|known| known == config) {
            return Err(NO_ASSIGNMENT);
        }
        if let Some(arguments) = parenthesized(rest) {
            return self.call(names, arguments, line);
        }
        let (value, extends) = match rest.strip_prefix("+=") {
            Some(value) => (value, true),
            None => (rest.strip_prefix('=').ok_or(NO_ASSIGNMENT)?, false),
        };
        let [.., class, name] = names else {
            return Err(NO_ASSIGNMENT);
        };
        if !is_class(class) {
            return Err(NO_ASSIGNMENT);
        }
        let literal = Literal::parse(value).map_err(|error| error.what)?;
        let action = if extends {
            Action::Extend(items(literal)?)
        } else {
            Action::Set(Written::Literal(literal))
        };
        self.assign(class, name, action, line);
        Ok(())
    }

    fn call(
        &mut self,
        names: &[&str],
        arguments: &str,
        line: &Logical,
    ) -> Result<(), &'static str> {
        const NO_CHANGE: &str = "only append, extend, prepend, insert(0, …) and update are read";
        let literal = Literal::parse(arguments).map_err(|error| error.what)?;
        let (class, name, method) = match names {
            [.., class, name, method] if is_class(class) && !is_class(name) => {
                (class, name, *method)
            }
            // `c.Class.update({'trait': value})`
            [.., class, "update"] if is_class(class) => {
                let Literal::Dict(pairs) = literal else {
                    return Err(NO_CHANGE);
                };
                for (name, value) in pairs {
                    let Literal::Str(name) = name else {
                        return Err(NO_CHANGE);
                    };
                    let action = Action::Set(Written::Literal(value));
                    self.assign(class, &name, action, line);
                }
                return Ok(());
            }
            _ => return Err(NO_CHANGE),
        };
        let action = match (method, literal) {
            ("append", item) => Action::Extend(vec![item]),
            ("extend", list) => Action::Extend(items(list)?),
            ("prepend", list) => Action::Prepend(items(list)?),
            ("insert", Literal::Tuple(mut pair))
                if pair.len() == 2 && pair[0] == Literal::Int(0) =>
            {
                Action::Prepend(pair.split_off(1))
            }
            ("update", Literal::Dict(pairs)) => Action::Update(pairs),
            _ => return Err(NO_CHANGE),
        };
        self.assign(class, name, action, line);
        Ok(())
    }

    fn assign(&mut self, class: &str, name: &str, action: Action, line: &Logical) {
        self.statements.push(Statement::Assignment(Assignment {
            class: class.to_owned(),
            name: name.to_owned(),
            action,
            origin: Origin::File {
                path: self.path.to_owned(),
                line: Some(line.number),
            },
        }));
    }
}

fn items(literal: Literal) -> Result<Vec<Literal>, &'static str> {
    match literal {
        Literal::List(items) | Literal::Tuple(items) | Literal::Set(items) => Ok(items),
        _ => Err("only lists can be added"),
    }
}

/// Imports, documentation and `pass` change no setting by themselves; what uses an import is listed.
fn is_harmless(text: &str) -> bool {
    matches!(text.split_whitespace().next(), Some("import" | "from"))
        || text == "pass"
        || matches!(Literal::parse(text), Ok(Literal::Str(_)))
}

/// The name in `name = get_config()`.
fn assigned_config(text: &str) -> Option<&str> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim();
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    let arguments = call_of("get_config", value.trim())?;
    (is_name && arguments.trim().is_empty()).then_some(name)
}

fn call_of<'a>(function: &str, text: &'a str) -> Option<&'a str> {
    parenthesized(text.strip_prefix(function)?.trim_start())
}

/// What stands between the parentheses that enclose the whole text.
fn parenthesized(text: &str) -> Option<&str> {
    text.trim_end().strip_prefix('(')?.strip_suffix(')')
}

fn subconfig(arguments: &str) -> Option<(String, Option<String>)> {
    let text = |part: &str| match Literal::parse(part) {
        Ok(Literal::Str(text)) => Some(text),
        _ => None,
    };
    let mut file = None;
    let mut profile = None;
    for part in split_top_level(arguments, ',') {
        let part = part.trim();
        match part
            .split_once('=')
            .map(|(name, value)| (name.trim(), value))
        {
            Some(("profile", value)) => profile = Some(text(value)?),
            Some(("fname", value)) => file = Some(text(value)?),
            _ if part.is_empty() => {}
            _ if file.is_none() => file = Some(text(part)?),
            _ => return None,
        }
    }
    Some((file?, profile))
}

fn is_compound(text: &str) -> bool {
    let word = text
        .split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '@')))
        .next();
    matches!(
        word,
        Some(
            "if" | "elif"
                | "else"
                | "for"
                | "while"
                | "def"
                | "class"
                | "with"
                | "try"
                | "except"
                | "finally"
                | "async"
                | "match"
        )
    ) || text.starts_with('@')
}

/// A statement's text, with its continuation lines and without comments.
#[derive(Clone, Debug)]
struct Logical {
    /// Of its first line, from 1.
    number: usize,
    is_indented: bool,
    text: String,
}

fn logical_lines(source: &str) -> Vec<Logical> {
    let source = source.strip_prefix('\u{feff}').unwrap_or(source);
    let mut lines = Vec::new();
    let mut scanner = Scanner::default();
    let mut current = String::new();
    let mut number = 1;
    let mut start = 1;
    let mut finish = |current: &mut String, start: usize| {
        let text = std::mem::take(current);
        if !text.trim().is_empty() {
            lines.push(Logical {
                number: start
                    + text
                        .chars()
                        .take_while(|c| c.is_whitespace())
                        .filter(|c| *c == '\n')
                        .count(),
                is_indented: text.starts_with([' ', '\t']),
                text: text.trim().to_owned(),
            });
        }
    };
    let mut rest = source.chars().peekable();
    while let Some(c) = rest.next() {
        let ends = scanner.step(c, &mut rest, &mut current);
        if c == '\n' {
            number += 1;
        }
        // What the step took along beyond its first character.
        number += std::mem::take(&mut scanner.newlines);
        if ends {
            finish(&mut current, start);
            start = number;
        }
    }
    finish(&mut current, start);
    lines
}

/// Follows quotes, brackets and comments through a source text.
#[derive(Default)]
struct Scanner {
    depth: usize,
    newlines: usize,
}

impl Scanner {
    /// Takes one character, or a whole string or comment that begins with it. True at the end of a statement's line.
    fn step(
        &mut self,
        c: char,
        rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
        out: &mut String,
    ) -> bool {
        match c {
            '#' => {
                while rest.next_if(|c| *c != '\n').is_some() {}
                return false;
            }
            '\'' | '"' => {
                out.push(c);
                self.string(c, rest, out);
                return false;
            }
            '\\' if matches!(rest.peek(), Some('\n')) => {
                rest.next();
                self.newlines += 1;
                out.push(' ');
                return false;
            }
            '[' | '(' | '{' => self.depth += 1,
            ']' | ')' | '}' => self.depth = self.depth.saturating_sub(1),
            '\n' if self.depth == 0 => return true,
            '\r' => return false,
            _ => {}
        }
        out.push(c);
        false
    }

    /// The rest of a string, its closing quotes included. One in single quotes ends with its line at the latest.
    fn string(
        &mut self,
        quote: char,
        rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
        out: &mut String,
    ) {
        let mut is_triple = false;
        if rest.next_if_eq(&quote).is_some() {
            out.push(quote);
            if rest.next_if_eq(&quote).is_none() {
                return;
            }
            out.push(quote);
            is_triple = true;
        }
        let mut quotes = 0;
        loop {
            match rest.peek() {
                None => return,
                Some('\n') if !is_triple => return,
                Some(_) => {}
            }
            let Some(c) = rest.next() else { return };
            out.push(c);
            if c == '\n' {
                self.newlines += 1;
            }
            quotes = if c == quote { quotes + 1 } else { 0 };
            if quotes == if is_triple { 3 } else { 1 } {
                return;
            }
            if c == '\\'
                && let Some(escaped) = rest.next()
            {
                out.push(escaped);
                if escaped == '\n' {
                    self.newlines += 1;
                }
            }
        }
    }
}

/// Splits where the separator stands outside of quotes and brackets.
fn split_top_level(text: &str, separator: char) -> Vec<String> {
    let mut parts = Vec::new();
    let mut current = String::new();
    let mut scanner = Scanner::default();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == separator && scanner.depth == 0 {
            parts.push(std::mem::take(&mut current));
            continue;
        }
        if scanner.step(c, &mut rest, &mut current) {
            current.push(c);
        }
    }
    parts.push(current);
    parts
}

#[cfg(test)]
#[path = "python_config_tests.rs"]
mod tests;
