//! Values that must not be written down where somebody may read them.

use std::borrow::Cow;
use std::sync::Arc;

use hash::StableHasher;

use crate::parts::short;
use crate::{Definition, Mount, MountKind, Op};

/// Whether a variable's name says that nobody should read its value.
pub fn is_secret_like(name: &str) -> bool {
    const WORDS: [&str; 8] =
        ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "APIKEY", "PRIVATE"];
    // Every name of every environment is asked about: nothing is written for those that need no other letters.
    let name = if name.is_ascii() { Cow::Borrowed(name) } else { Cow::Owned(name.to_uppercase()) };
    // Where an agent listens is no secret, and stands in texts of mounts.
    if name.eq_ignore_ascii_case("SSH_AUTH_SOCK") {
        return false;
    }
    let bytes = name.as_bytes();
    let is =
        |part: Option<&[u8]>, word: &str| part.is_some_and(|part| part.eq_ignore_ascii_case(word.as_bytes()));
    let begins = |byte: u8| matches!(byte.to_ascii_uppercase(), b'S' | b'T' | b'P' | b'C' | b'A');
    let starts = (0..bytes.len()).filter(|at| begins(bytes[*at]));
    starts
        .flat_map(|at| WORDS.map(|word| (at, word)))
        .any(|(at, word)| is(bytes.get(at..at + word.len()), word))
        || bytes
            .split(|byte| *byte == b'_')
            .any(|part| ["KEY", "PASS", "AUTH", "PWD"].iter().any(|word| is(Some(part), word)))
}

/// Shorter values are not looked for in texts, in bytes: they are part of too many words.
const SHORTEST: usize = 4;

/// Whether a variable's value is to be looked for in texts: it should not be read, and is not just a word of every language.
pub(crate) fn is_worth_hiding(name: &str, value: &str) -> bool {
    const SWITCHES: [&str; 4] = ["true", "false", "none", "null"];
    value.len() >= SHORTEST
        && !SWITCHES.iter().any(|word| value.eq_ignore_ascii_case(word))
        && is_secret_like(name)
}

/// What stands for a value.
const STARS: &str = "***";

/// The values of a build's variables that have a secret-like name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretValues {
    /// The longest first: one may be part of another.
    values: Vec<String>,
}

impl SecretValues {
    /// Those that steps get, and those that went into what they do.
    pub fn of(definition: &Definition) -> SecretValues {
        let mut values: Vec<String> = definition.hidden().iter().cloned().collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        SecretValues { values }
    }

    /// Whether one of them stands in a text.
    pub fn are_in(&self, text: &str) -> bool {
        self.values.iter().any(|value| text.contains(value.as_str()))
    }

    /// The text with stars in their place.
    pub fn conceal<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.are_in(text) {
            return Cow::Borrowed(text);
        }
        let concealed =
            self.values.iter().fold(text.to_owned(), |text, value| text.replace(value.as_str(), STARS));
        Cow::Owned(concealed)
    }
}

/// Gives cache mounts whose id has such a value in it another id, without it: a mount's id is kept and shown. Of different values come
/// different ids; `secret` is what they are hashed with ([`crate::Naming`]), and asked for where there is something to hide. Ids are in no
/// key.
///
/// # Errors
/// Those of `secret`.
pub fn hide_cache_mounts<E>(
    definition: &mut Arc<Definition>,
    secret: impl FnOnce() -> Result<[u8; 32], E>,
) -> Result<(), E> {
    let any = |wanted: &dyn Fn(&Mount) -> bool| {
        let has_one = |op: &Op| matches!(op, Op::Exec(exec) if exec.mounts.iter().any(wanted));
        definition.iter().any(|(_, vertex)| has_one(&vertex.op))
    };
    // Most builds have no such mount; what is secret in them need not be looked for.
    if !any(&|mount| matches!(mount.kind, MountKind::Cache(_))) {
        return Ok(());
    }
    let hidden = SecretValues::of(definition);
    let has_value =
        |mount: &Mount| matches!(&mount.kind, MountKind::Cache(cache) if hidden.are_in(&cache.id));
    if !any(&has_value) {
        return Ok(());
    }
    let secret = secret()?;
    for op in Arc::make_mut(definition).operations() {
        let Op::Exec(exec) = op else { continue };
        for mount in exec.mounts.iter_mut().filter(|mount| has_value(mount)) {
            let MountKind::Cache(cache) = &mut mount.kind else { continue };
            let hash = StableHasher::new("cache-mount-v1").with(&secret).with(&cache.id);
            cache.id = format!("{}-{}", hidden.conceal(&cache.id), short(hash));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names() {
        for name in ["NPM_TOKEN", "AWS_SECRET_ACCESS_KEY", "password", "API_KEY", "GH_PASS", "BASIC_AUTH"] {
            assert!(is_secret_like(name), "{name}");
        }
        for name in ["PATH", "SSH_AUTH_SOCK", "MONKEY", "GIT_SHA", "COMPASS", "KEYBOARD", "AUTHOR"] {
            assert!(!is_secret_like(name), "{name}");
        }
    }

    #[test]
    fn values_that_no_process_gets_are_hidden_and_switches_are_not() {
        let mut definition = Definition::default();
        for variable in [("A_TOKEN", "hunter22"), ("A", "plain"), ("TOKENIZERS_PARALLELISM", "false")] {
            definition.hide(variable);
        }
        assert_eq!(SecretValues::of(&definition).conceal("hunter22 plain false"), "*** plain false");
    }

    #[test]
    fn longer_values_are_hidden_as_a_whole() {
        let values = SecretValues { values: vec!["hunter22".to_owned(), "hunter".to_owned()] };
        assert_eq!(values.conceal("RUN a hunter22 hunter"), "RUN a *** ***");
        assert_eq!(values.conceal("RUN a"), "RUN a");
    }
}
