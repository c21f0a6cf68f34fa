//! Fuzz targets of the transport: bytes of a peer.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Frame;
use super::zmtp::Violation;
use super::zmtp::curve::{KeyPair, Security, ServerKey};
use super::zmtp::outgoing::Outgoing;
use super::zmtp::peer::{Io, Ours, Peer, SocketType};
use super::zmtp::subscriptions::Subscriptions;

/// One end of a connection, and what it has said.
struct End {
    ours: Arc<Ours>,
    peer: Peer,
    out: Outgoing,
    incoming: VecDeque<Vec<Frame>>,
}

impl End {
    fn new(socket_type: SocketType, security: Security) -> Self {
        let ours = Arc::new(Ours {
            socket_type,
            identity: b"us".to_vec(),
            limit: 1 << 16,
            security,
        });
        let mut out = Outgoing::default();
        let peer = Peer::new(&ours, &mut out);
        Self {
            ours,
            peer,
            out,
            incoming: VecDeque::new(),
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.peer.receive(
            bytes,
            &mut Io {
                ours: &self.ours,
                out: &mut self.out,
                incoming: &mut self.incoming,
                ready: &mut None,
                spare: &mut Vec::new(),
                shares: false,
                descriptors: &mut VecDeque::new(),
            },
        )
    }

    fn written(&mut self) -> Vec<u8> {
        self.out.take_bytes()
    }

    fn messages(&self) -> Vec<Vec<Vec<u8>>> {
        let of = |message: &Vec<Frame>| message.iter().map(|frame| frame.to_vec()).collect();
        self.incoming.iter().map(of).collect()
    }
}

/// What a peer says: the first byte is for the kind of our socket and how its bytes are cut, which changes nothing.
pub fn zmtp_peer(data: &[u8]) {
    let Some((first, said)) = data.split_first() else {
        return;
    };
    let kinds = [
        SocketType::Router,
        SocketType::Dealer,
        SocketType::XPub,
        SocketType::Sub,
    ];
    let kind = kinds[usize::from(first & 3)];
    let mut whole = End::new(kind, Security::Null);
    let outcome = whole.receive(said);
    let mut cut = End::new(kind, Security::Null);
    let outcome_of_cut = said
        .chunks(usize::from(first >> 2) + 1)
        .try_for_each(|piece| cut.receive(piece));
    assert_eq!(outcome, outcome_of_cut);
    assert_eq!(whole.messages(), cut.messages());
    assert_eq!(whole.written(), cut.written());
    let mut subscriptions = Subscriptions::default();
    for message in &whole.incoming {
        match message.first().and_then(|frame| frame.split_first()) {
            Some((1, topic)) if subscriptions.add(topic).is_ok() => {
                assert!(subscriptions.want(topic));
            }
            Some((0, topic)) => subscriptions.remove(topic),
            _ => {}
        }
    }
}

/// A handshake with CURVE, and a message, in which bytes are changed on their way: pieces of three bytes say in which
/// round, where, and how. What is changed is refused or not understood; nobody panics.
pub fn curve_handshake(data: &[u8]) {
    let keys = |digit: u8| {
        let secret = [digit; 32];
        let text = super::z85::encode_key(&secret);
        Arc::new(KeyPair::of_secret(&text).expect("32 bytes are a key"))
    };
    let server_keys = keys(1);
    let server_key = ServerKey::parse(&server_keys.public()).expect("a key's own text");
    let client_security = Security::Client {
        server: server_key,
        keys: keys(2),
    };
    let mut server = End::new(SocketType::Router, Security::Server(server_keys));
    let mut client = End::new(SocketType::Dealer, client_security);
    let changes = pieces(data);
    for round in 0..8_u8 {
        let changed = |mut bytes: Vec<u8>, side: u8| {
            for change in &changes {
                if let [which, at, how] = change
                    && *which == 2 * round + side
                    && !bytes.is_empty()
                {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] ^= how;
                }
            }
            bytes
        };
        if client.peer.is_ready() && round == 5 {
            client
                .peer
                .send(&[Frame::from(&b"secret"[..])], false, &mut client.out);
        }
        let there = changed(client.written(), 0);
        let back = changed(server.written(), 1);
        if server.receive(&there).is_err() || client.receive(&back).is_err() {
            return;
        }
    }
    for message in server.messages() {
        assert_eq!(message.last().map(Vec::as_slice), Some(&b"secret"[..]));
    }
}

/// Cuts `data` into pieces: a byte says how long the next one is.
fn pieces(mut data: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((length, rest)) = data.split_first() {
        let (piece, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        found.push(piece);
        data = rest;
    }
    found
}
