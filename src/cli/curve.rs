//! Which keys encrypt a cluster's connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::Failure;
use crate::os::files;
use crate::profile::connection::{ClientFile, ConnectionFiles};
use crate::profile::settings::CurveSettings;
use crate::protocol::ClusterId;
use crate::transport::{KeyPair, Security, ServerKey};

/// A controller's own key, if its connections are to be encrypted.
pub(super) struct ControllerKey {
    pub(super) keys: Arc<KeyPair>,
    file: PathBuf,
}

impl ControllerKey {
    /// The key that was given; else, with files that are `reused`, the key of the controller before; else a new one.
    pub(super) fn find(
        settings: &CurveSettings,
        reused: Option<&ClientFile>,
        security: &Path,
        cluster_id: &ClusterId,
    ) -> Result<Self, Failure> {
        let file = ConnectionFiles::curve_key(security, cluster_id);
        let expected = reused.and_then(|client| client.common.curve_serverkey.as_deref());
        let secret = match &settings.secret_key {
            Some(secret) => Some((secret.clone(), "the secret CURVE key that was given".into())),
            None if reused.is_some() && file.exists() => {
                Some((files::read_text(&file)?, file.display().to_string()))
            }
            None => None,
        };
        let keys = match secret {
            Some((secret, origin)) => KeyPair::of_secret(secret.trim()).ok_or_else(|| {
                Failure::failed(format!(
                    "{origin}: that is no key; one is 40 characters long, in Z85, as `zmq.curve_keypair()` makes them"
                ))
            })?,
            None if expected.is_some() => {
                return Err(Failure::failed(format!(
                    "the connection files to reuse name a CURVE key whose secret half is not in {}: give it by \
                     $IPP_CURVE_SECRETKEY, or remove the files for a new key",
                    file.display()
                )));
            }
            None => KeyPair::generate(),
        };
        let public = keys.public();
        for (named, by) in [
            (expected, "the connection files to reuse"),
            (
                settings.public_key.as_deref(),
                "the public CURVE key that was given",
            ),
        ] {
            if named.is_some_and(|named| named != public) {
                return Err(Failure::failed(format!(
                    "{by} does not belong to the secret key: give both halves of one pair, or the secret one alone"
                )));
            }
        }
        Ok(Self {
            keys: Arc::new(keys),
            file,
        })
    }

    /// Keeps the secret half for a controller that reuses the connection files.
    pub(super) fn keep(&self) -> Result<(), Failure> {
        Ok(files::write_private(
            &self.file,
            self.keys.secret().as_bytes(),
        )?)
    }
}

/// How to talk to a controller with this `server_key`.
pub(super) fn engine_security(
    server_key: Option<&str>,
    settings: &CurveSettings,
) -> Result<Security, Failure> {
    let Some(server_key) = server_key.or(settings.server_key.as_deref()) else {
        return Ok(Security::Null);
    };
    let no_key =
        |what: &str| Failure::failed(format!("{what} is no CURVE key: one has 40 characters"));
    let server = ServerKey::parse(server_key).ok_or_else(|| no_key("the controller's key"))?;
    let keys = match &settings.secret_key {
        Some(secret) => KeyPair::of_secret(secret).ok_or_else(|| no_key("this engine's key"))?,
        None => KeyPair::generate(),
    };
    Ok(Security::Client {
        server,
        keys: Arc::new(keys),
    })
}
