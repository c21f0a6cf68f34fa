//! Connection files: what a client and an engine need to reach a controller
//! (ipyparallel `IPController.save_connection_dict`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::os::files::{self, FileError};
use crate::os::host::{self, Host};
use crate::protocol::{ClusterId, signature};

/// The environment variable that holds an engine file's content, so that no file has to travel.
pub const CONNECTION_INFO_VARIABLE: &str = "IPP_CONNECTION_INFO";

/// `security/ipcontroller[-ID]-client.json`. The order of the fields is ipyparallel's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientFile {
    /// `[user@]server[:port]` to tunnel through; empty for none.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ssh: String,
    /// `tcp://ADDRESS`, where the address may be `*` or `0.0.0.0`.
    pub interface: String,
    pub registration: u16,
    pub control: u16,
    pub mux: u16,
    pub task: u16,
    #[serde(default = "default_scheme")]
    pub task_scheme: String,
    pub iopub: u16,
    pub notification: u16,
    /// Files of ipyparallel 6 have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<u16>,
    #[serde(flatten)]
    pub common: Common,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// `security/ipcontroller[-ID]-engine.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineFile {
    #[serde(default, deserialize_with = "null_is_default")]
    pub ssh: String,
    pub interface: String,
    pub registration: u16,
    pub control: u16,
    pub mux: u16,
    pub task: u16,
    pub iopub: u16,
    pub hb_ping: u16,
    pub hb_pong: u16,
    /// An engine connects to `broadcast[id % len]`.
    #[serde(default)]
    pub broadcast: Vec<u16>,
    #[serde(flatten)]
    pub common: Common,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// The part that both files share.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common {
    /// Signs every message; empty switches signing off.
    pub key: String,
    /// Z85, with CURVE only.
    #[serde(default)]
    pub curve_serverkey: Option<String>,
    /// The controller's host name or address, for interfaces that name none.
    #[serde(default, deserialize_with = "null_is_default")]
    pub location: String,
    pub pack: String,
    pub unpack: String,
    pub signature_scheme: String,
}

impl Common {
    /// What is written for a controller at `location` that signs with `key`.
    pub fn new(key: impl Into<String>, location: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            curve_serverkey: None,
            location: location.into(),
            pack: "json".to_owned(),
            unpack: "json".to_owned(),
            signature_scheme: signature::SCHEME.to_owned(),
        }
    }
}

/// Without the keys: debug output ends up in logs.
impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Common")
            .field("signs", &!self.key.is_empty())
            .field("encrypts", &self.curve_serverkey.is_some())
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

/// A channel of the controller, by its key in the connection files. The registration port also takes queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Registration,
    Control,
    Mux,
    Task,
    Iopub,
    Notification,
    HeartbeatPing,
    HeartbeatPong,
}

impl ClientFile {
    /// `interface:port`, or nothing for a channel that clients do not have.
    pub fn url(&self, channel: Channel) -> Option<String> {
        let port = match channel {
            Channel::Registration => self.registration,
            Channel::Control => self.control,
            Channel::Mux => self.mux,
            Channel::Task => self.task,
            Channel::Iopub => self.iopub,
            Channel::Notification => self.notification,
            Channel::HeartbeatPing | Channel::HeartbeatPong => return None,
        };
        Some(join(&self.interface, port))
    }

    pub fn broadcast_url(&self) -> Option<String> {
        self.broadcast.map(|port| join(&self.interface, port))
    }

    /// All that clients connect to.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        [
            self.registration,
            self.control,
            self.mux,
            self.task,
            self.iopub,
            self.notification,
        ]
        .into_iter()
        .chain(self.broadcast)
    }

    /// The same, to be changed.
    pub fn ports_mut(&mut self) -> impl Iterator<Item = &mut u16> {
        [
            &mut self.registration,
            &mut self.control,
            &mut self.mux,
            &mut self.task,
            &mut self.iopub,
            &mut self.notification,
        ]
        .into_iter()
        .chain(&mut self.broadcast)
    }

    /// The same file with an interface that this machine can connect to; asks the name service if it must.
    pub fn connectable(mut self) -> Self {
        self.interface =
            connectable_interface(&self.interface, &self.common.location, &Host::this());
        self
    }

    /// The same for whoever knows that the controller is on this machine, whatever its name is to others.
    pub fn on_this_machine(mut self) -> Self {
        self.common.location.clear();
        self.connectable()
    }

    pub fn read(path: &Path) -> Result<Self, ConnectionError> {
        read(path, CLIENT_KEYS)
    }

    /// What a controller on another machine has told.
    pub fn from_text(text: &str) -> Result<Self, ConnectionError> {
        parse(text, &Source::Told, CLIENT_KEYS)
    }

    /// One line.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a connection file is text and numbers")
    }

    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        write(path, self)
    }
}

