//! `ipcluster controller`, and `ipcontroller`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal as OsSignal;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use uuid::Uuid;

use crate::cli::args::Rewritten;
pub(super) use crate::cli::controller_args::ControllerArgs;
use crate::cli::curve::{self, ControllerKey};
use crate::cli::dashboard::Served;
use crate::cli::lifeline::{self, Lifeline};
use crate::cli::setup::{ProfileMust, Setup, raise_limits, set_up};
use crate::cli::written_files::WrittenFiles;
use crate::cli::{Failure, database, exit_code};
use crate::controller::{
    Config, Controller, EngineState, Interface, PortPools, Ports, StorageReport,
};
use crate::heartbeat;
use crate::launch::News;
use crate::launch::channel::Order;
use crate::os::hang_up::HangUp;
use crate::os::lock::{FileLock, LockError};
use crate::os::python::{Python, Surroundings};
use crate::os::{files, host, memory};
use crate::profile::connection::{ClientFile, Common, ConnectionFiles, EngineFile};
use crate::profile::settings::{Scheme, Settings, Size};
use crate::profile::traitlets::Program;
use crate::protocol::signature::SCHEME;
use crate::scheduler::TaskConfig;

pub(super) fn run(args: &ControllerArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let (_, lifeline, mut starter) = lifeline::take(args.over_stdin)?;
    let setup = set_up(
        Program::Controller,
        "ipcontroller",
        &args.common,
        rewritten,
        args.edits(),
        ProfileMust::BeMadeIfMissing,
    )?;
    raise_limits();
    setup.enter_work_dir()?;

    let security = setup.profile.security_dir();
    let _only_one = only_one(&security, &setup)?;
    let store = database::open(&setup.settings, &setup.profile)?;
    let files = ConnectionFiles::paths(&security, &setup.cluster_id);
    let mut plan = Plan::new(&setup, &files)?;
    if args.over_stdin
        && plan.reused.is_none()
        && setup.settings.controller.location.is_none()
        && let Some(address) = reached_by()
    {
        plan.location = address;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before there are files that a signal would leave behind.
    let signals = {
        let _within = runtime.enter();
        Signals::new()?
    };
    let mut dashboard = Served::prepare(&setup)?;
    let sightings = dashboard.as_ref().map(Served::sightings);
    let controller = Controller::start(plan.config.clone(), store, sightings)
        .map_err(|error| plan.explain(&error.to_string()))?;
    if let Some(dashboard) = &mut dashboard {
        dashboard.start(&controller)?;
    }
    let (client, engine) = plan.connection_files(&controller.ports);
    if let Some(curve) = &plan.curve {
        curve.keep(&files)?;
    }
    let mut written = WrittenFiles::write(&files, &client, &engine, plan.reuse)?;
    if !plan.reuse {
        // Without the files nobody can take its engines over.
        written
            .engine_state
            .clone_from(&plan.config.engine_state_file);
    }
    tracing::info!(
        "controller {} listens on {} (registration at port {})",
        std::process::id(),
        plan.config.client_interface.0,
        controller.ports.registration,
    );
    if let Some(dashboard) = &dashboard {
        let address = dashboard.address();
        tracing::info!("the status page is at {address}");
        starter.tell(&News::Dashboard(address));
        dashboard.show_log();
    }
    if args.over_stdin {
        starter.tell(&News::Connection {
            client: client.to_text(),
            engine: engine.to_variable(),
            pid: std::process::id(),
        });
    }
    let named = setup.settings.controller.location.clone();
    let ended = until_the_end(controller, signals, lifeline, &mut starter, named);
    let (why, report) = runtime.block_on(ended);
    if let Some(dashboard) = dashboard {
        dashboard.stop();
    }
    tracing::info!("the controller ends: {why}");
    drop(written);
    match report {
        // Whoever comes back learns that nobody had asked for the end: over ssh there is a word for that.
        None if args.over_stdin && why == GONE => Err(Failure::failed(GONE)),
        None => Ok(()),
        Some(StorageReport::Complete(text)) => {
            tracing::warn!("{text}");
            Ok(())
        }
        Some(StorageReport::Incomplete(text)) => {
            starter.tell(&News::Warning(text.clone()));
            Err(Failure::new(exit_code::RECORDS_LOST, text))
        }
    }
}

/// As long as the sockets stay when a client has asked for the end, as in ipyparallel (`Hub.shutdown_request`): engines
/// that were asked with the controller have their last words to say, and ipyparallel's never end when they cannot.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Waits for a reason to end, and ends the threads. The reason, and what is to be said of the task database.
async fn until_the_end(
    mut controller: Controller,
    mut signals: Signals,
    lifeline: Lifeline,
    starter: &mut lifeline::Starter,
    named: Option<String>,
) -> (&'static str, Option<StorageReport>) {
    // From here on it can be asked to end.
    starter.tell(&News::Ready);
    let warns_of_name = async {
        if let Some(name) = unresolved(named).await {
            let warning = format!(
                "--location={name}: this machine cannot resolve that name; engines and clients elsewhere that cannot do so \
                 either will not find the controller"
            );
            tracing::warn!("{warning}");
            starter.tell(&News::Warning(warning));
        }
        std::future::pending::<()>().await;
    };
    let shut_down = async {
        // An error says that the hub has ended: the same.
        let _ = (&mut controller.shutdown_requested).await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    let why = tokio::select! {
        _ = signals.interrupt.recv() => "it was interrupted",
        _ = signals.terminate.recv() => "it was told to",
        _ = signals.warning.recv() => "it was told to",
        () = signals.hang_up.recv() => "its terminal closed",
        () = warns_of_name => unreachable!("it never ends"),
        () = shut_down => "a client asked for it",
        why = told(lifeline) => why,
    };
    (why, controller.stop())
}

/// Resolves when the starter wants the end, or is gone.
async fn told(lifeline: Lifeline) -> &'static str {
    let mut orders = lifeline.orders();
    while let Some(Order::Signal(signal)) = orders.recv().await {
        if matches!(signal, OsSignal::SIGTERM | OsSignal::SIGINT) {
            return "it was told to";
        }
    }
    GONE
}

const GONE: &str = "the process that started it is gone";

/// The address of this machine by which the starter's ssh has reached it, if that is one for others.
fn reached_by() -> Option<String> {
    let connection = std::env::var("SSH_CONNECTION").ok()?;
    let address: IpAddr = connection.split(' ').nth(2)?.parse().ok()?;
    (!address.is_loopback()).then(|| address.to_string())
}

/// The name, if it cannot be resolved. The name service may take seconds.
async fn unresolved(name: Option<String>) -> Option<String> {
    let name = name.filter(|name| !name.is_empty())?;
    let asked = tokio::task::spawn_blocking(move || host::resolve(&name).is_none().then_some(name));
    asked.await.ok()?
}

/// By which a controller is asked to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Grid Engine's word before it kills: SIGUSR2.
    warning: Signal,
    /// SIGUSR1 is its word before it lets a job pause.
    _pause: Signal,
    hang_up: HangUp,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            warning: signal(SignalKind::user_defined2())?,
            _pause: signal(SignalKind::user_defined1())?,
            hang_up: HangUp::new()?,
        })
    }
}

