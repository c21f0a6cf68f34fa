//! The transport and libzmq, at either end of a connection. Encrypted connections are tested from Python: the libzmq that is
//! built here has no CURVE, and that of pyzmq has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ipcluster::os::ports::free_ports;
use ipcluster::transport::{
    ConnectionEvent, Context, Frame, Kind, Monitor, Poller, SendError, Socket,
};

/// Only a failing test takes so long.
const GENEROUS: Duration = Duration::from_secs(60);

type Message = Vec<Vec<u8>>;

fn ours(kind: Kind) -> Socket {
    Context::new().socket(kind).unwrap()
}

fn theirs(kind: zmq::SocketType) -> zmq::Socket {
    let socket = zmq::Context::new().socket(kind).unwrap();
    socket.set_linger(0).unwrap();
    // A router of libzmq drops what is beyond.
    socket.set_sndhwm(0).unwrap();
    socket.set_rcvhwm(0).unwrap();
    let millis = GENEROUS.as_millis() as i32;
    socket.set_rcvtimeo(millis).unwrap();
    socket.set_sndtimeo(millis).unwrap();
    socket
}

fn bind_theirs(socket: &zmq::Socket) -> u16 {
    socket.bind("tcp://127.0.0.1:*").unwrap();
    let endpoint = socket.get_last_endpoint().unwrap().unwrap();
    endpoint.rsplit(':').next().unwrap().parse().unwrap()
}

fn url(port: u16) -> String {
    format!("tcp://127.0.0.1:{port}")
}

/// A port at which nobody listens.
fn free_port() -> u16 {
    free_ports([0]).unwrap()[0]
}

fn frames(message: &Message) -> Vec<Frame> {
    message.iter().map(|part| Frame::from(&part[..])).collect()
}

fn receive(socket: &mut Socket) -> Message {
    let mut poller = Poller::new();
    poller.add_socket(socket);
    let mut frames = Vec::new();
    while !socket.receive(&mut frames) {
        poller.wait(Some(GENEROUS)).unwrap();
    }
    frames.iter().map(|frame| frame.to_vec()).collect()
}

/// Lets a socket do its work until everything is written and the condition holds.
fn work(socket: &mut Socket, mut until: impl FnMut() -> bool) {
    let mut poller = Poller::new();
    poller.add_socket(socket);
    while !until() {
        poller.wait(Some(Duration::from_millis(20))).unwrap();
    }
}

/// Of all shapes: without a payload, of sizes around those at which lengths are written differently or memory is shared, of
/// many frames.
fn messages() -> Vec<Message> {
    let part = |size: usize| (0..size).map(|n| (n * 7 + size) as u8).collect::<Vec<u8>>();
    let mut all: Vec<Message> = [
        0, 1, 37, 38, 39, 254, 255, 256, 16_383, 16_384, 65_535, 65_536, 70_000,
    ]
    .map(|size| vec![part(size)])
    .into();
    all.push(vec![
        Vec::new(),
        part(3),
        Vec::new(),
        part(100_000),
        Vec::new(),
    ]);
    all.push(vec![part(20_000_000), part(5), part(9_000_000)]);
    all.push((0..20_000).map(|n| part(n % 50)).collect());
    all.extend((0..2000).map(|n| vec![part(n), part(n % 7)]));
    all
}

#[test]
fn their_dealer_and_our_router() {
    let mut router = ours(Kind::Router);
    router.set_mandatory();
    let port = router.bind("tcp://127.0.0.1", 0).unwrap();
    let peer = thread::spawn(move || {
        let dealer = theirs(zmq::DEALER);
        dealer.set_identity(b"their dealer").unwrap();
        dealer.connect(&url(port)).unwrap();
        for message in messages() {
            dealer.send_multipart(&message, 0).unwrap();
            assert!(dealer.recv_multipart(0).unwrap() == message);
        }
    });
    for expected in messages() {
        let message = receive(&mut router);
        assert_eq!(message[0], b"their dealer");
        assert!(message[1..] == expected);
        router.send(&mut frames(&message)).unwrap();
    }
    work(&mut router, || peer.is_finished());
    peer.join().unwrap();
}

