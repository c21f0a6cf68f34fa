//! Files of a profile, and what is written on a command line.

use std::path::Path;

use crate::profile::literal::Literal;
use crate::profile::python_config::{Statement, read_json, read_python};
use crate::profile::settings::{Origin, Resolver, toml_edits};
use crate::profile::traitlets::{Action, Assignment, Meaning, Program, Written, interpret};
use crate::profile::{ClientFile, ClusterFile, EngineFile, RunFile};

/// Connection files: one that can be read says the same when it is written and read again.
pub fn connection_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(file) = EngineFile::from_variable(text) {
        let again = EngineFile::from_variable(&file.to_variable());
        assert_eq!(again.ok().as_ref(), Some(&file));
        let _ = (file.broadcast_url(0), file.broadcast_url(u32::MAX));
    }
    if let Ok(file) = serde_json::from_str::<ClientFile>(text) {
        let written = serde_json::to_string(&file).expect("what was read can be written");
        assert_eq!(
            serde_json::from_str::<ClientFile>(&written).ok(),
            Some(file)
        );
    }
}

/// Cluster files, and the files that say what runs.
pub fn cluster_file(data: &[u8]) {
    if let Ok(file) = serde_json::from_slice::<ClusterFile>(data) {
        serde_json::to_string(&file).expect("what was read can be written");
    }
    if let Ok(file) = serde_json::from_slice::<RunFile>(data) {
        serde_json::to_string(&file).expect("what was read can be written");
    }
}

/// A settings file: each setting of it is taken or refused.
pub fn settings_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(edits) = toml_edits(text, Path::new("ipcluster.toml")) else {
        return;
    };
    let mut resolver = Resolver::default();
    // Each is a second of a fuzzer's time; what they do does not depend on one another.
    for edit in edits.into_iter().take(20) {
        let _ = resolver.apply(edit);
    }
    let _ = resolver.finish();
}

/// ipyparallel's configuration files, Python and JSON, and what their assignments mean.
pub fn python_settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut statements = read_python(text, Path::new("ipcluster_config.py"));
    statements.extend(read_json(text, Path::new("ipcluster_config.json")).unwrap_or_default());
    for statement in statements.into_iter().take(20) {
        if let Statement::Assignment(assignment) = statement {
            apply(&assignment);
        }
    }
}

/// `Class.trait=value` on a command line, and the values as Python writes them.
pub fn traits(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(literal) = Literal::parse(text)
        && let Some(json) = literal.to_json()
    {
        assert_eq!(
            Literal::from_json(&json).to_json(),
            Some(json),
            "what JSON can say is said the same way again"
        );
    }
    let Some((class, rest)) = text.split_once('.') else {
        return;
    };
    let Some((name, value)) = rest.split_once('=') else {
        return;
    };
    apply(&Assignment {
        class: class.to_owned(),
        name: name.to_owned(),
        action: Action::Set(Written::Text(vec![value.to_owned()])),
        origin: Origin::CommandLine(format!("--{text}")),
    });
}

fn apply(assignment: &Assignment) {
    for program in [Program::Cluster, Program::Controller, Program::Engine] {
        if let Ok(Meaning::Edits(edits)) = interpret(program, assignment) {
            let mut resolver = Resolver::default();
            for edit in edits {
                let _ = resolver.apply(edit);
            }
        }
    }
}
