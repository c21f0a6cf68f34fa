//! Asking engines to end.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::{HubClient, HubError, endpoint};
use crate::profile::connection::Channel;
use crate::protocol::{EngineUuid, Header, Outgoing, Timestamp, Wire};
use crate::transport::{Frame, Kind};

/// How an engine is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutDown {
    /// Whatever it does.
    Now,
    /// Only if it has nothing to do. Engines of ours alone know of this.
    IfIdle,
    /// And come back with a fresh kernel. Engines of ours alone know of this.
    AndComeBack,
}

/// What an engine says to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Ends,
    Refuses(String),
    /// Nothing within the time.
    Silent,
}

impl HubClient {
    /// Asks engines to end, by their control channel, and waits for their answers; not for their ends.
    pub fn shut_down(
        &mut self,
        engines: &[EngineUuid],
        how: ShutDown,
        timeout: Duration,
    ) -> Result<BTreeMap<EngineUuid, Answer>, HubError> {
        let deadline = Instant::now() + timeout;
        let content = json!({
            "restart": how == ShutDown::AndComeBack,
            "if_idle": how == ShutDown::IfIdle,
        });
        let mut control = self
            .context
            .socket(Kind::Dealer)
            .and_then(|socket| {
                socket.connect(&endpoint(&self.file, Channel::Control))?;
                Ok(socket)
            })
            .map_err(|error| self.failed(error))?;
        let mut asked = BTreeMap::new();
        for engine in engines {
            let now = Timestamp::from(SystemTime::now());
            let message = Outgoing::new("shutdown_request", content.clone());
            let message = self.composer.compose(&message, now);
            let header = Header::parse(&message[2]).map_err(|error| self.malformed(error))?;
            asked.insert(header.msg_id.into_owned(), engine.clone());
            let mut frames: Vec<Frame> = vec![Frame::from(engine.as_str().as_bytes())];
            frames.extend(message.into_iter().map(Frame::from));
            control
                .send(&mut frames)
                .map_err(|error| self.failed(io::Error::other(error)))?;
        }
        let silent = engines
            .iter()
            .map(|engine| (engine.clone(), Answer::Silent));
        let mut answers: BTreeMap<EngineUuid, Answer> = silent.collect();
        let mut frames = Vec::new();
        while !asked.is_empty() {
            while control.receive(&mut frames) {
                if let Some((parent, content)) = self.signed(&frames)
                    && let Some(engine) = asked.remove(&parent)
                {
                    answers.insert(engine, answer(&content));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || asked.is_empty() {
                break;
            }
            let mut poller = self.background();
            poller.add_socket(&mut control);
            poller
                .wait(Some(left))
                .map_err(|error| self.failed(error))?;
        }
        Ok(answers)
    }

    /// A message's parent id and content, if it is rightly signed.
    fn signed(&self, frames: &[Frame]) -> Option<(String, Value)> {
        let wire = Wire::parse(frames).ok()?;
        wire.verify(self.composer.signer()).ok()?;
        let parent = Header::parse_parent(wire.parent_header()).ok()??;
        let content = serde_json::from_slice(wire.content()).ok()?;
        Some((parent.msg_id.into_owned(), content))
    }
}

fn answer(content: &Value) -> Answer {
    if content["status"] == "ok" {
        return Answer::Ends;
    }
    let why = content["evalue"].as_str().unwrap_or("it does not say why");
    Answer::Refuses(why.to_owned())
}
