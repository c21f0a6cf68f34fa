//! Layers of settings put over each other, one value at a time, each with its origin. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};
use thiserror::Error;

use super::model::Settings;
use crate::profile::dir::similar;

/// Where in the settings a value stands: `["heartbeat", "period_ms"]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<String>);

impl Key {
    pub fn new(parts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(parts.into_iter().map(Into::into).collect())
    }

    /// Section, perhaps sub-section, and name.
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    fn child(&self, name: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(name.to_owned());
        Self(parts)
    }

    /// Holds a key whose name and value are the user's own?
    fn is_free(&self) -> bool {
        let parts: Vec<&str> = self.0.iter().map(String::as_str).collect();
        matches!(
            parts.as_slice(),
            ["kernel" | "launcher"]
                | ["kernel" | "launcher", _]
                | ["engine", "env"]
                | ["log", "components"]
                | ["controller", "mongodb", "connection_kwargs"]
        )
    }

    /// Must it not be shown?
    fn is_secret(&self) -> bool {
        let name = self.0.last().map(String::as_str);
        match self.0.first().map(String::as_str) {
            Some("session") => name == Some("key"),
            // A controller's public key is what opens its door.
            Some("curve") => true,
            Some("controller") if name == Some("dashboard_token") => true,
            Some("controller") => {
                self.0.get(1).is_some_and(|part| part == "mongodb")
                    && !matches!(name, Some("database" | "collection"))
            }
            _ => false,
        }
    }
}

/// `"heartbeat.period_ms"`.
impl From<&str> for Key {
    fn from(dotted: &str) -> Self {
        Self::new(dotted.split('.'))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            if part.contains('.') || part.is_empty() {
                write!(f, "{part:?}")?;
            } else {
                f.write_str(part)?;
            }
        }
        Ok(())
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        path: PathBuf,
        line: Option<usize>,
    },
    /// The variable.
    Environment(String),
    /// The argument, without its value.
    CommandLine(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: None } => path.display().fmt(f),
            Self::File {
                path,
                line: Some(line),
            } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::CommandLine(argument) => f.write_str(argument),
        }
    }
}

/// What happens to a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Set(Value),
    /// More items at the end of a list.
    Extend(Vec<Value>),
    /// More items at the beginning of a list.
    Prepend(Vec<Value>),
    /// More keys of a dictionary.
    Update(Map<String, Value>),
}

/// One change of one value.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    pub key: Key,
    pub change: Change,
    pub origin: Origin,
}

