//! Load on a controller: synthetic engines and clients that speak the protocol over sockets, and check every reply.
//!
//! Each scenario is run on the stock controller, on a bare libzmq relay (what the machine can do) and on this
//! controller, in turn, and the ratios are printed: on a machine that does other things too, only they mean anything.
//!
//!     cargo bench --bench load                       two minutes, one run of each
//!     cargo bench --bench load -- --full --repeat 3
//!     cargo bench --bench load -- --only mux,latency --no-stock
//!     cargo bench --bench load -- --only tasks-hwm0 --curve

mod clients;
mod controllers;
mod engines;
mod libzmq;
mod measure;
mod messages;
mod relay;
mod report;
mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use ipcluster::os::limits::raise_open_files;

use controllers::{ENCRYPTED_RELAY, Programs, Side};
use report::Report;
use scenarios::{Plan, SCENARIOS};

#[derive(Parser)]
struct Args {
    /// More and larger scenarios
    #[arg(long)]
    full: bool,

    /// Runs of each scenario; the median counts
    #[arg(long, default_value_t = 1)]
    repeat: usize,

    /// Only these scenarios
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Leave the stock controller out
    #[arg(long)]
    no_stock: bool,

    /// Encrypt all connections (CURVE); the relay is pyzmq's then, and only of tasks-hwm0
    #[arg(long)]
    curve: bool,

    /// A Python that has ipyparallel
    #[arg(long, default_value = "python3")]
    python: PathBuf,

    /// Another ipcluster than the one that was built along
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ipcluster"))]
    ipcluster: PathBuf,

    /// Tasks of the scenario "soak"
    #[arg(long, default_value_t = 10_000_000)]
    soak: u64,

    /// Engines of the scenario "crowd"
    #[arg(long, default_value_t = 1000)]
    engines: usize,

    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,

    /// Be the relay, with connection files in this folder
    #[arg(long, hide = true)]
    relay: Option<PathBuf>,

    #[arg(long, hide = true, default_value_t = 1)]
    hwm: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let open_files = raise_open_files().map_or(1024, |limit| limit.now);
    if let Some(dir) = &args.relay {
        return match relay::run(dir, args.hwm) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("relay: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let plan = Plan {
        programs: Programs {
            ours: args.ipcluster.clone(),
            python: args.python.clone(),
            curve: args.curve,
        },
        full: args.full,
        soak: args.soak,
        engines: args.engines,
        open_files,
    };
    let stock = !args.no_stock && has_ipyparallel(&args.python);
    let mut report = Report::default();
    for scenario in SCENARIOS {
        let wanted = if args.only.is_empty() {
            !scenario.on_request && (args.full || !scenario.slow)
        } else {
            args.only.iter().any(|name| name == scenario.name)
        };
        if !wanted {
            continue;
        }
        for _ in 0..args.repeat {
            for side in scenario
                .sides
                .iter()
                .filter(|side| stock || **side != Side::Stock)
                .filter(|side| {
                    !args.curve || **side != Side::Relay || scenario.name == ENCRYPTED_RELAY
                })
            {
                let start = Instant::now();
                let run = (scenario.run)(&plan, *side);
                eprintln!(
                    "{}, {side:?}: {:.1} s",
                    scenario.name,
                    start.elapsed().as_secs_f64()
                );
                match run {
                    Ok(samples) => report.add(scenario.name, *side, samples),
                    Err(error) => report.fail(scenario.name, *side, &error.to_string()),
                }
            }
        }
    }
    report.print();
    if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn has_ipyparallel(python: &PathBuf) -> bool {
    let found = std::process::Command::new(python)
        .args(["-c", "import ipyparallel"])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!(
            "{} has no ipyparallel: nothing is compared with a stock controller (--python names another)",
            python.display()
        );
    }
    found
}
