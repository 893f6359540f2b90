use serde_json::Value;

use crate::failure::Failure;
use crate::template::Template;

/// How what a command did is told, instead of in words.
#[derive(Debug, clap::Args)]
pub(super) struct Told {
    /// How what was done is told: json (an object a line), or a Go template
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    format: Option<String>,

    /// The same as --format=json
    #[arg(long)]
    json: bool,
}

/// A way to tell it that makes sense.
pub(super) enum Form {
    Words,
    Json,
    Template(Template),
}

impl Told {
    /// Reads the template, before anything is done: a field that is none of `fields`, which all that will be told has, would be
    /// noticed when it is too late.
    pub(super) fn form(&self, fields: &[&str]) -> Result<Form, Failure> {
        match self.format.as_deref() {
            Some(text) if text != "json" => {
                let usage = |reason: String| Failure::usage(format!("--format: {reason}"));
                let template = Template::parse(text).map_err(usage)?;
                template.check(fields).map_err(usage)?;
                Ok(Form::Template(template))
            }
            None if !self.json => Ok(Form::Words),
            _ => Ok(Form::Json),
        }
    }
}

impl Form {
    /// One thing that was done, as a line or more; `words` for those who want no other form.
    pub(super) fn tell(&self, value: &Value, words: impl FnOnce() -> String) -> Result<String, Failure> {
        match self {
            Form::Words => Ok(words()),
            Form::Json => Ok(format!("{value}\n")),
            Form::Template(template) => {
                let line = template.fill(value);
                line.map(|line| line + "\n").map_err(|reason| Failure::usage(format!("--format: {reason}")))
            }
        }
    }
}
