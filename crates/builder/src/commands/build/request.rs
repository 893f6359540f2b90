//! The arguments of `build` as resolved: environment read, defaults filled in, conflicts refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use exporter::LayoutExporter;
use image::{Platform, Reference};
use worker::LayerForm;

use super::again::Again;
use super::args::{Args, ContextMode, ProgressMode};
use super::cache_args::{CacheSource, CacheTarget};
use super::contexts::{self, DockerfileText, NamedContext};
use super::damage;
use super::elsewhere::{Brought, Elsewhere};
use super::lent::Secrets;
use super::network;
use super::output::{ImageForm, Output};
use crate::failure::Failure;
use crate::{external, remotes};

/// What is to be built, and where it goes.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) dockerfile: DockerfileText,
    /// The main context, as typed.
    pub(super) context: String,
    /// Whether the Dockerfile is one of a context that is not of this machine.
    pub(super) has_dockerfile_elsewhere: bool,
    pub(super) named_contexts: BTreeMap<String, NamedContext>,
    /// What they are, as typed, for the record of the build.
    pub(super) typed_contexts: BTreeMap<String, String>,
    pub(super) options: frontend::Options,
    pub(super) pull: bool,
    pub(super) progress: ProgressMode,
    pub(super) run: worker::RunOptions,
    /// Who makes the processes of RUN, where the sandbox does not.
    pub(super) runtime: Option<runtime::Runtime>,
    pub(super) delivery: Delivery,
    pub(super) caches: Caches,
    pub(super) context_mode: ContextMode,
    /// Whether the build is done again when it fails because something of the store was damaged.
    pub(super) can_be_done_again: bool,
    /// Set when something is built once more, from nothing.
    pub(super) again: Option<Again>,
}

/// Results that come from elsewhere and go there.
#[derive(Debug)]
pub(super) struct Caches {
    pub(super) from: Vec<CacheSource>,
    pub(super) to: Vec<CacheTarget>,
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
    /// Names given with `-t`.
    pub(super) tags: Vec<Reference>,
    /// What is put into the local image store.
    pub(super) kept: Vec<Kept>,
    /// Files, directories, registries.
    pub(super) outputs: Vec<Output>,
    /// Whether the image's id alone goes to standard output.
    pub(super) print_id: bool,
    pub(super) iidfile: Option<PathBuf>,
    pub(super) metadata_file: Option<PathBuf>,
}

/// An image for the local store.
#[derive(Debug)]
pub(super) struct Kept {
    /// Without one its id serves as name.
    pub(super) names: Vec<Reference>,
    pub(super) form: ImageForm,
}

impl Delivery {
    /// Whether the result stays in the cache alone.
    pub(super) fn is_nothing(&self) -> bool {
        self.kept.is_empty() && self.outputs.is_empty()
    }

