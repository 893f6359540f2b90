//! Repositories of git, and servers for them: HTTP with `git http-backend`, ssh with OpenSSH's sshd.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Done, Reply, Request, Running, Server, eventually, free_port, run, tempdir, tool};

/// A directory with the repository `app` and its submodule `lib`.
///
/// On `main` are a Dockerfile that copies everything, `.dockerignore` with `hidden`, `file` with the name of the commit, and
/// `dir/` with a Dockerfile of its own; on `side` there is the submodule as well.
pub struct Repositories {
    dir: TempDir,
    /// The commit that the tag `v1` stands for, below the newest of `main`.
    pub first: String,
    /// The newest of `main`.
    pub main: String,
    /// The newest of `side`.
    pub side: String,
}

impl Repositories {
    /// Makes them.
    ///
    /// # Panics
    /// When git fails.
    pub fn new() -> Self {
        let dir = tempdir();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("make directories");
            fs::write(path, text).expect("write a file");
        };
        write("lib.git/module", "module\n");
        write("app.git/Dockerfile", "FROM scratch\nCOPY . /\n");
        write("app.git/.dockerignore", "hidden\n");
        write("app.git/hidden", "hidden\n");
        write("app.git/file", "first\n");
        write("app.git/dir/Dockerfile", "FROM scratch\nCOPY . /below/\n");
        write("app.git/dir/inner", "inner\n");
        for name in ["lib.git", "app.git"] {
            git(&dir.path().join(name), &["init", "--quiet", "--initial-branch=main"]);
        }
        commit(&dir.path().join("lib.git"), "lib");
        let app = dir.path().join("app.git");
        let first = commit(&app, "first");
        git(&app, &["tag", "-a", "-m", "annotated", "v1"]);
        write("app.git/file", "main\n");
        let main = commit(&app, "main");
        git(&app, &["checkout", "--quiet", "-b", "side"]);
        // Relative, as hosts of repositories recommend: it is found the same way over HTTP and ssh.
        git(&app, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../lib.git", "lib"]);
        write("app.git/file", "side\n");
        let side = commit(&app, "side");
        git(&app, &["checkout", "--quiet", "main"]);
        Self { dir, first, main, side }
    }

    /// Where `app` is.
    pub fn app(&self) -> PathBuf {
        self.dir.path().join("app.git")
    }

    /// Commits another content of `file` to `main` and returns the commit.
    ///
    /// # Panics
    /// When git fails.
    pub fn edit(&self, text: &str) -> String {
        fs::write(self.app().join("file"), text).expect("write a file");
        commit(&self.app(), "edit")
    }

    /// Commits nothing to `main`, at a time in seconds since 1970, and returns the commit.
    ///
    /// # Panics
    /// When git fails.
    pub fn commit_at(&self, seconds: u64) -> String {
        let commit = ["commit", "--quiet", "--allow-empty", "-m", "nothing"];
        run(as_nobody(&self.app()).args(commit).env("GIT_COMMITTER_DATE", format!("{seconds} +0000"))).ok();
        git(&self.app(), &["rev-parse", "HEAD"]).stdout.trim().to_owned()
    }

    /// Serves them as `/app.git` and `/lib.git`.
    pub fn serve(&self) -> Server {
        let root = self.dir.path().to_owned();
        Server::start(move |request| backend(&root, request))
    }

    /// As [`Repositories::serve`], for those whose `Authorization` is this.
    pub fn serve_to(&self, authorization: &'static str) -> Server {
        let root = self.dir.path().to_owned();
        Server::start(move |request| match request.header("authorization") {
            Some(given) if given.eq_ignore_ascii_case(authorization) => backend(&root, request),
            _ => Reply::new(401, "who are you?").with("WWW-Authenticate", "Basic realm=\"test\""),
        })
    }

    /// Serves them with git's own daemon, and returns it with its address, `git://127.0.0.1:PORT`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn daemon(&self) -> (Running, String) {
        daemon(self.dir.path())
    }
}

