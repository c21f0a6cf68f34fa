//! The hearts of all engines of this process: each ping is echoed at once, whatever the kernels are doing.

use std::io;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::mail::HostMail;
use crate::os::host::Host;
use crate::protocol::EngineUuid;
use crate::transport::{
    ConnectionEvent, Context, Frame, Kind, Mailbox, Monitor, Poller, Socket, drain, time_left,
};

#[derive(Debug)]
pub(super) enum HeartMail {
    /// From now on this engine answers pings.
    Beat {
        uuid: EngineUuid,
        period: Duration,
        /// The controller lets a new connection of a heart take the place of its old one. ipyparallel's ignores it as
        /// long as it has not heard of the old one's end.
        renews: bool,
    },
    Stop {
        uuid: EngineUuid,
    },
    /// Ends the thread.
    End,
}

pub(super) struct Hearts {
    context: Context,
    ping_url: String,
    pong_url: String,
    max_misses: u32,
    mailbox: Mailbox<HeartMail>,
    host: UnboundedSender<HostMail>,
    beating: Vec<Heart>,
    /// Without a ping until then, the controller is gone.
    deadline: Option<Instant>,
    /// Without a ping until then, the way to the controller may have been interrupted; and how long it is waited then.
    renewal: Option<Instant>,
    patience: Duration,
    last_ping: Option<Instant>,
    period: Duration,
    renews: bool,
}

struct Heart {
    uuid: EngineUuid,
    ping: Socket,
    pong: Socket,
    pongs: Monitor,
    /// When it began to beat, until it was connected.
    began: Option<Instant>,
}

/// A heart that is connected later than this may have been given up before it was heard.
const SOON: Duration = Duration::from_secs(1);

/// ipyparallel's engines check a little less often than the controller beats.
const SLACK: Duration = Duration::from_millis(500);

/// How long engines wait for a controller that has gone silent; none: for ever.
pub(super) fn patience(period: Duration, max_misses: u32) -> Option<Duration> {
    (max_misses > 0).then(|| (period + SLACK) * max_misses)
}

impl Hearts {
    pub(super) fn new(
        context: Context,
        ping_url: String,
        pong_url: String,
        max_misses: u32,
        mailbox: Mailbox<HeartMail>,
        host: UnboundedSender<HostMail>,
    ) -> Self {
        Self {
            context,
            ping_url,
            pong_url,
            max_misses,
            mailbox,
            host,
            beating: Vec::new(),
            deadline: None,
            renewal: None,
            patience: Duration::ZERO,
            last_ping: None,
            period: Duration::ZERO,
            renews: false,
        }
    }

    pub(super) fn run(mut self) {
        let mut poller = self.poller();
        let mut mail = Vec::new();
        let mut frames = Vec::new();
        loop {
            let mut busy = self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                match message {
                    HeartMail::Beat {
                        uuid,
                        period,
                        renews,
                    } => match self.beat(uuid) {
                        Ok(()) => {
                            self.period = period;
                            self.renews = renews;
                            self.allow();
                        }
                        Err(error) => tracing::error!("a heart cannot be started: {error}"),
                    },
                    HeartMail::Stop { uuid } => self.beating.retain(|heart| heart.uuid != uuid),
                    HeartMail::End => return,
                }
                poller = self.poller();
            }
            busy |= self.echo(&mut frames);
            self.tell_of_unheard();
            if self
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now())
            {
                self.deadline = None;
                let _ = self.host.send(HostMail::ControllerLost);
            }
            if self
                .renewal
                .is_some_and(|renewal| renewal <= Instant::now())
            {
                self.renew();
            }
            let timeout = if busy {
                Some(Duration::ZERO)
            } else {
                time_left([self.deadline, self.renewal])
            };
            if let Err(error) = poller.wait(timeout) {
                tracing::error!("hearts: cannot wait for pings: {error}");
                return;
            }
        }
    }

    fn beat(&mut self, uuid: EngineUuid) -> io::Result<()> {
        let pong = self.context.socket(Kind::Dealer)?;
        pong.set_identity(uuid.as_str().as_bytes());
        let pongs = Monitor::new(&pong);
        pong.connect(&self.pong_url)?;
        // Each listens for itself: the controller pings at once when it sees a new listener.
        let ping = self.context.socket(Kind::Sub)?;
        ping.connect(&self.ping_url)?;
        self.beating.push(Heart {
            uuid,
            ping,
            pong,
            pongs,
            began: Some(Instant::now()),
        });
        Ok(())
    }

    fn echo(&mut self, frames: &mut Vec<Frame>) -> bool {
        let mut any = false;
        for heart in &mut self.beating {
            let pong = &mut heart.pong;
            any |= drain(&mut heart.ping, frames, |_, frames| {
                if let Err(error) = pong.send(frames) {
                    tracing::debug!("a heartbeat could not be sent: {error}");
                }
            });
        }
        if any {
            self.on_ping(Instant::now());
        }
        any
    }

    /// A ping whose echo has nowhere to go is missed by the controller alone.
    fn tell_of_unheard(&mut self) {
        for heart in &mut self.beating {
            while let Some(event) = heart.pongs.receive() {
                if matches!(event, ConnectionEvent::Established(_))
                    && heart
                        .began
                        .take()
                        .is_none_or(|began| began.elapsed() > SOON)
                {
                    let _ = self.host.send(HostMail::Unheard(Some(heart.uuid.clone())));
                }
            }
        }
    }

    /// After a pause, of this process or of the way to the controller, the controller may have taken the engines for
    /// dead: they are to ask.
    fn on_ping(&mut self, now: Instant) {
        if self
            .last_ping
            .replace(now)
            .is_some_and(|last| has_missed_pings(now - last, self.period))
        {
            let _ = self.host.send(HostMail::Unheard(None));
        }
        self.allow();
    }

    /// A way that was interrupted for half a minute would stay silent for some 20 seconds more, in which the controller
    /// takes the engines for dead: the system tries an old connection ever more seldom. What else is on its way has the
    /// time to wait for that.
    fn renew(&mut self) {
        tracing::debug!("no ping for {:?}: connecting again", self.patience);
        let this = Host::this();
        for heart in &mut self.beating {
            heart.ping.connect_anew(&this);
            heart.pong.connect_anew(&this);
        }
        // The attempts themselves are repeated quickly. A controller that was reached has reasons to be slow.
        self.patience *= 2;
        self.renewal = Some(Instant::now() + self.patience);
    }

    fn allow(&mut self) {
        self.patience = 2 * self.period + SLACK;
        self.renewal = (self.renews && !self.period.is_zero() && !self.beating.is_empty())
            .then(|| Instant::now() + self.patience);
        self.deadline = patience(self.period, self.max_misses)
            .filter(|_| !self.beating.is_empty())
            .map(|patience| Instant::now() + patience);
    }

    fn poller(&mut self) -> Poller {
        let mut poller = Poller::new();
        poller.add_fd(self.mailbox.fd());
        for heart in &mut self.beating {
            poller.add_socket(&mut heart.ping);
            poller.add_socket(&mut heart.pong);
        }
        poller
    }
}

/// Was there a ping between two that came in such a distance?
fn has_missed_pings(distance: Duration, period: Duration) -> bool {
    !period.is_zero() && distance >= 2 * period
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_that_is_a_little_late_was_not_missed() {
        let period = Duration::from_secs(3);
        assert!(!has_missed_pings(Duration::ZERO, period));
        assert!(!has_missed_pings(period + SLACK, period));
        assert!(has_missed_pings(2 * period, period));
    }
}
