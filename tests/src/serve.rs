//! A directory given out on the loopback: its files by HTTP, its repositories by git's own protocol.

use std::fs;
use std::path::Path;

use crate::{Reply, Running, Server, git};

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
        let files = dir.to_owned();
        let http = Server::start(move |request| {
            let path = request.target.split('?').next().unwrap_or_default();
            if let Some(rest) = path.strip_prefix("/redirect/") {
                return Reply::redirect(302, format!("/{rest}"));
            }
            match fs::read(files.join(path.trim_start_matches('/'))) {
                Ok(body) => Reply::new(200, body).with("Last-Modified", "Sun, 09 Sep 2001 01:46:40 GMT"),
                Err(_) => Reply::new(404, ""),
            }
        });
        let (daemon, git) = git::daemon(dir);
        Served { http, git, _daemon: daemon }
    }

    /// `http://ADDRESS`
    pub fn http(&self) -> String {
        self.http.url("")
    }

    /// `git://ADDRESS`
    pub fn git(&self) -> String {
        self.git.clone()
    }

    /// A text in which the two addresses are the same on every machine.
    #[must_use]
    pub fn unnamed(&self, text: &str) -> String {
        text.replace(&self.http.host(), "SERVER").replace(self.git.trim_start_matches("git://"), "SERVER")
    }
}
