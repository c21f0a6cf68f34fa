//! Notifications for clients that subscribe a moment too late.
//!
//! A client asks which engines there are, and only then subscribes to news of them. What was published in between is
//! published again as soon as a subscription arrives. Other clients take a repetition as what it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Time between a client's question and its subscription, generously.
const MEMORY: Duration = Duration::from_secs(10);

/// Subscriptions that come together are served together.
const GATHER: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct LateJoiners {
    recent: VecDeque<Recent>,
    repeat_at: Option<Instant>,
}

#[derive(Debug)]
struct Recent {
    at: Instant,
    msg_type: &'static str,
    content: Value,
}

impl LateJoiners {
    pub(super) fn on_published(&mut self, now: Instant, msg_type: &'static str, content: &Value) {
        self.forget_old(now);
        // Only the last word about an engine counts.
        self.recent
            .retain(|earlier| earlier.content.get("id") != content.get("id"));
        self.recent.push_back(Recent {
            at: now,
            msg_type,
            content: content.clone(),
        });
    }

    pub(super) fn on_subscribed(&mut self, now: Instant) {
        self.forget_old(now);
        if !self.recent.is_empty() {
            self.repeat_at.get_or_insert(now + GATHER);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.repeat_at
    }

    /// What is to be published again now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(&'static str, Value)> {
        if self.repeat_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.repeat_at = None;
        self.recent
            .iter()
            .map(|recent| (recent.msg_type, recent.content.clone()))
            .collect()
    }

    fn forget_old(&mut self, now: Instant) {
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

    #[test]
    fn the_last_word_about_each_engine_is_repeated_once_and_not_for_ever() {
        let mut joiners = LateJoiners::default();
        let start = Instant::now();
        joiners.on_subscribed(start);
        assert_eq!(joiners.next_deadline(), None);
        joiners.on_published(start, "registration_notification", &json!({ "id": 0 }));
        joiners.on_published(start, "registration_notification", &json!({ "id": 1 }));
        joiners.on_published(start, "unregistration_notification", &json!({ "id": 0 }));
        joiners.on_subscribed(start);
        assert!(joiners.due(start).is_empty());
        let due = joiners.due(joiners.next_deadline().unwrap());
        let expected = [
            ("registration_notification", json!({ "id": 1 })),
            ("unregistration_notification", json!({ "id": 0 })),
        ];
        assert_eq!(due, expected);
        assert_eq!(joiners.next_deadline(), None);
        joiners.on_subscribed(start + 2 * MEMORY);
        assert_eq!(joiners.next_deadline(), None);
    }
}
