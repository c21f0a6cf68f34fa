//! Memory that processes of one user have in common: written once, sealed for ever, and mapped by whoever is given its
//! descriptor (Linux: memfd_create(2)). A payload goes from process to process in it without being copied.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};

use super::limits::open_files;

/// Payloads from this size on are passed on this way: for smaller ones its system calls cost as much as copying.
pub const SHARE_FROM: usize = 2 << 20;

/// So much of the limit on open files may be payloads: each has a descriptor as long as it lives.
const PART_OF_FILES: u64 = 8;

/// Payloads of this process, and their bytes.
static LIVING: AtomicU64 = AtomicU64::new(0);
static LIVING_BYTES: AtomicU64 = AtomicU64::new(0);

/// Descriptors that payloads may take.
pub fn most_descriptors() -> u64 {
    open_files().map_or(128, |files| (files / PART_OF_FILES).min(1024))
}

/// Bytes of all payloads that this process has.
pub fn living_bytes() -> u64 {
    LIVING_BYTES.load(Ordering::Relaxed)
}

/// A payload that nobody can change any more.
#[derive(Debug)]
pub struct SharedMemory {
    /// There until this is dropped.
    mapping: Option<Mapping>,
}

#[derive(Debug)]
struct Mapping {
    file: File,
    first: NonNull<u8>,
    length: usize,
    counted: Counted,
}

// SAFETY: the memory is sealed: everybody only reads it.
unsafe impl Send for Mapping {}
// SAFETY: likewise.
unsafe impl Sync for Mapping {}

impl SharedMemory {
    /// Copies `bytes`.
    pub fn holding(bytes: &[u8]) -> io::Result<Self> {
        let mut memory = Unsealed::new()?;
        memory.write(bytes)?;
        memory.seal().map_err(|(_, error)| error)
    }

    /// Memory of another process, of which `length` bytes are meant. An error if it is not sealed, and so could change or
    /// vanish while it is read.
    pub fn received(file: OwnedFd, length: usize) -> io::Result<Self> {
        let (file, mut counted) = (File::from(file), Counted::one_more());
        system::check(&file, length)?;
        counted.set_bytes(length);
        let first = system::map(&file, length)?;
        let mapping = Mapping {
            file,
            first,
            length,
            counted,
        };
        Ok(Self {
            mapping: Some(mapping),
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.mapping().file.as_fd()
    }

    /// To keep it would take a descriptor that others need.
    pub fn is_too_many(&self) -> bool {
        self.mapping().counted.is_too_many()
    }

    /// By which other processes of the user can open it as long as it lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd().as_raw_fd())
    }

    /// Writes bytes from `start` on to a socket, as many as go at once. The system takes the pages as they are: to write
    /// them from here would be to map them first, one by one, and to copy them.
    pub fn write_to(&self, socket: impl AsFd, start: usize) -> io::Result<usize> {
        let mapping = self.mapping();
        match system::send(&mapping.file, start, mapping.length - start, socket)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => Ok(count),
        }
    }

    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().expect("it is not dropped")
    }
}

impl AsRef<[u8]> for SharedMemory {
    fn as_ref(&self) -> &[u8] {
        let mapping = self.mapping();
        // SAFETY: so many bytes are mapped as long as this lives, and the seals keep them there.
        unsafe { std::slice::from_raw_parts(mapping.first.as_ptr(), mapping.length) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        match self.mapping.take() {
            Some(mapping) if mapping.length >= SHARE_FROM => drop_aside(mapping),
            _ => {}
        }
    }
}

/// Pages take a third of the time to go back to the system that it took to write them, and others wait for this thread:
/// another one does it.
fn drop_aside(mapping: Mapping) {
    static ASIDE: OnceLock<Option<mpsc::Sender<Mapping>>> = OnceLock::new();
    let aside = ASIDE.get_or_init(|| {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name("memory".to_owned());
        let started = thread.spawn(move || receiver.into_iter().for_each(drop::<Mapping>));
        started.is_ok().then_some(sender)
    });
    if let Some(aside) = aside {
        // Without that thread it is dropped here.
        let _ = aside.send(mapping);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nobody refers to it any more.
        let _ = unsafe { nix::sys::mman::munmap(self.first.cast(), self.length) };
    }
}

/// Shared memory that is still being written.
#[derive(Debug)]
pub struct Unsealed {
    file: File,
    length: usize,
    counted: Counted,
}

impl Unsealed {
    /// An error where the system has no such memory, or this process has enough of it.
    pub fn new() -> io::Result<Self> {
        let counted = Counted::one_more();
        if counted.is_too_many() {
            return Err(io::Error::other("there is enough shared memory"));
        }
        Ok(Self {
            file: system::create()?,
            length: 0,
            counted,
        })
    }

    /// Bytes that are written.
    pub fn written(&self) -> usize {
        self.length
    }

    /// Goes on behind what is written.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.file.write_all_at(bytes, self.length as u64)?;
        self.length += bytes.len();
        self.counted.set_bytes(self.length);
        Ok(())
    }

