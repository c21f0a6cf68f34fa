//! Profile folders, where IPython keeps them: `$IPYTHONDIR/profile_NAME` (IPython `core/profiledir.py`).

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::templates::{self, Template};
use crate::os::files::{self, FileError};
use crate::protocol::ClusterId;

/// Which profile is meant. Paths are taken as users write them: `~` and `$NAME` are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// `--ipython-dir` or `$IPYTHONDIR`; else `~/.ipython`.
    pub ipython_dir: Option<PathBuf>,
    /// `--profile-dir` or `$IPP_PROFILE_DIR`: the folder itself. Goes before the name.
    pub profile_dir: Option<PathBuf>,
    /// `--profile`; else `default`.
    pub profile: Option<String>,
}

/// Bytes of a name that becomes a part of file names. These have 255 at most.
const LONGEST: usize = 200;

#[derive(Debug, Error)]
pub enum ProfileError {
    #[error("there is no profile {name:?} in {}{}{}; create it with `{}`", ipython_dir.display(), nearest(.near), listed(.existing), create_command(.name))]
    NoSuchProfile {
        name: String,
        ipython_dir: PathBuf,
        /// The most similar names that exist.
        near: Vec<String>,
        /// All that exist.
        existing: Vec<String>,
    },
    #[error("there is no profile folder {}; create it with `ipcluster profile create --profile-dir={}`", .0.display(), .0.display())]
    NoSuchFolder(PathBuf),
    #[error(
        "{0:?} is no name of a profile: names have no slash, are not empty and at most {LONGEST} bytes long; name a folder \
         with --profile-dir instead"
    )]
    BadName(String),
    #[error(
        "{0:?} is no cluster id: it becomes a part of file names, so it must have no slash, not begin with a dot, and be at \
         most {LONGEST} bytes long"
    )]
    BadClusterId(String),
    #[error("neither IPYTHONDIR nor HOME is set: name the folder with --ipython-dir")]
    NoHome,
    #[error("there is no template {name:?}{}; there are: {}", nearest(.near), templates::names().join(", "))]
    NoSuchTemplate { name: String, near: Vec<String> },
    #[error(transparent)]
    File(#[from] FileError),
}

fn nearest(existing: &[String]) -> String {
    match existing {
        [] => String::new(),
        names => format!(
            " (did you mean {}?)",
            names
                .iter()
                .map(|name| format!("{name:?}"))
                .collect::<Vec<_>>()
                .join(" or ")
        ),
    }
}

fn listed(existing: &[String]) -> String {
    const SHOWN: usize = 12;
    if existing.is_empty() {
        return String::new();
    }
    let shown = existing[..existing.len().min(SHOWN)].join(", ");
    let more = if existing.len() > SHOWN { ", …" } else { "" };
    format!("; there are: {shown}{more}")
}

fn create_command(name: &str) -> String {
    format!("ipcluster profile create {name}")
}

/// A profile's folder, absolute. Its sub-folders are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileDir {
    location: PathBuf,
}

impl ProfileDir {
    /// A folder as it is, whether it is there or not: nothing is made.
    pub fn at(location: PathBuf) -> Self {
        Self { location }
    }

    /// The folder of a profile that must exist.
    pub fn find(lookup: &Lookup) -> Result<Self, ProfileError> {
        let location = lookup.location()?;
        if !location.is_dir() {
            return Err(lookup.missing(location));
        }
        let found = Self { location };
        found.create_folders()?;
        Ok(found)
    }

    /// The folder of a profile, made if it is not there. The second value says whether it was.
    ///
    /// A new profile gets the settings of the template that has its name, or else of the default one.
    pub fn find_or_create(lookup: &Lookup) -> Result<(Self, bool), ProfileError> {
        let location = lookup.location()?;
        let named = lookup.name_of(&location);
        let template = named.as_deref().and_then(templates::find);
        Self::create_at(location, template.unwrap_or_else(templates::default))
    }

