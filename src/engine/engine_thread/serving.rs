//! An engine at work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::requests::{Origin, Request, is_comm, is_for_kernel};
use super::{
    EngineThread, Registered, is_registration_reply, now, read_registration, registration,
    unregistration,
};
use crate::engine::config::{Config, KernelProgram};
use crate::engine::heart::HeartMail;
use crate::engine::kernel::link::{Link, Received};
use crate::engine::kernel::messages::{ExitStatus, FromKernel, KernelInfo, to_kernel};
use crate::engine::kernel::pipes::OutputPipe;
use crate::engine::mail::{Ending, EngineMail, HostMail, KernelIo, Killed, Rank};
use crate::engine::outputs::{Outputs, Stream, Utf8Pieces};
use crate::engine::queue::{Arrival, RequestQueue};
use crate::engine::replies::{Identification, Outcome, aborted, leaving, returned, task_metadata};
use crate::engine::sockets::{ControllerNews, EngineSockets, Registrar};
use crate::engine::starting::{LastWords, Late, Patience};
use crate::protocol::digests::DigestHistory;
use crate::protocol::header::reply_type;
use crate::protocol::{Composer, Outgoing, RemoteError};
use crate::transport::{Door, Frame, Mailbox, Outbox, Poller, Sender, drain, time_left};

/// A kernel whose link has ended, but not its process, has this long to go by itself.
const TIME_TO_EXIT: Duration = Duration::from_millis(300);

/// A kernel that was told to end has this long.
const GRACE: Duration = Duration::from_secs(3);

/// A full pipe, of 64 KiB unless its writer wants another size, is empty after the first of these reads.
const READS_OF_A_FULL_PIPE: usize = 2;

pub(super) struct Serving {
    rank: Rank,
    config: Arc<Config>,
    who: Identification,
    heartbeat_period: Duration,
    mailbox: Mailbox<EngineMail>,
    mail: Vec<EngineMail>,
    host: UnboundedSender<HostMail>,
    hearts: Sender<HeartMail>,
    composer: Composer,
    door: Door,
    registrar: Registrar,
    sockets: EngineSockets,
    shell_out: Outbox,
    control_out: Outbox,
    kernel: Kernel,
    queue: RequestQueue<Request>,
    /// Comm messages and control requests that the kernel has, by message id.
    beside: HashMap<String, Request>,
    outputs: Outputs,
    /// The parent of what is written while no request runs: the last one, as in ipykernel.
    last_parent: Bytes,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The kernel is starting, or connections are missing.
    Entering,
    Running,
    /// The kernel's link has ended; its exit status is awaited.
    KernelLost {
        until: Instant,
    },
    /// The kernel was told to end.
    Stopping {
        until: Instant,
    },
    Ended(Ending),
}

struct Kernel {
    link: Link,
    stdout: Option<OutputPipe>,
    stderr: Option<OutputPipe>,
    stdout_text: Utf8Pieces,
    stderr_text: Utf8Pieces,
    ready: bool,
    /// For as long as it is not ready: nobody reads yet what it writes.
    words: LastWords,
    patience: Patience,
    link_ended: bool,
}

/// Where the poller's entries are.
struct Entries {
    link: usize,
    stdout: usize,
    stderr: usize,
}

impl Serving {
    pub(super) fn new(
        thread: EngineThread,
        who: Identification,
        heartbeat_period: Duration,
        registrar: Registrar,
        sockets: EngineSockets,
        kernel: KernelIo,
    ) -> Self {
        let EngineThread {
            rank,
            config,
            mailbox,
            mail,
            host,
            hearts,
            composer,
            ..
        } = thread;
        let digests = Arc::new(Mutex::new(DigestHistory::new(config.digest_history)));
        let door = Door::new("engine", composer.signer().clone(), digests);
        let KernelIo {
            link,
            stdout,
            stderr,
        } = kernel;
        let kernel = Kernel {
            link,
            stdout: Some(stdout),
            stderr: Some(stderr),
            stdout_text: Utf8Pieces::default(),
            stderr_text: Utf8Pieces::default(),
            ready: false,
            words: LastWords::default(),
            patience: Patience::new(Instant::now(), config.start_timeout),
            link_ended: false,
        };
        Self {
            rank,
            config,
            who,
            heartbeat_period,
            mailbox,
            mail,
            host,
            hearts,
            composer,
            door,
            registrar,
            sockets,
            shell_out: Outbox::default(),
            control_out: Outbox::default(),
            kernel,
            queue: RequestQueue::new(),
            beside: HashMap::new(),
            outputs: Outputs::default(),
            last_parent: Bytes::from_static(b"{}"),
            state: State::Entering,
        }
    }

