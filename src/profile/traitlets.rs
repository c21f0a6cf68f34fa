//! ipyparallel's spellings of settings: `--Class.trait=value`, and `c.Class.trait = value` in its configuration files.
//! Pure.
//!
//! As permissive as traitlets where scripts rely on it: a class that is not known belongs to the kernel, which may have
//! it. A trait that a known class does not have is an error on the command line and a warning in a file.

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::dir::similar;
use super::literal::Literal;
use super::settings::{Change, Database, Edit, Key, Origin};
use super::traits_table::{
    APP_TRAITS, CLASSES, Class, KERNEL_CLASSES, Kind, LAUNCHER_TRAITS, Target,
};
pub use super::traits_table::{LAUNCHERS, Program};

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// On a command line, once or several times: what it means is for the trait to say.
    Text(Vec<String>),
    /// In a configuration file.
    Literal(Literal),
}

/// What is done to a trait.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Set(Written),
    Extend(Vec<Literal>),
    Prepend(Vec<Literal>),
    Update(Vec<(Literal, Literal)>),
}

/// `Class.trait = value`, from wherever.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub class: String,
    pub name: String,
    pub action: Action,
    pub origin: Origin,
}

/// What an assignment means.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    Edits(Vec<Edit>),
    /// Known, and without effect here.
    Nothing {
        reason: &'static str,
    },
    /// For another of the programs.
    Elsewhere,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TraitError {
    #[error("{class} has no trait {name:?}{}", did_you_mean(.near))]
    UnknownTrait {
        class: String,
        name: String,
        near: Option<String>,
    },
    #[error("there is no class {class:?}{}", did_you_mean(.near))]
    UnknownClass { class: String, near: Option<String> },
    #[error("{class}.{name} must be {expected}, not {found}")]
    WrongValue {
        class: String,
        name: String,
        expected: &'static str,
        found: String,
    },
    #[error(
        "{found:?} is no launcher that is built in{}; there are: {}",
        did_you_mean(.near),
        LAUNCHERS.join(", ")
    )]
    UnknownLauncher { found: String, near: Option<String> },
}

fn did_you_mean(near: &Option<String>) -> String {
    near.as_ref()
        .map_or_else(String::new, |near| format!("; did you mean {near:?}?"))
}

/// What an assignment means for this program.
pub fn interpret(program: Program, assignment: &Assignment) -> Result<Meaning, TraitError> {
    let Assignment { class, name, .. } = assignment;
    if class.ends_with("Launcher") {
        return launcher(assignment);
    }
    let Some(known) = find_class(class) else {
        let meaning = kernel(assignment)?;
        // A class of somebody else's means something to kernels, and nothing to a controller.
        return Ok(match program {
            Program::Controller => Meaning::Nothing {
                reason: "a controller has no such class; kernels may",
            },
            _ => meaning,
        });
    };
    if let Some((_, target)) = known.traits.iter().find(|(trait_, _)| trait_ == name) {
        return aim(*target, assignment);
    }
    if let Some(owner) = known.app
        && let Some((_, target)) = APP_TRAITS.iter().find(|(trait_, _)| trait_ == name)
    {
        if !program.reads(owner) {
            return Ok(Meaning::Elsewhere);
        }
        return aim(*target, assignment);
    }
    Err(TraitError::UnknownTrait {
        class: class.clone(),
        name: name.clone(),
        near: nearest_trait(known, name),
    })
}

/// Does an assignment on the command line of a whole cluster speak to this part of it?
pub fn is_for(part: Program, assignment: &Assignment) -> bool {
    if find_class(&assignment.class).is_some_and(|class| class.app == Some(part)) {
        return true;
    }
    let Ok(Meaning::Edits(edits)) = interpret(part, assignment) else {
        return false;
    };
    let sections = part.sections();
    let section = |edit: &Edit| edit.key.parts().first().cloned().unwrap_or_default();
    edits
        .iter()
        .any(|edit| sections.contains(&section(edit).as_str()))
}

fn find_class(name: &str) -> Option<&'static Class> {
    CLASSES
        .iter()
        .find(|class| class.name == name || class.former.contains(&name))
}

