//! What can be set. The comments here and in `profiles/default.toml` say the same.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::ports::Ports;
use super::seconds::Seconds;
use super::size::Size;
use crate::os::host;
use crate::os::log::{ComponentLevels, LogFormat, LogLevel, checked_component};

/// Values of a class's traits, by name.
pub type Traits = BTreeMap<String, Value>;

/// Traits of launchers, by class.
pub type LauncherTraits = BTreeMap<String, Traits>;

/// All settings of all programs; each looks at what is its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub controller: ControllerSettings,
    pub scheduler: SchedulerSettings,
    pub heartbeat: HeartbeatSettings,
    pub engine: EngineSettings,
    pub cluster: ClusterSettings,
    pub session: SessionSettings,
    pub curve: CurveSettings,
    pub log: LogSettings,
    pub process: ProcessSettings,
    /// Traits of classes in the kernel (`InteractiveShell`, `IPythonKernel`, …), which it applies by itself. Text is
    /// what a command line would hold: the trait says what it means.
    pub kernel: BTreeMap<String, Traits>,
    /// Traits of launcher classes, as ipyparallel names them.
    pub launcher: LauncherTraits,
}

fn seconds(seconds: f64) -> Seconds {
    Seconds::new(seconds).expect("the defaults are not negative")
}

/// Where the controller listens, and what it keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControllerSettings {
    /// Address to listen on; `*` or `0.0.0.0` for all.
    pub ip: String,
    /// For clients; else `ip`.
    pub client_ip: Option<String>,
    /// For engines; else `ip`.
    pub engine_ip: Option<String>,
    /// Host name or address by which others reach this host; else its host name.
    pub location: Option<String>,
    /// ZeroMQ's transport: `tcp` or `ipc`.
    pub transport: String,
    pub client_transport: Option<String>,
    pub engine_transport: Option<String>,
    /// For registration and queries, and no other.
    pub port: Option<u16>,
    /// For all sockets, when those for clients or engines are used up.
    pub ports: Ports,
    pub client_ports: Ports,
    pub engine_ports: Ports,
    /// `[user@]server[:port]` through which clients are to tunnel.
    pub ssh_server: String,
    pub engine_ssh_server: String,
    /// Take key, ports and addresses from existing connection files, and leave the files at the end.
    pub reuse: bool,
    /// Take back the engines of a controller that ended.
    pub restore: bool,
    /// In seconds; else the larger of 30 s and ten heartbeats.
    pub registration_timeout: Option<Seconds>,
    /// Encrypt all connections; when absent, as soon as the controller listens beyond this machine.
    pub enable_curve: Option<bool>,
    /// Bytes of the largest message, 0 for any number; a quarter of the memory when absent.
    pub max_message_size: Option<Size>,
    /// Bytes of memory that the controller may take before new requests wait with the clients, 0 for any number; three
    /// quarters of the memory when absent.
    pub max_memory: Option<Size>,
    /// Where the status page and the metrics are: `ADDRESS:PORT`; nowhere when absent.
    pub dashboard: Option<String>,
    /// By which they are reached; a random one when absent.
    pub dashboard_token: Option<String>,
    pub db: Database,
    pub memory: MemorySettings,
    pub sqlite: SqliteSettings,
    pub mongodb: MongodbSettings,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self {
            ip: "127.0.0.1".to_owned(),
            client_ip: None,
            engine_ip: None,
            location: None,
            transport: "tcp".to_owned(),
            client_transport: None,
            engine_transport: None,
            port: None,
            ports: Ports::default(),
            client_ports: Ports::default(),
            engine_ports: Ports::default(),
            ssh_server: String::new(),
            engine_ssh_server: String::new(),
            reuse: false,
            restore: false,
            registration_timeout: None,
            enable_curve: None,
            max_message_size: None,
            max_memory: None,
            dashboard: None,
            dashboard_token: None,
            db: Database::default(),
            memory: MemorySettings::default(),
            sqlite: SqliteSettings::default(),
            mongodb: MongodbSettings::default(),
        }
    }
}

impl ControllerSettings {
    /// `tcp://ADDRESS` for clients.
    pub fn client_interface(&self) -> String {
        interface(
            self.client_transport.as_ref().unwrap_or(&self.transport),
            self.client_ip.as_ref().unwrap_or(&self.ip),
        )
    }

    /// `tcp://ADDRESS` for engines.
    pub fn engine_interface(&self) -> String {
        interface(
            self.engine_transport.as_ref().unwrap_or(&self.transport),
            self.engine_ip.as_ref().unwrap_or(&self.ip),
        )
    }
}

fn interface(transport: &str, ip: &str) -> String {
    format!("{transport}://{ip}")
}

