//! Which keys encrypt a cluster's connections.

use std::sync::Arc;

use crate::cli::Failure;
use crate::os::files;
use crate::profile::connection::{ClientFile, ConnectionFiles};
use crate::profile::settings::{CurveSettings, is_local_interface};
use crate::transport::{KeyPair, Security, ServerKey};

/// Whether a controller's connections are encrypted: as was said; else as the files say that it reuses, so that copies of
/// them stay valid; else if it can be reached from other machines.
pub(super) fn is_wanted(
    asked: Option<bool>,
    reused: Option<&ClientFile>,
    interfaces: [&str; 2],
) -> Result<bool, Failure> {
    let has_key = reused.map(|client| client.common.curve_serverkey.is_some());
    let beyond = interfaces
        .into_iter()
        .find(|interface| !is_local_interface(interface));
    match (asked, has_key, beyond) {
        (Some(false), Some(true), _) => Err(Failure::usage(
            "the connection files to reuse say that connections are encrypted, and the settings that they are not: remove \
             the files for new ones, or leave enable_curve out",
        )),
        (Some(true), Some(false), _) => Err(Failure::usage(
            "the connection files to reuse say that connections are not encrypted, and the settings that they are: remove \
             the files for new ones, or leave enable_curve out",
        )),
        (Some(true), ..) | (None, Some(true), _) => {
            tracing::info!(
                "connections are encrypted (CURVE); clients and engines find the key in their connection files"
            );
            Ok(true)
        }
        (None, None, Some(interface)) => {
            tracing::info!(
                "connections are encrypted (CURVE), as others can reach {interface}; clients and engines find the key in \
                 their connection files; --enable-curve=False switches it off"
            );
            Ok(true)
        }
        (_, _, Some(interface)) => {
            tracing::warn!(
                "connections are not encrypted, and others can reach {interface}: whoever can listen on the network reads \
                 what is sent; --enable-curve encrypts it{}",
                if has_key.is_some() {
                    ", once the connection files to reuse are removed"
                } else {
                    ""
                }
            );
            Ok(false)
        }
        (_, _, None) => Ok(false),
    }
}

/// A controller's own key, if its connections are to be encrypted.
pub(super) struct ControllerKey {
    pub(super) keys: Arc<KeyPair>,
}

impl ControllerKey {
    /// The key that was given; else, with files that are `reused`, the key of the controller before; else a new one.
    pub(super) fn find(
        settings: &CurveSettings,
        reused: Option<&ClientFile>,
        files: &ConnectionFiles,
    ) -> Result<Self, Failure> {
        let file = &files.curve_key;
        let expected = reused.and_then(|client| client.common.curve_serverkey.as_deref());
        let secret = match &settings.secret_key {
            Some(secret) => Some((secret.clone(), "the secret CURVE key that was given".into())),
            None if reused.is_some() && file.exists() => {
                Some((files::read_text(file)?, file.display().to_string()))
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
        })
    }

    /// Keeps the secret half for a controller that takes the connection files over. As they do, it goes in the end.
    pub(super) fn keep(&self, files: &ConnectionFiles) -> Result<(), Failure> {
        Ok(files::write_private(
            &files.curve_key,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_reach_is_encrypted_unless_it_is_said_otherwise() {
        let here = ["tcp://127.0.0.1", "tcp://localhost"];
        let wanted = |asked, interfaces| is_wanted(asked, None, interfaces).unwrap();
        assert!(!wanted(None, here));
        assert!(wanted(Some(true), here));
        for beyond in [
            "tcp://*",
            "tcp://0.0.0.0",
            "tcp://[::]",
            "tcp://eth0",
            "tcp://10.0.0.1",
        ] {
            assert!(wanted(None, ["tcp://127.0.0.1", beyond]), "{beyond}");
            assert!(wanted(None, [beyond, "tcp://127.0.0.1"]), "{beyond}");
            assert!(!wanted(Some(false), [beyond, beyond]), "{beyond}");
        }
        for local in [
            "tcp://127.1.2.3",
            "tcp://[::1]",
            "tcp://::1",
            "tcp://lo",
            "ipc:///tmp/x",
        ] {
            assert!(!wanted(None, [local, local]), "{local}");
        }
    }

    #[test]
    fn files_that_are_reused_decide() {
        let text = |key: &str| {
            format!(
                r#"{{"interface":"tcp://*","registration":1,"control":1,"mux":1,"task":1,"iopub":1,"notification":1,
                "key":"","pack":"json","unpack":"json","signature_scheme":"hmac-sha256","curve_serverkey":{key}}}"#
            )
        };
        let file = |key| serde_json::from_str::<ClientFile>(&text(key)).unwrap();
        let (with, without) = (file("\"k\""), file("null"));
        let beyond = ["tcp://*", "tcp://*"];
        assert!(is_wanted(None, Some(&with), ["tcp://127.0.0.1"; 2]).unwrap());
        assert!(!is_wanted(None, Some(&without), beyond).unwrap());
        assert!(is_wanted(Some(false), Some(&with), beyond).is_err());
        assert!(is_wanted(Some(true), Some(&without), beyond).is_err());
    }
}
