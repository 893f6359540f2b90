use std::borrow::Cow;
use std::collections::BTreeSet;

use super::pattern::{Match, Pattern};
use super::{ExpandError, Expanded, Expander, Variables};

/// Nested braces are read by recursion.
const MAX_DEPTH: usize = 64;

type Result<T> = std::result::Result<T, ExpandError>;

/// One pass over a text.
pub(super) struct Scan<'a> {
    how: Expander,
    text: &'a str,
    at: usize,
    depth: usize,
    variables: &'a dyn Variables,
    /// Somebody asks for the words.
    splits: bool,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

/// What a part of the text gave: as one text and, where somebody asks, as words.
#[derive(Default)]
struct Output {
    text: String,
    words: Option<Words>,
}

#[derive(Default)]
struct Words {
    all: Vec<String>,
    open: String,
}

impl Output {
    /// Text whose blanks separate words.
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        let Some(words) = &mut self.words else { return };
        for c in text.chars() {
            if c.is_whitespace() {
                words.end();
            } else {
                words.open.push(c);
            }
        }
    }

    /// Text that was quoted or escaped.
    fn push_literal(&mut self, text: &str) {
        self.text.push_str(text);
        if let Some(words) = &mut self.words {
            words.open.push_str(text);
        }
    }
}

impl Words {
    fn end(&mut self) {
        if !self.open.is_empty() {
            self.all.push(std::mem::take(&mut self.open));
        }
    }
}

impl<'a> Scan<'a> {
    pub(super) fn new(how: Expander, text: &'a str, variables: &'a dyn Variables, splits: bool) -> Self {
        Self { how, text, at: 0, depth: 0, variables, splits, used: BTreeSet::new(), unset: BTreeSet::new() }
    }

