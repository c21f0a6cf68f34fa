//! Whom the records are asked of. A hub and a database answer the same requests with the same JSON.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use thiserror::Error;

use super::Fields;
use crate::cli::setup::Setup;
use crate::cli::{Failure, database, exit_code};
use crate::hub::recorder::{Ask, Behind, Recorder};
use crate::hubclient::{HubClient, HubError};
use crate::os::lock::is_held;
use crate::profile::connection::{ClientFile, ConnectionFiles};
use crate::profile::settings::Database;
use crate::protocol::{MsgId, Timestamp};
use crate::taskdb::TaskStore;
use crate::transport::Frame;

pub(in crate::cli) struct Source {
    name: String,
    kind: Kind,
}

enum Kind {
    Hub {
        client: Box<HubClient>,
        timeout: Duration,
    },
    Store(Box<Recorder<Box<dyn TaskStore>>>),
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(in crate::cli) enum AskError {
    #[error(transparent)]
    Hub(#[from] HubError),
    /// By a database that is read here.
    #[error("{ename}: {evalue}")]
    Refused { ename: String, evalue: String },
    #[error("the answer is none: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl AskError {
    /// Whether it was this question that was refused: another one may be answered.
    pub(in crate::cli) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. } | Self::Hub(HubError::Refused { .. })
        )
    }
}

/// A file that is named; else the cluster, if it runs; else the database that it would use.
pub(in crate::cli) fn open(
    setup: Option<&Setup>,
    file: Option<&Path>,
    table: Option<&str>,
    timeout: f64,
) -> Result<Source, Failure> {
    let settings = setup.map(|setup| setup.settings.controller.sqlite.clone());
    let mut sqlite = settings.unwrap_or_default();
    if let Some(table) = table {
        table.clone_into(&mut sqlite.table);
    }
    if let Some(file) = file {
        return of_file(file.to_owned(), &sqlite);
    }
    let Some(setup) = setup else {
        return Err(Failure::usage("there is neither a profile nor a --file"));
    };
    let security = setup.profile.security_dir();
    let connection = ConnectionFiles::paths(&security, &setup.cluster_id).client;
    let lock = ConnectionFiles::lock(&security, &setup.cluster_id);
    let of_hub = |connection: &Path| -> Result<Source, Failure> {
        let client = HubClient::connect(ClientFile::read(connection)?)?;
        let timeout = Duration::try_from_secs_f64(timeout)
            .map_err(|error| Failure::usage(format!("--timeout: {error}")))?;
        Ok(Source {
            name: format!("the cluster of {}", connection.display()),
            kind: Kind::Hub {
                client: Box::new(client),
                timeout,
            },
        })
    };
    if is_held(&lock) && table.is_none() {
        return of_hub(&connection);
    }
    let path = database::sqlite_path(&sqlite, &setup.profile);
    match setup.settings.controller.db {
        Database::Mongodb => {
            let store = database::on_server(&setup.settings.controller.mongodb)?;
            Ok(Source::of_store(store))
        }
        _ if path.exists() => of_file(path, &sqlite),
        // A controller on another machine, perhaps.
        _ if connection.exists() => of_hub(&connection),
        _ => Err(Failure::new(
            exit_code::NO_CLUSTER,
            format!(
                "no cluster of profile {} runs, and there is no {}; --profile, --cluster-id or --file name others, and what a \
             controller was told with --mongodb stands in the settings or is said again: \
             --IPController.db_class=MongoDB --MongoDB.connection_args=…",
                setup.profile.location().display(),
                path.display()
            ),
        )),
    }
}

fn of_file(
    path: PathBuf,
    settings: &crate::profile::settings::SqliteSettings,
) -> Result<Source, Failure> {
    if !path.exists() {
        return Err(Failure::failed(format!("there is no {}", path.display())));
    }
    if path.is_dir() {
        return Err(Failure::failed(format!(
            "{} is a folder; --file names a file, such as {}",
            path.display(),
            path.join("tasks.db").display()
        )));
    }
    let store = database::existing_file(path, settings)?;
    Ok(Source::of_store(Box::new(store)))
}

impl Source {
    fn of_store(store: Box<dyn TaskStore>) -> Self {
        Self {
            name: store.place(),
            kind: Kind::Store(Box::new(Recorder::new(store, TimeZone::system()))),
        }
    }