fn nearest_trait(class: &Class, name: &str) -> Option<String> {
    let app = class.app.map_or(&[][..], |_| APP_TRAITS);
    let own = class.traits.iter().chain(app).map(|(name, _)| *name);
    let near = similar(name, own).into_iter().next();
    let near = near.map(|near| format!("{}.{near}", class.name));
    // The name of a trait that another class has.
    near.or_else(|| {
        let owner = CLASSES
            .iter()
            .find(|class| class.traits.iter().any(|(trait_, _)| *trait_ == name))?;
        Some(format!("{}.{name}", owner.name))
    })
}

fn aim(target: Target, assignment: &Assignment) -> Result<Meaning, TraitError> {
    let edits = match target {
        Target::Nothing(reason) => return Ok(Meaning::Nothing { reason }),
        Target::Key(key, kind) => vec![Edit {
            key: key.into(),
            change: change(kind, assignment)?,
            origin: assignment.origin.clone(),
        }],
        Target::Pool(pool) => extend(pool, vec![single_port(assignment)?], assignment),
        Target::PortPair => {
            let (client, engine) = port_pair(assignment)?;
            let mut edits = extend("controller.client_ports", vec![client], assignment);
            edits.extend(extend("controller.engine_ports", vec![engine], assignment));
            edits
        }
        Target::HeartbeatPorts => {
            let (ping, pong) = port_pair(assignment)?;
            extend("controller.engine_ports", vec![ping, pong], assignment)
        }
    };
    Ok(Meaning::Edits(edits))
}

/// Adds ports to a pool. 0 and None, which generated files show as defaults, are no ports.
fn extend(pool: &str, ports: Vec<Value>, assignment: &Assignment) -> Vec<Edit> {
    let ports: Vec<Value> = ports
        .into_iter()
        .filter(|port| !port.is_null() && *port != 0)
        .collect();
    if ports.is_empty() {
        return Vec::new();
    }
    vec![Edit {
        key: pool.into(),
        change: Change::Extend(ports),
        origin: assignment.origin.clone(),
    }]
}

fn single_port(assignment: &Assignment) -> Result<Value, TraitError> {
    match change(Kind::Int, assignment)? {
        Change::Set(value) => Ok(value),
        _ => Err(wrong(assignment, "a port")),
    }
}

fn port_pair(assignment: &Assignment) -> Result<(Value, Value), TraitError> {
    let literal = match &assignment.action {
        Action::Set(Written::Literal(literal)) => Some(literal.clone()),
        Action::Set(Written::Text(texts)) => Literal::parse(&texts.join(",")).ok(),
        _ => None,
    };
    match literal {
        Some(Literal::None) => Ok((Value::Null, Value::Null)),
        Some(Literal::Tuple(ports) | Literal::List(ports)) => match ports.as_slice() {
            [Literal::Int(first), Literal::Int(second)] => {
                Ok((Value::from(*first), Value::from(*second)))
            }
            _ => Err(wrong(assignment, "a pair of ports")),
        },
        _ => Err(wrong(assignment, "a pair of ports")),
    }
}

fn launcher(assignment: &Assignment) -> Result<Meaning, TraitError> {
    let Assignment { class, name, .. } = assignment;
    let known = LAUNCHER_TRAITS.iter().find(|(trait_, _)| trait_ == name);
    let Some((_, kind)) = known else {
        let names = LAUNCHER_TRAITS.iter().map(|(name, _)| *name);
        return Err(TraitError::UnknownTrait {
            class: class.clone(),
            name: name.clone(),
            near: similar(name, names).into_iter().next(),
        });
    };
    free("launcher", *kind, assignment)
}

