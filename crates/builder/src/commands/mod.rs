//! One file a command; its doc comment is the help text.

mod as_json;
pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod compare;
pub(crate) mod completion;
pub(crate) mod debug;
pub(crate) mod dns;
pub(crate) mod du;
mod du_by;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod filter;
pub(crate) mod fsck;
pub(crate) mod graph;
pub(crate) mod history;
pub(crate) mod image_group;
pub(crate) mod image_history;
pub(crate) mod images;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logout;
mod made;
pub(crate) mod man;
pub(crate) mod parse;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod referrers;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
mod stored;
pub(crate) mod tag;
mod told;
pub(crate) mod verify;

use std::path::Path;
use std::time::Duration;

use exporter::Output;
use hash::Digest;
use image::Reference;

use crate::failure::Failure;

/// Where an archive goes: a file, or standard output, which must not be a terminal.
fn archive_output(path: Option<&Path>) -> Result<Output, Failure> {
    match path {
        Some(path) if path != Path::new("-") => Ok(Output::File(path.to_owned())),
        _ if std::io::IsTerminal::is_terminal(&std::io::stdout()) => {
            Err(Failure::usage("refusing to write an archive to the terminal")
                .hint("redirect standard output, or give -o FILE"))
        }
        _ => Ok(Output::Stream(std::sync::Arc::new(std::sync::Mutex::new(std::io::stdout())))),
    }
}

/// How the writing of an archive is told. Where the archive itself goes to standard output, there is no place for that.
fn told_beside_archive(told: &told::Told, path: Option<&Path>) -> Result<told::Form, Failure> {
    let form = told.form(&["Name", "ID", "Platform", "File"])?;
    match (&form, path) {
        (told::Form::Words, _) => Ok(form),
        (_, Some(path)) if path != Path::new("-") => Ok(form),
        _ => Err(Failure::usage("--format and --json need -o FILE: standard output is for the archive")),
    }
}

/// How long the writer of an archive that was interrupted has to remove what there is of it; one that writes to a pipe may wait for its reader.
const TIDY_TIME: Duration = Duration::from_secs(3);

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
pub(crate) fn is_id_name(name: &Reference) -> bool {
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
