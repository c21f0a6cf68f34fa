//! Broadcasts, as they come to a process that runs several engines: once, for as many of its engines as are meant, so that
//! a payload crosses to a host once. The engines share the frames, and answer for themselves.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::config::Config;
use super::engine_thread::requests::{Origin, Request};
use super::mail::EngineMail;
use super::sockets::router;
use crate::protocol::digests::DigestHistory;
use crate::protocol::{EngineUuid, Signer};
use crate::transport::{
    ConnectionEvent, Context, Door, Frame, Mailbox, Monitor, Poller, Sender, Socket, drain, mailbox,
};

/// The thread that receives, as the rest of the process sees it.
#[derive(Debug)]
pub(super) struct PostBox {
    address: EngineUuid,
    mail: Sender<PostMail>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum PostMail {
    Engine(EngineUuid, Sender<EngineMail>),
    Forget(EngineUuid),
    End,
}

impl PostBox {
    /// Connects to the controller's broadcast queue. One of ipyparallel's never sends anything this way.
    pub(super) fn open(context: &Context, config: &Config, url: &str) -> io::Result<Self> {
        let address = EngineUuid::from(uuid::Uuid::new_v4().to_string());
        let socket = router(context, address.as_str().as_bytes())?;
        let connections = Monitor::new(&socket);
        socket.connect(url)?;
        let digests = Arc::new(Mutex::new(DigestHistory::new(config.digest_history)));
        let signer = Signer::new(config.connection.common.key.as_bytes());
        let (mail, mailbox) = mailbox()?;
        let post = Post {
            socket,
            connections,
            was_connected: false,
            door: Door::new("broadcast", signer, digests),
            mailbox,
            engines: HashMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("post".to_owned())
            .spawn(move || post.run())?;
        Ok(Self {
            address,
            mail,
            thread,
        })
    }

    /// The routing id that engines name when they register.
    pub(super) fn address(&self) -> EngineUuid {
        self.address.clone()
    }

    pub(super) fn deliver_to(&self, engine: EngineUuid, mail: Sender<EngineMail>) {
        self.mail.send(PostMail::Engine(engine, mail));
    }

    pub(super) fn forget(&self, engine: EngineUuid) {
        self.mail.send(PostMail::Forget(engine));
    }

    pub(super) fn close(self) {
        self.mail.send(PostMail::End);
        // A thread that panicked has said so.
        let _ = self.thread.join();
    }
}

struct Post {
    socket: Socket,
    connections: Monitor,
    was_connected: bool,
    door: Door,
    mailbox: Mailbox<PostMail>,
    engines: HashMap<EngineUuid, Sender<EngineMail>>,
}

impl Post {
    fn run(mut self) {
        let mut poller = Poller::new();
        poller.add_socket(&mut self.socket);
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        let mut frames = Vec::new();
        loop {
            let mut busy = self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                match message {
                    PostMail::Engine(uuid, mail) => {
                        self.engines.insert(uuid, mail);
                    }
                    PostMail::Forget(uuid) => {
                        self.engines.remove(&uuid);
                    }
                    PostMail::End => return,
                }
            }
            busy |= self.receive(&mut frames);
            self.note_connections(&mut frames);
            if !busy && let Err(error) = poller.wait(None) {
                tracing::error!("broadcasts: cannot wait for messages: {error}");
                return;
            }
        }
    }

    /// What was on its way when the connection broke may not have come: the engines are to say what has.
    fn note_connections(&mut self, frames: &mut Vec<Frame>) {
        while let Some((event, queue)) = self.connections.receive_named() {
            if !matches!(event, ConnectionEvent::Established(_)) {
                continue;
            }
            if std::mem::replace(&mut self.was_connected, true)
                && let Some(queue) = queue
            {
                while self.receive(frames) {}
                for engine in self.engines.values() {
                    engine.send(EngineMail::Recount(queue.clone()));
                }
            }
        }
    }

