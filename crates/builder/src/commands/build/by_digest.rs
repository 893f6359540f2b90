//! `dangling-name-prefix` of an output: the name `PREFIX@DIGEST` (BuildKit, `exporter/containerimage/export.go`).

use hash::Digest;
use image::Reference;

use super::output::has_tag;

/// The attribute that has the prefix.
pub(super) const PREFIX: &str = "dangling-name-prefix";
/// The attribute that says who gets such a name, as upstream spells it.
pub(super) const ONLY_NAMELESS: &str = "danging-name-empty-only";

/// A name that the digest is a part of: nothing that is built later takes it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameByDigest {
    /// None where the prefix is `<none>`: an image without any name.
    prefix: Option<Reference>,
    /// Whether only images get it that have no other.
    only_nameless: bool,
}

impl NameByDigest {
    /// An empty prefix is none.
    pub(super) fn new(prefix: &str, only_nameless: bool) -> Result<Option<NameByDigest>, String> {
        let prefix = match prefix {
            "" => return Ok(None),
            // What nerdctl gives.
            "<none>" => None,
            tagged if has_tag(tagged) => {
                return Err(format!("{PREFIX}={tagged}: the digest comes in place of a tag"));
            }
            name => Some(name.parse().map_err(|error| format!("{PREFIX}={name}: {error}"))?),
        };
        Ok(Some(NameByDigest { prefix, only_nameless }))
    }

    /// What an image is called by it, `is_nameless` where it has no other name.
    pub(super) fn of(&self, is_nameless: bool, digest: Digest) -> Option<Reference> {
        let prefix = self.prefix.as_ref().filter(|_| is_nameless || !self.only_nameless)?;
        Some(Reference { tag: None, digest: Some(digest), ..prefix.clone() })
    }

    /// Whether it is a name, and none is meant to be missing.
    pub(super) fn is_name(&self) -> bool {
        self.prefix.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::parse;
    use super::*;

    #[test]
    fn names() {
        let digest = Digest::of(b"image");
        let name = |text: &str, is_nameless| {
            let parsed = parse(text).unwrap();
            let by_digest = parsed.image_form().unwrap().by_digest.clone();
            by_digest.and_then(|by_digest| by_digest.of(is_nameless, digest)).map(|name| name.familiar())
        };
        let wanted = Some(format!("left/over@{digest}"));
        assert_eq!(name("type=image,dangling-name-prefix=left/over", true), wanted);
        assert_eq!(name("type=registry,name=a,dangling-name-prefix=left/over", false), wanted);
        let only = "type=image,dangling-name-prefix=left/over,danging-name-empty-only=true";
        assert_eq!((name(only, true), name(only, false)), (wanted, None));
        for none in [
            "type=image,dangling-name-prefix=<none>",
            "type=image,dangling-name-prefix=",
            "type=image,danging-name-empty-only=true",
            "type=docker,dest=x,dangling-name-prefix=left/over",
        ] {
            assert_eq!(name(none, true), None, "{none}");
        }
    }
}
