//! The parts of a cluster, as commands: what of the cluster's own command line and settings each of them is given.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::cli::Failure;
use crate::cli::setup::Setup;
use crate::cli::supervise::{engine_count, this_program};
use crate::launch::Job;
use crate::launch::batch::script as batch;
use crate::launch::batch::system::{Role, System};
use crate::launch::batch::{Where, script};
use crate::launch::conduct::EnginesBy;
use crate::launch::local::Mpi;
use crate::launch::ssh::hosts;
use crate::launch::supervisor::{Member, SetNo};
use crate::os::files;
use crate::os::log::{LogFormat, LogLevel};
use crate::profile::settings::{LogSettings, Traits};
use crate::profile::traitlets::{Action, Assignment, Program, Written, is_for};

/// Processes are told to end, and killed when they have not after this time.
const GRACE: Duration = Duration::from_secs(4);

/// A batch system takes its time: Slurm's own grace is 30 s.
const GRACE_OF_JOBS: Duration = Duration::from_secs(40);

/// Traits of ipyparallel's local launchers, each before what it derives from.
const MPI_ENGINES: &[&str] = &[
    "MPIEngineSetLauncher",
    "MPILauncher",
    "LocalProcessLauncher",
    "EngineLauncher",
    "BaseLauncher",
];
const CONTROLLER_LAUNCHER: &[&str] = &[
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
    "controller_args",
    "engine_args",
    "environment",
    "mpi_args",
    "mpi_cmd",
    "stop_seconds_until_kill",
];

/// What `start` and `engines` hand on to the process that runs the engines.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct KernelArgs {
    /// The Python that runs the user's code [default: of $VIRTUAL_ENV, beside this program, or on PATH]
    #[arg(long, value_name = "PYTHON")]
    python: Option<String>,

    /// Start each kernel by itself in place of forking them from one that has imported everything
    #[arg(long)]
    spawn: bool,

    /// Run an installed Jupyter kernel of any language, by its name: for execute requests
    #[arg(long, value_name = "NAME", conflicts_with = "spawn")]
    kernel: Option<String>,
}

impl KernelArgs {
    fn python(&self) -> Option<OsString> {
        Some(format!("--python={}", self.python.as_ref()?).into())
    }

    fn handed_on(&self) -> impl Iterator<Item = OsString> {
        let kernel = self
            .kernel
            .iter()
            .map(|kernel| format!("--kernel={kernel}").into());
        self.python()
            .into_iter()
            .chain(kernel)
            .chain(self.spawn.then(|| "--spawn".into()))
    }
}

/// The controller, and the arguments that are its user's own.
pub(super) fn controller_job(
    setup: &Setup,
    kernels: &KernelArgs,
    rest: Vec<OsString>,
) -> Result<(Job, Vec<OsString>), Failure> {
    let settings = &setup.settings.cluster;
    let traits = setup.settings.launcher_traits(CONTROLLER_LAUNCHER);
    let mut arguments: Vec<OsString> = Vec::new();
    for (name, value) in [
        ("--ip", &settings.controller_ip),
        ("--location", &settings.controller_location),
    ] {
        arguments.extend(value.as_ref().map(|value| format!("{name}={value}").into()));
    }
    arguments.extend(kernels.python());
    let mut own: Vec<OsString> = settings
        .controller_args
        .iter()
        .map(OsString::from)
        .collect();
    own.extend(texts(&traits, "controller_args"));
    own.extend(handed_on(setup, Program::Controller));
    own.extend(rest);
    arguments.extend(own.iter().cloned());
    let mut job = job(setup, "ipcontroller", "controller", arguments)?;
    job.environment.extend(environment(&traits));
    job.environment.extend(secrets(setup, Program::Controller));
    Ok((job, own))
}

/// The process that runs all engines.
pub(super) fn engines_job(setup: &Setup, kernels: &KernelArgs) -> Result<Job, Failure> {
    let traits = engine_traits(setup);
    let mut arguments: Vec<OsString> = kernels.handed_on().collect();
    let more = setup.settings.cluster.engine_args.iter();
    arguments.extend(more.map(OsString::from));
    arguments.extend(handed_on(setup, Program::Engine));
    if setup.settings.cluster.engines == "ssh" {
        // The rest is each machine's own affair.
        let mut argv: Vec<OsString> = vec![format!("--cluster-id={}", setup.cluster_id.0).into()];
        argv.extend(arguments);
        return Ok(Job {
            name: "ipengine",
            argv,
            environment: Vec::new(),
            engines: None,
            machine: None,
            connection: None,
        });
    }
    arguments.extend(texts(&traits, "engine_args"));
    let mut job = job(setup, "ipengine", "engine", arguments)?;
    job.environment.extend(environment(&traits));
    job.environment.extend(secrets(setup, Program::Engine));
    Ok(job)
}

/// The class of the engines' launcher, followed by those that it derives from.
fn engine_lineage(setup: &Setup) -> &'static [&'static str] {
    let name = setup.settings.cluster.engines.as_str();
    match (System::named(name), name) {
        (Some(system), _) => system.lineage(Role::Engines),
        (None, "ssh") => hosts::LINEAGE,
        (None, "mpi") => MPI_ENGINES,
        _ => LOCAL_ENGINES,
    }
}

