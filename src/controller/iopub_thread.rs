//! Output of engines, relayed to every client.
//!
//! A client subscribes just before its first request. The request goes another way, and its output would sometimes be
//! here before the subscription is; so output is held back for a moment when a client comes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::controller::endpoints::SocketPair;
use crate::controller::lookout::OutputTap;
use crate::controller::mail::{HubMail, SchedulerMail};
use crate::controller::recorder_thread::{Reporter, stored};
use crate::hub::recorder::Traffic;
use crate::protocol::{Header, Leaving};
use crate::transport::{Door, Frame, Mailbox, Poller, Sender, Socket, drain, time_left};

/// As long as a client's subscription is waited for. It takes a few milliseconds, unless the client wants no output.
const HOLD: Duration = Duration::from_millis(100);

/// How long output may be held in all, however many clients come; time in which it flows counts in its favour.
const ALLOWANCE: Duration = Duration::from_secs(1);

pub(super) struct IopubThread {
    clients: Socket,
    engines: Socket,
    door: Door,
    hub: Sender<HubMail>,
    mailbox: Mailbox<SchedulerMail>,
    reporter: Option<Reporter>,
    tap: Option<OutputTap>,
    subscriptions: Subscriptions,
}

impl IopubThread {
    pub(super) fn new(
        sockets: SocketPair,
        door: Door,
        hub: Sender<HubMail>,
        mailbox: Mailbox<SchedulerMail>,
        reporter: Option<Reporter>,
        tap: Option<OutputTap>,
    ) -> Self {
        Self {
            clients: sockets.clients,
            engines: sockets.engines,
            door,
            hub,
            mailbox,
            reporter,
            tap,
            subscriptions: Subscriptions::new(Instant::now()),
        }
    }

    pub(super) fn run(mut self) {
        let mut poller = Poller::new();
        let engines = poller.add_socket(&mut self.engines);
        poller.add_socket(&mut self.clients);
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        let mut frames = Vec::new();
        loop {
            self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                match message {
                    SchedulerMail::Stop => return,
                    SchedulerMail::ClientComes => self.subscriptions.expect(Instant::now()),
                    _ => {}
                }
            }
            self.take_subscriptions(&mut frames);
            // Output that nobody records yet waits with the engines, as results do not: it may be endless.
            let is_behind = self.reporter.as_ref().is_some_and(Reporter::is_behind);
            let held = is_behind || self.subscriptions.hold_output(Instant::now());
            poller.want_read(engines, !held);
            if !held {
                self.relay_output(&mut frames);
            }
            if let Some(reporter) = &mut self.reporter {
                reporter.hand_over();
            }
            if let Some(tap) = &mut self.tap {
                tap.hand_over(Instant::now());
            }
            let timeout = time_left([
                self.subscriptions.next_deadline(),
                self.tap.as_ref().and_then(OutputTap::next_deadline),
            ]);
            if let Err(error) = poller.wait(timeout) {
                tracing::error!("iopub: cannot wait for messages: {error}");
                return;
            }
        }
    }

    /// The socket has acted upon them when they are received.
    fn take_subscriptions(&mut self, frames: &mut Vec<Frame>) -> bool {
        let subscriptions = &mut self.subscriptions;
        drain(&mut self.clients, frames, |_, frames| {
            if frames
                .first()
                .is_some_and(|frame| frame.first() == Some(&1))
            {
                subscriptions.on_subscribed();
            }
        })
    }

    fn relay_output(&mut self, frames: &mut Vec<Frame>) -> bool {
        let Self {
            clients,
            engines,
            door,
            hub,
            reporter,
            tap,
            ..
        } = self;
        drain(engines, frames, |_, frames| {
            let Some(wire) = door.admit(frames) else {
                return;
            };
            let header = match Header::parse(wire.header()) {
                Ok(header) => header,
                Err(error) => return door.refuse(frames, error),
            };
            if header.msg_type == "shutdown_reply" {
                hub.send(HubMail::EngineShutDown {
                    session: header.session.to_string(),
                    leaving: leaving_of(wire.content()),
                });
            }
            if let Some(tap) = tap
                && header.msg_type == "stream"
            {
                let (metadata, content) = (wire.metadata(), wire.content());
                tap.on_stream(Instant::now(), &header.session, metadata, content);
            }
            if let Some(reporter) = reporter
                && leaves_a_trace(&header.msg_type)
            {
                reporter.report(Traffic::Output {
                    message: stored(frames, wire.layout()),
                });
            }
            if let Err(error) = clients.send(frames) {
                tracing::debug!("iopub: output could not be relayed: {error}");
            }
        })
    }
}

