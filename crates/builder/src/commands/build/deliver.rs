//! From solved targets to what the user asked for: image store, registries, archives, directories, files with ids.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cache::Store;
use exporter::{
    ArchiveExporter, DirectoryExporter, ExportError, Exporter, Images, LayoutExporter, Prepared, Product,
    TarExporter, Trees,
};
use files::FileTree;
use frontend::Target;
use hash::Digest;
use image::{Compression, Descriptor, Image, MediaTypes, Reference};
use insight::GivenImage;
use trace::{Subject, Timed, Trace, Work};
use worker::{LayerTree, LocalWorker};

use super::carried::CarriedStep;
use super::output::{Dest, ImageForm, Output, PushForm, TreeForm};
use super::packing::Packing;
use super::request::{Delivery, Kept};
use crate::commands::id_name;
use crate::failure::Failure;
use crate::progress::{Progress, Task};
use crate::remotes::{self, Pushing};

/// What was built, and where it goes.
pub(super) struct Built<'a> {
    pub(super) delivery: &'a Delivery,
    pub(super) store: &'a Store,
    pub(super) worker: &'a LocalWorker,
    pub(super) progress: &'a Progress,
    /// One a platform.
    pub(super) results: &'a [(&'a Target, LayerTree)],
    /// Whether the result is an index, also of a single platform.
    pub(super) with_index: bool,
    /// `SOURCE_DATE_EPOCH`.
    pub(super) epoch: Option<i64>,
    /// What images are to carry for later builds.
    pub(super) inline: Option<&'a [CarriedStep]>,
    /// Told what is done when.
    pub(super) trace: &'a Trace,
}

/// An image that was delivered.
pub(super) struct Delivered {
    /// What its names point to.
    pub(super) top: Descriptor,
    /// Of an image of a single platform, where it is known by that.
    pub(super) config: Option<Digest>,
    pub(super) names: Vec<Reference>,
    /// The digest of its manifest for each platform.
    manifests: BTreeMap<String, Digest>,
}

/// What the image is known by.
pub(super) struct Ids {
    /// In the image store.
    pub(super) here: Digest,
    /// Where the last output put it: what upstream tells of several.
    pub(super) told: Digest,
}

impl Ids {
    /// Of what was delivered, that of the store first.
    pub(super) fn of(images: &[Delivered]) -> Option<Ids> {
        let (first, last) = images.first().zip(images.last())?;
        Some(Ids { here: first.id(), told: last.id() })
    }
}

impl Delivered {
    fn of(prepared: &Prepared, names: &[Reference]) -> Delivered {
        let config = match &prepared.manifests[..] {
            [only] if prepared.index().is_none() => Some(only.config_descriptor.digest),
            _ => None,
        };
        let platforms = prepared.manifests.iter().map(|packed| &packed.descriptor);
        let manifests = platforms
            .filter_map(|manifest| Some((manifest.platform.as_ref()?.to_string(), manifest.digest)))
            .collect();
        Delivered { top: prepared.top.clone(), config, names: names.to_vec(), manifests }
    }

    /// As the record of the build has it.
    pub(super) fn given(&self) -> GivenImage {
        let text = |(platform, digest): (&String, &Digest)| (platform.clone(), digest.to_string());
        // On top is the manifest, or else the index that lists it.
        let is_manifest = self.manifests.values().any(|digest| *digest == self.top.digest);
        GivenImage {
            names: self.names.iter().map(ToString::to_string).collect(),
            index: (!is_manifest).then(|| self.top.digest.to_string()),
            manifests: self.manifests.iter().map(text).collect(),
        }
    }

    /// What Docker calls the image's id: the digest of the config, of several platforms that of the index, and on containerd's store that
    /// of the manifest.
    fn id(&self) -> Digest {
        self.config.unwrap_or(self.top.digest)
    }
}

