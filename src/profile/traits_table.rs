//! What each trait of ipyparallel's programs means here. Pure data, in the order of ipyparallel 9.2's sources.

/// A program whose settings are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Controller,
    Engine,
    Cluster,
    /// Looks at the settings of all: `profile show`.
    All,
}

impl Program {
    /// As ipyparallel calls it, in the names of files and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Controller => "ipcontroller",
            Self::Engine => "ipengine",
            Self::Cluster | Self::All => "ipcluster",
        }
    }

    /// The sections of the settings that are this program's own.
    pub(super) fn sections(self) -> &'static [&'static str] {
        match self {
            Self::Controller => &["controller", "scheduler", "heartbeat", "session", "curve"],
            Self::Engine => &["engine", "kernel"],
            Self::Cluster => &["cluster", "launcher"],
            Self::All => &[],
        }
    }

    /// Would `self` read what is meant for `other`?
    pub(super) fn reads(self, other: Self) -> bool {
        self == other || self == Self::All || other == Self::All
    }
}

/// How a trait's text is read, as its trait type does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Float,
    Bool,
    Text,
    Ports,
    /// A list of texts; each repetition on a command line adds one.
    List,
    /// `key=value` on a command line.
    Dict,
    Level,
    Database,
    Launcher,
    /// `mpi4py`, or nothing: what `MPI.use` named before ipyparallel 7.
    WithMpi,
    /// Whatever literal it is.
    Any,
}

/// What a trait does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Sets this key.
    Key(&'static str, Kind),
    /// Adds a port to a pool.
    Pool(&'static str),
    /// Adds a pair of ports: the client's and the engine's.
    PortPair,
    /// Adds both ports for engines.
    HeartbeatPorts,
    /// Has no meaning here, and why.
    Nothing(&'static str),
}

pub(super) struct Class {
    pub(super) name: &'static str,
    /// Names of former times.
    pub(super) former: &'static [&'static str],
    pub(super) traits: &'static [(&'static str, Target)],
    /// Takes [`APP_TRAITS`] as well, for this program.
    pub(super) app: Option<Program>,
}

use Kind::{Any, Bool, Database, Dict, Float, Int, Launcher, Level, List, Ports, Text, WithMpi};
use Target::{HeartbeatPorts, Key, Nothing, Pool, PortPair};

const FILE_NAMES: &str = "clients and engines find the connection files by the profile and --cluster-id; copy them to other names";
const ONE_PROCESS: &str = "the controller is one process with a thread for each scheduler";
const NO_MONITOR: &str = "there is no monitor socket: schedulers and hub share one process";
const ONE_FORMAT: &str = "the log has one text format; see log.format";
const GIVE_ON_COMMAND_LINE: &str = "it is given on the command line of that subcommand";
const FOUND_BEFORE: &str =
    "the profile is found before its files are read; give it on the command line";
const KERNEL_OWN: &str = "the kernel brings its own";
const JSON_ONLY: &str = "messages are packed as JSON, as the stock programs do";
const SPEED_ONLY: &str = "it tunes the stock program's serialization and changes no result";

/// Of all applications: those of `BaseParallelApplication` and what it derives from.
pub(super) const APP_TRAITS: &[(&str, Target)] = &[
    ("log_level", Key("log.level", Level)),
    ("log_to_file", Key("log.to_file", Bool)),
    ("clean_logs", Key("log.clean", Bool)),
    ("work_dir", Key("process.work_dir", Text)),
    ("cluster_id", Key("cluster.id", Text)),
    (
        "log_url",
        Nothing("logs are not sent over ZeroMQ; use log.to_file"),
    ),
    ("log_format", Nothing(ONE_FORMAT)),
    ("log_datefmt", Nothing(ONE_FORMAT)),
    ("logging_config", Nothing(ONE_FORMAT)),
    ("profile", Nothing(FOUND_BEFORE)),
    ("ipython_dir", Nothing(FOUND_BEFORE)),
    ("extra_config_file", Nothing(FOUND_BEFORE)),
    ("auto_create", Nothing(FOUND_BEFORE)),
    (
        "copy_config_files",
        Nothing("`ipcluster profile create` writes a commented ipcluster.toml"),
    ),
    (
        "overwrite",
        Nothing("`ipcluster profile create` writes a commented ipcluster.toml"),
    ),
    (
        "add_ipython_dir_to_sys_path",
        Nothing("no Python runs in this program"),
    ),
    ("verbose_crash", Nothing("no Python runs in this program")),
    ("show_config", Nothing("use `ipcluster profile show`")),
    ("show_config_json", Nothing("use `ipcluster profile show`")),
];

