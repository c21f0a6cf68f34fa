//! The kernel: what it is told at first, what it answers, and how it ends.

use std::time::Instant;

use serde_json::{Value, json};

use super::sending::object;
use super::{Entries, GRACE, Serving, State, TIME_TO_EXIT};
use crate::engine::engine_thread::requests::{Request, is_comm};
use crate::engine::heart::HeartMail;
use crate::engine::kernel::link::{Received, descriptors_of_a_message};
use crate::engine::kernel::messages::{ExitStatus, FromKernel, KernelInfo, to_kernel};
use crate::engine::mail::{Ending, HostMail, Killed};
use crate::engine::outputs::Stream;
use crate::engine::replies::{Outcome, task_metadata};
use crate::protocol::RemoteError;
use crate::protocol::header::reply_type;
use crate::transport::{Frame, Poller};

impl Serving {
    pub(super) fn configure_kernel(&mut self) {
        let kernel = &self.config.kernel;
        let settings = json!({
            "engine_id": self.who.id,
            "engine_uuid": self.who.uuid,
            "config": kernel.traits,
            "exec_lines": kernel.exec_lines,
            "exec_files": kernel.exec_files,
            "mpi_init": kernel.mpi_init,
            "work_dir": null,
            "env": {},
            "profile_dir": kernel.profile_dir,
            "ipython_dir": kernel.ipython_dir,
            "shared_memory": self.sample,
            "descriptors": descriptors_of_a_message(self.config.count),
            "session": {
                "key": self.config.connection.common.key,
                "signature_scheme": self.config.connection.common.signature_scheme,
            },
        });
        self.kernel.link.send(
            to_kernel::CONFIGURE,
            [Frame::from(settings.to_string().into_bytes())],
        );
    }

    pub(super) fn receive_kernel(&mut self) {
        while !self.kernel.link_ended {
            match self.kernel.link.receive() {
                Ok(Received::Message(message)) => {
                    let tag = message.tag;
                    match FromKernel::parse(message) {
                        Some(message) => self.on_kernel_message(message),
                        None => tracing::error!(
                            "engine {}: its kernel sent an odd message ({tag})",
                            self.who.id
                        ),
                    }
                }
                Ok(Received::Nothing) => break,
                Ok(Received::Closed) => self.on_link_end(),
                Err(error) => {
                    tracing::error!(
                        "engine {}: the link to its kernel broke: {error}",
                        self.who.id
                    );
                    self.on_link_end();
                }
            }
        }
    }

    pub(super) fn on_kernel_message(&mut self, message: FromKernel) {
        match message {
            FromKernel::Ready(info) => self.on_ready(&info),
            FromKernel::Failed(failure) => {
                let hint = failure
                    .hint
                    .map(|hint| format!(" ({hint})"))
                    .unwrap_or_default();
                let why = format!(
                    "its kernel cannot start: {}: {}{hint}",
                    failure.ename, failure.evalue
                );
                self.drain_pipes();
                let ending = Ending::Failed(format!("{why}{}", self.kernel.words));
                self.end(ending, &why);
            }
            FromKernel::Reply {
                msg_id,
                content,
                metadata,
                buffers,
            } => {
                self.on_kernel_reply(&msg_id, content, &metadata, buffers);
            }
            FromKernel::Iopub {
                msg_type,
                parent,
                metadata,
                content,
                buffers,
            } => {
                self.flush_outputs();
                let parent = self.parent_of(parent);
                self.relay_iopub(&msg_type, &parent, &metadata, content, buffers);
            }
            FromKernel::Stream {
                stderr,
                parent,
                text,
            } => {
                let parent = self.parent_of(parent);
                let stream = if stderr {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                };
                if self.outputs.write(Instant::now(), stream, &parent, &text) {
                    self.flush_outputs();
                }
            }
            FromKernel::Done { msg_id } => self.on_done(&msg_id),
            FromKernel::Log { level, text } => match level.as_str() {
                "ERROR" | "CRITICAL" => tracing::error!("engine {}: {text}", self.who.id),
                "WARNING" => tracing::warn!("engine {}: {text}", self.who.id),
                "INFO" => tracing::info!("engine {}: {text}", self.who.id),
                _ => tracing::debug!("engine {}: {text}", self.who.id),
            },
        }
    }

