//! Waiting until files of a folder change.

use std::io;
use std::path::Path;
use std::time::Duration;

/// Writers on other machines are seen by nobody but who looks; so often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A folder that is watched.
#[derive(Debug)]
pub struct FolderWatch {
    #[cfg(target_os = "linux")]
    inotify: nix::sys::inotify::Inotify,
}

#[cfg(target_os = "linux")]
impl FolderWatch {
    pub fn new(folder: &Path) -> io::Result<Self> {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let changes =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(folder, changes)?;
        Ok(Self { inotify })
    }

    /// Returns when something may have changed since the last time.
    pub fn wait(&self) -> io::Result<()> {
        use nix::errno::Errno;
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut polled = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        loop {
            match self.inotify.read_events() {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl FolderWatch {
    pub fn new(folder: &Path) -> io::Result<Self> {
        std::fs::read_dir(folder).map(|_| Self {})
    }

    /// Returns when something may have changed since the last time.
    pub fn wait(&self) -> io::Result<()> {
        std::thread::sleep(LOOK_EVERY / 4);
        Ok(())
    }
}
