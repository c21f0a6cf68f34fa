//! Where sockets listen and what they connect to, in ZeroMQ's spelling.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use mio::Interest;
use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Registry, Token};
use nix::libc;

use super::nearby::{self, Names};
use crate::os::descriptors;

/// What a socket connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// All addresses of a host, tried in turn.
    Tcp(Vec<SocketAddr>),
    Ipc(PathBuf),
}

impl Address {
    /// `tcp://HOST:PORT` or `ipc://PATH`. Asks for the host's addresses, which may take a while if it has a name.
    pub(super) fn resolve(endpoint: &str) -> io::Result<Self> {
        let invalid = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{endpoint:?} is no tcp:// or ipc:// address"),
            )
        };
        if let Some(path) = endpoint.strip_prefix("ipc://") {
            return Ok(Self::Ipc(path.into()));
        }
        let address = endpoint.strip_prefix("tcp://").ok_or_else(invalid)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(invalid)?;
        let port: u16 = port.parse().map_err(|_| invalid())?;
        let addresses: Vec<_> = (without_brackets(host), port).to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::other(format!("{host} has no address")));
        }
        Ok(Self::Tcp(addresses))
    }

    /// Begins to connect, to the address whose turn it is; on this machine, by a way that memory can take if there is one.
    pub(super) fn connect(&self, turn: usize, names: Option<&Names>) -> io::Result<Stream> {
        match self {
            Self::Tcp(addresses) => {
                let address = addresses[turn % addresses.len()];
                match names.and_then(|names| nearby::connect(names, address)) {
                    Some(stream) => Ok(Stream::Near(stream)),
                    None => TcpStream::connect(address).map(Stream::Tcp),
                }
            }
            Self::Ipc(path) => UnixStream::connect(path).map(Stream::Unix),
        }
    }
}

/// Listens on `interface` (`tcp://` and an address, a name of a host or of a network interface, or `*`).
pub(super) fn listen(interface: &str, port: u16) -> io::Result<TcpListener> {
    let host = interface.strip_prefix("tcp://").ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "only tcp:// addresses can be listened on",
        )
    })?;
    TcpListener::bind(SocketAddr::new(
        local_address(without_brackets(host))?,
        port,
    ))
}

/// What a socket listens on.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    /// For those of this machine.
    Near(UnixListener),
}

impl Listener {
    /// A connection that has come, and from where. Nothing for one that is not taken.
    pub(super) fn accept(&self) -> io::Result<Option<(Stream, IpAddr)>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                Ok(Some((Stream::Tcp(stream), address.ip())))
            }
            Self::Near(listener) => {
                let stream = nearby::accept(listener)?;
                Ok(stream.map(|stream| (Stream::Near(stream), Ipv4Addr::LOCALHOST.into())))
            }
        }
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Near(_) => None,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.register(registry, token, Interest::READABLE),
            Self::Near(listener) => listener.register(registry, token, Interest::READABLE),
        }
    }
}

fn local_address(host: &str) -> io::Result<IpAddr> {
    if host == "*" {
        return Ok(Ipv4Addr::UNSPECIFIED.into());
    }
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    if let Some(address) = address_of_interface(host) {
        return Ok(address);
    }
    let unknown = || io::Error::from_raw_os_error(libc::ENODEV);
    let mut addresses = (host, 0).to_socket_addrs().map_err(|_| unknown())?;
    addresses
        .next()
        .map(|address| address.ip())
        .ok_or_else(unknown)
}

/// Its first IPv4 address.
fn address_of_interface(name: &str) -> Option<IpAddr> {
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter(|interface| interface.interface_name == name)
        .find_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip().into()))
}

fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// A connection of any kind.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// To a process of this program, of the same user.
    Near(UnixStream),
}

