//! Which Python runs the user's code.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// An interpreter that exists. Whether it is new enough it says itself when it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    pub path: PathBuf,
    /// Where it was found, for messages.
    pub origin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PythonError {
    #[error("no such Python: {0}; --python takes the path of an interpreter, or its name on PATH")]
    NotThere(String),
    #[error("{0} is a folder; --python takes the path of an interpreter, such as {0}/bin/python")]
    Folder(String),
    #[error("{0} cannot be executed; --python takes the path of an interpreter")]
    NotExecutable(String),
    #[error(
        "no Python was found in $VIRTUAL_ENV, beside this executable or on PATH; install one (3.8 or newer), or name \
         it with --python"
    )]
    NoneFound,
}

/// What the search looks at.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub virtual_env: Option<OsString>,
    pub executable: Option<PathBuf>,
    pub path: Option<OsString>,
}

impl Surroundings {
    /// Those of this process.
    pub fn current() -> Self {
        Self {
            virtual_env: std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()),
            executable: std::env::current_exe().ok(),
            path: std::env::var_os("PATH"),
        }
    }
}

impl Python {
    /// The one that is asked for; else that of the active virtual environment, the one beside this executable, the
    /// first on PATH.
    pub fn find(asked: Option<&str>, around: &Surroundings) -> Result<Self, PythonError> {
        if let Some(name) = asked.filter(|name| !name.is_empty()) {
            let path = if name.contains('/') {
                executable(PathBuf::from(name))
            } else {
                on_path(name, around)
            };
            return path
                .map(|path| Self {
                    path: absolute(path),
                    origin: "--python",
                })
                .ok_or_else(|| why_not(name));
        }
        let in_environment = around
            .virtual_env
            .as_ref()
            .map(|folder| Path::new(folder).join("bin"));
        let beside = around
            .executable
            .as_ref()
            .and_then(|path| path.parent())
            .map(Path::to_owned);
        let folders = [
            (in_environment, "$VIRTUAL_ENV"),
            (beside, "beside this executable"),
        ];
        for (folder, origin) in folders {
            if let Some(path) = folder.and_then(|folder| in_folder(&folder)) {
                return Ok(Self {
                    path: absolute(path),
                    origin,
                });
            }
        }
        ["python3", "python"]
            .iter()
            .find_map(|name| on_path(name, around))
            .map(|path| Self {
                path: absolute(path),
                origin: "PATH",
            })
            .ok_or(PythonError::NoneFound)
    }
}

/// What is wrong with a name that names no interpreter.
fn why_not(name: &str) -> PythonError {
    let path = Path::new(name);
    if !name.contains('/') || !path.exists() {
        PythonError::NotThere(name.to_owned())
    } else if path.is_dir() {
        PythonError::Folder(name.trim_end_matches('/').to_owned())
    } else {
        PythonError::NotExecutable(name.to_owned())
    }
}

fn in_folder(folder: &Path) -> Option<PathBuf> {
    ["python3", "python"]
        .iter()
        .find_map(|name| executable(folder.join(name)))
}

fn on_path(name: &str, around: &Surroundings) -> Option<PathBuf> {
    let path = around.path.as_ref()?;
    std::env::split_paths(path).find_map(|folder| executable(folder.join(name)))
}

fn executable(path: PathBuf) -> Option<PathBuf> {
    use nix::unistd::{AccessFlags, access};
    (path.is_file() && access(&path, AccessFlags::X_OK).is_ok()).then_some(path)
}

/// Absolute, because kernels may run in another folder; links are kept, since they tell environments apart.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    fn make(path: &Path, mode: u32) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(mode)
            .open(path)
            .unwrap();
    }

    #[test]
    fn the_nearest_interpreter_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let around = Surroundings {
            virtual_env: Some(at("venv").into()),
            executable: Some(at("beside/ipcluster")),
            path: Some(std::env::join_paths([at("first"), at("second")]).unwrap()),
        };
        assert_eq!(Python::find(None, &around), Err(PythonError::NoneFound));
        make(&at("first/python3"), 0o644);
        make(&at("second/python3"), 0o755);
        assert_eq!(
            Python::find(None, &around).unwrap().path,
            at("second/python3")
        );
        make(&at("beside/python"), 0o755);
        assert_eq!(
            Python::find(None, &around).unwrap().path,
            at("beside/python")
        );
        make(&at("venv/bin/python"), 0o755);
        assert_eq!(Python::find(None, &around).unwrap().origin, "$VIRTUAL_ENV");
        assert_eq!(
            Python::find(Some("python3"), &around).unwrap().path,
            at("second/python3")
        );
        let path = at("beside/python");
        assert_eq!(Python::find(path.to_str(), &around).unwrap().path, path);
        assert_eq!(
            Python::find(Some("nope"), &around),
            Err(PythonError::NotThere("nope".to_owned()))
        );
        let wrong = |name: &str| Python::find(at(name).to_str(), &around).unwrap_err();
        assert!(matches!(wrong("nope"), PythonError::NotThere(_)));
        assert!(matches!(wrong("venv/"), PythonError::Folder(_)));
        assert!(matches!(
            wrong("first/python3"),
            PythonError::NotExecutable(_)
        ));
    }
}
