//! A server of files gone mad, and addresses from anywhere. It must not make the client panic, wait without end, keep a file that is none of
//! the server's, or hand a secret to somebody else.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hash::Digest;
use remote::{Checkout, Client, Config, Download, Downloaded, Known, without_credentials};
use transport::Retry;

use crate::dice::{self, Dice};
use crate::server::{Reply, Request, Server};
use crate::support::{client, config, no_secrets, noise, place, secrets};
use crate::support_git::access;

const HEADER: [&str; 27] = [
    " ",
    ",",
    "=",
    "\"",
    "\\",
    "*",
    "W/",
    "\"0\"",
    "W/\"1\"",
    "bytes ",
    "bytes",
    "0-5/10",
    "100-",
    "9-1",
    "*/3000",
    "18446744073709551615",
    "18446744073709551616",
    "-1",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Fri, 31 Dec 9999 23:59:60 GMT",
    "gzip",
    "chunked",
    "identity",
    "é",
    ";",
    "http://127.0.0.1:1/",
];
const NAMES: [&str; 14] = [
    "ETag",
    "Last-Modified",
    "Date",
    "Content-Range",
    "Content-Length",
    "Content-Encoding",
    "Transfer-Encoding",
    "Content-Disposition",
    "Content-Type",
    "Location",
    "Retry-After",
    "Accept-Ranges",
    "WWW-Authenticate",
    "Connection",
];
const LATER: &str = "Sun, 06 Nov 1994 18:49:37 GMT";
const SECRET: &str = "hunter2";

/// How a version is told from others.
#[derive(Clone, Copy)]
enum By {
    Strong,
    Weak,
    Time,
    Nothing,
}

/// Two versions of a file.
struct Files([Vec<u8>; 2]);

impl Files {
    fn etag(version: usize, by: By) -> Option<String> {
        match by {
            By::Strong => Some(format!("\"{version}\"")),
            By::Weak => Some(format!("W/\"{version}\"")),
            _ => None,
        }
    }

    /// What a server that knows RFC 9110 answers.
    fn right(&self, request: &Request, version: usize, by: By) -> Reply {
        let etag = Self::etag(version, by);
        let time = format!("Sun, 06 Nov 1994 08:49:3{version} GMT");
        let bytes = &self.0[version];
        let described = |reply: Reply| match (&etag, by) {
            (Some(etag), _) => reply.with("ETag", etag),
            (None, By::Time) => reply.with("Last-Modified", &time).with("Date", LATER),
            _ => reply,
        };
        let is_time = |name: &str| matches!(by, By::Time) && request.header(name) == Some(&time);
        let known = request.header("if-none-match").zip(etag.as_deref());
        let known = known.is_some_and(|(known, etag)| known.contains(etag.trim_start_matches("W/")));
        if known || is_time("if-modified-since") {
            return described(Reply::new(304, ""));
        }
        let same = matches!(by, By::Strong) && request.header("if-range") == etag.as_deref();
        match request.offset().filter(|offset| (same || is_time("if-range")) && *offset < bytes.len()) {
            Some(offset) => {
                let range = format!("bytes {offset}-{}/{}", bytes.len() - 1, bytes.len());
                described(Reply::new(206, &bytes[offset..]).with("Content-Range", range))
            }
            None => described(Reply::new(200, bytes.clone())),
        }
    }
}

/// What fails but says nothing wrong.
fn faulty(dice: &mut Dice, right: Reply, own: &str) -> Reply {
    let length = right.body.len();
    match dice.below(14) {
        0 => Reply::new([400, 404, 408, 416, 429, 500, 503, 507, 599][dice.below(9)], dice.text(&HEADER)),
        1 => Reply::new([301, 302, 303, 307, 308][dice.below(5)], "").with("Location", own),
        2 => Reply::new(429, "").with("Retry-After", dice.text(&HEADER)),
        3 if length > 0 => right.reset(dice.below(length)),
        4..8 if length > 0 => right.cut(dice.below(length)),
        _ => right,
    }
}

