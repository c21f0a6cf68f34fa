//! What an engine says first when a connection to one of the queues broke and is there again.

use super::Serving;
use crate::engine::engine_thread::now;
use crate::protocol::recount::RECOUNT;
use crate::protocol::{Identity, Outgoing, Recount};
use crate::transport::Frame;

/// Answers that are remembered: more can hardly be under way. One that is not remembered counts as a request that never
/// came.
const ANSWERED: usize = 2000;

impl Serving {
    pub(super) fn note_answered(&mut self, msg_id: &str) {
        if self.answered.len() == ANSWERED {
            self.answered.pop_front();
        }
        self.answered.push_back(msg_id.to_owned());
    }

    /// `of_host`: it is the connection of this process, over which broadcasts come.
    pub(super) fn recount(&mut self, queue: &Identity, of_host: bool) {
        if !self.recounts || !self.takes_requests() {
            return;
        }
        // What has come over the old connection has come.
        self.receive_all_of_shell();
        let mut frames = Vec::new();
        self.sockets.control.look_again();
        self.receive_control(&mut frames);

        let waiting = self.queue.waiting().chain(self.queue.running());
        let unanswered = waiting
            .chain(self.beside.values())
            .filter(|request| !request.replied);
        let is_of_queue =
            |route: &[Frame]| route.first().is_some_and(|it| it[..] == *queue.as_bytes());
        let has = unanswered
            .filter(|request| is_of_queue(&request.route))
            .map(|request| request.msg_id.clone())
            .collect();
        let recount = Recount {
            has,
            answered: self.answered.iter().cloned().collect(),
            of_host,
        };
        let content = serde_json::to_value(recount).unwrap_or_default();
        let parts = self
            .composer
            .compose(&Outgoing::new(RECOUNT, content), now());
        let mut frames = vec![Frame::from(queue.as_bytes())];
        frames.extend(parts.into_iter().map(Frame::from));
        let (socket, outbox) = if queue.as_bytes() == CONTROL_QUEUE {
            (&mut self.sockets.control, &mut self.control_out)
        } else {
            (&mut self.sockets.shell, &mut self.shell_out)
        };
        outbox.send(socket, &mut frames);
    }
}

/// The routing id of the controller's control queue.
const CONTROL_QUEUE: &[u8] = b"control_out";
