//! Files that nobody else may read, written whole or not at all.
//!
//! Connection files hold the key that signs every message: whoever reads one can run code on every engine.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use thiserror::Error;

/// What could not be done with a file or folder, and what to do about it.
#[derive(Debug, Error)]
pub enum FileError {
    #[error("cannot create the folder {}: {source}; {}", path.display(), remedy(source))]
    CreateFolder { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}; {}", path.display(), remedy(source))]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}; {}", path.display(), remedy(source))]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot remove {}: {source}; {}", path.display(), remedy(source))]
    Remove { path: PathBuf, source: io::Error },
}

impl FileError {
    /// The file or folder in question.
    pub fn path(&self) -> &Path {
        match self {
            Self::CreateFolder { path, .. }
            | Self::Write { path, .. }
            | Self::Read { path, .. }
            | Self::Remove { path, .. } => path,
        }
    }

    /// The operating system's kind of failure.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::CreateFolder { source, .. }
            | Self::Write { source, .. }
            | Self::Read { source, .. }
            | Self::Remove { source, .. } => source.kind(),
        }
    }
}

/// One sentence that says what to do about a failed operation on a file.
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "make it accessible to this user, or name another place with --profile-dir or IPYTHONDIR"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only: name another place with --profile-dir or IPYTHONDIR"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: free some space, or name another place with --profile-dir or IPYTHONDIR"
        }
        io::ErrorKind::NotFound => "check the spelling of the path",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "a file stands where a folder is expected: move it away, or name another place"
        }
        io::ErrorKind::IsADirectory => {
            "a folder stands where a file is expected: move it away, or name another place"
        }
        _ => "check the path, or name another place with --profile-dir or IPYTHONDIR",
    }
}

/// Makes the folder and its parents with the mode that the user's umask gives. True when it was not there.
pub fn create_folder(path: &Path) -> Result<bool, FileError> {
    if path.is_dir() {
        return Ok(false);
    }
    fs::create_dir_all(path).map_err(|source| FileError::CreateFolder {
        path: path.to_owned(),
        source,
    })?;
    Ok(true)
}

/// Makes the folder for this user alone (0700), tightening one that exists. True when it was not there.
///
/// A folder that exists and belongs to somebody else stays as it is: that is no reason to fail, as the files in it are
/// private by themselves.
pub fn create_private_folder(path: &Path) -> Result<bool, FileError> {
    if path.is_dir() {
        let private = fs::Permissions::from_mode(0o700);
        let mode = fs::metadata(path).map(|found| found.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o777 != 0o700) {
            let _ = fs::set_permissions(path, private);
        }
        return Ok(false);
    }
    let failed = |source| FileError::CreateFolder {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        Err(source) => Err(failed(source)),
    }
}

/// Writes a file whole: readers see the old content or the new one, never a part, and from its first byte on only
/// this user can read it (0600).
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_whole(path, content, 0o600)
}

/// Writes a file whole, readable as the user's umask says.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_whole(path, content, 0o666)
}

fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError::Write {
        path: path.to_owned(),
        source,
    };
    if path.is_dir() {
        return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    let (mut file, temporary) = create_beside(path, mode).map_err(failed)?;
    let written = file
        .write_all(content)
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        failed(source)
    })
}

