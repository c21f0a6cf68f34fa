use super::*;

use proptest::prelude::*;
use serde_json::json;

use crate::profile::settings::Resolver;

fn text(class_trait: &str, texts: &[&str]) -> Assignment {
    let (class, name) = class_trait.split_once('.').unwrap();
    Assignment {
        class: class.to_owned(),
        name: name.to_owned(),
        action: Action::Set(Written::Text(
            texts.iter().map(|text| (*text).to_owned()).collect(),
        )),
        origin: Origin::CommandLine(format!("--{class_trait}")),
    }
}

fn literal(class_trait: &str, value: &str) -> Assignment {
    Assignment {
        action: Action::Set(Written::Literal(Literal::parse(value).unwrap())),
        ..text(class_trait, &[])
    }
}

fn meaning(assignment: &Assignment) -> Result<Meaning, TraitError> {
    interpret(Program::All, assignment)
}

#[test]
fn a_controller_has_no_classes_of_users() {
    let assignment = text("MyExtension.level", &["3"]);
    assert!(matches!(
        interpret(Program::Controller, &assignment),
        Ok(Meaning::Nothing { .. })
    ));
    assert!(matches!(
        interpret(Program::Engine, &assignment),
        Ok(Meaning::Edits(_))
    ));
}

#[test]
fn what_ipyparallel_6_says_of_mpi_is_understood() {
    let with = |assignment: &Assignment| value(assignment);
    let key = "engine.mpi".to_owned();
    assert_eq!(
        with(&text("MPI.use", &["mpi4py"])),
        (key.clone(), json!(true))
    );
    assert_eq!(
        with(&literal("MPI.use", "'mpi4py'")),
        (key.clone(), json!(true))
    );
    assert_eq!(with(&literal("MPI.use", "''")), (key, json!(false)));
    assert!(matches!(
        meaning(&text("MPI.use", &["pytrilinos"])),
        Err(TraitError::WrongValue { .. })
    ));
}

