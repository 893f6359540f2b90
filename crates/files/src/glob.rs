//! Wildcards of Go's `filepath.Match`, with `**` as Docker adds it, on bytes.
//!
//! Matching keeps the set of positions that the tokens so far can have reached: linear in pattern times text, without
//! backtracking, whatever the pattern. Text is taken rune by rune as Go does: a byte that is not UTF-8 is one rune.

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// These bytes.
    Literal(Vec<u8>),
    /// `?`: one rune but `/`.
    One,
    /// `*`: any runes but `/`.
    Star,
    /// `[…]`: one rune but `/`.
    Class { negated: bool, ranges: Vec<(u32, u32)> },
    /// `**` before something: nothing, or anything that ends in `/`.
    Directories,
    /// `**` at the end: anything.
    Rest,
}

/// Whether `**` means something of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DoubleStar {
    /// It is two `*`, as in `filepath.Match`.
    Plain,
    /// It crosses `/`, as in ignore files.
    Crosses,
}

impl Glob {
    /// Compiles a pattern; says what is wrong with a malformed one.
    pub(crate) fn new(pattern: &[u8], double_star: DoubleStar) -> Result<Glob, &'static str> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut rest = pattern;
        while let Some((&byte, mut after)) = rest.split_first() {
            let token = match byte {
                b'*' if double_star == DoubleStar::Crosses && after.first() == Some(&b'*') => {
                    after = &after[1..];
                    after = after.strip_prefix(b"/").unwrap_or(after);
                    if after.is_empty() { Token::Rest } else { Token::Directories }
                }
                b'*' => Token::Star,
                b'?' => Token::One,
                b'[' => {
                    let (token, remaining) = class(after)?;
                    after = remaining;
                    token
                }
                b'\\' => {
                    let (&escaped, remaining) =
                        after.split_first().ok_or("a trailing backslash escapes nothing")?;
                    after = remaining;
                    Token::Literal(vec![escaped])
                }
                _ => Token::Literal(vec![byte]),
            };
            rest = after;
            match (tokens.last_mut(), token) {
                (Some(Token::Literal(bytes)), Token::Literal(more)) => bytes.extend(more),
                // Twice is once.
                (Some(Token::Star), Token::Star) | (Some(Token::Directories), Token::Directories) => {}
                (_, token) => tokens.push(token),
            }
        }
        Ok(Glob(tokens))
    }

    /// The text itself when the pattern matches nothing else.
    pub(crate) fn as_literal(&self) -> Option<&[u8]> {
        match self.0.as_slice() {
            [] => Some(b""),
            [Token::Literal(bytes)] => Some(bytes),
            _ => None,
        }
    }

    /// What every match begins with.
    pub(crate) fn start(&self) -> &[u8] {
        match self.0.first() {
            Some(Token::Literal(bytes)) => bytes,
            _ => b"",
        }
    }

    /// What every match ends with.
    pub(crate) fn end(&self) -> &[u8] {
        match self.0.last() {
            Some(Token::Literal(bytes)) => bytes,
            _ => b"",
        }
    }

    /// Whether the whole `text` matches.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        // Ascending, each once.
        let mut reached = vec![0];
        let mut next = Vec::new();
        for token in &self.0 {
            next.clear();
            for &position in &reached {
                step(token, text, position, &mut next);
            }
            std::mem::swap(&mut reached, &mut next);
            if reached.is_empty() {
                return false;
            }
        }
        reached.last() == Some(&text.len())
    }
}

/// Adds the positions that `token` reaches from `position` and that are not yet in `next`.
fn step(token: &Token, text: &[u8], position: usize, next: &mut Vec<usize>) {
    // Sources ascend, so all that a former one reached up to here is known.
    let add = |next: &mut Vec<usize>, position: usize| {
        if next.last().is_none_or(|&last| last < position) {
            next.push(position);
        }
    };
    match token {
        Token::Literal(bytes) => {
            if text[position..].starts_with(bytes) {
                add(next, position + bytes.len());
            }
        }
        Token::One => {
            if let Some((rune, width)) = rune(&text[position..])
                && rune != u32::from(b'/')
            {
                add(next, position + width);
            }
        }
        Token::Class { negated, ranges } => {
            if let Some((rune, width)) = rune(&text[position..])
                && rune != u32::from(b'/')
                && ranges.iter().any(|(low, high)| (low..=high).contains(&&rune)) != *negated
            {
                add(next, position + width);
            }
        }
        Token::Star => {
            let mut position = position;
            if next.last().is_some_and(|&last| last >= position) {
                // A former star ran through here to the next `/` already.
                return;
            }
            next.push(position);
            while let Some((rune, width)) = rune(&text[position..])
                && rune != u32::from(b'/')
            {
                position += width;
                next.push(position);
            }
        }
        Token::Directories => {
            // Positions after a `/` come from the first source; later ones add themselves, in between.
            if let Err(place) = next.binary_search(&position) {
                let is_first = next.is_empty();
                next.insert(place, position);
                if is_first {
                    let slashes = (position..text.len()).filter(|&at| text[at] == b'/').map(|at| at + 1);
                    next.extend(slashes);
                }
            }
        }
        Token::Rest => add(next, text.len()),
    }
}

