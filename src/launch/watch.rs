//! A thread that listens to the hub: ZeroMQ's sockets belong to one thread each, and tokio never polls them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::hubclient::{HubClient, HubError, Notification};
use crate::profile::ClientFile;
use crate::protocol::EngineId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HubEvent {
    /// The first answer: who is there.
    There(Vec<EngineId>),
    Registered(EngineId),
    Left(EngineId),
    Shutdown,
    Failed(String),
}

/// The hub of a controller that runs answers within milliseconds.
const ANSWER: Duration = Duration::from_secs(10);

/// A notification could be lost, if only by the network: so often is the hub asked anew.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Starts listening. The thread ends when nobody hears it any more, or with the process.
pub(super) fn watch(file: ClientFile, events: UnboundedSender<HubEvent>) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("hub-watch".to_owned())
        .spawn(move || {
            if let Err(error) = listen(file, &events) {
                let _ = events.send(HubEvent::Failed(error.to_string()));
            }
        })
        .map(drop)
}

fn listen(file: ClientFile, events: &UnboundedSender<HubEvent>) -> Result<(), HubError> {
    let mut hub = HubClient::connect(file)?;
    let there = hub.engines(ANSWER)?;
    let mut known: BTreeSet<EngineId> = there.iter().copied().collect();
    let mut open = events.send(HubEvent::There(there)).is_ok();
    while open {
        match hub.next_notification(ASK_AGAIN)? {
            Some(Notification::Registered(engine)) => {
                known.insert(engine);
                open = events.send(HubEvent::Registered(engine)).is_ok();
            }
            Some(Notification::Left(engine)) => {
                known.remove(&engine);
                open = events.send(HubEvent::Left(engine)).is_ok();
            }
            Some(Notification::Shutdown) => {
                open = events.send(HubEvent::Shutdown).is_ok();
            }
            None if events.is_closed() => return Ok(()),
            None => {
                // A controller that is busy or about to end need not answer; its process is watched by itself.
                let Ok(there) = hub.engines(ANSWER) else {
                    continue;
                };
                let there: BTreeSet<EngineId> = there.into_iter().collect();
                for engine in there.difference(&known) {
                    open &= events.send(HubEvent::Registered(*engine)).is_ok();
                }
                for engine in known.difference(&there) {
                    open &= events.send(HubEvent::Left(*engine)).is_ok();
                }
                known = there;
            }
        }
    }
    Ok(())
}