/// Holds the lock of this profile and cluster id as long as it lives.
fn only_one(security: &Path, setup: &Setup) -> Result<FileLock, Failure> {
    let lock = ConnectionFiles::lock(security, &setup.cluster_id);
    FileLock::acquire(&lock).map_err(|error| match error {
        LockError::Held { by, .. } => {
            let by = by.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            let id = &setup.cluster_id.0;
            let which = if id.is_empty() { String::new() } else { format!(" with cluster id {id:?}") };
            Failure::new(
                exit_code::ALREADY_STARTED,
                format!(
                    "a controller of profile {}{which} is running already: {by}; stop it, or give this one another \
                     --cluster-id",
                    setup.profile.location().display(),
                ),
            )
        }
        other => other.into(),
    })
}

/// What the controller is started with, from settings and, with `--reuse`, from existing files.
struct Plan {
    config: Config,
    location: String,
    ssh: String,
    engine_ssh: String,
    scheme: Scheme,
    key: String,
    curve: Option<ControllerKey>,
    reuse: bool,
    /// Existing files whose ports and key are used again.
    reused: Option<(ClientFile, EngineFile)>,
}

impl Plan {
    fn new(setup: &Setup, files: &ConnectionFiles) -> Result<Self, Failure> {
        let settings = &setup.settings;
        let controller = &settings.controller;
        let reuse = controller.reuse || controller.restore;
        let reused = if reuse { read_for_reuse(files)? } else { None };
        let client = reused.as_ref().map(|(client, _)| client);
        let (client_interface, engine_interface) = match &reused {
            Some((client, engine)) => (client.interface.clone(), engine.interface.clone()),
            None => (controller.client_interface(), controller.engine_interface()),
        };
        let interfaces = [&client_interface[..], &engine_interface];
        let curve = if curve::is_wanted(controller.enable_curve, client, interfaces)? {
            Some(ControllerKey::find(&settings.curve, client, files)?)
        } else {
            None
        };
        let key = match client {
            Some(client) => client.common.key.clone(),
            // As ipyparallel has it: what is encrypted need not be signed, and is if there is a key for it.
            None if curve.is_some() && !has_session_key(settings) => String::new(),
            None => session_key(settings)?,
        };
        if key.is_empty() && curve.is_none() {
            tracing::warn!(
                "messages are not signed: whoever reaches the ports can run code on the engines"
            );
        }
        let period = Duration::from_millis(settings.heartbeat.period_ms.max(1));
        let registration_timeout = controller
            .registration_timeout
            .map(|seconds| seconds.duration())
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or_else(|| Duration::from_secs(30).max(10 * period));
        let engine_state = setup
            .profile
            .log_dir()
            .join(format!("engines{}.json", setup.cluster_id));
        let config = Config {
            client_interface: Interface(client_interface),
            engine_interface: Interface(engine_interface),
            registration_port: controller.port.filter(|port| *port != 0),
            pools: PortPools {
                common: controller.ports.0.clone(),
                client: controller.client_ports.0.clone(),
                engine: controller.engine_ports.0.clone(),
            },
            fixed_ports: reused
                .as_ref()
                .map(|(client, engine)| ports_of(client, engine)),
            key: key.clone().into_bytes(),
            curve: curve.as_ref().map(|curve| curve.keys.clone()),
            message_limit: message_limit(controller.max_message_size),
            memory_limit: memory_limit(controller.max_memory),
            heartbeat: heartbeat::Config {
                period,
                max_misses: settings.heartbeat.max_misses,
            },
            registration_timeout,
            digest_history: settings.session.digest_history_size as usize,
            tasks: task_config(settings),
            restored: restored(controller.restore, &engine_state)?,
            restore_tasks: controller.restore,
            engine_state_file: Some(engine_state),
            python: python(settings),
        };
        let mut location = controller.location.clone().unwrap_or_else(host::hostname);
        if let Some((client, _)) = &reused
            && controller.location.is_none()
        {
            location = client.common.location.clone();
        }
        Ok(Self {
            config,
            location,
            ssh: controller.ssh_server.clone(),
            engine_ssh: controller.engine_ssh_server.clone(),
            scheme: settings.scheduler.scheme,
            key,
            curve,
            reuse,
            reused,
        })
    }

