//! Where files and images come from: the build context, the Dockerfile, `--build-context`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cache::DiskStatCache;
use files::{
    Cancelled, DirectoryTree, FileTree, GitModes, Ignore, Ignoring, Kind, Match, PathSelection, Selection,
    StatCache,
};
use hash::StableHasher;
use image::Reference;
use image::layout::LayoutAddress;
use insight::{ListedFile, Listing};
use worker::OpenContext;

use super::Build;
use super::args::{Args, ContextMode};
use super::elsewhere::{Brought, Elsewhere};
use super::explain;
use super::stats::Believed;
use crate::failure::Failure;

/// What messages call a Dockerfile that came from there.
pub(crate) const STANDARD_INPUT: &str = "standard input";

/// The Dockerfile, read.
#[derive(Debug)]
pub(super) struct DockerfileText {
    /// For messages: as the user would write it.
    pub(super) path: String,
    /// As it stands.
    pub(super) text: String,
}

impl DockerfileText {
    /// Its name without the directories.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// A `--build-context`.
#[derive(Debug, Clone)]
pub(super) enum NamedContext {
    /// A directory of this machine.
    Directory(PathBuf),
    /// `docker-image://`.
    Image(Reference),
    /// `docker-image://scratch`.
    Scratch,
    /// `oci-layout://`.
    Layout(LayoutAddress),
}

/// A main context of this machine must be a directory.
pub(super) fn check_context(args: &Args) -> Result<(), Failure> {
    let path = &args.context;
    let text = path.to_string_lossy();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Failure::usage(format!("the build context {text} is not a directory"))
            .hint(format!("to name the Dockerfile use -f: `builder build -f {text} .`"))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Failure::build(format!("there is no build context {text}")))
        }
        Err(error) => Err(Failure::usage(format!("the build context {text} cannot be read: {error}"))),
    }
}

/// Reads the Dockerfile: `-f`, or `Dockerfile` in the context, or `dockerfile` there. Of a context from elsewhere `-f` names a file in
/// it.
pub(super) fn read_dockerfile(args: &Args, brought: &Brought) -> Result<DockerfileText, Failure> {
    let (path, bytes) = match &args.file {
        Some(file) if file.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            let read = read_text(std::io::stdin(), &mut bytes);
            read.map_err(|error| Failure::io("read", Path::new(STANDARD_INPUT), &error))?;
            (STANDARD_INPUT.to_owned(), bytes)
        }
        Some(file) if matches!(Elsewhere::of(&file.to_string_lossy()), Ok(Some(_)) | Err(_)) => {
            return Err(Failure::usage(format!("-f {}: URLs are not supported yet", file.display()))
                .hint("fetch it and give it with -f -"));
        }
        file => match (brought.dockerfile(), brought.main(), file) {
            (Some(text), ..) if args.context.as_os_str() == "-" => {
                (STANDARD_INPUT.to_owned(), text.to_owned())
            }
            (Some(text), ..) => (args.context.display().to_string(), text.to_owned()),
            (None, Some(directory), file) => read_brought(directory, file.as_deref())?,
            (None, None, Some(file)) => (file.display().to_string(), read_named(file, &args.context)?),
            (None, None, None) => read_default(&args.context)?,
        },
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::build(format!("{path} is not a text: the byte at offset {at} is not UTF-8"))
    })?;
    let path = path.strip_prefix("./").map(str::to_owned).unwrap_or(path);
    Ok(DockerfileText { path, text })
}

