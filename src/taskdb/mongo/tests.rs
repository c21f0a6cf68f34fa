//! Against a real server of MongoDB's protocol: one that `TASKDB_TEST_MONGODB` names (a connection string), or a
//! SecantusDB of our own, which is installed from PyPI into a folder of the build. Where neither can be had, the tests
//! say that they are skipped.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::os::ports::free_ports;
use crate::taskdb::record::dropped_bytes;
use crate::taskdb::testing::{
    any_query, any_record, compare, conformance, full_record, ids, record, time, with_buffer,
};

/// A server, and its end.
struct Server {
    uri: String,
    process: Option<(Child, TempDir)>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((process, _)) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Server {
    fn start() -> Option<Self> {
        if let Ok(uri) = std::env::var("TASKDB_TEST_MONGODB") {
            return Some(Self { uri, process: None });
        }
        let command = match install() {
            Ok(command) => command,
            Err(why) => {
                eprintln!("SKIPPED: no server of MongoDB's protocol: {why}");
                return None;
            }
        };
        let port = free_ports([0]).unwrap()[0];
        let folder = tempfile::tempdir().unwrap();
        let process = launch(&command, port, folder.path());
        let server = Self {
            uri: format!("mongodb://127.0.0.1:{port}"),
            process: Some((process, folder)),
        };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "the server does not start"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }

    fn config(&self, collection: &str) -> MongoConfig {
        MongoConfig {
            uri: self.uri.clone(),
            database: "taskdb-test".to_owned(),
            collection: format!("{collection}-{}", std::process::id()),
            ..MongoConfig::default()
        }
    }

    fn open(&self, collection: &str) -> MongoStore {
        MongoStore::open(&self.config(collection)).unwrap()
    }
}

fn launch(command: &Path, port: u16, folder: &Path) -> Child {
    Command::new(command)
        .args([
            "--host",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--storage-path",
        ])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Where `secantusd-py` is, installed if need be.
fn install() -> Result<PathBuf, String> {
    let target = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = target.ancestors().nth(3).ok_or("no folder of the build")?;
    let venv = target.join("secantusdb");
    let command = venv.join("bin/secantusd-py");
    let run = |program: &Path, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let errors = BufReader::new(&*output.stderr)
            .lines()
            .map_while(Result::ok);
        Err(format!(
            "{}: {}",
            program.display(),
            errors.last().unwrap_or_default()
        ))
    };
    // One at a time: the tests run in one process and share it.
    static INSTALLING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = INSTALLING.lock();
    if !command.exists() {
        run(
            Path::new("python3"),
            &["-m", "venv", &venv.to_string_lossy()],
        )?;
        run(&venv.join("bin/pip"), &["install", "-q", "SecantusDB"])?;
    }
    Ok(command)
}

#[test]
fn it_does_what_every_store_does() {
    let Some(server) = Server::start() else {
        return;
    };
    conformance(&mut server.open("conformance"));

    // What was written is there for the next.
    let mut store = server.open("lasting");
    store.add(full_record(1)).unwrap();
    store.close().unwrap();
    let mut store = server.open("lasting");
    assert_eq!(ids(&mut store, &json!({})), ["session_1_1"]);
    let again = store.update(
        &record(1).msg_id,
        RecordUpdate {
            stdout: "!".into(),
            ..Default::default()
        },
    );
    assert_eq!(again, Ok(true));
    assert_eq!(store.get("session_1_1").unwrap().unwrap().stdout, "out!");

    // JSON that no document can hold comes back as it was.
    let odd = r#"{"$set":1,"a.b":2,"":3,"n\u0000":18446744073709551615}"#;
    let mut strange = record(2);
    strange.metadata = Some(Bytes::from_static(odd.as_bytes()));
    strange.content = Some(Bytes::from_static(b"no json"));
    store.add(strange.clone()).unwrap();
    assert_eq!(store.get("session_1_2").unwrap(), Some(strange));
    assert_eq!(
        ids(&mut store, &json!({"metadata.$set": 1})),
        ["session_1_2"]
    );

    // Too big for a document.
    store.add(with_buffer(3, 20_000_000)).unwrap();
    store.add(with_buffer(4, 5_000_000)).unwrap();
    let big = store.get("session_1_3").unwrap().unwrap();
    assert_eq!(
        (big.buffers, dropped_bytes(&big.metadata.unwrap())),
        (None, Some(20_000_000))
    );
    assert_eq!(
        store.get("session_1_4").unwrap().unwrap().buffers,
        with_buffer(4, 5_000_000).buffers
    );
    let mut endless = record(5);
    endless.stdout = "x".repeat(20_000_000);
    store.add(endless).unwrap();
    store.add(record(6)).unwrap();
    store.flush().unwrap();
    assert_eq!(store.backlog().refused, 1);
    assert!(store.get("session_1_6").unwrap().is_some());
    store.remove(&Query::everything()).unwrap();
}

#[test]
fn the_server_means_what_the_matcher_means() {
    let Some(server) = Server::start() else {
        return;
    };
    let store = std::cell::RefCell::new(server.open("meaning"));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let records = prop::collection::vec(any_record(), 1..12);
    let queries = prop::collection::vec(any_query(), 1..12);
    let outcome = runner.run(
        &(records, queries),
        |(records, queries): (Vec<_>, Vec<Value>)| {
            let mut store = store.borrow_mut();
            store.remove(&Query::everything()).unwrap();
            compare(&mut *store, &records, &queries)
        },
    );
    outcome.unwrap();
}

#[test]
fn retention_drops_the_oldest_that_are_finished() {
    let Some(server) = Server::start() else {
        return;
    };
    let kept = |name: &str, retention: Retention, now: i64| {
        let config = MongoConfig {
            retention,
            ..server.config(name)
        };
        let mut store = MongoStore::open(&config).unwrap();
        for n in 0..100 {
            let mut record = with_buffer(n, 20_000);
            record.completed = (n != 3).then(|| time(n + 1));
            store.add(record).unwrap();
        }
        for _ in 0..10 {
            store.maintain(time(now)).unwrap();
        }
        // One that was dropped is not changed any more.
        let gone = store.get("session_1_0").unwrap().is_none();
        let changed = store.update(&record(0).msg_id, RecordUpdate::default());
        assert_eq!(changed, Ok(!gone));
        ids(&mut store, &json!({}))
    };
    let none = Retention::default();
    assert_eq!(kept("any", none, 1000).len(), 100);
    let records = Some(10);
    let newest = kept("records", Retention { records, ..none }, 1000);
    assert_eq!(newest.len(), 10);
    assert_eq!(newest[..2], ["session_1_3", "session_1_91"]);
    let age = Some(Duration::from_secs(50));
    assert_eq!(kept("age", Retention { age, ..none }, 120).len(), 31);
    let bytes = Some(1_000_000);
    let left = kept("bytes", Retention { bytes, ..none }, 1000).len();
    assert!((20..60).contains(&left), "{left}");
}

#[test]
fn a_server_may_go_and_come_back() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let Some((process, folder)) = &mut server.process else {
        eprintln!("SKIPPED: this server is not ours to stop");
        return;
    };
    let config = MongoConfig {
        uri: format!(
            "{}/?serverSelectionTimeoutMS=300&connectTimeoutMS=300",
            server.uri
        ),
        database: "taskdb-test".to_owned(),
        ..MongoConfig::default()
    };
    let mut store = MongoStore::open(&config).unwrap();
    store.add(record(1)).unwrap();
    store.flush().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    store.add(record(2)).unwrap();
    let Err(StoreError::Fault { fault, place, .. }) = store.flush() else {
        unreachable!("the server is gone");
    };
    assert_eq!(fault, Fault::Unreachable);
    assert!(place.starts_with("mongodb://127.0.0.1:"));
    assert_eq!(store.backlog().records, 1);
    assert!(MongoStore::open(&config).is_err());

