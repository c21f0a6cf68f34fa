//! The task queue: its two routers, and the scheduler between them.

mod desk;
mod messages;

use std::time::{Duration, Instant};

use crate::controller::Witnesses;
use crate::controller::doubts::newly_connected;
use crate::controller::endpoints::SocketPair;
use crate::controller::held::HeldRequests;
use crate::controller::lookout::Lookout;
use crate::controller::mail::{HubMail, SchedulerMail};
use crate::controller::recorder_thread::Fresh;
use crate::controller::reports;
use crate::controller::room::Room;
use crate::hub::Token;
use crate::protocol::{Composer, EngineUuid};
use crate::scheduler::TaskConfig;
use crate::transport::{
    Door, Frame, Mailbox, Monitor, Poller, Sender, Socket, drain, drain_turns, time_left,
};
use desk::{Desk, Records};

pub(super) struct TaskThread {
    clients: Socket,
    engines: Socket,
    connections: Monitor,
    mailbox: Mailbox<SchedulerMail>,
    hub: Sender<HubMail>,
    desk: Desk,
    departures: Vec<Departure>,
}

/// An engine's last word comes at the same time as the hub's news of its end, if both connections are in order.
const LAST_WORD: Duration = Duration::from_secs(1);

/// An engine that the hub has let go of.
struct Departure {
    token: Token,
    engine: EngineUuid,
    how: String,
    /// For so long its last word is waited for: it may be on another connection than the hub's news, and decides whether
    /// what the engine has not answered was begun.
    until: Instant,
}

