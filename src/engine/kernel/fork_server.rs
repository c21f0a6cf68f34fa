//! The fork server: one Python process that imports everything once and forks the kernels.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use serde_json::json;
use tokio::process::Child;

use super::link::{Link, Received};
use super::messages::{FromForkServer, to_fork_server};
use super::{python::Python, spawn};
use crate::engine::config::KernelConfig;
use crate::transport::Frame;

/// As long as a fork server may take to end; a suspended one takes for ever.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(in crate::engine) struct ForkServer {
    pub(in crate::engine) process: Child,
    link: Link,
}

/// What the fork server says; `None` when it is gone.
pub(in crate::engine) type Said = Option<Vec<FromForkServer>>;

impl ForkServer {
    pub(in crate::engine) fn start(python: &Python, config: &KernelConfig) -> io::Result<Self> {
        let (process, mut link) =
            spawn::start(python, "fork-server", None, spawn::Surroundings::default())?;
        let preload = json!({ "preload": config.preload, "config": config.traits });
        link.send(
            to_fork_server::PRELOAD,
            [Frame::from(preload.to_string().into_bytes())],
        );
        link.flush()?;
        Ok(Self { process, link })
    }

    /// Another descriptor of the link, to wait for its messages with.
    pub(in crate::engine) fn duplicate_fd(&self) -> io::Result<OwnedFd> {
        self.link.duplicate_fd()
    }

    /// Sources and settings are larger than a socket's buffer: what was not taken at first follows.
    pub(in crate::engine) fn flush(&mut self) -> io::Result<bool> {
        self.link.flush()
    }

    /// Asks for the kernel of engine `rank`, with its ends of the link and of the two output pipes.
    pub(in crate::engine) fn fork(
        &mut self,
        rank: u32,
        env: &serde_json::Value,
        cpus: Option<&[usize]>,
        [link, stdout, stderr]: [OwnedFd; 3],
    ) -> io::Result<()> {
        let request = json!({ "rank": rank, "env": env, "cpus": cpus }).to_string();
        let fds = [link.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
        self.link
            .send_with_fds(to_fork_server::FORK, request.as_bytes(), &fds)
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

    /// Waits until it has ended, which it does by itself when nobody holds the other end of its link: it still carries
    /// out what it was told, and ends what its kernels have left behind.
    pub(in crate::engine) async fn end(self) {
        let Self { mut process, link } = self;
        drop(link);
        if tokio::time::timeout(PATIENCE, process.wait())
            .await
            .is_err()
        {
            let _ = process.kill().await;
        }
    }

    /// Everything that has been said and was not heard yet.
    pub(in crate::engine) fn receive(&mut self) -> io::Result<Said> {
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
