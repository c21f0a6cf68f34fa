use proptest::prelude::*;

use super::*;

/// One end of a connection.
struct End {
    ours: Arc<Ours>,
    peer: Peer,
    out: Outgoing,
    incoming: VecDeque<Vec<Frame>>,
    identity: Option<Vec<u8>>,
}

impl End {
    fn new(socket_type: SocketType, identity: &[u8]) -> Self {
        Self::secured(socket_type, identity, Security::Null)
    }

    fn secured(socket_type: SocketType, identity: &[u8], security: Security) -> Self {
        let ours = Arc::new(Ours {
            socket_type,
            identity: identity.to_vec(),
            limit: 1 << 20,
            security,
        });
        let mut out = Outgoing::default();
        let peer = Peer::new(&ours, &mut out);
        Self {
            ours,
            peer,
            out,
            incoming: VecDeque::new(),
            identity: None,
        }
    }

    fn written(&mut self) -> Vec<u8> {
        self.out.take_bytes()
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let mut ready = None;
        let result = self.peer.receive(
            bytes,
            &mut Io {
                ours: &self.ours,
                out: &mut self.out,
                incoming: &mut self.incoming,
                ready: &mut ready,
                spare: &mut Vec::new(),
                shares: false,
                descriptors: &mut VecDeque::new(),
            },
        );
        if ready.is_some() {
            assert!(self.identity.is_none(), "ready twice");
            self.identity = ready;
        }
        result
    }

    fn send(&mut self, frames: &[&[u8]]) {
        let frames: Vec<Frame> = frames.iter().map(|f| Frame::from(*f)).collect();
        self.peer.send(&frames, false, &mut self.out);
    }
}

/// Carries bytes both ways until nothing is left.
fn exchange(one: &mut End, other: &mut End) -> Result<(), Violation> {
    loop {
        let (there, back) = (one.written(), other.written());
        if there.is_empty() && back.is_empty() {
            return Ok(());
        }
        other.receive(&there)?;
        one.receive(&back)?;
    }
}

#[test]
fn two_ends_become_ready_and_know_each_other() {
    let mut router = End::new(SocketType::Router, b"task_out");
    let mut dealer = End::new(SocketType::Dealer, b"engine");
    exchange(&mut router, &mut dealer).unwrap();
    assert!(router.peer.is_ready() && dealer.peer.is_ready());
    assert_eq!(router.identity.as_deref(), Some(&b"engine"[..]));
    assert_eq!(dealer.identity.as_deref(), Some(&b"task_out"[..]));
    dealer.send(&[b"a", b"", &[7; 300]]);
    exchange(&mut router, &mut dealer).unwrap();
    // A router's messages begin with a place for the sender's name.
    let got: Vec<&[u8]> = router.incoming[0].iter().map(|f| &f[..]).collect();
    assert_eq!(got, [b"", &b"a"[..], b"", &[7; 300]]);
}

/// What two ends need that are to talk in secret.
fn secrets() -> (Security, Security) {
    let keys = Arc::new(curve::KeyPair::generate());
    let server = curve::ServerKey::parse(&keys.public()).unwrap();
    let client = Security::Client {
        server,
        keys: Arc::new(curve::KeyPair::generate()),
    };
    (Security::Server(keys), client)
}

#[test]
fn two_ends_talk_in_secret() {
    let (server, client) = secrets();
    let mut router = End::secured(SocketType::Router, b"task_out", server);
    let mut dealer = End::secured(SocketType::Dealer, b"engine", client);
    exchange(&mut router, &mut dealer).unwrap();
    assert_eq!(router.identity.as_deref(), Some(&b"engine"[..]));
    assert_eq!(dealer.identity.as_deref(), Some(&b"task_out"[..]));
    let large = vec![7; 100_000];
    dealer.send(&[b"secret", &large]);
    let wire = dealer.written();
    assert!(!wire.windows(6).any(|part| part == b"secret"));
    router.receive(&wire).unwrap();
    assert_eq!(&router.incoming[0][1][..], b"secret");
    assert_eq!(&router.incoming[0][2][..], large);
    // What was heard is of no use to another.
    assert_eq!(router.receive(&wire), Err(Violation::Encryption));
}

#[test]
fn who_does_not_encrypt_is_not_talked_to() {
    let (server, client) = secrets();
    let mut plain = End::new(SocketType::Dealer, b"");
    let mut router = End::secured(SocketType::Router, b"", server);
    let refused = exchange(&mut router, &mut plain).unwrap_err();
    assert!(matches!(refused, Violation::Mechanism { .. }));
    let mut plain = End::new(SocketType::Router, b"");
    let mut dealer = End::secured(SocketType::Dealer, b"", client);
    let refused = exchange(&mut dealer, &mut plain).unwrap_err();
    assert!(matches!(refused, Violation::Mechanism { .. }));
}

#[test]
fn sockets_that_do_not_fit_are_refused() {
    let mut sub = End::new(SocketType::Sub, b"");
    let mut router = End::new(SocketType::Router, b"");
    assert_eq!(
        exchange(&mut sub, &mut router),
        Err(Violation::SocketType("SUB".to_owned()))
    );
}

#[test]
fn a_stranger_is_refused_at_the_first_byte() {
    let mut router = End::new(SocketType::Router, b"");
    assert_eq!(router.receive(b"G"), Err(Violation::NotZmtp));
}

