//! One frame of a multipart message, in libzmq's own memory.

use std::ffi::c_void;
use std::fmt;
use std::ops::Deref;
use std::os::fd::RawFd;

use bytes::Bytes;
use zmq_sys::zmq_msg_t;

/// From this size on, a frame shares the memory that it is made from; below, copying is cheaper than counting.
const SHARE_FROM: usize = 16 * 1024;

/// `ZMQ_SRCFD` of zmq.h, which the bindings leave out.
const SOURCE_FD: i32 = 2;

/// A frame as it was received or will be sent. Cloning shares the payload by libzmq's reference count (payloads up to
/// 33 bytes lie in the frame itself).
pub struct Frame {
    msg: zmq_msg_t,
}

// SAFETY: a `zmq_msg_t` is owned by whoever holds it; its reference count is atomic.
unsafe impl Send for Frame {}

impl Frame {
    pub fn empty() -> Self {
        let mut msg = zmq_msg_t { __: [0; 64] };
        // SAFETY: the pointer is to a message structure that is not initialised yet, as the call expects.
        let rc = unsafe { zmq_sys::zmq_msg_init(&raw mut msg) };
        assert_eq!(rc, 0, "zmq_msg_init cannot fail");
        Self { msg }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut zmq_msg_t {
        &raw mut self.msg
    }

    fn as_ptr(&self) -> *mut zmq_msg_t {
        // libzmq takes a mutable pointer even where it only reads.
        (&raw const self.msg).cast_mut()
    }

    /// More frames of the same message follow.
    pub fn more(&self) -> bool {
        // SAFETY: the message is initialised.
        unsafe { zmq_sys::zmq_msg_more(self.as_ptr()) != 0 }
    }

    /// The descriptor of the connection that a received frame came over.
    pub fn source_fd(&self) -> Option<RawFd> {
        // SAFETY: the message is initialised.
        let fd = unsafe { zmq_sys::zmq_msg_get(self.as_ptr(), SOURCE_FD) };
        (fd >= 0).then_some(fd)
    }

    /// Address of the peer that a received frame came from, without its port.
    pub fn peer_address(&self) -> Option<String> {
        // SAFETY: the message is initialised, the property name ends in NUL; the answer lives as long as the message.
        unsafe {
            let value = zmq_sys::zmq_msg_gets(self.as_ptr(), c"Peer-Address".as_ptr());
            (!value.is_null()).then(|| {
                std::ffi::CStr::from_ptr(value)
                    .to_string_lossy()
                    .into_owned()
            })
        }
    }

    /// The payload as shared bytes, without a copy when it is large.
    pub fn to_bytes(&self) -> Bytes {
        if self.len() < SHARE_FROM {
            Bytes::copy_from_slice(self)
        } else {
            Bytes::from_owner(self.clone())
        }
    }
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        let mut copy = Self::empty();
        // SAFETY: both messages are initialised. The source is only marked as shared, which no reader can see.
        let rc = unsafe { zmq_sys::zmq_msg_copy(copy.as_mut_ptr(), self.as_ptr()) };
        assert_eq!(rc, 0, "zmq_msg_copy of an initialised message cannot fail");
        copy
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: the message is initialised, and nobody uses it afterwards.
        unsafe { zmq_sys::zmq_msg_close(self.as_mut_ptr()) };
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the message is initialised; its data does not move while it is borrowed.
        unsafe {
            let data = zmq_sys::zmq_msg_data(self.as_ptr())
                .cast::<u8>()
                .cast_const();
            let size = zmq_sys::zmq_msg_size(self.as_ptr());
            if size == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(data, size)
            }
        }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<&[u8]> for Frame {
    fn from(bytes: &[u8]) -> Self {
        let mut msg = zmq_msg_t { __: [0; 64] };
        // SAFETY: the structure is initialised by the call; as many bytes are written as were asked for.
        unsafe {
            let rc = zmq_sys::zmq_msg_init_size(&raw mut msg, bytes.len());
            assert_eq!(rc, 0, "out of memory for a frame of {} bytes", bytes.len());
            let data = zmq_sys::zmq_msg_data(&raw mut msg).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len());
        }
        Self { msg }
    }
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        if bytes.len() < SHARE_FROM {
            return Self::from(&bytes[..]);
        }
        let owner = Box::new(bytes);
        let data = owner.as_ptr().cast_mut().cast::<c_void>();
        let size = owner.len();
        let hint = Box::into_raw(owner).cast::<c_void>();
        let mut msg = zmq_msg_t { __: [0; 64] };
        // SAFETY: `data` stays valid until libzmq calls `release` with `hint`, which frees the owner. libzmq never
        // writes into a message that it sends.
        let rc =
            unsafe { zmq_sys::zmq_msg_init_data(&raw mut msg, data, size, Some(release), hint) };
        assert_eq!(rc, 0, "out of memory for a frame");
        Self { msg }
    }
}

/// Called by libzmq, on any of its threads, when a shared frame was sent.
unsafe extern "C" fn release(_data: *mut c_void, hint: *mut c_void) {
    // SAFETY: `hint` is the box that `From<Bytes>` gave away, and libzmq calls this once.
    drop(unsafe { Box::from_raw(hint.cast::<Bytes>()) });
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_sizes_keep_their_bytes_through_copies_and_conversions() {
        for size in [0, 1, 33, 34, SHARE_FROM - 1, SHARE_FROM, 3 * SHARE_FROM] {
            let bytes: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let frame = Frame::from(&bytes[..]);
            let copy = frame.clone();
            drop(frame);
            let shared = copy.to_bytes();
            drop(copy);
            let again = Frame::from(shared.clone());
            assert_eq!(&again[..], &bytes[..]);
            assert_eq!(&shared[..], &bytes[..]);
            assert!(!again.more());
        }
    }
}
