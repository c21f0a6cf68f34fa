//! The status page and the metrics, served by the controller.
//!
//! One thread with a runtime of its own: it takes what the controller's threads tell ([`Sighting`]), keeps the
//! [`Board`](crate::observe::Board), and answers HTTP. What a request may cost is bounded: who may ask ([`access`]), how
//! many connections there are, how large a request is and how long it may take ([`server`]).
//!
//! | address | what it is |
//! |---|---|
//! | `/` | the page |
//! | `/events` | what the page shows, as server-sent events: all of it, then what changes |
//! | `/api/state` | all of it, once |
//! | `/api/tasks`, `/api/task` | records of the task database, by its own queries |
//! | `POST /api/engine` | interrupts or restarts an engine |
//! | `/metrics` | figures for Prometheus |
//! | `/healthz` | whether the controller answers; for everybody |
//!
//! [`Sighting`]: crate::controller::Sighting

mod access;
mod address;
mod answer;
mod feed;
mod records;
mod routes;
mod server;
mod visit;

pub mod report;

use std::io;
use std::net::TcpListener;
use std::thread::JoinHandle;

use thiserror::Error;

use crate::controller::{Inside, Sighting};
use crate::transport::{Mailbox, Sender};

pub use access::{Place, PlaceError, new_token};
pub use address::{Address, AddressFile};
pub use visit::{Events, Visit, VisitError};

use access::Access;
use feed::Feed;

/// What the page says of the cluster that it belongs to.
#[derive(Clone, Debug)]
pub struct About {
    /// The profile's name or folder.
    pub profile: String,
    pub cluster_id: String,
    /// `none`, `memory`, `sqlite`, `mongodb`.
    pub database: String,
}

#[derive(Debug, Error)]
pub enum DashboardError {
    #[error(
        "the dashboard cannot listen on {place}: {source}; --dashboard=ADDRESS:PORT names another place, and port 0 takes \
         one that is free"
    )]
    Bind { place: Place, source: io::Error },
    #[error("the dashboard cannot be started: {0}")]
    Start(#[from] io::Error),
}

/// A port that will be served.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    access: Access,
}

impl Listening {
    /// Takes the port, so that it is known before anything else is started. `names`: host names by which pages may ask,
    /// beside addresses and `localhost`.
    pub fn bind(place: &Place, token: String, names: Vec<String>) -> Result<Self, DashboardError> {
        let bound = TcpListener::bind((place.host.as_str(), place.port)).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        let (listener, address) = bound.map_err(|source| DashboardError::Bind {
            place: place.clone(),
            source,
        })?;
        Ok(Self {
            listener,
            access: Access::new(address, token, names),
        })
    }

    /// Where pages are found; with the token.
    pub fn address(&self) -> Address {
        self.access.address()
    }
}

/// The dashboard's thread.
#[derive(Debug)]
pub struct Dashboard {
    thread: JoinHandle<()>,
    sightings: Sender<Sighting>,
}

impl Dashboard {
    /// Begins to serve. `sightings` is the other end of `mailbox`.
    pub fn start(
        listening: Listening,
        sightings: Sender<Sighting>,
        mailbox: Mailbox<Sighting>,
        inside: Inside,
        about: About,
    ) -> Result<Self, DashboardError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let feed = Feed::new(mailbox, about);
        let thread = std::thread::Builder::new()
            .name("dashboard".to_owned())
            .spawn(move || {
                let all = tokio::task::LocalSet::new();
                let served = all.block_on(&runtime, server::run(listening, feed, inside));
                if let Err(error) = served {
                    tracing::error!("the dashboard has ended: {error}");
                }
            })?;
        Ok(Self { thread, sightings })
    }

    /// Closes every page.
    pub fn stop(self) {
        self.sightings.send(Sighting::Stop);
        // A thread that panicked has said so.
        let _ = self.thread.join();
    }
}
