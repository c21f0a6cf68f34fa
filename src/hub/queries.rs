//! Requests of clients and engines, one function each (ipyparallel `Hub.query_handlers`).

use std::collections::HashSet;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use super::content::parse;
use super::inspection::Purpose;
use super::registry::{Exit, Origin};
use super::{Action, Database, Event, Hub, Request};
use crate::protocol::python::repr;
use crate::protocol::{EngineId, EngineUuid, ExpectedSet, Identity, Leaving, MsgId, RemoteError};

/// `KeyError` of every access to records with NoDB, in ipyparallel's words.
const NO_DATABASE: &str = "NoDB backend doesn't store any data. Start the Controller with a DB backend to enable \
                           resubmission / result persistence.";

impl Hub {
    pub(super) fn answer(&mut self, now: Instant, request: Request, out: &mut Vec<Action>) {
        let answered = match request.msg_type.as_str() {
            "registration_request" => self.registration(now, &request, out),
            "engine_usage" => self.usage(&request, out),
            "engines_expected" => self.expected(&request, out),
            "unregistration_request" => self.unregistration(now, &request, out),
            "connection_request" => self.connection(&request, out),
            "queue_request" => self.queue_status(&request, out),
            "load_request" => self.load(&request, out),
            "status_request" => {
                self.status(now, &request, out);
                Ok(())
            }
            "result_request" => self.results(&request, out),
            "history_request" | "db_request" | "resubmit_request" | "db_stats_request" => {
                self.records(&request, out)
            }
            "purge_request" => self.purge(&request, out),
            "shutdown_request" => shutdown(&request, out),
            "become_dask_request" => self.become_dask(&request, out),
            "stop_distributed_request" => {
                self.dask.on_stop(&request, out);
                Ok(())
            }
            other => Err(RemoteError::key_error(&format!(
                "Bad Message Type: {}",
                repr(other)
            ))),
        };
        if let Err(error) = answered {
            out.push(Action::Log(Event::BadRequest {
                client: request.from.clone(),
                why: format!("{}: {}: {}", request.msg_type, error.ename, error.evalue),
            }));
            reply(&request, "hub_error", error.to_content(), out);
        }
    }

    fn registration(
        &mut self,
        now: Instant,
        request: &Request,
        out: &mut Vec<Action>,
    ) -> Result<(), RemoteError> {
        #[derive(Deserialize)]
        struct Content {
            uuid: String,
            #[serde(default)]
            id: Option<u32>,
            /// Ours: the routing id of a process that takes broadcasts for several engines.
            #[serde(default)]
            host: Option<String>,
            /// Ours: it has been registered, and wants to know whether it still is.
            #[serde(default)]
            again: bool,
            /// Ours: it asks for its registration again when a controller is back.
            #[serde(default)]
            returns: bool,
            /// Ours: what it has been sent, by a former controller if this one does not know of it, and has not answered.
            #[serde(default)]
            unanswered: HashSet<MsgId>,
        }
        let refused = |uuid: &str, error: &RemoteError, out: &mut Vec<Action>| {
            out.push(Action::Log(Event::EngineRefused {
                client: request.from.clone(),
                uuid: uuid.to_owned(),
                why: error.evalue.clone(),
            }));
            reply(request, "registration_reply", error.to_content(), out);
        };
        let Content {
            uuid,
            id,
            host,
            again,
            returns,
            unanswered,
        } = match parse(&request.content) {
            Ok(content) => content,
            Err(error) => {
                refused("", &error, out);
                return Ok(());
            }
        };
        // The uuid becomes the routing id of the engine's sockets.
        let routable = |id: &str| !id.is_empty() && id.len() <= 255;
        if !routable(&uuid) || !host.as_deref().is_none_or(routable) {
            refused(
                &uuid,
                &RemoteError::new("ValueError", "the uuids of an engine have 1 to 255 bytes"),
                out,
            );
            return Ok(());
        }
        let uuid = EngineUuid::from(uuid);
        let host = host.map(|host| Identity::from(host.as_bytes()));
        // `farewells` and `recounts` are ours: schedulers take a last word of an engine that leaves, and a first one on a
        // connection that is made again.
        match self.registry.register(now, &uuid, id, host) {
            Some(id) => {
                let origin = Origin::read(&request.content);
                let (host, set) = (origin.host.clone(), origin.set.clone());
                self.registry.describe(id, origin, returns, unanswered);
                out.push(Action::ExpectHeart(uuid.clone()));
                out.push(Action::Log(Event::EngineRegistering {
                    id,
                    uuid,
                    host,
                    set,
                }));
                let mut content = json!({
                    "status": "ok",
                    "id": id,
                    "hb_period": self.config.heartbeat_period_ms,
                    "connection_info": self.config.connection_info,
                    "farewells": true,
                    "recounts": true,
                });
                if self.config.wants_usage {
                    content["wants_usage"] = json!(true);
                }
                reply(request, "registration_reply", content, out);
            }
            None => {
                let error = RemoteError::key_error(&format!("uuid {} in use", repr(uuid.as_str())));
                if again {
                    reply(request, "registration_reply", error.to_content(), out);
                } else {
                    refused(uuid.as_str(), &error, out);
                }
                out.push(Action::ExpectHeart(uuid));
            }
        }
        Ok(())
    }

