//! The parts of a cluster, as commands: what of the cluster's own command line and settings each of them is given.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use crate::cli::Failure;
use crate::cli::launchers::{controller_by, engines_by, name_of, texts, traits};
use crate::cli::setup::{Setup, engine_count, this_program};
use crate::launch::Job;
use crate::launch::batch::script as batch;
use crate::launch::batch::system::{Role, System};
use crate::launch::batch::{Where, script};
use crate::launch::cluster::By;
use crate::launch::supervisor::{Member, SetNo};
use crate::os::files;
use crate::os::log::{LogFormat, LogLevel};
use crate::profile::settings::{LogSettings, Traits};
use crate::profile::traitlets::{Action, Assignment, Program, Written, is_for};

/// Processes are told to end, and killed when they have not after this time.
const GRACE: Duration = Duration::from_secs(4);

/// A batch system takes its time: Slurm's own grace is 30 s.
const GRACE_OF_JOBS: Duration = Duration::from_secs(40);

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
    pub(super) fn python(&self) -> Option<OsString> {
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

/// What is run on another machine, where the rest is that machine's own affair.
pub(super) fn over_ssh_job(
    setup: &Setup,
    name: &'static str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Job {
    let mut argv: Vec<OsString> = vec![format!("--cluster-id={}", setup.cluster_id.0).into()];
    argv.extend(arguments);
    Job {
        name,
        argv,
        environment: Vec::new(),
        engines: None,
        machine: None,
        connection: None,
    }
}

/// The process that runs all engines.
pub(super) fn engines_job(setup: &Setup, kernels: &KernelArgs) -> Result<Job, Failure> {
    let traits = traits(setup, Role::Engines);
    let mut arguments: Vec<OsString> = kernels.handed_on().collect();
    if setup.settings.cluster.engines == "sshproxy" {
        // The `ipcluster` there has settings of its own.
        arguments.extend(handed_on(setup, Program::Engine));
        return Ok(over_ssh_job(setup, "ipengine", arguments));
    }
    let more = setup.settings.cluster.engine_args.iter();
    arguments.extend(more.map(OsString::from));
    arguments.extend(handed_on(setup, Program::Engine));
    if setup.settings.cluster.engines == "ssh" {
        return Ok(over_ssh_job(setup, "ipengine", arguments));
    }
    let more = texts(&traits, "engine_args");
    arguments.extend(more.into_iter().map(OsString::from));
    let mut job = job(setup, "ipengine", "engine", arguments)?;
    job.environment.extend(environment(&traits));
    let is_job = System::named(name_of(setup, Role::Engines)).is_some();
    job.environment
        .extend(secrets(setup, Program::Engine, is_job)?);
    Ok(job)
}

/// Prints what would be submitted: for the controller, if it is to be started, and for the engines.
pub(super) fn dry_run(
    setup: &Setup,
    kernels: &KernelArgs,
    controller: Option<&Job>,
) -> Result<(), Failure> {
    let cluster = Where {
        profile: setup.profile.clone(),
        cluster_id: setup.cluster_id.clone(),
    };
    let mut scripts = Vec::new();
    let mut add = |settings: &batch::Settings, member, job: &Job| -> Result<(), Failure> {
        let script = script(settings, &cluster, member, job)
            .map_err(|error| Failure::usage(error.to_string()))?;
        scripts.push(script.text);
        Ok(())
    };
    if let Some(job) = controller
        && let By::Batch(settings) = controller_by(setup)?
    {
        add(&settings, Member::Controller, job)?;
    }
    if let By::Batch(settings) = engines_by(setup)? {
        let mut job = engines_job(setup, kernels)?;
        job.engines = Some(engine_count(setup));
        add(&settings, Member::Engines(SetNo(0)), &job)?;
    }
    if scripts.is_empty() {
        return Err(Failure::usage(
            "--dry-run shows the script of a batch system: name one with --engines=slurm, or another",
        ));
    }
    // Nobody reads it when the output is closed.
    let _ = std::io::stdout().write_all(scripts.join("\n").as_bytes());
    Ok(())
}

/// How long the parts have to end when they are told to.
pub(super) fn grace(setup: &Setup) -> Duration {
    let of_part = |role| {
        let asked = traits(setup, role);
        let asked = asked.get("stop_seconds_until_kill").and_then(Value::as_u64);
        match asked {
            Some(seconds) => Duration::from_secs(seconds),
            // Another `ipcluster` may have jobs to end.
            None if name_of(setup, role) == "sshproxy" => GRACE_OF_JOBS,
            None if System::named(name_of(setup, role)).is_some() => GRACE_OF_JOBS,
            None => GRACE,
        }
    };
    let engines = of_part(Role::Engines);
    // Where both are local processes, the engines' setting is the one that is documented.
    if name_of(setup, Role::Controller) == "local" {
        engines
    } else {
        engines.max(of_part(Role::Controller))
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
pub(super) fn job(
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
pub(super) fn log_arguments(log: &LogSettings) -> impl Iterator<Item = OsString> {
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
pub(super) fn handed_on(setup: &Setup, program: Program) -> Vec<OsString> {
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

/// Keys of the cluster's command line that this part understands. A job must not have them in its environment, which others
/// can ask the batch system for.
pub(super) fn secrets(
    setup: &Setup,
    program: Program,
    is_job: bool,
) -> Result<Vec<(OsString, OsString)>, Failure> {
    let meant = setup.traits.iter().filter(|one| is_for(program, one));
    // That of the connection file is the one that counts for engines.
    let in_file = |one: &&Assignment| is_job && program == Program::Engine && one.name == "key";
    let meant: Vec<&Assignment> = meant.filter(|one| !in_file(one)).collect();
    if let Some(one) = meant.iter().find(|one| is_job && secret_of(one).is_some()) {
        return Err(Failure::usage(format!(
            "{}: it would be in the job's environment, which others can ask the batch system for: put it into the profile, as \
             `key_file` of [session] or in [curve]",
            one.origin
        )));
    }
    Ok(secrets_of(&meant))
}

fn secrets_of(meant: &[&Assignment]) -> Vec<(OsString, OsString)> {
    meant
        .iter()
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

pub(super) fn environment(traits: &Traits) -> Vec<(OsString, OsString)> {
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
