//! Records as a table, as JSON, as lines of JSON, as CSV. Pure.

use clap::ValueEnum;
use serde_json::Value;

use super::Fields;
use crate::protocol::text::visible;
use crate::taskdb::{Key, KeySet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// One list of objects
    Json,
    /// One object per line
    Jsonl,
    /// With a line of names; RFC 4180
    Csv,
}

/// Characters of a value that a table shows.
const CELL: usize = 60;

/// Writes records page by page.
#[derive(Debug)]
pub(super) struct Printer {
    format: Format,
    keys: Vec<String>,
    /// Of the columns, as the first page has them.
    widths: Option<Vec<usize>>,
    any: bool,
}

impl Printer {
    /// No keys are all keys.
    pub(super) fn new(format: Format, mut keys: Vec<String>) -> Self {
        if keys.is_empty() {
            let all = KeySet::without_buffers();
            keys = all.iter().map(|key| key.as_str().to_owned()).collect();
        } else if !keys.iter().any(|key| key == Key::MsgId.as_str()) {
            // It is always there.
            keys.insert(0, Key::MsgId.as_str().to_owned());
        }
        Self {
            format,
            keys,
            widths: None,
            any: false,
        }
    }

    pub(super) fn page(&mut self, records: &[Fields]) -> String {
        let mut text = String::new();
        match self.format {
            Format::Table => self.rows(records, &mut text),
            Format::Csv => {
                if !self.any {
                    let names = self.keys.iter().map(|key| quoted(key));
                    csv_line(names, &mut text);
                }
                for record in records {
                    let fields = self.keys.iter().map(|key| quoted(&plain(record.get(key))));
                    csv_line(fields, &mut text);
                }
            }
            Format::Json | Format::Jsonl => {
                for (n, record) in records.iter().enumerate() {
                    let first = n == 0 && !self.any;
                    text.push_str(match (self.format, first) {
                        (Format::Jsonl, _) => "",
                        (_, true) => "[\n",
                        (_, false) => ",\n",
                    });
                    text.push_str(&Value::Object(record.clone()).to_string());
                    if self.format == Format::Jsonl {
                        text.push('\n');
                    }
                }
            }
        }
        self.any |= !records.is_empty();
        text
    }

    pub(super) fn end(&mut self) -> String {
        match (self.format, self.any) {
            (Format::Json, true) => "\n]\n".to_owned(),
            (Format::Json, false) => "[]\n".to_owned(),
            (Format::Table | Format::Csv, false) => self.page(&[]),
            _ => String::new(),
        }
    }

    fn rows(&mut self, records: &[Fields], text: &mut String) {
        let rows: Vec<Vec<String>> = records
            .iter()
            .map(|record| self.keys.iter().map(|key| cell(record.get(key))).collect())
            .collect();
        if self.widths.is_none() {
            let names: Vec<String> = self.keys.iter().map(|key| key.to_uppercase()).collect();
            let width = |column: usize| {
                let cells = rows.iter().map(|row| &row[column]);
                let widths = cells
                    .chain([&names[column]])
                    .map(|cell| cell.chars().count());
                widths.max().unwrap_or_default()
            };
            let widths: Vec<usize> = (0..names.len()).map(width).collect();
            table_line(&names, &widths, text);
            self.widths = Some(widths);
        }
        let widths = self.widths.as_deref().unwrap_or_default();
        for row in &rows {
            table_line(row, widths, text);
        }
    }
}

/// One record, or figures, a line for each field.
pub(super) fn one(fields: &Fields, format: Format) -> String {
    match format {
        Format::Table => {
            let width = fields.keys().map(|key| key.chars().count()).max();
            let width = width.unwrap_or_default();
            let mut text = String::new();
            for (key, value) in in_order(fields) {
                let shown = match value {
                    Value::Null => "-".to_owned(),
                    Value::String(value) => value.clone(),
                    value => value.to_string(),
                };
                let mut lines = shown.split('\n').map(visible);
                let first = lines.next().unwrap_or_default();
                text.push_str(format!("{key:width$}  {first}").trim_end());
                text.push('\n');
                for line in lines {
                    text.push_str(format!("{:width$}  {line}", "").trim_end());
                    text.push('\n');
                }
            }
            text
        }
        Format::Json | Format::Jsonl => format!("{}\n", Value::Object(fields.clone())),
        Format::Csv => {
            let mut text = String::new();
            let (names, values): (Vec<_>, Vec<_>) = in_order(fields)
                .into_iter()
                .map(|(key, value)| (quoted(key), quoted(&plain(Some(value)))))
                .unzip();
            csv_line(names.into_iter(), &mut text);
            csv_line(values.into_iter(), &mut text);
            text
        }
    }
}

