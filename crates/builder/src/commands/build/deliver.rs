//! From a solved target to what the user asked for: image store, archives, directories, files with ids.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cache::Store;
use exporter::{
    ArchiveExporter, DirectoryExporter, DirectoryMode, ExportError, Exporter, Images, LayoutExporter, Needs,
    Product, TarExporter, Trees,
};
use files::FileTree;
use frontend::Target;
use hash::Digest;
use image::{Compression, ContentStore, Image, MediaTypes, PackedManifest, Reference};
use serde_json::json;
use worker::{LayerForm, LayerTree, LocalWorker, Packed};

use super::output::{Dest, Output};
use super::request::Delivery;
use crate::commands::id_name;
use crate::failure::Failure;
use crate::progress::{Progress, Task};

/// What was built, and where it goes.
pub(super) struct Built<'a> {
    pub(super) delivery: &'a Delivery,
    pub(super) store: &'a Store,
    pub(super) worker: &'a LocalWorker,
    pub(super) progress: &'a Progress,
    pub(super) tree: &'a LayerTree,
    pub(super) target: &'a Target,
    /// `SOURCE_DATE_EPOCH`.
    pub(super) epoch: Option<i64>,
}

/// Delivers a result; returns the image's id when an image was made. Without anybody who wants one, nothing is packed.
pub(super) async fn deliver(built: &Built<'_>) -> Result<Option<Digest>, Failure> {
    let delivery = built.delivery;
    let image = match delivery.wants_image() {
        true => Some(built.image().await?),
        false => None,
    };
    for output in &delivery.outputs {
        built.export(output, image.as_ref().map(|(image, _)| image)).await?;
    }
    let Some((_, packed)) = image else {
        if let Some(path) = &delivery.metadata_file {
            write_file(path, b"{}\n")?;
        }
        return Ok(None);
    };
    let id = packed.config_descriptor.digest;
    if let Some(path) = &delivery.iidfile {
        write_file(path, id.to_string().as_bytes())?;
    }
    if let Some(path) = &delivery.metadata_file {
        write_file(path, metadata(&packed, &delivery.tags).as_bytes())?;
    }
    Ok(Some(id))
}

