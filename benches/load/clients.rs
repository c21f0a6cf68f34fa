//! Synthetic clients, which send requests and check that each is answered exactly once.

use std::error::Error;
use std::time::{Duration, Instant};

use ipcluster::profile::connection::{Channel, ClientFile};
use ipcluster::protocol::metadata::ReplyMetadata;
use ipcluster::protocol::{Header, Signer, Wire};
use ipcluster::transport::{Context, Frame, Kind, Poller, Socket};
use serde_json::{Value, json};

use crate::controllers::context;
use crate::messages::{Headers, number_of, seal};

/// Where requests go, and to whom.
#[derive(Clone, Debug)]
pub(crate) enum Queue {
    Task,
    /// To each of these engines in turn.
    Mux(Vec<String>),
    /// To all of these engines, with one reply for all.
    Coalescing(Vec<(String, u64)>),
}

/// A client's connection to one queue.
pub(crate) struct Client {
    socket: Socket,
    headers: Headers,
    signer: Signer,
    queue: Queue,
    metadata: Frame,
    empty: Frame,
    payload: Frame,
    sent: u64,
    received: u64,
    answered: Vec<u64>,
    /// When each request was sent, if that is asked for.
    sent_at: Option<Vec<Instant>>,
    frames: Vec<Frame>,
}

/// Replies whose signatures are checked, too: one in so many. The number of every reply is checked.
const VERIFY_EVERY: u64 = 64;

impl Client {
    pub(crate) fn connect(
        context: &Context,
        file: &ClientFile,
        queue: Queue,
        payload: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let url = match &queue {
            Queue::Task => file.url(Channel::Task),
            Queue::Mux(_) => file.url(Channel::Mux),
            Queue::Coalescing(_) => file.broadcast_url(),
        };
        let session = uuid::Uuid::new_v4().to_string();
        let socket = context.socket(Kind::Dealer)?;
        socket.set_identity(session.as_bytes());
        socket.connect(&url.ok_or("the controller has no such queue")?)?;
        let metadata = match &queue {
            Queue::Task => json!({
                "after": [], "follow": [], "timeout": null, "targets": [], "retries": 0, "label": null,
            }),
            Queue::Mux(_) => json!({}),
            Queue::Coalescing(targets) => {
                json!({ "targets": targets, "is_broadcast": true, "is_coalescing": true })
            }
        };
        Ok(Self {
            socket,
            headers: Headers::new("apply_request", &session),
            signer: Signer::new(file.common.key.as_bytes()),
            queue,
            metadata: Frame::from(metadata.to_string().into_bytes()),
            empty: Frame::from(&b"{}"[..]),
            payload: Frame::from(vec![7; payload]),
            sent: 0,
            received: 0,
            answered: Vec::new(),
            sent_at: None,
            frames: Vec::new(),
        })
    }

    fn send(&mut self) -> Result<(), Box<dyn Error>> {
        self.frames.clear();
        if let Queue::Mux(targets) = &self.queue {
            let target = &targets[self.sent as usize % targets.len()];
            self.frames.push(Frame::from(target.as_bytes()));
        }
        let parts = [&self.empty, &self.metadata, &self.empty];
        seal(&mut self.frames, &self.signer, self.headers.next(), parts);
        self.frames.push(self.payload.clone());
        if let Some(sent_at) = &mut self.sent_at {
            sent_at.push(Instant::now());
        }
        self.sent += 1;
        self.answered.resize(self.sent.div_ceil(64) as usize, 0);
        Ok(self.socket.send(&mut self.frames)?)
    }

    /// The number of the request that is answered by the next reply, if there is one.
    fn receive(&mut self) -> Result<Option<u64>, Box<dyn Error>> {
        if !self.socket.receive(&mut self.frames) {
            return Ok(None);
        }
        let wire = Wire::parse(&self.frames)?;
        let number = match self.queue {
            // Stock schedulers name the last engine's part as the parent.
            Queue::Coalescing(_) => ReplyMetadata::parse(wire.metadata())?
                .original_msg_id
                .and_then(|id| number_of(&id)),
            _ => Header::parse_parent(wire.parent_header())?
                .and_then(|parent| number_of(&parent.msg_id)),
        };
        let number = number.ok_or("a reply to nothing")?;
        if !ReplyMetadata::parse(wire.content())?.is_ok() {
            return Err(String::from_utf8_lossy(wire.content()).into_owned().into());
        }
        if number % VERIFY_EVERY == 0 {
            wire.verify(&self.signer)?;
        }
        let buffers = match &self.queue {
            Queue::Coalescing(targets) => targets.len(),
            _ => 1,
        };
        if wire.buffers().len() != buffers || wire.buffers()[0].len() != self.payload.len() {
            return Err("a reply lost its buffers".into());
        }
        if number >= self.sent {
            return Err("a reply to a request that was never sent".into());
        }
        let (word, bit) = (&mut self.answered[number as usize / 64], 1 << (number % 64));
        if *word & bit != 0 {
            return Err("a request was answered twice".into());
        }
        *word |= bit;
        self.received += 1;
        Ok(Some(number))
    }
}

