//! Records in a MongoDB collection, in the documents of the original's `MongoDB` backend: records of either can be read
//! by both.
//!
//! Changes are gathered in memory and written by [`TaskStore::flush_due`], so that a kill loses what was reported since;
//! what an unreachable server cannot take waits, up to [`MongoConfig::backlog_limit`]. What is flushed is in the
//! server's journal, unless the connection string has another write concern.
//!
//! A document holds 16 MB. Buffers of a request, and those of a result, with more than [`MAX_BUFFERS`] bytes are not
//! kept; the record says so. Times have milliseconds. JSON that no document can hold (names with a NUL or a leading
//! `$`, integers beyond 64 bits with sign) is kept as the bytes in which it came.

mod codec;
mod filter;
mod retention;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::time::Duration;

use hashbrown::HashSet;
use mongodb::IndexModel;
use mongodb::bson::{Bson, Document, doc, serialize_to_bson};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, IndexOptions, WriteConcern};
use mongodb::sync::{Client, Collection, Database};

use self::filter::Filter;
use super::changes::{Change, Changes};
use super::query::Query;
use super::record::{Key, KeySet, RecordUpdate, TaskRecord};
use super::retention::Retention;
use super::store::{Backlog, Fault, RecordReader, StoreError, StoreStats, TaskStore};
use crate::protocol::{MsgId, Timestamp};

/// Bytes of buffers of one request or result that are kept.
pub const MAX_BUFFERS: u64 = 7 << 20;

/// Bytes of a record that surely fit into a document of 16 MB.
const MAX_RECORD: u64 = 15 << 20;

/// Changes that go to the server at once.
const PIECE: usize = 500;

/// Bytes of a command: it is a document for the server, which takes 16 MB.
const MAX_COMMAND: usize = 15 << 20;

/// How long a change may wait for a server that does not answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// MongoDB's code for a second document of one msg_id.
const DUPLICATE: i32 = 11_000;

/// Where records are kept.
#[derive(Clone, Debug)]
pub struct MongoConfig {
    /// A connection string.
    pub uri: String,
    pub database: String,
    pub collection: String,
    /// Bytes of changes that wait while the server cannot be reached.
    pub backlog_limit: u64,
    pub retention: Retention,
}

impl Default for MongoConfig {
    /// The original's names.
    fn default() -> Self {
        Self {
            uri: "mongodb://localhost:27017".to_owned(),
            database: "ipython-tasks".to_owned(),
            collection: "task_records".to_owned(),
            backlog_limit: 256 << 20,
            retention: Retention::default(),
        }
    }
}

/// The store.
#[derive(Debug)]
pub struct MongoStore {
    database: Database,
    reader: MongoReader,
    changes: Changes,
    backlog_limit: u64,
    retention: Retention,
    /// Why the server cannot be written to now.
    fault: Option<StoreError>,
    refused: u64,
    /// Records that are surely there, so that a change need not ask. Forgotten now and then.
    known: HashSet<MsgId>,
}

/// Ids that [`MongoStore::known`] holds at most.
const MAX_KNOWN: usize = 1 << 16;

impl MongoStore {
    /// Connects, and makes the collection's indexes.
    pub fn open(config: &MongoConfig) -> Result<Self, StoreError> {
        let mut options = ClientOptions::parse(&config.uri)
            .run()
            .map_err(|error| fault("mongodb", &error))?;
        options.server_selection_timeout.get_or_insert(PATIENCE);
        options.connect_timeout.get_or_insert(PATIENCE);
        // Confirmed means in the server's journal, unless the connection string says otherwise.
        options
            .write_concern
            .get_or_insert_with(|| WriteConcern::builder().journal(true).build());
        let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
        // Never the connection string: it may hold a password.
        let place = format!("mongodb://{}/{}", hosts.join(","), config.database);
        let wrong = |error| fault(&place, &error);
        let client = Client::with_options(options).map_err(wrong)?;
        let database = client.database(&config.database);
        database
            .run_command(doc! {"ping": 1})
            .run()
            .map_err(wrong)?;
        let records = database.collection::<Document>(&config.collection);
        for (field, unique) in [
            ("msg_id", true),
            ("submitted", false),
            ("engine_uuid", false),
        ] {
            let options = IndexOptions::builder()
                .unique(unique.then_some(true))
                .build();
            let index = IndexModel::builder().keys(doc! {field: 1}).options(options);
            records.create_index(index.build()).run().map_err(wrong)?;
        }
        Ok(Self {
            database,
            reader: MongoReader { records, place },
            changes: Changes::default(),
            backlog_limit: config.backlog_limit,
            retention: config.retention,
            fault: None,
            refused: 0,
            known: HashSet::new(),
        })
    }

