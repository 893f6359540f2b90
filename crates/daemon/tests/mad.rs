//! A daemon gone mad: what it says of itself, its images and what it was sent is thrown like dice. It must not make the client panic, wait
//! without end, or leave out a layer that the daemon never said it has.

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use daemon::{Endpoint, has_image, knows_manifests, layers_there, load, tag};
use serde_json::{Value, json};
use transport::Url;

#[path = "../../registry/tests/it/dice.rs"]
mod dice;
#[expect(dead_code, reason = "the tests of other crates have the rest of it")]
#[path = "../../remote/tests/it/server.rs"]
mod server;

use dice::Dice;
use server::{Reply, Request, Server};

const WORDS: [&str; 30] = [
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
    "true",
    "\"Id\"",
    "\"RootFS\"",
    "\"Layers\"",
    "\"Driver\"",
    "\"DriverStatus\":null",
    "[[\"driver-type\",\"io.containerd.snapshotter.v1\"]]",
    "\"stream\"",
    "\"error\":\"\"",
    "{\"error\":\"no space\"}",
    "{\"message\":5}",
    "[[[[[[[[[[[[[[[[",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "../../x",
    "?#",
    "%2e%2e/",
    "\n",
    "\u{1b}[2J",
    "é",
];

/// What there is in a round.
#[derive(Clone)]
struct Store {
    /// Whether it keeps blobs, as containerd does.
    containerd: bool,
    images: Vec<(String, Vec<String>)>,
}

impl Store {
    fn right(&self, request: &Request) -> Reply {
        let path = request.target.split('?').next().unwrap_or_default();
        let document = |value: &Value| Reply::new(200, value.to_string());
        match path {
            "/info" if self.containerd => document(
                &json!({ "Driver": "overlayfs", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]] }),
            ),
            "/info" => {
                document(&json!({ "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]] }))
            }
            "/images/json" => document(
                &self.images.iter().map(|(id, _)| json!({ "Id": id, "RepoTags": ["app:1"] })).collect(),
            ),
            "/images/load" => Reply::new(200, "{\"stream\":\"Loaded image: app:1\\n\"}\n{\"stream\":\"x\"}"),
            _ if path.ends_with("/tag") => Reply::new(201, ""),
            _ => {
                let name = path.trim_start_matches("/images/").trim_end_matches("/json");
                let image = self.images.iter().find(|(id, _)| id == name || name == "app:1");
                image.map_or(Reply::new(404, r#"{"message":"No such image"}"#), |(id, layers)| {
                    document(&json!({ "Id": id, "RootFS": { "Type": "layers", "Layers": layers } }))
                })
            }
        }
    }
}

fn mad(dice: &mut Dice, right: Reply) -> Reply {
    let length = right.body.len();
    let mut reply = match dice.below(16) {
        0 => Reply { status: [200, 201, 204, 301, 304, 400, 404, 409, 500, 503][dice.below(10)], ..right },
        1..4 => Reply { body: dice.damaged(right.body.clone(), &WORDS), ..right },
        4 if length > 0 => right.cut(dice.below(length)),
        5 => Reply::new(200, dice.text(&WORDS)),
        6 if length > 0 && dice.one_in(8) => right.endless(),
        _ => right,
    };
    if dice.one_in(6) {
        let name =
            dice.pick(&["Content-Type", "Content-Length", "Location", "Transfer-Encoding", "Api-Version"]);
        let value =
            dice.pick(&["chunked", "0", "7", "-1", "18446744073709551615", "/x", "http://127.0.0.1:1/", "é"]);
        reply = reply.with(name, value);
    }
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mad_daemon_for_a_while() {
    let (dice, time) = (Arc::new(Mutex::new(Dice::for_a_while())), dice::seconds());
    let store = Arc::new(Mutex::new((Store { containerd: false, images: Vec::new() }, false)));
    let server = Server::start({
        let (dice, store) = (dice.clone(), store.clone());
        move |request, _| {
            let (mut dice, (store, is_sane)) = (dice.lock().unwrap(), store.lock().unwrap().clone());
            let right = store.right(request);
            if is_sane { right } else { mad(&mut dice, right) }
        }
    });
    let endpoint = Endpoint::Tcp(Url::parse(&server.url("/")).unwrap());
    let wanted: Vec<String> =
        (0..4).map(|number| format!("sha256:{}", number.to_string().repeat(64))).collect();
    let archive: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
    let (start, mut rounds, mut left_out, mut loaded) = (Instant::now(), 0, 0, 0);
    // On a busy machine longer, until something good came through: what is broken off is tried again, which takes its time.
    let is_over = |left_out: usize, loaded: usize| {
        let enough = left_out > 0 && loaded > 0;
        start.elapsed() >= if enough { time } else { time.max(Duration::from_secs(60)) }
    };
    while !is_over(left_out, loaded) {
        rounds += 1;
        let is_sane = rounds % 8 == 0;
        let (there, containerd) = {
            let mut dice = dice.lock().unwrap();
            let images = (0..dice.below(4)).map(|number| {
                let mut layers = wanted[..dice.below(wanted.len() + 1)].to_vec();
                if dice.one_in(2) {
                    layers.push(format!("sha256:{}", "f".repeat(64)));
                }
                (format!("sha256:{}", format!("a{number}").repeat(32)), layers)
            });
            (Store { images: images.collect(), containerd: false }, dice.one_in(3))
        };
        let there = Store { containerd, ..there };
        let shared = |(_, layers): &(String, Vec<String>)| {
            layers.iter().zip(&wanted).take_while(|(there, wanted)| there == wanted).count()
        };
        let most = there.images.iter().map(shared).max().unwrap_or(0);
        *store.lock().unwrap() = (there, is_sane);
        let within = Duration::from_secs(120);
        let names = ["app:1".to_owned(), "é/../x?y#z".to_owned()];
        let asked = layers_there(&endpoint, &names, &wanted);
        let found = tokio::time::timeout(within, asked).await.expect("a question without end");
        assert!(found <= most, "{found} layers are left out, of which {most} are there");
        if is_sane {
            assert_eq!(found, if containerd { 0 } else { most });
        }
        left_out += found;
        let known = tokio::time::timeout(within, knows_manifests(&endpoint)).await.expect("without end");
        assert!(!is_sane || known == containerd);
        let id = wanted[0].as_str();
        let _ = tokio::time::timeout(within, has_image(&endpoint, id)).await.expect("a question without end");
        let named = tag(&endpoint, id, "app", "1");
        let _ = tokio::time::timeout(within, named).await.expect("a name without end");
        let bytes = archive.clone();
        let open = move || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
        let sent = load(&endpoint, open, &|_| {});
        let done = tokio::time::timeout(within, sent).await.expect("an archive without end");
        assert!(!is_sane || done.is_ok(), "{done:?}");
        loaded += usize::from(done.is_ok());
    }
    println!("{rounds} rounds, {left_out} layers were left out, {loaded} archives were taken");
    assert!(left_out > 0 && loaded > 0, "nothing good came through, so this tests nothing");
    // There is none.
    let nobody = Endpoint::Unix(PathBuf::from("/none"));
    assert_eq!(layers_there(&nobody, &[], &wanted).await, 0);
}
