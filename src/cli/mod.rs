//! Parses the command line, and says in exit codes how it went. One file per verb.

pub mod args;
pub mod exit_code;

mod clean;
mod completions;
mod controller;
mod controller_args;
mod controller_part;
mod curve;
mod dashboard;
mod database;
mod db;
mod doctor;
mod engine;
mod engines;
mod launch_args;
mod launchers;
mod lifeline;
mod list;
mod logs;
mod man;
mod output;
mod parts;
mod profile;
mod report;
mod restart;
mod setup;
mod start;
mod status;
mod stop;
mod supervise;
mod target;
mod tasks;
mod top;
mod watched;
mod written_files;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::args::{Rewritten, rewrite};
use crate::profile::settings::EngineSettings;

pub use exit_code::Failure;

/// Starts, runs and watches IPython.parallel clusters
///
/// One executable in place of ipyparallel's ipcluster, ipcontroller and ipengine, whose wire protocol it speaks:
/// Python's ipyparallel.Client works unchanged. Called as ipcontroller or ipengine, it is that program.
#[derive(Parser, Debug)]
#[command(
    name = "ipcluster",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Settings of ipyparallel's programs (--Class.trait=value) are taken as well."
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Start a cluster: a controller on this machine, and engines here or elsewhere
    Start(start::StartArgs),
    /// Stop a cluster, and wait until all of its processes are gone
    Stop(stop::StopArgs),
    /// Start a cluster, its engines or some of them again
    Restart(restart::RestartArgs),
    /// Add engines to a cluster that runs
    Engines(engines::EnginesArgs),
    /// List clusters
    List(list::ListArgs),
    /// Show a cluster's controller, engines, queues and database
    Status(status::StatusArgs),
    /// Show what a cluster's programs have written
    Logs(logs::LogsArgs),
    /// Print the address of a cluster's status page, or open it in a browser
    Dashboard(dashboard::DashboardArgs),
    /// Show in the terminal what a cluster does
    Top(top::TopArgs),
    /// List tasks that have ended, and go on as they end
    Tasks(tasks::TasksArgs),
    /// Write a page with the task stream and the figures of a run, for one that runs or has ended
    Report(report::ReportArgs),
    /// Remove what clusters that have ended left behind: files and logs
    Clean(clean::CleanArgs),
    /// Look for what would keep a cluster from working, and say what to do
    Doctor(doctor::DoctorArgs),
    /// Look into the records of tasks and results, and drop them
    Db(db::DbArgs),
    /// Make, list, show and check profiles
    Profile(profile::ProfileArgs),
    /// Run a controller: the hub and the schedulers that clients and engines connect to
    Controller(controller::ControllerArgs),
    /// Run engines on this machine
    Engine(engine::EngineArgs),
    /// Print the completions of commands and flags for a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::ManArgs),
}

/// The programs that this one is, by the name under which it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CalledAs {
    Ipcluster,
    Ipcontroller,
    Ipengine,
}

/// Runs the program. The first argument is the name under which it was called.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    // A panic of one thread must not leave the others half alive.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    match run(argv) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(argv: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let program = CalledAs::of(&argv);
    let argv = program.arguments(argv);
    let command = program.command();
    let rewritten = rewrite(&command, argv).map_err(|error| Failure::usage(error.to_string()))?;
    let parsed = command.clone().try_get_matches_from(&rewritten.args);
    match parsed.and_then(|matches| program.verb(&matches)) {
        Ok(verb) => verb.run(rewritten),
        Err(error) => show(&command, &rewritten.args, &error),
    }
}

/// What `ipcluster controller` will make of these arguments.
fn controller_args(
    arguments: &[OsString],
) -> Result<(controller::ControllerArgs, Rewritten), Failure> {
    let program = CalledAs::Ipcluster;
    let command = program.command();
    let before = ["ipcluster", "controller"].map(OsString::from);
    let argv = before.into_iter().chain(arguments.iter().cloned());
    let rewritten = rewrite(&command, argv).map_err(|error| Failure::usage(error.to_string()))?;
    let parsed = command.clone().try_get_matches_from(&rewritten.args);
    match parsed.and_then(|matches| program.verb(&matches)) {
        Ok(Verb::Controller(args)) => Ok((args, rewritten)),
        Ok(_) => unreachable!("the first word is the verb"),
        Err(error) => {
            show(&command, &rewritten.args, &error)?;
            // Help is no reason to start anything.
            Err(Failure::silent(0))
        }
    }
}

