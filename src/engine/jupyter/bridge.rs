//! The thread between an engine's link and a Jupyter kernel's sockets.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::conversation::{Action, Channel, Conversation, JupyterMessage};
use super::spec::KernelSpec;
use crate::engine::kernel::link::{Link, LinkMessage, Received};
use crate::engine::kernel::messages::to_kernel;
use crate::os::ports::free_ports;
use crate::os::{files, user};
use crate::protocol::digests::DigestHistory;
use crate::protocol::{Composer, DELIMITER, Signer, Timestamp, Wire};
use crate::transport::{Context, Door, Frame, Kind, Mailbox, Poller, Socket, drain, time_left};

/// Signatures that are remembered.
const DIGESTS: usize = 1 << 12;

const ADDRESS: &str = "127.0.0.1";

#[derive(Debug)]
pub(in crate::engine) enum BridgeMail {
    /// Interrupt what the kernel runs, by a message.
    Interrupt,
}

/// What is known of a kernel before its process runs.
pub(in crate::engine) struct Bridge {
    file: ConnectionFile,
    signer: Signer,
    shell: Socket,
    control: Socket,
    iopub: Socket,
}

/// The file that tells a kernel where to listen. Only this user can read it; it goes with the bridge.
#[derive(Debug)]
struct ConnectionFile(PathBuf);

impl Drop for ConnectionFile {
    fn drop(&mut self) {
        // The kernel may have removed it, as ipykernel does.
        let _ = files::remove_if_there(&self.0);
    }
}

impl Bridge {
    /// Chooses ports and a key, and writes them into a file for the kernel (jupyter_client, "Connection files").
    pub(in crate::engine) fn new(context: &Context, spec: &KernelSpec) -> io::Result<Self> {
        // The kernel is to listen there, so that they are let go of before it starts; should another program take one in
        // between, the kernel ends and says why.
        let [shell_port, iopub_port, stdin_port, control_port, hb_port] =
            free_ports([0; 5])?.try_into().expect("as many as wanted");
        let key = uuid::Uuid::new_v4().to_string();
        let content = json!({
            "transport": "tcp",
            "ip": ADDRESS,
            "shell_port": shell_port,
            "iopub_port": iopub_port,
            "stdin_port": stdin_port,
            "control_port": control_port,
            "hb_port": hb_port,
            "key": key,
            "signature_scheme": "hmac-sha256",
            "kernel_name": spec.name,
        });
        let name = format!("ipcluster-kernel-{}.json", uuid::Uuid::new_v4());
        let file = ConnectionFile(std::env::temp_dir().join(name));
        files::write_private(&file.0, content.to_string().as_bytes()).map_err(io::Error::other)?;

        let identity = uuid::Uuid::new_v4().to_string();
        let dealer = |port: u16| -> io::Result<Socket> {
            let socket = context.socket(Kind::Dealer)?;
            socket.set_identity(identity.as_bytes());
            socket.connect(&format!("tcp://{ADDRESS}:{port}"))?;
            Ok(socket)
        };
        let iopub = context.socket(Kind::Sub)?;
        iopub.connect(&format!("tcp://{ADDRESS}:{iopub_port}"))?;
        Ok(Self {
            file,
            signer: Signer::new(key.as_bytes()),
            shell: dealer(shell_port)?,
            control: dealer(control_port)?,
            iopub,
        })
    }

    pub(in crate::engine) fn connection_file(&self) -> &Path {
        &self.file.0
    }

    /// Works until the engine lets go of the link's other end. `name` is the kernel's.
    pub(in crate::engine) fn run(self, name: &str, link: Link, mailbox: Mailbox<BridgeMail>) {
        let digests = Arc::new(Mutex::new(DigestHistory::new(DIGESTS)));
        let door = |channel| Door::new(channel, self.signer.clone(), digests.clone());
        let session = uuid::Uuid::new_v4().to_string();
        let composer = Composer::new(
            session,
            user::name(),
            std::process::id(),
            self.signer.clone(),
        );
        let work = Work {
            doors: [
                door("kernel's shell"),
                door("kernel's control"),
                door("kernel's iopub"),
            ],
            conversation: Conversation::new(name, composer),
            signer: self.signer,
            shell: self.shell,
            control: self.control,
            iopub: self.iopub,
            link,
            mailbox,
        };
        if let Err(error) = work.run() {
            tracing::error!("kernel {name}: its messages cannot be passed on: {error}");
        }
        drop(self.file);
    }
}

