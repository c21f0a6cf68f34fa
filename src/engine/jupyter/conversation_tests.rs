use super::*;
use crate::protocol::Signer;

/// A conversation and what it has said.
struct World {
    conversation: Conversation,
    out: Vec<Action>,
    clock: Instant,
}

fn now() -> Timestamp {
    Timestamp::from_micros(0)
}

impl World {
    fn new(lines: &[&str]) -> Self {
        let composer = Composer::new("own", "u", 1, Signer::new(b"k"));
        let mut world = Self {
            conversation: Conversation::new("lisp", composer),
            out: Vec::new(),
            clock: Instant::now(),
        };
        let settings = serde_json::from_value(
            json!({"engine_id": 3, "engine_uuid": "uuid", "exec_lines": lines}),
        )
        .unwrap();
        world
            .conversation
            .on_configure(now(), settings, Vec::new(), &mut world.out);
        world
    }

    /// At work.
    fn ready() -> Self {
        let mut world = Self::new(&[]);
        let asked = world.last_to_kernel().header;
        world.reply(&asked, json!({"language_info": {"name": "lisp"}}));
        world.status(&asked, "idle");
        assert_eq!(world.tags(), [from_kernel::READY]);
        world
    }

    fn last_to_kernel(&mut self) -> JupyterMessage {
        let mut found = self.out.drain(..).filter_map(|action| match action {
            Action::ToKernel(_, message) => Some(message),
            Action::ToEngine { .. } => None,
        });
        found.next_back().unwrap()
    }

    fn take_answers(&mut self) -> Vec<(u32, Vec<Vec<u8>>)> {
        let said = self.out.drain(..);
        said.filter_map(|action| match action {
            Action::ToEngine { tag, frames } => Some((tag, frames)),
            Action::ToKernel(..) => None,
        })
        .collect()
    }

    fn tags(&mut self) -> Vec<u32> {
        self.take_answers()
            .into_iter()
            .map(|(tag, _)| tag)
            .collect()
    }

    fn message(parent: &[u8], msg_type: &str, content: Value) -> JupyterMessage {
        JupyterMessage {
            header: header("from-kernel", msg_type),
            parent: parent.to_vec(),
            metadata: b"{}".to_vec(),
            content: content.to_string().into_bytes(),
            buffers: Vec::new(),
        }
    }

    fn reply(&mut self, parent: &[u8], content: Value) {
        let msg_type = reply_type(&reply_of(parent));
        let message = Self::message(parent, &msg_type, content);
        self.conversation
            .on_reply(self.clock, now(), message, &mut self.out);
    }

    fn status(&mut self, parent: &[u8], state: &str) {
        self.iopub(parent, "status", json!({ "execution_state": state }));
    }

    fn iopub(&mut self, parent: &[u8], msg_type: &str, content: Value) {
        let message = Self::message(parent, msg_type, content);
        self.conversation.on_iopub(now(), message, &mut self.out);
    }

    fn request(&mut self, msg_id: &str, msg_type: &str) -> Vec<u8> {
        let header = header(msg_id, msg_type);
        let (tag, frames) = if msg_type == "apply_request" {
            (to_kernel::APPLY, vec![header.clone(), b"{}".to_vec()])
        } else {
            let parts = [
                b"shell".to_vec(),
                header.clone(),
                b"{}".to_vec(),
                b"{}".to_vec(),
            ];
            (to_kernel::REQUEST, [&parts[..], &[b"{}".to_vec()]].concat())
        };
        let message = LinkMessage {
            tag,
            frames: frames.into_iter().map(LinkFrame::Bytes).collect(),
        };
        self.conversation.on_request(now(), message, &mut self.out);
        header
    }
}

fn header(msg_id: &str, msg_type: &str) -> Vec<u8> {
    json!({"msg_id": msg_id, "msg_type": msg_type, "session": "s", "date": ""})
        .to_string()
        .into_bytes()
}

#[test]
fn a_kernel_is_asked_until_it_is_heard_on_iopub() {
    let mut world = World::new(&[]);
    let asked = world.last_to_kernel().header;
    world.reply(&asked, json!({}));
    assert!(world.out.is_empty());
    world.clock += ASK_AGAIN;
    assert_eq!(world.conversation.next_deadline(), Some(world.clock));
    world
        .conversation
        .on_time(world.clock, now(), &mut world.out);
    let again = world.last_to_kernel().header;
    assert_ne!(asked, again);
    world.status(&again, "busy");
    assert_eq!(world.tags(), [from_kernel::READY]);
    assert_eq!(world.conversation.next_deadline(), None);
}

