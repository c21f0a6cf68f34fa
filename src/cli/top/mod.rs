//! `ipcluster top`: what a cluster does, in a terminal.

mod screen;
mod terminal;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Failure;
use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::setup::{ProfileMust, set_up};
use crate::cli::watched::{Model, Watched, find, state_of_hub};
use crate::hubclient::HubClient;
use crate::profile::traitlets::Program;
use crate::web::Events;

use terminal::Terminal;

#[derive(Args, Clone, Debug)]
#[command(after_help = "q or Ctrl-C ends it. Where the output is no terminal, it is written once.")]
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
    if args.once || !std::io::stdout().is_terminal() {
        return once(watched, &runtime);
    }
    let pause = Duration::from_secs_f64(args.interval);
    runtime.block_on(follow(watched, pause))
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

/// Shows what is told, until a key or a signal ends it.
async fn follow(watched: Watched, pause: Duration) -> Result<(), Failure> {
    let mut terminal = Terminal::enter()?;
    let mut model = Model::default();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut resized = signal(SignalKind::window_change())?;
    let mut source = Source::open(watched).await?;
    loop {
        tokio::select! {
            message = source.next(pause) => {
                model.apply(&message?);
            }
            _ = resized.recv() => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            key = terminal.key() => {
                if matches!(key?, b'q' | b'Q' | 3 | 4) {
                    return Ok(());
                }
            }
        }
        let (width, height) = terminal.size();
        terminal.show(&screen::lines(&model, width, height))?;
    }
}

enum Source {
    Events(Events),
    /// And whether it was asked before.
    Hub(Box<HubClient>, bool),
}

impl Source {
    async fn open(watched: Watched) -> Result<Self, Failure> {
        Ok(match watched {
            Watched::Dashboard(visit) => Self::Events(visit.events().await?),
            Watched::Hub(client) => Self::Hub(client, false),
        })
    }

    async fn next(&mut self, pause: Duration) -> Result<serde_json::Value, Failure> {
        match self {
            Self::Events(events) => Ok(events.next().await?),
            Self::Hub(client, has_asked) => {
                if std::mem::replace(has_asked, true) {
                    tokio::time::sleep(pause).await;
                }
                state_of_hub(client)
            }
        }
    }
}