    pub(super) fn run(mut self) -> Ending {
        self.configure_kernel();
        let mut poller = Poller::new();
        poller.add_socket(&mut self.registrar.socket);
        poller.add_socket(&mut self.sockets.shell);
        poller.add_socket(&mut self.sockets.control);
        poller.add_socket(&mut self.sockets.iopub);
        poller.add_fd(self.mailbox.fd());
        let entries = Entries {
            link: poller.add_fd(self.kernel.link.fd()),
            stdout: poller.add_fd(self.kernel.stdout.as_ref().map_or(-1, OutputPipe::fd)),
            stderr: poller.add_fd(self.kernel.stderr.as_ref().map_or(-1, OutputPipe::fd)),
        };
        for message in std::mem::take(&mut self.mail) {
            self.on_mail(message);
        }
        let mut mail = Vec::new();
        let mut frames = Vec::new();
        loop {
            let mut busy = self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                self.on_mail(message);
            }
            // Control before shell: an abort must find what it aborts in the queue, or be known before it comes.
            busy |= self.receive_control(&mut frames);
            busy |= self.receive_shell(&mut frames);
            busy |= self.sockets.receive_news(&mut frames);
            busy |= self.receive_registrar(&mut frames);
            busy |= self.receive_kernel();
            busy |= self.receive_output(&mut poller, &entries);
            self.run_next();
            self.on_time();
            if let State::Ended(how) = &self.state {
                return how.clone();
            }
            let timeout = if busy {
                Some(Duration::ZERO)
            } else {
                self.flush_link(&mut poller, &entries);
                self.timeout()
            };
            if let Err(error) = poller.wait(timeout) {
                return Ending::Failed(format!("cannot wait for messages: {error}"));
            }
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let state = match &self.state {
            State::KernelLost { until } | State::Stopping { until } => Some(*until),
            State::Entering if !self.kernel.ready => self.kernel.patience.next_deadline(),
            State::Entering | State::Running | State::Ended(_) => None,
        };
        let retries = [self.shell_out.next_retry(), self.control_out.next_retry()];
        time_left([state, self.outputs.next_deadline(), retries[0], retries[1]])
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self
            .outputs
            .next_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.flush_outputs();
        }
        self.shell_out.retry(&mut self.sockets.shell, now);
        self.control_out.retry(&mut self.sockets.control, now);
        self.enter_when_ready();
        match self.state {
            State::KernelLost { until } if until <= now => {
                // Without its link a kernel is of no use to anybody. Its exit is reported when it is dead.
                self.signal_kernel(Signal::SIGKILL as i32, true);
                self.state = State::KernelLost { until: now + GRACE };
            }
            State::Stopping { until } if until <= now => self.end(Ending::Asked, "it was stopped"),
            State::Entering if !self.kernel.ready => self.on_waiting(now),
            _ => {}
        }
    }

    /// The kernel is not ready yet.
    fn on_waiting(&mut self, now: Instant) {
        match self.kernel.patience.on_time(now) {
            None => {}
            Some(Late::Warn(waited)) => tracing::warn!(
                "engine {}: its kernel has been starting for {:.0} s: waiting for its imports and its start-up code",
                self.who.id,
                waited.as_secs_f64()
            ),
            Some(Late::GiveUp(limit)) => {
                self.drain_pipes();
                let why = format!(
                    "its kernel ({}) was not ready within {:.1} s (--start-timeout gives it longer)",
                    self.config.kernel.program,
                    limit.as_secs_f64()
                );
                let ending = Ending::Failed(format!("{why}{}", self.kernel.words));
                self.end(ending, &why);
            }
        }
    }

    fn on_mail(&mut self, message: EngineMail) {
        match message {
            EngineMail::KernelExited { status, why } => self.on_kernel_exit(status, why),
            EngineMail::KernelFailed(why) => self.end(Ending::Failed(why.clone()), &why),
            EngineMail::ControllerLost => {
                let why = "no heartbeat of the controller for too long".to_owned();
                self.end(Ending::Failed(why.clone()), &why);
            }
            EngineMail::PingsMissed => self.register_again(),
            EngineMail::Stop => self.stop(),
            EngineMail::KernelStarted(_) => {}
        }
    }

    // ---- the controller

    fn receive_registrar(&mut self, frames: &mut Vec<Frame>) -> bool {
        let news = self.registrar.news();
        match news {
            Some(ControllerNews::Lost) => {
                tracing::warn!(
                    "engine {}: the connection to the controller is lost; waiting for it",
                    self.who.id
                );
            }
            Some(ControllerNews::Back) => self.register_again(),
            None => {}
        }
        let mut answers = Vec::new();
        let door = &mut self.door;
        let any = drain(&mut self.registrar.socket, frames, |_, frames| {
            let answer = door.admit(frames).filter(is_registration_reply);
            answers.extend(answer.map(|wire| read_registration(&wire)));
        });
        for answer in answers {
            match answer {
                Ok(registered) => self.on_registered_again(&registered),
                Err(why) => tracing::info!("engine {}: registered as before ({why})", self.who.id),
            }
        }
        any || news.is_some()
    }

    /// When the controller or this process was away, the engine asks for its registration again: a controller that
    /// does not know it, or that took it for dead, takes it in; any other says that the uuid is in use, which is good
    /// news too.
    fn register_again(&mut self) {
        if !self.takes_requests() {
            return;
        }
        let mut request = registration(&mut self.composer, &self.who.uuid, Some(self.who.id.0));
        if let Err(error) = self.registrar.socket.send(&mut request) {
            tracing::warn!("engine {}: cannot register again: {error}", self.who.id);
        }
    }

    fn on_registered_again(&mut self, registered: &Registered) {
        if registered.id == self.who.id {
            tracing::info!("engine {}: registered again", self.who.id);
        } else {
            tracing::warn!(
                "engine {}: registered again, as engine {}",
                self.who.id,
                registered.id
            );
            self.who.id = registered.id;
        }
    }

    // ---- requests

    fn receive_shell(&mut self, frames: &mut Vec<Frame>) -> bool {
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
    fn receive_all_of_shell(&mut self) {
        self.sockets.shell.look_again();
        let mut frames = Vec::new();
        while self.receive_shell(&mut frames) {}
    }

    fn receive_control(&mut self, frames: &mut Vec<Frame>) -> bool {
        let mut requests = Vec::new();
        let door = &mut self.door;
        let any = drain(&mut self.sockets.control, frames, |_, frames| {
            requests.extend(read(door, frames, Origin::Control))
        });
        for request in requests {
            self.on_control_request(request);
        }
        any
    }

    fn on_shell_request(&mut self, request: Request) {
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

    fn on_control_request(&mut self, request: Request) {
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

    fn abort(&mut self, request: &Request) {
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

    fn signal(&mut self, request: &Request) {
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

    fn shut_down(&mut self, request: &Request) {
        let restart =
            serde_json::from_slice::<Value>(&request.content).unwrap_or_default()["restart"]
                .clone();
        let content = json!({ "status": "ok", "restart": restart });
        self.send_reply(request, "shutdown_reply", content.clone());
        self.publish("shutdown_reply", &request.header, content);
        self.stop();
    }

    /// Hands a request to the kernel without waiting for its turn.
    fn send_beside(&mut self, request: Request) {
        self.publish_status("busy", &request.header.clone());
        self.kernel
            .link
            .send(to_kernel::REQUEST, request_frames(&request));
        self.beside.insert(request.msg_id.clone(), request);
    }

    fn refuse(&mut self, request: &Request) {
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

    fn takes_requests(&self) -> bool {
        matches!(self.state, State::Entering | State::Running)
    }

    fn run_next(&mut self) {
        if self.kernel.ready && self.takes_requests() && self.queue.run_next().is_some() {
            self.start_running();
        }
    }

    fn start_running(&mut self) {
        let Some(request) = self.queue.running_mut() else {
            return;
        };
        request.started = now();
        let header = request.header.clone();
        if request.msg_type == "apply_request" {
            let frames = [Frame::from(&header[..]), request.metadata.clone()];
            self.kernel.link.send(
                to_kernel::APPLY,
                frames.into_iter().chain(request.buffers.iter().cloned()),
            );
        } else {
            self.kernel
                .link
                .send(to_kernel::REQUEST, request_frames(request));
        }
        // First the kernel, which has work to do; then those who watch.
        self.flush_link_now();
        self.last_parent = header.clone();
        self.publish_status("busy", &header);
    }

    // ---- the kernel

    fn configure_kernel(&mut self) {
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

    fn receive_kernel(&mut self) -> bool {
        let mut any = false;
        while !self.kernel.link_ended {
            match self.kernel.link.receive() {
                Ok(Received::Message(message)) => {
                    any = true;
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
        any
    }

    fn on_kernel_message(&mut self, message: FromKernel) {
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

    fn on_ready(&mut self, info: &KernelInfo) {
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
        let words = std::mem::take(&mut self.kernel.words);
        if !words.is_empty() {
            tracing::info!(
                "engine {}: as it started, its kernel wrote:{}",
                self.who.id,
                words.indented()
            );
        }
    }

    fn describe_own_kernel(&self, info: &KernelInfo) {
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
    fn enter_when_ready(&mut self) {
        if self.state == State::Entering && self.kernel.ready && self.sockets.all_connected() {
            self.state = State::Running;
            self.hearts.send(HeartMail::Beat {
                uuid: self.who.uuid.clone(),
                period: self.heartbeat_period,
            });
            let _ = self.host.send(HostMail::Running { rank: self.rank });
        }
    }

    fn on_kernel_reply(
        &mut self,
        msg_id: &str,
        content: Vec<u8>,
        metadata: &[u8],
        buffers: Vec<Vec<u8>>,
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
    fn send_task_reply(
        &mut self,
        request: &Request,
        content: Vec<u8>,
        metadata: &[u8],
        buffers: Vec<Vec<u8>>,
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

    fn on_done(&mut self, msg_id: &str) {
        self.drain_pipes();
        self.flush_outputs();
        if let Some(request) = self.beside.remove(msg_id) {
            if !request.replied && !is_comm(&request.msg_type) {
                self.send_unanswered(&request);
            }
            self.publish_status("idle", &request.header);
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
            self.publish_status("idle", &request.header);
        }
        self.run_next();
    }

    fn send_unanswered(&mut self, request: &Request) {
        let error = RemoteError::new(
            "RuntimeError",
            format!("the kernel did not answer the {}", request.msg_type),
        );
        self.send_failure(request, &error);
    }

    fn on_link_end(&mut self) {
        self.kernel.link_ended = true;
        if self.takes_requests() {
            self.state = State::KernelLost {
                until: Instant::now() + TIME_TO_EXIT,
            };
        }
    }

    fn on_kernel_exit(&mut self, status: Option<ExitStatus>, why: Option<Killed>) {
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
            (None, _) => "its kernel died".to_owned(),
        };
        let all = if self.kernel.ready {
            how.clone()
        } else {
            format!("{how}{}", self.kernel.words)
        };
        let ending = match why {
            Some(Killed::OverLimit(_)) => Ending::OutOfMemory { how: all },
            _ => Ending::KernelEnded { how: all, ok },
        };
        self.end(ending, &how);
    }

    fn signal_kernel(&self, signal: i32, group: bool) {
        let _ = self.host.send(HostMail::Signal {
            rank: self.rank,
            signal,
            group,
        });
    }

    fn flush_link_now(&mut self) {
        if !self.kernel.link_ended && self.kernel.link.flush().is_err() {
            // What is left to be read says why.
            self.receive_kernel();
        }
    }

    fn flush_link(&mut self, poller: &mut Poller, entries: &Entries) {
        self.flush_link_now();
        if self.kernel.link_ended {
            poller.replace_fd(entries.link, -1);
        } else {
            poller.want_write(entries.link, self.kernel.link.has_unsent());
        }
    }

    // ---- the end

    /// Ends in order: the kernel may run its exit handlers.
    fn stop(&mut self) {
        if !self.takes_requests() {
            return;
        }
        self.state = State::Stopping {
            until: Instant::now() + GRACE,
        };
        let was_busy = self.queue.running().is_some() || !self.beside.is_empty();
        self.fail_requests("it was stopped");
        self.kernel.link.send(to_kernel::EXIT, []);
        self.flush_link_now();
        // Code that is running does not see the message. A kernel that is not ours may know of no other way to take
        // SIGTERM than to end at once: it gets it only then.
        let is_own = matches!(self.config.kernel.program, KernelProgram::Own(_));
        if is_own || was_busy {
            self.signal_kernel(Signal::SIGTERM as i32, false);
        }
    }

    fn end(&mut self, how: Ending, reason: &str) {
        if matches!(self.state, State::Ended(_)) {
            return;
        }
        self.state = State::Ended(how);
        // Tasks that are on their way have not begun either.
        self.receive_all_of_shell();
        let returned = self.fail_requests(reason);
        self.hearts.send(HeartMail::Stop {
            uuid: self.who.uuid.clone(),
        });
        let mut farewell = unregistration(
            &mut self.composer,
            &self.who.uuid,
            self.who.id,
            reason,
            &returned,
        );
        if let Err(error) = self.registrar.socket.send(&mut farewell) {
            tracing::debug!("engine {}: cannot say good-bye: {error}", self.who.id);
        }
        self.signal_kernel(Signal::SIGKILL as i32, true);
    }

    /// Answers everything that is left. Tasks that have not begun go back; their ids are returned.
    fn fail_requests(&mut self, how: &str) -> Vec<String> {
        let running: Vec<Request> = self
            .queue
            .on_done()
            .into_iter()
            .chain(std::mem::take(&mut self.beside).into_values())
            .collect();
        let answered = |request: &Request| request.replied || is_comm(&request.msg_type);
        let waiting = self.queue.abort_all();
        // The last answer to a task says that it is: what the scheduler then still has with this engine was on its way.
        let mut tasks = running.iter().filter(|request| !answered(request));
        let a_task_runs = tasks.any(Request::is_task);
        let mut left = waiting.iter().filter(|request| request.is_task()).count();
        let mut given_back = Vec::new();
        for request in waiting {
            if request.is_task() {
                let (content, mut extra) = returned();
                left -= 1;
                if left == 0 && !a_task_runs {
                    extra.extend(leaving());
                }
                self.send_outcome(&request, content, extra);
                given_back.push(request.msg_id);
            } else {
                let error = RemoteError::engine_died(self.who.id, &request.msg_id, how);
                self.send_failure(&request, &error);
            }
        }
        for request in running {
            if !answered(&request) {
                let error = RemoteError::engine_died(self.who.id, &request.msg_id, how);
                self.send_outcome(&request, error.to_content(), leaving());
            }
            self.publish_status("idle", &request.header);
        }
        given_back
    }

    // ---- replies

    fn send_reply(&mut self, request: &Request, msg_type: &str, content: Value) {
        let metadata = object(json!({ "engine": self.who.uuid }));
        self.send_parts(
            request,
            msg_type,
            metadata,
            content.to_string().into_bytes(),
            Vec::new(),
        );
    }

    fn send_failure(&mut self, request: &Request, error: &RemoteError) {
        self.send_outcome(request, error.to_content(), Map::new());
    }

    fn send_aborted(&mut self, request: &Request) {
        self.publish_status("busy", &request.header);
        self.send_outcome(request, aborted(&request.msg_id), Map::new());
        self.publish_status("idle", &request.header);
    }

    /// A reply that the kernel had no part in.
    fn send_outcome(&mut self, request: &Request, content: Value, extra: Map<String, Value>) {
        let outcome = Outcome {
            status: content["status"].as_str().unwrap_or_default().to_owned(),
            ename: content["ename"].as_str().map(str::to_owned),
        };
        let mut metadata = task_metadata(&self.who, &request.metadata, now(), &outcome);
        metadata.extend(extra);
        let msg_type = reply_type(&request.msg_type);
        self.send_parts(
            request,
            &msg_type,
            metadata,
            content.to_string().into_bytes(),
            Vec::new(),
        );
    }

    fn send_parts(
        &mut self,
        request: &Request,
        msg_type: &str,
        metadata: Map<String, Value>,
        content: Vec<u8>,
        buffers: Vec<Vec<u8>>,
    ) {
        let header = self.composer.header(msg_type, now());
        let metadata = Value::from(metadata).to_string().into_bytes();
        let parts = self
            .composer
            .seal(header, &request.header, metadata, content);
        let mut frames = request.route.clone();
        frames.extend(parts.into_iter().map(Frame::from));
        frames.extend(buffers.into_iter().map(Frame::from));
        match request.origin {
            Origin::Shell => self.shell_out.send(&mut self.sockets.shell, &mut frames),
            Origin::Control => self
                .control_out
                .send(&mut self.sockets.control, &mut frames),
        }
    }

    // ---- output

    fn publish_status(&mut self, state: &str, parent: &[u8]) {
        self.publish("status", parent, json!({ "execution_state": state }));
    }

    fn publish(&mut self, msg_type: &str, parent: &[u8], content: Value) {
        let metadata = json!({ "engine": self.who.uuid });
        let message = Outgoing::new(msg_type, content)
            .parent(parent)
            .metadata(metadata);
        let parts = self.composer.compose(&message, now());
        self.send_iopub(msg_type, parts, Vec::new());
    }

    fn relay_iopub(
        &mut self,
        msg_type: &str,
        parent: &[u8],
        metadata: &[u8],
        content: Vec<u8>,
        buffers: Vec<Vec<u8>>,
    ) {
        let mut full = match serde_json::from_slice(metadata) {
            Ok(Value::Object(own)) => own,
            _ => Map::new(),
        };
        full.entry("engine").or_insert_with(|| json!(self.who.uuid));
        let header = self.composer.header(msg_type, now());
        let parts = self.composer.seal(
            header,
            parent,
            Value::from(full).to_string().into_bytes(),
            content,
        );
        self.send_iopub(msg_type, parts, buffers);
    }

    fn send_iopub(&mut self, topic: &str, parts: [Vec<u8>; 6], buffers: Vec<Vec<u8>>) {
        let topic = format!("engine.{}.{topic}", self.who.id);
        let mut frames = vec![Frame::from(topic.as_bytes())];
        frames.extend(parts.into_iter().map(Frame::from));
        frames.extend(buffers.into_iter().map(Frame::from));
        if let Err(error) = self.sockets.iopub.send(&mut frames) {
            tracing::debug!(
                "engine {}: output could not be published: {error}",
                self.who.id
            );
        }
    }

    fn parent_of(&self, parent: Vec<u8>) -> Bytes {
        if parent.is_empty() {
            self.queue.running().map_or_else(
                || self.last_parent.clone(),
                |request| request.header.clone(),
            )
        } else {
            Bytes::from(parent)
        }
    }

    fn flush_outputs(&mut self) {
        for held in self.outputs.flush() {
            let content = json!({ "name": held.stream.name(), "text": held.text });
            let metadata = json!({ "engine": self.who.uuid });
            let message = Outgoing::new("stream", content)
                .parent(&held.parent)
                .metadata(metadata);
            let parts = self.composer.compose(&message, now());
            self.send_iopub(held.stream.name(), parts, Vec::new());
        }
    }

    fn receive_output(&mut self, poller: &mut Poller, entries: &Entries) -> bool {
        let any = self.read_pipe(Stream::Stdout) | self.read_pipe(Stream::Stderr);
        if self.kernel.stdout.is_none() {
            poller.replace_fd(entries.stdout, -1);
        }
        if self.kernel.stderr.is_none() {
            poller.replace_fd(entries.stderr, -1);
        }
        any
    }

    /// Reads what was written so far, and not what a process that writes without end adds meanwhile.
    fn drain_pipes(&mut self) {
        for _ in 0..READS_OF_A_FULL_PIPE {
            if !(self.read_pipe(Stream::Stdout) | self.read_pipe(Stream::Stderr)) {
                return;
            }
        }
    }

    fn read_pipe(&mut self, stream: Stream) -> bool {
        let (pipe, pieces) = match stream {
            Stream::Stdout => (&mut self.kernel.stdout, &mut self.kernel.stdout_text),
            Stream::Stderr => (&mut self.kernel.stderr, &mut self.kernel.stderr_text),
        };
        let Some(reader) = pipe else { return false };
        let Some(bytes) = reader.read() else {
            *pipe = None;
            return false;
        };
        if bytes.is_empty() {
            return false;
        }
        let text = pieces.push(&bytes);
        if !self.kernel.ready {
            self.kernel.words.push(&text);
            return true;
        }
        let parent = self.parent_of(Vec::new());
        if self.outputs.write(Instant::now(), stream, &parent, &text) {
            self.flush_outputs();
        }
        true
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

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
