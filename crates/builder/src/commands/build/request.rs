//! The arguments of `build` as resolved: environment read, defaults filled in, conflicts refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::{Platform, Reference};

use super::args::{Args, ProgressMode};
use super::contexts::{self, DockerfileText, NamedContext};
use super::elsewhere::Brought;
use super::lent::Secrets;
use super::output::{Dest, Output};
use crate::failure::Failure;

/// What is to be built, and where it goes.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) dockerfile: DockerfileText,
    pub(super) named_contexts: BTreeMap<String, NamedContext>,
    pub(super) options: frontend::Options,
    pub(super) pull: bool,
    pub(super) progress: ProgressMode,
    pub(super) run: worker::RunOptions,
    pub(super) delivery: Delivery,
}

impl Request {
    /// What builds have in common whose steps are compared to say why one ran.
    pub(super) fn scope(&self) -> String {
        let place = std::path::absolute(&self.dockerfile.path);
        let place = place.map_or_else(|_| self.dockerfile.path.clone(), |path| path.display().to_string());
        let target = self.options.target.as_deref().unwrap_or_default();
        let platforms: Vec<String> = self.options.platforms.iter().map(ToString::to_string).collect();
        format!("{place}\n{target}\n{}", platforms.join(","))
    }
}

/// Where a result goes.
#[derive(Debug)]
pub(super) struct Delivery {
    /// Names in the local image store.
    pub(super) tags: Vec<Reference>,
    /// Files and directories.
    pub(super) outputs: Vec<Output>,
    /// Whether the image's id alone goes to standard output.
    pub(super) print_id: bool,
    pub(super) iidfile: Option<PathBuf>,
    pub(super) metadata_file: Option<PathBuf>,
}

impl Delivery {
    /// Whether anybody wants an image, as opposed to a file tree or nothing.
    pub(super) fn wants_image(&self) -> bool {
        let image = |output: &Output| !matches!(output, Output::Local { .. } | Output::Tar { .. });
        !self.tags.is_empty() || self.print_id || self.iidfile.is_some() || self.outputs.iter().any(image)
    }

    /// Whether the result stays in the cache alone.
    pub(super) fn is_nothing(&self) -> bool {
        !self.wants_image() && self.outputs.is_empty()
    }
}

/// Makes sense of the arguments. Reads the Dockerfile and looks at the context's directory, and no further.
pub(super) fn resolve(args: &Args, brought: &Brought) -> Result<Request, Failure> {
    if brought.main().is_none() {
        contexts::check_context(args)?;
    }
    let named_contexts = contexts::named(args, brought)?;
    let stdout = args.output.iter().filter(|output| output.uses_stdout()).count();
    if stdout + usize::from(args.quiet) > 1 {
        return Err(Failure::usage(
            "only one thing can go to standard output: of -q and each -o with `-`, choose one",
        ));
    }
    let mut outputs = Vec::new();
    let mut tags = Vec::new();
    for output in &args.output {
        match output {
            Output::Image { names } => {
                for name in names {
                    tags.push(tag(name)?);
                }
            }
            Output::Oci { dest: Dest::Stdout, .. }
            | Output::Docker { dest: Dest::Stdout, .. }
            | Output::Tar { dest: Dest::Stdout }
                if std::io::IsTerminal::is_terminal(&std::io::stdout()) =>
            {
                return Err(Failure::usage("refusing to write an archive to the terminal")
                    .hint("redirect standard output, or give -o …,dest=FILE"));
            }
            other => outputs.push(other.clone()),
        }
    }
    for name in &args.tag {
        tags.push(tag(name)?);
    }
    for output in &outputs {
        if let Some((path, is_directory)) = output.destination() {
            check_destination("-o", path, is_directory)?;
        }
    }
    for (flag, path) in [("--iidfile", &args.iidfile), ("--metadata-file", &args.metadata_file)] {
        path.as_ref().map_or(Ok(()), |path| check_destination(flag, path, false))?;
    }
    Ok(Request {
        dockerfile: contexts::read_dockerfile(args, brought)?,
        options: options(args, &named_contexts)?,
        named_contexts,
        pull: args.pull,
        progress: args.progress(),
        run: args.limits.resolve()?,
        delivery: Delivery {
            tags,
            outputs,
            print_id: args.quiet,
            iidfile: args.iidfile.clone(),
            metadata_file: args.metadata_file.clone(),
        },
    })
}

