//! Notifications for clients that subscribe a moment too late.
//!
//! A client asks which engines there are, and only then subscribes to news of them. What was published in between is
//! published again as soon as its subscription arrives. Everybody gets the repetition, so it must be rare: a client that
//! waits for engines takes a departure that it hears of for one of those.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Time between a client's question and its subscription, generously.
const MEMORY: Duration = Duration::from_secs(10);

/// Subscriptions that come together are served together.
const GATHER: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct LateJoiners {
    /// When clients were told which engines there are, of those that have not subscribed since.
    told: VecDeque<Instant>,
    recent: VecDeque<Recent>,
    repeat: Option<Repeat>,
}

#[derive(Debug)]
struct Recent {
    at: Instant,
    msg_type: &'static str,
    content: Value,
}

#[derive(Debug)]
struct Repeat {
    at: Instant,
    since: Instant,
}

impl LateJoiners {
    /// A client was told which engines there are.
    pub(super) fn on_told(&mut self, now: Instant) {
        self.forget_old(now);
        self.told.push_back(now);
    }

    pub(super) fn on_published(&mut self, now: Instant, msg_type: &'static str, content: &Value) {
        self.forget_old(now);
        if self.told.is_empty() {
            return;
        }
        // Only the last word about an engine counts.
        self.recent
            .retain(|earlier| earlier.content.get("id") != content.get("id"));
        self.recent.push_back(Recent {
            at: now,
            msg_type,
            content: content.clone(),
        });
    }

    /// Somebody listens to news. The one who was told first is taken for the one who subscribes first.
    pub(super) fn on_subscribed(&mut self, now: Instant) {
        let Some(since) = self.told.pop_front() else {
            return;
        };
        if self.recent.iter().any(|recent| recent.at >= since) {
            let repeat = self.repeat.get_or_insert(Repeat {
                at: now + GATHER,
                since,
            });
            repeat.since = repeat.since.min(since);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.repeat.as_ref().map(|repeat| repeat.at)
    }

    /// What is to be published again now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(&'static str, Value)> {
        self.repeat
            .take_if(|repeat| repeat.at <= now)
            .map_or_else(Vec::new, |repeat| self.missed(&repeat))
    }

    /// What is to be published again before any news: clients hear of engines in the order of their ids.
    pub(super) fn due_before_news(&mut self) -> Vec<(&'static str, Value)> {
        self.repeat
            .take()
            .map_or_else(Vec::new, |repeat| self.missed(&repeat))
    }

    fn missed(&self, &Repeat { since, .. }: &Repeat) -> Vec<(&'static str, Value)> {
        let missed = self.recent.iter().filter(|recent| recent.at >= since);
        missed
            .map(|recent| (recent.msg_type, recent.content.clone()))
            .collect()
    }

    fn forget_old(&mut self, now: Instant) {
        while self.told.front().is_some_and(|told| *told + MEMORY < now) {
            self.told.pop_front();
        }
        while self
            .recent
            .front()
            .is_some_and(|oldest| oldest.at + MEMORY < now)
        {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn registered(id: u32) -> (&'static str, Value) {
        ("registration_notification", json!({ "id": id }))
    }

    fn left(id: u32) -> (&'static str, Value) {
        ("unregistration_notification", json!({ "id": id }))
    }

    fn publish(joiners: &mut LateJoiners, now: Instant, news: [(&'static str, Value); 1]) {
        let [(msg_type, content)] = news;
        joiners.on_published(now, msg_type, &content);
    }

    #[test]
    fn what_a_client_missed_is_repeated_once_and_nothing_else() {
        let mut joiners = LateJoiners::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        publish(&mut joiners, at(0), [registered(0)]);
        joiners.on_told(at(1));
        publish(&mut joiners, at(2), [registered(1)]);
        publish(&mut joiners, at(3), [registered(2)]);
        publish(&mut joiners, at(4), [left(1)]);
        joiners.on_subscribed(at(5));
        assert!(joiners.due(at(5)).is_empty());
        assert_eq!(
            joiners.due(joiners.next_deadline().unwrap()),
            [registered(2), left(1)]
        );
        assert_eq!(joiners.next_deadline(), None);
        // Another one, who was told after all that.
        joiners.on_told(at(6));
        joiners.on_subscribed(at(7));
        assert_eq!(joiners.next_deadline(), None);
    }

    #[test]
    fn what_was_missed_is_repeated_before_the_next_news() {
        let mut joiners = LateJoiners::default();
        let now = Instant::now();
        joiners.on_told(now);
        publish(&mut joiners, now, [registered(0)]);
        joiners.on_subscribed(now);
        assert_eq!(joiners.due_before_news(), [registered(0)]);
        publish(&mut joiners, now, [registered(1)]);
        assert_eq!(joiners.next_deadline(), None, "and not a second time");
        assert!(joiners.due_before_news().is_empty());
    }

    #[test]
    fn who_never_subscribes_is_forgotten() {
        let mut joiners = LateJoiners::default();
        let start = Instant::now();
        joiners.on_told(start);
        publish(&mut joiners, start, [registered(0)]);
        publish(&mut joiners, start + 2 * MEMORY, [registered(1)]);
        joiners.on_subscribed(start + 2 * MEMORY);
        assert_eq!(joiners.next_deadline(), None);
        assert!(joiners.told.is_empty() && joiners.recent.is_empty());
    }
}
