//! The fork server: one Python process that imports everything once and forks the kernels.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::process::Child;

use super::link::{Link, Received};
use super::messages::{FromForkServer, to_fork_server};
use super::spawn;
use crate::engine::config::{OwnKernel, Traits};
use crate::engine::outputs::Utf8Pieces;
use crate::engine::starting::{LastWords, Late, Patience};
use crate::os::process::child_ended;
use crate::transport::Frame;

/// As long as a fork server may take to end; a suspended one takes for ever.
const TIME_TO_END: Duration = Duration::from_secs(2);

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

#[derive(Debug)]
pub(in crate::engine) struct ForkServer {
    process: Child,
    /// Also the number of its process group.
    pid: Option<Pid>,
    link: Link,
    /// Tells of the link that something can be read, or written. Another descriptor of the same socket.
    readiness: AsyncFd<OwnedFd>,
    /// What it writes to its stdout and stderr. `None` when nobody can write there any more.
    output: Option<pipe::Receiver>,
    pieces: Utf8Pieces,
    words: LastWords,
    /// Until it is ready.
    patience: Option<Patience>,
}

#[derive(Debug)]
pub(in crate::engine) enum ForkServerEvent {
    Said(Vec<FromForkServer>),
    /// It is not ready yet.
    Late(Late),
    /// It has gone, or is about to: [`ForkServer::end`] says how.
    Gone,
}

impl ForkServer {
    /// `limit`: as long as it may take to be ready.
    pub(in crate::engine) fn start(
        kernel: &OwnKernel,
        traits: &Traits,
        limit: Option<Duration>,
    ) -> io::Result<Self> {
        let (reader, stdout) = io::pipe()?;
        let output = (OwnedFd::from(stdout.try_clone()?), OwnedFd::from(stdout));
        let (process, mut link) = spawn::start(
            &kernel.python,
            "fork-server",
            output,
            spawn::Surroundings::default(),
        )?;
        let preload = json!({ "preload": kernel.preload, "config": traits });
        link.send(
            to_fork_server::PRELOAD,
            [Frame::from(preload.to_string().into_bytes())],
        );
        link.flush()?;
        // SAFETY: the descriptor is owned by the `AsyncFd` and stays open as long as that lives.
        let readiness = unsafe { AsyncFd::register_with_interest(link.duplicate_fd()?, BOTH) }
            .map_err(io::Error::from)?;
        Ok(Self {
            pid: spawn::pid_of(&process),
            process,
            link,
            readiness,
            output: Some(pipe::Receiver::from_owned_fd(reader.into())?),
            pieces: Utf8Pieces::default(),
            words: LastWords::default(),
            patience: Some(Patience::new(Instant::now(), limit)),
        })
    }

    /// Has it imported everything?
    pub(in crate::engine) fn is_ready(&self) -> bool {
        self.patience.is_none()
    }

    /// It has said that it is ready. What it wrote until then is handed out.
    pub(in crate::engine) fn on_ready(&mut self) -> LastWords {
        self.read_output();
        self.patience = None;
        std::mem::take(&mut self.words)
    }

    /// Waits until there is something to be done. May be given up and called again at any time.
    pub(in crate::engine) async fn next(&mut self) -> io::Result<ForkServerEvent> {
        loop {
            // Sources and settings may be larger than a socket's buffer: what was not taken at first follows.
            let interest = if self.link.flush()? {
                Interest::READABLE
            } else {
                BOTH
            };
            let deadline = self.patience.as_ref().and_then(Patience::next_deadline);
            tokio::select! {
                ready = self.readiness.ready(interest) => {
                    let mut ready = ready?;
                    let is_readable = ready.ready().is_readable();
                    ready.clear_ready();
                    if !is_readable {
                        continue;
                    }
                    return Ok(match self.receive()? {
                        Some(said) => ForkServerEvent::Said(said),
                        None => ForkServerEvent::Gone,
                    });
                }
                () = readable(self.output.as_ref()) => self.read_output(),
                () = at(deadline) => {
                    let patience = self.patience.as_mut();
                    if let Some(late) = patience.and_then(|it| it.on_time(Instant::now())) {
                        return Ok(ForkServerEvent::Late(late));
                    }
                }
            }
        }
    }

    /// Before it is ready this is kept for the message that says why it never was; later it is for the log.
    fn read_output(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(output) = &self.output {
            match output.try_read(&mut buffer) {
                Ok(0) => self.output = None,
                Ok(count) => {
                    let text = self.pieces.push(&buffer[..count]);
                    if self.is_ready() {
                        for line in text.lines() {
                            tracing::info!("the process that kernels are forked from: {line}");
                        }
                    } else {
                        self.words.push(&text);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.output = None,
            }
        }
    }

    /// Asks for the kernel of engine `rank`, with its ends of the link and of the two output pipes.
    pub(in crate::engine) fn fork(
        &mut self,
        rank: u32,
        surroundings: spawn::Surroundings,
        ends: [OwnedFd; 3],
    ) -> io::Result<()> {
        let request = json!({
            "rank": rank,
            "env": surroundings.environment,
            "cpus": surroundings.processors,
            "open_files": surroundings.open_files,
        })
        .to_string();
        self.link
            .send_with_fds(to_fork_server::FORK, request.as_bytes(), ends.into());
        self.link.flush()?;
        Ok(())
    }

    /// Signals a kernel, or its whole process group; never another process that got its number.
    pub(in crate::engine) fn signal(
        &mut self,
        pid: i32,
        signal: i32,
        group: bool,
    ) -> io::Result<()> {
        let request = json!({ "pid": pid, "sig": signal, "group": group }).to_string();
        self.link
            .send(to_fork_server::SIGNAL, [Frame::from(request.into_bytes())]);
        self.link.flush()?;
        Ok(())
    }

    /// Ends it with everything that it has started in its process group.
    pub(in crate::engine) fn kill(&self) {
        if let Some(pid) = self.pid {
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }

    /// Waits until it has ended, which it does by itself when nobody holds the other end of its link: it still carries
    /// out what it was told, and ends what its kernels have left behind. Returns how it ended, and what it wrote last.
    pub(in crate::engine) async fn end(mut self) -> (io::Result<ExitStatus>, LastWords) {
        self.link.finish();
        if let Some(pid) = self.pid {
            // Whether it has ended or has had its time: with what it has started and left.
            let _ = tokio::time::timeout(TIME_TO_END, child_ended(pid)).await;
            self.kill();
        }
        let status = self.process.wait().await;
        self.read_output();
        (status, self.words)
    }

    /// Everything that has been said and was not heard yet; `None` when it is gone.
    fn receive(&mut self) -> io::Result<Option<Vec<FromForkServer>>> {
        let mut said = Vec::new();
        loop {
            match self.link.receive()? {
                Received::Message(message) => said.extend(FromForkServer::parse(&message)),
                Received::Nothing => return Ok(Some(said)),
                Received::Closed if said.is_empty() => return Ok(None),
                Received::Closed => return Ok(Some(said)),
            }
        }
    }
}

async fn readable(pipe: Option<&pipe::Receiver>) {
    match pipe {
        // An error is found by reading.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
