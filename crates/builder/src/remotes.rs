//! Registries and daemons that images come from and go to, as this program's configuration has them.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cache::Store;
use daemon::{DaemonError, Endpoint, Surroundings};
use exporter::{ArchiveExporter, ArchiveImage, Output, Prepared};
use hash::Digest;
use image::{BlobSource, ContentStore, ImageConfig, Reference, ResolvedImage};
use registry::{Client, Config, Push, PushBlob, PushError, PushManifest};

use crate::failure::Failure;
use crate::progress::{Part, Task};

/// Other registries that are asked first: `docker.io=mirror.example.com,docker.io=http://10.0.0.1:5000`.
const MIRRORS: &str = "BUILDER_REGISTRY_MIRRORS";
/// Registries, separated by commas, that need no valid certificate and may speak plain HTTP, as the loopback does.
const INSECURE: &str = "BUILDER_INSECURE_REGISTRIES";

/// After how many seconds a registry that neither takes nor sends anything is given up for this time.
const TIMEOUT: &str = "BUILDER_REGISTRY_TIMEOUT";

/// A client with the user's logins, proxies and mirrors. The registries of `insecure` need no valid certificate, and may speak plain HTTP.
pub(crate) fn client(insecure: &[Reference]) -> Result<Client, Failure> {
    let mut config = config()?;
    config.transport.insecure.extend(insecure.iter().map(|name| name.registry.clone()));
    Ok(Client::new(config))
}

/// What the environment says about registries.
pub(crate) fn config() -> Result<Config, Failure> {
    let text = |name: &str| std::env::var(name).unwrap_or_default();
    let mut config = Config::from_env(|name| std::env::var_os(name));
    configure(&mut config, &text(MIRRORS), &text(INSECURE))
        .map_err(|one| Failure::usage(format!("{MIRRORS}: `{one}` is not REGISTRY=MIRROR")))?;
    if let Some(silence) = silence(&text(TIMEOUT))? {
        config.transport.idle_timeout = silence;
    }
    Ok(config)
}

/// A time-out in whole seconds, where one is given.
fn silence(text: &str) -> Result<Option<Duration>, Failure> {
    match text.parse() {
        _ if text.is_empty() => Ok(None),
        Ok(seconds @ 1..=86_400) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(Failure::usage(format!("{TIMEOUT}: `{text}` is no number of seconds from 1 to 86400"))),
    }
}

fn configure<'a>(config: &mut Config, mirrors: &'a str, insecure: &str) -> Result<(), &'a str> {
    fn list(text: &str) -> impl Iterator<Item = &str> {
        text.split(',').map(str::trim).filter(|one| !one.is_empty())
    }
    config.transport.insecure.extend(list(insecure).map(str::to_owned));
    for one in list(mirrors) {
        let (registry, mirror) = one.split_once('=').ok_or(one)?;
        let host =
            mirror.strip_prefix("https://").or_else(|| mirror.strip_prefix("http://")).unwrap_or(mirror);
        let host = host.trim_end_matches('/');
        if registry.is_empty() || host.is_empty() || host.contains('/') {
            return Err(one);
        }
        if mirror.starts_with("http://") {
            config.transport.insecure.push(host.to_owned());
        }
        config.mirrors.entry(registry.to_owned()).or_default().push(host.to_owned());
    }
    Ok(())
}

/// Puts manifests and configs into the store. Blocks.
pub(crate) fn put_documents(store: &Store, prepared: &Prepared) -> Result<(), Failure> {
    let blobs: &dyn ContentStore = store.blobs();
    for bytes in prepared.documents.values() {
        blobs.put(bytes).map_err(|error| Failure::io("write to", store.root(), &error))?;
    }
    Ok(())
}

/// Puts the documents of an image that was found elsewhere into the store. Blocks.
pub(crate) fn put_resolved(image: &ResolvedImage, blobs: &dyn ContentStore) -> io::Result<()> {
    if let Some(documents) = &image.documents {
        let index = image.index.as_ref().map(|index| &index.bytes);
        for bytes in [&documents.config, &documents.manifest].into_iter().chain(index) {
            blobs.put(bytes)?;
        }
    }
    Ok(())
}

/// An image on its way to one registry after another.
pub(crate) struct Pushing {
    client: Client,
    store: Arc<dyn ContentStore>,
    blobs: Vec<PushBlob>,
    manifests: Vec<PushManifest>,
    pushed: Vec<Reference>,
}

