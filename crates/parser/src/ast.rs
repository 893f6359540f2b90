//! The syntax tree of a Dockerfile: what was written, typed, nothing expanded or resolved.

use std::time::Duration;

use serde::Serialize;

use crate::keyword::Keyword;
use crate::span::{Lines, Span, Spanned, Word};

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dockerfile {
    /// The parser directives at the top.
    pub directives: Directives,
    /// The ARG instructions before the first FROM.
    pub args: Vec<Instruction<Arg>>,
    /// The stages in order of appearance. Empty only together with an error.
    pub stages: Vec<Stage>,
}

/// Parser directives: comments of the form `# name=value` at the very top of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Directives {
    /// `# syntax=`, in any of its three notations.
    pub syntax: Option<Syntax>,
    /// `# escape=`; the backslash when it is not there. Heredoc bodies always use the backslash.
    pub escape: Escape,
    /// `# check=`: its value up to the first blank, such as `skip=JSONArgsRecommended;error=true`.
    pub check: Option<Spanned<String>>,
}

/// The value of the `syntax` directive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Syntax {
    /// The frontend image: the value up to the first blank.
    pub image: Spanned<String>,
    /// The whole value.
    pub value: String,
    /// How it was written.
    pub notation: SyntaxNotation,
}

/// The three ways to write the `syntax` directive. Only the first one can stand in a Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SyntaxNotation {
    /// `# syntax=image`.
    Hash,
    /// `// syntax=image`, in files of other frontends.
    Slashes,
    /// `{"syntax": "image"}`, where the whole file is a JSON object.
    Json,
}

/// The escape character: it continues lines and takes away the meaning of the next character.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Escape {
    /// `\`.
    #[default]
    Backslash,
    /// A backtick, for Windows paths.
    Backtick,
}

impl Escape {
    /// The character itself.
    pub const fn char(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backtick => '`',
        }
    }
}

/// A build stage: a FROM and what follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Its FROM.
    pub from: Instruction<From>,
    /// The instructions after it.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// The stage's name in lower case, as other instructions refer to it.
    pub fn name(&self) -> Option<&str> {
        self.from.kind.alias.as_ref().map(|alias| alias.name.as_str())
    }
}

/// One instruction. `K` is its content: [`InstructionKind`], or a single struct where only one can stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Instruction<K = InstructionKind> {
    /// What it says.
    pub kind: K,
    /// The instruction's name as it was written, such as `Run`.
    pub keyword: Spanned<String>,
    /// From the name to the last character, heredoc bodies and terminators included. Slicing the source with
    /// it gives the text as written.
    pub span: Span,
    /// First and last line, heredocs included.
    pub lines: Lines,
    /// The logical line: continued lines joined, comments inside dropped, blanks around trimmed, heredoc
    /// bodies not included. This is what progress output and image history show.
    pub text: String,
    /// The comments above, since the last instruction or the last empty comment; directives not included.
    pub comments: Vec<Comment>,
}

impl<K> Instruction<K> {
    /// The same instruction with other content.
    pub fn map<L>(self, f: impl FnOnce(K) -> L) -> Instruction<L> {
        Instruction {
            kind: f(self.kind),
            keyword: self.keyword,
            span: self.span,
            lines: self.lines,
            text: self.text,
            comments: self.comments,
        }
    }

    /// The description of `name` in the comments above: the rest of the first comment that begins with it.
    pub fn description(&self, name: &str) -> Option<&str> {
        self.comments.iter().find_map(|comment| comment.text.strip_prefix(name)?.strip_prefix(' '))
    }
}

impl Instruction {
    /// The heredocs of the instruction, or of the one that an ONBUILD holds, in order.
    pub fn heredocs(&self) -> Vec<&Heredoc> {
        match &self.kind {
            InstructionKind::Run(run) => run.heredocs.iter().collect(),
            InstructionKind::Copy(copy) => heredocs_of(&copy.sources),
            InstructionKind::Add(add) => heredocs_of(&add.sources),
            InstructionKind::Onbuild(onbuild) => {
                onbuild.instruction.as_ref().map_or_else(Vec::new, |instruction| instruction.heredocs())
            }
            _ => Vec::new(),
        }
    }
}

fn heredocs_of(sources: &[CopySource]) -> Vec<&Heredoc> {
    sources
        .iter()
        .filter_map(|source| match source {
            CopySource::Heredoc(heredoc) => Some(heredoc),
            CopySource::Path(_) => None,
        })
        .collect()
}

/// A comment line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comment {
    /// What stands after `#`, trimmed.
    pub text: String,
    /// From `#` to the last character.
    pub span: Span,
}

/// What an instruction of a stage says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "each variant is documented at its struct")]
#[serde(rename_all = "snake_case")]
pub enum InstructionKind {
    Add(Add),
    Arg(Arg),
    Cmd(Cmd),
    Copy(Copy),
    Entrypoint(Entrypoint),
    Env(Env),
    Expose(Expose),
    Healthcheck(Healthcheck),
    Label(Label),
    Maintainer(Maintainer),
    Onbuild(Onbuild),
    Run(Run),
    Shell(Shell),
    Stopsignal(Stopsignal),
    User(User),
    Volume(Volume),
    Workdir(Workdir),
}

