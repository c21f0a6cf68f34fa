//! What is said between an engine's link and a Jupyter kernel, and who is still owed an answer. Pure.
//!
//! Requests of clients go to the kernel as they are, so that its answers name them as their parents. A request is over
//! when the kernel has replied and has said on iopub that it is idle again: outputs come before that.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::engine::kernel::link::{LinkFrame, LinkMessage};
use crate::engine::kernel::messages::{from_kernel, to_kernel};
use crate::protocol::header::reply_type;
use crate::protocol::{Composer, Header, Outgoing, RemoteError, Timestamp};

/// A kernel that has answered, but cannot be heard on iopub yet, is asked again so often.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// After its reply, this long is waited for what a kernel says on iopub: some never say that they are idle.
const TIME_FOR_IDLE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Shell,
    Control,
}

/// A message of the Jupyter protocol, without identities and signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JupyterMessage {
    pub(super) header: Vec<u8>,
    pub(super) parent: Vec<u8>,
    pub(super) metadata: Vec<u8>,
    pub(super) content: Vec<u8>,
    pub(super) buffers: Vec<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    ToEngine { tag: u32, frames: Vec<Vec<u8>> },
    ToKernel(Channel, JupyterMessage),
}

#[derive(Debug)]
pub(super) struct Conversation {
    name: String,
    composer: Composer,
    /// What errors say about where they come from.
    engine: Value,
    state: State,
    /// By message id.
    pending: HashMap<String, Pending>,
}

#[derive(Debug)]
enum State {
    /// CONFIGURE is awaited.
    Fresh,
    Probing(Probing),
    /// The code that is run, and what comes after it.
    StartUp {
        info: KernelInfo,
        running: String,
        left: VecDeque<String>,
    },
    Ready,
}

/// Is the kernel there, and is it heard on iopub?
#[derive(Debug)]
struct Probing {
    asked: Vec<String>,
    info: Option<KernelInfo>,
    is_heard: bool,
    ask_again: Option<Instant>,
    code: VecDeque<String>,
}

/// What a kernel says about itself in a `kernel_info_reply`.
#[derive(Debug, Default, Deserialize)]
struct KernelInfo {
    #[serde(default)]
    language_info: LanguageInfo,
}

#[derive(Debug, Default, Deserialize)]
struct LanguageInfo {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
}

#[derive(Debug)]
struct Pending {
    msg_type: String,
    origin: Origin,
    replied: bool,
    idle: bool,
    /// The reply has come: nothing is waited for after this.
    over_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Client,
    StartUp,
}

/// CONFIGURE's content, as far as it concerns kernels of any language.
#[derive(Debug, Deserialize)]
pub(super) struct Settings {
    engine_id: Value,
    engine_uuid: Value,
    #[serde(default)]
    exec_lines: Vec<String>,
    #[serde(default)]
    pub(super) exec_files: Vec<String>,
}

impl Conversation {
    pub(super) fn new(name: &str, composer: Composer) -> Self {
        Self {
            name: name.to_owned(),
            composer,
            engine: json!({}),
            state: State::Fresh,
            pending: HashMap::new(),
        }
    }

    // ---- the engine

    /// `files`: contents of the start-up files, which run after the lines.
    pub(super) fn on_configure(
        &mut self,
        now: Timestamp,
        settings: Settings,
        files: Vec<String>,
        out: &mut Vec<Action>,
    ) {
        self.engine = json!({
            "engine_id": settings.engine_id,
            "engine_uuid": settings.engine_uuid,
            "method": "execute",
        });
        let mut probing = Probing {
            asked: Vec::new(),
            info: None,
            is_heard: false,
            ask_again: None,
            code: settings.exec_lines.into_iter().chain(files).collect(),
        };
        self.probe(now, &mut probing, out);
        self.state = State::Probing(probing);
    }

