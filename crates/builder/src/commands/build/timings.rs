//! `--timings`: where the time of a build went, as a page or as JSON.

use std::path::{Path, PathBuf};
use std::time::Duration;

use files::Ignore;
use hash::HashedBytes;
use insight::{BuildRecord, Subjects, Timings};
use trace::{Span, Trace};

use super::args::Args;
use super::done;
use crate::failure::Failure;
use crate::terminal;

/// The file that gets it, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimingsFile {
    pub(super) path: PathBuf,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Html,
    Json,
}

/// Parses the value of `--timings`: a form, or a file whose name ends with one.
pub(super) fn parse(text: &str) -> Result<TimingsFile, String> {
    let suffix = Path::new(text).extension().and_then(|suffix| suffix.to_str());
    let (path, form) = match (text, suffix) {
        ("html", _) => ("builder-timings.html", Form::Html),
        ("json", _) => ("builder-timings.json", Form::Json),
        (path, Some("html" | "htm")) => (path, Form::Html),
        (path, Some("json")) => (path, Form::Json),
        _ => return Err("expected html, json, or a file that ends with .html or .json".to_owned()),
    };
    Ok(TimingsFile { path: path.into(), form })
}

impl Args {
    /// What records the build: nothing, when nobody asked.
    pub(super) fn trace(&self) -> Trace {
        match self.timings {
            Some(_) => Trace::recording(),
            None => Trace::default(),
        }
    }
}

/// What was recorded of a build until it ended.
pub(super) struct Recorded {
    spans: Vec<Span>,
    total: Duration,
    hashed: HashedBytes,
}

impl Recorded {
    pub(super) fn of(trace: &Trace) -> Recorded {
        Recorded { spans: trace.spans(), total: trace.elapsed(), hashed: HashedBytes::so_far() }
    }

    /// Writes the file and says where it is. `context` is what COPY sees, with its ignore file.
    pub(super) fn write(
        self,
        args: &Args,
        record: &BuildRecord,
        subjects: &Subjects,
        context: (&Path, Option<&Ignore>),
    ) -> Result<(), Failure> {
        let Some(TimingsFile { path, form }) = &args.timings else { return Ok(()) };
        let timings = Timings::new(record, self.spans, subjects, self.total).with_hashed(self.hashed);
        let text = match form {
            Form::Html => timings.html(),
            Form::Json => format!("{:#}\n", timings.json()),
        };
        std::fs::write(path, text).map_err(|error| Failure::io("write", path, &error))?;
        if !done::is_silent(args.progress()) {
            let place = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            terminal::tell(&format!("\nTimings of the build: {}\n", place.display()));
            if let Some(name) = seen(&place, context) {
                terminal::tell(&format!(
                    "It is in the build context: a COPY that takes all of it runs again. `{name}` in .dockerignore, or \
                     --timings=FILE elsewhere, keeps it out.\n"
                ));
            }
        }
        Ok(())
    }
}

/// The path of a file in the context, where COPY sees it.
fn seen(file: &Path, (context, ignore): (&Path, Option<&Ignore>)) -> Option<String> {
    let (file, context) = (file.canonicalize().ok()?, context.canonicalize().ok()?);
    let path = file.strip_prefix(context).ok()?;
    let hidden = ignore.is_some_and(|ignore| ignore.judge_whole(path).is_excluded());
    (!hidden).then(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_copy_would_take() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.html");
        std::fs::write(&file, "").unwrap();
        let ignore = Ignore::parse(b"*.html\n").unwrap();
        assert_eq!(seen(&file, (dir.path(), None)).as_deref(), Some("t.html"));
        assert_eq!(seen(&file, (dir.path(), Some(&ignore))), None);
        assert_eq!(seen(&file, (Path::new("/proc"), None)), None);
    }

    #[test]
    fn the_name_says_the_form() {
        let parsed = |text: &str| parse(text).map(|file| (file.path.display().to_string(), file.form));
        assert_eq!(parsed("html"), Ok(("builder-timings.html".to_owned(), Form::Html)));
        assert_eq!(parsed("json"), Ok(("builder-timings.json".to_owned(), Form::Json)));
        assert_eq!(parsed("out/a.html"), Ok(("out/a.html".to_owned(), Form::Html)));
        assert_eq!(parsed("a.json"), Ok(("a.json".to_owned(), Form::Json)));
        for wrong in ["", "-", "a.svg", "xml", "dir/"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
