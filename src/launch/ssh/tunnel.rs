//! The way of engines to their controller through a server of ssh: `ipengine --ssh`, and `ssh` of the connection file
//! (ipyparallel `IPEngine.init_connector`). One connection of ssh leads all channels, and is made anew when it breaks.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::commands::{ALONE, OPTIONS, option_words};
use super::forward::Forward;
use super::hosts::parts;
use super::ways::{self, Ways, ends};
use crate::os::host::{self, Host};
use crate::os::ports::free_ports;
use crate::profile::connection::{EngineFile, connectable_interface};

#[derive(Debug, Error)]
pub enum TunnelError {
    #[error("the server of ssh to tunnel through, {0:?}, is no [user@]host[:port]")]
    NoServer(String),
    #[error("no port of this machine can be had for a tunnel: {0}")]
    NoPort(io::Error),
    #[error(
        "no tunnel through {server}: {why}; does `ssh {server}` work here, without a question?"
    )]
    NotOpen { server: String, why: String },
}

/// A server of ssh, and what to tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `[user@]host`.
    name: String,
    port: Option<u16>,
    key: Option<PathBuf>,
}

impl Server {
    /// `[user@]host[:port]`.
    fn new(text: &str, key: Option<&Path>) -> Result<Self, TunnelError> {
        let found = parts(text).ok_or_else(|| TunnelError::NoServer(text.to_owned()))?;
        let (user, address, port) = found;
        Ok(Self {
            name: user.map_or_else(|| address.to_owned(), |user| format!("{user}@{address}")),
            port,
            key: key.map(Path::to_owned),
        })
    }

    /// What is given, or else what the connection file names: but not on the controller's own machine, which needs no
    /// tunnel. A key alone is for the controller's machine.
    ///
    /// # Errors
    /// When what is given is no server.
    pub fn of(
        given: &str,
        key: Option<&Path>,
        connection: &EngineFile,
    ) -> Result<Option<Self>, TunnelError> {
        if !given.is_empty() {
            return Self::new(given, key).map(Some);
        }
        if !connection.ssh.is_empty() {
            let location = &connection.common.location;
            let reached = connectable_interface("tcp://*", location, &Host::this());
            let is_here = reached == format!("tcp://{}", host::LOOPBACK);
            return (!is_here)
                .then(|| Self::new(&connection.ssh, key))
                .transpose();
        }
        Ok(key.map(|key| Self {
            name: address_of(connection).to_owned(),
            port: None,
            key: Some(key.to_owned()),
        }))
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
pub async fn lead(server: Server, connection: EngineFile) -> Result<EngineFile, TunnelError> {
    let there = ends(address_of(&connection).to_owned(), connection.ports());
    let ways = Ways::to(there, free_ports);
    let ways = ways.map_err(TunnelError::NoPort)?;
    let connection = through(connection, &ways);
    let tunnel = Forward::open(arguments(&server, &ways)).await;
    let tunnel = tunnel.map_err(|why| TunnelError::NotOpen {
        server: server.name.clone(),
        why,
    })?;
    tracing::info!("connections go through {}", server.name);
    tokio::spawn(keep(tunnel, server));
    Ok(connection)
}

/// The connection information for an engine behind a tunnel.
fn through(mut connection: EngineFile, ways: &Ways) -> EngineFile {
    let there = address_of(&connection).to_owned();
    ways.lead(&there, connection.ports_mut());
    connection.interface = ways::interface();
    connection
}

/// What ssh is told. It writes a line when all ports are open.
fn arguments(server: &Server, ways: &Ways) -> Vec<OsString> {
    const TELLING: &[&str] = &["PermitLocalCommand=yes", "LocalCommand=echo open"];
    let mut arguments: Vec<OsString> = vec!["ssh".into(), "-N".into(), "-T".into()];
    for options in [OPTIONS, ALONE, TELLING] {
        arguments.extend(option_words(options).map(OsString::from));
    }
    if let Some(key) = &server.key {
        arguments.extend(["-i".into(), key.into()]);
    }
    if let Some(port) = server.port {
        arguments.extend(["-p".into(), port.to_string().into()]);
    }
    arguments.extend(ways.words().map(OsString::from));
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
        let server = |text| Server::new(text, None).map(|server| (server.name, server.port));
        let found = server("me@login.example.org:2222").unwrap();
        assert_eq!(found, ("me@login.example.org".to_owned(), Some(2222)));
        assert_eq!(server("login").unwrap(), ("login".to_owned(), None));
        assert_eq!(
            server("2001:db8::7").unwrap(),
            ("2001:db8::7".to_owned(), None)
        );
        for wrong in ["login:abc", "login:", "me@", "-oProxyCommand=x"] {
            assert!(server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_is_the_given_one_or_that_of_the_file_or_the_controller_s_machine() {
        let name = |given: &str, key: Option<&str>, file: &EngineFile| {
            let server = Server::of(given, key.map(Path::new), file).unwrap();
            server.map(|server| server.name)
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
        let higher = |ports: Vec<u16>| Ok(ports.iter().map(|port| port + 99).collect());
        let ways = Ways::to(ends("192.0.2.7".into(), file.ports()), higher).unwrap();
        assert_eq!(ways.0.len(), 9);
        let led = through(file, &ways);
        assert_eq!(led.interface, "tcp://127.0.0.1");
        assert_eq!((led.registration, led.hb_pong), (100, 106));
        assert_eq!(led.broadcast, [107, 108]);

        let server = Server::new("me@login:2222", Some(Path::new("/key"))).unwrap();
        let arguments = arguments(&server, &ways).join(std::ffi::OsStr::new(" "));
        let arguments = arguments.to_str().unwrap();
        assert!(arguments.contains(" -i /key -p 2222 -L 127.0.0.1:100:192.0.2.7:1 "));
        assert!(arguments.ends_with(" -L 127.0.0.1:108:192.0.2.7:9 -- me@login"));
    }
}
