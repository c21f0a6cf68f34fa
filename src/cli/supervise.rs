//! What `start` and `engines` share: the plan of what is to run, and staying in the foreground or the background.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::launchers::name_of;
use crate::cli::lifeline::{self, Lifeline};
use crate::cli::output::FormatArgs;
use crate::cli::parts::grace;
use crate::cli::setup::{LogTo, Setup, engine_count, processors, this_program};
use crate::cli::target::hub;
use crate::cli::{Failure, exit_code};
use crate::launch::LAUNCHERS;
use crate::launch::background::{self, Front, Link, Told};
use crate::launch::cluster::{By, Cluster, Starter};
use crate::launch::conduct::{Ended, conduct, say, say_progress};
use crate::launch::elastic::Limits;
use crate::launch::found::Found;
use crate::launch::ledger::{ClaimError, stop_command};
use crate::launch::role::Role;
use crate::launch::supervisor::{Outcome, Plan};
use crate::os::log;
use crate::profile::ConnectionFiles;
use crate::profile::cluster_file::{ClusterInfo, cluster_class};

/// Who waits for what this process supervises, and where it says what happens.
pub(super) struct Background {
    /// The socket on which the command waits that has started it.
    front: Option<OwnedFd>,
    /// It was started again where it was before: at its terminal.
    stays: bool,
    /// It writes into its log, and not where the front is.
    left: std::cell::Cell<bool>,
    /// As it was called, for another start.
    call: Call,
}

/// Another `ipcluster` that has started this one over standard input and output.
pub(super) struct Over {
    pub(super) lifeline: Lifeline,
    pub(super) starter: lifeline::Starter,
}

impl Over {
    /// Must be called within a tokio runtime. The receiver is disconnected when everything has been told.
    fn connect(self) -> (Starter, Receiver<()>) {
        let (news, told) = std::sync::mpsc::channel();
        let (telling, is_told) = std::sync::mpsc::channel();
        let mut starter = self.starter;
        // Whoever does not read makes nobody else wait. The thread ends with the other end of the channel.
        std::thread::spawn(move || {
            while let Ok(news) = told.recv() {
                starter.tell(&news);
            }
            drop(telling);
        });
        let starter = Starter {
            orders: self.lifeline.orders(),
            news,
        };
        (starter, is_told)
    }
}

/// As long as the starter has for the last news, before this process ends.
const LAST_NEWS: Duration = Duration::from_secs(1);

/// How this process was called. The program's own path and the folder are not to be found out later: the file may be
/// replaced, and the process goes elsewhere.
struct Call {
    program: std::io::Result<PathBuf>,
    folder: std::io::Result<PathBuf>,
}

impl Background {
    /// To be called once, before there are threads.
    pub(super) fn take() -> Self {
        Self {
            front: background::take(),
            stays: background::take_foreground(),
            left: std::cell::Cell::new(false),
            call: Call {
                program: std::env::current_exe(),
                folder: std::env::current_dir(),
            },
        }
    }

    /// Does this process run in the background?
    pub(super) fn is_some(&self) -> bool {
        self.front.is_some() && !self.stays
    }

    /// Where this process logs.
    pub(super) fn log_to(&self) -> LogTo {
        if self.is_some() {
            LogTo::AsSet
        } else {
            LogTo::TerminalOfDaemon
        }
    }

    /// Passes a failure on to the front, whose exit code it becomes.
    pub(super) fn tell<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        if let (Err(failure), Some(fd)) = (&result, &self.front) {
            let told = Told::Failed {
                code: failure.code(),
                message: failure.message().map(str::to_owned),
            };
            background::tell_at_once(fd, &told);
            if !self.left.get() {
                // The front says it, at the same terminal.
                return Err(Failure::silent(failure.code()));
            }
        }
        result
    }

    /// Leaves the terminal of the front alone: everything goes into the log.
    pub(super) fn leave_terminal(&self, setup: &Setup) -> Result<(), Failure> {
        if !self.is_some() {
            return Ok(());
        }
        background::redirect_output(&log_path(setup, std::process::id()))?;
        self.left.set(true);
        Ok(())
    }

    /// Runs the cluster to its end, and begins anew if that is wanted.
    pub(super) fn conduct(&self, cluster: Cluster, starter: Option<Over>) -> Result<(), Failure> {
        let fd = self.front.as_ref().map(OwnedFd::try_clone).transpose()?;
        let runtime = runtime()?;
        let (ended, again) = runtime.block_on(async {
            let link = fd.map(Link::new).transpose()?;
            let (starter, is_told) = starter.map(Over::connect).unzip();
            let ended = conduct(cluster, link, starter).await;
            if let Some(is_told) = is_told {
                // The last of it says why this was the end.
                let _ = is_told.recv_timeout(LAST_NEWS);
            }
            let mut ended = ended?;
            let again = ended.again.take().map(Link::into_fd).transpose()?;
            Ok::<(Ended, Option<OwnedFd>), Failure>((ended, again))
        })?;
        runtime.shutdown_background();
        if let Some(front) = again {
            return Err(self.start_again(&front));
        }
        let Ended {
            outcome, reason, ..
        } = ended;
        let code = match outcome {
            Outcome::Stopped => return Ok(()),
            Outcome::Interrupted => exit_code::INTERRUPTED,
            Outcome::Failed(code) => code,
        };
        Err(match reason {
            Some(reason) => Failure::new(code, reason),
            None => Failure::silent(code),
        })
    }

    /// This process, with its terminal and its environment, runs its command from the beginning. Whoever has asked for
    /// that is the front. Returns only if that cannot be.
    fn start_again(&self, front: &OwnedFd) -> Failure {
        use std::os::unix::process::CommandExt;
        let failed = |error: &std::io::Error| {
            Failure::failed(format!("the cluster cannot be started again: {error}"))
        };
        let (program, folder) = match (&self.call.program, &self.call.folder) {
            (Ok(program), Ok(folder)) => (program, folder),
            (Err(error), _) | (_, Err(error)) => return failed(error),
        };
        tracing::info!("starting again");
        let mut command = std::process::Command::new(program);
        command
            .args(std::env::args_os().skip(1))
            .current_dir(folder);
        if !self.is_some() {
            command.env(background::FOREGROUND_VARIABLE, "1");
        }
        let error = match background::hand_down(front, &mut command) {
            Ok(()) => command.exec(),
            Err(error) => error,
        };
        let failure = failed(&error);
        let told = Told::Failed {
            code: failure.code(),
            message: failure.message().map(str::to_owned),
        };
        background::tell_at_once(front, &told);
        failure
    }
}

