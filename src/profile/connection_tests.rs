use super::*;

use proptest::prelude::*;

/// As ipyparallel 9.2 writes it.
const CLIENT: &str = r#"{
  "ssh": "",
  "interface": "tcp://127.0.0.1",
  "registration": 59071,
  "control": 39395,
  "mux": 39883,
  "task": 45475,
  "task_scheme": "leastload",
  "iopub": 33577,
  "notification": 51837,
  "broadcast": 37359,
  "key": "9d9da27d-1e08f437207a03237e92751a",
  "curve_serverkey": null,
  "location": "vm",
  "pack": "json",
  "unpack": "json",
  "signature_scheme": "hmac-sha256"
}"#;

const ENGINE: &str = r#"{
  "ssh": "",
  "interface": "tcp://127.0.0.1",
  "registration": 59071,
  "control": 55365,
  "mux": 47887,
  "task": 49245,
  "iopub": 46893,
  "hb_ping": 47081,
  "hb_pong": 52713,
  "broadcast": [
    42497,
    45589
  ],
  "key": "9d9da27d-1e08f437207a03237e92751a",
  "curve_serverkey": null,
  "location": "vm",
  "pack": "json",
  "unpack": "json",
  "signature_scheme": "hmac-sha256"
}"#;

fn pair(folder: &Path, client: &str, engine: &str) -> ConnectionFiles {
    let files = ConnectionFiles::paths(folder, &ClusterId("a".into()));
    std::fs::write(&files.client, client).unwrap();
    std::fs::write(&files.engine, engine).unwrap();
    files
}

#[test]
fn what_is_read_is_written_back_to_the_letter() {
    let folder = tempfile::tempdir().unwrap();
    let files = pair(folder.path(), CLIENT, ENGINE);
    assert!(files.client.ends_with("ipcontroller-a-client.json"));
    let (client, engine) = files.read().unwrap();
    files.write(&client, &engine).unwrap();
    assert_eq!(std::fs::read_to_string(&files.client).unwrap(), CLIENT);
    assert_eq!(std::fs::read_to_string(&files.engine).unwrap(), ENGINE);
    assert_eq!(
        EngineFile::from_variable(&engine.to_variable()).unwrap(),
        engine
    );
    files.remove().unwrap();
    files.remove().unwrap();
    assert!(matches!(files.read(), Err(ConnectionError::Missing(path)) if path == files.engine));
}

#[test]
fn urls_are_interface_and_port() {
    let client: ClientFile = serde_json::from_str(CLIENT).unwrap();
    assert_eq!(
        client.url(Channel::Notification).unwrap(),
        "tcp://127.0.0.1:51837"
    );
    assert_eq!(client.url(Channel::HeartbeatPing), None);
    assert_eq!(client.broadcast_url().unwrap(), "tcp://127.0.0.1:37359");
    let mut engine: EngineFile = serde_json::from_str(ENGINE).unwrap();
    assert_eq!(
        engine.url(Channel::HeartbeatPong).unwrap(),
        "tcp://127.0.0.1:52713"
    );
    assert_eq!(engine.url(Channel::Notification), None);
    assert_eq!(engine.broadcast_url(3).unwrap(), "tcp://127.0.0.1:45589");
    engine.broadcast.clear();
    assert_eq!(engine.broadcast_url(3), None);
    engine.interface = "ipc:///tmp/sockets".into();
    assert_eq!(
        engine.url(Channel::Mux).unwrap(),
        "ipc:///tmp/sockets-47887"
    );
}

#[test]
fn unknown_keys_are_kept_and_null_ssh_is_none() {
    let text = ENGINE
        .replace("\"ssh\": \"\"", "\"ssh\": null, \"later\": [1]")
        .replace("\"location\": \"vm\"", "\"location\": null");
    let engine = EngineFile::from_variable(&text).unwrap();
    assert_eq!(engine.ssh, "");
    assert_eq!(engine.common.location, "");
    assert_eq!(engine.unknown["later"], serde_json::json!([1]));
    assert!(engine.to_variable().contains("\"later\":[1]"));
}

