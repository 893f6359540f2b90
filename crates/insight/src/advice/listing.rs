use std::ops::Range;

/// The files of a build context, without what `.dockerignore` leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Sorted.
    files: Vec<ListedFile>,
}

/// One file of a [`Listing`]: anything but a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedFile {
    /// Relative to the context, with `/` between components.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Whether it is a symbolic link.
    pub link: bool,
}

impl Listing {
    /// In any order.
    pub fn new(files: impl IntoIterator<Item = ListedFile>) -> Listing {
        let mut files: Vec<ListedFile> = files.into_iter().collect();
        files.sort();
        Listing { files }
    }

    pub(super) fn files(&self) -> &[ListedFile] {
        &self.files
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.files.binary_search_by(|file| file.path.as_str().cmp(path)).is_ok()
    }

    pub(super) fn is_link(&self, path: &str) -> bool {
        let found = self.files.binary_search_by(|file| file.path.as_str().cmp(path));
        found.is_ok_and(|index| self.files[index].link)
    }

    /// Where a file, or all files in a directory and below, stand among the files.
    pub(super) fn place(&self, path: &str) -> Range<usize> {
        match self.files.binary_search_by(|file| file.path.as_str().cmp(path)) {
            Ok(index) => index..index + 1,
            Err(_) => self.range(path),
        }
    }

    /// All files in a directory and below; an empty path is the context.
    pub(super) fn below(&self, directory: &str) -> &[ListedFile] {
        &self.files[self.range(directory)]
    }

    fn range(&self, directory: &str) -> Range<usize> {
        if directory.is_empty() {
            return 0..self.files.len();
        }
        let prefix = format!("{directory}/");
        let start = self.files.partition_point(|file| file.path < prefix);
        start..start + self.files[start..].partition_point(|file| file.path.starts_with(&prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories() {
        let file = |path: &str| ListedFile { path: path.to_owned(), size: 1, link: false };
        let listing = Listing::new(["b/x", "a.c", "a/b", "a/a/c", "a-b/c"].map(file));
        let below =
            |directory| listing.below(directory).iter().map(|file| file.path.as_str()).collect::<Vec<_>>();
        assert_eq!(below("a"), ["a/a/c", "a/b"]);
        assert_eq!(below("b/x"), [""; 0]);
        assert_eq!(below("").len(), 5);
        assert!(listing.has("a/b") && !listing.has("a"));
        assert_eq!(listing.place("a"), 2..4);
        assert_eq!(listing.place("a.c"), 1..2);
        assert_eq!(listing.place("none"), 5..5);
    }
}