/// Classes of the kernel and of what users load into it; but a name that is nearly one of ours is a slip.
fn kernel(assignment: &Assignment) -> Result<Meaning, TraitError> {
    let class = &assignment.class;
    if !KERNEL_CLASSES.contains(&class.as_str()) {
        let near = CLASSES
            .iter()
            .flat_map(|class| std::iter::once(&class.name).chain(class.former))
            .chain(KERNEL_CLASSES)
            .map(|known| (strsim::damerau_levenshtein(known, class), *known))
            .min()
            .filter(|(distance, known)| *distance <= 2 && known.len() > 6);
        if let Some((_, near)) = near {
            return Err(TraitError::UnknownClass {
                class: class.clone(),
                near: Some(near.to_owned()),
            });
        }
    }
    match &assignment.action {
        // The kernel hands text to the trait, as a command line would.
        Action::Set(Written::Text(texts)) => {
            let value = match texts.as_slice() {
                [one] => Value::from(one.as_str()),
                many => Value::from(many),
            };
            Ok(Meaning::Edits(vec![Edit {
                key: Key::new(["kernel", class, &assignment.name]),
                change: Change::Set(value),
                origin: assignment.origin.clone(),
            }]))
        }
        _ => free("kernel", Kind::Any, assignment),
    }
}

fn free(section: &str, kind: Kind, assignment: &Assignment) -> Result<Meaning, TraitError> {
    Ok(Meaning::Edits(vec![Edit {
        key: Key::new([section, &assignment.class, &assignment.name]),
        change: change(kind, assignment)?,
        origin: assignment.origin.clone(),
    }]))
}

fn change(kind: Kind, assignment: &Assignment) -> Result<Change, TraitError> {
    let json = |literal: &Literal| {
        literal
            .to_json()
            .ok_or_else(|| wrong(assignment, "a value that can be written as JSON"))
    };
    let all = |items: &[Literal]| items.iter().map(json).collect::<Result<Vec<_>, _>>();
    match &assignment.action {
        Action::Set(Written::Text(texts)) => Ok(Change::Set(from_text(kind, texts, assignment)?)),
        Action::Set(Written::Literal(literal)) => {
            let value = json(literal)?;
            Ok(Change::Set(from_value(kind, value, assignment)?))
        }
        Action::Extend(items) => Ok(Change::Extend(all(items)?)),
        Action::Prepend(items) => Ok(Change::Prepend(all(items)?)),
        Action::Update(pairs) => match json(&Literal::Dict(pairs.clone()))? {
            Value::Object(map) => Ok(Change::Update(map)),
            _ => Err(wrong(assignment, "a dictionary")),
        },
    }
}

/// Text as the trait types of traitlets read it (`from_string`, `from_string_list`).
fn from_text(kind: Kind, texts: &[String], assignment: &Assignment) -> Result<Value, TraitError> {
    let Some(last) = texts.last() else {
        return Err(wrong(assignment, "a value"));
    };
    let text = last.as_str();
    let trimmed = text.trim();
    match kind {
        Kind::Int if trimmed == "None" => Ok(Value::Null),
        Kind::Int => python_int(trimmed)
            .map(Value::from)
            .ok_or_else(|| wrong(assignment, "an integer")),
        Kind::Float => python_float(trimmed)
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number)
            .ok_or_else(|| wrong(assignment, "a number")),
        Kind::Bool => python_bool(text)
            .map(Value::from)
            .ok_or_else(|| wrong(assignment, "true or false")),
        Kind::Text | Kind::Level => Ok(Value::from(unquoted(text))),
        Kind::Ports => Ok(Value::from(texts.join(","))),
        Kind::List => Ok(list(texts)),
        Kind::Dict => dict(texts).ok_or_else(|| wrong(assignment, "key=value")),
        Kind::Database => Ok(database(unquoted(text))),
        Kind::Launcher => launcher_name(unquoted(text)).map(Value::from),
        Kind::WithMpi => with_mpi(unquoted(text), assignment),
        Kind::Any => Ok(Literal::parse(text)
            .ok()
            .and_then(|literal| literal.to_json())
            .unwrap_or_else(|| Value::from(text))),
    }
}

/// A value of a configuration file. Whether its type fits is checked where it is set.
fn from_value(kind: Kind, value: Value, assignment: &Assignment) -> Result<Value, TraitError> {
    match (kind, value) {
        (Kind::Database, Value::String(text)) => Ok(database(&text)),
        (Kind::Launcher, Value::String(text)) => launcher_name(&text).map(Value::from),
        (Kind::WithMpi, Value::String(text)) => with_mpi(&text, assignment),
        // Python takes True for 1, and traitlets does not mind 1.0 for a float only.
        (Kind::Int, Value::Bool(_)) => Err(wrong(assignment, "an integer")),
        (Kind::List, Value::String(_)) => Err(wrong(assignment, "a list")),
        (_, value) => Ok(value),
    }
}

