//! Figures over time: one sample a second, for an hour.

use std::collections::VecDeque;

use serde_json::{Value, json};

const SAMPLES: usize = 3600;

/// Durations that the percentiles of one sample are of.
const DURATIONS: usize = 4096;

/// The controller's own process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Host {
    /// Processor time since its start, in seconds.
    pub cpu_seconds: f64,
    /// Resident bytes.
    pub memory: u64,
}

/// Figures of one moment; rates are those since the sample before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Microseconds since the board's beginning.
    pub at: i64,
    /// Per second.
    pub submitted: f64,
    /// Per second.
    pub ok: f64,
    /// Per second; aborted ones among them.
    pub failed: f64,
    /// Requests that no engine has.
    pub waiting: u64,
    /// Requests that engines have.
    pub running: u64,
    pub engines: u64,
    /// Engines that have something to do.
    pub busy: u64,
    /// Seconds from submission to end, of half and of 95 in 100 of those that ended and were followed; none if none did.
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    /// Processors that the controller kept busy.
    pub cpu: f64,
    /// Its resident bytes.
    pub memory: u64,
    /// The same of all kernels together, as far as it is known.
    pub kernels_cpu: f64,
    pub kernels_memory: u64,
}

impl Sample {
    pub fn to_json(&self) -> Value {
        json!([
            self.at,
            round(self.submitted),
            round(self.ok),
            round(self.failed),
            self.waiting,
            self.running,
            self.engines,
            self.busy,
            self.p50,
            self.p95,
            round(self.cpu),
            self.memory,
            round(self.kernels_cpu),
            self.kernels_memory,
        ])
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    /// Of requests that have ended since the last sample, in microseconds.
    durations: Vec<i64>,
}

impl History {
    pub(super) fn on_duration(&mut self, micros: i64) {
        if self.durations.len() < DURATIONS {
            self.durations.push(micros);
        }
    }

    pub(super) fn push(&mut self, mut sample: Sample) {
        self.durations.sort_unstable();
        let percentile = |part: f64| {
            let last = self.durations.len().checked_sub(1)?;
            let index = (last as f64 * part).round() as usize;
            Some(self.durations[index] as f64 / 1e6)
        };
        (sample.p50, sample.p95) = (percentile(0.5), percentile(0.95));
        self.durations.clear();
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    pub(super) fn last(&self) -> Option<&Sample> {
        self.samples.back()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter()
    }
}
