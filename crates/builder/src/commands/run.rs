use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cache::{Session, Store};
use executor::{OutputSink, OutputStream, ProcessSpec, Sandbox, Signaller, Stdio};
use graph::{Event, ProgressSink};
use hash::SystemClock;
use image::{ContainerConfig, ImageResolver as _, Platform, Reference, ResolvedImage};
use tokio::signal::unix::{Signal, SignalKind, signal};
use worker::{Cancel, LocalWorker, Prepared};

use crate::failure::{Failure, INTERRUPTED, NOT_STARTED};
use crate::{Machine, interrupt};

/// Run one program of an image in the foreground.
///
/// The image is one of the local store (see `builder images`). What the program writes into the image's files is thrown away when it
/// ends. Its exit code is that of this command; 125: it could not be started, 126: it cannot be executed, 127: it is not there.
///
/// The program has this command's standard input, output and terminal, so -i and -t change nothing. It has no terminal of
/// its own: a shell does without job control. Ctrl-C reaches all that it runs in the foreground.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "builder run [OPTIONS] IMAGE [COMMAND]...",
    after_help = "\
Examples:
  builder run app                  run the image's program
  builder run app --verbose        the same, with arguments of its own
  builder run -it app sh           run a shell instead
  builder run --entrypoint sh app -c 'echo $HOME'"
)]
pub(crate) struct Args {
    /// Set an environment variable; NAME alone takes its value from the environment; repeatable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Working directory [default: the image's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// User, as in USER [default: the image's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Program that runs instead of the image's ENTRYPOINT; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    /// Network: host or none
    #[arg(long, value_name = "MODE", default_value = "host")]
    network: String,

    /// Accepted as `docker run` has it: standard input is always that of this command
    #[arg(short, long)]
    interactive: bool,

    /// Accepted as `docker run` has it: the terminal is always that of this command
    #[arg(short, long)]
    tty: bool,

    /// Accepted as `docker run` has it: nothing is ever left behind
    #[arg(long)]
    rm: bool,

    /// Image, by name or id; behind it a program with arguments that runs instead of the image's CMD
    #[arg(trailing_var_arg = true, required = true, value_name = "IMAGE [COMMAND]")]
    image_and_command: Vec<String>,
}

impl Args {
    fn image(&self) -> &str {
        self.image_and_command.first().map_or("", String::as_str)
    }

    /// Everything behind the image is the program's, also what looks like one of our flags.
    fn command(&self) -> &[String] {
        self.image_and_command.get(1..).unwrap_or_default()
    }
}

const INTERRUPT: i32 = 2;
const QUIT: i32 = 3;
/// SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM: all of them end a program that does nothing about them.
const PASSED_ON: [i32; 6] = [1, INTERRUPT, QUIT, 10, 12, 15];

/// Exit code: the program is there but cannot be executed.
const PROGRAM_CANNOT_RUN: u8 = 126;
/// Exit code: the program is not there.
const PROGRAM_NOT_FOUND: u8 = 127;

/// How long blocking work may take to notice that it was cancelled.
const CANCEL_TIME: Duration = Duration::from_secs(5);

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    start(&args).map_err(|failure| match failure.code() {
        // The program's own codes, or the user's wish.
        PROGRAM_CANNOT_RUN | PROGRAM_NOT_FOUND | INTERRUPTED => failure,
        _ => failure.with_code(NOT_STARTED),
    })
}

fn start(args: &Args) -> Result<u8, Failure> {
    let Args { interactive: _, tty: _, rm: _, .. } = args;
    let network = match args.network.as_str() {
        "host" | "default" => executor::Network::Host,
        "none" => executor::Network::None,
        other => return Err(Failure::usage(format!("--network={other} is not supported: use host or none"))),
    };
    let machine = Machine::enter()?;
    let store = machine.store()?;
    let session = store.session()?;
    let runtime = crate::runtime()?;
    let code = runtime.block_on(run_image(args, network, &store, session));
    runtime.shutdown_timeout(CANCEL_TIME);
    code
}

