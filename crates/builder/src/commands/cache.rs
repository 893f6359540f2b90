//! `cache`: a look into cache mounts.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cache::{CacheError, CacheMountInfo, CacheMountOptions, ReadableCacheMount, Store};
use files::{CopyOptions, FileTree, Kind, PathSelection, Selection};

use crate::failure::Failure;
use crate::progress::harmless;
use crate::{Machine, format, terminal};

/// Look into cache mounts (RUN --mount=type=cache): list, read, copy, remove, move to another machine
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List cache mounts: what is in them, how many steps used them, and when the last one did
    Ls,
    /// Show a cache mount: its instances and what is in a directory of it
    Inspect {
        /// The mount's id; without id= in the Dockerfile it is the target
        id: String,
        /// Directory in it
        #[arg(default_value = "/")]
        path: PathBuf,
    },
    /// Copy files out of a cache mount
    Cp {
        /// A cache mount, and a path in it
        #[arg(value_name = "ID:PATH")]
        from: String,
        /// Where to; a file, or a directory that gets them; `-` is standard output, which gets a tar
        #[arg(value_name = "DEST")]
        to: PathBuf,
    },
    /// Remove cache mounts; what a build is using goes when it is free
    Rm {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Write a cache mount as a tar
    Export {
        /// The mount's id
        id: String,
        /// The file; `-` is standard output
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Make a cache mount of a tar; it takes the place of what is there
    Import {
        /// The mount's id
        id: String,
        /// The file; `-` is standard input
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        input: PathBuf,
    },
}

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    let machine = Machine::enter()?;
    let store = match args.command {
        Command::Import { .. } => machine.store_or_new()?,
        Command::Rm { .. } => machine.store_to_remove()?,
        _ => machine.existing_store()?,
    };
    // What is read here is not pruned meanwhile.
    let session = store.session()?;
    match args.command {
        Command::Ls => list(&store)?,
        Command::Inspect { id, path } => inspect(&store, &id, &path)?,
        Command::Cp { from, to } => copy(&store, &from, &to)?,
        Command::Rm { ids } => remove(&store, &ids)?,
        Command::Export { id, output } => export(&store, &id, &output)?,
        Command::Import { id, input } => import(&store, &id, &input)?,
    }
    session.finish()?;
    Ok(0)
}

fn list(store: &Store) -> Result<(), Failure> {
    let now = SystemTime::now();
    let mounts = store.cache_mounts()?;
    if mounts.is_empty() {
        terminal::tell("There are no cache mounts. They come with RUN --mount=type=cache,target=PATH.\n");
        return Ok(());
    }
    let mut rows = vec![["ID", "SIZE", "FILES", "USED BY", "LAST USED", "STATE"].map(str::to_owned).to_vec()];
    rows.extend(mounts.iter().map(|mount| row(mount, now)));
    terminal::print(&format::table_within(&rows, &[0], terminal::columns()))
}

fn row(mount: &CacheMountInfo, now: SystemTime) -> Vec<String> {
    let state = match (mount.in_use, mount.retired) {
        (true, true) => "in use, to be removed",
        (true, false) => "in use",
        (false, true) => "to be removed",
        (false, false) => "",
    };
    vec![
        harmless(&mount.id),
        format::bytes(mount.size.bytes),
        mount.size.count.to_string(),
        format::count(mount.uses, "step"),
        mount.last_used.map_or_else(|| "never".to_owned(), |at| format::ago(at, now)),
        state.to_owned(),
    ]
}

fn missing(store: &Store, id: &str) -> Failure {
    let failure = Failure::build(format!("there is no cache mount `{id}`"));
    match store.cache_mounts() {
        Ok(mounts) if !mounts.is_empty() => failure.hint("`builder cache ls` lists them"),
        _ => failure.hint("there are none: they come with RUN --mount=type=cache,target=PATH"),
    }
}

fn open(store: &Store, id: &str) -> Result<ReadableCacheMount, Failure> {
    store.open_cache_mount(id, None)?.ok_or_else(|| missing(store, id))
}

fn inspect(store: &Store, id: &str, path: &Path) -> Result<(), Failure> {
    let mount = open(store, id)?;
    let now = SystemTime::now();
    let mut rows = vec![["ID", "SIZE", "FILES", "USED BY", "LAST USED", "STATE"].map(str::to_owned).to_vec()];
    let instances = store.cache_mounts()?;
    rows.extend(instances.iter().filter(|instance| instance.id == id).map(|instance| row(instance, now)));
    let mut text = format::table_within(&rows, &[0], terminal::columns());
    let tree = mount.tree()?;
    let relative = path.strip_prefix("/").unwrap_or(path);
    let failed = |error: files::TreeError| Failure::from_source(&error);
    let resolved = files::resolve(&tree, relative, true).map_err(|error| Failure::from_source(&error))?;
    let found = tree.metadata(&resolved).map_err(failed)?;
    let Some(found) = found else {
        return Err(Failure::build(format!("there is no {} in the cache mount {id}", path.display())));
    };
    let mut entries = match found.kind {
        Kind::Directory => tree.list(&resolved).map_err(failed)?,
        _ => vec![(resolved.file_name().unwrap_or_default().to_owned(), found)],
    };
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let mut rows = Vec::new();
    for (name, metadata) in entries {
        let kind = match metadata.kind {
            Kind::Directory => "d",
            Kind::Symlink => "l",
            Kind::File => "-",
            _ => "?",
        };
        let name = name.to_string_lossy();
        rows.push(vec![
            format!("{kind}{:04o}", metadata.mode),
            format!("{}:{}", metadata.uid, metadata.gid),
            if metadata.kind == Kind::File { format::bytes(metadata.size) } else { String::new() },
            harmless(&name),
        ]);
    }
    text.push_str(&format!("\n{}", format::table(&rows)));
    terminal::print(&text)
}

