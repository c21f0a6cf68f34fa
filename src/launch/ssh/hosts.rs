//! Which machines engines are started on over ssh, and by what commands. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::launch::batch::script::shell_words;
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
    #[error("SSHEngineSetLauncher.{0}: it names no command")]
    NoCommand(&'static str),
}

fn hint(near: &Option<String>) -> String {
    near.as_ref()
        .map(|near| format!(", did you mean {near:?}?"))
        .unwrap_or_default()
}

/// ipyparallel's class, followed by those that it derives from.
pub const LINEAGE: &[&str] = &[
    "SSHEngineSetLauncher",
    "SSHEngineLauncher",
    "SSHLauncher",
    "EngineLauncher",
    "BaseLauncher",
];

/// A machine, and how engines are started on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As the settings name it.
    pub name: String,
    pub engines: u32,
    /// ssh with its arguments and the host, before the command.
    pub ssh: Vec<String>,
    /// What is run there, before the arguments.
    pub program: Vec<String>,
    /// The profile's folder there.
    pub profile_dir: Option<String>,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Lead the controller's ports there through the connection.
    pub tunnel: bool,
    /// Copy this program over.
    pub send_program: bool,
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

/// Names of traits that are set and change nothing.
pub fn without_effect(traits: &Traits) -> Vec<String> {
    let heeded = |name: &str| SETTINGS.contains(&name) || COMMON.contains(&name);
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
        let mut host = host(traits, name, value)?;
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

fn host(traits: &Traits, name: &str, value: &Value) -> Result<Host, HostsError> {
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
    let (user, address, port) = parts(name).ok_or_else(|| HostsError::WrongHost {
        host: name.to_owned(),
    })?;
    let mut ssh = words("ssh_cmd", &["ssh"]);
    if ssh.is_empty() {
        return Err(HostsError::NoCommand("ssh_cmd"));
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
    let program = words("engine_cmd", &["ipcluster", "engine"]);
    if program.is_empty() {
        return Err(HostsError::NoCommand("engine_cmd"));
    }
    let mut arguments = words("engine_args", &[]);
    arguments.extend(text("remote_python").map(|python| format!("--python={python}")));
    let flag = |key: &str| setting(key).and_then(Value::as_bool).unwrap_or(false);
    let environment = setting("environment").and_then(Value::as_object);
    Ok(Host {
        name: name.to_owned(),
        engines,
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

/// A port of the controller that is led to the engines' machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// `address:port` as this machine reaches it.
    pub to: String,
    /// The path of the Unix socket there.
    pub socket: String,
}

/// The whole command for one start. `size` is that of this program, which is copied over before anything else is said.
pub fn command(
    host: &Host,
    common: &[String],
    tunnels: &[Tunnel],
    size: Option<u64>,
) -> Vec<String> {
    let mut argv = host.ssh.clone();
    let destination = argv.pop().expect("a host is named last");
    for tunnel in tunnels {
        argv.extend(["-R".to_owned(), format!("{}:{}", tunnel.socket, tunnel.to)]);
    }
    argv.push(destination);
    let mut program = host.program.clone();
    let mut before = String::new();
    let mut after = String::new();
    if let Some(size) = size {
        // `head` reads no byte too many.
        before = format!(
            "d=$(mktemp -d) && head -c {size} > \"$d/ipcluster\" && chmod 700 \"$d/ipcluster\" || exit 1; "
        );
        after.push_str("; r=$?; rm -rf \"$d\"");
        program = vec!["engine".to_owned()];
    }
    let mut words = program;
    words.push("--over-stdin".to_owned());
    if let Some(folder) = &host.profile_dir {
        words.push(format!("--profile-dir={folder}"));
    }
    words.push(format!("--n={}", host.engines));
    words.extend(host.arguments.iter().cloned());
    words.extend(common.iter().cloned());
    let words = shell_words(&words);
    let mut line = if size.is_some() {
        format!("{before}\"$d/ipcluster\" {words}{after}")
    } else {
        words
    };
    if !tunnels.is_empty() {
        // sshd leaves sockets behind.
        if size.is_none() {
            line.push_str("; r=$?");
        }
        let sockets: Vec<&str> = tunnels
            .iter()
            .map(|tunnel| tunnel.socket.as_str())
            .collect();
        line = format!("{line}; rm -f {}", shell_words(&sockets));
    }
    if tunnels.is_empty() && size.is_none() {
        line.insert_str(0, "exec ");
    } else {
        line.push_str("; exit $r");
    }
    argv.extend(["--".to_owned(), line]);
    argv
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
        let traits = serde_json::to_value(&whole["launcher"][LINEAGE[0]]).unwrap();
        let traits: Traits = serde_json::from_value(traits).unwrap();
        assert!(without_effect(&traits).is_empty());
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
                "engine_cmd: it names no command",
            ),
        ] {
            let error = found(traits, None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_command_is_one_word_for_the_shell_there() {
        let traits = json!({"engines": {"a": 2}, "engine_cmd": ["/my dir/ipcluster", "engine"]});
        let host = &found(traits, None).unwrap()[0];
        let argv = command(host, &["--cluster-id=x".into()], &[], None);
        assert_eq!(
            argv.last().unwrap(),
            "exec '/my dir/ipcluster' engine --over-stdin --n=2 --cluster-id=x"
        );
        let tunnel = Tunnel {
            to: "10.0.0.1:1234".into(),
            socket: "/tmp/x-1234".into(),
        };
        let argv = command(host, &[], &[tunnel], Some(7));
        assert!(argv.contains(&"/tmp/x-1234:10.0.0.1:1234".to_owned()));
        assert_eq!(
            argv.last().unwrap(),
            "d=$(mktemp -d) && head -c 7 > \"$d/ipcluster\" && chmod 700 \"$d/ipcluster\" || exit 1; \"$d/ipcluster\" \
             engine --over-stdin --n=2; r=$?; rm -rf \"$d\"; rm -f /tmp/x-1234; exit $r"
        );
    }
}
