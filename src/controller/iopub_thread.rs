//! Output of engines, relayed to every client.
//!
//! A client subscribes just before its first request. The request goes another way, and its output would sometimes be
//! here before the subscription is; so output is held back for a moment when a client comes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::controller::endpoints::SocketPair;
use crate::controller::mail::{HubMail, SchedulerMail};
use crate::controller::recorder_thread::{Reporter, stored};
use crate::hub::recorder::Traffic;
use crate::protocol::Header;
use crate::transport::{Door, Frame, Mailbox, Poller, Sender, Socket, drain, time_left};

/// As long as a client's subscription is waited for. It takes a few milliseconds, unless the client wants no output.
const HOLD: Duration = Duration::from_millis(100);

pub(super) struct IopubThread {
    clients: Socket,
    engines: Socket,
    door: Door,
    hub: Sender<HubMail>,
    mailbox: Mailbox<SchedulerMail>,
    reporter: Option<Reporter>,
    /// For each client whose subscription is on its way: until when it is waited for.
    expected: VecDeque<Instant>,
}

impl IopubThread {
    pub(super) fn new(
        sockets: SocketPair,
        door: Door,
        hub: Sender<HubMail>,
        mailbox: Mailbox<SchedulerMail>,
        reporter: Option<Reporter>,
    ) -> Self {
        Self {
            clients: sockets.clients,
            engines: sockets.engines,
            door,
            hub,
            mailbox,
            reporter,
            expected: VecDeque::new(),
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
                    SchedulerMail::ClientComes => self.expected.push_back(Instant::now() + HOLD),
                    _ => {}
                }
            }
            self.take_subscriptions(&mut frames);
            let now = Instant::now();
            self.expected.retain(|deadline| *deadline > now);
            let held = !self.expected.is_empty();
            poller.want_read(engines, !held);
            if !held {
                self.relay_output(&mut frames);
            }
            if let Some(reporter) = &mut self.reporter {
                reporter.hand_over();
            }
            let timeout = time_left([self.expected.front().copied()]);
            if let Err(error) = poller.wait(timeout) {
                tracing::error!("iopub: cannot wait for messages: {error}");
                return;
            }
        }
    }

    /// libzmq acts upon subscriptions as they are read.
    fn take_subscriptions(&mut self, frames: &mut Vec<Frame>) -> bool {
        let expected = &mut self.expected;
        drain(&mut self.clients, frames, |_, frames| {
            if frames
                .first()
                .is_some_and(|frame| frame.first() == Some(&1))
            {
                expected.pop_front();
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
                });
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
