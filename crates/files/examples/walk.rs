//! Measures walking, hashing and copying: `walk DIRECTORY [IGNORE-FILE]`. Without a directory it makes one of 400 directories
//! with 250 files each, 100 to 4,000 bytes.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use files::{
    Attributes, CopyOptions, DirectoryTree, FileTree, Ignore, Ignoring, MemoryStatCache, NoCache, OpaqueMark,
    Owners, Selection, TreeWriter, WriterOptions, digest, select, write_selected,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let made = tempfile::tempdir()?;
    let root = match arguments.next() {
        Some(root) => root,
        None => {
            make(made.path())?;
            // Inodes must be older than what counts as racy.
            std::thread::sleep(Duration::from_millis(2500));
            made.path().to_owned()
        }
    };
    let ignore = arguments.next().map(std::fs::read).transpose()?.unwrap_or_default();
    let tree = Ignoring::new(DirectoryTree::context(&root)?, Ignore::parse(&ignore)?);
    let selection =
        Selection::Path(files::PathSelection { owners: false, ..files::PathSelection::exact("") });
    let never = || false;
    let cache = MemoryStatCache::new();
    let selected = timed("walk", || select(&tree, &selection, &never))?;
    println!("  {} entries", selected.matches.iter().map(files::Match::len).sum::<usize>());
    timed("hash without a cache", || digest(&selected, &tree, &NoCache, &never))?;
    let cold = timed("hash into the cache", || digest(&selected, &tree, &cache, &never))?;
    for _ in 0..5 {
        let warm = timed("walk and hash from the cache", || {
            let selected = timed("  walk", || select(&tree, &selection, &never))?;
            timed("  hash", || digest(&selected, &tree, &cache, &never))
        })?;
        assert_eq!(warm, cold);
    }
    let target = tempfile::tempdir()?;
    timed("copy", || copy(&tree, target.path(), &selected))?;
    Ok(())
}

fn copy(tree: &dyn FileTree, target: &Path, selected: &files::Selected) -> Result<(), files::Error> {
    let options = WriterOptions {
        owners: Owners::Real,
        opaque: OpaqueMark::Trusted,
        parents: Attributes::with_mode(0o755),
    };
    let writer = TreeWriter::new(target, options)?;
    for found in &selected.matches {
        write_selected(tree, found, &writer, &CopyOptions::default(), &|| false)?;
    }
    writer.finish()
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = run();
    println!("{:8.1} ms  {what}", started.elapsed().as_secs_f64() * 1000.0);
    result
}

fn make(root: &Path) -> std::io::Result<()> {
    let mut state = 42u64;
    for directory in 0..400 {
        let directory = root.join(format!("directory{directory}"));
        std::fs::create_dir(&directory)?;
        for file in 0..250 {
            // A linear congruential generator: the same tree every time.
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let size = 100 + (state >> 33) % 3901;
            let content: Vec<u8> = (0..size).map(|at| (state >> (at % 56)) as u8 ^ at as u8).collect();
            std::fs::write(directory.join(format!("file{file}")), content)?;
        }
    }
    Ok(())
}
