//! What launchers have in common that start processes of this machine: logs, waiting for the end, and hearing of news.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, Split};
use tokio::process::Child;
use tokio::sync::mpsc::UnboundedSender;

use super::supervisor::{Member, Status};
use super::{LaunchError, LaunchEvent, News};
use crate::os::ProcessRef;
use crate::os::log::{self, RotatedFile};
use crate::protocol::ClusterId;

/// Where logs of processes go.
#[derive(Clone, Debug)]
pub(super) struct Logs {
    pub(super) folder: PathBuf,
    pub(super) cluster_id: ClusterId,
}

/// A log of a process that has no pid yet.
pub(super) struct NewLog<'a> {
    logs: &'a Logs,
    name: &'static str,
    pub(super) file: File,
    path: PathBuf,
}

impl Logs {
    pub(super) fn open(&self, name: &'static str) -> Result<NewLog<'_>, LaunchError> {
        let mine = log::file_name(name, &self.cluster_id.0, std::process::id());
        let path = self.folder.join(format!(".{mine}.new"));
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        match opened {
            Ok(file) => Ok(NewLog {
                logs: self,
                name,
                file,
                path,
            }),
            Err(source) => Err(LaunchError::Log { path, source }),
        }
    }
}

impl NewLog<'_> {
    /// Names it after its process; gives the file, and where it is now.
    pub(super) fn settle(self, process: &ProcessRef) -> (File, PathBuf) {
        let pid = process.pid.unsigned_abs();
        let name = log::file_name(self.name, &self.logs.cluster_id.0, pid);
        let path = self.logs.folder.join(name);
        match fs::rename(&self.path, &path) {
            Ok(()) => (self.file, path),
            Err(_) => (self.file, self.path),
        }
    }

    /// An empty log of a process that never was.
    pub(super) fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Tells of the process's end when it comes.
pub(super) fn await_end(
    mut child: Child,
    member: Member,
    events: &UnboundedSender<LaunchEvent>,
) -> ProcessRef {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.expect("a child that nobody has waited for has a pid");
    let events = events.clone();
    tokio::spawn(async move {
        let status = match child.wait().await {
            Ok(status) => describe(status),
            Err(error) => {
                tracing::error!("{member} cannot be waited for: {error}");
                Status::Code(1)
            }
        };
        // Nobody hears it when this process is about to end.
        let _ = events.send(LaunchEvent::Exited(member, status));
    });
    // A process that has ended at once has no start time any more; its end is reported like any other.
    ProcessRef::of(pid).unwrap_or_else(|| ProcessRef::gone(pid))
}

fn describe(status: ExitStatus) -> Status {
    match (status.code(), status.signal()) {
        (Some(code), _) => Status::Code(code),
        (None, signal) => Status::Signal(signal.unwrap_or_default()),
    }
}

/// What a process says: a JSON document on each line.
pub(super) struct Sayings<R>(Split<BufReader<R>>);

impl<R: AsyncRead + Unpin> Sayings<R> {
    pub(super) fn of(reader: R) -> Self {
        Self(BufReader::new(reader).split(b'\n'))
    }

    /// What it says next, or nothing when it says no more. A call that is given up loses nothing.
    pub(super) async fn next(&mut self) -> Option<News> {
        loop {
            // What cannot be read is not told; how the process ends is.
            let line = self.0.next_segment().await.ok()??;
            // What another version says may be unknown, and what else writes there may be any bytes.
            if let Ok(news) = serde_json::from_slice(&line) {
                return Some(news);
            }
        }
    }
}

/// Tells of the news that the process writes.
pub(super) fn hear(
    reader: impl AsyncRead + Unpin + Send + 'static,
    member: Member,
    events: &UnboundedSender<LaunchEvent>,
) {
    let events = events.clone();
    tokio::spawn(async move {
        let mut sayings = Sayings::of(reader);
        while let Some(news) = sayings.next().await {
            let _ = events.send(LaunchEvent::Said(member, news));
        }
    });
}

/// Bytes without the end of a line that are written all the same.
const LONGEST_LINE: usize = 64 << 10;

/// Writes what the process says into its log, as it says it.
pub(super) fn keep(reader: impl AsyncRead + Unpin + Send + 'static, log: RotatedFile) {
    let mut reader = BufReader::new(reader);
    tokio::spawn(async move {
        let mut begun = Vec::new();
        while let Ok(read) = reader.read_buf(&mut begun).await {
            let end = match begun.iter().rposition(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                None if read == 0 || begun.len() >= LONGEST_LINE => begun.len(),
                None => 0,
            };
            // A log that cannot be written must not stop who writes it.
            let _ = log.write(&begun[..end]);
            begun.drain(..end);
            if read == 0 {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_news_is_passed_over() {
        let said =
            b"Bienvenue \xe0 bord\n{\"unknown\":1}\n\n\"ready\"\r\n{\"warning\":\"w\"}".as_slice();
        let mut sayings = Sayings::of(said);
        assert_eq!(sayings.next().await, Some(News::Ready));
        assert_eq!(sayings.next().await, Some(News::Warning("w".into())));
        assert_eq!(sayings.next().await, None);
    }
}
