//! Rewrites an argument list of ipyparallel's style for clap. Pure.
//!
//! traitlets takes any `--Class.trait=value` (also with a space, or with one dash), `--n=4` for `-n 4`, and
//! `--flag=True`; it hands what follows `--` on untouched. `start` takes the controller's flags as well, and hands them
//! on. Everything else is left to clap, which refuses what it does not know and offers the nearest name.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{ArgAction, Command};
use thiserror::Error;

use crate::profile::settings::Origin;
use crate::profile::traitlets::{Action, Assignment, Written, python_bool};

/// What became of an argument list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewritten {
    /// For clap, with the program's name.
    pub args: Vec<OsString>,
    /// `--Class.trait=value`, in the order of their first appearance; repetitions are collected.
    pub traits: Vec<Assignment>,
    /// Flags that were given as `--flag=False`, by name.
    pub negated: Vec<String>,
    /// What followed `--`, if it was there, and before it the flags that are another command's.
    pub rest: Option<Vec<OsString>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ArgvError {
    #[error("{argument} needs a value: write {argument}=VALUE")]
    MissingValue { argument: String },
    #[error("{argument} is a switch: it takes True or False, not {value:?}")]
    NoSwitch { argument: String, value: String },
}

/// Traits that must be known before any settings are read, and the arguments for them.
const EARLY_TRAITS: &[(&str, &str)] = &[
    ("profile", "profile"),
    ("ipython_dir", "ipython-dir"),
    ("cluster_id", "cluster-id"),
    ("extra_config_file", "config"),
];

/// The applications that have them.
const APPLICATIONS: &[&str] = &[
    "IPController",
    "IPControllerApp",
    "IPEngine",
    "IPEngineApp",
    "IPCluster",
    "IPClusterApp",
    "IPClusterStart",
    "IPClusterStop",
    "IPClusterEngines",
    "IPClusterList",
    "IPClusterClean",
    "BaseParallelApplication",
    "BaseIPythonApplication",
    "Application",
];

/// Traits of single subcommands, and the arguments for them.
const VERB_TRAITS: &[(&str, &str)] = &[
    ("ProfileDir.location", "profile-dir"),
    ("IPClusterStop.signal", "signal"),
    ("IPClusterStop.all_cluster_ids", "all"),
    ("IPClusterList.output_format", "o"),
    ("IPClusterClean.force", "force"),
    ("IPClusterClean.all_profiles", "all"),
];

/// A command that starts another one, and takes its flags where it has none of that name itself.
const HANDS_ON: (&str, &str) = ("start", "controller");

/// What switches of today once had for a value that says yes: `ipengine --mpi=mpi4py`.
const FORMER_VALUES: &[(&str, &str)] = &[("mpi", "mpi4py")];