/// Can what listens on this interface (such as `tcp://127.0.0.1`) be reached from this machine alone? A name is taken for
/// that of a machine, which others know.
pub fn is_local_interface(interface: &str) -> bool {
    let Some(address) = interface.strip_prefix("tcp://") else {
        return interface.starts_with("ipc://");
    };
    host::is_loopback(address)
}

/// Where task records are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Database {
    /// Nowhere.
    #[default]
    None,
    Memory,
    Sqlite,
    Mongodb,
}

impl Database {
    const NAMES: [&str; 4] = ["none", "memory", "sqlite", "mongodb"];

    /// By our name, or by ipyparallel's: `SQLiteDB`, `ipyparallel.controller.sqlitedb.SQLiteDB`. Case does not matter.
    pub fn named(name: &str) -> Option<Self> {
        let class = name.trim().rsplit(['.', ':']).next().unwrap_or_default();
        match class.to_ascii_lowercase().as_str() {
            "none" | "nodb" => Some(Self::None),
            "memory" | "dictdb" => Some(Self::Memory),
            "sqlite" | "sqlitedb" => Some(Self::Sqlite),
            "mongodb" => Some(Self::Mongodb),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Database {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| serde::de::Error::unknown_variant(&name, &Self::NAMES))
    }
}

/// ipyparallel's `DictDB`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemorySettings {
    /// Records to keep; 0 for any number.
    pub record_limit: u64,
    /// Bytes of buffers to keep; 0 for any number.
    pub size_limit: u64,
    /// The part that is dropped when a limit is reached.
    #[serde(deserialize_with = "fraction")]
    pub cull_fraction: f64,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            record_limit: 1024,
            size_limit: 1 << 30,
            cull_fraction: 0.1,
        }
    }
}

fn fraction<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(serde::de::Error::custom("it must be between 0 and 1"))
    }
}

/// ipyparallel's `SQLiteDB`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqliteSettings {
    pub filename: String,
    /// Folder; the profile's when absent.
    pub location: Option<PathBuf>,
    /// Records of earlier runs are in the table of that name. Empty: a fresh one for each run.
    pub table: String,
    pub synchronous: Synchronous,
    /// Finished records to keep, the newest; 0 for any number.
    pub max_records: u64,
    /// Bytes of the file; beyond it the oldest finished records are dropped. 0 for any number.
    pub max_size: Size,
    /// Days after their submission, after which finished records are dropped; 0 for never.
    pub max_age_days: f64,
    /// Bytes of buffers of one request or result beyond which they are not kept, and the record says so. 0 for as many as
    /// SQLite takes.
    pub buffer_limit: Size,
}

/// When SQLite waits for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// Now and then: what is stored outlives the controller, but the last moments may be lost with the machine.
    #[default]
    Normal,
    /// With every transaction: what is stored outlives the machine.
    Full,
}

impl Default for SqliteSettings {
    fn default() -> Self {
        Self {
            filename: "tasks.db".to_owned(),
            location: None,
            table: "ipython-tasks".to_owned(),
            synchronous: Synchronous::default(),
            max_records: 0,
            max_size: Size(0),
            max_age_days: 0.0,
            buffer_limit: Size(0),
        }
    }
}

/// ipyparallel's `MongoDB`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MongodbSettings {
    pub database: String,
    pub collection: String,
    /// What pymongo's client takes in order: host, port.
    pub connection_args: Vec<Value>,
    /// … and by name.
    pub connection_kwargs: Traits,
    /// Finished records to keep, the newest; 0 for any number.
    pub max_records: u64,
    /// Bytes of the collection's documents; beyond it the oldest finished records are dropped. 0 for any number.
    pub max_size: Size,
    /// Days after their submission, after which finished records are dropped; 0 for never.
    pub max_age_days: f64,
}

impl Default for MongodbSettings {
    fn default() -> Self {
        Self {
            database: "ipython-tasks".to_owned(),
            collection: "task_records".to_owned(),
            connection_args: Vec::new(),
            connection_kwargs: Traits::new(),
            max_records: 0,
            max_size: Size(0),
            max_age_days: 0.0,
        }
    }
}

/// The task queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerSettings {
    pub scheme: Scheme,
    /// Tasks outstanding on one engine; 0 for any number.
    pub hwm: u32,
}

impl Default for SchedulerSettings {
    fn default() -> Self {
        Self {
            scheme: Scheme::default(),
            hwm: 1,
        }
    }
}

/// How the task queue picks an engine; the names are those of the connection file's `task_scheme`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    #[default]
    Leastload,
    Lru,
    Plainrandom,
    Weighted,
    Twobin,
    Pure,
    None,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeartbeatSettings {
    /// Milliseconds between pings.
    pub period_ms: u64,
    /// Pings that an engine may miss before it counts as dead.
    pub max_misses: u32,
}

