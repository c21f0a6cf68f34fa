//! The dask.distributed scheduler that clients may ask for (ipyparallel `Hub.become_dask`, `Hub.stop_distributed`).
//!
//! There is one for all clients, in a process of its own. Each process that is started is a run with a number: what is
//! heard of an earlier one does not matter.

use serde_json::{Map, Value, json};

use super::queries::reply;
use super::{Action, Request};
use crate::protocol::RemoteError;

#[derive(Debug, Default)]
pub(super) struct DaskScheduler {
    runs: u64,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Stopped,
    /// The requests wait for its address.
    Starting(Vec<Request>),
    /// The content of the reply.
    Running(Value),
}

impl DaskScheduler {
    /// `arguments`: those of `distributed.Scheduler`. A scheduler that runs already keeps its own.
    pub(super) fn on_become(
        &mut self,
        request: &Request,
        arguments: Map<String, Value>,
        out: &mut Vec<Action>,
    ) {
        match &mut self.state {
            State::Stopped => {
                self.runs += 1;
                self.state = State::Starting(vec![request.clone()]);
                out.push(Action::StartDask {
                    run: self.runs,
                    arguments,
                });
            }
            State::Starting(waiting) => waiting.push(request.clone()),
            State::Running(content) => {
                reply(request, "become_dask_reply", content.clone(), out);
            }
        }
    }

    pub(super) fn on_stop(&mut self, request: &Request, out: &mut Vec<Action>) {
        match std::mem::take(&mut self.state) {
            State::Stopped => {}
            State::Starting(waiting) => {
                let error = RemoteError::new(
                    "RuntimeError",
                    "the dask.distributed scheduler was stopped before it was ready",
                );
                answer(&waiting, &error.to_content(), out);
                out.push(Action::StopDask);
            }
            State::Running(_) => out.push(Action::StopDask),
        }
        reply(
            request,
            "stop_distributed_reply",
            json!({ "status": "ok" }),
            out,
        );
    }

    /// The scheduler of this run listens, or cannot.
    pub(super) fn on_started(
        &mut self,
        run: u64,
        result: Result<Map<String, Value>, RemoteError>,
        out: &mut Vec<Action>,
    ) {
        if run != self.runs {
            return;
        }
        let State::Starting(waiting) = std::mem::take(&mut self.state) else {
            return;
        };
        let content = match result {
            Ok(mut content) => {
                content.insert("status".to_owned(), json!("ok"));
                let content = Value::Object(content);
                self.state = State::Running(content.clone());
                content
            }
            Err(error) => error.to_content(),
        };
        answer(&waiting, &content, out);
    }

    /// The process of this run has ended.
    pub(super) fn on_ended(&mut self, run: u64, out: &mut Vec<Action>) {
        if run == self.runs
            && let State::Starting(waiting) = std::mem::take(&mut self.state)
        {
            let error = RemoteError::new(
                "RuntimeError",
                "the dask.distributed scheduler ended before it was ready: the controller's log has its words",
            );
            answer(&waiting, &error.to_content(), out);
        }
    }
}

fn answer(requests: &[Request], content: &Value, out: &mut Vec<Action>) {
    for request in requests {
        reply(request, "become_dask_reply", content.clone(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Identity;
    use bytes::Bytes;

    fn request(from: &str) -> Request {
        Request {
            from: Identity::from(from.as_bytes()),
            msg_type: String::new(),
            header: Bytes::from_static(b"{}"),
            content: Bytes::from_static(b"{}"),
        }
    }

    /// `CLIENT:STATUS` of replies, and what is started and stopped.
    fn said(out: &mut Vec<Action>) -> Vec<String> {
        out.drain(..)
            .map(|action| match action {
                Action::Reply { to, content, .. } => {
                    let status = content["status"].as_str().unwrap().to_owned();
                    format!("{}:{status}", String::from_utf8_lossy(to.as_bytes()))
                }
                Action::StartDask { run, .. } => format!("start {run}"),
                Action::StopDask => "stop".to_owned(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn address() -> Map<String, Value> {
        Map::from_iter([("address".to_owned(), json!("tcp://here:1"))])
    }

    #[test]
    fn all_clients_share_one_scheduler() {
        let (mut dask, mut out) = (DaskScheduler::default(), Vec::new());
        for client in ["a", "b"] {
            dask.on_become(&request(client), Map::new(), &mut out);
        }
        assert_eq!(said(&mut out), ["start 1"]);
        dask.on_started(1, Ok(address()), &mut out);
        dask.on_become(&request("c"), Map::new(), &mut out);
        assert_eq!(said(&mut out), ["a:ok", "b:ok", "c:ok"]);
        dask.on_stop(&request("a"), &mut out);
        dask.on_stop(&request("b"), &mut out);
        assert_eq!(said(&mut out), ["stop", "a:ok", "b:ok"]);
    }

    #[test]
    fn one_that_fails_or_dies_is_started_anew_by_the_next_request() {
        let (mut dask, mut out) = (DaskScheduler::default(), Vec::new());
        dask.on_become(&request("a"), Map::new(), &mut out);
        dask.on_started(1, Err(RemoteError::new("ImportError", "")), &mut out);
        dask.on_ended(1, &mut out);
        dask.on_become(&request("a"), Map::new(), &mut out);
        dask.on_ended(2, &mut out);
        dask.on_become(&request("a"), Map::new(), &mut out);
        assert_eq!(
            said(&mut out),
            ["start 1", "a:error", "start 2", "a:error", "start 3"]
        );
        dask.on_started(3, Ok(address()), &mut out);
        dask.on_ended(3, &mut out);
        dask.on_become(&request("a"), Map::new(), &mut out);
        assert_eq!(said(&mut out), ["a:ok", "start 4"]);
    }

    #[test]
    fn what_is_heard_of_an_earlier_one_does_not_matter() {
        let (mut dask, mut out) = (DaskScheduler::default(), Vec::new());
        dask.on_become(&request("a"), Map::new(), &mut out);
        dask.on_stop(&request("b"), &mut out);
        assert_eq!(said(&mut out), ["start 1", "a:error", "stop", "b:ok"]);
        dask.on_become(&request("a"), Map::new(), &mut out);
        dask.on_started(1, Ok(address()), &mut out);
        dask.on_ended(1, &mut out);
        assert_eq!(said(&mut out), ["start 2"]);
        dask.on_started(2, Ok(address()), &mut out);
        assert_eq!(said(&mut out), ["a:ok"]);
    }
}
