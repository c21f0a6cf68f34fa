use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use rusqlite::params_from_iter;
use serde_json::json;
use tempfile::TempDir;

use super::pushdown::Condition;
use super::*;
use crate::taskdb::record::{Key, dropped_bytes};
use crate::taskdb::testing::{
    any_query, any_record, compare, conformance, full_record, ids, record, time, with_buffer,
};

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn config(dir: &TempDir) -> SqliteConfig {
    SqliteConfig::new(default_path(dir.path()))
}

fn open(dir: &TempDir) -> SqliteStore {
    SqliteStore::open(&config(dir)).unwrap()
}

fn in_memory() -> SqliteStore {
    SqliteStore::open(&SqliteConfig::new(":memory:")).unwrap()
}

fn fault_of<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> Fault {
    match outcome.unwrap_err() {
        StoreError::Fault { fault, .. } => fault,
        other => unreachable!("{other}"),
    }
}

#[test]
fn it_does_what_every_store_does() {
    conformance(&mut open(&dir()));
}

proptest! {
    #[test]
    fn sql_means_what_the_matcher_means(
        records in prop::collection::vec(any_record(), 1..12),
        queries in prop::collection::vec(any_query(), 1..12),
    ) {
        compare(&mut in_memory(), &records, &queries)?;
    }
}

#[test]
fn nobody_else_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let dir = dir();
    let mut store = open(&dir);
    store.add(full_record(1)).unwrap();
    store.flush_due().unwrap();
    let mut count = 0;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", file.path());
        count += 1;
    }
    assert!(count >= 2, "the log lies beside the database");
}

#[test]
fn records_outlive_the_store() {
    let dir = dir();
    let mut store = open(&dir);
    store.add(full_record(1)).unwrap();
    store.close().unwrap();
    drop(store);
    let mut store = open(&dir);
    assert_eq!(store.get("session_1_1").unwrap(), Some(full_record(1)));
    assert_eq!(store.stats().unwrap().records, 1);
    // A fresh table when none is named.
    let fresh = SqliteConfig {
        table: String::new(),
        session: "12-ab".to_owned(),
        ..config(&dir)
    };
    let mut store = SqliteStore::open(&fresh).unwrap();
    assert_eq!(store.table(), "_12_ab");
    assert_eq!(store.stats().unwrap().records, 0);
}

#[test]
fn a_reader_holds_up_no_writing_and_sees_one_moment() {
    let dir = dir();
    let mut store = open(&dir);
    for n in 0..100 {
        store.add(record(n)).unwrap();
    }
    store.flush().unwrap();
    let mut reader = store.reader().unwrap().unwrap();
    let mut seen = 0;
    reader
        .find(&Query::everything(), KeySet::ALL, &mut |_| {
            seen += 1;
            store.add(record(1000 + seen)).unwrap();
            store.flush().unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, 100, "not those that were added meanwhile");
    assert_eq!(reader.history().unwrap().len(), 200);
    assert!(reader.get("session_1_1100").unwrap().is_some());
    assert!(in_memory().reader().unwrap().is_none());
}

#[test]
fn what_waits_while_the_file_is_at_fault_is_bounded_and_what_is_lost_is_counted() {
    let dir = dir();
    let mut store = SqliteStore::open(&SqliteConfig {
        backlog_limit: 1_000_000,
        ..config(&dir)
    })
    .unwrap();
    store.file.db.busy_timeout(Duration::ZERO).unwrap();
    let other = Connection::open(default_path(dir.path())).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    store.add(record(-1)).unwrap();
    assert_eq!(fault_of(store.flush()), Fault::Locked);
    let mut lost = 0;
    for n in 0..50 {
        lost += u64::from(store.add(with_buffer(n, 50_000)).is_err());
    }
    let backlog = store.backlog();
    assert!(lost > 0 && backlog.refused == lost, "{backlog:?}");
    assert!(backlog.bytes < 1_100_000, "{backlog:?}");
    other.execute_batch("ROLLBACK").unwrap();
    store.flush().unwrap();
    assert_eq!(store.history().unwrap().len() as u64, 51 - lost);
    store.add(record(99)).unwrap();
    assert_eq!(store.backlog().refused, lost);
}

#[test]
fn what_is_flushed_is_in_the_file() {
    let dir = dir();
    let mut store = open(&dir);
    store.add(record(1)).unwrap();
    assert_eq!(store.backlog().records, 1);
    store.flush().unwrap();
    assert_eq!(store.backlog(), Backlog::default());
    // As after a kill: nothing is closed.
    std::mem::forget(store);
    assert!(open(&dir).get("session_1_1").unwrap().is_some());
}

/// The writer of the next test: a process that is killed at some moment. It prints what was flushed.
#[test]
#[ignore = "run by the test of kills"]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os("TASKDB_TEST_PATH") else {
        return;
    };
    let mut store = SqliteStore::open(&SqliteConfig::new(path)).unwrap();
    for n in 0.. {
        store.add(with_buffer(n, 40_000)).unwrap();
        let update = RecordUpdate {
            completed: Some(time(n)),
            ..Default::default()
        };
        store.update(&record(n / 2).msg_id, update).unwrap();
        if n % 7 == 0 {
            store.flush().unwrap();
            println!("\nflushed {n}");
        }
    }
}