/// What is not true.
fn lying(dice: &mut Dice, right: Reply, elsewhere: &str) -> Reply {
    let mut reply = match dice.below(10) {
        0 => Reply { status: [200, 201, 204, 206, 301, 303, 304, 308, 401, 416][dice.below(10)], ..right },
        1 | 2 => Reply { body: dice.damaged(right.body.clone(), &HEADER), ..right },
        3 => Reply::new(307, "").with("Location", elsewhere),
        4 => right.endless(),
        _ => right,
    };
    if dice.one_in(2) {
        let at = dice.below(reply.headers.len() + 1);
        match dice.one_in(2) {
            true if at < reply.headers.len() => reply.headers[at].1 = dice.text(&HEADER),
            _ => reply = reply.with(dice.pick(&NAMES), dice.text(&HEADER)),
        }
    }
    reply
}

/// Waits until the writer's thread is done.
fn is_empty_soon(directory: &Path) -> bool {
    let end = Instant::now() + Duration::from_secs(60);
    while fs::read_dir(directory).unwrap().next().is_some() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mad_server_of_files_for_a_while() {
    let (dice, time) = (Arc::new(Mutex::new(Dice::for_a_while())), dice::seconds());
    let files = Arc::new(Files([noise(3000), noise(2500).into_iter().rev().collect()]));
    let elsewhere = Server::start(|_, _| Reply::new(200, "elsewhere").with("ETag", "\"0\""));
    // Which version there is, how it is told; 2: it changes at any moment. Whether lies are told.
    let round = Arc::new(Mutex::new((0, By::Strong, false)));
    let server = Server::start({
        let (dice, files, round, elsewhere) =
            (dice.clone(), files.clone(), round.clone(), elsewhere.url("/"));
        move |request, _| {
            let (mut dice, (version, by, lies)) = (dice.lock().unwrap(), *round.lock().unwrap());
            let version = if version == 2 { dice.below(2) } else { version };
            let own = format!("http://{}/other", request.header("host").unwrap_or_default());
            let reply = faulty(&mut dice, files.right(request, version, by), &own);
            if lies { lying(&mut dice, reply, &elsewhere) } else { reply }
        }
    });
    let client = Client::new(Config {
        transport: transport::Config { idle_timeout: Duration::from_millis(500), ..config().transport },
        retry: Retry {
            attempts: 6,
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(2),
            max_retry_after: Duration::from_millis(20),
        },
        max_size: 100_000,
        ..config()
    });
    let digests = [Digest::of(&files.0[0]), Digest::of(&files.0[1])];
    let token = secrets(&[("HTTP_AUTH_TOKEN_127.0.0.1".to_owned(), SECRET)]);
    // What is known from rounds with the truth, and from those without.
    let mut known: [Vec<Known>; 2] = [Vec::new(), Vec::new()];
    let start = Instant::now();
    let (mut rounds, mut good, mut same) = (0, 0, 0);
    // On a busy machine longer, until something good came through.
    let is_over = |good: usize, same: usize| {
        let enough = good > 0 && same > 0;
        start.elapsed() >= if enough { time } else { time.max(Duration::from_secs(60)) }
    };
    while !is_over(good, same) {
        rounds += 1;
        let (version, by, lies, checksum) = {
            let mut dice = dice.lock().unwrap();
            let by = [By::Strong, By::Weak, By::Time, By::Nothing][dice.below(4)];
            let checksum = dice.one_in(3).then(|| digests[dice.below(2)]);
            (dice.below(3), by, dice.one_in(2), checksum)
        };
        *round.lock().unwrap() = (version, by, lies);
        let known = &mut known[usize::from(lies)];
        let (directory, path) = place();
        let told = AtomicUsize::new(0);
        let url = server.url("/file");
        let download = Download {
            url: &url,
            checksum,
            known,
            secrets: &*token,
            progress: &|bytes, _| told.store(bytes as usize, Ordering::SeqCst),
        };
        let done = tokio::time::timeout(Duration::from_secs(60), client.download(&download, &path)).await;
        match done.expect("a download without end") {
            Ok(Downloaded::File(fetched)) => {
                good += 1;
                let bytes = fs::read(&path).unwrap();
                assert_eq!((Digest::of(&bytes), bytes.len() as u64), (fetched.digest, fetched.size));
                assert_eq!(told.load(Ordering::SeqCst), bytes.len());
                assert!(checksum.is_none_or(|checksum| checksum == fetched.digest));
                if !lies {
                    let place = digests.iter().position(|digest| *digest == fetched.digest);
                    let place = place.expect("a file that is neither version");
                    assert!(version == 2 || version == place);
                    assert_eq!(fetched.validators.etag, Files::etag(place, by));
                }
                known.push(Known { digest: fetched.digest, validators: fetched.validators });
                if known.len() > 4 {
                    known.clear();
                }
            }
            Ok(Downloaded::NotModified(place)) => {
                same += 1;
                assert!(checksum.is_none_or(|checksum| checksum == known[place].digest));
                if !lies && version < 2 && checksum.is_none() {
                    assert_eq!(known[place].digest, digests[version]);
                }
                assert!(is_empty_soon(directory.path()), "something is left");
            }
            Err(_) => assert!(is_empty_soon(directory.path()), "something is left"),
        }
    }
    for request in elsewhere.requests() {
        assert!(request.headers.iter().all(|(_, value)| !value.contains(SECRET)), "{request:?}");
    }
    println!("{rounds} rounds, {good} files came, {same} were known");
    assert!(good > 0 && same > 0, "nothing good came through, so this tests nothing");
}

const ADDRESS: [&str; 32] = [
    "http://",
    "https://",
    "ssh://",
    "git://",
    "file://",
    "HTTP:",
    "ext::",
    "//",
    "/",
    ":",
    "@",
    "#",
    "?",
    "[::1]",
    "[",
    "%40",
    "%",
    "-",
    "--upload-pack=x",
    "host.example",
    "127.0.0.1:1",
    ":99999",
    "..",
    ".git",
    "\n",
    "\0",
    " ",
    "é",
    "\\",
    "u",
    "git@",
    "xn--a",
];

/// Addresses are taken apart or refused, and no password is told.
#[tokio::test]
async fn mad_addresses_for_a_while() {
    let (mut dice, time, start) = (Dice::for_a_while(), dice::seconds(), Instant::now());
    let client = client();
    let login = format!("u:{SECRET}@");
    let (mut count, mut good) = (0, 0);
    while start.elapsed() < time || count < 50 {
        count += 1;
        let mut address = dice.text(&ADDRESS);
        if dice.one_in(2) {
            // A login stands where logins do.
            let (front, back) = (dice.pick(&ADDRESS[..5]), dice.text(&ADDRESS));
            address = format!("{front}{login}{back}");
        }
        let shown = without_credentials(&address);
        assert!(!shown.contains(SECRET), "{address:?} is shown as {shown:?}");
        assert_eq!(without_credentials(&shown), shown, "{address:?}");
        // A full id is not asked for, so what is left is taking the address apart.
        let reference = Some("0123456789012345678901234567890123456789".to_owned());
        let checkout = Checkout { remote: address.clone(), reference, ..Checkout::default() };
        match client.resolve(&checkout, &access()).await {
            Ok(resolved) => {
                good += 1;
                assert!(!address.starts_with('-') && !address.chars().any(char::is_control), "{address:?}");
                assert!(!resolved.identity(&checkout).contains(SECRET));
            }
            Err(error) => assert!(!error.to_string().contains(SECRET), "{address:?}: {error}"),
        }
        if !address.starts_with("http") {
            let (directory, path) = place();
            let download = Download {
                url: &address,
                checksum: None,
                known: &[],
                secrets: &no_secrets,
                progress: &|_, _| {},
            };
            if let Err(error) = client.download(&download, &path).await {
                assert!(!error.to_string().contains(SECRET), "{address:?}: {error}");
            }
            assert!(is_empty_soon(directory.path()));
        }
    }
    assert!(client.found().keys().all(|name| !name.contains(SECRET)));
    println!("{count} addresses, {good} were good");
    assert!(good > 0);
}
