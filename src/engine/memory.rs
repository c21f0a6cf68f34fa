//! How much memory kernels use, and what is done about it.

use std::path::PathBuf;
use std::time::Instant;

/// Bytes of resident memory that a kernel may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// From here on it is said in the log.
    pub warn: Option<u64>,
    /// From here on the kernel is killed and another one started.
    pub kill: Option<u64>,
}

impl MemoryLimits {
    pub(super) fn any(self) -> bool {
        self.warn.is_some() || self.kill.is_some()
    }
}

/// Resident bytes of a process.
#[cfg(target_os = "linux")]
pub(super) fn resident(pid: i32) -> Option<u64> {
    // proc(5), statm: size resident …, in pages.
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn resident(_pid: i32) -> Option<u64> {
    None
}

/// Processor time that a process had used at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    at: Instant,
    pid: i32,
    ticks: u64,
}

impl Used {
    /// What it has used by now.
    #[cfg(target_os = "linux")]
    pub(super) fn of(pid: i32) -> Option<Self> {
        // proc(5), stat: behind the name in brackets, which may hold anything, utime is the 12th field and stime the 13th.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let ticks = ticks()? + ticks()?;
        let at = Instant::now();
        Some(Self { at, pid, ticks })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of(_pid: i32) -> Option<Self> {
        None
    }

    /// Processors that it has kept busy since.
    pub(super) fn cpu_since(&self, before: &Self) -> Option<f64> {
        let seconds = self.at.saturating_duration_since(before.at).as_secs_f64();
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
        let is_same = self.pid == before.pid && seconds > 0.0;
        let used = self.ticks.saturating_sub(before.ticks) as f64 / per_second as f64;
        is_same.then(|| (used / seconds * 100.0).round() / 100.0)
    }
}

/// Are limits of memory watched on this system?
pub(super) const IS_WATCHED: bool = cfg!(target_os = "linux");

/// `2.5 GiB`: as people write it.
pub(super) fn in_words(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Counts how often the system has killed something for want of memory, in the control group of this process. A kernel
/// that is killed while the count goes up was probably one of those.
#[derive(Debug)]
pub(super) struct OomWatch {
    file: Option<PathBuf>,
    count: u64,
}

impl OomWatch {
    pub(super) fn new() -> Self {
        let mut watch = Self {
            file: events_file(),
            count: 0,
        };
        watch.count = watch.read();
        watch
    }

    /// Has there been another one since the last question?
    pub(super) fn went_up(&mut self) -> bool {
        let count = self.read();
        std::mem::replace(&mut self.count, count) < count
    }

    fn read(&self) -> u64 {
        let Some(file) = &self.file else { return 0 };
        let events = std::fs::read_to_string(file).unwrap_or_default();
        let line = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }
}

/// `memory.events` of this process's control group (cgroup v2).
fn events_file() -> Option<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let file = PathBuf::from("/sys/fs/cgroup")
        .join(group)
        .join("memory.events");
    file.exists().then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_words() {
        assert_eq!(in_words(512), "0.5 KiB");
        assert_eq!(in_words(5 << 29), "2.5 GiB");
        assert_eq!(in_words(u64::MAX), "16777216.0 TiB");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_memory() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(resident(pid).unwrap() > 1 << 20);
        assert_eq!(resident(-1), None);
    }
}
