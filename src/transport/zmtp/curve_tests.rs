use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn shake(server: &Arc<KeyPair>, expected: &ServerKey) -> Result<(Session, Session), Violation> {
    let keys = Arc::new(KeyPair::generate());
    let (client, hello) = Handshake::greet(expected, &keys);
    assert_eq!(hello.len(), 200);
    let Step::Answer(welcome, waits) = Handshake::Hello(server.clone()).on_command(&hello, b"")?
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
    assert_eq!(
        ours.decrypt(&first),
        Ok((true, false, Frame::from(&b"payload"[..])))
    );
    // Nothing counts twice, nothing that was changed, nothing from another connection.
    assert_eq!(ours.decrypt(&first), Err(Violation::Encryption));
    let mut second = ours.encrypt(false, true, b"");
    assert_eq!(theirs.decrypt(&second), Ok((false, true, Frame::empty())));
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

/// Makes a state that waits for a command.
type Waiting = Box<dyn Fn() -> Handshake>;

/// The four commands of a handshake, each with what makes the state that waits for it: a command uses a state up.
fn commands() -> [(Waiting, Vec<u8>); 4] {
    let keys = Arc::new(KeyPair::generate());
    let expected = ServerKey::parse(&keys.public()).unwrap();
    let (client, hello) = Handshake::greet(&expected, &Arc::new(KeyPair::generate()));
    let Handshake::Welcome {
        server,
        keys: theirs,
        ours: short,
    } = client
    else {
        panic!("a client waits")
    };
    let first = move || Handshake::Hello(keys.clone());
    let Ok(Step::Answer(welcome, waits)) = first().on_command(&hello, b"") else {
        panic!("a server answers")
    };
    let Handshake::Initiate {
        keys,
        client,
        ours,
        cookie,
    } = waits
    else {
        panic!("a server waits")
    };
    let common = (ours.public_key(), short.clone());
    let second = move || Handshake::Welcome {
        server: server.clone(),
        keys: theirs.clone(),
        ours: short.clone(),
    };
    let third = move || Handshake::Initiate {
        keys: keys.clone(),
        client: client.clone(),
        ours: ours.clone(),
        cookie: cookie.clone(),
    };
    let fourth = move || {
        let secret = SalsaBox::new(&common.0, &common.1);
        Handshake::Ready(Session::new(secret, Role::Client))
    };
    let Ok(Step::Answer(initiate, _)) = second().on_command(&welcome, b"client's") else {
        panic!("a client answers")
    };
    let Ok(Step::Done { mut session, .. }) = third().on_command(&initiate, b"") else {
        panic!("then the server knows all")
    };
    let ready = session.ready(b"server's");
    [
        (Box::new(first), hello),
        (Box::new(second), welcome),
        (Box::new(third), initiate),
        (Box::new(fourth), ready),
    ]
}

/// Of HELLO the version's second half and the padding are of no consequence.
fn counts(which: usize, byte: usize) -> bool {
    which != 0 || !(HELLO.len() + 1..HELLO.len() + 74).contains(&byte)
}

#[test]
fn a_changed_or_cut_handshake_comes_to_nothing() {
    for (which, (state, command)) in commands().into_iter().enumerate() {
        for byte in 0..command.len() {
            let mut changed = command.clone();
            changed[byte] ^= 1;
            let done = state().on_command(&changed, b"");
            assert_eq!(done.is_err(), counts(which, byte), "{which}, byte {byte}");
            assert!(state().on_command(&command[..byte], b"").is_err());
        }
        let mut longer = command.clone();
        longer.push(0);
        assert!(state().on_command(&longer, b"").is_err(), "{which}");
        assert!(state().on_command(&command, b"").is_ok());
    }
}

#[test]
fn each_command_has_its_time() {
    let all = commands();
    for (which, (state, _)) in all.iter().enumerate() {
        for (other, (_, command)) in all.iter().enumerate() {
            let done = state().on_command(command, b"");
            assert_eq!(
                done.is_ok(),
                which == other,
                "{other} at the time of {which}"
            );
        }
        let message = Session::new(
            SalsaBox::new(&all_zero(), &SecretKey::generate(&mut OsRng)),
            Role::Client,
        )
        .encrypt(false, false, b"early");
        assert!(state().on_command(&message, b"").is_err());
    }
}

fn all_zero() -> PublicKey {
    PublicKey::from([0; 32])
}

/// With such a key two ends have one of at most eight secrets in common, whatever the other's is.
#[test]
fn keys_that_make_no_secret_are_refused() {
    for bytes in WEAK_KEYS {
        for high in [0, 0x80] {
            let mut bytes = *bytes;
            bytes[31] |= high;
            let weak = PublicKey::from(bytes);
            let common =
                |other: &SecretKey| seal(&SalsaBox::new(&weak, other), b"VOUCH---", &[0; 16], b"x");
            let all: HashSet<Vec<u8>> = (0..100)
                .map(|_| common(&SecretKey::generate(&mut OsRng)))
                .collect();
            assert!(all.len() <= 8, "{bytes:?} is not weak");
            let one = SecretKey::generate(&mut OsRng);
            assert!(secret(&weak, &one).is_none());

            // A greeting that needs no knowledge of the server's key.
            let server = Arc::new(KeyPair::generate());
            let mut hello = HELLO.to_vec();
            hello.extend_from_slice(&[1, 0]);
            hello.extend_from_slice(&[0; 72]);
            hello.extend_from_slice(&bytes);
            hello.extend_from_slice(&1u64.to_be_bytes());
            let known = SalsaBox::new(&weak, &one);
            hello.extend_from_slice(&seal(
                &known,
                b"CurveZMQHELLO---",
                &1u64.to_be_bytes(),
                &[0; 64],
            ));
            assert!(Handshake::Hello(server).on_command(&hello, b"").is_err());
        }
    }
    assert!(ServerKey::parse(&z85::encode_key(&[0; 32])).is_none());
}

#[test]
fn numbers_are_never_used_twice() {
    let server = Arc::new(KeyPair::generate());
    let key = ServerKey::parse(&server.public()).unwrap();
    let (mut ours, mut theirs) = shake(&server, &key).unwrap();
    theirs.sent = u64::MAX - 1;
    ours.received = theirs.sent;
    let last = theirs.encrypt(false, false, b"last");
    assert!(ours.decrypt(&last).is_ok());
    let over = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        theirs.encrypt(false, false, b"one more")
    }));
    assert!(over.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_no_handshake(bytes in prop::collection::vec(any::<u8>(), 0..400), name in 0..4usize) {
        let names = [HELLO, WELCOME, INITIATE, READY];
        for (state, _) in commands() {
            prop_assert!(state().on_command(&bytes, b"").is_err());
            let named = [names[name], &bytes].concat();
            prop_assert!(state().on_command(&named, b"").is_err());
        }
    }

    /// Whatever becomes of frames on their way, each is taken at most once, unchanged, in the order in which they were
    /// sent, and after all that were sent before it.
    #[test]
    fn frames_are_taken_once_and_in_order(
        sizes in prop::collection::vec(0..300usize, 1..20),
        order in prop::collection::vec((prop::option::weighted(0.2, any::<prop::sample::Index>()), any::<Option<(prop::sample::Index, u8)>>()), 1..60),
        backwards in any::<bool>(),
    ) {
        let server = Arc::new(KeyPair::generate());
        let key = ServerKey::parse(&server.public()).unwrap();
        let (ours, theirs) = shake(&server, &key).unwrap();
        let (mut from, mut to) = if backwards { (ours, theirs) } else { (theirs, ours) };
        let frames: Vec<_> = sizes.iter().enumerate().map(|(n, size)| {
            let payload = vec![n as u8; *size];
            let (more, command) = (n % 2 == 0, n % 3 == 0);
            (from.encrypt(more, command, &payload), (more, command, payload))
        }).collect();
        let mut next = 0;
        for (which, change) in order {
            // Mostly the one whose turn it is.
            let which = which.map_or(next % frames.len(), |which| which.index(frames.len()));
            let (mut body, expected) = frames[which].clone();
            let is_changed = change.is_some_and(|(place, bits)| {
                body[place.index(frames[which].0.len())] ^= bits;
                bits != 0
            });
            let got = to.decrypt(&body).map(|(more, command, payload)| (more, command, payload.to_vec()));
            if which != next || is_changed {
                prop_assert_eq!(got, Err(Violation::Encryption));
            } else {
                prop_assert_eq!(got, Ok(expected));
                next += 1;
            }
        }
    }

    #[test]
    fn any_bytes_are_no_message(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let server = Arc::new(KeyPair::generate());
        let key = ServerKey::parse(&server.public()).unwrap();
        let (mut ours, _) = shake(&server, &key).unwrap();
        prop_assert!(ours.decrypt(&bytes).is_err());
        prop_assert!(ours.decrypt(&[MESSAGE, &bytes].concat()).is_err());
    }
}
