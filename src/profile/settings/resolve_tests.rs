use super::*;

use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use crate::profile::settings::{Database, Ports, Scheme};

fn flag(name: &str) -> Origin {
    Origin::CommandLine(name.to_owned())
}

fn resolve(edits: impl IntoIterator<Item = Edit>) -> Result<Resolved, SettingsError> {
    let mut resolver = Resolver::default();
    resolver.apply_all(edits)?;
    Ok(resolver.finish())
}

fn from_toml(text: &str) -> Result<Resolved, SettingsError> {
    resolve(toml_edits(text, Path::new("ipcluster.toml"))?)
}

#[test]
fn later_values_win_and_origins_follow() {
    let resolved = resolve([
        Edit::set("heartbeat.period_ms", 200, Origin::Environment("X".into())),
        Edit::set("heartbeat.period_ms", 300, flag("--ping")),
        Edit::set("scheduler.scheme", "lru", flag("--scheme")),
    ])
    .unwrap();
    assert_eq!(resolved.settings.heartbeat.period_ms, 300);
    assert_eq!(resolved.settings.scheduler.scheme, Scheme::Lru);
    assert_eq!(resolved.origin("heartbeat.period_ms"), flag("--ping"));
    assert_eq!(resolved.origin("heartbeat.max_misses"), Origin::Default);
    assert!(!resolved.is_set("heartbeat.max_misses"));
}

#[test]
fn toml_is_read_with_its_lines() {
    let resolved = from_toml(
        "[controller]\nports = \"10101-10103\"\ndb = \"memory\"\n[engine.env]\nA = \"1\"\n[kernel.InteractiveShell]\ncolors = \"nocolor\"\n",
    )
    .unwrap();
    let settings = &resolved.settings;
    assert_eq!(settings.controller.ports, Ports(vec![10101, 10102, 10103]));
    assert_eq!(settings.controller.db, Database::Memory);
    assert_eq!(settings.engine.env["A"], "1");
    assert_eq!(settings.kernel["InteractiveShell"]["colors"], "nocolor");
    assert_eq!(
        resolved.origin("controller.db").to_string(),
        "ipcluster.toml:3"
    );
}

#[test]
fn unknown_keys_name_the_nearest() {
    let error = |text: &str| from_toml(text).unwrap_err().to_string();
    let said = error("[heartbeat]\nperiod = 5\n");
    assert!(said.contains("ipcluster.toml:2"), "{said}");
    assert!(said.contains("\"heartbeat.period_ms\""), "{said}");
    let said = error("[controler]\nip = \"*\"\n");
    assert!(said.contains("did you mean \"controller\""), "{said}");
    let said = error("[controller]\nhwm = 5\n");
    assert!(said.contains("\"scheduler.hwm\""), "{said}");
    let said = error("[controller]\nzzzzz = 5\n");
    assert!(!said.contains("did you mean"), "{said}");
    let said = error("[controller.ip]\nx = 5\n");
    assert!(said.contains("controller.ip.x"), "{said}");
}

#[test]
fn bad_values_and_bad_syntax_say_where() {
    let error = |text: &str| from_toml(text).unwrap_err().to_string();
    let said = error("[heartbeat]\nperiod_ms = \"fast\"\n");
    assert!(
        said.contains("ipcluster.toml:2") && said.contains("\"fast\""),
        "{said}"
    );
    let said = error("[heartbeat]\nperiod_ms = -1\n");
    assert!(said.contains("-1"), "{said}");
    let said = error("heartbeat = 3\n");
    assert!(said.contains("heartbeat = 3"), "{said}");
    let said = error("[heartbeat]\nperiod_ms 5\n");
    assert!(said.contains("ipcluster.toml:2"), "{said}");
    let said = error("[controller]\nports = \"5-3\"\n");
    assert!(said.contains("10101-10105"), "{said}");
}

#[test]
fn lists_grow_at_both_ends() {
    let edit = |change| Edit {
        key: "cluster.controller_args".into(),
        change,
        origin: flag("x"),
    };
    let resolved = resolve([
        edit(Change::Extend(vec![json!("b")])),
        edit(Change::Extend(vec![json!("c")])),
        edit(Change::Prepend(vec![json!("a")])),
        Edit {
            key: "controller.engine_ports".into(),
            change: Change::Extend(vec![json!(7)]),
            origin: flag("x"),
        },
        Edit {
            key: "controller.engine_ports".into(),
            change: Change::Extend(vec![json!(8)]),
            origin: flag("x"),
        },
        Edit {
            key: "engine.env".into(),
            change: Change::Update(Map::from_iter([("A".to_owned(), json!("1"))])),
            origin: flag("x"),
        },
    ])
    .unwrap();
    assert_eq!(resolved.settings.cluster.controller_args, ["a", "b", "c"]);
    assert_eq!(resolved.settings.controller.engine_ports, Ports(vec![7, 8]));
    assert_eq!(resolved.origin("engine.env.A"), flag("x"));
}

#[test]
fn secrets_are_not_shown() {
    let resolved = resolve([
        Edit::set("session.key", "hidden", flag("x")),
        Edit::set("curve.secret_key", "hidden", flag("x")),
        Edit::set(
            "controller.mongodb.connection_kwargs",
            json!({"password": "hidden"}),
            flag("x"),
        ),
    ])
    .unwrap();
    let all = resolved.show();
    assert!(!format!("{all:?}").contains("hidden"));
    let key = all.iter().find(|shown| shown.key == "session.key".into());
    assert_eq!(key.unwrap().origin, flag("x"));
    let error = resolve([Edit::set("session.key", json!(["hidden"]), flag("x"))]).unwrap_err();
    assert!(error.to_string().contains("(secret)"), "{error}");
}

#[test]
fn a_refused_change_changes_nothing() {
    let mut resolver = Resolver::default();
    let before = resolver.tree.clone();
    assert!(
        resolver
            .apply(Edit::set("heartbeat.period_ms", "x", flag("x")))
            .is_err()
    );
    assert!(
        resolver
            .apply(Edit::set("heartbeat", Value::Null, flag("x")))
            .is_err()
    );
    assert_eq!(resolver.tree, before);
}

#[test]
fn names_with_dots_stay_one_name() {
    let key = Key::new(["engine", "env", "A.B"]);
    assert_eq!(key.to_string(), "engine.env.\"A.B\"");
    let resolved = resolve([Edit::set(key.clone(), "1", flag("x"))]).unwrap();
    assert_eq!(resolved.settings.engine.env["A.B"], "1");
    assert_eq!(resolved.origin(key), flag("x"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\]a-z.=\"\\n{}0-9 ]{0,40}", any in "\\PC*") {
        let _ = from_toml(&text);
        let _ = from_toml(&any);
    }
}
