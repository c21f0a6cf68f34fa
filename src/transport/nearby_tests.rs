use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};

use std::io::Write;
use std::sync::Arc;

use super::Names;
use crate::os::shared_memory::{SHARE_FROM, SharedMemory};
use crate::transport::{Context, Frame, Kind, Poller, Socket};

const LARGE: usize = 2 * SHARE_FROM;

fn context(key: &str) -> Context {
    Context::new().with_nearby(key.as_bytes())
}

fn router(context: &Context) -> (Socket, u16) {
    let router = context.socket(Kind::Router).unwrap();
    router.set_mandatory();
    router.set_nearby();
    let port = router.bind("tcp://127.0.0.1", 0).unwrap();
    (router, port)
}

fn dealer(context: &Context, port: u16, name: &str) -> Socket {
    let dealer = context.socket(Kind::Dealer).unwrap();
    dealer.set_identity(name.as_bytes());
    dealer.connect(&format!("tcp://127.0.0.1:{port}")).unwrap();
    dealer
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

fn large(byte: u8) -> Vec<u8> {
    vec![byte; LARGE]
}

#[test]
fn a_large_payload_crosses_two_processes_ways_in_one_memory() {
    let (here, there) = (context("key"), context("key"));
    let (mut clients, client_port) = router(&here);
    let (mut engines, engine_port) = router(&here);
    // A client is of another program, an engine of this one.
    let mut client = dealer(&Context::new(), client_port, "client");
    let mut engine = dealer(&there, engine_port, "engine");
    engine.send(&mut vec![Frame::from(&b"hello"[..])]).unwrap();
    receive(&mut [&mut engines, &mut engine]);
    let sizes = [3, LARGE, 0, SHARE_FROM - 1, LARGE + 7];
    let message = || sizes.map(|size| Frame::from(vec![size as u8; size]));
    client.send(&mut message().to_vec()).unwrap();
    let mut got = receive(&mut [&mut clients, &mut client, &mut engines, &mut engine]);
    let in_memory: Vec<bool> = got.iter().map(|frame| frame.memory().is_some()).collect();
    assert_eq!(in_memory, [false, false, true, false, false, true]);
    got[0] = Frame::from(&b"engine"[..]);
    engines.send(&mut got).unwrap();
    let mut got = receive(&mut [&mut engine, &mut engines]);
    assert_eq!(got, message());
    assert_eq!(got.iter().filter(|it| it.memory().is_some()).count(), 2);
    // And back: what lies in memory is sent to a client as bytes.
    engine.send(&mut got).unwrap();
    let mut got = receive(&mut [&mut engines, &mut engine]);
    assert_eq!(got[1..], message());
    got[0] = Frame::from(&b"client"[..]);
    clients.send(&mut got).unwrap();
    let got = receive(&mut [&mut client, &mut clients]);
    assert_eq!(got, message());
    assert!(got.iter().all(|frame| frame.memory().is_none()));
}

#[test]
fn whoever_does_not_know_the_key_goes_by_the_network() {
    let (mut router, port) = router(&context("key"));
    for key in ["", "other"] {
        let mut dealer = dealer(&context(key), port, "peer");
        dealer.send(&mut vec![Frame::from(large(1))]).unwrap();
        let got = receive(&mut [&mut router, &mut dealer]);
        assert_eq!(got[1][..], large(1));
        assert!(got[1].memory().is_none(), "nobody is near");
    }
}

#[test]
fn an_address_of_another_machine_is_not_found_here() {
    let ours = context("key");
    let router = ours.socket(Kind::Router).unwrap();
    router.set_nearby();
    let port = router.bind("tcp://*", 0).unwrap();
    let find = |host: &str| {
        super::connect(
            &Names::new(b"key"),
            format!("{host}:{port}").parse().unwrap(),
        )
    };
    for host in ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        assert!(find(host).is_some(), "{host}");
    }
    // Of a network that is only written about (RFC 5737).
    assert!(find("192.0.2.1").is_none());
}

#[test]
fn a_peer_that_comes_back_by_the_network_gets_what_it_was_to_have() {
    let ours = context("key");
    let (mut first, port) = router(&ours);
    let mut dealer = dealer(&ours, port, "peer");
    dealer.send(&mut vec![Frame::from(&b"one"[..])]).unwrap();
    receive(&mut [&mut first, &mut dealer]);
    drop(first);
    let memory = SharedMemory::holding(&large(2)).unwrap();
    let memory = Frame::from(Arc::new(memory));
    dealer.send(&mut vec![memory]).unwrap();
    // One that nobody finds but by the network.
    let mut second = Context::new().socket(Kind::Router).unwrap();
    second.bind("tcp://127.0.0.1", port).unwrap();
    let got = receive(&mut [&mut second, &mut dealer]);
    assert_eq!(got[1][..], large(2));
}

#[test]
fn memory_that_did_not_come_along_ends_a_connection_and_nothing_else() {
    let ours = context("key");
    let (mut router, port) = router(&ours);
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let [name, _] = Names::new(b"key").of(address);
    let mut hostile =
        UnixStream::connect_addr(&UnixAddress::from_abstract_name(name).unwrap()).unwrap();
    let mut greeting = vec![0; 64];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    let mut said = greeting;
    said.extend_from_slice(b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER");
    // A frame in memory that is not there.
    said.extend_from_slice(b"\x04\x10\x06MEMORY\0\0\0\0\0\0\0\0\x01");
    hostile.write_all(&said).unwrap();
    let mut dealer = dealer(&ours, port, "peer");
    dealer
        .send(&mut vec![Frame::from(&b"still here"[..])])
        .unwrap();
    let got = receive(&mut [&mut router, &mut dealer]);
    assert_eq!(&got[1][..], b"still here");
    let mut poller = Poller::new();
    poller.add_socket(&mut router);
    hostile.set_nonblocking(true).unwrap();
    let mut rest = [0; 1024];
    loop {
        match std::io::Read::read(&mut hostile, &mut rest) {
            Ok(0) => return,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            _ => {}
        }
        let soon = std::time::Duration::from_millis(10);
        poller.wait(Some(soon)).unwrap();
        router.receive(&mut Vec::new());
    }
}

#[test]
fn names_tell_addresses_and_keys_apart() {
    let of = |key: &str, address: &str| Names::new(key.as_bytes()).of(address.parse().unwrap());
    let all = of("key", "0.0.0.0:5");
    assert_eq!(all[0], all[1]);
    assert_eq!(of("key", "[::]:5"), all);
    let [own, any] = of("key", "10.0.0.1:5");
    assert_eq!(any, all[1]);
    assert_ne!(own, any);
    assert_eq!(of("key", "[::ffff:10.0.0.1]:5")[0], own);
    for other in [
        of("key", "10.0.0.2:5"),
        of("key", "10.0.0.1:6"),
        of("k", "10.0.0.1:5"),
    ] {
        assert_ne!(other[0], own);
    }
}
