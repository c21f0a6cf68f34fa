//! The settings of a batch system's launcher, and the script that is made of them. Pure.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;
use serde_json::Value as Json;
use thiserror::Error;

use super::system::{Setting, System};
use super::template::{self, Namespace, TemplateError, Value};
use crate::launch::Job;
use crate::launch::arrival::connection_info_timeout;
use crate::launch::role::Role;
use crate::launch::shell::shell_words;
use crate::profile::settings::Traits;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScriptError {
    #[error("{launcher}.{name}: {why}")]
    Setting {
        launcher: &'static str,
        name: String,
        why: String,
    },
    #[error("{launcher}.batch_template: {error}")]
    Template {
        launcher: &'static str,
        error: TemplateError,
    },
    #[error("the argument {0:?} is not text, which a batch script has to be")]
    NotText(OsString),
    #[error(
        "the submit command's answer names no job: {said:?} does not match {regexp:?}; see {launcher}.job_id_regexp"
    )]
    NoJobId {
        launcher: &'static str,
        said: String,
        regexp: String,
    },
}

/// How jobs are submitted, and what their script is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    pub system: System,
    pub role: Role,
    /// The user's own script.
    pub template: Option<String>,
    /// `queue`, `account` … as far as they are set.
    pub values: BTreeMap<Setting, String>,
    pub array_directive: String,
    pub namespace: BTreeMap<String, Json>,
    pub submit_command: Vec<String>,
    pub delete_command: Vec<String>,
    pub signal_command: Vec<String>,
    /// In place of the usual question; the job's id is put after it.
    pub status_command: Option<Vec<String>>,
    pub job_id_regexp: Regex,
    pub job_id_group: usize,
    pub batch_file_name: PathBuf,
    /// In which the connection files of a controller whose job runs have to be there; for ever without it.
    pub connection_info_timeout: Option<Duration>,
}

/// Settings that have a meaning for a batch system's launcher.
const HEEDED: &[&str] = &[
    "account",
    "batch_file_name",
    "batch_template",
    "batch_template_file",
    "connection_info_timeout",
    "controller_args",
    "delete_command",
    "engine_args",
    "environment",
    "job_array_template",
    "job_id_regexp",
    "job_id_regexp_group",
    "namespace",
    "options",
    "output_file",
    "qos",
    "queue",
    "signal_command",
    "status_command",
    "stop_seconds_until_kill",
    "submit_command",
    "timelimit",
];

impl Settings {
    /// From the launcher's traits. `template_file` is the content of `batch_template_file`, if that is set.
    pub fn new(
        system: System,
        role: Role,
        traits: &Traits,
        template_file: Option<String>,
    ) -> Result<Self, ScriptError> {
        let launcher = system.lineage(role)[0];
        let wrong = |name: &str, why: String| ScriptError::Setting {
            launcher,
            name: name.to_owned(),
            why,
        };
        let text = |name: &str| {
            let value = traits.get(name).map(as_text).unwrap_or_default();
            (!value.is_empty()).then_some(value)
        };
        let words = |name: &str, usual: &[&str]| -> Result<Vec<String>, ScriptError> {
            let words: Vec<String> = match traits.get(name).and_then(Json::as_array) {
                Some(words) => words.iter().map(as_text).collect(),
                None => usual.iter().map(|word| (*word).to_owned()).collect(),
            };
            if words.first().is_some_and(String::is_empty) {
                return Err(wrong(name, "it names no command".to_owned()));
            }
            Ok(words)
        };
        let mut values = BTreeMap::new();
        for setting in Setting::ALL {
            let Some(value) = text(setting.name()) else {
                continue;
            };
            let template = text("batch_template").or_else(|| template_file.clone());
            if template.is_none() && system.directive(setting).is_none() {
                return Err(wrong(
                    setting.name(),
                    format!(
                        "{} has no such setting; `options` takes any line of a script, and `batch_template` a whole one",
                        system.title()
                    ),
                ));
            }
            values.insert(setting, value);
        }
        let (usual_regexp, usual_group) = system.job_id_regexp();
        let regexp = text("job_id_regexp");
        let job_id_regexp = Regex::new(regexp.as_deref().unwrap_or(usual_regexp))
            .map_err(|error| wrong("job_id_regexp", error.to_string()))?;
        let group = traits.get("job_id_regexp_group").and_then(Json::as_u64);
        let job_id_group = match group.and_then(|group| usize::try_from(group).ok()) {
            Some(group) => group,
            None if regexp.is_some() => 0,
            None => usual_group,
        };
        if job_id_group >= job_id_regexp.captures_len() {
            return Err(wrong(
                "job_id_regexp_group",
                format!("job_id_regexp has no group {job_id_group}"),
            ));
        }
        let submit_command = words("submit_command", system.submit_command())?;
        let delete_command = words("delete_command", system.delete_command())?;
        for (name, command) in [
            ("submit_command", &submit_command),
            ("delete_command", &delete_command),
        ] {
            if command.is_empty() {
                return Err(wrong(name, "it names no command".to_owned()));
            }
        }
        let namespace = traits.get("namespace").and_then(Json::as_object);
        Ok(Self {
            system,
            role,
            template: text("batch_template").or(template_file),
            values,
            array_directive: text("job_array_template")
                .unwrap_or_else(|| system.array_directive().to_owned()),
            namespace: namespace
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            submit_command,
            delete_command,
            signal_command: words("signal_command", system.signal_command())?,
            status_command: match traits.get("status_command") {
                Some(_) => Some(words("status_command", &[])?),
                None => None,
            },
            job_id_regexp,
            job_id_group,
            batch_file_name: text("batch_file_name")
                .map_or_else(|| system.batch_file_name(role).into(), PathBuf::from),
            connection_info_timeout: connection_info_timeout(traits),
        })
    }

