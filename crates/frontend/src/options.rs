use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use files::Ignore;
use graph::Network;
use image::{Platform, Reference};

use crate::EpochTime;

/// What the user asked for beside the Dockerfile.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--target`; the last stage without it.
    pub target: Option<String>,
    /// `--build-arg`, values taken from the environment where the user gave none. Proxy variables are among them.
    pub build_args: BTreeMap<String, String>,
    /// `--platform`, in order. Empty means that nobody asked: images are looked up for the build platform, and the
    /// result has the platform that its base image says it has.
    pub platforms: Vec<Platform>,
    /// The platform of this machine.
    pub build_platform: Platform,
    /// `--label`, put on the target last.
    pub labels: BTreeMap<String, String>,
    /// `--no-cache` and `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `--build-context`, by name, `name::platform` for one platform only.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// `--network`: what `RUN --network=default` means.
    pub network: Network,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// The host name in RUN; the build argument `BUILDKIT_SANDBOX_HOSTNAME` beats it.
    pub hostname: String,
    /// `--allow`: what steps may ask for beyond the sandbox: `network.host`, `security.insecure`, `device` for all devices,
    /// `device=NAME` for one.
    pub allow: BTreeSet<String>,
    /// The ignore rules of the main context: for the check that a COPY takes something that they leave out.
    pub ignore: Option<Arc<Ignore>>,
    /// What `SOURCE_DATE_EPOCH` came to where it names something, see [`epoch_source`](crate::epoch_source).
    pub epoch: EpochTime,
    /// How long a RUN without `--timeout` may take.
    pub timeout: Option<Duration>,
    /// How many further tries a RUN without `--retry` is given.
    pub retries: u32,
    /// What the user says of the content of secrets, by id: `--secret id=…,version=…`. It is in the keys of steps that use them.
    pub secret_versions: BTreeMap<String, String>,
    /// `--check`: violations of checks are listed and do not fail, whatever the file says.
    pub only_checks: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            platforms: Vec::new(),
            build_platform: Platform::host(),
            labels: BTreeMap::new(),
            no_cache: NoCache::No,
            named_contexts: BTreeMap::new(),
            network: Network::Default,
            extra_hosts: Vec::new(),
            hostname: graph::HOSTNAME.to_owned(),
            allow: BTreeSet::new(),
            ignore: None,
            epoch: EpochTime::Unresolved,
            timeout: None,
            retries: 0,
            secret_versions: BTreeMap::new(),
            only_checks: false,
        }
    }
}

/// Which steps are never looked up in the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// All are looked up.
    #[default]
    No,
    /// None is.
    All,
    /// Those of the named stages are not; case does not matter.
    Stages(Vec<String>),
}

impl NoCache {
    pub(crate) fn covers(&self, stage: Option<&str>) -> bool {
        match self {
            NoCache::No => false,
            NoCache::All => true,
            NoCache::Stages(names) => {
                stage.is_some_and(|stage| names.iter().any(|name| name.eq_ignore_ascii_case(stage)))
            }
        }
    }
}

/// What a named context is. Where it is, is the caller's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory, an archive, a repository: files without a config. A [`graph::Source::Local`] that is named by its key;
    /// the main context is named `context`.
    Directory,
    /// An image, from a registry or a layout; requested as [`ImageOrigin::Context`].
    Image,
    /// The empty image: `docker-image://scratch`.
    Scratch,
}

/// An image that has to be known before a plan can be made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRequest {
    /// Which.
    pub origin: ImageOrigin,
    /// For which platform.
    pub platform: Platform,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageOrigin {
    /// By name: the local store, then a registry.
    Reference(Reference),
    /// From the named context under that key of [`Options::named_contexts`].
    Context(String),
}

/// The named contexts, found as BuildKit finds them.
pub(crate) struct Contexts<'a>(BTreeMap<String, (&'a str, NamedContext)>);

impl<'a> Contexts<'a> {
    pub(crate) fn new(options: &'a Options) -> Self {
        let normalise = |key: &'a str| match key.split_once("::") {
            Some((name, platform)) => format!("{}::{platform}", familiar(name)),
            None => familiar(key),
        };
        Self(
            options
                .named_contexts
                .iter()
                .map(|(key, kind)| (normalise(key), (key.as_str(), *kind)))
                .collect(),
        )
    }

    /// The context that replaces `name` on `platform`: `alpine`, `alpine:latest` and `docker.io/library/alpine` are one.
    pub(crate) fn find(&self, name: &str, platform: &Platform) -> Option<(&'a str, NamedContext)> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return None;
        }
        let name = familiar(name);
        self.0.get(&format!("{name}::{platform}")).or_else(|| self.0.get(&name)).copied()
    }
}

fn familiar(name: &str) -> String {
    let Ok(reference) = name.parse::<Reference>() else { return name.to_owned() };
    let text = reference.familiar();
    text.strip_suffix(":latest").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_found_by_any_spelling_and_platform() {
        let contexts = BTreeMap::from([
            ("alpine".to_owned(), NamedContext::Image),
            ("alpine::linux/arm64".to_owned(), NamedContext::Directory),
            ("docker.io/library/debian:13".to_owned(), NamedContext::Scratch),
            ("scratch".to_owned(), NamedContext::Directory),
        ]);
        let options = Options { named_contexts: contexts, ..Options::default() };
        let contexts = Contexts::new(&options);
        let (amd64, arm64) = ("linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap());
        for name in ["alpine", "alpine:latest", "docker.io/library/alpine"] {
            assert_eq!(contexts.find(name, &amd64), Some(("alpine", NamedContext::Image)));
            assert_eq!(contexts.find(name, &arm64).unwrap().1, NamedContext::Directory);
        }
        assert_eq!(contexts.find("debian:13", &amd64).unwrap().1, NamedContext::Scratch);
        assert_eq!(contexts.find("debian", &amd64), None);
        assert_eq!(contexts.find("scratch", &amd64), None);
    }
}
