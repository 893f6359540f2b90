//! One file a command; its doc comment is the help text.

pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod compare;
pub(crate) mod du;
pub(crate) mod explain;
pub(crate) mod graph;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod info;
pub(crate) mod parse;
pub(crate) mod prune;
pub(crate) mod run;

use hash::Digest;
use image::Reference;

/// The name under which an image without a name is kept: its id, read as a name. So `builder run sha256:…` finds it as it
/// finds any other.
fn id_name(id: &Digest) -> Reference {
    Reference {
        registry: "docker.io".to_owned(),
        repository: "library/sha256".to_owned(),
        tag: Some(id.hex()),
        digest: None,
    }
}

/// Whether a name is one of [`id_name`].
fn is_id_name(name: &Reference) -> bool {
    let is_hex = |tag: &String| tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.registry == "docker.io"
        && name.repository == "library/sha256"
        && name.tag.as_ref().is_some_and(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_as_its_own_name() {
        let id = Digest::of(b"config");
        let name: Reference = id.to_string().parse().unwrap();
        assert_eq!(name, id_name(&id));
        assert!(is_id_name(&name));
        assert!(!is_id_name(&"sha256:latest".parse().unwrap()));
    }
}
