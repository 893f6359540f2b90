use std::fmt;
use std::str::FromStr;

use hash::Digest;

/// The name of an image: `[registry/]repository[:tag][@digest]`, as Docker reads it (distribution/reference).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `docker.io` when the text names none.
    pub registry: String,
    /// With `library/` in front for Docker's official images.
    pub repository: String,
    /// `latest` when the text has neither tag nor digest.
    pub tag: Option<String>,
    /// Wins over the tag.
    pub digest: Option<Digest>,
}

/// A text is not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image name `{text}`: {reason}")]
pub struct ParseReferenceError {
    text: String,
    reason: &'static str,
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| ParseReferenceError { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hexadecimal digits are an image id, not a name");
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => {
            (name, Some(digest.parse().map_err(|_| "the digest is not sha256:<64 hex digits>")?))
        }
        None => (text, None),
    };
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
        _ => (name, None),
    };
    if tag.as_deref().is_some_and(|tag| !valid_tag(tag)) {
        return Err("the tag has letters, digits, `_`, `.` and `-` only, 128 at most");
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first != first.to_lowercase() =>
        {
            (first, rest)
        }
        _ => ("docker.io", name),
    };
    if !valid_registry(registry) {
        return Err("the registry is not a host name or address with an optional port");
    }
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("the repository must be lower case");
    }
    if path.is_empty() || !path.split('/').all(valid_component) {
        return Err("expected [registry/]repository[:tag][@digest]");
    }
    let official = registry == "docker.io" && !path.contains('/');
    let repository = if official { format!("library/{path}") } else { path.to_owned() };
    if repository.len() > 255 {
        return Err("the repository is longer than 255 characters");
    }
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// `host[:port]`, where the host is a domain name or an IPv6 address in brackets.
fn valid_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// `[a-z0-9]+` parts joined by `.`, `_`, `__` or any number of `-`.
fn valid_component(component: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
        return false;
    }
    bytes
        .split(alphanumeric)
        .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

impl Reference {
    /// The short form that people type: without `docker.io/` and, for official images, without `library/`.
    pub fn familiar(&self) -> String {
        let text = self.to_string();
        let Some(text) = text.strip_prefix("docker.io/") else { return text };
        match text.strip_prefix("library/") {
            Some(official) if !self.repository["library/".len()..].contains('/') => official.to_owned(),
            _ => text.to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "7cc4b5aefd1d0cadf8d97d4350462ba51c694ebca145b08d7d41b41acc8db5aa";

    #[test]
    fn normalises_names_as_docker_does() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("a/b/c", "docker.io/a/b/c:latest", "a/b/c:latest"),
            ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
            // Without a slash it is a name and a tag, as upstream.
            ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
            ("[::1]:5000/x:t", "[::1]:5000/x:t", "[::1]:5000/x:t"),
            ("[2001:db8::1]/x", "[2001:db8::1]/x:latest", "[2001:db8::1]/x:latest"),
            ("Host/x", "Host/x:latest", "Host/x:latest"),
            ("r.io/a__b/c.d/e---f:V1_x", "r.io/a__b/c.d/e---f:V1_x", "r.io/a__b/c.d/e---f:V1_x"),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(full.parse(), Ok(reference), "{text}");
        }
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let text = format!("busybox@sha256:{HEX}");
        let reference: Reference = text.parse().unwrap();
        assert_eq!((reference.tag.as_deref(), reference.digest.is_some()), (None, true));
        let both: Reference = format!("busybox:1@sha256:{HEX}").parse().unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/busybox:1@sha256:{HEX}"));
    }

    #[test]
    fn refuses_what_docker_refuses() {
        let long = "a".repeat(256);
        let tag = format!("x:{}", "t".repeat(129));
        for text in [
            "",
            ":",
            "/",
            "a/",
            "/a",
            "a//b",
            "Busybox",
            "r.io/A",
            "a:",
            "a:b:c",
            "a:-x",
            "a:.x",
            "a@sha256:00",
            "a@md5:x",
            "-a",
            "a-",
            "a_",
            "a___b",
            "a..b",
            "a._b",
            "a b",
            "r_.io/a:5/b",
            "r..io/a",
            "-r.io/a",
            "r.io:/a",
            "r.io:x/a",
            "[zz]/a",
            "ä",
            "https://r.io/a",
            HEX,
            &long,
            &tag,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