impl Default for Repositories {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves the repositories of a directory with git's own daemon; its address is `git://127.0.0.1:PORT`.
pub(crate) fn daemon(base: &Path) -> (Running, String) {
    let port = free_port();
    let programs = run(tool("git").arg("--exec-path")).ok().stdout;
    // The program itself: `git daemon` would be a process between it and us.
    let mut daemon = Command::new(Path::new(programs.trim()).join("git-daemon"));
    daemon.args(["--export-all", "--reuseaddr", "--listen=127.0.0.1", &format!("--port={port}")]);
    daemon.arg(format!("--base-path={}", base.display())).stdin(Stdio::null());
    daemon.stdout(Stdio::null()).stderr(Stdio::null());
    // It is asked to serve what another user may own.
    daemon.envs([("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory")]);
    let daemon = Running::start(daemon.env("GIT_CONFIG_VALUE_0", "*"));
    eventually(Duration::from_secs(20), "git-daemon to answer", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    (daemon, format!("git://127.0.0.1:{port}"))
}

/// Runs git with nothing of this machine's configuration, at a fixed time.
///
/// # Panics
/// When it fails.
pub fn git(repository: &Path, arguments: &[&str]) -> Done {
    run(as_nobody(repository).args(arguments)).ok()
}

fn as_nobody(repository: &Path) -> Command {
    let mut command = tool("git");
    command.current_dir(repository);
    command.envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null")]);
    command.envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@example.org")]);
    command.envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@example.org")]);
    command.envs([("GIT_AUTHOR_DATE", "1700000000 +0000"), ("GIT_COMMITTER_DATE", "1700000000 +0000")]);
    command
}

fn commit(repository: &Path, message: &str) -> String {
    git(repository, &["add", "--all"]);
    git(repository, &["commit", "--quiet", "-m", message]);
    git(repository, &["rev-parse", "HEAD"]).stdout.trim().to_owned()
}

/// Runs `git http-backend` as a web server would (RFC 3875).
fn backend(root: &Path, request: &Request) -> Reply {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let mut command = tool("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", &request.method);
    command.env("CONTENT_LENGTH", request.body.len().to_string());
    command.envs([("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory")]);
    command.env("GIT_CONFIG_VALUE_0", "*");
    for (name, header) in [
        ("CONTENT_TYPE", "content-type"),
        ("HTTP_CONTENT_ENCODING", "content-encoding"),
        ("GIT_PROTOCOL", "git-protocol"),
    ] {
        if let Some(value) = request.header(header) {
            command.env(name, value);
        }
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start git");
    let mut stdin = child.stdin.take().expect("its input");
    let body = request.body.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output().expect("wait for git");
    let _ = writer.join();
    let end = output.stdout.windows(4).position(|four| four == b"\r\n\r\n").expect("the end of the headers");
    let head = String::from_utf8_lossy(&output.stdout[..end]).into_owned();
    let fields: Vec<(&str, &str)> = head.lines().filter_map(|line| line.split_once(": ")).collect();
    let status = fields.iter().find(|(name, _)| *name == "Status");
    let status = status.map_or(200, |(_, value)| value[..3].parse().expect("a status"));
    let reply = Reply::new(status, &output.stdout[end + 4..]);
    let headers = fields.iter().filter(|(name, _)| *name != "Status");
    headers.fold(reply, |reply, (name, value)| reply.with(name, value))
}

/// A directory with a new pair of keys `key` and `key.pub`.
///
/// # Panics
/// When ssh-keygen fails.
pub fn ssh_key() -> TempDir {
    let dir = tempdir();
    let mut keygen = tool("ssh-keygen");
    run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "e2e", "-f"]).arg(dir.path().join("key"))).ok();
    dir
}

/// OpenSSH's agent with one key.
pub struct Agent {
    dir: TempDir,
    _process: Running,
}

impl Agent {
    /// With a new key.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        let dir = ssh_key();
        let socket = dir.path().join("agent");
        let mut agent = tool("ssh-agent");
        agent.args(["-D", "-a"]).arg(&socket).stdin(Stdio::null()).stdout(Stdio::null());
        let process = Running::start(&mut agent);
        // Its socket is there before it listens.
        eventually(Duration::from_secs(20), "ssh-agent to listen", || UnixStream::connect(&socket).is_ok());
        run(tool("ssh-add").arg("-q").arg(dir.path().join("key")).env("SSH_AUTH_SOCK", &socket)).ok();
        Self { dir, _process: process }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// Its key, as `ssh-add -L` shows it.
    ///
    /// # Panics
    /// When the file is gone.
    pub fn public_key(&self) -> String {
        fs::read_to_string(self.dir.path().join("key.pub")).expect("read the public key").trim().to_owned()
    }
}

/// OpenSSH's server on a port of 127.0.0.1, which lets one key in.
pub struct Sshd {
    port: u16,
    dir: TempDir,
    _process: Running,
}

/// Where Debian's sshd locks itself up; its start script makes it.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

impl Sshd {
    /// For the key of an agent.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(agent: &Agent) -> Self {
        let dir = ssh_key();
        let port = free_port();
        fs::write(dir.path().join("authorized"), agent.public_key()).expect("write the key");
        let settings = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/key\nAuthorizedKeysFile {root}/authorized\n\
             StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\n",
            root = dir.path().display()
        );
        let config = dir.path().join("config");
        fs::write(&config, settings).expect("write the configuration");
        // Left behind, since another test's server may be using it; it is empty and the package's own.
        let _ = fs::create_dir(PRIVILEGE_SEPARATION);
        let mut server: Command = tool("sshd");
        server.args(["-D", "-e", "-f"]).arg(&config).stdin(Stdio::null());
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let process = Running::start(server.stderr(log));
        eventually(Duration::from_secs(20), "sshd to answer", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, dir, _process: process }
    }

    /// `ssh://USER@127.0.0.1:PORT/PATH` for this user and an absolute path.
    pub fn url(&self, path: &Path) -> String {
        let user = run(tool("id").arg("-un")).ok().stdout;
        format!("ssh://{}@127.0.0.1:{}{}", user.trim(), self.port, path.display())
    }

    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}
