//! Registries that break, lie, limit and send elsewhere: builds, pulls and pushes succeed after they tried again, or fail and say why;
//! nothing that is wrong is kept.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::{Context, Home, Reply, Request, Running, Server, eventually, in_parallel, run, tempdir};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Manifest,
    Config,
    Layer,
    Upload,
    Other,
}

/// The documents of an image whose one layer is noise in a tar.
struct Made {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn made() -> Made {
    made_of(600_000)
}

fn made_of(length: usize) -> Made {
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let layer = [e2e::forge::file("noise", &noise), e2e::forge::end()].concat();
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux",
        "config": {}, "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = config.to_string().into_bytes();
    let describe = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    Made { layer, config, manifest: manifest.to_string().into_bytes() }
}

/// What is wrong: it gets the request, what it is for, how many came for that before, and the answer that would be right.
type Fault = Box<dyn Fn(&Request, Part, usize, Reply) -> Reply + Send + Sync>;

/// A registry that has the image, takes any, and has a fault.
fn registry(fault: Fault) -> Server {
    Server::start(answers(made(), fault))
}

fn answers(made: Made, fault: Fault) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let names = [digest(&made.manifest), digest(&made.config), digest(&made.layer)];
    let counts: [AtomicUsize; 5] = Default::default();
    let pushed = Mutex::new(Vec::<String>::new());
    move |request| {
        let path = request.target.split('?').next().unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let reading = matches!(request.method.as_str(), "GET" | "HEAD");
        let (part, right) = if path.contains("/blobs/uploads") {
            let reply = match request.method.as_str() {
                "POST" => Reply::new(202, "").with("Location", "/v2/app/blobs/uploads/1"),
                "PUT" => Reply::new(201, ""),
                _ => Reply::new(202, "").with("Location", "/v2/app/blobs/uploads/1"),
            };
            (Part::Upload, reply)
        } else if reading && path.contains("/manifests/") {
            (Part::Manifest, Reply::new(200, made.manifest.clone()).with("Content-Type", MANIFEST))
        } else if path.contains("/manifests/") {
            (Part::Manifest, Reply::new(201, "").with("Docker-Content-Digest", digest(&request.body)))
        } else if request.method == "HEAD" {
            let there = pushed.lock().expect("the list").iter().any(|name| name == last);
            (Part::Other, Reply::new(if there { 200 } else { 404 }, ""))
        } else if last == names[1] {
            (Part::Config, Reply::new(200, made.config.clone()))
        } else if last == names[2] {
            (Part::Layer, from(request, &made.layer))
        } else {
            (Part::Other, Reply::new(404, ""))
        };
        let number = counts[part as usize].fetch_add(1, Ordering::SeqCst);
        let reply = fault(request, part, number, right);
        if part == Part::Upload && request.method == "PUT" && reply.status() == 201 {
            pushed.lock().expect("the list").push(digest(&request.body));
        }
        reply
    }
}

