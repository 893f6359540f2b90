//! What a shell would run, as far as it can be seen without running it.

use std::ops::Range;

/// A script, cut into simple commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Script {
    /// In the order of the text, whatever decides about them.
    pub(super) commands: Vec<Command>,
    /// Whether they simply follow each other: no condition, loop, function, subshell or heredoc.
    pub(super) plain: bool,
}

/// A simple command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    /// Program and arguments, quotes removed, variables as they stand.
    pub(super) words: Vec<Word>,
    /// How it follows the one before.
    pub(super) join: Join,
    /// Where it stands in the text.
    pub(super) range: Range<usize>,
    /// Whether it reads a file (`<`) or the output of another command (`$(…)`).
    pub(super) reads: bool,
    /// The files that its output goes to.
    pub(super) writes: Vec<String>,
}

/// A word of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// Whether nothing in it is replaced.
    pub(super) literal: bool,
}

/// How commands follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    /// The first one, or after `;` or a line end.
    Then,
    /// `&&`
    And,
    /// `||`
    Or,
    /// `|`
    Pipe,
    /// After `&`.
    Beside,
}

/// Words that may stand before a command and do not belong to it.
const KEYWORDS: [&str; 15] = [
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "{", "}", "!",
];

impl Script {
    /// Cuts a text into commands.
    pub(super) fn parse(text: &str) -> Script {
        let mut reader = Reader {
            text,
            at: 0,
            script: Script { commands: Vec::new(), plain: true },
            command: None,
            word: None,
            join: Join::Then,
            redirected: None,
        };
        reader.read();
        reader.script
    }

    /// One command whose words are known.
    pub(super) fn of_words(words: &[String]) -> Script {
        let word = |text: &String| Word { text: text.clone(), literal: true };
        let words: Vec<Word> = words.iter().map(word).collect();
        let command = Command { words, join: Join::Then, range: 0..0, reads: false, writes: Vec::new() };
        Script { commands: vec![command], plain: true }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    script: Script,
    command: Option<Command>,
    word: Option<Word>,
    join: Join,
    /// The next word is where something comes from (`false`) or goes to (`true`).
    redirected: Option<bool>,
}

impl Reader<'_> {
    fn read(&mut self) {
        while let Some(c) = self.text[self.at..].chars().next() {
            let start = self.at;
            self.at += c.len_utf8();
            match c {
                '\n' => self.end_command(start, Join::Then),
                ' ' | '\t' | '\r' => self.end_word(start),
                '#' if self.word.is_none() => self.skip_line(),
                '\\' => match self.next() {
                    Some('\n') => {}
                    Some(escaped) => self.push(start, escaped),
                    None => self.push(start, '\\'),
                },
                '\'' => {
                    let end = self.text[self.at..].find('\'').map_or(self.text.len(), |end| self.at + end);
                    let inside = &self.text[self.at..end];
                    self.open(start).text.push_str(inside);
                    self.at = (end + 1).min(self.text.len());
                }
                '"' => self.double_quoted(start),
                '$' | '`' => self.expansion(start, c),
                ';' => {
                    while self.take(";") {
                        self.script.plain = false;
                    }
                    self.end_command(start, Join::Then);
                }
                '&' if self.take("&") => self.end_command(start, Join::And),
                '&' if self.text[self.at..].starts_with('>') => {}
                '&' => self.end_command(start, Join::Beside),
                '|' if self.take("|") => self.end_command(start, Join::Or),
                '|' => {
                    self.take("&");
                    self.end_command(start, Join::Pipe);
                }
                '<' | '>' => self.redirection(start, c),
                '(' | ')' => {
                    self.script.plain = false;
                    self.end_command(start, Join::Then);
                }
                c => {
                    let literal = !matches!(c, '*' | '?' | '[');
                    self.push(start, c);
                    if let Some(word) = &mut self.word {
                        word.literal &= literal;
                    }
                }
            }
        }
        self.end_command(self.text.len(), Join::Then);
    }

    fn next(&mut self) -> Option<char> {
        let c = self.text[self.at..].chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take(&mut self, text: &str) -> bool {
        let is_there = self.text[self.at..].starts_with(text);
        self.at += if is_there { text.len() } else { 0 };
        is_there
    }

    fn skip_line(&mut self) {
        self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at);
    }

    /// The present word, begun at `start` where there is none; the command too.
    fn open(&mut self, start: usize) -> &mut Word {
        let join = self.join;
        self.command.get_or_insert_with(|| Command {
            words: Vec::new(),
            join,
            range: start..start,
            reads: false,
            writes: Vec::new(),
        });
        self.word.get_or_insert_with(|| Word { text: String::new(), literal: true })
    }

    fn push(&mut self, start: usize, c: char) {
        self.open(start).text.push(c);
    }

    fn double_quoted(&mut self, start: usize) {
        self.open(start);
        while let Some(c) = self.next() {
            match c {
                '"' => return,
                '\\' => match self.next() {
                    Some('\n') | None => {}
                    Some(escaped) => {
                        if !matches!(escaped, '"' | '\\' | '$' | '`') {
                            self.push(start, '\\');
                        }
                        self.push(start, escaped);
                    }
                },
                '$' | '`' => self.expansion(self.at - 1, c),
                c => self.push(start, c),
            }
        }
    }

