//! Servers that images go to and come from: Debian's docker-registry and dockerd, each with a directory of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Running, eventually, free_port, need_root, run, tempdir, tool};

/// An empty registry on the loopback.
pub struct Registry {
    _process: Running,
    dir: TempDir,
    /// `127.0.0.1:PORT`
    pub address: String,
}

impl Registry {
    /// Starts one that lets in everybody, or only a user with a password.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(login: Option<(&str, &str)>) -> Self {
        let dir = tempdir();
        let address = format!("127.0.0.1:{}", free_port());
        let auth = match login {
            Some((user, password)) => {
                let line = run(tool("htpasswd").args(["-Bbn", user, password])).ok().stdout;
                let file = dir.path().join("htpasswd");
                fs::write(&file, line).expect("write the passwords");
                format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display())
            }
            None => String::new(),
        };
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\", secret: test}}\n{auth}",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).expect("write the configuration");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let process = Running::start(
            tool("docker-registry")
                .arg("serve")
                .arg(&file)
                .stdout(log.try_clone().expect("a log"))
                .stderr(log),
        );
        eventually(Duration::from_secs(20), "the registry to answer", || {
            TcpStream::connect(&address).is_ok()
        });
        Self { _process: process, dir, address }
    }

    /// The requests that came until now, one a line: `"PUT /v2/app/manifests/1 HTTP/1.1" 201 …`.
    ///
    /// # Panics
    /// When the registry does not answer any more.
    pub fn requests(&self) -> Vec<String> {
        // Each is noted when it is answered: who asked may be done before. One that comes later is noted later, but for the moment that
        // another thread may take.
        let mut before = self.noted();
        loop {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.noted();
            if now == before {
                return now;
            }
            before = now;
        }
    }

    /// What is noted when a request is that is made now; without such.
    fn noted(&self) -> Vec<String> {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let marker = format!("/asked-{}-", std::process::id());
        let own = format!("{marker}{}", ASKED.fetch_add(1, Ordering::Relaxed));
        let mut stream = TcpStream::connect(&self.address).expect("connect to the registry");
        let request = format!("GET {own} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).expect("ask the registry");
        stream.read_to_end(&mut Vec::new()).expect("hear from the registry");
        let mut log = String::new();
        eventually(Duration::from_secs(20), "the request to be noted", || {
            log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            log.lines().any(|line| line.contains(&format!("{own} HTTP/1.1\" ")))
        });
        let requests = log.lines().filter(|line| line.contains("HTTP/1.1\" ") && !line.contains(&marker));
        requests.map(str::to_owned).collect()
    }

    /// How many requests hold a text.
    pub fn count(&self, text: &str) -> usize {
        self.requests().iter().filter(|line| line.contains(text)).count()
    }

    /// What skopeo says about an image: `skopeo ARGUMENTS docker://ADDRESS/NAME`.
    ///
    /// # Panics
    /// When it does not succeed.
    #[track_caller]
    pub fn inspect(&self, arguments: &[&str], name: &str) -> String {
        let mut skopeo = tool("skopeo");
        skopeo.args(["--insecure-policy", "inspect", "--tls-verify=false"]).args(arguments);
        run(skopeo.arg(format!("docker://{}/{name}", self.address))).ok().stdout
    }

    /// A manifest or an index as it is stored.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn manifest(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.inspect(&["--raw"], name)).expect("a manifest is JSON")
    }
}

/// A daemon with a socket, a data root and a mount namespace of its own. It makes no bridge and no firewall rules.
pub struct Docker {
    _daemon: Running,
    dir: TempDir,
}

impl Docker {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not answer within three minutes.
    pub fn start() -> Self {
        need_root();
        let dir = tempdir();
        let at = |name: &str| dir.path().join(name);
        let log = fs::File::create(at("log")).expect("a log");
        let dockerd = tool("dockerd");
        let mut command = tool("unshare");
        command.args(["--mount", "--propagation=private"]).arg(dockerd.get_program());
        command
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"));
        command.arg("--host").arg(format!("unix://{}", at("socket").display()));
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]);
        // On a mounted overlay of one's own overlay may not work; this always does.
        command.arg("--storage-driver=vfs");
        let daemon = Running::start(command.stdout(log.try_clone().expect("a log")).stderr(log));
        let docker = Self { _daemon: daemon, dir };
        let answers = || docker.command().arg("version").output().is_ok_and(|output| output.status.success());
        let start = std::time::Instant::now();
        while !answers() {
            let log = fs::read_to_string(docker.dir.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(180), "dockerd does not answer:\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
        docker
    }

    /// `unix://…`, for `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("socket").display())
    }

    /// `docker` on this daemon.
    pub fn command(&self) -> Command {
        let mut docker = tool("docker");
        docker.arg("--host").arg(self.host());
        docker.env("DOCKER_CONFIG", self.dir.path());
        docker
    }
}
