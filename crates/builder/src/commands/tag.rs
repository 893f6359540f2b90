use image::Reference;

use super::stored;
use crate::Machine;
use crate::failure::Failure;

/// Give an image of the local store another name.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image, by name or id
    #[arg(value_name = "IMAGE")]
    image: String,

    /// Its other name, as in `name[:tag]`
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let name: Reference = args.name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    if name.digest.is_some() {
        return Err(Failure::usage(format!(
            "{}: a name with a digest cannot be given to an image",
            args.name
        )));
    }
    let store = Machine::enter()?.existing_store()?;
    let session = store.session()?;
    let found = stored::find(&store, &args.image)?;
    let mut platforms = Vec::new();
    for image in &found.images {
        if !platforms.contains(&image.platform) {
            store.put_image(&name, &image.platform, &image.manifest)?;
            platforms.push(image.platform.clone());
        }
    }
    store.remove_other_platforms(&name, &platforms)?;
    session.finish_durably()?;
    Ok(0)
}
