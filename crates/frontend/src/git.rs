//! References to git repositories as ADD and contexts write them (BuildKit's `frontend/dockerfile/dfgitutil`):
//! `https://host/path.git#branch:directory`, `git@host:path?tag=v1&subdir=src`.

use std::collections::BTreeMap;

use graph::Git;

use crate::paths;
use crate::url::{self, Url};

/// A reference to a repository, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitReference {
    /// As git takes it.
    pub remote: String,
    /// Branch, tag, full reference or commit.
    pub reference: Option<String>,
    /// The directory that is wanted, clean; empty is all.
    pub directory: String,
    /// What the commit's id must begin with.
    pub checksum: Option<String>,
    /// `keep-git-dir`, where it is said.
    pub keep_git_dir: Option<bool>,
    /// `submodules`; they are fetched where nothing is said.
    pub submodules: Option<bool>,
    /// `fetch-by-commit`.
    pub fetch_by_commit: bool,
    /// `mtime=commit`.
    pub commit_times: bool,
}

impl GitReference {
    /// Reads a reference; `None` when `text` names no repository: it does when its scheme is `git` or `ssh`, when it has the form
    /// `user@host:path`, and over HTTP when its path ends in `.git`.
    ///
    /// # Errors
    /// A query that is wrong, in one line.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some(parts) = Parts::of(text) else { return Ok(None) };
        let mut git = Self { remote: parts.remote.to_owned(), ..Self::default() };
        let (reference, directory) = parts.fragment.split_once(':').unwrap_or((&parts.fragment, ""));
        git.set_reference(reference)?;
        git.directory = paths::source(directory);
        git.read_query(parts.query)?;
        if let Some(reference) = &git.reference
            && reference.starts_with('-')
        {
            return Err(format!("`{reference}` cannot be a reference of git: it begins with a dash"));
        }
        if git.fetch_by_commit && !git.names_commit() {
            return Err(
                "`fetch-by-commit` needs the whole id of a commit, in `checksum` or as reference".to_owned()
            );
        }
        Ok(Some(git))
    }

    /// What has to be fetched.
    pub fn source(&self, keep_git_dir: bool) -> Git {
        Git {
            remote: self.remote.clone(),
            reference: self.reference.clone(),
            directory: self.directory.clone(),
            checksum: self.checksum.clone(),
            keep_git_dir,
            submodules: self.submodules.unwrap_or(true),
            fetch_by_commit: self.fetch_by_commit,
            commit_times: self.commit_times,
        }
    }

    fn names_commit(&self) -> bool {
        let is_id = |text: &String| matches!(text.len(), 40 | 64) && is_hexadecimal(text);
        self.checksum.as_ref().or(self.reference.as_ref()).is_some_and(is_id)
    }

    fn set_reference(&mut self, reference: &str) -> Result<(), String> {
        match &self.reference {
            _ if reference.is_empty() => {}
            Some(known) if known != reference => {
                return Err(format!("two references of git: `{known}` and `{reference}`"));
            }
            _ => self.reference = Some(reference.to_owned()),
        }
        Ok(())
    }

    fn read_query(&mut self, text: &str) -> Result<(), String> {
        const KEYS: &str =
            "ref, tag, branch, subdir, checksum, commit, keep-git-dir, submodules, mtime and fetch-by-commit";
        let pairs = url::query(text).ok_or_else(|| format!("the query `{text}` cannot be decoded"))?;
        let mut values = BTreeMap::new();
        for (key, value) in pairs {
            if values.insert(key.clone(), value).is_some() {
                return Err(format!("`{key}` stands in the query more than once"));
            }
        }
        let (mut tag, mut branch) = (None, None);
        for (key, value) in &values {
            let switch = matches!(key.as_str(), "keep-git-dir" | "submodules" | "fetch-by-commit");
            if value.is_empty() && !switch {
                return Err(format!("`{key}` has no value in the query"));
            }
            match key.as_str() {
                "ref" => self.set_reference(value)?,
                "tag" => tag = Some(full_name("refs/tags/", value)),
                "branch" => branch = Some(full_name("refs/heads/", value)),
                "subdir" => {
                    let directory = paths::source(value);
                    if !self.directory.is_empty() && self.directory != directory {
                        return Err(format!("two directories: `{}` and `{directory}`", self.directory));
                    }
                    self.directory = directory;
                }
                "checksum" | "commit" => {
                    if !is_hexadecimal(value) {
                        return Err(format!("`{value}` cannot be the id of a commit: it is not hexadecimal"));
                    }
                    if let Some(known) = self.checksum.replace(value.clone())
                        && known != *value
                    {
                        return Err(format!("two commits: `{known}` and `{value}`"));
                    }
                }
                "keep-git-dir" => self.keep_git_dir = Some(switched(key, value)?),
                "submodules" => self.submodules = Some(switched(key, value)?),
                "fetch-by-commit" => self.fetch_by_commit = switched(key, value)?,
                "mtime" => {
                    self.commit_times = match value.as_str() {
                        "commit" => true,
                        "checkout" => false,
                        other => return Err(format!("`mtime={other}`: expected `checkout` or `commit`")),
                    }
                }
                other => return Err(format!("`{other}` means nothing in a query: there are {KEYS}")),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err("both a tag and a branch are asked for".to_owned());
        }
        tag.or(branch).map_or(Ok(()), |name| self.set_reference(&name))
    }
}

