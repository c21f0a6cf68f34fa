use super::*;

use serde_json::json;

fn found(traits: Value, limit: Option<u32>) -> Result<Vec<Host>, HostsError> {
    hosts(&serde_json::from_value(traits).unwrap(), limit)
}

#[test]
fn machines_have_counts_and_settings_of_their_own() {
    let traits = json!({
        "engines": {"a": 2, "b": {}, "me@c:2222": {"n": 3, "remote_python": "python3.12", "tunnel": true}},
        "user": "you", "ssh_args": ["-F", "config"], "environment": {"A": 1},
    });
    let hosts = found(traits, None).unwrap();
    let counts: Vec<u32> = hosts.iter().map(|host| host.engines).collect();
    assert_eq!(counts, [2, 1, 3]);
    assert!(
        hosts[0]
            .ssh
            .starts_with(&["ssh".into(), "-F".into(), "config".into()])
    );
    assert!(
        hosts[0]
            .ssh
            .ends_with(&["-l".into(), "you".into(), "a".into()])
    );
    let end = ["-p", "2222", "-l", "me", "c"].map(str::to_owned);
    assert!(hosts[2].ssh.ends_with(&end));
    assert_eq!(hosts[2].arguments, ["--python=python3.12"]);
    assert!(hosts[2].tunnel && !hosts[0].tunnel);
    assert_eq!(hosts[1].environment["A"], "1");
}

#[test]
fn a_limit_fills_machines_one_after_another() {
    let traits = json!({"engines": {"a": 2, "b": 2, "c": 2}});
    let hosts = found(traits, Some(3)).unwrap();
    let counts: Vec<(&str, u32)> = hosts
        .iter()
        .map(|host| (host.name.as_str(), host.engines))
        .collect();
    assert_eq!(counts, [("a", 2), ("b", 1)]);
}

/// Everything that the built-in profile explains has a meaning.
#[test]
fn the_built_in_profile_is_right() {
    let template = crate::profile::templates::find("ssh").unwrap();
    let text: String = template
        .uncommented()
        .lines()
        .map(|line| match line.strip_prefix("# \"") {
            Some(machine) => format!("\"{machine}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    let whole: toml::Table = text.parse().unwrap();
    let traits = serde_json::to_value(&whole["launcher"][lineage(Role::Engines)[0]]).unwrap();
    let traits: Traits = serde_json::from_value(traits).unwrap();
    assert!(without_effect(&traits, lineage(Role::Engines)[0]).is_empty());
    for launcher in ["SSHControllerLauncher", "SSHProxyEngineSetLauncher"] {
        let traits = serde_json::to_value(&whole["launcher"][launcher]).unwrap();
        let traits: Traits = serde_json::from_value(traits).unwrap();
        assert!(without_effect(&traits, launcher).is_empty(), "{launcher}");
        let host = if launcher == "SSHControllerLauncher" {
            controller_host(&traits)
        } else {
            proxy_host(&traits, 1)
        };
        assert_eq!(host.unwrap().name, "me@head.example.org");
    }
    let counts: Vec<u32> = hosts(&traits, None)
        .unwrap()
        .iter()
        .map(|host| host.engines)
        .collect();
    assert_eq!(counts, [4, 4]);
}

#[test]
fn what_is_wrong_is_named() {
    for (traits, expected) in [
        (json!({}), "there is no machine"),
        (json!({"engines": {"a": "x"}}), "\"a\" has \"x\""),
        (json!({"engines": {"a": -1}}), "\"a\" has -1"),
        (
            json!({"engines": {"-oProxyCommand=x": 1}}),
            "is no [user@]host[:port]",
        ),
        (json!({"engines": {"-l@a": 1}}), "is no [user@]host[:port]"),
        (json!({"engines": {"a:x": 1}}), "is no [user@]host[:port]"),
        (
            json!({"engines": {"a": {"enigne_args": []}}}),
            "did you mean \"engine_args\"?",
        ),
        (
            json!({"engines": {"a": 1}, "engine_cmd": []}),
            "SSHEngineSetLauncher.engine_cmd: it names no command",
        ),
    ] {
        let error = found(traits, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn another_ipcluster_is_called_with_its_verb() {
    let traits = json!({"location": "head", "ipcluster_cmd": ["/opt/ipcluster"], "ipcluster_args": ["--engines=slurm"]});
    let host = proxy_host(&serde_json::from_value(traits).unwrap(), 3).unwrap();
    assert_eq!(host.program, ["/opt/ipcluster", "engines"]);
    assert_eq!((host.engines, host.tunnel), (3, false));
    assert_eq!(host.arguments, ["--engines=slurm"]);
}

#[test]
fn a_controller_has_one_machine() {
    let found = |traits: Value| controller_host(&serde_json::from_value(traits).unwrap());
    let host = found(json!({"hostname": "a", "user": "me"})).unwrap();
    assert!(host.ssh.ends_with(&["-l", "me", "a"].map(str::to_owned)));
    assert_eq!((host.silence, host.engines), (Some(SILENCE), 0));
    let host = found(json!({"hostname": "a", "location": "b", "silence_timeout": 0.0})).unwrap();
    assert_eq!((host.name.as_str(), host.silence), ("b", None));
    for (traits, expected) in [
        (json!({}), "[launcher.SSHControllerLauncher]"),
        (
            json!({"location": "-oProxyCommand=x"}),
            "is no [user@]host[:port]",
        ),
        (
            json!({"location": "a", "controller_cmd": []}),
            "SSHControllerLauncher.controller_cmd: it names no command",
        ),
    ] {
        let error = found(traits).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn settings_without_a_meaning_are_found_for_each_kind() {
    let set = json!({"user": "me", "tunnel": true, "engine_args": [], "controller_args": [], "location": "a", "engines": {}});
    let set: Traits = serde_json::from_value(set).unwrap();
    let found = |launcher| without_effect(&set, launcher);
    assert_eq!(
        found(lineage(Role::Engines)[0]),
        ["controller_args", "location"]
    );
    assert_eq!(
        found(lineage(Role::Controller)[0]),
        ["engine_args", "engines"]
    );
    assert_eq!(
        found(PROXY_LINEAGE[0]),
        ["controller_args", "engine_args", "engines", "tunnel"]
    );
}

#[test]
fn a_host_s_name_has_up_to_three_parts() {
    for (name, expected) in [
        ("a", Some((None, "a", None))),
        ("me@a:2222", Some((Some("me"), "a", Some(2222)))),
        ("2001:db8::7", Some((None, "2001:db8::7", None))),
        ("[2001:db8::7]", Some((None, "2001:db8::7", None))),
        (
            "me@[2001:db8::7]:2222",
            Some((Some("me"), "2001:db8::7", Some(2222))),
        ),
        ("[2001:db8::7]2222", None),
        ("[2001:db8::7]:x", None),
        ("[]", None),
        ("a:x", None),
        ("-a", None),
        ("", None),
    ] {
        assert_eq!(parts(name), expected, "{name}");
    }
}
