//! What every store of task records does, and its errors.

use std::ops::ControlFlow;

use thiserror::Error;

use super::query::Query;
use super::record::{KeySet, RecordUpdate, TaskRecord};
use crate::protocol::{MsgId, RemoteError, Timestamp};

/// Finds task records. Owned by one thread.
///
/// Every reader gives the same answers: those of [`Query::matches`], in the order in which records were added.
pub trait RecordReader: Send {
    /// Hands over the fields `keys` (and the msg_id) of each matching record, one at a time, until `each` breaks off.
    fn find(
        &mut self,
        query: &Query,
        keys: KeySet,
        each: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// The ids of all records whose time of submission is known, earliest first.
    fn history(&mut self) -> Result<Vec<MsgId>, StoreError>;

    /// A whole record with its buffers.
    fn get(&mut self, msg_id: &str) -> Result<Option<TaskRecord>, StoreError> {
        let mut found = None;
        self.find(&Query::msg_ids([msg_id]), KeySet::ALL, &mut |record| {
            found = Some(record);
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
}

/// Keeps task records. Owned by one thread.
pub trait TaskStore: RecordReader {
    /// Adds a record. When there is one of that msg_id already, the new one takes its place and keeps what only the
    /// earlier one has ([`TaskRecord::fill_from`]).
    fn add(&mut self, record: TaskRecord) -> Result<(), StoreError>;

    /// Changes a record; `false` when there is none of that msg_id.
    fn update(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<bool, StoreError>;

    /// Changes a record that was added and not removed since: nothing is looked up. If it is not there all the same,
    /// nothing is changed.
    fn change(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<(), StoreError> {
        self.update(msg_id, update).map(drop)
    }

    /// Drops the matching records; how many they were.
    fn remove(&mut self, query: &Query) -> Result<u64, StoreError>;

    /// Another way to the records, for another thread: it sees what has been flushed, and holds up no writing however
    /// long it looks. [`None`] where there is no such way.
    fn reader(&self) -> Result<Option<Box<dyn RecordReader>>, StoreError> {
        Ok(None)
    }

    /// Where the records are, in words for the user.
    fn place(&self) -> String;

    fn stats(&mut self) -> Result<StoreStats, StoreError>;

    /// What has been handed over and would be lost with the process.
    fn backlog(&self) -> Backlog {
        Backlog::default()
    }

    /// `false` for a store that forgets everything at once: nobody need bother to tell it.
    fn keeps_records(&self) -> bool {
        true
    }

    /// Makes everything that was handed over last as long as the store promises.
    fn flush(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// As [`flush`](Self::flush), for an owner that calls it again and again: requests that came since the last call and
    /// are unfinished may wait for the next, so that most are written once.
    fn flush_due(&mut self) -> Result<(), StoreError> {
        self.flush()
    }

    /// Applies limits of age, count and size, a bounded piece of the work at each call; how many records were
    /// dropped. To be called about once a second.
    fn maintain(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let _ = now;
        Ok(0)
    }

    /// Flushes and lets go of files and connections. The store is not used afterwards.
    fn close(&mut self) -> Result<(), StoreError> {
        self.flush()
    }
}

impl<S: RecordReader + ?Sized> RecordReader for Box<S> {
    fn find(
        &mut self,
        query: &Query,
        keys: KeySet,
        each: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        (**self).find(query, keys, each)
    }

    fn history(&mut self) -> Result<Vec<MsgId>, StoreError> {
        (**self).history()
    }

    fn get(&mut self, msg_id: &str) -> Result<Option<TaskRecord>, StoreError> {
        (**self).get(msg_id)
    }
}

impl<S: TaskStore + ?Sized> TaskStore for Box<S> {
    fn add(&mut self, record: TaskRecord) -> Result<(), StoreError> {
        (**self).add(record)
    }

    fn update(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<bool, StoreError> {
        (**self).update(msg_id, update)
    }

    fn change(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<(), StoreError> {
        (**self).change(msg_id, update)
    }

    fn remove(&mut self, query: &Query) -> Result<u64, StoreError> {
        (**self).remove(query)
    }

    fn reader(&self) -> Result<Option<Box<dyn RecordReader>>, StoreError> {
        (**self).reader()
    }

    fn place(&self) -> String {
        (**self).place()
    }

    fn stats(&mut self) -> Result<StoreStats, StoreError> {
        (**self).stats()
    }

    fn backlog(&self) -> Backlog {
        (**self).backlog()
    }

    fn keeps_records(&self) -> bool {
        (**self).keeps_records()
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        (**self).flush()
    }

    fn flush_due(&mut self) -> Result<(), StoreError> {
        (**self).flush_due()
    }

    fn maintain(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        (**self).maintain(now)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        (**self).close()
    }
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    pub records: u64,
    /// Of buffers in memory; of the file on a disk; 0 where the server alone knows.
    pub bytes: u64,
}

/// What waits to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    pub records: usize,
    pub bytes: u64,
    /// Changes that are lost: the database would not take them, ever, or there was no room for them to wait.
    pub refused: u64,
}

/// Why a store could not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The whole message of the documents; the original's `NoData` breaks off after the first sentence.
    #[error(
        "NoDB backend doesn't store any data. Start the Controller with a DB backend to enable resubmission / result persistence."
    )]
    NoData,
    #[error("{place}: {fault}: {detail}")]
    Fault {
        /// The file or the server.
        place: String,
        fault: Fault,
        detail: String,
    },
}

/// What is wrong with a store's file or server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("not a task database, or a damaged one; move it away or choose another filename")]
    Corrupt,
    #[error("made by another version; choose another table or filename")]
    OtherVersion,
    #[error("in use by another program")]
    Locked,
    #[error("cannot be written to")]
    ReadOnly,
    #[error("the disk is full")]
    DiskFull,
    #[error("cannot be opened or reached")]
    Unreachable,
    #[error("reading or writing it fails; its disk is at fault, or has become read-only")]
    Io,
    #[error("the database refused")]
    Refused,
}

impl Fault {
    /// What ends it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Corrupt => "move the file away: a controller that starts makes another one",
            Self::OtherVersion => "name another table or file in the settings",
            Self::Locked => "end the program that holds it: what waits is written then",
            Self::ReadOnly => "let its file and folder be written to: what waits is written then",
            Self::DiskFull => "free some of the disk: what waits is written then",
            Self::Unreachable => "bring its server or its folder back: what waits is written then",
            Self::Io => "look at its disk (`dmesg`): what waits is written when it works again",
            Self::Refused => "what it says of it tells why",
        }
    }
}

impl StoreError {
    /// What the user can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoData => "start the controller with a database",
            Self::Fault { fault, .. } => fault.remedy(),
        }
    }

    /// The error as a client receives it.
    pub fn to_remote(&self) -> RemoteError {
        let class = match self {
            Self::NoData => "KeyError",
            Self::Fault { .. } => "RuntimeError",
        };
        RemoteError::new(class, self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodb_says_its_whole_sentence() {
        let error = StoreError::NoData.to_remote();
        assert_eq!(error.ename, "KeyError");
        assert_eq!(
            error.evalue,
            "NoDB backend doesn't store any data. Start the Controller with a DB backend to enable resubmission / result persistence."
        );
    }
}