    /// How the layers are packed that a build makes, once for all images that want the same; none where no image is wanted.
    pub(super) fn forms_of_layers(&self, epoch: Option<i64>) -> Vec<LayerForm> {
        // What goes into the store is among `kept`.
        let is_written = |output: &&Output| !matches!(output, Output::Image { push: None, .. });
        let of_outputs = self.outputs.iter().filter(is_written).filter_map(Output::image_form);
        let mut forms = Vec::new();
        for form in self.kept.iter().map(|kept| &kept.form).chain(of_outputs) {
            let form = form.of_layers(epoch);
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        forms
    }
}

/// Makes sense of the arguments. Reads the Dockerfile and looks at the context's directory, and no further.
pub(super) fn resolve(args: &Args, brought: &Brought) -> Result<Request, Failure> {
    if brought.main().is_none() {
        contexts::check_context(args)?;
    }
    let named_contexts = contexts::named(args, brought)?;
    let outputs = outputs(args)?;
    let tags = args.tag.iter().map(|name| tag("-t ", name)).collect::<Result<Vec<_>, _>>()?;
    for output in &outputs {
        if let Some((path, is_directory)) = output.destination() {
            let hint = match output {
                Output::Oci { .. } => ": type=oci,tar=false writes one",
                Output::Tar { .. } => ": type=local writes one",
                _ => "",
            };
            check_destination("-o", path, is_directory, hint)?;
            if matches!(output, Output::Oci { tar: false, .. }) {
                let refused = |error| Failure::usage(format!("-o {error}"));
                LayoutExporter::new(path).check_destination().map_err(refused)?;
            }
        }
    }
    for output in &outputs {
        if let Output::Daemon { context, .. } = output {
            // A daemon that is not there is told before the build as well.
            remotes::daemon(context.as_deref())?;
        }
    }
    let kept = kept(args, &outputs, &tags)?;
    let timings = args.timings.as_ref().map(|file| file.path.clone());
    let files =
        [("--iidfile", &args.iidfile), ("--metadata-file", &args.metadata_file), ("--timings", &timings)];
    for (flag, path) in files {
        path.as_ref().map_or(Ok(()), |path| check_destination(flag, path, false, ""))?;
    }
    Ok(Request {
        dockerfile: contexts::read_dockerfile(args, brought)?,
        options: options(args, &named_contexts)?,
        has_dockerfile_elsewhere: is_elsewhere(args),
        context: args.context.to_string_lossy().into_owned(),
        named_contexts,
        typed_contexts: args.build_context.iter().cloned().collect(),
        pull: args.pull,
        progress: args.progress(),
        run: args.limits.resolve()?,
        context_mode: args.context_mode,
        caches: Caches { from: args.cache_from.clone(), to: args.cache_to.clone() },
        runtime: external::runtime(args.runtime.as_deref())?,
        delivery: Delivery {
            tags,
            kept,
            outputs,
            print_id: args.quiet,
            iidfile: args.iidfile.clone(),
            metadata_file: args.metadata_file.clone(),
        },
        can_be_done_again: damage::can_be_done_again(args),
        again: args.again.clone(),
    })
}

/// Whether the Dockerfile comes from a repository or a server.
fn is_elsewhere(args: &Args) -> bool {
    let is_stdin = args.file.as_ref().is_some_and(|file| file.as_os_str() == "-");
    let context = Elsewhere::of(&args.context.to_string_lossy());
    !is_stdin && matches!(context, Ok(Some(Elsewhere::Git(_) | Elsewhere::Http(_))))
}

/// A place that cannot be written to is told before the build, not after it. `hint`: what to do where a directory stands.
fn check_destination(flag: &str, path: &Path, is_directory: bool, hint: &str) -> Result<(), Failure> {
    let shown = path.display();
    let refuse = |reason: String| Err(Failure::usage(format!("{flag} {shown}: {reason}")));
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() && !is_directory => {
            refuse(format!("it is a directory, not a file{hint}"))
        }
        Ok(found) if !found.is_dir() && is_directory => refuse("it is a file, not a directory".to_owned()),
        Ok(_) => Ok(()),
        // A directory is made with those above it, a file is not.
        Err(_) if is_directory => Ok(()),
        Err(_) => match path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
            Some(parent) => {
                Err(Failure::build(format!("{flag} {shown}: there is no directory {}", parent.display())))
            }
            None => Ok(()),
        },
    }
}

/// The outputs with what `--push`, `--load` and `--annotation` say about them.
fn outputs(args: &Args) -> Result<Vec<Output>, Failure> {
    let mut outputs = args.output.clone();
    if args.push {
        let mut pushed = false;
        for output in &mut outputs {
            if let Output::Image { push, .. } = output {
                push.get_or_insert_default();
                pushed = true;
            }
        }
        if !pushed {
            outputs.push(Output::registry());
        }
    }
    if args.load && !outputs.iter().any(|output| matches!(output, Output::Daemon { .. })) {
        outputs.push(Output::daemon());
    }
    for output in &mut outputs {
        if let Some(form) = output.image_form_mut() {
            form.annotations.extend(&annotations(args));
        }
    }
    let stdout = outputs.iter().filter(|output| output.uses_stdout()).count();
    if stdout + usize::from(args.quiet) > 1 {
        return Err(Failure::usage(
            "only one thing can go to standard output: of -q and each -o with `-`, choose one",
        ));
    }
    if stdout > 0 && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return Err(Failure::usage("refusing to write an archive to the terminal")
            .hint("redirect standard output, or give -o …,dest=FILE"));
    }
    Ok(outputs)
}

