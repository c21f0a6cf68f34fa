//! Which task database a controller uses, from the settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::Failure;
use crate::os::files::expand_path;
use crate::profile::dir::ProfileDir;
use crate::profile::settings::{
    Database, MemorySettings, MongodbSettings, Settings, Size, SqliteSettings, Synchronous,
};
use crate::taskdb::memory::{Limits, MemoryStore};
use crate::taskdb::sqlite::{SqliteConfig, SqliteStore, Sync};
use crate::taskdb::{Retention, TaskStore};

/// Opens the store for task records. A database that cannot be had is named before anything is started.
pub(super) fn open(
    settings: &Settings,
    profile: &ProfileDir,
) -> Result<Option<Box<dyn TaskStore>>, Failure> {
    let controller = &settings.controller;
    match controller.db {
        Database::None => {
            tracing::info!(
                "using NoDB: tasks and results are not stored. A database lets results be fetched again and tasks be \
                 resubmitted: --dictdb keeps it in memory, --sqlitedb in a file"
            );
            Ok(None)
        }
        Database::Memory => Ok(Some(Box::new(in_memory(&controller.memory)))),
        Database::Sqlite => Ok(Some(Box::new(in_file(&controller.sqlite, profile)?))),
        Database::Mongodb => Ok(Some(on_server(&controller.mongodb)?)),
    }
}

fn in_memory(settings: &MemorySettings) -> MemoryStore {
    tracing::info!(
        "using DictDB: tasks and results are kept in memory, as long as the controller runs"
    );
    let or_any = |limit: u64| if limit == 0 { u64::MAX } else { limit };
    MemoryStore::new(Limits {
        record_limit: usize::try_from(or_any(settings.record_limit)).unwrap_or(usize::MAX),
        size_limit: or_any(settings.size_limit),
        cull_fraction: settings.cull_fraction,
    })
}

/// Where a profile's database is, or would be.
pub(super) fn sqlite_path(settings: &SqliteSettings, profile: &ProfileDir) -> PathBuf {
    let folder = settings
        .location
        .as_ref()
        .map_or_else(|| profile.location().to_owned(), |path| expand_path(path));
    folder.join(&settings.filename)
}

/// A file that a controller has left. Its limits are not applied.
pub(super) fn existing_file(
    path: PathBuf,
    settings: &SqliteSettings,
) -> Result<SqliteStore, Failure> {
    let config = SqliteConfig {
        table: settings.table.clone(),
        ..SqliteConfig::new(path)
    };
    Ok(SqliteStore::open_existing(&config)?)
}

/// 0 is no limit.
fn some(limit: u64) -> Option<u64> {
    (limit > 0).then_some(limit)
}

fn retention(records: u64, size: Size, days: f64) -> Retention {
    Retention {
        records: some(records),
        bytes: some(size.0),
        age: (days > 0.0).then(|| Duration::from_secs_f64((days * 86_400.0).min(1e12))),
    }
}

fn sqlite_config(settings: &SqliteSettings, path: &Path) -> SqliteConfig {
    let defaults = SqliteConfig::new(path);
    SqliteConfig {
        table: settings.table.clone(),
        session: uuid::Uuid::new_v4().simple().to_string(),
        sync: match settings.synchronous {
            Synchronous::Normal => Sync::Normal,
            Synchronous::Full => Sync::Full,
        },
        retention: retention(
            settings.max_records,
            settings.max_size,
            settings.max_age_days,
        ),
        buffer_limit: some(settings.buffer_limit.0).unwrap_or(defaults.buffer_limit),
        ..defaults
    }
}

fn in_file(settings: &SqliteSettings, profile: &ProfileDir) -> Result<SqliteStore, Failure> {
    let path = sqlite_path(settings, profile);
    let config = sqlite_config(settings, &path);
    let store = SqliteStore::open(&config)?;
    tracing::info!(
        "using SQLiteDB: tasks and results are kept in {}, table {}",
        path.display(),
        store.table()
    );
    if let Some(notice) = store.notice() {
        tracing::warn!("{notice}");
    }
    Ok(store)
}

#[cfg(feature = "mongodb")]
pub(super) fn on_server(settings: &MongodbSettings) -> Result<Box<dyn TaskStore>, Failure> {
    use crate::taskdb::mongo::{MongoConfig, MongoStore};
    let uri = uri(settings)?;
    let config = MongoConfig {
        uri,
        database: settings.database.clone(),
        collection: settings.collection.clone(),
        retention: retention(
            settings.max_records,
            settings.max_size,
            settings.max_age_days,
        ),
        ..MongoConfig::default()
    };
    let store = MongoStore::open(&config)?;
    tracing::info!(
        "using MongoDB: tasks and results are kept in the database {}",
        settings.database
    );
    Ok(Box::new(store))
}

#[cfg(not(feature = "mongodb"))]
pub(super) fn on_server(_settings: &MongodbSettings) -> Result<Box<dyn TaskStore>, Failure> {
    Err(Failure::usage(
        "this executable was built without MongoDB (cargo's feature `mongodb`); --sqlitedb and --dictdb are there",
    ))
}

/// The connection string that pymongo's `MongoClient(*args, **kwargs)` amounts to: host, port, and options by name.
#[cfg(feature = "mongodb")]
fn uri(settings: &MongodbSettings) -> Result<String, Failure> {
    use serde_json::Value;
    let named = |name: &str| settings.connection_kwargs.get(name);
    let host = settings
        .connection_args
        .first()
        .or_else(|| named("host"))
        .and_then(Value::as_str)
        .unwrap_or("localhost");
    let port = settings
        .connection_args
        .get(1)
        .or_else(|| named("port"))
        .and_then(Value::as_u64)
        .unwrap_or(27017);
    if let Some(other) = settings
        .connection_kwargs
        .keys()
        .find(|name| !matches!(name.as_str(), "host" | "port"))
    {
        return Err(Failure::usage(format!(
            "MongoDB.connection_kwargs: {other:?} is not understood; write a connection string as the host instead \
             (mongodb://…)"
        )));
    }
    if host.contains("://") {
        return Ok(host.to_owned());
    }
    Ok(if host.contains(':') {
        format!("mongodb://{host}")
    } else {
        format!("mongodb://{host}:{port}")
    })
}
