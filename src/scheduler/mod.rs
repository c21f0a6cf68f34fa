//! Decides which engine gets which request. Pure: ids, times and seeds come in as arguments, actions go out as data.

pub mod scheme;
pub mod task;

pub use scheme::Scheme;
pub use task::{
    EngineLoad, JobKey, Outcome, TaskAction, TaskConfig, TaskError, TaskScheduler, TaskSnapshot,
    TaskStatus, Verdict,
};
