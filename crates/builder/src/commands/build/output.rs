//! `--output`: where a result goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use exporter::{Annotations, DirectoryMode};
use image::{Compression, MediaTypes};
use worker::LayerForm;

use super::annotation;
use super::by_digest::{self, NameByDigest};

/// One `-o`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// An OCI layout, as a directory or a tar file.
    Oci { dest: Dest, tar: bool, form: ImageForm },
    /// An archive for `docker load`.
    Docker { dest: Dest, form: ImageForm },
    /// A Docker daemon: that of a context when one is named.
    Daemon { context: Option<String>, form: ImageForm },
    /// The file tree in a directory.
    Local { dest: PathBuf, mode: DirectoryMode, form: TreeForm },
    /// The file tree as a tar.
    Tar { dest: Dest, form: TreeForm },
    /// The local image store, as `-t` does, a registry, or both.
    Image { push: Option<PushForm>, keep: bool, form: ImageForm },
}

/// How an image is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageForm {
    /// Instead of those of `-t`.
    pub(crate) names: Vec<String>,
    /// A further one, of which the digest is a part.
    pub(crate) by_digest: Option<NameByDigest>,
    pub(crate) compression: Compression,
    pub(crate) level: Option<u32>,
    /// Whether the base image's layers are compressed so as well.
    pub(crate) force: bool,
    /// Else those that the format has by itself.
    pub(crate) types: Option<MediaTypes>,
    pub(crate) annotations: Annotations,
    /// Whether `SOURCE_DATE_EPOCH` reaches the times in layers.
    pub(crate) rewrite: bool,
    /// Instead of the build's.
    pub(crate) epoch: Epoch,
}

impl Default for ImageForm {
    fn default() -> ImageForm {
        ImageForm {
            names: Vec::new(),
            by_digest: None,
            compression: Compression::Gzip,
            level: None,
            force: false,
            types: None,
            annotations: Annotations::default(),
            rewrite: true,
            epoch: Epoch::OfBuild,
        }
    }
}

impl ImageForm {
    /// What decides about the bytes of the layers that a build makes; `built` is its `SOURCE_DATE_EPOCH`.
    pub(super) fn of_layers(&self, built: Option<i64>) -> LayerForm {
        let epoch = self.epoch.or(built).filter(|_| self.rewrite);
        LayerForm { compression: self.compression, level: self.level, epoch }
    }
}

/// How a tree is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TreeForm {
    /// Whether each platform has a directory of its own; by itself when there are several.
    pub(crate) split: Option<bool>,
    pub(crate) epoch: Epoch,
}

/// `source-date-epoch` of one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Epoch {
    /// That of the build.
    #[default]
    OfBuild,
    /// None, or these seconds since 1970.
    Own(Option<i64>),
}

impl Epoch {
    /// The one that counts when the build's is `built`.
    pub(super) fn or(self, built: Option<i64>) -> Option<i64> {
        match self {
            Epoch::OfBuild => built,
            Epoch::Own(own) => own,
        }
    }
}

