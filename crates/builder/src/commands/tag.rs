use image::Reference;
use serde_json::json;

use super::stored;
use super::told::Told;
use crate::failure::Failure;
use crate::{Machine, terminal};

/// Give an image of the local store another name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Fields of --format: .Name .ID .Platform; a line for each platform")]
pub(crate) struct Args {
    /// Image, by name or id
    #[arg(value_name = "IMAGE")]
    image: String,

    /// Its other name, as in `name[:tag]`
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    told: Told,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let name: Reference = args.name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    if name.digest.is_some() {
        return Err(Failure::usage(format!(
            "{}: a name with a digest cannot be given to an image",
            args.name
        )));
    }
    let form = args.told.form(&["Name", "ID", "Platform"])?;
    let store = Machine::enter()?.existing_store()?;
    let session = store.session()?;
    let found = stored::find(&store, &args.image)?;
    let images = found.one_a_platform();
    let mut said = String::new();
    for image in &images {
        let platform = image.platform.to_string();
        let value = json!({ "Name": name.familiar(), "ID": image.config, "Platform": platform });
        said += &form.tell(&value, String::new)?;
    }
    // Once nothing can be wrong with the template: half of them under the name would be a mixture with what had it.
    let manifests: Vec<_> = images.into_iter().map(|image| (image.platform, image.manifest)).collect();
    let index = stored::index(&store, &found).map(|(index, _)| index);
    store.name_images(&name, &manifests, index)?;
    session.finish_durably()?;
    terminal::print(&said)?;
    Ok(0)
}
