//! `ipcluster report`: one page with what a run did, to be kept and sent.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::db::source::{self, Source};
use crate::cli::setup::{ProfileMust, Setup, set_up};
use crate::cli::{Failure, dashboard};
use crate::os::files::write_public;
use crate::profile::traitlets::Program;
use crate::protocol::Timestamp;
use crate::web::{Visit, report};

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Of a cluster with a status page (--dashboard), the report has what the page shows; of any other, and of \
                  one that has ended, what its task database has."
)]
pub(super) struct ReportArgs {
    /// File to write; - is standard output
    #[arg(value_name = "FILE", default_value = "ipcluster-report.html")]
    file: PathBuf,

    /// Ask the task database, even if the cluster has a status page
    #[arg(long)]
    from_database: bool,

    /// An SQLite file with task records [default: ask the cluster that runs, else the database of the settings]
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,

    /// Tasks at most, the newest
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    last: usize,

    #[command(flatten)]
    common: CommonArgs,
}

/// Seconds in which a hub has to answer.
const PATIENCE: f64 = 60.0;

/// Records that are asked for at a time.
const PAGE: usize = 5000;

const KEYS: [&str; 10] = [
    "msg_id",
    "label",
    "queue",
    "engine_uuid",
    "client_uuid",
    "submitted",
    "started",
    "completed",
    "header",
    "result_metadata",
];

pub(super) fn run(args: &ReportArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let setup = set_up(
        Program::Controller,
        "ipcluster",
        &args.common,
        rewritten,
        Vec::new(),
        ProfileMust::Exist,
    )?;
    let address = if args.from_database || args.database.is_some() {
        None
    } else {
        dashboard::find(&setup)?
    };
    let state = match address {
        Some(address) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let path = format!("api/state?stream={}", args.last);
            runtime.block_on(Visit::new(address).get(&path))?
        }
        None => of_database(&setup, args)?,
    };
    let page = report::page(&state);
    if args.file.as_os_str() == "-" {
        // Nobody reads it when the output is closed.
        let _ = std::io::stdout().write_all(page.as_bytes());
        return Ok(());
    }
    write_public(&args.file, page.as_bytes())?;
    let tasks = state["stream"].as_array().map_or(0, Vec::len);
    tracing::info!("wrote {} with {tasks} tasks", args.file.display());
    Ok(())
}

fn of_database(setup: &Setup, args: &ReportArgs) -> Result<Value, Failure> {
    let mut source: Source = source::open(Some(setup), args.database.as_deref(), None, PATIENCE)?;
    let ids = source.ids(&json!({"completed": {"$ne": null}}))?;
    let first = ids.len().saturating_sub(args.last);
    let keys = KEYS.map(str::to_owned);
    let mut records = Vec::new();
    for page in ids[first..].chunks(PAGE) {
        records.extend(source.records(page, &keys)?);
    }
    let name = source.name().to_owned();
    source.close()?;
    let profile = setup.profile.name().unwrap_or(&name);
    Ok(state_of(&records, ids.len(), profile))
}

/// Records in the words of the status page. Engines are numbered as they come: their ids are not recorded.
fn state_of(records: &[Map<String, Value>], count: usize, profile: &str) -> Value {
    let micros = |value: &Value| {
        let date = Timestamp::parse(value.as_str()?, &TimeZone::system())?;
        Some(date.as_micros())
    };
    let time = |record: &Map<String, Value>, key: &str| record.get(key).and_then(micros);
    let times = records
        .iter()
        .filter_map(|record| time(record, "submitted"));
    let start = times.min().unwrap_or(0);
    let mut engines: BTreeMap<String, usize> = BTreeMap::new();
    let mut tallies: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    let mut stream = Vec::new();
    for (seq, record) in records.iter().enumerate() {
        let text = |key: &str| record.get(key).and_then(Value::as_str);
        let Some(ended) = time(record, "completed") else {
            continue;
        };
        let status = record
            .get("result_metadata")
            .map_or(&Value::Null, |metadata| &metadata["status"]);
        let (status, column) = match status.as_str() {
            Some("ok") => ("ok", 0),
            Some("aborted") => ("aborted", 2),
            _ => ("failed", 1),
        };
        let engine = text("engine_uuid").map(|uuid| {
            let next = engines.len();
            *engines.entry(uuid.to_owned()).or_insert(next)
        });
        let queue = text("queue").unwrap_or("task");
        tallies.entry(queue.to_owned()).or_default()[column] += 1;
        let msg_type = record
            .get("header")
            .and_then(|header| header["msg_type"].as_str());
        let name = msg_type.unwrap_or("?").trim_end_matches("_request");
        let submitted = time(record, "submitted");
        let started = time(record, "started")
            .or(submitted)
            .unwrap_or(ended)
            .min(ended);
        stream.push(json!([
            seq,
            engine,
            started - start,
            ended - start,
            status,
            name,
            text("label"),
            text("msg_id"),
            text("client_uuid"),
            submitted.map(|submitted| submitted - start),
            queue,
            null
        ]));
    }
    let now = stream.iter().filter_map(|entry| entry[3].as_i64()).max();
    let totals: Map<String, Value> = tallies
        .into_iter()
        .map(|(queue, [ok, failed, aborted])| {
            let ended = ok + failed + aborted;
            (
                queue,
                json!({"submitted": ended, "ok": ok, "failed": failed, "aborted": aborted}),
            )
        })
        .collect();
    json!({
        "kind": "state",
        "started": start as f64 / 1e3,
        "now": now.unwrap_or(0),
        "about": {"profile": profile, "cluster_id": "", "version": env!("CARGO_PKG_VERSION")},
        "totals": totals,
        "ended": count,
        "engines": [],
        "samples": [],
        "stream": stream,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_a_stream() {
        let record = |id: &str, engine: &str, status: &str, seconds: u32| {
            let record = json!({
                "msg_id": id, "engine_uuid": engine, "queue": "task", "header": {"msg_type": "apply_request"},
                "result_metadata": {"status": status}, "submitted": "2026-01-01T00:00:00Z",
                "started": format!("2026-01-01T00:00:0{seconds}Z"), "completed": format!("2026-01-01T00:00:0{}Z", seconds + 1),
            });
            record.as_object().unwrap().clone()
        };
        let records = [
            record("a", "x", "ok", 1),
            record("b", "y", "error", 2),
            record("c", "x", "ok", 3),
        ];
        let state = state_of(&records, 3, "lab");
        assert_eq!(
            state["stream"][1],
            json!([
                1, 1, 2_000_000, 3_000_000, "failed", "apply", null, "b", null, 0, "task", null
            ])
        );
        assert_eq!(state["stream"][2][1], 0);
        assert_eq!(state["totals"]["task"]["failed"], 1);
        assert_eq!(state["now"], 4_000_000);
    }
}
