//! Bounds what waits for answers about records: a question that is one too many is refused at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::hub::Request;

/// Bytes of questions that wait at most.
const MAX_BYTES: u64 = 64 << 20;

/// What a question takes besides its frames.
const OVERHEAD: u64 = 1024;

/// Counts the questions that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions {
    bytes: Arc<AtomicU64>,
}

/// A question's place. It is free again when the question has been answered, and this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    questions: Questions,
    bytes: u64,
}

impl Questions {
    /// [`None`] when too many wait already.
    pub(super) fn admit(&self, request: &Request) -> Option<Place> {
        let bytes = (request.header.len() + request.content.len()) as u64 + OVERHEAD;
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let place = Place {
            questions: self.clone(),
            bytes,
        };
        // One that is large by itself is answered as long as it is the only one.
        (before == 0 || before + bytes <= MAX_BYTES).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.questions
            .bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Identity;

    fn question(size: usize) -> Request {
        Request {
            from: Identity::from(&b"client"[..]),
            msg_type: "db_request".to_owned(),
            header: "{}".into(),
            content: vec![b' '; size].into(),
        }
    }

    #[test]
    fn one_too_many_is_refused_until_another_is_answered() {
        let questions = Questions::default();
        let large = question(1 << 20);
        let mut places: Vec<Place> = std::iter::from_fn(|| questions.admit(&large)).collect();
        assert_eq!(places.len(), 63);
        assert!(questions.admit(&large).is_none());
        places.pop();
        assert!(questions.admit(&large).is_some());
        places.clear();
        assert!(questions.admit(&question(100 << 20)).is_some(), "alone");
        assert_eq!(questions.bytes.load(Ordering::Relaxed), 0);
    }
}
