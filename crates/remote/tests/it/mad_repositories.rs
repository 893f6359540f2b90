//! Servers of repositories gone mad, and a git that prints anything. They must not make the client panic, wait without end, or put files
//! anywhere that are not those of the commit.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use remote::{Checkout, Client, Config, GitConfig};
use transport::Retry;

use crate::dice::{self, Dice};
use crate::server::{Reply, Server};
use crate::support::config;
use crate::support_git::{Fixture, Place, access, answer};

const WORDS: [&str; 34] = [
    "0000",
    "0001",
    "0004",
    "ffff",
    "001e# service=git-upload-pack\n",
    "PACK",
    "NAK\n",
    "ACK ",
    "ERR go away",
    "version 2\n",
    "version 1\n",
    "ls-refs",
    "shallow ",
    "want ",
    "packfile\n",
    "\u{1}",
    "\u{2}remote says\r",
    "\u{3}died",
    "refs/heads/",
    "refs/tags/v1^{}",
    "refs/heads/main",
    "HEAD",
    "ref: ",
    "ref: refs/heads/main\tHEAD\n",
    "symref=HEAD:refs/heads/-x",
    "object-format=sha256",
    "\t",
    "\n",
    "\0",
    "^{}",
    "-",
    "..",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "é",
];

fn quick() -> Config {
    Config {
        // As long as a busy machine keeps git from doing anything.
        transport: transport::Config { idle_timeout: Duration::from_secs(30), ..config().transport },
        retry: Retry {
            attempts: 2,
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(2),
            max_retry_after: Duration::from_millis(20),
        },
        ..config()
    }
}

