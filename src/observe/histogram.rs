//! Durations, counted by size.

use std::time::Duration;

/// Upper bounds of the buckets in seconds; what is longer is in one more.
const BOUNDS: [f64; 16] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0,
    3600.0,
];

/// A histogram as Prometheus has them: it only grows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    pub fn add(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Of all durations, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// For each bound, how many were not longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut total = 0;
        BOUNDS
            .into_iter()
            .zip(self.counts)
            .map(move |(bound, count)| {
                total += count;
                (bound, total)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::default();
        for millis in [0, 1, 2, 1000, 1001, 4_000_000] {
            histogram.add(Duration::from_millis(millis));
        }
        assert_eq!(histogram.count(), 6);
        assert!((histogram.sum() - 4002.004).abs() < 1e-9);
        let at = |wanted: f64| histogram.cumulative().find(|(bound, _)| *bound == wanted);
        assert_eq!(at(0.001), Some((0.001, 2)));
        assert_eq!(at(1.0), Some((1.0, 4)));
        assert_eq!(at(3600.0), Some((3600.0, 5)));
    }
}
