//! Registries that break, lie, limit and redirect.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hash::Digest;
use image::{ContentStore, MemoryStore, ResolveError};
use registry::{Client, Config};
use transport::{Proxies, Retry};

use crate::server::{Reply, Request, Server};
use crate::support::{
    INDEX, MANIFEST, Made, Told, config, descriptor, make, noise, over, pull, read, resolve,
};

fn name(server: &Server) -> String {
    format!("{}/app:v1", server.address)
}

/// Serves an image, except where `fault` has another answer; it gets the answer that would be right.
fn faulty(
    layer: Vec<u8>,
    fault: impl Fn(&Request, usize, Part, Reply) -> Reply + Send + Sync + 'static,
) -> (Server, Made) {
    let image = make(layer.clone(), "amd64");
    let Made { config, manifest, .. } = make(layer.clone(), "amd64");
    let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
    let (config_digest, layer_digest) = (digest(&config), digest(&layer));
    let server = Server::start(move |request, number| {
        let (part, reply) = match request.target.rsplit('/').next() {
            Some(last) if last == config_digest => (Part::Config, Reply::new(200, config.clone())),
            Some(last) if last == layer_digest => (Part::Layer, Reply::new(200, layer.clone())),
            _ => (Part::Manifest, Reply::new(200, manifest.clone()).with("Content-Type", MANIFEST)),
        };
        fault(request, number, part, reply)
    });
    (server, image)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Manifest,
    Config,
    Layer,
}

