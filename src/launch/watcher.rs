//! Hearing from outside how a supervisor ends: what it warns of, and its exit code, wherever it writes its log.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::background::Told;
use super::control::{Wish, ask};
use super::report::Severity;
use crate::profile::cluster_file::RunFile;

/// In which a supervisor says that it hears, and in which the last of what it has said comes: one that hangs is not waited
/// for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Somebody who listens to a supervisor.
#[derive(Debug)]
pub struct Watcher(Receiver<Told>);

/// How a supervisor has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub warnings: Vec<String>,
    /// Nothing if it has not said so: it was killed, or is of another version.
    pub code: Option<u8>,
}

impl Watcher {
    /// Listens to the supervisor of this run from now on: what it is told afterwards, it answers here.
    pub fn of(run_path: &Path) -> Self {
        let (told, hears) = channel();
        let path = RunFile::control_path(run_path);
        // Not waited for: it ends with the supervisor.
        std::thread::spawn(move || {
            let tell = |one| drop(told.send(one));
            if let Err(error) = ask(&path, Wish::Watch, tell) {
                tracing::debug!("{} does not say how it ends: {error}", path.display());
            }
        });
        // The first thing that is said is that it is heard.
        let _ = hears.recv_timeout(PATIENCE);
        Self(hears)
    }

    /// What has been said, of a supervisor that is gone.
    pub fn end(self) -> End {
        let mut end = End::default();
        while let Ok(told) = self.0.recv_timeout(PATIENCE) {
            match told {
                Told::Line { severity, text } if severity != Severity::Info => {
                    end.warnings.push(text);
                }
                Told::Ready => end.code = Some(0),
                Told::Failed { code, .. } => end.code = Some(code),
                Told::Line { .. } | Told::Progress(_) | Told::Watched => {}
            }
        }
        end
    }
}
