//! Building once more, from nothing: what is written down for it, and how it is done.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use cache::Store;
use graph::SecretValues;
use hash::Digest;
use image::Reference;
use insight::Invocation;

use super::Args;
use super::cache_args::CacheTarget;
use super::output::{ImageForm, Output};
use crate::Machine;
use crate::failure::Failure;

/// A build in a state directory of its own, of which only the image stays.
#[derive(Debug, Clone)]
pub(crate) struct Again {
    /// As it was entered.
    pub(crate) machine: Arc<Machine>,
    /// The state directory, empty.
    pub(crate) store: Store,
    /// Where images are that have no registry.
    pub(crate) images: Store,
    /// The manifests that names of images meant: `NAME PLATFORM`.
    pub(crate) meant: BTreeMap<String, Digest>,
    /// What repositories and files elsewhere were, as a record has it.
    pub(crate) fetched: BTreeMap<String, String>,
    /// `SOURCE_DATE_EPOCH`.
    pub(crate) epoch: Option<String>,
}

/// Builds with these arguments, and keeps the image in the state directory of `again`, without a name. Its form is that of the output
/// that gave an image the name `of`, else of the one that put an image into the store.
pub(crate) fn again(args: Args, again: Again, of: &Reference) -> Result<(), Failure> {
    let args = Args {
        again: Some(again),
        tag: Vec::new(),
        output: form_of(args.output, of)
            .map(|form| Output::Image { push: None, keep: true, form })
            .into_iter()
            .collect(),
        push: false,
        load: false,
        cache_from: Vec::new(),
        // What is in the image itself belongs to it.
        cache_to: args.cache_to.into_iter().filter(CacheTarget::is_inline).collect(),
        pull: false,
        quiet: false,
        iidfile: None,
        metadata_file: None,
        timings: None,
        check: false,
        call: None,
        on_error: super::args::OnError::Fail,
        ..args
    };
    super::run(args).map(drop)
}

/// The output that decides what the image looks like, without any place that it goes to.
fn form_of(outputs: Vec<Output>, of: &Reference) -> Option<ImageForm> {
    let is_of = |name: &String| name.parse::<Reference>().is_ok_and(|name| name == *of);
    let mut forms: Vec<_> = outputs
        .into_iter()
        .filter_map(|output| match output {
            Output::Image { form, .. } => Some(form),
            _ => None,
        })
        .collect();
    let named = forms.iter().position(|form| form.names.iter().any(is_of));
    let nameless = || forms.iter().position(|form| form.names.is_empty());
    let at = named.or_else(nameless).or((!forms.is_empty()).then_some(0))?;
    let mut form = forms.swap_remove(at);
    form.names.clear();
    form.by_digest = None;
    Some(form)
}

/// The command line of this process as one that can be repeated: what it takes from the environment is written into it, and values
/// that nobody should read are not. `None` when it cannot be: what a secret stands in is not written down at all.
pub(super) fn invocation(
    arguments: impl IntoIterator<Item = OsString>,
    hidden: &SecretValues,
) -> Option<Invocation> {
    let mut arguments = arguments.into_iter().map(|argument| argument.into_string().ok());
    let _program = arguments.next();
    if arguments.next()?? != "build" {
        return None;
    }
    let given = arguments.collect::<Option<Vec<String>>>()?;
    let arguments = written(&given, |name| std::env::var(name).ok());
    if arguments.iter().any(|argument| hidden.are_in(argument) || has_login(argument)) {
        return None;
    }
    let directory = std::env::current_dir().ok()?.into_os_string().into_string().ok()?;
    Some(Invocation { directory, arguments, epoch: std::env::var("SOURCE_DATE_EPOCH").ok() })
}

/// The cache that an image carries.
const INLINE: &str = "type=inline";

