//! The table of figures.

use std::collections::HashMap;

use crate::controllers::Side;

/// One figure of one run.
pub(crate) struct Sample {
    what: String,
    unit: &'static str,
    value: f64,
    goal: &'static str,
}

impl Sample {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            what: what.into(),
            unit,
            value,
            goal: "",
        }
    }

    pub(crate) fn goal(mut self, goal: &'static str) -> Self {
        self.goal = goal;
        self
    }
}

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    failures: Vec<String>,
}

struct Row {
    /// Rows of different scenarios may have the same words.
    scenario: &'static str,
    what: String,
    unit: &'static str,
    goal: &'static str,
    values: HashMap<Side, Vec<f64>>,
}

impl Report {
    pub(crate) fn add(&mut self, scenario: &'static str, side: Side, samples: Vec<Sample>) {
        // Words repeat within a scenario too ("p99"): the n-th of a run belongs to the n-th row.
        let mut rows = self.rows.iter_mut().filter(|row| row.scenario == scenario);
        let mut fresh = Vec::new();
        for sample in samples {
            if let Some(row) = rows.next() {
                row.values.entry(side).or_default().push(sample.value);
            } else {
                let values = HashMap::from([(side, vec![sample.value])]);
                let Sample {
                    what, unit, goal, ..
                } = sample;
                fresh.push(Row {
                    scenario,
                    what,
                    unit,
                    goal,
                    values,
                });
            }
        }
        self.rows.extend(fresh);
    }

    pub(crate) fn fail(&mut self, scenario: &str, side: Side, why: &str) {
        self.failures.push(format!("{scenario}, {side:?}: {why}"));
    }

    /// Medians, and of ours also the least and the most.
    pub(crate) fn print(&self) {
        println!(
            "\n{:42} {:>10} {:>10} {:>10} {:>19} {:>8} {:>7}  {:26} runs",
            "", "stock", "relay", "ours", "(least .. most)", "x stock", "% relay", "goal"
        );
        for row in &self.rows {
            let median = |side| row.values.get(&side).and_then(|values| median(values));
            let (stock, relay, ours) =
                (median(Side::Stock), median(Side::Relay), median(Side::Ours));
            let ratio = |other: Option<f64>| Some(ours? / other.filter(|other| *other > 0.0)?);
            let spread = row
                .values
                .get(&Side::Ours)
                .map_or_else(String::new, |values| {
                    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
                    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    format!("({} .. {})", figure(least), figure(most))
                });
            let runs: Vec<String> = [Side::Stock, Side::Relay, Side::Ours]
                .iter()
                .map(|side| row.values.get(side).map_or(0, Vec::len).to_string())
                .collect();
            println!(
                "{:42} {:>10} {:>10} {:>10} {:>19} {:>8} {:>7}  {:26} {}",
                format!("{} [{}]", row.what, row.unit).replace(" []", ""),
                stock.map_or_else(String::new, figure),
                relay.map_or_else(String::new, figure),
                ours.map_or_else(String::new, figure),
                spread,
                ratio(stock).map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                ratio(relay).map_or_else(String::new, |ratio| format!("{:.0}", 100.0 * ratio)),
                row.goal,
                runs.join("/"),
            );
        }
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
    }

    pub(crate) fn failed(&self) -> bool {
        !self.failures.is_empty()
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Three or four digits that matter.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
