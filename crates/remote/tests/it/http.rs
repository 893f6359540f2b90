//! Servers that break, lie, limit and redirect.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use hash::Digest;
use remote::{Client, Config, Download, Downloaded, Error, Fetched, Known, Validators};
use transport::Retry;

use crate::server::{Reply, Request, Server};
use crate::support::{client, config, no_secrets, noise, place, secrets};

const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const NOW: &str = "Sun, 06 Nov 1994 09:49:37 GMT";

fn plain(url: &str) -> Download<'_> {
    Download { url, checksum: None, known: &[], secrets: &no_secrets, progress: &|_, _| {} }
}

fn known(bytes: &[u8], etag: &str) -> Known {
    let validators = Validators { etag: Some(etag.to_owned()), last_modified: None };
    Known { digest: Digest::of(bytes), validators }
}

async fn fetched(download: &Download<'_>, to: &Path) -> Fetched {
    match client().download(download, to).await.unwrap() {
        Downloaded::File(fetched) => fetched,
        other => panic!("{other:?}"),
    }
}

/// What the server says, and that nothing was kept.
async fn refusal(client: &Client, download: &Download<'_>) -> String {
    let (directory, path) = place();
    let error = client.download(download, &path).await.unwrap_err();
    assert_nothing_in(directory.path());
    error.to_string()
}

