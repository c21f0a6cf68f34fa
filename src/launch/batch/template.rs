//! Fills in templates of batch scripts: `{n}`, `{n//4}`, `{{` and `}}` for braces. Pure.
//!
//! ipyparallel evaluates any Python between the braces. Here it is names, whole numbers, `+ - * // %`, parentheses and
//! `min(…)`, `max(…)`: what scripts compute. `{n:03d}` and `{n!s}` are formatted as Python does.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::profile::dir::similar;

/// What a name in a template stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(i64),
    Text(String),
}

/// What the names stand for.
pub type Namespace = BTreeMap<String, Value>;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("line {line}: {{{field}}}: there is no {name:?}{}; there are: {known}", suggestion(.near))]
    UnknownName {
        line: usize,
        field: String,
        name: String,
        near: Option<String>,
        known: String,
    },
    #[error(
        "line {line}: {{{field}}} cannot be computed: {why}; names, whole numbers, + - * // %, ( ), min and max can be \
         used, and a brace itself is written twice"
    )]
    Expression {
        line: usize,
        field: String,
        why: &'static str,
    },
    #[error("line {line}: a {brace} without its other half; a brace itself is written twice")]
    Brace { line: usize, brace: char },
}

fn suggestion(near: &Option<String>) -> String {
    near.as_ref()
        .map(|near| format!(", did you mean {near:?}?"))
        .unwrap_or_default()
}

/// The names that stand in a template's fields, in the order of their appearance.
pub fn names(template: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('{') {
            rest = after;
            continue;
        }
        let end = rest.find('}').unwrap_or(rest.len());
        let (field, after) = rest.split_at(end);
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        found.extend(
            field
                .split(|c| !is_part(c))
                .filter(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_'))
                .map(str::to_owned),
        );
        rest = after;
    }
    found
}

/// Fills in a template.
pub fn render(template: &str, names: &Namespace) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    let mut line = 1;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        line += rest[..at].matches('\n').count();
        let brace = if rest[at..].starts_with('{') {
            '{'
        } else {
            '}'
        };
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push(brace);
            rest = after;
            continue;
        }
        let end = rest.find('}').filter(|_| brace == '{');
        let Some(end) = end else {
            return Err(TemplateError::Brace { line, brace });
        };
        let field = Field {
            line,
            text: &rest[..end],
        };
        out.push_str(&field.format(names)?);
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// What stands between braces.
struct Field<'a> {
    line: usize,
    text: &'a str,
}

impl Field<'_> {
    fn wrong(&self, why: &'static str) -> TemplateError {
        TemplateError::Expression {
            line: self.line,
            field: self.text.to_owned(),
            why,
        }
    }

    fn format(&self, names: &Namespace) -> Result<String, TemplateError> {
        let (expression, spec) = self.text.split_once(':').unwrap_or((self.text, ""));
        let expression = expression.strip_suffix("!s").unwrap_or(expression);
        let mut parser = Parser {
            field: self,
            names,
            rest: expression,
            depth: 0,
        };
        let value = parser.sum()?;
        parser.skip_blanks();
        if !parser.rest.is_empty() {
            return Err(self.wrong("something follows the value"));
        }
        self.apply(value, spec)
    }

    /// `[0][width][d|s]`, as Python's format specification has it.
    fn apply(&self, value: Value, spec: &str) -> Result<String, TemplateError> {
        let (digits, kind) = match spec.strip_suffix(['d', 's']) {
            Some(digits) => (digits, spec.chars().last()),
            None => (spec, None),
        };
        let zero = digits.starts_with('0');
        let width: usize = match digits {
            "" => 0,
            digits => digits
                .parse()
                .ok()
                .filter(|width| *width <= 1000)
                .ok_or_else(|| self.wrong("its format is not known"))?,
        };
        match (value, kind) {
            (Value::Number(number), None | Some('d')) if zero => Ok(format!("{number:0width$}")),
            (Value::Number(number), None | Some('d')) => Ok(format!("{number:width$}")),
            (Value::Text(text), None | Some('s')) => Ok(format!("{text:width$}")),
            _ => Err(self.wrong("its format is not for this kind of value")),
        }
    }
}

struct Parser<'a> {
    field: &'a Field<'a>,
    names: &'a Namespace,
    rest: &'a str,
    depth: u32,
}