impl InstructionKind {
    /// The instruction's name.
    pub const fn keyword(&self) -> Keyword {
        match self {
            Self::Add(_) => Keyword::Add,
            Self::Arg(_) => Keyword::Arg,
            Self::Cmd(_) => Keyword::Cmd,
            Self::Copy(_) => Keyword::Copy,
            Self::Entrypoint(_) => Keyword::Entrypoint,
            Self::Env(_) => Keyword::Env,
            Self::Expose(_) => Keyword::Expose,
            Self::Healthcheck(_) => Keyword::Healthcheck,
            Self::Label(_) => Keyword::Label,
            Self::Maintainer(_) => Keyword::Maintainer,
            Self::Onbuild(_) => Keyword::Onbuild,
            Self::Run(_) => Keyword::Run,
            Self::Shell(_) => Keyword::Shell,
            Self::Stopsignal(_) => Keyword::Stopsignal,
            Self::User(_) => Keyword::User,
            Self::Volume(_) => Keyword::Volume,
            Self::Workdir(_) => Keyword::Workdir,
        }
    }
}

/// `FROM [--platform=…] base [AS name]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct From {
    /// `--platform`, to be expanded.
    pub platform: Option<Word>,
    /// Image, stage or `scratch`, to be expanded.
    pub base: Word,
    /// `AS name`.
    pub alias: Option<Alias>,
}

/// `AS name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alias {
    /// The word `AS` as it was written.
    pub keyword: Spanned<String>,
    /// The name as it was written.
    pub written: Spanned<String>,
    /// The name in lower case, valid: a letter, then letters, digits, `-`, `_` and `.`.
    pub name: String,
}

/// `RUN [flags] command`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--network`.
    pub network: Option<Spanned<Network>>,
    /// `--security`.
    pub security: Option<Spanned<Security>>,
    /// `--device`, in order.
    pub devices: Vec<Device>,
    /// `--timeout`: how long a try may take; zero is for ever. An extension of this project.
    pub timeout: Option<Spanned<Duration>>,
    /// `--retry`: how many further tries a failure is given. An extension of this project.
    pub retry: Option<Spanned<u32>>,
    /// The command. With heredocs, it is the shell form and holds the `<<NAME` words.
    pub command: Command,
    /// The heredocs that the command names, in order.
    pub heredocs: Vec<Heredoc>,
}

impl Run {
    /// The heredoc that *is* the script: the command is nothing but one `<<NAME`. Otherwise the shell gets the
    /// command and all heredocs, see [`Run::shell_text`].
    pub fn script(&self) -> Option<&Heredoc> {
        match (&self.command, self.heredocs.as_slice()) {
            (Command::Shell(text), [only]) if text.span == only.span => Some(only),
            _ => None,
        }
    }

    /// The text of a shell form with the bodies and terminators of its heredocs after it, as a shell reads them.
    pub fn shell_text(&self) -> Option<String> {
        let Command::Shell(command) = &self.command else { return None };
        let mut text = command.text.clone();
        for heredoc in &self.heredocs {
            text.push('\n');
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
        }
        Some(text)
    }
}

/// One `--mount` of RUN: its fields, taken apart but not expanded. Keys are known ones and `from` has no variable
/// in it; which keys go with which type is known only after expansion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// The whole value of the flag.
    pub text: Spanned<String>,
    /// Its fields in order.
    pub fields: Vec<MountField>,
}

/// `key` or `key=value` in a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountField {
    /// The key in lower case, as written otherwise (`src` is not turned into `source`).
    pub key: Spanned<String>,
    /// The value, to be expanded except for `from`.
    pub value: Option<Word>,
}

/// `RUN --network`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// What the builder uses otherwise.
    Default,
    /// No network.
    None,
    /// The host's network.
    Host,
}

/// `RUN --security`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// The usual sandbox.
    Sandbox,
    /// All privileges.
    Insecure,
}

/// `RUN --device=name[,required]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// A CDI device name, class or selector.
    pub name: Spanned<String>,
    /// Whether the build fails without it.
    pub required: bool,
}

/// `COPY [flags] source… dest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// `--from`, not expanded.
    pub from: Option<Spanned<String>>,
    /// `--chown`, to be expanded.
    pub chown: Option<Word>,
    /// `--chmod`, to be expanded.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: Option<Spanned<bool>>,
    /// `--parents`.
    pub parents: Option<Spanned<bool>>,
    /// `--exclude`, in order, not expanded.
    pub excludes: Vec<Spanned<String>>,
    /// At least one.
    pub sources: Vec<CopySource>,
    /// The destination, to be expanded.
    pub dest: Word,
}