impl EngineFile {
    /// `interface:port`, or nothing for a channel that engines do not have.
    pub fn url(&self, channel: Channel) -> Option<String> {
        let port = match channel {
            Channel::Registration => self.registration,
            Channel::Control => self.control,
            Channel::Mux => self.mux,
            Channel::Task => self.task,
            Channel::Iopub => self.iopub,
            Channel::HeartbeatPing => self.hb_ping,
            Channel::HeartbeatPong => self.hb_pong,
            Channel::Notification => return None,
        };
        Some(join(&self.interface, port))
    }

    /// All that engines connect to.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        [
            self.registration,
            self.control,
            self.mux,
            self.task,
            self.iopub,
            self.hb_ping,
            self.hb_pong,
        ]
        .into_iter()
        .chain(self.broadcast.iter().copied())
    }

    /// The same, to be changed.
    pub fn ports_mut(&mut self) -> impl Iterator<Item = &mut u16> {
        [
            &mut self.registration,
            &mut self.control,
            &mut self.mux,
            &mut self.task,
            &mut self.iopub,
            &mut self.hb_ping,
            &mut self.hb_pong,
        ]
        .into_iter()
        .chain(&mut self.broadcast)
    }

    /// Where the engine with this id connects for broadcasts.
    pub fn broadcast_url(&self, engine: u32) -> Option<String> {
        let count = u32::try_from(self.broadcast.len()).ok()?;
        let index = usize::try_from(engine.checked_rem(count)?).ok()?;
        let port = self.broadcast.get(index)?;
        Some(join(&self.interface, *port))
    }

    pub fn read(path: &Path) -> Result<Self, ConnectionError> {
        read(path, ENGINE_KEYS)
    }

    /// What a controller on another machine has told.
    pub fn from_text(text: &str) -> Result<Self, ConnectionError> {
        parse(text, &Source::Told, ENGINE_KEYS)
    }

    /// The content of `$IPP_CONNECTION_INFO`.
    pub fn from_variable(text: &str) -> Result<Self, ConnectionError> {
        parse(
            text,
            &Source::Variable(CONNECTION_INFO_VARIABLE),
            ENGINE_KEYS,
        )
    }

    /// What is to be put into `$IPP_CONNECTION_INFO`: one line.
    pub fn to_variable(&self) -> String {
        serde_json::to_string(self).expect("a connection file is text and numbers")
    }

    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        write(path, self)
    }

    /// The same file with an interface that this machine can connect to; asks the name service if it must.
    pub fn connectable(mut self) -> Self {
        self.interface =
            connectable_interface(&self.interface, &self.common.location, &Host::this());
        self
    }

    /// The name of the controller's machine, if this one could not resolve it when the file was made
    /// [connectable](Self::connectable).
    pub fn unresolved(&self) -> Option<&str> {
        let (_, address) = self.interface.split_once("://")?;
        let is_name = address == self.common.location && address.parse::<IpAddr>().is_err();
        is_name.then_some(address)
    }
}

/// Where the files of a cluster are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionFiles {
    pub client: PathBuf,
    pub engine: PathBuf,
    /// The secret half of the controller's CURVE key, for one that takes these files over.
    pub curve_key: PathBuf,
}

impl ConnectionFiles {
    pub fn paths(security_folder: &Path, cluster_id: &ClusterId) -> Self {
        let base = cluster_id.suffixed("ipcontroller");
        Self {
            client: security_folder.join(format!("{base}-client.json")),
            engine: security_folder.join(format!("{base}-engine.json")),
            curve_key: security_folder.join(format!(".{base}-curve.key")),
        }
    }

    /// Held by the controller that these files are of.
    pub fn lock(security_folder: &Path, cluster_id: &ClusterId) -> PathBuf {
        let base = cluster_id.suffixed(".ipcontroller");
        security_folder.join(format!("{base}.lock"))
    }

