//! The store that stores nothing (the original's `NoDB`): recording costs nothing, every look at a record fails.

use std::ops::ControlFlow;

use super::query::Query;
use super::record::{KeySet, RecordUpdate, TaskRecord};
use super::store::{RecordReader, StoreError, StoreStats, TaskStore};
use crate::protocol::MsgId;

#[derive(Clone, Copy, Debug, Default)]
pub struct NoStore;

impl RecordReader for NoStore {
    fn find(
        &mut self,
        _query: &Query,
        _keys: KeySet,
        _each: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        Err(StoreError::NoData)
    }

    fn history(&mut self) -> Result<Vec<MsgId>, StoreError> {
        Err(StoreError::NoData)
    }
}

impl TaskStore for NoStore {
    fn add(&mut self, _record: TaskRecord) -> Result<(), StoreError> {
        Ok(())
    }

    fn update(&mut self, _msg_id: &MsgId, _update: RecordUpdate) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// There is nothing to drop, and the original does not mind.
    fn remove(&mut self, _query: &Query) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn place(&self) -> String {
        "nowhere".to_owned()
    }

    fn stats(&mut self) -> Result<StoreStats, StoreError> {
        Ok(StoreStats::default())
    }

    fn keeps_records(&self) -> bool {
        false
    }
}
