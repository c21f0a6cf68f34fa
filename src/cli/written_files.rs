//! The files of a controller that runs.

use std::path::PathBuf;

use crate::cli::Failure;
use crate::os::files;
use crate::profile::connection::{ClientFile, ConnectionFiles, EngineFile};

/// Connection files that go when the controller goes, unless they are to be reused.
pub(super) struct WrittenFiles {
    files: Option<ConnectionFiles>,
    /// Which engines there are.
    pub(super) engine_state: Option<PathBuf>,
}

impl WrittenFiles {
    pub(super) fn write(
        files: &ConnectionFiles,
        client: &ClientFile,
        engine: &EngineFile,
        keep: bool,
    ) -> Result<Self, Failure> {
        files.write(client, engine)?;
        let shown: PathBuf = files.client.clone();
        tracing::debug!(
            "connection files: {} and {}",
            shown.display(),
            files.engine.display()
        );
        Ok(Self {
            files: (!keep).then(|| files.clone()),
            engine_state: None,
        })
    }
}

impl Drop for WrittenFiles {
    fn drop(&mut self) {
        if let Some(files) = self.files.take()
            && let Err(error) = files.remove()
        {
            tracing::warn!("{error}");
        }
        if let Some(path) = self.engine_state.take()
            && let Err(error) = files::remove_if_there(&path)
        {
            tracing::warn!("{error}");
        }
    }
}
