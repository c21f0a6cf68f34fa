//! How a controller on another machine is reached from here: by the address that its files name, or, where it listens on its
//! loopback address alone, through a tunnel that a second ssh makes. The files that are written here lead there.

use std::ffi::OsString;

use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::process::ChildStdout;
use tokio::sync::mpsc::UnboundedSender;

use super::commands::forwarding;
use super::forward::Forward;
use super::hosts::Host;
use super::ways::{self, Ways, ends};
use crate::launch::child::Sayings;
use crate::launch::supervisor::Member;
use crate::launch::{LaunchEvent, News, Reached};
use crate::os::ports::free_ports;
use crate::os::{ProcessRef, host};
use crate::profile::connection::{ClientFile, ConnectionError, EngineFile};
use crate::profile::settings::is_local_interface;

#[derive(Debug, Error)]
enum ReachError {
    #[error("what the controller on {host} says of its connection files: {error}")]
    Files {
        host: String,
        error: ConnectionError,
    },
    #[error(
        "the controller on {0} listens on sockets of its file system (ipc), which ssh cannot lead to: use tcp"
    )]
    NotTcp(String),
    #[error("no port of this machine is free for a tunnel to {host}: {error}")]
    NoPort { host: String, error: std::io::Error },
    #[error(
        "no tunnel to the controller on {host}: {why}; one that listens on all addresses (--ip='*') takes none"
    )]
    NoTunnel { host: String, why: String },
}

/// Tells what the controller says, and sees to it that it can be reached before it is told to be ready.
pub(super) async fn hear(
    output: ChildStdout,
    host: Host,
    member: Member,
    events: UnboundedSender<LaunchEvent>,
) {
    let mut sayings = Sayings::of(output);
    let mut tunnel: Option<Forward> = None;
    let mut reached: Option<Reached> = None;
    loop {
        let news = match next(&mut sayings, &mut tunnel, &host).await {
            Next::Said(news) => news,
            Next::Tunnel(process) => {
                if let Some(reached) = &mut reached {
                    reached.tunnel = Some(process);
                    let _ = events.send(LaunchEvent::Reached(Box::new(reached.clone())));
                }
                continue;
            }
            Next::End => return,
        };
        let event = match news {
            News::Connection {
                client,
                engine,
                pid,
            } => match reach(&host, &client, &engine, pid).await {
                Ok((found, opened)) => {
                    tunnel = opened;
                    reached = Some(found.clone());
                    LaunchEvent::Reached(Box::new(found))
                }
                Err(error) => LaunchEvent::NotReached(error.to_string()),
            },
            news => LaunchEvent::Said(member, news),
        };
        // Nobody hears it when this process is about to end.
        let _ = events.send(event);
    }
}

enum Next {
    Said(News),
    /// Another one has taken the place of a tunnel that broke.
    Tunnel(ProcessRef),
    /// The connection has ended, and with it the controller.
    End,
}

