//! Ending a cluster from outside.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::Serialize;
use thiserror::Error;

use super::batch;
use super::found::Found;
use super::lost::Lost;
use crate::os::process::{ProcessRef, SignalError, wait_until_gone};
use crate::os::session;
use crate::profile::cluster_file::JobRef;

/// How a stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// Nothing ran. Files that were left over are gone.
    Already,
    InOrder,
    /// In order, but the task database could not store everything.
    RecordsLost,
    /// Something did not end in time, and was killed.
    Killed,
}

#[derive(Debug, Error)]
pub enum StopError {
    #[error(
        "the cluster was started by ipyparallel's launcher {0:?}, not on this machine: stop it where it was started, with \
         ipyparallel's own ipcluster"
    )]
    Elsewhere(String),
    #[error(transparent)]
    Signal(#[from] SignalError),
    #[error("process {0} does not end, even when it is killed")]
    Immortal(ProcessRef),
    #[error("{0}")]
    Job(String),
}

/// A supervisor gives its processes four seconds unless it says otherwise, ipyparallel's launchers give five; then they
/// are killed.
const GRACE: Duration = Duration::from_secs(4);
const MARGIN: Duration = Duration::from_secs(2);
const GRACE_OF_THEIRS: Duration = Duration::from_secs(5);

/// Even a killed process takes a moment to go.
const LAST: Duration = Duration::from_secs(5);

/// Stops a cluster, and waits until all of its processes are gone. `signal` is what is sent first, in place of the
/// usual one.
pub fn stop(found: &Found, signal: Option<Signal>) -> Result<Stopped, StopError> {
    let orphans = found.orphaned_jobs();
    end_jobs(&orphans).map_err(StopError::Job)?;
    let (ours, theirs) = (found.ours(), found.theirs());
    if ours.is_empty() && theirs.is_empty() {
        if let Some(launcher) = found.runs_elsewhere() {
            return Err(StopError::Elsewhere(launcher.to_owned()));
        }
        found.remove_files(false);
        return Ok(if orphans.is_empty() {
            Stopped::Already
        } else {
            Stopped::Killed
        });
    }
    let supervisors = found.supervisors();
    if supervisors.is_empty() {
        // They are about to notice that their supervisor is gone.
        send(&ours, signal.unwrap_or(Signal::SIGTERM))?;
    } else {
        send(&supervisors, signal.unwrap_or(Signal::SIGINT))?;
    }
    let sessions: Vec<ProcessRef> = theirs
        .iter()
        .filter(|one| session::is_led_by(one))
        .cloned()
        .collect();
    // As ipyparallel's launchers do.
    send(&theirs, signal.unwrap_or(Signal::SIGTERM))?;
    let grace = if ours.is_empty() {
        GRACE_OF_THEIRS
    } else {
        found.grace().unwrap_or(GRACE) + MARGIN
    };
    let deadline = Instant::now() + grace;
    let all: Vec<ProcessRef> = ours.into_iter().chain(theirs).collect();
    let mut left = wait_until_gone(&all, grace);
    let time = deadline.saturating_duration_since(Instant::now());
    left.extend(wait_until_gone(&left_by(&sessions), time));
    // Between the look at the files and the signal the engines may have been started again.
    left.extend(Found::of(&found.profile, &found.cluster_id).ours());
    let killed = !left.is_empty();
    if killed {
        left.extend(left_by(&sessions));
        send(&left, Signal::SIGKILL)?;
        left = wait_until_gone(&left, LAST);
    }
    if let Some(process) = left.into_iter().next() {
        return Err(StopError::Immortal(process));
    }
    // What has ended in order has removed its files itself.
    Found::of(&found.profile, &found.cluster_id).remove_files(false);
    Ok(if killed {
        Stopped::Killed
    } else {
        Stopped::InOrder
    })
}

/// Stops a cluster whose profile's folder is gone: its supervisor ends everything, and its engines end with the controller
/// or with the supervisor.
pub fn stop_lost(lost: &Lost, signal: Option<Signal>) -> Result<Stopped, StopError> {
    let (main, usual) = match &lost.supervisor {
        Some(supervisor) => (supervisor, Signal::SIGINT),
        None => (&lost.controller, Signal::SIGTERM),
    };
    send(std::slice::from_ref(main), signal.unwrap_or(usual))?;
    let all = [main.clone(), lost.controller.clone()];
    let left = wait_until_gone(&all, GRACE + MARGIN);
    if left.is_empty() {
        return Ok(Stopped::InOrder);
    }
    send(&left, Signal::SIGKILL)?;
    match wait_until_gone(&left, LAST).into_iter().next() {
        Some(process) => Err(StopError::Immortal(process)),
        None => Ok(Stopped::Killed),
    }
}

/// Ends jobs of batch systems that nobody looks after, and waits for their end.
pub(super) fn end_jobs(jobs: &[JobRef]) -> Result<(), String> {
    if jobs.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        for job in jobs {
            batch::end(job).await?;
        }
        Ok(())
    })
}

/// ipyparallel's controller ends its schedulers, and its engine its kernel, unless the signal meets them while they start.
fn left_by(sessions: &[ProcessRef]) -> Vec<ProcessRef> {
    sessions.iter().flat_map(session::members).collect()
}

fn send(processes: &[ProcessRef], signal: Signal) -> Result<(), StopError> {
    for process in processes {
        match process.signal(signal) {
            Ok(()) | Err(SignalError::Gone(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