    /// ipyparallel's class.
    pub fn launcher(&self) -> &'static str {
        self.system.lineage(self.role)[0]
    }

    /// What is set and changes nothing.
    pub fn without_effect(&self, traits: &Traits) -> Vec<String> {
        let mut found: Vec<String> = traits
            .keys()
            .filter(|name| !HEEDED.contains(&name.as_str()))
            .cloned()
            .collect();
        if let Some(template) = &self.template {
            let used = template::names(template);
            let unused = self.values.keys().map(|setting| setting.name());
            found.extend(
                unused
                    .filter(|name| !used.iter().any(|used| used == name))
                    .map(str::to_owned),
            );
        }
        found
    }

    /// The template that is filled in: the user's own, or ours with a line for each setting.
    fn whole_template(&self) -> String {
        if let Some(template) = &self.template {
            return template.clone();
        }
        let (head, tail) = self.system.template(self.role);
        let mut script = head.to_owned();
        let set = Setting::ALL
            .into_iter()
            .filter(|setting| *setting == Setting::Output || self.values.contains_key(setting));
        let directives = set.filter_map(|setting| self.system.directive(setting));
        for directive in directives {
            script.push_str(directive);
            script.push('\n');
        }
        let array = match self.role {
            Role::Engines => Some(self.array_directive.as_str()),
            // Also a single one has to be asked for.
            Role::Controller => self.system.array_is_last().then_some("queue"),
        };
        let array = array.map(|array| format!("{array}\n")).unwrap_or_default();
        if self.system.array_is_last() {
            script + tail + &array
        } else {
            script + &array + tail
        }
    }

    /// The script that runs the job.
    pub fn script(&self, job: &Job, place: &Place) -> Result<Script, ScriptError> {
        let argv = job
            .argv
            .iter()
            .map(|word| text_of(word))
            .collect::<Result<Vec<_>, _>>()?;
        // The program is this executable and its verb; what follows are the arguments.
        let (program, arguments) = argv.split_at(argv.len().min(2));
        let mut names = Namespace::new();
        let mut put = |name: &str, value: Value| names.insert(name.to_owned(), value);
        for setting in Setting::ALL {
            put(setting.name(), Value::Text(String::new()));
        }
        put("n", Value::Number(job.engines.map_or(1, i64::from)));
        put("cluster_id", Value::Text(place.cluster_id.clone()));
        put("profile_dir", Value::Text(place.profile_dir.clone()));
        put(
            "executable",
            Value::Text(argv.first().cloned().unwrap_or_default()),
        );
        put("program", Value::Text(shell_words(program)));
        put("program_args", Value::Text(shell_words(arguments)));
        put("program_and_args", Value::Text(shell_words(&argv)));
        // In HTCondor's own quotes a quote is written twice.
        let rest = argv.get(1..).unwrap_or_default();
        put(
            "arguments",
            Value::Text(shell_words(rest).replace('"', "\"\"")),
        );
        let environment: BTreeMap<String, String> = job
            .environment
            .iter()
            .map(|(name, value)| {
                let text = |text: &OsStr| text.to_string_lossy().into_owned();
                (text(name), text(value))
            })
            .collect();
        let environment = serde_json::to_string(&environment).expect("texts are JSON");
        put("environment_json", Value::Text(environment));
        for (setting, value) in self
            .values
            .iter()
            .filter(|(setting, _)| **setting != Setting::Output)
        {
            put(setting.name(), Value::Text(value.clone()));
        }
        for (name, value) in &self.namespace {
            put(
                name,
                match value.as_i64() {
                    Some(number) => Value::Number(number),
                    None => Value::Text(as_text(value)),
                },
            );
        }
        // It may hold fields itself, as one that is named after the cluster.
        let output = match self.values.get(&Setting::Output) {
            Some(output) => self.render(output, &names)?,
            None => place.output.clone(),
        };
        names.insert("output_file".to_owned(), Value::Text(output.clone()));
        let text = self.render(&self.whole_template(), &names)?;
        Ok(Script { text, output })
    }

    fn render(&self, template: &str, names: &Namespace) -> Result<String, ScriptError> {
        template::render(template, names).map_err(|error| ScriptError::Template {
            launcher: self.launcher(),
            error,
        })
    }

    /// The id in what the submit command has said.
    pub fn job_id(&self, said: &str) -> Result<String, ScriptError> {
        let found = self.job_id_regexp.captures(said);
        let group = found.and_then(|found| Some(found.get(self.job_id_group)?.as_str().to_owned()));
        group.ok_or_else(|| ScriptError::NoJobId {
            launcher: self.launcher(),
            said: said.trim().to_owned(),
            regexp: self.job_id_regexp.to_string(),
        })
    }
}

