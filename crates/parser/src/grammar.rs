//! The grammar of one logical line, and its errors in the words of the language.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Once;

use pest::Parser;
use pest::error::{Error, ErrorVariant, InputLocation};
use pest::iterators::Pair;

use crate::keyword::Keyword;
use crate::plain;

#[derive(pest_derive::Parser)]
#[grammar = "dockerfile.pest"]
struct Grammar;

/// A part of a line.
#[derive(Clone, Debug)]
pub(crate) struct Node<'i> {
    pub rule: Rule,
    pub text: &'i str,
    /// Where the text stands in the input.
    pub start: usize,
    /// What it is made of; nothing where the grammar was not needed to find it.
    pair: Option<Pair<'i, Rule>>,
}

impl<'i> Node<'i> {
    /// A part that is made of nothing but its text.
    pub(crate) fn new(rule: Rule, text: &'i str, start: usize) -> Self {
        Self { rule, text, start, pair: None }
    }

    /// Its place in the input.
    pub(crate) fn place(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }

    /// What it is made of.
    pub(crate) fn into_inner(self) -> impl Iterator<Item = Node<'i>> {
        self.pair.into_iter().flat_map(|pair| pair.into_inner().map(Node::from))
    }

    /// The text of a flag or a field without its quotes and escapes.
    pub(crate) fn unquoted(&self) -> Cow<'i, str> {
        match &self.pair {
            None => Cow::Borrowed(self.text),
            Some(pair) => {
                let text = |piece: Pair<'i, Rule>| match piece.as_rule() {
                    Rule::doubled_quote => "\"",
                    _ => piece.as_str(),
                };
                pair.clone().into_inner().map(text).collect()
            }
        }
    }
}

impl<'i> From<Pair<'i, Rule>> for Node<'i> {
    fn from(pair: Pair<'i, Rule>) -> Self {
        Self { rule: pair.as_rule(), text: pair.as_str(), start: pair.as_span().start(), pair: Some(pair) }
    }
}

/// Rule applications before the grammar gives up. All rules are linear with a few applications for each
/// character, so only a line of many megabytes comes near.
const CALL_LIMIT: usize = 1_000_000_000;

/// Why a line does not fit the grammar.
#[derive(Debug)]
pub(crate) struct Mismatch {
    /// The byte of the input at which nothing fits.
    pub at: usize,
    /// What would have fitted there, in words; may be empty.
    pub expected: String,
    /// The grammar gave up because the line is too long.
    pub too_long: bool,
}

/// The parts of an instruction: its flags, then its arguments.
pub(crate) fn instruction(keyword: Keyword, line: &str) -> Result<Vec<Node<'_>>, Mismatch> {
    plain::instruction(keyword, line).map_or_else(|| read(keyword, line), Ok)
}

/// The same for every line.
pub(crate) fn read(keyword: Keyword, line: &str) -> Result<Vec<Node<'_>>, Mismatch> {
    let rule = match keyword {
        Keyword::Add => Rule::add,
        Keyword::Arg => Rule::arg,
        Keyword::Cmd => Rule::cmd,
        Keyword::Copy => Rule::copy,
        Keyword::Entrypoint => Rule::entrypoint,
        Keyword::Env => Rule::env,
        Keyword::Expose => Rule::expose,
        Keyword::From => Rule::from,
        Keyword::Healthcheck => Rule::healthcheck,
        Keyword::Label => Rule::label,
        Keyword::Maintainer => Rule::maintainer,
        Keyword::Onbuild => Rule::onbuild,
        Keyword::Run => Rule::run,
        Keyword::Shell => Rule::shell,
        Keyword::Stopsignal => Rule::stopsignal,
        Keyword::User => Rule::user,
        Keyword::Volume => Rule::volume,
        Keyword::Workdir => Rule::workdir,
    };
    parse(rule, line).map_err(|error| mismatch(*error, Some(keyword)))
}

/// The parts of an instruction that may be wrong: its flags, then its arguments as one text.
pub(crate) fn any(line: &str) -> Result<Vec<Node<'_>>, Mismatch> {
    parse(Rule::any, line).map_err(|error| mismatch(*error, None))
}

