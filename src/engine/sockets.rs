//! An engine's connections to the controller.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use crate::profile::connection::{Channel, EngineFile};
use crate::protocol::{EngineId, EngineUuid, Identity};
use crate::transport::{
    ConnectionEvent, ConnectionId, Context, Frame, Kind, Monitor, Socket, drain,
};

/// Unsent replies have this long to leave when an engine ends.
const LINGER: Duration = Duration::from_millis(300);

/// The connection over which an engine registers.
pub(super) struct Registrar {
    pub(super) socket: Socket,
    pub(super) monitor: Monitor,
    state: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Fresh,
    There,
    Lost,
}

/// What has happened to the connection to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControllerNews {
    Lost,
    /// It can be reached again; it may be another one, which knows nothing of this engine.
    Back,
}

impl Registrar {
    pub(super) fn connect(
        context: &Context,
        uuid: &EngineUuid,
        connection: &EngineFile,
    ) -> io::Result<Self> {
        let socket = context.socket(Kind::Dealer)?;
        socket.set_linger(LINGER);
        socket.set_identity(uuid.as_str().as_bytes());
        let monitor = Monitor::new(&socket);
        socket.connect(&url(connection.url(Channel::Registration), "registration")?)?;
        Ok(Self {
            socket,
            monitor,
            state: Connection::Fresh,
        })
    }

    pub(super) fn news(&mut self) -> Option<ControllerNews> {
        let before = self.state;
        while let Some(event) = self.monitor.receive() {
            self.state = match event {
                ConnectionEvent::Established(_) => Connection::There,
                ConnectionEvent::Ended(_) => Connection::Lost,
            };
        }
        match (before, self.state) {
            (Connection::There, Connection::Lost) => Some(ControllerNews::Lost),
            (Connection::Lost, Connection::There) => Some(ControllerNews::Back),
            _ => None,
        }
    }
}

fn url(url: Option<String>, channel: &str) -> io::Result<String> {
    url.ok_or_else(|| io::Error::other(format!("the connection file names no port for {channel}")))
}

/// What was answered to a queue after its connection broke and before it was there again: it is sent then.
struct Kept {
    is_away: bool,
    msg_ids: Vec<String>,
}

/// With the names of the queues at the other ends.
type Connections = HashMap<ConnectionId, Option<Identity>>;

/// The sockets of a registered engine.
pub(super) struct EngineSockets {
    /// Requests of the mux, task and broadcast queues: each puts its own routing id before a request.
    pub(super) shell: Socket,
    pub(super) control: Socket,
    pub(super) iopub: Socket,
    pub(super) shell_monitor: Monitor,
    pub(super) control_monitor: Monitor,
    /// How many queues the shell socket is connected to.
    shell_queues: usize,
    shell_connections: Connections,
    control_connections: Connections,
    /// Of queues whose connections have broken.
    kept: HashMap<Identity, Kept>,
    has_subscriber: bool,
    /// Queues that were connected before.
    met: HashSet<Identity>,
}

impl EngineSockets {
    pub(super) fn connect(
        context: &Context,
        uuid: &EngineUuid,
        id: EngineId,
        connection: &EngineFile,
    ) -> io::Result<Self> {
        let identity = uuid.as_str().as_bytes();
        let shell = router(context, identity)?;
        let shell_monitor = Monitor::new(&shell);
        shell.connect(&url(connection.url(Channel::Mux), "mux")?)?;
        shell.connect(&url(connection.url(Channel::Task), "task")?)?;
        let mut shell_queues = 2;
        // A controller of ipyparallel 6 knows no broadcasts.
        if let Some(broadcasts) = connection.broadcast_url(id.0) {
            shell.connect(&broadcasts)?;
            shell_queues += 1;
        }
        let control = router(context, identity)?;
        let control_monitor = Monitor::new(&control);
        control.connect(&url(connection.url(Channel::Control), "control")?)?;
        // An XPUB tells when the controller listens: what is published earlier is lost.
        let iopub = context.socket(Kind::XPub)?;
        iopub.set_linger(LINGER);
        iopub.connect(&url(connection.url(Channel::Iopub), "iopub")?)?;
        Ok(Self {
            shell,
            control,
            iopub,
            shell_monitor,
            control_monitor,
            shell_queues,
            shell_connections: Connections::new(),
            control_connections: Connections::new(),
            kept: HashMap::new(),
            has_subscriber: false,
            met: HashSet::new(),
        })
    }

    /// Takes note of connections that have come or gone. Returns the queues whose connections broke and are there again.
    pub(super) fn receive_news(&mut self, frames: &mut Vec<Frame>) -> Vec<Identity> {
        let mut here = Vec::new();
        let kept = &mut self.kept;
        let mut note = |monitor: &mut Monitor, connections: &mut Connections| {
            while let Some((event, queue)) = monitor.receive_named() {
                match event {
                    ConnectionEvent::Established(connection) => {
                        connections.insert(connection, queue.clone());
                        if let Some(kept) = queue.as_ref().and_then(|it| kept.get_mut(it)) {
                            kept.is_away = false;
                        }
                        here.extend(queue);
                    }
                    ConnectionEvent::Ended(connection) => {
                        if let Some(Some(queue)) = connections.remove(&connection) {
                            let is_away = !connections.values().flatten().any(|it| *it == queue);
                            let msg_ids = Vec::new();
                            kept.insert(queue, Kept { is_away, msg_ids });
                        }
                    }
                }
            }
        };
        note(&mut self.shell_monitor, &mut self.shell_connections);
        note(&mut self.control_monitor, &mut self.control_connections);
        let has_subscriber = &mut self.has_subscriber;
        drain(&mut self.iopub, frames, |_, frames| {
            *has_subscriber |= frames
                .first()
                .is_some_and(|frame| frame.first() == Some(&1));
        });
        here.retain(|queue| !self.met.insert(queue.clone()));
        here
    }

    /// Every message of this engine and to it would arrive.
    pub(super) fn all_connected(&self) -> bool {
        self.shell_connections.len() >= self.shell_queues
            && !self.control_connections.is_empty()
            && self.has_subscriber
    }

    /// A request of this queue is answered.
    pub(super) fn note_answer(&mut self, queue: &[u8], msg_id: &str) {
        if let Some(kept) = self.kept.get_mut(queue).filter(|kept| kept.is_away) {
            kept.msg_ids.push(msg_id.to_owned());
        }
    }

    /// The requests to which the answers arrive when a connection is there again, or have arrived since.
    pub(super) fn kept(&self) -> impl Iterator<Item = &String> {
        self.kept.values().flat_map(|kept| &kept.msg_ids)
    }
}

/// A socket on which requests come and are answered.
pub(super) fn router(context: &Context, identity: &[u8]) -> io::Result<Socket> {
    let socket = context.socket(Kind::Router)?;
    socket.set_linger(LINGER);
    socket.set_identity(identity);
    // A reply for which the controller's queue is not connected at the moment is kept, not dropped.
    socket.set_mandatory();
    Ok(socket)
}
