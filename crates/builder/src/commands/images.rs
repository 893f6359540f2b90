use std::time::SystemTime;

use crate::failure::Failure;
use crate::{Machine, format, terminal};

/// List the images of the local image store.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print nothing but ids
    #[arg(short, long)]
    quiet: bool,
}

/// Characters of an id that are shown, as Docker shows them.
const SHORT_ID: usize = 12;

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let store = Machine::enter()?.store()?;
    let images = store.list_images()?;
    if args.quiet {
        let ids: String = images.iter().map(|image| format!("{}\n", image.config)).collect();
        terminal::print(&ids)?;
        return Ok(0);
    }
    let now = SystemTime::now();
    let cells = |row: [&str; 6]| row.map(str::to_owned).to_vec();
    let mut rows = vec![cells(["REPOSITORY", "TAG", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"])];
    for image in &images {
        let id = image.config.hex();
        let (repository, tag) = match super::is_id_name(&image.name) {
            true => ("<none>".to_owned(), "<none>".to_owned()),
            false => {
                let name = image.name.familiar();
                let tag = image.name.tag.clone().unwrap_or_default();
                (name.strip_suffix(&format!(":{tag}")).unwrap_or(&name).to_owned(), tag)
            }
        };
        let created = format::ago(image.created, now);
        let platform = image.platform.to_string();
        rows.push(cells([
            &repository,
            &tag,
            &id[..SHORT_ID],
            &platform,
            &created,
            &format::bytes(image.size),
        ]));
    }
    terminal::print(&format::table(&rows))?;
    Ok(0)
}