#[test]
fn errors_name_file_key_and_remedy() {
    let error = |text: &str| EngineFile::from_variable(text).unwrap_err().to_string();
    for (from, to, said) in [
        ("\"hb_ping\"", "\"hb_pin\"", "has no \"hb_ping\""),
        ("47081", "\"47081\"", "\"hb_ping\""),
        ("47081", "0", "port (1 to 65535)"),
        ("47081", "70000", "port (1 to 65535)"),
        ("47081", "-1", "port (1 to 65535)"),
        ("tcp://127.0.0.1", "127.0.0.1", "tcp://127.0.0.1"),
        ("\"pack\": \"json\"", "\"pack\": \"pickle\"", "\"pickle\""),
        ("hmac-sha256", "hmac-md5", "only \"hmac-sha256\""),
        ("{", "[", "no connection file"),
        ("[\n", "[\n\"x\",", "no connection file"),
    ] {
        let error = error(&ENGINE.replacen(from, to, 1));
        assert!(error.contains(said), "{error}");
        assert!(error.contains("$IPP_CONNECTION_INFO"), "{error}");
    }
    assert!(error("").contains("start the controller again"));
}

#[test]
fn the_two_files_must_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let other = ENGINE.replace("59071", "59072");
    let error = pair(folder.path(), CLIENT, &other).read().unwrap_err();
    assert!(
        error.to_string().contains("differ in \"registration\""),
        "{error}"
    );
    let other = ENGINE.replace("9d9d", "9d9e");
    let error = pair(folder.path(), CLIENT, &other).read().unwrap_err();
    assert!(error.to_string().contains("differ in \"key\""), "{error}");
    std::fs::write(folder.path().join("binary"), b"\xff\xfe").unwrap();
    let error = ClientFile::read(&folder.path().join("binary")).unwrap_err();
    assert!(error.to_string().contains("not text"), "{error}");
}

#[test]
fn the_key_stays_out_of_debug_output() {
    let engine: EngineFile = serde_json::from_str(ENGINE).unwrap();
    assert!(!format!("{engine:?}").contains("9d9da27d"));
}

#[test]
fn interfaces_become_connectable() {
    let host = Host {
        name: "here".into(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
    };
    let resolve = |name: &str| match name {
        "here.example" => "192.0.2.1".parse().ok(),
        "there" => "192.0.2.9".parse().ok(),
        "six" => "2001:db8::9".parse().ok(),
        _ => None,
    };
    for (interface, location, expected) in [
        ("tcp://192.0.2.5", "there", "tcp://192.0.2.5"),
        ("tcp://*", "", "tcp://127.0.0.1"),
        ("tcp://0.0.0.0", "here", "tcp://127.0.0.1"),
        ("tcp://*", "here.example", "tcp://127.0.0.1"),
        ("tcp://*", "192.0.2.1", "tcp://127.0.0.1"),
        ("tcp://*", "127.0.0.1", "tcp://127.0.0.1"),
        ("tcp://0.0.0.0", "there", "tcp://192.0.2.9"),
        ("tcp://*", "six", "tcp://[2001:db8::9]"),
        ("tcp://*", "192.0.2.9", "tcp://192.0.2.9"),
        ("tcp://*", "nowhere", "tcp://nowhere"),
        ("nonsense", "there", "nonsense"),
        ("ipc://*", "", "ipc://127.0.0.1"),
    ] {
        assert_eq!(
            disambiguate(interface, location, &host, resolve),
            expected,
            "{interface} {location}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*", at in 0..ENGINE.len(), junk in "[\"{}\\[\\]:,0-9a-z]{0,3}") {
        let _ = EngineFile::from_variable(&text);
        if ENGINE.is_char_boundary(at) {
            let mut broken = ENGINE.to_owned();
            broken.insert_str(at, &junk);
            let _ = EngineFile::from_variable(&broken);
        }
    }
}
