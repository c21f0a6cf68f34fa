//! Output of engines, relayed to every client.

use crate::controller::endpoints::SocketPair;
use crate::controller::mail::{HubMail, SchedulerMail};
use crate::controller::recorder_thread::{Reporter, stored};
use crate::hub::recorder::Traffic;
use crate::protocol::Header;
use crate::transport::{Door, Frame, Mailbox, Poller, Sender, Socket, drain};

pub(super) struct IopubThread {
    clients: Socket,
    engines: Socket,
    door: Door,
    hub: Sender<HubMail>,
    mailbox: Mailbox<SchedulerMail>,
    reporter: Option<Reporter>,
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
        }
    }

    pub(super) fn run(mut self) {
        let mut poller = Poller::new();
        poller.add_socket(&mut self.engines);
        poller.add_socket(&mut self.clients);
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        let mut frames = Vec::new();
        loop {
            self.mailbox.take(&mut mail);
            if mail
                .drain(..)
                .any(|message| matches!(message, SchedulerMail::Stop))
            {
                return;
            }
            self.relay_output(&mut frames);
            if let Some(reporter) = &mut self.reporter {
                reporter.hand_over();
            }
            // Subscriptions: libzmq has acted upon them, they are only taken out of the way.
            drain(&mut self.clients, &mut frames, |_, _| {});
            if let Err(error) = poller.wait(None) {
                tracing::error!("iopub: cannot wait for messages: {error}");
                return;
            }
        }
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
