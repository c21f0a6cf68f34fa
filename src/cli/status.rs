//! `ipcluster status`: the controller, its engines, queues and database at a glance, as the hub tells of them.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::Failure;
use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::output::{FormatArgs, age, say, say_json, size, table};
use crate::cli::setup::Setup;
use crate::cli::target::{hub, running, runs_by_itself, set_up_for_existing};
use crate::hubclient::{EngineState, EngineStatus, HubClient, HubError, Notification, Status};
use crate::launch::condition::Condition;
use crate::launch::found::Found;
use crate::os::process::wait_until_gone;
use crate::protocol::{EngineId, Timestamp};

#[derive(Args, Clone, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    format: FormatArgs,

    /// Show it again and again, every so many seconds [default: 1] and when an engine comes or goes, until Ctrl-C or the
    /// cluster's end
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1", value_parser = interval)]
    watch: Option<f64>,

    /// Seconds in which the controller has to answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = interval)]
    timeout: f64,
}

/// How long a controller that has closed its connections is waited for, before it is asked whether it is there.
const LAST_STEPS: Duration = Duration::from_secs(1);

/// A number of seconds that can be waited for.
fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && Duration::try_from_secs_f64(seconds).is_ok() => Ok(seconds),
        _ => Err("it takes a number of seconds above 0".to_owned()),
    }
}

pub(super) fn run(args: &StatusArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let setup = set_up_for_existing(&args.common, rewritten, Vec::new())?;
    let found = running(&setup)?;
    let mut view = View {
        setup: &setup,
        args,
        timeout: Duration::from_secs_f64(args.timeout),
        lines_shown: 0,
    };
    let mut client = match hub(&setup) {
        Ok(client) => client,
        Err(failure) => {
            view.say_mute(&found, failure.message().unwrap_or_default())?;
            return Err(failure);
        }
    };
    match (view.look(&found, &mut client)?, args.watch) {
        (Seen::Mute(why), _) => Err(Failure::failed(why)),
        (Seen::ByNobody, _) | (Seen::All, None) => Ok(()),
        (Seen::All, Some(interval)) => view.watch(found, &mut client, interval),
    }
}

/// What a look has come to.
enum Seen {
    All,
    /// Nobody reads any more.
    ByNobody,
    /// The hub has not answered, and why.
    Mute(String),
}

struct View<'a> {
    setup: &'a Setup,
    args: &'a StatusArgs,
    timeout: Duration,
    /// At a terminal, which are written over.
    lines_shown: usize,
}

