//! `advise [--here] FILE…`: what the checks of this crate say of Dockerfiles, without their images; with `--here` their contexts are
//! the directories that they lie in. For reading many of them with a critical eye.

#[path = "../tests/checked/mod.rs"]
mod checked;
#[path = "../tests/invented/mod.rs"]
mod invented;

use std::collections::BTreeMap;
use std::path::Path;

use insight::{ListedFile, Listing};

fn main() {
    let (mut read, mut refused) = (0, 0);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut here = false;
    for path in std::env::args().skip(1) {
        if path == "--here" {
            here = true;
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        read += 1;
        let context = here.then(|| listing(Path::new(&path).parent().unwrap_or(Path::new("."))));
        let Ok(findings) = checked::check(&text, &invented::options(), context.as_ref()) else {
            refused += 1;
            continue;
        };
        let advice =
            findings.iter().filter(|finding| finding.rule.is_some_and(|rule| insight::rule(rule).is_some()));
        for finding in advice {
            let rule = finding.rule.unwrap_or_default();
            *counts.entry(rule).or_default() += 1;
            println!("{path}:{}: {rule}: {}", finding.line_col(&text).0, finding.message);
            for note in finding.notes.iter().chain(&finding.help) {
                println!("    {note}");
            }
        }
    }
    println!("{read} files, {refused} of them with mistakes: {counts:?}");
}

/// All files of a directory, whatever its ignore file says.
fn listing(root: &Path) -> Listing {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let (Ok(metadata), path) = (entry.metadata(), entry.path()) else { continue };
            if metadata.is_dir() {
                directories.push(path);
            } else if let Ok(path) = path.strip_prefix(root) {
                let path = path.to_string_lossy().into_owned();
                files.push(ListedFile { path, size: metadata.len(), link: metadata.is_symlink() });
            }
        }
    }
    Listing::new(files)
}
