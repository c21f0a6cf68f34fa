//! SIGHUP: the terminal was closed.

use nix::libc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears of a closed terminal, unless the process was started to outlive it: under nohup SIGHUP is ignored already.
#[derive(Debug)]
pub struct HangUp(Option<Signal>);

impl HangUp {
    /// Needs a tokio runtime with I/O.
    pub fn new() -> std::io::Result<Self> {
        if is_ignored() {
            return Ok(Self(None));
        }
        signal(SignalKind::hangup()).map(|signals| Self(Some(signals)))
    }

    pub async fn recv(&mut self) {
        match &mut self.0 {
            Some(signals) => {
                signals.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}

fn is_ignored() -> bool {
    let mut found = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks only; the structure is filled when the call succeeds.
    unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), found.as_mut_ptr()) == 0
            && found.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
