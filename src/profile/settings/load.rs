//! Reads all places where settings may stand, in their order.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::resolve::{Edit, Origin, Resolved, Resolver, SettingsError, toml_edits};
use crate::os::files;
use crate::profile::dir::Lookup;
use crate::profile::python_config::{Statement, read_json, read_python};
use crate::profile::traitlets::{Assignment, Meaning, Program, TraitError, interpret};

/// Where to look. [`Sources::new`] names the places of this machine; tests name others.
#[derive(Clone, Debug)]
pub struct Sources {
    pub program: Program,
    /// `ipcluster.toml` of the machine and of the user; those that are not there are left out.
    pub toml_files: Vec<PathBuf>,
    /// The profile's folder.
    pub profile_dir: Option<PathBuf>,
    /// Leave out the `ipcluster.toml` of the profile.
    pub skip_profile_toml: bool,
    /// Folders with `ipcontroller_config.py` and the like for all profiles; later ones win.
    pub shared_dirs: Vec<PathBuf>,
    /// `--config`: files that must be there.
    pub extra_files: Vec<PathBuf>,
    /// Name and value of variables that set something.
    pub environment: Vec<(String, String)>,
    /// `--Class.trait=value` of the command line.
    pub traits: Vec<Assignment>,
    /// Other arguments of the command line.
    pub edits: Vec<Edit>,
    /// Where `load_subconfig('…', profile='…')` finds profiles.
    pub ipython_dir: Option<PathBuf>,
}

/// The variables that set something, and what.
const VARIABLES: &[(&str, &str)] = &[
    ("IPP_SESSION_KEY", "session.key"),
    ("IPP_ENABLE_CURVE", "controller.enable_curve"),
    ("IPP_CURVE_SERVERKEY", "curve.server_key"),
    ("IPP_CURVE_PUBLICKEY", "curve.public_key"),
    ("IPP_CURVE_SECRETKEY", "curve.secret_key"),
];

/// How far files may include each other.
const MAX_DEPTH: usize = 8;

impl Sources {
    /// The usual places, and the variables of this process.
    pub fn new(program: Program, profile_dir: Option<&Path>) -> Self {
        let mut toml_files = vec![PathBuf::from("/etc/ipcluster/ipcluster.toml")];
        toml_files.extend(user_file());
        let environment = VARIABLES
            .iter()
            .filter_map(|(name, _)| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect();
        Self {
            program,
            toml_files,
            profile_dir: profile_dir.map(Path::to_path_buf),
            skip_profile_toml: false,
            shared_dirs: vec!["/etc/ipython".into(), "/usr/local/etc/ipython".into()],
            extra_files: Vec::new(),
            environment,
            traits: Vec::new(),
            edits: Vec::new(),
            ipython_dir: Lookup::default().ipython_dir().ok(),
        }
    }

    /// Nothing but the defaults: for tests.
    pub fn none(program: Program) -> Self {
        Self {
            program,
            toml_files: Vec::new(),
            profile_dir: None,
            skip_profile_toml: false,
            shared_dirs: Vec::new(),
            extra_files: Vec::new(),
            environment: Vec::new(),
            traits: Vec::new(),
            edits: Vec::new(),
            ipython_dir: None,
        }
    }

    /// The names, without their endings, of the configuration files of ipyparallel that this program reads.
    fn config_names(&self) -> Vec<String> {
        let programs = match self.program {
            Program::All => vec!["ipython", "ipcluster", "ipcontroller", "ipengine"],
            // The kernels are IPython shells, whose settings stand in its own file.
            Program::Engine => vec!["ipython", "ipengine"],
            other => vec![other.name()],
        };
        programs
            .into_iter()
            .map(|name| format!("{name}_config"))
            .collect()
    }
}

/// The user's own `ipcluster.toml`, whether it exists or not.
pub fn user_file() -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "ipcluster")?;
    Some(folders.config_dir().join("ipcluster.toml"))
}

/// All settings, from everywhere. What a file says that has no meaning becomes a warning; what is wrong is an error.
pub fn load(sources: &Sources) -> Result<Resolved, SettingsError> {
    let mut loader = Loader {
        sources,
        resolver: Resolver::default(),
    };
    for path in &sources.toml_files {
        loader.toml(path)?;
    }
    if let Some(folder) = &sources.profile_dir
        && !sources.skip_profile_toml
    {
        loader.toml(&folder.join("ipcluster.toml"))?;
    }
    for name in sources.config_names() {
        for folder in sources.shared_dirs.iter().chain(&sources.profile_dir) {
            loader.config(&folder.join(&name))?;
        }
    }
    for path in &sources.extra_files {
        loader.extra(path)?;
    }
    for (name, value) in &sources.environment {
        loader.variable(name, value)?;
    }
    for assignment in &sources.traits {
        loader.trait_argument(assignment)?;
    }
    loader.resolver.apply_all(sources.edits.iter().cloned())?;
    Ok(loader.resolver.finish())
}

