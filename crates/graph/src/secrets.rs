//! Values that must not be written down where somebody may read them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::{Definition, Op};

/// Whether a variable's name says that nobody should read its value.
pub fn is_secret_like(name: &str) -> bool {
    const WORDS: [&str; 8] =
        ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "APIKEY", "PRIVATE"];
    let name = name.to_uppercase();
    WORDS.iter().any(|word| name.contains(word))
        || name.split('_').any(|word| matches!(word, "KEY" | "PASS" | "AUTH" | "PWD"))
}

/// Shorter values are not looked for in texts, in bytes: they are part of too many words.
const SHORTEST: usize = 4;

/// What stands for a value.
const STARS: &str = "***";

/// The values of a build's variables that have a secret-like name.
#[derive(Debug, Clone, Default)]
pub struct SecretValues {
    /// The longest first: one may be part of another.
    values: Vec<String>,
}

impl SecretValues {
    /// Those that steps get.
    pub fn of(definition: &Definition) -> SecretValues {
        let mut values = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for (_, vertex) in definition.iter() {
            let Op::Exec(exec) = &vertex.op else { continue };
            // Thousands of steps may share an environment.
            if !seen.insert(exec.env.as_ptr() as usize) {
                continue;
            }
            let secret = exec.env.iter().filter(|(name, _)| is_secret_like(name));
            values.extend(secret.map(|(_, value)| value.clone()).filter(|value| value.len() >= SHORTEST));
        }
        let mut values: Vec<String> = values.into_iter().collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        SecretValues { values }
    }

    /// Whether one of them stands in a text.
    pub fn are_in(&self, text: &str) -> bool {
        self.values.iter().any(|value| text.contains(value.as_str()))
    }

    /// The text with stars in their place: names of steps have variables expanded.
    pub fn conceal<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.are_in(text) {
            return Cow::Borrowed(text);
        }
        let concealed =
            self.values.iter().fold(text.to_owned(), |text, value| text.replace(value.as_str(), STARS));
        Cow::Owned(concealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names() {
        for name in ["NPM_TOKEN", "AWS_SECRET_ACCESS_KEY", "password", "API_KEY", "GH_PASS", "BASIC_AUTH"] {
            assert!(is_secret_like(name), "{name}");
        }
        for name in ["PATH", "MONKEY", "GIT_SHA", "COMPASS", "KEYBOARD", "AUTHOR"] {
            assert!(!is_secret_like(name), "{name}");
        }
    }

    #[test]
    fn longer_values_are_hidden_as_a_whole() {
        let values = SecretValues { values: vec!["hunter22".to_owned(), "hunter".to_owned()] };
        assert_eq!(values.conceal("RUN a hunter22 hunter"), "RUN a *** ***");
        assert_eq!(values.conceal("RUN a"), "RUN a");
    }
}