    /// In words for the user.
    pub(in crate::cli) fn name(&self) -> &str {
        &self.name
    }

    /// The content of the answer.
    pub(in crate::cli) fn ask(&mut self, msg_type: &str, content: Value) -> Result<Value, Failure> {
        Ok(self.ask_all(msg_type, content)?.0)
    }

    /// The content of the answer, and its buffers.
    fn ask_all(&mut self, msg_type: &str, content: Value) -> Result<(Value, Vec<Frame>), AskError> {
        match &mut self.kind {
            Kind::Hub { client, timeout } => {
                let content = client.request(msg_type, content, *timeout)?;
                Ok((content, client.buffers()))
            }
            Kind::Store(recorder) => {
                let mut ask = Ask {
                    now: Timestamp::from(SystemTime::now()),
                    new_id: &mut || MsgId::from(uuid::Uuid::new_v4().to_string()),
                    engine: &|_| None,
                    behind: Behind::default(),
                };
                let content = content.to_string();
                let answer = recorder.answer(msg_type, content.as_bytes(), &mut ask);
                let content: Value = serde_json::from_slice(&answer.content)?;
                if content["status"] == "error" {
                    let text = |key: &str| content[key].as_str().unwrap_or_default().to_owned();
                    let (ename, evalue) = (text("ename"), text("evalue"));
                    return Err(AskError::Refused { ename, evalue });
                }
                let buffers = answer.buffers.into_iter().map(Frame::from);
                Ok((content, buffers.collect()))
            }
        }
    }

    /// The buffers of the requests with these ids, as far as they have a record.
    pub(in crate::cli) fn buffers(
        &mut self,
        ids: &[String],
    ) -> Result<Vec<(String, Vec<Frame>)>, AskError> {
        let query = json!({"msg_id": {"$in": ids}});
        let content = json!({"query": query, "keys": ["msg_id", "buffers"]});
        let (content, buffers) = self.ask_all("db_request", content)?;
        let mut buffers = buffers.into_iter();
        let list = |key: &str| content[key].as_array().into_iter().flatten();
        let lens = list("buffer_lens").map(|len| len.as_u64().unwrap_or(0) as usize);
        let named = list("records").zip(lens).filter_map(|(record, len)| {
            let own: Vec<Frame> = buffers.by_ref().take(len).collect();
            Some((record["msg_id"].as_str()?.to_owned(), own))
        });
        Ok(named.collect())
    }

    /// The ids of matching records, in the order in which they were added.
    pub(in crate::cli) fn ids(&mut self, query: &Value) -> Result<Vec<String>, Failure> {
        let mut content = self.ask("db_request", json!({"query": query, "keys": ["msg_id"]}))?;
        let records = content["records"].take();
        let ids = records.as_array().into_iter().flatten();
        Ok(ids
            .filter_map(|record| record["msg_id"].as_str())
            .map(str::to_owned)
            .collect())
    }

    /// The only id that begins so; what no id begins with, as it is.
    pub(in crate::cli) fn id_that_begins(&mut self, beginning: &str) -> Result<String, Failure> {
        let whole = self.ids(&json!({"msg_id": beginning}))?;
        if !whole.is_empty() {
            return Ok(beginning.to_owned());
        }
        let pattern = format!("^{}", regex::escape(beginning));
        let found = self.ids(&json!({"msg_id": {"$regex": pattern}}))?;
        match found.as_slice() {
            [] => Ok(beginning.to_owned()),
            [one] => Ok(one.clone()),
            [first, ..] => Err(Failure::failed(format!(
                "{} records begin with {beginning:?}, such as {first:?}: name more of it",
                found.len()
            ))),
        }
    }

    /// Fields of these records, in the same order; all of them where no keys are given.
    pub(in crate::cli) fn records(
        &mut self,
        ids: &[String],
        keys: &[String],
    ) -> Result<Vec<Fields>, Failure> {
        let keys = if keys.is_empty() {
            Value::Null
        } else {
            json!(keys)
        };
        let query = json!({"msg_id": {"$in": ids}});
        let mut content = self.ask("db_request", json!({"query": query, "keys": keys}))?;
        Ok(serde_json::from_value(content["records"].take())?)
    }

    pub(in crate::cli) fn close(self) -> Result<(), Failure> {
        match self.kind {
            Kind::Hub { .. } => Ok(()),
            Kind::Store(mut recorder) => Ok(recorder.store().close()?),
        }
    }
}
