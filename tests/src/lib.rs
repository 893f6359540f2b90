//! What the end-to-end tests share: state directories, contexts, running the binary, reading what came out.
//!
//! The tests know the binary only from outside. `cargo xtask test` tells them where it is (`BUILDER_BIN`), where the
//! base images are (`BUILDER_BASES`) and where they may write (`BUILDER_E2E_DIR`, optional). A test whose means are
//! missing fails and says which.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

mod cases;
pub mod forge;
pub mod fuzz;
mod git;
pub mod meaning;
mod oci;
mod progress;
mod serve;
mod server;
mod servers;
mod terminal;
mod tree;
mod user;

pub use cases::{Case, in_parallel};
pub use git::{Agent, Repositories, Sshd, git, ssh_key};
pub use oci::{Image, unpack};
pub use progress::{Step, Steps};
pub use serve::Served;
pub use server::{Reply, Request, Server};
pub use servers::{Docker, Registry};
pub use terminal::Terminal;
pub use tree::{Node, Tree};
pub use user::User;

/// The binary under test.
///
/// # Panics
/// When `BUILDER_BIN` does not name a file.
pub fn binary() -> PathBuf {
    named("BUILDER_BIN")
}

/// The OCI layout of a base image.
///
/// # Panics
/// When `BUILDER_BASES` does not hold it.
pub fn base(name: &str) -> PathBuf {
    let layout = named("BUILDER_BASES").join(name);
    assert!(layout.join("index.json").is_file(), "no base image at {}: cargo xtask bases", layout.display());
    layout
}

/// What a variable of the environment says of how much, where it is set.
///
/// # Panics
/// When it is no number.
pub fn number_from(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn named(variable: &str) -> PathBuf {
    let value = env::var_os(variable);
    let value =
        value.unwrap_or_else(|| panic!("{variable} is not set: run the tests with `cargo xtask test`"));
    let path = PathBuf::from(value);
    assert!(path.exists(), "{variable} names {}, which does not exist", path.display());
    path
}

/// A directory that goes away with the value. Every user may enter it.
///
/// # Panics
/// When it cannot be made.
pub fn tempdir() -> TempDir {
    let parent = match env::var_os("BUILDER_E2E_DIR").map(PathBuf::from) {
        Some(parent) => {
            let _ = fs::set_permissions(&parent, fs::Permissions::from_mode(0o755));
            parent
        }
        // The machine's own: everyone may write there, and that must stay so.
        None => env::temp_dir(),
    };
    let dir = tempfile::Builder::new().prefix("e2e.").tempdir_in(parent).expect("make a temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("open it to other users");
    dir
}

/// Fails unless the test runs as root.
///
/// # Panics
/// When it does not.
pub fn need_root() {
    let uid = fs::metadata("/proc/self").expect("read /proc/self").uid();
    assert_eq!(uid, 0, "this part needs root; leave it out with --without");
}

/// A program that the test cannot do without, ready to be given arguments.
///
/// # Panics
/// When it is not installed.
pub fn tool(name: &str) -> Command {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    dirs.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    let found = dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    let found =
        found.unwrap_or_else(|| panic!("{name} is not installed; `cargo xtask test` installs it as root"));
    let mut command = Command::new(found);
    command.env("PATH", env::join_paths(dirs).expect("directories without colons"));
    command
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub struct Done {
    /// The command line.
    pub line: String,
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Wall time.
    pub took: Duration,
}

/// Runs a program to its end, without standard input.
///
/// # Panics
/// When it cannot be started.
pub fn run(command: &mut Command) -> Done {
    let line = format!("{command:?}");
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("run {line}: {error}"));
    Done {
        line,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: start.elapsed(),
    }
}

/// Runs a program to its end with these bytes as its standard input, through a pipe.
///
/// # Panics
/// When it cannot be started.
pub fn feed(command: &mut Command, input: &[u8]) -> Done {
    let line = format!("{command:?}");
    let start = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("run {line}: {error}"));
    let mut stdin = child.stdin.take().expect("just asked for");
    let output = std::thread::scope(|scope| {
        // A program may end before it has read everything.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output().expect("wait for a child")
    });
    Done {
        line,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: start.elapsed(),
    }
}

impl Done {
    /// Fails unless the program ended with 0.
    ///
    /// # Panics
    /// With everything it wrote.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code_is(0)
    }

    /// Fails unless the program ended with this exit code.
    ///
    /// # Panics
    /// With everything it wrote.
    #[track_caller]
    pub fn code_is(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code\n{self}");
        self
    }

    /// Fails unless stderr holds a text.
    ///
    /// # Panics
    /// With everything it wrote.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "stderr should hold {text:?}\n{self}");
        self
    }

    /// The steps of a build that ran with `--progress=rawjson`.
    ///
    /// # Panics
    /// When stderr is not what that promises.
    #[track_caller]
    pub fn steps(&self) -> Steps {
        Steps::parse(&self.stderr)
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {} -> {:?} in {:?}", self.line, self.code, self.took)?;
        write!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// A state directory of its own: what one test leaves there, no other sees.
pub struct Home {
    dir: TempDir,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// An empty one.
    pub fn new() -> Self {
        Self { dir: tempdir() }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// `builder SUBCOMMAND` on this state.
    pub fn builder(&self, subcommand: &str) -> Command {
        let mut command = Command::new(binary());
        command.env("BUILDER_HOME", self.path()).arg(subcommand);
        for variable in ["SOURCE_DATE_EPOCH", "BUILDKIT_PROGRESS", "NO_COLOR", "BUILDKIT_COLORS"] {
            command.env_remove(variable);
        }
        command
    }

    /// `builder build CONTEXT` with the base images under their names. The context is borrowed: one made on the spot must
    /// live until the build has run.
    pub fn build(&self, context: &(impl AsRef<Path> + ?Sized)) -> Command {
        let mut command = self.builder("build");
        command.args(bases());
        command.arg(context.as_ref());
        command
    }

    /// Builds with `--progress=rawjson` and returns the steps.
    ///
    /// # Panics
    /// When the build fails.
    #[track_caller]
    pub fn steps(&self, context: &(impl AsRef<Path> + ?Sized), arguments: &[&str]) -> Steps {
        run(self.build(context).arg("--progress=rawjson").args(arguments)).ok().steps()
    }

    /// Builds and exports an OCI layout as a directory.
    ///
    /// # Panics
    /// When the build fails.
    #[track_caller]
    pub fn export(&self, context: &(impl AsRef<Path> + ?Sized), arguments: &[&str]) -> Image {
        let dir = tempdir();
        let layout = dir.path().join("layout");
        let output = format!("type=oci,tar=false,name=e2e:latest,dest={}", layout.display());
        run(self.build(context).args(["-o", &output]).args(arguments)).ok();
        Image::open(layout, Some(dir))
    }
}

/// The arguments that map the names of the base images to their layouts.
pub fn bases() -> Vec<String> {
    let argument = |name: &str| format!("--build-context={name}=oci-layout://{}", base(name).display());
    ["busybox", "debian"].map(argument).to_vec()
}

/// A build context, made file by file.
pub struct Context {
    dir: TempDir,
}

impl Context {
    /// With this Dockerfile.
    pub fn new(dockerfile: &str) -> Self {
        Self { dir: tempdir() }.file("Dockerfile", dockerfile)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// With this file, written or written over; directories on the way are made.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.write(path, content);
        self
    }

    /// Writes or overwrites a file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a path below the context")).expect("make directories");
        fs::write(&path, content).expect("write a file of the context");
    }

    /// Changes a mode.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn chmod(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path().join(path), fs::Permissions::from_mode(mode)).expect("change a mode");
    }
}