fn log_path(setup: &Setup, pid: u32) -> PathBuf {
    let name = log::file_name("ipcluster", &setup.cluster_id.0, pid);
    setup.profile.log_dir().join(name)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// Starts this very command again in the background, and waits until everything is up.
pub(super) fn in_background(setup: &Setup, format: &FormatArgs) -> Result<(), Failure> {
    let mut argv = vec![this_program()?];
    argv.extend(std::env::args_os().skip(1));
    let pid = runtime()?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut front = Front::start(&argv)?;
        let pid = front.supervisor.id().unwrap_or_default();
        let mut interrupted = 0;
        loop {
            let told = tokio::select! {
                told = front.next() => told,
                _ = interrupt.recv() => {
                    interrupted += 1;
                    if interrupted == 1 {
                        tracing::warn!(
                            "interrupted: ending what was started (a second time kills it)"
                        );
                        front.hang_up().await;
                    } else {
                        // Its processes notice that it is gone.
                        front.supervisor.start_kill()?;
                    }
                    continue;
                }
            };
            match told {
                Some(Told::Line { severity, text }) => say(severity, &text),
                Some(Told::Progress(text)) => say_progress(&text),
                Some(Told::Watched) => {}
                Some(Told::Ready) => {
                    tracing::info!(
                        "it runs in the background: process {pid}, log {}",
                        log_path(setup, pid).display()
                    );
                    return Ok(pid);
                }
                Some(Told::Failed { code, message }) => {
                    // Nothing is left when this returns.
                    front.supervisor.wait().await?;
                    return Err(match message {
                        Some(message) => Failure::new(code, message),
                        None => Failure::silent(code),
                    });
                }
                None if interrupted > 0 => return Err(Failure::silent(exit_code::INTERRUPTED)),
                None => {
                    return Err(Failure::failed(format!(
                        "the supervisor in the background (process {pid}) has ended without a word; its log is {}",
                        log_path(setup, pid).display()
                    )));
                }
            }
        }
    })?;
    if format.is_json() {
        format.answer(&started(setup, pid))?;
    }
    Ok(())
}

/// Where it does not, its notes have to do.
const HUB_ANSWERS: Duration = Duration::from_secs(5);

/// What `-o json` says of what was started: the supervisor's process and log, and of the cluster that has it.
fn started(setup: &Setup, pid: u32) -> Value {
    let found = Found::of(&setup.profile, &setup.cluster_id);
    let files = ConnectionFiles::paths(&setup.profile.security_dir(), &setup.cluster_id);
    // The file in which the controller notes its engines is a moment behind.
    let registered = hub(setup).and_then(|mut hub| Ok(hub.engines(HUB_ANSWERS)?.len() as u64));
    json!({
        "profile": setup.profile.name(),
        "profile_dir": setup.profile.location(),
        "cluster_id": setup.cluster_id,
        "state": found.condition(),
        "n_engines": registered.unwrap_or_else(|_| found.living_engines()),
        "pid": pid,
        "controller_pid": found.controller().map(|process| process.pid),
        "log": log_path(setup, pid),
        "connection_file": files.client,
    })
}

/// Refuses launchers that there are not.
pub(super) fn check_launcher(argument: &str, name: &str, there: &[&str]) -> Result<(), Failure> {
    if there.contains(&name) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{argument}={name}: this version has no such launcher; there are: {}",
        there.join(", ")
    )))
}

