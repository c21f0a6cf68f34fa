//! The topics that a subscriber wants.

use hashbrown::HashMap;

use super::Violation;

/// A subscriber's topics may take this much memory in all. Stock clients subscribe to everything, or to a few engines.
const LIMIT: usize = 1 << 20;

/// What each topic costs beyond its bytes.
const OVERHEAD: usize = 64;

#[derive(Debug, Default)]
pub(in crate::transport) struct Subscriptions {
    /// How often each topic was subscribed to: it has to be cancelled as often.
    topics: HashMap<Box<[u8]>, u32>,
    /// Subscribed to the empty topic, with which every message begins.
    everything: bool,
    size: usize,
}

impl Subscriptions {
    pub(in crate::transport) fn add(&mut self, topic: &[u8]) -> Result<(), Violation> {
        self.everything |= topic.is_empty();
        if let Some(count) = self.topics.get_mut(topic) {
            *count = count.saturating_add(1);
            return Ok(());
        }
        self.size += topic.len() + OVERHEAD;
        if self.size > LIMIT {
            return Err(Violation::Subscriptions);
        }
        self.topics.insert(Box::from(topic), 1);
        Ok(())
    }

    pub(in crate::transport) fn remove(&mut self, topic: &[u8]) {
        let Some(count) = self.topics.get_mut(topic) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.topics.remove(topic);
            self.size -= topic.len() + OVERHEAD;
            self.everything &= !topic.is_empty();
        }
    }

    /// Does the subscriber want a message with this first frame?
    pub(in crate::transport) fn want(&self, first: &[u8]) -> bool {
        self.everything || self.topics.keys().any(|topic| first.starts_with(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_prefixes_and_are_counted() {
        let mut subscriptions = Subscriptions::default();
        assert!(!subscriptions.want(b""));
        subscriptions.add(b"engine.1").unwrap();
        subscriptions.add(b"engine.1").unwrap();
        assert!(subscriptions.want(b"engine.1.stream"));
        assert!(!subscriptions.want(b"engine.2"));
        subscriptions.remove(b"engine.1");
        assert!(subscriptions.want(b"engine.1"));
        subscriptions.remove(b"engine.1");
        subscriptions.remove(b"engine.1");
        assert!(!subscriptions.want(b"engine.1"));
        subscriptions.add(b"").unwrap();
        assert!(subscriptions.want(b"") && subscriptions.want(b"x"));
        subscriptions.remove(b"");
        assert!(!subscriptions.want(b"x"));
    }

    #[test]
    fn a_subscriber_cannot_fill_the_memory() {
        let mut subscriptions = Subscriptions::default();
        let refused = (0..u32::MAX).find(|n| subscriptions.add(&n.to_le_bytes()).is_err());
        assert!(refused.is_some_and(|n| (1000..20_000).contains(&n)));
    }
}
