//! Where a result comes from, as a predicate of SLSA provenance v0.2 in the shape that buildx writes (`build/provenance.go` there; BuildKit,
//! `solver/llbsolver/provenance`). Nothing that nobody should read is in it: values of build arguments with secret-like names, values of
//! secrets, logins in addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use frontend::{NoCache, Plan, Target};
use graph::{MountKind, Network, Op, SecretValues, Source, Vertex};
use image::{Platform, Reference};
use jiff::Timestamp;
use remote::without_credentials;
use serde_json::{Value, json};

use super::contexts::{NamedContext, STANDARD_INPUT};
use super::elsewhere::Elsewhere;
use super::journal;
use super::request::Request;

/// What BuildKit calls what it does; it says how the rest is to be read.
const BUILD_TYPE: &str = "https://mobyproject.org/buildkit@v1";

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// What went in.
    Min,
    /// And when it was built, and how complete that is.
    Max,
}

impl Detail {
    /// What `BUILDX_METADATA_PROVENANCE` says; `None` for nothing.
    pub(super) fn of(variable: Option<&str>) -> Option<Detail> {
        match variable {
            Some("max") => Some(Detail::Max),
            Some("disabled") => None,
            Some(text) if parser::parse_bool(text) == Some(false) => None,
            _ => Some(Detail::Min),
        }
    }
}

/// What is known of a build when it is done.
pub(super) struct Known<'a> {
    pub(super) request: &'a Request,
    pub(super) plan: &'a Plan,
    /// What the build is called in the history.
    pub(super) build: &'a str,
    pub(super) began: SystemTime,
    /// What repositories and files elsewhere were, by their addresses: [`remote::Client::found`].
    pub(super) fetched: &'a BTreeMap<String, String>,
    /// What no text may have.
    pub(super) hidden: &'a SecretValues,
}