    /// Sent by an engine that leaves, or by the nanny of one that died. Nobody waits for an answer. `reason`, `leaving` and
    /// `farewell` are ours.
    fn unregistration(
        &mut self,
        now: Instant,
        request: &Request,
        out: &mut Vec<Action>,
    ) -> Result<(), RemoteError> {
        #[derive(Deserialize)]
        struct Content {
            id: EngineId,
            #[serde(default)]
            uuid: Option<EngineUuid>,
            #[serde(default)]
            reason: Option<String>,
            #[serde(default)]
            leaving: Leaving,
            #[serde(default)]
            farewell: bool,
        }
        let content: Content = parse(&request.content)?;
        // An id may have been given to another engine since; the uuid, where it is told, is not mistaken.
        if let Some(uuid) = &content.uuid
            && self.registry.id_of(&Identity::from(uuid)) != Some(content.id)
        {
            return Ok(());
        }
        let exit = Exit {
            how: content.reason.as_deref().unwrap_or("it unregistered"),
            leaving: content.leaving,
            farewell: content.farewell,
        };
        self.on_engine_gone(now, content.id, &exit, out);
        Ok(())
    }

    /// Ours: what an engine uses, which it tells when the registration's reply asked for it. Nobody waits for an answer.
    fn usage(&self, request: &Request, out: &mut Vec<Action>) -> Result<(), RemoteError> {
        #[derive(Deserialize)]
        struct Content {
            uuid: EngineUuid,
        }
        let Content { uuid } = parse(&request.content)?;
        if self.registry.id_of(&Identity::from(&uuid)).is_some() {
            let content = request.content.clone();
            out.push(Action::Usage { uuid, content });
        }
        Ok(())
    }

    /// Ours: which engines somebody starts, so that they are seen before they register. The reply says whether there is a
    /// page for that (`shown`): whoever announces them need not go on without one.
    fn expected(&self, request: &Request, out: &mut Vec<Action>) -> Result<(), RemoteError> {
        /// Those beyond are not shown.
        const SETS: usize = 1_000;
        #[derive(Deserialize)]
        struct Content {
            by: String,
            sets: Vec<ExpectedSet>,
        }
        let Content { by, mut sets } = parse(&request.content)?;
        sets.truncate(SETS);
        let shown = self.config.wants_usage;
        if shown {
            out.push(Action::Expected { by, sets });
        }
        reply(
            request,
            "engines_expected_reply",
            json!({ "status": "ok", "shown": shown }),
            out,
        );
        Ok(())
    }

    fn connection(&self, request: &Request, out: &mut Vec<Action>) -> Result<(), RemoteError> {
        let engines: serde_json::Map<String, Value> = self
            .registry
            .published()
            .into_iter()
            .map(|(id, uuid)| (id.to_string(), json!(uuid)))
            .collect();
        out.push(Action::Log(Event::ClientConnected {
            client: request.from.clone(),
        }));
        reply(
            request,
            "connection_reply",
            json!({ "status": "ok", "engines": engines }),
            out,
        );
        Ok(())
    }

