//! `ipcluster engines`.

use clap::Args;

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::launch_args::LaunchArgs;
use crate::cli::launchers::{engines_by, warn_of_launcher_traits};
use crate::cli::output::FormatArgs;
use crate::cli::parts::{dry_run, engines_job, warn_of_controller_traits};
use crate::cli::setup::{ProfileMust, edit, set_up};
use crate::cli::supervise::{
    Background, check_launcher, claim_failure, cluster_info, in_background, launcher_of, plan,
};
use crate::cli::{Failure, exit_code};
use crate::launch::LAUNCHERS;
use crate::launch::batch::system::Role;
use crate::launch::conduct::{Cluster, Controller};
use crate::launch::found::Found;
use crate::launch::ledger::Ledger;
use crate::profile::traitlets::Program;

#[derive(Args, Clone, Debug)]
pub(super) struct EnginesArgs {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    launch: LaunchArgs,

    #[command(flatten)]
    format: FormatArgs,
}

pub(super) fn run(args: &EnginesArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let background = Background::take();
    let added = add(args, rewritten, &background);
    background.tell(added)
}

fn add(args: &EnginesArgs, rewritten: Rewritten, background: &Background) -> Result<(), Failure> {
    let mut edits = args.launch.edits();
    edits.extend(edit(
        "log.to_file",
        "--daemonize",
        background.is_some().then_some(true),
    ));
    let setup = set_up(
        Program::Cluster,
        "ipcluster",
        &args.common,
        rewritten,
        edits,
        ProfileMust::Exist,
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

    let engines = engines_job(&setup, &args.launch.kernels)?;
    let info = cluster_info(&setup, Vec::new());
    let engines_by = engines_by(&setup)?;
    let plan = plan(&setup, &engines_by, false)?;
    let ledger = Ledger::join(
        &setup.profile,
        info,
        launcher_of(&setup, Role::Engines),
        plan.grace,
    )
    .map_err(claim_failure)?;
    background.conduct(Cluster {
        plan,
        ledger,
        engines,
        engines_by,
        send_connection_info: settings.send_connection_info,
        controller: Controller::Join(controller),
        profile: setup.profile.clone(),
        cluster_id: setup.cluster_id.clone(),
    })
}
