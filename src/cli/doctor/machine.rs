//! This machine: the program itself, limits, names, ports.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use super::Finding;
use crate::cli::setup::Setup;
use crate::launch::found::Found;
use crate::os::host::{self, Host};
use crate::os::limits;
use crate::os::ports::used_by;

/// A controller needs about eight descriptors for each engine, and some for itself.
const PER_ENGINE: u64 = 8;
const OF_ITSELF: u64 = 100;

/// Below it, a small cluster already fails.
const FEW_ENGINES: u64 = 64;

/// Is the `ipcluster` on PATH this one?
pub(super) fn program() -> Finding {
    const CHECK: &str = "program";
    let this = std::env::current_exe().unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    let found = format!("ipcluster {version}, {}", this.display());
    let others: Vec<String> = ["ipcluster", "ipcontroller", "ipengine"]
        .iter()
        .filter_map(|name| {
            let first = on_path(name)?;
            let is_this = match (first.canonicalize(), this.canonicalize()) {
                (Ok(first), Ok(this)) => first == this,
                _ => first == this,
            };
            (!is_this).then(|| format!("`{name}` is {}", first.display()))
        })
        .collect();
    if others.is_empty() {
        return Finding::ok(CHECK, found);
    }
    Finding::warning(
        CHECK,
        format!("{found}; on PATH, {}", others.join(", ")),
        format!(
            "if that is not what you want, put {} first on PATH, and link the other names to it",
            this.parent().unwrap_or_else(|| Path::new("/")).display()
        ),
    )
}

/// The first executable of this name.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    use nix::unistd::{AccessFlags, access};
    let is_program =
        |path: &PathBuf| path.is_file() && access(path.as_path(), AccessFlags::X_OK).is_ok();
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(is_program);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(is_program)
}

pub(super) fn open_files() -> Finding {
    match limits::raise_open_files() {
        Ok(limit) => judge_limit(limit.now),
        Err(error) => Finding::warning(
            "open files",
            error.to_string(),
            "without more, few engines can register",
        ),
    }
}

fn judge_limit(limit: u64) -> Finding {
    const CHECK: &str = "open files";
    let engines = limit.saturating_sub(OF_ITSELF) / PER_ENGINE;
    let found = format!("a process may open {limit}: enough for some {engines} engines");
    if engines >= FEW_ENGINES {
        return Finding::ok(CHECK, found);
    }
    Finding::warning(
        CHECK,
        found,
        "raise the hard limit: `ulimit -Hn` shows it, limits.conf(5) or the service's LimitNOFILE= sets it",
    )
}

/// Will others find this machine by the name that is told them?
pub(super) fn host_name(setup: &Setup) -> Vec<Finding> {
    let settings = &setup.settings;
    let cluster = &settings.cluster;
    let location = cluster
        .controller_location
        .as_ref()
        .or(settings.controller.location.as_ref());
    let address = cluster
        .controller_ip
        .as_ref()
        .unwrap_or(&settings.controller.ip);
    let name = location.cloned().unwrap_or_else(host::hostname);
    let resolved = host::resolve(&name);
    vec![judge_name(
        &name,
        location.is_some(),
        host::is_loopback(address),
        resolved,
        &Host::this(),
    )]
}

fn judge_name(
    name: &str,
    is_set: bool,
    only_here: bool,
    resolved: Option<IpAddr>,
    this: &Host,
) -> Finding {
    const CHECK: &str = "host name";
    const REMEDY: &str = "name an address that others can reach with --location, or add the name to /etc/hosts or DNS";
    match resolved {
        _ if only_here && !is_set => Finding::ok(
            CHECK,
            format!(
                "{name}; the controller listens on this machine alone{}",
                if resolved.is_some() {
                    ""
                } else {
                    ", so that it does not matter that the name cannot be resolved"
                }
            ),
        ),
        None => Finding::problem(CHECK, format!("{name} cannot be resolved"), REMEDY),
        Some(address) if address.is_loopback() => Finding::warning(
            CHECK,
            format!("{name} is {address} here, which is every machine's name for itself"),
            REMEDY,
        ),
        Some(address) if !this.has(address) => Finding::warning(
            CHECK,
            format!("{name} is {address}, which is no address of this machine"),
            REMEDY,
        ),
        Some(address) => Finding::ok(CHECK, format!("{name} is {address}")),
    }
}

/// Can the controller listen where the settings say?
pub(super) fn ports(setup: &Setup) -> Vec<Finding> {
    const CHECK: &str = "ports";
    let settings = &setup.settings.controller;
    let address = setup
        .settings
        .cluster
        .controller_ip
        .as_ref()
        .unwrap_or(&settings.ip);
    let ip = match address.as_str() {
        "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        address => match address.parse() {
            Ok(ip) => ip,
            // An interface's name, which ZeroMQ understands.
            Err(_) => return Vec::new(),
        },
    };
    if let Err(error) = TcpListener::bind((ip, 0)) {
        return vec![Finding::problem(
            CHECK,
            format!("nothing can listen on {address}: {error}"),
            "--ip takes an address of this machine, or * for all",
        )];
    }
    let mut wanted: Vec<u16> = settings
        .port
        .into_iter()
        .filter(|port| *port != 0)
        .collect();
    for pool in [
        &settings.ports,
        &settings.client_ports,
        &settings.engine_ports,
    ] {
        wanted.extend(&pool.0);
    }
    if wanted.is_empty() {
        return vec![Finding::ok(CHECK, format!("any free ports of {address}"))];
    }
    let is_running = Found::of(&setup.profile, &setup.cluster_id)
        .controller()
        .is_some();
    let used: Vec<String> = wanted
        .iter()
        .filter(|port| TcpListener::bind((ip, **port)).is_err())
        .map(|port| format!("{port}{}", used_by(*port)))
        .collect();
    let count = wanted.len();
    if used.is_empty() {
        return vec![Finding::ok(
            CHECK,
            format!("{count} of {address} are set, and free"),
        )];
    }
    if is_running {
        let found = format!(
            "{} of {count} are used, by the cluster that runs",
            used.len()
        );
        return vec![Finding::ok(CHECK, found)];
    }
    vec![Finding::warning(
        CHECK,
        format!("of {count}, these are in use: {}", used.join(", ")),
        "stop who has them, or set others; a controller needs 14",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Level;

    #[test]
    fn limits_are_told_in_engines() {
        assert_eq!(judge_limit(256).level, Level::Warning);
        let plenty = judge_limit(1 << 20);
        assert_eq!(plenty.level, Level::Ok);
        assert!(plenty.found.contains("131059 engines"), "{plenty:?}");
    }

    #[test]
    fn names_matter_as_far_as_the_controller_is_reached() {
        let this = Host {
            name: "me".to_owned(),
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))],
        };
        let ip = |text: &str| Some(text.parse().unwrap());
        for (is_set, only_here, resolved, level) in [
            (false, true, None, Level::Ok),
            (true, true, None, Level::Problem),
            (false, false, None, Level::Problem),
            (false, false, ip("127.0.1.1"), Level::Warning),
            (true, false, ip("10.0.0.9"), Level::Warning),
            (true, false, ip("10.0.0.1"), Level::Ok),
        ] {
            let finding = judge_name("x", is_set, only_here, resolved, &this);
            assert_eq!(finding.level, level, "{finding:?}");
        }
    }

    #[test]
    fn programs_are_found_on_path() {
        assert!(on_path("sh").is_some());
        assert!(on_path("/bin/sh").is_some());
        assert_eq!(on_path("no-such-program"), None);
        assert_eq!(on_path("/etc/passwd"), None);
    }
}
