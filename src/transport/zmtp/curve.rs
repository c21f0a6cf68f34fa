//! CURVE: connections that are encrypted, and whose server is known by its public key
//! (<https://rfc.zeromq.org/spec/26/>, in the boxes of NaCl).
//!
//! ```text
//! client                                     server
//! HELLO     a key for this connection   ->
//!                                       <-   WELCOME   a key for this connection, a cookie
//! INITIATE  cookie, lasting key, vouch  ->
//!                                       <-   READY
//! MESSAGE                              <->   MESSAGE   each frame in a box of its own
//! ```
//!
//! As in ipyparallel any client key is taken: whoever knows the server's public key may connect, which is in the
//! connection files and nowhere else. Nothing that goes over a connection tells it to others (HELLO can be made with it, and
//! does not show it). So it is handled as a secret here, and client keys with which everybody could make a HELLO are refused.
//!
//! In place of a cookie that holds the server's state, the state stays here: a connection takes memory anyway. The keys of a
//! handshake that comes to nothing go with its connection, which has a limited time.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use crypto_box::aead::{AeadInPlace, OsRng, rand_core::RngCore};
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use subtle::ConstantTimeEq;

use super::{MORE, Violation};
use crate::transport::{Frame, z85};

/// Bytes that a box adds to what is in it.
const TAG: usize = 16;

/// Before a frame's payload: the name of the command, a nonce, the tag, the flags.
pub(super) const OVERHEAD: usize = MESSAGE.len() + 8 + TAG + 1;

const HELLO: &[u8] = b"\x05HELLO";
const WELCOME: &[u8] = b"\x07WELCOME";
const INITIATE: &[u8] = b"\x08INITIATE";
const READY: &[u8] = b"\x05READY";
const MESSAGE: &[u8] = b"\x07MESSAGE";

const COOKIE: usize = 96;

/// In the flags of an encrypted frame.
const ENCRYPTED_COMMAND: u8 = 2;

/// A lasting pair of keys.
pub struct KeyPair {
    secret: SecretKey,
    public: PublicKey,
}

impl KeyPair {
    pub fn generate() -> Self {
        let secret = SecretKey::generate(&mut OsRng);
        Self {
            public: secret.public_key(),
            secret,
        }
    }

    /// The pair of a secret key in Z85.
    pub fn of_secret(secret: &str) -> Option<Self> {
        let secret = SecretKey::from(z85::decode_key(secret)?);
        Some(Self {
            public: secret.public_key(),
            secret,
        })
    }

    /// In Z85.
    pub fn public(&self) -> String {
        z85::encode_key(self.public.as_bytes())
    }