impl Built<'_> {
    /// Packs the layers that are not blobs already, and puts the image into the local store when it has a name there.
    async fn image(&self) -> Result<(Image, PackedManifest), Failure> {
        let task = self.progress.task("exporting to image");
        match self.pack_and_keep(&task).await {
            Ok(done) => {
                task.done();
                Ok(done)
            }
            Err(failure) => {
                task.failed(failure.message());
                Err(failure)
            }
        }
    }

    async fn pack_and_keep(&self, task: &Task) -> Result<(Image, PackedManifest), Failure> {
        let part = task.part("exporting layers");
        let packed = Packed {
            config: self.target.config.clone(),
            base_history: self.target.base.as_ref().map_or(0, |base| base.image.config.history.len()),
            platform: self.target.platform.clone(),
        };
        let form = LayerForm { compression: Compression::Gzip, epoch: self.epoch };
        let image =
            self.worker.image(self.tree, packed, form).await.map_err(|error| Failure::from(&error))?;
        part.done();
        // The id is that of the config as the local store has it.
        let packed = image::manifest_of(&image, MediaTypes::Oci, &BTreeMap::new())
            .map_err(|error| Failure::build(error.to_string()))?;
        let id = packed.config_descriptor.digest;
        let Delivery { tags, print_id, iidfile, .. } = self.delivery;
        let mut names = tags.clone();
        // Whoever asked for the id wants to use it.
        if names.is_empty() && (*print_id || iidfile.is_some()) {
            names.push(id_name(&id));
        }
        if !names.is_empty() {
            let part = task.part(&format!("writing image {id}"));
            self.keep(&packed, &names).await?;
            part.done();
        }
        for name in tags {
            task.part(&format!("naming to {name}")).done();
        }
        Ok((image, packed))
    }

    /// Puts the image into the local store under its names.
    async fn keep(&self, packed: &PackedManifest, names: &[Reference]) -> Result<(), Failure> {
        let (store, packed, names) = (self.store.clone(), packed.clone(), names.to_vec());
        let platform = self.target.platform.clone();
        let keep = move || {
            let blobs: &dyn ContentStore = store.blobs();
            for bytes in [&packed.config, &packed.manifest] {
                blobs.put(bytes).map_err(|error| Failure::io("write to", store.root(), &error))?;
            }
            for name in &names {
                store.put_image(name, &platform, &packed.descriptor)?;
            }
            Ok(())
        };
        crate::blocking(keep).await
    }

    async fn export(&self, output: &Output, image: Option<&Image>) -> Result<(), Failure> {
        let (title, exporter, names): (_, Box<dyn Exporter>, _) = match output {
            Output::Oci { dest: Dest::Path(path), tar: false, names } => {
                ("exporting to oci image format", Box::new(LayoutExporter::new(path)), Some(names))
            }
            Output::Oci { dest, names, .. } => {
                ("exporting to oci image format", Box::new(ArchiveExporter::oci(stream(dest))), Some(names))
            }
            Output::Docker { dest, names } => (
                "exporting to docker image format",
                Box::new(ArchiveExporter::docker(stream(dest))),
                Some(names),
            ),
            Output::Local { dest } => {
                let exporter = DirectoryExporter::new(dest, DirectoryMode::Copy);
                ("exporting to client directory", Box::new(exporter), None)
            }
            Output::Tar { dest } => {
                ("exporting to client tarball", Box::new(TarExporter::new(stream(dest))), None)
            }
            // Names of the image store were gathered with those of -t.
            Output::Image { .. } => return Ok(()),
        };
        let task = self.progress.task(title);
        let product = match (exporter.needs(), image) {
            (Needs::Images, Some(image)) => Product::Images(Images {
                images: vec![image.clone()],
                names: self.names(names.map(Vec::as_slice).unwrap_or_default())?,
                annotations: BTreeMap::new(),
                store: Arc::new(self.store.blobs().clone()),
            }),
            (Needs::Images, None) => return Err(Failure::build("internal error: no image was made")),
            (Needs::Trees, _) => {
                let tree = self.worker.view(self.tree).await.map_err(|error| Failure::from(&error))?;
                let tree: Arc<dyn FileTree> = Arc::new(tree);
                Product::Trees(Trees { trees: vec![(self.target.platform.clone(), tree)], epoch: self.epoch })
            }
        };
        match exporter.export(product).await {
            Ok(exported) => {
                for warning in &exported.warnings {
                    task.warn(warning);
                }
                task.done();
                Ok(())
            }
            Err(error) => {
                let failure = match output.uses_stdout() {
                    true => Failure::of_stdout(&error),
                    false => Failure::from(error),
                };
                task.failed(failure.message());
                Err(failure)
            }
        }
    }

    /// The names of an archive: its own, else those of `-t`.
    fn names(&self, own: &[String]) -> Result<Vec<Reference>, Failure> {
        if own.is_empty() {
            return Ok(self.delivery.tags.clone());
        }
        let parse =
            |name: &String| name.parse().map_err(|error| Failure::usage(format!("name={name}: {error}")));
        own.iter().map(parse).collect()
    }
}

fn stream(dest: &Dest) -> exporter::Output {
    match dest {
        Dest::Path(path) => exporter::Output::File(path.clone()),
        Dest::Stdout => exporter::Output::Stream(Arc::new(Mutex::new(std::io::stdout()))),
    }
}

/// Upstream's keys, as far as they have a meaning here.
fn metadata(packed: &PackedManifest, names: &[Reference]) -> String {
    let mut metadata = json!({
        "containerimage.config.digest": packed.config_descriptor.digest,
        "containerimage.descriptor": packed.descriptor,
        "containerimage.digest": packed.descriptor.digest,
    });
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(Reference::to_string).collect();
        metadata["image.name"] = json!(names.join(","));
    }
    format!("{metadata:#}\n")
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|error| Failure::io("write", path, &error))
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Failure {
        Failure::from_source(&error)
    }
}
