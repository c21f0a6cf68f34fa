//! What every program does before its work: settings, log, working folder, limits.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::Failure;
use crate::cli::args::{Environment, ResolvedCommon, Rewritten};
use crate::os::log::{self, LogOptions, Rotation};
use crate::os::{files, limits};
use crate::profile::dir::ProfileDir;
use crate::profile::settings::{Edit, Origin, Resolved, Settings, load};
use crate::profile::traitlets::{Assignment, Program};
use crate::protocol::ClusterId;

/// A program's settings, and where its files are.
pub(super) struct Setup {
    pub(super) profile: ProfileDir,
    pub(super) cluster_id: ClusterId,
    pub(super) settings: Settings,
    pub(super) common: ResolvedCommon,
    /// `--Class.trait=value` of the command line.
    pub(super) traits: Vec<Assignment>,
}

/// Is the profile made when it is not there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProfileMust {
    Exist,
    BeMadeIfMissing,
}

/// Who reads what this process has to say?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogTo {
    /// Where the settings have it.
    AsSet,
    /// With `--daemonize`, a person at the terminal: what goes to the background has a log of its own.
    TerminalOfDaemon,
}

/// Reads all settings and starts the log. `edits` are what the verb's own arguments change.
pub(super) fn set_up(
    program: Program,
    name: &'static str,
    common: &crate::cli::args::CommonArgs,
    rewritten: Rewritten,
    edits: Vec<Edit>,
    profile_must: ProfileMust,
) -> Result<Setup, Failure> {
    let log_to = LogTo::AsSet;
    set_up_logging(
        program,
        name,
        common,
        rewritten,
        edits,
        profile_must,
        log_to,
    )
}

/// The same for what may go to the background.
pub(super) fn set_up_logging(
    program: Program,
    name: &'static str,
    common: &crate::cli::args::CommonArgs,
    rewritten: Rewritten,
    edits: Vec<Edit>,
    profile_must: ProfileMust,
    log_to: LogTo,
) -> Result<Setup, Failure> {
    let mut common = common.resolve(&Environment::of_process())?;
    common.edits.extend(edits);
    let (profile, is_new) = match profile_must {
        ProfileMust::Exist => (common.find_profile()?, false),
        ProfileMust::BeMadeIfMissing => common.find_or_create_profile()?,
    };
    let sources = common.sources(program, Some(&profile), rewritten.traits.clone());
    let resolved = load(&sources).map_err(|error| Failure::usage(error.to_string()))?;
    let cluster_id = cluster_id(&common, &resolved)?;
    let stays = log_to == LogTo::TerminalOfDaemon && resolved.settings.cluster.daemonize;
    start_log(name, &profile, &cluster_id, &resolved.settings, stays)?;
    if is_new {
        tracing::info!("created profile {}", profile.location().display());
    }
    for warning in common.warnings.iter().chain(&resolved.warnings) {
        tracing::warn!("{warning}");
    }
    for flag in &rewritten.negated {
        tracing::debug!("--{flag}=False is the default");
    }
    Ok(Setup {
        profile,
        cluster_id,
        settings: resolved.settings,
        common,
        traits: rewritten.traits,
    })
}

fn cluster_id(common: &ResolvedCommon, resolved: &Resolved) -> Result<ClusterId, Failure> {
    match (&common.cluster_id, &resolved.settings.cluster.id) {
        (Some(id), _) => Ok(id.clone()),
        (None, Some(id)) => Ok(crate::profile::dir::checked_cluster_id(id)?),
        (None, None) => Ok(ClusterId::default()),
    }
}

fn start_log(
    program: &'static str,
    profile: &ProfileDir,
    cluster_id: &ClusterId,
    settings: &Settings,
    stays_at_terminal: bool,
) -> Result<(), Failure> {
    let folder = profile.log_dir();
    if settings.log.clean == Some(true) {
        log::clean(&folder, program, &cluster_id.0);
    }
    let file = (settings.log.to_file && !stays_at_terminal)
        .then(|| folder.join(log::file_name(program, &cluster_id.0, std::process::id())));
    if let Some(file) = &file {
        eprintln!("Sending logs to {}", file.display());
    }
    let options = LogOptions {
        program,
        level: settings.log.level,
        components: settings.log.components.clone(),
        format: settings.log.format,
        rotation: rotation(settings),
        file,
    };
    Ok(log::start(&options)?)
}

fn rotation(settings: &Settings) -> Rotation {
    Rotation {
        max_size: settings.log.max_size.0,
        keep: settings.log.keep,
    }
}

impl Setup {
    /// When log files are followed by others.
    pub(super) fn rotation(&self) -> Rotation {
        rotation(&self.settings)
    }

    /// Goes to the folder that the process is to work in.
    pub(super) fn enter_work_dir(&self) -> Result<(), Failure> {
        let Some(folder) = &self.settings.process.work_dir else {
            return Ok(());
        };
        let folder = files::expand_path(folder);
        std::env::set_current_dir(&folder).map_err(|error| {
            Failure::failed(format!(
                "cannot work in {}: {error}; see --work-dir",
                folder.display()
            ))
        })
    }
}

/// An engine costs the controller about eight descriptors, and most systems allow far more than they give at first.
/// Returns the limit on open files as it was before.
pub(super) fn raise_limits() -> Option<u64> {
    match limits::raise_open_files() {
        Ok(limit) => Some(limit.before),
        Err(error) => {
            tracing::warn!("{error}");
            None
        }
    }
}

/// A change of a setting by an argument, if it was given.
pub(super) fn edit(
    key: &str,
    argument: &str,
    value: Option<impl Into<serde_json::Value>>,
) -> Option<Edit> {
    Some(Edit::set(
        key,
        value?.into(),
        Origin::CommandLine(argument.to_owned()),
    ))
}

/// The executable that runs now.
pub(super) fn this_program() -> Result<OsString, Failure> {
    std::env::current_exe()
        .map(PathBuf::into_os_string)
        .map_err(|error| Failure::failed(format!("this program cannot find itself: {error}")))
}

/// How many engines are wanted.
pub(super) fn engine_count(setup: &Setup) -> u32 {
    let cluster = &setup.settings.cluster;
    let least = cluster.min.or_else(|| cluster.max.map(|_| 1));
    cluster.n.or(least).unwrap_or_else(processors)
}

pub(super) fn processors() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cpus).unwrap_or(u32::MAX)
}
