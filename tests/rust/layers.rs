//! Imports point down only, and pure rooms are pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Each room, the rooms that it may name, and whether it is pure.
const ROOMS: &[(&str, &[&str], bool)] = &[
    ("protocol", &[], true),
    ("os", &["protocol"], false),
    ("transport", &["protocol", "os"], false),
    ("profile", &["protocol", "os"], false),
    ("taskdb", &["protocol", "os"], false),
    ("heartbeat", &["protocol"], true),
    ("scheduler", &["protocol"], true),
    ("observe", &["protocol"], true),
    ("hub", &["protocol", "taskdb"], true),
    (
        "hubclient",
        &["protocol", "profile", "os", "transport"],
        false,
    ),
    ("launch", &["protocol", "profile", "os", "hubclient"], false),
    ("engine", &["protocol", "profile", "os", "transport"], false),
    (
        "controller",
        &[
            "protocol",
            "profile",
            "os",
            "transport",
            "taskdb",
            "heartbeat",
            "scheduler",
            "hub",
            "observe",
        ],
        false,
    ),
    (
        "web",
        &["protocol", "os", "transport", "observe", "controller"],
        false,
    ),
    (
        "cli",
        &[
            "protocol",
            "profile",
            "os",
            "transport",
            "taskdb",
            "heartbeat",
            "observe",
            "scheduler",
            "hub",
            "hubclient",
            "launch",
            "engine",
            "controller",
            "web",
        ],
        false,
    ),
];

/// Names that bring the outside world into a room.
const IMPURE: &[&str] = &[
    "std::net",
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "std::io",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "zmq",
    "tokio",
    "nix::",
    "libc::",
    " rand::",
];

/// Parts of rooms that are pure, and what of those names they may hold all the same: a type without an effect.
const PURE_PARTS: &[(&str, &str)] = &[("transport/zmtp", "std::io::IoSlice")];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file without its comments and without its test module, which stands last or in a file of its own.
fn code(path: &Path) -> String {
    let is_test = |part: &str| {
        ["tests", "testing.rs", "fuzzing", "fuzz.rs"].contains(&part) || part.ends_with("tests.rs")
    };
    if path
        .iter()
        .filter_map(|part| part.to_str())
        .skip_while(|part| *part != "src")
        .any(is_test)
    {
        return String::new();
    }
    let text = std::fs::read_to_string(path).unwrap();
    let text = text
        .split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .to_owned();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn by_room() -> BTreeMap<String, Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut rooms: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        let first = file
            .strip_prefix(&root)
            .unwrap()
            .components()
            .next()
            .unwrap();
        let room = first
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        // What fuzzes looks into all of them, and is not part of the program.
        if !["lib", "main", "fuzzing"].contains(&room.as_str()) {
            rooms.entry(room).or_default().push(file);
        }
    }
    rooms
}

/// Rooms named in `crate::room` and `crate::{a, b}` paths.
fn named_rooms(code: &str) -> Vec<String> {
    let mut named = Vec::new();
    for after in code.split("crate::").skip(1) {
        if let Some(group) = after.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or_default();
            named.extend(group.split(',').filter_map(first_word));
        } else {
            named.extend(first_word(after));
        }
    }
    named
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text
        .trim()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!word.is_empty()).then_some(word)
}

#[test]
fn imports_point_down_only() {
    let mut wrong = Vec::new();
    for (room, files) in by_room() {
        let Some((_, may_name, _)) = ROOMS.iter().find(|(name, ..)| *name == room) else {
            wrong.push(format!("{room}: not in the table of rooms"));
            continue;
        };
        for file in files {
            for named in named_rooms(&code(&file)) {
                if named != room && !may_name.contains(&named.as_str()) {
                    wrong.push(format!("{}: {room} names {named}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_name_nothing_of_the_outside_world() {
    let mut wrong = Vec::new();
    for (room, files) in by_room() {
        if !ROOMS.iter().any(|(name, _, pure)| *name == room && *pure) {
            continue;
        }
        for file in files {
            let code = code(&file);
            wrong.extend(
                IMPURE
                    .iter()
                    .filter(|name| code.contains(**name))
                    .map(|name| format!("{}: {name}", file.display())),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_parts_of_rooms_name_nothing_of_the_outside_world() {
    for (part, harmless) in PURE_PARTS {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(part);
        let mut files = Vec::new();
        sources(&root, &mut files);
        assert!(!files.is_empty(), "there is no {part}");
        let (mut wrong, mut all) = (Vec::new(), String::new());
        for file in files {
            let code = code(&file);
            all.push_str(&code);
            let code = code.replace(harmless, "");
            let named = IMPURE.iter().filter(|name| code.contains(**name));
            wrong.extend(named.map(|name| format!("{}: {name}", file.display())));
            // Sockets, connections and their limits are above it.
            let above = code
                .split("crate::transport::")
                .skip(1)
                .filter_map(first_word)
                .filter(|word| !matches!(&word[..], "Frame" | "z85" | "zmtp"));
            wrong.extend(above.map(|word| format!("{}: names {word}", file.display())));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(all.contains(harmless), "{part} has no {harmless} any more");
    }
}

#[test]
fn only_the_transport_names_zeromq() {
    let mut wrong = Vec::new();
    for (room, files) in by_room() {
        for file in files {
            if room != "transport"
                && (code(&file).contains("zmq::") || code(&file).contains("zmq_sys"))
            {
                wrong.push(file.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
