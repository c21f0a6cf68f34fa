//! Which machines things are started on over ssh, and how. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use super::commands::{OPTIONS, option_words};
use crate::launch::role::Role;
use crate::profile::dir::similar;
use crate::profile::settings::Traits;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostsError {
    #[error(
        "there is no machine to start engines on: name some in the profile, under [launcher.SSHEngineSetLauncher.engines], \
         as \"user@host\" = 4; `ipcluster profile create NAME --from ssh` makes a profile that explains it"
    )]
    None,
    #[error(
        "there is no machine: name it in the profile, under [launcher.{launcher}], as location = \"user@host\"; `ipcluster \
         profile create NAME --from ssh` makes a profile that explains it"
    )]
    NoLocation { launcher: &'static str },
    #[error("{launcher}.location: {found:?} is no [user@]host[:port]")]
    WrongLocation {
        launcher: &'static str,
        found: String,
    },
    #[error(
        "SSHEngineSetLauncher.engines: {host:?} has {found}, which is neither a number of engines nor a table of settings"
    )]
    WrongCount { host: String, found: String },
    #[error("SSHEngineSetLauncher.engines: {host:?} is no [user@]host[:port]")]
    WrongHost { host: String },
    #[error(
        "SSHEngineSetLauncher.engines: {host:?} has an unknown setting {name:?}{}",
        hint(near)
    )]
    Unknown {
        host: String,
        name: String,
        near: Option<String>,
    },
    #[error("{launcher}.{name}: it names no command")]
    NoCommand {
        launcher: &'static str,
        name: &'static str,
    },
}

fn hint(near: &Option<String>) -> String {
    near.as_ref()
        .map(|near| format!(", did you mean {near:?}?"))
        .unwrap_or_default()
}

/// What is started on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Engines,
    Controller,
    /// An `ipcluster`, which starts engines in its own way.
    Proxy,
}

/// ipyparallel's class, followed by those that it derives from.
pub fn lineage(role: Role) -> &'static [&'static str] {
    match role {
        Role::Controller => Kind::Controller.lineage(),
        Role::Engines => Kind::Engines.lineage(),
    }
}

/// The same for an `ipcluster` of another machine.
pub const PROXY_LINEAGE: &[&str] = Kind::Proxy.lineage();

impl Kind {
    const ALL: [Self; 3] = [Self::Engines, Self::Controller, Self::Proxy];

    const fn lineage(self) -> &'static [&'static str] {
        match self {
            Self::Engines => &[
                "SSHEngineSetLauncher",
                "SSHEngineLauncher",
                "SSHLauncher",
                "EngineLauncher",
                "BaseLauncher",
            ],
            Self::Controller => &[
                "SSHControllerLauncher",
                "SSHLauncher",
                "ControllerLauncher",
                "BaseLauncher",
            ],
            Self::Proxy => &[
                "SSHProxyEngineSetLauncher",
                "SSHLauncher",
                "EngineLauncher",
                "BaseLauncher",
            ],
        }
    }

    fn launcher(self) -> &'static str {
        self.lineage()[0]
    }

    /// What this program is told to do there.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Engines => "engine",
            Self::Controller => "controller",
            Self::Proxy => "engines",
        }
    }

    /// The setting with the command, and what that is without it.
    fn command(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Engines => ("engine_cmd", &["ipcluster", "engine"]),
            Self::Controller => ("controller_cmd", &["ipcluster", "controller"]),
            // The verb is no part of it.
            Self::Proxy => ("ipcluster_cmd", &["ipcluster"]),
        }
    }

    fn arguments(self) -> &'static str {
        match self {
            Self::Engines => "engine_args",
            Self::Controller => "controller_args",
            Self::Proxy => "ipcluster_args",
        }
    }

    /// Has a setting of the launcher a meaning?
    fn heeds(self, name: &str) -> bool {
        let own = match self {
            Self::Engines => [OF_ENGINES, OF_ALL_ENGINES],
            Self::Controller => [OF_ONE_MACHINE, OF_CONTROLLER],
            Self::Proxy => [OF_ONE_MACHINE, OF_PROXY],
        };
        OF_MACHINES.contains(&name) || own.iter().any(|names| names.contains(&name))
    }
}