    /// In Z85.
    pub fn secret(&self) -> String {
        z85::encode_key(&self.secret.to_bytes())
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

/// How connections are secured.
#[derive(Clone, Debug, Default)]
pub enum Security {
    /// Not at all.
    #[default]
    Null,
    /// Others know this end by its key.
    Server(Arc<KeyPair>),
    /// This end knows the other's key.
    Client {
        server: ServerKey,
        keys: Arc<KeyPair>,
    },
}

/// The public key of a server.
#[derive(Clone, Debug)]
pub struct ServerKey(PublicKey);

impl ServerKey {
    /// From Z85.
    pub fn parse(text: &str) -> Option<Self> {
        let key = PublicKey::from(z85::decode_key(text)?);
        (!is_weak(&key)).then_some(Self(key))
    }
}

/// Points of Curve25519 with which every secret key makes one of a few "secrets", known to all: 0, 1, two of order 8, and
/// p - 1, p, p + 1 for the prime p (<https://cr.yp.to/ecdh.html#validate>). A multiplication does not look at the last bit.
const WEAK_KEYS: &[[u8; 32]] = &[
    small(0x00),
    small(0x01),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    near_prime(0xec),
    near_prime(0xed),
    near_prime(0xee),
];

const fn small(first: u8) -> [u8; 32] {
    let mut key = [0; 32];
    key[0] = first;
    key
}

const fn near_prime(first: u8) -> [u8; 32] {
    let mut key = [0xff; 32];
    key[0] = first;
    key[31] = 0x7f;
    key
}

fn is_weak(key: &PublicKey) -> bool {
    let mut key = *key.as_bytes();
    key[31] &= 0x7f;
    WEAK_KEYS.contains(&key)
}

/// What two ends have in common, unless everybody has.
fn secret(theirs: &PublicKey, ours: &SecretKey) -> Option<SalsaBox> {
    (!is_weak(theirs)).then(|| SalsaBox::new(theirs, ours))
}

/// A handshake that is not over.
pub(super) enum Handshake {
    /// A server that waits for HELLO.
    Hello(Arc<KeyPair>),
    /// A server that waits for INITIATE.
    Initiate {
        keys: Arc<KeyPair>,
        client: PublicKey,
        ours: SecretKey,
        cookie: Box<[u8; COOKIE]>,
    },
    /// A client that waits for WELCOME.
    Welcome {
        server: PublicKey,
        keys: Arc<KeyPair>,
        ours: SecretKey,
    },
    /// A client that waits for READY.
    Ready(Session),
}

/// What a command of the other end leads to.
pub(super) enum Step {
    /// This is to be said, and the handshake goes on.
    Answer(Vec<u8>, Handshake),
    /// The other's properties are known. A server has yet to say its own.
    Done {
        session: Session,
        properties: Vec<u8>,
        is_server: bool,
    },
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handshake")
    }
}

impl Handshake {
    /// Begins as a client: the state, and HELLO.
    pub(super) fn greet(server: &ServerKey, keys: &Arc<KeyPair>) -> (Self, Vec<u8>) {
        let ours = SecretKey::generate(&mut OsRng);
        let mut hello = HELLO.to_vec();
        hello.extend_from_slice(&[1, 0]);
        hello.extend_from_slice(&[0; 72]);
        hello.extend_from_slice(ours.public_key().as_bytes());
        let nonce = 1u64.to_be_bytes();
        hello.extend_from_slice(&nonce);
        let secret = SalsaBox::new(&server.0, &ours);
        hello.extend_from_slice(&seal(&secret, b"CurveZMQHELLO---", &nonce, &[0; 64]));
        let state = Self::Welcome {
            server: server.0.clone(),
            keys: keys.clone(),
            ours,
        };
        (state, hello)
    }

