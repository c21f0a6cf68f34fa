//! Fuzz target of the engine: what comes through a kernel's link. User code can reach that socket.

use super::kernel::link;
use super::kernel::messages::{FromForkServer, FromKernel};

/// Bytes as a kernel or a fork server writes them.
pub fn kernel_link(data: &[u8]) {
    for message in link::messages_of(data) {
        let _ = FromForkServer::parse(&message);
        let _ = FromKernel::parse(message);
    }
}
