//! The commands of the launcher that the settings name.

use std::collections::BTreeSet;

use super::Finding;
use super::machine::on_path;
use crate::cli::parts::engines_by;
use crate::cli::setup::Setup;
use crate::launch::LAUNCHERS;
use crate::launch::conduct::EnginesBy;

const CHECK: &str = "launcher";

pub(super) fn launcher(setup: &Setup) -> Vec<Finding> {
    let name = setup.settings.cluster.engines.as_str();
    if !LAUNCHERS.contains(&name) {
        return vec![Finding::problem(
            CHECK,
            format!("there is no launcher {name:?}"),
            format!(
                "`engines` of [cluster] takes one of {}",
                LAUNCHERS.join(", ")
            ),
        )];
    }
    let by = match engines_by(setup) {
        Ok(by) => by,
        Err(failure) => {
            return vec![Finding::problem(
                CHECK,
                format!("{name}: {}", failure.message().unwrap_or_default()),
                "`ipcluster profile create --from` makes a profile in which the launcher's settings are explained",
            )];
        }
    };
    let commands = commands(&by);
    let missing: Vec<&String> = commands
        .iter()
        .filter(|command| on_path(command).is_none())
        .collect();
    if let Some(first) = missing.first() {
        let all: Vec<&str> = missing.iter().map(|command| command.as_str()).collect();
        return vec![Finding::problem(
            CHECK,
            format!("{name}: not on PATH: {}", all.join(", ")),
            format!(
                "load the module or install the package that has {first}, or name its path in the settings; or choose \
                 another launcher with --engines"
            ),
        )];
    }
    let found = if commands.is_empty() {
        name.to_owned()
    } else {
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        format!("{name}, by {}", commands.join(", "))
    };
    vec![Finding::ok(CHECK, found)]
}

/// What it runs on this machine.
fn commands(by: &EnginesBy) -> BTreeSet<String> {
    let first = |command: &Vec<String>| command.first().cloned();
    match by {
        EnginesBy::Local => BTreeSet::new(),
        EnginesBy::Mpi(mpi) => first(&mpi.command).into_iter().collect(),
        EnginesBy::Ssh(hosts) => hosts.iter().filter_map(|host| first(&host.ssh)).collect(),
        EnginesBy::Batch(settings) => {
            let status = match &settings.status_command {
                Some(command) => command.clone(),
                None => settings.system.status_command("1"),
            };
            [&settings.submit_command, &settings.delete_command, &status]
                .into_iter()
                .filter_map(first)
                .collect()
        }
    }
}
