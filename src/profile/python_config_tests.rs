use super::*;

use proptest::prelude::*;

fn read(text: &str) -> Vec<Statement> {
    read_python(text, Path::new("x.py"))
}

/// `line Class.trait = value`, `line skipped text`, `line load file profile`.
fn brief(text: &str) -> Vec<String> {
    read(text)
        .into_iter()
        .map(|statement| match statement {
            Statement::Assignment(Assignment {
                class,
                name,
                action,
                origin: Origin::File { line, .. },
            }) => {
                let list = |items: Vec<Literal>| Literal::List(items).to_string();
                let action = match action {
                    Action::Set(Written::Literal(literal)) => format!("= {literal}"),
                    Action::Set(Written::Text(text)) => format!("= {text:?}"),
                    Action::Extend(items) => format!("+ {}", list(items)),
                    Action::Prepend(items) => format!("^ {}", list(items)),
                    Action::Update(pairs) => format!("| {}", Literal::Dict(pairs)),
                };
                format!("{} {class}.{name} {action}", line.unwrap())
            }
            Statement::Assignment(other) => panic!("{other:?}"),
            Statement::Subconfig {
                file,
                profile,
                line,
            } => format!("{line} load {file} {}", profile.unwrap_or_default()),
            Statement::Skipped { line, text, .. } => format!("{line} skipped {text}"),
        })
        .collect()
}

#[test]
fn plain_assignments_are_read() {
    let text = r#"# Configuration file for ipcontroller.
"""Documentation
over lines."""
import os
from os.path import join

c = get_config()  #noqa

c.HeartMonitor.period = 200  # quick
c.IPController.ip = u'*'; c.TaskScheduler.hwm = 0
#c.TaskScheduler.hwm = 5
c.Cluster.controller_args = [
    '--a',  # first
    '--b',
]
c.IPEngine.startup_command = """
import numpy
x = 1  # stays
"""
c.IPEngine.startup_script = \
    'a;b#c'
c.IPClusterStart.Cluster.n = 4
"#;
    assert_eq!(
        brief(text),
        [
            "9 HeartMonitor.period = 200",
            "10 IPController.ip = '*'",
            "10 TaskScheduler.hwm = 0",
            "12 Cluster.controller_args = ['--a', '--b']",
            "16 IPEngine.startup_command = '\\nimport numpy\\nx = 1  # stays\\n'",
            "20 IPEngine.startup_script = 'a;b#c'",
            "22 Cluster.n = 4",
        ]
    );
}

#[test]
fn lists_and_dictionaries_grow() {
    assert_eq!(
        brief(
            "c.A.b.append('x')\nc.A.b.extend(['y', 'z'])\nc.A.b.prepend(['w'])\nc.A.b.insert(0, 'v')\n\
             c.A.e.update({'K': 'V'})\nc.A.b += ['q']\nc.A.update({'f': 1, 'g': 2})\n"
        ),
        [
            "1 A.b + ['x']",
            "2 A.b + ['y', 'z']",
            "3 A.b ^ ['w']",
            "4 A.b ^ ['v']",
            "5 A.e | {'K': 'V'}",
            "6 A.b + ['q']",
            "7 A.f = 1",
            "7 A.g = 2",
        ]
    );
}

#[test]
fn everything_else_is_listed_and_not_executed() {
    let text = "import os\nc.A.b = os.environ['X']\nif True:\n    c.A.b = 1\n    c.A.c = 2\nelse:\n    pass\n\
                x = 5\nc.A.b = x\nc.A.b.append(f'{x}')\nprint('hello')\nc.A.size = 1024**3\nd.A.b = 1\n\
                c['A']['b'] = 1\nc.A.b.insert(2, 'x')\nc.A = {}\ndef f():\n\n    return 1\nc.A.b = 'open\nc.A.b = 3\n";
    let expected = [
        "2 skipped c.A.b = os.environ['X']",
        "3 skipped if True:",
        "6 skipped else:",
        "8 skipped x = 5",
        "9 skipped c.A.b = x",
        "10 skipped c.A.b.append(f'{x}')",
        "11 skipped print('hello')",
        "12 skipped c.A.size = 1024**3",
        "13 skipped d.A.b = 1",
        "14 skipped c['A']['b'] = 1",
        "15 skipped c.A.b.insert(2, 'x')",
        "16 skipped c.A = {}",
        "17 skipped def f():",
        "20 skipped c.A.b = 'open",
        "21 A.b = 3",
    ];
    assert_eq!(brief(text), expected);
}

#[test]
fn other_names_and_other_files() {
    assert_eq!(
        brief(
            "config = get_config()\nconfig.A.b = 1\nload_subconfig('ipython_config.py')\n\
             load_subconfig('x.py', profile='default')\nload_subconfig(name)\nload_subconfig('x', path='/y')\n"
        ),
        [
            "2 A.b = 1",
            "3 load ipython_config.py ",
            "4 load x.py default",
            "5 skipped load_subconfig(name)",
            "6 skipped load_subconfig('x', path='/y')",
        ]
    );
}

#[test]
fn line_ends_of_windows_and_a_byte_order_mark() {
    assert_eq!(
        brief("\u{feff}c.A.b = 1\r\n\r\nc.A.c = '''x\r\ny'''\r\n"),
        ["1 A.b = 1", "3 A.c = 'x\\ny'"]
    );
}

#[test]
fn json_is_read() {
    let read = |text| read_json(text, Path::new("x.json"));
    let text = r#"{"version": 1, "Cluster": {"n": 4, "SSHLauncher": {"user": "me"}}}"#;
    let found: Vec<String> = read(text)
        .unwrap()
        .into_iter()
        .map(|statement| match statement {
            Statement::Assignment(Assignment { class, name, .. }) => format!("{class}.{name}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, ["SSHLauncher.user", "Cluster.n"]);
    for text in ["{", "[]", "{\"Cluster\": 5}"] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains("x.json"), "{error}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[c.Ab=()\\[\\]{}'\"\\\\#;:,\n\t 1-]{0,40}", any in "\\PC*") {
        let _ = read(&text);
        let _ = read(&any);
        let _ = read_json(&any, Path::new("x"));
    }

    /// Whatever stands before and after it, a plain assignment on a line of its own is read or something is listed.
    #[test]
    fn nothing_is_lost_silently(junk in "[a-z=+.()' ]{1,10}") {
        let found = read(&format!("c.A.b = {junk}"));
        prop_assert_eq!(found.len(), 1);
    }
}