/// The fields of a record of CSV.
pub(crate) fn fields(record: &str) -> Result<Vec<Node<'_>>, Mismatch> {
    plain::fields(record).map_or_else(|| read_fields(record), Ok)
}

/// The same for every record.
pub(crate) fn read_fields(record: &str) -> Result<Vec<Node<'_>>, Mismatch> {
    parse(Rule::fields, record).map_err(|error| mismatch(*error, None))
}

fn parse(rule: Rule, input: &str) -> Result<Vec<Node<'_>>, Box<Error<Rule>>> {
    static LIMIT: Once = Once::new();
    LIMIT.call_once(|| pest::set_call_limit(NonZeroUsize::new(CALL_LIMIT)));
    let mut entry = Grammar::parse(rule, input).map_err(Box::new)?;
    let parts = entry.next().map_or(entry, Pair::into_inner);
    // The instruction's name was known before.
    let parts = parts.filter(|part| !matches!(part.as_rule(), Rule::name | Rule::EOI));
    Ok(parts.map(Node::from).collect())
}

fn mismatch(error: Error<Rule>, keyword: Option<Keyword>) -> Mismatch {
    let at = match error.location {
        InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
    };
    let too_long = matches!(error.variant, ErrorVariant::CustomError { .. });
    let mut expected: Vec<&str> = match error.variant {
        ErrorVariant::ParsingError { positives, .. } => positives
            .into_iter()
            .map(|rule| describe(rule, keyword))
            .filter(|words| !words.is_empty())
            .collect(),
        ErrorVariant::CustomError { .. } => Vec::new(),
    };
    expected.dedup();
    let expected = match expected.split_last() {
        Some((last, [])) => format!("expected {last}"),
        Some((last, others)) => format!("expected {} or {last}", others.join(", ")),
        None => String::new(),
    };
    Mismatch { at, expected, too_long }
}

/// What a rule stands for, in the words of the language. Parts that are never missed by themselves have none.
fn describe(rule: Rule, keyword: Option<Keyword>) -> &'static str {
    match rule {
        Rule::EOI => "the end of the line",
        Rule::base => "an image, a stage or `scratch`",
        Rule::as_word => "`AS name`",
        Rule::stage => "a name for the stage",
        Rule::port => "a port",
        Rule::path => "a path",
        Rule::none_word => "`NONE`",
        Rule::cmd_word => "`CMD`",
        Rule::strings | Rule::string => "a JSON array of strings",
        Rule::item if keyword == Some(Keyword::Arg) => "`NAME` or `NAME=default`",
        Rule::item => "`KEY=value`",
        Rule::text => match keyword {
            Some(Keyword::Onbuild) => "an instruction",
            Some(Keyword::Maintainer) => "a name",
            Some(Keyword::Stopsignal) => "a signal",
            Some(Keyword::User) => "a user",
            Some(Keyword::Workdir) => "a path",
            _ => "a command",
        },
        Rule::field | Rule::bare_text => "`key=value`",
        Rule::quoted_text | Rule::doubled_quote => "a closing quote",
        Rule::flag
        | Rule::flag_char
        | Rule::flag_any
        | Rule::flag_plain
        | Rule::flag_single
        | Rule::flag_double
        | Rule::flag_escape
        | Rule::flag_quoted
        | Rule::string_text
        | Rule::string_escape
        | Rule::head
        | Rule::name
        | Rule::flags_end
        | Rule::command
        | Rule::word
        | Rule::items
        | Rule::common
        | Rule::single
        | Rule::double
        | Rule::dangling
        | Rule::json_blank
        | Rule::blank
        | Rule::space => "",
        Rule::any | Rule::fields => "",
        Rule::from
        | Rule::run
        | Rule::cmd
        | Rule::entrypoint
        | Rule::shell
        | Rule::add
        | Rule::copy
        | Rule::volume
        | Rule::expose
        | Rule::env
        | Rule::label
        | Rule::arg
        | Rule::healthcheck
        | Rule::onbuild
        | Rule::maintainer
        | Rule::stopsignal
        | Rule::user
        | Rule::workdir => "",
    }
}
