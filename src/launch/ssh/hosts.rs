//! Which machines things are started on over ssh, and how. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::launch::batch::system::Role;
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
        "there is no machine to start the controller on: name it in the profile, under [launcher.SSHControllerLauncher], as \
         location = \"user@host\"; `ipcluster profile create NAME --from ssh` makes a profile that explains it"
    )]
    NoController,
    #[error("SSHControllerLauncher.location: {0:?} is no [user@]host[:port]")]
    WrongLocation(String),
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

/// ipyparallel's class, followed by those that it derives from.
pub fn lineage(role: Role) -> &'static [&'static str] {
    match role {
        Role::Controller => &[
            "SSHControllerLauncher",
            "SSHLauncher",
            "ControllerLauncher",
            "BaseLauncher",
        ],
        Role::Engines => &[
            "SSHEngineSetLauncher",
            "SSHEngineLauncher",
            "SSHLauncher",
            "EngineLauncher",
            "BaseLauncher",
        ],
    }
}

/// A machine, and how engines or a controller are started on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As the settings name it.
    pub name: String,
    pub role: Role,
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
    /// A controller ends when it has heard nothing from here for so long; never without it.
    pub silence: Option<Duration>,
}

/// What can be set for all machines, and for each.
const SETTINGS: &[&str] = &[
    "engine_args",
    "engine_cmd",
    "environment",
    "remote_profile_dir",
    "remote_python",
    "send_program",
    "ssh_args",
    "ssh_cmd",
    "tunnel",
    "user",
];

/// Settings that have a meaning for all machines together.
const COMMON: &[&str] = &["engines", "stop_seconds_until_kill"];

const OF_CONTROLLER: &[&str] = &[
    "controller_args",
    "controller_cmd",
    "environment",
    "hostname",
    "location",
    "remote_profile_dir",
    "remote_python",
    "send_program",
    "silence_timeout",
    "ssh_args",
    "ssh_cmd",
    "stop_seconds_until_kill",
    "tunnel",
    "user",
];

/// A machine that vanishes without a word takes the controller that it has started with it after this time: longer than
/// ssh waits here for a sign of the other side.
const SILENCE: Duration = Duration::from_secs(180);

/// Names of traits that are set and change nothing.
pub fn without_effect(traits: &Traits, role: Role) -> Vec<String> {
    let heeded = |name: &str| match role {
        Role::Engines => SETTINGS.contains(&name) || COMMON.contains(&name),
        Role::Controller => OF_CONTROLLER.contains(&name),
    };
    traits
        .keys()
        .filter(|name| !heeded(name))
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
    let text = |key: &str| traits.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = match text("location") {
        "" => text("hostname"),
        location => location,
    };
    if name.is_empty() {
        return Err(HostsError::NoController);
    }
    let wrong = || HostsError::WrongLocation(name.to_owned());
    let mut host = host(traits, name, &Map::new(), Role::Controller, wrong)?;
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
    if let Some(unknown) = own
        .keys()
        .find(|key| *key != "n" && !SETTINGS.contains(&key.as_str()))
    {
        return Err(HostsError::Unknown {
            host: name.to_owned(),
            name: unknown.clone(),
            near: similar(unknown, SETTINGS.iter().copied())
                .into_iter()
                .next(),
        });
    }
    let wrong = || HostsError::WrongHost {
        host: name.to_owned(),
    };
    let host = host(traits, name, own, Role::Engines, wrong)?;
    Ok(Host { engines, ..host })
}

