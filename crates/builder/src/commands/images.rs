use std::time::SystemTime;

use cache::{Store, StoredImage};
use image::Reference;
use jiff::Timestamp;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr as _;

use super::stored;
use crate::failure::Failure;
use crate::template::Template;
use crate::{Machine, format, terminal};

/// List the images of the local image store.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  builder images                        every image
  builder images app                    those of one repository
  builder images -f dangling=true -q    ids of those without a name
  builder images --format '{{.Repository}}:{{.Tag}} {{.Size}}'

Fields of --format: .ID .Repository .Tag .Digest .Platform .CreatedSince
.CreatedAt .Size")]
pub(crate) struct Args {
    /// Repository, or repository and tag; may hold * and ?
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,

    /// Print nothing but ids, in full with --no-trunc
    #[arg(short, long)]
    quiet: bool,

    /// Accepted as Docker has it: there are no images in between
    #[arg(short, long)]
    all: bool,

    /// Do not cut ids
    #[arg(long)]
    no_trunc: bool,

    /// Show digests: what the name means, which of several platforms is that of their index
    #[arg(long)]
    digests: bool,

    /// Only those with dangling=true|false, reference=PATTERN or label=KEY[=VALUE]; repeatable
    #[arg(short, long, value_name = "FILTER", value_parser = filter)]
    filter: Vec<Filter>,

    /// How it is shown: table, json, or a Go template, also with `table ` in front
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["quiet", "json"])]
    format: Option<String>,

    /// The same as --format=json: an object a line
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Dangling(bool),
    Reference(String),
    Label(String, Option<String>),
}

fn filter(text: &str) -> Result<Filter, String> {
    match text.split_once('=') {
        Some(("dangling", "true" | "1")) => Ok(Filter::Dangling(true)),
        Some(("dangling", "false" | "0")) => Ok(Filter::Dangling(false)),
        Some(("reference", pattern)) if !pattern.is_empty() => Ok(Filter::Reference(pattern.to_owned())),
        Some(("label", label)) if !label.is_empty() => Ok(match label.split_once('=') {
            Some((key, value)) => Filter::Label(key.to_owned(), Some(value.to_owned())),
            None => Filter::Label(label.to_owned(), None),
        }),
        _ => Err("known are dangling=true|false, reference=PATTERN and label=KEY[=VALUE]".to_owned()),
    }
}

/// Characters of an id that are shown, as Docker shows them.
pub(super) const SHORT_ID: usize = 12;
/// What stands for a name or a tag that is not there.
const NONE: &str = "<none>";

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let Args { all: _, .. } = args;
    let template = match args.format.as_deref() {
        None | Some("table" | "json") => None,
        Some(text) => {
            let (is_table, text) = match text.strip_prefix("table ") {
                Some(text) => (true, text),
                None => (false, text),
            };
            let template =
                Template::parse(text).map_err(|reason| Failure::usage(format!("--format: {reason}")))?;
            Some((is_table, template))
        }
    };
    let store = Machine::enter()?.existing_store()?;
    let mut images = stored::listed(&store)?;
    // What a name is made up for has no place among names.
    images.sort_by_key(|image| super::is_id_name(&image.name));
    if let Some(pattern) = &args.repository {
        images.retain(|image| is_named(&image.name, pattern));
    }
    for filter in &args.filter {
        images = kept(&store, images, filter)?;
    }
    let rows: Vec<Row> = images.iter().map(|image| Row::of(&store, image, args.no_trunc)).collect();
    let text = if args.quiet {
        rows.iter().map(|row| format!("{}\n", row.id)).collect()
    } else if args.json || args.format.as_deref() == Some("json") {
        rows.iter().map(|row| format!("{}\n", row.json())).collect()
    } else if let Some((is_table, template)) = template {
        let lines = rows.iter().map(|row| template.fill(&row.json()));
        let lines = lines
            .collect::<Result<Vec<_>, _>>()
            .map_err(|reason| Failure::usage(format!("--format: {reason}")))?;
        match is_table {
            true => {
                let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                let mut table = vec![cells(&template.title())];
                table.extend(lines.iter().map(|line| cells(line)));
                format::table(&table)
            }
            false => lines.iter().map(|line| format!("{line}\n")).collect(),
        }
    } else {
        table(&rows, args.digests, if args.no_trunc { usize::MAX } else { terminal::columns() })
    };
    terminal::print(&text)?;
    Ok(0)
}

fn kept(store: &Store, images: Vec<StoredImage>, filter: &Filter) -> Result<Vec<StoredImage>, Failure> {
    let mut kept = Vec::new();
    for image in images {
        let passes = match filter {
            Filter::Dangling(dangling) => super::is_id_name(&image.name) == *dangling,
            Filter::Reference(pattern) => is_named(&image.name, pattern),
            Filter::Label(key, value) => {
                let (_, config) = stored::documents(store, &image)?;
                let labels = config.config.labels.unwrap_or_default();
                labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }
        };
        if passes {
            kept.push(image);
        }
    }
    Ok(kept)
}