impl Verb {
    fn run(self, rewritten: Rewritten) -> Result<(), Failure> {
        match self {
            Self::Start(args) => start::run(&args, rewritten),
            Self::Stop(args) => stop::run(&args, rewritten),
            Self::Restart(args) => restart::run(&args, rewritten),
            Self::Engines(args) => engines::run(&args, rewritten),
            Self::List(args) => list::run(&args, rewritten),
            Self::Status(args) => status::run(&args, rewritten),
            Self::Logs(args) => logs::run(&args, rewritten),
            Self::Dashboard(args) => dashboard::run(&args, rewritten),
            Self::Top(args) => top::run(&args, rewritten),
            Self::Tasks(args) => tasks::run(&args, rewritten),
            Self::Report(args) => report::run(&args, rewritten),
            Self::Clean(args) => clean::run(&args, rewritten),
            Self::Doctor(args) => doctor::run(&args, rewritten),
            Self::Db(args) => db::run(&args, rewritten),
            Self::Profile(args) => profile::run(&args, rewritten),
            Self::Controller(args) => controller::run(&args, rewritten),
            Self::Engine(args) => engine::run(&args, rewritten),
            Self::Completions(args) => completions::run(&args),
            Self::Man(args) => man::run(&args),
        }
    }
}

/// Help and version are no failures; what is wrong with an argument is said with what is near it.
fn show(command: &clap::Command, args: &[OsString], error: &clap::Error) -> Result<(), Failure> {
    use clap::error::{ContextKind, ContextValue};
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg)
    {
        return Err(Failure::usage(unknown_argument(command, args, unknown)));
    }
    // Nobody reads it when the output is closed.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(()),
        _ => Err(Failure::silent(exit_code::USAGE)),
    }
}

/// What stands in another place here than with ipyparallel.
const ELSEWHERE: &[(&str, &str)] = &[
    ("show-config", "ipcluster profile show --resolved"),
    (
        "show-config-json",
        "ipcluster profile show --resolved -o json",
    ),
];

/// clap compares beginnings; people swap and drop letters.
fn unknown_argument(command: &clap::Command, args: &[OsString], unknown: &str) -> String {
    let mut verb = command;
    let mut path = command.get_name().to_owned();
    for word in args.iter().skip(1).map_while(|word| word.to_str()) {
        let Some(inner) = verb.find_subcommand(word) else {
            break;
        };
        verb = inner;
        path = format!("{path} {word}");
    }
    let name = unknown.trim_start_matches('-');
    if let Some((_, there)) = ELSEWHERE.iter().find(|(known, _)| *known == name) {
        return format!("`{path}` knows no {unknown}: use `{there}`");
    }
    if let Some(whose) = flag_of_another(command, verb, name) {
        return format!("`{path}` knows no {unknown}: {whose}");
    }
    let near = verb
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .filter_map(|argument| argument.get_long())
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min();
    let near = near
        .map(|(_, known)| format!(", did you mean --{known}?"))
        .unwrap_or_default();
    format!("`{path}` knows no {unknown}{near}; `{path} --help` shows what it knows")
}

/// Whose flag it is, if not this verb's, and how a cluster's programs are given it.
fn flag_of_another(command: &clap::Command, verb: &clap::Command, name: &str) -> Option<String> {
    let takes = |program: &str| {
        let other = command.find_subcommand(program)?;
        let is_it = |argument: &&clap::Arg| {
            let is_short = argument
                .get_short()
                .is_some_and(|short| name == short.to_string());
            !argument.is_hide_set() && (argument.get_long() == Some(name) || is_short)
        };
        let argument = other.get_arguments().find(is_it)?;
        let dashes = if name.len() == 1 { "-" } else { "--" };
        let value = if argument.get_action().takes_values() {
            "=…"
        } else {
            ""
        };
        Some(format!("{dashes}{name}{value}"))
    };
    match verb.get_name() {
        "start" | "engines" => {
            if name == "mpi" {
                return Some(
                    "--engines=mpi starts the engines as the ranks of one program".to_owned(),
                );
            }
            if let Some(flag) = takes("engine") {
                let key = name.replace('-', "_");
                let settings = serde_json::to_value(EngineSettings::default()).ok()?;
                let setting = settings.get(&key).map_or_else(String::new, |_| {
                    format!("is `{key}` of [engine] in the profile's ipcluster.toml, and ")
                });
                return Some(format!(
                    "it is a flag of `ipcluster engine`; for the engines of a cluster it {setting}may stand in `engine_args` \
                     of [cluster] there: engine_args = [\"{flag}\"]"
                ));
            }
            takes("controller").map(|_| {
                "it is a flag of `ipcluster controller`, and of `ipcluster start`, which hands it on".to_owned()
            })
        }
        "controller" | "engine" => ["engine", "controller", "start"]
            .into_iter()
            .find(|program| takes(program).is_some())
            .map(|program| format!("it is a flag of `ipcluster {program}`")),
        _ => None,
    }
}