/// Delivers a result; returns the images that were made, those of the store first. Without anybody who wants one, nothing is packed.
pub(super) async fn deliver(built: &Built<'_>) -> Result<Vec<Delivered>, Failure> {
    let delivery = built.delivery;
    let mut delivering = Delivering { built, packed: Vec::new() };
    let mut images = Vec::new();
    for kept in &delivery.kept {
        images.push(delivering.keep(kept).await?);
    }
    for output in &delivery.outputs {
        images.extend(delivering.export(output).await?);
    }
    Ok(images)
}

/// A delivery on its way.
struct Delivering<'a> {
    built: &'a Built<'a>,
    /// What was packed for one output serves the next.
    packed: Vec<(Packing, Vec<Image>)>,
}

impl Delivering<'_> {
    /// Puts the image into the local store under its names.
    async fn keep(&mut self, kept: &Kept) -> Result<Delivered, Failure> {
        let task = self.built.progress.task("exporting to image");
        let done = self.pack_and_keep(kept, &task).await;
        ended(task, done)
    }

    async fn pack_and_keep(&mut self, kept: &Kept, task: &Task) -> Result<Delivered, Failure> {
        let prepared = self.prepared(&kept.form, MediaTypes::Oci, true, task).await?;
        let delivered = Delivered::of(&prepared, &with_name_by_digest(&kept.names, &kept.form, &prepared));
        let mut names = delivered.names.clone();
        if names.is_empty() {
            names.push(id_name(&delivered.id()));
        }
        let part = task.part(&format!("writing image {}", delivered.id()));
        let keeping = self.built.exporting(task, "put it into the store");
        self.put_into_store(prepared, names).await?;
        keeping.end();
        part.done();
        for name in &delivered.names {
            task.part(&format!("naming to {name}")).done();
        }
        Ok(delivered)
    }

    async fn put_into_store(&self, prepared: Prepared, names: Vec<Reference>) -> Result<(), Failure> {
        let store = self.built.store.clone();
        let platforms: Vec<_> =
            self.built.results.iter().map(|(target, _)| target.platform.clone()).collect();
        let keep = move || {
            remotes::put_documents(&store, &prepared)?;
            let manifests = prepared.manifests.iter().map(|packed| packed.descriptor.clone());
            let manifests: Vec<_> = platforms.into_iter().zip(manifests).collect();
            // A name means what was built now, and nothing else.
            names.iter().try_for_each(|name| store.name_images(name, &manifests, prepared.index()))?;
            Ok(())
        };
        crate::blocking(keep).await
    }

    /// The image as documents; its layers are in the store, those of the base image only when `with_base` says so.
    async fn prepared(
        &mut self,
        form: &ImageForm,
        default: MediaTypes,
        with_base: bool,
        task: &Task,
    ) -> Result<Prepared, Failure> {
        let types = form.types.unwrap_or(default);
        let images = self.images(form, types, with_base, task).await?;
        Ok(Prepared::new(&self.of_images(images, form, &[]), types)?)
    }

    fn of_images(&self, images: Vec<Image>, form: &ImageForm, names: &[Reference]) -> Images {
        Images {
            images,
            names: names.to_vec(),
            annotations: form.annotations.clone(),
            with_index: self.built.with_index,
            store: Arc::new(self.built.store.blobs().clone()),
        }
    }

    /// The images, one a platform, packed as the form says.
    async fn images(
        &mut self,
        form: &ImageForm,
        types: MediaTypes,
        with_base: bool,
        task: &Task,
    ) -> Result<Vec<Image>, Failure> {
        let built = self.built;
        let packing = Packing {
            layers: form.of_layers(built.epoch),
            epoch: form.epoch.or(built.epoch),
            // Docker's media types have none for zstd.
            force: form.force || (types == MediaTypes::Docker && built.has_zstd_base()),
            with_base,
        };
        let serves = |other: &Packing| *other == packing || *other == Packing { with_base: true, ..packing };
        if let Some((_, images)) = self.packed.iter().find(|(other, _)| serves(other)) {
            return Ok(images.clone());
        }
        let part = task.part("exporting layers");
        let mut images = Vec::new();
        for (target, tree) in built.results {
            images.push(built.pack(target, tree, packing).await?);
        }
        part.done();
        self.packed.push((packing, images.clone()));
        Ok(images)
    }

    /// Writes one output. Gives the image, when it is one.
    async fn export(&mut self, output: &Output) -> Result<Option<Delivered>, Failure> {
        let names = self.built.names(output)?;
        let title = match output {
            Output::Oci { .. } => "exporting to oci image format".to_owned(),
            Output::Docker { .. } => "exporting to docker image format".to_owned(),
            Output::Daemon { .. } => "loading into the Docker daemon".to_owned(),
            Output::Local { .. } => "exporting to client directory".to_owned(),
            Output::Tar { .. } => "exporting to client tarball".to_owned(),
            Output::Image { push: Some(_), .. } => {
                let names: Vec<String> = names.iter().map(Reference::to_string).collect();
                match names.is_empty() {
                    true => "pushing the image by its digest".to_owned(),
                    false => format!("pushing {}", names.join(", ")),
                }
            }
            // It was put into the store already.
            Output::Image { push: None, .. } => return Ok(None),
        };
        let task = self.built.progress.task(&title);
        let done = self.write(output, &names, &task).await;
        ended(task, done)
    }

    async fn write(
        &mut self,
        output: &Output,
        names: &[Reference],
        task: &Task,
    ) -> Result<Option<Delivered>, Failure> {
        let exporter: Box<dyn Exporter> = match output {
            Output::Local { dest, mode, form } => {
                self.write_trees(&DirectoryExporter::new(dest, *mode), form, task).await?;
                return Ok(None);
            }
            Output::Tar { dest, form } => {
                self.write_trees(&TarExporter::new(stream(dest)), form, task).await?;
                return Ok(None);
            }
            Output::Image { push, form, .. } => {
                return self.push(form, push.unwrap_or_default(), names, task).await.map(Some);
            }
            Output::Daemon { context, form } => {
                return self.load(form, context.as_deref(), names, task).await.map(Some);
            }
            Output::Oci { dest: Dest::Path(path), tar: false, form } => {
                Box::new(LayoutExporter::new(path).with_types(form.types.unwrap_or(MediaTypes::Oci)))
            }
            Output::Oci { dest, form, .. } => {
                Box::new(ArchiveExporter::oci(stream(dest)).with_types(form.types.unwrap_or(MediaTypes::Oci)))
            }
            Output::Docker { dest, form } => Box::new(
                ArchiveExporter::docker(stream(dest)).with_types(form.types.unwrap_or(docker_types(form))),
            ),
        };
        let default = match output {
            Output::Docker { form, .. } => docker_types(form),
            _ => MediaTypes::Oci,
        };
        let form = output.image_form().cloned().unwrap_or_default();
        let types = form.types.unwrap_or(default);
        let images = self.images(&form, types, true, task).await?;
        let images = self.of_images(images, &form, names);
        let prepared = Prepared::new(&images, types)?;
        let writing = self.built.exporting(task, "write the image");
        let exported = exporter.export(Product::Images(images)).await;
        writing.end();
        let exported = exported?;
        let mut delivered = Delivered::of(&prepared, names);
        if let Some(top) = exported.descriptor {
            delivered.top = top;
        }
        Ok(Some(delivered))
    }

    async fn write_trees(
        &self,
        exporter: &dyn Exporter,
        form: &TreeForm,
        task: &Task,
    ) -> Result<(), Failure> {
        let built = self.built;
        let mut trees = Vec::new();
        for (target, tree) in built.results {
            let view = built.worker.view(tree).await.map_err(|error| Failure::from(&error))?;
            let view: Arc<dyn FileTree> = Arc::new(view);
            trees.push((target.platform.clone(), view));
        }
        let split = form.split.unwrap_or(built.with_index || trees.len() > 1);
        let trees = Trees { trees, split, epoch: form.epoch.or(built.epoch) };
        let writing = built.exporting(task, "write the files");
        let exported = exporter.export(Product::Trees(trees)).await?;
        writing.end();
        for warning in &exported.warnings {
            task.warn(warning);
        }
        Ok(())
    }

    /// Sends what is missing to each name's registry.
    async fn push(
        &mut self,
        form: &ImageForm,
        push: PushForm,
        names: &[Reference],
        task: &Task,
    ) -> Result<Delivered, Failure> {
        // What the registry has already need not come here first.
        let prepared = self.prepared(form, MediaTypes::Oci, form.force, task).await?;
        let (store, documents) = (self.built.store.clone(), prepared.clone());
        crate::blocking(move || remotes::put_documents(&store, &documents)).await?;
        let names = &with_name_by_digest(names, form, &prepared);
        let insecure = if push.insecure { names.as_slice() } else { &[] };
        let mut pushing = Pushing::new(&remotes::client(insecure)?, self.built.store, &prepared);
        for (_, tree) in self.built.results {
            if let Some(base) = tree.base() {
                pushing.layers_of(base);
            }
        }
        for name in names {
            let to = match push.by_digest {
                true => Reference { tag: None, digest: Some(prepared.top.digest), ..name.clone() },
                false => name.clone(),
            };
            let _timed = self.built.exporting(task, "send what the registry lacks");
            pushing.push(&to, task).await?;
        }
        Ok(Delivered::of(&prepared, names))
    }

    /// Hands an archive to a Docker daemon.
    async fn load(
        &mut self,
        form: &ImageForm,
        context: Option<&str>,
        names: &[Reference],
        task: &Task,
    ) -> Result<Delivered, Failure> {
        let endpoint = remotes::daemon(context)?;
        let prepared = self.prepared(form, docker_types(form), true, task).await?;
        if prepared.manifests.len() > 1 {
            return Err(ExportError::SeveralPlatforms(prepared.manifests.len()).into());
        }
        let _timed = self.built.exporting(task, "send it to the daemon");
        let mut delivered = Delivered::of(&prepared, names);
        let mut is_there = remotes::named_there(&endpoint, &delivered.id().to_string(), names).await?;
        if !is_there && daemon::knows_manifests(&endpoint).await {
            delivered.config = None;
            is_there = remotes::named_there(&endpoint, &delivered.id().to_string(), names).await?;
        }
        if !is_there {
            remotes::load(&endpoint, self.built.store, prepared, names.to_vec(), task).await?;
        }
        Ok(delivered)
    }
}

