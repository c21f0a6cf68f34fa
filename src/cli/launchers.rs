//! How the parts of a cluster are started: what settings and command line say of launchers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::Failure;
use crate::cli::setup::{Setup, engine_count};
use crate::launch::batch::script::{self as batch, connection_info_timeout};
use crate::launch::batch::system::{Role, System};
use crate::launch::cluster::By;
use crate::launch::local::{AwaitedFiles, Mpi};
use crate::launch::ssh::hosts::{self, Host};
use crate::os::files;
use crate::profile::ConnectionFiles;
use crate::profile::settings::{ControllerSettings, Traits, is_local_interface};

/// Traits of ipyparallel's local launchers, each before what it derives from.
const MPI_ENGINES: &[&str] = &[
    "MPIEngineSetLauncher",
    "MPILauncher",
    "LocalProcessLauncher",
    "EngineLauncher",
    "BaseLauncher",
];
const MPI_CONTROLLER: &[&str] = &[
    "MPIControllerLauncher",
    "MPILauncher",
    "LocalProcessLauncher",
    "ControllerLauncher",
    "BaseLauncher",
];
const LOCAL_CONTROLLER: &[&str] = &[
    "LocalControllerLauncher",
    "LocalProcessLauncher",
    "ControllerLauncher",
    "BaseLauncher",
];
const LOCAL_ENGINES: &[&str] = &[
    "LocalEngineSetLauncher",
    "LocalEngineLauncher",
    "LocalProcessLauncher",
    "EngineLauncher",
    "BaseLauncher",
];

/// Those that have a meaning here.
const HEEDED: &[&str] = &[
    "connection_info_timeout",
    "controller_args",
    "engine_args",
    "environment",
    "mpi_args",
    "mpi_cmd",
    "stop_seconds_until_kill",
];

/// The name of a part's launcher, as `--engines` and `--controller` take it.
pub(super) fn name_of(setup: &Setup, role: Role) -> &str {
    let settings = &setup.settings.cluster;
    match role {
        Role::Controller => &settings.controller,
        Role::Engines => &settings.engines,
    }
}

/// The class of a part's launcher, followed by those that it derives from.
fn lineage(setup: &Setup, role: Role) -> &'static [&'static str] {
    let name = name_of(setup, role);
    match (System::named(name), name, role) {
        (Some(system), ..) => system.lineage(role),
        (None, "ssh", _) => hosts::lineage(role),
        (None, "sshproxy", _) => hosts::PROXY_LINEAGE,
        (None, "mpi", Role::Controller) => MPI_CONTROLLER,
        (None, "mpi", Role::Engines) => MPI_ENGINES,
        (None, _, Role::Controller) => LOCAL_CONTROLLER,
        (None, _, Role::Engines) => LOCAL_ENGINES,
    }
}

pub(super) fn traits(setup: &Setup, role: Role) -> Traits {
    setup.settings.launcher_traits(lineage(setup, role))
}

/// How the engines are started.
pub(super) fn engines_by(setup: &Setup) -> Result<By, Failure> {
    let traits = traits(setup, Role::Engines);
    let settings = &setup.settings.cluster;
    if let Some(system) = System::named(&settings.engines) {
        let settings = batch_settings(system, Role::Engines, &traits)?;
        return Ok(By::Batch(Box::new(settings)));
    }
    match settings.engines.as_str() {
        "mpi" => Ok(By::Mpi(mpi(&traits))),
        "ssh" => {
            warn_of_ssh_traits(&traits, hosts::lineage(Role::Engines)[0]);
            let hosts = hosts::hosts(&traits, settings.max.or(settings.n));
            let mut hosts = hosts.map_err(|error| Failure::usage(error.to_string()))?;
            for host in &mut hosts {
                let folder = &mut host.profile_dir;
                *folder = folder.take().or_else(|| profile_there(setup));
            }
            Ok(By::Ssh(hosts))
        }
        "sshproxy" => {
            warn_of_ssh_traits(&traits, hosts::PROXY_LINEAGE[0]);
            let host = hosts::proxy_host(&traits, engine_count(setup));
            let mut host = host.map_err(|error| Failure::usage(error.to_string()))?;
            host.profile_dir = host.profile_dir.or_else(|| profile_there(setup));
            Ok(By::Ssh(vec![host]))
        }
        _ => Ok(By::Local),
    }
}

