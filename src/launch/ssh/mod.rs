//! Engines on other machines, over ssh.
//!
//! One ssh runs for each machine. Through it goes everything: the connection information as the first line, signals, what
//! becomes of engines, and, on request, this program and the controller's ports. Engines end when the connection does, so
//! that nothing is left there however this side vanishes.

pub mod hosts;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use uuid::Uuid;

use super::channel::{Greeting, Order, line};
use super::child::{Logs, await_end, hear};
use super::supervisor::Member;
use super::{Job, LaunchError, LaunchEvent, Launcher, Place, Started};
use crate::os::ProcessRef;
use crate::profile::connection::{ConnectionError, EngineFile};
use crate::protocol::ClusterId;
use hosts::{Host, Tunnel, command};

pub struct SshLauncher {
    hosts: Vec<Host>,
    logs: Logs,
    events: UnboundedSender<LaunchEvent>,
    running: HashMap<Member, Remote>,
}

struct Remote {
    /// ssh itself.
    process: ProcessRef,
    /// Nothing when the engines were told to end.
    orders: Option<UnboundedSender<Order>>,
}

impl SshLauncher {
    pub fn new(
        hosts: Vec<Host>,
        log_folder: PathBuf,
        cluster_id: ClusterId,
        events: UnboundedSender<LaunchEvent>,
    ) -> Self {
        Self {
            hosts,
            logs: Logs {
                folder: log_folder,
                cluster_id,
            },
            events,
            running: HashMap::new(),
        }
    }

    fn host(&self, job: &Job) -> &Host {
        let machine = job.machine.and_then(|number| self.hosts.get(number));
        machine.expect("a set that goes by ssh is started on one of the machines")
    }

    fn start_now(&mut self, member: Member, job: &Job) -> Result<Started, LaunchError> {
        let mut host = self.host(job).clone();
        host.engines = job.engines.unwrap_or(host.engines);
        let program = if host.send_program {
            let path = std::env::current_exe();
            Some(
                path.and_then(std::fs::read)
                    .map_err(|source| LaunchError::Program {
                        program: "this program".into(),
                        source,
                    })?,
            )
        } else {
            None
        };
        let (connection, tunnels) = connection(&host, job)?;
        // Behind the program, its verb and the profile's folder, which are others there.
        let common: Vec<String> = job
            .argv
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let size = program
            .as_ref()
            .and_then(|program| u64::try_from(program.len()).ok());
        let argv = command(&host, &common, &tunnels, size);
        let log = self.logs.open(job.name)?;
        let failed = |source| LaunchError::Program {
            program: argv[0].clone().into(),
            source,
        };
        let mut ssh = Command::new(&argv[0]);
        ssh.args(&argv[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.file.try_clone().map_err(failed)?);
        // SAFETY: between fork and exec only system calls are made, which may be.
        unsafe { ssh.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from)) };
        let mut child = match ssh.spawn() {
            Ok(child) => child,
            Err(source) => {
                log.discard();
                return Err(failed(source));
            }
        };
        if let Some(stdout) = child.stdout.take() {
            hear(stdout, member, &self.events);
        }
        let stdin = child.stdin.take().expect("it was asked for");
        let (orders, receiver) = mpsc::unbounded_channel();
        let greeting = line(&Greeting {
            connection,
            environment: host.environment.clone(),
        });
        tokio::spawn(speak(stdin, program, greeting, receiver));
        let process = await_end(child, member, &self.events);
        let log = log.settle(&process);
        let remote = Remote {
            process: process.clone(),
            orders: Some(orders),
        };
        self.running.insert(member, remote);
        Ok(Started {
            place: Place::Host {
                host: host.name,
                process,
            },
            log,
        })
    }
}

/// The connection information as that machine has to have it, and the tunnels that it takes.
fn connection(host: &Host, job: &Job) -> Result<(String, Vec<Tunnel>), LaunchError> {
    let content = job.connection.clone().unwrap_or_default();
    if !host.tunnel {
        return Ok((content, Vec::new()));
    }
    let mut file = EngineFile::from_variable(&content)
        .map_err(|error: ConnectionError| LaunchError::Connection(error.to_string()))?
        .connectable();
    let Some(address) = file.interface.strip_prefix("tcp://").map(str::to_owned) else {
        return Err(LaunchError::Connection(format!(
            "the controller listens on {}, which ssh cannot lead to; without `tunnel`, engines of this machine reach it",
            file.interface
        )));
    };
    // A socket that only this user can open, under a name that nobody knows before.
    let base = format!("/tmp/ipcluster-{}", Uuid::new_v4().simple());
    let mut ports = file.broadcast.clone();
    ports.extend([
        file.registration,
        file.control,
        file.mux,
        file.task,
        file.iopub,
        file.hb_ping,
        file.hb_pong,
    ]);
    ports.sort_unstable();
    ports.dedup();
    let tunnels = ports
        .into_iter()
        .map(|port| Tunnel {
            to: format!("{address}:{port}"),
            socket: format!("{base}-{port}"),
        })
        .collect();
    file.interface = format!("ipc://{base}");
    Ok((file.to_variable(), tunnels))
}

/// Says everything that the other side is told, until nobody has anything to say any more.
async fn speak(
    mut stdin: ChildStdin,
    program: Option<Vec<u8>>,
    greeting: String,
    mut orders: UnboundedReceiver<Order>,
) {
    // A connection that is lost shows by its end.
    if let Some(program) = program
        && stdin.write_all(&program).await.is_err()
    {
        return;
    }
    if stdin.write_all(greeting.as_bytes()).await.is_err() {
        return;
    }
    while let Some(order) = orders.recv().await {
        if stdin.write_all(line(&order).as_bytes()).await.is_err() {
            return;
        }
    }
}

impl Launcher for SshLauncher {
    fn name(&self) -> &'static str {
        "ssh"
    }

    fn start(&mut self, member: Member, job: Job) {
        let event = match self.start_now(member, &job) {
            Ok(started) => LaunchEvent::Started(member, started),
            Err(error) => LaunchEvent::NotStarted(member, error),
        };
        let _ = self.events.send(event);
    }

    fn signal(&mut self, member: Member, signal: i32) {
        let Some(remote) = self.running.get_mut(&member) else {
            return;
        };
        match Signal::try_from(signal) {
            // The end of what is said is the request to end.
            Ok(Signal::SIGTERM) => remote.orders = None,
            Ok(Signal::SIGKILL) => {
                remote.orders = None;
                if let Err(error) = remote.process.signal(Signal::SIGKILL) {
                    tracing::debug!("ssh to {member} got no SIGKILL: {error}");
                }
            }
            Ok(_) => {
                if let Some(orders) = &remote.orders {
                    let _ = orders.send(Order::Signal(signal));
                }
            }
            Err(_) => {}
        }
    }
}
