use std::fmt::Display;
use std::path::Path;

use graph::{Http, Input, Source};
use hash::Digest;
use parser::{Add, Copy, Diagnostic, Instruction, Span, Spanned};

use super::StageLowering;
use super::transfer::{Sources, Transfer, Words};
use crate::git::{GitReference, is_hexadecimal};
use crate::lint::rules;
use crate::stages::{BUILD_CONTEXT, Origin, copied_from};
use crate::{paths, url};

/// What is copied when nothing else is said.
const THE_CONTEXT: &str = "the whole context";

/// The kinds of sources of ADD.
enum Added {
    Local,
    Http(Http),
    Git(graph::Git),
}

impl StageLowering<'_, '_> {
    pub(super) fn copy(&mut self, of: &Instruction, copy: &Copy) {
        let whole = copied_from(copy)
            .map_or_else(|| THE_CONTEXT.to_owned(), |from| format!("all of `{}`", from.name));
        let words = Words {
            sources: &copy.sources,
            whole: &whole,
            dest: &copy.dest,
            chown: copy.chown.as_ref(),
            chmod: copy.chmod.as_ref(),
            link: copy.link.as_ref(),
            excludes: &copy.excludes,
        };
        let transfer = self.transfer(of, words);
        let from = match copied_from(copy) {
            // Mistakes in the name were reported when the stages were looked at.
            Some(from) => self.all.stages.origin(from).ok(),
            None => Some(Origin::Directory(BUILD_CONTEXT.to_owned())),
        };
        let (Some(mut transfer), Some(from)) = (transfer, from) else { return };
        transfer.parents = copy.parents.as_ref().is_some_and(|parents| parents.value);
        let mut sources = Sources::default();
        for (source, span) in &transfer.sources {
            let source = source.value.as_str();
            let what = match GitReference::parse(source) {
                Ok(Some(_)) | Err(_) => Some("repository"),
                Ok(None) => url::is_http(source).then_some("URL"),
            };
            if let Some(what) = what {
                self.report(Diagnostic::error(*span, format!("COPY cannot take a {what}; ADD can")));
            }
            if copied_from(copy).is_none() {
                self.check_ignored(of, "Copy", source);
            }
            let Some((vertex, owned)) = self.all.origin(&from) else { return };
            sources.inputs.push(Input { vertex, selection: transfer.select(source, owned) });
        }
        self.transfer_step(of, "COPY", transfer, sources);
    }

    pub(super) fn add(&mut self, of: &Instruction, add: &Add) {
        let words = Words {
            sources: &add.sources,
            whole: THE_CONTEXT,
            dest: &add.dest,
            chown: add.chown.as_ref(),
            chmod: add.chmod.as_ref(),
            link: add.link.as_ref(),
            excludes: &add.excludes,
        };
        let transfer = self.transfer(of, words);
        let checksum = match &add.checksum {
            Some(word) => self.expand(of, word).map(|text| Some(Spanned::new(text, word.span))),
            None => Some(None),
        };
        let (Some(transfer), Some(checksum)) = (transfer, checksum) else { return };
        let checksum = checksum.filter(|checksum| !checksum.is_empty());
        let Some(added) = self.added(&transfer, add, checksum.as_ref()) else { return };
        for ((source, _), added) in transfer.sources.iter().zip(&added) {
            if matches!(added, Added::Local) {
                self.check_ignored(of, "Add", &source.value);
            }
        }
        let sources = self.added_sources(&transfer, added, add.unpack.as_ref().map(|unpack| unpack.value));
        self.transfer_step(of, "ADD", transfer, sources);
    }

    /// Something that the ignore rules leave out cannot be copied. With exceptions among the rules that is not so clear.
    fn check_ignored(&mut self, of: &Instruction, keyword: &str, source: &str) {
        /// No pattern means this very file, so rules that leave it out leave everything out.
        const ANYTHING: &str = "\u{10ffff}";
        let Some(ignore) = self.all.options.ignore.as_ref().filter(|ignore| !ignore.has_exceptions()) else {
            return;
        };
        let path = paths::clean(source);
        let asked = if matches!(path.as_str(), "." | "/") { ANYTHING } else { &path };
        // Rules are about paths without a slash in front.
        if !asked.starts_with('/') && ignore.judge_whole(Path::new(asked)).is_excluded() {
            self.lint(rules::copy_ignored_file(of.span, keyword, &path));
        }
    }

