//! How long reports take until they are in the task database.

use std::time::Instant;

use crate::hub::recorder::Delays;

/// Told of reports and of writes. What it says is never too little: it counts from the oldest report that a write may
/// have had in it.
#[derive(Debug, Default)]
pub(super) struct DelayMeter {
    /// The oldest of what is not written.
    oldest: Option<Instant>,
    /// The oldest of what came since the last write.
    oldest_since: Option<Instant>,
    delays: Delays,
}

impl DelayMeter {
    /// `handed_over`: when the scheduler had it.
    pub(super) fn on_report(&mut self, handed_over: Instant) {
        let earlier = |known: Option<Instant>| known.map_or(handed_over, |at| at.min(handed_over));
        self.oldest = Some(earlier(self.oldest));
        self.oldest_since = Some(earlier(self.oldest_since));
    }

    /// `all`: nothing is left to be written; else some of what came since the last write is.
    pub(super) fn on_written(&mut self, now: Instant, all: bool) {
        if let Some(oldest) = self.oldest {
            self.delays.last = now.saturating_duration_since(oldest);
            self.delays.longest = self.delays.longest.max(self.delays.last);
        }
        let since = self.oldest_since.take();
        self.oldest = since.filter(|_| !all);
    }

    pub(super) fn delays(&self) -> Delays {
        self.delays
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_counts_from_the_oldest_that_is_not_written() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut meter = DelayMeter::default();
        meter.on_written(at(0), true);
        assert_eq!(meter.delays(), Delays::default());
        // Two threads report: the older may come later.
        meter.on_report(at(20));
        meter.on_report(at(10));
        meter.on_written(at(50), false);
        assert_eq!(meter.delays().last, Duration::from_millis(40));
        meter.on_report(at(60));
        meter.on_written(at(100), true);
        assert_eq!(
            meter.delays().longest,
            Duration::from_millis(90),
            "some may have been left"
        );
        meter.on_report(at(110));
        meter.on_written(at(115), true);
        assert_eq!(meter.delays().last, Duration::from_millis(5));
        assert_eq!(meter.delays().longest, Duration::from_millis(90));
    }
}
