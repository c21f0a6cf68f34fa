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
//! Who may connect is decided by the messages' own means, as in ipyparallel: any client key is taken.

use std::fmt;
use std::sync::Arc;

use crypto_box::aead::{AeadInPlace, OsRng, rand_core::RngCore};
use crypto_box::{PublicKey, SalsaBox, SecretKey};

use super::{MORE, Violation};
use crate::transport::z85;

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
        Some(Self(PublicKey::from(z85::decode_key(text)?)))
    }
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
    let secret = SalsaBox::new(&client, &keys.secret);
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
    let session = SalsaBox::new(&theirs, ours);
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
    let lasting = SalsaBox::new(&PublicKey::from(*lasting), ours);
    let vouched = open(&lasting, b"VOUCH---", vouch_nonce, vouch)?;
    if vouched != [&client.as_bytes()[..], keys.public.as_bytes()].concat() {
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

    /// What a server says at last.
    pub(super) fn ready(&mut self, properties: &[u8]) -> Vec<u8> {
        self.sent += 1;
        let nonce = self.sent.to_be_bytes();
        let mut ready = READY.to_vec();
        ready.extend_from_slice(&nonce);
        ready.extend_from_slice(&seal(&self.secret, b"CurveZMQREADY---", &nonce, properties));
        ready
    }

    /// The body of the frame that carries `payload`.
    pub(super) fn encrypt(&mut self, more: bool, command: bool, payload: &[u8]) -> Vec<u8> {
        self.sent += 1;
        let nonce = self.sent.to_be_bytes();
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
    pub(super) fn decrypt(&mut self, body: &[u8]) -> Result<(bool, bool, Vec<u8>), Violation> {
        let opened = || {
            let rest = body.strip_prefix(MESSAGE)?;
            let (nonce, sealed) = rest.split_first_chunk::<8>()?;
            let number = u64::from_be_bytes(*nonce);
            if number <= self.received {
                return None;
            }
            let prefix = match self.role {
                Role::Client => b"CurveZMQMESSAGES",
                Role::Server => b"CurveZMQMESSAGEC",
            };
            Some((number, open(&self.secret, prefix, nonce, sealed)?))
        };
        let (number, mut payload) = opened().ok_or(Violation::Encryption)?;
        let Some(flags) = payload.first().copied() else {
            return Err(Violation::Encryption);
        };
        self.received = number;
        payload.drain(..1);
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
mod tests {
    use super::*;

    fn shake(server: &Arc<KeyPair>, expected: &ServerKey) -> Result<(Session, Session), Violation> {
        let keys = Arc::new(KeyPair::generate());
        let (client, hello) = Handshake::greet(expected, &keys);
        assert_eq!(hello.len(), 200);
        let Step::Answer(welcome, waits) =
            Handshake::Hello(server.clone()).on_command(&hello, b"")?
        else {
            panic!("a server answers")
        };
        assert_eq!(welcome.len(), 168);
        let Step::Answer(initiate, client) = client.on_command(&welcome, b"client's")? else {
            panic!("a client answers")
        };
        let Step::Done {
            session: mut ours,
            properties,
            ..
        } = waits.on_command(&initiate, b"")?
        else {
            panic!("then the server knows all")
        };
        assert_eq!(properties, b"client's");
        let ready = ours.ready(b"server's");
        let Step::Done {
            session: theirs,
            properties,
            ..
        } = client.on_command(&ready, b"")?
        else {
            panic!("then the client knows all")
        };
        assert_eq!(properties, b"server's");
        Ok((ours, theirs))
    }

    #[test]
    fn both_ends_understand_each_other_and_nobody_else_does() {
        let server = Arc::new(KeyPair::generate());
        let key = ServerKey::parse(&server.public()).unwrap();
        let (mut ours, mut theirs) = shake(&server, &key).unwrap();
        let first = theirs.encrypt(true, false, b"payload");
        assert_eq!(ours.decrypt(&first), Ok((true, false, b"payload".to_vec())));
        // Nothing counts twice, nothing that was changed, nothing from another connection.
        assert_eq!(ours.decrypt(&first), Err(Violation::Encryption));
        let mut second = ours.encrypt(false, true, b"");
        assert_eq!(theirs.decrypt(&second), Ok((false, true, Vec::new())));
        second = ours.encrypt(false, true, b"");
        *second.last_mut().unwrap() ^= 1;
        assert_eq!(theirs.decrypt(&second), Err(Violation::Encryption));
        let (mut others, _) = shake(&server, &key).unwrap();
        let third = theirs.encrypt(false, false, b"x");
        assert_eq!(others.decrypt(&third), Err(Violation::Encryption));
    }

    #[test]
    fn a_server_with_another_key_is_not_talked_to() {
        let server = Arc::new(KeyPair::generate());
        let other = ServerKey::parse(&KeyPair::generate().public()).unwrap();
        assert_eq!(shake(&server, &other).unwrap_err(), Violation::Handshake);
    }

    #[test]
    fn keys_survive_being_written() {
        let keys = KeyPair::generate();
        let again = KeyPair::of_secret(&keys.secret()).unwrap();
        assert_eq!(again.public(), keys.public());
        assert!(KeyPair::of_secret("too short").is_none());
        assert!(!format!("{keys:?}").contains(&keys.secret()));
    }
}