    /// `properties`: what this end says of itself.
    pub(super) fn on_command(self, body: &[u8], properties: &[u8]) -> Result<Step, Violation> {
        let step = match self {
            Self::Hello(keys) => on_hello(keys, body),
            Self::Initiate {
                keys,
                client,
                ours,
                cookie,
            } => on_initiate(&keys, &client, &ours, &cookie[..], body),
            Self::Welcome { server, keys, ours } => {
                on_welcome(&server, &keys, &ours, body, properties)
            }
            Self::Ready(session) => on_ready(session, body),
        };
        step.ok_or(Violation::Handshake)
    }
}

fn on_hello(keys: Arc<KeyPair>, body: &[u8]) -> Option<Step> {
    let rest = body.strip_prefix(HELLO)?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (_padding, rest) = rest.split_first_chunk::<72>()?;
    let (client, rest) = rest.split_first_chunk::<32>()?;
    let (nonce, signature) = rest.split_first_chunk::<8>()?;
    let client = PublicKey::from(*client);
    let secret = secret(&client, &keys.secret)?;
    let signed = open(&secret, b"CurveZMQHELLO---", nonce, signature)?;
    if version[0] != 1 || signed != [0; 64] {
        return None;
    }
    let ours = SecretKey::generate(&mut OsRng);
    let mut cookie = Box::new([0; COOKIE]);
    OsRng.fill_bytes(&mut cookie[..]);
    let nonce = random_nonce();
    let mut welcome = WELCOME.to_vec();
    welcome.extend_from_slice(&nonce);
    let content = [&ours.public_key().as_bytes()[..], &cookie[..]].concat();
    welcome.extend_from_slice(&seal(&secret, b"WELCOME-", &nonce, &content));
    let next = Handshake::Initiate {
        keys,
        client,
        ours,
        cookie,
    };
    Some(Step::Answer(welcome, next))
}

fn on_welcome(
    server: &PublicKey,
    keys: &KeyPair,
    ours: &SecretKey,
    body: &[u8],
    properties: &[u8],
) -> Option<Step> {
    let rest = body.strip_prefix(WELCOME)?;
    let (nonce, sealed) = rest.split_first_chunk::<16>()?;
    let content = open(&SalsaBox::new(server, ours), b"WELCOME-", nonce, sealed)?;
    let (theirs, cookie) = content.split_first_chunk::<32>()?;
    if cookie.len() != COOKIE {
        return None;
    }
    let theirs = PublicKey::from(*theirs);
    let session = secret(&theirs, ours)?;
    // The vouch: whoever has the lasting key says that the key of this connection is its own.
    let nonce = random_nonce();
    let vouched = [&ours.public_key().as_bytes()[..], server.as_bytes()].concat();
    let vouch = seal(
        &SalsaBox::new(&theirs, &keys.secret),
        b"VOUCH---",
        &nonce,
        &vouched,
    );
    let content = [
        &keys.public.as_bytes()[..],
        &nonce[..],
        &vouch[..],
        properties,
    ]
    .concat();
    let nonce = 2u64.to_be_bytes();
    let mut initiate = INITIATE.to_vec();
    initiate.extend_from_slice(cookie);
    initiate.extend_from_slice(&nonce);
    initiate.extend_from_slice(&seal(&session, b"CurveZMQINITIATE", &nonce, &content));
    let session = Session::new(session, Role::Client);
    Some(Step::Answer(initiate, Handshake::Ready(session)))
}

fn on_initiate(
    keys: &KeyPair,
    client: &PublicKey,
    ours: &SecretKey,
    cookie: &[u8],
    body: &[u8],
) -> Option<Step> {
    let rest = body.strip_prefix(INITIATE)?.strip_prefix(cookie)?;
    let (nonce, sealed) = rest.split_first_chunk::<8>()?;
    let session = SalsaBox::new(client, ours);
    let content = open(&session, b"CurveZMQINITIATE", nonce, sealed)?;
    let (lasting, rest) = content.split_first_chunk::<32>()?;
    let (vouch_nonce, rest) = rest.split_first_chunk::<16>()?;
    let (vouch, properties) = rest.split_first_chunk::<80>()?;
    let lasting = secret(&PublicKey::from(*lasting), ours)?;
    let vouched = open(&lasting, b"VOUCH---", vouch_nonce, vouch)?;
    let expected = [&client.as_bytes()[..], keys.public.as_bytes()].concat();
    if !bool::from(vouched.ct_eq(&expected)) {
        return None;
    }
    let mut session = Session::new(session, Role::Server);
    session.received = u64::from_be_bytes(*nonce);
    Some(Step::Done {
        session,
        properties: properties.to_vec(),
        is_server: true,
    })
}

fn on_ready(mut session: Session, body: &[u8]) -> Option<Step> {
    let rest = body.strip_prefix(READY)?;
    let (nonce, sealed) = rest.split_first_chunk::<8>()?;
    let properties = open(&session.secret, b"CurveZMQREADY---", nonce, sealed)?;
    session.received = u64::from_be_bytes(*nonce);
    Some(Step::Done {
        session,
        properties,
        is_server: false,
    })
}

#[derive(Clone, Copy)]
enum Role {
    Client,
    Server,
}

/// The keys of one connection, and the numbers of the boxes that went over it.
pub(super) struct Session {
    secret: SalsaBox,
    role: Role,
    /// The last number that was used, and that came.
    sent: u64,
    received: u64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    fn new(secret: SalsaBox, role: Role) -> Self {
        Self {
            secret,
            role,
            sent: 2,
            received: 0,
        }
    }

    /// The next number. One that comes twice would give both payloads away.
    fn next_nonce(&mut self) -> [u8; 8] {
        self.sent = self
            .sent
            .checked_add(1)
            .expect("no connection lives for 2^64 frames");
        self.sent.to_be_bytes()
    }