/// Rewrites `argv`, whose first item is the program's name, for this command and its subcommands.
pub fn rewrite(
    root: &Command,
    argv: impl IntoIterator<Item = OsString>,
) -> Result<Rewritten, ArgvError> {
    let mut words = argv.into_iter().peekable();
    let mut rewritten = Rewritten::default();
    rewritten.args.extend(words.next());

    let mut command = root;
    let mut grammar = Grammar::default();
    grammar.add(command);
    let mut started = Grammar::default();
    let mut handed_on = Vec::new();
    while let Some(word) = words.next() {
        if word == "--" {
            rewritten.rest = Some(words.collect());
            break;
        }
        let word = unquoted(word);
        let subcommand = word.to_str().and_then(|name| command.find_subcommand(name));
        if let Some(subcommand) = subcommand {
            command = subcommand;
            grammar.add(command);
            if command.get_name() == HANDS_ON.0
                && let Some(other) = root.find_subcommand(HANDS_ON.1)
            {
                started.add(other);
            }
            rewritten.args.push(word);
            continue;
        }
        let Some(option) = word.to_str().and_then(Word::parse) else {
            rewritten.args.push(word);
            continue;
        };
        if option.name == "help-all" && grammar.takes("help-all").is_none() {
            rewritten.args.push("--help".into());
        } else if option.name.contains('.') {
            let value = match option.value {
                Some(value) => value.to_owned(),
                None => words
                    .next_if(is_value)
                    .map(|value| value.to_string_lossy().into_owned())
                    .ok_or_else(|| ArgvError::MissingValue {
                        argument: format!("--{}", option.name),
                    })?,
            };
            rewritten.take_trait(option.name, value, &grammar)?;
        } else if let (None, Some(takes)) = (grammar.takes(option.name), started.takes(option.name))
        {
            let value = match (takes, option.value) {
                (Takes::Value, None) => words.next_if(is_value),
                _ => None,
            };
            handed_on.push(match value {
                Some(value) => {
                    let mut joined = word;
                    joined.push("=");
                    joined.push(value);
                    joined
                }
                None => word,
            });
        } else {
            let next = words.peek().and_then(|next| next.to_str());
            if rewritten.take_option(&option, &word, next, &grammar)? {
                words.next();
            }
        }
    }
    if !handed_on.is_empty() {
        handed_on.extend(rewritten.rest.take().unwrap_or_default());
        rewritten.rest = Some(handed_on);
    }
    Ok(rewritten)
}

/// `--name='value'`, where no shell has taken the quotes away: lists of arguments in settings have them, and traitlets takes
/// them for nobody's (`Unicode.from_string`). What is said of traits is read with its quotes.
fn unquoted(word: OsString) -> OsString {
    let plain = word.to_str().and_then(|text| {
        let (name, value) = text.split_once('=')?;
        let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let value = value.strip_prefix(quote)?.strip_suffix(quote)?;
        (name.starts_with('-') && !name.contains('.')).then(|| format!("{name}={value}"))
    });
    plain.map_or(word, OsString::from)
}

impl Rewritten {
    fn take_trait(
        &mut self,
        name: &str,
        value: String,
        grammar: &Grammar,
    ) -> Result<(), ArgvError> {
        let Some((class, trait_)) = name.rsplit_once('.') else {
            return Ok(());
        };
        // `--Parent.Class.trait` says of which Class it speaks; there is only one here.
        let class = class.rsplit('.').next().unwrap_or(class);
        let early = EARLY_TRAITS
            .iter()
            .find(|(known, _)| *known == trait_ && APPLICATIONS.contains(&class));
        let full = format!("{class}.{trait_}");
        let verb = VERB_TRAITS.iter().find(|(known, _)| *known == full);
        if let Some((_, argument)) = early.or(verb)
            && grammar.takes(argument).is_some()
        {
            let option = Word {
                dashes: "--",
                name: argument,
                value: Some(&value),
            };
            let word = OsString::from(format!("--{argument}={value}"));
            return self.take_option(&option, &word, None, grammar).map(|_| ());
        }
        let known = self
            .traits
            .iter_mut()
            .find(|known| known.class == class && known.name == trait_);
        match known.map(|known| &mut known.action) {
            Some(Action::Set(Written::Text(texts))) => texts.push(value),
            _ => self.traits.push(Assignment {
                class: class.to_owned(),
                name: trait_.to_owned(),
                action: Action::Set(Written::Text(vec![value])),
                origin: Origin::CommandLine(format!("--{full}")),
            }),
        }
        Ok(())
    }

