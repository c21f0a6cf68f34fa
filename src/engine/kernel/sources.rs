//! The kernel's Python sources, which travel inside this executable.

use serde_json::json;

/// Run with `python -c`; installs the modules that it is sent and starts the kernel.
pub(in crate::engine) const BOOTSTRAP: &str = include_str!("../worker/bootstrap.py");

macro_rules! modules {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../worker/", $name, ".py")))),*]
    };
}

const MODULES: &[(&str, &str)] = modules![
    "__init__",
    "apps",
    "config",
    "engineapp",
    "forkserver",
    "kernel",
    "link",
    "main",
    "messages",
    "plain",
    "process",
    "serial",
    "session",
    "shared",
    "shell",
    "signals",
    "streams",
];

/// The first message to a kernel process: `{module name: source}`.
pub(in crate::engine) fn to_json() -> Vec<u8> {
    let modules: serde_json::Map<String, serde_json::Value> = MODULES
        .iter()
        .map(|(name, source)| ((*name).to_owned(), json!(source)))
        .collect();
    serde_json::Value::from(modules).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_of_the_package_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine/worker");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".py").map(str::to_owned))
            .filter(|name| name != "bootstrap")
            .collect();
        found.sort();
        let embedded: Vec<&str> = MODULES.iter().map(|(name, _)| *name).collect();
        assert_eq!(embedded, found);
    }
}
