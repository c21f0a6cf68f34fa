//! `ipcluster engine`, and `ipengine`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::Failure;
use crate::cli::args::levels::text_of;
use crate::cli::args::{CommonArgs, Rewritten, SessionArgs};
use crate::cli::curve::engine_security;
use crate::cli::exit_code::KERNELS_DIED;
use crate::cli::lifeline::{self, Lifeline};
use crate::cli::setup::{ProfileMust, Setup, edit, raise_limits, set_up};
use crate::engine::{
    Command, Config, Ended, EngineHost, KernelConfig, KernelPlaces, KernelProgram, KernelSpec,
    MemoryLimits, OwnKernel, RestartMode, RestartPolicy, StartMethod, Tidings, mpi_rank,
};
use crate::launch::News;
use crate::launch::channel::Order;
use crate::launch::ssh::tunnel::{Server, lead};
use crate::os::hang_up::HangUp;
use crate::os::python::{Python, Surroundings};
use crate::os::{appear, files};
use crate::profile::connection::{CONNECTION_INFO_VARIABLE, ConnectionFiles, EngineFile};
use crate::profile::settings::{Edit, Restart};
use crate::profile::traitlets::Program;
use crate::transport::Security;

/// ipyparallel's `IPEngine.init_mpi`.
const MPI_INIT: &str = "from mpi4py import MPI\nmpi_rank = MPI.COMM_WORLD.Get_rank()\nmpi_size = MPI.COMM_WORLD.Get_size()";

#[derive(Args, Clone, Debug)]
pub(super) struct EngineArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    session: SessionArgs,

    /// Engines to run [default: 1]
    #[arg(
        short,
        long = "n",
        value_name = "N",
        default_value_t = 1,
        hide_default_value = true
    )]
    n: u32,

    /// The controller's connection file [default: that of the profile; $IPP_CONNECTION_INFO may hold its content]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Id to ask for; with several engines, of the first one
    #[arg(long, value_name = "ID")]
    id: Option<u32>,

    /// Seconds in which the controller has to answer [default: 5]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,

    /// Code that runs in each kernel before the first request
    #[arg(short, long = "c", value_name = "CODE")]
    c: Option<String>,

    /// File that runs in each kernel before the first request
    #[arg(short, long = "s", value_name = "FILE")]
    s: Option<PathBuf>,

    /// The Python that runs the user's code [default: of $VIRTUAL_ENV, beside this program, or on PATH]
    #[arg(long, value_name = "PYTHON")]
    python: Option<String>,

    /// Run an installed Jupyter kernel of any language, by its name: for execute requests
    #[arg(long, value_name = "NAME", conflicts_with = "spawn")]
    kernel: Option<String>,

    /// Seconds that a Python has to start, import what it needs and run the start-up code; 0 for any number [default:
    /// 60]
    #[arg(long, value_name = "SECONDS")]
    start_timeout: Option<f64>,

    /// What happens when a kernel dies: never, on-failure or always start another one [default: never]
    #[arg(long, value_name = "WHEN", value_parser = text_of(&["never", "on-failure", "always"]), hide_possible_values = true)]
    restart: Option<String>,

    /// Memory from which on a kernel is killed and another one started, such as 4GiB
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<String>,

    /// Give each kernel processors of its own
    #[arg(long)]
    pin: bool,

    /// Start each kernel by itself in place of forking them from one that has imported everything
    #[arg(long)]
    spawn: bool,

    /// Name or address of the controller's machine, in place of what its connection file says
    #[arg(long, value_name = "HOST")]
    location: Option<String>,

    /// Of ipyparallel's engines, which register where the connection file says as well
    #[arg(long, value_name = "URL", hide = true)]
    url: Option<String>,

    /// Server of ssh to tunnel through, [user@]server[:port] [default: what the connection file says]
    #[arg(long, value_name = "SERVER")]
    ssh: Option<String>,

    /// File with the key for the server to tunnel through, which is the controller's machine if no other is named
    #[arg(long, value_name = "FILE")]
    sshkey: Option<PathBuf>,

    /// Take the connection information and orders from standard input, and end with it
    #[arg(long, hide = true)]
    over_stdin: bool,

    /// Names the engines that are started together
    #[arg(long, hide = true, value_name = "NAME")]
    set: Option<String>,

    /// Take part in an MPI job: `mpiexec -n 4 ipcluster engine --mpi`. The rank is the id that is asked for
    #[arg(long, conflicts_with_all = ["kernel", "restart"])]
    mpi: bool,
}

