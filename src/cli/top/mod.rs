//! `ipcluster top`: what a cluster does, in a terminal.

mod line;
mod screen;
mod source;
mod terminal;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use nix::sys::signal::{Signal, raise};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Failure;
use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::setup::{ProfileMust, set_up};
use crate::cli::target::Controller;
use crate::cli::watched::{Model, Watched, find, state_of_hub};
use crate::profile::traitlets::Program;

use source::Source;
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
    let source = Source::open(watched, Controller::of(&setup), pause);
    let why = runtime.block_on(async { follow(source.await?).await });
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
async fn follow(mut source: Source) -> Result<Over, Failure> {
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
