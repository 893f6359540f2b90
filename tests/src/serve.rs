//! A directory given out on the loopback: its files by HTTP, its repositories by git's own protocol.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::{Reply, Request, Running, Server, eventually, free_port, tool};

/// The two servers. They end with the value.
pub struct Served {
    http: Server,
    git: String,
    _daemon: Running,
}

impl Served {
    /// Begins to serve a directory. `/redirect/PATH` leads to `/PATH`.
    ///
    /// # Panics
    /// When there is no port, or no git.
    pub fn new(dir: &Path) -> Served {
        let root = dir.to_owned();
        let http = Server::start(move |request| answer(&root, request));
        let port = free_port();
        let git = format!("127.0.0.1:{port}");
        let mut daemon = tool("git");
        daemon.args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"]);
        daemon.arg(format!("--port={port}")).arg(format!("--base-path={}", dir.display()));
        daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Running::start(&mut daemon);
        eventually(Duration::from_secs(20), "git daemon to listen", || TcpStream::connect(&git).is_ok());
        Served { http, git, _daemon: daemon }
    }

    /// `http://ADDRESS`
    pub fn http(&self) -> String {
        self.http.url("")
    }

    /// `git://ADDRESS`
    pub fn git(&self) -> String {
        format!("git://{}", self.git)
    }

    /// A text in which the two addresses are the same on every machine.
    #[must_use]
    pub fn unnamed(&self, text: &str) -> String {
        text.replace(&self.http.host(), "SERVER").replace(&self.git, "SERVER")
    }
}

fn answer(root: &Path, request: &Request) -> Reply {
    let path = request.target.split('?').next().unwrap_or_default();
    if let Some(rest) = path.strip_prefix("/redirect/") {
        return Reply::redirect(302, format!("/{rest}"));
    }
    match fs::read(root.join(path.trim_start_matches('/'))) {
        Ok(body) => Reply::new(200, body).with("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT"),
        Err(_) => Reply::new(404, "not there"),
    }
}
