//! The arguments of `build`, as typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, ValueEnum};

use super::again::Again;
use super::annotation;
use super::cache_args::{self, CacheSource, CacheTarget};
use super::call::{self, Call, Question};
use super::lent;
use super::limits::LimitArgs;
use super::output::{self, Output};
use super::timings::{self, TimingsFile};
use crate::failure::Failure;

/// Build an image from a Dockerfile.
///
/// PATH is the build context: COPY and ADD take files from it, and its Dockerfile is read unless -f names another. Without -t, -o, -q
/// and --iidfile the result stays in the cache.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  builder build -t app .                  keep the image as app:latest
  builder build -t app --target test .    stop at a stage
  builder build -f ci/Dockerfile -o out . write the files to ./out
  builder build -o type=oci,dest=app.tar .
  builder build --build-context debian=oci-layout://bases/debian .
                                          `FROM debian` from a local layout

Exit codes: 0 built, 1 the build failed, 2 wrong usage, 3 the machine lacks
something (see `builder info`), 130 interrupted.")]
pub(crate) struct Args {
    /// Where COPY and ADD take files from: a directory, a git repository or an archive as URL, or `-` for an archive (or just a Dockerfile) on
    /// standard input
    #[arg(value_name = "PATH")]
    pub(crate) context: PathBuf,

    /// Dockerfile; `-` reads it from standard input [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Name for the image in the local image store, as in `name[:tag]`; repeatable
    #[arg(short, long, value_name = "NAME")]
    pub(super) tag: Vec<String>,

    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,

    /// Value for an ARG; `NAME` alone takes it from the environment; repeatable
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,

    /// What FROM and COPY --from find under a name: a directory, a git repository or an archive as URL,
    /// `oci-layout://PATH[:tag|@digest]` or docker-image://IMAGE; repeatable
    #[arg(long, value_name = "NAME=SOURCE", value_parser = named_context)]
    pub(crate) build_context: Vec<(String, String)>,