    pub(super) fn on_ready(&mut self, info: &KernelInfo) {
        if let Some(kernel) = &info.kernel {
            tracing::info!(
                "engine {}: runs the Jupyter kernel {} ({} {})",
                self.who.id,
                kernel.name,
                kernel.language,
                kernel.version
            );
        } else {
            self.describe_own_kernel(info);
        }
        self.drain_pipes();
        self.kernel.ready = true;
        self.kernel.maps = info.maps;
        let words = std::mem::take(&mut self.kernel.words);
        if !words.is_empty() {
            tracing::info!(
                "engine {}: as it started, its kernel wrote:{}",
                self.who.id,
                words.indented()
            );
        }
    }

    pub(super) fn describe_own_kernel(&self, info: &KernelInfo) {
        tracing::debug!(
            "engine {}: kernel {} runs Python {} ({})",
            self.who.id,
            info.pid,
            info.python,
            info.executable
        );
        if info.ipyparallel.is_none() {
            let python = &info.executable;
            let _ = self.host.send(HostMail::Warning(format!(
                "ipyparallel is missing from {python}: code can be executed, but functions cannot be applied; \
                 `{python} -m pip install ipyparallel` mends that, --python takes another Python",
            )));
        }
        if info.mode != "ipyparallel" {
            tracing::info!(
                "engine {}: the kernel is one of mode {}",
                self.who.id,
                info.mode
            );
        }
    }

    /// The engine counts as registered with its first heartbeat, so that begins when everything else is there.
    pub(super) fn enter_when_ready(&mut self) {
        if self.state == State::Entering && self.kernel.ready && self.sockets.all_connected() {
            self.state = State::Running;
            self.hearts.send(HeartMail::Beat {
                uuid: self.who.uuid.clone(),
                period: self.heartbeat_period,
                // As those do that know last words.
                renews: self.farewells,
            });
            let _ = self.host.send(HostMail::Running { rank: self.rank });
        }
    }

    pub(super) fn on_kernel_reply(
        &mut self,
        msg_id: &str,
        content: Vec<u8>,
        metadata: &[u8],
        buffers: Vec<Frame>,
    ) {
        self.drain_pipes();
        self.flush_outputs();
        if let Some(mut request) = self.beside.remove(msg_id) {
            request.replied = true;
            let extra = json!({ "engine": self.who.uuid });
            self.send_parts(
                &request,
                &reply_type(&request.msg_type),
                object(extra),
                content,
                buffers,
            );
            self.beside.insert(msg_id.to_owned(), request);
            return;
        }
        if self
            .queue
            .running()
            .is_none_or(|request| request.msg_id != msg_id || request.replied)
        {
            return;
        }
        let Some(mut request) = self.queue.lend() else {
            return;
        };
        request.replied = true;
        let stops_others = self.send_task_reply(&request, content, metadata, buffers);
        // Before anything else is received: what comes while it is not done waits behind it.
        self.queue.put_back(request);
        if stops_others {
            // Those that are on their way to this engine already were sent before the failure could be known.
            self.receive_all_of_shell();
            for request in self.queue.abort_executions() {
                self.send_aborted(&request);
            }
        }
    }

    /// `true` when executions that wait behind this one are not to run.
    pub(super) fn send_task_reply(
        &mut self,
        request: &Request,
        content: Vec<u8>,
        metadata: &[u8],
        buffers: Vec<Frame>,
    ) -> bool {
        let outcome: Outcome = serde_json::from_slice(&content).unwrap_or_default();
        let mut full = if matches!(
            request.msg_type.as_str(),
            "apply_request" | "execute_request"
        ) {
            task_metadata(&self.who, &request.metadata, request.started, &outcome)
        } else {
            object(json!({ "engine": self.who.uuid }))
        };
        if let Ok(Value::Object(own)) = serde_json::from_slice(metadata) {
            full.extend(own);
        }
        self.send_parts(
            request,
            &reply_type(&request.msg_type),
            full,
            content,
            buffers,
        );
        outcome.status == "error" && request.stops_on_error()
    }