    /// As [`Self::find_or_create`], from a template that the user named.
    pub fn create_from(lookup: &Lookup, template: &str) -> Result<(Self, bool), ProfileError> {
        let Some(template) = templates::find(template) else {
            return Err(ProfileError::NoSuchTemplate {
                name: template.to_owned(),
                near: similar(template, templates::names()),
            });
        };
        Self::create_at(lookup.location()?, template)
    }

    fn create_at(location: PathBuf, template: &Template) -> Result<(Self, bool), ProfileError> {
        let is_new = files::create_folder(&location)?;
        let dir = Self { location };
        let made = dir.create_folders().and_then(|()| {
            if is_new {
                dir.write_files(template, false)?;
            }
            Ok(())
        });
        if let Err(error) = made {
            // Half a profile would be taken for a whole one later.
            if is_new {
                let _ = std::fs::remove_dir_all(&dir.location);
            }
            return Err(error.into());
        }
        Ok((dir, is_new))
    }

    /// Writes the files of the template that has this profile's name, or else of the default one: those that are not
    /// there, or all.
    pub fn write_template(&self, overwrite: bool) -> Result<(), FileError> {
        let template = self.name().and_then(templates::find);
        self.write_files(template.unwrap_or_else(templates::default), overwrite)
    }

    fn write_files(&self, template: &Template, overwrite: bool) -> Result<(), FileError> {
        for (name, content) in template.files {
            let path = self.location.join(name);
            if overwrite || !path.exists() {
                files::write_public(&path, content.as_bytes())?;
            }
        }
        Ok(())
    }

    /// The sub-folders that IPython expects, with its modes.
    fn create_folders(&self) -> Result<(), FileError> {
        files::create_private_folder(&self.security_dir())?;
        files::create_folder(&self.log_dir())?;
        files::create_private_folder(&self.pid_dir())?;
        if files::create_folder(&self.startup_dir())? {
            files::write_public(
                &self.startup_dir().join("README"),
                STARTUP_README.as_bytes(),
            )?;
        }
        Ok(())
    }

    /// The folder itself.
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// Connection files and cluster files; for this user alone.
    pub fn security_dir(&self) -> PathBuf {
        self.location.join("security")
    }

    pub fn log_dir(&self) -> PathBuf {
        self.location.join("log")
    }

    /// What runs, in our own words; for this user alone.
    pub fn pid_dir(&self) -> PathBuf {
        self.location.join("pid")
    }

    /// Scripts that every kernel of the profile runs first.
    pub fn startup_dir(&self) -> PathBuf {
        self.location.join("startup")
    }

    /// `NAME` of `profile_NAME`, wherever the folder is.
    pub fn name(&self) -> Option<&str> {
        profile_name(&self.location)
    }

    /// The name within `ipython_dir`, or else the path (ipyparallel `abbreviate_profile_dir`).
    pub fn abbreviated(&self, ipython_dir: &Path) -> String {
        match self.name() {
            Some(name) if self.location.parent() == Some(ipython_dir) => name.to_owned(),
            _ => self.location.display().to_string(),
        }
    }

    /// All profiles of an IPython folder, by name; none if there is no such folder.
    pub fn all(ipython_dir: &Path) -> Vec<Self> {
        let mut found: Vec<Self> = std::fs::read_dir(ipython_dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| profile_name(path).is_some() && path.is_dir())
            .map(|location| Self { location })
            .collect();
        found.sort_by(|a, b| a.location.cmp(&b.location));
        found
    }
}

impl Lookup {
    /// The folder that is meant, absolute, whether it exists or not.
    pub fn location(&self) -> Result<PathBuf, ProfileError> {
        if let Some(folder) = &self.profile_dir {
            return Ok(files::expand_path(folder));
        }
        let name = self.profile.as_deref().unwrap_or("default");
        if name.is_empty() || name.contains(['/', '\0']) || name.len() > LONGEST {
            return Err(ProfileError::BadName(name.to_owned()));
        }
        Ok(self.ipython_dir()?.join(format!("profile_{name}")))
    }

