use super::*;

use clap::{Arg, ArgAction};
use proptest::prelude::*;

fn command() -> Command {
    let start = Command::new("start")
        .arg(Arg::new("n").short('n').long("engine-count"))
        .arg(Arg::new("profile").long("profile"))
        .arg(Arg::new("profile-dir").long("profile-dir"))
        .arg(Arg::new("cluster-id").long("cluster-id"))
        .arg(Arg::new("id").long("id"))
        .arg(Arg::new("c").short('c'))
        .arg(Arg::new("reuse").long("reuse").action(ArgAction::SetTrue))
        .arg(Arg::new("debug").long("debug").action(ArgAction::SetTrue))
        .arg(
            Arg::new("no-debug")
                .long("no-debug")
                .action(ArgAction::SetTrue),
        )
        .arg(
            Arg::new("daemonize")
                .long("daemonize")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
        )
        .arg(Arg::new("ids").num_args(0..));
    let verbose = Arg::new("verbose")
        .long("verbose")
        .action(ArgAction::SetTrue);
    let log = Arg::new("log").long("log");
    let controller = Command::new("controller")
        .arg(Arg::new("profile").long("profile"))
        .arg(Arg::new("hwm").long("hwm"))
        .arg(Arg::new("nodb").long("nodb").action(ArgAction::SetTrue));
    let stop = Command::new("stop");
    Command::new("ipcluster")
        .arg(verbose)
        .arg(log)
        .subcommand(start)
        .subcommand(controller)
        .subcommand(stop)
}

fn run(words: &[&str]) -> Result<Rewritten, ArgvError> {
    let argv = ["ipcluster", "start"].iter().chain(words);
    rewrite(&command(), argv.map(OsString::from))
}

fn args(words: &[&str]) -> Vec<String> {
    let args = run(words).unwrap().args;
    command().try_get_matches_from(&args).unwrap();
    args.iter()
        .skip(2)
        .map(|arg| arg.to_str().unwrap().to_owned())
        .collect()
}