    /// While the server is at fault, what waits is bounded. Whether it has come back shows the next flush.
    fn room(&mut self) -> Result<(), StoreError> {
        match &self.fault {
            Some(fault) if self.changes.bytes() > self.backlog_limit => {
                self.refused += 1;
                Err(fault.clone())
            }
            _ => Ok(()),
        }
    }

    fn grown(&mut self) {
        if self.changes.is_batch() && self.fault.is_none() {
            // An error is found again, and told, by the next flush.
            let _ = self.flush();
        }
    }

    fn is_stored(&mut self, msg_id: &MsgId) -> bool {
        if self.known.contains(msg_id) {
            return true;
        }
        let found = self
            .reader
            .records
            .find_one(doc! {"msg_id": msg_id.as_str()});
        // Where the server cannot be asked, the change waits until it can be.
        let found = found.projection(doc! {"_id": 1}).run();
        let there = found.map_or(true, |found| found.is_some());
        if there {
            self.know(msg_id);
        }
        there
    }

    fn know(&mut self, msg_id: &MsgId) {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(msg_id.clone());
    }

    /// Writes the first `count` changes. On an error they wait for the next time.
    fn write_changes(&mut self, count: usize) -> Result<(), StoreError> {
        if count == 0 {
            return Ok(());
        }
        let outcome = self.write(count);
        let outcome = outcome.map_err(|error| self.reader.wrong(&error));
        self.fault = outcome.as_ref().err().cloned();
        self.refused += outcome?;
        self.changes.drop_first(count);
        Ok(())
    }

    /// Writes the first `count` changes; how many of them the server will never take.
    fn write(&self, count: usize) -> Result<u64, Error> {
        let mut refused = 0;
        let mut adds = Vec::new();
        let mut updates = Vec::new();
        for (msg_id, change) in self.changes.first(count) {
            match change {
                Change::Add(record) if codec::size(record) > MAX_RECORD => refused += 1,
                Change::Add(record) => adds.push(&**record),
                Change::Update(update) => updates.push((msg_id, &**update)),
            }
        }
        for piece in adds.chunks(PIECE) {
            refused += self.insert(piece)?;
        }
        for piece in updates.chunks(PIECE) {
            refused += self.update_piece(piece)?;
        }
        Ok(refused)
    }

    fn insert(&self, records: &[&TaskRecord]) -> Result<u64, Error> {
        let documents = records.iter().map(|record| codec::document(record));
        let Err(error) = self
            .reader
            .records
            .insert_many(documents)
            .ordered(false)
            .run()
        else {
            return Ok(0);
        };
        let ErrorKind::InsertMany(failures) = &*error.kind else {
            return Err(error);
        };
        let Some(failures) = &failures.write_errors else {
            return Err(error);
        };
        let mut refused = 0;
        for failure in failures {
            match records.get(failure.index) {
                Some(record) if failure.code == DUPLICATE => self.merge(record)?,
                _ => refused += 1,
            }
        }
        Ok(refused)
    }

