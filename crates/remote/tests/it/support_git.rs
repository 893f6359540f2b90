//! Repositories and servers of them.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use remote::{Access, CheckedOut, Checkout, Client, Error};
use tempfile::TempDir;

use crate::server::{Reply, Request, Server};
use crate::support::{no_secrets, run};

/// A directory with the repository `app` and its submodules, `lib` and `deep` below that.
pub(crate) struct Fixture {
    pub(crate) directory: TempDir,
    /// By name: commits, and `tag` for the annotated tag's own id.
    /// No reference points to it.
    pub(crate) base: String,
    pub(crate) first: String,
    pub(crate) main: String,
    pub(crate) side: String,
    pub(crate) tag: String,
    /// On no branch.
    pub(crate) lost: String,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let git = |repository: &str, arguments: &[&str]| {
            let file = ["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"];
            run(&root.join(repository), "git", &[&file[..], arguments].concat())
        };
        for name in ["deep.git", "lib.git", "app.git"] {
            fs::create_dir(root.join(name)).unwrap();
            git(name, &["init", "--quiet"]);
        }
        let commit = |repository: &str, message: &str| {
            git(repository, &["add", "--all"]);
            git(repository, &["commit", "--quiet", "--allow-empty", "-m", message]);
            git(repository, &["rev-parse", "HEAD"])
        };
        fs::write(root.join("deep.git/deep"), "deep\n").unwrap();
        commit("deep.git", "deep");
        fs::write(root.join("lib.git/lib"), "lib\n").unwrap();
        git("lib.git", &["submodule", "--quiet", "add", "../deep.git", "vendor/deep"]);
        commit("lib.git", "lib");

        let app = root.join("app.git");
        fs::create_dir_all(app.join("dir/inner")).unwrap();
        fs::write(app.join("a"), "base\n").unwrap();
        fs::write(app.join("run.sh"), "#!/bin/sh\n").unwrap();
        run(&app, "chmod", &["755", "run.sh"]);
        fs::write(app.join("dir/inner/b"), "b\n").unwrap();
        symlink("../a", app.join("dir/link")).unwrap();
        symlink("dir", app.join("way")).unwrap();
        let base = commit("app.git", "base");
        fs::write(app.join("a"), "first\n").unwrap();
        let first = commit("app.git", "first");
        git("app.git", &["tag", "light"]);
        git("app.git", &["tag", "both"]);
        fs::write(app.join("a"), "main\n").unwrap();
        let main = commit("app.git", "second");
        git("app.git", &["tag", "-a", "-m", "annotated", "v1", "HEAD"]);
        let tag = git("app.git", &["rev-parse", "v1"]);
        git("app.git", &["update-ref", "refs/pull/1/head", &first]);
        git("app.git", &["checkout", "--quiet", "-b", "side"]);
        fs::write(app.join("a"), "lost\n").unwrap();
        let lost = commit("app.git", "lost");
        git("app.git", &["reset", "--quiet", "--hard", &main]);
        git("app.git", &["submodule", "--quiet", "add", "../lib.git", "lib"]);
        let side = commit("app.git", "side");
        git("app.git", &["branch", "both"]);
        git("app.git", &["checkout", "--quiet", "main"]);
        for name in ["deep.git", "lib.git", "app.git"] {
            git(name, &["update-server-info"]);
        }
        Fixture { directory, base, first, main, side, tag, lost }
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn app(&self) -> PathBuf {
        self.root().join("app.git")
    }

    /// Over git's own way between directories.
    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.app().display())
    }

    /// The default branch, submodules included.
    pub(crate) fn checkout(&self) -> Checkout {
        Checkout { remote: self.url(), submodules: true, ..Checkout::default() }
    }

    /// Runs git in `app`.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        run(&self.app(), "git", arguments)
    }

    /// Serves `/git/NAME` with `git http-backend` and `/dumb/NAME` as files.
    pub(crate) fn serve(&self) -> Server {
        let root = self.root().to_owned();
        Server::start(move |request, _| answer(&root, request))
    }
}

/// The answer of [`Fixture::serve`].
pub(crate) fn answer(root: &Path, request: &Request) -> Reply {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    match path.strip_prefix("/git") {
        Some(path) => backend(root, request, path, query),
        None => {
            let (name, path) = path.trim_start_matches("/dumb/").split_once('/').unwrap_or_default();
            let bytes = fs::read(root.join(name).join(".git").join(path));
            bytes.map_or(Reply::new(404, ""), |bytes| Reply::new(200, bytes))
        }
    }
}

/// Runs `git http-backend` as a web server would (RFC 3875).
fn backend(root: &Path, request: &Request, path: &str, query: &str) -> Reply {
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .envs([
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
        ]);
    for (name, header) in [
        ("CONTENT_TYPE", "content-type"),
        ("HTTP_CONTENT_ENCODING", "content-encoding"),
        ("GIT_PROTOCOL", "git-protocol"),
    ] {
        if let Some(value) = request.header(header) {
            command.env(name, value);
        }
    }
    // What it says of mad requests is nobody's concern.
    command.stderr(Stdio::null());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = request.body.clone();
    let writer = thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join();
    let end = output.stdout.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&output.stdout[..end]).into_owned();
    let fields: Vec<(&str, &str)> = head.lines().filter_map(|line| line.split_once(": ")).collect();
    let status = fields.iter().find(|(name, _)| *name == "Status");
    let status = status.map_or(200, |(_, value)| value[..3].parse().unwrap());
    let reply = Reply::new(status, &output.stdout[end + 4..]);
    fields
        .iter()
        .filter(|(name, _)| *name != "Status")
        .fold(reply, |reply, (name, value)| reply.with(name, value))
}

/// Where checkouts go, beside the repositories.
pub(crate) struct Place {
    pub(crate) directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn repositories(&self) -> PathBuf {
        self.directory.path().join("repositories")
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Resolves and checks out.
    pub(crate) async fn get(
        &self,
        client: &Client,
        checkout: &Checkout,
        name: &str,
    ) -> Result<CheckedOut, Error> {
        let resolved = client.resolve(checkout, &access()).await?;
        client.checkout(checkout, &resolved, &access(), &self.repositories(), &self.at(name)).await
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.directory.path().join(path)).unwrap()
    }

    /// What is below a checkout, as sorted paths.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let listed = run(&self.at(name), "find", &[".", "-mindepth", "1", "-not", "-path", "./.git/*"]);
        let mut paths: Vec<String> = listed.lines().map(|path| path[2..].to_owned()).collect();
        paths.sort();
        paths
    }

    /// Nothing but the repositories and what is named.
    pub(crate) fn assert_only(&self, names: &[&str]) {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let found: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        for name in &found {
            assert!(name == "repositories" || names.contains(&name.as_str()), "{name} is left");
        }
    }
}

pub(crate) fn access() -> Access<'static> {
    Access { secrets: &no_secrets, ssh_agent: None, known_hosts: None, log: &|_| {} }
}

/// A server program, killed when dropped.
pub(crate) struct Program(pub(crate) Child);

impl Program {
    /// Waits until it listens.
    pub(crate) fn start(command: &mut Command, port: u16) -> Program {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut program = Program(child);
        let end = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(program.0.try_wait().unwrap().is_none(), "{command:?} ends");
            assert!(Instant::now() < end, "{command:?} does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        program
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that is free at the moment, and none of those that the kernel gives to whoever asks for any (from 32,768): other tests do.
pub(crate) fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let ports = || {
        let at = std::process::id().wrapping_mul(8).wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed));
        u16::try_from(12_000 + at % 20_000).unwrap()
    };
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(ports).take(20_000).find(is_free).unwrap()
}
