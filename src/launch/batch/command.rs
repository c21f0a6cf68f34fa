//! Runs a batch system's commands.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::status::Answer;

#[derive(Debug, Error)]
pub enum CommandError {
    #[error(
        "there is no command {program:?} on PATH: is this a machine from which jobs are submitted? The launcher's \
         submit_command, delete_command and status_command name other ones"
    )]
    Missing { program: String },
    #[error("{program}: {source}")]
    Failed { program: String, source: io::Error },
    #[error("{program} did not end within {seconds} s")]
    TimedOut { program: String, seconds: u64 },
}

/// Busy servers take their time, but not for ever.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a command to its end.
pub(super) async fn run(
    argv: &[String],
    environment: &[(OsString, OsString)],
    input: Option<&str>,
) -> Result<Answer, CommandError> {
    let program = argv.first().cloned().unwrap_or_default();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => CommandError::Missing {
            program: program.clone(),
        },
        _ => CommandError::Failed {
            program: program.clone(),
            source,
        },
    };
    tracing::debug!("running {argv:?}");
    let mut child = Command::new(&program)
        .args(&argv[1..])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let whole = async {
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            // One that does not read it says why.
            let _ = pipe.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(TIMEOUT, whole)
        .await
        .map_err(|_| CommandError::TimedOut {
            program: program.clone(),
            seconds: TIMEOUT.as_secs(),
        })?
        .map_err(failed)?;
    let answer = Answer {
        succeeded: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    tracing::debug!("{program} said {answer:?}");
    Ok(answer)
}