/// Resolves and pulls, and gives what it failed with.
async fn failure(server: &Server) -> ResolveError {
    let client = Client::new(config());
    match resolve(&client, &name(server)).await {
        Ok(image) => pull(&image).await.expect_err("the layer is at fault"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn waits_as_long_as_the_registry_asks() {
    let (server, made) = faulty(noise(10), |_, number, _, right| match number {
        0 => Reply::new(429, "").with("Retry-After", 1),
        1 => Reply::new(503, "down"),
        _ => right,
    });
    let begin = Instant::now();
    let image = resolve(&Client::new(config()), &name(&server)).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert!(pull(&image).await.unwrap() == [made.layer]);
}

#[tokio::test]
async fn mirrors_are_asked_first_and_not_believed() {
    let with = |origin: &Server, mirrors: &[&Server]| {
        let mirrors = mirrors.iter().map(|mirror| mirror.address.to_string()).collect();
        Client::new(Config { mirrors: [(origin.address.to_string(), mirrors)].into(), ..config() })
    };
    let (origin, made) = faulty(noise(1000), |_, _, _, right| right);
    let (good, _) = faulty(noise(1000), |_, _, _, right| right);
    let image = resolve(&with(&origin, &[&good]), &name(&origin)).await.unwrap();
    assert!(pull(&image).await.unwrap() == [made.layer.clone()]);
    assert_eq!((good.requests().len(), origin.requests().len()), (3, 0));

    // One that has nothing, one whose layer is another one, one that is down.
    let empty = Server::start(|_, _| Reply::new(404, ""));
    let (bad, _) = faulty(noise(1000), |_, _, part, right| match part {
        Part::Layer => Reply::new(200, vec![0; 1000]),
        _ => right,
    });
    let down = Server::start(|_, _| Reply::new(503, ""));
    let image = resolve(&with(&origin, &[&empty, &bad, &down]), &name(&origin)).await.unwrap();
    assert!(pull(&image).await.unwrap() == [made.layer]);
    assert_eq!((empty.requests().len(), bad.requests().len(), origin.requests().len()), (1, 3, 1));
    assert_eq!(down.requests().len(), 4, "the layer only");
}

#[tokio::test]
async fn gives_up_in_words() {
    let limit = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"pull rate limit"}]}"#;
    let server = Server::start(move |_, _| Reply::new(429, limit).with("Retry-After", 86_400));
    let text = failure(&server).await.to_string();
    assert!(text.contains("pull rate limit") && text.contains("again in 86400 s"), "{text}");
    assert_eq!(server.requests().len(), 1);

    let server = Server::start(|_, _| Reply::new(502, "<html>"));
    let error = failure(&server).await;
    assert!(matches!(error, ResolveError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("502 Bad Gateway"), "{error}");
    assert_eq!(server.requests().len(), 4);

    let server = Server::start(|_, _| Reply::new(405, ""));
    assert!(matches!(failure(&server).await, ResolveError::Invalid { .. }));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn says_when_nobody_is_there() {
    // A port that the kernel gives to nobody who asks for any.
    let address = "127.0.0.1:1";
    let begin = Instant::now();
    let error = resolve(&Client::new(config()), &format!("{address}/app:v1")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{address}/app:v1: cannot reach registry {address}: connection refused")
    );
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn goes_on_where_a_transfer_broke() {
    let layer = noise(3 << 20);
    let (server, made) = faulty(layer, |request, _, part, right| match (part, request.offset()) {
        (Part::Layer, None) => Reply { cut: Some(1_000_000), ..right },
        (Part::Layer, Some(offset)) => {
            let total = right.body.len();
            let rest = right.body[offset..].to_vec();
            let cut = if offset < 2_000_000 { Some(1_100_000) } else { None };
            let range = format!("bytes {offset}-{}/{total}", total - 1);
            Reply { cut, ..Reply::new(206, rest).with("Content-Range", range) }
        }
        _ => right,
    });
    let image = resolve(&Client::new(config()), &name(&server)).await.unwrap();
    assert!(pull(&image).await.unwrap() == [made.layer]);
    assert_eq!(offsets(&server), [None, Some(1_000_000), Some(2_100_000)]);
}

/// A store that keeps what was brought of its one blob.
#[derive(Default, Clone)]
struct Keeping(MemoryStore, Arc<Mutex<Vec<u8>>>);
struct Beginning(Keeping, Vec<u8>);

impl ContentStore for Keeping {
    fn open(&self, digest: &Digest) -> std::io::Result<Option<image::BlobReader>> {
        self.0.open(digest)
    }
    fn size(&self, digest: &Digest) -> std::io::Result<Option<u64>> {
        self.0.size(digest)
    }
    fn create(&self) -> std::io::Result<Box<dyn image::BlobWriter>> {
        self.0.create()
    }
    fn resume(&self, _: &Digest, _: u64) -> std::io::Result<image::Resume> {
        let bytes = std::mem::take(&mut *self.1.lock().unwrap());
        let (store, held) = (self.clone(), bytes.len() as u64);
        Ok(Box::new(move |_| Ok((Box::new(Beginning(store, bytes)) as _, held))))
    }
}

impl std::io::Write for Beginning {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.1.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl image::BlobWriter for Beginning {
    fn commit(mut self: Box<Self>, expected: Option<&Digest>) -> std::io::Result<(Digest, u64)> {
        let mut writer = self.0.create()?;
        writer.write_all(&std::mem::take(&mut self.1))?;
        writer.commit(expected)
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        *self.0.1.lock().unwrap() = std::mem::take(&mut self.1);
    }
}

/// What was asked for of the layer: from which byte on.
fn offsets(server: &Server) -> Vec<Option<usize>> {
    let requests = server.requests();
    requests.iter().filter(|one| one.target.contains("/blobs/")).skip(1).map(Request::offset).collect()
}

/// What an earlier transfer brought is not asked for; where a registry gives no parts, or it is another beginning, all is.
#[tokio::test]
async fn goes_on_with_what_is_there() {
    let layer = noise(500_000);
    let part = |right: Reply, offset: usize| {
        let range = format!("bytes {offset}-{}/{}", right.body.len() - 1, right.body.len());
        Reply::new(206, right.body[offset..].to_vec()).with("Content-Range", range)
    };
    let refusal = |status| move |_: Reply, _: usize| Reply::new(status, "");
    type Answer = Box<dyn Fn(Reply, usize) -> Reply + Send + Sync>;
    let half = || layer[..200_000].to_vec();
    let wrong = || vec![0; 200_000];
    type Case<'a> = (Vec<u8>, Answer, &'a [Option<usize>]);
    let cases: [Case<'_>; 7] = [
        (half(), Box::new(part), &[Some(200_000)]),
        (half(), Box::new(|right, _| right), &[Some(200_000)]),
        (wrong(), Box::new(part), &[Some(200_000), None]),
        (half(), Box::new(refusal(416)), &[Some(200_000), None]),
        (half(), Box::new(refusal(403)), &[Some(200_000), None]),
        (half(), Box::new(|right, _| Reply { status: 206, ..right }), &[Some(200_000), None]),
        (layer.clone(), Box::new(refusal(500)), &[]),
    ];
    for (number, (held, answer, expected)) in cases.into_iter().enumerate() {
        let (server, made) = faulty(layer.clone(), move |request, _, part, right| match request.offset() {
            Some(offset) if part == Part::Layer => answer(right, offset),
            _ => right,
        });
        let image = resolve(&Client::new(config()), &name(&server)).await.unwrap();
        let store = Keeping::default();
        *store.1.lock().unwrap() = held;
        let told = Told::default();
        image.blobs.fetch(&image.layers[0].descriptor, &store, &told).await.unwrap();
        assert!(read(&store.0, &Digest::of(&made.layer)) == Some(made.layer), "{number}");
        assert_eq!(offsets(&server), expected, "{number}");
    }
}

/// Where a mirror breaks off, the next one goes on.
#[tokio::test]
async fn a_mirror_goes_on_where_another_broke() {
    let layer = noise(3 << 20);
    let breaking = |layer: &[u8]| {
        faulty(layer.to_vec(), |_, number, part, right| match (part, number) {
            (Part::Layer, 2) => Reply { cut: Some(1_000_000), ..right },
            (Part::Layer, _) => Reply::new(404, ""),
            _ => right,
        })
    };
    let ((mirror, _), (origin, made)) = (
        breaking(&layer),
        faulty(layer, |request, _, part, right| {
            let Some(offset) = request.offset().filter(|_| part == Part::Layer) else { return right };
            let range = format!("bytes {offset}-{}/{}", right.body.len() - 1, right.body.len());
            Reply::new(206, right.body[offset..].to_vec()).with("Content-Range", range)
        }),
    );
    let mirrors = [(origin.address.to_string(), vec![mirror.address.to_string()])].into();
    let image = resolve(&Client::new(Config { mirrors, ..config() }), &name(&origin)).await.unwrap();
    let store = Keeping::default();
    image.blobs.fetch(&image.layers[0].descriptor, &store, &Told::default()).await.unwrap();
    assert!(read(&store.0, &Digest::of(&made.layer)) == Some(made.layer));
    assert_eq!(offsets(&mirror), [None, Some(1_000_000)]);
    let asked: Vec<_> = origin.requests().iter().map(Request::offset).collect();
    assert_eq!(asked, [Some(1_000_000)]);
}

#[tokio::test]
async fn copes_with_a_server_that_knows_no_ranges() {
    let broken = AtomicUsize::new(0);
    let (server, made) = faulty(noise(500_000), move |_, _, part, right| {
        let first = part == Part::Layer && broken.fetch_add(1, Ordering::SeqCst) == 0;
        Reply { cut: first.then_some(200_000), ..right }
    });
    let image = resolve(&Client::new(config()), &name(&server)).await.unwrap();
    assert!(pull(&image).await.unwrap() == [made.layer]);
}

#[tokio::test]
async fn a_server_that_always_breaks_is_given_up() {
    let (server, _) = faulty(noise(500_000), |_, _, part, right| Reply {
        cut: (part == Part::Layer).then_some(0),
        ..right
    });
    let error = failure(&server).await;
    assert!(matches!(error, ResolveError::Unreachable { .. }), "{error}");
    assert_eq!(server.requests().len(), 6, "manifest, config, four times the layer");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let (server, _) = faulty(noise(500_000), |_, _, part, right| {
        let delay = if part == Part::Layer { Duration::from_secs(10) } else { Duration::ZERO };
        Reply { delay, ..right }
    });
    let retry = Retry { attempts: 1, ..Retry::default() };
    let client = Client::new(Config { retry, ..over(|to| to.idle_timeout = Duration::from_secs(2)) });
    let image = resolve(&client, &name(&server)).await.unwrap();
    let error = pull(&image).await.unwrap_err();
    assert!(error.to_string().contains("no answer in time"), "{error}");
}

#[tokio::test]
async fn wrong_bytes_are_never_stored() {
    let changes: [fn(Reply) -> Reply; 4] = [
        |mut reply| {
            reply.body[77] ^= 1;
            reply
        },
        |mut reply| {
            reply.body.push(0);
            reply
        },
        |mut reply| {
            reply.body.pop();
            reply
        },
        |reply| Reply { status: 206, ..reply }.with("Content-Range", "bytes 5-999/1000"),
    ];
    for change in changes {
        let (server, made) = faulty(
            noise(1000),
            move |_, _, part, right| if part == Part::Layer { change(right) } else { right },
        );
        let image = resolve(&Client::new(config()), &name(&server)).await.unwrap();
        let store = MemoryStore::default();
        let layer = &image.layers[0].descriptor;
        let error = image.blobs.fetch(layer, &store, &Told::default()).await.unwrap_err();
        assert!(matches!(error, ResolveError::Invalid { .. }), "{error}");
        assert_eq!(read(&store, &Digest::of(&made.layer)), None);
    }
}

#[tokio::test]
async fn manifests_and_configs_are_checked() {
    let (server, made) = faulty(noise(10), |_, _, _, right| right);
    let other = Digest::of(b"other");
    let text = resolve(&Client::new(config()), &format!("{}/app@{other}", server.address)).await.unwrap_err();
    assert!(text.to_string().contains(&format!("manifest {other} is damaged")), "{text}");

    let (server, _) =
        faulty(noise(10), move |_, _, _, right| right.with("Docker-Content-Digest", Digest::of(b"other")));
    assert!(failure(&server).await.to_string().contains("is damaged"));

    let (server, _) = faulty(noise(10), |_, _, part, mut right| {
        if part == Part::Config {
            right.body[20] ^= 1;
        }
        right
    });
    let text = failure(&server).await.to_string();
    assert!(text.contains(&format!("config {}", Digest::of(&made.config))), "{text}");

    let (server, _) = faulty(noise(10), |_, _, _, _| Reply::new(200, vec![b' '; (4 << 20) + 1]));
    assert!(failure(&server).await.to_string().contains("sends more than 4194304 bytes"));
}

#[tokio::test]
async fn old_and_foreign_documents_are_refused_by_name() {
    let old = r#"{"schemaVersion":1,"name":"app","tag":"v1","fsLayers":[]}"#;
    let old_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let server = Server::start(move |_, _| Reply::new(200, old).with("Content-Type", old_type));
    assert!(failure(&server).await.to_string().contains("schema 1"));

    let server = Server::start(|_, _| Reply::new(200, "<html>").with("Content-Type", "text/html"));
    assert!(matches!(failure(&server).await, ResolveError::Invalid { .. }));

    // An index that contains itself would go on for ever.
    let entry = descriptor(INDEX, b"x").to_string();
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
    let server = Server::start(move |_, _| Reply::new(200, index.clone()).with("Content-Type", INDEX));
    assert!(matches!(failure(&server).await, ResolveError::Invalid { .. }));
}

#[tokio::test]
async fn a_login_stays_with_its_registry() {
    let (cdn, _) = faulty(noise(1000), |_, _, _, right| right);
    let elsewhere = cdn.address;
    let (server, made) = faulty(noise(1000), move |request, _, part, right| {
        if request.header("authorization").is_none() {
            return Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x");
        }
        let next = format!("http://{elsewhere}{}", request.target);
        if part == Part::Layer { Reply::new(307, "").with("Location", next) } else { right }
    });
    let directory = tempfile::tempdir().unwrap();
    let path = crate::support::docker_config(directory.path(), &server.address.to_string(), "me", "secret");
    let client = Client::new(Config { credentials: registry::Credentials::DockerConfig(path), ..config() });
    let image = resolve(&client, &name(&server)).await.unwrap();
    assert!(pull(&image).await.unwrap() == [made.layer]);
    assert!(server.requests().last().unwrap().header("authorization").is_some());
    assert_eq!(cdn.requests().len(), 1);
    assert!(cdn.requests()[0].header("authorization").is_none());
}

#[tokio::test]
async fn redirects_end_and_stay_in_http() {
    for (location, said) in [("/v2/app/again", "redirects more than"), ("file:///etc/passwd", "is not HTTP")]
    {
        let server = Server::start(move |_, _| Reply::new(302, "").with("Location", location));
        let text = failure(&server).await.to_string();
        assert!(text.contains(said), "{text}");
    }
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_in_parallel_up_to_the_limit_and_each_blob_once() {
    let layers: Vec<Vec<u8>> = (1..=8).map(|length| noise(length * 100)).collect();
    let (busy, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (blobs, seen) = (layers.clone(), Arc::clone(&most));
    let made = make(noise(10), "amd64");
    let documents = [made.manifest, made.config];
    let server = Server::start(move |request, _| {
        if request.target.contains("/manifests/") {
            return Reply::new(200, documents[0].clone()).with("Content-Type", MANIFEST);
        }
        let wanted = |bytes: &&Vec<u8>| request.target.ends_with(&Digest::of(bytes).to_string());
        let Some(layer) = blobs.iter().find(wanted) else { return Reply::new(200, documents[1].clone()) };
        seen.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Until there are as many as may be, and then for more.
        (0..1000).take_while(|_| seen.load(Ordering::SeqCst) < 3).for_each(|_| pause(10));
        pause(100);
        busy.fetch_sub(1, Ordering::SeqCst);
        Reply::new(200, layer.clone())
    });
    let client = Client::new(Config { parallel: 3, ..config() });
    let image = resolve(&client, &name(&server)).await.unwrap();
    let store = MemoryStore::default();
    let twice = layers.iter().chain(&layers).map(|layer| {
        let descriptor = image::Descriptor::new("x", Digest::of(layer), layer.len() as u64);
        let (image, store) = (image.clone(), store.clone());
        tokio::spawn(async move { image.blobs.fetch(&descriptor, &store, &Told::default()).await })
    });
    for task in twice.collect::<Vec<_>>() {
        task.await.unwrap().unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert_eq!(server.requests().len(), 2 + layers.len());
}

/// A store whose unfinished blobs are counted.
struct Counting(MemoryStore, Arc<AtomicUsize>);
struct Counted(Option<Box<dyn image::BlobWriter>>, Arc<AtomicUsize>);

impl ContentStore for Counting {
    fn open(&self, digest: &Digest) -> std::io::Result<Option<image::BlobReader>> {
        self.0.open(digest)
    }
    fn size(&self, digest: &Digest) -> std::io::Result<Option<u64>> {
        self.0.size(digest)
    }
    fn create(&self) -> std::io::Result<Box<dyn image::BlobWriter>> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Counted(Some(self.0.create()?), Arc::clone(&self.1))))
    }
}

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.0 {
            Some(writer) if bytes.len() < 1 << 30 => writer.write(bytes),
            _ => Ok(0),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl image::BlobWriter for Counted {
    fn commit(mut self: Box<Self>, expected: Option<&Digest>) -> std::io::Result<(Digest, u64)> {
        self.0.take().expect("written once").commit(expected)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn dropping_a_transfer_leaves_nothing() {
    let (server, _) = faulty(noise(500_000), |_, _, part, right| {
        let delay = if part == Part::Layer { Duration::from_secs(2) } else { Duration::ZERO };
        Reply { delay, ..right }
    });
    let image = resolve(&Client::new(config()), &name(&server)).await.unwrap();
    let open = Arc::new(AtomicUsize::new(0));
    let store = Counting(MemoryStore::default(), Arc::clone(&open));
    let (layer, told) = (&image.layers[0].descriptor, Told::default());
    let fetch = image.blobs.fetch(layer, &store, &told);
    let half = async {
        while told.0.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = fetch => panic!("it takes longer: {done:?}"),
        () = half => {}
    }
    let end = Instant::now() + Duration::from_secs(60);
    while open.load(Ordering::SeqCst) > 0 {
        assert!(Instant::now() < end, "the writer is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.size(&layer.digest).unwrap(), None);
    // Nothing is locked either: another try succeeds.
    image.blobs.fetch(layer, &store, &told).await.unwrap();
}

#[tokio::test]
async fn goes_through_a_proxy_except_to_this_machine() {
    let made = make(noise(10), "amd64");
    let proxy = Server::start(move |request, _| match request.method.as_str() {
        "CONNECT" => Reply::new(403, ""),
        _ if request.target.contains("/manifests/") => {
            Reply::new(200, made.manifest.clone()).with("Content-Type", MANIFEST)
        }
        _ => Reply::new(200, made.config.clone()),
    });
    let address = Some(proxy.address.to_string());
    let proxies = Proxies { http: address.clone(), https: address, except: "other.test".to_owned() };
    let client = Client::new(over(|to| {
        to.proxies = proxies;
        to.insecure = vec!["registry.test".to_owned()];
    }));
    resolve(&client, "registry.test/app:v1").await.unwrap();
    let asked: Vec<String> = proxy.requests().iter().map(|one| one.target.clone()).take(2).collect();
    assert_eq!(asked, ["registry.test:443", "http://registry.test/v2/app/manifests/v1"]);

    let (server, _) = faulty(noise(10), |_, _, _, right| right);
    let before = proxy.requests().len();
    resolve(&client, &name(&server)).await.unwrap();
    assert_eq!(proxy.requests().len(), before);
}