impl AsRef<Path> for Context {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

/// A process that ends with the value: asked first, then killed.
pub struct Running(pub std::process::Child);

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}")))
    }

    /// Sends a signal to the process only.
    ///
    /// # Panics
    /// When there is no such process any more.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).expect("signal a child");
    }

    /// Whether a signal reaches a handler of the process: one that has just begun it ends.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn handles(&self, signal: rustix::process::Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("read a status");
        let mask =
            status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("the signals it handles");
        let mask = u64::from_str_radix(mask.trim(), 16).expect("a number in hexadecimal");
        mask & 1 << (signal.as_raw() - 1) != 0
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it takes longer than `most`, as in [`eventually`].
    #[track_caller]
    pub fn wait(&mut self, most: Duration) -> std::process::ExitStatus {
        let mut ended = None;
        eventually(most, "the process to end", || {
            ended = self.0.try_wait().expect("wait for a child");
            ended.is_some()
        });
        ended.expect("just seen")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(rustix::process::Signal::TERM);
            for _ in 0..50 {
                if self.0.try_wait().is_ok_and(|status| status.is_some()) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Waits until something is so.
///
/// `most` is what it takes on a machine at leisure, with room. One that does much else gets ten times as long, up to two minutes: that
/// costs nothing where all is well. What must not become so by itself has to last longer.
///
/// # Panics
/// When it is not within that time.
#[track_caller]
pub fn eventually(most: Duration, what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    let most = most.max((most * 10).min(Duration::from_secs(120)));
    while !so() {
        assert!(start.elapsed() < most, "waited {most:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port of 127.0.0.1 that nothing listens on now, nor soon: it is none of those that the kernel gives to whoever asks for any, for one
/// end of a connection or for a server of another test (`ip_local_port_range`, from 32,768), and each process begins to look elsewhere.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 20_000;
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let ports = || {
        let at = std::process::id().wrapping_mul(8).wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        u16::try_from(FIRST + at % COUNT).expect("a port")
    };
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(ports).take(COUNT as usize).find(is_free).expect("a free port")
}

/// The first processor that this process may use: in a container that need not be number 0.
///
/// # Panics
/// When the kernel does not say.
pub fn first_processor() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("read /proc/self/status");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a list");
    list.trim().split(['-', ',']).next().expect("a number").to_owned()
}

/// The processes whose command line or environment holds a text, as `PID COMMAND LINE`. Zombies have neither.
pub fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("list /proc").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let own = name == std::process::id().to_string();
        if own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // A process may end while it is looked at.
        let read = |file: &str| {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let line = read("cmdline");
        if line.contains(text) || read("environ").contains(text) {
            found.push(format!("{name} {line}"));
        }
    }
    found
}

/// The mounts of any process whose description holds a text.
pub fn mounts_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("list /proc").flatten() {
        let table = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        found.extend(table.lines().filter(|line| line.contains(text)).map(str::to_owned));
    }
    found.sort();
    found.dedup();
    found
}

/// Reads a JSON file.
///
/// # Panics
/// When it is not there or not JSON.
pub fn json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{} is not JSON: {error}", path.display()))
}

/// The folder of the example programs.
pub fn dockerfiles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the workspace").join("Dockerfiles")
}