/// Several clients, driven by one thread.
pub(crate) struct Load {
    clients: Vec<Client>,
    poller: Poller,
    payload: usize,
}

/// Without any reply for so long, something is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Replies that are taken from one client before the next one's turn.
const BURST: usize = 64;

impl Load {
    pub(crate) fn new(
        file: &ClientFile,
        clients: usize,
        queue: &Queue,
        payload: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let context = context(&file.common)?;
        let mut clients = (0..clients)
            .map(|_| Client::connect(&context, file, queue.clone(), payload))
            .collect::<Result<Vec<_>, _>>()?;
        let mut poller = Poller::new();
        for client in &mut clients {
            poller.add_socket(&mut client.socket);
        }
        Ok(Self {
            clients,
            poller,
            payload,
        })
    }

    pub(crate) fn sent(&self) -> u64 {
        self.clients.iter().map(|client| client.sent).sum()
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.sent()
            - self
                .clients
                .iter()
                .map(|client| client.received)
                .sum::<u64>()
    }

    /// Bytes of the frames of one request, as a controller must keep them.
    pub(crate) fn request_size(&mut self) -> u64 {
        let client = &mut self.clients[0];
        let header = client.headers.next().len();
        let fixed = 8 + 64 + header + 2 * client.empty.len() + client.metadata.len();
        (fixed + self.payload) as u64
    }

    /// Sends `count` requests without waiting for anything.
    pub(crate) fn submit(&mut self, count: u64) -> Result<(), Box<dyn Error>> {
        let clients = self.clients.len() as u64;
        for number in 0..count {
            self.clients[(number % clients) as usize].send()?;
        }
        Ok(())
    }

    /// Lets what was submitted leave, for so long; replies wait.
    pub(crate) fn rest(&mut self, time: Duration) -> Result<(), Box<dyn Error>> {
        self.want_replies(false);
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.poller.wait(Some(left))?;
        }
        self.want_replies(true);
        Ok(())
    }

    fn want_replies(&mut self, wanted: bool) {
        for entry in 0..self.clients.len() {
            self.poller.want_read(entry, wanted);
        }
    }

    /// Answers `count` requests, sending a new one for each reply as long as `more` of them are left.
    pub(crate) fn run(&mut self, count: u64, mut more: u64) -> Result<(), Box<dyn Error>> {
        let mut done = 0;
        let mut last = Instant::now();
        while done < count {
            let mut any = false;
            for client in &mut self.clients {
                for _ in 0..BURST {
                    if client.receive()?.is_none() {
                        break;
                    }
                    any = true;
                    done += 1;
                    if more > 0 {
                        more -= 1;
                        client.send()?;
                    }
                }
            }
            if any {
                last = Instant::now();
            } else if last.elapsed() > PATIENCE {
                return Err(format!("{done} of {count} requests answered").into());
            } else {
                self.poller.wait(Some(Duration::from_secs(1)))?;
            }
        }
        Ok(())
    }

    /// `count` requests, at most `window` of each client outstanding.
    pub(crate) fn closed_loop(&mut self, count: u64, window: u64) -> Result<(), Box<dyn Error>> {
        let first = (window * self.clients.len() as u64).min(count);
        self.submit(first)?;
        self.run(count, count - first)
    }

    /// Round trip times of `count` requests, one at a time, in ascending order.
    pub(crate) fn one_at_a_time(&mut self, count: u64) -> Result<Vec<Duration>, Box<dyn Error>> {
        let mut times = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            self.submit(1)?;
            self.run(1, 0)?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Ok(times)
    }

    /// Round trip times of `count` requests sent at `rate` per second, whatever comes back, in ascending order.
    pub(crate) fn at_rate(
        &mut self,
        count: u64,
        rate: f64,
    ) -> Result<Vec<Duration>, Box<dyn Error>> {
        let numbers: Vec<u64> = self.clients.iter().map(|client| client.sent).collect();
        for client in &mut self.clients {
            client.sent_at = Some(Vec::new());
        }
        let start = Instant::now();
        let (mut sent, mut times) = (0, Vec::new());
        let mut last = start;
        while (times.len() as u64) < count {
            let due = ((start.elapsed().as_secs_f64() * rate) as u64).min(count);
            self.submit(due.saturating_sub(sent))?;
            sent = sent.max(due);
            let mut any = false;
            for (client, first) in self.clients.iter_mut().zip(&numbers) {
                while let Some(number) = client.receive()? {
                    any = true;
                    let index = number.checked_sub(*first).ok_or("a late reply")?;
                    times.extend(
                        client
                            .sent_at
                            .as_ref()
                            .map(|at| at[index as usize].elapsed()),
                    );
                }
            }
            if any {
                last = Instant::now();
            } else if last.elapsed() > PATIENCE {
                return Err(format!("{} of {count} requests answered", times.len()).into());
            } else {
                self.poller.wait(Some(Duration::from_millis(1)))?;
            }
        }
        times.sort_unstable();
        Ok(times)
    }
}

