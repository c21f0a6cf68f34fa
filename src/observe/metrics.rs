//! The figures in Prometheus' text format (version 0.0.4). Nothing in it grows with engines, clients or functions.

use std::fmt::{Display, Write};

use super::stream::Status;
use super::{Board, Histogram, Phase};

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into memory cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.value(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        for (bound, count) in histogram.cumulative() {
            self.value(
                &format!("{name}_bucket"),
                &format!("{{le=\"{bound}\"}}"),
                count,
            );
        }
        self.value(
            &format!("{name}_bucket"),
            "{le=\"+Inf\"}",
            histogram.count(),
        );
        self.value(&format!("{name}_sum"), "", histogram.sum());
        self.value(&format!("{name}_count"), "", histogram.count());
    }
}

/// The text of `/metrics`. `version` is the program's; `pages` are open now.
pub fn render(board: &Board, version: &str, pages: usize) -> String {
    let mut page = Page(String::new());
    page.family("ipcluster_info", "gauge", "The controller's version.");
    page.value("ipcluster_info", &format!("{{version=\"{version}\"}}"), 1);

    let submitted = "ipcluster_requests_submitted_total";
    page.family(submitted, "counter", "Requests that were taken in.");
    for (channel, totals) in board.totals() {
        let labels = format!("{{queue=\"{}\"}}", channel.name());
        page.value(submitted, &labels, totals.tally.submitted);
    }
    let ended = "ipcluster_requests_ended_total";
    page.family(ended, "counter", "Requests that have ended.");
    for (channel, totals) in board.totals() {
        let tally = totals.tally;
        for (status, count) in Status::ALL
            .into_iter()
            .zip([tally.ok, tally.failed, tally.aborted])
        {
            let labels = format!(
                "{{queue=\"{}\",status=\"{}\"}}",
                channel.name(),
                status.name()
            );
            page.value(ended, &labels, count);
        }
    }
    let waiting = "ipcluster_requests_waiting";
    page.family(waiting, "gauge", "Requests that no engine has yet.");
    for (channel, totals) in board.totals() {
        page.value(
            waiting,
            &format!("{{queue=\"{}\"}}", channel.name()),
            totals.waiting.all(),
        );
    }
    let blocked = board.totals().map(|(_, totals)| totals.waiting.blocked);
    page.one(
        "ipcluster_requests_blocked",
        "gauge",
        "Requests that wait for others to end; they are among those waiting.",
        blocked.sum::<u64>(),
    );
    let running = "ipcluster_requests_at_engines";
    page.family(running, "gauge", "Requests that engines have.");
    for (channel, totals) in board.totals() {
        page.value(
            running,
            &format!("{{queue=\"{}\"}}", channel.name()),
            totals.running,
        );
    }

    let busy = board.engines().filter(|row| row.is_busy()).count();
    let engines = board.engines().count();
    page.one("ipcluster_engines", "gauge", "Registered engines.", engines);
    page.one(
        "ipcluster_engines_busy",
        "gauge",
        "Engines that have requests.",
        busy,
    );
    let starting = board.rows().filter(|row| row.phase == Phase::Starting);
    page.one(
        "ipcluster_engines_starting",
        "gauge",
        "Engines that have asked to be registered and are not ready yet.",
        starting.count(),
    );
    let (registered, left) = board.registrations();
    let help = "Engines that have registered.";
    page.one(
        "ipcluster_engines_registered_total",
        "counter",
        help,
        registered,
    );
    let help = "Engines that have left.";
    page.one("ipcluster_engines_left_total", "counter", help, left);
    let memory: u64 = board.engines().filter_map(|row| row.usage.memory).sum();
    let help = "Resident memory of all kernels that tell.";
    page.one(
        "ipcluster_kernels_resident_memory_bytes",
        "gauge",
        help,
        memory,
    );
    let help = "Connections of clients to the hub.";
    page.one(
        "ipcluster_client_connections_total",
        "counter",
        help,
        board.clients_connected(),
    );

    let (waits, runs) = board.durations();
    let help = "From the submission, by the client's clock, to the start of work, of requests that were followed and \
                succeeded.";
    page.histogram("ipcluster_request_wait_seconds", help, waits);
    let help = "From the start of work to its end, of requests that were followed and succeeded.";
    page.histogram("ipcluster_request_run_seconds", help, runs);
    let help = "Requests that were too many to be followed one by one.";
    page.one(
        "ipcluster_requests_unfollowed_total",
        "counter",
        help,
        board.unfollowed(),
    );

    page.one(
        "ipcluster_pages_open",
        "gauge",
        "Status pages that are open.",
        pages,
    );
    let host = board.host();
    let help = "Processor time of the controller.";
    page.one(
        "process_cpu_seconds_total",
        "counter",
        help,
        host.cpu_seconds,
    );
    let help = "Resident memory of the controller.";
    page.one("process_resident_memory_bytes", "gauge", help, host.memory);
    page.0
}