/// The writer's thread may be a moment late.
fn assert_nothing_in(directory: &Path) {
    let end = Instant::now() + Duration::from_secs(60);
    while fs::read_dir(directory).unwrap().next().is_some() {
        assert!(Instant::now() < end, "something is left");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server that knows ranges and ETags and gets all but the first answer right.
fn resumable(
    bytes: Vec<u8>,
    etag: &'static str,
    first: impl Fn(Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    Server::start(move |request, number| {
        let offset = request.offset().filter(|_| request.header("if-range") == Some(etag));
        let reply = match offset {
            Some(offset) => {
                let range = format!("bytes {offset}-{}/{}", bytes.len() - 1, bytes.len());
                Reply::new(206, &bytes[offset..]).with("Content-Range", range)
            }
            None => Reply::new(200, bytes.clone()),
        };
        let reply = reply.with("ETag", etag);
        if number == 0 { first(reply) } else { reply }
    })
}

#[tokio::test]
async fn keeps_the_bytes_as_they_come() {
    let bytes = noise(300_000);
    let sent = bytes.clone();
    let server = Server::start(move |_, _| {
        let reply = Reply::new(200, sent.clone()).with("Content-Encoding", "gzip");
        reply.with("Last-Modified", OLD).with("Date", NOW).with("ETag", "W/\"x\"")
    });
    let (_directory, path) = place();
    let told = Mutex::new(Vec::new());
    let url = server.url("/a?b#c");
    let progress = |current, total| told.lock().unwrap().push((current, total));
    let fetched = fetched(&Download { progress: &progress, ..plain(&url) }, &path).await;
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!((fetched.digest, fetched.size), (Digest::of(&bytes), 300_000));
    assert_eq!(fetched.modified, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)));
    let validators = Validators { etag: Some("W/\"x\"".into()), last_modified: Some(OLD.into()) };
    assert_eq!(fetched.validators, validators);
    assert_eq!(told.lock().unwrap().last(), Some(&(300_000, Some(300_000))));
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/a?b"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn an_empty_file_is_a_file() {
    let server = Server::start(|_, _| Reply::new(200, ""));
    let (_directory, path) = place();
    assert_eq!(fetched(&plain(&server.url("/")), &path).await.size, 0);
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[tokio::test]
async fn does_not_transfer_what_is_known() {
    let (_directory, path) = place();
    let files = [known(b"a", "\"a\""), known(b"b", "W/\"b\"")];
    let ask = async |server: &Server| {
        let url = server.url("/");
        let result = client().download(&Download { known: &files, ..plain(&url) }, &path).await.unwrap();
        assert!(!path.exists() || matches!(result, Downloaded::File(_)));
        (result, server.requests())
    };

    let server = Server::start(|_, _| Reply::new(304, "").with("ETag", "\"b\""));
    let (result, requests) = ask(&server).await;
    assert_eq!(result, Downloaded::NotModified(1));
    assert_eq!(requests[0].header("if-none-match"), Some("\"a\", W/\"b\""));

    // Does not look at what it gets; nobody could wait for the end of the body.
    let server = Server::start(|_, _| Reply::new(200, "x").with("ETag", "\"a\"").endless());
    assert_eq!(ask(&server).await.0, Downloaded::NotModified(0));

    // Which one?
    let server = Server::start(|request: &Request, _| match request.header("if-none-match") {
        Some(_) => Reply::new(304, ""),
        None => Reply::new(200, "new"),
    });
    let (result, requests) = ask(&server).await;
    assert!(matches!(result, Downloaded::File(_)), "{result:?}");
    assert_eq!((requests.len(), fs::read(&path).unwrap()), (2, b"new".to_vec()));

    let server = Server::start(|_, _| Reply::new(200, "newer").with("ETag", "\"c\""));
    assert!(matches!(ask(&server).await.0, Downloaded::File(_)));
}

#[tokio::test]
async fn asks_by_time_where_there_is_no_etag() {
    let (_directory, path) = place();
    let server = Server::start(|_, _| Reply::new(304, ""));
    let validators = Validators { etag: None, last_modified: Some(OLD.into()) };
    let files = [Known { digest: Digest::of(b"a"), validators }];
    let url = server.url("/");
    let result = client().download(&Download { known: &files, ..plain(&url) }, &path).await.unwrap();
    assert_eq!(result, Downloaded::NotModified(0));
    assert_eq!(server.requests()[0].header("if-modified-since"), Some(OLD));

    // One ETag, not repeated by the server.
    let files = [known(b"a", "\"a\"")];
    let result = client().download(&Download { known: &files, ..plain(&url) }, &path).await.unwrap();
    assert_eq!(result, Downloaded::NotModified(0));
    // Nothing was offered, so there is nothing that could be the same.
    let error = refusal(&client(), &plain(&url)).await;
    assert!(error.contains("304"), "{error}");
}

#[tokio::test]
async fn a_known_checksum_needs_no_server() {
    let (_directory, path) = place();
    let files = [known(b"a", "\"a\""), known(b"b", "\"b\"")];
    let download =
        Download { checksum: Some(Digest::of(b"b")), known: &files, ..plain("http://nowhere.invalid/") };
    assert_eq!(client().download(&download, &path).await.unwrap(), Downloaded::NotModified(1));

    // What is known is not what is wanted, so it is not offered.
    let server = Server::start(|_, _| Reply::new(200, "c"));
    let url = server.url("/");
    let download = Download { url: &url, checksum: Some(Digest::of(b"c")), ..download };
    assert!(matches!(client().download(&download, &path).await.unwrap(), Downloaded::File(_)));
    assert_eq!(server.requests()[0].header("if-none-match"), None);
}

#[tokio::test]
async fn refuses_another_file_and_keeps_nothing_of_it() {
    let server = Server::start(|_, _| Reply::new(200, "forged"));
    let (wanted, found) = (Digest::of(b"wanted"), Digest::of(b"forged"));
    let url = server.url("/x");
    let error = refusal(&client(), &Download { checksum: Some(wanted), ..plain(&url) }).await;
    assert!(error.contains(&wanted.to_string()) && error.contains(&found.to_string()), "{error}");
    assert!(error.contains("/x"), "{error}");
}

#[tokio::test]
async fn goes_on_where_the_connection_broke() {
    let bytes = noise(500_000);
    for first in [|reply: Reply| reply.reset(200_000), |reply: Reply| reply.cut(200_000)] {
        let server = resumable(bytes.clone(), "\"v\"", first);
        let (_directory, path) = place();
        let url = server.url("/");
        let result = fetched(&plain(&url), &path).await;
        assert_eq!((result.digest, result.size), (Digest::of(&bytes), 500_000));
        assert!(fs::read(&path).unwrap() == bytes);
        let requests = server.requests();
        assert_eq!(requests.len(), 2);
        assert!(requests[1].offset().is_some_and(|offset| (1..=200_000).contains(&offset)));
        assert_eq!(requests[1].header("if-range"), Some("\"v\""));
    }
}

#[tokio::test]
async fn a_settled_time_proves_that_it_is_the_same_file() {
    let bytes = noise(100_000);
    let sent = bytes.clone();
    let server = Server::start(move |request, number| {
        let reply = match request.offset() {
            Some(offset) => {
                let range = format!("bytes {offset}-99999/100000");
                Reply::new(206, &sent[offset..]).with("Content-Range", range)
            }
            None => Reply::new(200, sent.clone()),
        };
        let reply = reply.with("Last-Modified", OLD).with("Date", NOW);
        if number == 0 { reply.cut(60_000) } else { reply }
    });
    let (_directory, path) = place();
    assert_eq!(fetched(&plain(&server.url("/")), &path).await.digest, Digest::of(&bytes));
    assert_eq!(server.requests()[1].header("if-range"), Some(OLD));
}

#[tokio::test]
async fn begins_anew_without_a_proof() {
    let bytes = noise(100_000);
    let wrong_range = {
        let bytes = bytes.clone();
        move |request: &Request, _: usize| match request.offset() {
            Some(offset) => {
                let rest = &bytes[offset - 1..];
                Reply::new(206, rest).with("Content-Range", format!("bytes {}-99999/100000", offset - 1))
            }
            None => Reply::new(200, bytes.clone()),
        }
    };
    let no_range = {
        let bytes = bytes.clone();
        move |request: &Request, _: usize| match request.offset() {
            Some(_) => Reply::new(416, ""),
            None => Reply::new(200, bytes.clone()),
        }
    };
    let whole = {
        let bytes = bytes.clone();
        move |_: &Request, _: usize| Reply::new(200, bytes.clone())
    };
    type Answer = Box<dyn Fn(&Request, usize) -> Reply + Send + Sync>;
    let cases: [(&str, bool, Answer); 6] = [
        ("\"v\"", true, Box::new(wrong_range)),
        ("\"v\"", true, Box::new(no_range)),
        // Does not know ranges.
        ("\"v\"", true, Box::new(whole.clone())),
        ("W/\"v\"", false, Box::new(whole.clone())),
        ("", false, Box::new(whole.clone())),
        ("unquoted", false, Box::new(whole)),
    ];
    for (number, (etag, resumes, answer)) in cases.into_iter().enumerate() {
        let server = Server::start(move |request, number| {
            let reply = answer(request, number).with("ETag", etag);
            // The time is too young to prove anything.
            let reply = reply.with("Last-Modified", NOW).with("Date", NOW);
            if number == 0 { reply.cut(60_000) } else { reply }
        });
        let (_directory, path) = place();
        let result = fetched(&plain(&server.url("/")), &path).await;
        assert_eq!(result.digest, Digest::of(&bytes), "case {number}");
        assert!(fs::read(&path).unwrap() == bytes, "case {number}");
        assert_eq!(server.requests()[1].offset().is_some(), resumes, "case {number}");
    }
}

#[tokio::test]
async fn a_file_that_changes_in_between_is_not_mixed() {
    let (old, new) = (noise(100_000), noise(90_000).into_iter().rev().collect::<Vec<u8>>());
    let sent = new.clone();
    // The second server ignores If-Range and lies about nothing but that.
    let honest = Server::start(move |_, number| match number {
        0 => Reply::new(200, noise(100_000)).with("ETag", "\"old\"").cut(50_000),
        _ => Reply::new(200, sent.clone()).with("ETag", "\"new\""),
    });
    let sent = new.clone();
    let sloppy = Server::start(move |request, number| match (number, request.offset()) {
        (0, _) => Reply::new(200, old.clone()).with("ETag", "\"old\"").cut(50_000),
        (_, Some(offset)) => Reply::new(206, &sent[offset..])
            .with("ETag", "\"new\"")
            .with("Content-Range", format!("bytes {offset}-89999/90000")),
        _ => Reply::new(200, sent.clone()).with("ETag", "\"new\""),
    });
    for server in [honest, sloppy] {
        let (_directory, path) = place();
        let result = fetched(&plain(&server.url("/")), &path).await;
        assert_eq!((result.digest, result.size), (Digest::of(&new), 90_000));
        assert_eq!(result.validators.etag.as_deref(), Some("\"new\""));
        assert!(fs::read(&path).unwrap() == new);
    }
}

#[tokio::test]
async fn tries_again_as_long_as_it_may_pass() {
    let server = Server::start(|_, number| match number {
        0 => Reply::new(429, "").with("Retry-After", 1),
        1 => Reply::new(503, ""),
        2 => Reply::new(200, "whole").cut(0),
        _ => Reply::new(200, "whole"),
    });
    let (_directory, path) = place();
    let begin = Instant::now();
    fetched(&plain(&server.url("/")), &path).await;
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert_eq!(fs::read(&path).unwrap(), b"whole");

    for (reply, tries, said) in [
        (Reply::new(502, ""), 4, "502 Bad Gateway"),
        (Reply::new(404, ""), 1, "404 Not Found"),
        (Reply::new(429, "").with("Retry-After", 86_400), 1, "again in 86400 s"),
        (Reply::new(200, "half").with("Content-Length", 9), 4, "closed early"),
        (Reply::new(206, "part").with("Content-Range", "bytes 0-3/9"), 1, "206"),
        (Reply::new(401, ""), 1, "HTTP_AUTH_TOKEN_127.0.0.1"),
    ] {
        let server = Server::start(move |_, _| reply.clone());
        let error = refusal(&client(), &plain(&server.url("/"))).await;
        assert!(error.contains(said), "{error}");
        assert_eq!(server.requests().len(), tries, "{error}");
    }
}

#[tokio::test]
async fn does_not_wait_for_ever() {
    let server = Server::start(|_, _| Reply::new(200, "slow").slow(Duration::from_secs(10)));
    let mut impatient = Config { retry: Retry { attempts: 2, ..config().retry }, ..config() };
    impatient.transport.idle_timeout = Duration::from_secs(1);
    let error = refusal(&Client::new(impatient), &plain(&server.url("/"))).await;
    assert!(error.contains("no answer in time"), "{error}");
    assert_eq!(server.requests().len(), 2);

    let error = refusal(&client(), &plain("http://127.0.0.1:1/x")).await;
    assert!(error.contains("127.0.0.1:1/x") && error.contains("connection refused"), "{error}");
    for wrong in ["ftp://x/", "x", "http://", "file:///etc/passwd"] {
        assert!(refusal(&client(), &plain(wrong)).await.contains("not an HTTP address"), "{wrong}");
    }
}

#[tokio::test]
async fn is_bounded() {
    let client = Client::new(Config { max_size: 100_000, ..config() });
    let endless = Server::start(|_, _| Reply::new(200, noise(1000)).endless());
    let stated = Server::start(|_, _| Reply::new(200, "x").with("Content-Length", 100_001));
    for server in [&endless, &stated] {
        let url = server.url("/");
        let (directory, path) = place();
        let error = client.download(&plain(&url), &path).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit: 100_000, .. }), "{error}");
        assert_eq!(server.requests().len(), 1);
        assert_nothing_in(directory.path());
    }
    let exact = Server::start(|_, _| Reply::new(200, noise(100_000)));
    let (_directory, path) = place();
    client.download(&plain(&exact.url("/")), &path).await.unwrap();
}

