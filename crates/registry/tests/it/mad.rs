//! A registry gone mad: statuses, headers and documents are thrown like dice. It must not make the client panic, wait without end, or
//! keep a byte that is not what its digest says.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hash::Digest;
use image::{ContentStore, Descriptor, MemoryStore};
use registry::{Client, Config, Credentials, Push, PushBlob, PushManifest};
use transport::Retry;

use crate::dice::{self, Dice};
use crate::server::{Reply, Request, Server};
use crate::support::{INDEX, MANIFEST, Told, config, make, noise, over, read, resolve};

const HEADER: [&str; 22] = [
    "Bearer",
    "Basic",
    " ",
    ",",
    "=",
    "\"",
    "\\",
    "realm",
    "realm=\"/token\"",
    "service=x",
    "scope=\"repository:app:pull\"",
    "http://127.0.0.1:1/",
    "/v2/",
    "bytes",
    "0-5/10",
    "9-1",
    "18446744073709551615",
    "-1",
    "sha256:",
    "é",
    ";",
    "error=\"x\"",
];
const JSON: [&str; 20] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "-1",
    "1e400",
    "18446744073709551616",
    "\"sha256:00\"",
    "\"sha512:00\"",
    "\"layers\"",
    "\"manifests\"",
    "[[[[[[[[[[",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "true",
    "\"../../x\"",
];