/// A client's way to the hub.
pub(crate) struct Hub {
    queries: Socket,
    news: Socket,
    poller: Poller,
    headers: Headers,
    signer: Signer,
    session: String,
    frames: Vec<Frame>,
}

impl Hub {
    pub(crate) fn connect(file: &ClientFile) -> Result<Self, Box<dyn Error>> {
        let context = context(&file.common)?;
        let session = uuid::Uuid::new_v4().to_string();
        let mut queries = context.socket(Kind::Dealer)?;
        queries.set_identity(session.as_bytes());
        queries.connect(&file.url(Channel::Registration).ok_or("no hub")?)?;
        let mut news = context.socket(Kind::Sub)?;
        let interface = &file.interface;
        news.connect(&format!("{interface}:{}", file.notification))?;
        let mut poller = Poller::new();
        poller.add_socket(&mut queries);
        poller.add_socket(&mut news);
        Ok(Self {
            queries,
            news,
            poller,
            headers: Headers::new("", &session),
            signer: Signer::new(file.common.key.as_bytes()),
            session,
            frames: Vec::new(),
        })
    }

    /// Asks, and waits for the answer's content.
    pub(crate) fn ask(&mut self, msg_type: &str, content: &Value) -> Result<Value, Box<dyn Error>> {
        if self.headers.msg_type() != msg_type {
            self.headers = Headers::new(msg_type, &format!("{}-{msg_type}", self.session));
        }
        let empty = Frame::from(&b"{}"[..]);
        let content = Frame::from(content.to_string().into_bytes());
        let mut frames = Vec::new();
        let header = self.headers.next();
        seal(
            &mut frames,
            &self.signer,
            header,
            [&empty, &empty, &content],
        );
        self.queries.send(&mut frames)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.queries.receive(&mut self.frames) {
            if Instant::now() > deadline {
                return Err(format!("no answer to a {msg_type}").into());
            }
            self.poller.wait(Some(Duration::from_millis(100)))?;
        }
        let content: Value = serde_json::from_slice(Wire::parse(&self.frames)?.content())?;
        if content["status"] == "error" {
            return Err(format!("{msg_type}: {}", content["evalue"]).into());
        }
        Ok(content)
    }

    /// Waits for the announcement of `count` engines.
    pub(crate) fn until_registered(
        &mut self,
        count: usize,
        limit: Duration,
    ) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + limit;
        let mut seen = 0;
        while seen < count {
            if self.news.receive(&mut self.frames) {
                let wire = Wire::parse(&self.frames)?;
                seen += usize::from(
                    Header::parse(wire.header())?.msg_type == "registration_notification",
                );
            } else if Instant::now() > deadline {
                return Err(format!("{seen} of {count} engines registered").into());
            } else {
                self.poller.wait(Some(Duration::from_millis(100)))?;
            }
        }
        Ok(())
    }

    /// Requests that the hub has seen the end of, and those that wait for an engine.
    pub(crate) fn accounted(&mut self) -> Result<(u64, u64), Box<dyn Error>> {
        let reply = self.ask(
            "queue_request",
            &json!({ "targets": null, "verbose": false }),
        )?;
        let engines = reply.as_object().ok_or("an odd queue_reply")?;
        let completed = engines
            .values()
            .filter_map(|engine| engine.get("completed")?.as_u64());
        Ok((completed.sum(), reply["unassigned"].as_u64().unwrap_or(0)))
    }
}
