//! What steps are lent and must not keep: secrets and agents' sockets.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use executor::{OutputSink, OutputStream};

/// Looks up the secrets that the user named.
pub trait Secrets: Send + Sync {
    /// The value of a secret, `None` when the user named none of that id.
    ///
    /// # Errors
    /// In words, without the value: a file that cannot be read, a command that failed.
    fn get(&self, id: &str) -> Result<Option<Vec<u8>>, String>;
}

/// Looks up the ssh agents that the user named.
pub trait SshAgents: Send + Sync {
    /// The socket of an agent, `None` when the user named none of that id.
    ///
    /// # Errors
    /// In words.
    fn socket(&self, id: &str) -> Result<Option<PathBuf>, String>;
}

/// No secrets, no agents.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSecrets;

impl Secrets for NoSecrets {
    fn get(&self, _: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }
}

impl SshAgents for NoSecrets {
    fn socket(&self, _: &str) -> Result<Option<PathBuf>, String> {
        Ok(None)
    }
}

/// What stands in output where a secret was.
const MASK: &[u8] = b"***";
/// A shorter value stands in too much that is no secret, and hiding it there would tell what it is.
const SHORTEST: usize = 3;
/// A shorter line of a secret is not hidden by itself: keys and configurations have lines such as `{` or `version=1`.
const SHORTEST_LINE: usize = 8;

/// What is hidden of a secret: the value, and each longer line of it; neither with the white space around it, which is what a
/// shell's `$(cat …)` takes away, and which hidden would put two lines of output into one.
fn hidden(secret: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = Some(secret.trim_ascii()).filter(|whole| whole.len() >= SHORTEST);
    let lines = secret.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    whole.into_iter().chain(lines.filter(|line| line.len() >= SHORTEST_LINE))
}

/// Whether a secret is too short to be hidden. One of white space alone is nothing that could be told.
pub(crate) fn is_shown(secret: &[u8]) -> bool {
    (1..SHORTEST).contains(&secret.trim_ascii().len())
}

/// Hides the exact bytes of secrets in the output of a process, also where they come in pieces.
pub(crate) struct Masking<'a> {
    sink: &'a dyn OutputSink,
    hidden: Hidden,
    /// Of standard output and standard error: what may turn out to be the beginning of a secret.
    held: [Mutex<Vec<u8>>; 2],
}

impl<'a> Masking<'a> {
    pub(crate) fn new(sink: &'a dyn OutputSink, secrets: &[Vec<u8>]) -> Masking<'a> {
        let hidden =
            Hidden::new(secrets.iter().flat_map(|secret| hidden(secret)).map(<[u8]>::to_vec).collect());
        Masking { sink, hidden, held: Default::default() }
    }

    /// Passes on what was held back: nothing more comes.
    pub(crate) fn finish(&self) {
        for (stream, held) in [OutputStream::Stdout, OutputStream::Stderr].into_iter().zip(&self.held) {
            let rest = std::mem::take(&mut *held.lock().unwrap_or_else(PoisonError::into_inner));
            if !rest.is_empty() {
                self.sink.write(stream, &self.masked(&rest, true).0);
            }
        }
    }

    /// The bytes with secrets hidden, and how many at the end are held back because more may make a secret of them.
    fn masked(&self, bytes: &[u8], complete: bool) -> (Vec<u8>, usize) {
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            // A longer secret that may still come goes before a shorter one that is there.
            if !complete && self.hidden.may_begin_with(rest) {
                return (out, rest.len());
            }
            match self.hidden.longest_at(rest) {
                Some(secret) => {
                    out.extend_from_slice(MASK);
                    at += secret.len();
                }
                None => {
                    out.push(rest[0]);
                    at += 1;
                }
            }
        }
        (out, 0)
    }
}

/// Texts to look for at a place: as many as a secret has lines, so they are not tried one by one.
struct Hidden {
    /// Sorted. Behind each: the place of the longest other one that it begins with.
    texts: Vec<(Vec<u8>, Option<usize>)>,
    /// The bytes that texts begin with; most places of an output have another.
    first: [bool; 256],
}

impl Hidden {
    fn new(mut texts: Vec<Vec<u8>>) -> Hidden {
        texts.sort();
        texts.dedup();
        let mut first = [false; 256];
        let mut sorted: Vec<(Vec<u8>, Option<usize>)> = Vec::with_capacity(texts.len());
        for text in texts {
            first[usize::from(text[0])] = true;
            // What lies between a text and its beginning has that beginning too, so that it is on the way from one to the next.
            let mut shorter = sorted.len().checked_sub(1);
            while let Some(at) = shorter.filter(|at| !text.starts_with(&sorted[*at].0)) {
                shorter = sorted[at].1;
            }
            sorted.push((text, shorter));
        }
        Hidden { texts: sorted, first }
    }

    /// Where `bytes` would stand among the texts, behind one that is the same.
    fn behind(&self, bytes: &[u8]) -> usize {
        self.texts.partition_point(|(text, _)| text.as_slice() <= bytes)
    }

