//! A controller that has no way to tell its starter that it is ready (a job, a process under mpiexec) writes its connection
//! files all the same: these are waited for.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::profile::ConnectionFiles;
use crate::profile::connection::ClientFile;

/// File systems that machines share tell nobody of what others write.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// The one that is written last.
    path: PathBuf,
    /// What was there before: of a controller that has ended, whose files are to be used again or were left behind.
    before: Option<Stamp>,
}

/// Files are written anew, and put in the place of older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Arrival {
    /// To be called before the controller is started.
    pub(super) fn expect(files: &ConnectionFiles) -> Self {
        let path = files.client.clone();
        Self {
            before: read(&path).map(|(stamp, _)| stamp),
            path,
        }
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    fn has_come(&self) -> bool {
        let Some((stamp, text)) = read(&self.path) else {
            return false;
        };
        Some(stamp) != self.before && ClientFile::from_text(&text).is_ok()
    }

    /// Resolves when the file is there.
    pub(super) async fn wait(&self) {
        while !self.has_come() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// It is opened first: network file systems ask their server anew then.
fn read(path: &PathBuf) -> Option<(Stamp, String)> {
    let mut file = File::open(path).ok()?;
    let found = file.metadata().ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let stamp = Stamp {
        inode: found.ino(),
        seconds: found.mtime(),
        nanoseconds: found.mtime_nsec(),
    };
    Some((stamp, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ClusterId;

    const CLIENT: &str = r#"{"ssh":"","interface":"tcp://*","registration":1,"control":2,"mux":3,"task":4,"iopub":5,
        "notification":6,"key":"k","location":"a","pack":"json","unpack":"json","signature_scheme":"hmac-sha256"}"#;

    #[test]
    fn only_a_file_that_was_not_there_before_has_come() {
        let folder = tempfile::tempdir().unwrap();
        let files = ConnectionFiles::paths(folder.path(), &ClusterId::default());
        let write = |text: &str| {
            crate::os::files::write_private(&files.client, text.as_bytes()).unwrap();
        };
        let first = Arrival::expect(&files);
        assert!(!first.has_come());
        write("{");
        assert!(!first.has_come(), "it is no whole file");
        write(CLIENT);
        assert!(first.has_come());
        let second = Arrival::expect(&files);
        assert!(!second.has_come());
        // The same content, as with --reuse.
        write(CLIENT);
        assert!(second.has_come());
    }
}
