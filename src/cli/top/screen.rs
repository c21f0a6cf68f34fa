//! What `ipcluster top` shows, line by line. Pure.

use super::line::{Line, Style, fitted, wrapped};
use crate::cli::watched::{Client, Engine, Model, Phase};

/// Clients that are shown.
const CLIENTS: usize = 6;

/// As many lines as fit: the figures, the clients, then engines, those that work before those that do not.
pub(super) fn lines(model: &Model, width: usize, height: usize) -> Vec<Line> {
    let mut lines = vec![
        Line::default()
            .add(Style::Bold, "ipcluster ")
            .add(Style::Faint, &model.about),
    ];
    lines.extend(wrapped(figures(model), width));
    if !model.sample.is_empty() {
        lines.extend(wrapped(rates(model), width));
        lines.push(Line::default().add(Style::Accent, bars(&model.rates, width)));
    }
    let mut clients: Vec<&Client> = model.clients.values().collect();
    clients.sort_by_key(|client| std::cmp::Reverse(client.at));
    if !clients.is_empty() {
        lines.push(Line::default());
    }
    lines.extend(
        clients
            .into_iter()
            .take(CLIENTS)
            .map(|client| of_client(client, width)),
    );
    lines.push(Line::default());
    let columns = columns_for(width);
    let head = columns.iter().map(|column| {
        let (name, width) = (column.name, column.width);
        if column.is_number {
            format!("{name:>width$} ")
        } else {
            format!("{name:<width$} ")
        }
    });
    lines.push(Line::default().add(Style::Faint, head.collect::<String>() + LAST_COLUMN));
    let mut engines: Vec<&Engine> = model.engines.values().collect();
    let room = height.saturating_sub(lines.len());
    if engines.len() > room {
        // What is wrong, then the longest at work.
        engines.sort_by_key(|engine| {
            let since = engine.current.as_ref().map(|current| current.since);
            (
                engine.phase == Phase::Up,
                !is_busy(engine),
                since.unwrap_or(i64::MAX),
                engine.id,
            )
        });
    }
    let hidden = engines.len().saturating_sub(room);
    let shown = if hidden > 0 {
        room.saturating_sub(1)
    } else {
        room
    };
    lines.extend(
        engines
            .iter()
            .take(shown)
            .map(|engine| of_engine(engine, model.now, &columns)),
    );
    if hidden > 0 {
        let more = engines.len() - shown.min(engines.len());
        lines.push(Line::default().add(Style::Faint, format!("{more} more engines")));
    }
    lines.truncate(height);
    lines
}

/// What the cluster has, and has done.
fn figures(model: &Model) -> Vec<Line> {
    use Style::{Bad, Bold, Faint, Good, Plain};
    let totals = model.totals;
    let up = || {
        model
            .engines
            .values()
            .filter(|engine| engine.phase == Phase::Up)
    };
    let busy = up().filter(|engine| is_busy(engine)).count();
    let count = |phase| {
        let engines = model.engines.values();
        engines.filter(|engine| engine.phase == phase).count()
    };
    let mut engines = Line::default()
        .add(Plain, "engines ")
        .add(Bold, up().count().to_string())
        .add(Faint, format!(" ({busy} busy)"));
    let coming = count(Phase::Starting) + count(Phase::Restarting);
    if coming > 0 {
        engines = engines.add(Plain, format!(", {coming} starting"));
    }
    if count(Phase::Dead) > 0 {
        engines = engines.add(Bad, format!(", {} dead", count(Phase::Dead)));
    }
    let mut waiting = Line::default()
        .add(Plain, "waiting ")
        .add(Bold, totals.waiting.to_string());
    if totals.blocked > 0 {
        waiting = waiting.add(Faint, format!(" ({} for dependencies)", totals.blocked));
    }
    let bad = if totals.failed > 0 { Bad } else { Plain };
    vec![
        engines,
        waiting,
        Line::default()
            .add(Plain, "running ")
            .add(Bold, totals.running.to_string()),
        Line::default()
            .add(Plain, "done ")
            .add(Good, totals.ok.to_string()),
        Line::default()
            .add(Plain, "failed ")
            .add(bad, totals.failed.to_string()),
        Line::default().add(Faint, format!("aborted {}", totals.aborted)),
    ]
}

/// How fast it is, and what it uses.
fn rates(model: &Model) -> Vec<Line> {
    use Style::{Bold, Faint, Plain};
    let figure = |index: usize| model.sample.get(index).copied().flatten();
    let seconds = |index| figure(index).map_or_else(|| "-".to_owned(), in_seconds);
    let used = |name: &str, cpu: usize, memory: usize| {
        let (cpu, memory) = (figure(cpu).unwrap_or(0.0), figure(memory).unwrap_or(0.0));
        Line::default().add(Faint, format!("{name} {cpu:.2} CPU, {}", in_bytes(memory)))
    };
    vec![
        Line::default()
            .add(Plain, "per second ")
            .add(Bold, format!("{:.1}", figure(2).unwrap_or(0.0))),
        Line::default().add(
            Faint,
            format!("half within {}, 95% within {}", seconds(8), seconds(9)),
        ),
        used("controller", 10, 11),
        used("kernels", 12, 13),
    ]
}

