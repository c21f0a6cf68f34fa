//! Which Jupyter kernels are installed, and how they are started (jupyter_client, "Kernel specs").

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

const FILE: &str = "kernel.json";

/// An installed kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSpec {
    pub name: String,
    /// The folder of `kernel.json`, for `{resource_dir}`.
    pub folder: PathBuf,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub interrupt_mode: InterruptMode,
}

/// How a kernel wants to be interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterruptMode {
    /// By SIGINT.
    #[default]
    Signal,
    /// By an `interrupt_request`.
    Message,
}

#[derive(Debug, Error)]
pub enum SpecError {
    #[error("no Jupyter kernel {name:?} is installed; {} (looked in {})", installed(.there), folders(.looked))]
    NotThere {
        name: String,
        there: Vec<String>,
        looked: Vec<PathBuf>,
    },
    #[error("{}: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
}

fn installed(names: &[String]) -> String {
    match names {
        [] => "there is none".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    }
}

fn folders(folders: &[PathBuf]) -> String {
    let shown: Vec<_> = folders.iter().map(|it| it.display().to_string()).collect();
    shown.join(", ")
}

/// What the search looks at.
#[derive(Clone, Debug, Default)]
pub struct KernelPlaces {
    /// `$JUPYTER_PATH`
    pub jupyter_path: Option<OsString>,
    /// `$JUPYTER_DATA_DIR`
    pub data_dir: Option<OsString>,
    /// `$XDG_DATA_HOME`
    pub xdg_data_home: Option<OsString>,
    pub home: Option<PathBuf>,
    /// The folder in whose `bin` the Python is.
    pub python_prefix: Option<PathBuf>,
    pub ipython_dir: Option<PathBuf>,
}

impl KernelPlaces {
    /// Those of this process; `python` runs user code where the kernel is Python's.
    pub fn current(python: Option<&Path>, ipython_dir: Option<PathBuf>) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            jupyter_path: variable("JUPYTER_PATH"),
            data_dir: variable("JUPYTER_DATA_DIR"),
            xdg_data_home: variable("XDG_DATA_HOME"),
            home: variable("HOME").map(PathBuf::from),
            python_prefix: python.and_then(|python| Some(python.parent()?.parent()?.to_owned())),
            ipython_dir,
        }
    }

    /// Folders that hold kernels, the first the most important (jupyter_core `jupyter_path`, with the environment's
    /// before the user's).
    fn folders(&self) -> Vec<PathBuf> {
        let mut data: Vec<PathBuf> = self
            .jupyter_path
            .iter()
            .flat_map(std::env::split_paths)
            .collect();
        data.extend(self.python_prefix.iter().map(|it| it.join("share/jupyter")));
        data.extend(self.user_data());
        data.extend(["/usr/local/share/jupyter", "/usr/share/jupyter"].map(PathBuf::from));
        let mut folders: Vec<PathBuf> = data.into_iter().map(|it| it.join("kernels")).collect();
        folders.extend(self.ipython_dir.iter().map(|it| it.join("kernels")));
        let mut seen = BTreeSet::new();
        folders.retain(|folder| seen.insert(folder.clone()));
        folders
    }

    fn user_data(&self) -> Option<PathBuf> {
        if let Some(folder) = &self.data_dir {
            return Some(folder.into());
        }
        if cfg!(target_os = "macos") {
            return Some(self.home.as_ref()?.join("Library/Jupyter"));
        }
        let data = match &self.xdg_data_home {
            Some(folder) => folder.into(),
            None => self.home.as_ref()?.join(".local/share"),
        };
        Some(data.join("jupyter"))
    }
}

impl KernelSpec {
    /// The first of this name; case does not count.
    pub fn find(name: &str, places: &KernelPlaces) -> Result<Self, SpecError> {
        let looked = places.folders();
        let mut there = BTreeSet::new();
        for folder in &looked {
            for (found, path) in kernels_in(folder) {
                if found == name.to_lowercase() {
                    return Self::read(&found, &path);
                }
                there.insert(found);
            }
        }
        Err(SpecError::NotThere {
            name: name.to_owned(),
            there: there.into_iter().collect(),
            looked,
        })
    }

