//! What can be seen of a controller at work: figures, and the last tasks in detail. Pure: what happened goes in with its
//! time, and pages, metrics and terminals read what has become of it.
//!
//! Each scheduler's thread has a [`Watch`]. It counts, and follows single tasks as long as they are not too many; some
//! times a second it hands a [`Window`] over, in which all of that is gathered. So a task costs its scheduler some
//! additions, and nobody is woken for it. The [`Board`] puts the windows together.
//!
//! Everything is bounded: the figures by the number of engines, the rest by the limits that stand at each ring and map.

mod board;
mod clients;
mod engines;
mod function;
mod histogram;
mod history;
mod metrics;
mod pickle;
mod stream;
mod watch;
mod window;

pub use board::{Board, STREAM, Totals};
pub use clients::Progress;
pub use engines::{EngineRow, Phase, Usage};
pub use function::{error_of, name_of_request};
pub use histogram::Histogram;
pub use history::{Host, Sample};
pub use metrics::render as render_metrics;
pub use stream::{Entry, Status, Stream};
pub use watch::{Parts, Watch};
pub use window::{Channel, Load, Look, Output, Step, Tally, Waiting, Window};

#[cfg(test)]
mod tests;
