//! The requests of one engine: one runs, the others wait in the order in which they came. Pure.

use std::collections::VecDeque;

use hashbrown::HashSet;

/// Ids of requests that were aborted before they came; more are not remembered.
const MAX_ABORTED: usize = 10_000;

/// What the queue has to know of a request.
pub(super) trait Queued {
    fn msg_id(&self) -> &str;
    fn msg_type(&self) -> &str;
}

/// What is done with a request that has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival<R> {
    /// The kernel is free: it is run at once.
    Run,
    Waits,
    /// It was aborted before it came.
    Aborted(R),
}

#[derive(Debug)]
pub(super) struct RequestQueue<R> {
    waiting: VecDeque<R>,
    running: Option<R>,
    /// The running request is out of the queue for a moment, and still runs.
    is_lent: bool,
    aborted: HashSet<String>,
}

impl<R: Queued> RequestQueue<R> {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            running: None,
            is_lent: false,
            aborted: HashSet::new(),
        }
    }

    /// `ready`: the kernel takes requests.
    pub(super) fn on_request(&mut self, request: R, ready: bool) -> Arrival<R> {
        if self.aborted.remove(request.msg_id()) {
            return Arrival::Aborted(request);
        }
        if ready && self.is_free() && self.waiting.is_empty() {
            self.running = Some(request);
            return Arrival::Run;
        }
        self.waiting.push_back(request);
        Arrival::Waits
    }

    pub(super) fn running(&self) -> Option<&R> {
        self.running.as_ref()
    }

    pub(super) fn running_mut(&mut self) -> Option<&mut R> {
        self.running.as_mut()
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &R> {
        self.waiting.iter()
    }

    /// The running request is over; it is handed back.
    pub(super) fn on_done(&mut self) -> Option<R> {
        self.running.take()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Nothing runs, and nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.is_free() && self.waiting.is_empty()
    }

    fn is_free(&self) -> bool {
        self.running.is_none() && !self.is_lent
    }

    /// Hands out the running request for a moment, in which nothing else is run; [`Self::put_back`] follows.
    pub(super) fn lend(&mut self) -> Option<R> {
        let request = self.running.take();
        self.is_lent = request.is_some();
        request
    }

    pub(super) fn put_back(&mut self, request: R) {
        debug_assert!(self.is_lent && self.running.is_none());
        self.is_lent = false;
        self.running = Some(request);
    }

    /// Takes the next request into work, if none is.
    pub(super) fn run_next(&mut self) -> Option<&R> {
        if self.is_free() {
            self.running = self.waiting.pop_front();
            return self.running.as_ref();
        }
        None
    }

    /// Takes out those of `msg_ids` that wait; one that has not come yet will be aborted when it does.
    pub(super) fn abort(&mut self, msg_ids: &[String]) -> Vec<R> {
        let wanted: HashSet<&str> = msg_ids.iter().map(String::as_str).collect();
        let out = self.take_waiting(|request| wanted.contains(request.msg_id()));
        for id in msg_ids {
            let here = out.iter().any(|request| request.msg_id() == id)
                || self
                    .running
                    .as_ref()
                    .is_some_and(|request| request.msg_id() == id);
            if !here && self.aborted.len() < MAX_ABORTED {
                self.aborted.insert(id.clone());
            }
        }
        out
    }

    /// Takes out everything that waits.
    pub(super) fn abort_all(&mut self) -> Vec<R> {
        self.take_waiting(|_| true)
    }

    /// After a failed execution, those that wait behind it are not run (ipykernel `Kernel._abort_queues`).
    pub(super) fn abort_executions(&mut self) -> Vec<R> {
        self.take_waiting(|request| request.msg_type() == "execute_request")
    }

    fn take_waiting(&mut self, mut wanted: impl FnMut(&R) -> bool) -> Vec<R> {
        let (out, kept) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|request| wanted(request));
        self.waiting = kept;
        Vec::from_iter::<VecDeque<R>>(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Request(&'static str, &'static str);

    impl Queued for Request {
        fn msg_id(&self) -> &str {
            self.0
        }

        fn msg_type(&self) -> &str {
            self.1
        }
    }

    fn apply(id: &'static str) -> Request {
        Request(id, "apply_request")
    }

    #[test]
    fn one_runs_and_the_others_follow_in_order() {
        let mut queue = RequestQueue::new();
        assert_eq!(queue.on_request(apply("0"), false), Arrival::Waits);
        assert_eq!(
            queue.on_request(apply("1"), true),
            Arrival::Waits,
            "none overtakes"
        );
        assert_eq!(queue.run_next(), Some(&apply("0")));
        assert_eq!(queue.run_next(), None);
        assert_eq!(queue.on_done(), Some(apply("0")));
        assert_eq!(queue.run_next(), Some(&apply("1")));
        queue.on_done();
        assert_eq!(queue.on_request(apply("2"), true), Arrival::Run);
    }

    #[test]
    fn aborting_takes_out_what_waits_and_what_is_still_to_come_but_not_what_runs() {
        let mut queue = RequestQueue::new();
        for id in ["0", "1", "2"] {
            queue.on_request(apply(id), true);
        }
        let ids = ["0", "2", "9"].map(String::from);
        assert_eq!(queue.abort(&ids), [apply("2")]);
        assert_eq!(
            queue.on_request(apply("9"), true),
            Arrival::Aborted(apply("9"))
        );
        assert_eq!(
            queue.on_request(apply("9"), true),
            Arrival::Waits,
            "an id is aborted once"
        );
        assert_eq!(queue.on_done(), Some(apply("0")));
        assert_eq!(queue.abort_all(), [apply("1"), apply("9")]);
    }

    #[test]
    fn nothing_overtakes_a_request_whose_reply_is_being_made() {
        let mut queue = RequestQueue::new();
        queue.on_request(apply("0"), true);
        let lent = queue.lend().unwrap();
        assert_eq!(queue.on_request(apply("1"), true), Arrival::Waits);
        assert_eq!(queue.run_next(), None);
        queue.put_back(lent);
        assert_eq!(queue.on_done(), Some(apply("0")));
        assert_eq!(queue.run_next(), Some(&apply("1")));
        queue.on_done();
        assert_eq!(queue.lend(), None);
        assert_eq!(queue.on_request(apply("2"), true), Arrival::Run);
    }

    #[test]
    fn a_failure_takes_out_executions_only() {
        let mut queue = RequestQueue::new();
        queue.on_request(apply("0"), true);
        for request in [
            Request("1", "execute_request"),
            apply("2"),
            Request("3", "execute_request"),
        ] {
            queue.on_request(request, true);
        }
        assert_eq!(
            queue.abort_executions(),
            [
                Request("1", "execute_request"),
                Request("3", "execute_request")
            ]
        );
        queue.on_done();
        assert_eq!(queue.run_next(), Some(&apply("2")));
    }
}