/// The value that an assignment gives to the one key that it sets.
fn value(assignment: &Assignment) -> (String, Value) {
    match meaning(assignment) {
        Ok(Meaning::Edits(edits)) => match edits.as_slice() {
            [
                Edit {
                    key,
                    change: Change::Set(value),
                    ..
                },
            ] => (key.to_string(), value.clone()),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn texts_are_read_as_their_traits_read_them() {
    for (class_trait, written, key, expected) in [
        (
            "HeartMonitor.period",
            "200",
            "heartbeat.period_ms",
            json!(200),
        ),
        (
            "HeartMonitor.period",
            " +2_00 ",
            "heartbeat.period_ms",
            json!(200),
        ),
        (
            "TaskScheduler.scheme_name",
            "lru",
            "scheduler.scheme",
            json!("lru"),
        ),
        ("IPEngine.timeout", "7.5", "engine.timeout", json!(7.5)),
        ("IPEngine.timeout", "1e1", "engine.timeout", json!(10.0)),
        ("IPEngine.id", "None", "engine.id", Value::Null),
        (
            "IPController.reuse_files",
            "True",
            "controller.reuse",
            json!(true),
        ),
        (
            "IPController.reuse_files",
            "0",
            "controller.reuse",
            json!(false),
        ),
        ("IPController.ip", "'*'", "controller.ip", json!("*")),
        ("IPController.ip", "\"*\"", "controller.ip", json!("*")),
        (
            "IPController.ports",
            "1-3",
            "controller.ports",
            json!("1-3"),
        ),
        (
            "IPController.db_class",
            "sqlitedb",
            "controller.db",
            json!("sqlite"),
        ),
        (
            "IPController.db_class",
            "ipyparallel.controller.dictdb.NoDB",
            "controller.db",
            json!("none"),
        ),
        (
            "HubFactory.db_class",
            "DictDB",
            "controller.db",
            json!("memory"),
        ),
        (
            "IPControllerApp.reuse_files",
            "1",
            "controller.reuse",
            json!(true),
        ),
        ("IPClusterStart.n", "4", "cluster.n", json!(4)),
        (
            "Cluster.engine_launcher_class",
            "MPI",
            "cluster.engines",
            json!("mpi"),
        ),
        (
            "IPClusterEngines.engine_launcher_class",
            "ipyparallel.cluster.launcher.SSHEngineSetLauncher",
            "cluster.engines",
            json!("ssh"),
        ),
        ("Application.log_level", "10", "log.level", json!("10")),
        (
            "InteractiveShell.colors",
            "nocolor",
            "kernel.InteractiveShell.colors",
            json!("nocolor"),
        ),
        (
            "MyExtension.level",
            "3",
            "kernel.MyExtension.level",
            json!("3"),
        ),
        (
            "SlurmEngineSetLauncher.queue",
            "long",
            "launcher.SlurmEngineSetLauncher.queue",
            json!("long"),
        ),
        (
            "LocalControllerLauncher.controller_args",
            "['--a', '--b']",
            "launcher.LocalControllerLauncher.controller_args",
            json!(["--a", "--b"]),
        ),
    ] {
        let found = value(&text(class_trait, &[written]));
        assert_eq!(found, (key.to_owned(), expected), "{class_trait}={written}");
    }
}

#[test]
fn repetitions_make_lists_and_dictionaries() {
    for (class_trait, written, expected) in [
        (
            "Cluster.controller_args",
            vec!["--a", "--b=1"],
            json!(["--a", "--b=1"]),
        ),
        ("Cluster.controller_args", vec!["x"], json!(["x"])),
        (
            "BaseLauncher.environment",
            vec!["A=1", "B=x=y"],
            json!({"A": "1", "B": "x=y"}),
        ),
        (
            "BaseLauncher.environment",
            vec!["{'A': '1'}"],
            json!({"A": "1"}),
        ),
        ("IPController.ports", vec!["1-2", "5"], json!("1-2,5")),
        ("IPKernelApp.extensions", vec!["a", "b"], json!(["a", "b"])),
        ("HeartMonitor.period", vec!["1", "2"], json!(2)),
    ] {
        assert_eq!(
            value(&text(class_trait, &written)).1,
            expected,
            "{class_trait}"
        );
    }
}

#[test]
fn literals_keep_their_types() {
    for (class_trait, written, expected) in [
        ("HeartMonitor.period", "200", json!(200)),
        ("IPEngine.timeout", "5", json!(5)),
        ("IPController.ports", "[1, 2]", json!([1, 2])),
        ("IPController.ports", "'1-2'", json!("1-2")),
        ("Session.key", "b'secret'", json!("secret")),
        (
            "MongoDB.connection_kwargs",
            "{'host': 'x', 'port': 1}",
            json!({"host": "x", "port": 1}),
        ),
        ("SSHEngineSetLauncher.engines", "{'a': 2}", json!({"a": 2})),
        ("Cluster.engine_launcher_class", "'Slurm'", json!("slurm")),
    ] {
        assert_eq!(
            value(&literal(class_trait, written)).1,
            expected,
            "{class_trait}"
        );
    }
}

#[test]
fn single_ports_join_their_pools() {
    let pools = |assignment: &Assignment| match meaning(assignment) {
        Ok(Meaning::Edits(edits)) => edits
            .into_iter()
            .map(|edit| (edit.key.to_string(), edit.change))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let extend = |pool: &str, ports: &[i64]| {
        let ports = ports.iter().copied().map(Value::from).collect();
        (format!("controller.{pool}_ports"), Change::Extend(ports))
    };
    assert_eq!(
        pools(&text("IPController.regport", &["7"])),
        [extend("engine", &[7])]
    );
    assert_eq!(
        pools(&literal("IPController.mux", "(7, 8)")),
        [extend("client", &[7]), extend("engine", &[8])]
    );
    assert_eq!(
        pools(&text("HubFactory.hb", &["(7, 8)"])),
        [extend("engine", &[7, 8])]
    );
    assert!(meaning(&literal("IPController.mux", "7")).is_err());
    assert!(pools(&literal("IPController.mux", "None")).is_empty());
    assert!(pools(&literal("IPController.regport", "0")).is_empty());
}

#[test]
fn mistakes_name_the_nearest() {
    for (class_trait, near) in [
        ("HeartMonitor.perid", "HeartMonitor.period"),
        ("IPController.resue_files", "IPController.reuse_files"),
        ("IPControler.ip", "IPController"),
        ("TaskSheduler.hwm", "TaskScheduler"),
        ("InteractiveShel.colors", "InteractiveShell"),
        ("IPController.hwm", "TaskScheduler.hwm"),
        ("SSHLauncher.ssh_arg", "ssh_args"),
    ] {
        let error = meaning(&text(class_trait, &["1"])).unwrap_err().to_string();
        assert!(error.contains(&format!("did you mean {near:?}")), "{error}");
    }
    let error = launcher_name("Slrum").unwrap_err().to_string();
    assert!(error.contains("did you mean \"slurm\""), "{error}");
    assert!(launcher_name("mypackage.MyLauncher").is_err());
}

#[test]
fn values_that_will_not_do_are_named() {
    for (class_trait, written) in [
        ("HeartMonitor.period", "fast"),
        ("HeartMonitor.period", "1.5"),
        ("HeartMonitor.period", "0x10"),
        ("HeartMonitor.period", ""),
        ("IPEngine.timeout", "nan"),
        ("IPController.reuse_files", "yes"),
        ("BaseLauncher.environment", "A"),
    ] {
        let error = meaning(&text(class_trait, &[written])).unwrap_err();
        assert!(error.to_string().contains("must be"), "{error}");
    }
}

#[test]
fn settings_of_other_programs_do_not_matter() {
    let level = text("IPEngine.log_level", &["10"]);
    assert_eq!(
        interpret(Program::Controller, &level),
        Ok(Meaning::Elsewhere)
    );
    assert!(matches!(
        interpret(Program::Engine, &level),
        Ok(Meaning::Edits(_))
    ));
    assert!(matches!(
        interpret(Program::All, &level),
        Ok(Meaning::Edits(_))
    ));
    let common = text("BaseParallelApplication.log_level", &["10"]);
    for program in [Program::Controller, Program::Engine, Program::Cluster] {
        assert!(matches!(interpret(program, &common), Ok(Meaning::Edits(_))));
    }
}

#[test]
fn what_has_no_meaning_says_why() {
    let found = meaning(&text("IPController.use_threads", &["True"]));
    assert!(matches!(found, Ok(Meaning::Nothing { reason }) if reason.contains("thread")));
}

/// Every key that the table names is a setting, and takes a value of its kind.
#[test]
fn the_table_names_settings_that_exist() {
    for (class, (name, target)) in CLASSES
        .iter()
        .flat_map(|class| class.traits.iter().map(move |known| (class.name, known)))
        .chain(APP_TRAITS.iter().map(|known| ("Application", known)))
    {
        let written = match target {
            Target::Key("controller.memory.cull_fraction", _) => "0.5",
            Target::Key(_, Kind::Int | Kind::Float | Kind::Level) => "10",
            Target::Key(_, Kind::Bool) => "True",
            Target::Key(_, Kind::Any) if name.ends_with("kwargs") => "{'host': 'x'}",
            Target::Key(_, Kind::Any) => "[]",
            Target::Key(_, Kind::Database) => "DictDB",
            Target::Key(_, Kind::Launcher) => "ssh",
            Target::Key(_, Kind::WithMpi) => "mpi4py",
            Target::Key("scheduler.scheme", _) => "lru",
            Target::Key(..) => "1",
            Target::PortPair | Target::HeartbeatPorts => "(1, 2)",
            Target::Pool(_) => "1",
            Target::Nothing(_) => continue,
        };
        let assignment = text(&format!("{class}.{name}"), &[written]);
        let Ok(Meaning::Edits(edits)) = interpret(Program::All, &assignment) else {
            panic!("{class}.{name}");
        };
        let mut resolver = Resolver::default();
        resolver.apply_all(edits).unwrap();
        let all = resolver.finish().show();
        assert!(
            all.iter().any(|shown| shown.origin != Origin::Default),
            "{class}.{name}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(class in 0..CLASSES.len(), which in any::<prop::sample::Index>(), written in "\\PC{0,12}") {
        let class = &CLASSES[class];
        if !class.traits.is_empty() {
            let name = which.get(class.traits).0;
            let assignment = text(&format!("{}.{name}", class.name), &[&written]);
            if let Ok(Meaning::Edits(edits)) = interpret(Program::All, &assignment) {
                let _ = Resolver::default().apply_all(edits);
            }
        }
        let _ = interpret(Program::All, &text(&format!("X{written}.y"), &[&written]));
    }
}
