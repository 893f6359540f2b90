use std::fs::File;
use std::io::{self, BufReader, IsTerminal as _, Read};
use std::path::PathBuf;

use image::{ArchivedImage, read_archive};

use super::id_name;
use crate::failure::Failure;
use crate::{Machine, terminal};

/// Take images from an archive into the local store.
///
/// The archive is one that `docker save`, `builder save` or another tool wrote, or an OCI layout in a tar; it may be compressed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Print nothing but names
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let reader: Box<dyn Read + Send> = match &args.input {
        Some(path) => Box::new(File::open(path).map_err(|error| Failure::io("open", path, &error))?),
        None if io::stdin().is_terminal() => {
            return Err(Failure::usage("standard input is a terminal: give -i FILE, or redirect it"));
        }
        None => Box::new(io::stdin()),
    };
    let store = Machine::enter()?.store()?;
    let session = store.session()?;
    let images = read_archive(BufReader::new(reader), store.blobs())?;
    if images.is_empty() {
        return Err(Failure::build("the archive holds no image"));
    }
    let mut said = String::new();
    for ArchivedImage { names, platform, manifest, id } in &images {
        for name in names {
            store.put_image(name, platform, manifest)?;
            said += &match args.quiet {
                true => format!("{}\n", name.familiar()),
                false => format!("Loaded image: {}\n", name.familiar()),
            };
        }
        if names.is_empty() {
            store.put_image(&id_name(id), platform, manifest)?;
            said += &if args.quiet { format!("{id}\n") } else { format!("Loaded image ID: {id}\n") };
        }
    }
    for name in images.iter().flat_map(|image| &image.names) {
        let of_name = images.iter().filter(|image| image.names.contains(name));
        let platforms: Vec<_> = of_name.map(|image| image.platform.clone()).collect();
        store.remove_other_platforms(name, &platforms)?;
    }
    session.finish_durably()?;
    terminal::print(&said)?;
    Ok(0)
}
