//! The process of a dask.distributed scheduler, which is started when a client asks for it (`become_dask`).
//!
//! It runs in the user's Python, for as long as this process holds the other end of its stdin: however the controller
//! ends, it ends too. A thread for each process passes on what becomes of it.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender as Notes, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Map, Value};

use super::mail::HubMail;
use crate::os::process::await_end_of_child;
use crate::protocol::RemoteError;
use crate::transport::Sender;

const PROGRAM: &str = include_str!("dask_scheduler.py");

/// A scheduler has so long to import everything and to listen.
const TIME_TO_START: Duration = Duration::from_secs(60);

/// One that was told to end has so long to close its connections; so long may its stdout and it itself end apart.
const TIME_TO_END: Duration = Duration::from_secs(3);

/// The scheduler of one controller.
pub(super) struct Dask {
    /// The Python that is to run it.
    python: Option<PathBuf>,
    hub: Sender<HubMail>,
    running: Option<Notes<Note>>,
    /// Of all that were started: each ends with its process.
    threads: Vec<JoinHandle<()>>,
}

/// What a process's thread waits for.
enum Note {
    /// It has said where it listens, or why it does not.
    Answered(String),
    /// Its stdout has ended: it has no more to say.
    Silent,
    /// It has ended, and can be waited for.
    Ended,
    Stop,
}

impl Dask {
    pub(super) fn new(python: Option<PathBuf>, hub: Sender<HubMail>) -> Self {
        Self {
            python,
            hub,
            running: None,
            threads: Vec::new(),
        }
    }

    /// Starts one; the hub hears what becomes of it.
    pub(super) fn start(&mut self, run: u64, arguments: Map<String, Value>) {
        self.stop();
        if let Err(error) = self.begin(run, &arguments) {
            let error = RemoteError::new(
                "RuntimeError",
                format!("no dask.distributed scheduler can be started: {error}"),
            );
            self.hub.send(HubMail::DaskStarted {
                run,
                result: Err(error),
            });
        }
    }

    fn begin(&mut self, run: u64, arguments: &Map<String, Value>) -> io::Result<()> {
        let python = self.python.as_ref().ok_or_else(|| {
            io::Error::other("no Python was found to run it; name one with --python")
        })?;
        let mut child = Command::new(python)
            .args(["-c", PROGRAM])
            .arg(Value::from(arguments.clone()).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C is the controller's, which ends it in order.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", python.display()))
            })?;
        let (notes, inbox) = channel();
        if let Some(stdout) = child.stdout.take() {
            let notes = notes.clone();
            std::thread::Builder::new()
                .name("dask-stdout".to_owned())
                .spawn(move || listen(stdout, &notes))?;
        }
        if let Ok(pid) = i32::try_from(child.id()) {
            let notes = notes.clone();
            std::thread::Builder::new()
                .name("dask-end".to_owned())
                .spawn(move || await_end(Pid::from_raw(pid), &notes))?;
        }
        let hub = self.hub.clone();
        let thread = std::thread::Builder::new()
            .name("dask".to_owned())
            .spawn(move || watch(child, run, &inbox, &hub))?;
        self.running = Some(notes);
        self.threads.retain(|thread| !thread.is_finished());
        self.threads.push(thread);
        Ok(())
    }

    /// Tells it to end.
    pub(super) fn stop(&mut self) {
        if let Some(notes) = self.running.take() {
            // It may have ended.
            let _ = notes.send(Note::Stop);
        }
    }

    /// Ends what runs, and waits for its end.
    pub(super) fn end(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn listen(stdout: ChildStdout, notes: &Notes<Note>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let _ = notes.send(Note::Answered(line));
    }
    let _ = notes.send(Note::Silent);
}

fn await_end(pid: Pid, notes: &Notes<Note>) {
    await_end_of_child(pid);
    let _ = notes.send(Note::Ended);
}

