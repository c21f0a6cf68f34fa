//! `ipcluster tasks`: what has ended, and what ends.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::setup::{ProfileMust, Setup, set_up};
use crate::cli::watched::{Ended, Model};
use crate::cli::{Failure, dashboard, exit_code};
use crate::profile::traitlets::Program;
use crate::protocol::Timestamp;
use crate::protocol::text::visible;
use crate::web::{Visit, VisitError};

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "It asks the status page, which the cluster has to serve (--dashboard). `ipcluster db` asks the task \
                  database, also of clusters that have ended."
)]
pub(super) struct TasksArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Go on with tasks as they end, until the cluster does
    #[arg(short, long)]
    follow: bool,

    /// The last N that have ended
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: usize,

    /// How a task looks: a line of a table, or an object on a line of JSON
    #[arg(short, long = "output-format", value_enum, ignore_case = true, default_value_t = Format::Table)]
    o: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub(super) fn run(args: &TasksArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let setup = set_up(
        Program::Cluster,
        "ipcluster",
        &args.common,
        rewritten,
        Vec::new(),
        ProfileMust::Exist,
    )?;
    let address = dashboard::find(&setup)?.ok_or_else(|| none(&setup))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(show(args, Visit::new(address)))
}

fn none(setup: &Setup) -> Failure {
    Failure::new(
        exit_code::NO_CLUSTER,
        format!(
            "no cluster of profile {} serves a status page, from which tasks are known: `ipcluster start --dashboard` starts \
             one that does, and `ipcluster db query` asks the task database",
            setup.profile.location().display()
        ),
    )
}

async fn show(args: &TasksArgs, visit: Visit) -> Result<(), Failure> {
    let mut model = Model::default();
    let mut printer = Printer {
        format: args.o,
        any: false,
    };
    let mut state = visit
        .get(&format!("api/state?stream={}", args.last))
        .await?;
    let mut next = 0;
    let mut events = if args.follow {
        Some(visit.events().await?)
    } else {
        None
    };
    loop {
        let ended = model.apply(&state);
        // What is told twice is shown once.
        let ended: Vec<Ended> = ended
            .into_iter()
            .filter(|ended| ended.seq >= next)
            .collect();
        next = ended.last().map_or(next, |last| last.seq + 1);
        if !printer.print(&ended, model.started) {
            return Ok(());
        }
        let Some(events) = &mut events else {
            return Ok(());
        };
        state = match events.next().await {
            Ok(event) => event,
            // As long as the cluster runs, it was said.
            Err(VisitError::Ended { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    }
}

struct Printer {
    format: Format,
    any: bool,
}

impl Printer {
    /// False when nobody reads it.
    fn print(&mut self, ended: &[Ended], started: f64) -> bool {
        let mut text = String::new();
        if self.format == Format::Table && !std::mem::replace(&mut self.any, true) {
            text = format!(
                "{:<23} {:<8} {:>6} {:>9} {:>9}  {:<28} {}\n",
                "ENDED", "STATUS", "ENGINE", "WAITED", "TOOK", "FUNCTION", "ID"
            );
        }
        for one in ended {
            match self.format {
                Format::Table => text.push_str(&row(one, started)),
                Format::Json => {
                    text.push_str(&object(one, started).to_string());
                    text.push('\n');
                }
            }
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_ok()
    }
}

/// A moment of the page's time as a date.
fn date(micros: i64, started: f64) -> Timestamp {
    Timestamp::from_micros((started * 1000.0).round() as i64 + micros)
}

fn row(ended: &Ended, started: f64) -> String {
    let in_seconds = |micros: i64| format!("{:.3} s", micros.max(0) as f64 / 1e6);
    let waited = ended
        .submitted
        .map(|submitted| in_seconds(ended.started - submitted));
    let engine = ended.engine.map(|engine| engine.to_string());
    let what = match &ended.label {
        Some(label) => format!("{} [{label}]", ended.name),
        None => ended.name.clone(),
    };
    let at = date(ended.ended, started).to_string();
    let error = ended
        .error
        .as_deref()
        .map(|error| format!("  {}", visible(error)))
        .unwrap_or_default();
    format!(
        "{:<23} {:<8} {:>6} {:>9} {:>9}  {:<28} {}{error}\n",
        at.get(..23).unwrap_or(&at),
        ended.status,
        engine.as_deref().unwrap_or("-"),
        waited.as_deref().unwrap_or("-"),
        in_seconds(ended.ended - ended.started),
        visible(&what),
        visible(&ended.msg_id),
    )
}

fn object(ended: &Ended, started: f64) -> Value {
    json!({
        "msg_id": ended.msg_id,
        "name": ended.name,
        "label": ended.label,
        "client": ended.client,
        "engine": ended.engine,
        "queue": ended.queue,
        "submitted": ended.submitted.map(|micros| date(micros, started)),
        "started": date(ended.started, started),
        "completed": date(ended.ended, started),
        "status": ended.status,
        "error": ended.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_a_line_either_way() {
        let ended: Ended = serde_json::from_value(json!([
            0,
            3,
            1_000_000,
            1_250_000,
            "failed",
            "f",
            "night",
            "m_1",
            "c",
            500_000,
            "task",
            "ValueError: no"
        ]))
        .unwrap();
        let started = 1_767_225_600_000.0;
        let row = row(&ended, started);
        for part in [
            "2026-01-01T00:00:01.250",
            "failed",
            "0.500 s",
            "0.250 s",
            "f [night]",
            "m_1  ValueError: no",
        ] {
            assert!(row.contains(part), "{part}: {row}");
        }
        let object = object(&ended, started);
        assert_eq!(object["completed"], "2026-01-01T00:00:01.250000Z");
        assert_eq!(object["engine"], 3);
    }
}
