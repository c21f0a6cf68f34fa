//! `ipcluster list`. Where nobody looks (a pipe), text has ipyparallel's columns, which scripts parse, and JSON has all
//! that ipyparallel's has.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::cli::args::{CommonArgs, Environment, Rewritten};
use crate::cli::output::{age, say, say_json, table};
use crate::launch::condition::Condition;
use crate::launch::found::Found;
use crate::launch::lost::{Lost, lost_clusters};
use crate::profile::ProfileDir;
use crate::protocol::Timestamp;

#[derive(Args, Clone, Debug)]
pub(super) struct ListArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// How the list looks: table, text (ipyparallel's columns) or json [default: table at a terminal, else text]
    #[arg(
        short,
        long = "output-format",
        value_name = "FORMAT",
        value_enum,
        ignore_case = true,
        hide_possible_values = true
    )]
    o: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Text,
    Json,
}

pub(super) fn run(args: &ListArgs, _rewritten: Rewritten) -> Result<(), Failure> {
    let common = args.common.resolve(&Environment::of_process())?;
    let ipython_dir = common.lookup.ipython_dir()?;
    // As ipyparallel does: a profile that is named is the only one that is looked at.
    let named = common.lookup.profile_dir.is_some()
        || common
            .lookup
            .profile
            .as_ref()
            .is_some_and(|name| name != "default");
    let lost = lost_clusters();
    let named_dir = named.then(|| common.lookup.location()).transpose()?;
    let is_wanted = |lost: &Lost| match &named_dir {
        Some(folder) => lost.profile_dir == *folder,
        None => lost.profile_dir.parent() == Some(&*ipython_dir),
    };
    let lost: Vec<Lost> = lost.into_iter().filter(is_wanted).collect();
    let profiles = match named {
        // What is left of a profile that was deleted is listed, too.
        true if !lost.is_empty() => Vec::new(),
        true => vec![common.find_profile()?],
        false => ProfileDir::all(&ipython_dir),
    };
    let clusters: Vec<Found> = profiles.iter().flat_map(Found::all).collect();
    let rows = clusters
        .iter()
        .map(|found| Row::of(found, &ipython_dir))
        .chain(lost.iter().map(|lost| Row::of_lost(lost, &ipython_dir)));
    let mut rows: Vec<Row> = rows.collect();
    rows.sort_by(|a, b| (&a.profile, &a.cluster_id).cmp(&(&b.profile, &b.cluster_id)));
    let default = if std::io::stdout().is_terminal() {
        Format::Table
    } else {
        Format::Text
    };
    match args.o.unwrap_or(default) {
        Format::Table => say(&as_table(&rows))?,
        Format::Text => say(&as_text(&rows))?,
        Format::Json => say_json(&rows.iter().map(Row::to_json).collect::<Vec<_>>())?,
    };
    Ok(())
}

/// One cluster.
#[derive(Debug)]
struct Row {
    profile: String,
    profile_dir: String,
    cluster_id: String,
    condition: Condition,
    engines: u64,
    pid: Option<i32>,
    controller_pid: Option<i32>,
    launcher: String,
    started: Option<SystemTime>,
    /// ipyparallel's description.
    description: Option<Value>,
}

impl Row {
    fn of(found: &Found, ipython_dir: &Path) -> Self {
        let class = match (&found.file, found.runs.first()) {
            (Some(Ok(file)), _) => launcher(&file.engines.class),
            // Its start has just begun.
            (None, Some((_, run))) => launcher(&run.launcher),
            // A controller runs by itself.
            (None, None) => "-".to_owned(),
            (Some(Err(_)), _) => "unreadable".to_owned(),
        };
        let living = found.living();
        Self {
            profile: found.profile.abbreviated(ipython_dir),
            profile_dir: found.profile.location().display().to_string(),
            cluster_id: found.cluster_id.0.clone(),
            condition: found.condition(),
            engines: found.living_engines(),
            pid: found.main_process().map(|process| process.pid),
            controller_pid: found.controller().map(|process| process.pid),
            launcher: class,
            started: found.started(),
            description: living.and_then(|file| serde_json::to_value(file).ok()),
        }
    }

    fn of_lost(lost: &Lost, ipython_dir: &Path) -> Self {
        let folder = &lost.profile_dir;
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = name.and_then(|name| name.strip_prefix("profile_"));
        let in_it = folder.parent() == Some(ipython_dir);
        let controller = lost.controller.pid;
        Self {
            profile: match name {
                Some(name) if in_it => name.to_owned(),
                _ => folder.display().to_string(),
            },
            profile_dir: folder.display().to_string(),
            cluster_id: lost.cluster_id.0.clone(),
            condition: Condition::ProfileDeleted,
            engines: 0,
            pid: lost
                .supervisor
                .as_ref()
                .map(|process| process.pid)
                .or(Some(controller)),
            controller_pid: Some(controller),
            launcher: "-".to_owned(),
            started: crate::os::process::started_at(controller),
            description: None,
        }
    }

