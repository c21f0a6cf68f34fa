//! The end of a log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes that are looked at first; lines of a log are short.
const BYTES: u64 = 16 * 1024;

/// The last `lines` lines of a file.
pub(super) fn tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut looked_at = BYTES;
    loop {
        let skipped = length.saturating_sub(looked_at);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        io::copy(&mut (&mut file).take(length - skipped), &mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut found: Vec<String> = text.lines().map(str::to_owned).collect();
        // A line that began before what was read.
        if skipped > 0 && !found.is_empty() {
            found.remove(0);
        }
        if skipped == 0 || found.len() >= lines {
            return Ok(found.split_off(found.len().saturating_sub(lines)));
        }
        looked_at = looked_at.saturating_mul(8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "a\nb\nc").unwrap();
        assert_eq!(tail(&path, 2).unwrap(), ["b", "c"]);
        assert_eq!(tail(&path, 9).unwrap(), ["a", "b", "c"]);
        let long = format!("{}\nlast \u{e4}\n", "x".repeat(2 * 16 * 1024));
        std::fs::write(&path, long).unwrap();
        assert_eq!(tail(&path, 1).unwrap(), ["last \u{e4}"]);
        assert_eq!(tail(&path, 9).unwrap().len(), 2);
        std::fs::write(&path, "").unwrap();
        assert!(tail(&path, 9).unwrap().is_empty());
    }
}
