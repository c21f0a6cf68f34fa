//! The clients' connection file, by which threads of the supervisor reach the hub.

use std::path::PathBuf;

use crate::profile::ClientFile;
use crate::profile::connection::ConnectionError;

#[derive(Clone, Debug)]
pub(super) struct HubFile {
    pub(super) path: PathBuf,
    /// The controller is on this machine, whatever the file says.
    pub(super) is_here: bool,
}

impl HubFile {
    pub(super) fn read(&self) -> Result<ClientFile, ConnectionError> {
        let file = ClientFile::read(&self.path)?;
        Ok(if self.is_here {
            file.on_this_machine()
        } else {
            file
        })
    }
}
