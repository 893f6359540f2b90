//! The keys of `RUN --mount`: what each may be, and which go with which type (BuildKit's
//! `frontend/dockerfile/instructions/commands_runmount.go`).

use graph::Sharing;
use parser::{Diagnostic, Instruction, Mount, MountField, Span};

use super::StageLowering;
use crate::go;
use crate::suggest::closest;

/// The types of mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Kind {
    const ALL: [(&'static str, Kind); 5] = [
        ("bind", Kind::Bind),
        ("cache", Kind::Cache),
        ("tmpfs", Kind::Tmpfs),
        ("secret", Kind::Secret),
        ("ssh", Kind::Ssh),
    ];

    fn name(self) -> &'static str {
        Kind::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// The keys of a mount, expanded; what was not given is empty.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) kind: Kind,
    pub(super) from: bool,
    pub(super) source: String,
    pub(super) target: String,
    pub(super) read_only: Option<bool>,
    pub(super) size: Option<u64>,
    pub(super) id: String,
    pub(super) sharing: Option<Sharing>,
    pub(super) required: bool,
    /// The variable of a secret; an empty name is its id.
    pub(super) env: Option<String>,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

type Outcome = Result<(), Box<Diagnostic>>;

impl StageLowering<'_, '_> {
    /// Reads and checks the keys of a mount; `None` when there are mistakes, which are reported.
    pub(super) fn mount_keys(&mut self, of: &Instruction, mount: &Mount) -> Option<Keys> {
        let mut keys = Keys::default();
        let mut good = true;
        for field in &mount.fields {
            // The one value that is not expanded: it decides which stages are built.
            let value = match &field.value {
                Some(word) if field.key.value != "from" => match self.expand(of, word) {
                    Some(value) => Some(value),
                    None => {
                        good = false;
                        continue;
                    }
                },
                value => value.as_ref().map(|word| word.text.clone()),
            };
            if let Err(error) = keys.set(field, value.as_deref()) {
                self.report(*error);
                good = false;
            }
        }
        if good && let Err(error) = keys.check(mount) {
            self.report(*error);
            good = false;
        }
        good.then_some(keys)
    }
}

impl Keys {
    fn set(&mut self, field: &MountField, value: Option<&str>) -> Outcome {
        let key = field.key.value.as_str();
        let span = field.value.as_ref().map_or(field.key.span, |word| word.span);
        let switch = |on: bool| match value {
            None => Ok(on),
            Some(value) => parser::parse_bool(value)
                .map(|value| value == on)
                .ok_or_else(|| invalid(key, value, span, "expected `true` or `false`")),
        };
        let text = value.unwrap_or_default();
        match key {
            "type" => {
                let lower = text.to_lowercase();
                let known = Kind::ALL.iter().find(|(name, _)| *name == lower);
                let names = || Kind::ALL.map(|(name, _)| name);
                self.kind = known
                    .map(|(_, kind)| *kind)
                    .ok_or_else(|| unknown_word("mount type", text, &names(), span))?;
            }
            "from" => self.from = !text.is_empty(),
            "source" | "src" => self.source = text.to_owned(),
            "target" | "dst" | "destination" => self.target = text.to_owned(),
            "readonly" | "ro" => self.read_only = Some(switch(true)?),
            "readwrite" | "rw" => self.read_only = Some(switch(false)?),
            "required" => {
                self.only_for(field, &[Kind::Secret, Kind::Ssh])?;
                self.required = switch(true)?;
            }
            "size" => {
                self.only_for(field, &[Kind::Tmpfs])?;
                let size = go::ram_in_bytes(text)
                    .ok_or_else(|| invalid(key, text, span, "expected a number of bytes, such as `512m`"))?;
                self.size = (size > 0).then_some(size);
            }
            "id" => self.id = text.to_owned(),
            "sharing" => {
                self.sharing = Some(match text.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        let names = ["shared", "private", "locked"];
                        return Err(unknown_word("sharing value", text, &names, span));
                    }
                });
            }
            "mode" => {
                let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
                let expected = "expected an octal number up to 7777";
                self.mode = Some(mode.ok_or_else(|| invalid(key, text, span, expected))?);
            }
            "uid" => self.uid = Some(number(key, text, span)?),
            "gid" => self.gid = Some(number(key, text, span)?),
            "env" => self.env = Some(text.to_owned()),
            _ => return Err(Box::new(Diagnostic::error(field.key.span, format!("unexpected key '{key}'")))),
        }
        Ok(())
    }

    /// The type counts that was given before the key, as upstream.
    fn only_for(&self, field: &MountField, kinds: &[Kind]) -> Outcome {
        if kinds.contains(&self.kind) {
            return Ok(());
        }
        let (key, kind) = (&field.key.value, self.kind.name());
        let names: Vec<String> = kinds.iter().map(|kind| format!("`type={}`", kind.name())).collect();
        let message = format!("unexpected key '{key}' for mount type '{kind}'");
        let error = Diagnostic::error(field.key.span, message)
            .with_help(format!("`{key}` goes with {}, and stands after it", names.join(" or ")));
        Err(Box::new(error))
    }

    /// What can be said only when all keys are known.
    fn check(&self, mount: &Mount) -> Outcome {
        let kind = self.kind.name();
        let at = |keys: &[&str]| {
            let field = mount.fields.iter().rfind(|field| keys.contains(&field.key.value.as_str()));
            field.map_or(mount.text.span, |field| field.key.span)
        };
        let wrong = |keys: &[&str], message: String| Err(Box::new(Diagnostic::error(at(keys), message)));
        if matches!(self.kind, Kind::Bind | Kind::Tmpfs) {
            for (key, given) in
                [("mode", self.mode.is_some()), ("uid", self.uid.is_some()), ("gid", self.gid.is_some())]
            {
                if given {
                    return wrong(&[key], format!("{key} not allowed for \"{kind}\" type mounts"));
                }
            }
        }
        if self.sharing.is_some() && self.kind != Kind::Cache {
            return wrong(&["sharing"], format!("invalid cache sharing set for {kind} mount"));
        }
        match self.kind {
            Kind::Secret if self.from => wrong(&["from"], "secret mount should not have a from".to_owned()),
            Kind::Secret if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() => {
                let error = Diagnostic::error(mount.text.span, "a secret needs an `id` or a `target`")
                    .with_help("`id` says which secret: `--mount=type=secret,id=token`");
                Err(Box::new(error))
            }
            Kind::Secret if !self.source.is_empty() && !self.id.is_empty() => {
                wrong(&["source", "src"], "both source and id can't be set".to_owned())
            }
            Kind::Ssh if !self.source.is_empty() => {
                wrong(&["source", "src"], "ssh does not support source".to_owned())
            }
            Kind::Cache if !self.source.is_empty() && !self.from => {
                let message = "the source of a cache is looked up in `from`, which is not given";
                wrong(&["source", "src"], message.to_owned())
            }
            _ => Ok(()),
        }
    }
}

fn number(key: &str, text: &str, span: Span) -> Result<u32, Box<Diagnostic>> {
    // The largest number is no id: chown(2) takes it for "leave it as it is".
    let number = text.parse::<u32>().ok().filter(|number| *number != u32::MAX && !text.starts_with('+'));
    number.ok_or_else(|| invalid(key, text, span, "expected a number"))
}

fn invalid(key: &str, value: &str, span: Span, expected: &str) -> Box<Diagnostic> {
    let error = Diagnostic::error(span, format!("invalid value for {key}: {value}")).with_label(expected);
    Box::new(if value.is_empty() {
        error.with_help("it is empty: is its variable declared with ARG in this stage, and given?")
    } else {
        error
    })
}

fn unknown_word(what: &str, value: &str, known: &[&str], span: Span) -> Box<Diagnostic> {
    let error = Diagnostic::error(span, format!("unsupported {what} \"{value}\""))
        .with_label(format!("expected one of: {}", known.join(", ")));
    Box::new(match closest(&value.to_lowercase(), known.iter().copied()) {
        Some(near) => error.with_help(format!("did you mean {near}?")),
        None => error,
    })
}
