//! `ipcluster logs`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::output::{FormatArgs, say, say_json};
use crate::cli::setup::Setup;
use crate::cli::target::{runs_by_itself, set_up_for_existing};
use crate::cli::{Failure, exit_code};
use crate::launch::found::Found;
use crate::launch::logs::{Follower, LogFile, Writer, engines_in, logs_of};
use crate::os::folder_watch::FolderWatch;
use crate::protocol::EngineId;

#[derive(Args, Clone, Debug)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    format: FormatArgs,

    /// Go on showing what is written, until Ctrl-C
    #[arg(short, long)]
    follow: bool,

    /// The log of this engine, which it may share with those that run in one process with it
    #[arg(long, value_name = "ID", conflicts_with = "controller")]
    engine: Option<u32>,

    /// The controller's log alone
    #[arg(long)]
    controller: bool,

    /// How many lines of each log to show, from its end
    #[arg(short, long = "lines", value_name = "LINES", default_value_t = 20)]
    n: usize,
}

pub(super) fn run(args: &LogsArgs, rewritten: Rewritten) -> Result<(), Failure> {
    if args.follow && args.format.is_json() {
        return Err(Failure::usage(
            "--follow shows text; for JSON, let the programs write it: `format = \"json\"` of [log] in the settings",
        ));
    }
    let setup = set_up_for_existing(&args.common, rewritten, Vec::new())?;
    let chosen = choose(&setup, args)?;
    if args.format.is_json() {
        let logs: Result<Vec<_>, Failure> =
            chosen.iter().map(|log| document(log, args.n)).collect();
        return say_json(&logs?).map(drop);
    }
    // Whatever is written from now on is noticed.
    let watch = match args.follow {
        true => Some(FolderWatch::new(&setup.profile.log_dir())?),
        false => None,
    };
    let mut printer = Printer {
        several: chosen.len() > 1 || (args.follow && args.engine.is_none()),
        last: None,
    };
    let mut followers = Vec::new();
    for log in &chosen {
        let (follower, lines) =
            Follower::begin(&log.path, args.n).map_err(|error| unreadable(&log.path, &error))?;
        if !printer.show(&log.path, &lines)? {
            return Ok(());
        }
        followers.push(follower);
    }
    let Some(watch) = watch else {
        return Ok(());
    };
    loop {
        watch.wait()?;
        // Others are started.
        for log in candidates(&setup, args) {
            let is_known = followers.iter().any(|follower| follower.path == log.path);
            if !is_known && args.engine.is_none() {
                followers.push(Follower::from_start(&log.path));
            }
        }
        for follower in &mut followers {
            let lines = follower
                .more()
                .map_err(|error| unreadable(&follower.path, &error))?;
            if !lines.is_empty() && !printer.show(&follower.path, &lines)? {
                return Ok(());
            }
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", path.display()))
}

fn candidates(setup: &Setup, args: &LogsArgs) -> Vec<LogFile> {
    let mut logs = logs_of(&setup.profile.log_dir(), &setup.cluster_id);
    logs.retain(|log| match (args.engine, args.controller) {
        (Some(_), _) => log.writer == Writer::Engines,
        (None, true) => log.writer == Writer::Controller,
        (None, false) => true,
    });
    logs
}

/// The logs that are wanted, the newest last. Without one it is said which there are.
fn choose(setup: &Setup, args: &LogsArgs) -> Result<Vec<LogFile>, Failure> {
    let logs = candidates(setup, args);
    let folder = setup.profile.log_dir();
    let Some(id) = args.engine.map(EngineId) else {
        if logs.is_empty() {
            let found = Found::of(&setup.profile, &setup.cluster_id);
            if let Some(controller) = found.lone_controller() {
                return Err(Failure::failed(format!(
                    "there is no log of cluster {:?} in {}: its controller {}; it writes to its terminal, unless it is told \
                     to --log-to-file",
                    setup.cluster_id.0,
                    folder.display(),
                    runs_by_itself(&controller)
                )));
            }
            let code = match found.is_running() {
                true => exit_code::FAILED,
                false => exit_code::NO_CLUSTER,
            };
            return Err(Failure::new(
                code,
                format!(
                    "there is no log of cluster {:?} in {}; those in the foreground write to their terminals, unless they are \
                 told to --log-to-file",
                    setup.cluster_id.0,
                    folder.display()
                ),
            ));
        }
        return Ok(match args.controller {
            // Those of earlier ones may be there still.
            true => logs.into_iter().next_back().into_iter().collect(),
            false => logs,
        });
    };
    let mut known = std::collections::BTreeSet::new();
    for log in logs.iter().rev() {
        let engines = engines_in(&log.path).map_err(|error| unreadable(&log.path, &error))?;
        if engines.contains(&id) {
            return Ok(vec![log.clone()]);
        }
        known.extend(engines);
    }
    let known: Vec<String> = known.iter().map(ToString::to_string).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    Err(Failure::failed(format!(
        "no log in {} is of engine {id}; there are logs of: {known}; engines elsewhere may write theirs there",
        folder.display()
    )))
}

fn document(log: &LogFile, lines: usize) -> Result<serde_json::Value, Failure> {
    let (_, shown) =
        Follower::begin(&log.path, lines).map_err(|error| unreadable(&log.path, &error))?;
    let writer = match log.writer {
        Writer::Supervisor => "ipcluster",
        Writer::Controller => "ipcontroller",
        Writer::Engines => "ipengine",
    };
    Ok(json!({ "path": log.path, "program": writer, "lines": shown }))
}

/// Names a log in front of its lines, as tail(1) does, where there are several.
struct Printer {
    several: bool,
    last: Option<PathBuf>,
}

impl Printer {
    /// False when nobody reads any more.
    fn show(&mut self, path: &Path, lines: &[String]) -> Result<bool, Failure> {
        let mut text = String::new();
        if self.several && self.last.as_deref() != Some(path) {
            let blank = if self.last.is_some() { "\n" } else { "" };
            text = format!("{blank}==> {} <==\n", path.display());
            self.last = Some(path.to_owned());
        }
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        say(&text)
    }
}