pub(super) const CLASSES: &[Class] = &[
    Class {
        name: "IPController",
        former: &["HubFactory", "IPControllerApp", "RegistrationFactory"],
        app: Some(Program::Controller),
        traits: &[
            ("reuse_files", Key("controller.reuse", Bool)),
            ("restore_engines", Key("controller.restore", Bool)),
            ("ssh_server", Key("controller.ssh_server", Text)),
            (
                "engine_ssh_server",
                Key("controller.engine_ssh_server", Text),
            ),
            ("location", Key("controller.location", Text)),
            ("use_threads", Nothing(ONE_PROCESS)),
            ("engine_json_file", Nothing(FILE_NAMES)),
            ("client_json_file", Nothing(FILE_NAMES)),
            ("enable_curve", Key("controller.enable_curve", Bool)),
            ("curve_secretkey", Key("curve.secret_key", Text)),
            ("curve_publickey", Key("curve.public_key", Text)),
            (
                "broadcast_scheduler_depth",
                Nothing("one thread fans broadcasts out; there is no tree of schedulers"),
            ),
            ("ports", Key("controller.ports", Ports)),
            ("engine_ports", Key("controller.engine_ports", Ports)),
            ("client_ports", Key("controller.client_ports", Ports)),
            ("hb", HeartbeatPorts),
            ("mux", PortPair),
            ("task", PortPair),
            ("control", PortPair),
            ("iopub", PortPair),
            ("mon_port", Nothing(NO_MONITOR)),
            ("notifier_port", Pool("controller.client_ports")),
            ("regport", Pool("controller.engine_ports")),
            ("engine_ip", Key("controller.engine_ip", Text)),
            ("engine_transport", Key("controller.engine_transport", Text)),
            ("client_ip", Key("controller.client_ip", Text)),
            ("client_transport", Key("controller.client_transport", Text)),
            ("monitor_ip", Nothing(NO_MONITOR)),
            ("monitor_transport", Nothing(NO_MONITOR)),
            ("monitor_url", Nothing(NO_MONITOR)),
            ("db_class", Key("controller.db", Database)),
            (
                "registration_timeout",
                Key("controller.registration_timeout", Float),
            ),
            ("ip", Key("controller.ip", Text)),
            ("transport", Key("controller.transport", Text)),
        ],
    },
    Class {
        name: "IPEngine",
        former: &["EngineFactory", "IPEngineApp"],
        app: Some(Program::Engine),
        traits: &[
            (
                "enable_nanny",
                Nothing("every kernel is watched by its engine"),
            ),
            ("startup_script", Key("engine.startup_script", Text)),
            ("startup_command", Key("engine.startup_command", Text)),
            ("url_file", Key("engine.file", Text)),
            ("wait_for_url_file", Key("engine.wait_for_file", Float)),
            (
                "url_file_name",
                Nothing("name the whole path with IPEngine.url_file"),
            ),
            ("registration_url", Key("engine.registration_url", Text)),
            ("url", Key("engine.registration_url", Text)),
            ("out_stream_factory", Nothing(KERNEL_OWN)),
            ("display_hook_factory", Nothing(KERNEL_OWN)),
            ("location", Key("engine.location", Text)),
            ("timeout", Key("engine.timeout", Float)),
            (
                "max_heartbeat_misses",
                Key("engine.max_heartbeat_misses", Int),
            ),
            ("sshserver", Key("engine.ssh_server", Text)),
            ("sshkey", Key("engine.ssh_key", Text)),
            ("paramiko", Nothing("tunnels are made by the ssh command")),
            ("use_mpi", Key("engine.mpi", Bool)),
            ("init_mpi", Key("engine.mpi_init", Text)),
            (
                "mpi_registration_delay",
                Key("engine.mpi_registration_delay", Float),
            ),
            ("id", Key("engine.id", Int)),
            ("curve_serverkey", Key("curve.server_key", Text)),
            ("curve_secretkey", Key("curve.secret_key", Text)),
            ("curve_publickey", Key("curve.public_key", Text)),
        ],
    },
    Class {
        name: "MPI",
        former: &[],
        app: None,
        traits: &[
            ("use", Key("engine.mpi", WithMpi)),
            ("init_script", Key("engine.mpi_init", Text)),
            (
                "default_inits",
                Nothing("give the code with IPEngine.init_mpi"),
            ),
        ],
    },
    Class {
        name: "Cluster",
        former: &["IPClusterApp"],
        app: None,
        traits: &[
            ("n", Key("cluster.n", Int)),
            ("delay", Key("cluster.delay", Float)),
            ("engine_timeout", Key("cluster.engine_timeout", Float)),
            (
                "send_engines_connection_env",
                Key("cluster.send_connection_info", Bool),
            ),
            (
                "controller_launcher_class",
                Key("cluster.controller", Launcher),
            ),
            ("engine_launcher_class", Key("cluster.engines", Launcher)),
            ("controller_args", Key("cluster.controller_args", List)),
            ("controller_ip", Key("cluster.controller_ip", Text)),
            (
                "controller_location",
                Key("cluster.controller_location", Text),
            ),
            (
                "load_profile",
                Nothing("the profile's settings are always read"),
            ),
        ],
    },
    Class {
        name: "IPClusterEngines",
        former: &["IPClusterStart"],
        app: Some(Program::Cluster),
        traits: &[
            ("daemonize", Key("cluster.daemonize", Bool)),
            (
                "early_shutdown",
                Nothing(
                    "engines that end are started again; the cluster ends when that keeps failing",
                ),
            ),
            ("n", Key("cluster.n", Int)),
            ("delay", Key("cluster.delay", Float)),
            (
                "controller_launcher_class",
                Key("cluster.controller", Launcher),
            ),
            ("engine_launcher_class", Key("cluster.engines", Launcher)),
            ("controller_ip", Key("cluster.controller_ip", Text)),
            (
                "controller_location",
                Key("cluster.controller_location", Text),
            ),
        ],
    },
    Class {
        name: "IPCluster",
        former: &[],
        app: Some(Program::Cluster),
        traits: &[],
    },
    Class {
        name: "IPClusterStop",
        former: &[],
        app: Some(Program::Cluster),
        traits: &[
            ("signal", Key("cluster.stop_signal", Int)),
            ("all_cluster_ids", Nothing(GIVE_ON_COMMAND_LINE)),
        ],
    },
    Class {
        name: "IPClusterList",
        former: &[],
        app: Some(Program::Cluster),
        traits: &[("output_format", Nothing(GIVE_ON_COMMAND_LINE))],
    },
    Class {
        name: "IPClusterClean",
        former: &[],
        app: Some(Program::Cluster),
        traits: &[
            ("force", Nothing(GIVE_ON_COMMAND_LINE)),
            ("all_profiles", Nothing(GIVE_ON_COMMAND_LINE)),
        ],
    },
    Class {
        name: "BaseParallelApplication",
        former: &[
            "BaseIPythonApplication",
            "Application",
            "SingletonConfigurable",
            "LoggingConfigurable",
            "Configurable",
        ],
        app: Some(Program::All),
        traits: &[],
    },
    Class {
        name: "ProfileDir",
        former: &[],
        app: None,
        traits: &[("location", Nothing(FOUND_BEFORE))],
    },
    Class {
        name: "TaskScheduler",
        former: &["Scheduler"],
        app: None,
        traits: &[
            ("hwm", Key("scheduler.hwm", Int)),
            ("scheme_name", Key("scheduler.scheme", Text)),
        ],
    },
    Class {
        name: "BroadcastScheduler",
        former: &[],
        app: None,
        traits: &[],
    },
    Class {
        name: "Hub",
        former: &[],
        app: None,
        traits: &[],
    },
    Class {
        name: "HeartMonitor",
        former: &[],
        app: None,
        traits: &[
            ("debug", Nothing("use log.level = \"debug\"")),
            ("period", Key("heartbeat.period_ms", Int)),
            ("max_heartmonitor_misses", Key("heartbeat.max_misses", Int)),
        ],
    },
    Class {
        name: "DictDB",
        former: &[],
        app: None,
        traits: &[
            ("record_limit", Key("controller.memory.record_limit", Int)),
            ("size_limit", Key("controller.memory.size_limit", Int)),
            (
                "cull_fraction",
                Key("controller.memory.cull_fraction", Float),
            ),
        ],
    },
    Class {
        name: "NoDB",
        former: &["BaseDB"],
        app: None,
        traits: &[],
    },
    Class {
        name: "SQLiteDB",
        former: &[],
        app: None,
        traits: &[
            ("filename", Key("controller.sqlite.filename", Text)),
            ("location", Key("controller.sqlite.location", Text)),
            ("table", Key("controller.sqlite.table", Text)),
        ],
    },
    Class {
        name: "MongoDB",
        former: &[],
        app: None,
        traits: &[
            (
                "connection_args",
                Key("controller.mongodb.connection_args", Any),
            ),
            (
                "connection_kwargs",
                Key("controller.mongodb.connection_kwargs", Any),
            ),
            ("database", Key("controller.mongodb.database", Text)),
        ],
    },
    Class {
        name: "Session",
        former: &["SessionFactory"],
        app: None,
        traits: &[
            ("key", Key("session.key", Text)),
            ("keyfile", Key("session.key_file", Text)),
            (
                "digest_history_size",
                Key("session.digest_history_size", Int),
            ),
            ("packer", Nothing(JSON_ONLY)),
            ("unpacker", Nothing(JSON_ONLY)),
            (
                "signature_scheme",
                Nothing("hmac-sha256 is the one that is spoken"),
            ),
            (
                "session",
                Nothing("engines are told apart by ids that they make up"),
            ),
            ("username", Nothing("nothing looks at it")),
            ("metadata", Nothing("nothing looks at it")),
            ("debug", Nothing("use log.level = \"debug\"")),
            ("check_pid", Nothing("no process forks with its sockets")),
            ("buffer_threshold", Nothing(SPEED_ONLY)),
            ("copy_threshold", Nothing(SPEED_ONLY)),
            ("item_threshold", Nothing(SPEED_ONLY)),
        ],
    },
];

