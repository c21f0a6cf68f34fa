//! Asking a dashboard from another process: for `ipcluster top`, `tasks` and `report`.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpStream;

use super::Address;

/// Time for a connection, and for the beginning of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of one event, beyond which it is none of ours.
const LONGEST: usize = 256 << 20;

#[derive(Debug, Error)]
pub enum VisitError {
    #[error("the dashboard at {url} cannot be reached: {why}; has its cluster ended?")]
    Unreachable { url: String, why: String },
    #[error("the dashboard at {url} refused: {why}")]
    Refused { url: String, why: String },
    #[error("the dashboard at {url} gave an answer that is none: {why}")]
    Malformed { url: String, why: String },
    #[error("the dashboard at {url} has ended")]
    Ended { url: String },
}

/// A dashboard that is asked.
#[derive(Clone, Debug)]
pub struct Visit {
    address: Address,
}

/// What is heard of a dashboard, event by event.
#[derive(Debug)]
pub struct Events {
    url: String,
    body: Incoming,
    buffer: Vec<u8>,
    /// No event ends before here.
    searched: usize,
}

impl Visit {
    pub fn new(address: Address) -> Self {
        Self { address }
    }

    /// The answer's JSON. Must be called within a tokio runtime, as all below.
    pub async fn get(&self, path: &str) -> Result<Value, VisitError> {
        let body = self.open(path).await?;
        let body = body
            .collect()
            .await
            .map_err(|error| self.unreachable(error))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| VisitError::Malformed {
            url: self.address.url.clone(),
            why: error.to_string(),
        })
    }

    /// Everything, then what changes.
    pub async fn events(&self) -> Result<Events, VisitError> {
        Ok(Events {
            url: self.address.url.clone(),
            body: self.open("events").await?,
            buffer: Vec::new(),
            searched: 0,
        })
    }

    async fn open(&self, path: &str) -> Result<Incoming, VisitError> {
        let answer = tokio::time::timeout(PATIENCE, self.request(path)).await;
        let answer = answer.map_err(|_| self.unreachable("it does not answer"))??;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let body = answer.into_body().collect().await;
        let body = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let why = value["error"].as_str().unwrap_or_else(|| status.as_str());
        Err(VisitError::Refused {
            url: self.address.url.clone(),
            why: why.to_owned(),
        })
    }

    async fn request(&self, path: &str) -> Result<hyper::Response<Incoming>, VisitError> {
        let authority = self.address.authority();
        let stream = TcpStream::connect(authority).await;
        let stream = stream.map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error))?;
        // It ends with the answer.
        tokio::spawn(connection);
        let request = Request::get(format!("/{path}"))
            .header(HOST, authority)
            .header(AUTHORIZATION, format!("Bearer {}", self.address.token))
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.unreachable(error))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| self.unreachable(error))
    }

    fn unreachable(&self, why: impl ToString) -> VisitError {
        VisitError::Unreachable {
            url: self.address.url.clone(),
            why: why.to_string(),
        }
    }
}

impl Events {
    /// The next event's JSON.
    pub async fn next(&mut self) -> Result<Value, VisitError> {
        loop {
            if let Some(event) = self.take_event() {
                return serde_json::from_slice(&event).map_err(|error| self.malformed(&error));
            }
            if self.buffer.len() > LONGEST {
                return Err(self.malformed(&"an event without an end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(_)) | None => {
                    return Err(VisitError::Ended {
                        url: self.url.clone(),
                    });
                }
            }
        }
    }

    /// What stands behind `data: ` up to an empty line.
    fn take_event(&mut self) -> Option<Vec<u8>> {
        let rest = &self.buffer[self.searched..];
        let Some(end) = rest.windows(2).position(|two| two == b"\n\n") else {
            self.searched = self.buffer.len().saturating_sub(1);
            return None;
        };
        let end = std::mem::take(&mut self.searched) + end;
        let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
        Some(event.strip_prefix(b"data: ")?.to_vec())
    }

    fn malformed(&self, why: &dyn std::fmt::Display) -> VisitError {
        VisitError::Malformed {
            url: self.url.clone(),
            why: why.to_string(),
        }
    }
}
