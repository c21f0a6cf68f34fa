//! Kernels' processes: forked, spawned or of any Jupyter kernel; their signals and their ends.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

use super::EngineHost;
use crate::engine::config::{KernelProgram, StartMethod};
use crate::engine::jupyter::{Bridge, BridgeMail, InterruptMode, KernelSpec};
use crate::engine::kernel::link::{self, Link};
use crate::engine::kernel::messages::ExitStatus;
use crate::engine::kernel::pipes::OutputPipe;
use crate::engine::kernel::spawn;
use crate::engine::mail::{EngineMail, KernelIo, Killed, Rank};
use crate::engine::placement;
use crate::os::process::child_ended;
use crate::os::python::Python;
use crate::transport::{Context, mailbox};

impl EngineHost {
    pub(super) fn start_kernel(&mut self, rank: Rank) -> io::Result<()> {
        let (stdout, stdout_writer) = OutputPipe::new()?;
        let (stderr, stderr_writer) = OutputPipe::new()?;
        let config = self.config.clone();
        let count = config.count;
        let environment = placement::environment(&config.kernel.environment, rank, count);
        let processors = config
            .pin
            .then(|| placement::processors(&self.processors, rank, count));
        let output = (stdout_writer, stderr_writer);
        let surroundings = spawn::Surroundings {
            environment,
            processors,
            open_files: config.kernel.open_files,
        };
        let link = match &config.kernel.program {
            KernelProgram::Own(own) if own.start == StartMethod::Spawn => {
                let (child, link) = spawn::start(&own.python, "spawn", output, surroundings)?;
                self.watch(rank, child);
                link
            }
            KernelProgram::Own(_) => {
                let Some(server) = &mut self.fork_server else {
                    return Err(io::Error::other(
                        "the process that kernels are forked from has ended",
                    ));
                };
                let (link, theirs) = link::pair()?;
                let (stdout, stderr) = output;
                server.fork(rank, surroundings, [theirs, stdout, stderr])?;
                link
            }
            KernelProgram::Jupyter { spec, python } => {
                self.start_jupyter(rank, spec, python.as_ref(), output, surroundings)?
            }
        };
        self.tell(
            rank,
            EngineMail::KernelStarted(KernelIo {
                link,
                stdout,
                stderr,
            }),
        );
        Ok(())
    }

    /// Starts a Jupyter kernel, and a thread between it and its engine.
    fn start_jupyter(
        &mut self,
        rank: Rank,
        spec: &KernelSpec,
        python: Option<&Python>,
        output: (OwnedFd, OwnedFd),
        mut surroundings: spawn::Surroundings,
    ) -> io::Result<Link> {
        let bridge = Bridge::new(&Context::new(), spec)?;
        let (link, theirs) = link::pair_within()?;
        let argv = spec.command(
            bridge.connection_file(),
            python.map(|python| python.path.as_path()),
        );
        let mut command = tokio::process::Command::new(&argv[0]);
        command
            .args(&argv[1..])
            // ipykernel ends with the process that this names.
            .env("JPY_PARENT_PID", std::process::id().to_string());
        // What the user sets for all kernels goes before what the kernel brings.
        for (name, value) in spec.environment(|name| std::env::var(name).ok()) {
            surroundings
                .environment
                .entry(name)
                .or_insert_with(|| value.into());
        }
        let child = spawn::start_command(command, output, surroundings, None)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", argv[0])))?;
        self.watch(rank, child);
        let (mail, mailbox) = mailbox()?;
        let name = spec.name.clone();
        let thread = std::thread::Builder::new()
            .name(format!("kernel-{rank}"))
            .spawn(move || bridge.run(&name, theirs, mailbox))?;
        self.threads.push(thread);
        if let Some(engine) = self.engines.get_mut(&rank)
            && spec.interrupt_mode == InterruptMode::Message
        {
            engine.interrupts = Some(mail);
        }
        Ok(link)
    }

    /// Waits for a kernel's end.
    fn watch(&mut self, rank: Rank, mut child: Child) {
        let pid = spawn::pid_of(&child);
        if let Some(engine) = self.engines.get_mut(&rank) {
            engine.pid = pid.map(Pid::as_raw);
        }
        self.spawned.spawn(async move {
            if let Some(pid) = pid {
                child_ended(pid).await;
                // What user code started and left.
                let _ = killpg(pid, Signal::SIGKILL);
            }
            (rank, child.wait().await)
        });
    }

    pub(super) fn on_kernel_exit(&mut self, rank: Rank, status: Option<ExitStatus>) {
        let Some(engine) = self.engines.get_mut(&rank) else {
            return;
        };
        engine.pid = None;
        let why = match engine.killed.take() {
            Some(why) => Some(Killed::OverLimit(why)),
            None if status == Some(ExitStatus::Signal(Signal::SIGKILL as i32))
                && self.oom.went_up() =>
            {
                Some(Killed::OutOfMemory)
            }
            None => None,
        };
        engine.mail.send(EngineMail::KernelExited { status, why });
    }

    pub(super) fn signal(&mut self, rank: Rank, signal: i32, group: bool) {
        let Some(engine) = self.engines.get(&rank) else {
            return;
        };
        if signal == Signal::SIGINT as i32
            && let Some(kernel) = &engine.interrupts
        {
            kernel.send(BridgeMail::Interrupt);
            return;
        }
        let Some(pid) = engine.pid else { return };
        if let Some(server) = &mut self.fork_server {
            if let Err(error) = server.signal(pid, signal, group) {
                tracing::warn!("a kernel could not be signalled: {error}");
            }
            return;
        }
        let Ok(signal) = Signal::try_from(signal) else {
            return;
        };
        let sent = if group {
            killpg(Pid::from_raw(pid), signal)
        } else {
            kill(Pid::from_raw(pid), signal)
        };
        if let Err(error) = sent {
            tracing::debug!("a kernel could not be signalled: {error}");
        }
    }
}
