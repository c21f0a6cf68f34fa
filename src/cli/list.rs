//! `ipcluster list`. The columns and the JSON are ipyparallel's, which scripts parse.

use std::io::Write;

use clap::{Args, ValueEnum};

use crate::cli::Failure;
use crate::cli::args::{CommonArgs, Environment, Rewritten};
use crate::launch::found::Found;
use crate::profile::ProfileDir;

#[derive(Args, Clone, Debug)]
pub(super) struct ListArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// How the list looks
    #[arg(short, long = "output-format", value_enum, ignore_case = true, default_value_t = Format::Text)]
    o: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub(super) fn run(args: &ListArgs, _rewritten: Rewritten) -> Result<(), Failure> {
    let common = args.common.resolve(&Environment::of_process())?;
    let ipython_dir = common.lookup.ipython_dir()?;
    // As ipyparallel does: a profile that is named is the only one that is looked at.
    let named = common.lookup.profile_dir.is_some()
        || common
            .lookup
            .profile
            .as_ref()
            .is_some_and(|name| name != "default");
    let profiles = if named {
        vec![common.find_profile()?]
    } else {
        ProfileDir::all(&ipython_dir)
    };
    let clusters: Vec<Found> = profiles
        .iter()
        .flat_map(Found::all)
        .filter(|found| found.file.is_some())
        .collect();
    let text = match args.o {
        Format::Text => {
            let mut text = format!(
                "{:16} {:32} {:7} {:7} {}\n",
                "PROFILE", "CLUSTER ID", "RUNNING", "ENGINES", "LAUNCHER"
            );
            for found in &clusters {
                text.push_str(&line(found, &found.profile.abbreviated(&ipython_dir)));
            }
            text
        }
        Format::Json => {
            let living: Vec<_> = clusters.iter().filter_map(Found::living).collect();
            serde_json::to_string(&living)? + "\n"
        }
    };
    // Nobody reads it when the output is closed.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn line(found: &Found, profile: &str) -> String {
    let id = if found.cluster_id.0.is_empty() {
        "''"
    } else {
        &found.cluster_id.0
    };
    let living = found.living();
    let running = living
        .as_ref()
        .is_some_and(|file| file.controller.is_some());
    let running = if running { "True" } else { "False" };
    let engines: u32 = living
        .iter()
        .flat_map(|file| file.engines.sets.values())
        .filter_map(|set| set.state.n)
        .sum();
    let class = match &found.file {
        Some(Ok(file)) => launcher(&file.engines.class),
        _ => "unreadable".to_owned(),
    };
    format!("{profile:16} {id:32} {running:7} {engines:7} {class}\n")
}

/// The name of ipyparallel's class without `EngineSetLauncher`.
fn launcher(class: &str) -> String {
    match class.to_ascii_lowercase().as_str() {
        "local" => "Local".to_owned(),
        "ssh" => "SSH".to_owned(),
        "sshproxy" => "SSHProxy".to_owned(),
        "mpi" => "MPI".to_owned(),
        "slurm" => "Slurm".to_owned(),
        "pbs" => "PBS".to_owned(),
        "sge" => "SGE".to_owned(),
        "lsf" => "LSF".to_owned(),
        "htcondor" => "HTCondor".to_owned(),
        _ => {
            let name = class.rsplit([':', '.']).next().unwrap_or(class);
            name.trim_end_matches("EngineSetLauncher").to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_have_the_names_that_ipyparallel_shows() {
        assert_eq!(launcher("local"), "Local");
        assert_eq!(
            launcher("ipyparallel.cluster.launcher:LocalEngineSetLauncher"),
            "Local"
        );
        assert_eq!(launcher("mine.FancyEngineSetLauncher"), "Fancy");
    }
}
