//! Paths of images as text: always `/`, cleaned without looking at any file.

/// The shortest equal path (Go's `path.Clean`): no `.`, no `//`, `..` resolved, no trailing `/`. `..` of the root is the
/// root.
pub(crate) fn clean(path: impl Into<String> + AsRef<str>) -> String {
    // Most are.
    if is_clean(path.as_ref()) {
        return path.into();
    }
    let path = path.as_ref();
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

/// Whether there is nothing to clean in a path; a relative one that begins with `..` may be clean and not be known as such.
fn is_clean(path: &str) -> bool {
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
    path == "/" || parts.all(|part| !matches!(part, "" | "." | ".."))
}

/// `path` seen from the directory `base`: `path` itself, untouched, when it is absolute, `base` when it is empty.
pub(crate) fn absolute(base: &str, path: &str) -> String {
    match path {
        "" => absolute("/", if base.is_empty() { "/" } else { base }),
        path if path.starts_with('/') => path.to_owned(),
        path => match base.trim_matches('/') {
            "" => clean(["/", path].concat()),
            base => clean(["/", base, "/", path].concat()),
        },
    }
}

/// The destination of a copy: clean, and with a `/` at its end where it was written as a directory.
pub(crate) fn destination(base: &str, path: &str) -> String {
    let directory = matches!(path, "" | ".") || path.ends_with('/') || path.ends_with("/.");
    let mut clean = clean(absolute(base, path));
    if directory && clean != "/" {
        clean.push('/');
    }
    clean
}

/// The source of a copy, relative to the root of its tree; nothing leads above the root. Empty means the root.
pub(crate) fn source(path: &str) -> String {
    let path = path.trim_start_matches('/');
    if is_clean(path) { path.to_owned() } else { clean(["/", path].concat()).split_off(1) }
}

/// The last component (Go's `path.Base`); `.` of nothing.
pub(crate) fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        _ if path.is_empty() => ".",
        Some("") | None => "/",
        Some(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        let cases = [
            ("", "."),
            ("/", "/"),
            ("a//b/./c/..", "a/b"),
            ("/../a", "/a"),
            ("../../a", "../../a"),
            ("/a/b/", "/a/b"),
            ("a/../..", ".."),
            ("/a/b.c/..d", "/a/b.c/..d"),
            ("/a/..", "/"),
            ("/a/.", "/a"),
            ("//", "/"),
            ("./a", "a"),
        ];
        for (path, expected) in cases {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn destinations() {
        let cases = [
            ("/w", "x", "/w/x"),
            ("/w", "x/", "/w/x/"),
            ("/w", "", "/w/"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "/a/../b/.", "/b/"),
            ("/w", "..", "/"),
            ("", "x", "/x"),
            ("/", "/", "/"),
        ];
        for (base, path, expected) in cases {
            assert_eq!(destination(base, path), expected, "{base} {path}");
        }
    }

    #[test]
    fn bases() {
        for (path, expected) in [("a/b", "b"), ("/a/b/", "b"), ("b", "b"), ("/", "/"), ("", "."), ("//", "/")]
        {
            assert_eq!(base(path), expected, "{path}");
        }
    }

    #[test]
    fn sources() {
        for (path, expected) in
            [("/", ""), (".", ""), ("../../x", "x"), ("/a/./b/", "a/b"), ("a/../../b", "b"), ("", "")]
        {
            assert_eq!(source(path), expected, "{path}");
        }
    }
}