    /// Whether bytes, of which there is one, are the beginning of a longer text.
    fn may_begin_with(&self, bytes: &[u8]) -> bool {
        self.first[usize::from(bytes[0])]
            && self.texts.get(self.behind(bytes)).is_some_and(|(text, _)| text.starts_with(bytes))
    }

    /// The longest text that bytes, of which there is one, begin with.
    fn longest_at(&self, bytes: &[u8]) -> Option<&[u8]> {
        if !self.first[usize::from(bytes[0])] {
            return None;
        }
        let mut at = self.behind(bytes).checked_sub(1);
        while let Some(index) = at {
            let (text, shorter) = &self.texts[index];
            if bytes.starts_with(text) {
                return Some(text);
            }
            at = *shorter;
        }
        None
    }
}

impl OutputSink for Masking<'_> {
    fn write(&self, stream: OutputStream, bytes: &[u8]) {
        if self.hidden.texts.is_empty() {
            return self.sink.write(stream, bytes);
        }
        let held = match stream {
            OutputStream::Stdout => &self.held[0],
            OutputStream::Stderr => &self.held[1],
        };
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend_from_slice(bytes);
        let (out, keep) = self.masked(&held, false);
        let passed = held.len() - keep;
        held.drain(..passed);
        if !out.is_empty() {
            self.sink.write(stream, &out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorded(Mutex<Vec<u8>>);

    impl OutputSink for Recorded {
        fn write(&self, _: OutputStream, bytes: &[u8]) {
            self.0.lock().unwrap().extend_from_slice(bytes);
        }
    }

    fn masked(secrets: &[&str], pieces: &[&str]) -> String {
        let recorded = Recorded::default();
        let secrets: Vec<Vec<u8>> = secrets.iter().map(|secret| secret.as_bytes().to_vec()).collect();
        let masking = Masking::new(&recorded, &secrets);
        for piece in pieces {
            masking.write(OutputStream::Stdout, piece.as_bytes());
        }
        masking.finish();
        String::from_utf8(recorded.0.into_inner().unwrap()).unwrap()
    }

    #[test]
    fn secrets_are_hidden_wherever_the_output_is_cut() {
        let text = "a sesame b ses sesames";
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            assert_eq!(masked(&["sesame"], &[a, b]), "a *** b ses ***s", "{cut}");
        }
        let single: Vec<String> = text.chars().map(|c| c.to_string()).collect();
        let single: Vec<&str> = single.iter().map(String::as_str).collect();
        assert_eq!(masked(&["sesame"], &single), "a *** b ses ***s");
    }

    #[test]
    fn line_ends_and_longer_secrets() {
        assert_eq!(masked(&["sesame\n"], &["x=sesame."]), "x=***.");
        assert_eq!(
            masked(&["sesame\r\n"], &["sesame\nline1 abc\r\nsesame\r\n"]),
            "***\nline1 abc\r\n***\r\n"
        );
        assert_eq!(masked(&["abc", "abcd"], &["abc", "d abc", "e"]), "*** ***e");
        assert_eq!(masked(&["abc", "abcdef", "abcx", "b"], &["abcde abcdefg ab"]), "***de ***g ab");
        assert_eq!(masked(&[], &["a", "b"]), "ab");
        assert_eq!(masked(&["aab"], &["aaab"]), "a***");
    }

    #[test]
    fn what_is_too_short_is_shown() {
        assert_eq!(masked(&["", "\n", " \t\r\n", "a", "1\n", "an"], &["banana 1\n"]), "banana 1\n");
        let shown = ["", "\n", "a", "a\n", "ab\n", "abc"].map(|secret| is_shown(secret.as_bytes()));
        assert_eq!(shown, [false, false, true, true, true, false]);
    }

    #[test]
    fn lines_of_a_secret_are_hidden_alone() {
        let npmrc = "registry=r.example\n  //r.example/:_authToken=sesame\r\n{\n\nlast=open sesame\n";
        assert_eq!(masked(&[npmrc], &["//r.example/:_authToken=ses", "ame\n{\n"]), "***\n{\n");
        assert_eq!(masked(&[npmrc], &["<", npmrc, ">"]), "<***\n>");
        assert_eq!(masked(&[npmrc], &["registry=r.example\nother\n"]), "***\nother\n");
    }

    /// Against what is meant, without an index: the longest text that is at a place, from left to right.
    #[test]
    fn many_texts_are_found_as_if_tried_one_by_one() {
        let mut state = 1_u32;
        let mut draw = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        for _ in 0..2000 {
            let mut word = |most: u32| -> String {
                (0..3 + draw(most)).map(|_| char::from(b'a' + draw(2) as u8)).collect()
            };
            let secrets: Vec<String> = (0..6).map(|_| word(4)).collect();
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let text = word(30);
            let (mut expected, mut at) = (String::new(), 0);
            while at < text.len() {
                let found =
                    secrets.iter().filter(|secret| text[at..].starts_with(**secret)).max_by_key(|s| s.len());
                expected.push_str(found.map_or(&text[at..=at], |_| "***"));
                at += found.map_or(1, |secret| secret.len());
            }
            let cut = text.len() / 2;
            assert_eq!(masked(&secrets, &[&text[..cut], &text[cut..]]), expected, "{secrets:?} in {text}");
        }
    }
}
