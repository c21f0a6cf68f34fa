//! The arguments that every program has.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::levels::{BOOLEANS, LOG_FORMATS, LOG_LEVELS, boolean, log_format, log_levels, offering};
use crate::os::files;
use crate::os::log::{Levels, LogFormat};
use crate::profile::dir::{Lookup, ProfileDir, ProfileError, checked_cluster_id};
use crate::profile::settings::{Edit, Origin, Sources};
use crate::profile::traitlets::{Assignment, Program};
use crate::protocol::ClusterId;

// On each argument: clap's `next_help_heading` would go on beyond the arguments that are flattened in.
const PROFILE_AND_LOG: &str = "Profile and log";
const SECURITY: &str = "Security";

/// Which profile and cluster, and how to log. To be flattened into subcommands.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct CommonArgs {
    /// Profile to use, by its name: the folder profile_NAME of the IPython folder
    // Shells are told by `completions` which there are.
    #[arg(long, help_heading = PROFILE_AND_LOG, value_name = "NAME")]
    pub profile: Option<String>,

    /// Profile to use, by its folder
    #[arg(long, help_heading = PROFILE_AND_LOG, value_name = "FOLDER")]
    pub profile_dir: Option<PathBuf>,

    /// Folder in which profiles are kept [default: $IPYTHONDIR, or ~/.ipython]
    #[arg(long, help_heading = PROFILE_AND_LOG, value_name = "FOLDER")]
    pub ipython_dir: Option<PathBuf>,

    /// Tells several clusters of one profile apart; becomes a part of file names
    #[arg(long, help_heading = PROFILE_AND_LOG, value_name = "ID")]
    pub cluster_id: Option<String>,

    /// Read this settings file as well (.toml, .json, or plain assignments in .py)
    #[arg(long, help_heading = PROFILE_AND_LOG, value_name = "FILE")]
    pub config: Vec<PathBuf>,

    /// Work in this folder
    #[arg(long, help_heading = PROFILE_AND_LOG, value_name = "FOLDER")]
    pub work_dir: Option<PathBuf>,

    /// How much to log: debug, info, warning, error, critical, or Python's number; of single components by name, as in
    /// info,task=debug,hub=warning
    #[arg(long, help_heading = PROFILE_AND_LOG, value_name = "LEVEL", value_parser = offering(LOG_LEVELS, log_levels),
          hide_possible_values = true)]
    pub log_level: Option<Levels>,

    /// How lines of the log look: text, or json for one object on each line
    #[arg(long, help_heading = PROFILE_AND_LOG, value_name = "FORMAT", value_parser = offering(LOG_FORMATS, log_format),
          hide_possible_values = true)]
    pub log_format: Option<LogFormat>,

    /// Log as much as possible, as --log-level=debug
    #[arg(long, help_heading = PROFILE_AND_LOG)]
    pub debug: bool,

    /// Log as little as possible, as --log-level=critical
    #[arg(long, help_heading = PROFILE_AND_LOG)]
    pub quiet: bool,

    /// Log into a file of the profile's log folder
    #[arg(long, help_heading = PROFILE_AND_LOG, value_name = "TRUE|FALSE", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = offering(BOOLEANS, boolean), hide_possible_values = true)]
    pub log_to_file: Option<bool>,

    /// Remove the logs of processes that are gone
    #[arg(long, help_heading = PROFILE_AND_LOG, value_name = "TRUE|FALSE", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = offering(BOOLEANS, boolean), hide_possible_values = true)]
    pub clean_logs: Option<bool>,

    /// Write a commented settings file into the profile if it has none
    #[arg(long, help_heading = PROFILE_AND_LOG)]
    pub init: bool,

    /// Logs are not sent over ZeroMQ any more
    #[arg(long, help_heading = PROFILE_AND_LOG, hide = true, value_name = "URL")]
    pub log_url: Option<String>,
}

/// How messages are signed. To be flattened into what opens sockets.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct SessionArgs {
    /// File with the key that signs messages, in place of a random key
    #[arg(long, help_heading = SECURITY, value_name = "FILE")]
    pub keyfile: Option<PathBuf>,

    /// Do not sign messages: anybody who reaches the ports can run code
    #[arg(long, help_heading = SECURITY, overrides_with = "secure")]
    pub no_secure: bool,

    /// Sign messages, as is the default
    #[arg(long, help_heading = SECURITY, hide = true)]
    pub secure: bool,

    /// Nothing looks at it
    #[arg(long, help_heading = SECURITY, hide = true, value_name = "NAME")]
    pub user: Option<String>,

    /// Nothing looks at it
    #[arg(long, help_heading = SECURITY, hide = true, value_name = "ID")]
    pub ident: Option<String>,
}

/// The variables that say which profile and cluster are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub ipython_dir: Option<PathBuf>,
    pub profile_dir: Option<PathBuf>,
    pub cluster_id: Option<String>,
}

