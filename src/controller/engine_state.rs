//! `log/engines[ID].json`: which engines there are, for a controller that takes over (ipyparallel
//! `Hub._save_engine_state`): `{"engines": {"ID": "UUID"}, "next_id": N}`, and besides `"returning": [ID, …]`, those that
//! ask for their registration again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

use crate::hub::EngineState;
use crate::os::files::{FileError, read_text_if_there, write_private};
use crate::protocol::{EngineId, EngineUuid};

/// Between two writes in a storm of registrations, so many times as long as one takes.
const PAUSES: u32 = 10;

#[derive(Debug, Error)]
pub enum EngineStateError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is no list of engines ({source}): remove it to start without the engines of before", path.display())]
    Malformed {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// As it stands in the file.
#[derive(Serialize, Deserialize)]
struct Written {
    engines: BTreeMap<EngineId, EngineUuid>,
    next_id: u32,
    /// Ours.
    #[serde(default)]
    returning: BTreeSet<EngineId>,
}

impl EngineState {
    /// What a former controller has left, if there is a file.
    pub fn read(path: &Path) -> Result<Option<Self>, EngineStateError> {
        let Some(text) = read_text_if_there(path)? else {
            return Ok(None);
        };
        let Written {
            engines,
            next_id,
            returning,
        } = serde_json::from_str(&text).map_err(|source| EngineStateError::Malformed {
            path: path.to_owned(),
            source,
        })?;
        Ok(Some(Self {
            engines: engines.into_iter().collect(),
            returning,
            next_id,
        }))
    }
}

/// Writes the state down when there is time: a storm of registrations is written once.
#[derive(Debug)]
pub(super) struct EngineStateFile {
    path: Option<PathBuf>,
    has_changed: bool,
    /// When it was written last, and how long that took.
    written: Option<(Instant, Duration)>,
}

impl EngineStateFile {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            has_changed: false,
            written: None,
        }
    }

    pub(super) fn on_change(&mut self) {
        self.has_changed = true;
    }

    /// Little time goes into writing, even if there is more to do: who hears of an engine finds it in the file.
    pub(super) fn is_cheap(&self, now: Instant) -> bool {
        self.written
            .is_none_or(|(when, took)| now.saturating_duration_since(when) > took * PAUSES)
    }

    /// Writes down what there is, if it has changed.
    pub(super) fn save(&mut self, state: impl FnOnce() -> EngineState) {
        let Some(path) = &self.path else { return };
        if !std::mem::take(&mut self.has_changed) {
            return;
        }
        let begun = Instant::now();
        let EngineState {
            engines,
            returning,
            next_id,
        } = state();
        let written = Written {
            engines: engines.into_iter().collect(),
            next_id,
            returning,
        };
        let content = serde_json::to_vec(&written).expect("numbers and text are JSON");
        if let Err(error) = write_private(path, &content) {
            tracing::warn!("hub: {error}");
        }
        let now = Instant::now();
        self.written = Some((now, now.saturating_duration_since(begun)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engines.json");
        assert_eq!(EngineState::read(&path).unwrap(), None);
        let state = EngineState {
            engines: vec![
                (EngineId(1), EngineUuid::from("stock")),
                (EngineId(2), EngineUuid::from("a")),
            ],
            returning: BTreeSet::from([EngineId(2)]),
            next_id: 5,
        };
        let mut file = EngineStateFile::new(Some(path.clone()));
        file.save(EngineState::default);
        assert!(!path.exists(), "nothing has changed");
        file.on_change();
        assert!(file.is_cheap(Instant::now()));
        file.save(|| state.clone());
        let (when, took) = file.written.unwrap();
        assert!(!file.is_cheap(when + took * PAUSES));
        assert!(file.is_cheap(when + took * (PAUSES + 1)));
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            r#"{"engines":{"1":"stock","2":"a"},"next_id":5,"returning":[2]}"#
        );
        assert_eq!(EngineState::read(&path).unwrap(), Some(state));
        std::fs::write(&path, r#"{"engines": {"0": "b"}, "next_id": 1}"#).unwrap();
        let of_the_original = EngineState::read(&path).unwrap().unwrap();
        assert!(of_the_original.returning.is_empty());
        std::fs::write(&path, "[]").unwrap();
        assert!(
            EngineState::read(&path)
                .unwrap_err()
                .to_string()
                .contains("engines.json")
        );
    }
}
