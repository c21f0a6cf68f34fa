//! How a process that was started by another notices that the other is gone.
//!
//! The starter holds the writing end of a pipe whose reading end it hands down, by number, in [`VARIABLE`]. However the
//! starter ends, the pipe ends with it. Through another pipe it hears what becomes of this process.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::launch::News;
pub(super) use crate::launch::local::LIFELINE_VARIABLE as VARIABLE;
use crate::launch::local::NEWS_VARIABLE;

/// The pipe that this process was given, if it was. To be called once, before there are threads: the variable must not
/// reach the processes that this one starts.
pub(super) fn take() -> Option<OwnedFd> {
    take_fd(VARIABLE)
}

fn take_fd(variable: &str) -> Option<OwnedFd> {
    let fd: RawFd = std::env::var(variable).ok()?.parse().ok()?;
    // SAFETY: no other thread reads or writes the environment yet.
    unsafe { std::env::remove_var(variable) };
    // SAFETY: a descriptor that was handed down belongs to nobody else in this process; one that is not open is found
    // out below.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    match fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Some(fd),
        Err(_) => {
            // Not open: it must not be closed either.
            std::mem::forget(fd);
            None
        }
    }
}

/// Where the starter hears what becomes of this process, if there is one.
#[derive(Debug)]
pub(super) struct Starter(Option<File>);

impl Starter {
    /// To be called once, before there are threads.
    pub(super) fn take() -> Self {
        Self(take_fd(NEWS_VARIABLE).map(File::from))
    }

    /// A starter that is gone is noticed elsewhere.
    pub(super) fn tell(&mut self, news: &News) {
        if let Some(pipe) = &mut self.0 {
            let mut line = serde_json::to_string(news).expect("text and numbers are JSON");
            line.push('\n');
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

/// Resolves when the starter is gone; never without one.
pub(super) async fn cut(lifeline: Option<OwnedFd>) -> io::Result<()> {
    let Some(fd) = lifeline else {
        return std::future::pending().await;
    };
    let mut pipe = pipe::Receiver::from_owned_fd(fd)?;
    let mut sink = [0; 16];
    while pipe.read(&mut sink).await? > 0 {}
    Ok(())
}
