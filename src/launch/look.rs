//! A thread that looks at the queue of an elastic cluster, again and again, and asks engines to end that are not needed.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::watch::HubEvent;
use crate::hubclient::{Answer, HubClient, HubError, ShutDown, Status};
use crate::profile::ClientFile;
use crate::protocol::{EngineId, EngineUuid};

/// Between two looks. A look costs the controller some microseconds for each engine.
const PERIOD: Duration = Duration::from_millis(500);

/// A hub that runs answers within milliseconds.
const ANSWER: Duration = Duration::from_secs(5);

/// Starts looking. Each message on `leave` names engines that are to end. The thread ends when its sender is dropped, or
/// nobody hears it any more.
pub(super) fn look(
    file: ClientFile,
    leave: Receiver<Vec<EngineId>>,
    events: UnboundedSender<HubEvent>,
) -> Result<(), String> {
    std::thread::Builder::new()
        .name("hub-look".to_owned())
        .spawn(move || {
            if let Err(error) = go_on(file, &leave, &events) {
                let _ = events.send(HubEvent::Failed(error.to_string()));
            }
        })
        .map(drop)
        .map_err(|error| error.to_string())
}

fn go_on(
    file: ClientFile,
    leave: &Receiver<Vec<EngineId>>,
    events: &UnboundedSender<HubEvent>,
) -> Result<(), HubError> {
    let mut hub = HubClient::connect(file)?;
    let mut last = Status::default();
    loop {
        match hub.status(ANSWER) {
            Ok(status) => {
                last = status.clone();
                if events.send(HubEvent::Looked(status)).is_err() {
                    return Ok(());
                }
            }
            // It may be away for a while, or very busy.
            Err(HubError::TimedOut { .. } | HubError::Lost { .. }) if !events.is_closed() => {}
            Err(error) => return Err(error),
        }
        match leave.recv_timeout(PERIOD) {
            Ok(engines) => retire(&mut hub, &last, &engines),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn retire(hub: &mut HubClient, last: &Status, engines: &[EngineId]) {
    let known = engines.iter().filter_map(|id| last.engines.get(id));
    let uuids: Vec<EngineUuid> = known.map(|engine| engine.uuid.clone()).collect();
    match hub.shut_down(&uuids, ShutDown::IfIdle, ANSWER) {
        Ok(answers) => {
            for (uuid, answer) in answers {
                if let Answer::Refuses(why) = answer {
                    tracing::debug!("engine {} stays: {why}", uuid.as_str());
                }
            }
        }
        // The next look finds them idle still.
        Err(error) => tracing::warn!("engines cannot be asked to end: {error}"),
    }
}
