//! The way of engines to their controller through a server of ssh: `ipengine --ssh`, and `ssh` of the connection file
//! (ipyparallel `IPEngine.init_connector`). One connection of ssh leads all channels, and is made anew when it breaks.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::launch::ssh::forward::Forward;
use crate::os::host::{self, Host};
use crate::os::ports::free_ports;
use crate::profile::connection::{EngineFile, connectable_interface};

#[derive(Debug, Error)]
pub(super) enum TunnelError {
    #[error("no port of this machine can be had for a tunnel: {0}")]
    NoPort(io::Error),
    #[error(
        "no tunnel through {server}: {why}; does `ssh {server}` work here, without a question?"
    )]
    NotOpen { server: String, why: String },
}

/// A server of ssh, and what to tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// `[user@]host`.
    name: String,
    port: Option<u16>,
    key: Option<PathBuf>,
}

impl Server {
    /// `[user@]host[:port]`.
    pub(super) fn new(text: &str, key: Option<&Path>) -> Self {
        let split = text.rsplit_once(':');
        let (name, port) = match split.and_then(|(name, port)| Some((name, port.parse().ok()?))) {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        Self {
            name: name.to_owned(),
            port,
            key: key.map(Path::to_owned),
        }
    }

    /// What is given, or else what the connection file names: but not on the controller's own machine, which needs no
    /// tunnel. A key alone is for the controller's machine.
    pub(super) fn of(given: &str, key: Option<&Path>, connection: &EngineFile) -> Option<Self> {
        if !given.is_empty() {
            return Some(Self::new(given, key));
        }
        if !connection.ssh.is_empty() {
            let location = &connection.common.location;
            let reached = connectable_interface("tcp://*", location, &Host::this());
            let is_here = reached == format!("tcp://{}", host::LOOPBACK);
            return (!is_here).then(|| Self::new(&connection.ssh, key));
        }
        key.map(|_| Self::new(address_of(connection), key))
    }
}

/// The controller's address, as its file has it.
fn address_of(connection: &EngineFile) -> &str {
    let interface = connection.interface.as_str();
    interface
        .split_once("://")
        .map_or(interface, |(_, address)| address)
}

/// Leads all of the controller's channels through the server, for as long as the runtime goes on; gives the connection
/// information with this machine's ends.
///
/// # Errors
/// When ssh cannot be run, or ends before the tunnel is open.
pub(super) async fn lead(
    server: Server,
    connection: EngineFile,
) -> Result<EngineFile, TunnelError> {
    let (connection, ways) = through(connection, free_ports)?;
    let tunnel = Forward::open(arguments(&server, &ways)).await;
    let tunnel = tunnel.map_err(|why| TunnelError::NotOpen {
        server: server.name.clone(),
        why,
    })?;
    tracing::info!("connections go through {}", server.name);
    tokio::spawn(keep(tunnel, server));
    Ok(connection)
}

/// A port of this machine, and where it leads to from the server.
type Way = (u16, String);

/// The connection information for an engine behind a tunnel, and what the tunnel has to do.
fn through(
    mut connection: EngineFile,
    free_ports: impl FnOnce(Vec<u16>) -> io::Result<Vec<u16>>,
) -> Result<(EngineFile, Vec<Way>), TunnelError> {
    let destination = address_of(&connection).to_owned();
    let there = connection.ports_mut().map(|port| *port).collect();
    let here = free_ports(there).map_err(TunnelError::NoPort)?;
    let ways = connection
        .ports_mut()
        .zip(here)
        .map(|(port, here)| {
            let way = (here, format!("{destination}:{port}"));
            *port = here;
            way
        })
        .collect();
    connection.interface = format!("tcp://{}", host::LOOPBACK);
    Ok((connection, ways))
}

/// What ssh is told. It writes a line when all ports are open.
fn arguments(server: &Server, ways: &[Way]) -> Vec<OsString> {
    let options = [
        "ExitOnForwardFailure=yes",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
        // A connection that others share ends with them, and says nothing.
        "ControlMaster=no",
        "ControlPath=none",
        "PermitLocalCommand=yes",
        "LocalCommand=echo open",
        // Nobody sits there to be asked.
        "BatchMode=yes",
    ];
    let mut arguments: Vec<OsString> = vec!["ssh".into(), "-N".into(), "-T".into()];
    for option in options {
        arguments.extend(["-o".into(), option.into()]);
    }
    if let Some(key) = &server.key {
        arguments.extend(["-i".into(), key.into()]);
    }
    if let Some(port) = server.port {
        arguments.extend(["-p".into(), port.to_string().into()]);
    }
    for (here, there) in ways {
        let way = format!("{}:{here}:{there}", host::LOOPBACK);
        arguments.extend(["-L".into(), way.into()]);
    }
    arguments.extend(["--".into(), server.name.clone().into()]);
    arguments
}

/// Opens it again and again: engines wait for their controller, and say themselves when it has been too long.
async fn keep(mut tunnel: Forward, server: Server) {
    let way = format!("through {}", server.name);
    loop {
        tunnel.mended(&way).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn connection(interface: &str, location: &str, ssh: &str) -> EngineFile {
        let file = json!({
            "ssh": ssh, "interface": interface, "location": location, "registration": 1, "control": 2, "mux": 3,
            "task": 4, "iopub": 5, "hb_ping": 6, "hb_pong": 7, "broadcast": [8, 9], "key": "k", "pack": "json",
            "unpack": "json", "signature_scheme": "hmac-sha256",
        });
        EngineFile::from_variable(&file.to_string()).unwrap()
    }

    #[test]
    fn servers_have_users_and_ports() {
        let server = Server::new("me@login.example.org:2222", None);
        assert_eq!(server.name, "me@login.example.org");
        assert_eq!(server.port, Some(2222));
        assert_eq!(Server::new("login", None).port, None);
    }

    #[test]
    fn a_server_is_the_given_one_or_that_of_the_file_or_the_controller_s_machine() {
        let name = |given: &str, key: Option<&str>, file: &EngineFile| {
            Server::of(given, key.map(Path::new), file).map(|server| server.name)
        };
        let far = connection("tcp://192.0.2.7", "far.invalid", "login");
        assert_eq!(name("other", None, &far).as_deref(), Some("other"));
        assert_eq!(name("", None, &far).as_deref(), Some("login"));
        let here = connection("tcp://127.0.0.1", &Host::this().name, "login");
        assert_eq!(name("", None, &here), None);
        assert_eq!(name("other", None, &here).as_deref(), Some("other"));
        let none = connection("tcp://192.0.2.7", "far.invalid", "");
        assert_eq!(name("", None, &none), None);
        assert_eq!(name("", Some("/key"), &none).as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn every_channel_goes_through() {
        let file = connection("tcp://192.0.2.7", "far.invalid", "login");
        let ports = |wanted: Vec<u16>| Ok(wanted.into_iter().map(|port| 99 + port).collect());
        let (led, ways) = through(file, ports).unwrap();
        assert_eq!(led.interface, "tcp://127.0.0.1");
        assert_eq!((led.registration, led.hb_pong), (100, 106));
        assert_eq!(led.broadcast, [107, 108]);
        assert_eq!(ways.len(), 9);
        assert_eq!(ways[8], (108, "192.0.2.7:9".to_owned()));

        let server = Server::new("me@login:2222", Some(Path::new("/key")));
        let arguments = arguments(&server, &ways).join(std::ffi::OsStr::new(" "));
        let arguments = arguments.to_str().unwrap();
        assert!(arguments.contains(" -i /key -p 2222 -L 127.0.0.1:100:192.0.2.7:1 "));
        assert!(arguments.ends_with(" -L 127.0.0.1:108:192.0.2.7:9 -- me@login"));
    }
}
