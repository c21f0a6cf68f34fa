//! What a request's metadata ask of the scheduler, checked.

use std::time::Duration;

use serde_json::Value;

use crate::protocol::TaskMetadata;

/// ipyparallel's `Dependency`: on which tasks a task depends, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dependency<'a> {
    /// Without repetitions, in the order in which they were given; never empty.
    pub(super) ids: Vec<&'a str>,
    /// All of them are needed; else any one.
    pub(super) all: bool,
    /// One that succeeded is what is asked for.
    pub(super) success: bool,
    /// One that failed is what is asked for.
    pub(super) failure: bool,
}

/// The scheduler's part of a request.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Request<'a> {
    /// uuids of the only engines that may have it; empty for any engine.
    pub(super) targets: Vec<&'a str>,
    pub(super) after: Option<Dependency<'a>>,
    pub(super) follow: Option<Dependency<'a>>,
    pub(super) retries: u32,
    pub(super) timeout: Option<Duration>,
}

impl<'a> Request<'a> {
    /// The error is one sentence for the user who wrote the value.
    pub(super) fn parse(metadata: &'a TaskMetadata) -> Result<Self, String> {
        Ok(Self {
            targets: targets(metadata.targets.as_ref())?,
            after: dependency("after", metadata.after.as_ref())?,
            follow: dependency("follow", metadata.follow.as_ref())?,
            retries: retries(metadata.retries.as_ref())?,
            timeout: timeout(metadata.timeout.as_ref())?,
        })
    }
}

fn targets(value: Option<&Value>) -> Result<Vec<&str>, String> {
    texts(value).ok_or_else(|| {
        format!(
            "targets must be a list of engine uuids, not {}",
            shown(value)
        )
    })
}

/// A text counts as a list of one; null as an empty list.
fn texts(value: Option<&Value>) -> Option<Vec<&str>> {
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(text)) => Some(vec![text]),
        Some(Value::Array(items)) => items.iter().map(Value::as_str).collect(),
        Some(_) => None,
    }
}

fn dependency<'a>(name: &str, value: Option<&'a Value>) -> Result<Option<Dependency<'a>>, String> {
    let (ids, all, success, failure) = match value {
        Some(Value::Object(fields)) => (
            fields.get("dependencies"),
            flag(name, "all", fields.get("all"), true)?,
            flag(name, "success", fields.get("success"), true)?,
            flag(name, "failure", fields.get("failure"), false)?,
        ),
        other => (other, true, true, false),
    };
    if !(success || failure) {
        return Err(format!(
            "{name} must depend on at least one of successes or failures"
        ));
    }
    let mut ids =
        texts(ids).ok_or_else(|| format!("{name} must name msg_ids, not {}", shown(value)))?;
    without_repetitions(&mut ids);
    Ok((!ids.is_empty()).then_some(Dependency {
        ids,
        all,
        success,
        failure,
    }))
}

fn without_repetitions(ids: &mut Vec<&str>) {
    if ids.len() < 2 {
        return;
    }
    let mut seen = hashbrown::HashSet::with_capacity(ids.len());
    ids.retain(|id| seen.insert(*id));
}

fn flag(name: &str, field: &str, value: Option<&Value>, default: bool) -> Result<bool, String> {
    match value {
        None => Ok(default),
        Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(Value::Number(number)) => Ok(number.as_f64() != Some(0.0)),
        Some(_) => Err(format!(
            "{name}: {field} must be true or false, not {}",
            shown(value)
        )),
    }
}

/// As in ipyparallel, less than nothing is nothing.
fn retries(value: Option<&Value>) -> Result<u32, String> {
    match value {
        None | Some(Value::Null) => return Ok(0),
        Some(Value::Number(number)) => {
            if let Some(count) = number.as_u64() {
                return Ok(u32::try_from(count).unwrap_or(u32::MAX));
            }
            match number.as_f64() {
                Some(count) if count <= 0.0 => return Ok(0),
                // `as` saturates.
                Some(count) if count.fract() == 0.0 => return Ok(count as u32),
                _ => {}
            }
        }
        Some(_) => {}
    }
    Err(format!(
        "retries must be a whole number, not {}",
        shown(value)
    ))
}