/// How an image is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PushForm {
    /// Without a tag.
    pub(crate) by_digest: bool,
    /// The registry's certificate is not verified, and plain HTTP will do.
    pub(crate) insecure: bool,
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
    /// What `--push` asks for.
    pub(super) fn registry() -> Output {
        Output::Image { push: Some(PushForm::default()), keep: false, form: ImageForm::default() }
    }

    /// What `--load` asks for.
    pub(super) fn daemon() -> Output {
        Output::Daemon { context: None, form: ImageForm::default() }
    }

    /// The file or directory that it writes, and whether that is a directory.
    pub(super) fn destination(&self) -> Option<(&Path, bool)> {
        match self {
            Output::Oci { dest: Dest::Path(path), tar, .. } => Some((path, !tar)),
            Output::Local { dest, .. } => Some((dest, true)),
            Output::Docker { dest: Dest::Path(path), .. } | Output::Tar { dest: Dest::Path(path), .. } => {
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
                | Output::Tar { dest: Dest::Stdout, .. }
        )
    }

    /// How it writes an image, when it writes one.
    pub(super) fn image_form(&self) -> Option<&ImageForm> {
        match self {
            Output::Oci { form, .. }
            | Output::Docker { form, .. }
            | Output::Daemon { form, .. }
            | Output::Image { form, .. } => Some(form),
            Output::Local { .. } | Output::Tar { .. } => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn image_form_mut(&mut self) -> Option<&mut ImageForm> {
        match self {
            Output::Oci { form, .. }
            | Output::Docker { form, .. }
            | Output::Daemon { form, .. }
            | Output::Image { form, .. } => Some(form),
            Output::Local { .. } | Output::Tar { .. } => None,
        }
    }
}

const NO_DIRECTORY: &str = "type=docker without dest loads into a daemon, which takes no directory: for one give dest=DIRECTORY \
                           with tar=false";
const NO_TAR: &str = "tar=false writes a directory: give dest=DIRECTORY";
const TYPES: &str = "one of image, registry, oci, docker, local, tar";

/// Parses the value of `--output`: `type=…,key=value,…`, a directory (`type=local`), or `-` (`type=tar` on standard output).
pub(crate) fn parse(text: &str) -> Result<Output, String> {
    if text == "-" {
        return Ok(Output::Tar { dest: Dest::Stdout, form: TreeForm::default() });
    }
    let fields = fields(text)?;
    if !fields.iter().any(|field| field.contains('=')) {
        let (mode, form) = (DirectoryMode::Copy, TreeForm::default());
        return Ok(Output::Local { dest: PathBuf::from(text), mode, form });
    }
    let mut attributes = Attributes::of(&fields)?;
    let Some(kind) = attributes.take("type") else {
        return Err(attributes.without_type(TYPES));
    };
    let output = output(&kind, &mut attributes)?;
    attributes.end(&kind)?;
    Ok(output)
}

fn output(kind: &str, attributes: &mut Attributes) -> Result<Output, String> {
    let given = attributes.take("dest");
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
            let tar = attributes.boolean("tar", true)?;
            if !tar && dest == Dest::Stdout {
                return Err(NO_TAR.to_owned());
            }
            Ok(Output::Oci { dest, tar, form: attributes.archive_form()? })
        }
        "docker" if has_dest => {
            let (dest, tar) = (dest()?, attributes.boolean("tar", true)?);
            let mut form = attributes.archive_form()?;
            match (tar, &dest) {
                (true, _) => Ok(Output::Docker { dest, form }),
                (false, Dest::Stdout) => Err(NO_TAR.to_owned()),
                // As upstream: a layout, with Docker's media types.
                (false, Dest::Path(_)) => {
                    form.types = form.types.or(match form.compression {
                        Compression::Zstd => None,
                        Compression::None | Compression::Gzip => Some(MediaTypes::Docker),
                    });
                    Ok(Output::Oci { dest, tar, form })
                }
            }
        }
        "docker" => {
            if !attributes.boolean("tar", true)? {
                return Err(NO_DIRECTORY.to_owned());
            }
            let context = attributes.take("context").filter(|context| !context.is_empty());
            Ok(Output::Daemon { context, form: attributes.archive_form()? })
        }
        "local" => match dest()? {
            Dest::Path(dest) => {
                let mode = match attributes.take("mode").as_deref() {
                    None | Some("" | "copy") => DirectoryMode::Copy,
                    Some("delete") => DirectoryMode::Delete,
                    Some(other) => return Err(format!("mode={other}: expected copy or delete")),
                };
                Ok(Output::Local { dest, mode, form: attributes.tree_form()? })
            }
            Dest::Stdout => {
                Err("type=local writes a directory; for standard output use type=tar,dest=-".to_owned())
            }
        },
        // As upstream: standard output is the default here.
        "tar" => {
            let dest = if has_dest { dest()? } else { Dest::Stdout };
            Ok(Output::Tar { dest, form: attributes.tree_form()? })
        }
        "image" | "registry" if has_dest => {
            Err(format!("type={kind} has no dest; name=NAME says what it is called"))
        }
        "image" | "registry" => image(kind, attributes),
        "cacheonly" => Err("type=cacheonly is what happens without -o and -t: leave it out".to_owned()),
        _ => Err(format!("unknown type `{kind}`: {TYPES}")),
    }
}

