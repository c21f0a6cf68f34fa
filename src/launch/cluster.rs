//! What a cluster is made of, and which launcher starts each part.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::batch::{self, BatchLauncher};
use super::channel::Order;
use super::ledger::Ledger;
use super::local::{LocalLauncher, Mpi};
use super::ssh::SshLauncher;
use super::ssh::hosts::Host;
use super::supervisor::Plan;
use super::{Job, LaunchError, LaunchEvent, Launcher, News};
use crate::os::ProcessRef;
use crate::os::log::Rotation;
use crate::profile::ProfileDir;
use crate::protocol::ClusterId;

/// Everything that a cluster is made of.
#[derive(Debug)]
pub struct Cluster {
    pub profile: ProfileDir,
    pub cluster_id: ClusterId,
    pub plan: Plan,
    pub ledger: Ledger,
    pub engines: Job,
    pub engines_by: By,
    /// Hand the connection information to the engines, so that they need no file.
    pub send_connection_info: bool,
    pub controller: Controller,
    /// Of the logs that this process writes for others.
    pub rotation: Rotation,
}

/// How a part of the cluster is started.
#[derive(Debug)]
pub enum By {
    Local,
    Mpi(Mpi),
    /// One set of engines on each; a controller has only one machine.
    Ssh(Vec<Host>),
    Batch(Box<batch::script::Settings>),
}

/// Another `ipcluster` that has started this one, and is told what becomes of the engines.
#[derive(Debug)]
pub struct Starter {
    pub orders: UnboundedReceiver<Order>,
    pub news: std::sync::mpsc::Sender<News>,
}

/// Where the controller comes from.
#[derive(Debug)]
pub enum Controller {
    Start(Box<Job>, By),
    /// It runs already; the process is known if it is one of this machine.
    Join(Option<ProcessRef>),
}

impl Cluster {
    /// Events go to `launched`.
    pub(super) fn launcher(
        &self,
        by: &By,
        launched: &UnboundedSender<LaunchEvent>,
    ) -> Result<Box<dyn Launcher>, LaunchError> {
        let (folder, id) = (self.profile.log_dir(), self.cluster_id.clone());
        let events = launched.clone();
        Ok(match by {
            By::Local => Box::new(LocalLauncher::new(folder, id, events)?),
            By::Mpi(mpi) => {
                let local = LocalLauncher::new(folder, id, events)?;
                Box::new(local.under_mpi(mpi.clone()))
            }
            By::Ssh(hosts) => Box::new(SshLauncher::new(
                hosts.clone(),
                folder,
                id,
                self.rotation,
                events,
            )),
            By::Batch(settings) => {
                let place = batch::Where {
                    profile: self.profile.clone(),
                    cluster_id: id,
                };
                Box::new(BatchLauncher::new(settings.as_ref().clone(), place, events))
            }
        })
    }
}
