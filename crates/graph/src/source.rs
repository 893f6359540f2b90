use hash::{Digest, StableHash, StableHasher};
use image::Platform;

/// Where a tree comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing: `FROM scratch`.
    Scratch,
    /// An image, whatever it was resolved from; config values reach steps through their own fields.
    Image {
        /// As the user wrote it, for messages only.
        name: String,
        /// Digest of the platform's manifest.
        manifest: Digest,
        /// The platform.
        platform: Platform,
    },
    /// Files given on the command line: the build context or a named one, whatever kind it is.
    Local {
        /// `context`, or the name of the named context.
        name: String,
    },
    /// One file from an HTTP(S) server.
    Http(Http),
    /// The files of a commit.
    Git(Git),
}

impl Source {
    /// Whether it has no key of its own: what uses it is keyed by the content that it selects.
    pub fn is_keyed_by_content(&self) -> bool {
        matches!(self, Source::Local { .. } | Source::Http(_) | Source::Git(_))
    }
}

/// A file to fetch; it becomes a tree of one file, owned by root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// `http` or `https`, no variables left.
    pub url: String,
    /// The name that the file gets: the last component of the URL's path.
    pub name: String,
    /// What its bytes must hash to.
    pub checksum: Option<Digest>,
}

/// A commit to fetch; its files become a tree, owned by root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Git {
    /// As git takes it: `https://host/path`, `ssh://…`, `user@host:path`.
    pub remote: String,
    /// Branch, tag, full reference or commit; `None` is the remote's default branch.
    pub reference: Option<String>,
    /// The directory that becomes the root, cleaned; empty is all.
    pub directory: String,
    /// What the commit's hexadecimal id must begin with.
    pub checksum: Option<String>,
    /// Whether `.git` stays.
    pub keep_git_dir: bool,
    /// Whether submodules are fetched too.
    pub submodules: bool,
    /// Whether `reference` and `checksum` are fetched by the commit's id, for commits that no branch reaches.
    pub fetch_by_commit: bool,
    /// Whether files have the time of the commit instead of that of the checkout.
    pub commit_times: bool,
}

impl StableHash for Source {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        match self {
            Source::Scratch => 0u8.stable_hash(hasher),
            Source::Image { name: _, manifest, platform } => {
                1u8.stable_hash(hasher);
                manifest.stable_hash(hasher);
                platform.stable_hash(hasher);
            }
            Source::Local { name } => {
                2u8.stable_hash(hasher);
                name.stable_hash(hasher);
            }
            Source::Http(Http { url, name, checksum }) => {
                3u8.stable_hash(hasher);
                url.stable_hash(hasher);
                name.stable_hash(hasher);
                checksum.stable_hash(hasher);
            }
            Source::Git(git) => {
                4u8.stable_hash(hasher);
                git.remote.stable_hash(hasher);
                git.reference.stable_hash(hasher);
                git.directory.stable_hash(hasher);
                git.checksum.stable_hash(hasher);
                git.keep_git_dir.stable_hash(hasher);
                git.submodules.stable_hash(hasher);
                git.fetch_by_commit.stable_hash(hasher);
                git.commit_times.stable_hash(hasher);
            }
        }
    }
}