impl Environment {
    /// `$IPYTHONDIR`, `$IPP_PROFILE_DIR` and `$IPP_CLUSTER_ID` of this process. Empty ones are as good as unset.
    pub fn of_process() -> Self {
        let path = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        Self {
            ipython_dir: path("IPYTHONDIR"),
            profile_dir: path("IPP_PROFILE_DIR"),
            cluster_id: std::env::var("IPP_CLUSTER_ID")
                .ok()
                .filter(|id| !id.is_empty()),
        }
    }
}

/// [`CommonArgs`] and the environment, put together.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedCommon {
    pub lookup: Lookup,
    /// From command line or environment; else `cluster.id` of the settings, else the empty one.
    pub cluster_id: Option<ClusterId>,
    pub config_files: Vec<PathBuf>,
    /// What the arguments change in the settings.
    pub edits: Vec<Edit>,
    pub init: bool,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl CommonArgs {
    /// Puts arguments over the environment.
    pub fn resolve(&self, environment: &Environment) -> Result<ResolvedCommon, ProfileError> {
        let mut warnings = Vec::new();
        let ipython_dir = self
            .ipython_dir
            .clone()
            .or_else(|| environment.ipython_dir.clone());
        // As in ipyparallel, the variable goes before the name: launchers say by it where the files belong.
        let profile_dir = self
            .profile_dir
            .clone()
            .or_else(|| environment.profile_dir.clone());
        let lookup = Lookup {
            ipython_dir,
            profile_dir,
            profile: self.profile.clone(),
        };
        if self.profile.is_some() && self.profile_dir.is_none() && environment.profile_dir.is_some()
        {
            let by_name = Lookup {
                profile_dir: None,
                ..lookup.clone()
            };
            let (by_name, in_force) = (by_name.location()?, lookup.location()?);
            if by_name != in_force {
                warnings.push(format!(
                    "$IPP_PROFILE_DIR goes before --profile: using {}, not {}; unset the variable, or use --profile-dir",
                    in_force.display(),
                    by_name.display()
                ));
            }
        }
        if self.log_url.is_some() {
            warnings.push(
                "--log-url has no effect: logs are not sent over ZeroMQ; use --log-to-file"
                    .to_owned(),
            );
        }
        let cluster_id = self
            .cluster_id
            .as_ref()
            .or(environment.cluster_id.as_ref())
            .map(|id| checked_cluster_id(id))
            .transpose()?;
        Ok(ResolvedCommon {
            lookup,
            cluster_id,
            config_files: self.config.clone(),
            edits: self.edits(),
            init: self.init,
            warnings,
        })
    }

    fn edits(&self) -> Vec<Edit> {
        let mut edits = Vec::new();
        let mut set = |key: &str, argument: &str, value: Option<Value>| {
            if let Some(value) = value {
                edits.push(Edit::set(
                    key,
                    value,
                    Origin::CommandLine(argument.to_owned()),
                ));
            }
        };
        set(
            "log.level",
            "--log-level",
            self.log_level
                .as_ref()
                .and_then(|levels| Some(levels.common?.name().into())),
        );
        for (component, level) in self.log_level.iter().flat_map(|levels| &levels.components) {
            set(
                &format!("log.components.{component}"),
                "--log-level",
                Some(level.name().into()),
            );
        }
        set(
            "log.format",
            "--log-format",
            self.log_format.map(|format| format.name().into()),
        );
        // Flags go before aliases, in whatever order they stand, as in traitlets.
        set(
            "log.level",
            "--quiet",
            self.quiet.then(|| "critical".into()),
        );
        set("log.level", "--debug", self.debug.then(|| "debug".into()));
        set(
            "log.to_file",
            "--log-to-file",
            self.log_to_file.map(Value::from),
        );
        set(
            "log.clean",
            "--clean-logs",
            self.clean_logs.map(Value::from),
        );
        let work_dir = self.work_dir.as_ref().map(|path| files::expand_path(path));
        set(
            "process.work_dir",
            "--work-dir",
            work_dir.map(|path| path.to_string_lossy().into()),
        );
        edits
    }
}

impl SessionArgs {
    /// What the arguments change in the settings.
    pub fn edits(&self) -> Vec<Edit> {
        let mut edits = Vec::new();
        if let Some(file) = &self.keyfile {
            let path = files::expand_path(file).to_string_lossy().into_owned();
            let origin = Origin::CommandLine("--keyfile".to_owned());
            edits.push(Edit::set("session.key_file", path, origin));
        }
        if self.no_secure {
            let origin = || Origin::CommandLine("--no-secure".to_owned());
            edits.push(Edit::set("session.key", "", origin()));
            edits.push(Edit::set("session.key_file", Value::Null, origin()));
        }
        edits
    }
}

impl ResolvedCommon {
    /// The profile's folder, which must exist.
    pub fn find_profile(&self) -> Result<ProfileDir, ProfileError> {
        ProfileDir::find(&self.lookup)
    }

    /// The profile's folder, made if it is not there; the second value says whether it was.
    pub fn find_or_create_profile(&self) -> Result<(ProfileDir, bool), ProfileError> {
        let (profile, is_new) = ProfileDir::find_or_create(&self.lookup)?;
        if self.init {
            profile.write_template(false)?;
        }
        Ok((profile, is_new))
    }