    fn age(&self) -> Option<f64> {
        let age = SystemTime::now().duration_since(self.started?);
        Some(age.unwrap_or_default().as_secs_f64())
    }

    /// The keys `cluster`, `controller` and `engines` are ipyparallel's, and absent when nothing of them lives.
    fn to_json(&self) -> Value {
        let mut document = match &self.description {
            Some(Value::Object(fields)) => fields.clone(),
            _ => serde_json::Map::new(),
        };
        let own = json!({
            "profile": self.profile,
            "profile_dir": self.profile_dir,
            "cluster_id": self.cluster_id,
            "state": self.condition,
            "n_engines": self.engines,
            "pid": self.pid,
            "controller_pid": self.controller_pid,
            "launcher": self.launcher,
            "started": self.started.map(Timestamp::from),
            "age": self.age(),
        });
        if let Value::Object(own) = own {
            document.extend(own);
        }
        document.into()
    }
}

fn shown_id(id: &str) -> &str {
    if id.is_empty() { "''" } else { id }
}

fn as_table(rows: &[Row]) -> String {
    let head = [
        "PROFILE",
        "CLUSTER ID",
        "STATE",
        "ENGINES",
        "PID",
        "LAUNCHER",
        "AGE",
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.profile.clone(),
                shown_id(&row.cluster_id).to_owned(),
                row.condition.to_string(),
                row.engines.to_string(),
                row.pid
                    .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                row.launcher.clone(),
                row.age().map(age).unwrap_or_default(),
            ]
        })
        .collect();
    table(&head, &rows)
}

/// To the letter as ipyparallel's `ipcluster list` writes it, for clusters of which it would know.
fn as_text(rows: &[Row]) -> String {
    let mut text = format!(
        "{:16} {:32} {:7} {:7} {}\n",
        "PROFILE", "CLUSTER ID", "RUNNING", "ENGINES", "LAUNCHER"
    );
    for row in rows {
        let running = match row.condition {
            Condition::Starting
            | Condition::Running
            | Condition::ControllerAlone
            | Condition::ProfileDeleted => "True",
            Condition::ControllerLost | Condition::Stale => "False",
        };
        let (profile, id) = (&row.profile, shown_id(&row.cluster_id));
        let _ = writeln!(
            text,
            "{profile:16} {id:32} {running:7} {:7} {}",
            row.engines, row.launcher
        );
    }
    text
}

/// The name of ipyparallel's class without `EngineSetLauncher`.
fn launcher(class: &str) -> String {
    match class.to_ascii_lowercase().as_str() {
        "local" => "Local".to_owned(),
        "ssh" => "SSH".to_owned(),
        "sshproxy" => "SSHProxy".to_owned(),
        "mpi" => "MPI".to_owned(),
        "slurm" => "Slurm".to_owned(),
        "pbs" => "PBS".to_owned(),
        "sge" => "SGE".to_owned(),
        "lsf" => "LSF".to_owned(),
        "htcondor" => "HTCondor".to_owned(),
        _ => {
            let name = class.rsplit([':', '.']).next().unwrap_or(class);
            name.trim_end_matches("EngineSetLauncher").to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_have_the_names_that_ipyparallel_shows() {
        assert_eq!(launcher("local"), "Local");
        assert_eq!(
            launcher("ipyparallel.cluster.launcher:LocalEngineSetLauncher"),
            "Local"
        );
        assert_eq!(launcher("mine.FancyEngineSetLauncher"), "Fancy");
    }

    #[test]
    fn text_has_ipyparallel_s_columns() {
        let row = Row {
            profile: "default".to_owned(),
            profile_dir: "/p".to_owned(),
            cluster_id: String::new(),
            condition: Condition::Running,
            engines: 2,
            pid: Some(7),
            controller_pid: Some(8),
            launcher: "Local".to_owned(),
            started: None,
            description: Some(json!({"cluster": {"cluster_id": ""}})),
        };
        let rows = [row];
        let lines: Vec<String> = as_text(&rows).lines().map(str::to_owned).collect();
        let words: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(words, ["default", "''", "True", "2", "Local"]);
        let document = rows[0].to_json();
        assert_eq!(document["cluster"]["cluster_id"], "");
        assert_eq!(document["state"], "running");
        assert!(as_table(&rows).contains("running"));
    }
}
