//! Dockerfile text to a syntax tree with spans and diagnostics.
//!
//! ```text
//! text ─ lines ──────────▶ logical lines + heredocs ─ grammar ─▶ words ─ instruction ─▶ Dockerfile
//!        directives, escape,                          one logical        checks, types
//!        continuations, comments                      line at a time
//! ```
//!
//! Plain lines, which are most, need no grammar for their words; what they are and how they are read is checked against it.
//!
//! [`parse()`] always gives a tree *and* what there is to say about the text, so that one mistake does not hide
//! the next. The tree holds what was written: variables and quotes stay as they are (see [`Word`]), names are
//! not resolved. There is no environment, no file and no image here.
//!
//! The language is the one of `docker/dockerfile`; where its reference and its implementation differ, the
//! implementation counts.

mod ast;
mod context;
mod copy;
mod diagnostic;
mod directives;
mod findings;
mod flags;
mod grammar;
mod healthcheck;
mod heredoc;
mod instruction;
mod json;
mod keyword;
mod logical;
mod mistakes;
mod onbuild;
mod pairs;
mod parse;
mod plain;
mod reader;
mod run;
mod span;
mod suggest;

pub use ast::{
    Add, Alias, Arg, ArgName, Cmd, Command, Comment, Copy, CopySource, Device, Directives, Dockerfile,
    Entrypoint, Env, Escape, Expose, From, Healthcheck, HealthcheckCmd, Heredoc, Instruction,
    InstructionKind, Label, Maintainer, Mount, MountField, Network, Onbuild, Pair, Run, Security, Shell,
    Stage, Stopsignal, Syntax, SyntaxNotation, User, Volume, Workdir,
};
pub use diagnostic::{Diagnostic, Label as DiagnosticLabel, Severity};
pub use keyword::Keyword;
pub use parse::{Parsed, ParsedInstruction, parse, parse_bytes, parse_instruction};
pub use run::parse_bool;
pub use span::{Lines, Span, Spanned, Word};
pub use suggest::distance;