    /// The clusters of which there are such locks, held or left behind.
    pub fn locked(security_folder: &Path) -> Vec<ClusterId> {
        let entries = std::fs::read_dir(security_folder).into_iter().flatten();
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter_map(|name| {
                let id = name.strip_prefix(".ipcontroller")?.strip_suffix(".lock")?;
                match id {
                    "" => Some(ClusterId::default()),
                    id => Some(ClusterId(id.strip_prefix('-')?.to_owned())),
                }
            })
            .collect()
    }

    /// Both files, which must belong together: for `--reuse`.
    pub fn read(&self) -> Result<(ClientFile, EngineFile), ConnectionError> {
        let engine = EngineFile::read(&self.engine)?;
        let client = ClientFile::read(&self.client)?;
        self.check(&client, &engine)?;
        Ok((client, engine))
    }

    /// The check of ipyparallel's `load_config_from_json`.
    fn check(&self, client: &ClientFile, engine: &EngineFile) -> Result<(), ConnectionError> {
        let (ours, theirs) = (&client.common, &engine.common);
        let differs = [
            ("key", ours.key != theirs.key),
            ("registration", client.registration != engine.registration),
            ("pack", ours.pack != theirs.pack),
            ("unpack", ours.unpack != theirs.unpack),
            (
                "signature_scheme",
                ours.signature_scheme != theirs.signature_scheme,
            ),
        ];
        match differs.into_iter().find(|(_, differs)| *differs) {
            Some((key, _)) => Err(ConnectionError::Mismatch {
                client: self.client.clone(),
                engine: self.engine.clone(),
                key,
            }),
            None => Ok(()),
        }
    }

    /// Writes both, the client's last: who waits for it finds everything.
    pub fn write(&self, client: &ClientFile, engine: &EngineFile) -> Result<(), FileError> {
        engine.write(&self.engine)?;
        client.write(&self.client)
    }

    /// Removes all; those that are not there are no error.
    pub fn remove(&self) -> Result<(), FileError> {
        let client = files::remove_if_there(&self.client);
        let engine = files::remove_if_there(&self.engine);
        files::remove_if_there(&self.curve_key)?;
        client.and(engine).map(|_| ())
    }
}

/// Where a connection file's content came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Variable(&'static str),
    /// Through a connection.
    Told,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => write!(f, "${name}"),
            Self::Told => f.write_str("the connection file that came over ssh"),
        }
    }
}

const REMEDY: &str = "start the controller again, which writes it anew, or name another file";

#[derive(Debug, Error)]
pub enum ConnectionError {
    #[error("there is no connection file {}: is the controller running, with this profile and cluster id?", .0.display())]
    Missing(PathBuf),
    #[error(transparent)]
    Unreadable(FileError),
    #[error("{origin} is no connection file: {reason}; {REMEDY}")]
    Malformed { origin: Source, reason: String },
    #[error("{origin} has no {key:?}: {REMEDY}")]
    MissingKey { origin: Source, key: &'static str },
    #[error("{key:?} in {origin} is no {expected}: {REMEDY}")]
    WrongValue {
        origin: Source,
        key: &'static str,
        expected: &'static str,
    },
    #[error(
        "{key:?} in {origin} is {value:?}, and only {supported:?} is supported: remove that setting of Session from the controller's configuration"
    )]
    Unsupported {
        origin: Source,
        key: &'static str,
        value: String,
        supported: &'static str,
    },
    #[error(
        "{} and {} differ in {key:?}: they are not of one controller; remove both, or start without --reuse",
        client.display(),
        engine.display()
    )]
    Mismatch {
        client: PathBuf,
        engine: PathBuf,
        key: &'static str,
    },
}

/// What the value of a key must be.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Port,
    Interface,
    /// Text of which one is supported.
    Exactly(&'static str),
}

const COMMON_KEYS: &[(&str, Form)] = &[
    ("key", Form::Text),
    ("pack", Form::Exactly("json")),
    ("unpack", Form::Exactly("json")),
    ("signature_scheme", Form::Exactly(signature::SCHEME)),
];

const CLIENT_KEYS: &[(&str, Form)] = &[
    ("interface", Form::Interface),
    ("registration", Form::Port),
    ("control", Form::Port),
    ("mux", Form::Port),
    ("task", Form::Port),
    ("iopub", Form::Port),
    ("notification", Form::Port),
];