impl EngineArgs {
    fn edits(&self) -> Vec<Edit> {
        let path = |path: &PathBuf| files::expand_path(path).to_string_lossy().into_owned();
        let mut edits = self.session.edits();
        edits.extend(
            [
                edit("engine.file", "--file", self.file.as_ref().map(path)),
                edit("engine.id", "--id", self.id),
                edit("engine.timeout", "--timeout", self.timeout),
                edit("engine.startup_command", "--c", self.c.clone()),
                edit("engine.startup_script", "--s", self.s.as_ref().map(path)),
                edit("engine.python", "--python", self.python.clone()),
                edit("engine.kernel", "--kernel", self.kernel.clone()),
                edit(
                    "engine.start_timeout",
                    "--start-timeout",
                    self.start_timeout,
                ),
                edit("engine.restart", "--restart", self.restart.clone()),
                edit(
                    "engine.memory_limit",
                    "--memory-limit",
                    self.memory_limit.clone(),
                ),
                edit("engine.pin", "--pin", self.pin.then_some(true)),
                edit("engine.location", "--location", self.location.clone()),
                edit("engine.registration_url", "--url", self.url.clone()),
                edit("engine.ssh_server", "--ssh", self.ssh.clone()),
                edit("engine.ssh_key", "--sshkey", self.sshkey.as_ref().map(path)),
                edit("engine.mpi", "--mpi", self.mpi.then_some(true)),
            ]
            .into_iter()
            .flatten(),
        );
        edits
    }
}

pub(super) fn run(args: &EngineArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let (greeting, lifeline, mut starter) = lifeline::take(args.over_stdin)?;
    if let Some(greeting) = greeting {
        // SAFETY: no other thread reads or writes the environment yet.
        unsafe { std::env::set_var(CONNECTION_INFO_VARIABLE, greeting.connection) };
    }
    // The file may be named, or its content be handed down: then the profile need not be there.
    let needs_profile = args.file.is_none() && std::env::var_os(CONNECTION_INFO_VARIABLE).is_none();
    let must = if needs_profile {
        ProfileMust::Exist
    } else {
        ProfileMust::BeMadeIfMissing
    };
    let setup = set_up(
        Program::Engine,
        "ipengine",
        &args.common,
        rewritten,
        args.edits(),
        must,
    )?;
    let open_files = raise_limits();
    setup.enter_work_dir()?;
    if setup.settings.engine.registration_url.is_some() {
        // As in ipyparallel (`IPEngine.load_connection_file`), which says nothing.
        tracing::warn!("--url has no effect: the connection file says where to register");
    }
    if args.n == 0 {
        return Err(Failure::usage("-n 0 would run no engine"));
    }
    if setup.settings.engine.mpi && args.n != 1 {
        return Err(Failure::usage(
            "with --mpi each process runs one engine: leave out -n, and let mpiexec start as many as there are to be",
        ));
    }
    let rank = rank(&setup);
    let program = program(&setup, args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let mut connection = connection(&setup).await?;
        let engine = &setup.settings.engine;
        // What starts engines over ssh has made the way itself.
        let server = if args.over_stdin {
            None
        } else {
            Server::of(&engine.ssh_server, engine.ssh_key.as_deref(), &connection)
                .map_err(|error| Failure::usage(error.to_string()))?
        };
        let is_led = server.is_some();
        if let Some(server) = server {
            connection = lead(server, connection).await?;
        } else if let Some(name) = connection.unresolved() {
            // ZeroMQ keeps trying: it may be known in a moment.
            let warning = format!(
                "the controller's machine is called {name}, which cannot be resolved here: start the controller with a \
                 --location that others know, or the engines with their own"
            );
            tracing::warn!("{warning}");
            starter.tell(&News::Warning(warning));
        }
        let security = engine_security(
            connection.common.curve_serverkey.as_deref(),
            &setup.settings.curve,
        )?;
        let ways = (connection, security);
        let mut config = config(&setup, args, ways, program, rank, open_files);
        config.is_tunneled |= is_led;
        tokio::time::sleep(registration_delay(&setup, rank)).await;
        host(config, lifeline, starter).await
    })?;
    // Kernels' processes are dead, and threads joined; what waits in the runtime is of no use.
    runtime.shutdown_background();
    match ended {
        Ended::Asked => Ok(()),
        Ended::KernelsDied(why) => Err(Failure::new(KERNELS_DIED, why)),
        Ended::Failed(why) => Err(Failure::failed(why)),
    }
}