impl Parser<'_> {
    fn wrong(&self, why: &'static str) -> TemplateError {
        self.field.wrong(why)
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn number(&self, value: Value) -> Result<i64, TemplateError> {
        match value {
            Value::Number(number) => Ok(number),
            Value::Text(text) => text
                .trim()
                .parse()
                .map_err(|_| self.wrong("text is no number")),
        }
    }

    fn combine(
        &self,
        left: Value,
        right: Value,
        with: impl Fn(i64, i64) -> Option<i64>,
    ) -> Result<Value, TemplateError> {
        let (left, right) = (self.number(left)?, self.number(right)?);
        with(left, right)
            .map(Value::Number)
            .ok_or_else(|| self.wrong("the result is no number that can be had"))
    }

    fn sum(&mut self) -> Result<Value, TemplateError> {
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                let right = self.product()?;
                value = self.combine(value, right, i64::checked_add)?;
            } else if self.take("-") {
                let right = self.product()?;
                value = self.combine(value, right, i64::checked_sub)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<Value, TemplateError> {
        let mut value = self.atom()?;
        loop {
            if self.take("//") {
                let right = self.atom()?;
                value = self.combine(value, right, floor_division)?;
            } else if self.take("%") {
                let right = self.atom()?;
                value = self.combine(value, right, |a, b| {
                    Some(a - floor_division(a, b)?.checked_mul(b)?)
                })?;
            } else if self.take("*") {
                let right = self.atom()?;
                value = self.combine(value, right, i64::checked_mul)?;
            } else if self.take("/") {
                return Err(self.wrong("/ gives a fraction; // gives a whole number"));
            } else {
                return Ok(value);
            }
        }
    }

    fn atom(&mut self) -> Result<Value, TemplateError> {
        const DEEPEST: u32 = 50;
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong("it is nested too deeply"));
        }
        let value = self.atom_within();
        self.depth -= 1;
        value
    }

    fn atom_within(&mut self) -> Result<Value, TemplateError> {
        if self.take("-") {
            let value = self.atom()?;
            return self.combine(Value::Number(0), value, i64::checked_sub);
        }
        if self.take("(") {
            let value = self.sum()?;
            return self.close(value);
        }
        self.skip_blanks();
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        if word.is_empty() {
            return Err(self.wrong("a value is missing"));
        }
        self.rest = rest;
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let number = word.parse().map_err(|_| self.wrong("it is no number"))?;
            return Ok(Value::Number(number));
        }
        if matches!(word, "min" | "max") && self.take("(") {
            let mut value = self.sum()?;
            while self.take(",") {
                let right = self.sum()?;
                let pick = |a: i64, b: i64| Some(if word == "min" { a.min(b) } else { a.max(b) });
                value = self.combine(value, right, pick)?;
            }
            return self.close(value);
        }
        self.names
            .get(word)
            .cloned()
            .ok_or_else(|| TemplateError::UnknownName {
                line: self.field.line,
                field: self.field.text.to_owned(),
                name: word.to_owned(),
                near: similar(word, self.names.keys()).into_iter().next(),
                known: self
                    .names
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    fn close(&mut self, value: Value) -> Result<Value, TemplateError> {
        if self.take(")") {
            Ok(value)
        } else {
            Err(self.wrong("a ) is missing"))
        }
    }
}

/// As Python's `//`: towards minus infinity.
fn floor_division(a: i64, b: i64) -> Option<i64> {
    let quotient = a.checked_div(b)?;
    Some(if a % b != 0 && (a < 0) != (b < 0) {
        quotient - 1
    } else {
        quotient
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn filled(template: &str) -> Result<String, TemplateError> {
        let names = Namespace::from([
            ("n".to_owned(), Value::Number(10)),
            ("queue".to_owned(), Value::Text("long".to_owned())),
            ("cores".to_owned(), Value::Text("4".to_owned())),
        ]);
        render(template, &names)
    }

    #[test]
    fn fields_are_computed_as_python_does() {
        for (template, expected) in [
            ("", ""),
            ("#PBS -q {queue}\n", "#PBS -q long\n"),
            ("{n//4}:{ n % 4 }:{(n+2)*3 - 1}", "2:2:35"),
            ("{-n//4}:{-n%4}", "-3:2"),
            ("{n//cores}", "2"),
            ("{min(n, 4)} {max(1, n//20, 2)}", "4 2"),
            (
                "{n:04d}|{n:4}|{queue!s}|{queue:6}|",
                "0010|  10|long|long  |",
            ),
            ("${{HOME}} {{n}}", "${HOME} {n}"),
        ] {
            assert_eq!(filled(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (template, expected) in [
            (
                "\n{quue}",
                "line 2: {quue}: there is no \"quue\", did you mean \"queue\"?",
            ),
            ("{n/4}", "/ gives a fraction"),
            ("{n//0}", "no number that can be had"),
            ("{queue + 1}", "text is no number"),
            ("{n", "a { without"),
            ("a\n\n}", "line 3: a } without"),
            ("{}", "a value is missing"),
            ("{n n}", "something follows"),
            ("{(n}", "a ) is missing"),
            ("{n.bit_length()}", "something follows"),
            ("{n:x}", "its format is not known"),
            ("{queue:d}", "not for this kind"),
        ] {
            let error = filled(template).unwrap_err().to_string();
            assert!(error.contains(expected), "{template}: {error}");
        }
        let deep = format!("{{{}n}}", "(".repeat(10_000));
        assert!(filled(&deep).is_err());
    }

    #[test]
    fn names_are_found() {
        assert_eq!(names("{a} {{b}} {c//4 + d:03}"), ["a", "c", "d"]);
    }

    proptest! {
        #[test]
        fn no_template_makes_it_panic(template in "[{}n()+*/% a0-9:!-]{0,30}") {
            let _ = filled(&template);
            names(&template);
        }
    }
}
