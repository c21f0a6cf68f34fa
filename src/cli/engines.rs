//! `ipcluster engines`.

use clap::Args;

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::launch_args::LaunchArgs;
use crate::cli::launchers::{engines_by, warn_of_launcher_traits};
use crate::cli::output::FormatArgs;
use crate::cli::parts::{dry_run, engines_job, warn_of_controller_traits};
use crate::cli::setup::{ProfileMust, Setup, edit, set_up, set_up_logging};
use crate::cli::supervise::{
    Background, Over, check_launcher, claim_failure, cluster_info, in_background, launcher_of, plan,
};
use crate::cli::written_files::WrittenFiles;
use crate::cli::{Failure, exit_code, lifeline};
use crate::launch::LAUNCHERS;
use crate::launch::cluster::{Cluster, Controller};
use crate::launch::found::Found;
use crate::launch::ledger::Ledger;
use crate::launch::role::Role;
use crate::os::ProcessRef;
use crate::profile::connection::{ClientFile, ConnectionFiles, EngineFile};
use crate::profile::traitlets::Program;

#[derive(Args, Clone, Debug)]
pub(super) struct EnginesArgs {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    launch: LaunchArgs,

    #[command(flatten)]
    format: FormatArgs,

    /// For an `ipcluster` elsewhere: connection files and orders come from standard input, news go to standard output
    #[arg(long, hide = true, conflicts_with = "daemonize")]
    over_stdin: bool,
}

pub(super) fn run(args: &EnginesArgs, rewritten: Rewritten) -> Result<(), Failure> {
    if args.over_stdin {
        return add_for_another(args, rewritten);
    }
    let background = Background::take();
    let added = add(args, rewritten, &background);
    background.tell(added)
}

/// An `ipcluster` on another machine has the controller's files, and wants engines to be started from here.
fn add_for_another(args: &EnginesArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let (greeting, lifeline, starter) = lifeline::take_standard_streams()?;
    let background = Background::take();
    let setup = set_up(
        Program::Cluster,
        "ipcluster",
        &args.common,
        rewritten,
        args.launch.edits(),
        ProfileMust::BeMadeIfMissing,
    )?;
    check_launcher("--engines", &setup.settings.cluster.engines, LAUNCHERS)?;
    let client = ClientFile::from_text(&greeting.client)?;
    let engine = EngineFile::from_text(&greeting.connection)?;
    let security = setup.profile.security_dir();
    let files = ConnectionFiles::paths(&security, &setup.cluster_id);
    let found = Found::of(&setup.profile, &setup.cluster_id);
    let is_there = files
        .read()
        .is_ok_and(|there| there == (client.clone(), engine.clone()));
    // Those of a profile that both machines share stay as they are.
    let _written = if is_there {
        None
    } else if found.controller_listens() {
        return Err(Failure::new(
            exit_code::ALREADY_STARTED,
            format!(
                "another controller of profile {} runs on this machine: name another remote_profile_dir",
                setup.profile.location().display()
            ),
        ));
    } else {
        Some(WrittenFiles::write(&files, &client, &engine, false)?)
    };
    if !found.controller_listens() {
        return Err(Failure::failed(format!(
            "the controller cannot be reached from here at {} (port {}): start it with --ip='*', and with a --location that \
             is known here",
            client.clone().connectable().interface,
            client.registration
        )));
    }
    setup.enter_work_dir()?;
    let cluster = joining(&setup, args, None)?;
    background.conduct(cluster, Some(Over { lifeline, starter }))
}

fn add(args: &EnginesArgs, rewritten: Rewritten, background: &Background) -> Result<(), Failure> {
    let mut edits = args.launch.edits();
    edits.extend(edit(
        "log.to_file",
        "--daemonize",
        background.is_some().then_some(true),
    ));
    let setup = set_up_logging(
        Program::Cluster,
        "ipcluster",
        &args.common,
        rewritten,
        edits,
        ProfileMust::Exist,
        background.log_to(),
    )?;
    let settings = &setup.settings.cluster;
    check_launcher("--engines", &settings.engines, LAUNCHERS)?;
    if args.launch.dry_run {
        return dry_run(&setup, &args.launch.kernels, None);
    }
    let found = Found::of(&setup.profile, &setup.cluster_id);
    let controller = found.controller();
    if controller.is_none() && !found.controller_listens() {
        return Err(Failure::new(
            exit_code::NO_CLUSTER,
            format!(
                "no cluster {:?} of profile {} is running: start one with `ipcluster start`; `ipcluster list` shows what \
                 runs",
                setup.cluster_id.0,
                setup.profile.location().display()
            ),
        ));
    }
    warn_of_launcher_traits(&setup);
    warn_of_controller_traits(&setup);
    if settings.daemonize && !background.is_some() {
        return in_background(&setup, &args.format);
    }
    if args.format.is_json() && !background.is_some() {
        return Err(Failure::usage(
            "-o json says what was started: it takes --daemonize; `ipcluster status -o json` tells of any cluster",
        ));
    }
    background.leave_terminal(&setup)?;
    setup.enter_work_dir()?;

    let cluster = joining(&setup, args, controller)?;
    background.conduct(cluster, None)
}

/// Engines that join the controller of the profile's files; its process, if it is one of this machine.
fn joining(
    setup: &Setup,
    args: &EnginesArgs,
    controller: Option<ProcessRef>,
) -> Result<Cluster, Failure> {
    let settings = &setup.settings.cluster;
    let engines = engines_job(setup, &args.launch.kernels)?;
    let info = cluster_info(setup, Vec::new());
    let engines_by = engines_by(setup)?;
    let plan = plan(setup, &engines_by, false)?;
    let launcher = launcher_of(setup, Role::Engines);
    let ledger = Ledger::join(&setup.profile, info, launcher, plan.grace).map_err(claim_failure)?;
    Ok(Cluster {
        plan,
        ledger,
        engines,
        engines_by,
        send_connection_info: settings.send_connection_info,
        controller: Controller::Join(controller),
        profile: setup.profile.clone(),
        cluster_id: setup.cluster_id.clone(),
        rotation: setup.rotation(),
    })
}
