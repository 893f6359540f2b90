//! URLs as far as a build has to look into them (RFC 3986, read as Go's `net/url` does).

/// The name of a file whose URL has none, as BuildKit calls it.
const UNNAMED: &str = "__unnamed__";

/// The parts of a URL, still encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Url<'a> {
    /// Up to `://`, as written.
    pub(crate) scheme: &'a str,
    /// Without query and fragment, scheme included.
    pub(crate) base: &'a str,
    /// From the first `/` after the host.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) fragment: &'a str,
}

impl<'a> Url<'a> {
    /// Takes `text` apart; `None` when it does not begin with a scheme of letters and digits and `://`.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let (before, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (base, query) = before.split_once('?').unwrap_or((before, ""));
        let after_scheme = &base[(scheme.len() + 3).min(base.len())..];
        let path = after_scheme.find('/').map_or("", |slash| &after_scheme[slash..]);
        debug_assert!(rest.starts_with(after_scheme));
        Some(Self { scheme, base, path, query, fragment })
    }

    /// Whether it is fetched over HTTP.
    pub(crate) fn is_http(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("http") || self.scheme.eq_ignore_ascii_case("https")
    }
}

/// Whether ADD takes `source` for something to download. Upstream looks for the lower-case scheme only.
pub(crate) fn is_http(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// The name of the file behind a URL: the last component of its path, decoded.
pub(crate) fn file_name(url: &str) -> String {
    let name = Url::parse(url).and_then(|url| decode(url.path, false)).and_then(|path| {
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let usable = !matches!(name, "" | "." | "..") && !name.contains('\0');
        usable.then(|| name.to_owned())
    });
    name.unwrap_or_else(|| UNNAMED.to_owned())
}

/// `text` with `%2F` and its like replaced, and `+` by a blank where it stands for one. `None` when that is no text.
pub(crate) fn decode(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                (high << 4 | low) as u8
            }
            b'+' if plus_is_blank => b' ',
            byte => byte,
        });
    }
    String::from_utf8(out).ok()
}

/// The pairs of a query, decoded, in order; a key without `=` has no value.
pub(crate) fn query(text: &str) -> Option<Vec<(String, String)>> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key, true)?, decode(value, true)?))
        })
        .collect()
}

/// A URL for people: without the user's name and password.
pub(crate) fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..host_end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let url = Url::parse("https://u:p@host/a/b.git?x=1#main:dir").unwrap();
        assert_eq!(url.base, "https://u:p@host/a/b.git");
        assert_eq!((url.path, url.query, url.fragment), ("/a/b.git", "x=1", "main:dir"));
        let bare = Url::parse("http://host").unwrap();
        assert_eq!((bare.path, bare.query, bare.fragment), ("", "", ""));
        assert_eq!(Url::parse("http://#x").unwrap().base, "http://");
        for text in ["a/b", "://x", "git@host:x", "a b://c"] {
            assert_eq!(Url::parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_of_files() {
        for (url, name) in [
            ("http://h/a/b.txt", "b.txt"),
            ("http://h/a/b.txt?x=/c", "b.txt"),
            ("http://h/a/b%20c", "b c"),
            ("http://h/a/", "a"),
            ("http://h/a%2Fb", "b"),
            ("http://h/", UNNAMED),
            ("http://h", UNNAMED),
            ("http://h/a/..", UNNAMED),
            ("http://h/%zz", UNNAMED),
            ("http://h/%00", UNNAMED),
            ("http://h/%ff", UNNAMED),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }

    #[test]
    fn queries() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(query("a=1&b&&c=%2B+"), Some(vec![pair("a", "1"), pair("b", ""), pair("c", "+ ")]));
        assert_eq!(query("a=%"), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_user("https://u:p@h/x@y"), "https://h/x@y");
        assert_eq!(without_user("https://h/x@y"), "https://h/x@y");
    }
}
