//! Memory that other processes of the same user can map.

use std::io;

/// Bytes in memory, under a path as long as this lives (Linux: memfd_create(2), and `/proc/PID/fd`).
#[derive(Debug)]
pub struct SharedMemory {
    path: String,
    _file: std::fs::File,
}

/// Parts begin at multiples of it: no system has larger pages that it maps by.
const PAGE: u64 = 64 * 1024;

impl SharedMemory {
    /// Copies `parts`; also tells where each of them begins.
    #[cfg(target_os = "linux")]
    pub fn holding<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> io::Result<(Self, Vec<u64>)> {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::FileExt;

        use nix::sys::memfd::{MFdFlags, memfd_create};

        let file = std::fs::File::from(memfd_create(c"ipcluster", MFdFlags::MFD_CLOEXEC)?);
        let (mut offsets, mut end) = (Vec::new(), 0);
        for part in parts {
            file.write_all_at(part, end)?;
            offsets.push(end);
            end = (end + part.len() as u64).next_multiple_of(PAGE);
        }
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Ok((Self { path, _file: file }, offsets))
    }

    #[cfg(not(target_os = "linux"))]
    pub fn holding<'a>(_parts: impl IntoIterator<Item = &'a [u8]>) -> io::Result<(Self, Vec<u64>)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn path(&self) -> &str {
        &self.path
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn parts_are_where_they_are_said_to_be_until_it_goes() {
        let large = vec![7; 100_000];
        let (memory, offsets) = SharedMemory::holding([&b"first"[..], &large, b"last"]).unwrap();
        assert_eq!(offsets, [0, PAGE, PAGE + 2 * PAGE]);
        let file = std::fs::File::open(memory.path()).unwrap();
        let mut read = vec![0; large.len()];
        file.read_exact_at(&mut read, offsets[1]).unwrap();
        assert_eq!(read, large);
        let mut read = [0; 4];
        file.read_exact_at(&mut read, offsets[2]).unwrap();
        assert_eq!(&read, b"last");
    }
}