fn engine_traits(setup: &Setup) -> Traits {
    setup.settings.launcher_traits(engine_lineage(setup))
}

/// How the engines are started.
pub(super) fn engines_by(setup: &Setup) -> Result<EnginesBy, Failure> {
    let traits = engine_traits(setup);
    let Some(system) = System::named(&setup.settings.cluster.engines) else {
        return match setup.settings.cluster.engines.as_str() {
            "mpi" => Ok(EnginesBy::Mpi(mpi(&traits))),
            "ssh" => {
                for name in hosts::without_effect(&traits) {
                    tracing::warn!("SSHEngineSetLauncher.{name} has no effect");
                }
                let hosts = hosts::hosts(
                    &traits,
                    setup.settings.cluster.max.or(setup.settings.cluster.n),
                );
                let mut hosts = hosts.map_err(|error| Failure::usage(error.to_string()))?;
                for host in &mut hosts {
                    let folder = &mut host.profile_dir;
                    *folder = folder.take().or_else(|| profile_there(setup));
                }
                Ok(EnginesBy::Ssh(hosts))
            }
            _ => Ok(EnginesBy::Local),
        };
    };
    let template = match traits.get("batch_template_file").and_then(Value::as_str) {
        Some(path) if !path.is_empty() => {
            Some(files::read_text(&files::expand_path(Path::new(path)))?)
        }
        _ => None,
    };
    let settings = batch::Settings::new(system, Role::Engines, &traits, template)
        .map_err(|error| Failure::usage(error.to_string()))?;
    for name in settings.without_effect(&traits) {
        tracing::warn!("{}.{name} has no effect", settings.launcher());
    }
    Ok(EnginesBy::Batch(Box::new(settings)))
}

/// How mpiexec is called.
fn mpi(traits: &Traits) -> Mpi {
    let words = |name: &str| -> Vec<String> {
        let words = texts(traits, name).into_iter();
        words.filter_map(|word| word.into_string().ok()).collect()
    };
    let mut command = words("mpi_cmd");
    if command.is_empty() {
        command.push("mpiexec".to_owned());
    }
    Mpi {
        command,
        arguments: words("mpi_args"),
    }
}

/// The profile's folder on another machine: as ipyparallel has it, at the same place in the home folder.
fn profile_there(setup: &Setup) -> Option<String> {
    let location = setup.profile.location();
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
    let within = home.and_then(|home| location.strip_prefix(home).ok().map(Path::to_owned));
    let folder = within.unwrap_or_else(|| location.to_owned());
    folder.to_str().map(str::to_owned)
}

/// Prints what would be submitted.
pub(super) fn dry_run(setup: &Setup, kernels: &KernelArgs) -> Result<(), Failure> {
    let EnginesBy::Batch(settings) = engines_by(setup)? else {
        return Err(Failure::usage(
            "--dry-run shows the script of a batch system: name one with --engines=slurm, or another",
        ));
    };
    let mut job = engines_job(setup, kernels)?;
    job.engines = Some(engine_count(setup));
    let cluster = Where {
        profile: setup.profile.clone(),
        cluster_id: setup.cluster_id.clone(),
    };
    let script = script(&settings, &cluster, Member::Engines(SetNo(0)), &job)
        .map_err(|error| Failure::usage(error.to_string()))?;
    // Nobody reads it when the output is closed.
    let _ = std::io::stdout().write_all(script.text.as_bytes());
    Ok(())
}

/// How long the parts have to end when they are told to.
pub(super) fn grace(setup: &Setup) -> Duration {
    let traits = engine_traits(setup);
    match traits
        .get("stop_seconds_until_kill")
        .and_then(Value::as_u64)
    {
        Some(seconds) => Duration::from_secs(seconds),
        None if System::named(&setup.settings.cluster.engines).is_some() => GRACE_OF_JOBS,
        None => GRACE,
    }
}

/// Says which settings of launchers the local one does not heed.
pub(super) fn warn_of_launcher_traits(setup: &Setup) {
    let local = match setup.settings.cluster.engines.as_str() {
        "local" => &LOCAL_ENGINES[..2],
        "mpi" => &MPI_ENGINES[..2],
        _ => &[],
    };
    for class in CONTROLLER_LAUNCHER.iter().chain(local) {
        let Some(traits) = setup.settings.launcher.get(*class) else {
            continue;
        };
        for name in traits
            .keys()
            .filter(|name| !HEEDED.contains(&name.as_str()))
        {
            tracing::warn!(
                "{class}.{name} has no effect: the local launcher has no such setting here"
            );
        }
    }
}

