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

static TEMPLATES: &[Template] = &[
    Template {
        name: "default",
        purpose: "every setting, commented out: what a profile of no special name starts from",
        files: &[(
            "ipcluster.toml",
            include_str!("../../profiles/default.toml"),
        )],
    },
    Template {
        name: "iptest",
        purpose: "what ipyparallel's own tests use: quick heartbeats, tasks kept in memory",
        files: &[("ipcluster.toml", include_str!("../../profiles/iptest.toml"))],
    },
];

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