struct Work {
    signer: Signer,
    /// Of shell, control and iopub.
    doors: [Door; 3],
    shell: Socket,
    control: Socket,
    iopub: Socket,
    link: Link,
    mailbox: Mailbox<BridgeMail>,
    conversation: Conversation,
}

impl Work {
    fn run(mut self) -> io::Result<()> {
        let mut poller = Poller::new();
        poller.add_socket(&mut self.shell);
        poller.add_socket(&mut self.control);
        poller.add_socket(&mut self.iopub);
        poller.add_fd(self.mailbox.fd());
        let link = poller.add_fd(self.link.fd());
        let mut mail = Vec::new();
        let mut out = Vec::new();
        loop {
            let mut busy = self.mailbox.take(&mut mail);
            for BridgeMail::Interrupt in mail.drain(..) {
                self.conversation.on_interrupt(now(), &mut out);
            }
            busy |= self.receive_kernel(&mut out);
            loop {
                match self.link.receive()? {
                    Received::Message(message) => {
                        busy = true;
                        self.on_link_message(message, &mut out)?;
                    }
                    Received::Nothing => break,
                    Received::Closed => return Ok(()),
                }
            }
            self.conversation.on_time(Instant::now(), now(), &mut out);
            for action in out.drain(..) {
                self.perform(action);
            }
            let is_flushed = self.link.flush()?;
            poller.want_write(link, !is_flushed);
            poller.wait(if busy {
                Some(Duration::ZERO)
            } else {
                time_left([self.conversation.next_deadline()])
            })?;
        }
    }

    fn on_link_message(&mut self, message: LinkMessage, out: &mut Vec<Action>) -> io::Result<()> {
        if message.tag != to_kernel::CONFIGURE {
            self.conversation.on_request(now(), message, out);
            return Ok(());
        }
        let content = message.frames.first().map_or(&b""[..], AsRef::as_ref);
        let settings: super::conversation::Settings =
            serde_json::from_slice(content).map_err(io::Error::other)?;
        let mut files = Vec::new();
        for path in &settings.exec_files {
            match std::fs::read_to_string(path) {
                Ok(code) => files.push(code),
                Err(error) => tracing::warn!("the start-up file {path} cannot be read: {error}"),
            }
        }
        self.conversation.on_configure(now(), settings, files, out);
        Ok(())
    }

    fn receive_kernel(&mut self, out: &mut Vec<Action>) -> bool {
        let Self {
            doors: [shell_door, control_door, iopub_door],
            shell,
            control,
            iopub,
            conversation,
            ..
        } = self;
        let mut frames = Vec::new();
        let mut any = false;
        // Outputs first: a reply that is sent after them should not overtake them.
        any |= drain(iopub, &mut frames, |_, frames| {
            if let Some(wire) = iopub_door.admit(frames) {
                conversation.on_iopub(now(), read(&wire), out);
            }
        });
        for (socket, door) in [(control, control_door), (shell, shell_door)] {
            any |= drain(socket, &mut frames, |_, frames| {
                if let Some(wire) = door.admit(frames) {
                    conversation.on_reply(Instant::now(), now(), read(&wire), out);
                }
            });
        }
        any
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::ToEngine { tag, frames } => {
                self.link.send(tag, frames.into_iter().map(Frame::from));
            }
            Action::ToKernel(channel, message) => {
                let parts = [
                    &message.header,
                    &message.parent,
                    &message.metadata,
                    &message.content,
                ];
                let signature = self.signer.sign(parts.map(Vec::as_slice));
                let mut frames = vec![Frame::from(DELIMITER), Frame::from(signature)];
                frames.extend(parts.map(|part| Frame::from(&part[..])));
                frames.extend(message.buffers.into_iter().map(Frame::from));
                let socket = match channel {
                    Channel::Shell => &mut self.shell,
                    Channel::Control => &mut self.control,
                };
                if let Err(error) = socket.send(&mut frames) {
                    tracing::error!("a request cannot be sent to the kernel: {error}");
                }
            }
        }
    }
}

fn read(wire: &Wire<'_, Frame>) -> JupyterMessage {
    JupyterMessage {
        header: wire.header().to_vec(),
        parent: wire.parent_header().to_vec(),
        metadata: wire.metadata().to_vec(),
        content: wire.content().to_vec(),
        buffers: wire.buffers().iter().map(|frame| frame.to_vec()).collect(),
    }
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
