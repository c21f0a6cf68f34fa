//! Ways between processes of one machine, beside those of the network: Unix sockets, over which memory can be passed on.
//!
//! Who connects to an address first tries a socket of the abstract namespace (unix(7)), whose name follows from the
//! address and from a key that both know. It is there only if the address is one of this machine, and belongs to a process
//! of this program and of the same user. Whoever knows no key, or is elsewhere, in a container or behind a tunnel,
//! finds none, and goes by the network.

use std::sync::Arc;

/// Says what such sockets are called. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Names {
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "there is nothing to name")
    )]
    key: Arc<[u8]>,
}

impl Names {
    pub(super) fn new(key: &[u8]) -> Self {
        Self { key: key.into() }
    }

    /// Under which somebody who listens on `address` can be found; the first is the one to listen on.
    #[cfg(target_os = "linux")]
    pub(super) fn of(&self, address: std::net::SocketAddr) -> [String; 2] {
        use hmac::{Hmac, KeyInit, Mac};
        let named = |host: &str| {
            let mut mac =
                Hmac::<sha2::Sha256>::new_from_slice(&self.key).expect("any length will do");
            mac.update(format!("{host} {}", address.port()).as_bytes());
            let digest = mac.finalize().into_bytes();
            let digits = digest[..16].iter().map(|byte| format!("{byte:02x}"));
            // Another version may have another way to pass memory on, and then another number.
            format!("ipcluster-1-{}", digits.collect::<String>())
        };
        let host = address.ip().to_canonical();
        if host.is_unspecified() {
            return [named("*"), named("*")];
        }
        [named(&host.to_string()), named("*")]
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{accept, connect, listen};

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{accept, connect, listen};

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::net::{IpAddr, SocketAddr};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr as UnixAddress;

    use mio::net::{UnixListener, UnixStream};
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

    use super::Names;
    use crate::os::Host;

    /// Listens for those of this machine who want to connect to `address`.
    pub(in crate::transport) fn listen(
        names: &Names,
        address: SocketAddr,
    ) -> io::Result<UnixListener> {
        let [name, _] = names.of(address);
        UnixListener::bind_addr(&UnixAddress::from_abstract_name(name)?)
    }

    /// A connection to whoever listens for this address on this machine.
    pub(in crate::transport) fn connect(names: &Names, address: SocketAddr) -> Option<UnixStream> {
        let to = |name| UnixStream::connect_addr(&UnixAddress::from_abstract_name(name).ok()?).ok();
        let [own, any] = names.of(address);
        // A controller of the same key may listen at the same port of another machine, and be the one that is meant.
        let stream = to(own).or_else(|| is_here(address.ip()).then(|| to(any)).flatten())?;
        is_ours(&stream).then_some(stream)
    }

    fn is_here(ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_unspecified() || ip.is_loopback() || Host::this().has(ip)
    }

    /// One that has come, if it is from a process of this user.
    pub(in crate::transport) fn accept(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
        let (stream, _) = listener.accept()?;
        Ok(is_ours(&stream).then_some(stream))
    }

    fn is_ours(stream: &UnixStream) -> bool {
        getsockopt(stream, PeerCredentials)
            .is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw())
    }
}

/// There is no way that memory could take.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io;
    use std::net::SocketAddr;

    use mio::net::{UnixListener, UnixStream};

    use super::Names;

    pub(in crate::transport) fn listen(_: &Names, _: SocketAddr) -> io::Result<UnixListener> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in crate::transport) fn connect(_: &Names, _: SocketAddr) -> Option<UnixStream> {
        None
    }

    pub(in crate::transport) fn accept(_: &UnixListener) -> io::Result<Option<UnixStream>> {
        Ok(None)
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
#[path = "nearby_tests.rs"]
mod tests;
