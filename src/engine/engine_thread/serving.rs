//! An engine at work.

mod ending;
mod incoming;
mod kernel_side;
mod output;
mod recount;
mod sending;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::requests::Request;
use super::{
    EngineThread, Registered, is_registration_reply, read_registration, registration, usage,
};
use crate::engine::config::Config;
use crate::engine::heart::HeartMail;
use crate::engine::kernel::link::Link;
use crate::engine::kernel::pipes::OutputPipe;
use crate::engine::mail::{Ending, EngineMail, HostMail, KernelIo, Rank};
use crate::engine::outputs::{Outputs, Utf8Pieces};
use crate::engine::queue::RequestQueue;
use crate::engine::replies::Identification;
use crate::engine::sockets::{ControllerNews, EngineSockets, Registrar};
use crate::engine::starting::{LastWords, Late, Patience};
use crate::protocol::digests::DigestHistory;
use crate::protocol::{Composer, EngineUuid};
use crate::transport::{Door, Frame, Mailbox, Outbox, Poller, Sender, drain, time_left};

/// A kernel whose link has ended, but not its process, has this long to go by itself.
const TIME_TO_EXIT: Duration = Duration::from_millis(300);

/// A kernel that was told to end has this long.
const GRACE: Duration = Duration::from_secs(3);

/// A controller that still has an engine when it asks for its registration again has by now dropped it if it is going to
/// because its connections were down.
const SETTLED: Duration = Duration::from_secs(2);

/// A full pipe, of 64 KiB unless its writer wants another size, is empty before the last of these reads.
const READS_OF_A_FULL_PIPE: usize = 5;

