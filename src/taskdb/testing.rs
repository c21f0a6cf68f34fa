//! Records for the tests of stores.

use bytes::Bytes;

use super::record::TaskRecord;
use crate::protocol::Timestamp;

/// The `n`th record: submitted `n` seconds after the first.
pub(crate) fn record(n: i64) -> TaskRecord {
    let mut record = TaskRecord::new(format!("session_1_{n}").into());
    record.submitted = Some(Timestamp::from_micros(
        1_700_000_000_000_000 + n * 1_000_000,
    ));
    record
}

pub(crate) fn with_buffer(n: i64, size: usize) -> TaskRecord {
    let mut record = record(n);
    record.buffers = Some(vec![Bytes::from(vec![7; size])]);
    record
}
