//! A directory given out on the loopback: its files by HTTP, its repositories by git's own protocol.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Running, eventually};

/// The two servers. They end with the value.
pub struct Served {
    http: SocketAddr,
    git: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _daemon: Running,
}

impl Served {
    /// Begins to serve a directory. `/redirect/PATH` leads to `/PATH`.
    ///
    /// # Panics
    /// When there is no port, or no git.
    pub fn new(dir: &Path) -> Served {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let http = listener.local_addr().expect("an address");
        let stop = Arc::new(AtomicBool::new(false));
        let (dir_of_thread, stop_of_thread) = (dir.to_owned(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop_of_thread.load(Ordering::Relaxed) {
                    return;
                }
                // A client that went away is its own affair.
                let _ = stream.and_then(|stream| answer(&stream, &dir_of_thread));
            }
        });
        let git = free_address();
        let mut daemon = Command::new("git");
        daemon.args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"]);
        daemon.arg(format!("--port={}", git.port())).arg(format!("--base-path={}", dir.display()));
        daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Running::start(&mut daemon);
        eventually(Duration::from_secs(20), "git daemon to listen", || TcpStream::connect(git).is_ok());
        Served { http, git, stop, thread: Some(thread), _daemon: daemon }
    }

    /// `http://ADDRESS`
    pub fn http(&self) -> String {
        format!("http://{}", self.http)
    }

    /// `git://ADDRESS`
    pub fn git(&self) -> String {
        format!("git://{}", self.git)
    }

    /// A text in which the two addresses are the same on every machine.
    #[must_use]
    pub fn unnamed(&self, text: &str) -> String {
        text.replace(&self.http.to_string(), "SERVER").replace(&self.git.to_string(), "SERVER")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.http);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

/// Answers one request and closes.
fn answer(mut stream: &TcpStream, dir: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    if let Some(rest) = path.strip_prefix("/redirect/") {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: /{rest}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let file: PathBuf = dir.join(path.trim_start_matches('/'));
    let Ok(body) = fs::read(file) else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nLast-Modified: Sun, 09 Sep 2001 01:46:40 GMT\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if method == "HEAD" { Ok(()) } else { stream.write_all(&body) }
}
