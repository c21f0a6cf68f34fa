//! Processes of this machine, and those that mpiexec starts.
//!
//! Each is in a session of its own, so that a terminal's Ctrl-C reaches the supervisor alone, which ends them in order.
//! Each holds the reading end of a pipe whose writing end the supervisor has: however that one dies, they notice.
//!
//! mpiexec hands no pipes on to the ranks. It is ended with the supervisor where the system can do that (Linux); else its
//! ranks end when they notice that the controller is gone.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::mpsc::UnboundedSender;

use super::arrival::{Arrival, AwaitedFiles};
use super::child::{Logs, await_end, hear};
use super::supervisor::Member;
use super::{Job, LaunchError, LaunchEvent, Launcher, News, Place, Started};
use crate::os::ProcessRef;
use crate::os::log::ROTATED_VARIABLE;
use crate::profile::connection::CONNECTION_INFO_VARIABLE;
use crate::protocol::ClusterId;

/// Holds the number of a pipe that ends with the process that started this one.
pub const LIFELINE_VARIABLE: &str = "IPCLUSTER_LIFELINE";

/// Holds the number of a pipe for [`News`]: one JSON document on each line.
pub const NEWS_VARIABLE: &str = "IPCLUSTER_NEWS";

/// How mpiexec is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mpi {
    /// `mpiexec`, or what stands for it, with arguments of its own.
    pub command: Vec<String>,
    /// Behind `-n N`.
    pub arguments: Vec<String>,
    /// Of a controller.
    pub files: Option<AwaitedFiles>,
}

#[derive(Debug)]
pub struct LocalLauncher {
    logs: Logs,
    mpi: Option<Mpi>,
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
            logs: Logs {
                folder: log_folder,
                cluster_id,
            },
            mpi: None,
            events,
            lifeline,
            _held: held,
            running: HashMap::new(),
        })
    }

    /// Engines are the ranks of one MPI program; a controller is the only one.
    pub fn under_mpi(mut self, mpi: Mpi) -> Self {
        self.mpi = Some(mpi);
        self
    }

    fn start_now(&mut self, member: Member, job: &Job) -> Result<Started, LaunchError> {
        let log = self.logs.open(job.name)?;
        let spawned = match &self.mpi {
            Some(mpi) => self.spawn_ranks(mpi, member, job, &log.file),
            None => self.spawn(member, job, &log.file),
        };
        let process = match spawned {
            Ok(process) => process,
            Err(error) => {
                log.discard();
                return Err(error);
            }
        };
        let (_, log) = log.settle(&process);
        self.running.insert(member, process.clone());
        Ok(Started {
            place: Place::Process(process),
            log,
        })
    }

    fn spawn(
        &self,
        member: Member,
        job: &Job,
        log: &std::fs::File,
    ) -> Result<ProcessRef, LaunchError> {
        let count = job.engines.map(|count| format!("--n={count}").into());
        let argv: Vec<OsString> = job.argv.iter().cloned().chain(count).collect();
        let (reader, writer) = io::pipe().map_err(LaunchError::Pipe)?;
        let inherited = [self.lifeline.as_raw_fd(), writer.as_raw_fd()];
        let mut command = command(&argv, job, log, &self.logs.folder)?;
        command
            .env(LIFELINE_VARIABLE, inherited[0].to_string())
            .env(NEWS_VARIABLE, inherited[1].to_string());
        // SAFETY: between fork and exec only system calls are made, which may be.
        unsafe { command.pre_exec(move || prepare_child(&inherited)) };
        let child = command.spawn().map_err(|source| failed(&argv, source))?;
        drop(writer);
        match pipe::Receiver::from_owned_fd(OwnedFd::from(reader)) {
            Ok(pipe) => hear(pipe, member, &self.events),
            Err(error) => tracing::warn!("{member} cannot be heard: {error}"),
        }
        Ok(await_end(child, member, &self.events))
    }

    fn spawn_ranks(
        &self,
        mpi: &Mpi,
        member: Member,
        job: &Job,
        log: &std::fs::File,
    ) -> Result<ProcessRef, LaunchError> {
        let count = job.engines.unwrap_or(1).to_string();
        let mut argv: Vec<OsString> = mpi.command.iter().map(OsString::from).collect();
        argv.extend(["-n".into(), count.into()]);
        argv.extend(mpi.arguments.iter().map(OsString::from));
        argv.extend(job.argv.iter().cloned());
        if job.engines.is_some() {
            argv.push("--mpi".into());
        }
        let arrival = mpi.files.as_ref().map(|awaited| {
            let arrival = Arrival::expect(awaited, "MPIControllerLauncher");
            await_files(arrival, member, self.events.clone())
        });
        let mut command = command(&argv, job, log, &self.logs.folder)?;
        // SAFETY: between fork and exec only system calls are made, which may be.
        unsafe { command.pre_exec(prepare_mpiexec) };
        let child = command.spawn().map_err(|source| failed(&argv, source))?;
        arrival.map(tokio::spawn);
        Ok(await_end(child, member, &self.events))
    }
}

/// mpiexec hands no pipe on through which a controller could tell that it is ready.
async fn await_files(mut arrival: Arrival, member: Member, events: UnboundedSender<LaunchEvent>) {
    arrival.on_runs();
    let event = match arrival.wait().await {
        Ok(()) => LaunchEvent::Said(member, News::Ready),
        Err(why) => LaunchEvent::NotReached(why),
    };
    // Nobody hears it when this process is about to end.
    let _ = events.send(event);
}

impl Launcher for LocalLauncher {
    fn name(&self) -> &'static str {
        if self.mpi.is_some() { "mpi" } else { "local" }
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

fn command(
    argv: &[OsString],
    job: &Job,
    log: &std::fs::File,
    folder: &Path,
) -> Result<Command, LaunchError> {
    let output = || log.try_clone().map_err(|source| failed(argv, source));
    let mut command = Command::new(argv.first().cloned().unwrap_or_default());
    command
        .args(argv.iter().skip(1))
        .envs(
            job.connection
                .iter()
                .map(|connection| (CONNECTION_INFO_VARIABLE, &connection.here)),
        )
        .envs(job.environment.iter().map(|(name, value)| (name, value)))
        .env(ROTATED_VARIABLE, folder)
        .stdin(Stdio::null())
        .stdout(output()?)
        .stderr(output()?);
    Ok(command)
}

fn failed(argv: &[OsString], source: io::Error) -> LaunchError {
    let program = argv.first().cloned().unwrap_or_default();
    LaunchError::Program {
        program: Path::new(&program).to_owned(),
        source,
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

fn prepare_mpiexec() -> io::Result<()> {
    nix::unistd::setsid()?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
    Ok(())
}