impl TaskThread {
    #[expect(
        clippy::too_many_arguments,
        reason = "each is used once, by one caller"
    )]
    pub(super) fn new(
        sockets: SocketPair,
        door: Door,
        composer: Composer,
        hub: Sender<HubMail>,
        mailbox: Mailbox<SchedulerMail>,
        config: TaskConfig,
        witnesses: Witnesses,
        held: Option<HeldRequests>,
    ) -> Self {
        let desk = Desk::new(door, composer, config, witnesses, held);
        Self {
            connections: Monitor::new(&sockets.engines),
            clients: sockets.clients,
            engines: sockets.engines,
            mailbox,
            hub,
            desk,
            departures: Vec::new(),
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
            // Replies before requests: they free the engines that requests wait for.
            self.receive_replies(&mut frames);
            self.hear_recounts(&mut frames);
            self.desk.send_unsent(&mut self.engines);
            let takes_requests = self.desk.takes_requests();
            if takes_requests {
                self.receive_requests(&mut frames);
            }
            poller.want_read(clients, takes_requests);
            self.on_time();
            if let Some(reporter) = &mut self.desk.reporter {
                reporter.hand_over();
            }
            self.desk.show();
            let timeout = time_left([
                self.desk.room.as_ref().and_then(Room::next_deadline),
                self.desk.lookout.as_ref().and_then(Lookout::next_deadline),
                self.desk.scheduler.next_deadline(),
                self.desk.outbox.next_retry(),
                self.departures.iter().map(|left| left.until).min(),
            ]);
            if let Err(error) = poller.wait(timeout) {
                tracing::error!("task: cannot wait for messages: {error}");
                return;
            }
        }
    }

    fn on_mail(&mut self, message: SchedulerMail, frames: &mut Vec<Frame>) {
        let now = Instant::now();
        match message {
            SchedulerMail::TakeIn {
                token,
                engine,
                unanswered,
                ..
            } => {
                if !self.desk.scheduler.pending_ids(&engine).is_empty() {
                    // What it has answered of a former controller's tasks has ended.
                    self.engines.look_again();
                    self.note_connections();
                    self.receive_all_of(&engine, frames);
                }
                let (clients, engines) = (&mut self.clients, &mut self.engines);
                self.desk.take_in(&engine, &unanswered, clients, engines);
                self.hub.send(HubMail::SchedulerDone { token });
            }
            SchedulerMail::LetGo {
                token,
                engine,
                how,
                farewell,
                ..
            } => {
                // What the engine has sent before it left counts.
                self.engines.look_again();
                self.note_connections();
                self.receive_all_of(&engine, frames);
                self.desk.doubts.forget(&engine);
                self.desk
                    .scheduler
                    .on_engine_leaving(engine.as_str().as_bytes());
                for msg_id in self.desk.take_unsent(&engine) {
                    let (engine, msg_id) = (engine.as_str().as_bytes(), msg_id.as_str());
                    self.desk
                        .scheduler
                        .on_returned(now, engine, msg_id, &mut self.desk.actions);
                }
                self.perform();
                self.departures.push(Departure {
                    token,
                    engine,
                    how,
                    until: if farewell { now + LAST_WORD } else { now },
                });
                self.let_go(now);
            }
            SchedulerMail::Inspect { token, what } => {
                let report = reports::of_tasks(&self.desk.scheduler, &what);
                self.hub.send(HubMail::Report { token, report });
            }
            SchedulerMail::Abort(msg_ids) => {
                if let Some(held) = &mut self.desk.held {
                    held.on_abort(&msg_ids);
                }
                let msg_ids: Vec<&str> = msg_ids.iter().map(|id| id.as_str()).collect();
                self.desk
                    .scheduler
                    .on_abort(now, &msg_ids, &mut self.desk.actions);
                self.perform();
            }
            SchedulerMail::Expect(engine) => {
                self.desk
                    .scheduler
                    .on_engine_expected(now, engine, &mut self.desk.actions);
                self.perform();
            }
            SchedulerMail::Ended(ended) => self.desk.on_ended_before(&ended),
            SchedulerMail::Ends(ends) => {
                for ended in &ends {
                    self.desk.on_ended_before(ended);
                }
                let held = self.desk.held.as_mut().and_then(HeldRequests::release);
                if let Some(request) = held {
                    self.desk
                        .submit_held(request, &mut self.clients, &mut self.engines);
                }
            }
            SchedulerMail::Resubmit { mut frames, at } => {
                let (clients, engines) = (&mut self.clients, &mut self.engines);
                self.desk.submit(
                    &mut frames,
                    Fresh::No,
                    Records::Unasked,
                    at.as_ref(),
                    clients,
                    engines,
                );
            }
            SchedulerMail::StorageCaughtUp
            | SchedulerMail::Command { .. }
            | SchedulerMail::ClientComes
            | SchedulerMail::Stop => {}
        }
    }

    /// Lets go of engines that have said farewell, or will not.
    fn let_go(&mut self, now: Instant) {
        if self.departures.is_empty() {
            return;
        }
        for departure in std::mem::take(&mut self.departures) {
            let Departure {
                token, engine, how, ..
            } = &departure;
            if !self.desk.farewells.remove(engine) && now < departure.until {
                self.departures.push(departure);
                continue;
            }
            self.desk.outbox.forget(engine.as_str().as_bytes());
            if let Some(lookout) = &mut self.desk.lookout {
                for msg_id in self.desk.scheduler.pending_ids(engine) {
                    lookout.on_returned(msg_id.as_str());
                }
                lookout.touch();
            }
            self.desk
                .scheduler
                .on_engine_gone(now, engine, how, &mut self.desk.actions);
            self.perform();
            self.hub.send(HubMail::SchedulerDone { token: *token });
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
        drain(&mut self.engines, frames, |engines, frames| {
            desk.on_reply(frames, clients, engines)
        })
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
            self.desk
                .on_recount(&recounted, &mut self.clients, &mut self.engines);
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        self.let_go(now);
        if self
            .desk
            .scheduler
            .next_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.desk.scheduler.on_time(now, &mut self.desk.actions);
            self.perform();
        }
        if self
            .desk
            .outbox
            .next_retry()
            .is_some_and(|retry| retry <= now)
        {
            self.desk.outbox.retry(&mut self.engines, now);
        }
    }

    fn perform(&mut self) {
        self.desk
            .perform(None, &mut self.clients, &mut self.engines);
    }
}
