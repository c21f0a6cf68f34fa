//! The built-in profiles, which new ones are copied from.

/// A built-in profile.
#[derive(Debug)]
pub struct Template {
    pub name: &'static str,
    /// In one line.
    pub purpose: &'static str,
    /// Name and content of the files that a new profile gets.
    pub files: &'static [(&'static str, &'static str)],
}

macro_rules! templates {
    ($($name:literal: $purpose:literal,)*) => {
        static TEMPLATES: &[Template] = &[$(Template {
            name: $name,
            purpose: $purpose,
            files: &[(
                "ipcluster.toml",
                include_str!(concat!("../../profiles/", $name, ".toml")),
            )],
        }),*];
    };
}

templates! {
    "default": "every setting, commented out: what a profile of no special name starts from",
    "iptest": "what ipyparallel's own tests use: quick heartbeats, tasks kept in memory",
    "ssh": "engines on other machines, over ssh",
    "mpi": "engines that are the ranks of one MPI program",
    "slurm": "engines as jobs of Slurm",
    "pbs": "engines as jobs of PBS, Torque or OpenPBS",
    "sge": "engines as jobs of Grid Engine",
    "lsf": "engines as jobs of LSF",
    "htcondor": "engines as jobs of HTCondor",
}

/// All templates, the default one first.
pub fn all() -> &'static [Template] {
    TEMPLATES
}

/// A template by name.
pub fn find(name: &str) -> Option<&'static Template> {
    TEMPLATES.iter().find(|template| template.name == name)
}

/// The template of profiles that have no special name.
pub fn default() -> &'static Template {
    &TEMPLATES[0]
}

/// The names of all templates.
pub fn names() -> Vec<&'static str> {
    TEMPLATES.iter().map(|template| template.name).collect()
}

#[cfg(test)]
impl Template {
    /// Its settings file with all settings in force: comments that are text begin with `# `.
    pub(crate) fn uncommented(&self) -> String {
        let (_, text) = self.files[0];
        text.lines()
            .map(|line| match line.strip_prefix("#") {
                Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect()
    }
}