/// The first rune and its width.
fn rune(text: &[u8]) -> Option<(u32, usize)> {
    let first = *text.first()?;
    let width = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    if first < 0x80 {
        return Some((u32::from(first), 1));
    }
    let decoded =
        text.get(..width).and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(|s| s.chars().next());
    Some(match decoded {
        Some(char) => (u32::from(char), width),
        None => (u32::from(char::REPLACEMENT_CHARACTER), 1),
    })
}

const UNCLOSED: &str = "a `[` is never closed";

/// A character class after its `[`, and what follows its `]`.
fn class(pattern: &[u8]) -> Result<(Token, &[u8]), &'static str> {
    let mut rest = pattern;
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            return Ok((Token::Class { negated, ranges }, &rest[1..]));
        }
        let low;
        (low, rest) = class_rune(rest)?;
        let mut high = low;
        if rest.first() == Some(&b'-') {
            (high, rest) = class_rune(&rest[1..])?;
        }
        if high < low {
            return Err("a range of a `[]` ends before it begins");
        }
        ranges.push((low, high));
    }
}

fn class_rune(pattern: &[u8]) -> Result<(u32, &[u8]), &'static str> {
    let pattern = match pattern.first() {
        None => return Err(UNCLOSED),
        Some(b'-') => return Err("a `-` within `[]` stands for itself only after a backslash"),
        Some(b']') => return Err("a `]` within `[]` stands for itself only after a backslash"),
        Some(b'\\') => &pattern[1..],
        Some(_) => pattern,
    };
    let (rune, width) = rune(pattern).ok_or(UNCLOSED)?;
    if pattern.len() == width {
        return Err(UNCLOSED);
    }
    Ok((rune, &pattern[width..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a pattern of the tokens below means, by trying everything.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', b'*'] | [b'*', b'*', b'/'] => true,
            [b'*', b'*', rest @ ..] => {
                let rest = rest.strip_prefix(b"/").unwrap_or(rest);
                slow(rest, text) || (0..text.len()).any(|at| text[at] == b'/' && slow(rest, &text[at + 1..]))
            }
            [b'*', rest @ ..] => {
                slow(rest, text)
                    || text.first().is_some_and(|&byte| byte != b'/') && slow(pattern, &text[1..])
            }
            [b'?', rest @ ..] => text.first().is_some_and(|&byte| byte != b'/') && slow(rest, &text[1..]),
            [byte, rest @ ..] => text.first() == Some(byte) && slow(rest, &text[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn agrees_with_trying_everything(pattern in "[ab/*?]{0,9}", text in "[ab/]{0,9}") {
            let glob = Glob::new(pattern.as_bytes(), DoubleStar::Crosses).unwrap();
            prop_assert_eq!(glob.matches(text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn never_panics(pattern: Vec<u8>, text: Vec<u8>) {
            for double_star in [DoubleStar::Plain, DoubleStar::Crosses] {
                if let Ok(glob) = Glob::new(&pattern, double_star) {
                    glob.matches(&text);
                }
            }
        }

        #[test]
        fn start_and_end_are_those_of_every_match(pattern in "[ab/*?\\[\\]]{0,8}", text in "[ab/]{0,8}") {
            if let Ok(glob) = Glob::new(pattern.as_bytes(), DoubleStar::Crosses) && glob.matches(text.as_bytes()) {
                prop_assert!(text.as_bytes().starts_with(glob.start()) && text.as_bytes().ends_with(glob.end()));
            }
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let pattern = "**/*a".repeat(200);
        let glob = Glob::new(pattern.as_bytes(), DoubleStar::Crosses).unwrap();
        let text = "a/".repeat(1000);
        assert!(!glob.matches(text.as_bytes()));
    }
}
