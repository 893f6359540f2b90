//! Heredocs: finding `<<NAME` in a logical line, reading the bodies that follow it.

use std::iter::Peekable;
use std::ops::Range;
use std::str::CharIndices;

use crate::ast::Heredoc;
use crate::diagnostic::Diagnostic;
use crate::findings::Findings;
use crate::logical::LogicalLine;
use crate::reader::Reader;
use crate::span::Span;

/// A heredoc and the part of [`LogicalLine::input`] that announces it.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    pub heredoc: Heredoc,
    pub part: Range<usize>,
}

/// Reads the bodies of all heredocs that the line announces, in order, from the lines after it.
pub(crate) fn read_all(
    line: &LogicalLine,
    reader: &mut Reader<'_>,
    findings: &mut Findings,
) -> Vec<Announced> {
    let mut found = Vec::new();
    for part in words_with_heredoc(line.text()) {
        let Some(delimiter) = Delimiter::parse(&line.text()[part.clone()]) else { continue };
        let part = part.start + 1..part.end + 1;
        let span = line.span(part.clone());
        let content_span = read_body(&delimiter, span, reader, findings);
        let heredoc = Heredoc {
            name: delimiter.name,
            fd: delimiter.fd,
            strip_tabs: delimiter.strip_tabs,
            expand: delimiter.expand,
            content: reader.source()[content_span.range()].to_owned(),
            span,
            content_span,
        };
        found.push(Announced { heredoc, part });
    }
    found
}

fn read_body(
    delimiter: &Delimiter,
    announced: Span,
    reader: &mut Reader<'_>,
    findings: &mut Findings,
) -> Span {
    let start = reader.position();
    let mut similar = None;
    while let Some(line) = reader.next_line() {
        let text = if delimiter.strip_tabs { line.text.trim_start_matches('\t') } else { line.text };
        if text == delimiter.name {
            return Span::new(start, line.span.start);
        }
        if similar.is_none() && text.trim() == delimiter.name {
            similar = Some(line.span);
        }
    }
    let name = &delimiter.name;
    let mut diagnostic = Diagnostic::error(announced, "unterminated heredoc")
        .with_label(format!("expected a later line that is `{name}` and nothing else"));
    if let Some(span) = similar {
        let blanks = if delimiter.strip_tabs { "blanks before or after it" } else { "blanks around it" };
        diagnostic = diagnostic.with_related(span, format!("this line has {blanks}"));
    }
    findings.report_unreadable(diagnostic);
    Span::new(start, reader.position())
}

/// `<<NAME`, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Delimiter {
    name: String,
    fd: Option<u32>,
    strip_tabs: bool,
    expand: bool,
}

impl Delimiter {
    /// Takes a word as a delimiter if it is one: digits, `<<`, perhaps `-`, perhaps blanks, a name without `<`.
    fn parse(word: &str) -> Option<Self> {
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let rest = word[digits..].strip_prefix("<<")?;
        let (strip_tabs, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']);
        if rest.contains('<') {
            return None;
        }
        let (name, quoted) = unquote(rest);
        if name.is_empty() {
            return None;
        }
        Some(Self { name, fd: word[..digits].parse().ok(), strip_tabs, expand: !quoted })
    }
}

/// A word as the shell would read it, variables left alone, and whether any of it was in quotes.
fn unquote(word: &str) -> (String, bool) {
    let mut text = String::with_capacity(word.len());
    let mut quoted = false;
    let mut open: Option<char> = None;
    let mut characters = word.chars().peekable();
    while let Some(c) = characters.next() {
        match (open, c) {
            (None, '\'' | '"') => {
                open = Some(c);
                quoted = true;
            }
            (Some(quote), c) if c == quote => open = None,
            (None, '\\') => text.extend(characters.next()),
            (Some('"'), '\\') => match characters.next_if(|next| matches!(next, '"' | '$' | '\\')) {
                Some(next) => text.push(next),
                None if characters.peek().is_some() => text.push(c),
                None => {}
            },
            _ => text.push(c),
        }
    }
    (text, quoted)
}

/// The words of a line that contain `<<`, as the shell's rules for quotes, escapes and variables part them; none if
/// the line breaks these rules (an open quote, a bad substitution), because then nothing in it is a heredoc. The
/// escape character is the backslash whatever the file says.
fn words_with_heredoc(text: &str) -> Vec<Range<usize>> {
    if !text.contains("<<") {
        return Vec::new();
    }
    let mut lexer =
        Lexer { text, characters: text.char_indices().peekable(), word: None, words: Vec::new(), depth: 0 };
    match lexer.run(None) {
        Ok(()) => {
            lexer.end_word(text.len());
            lexer.words
        }
        Err(Broken) => Vec::new(),
    }
}

/// The line breaks the shell's rules.
struct Broken;

/// Substitutions within substitutions before a line counts as broken.
const MAX_DEPTH: usize = 200;

struct Lexer<'t> {
    text: &'t str,
    characters: Peekable<CharIndices<'t>>,
    /// Where the word began that is being read.
    word: Option<usize>,
    words: Vec<Range<usize>>,
    depth: usize,
}