#[tokio::test]
async fn credentials_do_not_follow_to_another_host() {
    let target = Server::start(|_, _| Reply::new(200, "there"));
    // Another port is another server.
    let there = target.url("/there");
    let server = Server::start(move |request, _| match request.target.as_str() {
        "/here" => Reply::new(200, "here"),
        "/near" => Reply::new(302, "").with("Location", "/here"),
        "/loop" => Reply::new(307, "").with("Location", "/loop"),
        "/odd" => Reply::new(302, "").with("Location", "file:///etc/passwd"),
        _ => Reply::new(301, "").with("Location", &there),
    });
    let secrets = secrets(&[("HTTP_AUTH_TOKEN_127.0.0.1".to_owned(), "t0ken")]);
    let (_directory, path) = place();
    for (from, content) in [("/far", "there"), ("/near", "here")] {
        let url = server.url(from);
        fetched(&Download { secrets: &*secrets, ..plain(&url) }, &path).await;
        assert_eq!(fs::read(&path).unwrap(), content.as_bytes());
    }
    let sent: Vec<_> =
        server.requests().iter().map(|request| request.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, vec![Some("Bearer t0ken".to_owned()); 3]);
    assert_eq!(target.requests()[0].header("authorization"), None);

    let error = refusal(&client(), &plain(&server.url("/loop"))).await;
    assert!(error.contains("redirects more than 10 times"), "{error}");
    let error = refusal(&client(), &plain(&server.url("/odd"))).await;
    assert!(error.contains("not HTTP"), "{error}");
}