impl View<'_> {
    /// Looks again and again, to the cluster's end. A connection that is lost is made again.
    fn watch(
        &mut self,
        mut found: Found,
        client: &mut HubClient,
        interval: f64,
    ) -> Result<(), Failure> {
        loop {
            // Of a controller that ends, the process is gone soon.
            let ends_within = match client.next_notification(Duration::from_secs_f64(interval))? {
                Some(Notification::Shutdown) => self.timeout,
                Some(Notification::Disconnected) => LAST_STEPS,
                Some(Notification::Registered(_) | Notification::Left(_)) | None => Duration::ZERO,
            };
            if !ends_within.is_zero() {
                wait_until_gone(found.controller().as_slice(), ends_within);
            }
            found = running(self.setup)?;
            match self.look(&found, client)? {
                Seen::All => {}
                Seen::ByNobody => return Ok(()),
                Seen::Mute(why) => {
                    // It may have ended while it was asked.
                    running(self.setup)?;
                    tracing::warn!("{why}");
                    self.lines_shown = 0;
                }
            }
        }
    }

    fn look(&mut self, found: &Found, client: &mut HubClient) -> Result<Seen, Failure> {
        let status = match client.status(self.timeout) {
            Ok(status) => status,
            Err(error) => {
                let why = match error {
                    HubError::TimedOut { .. } => silence(found, &error, self.args.timeout),
                    _ => error.to_string(),
                };
                self.say_mute(found, &why)?;
                return Ok(Seen::Mute(why));
            }
        };
        Ok(match self.show(found, client, &status)? {
            true => Seen::All,
            false => Seen::ByNobody,
        })
    }

    /// False when nobody reads any more.
    fn show(
        &mut self,
        found: &Found,
        client: &mut HubClient,
        status: &Status,
    ) -> Result<bool, Failure> {
        let database = self.database(status, client);
        if self.args.format.is_json() {
            return say_json(&self.document(found, Some(status), database, None));
        }
        let text = self.text(found, status, database.as_ref());
        if self.args.watch.is_none() {
            return say(&text);
        }
        if !std::io::stdout().is_terminal() {
            return say(&format!("{text}\n"));
        }
        // Up to the first line of what was shown, and away with it.
        let over = match self.lines_shown {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        };
        self.lines_shown = text.lines().count();
        say(&format!("{over}{text}"))
    }

    /// Nobody answers: to programs, what can be said without the hub is.
    fn say_mute(&self, found: &Found, why: &str) -> Result<(), Failure> {
        if self.args.format.is_json() {
            say_json(&self.document(found, None, None, Some(why)))?;
        }
        Ok(())
    }

    /// The figures of the task database; nothing without one.
    fn database(&self, status: &Status, client: &mut HubClient) -> Option<Map<String, Value>> {
        let is_there = status
            .controller
            .as_ref()
            .is_some_and(|controller| controller.database);
        if !is_there {
            return None;
        }
        let answer = client.request("db_stats_request", json!({}), self.timeout);
        let mut figures = match answer {
            Ok(Value::Object(figures)) => figures,
            Ok(_) => Map::new(),
            Err(error) => Map::from_iter([("error".to_owned(), error.to_string().into())]),
        };
        figures.remove("status");
        if let Some(fault) = &status.database_fault {
            figures.insert("fault".to_owned(), json!(fault));
        }
        Some(figures)
    }

    fn document(
        &self,
        found: &Found,
        status: Option<&Status>,
        database: Option<Map<String, Value>>,
        error: Option<&str>,
    ) -> Value {
        let engine = |(id, engine): (&EngineId, &EngineStatus)| {
            let mut fields = json!(engine);
            fields["id"] = json!(id);
            fields["running"] = json!(engine.running());
            fields["queued"] = json!(engine.queued());
            fields
        };
        let engines: Option<Vec<Value>> =
            status.map(|status| status.engines.iter().map(engine).collect());
        json!({
            "profile": self.setup.profile.name(),
            "profile_dir": self.setup.profile.location(),
            "cluster_id": self.setup.cluster_id,
            "state": condition(found, status.is_some()),
            "started": found.started().map(Timestamp::from),
            "controller": status.map(|status| &status.controller),
            "engines": engines,
            "unassigned": status.map(|status| status.unassigned),
            "database": database,
            "error": error,
        })
    }

    fn text(
        &self,
        found: &Found,
        status: &Status,
        database: Option<&Map<String, Value>>,
    ) -> String {
        let busy = status.engines.values().filter(|one| one.running() > 0);
        let starting = status
            .engines
            .values()
            .filter(|one| one.state == EngineState::Starting);
        let (count, busy, starting) = (status.engines.len(), busy.count(), starting.count());
        let mut engines = format!("{count}, {busy} at work");
        if starting > 0 {
            let _ = write!(engines, ", {starting} starting");
        }
        let queued: u64 = status.engines.values().map(EngineStatus::queued).sum();
        let mut lines = vec![
            format!(
                "cluster {:?} of profile {}: {}",
                self.setup.cluster_id.0,
                self.setup.profile.location().display(),
                condition(found, true)
            ),
            format!("controller  {}", controller(found, status)),
            format!("engines     {engines}"),
            format!(
                "queues      {} unassigned, {queued} waiting at engines",
                status.unassigned
            ),
            format!("database    {}", database_line(database, status)),
        ];
        if !status.engines.is_empty() {
            lines.push(String::new());
            lines.push(engine_table(status).trim_end().to_owned());
        }
        lines.join("\n") + "\n"
    }
}

/// How it is, when the hub has answered or not.
fn condition(found: &Found, answers: bool) -> Condition {
    match found.condition() {
        // By a connection file that was copied here, or kept: nothing else is known of it on this machine.
        Condition::Stale if answers => Condition::ControllerAlone,
        known => known,
    }
}

