//! What COPY and ADD have in common: words expanded, options to the layer of a copy.

use files::{ModeChange, PathSelection, Selection};
use graph::{Copy as CopyOp, Inline, InlineFile, Input, Op, Owner, OwnerId, VertexId};
use parser::{CopySource, Diagnostic, Heredoc, Instruction, Span, Spanned, Word};

use super::StageLowering;
use crate::lint::rules;
use crate::shown::Text;
use crate::{Expander, paths};

/// What COPY and ADD have in common, as written.
pub(super) struct Words<'a> {
    pub(super) sources: &'a [CopySource],
    /// What they are taken from, all of it.
    pub(super) whole: &'a str,
    pub(super) dest: &'a Word,
    pub(super) chown: Option<&'a Word>,
    pub(super) chmod: Option<&'a Word>,
    pub(super) link: Option<&'a Spanned<bool>>,
    pub(super) excludes: &'a [Spanned<String>],
}

/// The same, expanded.
pub(super) struct Transfer {
    pub(super) sources: Vec<(Text, Span)>,
    pub(super) heredocs: Vec<InlineFile>,
    dest: Text,
    chown: Text,
    chmod: Text,
    owner: Option<Owner>,
    mode: Option<ModeChange>,
    link: bool,
    /// Keep the paths of the sources below the destination.
    pub(super) parents: bool,
    excludes: Vec<String>,
}

/// What is copied, ready: an input for each source that is no heredoc.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) inputs: Vec<Input>,
    pub(super) unpack: bool,
    pub(super) packed: Vec<usize>,
}

impl Transfer {
    /// Which files of a tree a source stands for; `owned` says whether its files have owners of their own.
    pub(super) fn select(&self, source: &str, owned: bool) -> Selection {
        let (pattern, include) = if self.parents { pivot(source) } else { (paths::source(source), None) };
        let wildcards = has_wildcards(&pattern);
        let selection = self.exact(pattern, owned);
        Selection::Path(PathSelection { wildcards, include, exclude: self.excludes.clone(), ..selection })
    }

    /// One path of a tree, whatever characters are in it.
    pub(super) fn exact(&self, path: impl Into<String>, owned: bool) -> PathSelection {
        // A symbolic mode works on the one that is there.
        let modes = self.mode.as_ref().and_then(ModeChange::fixed).is_none();
        PathSelection { modes, owners: owned && self.owner.is_none(), ..PathSelection::exact(path) }
    }

    /// All files of a tree, but for `--exclude`.
    pub(super) fn all(&self) -> Selection {
        Selection::Path(PathSelection { exclude: self.excludes.clone(), ..self.exact("", false) })
    }
}

impl StageLowering<'_, '_> {
    /// Expands everything, so that all mistakes are found.
    pub(super) fn transfer(&mut self, of: &Instruction, words: Words<'_>) -> Option<Transfer> {
        let chown = words.chown.map_or(Some(Text::default()), |word| self.expand_shown(of, word));
        let chmod = words.chmod.map_or(Some(Text::default()), |word| self.expand_shown(of, word));
        let mode = match (words.chmod, &chmod) {
            (Some(word), Some(text)) => self.mode(word, text),
            _ => Some(None),
        };
        let link = words.link.is_some_and(|link| link.value);
        let owner = match (words.chown, &chown) {
            (Some(word), Some(text)) if !text.value.is_empty() => {
                self.copied_owner(word, text, link).map(Some)
            }
            _ => Some(None),
        };
        let mut paths = Vec::new();
        let mut heredocs = Vec::new();
        for source in words.sources {
            match source {
                CopySource::Path(word) => {
                    paths.push(self.source(of, word, words.whole).map(|text| (text, word.span)))
                }
                CopySource::Heredoc(heredoc) => heredocs.push(self.heredoc(of, heredoc)),
            }
        }
        let dest = self.expand_shown(of, words.dest);
        Some(Transfer {
            sources: paths.into_iter().collect::<Option<_>>()?,
            heredocs: heredocs.into_iter().collect::<Option<_>>()?,
            dest: dest?,
            chown: chown?,
            chmod: chmod?,
            owner: owner?,
            mode: mode?,
            link,
            parents: false,
            excludes: words.excludes.iter().map(|exclude| exclude.value.clone()).collect(),
        })
    }

    /// A path to copy. An empty one is all there is, as it is for BuildKit, and hardly ever meant.
    fn source(&mut self, of: &Instruction, word: &Word, whole: &str) -> Option<Text> {
        let text = self.expand_shown(of, word)?;
        if text.value.is_empty() {
            let expanded =
                Expander::new(self.all.escape).expand(&word.text, self.scope()).unwrap_or_default();
            let names: Vec<String> = expanded.used.into_iter().chain(expanded.unset).collect();
            self.lint(rules::empty_copy_source(word.span, &names, whole));
        }
        Some(text)
    }

    /// `--chown`. With `--link`, nobody looks into the tree that would know a name.
    fn copied_owner(&mut self, word: &Word, text: &Text, link: bool) -> Option<Owner> {
        let owner = owner(&text.value);
        let name = [Some(&owner.user), owner.group.as_ref()].into_iter().flatten().find_map(|id| match id {
            OwnerId::Name(name) => Some(name.clone()),
            OwnerId::Number(_) => None,
        });
        if let (Some(name), true) = (name, link) {
            let name = text.instead().unwrap_or(&name);
            let message = format!("`--link` cannot look up `{name}`: it never looks into the files below");
            let error = Diagnostic::error(word.span, message)
                .with_label("expected numbers")
                .with_help("give the ids: `--chown=1000:1000`, or leave `--link` out");
            self.report(error);
            return None;
        }
        Some(owner)
    }

