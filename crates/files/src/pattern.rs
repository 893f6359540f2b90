use crate::Error;
use crate::glob::{DoubleStar, Glob};

/// One component of a path with the wildcards of Go's `filepath.Match`: `*`, `?`, `[a-c]`, `[^a-c]`, `\` before a character that
/// stands for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Glob);

impl Pattern {
    /// Compiles a component.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn new(pattern: &str) -> Result<Pattern, Error> {
        match Glob::new(pattern.as_bytes(), DoubleStar::Plain) {
            Ok(glob) => Ok(Pattern(glob)),
            Err(reason) => Err(Error::BadPattern { pattern: pattern.to_owned(), reason }),
        }
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.0.matches(name)
    }

    /// The name itself when the pattern matches nothing else.
    pub(crate) fn as_literal(&self) -> Option<&[u8]> {
        self.0.as_literal()
    }
}

/// Whether a text holds a `*`, `?` or `[` that no backslash takes its meaning from.
pub fn has_wildcards(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pattern name yes|no|bad`, blanks between, in a file: what Go's `filepath.Match` says.
    #[test]
    fn agrees_with_go() {
        let table = include_str!("../../../testdata/files/filepath-match.txt");
        let mut cases = 0;
        for line in table.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let fields: Vec<&str> = line.split('\t').collect();
            let [pattern, name, expected] = fields[..] else { panic!("{line}") };
            let got = match Pattern::new(pattern) {
                Ok(pattern) if pattern.matches(name.as_bytes()) => "yes",
                Ok(_) => "no",
                Err(_) => "bad",
            };
            assert_eq!(got, expected, "{line}");
            cases += 1;
        }
        assert!(cases > 50);
    }

    #[test]
    fn finds_wildcards() {
        for (text, expected) in [
            ("a", false),
            ("a*", true),
            ("a\\*", false),
            ("a\\\\*", true),
            ("[a]", true),
            ("a\\", false),
            ("?", true),
        ] {
            assert_eq!(has_wildcards(text), expected, "{text}");
        }
    }
}