fn image(kind: &str, attributes: &mut Attributes) -> Result<Output, String> {
    let by_digest = attributes.boolean("push-by-digest", false)?;
    let insecure = attributes.boolean("registry.insecure", false)?;
    let pushes = attributes.boolean("push", kind == "registry")?;
    let keep = attributes.boolean("store", kind == "image" && !by_digest)?;
    // An image of the store is unpacked when it runs, and found by its digest as well as by its name.
    attributes.boolean("unpack", false)?;
    attributes.boolean("name-canonical", false)?;
    let mut form = attributes.image_form()?;
    form.by_digest = attributes.name_by_digest()?;
    if !pushes && by_digest {
        return Err("push-by-digest needs push=true".to_owned());
    }
    if by_digest && form.names.is_empty() {
        return Err("push-by-digest needs name=NAME, without a tag".to_owned());
    }
    if by_digest && let Some(name) = form.names.iter().find(|name| has_tag(name)) {
        return Err(format!("name={name}: what is pushed by digest has no tag"));
    }
    Ok(Output::Image { push: pushes.then_some(PushForm { by_digest, insecure }), keep, form })
}

pub(super) fn has_tag(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.contains([':', '@']))
}

/// What is left to be understood of `key=value,…`.
#[derive(Default)]
pub(super) struct Attributes {
    given: BTreeMap<String, String>,
    /// What somebody asked for.
    known: BTreeSet<String>,
}

