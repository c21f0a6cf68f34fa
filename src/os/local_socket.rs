//! Sockets that stand in a folder, whatever the length of its path: the system allows their addresses about a hundred
//! bytes.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// `sun_path` has 104 bytes on macOS and 108 on Linux, the ending zero included.
const LONGEST: usize = 103;

/// A socket that others connect to; dropping it removes the file.
#[derive(Debug)]
pub struct LocalListener {
    listener: UnixListener,
    path: PathBuf,
}

impl LocalListener {
    /// Takes the place of a socket that an ended process has left there. Who may connect is up to the folder.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = by_short_name(path, |name| UnixListener::bind(name))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    pub fn socket(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Connects to such a socket.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    by_short_name(path, |name| UnixStream::connect(name))
}

/// Linux names an open folder by a number.
fn by_short_name<T>(path: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= LONGEST {
        return with(path);
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    if !cfg!(target_os = "linux") {
        return Err(io::Error::other(format!(
            "{} has more than {LONGEST} bytes, which is more than this system allows a socket",
            path.display()
        )));
    }
    let folder = std::fs::File::open(folder)?;
    with(&Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{Read, Write};

    #[test]
    fn long_paths_are_no_obstacle_and_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        for depth in [1, 60] {
            let folder = root.path().join(vec!["folder"; depth].join("/"));
            std::fs::create_dir_all(&folder).unwrap();
            let path = folder.join("socket");
            if !cfg!(target_os = "linux") && path.as_os_str().len() > LONGEST {
                assert!(LocalListener::bind(&path).is_err());
                continue;
            }
            // One that was left behind does no harm.
            std::fs::write(&path, "").unwrap();
            let listener = LocalListener::bind(&path).unwrap();
            let mut there = connect(&path).unwrap();
            let (mut here, _) = listener.socket().accept().unwrap();
            there.write_all(b"x").unwrap();
            let mut read = [0];
            here.read_exact(&mut read).unwrap();
            assert_eq!(&read, b"x");
            let again = LocalListener::bind(&path).unwrap();
            drop(again);
            assert!(!path.exists());
            assert!(connect(&path).is_err());
        }
    }
}