pub(super) struct Serving {
    rank: Rank,
    config: Arc<Config>,
    who: Identification,
    heartbeat_period: Duration,
    /// See [`Registered`].
    farewells: bool,
    recounts: bool,
    mailbox: Mailbox<EngineMail>,
    mail: Vec<EngineMail>,
    host: UnboundedSender<HostMail>,
    hearts: Sender<HeartMail>,
    composer: Composer,
    post: Option<EngineUuid>,
    sample: Option<String>,
    door: Door,
    registrar: Registrar,
    sockets: EngineSockets,
    shell_out: Outbox,
    control_out: Outbox,
    kernel: Kernel,
    queue: RequestQueue<Request>,
    /// Comm messages and control requests that the kernel has, by message id.
    beside: HashMap<String, Request>,
    /// The last requests that were answered, see [`Recount`](crate::protocol::Recount).
    answered: VecDeque<String>,
    outputs: Outputs,
    /// The parent of what is written while no request runs: the last one, as in ipykernel.
    last_parent: Bytes,
    state: State,
    asking: Asking,
    /// When it has ended as it was asked to, it is started again.
    comes_back: bool,
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

/// Where an engine whose connections were down is with asking for its registration again. A refusal says that the controller
/// still has it, which may be over in a moment, because its connection was closed: after [`SETTLED`] it asks once more.
#[derive(Debug, PartialEq, Eq)]
enum Asking {
    No,
    First,
    Last { at: Instant },
}

struct Kernel {
    link: Link,
    stdout: Option<OutputPipe>,
    stderr: Option<OutputPipe>,
    stdout_text: Utf8Pieces,
    stderr_text: Utf8Pieces,
    ready: bool,
    /// It can map memory of this process.
    maps: bool,
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
        registered: &Registered,
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
            post,
            sample,
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
            maps: false,
            words: LastWords::default(),
            patience: Patience::new(Instant::now(), config.start_timeout),
            link_ended: false,
        };
        Self {
            rank,
            config,
            who,
            heartbeat_period: registered.heartbeat_period,
            farewells: registered.farewells,
            recounts: registered.recounts,
            mailbox,
            mail,
            host,
            hearts,
            composer,
            post,
            sample,
            door,
            registrar,
            sockets,
            shell_out: Outbox::default(),
            control_out: Outbox::default(),
            kernel,
            queue: RequestQueue::new(),
            beside: HashMap::new(),
            answered: VecDeque::new(),
            outputs: Outputs::default(),
            last_parent: Bytes::from_static(b"{}"),
            state: State::Entering,
            asking: Asking::No,
            comes_back: false,
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
            self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                self.on_mail(message);
            }
            // Control before shell: an abort must find what it aborts in the queue, or be known before it comes.
            self.receive_control(&mut frames);
            self.receive_shell(&mut frames);
            for queue in self.sockets.receive_news(&mut frames) {
                self.recount(&queue, false);
            }
            self.receive_registrar(&mut frames);
            if poller.has_events(entries.link) {
                self.receive_kernel();
            }
            self.receive_output(&mut poller, &entries);
            self.run_next();
            self.on_time();
            self.flush_link(&mut poller, &entries);
            if let State::Ended(how) = &self.state {
                return match how {
                    Ending::Asked if self.comes_back => Ending::ToComeBack,
                    how => how.clone(),
                };
            }
            if let Err(error) = poller.wait(self.timeout()) {
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
        let asking = match self.asking {
            Asking::Last { at } => Some(at),
            Asking::No | Asking::First => None,
        };
        let outputs = self.outputs.next_deadline();
        time_left([state, outputs, asking, retries[0], retries[1]])
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
        if matches!(self.asking, Asking::Last { at } if at <= now) {
            self.register_again(Asking::No);
        }
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
            EngineMail::Unheard => self.register_again(Asking::First),
            EngineMail::Delivered(request) => self.on_shell_request(*request),
            EngineMail::Recount(queue) => self.recount(&queue, true),
            EngineMail::Stop => self.stop(),
            EngineMail::Usage(usage) => self.tell_usage(usage),
            EngineMail::KernelStarted(_) => {}
        }
    }

    // ---- the controller

    fn receive_registrar(&mut self, frames: &mut Vec<Frame>) {
        match self.registrar.news() {
            Some(ControllerNews::Lost) => {
                tracing::warn!(
                    "engine {}: the connection to the controller is lost; waiting for it",
                    self.who.id
                );
            }
            Some(ControllerNews::Back) => self.register_again(Asking::First),
            None => {}
        }
        let mut answers = Vec::new();
        let door = &mut self.door;
        drain(&mut self.registrar.socket, frames, |_, frames| {
            let answer = door.admit(frames).filter(is_registration_reply);
            answers.extend(answer.map(|wire| read_registration(&wire)));
        });
        for answer in answers {
            match answer {
                Ok(registered) => self.on_registered_again(&registered),
                Err(why) => {
                    tracing::info!("engine {}: registered as before ({why})", self.who.id);
                    if self.asking == Asking::First {
                        let at = Instant::now() + SETTLED;
                        self.asking = Asking::Last { at };
                    }
                }
            }
        }
    }

    /// When the controller or this process was away, the engine asks for its registration again: a controller that
    /// does not know it, or that took it for dead, takes it in; any other says that the uuid is in use.
    fn register_again(&mut self, asking: Asking) {
        self.asking = Asking::No;
        if !self.takes_requests() {
            return;
        }
        let unanswered = self.unanswered_ids();
        let mut request = registration(
            &mut self.composer,
            &self.who.uuid,
            Some(self.who.id.0),
            self.post.as_ref(),
            &self.config,
            Some(unanswered),
        );
        if let Err(error) = self.registrar.socket.send(&mut request) {
            tracing::warn!("engine {}: cannot register again: {error}", self.who.id);
        }
        self.asking = asking;
    }

    fn tell_usage(&mut self, used: Value) {
        let mut message = usage(&mut self.composer, &self.who.uuid, used);
        if let Err(error) = self.registrar.socket.send(&mut message) {
            tracing::debug!("engine {}: its usage is not told: {error}", self.who.id);
        }
    }

    fn on_registered_again(&mut self, registered: &Registered) {
        self.farewells = registered.farewells;
        self.recounts = registered.recounts;
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
}