fn is_busy(engine: &Engine) -> bool {
    engine.tasks + engine.queue > 0
}

fn of_client(client: &Client, width: usize) -> Line {
    let bar = (width / 4).clamp(10, 40);
    let full = (client.done * bar as u64)
        .checked_div(client.total)
        .map_or(0, |full| usize::try_from(full).unwrap_or(bar));
    let left = client.left.filter(|_| client.done < client.total);
    let left = left.map(|left| format!(", {} left", in_seconds(left)));
    let session: String = client.client.chars().take(8).collect();
    let name = client.name.as_deref().unwrap_or("requests");
    let named = (width / 5).clamp(8, 24);
    let mut line = Line::default();
    if width >= 80 {
        line = line.add(Style::Faint, format!("{session:<9}"));
    }
    let running = (client.total - client.done.min(client.total))
        .saturating_sub(client.blocked + client.ready);
    let waits = [
        (running, "running"),
        (client.ready, "ready"),
        (client.blocked, "waiting for dependencies"),
    ];
    let waits = waits.into_iter().filter(|(count, _)| *count > 0);
    let waits: String = waits
        .map(|(count, what)| format!(", {count} {what}"))
        .collect();
    line = line
        .add(Style::Plain, fitted(name, named) + " ")
        .add(Style::Accent, "█".repeat(full.min(bar)))
        .add(Style::Faint, "░".repeat(bar - full.min(bar)))
        .add(
            Style::Plain,
            format!(
                " {} of {}{}",
                client.done,
                client.total,
                left.unwrap_or_default()
            ),
        );
    if client.failed > 0 {
        line = line.add(Style::Bad, format!(", {} failed", client.failed));
    }
    line.add(Style::Faint, waits)
}

/// A column of the engines' table.
#[derive(Clone, Copy, Debug)]
struct Column {
    name: &'static str,
    width: usize,
    is_number: bool,
    /// Those with the highest go first where there is no room for all.
    rank: u32,
    text: fn(&Engine) -> String,
}

/// What stands behind the columns, as far as there is room.
const LAST_COLUMN: &str = " WORKS ON";

/// Room for it before columns are left out.
const LAST_COLUMN_ROOM: usize = 18;

const COLUMNS: [Column; 10] = [
    column("ENGINE", 6, true, 0, |engine| engine.id.to_string()),
    column("HOST", 18, false, 7, |engine| or_dash(engine.host.clone())),
    column("PID", 8, true, 9, |engine| or_dash(engine.pid)),
    column("STATE", 10, false, 1, |engine| state_of(engine).to_owned()),
    column("TASKS", 6, true, 4, |engine| engine.tasks.to_string()),
    column("QUEUE", 6, true, 8, |engine| engine.queue.to_string()),
    column("COMPLETED", 9, true, 2, |engine| {
        engine.completed.to_string()
    }),
    column("FAILED", 7, true, 3, |engine| engine.failed.to_string()),
    column("MEMORY", 10, true, 5, |engine| {
        or_dash(engine.memory.map(|bytes| in_bytes(bytes as f64)))
    }),
    column("CPU", 5, true, 6, |engine| {
        or_dash(engine.cpu.map(|cpu| format!("{cpu:.2}")))
    }),
];

const fn column(
    name: &'static str,
    width: usize,
    is_number: bool,
    rank: u32,
    text: fn(&Engine) -> String,
) -> Column {
    Column {
        name,
        width,
        is_number,
        rank,
        text,
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Those that a terminal of this width has room for.
fn columns_for(width: usize) -> Vec<Column> {
    let mut columns = COLUMNS.to_vec();
    while columns.len() > 2
        && columns.iter().map(|column| column.width + 1).sum::<usize>() + LAST_COLUMN_ROOM > width
    {
        let last = columns.iter().map(|column| column.rank).max();
        columns.retain(|column| Some(column.rank) != last);
    }
    columns
}

fn state_of(engine: &Engine) -> &'static str {
    match engine.phase {
        Phase::Starting => "starting",
        Phase::Restarting => "restarting",
        Phase::Dead => "dead",
        Phase::Up if is_busy(engine) => "busy",
        Phase::Up => "idle",
    }
}

fn of_engine(engine: &Engine, now: i64, columns: &[Column]) -> Line {
    let work = match &engine.current {
        Some(current) => {
            let name = current.label.as_deref().unwrap_or(&current.name);
            let seconds = (now - current.since).max(0) as f64 / 1e6;
            format!("{} ({})", fitted(name, 40).trim_end(), in_seconds(seconds))
        }
        None => engine.how.clone().unwrap_or_default(),
    };
    let mut line = Line::default();
    for column in columns {
        let text = (column.text)(engine);
        let text = if column.is_number {
            format!("{text:>width$} ", width = column.width)
        } else {
            fitted(&text, column.width) + " "
        };
        let style = match (column.name, engine.phase) {
            ("FAILED", _) if engine.failed > 0 => Style::Bad,
            ("STATE", Phase::Dead) => Style::Bad,
            ("STATE", Phase::Up) if is_busy(engine) => Style::Good,
            ("STATE", Phase::Up) => Style::Faint,
            _ => Style::Plain,
        };
        line = line.add(style, text);
    }
    line.add(Style::Plain, format!(" {work}"))
}

/// The last values as a row of bars.
fn bars(values: &std::collections::VecDeque<f64>, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(1.0, f64::max);
    let skip = values.len().saturating_sub(width);
    let bar = |value: &f64| {
        let height = (value / most * (BARS.len() - 1) as f64).ceil();
        BARS[(height as usize).min(BARS.len() - 1)]
    };
    values.iter().skip(skip).map(bar).collect()
}

/// `12 ms`, `3.4 s`, `5:06 min`, `2:10:00 h`.
pub(super) fn in_seconds(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{rest:02} h")
    } else {
        format!("{minutes}:{rest:02} min")
    }
}