/// A new file in the folder of `path`, as renaming works only within one file system.
fn create_beside(path: &Path, mode: u32) -> io::Result<(fs::File, PathBuf)> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    loop {
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(
            ".{}-{}",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        ));
        let temporary = path.with_file_name(temporary);
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary);
        match opened {
            Ok(file) => return Ok((file, temporary)),
            // Left behind by a process that had the same id and was killed: nobody else writes it now.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&temporary)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes what writers of a file have left behind that were killed in the middle.
pub fn remove_unfinished(path: &Path) {
    let Some((folder, name)) = path.parent().zip(path.file_name()) else {
        return;
    };
    let prefix = format!(".{}.", name.to_string_lossy());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let writer = file.to_str().and_then(|file| file.strip_prefix(&prefix));
        let pid = writer.and_then(|writer| writer.split_once('-')?.0.parse().ok());
        if pid.is_some_and(|pid: i32| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The text of a file.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The text of a file, or nothing if there is none.
pub fn read_text_if_there(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(FileError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Removes a file. False when there was none.
pub fn remove_if_there(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A read-only file system says so before it looks.
        Err(_) if path.symlink_metadata().is_err() => Ok(false),
        Err(source) => Err(FileError::Remove {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A path as users write it: `~`, `~name` and `$VARIABLE` are replaced, and what is relative is taken from the
/// current folder.
pub fn expand_path(path: &Path) -> PathBuf {
    let text = path.to_string_lossy();
    let expanded = expand_text(&text, |name| std::env::var(name).ok());
    std::path::absolute(&expanded).unwrap_or(expanded)
}

/// `~` at the start of a text, as Python's `os.path.expanduser` replaces it.
pub fn expand_user(text: &str) -> String {
    let Some(rest) = text.strip_prefix('~') else {
        return text.to_owned();
    };
    let (user, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let home = if user.is_empty() {
        std::env::home_dir()
    } else {
        nix::unistd::User::from_name(user)
            .ok()
            .flatten()
            .map(|user| user.dir)
    };
    home.map_or_else(
        || text.to_owned(),
        |home| format!("{}{tail}", home.display()),
    )
}

/// `expanduser(expandvars(text))`: unknown variables stay as they are.
fn expand_text(text: &str, variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, tail) = match after.strip_prefix('{') {
            Some(braced) => braced.split_once('}').unwrap_or(("", after)),
            None => {
                let end = after
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(after.len());
                after.split_at(end)
            }
        };
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => {
                expanded.push_str(&value);
                rest = tail;
            }
            None => {
                expanded.push('$');
                rest = after;
            }
        }
    }
    expanded.push_str(rest);
    PathBuf::from(expand_user(&expanded))
}

/// Bytes that are left to this user on the file system of `path`.
pub fn free_space(path: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    // Their types differ from system to system.
    #[allow(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "they are narrower on macOS"
    )]
    let free = u64::from(found.blocks_available()) * u64::from(found.fragment_size());
    Some(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_private_file_is_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.json");
        write_private(&path, b"one").unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(read_text(&path).unwrap(), "two");
        assert_eq!(mode(&path), 0o600, "a rewritten file is private again");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn what_a_writer_that_is_gone_has_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let left = folder.path().join(format!(".a.json.{}-7", gone.id()));
        let being_written = format!(".a.json.{}-7", std::process::id());
        let others = [
            "a.json",
            ".a.json.bak",
            ".b.json.999999999-1",
            &being_written,
        ];
        for other in others {
            fs::write(folder.path().join(other), b"").unwrap();
        }
        fs::write(&left, b"").unwrap();
        remove_unfinished(&path);
        assert!(!left.exists());
        assert!(
            others
                .iter()
                .all(|other| folder.path().join(other).exists())
        );
    }

    #[test]
    fn a_folder_in_place_of_the_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_private(folder.path(), b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        assert!(
            error
                .to_string()
                .contains(&folder.path().display().to_string())
        );
        let error = write_private(&folder.path().join("no/such/file"), b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn private_folders_are_tightened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/security");
        assert!(create_private_folder(&path).unwrap());
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(!create_private_folder(&path).unwrap());
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn removing_twice_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_public(&path, b"").unwrap();
        assert!(remove_if_there(&path).unwrap());
        assert!(!remove_if_there(&path).unwrap());
        assert_eq!(read_text_if_there(&path).unwrap(), None);
    }

    #[test]
    fn paths_are_expanded_as_python_does() {
        let variable = |name: &str| (name == "A").then(|| "x".to_owned());
        for (text, expected) in [
            ("/a/b", "/a/b"),
            ("$A/b", "x/b"),
            ("${A}b", "xb"),
            ("$AB/$A", "$AB/x"),
            ("${A", "${A"),
            ("$", "$"),
            ("$/${}", "$/${}"),
            ("a~b", "a~b"),
            ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
        ] {
            assert_eq!(expand_text(text, variable), Path::new(expected), "{text}");
        }
        assert_eq!(
            expand_user("~/x"),
            format!("{}/x", std::env::home_dir().unwrap().display())
        );
        assert!(expand_path(Path::new("relative")).is_absolute());
    }
}
