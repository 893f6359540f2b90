use files::{ModeChange, PathSelection, Selection};
use graph::{Copy as CopyOp, Inline, InlineFile, Input, Op, Owner, OwnerId, Vertex, VertexId};
use parser::{Add, Copy, CopySource, Diagnostic, Heredoc, Instruction, Span, Spanned, Word};

use super::StageLowering;
use crate::findings::unsupported;
use crate::stages::{BUILD_CONTEXT, Origin, copied_from};
use crate::{Expander, paths};

/// What COPY and ADD have in common, expanded.
struct Transfer {
    sources: Vec<(String, Span)>,
    heredocs: Vec<InlineFile>,
    dest: String,
    chown: String,
    chmod: String,
    mode: Option<ModeChange>,
}

impl StageLowering<'_, '_> {
    pub(super) fn copy(&mut self, of: &Instruction, copy: &Copy) {
        self.refuse_if_set(copy.link.as_ref(), "`COPY --link`");
        self.refuse_if_set(copy.parents.as_ref(), "`COPY --parents`");
        self.refuse_excludes(&copy.excludes, "`COPY --exclude`");
        let words = (&copy.sources, &copy.dest, copy.chown.as_ref(), copy.chmod.as_ref());
        let transfer = self.transfer(of, words.0, words.1, words.2, words.3);
        let from = match copied_from(of) {
            // Mistakes in the name were reported when the stages were looked at.
            Some(from) => self.all.stages.copy_origin(from).ok(),
            None => Some(Origin::Directory(BUILD_CONTEXT.to_owned())),
        };
        let (Some(transfer), Some(from)) = (transfer, from) else { return };
        for (source, span) in &transfer.sources {
            if is_git(source) {
                self.report(Diagnostic::error(*span, "COPY cannot take a repository; ADD can"));
            } else if is_url(source) {
                self.report(Diagnostic::error(*span, "COPY cannot take a URL; ADD can"));
            }
        }
        self.transfer_step(of, "COPY", transfer, from, false);
    }

    pub(super) fn add(&mut self, of: &Instruction, add: &Add) {
        self.refuse_if_set(add.link.as_ref(), "`ADD --link`");
        self.refuse_excludes(&add.excludes, "`ADD --exclude`");
        let transfer = self.transfer(of, &add.sources, &add.dest, add.chown.as_ref(), add.chmod.as_ref());
        if let Some(checksum) = &add.checksum {
            self.report(unsupported(checksum.span, "`ADD --checksum`"));
        }
        let Some(transfer) = transfer else { return };
        for (source, span) in &transfer.sources {
            if is_git(source) || is_url(source) {
                self.report(unsupported(*span, &format!("`ADD {source}`")));
            }
        }
        // A heredoc is text, never an archive.
        let unpack = add.unpack.as_ref().is_none_or(|unpack| unpack.value) && !transfer.sources.is_empty();
        self.transfer_step(of, "ADD", transfer, Origin::Directory(BUILD_CONTEXT.to_owned()), unpack);
    }

    fn refuse_if_set(&mut self, flag: Option<&Spanned<bool>>, what: &str) {
        if let Some(flag) = flag.filter(|flag| flag.value) {
            self.report(unsupported(flag.span, what));
        }
    }

    fn refuse_excludes(&mut self, excludes: &[Spanned<String>], what: &str) {
        for exclude in excludes {
            self.report(unsupported(exclude.span, what));
        }
    }

    /// Expands everything, so that all mistakes are found.
    fn transfer(
        &mut self,
        of: &Instruction,
        sources: &[CopySource],
        dest: &Word,
        chown: Option<&Word>,
        chmod: Option<&Word>,
    ) -> Option<Transfer> {
        let chown_text = chown.map_or(Some(String::new()), |word| self.expand(of, word));
        let chmod_text = chmod.map_or(Some(String::new()), |word| self.expand(of, word));
        let mode = match (chmod, chmod_text.as_deref()) {
            (Some(word), Some(text)) => self.mode(word, text),
            _ => Some(None),
        };
        let mut paths = Vec::new();
        let mut heredocs = Vec::new();
        for source in sources {
            match source {
                CopySource::Path(word) => paths.push(self.expand(of, word).map(|text| (text, word.span))),
                CopySource::Heredoc(heredoc) => heredocs.push(self.heredoc(of, heredoc)),
            }
        }
        let dest = self.expand(of, dest);
        Some(Transfer {
            sources: paths.into_iter().collect::<Option<_>>()?,
            heredocs: heredocs.into_iter().collect::<Option<_>>()?,
            dest: dest?,
            chown: chown_text?,
            chmod: chmod_text?,
            mode: mode?,
        })
    }

    fn heredoc(&mut self, of: &Instruction, heredoc: &Heredoc) -> Option<InlineFile> {
        if heredoc.name.contains('/') || matches!(heredoc.name.as_str(), "" | "." | "..") {
            let message = format!("`{}` cannot be the name of a file", heredoc.name);
            self.report(Diagnostic::error(heredoc.span, message));
            return None;
        }
        let mut content = heredoc.body().into_owned();
        if heredoc.expand {
            match Expander::for_heredoc().expand(&content, &self.scope()) {
                Ok(expanded) => {
                    self.report_undefined(of, &expanded.unset);
                    content = expanded.text;
                }
                Err(error) => {
                    let word = Word::new(content, heredoc.content_span);
                    self.report(Diagnostic::error(word.span_of(error.range), error.message));
                    return None;
                }
            }
        }
        Some(InlineFile { name: heredoc.name.clone(), mode: 0o644, content: content.into_bytes() })
    }

