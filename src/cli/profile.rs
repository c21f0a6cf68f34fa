//! `ipcluster profile create | list | show | path | check | import`.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cli::args::{CommonArgs, Environment, ResolvedCommon, Rewritten};
use crate::cli::{Failure, exit_code};
use crate::os::files::write_private;
use crate::profile::dir::ProfileDir;
use crate::profile::settings::{Resolved, import, load};
use crate::profile::templates;
use crate::profile::traitlets::Program;

#[derive(Args, Clone, Debug)]
pub(super) struct ProfileArgs {
    #[command(subcommand)]
    verb: ProfileVerb,
}

#[derive(Subcommand, Clone, Debug)]
enum ProfileVerb {
    /// Make a profile, with a settings file in which everything is explained
    Create {
        /// The profile's name
        name: Option<String>,
        /// The template to copy
        #[arg(long, value_name = "TEMPLATE")]
        from: Option<String>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// List profiles, and the templates for new ones
    List {
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Show a profile's settings
    Show {
        /// The profile's name
        name: Option<String>,
        /// Show every setting that is in force, and where it comes from
        #[arg(long)]
        resolved: bool,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Print the path of a profile's settings file
    Path {
        /// The profile's name
        name: Option<String>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Check a profile's settings
    Check {
        /// The profile's name
        name: Option<String>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Turn ipyparallel's ip*_config.py and .json of a profile into its settings file
    Import {
        /// The profile's name
        name: Option<String>,
        /// Replace a settings file that is there
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        common: CommonArgs,
    },
}

const SETTINGS_FILE: &str = "ipcluster.toml";

pub(super) fn run(args: &ProfileArgs, rewritten: Rewritten) -> Result<(), Failure> {
    match &args.verb {
        ProfileVerb::Create { name, from, common } => {
            create(&resolve(common, name.as_deref())?, from.as_deref())
        }
        ProfileVerb::List { common } => list(&resolve(common, None)?),
        ProfileVerb::Show {
            name,
            resolved,
            common,
        } => show(&resolve(common, name.as_deref())?, rewritten, *resolved),
        ProfileVerb::Path { name, common } => {
            let profile = resolve(common, name.as_deref())?.find_profile()?;
            say(&format!(
                "{}\n",
                profile.location().join(SETTINGS_FILE).display()
            ))
        }
        ProfileVerb::Check { name, common } => check(&resolve(common, name.as_deref())?, rewritten),
        ProfileVerb::Import {
            name,
            force,
            common,
        } => carry_over(&resolve(common, name.as_deref())?, *force),
    }
}

/// The profile may be named as a word of its own, or with --profile.
fn resolve(common: &CommonArgs, name: Option<&str>) -> Result<ResolvedCommon, Failure> {
    let mut common = common.clone();
    if let Some(name) = name {
        common.profile = Some(name.to_owned());
    }
    Ok(common.resolve(&Environment::of_process())?)
}

fn create(common: &ResolvedCommon, from: Option<&str>) -> Result<(), Failure> {
    let (profile, is_new) = match from {
        Some(template) => ProfileDir::create_from(&common.lookup, template)?,
        None => ProfileDir::find_or_create(&common.lookup)?,
    };
    if !is_new {
        return Err(Failure::failed(format!(
            "there is a profile at {} already; its settings are in {SETTINGS_FILE}",
            profile.location().display()
        )));
    }
    say(&format!(
        "created {}\n",
        profile.location().join(SETTINGS_FILE).display()
    ))
}

fn list(common: &ResolvedCommon) -> Result<(), Failure> {
    let ipython_dir = common.lookup.ipython_dir()?;
    let profiles = ProfileDir::all(&ipython_dir).into_iter().map(|profile| {
        let place = profile.location().display().to_string();
        line(&profile.abbreviated(&ipython_dir), &place)
    });
    let templates = templates::all()
        .iter()
        .map(|template| line(template.name, template.purpose));
    say(&format!(
        "PROFILES\n{}TEMPLATES\n{}",
        profiles.collect::<String>(),
        templates.collect::<String>()
    ))
}

fn line(name: &str, about: &str) -> String {
    format!("  {name:16} {about}\n")
}

fn show(common: &ResolvedCommon, rewritten: Rewritten, resolved: bool) -> Result<(), Failure> {
    let profile = common.find_profile()?;
    if !resolved {
        let path = profile.location().join(SETTINGS_FILE);
        return say(&crate::os::files::read_text(&path)?);
    }
    let settings = settings(common, &profile, rewritten)?;
    let text: String = settings
        .show()
        .into_iter()
        .map(|shown| {
            let value = match &shown.value {
                Value::Null => "(not set)".to_owned(),
                value => value.to_string(),
            };
            format!("{} = {value}    # {}\n", shown.key, shown.origin)
        })
        .collect();
    say(&text)
}

fn check(common: &ResolvedCommon, rewritten: Rewritten) -> Result<(), Failure> {
    let profile = common.find_profile()?;
    let settings = settings(common, &profile, rewritten)?;
    if settings.warnings.is_empty() {
        return say(&format!(
            "{}: nothing to complain about\n",
            profile.location().display()
        ));
    }
    let warnings: String = settings
        .warnings
        .iter()
        .map(|warning| format!("{warning}\n"))
        .collect();
    say(&warnings)?;
    Err(Failure::silent(exit_code::FAILED))
}

fn carry_over(common: &ResolvedCommon, force: bool) -> Result<(), Failure> {
    let profile = common.find_profile()?;
    let path = profile.location().join(SETTINGS_FILE);
    if path.exists() && !force {
        return Err(Failure::failed(format!(
            "{} is there already; --force replaces it",
            path.display()
        )));
    }
    let imported = import(profile.location()).map_err(|error| Failure::usage(error.to_string()))?;
    // It may hold keys.
    write_private(&path, imported.toml.as_bytes())?;
    for warning in &imported.warnings {
        eprintln!("ipcluster: not carried over: {warning}");
    }
    say(&format!("wrote {}\n", path.display()))
}

fn settings(
    common: &ResolvedCommon,
    profile: &ProfileDir,
    rewritten: Rewritten,
) -> Result<Resolved, Failure> {
    let sources = common.sources(Program::All, Some(profile), rewritten.traits);
    load(&sources).map_err(|error| Failure::usage(error.to_string()))
}

fn say(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // `ipcluster profile show | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
