//! `ipcluster doctor`: looks at everything that a cluster of this profile needs, and says what is wrong and what to do.
//! It changes nothing, but for a file that it makes in the profile's folder for a moment.

mod folder;
mod launcher;
mod machine;
mod python;

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::cli::args::{CommonArgs, Environment, Rewritten};
use crate::cli::output::{FormatArgs, say, say_json};
use crate::cli::setup::Setup;
use crate::cli::{Failure, exit_code};
use crate::launch::batch::system::Role;
use crate::profile::ProfileDir;
use crate::profile::dir::checked_cluster_id;
use crate::profile::settings::{Settings, load};
use crate::profile::traitlets::Program;
use crate::protocol::ClusterId;

#[derive(Args, Clone, Debug)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    format: FormatArgs,

    /// The Python to look at, in place of the one that engines would run
    #[arg(long, value_name = "PYTHON")]
    python: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// It works, but perhaps not as it is meant.
    Warning,
    /// A cluster would not work.
    Problem,
}

/// What was found out about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(check, found)
        }
    }

    fn problem(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Problem,
            ..Self::warning(check, found, remedy)
        }
    }

    fn line(&self) -> String {
        let level = match self.level {
            Level::Ok => "ok     ",
            Level::Warning => "WARNING",
            Level::Problem => "PROBLEM",
        };
        let mut text = format!("{level}  {:10}  {}\n", self.check, self.found);
        if let Some(remedy) = &self.remedy {
            let _ = writeln!(text, "{:21}-> {remedy}", "");
        }
        text
    }
}

pub(super) fn run(args: &DoctorArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let findings = examine(args, rewritten)?;
    let worst = findings.iter().map(|finding| finding.level).max();
    let is_fine = worst != Some(Level::Problem);
    if args.format.is_json() {
        say_json(&json!({ "ok": is_fine, "findings": findings }))?;
    } else {
        let text: String = findings.iter().map(Finding::line).collect();
        let end = match worst {
            Some(Level::Problem) => "There are problems: a cluster would not work as it is.\n",
            Some(Level::Warning) => "A cluster would work; the warnings may matter to you.\n",
            _ => "All is well.\n",
        };
        say(&(text + end))?;
    }
    if is_fine {
        Ok(())
    } else {
        Err(Failure::silent(exit_code::FAILED))
    }
}

fn examine(args: &DoctorArgs, rewritten: Rewritten) -> Result<Vec<Finding>, Failure> {
    let common = args.common.resolve(&Environment::of_process())?;
    let location = common.lookup.location()?;
    let exists = location.is_dir();
    let profile = ProfileDir::at(location);
    let mut findings = vec![machine::program()];
    findings.extend(folder::profile(&profile, exists));

    let known = exists.then_some(&profile);
    let sources = common.sources(Program::All, known, rewritten.traits.clone());
    let settings = match load(&sources) {
        Ok(resolved) => {
            findings.push(settings_finding(&resolved.warnings));
            resolved.settings
        }
        Err(error) => {
            findings.push(Finding::problem(
                "settings",
                error.to_string(),
                "put it right: the other findings are about the defaults",
            ));
            Settings::default()
        }
    };
    let cluster_id = match (&common.cluster_id, &settings.cluster.id) {
        (Some(id), _) => id.clone(),
        (None, Some(id)) => checked_cluster_id(id)?,
        (None, None) => ClusterId::default(),
    };
    let setup = Setup {
        profile,
        cluster_id,
        settings,
        common,
        traits: rewritten.traits,
    };
    let asked = args.python.clone().or_else(|| {
        let python = setup.settings.engine.python.as_ref();
        python.map(|path| path.to_string_lossy().into_owned())
    });
    findings.extend(python::python(asked.as_deref()));
    for role in [Role::Controller, Role::Engines] {
        findings.extend(launcher::launcher(&setup, role));
    }
    findings.push(machine::open_files());
    findings.extend(machine::host_name(&setup));
    findings.extend(machine::ports(&setup));
    if exists {
        findings.extend(folder::clusters(&setup));
    }
    Ok(findings)
}

fn settings_finding(warnings: &[String]) -> Finding {
    if warnings.is_empty() {
        return Finding::ok("settings", "all are understood");
    }
    Finding::warning(
        "settings",
        warnings.join("; "),
        "`ipcluster profile show --resolved` says what is in force, and where it comes from",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_to_do() {
        let problem = Finding::problem("ports", "10101 is used", "choose others");
        assert_eq!(
            problem.line(),
            "PROBLEM  ports       10101 is used\n                     -> choose others\n"
        );
        let fine = json!(Finding::ok("ports", "free"));
        assert_eq!(
            fine,
            json!({ "check": "ports", "level": "ok", "found": "free" })
        );
        assert!(Level::Problem > Level::Warning);
    }
}
