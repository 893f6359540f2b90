//! `--filter` of `du` and `prune`, as upstream has it.

use std::time::{Duration, SystemTime};

use cache::CachePart;

use super::build::duration;

/// One `--filter`: what must be so, or with `!=` must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    test: Test,
    negated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    /// Not used for so long.
    Until(Duration),
    /// The id. Upstream's are long, and a part of one is enough there; here that would mean others as well.
    Id(String),
    /// Part of the id.
    IdPart(String),
    /// Upstream's word.
    Type(String),
    /// Part of the step.
    Description(String),
    /// A layer directly below.
    Parent(String),
    InUse,
    Shared,
    Private,
    Mutable,
    Immutable,
}

const KNOWN: &str =
    "until, unused-for, id, type, description, parents, inuse, shared, private, mutable and immutable";

/// Upstream's words for what is in a cache. Of the last three nothing is here: they match nothing.
const TYPES: [&str; 6] =
    ["regular", "exec.cachemount", "source.git.checkout", "source.local", "frontend", "internal"];

/// Reads `KEY=VALUE`, `KEY==VALUE`, `KEY~=VALUE` for a part, `KEY!=VALUE`, or `KEY` for what is so or not.
pub(crate) fn parse(text: &str) -> Result<Filter, String> {
    let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
    let (key, negated) = key.strip_suffix('!').map_or((key, false), |key| (key, true));
    let (key, is_part) = key.strip_suffix('~').map_or((key, false), |key| (key, true));
    let value = value.map(|value| value.strip_prefix('=').unwrap_or(value));
    let given = || value.map(str::to_owned).ok_or_else(|| format!("expected {key}=VALUE"));
    let test = match key {
        "until" | "unused-for" => Test::Until(duration(&given()?)?),
        "id" if is_part => Test::IdPart(given()?),
        "id" => Test::Id(given()?),
        "type" => match given()? {
            kind if TYPES.contains(&&*kind) => Test::Type(kind),
            other => return Err(format!("there is no type `{other}`; known are {}", TYPES.join(", "))),
        },
        "description" => Test::Description(given()?),
        "parents" | "parent" => Test::Parent(given()?),
        "inuse" => Test::InUse,
        "shared" => Test::Shared,
        "private" => Test::Private,
        "mutable" => Test::Mutable,
        "immutable" => Test::Immutable,
        _ => return Err(format!("there is no filter `{key}`; known are {KNOWN}")),
    };
    let is_flag =
        matches!(test, Test::InUse | Test::Shared | Test::Private | Test::Mutable | Test::Immutable);
    let opposite = match (is_flag, value) {
        (false, _) | (true, None | Some("true" | "1")) => false,
        (true, Some("false" | "0")) => true,
        (true, Some(other)) => return Err(format!("{key}={other}: expected true or false")),
    };
    Ok(Filter { test, negated: negated != opposite })
}

impl Filter {
    /// Whether a part of the cache is meant.
    pub(crate) fn matches(&self, part: &CachePart, now: SystemTime) -> bool {
        let is_mutable = matches!(part.kind, cache::CacheKind::Mount | cache::CacheKind::Repository);
        let so = match &self.test {
            Test::Until(time) => now.duration_since(part.last_used).unwrap_or_default() >= *time,
            Test::Id(id) => part.id == *id,
            Test::IdPart(text) => part.id.contains(text),
            Test::Type(kind) => part.kind.upstream() == kind,
            Test::Description(text) => part.description.contains(text),
            Test::Parent(id) => part.parents.contains(id),
            Test::InUse => part.in_use,
            Test::Shared => part.shared,
            Test::Private => !part.shared,
            Test::Mutable => is_mutable,
            Test::Immutable => !is_mutable,
        };
        so != self.negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_upstream_has() {
        for text in ["until=24h", "id=12", "type=exec.cachemount", "type!=regular", "inuse", "shared=false"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        assert_eq!(parse("description~=npm"), parse("description=npm"));
        assert_eq!(parse("inuse=false"), parse("inuse!=true"));
        assert_eq!(parse("id==12"), parse("id=12"));
        assert_ne!(parse("id~=12"), parse("id=12"));
        for (text, words) in [
            ("label=x", "there is no filter `label`"),
            ("type=layer", "there is no type `layer`; known are regular"),
            ("until=soon", "is not a duration"),
            ("id", "expected id=VALUE"),
            ("shared=maybe", "expected true or false"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}