#[test]
fn start_up_code_runs_in_order_before_the_kernel_is_ready() {
    let mut world = World::new(&["first", "second"]);
    let asked = world.last_to_kernel().header;
    world.status(&asked, "busy");
    world.reply(&asked, json!({}));
    for (code, status, said) in [
        ("first", "ok", vec![from_kernel::LOG]),
        (
            "second",
            "error",
            vec![from_kernel::LOG, from_kernel::READY],
        ),
    ] {
        let running = world.last_to_kernel();
        assert!(String::from_utf8_lossy(&running.content).contains(code));
        if status == "ok" {
            world.iopub(
                &running.header,
                "stream",
                json!({"name": "stdout", "text": "hello"}),
            );
            world.iopub(&running.header, "execute_input", json!({}));
        }
        world.reply(&running.header, json!({ "status": status }));
        world.status(&running.header, "idle");
        let tags: Vec<u32> = world
            .out
            .iter()
            .filter_map(|action| match action {
                Action::ToEngine { tag, .. } => Some(*tag),
                Action::ToKernel(..) => None,
            })
            .collect();
        assert_eq!(tags, said);
    }
}

#[test]
fn a_request_is_over_when_it_has_its_reply_and_the_kernel_is_idle() {
    for reply_first in [true, false] {
        let mut world = World::ready();
        let header = world.request("r", "execute_request");
        assert_eq!(world.last_to_kernel().header, header);
        world.iopub(&header, "stream", json!({"name": "stderr", "text": "x"}));
        assert_eq!(world.tags(), [from_kernel::STREAM]);
        if reply_first {
            world.reply(&header, json!({"status": "ok"}));
            assert_eq!(world.tags(), [from_kernel::REPLY]);
            world.iopub(&header, "display_data", json!({}));
            world.status(&header, "idle");
            assert_eq!(world.tags(), [from_kernel::IOPUB, from_kernel::DONE]);
        } else {
            world.status(&header, "idle");
            assert!(world.tags().is_empty());
            world.reply(&header, json!({"status": "ok"}));
            assert_eq!(world.tags(), [from_kernel::REPLY, from_kernel::DONE]);
        }
        world.reply(&header, json!({"status": "ok"}));
        world.status(&header, "idle");
        assert!(world.tags().is_empty(), "it is over once");
    }
}

#[test]
fn a_kernel_that_never_says_that_it_is_idle_is_not_waited_for_for_ever() {
    let mut world = World::ready();
    let header = world.request("r", "execute_request");
    world.reply(&header, json!({"status": "ok"}));
    world.tags();
    let deadline = world.conversation.next_deadline().unwrap();
    world.conversation.on_time(deadline, now(), &mut world.out);
    assert_eq!(world.tags(), [from_kernel::DONE]);
}

#[test]
fn errors_have_what_clients_read() {
    let mut world = World::ready();
    let header = world.request("r", "execute_request");
    world.last_to_kernel();
    world.reply(&header, json!({"status": "error", "evalue": "1"}));
    let (tag, frames) = world.take_answers().remove(0);
    assert_eq!(tag, from_kernel::REPLY);
    let content: Value = serde_json::from_slice(&frames[1]).unwrap();
    assert_eq!(content["ename"], "Error");
    assert_eq!(content["evalue"], "1");
    let aborted = complete(br#"{"status": "abort"}"#.to_vec(), &json!({}));
    let aborted: Value = serde_json::from_slice(&aborted).unwrap();
    assert_eq!(aborted["status"], "error");
    assert_eq!(content["traceback"], json!([]));
    assert_eq!(content["engine_info"]["engine_id"], 3);
}

#[test]
fn what_such_a_kernel_cannot_do_is_refused_by_name() {
    let mut world = World::ready();
    for msg_type in ["apply_request", "clear_request"] {
        world.request("r", msg_type);
        let said = world.take_answers();
        assert_eq!(said[0].0, from_kernel::REPLY);
        assert!(String::from_utf8_lossy(&said[0].1[1]).contains("lisp"));
        assert_eq!(said[1].0, from_kernel::DONE);
    }
    world.request("c", "comm_msg");
    let header = world.last_to_kernel().header;
    world.status(&header, "idle");
    assert_eq!(world.tags(), [from_kernel::DONE], "comms have no reply");
}
