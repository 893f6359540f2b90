mod limits;
mod mounts;
mod variables;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cache::{ActiveRoot, Session, Store};
use executor::{Executor as _, NetworkKind, PrivateNetwork, ProcessSpec, Sandbox};
use graph::{Event, ProgressSink};
use hash::SystemClock;
use image::{ContainerConfig, ImageResolver as _, Platform, Reference, ResolvedImage};
use worker::{Cancel, LocalWorker, Prepared};

use limits::LimitArgs;

use super::build::extra_host;
use super::dns::DnsArgs;
use crate::failure::{Failure, NOT_STARTED};
use crate::interrupt::Signals;
use crate::{Machine, console, external, interrupt, machine, terminal};

/// Run one program of an image in the foreground.
///
/// The image is one of the local store (see `builder images`). What the program writes into the image's files is thrown away when it
/// ends. Its exit code is that of this command; 125: it could not be started, 126: it cannot be executed, 127: it is not there.
///
/// The program has this command's standard input and output, so -i changes nothing. With -t it has a terminal of its own, in which a
/// shell has job control. Ctrl-C reaches all that it runs in the foreground, and ends a program that does nothing about it, as it ends any
/// other: no --init is needed for that.
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

    /// File with a line NAME=VALUE for each variable; -e comes after it; repeatable
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Working directory [default: the image's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// User, as in USER [default: the image's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Program that runs instead of the image's ENTRYPOINT; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    #[arg(
        short,
        long,
        value_name = "HOST:PATH[:ro]",
        help = "Directory or file of this machine that the program sees, HOST:PATH[:ro]; repeatable"
    )]
    volume: Vec<String>,

    #[arg(
        long,
        value_name = "OPTIONS",
        help = "The same in long: type=bind,source=HOST,target=PATH[,readonly] or type=tmpfs,target=PATH[,tmpfs-size=64m]; repeatable"
    )]
    mount: Vec<String>,

    #[arg(
        long,
        value_name = "PATH[:OPTIONS]",
        help = "Empty file system in memory, PATH[:size=64m,mode=1777]; repeatable"
    )]
    tmpfs: Vec<String>,

    /// Host name that the program sees
    #[arg(long, value_name = "NAME", default_value = "builder", hide_default_value = true)]
    hostname: String,

    /// Line for the program's /etc/hosts: host:ip, host=ip or host:host-gateway; repeatable
    #[arg(long, value_name = "HOST:IP", value_parser = extra_host)]
    add_host: Vec<(String, String)>,

    #[command(flatten)]
    dns: DnsArgs,

    /// Platform of the image, where there are several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = super::stored::platform)]
    platform: Option<Platform>,

    /// Network: default (a private one, or the host's where there is no way to make one), private, host or none
    #[arg(long, value_name = "MODE", default_value = "default", hide_default_value = true)]
    network: String,

    /// OCI runtime that makes the process: crun, runc or a path; not with -t [default: the own sandbox]
    #[arg(long, value_name = "RUNTIME", env = "BUILDER_RUNTIME", hide_env = true)]
    runtime: Option<OsString>,

    /// Accepted as `docker run` has it: standard input is always that of this command
    #[arg(short, long)]
    interactive: bool,

    /// Give the program a terminal of its own, where this command has one
    #[arg(short, long)]
    tty: bool,

    /// Accepted as `docker run` has it: nothing is ever left behind
    #[arg(long)]
    rm: bool,

    #[command(flatten)]
    limits: LimitArgs,

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

/// Exit code: the program is there but cannot be executed.
const PROGRAM_CANNOT_RUN: u8 = 126;
/// Exit code: the program is not there.
const PROGRAM_NOT_FOUND: u8 = 127;

/// How long blocking work may take to notice that it was cancelled.
const CANCEL_TIME: Duration = Duration::from_secs(5);

pub(crate) fn run(args: Args) -> Result<u8, Failure> {
    start(&args).map_err(|failure| match failure.code() {
        PROGRAM_CANNOT_RUN | PROGRAM_NOT_FOUND => failure,
        _ => failure.with_code(NOT_STARTED),
    })
}

fn start(args: &Args) -> Result<u8, Failure> {
    let Args { interactive: _, rm: _, .. } = args;
    let network = match args.network.as_str() {
        "host" => executor::Network::Host,
        "default" | "private" => executor::Network::Private,
        "none" => executor::Network::None,
        other => {
            let message = format!("--network={other} is not supported; use default, private, host or none");
            return Err(Failure::usage(message));
        }
    };
    let external = external::runtime(args.runtime.as_deref())?;
    if external.is_some() && args.tty {
        return Err(Failure::usage("with --runtime a program has no terminal of its own: leave out -t"));
    }
    let machine = Machine::enter()?;
    let store = machine.store_or_new()?;
    let session = store.session()?;
    let runtime = crate::runtime()?;
    let code = runtime.block_on(run_image(args, network, external.as_ref(), &store, session));
    runtime.shutdown_timeout(CANCEL_TIME);
    code
}