    /// What is written.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; self.length];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Gives back what cannot be sealed: some systems cannot at all, and any can be short of address space or find a page
    /// in use.
    pub fn seal(self) -> Result<SharedMemory, (Self, io::Error)> {
        let sealed = system::seal(&self.file);
        let first = match sealed.and_then(|()| system::map(&self.file, self.length)) {
            Ok(first) => first,
            Err(error) => return Err((self, error)),
        };
        let mapping = Mapping {
            file: self.file,
            first,
            length: self.length,
            counted: self.counted,
        };
        Ok(SharedMemory {
            mapping: Some(mapping),
        })
    }
}

/// One of the payloads of this process.
#[derive(Debug)]
struct Counted {
    /// How many there were then.
    all: u64,
    bytes: u64,
}

impl Counted {
    fn one_more() -> Self {
        let all = LIVING.fetch_add(1, Ordering::Relaxed) + 1;
        Self { all, bytes: 0 }
    }

    fn is_too_many(&self) -> bool {
        self.all > most_descriptors()
    }

    fn set_bytes(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        let more = bytes.wrapping_sub(self.bytes);
        LIVING_BYTES.fetch_add(more, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LIVING.fetch_sub(1, Ordering::Relaxed);
        LIVING_BYTES.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;
    use std::io;
    use std::num::NonZeroUsize;
    use std::os::fd::AsFd;
    use std::ptr::NonNull;

    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    use nix::sys::sendfile::sendfile;

    pub(super) fn create() -> io::Result<File> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        Ok(File::from(memfd_create(c"ipcluster", flags)?))
    }

    pub(super) fn seal(file: &File) -> io::Result<()> {
        let all = seals() | SealFlag::F_SEAL_SEAL;
        fcntl(file, FcntlArg::F_ADD_SEALS(all))?;
        Ok(())
    }

    /// What makes reading safe: nobody writes to it, and it does not become shorter.
    fn seals() -> SealFlag {
        SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
    }

    pub(super) fn check(file: &File, length: usize) -> io::Result<()> {
        let seals_of_it = SealFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GET_SEALS)?);
        if !seals_of_it.contains(seals()) {
            return Err(io::Error::other("memory that is not sealed"));
        }
        if file.metadata()?.len() < length as u64 {
            return Err(io::Error::other(
                "memory that is shorter than it is said to be",
            ));
        }
        Ok(())
    }

    pub(super) fn map(file: &File, length: usize) -> io::Result<NonNull<u8>> {
        let length = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        // Private, since older systems take a shared mapping for the wish to write, which is sealed off.
        let (protection, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE);
        // SAFETY: a new mapping, wherever the system wants it.
        let first = unsafe { mmap(None, length, protection, flags, file, 0)? };
        Ok(first.cast())
    }

    pub(super) fn send(
        file: &File,
        start: usize,
        length: usize,
        socket: impl AsFd,
    ) -> io::Result<usize> {
        let mut start = i64::try_from(start).map_err(io::Error::other)?;
        Ok(sendfile(socket, file, Some(&mut start), length)?)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsFd;
    use std::ptr::NonNull;

    pub(super) fn create() -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn seal(_file: &File) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn check(_file: &File, _length: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn map(_file: &File, _length: usize) -> io::Result<NonNull<u8>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn send(
        _file: &File,
        _start: usize,
        _length: usize,
        _socket: impl AsFd,
    ) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn others_read_what_was_written_and_nobody_changes_it() {
        use std::os::unix::fs::FileExt;
        let mut memory = Unsealed::new().unwrap();
        memory.write(b"first ").unwrap();
        memory.write(&[7; 100_000]).unwrap();
        assert_eq!(memory.read().unwrap().len(), memory.written());
        let memory = memory.seal().unwrap();
        let whole = memory.as_ref();
        assert_eq!((&whole[..6], whole.len()), (&b"first "[..], 100_006));
        let opened = File::open(memory.path()).unwrap();
        let mut read = vec![0; whole.len()];
        opened.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, whole);
        let there = memory.fd().try_clone_to_owned().unwrap();
        assert!(File::from(there).write_all_at(b"x", 0).is_err());
        let there = SharedMemory::received(memory.fd().try_clone_to_owned().unwrap(), 6).unwrap();
        drop(memory);
        assert_eq!(there.as_ref(), b"first ");
    }

    #[test]
    fn what_cannot_be_sealed_is_not_lost() {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let mut memory = Unsealed::new().unwrap();
        memory.write(b"bytes").unwrap();
        let (length, flags) = (5.try_into().unwrap(), MapFlags::MAP_SHARED);
        // SAFETY: a new mapping, which nobody uses.
        unsafe { mmap(None, length, ProtFlags::PROT_WRITE, flags, &memory.file, 0) }.unwrap();
        let (memory, _) = memory.seal().unwrap_err();
        assert_eq!(memory.read().unwrap(), b"bytes");
    }

    #[test]
    fn what_could_change_or_vanish_is_refused() {
        let mut memory = Unsealed::new().unwrap();
        memory.write(b"bytes").unwrap();
        let open = OwnedFd::from(memory.file.try_clone().unwrap());
        assert!(SharedMemory::received(open, 5).is_err());
        let sealed = memory.seal().unwrap();
        let fd = || sealed.fd().try_clone_to_owned().unwrap();
        assert!(SharedMemory::received(fd(), 5).is_ok());
        assert!(SharedMemory::received(fd(), 6).is_err());
        assert!(SharedMemory::received(fd(), 0).is_err());
        let ordinary = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(SharedMemory::received(ordinary, 1).is_err());
    }
}