impl Attributes {
    pub(super) fn of(fields: &[String]) -> Result<Attributes, String> {
        let mut attributes = Attributes::default();
        for field in fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(format!("`{field}` is not key=value"));
            };
            let key = key.trim();
            // What an annotation is called is the user's affair.
            let key = if key.starts_with("annotation") { key.to_owned() } else { key.to_lowercase() };
            if attributes.given.insert(key.clone(), value.to_owned()).is_some() {
                return Err(format!("`{key}` is given twice"));
            }
        }
        Ok(attributes)
    }

    /// What is wrong where there is no type.
    pub(super) fn without_type(&self, types: &str) -> String {
        // Each misspelling is looked at by itself: the type is what many names are near to.
        match self.given.keys().find(|key| frontend::closest(key, ["type"]).is_some()) {
            Some(key) => format!("there is no `{key}`: did you mean `type`?"),
            None => format!("`type` is missing: {types}"),
        }
    }

    /// Fails when something was not understood.
    pub(super) fn end(&self, kind: &str) -> Result<(), String> {
        let Some(key) = self.given.keys().next() else { return Ok(()) };
        Err(match frontend::closest(key, self.known.iter().map(String::as_str)) {
            Some(near) => format!("type={kind} has no attribute `{key}`: did you mean `{near}`?"),
            None => format!("attribute `{key}` of type={kind} is not supported yet"),
        })
    }

    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        self.known.insert(key.to_owned());
        self.given.remove(key)
    }

    /// As Go's strconv.ParseBool, which upstream uses; a key without value is true.
    pub(super) fn boolean(&mut self, key: &str, default: bool) -> Result<bool, String> {
        let Some(value) = self.take(key) else { return Ok(default) };
        let flag = if value.is_empty() { Some(true) } else { parser::parse_bool(&value) };
        flag.ok_or_else(|| format!("{key}={value}: expected true or false"))
    }

    /// How layers are compressed, and how hard.
    pub(super) fn compression(&mut self) -> Result<(Compression, Option<u32>), String> {
        let compression = match self.take("compression").as_deref() {
            None | Some("gzip") => Compression::Gzip,
            Some("uncompressed") => Compression::None,
            Some("zstd") => Compression::Zstd,
            Some("estargz") => {
                return Err(
                    "compression=estargz is not supported yet: compression=gzip makes layers of the \
                            same media type that every client reads, compression=zstd smaller ones"
                        .to_owned(),
                );
            }
            Some(other) => {
                return Err(format!("compression={other}: one of uncompressed, gzip, zstd"));
            }
        };
        let level = match self.take("compression-level") {
            None => None,
            Some(text) => {
                let level =
                    text.parse().map_err(|_| format!("compression-level={text}: expected a number"))?;
                image::check_level(compression, Some(level))
                    .map_err(|reason| format!("compression-level: {reason}"))?;
                Some(level)
            }
        };
        Ok((compression, level))
    }

    /// The media types that are asked for.
    pub(super) fn types(&mut self, compression: Compression) -> Result<Option<MediaTypes>, String> {
        Ok(match self.given.contains_key("oci-mediatypes") {
            false => None,
            true if self.boolean("oci-mediatypes", true)? => Some(MediaTypes::Oci),
            true if compression == Compression::Zstd => {
                return Err(
                    "compression=zstd has no media type among Docker's: leave oci-mediatypes=false out"
                        .to_owned(),
                );
            }
            true => Some(MediaTypes::Docker),
        })
    }

    /// Of an archive or a daemon: as upstream, names by digest have no effect there.
    fn archive_form(&mut self) -> Result<ImageForm, String> {
        self.name_by_digest()?;
        self.image_form()
    }

    fn image_form(&mut self) -> Result<ImageForm, String> {
        let (compression, level) = self.compression()?;
        let types = self.types(compression)?;
        if self.boolean("prefer-nondist-layers", false)? {
            return Err("prefer-nondist-layers is not supported yet".to_owned());
        }
        // How attestations are kept; images are made without any.
        for attribute in ["attestation-inline", "oci-artifact"] {
            self.boolean(attribute, false)?;
        }
        let names = self.take("name").unwrap_or_default();
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(ImageForm {
            names: names.collect(),
            by_digest: None,
            compression,
            level,
            force: self.boolean("force-compression", false)?,
            types,
            annotations: self.annotations()?,
            rewrite: self.boolean("rewrite-timestamp", true)?,
            epoch: self.epoch()?,
        })
    }

    fn name_by_digest(&mut self) -> Result<Option<NameByDigest>, String> {
        let only_nameless = self.boolean(by_digest::ONLY_NAMELESS, false)?;
        let prefix = self.take(by_digest::PREFIX).unwrap_or_default();
        NameByDigest::new(&prefix, only_nameless)
    }

    fn tree_form(&mut self) -> Result<TreeForm, String> {
        let split = match self.given.contains_key("platform-split") {
            true => Some(self.boolean("platform-split", true)?),
            false => None,
        };
        // What the files of attestations begin with; there are none.
        self.take("attestation-prefix");
        Ok(TreeForm { split, epoch: self.epoch()? })
    }

    fn epoch(&mut self) -> Result<Epoch, String> {
        match self.take("source-date-epoch") {
            None => Ok(Epoch::OfBuild),
            Some(text) if text.is_empty() => Ok(Epoch::Own(None)),
            Some(text) => match text.parse() {
                Ok(seconds) => Ok(Epoch::Own(Some(seconds))),
                Err(_) => Err(format!("source-date-epoch={text}: expected the seconds since 1970")),
            },
        }
    }

    fn annotations(&mut self) -> Result<Annotations, String> {
        let is_one = |key: &String| annotation::is_attribute(key);
        let keys: Vec<String> = self.given.keys().filter(|key| is_one(key)).cloned().collect();
        keys.into_iter()
            .map(|key| annotation::of_attribute(&key, &self.take(&key).unwrap_or_default()))
            .collect()
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

    fn named(names: &[&str]) -> ImageForm {
        ImageForm { names: names.iter().map(|name| (*name).to_owned()).collect(), ..ImageForm::default() }
    }

    #[test]
    fn upstream_forms() {
        let path = |text: &str| Dest::Path(PathBuf::from(text));
        let form = TreeForm::default();
        assert_eq!(parse("-"), Ok(Output::Tar { dest: Dest::Stdout, form: form.clone() }));
        let mode = DirectoryMode::Copy;
        assert_eq!(parse("out/dir"), Ok(Output::Local { dest: "out/dir".into(), mode, form: form.clone() }));
        assert_eq!(parse("type=tar"), Ok(Output::Tar { dest: Dest::Stdout, form: form.clone() }));
        let mode = DirectoryMode::Delete;
        assert_eq!(
            parse("type=local,dest=d,mode=delete"),
            Ok(Output::Local { dest: "d".into(), mode, form })
        );
        assert_eq!(
            parse("type=oci,dest=a.tar"),
            Ok(Output::Oci { dest: path("a.tar"), tar: true, form: named(&[]) })
        );
        assert_eq!(
            parse("type=oci,dest=a,tar=false,\"name=x,y\""),
            Ok(Output::Oci { dest: path("a"), tar: false, form: named(&["x", "y"]) })
        );
        assert_eq!(parse("type=docker,dest=-"), Ok(Output::Docker { dest: Dest::Stdout, form: named(&[]) }));
        assert_eq!(parse("type=docker"), Ok(Output::daemon()));
        // Of attestations, of which there are none.
        for text in
            ["type=docker,attestation-inline=true,oci-artifact=true", "type=docker,attestation-inline=false"]
        {
            assert_eq!(parse(text), Ok(Output::daemon()));
        }
        assert_eq!(parse("type=tar,attestation-prefix=a."), parse("type=tar"));
        let form = ImageForm { types: Some(MediaTypes::Docker), ..named(&[]) };
        assert_eq!(
            parse("type=docker,tar=false,dest=a"),
            Ok(Output::Oci { dest: path("a"), tar: false, form })
        );
        assert_eq!(
            parse("type=image,name=app"),
            Ok(Output::Image { push: None, keep: true, form: named(&["app"]) })
        );
        assert_eq!(parse("type=registry"), Ok(Output::registry()));
        let by_digest = "type=image,name=r.io/app,push-by-digest=true,name-canonical=true,push=true";
        let push = Some(PushForm { by_digest: true, insecure: false });
        assert_eq!(parse(by_digest), Ok(Output::Image { push, keep: false, form: named(&["r.io/app"]) }));
    }

    #[test]
    fn forms_of_images() {
        let text = "type=oci,dest=x,compression=zstd,compression-level=19,force-compression=true,\
                    rewrite-timestamp=false,source-date-epoch=7,annotation-index.A.b=c";
        let Ok(Output::Oci { form, .. }) = parse(text) else { panic!("{:?}", parse(text)) };
        assert_eq!((form.compression, form.level, form.force), (Compression::Zstd, Some(19), true));
        assert_eq!((form.rewrite, form.epoch), (false, Epoch::Own(Some(7))));
        assert_eq!(
            form.annotations,
            [annotation::of_attribute("annotation-index.A.b", "c").unwrap()].into_iter().collect()
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("type=zip,dest=x", "unknown type `zip`"),
            ("dest=x", "`type` is missing"),
            ("tpye=oci,dest=x", "there is no `tpye`: did you mean `type`?"),
            ("type=oci", "needs dest="),
            ("type=docker,tar=false", "a daemon, which takes no directory: for one give dest=DIRECTORY"),
            ("type=docker,tar=false,dest=-", "tar=false writes a directory"),
            ("type=oci,dest=x,compression=estargz", "estargz is not supported yet"),
            ("type=oci,dest=x,compression=lz4", "one of uncompressed, gzip, zstd"),
            ("type=oci,dest=x,compression-level=10", "gzip has the levels 0 to 9"),
            ("type=oci,dest=x,compression=zstd,oci-mediatypes=false", "no media type"),
            ("type=oci,dest=x,attestation-inline=x", "attestation-inline=x: expected true or false"),
            ("type=oci,dest=x,prefer-nondist-layers=true", "prefer-nondist-layers is not supported"),
            ("type=oci,dest=x,annotation-layer.a=b", "annotation"),
            ("type=oci,dest=x,dest=y", "given twice"),
            ("type=oci,dest=-,tar=false", "directory"),
            ("type=docker,dest=-,tar=false", "directory"),
            ("type=oci,dest=x,tar=maybe", "expected true or false"),
            ("type=image,dest=x", "has no dest"),
            ("type=image,push-by-digest=true,name=a", "needs push=true"),
            ("type=image,dangling-name-prefix=a:1", "in place of a tag"),
            ("type=image,dangling-name-prefix=A", "lower case"),
            ("type=image,dangling-name-prefix=a,danging-name-empty-only=x", "expected true or false"),
            ("type=oci,dest=x,dangling-name-prefix=a:1", "in place of a tag"),
            ("type=local,dest=x,dangling-name-prefix=a", "not supported yet"),
            ("type=registry,push-by-digest=true", "needs name="),
            ("type=registry,push-by-digest=true,name=a:1", "has no tag"),
            ("type=local,dest=x,mode=move", "copy or delete"),
            ("type=tar,source-date-epoch=x", "seconds"),
            ("type=oci,dest", "not key=value"),
            ("", "empty"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