/// A Dockerfile in a context from elsewhere. Links in it lead nowhere but to its own files.
fn read_brought(directory: &Path, file: Option<&Path>) -> Result<(String, Vec<u8>), Failure> {
    let tree = DirectoryTree::context(directory).map_err(|error| Failure::build(error.to_string()))?;
    let names = match file {
        Some(file) => vec![file],
        None => vec![Path::new("Dockerfile"), Path::new("dockerfile")],
    };
    for name in &names {
        let found = files::resolve(&tree, name, true)
            .and_then(|path| Ok(tree.metadata(&path)?.map(|metadata| (path, metadata))))
            .map_err(|error| Failure::build(format!("{}: {error}", name.display())))?;
        let Some((path, metadata)) = found else { continue };
        let shown = name.display().to_string();
        if metadata.kind != files::Kind::File {
            return Err(Failure::build(format!("{shown} in the build context is no file")));
        }
        let mut bytes = Vec::new();
        let file = tree.open(&path).map_err(|error| Failure::build(error.to_string()))?;
        read_text(file, &mut bytes).map_err(|error| Failure::io("read the Dockerfile", name, &error))?;
        return Ok((shown, bytes));
    }
    let name = names.first().map_or_else(String::new, |name| name.display().to_string());
    Err(Failure::build(format!("there is no {name} in the build context"))
        .hint("-f names a Dockerfile of another name or place in it, -f - reads one from standard input"))
}

/// The file of `-f`. As upstream, it is relative to the working directory, not to the context.
fn read_named(file: &Path, context: &Path) -> Result<Vec<u8>, Failure> {
    let shown = file.display();
    let mut bytes = Vec::new();
    // Named by the user, it may be a pipe of a shell.
    let read = File::open(file).and_then(|file| read_text(file, &mut bytes));
    read.map(|()| bytes).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let failure = Failure::build(format!("-f {shown}: there is no such file"));
            match context.join(file) {
                inside if inside.is_file() => failure.hint(format!("did you mean -f {}?", inside.display())),
                _ => match explain::similar(Path::new("."), file) {
                    Some(near) => failure.hint(format!("did you mean -f {}?", near.display())),
                    None => failure,
                },
            }
        }
        ErrorKind::IsADirectory => Failure::build(format!("-f {shown} is a directory, not a Dockerfile")),
        _ => Failure::io("read the Dockerfile", file, &error),
    })
}

/// `Dockerfile` in the context, else `dockerfile` there.
fn read_default(context: &Path) -> Result<(String, Vec<u8>), Failure> {
    for name in ["Dockerfile", "dockerfile"] {
        let path = context.join(name);
        match read_file(&path) {
            Ok(bytes) => return Ok((path.display().to_string(), bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::io("read the Dockerfile", &path, &error)),
        }
    }
    Err(Failure::build(format!("there is no Dockerfile in {}", context.display())).hint(
        match called_otherwise(context) {
            Some(path) => format!("did you mean -f {}?", path.display()),
            None => "-f names a Dockerfile of another name or place".to_owned(),
        },
    ))
}

/// What seems to be a Dockerfile in a directory without one that is called so: `Containerfile`, `Dockerfile.debian`, `app.dockerfile`.
fn called_otherwise(context: &Path) -> Option<PathBuf> {
    let is_one = |name: &str| {
        let name = name.to_ascii_lowercase();
        let parts: Vec<&str> = name.split('.').collect();
        let ends = [parts.first(), parts.last()].into_iter().flatten();
        ends.into_iter().any(|part| matches!(*part, "dockerfile" | "containerfile"))
            && !name.ends_with(".dockerignore")
    };
    let entries = std::fs::read_dir(context).ok()?.flatten();
    let named =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_one)).map(|entry| entry.path());
    named.filter(|path| path.is_file()).min()
}

/// A build context, opened.
pub(super) struct Context {
    /// As given.
    pub(super) path: PathBuf,
    /// What COPY and ADD see of it.
    pub(super) tree: Arc<dyn FileTree>,
    /// The ignore file that applies to it, when there is one.
    pub(super) ignore_file: Option<PathBuf>,
    /// Its patterns.
    pub(super) ignore: Option<Arc<Ignore>>,
    /// What decides on how the directory is seen: tells ignore files and ways to read modes apart.
    rules: [u8; 32],
}

