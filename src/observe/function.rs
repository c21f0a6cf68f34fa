//! What a request is about, in one or two words: the function that is applied, or the code that is executed.

use serde::Deserialize;

use super::pickle;
use super::watch::{Parts, request};
use super::window::Request;
use crate::protocol::text::is_unseen;

/// The name of a map's own function, whose first argument is the user's (ipyparallel `remotefunction._map`).
const MAP: &str = "_map";

/// A name that is longer is cut.
const LONGEST: usize = 80;

/// What a request is, in a few words, as pages show it: `work`, `map work`, `execute: import a`.
pub fn name_of_request<F: AsRef<[u8]>>(msg_type: &str, content: &[u8], buffers: &[F]) -> String {
    let parts = Parts {
        header: &[],
        metadata: &[],
        content,
        buffers,
    };
    title_of(&request(parts), msg_type)
}

pub(super) fn title_of(request: &Request, msg_type: &str) -> String {
    let name = name_of(request, msg_type);
    match code_of(request) {
        Some(code) => format!("{name}: {code}"),
        None => name,
    }
}

/// The function's name, or `execute`, or the type of the request without `_request`.
fn name_of(request: &Request, msg_type: &str) -> String {
    let [first, second] = &request.functions;
    let name = match pickle::function_name(first) {
        Some(MAP) => Some(match pickle::function_name(second) {
            Some(mapped) => format!("map {mapped}"),
            None => "map".to_owned(),
        }),
        name => name.map(str::to_owned),
    };
    let kind = || {
        msg_type
            .strip_suffix("_request")
            .unwrap_or(msg_type)
            .to_owned()
    };
    shortened(&name.unwrap_or_else(kind))
}

/// The first line of executed code.
fn code_of(request: &Request) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        code: String,
    }
    let content: Content = serde_json::from_slice(&request.content).ok()?;
    let line = content
        .code
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    Some(shortened(line))
}

/// `ename: evalue` of a reply that is an error.
pub fn error_of(content: &[u8]) -> Option<Box<str>> {
    #[derive(Deserialize)]
    struct Content {
        ename: String,
        #[serde(default)]
        evalue: String,
    }
    let content: Content = serde_json::from_slice(content).ok()?;
    let text = format!("{}: {}", content.ename, content.evalue);
    Some(shortened(&text).into())
}

/// Cut to a length that a page shows, without what is not to be seen.
pub(super) fn shortened(text: &str) -> String {
    let mut short: String = text
        .chars()
        .map(|c| if is_unseen(c) { ' ' } else { c })
        .take(LONGEST)
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn with(first: &'static [u8], second: &'static [u8]) -> Request {
        Request {
            functions: [Bytes::from_static(first), Bytes::from_static(second)],
            ..Request::default()
        }
    }

    #[test]
    fn functions_are_known_by_name() {
        const WORK: &[u8] = b"\x80\x04\x8c\x04math\x94\x8c\x04work\x94\x93\x94.";
        const MAPPING: &[u8] = b"\x80\x04}(\x8c\x04_map\x94\x8c\x08__name__\x94h\x00ub.";
        for (first, second, name) in [
            (WORK, &b""[..], "work"),
            (MAPPING, WORK, "map work"),
            (MAPPING, b"nonsense", "map"),
            (b"", b"", "apply"),
        ] {
            assert_eq!(title_of(&with(first, second), "apply_request"), name);
        }
    }

    #[test]
    fn executions_show_their_first_line() {
        let request = Request {
            content: Bytes::from_static(br#"{"code": "\n  import a\nb()"}"#),
            ..Request::default()
        };
        assert_eq!(code_of(&request).as_deref(), Some("import a"));
        assert_eq!(name_of(&request, "execute_request"), "execute");
        assert_eq!(code_of(&Request::default()), None);
        let long = shortened(&"x\u{1b}".repeat(100));
        assert_eq!(long.chars().count(), LONGEST);
        assert!(long.ends_with('…') && !long.contains('\u{1b}'));
    }
}
