//! A thread that tells the hub which engines are to come. What it cannot tell is not shown, and harms nothing.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::hubclient::{HubClient, HubError};
use crate::profile::ClientFile;
use crate::protocol::ExpectedSet;

/// A hub forgets what was announced and not repeated: whoever starts engines may vanish.
const REPEAT: Duration = Duration::from_secs(20);

/// A hub that runs answers within milliseconds.
const ANSWER: Duration = Duration::from_secs(5);

/// Starts telling. Each message on `expected` is the whole list; the thread ends when its sender is dropped, or nobody is to
/// see it.
pub(super) fn announce(file: ClientFile, expected: Receiver<Vec<ExpectedSet>>) {
    let started = std::thread::Builder::new()
        .name("hub-announce".to_owned())
        .spawn(move || {
            if let Err(error) = go_on(file, &expected) {
                tracing::debug!("the hub is not told which engines are to come: {error}");
            }
        });
    if let Err(error) = started {
        tracing::debug!("the hub is not told which engines are to come: {error}");
    }
}

fn go_on(file: ClientFile, expected: &Receiver<Vec<ExpectedSet>>) -> Result<(), HubError> {
    let mut hub = HubClient::connect(file)?;
    let by = Uuid::new_v4().to_string();
    let mut sets = Vec::new();
    loop {
        match expected.recv_timeout(REPEAT) {
            Ok(newer) => sets = newer,
            Err(RecvTimeoutError::Timeout) if sets.is_empty() => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        // Only the last one counts.
        if let Some(newest) = expected.try_iter().last() {
            sets = newest;
        }
        let content = json!({ "by": by, "sets": sets });
        match hub.request("engines_expected", content, ANSWER) {
            // There is no page, and none comes while the controller runs.
            Ok(reply) if reply["shown"] == false => return Ok(()),
            // It may be away for a while, or very busy.
            Ok(_) | Err(HubError::TimedOut { .. } | HubError::Lost { .. }) => {}
            // ipyparallel's hub knows no such request.
            Err(error) => return Err(error),
        }
    }
}
