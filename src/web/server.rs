//! Connections: how many, how long, how large.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::feed::Feed;
use super::routes::{EVENTS, Routes};
use super::{Listening, access::Access};
use crate::controller::Inside;

/// Connections at once; those beyond wait to be accepted.
const CONNECTIONS: usize = 256;

/// A request's head has to be there within this time, and one connection is kept so long for the next.
const HEAD: Duration = Duration::from_secs(15);

/// A connection that is no page's ends after this time, whatever it does.
const LONGEST: Duration = Duration::from_secs(120);

/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;

/// Accepting that fails, for want of descriptors, is tried again after this time.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

pub(super) async fn run(listening: Listening, feed: Feed, inside: Inside) -> io::Result<()> {
    let listener = TcpListener::from_std(listening.listener)?;
    let feed = Rc::new(RefCell::new(feed));
    let served = serve(listener, listening.access, feed.clone(), inside);
    tokio::select! {
        served = served => served,
        // The controller ends. Connections end with this task's runtime.
        fed = Feed::run(feed) => fed,
    }
}

async fn serve(
    listener: TcpListener,
    access: Access,
    feed: Rc<RefCell<Feed>>,
    inside: Inside,
) -> io::Result<()> {
    let routes = Rc::new(Routes::new(access, feed, inside));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await;
        let place = place.expect("nobody closes it");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a connection to the dashboard cannot be accepted: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let routes = routes.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = converse(stream, routes).await {
                // Browsers that go, and peers that speak something else.
                tracing::debug!("a connection to the dashboard has ended: {error}");
            }
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, routes: Rc<Routes>) -> hyper::Result<()> {
    // Events are small and are wanted at once.
    let _ = stream.set_nodelay(true);
    let is_page = Rc::new(Cell::new(false));
    let service = service_fn({
        let is_page = is_page.clone();
        move |request: Request<Incoming>| {
            let routes = routes.clone();
            is_page.set(request.uri().path() == EVENTS);
            async move { routes.answer(request).await }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        match timeout(LONGEST, &mut connection).await {
            Ok(ended) => return ended,
            // Pages stay as long as they read what they are sent.
            Err(_) if is_page.get() => {}
            Err(_) => return Ok(()),
        }
    }
}

/// What takes too long is given up.
pub(super) async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    timeout(time, work).await.ok()
}