/// Whether a pattern as `app*:1.?` means a name, in its short or in its long form. A `*` stops at slashes.
fn is_named(name: &Reference, pattern: &str) -> bool {
    if super::is_id_name(name) {
        return false;
    }
    let (full, short) = (name.to_string(), name.familiar());
    let without_tag = |text: &str| match &name.tag {
        Some(tag) => text.strip_suffix(&format!(":{tag}")).unwrap_or(text).to_owned(),
        None => text.split('@').next().unwrap_or(text).to_owned(),
    };
    [without_tag(&full), without_tag(&short), full, short].iter().any(|text| matches(pattern, text))
}

/// Docker's `path.Match`, without classes.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pattern_chars = pattern.chars();
    match pattern_chars.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = pattern_chars.as_str();
            let end = text.find('/').unwrap_or(text.len());
            text.char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .take_while(|at| *at <= end)
                .any(|at| matches(rest, &text[at..]))
        }
        Some(wanted) => {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| (wanted == '?' && c != '/') || c == wanted)
                && matches(pattern_chars.as_str(), chars.as_str())
        }
    }
}

/// An image as it is shown.
struct Row {
    id: String,
    repository: String,
    tag: String,
    digest: String,
    platform: String,
    created_since: String,
    created_at: String,
    size: String,
}

impl Row {
    fn of(store: &Store, image: &StoredImage, no_trunc: bool) -> Row {
        let (repository, tag) = name_and_tag(&image.name);
        let id = if no_trunc { image.config.to_string() } else { image.config.hex()[..SHORT_ID].to_owned() };
        let created = created(store, image);
        Row {
            id,
            repository,
            tag,
            digest: stored::digest(image).to_string(),
            platform: image.platform.to_string(),
            created_since: format::ago(created, SystemTime::now()),
            created_at: Timestamp::try_from(created)
                .map(|time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string())
                .unwrap_or_default(),
            size: format::bytes(image.size),
        }
    }

    /// Docker's fields.
    fn json(&self) -> Value {
        json!({
            "CreatedAt": self.created_at,
            "CreatedSince": self.created_since,
            "Digest": self.digest,
            "ID": self.id,
            "Platform": self.platform,
            "Repository": self.repository,
            "Size": self.size,
            "Tag": self.tag,
        })
    }
}

/// When an image was made, as it says itself; of one that says nothing, when it came here.
fn created(store: &Store, image: &StoredImage) -> SystemTime {
    let said = stored::documents(store, image).ok().and_then(|(_, config)| config.created);
    let said = said.and_then(|text| text.parse::<Timestamp>().ok());
    said.map_or(image.created, SystemTime::from)
}

/// The two parts of a name that Docker shows.
pub(super) fn name_and_tag(name: &Reference) -> (String, String) {
    if super::is_id_name(name) {
        return (NONE.to_owned(), NONE.to_owned());
    }
    let familiar = name.familiar();
    match &name.tag {
        Some(tag) => (familiar.strip_suffix(&format!(":{tag}")).unwrap_or(&familiar).to_owned(), tag.clone()),
        None => (familiar.split('@').next().unwrap_or(&familiar).to_owned(), NONE.to_owned()),
    }
}

/// Where lines are to be cut, long repositories and tags lose their middle; ids, which other commands take, do not.
fn table(rows: &[Row], digests: bool, terminal: usize) -> String {
    let mut title: Vec<&str> = vec!["REPOSITORY", "TAG"];
    if digests {
        title.push("DIGEST");
    }
    title.extend(["IMAGE ID", "PLATFORM", "CREATED", "SIZE"]);
    let mut table = vec![title.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for row in rows {
        let mut cells = vec![&row.repository, &row.tag];
        if digests {
            cells.push(&row.digest);
        }
        cells.extend([&row.id, &row.platform, &row.created_since, &row.size]);
        table.push(cells.into_iter().cloned().collect());
    }
    let text = format::table_within(&table, &[0, 1], terminal);
    if text.lines().all(|line| line.width() <= terminal)
        || rows.iter().any(|row| row.platform != rows[0].platform)
    {
        return text;
    }
    // Where there is no room, what is the same in each line goes.
    let platform = table[0].len() - 3;
    table.iter_mut().for_each(|cells| drop(cells.remove(platform)));
    format::table_within(&table, &[0, 1], terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_names() {
        let named = |name: &str, pattern: &str| is_named(&name.parse().unwrap(), pattern);
        assert!(named("app:1", "app") && named("app:1", "app:1") && named("app:1", "a*:?"));
        assert!(named("r.io/team/app", "r.io/team/*") && named("app", "docker.io/library/app"));
        assert!(!named("app:1", "app:2") && !named("r.io/team/app", "r.io/*") && !named("apple", "app"));
    }

    #[test]
    fn filters() {
        assert_eq!(filter("dangling=true"), Ok(Filter::Dangling(true)));
        assert_eq!(filter("label=a=b=c"), Ok(Filter::Label("a".into(), Some("b=c".into()))));
        assert!(filter("dangling=x").is_err() && filter("before=a").is_err());
    }
}
