//! Starting the user's Python, and other kernels.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::Stdio;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use serde_json::{Map, Value};
use tokio::process::{Child, Command};

use super::link::{Link, pair};
use super::sources::{BOOTSTRAP, to_json};
use crate::os::python::Python;
use crate::transport::Frame;

/// The connection file's key is no business of user code.
const HIDDEN: &str = "IPP_CONNECTION_INFO";

/// What sets a process apart from this one.
#[derive(Debug, Default)]
pub(in crate::engine) struct Surroundings {
    pub(in crate::engine) environment: Map<String, Value>,
    pub(in crate::engine) processors: Option<Vec<usize>>,
    /// The soft limit on open files.
    pub(in crate::engine) open_files: Option<u64>,
}

/// Starts `python -c BOOTSTRAP mode FD`, sends it the kernel's sources, and returns it with the link to it.
pub(in crate::engine) fn start(
    python: &Python,
    mode: &str,
    output: (OwnedFd, OwnedFd),
    surroundings: Surroundings,
) -> io::Result<(Child, Link)> {
    let (mut link, theirs) = pair()?;
    let fd = theirs.as_raw_fd();
    let mut command = Command::new(&python.path);
    command.args(["-c", BOOTSTRAP, mode, &fd.to_string()]);
    let child = start_command(command, output, surroundings, Some(fd))?;
    drop(theirs);
    link.send(0, [Frame::from(to_json())]);
    link.flush()?;
    Ok((child, link))
}

/// Starts a program in a session of its own; `inherited` stays open in it.
pub(in crate::engine) fn start_command(
    mut command: Command,
    (stdout, stderr): (OwnedFd, OwnedFd),
    surroundings: Surroundings,
    inherited: Option<RawFd>,
) -> io::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr))
        .env_remove(HIDDEN)
        .envs(
            surroundings
                .environment
                .iter()
                .filter_map(|(name, value)| Some((name, value.as_str()?))),
        )
        .kill_on_drop(true);
    // SAFETY: between fork and exec only system calls are made, which may be.
    unsafe {
        command.pre_exec(move || prepare_child(inherited, &surroundings));
    }
    command.spawn()
}

/// The number of a process that has not been waited for; in a session of its own it is that of its process group too.
pub(in crate::engine) fn pid_of(child: &Child) -> Option<Pid> {
    child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .map(Pid::from_raw)
}

/// The link stays open across exec; the child does not outlive the engine (Linux; elsewhere it sees the link's end).
fn prepare_child(inherited: Option<RawFd>, surroundings: &Surroundings) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    if let Some(fd) = inherited {
        // SAFETY: the descriptor is open in this process: it was made before the fork.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    if let Some(soft) = surroundings.open_files {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    }
    // Whatever it is that was started, it can be ended as a whole, and Ctrl-C is the engine's to pass on.
    nix::unistd::setsid()?;
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        if let Some(processors) = &surroundings.processors {
            let mut set = nix::sched::CpuSet::new();
            processors
                .iter()
                .try_for_each(|processor| set.set(*processor))?;
            nix::sched::sched_setaffinity(Pid::from_raw(0), &set)?;
        }
    }
    Ok(())
}