    /// Where profiles are kept.
    pub fn ipython_dir(&self) -> Result<PathBuf, ProfileError> {
        if let Some(folder) = &self.ipython_dir {
            return Ok(files::expand_path(folder));
        }
        let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let home = home.ok_or(ProfileError::NoHome)?;
        let usual = home.join(".ipython");
        // As IPython does: the place of its versions 0.11 to 1.x, while nothing stands at the usual one.
        let config = std::env::var_os("XDG_CONFIG_HOME")
            .filter(|folder| !folder.is_empty())
            .map_or_else(|| home.join(".config"), PathBuf::from);
        let old = config.join("ipython");
        if cfg!(target_os = "linux") && !usual.exists() && old.is_dir() && !old.is_symlink() {
            return Ok(old);
        }
        Ok(usual)
    }

    fn name_of(&self, location: &Path) -> Option<String> {
        match (&self.profile_dir, &self.profile) {
            (None, Some(name)) => Some(name.clone()),
            _ => profile_name(location).map(str::to_owned),
        }
    }

    fn missing(&self, location: PathBuf) -> ProfileError {
        if self.profile_dir.is_some() {
            return ProfileError::NoSuchFolder(location);
        }
        let ipython_dir = location.parent().map(Path::to_path_buf).unwrap_or_default();
        let name = self.profile.clone().unwrap_or_else(|| "default".to_owned());
        let existing: Vec<String> = ProfileDir::all(&ipython_dir)
            .iter()
            .filter_map(|profile| profile.name().map(str::to_owned))
            .collect();
        ProfileError::NoSuchProfile {
            near: similar(&name, existing.clone()),
            existing,
            name,
            ipython_dir,
        }
    }
}

/// A cluster id that can stand in a file's name.
pub fn checked_cluster_id(id: &str) -> Result<ClusterId, ProfileError> {
    if id.contains(['/', '\0']) || id.starts_with('.') || id.len() > LONGEST {
        return Err(ProfileError::BadClusterId(id.to_owned()));
    }
    Ok(ClusterId(id.to_owned()))
}

fn profile_name(location: &Path) -> Option<&str> {
    location.file_name()?.to_str()?.strip_prefix("profile_")
}

/// The names that are most like `name`, best first, at most two.
pub fn similar(name: &str, candidates: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
    let mut scored: Vec<(f64, String)> = candidates
        .into_iter()
        .map(Into::into)
        .map(|candidate: String| {
            let (name, other) = (name.to_ascii_lowercase(), candidate.to_ascii_lowercase());
            // In short names a slip is a large part, but it is one slip.
            let score = match strsim::damerau_levenshtein(&name, &other) {
                1 => 1.0,
                _ => strsim::jaro_winkler(&name, &other),
            };
            (score, candidate)
        })
        .filter(|(score, _)| *score > 0.75)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.into_iter().take(2).map(|(_, name)| name).collect()
}