    /// What begins with `$` or a backtick stays as it stands.
    fn expansion(&mut self, start: usize, c: char) {
        self.open(start).literal = false;
        let end = match c {
            '`' => self.text[self.at..].find('`').map_or(self.text.len(), |end| self.at + end + 1),
            _ if self.text[self.at..].starts_with('(') => self.closing('(', ')'),
            _ if self.text[self.at..].starts_with('{') => self.closing('{', '}'),
            _ => self.at,
        };
        let inside = &self.text[start..end];
        self.open(start).text.push_str(inside);
        if (inside.starts_with('`') || inside.starts_with("$("))
            && let Some(command) = &mut self.command
        {
            command.reads = true;
        }
        self.at = end;
    }

    /// The place behind the bracket that closes the one that comes next.
    fn closing(&self, open: char, close: char) -> usize {
        let mut depth = 0_usize;
        for (index, c) in self.text[self.at..].char_indices() {
            if c == open {
                depth += 1;
            } else if c == close {
                depth -= 1;
                if depth == 0 {
                    return self.at + index + 1;
                }
            }
        }
        self.text.len()
    }

    /// `2>&1`, `>file`, `<file`; a heredoc makes the script one that is not plain.
    fn redirection(&mut self, start: usize, c: char) {
        // A number in front says which stream.
        if self.word.as_ref().is_some_and(|word| word.text.bytes().all(|byte| byte.is_ascii_digit())) {
            self.word = None;
        }
        self.end_word(start);
        self.open(start);
        self.word = None;
        if c == '<' && self.take("<") {
            self.script.plain = false;
        }
        self.take(">");
        self.take("&");
        self.take("|");
        self.redirected = Some(c == '>');
    }

    fn end_word(&mut self, end: usize) {
        let Some(word) = self.word.take() else { return };
        let Some(command) = &mut self.command else { return };
        command.range.end = end;
        match self.redirected.take() {
            None => {
                if command.words.is_empty() && word.literal && KEYWORDS.contains(&word.text.as_str()) {
                    self.script.plain = false;
                    self.command = None;
                    return;
                }
                command.words.push(word);
            }
            // Another stream of the same command.
            Some(true) if word.text.bytes().all(|byte| byte.is_ascii_digit()) => {}
            Some(true) => command.writes.push(word.text),
            Some(false) => command.reads = true,
        }
    }

    fn end_command(&mut self, end: usize, next: Join) {
        self.end_word(end);
        self.redirected = None;
        if let Some(command) = self.command.take()
            && !command.words.is_empty()
        {
            self.script.commands.push(command);
            self.join = next;
        } else if next != Join::Then {
            self.join = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Vec<String> {
        let words = |command: &Command| {
            let words: Vec<&str> = command.words.iter().map(|word| word.text.as_str()).collect();
            format!("{:?} {}", command.join, words.join("|"))
        };
        Script::parse(text).commands.iter().map(words).collect()
    }

    #[test]
    fn commands_and_how_they_follow_each_other() {
        assert_eq!(
            commands(
                "set -eux; apt-get update && \\\n apt-get install -y 'a b' \"c\"d || true\nrm x | cat & y"
            ),
            [
                "Then set|-eux",
                "Then apt-get|update",
                "And apt-get|install|-y|a b|cd",
                "Or true",
                "Then rm|x",
                "Pipe cat",
                "Beside y"
            ]
        );
        assert_eq!(commands("# nothing\n  # more\na #b\nc#d"), ["Then a", "Then c#d"]);
        assert_eq!(commands(";;;&&|"), [""; 0]);
        assert_eq!(commands("a &&\n\n b"), ["Then a", "And b"]);
    }

    #[test]
    fn places_of_commands() {
        let text = "  a b && c >x ; d";
        let places: Vec<&str> =
            Script::parse(text).commands.iter().map(|command| &text[command.range.clone()]).collect();
        assert_eq!(places, ["a b", "c >x", "d"]);
    }

    #[test]
    fn what_is_read_and_written() {
        let script = Script::parse("a $(cat f) 2>&1 >out; b <in; c `d`; e $F ${G:-h i} *.x; f &>/dev/null");
        let shown: Vec<_> = script
            .commands
            .iter()
            .map(|command| (command.reads, command.writes.join(","), command.words.len()))
            .collect();
        let expected =
            [(true, "out", 2), (true, "", 1), (true, "", 2), (false, "", 4), (false, "/dev/null", 1)];
        assert_eq!(shown, expected.map(|(reads, writes, words)| (reads, writes.to_owned(), words)));
        assert!(script.commands[3].words[1..].iter().all(|word| !word.literal));
        assert_eq!(script.commands[3].words[2].text, "${G:-h i}");
    }

    #[test]
    fn scripts_that_decide_are_not_plain() {
        assert!(Script::parse("a && b; c | d\n\ne").plain);
        for text in
            ["if a; then b; fi", "(a)", "for x in 1; do a; done", "cat <<E\nx\nE", "f() { a; }", "! a"]
        {
            assert!(!Script::parse(text).plain, "{text}");
        }
        assert_eq!(commands("if a; then b; fi"), ["Then a", "Then b"]);
    }

    #[test]
    fn no_text_is_too_strange() {
        for text in
            ["'", "\"", "$(", "${", "`", "\\", "a >", "<", "\"$(", "é'ü", "$", "a\\é", "2>", "&>", "((("]
        {
            Script::parse(text);
        }
    }
}