/// Zero is no timeout, as in ipyparallel; so is one that outlasts any clock.
fn timeout(value: Option<&Value>) -> Result<Option<Duration>, String> {
    let seconds = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64().filter(|seconds| *seconds >= 0.0),
        Some(_) => None,
    };
    let seconds = seconds.ok_or_else(|| {
        format!(
            "timeout must be a number of seconds, 0 or more, not {}",
            shown(value)
        )
    })?;
    Ok(Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|timeout| !timeout.is_zero()))
}

/// The beginning of a value, for an error message.
fn shown(value: Option<&Value>) -> String {
    const LONGEST: usize = 60;
    let text = value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    if text.len() <= LONGEST {
        return text;
    }
    let end = (0..=LONGEST)
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(json: Value) -> TaskMetadata {
        TaskMetadata::parse(json.to_string().as_bytes()).unwrap()
    }

    fn refused(json: Value) -> String {
        Request::parse(&metadata(json)).unwrap_err()
    }

    #[test]
    fn what_a_stock_client_sends_for_nothing_special() {
        for plain in [
            json!({}),
            json!({"after": [], "follow": [], "timeout": null, "targets": [], "retries": 0, "label": null}),
            json!({"after": null, "follow": {"dependencies": []}, "timeout": 0.0, "targets": null}),
        ] {
            assert_eq!(
                Request::parse(&metadata(plain)).unwrap(),
                Request::default()
            );
        }
    }

    #[test]
    fn dependencies_in_every_spelling() {
        let metadata = metadata(json!({
            "after": "a",
            "follow": {"dependencies": ["a", "b", "a"], "all": false, "success": 0, "failure": true},
        }));
        let request = Request::parse(&metadata).unwrap();
        let after = request.after.unwrap();
        assert_eq!(after.ids, ["a"]);
        assert!(after.all && after.success && !after.failure);
        let follow = request.follow.unwrap();
        assert_eq!(follow.ids, ["a", "b"]);
        assert!(!follow.all && !follow.success && follow.failure);
    }

    #[test]
    fn numbers() {
        let numbers = |json| {
            let metadata = metadata(json);
            let request = Request::parse(&metadata).unwrap();
            (request.retries, request.timeout)
        };
        assert_eq!(
            numbers(json!({"retries": 3, "timeout": 2})),
            (3, Some(Duration::from_secs(2)))
        );
        assert_eq!(
            numbers(json!({"retries": 2.0, "timeout": 0.5})),
            (2, Some(Duration::from_millis(500)))
        );
        assert_eq!(numbers(json!({"retries": -1, "timeout": 1e300})), (0, None));
        assert_eq!(numbers(json!({"retries": 1e30})), (u32::MAX, None));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert!(refused(json!({"timeout": "soon"})).contains("\"soon\""));
        assert!(refused(json!({"timeout": -1})).contains("-1"));
        assert!(refused(json!({"timeout": true})).contains("timeout"));
        assert!(refused(json!({"retries": 0.5})).contains("retries"));
        assert!(refused(json!({"retries": "2"})).contains("retries"));
        assert!(refused(json!({"targets": [1]})).contains("uuids"));
        assert!(refused(json!({"targets": {}})).contains("uuids"));
        assert!(refused(json!({"after": [1]})).contains("after"));
        assert!(refused(json!({"follow": 7})).contains("follow"));
        assert!(refused(json!({"after": {"all": "yes"}})).contains("all"));
        assert!(
            refused(json!({"after": {"dependencies": ["a"], "success": false}}))
                .contains("at least one")
        );
        assert!(refused(json!({"targets": ["é".repeat(100), 1]})).ends_with('…'));
    }
}
