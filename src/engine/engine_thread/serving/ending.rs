//! The end of an engine: everything that is left is answered, and the hub is told.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::{GRACE, Serving, State};
use crate::engine::config::KernelProgram;
use crate::engine::engine_thread::requests::{Request, is_comm};
use crate::engine::engine_thread::{farewell, unregistration};
use crate::engine::heart::HeartMail;
use crate::engine::kernel::messages::to_kernel;
use crate::engine::mail::Ending;
use crate::engine::replies::{leaving, returned};
use crate::protocol::{Leaving, RemoteError};

impl Serving {
    /// Ends in order: the kernel may run its exit handlers.
    pub(super) fn stop(&mut self) {
        if !self.takes_requests() {
            return;
        }
        self.state = State::Stopping {
            until: Instant::now() + GRACE,
        };
        let was_busy = self.queue.running().is_some() || !self.beside.is_empty();
        self.fail_requests("it was stopped");
        self.kernel.link.send(to_kernel::EXIT, []);
        self.flush_link_now();
        // Code that is running does not see the message. A kernel that is not ours may know of no other way to take
        // SIGTERM than to end at once: it gets it only then.
        let is_own = matches!(self.config.kernel.program, KernelProgram::Own(_));
        if is_own || was_busy {
            self.signal_kernel(Signal::SIGTERM as i32, false);
        }
    }

    pub(super) fn end(&mut self, how: Ending, reason: &str) {
        if matches!(self.state, State::Ended(_)) {
            return;
        }
        let mode = self.config.restart.mode;
        let leaving = match &how {
            Ending::Asked if self.comes_back => Leaving::Restarts,
            how => how.leaving(mode),
        };
        self.state = State::Ended(how);
        // Tasks that are on their way have not begun either.
        self.receive_all_of_shell();
        self.fail_requests(reason);
        if self.farewells {
            let mut farewell = farewell(&mut self.composer);
            self.shell_out.send(&mut self.sockets.shell, &mut farewell);
        }
        self.hearts.send(HeartMail::Stop {
            uuid: self.who.uuid.clone(),
        });
        let mut farewell = unregistration(
            &mut self.composer,
            &self.who.uuid,
            self.who.id,
            reason,
            leaving,
            self.farewells,
        );
        if let Err(error) = self.registrar.socket.send(&mut farewell) {
            tracing::debug!("engine {}: cannot say good-bye: {error}", self.who.id);
        }
        self.signal_kernel(Signal::SIGKILL as i32, true);
    }

    /// Answers everything that is left. Tasks that have not begun go back.
    pub(super) fn fail_requests(&mut self, how: &str) {
        let running: Vec<Request> = self
            .queue
            .on_done()
            .into_iter()
            .chain(std::mem::take(&mut self.beside).into_values())
            .collect();
        let answered = |request: &Request| request.replied || is_comm(&request.msg_type);
        let waiting = self.queue.abort_all();
        for request in waiting {
            if request.is_task() {
                let (content, extra) = returned();
                self.send_outcome(&request, content, extra);
            } else {
                let error = RemoteError::engine_died(self.who.id, &request.msg_id, how);
                self.send_failure(&request, &error);
            }
        }
        for request in running {
            if !answered(&request) {
                let error = RemoteError::engine_died(self.who.id, &request.msg_id, how);
                self.send_outcome(&request, error.to_content(), leaving());
            }
            self.publish_idle(&request.header);
        }
    }
}