/// How long a process is waited for, and for what. Pure.
#[derive(Debug)]
struct Patience {
    deadline: Option<Instant>,
    /// It was told to end, or has begun to: whatever it says, it has no more time.
    is_ending: bool,
    is_silent: bool,
    has_ended: bool,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self {
            deadline: Some(now + TIME_TO_START),
            is_ending: false,
            is_silent: false,
            has_ended: false,
        }
    }

    fn on_answered(&mut self) {
        if !self.is_ending {
            self.deadline = None;
        }
    }

    fn on_ending(&mut self, now: Instant) {
        if !self.is_ending {
            self.is_ending = true;
            self.deadline = Some(now + TIME_TO_END);
        }
    }

    fn is_over(&self) -> bool {
        self.is_silent && self.has_ended
    }
}

fn watch(mut child: Child, run: u64, inbox: &Receiver<Note>, hub: &Sender<HubMail>) {
    let mut patience = Patience::new(Instant::now());
    while !patience.is_over() {
        let note = match patience.deadline {
            Some(deadline) => {
                inbox.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match note {
            Ok(Note::Answered(line)) => {
                patience.on_answered();
                let result = read_answer(&line);
                match &result {
                    Ok(content) => tracing::info!(
                        "a dask.distributed scheduler runs at {} (process {})",
                        content["address"].as_str().unwrap_or_default(),
                        child.id()
                    ),
                    Err(error) => tracing::error!(
                        "a dask.distributed scheduler cannot run: {}: {}",
                        error.ename,
                        error.evalue
                    ),
                }
                hub.send(HubMail::DaskStarted { run, result });
            }
            Ok(Note::Stop) => {
                drop(child.stdin.take());
                patience.on_ending(Instant::now());
            }
            Ok(Note::Silent) => {
                patience.is_silent = true;
                patience.on_ending(Instant::now());
            }
            Ok(Note::Ended) => {
                patience.has_ended = true;
                patience.on_ending(Instant::now());
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                tracing::warn!("a dask.distributed scheduler takes too long and is killed");
                if let Ok(pid) = i32::try_from(child.id()) {
                    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
                }
                break;
            }
        }
    }
    match child.wait() {
        Ok(status) if status.success() => {
            tracing::info!("the dask.distributed scheduler has ended")
        }
        Ok(status) => tracing::warn!(
            "the dask.distributed scheduler has ended: {}",
            status.code().map_or_else(
                || format!("signal {}", status.signal().unwrap_or_default()),
                |code| format!("exit status {code}")
            )
        ),
        Err(error) => tracing::error!("a dask.distributed scheduler cannot be waited for: {error}"),
    }
    hub.send(HubMail::DaskEnded { run });
}

fn read_answer(line: &str) -> Result<Map<String, Value>, RemoteError> {
    if let Ok(error) = serde_json::from_str::<RemoteError>(line) {
        return Err(error);
    }
    serde_json::from_str(line).map_err(|error| {
        RemoteError::new(
            "RuntimeError",
            format!("the dask.distributed scheduler gave no answer: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::mailbox;

    #[test]
    fn an_answer_that_comes_after_the_word_to_end_gives_no_more_time() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert_eq!(patience.deadline, Some(start + TIME_TO_START));
        patience.on_ending(start);
        patience.on_answered();
        patience.on_ending(start + TIME_TO_END / 2);
        assert_eq!(patience.deadline, Some(start + TIME_TO_END));
        assert!(!patience.is_over());
    }

    /// Runs until it is killed, whatever happens to its stdin; `exec >&-` closes its stdout.
    fn stubborn(before: &str) -> (Child, Receiver<Note>, Notes<Note>) {
        let mut child = Command::new("sh")
            .args(["-c", &format!("{before}; exec sleep 100000")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let (notes, inbox) = channel();
        let stdout = child.stdout.take().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (listener, waiter) = (notes.clone(), notes.clone());
        std::thread::spawn(move || listen(stdout, &listener));
        std::thread::spawn(move || await_end(pid, &waiter));
        (child, inbox, notes)
    }

    #[test]
    fn one_that_does_not_end_is_killed() {
        for before in ["exec >&-", "echo '{}'"] {
            let (child, inbox, notes) = stubborn(before);
            notes.send(Note::Stop).unwrap();
            let (hub, mut mail) = mailbox().unwrap();
            watch(child, 7, &inbox, &hub);
            let mut got = Vec::new();
            mail.take(&mut got);
            assert!(matches!(got.last(), Some(HubMail::DaskEnded { run: 7 })));
        }
    }
}