struct Loader<'a> {
    sources: &'a Sources,
    resolver: Resolver,
}

impl Loader<'_> {
    fn toml(&mut self, path: &Path) -> Result<(), SettingsError> {
        match read(path)? {
            Some(text) => self.resolver.apply_all(toml_edits(&text, path)?),
            None => Ok(()),
        }
    }

    /// `NAME.py`, and over it `NAME.json`.
    fn config(&mut self, base: &Path) -> Result<(), SettingsError> {
        self.python(&base.with_extension("py"), 0)?;
        self.json(&base.with_extension("json"))
    }

    fn python(&mut self, path: &Path, depth: usize) -> Result<bool, SettingsError> {
        let Some(text) = read(path)? else {
            return Ok(false);
        };
        self.statements(read_python(&text, path), path, depth)?;
        Ok(true)
    }

    fn json(&mut self, path: &Path) -> Result<(), SettingsError> {
        match read(path)? {
            Some(text) => self.statements(read_json(&text, path)?, path, 0),
            None => Ok(()),
        }
    }

    /// A file that the user named, of whatever kind.
    fn extra(&mut self, path: &Path) -> Result<(), SettingsError> {
        let path = self.find_extra(path);
        if !path.exists() {
            return Err(SettingsError::MissingFile(path));
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => self.toml(&path),
            Some("json") => self.json(&path),
            _ => self.python(&path, 0).map(|_| ()),
        }
    }

    /// As ipyparallel does: in the profile's folder when it is not here.
    fn find_extra(&self, path: &Path) -> PathBuf {
        let here = files::expand_path(path);
        match &self.sources.profile_dir {
            Some(folder) if !here.exists() && folder.join(path).exists() => folder.join(path),
            _ => here,
        }
    }

    fn statements(
        &mut self,
        statements: Vec<Statement>,
        path: &Path,
        depth: usize,
    ) -> Result<(), SettingsError> {
        for statement in statements {
            match statement {
                Statement::Assignment(assignment) => self.file_assignment(&assignment)?,
                Statement::Skipped { line, text, reason } => self.resolver.warn(format!(
                    "{}:{line}: `{text}` was not read ({reason}): Python is not executed here, \
                     only plain values are read; set it in ipcluster.toml instead",
                    path.display()
                )),
                Statement::Subconfig {
                    file,
                    profile,
                    line,
                } => self.subconfig(path, &file, profile.as_deref(), line, depth)?,
            }
        }
        Ok(())
    }

    fn subconfig(
        &mut self,
        from: &Path,
        file: &str,
        profile: Option<&str>,
        line: usize,
        depth: usize,
    ) -> Result<(), SettingsError> {
        let folder = match (profile, &self.sources.ipython_dir) {
            (Some(name), Some(folder)) => Some(folder.join(format!("profile_{name}"))),
            (Some(_), None) => None,
            (None, _) => from.parent().map(Path::to_path_buf),
        };
        let found = match folder {
            Some(folder) if depth < MAX_DEPTH => self.python(&folder.join(file), depth + 1)?,
            _ => false,
        };
        if !found {
            self.resolver.warn(format!(
                "{}:{line}: load_subconfig({file:?}): there is no such file",
                from.display()
            ));
        }
        Ok(())
    }

    fn file_assignment(&mut self, assignment: &Assignment) -> Result<(), SettingsError> {
        match interpret(self.sources.program, assignment) {
            // traitlets only warns of these too, and files are shared with its programs.
            Err(error @ (TraitError::UnknownTrait { .. } | TraitError::UnknownClass { .. })) => {
                self.resolver
                    .warn(format!("{}: {error}", assignment.origin));
                Ok(())
            }
            other => self.meaning(other, assignment),
        }
    }

    fn trait_argument(&mut self, assignment: &Assignment) -> Result<(), SettingsError> {
        let meaning = interpret(self.sources.program, assignment);
        self.meaning(meaning, assignment)
    }

    fn meaning(
        &mut self,
        meaning: Result<Meaning, TraitError>,
        assignment: &Assignment,
    ) -> Result<(), SettingsError> {
        match meaning {
            Ok(Meaning::Edits(edits)) => self.resolver.apply_all(edits),
            Ok(Meaning::Elsewhere) => Ok(()),
            Ok(Meaning::Nothing { reason }) => {
                self.resolver.warn(format!(
                    "{}: {}.{} has no effect: {reason}",
                    assignment.origin, assignment.class, assignment.name
                ));
                Ok(())
            }
            Err(error) => Err(SettingsError::Trait {
                origin: assignment.origin.clone(),
                reason: error.to_string(),
            }),
        }
    }

    fn variable(&mut self, name: &str, value: &str) -> Result<(), SettingsError> {
        let Some((_, key)) = VARIABLES.iter().find(|(known, _)| *known == name) else {
            return Ok(());
        };
        let value = match *key {
            // As ipyparallel has it. What is neither is an error: who sets it means something.
            "controller.enable_curve" if value == "1" => Value::from(true),
            "controller.enable_curve" if value == "0" => Value::from(false),
            // An empty session key switches signing off; other empty variables are as good as unset.
            _ if value.is_empty() && *key != "session.key" => return Ok(()),
            _ => Value::from(value),
        };
        let origin = Origin::Environment(name.to_owned());
        self.resolver.apply(Edit::set(*key, value, origin))
    }
}

