//! Descriptors that are passed on over Unix sockets (unix(7), SCM_RIGHTS).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// What [`receive`] takes at once.
pub const MOST: usize = 32;

#[cfg(target_os = "linux")]
const CLOSE_ON_EXEC: libc::c_int = libc::MSG_CMSG_CLOEXEC;
/// Elsewhere only tests receive any.
#[cfg(not(target_os = "linux"))]
const CLOSE_ON_EXEC: libc::c_int = 0;

/// Writes once; the descriptors go along with the first byte. A peer that is gone is an error and no signal: Rust's
/// programs ignore SIGPIPE.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<usize> {
    let socket = socket.as_fd().as_raw_fd();
    let rights = [ControlMessage::ScmRights(descriptors)];
    let bytes = [IoSlice::new(bytes)];
    Ok(sendmsg::<()>(
        socket,
        &bytes,
        &rights,
        MsgFlags::empty(),
        None,
    )?)
}

/// Reads once, and puts what comes along behind `descriptors`. EMFILE if this process has no room for it, or it is more
/// than [`MOST`]: then some of it is lost. (nix's `recvmsg` keeps the rest to itself in that case, and open.)
pub fn receive(
    socket: impl AsFd,
    bytes: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    /// With the head, whose size is not the same everywhere.
    const SPACE: usize = 64 + MOST * size_of::<RawFd>();
    let mut space = [0u64; SPACE / size_of::<u64>()];
    let mut into = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: it consists of numbers and pointers that may be null.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut into;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    // SAFETY: the call only calculates.
    message.msg_controllen = unsafe { libc::CMSG_SPACE((MOST * size_of::<RawFd>()) as u32) } as _;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the message refers to two pieces of memory that are this function's as long as it runs.
    let count = unsafe { libc::recvmsg(socket, &mut message, CLOSE_ON_EXEC) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the system has filled in the message.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: null, or within what the system has written to `space`, which is aligned.
    while let Some(head) = unsafe { control.as_ref() } {
        if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: the calls only calculate.
            let (first, empty) = unsafe { (libc::CMSG_DATA(control), libc::CMSG_LEN(0)) };
            let whole: usize = head.cmsg_len as _;
            let length = whole - empty as usize;
            let first = first.cast::<RawFd>();
            descriptors.extend((0..length / size_of::<RawFd>()).map(|n| {
                // SAFETY: the head says that so many are there. They have just been received, and are nobody else's.
                unsafe { OwnedFd::from_raw_fd(first.add(n).read_unaligned()) }
            }));
        }
        // SAFETY: `control` is one of the message's.
        control = unsafe { libc::CMSG_NXTHDR(&message, control) };
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_come_with_their_bytes_and_too_many_are_closed() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut end, other) = UnixStream::pair().unwrap();
        let (mut bytes, mut got) = ([0; 10], VecDeque::new());
        let passed = other.as_raw_fd();
        assert_eq!(send(&one, b"one", &[passed; 2]).unwrap(), 3);
        assert_eq!(receive(&two, &mut bytes, &mut got).unwrap(), 3);
        assert_eq!((&bytes[..3], got.len()), (&b"one"[..], 2));
        got.clear();
        send(&one, b"two", &[passed; MOST + 1]).unwrap();
        let error = receive(&two, &mut bytes, &mut got).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        // Whoever holds one of them keeps this from ending.
        drop(got);
        drop(other);
        assert_eq!(end.read(&mut bytes).unwrap(), 0);
    }
}