    fn read(name: &str, folder: &Path) -> Result<Self, SpecError> {
        #[derive(Deserialize)]
        struct Content {
            argv: Vec<String>,
            #[serde(default)]
            env: BTreeMap<String, String>,
            #[serde(default)]
            interrupt_mode: InterruptMode,
        }
        let path = folder.join(FILE);
        let unusable = |why: String| SpecError::Unusable {
            path: path.clone(),
            why,
        };
        let text = std::fs::read(&path).map_err(|error: io::Error| unusable(error.to_string()))?;
        let content: Content = serde_json::from_slice(&text)
            .map_err(|error| unusable(format!("it is no kernel specification: {error}")))?;
        if content.argv.is_empty() {
            return Err(unusable("its argv is empty".to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            argv: content.argv,
            env: content.env,
            interrupt_mode: content.interrupt_mode,
        })
    }

    /// The command: `{connection_file}`, `{resource_dir}` and `{prefix}` are replaced, and a plain `python` is the one
    /// that was chosen, as with jupyter_client.
    pub fn command(&self, connection_file: &Path, python: Option<&Path>) -> Vec<String> {
        let prefix = python.and_then(|python| python.parent()?.parent());
        let replace = |argument: &String| {
            argument
                .replace("{connection_file}", &connection_file.to_string_lossy())
                .replace("{resource_dir}", &self.folder.to_string_lossy())
                .replace(
                    "{prefix}",
                    &prefix.map_or_else(Default::default, Path::to_string_lossy),
                )
        };
        let mut command: Vec<String> = self.argv.iter().map(replace).collect();
        if let (Some(first), Some(python)) = (command.first_mut(), python)
            && is_plain_python(first)
        {
            *first = python.to_string_lossy().into_owned();
        }
        command
    }

    /// Its environment: `${NAME}` stands for a variable of `around`, and stays as it is where there is none.
    pub fn environment(&self, around: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
        self.env
            .iter()
            .map(|(name, value)| (name.clone(), substitute(value, &around)))
            .collect()
    }
}

/// `python`, `python3`, `python3.12`: no path, so the one of the environment is meant.
fn is_plain_python(program: &str) -> bool {
    program
        .strip_prefix("python")
        .is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

fn substitute(template: &str, around: &impl Fn(&str) -> Option<String>) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        text.push_str(before);
        rest = match after.split_once('}') {
            Some((name, following)) => {
                match around(name) {
                    Some(value) => text.push_str(&value),
                    None => text.extend(["${", name, "}"]),
                }
                following
            }
            None => {
                text.push_str("${");
                after
            }
        };
    }
    text.push_str(rest);
    text
}

/// Names, in lower case, and folders of the kernels in a folder.
fn kernels_in(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.path().join(FILE).is_file())
        .filter_map(|entry| Some((entry.file_name().to_str()?.to_lowercase(), entry.path())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(folder: &Path, name: &str, content: &str) {
        let folder = folder.join("kernels").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(FILE), content).unwrap();
    }

    #[test]
    fn the_nearest_kernel_is_found_by_its_name() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let places = KernelPlaces {
            jupyter_path: Some(at("path").into()),
            data_dir: Some(at("user").into()),
            python_prefix: Some(at("venv")),
            ..KernelPlaces::default()
        };
        install(&at("user"), "Ruby", r#"{"argv": ["user"]}"#);
        install(
            &at("venv/share/jupyter"),
            "ruby",
            r#"{"argv": ["venv"], "x": 1}"#,
        );
        install(
            &at("user"),
            "bash",
            r#"{"argv": ["bash"], "interrupt_mode": "message"}"#,
        );
        install(&at("path"), "bad", "{");
        install(&at("path"), "empty", r#"{"argv": []}"#);
        let found = KernelSpec::find("RUBY", &places).unwrap();
        assert_eq!(found.argv, ["venv"]);
        assert_eq!(found.interrupt_mode, InterruptMode::Signal);
        let bash = KernelSpec::find("bash", &places).unwrap();
        assert_eq!(bash.interrupt_mode, InterruptMode::Message);
        for name in ["bad", "empty"] {
            assert!(matches!(
                KernelSpec::find(name, &places),
                Err(SpecError::Unusable { .. })
            ));
        }
        let error = KernelSpec::find("julia", &places).unwrap_err().to_string();
        assert!(
            error.contains("\"julia\"") && error.contains("bash, empty, ruby"),
            "{error}"
        );
    }

    #[test]
    fn the_command_and_the_environment_are_filled_in() {
        let spec = KernelSpec {
            name: "x".to_owned(),
            folder: "/specs/x".into(),
            argv: [
                "python3",
                "-m",
                "k",
                "{connection_file}",
                "{resource_dir}/a",
                "{prefix}",
            ]
            .map(str::to_owned)
            .to_vec(),
            env: [("A", "${HERE}-${GONE}-${"), ("B", "plain")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            interrupt_mode: InterruptMode::Signal,
        };
        let command = spec.command(
            Path::new("/run/k.json"),
            Some(Path::new("/venv/bin/python")),
        );
        assert_eq!(
            command,
            [
                "/venv/bin/python",
                "-m",
                "k",
                "/run/k.json",
                "/specs/x/a",
                "/venv"
            ]
        );
        assert_eq!(spec.command(Path::new("f"), None)[0], "python3");
        let environment = spec.environment(|name| (name == "HERE").then(|| "here".to_owned()));
        assert_eq!(environment["A"], "here-${GONE}-${");
        assert_eq!(environment["B"], "plain");
        assert!(!is_plain_python("pythonic") && !is_plain_python("/bin/python"));
    }
}
