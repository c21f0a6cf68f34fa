//! What a request is about, in one or two words: the function that is applied, or the code that is executed.

use serde::Deserialize;

use super::window::Request;

/// The name of a map's own function, whose first argument is the user's (ipyparallel `remotefunction._map`).
const MAP: &str = "_map";

/// A name that is longer is cut.
const LONGEST: usize = 80;

/// The function's name, or `execute`, or the type of the request without `_request`.
pub(super) fn name_of(request: &Request, msg_type: &str) -> String {
    let [first, second] = &request.functions;
    let name = match function_name(first) {
        Some(name) if name == MAP => {
            let mapped = function_name(second).or_else(|| name_by_reference(second));
            Some(mapped.map_or_else(|| "map".to_owned(), |mapped| format!("map {mapped}")))
        }
        Some(name) => Some(name),
        None => name_by_reference(first),
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
pub(super) fn code_of(request: &Request) -> Option<String> {
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

/// Cut to a length that a page shows, without control characters.
pub(super) fn shortened(text: &str) -> String {
    let mut short: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

/// The value behind `__name__` in the end of a pickled `CannedFunction` (ipyparallel `canning.py`). Python's `pickle`
/// writes short text as 0x8c, its length and its bytes (`SHORT_BINUNICODE`), and 0x94 (`MEMOIZE`) behind it.
fn function_name(pickle: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"__name__\x94\x8c";
    let at = pickle
        .windows(KEY.len())
        .rposition(|window| window == KEY)?;
    short_text(&pickle[at + KEY.len()..])
}

/// The name in a pickle that holds nothing but a reference to a function of a module: two texts, and 0x93
/// (`STACK_GLOBAL`).
fn name_by_reference(pickle: &[u8]) -> Option<String> {
    const GLOBAL: u8 = 0x93;
    let end = pickle.iter().rposition(|byte| *byte == GLOBAL)?;
    // Else it is an object of some class.
    if pickle.len() > end + 4 || pickle.get(end.checked_sub(1)?) != Some(&0x94) {
        return None;
    }
    let before = &pickle[..end - 1];
    (1..before.len().min(256)).find_map(|length| {
        let start = before.len() - length;
        let is_text =
            start >= 2 && before[start - 2] == 0x8c && usize::from(before[start - 1]) == length;
        is_text.then(|| short_text(&before[start - 1..])).flatten()
    })
}

/// A length, and so much text.
fn short_text(bytes: &[u8]) -> Option<String> {
    let (length, rest) = bytes.split_first()?;
    let text = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn request(first: &'static [u8], second: &'static [u8]) -> Request {
        Request {
            functions: [Bytes::from_static(first), Bytes::from_static(second)],
            ..Request::default()
        }
    }

    #[test]
    fn functions_are_known_by_name() {
        const CANNED: &[u8] = b"\x94\x8c\x06module\x94\x8c\x08__main__\x94\x8c\x08__name__\x94\x8c\x04work\x94\x8c\x07buffers\x94]\x94ub.";
        const MAPPING: &[u8] = b"\x8c\x08__name__\x94\x8c\x04_map\x94\x8c\x07buffers\x94]\x94ub.";
        const SQRT: &[u8] =
            b"\x80\x04\x95\x0f\0\0\0\0\0\0\0\x8c\x04math\x94\x8c\x04sqrt\x94\x93\x94.";
        for (first, second, name) in [
            (CANNED, &b""[..], "work"),
            (MAPPING, CANNED, "map work"),
            (MAPPING, SQRT, "map sqrt"),
            (MAPPING, b"nonsense", "map"),
            (SQRT, b"", "sqrt"),
            (b"", b"", "apply"),
            (b"__name__\x94\x8c\xff", b"", "apply"),
            (b"\x93\x94.", b"", "apply"),
            (b"\x94\x93", b"", "apply"),
        ] {
            assert_eq!(name_of(&request(first, second), "apply_request"), name);
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
