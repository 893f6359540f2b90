//! `SOURCE_DATE_EPOCH`: seconds, or the name of something whose time is taken (BuildKit's `dockerfile2llb/epoch.go`).

use std::collections::BTreeMap;

use graph::{Http, Source};
use parser::{
    Add, CopySource, Diagnostic, Dockerfile, Instruction, InstructionKind, Parsed, Span, Stage, Word,
};

use crate::args::GlobalArgs;
use crate::git::GitReference;
use crate::options::Contexts;
use crate::stages::BUILD_CONTEXT;
use crate::{Expander, NamedContext, Options, Variables, url};

/// The argument's name.
pub(crate) const NAME: &str = "SOURCE_DATE_EPOCH";

/// What has a time that only the caller can find out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EpochSource {
    /// The context of that name, `context` for the main one: the committer's time of a repository, `Last-Modified` of a download
    /// or else the newest file in its archive; a local directory has none.
    Context(String),
    /// A download or a commit that a stage adds.
    Source(Source),
}

/// What the caller found out about an [`EpochSource`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EpochTime {
    /// Nobody looked.
    #[default]
    Unresolved,
    /// It has no time: as if there were no `SOURCE_DATE_EPOCH`.
    None,
    /// Seconds since 1970.
    Seconds(i64),
}

/// What has to be looked up before [`lower()`](crate::lower()) because `SOURCE_DATE_EPOCH` names it; nothing for most builds.
/// The result goes to [`Options::epoch`].
///
/// # Errors
/// A value that is neither a number nor the name of something that has a time.
pub fn epoch_source(parsed: &Parsed, options: &Options) -> Result<Option<EpochSource>, Box<Diagnostic>> {
    match Given::find(&parsed.dockerfile, options) {
        Some(given) => given.source(&parsed.dockerfile, options),
        None => Ok(None),
    }
}

/// A value and where it comes from.
pub(crate) struct Given {
    value: String,
    span: Span,
}

/// The epoch of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epoch {
    /// There is none, and arguments of that name stay what they are.
    Absent,
    /// An empty one, or the name of something without time: the argument counts as not given.
    Removed,
    Seconds(i64),
}

impl Given {
    /// It comes from an argument, else from a global ARG.
    pub(crate) fn find(dockerfile: &Dockerfile, options: &Options) -> Option<Self> {
        if let Some(value) = options.build_args.get(NAME) {
            return Some(Self { value: value.clone(), span: Span::default() });
        }
        let declared =
            dockerfile.args.iter().flat_map(|arg| &arg.kind.names).rfind(|name| name.key.text == NAME)?;
        // Its default does not depend on the platform in any sensible file.
        let platform = options.platforms.first().unwrap_or(&options.build_platform);
        let globals = GlobalArgs::new(dockerfile, options, &options.build_args, platform, &mut |_| {});
        let value = globals.get(NAME).filter(|value| !value.is_empty())?.to_owned();
        Some(Self { value, span: declared.key.span })
    }

    /// The epoch, as far as `options` tell.
    pub(crate) fn epoch(&self, dockerfile: &Dockerfile, options: &Options) -> Result<Epoch, Box<Diagnostic>> {
        if self.value.is_empty() {
            return Ok(Epoch::Removed);
        }
        if let Ok(seconds) = self.value.parse() {
            return Ok(Epoch::Seconds(seconds));
        }
        match (self.source(dockerfile, options)?, options.epoch) {
            (None, _) | (Some(_), EpochTime::None) => Ok(Epoch::Removed),
            (Some(_), EpochTime::Seconds(seconds)) => Ok(Epoch::Seconds(seconds)),
            (Some(_), EpochTime::Unresolved) => {
                Err(self.error(format!("the time of `{}` is not known", self.value)))
            }
        }
    }

    fn source(
        &self,
        dockerfile: &Dockerfile,
        options: &Options,
    ) -> Result<Option<EpochSource>, Box<Diagnostic>> {
        if self.value.is_empty() || self.value.parse::<i64>().is_ok() {
            return Ok(None);
        }
        if self.value == BUILD_CONTEXT {
            return Ok(Some(EpochSource::Context(BUILD_CONTEXT.to_owned())));
        }
        let platform = options.platforms.first().unwrap_or(&options.build_platform);
        if let Some((name, kind)) = Contexts::new(options).find(&self.value, platform) {
            let files = kind == NamedContext::Directory;
            return Ok(files.then(|| EpochSource::Context(name.to_owned())));
        }
        let same_name =
            |stage: &&Stage| stage.name().is_some_and(|name| name.eq_ignore_ascii_case(&self.value));
        match dockerfile.stages.iter().find(same_name) {
            Some(stage) => {
                let mut globals =
                    GlobalArgs::new(dockerfile, options, &options.build_args, platform, &mut |_| {});
                globals.set(NAME, None);
                let escape = dockerfile.directives.escape.char();
                SourceStage::new(escape, options, &globals)
                    .read(stage)
                    .map(|source| Some(EpochSource::Source(source)))
            }
            None => {
                let error = self.error(format!("invalid SOURCE_DATE_EPOCH: {}", self.value));
                Err(error)
            }
        }
    }

