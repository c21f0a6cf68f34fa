use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;
use crate::transport::{Monitor, Poller};

fn socket(kind: Kind) -> Socket {
    Context::new().socket(kind).unwrap()
}

fn dealer(name: &[u8], port: u16) -> Socket {
    let dealer = socket(Kind::Dealer);
    dealer.set_identity(name);
    dealer.connect(&endpoint(port)).unwrap();
    dealer
}

fn endpoint(port: u16) -> String {
    format!("tcp://127.0.0.1:{port}")
}

fn router() -> (Socket, u16) {
    let router = socket(Kind::Router);
    router.set_mandatory();
    let port = router.bind("tcp://127.0.0.1", 0).unwrap();
    (router, port)
}

fn frames(parts: &[&[u8]]) -> Vec<Frame> {
    parts.iter().map(|part| Frame::from(*part)).collect()
}

/// Waits until the first of some sockets, which all do their work, receives a message.
fn receive(sockets: &mut [&mut Socket]) -> Vec<Frame> {
    let mut poller = Poller::new();
    for socket in sockets.iter_mut() {
        poller.add_socket(socket);
    }
    let mut frames = Vec::new();
    while !sockets[0].receive(&mut frames) {
        poller.wait(None).unwrap();
    }
    frames
}

#[test]
fn messages_cross_whole_and_in_order() {
    let (mut router, port) = router();
    let mut dealer = dealer(b"peer", port);
    let big: Vec<u8> = (0..5_000_000).map(|n| (n / 251) as u8).collect();
    for n in 0..3u8 {
        dealer
            .send(&mut vec![Frame::from(&[n][..]), Frame::from(big.clone())])
            .unwrap();
    }
    for n in 0..3u8 {
        let frames = receive(&mut [&mut router, &mut dealer]);
        assert_eq!(&frames[0][..], b"peer");
        assert_eq!(frames[0].peer_address(), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(&frames[1][..], [n]);
        assert!(frames[2][..] == big);
    }
    router.send(&mut frames(&[b"peer", b"back"])).unwrap();
    assert_eq!(&receive(&mut [&mut dealer, &mut router])[0][..], b"back");
}

#[test]
fn an_unknown_peer_is_reported_and_the_message_kept() {
    let (mut router, _) = router();
    let mut message = frames(&[b"nobody", b"hello"]);
    assert_eq!(router.send(&mut message), Err(SendError::Unreachable));
    assert_eq!(&message[1][..], b"hello");
}

#[test]
fn a_port_in_use_is_an_error() {
    let (_router, port) = router();
    let error = socket(Kind::Router)
        .bind("tcp://127.0.0.1", port)
        .unwrap_err();
    assert!(error.to_string().contains(&port.to_string()));
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn what_is_sent_before_the_peer_listens_or_while_it_is_away_arrives() {
    let (first, port) = router();
    drop(first);
    let mut dealer = dealer(b"peer", port);
    dealer.send(&mut frames(&[b"early"])).unwrap();
    let mut poller = Poller::new();
    poller.add_socket(&mut dealer);
    poller.wait(None).unwrap();
    let mut router = socket(Kind::Router);
    router.bind("tcp://127.0.0.1", port).unwrap();
    let got = receive(&mut [&mut router, &mut dealer]);
    assert_eq!(&got[1][..], b"early");
    drop(router);
    let mut monitor = Monitor::new(&dealer);
    while monitor.receive().is_none() {
        poller.wait(None).unwrap();
    }
    dealer.send(&mut frames(&[b"meanwhile"])).unwrap();
    let mut router = socket(Kind::Router);
    router.bind("tcp://127.0.0.1", port).unwrap();
    let got = receive(&mut [&mut router, &mut dealer]);
    assert_eq!(&got[1][..], b"meanwhile");
}

#[test]
fn connections_are_told_as_they_come_and_go() {
    let (mut router, port) = router();
    let mut monitor = Monitor::new(&router);
    let mut poller = Poller::new();
    poller.add_socket(&mut router);
    let mut peer = dealer(b"peer", port);
    let mut both = Poller::new();
    both.add_socket(&mut peer);
    both.add_socket(&mut router);
    let came = loop {
        if let Some(event) = monitor.receive() {
            break event;
        }
        both.wait(None).unwrap();
    };
    drop((both, peer));
    let went = loop {
        if let Some(event) = monitor.receive() {
            break event;
        }
        poller.wait(None).unwrap();
    };
    let ConnectionEvent::Established(id) = came else {
        panic!("{came:?}");
    };
    assert_eq!(went, ConnectionEvent::Ended(id));
}

#[test]
fn a_name_is_handed_over_only_where_that_is_wanted() {
    for handover in [false, true] {
        let (mut router, port) = router();
        if handover {
            router.set_handover();
        }
        let mut first = dealer(b"same", port);
        first.send(&mut frames(&[b"1"])).unwrap();
        receive(&mut [&mut router, &mut first]);
        let mut second = dealer(b"same", port);
        second.send(&mut frames(&[b"2"])).unwrap();
        if !handover {
            // It comes in when the name is free again.
            drop(first);
            assert_eq!(&receive(&mut [&mut router, &mut second])[1][..], b"2");
            continue;
        }
        assert_eq!(&receive(&mut [&mut router, &mut second])[1][..], b"2");
        router.send(&mut frames(&[b"same", b"back"])).unwrap();
        assert_eq!(&receive(&mut [&mut second, &mut router])[0][..], b"back");
    }
}

#[test]
fn subscribers_get_what_is_published_and_publishers_hear_of_them() {
    let mut publisher = socket(Kind::XPub);
    let port = publisher.bind("tcp://127.0.0.1", 0).unwrap();
    let mut subscriber = socket(Kind::Sub);
    subscriber.connect(&endpoint(port)).unwrap();
    let subscription = receive(&mut [&mut publisher, &mut subscriber]);
    assert_eq!(&subscription[0][..], [1]);
    publisher.send(&mut frames(&[b"topic", b"text"])).unwrap();
    let got = receive(&mut [&mut subscriber, &mut publisher]);
    assert_eq!(&got[1][..], b"text");
}

#[test]
fn a_subscriber_that_never_reads_loses_messages_beyond_a_limit() {
    let mut publisher = socket(Kind::XPub);
    publisher.set_send_limit(1 << 20);
    let port = publisher.bind("tcp://127.0.0.1", 0).unwrap();
    let mut subscriber = socket(Kind::Sub);
    subscriber.connect(&endpoint(port)).unwrap();
    receive(&mut [&mut publisher, &mut subscriber]);
    let message = vec![7; 100_000];
    for _ in 0..1000 {
        publisher
            .send(&mut vec![Frame::from(message.clone())])
            .unwrap();
    }
    let held: usize = lock(&publisher.shared)
        .connections
        .iter()
        .map(|(_, connection)| connection.backlog())
        .sum();
    assert!(held <= (1 << 20) + 200_000, "{held}");
}

#[test]
fn a_client_that_never_reads_is_left() {
    let (mut router, port) = router();
    router.set_patience(4 << 20);
    let big = Frame::from(vec![7; 1_000_000]);
    let mut idle = dealer(b"idle", port);
    let mut other = dealer(b"other", port);
    for peer in [&mut idle, &mut other] {
        peer.send(&mut frames(&[b"hello"])).unwrap();
        receive(&mut [&mut router, peer]);
    }
    let send = |router: &mut Socket, name: &[u8]| {
        let result = router.send(&mut vec![Frame::from(name), big.clone()]);
        let held: usize = lock(&router.shared)
            .connections
            .iter()
            .map(|(_, connection)| connection.backlog())
            .sum();
        assert!(held <= 6 << 20, "{held}");
        result
    };
    // Some of it lies with the system. What is larger than the limit is not refused to who reads.
    let left = (0..1000).find(|_| send(&mut router, b"idle").is_err());
    assert!(left.is_some());
    for _ in 0..100 {
        send(&mut router, b"other").unwrap();
        assert_eq!(receive(&mut [&mut other, &mut router])[0].len(), 1_000_000);
    }
}

#[test]
fn messages_beyond_a_limit_are_refused_whole_or_in_parts() {
    let context = Context::limited(Security::Null, 2 << 20);
    let mut router = context.socket(Kind::Router).unwrap();
    let port = router.bind("tcp://127.0.0.1", 0).unwrap();
    let part = Frame::from(vec![7; 1_500_000]);
    let mut ends = |mut message: Vec<Frame>| {
        let mut peer = dealer(b"peer", port);
        let mut monitor = Monitor::new(&peer);
        peer.send(&mut message).unwrap();
        let mut poller = Poller::new();
        poller.add_socket(&mut router);
        poller.add_socket(&mut peer);
        let mut frames = Vec::new();
        loop {
            if router.receive(&mut frames) {
                return false;
            }
            if let Some(ConnectionEvent::Ended(_)) = monitor.receive() {
                return true;
            }
            poller.wait(None).unwrap();
        }
    };
    assert!(!ends(vec![part.clone()]));
    assert!(ends(vec![part.clone(), part.clone()]));
    assert!(ends(vec![Frame::from(vec![7; 3_000_000])]));
    assert!(!ends(vec![part.clone()]));
}

#[test]
fn one_socket_can_be_many_peers() {
    let (mut router, port) = router();
    let mut many = socket(Kind::Router);
    for n in 0..10u8 {
        many.set_identity(&[b'a', n]);
        many.connect_known_as(&endpoint(port), &[b'k', n]).unwrap();
        many.send(&mut frames(&[&[b'k', n], &[n]])).unwrap();
    }
    for _ in 0..10 {
        let mut message = receive(&mut [&mut router, &mut many]);
        let n = message[1][0];
        assert_eq!(message[0][..], [b'a', n]);
        router.send(&mut message).unwrap();
        let back = receive(&mut [&mut many, &mut router]);
        assert_eq!((&back[0][..], &back[1][..]), (&[b'k', n][..], &[n][..]));
    }
}

#[test]
fn each_peer_has_its_turn() {
    let (mut router, port) = router();
    let (mut busy, mut rare) = (dealer(b"busy", port), dealer(b"rare", port));
    for n in 0..1000u32 {
        busy.send(&mut frames(&[&n.to_le_bytes()])).unwrap();
    }
    // All of it lies here before anything is received.
    receive(&mut [&mut router, &mut busy]);
    rare.send(&mut frames(&[b"one"])).unwrap();
    let mut poller = Poller::new();
    poller.add_socket(&mut rare);
    poller.add_socket(&mut router);
    while lock(&router.shared).readable.len() < 2 {
        poller.wait(None).unwrap();
    }
    let mut message = Vec::new();
    let place = (0..).find(|_| router.receive(&mut message) && &message[0][..] == b"rare");
    assert!(place < Some(3), "{place:?}");
}

#[test]
fn strangers_are_shown_the_door_and_nothing_else_changes() {
    let (mut router, port) = router();
    let mut web = TcpStream::connect(("127.0.0.1", port)).unwrap();
    web.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut peer = dealer(b"peer", port);
    peer.send(&mut frames(&[b"hello"])).unwrap();
    assert_eq!(&receive(&mut [&mut router, &mut peer])[1][..], b"hello");
    // Each was greeted; the first was then left.
    let mut greeting = [0; 64];
    silent.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting[0], 0xff);
    let mut rest = Vec::new();
    assert!(web.read_to_end(&mut rest).is_err() || rest.len() < 200);
    assert_eq!(lock(&router.shared).connections.len(), 2);
}

#[test]
fn what_was_sent_last_arrives_when_the_socket_is_closed_at_once() {
    let (mut router, port) = router();
    let mut peer = dealer(b"peer", port);
    peer.send(&mut frames(&[b"hello"])).unwrap();
    receive(&mut [&mut router, &mut peer]);
    router.set_linger(Duration::from_secs(30));
    let big = vec![1; 20_000_000];
    router
        .send(&mut vec![Frame::from(&b"peer"[..]), Frame::from(big)])
        .unwrap();
    // Something that nobody has read makes no difference.
    peer.send(&mut frames(&[b"unread"])).unwrap();
    let closing = std::thread::spawn(move || drop(router));
    let got = receive(&mut [&mut peer]);
    assert_eq!(got[0].len(), 20_000_000);
    closing.join().unwrap();
}

#[test]
fn an_idle_connection_is_small() {
    assert!(
        size_of::<Connection>() <= 500,
        "{}",
        size_of::<Connection>()
    );
}
