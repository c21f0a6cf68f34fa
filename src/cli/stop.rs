//! `ipcluster stop`.

use std::path::PathBuf;

use clap::Args;
use nix::sys::signal::Signal;

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::setup::{ProfileMust, Setup, edit, set_up};
use crate::cli::{Failure, exit_code};
use crate::launch::found::Found;
use crate::launch::stop::{Stopped, stop};
use crate::os::log::{file_name, warning_of};
use crate::os::process::ProcessRef;
use crate::profile::dir::checked_cluster_id;
use crate::profile::traitlets::Program;

#[derive(Args, Clone, Debug)]
pub(super) struct StopArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Clusters to stop, by their ids [default: that of --cluster-id]
    #[arg(value_name = "CLUSTER_ID", conflicts_with = "all")]
    ids: Vec<String>,

    /// Stop all clusters of the profile
    #[arg(long)]
    all: bool,

    /// Signal by which the cluster is asked to end, by its name or number [default: SIGINT]
    #[arg(long, value_name = "SIGNAL")]
    signal: Option<String>,
}

pub(super) fn run(args: &StopArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let signal = args.signal.as_deref().map(parse_signal).transpose()?;
    let number = signal.map(|signal| signal as i32);
    let setup = set_up(
        Program::Cluster,
        "ipcluster",
        &args.common,
        rewritten,
        edit("cluster.stop_signal", "--signal", number)
            .into_iter()
            .collect(),
        ProfileMust::Exist,
    )?;
    let signal = match setup.settings.cluster.stop_signal {
        Some(number) => Some(parse_signal(&number.to_string())?),
        None => None,
    };
    if args.all {
        let all = Found::all(&setup.profile);
        let mut running = false;
        for found in &all {
            running |= stop_one(&setup, found, signal)? != Stopped::Already;
        }
        if !running {
            tracing::info!("there are no clusters to stop");
        }
        return Ok(());
    }
    let ids = if args.ids.is_empty() {
        vec![setup.cluster_id.clone()]
    } else {
        let ids = args.ids.iter().map(|id| checked_cluster_id(id));
        ids.collect::<Result<_, _>>()?
    };
    let mut nothing = Vec::new();
    for id in ids {
        let found = Found::of(&setup.profile, &id);
        if stop_one(&setup, &found, signal)? == Stopped::Already {
            nothing.push(format!("{:?}", id.0));
        }
    }
    if nothing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        exit_code::ALREADY_STOPPED,
        format!(
            "no cluster {} of profile {} is running; `ipcluster list` shows what is",
            nothing.join(", "),
            setup.profile.location().display()
        ),
    ))
}

fn stop_one(setup: &Setup, found: &Found, signal: Option<Signal>) -> Result<Stopped, Failure> {
    let began = std::time::Instant::now();
    let logs = Logs::of(setup, found);
    let stopped = stop(found, signal)?;
    for warning in logs.warnings() {
        tracing::warn!("{warning}");
    }
    let took = began.elapsed().as_secs_f64();
    let name = format!(
        "cluster {:?} of profile {}",
        found.cluster_id.0,
        setup.profile.location().display()
    );
    match stopped {
        Stopped::InOrder => tracing::info!("{name} has stopped ({took:.2} s)"),
        Stopped::Killed => {
            tracing::warn!("{name} did not end when it was asked to, and was killed ({took:.2} s)");
        }
        Stopped::Already => {}
    }
    Ok(stopped)
}

/// The logs of supervisors that run in the background, and how long they were.
struct Logs(Vec<(PathBuf, u64)>);

impl Logs {
    fn of(setup: &Setup, found: &Found) -> Self {
        let folder = setup.profile.log_dir();
        let log = |supervisor: ProcessRef| {
            let pid = u32::try_from(supervisor.pid).ok()?;
            let path = folder.join(file_name("ipcluster", &found.cluster_id.0, pid));
            let length = std::fs::metadata(&path).ok()?.len();
            Some((path, length))
        };
        Self(found.supervisors().into_iter().filter_map(log).collect())
    }

    /// What they have warned of since. One that cannot be read is no reason to fail.
    fn warnings(&self) -> Vec<String> {
        let new = |(path, length): &(PathBuf, u64)| {
            let log = std::fs::read(path).unwrap_or_default();
            let new = log.get(usize::try_from(*length).ok()?..)?;
            Some(String::from_utf8_lossy(new).into_owned())
        };
        let new: Vec<String> = self.0.iter().filter_map(new).collect();
        let lines = new.iter().flat_map(|text| text.lines());
        lines.filter_map(warning_of).collect()
    }
}

/// `2`, `INT` or `SIGINT`.
fn parse_signal(text: &str) -> Result<Signal, Failure> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper.clone()
    } else {
        format!("SIG{upper}")
    };
    let by_number = text
        .parse()
        .ok()
        .and_then(|number: i32| Signal::try_from(number).ok());
    by_number.or_else(|| name.parse().ok()).ok_or_else(|| {
        Failure::usage(format!(
            "--signal={text}: no signal has this name or number; SIGINT, TERM and 9 are examples"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["2", "INT", "int", "SIGINT"] {
            assert_eq!(parse_signal(text).unwrap(), Signal::SIGINT, "{text}");
        }
        for text in ["", "0", "-1", "SIGNAL", "1000"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
