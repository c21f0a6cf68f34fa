//! Waiting for a file that another process, perhaps on another machine, will write.

use std::io;
use std::path::Path;
use std::time::Duration;

/// Shared filesystems tell nobody about files that other machines make, so the file is looked for at this interval.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Resolves when there is something at `path`.
pub async fn wait_for(path: &Path) -> io::Result<()> {
    while !path.try_exists()? {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
