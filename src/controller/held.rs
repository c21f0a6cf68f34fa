//! Tasks that depend on tasks of which the scheduler knows nothing. They are held back until the records have been asked:
//! what they need may have ended under a former controller, or long ago.

use std::collections::VecDeque;

use hashbrown::HashSet;

use super::mail::SchedulerMail;
use super::reader_thread::ReaderMail;
use super::recorder_thread::Fresh;
use crate::protocol::MsgId;
use crate::transport::{Frame, Sender};

/// Requests that are held at most; then no more are taken in until some have been let go.
const FULL: usize = 1000;

/// Requests in the order in which they came; the answers come in the same order.
#[derive(Debug)]
pub(super) struct HeldRequests {
    /// The thread that has the records.
    reader: Sender<ReaderMail>,
    /// Where the answers go.
    answers: Sender<SchedulerMail>,
    requests: VecDeque<HeldRequest>,
    /// Requests that a client gave up meanwhile.
    aborted: HashSet<MsgId>,
}

#[derive(Debug)]
pub(super) struct HeldRequest {
    pub(super) msg_id: MsgId,
    pub(super) fresh: Fresh,
    pub(super) frames: Vec<Frame>,
    pub(super) is_aborted: bool,
}

impl HeldRequests {
    pub(super) fn new(reader: Sender<ReaderMail>, answers: Sender<SchedulerMail>) -> Self {
        Self {
            reader,
            answers,
            requests: VecDeque::new(),
            aborted: HashSet::new(),
        }
    }

    /// Holds a request until the records have been asked about `needs`.
    pub(super) fn hold(
        &mut self,
        msg_id: &str,
        fresh: Fresh,
        frames: Vec<Frame>,
        needs: Vec<String>,
    ) {
        self.requests.push_back(HeldRequest {
            msg_id: msg_id.into(),
            fresh,
            frames,
            is_aborted: false,
        });
        self.reader.send(ReaderMail::Ends {
            msg_ids: needs,
            to: self.answers.clone(),
        });
    }

    /// What has ended among the needs of the oldest is known now.
    pub(super) fn release(&mut self) -> Option<HeldRequest> {
        let mut request = self.requests.pop_front()?;
        request.is_aborted = self.aborted.remove(&request.msg_id);
        if self.requests.is_empty() {
            self.aborted.clear();
        }
        Some(request)
    }

    pub(super) fn on_abort(&mut self, msg_ids: &[MsgId]) {
        let held = self.requests.iter().map(|request| &request.msg_id);
        let aborted = held.filter(|id| msg_ids.contains(id)).cloned();
        self.aborted.extend(aborted);
    }

    pub(super) fn is_full(&self) -> bool {
        self.requests.len() >= FULL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::mailbox;

    #[test]
    fn they_go_in_order_and_one_that_was_given_up_says_so() {
        let (reader, mut asked) = mailbox().unwrap();
        let (answers, _) = mailbox().unwrap();
        let mut held = HeldRequests::new(reader, answers);
        for msg_id in ["a", "b"] {
            held.hold(msg_id, Fresh::Yes, Vec::new(), vec!["needed".to_owned()]);
        }
        held.on_abort(&["b".into(), "unknown".into()]);
        let mut questions = Vec::new();
        assert!(asked.take(&mut questions) && questions.len() == 2);
        let released: Vec<_> = std::iter::from_fn(|| held.release())
            .map(|request| (request.msg_id.to_string(), request.is_aborted))
            .collect();
        assert_eq!(released, [("a".to_owned(), false), ("b".to_owned(), true)]);
        assert!(held.aborted.is_empty());
        for n in 0..FULL {
            assert!(!held.is_full());
            held.hold(&n.to_string(), Fresh::Yes, Vec::new(), Vec::new());
        }
        assert!(held.is_full());
    }
}
