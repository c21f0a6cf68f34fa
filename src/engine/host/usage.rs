//! What kernels use of the machine, and what follows.

use nix::sys::signal::Signal;
use serde_json::json;

use super::EngineHost;
use crate::engine::mail::{EngineMail, Rank};
use crate::engine::memory::{Used, in_words, resident};

impl EngineHost {
    /// Tells an engine's controller where its kernel runs and what it uses.
    pub(super) fn tell_usage_of(&mut self, rank: Rank) {
        let Some(engine) = self.engines.get_mut(&rank) else {
            return;
        };
        let (Some(pid), true) = (engine.pid, engine.wants_usage) else {
            return;
        };
        let used = Used::of(pid);
        let cpu = used
            .zip(engine.used)
            .and_then(|(now, before)| now.cpu_since(&before));
        engine.used = used;
        engine.mail.send(EngineMail::Usage(json!({
            "host": self.host_name, "pid": pid, "memory": resident(pid), "cpu": cpu,
        })));
    }

    pub(super) fn look_at_memory(&mut self) {
        let limits = self.config.memory;
        let mut too_big = Vec::new();
        for (rank, engine) in &mut self.engines {
            let (Some(pid), Some(id)) = (engine.pid, engine.id) else {
                continue;
            };
            let Some(used) = resident(pid) else { continue };
            if let Some(limit) = limits.kill.filter(|limit| used > *limit) {
                let (used, limit) = (in_words(used), in_words(limit));
                engine.killed = Some(format!(
                    "its kernel used {used} of memory, more than the limit of {limit}, and was killed"
                ));
                too_big.push(*rank);
            } else if let Some(limit) = limits.warn.filter(|limit| used > *limit) {
                if !std::mem::replace(&mut engine.warned, true) {
                    let (used, limit) = (in_words(used), in_words(limit));
                    tracing::warn!(
                        "engine {id}: its kernel uses {used} of memory, more than {limit}"
                    );
                }
            } else {
                engine.warned = false;
            }
        }
        for rank in too_big {
            self.signal(rank, Signal::SIGKILL as i32, true);
        }
    }
}
