//! `--output`: where a result goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One `-o`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// An OCI layout, as a directory or a tar file.
    Oci { dest: Dest, tar: bool, names: Vec<String> },
    /// An archive for `docker load`.
    Docker { dest: Dest, names: Vec<String> },
    /// The file tree in a directory.
    Local { dest: PathBuf },
    /// The file tree as a tar.
    Tar { dest: Dest },
    /// The local image store, as `-t` does.
    Image { names: Vec<String> },
}

/// A file, or standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dest {
    /// `-`.
    Stdout,
    /// Anything else.
    Path(PathBuf),
}

impl Output {
    /// The file or directory that it writes, and whether that is a directory.
    pub(super) fn destination(&self) -> Option<(&Path, bool)> {
        match self {
            Output::Oci { dest: Dest::Path(path), tar, .. } => Some((path, !tar)),
            Output::Local { dest } => Some((dest, true)),
            Output::Docker { dest: Dest::Path(path), .. } | Output::Tar { dest: Dest::Path(path) } => {
                Some((path, false))
            }
            _ => None,
        }
    }

    /// Whether it writes to standard output.
    pub(crate) fn uses_stdout(&self) -> bool {
        matches!(
            self,
            Output::Oci { dest: Dest::Stdout, .. }
                | Output::Docker { dest: Dest::Stdout, .. }
                | Output::Tar { dest: Dest::Stdout }
        )
    }
}

/// Parses the value of `--output`: `type=…,key=value,…`, a directory (`type=local`), or `-` (`type=tar` on standard output).
pub(crate) fn parse(text: &str) -> Result<Output, String> {
    if text == "-" {
        return Ok(Output::Tar { dest: Dest::Stdout });
    }
    let fields = fields(text)?;
    if !fields.iter().any(|field| field.contains('=')) {
        return Ok(Output::Local { dest: PathBuf::from(text) });
    }
    let mut attributes = BTreeMap::new();
    for field in &fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("`{field}` is not key=value"));
        };
        let key = key.trim().to_lowercase();
        if attributes.insert(key.clone(), value.to_owned()).is_some() {
            return Err(format!("`{key}` is given twice"));
        }
    }
    let Some(kind) = attributes.remove("type") else {
        return Err("`type` is missing: one of oci, docker, local, tar, image".to_owned());
    };
    let output = output(&kind, &mut attributes)?;
    match attributes.keys().next() {
        None => Ok(output),
        Some(key) => Err(format!("attribute `{key}` of type={kind} is not supported yet")),
    }
}

fn output(kind: &str, attributes: &mut BTreeMap<String, String>) -> Result<Output, String> {
    let names = |attributes: &mut BTreeMap<String, String>| -> Vec<String> {
        let names = attributes.remove("name").unwrap_or_default();
        names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let given = attributes.remove("dest");
    let has_dest = given.is_some();
    let dest = || match given {
        Some(dest) if dest == "-" => Ok(Dest::Stdout),
        Some(dest) if !dest.is_empty() => Ok(Dest::Path(PathBuf::from(dest))),
        _ if kind == "local" => Err("type=local needs dest=DIRECTORY".to_owned()),
        _ => Err(format!("type={kind} needs dest=PATH, or dest=- for standard output")),
    };
    match kind {
        "oci" => {
            let dest = dest()?;
            let tar = boolean(attributes.remove("tar").as_deref(), "tar", true)?;
            if !tar && dest == Dest::Stdout {
                return Err("tar=false writes a directory: give dest=DIRECTORY".to_owned());
            }
            Ok(Output::Oci { dest, tar, names: names(attributes) })
        }
        "docker" => match has_dest {
            true => Ok(Output::Docker { dest: dest()?, names: names(attributes) }),
            false => Err("type=docker needs dest=FILE: loading into a daemon is not supported yet; \
                          use `docker load -i FILE`"
                .to_owned()),
        },
        "local" => match dest()? {
            Dest::Path(dest) => Ok(Output::Local { dest }),
            Dest::Stdout => {
                Err("type=local writes a directory; for standard output use type=tar,dest=-".to_owned())
            }
        },
        // As upstream: standard output is the default here.
        "tar" if !has_dest => Ok(Output::Tar { dest: Dest::Stdout }),
        "tar" => Ok(Output::Tar { dest: dest()? }),
        "image" => {
            let names = names(attributes);
            if boolean(attributes.remove("push").as_deref(), "push", false)? {
                return Err("push=true is not supported yet".to_owned());
            }
            match names.is_empty() {
                true => Err("type=image needs name=NAME".to_owned()),
                false => Ok(Output::Image { names }),
            }
        }
        "registry" => Err("type=registry is not supported yet".to_owned()),
        "cacheonly" => Err("type=cacheonly is what happens without -o and -t: leave it out".to_owned()),
        _ => Err(format!("unknown type `{kind}`: one of oci, docker, local, tar, image")),
    }
}

fn boolean(value: Option<&str>, key: &str, default: bool) -> Result<bool, String> {
    match value {
        None => Ok(default),
        // Go's strconv.ParseBool, which upstream uses.
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(format!("{key}={other}: expected true or false")),
    }
}

/// The fields of one line of CSV: `"name=a,b",dest=x` has two.
pub(super) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut records = reader.records();
    match (records.next(), records.next()) {
        (Some(Ok(record)), None) => Ok(record.iter().map(str::to_owned).collect()),
        (None, _) => Err("the value is empty".to_owned()),
        _ => Err(format!("`{text}` is not one line of comma-separated values")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_forms() {
        let path = |text: &str| Dest::Path(PathBuf::from(text));
        assert_eq!(parse("-"), Ok(Output::Tar { dest: Dest::Stdout }));
        assert_eq!(parse("out/dir"), Ok(Output::Local { dest: "out/dir".into() }));
        assert_eq!(parse("type=tar"), Ok(Output::Tar { dest: Dest::Stdout }));
        assert_eq!(
            parse("type=oci,dest=a.tar"),
            Ok(Output::Oci { dest: path("a.tar"), tar: true, names: vec![] })
        );
        assert_eq!(
            parse("type=oci,dest=a,tar=false,\"name=x,y\""),
            Ok(Output::Oci { dest: path("a"), tar: false, names: vec!["x".into(), "y".into()] })
        );
        assert_eq!(parse("type=docker,dest=-"), Ok(Output::Docker { dest: Dest::Stdout, names: vec![] }));
        assert_eq!(parse("type=image,name=app"), Ok(Output::Image { names: vec!["app".into()] }));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("type=zip,dest=x", "unknown type `zip`"),
            ("dest=x", "`type` is missing"),
            ("type=oci", "needs dest="),
            ("type=docker", "docker load"),
            ("type=oci,dest=x,compression=zstd", "`compression` of type=oci is not supported yet"),
            ("type=oci,dest=x,dest=y", "given twice"),
            ("type=oci,dest=-,tar=false", "directory"),
            ("type=oci,dest=x,tar=maybe", "expected true or false"),
            ("type=registry,name=x", "type=registry is not supported yet"),
            ("type=oci,dest", "not key=value"),
            ("", "empty"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