const STARTUP_README: &str = "\
Python and IPython scripts in this folder (.py, .ipy) run in every IPython session and every engine of this profile,
in the order of their names, before anything else. Numbers in front (00-first.py, 50-middle.py) set the order.
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn lookup(ipython_dir: &Path, profile: &str) -> Lookup {
        Lookup {
            ipython_dir: Some(ipython_dir.to_owned()),
            profile_dir: None,
            profile: Some(profile.to_owned()),
        }
    }

    #[test]
    fn a_profile_is_created_as_ipython_creates_it() {
        let root = tempfile::tempdir().unwrap();
        let ipython_dir = root.path().join("deep/ipython");
        let (dir, is_new) = ProfileDir::find_or_create(&lookup(&ipython_dir, "mine")).unwrap();
        assert!(is_new);
        assert_eq!(dir.location(), ipython_dir.join("profile_mine"));
        assert_eq!(dir.name(), Some("mine"));
        assert_eq!(dir.abbreviated(&ipython_dir), "mine");
        assert_eq!(
            dir.abbreviated(root.path()),
            dir.location().display().to_string()
        );
        for (folder, mode) in [(dir.security_dir(), 0o700), (dir.pid_dir(), 0o700)] {
            let found = folder.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{}", folder.display());
        }
        assert!(dir.log_dir().is_dir());
        assert!(dir.startup_dir().join("README").is_file());
        let settings = dir.location().join("ipcluster.toml");
        assert!(settings.is_file());

        // What the user changes or removes stays so.
        std::fs::remove_file(&settings).unwrap();
        let (_, is_new) = ProfileDir::find_or_create(&lookup(&ipython_dir, "mine")).unwrap();
        assert!(!is_new && !settings.exists());
    }

    #[test]
    fn the_template_is_the_one_with_the_profile_s_name() {
        let root = tempfile::tempdir().unwrap();
        let settings = |dir: &ProfileDir| {
            std::fs::read_to_string(dir.location().join("ipcluster.toml")).unwrap()
        };
        let (iptest, _) = ProfileDir::find_or_create(&lookup(root.path(), "iptest")).unwrap();
        let (other, _) = ProfileDir::find_or_create(&lookup(root.path(), "other")).unwrap();
        let (named, _) = ProfileDir::create_from(&lookup(root.path(), "x"), "iptest").unwrap();
        assert_eq!(settings(&iptest), settings(&named));
        assert_ne!(settings(&iptest), settings(&other));
        let error = ProfileDir::create_from(&lookup(root.path(), "x"), "iptst").unwrap_err();
        assert!(
            error.to_string().contains("did you mean \"iptest\""),
            "{error}"
        );
    }

    #[test]
    fn a_missing_profile_names_the_nearest_and_the_command() {
        let root = tempfile::tempdir().unwrap();
        ProfileDir::find_or_create(&lookup(root.path(), "iptest")).unwrap();
        let error = ProfileDir::find(&lookup(root.path(), "itpest")).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("did you mean \"iptest\""), "{said}");
        assert!(said.contains("`ipcluster profile create itpest`"), "{said}");
        let error = ProfileDir::find(&lookup(&root.path().join("none"), "a")).unwrap_err();
        assert!(!error.to_string().contains("did you mean"), "{error}");
        let error = ProfileDir::find(&Lookup {
            profile_dir: Some(root.path().join("nowhere")),
            ..Lookup::default()
        });
        assert!(matches!(error, Err(ProfileError::NoSuchFolder(_))));
    }

    #[test]
    fn the_folder_goes_before_the_name_and_becomes_absolute() {
        let wanted = Lookup {
            profile_dir: Some("some/profile_x".into()),
            profile: Some("y".into()),
            ..Lookup::default()
        };
        let location = wanted.location().unwrap();
        assert!(location.is_absolute());
        assert_eq!(profile_name(&location), Some("x"));
        assert_eq!(wanted.name_of(&location).as_deref(), Some("x"));
    }

    #[test]
    fn names_cannot_lead_out_of_the_folder() {
        let root = tempfile::tempdir().unwrap();
        for name in ["", "../x", "a/b", "a\0b"] {
            let error = lookup(root.path(), name).location().unwrap_err();
            assert!(matches!(error, ProfileError::BadName(_)), "{name:?}");
        }
        assert!(checked_cluster_id("").is_ok());
        assert!(checked_cluster_id("a b").is_ok());
        for id in ["../x", "/x", ".x"] {
            assert!(checked_cluster_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_file_in_the_way_is_named_with_a_remedy() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("profile_a"), "").unwrap();
        let error = ProfileDir::find_or_create(&lookup(root.path(), "a")).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("profile_a") && said.contains("move it away"),
            "{said}"
        );
    }

    #[test]
    fn all_profiles_are_found_in_order() {
        let root = tempfile::tempdir().unwrap();
        for name in ["b", "a"] {
            ProfileDir::find_or_create(&lookup(root.path(), name)).unwrap();
        }
        std::fs::create_dir(root.path().join("extensions")).unwrap();
        std::fs::write(root.path().join("profile_file"), "").unwrap();
        let all = ProfileDir::all(root.path());
        let names: Vec<_> = all.iter().filter_map(ProfileDir::name).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(ProfileDir::all(&root.path().join("none")).is_empty());
    }
}
