//! The way of engines to their controller through a server of ssh: `ipengine --ssh`, and `ssh` of the connection file
//! (ipyparallel `IPEngine.init_connector`). One connection of ssh leads all channels, and is made anew when it breaks.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::os::host::{self, Host};
use crate::profile::connection::{EngineFile, connectable_interface};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
pub(super) enum TunnelError {
    #[error("no port of this machine can be had for a tunnel: {0}")]
    NoPort(io::Error),
    #[error("cannot run ssh for a tunnel: {0}")]
    NoSsh(io::Error),
    #[error(
        "no tunnel through {server}: ssh ended with {status}; does `ssh {server}` work here, without a question?"
    )]
    Ended { server: String, status: ExitStatus },
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
/// When ssh cannot be run, or ends before the tunnel is open. What ssh itself says goes to standard error.
pub(super) async fn lead(
    server: Server,
    connection: EngineFile,
) -> Result<EngineFile, TunnelError> {
    let (connection, ways) = through(connection, free_ports)?;
    let tunnel = Tunnel { server, ways };
    let ssh = tunnel.open().await?;
    tracing::info!("connections go through {}", tunnel.server.name);
    tokio::spawn(tunnel.keep(ssh));
    Ok(connection)
}

/// A port of this machine, and where it leads to from the server.
type Way = (u16, String);

/// The connection information for an engine behind a tunnel, and what the tunnel has to do.
fn through(
    mut connection: EngineFile,
    free_ports: impl FnOnce(usize) -> io::Result<Vec<u16>>,
) -> Result<(EngineFile, Vec<Way>), TunnelError> {
    let destination = address_of(&connection).to_owned();
    let ports: Vec<&mut u16> = [
        &mut connection.registration,
        &mut connection.control,
        &mut connection.mux,
        &mut connection.task,
        &mut connection.iopub,
        &mut connection.hb_ping,
        &mut connection.hb_pong,
    ]
    .into_iter()
    .chain(&mut connection.broadcast)
    .collect();
    let here = free_ports(ports.len()).map_err(TunnelError::NoPort)?;
    let ways = ports
        .into_iter()
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

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<_>>()?;
    held.iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect()
}

struct Tunnel {
    server: Server,
    ways: Vec<Way>,
}

impl Tunnel {
    /// What ssh is told. It writes a line when all ports are open.
    fn arguments(&self) -> Vec<OsString> {
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
        let mut arguments: Vec<OsString> = vec!["-N".into(), "-T".into()];
        for option in options {
            arguments.extend(["-o".into(), option.into()]);
        }
        if let Some(key) = &self.server.key {
            arguments.extend(["-i".into(), key.into()]);
        }
        if let Some(port) = self.server.port {
            arguments.extend(["-p".into(), port.to_string().into()]);
        }
        for (here, there) in &self.ways {
            let way = format!("{}:{here}:{there}", host::LOOPBACK);
            arguments.extend(["-L".into(), way.into()]);
        }
        arguments.extend(["--".into(), self.server.name.clone().into()]);
        arguments
    }

    async fn open(&self) -> Result<Child, TunnelError> {
        let mut ssh = Command::new("ssh");
        ssh.args(self.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        // SAFETY: between fork and exec only system calls are made, which may be.
        unsafe { ssh.pre_exec(|| leave_terminal().map_err(io::Error::from)) };
        let mut ssh = ssh.spawn().map_err(TunnelError::NoSsh)?;
        let stdout = ssh.stdout.take().expect("it was asked for");
        let mut said = String::new();
        let read = BufReader::new(stdout).read_line(&mut said).await;
        if matches!(read, Ok(1..)) {
            return Ok(ssh);
        }
        let status = ssh.wait().await.map_err(TunnelError::NoSsh)?;
        Err(TunnelError::Ended {
            server: self.server.name.clone(),
            status,
        })
    }

    /// Opens it again and again: engines wait for their controller, and say themselves when it has been too long.
    async fn keep(self, mut ssh: Child) {
        loop {
            let ended = ssh.wait().await;
            let why = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::warn!("the tunnel through {} has ended ({why})", self.server.name);
            let mut pause = FIRST_PAUSE;
            ssh = loop {
                tokio::time::sleep(pause).await;
                match self.open().await {
                    Ok(ssh) => break ssh,
                    Err(error) => tracing::warn!("{error}"),
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            };
            tracing::info!("the tunnel through {} is open again", self.server.name);
        }
    }
}

/// Ctrl-C is the engine's; and however that ends, the tunnel does too.
fn leave_terminal() -> nix::Result<()> {
    nix::unistd::setsid()?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(())
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
        let ports = |count| {
            Ok((0..count)
                .map(|n| 100 + u16::try_from(n).unwrap())
                .collect())
        };
        let (led, ways) = through(file, ports).unwrap();
        assert_eq!(led.interface, "tcp://127.0.0.1");
        assert_eq!((led.registration, led.hb_pong), (100, 106));
        assert_eq!(led.broadcast, [107, 108]);
        assert_eq!(ways.len(), 9);
        assert_eq!(ways[8], (108, "192.0.2.7:9".to_owned()));

        let tunnel = Tunnel {
            server: Server::new("me@login:2222", Some(Path::new("/key"))),
            ways,
        };
        let arguments = tunnel.arguments().join(std::ffi::OsStr::new(" "));
        let arguments = arguments.to_str().unwrap();
        assert!(arguments.contains(" -i /key -p 2222 -L 127.0.0.1:100:192.0.2.7:1 "));
        assert!(arguments.ends_with(" -L 127.0.0.1:108:192.0.2.7:9 -- me@login"));
    }
}