/// Engines elsewhere cannot reach a controller that listens on this machine alone.
pub(super) fn warn_of_loopback(setup: &Setup, engines_by: &EnginesBy) {
    let address = setup.settings.cluster.controller_ip.as_ref();
    let address = address.unwrap_or(&setup.settings.controller.ip);
    let listens_here = setup
        .settings
        .controller
        .engine_ip
        .as_ref()
        .unwrap_or(address);
    let is_loopback = listens_here == "localhost"
        || listens_here
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    let elsewhere = match engines_by {
        EnginesBy::Local | EnginesBy::Mpi(_) => false,
        EnginesBy::Ssh(hosts) => hosts.iter().any(|host| !host.tunnel),
        EnginesBy::Batch(_) => true,
    };
    if is_loopback && elsewhere {
        tracing::warn!(
            "the controller listens on {listens_here}: engines on other machines cannot reach it; --ip='*' lets them"
        );
    }
}

/// Says what of the command line is for a controller, when that is running already.
pub(super) fn warn_of_controller_traits(setup: &Setup) {
    let parts = [Program::Controller, Program::Engine];
    for one in &setup.traits {
        if parts.map(|part| is_for(part, one)) == [true, false] {
            tracing::warn!(
                "{} has no effect: it is for the controller, which runs already",
                one.origin
            );
        }
    }
}

/// A part of the cluster: this program, with this verb and these arguments.
fn job(
    setup: &Setup,
    name: &'static str,
    verb: &str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Job, Failure> {
    let id = &setup.cluster_id.0;
    let location = setup.profile.location();
    let mut argv = vec![this_program()?, verb.into()];
    let mut profile = OsString::from("--profile-dir=");
    profile.push(location);
    argv.push(profile);
    argv.push(format!("--cluster-id={id}").into());
    for file in &setup.common.config_files {
        let mut config = OsString::from("--config=");
        config.push(files::expand_path(file));
        argv.push(config);
    }
    argv.extend(log_arguments(&setup.settings.log));
    argv.extend(arguments);
    let mut environment: Vec<(OsString, OsString)> = vec![
        ("IPP_PROFILE_DIR".into(), location.into()),
        ("IPP_CLUSTER_ID".into(), id.into()),
    ];
    if let Ok(folder) = setup.common.lookup.ipython_dir() {
        environment.push(("IPYTHONDIR".into(), folder.into()));
    }
    Ok(Job {
        name,
        argv,
        environment,
        engines: None,
        machine: None,
        connection: None,
    })
}

/// How the parts log, as far as it is not the default.
fn log_arguments(log: &LogSettings) -> impl Iterator<Item = OsString> {
    let common = (log.level != LogLevel::default()).then(|| log.level.to_string());
    let components = log.components.iter();
    let components = components.map(|(name, level)| format!("{name}={level}"));
    let levels: Vec<String> = common.into_iter().chain(components).collect();
    let levels = (!levels.is_empty()).then(|| format!("--log-level={}", levels.join(",")));
    let format =
        (log.format != LogFormat::default()).then(|| format!("--log-format={}", log.format.name()));
    levels.into_iter().chain(format).map(OsString::from)
}

/// `--Class.trait=value` of the cluster's command line that this part understands. A key is not shown a second time.
fn handed_on(setup: &Setup, program: Program) -> Vec<OsString> {
    let meant = |one: &&Assignment| is_for(program, one) && secret_of(one).is_none();
    setup
        .traits
        .iter()
        .filter(meant)
        .flat_map(|one| {
            let values = match &one.action {
                Action::Set(Written::Text(values)) => values.as_slice(),
                _ => &[],
            };
            let argument = |value: &String| format!("--{}.{}={value}", one.class, one.name).into();
            values.iter().map(argument).collect::<Vec<OsString>>()
        })
        .collect()
}

/// The environment variable by which a key goes to a part: command lines can be read by everybody on this machine.
fn secret_of(assignment: &Assignment) -> Option<&'static str> {
    match &assignment.name[..] {
        "key" if assignment.class.starts_with("Session") => Some("IPP_SESSION_KEY"),
        "curve_secretkey" => Some("IPP_CURVE_SECRETKEY"),
        "curve_publickey" => Some("IPP_CURVE_PUBLICKEY"),
        "curve_serverkey" => Some("IPP_CURVE_SERVERKEY"),
        _ => None,
    }
}

/// Keys of the cluster's command line that this part understands.
fn secrets(setup: &Setup, program: Program) -> Vec<(OsString, OsString)> {
    let meant = setup.traits.iter().filter(|one| is_for(program, one));
    meant
        .filter_map(|one| {
            let variable = secret_of(one)?;
            match &one.action {
                Action::Set(Written::Text(values)) => {
                    Some((variable.into(), values.last()?.into()))
                }
                _ => None,
            }
        })
        .collect()
}

fn texts(traits: &Traits, name: &str) -> Vec<OsString> {
    let items = traits.get(name).and_then(Value::as_array);
    let items = items.into_iter().flatten();
    items
        .filter_map(Value::as_str)
        .map(OsString::from)
        .collect()
}

fn environment(traits: &Traits) -> Vec<(OsString, OsString)> {
    let variables = traits.get("environment").and_then(Value::as_object);
    variables
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            (name.into(), value.into())
        })
        .collect()
}
