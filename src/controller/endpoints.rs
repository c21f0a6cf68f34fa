//! All sockets of a controller, bound before anything is told to anybody.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::config::{Config, Interface};
use crate::os::ports;
use crate::transport::{BindError, Context, Kind, Socket};

/// Bytes of output that are kept for clients that do not read. Beyond that they lose output, rather than the
/// controller its memory.
const IOPUB_BACKLOG: usize = 64 << 20;

/// Bytes of notifications that wait for clients that do not read.
const NOTIFICATIONS: usize = 16 << 20;

/// Sockets on which peers only subscribe or echo have no use for anything larger.
const SMALL_MESSAGE: u64 = 8 * 1024;

/// What is on its way to clients when the controller ends has this long to leave.
const LINGER: Duration = Duration::from_millis(500);

/// The ports of every channel, as the connection files name them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub registration: u16,
    pub client: ClientPorts,
    pub engine: EnginePorts,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientPorts {
    pub control: u16,
    pub mux: u16,
    pub task: u16,
    pub iopub: u16,
    pub notification: u16,
    pub broadcast: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnginePorts {
    pub control: u16,
    pub mux: u16,
    pub task: u16,
    pub iopub: u16,
    pub hb_ping: u16,
    pub hb_pong: u16,
    /// Engine `id % len` uses its own; one is enough for a flat fan-out.
    pub broadcast: Vec<u16>,
}

impl Ports {
    /// `connection_info` of a registration reply (ipyparallel `IPController.engine_info`).
    pub(super) fn engine_info(&self, interface: &Interface) -> Value {
        let mut info = json!(self.engine);
        info["interface"] = json!(interface.0);
        info["registration"] = json!(self.registration);
        info
    }
}

#[derive(Debug, Error)]
pub enum EndpointError {
    #[error("cannot listen for {channel} on {endpoint}: {why}")]
    Bind {
        channel: &'static str,
        endpoint: String,
        why: String,
    },
    #[error("cannot set up the socket for {channel}: {source}")]
    Socket {
        channel: &'static str,
        source: std::io::Error,
    },
}

/// The two sides of a channel.
pub(super) struct SocketPair {
    pub(super) clients: Socket,
    pub(super) engines: Socket,
}

pub(super) struct HubSockets {
    pub(super) queries: Socket,
    pub(super) notifications: Socket,
}

pub(super) struct HeartbeatSockets {
    pub(super) ping: Socket,
    pub(super) pong: Socket,
}

pub(super) struct Endpoints {
    pub(super) hub: HubSockets,
    pub(super) mux: SocketPair,
    pub(super) task: SocketPair,
    pub(super) control: SocketPair,
    pub(super) broadcast: SocketPair,
    pub(super) iopub: SocketPair,
    pub(super) heartbeat: HeartbeatSockets,
    pub(super) ports: Ports,
}

impl Endpoints {
    pub(super) fn bind(context: &Context, config: &Config) -> Result<Self, EndpointError> {
        let mut binder = Binder {
            context,
            config,
            used: Used::default(),
        };
        let fixed = config.fixed_ports.clone().unwrap_or_default();
        let (client, engine) = (fixed.client, fixed.engine);
        // Engines' ports first, in the order in which ipyparallel takes them from a pool.
        let queries = binder.socket(Kind::Router, "registration")?;
        queries.set_patience(binder.patience());
        let registration = binder.bind_registration(&queries, fixed.registration)?;
        let (control_engines, control_out) = binder.engines_router("control", engine.control)?;
        let (mux_engines, mux_out) = binder.engines_router("mux", engine.mux)?;
        let (task_engines, task_out) = binder.engines_router("task", engine.task)?;
        let (iopub_engines, iopub_out) = binder.iopub_engines(engine.iopub)?;
        let (ping, hb_ping) = binder.ping(engine.hb_ping)?;
        let (pong, hb_pong) = binder.pong(engine.hb_pong)?;
        let broadcast_port = engine.broadcast.first().copied().unwrap_or(0);
        let (broadcast_engines, broadcast_out) =
            binder.engines_router("broadcast", broadcast_port)?;

        let (control_clients, control_in) = binder.clients_router("control", client.control)?;
        let (mux_clients, mux_in) = binder.clients_router("mux", client.mux)?;
        let (task_clients, task_in) = binder.clients_router("task", client.task)?;
        let (iopub_clients, iopub_in) =
            binder.publisher("iopub", client.iopub, Some(IOPUB_BACKLOG))?;
        // A client that misses a notification would miss an engine, so none is dropped; there are few.
        let (notifications, notification) =
            binder.publisher("notification", client.notification, None)?;
        notifications.set_patience(NOTIFICATIONS);
        let (broadcast_clients, broadcast_in) =
            binder.clients_router("broadcast", client.broadcast)?;

        let ports = Ports {
            registration,
            client: ClientPorts {
                control: control_in,
                mux: mux_in,
                task: task_in,
                iopub: iopub_in,
                notification,
                broadcast: broadcast_in,
            },
            engine: EnginePorts {
                control: control_out,
                mux: mux_out,
                task: task_out,
                iopub: iopub_out,
                hb_ping,
                hb_pong,
                broadcast: vec![broadcast_out],
            },
        };
        Ok(Self {
            hub: HubSockets {
                queries,
                notifications,
            },
            mux: SocketPair {
                clients: mux_clients,
                engines: mux_engines,
            },
            task: SocketPair {
                clients: task_clients,
                engines: task_engines,
            },
            control: SocketPair {
                clients: control_clients,
                engines: control_engines,
            },
            broadcast: SocketPair {
                clients: broadcast_clients,
                engines: broadcast_engines,
            },
            iopub: SocketPair {
                clients: iopub_clients,
                engines: iopub_engines,
            },
            heartbeat: HeartbeatSockets { ping, pong },
            ports,
        })
    }
}

/// How far each pool is used up.
#[derive(Default)]
struct Used {
    common: usize,
    client: usize,
    engine: usize,
    /// All of them, and it was said.
    up: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Engine,
}

struct Binder<'a> {
    context: &'a Context,
    config: &'a Config,
    used: Used,
}