    let port = server.uri.rsplit(':').next().unwrap().parse().unwrap();
    *process = launch(&install().unwrap(), port, folder.path());
    let begin = Instant::now();
    while store.flush().is_err() {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "it does not heal"
        );
    }
    assert_eq!(
        store.history().unwrap(),
        [record(1).msg_id, record(2).msg_id]
    );
}

#[test]
fn updates_are_sent_in_commands_that_a_server_takes() {
    let of = |size: usize| doc! {"q": {"msg_id": "m"}, "u": {"$set": {"stdout": "x".repeat(size)}}};
    let sizes = [1 << 20, 7 << 20, 7 << 20, 7 << 20, 40 << 20, 5, 7 << 20];
    let (commands, refused) = commands(sizes.map(of).to_vec());
    let lens: Vec<usize> = commands.iter().map(Vec::len).collect();
    // Two of 7 MiB, and what surrounds them, are one more than there is room for beside the first.
    assert_eq!((lens, refused), (vec![2, 3, 1], 1));
    for command in commands {
        let command = doc! {"update": "records", "updates": command, "ordered": false};
        assert!(command.to_vec().unwrap().len() < 16 << 20);
    }
}

#[test]
fn a_query_that_no_command_holds_is_answered_all_the_same() {
    let Some(server) = Server::start() else {
        return;
    };
    let mut store = server.open("long");
    for n in 0..10 {
        store.add(record(n)).unwrap();
    }
    let many: Vec<String> = (5..400_005).map(|n| record(n).msg_id.to_string()).collect();
    assert!(!Filter::of(&Query::msg_ids(many.iter().map(String::as_str))).exact);
    assert_eq!(
        ids(&mut store, &json!({"msg_id": {"$in": many}})),
        many[..5]
    );
    let query = Query::msg_ids(many.iter().map(String::as_str));
    assert_eq!(store.remove(&query), Ok(5));
    assert_eq!(store.stats().unwrap().records, 5);
}

#[test]
fn numbers_of_more_than_64_bits_keep_their_digits() {
    for text in [
        r#"{"a":1180591620717411303424}"#,
        r#"{"a":-9223372036854775809}"#,
        r#"{"a":18446744073709551615}"#,
    ] {
        let mut record = record(1);
        record.content = Some(text.into());
        let document = codec::document(&record);
        assert!(matches!(document.get("content"), Some(Bson::Binary(_))));
        assert_eq!(
            codec::record(&document, KeySet::ALL).content,
            record.content
        );
    }
}
