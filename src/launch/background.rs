//! The two ends of `--daemonize`: the front, which the user has called, waits until the cluster is up; the supervisor
//! stays in the background. They talk through a socket, one JSON object on each line.
//!
//! When the front ends before the cluster is up, the supervisor reads the end of the socket and takes everything down.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

use super::report::Severity;

/// Holds the number of the supervisor's end of the socket.
pub const VARIABLE: &str = "IPCLUSTER_FRONT";

/// Is set where the supervisor that has a front stays at a terminal: it was started again there.
pub const FOREGROUND_VARIABLE: &str = "IPCLUSTER_FOREGROUND";

/// What the supervisor tells the front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    Line {
        severity: Severity,
        text: String,
    },
    /// How far it is: a line like others where nobody looks.
    Progress(String),
    /// From now on whoever watches hears everything.
    Watched,
    /// Everything is up, and stays; to who watches, it has ended as was wished.
    Ready,
    /// Nothing is left; the exit code says why.
    Failed {
        code: u8,
        message: Option<String>,
    },
}

/// The supervisor's end.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
}

/// The socket that this process was given, if it was. To be called once, before there are threads.
pub fn take() -> Option<OwnedFd> {
    let fd: RawFd = std::env::var(VARIABLE).ok()?.parse().ok()?;
    // SAFETY: no other thread reads or writes the environment yet.
    unsafe { std::env::remove_var(VARIABLE) };
    // SAFETY: asks only whether the number is that of an open descriptor, and marks it.
    let open = unsafe { BorrowedFd::borrow_raw(fd) };
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(open, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: a descriptor that was handed down belongs to nobody else in this process.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives the socket to the program that takes this process's place, which [`take`]s it.
pub fn hand_down(front: &OwnedFd, command: &mut std::process::Command) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(front, FcntlArg::F_SETFD(FdFlag::empty()))?;
    command.env(VARIABLE, front.as_raw_fd().to_string());
    Ok(())
}

/// Does the supervisor stay at its terminal? To be called once, before there are threads.
pub fn take_foreground() -> bool {
    let is_set = std::env::var_os(FOREGROUND_VARIABLE).is_some();
    // SAFETY: no other thread reads or writes the environment yet.
    unsafe { std::env::remove_var(FOREGROUND_VARIABLE) };
    is_set
}

/// Says something without a runtime, for failures before there is one.
pub fn tell_at_once(fd: &OwnedFd, told: &Told) {
    use std::io::Write;
    if let Ok(fd) = fd.try_clone() {
        // A front that is gone hears nothing.
        let _ = BlockingStream::from(fd).write_all(line(told).as_bytes());
    }
}

fn line(told: &Told) -> String {
    let mut line = serde_json::to_string(told).expect("text and numbers are JSON");
    line.push('\n');
    line
}

impl Link {
    /// Of somebody who has come by the control socket.
    pub fn of(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// The socket itself, for the program that takes this one's place.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        let stream = self.stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(OwnedFd::from(stream))
    }

    /// Must be called within a tokio runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let stream = BlockingStream::from(fd);
        stream.set_nonblocking(true)?;
        // Not split in halves: the end of one would shut the socket down for all its descriptors.
        let stream = UnixStream::from_std(stream)?;
        Ok(Self { stream })
    }

    pub async fn tell(&mut self, told: &Told) {
        // A front that is gone hears nothing, and its end is noticed elsewhere.
        let _ = self.stream.write_all(line(told).as_bytes()).await;
    }

    /// Resolves when the front is gone.
    pub async fn gone(&mut self) {
        let mut sink = [0; 16];
        while matches!(self.stream.read(&mut sink).await, Ok(count) if count > 0) {}
    }
}

/// The front's end.
#[derive(Debug)]
pub struct Front {
    pub supervisor: Child,
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Front {
    /// Starts the supervisor, `argv`, in a session of its own. Must be called within a tokio runtime.
    pub fn start(argv: &[OsString]) -> io::Result<Self> {
        let (mine, theirs) = BlockingStream::pair()?;
        mine.set_nonblocking(true)?;
        let theirs = OwnedFd::from(theirs);
        let fd = theirs.as_raw_fd();
        let program = argv.first().cloned().unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(argv.iter().skip(1))
            .env(VARIABLE, fd.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: between fork and exec only system calls are made, which may be.
        unsafe { command.pre_exec(move || prepare_child(fd)) };
        let supervisor = command.spawn()?;
        drop(theirs);
        let (reader, writer) = UnixStream::from_std(mine)?.into_split();
        Ok(Self {
            supervisor,
            lines: BufReader::new(reader).lines(),
            writer,
        })
    }

    /// The next thing that the supervisor says; nothing when it has ended.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            let line = self.lines.next_line().await.ok()??;
            // What another version says may be unknown.
            if let Ok(told) = serde_json::from_str(&line) {
                return Some(told);
            }
        }
    }

    /// Nobody waits any more: the supervisor is to take everything down, and to say when it has.
    pub async fn hang_up(&mut self) {
        let _ = self.writer.shutdown().await;
    }
}

fn prepare_child(fd: RawFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    nix::unistd::setsid()?;
    // SAFETY: the descriptor is open in this process: it was made before the fork.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Lets descriptors 1 and 2 write into the log, so that nothing holds the front's terminal, and a panic is found.
pub fn redirect_output(log: &std::path::Path) -> io::Result<()> {
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)?;
    nix::unistd::dup2_stdout(&file)?;
    nix::unistd::dup2_stderr(&file)?;
    Ok(())
}