fn written(given: &[String], variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut given = given.iter();
    while let Some(argument) = given.next() {
        // When it is built again, somebody else asks.
        if argument == "--timings" || argument.starts_with("--timings=") {
            continue;
        }
        // Nothing comes from a remote cache, or goes there, and what names one may hold a login.
        let cache = ["--cache-from", "--cache-to"].into_iter().find_map(|flag| argument.strip_prefix(flag));
        if let Some(rest) = cache {
            let value =
                if rest.is_empty() { given.next().map(String::as_str) } else { rest.strip_prefix('=') };
            if value == Some(INLINE) {
                arguments.push(format!("--cache-to={INLINE}"));
            }
            continue;
        }
        let value = match argument.strip_prefix("--build-arg") {
            Some("") => given.next().map(String::as_str),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        let Some(value) = value else {
            arguments.push(argument.clone());
            continue;
        };
        let name = value.split('=').next().unwrap_or_default();
        let written = match (graph::is_secret_like(name), value == name) {
            (true, _) => Some(name.to_owned()),
            (false, true) => variable(name).map(|value| format!("{name}={value}")),
            (false, false) => Some(value.to_owned()),
        };
        arguments.extend(written.map(|written| format!("--build-arg={written}")));
    }
    arguments
}

/// Whether a URL in it has a user in front of the host, or a value that looks like one for servers.
pub(super) fn has_login(argument: &str) -> bool {
    argument
        .split("://")
        .skip(1)
        .any(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default().contains('@'))
}

impl Args {
    /// The variables that build arguments with secret-like names take their values from, and that are not set.
    pub(crate) fn missing_variables(&self) -> Vec<&str> {
        let missing = |name: &&str| {
            !name.contains('=') && graph::is_secret_like(name) && std::env::var_os(name).is_none()
        };
        self.build_arg.iter().map(String::as_str).filter(missing).collect()
    }

    /// Whether the context or the Dockerfile comes from standard input.
    pub(crate) fn reads_stdin(&self) -> bool {
        self.context.as_os_str() == "-" || self.file.as_ref().is_some_and(|file| file.as_os_str() == "-")
    }

    /// Another context.
    pub(crate) fn with_context(self, context: std::path::PathBuf) -> Args {
        Args { context, ..self }
    }

    /// The platforms of `--platform`, when it is given.
    pub(crate) fn platforms_given(&self) -> Result<Option<Vec<image::Platform>>, Failure> {
        super::request::platforms(self)
            .map(|platforms| Some(platforms).filter(|platforms| !platforms.is_empty()))
    }

    /// Platforms, unless some are given.
    pub(crate) fn or_platforms(mut self, platforms: impl Iterator<Item = image::Platform>) -> Args {
        if self.platform.is_empty() {
            self.platform = platforms.map(|platform| platform.to_string()).collect();
        }
        self
    }

    /// In the way that another command asks for, where that says nothing about the result: how progress is shown, who makes processes.
    pub(crate) fn in_the_way_of(self, other: &Args) -> Args {
        Args { progress: other.progress, runtime: other.runtime.clone().or(self.runtime), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_can_be_repeated() {
        let given = "-t app --cache-from x --cache-to=type=y,token=z --cache-to type=inline --build-arg A=1 --build-arg=B --timings --timings=x.html --build-arg API_KEY=hunter --build-arg UNSET . --build-arg=TOKEN=x";
        let given: Vec<String> = given.split(' ').map(str::to_owned).collect();
        let variable = |name: &str| (name == "B").then(|| "of the environment".to_owned());
        assert_eq!(
            written(&given, variable),
            [
                "-t",
                "app",
                "--cache-to=type=inline",
                "--build-arg=A=1",
                "--build-arg=B=of the environment",
                "--build-arg=API_KEY",
                ".",
                "--build-arg=TOKEN"
            ]
        );
    }

    #[test]
    fn logins_are_seen() {
        assert!(has_login("https://user:word@example.com/x.git"));
        assert!(has_login("deps=https://token@example.com/x.git#main"));
        assert!(!has_login("https://example.com/x@1/y"));
        assert!(!has_login("a@b"));
    }

    #[test]
    fn only_what_puts_an_image_into_the_store_has_its_form() {
        let outputs =
            |texts: &[&str]| texts.iter().map(|text| super::super::output::parse(text).unwrap()).collect();
        let of: Reference = "b".parse().unwrap();
        let form = |texts: &[&str]| form_of(outputs(texts), &of).map(|form| form.compression);
        assert_eq!(form(&["type=oci,dest=x"]), None);
        assert_eq!(
            form(&["type=image,name=a", "type=image,name=b,compression=zstd", "type=local,dest=x"]),
            Some(image::Compression::Zstd)
        );
        assert_eq!(
            form(&["type=image,name=a", "type=registry,compression=zstd"]),
            Some(image::Compression::Zstd)
        );
    }
}
