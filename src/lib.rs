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
//! # The processes of a cluster
//!
//! ```text
//! ipcluster start            the supervisor: starts the others, says what happens, ends them in order
//! |- ipcluster controller    hub, schedulers, heartbeats: one thread each
//! `- ipcluster engine -n N   N engines: a thread each, registration, heartbeats, queues
//!    `- python               the fork server, which has imported everything
//!       `- python            N kernels: the user's code
//! ```
//!
//! Engines and controller may be elsewhere: on other machines over ssh, where standard input and output stand for the pipes,
//! and connection files travel through them in either direction; under mpiexec; or as a job of a batch system, which the
//! supervisor submits, looks at and cancels. There a controller is ready when its connection files are there.
//!
//! The supervisor holds one end of a pipe to each child (its lifeline): however it dies, they notice and end; through
//! another pipe they tell what becomes of them. Kernels die with their engine. The controller's end is the cluster's
//! end; engines that die are started again, a few times. With `--daemonize` a second process of the same command, the
//! front, waits until the engines are registered. Other commands ask the supervisor through a socket in `pid/` (to start
//! again), and the hub and engines by messages (how they are, to end). With `--min` and `--max` it also looks at the hub's
//! queue and starts and ends sets of engines. What runs is written into `security/cluster-[ID].json`, as
//! ipyparallel's own programs read and write it, and with start times into `pid/`.
//!
//! # Rooms, and who may import whom
//!
//! Imports point down only; `tests/rust/layers.rs` reads the sources and holds it so. **\[p\]** = pure: no sockets,
//! files, clocks, threads, processes or randomness; ids, times and seeds come in as arguments.
//!
//! | room | what it holds |
//! |---|---|
//! | [`cli`] | parse, dispatch, map errors to exit codes; one file per verb |
//! | [`web`] | the status page and the metrics, and asking for them |
//! | [`controller`] | the threads and sockets of a controller |
//! | [`engine`] | an engine's sockets, its kernel process, its queue of requests |
//! | [`launch`] | starting, watching and stopping the processes of a cluster |
//! | [`hubclient`] | asking a controller's hub, and hearing of its engines |
//! | [`hub`] \[p\] | registry of engines, answers to queries |
//! | [`observe`] \[p\] | figures and the last tasks, put together for those who look |
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
//!
//! # Threads and processes
//!
//! A controller is one process; [`controller`] lists its threads. Each owns its sockets and one state machine, receives
//! in bursts until nothing is left, and only then polls. They talk through mailboxes of typed messages: there is no
//! monitor socket, and no lock that two of them want for longer than it takes to append to a list.
//!
//! An engine process runs any number of engines, a thread each, one that echoes heartbeats for all of them, and, if they
//! are several, one that takes broadcasts for all of them. Their
//! kernels are forked from one Python process that has imported everything; each is connected to its engine by a socket
//! pair with length-prefixed frames. Kernels end with their engine, engines with the process that started them: a pipe
//! whose other end closes tells so, however that other process ended.
//!
//! `ipcluster start` supervises one controller and one engine process.
//!
//! # Decisions that are worth knowing
//!
//! - **The schedulers know the queues, and the hub asks them** (`queue_status`, result status). So the hub is never
//!   behind, and without a database nothing is told to anybody per task.
//! - **To be seen costs next to nothing, and only when somebody asked for it** (`--dashboard`): schedulers count and
//!   gather, and hand that over some times a second; what is too much to be followed is counted and not followed.
//! - **Records are a thread's own affair** (the recorder). Schedulers hand it what happened in batches; when storage does
//!   not keep up, new requests wait in their sockets and queued tasks in the scheduler, while replies, control and
//!   heartbeats go on. What takes long to look up is asked of readers beside the recorder.
//! - **What waits is packed**: a queued task is one allocation with its small frames and references to the large ones.
//! - **An engine counts as registered when its kernel runs and all of its connections are up**: it begins to answer
//!   heartbeats then, and a ping goes out as soon as it listens. Clients learn of engines in ascending order of ids.
//! - **A closed connection is a hint**: an engine on this host that does not come back within 0.6 s is gone; one that is
//!   slow or stopped keeps its connection and has until the limit of missed heartbeats.
//! - **Broadcasts are a flat fan-out** that shares buffers by reference count, in place of a tree of schedulers. To a
//!   process that runs several engines a broadcast goes once; they share what has come.
//! - **Peers are strangers until they have shown otherwise, and have limits then**: a few handshakes in each turn of a
//!   thread, a turn for each connection, a limit for what is read of a message and for what waits to be read; `SECURITY.md`
//!   lists them.
//! - **What an engine is sent goes to it in order**, also when one of its connections is down for a moment.
//!
//! [`differences`] lists where the behaviour differs from ipyparallel's on purpose.

pub mod cli;
pub mod controller;
#[doc = include_str!("differences.md")]
pub mod differences {}
pub mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod heartbeat;
pub mod hub;
pub mod hubclient;
pub mod launch;
pub mod observe;
pub mod os;
pub mod profile;
pub mod protocol;
pub mod scheduler;
pub mod taskdb;
pub mod transport;
pub mod web;
