//! The log: one readable line for each event, as ipyparallel writes it, on stderr or into a file of the profile.
//!
//! ```text
//! 2026-11-21 20:35:22.123 [ipcontroller] engine 0 registered
//! 2026-11-21 20:35:24.008 [ipcontroller] WARNING | engine 0 has stopped answering
//! ```
//!
//! Or a JSON object for each, with the component that it comes from ([`COMPONENTS`]). Files are rotated, and the last
//! lines can be kept for the status page.

mod component;
mod level;
mod line;
mod rotate;
mod tail;

use std::fs::{self, OpenOptions};
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use super::files::FileError;
use super::process::is_pid_alive;
use super::progress;

pub use component::COMPONENTS;
pub use level::{ComponentLevels, Levels, LogLevel, UnknownLevel, checked_component};
pub use rotate::{ROTATED_VARIABLE, RotatedFile, Rotation};
pub use tail::{Tail, TailLine, keep_tail, tail};

use level::Filter;
use line::Line;
use rotate::{LogFile, StderrFile};

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people, and for what reads ipyparallel's logs.
    #[default]
    Text,
    /// One JSON object for each line: time, level, program, component, message, and the event's fields.
    Json,
}

impl LogFormat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// What [`start`] needs to know.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Shown in each line: `ipcontroller`, `ipengine`, `ipcluster`.
    pub program: &'static str,
    pub level: LogLevel,
    pub components: ComponentLevels,
    pub format: LogFormat,
    /// Of the file, or of the file that stderr is if whoever started this process says so.
    pub rotation: Rotation,
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
        // Those of before the last rotation as well.
        let (stem, extension) = match name.rsplit_once('.')? {
            (before, number) if number.parse::<u32>().is_ok() => before.rsplit_once('.')?,
            whole => whole,
        };
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
            let file = LogFile::new(file, path.clone(), options.rotation);
            tracing::subscriber::set_global_default(subscriber(options, false, file))
        }
        None => match StderrFile::take(options.rotation) {
            Some(file) => tracing::subscriber::set_global_default(subscriber(options, false, file)),
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
        },
    };
    // Only tests start it twice.
    drop(started);
    Ok(())
}

fn subscriber<W>(options: &LogOptions, colour: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = Filter::new(options.level, &options.components);
    let most = filter.most();
    let lines = tracing_subscriber::fmt::layer()
        // It would use `eprintln!`, which panics when stderr is closed.
        .log_internal_errors(false)
        .event_format(Line {
            program: options.program,
            format: options.format,
            colour,
        })
        .with_writer(writer)
        .with_filter(filter_fn(move |metadata| filter.takes(metadata)).with_max_level_hint(most));
    tracing_subscriber::registry().with(lines)
}

fn wants_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

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
            components: ComponentLevels::from([("hub".to_owned(), LogLevel::Debug)]),
            format,
            rotation: Rotation::default(),
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
            tracing::trace!(target: "ipcluster::hub", "too small");
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
        let of_hub = || tracing::debug!(target: "ipcluster::controller::hub_thread", "of the hub");
        assert!(logged(LogLevel::Error, LogFormat::Text, of_hub).ends_with("of the hub\n"));
        let json = logged(LogLevel::Info, LogFormat::Json, both);
        let event: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(event["message"], "large");
        assert_eq!(event["level"], "warning");
        assert_eq!(event["component"], "os");
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
            components: ComponentLevels::new(),
            format: LogFormat::Text,
            rotation: Rotation::default(),
            file: None,
        };
        let subscriber = subscriber(&options, false, || Closed);
        tracing::subscriber::with_default(subscriber, || tracing::info!("unheard"));
    }

    #[test]
    fn only_logs_of_dead_processes_of_this_cluster_are_cleaned() {
        let folder = tempfile::tempdir().unwrap();
        let dead = i32::MAX;
        let alive = std::process::id();
        let names = [
            (format!("ipcontroller-{dead}.log"), false),
            (format!("ipcontroller-{dead}.err"), false),
            (format!("ipcontroller-{dead}.log.2"), false),
            (format!("ipcontroller-{alive}.log.1"), true),
            (file_name("ipcontroller", "", alive), true),
            (format!("ipcontroller-x-{dead}.log"), true),
            (format!("ipcontroller-{dead}.json"), true),
            ("ipcontroller-.log".to_owned(), true),
            (format!("ipengine-{dead}.log"), true),
        ];
        for (name, _) in &names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(clean(folder.path(), "ipcontroller", ""), 3);
        for (name, stays) in &names {
            assert_eq!(folder.path().join(name).exists(), *stays, "{name}");
        }
        assert_eq!(clean(folder.path(), "ipcontroller", "x"), 1);
    }
}
