//! Which process is it, and is it still there? A pid alone says little: pids are used again, and files that name them
//! outlive a reboot.

use std::fmt;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

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
    let (state, ticks) = parse_stat(&stat)?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    Some(StartTime(format!("{}:{ticks}", boot_id())))
}

/// State and start time (fields 3 and 22 of proc(5)). The second field, the command's name, is in parentheses and may
/// hold spaces and parentheses itself.
#[cfg(target_os = "linux")]
fn parse_stat(stat: &[u8]) -> Option<(char, u64)> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    Some((state, ticks))
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
    let size = std::mem::size_of::<libc::proc_bsdinfo>();
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
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while is_pid_alive(pid) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(ProcessRef::of(pid), None);
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
        assert_eq!(parse_stat(stat), Some(('S', 4711)));
        for broken in [&b""[..], b"7 (a", b"7 (a)", b"7 (a) S 1 2", b"\xff)\xff"] {
            assert_eq!(parse_stat(broken), None);
        }
    }
}
