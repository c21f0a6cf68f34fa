//! `ipcluster dashboard`, and what a controller does for its status page.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::setup::{ProfileMust, Setup, set_up};
use crate::cli::{Failure, exit_code};
use crate::controller::{Controller, Sighting};
use crate::os::lock::is_held;
use crate::os::{host, log};
use crate::profile::connection::ConnectionFiles;
use crate::profile::settings::Database;
use crate::profile::traitlets::Program;
use crate::transport::{Mailbox, Sender, mailbox};
use crate::web::{About, Address, AddressFile, Dashboard, Listening, Place, PlaceError, new_token};

#[derive(Args, Clone, Debug)]
pub(super) struct DashboardArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Open it in a browser
    #[arg(long)]
    open: bool,
}

/// Prints the address of a running cluster's status page, or opens it.
pub(super) fn run(args: &DashboardArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let setup = set_up(
        Program::Cluster,
        "ipcluster",
        &args.common,
        rewritten,
        Vec::new(),
        ProfileMust::Exist,
    )?;
    let address = find(&setup)?.ok_or_else(|| none(&setup))?;
    if args.open {
        open(&address)?;
    }
    // Nobody reads it when the output is closed.
    let _ = writeln!(std::io::stdout(), "{}", address.with_token());
    Ok(())
}

/// The address that a running controller has written into the profile.
pub(super) fn find(setup: &Setup) -> Result<Option<Address>, Failure> {
    let security = setup.profile.security_dir();
    let lock = ConnectionFiles::lock(&security, &setup.cluster_id);
    if !is_held(&lock) {
        // One that was killed has left it behind.
        return Ok(None);
    }
    Ok(AddressFile::read(&AddressFile::path(
        &security,
        &setup.cluster_id,
    ))?)
}

pub(super) fn none(setup: &Setup) -> Failure {
    Failure::new(
        exit_code::NO_CLUSTER,
        format!(
            "no cluster of profile {} serves a status page: `ipcluster start --dashboard` starts one that does",
            setup.profile.location().display()
        ),
    )
}

fn open(address: &Address) -> Result<(), Failure> {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    let status = Command::new(program)
        .arg(address.with_token())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let why = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => format!("{program} failed ({status})"),
        Err(error) => format!("{program} cannot be started: {error}"),
    };
    let address = address.with_token();
    Err(Failure::failed(format!("{why}; open {address} by hand")))
}

/// The value of `--dashboard`.
pub(super) fn parse_place(text: &str) -> Result<Place, PlaceError> {
    text.parse()
}

/// A controller's status page.
pub(super) struct Served {
    listening: Option<Listening>,
    address: Address,
    about: About,
    sightings: Sender<Sighting>,
    mailbox: Option<Mailbox<Sighting>>,
    path: std::path::PathBuf,
    file: Option<AddressFile>,
    dashboard: Option<Dashboard>,
}

impl Served {
    /// Takes the port, if a status page is wanted. To be called before there are sockets of which others hear.
    pub(super) fn prepare(setup: &Setup) -> Result<Option<Self>, Failure> {
        let settings = &setup.settings.controller;
        let Some(place) = &settings.dashboard else {
            return Ok(None);
        };
        let place: Place = place.parse().map_err(|error: PlaceError| {
            Failure::usage(format!("controller.dashboard: {error}"))
        })?;
        let token = match &settings.dashboard_token {
            Some(token) if is_token(token) => token.clone(),
            Some(_) => {
                return Err(Failure::usage(
                    "controller.dashboard_token has to have 16 letters and digits at least, and nothing else but - and _",
                ));
            }
            None => new_token(),
        };
        let location = settings.location.clone();
        let names = [host::hostname()].into_iter().chain(location);
        let names = names.chain(Some(place.host.clone())).collect();
        let listening = Listening::bind(&place, token, names)?;
        let (sightings, mailbox) = mailbox()?;
        let profile = &setup.profile;
        let folder = |path: &Path| path.display().to_string();
        Ok(Some(Self {
            address: listening.address(),
            listening: Some(listening),
            about: About {
                profile: match profile.name() {
                    Some(name) => name.to_owned(),
                    None => folder(profile.location()),
                },
                cluster_id: setup.cluster_id.0.clone(),
                database: match settings.db {
                    Database::None => "none",
                    Database::Memory => "memory",
                    Database::Sqlite => "sqlite",
                    Database::Mongodb => "mongodb",
                }
                .to_owned(),
            },
            sightings,
            mailbox: Some(mailbox),
            path: AddressFile::path(&profile.security_dir(), &setup.cluster_id),
            file: None,
            dashboard: None,
        }))
    }

    pub(super) fn sightings(&self) -> Sender<Sighting> {
        self.sightings.clone()
    }

    /// Serves, and says where.
    pub(super) fn start(&mut self, controller: &Controller) -> Result<(), Failure> {
        if let (Some(listening), Some(mailbox)) = (self.listening.take(), self.mailbox.take()) {
            let (sightings, inside) = (self.sightings(), controller.inside());
            let about = self.about.clone();
            self.dashboard = Some(Dashboard::start(
                listening, sightings, mailbox, inside, about,
            )?);
            self.file = Some(AddressFile::write(self.path.clone(), &self.address)?);
        }
        Ok(())
    }

    pub(super) fn address(&self) -> String {
        self.address.with_token()
    }

    /// From now on the page shows the log. Not before: the address is for those who see the log itself.
    pub(super) fn show_log(&self) {
        log::keep_tail();
    }

    /// Closes the pages. To be called when the controller has ended.
    pub(super) fn stop(self) {
        drop(self.file);
        if let Some(dashboard) = self.dashboard {
            dashboard.stop();
        }
    }
}

/// It stands in addresses and in headers.
fn is_token(text: &str) -> bool {
    text.len() >= 16
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}