    fn receive(&mut self, frames: &mut Vec<Frame>) -> bool {
        let (door, engines) = (&mut self.door, &self.engines);
        drain(&mut self.socket, frames, |_, frames| {
            let read = door
                .admit(frames)
                .map(|wire| Request::read(&wire, frames, Origin::Shell).and_then(split));
            match read {
                Some(Ok(parts)) => {
                    for (uuid, request) in parts {
                        // One that has ended answers nothing any more: the controller does, which knows or will know.
                        if let Some(engine) = engines.get(&uuid) {
                            engine.send(EngineMail::Delivered(Box::new(request)));
                        }
                    }
                }
                Some(Err(why)) => door.refuse(frames, why),
                None => {}
            }
        })
    }
}

/// What each engine is to have of a request.
fn split(mut request: Request) -> Result<Vec<(EngineUuid, Request)>, String> {
    #[derive(Deserialize)]
    struct Targets {
        targets: Vec<(EngineUuid, String)>,
    }
    let bad = |part: &'static str| move |error: serde_json::Error| format!("its {part}: {error}");
    let Targets { targets } = serde_json::from_slice(&request.metadata).map_err(bad("metadata"))?;
    let mut metadata: Map<String, Value> =
        serde_json::from_slice(&request.metadata).map_err(bad("metadata"))?;
    metadata.remove("targets");
    request.metadata = Frame::from(Value::from(metadata).to_string().into_bytes());
    if targets.len() > 1
        && let Err(error) = request.share_buffers()
    {
        tracing::debug!(
            "broadcasts: each kernel is sent its payload, which cannot be shared: {error}"
        );
    }
    let mut header: Map<String, Value> =
        serde_json::from_slice(&request.header).map_err(bad("header"))?;
    let parts = targets.into_iter().map(|(uuid, msg_id)| {
        header.insert("msg_id".to_owned(), json!(msg_id));
        let header =
            Bytes::from(serde_json::to_vec(&header).expect("a map of JSON values is JSON"));
        (uuid, request.for_one(msg_id, header))
    });
    Ok(parts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DELIMITER, Wire};

    fn request(metadata: &str) -> Request {
        let header = r#"{"msg_id":"m","msg_type":"apply_request","session":"s","username":"u","date":"2026-01-01T00:00:00Z","version":"5.3"}"#;
        let frames = [
            &b"broadcast_out"[..],
            b"client",
            DELIMITER,
            b"",
            header.as_bytes(),
            b"{}",
            metadata.as_bytes(),
            b"{}",
            b"payload",
        ]
        .map(Frame::from);
        Request::read(&Wire::parse(&frames).unwrap(), &frames, Origin::Shell).unwrap()
    }

    #[test]
    fn each_engine_gets_the_request_under_its_own_id() {
        let metadata = r#"{"is_broadcast":true,"targets":[["a","m_a"],["b","m_b"]]}"#;
        let parts = split(request(metadata)).unwrap();
        let uuids: Vec<_> = parts.iter().map(|(uuid, _)| uuid.as_str()).collect();
        assert_eq!(uuids, ["a", "b"]);
        for (uuid, part) in &parts {
            let id = format!("m_{uuid}");
            let header: Value = serde_json::from_slice(&part.header).unwrap();
            assert_eq!((&part.msg_id, header["msg_id"].as_str()), (&id, Some(&*id)));
            assert_eq!(&part.metadata[..], br#"{"is_broadcast":true}"#);
            assert_eq!(&part.route[1][..], b"client");
            assert_eq!(&part.buffers[0][..], b"payload");
        }
    }

    #[test]
    fn one_that_names_no_engines_is_refused() {
        for metadata in ["{}", "[]", "", r#"{"targets":["a"]}"#] {
            assert!(split(request(metadata)).is_err());
        }
        assert!(split(request(r#"{"targets":[]}"#)).unwrap().is_empty());
    }
}