/// The first colon that leaves the name of a mount before it: ids may have colons, paths may too.
fn apart<'a>(store: &Store, from: &'a str) -> Result<(&'a str, &'a str), Failure> {
    let mut colons = from.match_indices(':').map(|(at, _)| (&from[..at], &from[at + 1..]));
    let known = |(id, _): &(&str, &str)| store.open_cache_mount(id, None).is_ok_and(|mount| mount.is_some());
    match colons.clone().find(known) {
        Some(found) => Ok(found),
        None => match colons.next() {
            Some((id, _)) => Err(missing(store, id)),
            None => Err(Failure::usage(format!("{from}: expected ID:PATH"))),
        },
    }
}

fn copy(store: &Store, from: &str, to: &Path) -> Result<(), Failure> {
    let (id, path) = apart(store, from)?;
    let mount = open(store, id)?;
    let tree = mount.tree()?;
    let failed = |error: files::Error| Failure::from_source(&error);
    if to.as_os_str() == "-" {
        let relative = Path::new(path.trim_start_matches('/'));
        let resolved = files::resolve(&tree, relative, false).map_err(failed)?;
        if tree.metadata(&resolved).map_err(|error| Failure::from_source(&error))?.is_none() {
            return Err(Failure::build(format!("{from}: there is nothing that could be copied")));
        }
        return to_stdout("name a file or directory to copy to", |out| mount.export_at(&resolved, out));
    }
    let selection = Selection::Path(PathSelection::exact(path.trim_start_matches('/')));
    let selected = files::select(&tree, &selection, &|| false).map_err(failed)?;
    let Some(found) = selected.matches.first() else {
        return Err(Failure::build(format!("{from}: there is nothing that could be copied")));
    };
    // As cp does: a device or a pipe is written to, not replaced.
    let is_special = std::fs::metadata(to).is_ok_and(|to| !to.is_dir() && !to.is_file());
    if found.kind() == Kind::File && is_special {
        let mut file = tree.open(&found.source).map_err(|error| Failure::from_source(&error))?;
        let mut out =
            std::fs::OpenOptions::new().write(true).open(to).map_err(|e| Failure::io("open", to, &e))?;
        return io::copy(&mut file, &mut out).map(drop).map_err(|error| Failure::io("write", to, &error));
    }
    let (directory, destination) = if found.kind() == Kind::Directory || to.is_dir() {
        std::fs::create_dir_all(to).map_err(|error| Failure::io("create", to, &error))?;
        let name =
            if found.kind() == Kind::Directory { PathBuf::new() } else { PathBuf::from(&found.base_name) };
        (to.to_owned(), name)
    } else {
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (parent.to_owned(), PathBuf::from(to.file_name().unwrap_or_default()))
    };
    let options = files::WriterOptions {
        owners: files::Owners::Real,
        opaque: files::OpaqueMark::User,
        parents: files::Attributes::with_mode(0o755),
    };
    let writer = files::TreeWriter::new(&directory, options).map_err(failed)?;
    // They become the caller's, as with cp.
    let owner = Some((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    let options = CopyOptions { destination, owner, keep_top: true, ..CopyOptions::default() };
    files::write_selected(&tree, found, &writer, &options, &|| false).map_err(failed)?;
    writer.finish().map_err(failed)
}

fn remove(store: &Store, ids: &[String]) -> Result<(), Failure> {
    for id in ids {
        if store.open_cache_mount(id, None)?.is_none() {
            return Err(missing(store, id));
        }
    }
    for id in ids {
        let (removed, busy) = store.remove_cache_mount(id)?;
        let mut text = format!("{id}: freed {}", format::bytes(removed.bytes));
        if busy > 0 {
            text.push_str(&format!("; {busy} in use, to be removed when free"));
        }
        terminal::print(&format!("{text}\n"))?;
    }
    Ok(())
}

fn export(store: &Store, id: &str, output: &Path) -> Result<(), Failure> {
    let mount = open(store, id)?;
    if output.as_os_str() == "-" {
        return to_stdout("give -o FILE", |out| mount.export(out));
    }
    exporter::Output::File(output.to_owned()).write(|out| Ok(mount.export(out)?))
}

/// Writes an archive to standard output, which must not be a terminal; `otherwise` is what else can be done.
fn to_stdout(
    otherwise: &str,
    write: impl FnOnce(&mut io::StdoutLock<'_>) -> Result<(), CacheError>,
) -> Result<(), Failure> {
    if io::IsTerminal::is_terminal(&io::stdout()) {
        return Err(Failure::usage("refusing to write an archive to the terminal")
            .hint(format!("redirect standard output, or {otherwise}")));
    }
    let mut out = io::stdout().lock();
    write(&mut out)?;
    out.flush().map_err(|error| Failure::standard_output(&error))
}

fn import(store: &Store, id: &str, input: &Path) -> Result<(), Failure> {
    let stream: Box<dyn Read + Send> = match input.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => {
            let file = std::fs::File::open(input).map_err(|error| Failure::io("read", input, &error))?;
            Box::new(file)
        }
    };
    let mut stream = image::decompress(stream).map_err(|error| Failure::io("read", input, &error))?;
    Ok(store.import_cache_mount(&CacheMountOptions::new(id), &mut stream)?)
}