impl Pushing {
    /// The image's documents are in `store`, its layers there or in what [`Pushing::layers_of`] names.
    pub(crate) fn new(client: &Client, store: &Store, prepared: &Prepared) -> Pushing {
        let blob = |descriptor: &image::Descriptor| PushBlob {
            descriptor: descriptor.clone(),
            mount_from: None,
            source: None,
        };
        let mut blobs = Vec::new();
        let mut manifests = Vec::new();
        for packed in &prepared.manifests {
            blobs.extend(packed.layers.iter().chain([&packed.config_descriptor]).map(blob));
            manifests.push(PushManifest {
                media_type: packed.descriptor.media_type.clone(),
                bytes: packed.manifest.clone().into(),
            });
        }
        if let Some(index) = prepared.index()
            && let Some(bytes) = prepared.documents.get(&index.digest)
        {
            let media_type = index.media_type.clone();
            manifests.push(PushManifest { media_type, bytes: bytes.clone().into() });
        }
        Pushing {
            client: client.clone(),
            store: Arc::new(store.blobs().clone()),
            blobs,
            manifests,
            pushed: Vec::new(),
        }
    }

    /// The layers of this image need not be in the store, and on its own registry they need not be sent.
    pub(crate) fn layers_of(&mut self, base: &ResolvedImage) {
        let name: Option<Reference> = base.name.parse().ok();
        for blob in &mut self.blobs {
            if base.layers.iter().any(|layer| layer.descriptor.digest == blob.descriptor.digest) {
                blob.mount_from.clone_from(&name);
                blob.source = Some(Arc::clone(&base.blobs) as Arc<dyn BlobSource>);
            }
        }
    }

    /// Pushes it to one name. Gives the digest that it has there.
    pub(crate) async fn push(&mut self, to: &Reference, task: &Task) -> Result<Digest, Failure> {
        let mut blobs = self.blobs.clone();
        // What went to another repository of that registry is there.
        if let Some(earlier) = self.pushed.iter().find(|name| name.registry == to.registry) {
            for blob in &mut blobs {
                blob.mount_from = Some(earlier.clone());
            }
        }
        let push = Push { to: to.clone(), blobs, manifests: self.manifests.clone() };
        let layers = task.part(&format!("pushing layers to {}/{}", to.registry, to.repository));
        let digest = self.client.push(&push, &self.store, task).await.map_err(not_pushed)?;
        layers.done();
        let tag = to.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        task.part(&format!("pushing manifest for {}/{}{tag}@{digest}", to.registry, to.repository)).done();
        self.pushed.push(to.clone());
        Ok(digest)
    }
}

pub(crate) fn not_pushed(error: PushError) -> Failure {
    let failure = Failure::from_source(&error);
    match error {
        PushError::Denied { name, .. } => failure.hint(match name.parse::<Reference>() {
            Ok(Reference { registry, repository, .. }) => format!(
                "`builder login {registry}` stores a login; it needs the right to write to the repository {repository}"
            ),
            Err(_) => "`builder login REGISTRY` stores a login".to_owned(),
        }),
        _ => failure,
    }
}

/// The daemon that is meant.
pub(crate) fn daemon(context: Option<&str>) -> Result<Endpoint, Failure> {
    Ok(Surroundings::from_env(|name| std::env::var_os(name)).endpoint(context)?)
}

