//! The queues on which clients name the engine: mux for requests, control for what must not wait behind them.

mod desk;

use std::time::Instant;

use crate::controller::Witnesses;
use crate::controller::doubts::{id_of, newly_connected};
use crate::controller::endpoints::SocketPair;
use crate::controller::lookout::Lookout;
use crate::controller::mail::{HubMail, SchedulerMail};
use crate::controller::recorder_thread::Fresh;
use crate::controller::reports;
use crate::controller::room::Room;
use crate::protocol::{Composer, EngineUuid, RemoteError};
use crate::transport::{
    Door, Frame, Mailbox, Monitor, Poller, Sender, Socket, drain, drain_turns, time_left,
};
use desk::Desk;

pub(super) struct DirectThread {
    clients: Socket,
    engines: Socket,
    connections: Monitor,
    mailbox: Mailbox<SchedulerMail>,
    hub: Sender<HubMail>,
    desk: Desk,
}

impl DirectThread {
    pub(super) fn new(
        sockets: SocketPair,
        door: Door,
        composer: Composer,
        hub: Sender<HubMail>,
        mailbox: Mailbox<SchedulerMail>,
        task_scheduler: Option<Sender<SchedulerMail>>,
        witnesses: Witnesses,
    ) -> Self {
        let desk = Desk::new(door, composer, task_scheduler, witnesses);
        Self {
            connections: Monitor::new(&sockets.engines),
            clients: sockets.clients,
            engines: sockets.engines,
            mailbox,
            hub,
            desk,
        }
    }

    pub(super) fn run(mut self) {
        let mut poller = Poller::new();
        poller.add_socket(&mut self.engines);
        let clients = poller.add_socket(&mut self.clients);
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        let mut frames = Vec::new();
        loop {
            if let Some(lookout) = &mut self.desk.lookout {
                lookout.begin_round();
            }
            // Before anything is sent to them.
            self.note_connections();
            self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                if matches!(message, SchedulerMail::Stop) {
                    return;
                }
                self.on_mail(message, &mut frames);
            }
            self.receive_replies(&mut frames);
            self.hear_recounts(&mut frames);
            let takes_requests = self.desk.takes_requests();
            if takes_requests {
                self.receive_requests(&mut frames);
            }
            poller.want_read(clients, takes_requests);
            self.desk.hand_over();
            self.desk.outbox.retry(&mut self.engines, Instant::now());
            self.desk.show();
            let timeout = time_left([
                self.desk.room.as_ref().and_then(Room::next_deadline),
                self.desk.outbox.next_retry(),
                self.desk.lookout.as_ref().and_then(Lookout::next_deadline),
            ]);
            if let Err(error) = poller.wait(timeout) {
                tracing::error!("a direct queue cannot wait for messages: {error}");
                return;
            }
        }
    }

    fn on_mail(&mut self, message: SchedulerMail, frames: &mut Vec<Frame>) {
        match message {
            SchedulerMail::TakeIn {
                token,
                engine,
                unanswered,
                ..
            } => {
                if !self.desk.scheduler.pending_ids(&engine).is_empty() {
                    // What it has answered of a former controller's requests is not sent to it again.
                    self.engines.look_again();
                    self.note_connections();
                    self.receive_all_of(&engine, frames);
                }
                self.desk.take_in(&engine, &unanswered, &mut self.engines);
                self.hub.send(HubMail::SchedulerDone { token });
            }
            SchedulerMail::Expect(engine) => self.desk.scheduler.on_engine_expected(engine),
            SchedulerMail::Resubmit { mut frames, .. } => {
                self.desk
                    .submit(&mut frames, Fresh::No, &mut self.clients, &mut self.engines);
            }
            SchedulerMail::Command { mut frames, answer } => {
                if let Some(msg_id) = id_of(&frames) {
                    self.desk.inside.insert(msg_id, answer);
                    self.desk
                        .submit(&mut frames, Fresh::No, &mut self.clients, &mut self.engines);
                }
            }
            SchedulerMail::LetGo {
                token,
                engine,
                id,
                how,
                ..
            } => {
                // What the engine has sent before it left counts.
                self.engines.look_again();
                self.note_connections();
                self.receive_all_of(&engine, frames);
                self.desk.doubts.forget(&engine);
                self.desk.outbox.forget(engine.as_str().as_bytes());
                self.desk.held.remove(&engine);
                let mut failures = Vec::new();
                self.desk.scheduler.on_engine_gone(&engine, &mut failures);
                for failure in failures {
                    // The engine is gone, as was asked. ipyparallel's engines tell all clients of their end before they
                    // answer the one that asked for it.
                    if failure.msg_type == "shutdown_request" {
                        self.desk
                            .confirm_shutdown(&failure, &engine, &mut self.clients);
                        continue;
                    }
                    let error = RemoteError::engine_died(id, failure.msg_id.as_str(), &how);
                    self.desk.fail(failure, &engine, &error, &mut self.clients);
                }
                self.desk.touch();
                self.hub.send(HubMail::SchedulerDone { token });
            }
            SchedulerMail::Inspect { token, what } => {
                let report = reports::of_direct(&self.desk.scheduler, &what);
                self.hub.send(HubMail::Report { token, report });
            }
            SchedulerMail::Abort(_)
            | SchedulerMail::Ended(_)
            | SchedulerMail::Ends(_)
            | SchedulerMail::StorageCaughtUp
            | SchedulerMail::ClientComes
            | SchedulerMail::Stop => {}
        }
    }

    /// Receives at least what an engine has sent by now, as far as the socket has looked.
    fn receive_all_of(&mut self, engine: &EngineUuid, frames: &mut Vec<Frame>) {
        let pending = self.desk.scheduler.pending_ids(engine).len();
        let peers = self.desk.scheduler.engine_count() + 1;
        drain_turns(pending, peers, || self.receive_replies(frames));
    }

    fn note_connections(&mut self) {
        for (engine, connection) in newly_connected(&mut self.connections) {
            self.desk.on_connected(&engine, connection);
        }
    }

    fn hear_recounts(&mut self, frames: &mut Vec<Frame>) {
        while let Some(recounted) = self.desk.recounts.pop() {
            // What has come over the old connection counts.
            self.receive_all_of(&recounted.engine, frames);
            self.desk.on_recount(&recounted, &mut self.clients);
        }
    }

    fn receive_requests(&mut self, frames: &mut Vec<Frame>) -> bool {
        let (engines, desk) = (&mut self.engines, &mut self.desk);
        drain(&mut self.clients, frames, |clients, frames| {
            desk.on_request(frames, clients, engines)
        })
    }

    fn receive_replies(&mut self, frames: &mut Vec<Frame>) -> bool {
        let (clients, desk) = (&mut self.clients, &mut self.desk);
        drain(&mut self.engines, frames, |_, frames| {
            desk.on_reply(frames, clients)
        })
    }
}
