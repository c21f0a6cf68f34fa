//! A client of a controller's hub: it asks questions and hears of engines that come and go.
//!
//! Synchronous, for a thread of its own or for a command that waits for its answer. Everything that it sends is signed,
//! and what it receives counts only if it is.

mod control;
mod status;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use uuid::Uuid;

use crate::os::user;
use crate::profile::connection::{Channel, ClientFile};
use crate::protocol::{Composer, EngineId, Header, Outgoing, Signer, Timestamp, Wire};
use crate::transport::{
    ConnectionEvent, Context, Frame, KeyPair, Kind, Monitor, Poller, Security, ServerKey, Socket,
};

pub use control::{Answer, ShutDown};
pub use status::{ControllerStatus, EngineState, EngineStatus, Status};

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum HubError {
    #[error(
        "the controller at {url} did not answer within {seconds:.1} s: is it still running? `ipcluster list` shows what \
         is, and `ipcluster clean` removes connection files that are left over"
    )]
    TimedOut { url: String, seconds: f64 },
    #[error(
        "the connection to the controller at {url} was lost while it was asked: it has ended, or the network is down"
    )]
    Lost { url: String },
    #[error("the controller at {url} refused the question: {ename}: {evalue}")]
    Refused {
        url: String,
        ename: String,
        evalue: String,
    },
    #[error("the controller at {url} gave an answer that is none: {reason}")]
    Malformed { url: String, reason: String },
    #[error("the controller's CURVE key in the connection file is none")]
    Curve,
    #[error("cannot connect to the controller at {url}: {source}")]
    System { url: String, source: io::Error },
}

/// What the hub tells all its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    Registered(EngineId),
    Left(EngineId),
    /// The controller ends.
    Shutdown,
    /// The connection was lost: the controller has ended, or the network is down. ZeroMQ connects again by itself.
    Disconnected,
}

/// A connection to a hub.
pub struct HubClient {
    url: String,
    file: ClientFile,
    queries: Socket,
    notifications: Socket,
    connections: Monitor,
    /// The connection was lost, and nobody has heard of it yet.
    is_lost: bool,
    composer: Composer,
    frames: Vec<Frame>,
    context: Context,
}

impl HubClient {
    /// Begins to connect. Whether anybody listens shows the first request.
    pub fn connect(file: ClientFile) -> Result<Self, HubError> {
        let security = match &file.common.curve_serverkey {
            None => Security::Null,
            Some(key) => Security::Client {
                server: ServerKey::parse(key).ok_or(HubError::Curve)?,
                keys: Arc::new(KeyPair::generate()),
            },
        };
        let file = file.connectable();
        let registration = endpoint(&file, Channel::Registration);
        let notification = endpoint(&file, Channel::Notification);
        let context = Context::secured(security);
        let opened = open(&context, &registration, &notification);
        let (queries, notifications, connections) = opened.map_err(|source| HubError::System {
            url: registration.clone(),
            source,
        })?;
        let composer = Composer::new(
            Uuid::new_v4().to_string(),
            user::name(),
            std::process::id(),
            Signer::new(file.common.key.as_bytes()),
        );
        Ok(Self {
            url: registration,
            file,
            queries,
            notifications,
            connections,
            is_lost: false,
            composer,
            frames: Vec::new(),
            context,
        })
    }

