//! What is found under each address.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, SET_COOKIE};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::{Access, Refused};
use super::answer::{self, Content};
use super::feed::Feed;
use super::records;
use super::server::within;
use crate::controller::Inside;

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPTS: [(&str, &str); 7] = [
    ("/page.js", include_str!("page/page.js")),
    ("/functions.js", include_str!("page/functions.js")),
    ("/progress.js", include_str!("page/progress.js")),
    ("/tables.js", include_str!("page/tables.js")),
    ("/charts.js", include_str!("page/charts.js")),
    ("/stream.js", include_str!("page/stream.js")),
    ("/words.js", include_str!("page/words.js")),
];

/// Where pages are fed.
pub(super) const EVENTS: &str = "/events";

/// Bytes of a request's body.
const BODY: usize = 4 * 1024;

/// Bytes behind the question mark of an address.
const QUERY: usize = 4 * 1024;

/// A body has to be there within this time.
const BODY_TIME: Duration = Duration::from_secs(5);

/// How long the task database may take for an answer.
const RECORDS_TIME: Duration = Duration::from_secs(20);

/// How long an engine may take to take note of a command.
const COMMAND_TIME: Duration = Duration::from_secs(5);

/// Questions to the task database that are under way at once.
const QUESTIONS: usize = 4;

pub(super) struct Routes {
    access: Access,
    feed: Rc<RefCell<Feed>>,
    inside: Inside,
    questions: tokio::sync::Semaphore,
}

type Answer = Response<Content>;

impl Routes {
    pub(super) fn new(access: Access, feed: Rc<RefCell<Feed>>, inside: Inside) -> Self {
        Self {
            access,
            feed,
            inside,
            questions: tokio::sync::Semaphore::new(QUESTIONS),
        }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Answer, Infallible> {
        Ok(self.route(request).await)
    }

    async fn route(&self, request: Request<Incoming>) -> Answer {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let path = request.uri().path().to_owned();
        let headers = request.headers();
        if let Err(refused) = self.access.check_source(headers) {
            return answer::error(StatusCode::FORBIDDEN, &refused.to_string());
        }
        if query.len() > QUERY {
            let why = format!("the query has more than {QUERY} bytes");
            return answer::error(StatusCode::URI_TOO_LONG, &why);
        }
        if path == "/healthz" {
            return answer::text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n");
        }
        if let Err(refused) = self.access.check_token(headers, &query) {
            return unauthorized(refused, &path);
        }
        let method = request.method().clone();
        let is_command = path == "/api/engine";
        let expected = if is_command {
            Method::POST
        } else {
            Method::GET
        };
        let is_head = method == Method::HEAD && !is_command;
        if method != expected && !is_head {
            let mut refusal = answer::error(StatusCode::METHOD_NOT_ALLOWED, "not by this method");
            let allow = HeaderValue::from_str(expected.as_str());
            refusal
                .headers_mut()
                .extend(allow.ok().map(|allow| (ALLOW, allow)));
            return refusal;
        }
        match path.as_str() {
            "/" => self.page(),
            "/page.css" => file("text/css; charset=utf-8", STYLE),
            "/metrics" => answer::text(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                self.feed.borrow().metrics(),
            ),
            EVENTS if is_head => answer::text(StatusCode::OK, "text/event-stream", ""),
            EVENTS => self.events(),
            "/api/state" => {
                let stream = parameter(&query, "stream").and_then(|count| count.parse().ok());
                let state = self.feed.borrow().state(stream);
                answer::json(StatusCode::OK, &state.into())
            }
            "/api/tasks" => self.tasks(&query).await,
            "/api/task" => self.task(&query).await,
            "/api/engine" => self.command(request).await,
            _ => match SCRIPTS.iter().find(|(name, _)| *name == path) {
                Some((_, script)) => file("text/javascript; charset=utf-8", script),
                None => answer::error(StatusCode::NOT_FOUND, "there is nothing here"),
            },
        }
    }

    /// The page comes with a cookie, so that it can be loaded again without the token in its address.
    fn page(&self) -> Answer {
        let mut page = file("text/html; charset=utf-8", PAGE);
        let cookie = HeaderValue::from_str(&self.access.set_cookie());
        page.headers_mut()
            .extend(cookie.ok().map(|cookie| (SET_COOKIE, cookie)));
        page
    }

    fn events(&self) -> Answer {
        match self.feed.borrow_mut().open() {
            Some(receiver) => answer::events(receiver),
            None => answer::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many pages are open: close some of them",
            ),
        }
    }

    async fn tasks(&self, query: &str) -> Answer {
        let query = match parameter(query, "query").as_deref() {
            None | Some("") => json!({}),
            Some(text) => match serde_json::from_str(text) {
                Ok(query) => query,
                Err(error) => {
                    let why = format!("the query is no JSON: {error}");
                    return answer::error(StatusCode::BAD_REQUEST, &why);
                }
            },
        };
        let answer = async {
            let (ids, count) = records::newest(&self.ask(&records::ids(&query)).await?);
            let mut found = self.ask(&records::rows(&ids)).await?;
            Ok(json!({"count": count, "records": records::in_order(&ids, &mut found)}))
        };
        shown(answer.await)
    }