fn annotations(args: &Args) -> exporter::Annotations {
    args.annotation.iter().flat_map(|several| several.iter().cloned()).collect()
}

/// What is put into the local store: an image with the names of `-t`, in the form of the output that has no names of its own; those of
/// outputs with names; and one without name for whoever asked for the id, which is of use only when the image is there.
fn kept(args: &Args, outputs: &[Output], tags: &[Reference]) -> Result<Vec<Kept>, Failure> {
    let (mut form, mut is_dangling) = (None, false);
    let mut kept = Vec::new();
    for output in outputs {
        let Output::Image { push, keep, form: own } = output else { continue };
        let by_digest = own.by_digest.as_ref();
        // `<none>` is a name for an image that stays here.
        let is_named = by_digest.is_some_and(|by_digest| by_digest.is_name() || push.is_none());
        if own.names.is_empty() && tags.is_empty() && !is_named && args.again.is_none() {
            return Err(Failure::usage(match push {
                Some(_) => "a push needs to know where to: give -t REGISTRY/NAME, or name= in -o",
                None => "type=image needs name=NAME, or -t NAME",
            }));
        }
        let names = own.names.iter().map(|name| tag("name=", name)).collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            form.get_or_insert_with(|| own.clone());
            is_dangling |= tags.is_empty() && by_digest.is_some() && *keep;
        } else if *keep {
            kept.push(Kept { names, form: own.clone() });
        }
    }
    let is_wanted = args.quiet || args.iidfile.is_some() || args.again.is_some();
    if !tags.is_empty() || is_dangling || (kept.is_empty() && is_wanted) {
        let default = || ImageForm { annotations: annotations(args), ..ImageForm::default() };
        kept.insert(0, Kept { names: tags.to_vec(), form: form.unwrap_or_else(default) });
    }
    Ok(kept)
}

fn tag(flag: &str, name: &str) -> Result<Reference, Failure> {
    let reference: Reference =
        name.parse().map_err(|error| Failure::usage(format!("{flag}{name}: {error}")))?;
    match reference.digest {
        Some(_) => {
            Err(Failure::usage(format!("{flag}{name}: a name with a digest cannot be given to an image")))
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
        network: network::parse(args.network.as_deref())?,
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
    let epoch = match &args.again {
        Some(again) => again.epoch.clone(),
        None => std::env::var("SOURCE_DATE_EPOCH").ok(),
    };
    if let Some(epoch) = epoch {
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

pub(super) fn platforms(args: &Args) -> Result<Vec<Platform>, Failure> {
    let mut platforms: Vec<Platform> = Vec::new();
    for text in args.platform.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        let platform = text.parse().map_err(|error| Failure::usage(format!("--platform: {error}")))?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
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
            |path: &Path, is_directory| check_destination("-o", path, is_directory, "").map_err(|f| f.code());
        assert_eq!(check(&dir.path().join("new.tar"), false), Ok(()));
        assert_eq!(check(&file, false), Ok(()));
        assert_eq!(check(dir.path(), true), Ok(()));
        assert_eq!(check(&dir.path().join("a/b"), true), Ok(()));
        assert_eq!(check(Path::new("new.tar"), false), Ok(()));
        assert_eq!(check(dir.path(), false), Err(2));
        assert_eq!(check(&file, true), Err(2));
        assert_eq!(check(&dir.path().join("none/new.tar"), false), Err(1));
    }
}
