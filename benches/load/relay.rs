//! The ceiling: two routers per queue and nothing between them. Nothing is checked, parsed or recorded.
//!
//! Laid out as the controller is: a process with a thread for each queue and one I/O thread. With a high water mark it
//! holds back what the engines have no place for, as any scheduler must.

use std::collections::VecDeque;
use std::error::Error;
use std::fs;
use std::path::Path;

use ipcluster::profile::connection::{ClientFile, Common, EngineFile};

use crate::libzmq::{Context, Frame, Poller, Socket, drain};

const INTERFACE: &str = "tcp://127.0.0.1";

/// Stands for the port of a channel that a relay does not have.
const NONE: u16 = 1;

/// What an engine sends to make itself known.
pub(crate) const HELLO: &[u8] = b"hello";

struct Queue {
    clients: Socket,
    engines: Socket,
}

/// Relays until it is killed.
pub(crate) fn run(dir: &Path, hwm: u32) -> Result<(), Box<dyn Error>> {
    let context = Context::new(1);
    let bind = || -> Result<(Queue, u16, u16), Box<dyn Error>> {
        let (clients, engines) = (context.router()?, context.router()?);
        let ports = (clients.bind(INTERFACE)?, engines.bind(INTERFACE)?);
        Ok((Queue { clients, engines }, ports.0, ports.1))
    };
    let (tasks, task_in, task_out) = bind()?;
    let (direct, mux_in, mux_out) = bind()?;
    write_files(dir, [task_in, mux_in], [task_out, mux_out])?;
    std::thread::spawn(move || relay_direct(direct));
    relay_tasks(tasks, hwm);
    Ok(())
}

fn write_files(
    dir: &Path,
    [task_in, mux_in]: [u16; 2],
    [task_out, mux_out]: [u16; 2],
) -> Result<(), Box<dyn Error>> {
    let common = Common::new("relay", "localhost");
    let client = ClientFile {
        ssh: String::new(),
        interface: INTERFACE.to_owned(),
        registration: NONE,
        control: NONE,
        mux: mux_in,
        task: task_in,
        task_scheme: "relay".to_owned(),
        iopub: NONE,
        notification: NONE,
        broadcast: None,
        common: common.clone(),
        unknown: Default::default(),
    };
    let engine = EngineFile {
        ssh: String::new(),
        interface: INTERFACE.to_owned(),
        registration: NONE,
        control: NONE,
        mux: mux_out,
        task: task_out,
        iopub: NONE,
        hb_ping: NONE,
        hb_pong: NONE,
        broadcast: Vec::new(),
        common,
        unknown: Default::default(),
    };
    let security = dir.join("security");
    fs::create_dir_all(&security)?;
    engine.write(&security.join("ipcontroller-engine.json"))?;
    client.write(&security.join("ipcontroller-client.json"))?;
    Ok(())
}

/// `client, engine, …` out and `engine, client, …` back.
fn relay_direct(mut queue: Queue) {
    let mut poller = Poller::new();
    poller.add_socket(&mut queue.engines);
    poller.add_socket(&mut queue.clients);
    let mut frames = Vec::new();
    loop {
        let Queue { clients, engines } = &mut queue;
        let mut busy = drain(engines, &mut frames, |_, frames| {
            frames.swap(0, 1);
            clients.send(frames);
        });
        busy |= drain(clients, &mut frames, |_, frames| {
            frames.swap(0, 1);
            engines.send(frames);
        });
        if !busy && poller.wait(None).is_err() {
            return;
        }
    }
}

/// `client, …` out to whichever engine has room, `engine, client, …` back.
fn relay_tasks(mut queue: Queue, hwm: u32) {
    let mut poller = Poller::new();
    poller.add_socket(&mut queue.engines);
    poller.add_socket(&mut queue.clients);
    let mut frames = Vec::new();
    // One entry for each task that an engine has room for; without a limit the same entries go round.
    let mut free: VecDeque<Frame> = VecDeque::new();
    let mut waiting: VecDeque<Vec<Frame>> = VecDeque::new();
    loop {
        let Queue { clients, engines } = &mut queue;
        let mut busy = drain(engines, &mut frames, |engines, frames| {
            if &frames[1][..] == HELLO {
                (0..hwm.max(1)).for_each(|_| free.push_back(frames[0].clone()));
                return;
            }
            let engine = std::mem::replace(&mut frames[0], Frame::empty());
            frames.swap(0, 1);
            frames[1] = engine.clone();
            clients.send(frames);
            if hwm == 0 {
                return;
            }
            match waiting.pop_front() {
                Some(mut frames) => {
                    frames.insert(0, engine);
                    engines.send(&mut frames);
                }
                None => free.push_back(engine),
            }
        });
        busy |= drain(clients, &mut frames, |_, frames| match free.pop_front() {
            Some(engine) => {
                if hwm == 0 {
                    free.push_back(engine.clone());
                }
                frames.insert(0, engine);
                engines.send(frames);
            }
            None => waiting.push_back(std::mem::take(frames)),
        });
        if !busy && poller.wait(None).is_err() {
            return;
        }
    }
}
