//! What a kernel's process writes to its descriptors 1 and 2: the output of subprocesses and of C code.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Read at once, so that an endless writer does not keep the engine from its other work.
const AT_ONCE: usize = 16 * 1024;

/// The reading end of such a pipe.
#[derive(Debug)]
pub(in crate::engine) struct OutputPipe {
    reader: io::PipeReader,
}

impl OutputPipe {
    /// The pipe, and the descriptor for the kernel.
    pub(in crate::engine) fn new() -> io::Result<(Self, OwnedFd)> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let (reader, writer) = io::pipe()?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self { reader }, writer.into()))
    }

    pub(in crate::engine) fn fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// What is there. `None` at the end: nobody has the other side open any more.
    pub(in crate::engine) fn read(&mut self) -> Option<Vec<u8>> {
        let mut bytes = [0; AT_ONCE];
        match self.reader.read(&mut bytes) {
            Ok(0) => None,
            Ok(count) => Some(bytes[..count].to_vec()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Some(Vec::new())
            }
            Err(_) => None,
        }
    }
}