/// The rank of this process in an MPI job, if it is in one.
fn rank(setup: &Setup) -> Option<u32> {
    if !setup.settings.engine.mpi {
        return None;
    }
    let rank = mpi_rank(|name| std::env::var(name).ok());
    if rank.is_none() {
        tracing::warn!(
            "--mpi: no rank is in the environment; to be started as a part of a job by `mpiexec -n 4 ipcluster engine --mpi`"
        );
    }
    rank
}

/// So that the engines of a large job do not all register at once (ipyparallel `IPEngine.start`).
fn registration_delay(setup: &Setup, rank: Option<u32>) -> Duration {
    const LARGE: u32 = 100;
    let rank = rank.filter(|rank| *rank >= LARGE).unwrap_or(0);
    setup
        .settings
        .engine
        .mpi_registration_delay
        .duration()
        .saturating_mul(rank)
}

/// What the kernels are.
fn program(setup: &Setup, args: &EngineArgs) -> Result<KernelProgram, Failure> {
    let engine = &setup.settings.engine;
    let asked = engine
        .python
        .as_ref()
        .map(|path| path.to_string_lossy().into_owned());
    let python = Python::find(asked.as_deref(), &Surroundings::current());
    if let Some(name) = &engine.kernel {
        // Many kernels need no Python; but one that was asked for has to be there.
        let python = match python {
            Err(error) if asked.is_some() => return Err(error.into()),
            python => python.ok(),
        };
        let places = KernelPlaces::current(
            python.as_ref().map(|python| python.path.as_path()),
            setup.common.lookup.ipython_dir().ok(),
        );
        let spec = KernelSpec::find(name, &places)?;
        tracing::debug!("user code runs in the kernel of {}", spec.folder.display());
        return Ok(KernelProgram::Jupyter { spec, python });
    }
    let python = python?;
    tracing::debug!(
        "user code runs in {} (found by {})",
        python.path.display(),
        python.origin
    );
    Ok(KernelProgram::Own(OwnKernel {
        python,
        // What MPI has open does not survive a fork.
        start: if args.spawn || engine.mpi {
            StartMethod::Spawn
        } else {
            StartMethod::default()
        },
        preload: engine.preload.clone(),
    }))
}

/// The connection file's content, waiting for the file if it is not there yet.
async fn connection(setup: &Setup) -> Result<EngineFile, Failure> {
    let engine = &setup.settings.engine;
    let mut connection = if let Ok(content) = std::env::var(CONNECTION_INFO_VARIABLE)
        && !content.is_empty()
        && engine.file.is_none()
    {
        tracing::info!("taking the connection information from ${CONNECTION_INFO_VARIABLE}");
        EngineFile::from_variable(&content)?
    } else {
        let usual = ConnectionFiles::paths(&setup.profile.security_dir(), &setup.cluster_id).engine;
        let file = engine.file.clone().unwrap_or(usual);
        wait_for(&file, engine.wait_for_file.duration()).await?;
        EngineFile::read(&file)?
    };
    if let Some(location) = &engine.location {
        connection.common.location.clone_from(location);
    }
    Ok(connection.connectable())
}

async fn wait_for(file: &Path, limit: Duration) -> Result<(), Failure> {
    if file.exists() {
        return Ok(());
    }
    let seconds = limit.as_secs_f64();
    tracing::warn!(
        "waiting up to {seconds:.1} s for the connection file {}",
        file.display()
    );
    match tokio::time::timeout(limit, appear::wait_for(file)).await {
        Ok(arrived) => Ok(arrived?),
        Err(_) => Err(Failure::failed(format!(
            "the connection file {} did not arrive within {seconds:.1} s: is the controller running, and is this its \
             profile? (--file names another file)",
            file.display()
        ))),
    }
}