    async fn task(&self, query: &str) -> Answer {
        let Some(msg_id) = parameter(query, "id") else {
            return answer::error(StatusCode::BAD_REQUEST, "which? ?id= names it");
        };
        let ended = self.feed.borrow().ended(&msg_id);
        let record = self.ask(&records::one(&msg_id)).await;
        let record = record.map(|mut answer| answer["records"].get_mut(0).map(Value::take));
        match (record, ended) {
            (Ok(Some(record)), ended) => {
                answer::json(StatusCode::OK, &json!({"record": record, "ended": ended}))
            }
            (_, Some(ended)) => {
                answer::json(StatusCode::OK, &json!({"record": null, "ended": ended}))
            }
            (Ok(None), None) => answer::error(StatusCode::NOT_FOUND, "there is no such record"),
            (Err(refusal), None) => refusal.answer(),
        }
    }

    /// The hub's answer to a query of records.
    async fn ask(&self, content: &Value) -> Result<Value, Unanswered> {
        let asked = async {
            let _place = self.questions.acquire().await;
            self.inside.ask("db_request", content).await
        };
        let answer = within(RECORDS_TIME, asked).await.ok_or(Unanswered::Slow)?;
        let answer = answer.ok_or(Unanswered::Slow)?;
        if answer["status"] != "error" {
            return Ok(answer);
        }
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        let (ename, evalue) = (text("ename"), text("evalue"));
        Err(if evalue.contains("NoDB") {
            Unanswered::NoDatabase
        } else {
            Unanswered::Refused(format!("{ename}: {evalue}"))
        })
    }

    async fn command(&self, request: Request<Incoming>) -> Answer {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Action {
            Interrupt,
            Restart,
        }
        #[derive(Deserialize)]
        struct Command {
            id: u32,
            action: Action,
        }
        // A page of another origin can send no such request without asking first, which is refused.
        let content_type = request.headers().get(CONTENT_TYPE);
        if content_type.is_none_or(|value| !value.as_bytes().starts_with(b"application/json")) {
            let why = "the body has to be application/json";
            return answer::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
        }
        let body = within(BODY_TIME, Limited::new(request.into_body(), BODY).collect()).await;
        let Some(Ok(body)) = body else {
            let why = "the body is too long, or did not come";
            return answer::error(StatusCode::PAYLOAD_TOO_LARGE, why);
        };
        let command: Command = match serde_json::from_slice(&body.to_bytes()) {
            Ok(command) => command,
            Err(error) => return answer::error(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let Some(uuid) = self.feed.borrow().engine(command.id) else {
            return answer::error(StatusCode::NOT_FOUND, "no such engine is registered");
        };
        let (msg_type, content, what) = match command.action {
            Action::Interrupt => ("signal_request", json!({"sig": 2}), "interrupted"),
            Action::Restart => ("shutdown_request", json!({"restart": true}), "restarted"),
        };
        match within(COMMAND_TIME, self.inside.command(uuid, msg_type, content)).await {
            Some(Some(answer)) if answer["status"] == "error" => {
                let why = answer["evalue"].as_str().unwrap_or("the engine refused");
                answer::error(StatusCode::BAD_GATEWAY, why)
            }
            Some(Some(_)) => {
                tracing::info!("engine {} was {what} from the dashboard", command.id);
                answer::json(StatusCode::OK, &json!({"status": "ok"}))
            }
            Some(None) | None => {
                answer::error(StatusCode::GATEWAY_TIMEOUT, "the engine does not answer")
            }
        }
    }
}

/// Why records are not shown.
enum Unanswered {
    NoDatabase,
    Slow,
    Refused(String),
}

impl Unanswered {
    fn answer(&self) -> Answer {
        match self {
            Self::NoDatabase => answer::error(
                StatusCode::NOT_FOUND,
                "this cluster keeps no records: start it with --sqlitedb, --dictdb or --mongodb",
            ),
            Self::Slow => answer::error(
                StatusCode::GATEWAY_TIMEOUT,
                "the task database takes too long: ask for less",
            ),
            Self::Refused(why) => answer::error(StatusCode::BAD_REQUEST, why),
        }
    }
}

fn shown(answer: Result<Value, Unanswered>) -> Answer {
    match answer {
        Ok(value) => answer::json(StatusCode::OK, &value),
        Err(refusal) => refusal.answer(),
    }
}

fn file(content_type: &'static str, text: &'static str) -> Answer {
    answer::text(StatusCode::OK, content_type, text)
}

/// A person sees a sentence, a program gets JSON.
fn unauthorized(refused: Refused, path: &str) -> Answer {
    let mut answer = if path == "/" {
        answer::text(
            StatusCode::UNAUTHORIZED,
            "text/plain; charset=utf-8",
            format!("{refused}\n"),
        )
    } else {
        answer::error(StatusCode::UNAUTHORIZED, &refused.to_string())
    };
    answer
        .headers_mut()
        .insert("www-authenticate", HeaderValue::from_static("Bearer"));
    answer
}

/// The value of a parameter in a query, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    Some(decoded(value))
}

/// Undoes the encoding of `URLSearchParams`; what is no text becomes marks.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let digits = behind
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let coded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, coded) {
            (b'+', _) => bytes.push(b' '),
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = "token=t&query=%7B%22a%22%3A+1%7D&x&id=%c3%a9%zz%";
        assert_eq!(parameter(query, "query").as_deref(), Some(r#"{"a": 1}"#));
        assert_eq!(parameter(query, "id").as_deref(), Some("é%zz%"));
        assert_eq!(parameter(query, "x"), None);
    }
}