fn mad(dice: &mut Dice, right: Reply, own: &str) -> Reply {
    let length = right.body.len();
    let mut reply = match dice.below(16) {
        0 => {
            Reply { status: [200, 204, 206, 301, 304, 401, 403, 404, 429, 500, 503][dice.below(11)], ..right }
        }
        1..4 => Reply { body: dice.damaged(right.body.clone(), &WORDS), ..right },
        4 if length > 0 => right.cut(dice.below(length)),
        5 if length > 0 => right.reset(dice.below(length)),
        6 => Reply::new(200, dice.text(&WORDS)),
        7 => Reply::new(302, "").with("Location", format!("{own}{}", dice.text(&WORDS).replace('\n', ""))),
        _ => right,
    };
    if dice.one_in(8) && !reply.headers.is_empty() {
        let at = dice.below(reply.headers.len());
        reply.headers[at].1 = dice.text(&WORDS).replace(['\n', '\0'], "");
    }
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mad_server_of_repositories_for_a_while() {
    let fixture = Fixture::new();
    let (dice, time) = (Arc::new(Mutex::new(Dice::for_a_while())), dice::seconds());
    let sane = Arc::new(AtomicBool::new(false));
    let server = Server::start({
        let (dice, sane, root) = (dice.clone(), sane.clone(), fixture.root().to_owned());
        move |request, _| {
            let right = answer(&root, request);
            if sane.load(Ordering::SeqCst) {
                return right;
            }
            let own = format!("http://{}/git/app.git", request.header("host").unwrap_or_default());
            mad(&mut dice.lock().unwrap(), right, &own)
        }
    });
    // Of each commit, what is in the file.
    let contents = [(&fixture.base, "base\n"), (&fixture.first, "first\n"), (&fixture.main, "main\n")];
    let contents = contents.into_iter().chain([(&fixture.side, "main\n"), (&fixture.lost, "lost\n")]);
    let contents: Vec<(String, &str)> = contents.map(|(id, content)| (id.clone(), content)).collect();
    let client = Client::new(quick());
    let mut place = Place::new();
    let (start, mut rounds, mut good) = (Instant::now(), 0, 0);
    while start.elapsed() < time {
        rounds += 1;
        let (checkout, way) = {
            let mut dice = dice.lock().unwrap();
            let references = [None, Some("main"), Some("v1"), Some("side"), Some(fixture.first.as_str())];
            let reference = references[dice.below(5)].map(str::to_owned);
            let way = dice.pick(&["git", "git", "dumb"]);
            let (keep_git_dir, submodules) = (dice.one_in(4), dice.one_in(4));
            (Checkout { reference, keep_git_dir, submodules, ..Checkout::default() }, way)
        };
        let is_sane = rounds % 4 == 0;
        sane.store(is_sane, Ordering::SeqCst);
        let checkout = Checkout { remote: server.url(&format!("/{way}/app.git")), ..checkout };
        let get = place.get(&client, &checkout, "out");
        let done = tokio::time::timeout(Duration::from_secs(180), get).await;
        match done.expect("a checkout without end") {
            Ok(files) => {
                good += 1;
                let content =
                    contents.iter().find(|(id, _)| *id == files.commit).map(|(_, content)| *content);
                // Git verifies what comes by its id; which id a branch has is the server's word.
                if let Some(content) = content {
                    assert_eq!(place.read("out/a"), content);
                }
                if is_sane || checkout.reference.as_deref() == Some(&fixture.first) {
                    assert!(content.is_some(), "{files:?}");
                }
                place.assert_only(&["out"]);
                fs::remove_dir_all(place.at("out")).unwrap();
            }
            // What a mad server left in the repositories does not hurt those who come later.
            Err(error) => {
                assert!(!is_sane, "{checkout:?}: {error}");
                place.assert_only(&[]);
            }
        }
        if rounds % 12 == 0 {
            place = Place::new();
        }
    }
    println!("{rounds} rounds, {good} checkouts came through");
}

/// What `git ls-remote` prints is what the server says.
#[tokio::test(flavor = "multi_thread")]
async fn a_mad_list_of_references_for_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let script = format!(
        "#!/bin/sh\ncat '{0}/out'; cat '{0}/err' >&2; exit $(cat '{0}/code')\n",
        directory.path().display()
    );
    fs::write(at("git"), script).unwrap();
    fs::set_permissions(at("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let git = GitConfig { program: at("git"), ..config().git };
    let client = Client::new(Config { git, ..quick() });
    let (mut dice, time, start) = (Dice::for_a_while(), dice::seconds(), Instant::now());
    let [a, b] = ["a", "b"].map(|letter| letter.repeat(40));
    let right = format!(
        "ref: refs/heads/main\tHEAD\n{a}\tHEAD\n{a}\trefs/heads/main\n{b}\trefs/tags/v1\n{a}\trefs/tags/v1^{{}}\n"
    );
    let (mut rounds, mut good) = (0, 0);
    // So many also where the machine is busy: without a good one among them nothing is tested.
    while start.elapsed() < time || rounds < 20 {
        rounds += 1;
        let said = dice.text(&[
            "fatal: ",
            "\r\n",
            "\u{1b}[2J",
            "returned error: 302",
            "early EOF",
            "é",
            "not our ref",
        ]);
        fs::write(at("out"), dice.damaged(right.clone().into_bytes(), &WORDS)).unwrap();
        fs::write(at("err"), said).unwrap();
        fs::write(at("code"), dice.pick(&["0", "0", "0", "1", "128", "200"])).unwrap();
        let reference =
            [None, Some("main"), Some("v1"), Some("refs/tags/v1")][dice.below(4)].map(str::to_owned);
        let checkout =
            Checkout { remote: "https://host.example/x".to_owned(), reference, ..Checkout::default() };
        let access = access();
        let resolved = client.resolve(&checkout, &access);
        match tokio::time::timeout(Duration::from_secs(60), resolved).await.expect("a question without end") {
            Ok(resolved) => {
                good += 1;
                // All of it is handed to git again, and written down.
                let is_id =
                    |id: &str| matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
                assert!(is_id(&resolved.object) && is_id(resolved.commit()), "{resolved:?}");
                assert!(
                    resolved.reference == "HEAD" || resolved.reference.starts_with("refs/"),
                    "{resolved:?}"
                );
                assert!(!resolved.reference.contains(['\t', '\n', ' ', ':', '\0']), "{resolved:?}");
            }
            Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
        }
    }
    println!("{rounds} rounds, {good} references were found");
    assert!(good > 0);
}
