//! Requests: those for the kernel wait for their turn, those about the engine are carried out here.

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Serving, State};
use crate::engine::engine_thread::now;
use crate::engine::engine_thread::requests::{Origin, Request, is_comm, is_for_kernel};
use crate::engine::kernel::messages::to_kernel;
use crate::engine::queue::Arrival;
use crate::protocol::RemoteError;
use crate::protocol::header::reply_type;
use crate::transport::{Door, Frame, drain};

impl Serving {
    pub(super) fn receive_shell(&mut self, frames: &mut Vec<Frame>) -> bool {
        let mut requests = Vec::new();
        let door = &mut self.door;
        let any = drain(&mut self.sockets.shell, frames, |_, frames| {
            requests.extend(read(door, frames, Origin::Shell))
        });
        for request in requests {
            self.on_shell_request(request);
        }
        any
    }

    /// Takes in what has come by now, even if the poller has not seen it yet.
    pub(super) fn receive_all_of_shell(&mut self) {
        self.sockets.shell.look_again();
        let mut frames = Vec::new();
        while self.receive_shell(&mut frames) {}
    }

    pub(super) fn receive_control(&mut self, frames: &mut Vec<Frame>) {
        let mut requests = Vec::new();
        let door = &mut self.door;
        drain(&mut self.sockets.control, frames, |_, frames| {
            requests.extend(read(door, frames, Origin::Control))
        });
        for request in requests {
            self.on_control_request(request);
        }
    }

    pub(super) fn on_shell_request(&mut self, request: Request) {
        if is_comm(&request.msg_type) {
            return self.send_beside(request);
        }
        if request.msg_type == "shutdown_request" || request.msg_type == "interrupt_request" {
            return self.on_control_request(request);
        }
        if !is_for_kernel(&request.msg_type) {
            return self.refuse(&request);
        }
        let ready = self.kernel.ready && self.takes_requests();
        match self.queue.on_request(request, ready) {
            Arrival::Run => self.start_running(),
            Arrival::Waits => {}
            Arrival::Aborted(request) => self.send_aborted(&request),
        }
    }

    pub(super) fn on_control_request(&mut self, request: Request) {
        match request.msg_type.as_str() {
            "abort_request" => self.abort(&request),
            "signal_request" => self.signal(&request),
            "interrupt_request" => {
                self.signal_kernel(Signal::SIGINT as i32, true);
                self.send_reply(&request, "interrupt_reply", json!({ "status": "ok" }));
            }
            "shutdown_request" => self.shut_down(&request),
            msg_type if is_for_kernel(msg_type) => self.send_beside(request),
            _ => self.refuse(&request),
        }
    }

    pub(super) fn abort(&mut self, request: &Request) {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Ids {
            One(String),
            Several(Vec<String>),
        }
        #[derive(Deserialize)]
        struct Content {
            #[serde(default)]
            msg_ids: Option<Ids>,
        }
        let ids = match serde_json::from_slice(&request.content) {
            Ok(Content {
                msg_ids: Some(Ids::One(id)),
            }) => vec![id],
            Ok(Content {
                msg_ids: Some(Ids::Several(ids)),
            }) => ids,
            Ok(Content { msg_ids: None }) => Vec::new(),
            Err(error) => {
                let error = RemoteError::new("ValueError", format!("bad abort_request: {error}"));
                return self.send_reply(request, "abort_reply", error.to_content());
            }
        };
        let taken = if ids.is_empty() {
            self.queue.abort_all()
        } else {
            self.queue.abort(&ids)
        };
        for request in &taken {
            self.send_aborted(request);
        }
        self.send_reply(request, "abort_reply", json!({ "status": "ok" }));
    }

    pub(super) fn signal(&mut self, request: &Request) {
        let content = match read_signal(&request.content) {
            Ok(signal) => {
                tracing::info!("engine {}: signal {signal} for its kernel", self.who.id);
                self.signal_kernel(signal, false);
                json!({ "status": "ok" })
            }
            Err(error) => error.to_content(),
        };
        self.send_reply(request, "signal_reply", content);
    }

    /// `restart`: the engine comes back with a fresh kernel. `if_idle`, which is ours: only if it has nothing to do;
    /// tasks that are on their way to it go back, since none of them runs.
    pub(super) fn shut_down(&mut self, request: &Request) {
        let asked: Value = serde_json::from_slice(&request.content).unwrap_or_default();
        if asked["if_idle"] == true {
            self.receive_all_of_shell();
            if self.is_busy() {
                let error = RemoteError::new("EngineBusy", "the engine has work to do");
                return self.send_reply(request, "shutdown_reply", error.to_content());
            }
        }
        self.comes_back = asked["restart"] == true;
        if self.comes_back && self.config.kernel.mpi_init.is_some() {
            self.comes_back = false;
            let error = RemoteError::new(
                "NotImplementedError",
                "a process of an MPI job cannot be started again",
            );
            return self.send_reply(request, "shutdown_reply", error.to_content());
        }
        let content = json!({ "status": "ok", "restart": asked["restart"] });
        // Not on iopub as well, as ipykernel does: the hub would take it for the engine's end, and tasks that have not begun
        // for lost. The farewell says better what becomes of them.
        self.send_reply(request, "shutdown_reply", content);
        self.stop();
    }

