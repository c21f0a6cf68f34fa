//! How a process that was started by another notices that the other is gone.
//!
//! The starter holds the writing end of a pipe whose reading end it hands down, by number, in [`VARIABLE`]. However the
//! starter ends, the pipe ends with it. Through another pipe it hears what becomes of this process.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::cli::Failure;
use crate::launch::News;
use crate::launch::channel::{Greeting, Order};
pub(super) use crate::launch::local::LIFELINE_VARIABLE as VARIABLE;
use crate::launch::local::NEWS_VARIABLE;

/// What this process was started with: over standard input a greeting comes first. To be called once, before there are
/// threads: what is in the environment must not reach the processes that this one starts.
pub(super) fn take(over_stdin: bool) -> Result<(Option<Greeting>, Lifeline, Starter), Failure> {
    if over_stdin {
        let (greeting, lifeline, starter) = take_standard_streams()?;
        return Ok((Some(greeting), lifeline, starter));
    }
    let news = take_fd(NEWS_VARIABLE).map(File::from);
    Ok((None, Lifeline::Pipe(take_fd(VARIABLE)), Starter(news)))
}

/// The pipe that this process was given, if it was.
fn take_fd(variable: &str) -> Option<OwnedFd> {
    let fd: RawFd = std::env::var(variable).ok()?.parse().ok()?;
    // SAFETY: no other thread reads or writes the environment yet.
    unsafe { std::env::remove_var(variable) };
    // SAFETY: a descriptor that was handed down belongs to nobody else in this process; one that is not open is found
    // out below.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    match fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Some(fd),
        Err(_) => {
            // Not open: it must not be closed either.
            std::mem::forget(fd);
            None
        }
    }
}

/// What this process hears of its starter.
pub(super) enum Lifeline {
    /// A pipe that ends with it.
    Pipe(Option<OwnedFd>),
    /// Standard input, which also has orders. The starter counts as gone after so much silence.
    Input(BufReader<File>, Option<Duration>),
}

impl Lifeline {
    /// Orders; the end of them when the starter is gone. Must be called within a tokio runtime.
    pub(super) fn orders(self) -> UnboundedReceiver<Order> {
        let (sender, receiver) = mpsc::unbounded_channel();
        match self {
            Self::Pipe(fd) => {
                tokio::spawn(async move {
                    let _ = cut(fd).await;
                    drop(sender);
                });
            }
            Self::Input(input, silence) => {
                let (said, mut lines) = mpsc::unbounded_channel();
                // It may be a file or a terminal, for which there is no other way to wait. The thread ends with the
                // process.
                std::thread::spawn(move || {
                    for line in input.lines().map_while(Result::ok) {
                        if said.send(line).is_err() {
                            return;
                        }
                    }
                });
                tokio::spawn(async move {
                    while let Some(line) = within(silence, lines.recv()).await {
                        // What another version says may be unknown; an empty line says nothing.
                        if let Ok(order) = serde_json::from_str(&line)
                            && sender.send(order).is_err()
                        {
                            return;
                        }
                    }
                });
            }
        }
        receiver
    }
}

/// Nothing when it does not come in time.
async fn within<T>(limit: Option<Duration>, coming: impl Future<Output = Option<T>>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, coming).await.ok()?,
        None => coming.await,
    }
}

/// Takes standard input and output for the starter: the first line is its greeting, then come orders, and news go out.
/// What anything else writes goes to standard error. To be called once, before there are threads: the greeting's
/// variables are set in this process.
pub(super) fn take_standard_streams() -> Result<(Greeting, Lifeline, Starter), Failure> {
    greeted().map_err(|error| Failure::failed(format!("no greeting on standard input: {error}")))
}

fn greeted() -> io::Result<(Greeting, Lifeline, Starter)> {
    let (input, output) = (
        io::stdin().as_fd().try_clone_to_owned()?,
        io::stdout().as_fd().try_clone_to_owned()?,
    );
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    nix::unistd::dup2_stdout(io::stderr())?;
    let mut input = BufReader::new(File::from(input));
    let mut first = String::new();
    input.read_line(&mut first)?;
    let greeting: Greeting = serde_json::from_str(&first)?;
    for (name, value) in &greeting.environment {
        // SAFETY: no other thread reads or writes the environment yet.
        unsafe { std::env::set_var(name, value) };
    }
    let silence = greeting.silence;
    let silence = silence.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let starter = Starter(Some(File::from(output)));
    Ok((greeting, Lifeline::Input(input, silence), starter))
}

/// Where the starter hears what becomes of this process, if there is one.
#[derive(Debug)]
pub(super) struct Starter(Option<File>);

impl Starter {
    /// A starter that is gone is noticed elsewhere.
    pub(super) fn tell(&mut self, news: &News) {
        if let Some(pipe) = &mut self.0 {
            let mut line = serde_json::to_string(news).expect("text and numbers are JSON");
            line.push('\n');
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

/// Resolves when the starter is gone; never without one.
async fn cut(lifeline: Option<OwnedFd>) -> io::Result<()> {
    let Some(fd) = lifeline else {
        return std::future::pending().await;
    };
    let mut pipe = pipe::Receiver::from_owned_fd(fd)?;
    let mut sink = [0; 16];
    while pipe.read(&mut sink).await? > 0 {}
    Ok(())
}
