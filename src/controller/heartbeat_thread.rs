//! Pings out, echoes in. Its own thread, so that nothing that is slow elsewhere stops an engine's heart.

use std::time::{Duration, Instant};

use crate::controller::config::Config;
use crate::controller::endpoints::HeartbeatSockets;
use crate::controller::mail::{HeartbeatMail, HubMail};
use crate::heartbeat::{Action, HeartMonitor};
use crate::os::{Host, memory};
use crate::protocol::Identity;
use crate::transport::{
    ConnectionEvent, Frame, Mailbox, Monitor, Poller, Sender, Socket, drain, time_left,
};

pub(super) struct HeartbeatThread {
    ping: Socket,
    pong: Socket,
    connections: Monitor,
    hearts: HeartMonitor,
    hub: Sender<HubMail>,
    mailbox: Mailbox<HeartbeatMail>,
    actions: Vec<Action>,
    host: Host,
}

impl HeartbeatThread {
    pub(super) fn new(
        sockets: HeartbeatSockets,
        config: &Config,
        hub: Sender<HubMail>,
        mailbox: Mailbox<HeartbeatMail>,
    ) -> Self {
        let HeartbeatSockets { ping, pong } = sockets;
        let connections = Monitor::new(&pong);
        let hearts = HeartMonitor::new(config.heartbeat, Instant::now());
        Self {
            ping,
            pong,
            connections,
            hearts,
            hub,
            mailbox,
            actions: Vec::new(),
            host: Host::this(),
        }
    }

    pub(super) fn run(mut self) {
        let mut poller = Poller::new();
        poller.add_socket(&mut self.ping);
        poller.add_socket(&mut self.pong);
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        let mut frames = Vec::new();
        loop {
            let mut busy = self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                match message {
                    HeartbeatMail::Expect(uuid) => self
                        .hearts
                        .expect(&Identity::from(&uuid), &mut self.actions),
                    HeartbeatMail::Accept { uuid, is_tunneled } => {
                        self.hearts
                            .accept(&Identity::from(&uuid), is_tunneled, &mut self.actions)
                    }
                    HeartbeatMail::Forget(uuid) => self.hearts.forget(&Identity::from(&uuid)),
                    HeartbeatMail::Stop => return,
                }
            }
            busy |= self.receive_subscriptions(&mut frames);
            busy |= self.receive_pongs(&mut frames);
            busy |= self.receive_disconnections();
            if self.hearts.next_deadline() <= Instant::now() {
                self.hearts.on_time(Instant::now(), &mut self.actions);
            }
            self.perform(&mut frames);
            let timeout = if busy {
                Some(Duration::ZERO)
            } else {
                time_left([Some(self.hearts.next_deadline())])
            };
            if let Err(error) = poller.wait(timeout) {
                tracing::error!("heartbeat: cannot wait for messages: {error}");
                return;
            }
        }
    }

    /// An XPUB receives a 1 and the topic when somebody subscribes.
    fn receive_subscriptions(&mut self, frames: &mut Vec<Frame>) -> bool {
        let hearts = &mut self.hearts;
        drain(&mut self.ping, frames, |_, frames| {
            if frames
                .first()
                .is_some_and(|frame| frame.first() == Some(&1))
            {
                hearts.on_subscribed(Instant::now());
            }
        })
    }

    fn receive_pongs(&mut self, frames: &mut Vec<Frame>) -> bool {
        let (hearts, actions, host) = (&mut self.hearts, &mut self.actions, &self.host);
        drain(&mut self.pong, frames, |_, frames| {
            let [identity, payload] = &frames[..] else {
                return;
            };
            let local = identity
                .peer_address()
                .is_some_and(|address| host.has(address));
            hearts.on_pong(
                Identity::from(&identity[..]),
                payload,
                identity.connection().map(|connection| connection.0),
                local,
                actions,
            );
        })
    }

    fn receive_disconnections(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.connections.receive() {
            any = true;
            if let ConnectionEvent::Ended(connection) = event {
                self.hearts.on_disconnected(Instant::now(), connection.0);
            }
        }
        any
    }

    fn perform(&mut self, frames: &mut Vec<Frame>) {
        for action in self.actions.drain(..) {
            match action {
                Action::Ping(payload) => {
                    frames.clear();
                    frames.push(Frame::from(payload));
                    if let Err(error) = self.ping.send(frames) {
                        tracing::error!("heartbeat: a ping could not be sent: {error}");
                    }
                    // The one thing here that happens now and then, whatever else goes on.
                    memory::give_back();
                }
                Action::Started(heart) => {
                    self.hub.send(HubMail::HeartStarted(heart));
                }
                Action::Stopped(heart, how) => {
                    self.hub.send(HubMail::HeartStopped { heart, how });
                }
            }
        }
    }
}