/// What the registry answers to a request.
fn answer(dice: &mut Dice, request: &Request, right: Reply, other: &str) -> Reply {
    let mut reply = match dice.below(12) {
        0 => Reply::new(
            [200, 201, 202, 204, 206, 301, 307, 308, 401, 403, 404, 416, 429, 500, 503][dice.below(15)],
            right.body,
        ),
        1 => Reply { body: dice.damaged(right.body.clone(), &JSON), ..right },
        2 => Reply::new(401, "")
            .with("WWW-Authenticate", format!("Bearer realm=\"http://{other}/token\",service=x")),
        3 => Reply::new(200, dice.text(&JSON)),
        4 => Reply { cut: Some(dice.below(right.body.len() + 1)), ..right },
        5 => Reply { length: Some(dice.below(2 * right.body.len() + 2)), ..right },
        _ => right,
    };
    if request.target.contains("/token") {
        let token =
            r#"{"token":"abc","access_token":"x","expires_in":60,"issued_at":"2020-01-01T00:00:00Z"}"#;
        reply = Reply::new(200, token);
        if dice.one_in(2) {
            reply.body = dice.damaged(reply.body, &JSON);
        }
    }
    const NAMES: [&str; 9] = [
        "WWW-Authenticate",
        "Location",
        "Range",
        "Content-Range",
        "Content-Type",
        "Retry-After",
        "Docker-Content-Digest",
        "OCI-Chunk-Min-Length",
        "Link",
    ];
    if dice.one_in(3) {
        let name = dice.pick(&NAMES);
        let value = match (name, dice.below(3)) {
            ("Retry-After", _) => dice
                .pick(&["0", "-1", "x", "99999999999999999999", "Thu, 01 Jan 1970 00:00:00 GMT"])
                .to_owned(),
            ("Location", 0) => format!("http://{other}/v2/app/blobs/uploads/1"),
            ("Content-Type", 0) => dice.pick(&[INDEX, MANIFEST, "text/html", "application/json"]).to_owned(),
            _ => dice.text(&HEADER),
        };
        reply = reply.with(name, value);
    }
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mad_registry_for_a_while() {
    let (dice, time) = (Dice::for_a_while(), dice::seconds());
    let dice = Arc::new(Mutex::new(dice));
    let (thrown, made) = (dice.clone(), make(noise(2000), "amd64"));
    let right = make(noise(2000), "amd64");
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [{
            "mediaType": MANIFEST, "digest": Digest::of(&right.manifest), "size": right.manifest.len(),
            "platform": { "os": "linux", "architecture": "amd64" },
        }],
    });
    let server = Server::start(move |request, _| {
        let mut dice = thrown.lock().unwrap();
        let last = request.target.rsplit('/').next().unwrap_or_default();
        let is = |bytes: &[u8]| last == Digest::of(bytes).to_string();
        let reply = match request.method.as_str() {
            "GET" | "HEAD" if is(&right.config) => Reply::new(200, right.config.clone()),
            "GET" | "HEAD" if is(&right.layer) => Reply::new(200, right.layer.clone()),
            "GET" | "HEAD" if last == "v2" => Reply::new(200, index.to_string()).with("Content-Type", INDEX),
            "GET" | "HEAD" => Reply::new(200, right.manifest.clone()).with("Content-Type", MANIFEST),
            "POST" => Reply::new(202, "").with("Location", "/v2/app/blobs/uploads/1"),
            "PATCH" => {
                Reply::new(202, "").with("Location", "/v2/app/blobs/uploads/1").with("Range", "0-1999")
            }
            _ => Reply::new(201, ""),
        };
        let own = request.header("host").unwrap_or_default().to_owned();
        answer(&mut dice, request, reply, &own)
    });
    let folder = tempfile::tempdir().unwrap();
    let docker_config = folder.path().join("config.json");
    let start = Instant::now();
    let (mut rounds, mut good) = (0, 0);
    while start.elapsed() < time {
        rounds += 1;
        let login = format!(
            r#"{{"auths":{{"{}":{{"auth":"dXNlcjp3b3Jk"}}}},"credHelpers":{{"x":"none-here"}}}}"#,
            server.address
        );
        {
            let mut dice = dice.lock().unwrap();
            let login =
                if dice.one_in(3) { dice.damaged(login.into_bytes(), &JSON) } else { login.into_bytes() };
            std::fs::write(&docker_config, login).unwrap();
        }
        let client = Client::new(Config {
            credentials: Credentials::DockerConfig(docker_config.clone()),
            retry: Retry {
                first_delay: Duration::from_millis(1),
                max_delay: Duration::from_millis(2),
                max_retry_after: Duration::from_millis(20),
                ..config().retry
            },
            ..over(|transport| transport.idle_timeout = Duration::from_millis(300))
        });
        let store = MemoryStore::default();
        let pull = async {
            let tag = if rounds % 2 == 0 { "v1" } else { "v2" };
            let image = resolve(&client, &format!("{}/app:{tag}", server.address)).await.ok()?;
            for layer in &image.layers {
                image.blobs.fetch(&layer.descriptor, &store, &Told::default()).await.ok()?;
            }
            Some(())
        };
        let done = tokio::time::timeout(Duration::from_secs(120), pull).await.expect("a pull without end");
        good += u32::from(done.is_some());
        // Whatever is there is what it is called: the store verifies, and only right bytes have the right names.
        for bytes in [&made.layer, &made.config] {
            let found = read(&store, &Digest::of(bytes));
            assert!(found.is_none() || found.as_ref() == Some(bytes));
        }
        let subject = Digest::of(&made.manifest);
        let name = format!("{}/app:v1", server.address).parse().unwrap();
        let artifact = client.artifact(&name).unwrap();
        let listed = artifact.referrers(&subject);
        let _ = tokio::time::timeout(Duration::from_secs(120), listed).await.expect("a list without end");
        let blobs: Arc<dyn ContentStore> = Arc::new(MemoryStore::default());
        for bytes in [&made.layer, &made.config] {
            blobs.put(bytes).unwrap();
        }
        let push = Push {
            to: format!("{}/app:v1", server.address).parse().unwrap(),
            blobs: [&made.config, &made.layer].map(|bytes| blob(bytes)).to_vec(),
            manifests: vec![PushManifest {
                media_type: MANIFEST.to_owned(),
                bytes: made.manifest.clone().into(),
            }],
        };
        let progress = Told::default();
        let pushed = client.push(&push, &blobs, &progress);
        let _ = tokio::time::timeout(Duration::from_secs(120), pushed).await.expect("a push without end");
    }
    println!("{rounds} rounds, {good} pulls came through");
}

fn blob(bytes: &[u8]) -> PushBlob {
    let descriptor = Descriptor::new("application/octet-stream", Digest::of(bytes), bytes.len() as u64);
    PushBlob { descriptor, mount_from: None, source: None }
}
