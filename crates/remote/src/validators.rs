use std::time::{Duration, SystemTime};

use transport::header::{DATE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED};
use transport::http_date;

/// How much older than the answer a file must be for its time to tell it from every other version of it. RFC 9110 section
/// 8.8.2.2 asks for a second; its predecessors asked for a minute, as clocks differ.
const SETTLED: Duration = Duration::from_secs(60);

/// What a server says of a file's version (RFC 9110 section 8.8), good for asking whether it is still the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag` as it was sent, with quotes and `W/`.
    pub etag: Option<String>,
    /// `Last-Modified` as it was sent. Without an ETag beside it only where it was old enough to tell versions apart, so that
    /// it can be asked by.
    pub last_modified: Option<String>,
}

impl Validators {
    pub(crate) fn of(headers: &HeaderMap) -> Validators {
        let etag = text(headers, ETAG).filter(|etag| is_etag(etag));
        let settled = |modified: &str| {
            let (modified, date) = (http_date(modified), text(headers, DATE).and_then(http_date));
            matches!((modified, date), (Some(modified), Some(date))
                if date.duration_since(modified).is_ok_and(|age| age >= SETTLED))
        };
        let last_modified =
            text(headers, LAST_MODIFIED).filter(|modified| etag.is_some() || settled(modified));
        Validators { etag: etag.map(str::to_owned), last_modified: last_modified.map(str::to_owned) }
    }

    /// What proves that bytes of two answers belong together (RFC 9110 section 13.1.5): never a weak ETag.
    pub(crate) fn strong(&self) -> Option<&str> {
        match &self.etag {
            Some(etag) if etag.starts_with("W/") => None,
            Some(etag) => Some(etag),
            None => self.last_modified.as_deref(),
        }
    }
}

/// When the file was changed last, for its time.
pub(crate) fn modified(headers: &HeaderMap) -> Option<SystemTime> {
    text(headers, LAST_MODIFIED).and_then(http_date)
}

/// Whether two ETags name the same version; weak ones do as well (RFC 9110 section 8.8.3.2).
pub(crate) fn same_etag(a: &str, b: &str) -> bool {
    a.trim_start_matches("W/") == b.trim_start_matches("W/")
}

/// Quoted, so that it can stand in a list; what is not would be read as something else.
fn is_etag(text: &str) -> bool {
    let opaque = text.strip_prefix("W/").unwrap_or(text);
    opaque.len() >= 2
        && opaque.starts_with('"')
        && opaque.ends_with('"')
        && !opaque[1..opaque.len() - 1].contains('"')
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::header::HeaderValue;

    fn validators(pairs: &[(HeaderName, &'static str)]) -> Validators {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        Validators::of(&headers.collect())
    }

    #[test]
    fn a_recent_time_proves_nothing() {
        let date = |seconds| match seconds {
            0 => "Sun, 06 Nov 1994 08:49:37 GMT",
            59 => "Sun, 06 Nov 1994 08:50:36 GMT",
            _ => "Sun, 06 Nov 1994 08:50:37 GMT",
        };
        let at = |seconds| validators(&[(LAST_MODIFIED, date(0)), (DATE, date(seconds))]);
        assert_eq!(at(59), Validators::default());
        assert_eq!(at(60).strong(), Some(date(0)));
        assert_eq!(validators(&[(LAST_MODIFIED, date(0))]), Validators::default());
        // Beside an ETag it is the file's time and no more.
        let beside = validators(&[(LAST_MODIFIED, date(0)), (DATE, date(0)), (ETAG, "W/\"a\"")]);
        assert_eq!((beside.last_modified.as_deref(), beside.strong()), (Some(date(0)), None));
    }

    #[test]
    fn weak_etags_compare_but_do_not_join() {
        let weak = validators(&[(ETAG, "W/\"a\"")]);
        assert_eq!(weak.etag.as_deref(), Some("W/\"a\""));
        assert_eq!(weak.strong(), None);
        assert_eq!(validators(&[(ETAG, "\"a\"")]).strong(), Some("\"a\""));
        assert!(same_etag("W/\"a\"", "\"a\"") && !same_etag("\"a\"", "\"b\""));
        for wrong in ["a", "\"", "\"a\", \"b\"", "*", ""] {
            assert_eq!(validators(&[(ETAG, wrong)]), Validators::default(), "{wrong}");
        }
    }
}
