//! Where `ipcluster top` hears what the cluster does.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cli::Failure;
use crate::cli::target::Controller;
use crate::cli::watched::{Watched, state_of_hub};
use crate::hubclient::{HubClient, Notification};
use crate::web::{Events, VisitError};

/// Of whom it is heard what the cluster does.
pub(super) enum Source {
    Events(Events),
    /// Told by a thread, since a hub's client waits for its answers.
    Hub(UnboundedReceiver<Result<Value, Failure>>),
}

impl Source {
    pub(super) async fn open(
        watched: Watched,
        controller: Controller,
        pause: Duration,
    ) -> Result<Self, Failure> {
        Ok(match watched {
            Watched::Dashboard(visit) => Self::Events(visit.events().await?),
            Watched::Hub(mut client) => {
                let (told, hears) = unbounded_channel();
                std::thread::Builder::new()
                    .name("hub".to_owned())
                    .spawn(move || {
                        if let Err(failure) =
                            tell(&mut client, || controller.has_ended(), pause, &told)
                        {
                            // Nobody hears it when this has ended.
                            let _ = told.send(Err(failure));
                        }
                    })?;
                Self::Hub(hears)
            }
        })
    }

    /// Nothing when the cluster has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Value>, Failure> {
        match self {
            Self::Events(events) => match events.next().await {
                Ok(event) => Ok(Some(event)),
                Err(VisitError::Ended { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::Hub(hears) => hears.recv().await.transpose(),
        }
    }
}

/// Tells the hub's figures, with pauses, until the cluster has ended or nobody listens. `has_ended` is asked when the hub
/// cannot be.
fn tell(
    client: &mut HubClient,
    has_ended: impl Fn() -> bool,
    pause: Duration,
    told: &UnboundedSender<Result<Value, Failure>>,
) -> Result<(), Failure> {
    loop {
        let state = match state_of_hub(client) {
            Ok(state) => state,
            Err(failure) => match news(client, Duration::ZERO)? {
                News::End => return Ok(()),
                News::Break | News::None if has_ended() => return Ok(()),
                // It was lost with the connection, which is made again.
                News::Break => continue,
                News::None => return Err(failure),
            },
        };
        if told.send(Ok(state)).is_err() {
            return Ok(());
        }
        match news(client, pause)? {
            News::None => {}
            // A hub that was sent a signal says no farewell. If it is there still, it answers.
            News::Break if !has_ended() => {}
            News::Break | News::End => return Ok(()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    None,
    /// The connection was lost.
    Break,
    /// The hub has said that it ends.
    End,
}

/// Lets the pause pass, unless there is news of the hub.
fn news(client: &mut HubClient, pause: Duration) -> Result<News, Failure> {
    let until = Instant::now() + pause;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match client.next_notification(left)? {
            Some(Notification::Shutdown) => return Ok(News::End),
            Some(Notification::Disconnected) => return Ok(News::Break),
            Some(Notification::Registered(_) | Notification::Left(_)) => {}
            None => return Ok(News::None),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hubclient::tests::hub_and_client;

    /// What a thread tells that asks this client's hub.
    fn telling(
        mut client: HubClient,
        has_ended: bool,
    ) -> UnboundedReceiver<Result<Value, Failure>> {
        let (told, hears) = unbounded_channel();
        std::thread::spawn(move || {
            if let Err(failure) = tell(&mut client, || has_ended, Duration::from_secs(60), &told) {
                let _ = told.send(Err(failure));
            }
        });
        hears
    }

    fn running(reply: Option<Result<Value, Failure>>) -> u64 {
        let state = reply.unwrap().unwrap();
        state["totals"]["all"]["running"].as_u64().unwrap()
    }

    #[test]
    fn a_connection_that_breaks_is_not_the_end() {
        let (mut hub, client) = hub_and_client();
        let mut hears = telling(client, false);
        hub.await_subscription();
        hub.answer(&[json!({"status": "ok", "0": {"tasks": 1}})]);
        assert_eq!(running(hears.blocking_recv()), 1);
        let mut hub = hub.with_broken_queries();
        // It is asked at once.
        hub.answer(&[json!({"status": "ok", "0": {"tasks": 2}})]);
        assert_eq!(running(hears.blocking_recv()), 2);
        hub.publish("shutdown_notification", json!({"status": "ok"}));
        assert!(hears.blocking_recv().is_none());
    }

    #[test]
    fn a_connection_that_breaks_may_be_the_end() {
        let (mut hub, client) = hub_and_client();
        let mut hears = telling(client, true);
        hub.answer(&[json!({"status": "ok", "0": {"tasks": 1}})]);
        assert_eq!(running(hears.blocking_recv()), 1);
        drop(hub);
        assert!(hears.blocking_recv().is_none());
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let (mut hub, client) = hub_and_client();
        let mut hears = telling(client, false);
        hub.answer(&[json!({"status": "error", "ename": "ValueError", "evalue": "no"})]);
        let failure = hears.blocking_recv().unwrap().unwrap_err();
        let message = failure.message().unwrap();
        assert!(message.contains("ValueError: no"), "{message}");
        assert!(hears.blocking_recv().is_none());
    }
}