    fn is_busy(&self) -> bool {
        !self.queue.is_empty() || !self.beside.is_empty()
    }

    /// Hands a request to the kernel without waiting for its turn.
    pub(super) fn send_beside(&mut self, request: Request) {
        self.publish_busy(&request.header.clone());
        self.kernel
            .link
            .send(to_kernel::REQUEST, request_frames(&request));
        self.beside.insert(request.msg_id.clone(), request);
    }

    pub(super) fn refuse(&mut self, request: &Request) {
        let error = RemoteError::new(
            "NotImplementedError",
            format!(
                "engines know no '{}' on their {} channel",
                request.msg_type,
                channel(request.origin)
            ),
        );
        let msg_type = reply_type(&request.msg_type);
        self.send_reply(request, &msg_type, error.to_content());
    }

    pub(super) fn takes_requests(&self) -> bool {
        matches!(self.state, State::Entering | State::Running)
    }

    pub(super) fn run_next(&mut self) {
        if self.kernel.ready && self.takes_requests() && self.queue.run_next().is_some() {
            self.start_running();
        }
    }

    pub(super) fn start_running(&mut self) {
        let Some(request) = self.queue.running_mut() else {
            return;
        };
        request.started = now();
        let header = request.header.clone();
        if request.msg_type == "apply_request" {
            let frames = [Frame::from(&header[..]), request.metadata.clone()];
            let mut frames = frames.to_vec();
            frames.extend(request.buffers.iter().cloned());
            let places = self.kernel.maps.then(|| take_out_memory(&mut frames));
            let tag = match places.flatten() {
                Some(places) => {
                    frames.insert(0, places);
                    to_kernel::MAPPED
                }
                None => to_kernel::APPLY,
            };
            self.kernel.link.send(tag, frames);
        } else {
            self.kernel
                .link
                .send(to_kernel::REQUEST, request_frames(request));
        }
        // First the kernel, which has work to do; then those who watch.
        self.flush_link_now();
        self.last_parent = header.clone();
        self.publish_busy(&header);
    }
}

fn read(door: &mut Door, frames: &[Frame], origin: Origin) -> Option<Request> {
    let wire = door.admit(frames)?;
    match Request::read(&wire, frames, origin) {
        Ok(request) => Some(request),
        Err(why) => {
            door.refuse(frames, why);
            None
        }
    }
}

/// Takes out of an apply's frames what the kernel is to map, and says where that is. Nothing if there is nothing to map.
fn take_out_memory(frames: &mut [Frame]) -> Option<Frame> {
    let places = frames.iter_mut().enumerate().filter_map(|(number, frame)| {
        let place = (number, frame.memory()?.path(), frame.len());
        *frame = Frame::empty();
        Some(place)
    });
    let places: Vec<_> = places.collect();
    (!places.is_empty()).then(|| Frame::from(json!({ "places": places }).to_string().into_bytes()))
}

fn request_frames(request: &Request) -> Vec<Frame> {
    let mut frames = vec![
        Frame::from(request.origin.name()),
        Frame::from(&request.header[..]),
        request.parent_header.clone(),
        request.metadata.clone(),
        request.content.clone(),
    ];
    frames.extend(request.buffers.iter().cloned());
    frames
}

fn channel(origin: Origin) -> &'static str {
    match origin {
        Origin::Shell => "shell",
        Origin::Control => "control",
    }
}

/// `sig` of a signal request: a number, or a name as Python's `signal` module has them.
fn read_signal(content: &[u8]) -> Result<i32, RemoteError> {
    let content: Value = serde_json::from_slice(content).unwrap_or_default();
    let known = match &content["sig"] {
        Value::Number(number) => number
            .as_i64()
            .and_then(|number| i32::try_from(number).ok()),
        Value::String(name) => name.parse::<Signal>().ok().map(|signal| signal as i32),
        _ => None,
    };
    known
        .filter(|number| *number == 0 || Signal::try_from(*number).is_ok())
        .ok_or_else(|| {
            RemoteError::new("ValueError", format!("no such signal: {}", content["sig"]))
        })
}