/// What the controller says next; meanwhile the tunnel is kept.
async fn next(
    sayings: &mut Sayings<impl AsyncRead + Unpin>,
    tunnel: &mut Option<Forward>,
    host: &Host,
) -> Next {
    let kept = async {
        match tunnel {
            Some(tunnel) => {
                tunnel.mended(&format!("to {}", host.name)).await;
                tunnel.process()
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        news = sayings.next() => news.map_or(Next::End, Next::Said),
        process = kept => Next::Tunnel(process),
    }
}

async fn reach(
    host: &Host,
    client: &str,
    engine: &str,
    pid: u32,
) -> Result<(Reached, Option<Forward>), ReachError> {
    let failed = |error| ReachError::Files {
        host: host.name.clone(),
        error,
    };
    let client = ClientFile::from_text(client).map_err(failed)?;
    let engine = EngineFile::from_text(engine).map_err(failed)?;
    let interfaces = [&client.interface, &engine.interface];
    if !host.tunnel
        && !interfaces
            .iter()
            .any(|interface| is_local_interface(interface))
    {
        let reached = Reached {
            client_elsewhere: client.clone(),
            engine_elsewhere: engine.clone(),
            client,
            engine,
            tunnel: None,
        };
        return Ok((reached, None));
    }
    if !interfaces
        .iter()
        .all(|interface| interface.starts_with("tcp://"))
    {
        return Err(ReachError::NotTcp(host.name.clone()));
    }
    let ways =
        Ways::to(all_ends(&client, &engine), free_ports).map_err(|error| ReachError::NoPort {
            host: host.name.clone(),
            error,
        })?;
    let mut reached = led_here(client, engine, &ways, &host::hostname());
    let no_tunnel = |why| ReachError::NoTunnel {
        host: host.name.clone(),
        why,
    };
    let argv = forwarding(host, &ways, pid);
    let argv = argv.into_iter().map(OsString::from).collect();
    let tunnel = Forward::open(argv).await.map_err(no_tunnel)?;
    reached.tunnel = Some(tunnel.process());
    Ok((reached, Some(tunnel)))
}

/// Where the controller's own machine reaches what listens on this interface of its.
fn address(interface: &str) -> String {
    match interface.strip_prefix("tcp://").unwrap_or(interface) {
        "*" | "0.0.0.0" => host::LOOPBACK.to_string(),
        address => address.to_owned(),
    }
}

/// All that clients and engines connect to, with its port.
fn all_ends<'a>(
    client: &'a ClientFile,
    engine: &'a EngineFile,
) -> impl Iterator<Item = (String, u16)> {
    ends(address(&client.interface), client.ports())
        .chain(ends(address(&engine.interface), engine.ports()))
}

/// The files for this machine, whose ports lead to those of the controller. Whoever carries them further learns from them
/// that this machine is the one to ask.
fn led_here(client: ClientFile, engine: EngineFile, ways: &Ways, this_host: &str) -> Reached {
    let (client_elsewhere, engine_elsewhere) = (client.clone(), engine.clone());
    let (mut client, mut engine) = (client, engine);
    ways.lead(&address(&client_elsewhere.interface), client.ports_mut());
    ways.lead(&address(&engine_elsewhere.interface), engine.ports_mut());
    for (interface, ssh, common) in [
        (&mut client.interface, &mut client.ssh, &mut client.common),
        (&mut engine.interface, &mut engine.ssh, &mut engine.common),
    ] {
        *interface = ways::interface();
        ssh.clear();
        this_host.clone_into(&mut common.location);
    }
    Reached {
        client,
        engine,
        client_elsewhere,
        engine_elsewhere,
        tunnel: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(interface: &str) -> (ClientFile, EngineFile) {
        let common = r#""key":"k","location":"there","pack":"json","unpack":"json","signature_scheme":"hmac-sha256""#;
        let client = format!(
            r#"{{"ssh":"x","interface":"{interface}","registration":1,"control":2,"mux":3,"task":4,"iopub":5,"notification":6,"broadcast":7,{common}}}"#
        );
        let engine = format!(
            r#"{{"ssh":"","interface":"{interface}","registration":1,"control":12,"mux":13,"task":14,"iopub":15,"hb_ping":16,"hb_pong":17,"broadcast":[18,19],{common}}}"#
        );
        (
            ClientFile::from_text(&client).unwrap(),
            EngineFile::from_text(&engine).unwrap(),
        )
    }

    #[test]
    fn files_that_are_led_here_name_this_machine_and_its_ports() {
        let (client, engine) = files("tcp://*");
        let higher = |ports: Vec<u16>| Ok(ports.iter().map(|port| port + 100).collect());
        let ways = Ways::to(all_ends(&client, &engine), higher).unwrap();
        assert_eq!(ways.0.len(), 15);
        assert_eq!(ways.0["127.0.0.1:19"], 119);
        let reached = led_here(client, engine.clone(), &ways, "here");
        assert_eq!(reached.client.interface, "tcp://127.0.0.1");
        assert_eq!(
            (reached.client.registration, reached.engine.registration),
            (101, 101)
        );
        assert_eq!(reached.client.broadcast, Some(107));
        assert_eq!(reached.engine.broadcast, [118, 119]);
        assert_eq!(reached.client.common.location, "here");
        assert!(reached.client.ssh.is_empty());
        assert_eq!(reached.engine_elsewhere, engine);
    }
}