/// What an engine that shuts down says of its coming back.
fn leaving_of(content: &[u8]) -> Leaving {
    #[derive(Deserialize)]
    struct Content {
        #[serde(default)]
        restart: bool,
    }
    match serde_json::from_slice(content) {
        Ok(Content { restart: true }) => Leaving::Restarts,
        Ok(_) | Err(_) => Leaving::Left,
    }
}

/// Which subscriptions are on their way, and whether output waits for them. Pure.
///
/// Clients that come and never subscribe must not hold output for ever: what they hold is taken from an allowance, which
/// grows by the time in which output flows. So, but for that allowance, it flows for as long as it was held.
#[derive(Debug)]
struct Subscriptions {
    /// For each client whose subscription is on its way: until when it is waited for.
    expected: VecDeque<Instant>,
    allowance: Duration,
    is_held: bool,
    /// The allowance is used up, and has to grow first.
    is_resting: bool,
    /// Up to when the allowance is counted.
    counted: Instant,
}

impl Subscriptions {
    fn new(now: Instant) -> Self {
        Self {
            expected: VecDeque::new(),
            allowance: ALLOWANCE,
            is_held: false,
            is_resting: false,
            counted: now,
        }
    }

    fn expect(&mut self, now: Instant) {
        self.expected.push_back(now + HOLD);
    }

    fn on_subscribed(&mut self) {
        self.expected.pop_front();
    }

    /// Does output wait now?
    fn hold_output(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted);
        self.counted = now;
        if self.is_held {
            self.allowance = self.allowance.saturating_sub(passed);
        } else {
            self.allowance = (self.allowance + passed).min(ALLOWANCE);
        }
        if self.allowance.is_zero() {
            self.is_resting = true;
        } else if self.allowance >= HOLD {
            self.is_resting = false;
        }
        self.expected.retain(|deadline| *deadline > now);
        self.is_held = !self.is_resting && !self.expected.is_empty();
        self.is_held
    }

    /// When [`hold_output`](Self::hold_output) is to be asked again.
    fn next_deadline(&self) -> Option<Instant> {
        let next = *self.expected.front()?;
        Some(if self.is_held {
            next.min(self.counted + self.allowance)
        } else {
            self.counted + HOLD.saturating_sub(self.allowance)
        })
    }
}

/// Messages that become a part of a task record; there are many more of those that do not.
fn leaves_a_trace(msg_type: &str) -> bool {
    matches!(
        msg_type,
        "stream"
            | "error"
            | "execute_input"
            | "execute_result"
            | "display_data"
            | "pyin"
            | "pyout"
            | "pyerr"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_waits_for_a_subscription_and_not_beyond_its_time() {
        let start = Instant::now();
        let mut subscriptions = Subscriptions::new(start);
        assert!(!subscriptions.hold_output(start));
        assert_eq!(subscriptions.next_deadline(), None);
        subscriptions.expect(start);
        assert!(subscriptions.hold_output(start));
        subscriptions.on_subscribed();
        assert!(!subscriptions.hold_output(start));
        subscriptions.expect(start);
        assert!(subscriptions.hold_output(start));
        assert_eq!(subscriptions.next_deadline(), Some(start + HOLD));
        assert!(!subscriptions.hold_output(start + HOLD));
    }

    #[test]
    fn clients_that_never_subscribe_hold_output_for_half_of_the_time_at_most() {
        let start = Instant::now();
        let mut subscriptions = Subscriptions::new(start);
        let (mut held, mut now) = (Duration::ZERO, start);
        let end = start + Duration::from_secs(60);
        while now < end {
            subscriptions.expect(now);
            let is_held = subscriptions.hold_output(now);
            let deadline = subscriptions.next_deadline().expect("a client is expected");
            assert!(deadline > now, "no deadline has passed already");
            let next = deadline.min(now + Duration::from_millis(7));
            held += if is_held { next - now } else { Duration::ZERO };
            now = next;
        }
        assert!(held > ALLOWANCE, "{held:?}");
        assert!(held <= (end - start + ALLOWANCE) / 2 + HOLD, "{held:?}");
    }
}
