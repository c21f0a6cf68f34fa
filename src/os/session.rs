//! Sessions: what a process that was started as the leader of one has left behind.

use nix::unistd::{Pid, getsid};

use super::process::ProcessRef;

/// Does this process lead a session, as those do that were started apart from a terminal?
pub fn is_led_by(process: &ProcessRef) -> bool {
    let pid = Pid::from_raw(process.pid);
    getsid(Some(pid)) == Ok(pid) && process.is_alive()
}

/// The living processes of the session with this leader, which itself may be gone. Its pid is not used again as long
/// as one of them lives.
pub fn members(leader: &ProcessRef) -> Vec<ProcessRef> {
    let session = Pid::from_raw(leader.pid);
    all_pids()
        .into_iter()
        .filter(|pid| getsid(Some(Pid::from_raw(*pid))) == Ok(session))
        .filter_map(ProcessRef::of)
        .collect()
}

#[cfg(target_os = "linux")]
fn all_pids() -> Vec<i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(target_os = "macos")]
fn all_pids() -> Vec<i32> {
    use nix::libc;

    // SAFETY: without a buffer only the number of processes is returned.
    let count = unsafe { libc::proc_listallpids(std::ptr::null_mut(), 0) };
    // Some may start between the two calls.
    let mut pids = vec![0_i32; usize::try_from(count).unwrap_or(0) + 64];
    let size = i32::try_from(size_of_val(pids.as_slice())).unwrap_or(0);
    // SAFETY: the buffer is as large as the size that is passed, in bytes.
    let filled = unsafe { libc::proc_listallpids(pids.as_mut_ptr().cast(), size) };
    pids.truncate(usize::try_from(filled).unwrap_or(0));
    pids
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn all_pids() -> Vec<i32> {
    Vec::new()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use nix::sys::signal::Signal;

    use super::*;

    /// A leader that starts two others, tells that it has, and waits.
    fn leader() -> std::io::Result<std::process::Child> {
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 60 & sleep 60 & echo; wait"])
            .stdout(Stdio::piped());
        // SAFETY: setsid(2) is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
        }
        command.spawn()
    }

    #[test]
    fn what_a_killed_leader_leaves_is_found() {
        let mut child = leader().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let leader = ProcessRef::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(is_led_by(&leader));
        assert_eq!(members(&leader).len(), 3);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_led_by(&leader));
        let left = members(&leader);
        assert_eq!(left.len(), 2);
        for process in left {
            process.signal(Signal::SIGKILL).unwrap();
        }
    }

    #[test]
    fn who_leads_none_has_none() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = ProcessRef::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!is_led_by(&process));
        assert_eq!(members(&process), []);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