    /// What each source is; `None` when one is wrong, which is reported.
    fn added(
        &mut self,
        transfer: &Transfer,
        add: &Add,
        checksum: Option<&Spanned<String>>,
    ) -> Option<Vec<Added>> {
        let single = transfer.sources.len() == 1;
        if let (Some(checksum), false) = (checksum, single) {
            let message = "a checksum is for one download, and there are other sources";
            self.report(Diagnostic::error(checksum.span, message).with_help("use one ADD for each"));
            return None;
        }
        let mut all = Vec::new();
        for (source, span) in &transfer.sources {
            let (shown, source) = (source.shown(), source.value.as_str());
            let added = match GitReference::parse(source) {
                Ok(Some(git)) => added_git(git, add, checksum, *span).map(Added::Git),
                Ok(None) if url::is_http(source) => added_http(source, checksum).map(Added::Http),
                Ok(None) => match checksum {
                    None => Ok(Added::Local),
                    Some(checksum) => {
                        let message = format!("a checksum is for downloads: `{shown}` is a local path");
                        Err(Box::new(Diagnostic::error(checksum.span, message)))
                    }
                },
                Err(message) => Err(error(*span, message)),
            };
            all.push(added.map_err(|error| self.report(*error)).ok());
        }
        all.into_iter().collect()
    }

    /// Local archives are unpacked unless somebody says no, downloaded ones when somebody says yes. A heredoc is text, never an
    /// archive.
    fn added_sources(&mut self, transfer: &Transfer, added: Vec<Added>, unpack: Option<bool>) -> Sources {
        let mut sources = Sources::default();
        for (index, (added, (source, _))) in added.into_iter().zip(&transfer.sources).enumerate() {
            let (vertex, selection, unpacked) = match added {
                Added::Local => {
                    let vertex = self.all.directory(BUILD_CONTEXT);
                    (vertex, transfer.select(&source.value, false), unpack.unwrap_or(true))
                }
                Added::Http(http) => {
                    let selection = files::Selection::Path(transfer.exact(&http.name, false));
                    let title = load_title(source.instead().unwrap_or(&http.url));
                    let vertex = self.all.source(Source::Http(http), title, None);
                    (vertex, selection, unpack.unwrap_or(false))
                }
                Added::Git(git) => {
                    let title = load_title(source.instead().unwrap_or(&git.remote));
                    let vertex = self.all.source(Source::Git(git), title, None);
                    // A directory, so there is nothing that could be unpacked.
                    (vertex, transfer.all(), false)
                }
            };
            sources.inputs.push(Input { vertex, selection });
            if unpacked {
                sources.unpack = true;
            } else {
                sources.packed.push(index);
            }
        }
        if !sources.unpack {
            sources.packed.clear();
        }
        sources
    }
}

fn load_title(url: &str) -> String {
    format!("[internal] load {}", url::without_user(url))
}

fn added_http(url: &str, checksum: Option<&Spanned<String>>) -> Result<Http, Box<Diagnostic>> {
    let checksum = checksum.map(|text| match text.parse::<Digest>() {
        Ok(digest) => Ok(digest),
        Err(reason) => Err(error(text.span, format!("`{}` is no checksum: {reason}", **text))),
    });
    Ok(Http { url: url.to_owned(), name: url::file_name(url), checksum: checksum.transpose()? })
}

fn added_git(
    mut git: GitReference,
    add: &Add,
    checksum: Option<&Spanned<String>>,
    span: Span,
) -> Result<graph::Git, Box<Diagnostic>> {
    if let Some(checksum) = checksum {
        if !is_hexadecimal(checksum) {
            let message = format!("`{}` cannot be the id of a commit: it is not hexadecimal", checksum.value);
            return Err(error(checksum.span, message));
        }
        if let Some(other) = git.checksum.replace(checksum.value.clone())
            && other != checksum.value
        {
            let message =
                format!("`--checksum` and the source name different commits: `{}` and `{other}`", **checksum);
            return Err(Box::new(Diagnostic::error(checksum.span, message).with_related(span, "the source")));
        }
    }
    let keep = match (&add.keep_git_dir, git.keep_git_dir) {
        (Some(flag), Some(query)) if flag.value != query => {
            let message = "`--keep-git-dir` and the source's `keep-git-dir` contradict each other";
            return Err(Box::new(Diagnostic::error(flag.span, message).with_related(span, "the source")));
        }
        (Some(flag), _) => flag.value,
        (None, query) => query.unwrap_or(false),
    };
    Ok(git.source(keep))
}

fn error(span: Span, message: impl Display) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(span, message.to_string()))
}