/// A place that cannot be written to is told before the build, not after it.
fn check_destination(flag: &str, path: &Path, is_directory: bool) -> Result<(), Failure> {
    let shown = path.display();
    let refuse = |reason: String| Err(Failure::usage(format!("{flag} {shown}: {reason}")));
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() && !is_directory => refuse("it is a directory, not a file".to_owned()),
        Ok(found) if !found.is_dir() && is_directory => refuse("it is a file, not a directory".to_owned()),
        Ok(_) => Ok(()),
        // A directory is made with those above it, a file is not.
        Err(_) if is_directory => Ok(()),
        Err(_) => match path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
            Some(parent) => refuse(format!("there is no directory {}", parent.display())),
            None => Ok(()),
        },
    }
}

fn tag(name: &str) -> Result<Reference, Failure> {
    let reference: Reference = name.parse().map_err(|error| Failure::usage(format!("-t {name}: {error}")))?;
    match reference.digest {
        Some(_) => {
            Err(Failure::usage(format!("-t {name}: a name with a digest cannot be given to an image")))
        }
        None => Ok(reference),
    }
}

fn options(args: &Args, named: &BTreeMap<String, NamedContext>) -> Result<frontend::Options, Failure> {
    let kind = |context: &NamedContext| match context {
        NamedContext::Directory(_) => frontend::NamedContext::Directory,
        NamedContext::Image(_) | NamedContext::Layout(_) => frontend::NamedContext::Image,
        NamedContext::Scratch => frontend::NamedContext::Scratch,
    };
    let network = match args.network.as_deref() {
        None | Some("default" | "host") => graph::Network::Host,
        Some("private") => graph::Network::Private,
        Some("none") => graph::Network::None,
        Some(other) => {
            return Err(Failure::usage(format!(
                "--network={other} is not supported; use default, private, host or none"
            )));
        }
    };
    let no_cache = match (args.no_cache, args.no_cache_filter.is_empty()) {
        (true, _) => frontend::NoCache::All,
        (false, true) => frontend::NoCache::No,
        (false, false) => frontend::NoCache::Stages(args.no_cache_filter.clone()),
    };
    Ok(frontend::Options {
        // As upstream: an empty name is none, which spares scripts a case.
        target: args.target.clone().filter(|name| !name.is_empty()),
        build_args: build_args(args)?,
        platforms: platforms(args)?,
        build_platform: Platform::host(),
        labels: args.label.iter().cloned().collect(),
        no_cache,
        named_contexts: named.iter().map(|(name, context)| (name.clone(), kind(context))).collect(),
        network,
        extra_hosts: args.add_host.clone(),
        allow: args.allow.iter().cloned().collect(),
        timeout: args.limits.timeout(),
        retries: args.limits.retries(),
        secret_versions: Secrets::versions(&args.secret),
        ..frontend::Options::default()
    })
}

fn build_args(args: &Args) -> Result<BTreeMap<String, String>, Failure> {
    let mut values = BTreeMap::new();
    // As upstream: the variable of reproducible-builds.org reaches the build by itself.
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        values.insert("SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for text in &args.build_arg {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            // A name alone takes the value from the environment, and nothing where there is none.
            None => (text.as_str(), std::env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(Failure::usage(format!("--build-arg {text}: the name is missing")));
        }
        if let Some(value) = value {
            values.insert(name.to_owned(), value);
        }
    }
    Ok(values)
}

fn platforms(args: &Args) -> Result<Vec<Platform>, Failure> {
    let Some(text) = &args.platform else { return Ok(Vec::new()) };
    if text.contains(',') {
        return Err(Failure::usage("--platform with several platforms is not supported yet"));
    }
    let platform = text.trim().parse().map_err(|error| Failure::usage(format!("--platform: {error}")))?;
    Ok(vec![platform])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_checked_before_the_build() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let check =
            |path: &Path, is_directory| check_destination("-o", path, is_directory).map_err(|f| f.code());
        assert_eq!(check(&dir.path().join("new.tar"), false), Ok(()));
        assert_eq!(check(&file, false), Ok(()));
        assert_eq!(check(dir.path(), true), Ok(()));
        assert_eq!(check(&dir.path().join("a/b"), true), Ok(()));
        assert_eq!(check(Path::new("new.tar"), false), Ok(()));
        assert_eq!(check(dir.path(), false), Err(2));
        assert_eq!(check(&file, true), Err(2));
        assert_eq!(check(&dir.path().join("none/new.tar"), false), Err(2));
    }
}
