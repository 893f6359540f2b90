//! Commits, their files, and the repositories that builds share.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use remote::{Access, Checkout, Client, Config, Error, GitConfig};

use crate::server::{Reply, Server};
use crate::support::{client, config, run, secrets};
use crate::support_git::{Fixture, Place, Program, access, answer, free_port};

fn at(fixture: &Fixture, reference: &str) -> Checkout {
    Checkout { reference: Some(reference.to_owned()), ..fixture.checkout() }
}

async fn refusal(client: &Client, checkout: &Checkout) -> String {
    let place = Place::new();
    let error = place.get(client, checkout, "out").await.unwrap_err().to_string();
    place.assert_only(&[]);
    error
}

#[tokio::test]
async fn finds_what_a_reference_means() {
    let fixture = Fixture::new();
    let client = client();
    for (reference, full, object, commit) in [
        (None, "refs/heads/main", &fixture.main, &fixture.main),
        (Some("side"), "refs/heads/side", &fixture.side, &fixture.side),
        (Some("refs/heads/side"), "refs/heads/side", &fixture.side, &fixture.side),
        (Some("light"), "refs/tags/light", &fixture.first, &fixture.first),
        (Some("v1"), "refs/tags/v1", &fixture.tag, &fixture.main),
        (Some("both"), "refs/heads/both", &fixture.side, &fixture.side),
        (Some("refs/tags/both"), "refs/tags/both", &fixture.first, &fixture.first),
        (Some("refs/pull/1/head"), "refs/pull/1/head", &fixture.first, &fixture.first),
    ] {
        let checkout = Checkout { reference: reference.map(str::to_owned), ..fixture.checkout() };
        let resolved = client.resolve(&checkout, &access()).await.unwrap();
        assert_eq!((resolved.reference.as_str(), &resolved.object), (full, object));
        assert_eq!(resolved.commit(), commit);
    }
    // A full id is not even looked for.
    let id = "0123456789012345678901234567890123456789";
    let nowhere = Checkout {
        remote: "https://nowhere.invalid/x.git".to_owned(),
        reference: Some(id.to_owned()),
        ..Checkout::default()
    };
    assert_eq!(client.resolve(&nowhere, &access()).await.unwrap().commit(), id);

    for (reference, said) in [("none", "no branch or tag `none`"), (&fixture.main[..9], "its full id")] {
        let error = refusal(&client, &at(&fixture, reference)).await;
        assert!(error.contains(said), "{error}");
    }
    let missing = Checkout { remote: format!("{}-", fixture.url()), ..Checkout::default() };
    let error = refusal(&client, &missing).await;
    assert!(error.contains("does not appear to be a git repository"), "{error}");
}

