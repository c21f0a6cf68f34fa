//! The arguments that `start` and `engines` share.

use clap::Args;

use crate::cli::parts::KernelArgs;
use crate::cli::setup::edit;
use crate::profile::settings::Edit;

#[derive(Args, Clone, Debug)]
pub(super) struct LaunchArgs {
    /// Engines to start [default: one for each CPU]
    #[arg(short, long = "n", value_name = "N")]
    n: Option<u32>,

    /// Return when all engines are registered, and leave them running
    #[arg(long)]
    daemonize: bool,

    /// Seconds in which the engines have to register [default: 60]
    #[arg(long, value_name = "SECONDS")]
    engine_timeout: Option<f64>,

    /// How the engines are started: local, ssh, sshproxy, mpi, slurm, pbs, sge, lsf or htcondor [default: local]
    #[arg(long, value_name = "LAUNCHER")]
    engines: Option<String>,

    /// Print the batch system's script, and start nothing
    #[arg(long)]
    pub(super) dry_run: bool,

    #[command(flatten)]
    pub(super) kernels: KernelArgs,
}

impl LaunchArgs {
    pub(super) fn edits(&self) -> Vec<Edit> {
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
            edit(
                "cluster.engines",
                "--engines",
                self.engines.as_ref().map(|name| name.to_ascii_lowercase()),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