    /// Puts a record in the place of an earlier one.
    fn merge(&self, record: &TaskRecord) -> Result<(), Error> {
        let filter = doc! {"msg_id": record.msg_id.as_str()};
        let mut merged = record.clone();
        if let Some(earlier) = self.reader.records.find_one(filter.clone()).run()? {
            let mut earlier = codec::record(&earlier, KeySet::ALL);
            // Written before, and not confirmed: the output is the same.
            if earlier.stdout == merged.stdout {
                earlier.stdout.clear();
            }
            if earlier.stderr == merged.stderr {
                earlier.stderr.clear();
            }
            merged.fill_from(earlier);
        }
        let document = codec::document(&merged);
        self.reader
            .records
            .replace_one(filter, document)
            .upsert(true)
            .run()?;
        Ok(())
    }

    fn update_piece(&self, updates: &[(&MsgId, &RecordUpdate)]) -> Result<u64, Error> {
        let mut statements = Vec::new();
        for (msg_id, update) in updates {
            let filter = doc! {"msg_id": msg_id.as_str()};
            let mut set = codec::changes(update);
            if !(update.stdout.is_empty() && update.stderr.is_empty()) {
                let found = self.reader.records.find_one(filter.clone());
                let found = found.projection(doc! {"stdout": 1, "stderr": 1}).run()?;
                let found = found.unwrap_or_default();
                for (name, more) in [("stdout", &update.stdout), ("stderr", &update.stderr)] {
                    let before = found.get_str(name).unwrap_or_default();
                    set.insert(name, format!("{before}{more}"));
                }
            }
            if !set.is_empty() {
                statements.push(doc! {"q": filter, "u": {"$set": set}});
            }
        }
        let (commands, mut refused) = commands(statements);
        for statements in commands {
            refused += self.run_updates(statements)?;
        }
        Ok(refused)
    }

    /// How many of them the server does not take.
    fn run_updates(&self, statements: Vec<Document>) -> Result<u64, Error> {
        let name = self.reader.records.name();
        let mut command = doc! {"update": name, "updates": statements, "ordered": false};
        // A command of one's own does not inherit it.
        if let Some(concern) = self.reader.records.write_concern() {
            command.insert("writeConcern", serialize_to_bson(concern)?);
        }
        let reply = self.database.run_command(command).run()?;
        let failures = reply.get_array("writeErrors").map_or(0, Vec::len);
        Ok(failures as u64)
    }
}

/// Statements in groups of which each fits into a command, in order; and how many fit into none.
fn commands(statements: Vec<Document>) -> (Vec<Vec<Document>>, u64) {
    let (mut commands, mut refused) = (Vec::<Vec<Document>>::new(), 0);
    let mut room = 0;
    for statement in statements {
        let weight = codec::weight(&statement);
        if weight > MAX_COMMAND {
            refused += 1;
            continue;
        }
        match commands.last_mut().filter(|_| weight <= room) {
            Some(command) => command.push(statement),
            None => {
                commands.push(vec![statement]);
                room = MAX_COMMAND;
            }
        }
        room -= weight;
    }
    (commands, refused)
}

/// Looks for records; what has been written, and nothing else.
#[derive(Clone, Debug)]
struct MongoReader {
    records: Collection<Document>,
    place: String,
}

impl MongoReader {
    fn wrong(&self, error: &Error) -> StoreError {
        fault(&self.place, error)
    }

