//! `ipcluster man`: writes the manual pages, for packages.

use std::path::PathBuf;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::{CalledAs, Cli, Failure, exit_code};

#[derive(Args, Clone, Debug)]
pub(super) struct ManArgs {
    /// The folder that gets a page for each command; it is made if it is not there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Where settings and what belongs to clusters stand.
const FILES: &[(&str, &str)] = &[
    ("~/.ipython/profile_NAME/", "the folder of a profile"),
    (
        "~/.ipython/profile_NAME/ipcluster.toml",
        "its settings; `ipcluster profile create` writes one in which everything is explained",
    ),
    (
        "~/.ipython/profile_NAME/security/",
        "connection files for clients and engines, which hold the key",
    ),
    ("~/.ipython/profile_NAME/log/", "what daemons log"),
    (
        "~/.config/ipcluster/ipcluster.toml",
        "settings for all of a user's profiles",
    ),
    ("/etc/ipcluster/ipcluster.toml", "settings for everybody"),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "IPYTHONDIR",
        "the folder of profiles, in place of ~/.ipython",
    ),
    ("IPP_PROFILE_DIR", "the folder of the profile"),
    ("IPP_CLUSTER_ID", "the cluster, if a profile has several"),
    (
        "IPP_CONNECTION_INFO",
        "of engines: the content of a connection file",
    ),
    ("VIRTUAL_ENV", "the Python of engines is the one there"),
];

/// Writes them.
pub(super) fn run(args: &ManArgs) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.folder).map_err(|error| {
        Failure::failed(format!("{} cannot be made: {error}", args.folder.display()))
    })?;
    for (name, page) in pages() {
        let path = args.folder.join(name);
        std::fs::write(&path, page)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

/// Names of files, and what stands there.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut whole = Cli::command().disable_help_subcommand(true);
    whole.build();
    gather(&whole, &mut found);
    for program in CalledAs::OTHERS {
        let mut text = page(program.command());
        if let Some(verb) = program.subcommand() {
            see_also(&format!("ipcluster-{verb}"), &mut text);
        }
        found.push((format!("{}.1", program.name()), text));
    }
    found
}

fn gather(command: &Command, found: &mut Vec<(String, Vec<u8>)>) {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let mut text = page(command.clone());
    if command.get_name() == "ipcluster" {
        let codes: Vec<(String, &str)> = exit_code::MEANINGS
            .iter()
            .map(|(code, meaning)| (code.to_string(), *meaning))
            .collect();
        table("EXIT STATUS", &codes, &mut text);
        table("FILES", FILES, &mut text);
        table("ENVIRONMENT", ENVIRONMENT, &mut text);
    } else {
        see_also("ipcluster", &mut text);
    }
    found.push((format!("{name}.1"), text));
    let verbs = command.get_subcommands();
    for verb in verbs.filter(|verb| !verb.is_hide_set()) {
        gather(verb, found);
    }
}

fn page(command: Command) -> Vec<u8> {
    let mut text = Vec::new();
    Man::new(command)
        .source(concat!("ipcluster ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands")
        .render(&mut text)
        .expect("nothing can keep memory from being written to");
    text
}

fn table(heading: &str, rows: &[(impl AsRef<str>, &str)], text: &mut Vec<u8>) {
    let mut roff = Roff::new();
    roff.control("SH", [heading]);
    for (name, meaning) in rows {
        roff.control("TP", []);
        roff.text([bold(name.as_ref())]);
        roff.text([roman(*meaning)]);
    }
    text.extend(roff.to_roff().into_bytes());
}

fn see_also(page: &str, text: &mut Vec<u8>) {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold(page), roman("(1)")]);
    text.extend(roff.to_roff().into_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str) -> String {
        let pages = pages();
        let (_, text) = pages.iter().find(|(found, _)| found == name).unwrap();
        String::from_utf8(text.clone()).unwrap()
    }

    #[test]
    fn every_command_that_people_type_has_a_page() {
        let names: Vec<String> = pages().into_iter().map(|(name, _)| name).collect();
        for name in [
            "ipcluster.1",
            "ipcluster-start.1",
            "ipcluster-db-query.1",
            "ipcontroller.1",
            "ipengine.1",
        ] {
            assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
        }
        assert!(!names.iter().any(|name| name == "ipcluster-man.1"));
    }

    #[test]
    fn pages_have_flags_exit_codes_and_names_of_their_own() {
        let main = text("ipcluster.1");
        assert!(main.contains(".TH ipcluster 1") && main.contains("EXIT STATUS"));
        assert!(main.contains("ipcluster\\-start(1)"), "{main}");
        let controller = text("ipcontroller.1");
        assert!(controller.contains(".TH ipcontroller 1") && controller.contains("sqlitedb"));
        assert!(
            !controller.contains("over\\-stdin") && !text("ipengine.1").contains("over\\-stdin")
        );
    }
}
