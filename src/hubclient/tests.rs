use super::*;

use crate::profile::connection::Common;

const SECOND: Duration = Duration::from_secs(20);

/// A hub of a few lines, on the same machine.
pub(crate) struct Hub {
    context: Context,
    registration: u16,
    queries: Socket,
    notifications: Socket,
    composer: Composer,
}

pub(crate) fn hub_and_client() -> (Hub, HubClient) {
    let context = Context::new();
    let queries = context.socket(Kind::Router).unwrap();
    let notifications = context.socket(Kind::XPub).unwrap();
    let registration = queries.bind("tcp://127.0.0.1", 0).unwrap();
    let notification = notifications.bind("tcp://127.0.0.1", 0).unwrap();
    let file = ClientFile {
        ssh: String::new(),
        interface: "tcp://*".into(),
        registration,
        control: 1,
        mux: 1,
        task: 1,
        task_scheme: "leastload".into(),
        iopub: 1,
        notification,
        broadcast: None,
        common: Common::new("key", "127.0.0.1"),
        unknown: serde_json::Map::new(),
    };
    let client = HubClient::connect(file).unwrap();
    let hub = Hub {
        context,
        registration,
        queries,
        notifications,
        composer: Composer::new("hub", "u", 1, Signer::new(b"key")),
    };
    (hub, client)
}

fn receive(socket: &mut Socket) -> Vec<Frame> {
    let mut frames = Vec::new();
    let deadline = Instant::now() + SECOND;
    while !socket.receive(&mut frames) {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "nothing came");
        let mut poller = Poller::new();
        poller.add_socket(socket);
        poller.wait(Some(left)).unwrap();
    }
    frames
}

impl Hub {
    /// Answers one request with each of `contents`; the last one is signed with the right key, the others are not.
    pub(crate) fn answer(&mut self, contents: &[Value]) -> Value {
        let request = receive(&mut self.queries);
        let wire = Wire::parse(&request).unwrap();
        assert!(wire.verify(self.composer.signer()).unwrap().is_some());
        for (index, content) in contents.iter().enumerate() {
            let mut wrong = Composer::new("hub", "u", 1, Signer::new(b"wrong"));
            let composer = if index + 1 == contents.len() {
                &mut self.composer
            } else {
                &mut wrong
            };
            let reply = Outgoing::new("reply", content.clone()).parent(wire.header());
            let reply = composer.compose(&reply, Timestamp::from_micros(0));
            let mut frames = vec![request[0].clone()];
            frames.extend(reply.into_iter().map(Frame::from));
            self.queries.send(&mut frames).unwrap();
            self.queries.flush();
        }
        serde_json::from_slice(wire.content()).unwrap()
    }

    /// The client would hear of what is published now.
    pub(crate) fn await_subscription(&mut self) {
        receive(&mut self.notifications);
    }

    /// The same, at the same place, after the connection for questions was lost.
    pub(crate) fn with_broken_queries(self) -> Self {
        drop(self.queries);
        let queries = self.context.socket(Kind::Router).unwrap();
        queries.bind("tcp://127.0.0.1", self.registration).unwrap();
        Self { queries, ..self }
    }

    pub(crate) fn publish(&mut self, msg_type: &str, content: Value) {
        let message = Outgoing::new(msg_type, content);
        let message = self.composer.compose(&message, Timestamp::from_micros(0));
        self.notifications
            .send(&mut message.into_iter().map(Frame::from).collect())
            .unwrap();
        self.notifications.flush();
    }
}

#[test]
fn only_a_signed_answer_to_the_question_counts() {
    let (mut hub, mut client) = hub_and_client();
    let asking = std::thread::spawn(move || client.engines(SECOND));
    let forged = json!({ "status": "ok", "engines": { "7": "x" } });
    let right = json!({ "status": "ok", "engines": { "10": "b", "2": "a" } });
    assert_eq!(hub.answer(&[forged, right]), json!({}));
    assert_eq!(asking.join().unwrap().unwrap(), [EngineId(2), EngineId(10)]);
}