impl Build<'_> {
    /// Opens all contexts.
    pub(super) fn contexts(
        &self,
        stats: &BTreeMap<String, Arc<DiskStatCache>>,
    ) -> Result<BTreeMap<String, OpenContext>, Failure> {
        let mut contexts = BTreeMap::new();
        for (name, path) in self.directories() {
            let (tree, rules) = match name.as_str() {
                "context" => (self.context.tree.clone(), self.context.rules),
                _ => {
                    let named = named_directory(path, self.request.context_mode)?;
                    (named.tree, named.rules)
                }
            };
            let stats: Arc<dyn StatCache> = match stats.get(&name) {
                Some(stats) => Arc::new(Believed::new(stats.clone(), path)),
                None => Arc::new(files::NoCache),
            };
            let identity = self.brought.identity(&name).map(|identity| identity.clone().seen_by(&rules));
            contexts.insert(name, OpenContext { tree, stats, identity });
        }
        Ok(contexts)
    }
}

/// What stands in a context is somebody else's: a pipe or a device there must not hold the build.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let kind = std::fs::metadata(path)?;
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    read_text(File::open(path)?, &mut bytes)?;
    Ok(bytes)
}

/// Most of a Dockerfile or ignore file that is read, in bytes: far more than anybody writes.
pub(super) const LONGEST_TEXT: u64 = 16 << 20;

pub(super) fn read_text(from: impl Read, bytes: &mut Vec<u8>) -> io::Result<()> {
    from.take(LONGEST_TEXT + 1).read_to_end(bytes)?;
    if bytes.len() as u64 > LONGEST_TEXT {
        return Err(io::Error::other(format!("it is larger than {} MiB", LONGEST_TEXT >> 20)));
    }
    Ok(())
}

/// The main context, with the ignore file that applies to it: `<Dockerfile>.dockerignore` beside the Dockerfile wins over
/// `.dockerignore` in the context; they are never merged.
pub(super) fn main_context(args: &Args, brought: &Brought) -> Result<Context, Failure> {
    if let Some(directory) = brought.main() {
        // The Dockerfile is in it, or has no place.
        let name = args.file.as_deref().filter(|file| file.as_os_str() != "-");
        let mut own = directory.join(contained(name.unwrap_or(Path::new("Dockerfile")))).into_os_string();
        own.push(".dockerignore");
        let ignore_files = [PathBuf::from(own), directory.join(".dockerignore")];
        return self::directory(directory, &ignore_files, args.context_mode);
    }
    let own = match &args.file {
        Some(file) if file.as_os_str() != "-" => file.clone(),
        _ => args.context.join("Dockerfile"),
    };
    let mut own = own.into_os_string();
    own.push(".dockerignore");
    directory(&args.context, &[PathBuf::from(own), args.context.join(".dockerignore")], args.context_mode)
}

/// A path below a directory, wherever it would lead.
fn contained(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect()
}

/// A directory with the first of `ignore_files` that exists.
fn directory(path: &Path, ignore_files: &[PathBuf], mode: ContextMode) -> Result<Context, Failure> {
    let tree = DirectoryTree::context(path).map_err(|error| Failure::build(error.to_string()))?;
    for file in ignore_files {
        let bytes = match read_file(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::io("read", file, &error)),
        };
        let ignore =
            Ignore::parse(&bytes).map_err(|error| Failure::build(format!("{}: {error}", file.display())))?;
        let ignore_file = Some(file.strip_prefix("./").unwrap_or(file).to_owned());
        return Ok(Context {
            path: path.to_owned(),
            ignore: Some(Arc::new(ignore.clone())),
            tree: with_mode(Ignoring::new(tree, ignore), mode),
            ignore_file,
            rules: rules(&bytes, mode),
        });
    }
    Ok(Context {
        path: path.to_owned(),
        tree: with_mode(tree, mode),
        ignore_file: None,
        ignore: None,
        rules: rules(b"", mode),
    })
}

fn rules(ignore_file: &[u8], mode: ContextMode) -> [u8; 32] {
    let mut hasher = StableHasher::new("context-rules-v1").with(&(mode == ContextMode::Git));
    hasher.bytes(ignore_file);
    hasher.finish()
}