    /// What went wrong while starting, and what to do about it.
    fn explain(&self, error: &str) -> Failure {
        if self.reused.is_some() {
            return Failure::failed(format!(
                "{error}; the port is that of the connection files which --reuse takes over: stop who has it, or remove \
                 the files for fresh ports"
            ));
        }
        Failure::failed(error)
    }

    /// The files for clients and engines.
    fn connection_files(&self, ports: &Ports) -> (ClientFile, EngineFile) {
        let mut common = Common::new(&self.key, &self.location);
        common.curve_serverkey = self.curve.as_ref().map(|curve| curve.keys.public());
        SCHEME.clone_into(&mut common.signature_scheme);
        let client = ClientFile {
            ssh: self.ssh.clone(),
            interface: self.config.client_interface.0.clone(),
            registration: ports.registration,
            control: ports.client.control,
            mux: ports.client.mux,
            task: ports.client.task,
            task_scheme: scheme_name(self.scheme),
            iopub: ports.client.iopub,
            notification: ports.client.notification,
            broadcast: Some(ports.client.broadcast),
            common: common.clone(),
            unknown: serde_json::Map::new(),
        };
        let engine = EngineFile {
            ssh: self.engine_ssh.clone(),
            interface: self.config.engine_interface.0.clone(),
            registration: ports.registration,
            control: ports.engine.control,
            mux: ports.engine.mux,
            task: ports.engine.task,
            iopub: ports.engine.iopub,
            hb_ping: ports.engine.hb_ping,
            hb_pong: ports.engine.hb_pong,
            broadcast: ports.engine.broadcast.clone(),
            common,
            unknown: serde_json::Map::new(),
        };
        (client, engine)
    }
}