#[test]
fn a_kill_loses_nothing_that_was_flushed() {
    for round in 0..5 {
        let dir = dir();
        let path = default_path(dir.path());
        let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("taskdb::sqlite::tests::writes_until_it_is_killed")
            .env("TASKDB_TEST_PATH", &path)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(150 + 37 * round));
        writer.kill().unwrap();
        let output = writer.wait_with_output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        // The last line may be cut short.
        let lines = output
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let flushed = lines.filter_map(|line| line.trim().strip_prefix("flushed ")?.parse().ok());
        let Some(last) = flushed.max() else {
            continue;
        };
        let mut store = open(&dir);
        let intact: String = store
            .file
            .db
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(intact, "ok");
        for n in 0..=last {
            let stored = store.get(record(n).msg_id.as_str()).unwrap().unwrap();
            assert_eq!(stored.buffers, with_buffer(n, 40_000).buffers);
            assert!(stored.completed.is_some() || n > last / 2, "{n} of {last}");
        }
    }
}

#[test]
fn a_task_that_is_done_in_time_is_written_once() {
    let mut store = in_memory();
    store.add(record(1)).unwrap();
    for _ in 0..3 {
        let update = RecordUpdate {
            stdout: "x".into(),
            completed: Some(time(5)),
            ..Default::default()
        };
        store.update(&record(1).msg_id, update).unwrap();
    }
    assert_eq!(store.backlog().records, 1);
    let stored = store.get("session_1_1").unwrap().unwrap();
    assert_eq!(
        (stored.stdout.as_str(), stored.completed),
        ("xxx", Some(time(5)))
    );
    for n in 0..2 * 4000 {
        store.add(record(n)).unwrap();
        assert!(store.backlog().records < 4000);
    }
}

#[test]
fn a_write_leaves_the_young_and_unfinished_for_the_next() {
    let mut store = in_memory();
    let done = RecordUpdate {
        completed: Some(time(5)),
        ..Default::default()
    };
    for n in [1, 2, 3] {
        store.add(record(n)).unwrap();
    }
    store.change(&record(1).msg_id, done.clone()).unwrap();
    store.flush_due().unwrap();
    assert_eq!(store.backlog().records, 2);
    // A change of what is written already, and one of nothing.
    let output = RecordUpdate {
        stdout: "late".into(),
        ..Default::default()
    };
    store.change(&record(1).msg_id, output.clone()).unwrap();
    store.change(&"unknown".into(), output).unwrap();
    store.flush_due().unwrap();
    assert_eq!(store.backlog().records, 2, "those that have come since");
    store.flush_due().unwrap();
    assert_eq!(store.backlog().records, 0);
    assert_eq!(ids(&mut store, &json!({"completed": null})).len(), 2);
    assert_eq!(ids(&mut store, &json!({"stdout": "late"})), ["session_1_1"]);
}

