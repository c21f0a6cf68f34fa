//! `ipcluster top`: what a cluster does, in a terminal.

mod line;
mod screen;
mod terminal;

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::{Signal, raise};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::cli::Failure;
use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::setup::{ProfileMust, set_up};
use crate::cli::watched::{Model, Watched, find, state_of_hub};
use crate::hubclient::{HubClient, Notification};
use crate::profile::traitlets::Program;
use crate::web::{Events, VisitError};

use terminal::Terminal;

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "q or Ctrl-C ends it, as does the cluster's end. Where the output is no terminal, or a dumb one, it is \
                  written once and without colours. With NO_COLOR set there are none either."
)]
pub(super) struct TopArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Seconds between two looks at a cluster that has no dashboard
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,

    /// Write it once, without colours
    #[arg(long)]
    once: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "it must be a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("it must be between 0.1 and 3600".to_owned())
    }
}

/// Columns where the output has none.
const WIDTH: usize = 120;

pub(super) fn run(args: &TopArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let setup = set_up(
        Program::Cluster,
        "ipcluster",
        &args.common,
        rewritten,
        Vec::new(),
        ProfileMust::Exist,
    )?;
    let watched = find(&setup)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if args.once || is_dumb || !std::io::stdout().is_terminal() {
        return once(watched, &runtime);
    }
    let pause = Duration::from_secs_f64(args.interval);
    let why = runtime.block_on(follow(watched, pause));
    // A thread that asks a hub is not waited for.
    runtime.shutdown_background();
    if why? == Over::Cluster {
        tracing::info!("the cluster has ended");
    }
    Ok(())
}

/// Why nothing is shown any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    User,
    Cluster,
}

fn once(watched: Watched, runtime: &tokio::runtime::Runtime) -> Result<(), Failure> {
    let state = match watched {
        Watched::Dashboard(visit) => runtime.block_on(visit.get("api/state?stream=0"))?,
        Watched::Hub(mut client) => state_of_hub(&mut client)?,
    };
    let mut model = Model::default();
    model.apply(&state);
    let mut text = String::new();
    for line in screen::lines(&model, WIDTH, usize::MAX) {
        text.push_str(line.plain().trim_end());
        text.push('\n');
    }
    // Nobody reads it when the output is closed.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Shows what is told, until a key or a signal ends it, or there is nothing any more.
async fn follow(watched: Watched, pause: Duration) -> Result<Over, Failure> {
    let mut source = Source::open(watched, pause).await?;
    let mut model = Model::default();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut stop = signal(SignalKind::from_raw(Signal::SIGTSTP as i32))?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut terminal = Terminal::enter()?;
    loop {
        tokio::select! {
            message = source.next() => match message? {
                Some(message) => drop(model.apply(&message)),
                None => return Ok(Over::Cluster),
            },
            _ = resized.recv() => {}
            _ = interrupt.recv() => return Ok(Over::User),
            _ = terminate.recv() => return Ok(Over::User),
            _ = hang_up.recv() => return Ok(Over::User),
            _ = quit.recv() => return Ok(Over::User),
            _ = stop.recv() => {
                // The shell has its terminal back as it was, until this goes on.
                drop(terminal);
                raise(Signal::SIGSTOP).map_err(std::io::Error::from)?;
                terminal = Terminal::enter()?;
            }
            key = terminal.key() => {
                if matches!(key?, b'q' | b'Q' | 3 | 4) {
                    return Ok(Over::User);
                }
            }
        }
        let (width, height) = terminal.size();
        terminal.show(&screen::lines(&model, width, height))?;
    }
}

enum Source {
    Events(Events),
    /// Told by a thread, since a hub's client waits for its answers.
    Hub(UnboundedReceiver<Result<Value, Failure>>),
}

impl Source {
    async fn open(watched: Watched, pause: Duration) -> Result<Self, Failure> {
        Ok(match watched {
            Watched::Dashboard(visit) => Self::Events(visit.events().await?),
            Watched::Hub(mut client) => {
                let (told, hears) = unbounded_channel();
                std::thread::Builder::new()
                    .name("hub".to_owned())
                    .spawn(move || {
                        while told.send(state_of_hub(&mut client)).is_ok()
                            && !has_ended(&mut client, pause)
                        {}
                    })?;
                Self::Hub(hears)
            }
        })
    }

    /// Nothing when the cluster has ended.
    async fn next(&mut self) -> Result<Option<Value>, Failure> {
        match self {
            Self::Events(events) => match events.next().await {
                Ok(event) => Ok(Some(event)),
                Err(VisitError::Ended { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::Hub(hears) => hears.recv().await.transpose(),
        }
    }
}

/// Lets the pause pass; whether the hub went away meanwhile.
fn has_ended(client: &mut HubClient, pause: Duration) -> bool {
    let until = Instant::now() + pause;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match client.next_notification(left) {
            Ok(Some(Notification::Shutdown | Notification::Disconnected)) | Err(_) => return true,
            Ok(Some(Notification::Registered(_) | Notification::Left(_))) => {}
            Ok(None) => return false,
        }
    }
}
