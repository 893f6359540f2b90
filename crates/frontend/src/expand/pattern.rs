//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and escapes, no brackets.

use regex::Regex;

/// A parsed pattern.
pub(super) struct Pattern(Vec<Token>);

#[derive(Clone, Copy)]
enum Token {
    /// `*`: any characters of a line.
    Star,
    /// `?`: any character but a line end.
    Any,
    /// Itself.
    Char(char),
}

/// Which match a star prefers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// As few characters as possible.
    Shortest,
    /// As many as possible.
    Longest,
}

impl Pattern {
    /// Reads a pattern. A backslash escapes `*`, `?` and itself; before `}` and `/`, which end a pattern, it is dropped.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(c),
                    Some(c) => {
                        return Err(format!("a pattern has no escape `\\{c}`: only `\\*`, `\\?` and `\\\\`"));
                    }
                    None => return Err("the pattern ends in the middle of an escape".to_owned()),
                },
                c => Token::Char(c),
            });
        }
        Ok(Self(tokens))
    }

    /// `value` without the prefix that matches.
    pub(super) fn trim_prefix(&self, value: &str, which: Match) -> Result<String, String> {
        let regex = regex(self.0.iter().copied(), which, true)?;
        let end = regex.find(value).map_or(0, |found| found.end());
        Ok(value[end..].to_owned())
    }

    /// `value` without the suffix that matches: a prefix of the reversed value, so that it is found in linear time.
    pub(super) fn trim_suffix(&self, value: &str, which: Match) -> Result<String, String> {
        let regex = regex(self.0.iter().rev().copied(), which, true)?;
        let reversed: String = value.chars().rev().collect();
        let end = regex.find(&reversed).map_or(0, |found| found.end());
        Ok(value[..value.len() - end].to_owned())
    }

    /// `value` with the first match, or all of them, replaced. `None` when the result is longer than `limit` bytes.
    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
        limit: usize,
    ) -> Result<Option<String>, String> {
        let regex = regex(self.0.iter().copied(), Match::Longest, false)?;
        let mut out = String::new();
        let mut done = 0;
        for found in regex.find_iter(value).take(if all { usize::MAX } else { 1 }) {
            out.push_str(&value[done..found.start()]);
            out.push_str(replacement);
            done = found.end();
            if out.len() > limit {
                return Ok(None);
            }
        }
        out.push_str(&value[done..]);
        Ok(Some(out))
    }
}

fn regex(tokens: impl Iterator<Item = Token>, which: Match, anchored: bool) -> Result<Regex, String> {
    let mut text = String::from(if anchored { "^" } else { "" });
    for token in tokens {
        match token {
            Token::Star => text.push_str(if which == Match::Longest { ".*" } else { ".*?" }),
            Token::Any => text.push('.'),
            Token::Char(c) => text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&text).map_err(|_| "the pattern is too long".to_owned())
}