#[test]
fn nothing_large_or_early_is_taken_before_the_handshake_is_over() {
    let greeting = greeting::compose(Mechanism::Null, false);
    let after_greeting = |bytes: &[u8]| {
        let mut router = End::new(SocketType::Router, b"");
        router.receive(&greeting).unwrap();
        router.receive(bytes).unwrap_err()
    };
    assert_eq!(after_greeting(&[0, 1, 7]), Violation::Handshake);
    assert_eq!(
        after_greeting(&[COMMAND | super::super::LONG, 0, 0, 0, 0, 1, 0, 0, 0]),
        Violation::TooLarge {
            limit: HANDSHAKE_LIMIT
        }
    );
}

#[test]
fn pings_are_answered_and_subscriptions_told() {
    let mut publisher = End::new(SocketType::XPub, b"");
    let mut subscriber = End::new(SocketType::Sub, b"");
    exchange(&mut publisher, &mut subscriber).unwrap();
    publisher
        .receive(&command::compose("PING", b"\0\x01me"))
        .unwrap();
    assert_eq!(publisher.written(), command::compose("PONG", b"me"));
    publisher
        .receive(&command::compose("SUBSCRIBE", b"x"))
        .unwrap();
    subscriber.send(&[b"\x01y"]);
    exchange(&mut publisher, &mut subscriber).unwrap();
    let told: Vec<&[u8]> = publisher.incoming.iter().map(|m| &m[0][..]).collect();
    assert_eq!(told, [b"\x01x", b"\x01y"]);
}

#[test]
fn who_is_not_taken_in_is_told_why() {
    let violation = Violation::Crowd {
        connections: 7,
        open_files: 8,
    };
    let (server, client) = secrets();
    for (ours, theirs) in [(Security::Null, Security::Null), (server, client)] {
        let router = End::secured(SocketType::Router, b"", ours);
        let mut peer = End::secured(SocketType::Dealer, b"", theirs);
        let mut said = Peer::dismissal(&router.ours, &violation);
        let told = peer.receive(&said.take_bytes()).unwrap_err();
        assert_eq!(told, Violation::Refused(violation.to_string()));
        assert!(peer.identity.is_none());
    }
}

#[test]
fn a_peer_that_hangs_up_has_its_reasons() {
    let (server, client) = secrets();
    let greeting = greeting::compose(Mechanism::Null, false);
    for (security, heard) in [
        (Security::Null, "not encrypted"),
        (server.clone(), "are encrypted"),
    ] {
        let mut end = End::secured(SocketType::Router, b"", security);
        assert_eq!(end.peer.farewell(&end.ours), None, "nothing was said yet");
        end.receive(&greeting[..11]).unwrap();
        let why = end.peer.farewell(&end.ours).unwrap().to_string();
        assert!(why.contains(heard), "{why}");
    }
    let mut dealer = End::secured(SocketType::Dealer, b"", client);
    dealer
        .receive(&greeting::compose(Mechanism::Curve, true))
        .unwrap();
    let why = dealer.peer.farewell(&dealer.ours).unwrap().to_string();
    assert!(why.contains("key"), "{why}");
    let mut router = End::secured(SocketType::Router, b"", server);
    assert_eq!(
        router.written().len(),
        greeting::SIGNATURE,
        "first the other is heard"
    );
    router.receive(&dealer.written()).unwrap();
    let rest = router.written();
    let (_, welcome) = rest.split_at(greeting::LEN - greeting::SIGNATURE);
    dealer.receive(welcome).unwrap();
    assert_eq!(dealer.peer.farewell(&dealer.ours), None);
}

proptest! {
    #[test]
    fn any_bytes_are_understood_or_refused_in_secret(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        how_far in 0..3usize,
        as_client in any::<bool>(),
    ) {
        let (server, client) = secrets();
        let (ours, theirs) = if as_client { (client, server) } else { (server, client) };
        let mut end = End::secured(SocketType::Router, b"", ours);
        let mut other = End::secured(SocketType::Dealer, b"", theirs);
        if how_far == 1 {
            end.receive(&greeting::compose(Mechanism::Curve, as_client)).unwrap();
        }
        if how_far == 2 {
            exchange(&mut end, &mut other).unwrap();
        }
        let _ = end.receive(&bytes);
        assert!(end.incoming.is_empty(), "something was taken for a message");
        assert_eq!(end.identity.is_some(), how_far == 2);
    }

    #[test]
    fn a_conversation_does_not_depend_on_how_its_bytes_are_cut(
        cuts in prop::collection::vec(1..120usize, 1..30),
        sizes in prop::collection::vec(0..400usize, 1..20),
    ) {
        let mut dealer = End::new(SocketType::Dealer, b"me");
        let mut router = End::new(SocketType::Router, b"");
        let hello = router.written();
        dealer.receive(&hello).unwrap();
        for size in &sizes {
            dealer.send(&[&vec![1; *size], b"x"]);
        }
        let bytes = dealer.written();
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (here, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            router.receive(here).unwrap();
            rest = after;
        }
        let got: Vec<usize> = router.incoming.iter().map(|m| m[1].len()).collect();
        prop_assert_eq!(got, sizes);
    }

    #[test]
    fn any_bytes_are_understood_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        greets in any::<bool>(),
    ) {
        let mut router = End::new(SocketType::Router, b"");
        if greets {
            router.receive(&greeting::compose(Mechanism::Null, false)).unwrap();
        }
        let _ = router.receive(&bytes);
    }
}