    /// Which permissions files of contexts have: exact, as they are, or git, what git keeps of them (0755, 0644), the same after any
    /// checkout
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "MODE",
        default_value = "exact",
        hide_default_value = true
    )]
    pub(super) context_mode: ContextMode,

    /// Where the result goes: type=image|registry|oci|docker|tar|local with attributes as name=, dest=, a directory, or `-`; repeatable
    #[arg(short, long, value_name = "TYPE", value_parser = output::parse)]
    pub(super) output: Vec<Output>,

    /// Label for the image; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub(super) label: Vec<(String, String)>,

    /// Push the image to the registry of its name; short for -o type=registry
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(super) push: bool,

    /// Load the image into a Docker daemon; short for -o type=docker
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(super) load: bool,

    #[arg(long, value_name = "[PLACE:]KEY=VALUE", value_parser = annotations,
          help = "Text beside the image's config, in [manifest|index|manifest-descriptor|index-descriptor[PLATFORM]:]KEY=VALUE; repeatable")]
    pub(super) annotation: Vec<Annotations>,

    /// Platforms of the image, such as linux/amd64; comma-separated, repeatable [default: this machine's]
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub(super) platform: Vec<String>,

    /// Run every step again
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(super) no_cache: bool,

    /// Run every step of these stages again; comma-separated, repeatable
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(super) no_cache_filter: Vec<String>,

    /// Results of earlier builds elsewhere, used for what is not found here: type=registry,ref=NAME, type=local,src=DIRECTORY, or the name of
    /// an image that carries them; repeatable
    #[arg(long, value_name = "CACHE", value_parser = cache_args::parse_source)]
    pub(super) cache_from: Vec<CacheSource>,

    /// Where results of this build go for others to use: type=registry,ref=NAME, type=local,dest=DIRECTORY or type=inline (into the image);
    /// mode=max with all stages; one that cannot be written is a warning, with ignore-error=false an error; repeatable
    #[arg(long, value_name = "CACHE", value_parser = cache_args::parse_target)]
    pub(super) cache_to: Vec<CacheTarget>,

    /// Ask registries for newer images of the same name
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(super) pull: bool,

    /// Secret that RUN --mount=type=secret sees: id=NAME,src=FILE, id=NAME,env=VARIABLE or id=NAME,command=COMMAND; repeatable
    #[arg(long, value_name = "SECRET", value_parser = lent::secret)]
    pub(super) secret: Vec<lent::SecretArg>,

    #[arg(long, value_name = "AGENT", value_parser = lent::ssh,
          help = "SSH agent that RUN --mount=type=ssh sees: default, or ID[=SOCKET|=KEY[,KEY]]; repeatable")]
    pub(super) ssh: Vec<lent::SshArg>,

    /// What RUN steps may ask for beyond their sandbox: network.host, security.insecure or device[=NAME]; repeatable
    #[arg(long, value_name = "ENTITLEMENT", value_parser = entitlement, value_delimiter = ',')]
    pub(super) allow: Vec<String>,

    #[command(flatten)]
    pub(super) limits: LimitArgs,

    /// OCI runtime that makes the processes of RUN and shells inside steps: crun, runc or a path; what is built is the same [default: the own sandbox]
    #[arg(long, value_name = "RUNTIME", env = "BUILDER_RUNTIME", hide_env = true)]
    pub(super) runtime: Option<OsString>,

    /// What to do when a RUN fails: fail, or shell to look into what it left first
    #[arg(long, value_enum, value_name = "ACTION", default_value = "fail", hide_default_value = true)]
    pub(super) on_error: OnError,

    /// Where a shell is opened instead of building on.
    #[arg(skip)]
    pub(super) inside: Option<At>,

    /// Say which build checks the Dockerfile violates instead of building; short for --call=check
    #[arg(long, conflicts_with = "call", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(super) check: bool,

    /// Answer a question instead of building: check, outline or targets, with `,format=json` as JSON
    #[arg(long, value_name = "QUESTION", value_parser = call::parse)]
    pub(super) call: Option<Call>,

    /// Network of RUN steps: default (a private one, or the host's where there is no way to make one), private, host or none
    #[arg(long, value_name = "MODE")]
    pub(super) network: Option<String>,

    /// Line for /etc/hosts of RUN steps: host:ip or host=ip; repeatable
    #[arg(long, value_name = "HOST:IP", value_parser = extra_host)]
    pub(super) add_host: Vec<(String, String)>,

    /// How progress is shown: auto (tty on a terminal, else plain), tty, plain, rawjson, quiet or none
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        value_name = "MODE",
        env = "BUILDKIT_PROGRESS",
        hide_env = true,
        default_value = "auto"
    )]
    pub(super) progress: ProgressMode,

    /// Print nothing but the image's id
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(super) quiet: bool,

    /// File that receives the image's id: the digest of its config, of several platforms that of the index
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,

    /// File that receives what was built, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,

    /// Draw where the time went, as a page or as JSON: html, json, or a FILE that ends so [default: builder-timings.html]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "html",
          value_parser = timings::parse, conflicts_with_all = ["call", "check"])]
    pub(super) timings: Option<TimingsFile>,

    /// Set when something is built once more, from nothing.
    #[arg(skip)]
    pub(super) again: Option<Again>,

    // Accepted as upstream accepts them: no containers are left that could be kept or removed.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Append)]
    pub(super) rm: Vec<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Append)]
    pub(super) force_rm: Vec<bool>,
}

/// A place in the Dockerfile to look into.
#[derive(Debug, Clone)]
pub(crate) struct At {
    /// From 1.
    pub(super) line: u32,
    /// What runs there; without it an interactive shell.
    pub(super) command: Option<String>,
}

/// Which permissions files of contexts have, in keys and in layers alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ContextMode {
    /// Their own
    Exact,
    /// What git keeps of them
    Git,
}

/// What happens when a RUN fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// The build fails
    Fail,
    /// A shell opens in what it left, then the build fails
    Shell,
}

