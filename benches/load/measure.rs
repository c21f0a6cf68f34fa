//! What a process and its descendants cost, from /proc.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// A process and everything that it started.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        all.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    all
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; after it come the state and the parent.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Processor time of all threads that are alive, to the nanosecond.
pub(crate) fn cpu(pids: &[u32]) -> Duration {
    let of_thread = |path: std::path::PathBuf| -> Option<u64> {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let nanos = pids
        .iter()
        .flat_map(|pid| {
            fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten()
        })
        .flatten()
        .filter_map(|thread| of_thread(thread.path()))
        .sum();
    Duration::from_nanos(nanos)
}

/// Memory in bytes: what is resident, each shared page counted in parts.
pub(crate) fn proportional_memory(pids: &[u32]) -> u64 {
    pids.iter()
        .filter_map(|pid| kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:"))
        .sum::<u64>()
        * 1024
}

/// The most that has ever been resident, in bytes.
pub(crate) fn peak_memory(pids: &[u32]) -> u64 {
    pids.iter()
        .filter_map(|pid| kilobytes(&format!("/proc/{pid}/status"), "VmHWM:"))
        .sum::<u64>()
        * 1024
}

pub(crate) fn threads(pids: &[u32]) -> usize {
    pids.iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok())
        .map(Iterator::count)
        .sum()
}

fn kilobytes(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}