    pub(super) fn on_request(
        &mut self,
        now: Timestamp,
        message: LinkMessage,
        out: &mut Vec<Action>,
    ) {
        let LinkMessage { tag, frames } = message;
        let frames: Vec<Vec<u8>> = frames.into_iter().map(LinkFrame::into_bytes).collect();
        match tag {
            to_kernel::APPLY => {
                let header = frames.into_iter().next().unwrap_or_default();
                let why = format!(
                    "this engine runs the Jupyter kernel {:?}, which executes code; functions can be applied only on \
                     engines of ipyparallel's own kind",
                    self.name
                );
                self.refuse(&header, &why, out);
            }
            to_kernel::REQUEST => self.forward(frames, out),
            to_kernel::EXIT => {
                self.say(
                    now,
                    Channel::Control,
                    "shutdown_request",
                    json!({ "restart": false }),
                    out,
                );
            }
            _ => {}
        }
    }

    fn forward(&mut self, frames: Vec<Vec<u8>>, out: &mut Vec<Action>) {
        let mut frames = frames.into_iter();
        let mut next = || frames.next().unwrap_or_default();
        let channel = if next() == b"control" {
            Channel::Control
        } else {
            Channel::Shell
        };
        let mut message = JupyterMessage {
            header: next(),
            parent: next(),
            metadata: next(),
            content: next(),
            buffers: frames.collect(),
        };
        let Ok(header) = Header::parse(&message.header) else {
            return;
        };
        let (msg_id, msg_type) = (header.msg_id.into_owned(), header.msg_type.into_owned());
        if msg_type == "clear_request" {
            let why = format!(
                "the Jupyter kernel {:?} has no way to clear its namespace",
                self.name
            );
            return self.refuse(&message.header, &why, out);
        }
        if msg_type == "execute_request"
            && let Some(content) = without_aborting(&message.content)
        {
            message.content = content;
        }
        self.pending
            .insert(msg_id, Pending::new(msg_type, Origin::Client));
        out.push(Action::ToKernel(channel, message));
    }

    /// Answers in the kernel's place.
    fn refuse(&self, header: &[u8], why: &str, out: &mut Vec<Action>) {
        let Ok(header) = Header::parse(header) else {
            return;
        };
        let msg_id = header.msg_id.as_bytes().to_vec();
        let mut content = RemoteError::new("NotImplementedError", why).to_content();
        content["engine_info"] = self.engine.clone();
        let content = content.to_string().into_bytes();
        out.push(Action::ToEngine {
            tag: from_kernel::REPLY,
            frames: vec![msg_id.clone(), content, Vec::new()],
        });
        out.push(Action::ToEngine {
            tag: from_kernel::DONE,
            frames: vec![msg_id],
        });
    }

    pub(super) fn on_interrupt(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        self.say(now, Channel::Control, "interrupt_request", json!({}), out);
    }

    // ---- the kernel

    /// A message on the shell or control channel.
    pub(super) fn on_reply(
        &mut self,
        clock: Instant,
        now: Timestamp,
        message: JupyterMessage,
        out: &mut Vec<Action>,
    ) {
        let Some(msg_id) = parent_id(&message.parent) else {
            return;
        };
        if let State::Probing(probing) = &mut self.state
            && probing.asked.contains(&msg_id)
        {
            let info = serde_json::from_slice(&message.content).unwrap_or_default();
            probing.info.get_or_insert(info);
            probing.ask_again = Some(clock + ASK_AGAIN);
            return self.go_on(now, out);
        }
        let Some(pending) = self.pending.get_mut(&msg_id) else {
            return;
        };
        if pending.replied || reply_type(&pending.msg_type) != reply_of(&message.header) {
            return;
        }
        pending.replied = true;
        pending.over_at = Some(clock + TIME_FOR_IDLE);
        if pending.origin == Origin::StartUp {
            warn_of_failure(&message.content, out);
        } else {
            let content = complete(message.content, &self.engine);
            let mut frames = vec![msg_id.clone().into_bytes(), content, Vec::new()];
            frames.extend(message.buffers);
            out.push(Action::ToEngine {
                tag: from_kernel::REPLY,
                frames,
            });
        }
        self.end_if_over(now, &msg_id, out);
    }