async fn run_image(
    args: &Args,
    network: executor::Network,
    runtime: Option<&runtime::Runtime>,
    store: &Store,
    session: Session,
) -> Result<u8, Failure> {
    // Those that come before there is a program end this command as they would end the program.
    let mut signals = Signals::of_program();
    let cancel = Cancel::new();
    let sandbox = Sandbox::new();
    let ready = tokio::select! {
        ready = make_ready(args, network, &sandbox, store, &cancel) => ready?,
        signal = signals.next() => {
            cancel.cancel();
            return Ok(interrupt::exit_code(signal));
        }
    };
    let Ready { mut spec, root } = ready;
    if let Some(runtime) = runtime {
        spec = runtime.hand_over(spec)?;
    }
    let code = console::run(&sandbox, spec, args.tty, &mut signals).await;
    let code = code.map_err(|error| console::not_started(error, NOT_STARTED))?;
    drop(root);
    session.finish()?;
    Ok(code)
}

/// A program that can be started.
struct Ready {
    spec: ProcessSpec,
    /// Its files, while the value lives.
    root: ActiveRoot,
}

/// Finds the image, unpacks it where that was not done yet, and makes the network.
async fn make_ready(
    args: &Args,
    network: executor::Network,
    sandbox: &Sandbox,
    store: &Store,
    cancel: &Cancel,
) -> Result<Ready, Failure> {
    let image = find(args.image(), args.platform.as_ref(), store).await?;
    let process = Process::of(args, &image.config.config)?;
    let prepared = LocalWorker::prepare_run(
        store,
        Arc::new(image),
        &process.user,
        Arc::new(Silent),
        Arc::new(SystemClock),
        cancel,
    );
    let Prepared { root, user } = prepared.await.map_err(|error| Failure::from(&error))?;
    machine::tell_refused_overlay(store);
    let mut spec = ProcessSpec::new(worker::rootfs(root.form()), &process.args);
    spec.env = process.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    spec.cwd = PathBuf::from(&process.cwd);
    spec.user = user;
    spec.hostname = args.hostname.clone();
    let names = args.dns.resolve();
    spec.network = network;
    if network == executor::Network::Private {
        let network = sandbox.private_network().await?;
        is_apart(&network, args.network == "private")?;
        if let Some(server) = names.out_of_reach().filter(|_| network.kind() != NetworkKind::Host) {
            return Err(Failure::usage(format!("--dns {server}: {}", executor::OUT_OF_REACH)));
        }
    }
    let resolv_conf = names.resolv_conf();
    spec.resolv_conf = Some(
        resolv_conf.map_err(|error| Failure::machine(format!("cannot read /etc/resolv.conf: {error}")))?,
    );
    spec.hosts = Some(hosts(args, network, sandbox).await?);
    let volumes = args.volume.iter().map(|text| mounts::volume(text));
    let others = args.mount.iter().map(|text| mounts::mount(text));
    let memory = args.tmpfs.iter().map(|text| mounts::tmpfs(text));
    spec.mounts = volumes.chain(others).chain(memory).collect::<Result<_, _>>()?;
    spec.limits = args.limits.of_all();
    spec.shm_size = args.limits.shm_size;
    spec.ulimits = args.limits.ulimit.clone();
    Ok(Ready { spec, root })
}

/// The program's `/etc/hosts`.
async fn hosts(args: &Args, network: executor::Network, sandbox: &Sandbox) -> Result<String, Failure> {
    let name = &args.hostname;
    let mut text = format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, address) in &args.add_host {
        let address = match (address.as_str(), network) {
            ("host-gateway", executor::Network::Private) => {
                let gateway = sandbox.private_network().await?.host_gateway();
                let missing =
                    || Failure::machine(format!("--add-host {name}:{address}: this machine has no address"));
                gateway.ok_or_else(missing)?.to_string()
            }
            // Nothing is nearer.
            ("host-gateway", _) => Ipv4Addr::LOCALHOST.to_string(),
            _ => address.clone(),
        };
        let _ = writeln!(text, "{address}\t{name}");
    }
    Ok(text)
}

/// Says where a private network is not what it should be. Where it has to be one, the host's is none.
fn is_apart(network: &PrivateNetwork, required: bool) -> Result<(), Failure> {
    match (network.kind(), network.reason(), network.note()) {
        (NetworkKind::Host, Some(why), _) if required => {
            Err(Failure::machine(format!("--network=private: {why}")))
        }
        (.., Some(note)) => {
            terminal::tell(&format!("WARNING: {note}\n"));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The image of a name or of an id's beginning.
async fn find(text: &str, platform: Option<&Platform>, store: &Store) -> Result<ResolvedImage, Failure> {
    let platform = platform.cloned().unwrap_or_else(Platform::host);
    let nowhere = || {
        super::stored::not_there(store, text)
            .hint("`builder pull NAME` brings one, `builder build -t NAME .` makes one")
    };
    // All of an id is no name.
    let is_name = text.len() != 64 || text.bytes().any(|byte| !byte.is_ascii_hexdigit());
    if is_name {
        let name: Reference = text.parse().map_err(|error| Failure::usage(format!("{error}")))?;
        match store.resolve(&name, &platform).await {
            Err(image::ResolveError::NotFound(_)) => {}
            found => return Ok(found?),
        }
    }
    let found = super::stored::look_for(store, text)?.ok_or_else(nowhere)?;
    let of_platform = found.images.iter().find(|image| image.platform == platform);
    let image = of_platform.or(found.images.first().filter(|_| found.by_id && found.index.is_none()));
    let image = image.ok_or_else(nowhere)?;
    // The name may have others, for the platform that was asked for, too.
    Ok(store.load_image(image)?)
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
        let files = args.env_file.iter().map(|path| variables::from_file(path));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        for pair in config.env.iter().flatten().chain(files.iter().flatten()).chain(&args.env) {
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