/// The engines of the controller before, with `--restore`.
fn restored(wanted: bool, file: &Path) -> Result<Option<EngineState>, Failure> {
    if !wanted {
        return Ok(None);
    }
    let state = EngineState::read(file)?;
    match &state {
        Some(state) => tracing::info!(
            "expecting the {} engines of {}",
            state.engines.len(),
            file.display()
        ),
        None => tracing::info!("there is no {}: no engines to take back", file.display()),
    }
    Ok(state)
}

/// Existing files, if both are there. One without the other, or files that do not fit, are an error.
fn read_for_reuse(files: &ConnectionFiles) -> Result<Option<(ClientFile, EngineFile)>, Failure> {
    if !files.client.exists() && !files.engine.exists() {
        tracing::info!("there are no connection files to reuse yet: new ones will stay");
        return Ok(None);
    }
    let (client, engine) = files.read()?;
    if client.common.signature_scheme != SCHEME {
        return Err(Failure::failed(format!(
            "{}: signature_scheme is {:?}, but only {SCHEME:?} is supported: remove the file",
            files.client.display(),
            client.common.signature_scheme,
        )));
    }
    tracing::info!(
        "reusing key, ports and addresses of {}",
        files.client.display()
    );
    Ok(Some((client, engine)))
}

fn ports_of(client: &ClientFile, engine: &EngineFile) -> Ports {
    let mut ports = Ports {
        registration: client.registration,
        ..Ports::default()
    };
    ports.client.control = client.control;
    ports.client.mux = client.mux;
    ports.client.task = client.task;
    ports.client.iopub = client.iopub;
    ports.client.notification = client.notification;
    ports.client.broadcast = client.broadcast.unwrap_or_default();
    ports.engine.control = engine.control;
    ports.engine.mux = engine.mux;
    ports.engine.task = engine.task;
    ports.engine.iopub = engine.iopub;
    ports.engine.hb_ping = engine.hb_ping;
    ports.engine.hb_pong = engine.hb_pong;
    ports.engine.broadcast.clone_from(&engine.broadcast);
    ports
}

/// The key that signs messages: given, read from a file, or random as jupyter_client's `new_id`.
fn session_key(settings: &Settings) -> Result<String, Failure> {
    if let Some(file) = &settings.session.key_file {
        return Ok(files::read_text(file)?.trim().to_owned());
    }
    Ok(settings.session.key.clone().unwrap_or_else(|| {
        let random = Uuid::new_v4().simple().to_string();
        let (head, tail) = random.split_at(8);
        format!("{head}-{}", tail.to_uppercase())
    }))
}

/// As was said; else a quarter of the memory that there is.
fn message_limit(asked: Option<Size>) -> u64 {
    match asked {
        Some(Size(0)) => u64::MAX,
        Some(Size(bytes)) => bytes,
        None => memory::available().map_or(u64::MAX, |bytes| (bytes / 4).max(1 << 30)),
    }
}

/// As was said; else three quarters of the memory that there is.
fn memory_limit(asked: Option<Size>) -> u64 {
    match asked {
        Some(Size(0)) => u64::MAX,
        Some(Size(bytes)) => bytes,
        None => memory::available().map_or(u64::MAX, |bytes| bytes / 4 * 3),
    }
}

fn has_session_key(settings: &Settings) -> bool {
    settings.session.key_file.is_some() || settings.session.key.is_some()
}

/// The one that runs user code. Few controllers need one: it is missed when it is.
fn python(settings: &Settings) -> Option<PathBuf> {
    let asked = settings.engine.python.as_ref();
    let asked = asked.map(|path| path.to_string_lossy().into_owned());
    let found = Python::find(asked.as_deref(), &Surroundings::current());
    found.ok().map(|python| python.path)
}

fn task_config(settings: &Settings) -> TaskConfig {
    use crate::scheduler::Scheme as Policy;
    let scheme = match settings.scheduler.scheme {
        Scheme::Leastload => Policy::LeastLoad,
        Scheme::Lru => Policy::Lru,
        Scheme::Plainrandom => Policy::PlainRandom,
        Scheme::Weighted => Policy::Weighted,
        Scheme::Twobin => Policy::TwoBin,
        Scheme::Pure | Scheme::None => Policy::Pure,
    };
    let seed = Uuid::new_v4().as_u64_pair().0;
    TaskConfig {
        scheme,
        hwm: settings.scheduler.hwm,
        seed,
        ..TaskConfig::default()
    }
}

fn scheme_name(scheme: Scheme) -> String {
    match serde_json::to_value(scheme) {
        Ok(Value::String(name)) => name,
        _ => "leastload".to_owned(),
    }
}
