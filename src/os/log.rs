//! The log: one readable line for each event, as ipyparallel writes it, on stderr or into a file of the profile.
//!
//! ```text
//! 2026-11-21 20:35:22.123 [ipcontroller] engine 0 registered
//! 2026-11-21 20:35:24.008 [ipcontroller] WARNING | engine 0 has stopped answering
//! ```

use std::fmt::{self, Write as _};
use std::fs::{self, OpenOptions};
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::files::FileError;
use super::process::is_pid_alive;
use super::progress;

/// How much is logged: the levels of Python's `logging`, of which each shows itself and those after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Trace,
    Debug,
    #[default]
    Info,
    Warning,
    Error,
    /// Nothing: what ends the program is said by the program itself.
    Critical,
}

/// Neither a level's name nor a number.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no log level: use debug, info, warning, error or critical, or Python's numbers 10 to 50"
)]
pub struct UnknownLevel(String);

impl LogLevel {
    /// Python's number: 10 is DEBUG, 50 is CRITICAL; what lies between counts as the next level, as in Python.
    pub fn from_number(number: i64) -> Self {
        match number {
            ..=0 => Self::Trace,
            1..=10 => Self::Debug,
            11..=20 => Self::Info,
            21..=30 => Self::Warning,
            31..=40 => Self::Error,
            41.. => Self::Critical,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
            Self::Critical => LevelFilter::OFF,
        }
    }
}

impl FromStr for LogLevel {
    type Err = UnknownLevel;

    /// Names in any case, and numbers.
    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let text = text.trim();
        if let Ok(number) = text.parse() {
            return Ok(Self::from_number(number));
        }
        match text.to_ascii_lowercase().as_str() {
            "trace" | "notset" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" | "warning" => Ok(Self::Warning),
            "error" => Ok(Self::Error),
            "critical" | "fatal" => Ok(Self::Critical),
            _ => Err(UnknownLevel(text.to_owned())),
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for LogLevel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Number(i64),
            Name(String),
        }
        match Spelling::deserialize(deserializer)? {
            Spelling::Number(number) => Ok(Self::from_number(number)),
            Spelling::Name(name) => name.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people, and for what reads ipyparallel's logs.
    #[default]
    Text,
    /// One JSON object for each line: time, level, program, message, and the event's fields.
    Json,
}

/// What [`start`] needs to know.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Shown in each line: `ipcontroller`, `ipengine`, `ipcluster`.
    pub program: &'static str,
    pub level: LogLevel,
    pub format: LogFormat,
    /// Instead of stderr.
    pub file: Option<PathBuf>,
}

/// The name of a log file: `ipcontroller-[ID-]PID.log`.
pub fn file_name(program: &str, cluster_id: &str, pid: u32) -> String {
    let dash = if cluster_id.is_empty() { "" } else { "-" };
    format!("{program}-{cluster_id}{dash}{pid}.log")
}

/// Removes the logs that processes of this program and cluster id left behind that are gone now. Returns how many.
pub fn clean(log_folder: &Path, program: &str, cluster_id: &str) -> usize {
    let dash = if cluster_id.is_empty() { "" } else { "-" };
    let prefix = format!("{program}-{cluster_id}{dash}");
    let Ok(entries) = fs::read_dir(log_folder) else {
        return 0;
    };
    let is_stale = |name: &str| {
        let (stem, extension) = name.rsplit_once('.')?;
        let pid = stem.strip_prefix(&prefix)?;
        let ours = matches!(extension, "log" | "err" | "out")
            && !pid.is_empty()
            && pid.bytes().all(|byte| byte.is_ascii_digit());
        (ours && !is_pid_alive(pid.parse().unwrap_or(0))).then_some(())
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().and_then(is_stale).is_some())
        .filter(|entry| fs::remove_file(entry.path()).is_ok())
        .count()
}

/// Starts logging for the whole process; a second call changes nothing.
///
/// Nothing that happens to the log later ends the program: a closed stderr or a full disk lose lines, no more.
pub fn start(options: &LogOptions) -> Result<(), FileError> {
    let started = match &options.file {
        Some(path) => {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path)
                .map_err(|source| FileError::Write {
                    path: path.clone(),
                    source,
                })?;
            tracing::subscriber::set_global_default(subscriber(options, false, Mutex::new(file)))
        }
        None => {
            let is_seen = std::io::stderr().is_terminal()
                && options.format == LogFormat::Text
                && options.level <= LogLevel::Info;
            progress::set_seen(is_seen);
            tracing::subscriber::set_global_default(subscriber(
                options,
                wants_colour(),
                std::io::stderr,
            ))
        }
    };
    // Only tests start it twice.
    drop(started);
    Ok(())
}

fn subscriber<W>(options: &LogOptions, colour: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_max_level(options.level.filter())
        // It would use `eprintln!`, which panics when stderr is closed.
        .log_internal_errors(false)
        .event_format(Line {
            program: options.program,
            format: options.format,
            colour,
        })
        .with_writer(writer)
        .finish()
}

fn wants_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Formats an event.
struct Line {
    program: &'static str,
    format: LogFormat,
    colour: bool,
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
                self.json(&mut writer, &time, level, said)
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