    pub(super) fn on_done(&mut self, msg_id: &str) {
        self.drain_pipes();
        self.flush_outputs();
        if let Some(request) = self.beside.remove(msg_id) {
            if !request.replied && !is_comm(&request.msg_type) {
                self.send_unanswered(&request);
            }
            self.publish_idle(&request.header);
            return;
        }
        if self
            .queue
            .running()
            .is_none_or(|request| request.msg_id != msg_id)
        {
            return;
        }
        if let Some(request) = self.queue.on_done() {
            if !request.replied {
                self.send_unanswered(&request);
            }
            self.publish_idle(&request.header);
        }
        self.run_next();
    }

    pub(super) fn send_unanswered(&mut self, request: &Request) {
        let error = RemoteError::new(
            "RuntimeError",
            format!("the kernel did not answer the {}", request.msg_type),
        );
        self.send_failure(request, &error);
    }

    pub(super) fn on_link_end(&mut self) {
        self.kernel.link_ended = true;
        if self.takes_requests() {
            self.state = State::KernelLost {
                until: Instant::now() + TIME_TO_EXIT,
            };
        }
    }

    pub(super) fn on_kernel_exit(&mut self, status: Option<ExitStatus>, why: Option<Killed>) {
        if self.takes_requests() {
            // Nothing more is given to it, so that what has not begun can go elsewhere.
            self.state = State::KernelLost {
                until: Instant::now() + GRACE,
            };
        }
        // What it has written before it died counts.
        self.receive_kernel();
        self.drain_pipes();
        self.flush_outputs();
        if matches!(self.state, State::Stopping { .. }) {
            return self.end(Ending::Asked, "it was stopped");
        }
        let ok = status == Some(ExitStatus::Code(0));
        let how = match (status, &why) {
            (_, Some(Killed::OverLimit(why))) => why.clone(),
            (Some(status), _) if !self.kernel.ready => {
                let program = &self.config.kernel.program;
                format!("its kernel ({program}) ended before it was ready: {status}")
            }
            (Some(ExitStatus::Code(0)), _) => "its kernel ended itself".to_owned(),
            (Some(status), None) => format!("its kernel died: {status}"),
            (Some(status), Some(Killed::OutOfMemory)) => {
                format!("its kernel died: {status}, and this machine ran out of memory")
            }
            (_, Some(Killed::WithForkServer)) => {
                "its kernel died with the process that it was forked from".to_owned()
            }
            (None, _) => "its kernel died".to_owned(),
        };
        let all = if self.kernel.ready {
            how.clone()
        } else {
            format!("{how}{}", self.kernel.words)
        };
        let ending = match why {
            Some(Killed::OverLimit(_)) => Ending::OutOfMemory { how: all },
            Some(Killed::WithForkServer) => Ending::ForkServerLost { how: all },
            _ => Ending::KernelEnded {
                how: all,
                ok,
                was_ready: self.kernel.ready,
            },
        };
        self.end(ending, &how);
    }

    pub(super) fn signal_kernel(&self, signal: i32, group: bool) {
        let _ = self.host.send(HostMail::Signal {
            rank: self.rank,
            signal,
            group,
        });
    }

    pub(super) fn flush_link_now(&mut self) {
        if !self.kernel.link_ended && self.kernel.link.flush().is_err() {
            // What is left to be read says why.
            self.receive_kernel();
        }
    }

    pub(super) fn flush_link(&mut self, poller: &mut Poller, entries: &Entries) {
        self.flush_link_now();
        if self.kernel.link_ended {
            poller.replace_fd(entries.link, -1);
        } else {
            poller.want_write(entries.link, self.kernel.link.has_unsent());
        }
    }
}