/// A blob, from where a request wants it.
fn from(request: &Request, bytes: &[u8]) -> Reply {
    let offset = request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match offset {
        Some(offset) if offset > 0 && offset < bytes.len() => {
            let range = format!("bytes {offset}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::new(206, &bytes[offset..]).with("Content-Range", range)
        }
        _ => Reply::new(200, bytes),
    }
}

/// A fault, and how a pull and a build, or a push, end.
struct Case {
    what: &'static str,
    /// The words of the error; `None` when all is well in the end.
    says: Option<&'static str>,
    push: bool,
    fault: Option<Fault>,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add =
        |push: bool, what, says, fault: Fault| cases.push(Case { what, says, push, fault: Some(fault) });
    let once = |which: Part, wrong: fn(Reply) -> Reply| -> Fault {
        Box::new(
            move |_, part, number, right| if part == which && number == 0 { wrong(right) } else { right },
        )
    };
    let always = |which: Part, wrong: fn(Reply) -> Reply| -> Fault {
        Box::new(move |_, part, _, right| if part == which { wrong(right) } else { right })
    };
    let limit = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;

    add(false, "nothing", None, Box::new(|_, _, _, right| right));
    add(false, "a manifest that fails once", None, once(Part::Manifest, |_| Reply::new(503, "busy")));
    add(false, "a layer that breaks off in the middle", None, once(Part::Layer, |right| right.cut(300_000)));
    add(false, "a layer that is reset in the middle", None, once(Part::Layer, |right| right.reset(300_000)));
    add(false, "a manifest that is reset", None, once(Part::Manifest, |right| right.reset(10)));
    add(
        false,
        "a layer that is always reset at the same place",
        Some("connection"),
        always(Part::Layer, |_| Reply::new(200, made().layer).reset(300_000)),
    );
    add(true, "an upload that is reset", None, once(Part::Upload, |right| right.reset(0)));
    add(false, "a layer that breaks off at once", None, once(Part::Layer, |right| right.cut(0)));
    add(
        false,
        "a limit for a second",
        None,
        once(Part::Layer, |_| Reply::new(429, "").with("Retry-After", 1)),
    );
    add(
        false,
        "a limit for a day",
        Some("slow down"),
        Box::new(move |_, part, _, right| match part {
            Part::Layer => Reply::new(429, limit).with("Retry-After", 86_400),
            _ => right,
        }),
    );
    add(false, "a layer that always fails", Some("500"), always(Part::Layer, |_| Reply::new(500, "")));
    add(
        false,
        "another layer of the same size",
        Some("sha256:"),
        always(Part::Layer, |_| Reply::new(200, vec![7; made().layer.len()])),
    );
    add(
        false,
        "a shorter layer",
        Some("sha256:"),
        always(Part::Layer, |_| Reply::new(200, &made().layer[..1000])),
    );
    add(
        false,
        "a longer layer",
        Some("sha256:"),
        always(Part::Layer, |_| Reply::new(200, [made().layer, vec![0; 512]].concat())),
    );
    add(false, "a layer that is not there", Some("not found"), always(Part::Layer, |_| Reply::new(404, "")));
    add(
        false,
        "another config",
        Some("config"),
        always(Part::Config, |_| Reply::new(200, vec![b' '; made().config.len()])),
    );
    add(
        false,
        "a manifest that is another",
        Some("damaged"),
        always(Part::Manifest, |right| right.with("Docker-Content-Digest", digest(b"x"))),
    );
    add(
        false,
        "a page of a captive portal",
        Some("manifest"),
        always(Part::Manifest, |_| Reply::new(200, "<html>log in</html>").with("Content-Type", "text/html")),
    );
    add(
        false,
        "a manifest without end",
        Some("more than"),
        always(Part::Manifest, |_| Reply::new(200, vec![b' '; 5 << 20]).with("Content-Type", MANIFEST)),
    );
    add(
        false,
        "logins without end",
        Some("login"),
        always(Part::Manifest, |_| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x")),
    );
    add(
        false,
        "a login of an unknown kind",
        Some("a kind of login"),
        always(Part::Manifest, |_| Reply::new(401, "").with("WWW-Authenticate", "Sealed envelope")),
    );
    add(
        false,
        "ways in a circle",
        Some("redirect"),
        Box::new(|request, part, _, right| match part {
            Part::Layer => Reply::redirect(307, &request.target),
            _ => right,
        }),
    );
    add(
        false,
        "a way to a file of this machine",
        Some("HTTP"),
        always(Part::Layer, |_| Reply::redirect(307, "file:///etc/passwd")),
    );

    add(true, "nothing", None, Box::new(|_, _, _, right| right));
    add(
        true,
        "an upload that fails once",
        None,
        Box::new(|request, part, number, right| match part {
            Part::Upload if request.method != "POST" && number < 4 => Reply::new(503, ""),
            _ => right,
        }),
    );
    add(
        true,
        "a limit for a second",
        None,
        once(Part::Manifest, |_| Reply::new(429, "").with("Retry-After", 1)),
    );
    add(true, "an upload that always fails", Some("507"), always(Part::Upload, |_| Reply::new(507, "")));
    add(
        true,
        "too much",
        Some("413"),
        Box::new(|request, part, _, right| match part {
            Part::Upload if request.method != "POST" => Reply::new(413, ""),
            _ => right,
        }),
    );
    add(
        true,
        "an upload without a place",
        Some("where an upload goes"),
        Box::new(|request, part, _, right| match part {
            Part::Upload if request.method == "POST" => Reply::new(202, ""),
            _ => right,
        }),
    );
    add(
        true,
        "a manifest that is refused",
        Some("no such blob"),
        always(Part::Manifest, |_| {
            Reply::new(400, r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"no such blob"}]}"#)
        }),
    );
    add(
        true,
        "a manifest that is stored as another one",
        Some("as another one"),
        always(Part::Manifest, |_| Reply::new(201, "").with("Docker-Content-Digest", digest(b"x"))),
    );
    add(
        true,
        "logins without end",
        Some("login"),
        always(Part::Upload, |_| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x")),
    );
    cases
}

/// Every blob of a store is what its name says.
fn nothing_wrong_is_kept(home: &Home, what: &str) {
    let blobs = home.path().join("blobs/sha256-v1");
    for folder in fs::read_dir(&blobs).into_iter().flatten().flatten() {
        for blob in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let found = digest(&fs::read(blob.path()).expect("read a blob"));
            assert_eq!(found[7..], *blob.file_name().to_string_lossy(), "{what}");
        }
    }
    let left = || fs::read_dir(home.path().join("tmp-v1")).into_iter().flatten().count();
    // A build that has nothing to do may end before it has tidied up; then one of the next does.
    for _ in 0..5 {
        if left() == 0 {
            break;
        }
        run(home.builder("build").arg(Context::new("FROM scratch\n").path())).ok();
    }
    assert_eq!(left(), 0, "{what}");
}

