//! Ports of this machine: those that are free, and who listens on one.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below those that systems take for outgoing connections and for servers that leave the choice to them (Linux 32768 and
/// up, macOS 49152 and up): what was free here is not taken by chance a moment later.
const QUIET: Range<u16> = 10_000..32_000;
const TRIES: usize = 100;

/// A port of this machine for each that is wanted: the same where that is free, so that connection files change little, and
/// any for 0. They were free a moment ago.
pub fn free_ports(wanted: impl IntoIterator<Item = u16>) -> io::Result<Vec<u16>> {
    // All are held until each has its own.
    let held: Vec<TcpListener> = wanted
        .into_iter()
        .map(|port| match port {
            0 => listen_anywhere(),
            port => listen(port).or_else(|_| listen_anywhere()),
        })
        .collect::<io::Result<_>>()?;
    held.iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect()
}

fn listen_anywhere() -> io::Result<TcpListener> {
    (0..TRIES)
        .find_map(|_| listen(fastrand::u16(QUIET)).ok())
        .map_or_else(|| listen(0), Ok)
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// For the end of a message: ` by PROGRAM (pid N)`, or nothing where it cannot be told (other users' processes, and
/// systems without `/proc`).
pub fn used_by(port: u16) -> String {
    owner(port)
        .map(|(pid, name)| format!(" by {name} (pid {pid})"))
        .unwrap_or_default()
}

#[cfg(target_os = "linux")]
fn owner(port: u16) -> Option<(i32, String)> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|table| listening(table, port))
        .collect();
    let processes = std::fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(target) = std::fs::read_link(descriptor.path()) else {
                continue;
            };
            if inodes
                .iter()
                .any(|inode| target.as_os_str() == inode.as_str())
            {
                let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some((pid, name.trim().to_owned()));
            }
        }
    }
    None
}

/// `socket:[INODE]` of the sockets that listen on `port` (proc(5), /proc/net/tcp: local address, state, …, inode).
#[cfg(target_os = "linux")]
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let text = std::fs::read_to_string(table).unwrap_or_default();
    let suffix = format!(":{port:04X}");
    text.lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 9 && fields[1].ends_with(&suffix) && fields[3] == LISTEN)
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn owner(_port: u16) -> Option<(i32, String)> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_port_is_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(
            used_by(port).contains(&format!("pid {}", std::process::id())),
            "{}",
            used_by(port)
        );
        drop(listener);
        assert_eq!(used_by(port), "");
    }

    #[test]
    fn a_port_that_is_taken_is_replaced_by_another_one() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let found = free_ports([port, port]).unwrap();
        assert!(found.iter().all(|found| *found != port));
        assert_ne!(found[0], found[1]);
    }

    #[test]
    fn ports_that_are_to_be_listened_on_later_are_not_those_of_outgoing_connections() {
        let found = free_ports([0; 20]).unwrap();
        assert!(found.iter().all(|port| QUIET.contains(port)), "{found:?}");
    }
}
