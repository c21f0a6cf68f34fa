//! Kernels of any language: an installed Jupyter kernel in place of this project's own.
//!
//! To its engine such a kernel looks like the others: a thread, the [`bridge`], is at the other end of the link, and
//! speaks Jupyter's messaging protocol with the kernel's process ("Messaging in Jupyter", 5.3). What it knows of the
//! conversation is pure ([`conversation`]); [`spec`] finds what is installed.
//!
//! Code is executed; functions cannot be applied, since they are Python's.

mod bridge;
mod conversation;
mod spec;

pub(super) use bridge::{Bridge, BridgeMail};
pub(super) use spec::InterruptMode;
pub use spec::{KernelPlaces, KernelSpec, SpecError};