fn traits(words: &[&str]) -> Vec<String> {
    run(words)
        .unwrap()
        .traits
        .into_iter()
        .map(|assignment| match assignment.action {
            Action::Set(Written::Text(texts)) => {
                format!(
                    "{}.{}={}",
                    assignment.class,
                    assignment.name,
                    texts.join("|")
                )
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn traits_are_pulled_out() {
    let words = [
        "--HeartMonitor.period=200",
        "-TaskScheduler.hwm=0",
        "--IPEngine.startup_command",
        "import x",
        "--IPEngine.id",
        "-1",
        "--Cluster.controller_args=--a=b",
        "--Cluster.controller_args",
        "c",
        "--Parent.Child.trait=",
        "one",
    ];
    assert_eq!(
        traits(&words),
        [
            "HeartMonitor.period=200",
            "TaskScheduler.hwm=0",
            "IPEngine.startup_command=import x",
            "IPEngine.id=-1",
            "Cluster.controller_args=--a=b|c",
            "Child.trait=",
        ]
    );
    assert_eq!(args(&words), ["one"]);
    for missing in [&["--A.b"][..], &["--A.b", "--C.d=1"], &["--A.b", "--"]] {
        assert_eq!(
            run(missing),
            Err(ArgvError::MissingValue {
                argument: "--A.b".into()
            })
        );
    }
}

#[test]
fn letters_with_two_dashes_become_letters() {
    for (words, expected) in [
        (&["--n=4"][..], &["-n=4"][..]),
        (&["--n", "4"], &["-n", "4"]),
        (&["-n", "4"], &["-n", "4"]),
        (&["-n=4"], &["-n=4"]),
        (&["-n4"], &["-n4"]),
        (&["--c=-x --y"], &["-c=-x --y"]),
        (&["--c=a=b"], &["-c=a=b"]),
    ] {
        assert_eq!(args(words), expected, "{words:?}");
    }
    let parsed = run(&["--c=-x = y", "--n=4"]).unwrap().args;
    let matches = command().try_get_matches_from(parsed).unwrap();
    let start = matches.subcommand_matches("start").unwrap();
    assert_eq!(start.get_one::<String>("c").unwrap(), "-x = y");
    assert_eq!(start.get_one::<String>("n").unwrap(), "4");
}

#[test]
fn quotes_that_no_shell_has_taken_away_go() {
    for (said, expected) in [
        ("--profile='*'", "--profile=*"),
        ("--profile=\"a b\"", "--profile=a b"),
        ("--profile=''", "--profile="),
        ("--profile='", "--profile='"),
        ("--profile='a", "--profile='a"),
        ("--profile=a'b'", "--profile=a'b'"),
        ("'--profile=a'", "'--profile=a'"),
    ] {
        assert_eq!(args(&[said]), [expected]);
    }
    assert_eq!(traits(&["--A.b='c'"]), ["A.b='c'"]);
}

#[test]
fn subcommands_may_follow_options() {
    let words = [
        "ipcluster",
        "--verbose=True",
        "--log",
        "start",
        "start",
        "--n=4",
    ];
    let found = rewrite(&command(), words.map(OsString::from)).unwrap();
    let expected = ["ipcluster", "--verbose", "--log", "start", "start", "-n=4"];
    assert_eq!(found.args, expected);
    command().try_get_matches_from(found.args).unwrap();
    assert_eq!(args(&["start"]), ["start"], "an argument of the subcommand");
}

#[test]
fn switches_take_true_and_false() {
    assert_eq!(args(&["--reuse=True"]), ["--reuse"]);
    assert_eq!(args(&["--debug=0"]), ["--no-debug"]);
    let negated = run(&["--reuse=False"]).unwrap();
    assert_eq!(negated.negated, ["reuse"]);
    assert_eq!(negated.args.len(), 2);
    assert_eq!(
        args(&["--daemonize", "True", "x"]),
        ["--daemonize=True", "x"]
    );
    assert_eq!(args(&["--daemonize", "x"]), ["--daemonize", "x"]);
    assert_eq!(args(&["--daemonize=False"]), ["--daemonize=False"]);
    assert_eq!(
        run(&["--reuse=perhaps"]),
        Err(ArgvError::NoSwitch {
            argument: "--reuse".into(),
            value: "perhaps".into()
        })
    );
}

#[test]
fn values_are_not_mistaken_for_options() {
    assert_eq!(args(&["--profile", "a.b"]), ["--profile", "a.b"]);
    assert_eq!(args(&["--id", "-1"]), ["--id=-1"]);
    assert_eq!(args(&["--c", "-x + y"]), ["-c=-x + y"]);
    assert_eq!(traits(&["--A.b", "-x + y"]), ["A.b=-x + y"]);
    assert!(run(&["--A.b", "-x"]).is_err());
    let words = ["--profile", "--HeartMonitor.period=1"];
    assert_eq!(traits(&words), ["HeartMonitor.period=1"]);
}

#[test]
fn what_follows_two_dashes_stays_as_it_is() {
    let found = run(&["-n", "4", "--", "--A.b=1", "--reuse=True", "--"]).unwrap();
    assert_eq!(
        found.rest,
        Some(vec!["--A.b=1".into(), "--reuse=True".into(), "--".into()])
    );
    assert!(found.traits.is_empty());
    assert_eq!(run(&[]).unwrap().rest, None);
    assert_eq!(run(&["--"]).unwrap().rest, Some(Vec::new()));
}

#[test]
fn traits_that_name_the_profile_become_arguments() {
    for (word, expected) in [
        ("--ProfileDir.location=/x", "--profile-dir=/x"),
        ("--BaseParallelApplication.cluster_id=a", "--cluster-id=a"),
        ("--IPClusterStart.profile=p", "--profile=p"),
    ] {
        assert_eq!(args(&[word]), [expected]);
        assert!(traits(&[word]).is_empty());
    }
    assert_eq!(
        traits(&["--IPClusterStop.signal=9"]),
        ["IPClusterStop.signal=9"]
    );
}

#[test]
fn all_help_is_help_and_the_unknown_is_left_to_clap() {
    assert_eq!(run(&["--help-all"]).unwrap().args[2], "--help");
    let found = run(&["--unknown=1", "--other", "-", "-5", "--=x"]).unwrap();
    assert_eq!(
        found.args[2..],
        ["--unknown=1", "--other", "-", "-5", "--=x"]
    );
    let error = command().try_get_matches_from(run(&["--proflie=x"]).unwrap().args);
    assert!(error.unwrap_err().to_string().contains("--profile"));
}

#[cfg(unix)]
#[test]
fn what_is_no_text_is_passed_on() {
    use std::os::unix::ffi::OsStringExt;
    let odd = OsString::from_vec(vec![b'-', b'-', 0xff]);
    let argv = ["ipcluster".into(), "start".into(), odd.clone()];
    assert_eq!(rewrite(&command(), argv).unwrap().args[2], odd);
    assert_eq!(rewrite(&command(), []).unwrap(), Rewritten::default());
}

#[test]
fn start_hands_the_controller_s_flags_on() {
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let found = run(&[
        "--hwm",
        "0",
        "--nodb",
        "-n",
        "2",
        "--hwm=-1",
        "--profile=x",
        "--",
        "--ip=y",
    ])
    .unwrap();
    assert_eq!(found.args[2..], words(&["-n", "2", "--profile=x"]));
    let rest = words(&["--hwm=0", "--nodb", "--hwm=-1", "--ip=y"]);
    assert_eq!(found.rest, Some(rest));
    let found = run(&["--nodb=False", "--hwm"]).unwrap();
    assert_eq!(found.rest, Some(words(&["--nodb=False", "--hwm"])));
    // No other command does.
    let argv = words(&["ipcluster", "stop", "--nodb"]);
    let found = rewrite(&command(), argv.clone()).unwrap();
    assert_eq!((found.args, found.rest), (argv, None));
}

#[test]
fn a_switch_takes_what_it_once_took() {
    let mpi = Arg::new("mpi").long("mpi").action(ArgAction::SetTrue);
    let command = Command::new("ipengine").arg(mpi);
    let run = |word: &str| rewrite(&command, ["ipengine", word].map(OsString::from));
    assert_eq!(run("--mpi=mpi4py").unwrap().args[1..], ["--mpi"]);
    assert!(matches!(
        run("--mpi=pytrilinos"),
        Err(ArgvError::NoSwitch { .. })
    ));
}

proptest! {
    #[test]
    fn no_words_make_it_panic(words in proptest::collection::vec("-{0,2}([a-z]|n|c|reuse|A\\.b|daemonize)?=?(\\PC{0,3}|True)", 0..6)) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let _ = run(&words);
    }

    /// Words without dashes come out as they are, in their order.
    #[test]
    fn plain_words_stay(words in proptest::collection::vec("[a-z0-9./=]{1,6}", 0..6)) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let found = run(&words).unwrap();
        let expected: Vec<OsString> = words.iter().map(OsString::from).collect();
        prop_assert_eq!(&found.args[2..], expected.as_slice());
    }
}