impl Edit {
    /// Sets a value.
    pub fn set(key: impl Into<Key>, value: impl Into<Value>, origin: Origin) -> Self {
        Self {
            key: key.into(),
            change: Change::Set(value.into()),
            origin,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    #[error("{origin}: there is no setting {key:?}{}", did_you_mean(.near))]
    UnknownKey {
        key: String,
        origin: Origin,
        near: Option<String>,
    },
    #[error("{origin}: {key} = {value} will not do: {reason}")]
    BadValue {
        key: String,
        value: String,
        reason: String,
        origin: Origin,
    },
    #[error("{origin}: {reason}")]
    Syntax { origin: Origin, reason: String },
    #[error("{origin}: {reason}")]
    Trait { origin: Origin, reason: String },
    #[error("there is no settings file {}: check the path given with --config", .0.display())]
    MissingFile(PathBuf),
    #[error("{reason}")]
    Unreadable { path: PathBuf, reason: String },
}

fn did_you_mean(near: &Option<String>) -> String {
    near.as_ref()
        .map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}

/// Puts edits over the defaults, in their order.
#[derive(Clone, Debug)]
pub struct Resolver {
    tree: Value,
    origins: BTreeMap<Key, Origin>,
    warnings: Vec<String>,
}

impl Default for Resolver {
    fn default() -> Self {
        let tree = serde_json::to_value(Settings::default())
            .expect("settings are numbers, texts, lists and tables");
        Self {
            tree,
            origins: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }
}

impl Resolver {
    /// Makes one change, or none and says why: no such setting, or not such a value.
    pub fn apply(&mut self, edit: Edit) -> Result<(), SettingsError> {
        let Edit {
            key,
            change,
            origin,
        } = edit;
        self.check_key(&key, &origin)?;
        let mut tree = self.tree.clone();
        let slot = slot(&mut tree, &key);
        let value = changed(slot.take(), change);
        *slot = value.clone();
        match serde_json::from_value::<Settings>(tree) {
            Ok(settings) => {
                // Written back, so that it has one spelling.
                self.tree = serde_json::to_value(settings)
                    .expect("settings are numbers, texts, lists and tables");
                self.origins.insert(key, origin);
                Ok(())
            }
            Err(error) => Err(SettingsError::BadValue {
                value: shown(&key, &value),
                key: key.to_string(),
                reason: plainly(&error.to_string()),
                origin,
            }),
        }
    }

    /// Makes all changes, the first that cannot be made is the error.
    pub fn apply_all(
        &mut self,
        edits: impl IntoIterator<Item = Edit>,
    ) -> Result<(), SettingsError> {
        edits.into_iter().try_for_each(|edit| self.apply(edit))
    }

    /// Something that the user should know.
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    pub fn finish(self) -> Resolved {
        let settings = serde_json::from_value(self.tree.clone())
            .expect("each change was checked when it was made");
        Resolved {
            settings,
            tree: self.tree,
            origins: self.origins,
            warnings: self.warnings,
        }
    }

    fn check_key(&self, key: &Key, origin: &Origin) -> Result<(), SettingsError> {
        let mut at = &self.tree;
        let mut path = Key(Vec::new());
        for part in &key.0 {
            if path.is_free() {
                return Ok(());
            }
            let known = at.as_object();
            match known.and_then(|known| known.get(part)) {
                Some(next) => at = next,
                None => {
                    return Err(SettingsError::UnknownKey {
                        key: key.to_string(),
                        origin: origin.clone(),
                        near: self.nearest(&path, part, known),
                    });
                }
            }
            path = path.child(part);
        }
        Ok(())
    }

    /// The nearest name at this place, or else the same name elsewhere.
    fn nearest(
        &self,
        path: &Key,
        name: &str,
        known: Option<&Map<String, Value>>,
    ) -> Option<String> {
        let here = known.into_iter().flat_map(Map::keys).cloned();
        if let Some(near) = similar(name, here).into_iter().next() {
            return Some(path.child(&near).to_string());
        }
        let mut all = Vec::new();
        leaves(&Key(Vec::new()), &self.tree, &mut all);
        let elsewhere = all
            .into_iter()
            .find(|(key, _)| key.0.last().is_some_and(|last| last == name));
        elsewhere.map(|(key, _)| key.to_string())
    }
}

/// The value at this place, made if it is not there.
fn slot<'a>(tree: &'a mut Value, key: &Key) -> &'a mut Value {
    let mut at = tree;
    for part in &key.0 {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Value::Object(map) = at else {
            unreachable!("it was just made an object");
        };
        at = map.entry(part.as_str()).or_insert(Value::Null);
    }
    at
}

fn changed(old: Value, change: Change) -> Value {
    let items = |old| match old {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        // Lists of ports are written as text.
        Value::String(text) if text.is_empty() => Vec::new(),
        other => vec![other],
    };
    match change {
        Change::Set(value) => value,
        Change::Extend(more) => {
            let mut all = items(old);
            all.extend(more);
            Value::Array(all)
        }
        Change::Prepend(mut all) => {
            all.extend(items(old));
            Value::Array(all)
        }
        Change::Update(more) => {
            let mut map = match old {
                Value::Object(map) => map,
                _ => Map::new(),
            };
            map.extend(more);
            Value::Object(map)
        }
    }
}

/// serde's words for a value that is none of several, in the user's terms. Other reasons stay as they are.
fn plainly(reason: &str) -> String {
    let Some(listed) = reason.strip_prefix("unknown variant ") else {
        return reason.to_owned();
    };
    let mut names = listed.split('`').skip(1).step_by(2);
    let given = names.next().unwrap_or_default();
    let known: Vec<&str> = names.collect();
    let near = similar(given, known.iter().copied());
    let near = near.first().map(|near| format!("; did you mean {near:?}?"));
    format!(
        "it is one of {}{}",
        known.join(", "),
        near.unwrap_or_default()
    )
}

fn shown(key: &Key, value: &Value) -> String {
    if key.is_secret() && !value.is_null() {
        "(secret)".to_owned()
    } else {
        value.to_string()
    }
}

/// All settings, and where each came from.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub settings: Settings,
    /// What the user should know: leftovers without meaning, lines that were not understood.
    pub warnings: Vec<String>,
    tree: Value,
    origins: BTreeMap<Key, Origin>,
}

