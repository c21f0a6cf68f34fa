//! Settings as a TOML file, each value with a comment that says where it came from: for `ipcluster profile import`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::load::{Sources, load};
use super::resolve::{Origin, Resolved, SettingsError, Shown};
use crate::profile::traitlets::Program;

/// What ipyparallel's configuration files of a profile say, as `ipcluster.toml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    pub toml: String,
    /// What could not be carried over.
    pub warnings: Vec<String>,
}

/// Reads `ipcontroller_config.py` and the like of this folder, and nothing else.
pub fn import(profile_dir: &Path) -> Result<Imported, SettingsError> {
    let resolved = load(&Sources {
        profile_dir: Some(profile_dir.to_owned()),
        skip_profile_toml: true,
        ..Sources::none(Program::All)
    })?;
    Ok(Imported {
        toml: to_toml(&resolved),
        warnings: resolved.warnings,
    })
}

/// The values that somebody set, as a TOML file. Secrets are written out.
pub fn to_toml(resolved: &Resolved) -> String {
    let mut sections: BTreeMap<Vec<String>, Vec<Shown>> = BTreeMap::new();
    for shown in resolved.values() {
        let is_set = shown.origin != Origin::Default && !shown.value.is_null();
        if let (true, Some((_, section))) = (is_set, shown.key.parts().split_last()) {
            sections.entry(section.to_vec()).or_default().push(shown);
        }
    }
    let mut text = String::new();
    for (section, values) in sections {
        let blank = if text.is_empty() { "" } else { "\n" };
        let names: Vec<String> = section.iter().map(|part| bare_or_quoted(part)).collect();
        let _ = writeln!(text, "{blank}[{}]", names.join("."));
        for Shown { key, value, origin } in values {
            let name = key.parts().last().map_or("", String::as_str);
            let Some(value) = toml_value(&value) else {
                continue;
            };
            // The origin holds paths, in which anything may stand.
            let origin = origin.to_string().replace(char::is_control, " ");
            let _ = writeln!(text, "# from {origin}\n{} = {value}", bare_or_quoted(name));
        }
    }
    text
}

fn bare_or_quoted(name: &str) -> String {
    let is_bare = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if is_bare {
        name.to_owned()
    } else {
        toml::Value::from(name).to_string()
    }
}

/// Nothing for null, which TOML does not have; left out of lists and tables.
fn toml_value(value: &Value) -> Option<toml::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => integer.into(),
            None => number.as_f64()?.into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => toml::Value::Array(items.iter().filter_map(toml_value).collect()),
        Value::Object(map) => toml::Value::Table(
            map.iter()
                .filter_map(|(key, value)| Some((key.clone(), toml_value(value)?)))
                .collect(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::profile::settings::{Edit, Resolver, toml_edits};

    #[test]
    fn configuration_files_become_toml() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("ipcluster.toml", "[scheduler]\nhwm = 9\n");
        write(
            "ipcontroller_config.py",
            "c.HeartMonitor.period = 200\nc.IPController.ip = address\n",
        );
        write(
            "ipengine_config.py",
            "c.InteractiveShell.colors = 'nocolor'\nc.IPEngine.timeout = 7\n",
        );
        write(
            "ipcluster_config.py",
            "c.Cluster.n = 4\nc.SSHEngineSetLauncher.engines = {'a.b': 2, 'c': (3, ['--debug'])}\n",
        );
        let imported = import(folder.path()).unwrap();
        assert_eq!(imported.warnings.len(), 1, "{:?}", imported.warnings);
        for line in [
            "[heartbeat]",
            "period_ms = 200",
            "[kernel.InteractiveShell]",
            "colors = \"nocolor\"",
            "timeout = 7.0",
            "n = 4",
            "[launcher.SSHEngineSetLauncher.engines]",
            "\"a.b\" = 2",
            "c = [3, [\"--debug\"]]",
        ] {
            assert!(
                imported.toml.lines().any(|found| found == line),
                "{line}\n{}",
                imported.toml
            );
        }
        assert!(!imported.toml.contains("hwm"));
        assert!(imported.toml.contains("ipcontroller_config.py:1"));
    }

    #[test]
    fn what_is_exported_is_read_again() {
        let origin = || Origin::CommandLine("--x\ny".to_owned());
        let mut resolver = Resolver::default();
        for (key, value) in [
            ("controller.ports", Value::from("1-3,7")),
            ("session.key", Value::from("a\"b\\\n'c'")),
            ("engine.mpi_init", Value::from("import a\nimport b\n")),
            ("cluster.controller_args", serde_json::json!(["--a", "é"])),
            (
                "kernel.A.b",
                serde_json::json!({"c": [1, 2.5, true], "d": {}}),
            ),
        ] {
            resolver.apply(Edit::set(key, value, origin())).unwrap();
        }
        let resolved = resolver.finish();
        let text = to_toml(&resolved);
        let mut again = Resolver::default();
        again
            .apply_all(toml_edits(&text, Path::new("x")).unwrap())
            .unwrap();
        let mut expected = resolved.settings.clone();
        // An empty table holds nothing.
        if let Some(Value::Object(map)) = expected
            .kernel
            .get_mut("A")
            .and_then(|traits| traits.get_mut("b"))
        {
            map.remove("d");
        }
        assert_eq!(again.finish().settings, expected, "{text}");
        assert_eq!(to_toml(&Resolver::default().finish()), "");
    }
}