/// How the controller is started.
pub(super) fn controller_by(setup: &Setup) -> Result<By, Failure> {
    let traits = traits(setup, Role::Controller);
    let name = setup.settings.cluster.controller.as_str();
    if let Some(system) = System::named(name) {
        let settings = batch_settings(system, Role::Controller, &traits)?;
        return Ok(By::Batch(Box::new(settings)));
    }
    match name {
        "mpi" => {
            let security = setup.profile.security_dir();
            let files = AwaitedFiles {
                files: ConnectionFiles::paths(&security, &setup.cluster_id),
                within: connection_info_timeout(&traits),
            };
            let mpi = Mpi {
                files: Some(files),
                ..mpi(&traits)
            };
            Ok(By::Mpi(mpi))
        }
        "ssh" => {
            warn_of_ssh_traits(&traits, hosts::lineage(Role::Controller)[0]);
            let host = hosts::controller_host(&traits);
            let mut host = host.map_err(|error| Failure::usage(error.to_string()))?;
            host.profile_dir = host.profile_dir.or_else(|| profile_there(setup));
            Ok(By::Ssh(vec![host]))
        }
        _ => Ok(By::Local),
    }
}

fn batch_settings(system: System, role: Role, traits: &Traits) -> Result<batch::Settings, Failure> {
    let template = match traits.get("batch_template_file").and_then(Value::as_str) {
        Some(path) if !path.is_empty() => {
            Some(files::read_text(&files::expand_path(Path::new(path)))?)
        }
        _ => None,
    };
    let settings = batch::Settings::new(system, role, traits, template)
        .map_err(|error| Failure::usage(error.to_string()))?;
    for name in settings.without_effect(traits) {
        tracing::warn!("{}.{name} has no effect", settings.launcher());
    }
    Ok(settings)
}

fn warn_of_ssh_traits(traits: &Traits, class: &str) {
    for name in hosts::without_effect(traits, class) {
        tracing::warn!("{class}.{name} has no effect");
    }
}

/// How mpiexec is called.
fn mpi(traits: &Traits) -> Mpi {
    let mut command = texts(traits, "mpi_cmd");
    if command.is_empty() {
        command.push("mpiexec".to_owned());
    }
    Mpi {
        command,
        arguments: texts(traits, "mpi_args"),
        files: None,
    }
}

/// The profile's folder on another machine: as ipyparallel has it, at the same place in the home folder.
fn profile_there(setup: &Setup) -> Option<String> {
    let location = setup.profile.location();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let within = home.and_then(|home| location.strip_prefix(home).ok().map(Path::to_owned));
    let folder = within.unwrap_or_else(|| location.to_owned());
    folder.to_str().map(str::to_owned)
}

/// Says which settings of launchers the local ones do not heed.
pub(super) fn warn_of_launcher_traits(setup: &Setup) {
    let classes: BTreeSet<&str> = [Role::Controller, Role::Engines]
        .into_iter()
        .filter(|role| matches!(name_of(setup, *role), "local" | "mpi"))
        .flat_map(|role| lineage(setup, role))
        .copied()
        .collect();
    for class in classes {
        let traits = setup.settings.launcher.get(class);
        let names = traits.into_iter().flat_map(Traits::keys);
        for name in names.filter(|name| !HEEDED.contains(&name.as_str())) {
            tracing::warn!("{class}.{name} has no effect: this launcher has no such setting here");
        }
    }
}

/// Engines elsewhere cannot reach a controller that listens on its machine alone.
pub(super) fn warn_of_loopback(
    controller: &ControllerSettings,
    controller_by: &By,
    engines_by: &By,
) {
    let of_controller = match controller_by {
        By::Ssh(hosts) => hosts.first().map(Host::address),
        _ => None,
    };
    let elsewhere = match engines_by {
        // A tunnel leads from here to a controller over ssh.
        By::Local | By::Mpi(_) => matches!(controller_by, By::Batch(_)),
        By::Ssh(hosts) => hosts
            .iter()
            .any(|host| !host.tunnel && Some(host.address()) != of_controller),
        By::Batch(_) => true,
    };
    let interface = controller.engine_interface();
    if elsewhere && is_local_interface(&interface) {
        tracing::warn!(
            "the controller listens on {interface}: engines on other machines cannot reach it; --ip='*' lets them"
        );
    }
}

/// The texts of a list.
pub(super) fn texts(traits: &Traits, name: &str) -> Vec<String> {
    let items = traits.get(name).and_then(Value::as_array);
    let items = items.into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}
