//! `ipcluster profile create | list | show | path | check | import`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::args::{CommonArgs, Environment, ResolvedCommon, Rewritten};
use crate::cli::output::{FormatArgs, say, say_json};
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
        format: FormatArgs,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// List profiles, and the templates for new ones
    List {
        #[command(flatten)]
        format: FormatArgs,
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
        format: FormatArgs,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Print the path of a profile's settings file
    Path {
        /// The profile's name
        name: Option<String>,
        #[command(flatten)]
        format: FormatArgs,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Check a profile's settings
    Check {
        /// The profile's name
        name: Option<String>,
        #[command(flatten)]
        format: FormatArgs,
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
        /// Rename ipyparallel's files, which go before the settings file as long as they are there: ipyparallel's own
        /// programs do not find them then, either
        #[arg(long)]
        set_aside: bool,
        #[command(flatten)]
        format: FormatArgs,
        #[command(flatten)]
        common: CommonArgs,
    },
}

const SETTINGS_FILE: &str = "ipcluster.toml";

pub(super) fn run(args: &ProfileArgs, rewritten: Rewritten) -> Result<(), Failure> {
    match &args.verb {
        ProfileVerb::Create {
            name,
            from,
            format,
            common,
        } => create(&resolve(common, name.as_deref())?, from.as_deref(), format),
        ProfileVerb::List { format, common } => list(&resolve(common, None)?, format),
        ProfileVerb::Show {
            name,
            resolved,
            format,
            common,
        } => show(
            &resolve(common, name.as_deref())?,
            rewritten,
            *resolved,
            format,
        ),
        ProfileVerb::Path {
            name,
            format,
            common,
        } => {
            let profile = resolve(common, name.as_deref())?.find_profile()?;
            let path = profile.location().join(SETTINGS_FILE);
            tell(
                format,
                &json!({ "path": path }),
                &format!("{}\n", path.display()),
            )
        }
        ProfileVerb::Check {
            name,
            format,
            common,
        } => check(&resolve(common, name.as_deref())?, rewritten, format),
        ProfileVerb::Import {
            name,
            force,
            set_aside,
            format,
            common,
        } => carry_over(
            &resolve(common, name.as_deref())?,
            *force,
            *set_aside,
            format,
        ),
    }
}

/// One or the other.
fn tell(format: &FormatArgs, document: &Value, text: &str) -> Result<(), Failure> {
    if format.is_json() {
        say_json(document)?;
    } else {
        say(text)?;
    }
    Ok(())
}

/// The profile may be named as a word of its own, or with --profile.
fn resolve(common: &CommonArgs, name: Option<&str>) -> Result<ResolvedCommon, Failure> {
    let mut common = common.clone();
    if let Some(name) = name {
        common.profile = Some(name.to_owned());
    }
    Ok(common.resolve(&Environment::of_process())?)
}

fn create(common: &ResolvedCommon, from: Option<&str>, format: &FormatArgs) -> Result<(), Failure> {
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
    let path = profile.location().join(SETTINGS_FILE);
    let document = json!({
        "profile": profile.name(),
        "profile_dir": profile.location(),
        "path": path,
    });
    tell(format, &document, &format!("created {}\n", path.display()))
}

fn list(common: &ResolvedCommon, format: &FormatArgs) -> Result<(), Failure> {
    let ipython_dir = common.lookup.ipython_dir()?;
    let profiles: Vec<(String, String)> = ProfileDir::all(&ipython_dir)
        .into_iter()
        .map(|profile| {
            let place = profile.location().display().to_string();
            (profile.abbreviated(&ipython_dir), place)
        })
        .collect();
    let templates = templates::all();
    let document = json!({
        "profiles": profiles
            .iter()
            .map(|(name, place)| json!({ "name": name, "profile_dir": place }))
            .collect::<Vec<_>>(),
        "templates": templates
            .iter()
            .map(|template| json!({ "name": template.name, "purpose": template.purpose }))
            .collect::<Vec<_>>(),
    });
    let profiles = profiles.iter().map(|(name, place)| line(name, place));
    let templates = templates
        .iter()
        .map(|template| line(template.name, template.purpose));
    let text = format!(
        "PROFILES\n{}TEMPLATES\n{}",
        profiles.collect::<String>(),
        templates.collect::<String>()
    );
    tell(format, &document, &text)
}

fn line(name: &str, about: &str) -> String {
    format!("  {name:16} {about}\n")
}

/// With `-o json`: `{path, text}`, or, resolved, `{profile_dir, settings: {KEY: {value, origin}}, warnings}`.
fn show(
    common: &ResolvedCommon,
    rewritten: Rewritten,
    resolved: bool,
    format: &FormatArgs,
) -> Result<(), Failure> {
    let profile = common.find_profile()?;
    if !resolved {
        let path = profile.location().join(SETTINGS_FILE);
        let text = crate::os::files::read_text(&path)?;
        return tell(format, &json!({ "path": path, "text": text }), &text);
    }
    let settings = settings(common, &profile, rewritten)?;
    let shown = settings.show();
    let by_key = shown.iter().map(|shown| {
        let fields = json!({ "value": shown.value, "origin": shown.origin.to_string() });
        (shown.key.to_string(), fields)
    });
    let document = json!({
        "profile_dir": profile.location(),
        "settings": by_key.collect::<serde_json::Map<_, _>>(),
        "warnings": settings.warnings,
    });
    let text: String = shown
        .iter()
        .map(|shown| {
            let value = match &shown.value {
                Value::Null => "(not set)".to_owned(),
                value => value.to_string(),
            };
            format!("{} = {value}    # {}\n", shown.key, shown.origin)
        })
        .collect();
    tell(format, &document, &text)
}

fn check(
    common: &ResolvedCommon,
    rewritten: Rewritten,
    format: &FormatArgs,
) -> Result<(), Failure> {
    let profile = common.find_profile()?;
    let settings = settings(common, &profile, rewritten)?;
    let place = profile.location();
    let is_fine = settings.warnings.is_empty();
    let text = if is_fine {
        format!("{}: nothing to complain about\n", place.display())
    } else {
        let lines = settings.warnings.iter();
        lines.map(|warning| format!("{warning}\n")).collect()
    };
    let document = json!({
        "profile_dir": place,
        "ok": is_fine,
        "warnings": settings.warnings,
    });
    tell(format, &document, &text)?;
    if is_fine {
        return Ok(());
    }
    Err(Failure::silent(exit_code::FAILED))
}

fn carry_over(
    common: &ResolvedCommon,
    force: bool,
    set_aside: bool,
    format: &FormatArgs,
) -> Result<(), Failure> {
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
    let theirs = their_files(profile.location());
    let mut moved = Vec::new();
    for file in &theirs {
        if set_aside {
            moved.push(renamed(file)?);
        } else {
            eprintln!(
                "ipcluster: {} still goes before the settings file where both set a value: move it away (--force \
                 --set-aside does), or leave the settings file as it is",
                file.display()
            );
        }
    }
    let document = json!({
        "path": path,
        "not_carried_over": imported.warnings,
        "still_in_force": if set_aside { Vec::new() } else { theirs },
        "set_aside": moved,
    });
    tell(format, &document, &format!("wrote {}\n", path.display()))
}

/// ipyparallel's files of a profile, which are read besides the settings file. IPython's own is not for us to touch.
fn their_files(folder: &Path) -> Vec<PathBuf> {
    let names = ["ipcluster", "ipcontroller", "ipengine"];
    names
        .iter()
        .flat_map(|name| {
            ["py", "json"].map(|ending| folder.join(format!("{name}_config.{ending}")))
        })
        .filter(|path| path.exists())
        .collect()
}

fn renamed(file: &Path) -> Result<PathBuf, Failure> {
    let mut name = file.as_os_str().to_owned();
    name.push(".imported");
    let aside = PathBuf::from(name);
    std::fs::rename(file, &aside).map_err(|error| {
        Failure::failed(format!(
            "{} cannot be renamed to {}: {error}",
            file.display(),
            aside.display()
        ))
    })?;
    Ok(aside)
}

fn settings(
    common: &ResolvedCommon,
    profile: &ProfileDir,
    rewritten: Rewritten,
) -> Result<Resolved, Failure> {
    let sources = common.sources(Program::All, Some(profile), rewritten.traits);
    load(&sources).map_err(|error| Failure::usage(error.to_string()))
}
