//! `ipcluster start`.

use std::ffi::OsString;

use clap::Args;

use crate::cli::Failure;
use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::dashboard::parse_place;
use crate::cli::parts::{
    KernelArgs, controller_job, dry_run, engines_by, engines_job, warn_of_launcher_traits,
    warn_of_loopback,
};
use crate::cli::setup::{ProfileMust, Setup, edit, set_up};
use crate::cli::supervise::{
    Background, check_launcher, claim_failure, clean_logs, cluster_info, in_background,
    launcher_of, plan,
};
use crate::launch::conduct::{Cluster, Controller};
use crate::launch::ledger::Ledger;
use crate::launch::{CONTROLLER_LAUNCHERS, LAUNCHERS};
use crate::profile::settings::Edit;
use crate::profile::traitlets::Program;
use crate::web::Place;

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Arguments after -- go to the controller: `ipcluster start -n 4 -- --ip=0.0.0.0`."
)]
pub(super) struct StartArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Engines to start [default: one for each CPU]
    #[arg(short, long = "n", value_name = "N")]
    n: Option<u32>,

    /// Return when all engines are registered, and leave the cluster running
    #[arg(long)]
    daemonize: bool,

    /// Seconds in which the engines have to register [default: 60]
    #[arg(long, value_name = "SECONDS")]
    engine_timeout: Option<f64>,

    /// Seconds between the controller's start and that of the engines [default: 0]
    #[arg(long, value_name = "SECONDS")]
    delay: Option<f64>,

    /// How the engines are started: local, ssh, mpi, slurm, pbs, sge, lsf or htcondor [default: local]
    #[arg(long, value_name = "LAUNCHER")]
    engines: Option<String>,

    /// How the controller is started [default: local]
    #[arg(long, value_name = "LAUNCHER")]
    controller: Option<String>,

    /// Address on which the controller listens; * or 0.0.0.0 is all of this machine's [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,

    /// Name or address by which engines and clients elsewhere reach the controller [default: its host name]
    #[arg(long, value_name = "HOST")]
    location: Option<String>,

    /// Serve a status page and metrics: on a free port of this machine, or where it is said [see ipcluster dashboard]
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "",
          value_parser = parse_place)]
    dashboard: Option<Place>,

    /// Print the batch system's script, and start nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    kernels: KernelArgs,
}

impl StartArgs {
    fn edits(&self) -> Vec<Edit> {
        [
            edit("cluster.n", "--n", self.n),
            edit(
                "cluster.daemonize",
                "--daemonize",
                self.daemonize.then_some(true),
            ),
            edit(
                "cluster.engine_timeout",
                "--engine-timeout",
                self.engine_timeout,
            ),
            edit("cluster.delay", "--delay", self.delay),
            edit(
                "cluster.engines",
                "--engines",
                self.engines.as_ref().map(|name| name.to_ascii_lowercase()),
            ),
            edit(
                "cluster.controller",
                "--controller",
                self.controller
                    .as_ref()
                    .map(|name| name.to_ascii_lowercase()),
            ),
            edit("cluster.controller_ip", "--ip", self.ip.clone()),
            edit(
                "cluster.controller_location",
                "--location",
                self.location.clone(),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

pub(super) fn run(args: &StartArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let background = Background::take();
    let started = start(args, rewritten, &background);
    background.tell(started)
}

fn start(
    args: &StartArgs,
    mut rewritten: Rewritten,
    background: &Background,
) -> Result<(), Failure> {
    let mut rest = rewritten.rest.take().unwrap_or_default();
    // What stands behind -- goes before it.
    rest.splice(
        0..0,
        args.dashboard
            .as_ref()
            .map(|place| format!("--dashboard={place}").into()),
    );
    let mut edits = args.edits();
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
        ProfileMust::BeMadeIfMissing,
    )?;
    let settings = &setup.settings.cluster;
    check_launcher("--controller", &settings.controller, CONTROLLER_LAUNCHERS)?;
    check_launcher("--engines", &settings.engines, LAUNCHERS)?;
    if args.dry_run {
        return dry_run(&setup, &args.kernels);
    }
    warn_of_launcher_traits(&setup);
    if settings.daemonize && !background.is_some() {
        return in_background(&setup);
    }
    background.leave_terminal(&setup)?;
    setup.enter_work_dir()?;
    clean_logs(&setup);

    let (controller, own) = controller_job(&setup, &args.kernels, rest)?;
    let engines = engines_job(&setup, &args.kernels)?;
    let own = own
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let info = cluster_info(&setup, own);
    let engines_by = engines_by(&setup)?;
    warn_of_loopback(&setup, &engines_by);
    let plan = plan(&setup, &engines_by, true);
    let reuse = keeps_connection_files(&setup, &controller.argv);
    let ledger = Ledger::claim(&setup.profile, info, launcher_of(&setup), plan.grace, reuse)
        .map_err(claim_failure)?;
    background.conduct(Cluster {
        plan,
        ledger,
        engines,
        engines_by,
        send_connection_info: settings.send_connection_info,
        controller: Controller::Start(controller),
        profile: setup.profile.clone(),
        cluster_id: setup.cluster_id.clone(),
    })
}

/// With `--reuse` the files outlive the controller.
fn keeps_connection_files(setup: &Setup, arguments: &[OsString]) -> bool {
    let controller = &setup.settings.controller;
    let says = |argument: &OsString| {
        let text = argument.to_string_lossy();
        let name = text.trim_start_matches('-');
        name.starts_with("reuse")
            || name.starts_with("restore")
            || name.contains(".reuse_files")
            || name.contains(".restore_engines")
    };
    controller.reuse || controller.restore || arguments.iter().any(says)
}