/// What a controller's silence means.
fn silence(found: &Found, error: &HubError, seconds: f64) -> String {
    match found.controller() {
        Some(process) => {
            let end = match found.lone_controller() {
                Some(_) => format!("`kill {process}` ends it"),
                None => "`ipcluster stop` ends it".to_owned(),
            };
            format!(
                "the controller (process {process}) runs, but has not answered within {seconds:.1} s: it hangs, is stopped, \
                 has very much to do, or the connection file is not its own; --timeout waits longer, `ipcluster logs \
                 --controller` shows what it says, {end}"
            )
        }
        None => error.to_string(),
    }
}

fn controller(found: &Found, status: &Status) -> String {
    let Some(controller) = &status.controller else {
        let process = found
            .controller()
            .map_or_else(String::new, |process| format!("process {process}, "));
        return format!("{process}of ipyparallel, which tells no more of itself");
    };
    let memory = controller
        .memory
        .map_or_else(String::new, |bytes| format!(", {}", size(bytes)));
    let alone = found.lone_controller().map_or_else(String::new, |process| {
        format!("; it {}", runs_by_itself(&process))
    });
    format!(
        "process {} on {}, up for {}{memory}, version {}{alone}",
        controller.pid,
        controller.host,
        age(controller.seconds),
        controller.version
    )
}

fn database_line(database: Option<&Map<String, Value>>, status: &Status) -> String {
    let Some(figures) = database else {
        return if status.controller.is_some() {
            "none".to_owned()
        } else {
            "not known".to_owned()
        };
    };
    let fault = figures.get("fault").and_then(Value::as_object);
    let error = figures.get("error").and_then(Value::as_str);
    // At fault it may take long to answer: the hub knows without it.
    if let (Some(error), None) = (error, fault) {
        return error.to_owned();
    }
    let text = |name: &str| figures.get(name).and_then(Value::as_str).unwrap_or("?");
    let number = |name: &str| figures.get(name).and_then(Value::as_u64);
    let of_fault = |name: &str| fault.and_then(|fault| fault.get(name)?.as_u64());
    let mut line = match number("records") {
        Some(records) => format!(
            "{}: {records} records, {} of unfinished requests; {} changes behind",
            text("place"),
            number("unfinished").unwrap_or(0),
            number("behind").unwrap_or(0) + number("waiting").unwrap_or(0)
        ),
        None => {
            let waiting = number("waiting").or_else(|| of_fault("waiting"));
            let bytes = number("waiting_bytes")
                .map_or_else(String::new, |bytes| format!(" ({})", size(bytes)));
            format!(
                "changes of {} records wait in memory{bytes}",
                waiting.unwrap_or(0)
            )
        }
    };
    let lost = number("lost").or_else(|| of_fault("lost")).unwrap_or(0);
    if lost > 0 {
        let _ = write!(line, ", {lost} lost");
    }
    if let Some(fault) = fault {
        let of = |name: &str| fault.get(name).and_then(Value::as_str);
        let since = of("since").map_or_else(String::new, |since| format!(" since {since}"));
        let _ = write!(line, "; FAULT{since}: {}", of("error").unwrap_or("?"));
        if let Some(remedy) = of("remedy") {
            let _ = write!(line, "; {remedy}");
        }
    }
    line
}

fn engine_table(status: &Status) -> String {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> = status
        .engines
        .iter()
        .map(|(id, engine)| {
            let state = match engine.state {
                EngineState::Starting => "starting",
                EngineState::Registered if engine.running() > 0 => "busy",
                EngineState::Registered => "idle",
            };
            vec![
                id.to_string(),
                or_dash(engine.host.clone()),
                or_dash(engine.pid.map(|pid| pid.to_string())),
                state.to_owned(),
                engine.running().to_string(),
                engine.queued().to_string(),
                engine.completed.to_string(),
                or_dash(engine.failed.map(|failed| failed.to_string())),
                or_dash(engine.seconds.map(age)),
            ]
        })
        .collect();
    let head = [
        "ENGINE",
        "HOST",
        "PID",
        "STATE",
        "RUNNING",
        "QUEUED",
        "COMPLETED",
        "FAILED",
        "UP",
    ];
    table(&head, &rows)
}
