//! The process that kernels are forked from: its start, what it says, its end.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{EngineHost, HostError};
use crate::engine::config::OwnKernel;
use crate::engine::kernel::fork_server::{ForkServer, ForkServerEvent};
use crate::engine::kernel::messages::{ExitStatus, FromForkServer};
use crate::engine::mail::{EngineMail, Killed};
use crate::engine::starting::Late;

impl EngineHost {
    pub(super) fn start_fork_server(&mut self, kernel: &OwnKernel) -> Result<(), HostError> {
        let traits = &self.config.kernel.traits;
        let server =
            ForkServer::start(kernel, traits, self.config.start_timeout).map_err(|source| {
                HostError::Python {
                    python: self.program(),
                    source,
                }
            })?;
        self.fork_server = Some(server);
        Ok(())
    }

    pub(super) fn program(&self) -> String {
        self.config.kernel.program.to_string()
    }

    pub(super) async fn on_fork_server(&mut self, event: ForkServerEvent) -> Result<(), HostError> {
        match event {
            ForkServerEvent::Said(said) => {
                for message in said {
                    self.on_fork_server_message(message)?;
                }
                Ok(())
            }
            ForkServerEvent::Late(Late::Warn(waited)) => {
                tracing::warn!(
                    "{} has been starting for {:.0} s: waiting for it to import what kernels need",
                    self.program(),
                    waited.as_secs_f64()
                );
                Ok(())
            }
            ForkServerEvent::Late(Late::GiveUp(limit)) => {
                let python = self.program();
                let Some(server) = self.fork_server.take() else {
                    return Ok(());
                };
                server.kill();
                let (_, words) = server.end().await;
                Err(HostError::PythonLate {
                    python,
                    limit,
                    words,
                })
            }
            ForkServerEvent::Gone => self.on_fork_server_end().await,
        }
    }

    fn on_fork_server_message(&mut self, message: FromForkServer) -> Result<(), HostError> {
        match message {
            FromForkServer::Warm(info) => {
                tracing::debug!(
                    "the fork server runs Python {} ({})",
                    info.python,
                    info.executable
                );
                if let Some(server) = &mut self.fork_server {
                    let words = server.on_ready();
                    if !words.is_empty() {
                        tracing::info!("as it started, Python wrote:{}", words.indented());
                    }
                }
                for (rank, wanted) in std::mem::take(&mut self.waiting) {
                    self.begin(rank, wanted)?;
                }
            }
            FromForkServer::Forked { rank, pid } => {
                if let Some(engine) = self.engines.get_mut(&rank) {
                    engine.pid = Some(pid);
                }
            }
            FromForkServer::Exited { rank, status } => self.on_kernel_exit(rank, Some(status)),
            FromForkServer::Error { rank, failure } => {
                let hint = failure.hint.unwrap_or_default();
                let why = format!("{}: {} ({hint})", failure.ename, failure.evalue);
                match rank {
                    Some(rank) => self.tell(
                        rank,
                        EngineMail::KernelFailed(format!("its kernel cannot be started: {why}")),
                    ),
                    None => tracing::warn!("{why}"),
                }
            }
        }
        Ok(())
    }

    /// Without the fork server its kernels are gone too: they die with it.
    async fn on_fork_server_end(&mut self) -> Result<(), HostError> {
        let Some(server) = self.fork_server.take() else {
            return Ok(());
        };
        let was_ready = server.is_ready();
        let (status, words) = server.end().await;
        let status = describe(status?);
        if !was_ready {
            if self.stopping {
                return Ok(());
            }
            return Err(HostError::PythonEnded {
                python: self.program(),
                status: status.to_string(),
                words,
            });
        }
        tracing::error!("the process that kernels are forked from has ended ({status})");
        for engine in self.engines.values_mut() {
            if let Some(pid) = engine.pid.take() {
                // What user code started and left.
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
            engine.mail.send(EngineMail::KernelExited {
                status: None,
                why: Some(Killed::WithForkServer),
            });
        }
        Ok(())
    }
}

pub(super) fn describe(status: std::process::ExitStatus) -> ExitStatus {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, signal) => ExitStatus::Signal(signal.unwrap_or_default()),
    }
}
