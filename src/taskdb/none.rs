//! The store that stores nothing (the original's `NoDB`): recording costs nothing, every look at a record fails.

use std::ops::ControlFlow;

use super::query::Query;
use super::record::{KeySet, RecordUpdate, TaskRecord};
use super::store::{StoreError, StoreStats, TaskStore};
use crate::protocol::MsgId;

#[derive(Clone, Copy, Debug, Default)]
pub struct NoStore;

impl TaskStore for NoStore {
    fn add(&mut self, _record: TaskRecord) -> Result<(), StoreError> {
        Ok(())
    }

    fn update(&mut self, _msg_id: &MsgId, _update: RecordUpdate) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn get(&mut self, _msg_id: &str) -> Result<Option<TaskRecord>, StoreError> {
        Err(StoreError::NoData)
    }

    fn find(
        &mut self,
        _query: &Query,
        _keys: KeySet,
        _each: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        Err(StoreError::NoData)
    }

    /// There is nothing to drop, and the original does not mind.
    fn remove(&mut self, _query: &Query) -> Result<u64, StoreError> {
        Ok(0)
    }

    fn history(&mut self) -> Result<Vec<MsgId>, StoreError> {
        Err(StoreError::NoData)
    }

    fn stats(&mut self) -> Result<StoreStats, StoreError> {
        Ok(StoreStats::default())
    }

    fn keeps_records(&self) -> bool {
        false
    }
}
