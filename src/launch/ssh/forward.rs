//! A process of ssh that leads ports of this machine elsewhere, and is started again when it ends.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::os::ProcessRef;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// It ends when this is dropped.
pub(super) struct Forward {
    argv: Vec<OsString>,
    ssh: Child,
}

impl Forward {
    /// Runs `argv`, which has to write a line when all ports are led there; resolves then.
    ///
    /// # Errors
    /// In words: what ssh has said, or how it ended.
    pub(super) async fn open(argv: Vec<OsString>) -> Result<Self, String> {
        let ssh = run(&argv).await?;
        Ok(Self { argv, ssh })
    }

    pub(super) fn process(&self) -> ProcessRef {
        let pid = self.ssh.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.unwrap_or_default();
        ProcessRef::of(pid).unwrap_or_else(|| ProcessRef::gone(pid))
    }

    /// Resolves when it has broken and been opened again. `way` is said in the log: "to …", "through …".
    pub(super) async fn mended(&mut self, way: &str) {
        let ended = self.ssh.wait().await;
        let why = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::warn!("the tunnel {way} has ended ({why})");
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            match run(&self.argv).await {
                Ok(ssh) => {
                    self.ssh = ssh;
                    tracing::info!("the tunnel {way} is open again");
                    return;
                }
                Err(why) => tracing::warn!("the tunnel {way} is not open: {why}"),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

async fn run(argv: &[OsString]) -> Result<Child, String> {
    let mut command = Command::new(&argv[0]);
    command
        .args(&argv[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // SAFETY: between fork and exec only system calls are made, which may be.
    unsafe { command.pre_exec(|| leave_terminal().map_err(io::Error::from)) };
    let mut ssh = command
        .spawn()
        .map_err(|error| format!("{}: {error}", argv[0].to_string_lossy()))?;
    let output = ssh.stdout.take().expect("it was asked for");
    let mut errors = BufReader::new(ssh.stderr.take().expect("it was asked for")).lines();
    if let Ok(Some(_)) = BufReader::new(output).lines().next_line().await {
        tokio::spawn(async move {
            while let Ok(Some(line)) = errors.next_line().await {
                tracing::debug!("ssh of the tunnel: {line}");
            }
        });
        return Ok(ssh);
    }
    let mut said = Vec::new();
    while let Ok(Some(line)) = errors.next_line().await {
        said.push(line);
    }
    if said.is_empty() {
        let status = ssh.wait().await.map_err(|error| error.to_string())?;
        said.push(format!("{} ended with {status}", argv[0].to_string_lossy()));
    }
    Err(said.join("; "))
}

/// Ctrl-C is for those who use it; and however they end, it does too.
fn leave_terminal() -> nix::Result<()> {
    nix::unistd::setsid()?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Vec<OsString> {
        ["sh", "-c", line].map(OsString::from).to_vec()
    }

    #[tokio::test]
    async fn it_is_open_when_it_says_so_and_is_made_again() {
        let mut forward = Forward::open(shell("echo open; exec sleep 1000"))
            .await
            .unwrap();
        let first = forward.process();
        first.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        forward.mended("to nowhere").await;
        assert_ne!(forward.process(), first);
    }

    #[tokio::test]
    async fn what_it_says_is_why_it_did_not_open() {
        let why = |line| async move { Forward::open(shell(line)).await.err().unwrap() };
        assert_eq!(why("echo no way >&2; exit 1").await, "no way");
        assert_eq!(why("exit 3").await, "sh ended with exit status: 3");
        let missing = Forward::open(vec!["/no/such/ssh".into()]).await;
        assert!(missing.err().unwrap().starts_with("/no/such/ssh: "));
    }
}
