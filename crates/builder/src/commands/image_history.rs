use std::time::SystemTime;

use image::Platform;
use jiff::Timestamp;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr as _;

use super::stored;
use crate::failure::Failure;
use crate::template::Template;
use crate::{Machine, format, terminal};

/// Show how an image of the local store was made, the last instruction first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Fields of --format: .ID .CreatedSince .CreatedAt .CreatedBy .Size .Comment")]
pub(crate) struct Args {
    /// Image, by name or id
    #[arg(value_name = "IMAGE")]
    image: String,

    /// Do not cut instructions
    #[arg(long)]
    no_trunc: bool,

    /// Print nothing but ids
    #[arg(short, long)]
    quiet: bool,

    /// Sizes and times for people; with =false in bytes and as dates
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true",
          hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    human: bool,

    /// How it is shown: table, json (an object a line), or a Go template
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["quiet", "json"])]
    format: Option<String>,

    /// The same as --format=json
    #[arg(long, conflicts_with = "quiet")]
    json: bool,

    /// Platform, of an image of several [default: this machine's]
    #[arg(long, value_name = "PLATFORM", value_parser = stored::platform)]
    platform: Option<Platform>,
}

/// Characters of an instruction that are shown.
const SHORT: usize = 45;

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let usage = |reason: String| Failure::usage(format!("--format: {reason}"));
    let template = match args.format.as_deref() {
        None | Some("table" | "json") => None,
        Some(text) => Some(Template::parse(text).map_err(usage)?),
    };
    let store = Machine::enter()?.existing_store()?;
    let found = stored::find(&store, &args.image)?;
    let image = stored::of_platform(&found, &args.image, args.platform.as_ref())?;
    let (manifest, config) = stored::documents(&store, &image)?;
    let mut sizes = manifest.layers.iter().map(|layer| layer.size);
    let mut rows: Vec<Row> = Vec::new();
    for entry in &config.history {
        let size = if entry.empty_layer { 0 } else { sizes.next().unwrap_or(0) };
        rows.push(Row::of(args, entry, size));
    }
    rows.extend(sizes.map(|size| Row::of(args, &image::History::default(), size)));
    rows.reverse();
    // Only what the image ends with has an id: there are no images in between.
    if let Some(last) = rows.first_mut() {
        last.id = match args.no_trunc {
            true => image.config.to_string(),
            false => image.config.hex()[..super::images::SHORT_ID].to_owned(),
        };
    }
    let text = match (&template, args.format.as_deref()) {
        _ if args.quiet => rows.iter().map(|row| format!("{}\n", row.id)).collect(),
        (Some(template), _) => {
            let lines = rows.iter().map(|row| template.fill(&row.json()).map(|line| line + "\n"));
            lines.collect::<Result<String, _>>().map_err(usage)?
        }
        (None, format) if args.json || format == Some("json") => {
            rows.iter().map(|row| format!("{}\n", row.json())).collect()
        }
        _ => table(&rows, if args.no_trunc { usize::MAX } else { terminal::columns() }),
    };
    terminal::print(&text)?;
    Ok(0)
}

struct Row {
    id: String,
    created_at: String,
    created_since: String,
    created_by: String,
    size: String,
    comment: String,
}

impl Row {
    fn of(args: &Args, entry: &image::History, size: u64) -> Row {
        let time: Option<Timestamp> = entry.created.as_ref().and_then(|text| text.parse().ok());
        let created_at = time.map(|time| time.to_string()).unwrap_or_default();
        let created_since = match time {
            Some(time) if args.human => format::ago(SystemTime::from(time), SystemTime::now()),
            _ => created_at.clone(),
        };
        // One line an instruction, whatever it was written on.
        let instruction = entry.created_by.clone().unwrap_or_default();
        let instruction = instruction.split_whitespace().collect::<Vec<_>>().join(" ");
        let created_by = match instruction.char_indices().nth(SHORT) {
            Some(_) if !args.no_trunc => instruction.chars().take(SHORT - 1).chain(['…']).collect(),
            _ => instruction,
        };
        Row {
            id: "<missing>".to_owned(),
            created_at,
            created_since,
            created_by,
            size: if args.human { format::bytes(size) } else { size.to_string() },
            comment: entry.comment.clone().unwrap_or_default(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "Comment": self.comment,
            "CreatedAt": self.created_at,
            "CreatedBy": self.created_by,
            "CreatedSince": self.created_since,
            "ID": self.id,
            "Size": self.size,
        })
    }
}

fn table(rows: &[Row], terminal: usize) -> String {
    let mut table = vec![["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned).to_vec()];
    for row in rows {
        let cells = [&row.id, &row.created_since, &row.created_by, &row.size, &row.comment];
        table.push(cells.map(String::clone).to_vec());
    }
    let text = format::table_within(&table, &[], terminal);
    if text.lines().all(|line| line.width() <= terminal) {
        return text;
    }
    // Which program wrote an entry, and the shell of each, would leave little room for what the entry is.
    for cells in &mut table {
        cells.pop();
        let entry = cells[2].trim_end_matches(" # buildkit");
        cells[2] = entry.replacen("RUN /bin/sh -c ", "RUN ", 1);
    }
    format::table_within(&table, &[2], terminal)
}