const ENGINE_KEYS: &[(&str, Form)] = &[
    ("interface", Form::Interface),
    ("registration", Form::Port),
    ("control", Form::Port),
    ("mux", Form::Port),
    ("task", Form::Port),
    ("iopub", Form::Port),
    ("hb_ping", Form::Port),
    ("hb_pong", Form::Port),
];

fn read<T: serde::de::DeserializeOwned>(
    path: &Path,
    keys: &'static [(&'static str, Form)],
) -> Result<T, ConnectionError> {
    let text = files::read_text(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ConnectionError::Missing(path.to_owned()),
        std::io::ErrorKind::InvalidData => ConnectionError::Malformed {
            origin: Source::File(path.to_owned()),
            reason: "it is not text".to_owned(),
        },
        _ => ConnectionError::Unreadable(error),
    })?;
    parse(&text, &Source::File(path.to_owned()), keys)
}

fn parse<T: serde::de::DeserializeOwned>(
    text: &str,
    origin: &Source,
    keys: &'static [(&'static str, Form)],
) -> Result<T, ConnectionError> {
    let malformed = |error: serde_json::Error| ConnectionError::Malformed {
        origin: origin.clone(),
        reason: error.to_string(),
    };
    let document: Map<String, Value> = serde_json::from_str(text).map_err(malformed)?;
    for (key, form) in keys.iter().chain(COMMON_KEYS) {
        check_value(&document, key, *form, origin)?;
    }
    serde_json::from_value(Value::Object(document)).map_err(malformed)
}

fn check_value(
    document: &Map<String, Value>,
    key: &'static str,
    form: Form,
    origin: &Source,
) -> Result<(), ConnectionError> {
    let origin = || origin.clone();
    let Some(value) = document.get(key) else {
        return Err(ConnectionError::MissingKey {
            origin: origin(),
            key,
        });
    };
    let wrong = |expected| {
        Err(ConnectionError::WrongValue {
            origin: origin(),
            key,
            expected,
        })
    };
    match form {
        Form::Text if !value.is_string() => wrong("text"),
        Form::Port
            if !value
                .as_u64()
                .is_some_and(|port| (1..=65_535).contains(&port)) =>
        {
            wrong("port (1 to 65535)")
        }
        Form::Interface if !value.as_str().is_some_and(|text| text.contains("://")) => {
            wrong("interface such as tcp://127.0.0.1")
        }
        Form::Exactly(supported) => match value.as_str() {
            Some(text) if text == supported => Ok(()),
            Some(text) => Err(ConnectionError::Unsupported {
                origin: origin(),
                key,
                value: text.to_owned(),
                supported,
            }),
            None => wrong("text"),
        },
        _ => Ok(()),
    }
}

fn write(path: &Path, document: &impl Serialize) -> Result<(), FileError> {
    let text =
        serde_json::to_string_pretty(document).expect("a connection file is text and numbers");
    files::write_private(path, text.as_bytes())
}

fn default_scheme() -> String {
    "leastload".to_owned()
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// ZeroMQ's spelling of an endpoint; `ipc://` paths take the port as a suffix.
pub fn join(interface: &str, port: u16) -> String {
    let separator = if interface.starts_with("ipc://") {
        '-'
    } else {
        ':'
    };
    format!("{interface}{separator}{port}")
}

/// An interface that `host` can connect to (ipyparallel `util.disambiguate_ip_address`): `*` and `0.0.0.0` are no
/// addresses to connect to, so the controller's location takes their place, or loopback when it is this host.
pub fn connectable_interface(interface: &str, location: &str, host: &Host) -> String {
    disambiguate(interface, location, host, host::resolve)
}

fn disambiguate(
    interface: &str,
    location: &str,
    host: &Host,
    resolve: impl Fn(&str) -> Option<IpAddr>,
) -> String {
    let Some((transport, address)) = interface.split_once("://") else {
        return interface.to_owned();
    };
    if !matches!(address, "*" | "0.0.0.0") {
        return interface.to_owned();
    }
    if location.is_empty() || location == host.name {
        return format!("{transport}://{}", host::LOOPBACK);
    }
    match location.parse().ok().or_else(|| resolve(location)) {
        Some(found) if host.has(found) => format!("{transport}://{}", host::LOOPBACK),
        Some(IpAddr::V6(found)) => format!("{transport}://[{found}]"),
        Some(found) => format!("{transport}://{found}"),
        // Left to ZeroMQ, which keeps trying: the name may resolve later.
        None => format!("{transport}://{location}"),
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
