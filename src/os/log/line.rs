//! What a line of the log looks like.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::tail::tail;
use super::{LogFormat, component};
use crate::os::progress;
use crate::protocol::text::is_unseen;

/// Formats an event.
pub(super) struct Line {
    pub(super) program: &'static str,
    pub(super) format: LogFormat,
    pub(super) colour: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let now = jiff::Zoned::now();
        let level = *event.metadata().level();
        let component = component::of(event.metadata().target());
        if let Some(tail) = tail() {
            tail.add(
                now.timestamp().as_millisecond(),
                level_name(level),
                component,
                said.text(),
            );
        }
        match self.format {
            LogFormat::Text => {
                if progress::take() {
                    writer.write_str(progress::CLEAR)?;
                }
                let time = now.strftime("%Y-%m-%d %H:%M:%S.%3f").to_string();
                self.text(&mut writer, &time, level, &said)
            }
            LogFormat::Json => {
                let time = now.timestamp().to_string();
                self.json(&mut writer, &time, level, component, said)
            }
        }
    }
}

impl Line {
    fn text(&self, out: &mut dyn fmt::Write, time: &str, level: Level, said: &Said) -> fmt::Result {
        write!(out, "{time} [{}] ", self.program)?;
        if let Some((name, colour)) = shown_level(level) {
            if self.colour {
                write!(out, "\x1b[{colour}m{name}\x1b[0m | ")?;
            } else {
                write!(out, "{name} | ")?;
            }
        }
        write_harmless(out, &said.message)?;
        for (name, value) in &said.fields {
            write!(out, " {name}=")?;
            write_harmless(out, value)?;
        }
        out.write_char('\n')
    }

    fn json(
        &self,
        out: &mut dyn fmt::Write,
        time: &str,
        level: Level,
        component: &str,
        said: Said,
    ) -> fmt::Result {
        let mut object = serde_json::Map::new();
        for (name, value) in said.fields {
            object.insert(name.to_owned(), value.into());
        }
        object.insert("time".into(), time.into());
        object.insert("level".into(), level_name(level).into());
        object.insert("program".into(), self.program.into());
        object.insert("component".into(), component.into());
        object.insert("message".into(), said.message.into());
        writeln!(out, "{}", serde_json::Value::Object(object))
    }
}

/// The names that `--log-level` takes.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warning",
        Level::ERROR => "error",
    }
}

/// The level is shown from WARNING up, as traitlets' `LevelFormatter` does.
fn shown_level(level: Level) -> Option<(&'static str, u8)> {
    match level {
        Level::ERROR => Some(("ERROR", 31)),
        Level::WARN => Some(("WARNING", 33)),
        _ => None,
    }
}

/// Text from elsewhere must not steer the terminal that shows it.
fn write_harmless(out: &mut dyn fmt::Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        if is_unseen(c) && c != '\n' && c != '\t' {
            write!(out, "{}", c.escape_default())?;
        } else {
            out.write_char(c)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Said {
    /// The message with its fields.
    fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            // Writing into memory cannot fail.
            let _ = write!(text, " {name}={value}");
        }
        text
    }

    fn record(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // A Debug implementation that fails is no reason to lose the event.
        let _ = write!(text, "{value:?}");
        self.record(field, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(colour: bool, level: Level, message: &str) -> String {
        let line = Line {
            program: "ipcontroller",
            format: LogFormat::Text,
            colour,
        };
        let said = Said {
            message: message.to_owned(),
            fields: vec![("engine", "0".to_owned())],
        };
        let mut out = String::new();
        line.text(&mut out, "2026-11-21 20:35:22.123", level, &said)
            .unwrap();
        out
    }

    #[test]
    fn lines_look_like_those_of_ipyparallel() {
        assert_eq!(
            line(false, Level::INFO, "hello"),
            "2026-11-21 20:35:22.123 [ipcontroller] hello engine=0\n"
        );
        assert_eq!(
            line(false, Level::WARN, "hello"),
            "2026-11-21 20:35:22.123 [ipcontroller] WARNING | hello engine=0\n"
        );
        assert!(line(true, Level::ERROR, "hello").contains("\x1b[31mERROR\x1b[0m | "));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let line = line(false, Level::INFO, "a\x1b[2Jb\r\tc\nd");
        assert!(line.contains("a\\u{1b}[2Jb\\r\tc\nd"), "{line}");
    }

    #[test]
    fn what_would_turn_the_line_around_is_named() {
        let line = line(false, Level::WARN, "name\u{202e}gnp.exe\u{2066} ع\u{200d}");
        assert!(
            line.contains("name\\u{202e}gnp.exe\\u{2066} ع\u{200d}"),
            "{line}"
        );
    }
}