    pub(super) fn on_iopub(
        &mut self,
        now: Timestamp,
        message: JupyterMessage,
        out: &mut Vec<Action>,
    ) {
        let msg_type = reply_of(&message.header);
        let parent = parent_id(&message.parent);
        if msg_type == "status" {
            return self.on_status(now, parent, &message.content, out);
        }
        if msg_type.is_empty() || !matches!(self.state, State::StartUp { .. } | State::Ready) {
            return;
        }
        let origin = parent
            .as_ref()
            .and_then(|id| self.pending.get(id))
            .map(|pending| pending.origin);
        match (msg_type.as_str(), stream_text(&msg_type, &message.content)) {
            (_, Some((_, text))) if origin == Some(Origin::StartUp) => {
                out.push(log(
                    "INFO",
                    &format!("start-up code wrote: {}", text.trim_end()),
                ));
            }
            _ if origin == Some(Origin::StartUp) => {}
            (_, Some((name, text))) => out.push(Action::ToEngine {
                tag: from_kernel::STREAM,
                frames: vec![name.into_bytes(), message.parent, text.into_bytes()],
            }),
            _ => {
                let mut frames = vec![
                    msg_type.into_bytes(),
                    message.parent,
                    message.metadata,
                    message.content,
                ];
                frames.extend(message.buffers);
                out.push(Action::ToEngine {
                    tag: from_kernel::IOPUB,
                    frames,
                });
            }
        }
    }

    fn on_status(
        &mut self,
        now: Timestamp,
        parent: Option<String>,
        content: &[u8],
        out: &mut Vec<Action>,
    ) {
        if let State::Probing(probing) = &mut self.state {
            // Whatever it says, it is heard.
            probing.is_heard = true;
            return self.go_on(now, out);
        }
        let state: Value = serde_json::from_slice(content).unwrap_or_default();
        if let Some(msg_id) = parent.filter(|_| state["execution_state"] == "idle")
            && let Some(pending) = self.pending.get_mut(&msg_id)
        {
            pending.idle = true;
            self.end_if_over(now, &msg_id, out);
        }
    }

    // ---- time

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let asking = match &self.state {
            State::Probing(probing) => probing.ask_again,
            _ => None,
        };
        let waiting = self.pending.values().filter_map(|pending| pending.over_at);
        waiting.chain(asking).min()
    }

    pub(super) fn on_time(&mut self, clock: Instant, now: Timestamp, out: &mut Vec<Action>) {
        if let State::Probing(probing) = &mut self.state
            && probing.ask_again.is_some_and(|at| at <= clock)
        {
            probing.ask_again = None;
            let State::Probing(mut probing) = std::mem::replace(&mut self.state, State::Fresh)
            else {
                return;
            };
            self.probe(now, &mut probing, out);
            self.state = State::Probing(probing);
        }
        let over: Vec<String> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.over_at.is_some_and(|at| at <= clock))
            .map(|(msg_id, _)| msg_id.clone())
            .collect();
        for msg_id in over {
            if let Some(pending) = self.pending.get_mut(&msg_id) {
                pending.idle = true;
            }
            self.end_if_over(now, &msg_id, out);
        }
    }

    // ---- steps

    fn probe(&mut self, now: Timestamp, probing: &mut Probing, out: &mut Vec<Action>) {
        let msg_id = self.say(now, Channel::Shell, "kernel_info_request", json!({}), out);
        probing.asked.push(msg_id);
    }

    /// From probing to the start-up code, through that, and to work.
    fn go_on(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        let (info, mut left) = match std::mem::replace(&mut self.state, State::Ready) {
            State::Probing(Probing {
                info: Some(info),
                is_heard: true,
                code,
                ..
            }) => (info, code),
            State::StartUp { info, left, .. } => (info, left),
            other => {
                self.state = other;
                return;
            }
        };
        let Some(code) = left.pop_front() else {
            return out.push(ready(&self.name, &info));
        };
        let content = json!({
            "code": code, "silent": true, "store_history": false, "user_expressions": {}, "allow_stdin": false,
        });
        let running = self.say(now, Channel::Shell, "execute_request", content, out);
        self.pending.insert(
            running.clone(),
            Pending::new("execute_request".to_owned(), Origin::StartUp),
        );
        self.state = State::StartUp {
            info,
            running,
            left,
        };
    }

    fn end_if_over(&mut self, now: Timestamp, msg_id: &str, out: &mut Vec<Action>) {
        let is_over = |pending: &Pending| {
            pending.idle && (pending.replied || has_no_reply(&pending.msg_type))
        };
        if !self.pending.get(msg_id).is_some_and(is_over) {
            return;
        }
        self.pending.remove(msg_id);
        match &self.state {
            State::StartUp { running, .. } if running == msg_id => self.go_on(now, out),
            _ => out.push(Action::ToEngine {
                tag: from_kernel::DONE,
                frames: vec![msg_id.as_bytes().to_vec()],
            }),
        }
    }

    /// Says something that no client has asked for; its message id is returned.
    fn say(
        &mut self,
        now: Timestamp,
        channel: Channel,
        msg_type: &str,
        content: Value,
        out: &mut Vec<Action>,
    ) -> String {
        let outgoing = Outgoing::new(msg_type, content);
        let [_, _, header, parent, metadata, content] = self.composer.compose(&outgoing, now);
        let msg_id = Header::parse(&header)
            .map(|header| header.msg_id.into_owned())
            .unwrap_or_default();
        let message = JupyterMessage {
            header,
            parent,
            metadata,
            content,
            buffers: Vec::new(),
        };
        out.push(Action::ToKernel(channel, message));
        msg_id
    }
}

