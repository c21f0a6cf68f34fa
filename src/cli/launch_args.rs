//! The arguments that `start` and `engines` share.

use std::convert::Infallible;

use clap::Args;

use crate::cli::args::levels::offering;
use crate::cli::parts::KernelArgs;
use crate::cli::setup::edit;
use crate::launch::LAUNCHERS;
use crate::profile::settings::Edit;
use crate::profile::traitlets::launcher_name;

/// A launcher by whichever of its names: `mpi`, `MPI`, `MPIEngineSetLauncher`, or a class with its module. One that is
/// not known is refused where it is looked for.
#[expect(
    clippy::unnecessary_wraps,
    reason = "clap's parsers of values can fail"
)]
pub(super) fn launcher(text: &str) -> Result<String, Infallible> {
    Ok(launcher_name(text).unwrap_or_else(|_| text.to_owned()))
}

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
    #[arg(long, value_name = "LAUNCHER", value_parser = offering(LAUNCHERS, launcher), hide_possible_values = true)]
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
            edit("cluster.engines", "--engines", self.engines.clone()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_have_many_names() {
        let name = |text| launcher(text).unwrap();
        assert_eq!(name("SSHEngineSetLauncher"), "ssh");
        assert_eq!(
            name("IPython.parallel.apps.launcher.MPIExecEngineSetLauncher"),
            "mpi"
        );
        assert_eq!(name("PBS"), "pbs");
        assert_eq!(name("Mine"), "Mine");
    }
}