/// In the order of a record; what is no field of one comes as it stands.
fn in_order(fields: &Fields) -> Vec<(&String, &Value)> {
    let place = |key: &str| {
        let place = Key::ALL.iter().position(|known| known.as_str() == key);
        place.unwrap_or(usize::MAX)
    };
    let mut ordered: Vec<_> = fields.iter().collect();
    ordered.sort_by_key(|(key, _)| place(key));
    ordered
}

fn plain(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => return "-".to_owned(),
        value => visible(&plain(value)),
    };
    if text.chars().count() <= CELL {
        return text;
    }
    text.chars().take(CELL - 1).chain(['…']).collect()
}

fn table_line(cells: &[String], widths: &[usize], text: &mut String) {
    let cells = cells.iter().zip(widths);
    let cells: Vec<String> = cells
        .map(|(cell, width)| format!("{cell:width$}"))
        .collect();
    text.push_str(cells.join("  ").trim_end());
    text.push('\n');
}

fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

fn csv_line(fields: impl Iterator<Item = String>, text: &mut String) {
    text.push_str(&fields.collect::<Vec<_>>().join(","));
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::text::is_unseen;
    use serde_json::json;

    fn records() -> Vec<Fields> {
        let records = json!([
            {"msg_id": "a", "label": "x,\"y\"\n", "completed": null, "header": {"n": 1}},
            {"msg_id": "b", "label": "\u{1b}[2J", "completed": "2024-01-31T12:00:00Z", "header": null},
        ]);
        serde_json::from_value(records).unwrap()
    }

    fn print(format: Format, pages: &[&[Fields]]) -> String {
        let keys = ["label", "completed", "header"].map(str::to_owned).to_vec();
        let mut printer = Printer::new(format, keys);
        let pages = pages.iter().map(|page| printer.page(page));
        let mut text: String = pages.collect();
        text.push_str(&printer.end());
        text
    }

    #[test]
    fn a_table_is_for_people() {
        let all = records();
        assert_eq!(
            print(Format::Table, &[&all[..1], &all[1..]]),
            "MSG_ID  LABEL    COMPLETED  HEADER\n\
             a       x,\"y\"\\n  -          {\"n\":1}\n\
             b       \\u{1b}[2J  2024-01-31T12:00:00Z  -\n"
        );
        assert_eq!(
            print(Format::Table, &[]),
            "MSG_ID  LABEL  COMPLETED  HEADER\n"
        );
        let long = json!({"label": "z".repeat(100)});
        let Value::Object(long) = long else {
            unreachable!("it is an object")
        };
        assert!(print(Format::Table, &[&[long]]).contains(&format!("{}…", "z".repeat(59))));
    }

    #[test]
    fn programs_read_it_again() {
        let all = records();
        for pages in [vec![&all[..]], vec![&all[..1], &all[1..]]] {
            let read: Vec<Fields> = serde_json::from_str(&print(Format::Json, &pages)).unwrap();
            assert_eq!(read, all);
            let lines = print(Format::Jsonl, &pages);
            let read: Vec<Fields> = lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            assert_eq!(read, all);
            assert_eq!(
                print(Format::Csv, &pages),
                "msg_id,label,completed,header\n\
                 a,\"x,\"\"y\"\"\n\",,\"{\"\"n\"\":1}\"\n\
                 b,\u{1b}[2J,2024-01-31T12:00:00Z,\n"
            );
        }
        assert_eq!(print(Format::Json, &[]), "[]\n");
        assert_eq!(print(Format::Csv, &[]), "msg_id,label,completed,header\n");
    }

    #[test]
    fn nothing_of_others_is_obeyed() {
        let record =
            json!({"label": "a\u{202e}b", "stdout": "a\n\u{9b}2J", "header": {"n": "\u{2066}"}});
        let Value::Object(record) = record else {
            unreachable!("it is an object")
        };
        for text in [
            print(Format::Table, &[std::slice::from_ref(&record)]),
            one(&record, Format::Table),
        ] {
            assert!(text.contains(r"a\u{202e}b"), "{text}");
            let harmful = text.chars().find(|c| *c != '\n' && is_unseen(*c));
            assert_eq!(harmful, None, "{text:?}");
        }
    }

    #[test]
    fn one_record_has_a_line_for_each_field() {
        let record = json!({"stdout": "a\nb\n", "msg_id": "m", "error": null, "odd": 1});
        let Value::Object(record) = record else {
            unreachable!("it is an object")
        };
        assert_eq!(
            one(&record, Format::Table),
            "msg_id  m\nerror   -\nstdout  a\n        b\n\nodd     1\n"
        );
        assert_eq!(
            one(&record, Format::Csv),
            "msg_id,error,stdout,odd\nm,,\"a\nb\n\",1\n"
        );
    }
}