/// With settings of its own, which go before those of all.
fn host(
    traits: &Traits,
    name: &str,
    own: &Map<String, Value>,
    role: Role,
    wrong_name: impl FnOnce() -> HostsError,
) -> Result<Host, HostsError> {
    let (command, verb, more) = match role {
        Role::Controller => ("controller_cmd", "controller", "controller_args"),
        Role::Engines => ("engine_cmd", "engine", "engine_args"),
    };
    let no_command = |name: &'static str| HostsError::NoCommand {
        launcher: lineage(role)[0],
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
    // Nobody could answer a question; a host that is gone is noticed; a tunnel that cannot be had is an error.
    for option in [
        "BatchMode=yes",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
        "ExitOnForwardFailure=yes",
    ] {
        ssh.extend(["-o".to_owned(), option.to_owned()]);
    }
    ssh.push("-T".to_owned());
    if let Some(port) = port {
        ssh.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(user) = user.map(str::to_owned).or_else(|| text("user")) {
        ssh.extend(["-l".to_owned(), user]);
    }
    ssh.push(address.to_owned());
    let program = words(command, &["ipcluster", verb]);
    if program.is_empty() {
        return Err(no_command(command));
    }
    let mut arguments = words(more, &[]);
    arguments.extend(text("remote_python").map(|python| format!("--python={python}")));
    let flag = |key: &str| setting(key).and_then(Value::as_bool).unwrap_or(false);
    let environment = setting("environment").and_then(Value::as_object);
    Ok(Host {
        name: name.to_owned(),
        role,
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

/// `[user@]host[:port]`. What begins with a dash would be an option of ssh.
fn parts(name: &str) -> Option<(Option<&str>, &str, Option<u16>)> {
    let (user, rest) = match name.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, name),
    };
    let (address, port) = match rest.rsplit_once(':') {
        Some((address, port)) if !address.contains(':') => (address, Some(port.parse().ok()?)),
        _ => (rest, None),
    };
    let usable = |part: &str| !part.is_empty() && !part.starts_with('-');
    (usable(address) && user.is_none_or(usable)).then_some((user, address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn found(traits: Value, limit: Option<u32>) -> Result<Vec<Host>, HostsError> {
        hosts(&serde_json::from_value(traits).unwrap(), limit)
    }

    #[test]
    fn machines_have_counts_and_settings_of_their_own() {
        let traits = json!({
            "engines": {"a": 2, "b": {}, "me@c:2222": {"n": 3, "remote_python": "python3.12", "tunnel": true}},
            "user": "you", "ssh_args": ["-F", "config"], "environment": {"A": 1},
        });
        let hosts = found(traits, None).unwrap();
        let counts: Vec<u32> = hosts.iter().map(|host| host.engines).collect();
        assert_eq!(counts, [2, 1, 3]);
        assert!(
            hosts[0]
                .ssh
                .starts_with(&["ssh".into(), "-F".into(), "config".into()])
        );
        assert!(
            hosts[0]
                .ssh
                .ends_with(&["-l".into(), "you".into(), "a".into()])
        );
        let end = ["-p", "2222", "-l", "me", "c"].map(str::to_owned);
        assert!(hosts[2].ssh.ends_with(&end));
        assert_eq!(hosts[2].arguments, ["--python=python3.12"]);
        assert!(hosts[2].tunnel && !hosts[0].tunnel);
        assert_eq!(hosts[1].environment["A"], "1");
    }

    #[test]
    fn a_limit_fills_machines_one_after_another() {
        let traits = json!({"engines": {"a": 2, "b": 2, "c": 2}});
        let hosts = found(traits, Some(3)).unwrap();
        let counts: Vec<(&str, u32)> = hosts
            .iter()
            .map(|host| (host.name.as_str(), host.engines))
            .collect();
        assert_eq!(counts, [("a", 2), ("b", 1)]);
    }

    /// Everything that the built-in profile explains has a meaning.
    #[test]
    fn the_built_in_profile_is_right() {
        let template = crate::profile::templates::find("ssh").unwrap();
        let text: String = template
            .uncommented()
            .lines()
            .map(|line| match line.strip_prefix("# \"") {
                Some(machine) => format!("\"{machine}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        let whole: toml::Table = text.parse().unwrap();
        let traits = serde_json::to_value(&whole["launcher"][lineage(Role::Engines)[0]]).unwrap();
        let traits: Traits = serde_json::from_value(traits).unwrap();
        assert!(without_effect(&traits, Role::Engines).is_empty());
        let counts: Vec<u32> = hosts(&traits, None)
            .unwrap()
            .iter()
            .map(|host| host.engines)
            .collect();
        assert_eq!(counts, [4, 4]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (traits, expected) in [
            (json!({}), "there is no machine"),
            (json!({"engines": {"a": "x"}}), "\"a\" has \"x\""),
            (json!({"engines": {"a": -1}}), "\"a\" has -1"),
            (
                json!({"engines": {"-oProxyCommand=x": 1}}),
                "is no [user@]host[:port]",
            ),
            (json!({"engines": {"-l@a": 1}}), "is no [user@]host[:port]"),
            (json!({"engines": {"a:x": 1}}), "is no [user@]host[:port]"),
            (
                json!({"engines": {"a": {"enigne_args": []}}}),
                "did you mean \"engine_args\"?",
            ),
            (
                json!({"engines": {"a": 1}, "engine_cmd": []}),
                "SSHEngineSetLauncher.engine_cmd: it names no command",
            ),
        ] {
            let error = found(traits, None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_controller_has_one_machine() {
        let found = |traits: Value| controller_host(&serde_json::from_value(traits).unwrap());
        let host = found(json!({"hostname": "a", "user": "me"})).unwrap();
        assert!(host.ssh.ends_with(&["-l", "me", "a"].map(str::to_owned)));
        assert_eq!((host.silence, host.engines), (Some(SILENCE), 0));
        let host =
            found(json!({"hostname": "a", "location": "b", "silence_timeout": 0.0})).unwrap();
        assert_eq!((host.name.as_str(), host.silence), ("b", None));
        for (traits, expected) in [
            (json!({}), "no machine to start the controller on"),
            (
                json!({"location": "-oProxyCommand=x"}),
                "is no [user@]host[:port]",
            ),
            (
                json!({"location": "a", "controller_cmd": []}),
                "SSHControllerLauncher.controller_cmd: it names no command",
            ),
        ] {
            let error = found(traits).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
