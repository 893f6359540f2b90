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

/// Hides the exact bytes of secrets in the output of a process, also where they come in pieces.
pub(crate) struct Masking<'a> {
    sink: &'a dyn OutputSink,
    /// The longest first, so that a secret that begins with another is hidden whole.
    secrets: Vec<Vec<u8>>,
    /// Of standard output and standard error: what may turn out to be the beginning of a secret.
    held: [Mutex<Vec<u8>>; 2],
}

impl<'a> Masking<'a> {
    /// Of each secret also what is left without line ends behind it: that is what a shell's `$(cat …)` gives.
    pub(crate) fn new(sink: &'a dyn OutputSink, secrets: &[Vec<u8>]) -> Masking<'a> {
        let mut all: Vec<Vec<u8>> = secrets.to_vec();
        all.extend(secrets.iter().map(|secret| {
            let end = secret.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
            secret[..end].to_vec()
        }));
        all.retain(|secret| !secret.is_empty());
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        Masking { sink, secrets: all, held: Default::default() }
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
            let longer = |secret: &Vec<u8>| secret.len() > rest.len() && secret.starts_with(rest);
            if !complete && self.secrets.iter().any(longer) {
                return (out, rest.len());
            }
            match self.secrets.iter().find(|secret| rest.starts_with(secret)) {
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

impl OutputSink for Masking<'_> {
    fn write(&self, stream: OutputStream, bytes: &[u8]) {
        if self.secrets.is_empty() {
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
        assert_eq!(masked(&["ab", "abc"], &["ab", "c ab", "d"]), "*** ***d");
        assert_eq!(masked(&["", "\n"], &["a\nb\n"]), "a***b***");
        assert_eq!(masked(&[], &["a", "b"]), "ab");
        assert_eq!(masked(&["aab"], &["aaab"]), "a***");
    }
}