fn with_mode(tree: impl FileTree + 'static, mode: ContextMode) -> Arc<dyn FileTree> {
    match mode {
        ContextMode::Exact => Arc::new(tree),
        ContextMode::Git => Arc::new(GitModes::new(tree)),
    }
}

/// The files of a context; `None` when it cannot be read.
pub(super) fn listing(tree: &dyn FileTree, cancelled: Cancelled<'_>) -> Option<Listing> {
    let selected = files::select(tree, &Selection::Path(PathSelection::exact("")), cancelled).ok()?;
    let entries = selected.matches.iter().flat_map(Match::entries);
    let files = entries.filter(|entry| entry.metadata.kind != Kind::Directory);
    Some(Listing::new(files.map(|entry| ListedFile {
        path: entry.path.to_string_lossy().into_owned(),
        size: if entry.metadata.kind == Kind::File { entry.metadata.size } else { 0 },
        link: entry.metadata.kind == Kind::Symlink,
    })))
}

/// The directories of `--build-context`, each with its own `.dockerignore`.
fn named_directory(path: &Path, mode: ContextMode) -> Result<Context, Failure> {
    directory(path, &[path.join(".dockerignore")], mode)
}

/// The named contexts of the command line.
pub(super) fn named(args: &Args, brought: &Brought) -> Result<BTreeMap<String, NamedContext>, Failure> {
    let mut contexts = BTreeMap::new();
    for (name, source) in &args.build_context {
        if let Some(directory) = brought.named(name) {
            contexts.insert(name.clone(), NamedContext::Directory(directory.to_owned()));
            continue;
        }
        let context = named_context(source).map_err(|failure| {
            failure.reworded(|reason| format!("--build-context {name}={source}: {reason}"))
        })?;
        contexts.insert(name.clone(), context);
    }
    Ok(contexts)
}

fn named_context(source: &str) -> Result<NamedContext, Failure> {
    let malformed = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
    if let Some(reference) = source.strip_prefix("docker-image://") {
        return match reference {
            "scratch" => Ok(NamedContext::Scratch),
            _ => reference.parse().map(NamedContext::Image).map_err(|error| malformed(&error)),
        };
    }
    if let Some(layout) = source.strip_prefix("oci-layout://") {
        let address: LayoutAddress =
            layout.parse().map_err(|error: hash::ParseDigestError| malformed(&error))?;
        // A colon within a directory's name belongs to the path when that path exists.
        let whole = LayoutAddress { path: PathBuf::from(layout), image: None };
        return match (whole.path.is_dir(), address.path.is_dir()) {
            (true, _) => Ok(NamedContext::Layout(whole)),
            (false, true) => Ok(NamedContext::Layout(address)),
            (false, false) => {
                Err(Failure::build(format!("there is no directory {}", address.path.display())))
            }
        };
    }
    if let Some((scheme, _)) = source.split_once("://") {
        return Err(malformed(&format!(
            "there is no {scheme}://; known are docker-image://, oci-layout://, http(s):// and repositories of git"
        )));
    }
    if source.starts_with("target:") {
        return Err(malformed(&"targets of a bake file are not supported yet"));
    }
    match Path::new(source).is_dir() {
        true => Ok(NamedContext::Directory(PathBuf::from(source))),
        false => Err(Failure::build("there is no such directory")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_yet_is_named() {
        let refused = |source: &str| {
            let failure = named_context(source).unwrap_err();
            (failure.code(), failure.message().to_owned())
        };
        let (code, message) = refused("ftp://example.com/x.tar");
        assert!(code == 2 && message.contains("there is no ftp://"), "{message}");
        let (code, message) = refused("target:base");
        assert!(code == 2 && message.contains("not supported yet"), "{message}");
        let (code, message) = refused("/nonexistent-directory");
        assert!(code == 1 && message.contains("no such directory"), "{message}");
    }
}
