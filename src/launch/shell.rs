//! Commands as a POSIX shell has to be told them. Pure.

/// Words for a POSIX shell, as Python's `shlex.join` writes them.
pub(super) fn shell_words(words: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| shell_word(word.as_ref())).collect();
    quoted.join(" ")
}

fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\"'\"'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_shlex_does() {
        assert_eq!(
            shell_words(&["a", "", "b c", "it's", "$x"]),
            "a '' 'b c' 'it'\"'\"'s' '$x'"
        );
    }
}
