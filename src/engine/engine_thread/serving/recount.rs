//! What an engine says of its requests when a connection to one of the queues, or the controller itself, was away and is
//! there again.

use super::Serving;
use crate::engine::engine_thread::now;
use crate::engine::engine_thread::requests::Request;
use crate::protocol::recount::RECOUNT;
use crate::protocol::{Identity, Outgoing, Recount};
use crate::transport::Frame;

/// Answers that are remembered: more can hardly be under way. One that is not remembered counts as a request that never
/// came.
const ANSWERED: usize = 2000;

impl Serving {
    pub(super) fn note_answered(&mut self, request: &Request) {
        if let Some(queue) = request.route.first() {
            self.sockets.note_answer(queue, &request.msg_id);
        }
        if self.answered.len() == ANSWERED {
            self.answered.pop_front();
        }
        self.answered.push_back(request.msg_id.clone());
    }

    /// `of_host`: it is the connection of this process, over which broadcasts come.
    pub(super) fn recount(&mut self, queue: &Identity, of_host: bool) {
        if !self.recounts || !self.takes_requests() {
            return;
        }
        self.receive_requests();
        let is_of_queue =
            |route: &[Frame]| route.first().is_some_and(|it| it[..] == *queue.as_bytes());
        let has = self
            .unanswered()
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

    /// Requests that have come and have not been answered, or whose answers wait for a connection.
    pub(super) fn unanswered_ids(&mut self) -> Vec<String> {
        self.receive_requests();
        let requests = self.unanswered().map(|request| &request.msg_id);
        requests.chain(self.sockets.kept()).cloned().collect()
    }

    fn unanswered(&self) -> impl Iterator<Item = &Request> {
        let waiting = self.queue.waiting().chain(self.queue.running());
        let all = waiting.chain(self.beside.values());
        all.filter(|request| !request.replied)
    }

    /// Takes in what has come by now, over whichever connection.
    fn receive_requests(&mut self) {
        self.receive_all_of_shell();
        self.sockets.control.look_again();
        self.receive_control(&mut Vec::new());
    }
}

/// The routing id of the controller's control queue.
const CONTROL_QUEUE: &[u8] = b"control_out";