#[test]
fn a_foreign_table_is_left_alone() {
    let dir = dir();
    let db = Connection::open(default_path(dir.path())).unwrap();
    db.execute_batch("CREATE TABLE 'ipython-tasks' (msg_id text PRIMARY KEY, header dict text)")
        .unwrap();
    let none = SqliteStore::open_existing(&config(&dir)).unwrap_err();
    assert!(none.to_string().contains("another program"), "{none}");
    let mut store = open(&dir);
    assert_eq!(store.table(), "ipython-tasks_1");
    assert!(store.notice().unwrap().contains("ipython-tasks"));
    store.add(record(1)).unwrap();
    store.close().unwrap();
    assert_eq!(open(&dir).stats().unwrap().records, 1);
    let mut found = SqliteStore::open_existing(&config(&dir)).unwrap();
    assert_eq!(found.table(), "ipython-tasks_1");
    assert_eq!(found.stats().unwrap().records, 1);
}

#[test]
fn the_newest_table_is_found_where_each_run_has_its_own() {
    let dir = dir();
    let of_run = |session: &str| SqliteConfig {
        table: String::new(),
        session: session.to_owned(),
        ..config(&dir)
    };
    let none = SqliteStore::open_existing(&of_run("")).unwrap_err();
    assert_eq!(fault_of::<()>(Err(none)), Fault::Unreachable);
    for session in ["b-0", "a-1"] {
        SqliteStore::open(&of_run(session))
            .unwrap()
            .close()
            .unwrap();
    }
    let found = SqliteStore::open_existing(&of_run("")).unwrap();
    assert_eq!(found.table(), "_a_1");
    let named = SqliteStore::open_existing(&config(&dir)).unwrap_err();
    assert!(named.to_string().contains("there is _b_0, _a_1"), "{named}");
}

#[test]
fn faults_are_told_at_the_start() {
    let dir = dir();
    let path = default_path(dir.path());
    std::fs::write(
        &path,
        "this is no database, and long enough to look like one".repeat(100),
    )
    .unwrap();
    assert_eq!(fault_of(SqliteStore::open(&config(&dir))), Fault::Corrupt);
    std::fs::remove_file(&path).unwrap();

    open(&dir).close().unwrap();
    let db = Connection::open(&path).unwrap();
    db.execute_batch("UPDATE 'ipcluster-tables' SET version = 99")
        .unwrap();
    assert_eq!(
        fault_of(SqliteStore::open(&config(&dir))),
        Fault::OtherVersion
    );
    assert_eq!(
        fault_of(SqliteStore::open_to_read(&config(&dir))),
        Fault::OtherVersion
    );

    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(fault_of(SqliteStore::open(&config(&dir))), Fault::Locked);

    let nowhere = SqliteConfig::new(dir.path().join("no/such/folder/tasks.db"));
    assert_eq!(fault_of(SqliteStore::open(&nowhere)), Fault::Unreachable);
}

#[test]
fn a_fault_in_flight_heals() {
    let dir = dir();
    let small = SqliteConfig {
        backlog_limit: 20_000,
        ..config(&dir)
    };
    let mut store = SqliteStore::open(&small).unwrap();
    store.file.db.busy_timeout(Duration::ZERO).unwrap();
    let lock = Connection::open(default_path(dir.path())).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut taken = 0;
    for n in 0..100 {
        taken += usize::from(store.add(record(n)).is_ok());
        if n % 10 == 0 {
            assert_eq!(fault_of(store.flush()), Fault::Locked);
        }
    }
    assert!((15..25).contains(&taken), "what waits is bounded: {taken}");
    lock.execute_batch("COMMIT").unwrap();
    store.flush().unwrap();
    assert_eq!(store.history().unwrap().len(), taken);
    store.add(record(200)).unwrap();
    assert_eq!(store.history().unwrap().len(), taken + 1);
}

#[test]
fn a_file_that_becomes_read_only_is_a_fault_that_heals() {
    let dir = dir();
    let mut store = open(&dir);
    let read_only = |store: &SqliteStore, is: bool| {
        let db = &store.file.db;
        db.pragma_update(None, "query_only", is).unwrap();
    };
    read_only(&store, true);
    store.add(record(1)).unwrap();
    assert_eq!(fault_of(store.flush()), Fault::ReadOnly);
    assert_eq!(store.backlog().records, 1);
    read_only(&store, false);
    assert_eq!(ids(&mut store, &json!({})), ["session_1_1"]);
}