fn read(path: &Path) -> Result<Option<String>, SettingsError> {
    files::read_text_if_there(path).map_err(|error| SettingsError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::profile::settings::{Database, Key};
    use crate::profile::templates;
    use crate::profile::traitlets::{Action, Written};

    fn profile(files: &[(&str, &str)]) -> (tempfile::TempDir, Sources) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let sources = Sources {
            profile_dir: Some(folder.path().to_owned()),
            ..Sources::none(Program::Controller)
        };
        (folder, sources)
    }

    fn argument(class: &str, name: &str, value: &str) -> Assignment {
        Assignment {
            class: class.to_owned(),
            name: name.to_owned(),
            action: Action::Set(Written::Text(vec![value.to_owned()])),
            origin: Origin::CommandLine(format!("--{class}.{name}")),
        }
    }

    #[test]
    fn the_layers_are_in_their_order() {
        let (folder, mut sources) = profile(&[
            (
                "user.toml",
                "[heartbeat]\nperiod_ms = 1\nmax_misses = 1\n[scheduler]\nhwm = 1\nscheme = \"lru\"\n",
            ),
            (
                "ipcluster.toml",
                "[heartbeat]\nperiod_ms = 2\nmax_misses = 2\n[scheduler]\nhwm = 2\n",
            ),
            (
                "ipcontroller_config.py",
                "c.HeartMonitor.period = 3\nc.HeartMonitor.max_heartmonitor_misses = 3\n",
            ),
            (
                "ipcontroller_config.json",
                "{\"HeartMonitor\": {\"period\": 4}}",
            ),
            ("ipengine_config.py", "c.HeartMonitor.period = 99\n"),
        ]);
        sources.toml_files = vec![folder.path().join("user.toml"), "/no/such/file".into()];
        let resolved = load(&sources).unwrap();
        assert_eq!(
            resolved.settings.scheduler.scheme,
            crate::profile::settings::Scheme::Lru
        );
        assert_eq!(resolved.settings.scheduler.hwm, 2);
        assert_eq!(resolved.settings.heartbeat.max_misses, 3);
        assert_eq!(resolved.settings.heartbeat.period_ms, 4);
        assert!(
            resolved
                .origin("heartbeat.max_misses")
                .to_string()
                .ends_with("ipcontroller_config.py:2")
        );
        sources.traits = vec![argument("HeartMonitor", "period", "5")];
        assert_eq!(load(&sources).unwrap().settings.heartbeat.period_ms, 5);
        let ping = Origin::CommandLine("--ping".into());
        sources.edits = vec![Edit::set("heartbeat.period_ms", 6, ping.clone())];
        let resolved = load(&sources).unwrap();
        assert_eq!(resolved.settings.heartbeat.period_ms, 6);
        assert_eq!(resolved.origin("heartbeat.period_ms"), ping);
    }

    #[test]
    fn files_are_forgiven_what_a_command_line_is_not() {
        let (_folder, mut sources) = profile(&[(
            "ipcontroller_config.py",
            "c.HeartMonitor.perid = 3\nc.IPController.use_threads = True\nc.IPEngine.log_level = 10\nimport os\nc.IPController.ip = os.name\n",
        )]);
        let warnings = load(&sources).unwrap().warnings;
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        for (warning, said) in warnings
            .iter()
            .zip(["HeartMonitor.period", "thread", "os.name"])
        {
            assert!(warning.contains(said), "{warning}");
        }
        sources.traits = vec![argument("HeartMonitor", "perid", "3")];
        let error = load(&sources).unwrap_err().to_string();
        assert!(
            error.contains("--HeartMonitor.perid") && error.contains("did you mean"),
            "{error}"
        );
    }

    #[test]
    fn wrong_values_in_files_are_errors_with_their_line() {
        for (name, text) in [
            ("ipcontroller_config.py", "\nc.HeartMonitor.period = 'x'\n"),
            ("ipcluster.toml", "[heartbeat]\nperiod_ms = 1.5\n"),
        ] {
            let (_folder, sources) = profile(&[(name, text)]);
            let error = load(&sources).unwrap_err().to_string();
            assert!(error.contains(&format!("{name}:2")), "{error}");
        }
        let (_folder, sources) = profile(&[("ipcontroller_config.json", "{")]);
        assert!(load(&sources).is_err());
    }

    #[test]
    fn files_include_each_other_but_not_for_ever() {
        let (_folder, sources) = profile(&[
            (
                "ipcontroller_config.py",
                "load_subconfig('other.py')\nload_subconfig('none.py')\nc.TaskScheduler.hwm = 3\n",
            ),
            (
                "other.py",
                "load_subconfig('other.py')\nc.TaskScheduler.hwm = 7\nc.HeartMonitor.period = 7\n",
            ),
        ]);
        let resolved = load(&sources).unwrap();
        assert_eq!(resolved.settings.scheduler.hwm, 3);
        assert_eq!(resolved.settings.heartbeat.period_ms, 7);
        assert_eq!(resolved.warnings.len(), 2);
    }

    #[test]
    fn extra_files_must_be_there() {
        let (folder, mut sources) = profile(&[("extra.toml", "[scheduler]\nhwm = 9\n")]);
        sources.extra_files = vec!["extra.toml".into()];
        assert_eq!(load(&sources).unwrap().settings.scheduler.hwm, 9);
        sources.extra_files = vec![folder.path().join("none.py")];
        assert!(load(&sources).unwrap_err().to_string().contains("--config"));
    }

    #[test]
    fn variables_set_keys() {
        let mut sources = Sources::none(Program::Controller);
        let mut with = |pairs: &[(&str, &str)]| {
            sources.environment = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            load(&sources).unwrap()
        };
        let resolved = with(&[
            ("IPP_SESSION_KEY", "k"),
            ("IPP_ENABLE_CURVE", "1"),
            ("OTHER", "x"),
        ]);
        assert_eq!(resolved.settings.session.key.as_deref(), Some("k"));
        assert_eq!(resolved.settings.controller.enable_curve, Some(true));
        assert_eq!(
            resolved.origin("session.key"),
            Origin::Environment("IPP_SESSION_KEY".into())
        );
        let resolved = with(&[("IPP_CURVE_SECRETKEY", ""), ("IPP_ENABLE_CURVE", "0")]);
        assert!(!resolved.is_set("curve.secret_key"));
        assert_eq!(resolved.settings.controller.enable_curve, Some(false));
        let resolved = with(&[("IPP_ENABLE_CURVE", "")]);
        assert_eq!(resolved.settings.controller.enable_curve, None);
        sources.environment = vec![("IPP_ENABLE_CURVE".into(), "perhaps".into())];
        let error = load(&sources).unwrap_err().to_string();
        assert!(
            error.contains("$IPP_ENABLE_CURVE") && error.contains("perhaps"),
            "{error}"
        );
    }

    #[test]
    fn templates_can_be_loaded_and_uncommented() {
        for template in templates::all() {
            for (name, text) in template.files {
                toml_edits(text, Path::new(name)).unwrap();
                let (_folder, sources) = profile(&[(name, text)]);
                let resolved = load(&sources).unwrap();
                assert!(resolved.warnings.is_empty());
                let is_test = template.name == "iptest";
                assert_eq!(resolved.settings.controller.db == Database::Memory, is_test);
                assert_eq!(resolved.settings.heartbeat.period_ms == 250, is_test);
            }
        }
    }

    /// What is commented out in a template is as good as the rest.
    #[test]
    fn templates_are_right_without_their_comment_signs() {
        for template in templates::all() {
            let (_folder, sources) = profile(&[("ipcluster.toml", &template.uncommented())]);
            let resolved = load(&sources).unwrap();
            assert!(resolved.warnings.is_empty(), "{:?}", resolved.warnings);
        }
    }

    /// Every setting stands in the default template, with its default value where it has one.
    #[test]
    fn the_default_template_is_complete() {
        let uncommented = templates::default().uncommented();
        let edits = toml_edits(&uncommented, Path::new("default.toml")).unwrap();
        let mut resolver = Resolver::default();
        let defaults = resolver.clone().finish().show();
        for edit in edits.clone() {
            resolver.apply(edit).unwrap();
        }
        let resolved = resolver.finish().show();
        for shown in &defaults {
            let edit = resolved.iter().find(|other| other.key == shown.key);
            let edit = edit.unwrap_or_else(|| panic!("{} is gone", shown.key));
            assert_ne!(edit.origin, Origin::Default, "{} is missing", shown.key);
            if !shown.value.is_null() && shown.key != Key::from("engine.preload") {
                assert_eq!(edit.value, shown.value, "{}", shown.key);
            }
        }
    }
}
