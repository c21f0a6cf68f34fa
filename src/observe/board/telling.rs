//! The board as JSON: all of it, or what has changed.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::{Board, Totals};
use crate::observe::{Channel, Entry, Sample};

/// Of them, how many a page is sent when it opens.
const STREAM_OF_A_PAGE: usize = 5_000;

/// New ones that a page is sent at a time; it hears how many there were.
const STREAM_AT_ONCE: usize = 1_000;

impl Board {
    /// Everything, for a page that opens. `stream`: how many ended requests at most; none for as many as a page takes.
    pub fn state(&self, now: Instant, stream: Option<usize>) -> Map<String, Value> {
        let stream = stream.unwrap_or(STREAM_OF_A_PAGE);
        let at = self.micros(now);
        let mut state = self.figures(now);
        let mut put = |key: &str, value: Value| state.insert(key.to_owned(), value);
        put("kind", json!("state"));
        put("started", json!(self.started.as_micros() as f64 / 1e3));
        put(
            "engines",
            self.engines.all().map(|row| json!(row)).collect(),
        );
        put(
            "departed",
            self.engines.departed().map(|gone| json!(gone)).collect(),
        );
        put(
            "expected",
            json!(self.expected.missing(at, &self.engines.by_set())),
        );
        put("clients", json!(self.clients.all()));
        put("samples", self.history.all().map(Sample::to_json).collect());
        put(
            "stream",
            self.stream.since(0, stream).map(Entry::to_json).collect(),
        );
        state
    }

    /// What has changed since the last call, if anything has. To be called by one alone.
    pub fn changes(&mut self, now: Instant) -> Option<Map<String, Value>> {
        if !std::mem::take(&mut self.has_news) {
            return None;
        }
        let mut changes = self.figures(now);
        let mut put = |key: &str, value: Value| changes.insert(key.to_owned(), value);
        put("kind", json!("changes"));
        let (rows, gone) = self.engines.take_changes();
        put("engines", json!(rows));
        put("gone", json!(gone));
        if self.engines.take_departures() {
            let departed = self.engines.departed();
            put("departed", departed.map(|gone| json!(gone)).collect());
        }
        let at = self.micros(now);
        let missing = self.expected.missing(at, &self.engines.by_set());
        if self.expected.is_news(&missing) {
            put("expected", json!(missing));
        }
        put("clients", json!(self.clients.take_changed()));
        put(
            "samples",
            self.history
                .last()
                .map(Sample::to_json)
                .into_iter()
                .collect(),
        );
        let new = self.stream.since(self.told, STREAM_AT_ONCE);
        put("stream", new.map(Entry::to_json).collect());
        self.told = self.stream.total();
        Some(changes)
    }

    fn figures(&self, now: Instant) -> Map<String, Value> {
        let totals = Channel::ALL.iter().zip(&self.totals).map(|(channel, totals)| {
            let Totals {
                tally,
                waiting,
                running,
            } = totals;
            let value = json!({
                "submitted": tally.submitted, "ok": tally.ok, "failed": tally.failed, "aborted": tally.aborted,
                "waiting": waiting.all(), "blocked": waiting.blocked, "running": running,
            });
            (channel.name().to_owned(), value)
        });
        let mut figures = Map::new();
        figures.insert("now".to_owned(), json!(self.micros(now)));
        figures.insert("totals".to_owned(), totals.collect::<Map<_, _>>().into());
        figures.insert("ended".to_owned(), json!(self.stream.total()));
        figures.insert("unfollowed".to_owned(), json!(self.unfollowed));
        figures
    }
}