    fn select(
        &self,
        query: &Query,
        keys: KeySet,
        each: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let filter = Filter::of(query);
        let loaded = if filter.exact {
            keys
        } else {
            keys.union(query.keys())
        };
        let cursor = self
            .records
            .find(filter.document)
            .projection(codec::projection(loaded))
            .sort(doc! {"_id": 1})
            .allow_disk_use(true)
            .run()?;
        for document in cursor {
            let record = codec::record(&document?, loaded);
            if !filter.exact && !query.matches(&record) {
                continue;
            }
            if each(record.project(keys)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl RecordReader for MongoReader {
    fn find(
        &mut self,
        query: &Query,
        keys: KeySet,
        each: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.select(query, keys, each)
            .map_err(|error| self.wrong(&error))
    }

    fn history(&mut self) -> Result<Vec<MsgId>, StoreError> {
        let read = || -> Result<Vec<MsgId>, Error> {
            let found = self.records.find(doc! {"submitted": {"$ne": null}});
            let cursor = found
                .projection(doc! {"msg_id": 1})
                .sort(doc! {"submitted": 1, "_id": 1})
                .allow_disk_use(true)
                .run()?;
            cursor
                .map(|document| Ok(MsgId::from(document?.get_str("msg_id").unwrap_or_default())))
                .collect()
        };
        read().map_err(|error| self.wrong(&error))
    }
}

impl RecordReader for MongoStore {
    fn find(
        &mut self,
        query: &Query,
        keys: KeySet,
        each: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.flush()?;
        self.reader.find(query, keys, each)
    }

    fn history(&mut self) -> Result<Vec<MsgId>, StoreError> {
        self.flush()?;
        self.reader.history()
    }
}

impl TaskStore for MongoStore {
    fn add(&mut self, record: TaskRecord) -> Result<(), StoreError> {
        self.room()?;
        self.know(&record.msg_id);
        self.changes.add(record);
        self.grown();
        Ok(())
    }

    fn update(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<bool, StoreError> {
        if !self.changes.contains(msg_id) && !self.is_stored(msg_id) {
            return Ok(false);
        }
        self.change(msg_id, update)?;
        Ok(true)
    }

    fn change(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<(), StoreError> {
        self.room()?;
        self.changes.update(msg_id, update);
        self.grown();
        Ok(())
    }

    fn remove(&mut self, query: &Query) -> Result<u64, StoreError> {
        self.flush()?;
        self.known.clear();
        let delete = |filter: Document| {
            let deleted = self.reader.records.delete_many(filter).run();
            let deleted = deleted.map_err(|error| self.reader.wrong(&error))?;
            Ok(deleted.deleted_count)
        };
        let filter = Filter::of(query);
        if filter.exact {
            return delete(filter.document);
        }
        let mut ids = Vec::new();
        let each = &mut |record: TaskRecord| {
            ids.push(Bson::from(record.msg_id.as_str()));
            ControlFlow::Continue(())
        };
        self.reader
            .select(query, KeySet::EMPTY.with(Key::MsgId), each)
            .map_err(|error| self.reader.wrong(&error))?;
        let mut removed = 0;
        for piece in ids.chunks(10_000) {
            removed += delete(doc! {"msg_id": {"$in": piece}})?;
        }
        Ok(removed)
    }

    fn reader(&self) -> Result<Option<Box<dyn RecordReader>>, StoreError> {
        Ok(Some(Box::new(self.reader.clone())))
    }

    fn place(&self) -> String {
        format!(
            "{}, collection {}",
            self.reader.place,
            self.reader.records.name()
        )
    }

    fn stats(&mut self) -> Result<StoreStats, StoreError> {
        self.flush()?;
        let count = self.reader.records.count_documents(doc! {}).run();
        Ok(StoreStats {
            records: count.map_err(|error| self.reader.wrong(&error))?,
            bytes: self
                .document_bytes()
                .map_err(|error| self.reader.wrong(&error))?,
        })
    }

    fn backlog(&self) -> Backlog {
        Backlog {
            records: self.changes.len(),
            bytes: self.changes.bytes(),
            refused: self.refused,
        }
    }

    fn maintain(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        self.flush()?;
        let dropped = self.retain(now);
        dropped.map_err(|error| self.reader.wrong(&error))
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.write_changes(self.changes.len())
    }

    fn flush_due(&mut self) -> Result<(), StoreError> {
        let due = self.changes.due();
        self.write_changes(due)
    }
}

/// What the driver's error means to the user.
fn fault(place: &str, error: &Error) -> StoreError {
    let fault = match &*error.kind {
        ErrorKind::ServerSelection { .. }
        | ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::InvalidArgument { .. } => Fault::Unreachable,
        _ => Fault::Refused,
    };
    StoreError::Fault {
        place: place.to_owned(),
        fault,
        detail: error.to_string(),
    }
}