/// `ADD [flags] source… dest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Add {
    /// `--chown`, to be expanded.
    pub chown: Option<Word>,
    /// `--chmod`, to be expanded.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: Option<Spanned<bool>>,
    /// `--keep-git-dir`; what it is without depends on the source.
    pub keep_git_dir: Option<Spanned<bool>>,
    /// `--checksum`, to be expanded.
    pub checksum: Option<Word>,
    /// `--unpack`; what it is without depends on the source.
    pub unpack: Option<Spanned<bool>>,
    /// `--exclude`, in order, not expanded.
    pub excludes: Vec<Spanned<String>>,
    /// At least one.
    pub sources: Vec<CopySource>,
    /// The destination, to be expanded.
    pub dest: Word,
}

/// A source of COPY or ADD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopySource {
    /// A path, URL or repository, to be expanded.
    Path(Word),
    /// A file whose content stands in the Dockerfile and whose name is the delimiter.
    Heredoc(Heredoc),
}

/// A heredoc: `<<NAME`, the lines after the instruction, and a line that is `NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Heredoc {
    /// The delimiter without quotes.
    pub name: String,
    /// The number before `<<`, if any.
    pub fd: Option<u32>,
    /// Written `<<-`: leading tabs are not part of the lines.
    pub strip_tabs: bool,
    /// The delimiter is not quoted, so that variables in the body are expanded (by COPY and ADD; in RUN, that is
    /// the shell's business).
    pub expand: bool,
    /// The body as it stands in the file, each line with its line end. See [`Heredoc::body`].
    pub content: String,
    /// Where `<<NAME` stands.
    pub span: Span,
    /// Where the body stands, without the terminator.
    pub content_span: Span,
}

impl Heredoc {
    /// The body as it is meant: without leading tabs if written `<<-`.
    pub fn body(&self) -> std::borrow::Cow<'_, str> {
        if !self.strip_tabs {
            return (&self.content).into();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect::<String>()
            .into()
    }
}

/// A command in one of its two forms. Neither is expanded by the builder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Text for the shell. Empty when nothing was written.
    Shell(Word),
    /// Program and arguments, written as a JSON array. May be empty.
    Exec(Vec<Spanned<String>>),
}

/// `CMD command`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cmd {
    /// The command.
    pub command: Command,
}

/// `ENTRYPOINT command`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entrypoint {
    /// The command.
    pub command: Command,
}

/// `ENV key=value …` or `ENV key value`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Env {
    /// At least one.
    pub pairs: Vec<Pair>,
    /// Written as `KEY value`, without `=`.
    pub legacy: bool,
}

/// `LABEL key=value …` or `LABEL key value`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// At least one.
    pub pairs: Vec<Pair>,
    /// Written as `KEY value`, without `=`.
    pub legacy: bool,
}

/// A key and its value, both to be expanded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// The key; not empty.
    pub key: Word,
    /// The value; may be empty.
    pub value: Word,
}

/// `ARG name[=default] …`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Arg {
    /// At least one.
    pub names: Vec<ArgName>,
}

/// One name of an ARG.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArgName {
    /// The name, to be expanded; not empty.
    pub key: Word,
    /// The default, to be expanded; `Some("")` for `name=`.
    pub value: Option<Word>,
}

/// `EXPOSE port …`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expose {
    /// At least one, as written, to be expanded (an expansion may give several).
    pub ports: Vec<Word>,
}

/// `HEALTHCHECK NONE` or `HEALTHCHECK [flags] CMD command`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Healthcheck {
    /// No check, not even the base image's.
    None,
    /// A command to run.
    Cmd(HealthcheckCmd),
}

/// `HEALTHCHECK [flags] CMD command`. A flag that is absent, or zero, means to inherit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthcheckCmd {
    /// `--interval`: zero or at least 1 ms.
    pub interval: Option<Spanned<Duration>>,
    /// `--timeout`: zero or at least 1 ms.
    pub timeout: Option<Spanned<Duration>>,
    /// `--start-period`: zero or at least 1 ms.
    pub start_period: Option<Spanned<Duration>>,
    /// `--start-interval`: zero or at least 1 ms.
    pub start_interval: Option<Spanned<Duration>>,
    /// `--retries`: at most 2³¹ - 1.
    pub retries: Option<Spanned<u32>>,
    /// The command; not empty.
    pub command: Command,
}

/// `MAINTAINER name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Maintainer {
    /// The rest of the line, not expanded.
    pub name: Spanned<String>,
}

/// `ONBUILD instruction`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Onbuild {
    /// The instruction as text, heredocs included, as it is stored in the image and can be given to
    /// [`parse_instruction`](crate::parse_instruction) when the image is used as a base.
    pub trigger: Spanned<String>,
    /// The instruction, parsed. `None` when it has mistakes of its own, which are then warnings: they fail the
    /// builds that use this image, not this one.
    pub instruction: Option<Box<Instruction>>,
}

/// `SHELL ["program", "argument", …]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shell {
    /// At least one.
    pub argv: Vec<Spanned<String>>,
}

/// `STOPSIGNAL signal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stopsignal {
    /// Name or number, to be expanded.
    pub signal: Word,
}

/// `USER user[:group]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// To be expanded.
    pub user: Word,
}

/// `VOLUME path …` or `VOLUME ["path", …]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// At least one, none blank, to be expanded.
    pub paths: Vec<Word>,
}

/// `WORKDIR path`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workdir {
    /// To be expanded.
    pub path: Word,
}
