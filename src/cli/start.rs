//! `ipcluster start`.

use std::time::Duration;

use clap::Args;

use crate::cli::Failure;
use crate::cli::args::levels::{BOOLEANS, boolean, offering};
use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::controller_part::ControllerPart;
use crate::cli::dashboard::parse_place;
use crate::cli::launch_args::{LaunchArgs, launcher};
use crate::cli::launchers::{controller_by, engines_by, warn_of_launcher_traits, warn_of_loopback};
use crate::cli::output::FormatArgs;
use crate::cli::parts::{dry_run, engines_job};
use crate::cli::setup::{ProfileMust, edit, set_up_logging};
use crate::cli::supervise::{
    Background, check_launcher, claim_failure, clean_logs, cluster_info, in_background,
    launcher_of, plan,
};
use crate::launch::cluster::{Cluster, Controller};
use crate::launch::ledger::{Launchers, Ledger};
use crate::launch::role::Role;
use crate::launch::{CONTROLLER_LAUNCHERS, LAUNCHERS};
use crate::profile::settings::Edit;
use crate::profile::traitlets::Program;
use crate::web::Place;

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Flags of `ipcluster controller` go to the controller: `ipcluster start -n 4 --sqlitedb --port=10101`. So \
                  does whatever stands behind --."
)]
pub(super) struct StartArgs {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    launch: LaunchArgs,

    #[command(flatten)]
    format: FormatArgs,

    /// Engines to have at least while the number follows the queue [default, with --max: 1]
    #[arg(long, value_name = "N")]
    min: Option<u32>,

    /// Engines to have at most: others are started while tasks wait, and end when they have no work [default, with --min:
    /// one for each CPU]
    #[arg(long, value_name = "N")]
    max: Option<u32>,

    /// Seconds without work after which an engine beyond --min ends; 0 for never [default: 300]
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<f64>,

    /// Seconds between the controller's start and that of the engines [default: 0]
    #[arg(long, value_name = "SECONDS")]
    delay: Option<f64>,

    /// How the controller is started: local, ssh, mpi, slurm, pbs, sge, lsf or htcondor [default: local]
    #[arg(long, value_name = "LAUNCHER", value_parser = offering(CONTROLLER_LAUNCHERS, launcher),
          hide_possible_values = true)]
    controller: Option<String>,

    /// Address on which the controller listens; * or 0.0.0.0 is all of this machine's [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,

    /// Name or address by which engines and clients elsewhere reach the controller [default: its host name]
    #[arg(long, value_name = "HOST")]
    location: Option<String>,

    /// Encrypt all connections (CURVE) [default: as soon as the controller listens beyond this machine]
    #[arg(long, value_name = "TRUE|FALSE", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = offering(BOOLEANS, boolean), hide_possible_values = true)]
    enable_curve: Option<bool>,

    /// Serve a status page and metrics: on a free port of this machine, or where it is said [see ipcluster dashboard]
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "",
          value_parser = parse_place)]
    dashboard: Option<Place>,
}

impl StartArgs {
    fn edits(&self) -> Vec<Edit> {
        let own = [
            edit("cluster.min", "--min", self.min),
            edit("cluster.max", "--max", self.max),
            edit("cluster.idle_timeout", "--idle-timeout", self.idle_timeout),
            edit("cluster.delay", "--delay", self.delay),
            edit(
                "cluster.controller",
                "--controller",
                self.controller.clone(),
            ),
            edit("cluster.controller_ip", "--ip", self.ip.clone()),
            edit(
                "cluster.controller_location",
                "--location",
                self.location.clone(),
            ),
        ];
        let mut edits = self.launch.edits();
        edits.extend(own.into_iter().flatten());
        edits
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
    // Flags of `start` that are the controller's, before its own.
    let curve = args.enable_curve;
    let dashboard = args.dashboard.as_ref();
    let own = [
        dashboard.map(|place| format!("--dashboard={place}").into()),
        curve.map(|wanted| format!("--enable-curve={wanted}").into()),
    ];
    rest.splice(0..0, own.into_iter().flatten());
    let mut edits = args.edits();
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
        ProfileMust::BeMadeIfMissing,
        background.log_to(),
    )?;
    let settings = &setup.settings.cluster;
    check_launcher("--controller", &settings.controller, CONTROLLER_LAUNCHERS)?;
    check_launcher("--engines", &settings.engines, LAUNCHERS)?;
    let controller = ControllerPart::new(&setup, &args.launch.kernels, rest)?;
    if args.launch.dry_run {
        return dry_run(&setup, &args.launch.kernels, Some(&controller.job));
    }
    // Said here, it reaches whoever starts a cluster in the background, too.
    warn_of_launcher_traits(&setup);
    let engines_by = engines_by(&setup)?;
    let controller_by = controller_by(&setup)?;
    warn_of_loopback(&controller.settings, &controller_by, &engines_by);
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
    clean_logs(&setup);

    let engines = engines_job(&setup, &args.launch.kernels)?;
    let own = controller.own.iter();
    let own = own
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let info = cluster_info(&setup, own);
    let mut plan = plan(&setup, &engines_by, true)?;
    if controller.writes_records() {
        plan.grace = plan.grace.max(GRACE_OF_RECORDS);
    }
    let reuse = controller.keeps_connection_files();
    let launchers = Launchers {
        controller: launcher_of(&setup, Role::Controller),
        engines: launcher_of(&setup, Role::Engines),
    };
    let ledger =
        Ledger::claim(&setup.profile, info, launchers, plan.grace, reuse).map_err(claim_failure)?;
    let cluster = Cluster {
        plan,
        ledger,
        engines,
        engines_by,
        send_connection_info: settings.send_connection_info,
        controller: Controller::Start(Box::new(controller.job), controller_by),
        profile: setup.profile.clone(),
        cluster_id: setup.cluster_id.clone(),
        rotation: setup.rotation(),
    };
    background.conduct(cluster, None)
}

/// A controller whose database was slow has much to write before it can end.
const GRACE_OF_RECORDS: Duration = Duration::from_secs(20);