/// A machine, and how engines or a controller are started on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As the settings name it.
    pub name: String,
    pub kind: Kind,
    /// None for a controller.
    pub engines: u32,
    /// ssh with its arguments and the host, before the command.
    pub ssh: Vec<String>,
    /// What is run there, before the arguments.
    pub program: Vec<String>,
    /// The profile's folder there.
    pub profile_dir: Option<String>,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Lead the controller's ports through the connection: to the engines' machine, or from the controller's.
    pub tunnel: bool,
    /// Copy this program over.
    pub send_program: bool,
    /// A controller, or an `ipcluster` there, ends when it has heard nothing from here for so long; never without it.
    pub silence: Option<Duration>,
}

impl Host {
    /// As ssh is told, without user and port.
    pub fn address(&self) -> &str {
        self.ssh.last().map_or("", String::as_str)
    }

    /// Does another `ipcluster` start the engines there, in its own way?
    pub fn is_proxy(&self) -> bool {
        self.kind == Kind::Proxy
    }
}

/// What can be set for each machine.
const OF_MACHINES: &[&str] = &[
    "environment",
    "remote_profile_dir",
    "remote_python",
    "send_program",
    "ssh_args",
    "ssh_cmd",
    "user",
];

/// Beside that, for each machine with engines.
const OF_ENGINES: &[&str] = &["engine_args", "engine_cmd", "tunnel"];

/// For the machines with engines together.
const OF_ALL_ENGINES: &[&str] = &["engines", "stop_seconds_until_kill"];

/// Where there is only one.
const OF_ONE_MACHINE: &[&str] = &[
    "hostname",
    "location",
    "silence_timeout",
    "stop_seconds_until_kill",
];

const OF_CONTROLLER: &[&str] = &["controller_args", "controller_cmd", "tunnel"];

const OF_PROXY: &[&str] = &["ipcluster_args", "ipcluster_cmd"];

/// A machine that vanishes without a word takes the controller that it has started with it after this time: longer than
/// ssh waits here for a sign of the other side.
const SILENCE: Duration = Duration::from_secs(180);

/// Names of traits of this class that are set and change nothing.
pub fn without_effect(traits: &Traits, launcher: &str) -> Vec<String> {
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.launcher() == launcher);
    traits
        .keys()
        .filter(|name| !kind.is_some_and(|kind| kind.heeds(name)))
        .cloned()
        .collect()
}

/// The machines in the order of their names, with `limit` engines in all at most.
pub fn hosts(traits: &Traits, limit: Option<u32>) -> Result<Vec<Host>, HostsError> {
    let engines = traits.get("engines").and_then(Value::as_object);
    let mut left = limit.unwrap_or(u32::MAX);
    let mut hosts = Vec::new();
    for (name, value) in engines.into_iter().flatten() {
        let mut host = engines_host(traits, name, value)?;
        host.engines = host.engines.min(left);
        left -= host.engines;
        if host.engines > 0 {
            hosts.push(host);
        }
    }
    if hosts.is_empty() && limit != Some(0) {
        return Err(HostsError::None);
    }
    Ok(hosts)
}

/// The machine of the controller.
pub fn controller_host(traits: &Traits) -> Result<Host, HostsError> {
    only_host(traits, Kind::Controller)
}

/// The machine whose own `ipcluster` starts so many engines.
pub fn proxy_host(traits: &Traits, engines: u32) -> Result<Host, HostsError> {
    let host = only_host(traits, Kind::Proxy)?;
    Ok(Host {
        engines,
        // Its engines may be on further machines.
        tunnel: false,
        ..host
    })
}

fn only_host(traits: &Traits, kind: Kind) -> Result<Host, HostsError> {
    let launcher = kind.launcher();
    let text = |key: &str| traits.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = match text("location") {
        "" => text("hostname"),
        location => location,
    };
    if name.is_empty() {
        return Err(HostsError::NoLocation { launcher });
    }
    let wrong = || HostsError::WrongLocation {
        launcher,
        found: name.to_owned(),
    };
    let mut host = host(traits, name, &Map::new(), kind, wrong)?;
    let seconds = traits.get("silence_timeout").and_then(Value::as_f64);
    let silence = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or_default(),
        None => SILENCE,
    };
    host.silence = Some(silence).filter(|silence| !silence.is_zero());
    Ok(host)
}