/// Names an image that a daemon has already; `false` where it has to be sent. Whatever it is that a daemon has with the digest of
/// a config for its id, it is that image.
pub(crate) async fn named_there(endpoint: &Endpoint, id: &str, names: &[Reference]) -> Result<bool, Failure> {
    if !daemon::has_image(endpoint, id).await? {
        return Ok(false);
    }
    for name in names {
        let (familiar, tag) = (name.familiar(), name.tag.as_deref().unwrap_or("latest"));
        let repository = familiar.strip_suffix(&format!(":{tag}")).unwrap_or(&familiar);
        if !daemon::tag(endpoint, id, repository, tag).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Hands an image of one platform whose layers are in the store to a daemon, which reads the archive while it is made. Layers that it has
/// are left out where it does not need them.
pub(crate) async fn load(
    endpoint: &Endpoint,
    store: &Store,
    image: Prepared,
    names: Vec<Reference>,
    task: &Task,
) -> Result<(), Failure> {
    let blobs: Arc<dyn ContentStore> = Arc::new(store.blobs().clone());
    let familiar: Vec<String> = names.iter().map(Reference::familiar).collect();
    let diff_ids = diff_ids(&image);
    let there = daemon::layers_there(endpoint, &familiar, &diff_ids).await;
    let layers = image.manifests.first().map(|packed| packed.layers.clone()).unwrap_or_default();
    let image = ArchiveImage { image, names };
    if 0 < there && there <= layers.len() {
        // A layer that occurs twice is needed where it is not yet on top of the same ones.
        let digests = |layers: &[image::Descriptor]| -> BTreeSet<Digest> {
            layers.iter().map(|layer| layer.digest).collect()
        };
        let left_out = &digests(&layers[..there]) - &digests(&layers[there..]);
        let part = task.part(&format!("sending to {endpoint}, which has {there} of {} layers", layers.len()));
        let sent = send(endpoint, &blobs, image.clone(), left_out, &part).await;
        part.done();
        if sent.is_ok() {
            return Ok(());
        }
        // An image that had them was removed meanwhile, or it has them in another form: then it gets all.
    }
    let part = task.part(&format!("sending to {endpoint}"));
    send(endpoint, &blobs, image, BTreeSet::new(), &part).await?;
    part.done();
    Ok(())
}

/// What the layers of an image of one platform unpack to, as its config says.
fn diff_ids(image: &Prepared) -> Vec<String> {
    let config = image.manifests.first().map(|packed| serde_json::from_slice::<ImageConfig>(&packed.config));
    let diff_ids = config.and_then(Result::ok).map(|config| config.rootfs.diff_ids).unwrap_or_default();
    diff_ids.iter().map(Digest::to_string).collect()
}

async fn send(
    endpoint: &Endpoint,
    blobs: &Arc<dyn ContentStore>,
    image: ArchiveImage,
    left_out: BTreeSet<Digest>,
    part: &Part<'_>,
) -> Result<(), Failure> {
    let blobs = Arc::clone(blobs);
    let open = move || {
        let (reader, writer) = io::pipe()?;
        let output = Output::Stream(Arc::new(Mutex::new(writer)));
        let exporter = ArchiveExporter::docker(output).without(left_out.clone());
        let (image, blobs) = (image.clone(), Arc::clone(&blobs));
        let runtime = tokio::runtime::Handle::current();
        let written = std::thread::spawn(move || {
            let exported = runtime.block_on(exporter.export_several(vec![image], blobs));
            // The writing end is closed only now, when it is known how it went.
            exported.map_err(|error| error.to_string())
        });
        Ok(Box::new(Archive { reader, written: Some(written) }) as Box<dyn Read + Send>)
    };
    let told = |bytes| part.set(bytes, None);
    daemon::load(endpoint, open, &told).await?;
    Ok(())
}

/// An archive that is written while it is read. It ends only when the writer succeeded.
struct Archive {
    reader: io::PipeReader,
    written: Option<std::thread::JoinHandle<Result<(), String>>>,
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if read == 0
            && !buffer.is_empty()
            && let Some(written) = self.written.take()
        {
            let crashed = || Err("the writer of the archive broke down".to_owned());
            written.join().unwrap_or_else(|_| crashed()).map_err(io::Error::other)?;
        }
        Ok(read)
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Failure {
        let message = error.to_string();
        match error {
            DaemonError::None { .. } => Failure::machine(message)
                .hint("set DOCKER_HOST, or keep the image with -t NAME and run it with `builder run NAME`"),
            DaemonError::Address { .. } => Failure::usage(message),
            _ => Failure::build(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_are_seconds() {
        assert_eq!(silence("").unwrap(), None);
        assert_eq!(silence("90").unwrap(), Some(Duration::from_secs(90)));
        for wrong in ["0", "-1", "1s", "0.5", "86401", " "] {
            assert!(silence(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mirrors_and_what_they_may() {
        let mut config = Config::default();
        let mirrors = "docker.io=m.example, docker.io=http://10.0.0.1:5000/,r.io=https://x";
        configure(&mut config, mirrors, "lab:5000").unwrap();
        assert_eq!(config.mirrors["docker.io"], ["m.example", "10.0.0.1:5000"]);
        assert_eq!(config.mirrors["r.io"], ["x"]);
        assert_eq!(config.transport.insecure, ["lab:5000", "10.0.0.1:5000"]);
        for wrong in ["docker.io", "=x", "docker.io=", "docker.io=x/y"] {
            assert_eq!(configure(&mut Config::default(), wrong, ""), Err(wrong));
        }
    }
}
