//! `ipcluster report`: one page with what a run did, to be kept and sent.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::db::source::{self, AskError, Source};
use crate::cli::setup::{ProfileMust, Setup, set_up};
use crate::cli::{Failure, dashboard};
use crate::observe::{error_of, name_of_request};
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
const PAGE: usize = 1000;

/// Requests whose buffers are asked for at a time: nothing is known of their size before.
const BUFFERS: usize = 100;

const KEYS: [&str; 12] = [
    "msg_id",
    "label",
    "queue",
    "engine_uuid",
    "client_uuid",
    "submitted",
    "started",
    "completed",
    "header",
    "content",
    "result_metadata",
    "result_content",
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
    let names = names(&records, |ids| source.buffers(ids));
    let name = source.name().to_owned();
    source.close()?;
    let profile = setup.profile.name().unwrap_or(&name);
    Ok(state_of(&records, &names, ids.len(), profile))
}

/// What the requests are, by id, as the status page calls them. `buffers` asks for those of requests: what is too large to
/// be asked for at once is halved, and without an answer no more is asked.
fn names<F: AsRef<[u8]>>(
    records: &[Map<String, Value>],
    mut buffers: impl FnMut(&[String]) -> Result<Vec<(String, Vec<F>)>, AskError>,
) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut applied = Vec::new();
    for record in records {
        let Some(id) = record.get("msg_id").and_then(Value::as_str) else {
            continue;
        };
        let msg_type = msg_type_of(record);
        if msg_type == "apply_request" {
            applied.push(id.to_owned());
        } else {
            let content = record.get("content").unwrap_or(&Value::Null).to_string();
            let name = name_of_request::<&[u8]>(msg_type, content.as_bytes(), &[]);
            names.insert(id.to_owned(), name);
        }
    }
    let mut pages: Vec<&[String]> = applied.chunks(BUFFERS).collect();
    while let Some(page) = pages.pop() {
        match buffers(page) {
            Ok(found) => names.extend(found.into_iter().map(|(id, buffers)| {
                let name = name_of_request("apply_request", b"{}", &buffers);
                (id, name)
            })),
            Err(error) if error.is_refusal() && page.len() > 1 => {
                let (one, other) = page.split_at(page.len() / 2);
                pages.extend([one, other]);
            }
            // It is shown without its name.
            Err(error) if error.is_refusal() => {
                tracing::debug!("a function's name is not known: {error}");
            }
            Err(error) => {
                pages.push(page);
                let missing: usize = pages.iter().map(|page| page.len()).sum();
                tracing::warn!("{missing} tasks are shown without their functions' names: {error}");
                break;
            }
        }
    }
    names
}

fn msg_type_of(record: &Map<String, Value>) -> &str {
    let header = record.get("header");
    let msg_type = header.and_then(|header| header["msg_type"].as_str());
    msg_type.unwrap_or_default()
}

/// Records in the words of the status page. Engines are numbered as they come: their ids are not recorded.
fn state_of(
    records: &[Map<String, Value>],
    names: &BTreeMap<String, String>,
    count: usize,
    profile: &str,
) -> Value {
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
        let known = text("msg_id").and_then(|id| names.get(id));
        let name = match (known, msg_type_of(record)) {
            (Some(name), _) => name,
            (None, "") => "?",
            (None, msg_type) => msg_type.trim_end_matches("_request"),
        };
        let error = match status {
            "ok" => None,
            _ => record
                .get("result_content")
                .and_then(|content| error_of(content.to_string().as_bytes())),
        };
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
            error,
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
    use crate::hubclient::HubError;

    fn record(id: &str, msg_type: &str) -> Map<String, Value> {
        let record = json!({"msg_id": id, "header": {"msg_type": msg_type}, "content": {"code": "import a"}});
        record.as_object().unwrap().clone()
    }

    fn applied(count: usize) -> Vec<Map<String, Value>> {
        let ids = (0..count).map(|id| id.to_string());
        ids.map(|id| record(&id, "apply_request")).collect()
    }

    fn found(page: &[String]) -> Vec<(String, Vec<&'static [u8]>)> {
        const WORK: &[u8] = b"\x80\x04\x8c\x04math\x94\x8c\x04work\x94\x93\x94.";
        page.iter().map(|id| (id.clone(), vec![WORK])).collect()
    }

    #[test]
    fn what_is_refused_is_asked_for_in_smaller_pages() {
        let mut records = applied(250);
        records.push(record("executed", "execute_request"));
        // Another version's record.
        records.push(Map::new());
        let names = names(&records, |page| {
            if page.len() > 10 || page.iter().any(|id| id == "7") {
                let (ename, evalue) = ("ValueError".to_owned(), "too large".to_owned());
                return Err(AskError::Refused { ename, evalue });
            }
            Ok(found(page))
        });
        assert_eq!(names.len(), 250);
        assert_eq!(names["executed"], "execute: import a");
        assert_eq!(names["249"], "work");
        assert!(!names.contains_key("7"));
    }

    #[test]
    fn a_hub_that_does_not_answer_is_asked_no_more() {
        let mut asked = 0;
        let names = names(&applied(10 * BUFFERS), |page| {
            asked += 1;
            if asked < 3 {
                return Ok(found(page));
            }
            let url = "tcp://127.0.0.1:1".to_owned();
            Err(HubError::TimedOut { url, seconds: 60.0 }.into())
        });
        assert_eq!((asked, names.len()), (3, 2 * BUFFERS));
    }

    #[test]
    fn records_become_a_stream() {
        let record = |id: &str, engine: &str, status: &str, seconds: u32| {
            let record = json!({
                "msg_id": id, "engine_uuid": engine, "queue": "task", "header": {"msg_type": "apply_request"},
                "result_metadata": {"status": status}, "result_content": {"ename": "ValueError", "evalue": "no"}, "submitted": "2026-01-01T00:00:00Z",
                "started": format!("2026-01-01T00:00:0{seconds}Z"), "completed": format!("2026-01-01T00:00:0{}Z", seconds + 1),
            });
            record.as_object().unwrap().clone()
        };
        let records = [
            record("a", "x", "ok", 1),
            record("b", "y", "error", 2),
            record("c", "x", "ok", 3),
        ];
        let names = BTreeMap::from([("b".to_owned(), "map work".to_owned())]);
        let state = state_of(&records, &names, 3, "lab");
        assert_eq!(
            state["stream"][1],
            json!([
                1,
                1,
                2_000_000,
                3_000_000,
                "failed",
                "map work",
                null,
                "b",
                null,
                0,
                "task",
                "ValueError: no"
            ])
        );
        assert_eq!(state["stream"][2][1], 0);
        assert_eq!(state["stream"][0][5], "apply");
        assert_eq!(state["totals"]["task"]["failed"], 1);
        assert_eq!(state["now"], 4_000_000);
    }
}