    /// Asks, and waits for the answer: the content of the reply.
    pub fn request(
        &mut self,
        msg_type: &str,
        content: Value,
        timeout: Duration,
    ) -> Result<Value, HubError> {
        let deadline = Instant::now() + timeout;
        let now = Timestamp::from(SystemTime::now());
        let message = self
            .composer
            .compose(&Outgoing::new(msg_type, content), now);
        let asked = Header::parse(&message[2])
            .map(|header| header.msg_id.into_owned())
            .map_err(|error| self.malformed(error))?;
        let mut frames = message.into_iter().map(Frame::from).collect();
        // What is sent now goes by another connection than one that was lost before.
        self.loses_connection();
        if let Err(error) = self.queries.send(&mut frames) {
            return Err(self.failed(io::Error::other(error)));
        }
        loop {
            while self.queries.receive(&mut self.frames) {
                if let Some(content) = self.answer_to(&asked) {
                    return self.content_of_reply(content);
                }
            }
            // Neither question nor answer is sent again.
            if self.loses_connection() {
                return Err(HubError::Lost {
                    url: self.url.clone(),
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HubError::TimedOut {
                    url: self.url.clone(),
                    seconds: timeout.as_secs_f64(),
                });
            }
            let mut poller = self.background();
            poller.add_socket(&mut self.queries);
            poller
                .wait(Some(left))
                .map_err(|error| self.failed(error))?;
        }
    }

    /// Has notifications come, for later, while something else is waited for: a subscription that is made afterwards misses
    /// what the answer brings about.
    fn background(&mut self) -> Poller {
        let mut poller = Poller::new();
        let notifications = poller.add_socket(&mut self.notifications);
        poller.want_read(notifications, false);
        poller
    }

    /// The buffers that came with the last answer.
    pub fn buffers(&self) -> Vec<Frame> {
        Wire::parse(&self.frames).map_or_else(|_| Vec::new(), |wire| wire.buffers().to_vec())
    }

    /// The engines that a client which connects now would see.
    pub fn engines(&mut self, timeout: Duration) -> Result<Vec<EngineId>, HubError> {
        #[derive(Deserialize)]
        struct Reply {
            engines: BTreeMap<String, Value>,
        }
        let content = self.request("connection_request", json!({}), timeout)?;
        let reply: Reply =
            serde_json::from_value(content).map_err(|error| self.malformed(error))?;
        let mut engines = reply
            .engines
            .keys()
            .map(|id| {
                id.parse()
                    .map(EngineId)
                    .map_err(|error| self.malformed(error))
            })
            .collect::<Result<Vec<_>, _>>()?;
        engines.sort_unstable();
        Ok(engines)
    }

    /// The next notification, or nothing after `timeout`. The hub may repeat what it said a moment ago.
    pub fn next_notification(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<Notification>, HubError> {
        let deadline = Instant::now() + timeout;
        loop {
            while self.notifications.receive(&mut self.frames) {
                if let Some(notification) = self.notification() {
                    return Ok(Some(notification));
                }
            }
            self.loses_connection();
            if std::mem::take(&mut self.is_lost) {
                return Ok(Some(Notification::Disconnected));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut poller = Poller::new();
            poller.add_socket(&mut self.notifications);
            poller.add_socket(&mut self.queries);
            poller
                .wait(Some(left))
                .map_err(|error| self.failed(error))?;
        }
    }

    /// Has it been lost since this was asked? The next notification says so, too.
    fn loses_connection(&mut self) -> bool {
        let mut loses = false;
        while let Some(event) = self.connections.receive() {
            loses |= matches!(event, ConnectionEvent::Ended(_));
        }
        self.is_lost |= loses;
        loses
    }

    /// The content of the message in `frames`, if it is rightly signed and answers the message `asked`.
    fn answer_to(&self, asked: &str) -> Option<Vec<u8>> {
        let wire = Wire::parse(&self.frames).ok()?;
        wire.verify(self.composer.signer()).ok()?;
        let parent = Header::parse_parent(wire.parent_header()).ok()??;
        (parent.msg_id == asked).then(|| wire.content().to_vec())
    }

    fn content_of_reply(&self, content: Vec<u8>) -> Result<Value, HubError> {
        let content: Value =
            serde_json::from_slice(&content).map_err(|error| self.malformed(error))?;
        if content.get("status").and_then(Value::as_str) != Some("error") {
            return Ok(content);
        }
        let text = |key| {
            let text = content.get(key).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        Err(HubError::Refused {
            url: self.url.clone(),
            ename: text("ename"),
            evalue: text("evalue"),
        })
    }

    /// What the message in `frames` says; nothing if it is not signed, or of a kind that is not known.
    fn notification(&self) -> Option<Notification> {
        #[derive(Deserialize)]
        struct Content {
            id: EngineId,
        }
        let wire = Wire::parse(&self.frames).ok()?;
        wire.verify(self.composer.signer()).ok()?;
        let header = Header::parse(wire.header()).ok()?;
        let id = || {
            serde_json::from_slice(wire.content())
                .ok()
                .map(|content: Content| content.id)
        };
        match &*header.msg_type {
            "registration_notification" => Some(Notification::Registered(id()?)),
            "unregistration_notification" => Some(Notification::Left(id()?)),
            "shutdown_notification" => Some(Notification::Shutdown),
            _ => None,
        }
    }

    fn failed(&self, source: io::Error) -> HubError {
        HubError::System {
            url: self.url.clone(),
            source,
        }
    }

    fn malformed(&self, reason: impl std::fmt::Display) -> HubError {
        HubError::Malformed {
            url: self.url.clone(),
            reason: reason.to_string(),
        }
    }
}

fn endpoint(file: &ClientFile, channel: Channel) -> String {
    file.url(channel)
        .expect("clients have the channels of the hub")
}

fn open(
    context: &Context,
    registration: &str,
    notification: &str,
) -> io::Result<(Socket, Socket, Monitor)> {
    let notifications = context.socket(Kind::Sub)?;
    notifications.connect(notification)?;
    let queries = context.socket(Kind::Dealer)?;
    let connections = Monitor::new(&queries);
    queries.connect(registration)?;
    Ok((queries, notifications, connections))
}

#[cfg(test)]
#[path = "tests.rs"]
pub(crate) mod tests;
