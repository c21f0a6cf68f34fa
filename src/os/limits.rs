//! How many files this process may open: an engine costs its controller about eight descriptors.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use thiserror::Error;

/// The limit on open files, before and after it was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    pub before: u64,
    pub now: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    #[error("the limit on open files cannot be read: {0}")]
    Read(Errno),
    #[error(
        "the limit on open files cannot be raised from {from} to {to}: {errno}; raise it with `ulimit -n {to}` before starting"
    )]
    Raise { from: u64, to: u64, errno: Errno },
}

/// The limit on open files as it is now.
pub fn open_files() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE)
        .ok()
        .map(|(soft, _)| soft)
}

/// Raises the soft limit on open files to the hard one.
pub fn raise_open_files() -> Result<OpenFiles, LimitError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(LimitError::Read)?;
    let wanted = reachable(hard);
    if wanted <= soft {
        return Ok(OpenFiles {
            before: soft,
            now: soft,
        });
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map_err(|errno| LimitError::Raise {
        from: soft,
        to: wanted,
        errno,
    })?;
    Ok(OpenFiles {
        before: soft,
        now: wanted,
    })
}

/// macOS reports an infinite hard limit and refuses more than OPEN_MAX.
fn reachable(hard: rlim_t) -> rlim_t {
    const OPEN_MAX: rlim_t = 10_240;
    if cfg!(target_os = "macos") {
        hard.min(OPEN_MAX)
    } else {
        hard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_twice_changes_nothing_more() {
        let first = raise_open_files().unwrap();
        assert!(first.now >= first.before);
        let second = raise_open_files().unwrap();
        assert_eq!((second.before, second.now), (first.now, first.now));
    }
}
