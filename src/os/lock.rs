//! A file that at most one process holds. The system lets go of it however the process ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

use super::files::remedy;

#[derive(Debug, Error)]
pub enum LockError {
    #[error("{} is locked", path.display())]
    Held {
        path: PathBuf,
        /// Who holds it, as it says of itself.
        by: Option<i32>,
    },
    #[error("cannot lock {}: {source}; {}", path.display(), remedy(source))]
    File { path: PathBuf, source: io::Error },
}

/// The lock; dropping it lets go and removes the file.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // While it is held, so that nobody else's is removed. One that stays does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl FileLock {
    /// Takes the lock and writes this process's id into the file.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        loop {
            // Between opening and locking, the one who held it may have removed the file.
            let file = Self::try_lock(path)?;
            if is_file_at(&file, path) {
                return Ok(Self {
                    path: path.to_owned(),
                    _file: file,
                });
            }
        }
    }

    fn try_lock(path: &Path) -> Result<Flock<File>, LockError> {
        let failed = |source| LockError::File {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let pid = std::process::id().to_string();
                file.set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| file.write_all(pid.as_bytes()))
                    .map_err(|source| {
                        // While it is held. On a full disk it would stay behind empty.
                        let _ = std::fs::remove_file(path);
                        failed(source)
                    })?;
                Ok(file)
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let by = file
                    .read_to_string(&mut pid)
                    .ok()
                    .and_then(|_| pid.trim().parse().ok());
                Err(LockError::Held {
                    path: path.to_owned(),
                    by,
                })
            }
            Err((_, error)) => Err(failed(error.into())),
        }
    }
}

/// The process that holds a lock. The file of one whose holder was killed is removed.
pub fn holder(path: &Path) -> Option<i32> {
    if !path.exists() {
        return None;
    }
    match FileLock::acquire(path) {
        Err(LockError::Held { by, .. }) => by,
        _ => None,
    }
}

/// Does a process hold it? The file of one whose holder was killed is removed, where that can be.
pub fn is_held(path: &Path) -> bool {
    path.exists() && matches!(FileLock::acquire(path), Err(LockError::Held { .. }))
}

/// Removes the file of a lock whose holder was killed. One that is held stays.
pub fn remove_stale(path: &Path) {
    holder(path);
}

fn is_file_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(there)) => held.dev() == there.dev() && held.ino() == there.ino(),
        _ => false,
    }
}

/// Holds a folder while the files in it are read and changed together. Leaves no file behind.
///
/// File systems without locks are used without them: what is guarded here are files that people see, not data.
#[derive(Debug)]
pub struct FolderLock {
    _folder: Option<Flock<File>>,
}

impl FolderLock {
    /// Waits for whoever holds it; nobody does for long.
    pub fn hold(folder: &Path) -> Self {
        let locked = File::open(folder)
            .ok()
            .and_then(|file| Flock::lock(file, FlockArg::LockExclusive).ok());
        Self { _folder: locked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_the_other_learns_who() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let held = FileLock::acquire(&path).unwrap();
        match FileLock::acquire(&path) {
            Err(LockError::Held { by, .. }) => assert_eq!(by, Some(std::process::id() as i32)),
            other => panic!("{other:?}"),
        }
        drop(held);
        assert!(!path.exists());
        FileLock::acquire(&path).unwrap();
    }
}