#[test]
fn our_dealer_and_their_router() {
    let router = theirs(zmq::ROUTER);
    let port = bind_theirs(&router);
    let count = messages().len();
    let peer = thread::spawn(move || {
        for _ in 0..count {
            let message = router.recv_multipart(0).unwrap();
            assert_eq!(message[0], b"our dealer");
            router.send_multipart(message, 0).unwrap();
        }
        router
    });
    let mut dealer = ours(Kind::Dealer);
    dealer.set_identity(b"our dealer");
    dealer.connect(&url(port)).unwrap();
    // All of them at once.
    for message in messages() {
        dealer.send(&mut frames(&message)).unwrap();
    }
    for expected in messages() {
        assert!(receive(&mut dealer) == expected);
    }
    peer.join().unwrap();
}

#[test]
fn routers_that_know_each_other_by_name() {
    let router = theirs(zmq::ROUTER);
    router.set_identity(b"task_out").unwrap();
    let port = bind_theirs(&router);
    let mut engine = ours(Kind::Router);
    engine.set_mandatory();
    engine.set_identity(b"engine");
    engine.connect(&url(port)).unwrap();
    let hello = vec![b"task_out".to_vec(), b"hello".to_vec()];
    let mut message = frames(&hello);
    let mut poller = Poller::new();
    poller.add_socket(&mut engine);
    while engine.send(&mut message) == Err(SendError::Unreachable) {
        poller.wait(Some(GENEROUS)).unwrap();
    }
    engine.flush();
    let mut got = router.recv_multipart(0).unwrap();
    assert_eq!(got, [b"engine".to_vec(), b"hello".to_vec()]);
    got[1] = b"back".to_vec();
    router.send_multipart(got, 0).unwrap();
    assert_eq!(
        receive(&mut engine),
        [b"task_out".to_vec(), b"back".to_vec()]
    );
}

#[test]
fn a_request_socket_has_its_answer() {
    let mut router = ours(Kind::Router);
    let port = router.bind("tcp://127.0.0.1", 0).unwrap();
    let peer = thread::spawn(move || {
        let request = theirs(zmq::REQ);
        request.connect(&url(port)).unwrap();
        for n in 0..10u8 {
            request.send(&[n][..], 0).unwrap();
            assert_eq!(request.recv_bytes(0).unwrap(), [n, n]);
        }
    });
    for n in 0..10u8 {
        let mut message = receive(&mut router);
        assert_eq!(message[1..], [vec![], vec![n]]);
        message[2] = vec![n, n];
        router.send(&mut frames(&message)).unwrap();
    }
    work(&mut router, || peer.is_finished());
    peer.join().unwrap();
}

#[test]
fn who_connects_first_waits() {
    let port = free_port();
    let mut dealer = ours(Kind::Dealer);
    dealer.connect(&url(port)).unwrap();
    dealer.send(&mut frames(&vec![b"early".to_vec()])).unwrap();
    let peer = thread::spawn(move || {
        let router = theirs(zmq::ROUTER);
        router.bind(&url(port)).unwrap();
        let got = router.recv_multipart(0).unwrap();
        assert_eq!(got[1], b"early");
    });
    work(&mut dealer, || peer.is_finished());
    peer.join().unwrap();

    let port = free_port();
    let dealer = theirs(zmq::DEALER);
    dealer.connect(&url(port)).unwrap();
    dealer.send("early", 0).unwrap();
    let mut router = ours(Kind::Router);
    router.bind("tcp://127.0.0.1", port).unwrap();
    assert_eq!(receive(&mut router)[1], b"early");
}

