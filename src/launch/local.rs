//! Processes of this machine.
//!
//! Each is in a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone, which ends them in order.
//! Each holds the reading end of a pipe whose writing end the supervisor has: however that one dies, they notice.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::mpsc::UnboundedSender;

use super::supervisor::{Member, Status};
use super::{Job, LaunchError, LaunchEvent, Launcher, Place, Started};
use crate::os::{ProcessRef, log};
use crate::profile::connection::CONNECTION_INFO_VARIABLE;
use crate::protocol::ClusterId;

/// Holds the number of a pipe that ends with the process that started this one.
pub const LIFELINE_VARIABLE: &str = "IPCLUSTER_LIFELINE";

/// Holds the number of a pipe for [`News`](super::News): one JSON document on each line.
pub const NEWS_VARIABLE: &str = "IPCLUSTER_NEWS";

#[derive(Debug)]
pub struct LocalLauncher {
    log_folder: PathBuf,
    cluster_id: ClusterId,
    events: UnboundedSender<LaunchEvent>,
    lifeline: PipeReader,
    /// Never written to; the children see it close.
    _held: PipeWriter,
    running: HashMap<Member, ProcessRef>,
}

impl LocalLauncher {
    pub fn new(
        log_folder: PathBuf,
        cluster_id: ClusterId,
        events: UnboundedSender<LaunchEvent>,
    ) -> Result<Self, LaunchError> {
        let (lifeline, held) = io::pipe().map_err(LaunchError::Pipe)?;
        Ok(Self {
            log_folder,
            cluster_id,
            events,
            lifeline,
            _held: held,
            running: HashMap::new(),
        })
    }

    /// The log, under a name that is changed when the process has a pid.
    fn open_log(&self, name: &str) -> Result<(File, PathBuf), LaunchError> {
        let mine = log::file_name(name, &self.cluster_id.0, std::process::id());
        let path = self.log_folder.join(format!(".{mine}.new"));
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path);
        match opened {
            Ok(file) => Ok((file, path)),
            Err(source) => Err(LaunchError::Log { path, source }),
        }
    }
}

impl Launcher for LocalLauncher {
    fn name(&self) -> &'static str {
        "local"
    }

    fn start(&mut self, member: Member, job: Job) {
        let event = match self.start_now(member, &job) {
            Ok(started) => LaunchEvent::Started(member, started),
            Err(error) => LaunchEvent::NotStarted(member, error),
        };
        let _ = self.events.send(event);
    }

    fn signal(&mut self, member: Member, signal: i32) {
        let Some(process) = self.running.get(&member) else {
            return;
        };
        let Ok(signal) = Signal::try_from(signal) else {
            return;
        };
        if let Err(error) = process.signal(signal) {
            tracing::debug!("{member} got no {signal}: {error}");
        }
    }
}

impl LocalLauncher {
    fn start_now(&mut self, member: Member, job: &Job) -> Result<Started, LaunchError> {
        let (log, temporary) = self.open_log(job.name)?;
        let started = self.spawn(member, job, log);
        let Ok(process) = &started else {
            // An empty log of a process that never was.
            let _ = fs::remove_file(&temporary);
            return started.map(|process| Started {
                place: Place::Process(process),
                log: temporary,
            });
        };
        let log = self.log_folder.join(log::file_name(
            job.name,
            &self.cluster_id.0,
            process.pid.unsigned_abs(),
        ));
        let log = match fs::rename(&temporary, &log) {
            Ok(()) => log,
            Err(_) => temporary,
        };
        self.running.insert(member, process.clone());
        Ok(Started {
            place: Place::Process(process.clone()),
            log,
        })
    }

    fn spawn(&self, member: Member, job: &Job, log: File) -> Result<ProcessRef, LaunchError> {
        let program = job.argv.first().cloned().unwrap_or_default();
        let failed = |source| LaunchError::Program {
            program: Path::new(&program).to_owned(),
            source,
        };
        let (reader, writer) = io::pipe().map_err(LaunchError::Pipe)?;
        let inherited = [self.lifeline.as_raw_fd(), writer.as_raw_fd()];
        let mut command = Command::new(&program);
        command
            .args(job.argv.iter().skip(1))
            .args(job.engines.map(|count| format!("--n={count}")))
            .envs(
                job.connection
                    .iter()
                    .map(|content| (CONNECTION_INFO_VARIABLE, content)),
            )
            .envs(job.environment.iter().map(|(name, value)| (name, value)))
            .env(LIFELINE_VARIABLE, inherited[0].to_string())
            .env(NEWS_VARIABLE, inherited[1].to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log);
        // SAFETY: between fork and exec only system calls are made, which may be.
        unsafe { command.pre_exec(move || prepare_child(&inherited)) };
        let mut child = command.spawn().map_err(failed)?;
        drop(writer);
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.expect("a child that nobody has waited for has a pid");
        let events = self.events.clone();
        tokio::spawn(async move {
            let status = match child.wait().await {
                Ok(status) => describe(status),
                Err(error) => {
                    tracing::error!("{member} cannot be waited for: {error}");
                    Status::Code(1)
                }
            };
            // Nobody hears it when this process is about to end.
            let _ = events.send(LaunchEvent::Exited(member, status));
        });
        let events = self.events.clone();
        tokio::spawn(async move {
            // What cannot be read is not told; how the process ends is.
            let _ = read_news(reader, member, &events).await;
        });
        // A process that has ended at once has no start time any more; its end is reported like any other.
        Ok(ProcessRef::of(pid).unwrap_or_else(|| ProcessRef::gone(pid)))
    }
}

/// A session of its own, and pipes that stay open across exec.
fn prepare_child(inherited: &[RawFd]) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    nix::unistd::setsid()?;
    for fd in inherited {
        // SAFETY: the descriptor is open in this process: it was made before the fork.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

async fn read_news(
    reader: PipeReader,
    member: Member,
    events: &UnboundedSender<LaunchEvent>,
) -> io::Result<()> {
    let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let mut lines = BufReader::new(pipe).lines();
    while let Some(line) = lines.next_line().await? {
        // What another version says may be unknown.
        if let Ok(news) = serde_json::from_str(&line) {
            let _ = events.send(LaunchEvent::Said(member, news));
        }
    }
    Ok(())
}

fn describe(status: ExitStatus) -> Status {
    match (status.code(), status.signal()) {
        (Some(code), _) => Status::Code(code),
        (None, signal) => Status::Signal(signal.unwrap_or_default()),
    }
}