    /// Where to load the settings from: the usual places, and this command line.
    pub fn sources(
        &self,
        program: Program,
        profile: Option<&ProfileDir>,
        traits: Vec<Assignment>,
    ) -> Sources {
        Sources {
            extra_files: self.config_files.clone(),
            traits,
            edits: self.edits.clone(),
            ipython_dir: self.lookup.ipython_dir().ok(),
            ..Sources::new(program, profile.map(ProfileDir::location))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Program_ {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        session: SessionArgs,
    }

    fn parse(args: &[&str]) -> Program_ {
        Program_::try_parse_from(std::iter::once("x").chain(args.iter().copied())).unwrap()
    }

    fn edits(args: &[&str]) -> Vec<(String, String)> {
        let parsed = parse(args);
        let edits = parsed
            .common
            .edits()
            .into_iter()
            .chain(parsed.session.edits());
        edits
            .map(|edit| match edit.change {
                crate::profile::settings::Change::Set(value) => {
                    (edit.key.to_string(), value.to_string())
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn levels_and_switches_become_settings() {
        let level = |args: &[&str]| edits(args).pop().unwrap().1;
        assert_eq!(level(&["--log-level=10"]), "\"debug\"");
        assert_eq!(level(&["--log-level", "ERROR"]), "\"error\"");
        assert_eq!(level(&["--quiet", "--log-level=10"]), "\"critical\"");
        assert_eq!(level(&["--debug", "--log-level=50"]), "\"debug\"");
        assert_eq!(
            edits(&["--log-to-file"]),
            [("log.to_file".into(), "true".into())]
        );
        assert_eq!(
            edits(&["--log-to-file=False"]),
            [("log.to_file".into(), "false".into())]
        );
        assert_eq!(
            edits(&["--clean-logs=1"]),
            [("log.clean".into(), "true".into())]
        );
        assert_eq!(
            edits(&["--no-secure"]),
            [
                ("session.key".into(), json!("").to_string()),
                ("session.key_file".into(), "null".into())
            ]
        );
        assert_eq!(
            edits(&["--log-level=info,task=10"]),
            [
                ("log.level".into(), "\"info\"".into()),
                ("log.components.task".into(), "\"debug\"".into())
            ]
        );
        assert_eq!(
            edits(&["--log-format=JSON"]),
            [("log.format".into(), "\"json\"".into())]
        );
        assert!(edits(&[]).is_empty());
    }

    #[test]
    fn arguments_go_before_the_environment() {
        let environment = Environment {
            ipython_dir: Some("/env".into()),
            profile_dir: None,
            cluster_id: Some("env".into()),
        };
        let resolve = |args: &[&str], environment| parse(args).common.resolve(environment).unwrap();
        let found = resolve(&["--profile=a"], &environment);
        assert_eq!(
            found.lookup.location().unwrap(),
            PathBuf::from("/env/profile_a")
        );
        assert_eq!(found.cluster_id, Some(ClusterId("env".into())));
        let found = resolve(&["--ipython-dir=/arg", "--cluster-id=arg"], &environment);
        assert_eq!(
            found.lookup.location().unwrap(),
            PathBuf::from("/arg/profile_default")
        );
        assert_eq!(found.cluster_id, Some(ClusterId("arg".into())));
        let found = resolve(&["--cluster-id="], &environment);
        assert_eq!(found.cluster_id, Some(ClusterId(String::new())));
    }

    #[test]
    fn the_profile_variable_goes_before_the_name_and_says_so() {
        let environment = Environment {
            profile_dir: Some("/env/profile_a".into()),
            ipython_dir: Some("/env".into()),
            cluster_id: None,
        };
        let resolve = |args: &[&str]| parse(args).common.resolve(&environment).unwrap();
        let location = |found: &ResolvedCommon| found.lookup.location().unwrap();
        let found = resolve(&["--profile=b"]);
        assert_eq!(location(&found), PathBuf::from("/env/profile_a"));
        assert!(found.warnings[0].contains("--profile-dir"));
        let found = resolve(&["--profile=a"]);
        assert!(found.warnings.is_empty());
        let found = resolve(&["--profile-dir=/x"]);
        assert_eq!(location(&found), PathBuf::from("/x"));
        assert!(found.warnings.is_empty());
    }

    #[test]
    fn bad_ids_are_refused() {
        let common = parse(&["--cluster-id=../x"]).common;
        assert!(common.resolve(&Environment::default()).is_err());
    }

    #[test]
    fn init_writes_the_settings_file_only_if_there_is_none() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("profile_x");
        std::fs::create_dir(&folder).unwrap();
        let argument = format!("--profile-dir={}", folder.display());
        let open = |args: &[&str]| {
            let common = parse(args).common.resolve(&Environment::default()).unwrap();
            common.find_or_create_profile().unwrap()
        };
        assert!(!open(&[&argument]).1);
        let file = folder.join("ipcluster.toml");
        assert!(!file.exists());
        open(&[&argument, "--init"]);
        assert!(file.exists());
        std::fs::write(&file, "mine").unwrap();
        open(&[&argument, "--init"]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    }
}