/// Of an option that is given twice, as Python's programs have it: what settings have for a part goes before what the
/// command line says.
fn last_word_counts(command: clap::Command) -> clap::Command {
    command
        .args_override_self(true)
        .mut_subcommands(last_word_counts)
}

impl CalledAs {
    /// All but the usual one.
    const OTHERS: [Self; 2] = [Self::Ipcontroller, Self::Ipengine];

    fn of(argv: &[OsString]) -> Self {
        let called = argv
            .first()
            .and_then(|name| Path::new(name).file_stem())
            .and_then(|name| name.to_str());
        called.map_or(Self::Ipcluster, Self::named)
    }

    /// Any other name is the usual one.
    fn named(name: &str) -> Self {
        let other = |program: &Self| program.name() == name;
        Self::OTHERS
            .into_iter()
            .find(other)
            .unwrap_or(Self::Ipcluster)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ipcluster => "ipcluster",
            Self::Ipcontroller => "ipcontroller",
            Self::Ipengine => "ipengine",
        }
    }

    /// The subcommand of `ipcluster` that it is.
    const fn subcommand(self) -> Option<&'static str> {
        match self {
            Self::Ipcluster => None,
            Self::Ipcontroller => Some("controller"),
            Self::Ipengine => Some("engine"),
        }
    }

    /// What it takes.
    fn command(self) -> clap::Command {
        let ipcluster = last_word_counts(Cli::command());
        let Some(verb) = self.subcommand() else {
            return ipcluster;
        };
        ipcluster
            .find_subcommand(verb)
            .expect("every other name stands for a verb")
            .clone()
            .name(self.name())
            .version(env!("CARGO_PKG_VERSION"))
    }

    /// `ipcluster cluster start` is `ipcluster start`.
    fn arguments(self, mut argv: Vec<OsString>) -> Vec<OsString> {
        if self == Self::Ipcluster && argv.get(1).is_some_and(|word| word == "cluster") {
            argv.remove(1);
        }
        argv
    }

    fn verb(self, matches: &clap::ArgMatches) -> Result<Verb, clap::Error> {
        match self {
            Self::Ipcluster => Cli::from_arg_matches(matches).map(|cli| cli.verb),
            Self::Ipcontroller => {
                controller::ControllerArgs::from_arg_matches(matches).map(Verb::Controller)
            }
            Self::Ipengine => engine::EngineArgs::from_arg_matches(matches).map(Verb::Engine),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_are_well_formed() {
        Cli::command().debug_assert();
        for program in CalledAs::OTHERS {
            program.command().debug_assert();
        }
    }

    #[test]
    fn other_names_are_programs_of_their_own() {
        let mut ipengine = CalledAs::Ipengine.command();
        assert!(
            ipengine
                .render_usage()
                .to_string()
                .contains("ipengine [OPTIONS]")
        );
        assert!(ipengine.render_version().starts_with("ipengine "));
        let matches = ipengine
            .try_get_matches_from(["ipengine", "-n", "2"])
            .unwrap();
        assert!(matches!(
            CalledAs::Ipengine.verb(&matches),
            Ok(Verb::Engine(_))
        ));
        assert!(
            CalledAs::Ipengine
                .command()
                .try_get_matches_from(["ipengine", "engine"])
                .is_err()
        );
    }

    #[test]
    fn the_name_of_the_executable_is_a_program() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        let called = |line| CalledAs::of(&words(line));
        assert_eq!(called("/bin/ipengine -n 2"), CalledAs::Ipengine);
        assert_eq!(called("ipcontroller"), CalledAs::Ipcontroller);
        assert_eq!(called("ipcluster start"), CalledAs::Ipcluster);
        assert_eq!(called("/tmp/other start"), CalledAs::Ipcluster);
        let cleaned = |line| CalledAs::Ipcluster.arguments(words(line));
        assert_eq!(cleaned("ipcluster cluster start"), words("ipcluster start"));
        assert_eq!(cleaned("ipcluster start"), words("ipcluster start"));
    }
}