impl Default for HeartbeatSettings {
    fn default() -> Self {
        Self {
            period_ms: 3000,
            max_misses: 10,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// The connection file; else the profile's.
    pub file: Option<PathBuf>,
    /// Seconds to wait for the connection file to appear.
    pub wait_for_file: Seconds,
    /// Seconds to wait for the controller's answer to the registration.
    pub timeout: Seconds,
    /// Pings that the controller may leave out before the engine ends; 0 for any number.
    pub max_heartbeat_misses: u32,
    /// Asks for this id.
    pub id: Option<u32>,
    /// The Python that runs user code; else $VIRTUAL_ENV's, the one beside this program, or that of PATH.
    pub python: Option<PathBuf>,
    /// An installed Jupyter kernel, by its name, that runs the code in place of an ordinary engine's.
    pub kernel: Option<String>,
    /// Seconds that a Python has to start, import what it needs and run the start-up code; 0 for any number.
    pub start_timeout: Seconds,
    /// Code that every kernel runs first.
    pub startup_command: String,
    /// A file that every kernel runs first.
    pub startup_script: Option<PathBuf>,
    /// Modules that are imported once, before kernels are forked.
    pub preload: Vec<String>,
    /// Environment of the kernels.
    pub env: BTreeMap<String, String>,
    /// What happens when a kernel dies.
    pub restart: Restart,
    /// Restarts of one engine within a minute, after which it is given up.
    pub restart_limit: u32,
    /// Memory of a kernel from which on the log says so: `500 MiB`, `2 GiB`, or bytes.
    pub memory_warn: Option<Size>,
    /// Memory from which on a kernel is killed and another one started.
    pub memory_limit: Option<Size>,
    /// Give each kernel processors of its own.
    pub pin: bool,
    /// The controller's host, in place of what the connection file says.
    pub location: Option<String>,
    /// In place of what the connection file says.
    pub registration_url: Option<String>,
    pub ssh_server: String,
    pub ssh_key: Option<PathBuf>,
    /// Ask for the MPI rank as the id, and run `mpi_init` first.
    pub mpi: bool,
    pub mpi_init: Option<String>,
    /// Seconds by which each rank registers later than the one before it, from rank 100 on.
    pub mpi_registration_delay: Seconds,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            file: None,
            wait_for_file: seconds(10.0),
            timeout: seconds(5.0),
            max_heartbeat_misses: 50,
            id: None,
            python: None,
            kernel: None,
            start_timeout: seconds(60.0),
            startup_command: String::new(),
            startup_script: None,
            preload: Vec::new(),
            env: BTreeMap::new(),
            restart: Restart::default(),
            restart_limit: 5,
            memory_warn: None,
            memory_limit: None,
            pin: false,
            location: None,
            registration_url: None,
            ssh_server: String::new(),
            ssh_key: None,
            mpi: false,
            mpi_init: None,
            mpi_registration_delay: seconds(0.02),
        }
    }
}

/// What an engine does when its kernel dies by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It unregisters, as ipyparallel's does.
    #[default]
    Never,
    /// Another one is started, which registers anew, unless the kernel ended with exit status 0.
    OnFailure,
    /// Another one is started whatever the exit status.
    Always,
}

/// What `ipcluster start` starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// Engines; else as many as this host has CPUs.
    pub n: Option<u32>,
    /// The cluster id, when neither the command line nor the environment names one.
    pub id: Option<String>,
    /// Engines that an elastic cluster has at least, and at most; it is one when either is set.
    pub min: Option<u32>,
    pub max: Option<u32>,
    /// Seconds without work after which an elastic cluster's engine ends; 0 for never.
    pub idle_timeout: Seconds,
    /// Seconds that tasks wait before an elastic cluster starts engines for them.
    pub scale_delay: Seconds,
    /// Seconds between the controller's start and that of the engines.
    pub delay: Seconds,
    /// Seconds to wait for the engines to register.
    pub engine_timeout: Seconds,
    pub daemonize: bool,
    /// The launcher of the controller: `local`, `ssh`, `mpi`, `slurm`, …
    pub controller: String,
    /// The launcher of the engines.
    pub engines: String,
    pub controller_args: Vec<String>,
    pub engine_args: Vec<String>,
    pub controller_ip: Option<String>,
    pub controller_location: Option<String>,
    /// Hand the connection information to the engines, so that they need no file.
    pub send_connection_info: bool,
    /// The signal of `ipcluster stop`; else the launcher's own way.
    pub stop_signal: Option<i32>,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            n: None,
            id: None,
            min: None,
            max: None,
            idle_timeout: seconds(300.0),
            scale_delay: seconds(2.0),
            delay: seconds(0.0),
            engine_timeout: seconds(60.0),
            daemonize: false,
            controller: "local".to_owned(),
            engines: "local".to_owned(),
            controller_args: Vec::new(),
            engine_args: Vec::new(),
            controller_ip: None,
            controller_location: None,
            send_connection_info: true,
            stop_signal: None,
        }
    }
}