#[test]
fn a_refusal_and_nonsense_are_errors() {
    let (mut hub, mut client) = hub_and_client();
    let asking = std::thread::spawn(move || {
        let refused = client.request("queue_request", json!({}), SECOND);
        (refused, client.engines(SECOND))
    });
    hub.answer(&[json!({ "status": "error", "ename": "IndexError", "evalue": "no" })]);
    hub.answer(&[json!({ "status": "ok", "engines": { "x": "a" } })]);
    let (refused, nonsense) = asking.join().unwrap();
    assert!(matches!(refused, Err(HubError::Refused { ename, .. }) if ename == "IndexError"));
    assert!(matches!(nonsense, Err(HubError::Malformed { .. })));
}

#[test]
fn a_hub_that_is_silent_is_named() {
    let (_hub, mut client) = hub_and_client();
    let error = client.engines(Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error, HubError::TimedOut { .. }));
    assert!(error.to_string().contains("tcp://127.0.0.1:"), "{error}");
}

#[test]
fn notifications_come_in_order_and_unknown_ones_are_skipped() {
    let (mut hub, mut client) = hub_and_client();
    let listening = std::thread::spawn(move || {
        let first = client.next_notification(SECOND);
        (client, first)
    });
    hub.await_subscription();
    hub.publish("registration_notification", json!({ "id": 3, "uuid": "a" }));
    hub.publish("something_else", json!({}));
    hub.publish(
        "unregistration_notification",
        json!({ "id": 3, "uuid": "a" }),
    );
    hub.publish("shutdown_notification", json!({ "status": "ok" }));
    let (mut client, first) = listening.join().unwrap();
    assert_eq!(first.unwrap(), Some(Notification::Registered(EngineId(3))));
    let mut next = || client.next_notification(SECOND).unwrap().unwrap();
    assert_eq!(next(), Notification::Left(EngineId(3)));
    assert_eq!(next(), Notification::Shutdown);
    let nothing = client.next_notification(Duration::from_millis(1));
    assert_eq!(nothing.unwrap(), None);
    // Only a connection that was established can be lost.
    let asking = std::thread::spawn(move || {
        let engines = client.engines(SECOND);
        (client, engines)
    });
    hub.answer(&[json!({ "status": "ok", "engines": {} })]);
    let (mut client, engines) = asking.join().unwrap();
    assert_eq!(engines.unwrap(), []);
    drop(hub);
    let lost = client.next_notification(SECOND);
    assert_eq!(lost.unwrap(), Some(Notification::Disconnected));
}

#[test]
fn a_question_is_not_waited_for_when_its_connection_is_lost() {
    let (mut hub, mut client) = hub_and_client();
    let asking = std::thread::spawn(move || {
        let engines = client.engines(SECOND);
        (client, engines)
    });
    receive(&mut hub.queries);
    let mut hub = hub.with_broken_queries();
    let (mut client, engines) = asking.join().unwrap();
    assert!(matches!(engines, Err(HubError::Lost { .. })));
    let lost = client.next_notification(SECOND);
    assert_eq!(lost.unwrap(), Some(Notification::Disconnected));
    // The next question goes by a connection that is made again.
    let asking = std::thread::spawn(move || client.engines(SECOND));
    hub.answer(&[json!({ "status": "ok", "engines": { "1": "a" } })]);
    assert_eq!(asking.join().unwrap().unwrap(), [EngineId(1)]);
}

#[test]
fn a_hub_that_knows_no_status_is_asked_for_its_queues() {
    let (mut hub, mut client) = hub_and_client();
    let asking = std::thread::spawn(move || client.status(SECOND));
    hub.answer(&[json!({ "status": "error", "ename": "KeyError", "evalue": "Bad Message Type" })]);
    hub.answer(&[json!({ "status": "ok", "engines": { "3": "a" } })]);
    hub.answer(&[
        json!({ "status": "ok", "3": { "queue": 1, "tasks": 2, "completed": 9 }, "unassigned": 4 }),
    ]);
    let status = asking.join().unwrap().unwrap();
    let engine = &status.engines[&EngineId(3)];
    assert_eq!((engine.running(), engine.queued()), (1, 2));
    assert_eq!((engine.completed, engine.failed), (9, None));
    assert_eq!(
        (status.unassigned, status.controller),
        (4, None),
        "what ipyparallel does not tell is absent"
    );
}