fn config(
    setup: &Setup,
    args: &EngineArgs,
    (connection, security): (EngineFile, Security),
    program: KernelProgram,
    rank: Option<u32>,
    open_files: Option<u64>,
) -> Config {
    let engine = &setup.settings.engine;
    let traits = &setup.settings.kernel;
    // IPython's own settings for code at the start, as ipengine takes them from either class.
    let of_kernel = |name: &str| -> Vec<String> {
        ["IPKernelApp", "InteractiveShellApp"]
            .iter()
            .find_map(|class| traits.get(*class)?.get(name).map(texts))
            .unwrap_or_default()
    };
    let mut exec_lines = of_kernel("exec_lines");
    let mut exec_files = of_kernel("exec_files");
    exec_files.extend(
        engine
            .startup_script
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned()),
    );
    if !engine.startup_command.is_empty() {
        exec_lines.push(engine.startup_command.clone());
    }
    Config {
        // Sockets that the launcher has made for these engines.
        is_tunneled: args.over_stdin && connection.interface.starts_with("ipc://"),
        connection,
        security,
        count: args.n,
        set: args.set.clone(),
        first_id: engine.id.or(rank),
        registration_timeout: engine.timeout.duration(),
        start_timeout: Some(engine.start_timeout.duration()).filter(|limit| !limit.is_zero()),
        max_heartbeat_misses: engine.max_heartbeat_misses,
        digest_history: setup.settings.session.digest_history_size as usize,
        restart: RestartPolicy {
            mode: match engine.restart {
                Restart::Never => RestartMode::Never,
                Restart::OnFailure => RestartMode::OnFailure,
                Restart::Always => RestartMode::Always,
            },
            limit: engine.restart_limit,
        },
        memory: MemoryLimits {
            warn: engine.memory_warn.map(|size| size.0),
            kill: engine.memory_limit.map(|size| size.0),
        },
        pin: engine.pin,
        kernel: KernelConfig {
            program,
            open_files,
            mpi_init: engine.mpi.then(|| {
                engine
                    .mpi_init
                    .clone()
                    .unwrap_or_else(|| MPI_INIT.to_owned())
            }),
            exec_lines,
            exec_files,
            traits: traits.clone(),
            environment: engine.env.clone(),
            profile_dir: Some(setup.profile.location().to_owned()),
            ipython_dir: setup.common.lookup.ipython_dir().ok(),
        },
    }
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items
            .iter()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect(),
        Value::String(text) => vec![text.clone()],
        _ => Vec::new(),
    }
}

/// Runs the engines and passes on what this process is told.
async fn host(
    config: Config,
    lifeline: Lifeline,
    mut starter: lifeline::Starter,
) -> Result<Ended, Failure> {
    let (commands, receiver) = mpsc::unbounded_channel();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = HangUp::new()?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
    let (told, mut tidings) = mpsc::unbounded_channel();
    let running = EngineHost::new(config)?.telling(told).run(receiver);
    tokio::pin!(running);
    let mut orders = lifeline.orders();
    let mut interrupts = Interrupts::default();
    loop {
        let command = tokio::select! {
            ended = &mut running => return Ok(ended?),
            _ = interrupt.recv() => match interrupts.next() {
                Some(command) => command,
                None => continue,
            },
            _ = terminate.recv() => Command::Stop,
            () = hang_up.recv() => Command::Stop,
            // For handlers of the user's own, as if the engine were the kernel.
            _ = user1.recv() => Command::Signal(Signal::SIGUSR1),
            _ = user2.recv() => Command::Signal(Signal::SIGUSR2),
            Some(tidings) = tidings.recv() => {
                starter.tell(&match tidings {
                    Tidings::Ended { engine, why } => News::EngineEnded { engine, why },
                    Tidings::Warning(text) => News::Warning(text),
                });
                continue;
            }
            order = orders.recv() => match order {
                Some(Order::Signal(Signal::SIGINT)) => Command::Interrupt,
                Some(Order::Signal(Signal::SIGTERM)) => Command::Stop,
                Some(Order::Signal(signal)) => Command::Signal(signal),
                None => {
                    tracing::warn!("the process that started these engines is gone");
                    Command::Stop
                }
            },
        };
        if commands.send(command).is_err() || command == Command::Stop {
            return Ok(running.await?);
        }
    }
}

/// SIGINT interrupts what the kernels run, as ipengine does. At a terminal, a second one within a moment ends the
/// engines: a person who presses Ctrl-C twice wants that. Those that come together are one: ipyparallel's Cluster sends
/// one for each engine, to the one process that runs them all.
#[derive(Debug, Default)]
struct Interrupts {
    last: Option<std::time::Instant>,
}

impl Interrupts {
    fn next(&mut self) -> Option<Command> {
        use std::io::IsTerminal;
        const MOMENT: Duration = Duration::from_secs(2);
        const TOGETHER: Duration = Duration::from_millis(50);
        let now = std::time::Instant::now();
        let since = self.last.replace(now).map(|last| now - last);
        if since.is_some_and(|since| since < TOGETHER) {
            return None;
        }
        let again = since.is_some_and(|since| since < MOMENT);
        let at_terminal = std::io::stderr().is_terminal();
        if again && at_terminal {
            return Some(Command::Stop);
        }
        tracing::warn!(
            "interrupting what the kernels run{}",
            if at_terminal {
                "; press Ctrl-C again to end the engines"
            } else {
                ""
            }
        );
        Some(Command::Interrupt)
    }
}
