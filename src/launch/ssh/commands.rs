//! The commands by which a machine's ssh is used. Pure.

use super::hosts::{Host, Kind};
use super::ways::Ways;
use crate::launch::shell::shell_words;

/// Nobody could answer a question; a host that is gone is noticed; a tunnel that cannot be had is an error.
pub(super) const OPTIONS: &[&str] = &[
    "BatchMode=yes",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ExitOnForwardFailure=yes",
];

/// A connection that others share ends with them, and keeps its ports when this ssh has ended.
pub(super) const ALONE: &[&str] = &["ControlMaster=no", "ControlPath=none"];

/// As ssh is told options.
pub(super) fn option_words(options: &[&str]) -> impl Iterator<Item = String> {
    options
        .iter()
        .flat_map(|option| ["-o".to_owned(), (*option).to_owned()])
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
        program = vec![host.kind.verb().to_owned()];
    }
    let mut words = program;
    words.push("--over-stdin".to_owned());
    if let Some(folder) = &host.profile_dir {
        words.push(format!("--profile-dir={folder}"));
    }
    if host.kind != Kind::Controller {
        words.push(format!("--n={}", host.engines));
    }
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

/// The command that leads ports of this machine to addresses that the other one reaches. It says a line when all of them
/// are led there, and ends with the process `pid` there: nothing else would tell the other side of an end here of which
/// the network carries no word. Its connection is its own, unless the settings' arguments of ssh name one to share.
pub(super) fn forwarding(host: &Host, ways: &Ways, pid: u32) -> Vec<String> {
    let mut argv = host.ssh.clone();
    let destination = argv.pop().expect("a host is named last");
    argv.extend(option_words(ALONE));
    argv.extend(ways.words());
    let line = format!("echo; while kill -0 {pid} 2>/dev/null; do sleep 1; done");
    argv.extend([destination, "--".to_owned(), line]);
    argv
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::ssh::hosts::{controller_host, hosts};

    use serde_json::{Value, json};

    fn found(traits: Value) -> Vec<Host> {
        hosts(&serde_json::from_value(traits).unwrap(), None).unwrap()
    }

    #[test]
    fn the_command_is_one_word_for_the_shell_there() {
        let traits = json!({"engines": {"a": 2}, "engine_cmd": ["/my dir/ipcluster", "engine"]});
        let host = &found(traits)[0];
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

    #[test]
    fn a_controller_is_started_in_the_same_way() {
        let traits = json!({"location": "me@a:2222", "controller_args": ["--hwm=2"], "remote_profile_dir": "p"});
        let host = controller_host(&serde_json::from_value(traits).unwrap()).unwrap();
        let argv = command(&host, &["--cluster-id=x".into()], &[], None);
        assert_eq!(
            argv.last().unwrap(),
            "exec ipcluster controller --over-stdin --profile-dir=p --hwm=2 --cluster-id=x"
        );
        let ways = Ways([("127.0.0.1:7".to_owned(), 8)].into());
        let argv = forwarding(&host, &ways, 99);
        let end = [
            "ControlPath=none",
            "-L",
            "127.0.0.1:8:127.0.0.1:7",
            "a",
            "--",
        ];
        assert!(
            argv[..argv.len() - 1].ends_with(&end.map(str::to_owned)),
            "{argv:?}"
        );
        assert!(argv[argv.len() - 1].contains("kill -0 99"));
    }
}