#[test]
fn connections_that_break_are_made_again() {
    // Theirs to ours.
    let port = free_port();
    let dealer = theirs(zmq::DEALER);
    dealer.connect(&url(port)).unwrap();
    for n in 0..3u8 {
        let mut router = ours(Kind::Router);
        let mut monitor = Monitor::new(&router);
        router.bind("tcp://127.0.0.1", port).unwrap();
        work(&mut router, || {
            matches!(monitor.receive(), Some(ConnectionEvent::Established(_)))
        });
        dealer.send(&[n][..], 0).unwrap();
        assert_eq!(receive(&mut router)[1], [n]);
    }

    // Ours to theirs.
    let port = free_port();
    let mut dealer = ours(Kind::Dealer);
    let mut monitor = Monitor::new(&dealer);
    dealer.connect(&url(port)).unwrap();
    for n in 0..3u8 {
        dealer.send(&mut frames(&vec![vec![n]])).unwrap();
        let peer = thread::spawn(move || {
            let router = theirs(zmq::ROUTER);
            router.bind(&url(port)).unwrap();
            assert_eq!(router.recv_multipart(0).unwrap()[1], [n]);
        });
        work(&mut dealer, || {
            matches!(monitor.receive(), Some(ConnectionEvent::Ended(_)))
        });
        peer.join().unwrap();
    }
}

#[test]
fn their_subscribers_and_our_publisher() {
    let mut publisher = ours(Kind::XPub);
    let port = publisher.bind("tcp://127.0.0.1", 0).unwrap();
    let subscriber = theirs(zmq::SUB);
    subscriber.set_subscribe(b"engine.1").unwrap();
    subscriber.connect(&url(port)).unwrap();
    assert_eq!(receive(&mut publisher), [b"\x01engine.1"]);
    let publish = |publisher: &mut Socket, topic: &[u8]| {
        publisher
            .send(&mut frames(&vec![topic.to_vec(), topic.to_vec()]))
            .unwrap();
        publisher.flush();
    };
    for topic in [&b"engine.2"[..], b"engin", b"engine.1.stdout"] {
        publish(&mut publisher, topic);
    }
    let got = subscriber.recv_multipart(0).unwrap();
    assert_eq!(got[0], b"engine.1.stdout");
    subscriber.set_unsubscribe(b"engine.1").unwrap();
    assert_eq!(receive(&mut publisher), [b"\0engine.1"]);
    subscriber.set_subscribe(b"").unwrap();
    assert_eq!(receive(&mut publisher), [b"\x01"]);
    publish(&mut publisher, b"engine.1");
    assert_eq!(subscriber.recv_multipart(0).unwrap()[0], b"engine.1");
}

#[test]
fn our_subscriber_and_their_publishers() {
    for kind in [zmq::PUB, zmq::XPUB] {
        let publisher = theirs(kind);
        let port = bind_theirs(&publisher);
        let mut subscriber = ours(Kind::Sub);
        subscriber.connect(&url(port)).unwrap();
        let mut monitor = Monitor::new(&subscriber);
        work(&mut subscriber, || {
            matches!(monitor.receive(), Some(ConnectionEvent::Established(_)))
        });
        subscriber.flush();
        if kind == zmq::XPUB {
            assert_eq!(publisher.recv_bytes(0).unwrap(), [1]);
        }
        let has_it = Arc::new(AtomicBool::new(false));
        let done = has_it.clone();
        let peer = thread::spawn(move || {
            // A PUB does not tell when it is subscribed to; what it sends before is lost.
            while !done.load(Ordering::Acquire) {
                publisher
                    .send_multipart([&b"topic"[..], b"text"], 0)
                    .unwrap();
                thread::yield_now();
            }
        });
        let got = receive(&mut subscriber);
        has_it.store(true, Ordering::Release);
        assert_eq!(got, [b"topic".to_vec(), b"text".to_vec()]);
        peer.join().unwrap();
    }
}

#[test]
fn one_that_sends_too_much_is_left_and_others_are_not() {
    let mut router = ours(Kind::Router);
    router.set_max_message_size(1000);
    let port = router.bind("tcp://127.0.0.1", 0).unwrap();
    let (bad, good) = (theirs(zmq::DEALER), theirs(zmq::DEALER));
    for dealer in [&bad, &good] {
        dealer.connect(&url(port)).unwrap();
    }
    bad.send(vec![1; 1001], 0).unwrap();
    bad.send_multipart([vec![2; 600], vec![2; 600]], 0).unwrap();
    good.send(vec![3; 1000], 0).unwrap();
    assert_eq!(receive(&mut router)[1], [3; 1000]);
}