#[test]
fn what_goes_wrong_is_tried_again_or_said() {
    let wrong = Mutex::new(Vec::new());
    let mut cases = cases();
    in_parallel(&mut cases, |_, case| {
        let server = registry(case.fault.take().expect("each is used once"));
        let name = format!("{}/app:v1", server.host());
        let home = Home::new();
        let expected = |done: &e2e::Done| match case.says {
            None => done.code == Some(0),
            Some(words) => done.code == Some(1) && done.stderr.contains(words),
        };
        let what = format!("{} ({})", case.what, if case.push { "push" } else { "pull" });
        let done = if case.push {
            let context = Context::new("FROM scratch\nCOPY f /f\n").file("f", vec![b'f'; 200_000]);
            run(home.build(&context).args(["-t", &name])).ok();
            run(home.builder("push").arg(&name))
        } else {
            run(home.builder("pull").arg(&name))
        };
        if !expected(&done) {
            wrong.lock().expect("the list").push(format!("{what}: expected {:?}\n{done}", case.says));
        }
        nothing_wrong_is_kept(&home, &what);
        if case.push {
            return;
        }
        let images = run(home.builder("images").arg("-q")).ok().stdout;
        assert_eq!(images.lines().count(), usize::from(done.code == Some(0)), "{what}: {images}");
    });
    let wrong = wrong.into_inner().expect("the list");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// One that falls silent is given up after a while, and asked again; one that is slow is not.
#[test]
fn silence_is_not_waited_for() {
    const LONG: Duration = Duration::from_secs(4);
    let slept = |reply: Reply| {
        std::thread::sleep(LONG);
        reply
    };
    let part = |which: Part, once: bool| -> Fault {
        Box::new(move |request, part, number, right| {
            let is_meant = part == which && (part != Part::Upload || request.method != "POST");
            // Of an upload, the first is its beginning.
            let is_first = number == usize::from(which == Part::Upload);
            match is_meant && (is_first || !once) {
                true => slept(right),
                false => right,
            }
        })
    };
    // What is asked for, whether it is a push, how it ends, and the fault.
    let mut cases: Vec<(&str, bool, bool, Option<Fault>)> = vec![
        ("a manifest that comes late once", false, true, Some(part(Part::Manifest, true))),
        ("a manifest that never comes", false, false, Some(part(Part::Manifest, false))),
        (
            "a layer that stops in the middle once",
            false,
            true,
            Some(Box::new(|_, part, number, right| match (part, number) {
                (Part::Layer, 0) => right.drip(300_000, LONG),
                _ => right,
            })),
        ),
        (
            "a layer that always stops at once",
            false,
            false,
            Some(Box::new(|_, part, _, right| match part {
                Part::Layer => Reply::new(200, &made().layer[..]).drip(1, LONG),
                _ => right,
            })),
        ),
        (
            "a layer that comes slowly",
            false,
            true,
            Some(Box::new(|_, part, _, right| match part {
                Part::Layer => right.drip(60_000, Duration::from_millis(400)),
                _ => right,
            })),
        ),
        ("an upload without an answer once", true, true, Some(part(Part::Upload, true))),
        (
            "uploads without any answer",
            true,
            false,
            // What was sent is not kept either: a blob that is there need not be answered for.
            Some(Box::new(move |request, part, _, right| match (part, request.method.as_str()) {
                (Part::Upload, "PUT" | "PATCH") => slept(Reply::new(500, "")),
                _ => right,
            })),
        ),
        ("a manifest that is taken late", true, true, Some(part(Part::Manifest, true))),
    ];
    let wrong = Mutex::new(Vec::new());
    in_parallel(&mut cases, |_, (what, push, succeeds, fault)| {
        let server = registry(fault.take().expect("each is used once"));
        let name = format!("{}/app:v1", server.host());
        let home = Home::new();
        let command = if *push { "push" } else { "pull" };
        if *push {
            let context = Context::new("FROM scratch\nCOPY f /f\n").file("f", vec![b'f'; 200_000]);
            run(home.build(&context).args(["-t", &name])).ok();
        }
        let done = run(home.builder(command).arg(&name).env("BUILDER_REGISTRY_TIMEOUT", "1"));
        let expected = match succeeds {
            true => done.code == Some(0),
            false => done.code == Some(1) && done.stderr.contains("no answer in time"),
        };
        // Silence takes five tries of a second, with pauses between, and not a minute each.
        if !expected || done.took > Duration::from_secs(200) {
            wrong.lock().expect("the list").push(format!("{what}: {done}"));
        }
        nothing_wrong_is_kept(&home, what);
    });
    let wrong = wrong.into_inner().expect("the list");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let home = Home::new();
    let mut pull = home.builder("pull");
    run(pull.arg("127.0.0.1:1/x").env("BUILDER_REGISTRY_TIMEOUT", "soon"))
        .code_is(2)
        .says("number of seconds");
}

/// Why something did not come, or go, is said once, whoever shows progress beside it.
#[test]
fn reasons_are_said_once() {
    let server = registry(Box::new(|request, part, _, right| match (part, request.method.as_str()) {
        (Part::Layer | Part::Upload, _) => {
            Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#)
        }
        _ => right,
    }));
    let (home, name) = (Home::new(), format!("{}/app:v1", server.host()));
    run(home.build(&Context::new("FROM scratch\nCOPY Dockerfile /\n")).args(["-t", &name])).ok();
    for (command, words) in [("pull", "not pulled"), ("push", "not pushed")] {
        let done = run(home.builder(command).arg(&name)).code_is(1).says(&format!("#1 ERROR: {words}"));
        assert_eq!(done.stderr.matches("not for you").count(), 1, "{done}");
        let quiet = run(home.builder(command).args(["-q", &name])).code_is(1).says("not for you");
        assert!(!quiet.stderr.contains(words), "{quiet}");
    }
}

/// How far a transfer is can be seen: of each blob, how many bytes of how many, and in the end all.
#[test]
fn transfers_show_how_far_they_are() {
    let server = registry(Box::new(|_, part, _, right| match part {
        Part::Layer => right.drip(100_000, Duration::from_millis(150)),
        _ => right,
    }));
    let (name, layer) = (format!("{}/app:v1", server.host()), digest(&made().layer));
    let size = made().layer.len() as u64;
    // What is told of one blob, by any step: current and total.
    let told = |done: &e2e::Done, of: &str| -> Vec<(u64, u64)> {
        let lines = done.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let statuses = lines.flat_map(|line| line["statuses"].as_array().cloned().unwrap_or_default());
        let of_blob = statuses.filter(|status| status["id"] == of);
        of_blob
            .map(|one| (one["current"].as_u64().unwrap_or(0), one["total"].as_u64().unwrap_or(0)))
            .collect()
    };
    let grows = |told: &[(u64, u64)], size: u64, what: &str| {
        assert!(told.len() > 2 && told.is_sorted(), "{what}: {told:?}");
        assert!(told.iter().all(|(_, total)| *total == size), "{what}: {told:?}");
        assert!(told.iter().any(|(current, _)| 0 < *current && *current < size), "{what}: {told:?}");
        assert_eq!(told.last(), Some(&(size, size)), "{what}");
    };
    let home = Home::new();
    // A base image whose files a step needs.
    let dest = tempdir();
    let output = format!("type=local,dest={}", dest.path().join("out").display());
    let context = Context::new(&format!("FROM {name}\nCOPY --from={name} /noise /copy\n"));
    let done = run(home.build(&context).args(["--progress=rawjson", "-o", &output])).ok();
    grows(&told(&done, &layer), size, "FROM");
    // Where a person reads it.
    let done = run(Home::new().builder("pull").arg(&name)).ok();
    let lines: Vec<&str> = done.stderr.lines().filter(|line| line.contains(&layer)).collect();
    assert!(lines.len() > 2, "{done}");
    assert!(lines[..lines.len() - 1].iter().all(|line| line.contains("kB / 601.60kB")), "{done}");
    assert!(lines.last().is_some_and(|line| line.ends_with("done")), "{done}");

    // Out again, by a push of a build and by one of the store. The other side takes it slowly: more than what connections hold.
    let slow = Server::slow(Duration::from_millis(40), answers(made(), Box::new(|_, _, _, right| right)));
    let large = Context::new("FROM scratch\nCOPY f /f\n").file("f", vec![b'f'; 24 << 20]);
    let name = format!("{}/app:v2", slow.host());
    let output = format!("type=registry,compression=uncompressed,name={name}");
    let done = run(home.build(&large).args(["--progress=rawjson", "-o", &output])).ok();
    let uploads = slow.take().into_iter().map(|request| request.body);
    let sent = uploads.max_by_key(Vec::len).expect("an upload");
    let (size, sent) = (sent.len() as u64, digest(&sent));
    grows(&told(&done, &sent), size, "push");
    // Another registry, which has nothing yet.
    let slow = Server::slow(Duration::from_millis(40), answers(made(), Box::new(|_, _, _, right| right)));
    let name = format!("{}/app:v2", slow.host());
    run(home.build(&large).args(["-o", &format!("type=image,compression=uncompressed,name={name}")])).ok();
    let done = run(home.builder("push").arg(&name)).ok();
    let lines: Vec<&str> = done.stderr.lines().filter(|line| line.contains(&sent)).collect();
    assert!(lines.len() > 2 && lines[0].contains("MB / 25.17MB"), "{done}");
}

/// Which parts of a blob were asked for since the last look.
fn ranges(server: &Server, blob: &str) -> Vec<Option<String>> {
    let requests = server.take();
    let of_blob = requests.iter().filter(|request| request.target.ends_with(blob));
    of_blob.map(|request| request.header("range").map(str::to_owned)).collect()
}

/// A build that needs the files of an image goes on where the transfer broke, and asks for no byte twice.
#[test]
fn a_build_goes_on_where_it_broke() {
    let server = registry(Box::new(|_, part, number, right| match (part, number) {
        (Part::Layer, 0) => right.cut(200_000),
        (Part::Layer, 1) => right.cut(150_000),
        _ => right,
    }));
    let home = Home::new();
    let context =
        Context::new(&format!("FROM {}/app:v1\nCOPY --from={0}/app:v1 /noise /copy\n", server.host()));
    let dest = tempdir();
    let output = format!("type=local,dest={}", dest.path().join("out").display());
    run(home.build(&context).args(["-o", &output])).ok();
    assert_eq!(fs::read(dest.path().join("out/copy")).expect("the file").len(), 600_000);
    let ranges = ranges(&server, &digest(&made().layer));
    let range = |from: u32| Some(format!("bytes={from}-"));
    assert_eq!(ranges, [None, range(200_000), range(350_000)]);
    nothing_wrong_is_kept(&home, "a build");
}

/// However a transfer was ended, the next process goes on with it.
#[test]
fn a_transfer_that_was_ended_is_gone_on_with() {
    let layer = digest(&made_of(6_000_000).layer);
    for (signal, is_build, is_damaged) in
        [(Signal::INT, false, false), (Signal::KILL, true, false), (Signal::KILL, false, true)]
    {
        // Half of it comes, and then nothing for as long as anybody waits.
        let stuck = |_: &Request, part, number, right: Reply| match (part, number) {
            (Part::Layer, 0) => right.drip(3_000_000, Duration::from_secs(3600)),
            _ => right,
        };
        let server = Server::start(answers(made_of(6_000_000), Box::new(stuck)));
        let (home, dest) = (Home::new(), tempdir());
        let name = format!("{}/app:v1", server.host());
        let context = Context::new(&format!("FROM {name}\nCOPY --from={name} /noise /copy\n"));
        let again = || {
            if !is_build {
                let mut pull = home.builder("pull");
                pull.arg(&name);
                return pull;
            }
            let mut build = home.build(&context);
            build.arg("-o").arg(format!("type=local,dest={}", dest.path().join("out").display()));
            build
        };
        let mut first = Running::start(again().stdout(Stdio::null()).stderr(Stdio::null()));
        let partial = home.path().join("partial-v1").join(&layer[7..]);
        let held = || fs::metadata(&partial).map_or(0, |metadata| metadata.len());
        eventually(Duration::from_secs(60), "some of it to come", || held() > 2_000_000);
        first.signal(signal);
        first.wait(Duration::from_secs(60));
        let held = held();
        assert!((2_000_000..=3_000_000).contains(&held), "{held}");
        if is_damaged {
            fs::write(&partial, vec![0; usize::try_from(held).expect("a length")]).expect("damage it");
        }
        server.take();
        run(&mut again()).ok();
        let mut expected = vec![Some(format!("bytes={held}-"))];
        expected.extend(is_damaged.then_some(None));
        assert_eq!(ranges(&server, &layer), expected, "{signal:?}");
        if is_build {
            assert_eq!(fs::read(dest.path().join("out/copy")).expect("the file").len(), 6_000_000);
        }
        assert!(!partial.exists());
        nothing_wrong_is_kept(&home, "a transfer that was ended");
    }
}

/// A password is for the registry that it was given for.
#[test]
fn credentials_do_not_follow() {
    let elsewhere = Arc::new(Server::start(|request| match request.method.as_str() {
        "GET" => from(request, &made().layer),
        _ => Reply::new(201, ""),
    }));
    let host = elsewhere.host();
    let server = registry(Box::new(move |request, part, _, right| {
        if request.header("authorization").is_none() {
            return Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x");
        }
        match (part, request.method.as_str()) {
            (Part::Layer, _) => Reply::redirect(307, format!("http://{host}{}", request.target)),
            (Part::Upload, "POST") => Reply::new(202, "").with("Location", format!("http://{host}/upload/1")),
            _ => right,
        }
    }));
    let config = tempdir();
    let login: Value = json!({ "auths": { server.host(): { "auth": "YWRhOmxvdmVsYWNl" } } });
    fs::write(config.path().join("config.json"), login.to_string()).expect("write");
    let home = Home::new();
    let name = format!("{}/app:v1", server.host());
    let builder = |command: &str| {
        let mut builder = home.builder(command);
        builder.env("DOCKER_CONFIG", config.path());
        builder
    };
    run(builder("pull").arg(&name)).ok();
    run(builder("push").arg(&name)).ok();
    let requests = elsewhere.take();
    assert!(requests.iter().any(|request| request.method == "GET"), "{requests:#?}");
    assert!(requests.iter().any(|request| request.method == "PUT"), "{requests:#?}");
    assert!(requests.iter().all(|request| request.header("authorization").is_none()), "{requests:#?}");
    assert!(server.take().iter().any(|request| request.header("authorization").is_some()));
}