/// A part's launcher, as the cluster file names it.
pub(super) fn launcher_of(setup: &Setup, role: Role) -> &'static str {
    let name = name_of(setup, role);
    let known = LAUNCHERS.iter().find(|known| **known == name);
    known.copied().expect("it was checked")
}

/// What is run, and for how long it is waited for.
pub(super) fn plan(setup: &Setup, engines_by: &By, with_controller: bool) -> Result<Plan, Failure> {
    let machines = match engines_by {
        By::Ssh(hosts) => hosts.iter().map(|host| host.engines).collect(),
        _ => Vec::new(),
    };
    let elastic = if with_controller {
        elastic(setup)?
    } else {
        None
    };
    let mut left = match &elastic {
        Some(limits) => first_engines(setup, limits)?,
        None => engine_count(setup),
    };
    let inseparable = matches!(engines_by, By::Mpi(_));
    let sets = if let (Some(limits), true) = (&elastic, inseparable) {
        // Those that are always there are one program.
        let together = limits.min.min(left);
        let alone = left.saturating_sub(together);
        let together = (together > 0).then_some(together);
        let alone = (0..alone).map(|_| 1);
        together.into_iter().chain(alone).collect()
    } else if machines.is_empty() {
        vec![left]
    } else if elastic.is_none() {
        machines.clone()
    } else {
        let room = machines.iter().map(|room| {
            let engines = left.min(*room);
            left -= engines;
            engines
        });
        room.collect()
    };
    let cluster = &setup.settings.cluster;
    let stop = stop_command(&setup.profile, &setup.cluster_id);
    Ok(Plan {
        with_controller,
        sets,
        machines,
        elastic,
        inseparable,
        // Jobs that end were ended by somebody, or have had their time.
        restart: !matches!(engines_by, By::Batch(_)),
        delay: cluster.delay.duration(),
        engine_timeout: cluster.engine_timeout.duration(),
        give_up: cluster.daemonize,
        grace: grace(setup),
        end: if cluster.daemonize {
            format!("`{stop}`")
        } else {
            format!("Ctrl-C or `{stop}`")
        },
    })
}

/// Between which limits the number of engines follows the queue; nothing when it is fixed.
fn elastic(setup: &Setup) -> Result<Option<Limits>, Failure> {
    let cluster = &setup.settings.cluster;
    if cluster.min.is_none() && cluster.max.is_none() {
        return Ok(None);
    }
    if cluster.engines == "sshproxy" {
        return Err(Failure::usage(
            "--min and --max are not for --engines=sshproxy, whose engines another ipcluster starts and ends: start the \
             cluster there, or leave them out",
        ));
    }
    let min = cluster.min.unwrap_or(1);
    let max = cluster.max.unwrap_or_else(|| min.max(processors()));
    if max < min.max(1) {
        return Err(Failure::usage(format!(
            "an elastic cluster of {min} engines at least and {max} at most cannot be: --max has to be the larger, and above 0"
        )));
    }
    let idle = cluster.idle_timeout.duration();
    Ok(Some(Limits {
        min,
        max,
        patience: cluster.scale_delay.duration(),
        idle: (!idle.is_zero()).then_some(idle),
    }))
}

/// As many as it starts with.
fn first_engines(setup: &Setup, limits: &Limits) -> Result<u32, Failure> {
    let n = engine_count(setup);
    if (limits.min..=limits.max).contains(&n) {
        return Ok(n);
    }
    Err(Failure::usage(format!(
        "--n={n}: an elastic cluster starts with --min ({}) to --max ({}) engines",
        limits.min, limits.max
    )))
}

/// What the cluster file says of the cluster as a whole.
pub(super) fn cluster_info(setup: &Setup, controller_args: Vec<String>) -> ClusterInfo {
    let cluster = &setup.settings.cluster;
    ClusterInfo {
        cluster_id: setup.cluster_id.clone(),
        controller_args,
        controller_ip: cluster.controller_ip.clone().unwrap_or_default(),
        controller_location: cluster.controller_location.clone().unwrap_or_default(),
        delay: cluster.delay.as_f64(),
        n: Some(engine_count(setup)),
        profile_dir: setup.profile.location().to_owned(),
        class: cluster_class(),
        unknown: serde_json::Map::new(),
    }
}

/// Removes the logs of this cluster's processes that are gone, unless that is not wanted.
pub(super) fn clean_logs(setup: &Setup) {
    if setup.settings.log.clean != Some(false) {
        for program in ["ipcluster", "ipcontroller", "ipengine"] {
            log::clean(&setup.profile.log_dir(), program, &setup.cluster_id.0);
        }
    }
}

pub(super) fn claim_failure(error: ClaimError) -> Failure {
    match error {
        ClaimError::Running { .. } => Failure::new(exit_code::ALREADY_STARTED, error.to_string()),
        ClaimError::Job(_) => Failure::failed(error.to_string()),
        ClaimError::File(error) => error.into(),
    }
}
