//! A thread that listens to the hub: ZeroMQ's sockets belong to one thread each, and tokio never polls them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::hub_file::HubFile;
use crate::hubclient::{HubClient, HubError, Notification, Status};
use crate::profile::ClientFile;
use crate::protocol::EngineId;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum HubEvent {
    /// The first answer: who is there.
    There(Vec<EngineId>),
    Registered(EngineId),
    Left(EngineId),
    /// Everything, as it is at this moment; for elastic clusters.
    Looked(Status),
    /// The controller has ended, and is not expected back.
    Ended,
    Failed(String),
}

/// The hub of a controller that runs answers within milliseconds.
const ANSWER: Duration = Duration::from_secs(10);

/// A notification could be lost, if only by the network: so often is the hub asked anew.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// While the controller is away: so long is it waited for before a look at its connection file.
const RETURN: Duration = Duration::from_millis(500);

/// Starts listening to the hub of `file`, which is what was read from `source`. The thread ends when nobody hears it any more,
/// or with the process.
pub(super) fn watch(
    source: HubFile,
    file: ClientFile,
    events: UnboundedSender<HubEvent>,
) -> Result<(), String> {
    let watch = Watch {
        source,
        file,
        known: BTreeSet::new(),
        events,
    };
    std::thread::Builder::new()
        .name("hub-watch".to_owned())
        .spawn(move || watch.run())
        .map(drop)
        .map_err(|error| error.to_string())
}

struct Watch {
    source: HubFile,
    file: ClientFile,
    known: BTreeSet<EngineId>,
    events: UnboundedSender<HubEvent>,
}

impl Watch {
    fn run(mut self) {
        if let Err(error) = self.listen() {
            self.tell(HubEvent::Failed(error.to_string()));
        }
    }

    /// False when nobody hears it any more.
    fn tell(&self, event: HubEvent) -> bool {
        self.events.send(event).is_ok()
    }

    fn listen(&mut self) -> Result<(), HubError> {
        let mut hub = HubClient::connect(self.file.clone())?;
        let there = hub.engines(ANSWER)?;
        self.known = there.iter().copied().collect();
        let mut open = self.tell(HubEvent::There(there));
        while open {
            open = match hub.next_notification(ASK_AGAIN)? {
                Some(Notification::Registered(engine)) => {
                    self.known.insert(engine);
                    self.tell(HubEvent::Registered(engine))
                }
                Some(Notification::Left(engine)) => {
                    self.known.remove(&engine);
                    self.tell(HubEvent::Left(engine))
                }
                Some(Notification::Shutdown) => self.tell(HubEvent::Ended),
                Some(Notification::Disconnected) => self.on_disconnected(&mut hub),
                // A controller that is busy need not answer at once.
                None => match hub.engines(ANSWER) {
                    Ok(there) => self.compare(there),
                    Err(_) => !self.events.is_closed(),
                },
            };
        }
        Ok(())
    }

    /// The controller may come back on the same ports; as long as it can, its connection file is there.
    fn on_disconnected(&mut self, hub: &mut HubClient) -> bool {
        loop {
            if let Ok(there) = hub.engines(RETURN) {
                return self.compare(there);
            }
            if !self.source.read().is_ok_and(|file| file == self.file) {
                return self.tell(HubEvent::Ended);
            }
            if self.events.is_closed() {
                return false;
            }
        }
    }

    /// Tells what has changed meanwhile.
    fn compare(&mut self, there: Vec<EngineId>) -> bool {
        let there: BTreeSet<EngineId> = there.into_iter().collect();
        let mut open = !self.events.is_closed();
        for engine in there.difference(&self.known) {
            open &= self.tell(HubEvent::Registered(*engine));
        }
        for engine in self.known.difference(&there) {
            open &= self.tell(HubEvent::Left(*engine));
        }
        self.known = there;
        open
    }
}
