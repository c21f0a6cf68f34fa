//! Which process is it, and is it still there? A pid alone says little: pids are used again, and files that name them
//! outlive a reboot.

use std::fmt;
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use thiserror::Error;
#[cfg(target_os = "linux")]
use tokio::io::{Interest, unix::AsyncFd};

/// A process, by its pid and the instant of its start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessRef {
    pub pid: i32,
    /// When it started, in this system's own terms; never compared between machines.
    pub start: StartTime,
}

/// On Linux the id of the boot and the clock tick within it; on macOS the time of day.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StartTime(String);

/// Why a signal was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SignalError {
    #[error("process {0} is gone")]
    Gone(ProcessRef),
    #[error("process {0} belongs to another user: run this as that user")]
    NotOurs(ProcessRef),
    #[error("process {0} could not be signalled: {1}")]
    Failed(ProcessRef, Errno),
}

impl ProcessRef {
    /// The process that has this pid now; nothing if there is none, or only a zombie.
    pub fn of(pid: i32) -> Option<Self> {
        let start = start_of(pid)?;
        Some(Self { pid, start })
    }

    /// This process.
    pub fn current() -> Self {
        let pid = Pid::this().as_raw();
        Self::of(pid).unwrap_or_else(|| Self {
            pid,
            start: StartTime(String::new()),
        })
    }

    /// A process that ended before anything could be learned about it.
    pub fn gone(pid: i32) -> Self {
        Self {
            pid,
            start: StartTime("gone".to_owned()),
        }
    }

    /// Is this very process still running?
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|found| found.start == self.start)
    }

    /// Signals this very process, and no other that has its pid by now.
    pub fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        if !self.is_alive() {
            return Err(SignalError::Gone(self.clone()));
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) => Ok(()),
            Err(Errno::ESRCH) => Err(SignalError::Gone(self.clone())),
            Err(Errno::EPERM) => Err(SignalError::NotOurs(self.clone())),
            Err(errno) => Err(SignalError::Failed(self.clone(), errno)),
        }
    }
}

impl fmt::Display for ProcessRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.fmt(f)
    }
}

/// Waits until none of `processes` is there any more, at most for `timeout`. Returns those that still are.
pub fn wait_until_gone(processes: &[ProcessRef], timeout: Duration) -> Vec<ProcessRef> {
    let deadline = Instant::now() + timeout;
    loop {
        let left: Vec<ProcessRef> = processes
            .iter()
            .filter(|process| process.is_alive())
            .cloned()
            .collect();
        let time = deadline.saturating_duration_since(Instant::now());
        if left.is_empty() || time.is_zero() {
            return left;
        }
        wait_for_an_end(&left, time);
    }
}

/// Returns when one of them may have ended.
#[cfg(target_os = "linux")]
fn wait_for_an_end(processes: &[ProcessRef], timeout: Duration) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let watched: Vec<OwnedFd> = processes
        .iter()
        .filter_map(|process| pidfd(process.pid))
        .collect();
    if watched.len() < processes.len() {
        // It has just gone, or this is an old kernel.
        std::thread::sleep(LOOK_EVERY.min(timeout));
        return;
    }
    let mut polled: Vec<PollFd<'_>> = watched
        .iter()
        .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
        .collect();
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    // An interrupted wait is a short one.
    let _ = poll(&mut polled, timeout);
}

/// Returns when a child of this process has ended, and leaves it to be waited for: so long its number, which may be that of
/// a process group, is nobody else's. Must be called within a tokio runtime.
pub async fn child_ended(pid: Pid) {
    #[cfg(target_os = "linux")]
    if let Some(fd) = pidfd(pid.as_raw())
        // SAFETY: the descriptor is owned by the `AsyncFd` and stays open as long as that lives.
        && let Ok(fd) = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
    {
        // An error can only be the runtime's end.
        let _ = fd.readable().await;
        return;
    }
    let _ = tokio::task::spawn_blocking(move || await_end_of_child(pid)).await;
}

/// Waits until a child has ended, and leaves it to be waited for, so that its number remains its own. (nix has no
/// `waitid` on macOS.)
pub fn await_end_of_child(pid: Pid) {
    use nix::libc;
    let flags = libc::WEXITED | libc::WNOWAIT;
    loop {
        // SAFETY: it consists of numbers and pointers that may be null.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the system writes to `info` and to nothing else.
        let result =
            unsafe { libc::waitid(libc::P_PID, pid.as_raw() as libc::id_t, &mut info, flags) };
        if result == 0 || Errno::last() != Errno::EINTR {
            return;
        }
    }
}

/// A descriptor that becomes readable when the process ends (pidfd_open(2), Linux 5.3).
#[cfg(target_os = "linux")]
fn pidfd(pid: i32) -> Option<OwnedFd> {
    use nix::libc;
    // SAFETY: a system call on numbers; its result is a new descriptor that nobody else owns, or negative.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        Some(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(not(target_os = "linux"))]
fn wait_for_an_end(_processes: &[ProcessRef], timeout: Duration) {
    std::thread::sleep(LOOK_EVERY.min(timeout));
}

/// Where the system does not tell when a process ends.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// When the process with this pid started, to about a second. Nothing where it cannot be told.
#[cfg(target_os = "linux")]
pub fn started_at(pid: i32) -> Option<SystemTime> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let ticks = parse_stat(&stat)?.ticks;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let after_boot = ticks as f64 / per_second as f64;
    let ago = Duration::try_from_secs_f64((uptime - after_boot).max(0.0)).ok()?;
    SystemTime::now().checked_sub(ago)
}

