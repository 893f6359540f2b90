//! Flags: `--name` and `--name=value` between an instruction's name and its arguments.

use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::grammar::{Node, Rule};
use crate::keyword::Keyword;
use crate::span::{Span, Spanned, Word};
use crate::suggest;

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Nothing, `true` or `false`.
    Bool,
    /// A value, once.
    Value,
    /// A value, any number of times.
    Values,
}

/// The flags of each instruction.
const fn known(keyword: Keyword) -> &'static [(&'static str, Takes)] {
    use Takes::{Bool, Value, Values};
    match keyword {
        Keyword::Add => &[
            ("chown", Value),
            ("chmod", Value),
            ("link", Bool),
            ("keep-git-dir", Bool),
            ("checksum", Value),
            ("unpack", Bool),
            ("exclude", Values),
        ],
        Keyword::Copy => &[
            ("from", Value),
            ("chown", Value),
            ("chmod", Value),
            ("link", Bool),
            ("parents", Bool),
            ("exclude", Values),
        ],
        Keyword::From => &[("platform", Value)],
        Keyword::Healthcheck => &[
            ("interval", Value),
            ("timeout", Value),
            ("start-period", Value),
            ("start-interval", Value),
            ("retries", Value),
        ],
        Keyword::Run => &[
            ("mount", Values),
            ("network", Value),
            ("security", Value),
            ("device", Values),
            ("timeout", Value),
            ("retry", Value),
        ],
        Keyword::Arg
        | Keyword::Cmd
        | Keyword::Entrypoint
        | Keyword::Env
        | Keyword::Expose
        | Keyword::Label
        | Keyword::Maintainer
        | Keyword::Onbuild
        | Keyword::Shell
        | Keyword::Stopsignal
        | Keyword::User
        | Keyword::Volume
        | Keyword::Workdir => &[],
    }
}

/// One flag as written, quotes and escapes taken away.
struct Flag {
    name: String,
    value: Option<Word>,
    name_span: Span,
    span: Span,
}

/// The flags of an instruction; after [`Flags::check`], only good ones.
pub(crate) struct Flags(Vec<Flag>);

impl Flags {
    /// Takes the flags off the front of an instruction's parts.
    pub(crate) fn take(parts: &mut Vec<Node<'_>>, cx: &Context<'_, '_>) -> Self {
        let count = parts.iter().take_while(|part| part.rule == Rule::flag).count();
        Self(parts.drain(..count).map(|flag| Flag::read(&flag, cx)).collect())
    }

    /// Reports flags that are unknown, given twice, or without a value that they need.
    pub(crate) fn check(self, cx: &mut Context<'_, '_>) -> Self {
        let mut good: Vec<Flag> = Vec::new();
        for flag in self.0 {
            let Some(&(_, takes)) = known(cx.keyword).iter().find(|(name, _)| *name == flag.name) else {
                let diagnostic = flag.unknown(cx.keyword);
                cx.report(diagnostic);
                continue;
            };
            let first = good.iter().find(|other| other.name == flag.name).map(|first| first.span);
            match (first, takes) {
                (Some(first), Takes::Bool | Takes::Value) => cx.report(
                    Diagnostic::error(flag.span, format!("duplicate flag specified: --{}", flag.name))
                        .with_related(first, "the first one is here"),
                ),
                _ if flag.fits(takes, cx) => good.push(flag),
                _ => {}
            }
        }
        Self(good)
    }

    /// Warns of flags that the language ignores at this place.
    pub(crate) fn ignore(self, cx: &mut Context<'_, '_>, what: &str) {
        for flag in self.0 {
            let message = format!("{what} ignores flags: --{} has no effect", flag.name);
            cx.report(Diagnostic::warning(flag.span, message));
        }
    }

    /// The value of a flag that may stand once. An empty value is the same as none.
    pub(crate) fn value(&mut self, name: &str) -> Option<Word> {
        self.values(name).into_iter().find(|word| !word.text.is_empty())
    }