fn in_bytes(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn model(engines: u32) -> Model {
        let mut model = Model::default();
        let engines: Vec<_> = (0..engines)
            .map(|id| json!({"id": id, "tasks": id % 2, "completed": 5, "current": {"name": "f", "since": 1000 - i64::from(id)}}))
            .collect();
        model.apply(&json!({
            "kind": "state", "now": 2_000_000, "about": {"profile": "lab"}, "engines": engines,
            "clients": [{"client": "abcdefghij", "total": 10, "done": 4, "failed": 1, "blocked": 3, "ready": 2, "left": 75.0, "name": "map f", "at": 1}],
            "samples": [[1, 0, 4.0, 0, 0, 0, 0, 0, 0.5, 2.0, 0.1, 1e6, 0.2, 1e6]],
        }));
        model
    }

    #[test]
    fn everything_is_said() {
        let text: Vec<String> = lines(&model(4), 120, usize::MAX)
            .iter()
            .map(Line::plain)
            .collect();
        let text = text.join("\n");
        for part in [
            "lab",
            "engines 4 (2 busy)",
            "4 of 10, 1:15 min left, 1 failed, 1 running, 2 ready, 3 waiting for dependencies",
            "half within 500 ms",
            "f (2.0 s)",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn it_fits_into_the_terminal() {
        for height in [0, 1, 5, 12, 24] {
            let lines = lines(&model(1000), 80, height);
            assert!(lines.len() <= height, "{height}");
            for line in &lines {
                let shown = line.styled(80, true);
                let visible = shown
                    .split('\x1b')
                    .map(|part| part.split_once('m').map_or(part, |part| part.1));
                assert!(visible.map(|part| part.chars().count()).sum::<usize>() <= 80);
            }
        }
        let last = lines(&model(1000), 80, 24).pop().unwrap().plain();
        assert!(last.ends_with("more engines"), "{last}");
        // The engine that has worked longest comes first.
        let rows = lines(&model(1000), 120, 24);
        assert!(
            rows.iter()
                .any(|line| line.plain().trim_start().starts_with("999 "))
        );
    }
    #[test]
    fn a_narrow_terminal_has_what_matters() {
        for width in [20, 40, 60, 80, 100, 120, 200] {
            let all = lines(&model(3), width, usize::MAX);
            let head = all.iter().find(|line| line.plain().contains("ENGINE"));
            let head = head.unwrap().plain();
            assert!(head.contains("STATE"), "{head}");
            assert_eq!(head.contains("PID"), width >= 110, "{width}: {head}");
            if width >= 40 {
                assert!(
                    head.find("WORKS ON").unwrap() + LAST_COLUMN_ROOM - 1 <= width,
                    "{head}"
                );
                let figures = all.iter().take_while(|line| !line.plain().contains('▁'));
                for line in figures.take(4) {
                    assert!(line.width() <= width, "{width}: {}", line.plain());
                }
            }
        }
    }

    #[test]
    fn engines_that_die_come_first() {
        let mut model = model(50);
        model.apply(&json!({"kind": "changes", "engines": [
            {"id": 33, "phase": "dead", "how": "killed by SIGKILL", "since": 5},
            {"id": 60, "phase": "starting", "since": 5},
        ]}));
        let text: Vec<String> = lines(&model, 130, 20).iter().map(Line::plain).collect();
        let text = text.join("\n");
        assert!(
            text.contains("engines 49 (24 busy), 1 starting, 1 dead"),
            "{text}"
        );
        assert!(
            text.contains("killed by SIGKILL") && text.contains("60 "),
            "{text}"
        );
    }
}
