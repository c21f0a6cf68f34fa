//! `ipcluster`: one executable that does what IPython.parallel's `ipcluster`, `ipcontroller` and `ipengine` do, and
//! speaks their wire protocol. This page is the architecture.
//!
//! # What runs
//!
//! Everything that is not user code runs in Rust: the controller (hub, schedulers, heartbeats, task database), the
//! engines' network side and their supervision, the launchers, the command line. User code runs in the user's own
//! Python, in kernel processes that an engine supervises. Called as `ipcontroller` or `ipengine`, the executable
//! behaves as that subcommand.
//!
//! # Rooms, and who may import whom
//!
//! Imports point down only; `tests/rust/layers.rs` reads the sources and holds it so. **\[p\]** = pure: no sockets,
//! files, clocks, threads, processes or randomness; ids, times and seeds come in as arguments.
//!
//! | room | what it holds |
//! |---|---|
//! | [`cli`] | parse, dispatch, map errors to exit codes; one file per verb |
//! | [`controller`] | the threads and sockets of a controller |
//! | [`engine`] | an engine's sockets, its kernel process, its queue of requests |
//! | [`launch`] | starting, watching and stopping the processes of a cluster |
//! | [`hubclient`] | asking a controller's hub, and hearing of its engines |
//! | [`hub`] \[p\] | registry of engines, answers to queries |
//! | [`scheduler`] \[p\] | tasks, dependencies, policies; direct requests; broadcast fan-out |
//! | [`heartbeat`] \[p\] | who answers pings, who has stopped |
//! | [`taskdb`] | task records, queries, the stores that keep them |
//! | [`profile`] | profile folders, connection files, cluster files, layered settings |
//! | [`transport`] | the only room that names ZeroMQ: frames, sockets, polling, mailboxes |
//! | [`os`] | processes, private files, limits, logs of this machine |
//! | [`protocol`] \[p\] | frames, signatures, headers, ids; never panics on a peer's input |
//!
//! A state machine is a struct with one method `on_<event>(&mut self, now, …, &mut Vec<Action>)` for each event and a
//! `next_deadline()`. Actions are data; one reactor per thread carries them out. Tests drive the same types with
//! invented times.

pub mod cli;
pub mod controller;
pub mod engine;
pub mod heartbeat;
pub mod hub;
pub mod hubclient;
pub mod launch;
pub mod os;
pub mod profile;
pub mod protocol;
pub mod scheduler;
pub mod taskdb;
pub mod transport;
