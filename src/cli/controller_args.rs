//! The arguments of `ipcluster controller`.

use clap::Args;

use crate::cli::args::levels::{BOOLEANS, boolean, offering, text_of};
use crate::cli::args::{CommonArgs, SessionArgs};
use crate::cli::dashboard::parse_place;
use crate::cli::setup::edit;
use crate::profile::settings::Edit;
use crate::web::Place;

/// Ways in which tasks find their engines.
const SCHEMES: &[&str] = &[
    "leastload",
    "lru",
    "plainrandom",
    "weighted",
    "twobin",
    "pure",
];

#[derive(Args, Clone, Debug)]
pub(super) struct ControllerArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    #[command(flatten)]
    session: SessionArgs,

    /// Address to listen on for clients and engines; * or 0.0.0.0 is all of this machine's [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,

    /// Name or address by which engines and clients elsewhere reach this machine [default: its host name]
    #[arg(long, value_name = "HOST")]
    location: Option<String>,

    /// ZeroMQ's transport
    #[arg(long, value_name = "tcp|ipc", hide = true)]
    transport: Option<String>,

    /// Port for registration and queries
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Ports to use, in order, such as 10101-10120; a controller needs 14
    #[arg(long, value_name = "PORTS")]
    ports: Option<String>,

    /// Ports for engines' connections, before those of --ports; 8 are needed
    #[arg(long, value_name = "PORTS")]
    engine_ports: Option<String>,

    /// Ports for clients' connections, before those of --ports; 6 are needed
    #[arg(long, value_name = "PORTS")]
    client_ports: Option<String>,

    /// Server through which clients are to tunnel: [user@]server[:port]
    #[arg(long, value_name = "SERVER")]
    ssh: Option<String>,

    /// Server through which engines are to tunnel: [user@]server[:port]
    #[arg(long, value_name = "SERVER")]
    enginessh: Option<String>,

    /// Milliseconds between heartbeats [default: 3000]
    #[arg(long, value_name = "MS")]
    ping: Option<u64>,

    /// How tasks find their engines: leastload, lru, plainrandom, weighted, twobin, pure [default: leastload]
    #[arg(long, value_name = "SCHEME", value_parser = text_of(SCHEMES), hide_possible_values = true)]
    scheme: Option<String>,

    /// Tasks that may be outstanding on one engine; 0 is any number [default: 1]
    #[arg(long, value_name = "N")]
    hwm: Option<u32>,

    /// Encrypt all connections (CURVE); clients and engines find the key in their connection files [default: as soon as
    /// it listens beyond this machine]
    #[arg(long, value_name = "TRUE|FALSE", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = offering(BOOLEANS, boolean), hide_possible_values = true)]
    enable_curve: Option<bool>,

    /// Take key, ports and addresses from existing connection files, and leave the files at the end
    #[arg(long)]
    reuse: bool,

    /// Take back the engines of a controller that has ended, and what it left unfinished; implies --reuse
    #[arg(long)]
    restore: bool,

    /// Keep no record of tasks and results, as is the default
    #[arg(long, group = "database")]
    nodb: bool,

    /// Keep records of tasks and results in memory
    #[arg(long, group = "database")]
    dictdb: bool,

    /// Keep records of tasks and results in an SQLite file
    #[arg(long, group = "database")]
    sqlitedb: bool,

    /// Keep records of tasks and results in a MongoDB server
    #[arg(long, group = "database")]
    mongodb: bool,

    /// Serve a status page and metrics: on a free port of this machine, or where it is said [see ipcluster dashboard]
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "",
          value_parser = parse_place)]
    dashboard: Option<Place>,

    /// The Python that runs a dask.distributed scheduler when a client asks for one [default: of $VIRTUAL_ENV, beside
    /// this program, or on PATH]
    #[arg(long, value_name = "PYTHON")]
    python: Option<String>,

    /// Taken from standard input: a greeting and orders; to standard output go the connection files and news.
    #[arg(long, hide = true)]
    pub(super) over_stdin: bool,

    /// Schedulers are threads always
    #[arg(long, hide = true)]
    usethreads: bool,
}

impl ControllerArgs {
    pub(super) fn edits(&self) -> Vec<Edit> {
        let database = [
            (self.mongodb, "--mongodb", "mongodb"),
            (self.sqlitedb, "--sqlitedb", "sqlite"),
            (self.dictdb, "--dictdb", "memory"),
            (self.nodb, "--nodb", "none"),
        ];
        let database = database.into_iter().filter(|(given, ..)| *given);
        let mut edits = self.session.edits();
        edits
            .extend(database.filter_map(|(_, flag, name)| edit("controller.db", flag, Some(name))));
        edits.extend(
            [
                edit("controller.ip", "--ip", self.ip.clone()),
                edit("controller.location", "--location", self.location.clone()),
                edit(
                    "controller.transport",
                    "--transport",
                    self.transport.clone(),
                ),
                edit("controller.ports", "--ports", self.ports.clone()),
                edit("controller.port", "--port", self.port),
                edit(
                    "controller.engine_ports",
                    "--engine-ports",
                    self.engine_ports.clone(),
                ),
                edit(
                    "controller.client_ports",
                    "--client-ports",
                    self.client_ports.clone(),
                ),
                edit("controller.ssh_server", "--ssh", self.ssh.clone()),
                edit(
                    "controller.engine_ssh_server",
                    "--enginessh",
                    self.enginessh.clone(),
                ),
                edit("heartbeat.period_ms", "--ping", self.ping),
                edit("scheduler.scheme", "--scheme", self.scheme.clone()),
                edit("engine.python", "--python", self.python.clone()),
                edit("scheduler.hwm", "--hwm", self.hwm),
                edit(
                    "controller.dashboard",
                    "--dashboard",
                    self.dashboard.as_ref().map(Place::to_string),
                ),
                edit(
                    "controller.enable_curve",
                    "--enable-curve",
                    self.enable_curve,
                ),
                edit("controller.reuse", "--reuse", self.reuse.then_some(true)),
                edit(
                    "controller.restore",
                    "--restore",
                    self.restore.then_some(true),
                ),
            ]
            .into_iter()
            .flatten(),
        );
        edits
    }
}
