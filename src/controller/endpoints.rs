//! All sockets of a controller, bound before anything is told to anybody.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::config::{Config, Interface};
use crate::os::ports;
use crate::transport::{BindError, Context, Kind, Socket};

/// Messages of output that are kept for a client that does not read. Beyond that a client loses output, rather than the
/// controller its memory.
const IOPUB_BACKLOG: i32 = 100_000;

/// Requests of one client that lie in a socket until its thread takes them. Beyond that they stay with the client: a
/// thread that does not read, since storage does not keep up, slows clients down and does not fill memory.
const REQUEST_BACKLOG: i32 = 1000;

/// The same for the output of one engine. Engines keep what does not get through.
const OUTPUT_BACKLOG: i32 = 1000;

/// Sockets on which peers only subscribe or echo have no use for anything larger.
const SMALL_MESSAGE: i64 = 8 * 1024;

/// Buffers of engines' connections, in bytes, where they need not be as large as those of the queues: with a thousand
/// engines that is much of a controller's memory.
const RARE_BATCH: i32 = 512;
const SINGLE_BATCH: i32 = 2048;

/// What is on its way to clients when the controller ends has this long to leave, in milliseconds.
const LINGER: i32 = 500;

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
        let queries = binder.engines_socket(Kind::Router, "registration")?;
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
        let (iopub_clients, iopub_in) = binder.publisher("iopub", client.iopub, IOPUB_BACKLOG)?;
        // A client that misses a notification would miss an engine, so none is dropped; there are few.
        let (notifications, notification) =
            binder.publisher("notification", client.notification, 0)?;
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
        let set_up = || {
            let socket = self.context.socket(kind)?;
            socket.set_linger(LINGER)?;
            socket.set_high_water_marks(0, 0)?;
            Ok(socket)
        };
        set_up().map_err(|source| EndpointError::Socket { channel, source })
    }

    /// A socket for engines.
    fn engines_socket(&self, kind: Kind, channel: &'static str) -> Result<Socket, EndpointError> {
        let mut socket = self.socket(kind, channel)?;
        match channel {
            "task" | "mux" | "broadcast" => {}
            // One message at a time, as a rule.
            "iopub" | "registration" => socket.set_batch_size(SINGLE_BATCH),
            _ => socket.set_batch_size(RARE_BATCH),
        }
        Ok(socket)
    }

    /// A router whose routing id engines put before their answers: their one shell socket is connected to several.
    fn engines_router(
        &mut self,
        channel: &'static str,
        port: u16,
    ) -> Result<(Socket, u16), EndpointError> {
        let socket = self.engines_socket(Kind::Router, channel)?;
        let set_up = || {
            socket.set_identity(format!("{channel}_out").as_bytes())?;
            socket.set_mandatory()?;
            socket.set_handover()
        };
        set_up().map_err(|source| EndpointError::Socket { channel, source })?;
        let port = self.bind(&socket, Side::Engine, channel, port)?;
        Ok((socket, port))
    }

    fn clients_router(
        &mut self,
        channel: &'static str,
        port: u16,
    ) -> Result<(Socket, u16), EndpointError> {
        let socket = self.socket(Kind::Router, channel)?;
        socket
            .set_high_water_marks(0, REQUEST_BACKLOG)
            .map_err(|source| EndpointError::Socket { channel, source })?;
        let port = self.bind(&socket, Side::Client, channel, port)?;
        Ok((socket, port))
    }

    fn publisher(
        &mut self,
        channel: &'static str,
        port: u16,
        backlog: i32,
    ) -> Result<(Socket, u16), EndpointError> {
        let socket = self.socket(Kind::XPub, channel)?;
        let set_up = || {
            socket.set_high_water_marks(backlog, 0)?;
            socket.set_max_message_size(SMALL_MESSAGE)?;
            socket.set_verbose()
        };
        set_up().map_err(|source| EndpointError::Socket { channel, source })?;
        let port = self.bind(&socket, Side::Client, channel, port)?;
        Ok((socket, port))
    }

    fn iopub_engines(&mut self, port: u16) -> Result<(Socket, u16), EndpointError> {
        let socket = self.engines_socket(Kind::Sub, "iopub")?;
        let set_up = || {
            socket.set_high_water_marks(0, OUTPUT_BACKLOG)?;
            socket.subscribe_to_all()
        };
        set_up().map_err(|source| EndpointError::Socket {
            channel: "iopub",
            source,
        })?;
        let port = self.bind(&socket, Side::Engine, "iopub", port)?;
        Ok((socket, port))
    }

    fn ping(&mut self, port: u16) -> Result<(Socket, u16), EndpointError> {
        let socket = self.engines_socket(Kind::XPub, "hb_ping")?;
        let set_up = || {
            socket.set_max_message_size(SMALL_MESSAGE)?;
            socket.set_verbose()
        };
        set_up().map_err(|source| EndpointError::Socket {
            channel: "hb_ping",
            source,
        })?;
        let port = self.bind(&socket, Side::Engine, "hb_ping", port)?;
        Ok((socket, port))
    }

    fn pong(&mut self, port: u16) -> Result<(Socket, u16), EndpointError> {
        let socket = self.engines_socket(Kind::Router, "hb_pong")?;
        let set_up = || {
            socket.set_max_message_size(SMALL_MESSAGE)?;
            socket.set_handover()
        };
        set_up().map_err(|source| EndpointError::Socket {
            channel: "hb_pong",
            source,
        })?;
        let port = self.bind(&socket, Side::Engine, "hb_pong", port)?;
        Ok((socket, port))
    }

    /// Engines and clients use the same registration port, on both interfaces where they differ.
    fn bind_registration(&mut self, socket: &Socket, fixed: u16) -> Result<u16, EndpointError> {
        let port = self.bind(socket, Side::Engine, "registration", fixed)?;
        let (client, engine) = (&self.config.client_interface, &self.config.engine_interface);
        if client != engine {
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
        // What libzmq makes of a name that it cannot resolve.
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