/// `int(text)` of Python, in base 10.
fn python_int(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (&text[..1], digits),
        None => ("", text),
    };
    let misplaced = digits.is_empty()
        || digits.starts_with('_')
        || digits.ends_with('_')
        || digits.contains("__");
    if misplaced
        || !digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'_')
    {
        return None;
    }
    format!("{sign}{}", digits.replace('_', "")).parse().ok()
}

/// `float(text)` of Python. JSON has no infinity: the largest number stands for it.
fn python_float(text: &str) -> Option<f64> {
    let misplaced = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    let number: f64 = text.replace('_', "").parse().ok()?;
    (!misplaced && !number.is_nan()).then(|| number.clamp(f64::MIN, f64::MAX))
}

/// `true`, `false`, `1` and `0` in any case, as traitlets' `Bool` reads text.
pub fn python_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Without the quotes that traitlets still takes off.
fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = text
            .strip_prefix(quote)
            .and_then(|text| text.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner;
        }
    }
    text
}

/// One item for each time that it was given; a whole list in Python's spelling is taken as well.
fn list(texts: &[String]) -> Value {
    if let [one] = texts
        && one.starts_with(['[', '('])
        && let Ok(Literal::List(items) | Literal::Tuple(items)) = Literal::parse(one)
        && let Some(value) = Literal::List(items).to_json()
    {
        return value;
    }
    Value::from(texts)
}

fn dict(texts: &[String]) -> Option<Value> {
    if let [one] = texts
        && one.starts_with('{')
    {
        return Literal::parse(one).ok()?.to_json().filter(Value::is_object);
    }
    let mut map = Map::new();
    for text in texts {
        let (key, value) = text.split_once('=')?;
        map.insert(key.to_owned(), Value::from(value));
    }
    Some(Value::Object(map))
}

/// The name of a database as settings have it; any other name is for them to refuse.
fn database(text: &str) -> Value {
    match Database::named(text) {
        Some(database) => json!(database),
        None => Value::from(text),
    }
}

/// How MPI is used, by the name of Python's package for it.
fn with_mpi(package: &str, assignment: &Assignment) -> Result<Value, TraitError> {
    match package {
        "mpi4py" => Ok(Value::from(true)),
        "" => Ok(Value::from(false)),
        _ => Err(wrong(assignment, "mpi4py, or empty")),
    }
}

/// `MPI`, `MPIEngineSetLauncher`, `ipyparallel.cluster.launcher.MPIControllerLauncher`: the launcher's abbreviation.
pub fn launcher_name(text: &str) -> Result<String, TraitError> {
    let class = text.rsplit(['.', ':']).next().unwrap_or(text);
    let mut name = class;
    for end in ["Launcher", "EngineSet", "Controller"] {
        name = name.strip_suffix(end).unwrap_or(name);
    }
    let name = match name.to_ascii_lowercase().as_str() {
        "mpiexec" => "mpi".to_owned(),
        other => other.to_owned(),
    };
    if LAUNCHERS.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(TraitError::UnknownLauncher {
        near: similar(&name, LAUNCHERS.iter().copied()).into_iter().next(),
        found: text.to_owned(),
    })
}

fn wrong(assignment: &Assignment, expected: &'static str) -> TraitError {
    let found = match &assignment.action {
        Action::Set(Written::Text(texts)) => format!("{:?}", texts.join(" ")),
        Action::Set(Written::Literal(literal)) => literal.to_string(),
        Action::Extend(_) | Action::Prepend(_) | Action::Update(_) => "a change of it".to_owned(),
    };
    TraitError::WrongValue {
        class: assignment.class.clone(),
        name: assignment.name.clone(),
        expected,
        found,
    }
}

#[cfg(test)]
#[path = "traitlets_tests.rs"]
mod tests;
