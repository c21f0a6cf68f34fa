//! Log files that do not grow without end: `NAME.log`, before it `NAME.log.1`, and so on.
//!
//! Several processes may write into one file: the ranks of an MPI program, the jobs of an array. One of them begins the next
//! file, and the others go on in it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};

/// Set for a process whose stderr is a log file that was opened for it, and which it may rotate: to the folder in which such
/// a file is. Where a batch system writes elsewhere first, and copies what it has at the end, it is left alone.
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
    rotation: Rotation,
}

struct State {
    file: File,
    path: PathBuf,
}

impl LogFile {
    pub(super) fn new(file: File, path: PathBuf, rotation: Rotation) -> Self {
        Self {
            state: Mutex::new(State { file, path }),
            rotation,
        }
    }

    fn write(&self, line: &[u8], on_new: impl Fn(&File)) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The next one may have been filled by others already. Where it cannot be done, the file goes on.
        while self.rotation.max_size > 0
            && let Ok(Some(file)) = state.successor(self.rotation, line.len() as u64)
        {
            on_new(&file);
            state.file = file;
        }
        state.file.write_all(line)
    }
}

impl State {
    /// The file in which the log goes on, if it is another one.
    fn successor(&mut self, rotation: Rotation, more: u64) -> io::Result<Option<File>> {
        let file = &self.file;
        let own = file.metadata()?;
        let mut there = fs::metadata(&self.path);
        if there.is_err() && is_provisional(&self.path) {
            self.path = path_of(file)?;
            there = fs::metadata(&self.path);
        }
        if there.is_ok_and(|there| !is_same(&own, &there)) {
            return open(&self.path).map(Some);
        }
        if own.len() == 0 || own.len() + more <= rotation.max_size {
            return Ok(None);
        }
        let _lock = Flock::lock(file.try_clone()?, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io::Error::from(errno))?;
        match fs::metadata(&self.path) {
            Ok(there) if is_same(&own, &there) => next_file(&self.path, rotation.keep).map(Some),
            // Somebody else was first.
            Ok(_) => open(&self.path).map(Some),
            // A log that was removed stays away.
            Err(_) => Ok(None),
        }
    }
}

/// A log has a name of its own only when its process has a pid.
fn is_provisional(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

/// Where a file is, also when it was renamed, or was when another one took its place (proc(5), /proc/pid/fd).
fn path_of(file: &impl AsRawFd) -> io::Result<PathBuf> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let text = path.as_os_str().as_bytes();
    Ok(match text.strip_suffix(b" (deleted)") {
        Some(before) if !path.exists() => OsStr::from_bytes(before).into(),
        _ => path,
    })
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// What another program writes, into a file that is rotated.
pub struct RotatedFile(LogFile);

impl RotatedFile {
    /// `file` is at `path`.
    pub fn new(file: File, path: PathBuf, rotation: Rotation) -> Self {
        Self(LogFile::new(file, path, rotation))
    }

    /// Whole lines, which stay together.
    pub fn write(&self, lines: &[u8]) -> io::Result<()> {
        self.0.write(lines, |_| {})
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
        let folder = std::env::var_os(ROTATED_VARIABLE)?;
        // SAFETY: the log is started before there are other threads. The variable must not reach the processes that this
        // one starts.
        unsafe { std::env::remove_var(ROTATED_VARIABLE) };
        if rotation.max_size == 0 {
            return None;
        }
        let path = path_of(&io::stderr()).ok()?;
        let folder = fs::canonicalize(folder).ok()?;
        if path.parent() != Some(folder.as_path()) {
            return None;
        }
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

/// Gives what is there another name, and puts a new file for this user alone in its place. There is one at every moment:
/// other writers take a log that is not there for one that was removed.
fn next_file(path: &Path, keep: u32) -> io::Result<File> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let numbered = |number: u32| path.with_file_name(format!("{name}.{number}"));
    let next = path.with_file_name(format!(".{name}.next"));
    let file = open(&next)?;
    for number in (1..keep).rev() {
        let _ = fs::rename(numbered(number), numbered(number + 1));
    }
    if keep > 0 {
        let _ = fs::remove_file(numbered(1));
        // Some file systems have no links.
        fs::hard_link(path, numbered(1)).or_else(|_| fs::rename(path, numbered(1)))?;
    }
    fs::rename(&next, path)?;
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

    #[test]
    fn several_writers_have_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let rotation = Rotation {
            max_size: 1000,
            keep: 100,
        };
        let threads: Vec<_> = (0..4)
            .map(|writer| {
                let log = LogFile::new(open(&path).unwrap(), path.clone(), rotation);
                std::thread::spawn(move || {
                    for n in 0..200 {
                        log.write(format!("writer {writer} line {n:>4}\n").as_bytes(), |_| {})
                            .unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let mut lines = Vec::new();
        for entry in fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            // Whoever looked before another one wrote may go beyond it by a line.
            assert!(
                text.len() <= 1000 + 4 * 20,
                "{} has {}",
                path.display(),
                text.len()
            );
            lines.extend(text.lines().map(str::to_owned));
        }
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), 800, "nothing is lost");
    }

    #[test]
    fn a_log_is_followed_to_its_final_name() {
        let folder = tempfile::tempdir().unwrap();
        let [first, last] = [".a.new", "a.log"].map(|name| folder.path().join(name));
        let rotation = Rotation {
            max_size: 10,
            keep: 1,
        };
        let log = LogFile::new(open(&first).unwrap(), first.clone(), rotation);
        log.write(b"line 1\n", |_| {}).unwrap();
        fs::rename(&first, &last).unwrap();
        log.write(b"line 2\n", |_| {}).unwrap();
        assert_eq!(fs::read_to_string(&last).unwrap(), "line 2\n");
        // One that somebody has removed stays away.
        fs::remove_file(&last).unwrap();
        log.write(b"line 3\n", |_| {}).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
