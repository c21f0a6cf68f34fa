//! How fast the task databases are:
//! `cargo bench --bench taskdb -- [RECORDS [FOLDER [STOCK_RECORDS]]] [--only=memory|sqlite|long|stock]`.
//!
//! Tasks go through the recorder as they do in a controller (submitted, assigned, completed: three reports with
//! headers, metadata and 1 kB of buffers); then the store is asked what users ask. The recorder runs on one thread, so
//! tasks per second are those of one core. With STOCK_PYTHON set, ipyparallel's databases do the same.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipcluster::hub::recorder::{Ask, Recorder, StoredMessage, Traffic};
use ipcluster::protocol::{MsgId, Timestamp};
use ipcluster::taskdb::memory::{Limits, MemoryStore};
use ipcluster::taskdb::none::NoStore;
use ipcluster::taskdb::sqlite::{COMMIT_INTERVAL, SqliteConfig, SqliteStore, default_path};
use ipcluster::taskdb::{Queue, TaskStore};
use jiff::tz::TimeZone;
use serde_json::json;

const ENGINES: u64 = 100;
const START: i64 = 1_700_000_000_000_000;
/// Marks a run in which each report of a task is written before the next.
const LONG: &str = "long tasks";
/// Tasks that are under way at a time.
const WINDOW: u64 = 500;

fn at(n: u64) -> Timestamp {
    Timestamp::from_micros(START + i64::try_from(n).expect("a small number") * 1000)
}

fn msg_id(n: u64) -> String {
    format!("1f2e3d4c-5b6a7988c0ffee0123456789_4711_{n}")
}

fn engine(n: u64) -> String {
    format!("0123456789-abcdef-engine-{:04}", n % ENGINES)
}

fn label(n: u64) -> String {
    format!("group_{:03}/part_{}", n % 1000, n % 7)
}

fn header(msg_id: &str, kind: &str, session: &str, date: Timestamp) -> String {
    format!(
        r#"{{"msg_id": "{msg_id}", "msg_type": "{kind}", "username": "user", "session": "{session}", "date": "{date}", "version": "5.3"}}"#
    )
}

/// The three reports of a task, made beforehand so that only the recorder is timed.
fn reports(n: u64, payload: &Bytes) -> [Traffic; 3] {
    let id = msg_id(n);
    let engine = engine(n);
    let request = header(
        &id,
        "apply_request",
        "1f2e3d4c-5b6a7988c0ffee0123456789",
        at(n),
    );
    let reply = header(&format!("{engine}_{n}"), "apply_reply", &engine, at(n + 3));
    let metadata = format!(
        r#"{{"after": [], "follow": [], "timeout": null, "targets": [], "retries": 0, "label": "{}"}}"#,
        label(n)
    );
    let result_metadata = format!(
        r#"{{"started": "{}", "dependencies_met": true, "engine": "{engine}", "is_broadcast": false, "is_coalescing": false, "original_msg_id": "", "label": null, "status": "ok"}}"#,
        at(n + 1)
    );
    [
        Traffic::Submitted {
            queue: Queue::Task,
            engine: None,
            message: StoredMessage {
                header: request.clone().into(),
                parent_header: "{}".into(),
                metadata: metadata.into(),
                content: "{}".into(),
                buffers: vec![payload.clone(), payload.slice(..100)],
            },
        },
        Traffic::Assigned {
            msg_id: MsgId::from(id),
            engine: engine.as_str().into(),
        },
        Traffic::Completed {
            engine: None,
            received: at(n + 4),
            message: StoredMessage {
                header: reply.into(),
                parent_header: request.into(),
                metadata: result_metadata.into(),
                content: r#"{"status": "ok"}"#.into(),
                buffers: vec![payload.slice(..60)],
            },
        },
    ]
}

/// What the tasks took.
#[derive(Default)]
struct Spent {
    time: Duration,
    /// Of this thread: on a busy machine the figure to go by.
    cpu: Duration,
    longest_flush: Duration,
}

/// Time that this thread has been running.
fn cpu() -> Duration {
    run_time(Path::new("/proc/thread-self"))
}

/// Time that all threads have been running.
fn process_cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task");
    let threads = threads.into_iter().flatten().flatten();
    threads.map(|thread| run_time(&thread.path())).sum()
}