#[test]
fn a_full_disk_is_a_fault_that_heals() {
    let mut store = in_memory();
    store
        .file
        .db
        .pragma_update(None, "max_page_count", 60)
        .unwrap();
    store.add(with_buffer(1, 1_000_000)).unwrap();
    assert_eq!(fault_of(store.flush()), Fault::DiskFull);
    assert_eq!(store.backlog().records, 1);
    store
        .file
        .db
        .pragma_update(None, "max_page_count", 10_000)
        .unwrap();
    assert_eq!(
        store.get("session_1_1").unwrap(),
        Some(with_buffer(1, 1_000_000))
    );
}

#[test]
fn too_big_buffers_are_refused_with_a_note() {
    let mut store = in_memory();
    store.buffer_limit = 1000;
    let mut big = full_record(1);
    big.buffers = Some(vec![Bytes::from(vec![1; 2000])]);
    store.add(big).unwrap();
    store.flush().unwrap();
    let update = RecordUpdate {
        result_buffers: Some(vec![Bytes::from(vec![1; 3000])]),
        result_metadata: Some(r#"{"status":"ok"}"#.into()),
        ..Default::default()
    };
    store.update(&record(1).msg_id, update).unwrap();
    let stored = store.get("session_1_1").unwrap().unwrap();
    assert_eq!(stored.buffers, None);
    assert_eq!(dropped_bytes(&stored.metadata.unwrap()), Some(2000));
    let metadata = stored.result_metadata.unwrap();
    assert_eq!(dropped_bytes(&metadata), Some(3000));
    assert_eq!(metadata, r#"{"buffers_dropped":3000,"status":"ok"}"#);
}

#[test]
fn buffers_go_with_their_record() {
    let mut store = in_memory();
    for n in 0..3 {
        store.add(with_buffer(n, 100_000)).unwrap();
    }
    let count = |store: &SqliteStore| -> i64 {
        let sql = format!("SELECT count(*) FROM {}", store.file.tables.buffers);
        store.file.db.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    store.flush().unwrap();
    assert_eq!(count(&store), 3);
    // Again, as after a restart: not twice.
    store.add(with_buffer(1, 100_000)).unwrap();
    store.flush().unwrap();
    assert_eq!(count(&store), 3);
    store.remove(&Query::msg_ids(["session_1_1"])).unwrap();
    assert_eq!(count(&store), 2);
    store.remove(&Query::everything()).unwrap();
    assert_eq!(count(&store), 0);
}

#[test]
fn retention_drops_the_oldest_that_are_finished() {
    let dir = dir();
    let kept = |retention, now: i64| {
        let mut store = in_memory();
        store.retention = retention;
        for n in 0..100 {
            let mut record = with_buffer(n, 20_000);
            record.completed = (n != 3).then(|| time(n + 1));
            store.add(record).unwrap();
        }
        for _ in 0..10 {
            store.maintain(time(now)).unwrap();
        }
        assert_eq!(
            store.stats().unwrap().records,
            store.history().unwrap().len() as u64
        );
        ids(&mut store, &json!({}))
    };
    let none = Retention::default();
    assert_eq!(kept(none, 1000).len(), 100);
    let records = kept(
        Retention {
            records: Some(10),
            ..none
        },
        1000,
    );
    assert_eq!(records.len(), 10);
    assert_eq!(records[..2], ["session_1_3", "session_1_91"]);
    let age = Some(Duration::from_secs(50));
    assert_eq!(kept(Retention { age, ..none }, 120).len(), 31);
    let bytes = kept(
        Retention {
            bytes: Some(1_000_000),
            ..none
        },
        1000,
    );
    assert!((20..60).contains(&bytes.len()), "{}", bytes.len());
    drop(dir);
}

#[test]
fn the_file_shrinks() {
    let dir = dir();
    let mut store = SqliteStore::open(&SqliteConfig {
        retention: Retention {
            records: Some(1),
            ..Default::default()
        },
        ..config(&dir)
    })
    .unwrap();
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    for n in 0..200 {
        let mut record = with_buffer(n, 50_000);
        record.completed = Some(time(n));
        store.add(record).unwrap();
    }
    store.flush().unwrap();
    store.checkpointer = None;
    store
        .file
        .db
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let before = size(&default_path(dir.path()));
    for _ in 0..5 {
        store.maintain(time(1000)).unwrap();
    }
    store.close().unwrap();
    let after = size(&default_path(dir.path()));
    assert!(before > 10_000_000 && after < 500_000, "{before} {after}");
}

#[test]
fn much_is_removed_in_pieces_and_the_file_shrinks() {
    let dir = dir();
    let mut store = open(&dir);
    let count = 2 * retention::PIECE + 1;
    for n in 0..count {
        let n = i64::try_from(n).unwrap();
        let mut record = with_buffer(n, 2000);
        record.completed = (n > 0).then(|| time(n));
        store.add(record).unwrap();
    }
    store.flush().unwrap();
    let finished = Query::completed(true);
    assert_eq!(store.remove(&finished).unwrap(), count - 1);
    assert_eq!(store.remove(&finished).unwrap(), 0);
    assert_eq!(store.stats().unwrap().records, 1);
    store.close().unwrap();
    let size = std::fs::metadata(default_path(dir.path())).unwrap().len();
    assert!(size < 500_000, "{size}");
}

#[test]
fn people_can_read_it() {
    let dir = dir();
    let mut store = open(&dir);
    store.add(full_record(1)).unwrap();
    store.flush().unwrap();
    let reader = Connection::open(default_path(dir.path())).unwrap();
    let sql = "SELECT submitted, label, json_extract(metadata, '$.retries') FROM \"ipython-tasks-readable\"";
    let row: (String, String, i64) = reader
        .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    assert_eq!(
        row,
        ("2023-11-14T22:13:21.000Z".to_owned(), "label".to_owned(), 1)
    );
    // Another process of ours may look into it, too.
    let mut reader = SqliteStore::open_to_read(&config(&dir)).unwrap();
    assert_eq!(reader.history().unwrap().len(), 1);
    assert_eq!(
        fault_of(reader.remove(&Query::everything())),
        Fault::ReadOnly
    );
}

#[test]
fn indexes_are_used() {
    let store = in_memory();
    for (query, index) in [
        (json!({"msg_id": "x"}), "sqlite_autoindex"),
        (json!({"msg_id": {"$in": ["x", "y"]}}), "sqlite_autoindex"),
        (
            json!({"submitted": {"$gt": "2023-01-01", "$lt": "2024-01-01"}}),
            "by-submitted",
        ),
        (json!({"submitted": {"$gte": "2023-01-01"}}), "by-submitted"),
        (json!({"completed": null}), "unfinished"),
        (
            json!({"completed": {"$exists": false}, "queue": "task"}),
            "unfinished",
        ),
        (json!({"engine_uuid": "e"}), "by-engine"),
        (
            json!({"engine_uuid": {"$in": ["e", "f"]}, "queue": "task"}),
            "by-engine",
        ),
        (json!({"label": {"$glob": "group_a/*"}}), "by-label"),
    ] {
        let query_of = Query::parse(&query, &jiff::tz::TimeZone::UTC).unwrap();
        let condition = Condition::of(&query_of);
        let sql = format!(
            "EXPLAIN QUERY PLAN SELECT * FROM {} WHERE {} ORDER BY id",
            store.file.tables.records,
            condition.ordered(&store.file.tables.records)
        );
        let mut statement = store.file.db.prepare(&sql).unwrap();
        let plan: Vec<String> = statement
            .query_map(params_from_iter(&condition.params), |row| row.get(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let plan = plan.join("; ");
        assert!(plan.contains(index), "{query}: {plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{query}: {plan}");
    }
}

#[test]
fn long_queries_are_no_trouble() {
    let mut store = in_memory();
    for n in 0..10 {
        store.add(record(n)).unwrap();
    }
    let many: Vec<_> = (0..5000).map(|n| json!({"label": n.to_string()})).collect();
    assert_eq!(
        ids(&mut store, &json!({"$or": many, "msg_id": {"$ne": "x"}})).len(),
        0
    );
    let names: Vec<String> = (0..50_000).map(|n| format!("session_1_{n}")).collect();
    assert_eq!(
        ids(&mut store, &json!({"msg_id": {"$in": names}})).len(),
        10
    );
    assert_eq!(Key::ALL.len(), 24, "columns and keys change together");
}
