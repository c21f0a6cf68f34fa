//! `$glob`: Python's `fnmatch.fnmatchcase`, in time at most pattern x text.

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::taskdb) struct Glob {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// `*`: any text, newlines included.
    Any,
    /// `?`
    One,
    Char(char),
    /// `[abc]`, `[a-c]`, `[!abc]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    pub(in crate::taskdb) fn new(pattern: &str) -> Self {
        let pattern: Vec<char> = pattern.chars().collect();
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < pattern.len() {
            let c = pattern[at];
            at += 1;
            match c {
                '*' => {
                    if tokens.last() != Some(&Token::Any) {
                        tokens.push(Token::Any);
                    }
                }
                '?' => tokens.push(Token::One),
                '[' => match class(&pattern, at) {
                    Some((token, after)) => {
                        tokens.push(token);
                        at = after;
                    }
                    None => tokens.push(Token::Char('[')),
                },
                c => tokens.push(Token::Char(c)),
            }
        }
        Self { tokens }
    }

    /// The text with which everything that matches begins.
    pub(in crate::taskdb) fn prefix(&self) -> String {
        self.tokens
            .iter()
            .map_while(|token| match token {
                Token::Char(c) => Some(*c),
                _ => None,
            })
            .collect()
    }

    pub(in crate::taskdb) fn matches(&self, text: &str) -> bool {
        let tokens = &self.tokens;
        let mut at = 0;
        let mut chars = text.chars();
        // Where to go on from when the rest does not fit: after the last star, one character later each time. An
        // earlier star need not be tried again.
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            if tokens.get(at) == Some(&Token::Any) {
                at += 1;
                retry = Some((at, chars.clone()));
                continue;
            }
            let before = chars.clone();
            let fits = match (tokens.get(at), chars.next()) {
                (None, None) => return true,
                (Some(token), Some(c)) => token.fits(c),
                _ => false,
            };
            if fits {
                at += 1;
                continue;
            }
            let ended = before.as_str().is_empty();
            match &mut retry {
                Some((after_star, from)) if !ended => {
                    from.next();
                    at = *after_star;
                    chars = from.clone();
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    fn fits(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Char(wanted) => *wanted == c,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

/// A class whose text begins at `start`, and where it ends; [`None`] when no bracket closes it, which makes its own
/// bracket an ordinary character. A closing bracket that comes first belongs to the class, as in Python.
fn class(pattern: &[char], start: usize) -> Option<(Token, usize)> {
    let negated = pattern.get(start) == Some(&'!');
    let first = start + usize::from(negated);
    let search = first + usize::from(pattern.get(first) == Some(&']'));
    let end = search + pattern.get(search..)?.iter().position(|c| *c == ']')?;
    let members = &pattern[first..end];
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < members.len() {
        if at + 2 < members.len() && members[at + 1] == '-' {
            // A range the wrong way round is empty.
            ranges.push((members[at], members[at + 2]));
            at += 3;
        } else {
            ranges.push((members[at], members[at]));
            at += 1;
        }
    }
    Some((Token::Class { negated, ranges }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line was checked against Python's `fnmatch.fnmatchcase`.
    #[test]
    fn patterns_mean_what_fnmatch_means() {
        for (pattern, yes, no) in [
            (
                "group_a*",
                &["group_a", "group_a/b\nc"][..],
                &["group_b", "xgroup_a"][..],
            ),
            (
                "group_a/subgroup_?",
                &["group_a/subgroup_a"],
                &["group_a/subgroup_", "group_a/subgroup_ab"],
            ),
            ("x[ab]", &["xa", "xb"], &["xc", "x", "xab"]),
            ("x[!ab]", &["xc", "x!", "x\n"], &["xa", "x"]),
            ("x[^a]", &["x^", "xa"], &["xb"]),
            ("*[*]*", &["label*task", "*"], &["label?task", ""]),
            ("*[?]*", &["label?task"], &["label*task"]),
            ("[]a]", &["]", "a"], &["[", "[]a]"]),
            ("[!]a]", &["b"], &["]", "a"]),
            ("[a", &["[a"], &["a", "["]),
            ("[]", &["[]"], &["", "["]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[a-c-e]", &["b", "-", "e"], &["d"]),
            ("[z-a]", &[], &["z", "a", "m", "-"]),
            ("[!z-a]", &["z", "\n"], &["", "zz"]),
            ("a*b*c", &["abc", "aXbYbZc", "abbc"], &["ab", "acb", "abcd"]),
            ("**", &["", "x"], &[]),
            ("", &[""], &["x"]),
            ("É?", &["Éé"], &["éé"]),
        ] {
            let glob = Glob::new(pattern);
            for text in yes {
                assert!(glob.matches(text), "{pattern:?} fits {text:?}");
            }
            for text in no {
                assert!(!glob.matches(text), "{pattern:?} does not fit {text:?}");
            }
        }
    }

    #[test]
    fn a_hostile_pattern_is_not_slow() {
        let glob = Glob::new(&"*a".repeat(500));
        assert!(!glob.matches(&("a".repeat(20_000) + "b")));
    }

    #[test]
    fn the_prefix_ends_at_the_first_wildcard() {
        assert_eq!(Glob::new("group_a*x").prefix(), "group_a");
        assert_eq!(Glob::new("plain").prefix(), "plain");
        assert_eq!(Glob::new("?x").prefix(), "");
    }
}
