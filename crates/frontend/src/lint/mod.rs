//! Build checks, under BuildKit's names (`frontend/dockerfile/linter/ruleset.go`), and the options that switch them off.

mod catalogue;
mod file;
pub(crate) mod rules;

pub use catalogue::{Rule, rule, rules};
pub(crate) use file::check_file;

use std::borrow::Cow;
use std::collections::BTreeSet;

use parser::{Comment, Diagnostic, Dockerfile, Span};

use crate::Options;

/// The rules that are off unless asked for.
const EXPERIMENTAL: [&str; 1] = ["InvalidDefinitionDescription"];

/// The rules that upstream does not have: a build that it accepts with `error=true` is not to fail here.
pub(crate) const OWN: [&str; 2] = ["EmptyCopySource", "MalformedJSONArgs"];

/// `skip=A,B|all;error=true;experimental=A,B|all`, from `# check=` and `BUILDKIT_DOCKERFILE_CHECK`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    skip_all: bool,
    skip: BTreeSet<String>,
    experimental_all: bool,
    experimental: BTreeSet<String>,
    /// Whether a violation fails the build.
    pub(crate) error: bool,
}

impl Checks {
    /// The options of a whole file. The build argument replaces the directive.
    ///
    /// # Errors
    /// Options that do not exist.
    pub fn new(dockerfile: &Dockerfile, options: &Options) -> Result<Self, Box<Diagnostic>> {
        if let Some(text) = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK") {
            return Self::parse(text).map_err(|message| {
                let message = format!("in the build argument BUILDKIT_DOCKERFILE_CHECK: {message}");
                Box::new(Diagnostic::error(Span::default(), message))
            });
        }
        match &dockerfile.directives.check {
            Some(text) => {
                Self::parse(text).map_err(|message| Box::new(Diagnostic::error(text.span, message)))
            }
            None => Ok(Self::default()),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut checks = Self::default();
        for part in text.trim().splitn(3, ';').filter(|_| !text.trim().is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("invalid check option `{part}`"))?;
            match (key.trim(), value.trim()) {
                ("skip", "all") => checks.skip_all = true,
                ("skip", rules) => checks.skip.extend(rules.split(',').map(|rule| rule.trim().to_owned())),
                ("experimental", "all") => checks.experimental_all = true,
                ("experimental", rules) => {
                    checks.experimental.extend(rules.split(',').map(|rule| rule.trim().to_owned()));
                }
                ("error", value) => {
                    let error = parser::parse_bool(value);
                    checks.error = error.ok_or_else(|| format!("`error={value}`: expected true or false"))?;
                }
                (key, _) => {
                    return Err(format!(
                        "invalid check option `{key}`: there are skip, error and experimental"
                    ));
                }
            }
        }
        Ok(checks)
    }

    /// These and what `# check=` says in the comments above an instruction. Nonsense there is a comment like any other.
    pub fn with_comments(&self, comments: &[Comment]) -> Cow<'_, Self> {
        let directive = comments.iter().find_map(|comment| {
            let (key, value) = comment.text.split_once('=')?;
            key.trim().eq_ignore_ascii_case("check").then(|| value.trim())
        });
        let Some(text) = directive else { return Cow::Borrowed(self) };
        let Ok(more) = Self::parse(text.split(' ').next().unwrap_or_default()) else {
            return Cow::Borrowed(self);
        };
        let mut merged = self.clone();
        merged.skip_all |= more.skip_all;
        merged.skip.extend(more.skip);
        merged.experimental_all |= more.experimental_all;
        merged.experimental.extend(more.experimental);
        Cow::Owned(merged)
    }

    /// Whether a violation of `rule` is reported; what is no rule always is. `skip` means nothing to experimental rules, which are
    /// reported only where somebody asks for them.
    pub fn allow(&self, rule: Option<&str>) -> bool {
        match rule {
            None => true,
            Some(rule) if EXPERIMENTAL.contains(&rule) => {
                self.experimental_all || self.experimental.contains(rule)
            }
            Some(rule) => !self.skip_all && !self.skip.contains(rule),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let checks = Checks::parse("skip=A, B;error=true").unwrap();
        assert!(checks.error && !checks.allow(Some("A")) && !checks.allow(Some("B")));
        assert!(checks.allow(Some("C")) && checks.allow(None));
        let checks = Checks::parse("skip=all").unwrap();
        assert!(!checks.allow(Some("A")) && checks.allow(None));
        let name = Some("InvalidDefinitionDescription");
        for (text, allowed) in [
            ("", false),
            ("experimental=all;skip=all", true),
            ("skip=all;experimental=X, InvalidDefinitionDescription", true),
            ("experimental=X", false),
        ] {
            assert_eq!(Checks::parse(text).unwrap().allow(name), allowed, "{text}");
        }
        assert_eq!(Checks::parse(" ").unwrap(), Checks::default());
        for wrong in ["skip", "skipp=A", "error=perhaps"] {
            assert!(Checks::parse(wrong).is_err(), "{wrong}");
        }
    }
}