impl Known<'_> {
    /// The predicate about one result.
    pub(super) fn predicate(&self, target: &Target, detail: Detail) -> Value {
        let vertices: Vec<&Vertex> = journal::needed_for(&self.plan.definition, [target.vertex])
            .into_iter()
            .map(|id| self.plan.definition.vertex(id))
            .collect();
        let locals = self.locals(&vertices);
        let (arguments, is_complete) = self.arguments();
        let mut parameters = json!({ "frontend": "dockerfile.v0" });
        let lists = [("secrets", secrets(&vertices, false)), ("ssh", secrets(&vertices, true))];
        if !arguments.is_empty() {
            parameters["args"] = json!(arguments);
        }
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            parameters[name] = list.into_iter().map(|(id, rest)| self.secret(&id, rest)).collect();
        }
        parameters["locals"] = locals.iter().map(|name| json!({ "name": name })).collect();
        let mut predicate = json!({
            "builder": { "id": "" },
            "buildType": BUILD_TYPE,
            "materials": self.materials(&vertices),
            "invocation": {
                "configSource": self.config_source(),
                "parameters": parameters,
                "environment": { "platform": Platform::host().to_string() },
            },
        });
        if detail == Detail::Max {
            // There is no `buildConfig`: that is the graph in BuildKit's own terms.
            let time = |at: SystemTime| Timestamp::try_from(at).ok().map(|at| at.to_string());
            let has_network =
                |vertex: &&Vertex| matches!(&vertex.op, Op::Exec(exec) if exec.network != Network::None);
            // What local files were is not told, and the Dockerfile is one.
            let materials = locals.is_empty();
            predicate["metadata"] = json!({
                "buildInvocationID": self.build,
                "buildStartedOn": time(self.began),
                "buildFinishedOn": time(SystemTime::now()),
                "completeness": { "parameters": is_complete, "environment": true, "materials": materials },
                "reproducible": false,
                (format!("{BUILD_TYPE}#metadata")): {},
                (format!("{BUILD_TYPE}#hermetic")): materials && !vertices.iter().any(has_network),
            });
        }
        predicate
    }

    fn text(&self, text: &str) -> String {
        self.hidden.conceal(text).into_owned()
    }

    fn secret(&self, id: &str, is_optional: bool) -> Value {
        match is_optional {
            true => json!({ "id": self.text(id), "optional": true }),
            false => json!({ "id": self.text(id) }),
        }
    }

    /// Images, repositories and files, with what they were.
    fn materials(&self, vertices: &[&Vertex]) -> Vec<Value> {
        let mut found = BTreeMap::new();
        for vertex in vertices {
            if let Op::Source(Source::Image { name, manifest, platform }) = &vertex.op {
                found.insert(self.text(&self.package(name, platform)), ("sha256", manifest.hex()));
            }
        }
        for (address, meaning) in self.fetched {
            found.extend(digest(meaning).map(|digest| (self.text(address), digest)));
        }
        let material = |(uri, (algorithm, hex)): (String, (&str, String))| json!({ "uri": uri, "digest": { (algorithm): hex } });
        found.into_iter().map(material).collect()
    }

    /// An image as a package URL, as BuildKit writes it (`util/purl`). One of a layout is called as the context that the layout is.
    fn package(&self, name: &str, platform: &Platform) -> String {
        let is_layout = |context: &NamedContext| matches!(context, NamedContext::Layout(layout) if name.starts_with(&*layout.path.to_string_lossy()));
        let layout = self.request.named_contexts.iter().find(|(_, context)| is_layout(context));
        let (kind, name) = layout.map_or(("docker", name), |(context, _)| ("oci", context));
        let reference = name.parse();
        let reference: Reference = match reference {
            Ok(reference) => reference,
            Err(_) => return format!("pkg:{kind}/{name}"),
        };
        let platform = platform.to_string().replace('/', "%2F");
        let (tag, digest) = match (&reference.tag, &reference.digest) {
            (Some(tag), None) => (format!("@{tag}"), String::new()),
            (Some(tag), Some(digest)) => (format!("@{tag}"), format!("digest={digest}&")),
            (None, Some(digest)) => (String::new(), format!("digest={digest}&")),
            (None, None) => Default::default(),
        };
        let bare = Reference { tag: None, digest: None, ..reference };
        format!("pkg:{kind}/{}{tag}?{digest}platform={platform}", bare.familiar())
    }

    /// The contexts of this machine that something was taken from, and where the Dockerfile comes from.
    fn locals(&self, vertices: &[&Vertex]) -> BTreeSet<String> {
        let is_local =
            |typed: &str| matches!(Elsewhere::of(typed), Ok(None | Some(Elsewhere::StandardInput)));
        let used = vertices.iter().filter_map(|vertex| match &vertex.op {
            Op::Source(Source::Local { name }) => Some(name.as_str()),
            _ => None,
        });
        let used = used.filter(|name| match *name {
            "context" => is_local(&self.request.context),
            name => self.request.typed_contexts.get(name).is_none_or(|typed| is_local(typed)),
        });
        let dockerfile = (!self.request.has_dockerfile_elsewhere).then_some("dockerfile");
        used.chain(dockerfile).map(|name| self.text(name)).collect()
    }

    /// The main context where it is not of this machine, and the Dockerfile's name.
    fn config_source(&self) -> Value {
        let name = match self.request.dockerfile.name() {
            STANDARD_INPUT => "Dockerfile",
            name => name,
        };
        let mut source = json!({ "entryPoint": self.text(name) });
        let address = match Elsewhere::of(&self.request.context) {
            Ok(Some(Elsewhere::Git(git))) => {
                let reference = git.reference.as_ref().map(|reference| format!("#{reference}"));
                Some(without_credentials(&git.remote) + &reference.unwrap_or_default())
            }
            Ok(Some(Elsewhere::Http(url))) => Some(without_credentials(&url)),
            Ok(Some(Elsewhere::StandardInput) | None) | Err(_) => None,
        };
        if let Some(address) = address {
            if let Some((algorithm, hex)) = self.fetched.get(&address).and_then(|meaning| digest(meaning)) {
                source["digest"] = json!({ (algorithm): hex });
            }
            source["uri"] = self.text(&address).into();
        }
        source
    }

    /// The options as BuildKit's frontend gets them, and whether all of them can be told.
    fn arguments(&self) -> (BTreeMap<String, String>, bool) {
        let options = &self.request.options;
        let mut given = BTreeMap::new();
        let mut tell = |key: String, value: &str| drop(given.insert(key, value.to_owned()));
        for (name, value) in &options.labels {
            tell(format!("label:{name}"), value);
        }
        for (name, typed) in &self.request.typed_contexts {
            match self.request.named_contexts.get(name) {
                Some(NamedContext::Directory(_)) if matches!(Elsewhere::of(typed), Ok(None)) => {
                    tell(format!("context:{name}"), &format!("local:{name}"));
                }
                _ => tell(format!("context:{name}"), &without_credentials(typed)),
            }
        }
        if let Some(target) = &options.target {
            tell("target".to_owned(), target);
        }
        match &options.no_cache {
            NoCache::No => {}
            NoCache::All => tell("no-cache".to_owned(), ""),
            NoCache::Stages(stages) => tell("no-cache".to_owned(), &stages.join(",")),
        }
        match options.network {
            Network::Default | Network::Private => {}
            Network::Host => tell("force-network-mode".to_owned(), "host"),
            Network::None => tell("force-network-mode".to_owned(), "none"),
        }
        if !options.extra_hosts.is_empty() {
            let hosts = options.extra_hosts.iter().map(|(host, address)| format!("{host}={address}"));
            tell("add-hosts".to_owned(), &hosts.collect::<Vec<_>>().join(","));
        }
        for (name, value) in &options.build_args {
            tell(format!("build-arg:{name}"), value);
        }
        let told = |(key, value): (&String, &String)| {
            let is_secret = key.strip_prefix("build-arg:").is_some_and(graph::is_secret_like);
            (key.clone(), if is_secret { "***".to_owned() } else { self.text(value) })
        };
        let told: BTreeMap<_, _> = given.iter().map(told).collect();
        let is_complete = told == given;
        (told, is_complete)
    }
}

/// The secrets or agents that steps ask for, and whether they do without.
fn secrets(vertices: &[&Vertex], agents: bool) -> BTreeMap<String, bool> {
    let execs = vertices.iter().filter_map(|vertex| match &vertex.op {
        Op::Exec(exec) => Some(exec),
        _ => None,
    });
    let mut found = BTreeMap::new();
    let mut note = |id: &str, required: bool| {
        let is_optional = found.entry(id.to_owned()).or_insert(true);
        *is_optional &= !required;
    };
    for exec in execs {
        for mount in &exec.mounts {
            match &mount.kind {
                MountKind::Secret(file) if !agents => note(&file.id, file.required),
                MountKind::Ssh(file) if agents => note(&file.id, file.required),
                _ => {}
            }
        }
        if !agents {
            exec.secret_env.iter().for_each(|secret| note(&secret.id, secret.required));
        }
    }
    found
}

/// What an address meant: the digest of a file, or a reference with the ids of its object and, where that is a tag, of the commit.
fn digest(meaning: &str) -> Option<(&'static str, String)> {
    if let Some(hex) = meaning.strip_prefix("sha256:") {
        return Some(("sha256", hex.to_owned()));
    }
    let commit = meaning.split(' ').skip(1).last()?;
    Some((if commit.len() == 64 { "sha256" } else { "sha1" }, commit.to_owned()))
}
