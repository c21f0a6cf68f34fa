//! Engines and controllers on other machines, over ssh; and another `ipcluster` there that starts engines in its own way.
//!
//! One ssh runs for each set of engines, and one for the controller. Through it goes everything: the connection information
//! to the engines as the first line, that of a controller back, signals, what becomes of engines, and, on request, this
//! program and the controller's ports. What runs there ends when the connection does, so that nothing is left however this
//! side vanishes: engines miss their heartbeats when nobody closes it, a controller the empty lines that it is sent.
//!
//! | file | what it does |
//! |---|---|
//! | `hosts` \[p\] | settings of the machines |
//! | `commands` \[p\] | what ssh is called with |
//! | `forward` | an ssh that leads ports, and is kept |
//! | `ways` \[p\] | which ports of this machine lead where |
//! | `reach` | the way from here to a controller there |
//! | `tunnel` | the way of engines here to a controller behind a server |

pub mod commands;
mod forward;
pub mod hosts;
mod reach;
pub mod tunnel;
mod ways;

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use uuid::Uuid;

use super::channel::{Greeting, Order, line};
use super::child::{Logs, await_end, hear, keep};
use super::supervisor::Member;
use super::{Job, LaunchError, LaunchEvent, Launcher, Place, Started};
use crate::os::ProcessRef;
use crate::os::log::{RotatedFile, Rotation};
use crate::profile::connection::{ConnectionError, EngineFile};
use crate::protocol::ClusterId;
use commands::{Tunnel, command};
use hosts::{Host, Kind};

pub struct SshLauncher {
    hosts: Vec<Host>,
    logs: Logs,
    rotation: Rotation,
    events: UnboundedSender<LaunchEvent>,
    running: HashMap<Member, Remote>,
}

struct Remote {
    /// ssh itself.
    process: ProcessRef,
    /// Nothing when it was told to end.
    orders: Option<UnboundedSender<Order>>,
}

impl SshLauncher {
    pub fn new(
        hosts: Vec<Host>,
        log_folder: PathBuf,
        cluster_id: ClusterId,
        rotation: Rotation,
        events: UnboundedSender<LaunchEvent>,
    ) -> Self {
        Self {
            hosts,
            logs: Logs {
                folder: log_folder,
                cluster_id,
            },
            rotation,
            events,
            running: HashMap::new(),
        }
    }

    fn host(&self, job: &Job) -> &Host {
        // A controller has only one.
        let machine = self.hosts.get(job.machine.unwrap_or(0));
        machine.expect("what goes by ssh is started on one of the machines")
    }

    fn start_now(&mut self, member: Member, job: &Job) -> Result<Started, LaunchError> {
        let mut host = self.host(job).clone();
        host.engines = job.engines.unwrap_or(host.engines);
        let program = host.send_program.then(this_program).transpose()?;
        let size = program
            .as_ref()
            .and_then(|program| u64::try_from(program.len()).ok());
        let (connection, tunnels) = connection(&host, job)?;
        // Behind the program, its verb and the profile's folder, which are others there.
        let common: Vec<String> = job.argv.iter().map(|word| text(word)).collect();
        let argv = command(&host, &common, &tunnels, size);
        let log = self.logs.open(job.name)?;
        let mut child = match spawn(&argv) {
            Ok(child) => child,
            Err(error) => {
                log.discard();
                return Err(error);
            }
        };
        let stdin = child.stdin.take().expect("it was asked for");
        let stdout = child.stdout.take().expect("it was asked for");
        let stderr = child.stderr.take().expect("it was asked for");
        let process = await_end(child, member, &self.events);
        let (file, log) = log.settle(&process);
        keep(stderr, RotatedFile::new(file, log.clone(), self.rotation));
        let (orders, receiver) = mpsc::unbounded_channel();
        let greeting = greeting(&host, job, connection);
        tokio::spawn(speak(stdin, program, greeting, receiver, host.silence));
        let place = Place::Host {
            host: host.name.clone(),
            process: process.clone(),
        };
        match host.kind {
            Kind::Engines | Kind::Proxy => hear(stdout, member, &self.events),
            Kind::Controller => {
                tokio::spawn(reach::hear(stdout, host, member, self.events.clone()));
            }
        }
        let remote = Remote {
            process,
            orders: Some(orders),
        };
        self.running.insert(member, remote);
        Ok(Started { place, log })
    }
}

/// What is copied to other machines.
fn this_program() -> Result<Vec<u8>, LaunchError> {
    let program = std::env::current_exe().and_then(std::fs::read);
    program.map_err(|source| LaunchError::Program {
        program: "this program".into(),
        source,
    })
}

fn spawn(argv: &[String]) -> Result<Child, LaunchError> {
    let mut ssh = Command::new(&argv[0]);
    ssh.args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec only system calls are made, which may be.
    unsafe { ssh.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from)) };
    ssh.spawn().map_err(|source| LaunchError::Program {
        program: argv[0].clone().into(),
        source,
    })
}

/// The first line for the other side.
fn greeting(host: &Host, job: &Job, connection: String) -> String {
    let mut environment = host.environment.clone();
    let more = job.environment.iter();
    environment.extend(more.map(|(name, value)| (text(name), text(value))));
    line(&Greeting {
        connection,
        client: match &job.connection {
            Some(connection) if host.is_proxy() => connection.client_elsewhere.clone(),
            _ => String::new(),
        },
        environment,
        silence: host.silence.map(|silence| silence.as_secs_f64()),
    })
}

fn text(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

/// The connection information as that machine has to have it, and the tunnels that it takes.
fn connection(host: &Host, job: &Job) -> Result<(String, Vec<Tunnel>), LaunchError> {
    let Some(connection) = &job.connection else {
        return Ok((String::new(), Vec::new()));
    };
    if !host.tunnel {
        return Ok((connection.elsewhere.clone(), Vec::new()));
    }
    let content = &connection.here;
    let mut file = EngineFile::from_variable(content)
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
    let ports: BTreeSet<u16> = file.ports().collect();
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

/// So many empty lines are sent within the time of silence after which the other side gives this one up.
const SIGNS: u32 = 4;

/// Says everything that the other side is told, until nobody has anything to say any more.
async fn speak(
    mut stdin: ChildStdin,
    program: Option<Vec<u8>>,
    greeting: String,
    mut orders: UnboundedReceiver<Order>,
    silence: Option<Duration>,
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
    loop {
        let sign = async {
            match silence {
                Some(silence) => tokio::time::sleep(silence / SIGNS).await,
                None => std::future::pending().await,
            }
        };
        let said = tokio::select! {
            order = orders.recv() => match order {
                Some(order) => line(&order),
                None => return,
            },
            () = sign => "\n".to_owned(),
        };
        if stdin.write_all(said.as_bytes()).await.is_err() {
            return;
        }
    }
}

impl Launcher for SshLauncher {
    fn name(&self) -> &'static str {
        if self.hosts.first().is_some_and(Host::is_proxy) {
            "sshproxy"
        } else {
            "ssh"
        }
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
            Ok(Signal::SIGTERM) => {
                if let Some(orders) = remote.orders.take() {
                    let _ = orders.send(Order::Signal(Signal::SIGTERM));
                }
            }
            Ok(Signal::SIGKILL) => {
                remote.orders = None;
                if let Err(error) = remote.process.signal(Signal::SIGKILL) {
                    tracing::debug!("ssh to {member} got no SIGKILL: {error}");
                }
            }
            Ok(signal) => {
                if let Some(orders) = &remote.orders {
                    let _ = orders.send(Order::Signal(signal));
                }
            }
            Err(_) => {}
        }
    }
}
