//! The Python that runs users' code, and what is installed for it.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use super::Finding;
use crate::os::ProcessRef;
use crate::os::process::wait_until_gone;
use crate::os::python::{Python, Surroundings};

/// Prints `{python, packages: {NAME: VERSION or null}, error}`.
const PROBE: &str = include_str!("probe.py");

/// Even from a slow network drive it is imported by then.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Deserialize)]
struct Probed {
    /// Major and minor version.
    python: (u32, u32),
    ipyparallel: Option<String>,
    ipython: Option<String>,
    ipykernel: Option<String>,
    /// Why ipyparallel cannot be imported though it is installed.
    error: Option<String>,
}

pub(super) fn python(asked: Option<&str>) -> Vec<Finding> {
    const CHECK: &str = "python";
    let python = match Python::find(asked, &Surroundings::current()) {
        Ok(python) => python,
        Err(error) => {
            let remedy = "install one, or name one with --python";
            return vec![Finding::problem(CHECK, error.to_string(), remedy)];
        }
    };
    let name = python.path.display().to_string();
    match probe(&python) {
        Ok(probed) => judge(&name, python.origin, &probed),
        Err(why) => vec![Finding::problem(
            CHECK,
            format!("{name} ({}) does not work: {why}", python.origin),
            "name another one with --python",
        )],
    }
}

fn probe(python: &Python) -> Result<Probed, String> {
    let mut child = Command::new(&python.path)
        .args(["-c", PROBE])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let process = i32::try_from(child.id()).ok().and_then(ProcessRef::of);
    let left = wait_until_gone(process.as_slice(), PATIENCE);
    if !left.is_empty() {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!(
            "it has not imported ipyparallel within {:.0} s",
            PATIENCE.as_secs_f64()
        ));
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let (output, errors) = written(&mut child);
    serde_json::from_str(&output).map_err(|_| {
        let last = errors.lines().next_back().unwrap_or("it wrote nothing");
        format!("{status}: {last}")
    })
}

/// Less than a pipe holds.
fn written(child: &mut Child) -> (String, String) {
    let mut texts = [String::new(), String::new()];
    if let Some(out) = &mut child.stdout {
        let _ = out.read_to_string(&mut texts[0]);
    }
    if let Some(out) = &mut child.stderr {
        let _ = out.read_to_string(&mut texts[1]);
    }
    texts.into()
}

fn judge(name: &str, origin: &str, probed: &Probed) -> Vec<Finding> {
    let (major, minor) = probed.python;
    let found = format!("{name}, version {major}.{minor} ({origin})");
    let mut findings = vec![if probed.python >= (3, 8) {
        Finding::ok("python", found)
    } else {
        Finding::problem("python", found, "engines need Python 3.8 or later")
    }];
    let install = format!("`{name} -m pip install ipyparallel`");
    let finding = match (&probed.ipyparallel, &probed.error) {
        (Some(version), None) => {
            let other = |name: &str, version: &Option<String>| match version {
                Some(version) => format!("{name} {version}"),
                None => format!("no {name}"),
            };
            Finding::ok(
                "packages",
                format!(
                    "ipyparallel {version}, {}, {}",
                    other("IPython", &probed.ipython),
                    other("ipykernel", &probed.ipykernel)
                ),
            )
        }
        (Some(version), Some(error)) => Finding::problem(
            "packages",
            format!("ipyparallel {version} cannot be imported: {error}"),
            format!("repair it: {install} --force-reinstall"),
        ),
        (None, _) => Finding::warning(
            "packages",
            "there is no ipyparallel: engines run plain Python, without what IPython adds",
            install,
        ),
    };
    findings.push(finding);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Level;

    fn probed() -> Probed {
        Probed {
            python: (3, 11),
            ipyparallel: Some("9.2.0".into()),
            ipython: Some("9.0".into()),
            ipykernel: None,
            error: None,
        }
    }

    fn levels(probed: &Probed) -> Vec<Level> {
        let findings = judge("/bin/python3", "PATH", probed);
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn versions_are_judged() {
        assert_eq!(levels(&probed()), [Level::Ok, Level::Ok]);
        let old = Probed {
            python: (3, 7),
            ..probed()
        };
        assert_eq!(levels(&old)[0], Level::Problem);
        let bare = Probed {
            ipyparallel: None,
            ..probed()
        };
        assert_eq!(levels(&bare)[1], Level::Warning);
        let broken = Probed {
            error: Some("ImportError: x".into()),
            ..probed()
        };
        assert_eq!(levels(&broken)[1], Level::Problem);
    }
}