    pub(super) fn run(mut self) -> Result<Expanded> {
        let out =
            Output { text: String::with_capacity(self.text.len()), words: self.splits.then(Words::default) };
        let out = self.until(out, None, false)?;
        let words = out.words.map(|mut words| {
            words.end();
            words.all
        });
        Ok(Expanded { text: out.text, words: words.unwrap_or_default(), used: self.used, unset: self.unset })
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn error(&self, from: usize, message: impl Into<String>) -> ExpandError {
        ExpandError { message: message.into(), range: from..self.at, too_long: false }
    }

    fn checked(&self, from: usize, length: usize) -> Result<()> {
        if length > self.how.longest {
            return Err(self.too_long(from));
        }
        Ok(())
    }

    fn too_long(&self, from: usize) -> ExpandError {
        let longest = match self.how.longest {
            longest if longest < 1 << 20 => format!("{} KiB", longest >> 10),
            longest => format!("{} MiB", longest >> 20),
        };
        let error = self.error(from, format!("the expansion is longer than {longest}"));
        ExpandError { too_long: true, ..error }
    }

    /// Reads up to `stop` (consumed) or the end. With `raw`, escapes are kept: the text is a pattern.
    fn until(&mut self, mut out: Output, stop: Option<char>, raw: bool) -> Result<Output> {
        let start = self.at;
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.at += c.len_utf8();
                return Ok(out);
            }
            match c {
                '$' => {
                    let from = self.at;
                    let value = self.dollar()?;
                    self.checked(from, out.text.len() + value.len())?;
                    out.push(&value);
                }
                '\'' if self.how.quoting => {
                    let text = self.single_quotes()?;
                    out.push_literal(&text);
                }
                '"' if self.how.quoting => {
                    let text = self.double_quotes(raw)?;
                    out.push_literal(&text);
                    self.checked(start, out.text.len())?;
                }
                c if c == self.how.escape => {
                    self.at += c.len_utf8();
                    let mut utf8 = [0; 4];
                    if raw {
                        out.push_literal(c.encode_utf8(&mut utf8));
                    }
                    // An escape at the very end escapes nothing.
                    if let Some(c) = self.next() {
                        out.push_literal(c.encode_utf8(&mut utf8));
                    }
                }
                _ => {
                    // This character, and those after it that mean nothing either.
                    let rest = &self.text[self.at..];
                    let mut others = rest.char_indices().skip(1);
                    let end = others.find(|(_, c)| Some(*c) == stop || self.how.has_meaning(*c));
                    let length = end.map_or(rest.len(), |(at, _)| at);
                    out.push(&rest[..length]);
                    self.at += length;
                }
            }
        }
        match stop {
            Some(_) => Err(ExpandError { message: String::new(), range: start..self.at, too_long: false }),
            None => Ok(out),
        }
    }

    /// As [`Scan::until`] within `${…}` that began at `from`; without `stop` before the end of the text, the brace was
    /// never closed.
    fn inner(&mut self, from: usize, stop: char, raw: bool) -> Result<String> {
        let found = self.until(Output::default(), Some(stop), raw);
        found.map(|out| out.text).map_err(|error| match error.message.as_str() {
            "" => self.error(from, format!("`${{` without `{stop}`")),
            _ => error,
        })
    }

    fn single_quotes(&mut self) -> Result<String> {
        let from = self.at;
        let body = &self.text[from + 1..];
        let Some(length) = body.find('\'') else {
            self.at = self.text.len();
            return Err(self.error(from, "a single quote without its end"));
        };
        self.at = from + length + 2;
        let quoted = if self.how.keep_quotes { &self.text[from..self.at] } else { &body[..length] };
        Ok(quoted.to_owned())
    }

    fn double_quotes(&mut self, raw: bool) -> Result<String> {
        let from = self.at;
        self.at += 1;
        let mut out = String::new();
        if self.how.keep_quotes {
            out.push('"');
        }
        loop {
            let Some(c) = self.peek() else {
                return Err(self.error(from, "a double quote without its end"));
            };
            match c {
                '"' => {
                    self.at += 1;
                    if self.how.keep_quotes {
                        out.push('"');
                    }
                    return Ok(out);
                }
                '$' => {
                    let value = self.dollar()?;
                    self.checked(from, out.len() + value.len())?;
                    out.push_str(&value);
                }
                c if c == self.how.escape => {
                    self.at += c.len_utf8();
                    if raw {
                        out.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == self.how.escape => {
                            self.at += next.len_utf8();
                            out.push(next);
                        }
                        Some(_) => out.push(c),
                    }
                }
                c => {
                    self.at += c.len_utf8();
                    out.push(c);
                }
            }
        }
    }

    /// `$name` or `${…}`, at the `$`.
    fn dollar(&mut self) -> Result<Cow<'a, str>> {
        let from = self.at;
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            let value = self.look_up(name);
            return Ok(match value {
                None if self.how.keep_unset => format!("${name}").into(),
                value => value.unwrap_or_default().into(),
            });
        }
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(from, "`${` is nested more than 64 deep"));
        }
        let value = self.braces(from)?;
        self.depth -= 1;
        Ok(value)
    }

    /// What follows `${`, the `}` included.
    fn braces(&mut self, from: usize) -> Result<Cow<'a, str>> {
        match self.peek() {
            None => return Err(self.error(from, "`${` without `}`")),
            Some('{' | '}' | ':') => {
                self.next();
                return Err(self.error(from, "bad substitution: `${` needs the name of a variable"));
            }
            Some(_) => {}
        }
        let name = self.name();
        let operator = self.at;
        match self.next() {
            None => Err(self.error(from, "`${` without `}`")),
            Some('}') => {
                let value = self.look_up(name);
                Ok(match value {
                    None if self.how.keep_unset => self.text[from..self.at].into(),
                    value => value.unwrap_or_default().into(),
                })
            }
            Some('/') => self.replacement(from, name).map(Cow::from),
            Some(c @ ('#' | '%')) => self.trimming(from, name, c).map(Cow::from),
            Some(c @ ('+' | '-' | '?')) => self.alternative(from, name, c, false),
            Some(':') => match self.next() {
                None => Err(self.error(from, "`${` without `}`")),
                Some(c @ ('+' | '-' | '?')) => self.alternative(from, name, c, true),
                Some(_) => Err(self.unknown_operator(from, operator)),
            },
            Some(_) => Err(self.unknown_operator(from, operator)),
        }
    }

    fn unknown_operator(&self, from: usize, operator: usize) -> ExpandError {
        let operator = &self.text[operator..self.at];
        let message = format!(
            "bad substitution: there is no operator `{operator}`; there are `:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`"
        );
        self.error(from, message)
    }

    /// `${v-word}`, `${v+word}`, `${v?word}`; with `empty_is_unset`, the forms with a colon.
    fn alternative(
        &mut self,
        from: usize,
        name: &str,
        operator: char,
        empty_is_unset: bool,
    ) -> Result<Cow<'a, str>> {
        let word = self.inner(from, '}', false)?;
        let value = self.look_up(name);
        if value.is_none() && self.how.keep_unset {
            return Ok(self.text[from..self.at].into());
        }
        let there = value.is_some_and(|value| !empty_is_unset || !value.is_empty());
        match operator {
            '-' if there => Ok(value.unwrap_or_default().into()),
            '-' => Ok(word.into()),
            '+' if there => Ok(word.into()),
            '+' => Ok("".into()),
            _ if there => Ok(value.unwrap_or_default().into()),
            _ => {
                let state = if value.is_some() { "empty" } else { "unset" };
                let reason = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                Err(self.error(from, format!("{name}: {reason}")))
            }
        }
    }

    /// `${v#pattern}` and its like.
    fn trimming(&mut self, from: usize, name: &str, operator: char) -> Result<String> {
        let doubled = self.peek() == Some(operator);
        if doubled {
            self.next();
        }
        let which = if doubled { Match::Longest } else { Match::Shortest };
        let pattern_at = self.at;
        let pattern = self.inner(from, '}', true)?;
        let value = self.look_up(name);
        if value.is_none() && self.how.keep_unset {
            return Ok(self.text[from..self.at].to_owned());
        }
        let value = value.unwrap_or_default();
        let trimmed = Pattern::parse(&pattern).and_then(|pattern| match operator {
            '#' => pattern.trim_prefix(value, which),
            _ => pattern.trim_suffix(value, which),
        });
        let range = pattern_at..self.at - '}'.len_utf8();
        trimmed.map_err(|message| ExpandError { message, range, too_long: false })
    }

    /// `${v/pattern/replacement}` and `${v//pattern/replacement}`.
    fn replacement(&mut self, from: usize, name: &str) -> Result<String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern_at = self.at;
        let pattern = self.inner(from, '/', true)?;
        let range = pattern_at..self.at - '/'.len_utf8();
        let replacement = self.inner(from, '}', true)?;
        let value = self.look_up(name);
        if value.is_none() && self.how.keep_unset {
            return Ok(self.text[from..self.at].to_owned());
        }
        let replaced = Pattern::parse(&pattern)
            .and_then(|pattern| {
                pattern.replace(value.unwrap_or_default(), &replacement, all, self.how.longest)
            })
            .map_err(|message| ExpandError { message, range, too_long: false })?;
        let value = replaced.ok_or_else(|| self.too_long(from))?;
        Ok(value)
    }

    /// A name: letters, digits and `_`; only digits when it begins with one; or one of the shell's special parameters.
    fn name(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let length_while = |keep: fn(char) -> bool| rest.find(|c: char| !keep(c)).unwrap_or(rest.len());
        let length = match rest.chars().next() {
            Some(c) if c.is_ascii_digit() => length_while(|c| c.is_ascii_digit()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => length_while(|c| c.is_alphanumeric() || c == '_'),
        };
        self.at += length;
        &rest[..length]
    }

    fn look_up(&mut self, name: &str) -> Option<&'a str> {
        if name.is_empty() {
            return None;
        }
        let value = self.variables.get(name);
        let seen = match value {
            // Who asks for no words does not ask for these either.
            Some(_) if !self.splits => return value,
            Some(_) => &mut self.used,
            None => &mut self.unset,
        };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
        }
        value
    }
}