    /// True when the next word belongs to this option, and was taken.
    fn take_option(
        &mut self,
        option: &Word<'_>,
        word: &OsString,
        next: Option<&str>,
        grammar: &Grammar,
    ) -> Result<bool, ArgvError> {
        let Word {
            dashes,
            name,
            value,
        } = option;
        // `--n=4`: one letter with two dashes.
        let one_letter = name.chars().count() == 1;
        let dashes = if one_letter { "-" } else { dashes };
        let argument = format!("{dashes}{name}");
        match (grammar.takes(name), value) {
            (Some(Takes::Nothing), Some(value)) if FORMER_VALUES.contains(&(name, value)) => {
                self.args.push(argument.into());
            }
            (Some(Takes::Nothing), Some(value)) => match python_bool(value) {
                Some(true) => self.args.push(argument.into()),
                Some(false) => {
                    let opposite = format!("no-{name}");
                    if grammar.takes(&opposite).is_some() {
                        self.args.push(format!("--{opposite}").into());
                    } else {
                        self.negated.push((*name).to_owned());
                    }
                }
                None => {
                    return Err(ArgvError::NoSwitch {
                        argument,
                        value: (*value).to_owned(),
                    });
                }
            },
            (Some(_), Some(value)) if one_letter => {
                self.args.push(format!("{argument}={value}").into());
            }
            (Some(Takes::Perhaps), None) => {
                let is_switch = next.is_some_and(|next| python_bool(next).is_some());
                let joined = next.filter(|_| is_switch);
                self.args.push(match joined {
                    Some(value) => format!("{argument}={value}").into(),
                    None => argument.into(),
                });
                return Ok(joined.is_some());
            }
            (Some(Takes::Value), None) => {
                // With an equals sign, or clap would take it for an option.
                let value = next.filter(|next| is_value(&OsString::from(next)));
                match value {
                    Some(value) if value.starts_with('-') && value.len() > 1 => {
                        self.args.push(format!("{argument}={value}").into());
                    }
                    Some(value) => {
                        self.args.push(argument.into());
                        self.args.push(value.into());
                    }
                    None => self.args.push(argument.into()),
                }
                return Ok(value.is_some());
            }
            (Some(Takes::Nothing), None) if one_letter => self.args.push(argument.into()),
            _ => self.args.push(word.clone()),
        }
        Ok(false)
    }
}

/// `--name`, `--name=value`, `-name.other=value`.
struct Word<'a> {
    dashes: &'static str,
    name: &'a str,
    value: Option<&'a str>,
}

impl<'a> Word<'a> {
    fn parse(word: &'a str) -> Option<Self> {
        let (dashes, rest) = match word.strip_prefix("--") {
            Some(rest) => ("--", rest),
            None => ("-", word.strip_prefix('-')?),
        };
        let (name, value) = match rest.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (rest, None),
        };
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
        let is_name = name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'));
        (begins && is_name).then_some(Self {
            dashes,
            name,
            value,
        })
    }
}

/// Can this word be the value of the option before it? Not if it looks like an option itself; negative numbers and
/// words with spaces do not, as in argparse.
fn is_value(word: &OsString) -> bool {
    let Some(text) = word.to_str() else {
        return true;
    };
    match text.strip_prefix('-') {
        None | Some("") => true,
        Some(rest) => {
            rest.parse::<f64>().is_ok() || (text.contains(' ') && Word::parse(text).is_none())
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    /// `--flag` or `--flag=value`.
    Perhaps,
}

/// What the options of a command take, by long name, alias, or letter.
#[derive(Default)]
struct Grammar(BTreeMap<String, Takes>);

impl Grammar {
    fn add(&mut self, command: &Command) {
        for arg in command.get_arguments() {
            let takes = match arg.get_action() {
                ArgAction::Set | ArgAction::Append => match arg.get_num_args() {
                    Some(range) if range.min_values() == 0 => Takes::Perhaps,
                    _ => Takes::Value,
                },
                _ => Takes::Nothing,
            };
            let longs = arg.get_long_and_visible_aliases().unwrap_or_default();
            let hidden = arg.get_all_aliases().unwrap_or_default();
            let shorts = arg.get_short_and_visible_aliases().unwrap_or_default();
            let names = longs.into_iter().chain(hidden).map(str::to_owned);
            for name in names.chain(shorts.into_iter().map(String::from)) {
                self.0.insert(name, takes);
            }
        }
    }

    fn takes(&self, name: &str) -> Option<Takes> {
        self.0.get(name).copied()
    }
}

#[cfg(test)]
#[path = "argv_tests.rs"]
mod tests;
