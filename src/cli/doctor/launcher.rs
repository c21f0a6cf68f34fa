//! The commands of the launcher that the settings name.

use std::collections::BTreeSet;

use super::Finding;
use super::machine::on_path;
use crate::cli::launchers::{controller_by, engines_by, name_of};
use crate::cli::setup::Setup;
use crate::launch::batch::system::Role;
use crate::launch::cluster::By;
use crate::launch::{CONTROLLER_LAUNCHERS, LAUNCHERS};

pub(super) fn launcher(setup: &Setup, role: Role) -> Vec<Finding> {
    let name = name_of(setup, role);
    let (check, part) = match role {
        Role::Controller => ("controller", "controller"),
        Role::Engines => ("launcher", "engines"),
    };
    // That needs nothing, and needs no word.
    if role == Role::Controller && name == "local" {
        return Vec::new();
    }
    let there = match role {
        Role::Controller => CONTROLLER_LAUNCHERS,
        Role::Engines => LAUNCHERS,
    };
    if !there.contains(&name) {
        return vec![Finding::problem(
            check,
            format!("there is no launcher {name:?}"),
            format!("`{part}` of [cluster] takes one of {}", there.join(", ")),
        )];
    }
    let by = match role {
        Role::Controller => controller_by(setup),
        Role::Engines => engines_by(setup),
    };
    let by = match by {
        Ok(by) => by,
        Err(failure) => {
            return vec![Finding::problem(
                check,
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
            check,
            format!("{name}: not on PATH: {}", all.join(", ")),
            format!(
                "load the module or install the package that has {first}, or name its path in the settings; or choose \
                 another launcher with --{part}"
            ),
        )];
    }
    let found = if commands.is_empty() {
        name.to_owned()
    } else {
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        format!("{name}, by {}", commands.join(", "))
    };
    vec![Finding::ok(check, found)]
}

/// What it runs on this machine.
fn commands(by: &By) -> BTreeSet<String> {
    let first = |command: &Vec<String>| command.first().cloned();
    match by {
        By::Local => BTreeSet::new(),
        By::Mpi(mpi) => first(&mpi.command).into_iter().collect(),
        By::Ssh(hosts) => hosts.iter().filter_map(|host| first(&host.ssh)).collect(),
        By::Batch(settings) => {
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
