//! Log files that do not grow without end: `NAME.log`, before it `NAME.log.1`, and so on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Set for a process whose stderr is a log file that was opened for it, and which it may rotate.
pub const ROTATED_VARIABLE: &str = "IPCLUSTER_ROTATES_LOG";

/// When a file is followed by another, and how many are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes; 0 is any number.
    pub max_size: u64,
    /// Files of before.
    pub keep: u32,
}

/// A log file of this process.
pub(super) struct LogFile {
    state: Mutex<State>,
    path: PathBuf,
    rotation: Rotation,
}

struct State {
    file: File,
    size: u64,
}

impl LogFile {
    pub(super) fn new(file: File, path: PathBuf, rotation: Rotation) -> Self {
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        Self {
            state: Mutex::new(State { file, size }),
            path,
            rotation,
        }
    }

    fn write(&self, line: &[u8], on_new: impl Fn(&File)) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = self.rotation.max_size > 0
            && state.size > 0
            && state.size + line.len() as u64 > self.rotation.max_size;
        if is_full {
            // Where it cannot be done, the file goes on.
            if let Ok(file) = next_file(&self.path, self.rotation.keep) {
                on_new(&file);
                state.file = file;
            }
            state.size = 0;
        }
        state.size += line.len() as u64;
        state.file.write_all(line)
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for LogFile {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines {
            file: self,
            is_stderr: false,
        }
    }
}

/// Stderr, where it is a log file that was made for this process.
pub(super) struct StderrFile(LogFile);

impl StderrFile {
    /// Nothing unless whoever started this process says that it is one. What the fork server and other children write
    /// goes on into the file that it was when they started.
    pub(super) fn take(rotation: Rotation) -> Option<Self> {
        std::env::var_os(ROTATED_VARIABLE)?;
        // SAFETY: the log is started before there are other threads. The variable must not reach the processes that this
        // one starts.
        unsafe { std::env::remove_var(ROTATED_VARIABLE) };
        if rotation.max_size == 0 {
            return None;
        }
        // The link follows a file that was renamed.
        let path = fs::read_link("/proc/self/fd/2").ok()?;
        let file = OpenOptions::new().append(true).open(&path).ok()?;
        Some(Self(LogFile::new(file, path, rotation)))
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for StderrFile {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines {
            file: &self.0,
            is_stderr: true,
        }
    }
}

/// Takes whole lines.
pub(super) struct Lines<'a> {
    file: &'a LogFile,
    is_stderr: bool,
}

impl Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_stderr = self.is_stderr;
        let follow = |file: &File| {
            if is_stderr {
                // What does not go through the log, such as a panic, belongs to the new file as well.
                let _ = nix::unistd::dup2_stderr(file);
            }
        };
        self.file.write(line, follow)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Renames what is there, and begins a new file for this user alone.
fn next_file(path: &Path, keep: u32) -> io::Result<File> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..keep).rev() {
        let _ = fs::rename(numbered(number), numbered(number + 1));
    }
    if keep > 0 {
        fs::rename(path, numbered(1))?;
    } else {
        fs::remove_file(path)?;
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    debug_assert_eq!(
        file.metadata()
            .map_or(0, |metadata| metadata.mode() & 0o077),
        0
    );
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_renamed_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let file = File::create(&path).unwrap();
        let rotation = Rotation {
            max_size: 20,
            keep: 2,
        };
        let log = LogFile::new(file, path.clone(), rotation);
        for n in 0..10 {
            log.write(format!("line {n:>4}\n").as_bytes(), |_| {})
                .unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("a.log"), "line    8\nline    9\n");
        assert_eq!(read("a.log.1"), "line    6\nline    7\n");
        assert_eq!(read("a.log.2"), "line    4\nline    5\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_line_that_is_too_long_has_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let rotation = Rotation {
            max_size: 5,
            keep: 0,
        };
        let log = LogFile::new(File::create(&path).unwrap(), path.clone(), rotation);
        for line in ["a much longer line\n", "b\n"] {
            log.write(line.as_bytes(), |_| {}).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