    fn queue_status(
        &mut self,
        request: &Request,
        out: &mut Vec<Action>,
    ) -> Result<(), RemoteError> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(default)]
            targets: Value,
            #[serde(default)]
            verbose: Value,
        }
        let content: Content = parse(&request.content)?;
        let targets = self.targets(&content.targets)?;
        let token = self.token();
        let purpose = Purpose::QueueStatus {
            targets,
            verbose: is_true(&content.verbose),
            database: self.storage.clone(),
        };
        self.inspections.begin(token, request, purpose, out);
        Ok(())
    }

    fn load(&mut self, request: &Request, out: &mut Vec<Action>) -> Result<(), RemoteError> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(default)]
            targets: Value,
        }
        let targets = self.targets(&parse::<Content>(&request.content)?.targets)?;
        let token = self.token();
        self.inspections
            .begin(token, request, Purpose::Load { targets }, out);
        Ok(())
    }

    /// Ours, for `ipcluster status`.
    fn status(&mut self, now: Instant, request: &Request, out: &mut Vec<Action>) {
        let token = self.token();
        let purpose = Purpose::Status {
            engines: self.registry.facts(now),
            database: self.storage.clone(),
        };
        self.inspections.begin(token, request, purpose, out);
    }

    fn results(&mut self, request: &Request, out: &mut Vec<Action>) -> Result<(), RemoteError> {
        #[derive(Deserialize)]
        struct Content {
            msg_ids: Vec<MsgId>,
            #[serde(default)]
            status_only: Value,
        }
        if self.config.database == Database::Recorder {
            return self.records(request, out);
        }
        let content: Content = parse(&request.content)?;
        if !is_true(&content.status_only) {
            reply(request, "result_reply", no_database().to_content(), out);
            return Ok(());
        }
        let token = self.token();
        self.inspections.begin(
            token,
            request,
            Purpose::ResultStatus {
                msg_ids: content.msg_ids,
            },
            out,
        );
        Ok(())
    }

    fn purge(&mut self, request: &Request, out: &mut Vec<Action>) -> Result<(), RemoteError> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(default)]
            msg_ids: Value,
            #[serde(default)]
            engine_ids: Vec<u32>,
        }
        if self.config.database == Database::Recorder {
            return self.records(request, out);
        }
        let content: Content = parse(&request.content)?;
        let known = self.registry.published();
        if let Some(id) = content
            .engine_ids
            .iter()
            .find(|id| !known.iter().any(|(known, _)| known.0 == **id))
        {
            let error = RemoteError::new("IndexError", format!("No such engine: {id}"));
            reply(request, "purge_reply", error.to_content(), out);
            return Ok(());
        }
        let msg_ids: Vec<MsgId> = serde_json::from_value(content.msg_ids).unwrap_or_default();
        let token = self.token();
        self.inspections
            .begin(token, request, Purpose::Purge { msg_ids }, out);
        Ok(())
    }

    fn become_dask(&mut self, request: &Request, out: &mut Vec<Action>) -> Result<(), RemoteError> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(default)]
            scheduler_args: Option<serde_json::Map<String, Value>>,
        }
        let content: Content = parse(&request.content)?;
        let arguments = content.scheduler_args.unwrap_or_default();
        self.dask.on_become(request, arguments, out);
        Ok(())
    }

    /// Queries about records: the recorder's, if there is one.
    fn records(&self, request: &Request, out: &mut Vec<Action>) -> Result<(), RemoteError> {
        match self.config.database {
            Database::Recorder => {
                // A question may wait for long behind others: what it does not need is not kept with it.
                let engines = match request.msg_type.as_str() {
                    "purge_request" => self.registry.published(),
                    _ => Vec::new(),
                };
                out.push(Action::AskRecorder {
                    request: request.clone(),
                    engines,
                });
            }
            Database::None => {
                let msg_type = crate::protocol::header::reply_type(&request.msg_type);
                reply(request, &msg_type, no_database().to_content(), out);
            }
        }
        Ok(())
    }

    /// Any way of naming engines, as ids with uuids (ipyparallel `Hub._validate_targets`).
    fn targets(&self, targets: &Value) -> Result<Vec<(EngineId, EngineUuid)>, RemoteError> {
        let known = self.registry.published();
        let named: Vec<Value> = match targets {
            Value::Null => return Ok(known),
            Value::Array(several) => several.clone(),
            one => vec![one.clone()],
        };
        if named.is_empty() {
            return Err(RemoteError::new("IndexError", "No Engines Registered"));
        }
        let mut found = Vec::new();
        let mut bad = Vec::new();
        for target in named {
            let engine = known.iter().find(|(id, uuid)| match &target {
                Value::String(text) => uuid.as_str() == text,
                Value::Number(number) => number.as_u64() == Some(u64::from(id.0)),
                _ => false,
            });
            match engine {
                Some(engine) => found.push(engine.clone()),
                None => bad.push(target),
            }
        }
        if bad.is_empty() {
            Ok(found)
        } else {
            Err(no_such_engines(&bad))
        }
    }
}

fn shutdown(request: &Request, out: &mut Vec<Action>) -> Result<(), RemoteError> {
    out.push(Action::Log(Event::ShutdownRequested {
        client: request.from.clone(),
    }));
    reply(request, "shutdown_reply", json!({ "status": "ok" }), out);
    out.push(Action::Notify {
        msg_type: "shutdown_notification",
        content: json!({ "status": "ok" }),
    });
    out.push(Action::ShutDown);
    Ok(())
}

pub(super) fn reply(request: &Request, msg_type: &str, content: Value, out: &mut Vec<Action>) {
    out.push(Action::Reply {
        to: request.from.clone(),
        msg_type: msg_type.to_owned(),
        parent: request.header.clone(),
        content,
    });
}

fn no_database() -> RemoteError {
    RemoteError::key_error(NO_DATABASE)
}

fn no_such_engines(bad: &[Value]) -> RemoteError {
    RemoteError::new(
        "IndexError",
        format!("No Such Engine: {}", Value::from(bad.to_vec())),
    )
}

/// What Python takes as true.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}