#[cfg(not(target_os = "linux"))]
pub fn started_at(_pid: i32) -> Option<SystemTime> {
    None
}

/// How a process was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub pid: i32,
    pub parent: Option<i32>,
    pub argv: Vec<String>,
}

/// The process with this pid, if it is this user's. Nothing where the system shows no processes as files.
pub fn command(pid: i32) -> Option<Command> {
    use std::os::unix::fs::MetadataExt;
    let folder = std::path::PathBuf::from(format!("/proc/{pid}"));
    let owner = std::fs::metadata(&folder).ok()?.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        return None;
    }
    let line = std::fs::read(folder.join("cmdline")).ok()?;
    let words = line
        .strip_suffix(b"\0")
        .unwrap_or(&line)
        .split(|byte| *byte == 0);
    let status = std::fs::read_to_string(folder.join("status")).ok()?;
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    Some(Command {
        pid,
        parent,
        argv: words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect(),
    })
}

/// All processes of this user.
pub fn of_this_user() -> Vec<Command> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(command)
        .collect()
}

/// Has any process this pid? For files that know no start time. Zombies do not count.
pub fn is_pid_alive(pid: i32) -> bool {
    start_of(pid).is_some()
}

#[cfg(target_os = "linux")]
fn start_of(pid: i32) -> Option<StartTime> {
    if pid <= 0 {
        return None;
    }
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let Stat {
        state,
        threads,
        ticks,
    } = parse_stat(&stat)?;
    // While threads are still ending, so do its files, locks and ports.
    if state == 'X' || (state == 'Z' && threads <= 1) {
        return None;
    }
    Some(StartTime(format!("{}:{ticks}", boot_id())))
}

/// Fields 3, 20 and 22 of proc(5).
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u64,
    /// When it started, in clock ticks since the machine did.
    ticks: u64,
}

/// The second field, the command's name, is in parentheses and may hold spaces and parentheses itself.
#[cfg(target_os = "linux")]
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let threads = fields.nth(16)?.parse().ok()?;
    let ticks = fields.nth(1)?.parse().ok()?;
    Some(Stat {
        state,
        threads,
        ticks,
    })
}

#[cfg(target_os = "linux")]
fn boot_id() -> &'static str {
    static BOOT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    BOOT.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().to_owned())
            .unwrap_or_default()
    })
}

#[cfg(target_os = "macos")]
fn start_of(pid: i32) -> Option<StartTime> {
    use nix::libc;

    if pid <= 0 {
        return None;
    }
    let size = size_of::<libc::proc_bsdinfo>();
    let mut info = std::mem::MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    // SAFETY: the buffer is as large as the size that is passed, and all-zero is a valid proc_bsdinfo.
    let info = unsafe {
        let filled = libc::proc_pidinfo(
            pid,
            libc::PROC_PIDTBSDINFO,
            0,
            info.as_mut_ptr().cast(),
            i32::try_from(size).ok()?,
        );
        if usize::try_from(filled) != Ok(size) {
            return None;
        }
        info.assume_init()
    };
    if info.pbi_status == libc::SZOMB {
        return None;
    }
    Some(StartTime(format!(
        "{}.{:06}",
        info.pbi_start_tvsec, info.pbi_start_tvusec
    )))
}

/// Elsewhere only the pid is looked at.
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn start_of(pid: i32) -> Option<StartTime> {
    if pid <= 0 {
        return None;
    }
    match kill(Pid::from_raw(pid), None) {
        Ok(()) | Err(Errno::EPERM) => Some(StartTime(String::new())),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_has_one_start() {
        let this = ProcessRef::current();
        assert!(this.is_alive());
        assert_eq!(ProcessRef::of(this.pid), Some(this.clone()));
        let json = serde_json::to_string(&this).unwrap();
        assert_eq!(serde_json::from_str::<ProcessRef>(&json).unwrap(), this);
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_it() {
        let other = ProcessRef {
            start: StartTime("long ago".into()),
            ..ProcessRef::current()
        };
        assert!(!other.is_alive());
        assert_eq!(
            other.signal(Signal::SIGKILL),
            Err(SignalError::Gone(other.clone()))
        );
    }

    #[test]
    fn a_zombie_counts_as_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while is_pid_alive(pid) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(ProcessRef::of(pid), None);
    }

    #[test]
    fn the_end_of_a_process_is_waited_for() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = ProcessRef::of(i32::try_from(child.id()).unwrap()).unwrap();
        let both = [process.clone(), ProcessRef::gone(1)];
        let left = wait_until_gone(&both, Duration::from_millis(1));
        assert_eq!(left, [process]);
        child.kill().unwrap();
        assert!(wait_until_gone(&both, Duration::from_secs(20)).is_empty());
        child.wait().unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_time_of_a_start_is_known() {
        let started = started_at(Pid::this().as_raw()).unwrap();
        let ago = SystemTime::now().duration_since(started).unwrap();
        assert!(ago < Duration::from_secs(3600), "{ago:?}");
    }

    #[test]
    fn what_is_no_pid_is_not_alive() {
        for pid in [0, -1, i32::MIN, i32::MAX] {
            assert!(!is_pid_alive(pid), "{pid}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_with_parentheses_do_not_mislead() {
        let stat = b"7 (a) R (b)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0";
        let expected = Stat {
            state: 'S',
            threads: 1,
            ticks: 4711,
        };
        assert_eq!(parse_stat(stat), Some(expected));
        for broken in [&b""[..], b"7 (a", b"7 (a)", b"7 (a) S 1 2", b"\xff)\xff"] {
            assert_eq!(parse_stat(broken), None);
        }
    }
}