/// One line of `profile show --resolved`.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub key: Key,
    /// Null for what is not set. Secrets are left out.
    pub value: Value,
    pub origin: Origin,
}

impl Resolved {
    /// Where this value came from.
    pub fn origin(&self, key: impl Into<Key>) -> Origin {
        let key = key.into();
        // A whole table may have been set at once.
        let mut at = key.0.as_slice();
        while !at.is_empty() {
            if let Some(origin) = self.origins.get(&Key(at.to_vec())) {
                return origin.clone();
            }
            at = &at[..at.len() - 1];
        }
        Origin::Default
    }

    /// Did anybody set this value?
    pub fn is_set(&self, key: impl Into<Key>) -> bool {
        self.origin(key) != Origin::Default
    }

    /// Every value, in the order of their names, for people: without secrets.
    pub fn show(&self) -> Vec<Shown> {
        let mut all = self.values();
        for shown in &mut all {
            if shown.key.is_secret() && !shown.value.is_null() {
                shown.value = Value::from("(secret)");
            }
        }
        all
    }

    /// Every value, in the order of their names.
    pub(super) fn values(&self) -> Vec<Shown> {
        let mut all = Vec::new();
        leaves(&Key(Vec::new()), &self.tree, &mut all);
        all.into_iter()
            .map(|(key, value)| Shown {
                value: value.clone(),
                origin: self.origin(key.clone()),
                key,
            })
            .collect()
    }
}

fn leaves<'a>(key: &Key, value: &'a Value, found: &mut Vec<(Key, &'a Value)>) {
    match value {
        Value::Object(map) if !key.0.is_empty() && map.is_empty() => {}
        Value::Object(map) => {
            for (name, value) in map {
                leaves(&key.child(name), value, found);
            }
        }
        _ => found.push((key.clone(), value)),
    }
}

/// The edits that a TOML file makes.
pub fn toml_edits(text: &str, path: &std::path::Path) -> Result<Vec<Edit>, SettingsError> {
    let origin = |line| Origin::File {
        path: path.to_owned(),
        line,
    };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| line_of(text, span.start));
        SettingsError::Syntax {
            origin: origin(line),
            reason: error.message().to_owned(),
        }
    })?;
    let tree = serde_json::to_value(table).map_err(|error| SettingsError::Syntax {
        origin: origin(None),
        reason: error.to_string(),
    })?;
    let mut found = Vec::new();
    leaves(&Key(Vec::new()), &tree, &mut found);
    Ok(found
        .into_iter()
        .map(|(key, value)| {
            let line = key.0.last().and_then(|name| line_with(text, name));
            Edit::set(key, value.clone(), origin(line))
        })
        .collect())
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// The line that sets this name, if there is just one.
fn line_with(text: &str, name: &str) -> Option<usize> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| {
        let key = line.split('=').next().unwrap_or("").trim();
        key.rsplit('.')
            .next()
            .map(|part| part.trim().trim_matches('"'))
            == Some(name)
    });
    let (index, _) = lines.next()?;
    lines.next().is_none().then_some(index + 1)
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
