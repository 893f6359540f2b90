//! A small HTTP server that answers as a test tells it to, and counts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET` and the like.
    pub method: String,
    /// The path with its query.
    pub target: String,
    /// Names as they came, and values.
    pub headers: Vec<(String, String)>,
    /// What followed the headers.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What goes back.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    reset: bool,
    pause: Option<(usize, Duration)>,
}

impl Reply {
    /// A status and a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// With a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// The connection ends after so many bytes of the body, of which the headers promise all.
    #[must_use]
    pub fn cut(self, bytes: usize) -> Self {
        Self { cut: Some(bytes), ..self }
    }

    /// The same, and the connection is reset: what is on its way may be lost.
    #[must_use]
    pub fn reset(self, bytes: usize) -> Self {
        Self { reset: true, ..self.cut(bytes) }
    }

    /// The body comes in pieces of so many bytes, with a pause behind each.
    #[must_use]
    pub fn drip(self, piece: usize, pause: Duration) -> Self {
        Self { pause: Some((piece, pause)), ..self }
    }

    /// To another address.
    pub fn redirect(status: u16, to: impl ToString) -> Self {
        Self::new(status, "moved").with("Location", to)
    }
}

/// Listens on a port of 127.0.0.1 until it is dropped.
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `answer` gets each request.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::slow(Duration::ZERO, answer)
    }

    /// The same, with a pause before each MiB of a body that is read.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub fn slow(pause: Duration, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
        let address = listener.local_addr().expect("its address");
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, seen, answer) = (Arc::clone(&stop), Arc::clone(&requests), Arc::new(answer));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                // A broken connection is the client's to notice.
                thread::spawn(move || stream.and_then(|stream| serve(stream, pause, &*answer, &seen)).ok());
            }
        });
        Self { address, requests, stop, thread: Some(thread) }
    }

    /// `http://127.0.0.1:PORT` and a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The requests since the last call.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One request a connection.
fn serve(
    mut stream: TcpStream,
    pause: Duration,
    answer: &dyn Fn(&Request) -> Reply,
    seen: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let Some(request) = read(&mut reader, pause)? else { return Ok(()) };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let reply = answer(&request);
    let mut head = format!("HTTP/1.1 {} Reason\r\nConnection: close\r\n", reply.status);
    // RFC 9110, section 15.4.5: an answer 304 has no content.
    if reply.status != 304 {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" && reply.status != 304 {
        let body = &reply.body[..reply.cut.unwrap_or(reply.body.len())];
        let (piece, pause) = reply.pause.unwrap_or((usize::MAX, Duration::ZERO));
        for piece in body.chunks(piece) {
            stream.write_all(piece)?;
            stream.flush()?;
            thread::sleep(pause);
        }
    }
    if reply.reset {
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    }
    Ok(())
}

fn read(reader: &mut impl BufRead, pause: Duration) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new() };
    if request.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        request.body = chunks(reader)?;
    } else {
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut rest = reader.take(length);
        while rest.limit() > 0 {
            thread::sleep(pause);
            if rest.by_ref().take(1 << 20).read_to_end(&mut request.body)? == 0 {
                break;
            }
        }
    }
    Ok(Some(request))
}

/// RFC 9112, section 7.1, without extensions and trailers.
fn chunks(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
        reader.by_ref().take(size).read_to_end(&mut body)?;
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(body);
        }
    }
}
