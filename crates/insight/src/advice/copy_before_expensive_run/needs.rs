//! Which files of the context an installation needs, and where they are to go.

use std::collections::BTreeSet;

use crate::advice::listing::Listing;
use crate::advice::packages::Install;
use crate::advice::steps::{Copied, Step, below, beneath, joined, resolved};

/// A file or directory of the context that has to be copied before an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    /// Relative to the context.
    pub(super) path: String,
    /// The directory that it goes to, or that it becomes; absolute.
    pub(super) directory: String,
    pub(super) is_directory: bool,
    /// The copy that brings it now, by its place among the region's.
    pub(super) copy: usize,
    /// What the installation makes beside it and the context has too: a later copy would replace it.
    pub(super) replaced: Vec<String>,
}

impl Need {
    pub(super) fn shown(&self) -> String {
        let end = if self.is_directory { "/" } else { "" };
        format!("{}{end}", self.path)
    }
}

/// Where files come from.
pub(super) struct Context<'a> {
    /// The copies of the region.
    pub(super) copies: &'a [&'a Step<'a>],
    pub(super) listing: Option<&'a Listing>,
}

/// What an installation needs in order to run above the copies. `None` when one of its files comes from somewhere else, or when it
/// may need more.
pub(super) fn of(install: &Install, directory: &str, context: &Context<'_>) -> Option<Vec<Need>> {
    let directory = resolved(directory, install.directory.as_deref().unwrap_or_default());
    let mut needs: Vec<Need> = Vec::new();
    for file in &install.files {
        let need = context.find(&resolved(&directory, file))?;
        // Lists of packages name each other.
        let (parent, name) = need.path.rsplit_once('/').unwrap_or(("", &need.path));
        let need = match parent.rsplit('/').next().unwrap_or_default() {
            last if last.contains("requirement") && name.ends_with(".txt") => {
                Need { path: parent.to_owned(), is_directory: true, ..need }
            }
            _ => need,
        };
        if !needs.contains(&need) {
            needs.push(need);
        }
    }
    let first = needs.first()?.clone();
    let base = match first.path.rsplit_once('/') {
        Some((parent, _)) if !first.is_directory => parent,
        _ => "",
    };
    if let Some(listing) = context.listing {
        if install.unless.iter().any(|pattern| exists(listing, base, pattern)) {
            return None;
        }
        let made = install.made.iter().map(|name| joined(base, name));
        if let Some(first) = needs.first_mut() {
            first.replaced = made.filter(|path| !listing.below(path).is_empty()).collect();
        }
        let others = install.also.iter().map(|name| joined(base, name)).filter(|path| listing.has(path));
        needs.extend(others.map(|path| Need { path, ..first.clone() }));
        for name in install.directories {
            let path = joined(base, name);
            if !listing.below(&path).is_empty() {
                let directory = resolved(&first.directory, name);
                needs.push(Need { path, directory, is_directory: true, ..first.clone() });
            }
        }
    } else {
        needs.extend(install.usual.iter().map(|name| Need { path: joined(base, name), ..first.clone() }));
    }
    // Names with blanks would need the other form of COPY.
    let is_simple = |need: &Need| !need.path.contains(|c: char| c.is_whitespace() || "$*?[\\\"'".contains(c));
    needs.iter().all(is_simple).then_some(needs)
}

impl Context<'_> {
    /// The file of the context that a copy brings to a place.
    fn find(&self, place: &str) -> Option<Need> {
        for (copy, step) in self.copies.iter().enumerate() {
            let Some(transfer) = step.transfer().filter(|transfer| transfer.is_plain) else { continue };
            let Some(inside) = below(place, transfer.destination) else { continue };
            for source in transfer.sources.iter().filter(|source| source.is_of_context()) {
                let Some(path) = brought(source, inside) else { continue };
                if self.listing.is_none_or(|listing| listing.has(&path)) {
                    let (directory, _) = place.rsplit_once('/')?;
                    let directory = if directory.is_empty() { "/" } else { directory }.to_owned();
                    return Some(Need { path, directory, is_directory: false, copy, replaced: Vec::new() });
                }
            }
        }
        None
    }
}

/// The file of the context that a source brings to a place below the destination.
fn brought(source: &Copied<'_>, inside: &str) -> Option<String> {
    let pattern = &source.selection.pattern;
    match source.selection.wildcards {
        // Directories lose their names.
        true => (pattern == "*" && !inside.contains('/')).then(|| inside.to_owned()),
        false => Some(joined(pattern, inside)),
    }
}

/// `x`, `*.x` or `*/x` in a directory.
fn exists(listing: &Listing, directory: &str, pattern: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => listing.has(&joined(directory, pattern)),
        Some(ending) => listing.below(directory).iter().any(|file| {
            let inside = beneath(&file.path, directory).unwrap_or_default();
            inside.ends_with(ending) && (ending.starts_with('/') || !inside.contains('/'))
        }),
    }
}

/// Whether the copies bring anything else than what is needed, and what nobody edits for the program's sake.
pub(super) fn are_others(copies: &[&Step<'_>], needed: &[&Need], listing: &Listing) -> bool {
    let needed: BTreeSet<&str> = needed.iter().map(|need| need.path.as_str()).collect();
    let is_needed = |path: &str| {
        let directories = path.match_indices('/').map(|(end, _)| &path[..end]);
        needed.contains(path) || directories.into_iter().any(|directory| needed.contains(directory))
    };
    let is_other = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        !is_needed(path) && !name.ends_with("ockerfile") && name != ".dockerignore"
    };
    let sources = copies.iter().filter_map(|copy| copy.transfer()).flat_map(|transfer| &transfer.sources);
    sources.filter(|source| source.is_of_context()).any(|source| {
        let pattern = if source.selection.wildcards { "" } else { source.selection.pattern.as_str() };
        listing.below(pattern).iter().any(|file| is_other(&file.path))
    })
}