impl Binder<'_> {
    fn socket(&self, kind: Kind, channel: &'static str) -> Result<Socket, EndpointError> {
        let socket = self
            .context
            .socket(kind)
            .map_err(|source| EndpointError::Socket { channel, source })?;
        socket.set_linger(LINGER);
        Ok(socket)
    }

    /// What is kept for clients of a channel that do not read.
    fn patience(&self) -> usize {
        usize::try_from(self.config.message_limit).unwrap_or(usize::MAX)
    }

    /// A router whose routing id engines put before their answers: their one shell socket is connected to several.
    fn engines_router(
        &mut self,
        channel: &'static str,
        port: u16,
    ) -> Result<(Socket, u16), EndpointError> {
        let socket = self.socket(Kind::Router, channel)?;
        socket.set_identity(format!("{channel}_out").as_bytes());
        socket.set_mandatory();
        socket.set_handover();
        socket.set_nearby();
        let port = self.bind(&socket, Side::Engine, channel, port)?;
        Ok((socket, port))
    }

    fn clients_router(
        &mut self,
        channel: &'static str,
        port: u16,
    ) -> Result<(Socket, u16), EndpointError> {
        let socket = self.socket(Kind::Router, channel)?;
        socket.set_patience(self.patience());
        let port = self.bind(&socket, Side::Client, channel, port)?;
        Ok((socket, port))
    }

    fn publisher(
        &mut self,
        channel: &'static str,
        port: u16,
        backlog: Option<usize>,
    ) -> Result<(Socket, u16), EndpointError> {
        let socket = self.socket(Kind::XPub, channel)?;
        if let Some(bytes) = backlog {
            socket.set_send_limit(bytes);
        }
        socket.set_max_message_size(SMALL_MESSAGE);
        let port = self.bind(&socket, Side::Client, channel, port)?;
        Ok((socket, port))
    }

    fn iopub_engines(&mut self, port: u16) -> Result<(Socket, u16), EndpointError> {
        let socket = self.socket(Kind::Sub, "iopub")?;
        socket.set_nearby();
        let port = self.bind(&socket, Side::Engine, "iopub", port)?;
        Ok((socket, port))
    }

    fn ping(&mut self, port: u16) -> Result<(Socket, u16), EndpointError> {
        let socket = self.socket(Kind::XPub, "hb_ping")?;
        socket.set_max_message_size(SMALL_MESSAGE);
        let port = self.bind(&socket, Side::Engine, "hb_ping", port)?;
        Ok((socket, port))
    }

    fn pong(&mut self, port: u16) -> Result<(Socket, u16), EndpointError> {
        let socket = self.socket(Kind::Router, "hb_pong")?;
        socket.set_max_message_size(SMALL_MESSAGE);
        socket.set_handover();
        let port = self.bind(&socket, Side::Engine, "hb_pong", port)?;
        Ok((socket, port))
    }

    /// Engines and clients use the same registration port, on both interfaces where they differ. One that stands for all
    /// of this machine's contains the other.
    fn bind_registration(&mut self, socket: &Socket, fixed: u16) -> Result<u16, EndpointError> {
        let (client, engine) = (&self.config.client_interface, &self.config.engine_interface);
        let side = if client.is_all() {
            Side::Client
        } else {
            Side::Engine
        };
        let port = self.bind(socket, side, "registration", fixed)?;
        if client != engine && !client.is_all() && !engine.is_all() {
            socket
                .bind(&client.0, port)
                .map_err(|error| taken("registration", &error, port))?;
        }
        Ok(port)
    }

    /// Binds to the `fixed` port, or to the next free one of the side's pool, or to any.
    fn bind(
        &mut self,
        socket: &Socket,
        side: Side,
        channel: &'static str,
        fixed: u16,
    ) -> Result<u16, EndpointError> {
        let config = self.config;
        let interface = match side {
            Side::Client => &config.client_interface,
            Side::Engine => &config.engine_interface,
        };
        if config.fixed_ports.is_some() {
            return socket
                .bind(&interface.0, fixed)
                .map_err(|error| taken(channel, &error, fixed));
        }
        if let (Some(port), "registration") = (config.registration_port, channel) {
            return socket
                .bind(&interface.0, port)
                .map_err(|error| taken(channel, &error, port));
        }
        while let Some(port) = self.next_in_pool(side) {
            match socket.bind(&interface.0, port) {
                Err(error) if error.source.kind() == std::io::ErrorKind::AddrInUse => {
                    tracing::warn!(
                        "port {port} is in use{}: trying the next of the pool",
                        ports::used_by(port)
                    );
                }
                bound => return bound.map_err(|error| taken(channel, &error, port)),
            }
        }
        let pools = &config.pools;
        let none_given =
            pools.common.is_empty() && pools.client.is_empty() && pools.engine.is_empty();
        if !none_given && !std::mem::replace(&mut self.used.up, true) {
            tracing::warn!(
                "the ports given are used up: {channel} and what comes after it listen on ports of the system's choice; \
                 a controller needs 14"
            );
        }
        socket
            .bind(&interface.0, 0)
            .map_err(|error| taken(channel, &error, 0))
    }

    fn next_in_pool(&mut self, side: Side) -> Option<u16> {
        let pools = &self.config.pools;
        let (pool, used) = match side {
            Side::Client => (&pools.client, &mut self.used.client),
            Side::Engine => (&pools.engine, &mut self.used.engine),
        };
        let (pool, used) = if *used < pool.len() {
            (pool, used)
        } else {
            (&pools.common, &mut self.used.common)
        };
        let port = pool.get(*used).copied();
        *used += 1;
        port
    }
}

/// Says what is wrong with an endpoint, and who has the port when that is what is wrong.
fn taken(channel: &'static str, error: &BindError, port: u16) -> EndpointError {
    use std::io::ErrorKind;
    let why = match error.source.kind() {
        ErrorKind::AddrInUse => format!("the port is in use{}", ports::used_by(port)),
        ErrorKind::AddrNotAvailable => "this machine has no such address; see --ip".to_owned(),
        ErrorKind::PermissionDenied => "ports below 1024 need privileges".to_owned(),
        // What a name that cannot be resolved is.
        _ if error.source.raw_os_error() == Some(nix::libc::ENODEV) => {
            "there is no such host or network interface; see --ip".to_owned()
        }
        _ => error.source.to_string(),
    };
    EndpointError::Bind {
        channel,
        endpoint: error.endpoint.clone(),
        why,
    }
}