impl Lexer<'_> {
    /// Reads up to and including `stop`, or up to the end.
    fn run(&mut self, stop: Option<char>) -> Result<(), Broken> {
        while let Some((at, c)) = self.characters.next() {
            if Some(c) == stop {
                return Ok(());
            }
            match c {
                '\'' => {
                    self.in_word(at);
                    self.skip_single_quoted()?;
                }
                '"' => {
                    self.in_word(at);
                    self.skip_double_quoted()?;
                }
                '$' => self.dollar(at)?,
                '<' => {
                    self.in_word(at);
                    // Blanks between `<<` and the name belong to the word.
                    if self.characters.next_if(|&(_, c)| c == '<').is_some() {
                        while self.characters.next_if(|&(_, c)| matches!(c, ' ' | '\t' | '\r')).is_some() {}
                    }
                }
                '\\' => {
                    self.in_word(at);
                    self.characters.next();
                }
                c if c.is_whitespace() => self.end_word(at),
                _ => self.in_word(at),
            }
        }
        if stop.is_some() { Err(Broken) } else { Ok(()) }
    }

    fn in_word(&mut self, at: usize) {
        self.word.get_or_insert(at);
    }

    fn end_word(&mut self, at: usize) {
        if let Some(start) = self.word.take()
            && self.text[start..at].contains("<<")
        {
            self.words.push(start..at);
        }
    }

    fn skip_single_quoted(&mut self) -> Result<(), Broken> {
        self.characters.find(|&(_, c)| c == '\'').map(|_| ()).ok_or(Broken)
    }

    fn skip_double_quoted(&mut self) -> Result<(), Broken> {
        while let Some((at, c)) = self.characters.next() {
            match c {
                '"' => return Ok(()),
                '$' => {
                    // Words do not end within quotes.
                    let (word, count) = (self.word, self.words.len());
                    self.dollar(at)?;
                    self.word = word;
                    self.words.truncate(count);
                }
                '\\' => {
                    self.characters.next_if(|&(_, c)| matches!(c, '"' | '$' | '\\'));
                }
                _ => {}
            }
        }
        Err(Broken)
    }

    /// What follows a `$`: a name, or a substitution in braces.
    fn dollar(&mut self, at: usize) -> Result<(), Broken> {
        self.in_word(at);
        if self.characters.next_if(|&(_, c)| c == '{').is_none() {
            self.skip_name();
            return Ok(());
        }
        if matches!(self.characters.peek(), None | Some((_, '{' | '}' | ':'))) {
            return Err(Broken);
        }
        self.skip_name();
        let stops: &[char] = match self.characters.next().map(|(_, c)| c) {
            Some('}') => return Ok(()),
            Some(':') => match self.characters.next() {
                None | Some((_, '#' | '%')) => return Err(Broken),
                Some(_) => &['}'],
            },
            Some('+' | '-' | '?' | '#' | '%') => &['}'],
            Some('/') => {
                self.characters.next_if(|&(_, c)| c == '/');
                &['/', '}']
            }
            _ => return Err(Broken),
        };
        if self.depth == MAX_DEPTH {
            return Err(Broken);
        }
        self.depth += 1;
        let count = self.words.len();
        for &stop in stops {
            self.run(Some(stop))?;
        }
        self.words.truncate(count);
        self.depth -= 1;
        if self.depth == 0 {
            self.split_at_blanks(at);
        }
        Ok(())
    }

    /// The text from `start` to here begins a new word and is parted by every blank in it, whatever it is
    /// otherwise: so it goes with a substitution.
    fn split_at_blanks(&mut self, start: usize) {
        let end = self.characters.peek().map_or(self.text.len(), |&(at, _)| at);
        self.word = None;
        for (offset, c) in self.text[start..end].char_indices() {
            if c.is_whitespace() {
                self.end_word(start + offset);
            } else {
                self.in_word(start + offset);
            }
        }
    }

    fn skip_name(&mut self) {
        match self.characters.peek() {
            Some((_, c)) if c.is_numeric() => {
                while self.characters.next_if(|&(_, c)| c.is_numeric()).is_some() {}
            }
            Some((_, '@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                self.characters.next();
            }
            _ => while self.characters.next_if(|&(_, c)| c.is_alphanumeric() || c == '_').is_some() {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Delimiter, words_with_heredoc};

    fn names(line: &str) -> Vec<String> {
        words_with_heredoc(line)
            .into_iter()
            .filter_map(|part| Delimiter::parse(&line[part]))
            .map(|delimiter| delimiter.name)
            .collect()
    }

    #[test]
    fn a_heredoc_is_a_word_of_its_own() {
        assert_eq!(names("RUN <<EOF"), ["EOF"]);
        assert_eq!(names("RUN <<EOF <<EOF2"), ["EOF", "EOF2"]);
        assert_eq!(names("RUN 4<<-EOF"), ["EOF"]);
        assert_eq!(names("RUN << EOF > x"), ["EOF"]);
        assert_eq!(names("RUN << -EOF"), ["-EOF"]);
        assert_eq!(names("RUN <<$EOF"), ["$EOF"]);
        assert_eq!(names("RUN <<eo'f'"), ["eof"]);
        assert_eq!(names("RUN <<'e'o\\'f"), ["eo'f"]);
        assert_eq!(names("RUN <<'one two'"), ["one two"]);
    }

    #[test]
    fn other_uses_of_less_than_are_not_heredocs() {
        for line in [
            "RUN cat<<EOF",
            "RUN cat <<<EOF",
            "RUN '<<EOF'",
            "RUN \"<<EOF\"",
            "RUN \\<<EOF",
            "RUN <<",
            "RUN <<- EOF",
            "RUN <<''",
            "RUN ${x:-<<EOF}",
            "RUN <<EOF${x:-y}",
        ] {
            assert_eq!(names(line), [""; 0], "{line}");
        }
    }

    #[test]
    fn a_line_with_an_open_quote_or_a_bad_substitution_has_none() {
        for line in
            ["RUN don't <<EOF", "RUN ${} <<EOF", "RUN ${x^^} <<EOF", "RUN ${x:#a} <<EOF", "RUN \"a <<EOF"]
        {
            assert_eq!(names(line), [""; 0], "{line}");
        }
        assert_eq!(names("RUN ${x:0:3} <<EOF"), ["EOF"]);
        assert_eq!(names("RUN \"${x:-a b}\" <<EOF"), ["EOF"]);
        assert_eq!(names("RUN ${x/a b/c d} <<EOF"), ["EOF"]);
        assert_eq!(names("RUN ${x:-a <<EOF b}"), ["EOF"]);
    }

    #[test]
    fn quotes_around_any_part_of_the_name_switch_expansion_off() {
        let expand = |word| Delimiter::parse(word).map(|delimiter| delimiter.expand);
        assert_eq!(expand("<<EOF"), Some(true));
        assert_eq!(expand("<<eo\\'f"), Some(true));
        assert_eq!(expand("<<'EOF'"), Some(false));
        assert_eq!(expand("<<EO\"F\""), Some(false));
    }

    #[test]
    fn substitutions_may_be_nested_without_end() {
        let line = format!("RUN <<EOF {}", "${x:-".repeat(100_000));
        assert_eq!(names(&line), [""; 0]);
    }
}
