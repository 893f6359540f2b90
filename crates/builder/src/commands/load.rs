use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use image::{ArchivedImage, Descriptor, Reference, ResolveError, read_archive, read_directory};
use serde_json::json;

use super::id_name;
use super::told::Told;
use crate::failure::Failure;
use crate::{Machine, terminal};

/// Take images from an archive into the local store.
///
/// The archive is one that `docker save`, `builder save` or another tool wrote, or an OCI layout in a tar or a directory; it may be compressed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Fields of --format: .Name .ID .Platform")]
pub(crate) struct Args {
    /// The archive, or the directory of a layout [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Print nothing but names
    #[arg(short, long, conflicts_with_all = ["format", "json"])]
    quiet: bool,

    #[command(flatten)]
    told: Told,
}

/// Where images come from.
enum Input<'a> {
    Directory(&'a Path),
    Stream(Box<dyn Read + Send>),
}

/// What can be loaded.
const KINDS: &str = "an archive is what `builder save`, `docker save` or `podman save` writes, or an OCI layout in a tar or a directory";

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let form = args.told.form(&["Name", "ID", "Platform"])?;
    if args.input.is_none() && io::stdin().is_terminal() {
        return Err(Failure::usage("standard input is a terminal: give -i FILE, or redirect it"));
    }
    // Before the store is opened: what is not there needs none.
    let input = args.input.as_deref().map(|path| match path.is_dir() {
        true => Ok(Input::Directory(path)),
        false => File::open(path)
            .map(|file| Input::Stream(Box::new(file)))
            .map_err(|error| Failure::io("open", path, &error)),
    });
    let input = input.unwrap_or_else(|| Ok(Input::Stream(Box::new(io::stdin()))))?;
    let store = Machine::enter()?.store_or_new()?;
    let session = store.session()?;
    let name = args.input.as_ref().map_or("standard input".to_owned(), |path| path.display().to_string());
    let images = match input {
        Input::Directory(path) => read_directory(path, store.blobs()),
        Input::Stream(reader) => {
            let mut reader = BufReader::new(reader);
            let start = reader.fill_buf().map_err(|error| Failure::io("read", Path::new(&name), &error))?;
            if start.is_empty() {
                return Err(Failure::build(format!("{name} is empty")).hint(KINDS));
            }
            read_archive(reader, store.blobs())
        }
    };
    let images = images.map_err(|error| match error {
        ResolveError::Invalid { message, .. } => Failure::build(format!("{name}: {message}")).hint(KINDS),
        other => Failure::from(other),
    })?;
    if images.is_empty() {
        return Err(Failure::build(format!("{name}: the archive holds no image")).hint(KINDS));
    }
    // Before anything has a name: half of the archive under its names would be a mixture with what had them.
    let mut said = String::new();
    for ArchivedImage { names, platform, id, .. } in &images {
        let value = |name: &str| json!({ "Name": name, "ID": id, "Platform": platform.to_string() });
        for name in names {
            let name = name.familiar();
            said += &form.tell(&value(&name), || match args.quiet {
                true => format!("{name}\n"),
                false => format!("Loaded image: {name}\n"),
            })?;
        }
        if names.is_empty() {
            said += &form.tell(&value(""), || match args.quiet {
                true => format!("{id}\n"),
                false => format!("Loaded image ID: {id}\n"),
            })?;
        }
    }
    for ArchivedImage { platform, manifest, id, .. } in images.iter().filter(|image| image.names.is_empty()) {
        store.put_image(&id_name(id), platform, manifest)?;
    }
    for name in images.iter().flat_map(|image| &image.names) {
        let of_name = || images.iter().filter(|image| image.names.contains(name));
        let manifests: Vec<_> =
            of_name().map(|image| (image.platform.clone(), image.manifest.clone())).collect();
        store.name_images(name, &manifests, index_of(name, of_name()))?;
    }
    session.finish_durably()?;
    terminal::print(&said)?;
    Ok(0)
}

/// The index that a name means in the archive, when it means that and nothing else.
fn index_of<'a>(name: &Reference, images: impl Iterator<Item = &'a ArchivedImage>) -> Option<&'a Descriptor> {
    let indexes = |image: &'a ArchivedImage| image.indexes.iter().filter(|(of, _)| of == name);
    let mut each = images.map(|image| match &indexes(image).collect::<Vec<_>>()[..] {
        [(_, only)] => Some(only),
        _ => None,
    });
    let first = each.next()??;
    each.all(|index| index == Some(first)).then_some(first)
}