    /// `--chmod`. Nothing when it expands to nothing.
    fn mode(&mut self, word: &Word, text: &Text) -> Option<Option<ModeChange>> {
        if text.value.is_empty() {
            return Some(None);
        }
        match text.value.parse() {
            Ok(change) => Some(Some(change)),
            Err(error) => {
                self.report(Diagnostic::error(word.span, format!("`{}` is no mode: {error}", text.shown())));
                None
            }
        }
    }

    fn heredoc(&mut self, of: &Instruction, heredoc: &Heredoc) -> Option<InlineFile> {
        self.check_file_name(heredoc)?;
        let mut content = heredoc.body().into_owned();
        if heredoc.expand {
            match Expander::for_heredoc().expand_whole(&content, self.scope()) {
                Ok(expanded) => {
                    self.spend(expanded.text.len());
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

    /// The delimiter of a heredoc that becomes a file is its name.
    pub(super) fn check_file_name(&mut self, heredoc: &Heredoc) -> Option<()> {
        if heredoc.name.contains(['/', '\0']) || matches!(heredoc.name.as_str(), "" | "." | "..") {
            let message = format!("`{}` cannot be the name of a file", heredoc.name);
            self.report(Diagnostic::error(heredoc.span, message));
            return None;
        }
        Some(())
    }

    /// The step of a COPY or ADD: the sources, then the heredocs, in one layer.
    pub(super) fn transfer_step(
        &mut self,
        of: &Instruction,
        keyword: &str,
        transfer: Transfer,
        sources: Sources,
    ) {
        let created_by = created_by(keyword, &transfer);
        let Sources { mut inputs, unpack, mut packed } = sources;
        for file in &transfer.heredocs {
            if unpack {
                packed.push(inputs.len());
            }
            let selection = Selection::Path(transfer.exact(&file.name, false));
            inputs.push(Input { vertex: self.inline(of, file.clone()), selection });
        }
        let destination = paths::destination(&self.state.cwd(), &transfer.dest.value);
        let op = Op::Copy(CopyOp { destination, owner: transfer.owner, mode: transfer.mode, unpack, packed });
        let title = self.title(of, Expander::new(self.all.escape), "");
        if !transfer.link {
            return self.step(of, op, inputs, &title, created_by);
        }
        inputs.insert(0, Input::whole(self.all.scratch()));
        let name = self.step_name(&title);
        let copied = self.vertex(of, op, inputs, name);
        // Both are the same step.
        self.shown -= 1;
        self.step(of, Op::Merge, vec![Input::whole(copied)], &["LINK ", &title].concat(), created_by);
    }

    pub(super) fn inline(&mut self, of: &Instruction, file: InlineFile) -> VertexId {
        let lines = self.lines(of.lines);
        let name = "[internal] preparing inline document".to_owned();
        let op = Op::Inline(Inline { files: vec![file] });
        self.all.definition.add(graph::Vertex { op, inputs: Vec::new(), name, lines, no_cache: false })
    }
}

fn created_by(keyword: &str, transfer: &Transfer) -> String {
    let mut text = keyword.to_owned();
    let mut push = |parts: &[&str]| parts.iter().for_each(|part| text.push_str(part));
    if transfer.parents {
        push(&[" --parents"]);
    }
    for (flag, value) in [("chown", &transfer.chown), ("chmod", &transfer.chmod)] {
        if !value.value.is_empty() {
            push(&[" --", flag, "=", value.shown()]);
        }
    }
    for (source, _) in &transfer.sources {
        push(&[" ", source.shown()]);
    }
    for file in &transfer.heredocs {
        push(&[" <<", &file.name]);
    }
    push(&[" ", transfer.dest.shown(), " # buildkit"]);
    text
}

/// `--parents`: what is in front of the first `/./` is not kept, what is behind it is looked for below.
fn pivot(source: &str) -> (String, Option<String>) {
    let (parent, kept) = source.split_once("/./").unwrap_or(("", source));
    let kept = paths::source(kept);
    // All that is there, so nothing to look for.
    (paths::source(parent), (!kept.is_empty()).then_some(kept))
}

/// `user[:group]`. An empty user with a group is root.
pub(super) fn owner(text: &str) -> Owner {
    let id = |text: &str| match text.parse::<u32>() {
        // Everywhere, also where no file says so; nothing has to be looked up.
        _ if text == "root" => OwnerId::Number(0),
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
        assert_eq!(owner("root:root"), Owner { user: OwnerId::Number(0), group: Some(OwnerId::Number(0)) });
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
    fn pivots() {
        for (source, parent, kept) in [
            ("a/b/c", "", Some("a/b/c")),
            ("a/./b/c", "a", Some("b/c")),
            ("./a/b", "", Some("a/b")),
            ("./a/./b/./c", "a", Some("b/c")),
            ("/a/b/", "", Some("a/b")),
            ("../a/./../b", "a", Some("b")),
            ("a/./", "a", None),
            (".", "", None),
        ] {
            assert_eq!(pivot(source), (parent.to_owned(), kept.map(str::to_owned)), "{source}");
        }
    }
}