    /// What a server says at last.
    pub(super) fn ready(&mut self, properties: &[u8]) -> Vec<u8> {
        let nonce = self.next_nonce();
        let mut ready = READY.to_vec();
        ready.extend_from_slice(&nonce);
        ready.extend_from_slice(&seal(&self.secret, b"CurveZMQREADY---", &nonce, properties));
        ready
    }

    /// The body of the frame that carries `payload`.
    pub(super) fn encrypt(&mut self, more: bool, command: bool, payload: &[u8]) -> Vec<u8> {
        let nonce = self.next_nonce();
        let mut body = Vec::with_capacity(OVERHEAD + payload.len());
        body.extend_from_slice(MESSAGE);
        body.extend_from_slice(&nonce);
        body.extend_from_slice(&[0; TAG]);
        let start = body.len();
        body.push((u8::from(more) * MORE) | (u8::from(command) * ENCRYPTED_COMMAND));
        body.extend_from_slice(payload);
        let prefix = match self.role {
            Role::Client => b"CurveZMQMESSAGEC",
            Role::Server => b"CurveZMQMESSAGES",
        };
        let tag = self
            .secret
            .encrypt_in_place_detached(&long_nonce(prefix, &nonce), b"", &mut body[start..])
            .expect("a frame is much smaller than what may be encrypted at once");
        body[start - TAG..start].copy_from_slice(&tag);
        body
    }

    /// Whether more frames follow, whether it is a command, and the payload of the frame with this body.
    pub(super) fn decrypt(&mut self, body: &[u8]) -> Result<(bool, bool, Frame), Violation> {
        let opened = || {
            let rest = body.strip_prefix(MESSAGE)?;
            let (nonce, sealed) = rest.split_first_chunk::<8>()?;
            let number = u64::from_be_bytes(*nonce);
            // The specification asks for a higher number. All implementations count without gaps, and so nobody on the way
            // can leave out a frame.
            if Some(number) != self.received.checked_add(1) {
                return None;
            }
            let prefix = match self.role {
                Role::Client => b"CurveZMQMESSAGES",
                Role::Server => b"CurveZMQMESSAGEC",
            };
            Some((number, open(&self.secret, prefix, nonce, sealed)?))
        };
        let (number, payload) = opened().ok_or(Violation::Encryption)?;
        let Some(flags) = payload.first().copied() else {
            return Err(Violation::Encryption);
        };
        self.received = number;
        let payload = Frame::from(Bytes::from(payload).slice(1..));
        Ok((flags & MORE != 0, flags & ENCRYPTED_COMMAND != 0, payload))
    }
}

fn random_nonce() -> [u8; 16] {
    let mut nonce = [0; 16];
    OsRng.fill_bytes(&mut nonce);
    nonce
}

/// Of a purpose and a number, 24 bytes in all.
fn long_nonce(prefix: &[u8], nonce: &[u8]) -> crypto_box::Nonce {
    let mut long = crypto_box::Nonce::default();
    long[..prefix.len()].copy_from_slice(prefix);
    long[prefix.len()..].copy_from_slice(nonce);
    long
}

/// NaCl's box: a tag, and what was encrypted.
fn seal(secret: &SalsaBox, prefix: &[u8], nonce: &[u8], content: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; TAG];
    sealed.extend_from_slice(content);
    let tag = secret
        .encrypt_in_place_detached(&long_nonce(prefix, nonce), b"", &mut sealed[TAG..])
        .expect("what is said in a handshake is short");
    sealed[..TAG].copy_from_slice(&tag);
    sealed
}

fn open(secret: &SalsaBox, prefix: &[u8], nonce: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (tag, encrypted) = sealed.split_first_chunk::<TAG>()?;
    let mut content = encrypted.to_vec();
    secret
        .decrypt_in_place_detached(
            &long_nonce(prefix, nonce),
            b"",
            &mut content,
            (&tag[..]).into(),
        )
        .ok()?;
    Some(content)
}

#[cfg(test)]
#[path = "curve_tests.rs"]
mod tests;