async fn run_image(
    args: &Args,
    network: executor::Network,
    store: &Store,
    session: Session,
) -> Result<u8, Failure> {
    let image = find(args.image(), store).await?;
    let process = Process::of(args, &image.config.config)?;
    let cancel = Cancel::new();
    let prepare = LocalWorker::prepare_run(
        store,
        Arc::new(image),
        &process.user,
        Arc::new(Silent),
        Arc::new(SystemClock),
        &cancel,
    );
    let Prepared { root, user } = tokio::select! {
        prepared = prepare => prepared.map_err(|error| Failure::from(&error))?,
        () = interrupt::received() => {
            cancel.cancel();
            return Err(Failure::interrupted());
        }
    };
    let mut spec = ProcessSpec::new(worker::rootfs(root.form()), &process.args);
    spec.env = process.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    spec.cwd = PathBuf::from(&process.cwd);
    spec.user = user;
    spec.hostname = "builder".to_owned();
    spec.hosts = Some("127.0.0.1\tlocalhost builder\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned());
    spec.resolv_conf = Some(std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    spec.network = network;
    spec.stdio = Stdio::Inherit;
    let running = Sandbox::new().start(&spec).await.map_err(not_started)?;
    let code = with_signals(running).await?;
    drop(root);
    session.finish()?;
    Ok(code)
}

/// Waits for the program, passing on the signals that reach this process. The exit code of a program that one of them ended
/// is 128 and the signal's number.
async fn with_signals(running: executor::Running) -> Result<u8, Failure> {
    let mut signals = Vec::new();
    for number in PASSED_ON {
        let stream = signal(SignalKind::from_raw(number));
        signals.push((number, stream.map_err(|error| Failure::machine(format!("signal handler: {error}")))?));
    }
    let signaller = running.signaller();
    let mut wait = std::pin::pin!(running.wait(&Nowhere));
    let mut ended_by = None;
    loop {
        let next = signals.iter_mut().map(|(number, stream)| Box::pin(received(*number, stream)));
        let next = futures::future::select_all(next);
        tokio::select! {
            outcome = &mut wait => {
                let code = outcome.map_err(not_started)?.status.code();
                return Ok(u8::try_from(ended_by.map_or(code, |signal| 128 + signal)).unwrap_or(u8::MAX));
            }
            (received, _, _) = next => {
                if let Some(number) = received && pass_on(&signaller, number) {
                    ended_by = Some(number);
                }
            }
        }
    }
}

/// Gives the program a signal, and says whether that ends it. The program is the first of its sandbox, to which the kernel
/// gives no signal that it has not asked for; what would end any other program ends it too.
fn pass_on(signaller: &Signaller, number: i32) -> bool {
    const KILL: i32 = 9;
    let ends = !signaller.heeds(number);
    // A program that cannot be signalled any more has ended.
    let _ = match number {
        _ if ends => signaller.signal(KILL),
        // As a terminal does; the program is not in the foreground of this one, where it would come by itself.
        INTERRUPT | QUIT if std::io::IsTerminal::is_terminal(&std::io::stdin()) => {
            signaller.signal_group(number)
        }
        _ => signaller.signal(number),
    };
    ends
}

/// As Docker has it: 126 and 127 for the program, 125 for everything else.
fn not_started(error: executor::Error) -> Failure {
    let code = match &error {
        executor::Error::Program { code, .. } => u8::try_from(*code).unwrap_or(NOT_STARTED),
        _ => NOT_STARTED,
    };
    Failure::from(error).with_code(code)
}

async fn received(number: i32, stream: &mut Signal) -> Option<i32> {
    stream.recv().await.map(|()| number)
}

/// The image of a name or of an id's beginning.
async fn find(text: &str, store: &Store) -> Result<ResolvedImage, Failure> {
    let by_id = |id: &str| -> Result<Option<Reference>, Failure> {
        let images = store.list_images()?;
        Ok(images.into_iter().find(|image| image.config.hex().starts_with(id)).map(|image| image.name))
    };
    let id = text.strip_prefix("sha256:").unwrap_or(text);
    let looks_like_id = id.len() >= 6 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name: Reference = text.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let platform = Platform::host();
    match store.resolve(&name, &platform).await {
        Err(image::ResolveError::NotFound(_)) if looks_like_id && let Some(name) = by_id(id)? => {
            Ok(store.resolve(&name, &platform).await?)
        }
        Err(image::ResolveError::NotFound(_)) => {
            Err(Failure::build(format!("there is no image {}", name.familiar()))
                .hint("`builder images` lists those that are here; `builder build -t NAME .` makes one"))
        }
        found => Ok(found?),
    }
}

/// A container's process, from the image's config and the arguments.
#[derive(Debug, PartialEq)]
struct Process {
    args: Vec<String>,
    env: Vec<(String, String)>,
    cwd: String,
    user: String,
}

impl Process {
    fn of(args: &Args, config: &ContainerConfig) -> Result<Process, Failure> {
        let entrypoint = match &args.entrypoint {
            None => config.entrypoint.clone().unwrap_or_default(),
            Some(program) if program.is_empty() => Vec::new(),
            Some(program) => vec![program.clone()],
        };
        let command = match (args.command().is_empty(), &args.entrypoint) {
            (false, _) => args.command().to_vec(),
            // Another entrypoint does not go with the image's arguments.
            (true, Some(_)) => Vec::new(),
            (true, None) => config.cmd.clone().unwrap_or_default(),
        };
        let process: Vec<String> = entrypoint.into_iter().chain(command).collect();
        if process.is_empty() {
            return Err(Failure::usage(
                "the image has no ENTRYPOINT and no CMD: name a program behind the image",
            ));
        }
        let mut env: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: String| match env.iter_mut().find(|(existing, _)| existing == name)
        {
            Some((_, existing)) => *existing = value,
            None => env.push((name.to_owned(), value)),
        };
        for pair in config.env.iter().flatten().chain(&args.env) {
            match pair.split_once('=') {
                Some((name, value)) => set(name, value.to_owned()),
                None => {
                    if let Ok(value) = std::env::var(pair) {
                        set(pair, value);
                    }
                }
            }
        }
        let inherited =
            std::io::IsTerminal::is_terminal(&std::io::stdin()).then(|| std::env::var("TERM").ok()).flatten();
        if let Some(terminal) = inherited
            && !env.iter().any(|(name, _)| name == "TERM")
        {
            env.push(("TERM".to_owned(), terminal));
        }
        let cwd = args.workdir.clone().unwrap_or_else(|| config.working_dir.clone());
        let cwd = if cwd.is_empty() { "/".to_owned() } else { cwd };
        if !cwd.starts_with('/') {
            return Err(Failure::usage(format!("the working directory {cwd} is not absolute")));
        }
        Ok(Process {
            args: process,
            env,
            cwd,
            user: args.user.clone().unwrap_or_else(|| config.user.clone()),
        })
    }
}

/// The program writes where this process does.
struct Nowhere;

impl OutputSink for Nowhere {
    fn write(&self, _: OutputStream, _: &[u8]) {}
}

/// Unpacking a local image is quick; nobody watches.
struct Silent;

impl ProgressSink for Silent {
    fn event(&self, _: Event) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn process(line: &[&str]) -> Option<Process> {
        let config = ContainerConfig {
            entrypoint: Some(vec!["/entry".into()]),
            cmd: Some(vec!["arg".into()]),
            env: Some(vec!["A=1".into()]),
            user: "www".into(),
            ..ContainerConfig::default()
        };
        let line = ["run"].iter().chain(line);
        Process::of(&Line::parse_from(line).args, &config).ok()
    }

    #[test]
    fn entrypoint_and_command() {
        let args = |line: &[&str]| process(line).map(|process| process.args);
        assert_eq!(args(&["image"]), Some(vec!["/entry".into(), "arg".into()]));
        assert_eq!(args(&["image", "-x", "--y"]), Some(vec!["/entry".into(), "-x".into(), "--y".into()]));
        let own = ["/entry", "-e", "--user", "-i"].map(str::to_owned).to_vec();
        assert_eq!(args(&["image", "-e", "--user", "-i"]), Some(own));
        assert_eq!(args(&["--entrypoint", "/sh", "image"]), Some(vec!["/sh".into()]));
        assert_eq!(args(&["--entrypoint=", "image"]), None);
        assert_eq!(args(&["--entrypoint=", "image", "ls"]), Some(vec!["ls".into()]));
    }

    #[test]
    fn flags_of_docker_run() {
        for line in [
            &["-it", "image", "sh"][..],
            &["-i", "-t", "image", "sh"],
            &["--interactive", "--tty", "--rm", "image", "sh"],
        ] {
            assert_eq!(process(line).map(|process| process.args), Some(vec!["/entry".into(), "sh".into()]));
        }
    }

    #[test]
    fn environment_user_and_directory() {
        let process = process(&["-e", "A=2", "-e", "B=3", "-u", "5", "-w", "/tmp", "image"]).unwrap();
        assert_eq!(&process.env[..2], [("A".into(), "2".into()), ("B".into(), "3".into())]);
        assert_eq!((process.user.as_str(), process.cwd.as_str()), ("5", "/tmp"));
    }
}