    fn error(&self, message: String) -> Box<Diagnostic> {
        Box::new(
            Diagnostic::error(self.span, message)
                .with_note("it is a number of seconds, `context`, a named context, or a stage with nothing but a remote ADD")
                .with_help("give the seconds since 1970, as `date +%s` prints them"),
        )
    }
}

/// Reads a stage that is nothing but one download: `FROM scratch`, ARGs, one ADD.
struct SourceStage<'a> {
    expander: Expander,
    options: &'a Options,
    variables: BTreeMap<String, String>,
}

impl<'a> SourceStage<'a> {
    fn new(escape: char, options: &'a Options, globals: &GlobalArgs) -> Self {
        let set = globals.names().filter_map(|name| Some((name.to_owned(), globals.get(name)?.to_owned())));
        Self { expander: Expander::new(escape), options, variables: set.collect() }
    }

    fn read(mut self, stage: &Stage) -> Result<Source, Box<Diagnostic>> {
        const ONE: &str = "a stage whose time is taken has exactly one remote ADD";
        let base = &stage.from.kind.base;
        if self.expand(base)? != "scratch" {
            let message = "a stage whose time is taken must be `FROM scratch`";
            return Err(Box::new(Diagnostic::error(base.span, message)));
        }
        let mut source = None;
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Arg(arg) => {
                    for name in &arg.names {
                        let key = &name.key.text;
                        let value = match (self.options.build_args.get(key), &name.value) {
                            (Some(value), _) => value.clone(),
                            (None, Some(word)) => self.expand(word)?,
                            (None, None) => continue,
                        };
                        self.variables.insert(key.clone(), value);
                    }
                }
                InstructionKind::Add(add) if source.is_none() => source = Some(self.add(instruction, add)?),
                InstructionKind::Add(_) => return Err(Box::new(Diagnostic::error(instruction.span, ONE))),
                other => {
                    let message = format!("a stage whose time is taken cannot have a {}", other.keyword());
                    return Err(Box::new(Diagnostic::error(instruction.span, message).with_note(ONE)));
                }
            }
        }
        source.ok_or_else(|| Box::new(Diagnostic::error(stage.from.span, ONE)))
    }

    fn add(&self, of: &Instruction, add: &Add) -> Result<Source, Box<Diagnostic>> {
        let wrong = |span: Span, message: String| Box::new(Diagnostic::error(span, message));
        let [CopySource::Path(word)] = add.sources.as_slice() else {
            return Err(wrong(of.span, "the ADD whose time is taken has one source".to_owned()));
        };
        let text = self.expand(word)?;
        let checksum = match &add.checksum {
            Some(checksum) => Some((self.expand(checksum)?, checksum.span)),
            None => None,
        };
        match GitReference::parse(&text) {
            Ok(Some(mut git)) => {
                let flag = add.keep_git_dir.as_ref().is_some_and(|flag| flag.value);
                let keep = flag || git.keep_git_dir == Some(true);
                if let Some((checksum, _)) = checksum {
                    git.checksum = Some(checksum);
                }
                Ok(Source::Git(git.source(keep)))
            }
            Ok(None) if url::is_http(&text) => {
                let checksum = match checksum {
                    None => None,
                    Some((checksum, span)) => Some(
                        checksum
                            .parse()
                            .map_err(|error: hash::ParseDigestError| wrong(span, error.to_string()))?,
                    ),
                };
                let name = url::file_name(&text);
                Ok(Source::Http(Http { url: text, name, checksum }))
            }
            Ok(None) => {
                let message =
                    format!("`{text}` has no time of its own: it is neither a download nor a repository");
                Err(wrong(word.span, message))
            }
            Err(message) => Err(wrong(word.span, message)),
        }
    }

    fn expand(&self, word: &Word) -> Result<String, Box<Diagnostic>> {
        let expanded = self.expander.expand(&word.text, &self.variables);
        expanded
            .map(|expanded| expanded.text)
            .map_err(|error| Box::new(Diagnostic::error(word.span_of(error.range), error.message)))
    }
}