/// A script that is ready to be submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub text: String,
    /// The file for what the job writes.
    pub output: String,
}

/// Where the cluster is, for the script's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub cluster_id: String,
    pub profile_dir: String,
    /// The file for what the job writes, if the settings name no other.
    pub output: String,
}

fn as_text(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn text_of(word: &OsStr) -> Result<String, ScriptError> {
    word.to_str()
        .map(str::to_owned)
        .ok_or_else(|| ScriptError::NotText(word.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn traits(values: Json) -> Traits {
        serde_json::from_value(values).unwrap()
    }

    fn job() -> Job {
        let words = [
            "/bin/ipcluster",
            "engine",
            "--profile-dir=/my profile",
            "--cluster-id=a",
        ];
        Job {
            name: "ipengine",
            argv: words.map(OsString::from).to_vec(),
            environment: vec![("A".into(), "b".into())],
            engines: Some(8),
            machine: None,
            connection: None,
        }
    }

    fn place() -> Place {
        Place {
            cluster_id: "a".into(),
            profile_dir: "/my profile".into(),
            output: "/log/x.log".into(),
        }
    }

    fn settings(system: System, values: Json) -> Settings {
        Settings::new(system, Role::Engines, &traits(values), None).unwrap()
    }

    fn script(system: System, values: Json) -> String {
        let script = settings(system, values).script(&job(), &place());
        script.unwrap().text
    }

    #[test]
    fn each_system_has_its_script() {
        for (system, expected) in [
            (
                System::Slurm,
                "#!/bin/sh\n#SBATCH --export=ALL\n#SBATCH --job-name=ipengine-a\n#SBATCH --output=/log/x.log\n\
                 #SBATCH --ntasks=8\nsrun /bin/ipcluster engine '--profile-dir=/my profile' --cluster-id=a\n",
            ),
            (
                System::Pbs,
                "#!/bin/sh\n#PBS -V\n#PBS -N ipengine\n#PBS -j oe\n#PBS -o /log/x.log\n#PBS -t 1-8\nexec \
                 /bin/ipcluster engine '--profile-dir=/my profile' --cluster-id=a\n",
            ),
            (
                System::Sge,
                "#!/bin/sh\n#$ -V\n#$ -S /bin/sh\n#$ -N ipengine\n#$ -j y\n#$ -o /log/x.log\n#$ -t 1-8\nexec \
                 /bin/ipcluster engine '--profile-dir=/my profile' --cluster-id=a\n",
            ),
            (
                System::Lsf,
                "#!/bin/sh\n#BSUB -env all\n#BSUB -o /log/x.log\n#BSUB -e /log/x.log\n#BSUB -J ipengine-a[1-8]\nexec \
                 /bin/ipcluster engine '--profile-dir=/my profile' --cluster-id=a\n",
            ),
            (
                System::HtCondor,
                "universe = vanilla\nexecutable = /bin/ipcluster\n# The file system is shared.\ntransfer_executable = \
                 False\ngetenv = True\noutput = /log/x.log\nerror = /log/x.log\nlog = /log/x.log.events\narguments = \
                 \"engine '--profile-dir=/my profile' --cluster-id=a\"\nqueue 8\n",
            ),
        ] {
            assert_eq!(script(system, json!({})), expected);
        }
        let named = settings(
            System::Slurm,
            json!({"output_file": "{profile_dir}/{cluster_id}"}),
        );
        assert_eq!(
            named.script(&job(), &place()).unwrap().output,
            "/my profile/a"
        );
    }

    #[test]
    fn settings_become_directives() {
        let set = json!({"queue": "long", "account": "me", "qos": "high", "timelimit": 90, "options": "--mem=2G"});
        let text = script(System::Slurm, set);
        for line in [
            "--partition=long",
            "--account=me",
            "--qos=high",
            "--time=90",
            "--mem=2G",
        ] {
            assert!(text.contains(&format!("\n#SBATCH {line}\n")), "{text}");
        }
        let error = Settings::new(
            System::HtCondor,
            Role::Engines,
            &traits(json!({"queue": "x"})),
            None,
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("HTCondor has no such setting")
        );
    }

    #[test]
    fn a_template_of_ones_own_is_taken_as_it_is() {
        let template = "#!/bin/sh\n#PBS -l nodes={n//4}:ppn=4 -q {queue}\n{program} --x {program_args} {wall}\n";
        let set = json!({"batch_template": template, "queue": "q", "namespace": {"wall": "1:00"}, "account": "lost",
                         "mpi_cmd": ["x"]});
        let text = script(System::Pbs, set.clone());
        assert_eq!(
            text,
            "#!/bin/sh\n#PBS -l nodes=2:ppn=4 -q q\n/bin/ipcluster engine --x '--profile-dir=/my profile' \
             --cluster-id=a 1:00\n"
        );
        let settings = settings(System::Pbs, set.clone());
        assert_eq!(
            settings.without_effect(&traits(set)),
            ["mpi_cmd", "account"]
        );
    }

    #[test]
    fn a_template_with_an_unknown_field_is_refused() {
        let settings = settings(
            System::Slurm,
            json!({"batch_template": "#!/bin/sh\n{quue}"}),
        );
        let error = settings.script(&job(), &place()).unwrap_err().to_string();
        let expected = "SlurmEngineSetLauncher.batch_template: line 2: {quue}: there is no \"quue\", did you mean \
                        \"queue\"?";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn ids_are_found_in_what_the_commands_say() {
        for (system, said, id) in [
            (System::Slurm, "Submitted batch job 12\n", "12"),
            (System::Pbs, "12.head.example.org\n", "12"),
            (System::Pbs, "12[].head\n", "12[]"),
            (
                System::Sge,
                "Your job-array 3.1-4:1 (\"ipengine\") has been submitted\n",
                "3",
            ),
            (
                System::Lsf,
                "Job <24> is submitted to default queue <normal>.\n",
                "24",
            ),
            (
                System::HtCondor,
                "Submitting job(s)....\n4 job(s) submitted to cluster 77.\n",
                "77",
            ),
        ] {
            assert_eq!(settings(system, json!({})).job_id(said).unwrap(), id);
        }
        let error = settings(System::Slurm, json!({})).job_id("no").unwrap_err();
        assert!(error.to_string().contains("job_id_regexp"));
        let own = settings(
            System::Slurm,
            json!({"job_id_regexp": "job=(x.)", "job_id_regexp_group": 1}),
        );
        assert_eq!(own.job_id("job=x7").unwrap(), "x7");
    }

    #[test]
    fn wrong_settings_are_named() {
        for (set, expected) in [
            (
                json!({"job_id_regexp": "("}),
                "SlurmEngineSetLauncher.job_id_regexp",
            ),
            (json!({"job_id_regexp_group": 2}), "has no group 2"),
            (
                json!({"submit_command": [""]}),
                "submit_command: it names no command",
            ),
            (
                json!({"delete_command": []}),
                "delete_command: it names no command",
            ),
        ] {
            let error = Settings::new(System::Slurm, Role::Engines, &traits(set), None);
            let error = error.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// Everything that the built-in profile of a system explains has a meaning, and its example of a script is one.
    #[test]
    fn the_built_in_profiles_are_right() {
        for system in System::ALL {
            let template = crate::profile::templates::find(system.name()).unwrap();
            let mut whole: toml::Table = template.uncommented().parse().unwrap();
            let class = system.lineage(Role::Engines)[0];
            let traits = whole["launcher"][class].as_table_mut().unwrap();
            traits.remove("batch_template_file");
            let mut traits: Traits =
                serde_json::from_value(serde_json::to_value(traits).unwrap()).unwrap();
            let settings = Settings::new(system, Role::Engines, &traits, None).unwrap();
            settings.script(&job(), &place()).unwrap();
            traits.remove("batch_template");
            let settings = Settings::new(system, Role::Engines, &traits, None).unwrap();
            assert!(settings.without_effect(&traits).is_empty());
            settings.script(&job(), &place()).unwrap();
            // What stands there as the default is the default.
            for (name, default) in [
                ("submit_command", system.submit_command()),
                ("delete_command", system.delete_command()),
                ("signal_command", system.signal_command()),
            ] {
                if let Some(shown) = traits.get(name) {
                    assert_eq!(*shown, json!(default), "{class}.{name}");
                }
            }
            let (regexp, group) = system.job_id_regexp();
            assert_eq!(traits["job_id_regexp"], regexp, "{class}");
            assert_eq!(traits["job_id_regexp_group"], json!(group), "{class}");
        }
    }
}
