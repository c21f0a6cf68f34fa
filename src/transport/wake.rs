//! A descriptor that one thread makes readable to wake another out of its poll.

pub(super) use system::Wake;

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, RawFd};

    use nix::sys::eventfd::{EfdFlags, EventFd};

    #[derive(Debug)]
    pub(in crate::transport) struct Wake(EventFd);

    impl Wake {
        pub(in crate::transport) fn new() -> io::Result<Self> {
            Ok(Self(EventFd::from_flags(
                EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
            )?))
        }

        pub(in crate::transport) fn read_fd(&self) -> RawFd {
            self.0.as_fd().as_raw_fd()
        }

        pub(in crate::transport) fn signal(&self) {
            // Fails only when the counter is full, and then the receiver is awake.
            let _ = self.0.write(1);
        }

        pub(in crate::transport) fn clear(&self) {
            let _ = self.0.read();
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

    #[derive(Debug)]
    pub(in crate::transport) struct Wake {
        read: OwnedFd,
        write: OwnedFd,
    }

    impl Wake {
        pub(in crate::transport) fn new() -> io::Result<Self> {
            let (read, write) = nix::unistd::pipe()?;
            for end in [&read, &write] {
                fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            }
            Ok(Self { read, write })
        }

        pub(in crate::transport) fn read_fd(&self) -> RawFd {
            self.read.as_raw_fd()
        }

        pub(in crate::transport) fn signal(&self) {
            // Fails only when the pipe is full, and then the receiver is awake.
            let _ = nix::unistd::write(&self.write, &[1]);
        }

        pub(in crate::transport) fn clear(&self) {
            let mut sink = [0; 64];
            while matches!(nix::unistd::read(self.read.as_fd(), &mut sink), Ok(n) if n == sink.len())
            {
            }
        }
    }
}
