//! The controller as a part of a cluster: what it is called with, and the settings that it will have by that.

use std::ffi::OsString;

use crate::cli::args::Environment;
use crate::cli::launchers::{name_of, texts, traits};
use crate::cli::parts::{
    KernelArgs, environment, handed_on, job, log_arguments, over_ssh_job, secrets,
};
use crate::cli::setup::Setup;
use crate::cli::{Failure, controller_args};
use crate::launch::Job;
use crate::launch::batch::system::{Role, System};
use crate::profile::settings::{ControllerSettings, Database, Origin, Resolved, load};
use crate::profile::traitlets::Program;

/// A controller that is to be started.
pub(super) struct ControllerPart {
    pub(super) job: Job,
    /// The arguments that are its user's own.
    pub(super) own: Vec<OsString>,
    /// As it will read them, on this machine.
    pub(super) settings: ControllerSettings,
}

/// Settings that say where it listens.
const ADDRESSES: [&str; 3] = [
    "controller.ip",
    "controller.client_ip",
    "controller.engine_ip",
];

impl ControllerPart {
    /// `rest` is what the command line has for it.
    ///
    /// # Errors
    /// Of the arguments, as the controller itself would tell them.
    pub(super) fn new(
        setup: &Setup,
        kernels: &KernelArgs,
        rest: Vec<OsString>,
    ) -> Result<Self, Failure> {
        let cluster = &setup.settings.cluster;
        let traits = traits(setup, Role::Controller);
        let mut arguments: Vec<OsString> = Vec::new();
        for (name, value) in [
            ("--ip", &cluster.controller_ip),
            ("--location", &cluster.controller_location),
        ] {
            arguments.extend(value.as_ref().map(|value| format!("{name}={value}").into()));
        }
        let over_ssh = name_of(setup, Role::Controller) == "ssh";
        if !over_ssh {
            arguments.extend(kernels.python());
        }
        let mut own: Vec<OsString> = cluster.controller_args.iter().map(OsString::from).collect();
        if !over_ssh {
            let more = texts(&traits, "controller_args");
            own.extend(more.into_iter().map(OsString::from));
        }
        own.extend(handed_on(setup, Program::Controller));
        own.extend(rest);
        arguments.extend(own.iter().cloned());

        let read = as_read(setup, &arguments)?;
        let is_named = ADDRESSES.map(|key| read.origin(key) != Origin::Default);
        let mut settings = read.settings.controller;
        let is_job = System::named(name_of(setup, Role::Controller)).is_some();
        if is_job && !is_named.contains(&true) {
            // On whichever node it runs: nobody would reach it at a loopback address.
            "*".clone_into(&mut settings.ip);
            arguments.insert(0, "--ip=*".into());
        }
        let mut job = if over_ssh {
            let levels = log_arguments(&setup.settings.log);
            over_ssh_job(setup, "ipcontroller", levels.chain(arguments))
        } else {
            let mut job = job(setup, "ipcontroller", "controller", arguments)?;
            job.environment.extend(environment(&traits));
            job
        };
        job.environment
            .extend(secrets(setup, Program::Controller, is_job)?);
        Ok(Self { job, own, settings })
    }

    /// Its records outlive it.
    pub(super) fn writes_records(&self) -> bool {
        matches!(self.settings.db, Database::Sqlite | Database::Mongodb)
    }

    /// Its connection files do.
    pub(super) fn keeps_connection_files(&self) -> bool {
        self.settings.reuse || self.settings.restore
    }
}

/// The settings of a controller of this cluster that is called with these arguments.
fn as_read(setup: &Setup, arguments: &[OsString]) -> Result<Resolved, Failure> {
    let (args, rewritten) = controller_args(arguments)?;
    let mut common = args.common.resolve(&Environment::of_process())?;
    common.edits.extend(args.edits());
    common
        .config_files
        .splice(0..0, setup.common.config_files.iter().cloned());
    let sources = common.sources(Program::Controller, Some(&setup.profile), rewritten.traits);
    load(&sources).map_err(|error| Failure::usage(error.to_string()))
}