/// Of another command that takes these arguments: makes the context one that need not be given, and hides the options that it has no use
/// for.
pub(crate) fn hide(command: clap::Command, unused: &[&'static str]) -> clap::Command {
    let command =
        command.mut_arg("context", |argument| argument.required(false).default_value(".").hide(true));
    unused.iter().fold(command, |command, name| command.mut_arg(*name, |argument| argument.hide(true)))
}

impl Args {
    /// What stands at the place of the context.
    pub(crate) fn context(&self) -> &std::path::Path {
        &self.context
    }

    /// A build argument that is yes or no, as Go's `strconv.ParseBool` reads it; empty is no. `None` when it is not given.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Failure> {
        let value = |text: &String| match text.split_once('=') {
            Some((given, value)) => (given == name).then(|| value.to_owned()),
            None => (text == name).then(|| std::env::var(name).ok()).flatten(),
        };
        let Some(value) = self.build_arg.iter().rev().find_map(value) else { return Ok(None) };
        let flag = if value.is_empty() { Some(false) } else { parser::parse_bool(&value) };
        flag.map(Some)
            .ok_or_else(|| Failure::usage(format!("--build-arg {name}={value}: neither true nor false")))
    }

    /// What is asked instead of a build.
    pub(super) fn call(&self) -> Option<Call> {
        let check = self.check.then_some(Call { question: Question::Check, json: false });
        check.or(self.call).filter(|call| call.question != Question::Build)
    }

    /// How progress is shown.
    pub(super) fn progress(&self) -> ProgressMode {
        if self.quiet { ProgressMode::Quiet } else { self.progress }
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// tty on a terminal, else plain
    Auto,
    /// Redrawn in place
    Tty,
    /// Line by line
    Plain,
    /// One JSON object a line
    Rawjson,
    /// Nothing but errors
    Quiet,
    /// Nothing but errors
    None,
}

/// Those of one flag, which may name several places. (An alias, since clap takes a `Vec` for a repeated flag.)
pub(super) type Annotations = std::sync::Arc<[exporter::Annotation]>;

fn annotations(text: &str) -> Result<Annotations, String> {
    annotation::parse(text).map(Annotations::from)
}

fn named_context(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, source)) if !name.is_empty() && !source.is_empty() => {
            Ok((name.to_lowercase(), source.to_owned()))
        }
        _ => Err("expected NAME=SOURCE".to_owned()),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        _ if text.is_empty() || text.starts_with('=') => Err("expected NAME=VALUE".to_owned()),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        // As upstream: a name alone is a label without value.
        None => Ok((text.to_owned(), String::new())),
    }
}

fn entitlement(text: &str) -> Result<String, String> {
    match text {
        "network.host" | "security.insecure" | "device" => Ok(text.to_owned()),
        _ if text.strip_prefix("device=").is_some_and(|name| !name.is_empty()) => Ok(text.to_owned()),
        _ => Err("known are network.host, security.insecure, device and device=NAME".to_owned()),
    }
}

pub(crate) fn extra_host(text: &str) -> Result<(String, String), String> {
    let (host, address) =
        text.split_once('=').or_else(|| text.split_once(':')).ok_or("expected HOST:IP or HOST=IP")?;
    if address == "host-gateway" && !host.is_empty() {
        return Ok((host.to_owned(), address.to_owned()));
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<std::net::IpAddr>() {
        Ok(address) if !host.is_empty() => Ok((host.to_owned(), address.to_string())),
        _ => Err(format!("`{address}` is not an IP address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let host = |text| extra_host(text).ok();
        assert_eq!(host("db:10.0.0.1"), Some(("db".into(), "10.0.0.1".into())));
        assert_eq!(host("db=::1"), Some(("db".into(), "::1".into())));
        assert_eq!(host("db:[::1]"), Some(("db".into(), "::1".into())));
        assert_eq!(host("host.docker.internal:host-gateway").unwrap().1, "host-gateway");
        assert_eq!(host("db:x"), None);
        assert_eq!(host("db"), None);
    }

    #[test]
    fn labels() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a"), Ok(("a".into(), String::new())));
        assert!(label("=b").is_err());
    }
}
