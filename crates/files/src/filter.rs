use std::path::Path;

use crate::{Error, Ignore, PathSelection, Verdict, has_wildcards};

/// What `--parents` and `--exclude` take of a directory, by the rules of ignore files, relative to it. As BuildKit has it, they
/// judge what is below a match, never the match itself; `--parents` leaves a file out all the same.
#[derive(Debug)]
pub(crate) struct Filter {
    /// Everything without one.
    include: Option<Ignore>,
    exclude: Ignore,
}

/// What the patterns say of a directory, for what is below it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Judged {
    include: Verdict,
    exclude: Verdict,
}

impl Filter {
    /// `None` when everything is taken.
    pub(crate) fn of(selection: &PathSelection) -> Result<Option<Filter>, Error> {
        if selection.include.is_none() && selection.exclude.is_empty() {
            return Ok(None);
        }
        // A pattern that is all of the directory has nothing left after it is cleaned.
        let include = selection.include.as_deref().filter(|pattern| !is_everything(pattern));
        Ok(Some(Filter {
            include: include.map(|pattern| Ignore::from_patterns([pattern])).transpose()?,
            exclude: Ignore::from_patterns(selection.exclude.iter().map(String::as_str))?,
        }))
    }

    /// Whether a match counts only for what is below it.
    pub(crate) fn looks_below(&self) -> bool {
        self.include.is_some()
    }

    /// Whether a path is taken, given what was said of the directory that holds it.
    pub(crate) fn judge(&self, path: &Path, above: &Judged) -> (bool, Judged) {
        let mut judged = Judged::default();
        let mut taken = true;
        if let Some(include) = &self.include {
            judged.include = include.judge(path, &above.include);
            // To the matcher, what a pattern matches is "excluded".
            taken = judged.include.is_excluded();
        }
        judged.exclude = self.exclude.judge(path, &above.exclude);
        (taken && !judged.exclude.is_excluded(), judged)
    }

    /// Whether anything below a directory can be taken.
    pub(crate) fn may_take_below(&self, directory: &Path, judged: &Judged) -> bool {
        !judged.exclude.is_excluded() || self.exclude.may_include_below(directory, &judged.exclude)
    }
}

/// The path that `--parents` insists on: none when there are wildcards.
pub(crate) fn required(selection: &PathSelection) -> Option<&str> {
    let include = selection.include.as_deref()?;
    (!selection.wildcards && !has_wildcards(include) && !is_everything(include)).then_some(include)
}

fn is_everything(pattern: &str) -> bool {
    pattern.split('/').all(|name| matches!(name, "" | "."))
}
