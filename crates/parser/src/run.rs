//! RUN: its flags and its command.

use std::borrow::Cow;

use crate::ast::{Command, Device, Mount, MountField, Network, Run, Security};
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::flags::Flags;
use crate::grammar;
use crate::healthcheck::{count, duration};
use crate::span::{Span, Spanned, Word};
use crate::suggest;

/// The keys of a mount that can stand without a value.
const MOUNT_SWITCHES: [&str; 5] = ["readonly", "ro", "readwrite", "rw", "required"];

/// The keys of a mount that need one.
const MOUNT_KEYS: [&str; 14] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "id",
    "sharing",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

pub(crate) fn read(cx: &mut Context<'_, '_>, mut flags: Flags, command: Command) -> Run {
    let mounts = flags.values("mount").into_iter().filter_map(|value| mount(cx, value)).collect();
    let devices = flags.values("device").into_iter().filter_map(|value| device(cx, value)).collect();
    let network = flags.exact_value("network").and_then(|value| network(cx, &value));
    let security = flags.exact_value("security").and_then(|value| security(cx, &value));
    let timeout = flags.value("timeout").and_then(|value| duration(cx, "timeout", &value));
    let retry = flags.value("retry").and_then(|value| count(cx, "retry", &value));
    let heredocs = match command {
        Command::Shell(_) => cx.heredocs().into_iter().map(|announced| announced.heredoc).collect(),
        Command::Exec(_) => Vec::new(),
    };
    Run { mounts, network, security, devices, timeout, retry, command, heredocs }
}

fn network(cx: &mut Context<'_, '_>, value: &Word) -> Option<Spanned<Network>> {
    let network = match value.text.as_str() {
        "default" => Network::Default,
        "none" => Network::None,
        "host" => Network::Host,
        other => {
            let message = format!("invalid network mode \"{other}\"");
            wrong_word(cx, value, message, &["default", "none", "host"]);
            return None;
        }
    };
    Some(Spanned::new(network, value.span))
}

fn security(cx: &mut Context<'_, '_>, value: &Word) -> Option<Spanned<Security>> {
    let security = match value.text.as_str() {
        "sandbox" => Security::Sandbox,
        "insecure" => Security::Insecure,
        other => {
            let message = format!("security \"{other}\" is not valid");
            wrong_word(cx, value, message, &["sandbox", "insecure"]);
            return None;
        }
    };
    Some(Spanned::new(security, value.span))
}