/// Whether `text` can be (the beginning of) the id of a commit.
pub(crate) fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn full_name(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

/// A key alone is true.
fn switched(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" => Ok(true),
        value => {
            parser::parse_bool(value).ok_or_else(|| format!("`{key}={value}`: expected `true` or `false`"))
        }
    }
}

struct Parts<'a> {
    remote: &'a str,
    query: &'a str,
    /// Decoded.
    fragment: String,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Option<Self> {
        if text.starts_with("./") || text.starts_with("../") {
            return None;
        }
        if let Some(url) = Url::parse(text) {
            let path = url::decode(url.path, false)?;
            let scheme = url.scheme.to_ascii_lowercase();
            let git = matches!(scheme.as_str(), "git" | "ssh") || url.is_http() && path.ends_with(".git");
            let fragment = url::decode(url.fragment, false)?;
            return git.then_some(Self { remote: url.base, query: url.query, fragment });
        }
        let (before, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = before.split_once('?').unwrap_or((before, ""));
        let (user, rest) = remote.split_once('@')?;
        let (host, _) = rest.split_once(':')?;
        let word = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let scp = word(user, "-_") && word(host, "-.");
        scp.then(|| Self { remote, query, fragment: fragment.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> GitReference {
        GitReference::parse(text).unwrap().unwrap_or_else(|| panic!("{text} is no repository"))
    }

    #[test]
    fn what_is_a_repository() {
        for text in [
            "git@github.com:a/b",
            "git://x/y",
            "ssh://git@x/y",
            "https://x/y.git",
            "HTTPS://x/y.git",
            "http://x/y.git?ref=a",
        ] {
            assert_eq!(parsed(text).remote, text.split('?').next().unwrap());
        }
        for text in [
            "https://x/y.tar.gz",
            "https://x/y?z=.git",
            "a@b",
            "github.com/a/b",
            "./git@x:y",
            "./x:y",
            "a.git",
            "ftp://x/y.git",
        ] {
            assert_eq!(GitReference::parse(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn fragments_and_queries() {
        let git = parsed("https://x/y.git#v1:/a/../b/");
        assert_eq!((git.reference.as_deref(), git.directory.as_str()), (Some("v1"), "b"));
        let git = parsed("https://x/y.git#:sub");
        assert_eq!((git.reference, git.directory.as_str()), (None, "sub"));
        let git = parsed("git@x:y?tag=v1&subdir=/a&keep-git-dir&submodules=0&mtime=commit&commit=abc1");
        assert_eq!(git.remote, "git@x:y");
        assert_eq!((git.reference.as_deref(), git.directory.as_str()), (Some("refs/tags/v1"), "a"));
        assert_eq!((git.keep_git_dir, git.submodules, git.commit_times), (Some(true), Some(false), true));
        assert_eq!(git.checksum.as_deref(), Some("abc1"));
        assert_eq!(parsed("git://x/y?branch=refs/heads/m").reference.as_deref(), Some("refs/heads/m"));
        assert_eq!(parsed("https://x/y.git?ref=v1#v1").reference.as_deref(), Some("v1"));
        let commit = "0123456789012345678901234567890123456789";
        assert!(parsed(&format!("https://x/y.git?fetch-by-commit=true&checksum={commit}")).fetch_by_commit);
        assert!(parsed(&format!("https://x/y.git?fetch-by-commit#{commit}")).fetch_by_commit);
        assert_eq!(parsed("https://x/y.git#a%2Fb").reference.as_deref(), Some("a/b"));
    }

    #[test]
    fn mistakes() {
        for (query, part) in [
            ("ref=a&ref=b", "more than once"),
            ("ref=a#b", "two references"),
            ("tag=a&branch=b", "both"),
            ("tag=a#b", "two references"),
            ("ref=", "no value"),
            ("subdir=a#:b", "two directories"),
            ("commit=abc&checksum=abd", "two commits"),
            ("commit=xyz", "hexadecimal"),
            ("submodules=2", "expected `true`"),
            ("mtime=now", "expected `checkout`"),
            ("what=1", "means nothing"),
            ("fetch-by-commit", "whole id"),
            ("ref=%", "decoded"),
            ("ref=-x", "dash"),
        ] {
            let error = GitReference::parse(&format!("https://x/y.git?{query}")).unwrap_err();
            assert!(error.contains(part), "{query}: {error}");
        }
    }
}