fn engines_host(traits: &Traits, name: &str, value: &Value) -> Result<Host, HostsError> {
    let wrong_count = || HostsError::WrongCount {
        host: name.to_owned(),
        found: value.to_string(),
    };
    let none = Map::new();
    let (count, own) = match value {
        Value::Object(own) => match own.get("n") {
            Some(count) => (count.as_u64(), own),
            None => (Some(1), own),
        },
        // (count, [arguments]) was IPython.parallel's way.
        other => (other.as_u64(), &none),
    };
    let count = count.and_then(|count| u32::try_from(count).ok());
    let engines = count.ok_or_else(wrong_count)?;
    let settings = || OF_MACHINES.iter().chain(OF_ENGINES).copied();
    if let Some(unknown) = own
        .keys()
        .find(|key| *key != "n" && !settings().any(|name| name == *key))
    {
        return Err(HostsError::Unknown {
            host: name.to_owned(),
            name: unknown.clone(),
            near: similar(unknown, settings()).into_iter().next(),
        });
    }
    let wrong = || HostsError::WrongHost {
        host: name.to_owned(),
    };
    let host = host(traits, name, own, Kind::Engines, wrong)?;
    Ok(Host { engines, ..host })
}

/// With settings of its own, which go before those of all.
fn host(
    traits: &Traits,
    name: &str,
    own: &Map<String, Value>,
    kind: Kind,
    wrong_name: impl FnOnce() -> HostsError,
) -> Result<Host, HostsError> {
    let no_command = |name: &'static str| HostsError::NoCommand {
        launcher: kind.launcher(),
        name,
    };
    let setting = |key: &str| own.get(key).or_else(|| traits.get(key));
    let text = |key: &str| {
        let text = setting(key).and_then(Value::as_str).unwrap_or_default();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let words = |key: &str, usual: &[&str]| -> Vec<String> {
        match setting(key).and_then(Value::as_array) {
            Some(words) => words.iter().map(plain).collect(),
            None => usual.iter().map(|word| (*word).to_owned()).collect(),
        }
    };
    let (user, address, port) = parts(name).ok_or_else(wrong_name)?;
    let mut ssh = words("ssh_cmd", &["ssh"]);
    if ssh.is_empty() {
        return Err(no_command("ssh_cmd"));
    }
    ssh.extend(words("ssh_args", &[]));
    ssh.extend(option_words(OPTIONS));
    ssh.push("-T".to_owned());
    if let Some(port) = port {
        ssh.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(user) = user.map(str::to_owned).or_else(|| text("user")) {
        ssh.extend(["-l".to_owned(), user]);
    }
    ssh.push(address.to_owned());
    let (command, usual) = kind.command();
    let mut program = words(command, usual);
    if program.is_empty() {
        return Err(no_command(command));
    }
    if kind == Kind::Proxy {
        program.push(kind.verb().to_owned());
    }
    let mut arguments = words(kind.arguments(), &[]);
    arguments.extend(text("remote_python").map(|python| format!("--python={python}")));
    let flag = |key: &str| setting(key).and_then(Value::as_bool).unwrap_or(false);
    let environment = setting("environment").and_then(Value::as_object);
    Ok(Host {
        name: name.to_owned(),
        kind,
        engines: 0,
        ssh,
        program,
        profile_dir: text("remote_profile_dir"),
        arguments,
        environment: environment
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect(),
        tunnel: flag("tunnel"),
        send_program: flag("send_program"),
        silence: None,
    })
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// `[user@]host[:port]`; an address of IPv6 stands in brackets if a port follows. What begins with a dash would be an option
/// of ssh.
pub(super) fn parts(name: &str) -> Option<(Option<&str>, &str, Option<u16>)> {
    let (user, rest) = match name.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, name),
    };
    let bracketed = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (address, port) = match (bracketed, rest.rsplit_once(':')) {
        (Some((address, "")), _) => (address, None),
        (Some((address, port)), _) => (address, Some(port.strip_prefix(':')?.parse().ok()?)),
        (None, Some((address, port))) if !address.contains(':') => {
            (address, Some(port.parse().ok()?))
        }
        (None, _) => (rest, None),
    };
    let usable = |part: &str| !part.is_empty() && !part.starts_with('-');
    (usable(address) && user.is_none_or(usable)).then_some((user, address, port))
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