/// How messages are signed.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionSettings {
    /// In place of a random key; empty switches signing off.
    pub key: Option<String>,
    /// A file whose content is the key.
    pub key_file: Option<PathBuf>,
    /// Signatures that are remembered, so that no message is taken twice.
    pub digest_history_size: u32,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            key: None,
            key_file: None,
            digest_history_size: 1 << 16,
        }
    }
}

/// Without the key: debug output ends up in logs.
impl fmt::Debug for SessionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionSettings")
            .field("key", &self.key.as_ref().map(|_| "(secret)"))
            .field("key_file", &self.key_file)
            .field("digest_history_size", &self.digest_history_size)
            .finish()
    }
}

/// Keys of CurveZMQ, in Z85.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurveSettings {
    pub server_key: Option<String>,
    pub public_key: Option<String>,
    pub secret_key: Option<String>,
}

/// Without the keys. A controller's public one is what opens its door.
impl fmt::Debug for CurveSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CurveSettings")
            .field("server_key", &self.server_key.as_ref().map(|_| "(secret)"))
            .field("public_key", &self.public_key.as_ref().map(|_| "(secret)"))
            .field("secret_key", &self.secret_key.as_ref().map(|_| "(secret)"))
            .finish()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    pub level: LogLevel,
    /// Into a file of the profile's log folder in place of stderr.
    pub to_file: bool,
    pub format: LogFormat,
    /// Of single components; what is not named has `level`.
    #[serde(deserialize_with = "known_components")]
    pub components: ComponentLevels,
    /// Bytes of a log file, after which the next begins; 0 for any number.
    pub max_size: Size,
    /// Files that are kept beside it.
    pub keep: u32,
    /// Remove the logs of processes that are gone; else only `ipcluster start` does.
    pub clean: Option<bool>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: LogLevel::default(),
            to_file: false,
            format: LogFormat::default(),
            components: ComponentLevels::new(),
            max_size: Size(100 << 20),
            keep: 4,
            clean: None,
        }
    }
}

fn known_components<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<ComponentLevels, D::Error> {
    let levels = ComponentLevels::deserialize(deserializer)?;
    for name in levels.keys() {
        checked_component(name).map_err(serde::de::Error::custom)?;
    }
    Ok(levels)
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessSettings {
    /// The folder to work in; else the current one.
    pub work_dir: Option<PathBuf>,
}

impl Settings {
    /// The traits of a launcher: those of its own class before those of the classes that it derives from. `lineage`
    /// begins with the class itself, as traitlets' inheritance does.
    pub fn launcher_traits(&self, lineage: &[&str]) -> Traits {
        let mut traits = Traits::new();
        for class in lineage.iter().rev() {
            if let Some(own) = self.launcher.get(*class) {
                traits.extend(
                    own.iter()
                        .map(|(name, value)| (name.clone(), value.clone())),
                );
            }
        }
        traits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_go_before_the_common_one() {
        let mut controller = ControllerSettings::default();
        assert_eq!(controller.client_interface(), "tcp://127.0.0.1");
        controller.ip = "*".into();
        controller.engine_ip = Some("10.0.0.1".into());
        assert_eq!(controller.client_interface(), "tcp://*");
        assert_eq!(controller.engine_interface(), "tcp://10.0.0.1");
    }

    #[test]
    fn debug_output_holds_no_secrets() {
        let mut settings = Settings::default();
        settings.session.key = Some("hidden".into());
        settings.curve.secret_key = Some("hidden".into());
        assert!(!format!("{settings:?}").contains("hidden"));
    }

    #[test]
    fn a_launcher_s_own_traits_go_before_inherited_ones() {
        let mut settings = Settings::default();
        for (class, value) in [("BaseLauncher", 1), ("SSHLauncher", 2)] {
            let traits = Traits::from([
                ("stop_timeout".to_owned(), Value::from(value)),
                (class.to_owned(), Value::Null),
            ]);
            settings.launcher.insert(class.to_owned(), traits);
        }
        let traits = settings.launcher_traits(&["SSHLauncher", "BaseLauncher"]);
        assert_eq!(traits["stop_timeout"], 2);
        assert_eq!(traits.len(), 3);
    }
}