impl Pending {
    fn new(msg_type: String, origin: Origin) -> Self {
        Self {
            msg_type,
            origin,
            replied: false,
            idle: false,
            over_at: None,
        }
    }
}

fn has_no_reply(msg_type: &str) -> bool {
    msg_type.starts_with("comm_") && msg_type != "comm_info_request"
}

fn reply_of(header: &[u8]) -> String {
    Header::parse(header)
        .map(|header| header.msg_type.into_owned())
        .unwrap_or_default()
}

fn parent_id(parent: &[u8]) -> Option<String> {
    let header = Header::parse_parent(parent).ok()??;
    Some(header.msg_id.into_owned())
}

/// Name and text of a stream message.
fn stream_text(msg_type: &str, content: &[u8]) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Content {
        name: String,
        text: String,
    }
    if msg_type != "stream" {
        return None;
    }
    let Content { name, text } = serde_json::from_slice(content).ok()?;
    Some((name, text))
}

/// The content of a reply that is not "ok", with all that ipyparallel's client reads of it: kernels leave out what they
/// do not have, and say "abort" as well.
fn complete(content: Vec<u8>, engine: &Value) -> Vec<u8> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(&content) else {
        return content;
    };
    let status = fields.get("status").and_then(Value::as_str);
    let why = match status {
        Some("ok") | None => return content,
        Some("error") => "",
        Some(_) => "the kernel has aborted it",
    };
    for (name, default) in [
        ("ename", json!("Error")),
        ("evalue", json!(why)),
        ("traceback", json!([])),
    ] {
        fields.entry(name).or_insert(default);
    }
    fields.insert("status".to_owned(), json!("error"));
    fields.insert("engine_info".to_owned(), engine.clone());
    Value::Object(fields).to_string().into_bytes()
}

/// The engine holds the queue, and aborts what is in it after a failure: the kernel is not to do so again with what
/// comes later.
fn without_aborting(content: &[u8]) -> Option<Vec<u8>> {
    let mut content: Value = serde_json::from_slice(content).ok()?;
    content
        .as_object_mut()?
        .insert("stop_on_error".to_owned(), json!(false));
    Some(content.to_string().into_bytes())
}

fn ready(name: &str, info: &KernelInfo) -> Action {
    let content = json!({
        "pid": 0,
        "python": "",
        "executable": "",
        "mode": "jupyter",
        "kernel": { "name": name, "language": info.language_info.name, "version": info.language_info.version },
    });
    Action::ToEngine {
        tag: from_kernel::READY,
        frames: vec![content.to_string().into_bytes()],
    }
}

fn warn_of_failure(content: &[u8], out: &mut Vec<Action>) {
    let content: Value = serde_json::from_slice(content).unwrap_or_default();
    if content["status"] != "ok" {
        let [name, value] =
            ["ename", "evalue"].map(|key| content[key].as_str().unwrap_or_default());
        out.push(log(
            "WARNING",
            &format!("start-up code failed: {name}: {value}"),
        ));
    }
}

fn log(level: &str, text: &str) -> Action {
    Action::ToEngine {
        tag: from_kernel::LOG,
        frames: vec![level.as_bytes().to_vec(), text.as_bytes().to_vec()],
    }
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
