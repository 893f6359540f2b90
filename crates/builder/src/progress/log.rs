use std::collections::VecDeque;
use std::time::Duration;

use super::format;

/// Characters of a line that are kept.
const MAX_LINE: usize = 2000;

/// The last lines of a process's output as text that does a terminal no harm: escape sequences are taken out, a carriage
/// return begins the line anew, as progress bars expect.
pub(super) struct LogText {
    limit: usize,
    lines: VecDeque<Line>,
    open: Option<Line>,
    /// After a carriage return: the next character replaces the line.
    rewound: bool,
    state: State,
    /// The beginning of a character whose end has not come.
    partial: Vec<u8>,
}

struct Line {
    text: String,
    length: usize,
    time: Duration,
}

/// Where in an escape sequence (ECMA-48) the next character stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    Escape,
    /// After `ESC [`: up to a final character.
    Control,
    /// After `ESC ]` and its like: up to BEL or `ESC \`.
    String,
    StringEscape,
}

impl LogText {
    /// Keeps `limit` lines.
    pub(super) fn new(limit: usize) -> LogText {
        LogText {
            limit,
            lines: VecDeque::new(),
            open: None,
            rewound: false,
            state: State::Text,
            partial: Vec::new(),
        }
    }

    /// Takes output that came at `time` after the step began.
    pub(super) fn write(&mut self, data: &[u8], time: Duration) {
        self.partial.extend_from_slice(data);
        let bytes = std::mem::take(&mut self.partial);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.text(text, time);
                    return;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.text(std::str::from_utf8(valid).unwrap_or_default(), time);
                    let Some(wrong) = error.error_len() else {
                        self.partial = after.to_vec();
                        return;
                    };
                    self.character('\u{fffd}', time);
                    rest = &after[wrong..];
                }
            }
        }
    }

    fn text(&mut self, text: &str, time: Duration) {
        for character in text.chars() {
            self.character(character, time);
        }
    }

    fn character(&mut self, character: char, time: Duration) {
        match (self.state, character) {
            (State::Text, '\x1b') | (State::Control, '\x1b') => self.state = State::Escape,
            (State::Text, _) => self.print(character, time),
            (State::Escape, '[') => self.state = State::Control,
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => self.state = State::String,
            // Intermediate characters, as in the choice of a character set.
            (State::Escape, ' '..='/') => {}
            (State::Escape, _) => self.state = State::Text,
            (State::Control, '@'..='~') => {
                self.state = State::Text;
                self.rewound |= matches!(character, 'G');
                if matches!(character, 'J' | 'K') && self.rewound {
                    self.clear();
                }
            }
            // Not a sequence after all; what people want to see is not swallowed.
            (State::Control, '\n') => {
                self.state = State::Text;
                self.print(character, time);
            }
            (State::Control, _) => {}
            (State::String, '\x07') => self.state = State::Text,
            (State::String, '\x1b') => self.state = State::StringEscape,
            (State::String, '\n') => {
                self.state = State::Text;
                self.print(character, time);
            }
            (State::String, _) => {}
            (State::StringEscape, _) => self.state = State::Text,
        }
    }

    fn print(&mut self, character: char, time: Duration) {
        match character {
            '\n' => {
                self.rewound = false;
                let line = self.open.take().unwrap_or(Line { text: String::new(), length: 0, time });
                self.lines.push_back(line);
                if self.lines.len() > self.limit {
                    self.lines.pop_front();
                }
            }
            '\r' => self.rewound = true,
            '\x08' => {
                if let Some(line) = &mut self.open {
                    line.text.pop();
                    line.length = line.length.saturating_sub(1);
                }
            }
            '\t' => {
                let length = self.open.as_ref().map_or(0, |line| line.length);
                for _ in 0..8 - length % 8 {
                    self.put(' ', time);
                }
            }
            _ if format::is_harmful(character) => {}
            _ => self.put(character, time),
        }
    }

    fn put(&mut self, character: char, time: Duration) {
        if self.rewound {
            self.clear();
        }
        let line = self.open.get_or_insert(Line { text: String::new(), length: 0, time });
        if line.length < MAX_LINE {
            line.text.push(character);
            line.length += 1;
        }
    }

    fn clear(&mut self) {
        self.rewound = false;
        self.open = None;
    }

    /// The last lines, at most `count`; those that hold nothing but space at the end are left out.
    pub(super) fn last(&self, count: usize) -> Vec<&str> {
        let all = self.lines.iter().chain(&self.open).map(|line| line.text.as_str());
        let mut lines: Vec<&str> = all.rev().skip_while(|line| line.trim().is_empty()).take(count).collect();
        lines.reverse();
        lines
    }

    /// All kept lines with their times.
    pub(super) fn timed_lines(&self) -> Vec<String> {
        let all = self.lines.iter().chain(&self.open);
        let skip = (self.lines.len() + usize::from(self.open.is_some())).saturating_sub(self.limit);
        all.skip(skip).map(|line| format!("{} {}", format::log_time(line.time), line.text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(data: &[u8]) -> Vec<String> {
        let mut log = LogText::new(10);
        log.write(data, Duration::ZERO);
        let whole: Vec<String> = log.last(10).into_iter().map(str::to_owned).collect();
        // The cuts between writes must not matter.
        let mut log = LogText::new(10);
        for byte in data {
            log.write(&[*byte], Duration::ZERO);
        }
        assert_eq!(log.last(10), whole);
        whole
    }

    #[test]
    fn takes_escape_sequences_out() {
        assert_eq!(lines(b"\x1b[31mred\x1b[0m \x1b[2J\x1b[Hhome\n"), ["red home"]);
        assert_eq!(lines(b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\n"), ["alink"]);
        assert_eq!(lines(b"\x1b(Bplain\x1b7\x1b8\x1bc\n"), ["plain"]);
        assert_eq!(lines(b"\x1bP1$r q\x1b\\after \x1b[?1049h\x07\x00\n"), ["after "]);
        assert_eq!(lines("\u{9b}31m\u{202e}abc".as_bytes()), ["31mabc"]);
        assert_eq!(lines(b"\x1b]never ends\nnext\x1b[12;\nlast"), ["", "next", "last"]);
    }

    #[test]
    fn follows_progress_bars() {
        assert_eq!(lines(b"10%\r20%\r\x1b[K100%\r\ndone\r\n"), ["100%", "done"]);
        assert_eq!(lines(b"ab\x08c\ta\n"), ["ac      a"]);
        assert_eq!(lines(b"long line\rx"), ["x"]);
    }

    #[test]
    fn repairs_text() {
        assert_eq!(lines("häß 東京".as_bytes()), ["häß 東京"]);
        assert_eq!(lines(b"a\xffb\xe6\x9d\n"), ["a\u{fffd}b\u{fffd}"]);
        assert_eq!(lines(b"a\n\n\n"), ["a"]);
    }

    #[test]
    fn keeps_what_was_said_last() {
        let mut log = LogText::new(2);
        log.write(b"1\n2\n3\n4", Duration::from_millis(312));
        assert_eq!(log.last(6), ["2", "3", "4"]);
        assert_eq!(log.last(2), ["3", "4"]);
        assert_eq!(log.timed_lines(), ["0.312 3", "0.312 4"]);
        log.write(&vec![b'x'; 10_000], Duration::ZERO);
        assert_eq!(log.last(1)[0].len(), MAX_LINE);
    }
}
