//! Synthetic engines: to a controller each is an engine with all its connections; here they are one thread.
//!
//! One router holds the connections of all engines to one channel: each connection tells the controller its own
//! engine's routing id, and is known here by the same. So a thousand engines cost this side no more than four.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipcluster::profile::connection::{Channel, EngineFile};
use ipcluster::protocol::{Signer, Wire};
use ipcluster::transport::{Frame, Kind, Poller, Socket, drain};
use serde_json::{Value, json};

use crate::controllers::{Server, Side, context};
use crate::messages::{Headers, seal};
use crate::relay::HELLO;

/// Connections that an engine keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    /// All eight.
    All,
    /// The task queue and the two of the heart, where the limit on open files allows no more.
    Few,
}

/// Engines at work.
pub(crate) struct Engines {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    count: usize,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Requests are kept and not answered.
    hold: AtomicBool,
    answered: AtomicUsize,
    /// uuid and id of those whose registration was answered.
    ids: Mutex<Vec<(String, u64)>>,
    failure: Mutex<Option<String>>,
}

impl Engines {
    /// Starts them; to be followed by [`Engines::until_answered`].
    pub(crate) fn start(
        server: &Server,
        count: usize,
        connections: Connections,
    ) -> Result<Self, Box<dyn Error>> {
        let shared = Arc::new(Shared::default());
        let mut pool = Pool::new(server, count, connections, shared.clone())?;
        let thread = std::thread::Builder::new()
            .name("engines".to_owned())
            .spawn(move || {
                if let Err(error) = pool.run() {
                    pool.shared.fail(&error.to_string());
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
            count,
        })
    }

    /// Waits until the controller has answered every registration.
    pub(crate) fn until_answered(&self, limit: Duration) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + limit;
        while self.shared.answered.load(Ordering::Acquire) < self.count {
            self.check()?;
            if Instant::now() > deadline {
                let answered = self.shared.answered.load(Ordering::Acquire);
                return Err(format!("{answered} of {} registrations answered", self.count).into());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    /// uuid and id of each.
    pub(crate) fn ids(&self) -> Vec<(String, u64)> {
        lock(&self.shared.ids).clone()
    }

    /// Whether requests are kept instead of answered.
    pub(crate) fn hold(&self, hold: bool) {
        self.shared.hold.store(hold, Ordering::Release);
    }

    /// What went wrong, if something did.
    pub(crate) fn check(&self) -> Result<(), Box<dyn Error>> {
        match &*lock(&self.shared.failure) {
            Some(why) => Err(why.clone().into()),
            None => Ok(()),
        }
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn fail(&self, why: &str) {
        lock(&self.failure).get_or_insert_with(|| format!("engines: {why}"));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sockets, each with one connection for every engine.
struct Pool {
    shared: Arc<Shared>,
    connections: Connections,
    file: EngineFile,
    uuids: Vec<String>,
    /// Nothing registers at a relay.
    registrar: Option<Socket>,
    /// Task, mux, broadcast and control.
    shells: Vec<Socket>,
    iopub: Socket,
    ping: Socket,
    pong: Socket,
    replier: Replier,
    held: Vec<(usize, Vec<Frame>)>,
    /// Whose turn it is to echo a ping: each engine's connection brings one.
    next_heart: usize,
    /// Routing ids of those that have registered.
    hearts: Vec<Frame>,
}

const TASK: usize = 0;
const MUX: usize = 1;
const BROADCAST: usize = 2;
const CONTROL: usize = 3;

/// How often the thread looks whether it shall end, or answer what it holds.
const LOOK: Duration = Duration::from_millis(20);

impl Pool {
    fn new(
        server: &Server,
        count: usize,
        connections: Connections,
        shared: Arc<Shared>,
    ) -> Result<Self, Box<dyn Error>> {
        let context = context(&server.engine.common)?;
        let socket = |kind| context.socket(kind);
        let shells = (0..4)
            .map(|_| socket(Kind::Router))
            .collect::<Result<_, _>>()?;
        let registrar = match server.side {
            Side::Relay => None,
            Side::Ours | Side::Stock => Some(socket(Kind::Router)?),
        };
        let iopub = socket(Kind::XPub)?;
        let ping = socket(Kind::Sub)?;
        let file = server.engine.clone();
        let replier = Replier::new(Signer::new(file.common.key.as_bytes()));
        Ok(Self {
            shared,
            connections,
            uuids: (0..count)
                .map(|_| uuid::Uuid::new_v4().to_string())
                .collect(),
            registrar,
            shells,
            iopub,
            ping,
            pong: socket(Kind::Router)?,
            replier,
            held: Vec::new(),
            next_heart: 0,
            hearts: Vec::new(),
            file,
        })
    }

    fn run(&mut self) -> Result<(), Box<dyn Error>> {
        if self.registrar.is_some() {
            self.register()?;
        } else {
            self.say_hello()?;
        }
        let mut poller = self.poller();
        let mut frames = Vec::new();
        while !self.shared.stop.load(Ordering::Acquire) {
            let mut busy = self.receive_registrations(&mut frames)?;
            let all_registered = self.hearts.len() == self.uuids.len();
            if self.connections == Connections::Few && all_registered && self.registrar.is_some() {
                self.registrar = None;
                poller = self.poller();
            }
            busy |= self.answer_requests(&mut frames)?;
            busy |= self.echo_pings(&mut frames)?;
            poller.wait(Some(if busy { Duration::ZERO } else { LOOK }))?;
        }
        Ok(())
    }

    fn poller(&mut self) -> Poller {
        let mut poller = Poller::new();
        let others = [&mut self.ping, &mut self.pong];
        let sockets = self.shells.iter_mut().chain(others);
        for socket in sockets.chain(&mut self.registrar) {
            poller.add_socket(socket);
        }
        // Nobody asks what the controller subscribes to.
        let iopub = poller.add_socket(&mut self.iopub);
        poller.want_read(iopub, false);
        poller
    }

    fn register(&mut self) -> Result<(), Box<dyn Error>> {
        let url = url(&self.file, Channel::Registration)?;
        let Some(registrar) = &mut self.registrar else {
            return Ok(());
        };
        let signer = self.replier.signer.clone();
        let empty = Frame::from(&b"{}"[..]);
        for uuid in &self.uuids {
            registrar.set_identity(uuid.as_bytes());
            registrar.connect_known_as(&url, uuid.as_bytes())?;
            let content = Frame::from(json!({ "uuid": uuid }).to_string().into_bytes());
            let mut frames = vec![Frame::from(uuid.as_bytes())];
            let mut headers = Headers::new("registration_request", uuid);
            seal(
                &mut frames,
                &signer,
                headers.next(),
                [&empty, &empty, &content],
            );
            registrar.send(&mut frames)?;
        }
        Ok(())
    }

    fn say_hello(&mut self) -> Result<(), Box<dyn Error>> {
        for index in 0..self.uuids.len() {
            let name = self.uuids[index].clone();
            for (shell, channel) in [(TASK, Channel::Task), (MUX, Channel::Mux)] {
                let url = url(&self.file, channel)?;
                connect(&mut self.shells[shell], &url, &name)?;
                self.shells[shell]
                    .send(&mut vec![Frame::from(name.as_bytes()), Frame::from(HELLO)])?;
            }
        }
        self.shared
            .answered
            .store(self.uuids.len(), Ordering::Release);
        *lock(&self.shared.ids) = self.uuids.iter().cloned().zip(0..).collect();
        Ok(())
    }

    fn receive_registrations(&mut self, frames: &mut Vec<Frame>) -> Result<bool, Box<dyn Error>> {
        let mut answered = Vec::new();
        let Some(registrar) = &mut self.registrar else {
            return Ok(false);
        };
        let busy = drain(registrar, frames, |_, frames| {
            let content = Wire::parse(frames)
                .ok()
                .and_then(|wire| serde_json::from_slice::<Value>(wire.content()).ok());
            answered.push((
                String::from_utf8_lossy(&frames[0]).into_owned(),
                content.unwrap_or_default(),
            ));
        });
        for (uuid, content) in answered {
            let Some(id) = content["id"].as_u64() else {
                return Err(format!("registration refused: {content}").into());
            };
            self.connect(&uuid, id)?;
            self.hearts.push(Frame::from(uuid.as_bytes()));
            lock(&self.shared.ids).push((uuid, id));
            self.shared.answered.fetch_add(1, Ordering::AcqRel);
        }
        Ok(busy)
    }

    /// What an engine connects when it has its id; its heart comes last, by which it counts as registered.
    fn connect(&mut self, uuid: &str, id: u64) -> Result<(), Box<dyn Error>> {
        connect(
            &mut self.shells[TASK],
            &url(&self.file, Channel::Task)?,
            uuid,
        )?;
        if self.connections == Connections::All {
            connect(&mut self.shells[MUX], &url(&self.file, Channel::Mux)?, uuid)?;
            let broadcast = self
                .file
                .broadcast_url(u32::try_from(id)?)
                .ok_or("no broadcast port")?;
            connect(&mut self.shells[BROADCAST], &broadcast, uuid)?;
            connect(
                &mut self.shells[CONTROL],
                &url(&self.file, Channel::Control)?,
                uuid,
            )?;
            self.iopub.connect(&url(&self.file, Channel::Iopub)?)?;
        }
        connect(
            &mut self.pong,
            &url(&self.file, Channel::HeartbeatPong)?,
            uuid,
        )?;
        self.ping
            .connect(&url(&self.file, Channel::HeartbeatPing)?)?;
        Ok(())
    }

    fn answer_requests(&mut self, frames: &mut Vec<Frame>) -> Result<bool, Box<dyn Error>> {
        let mut busy = false;
        let hold = self.shared.hold.load(Ordering::Acquire);
        if !hold {
            for (shell, mut request) in std::mem::take(&mut self.held) {
                self.replier.answer(&mut request)?;
                self.shells[shell].send(&mut request)?;
            }
        }
        for (index, shell) in self.shells.iter_mut().enumerate() {
            let (held, replier) = (&mut self.held, &mut self.replier);
            let mut failure = None;
            busy |= drain(shell, frames, |shell, frames| {
                if hold {
                    held.push((index, std::mem::take(frames)));
                    return;
                }
                let sent = replier
                    .answer(frames)
                    .and_then(|()| Ok(shell.send(frames)?));
                if let Err(error) = sent {
                    failure = Some(error);
                }
            });
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(busy)
    }

    fn echo_pings(&mut self, frames: &mut Vec<Frame>) -> Result<bool, Box<dyn Error>> {
        let (pong, hearts, next_heart) = (&mut self.pong, &self.hearts, &mut self.next_heart);
        let mut failure = None;
        let busy = drain(&mut self.ping, frames, |_, frames| {
            let Some(heart) = hearts.get(*next_heart % hearts.len().max(1)) else {
                return;
            };
            *next_heart += 1;
            frames.insert(0, heart.clone());
            if let Err(error) = pong.send(frames) {
                failure = Some(error);
            }
        });
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(busy),
        }
    }
}

/// Connects as the engine `uuid`; here the connection goes by the same name.
fn connect(socket: &mut Socket, url: &str, uuid: &str) -> io::Result<()> {
    socket.set_identity(uuid.as_bytes());
    socket.connect_known_as(url, uuid.as_bytes())
}

fn url(file: &EngineFile, channel: Channel) -> Result<String, Box<dyn Error>> {
    file.url(channel)
        .ok_or_else(|| format!("no port for {channel:?}").into())
}

/// Makes replies of requests.
struct Replier {
    signer: Signer,
    headers: Headers,
    content: Frame,
    /// Of the replies to requests other than broadcasts, by engine: ipyparallel's hub counts a task for the one that its
    /// reply names.
    metadata: HashMap<Vec<u8>, Frame>,
}

impl Replier {
    fn new(signer: Signer) -> Self {
        Self {
            signer,
            headers: Headers::new("apply_reply", &uuid::Uuid::new_v4().to_string()),
            content: Frame::from(&b"{\"status\": \"ok\"}"[..]),
            metadata: HashMap::new(),
        }
    }

    /// Turns `engine, client…, <IDS|MSG>, …` into its reply, with the same buffers.
    fn answer(&mut self, frames: &mut Vec<Frame>) -> Result<(), Box<dyn Error>> {
        let layout = Wire::parse(frames)?.layout();
        let buffers = frames.split_off(layout.buffers().start);
        let header = frames[layout.header()].clone();
        let request = frames[layout.metadata()].clone();
        frames.truncate(layout.delimiter());
        let metadata = if contains(&request, b"\"is_broadcast\"") {
            broadcast_metadata(&frames[0], &request)?
        } else if let Some(metadata) = self.metadata.get(&frames[0][..]) {
            metadata.clone()
        } else {
            let metadata = task_metadata(&frames[0]);
            self.metadata.insert(frames[0].to_vec(), metadata.clone());
            metadata
        };
        let parts = [&header, &metadata, &self.content];
        seal(frames, &self.signer, self.headers.next(), parts);
        frames.extend(buffers);
        Ok(())
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn task_metadata(engine: &[u8]) -> Frame {
    let metadata = json!({
        "status": "ok", "engine": String::from_utf8_lossy(engine), "dependencies_met": true, "is_broadcast": false,
        "is_coalescing": false, "original_msg_id": "", "label": null, "started": "2025-01-01T12:00:00.000000Z",
    });
    Frame::from(metadata.to_string().into_bytes())
}

fn broadcast_metadata(engine: &[u8], request: &[u8]) -> Result<Frame, Box<dyn Error>> {
    let request: Value = serde_json::from_slice(request)?;
    let metadata = json!({
        "status": "ok", "engine": String::from_utf8_lossy(engine), "dependencies_met": true, "started": "2025-01-01T12:00:00.000000Z",
        "is_broadcast": request["is_broadcast"], "is_coalescing": request["is_coalescing"],
        "original_msg_id": request["original_msg_id"],
    });
    Ok(Frame::from(metadata.to_string().into_bytes()))
}
