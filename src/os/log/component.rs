//! The parts of the program that lines of the log come from.

/// What [`of`] may answer, in the words of the status page.
pub const COMPONENTS: &[&str] = &[
    "hub",
    "task",
    "direct",
    "broadcast",
    "iopub",
    "heartbeat",
    "recorder",
    "controller",
    "engine",
    "launch",
    "dashboard",
    "profile",
    "transport",
    "os",
    "cli",
];

/// The component of a module, by its path.
pub(super) fn of(target: &str) -> &'static str {
    let mut parts = target.split("::").skip(1);
    match (parts.next(), parts.next()) {
        (Some("controller"), Some(thread)) => match thread {
            "hub_thread" | "late_joiners" | "dask" => "hub",
            "task_thread" => "task",
            "direct_thread" => "direct",
            "broadcast_thread" => "broadcast",
            "iopub_thread" => "iopub",
            "heartbeat_thread" => "heartbeat",
            "recorder_thread" | "reader_thread" | "storage_health" | "backlog" => "recorder",
            _ => "controller",
        },
        (Some("cli"), Some("controller")) => "controller",
        (Some("cli"), Some("engine")) => "engine",
        (Some("cli"), Some("dashboard")) => "dashboard",
        (Some("hub"), _) => "hub",
        (Some("controller" | "scheduler"), _) => "controller",
        (Some("taskdb"), _) => "recorder",
        (Some("engine"), _) => "engine",
        (Some("launch" | "hubclient"), _) => "launch",
        (Some("web" | "observe"), _) => "dashboard",
        (Some("profile"), _) => "profile",
        (Some("transport"), _) => "transport",
        (Some("os"), _) => "os",
        // Libraries are none of ours.
        _ => "cli",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_a_component_that_can_be_named() {
        for target in [
            "ipcluster::controller::task_thread",
            "ipcluster::controller",
            "ipcluster::web::feed",
            "ipcluster::taskdb::sqlite",
            "ipcluster",
            "hyper::server",
            "",
        ] {
            assert!(COMPONENTS.contains(&of(target)), "{target}");
        }
        assert_eq!(of("ipcluster::controller::task_thread"), "task");
    }
}