    /// `--chmod`. Nothing when it expands to nothing.
    fn mode(&mut self, word: &Word, text: &str) -> Option<Option<ModeChange>> {
        if text.is_empty() {
            return Some(None);
        }
        match text.parse() {
            Ok(change) => Some(Some(change)),
            Err(error) => {
                self.report(Diagnostic::error(word.span, format!("`{text}` is no mode: {error}")));
                None
            }
        }
    }

    fn transfer_step(
        &mut self,
        of: &Instruction,
        keyword: &str,
        transfer: Transfer,
        from: Origin,
        unpack: bool,
    ) {
        let title = self.title(of, Expander::new(self.all.escape), "");
        let mut created_by = keyword.to_owned();
        for (flag, value) in [("chown", &transfer.chown), ("chmod", &transfer.chmod)] {
            if !value.is_empty() {
                created_by.push_str(&format!(" --{flag}={value}"));
            }
        }
        let owner = (!transfer.chown.is_empty()).then(|| owner(&transfer.chown));
        // A symbolic mode works on the one that is there.
        let modes = transfer.mode.as_ref().and_then(ModeChange::fixed).is_none();
        let mut inputs = Vec::new();
        for (source, _) in &transfer.sources {
            let Some((from, owners)) = self.all.origin(&from) else { return };
            created_by.push_str(&format!(" {source}"));
            let pattern = paths::source(source);
            let wildcards = has_wildcards(&pattern);
            let selection = Selection::Path(PathSelection {
                wildcards,
                modes,
                owners: owners && owner.is_none(),
                ..PathSelection::exact(pattern)
            });
            inputs.push(Input { vertex: from, selection });
        }
        for file in transfer.heredocs {
            created_by.push_str(&format!(" <<{}", file.name));
            let selection =
                Selection::Path(PathSelection { modes, owners: false, ..PathSelection::exact(&file.name) });
            inputs.push(Input { vertex: self.inline(of, file), selection });
        }
        created_by.push_str(&format!(" {} # buildkit", transfer.dest));
        let destination = paths::destination(&self.state.cwd(), &transfer.dest);
        let op = Op::Copy(CopyOp { destination, owner, mode: transfer.mode, unpack });
        self.step(of, op, inputs, &title, created_by);
    }

    fn inline(&mut self, of: &Instruction, file: InlineFile) -> VertexId {
        let lines = self.lines(of.lines);
        let name = "[internal] preparing inline document".to_owned();
        let op = Op::Inline(Inline { files: vec![file] });
        self.all.definition.add(Vertex { op, inputs: Vec::new(), name, lines, no_cache: false })
    }
}

/// `user[:group]`. An empty user with a group is root.
pub(super) fn owner(text: &str) -> Owner {
    // The largest number is no id: to the kernel it means "leave it as it is".
    let id = |text: &str| match text.parse::<u32>() {
        // The largest number is no id: chown(2) takes it for "leave it as it is".
        Ok(number) if number != u32::MAX && text.bytes().all(|b| b.is_ascii_digit()) => {
            OwnerId::Number(number)
        }
        _ => OwnerId::Name(text.to_owned()),
    };
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let user = if user.is_empty() { OwnerId::Number(0) } else { id(user) };
    Owner { user, group: (!group.is_empty()).then(|| id(group)) }
}

/// Whether `*`, `?` or `[` stands in a path, not escaped.
fn has_wildcards(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}

fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// Whether a source names a git repository: by its scheme, as `user@host:path`, or over HTTP by a path that ends in `.git`.
fn is_git(source: &str) -> bool {
    if ["git://", "ssh://"].iter().any(|scheme| source.starts_with(scheme)) {
        return true;
    }
    if is_url(source) {
        return source.split(['#', '?']).next().is_some_and(|path| path.ends_with(".git"));
    }
    let Some((user, rest)) = source.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let word = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    word(user, "-_") && word(host, "-.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        let name = |text: &str| OwnerId::Name(text.to_owned());
        assert_eq!(owner("1000"), Owner { user: OwnerId::Number(1000), group: None });
        assert_eq!(owner("4294967295").user, name("4294967295"));
        assert_eq!(owner("app:10"), Owner { user: name("app"), group: Some(OwnerId::Number(10)) });
        assert_eq!(owner("app:"), Owner { user: name("app"), group: None });
        assert_eq!(owner(":wheel"), Owner { user: OwnerId::Number(0), group: Some(name("wheel")) });
        assert_eq!(owner("+1"), Owner { user: name("+1"), group: None });
    }

    #[test]
    fn wildcards() {
        for path in ["*.c", "a/?", "[ab]"] {
            assert!(has_wildcards(path), "{path}");
        }
        for path in ["a", r"a\*b", r"a\\", ""] {
            assert!(!has_wildcards(path), "{path}");
        }
    }

    #[test]
    fn repositories() {
        for source in [
            "git@github.com:a/b",
            "git://x/y",
            "ssh://git@x/y",
            "https://x/y.git",
            "https://x/y.git#main:dir",
        ] {
            assert!(is_git(source), "{source}");
        }
        for source in ["https://x/y.tar.gz", "a@b", "github.com/a/b", "./x:y", "a.git"] {
            assert!(!is_git(source), "{source}");
        }
    }
}