/// Git itself waits for such a server without end.
#[tokio::test]
async fn a_server_that_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = format!("git://{}/app.git", listener.local_addr().unwrap());
    let mut impatient = config();
    impatient.transport.idle_timeout = Duration::from_secs(1);
    let checkout = Checkout { remote, ..Checkout::default() };
    let (client, start) = (Client::new(impatient), Instant::now());
    let error = client.resolve(&checkout, &access()).await.unwrap_err().to_string();
    assert!(error.contains("git did nothing for 1 s"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
}

/// A commit says what it likes about its time.
#[tokio::test]
async fn a_time_that_no_clock_shows() {
    let fixture = Fixture::new();
    let (place, tree) = (Place::new(), fixture.git(&["rev-parse", "main^{tree}"]));
    let long = "9".repeat(30);
    for (number, time) in ["18446744073709551615", "9223372036854775808", "-5", &long].into_iter().enumerate()
    {
        let object = format!("tree {tree}\nauthor a <a> {time} +0000\ncommitter a <a> {time} +0000\n\nodd\n");
        fs::write(fixture.root().join("object"), object).unwrap();
        let id = fixture.git(&["hash-object", "-t", "commit", "-w", "--literally", "../object"]);
        fixture.git(&["update-ref", &format!("refs/heads/odd{number}"), &id]);
        let checkout = Checkout { commit_times: true, ..at(&fixture, &format!("odd{number}")) };
        let name = number.to_string();
        let files = place.get(&client(), &checkout, &name).await.unwrap();
        assert_eq!((files.commit, files.time), (id, SystemTime::UNIX_EPOCH), "{time}");
        assert_eq!(place.read(&format!("{name}/a")), "main\n");
    }
}

#[tokio::test]
async fn compares_the_checksum() {
    let fixture = Fixture::new();
    let client = client();
    let place = Place::new();
    let with = |reference: &str, checksum: &str| Checkout {
        checksum: Some(checksum.to_owned()),
        ..at(&fixture, reference)
    };
    // The tag's own id is as good as its commit's.
    for (number, checksum) in [&fixture.tag[..7], &fixture.main, &fixture.main[..1]].into_iter().enumerate() {
        place.get(&client, &with("v1", checksum), &number.to_string()).await.unwrap();
    }
    place.get(&client, &with(&fixture.first, &fixture.first[..12]), "first").await.unwrap();
    // By the tag's id, whose commit is known only when it is there.
    place.get(&client, &with(&fixture.tag, &fixture.tag), "tag").await.unwrap();
    assert_eq!(place.read("tag/a"), "main\n");
    for (reference, checksum) in
        [("v1", fixture.first.as_str()), ("main", &fixture.tag), (&fixture.main, "0000")]
    {
        let error = refusal(&client, &with(reference, checksum)).await;
        assert!(error.contains(&fixture.main) && error.contains(checksum), "{error}");
    }
    assert!(refusal(&client, &with("main", "x")).await.contains("hexadecimal"));
}

#[tokio::test]
async fn checks_out_files_alone() {
    // New files must not depend on it. The other tests of this process do not care.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let fixture = Fixture::new();
    let place = Place::new();
    let done = place.get(&client(), &fixture.checkout(), "out").await.unwrap();
    assert_eq!(done.commit, fixture.main);
    assert_eq!(done.time, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    assert_eq!(place.list("out"), ["a", "dir", "dir/inner", "dir/inner/b", "dir/link", "run.sh", "way"]);
    assert_eq!(place.read("out/a"), "main\n");
    let mode = |path: &str| fs::metadata(place.at(path)).unwrap().permissions().mode() & 0o7777;
    let modes = ["out", "out/dir", "out/a", "out/run.sh"].map(mode);
    assert_eq!(modes, [0o755, 0o755, 0o644, 0o755]);
    assert_eq!(fs::read_link(place.at("out/dir/link")).unwrap(), Path::new("../a"));
    let age = fs::metadata(place.at("out/a")).unwrap().modified().unwrap().elapsed().unwrap();
    assert!(age < Duration::from_secs(600));
    place.assert_only(&["out"]);

    // Into what is not empty, nothing goes.
    let error = place.get(&client(), &fixture.checkout(), "out").await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    place.assert_only(&["out"]);
}

#[tokio::test]
async fn checks_out_every_kind_of_reference() {
    let fixture = Fixture::new();
    let place = Place::new();
    for (reference, content) in [
        ("light", "first\n"),
        ("v1", "main\n"),
        ("refs/pull/1/head", "first\n"),
        (&fixture.first, "first\n"),
        // On no branch: the server gives it out all the same.
        (&fixture.lost, "lost\n"),
        ("both", "main\n"),
    ] {
        let out = reference.replace('/', "-");
        place.get(&client(), &at(&fixture, reference), &out).await.unwrap();
        assert_eq!(place.read(&format!("{out}/a")), content, "{reference}");
    }
    let by_commit = Checkout {
        fetch_by_commit: true,
        checksum: Some(fixture.lost.clone()),
        keep_git_dir: true,
        ..at(&fixture, "feature")
    };
    place.get(&client(), &by_commit, "by-commit").await.unwrap();
    let git = |arguments: &[&str]| run(&place.at("by-commit"), "git", arguments);
    assert_eq!(git(&["for-each-ref", "--format=%(refname)"]), "refs/heads/feature");
    assert_eq!(git(&["rev-parse", "HEAD"]), fixture.lost);
}

#[tokio::test]
async fn keeps_a_clean_clone_on_request() {
    let fixture = Fixture::new();
    let place = Place::new();
    let server = fixture.serve();
    let remote = format!("http://user:s3cret@{}/git/app.git", server.address);
    for (reference, refs) in [
        ("side", "refs/heads/side"),
        ("v1", "refs/tags/v1"),
        ("light", "refs/tags/light"),
        (&fixture.first, ""),
    ] {
        let checkout = Checkout { keep_git_dir: true, remote: remote.clone(), ..at(&fixture, reference) };
        let done = place.get(&client(), &checkout, reference).await.unwrap();
        // On its own: without what builds share.
        fs::rename(place.repositories(), place.at("elsewhere")).unwrap();
        let git = |arguments: &[&str]| run(&place.at(reference), "git", arguments);
        assert_eq!(git(&["status", "--porcelain"]), "");
        assert_eq!(git(&["rev-parse", "HEAD"]), done.commit);
        assert_eq!(git(&["for-each-ref", "--format=%(refname)"]), refs);
        assert_eq!(git(&["rev-list", "--count", "HEAD"]), "1");
        assert_eq!(git(&["remote", "get-url", "origin"]), server.url("/git/app.git"));
        git(&["fsck", "--strict"]);
        assert!(!place.at(reference).join(".git/hooks").exists());
        assert!(!place.at(reference).join(".git/FETCH_HEAD").exists());
        let grep = Command::new("grep").args(["-ra", "s3cret"]).arg(place.directory.path()).output().unwrap();
        assert!(grep.stdout.is_empty(), "{}", String::from_utf8_lossy(&grep.stdout));
        fs::rename(place.at("elsewhere"), place.repositories()).unwrap();
    }
    // Submodules of a kept clone are clones too.
    assert_eq!(place.read("side/lib/vendor/deep/deep"), "deep\n");
    assert_eq!(run(&place.at("side/lib/vendor/deep"), "git", &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn submodules_come_with_theirs() {
    let fixture = Fixture::new();
    let place = Place::new();
    place.get(&client(), &at(&fixture, "side"), "with").await.unwrap();
    assert_eq!(place.read("with/lib/lib"), "lib\n");
    assert_eq!(place.read("with/lib/vendor/deep/deep"), "deep\n");
    assert!(place.list("with").iter().all(|path| !path.ends_with(".git")), "{:?}", place.list("with"));

    let without = Checkout { submodules: false, ..at(&fixture, "side") };
    place.get(&client(), &without, "without").await.unwrap();
    assert!(place.at("without/lib").is_dir());
    assert_eq!(fs::read_dir(place.at("without/lib")).unwrap().count(), 0);

    // Of a directory that lies in one.
    let inside = Checkout { directory: "lib/vendor".to_owned(), ..at(&fixture, "side") };
    place.get(&client(), &inside, "inside").await.unwrap();
    assert_eq!(place.list("inside"), ["deep", "deep/deep"]);
}

#[tokio::test]
async fn a_submodule_that_is_on_this_machine_is_refused() {
    let fixture = Fixture::new();
    let server = fixture.serve();
    let checkout = Checkout { remote: server.url("/git/app.git"), ..at(&fixture, "evil") };
    fixture.git(&["checkout", "--quiet", "-b", "evil", "side"]);
    let own = format!("file://{}", fixture.root().join("lib.git").display());
    fixture.git(&["config", "--file", ".gitmodules", "submodule.lib.url", &own]);
    fixture.git(&["commit", "--quiet", "-am", "evil"]);
    let strict = Client::new(Config { git: GitConfig::default(), ..config() });
    let error = refusal(&strict, &checkout).await;
    assert!(error.contains("transport 'file' not allowed"), "{error}");
    // Nor is a directory a remote.
    assert!(refusal(&strict, &fixture.checkout()).await.contains("no git remote"));
}

#[tokio::test]
async fn a_directory_stays_in_the_repository() {
    let fixture = Fixture::new();
    let place = Place::new();
    let of = |directory: &str| Checkout { directory: directory.to_owned(), ..fixture.checkout() };
    place.get(&client(), &of("dir"), "dir").await.unwrap();
    assert_eq!(place.list("dir"), ["inner", "inner/b", "link"]);
    // As BuildKit has it, a directory has no `.git`.
    let kept = Checkout { keep_git_dir: true, ..of("/dir/inner/") };
    place.get(&client(), &kept, "inner").await.unwrap();
    assert_eq!(place.list("inner"), ["b"]);
    assert_eq!(fs::metadata(place.at("inner")).unwrap().permissions().mode() & 0o7777, 0o755);
    for wrong in ["none", "a", "way", "way/inner", "dir/link", "..", "dir/../..", ".git"] {
        let error = refusal(&client(), &of(wrong)).await;
        assert!(error.contains("directory") && error.contains(wrong), "{error}");
    }
}

#[tokio::test]
async fn times_are_the_commits_on_request() {
    let fixture = Fixture::new();
    let place = Place::new();
    let checkout = Checkout { commit_times: true, keep_git_dir: true, ..at(&fixture, "v1") };
    place.get(&client(), &checkout, "out").await.unwrap();
    for path in ["", "a", "dir", "dir/link", "dir/inner/b", ".git/HEAD"] {
        let metadata = fs::symlink_metadata(place.at("out").join(path)).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_700_000_000, 0), "{path}");
    }
}

#[tokio::test]
async fn speaks_every_protocol() {
    let fixture = Fixture::new();
    let port = free_port();
    let daemon = Program::start(
        Command::new("git")
            .args(["daemon", "--listen=127.0.0.1", "--export-all", "--reuseaddr"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", fixture.root().display()))
            .process_group_of_its_own(),
        port,
    );
    let server = fixture.serve();
    let remotes =
        [format!("git://127.0.0.1:{port}/app.git"), server.url("/git/app.git"), server.url("/dumb/app.git")];
    for (number, remote) in remotes.into_iter().enumerate() {
        let place = Place::new();
        let of = |reference: Option<&str>| Checkout {
            remote: remote.clone(),
            reference: reference.map(str::to_owned),
            submodules: true,
            ..Checkout::default()
        };
        for (out, reference, content) in [
            ("default", None, "main\n"),
            ("tag", Some("v1"), "main\n"),
            ("first", Some(fixture.first.as_str()), "first\n"),
            ("side", Some("side"), "main\n"),
        ] {
            place.get(&client(), &of(reference), out).await.unwrap_or_else(|e| panic!("{remote} {out}: {e}"));
            assert_eq!(place.read(&format!("{out}/a")), content);
        }
        assert_eq!(place.read("side/lib/vendor/deep/deep"), "deep\n");
        let kept = Checkout { keep_git_dir: true, ..of(Some("side")) };
        place.get(&client(), &kept, "kept").await.unwrap();
        assert_eq!(run(&place.at("kept"), "git", &["status", "--porcelain"]), "", "{number}");
    }
    drop(daemon);
}

/// So that its children do not outlive it unseen.
trait OwnGroup {
    fn process_group_of_its_own(&mut self) -> &mut Self;
}

impl OwnGroup for Command {
    fn process_group_of_its_own(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}

#[tokio::test]
async fn fetches_everything_from_servers_that_give_out_tips_only() {
    let fixture = Fixture::new();
    let root = fixture.root().to_owned();
    // The old protocol, in which a server refuses commits that no reference points to.
    let server = Server::start(move |request, _| {
        let mut request = request.clone();
        request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("git-protocol"));
        answer(&root, &request)
    });
    let of = |reference: &str| Checkout {
        remote: server.url("/git/app.git"),
        reference: Some(reference.to_owned()),
        ..Checkout::default()
    };
    let place = Place::new();
    // First one that is shallow, then one behind it.
    for (reference, content) in [("main", "main\n"), (&fixture.base, "base\n"), ("side", "main\n")] {
        place.get(&client(), &of(reference), reference).await.unwrap();
        assert_eq!(place.read(&format!("{reference}/a")), content);
    }
    let error = refusal(&client(), &of(&fixture.lost)).await;
    assert!(error.contains("no branch or tag leads to it"), "{error}");
    // By commit alone, the rest is not fetched.
    let alone = Checkout { fetch_by_commit: true, ..of(&fixture.base) };
    let error = refusal(&client(), &alone).await;
    assert!(error.contains("unadvertised object"), "{error}");
}

#[tokio::test]
async fn what_was_resolved_is_what_comes() {
    let fixture = Fixture::new();
    let place = Place::new();
    let (client, checkout) = (client(), at(&fixture, "main"));
    let resolved = client.resolve(&checkout, &access()).await.unwrap();
    fixture.git(&["checkout", "--quiet", "-B", "main", "light"]);
    client.checkout(&checkout, &resolved, &access(), &place.repositories(), &place.at("old")).await.unwrap();
    assert_eq!(place.read("old/a"), "main\n");
    place.get(&client, &checkout, "new").await.unwrap();
    assert_eq!(place.read("new/a"), "first\n");

    // A branch that becomes a directory of branches, a tag that moves.
    fixture.git(&["branch", "-m", "main", "x"]);
    fixture.git(&["branch", "-m", "x", "main/sub"]);
    fixture.git(&["tag", "-f", "light", "side"]);
    place.get(&client, &at(&fixture, "main/sub"), "sub").await.unwrap();
    place.get(&client, &at(&fixture, "light"), "light").await.unwrap();
    assert_eq!(place.read("light/lib/lib"), "lib\n");
}

#[tokio::test]
async fn what_is_there_needs_no_network() {
    let fixture = Fixture::new();
    let place = Place::new();
    let server = fixture.serve();
    let checkout = Checkout { remote: server.url("/git/app.git"), ..at(&fixture, "main") };
    let client = client();
    let resolved = client.resolve(&checkout, &access()).await.unwrap();
    let get = async |name: &str| {
        client
            .checkout(&checkout, &resolved, &access(), &place.repositories(), &place.at(name))
            .await
            .unwrap()
    };
    get("one").await;
    let asked = server.requests().len();
    get("two").await;
    assert_eq!(server.requests().len(), asked);
    assert_eq!(place.read("two/a"), "main\n");
}

#[tokio::test]
async fn secrets_go_where_they_belong_and_nowhere_else() {
    let fixture = Fixture::new();
    let root = fixture.root().to_owned();
    let server = Server::start(move |request, _| match request.header("authorization") {
        // base64 of x-access-token:t0ken
        Some("basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=") => answer(&root, request),
        _ => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x"),
    });
    // A git that writes down how it is called.
    let place = Place::new();
    let spy = place.at("spy");
    let log = place.at("log");
    let script = format!("#!/bin/sh\n{{ echo \"$@\"; env; }} >> {}\nexec git \"$@\"\n", log.display());
    fs::write(&spy, script).unwrap();
    fs::set_permissions(&spy, fs::Permissions::from_mode(0o755)).unwrap();
    let git = GitConfig { program: spy, ..config().git };
    let client = Client::new(Config { git, ..config() });
    let checkout = Checkout { remote: server.url("/git/app.git"), ..at(&fixture, "main") };

    let error = refusal(&client, &checkout).await;
    assert!(error.contains("the secret GIT_AUTH_TOKEN"), "{error}");
    fs::remove_file(&log).unwrap();
    for name in ["GIT_AUTH_TOKEN".to_owned(), format!("GIT_AUTH_TOKEN.{}", server.address)] {
        let secrets = secrets(&[(name.clone(), "t0ken")]);
        let access = Access { secrets: &*secrets, ..access() };
        let resolved = client.resolve(&checkout, &access).await.unwrap();
        let into = place.at(&name);
        client.checkout(&checkout, &resolved, &access, &place.repositories(), &into).await.unwrap();
    }
    let log = fs::read_to_string(log).unwrap();
    let (calls, environment): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| !line.contains('='));
    assert!(
        calls.iter().any(|call| call.starts_with("fetch ") || call.starts_with("ls-remote")),
        "{calls:?}"
    );
    let encoded = "eC1hY2Nlc3MtdG9rZW46dDBrZW4=";
    assert!(log.lines().all(|line| !line.contains(encoded) || line.starts_with("GIT_CONFIG_VALUE_")));
    for expected in ["GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0"] {
        assert!(environment.contains(&expected), "{expected}");
    }
    let home = environment.iter().find_map(|line| line.strip_prefix("HOME=")).unwrap();
    assert!(home.contains("builder-git-") && !Path::new(home).exists(), "{home}");

    // The wrong secret, and the right one for another host.
    for (name, said) in [("GIT_AUTH_TOKEN", "are refused"), ("GIT_AUTH_TOKEN.example.org", "can be given")] {
        let secrets = secrets(&[(name.to_owned(), "wrong")]);
        let access = Access { secrets: &*secrets, ..access() };
        let error = client.resolve(&checkout, &access).await.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }

    // Where it redirects, the secret does not go.
    let target = server.url("");
    let elsewhere = Server::start(move |request, _| {
        Reply::new(302, "").with("Location", format!("{target}{}", request.target))
    });
    let secrets = secrets(&[("GIT_AUTH_TOKEN".to_owned(), "t0ken")]);
    let access = Access { secrets: &*secrets, ..access() };
    let checkout = Checkout { remote: elsewhere.url("/git/app.git"), ..checkout };
    let before = server.requests().len();
    let error = client.resolve(&checkout, &access).await.unwrap_err().to_string();
    assert!(error.contains("redirects to 127.0.0.1"), "{error}");
    assert!(server.requests()[before..].iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn secrets_follow_on_the_same_server() {
    let fixture = Fixture::new();
    let root = fixture.root().to_owned();
    let server = Server::start(move |request, _| {
        match (request.header("authorization"), request.target.strip_prefix("/old/app")) {
            (None, _) => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=x"),
            (_, Some(rest)) => Reply::new(301, "").with("Location", format!("/git/app.git{rest}")),
            _ => answer(&root, request),
        }
    });
    let secrets = secrets(&[("GIT_AUTH_TOKEN".to_owned(), "t0ken")]);
    let access = Access { secrets: &*secrets, ..access() };
    let place = Place::new();
    let checkout = Checkout { remote: server.url("/old/app"), keep_git_dir: true, ..Checkout::default() };
    let resolved = client().resolve(&checkout, &access).await.unwrap();
    client().checkout(&checkout, &resolved, &access, &place.repositories(), &place.at("out")).await.unwrap();
    assert_eq!(place.read("out/a"), "main\n");
    assert_eq!(run(&place.at("out"), "git", &["remote", "get-url", "origin"]), checkout.remote);
}

#[tokio::test]
async fn redirects_are_followed_without_secrets() {
    let fixture = Fixture::new();
    let target = fixture.serve();
    let base = target.url("");
    let server = Server::start(move |request, _| {
        Reply::new(301, "").with("Location", format!("{base}{}", request.target))
    });
    let checkout = Checkout { remote: server.url("/git/app.git"), ..Checkout::default() };
    let place = Place::new();
    place.get(&client(), &checkout, "out").await.unwrap();
    assert_eq!(place.read("out/a"), "main\n");
}

#[tokio::test]
async fn builds_share_one_repository() {
    let fixture = Fixture::new();
    let root = fixture.root().to_owned();
    let fetches = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&fetches);
    let server = Server::start(move |request, _| {
        if request.body.windows(13).any(|bytes| bytes == b"command=fetch") {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        answer(&root, request)
    });
    let place = Place::new();
    let checkout = Checkout { remote: server.url("/git/app.git"), ..at(&fixture, "main") };
    let client = client();
    let resolved = client.resolve(&checkout, &access()).await.unwrap();
    let one = async |name: &'static str| {
        // A client of its own, as another process would have it.
        let client = crate::support::client();
        let into = place.at(name);
        client.checkout(&checkout, &resolved, &access(), &place.repositories(), &into).await.unwrap();
    };
    tokio::join!(one("1"), one("2"), one("3"), one("4"));
    assert_eq!(fetches.load(Ordering::SeqCst), 1);
    for name in ["1", "2", "3", "4"] {
        assert_eq!(place.read(&format!("{name}/a")), "main\n");
    }
    place.assert_only(&["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_dropped_checkout_leaves_no_process_and_a_usable_repository() {
    let fixture = Fixture::new();
    let root = fixture.root().to_owned();
    let hangs = Arc::new(AtomicBool::new(true));
    let (hanging, asked) = (Arc::clone(&hangs), Arc::new(AtomicBool::new(false)));
    let is_asked = Arc::clone(&asked);
    let server = Server::start(move |request, _| {
        let reply = answer(&root, request);
        let packs = request.body.windows(13).any(|bytes| bytes == b"command=fetch");
        if packs && hanging.load(Ordering::SeqCst) {
            asked.store(true, Ordering::SeqCst);
            reply.slow(Duration::from_secs(20))
        } else {
            reply
        }
    });
    let place = Place::new();
    let checkout = Checkout { remote: server.url("/git/app.git"), ..at(&fixture, "side") };
    let client = client();
    let resolved = client.resolve(&checkout, &access()).await.unwrap();
    let (repositories, into) = (place.repositories(), place.at("out"));
    let access = access();
    let checking_out = client.checkout(&checkout, &resolved, &access, &repositories, &into);
    let begun = async {
        while !is_asked.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    tokio::select! {
        done = checking_out => panic!("half of it has not come: {:?}", done.map(drop)),
        () = begun => {}
    }
    let git_dir = repositories.to_str().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while is_in_an_environment(git_dir) {
        assert!(Instant::now() < end, "git goes on");
    }
    place.assert_only(&[]);

    // What a killed git leaves at its worst.
    let bare = fs::read_dir(&repositories).unwrap().map(|entry| entry.unwrap().path());
    let bare = bare.into_iter().find(|path| path.extension().is_some_and(|end| end == "git")).unwrap();
    for stale in
        ["shallow.lock", "packed-refs.lock", "config.lock", "refs/builder/x.lock", "objects/pack/tmp_pack_x"]
    {
        fs::create_dir_all(bare.join(stale).parent().unwrap()).unwrap();
        fs::write(bare.join(stale), "").unwrap();
    }
    hangs.store(false, Ordering::SeqCst);
    client.checkout(&checkout, &resolved, &access, &repositories, &into).await.unwrap();
    assert_eq!(place.read("out/a"), "main\n");
    assert!(!bare.join("objects/pack/tmp_pack_x").exists());
}

/// Whether a process is about it.
fn is_in_an_environment(text: &str) -> bool {
    let environments = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let process = entry.ok()?.path();
        process.file_name()?.to_str()?.parse::<u32>().ok()?;
        fs::read(process.join("environ")).ok()
    });
    environments.into_iter().any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[tokio::test]
async fn a_damaged_repository_is_fetched_again() {
    let fixture = Fixture::new();
    let place = Place::new();
    let told = Mutex::new(Vec::new());
    let log = |line: &str| told.lock().unwrap().push(line.to_owned());
    let access = Access { log: &log, ..access() };
    let (client, checkout) = (client(), at(&fixture, "main"));
    let resolved = client.resolve(&checkout, &access).await.unwrap();
    for round in 0..3 {
        let into = place.at(&round.to_string());
        client.checkout(&checkout, &resolved, &access, &place.repositories(), &into).await.unwrap();
        assert_eq!(place.read(&format!("{round}/a")), "main\n");
        let bare = fs::read_dir(place.repositories()).unwrap().map(|entry| entry.unwrap().path());
        let bare = bare.into_iter().find(|path| path.extension().is_some_and(|end| end == "git")).unwrap();
        let packs = fs::read_dir(bare.join("objects/pack")).unwrap().map(|entry| entry.unwrap().path());
        for pack in packs.filter(|path| path.extension().is_some_and(|end| end == "pack")) {
            if round == 0 {
                fs::remove_file(pack).unwrap();
            } else {
                let half = fs::read(&pack).unwrap().len() / 2;
                fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).unwrap();
                fs::OpenOptions::new().write(true).open(&pack).unwrap().set_len(half as u64).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn tries_again_as_long_as_it_may_pass() {
    let fixture = Fixture::new();
    let root = fixture.root().to_owned();
    let server = Server::start(move |request, number| match number {
        0 => Reply::new(503, ""),
        1 => Reply::new(429, ""),
        4 => answer(&root, request).cut(10),
        _ => answer(&root, request),
    });
    let checkout = Checkout { remote: server.url("/git/app.git"), ..at(&fixture, "main") };
    let place = Place::new();
    place.get(&client(), &checkout, "out").await.unwrap();
    assert_eq!(place.read("out/a"), "main\n");

    let server = Server::start(|_, _| Reply::new(404, ""));
    let checkout = Checkout { remote: server.url("/git/app.git"), ..checkout };
    let error = refusal(&client(), &checkout).await;
    assert!(error.contains("not found"), "{error}");
    assert!(server.requests().len() <= 2);
}

#[tokio::test]
async fn says_that_git_is_missing() {
    let git = GitConfig { program: "no-such-git".into(), ..config().git };
    let client = Client::new(Config { git, ..config() });
    let checkout = Checkout { remote: "https://h.example/x.git".into(), ..Checkout::default() };
    let error = client.resolve(&checkout, &access()).await.unwrap_err();
    assert!(matches!(&error, Error::NoGit { .. }), "{error}");
    assert!(error.to_string().contains("no-such-git"), "{error}");
}

#[tokio::test]
async fn repositories_with_longer_ids() {
    let fixture = Fixture::new();
    let root = fixture.root().join("long.git");
    fs::create_dir(&root).unwrap();
    run(&root, "git", &["init", "--quiet", "--object-format=sha256"]);
    fs::write(root.join("f"), "long\n").unwrap();
    run(&root, "git", &["add", "f"]);
    run(&root, "git", &["commit", "--quiet", "-m", "f"]);
    let place = Place::new();
    let remote = format!("file://{}", root.display());
    let checkout = Checkout { remote, keep_git_dir: true, ..Checkout::default() };
    let done = place.get(&client(), &checkout, "out").await.unwrap();
    assert_eq!(done.commit.len(), 64);
    assert_eq!(place.read("out/f"), "long\n");
}
