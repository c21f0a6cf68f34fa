//! One frame of a multipart message, in libzmq's own memory.

use std::ops::Deref;

use zmq_sys::zmq_msg_t;

/// A frame as it was received or will be sent. Cloning shares the payload by libzmq's reference count (payloads up to
/// 33 bytes lie in the frame itself).
pub(crate) struct Frame {
    msg: zmq_msg_t,
}

// SAFETY: a `zmq_msg_t` is owned by whoever holds it; its reference count is atomic.
unsafe impl Send for Frame {}

impl Frame {
    pub(crate) fn empty() -> Self {
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
    pub(crate) fn more(&self) -> bool {
        // SAFETY: the message is initialised.
        unsafe { zmq_sys::zmq_msg_more(self.as_ptr()) != 0 }
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