/// Reports a word that is none of `known`.
fn wrong_word(cx: &mut Context<'_, '_>, value: &Word, message: String, known: &[&'static str]) {
    let (last, others) = known.split_last().unwrap_or((&"", &[]));
    let others: Vec<String> = others.iter().map(|word| format!("`{word}`")).collect();
    let mut diagnostic = Diagnostic::error(value.span, message)
        .with_label(format!("expected {} or `{last}`", others.join(", ")));
    if let Some(near) = suggest::nearest(&value.text, known.iter().copied()) {
        diagnostic = diagnostic.with_help(format!("did you mean {near}?"));
    }
    cx.report(diagnostic);
}

fn mount(cx: &mut Context<'_, '_>, value: Word) -> Option<Mount> {
    let mut fields = Vec::new();
    for field in csv_fields(cx, &value, "mount")? {
        let (key, field_value) = field.split();
        let key = Spanned::new(key.value.to_lowercase(), key.span);
        let switch = MOUNT_SWITCHES.contains(&key.value.as_str());
        let known = switch || MOUNT_KEYS.contains(&key.value.as_str());
        match field_value {
            Some(from) if key.value == "from" && has_variable(&from.text) => cx.report(
                Diagnostic::error(
                    from.span,
                    "'from' doesn't support variable expansion, define alias stage instead",
                )
                .with_help("write `FROM $IMAGE AS name` with a global ARG and `from=name` here"),
            ),
            Some(value) if known => fields.push(MountField { key, value: Some(value) }),
            None if switch => fields.push(MountField { key, value: None }),
            None if known => {
                let message = format!("invalid field '{}' must be a key=value pair", field.text);
                cx.error(key.span, message, "expected `=value` after it");
            }
            Some(_) => cx.report(unknown_mount_key(
                &key,
                format!("unexpected key '{}' in '{}'", key.value, field.text),
            )),
            None => cx.report(unknown_mount_key(
                &key,
                format!("invalid field '{}' must be a key=value pair", field.text),
            )),
        }
    }
    Some(Mount { text: Spanned::new(value.text, value.span), fields })
}

fn unknown_mount_key(key: &Spanned<String>, message: String) -> Diagnostic {
    let diagnostic = Diagnostic::error(key.span, message);
    match suggest::nearest(key, MOUNT_SWITCHES.into_iter().chain(MOUNT_KEYS)) {
        Some(near) => diagnostic.with_help(format!("did you mean {near}?")),
        None => diagnostic,
    }
}

/// A `$` at the very end is no variable.
fn has_variable(text: &str) -> bool {
    text.find('$').is_some_and(|at| at + 1 != text.len())
}

fn device(cx: &mut Context<'_, '_>, value: Word) -> Option<Device> {
    let mut name: Option<Spanned<String>> = None;
    let mut required = false;
    for field in csv_fields(cx, &value, "device")? {
        let (key, field_value) = field.split();
        match (key.value.to_lowercase().as_str(), field_value) {
            ("required", None) => required = true,
            ("required", Some(word)) => match parse_bool(&word.text) {
                Some(value) => required = value,
                None => {
                    let message = format!("invalid value for required: {}", word.text);
                    cx.error(word.span, message, "expected `true` or `false`");
                    return None;
                }
            },
            ("name", Some(word)) => {
                if let Some(first) = &name {
                    let message = format!("device name already set to {}", first.value);
                    cx.error(word.span, message, "a second name");
                    return None;
                }
                name = Some(Spanned::new(word.text, word.span));
            }
            // `vendor/class=device` has an equals sign, too.
            _ if name.is_none() => name = Some(Spanned::new(field.text.into_owned(), field.span)),
            (key, Some(_)) => {
                let message = format!("unexpected key '{key}' in '{}'", field.text);
                cx.error(field.span, message, "expected `required`");
                return None;
            }
            (_, None) => {
                let message = format!("invalid field '{}' must be a key=value pair", field.text);
                cx.error(field.span, message, "expected `required`");
                return None;
            }
        }
    }
    match name.filter(|name| !name.is_empty()) {
        Some(name) => Some(Device { name, required }),
        None => {
            cx.error(value.span, "a device needs a name", "expected `name[,required]`");
            None
        }
    }
}

/// A text that is true or false, as Go's `strconv.ParseBool` reads it, which upstream uses for flags, attributes and variables.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

struct Field<'v> {
    text: Cow<'v, str>,
    span: Span,
    /// The place of the text's bytes, when they stand in the file as they are.
    exact: bool,
}

impl Field<'_> {
    /// The key, and the value if there is an equals sign.
    fn split(&self) -> (Spanned<&str>, Option<Word>) {
        let Some((key, value)) = self.text.split_once('=') else {
            return (Spanned::new(&self.text, self.span), None);
        };
        let (key_span, value_span) = if self.exact {
            let equals = self.span.start + key.len();
            (Span::new(self.span.start, equals), Span::new(equals + 1, self.span.end))
        } else {
            (self.span, self.span)
        };
        (Spanned::new(key, key_span), Some(Word::new(value, value_span)))
    }
}

fn csv_fields<'v>(cx: &mut Context<'_, '_>, value: &'v Word, what: &str) -> Option<Vec<Field<'v>>> {
    if value.text.is_empty() {
        cx.error(value.span, format!("missing a value on flag: --{what}"), "expected `key=value`");
        return None;
    }
    match grammar::fields(&value.text) {
        Ok(fields) => {
            let fields = fields.into_iter().map(|field| {
                let span = value.span_of(field.place());
                let text = field.unquoted();
                let exact = text.len() == field.text.len() && span.len() == text.len();
                Field { text, span, exact }
            });
            Some(fields.collect())
        }
        Err(mismatch) => {
            let at = mismatch.at.min(value.text.len());
            let end = value.text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
            let span = value.span_of(at..end);
            let message = format!("the value of --{what} is not a list of fields (CSV)");
            cx.error(span, message, "a quote can only stand around a whole field");
            None
        }
    }
}