#[tokio::test]
async fn a_password_in_the_address_is_sent_and_not_shown() {
    let server = Server::start(|_, _| Reply::new(403, ""));
    let url = format!("http://user:s3cret@{}/x", server.address);
    let error = refusal(&client(), &plain(&url)).await;
    assert!(error.contains("403") && error.contains("credentials") && !error.contains("s3cret"), "{error}");
    assert!(server.requests()[0].header("authorization").unwrap().starts_with("Basic "));
}

#[tokio::test]
async fn a_dropped_download_leaves_nothing() {
    let server = Server::start(|_, _| Reply::new(200, noise(1000)).endless());
    let (directory, path) = place();
    let url = server.url("/");
    let (client, download) = (client(), plain(&url));
    let download = client.download(&download, &path);
    assert!(tokio::time::timeout(Duration::from_millis(300), download).await.is_err());
    assert_nothing_in(directory.path());
}

#[tokio::test]
async fn says_which_directory_is_not_there() {
    let server = Server::start(|_, _| Reply::new(200, "x"));
    let (directory, _) = place();
    let path = directory.path().join("none/file");
    let error = client().download(&plain(&server.url("/")), &path).await.unwrap_err();
    assert!(matches!(&error, Error::Io { action, .. } if action.contains("none/file")), "{error}");
    assert_eq!(server.requests().len(), 1);
}