/// Traits of any launcher; which class has which is the launchers' own affair.
pub(super) const LAUNCHER_TRAITS: &[(&str, Kind)] = &[
    ("account", Text),
    ("batch_file_name", Text),
    ("batch_template", Text),
    ("batch_template_file", Text),
    ("connection_info_timeout", Float),
    ("controller_args", List),
    ("controller_cmd", List),
    ("delay", Float),
    ("delete_command", List),
    ("engine_args", List),
    ("engine_cmd", List),
    ("engine_count", Int),
    ("engines", Dict),
    ("environment", Dict),
    ("hostname", Text),
    ("ipcluster_args", List),
    ("ipcluster_cmd", List),
    ("extra_args", List),
    ("job_array_regexp", Text),
    ("job_array_template", Text),
    ("job_cmd", Text),
    ("job_file_name", Text),
    ("job_id_regexp", Text),
    ("job_id_regexp_group", Int),
    ("location", Text),
    ("mpi_args", List),
    ("mpi_cmd", List),
    ("mpi_program", List),
    ("mpi_program_args", List),
    ("n", Int),
    ("namespace", Dict),
    ("options", Text),
    ("output_file", Text),
    ("output_limit", Int),
    ("poll_frequency", Int),
    ("poll_seconds", Int),
    ("program", List),
    ("program_args", List),
    ("qos", Text),
    ("queue", Text),
    ("queue_regexp", Text),
    ("queue_template", Text),
    ("remote_profile_dir", Text),
    ("remote_python", Text),
    ("scheduler", Text),
    ("scp_args", List),
    ("scp_cmd", List),
    ("send_program", Bool),
    ("signal_command", List),
    ("silence_timeout", Float),
    ("ssh_args", List),
    ("ssh_cmd", List),
    ("status_command", List),
    ("stop_seconds_until_kill", Int),
    ("stop_timeout", Int),
    ("submit_command", List),
    ("timelimit", Any),
    ("to_fetch", List),
    ("to_send", List),
    ("tunnel", Bool),
    ("user", Text),
];

/// Launchers that a set of engines or a controller can have, by ipyparallel's abbreviations.
pub const LAUNCHERS: &[&str] = &[
    "local", "ssh", "sshproxy", "mpi", "slurm", "pbs", "sge", "lsf", "htcondor",
];

/// Classes that live in the kernel. Any other that is not known is taken for one as well: users bring their own.
pub(super) const KERNEL_CLASSES: &[&str] = &[
    "InteractiveShell",
    "ZMQInteractiveShell",
    "InteractiveShellApp",
    "IPKernelApp",
    "IPythonKernel",
    "IPythonParallelKernel",
    "Kernel",
    "HistoryManager",
    "HistoryAccessor",
    "InlineBackend",
    "IPCompleter",
    "Completer",
    "DisplayFormatter",
    "PlainTextFormatter",
    "StoreMagics",
    "ScriptMagics",
    "LoggingMagics",
    "PrefilterManager",
    "AliasManager",
    "MagicsManager",
];