impl Built<'_> {
    fn exporting(&self, task: &Task, what: &'static str) -> Timed {
        self.trace.begin(Subject::Task(task.title()), Work::Export, what)
    }

    /// The names of an output: its own, else those of `-t`.
    fn names(&self, output: &Output) -> Result<Vec<Reference>, Failure> {
        let own = output.image_form().map(|form| form.names.as_slice()).unwrap_or_default();
        if own.is_empty() {
            return Ok(self.delivery.tags.clone());
        }
        let parse =
            |name: &String| name.parse().map_err(|error| Failure::usage(format!("name={name}: {error}")));
        own.iter().map(parse).collect()
    }
}

/// The names, and the one that has the digest in it where one is asked for.
fn with_name_by_digest(names: &[Reference], form: &ImageForm, prepared: &Prepared) -> Vec<Reference> {
    let further = form.by_digest.as_ref().and_then(|name| name.of(names.is_empty(), prepared.top.digest));
    names.iter().cloned().chain(further).collect()
}

/// What archives for Docker are written with, unless they have what Docker's types cannot express.
fn docker_types(form: &ImageForm) -> MediaTypes {
    match form.compression == Compression::Zstd || form.annotations != exporter::Annotations::default() {
        true => MediaTypes::Oci,
        false => MediaTypes::Docker,
    }
}

fn stream(dest: &Dest) -> exporter::Output {
    match dest {
        Dest::Path(path) => exporter::Output::File(path.clone()),
        Dest::Stdout => exporter::Output::Stream(Arc::new(Mutex::new(std::io::stdout()))),
    }
}

fn ended<T>(task: Task, result: Result<T, Failure>) -> Result<T, Failure> {
    match &result {
        Ok(_) => task.done(),
        Err(failure) => task.failed(failure.message()),
    }
    result
}
