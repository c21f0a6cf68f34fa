//! Where a running cluster's dashboard is: a file that only its user can read, since the token is in it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::os::files::{FileError, read_text_if_there, remove_if_there, write_private};
use crate::protocol::ClusterId;

/// A dashboard's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `http://HOST:PORT/`.
    pub url: String,
    pub token: String,
}

impl Address {
    /// What a browser opens.
    pub fn with_token(&self) -> String {
        format!("{}?token={}", self.url, self.token)
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> &str {
        let rest = self.url.strip_prefix("http://").unwrap_or(&self.url);
        rest.split('/').next().unwrap_or_default()
    }
}

#[derive(Debug, Error)]
pub enum AddressError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is no address of a dashboard ({source}): remove it", path.display())]
    Malformed {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// `security/dashboard[-ID].json`, which goes when this does.
#[derive(Debug)]
pub struct AddressFile {
    path: PathBuf,
}

impl AddressFile {
    pub fn path(security_dir: &Path, cluster_id: &ClusterId) -> PathBuf {
        security_dir.join(format!("{}.json", cluster_id.suffixed("dashboard")))
    }

    pub fn write(path: PathBuf, address: &Address) -> Result<Self, FileError> {
        let content = serde_json::to_vec(address).expect("text is JSON");
        write_private(&path, &content)?;
        Ok(Self { path })
    }

    /// Nothing if there is no such file. That it is there does not say that the dashboard is.
    pub fn read(path: &Path) -> Result<Option<Address>, AddressError> {
        let Some(text) = read_text_if_there(path)? else {
            return Ok(None);
        };
        let address = serde_json::from_str(&text);
        address.map(Some).map_err(|source| AddressError::Malformed {
            path: path.to_owned(),
            source,
        })
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        if let Err(error) = remove_if_there(&self.path) {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_the_address_and_goes_with_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = AddressFile::path(folder.path(), &ClusterId("x".into()));
        assert!(path.ends_with("dashboard-x.json"));
        assert!(AddressFile::read(&path).unwrap().is_none());
        let address = Address {
            url: "http://127.0.0.1:80/".to_owned(),
            token: "t".to_owned(),
        };
        let file = AddressFile::write(path.clone(), &address).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(AddressFile::read(&path).unwrap().as_ref(), Some(&address));
        assert_eq!(address.authority(), "127.0.0.1:80");
        assert_eq!(address.with_token(), "http://127.0.0.1:80/?token=t");
        drop(file);
        assert!(!path.exists());
        std::fs::write(&path, "[]").unwrap();
        assert!(AddressFile::read(&path).is_err());
    }
}
