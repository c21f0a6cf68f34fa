//! The logs of a cluster: which files they are, and reading them as they grow.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::tail::tail;
use crate::protocol::{ClusterId, EngineId};

/// Who writes a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writer {
    /// `ipcluster start` and `engines`, in the background.
    Supervisor,
    Controller,
    Engines,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    pub writer: Writer,
    pub path: PathBuf,
    pub modified: SystemTime,
}

/// All logs of a cluster in this folder, that which was written last at the end.
pub fn logs_of(folder: &Path, cluster_id: &ClusterId) -> Vec<LogFile> {
    let mut found: Vec<LogFile> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let writer = writer_of(entry.file_name().to_str()?, &cluster_id.0)?;
            Some(LogFile {
                writer,
                path: entry.path(),
                modified: entry.metadata().ok()?.modified().ok()?,
            })
        })
        .collect();
    found.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
    found
}

/// `PROGRAM-[ID-]PID.log`; ipyparallel's engines have `ipengine-ID-TIME-NUMBER.log`, further jobs of ours a number behind
/// the program.
fn writer_of(name: &str, cluster_id: &str) -> Option<Writer> {
    let stem = name.strip_suffix(".log")?;
    let (program, rest) = stem.split_once('-')?;
    let writer = match program {
        "ipcluster" => Writer::Supervisor,
        "ipcontroller" => Writer::Controller,
        _ if program
            .strip_prefix("ipengine")?
            .bytes()
            .all(|byte| byte.is_ascii_digit()) =>
        {
            Writer::Engines
        }
        _ => return None,
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_numbers = |text: &str| match text.split_once('-') {
        Some((time, number)) => writer == Writer::Engines && is_number(time) && is_number(number),
        None => is_number(text),
    };
    let is_of_id = match cluster_id {
        // ipyparallel writes the hyphen behind an empty id, too.
        "" => is_number(rest) || rest.strip_prefix('-').is_some_and(is_numbers),
        id => rest
            .strip_prefix(id)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(is_numbers),
    };
    is_of_id.then_some(writer)
}

/// The engines that have registered according to a log.
pub fn engines_in(path: &Path) -> io::Result<BTreeSet<EngineId>> {
    const SAID: &str = "Completed registration with id ";
    let mut found = BTreeSet::new();
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        if let Some((_, rest)) = text.split_once(SAID) {
            let digits = rest.find(|character: char| !character.is_ascii_digit());
            if let Ok(id) = rest[..digits.unwrap_or(rest.len())].parse() {
                found.insert(EngineId(id));
            }
        }
        line.clear();
    }
    Ok(found)
}

/// Reads a log line by line as it grows.
#[derive(Debug)]
pub struct Follower {
    pub path: PathBuf,
    position: u64,
    /// Of a line whose end has not been written yet.
    begun: Vec<u8>,
}

impl Follower {
    /// Begins with the last `lines` lines, which are returned.
    pub fn begin(path: &Path, lines: usize) -> io::Result<(Self, Vec<String>)> {
        let position = fs::metadata(path)?.len();
        let shown = tail(path, lines)?;
        let follower = Self {
            path: path.to_owned(),
            position,
            begun: Vec::new(),
        };
        Ok((follower, shown))
    }

    /// Begins with the first line.
    pub fn from_start(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            position: 0,
            begun: Vec::new(),
        }
    }

    /// Whole lines that have come since the last time. A file that has become shorter is read anew; one that is gone has
    /// none.
    pub fn more(&mut self) -> io::Result<Vec<String>> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened?,
        };
        let length = file.metadata()?.len();
        if length < self.position {
            self.position = 0;
            self.begun.clear();
        }
        file.seek(SeekFrom::Start(self.position))?;
        let read = file
            .take(length - self.position)
            .read_to_end(&mut self.begun)?;
        self.position += read as u64;
        let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.begun.split_off(end + 1);
        let whole = std::mem::replace(&mut self.begun, rest);
        let text = String::from_utf8_lossy(&whole);
        Ok(text.lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Write;

    #[test]
    fn names_say_whose_logs_they_are() {
        for (name, id, writer) in [
            ("ipcontroller-12.log", "", Some(Writer::Controller)),
            ("ipcontroller-a-12.log", "", None),
            ("ipcontroller-a-12.log", "a", Some(Writer::Controller)),
            ("ipcontroller-a-b-12.log", "a", None),
            ("ipcluster-12.log", "", Some(Writer::Supervisor)),
            ("ipengine-12.log", "", Some(Writer::Engines)),
            ("ipengine3-12.log", "", Some(Writer::Engines)),
            ("ipengine--1795294755-0.log", "", Some(Writer::Engines)),
            ("ipengine-a-1795294755-0.log", "a", Some(Writer::Engines)),
            ("ipcontroller--12.log", "", Some(Writer::Controller)),
            ("engines.json", "", None),
            ("ipengine-.log", "", None),
            ("notes.log", "", None),
            ("ipenginex-1.log", "", None),
        ] {
            assert_eq!(writer_of(name, id), writer, "{name}");
        }
    }

    #[test]
    fn a_log_tells_its_engines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let lines: &[u8] = b"x Completed registration with id 1\n\xff\n[y] Completed registration with id 12, z\nCompleted \
                     registration with id x\n";
        fs::write(&path, lines).unwrap();
        let found: Vec<u32> = engines_in(&path)
            .unwrap()
            .into_iter()
            .map(|id| id.0)
            .collect();
        assert_eq!(found, [1, 12]);
    }

    #[test]
    fn lines_come_whole_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "a\nb\n").unwrap();
        let (mut follower, shown) = Follower::begin(&path, 1).unwrap();
        assert_eq!(shown, ["b"]);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"c\nd").unwrap();
        assert_eq!(follower.more().unwrap(), ["c"]);
        file.write_all(b"e\n").unwrap();
        assert_eq!(follower.more().unwrap(), ["de"]);
        assert!(follower.more().unwrap().is_empty());
        fs::write(&path, "new\n").unwrap();
        assert_eq!(follower.more().unwrap(), ["new"]);
        fs::remove_file(&path).unwrap();
        assert!(follower.more().unwrap().is_empty());
        assert!(Follower::from_start(&path).more().unwrap().is_empty());
    }
}