impl Stream {
    /// A connection that was begun is there (true), is still being made, or failed: also one whose own port the system chose
    /// to be the one it leads to, where nobody listens. It would hold the port of a server that is about to come back.
    pub(super) fn is_connected(&self) -> io::Result<bool> {
        let error = match self {
            Self::Tcp(stream) => stream.take_error()?,
            Self::Unix(stream) | Self::Near(stream) => stream.take_error()?,
        };
        if let Some(error) = error {
            return Err(error);
        }
        match self {
            Self::Tcp(stream) => match stream.peer_addr() {
                Ok(peer) if peer == stream.local_addr()? => {
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
                Err(error) => Err(error),
            },
            Self::Unix(_) | Self::Near(_) => Ok(true),
        }
    }

    /// Memory can be passed on over it.
    pub(super) fn is_near(&self) -> bool {
        matches!(self, Self::Near(_))
    }

    fn fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Small messages leave at once.
    pub(super) fn set_no_delay(&self) {
        if let Self::Tcp(stream) = self {
            // Without it messages are slower, and that is all.
            let _ = stream.set_nodelay(true);
        }
    }

    pub(super) fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok().map(|address| address.ip()),
            Self::Unix(_) => None,
            Self::Near(_) => Some(Ipv4Addr::LOCALHOST.into()),
        }
    }

    /// Says that no more is sent.
    pub(super) fn end_sending(&self) {
        let how = std::net::Shutdown::Write;
        // It may be broken already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) | Self::Near(stream) => stream.shutdown(how),
        };
    }

    /// Reads once, at most `most` bytes, behind what `bytes` has. Its room is not written to before, and a payload not
    /// read in pieces.
    pub(super) fn append_to(&mut self, bytes: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(most);
        }
        let room = bytes.spare_capacity_mut();
        let most = most.min(room.len());
        // SAFETY: the room has at least so many bytes, and nobody else uses it.
        let count = unsafe { libc::recv(self.fd(), room.as_mut_ptr().cast(), most, 0) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: the system has written to that many bytes behind the length.
        unsafe { bytes.set_len(bytes.len() + count) };
        Ok(count)
    }

    /// Reads once. What has come along is put behind `descriptors`. Also tells whether the system may have more.
    pub(super) fn receive(
        &mut self,
        bytes: &mut [u8],
        descriptors: &mut VecDeque<OwnedFd>,
    ) -> io::Result<(usize, bool)> {
        if !self.is_near() {
            let count = io::Read::read(self, bytes)?;
            return Ok((count, count == bytes.len()));
        }
        let before = descriptors.len();
        let count = descriptors::receive(self.as_fd(), bytes, descriptors)?;
        // After bytes that something comes along with, the system stops.
        let may_have_more = count == bytes.len() || descriptors.len() > before;
        Ok((count, may_have_more))
    }

    /// Writes once; the descriptor goes along with the first byte.
    pub(super) fn send_with(&mut self, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
        descriptors::send(self.as_fd(), bytes, &[fd.as_raw_fd()])
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(stream) => stream.register(registry, token, both),
            Self::Unix(stream) | Self::Near(stream) => stream.register(registry, token, both),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) | Self::Near(stream) => stream.as_fd(),
        }
    }
}

impl io::Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) | Self::Near(stream) => stream.read(buf),
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) | Self::Near(stream) => stream.write(buf),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write_vectored(bufs),
            Self::Unix(stream) | Self::Near(stream) => stream.write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, socket,
    };

    use super::*;

    #[test]
    fn endpoints_are_read_as_zeromq_writes_them() {
        let tcp = |text: &str| Address::Tcp(vec![text.parse().unwrap()]);
        let resolve = |text| Address::resolve(text).unwrap();
        assert_eq!(resolve("tcp://127.0.0.1:80"), tcp("127.0.0.1:80"));
        assert_eq!(resolve("tcp://[::1]:80"), tcp("[::1]:80"));
        assert_eq!(resolve("ipc:///tmp/x-80"), Address::Ipc("/tmp/x-80".into()));
        for wrong in [
            "127.0.0.1:80",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:x",
            "udp://x:1",
        ] {
            assert!(Address::resolve(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_connection_to_itself_is_none() {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::empty(),
            None,
        )
        .unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let own: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
        connect(socket.as_raw_fd(), &own).unwrap();
        let stream = std::net::TcpStream::from(socket);
        let error = Stream::Tcp(TcpStream::from_std(stream)).is_connected();
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn one_listens_on_addresses_and_interfaces() {
        for host in ["tcp://127.0.0.1", "tcp://*", "tcp://lo", "tcp://localhost"] {
            if host == "tcp://lo" && !cfg!(target_os = "linux") {
                continue;
            }
            listen(host, 0).unwrap_or_else(|error| panic!("{host}: {error}"));
        }
        let error = listen("tcp://no.such.host.invalid", 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