    fn json(&self, out: &mut dyn fmt::Write, time: &str, level: Level, said: Said) -> fmt::Result {
        let mut object = serde_json::Map::new();
        for (name, value) in said.fields {
            object.insert(name.to_owned(), value.into());
        }
        object.insert("time".into(), time.into());
        object.insert("level".into(), level.as_str().to_ascii_lowercase().into());
        object.insert("program".into(), self.program.into());
        object.insert("message".into(), said.message.into());
        writeln!(out, "{}", serde_json::Value::Object(object))
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

/// What a line of a log says, if it is a warning or worse.
pub fn warning_of(line: &str) -> Option<String> {
    if let Ok(line) = serde_json::from_str::<serde_json::Value>(line) {
        let is_grave = matches!(line["level"].as_str(), Some("warn" | "error"));
        return line["message"]
            .as_str()
            .filter(|_| is_grave)
            .map(str::to_owned);
    }
    let (_, rest) = line.split_once("] ")?;
    let text = ["WARNING | ", "ERROR | "];
    let text = text.iter().find_map(|level| rest.strip_prefix(level))?;
    Some(text.to_owned())
}

/// Text from elsewhere must not steer the terminal that shows it.
fn write_harmless(out: &mut dyn fmt::Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
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

    #[test]
    fn levels_are_read_as_names_and_as_numbers() {
        for (text, level) in [
            ("10", LogLevel::Debug),
            ("DEBUG", LogLevel::Debug),
            ("Info", LogLevel::Info),
            ("20", LogLevel::Info),
            ("25", LogLevel::Warning),
            ("WARN", LogLevel::Warning),
            ("40", LogLevel::Error),
            ("50", LogLevel::Critical),
            ("CRITICAL", LogLevel::Critical),
            ("0", LogLevel::Trace),
            ("-3", LogLevel::Trace),
        ] {
            assert_eq!(text.parse(), Ok(level), "{text}");
        }
        for text in ["", "loud", "1e1"] {
            let error = text.parse::<LogLevel>().unwrap_err();
            assert!(error.to_string().contains("debug, info"), "{error}");
        }
        assert_eq!(
            serde_json::from_str::<LogLevel>("30").unwrap(),
            LogLevel::Warning
        );
        assert_eq!(
            serde_json::to_string(&LogLevel::Warning).unwrap(),
            "\"warning\""
        );
    }

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

    /// What was written by `event`, at this level and in this format.
    fn logged(level: LogLevel, format: LogFormat, event: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Shared(std::sync::Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let shared = Shared::default();
        let writer = shared.clone();
        let options = LogOptions {
            program: "ipengine",
            level,
            format,
            file: None,
        };
        let subscriber = subscriber(&options, false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, event);
        String::from_utf8(shared.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn events_below_the_level_are_left_out() {
        let both = || {
            tracing::debug!("small");
            tracing::warn!(engine = 3, "large");
        };
        let text = logged(LogLevel::Info, LogFormat::Text, both);
        assert!(!text.contains("small"), "{text}");
        assert!(
            text.ends_with(" [ipengine] WARNING | large engine=3\n"),
            "{text}"
        );
        assert_eq!(
            logged(LogLevel::Debug, LogFormat::Text, both)
                .lines()
                .count(),
            2
        );
        assert_eq!(logged(LogLevel::Critical, LogFormat::Text, both), "");
        let json = logged(LogLevel::Info, LogFormat::Json, both);
        let event: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(event["message"], "large");
        assert_eq!(event["level"], "warn");
        assert_eq!(event["engine"], "3");
    }

    #[test]
    fn a_log_that_cannot_be_written_ends_nothing() {
        struct Closed;
        impl std::io::Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        }
        let options = LogOptions {
            program: "ipengine",
            level: LogLevel::Info,
            format: LogFormat::Text,
            file: None,
        };
        let subscriber = subscriber(&options, false, || Closed);
        tracing::subscriber::with_default(subscriber, || tracing::info!("unheard"));
    }

    #[test]
    fn warnings_are_found_in_logs_of_both_formats() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let log = logged(LogLevel::Debug, format, || {
                tracing::info!("all [is] well");
                tracing::warn!("take care: [a] ] b");
                tracing::error!("it broke");
            });
            let found: Vec<String> = log.lines().filter_map(warning_of).collect();
            assert_eq!(found, ["take care: [a] ] b", "it broke"]);
        }
        assert_eq!(warning_of("what a kernel wrote"), None);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let line = line(false, Level::INFO, "a\x1b[2Jb\r\tc\nd");
        assert!(line.contains("a\\u{1b}[2Jb\\r\tc\nd"), "{line}");
    }

    #[test]
    fn only_logs_of_dead_processes_of_this_cluster_are_cleaned() {
        let folder = tempfile::tempdir().unwrap();
        let dead = i32::MAX;
        let alive = std::process::id();
        let names = [
            (format!("ipcontroller-{dead}.log"), false),
            (format!("ipcontroller-{dead}.err"), false),
            (file_name("ipcontroller", "", alive), true),
            (format!("ipcontroller-x-{dead}.log"), true),
            (format!("ipcontroller-{dead}.json"), true),
            ("ipcontroller-.log".to_owned(), true),
            (format!("ipengine-{dead}.log"), true),
        ];
        for (name, _) in &names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(clean(folder.path(), "ipcontroller", ""), 2);
        for (name, stays) in &names {
            assert_eq!(folder.path().join(name).exists(), *stays, "{name}");
        }
        assert_eq!(clean(folder.path(), "ipcontroller", "x"), 1);
    }
}
