//! Memory for large payloads, and memory that was freed and that the C library still keeps.
//!
//! A queue of a million tasks that has been worked off leaves its memory with the allocator, in pieces between others
//! that are in use, and glibc gives back by itself only what lies at the end of a heap.

/// Below this, nothing is worth the trouble.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: usize = 32 << 20;

/// Room from which on large pages are worth asking for: a few of them, whatever the alignment.
#[cfg(target_os = "linux")]
const MANY_PAGES: usize = 4 << 20;

/// An empty vector with room for a payload, in large pages where the system has them. To fill memory that is fresh from
/// the system costs more for its pages than for the bytes: of 4 KiB each, five times as much as of 2 MiB.
pub fn room_for(length: usize) -> Vec<u8> {
    let room = Vec::<u8>::with_capacity(length);
    #[cfg(target_os = "linux")]
    if length >= MANY_PAGES {
        use nix::sys::mman::{MmapAdvise, madvise};
        const PAGE: usize = 4096;
        let start = room.as_ptr().align_offset(PAGE);
        let whole = (length - start) / PAGE * PAGE;
        let first = room.as_ptr().wrapping_add(start).cast_mut().cast();
        if let Some(first) = std::ptr::NonNull::new(first) {
            // A system without large pages refuses, and nothing is lost.
            // SAFETY: the pages lie within the vector's room, and the advice changes nothing of what is in them.
            let _ = unsafe { madvise(first, whole, MmapAdvise::MADV_HUGEPAGE) };
        }
    }
    room
}

/// Gives memory that is free back to the system, if this process has become large. Takes some milliseconds for each 100 MB
/// that go, in which other threads may have to wait for the allocator; next to nothing when there is nothing to give.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    if resident().is_some_and(|(bytes, _)| bytes >= LARGE) {
        // SAFETY: may be called at any time, on any thread.
        unsafe { nix::libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}

/// Bytes of memory that this process takes: what is resident, and payloads in [shared memory](super::shared_memory),
/// which are no part of that until they are read. Nothing where the system does not say so by a file (macOS).
pub fn taken() -> Option<usize> {
    let (resident, shared) = resident()?;
    let payloads = usize::try_from(super::shared_memory::living_bytes()).ok()?;
    Some(resident.max(resident.saturating_sub(shared) + payloads))
}

/// Bytes that are in memory, and how many of them are mapped files or shared.
fn resident() -> Option<(usize, usize)> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split(' ').skip(1).map(str::parse::<usize>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    let page = usize::try_from(page).ok()?;
    Some((resident * page, shared * page))
}

/// Bytes of memory that this process can have at most: the machine's, or less where its group has a limit (Linux).
pub fn available() -> Option<u64> {
    // SAFETY: the call has no preconditions.
    let pages = unsafe { nix::libc::sysconf(nix::libc::_SC_PHYS_PAGES) };
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    let machine = u64::try_from(pages).ok()? * u64::try_from(page).ok()?;
    let group = ["memory.max", "memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok())
        .find_map(|text| text.trim().parse().ok());
    Some(machine.min(group.unwrap_or(u64::MAX)))
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_pieces_in_use_is_given_back() {
        const PIECES: usize = 200_000;
        // Other tests run beside this one, so that only a large difference means something.
        let all: Vec<Box<[u8]>> = (0..PIECES).map(|n| vec![n as u8; 1000].into()).collect();
        let full = taken().unwrap();
        let kept: Vec<_> = all
            .into_iter()
            .enumerate()
            .filter(|(n, _)| n % 1000 == 999)
            .collect();
        give_back();
        assert!(taken().unwrap() < full - PIECES * 1000 / 2);
        assert!(kept.iter().all(|(n, piece)| piece[0] == *n as u8));
    }
}