    /// The value of a flag that may stand once, also if it is empty.
    pub(crate) fn exact_value(&mut self, name: &str) -> Option<Word> {
        self.values(name).into_iter().next()
    }

    /// As [`Flags::value`], for values that are final.
    pub(crate) fn text(&mut self, name: &str) -> Option<Spanned<String>> {
        self.value(name).map(final_text)
    }

    /// The values of a flag that may stand several times.
    pub(crate) fn values(&mut self, name: &str) -> Vec<Word> {
        self.named(name).filter_map(|flag| flag.value).collect()
    }

    /// As [`Flags::values`], for values that are final.
    pub(crate) fn texts(&mut self, name: &str) -> Vec<Spanned<String>> {
        self.values(name).into_iter().map(final_text).collect()
    }

    /// The value of a flag that is true or false.
    pub(crate) fn bool(&mut self, name: &str) -> Option<Spanned<bool>> {
        self.named(name).next().map(|flag| {
            let value = flag.value.is_none_or(|word| word.text.eq_ignore_ascii_case("true"));
            Spanned::new(value, flag.span)
        })
    }

    fn named(&mut self, name: &str) -> impl Iterator<Item = Flag> {
        self.0.extract_if(.., move |flag| flag.name == name)
    }
}

fn final_text(word: Word) -> Spanned<String> {
    Spanned::new(word.text, word.span)
}

impl Flag {
    fn read(node: &Node<'_>, cx: &Context<'_, '_>) -> Self {
        let written = node.place();
        let text = node.unquoted();
        let equals = node.text.find('=').map_or(written.end, |equals| written.start + equals);
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => {
                let span = cx.line.span((equals + 1).min(written.end)..written.end);
                (name, Some(Word::new(value, span)))
            }
            None => (&*text, None),
        };
        let name = name.strip_prefix("--").unwrap_or(name).to_owned();
        Self { name, value, name_span: cx.line.span(written.start..equals), span: cx.line.span(written) }
    }

    fn unknown(&self, keyword: Keyword) -> Diagnostic {
        let names = || known(keyword).iter().map(|&(name, _)| name);
        let diagnostic = Diagnostic::error(self.name_span, format!("unknown flag: --{}", self.name));
        if let Some(name) = suggest::nearest(&self.name, names()) {
            return diagnostic.with_help(format!("did you mean --{name}?"));
        }
        let list: Vec<String> = names().map(|name| format!("--{name}")).collect();
        let diagnostic = match list.as_slice() {
            [] => diagnostic.with_note(format!("{keyword} has no flags")),
            [only] => diagnostic.with_note(format!("{keyword} has only the flag {only}")),
            list => diagnostic.with_note(format!("{keyword} has the flags {}", list.join(", "))),
        };
        match keyword {
            Keyword::Run | Keyword::Cmd | Keyword::Entrypoint => {
                diagnostic.with_help("if it belongs to the command, write `--` before it")
            }
            _ => diagnostic,
        }
    }

    fn fits(&self, takes: Takes, cx: &mut Context<'_, '_>) -> bool {
        let name = &self.name;
        let missing = match &self.value {
            None => takes != Takes::Bool,
            Some(value) => takes == Takes::Bool && value.text.is_empty(),
        };
        if missing {
            let expected = if takes == Takes::Bool { "true` or `=false" } else { "value" };
            let message = format!("missing a value on flag: --{name}");
            let end = Span::new(self.span.end, self.span.end);
            let place = if takes == Takes::Bool { self.span } else { self.span.to(end) };
            cx.error(place, message, &format!("expected `={expected}`"));
            return false;
        }
        if let (Takes::Bool, Some(value)) = (takes, &self.value)
            && !["true", "false"].iter().any(|known| value.text.eq_ignore_ascii_case(known))
        {
            let message = format!("expecting boolean value for flag --{name}, not: {}", value.text);
            cx.error(value.span, message, "expected `true` or `false`");
            return false;
        }
        true
    }
}
