//! The task database: what the hub remembers of every request, and how it is asked for it.
//!
//! * [`record`]: a task record, its field names, a change to it.
//! * [`query`] \[p\]: MongoDB-like queries, parsed and matched. [`query::Query::matches`] is the reference: every store
//!   gives the records that it would give.
//! * [`store`]: the traits of a store and of a reader, their errors.
//! * [`none`], [`memory`]: the stores that need no file and no server. [`sqlite`]: a file. `mongo`: a server; only with
//!   the feature `mongodb`.
//!
//! A store belongs to one thread. Its owner calls [`store::TaskStore::flush`] when it is idle, and at least as often as
//! the loss window that it promises.

mod changes;
pub mod memory;
#[cfg(feature = "mongodb")]
pub mod mongo;
pub mod none;
pub mod query;
pub mod record;
mod retention;
pub mod sqlite;
pub mod store;

#[cfg(test)]
mod testing;

pub use query::{Query, QueryError};
pub use record::{Key, KeySet, Queue, RecordUpdate, TaskRecord};
pub use retention::Retention;
pub use store::{RecordReader, StoreError, TaskStore};