fn run_time(thread: &Path) -> Duration {
    let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

/// Runs the tasks, of which [`WINDOW`] are always under way; flushes as a controller does, and between the reports of
/// `long` tasks.
fn run<S: TaskStore>(recorder: &mut Recorder<S>, tasks: u64, long: bool) -> Spent {
    let payload = Bytes::from(vec![b'x'; 850]);
    let mut spent = Spent::default();
    let mut since_flush = Duration::ZERO;
    let mut results = Vec::new();
    for window in 0..=tasks.div_ceil(WINDOW) {
        let range = window * WINDOW..((window + 1) * WINDOW).min(tasks);
        let mut phases = [Vec::new(), Vec::new(), std::mem::take(&mut results)];
        for n in range {
            let [submitted, assigned, completed] = reports(n, &payload);
            phases[0].push(submitted);
            phases[1].push(assigned);
            results.push(completed);
        }
        let (before, cpu_before) = (Instant::now(), cpu());
        for phase in phases {
            for report in phase {
                recorder.on_traffic(report).expect("the store takes it");
            }
            if long {
                recorder.store().flush().expect("the store flushes");
            }
        }
        let mut took = before.elapsed();
        since_flush += took;
        if since_flush >= COMMIT_INTERVAL {
            let before = Instant::now();
            recorder.store().flush_due().expect("the store flushes");
            spent.longest_flush = spent.longest_flush.max(before.elapsed());
            took += before.elapsed();
            since_flush = Duration::ZERO;
        }
        spent.time += took;
        spent.cpu += cpu() - cpu_before;
    }
    let before = Instant::now();
    recorder.store().flush().expect("the store flushes");
    spent.time += before.elapsed();
    spent
}

fn ask<S: TaskStore>(
    recorder: &mut Recorder<S>,
    what: &str,
    msg_type: &str,
    content: &serde_json::Value,
) {
    let content = content.to_string();
    let mut times = Vec::new();
    let mut size = 0;
    for _ in 0..5 {
        let before = Instant::now();
        let answer = recorder.answer(
            msg_type,
            content.as_bytes(),
            &mut Ask {
                now: at(0),
                new_id: &mut || MsgId::from("new"),
                engine: &|_| None,
                behind: Default::default(),
            },
        );
        times.push(before.elapsed());
        size = answer.content.len();
        assert!(
            answer.content.starts_with(br#"{"status":"ok""#),
            "{answer:?}"
        );
        if times[0] > Duration::from_secs(2) {
            break;
        }
    }
    times.sort_unstable();
    let median = times[times.len() / 2].as_secs_f64() * 1e3;
    println!("  {what:<44} {median:>10.3} ms  {size:>11} bytes");
}

fn questions<S: TaskStore>(recorder: &mut Recorder<S>, tasks: u64) {
    let middle = tasks / 2;
    let db =
        |query: serde_json::Value, keys: serde_json::Value| json!({"query": query, "keys": keys});
    let ids: Vec<String> = (middle..middle + 100).map(msg_id).collect();
    ask(
        recorder,
        "get_result of 1",
        "result_request",
        &json!({"msg_ids": [msg_id(middle)]}),
    );
    ask(
        recorder,
        "get_result of 100",
        "result_request",
        &json!({"msg_ids": ids}),
    );
    ask(
        recorder,
        "by msg_id",
        "db_request",
        &db(json!({"msg_id": msg_id(middle)}), json!(null)),
    );
    let range = json!({"submitted": {"$gte": at(middle), "$lt": at(middle + 100)}});
    ask(
        recorder,
        "by time, 100 records",
        "db_request",
        &db(range, json!(null)),
    );
    let last = json!({"submitted": {"$gte": at(tasks - 100)}});
    ask(
        recorder,
        "the newest 100",
        "db_request",
        &db(last, json!(null)),
    );
    ask(
        recorder,
        "unfinished (none)",
        "db_request",
        &db(json!({"completed": null}), json!(["msg_id", "started"])),
    );
    ask(
        recorder,
        "by engine, 1%, ids",
        "db_request",
        &db(json!({"engine_uuid": engine(7)}), json!([])),
    );
    ask(
        recorder,
        "by label glob, 0.1%",
        "db_request",
        &db(json!({"label": {"$glob": "group_123/*"}}), json!(null)),
    );
    ask(
        recorder,
        "by label glob without a prefix, ids",
        "db_request",
        &db(json!({"label": {"$glob": "*_123/part_3"}}), json!([])),
    );
    ask(
        recorder,
        "by header.msg_type, none (a full scan)",
        "db_request",
        &db(json!({"header.msg_type": "execute_request"}), json!([])),
    );
    ask(recorder, "history", "history_request", &json!({}));
}

fn bench<S: TaskStore>(name: &str, store: S, tasks: u64) -> Recorder<S> {
    let mut recorder = Recorder::new(store, TimeZone::UTC);
    let spent = run(&mut recorder, tasks, name.ends_with(LONG));
    let seconds = spent.time.as_secs_f64();
    println!(
        "{name}: {tasks} tasks in {seconds:.2} s, {:.0} tasks/s; {:.1} us of CPU for a task, longest flush {:.1} ms",
        tasks as f64 / seconds,
        spent.cpu.as_secs_f64() * 1e6 / tasks as f64,
        spent.longest_flush.as_secs_f64() * 1e3,
    );
    recorder
}

/// The original's databases in the same run. They are slow, so that they get fewer tasks.
fn stock(tasks: u64, folder: &Path) {
    let Some(python) = std::env::var_os("STOCK_PYTHON") else {
        println!("(STOCK_PYTHON names no Python with ipyparallel: no comparison)");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/taskdb_stock.py");
    let status = Command::new(python)
        .arg(script)
        .arg(tasks.to_string())
        .arg(folder)
        .status()
        .expect("Python starts");
    assert!(status.success(), "{status}");
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

fn resident() -> u64 {
    status("VmRSS:")
}

/// The most that there has been since this was last asked for.
fn peak() -> u64 {
    let peak = status("VmHWM:");
    // Makes the kernel begin anew.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    peak
}

/// Kilobytes.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.unwrap_or_default()
}

fn main() {
    let (flags, arguments): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|text| text.starts_with("--"));
    let only = flags.iter().find_map(|flag| flag.strip_prefix("--only="));
    let is_wanted = |name: &str| only.is_none_or(|only| only == name);
    let mut arguments = arguments.into_iter();
    let tasks: u64 = arguments
        .next()
        .map_or(1_000_000, |n| n.parse().expect("a number of records"));
    let folder = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    // ipyparallel's are slow: a tenth will do, unless somebody has the time.
    let stock_tasks = match arguments.next() {
        Some(n) => n.parse().expect("a number of records"),
        None => tasks.min(100_000),
    };
    if is_wanted("memory") {
        in_memory(tasks);
    }
    if is_wanted("sqlite") {
        in_a_file(tasks, &folder);
    }
    if is_wanted("long") {
        let path = path(&folder);
        let store = SqliteStore::open(&SqliteConfig::new(&path)).expect("the file can be made");
        drop(bench(
            &format!("SQLiteDB, {LONG}"),
            store,
            tasks.min(200_000),
        ));
        remove(&path);
    }
    if is_wanted("stock") {
        stock(stock_tasks, &folder);
    }
}

fn in_memory(tasks: u64) {
    bench("NoDB", NoStore, tasks);
    bench(
        "DictDB, 1,024 records",
        MemoryStore::new(Limits::default()),
        tasks,
    );
    let before = resident();
    let limits = Limits {
        record_limit: usize::MAX,
        size_limit: u64::MAX,
        ..Limits::default()
    };
    let mut recorder = bench("DictDB, all records", MemoryStore::new(limits), tasks);
    println!(
        "  {} B of memory for a record",
        (resident().saturating_sub(before)) * 1024 / tasks
    );
    questions(&mut recorder, tasks);
}

fn in_a_file(tasks: u64, folder: &Path) {
    let path = path(folder);
    let store = SqliteStore::open(&SqliteConfig::new(&path)).expect("the file can be made");
    let all = process_cpu();
    let mut recorder = bench("SQLiteDB", store, tasks);
    println!(
        "  {:.1} us of CPU for a task in the whole process, checkpoints and the making of reports included",
        (process_cpu() - all).as_secs_f64() * 1e6 / tasks as f64
    );
    let stats = recorder.store().stats().expect("the file can be read");
    println!(
        "  {:.0} MB, {} B for a record",
        stats.bytes as f64 / 1e6,
        stats.bytes / stats.records.max(1)
    );
    peak();
    let before = resident();
    questions(&mut recorder, tasks);
    println!(
        "  {} MB more of memory at most for these answers",
        peak().saturating_sub(before) / 1024
    );
    recorder.store().close().expect("the file can be closed");
    drop(recorder);
    remove(&path);
}

fn path(folder: &Path) -> PathBuf {
    let name = format!("taskdb-bench-{}.db", std::process::id());
    default_path(folder).with_file_name(name)
}
