//! Where files come from: every kind of build context, named contexts, ADD from elsewhere. Archives are made by tar,
//! repositories are served by git and OpenSSH, HTTP by a server that counts.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use e2e::{
    Agent, Context, Done, Home, Reply, Repositories, Running, Server, Sshd, base, eventually, feed, run,
    tempdir, tool,
};
use rustix::process::Signal;

/// Copies all of the context.
const ALL: &str = "FROM scratch\nCOPY . /\n";

/// A build with its result in a directory: `path=content`, `path -> target`, sorted.
#[track_caller]
fn files(build: &mut Command) -> Vec<String> {
    files_of(build, &[])
}

/// As [`files`], with this as standard input.
#[track_caller]
fn files_of(build: &mut Command, input: &[u8]) -> Vec<String> {
    let dir = tempdir();
    feed(build.arg("-o").arg(dir.path().join("out")), input).ok();
    let mut found = Vec::new();
    list(&dir.path().join("out"), Path::new(""), &mut found);
    found.sort();
    found
}

fn list(root: &Path, below: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(below)).expect("list the result").flatten() {
        let path = below.join(entry.file_name());
        let kind = entry.file_type().expect("its kind");
        if kind.is_dir() {
            list(root, &path, found);
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).expect("read a link");
            found.push(format!("{} -> {}", path.display(), target.display()));
        } else {
            let text = String::from_utf8_lossy(&fs::read(entry.path()).expect("read a file")).into_owned();
            // A Dockerfile's own text is the test's and of no interest.
            let text =
                if path.ends_with("Dockerfile") { "…".to_owned() } else { text.trim_end().to_owned() };
            found.push(format!("{}={text}", path.display()));
        }
    }
}

/// Packs a directory with tar, compressed by an option of its.
fn packed(dir: &Path, compression: &[&str]) -> Vec<u8> {
    let archive = tempdir();
    let path = archive.path().join("a.tar");
    run(tool("tar").args(compression).arg("-cf").arg(&path).arg("-C").arg(dir).arg(".")).ok();
    fs::read(path).expect("read the archive")
}

/// What tar calls its compressions.
const COMPRESSIONS: &[&[&str]] = &[&[], &["--gzip"], &["--bzip2"], &["--xz"], &["--zstd"]];

/// A context with what the tests look for: an ignored file, one in a directory, a link, an executable.
fn sample() -> Context {
    let context = Context::new(ALL)
        .file(".dockerignore", "hidden\n**/*.log\n")
        .file("hidden", "hidden")
        .file("d/x.log", "log")
        .file("d/kept", "kept")
        .file("d/Other", "FROM scratch\nCOPY d/kept /other\n")
        .file("run.sh", "#!/bin/sh\n");
    context.chmod("run.sh", 0o755);
    symlink("d/kept", context.path().join("link")).expect("make a link");
    context
}

/// What [`ALL`] makes of [`sample`].
const SAMPLE: &[&str] = &[
    ".dockerignore=hidden\n**/*.log",
    "Dockerfile=…",
    "d/Other=FROM scratch\nCOPY d/kept /other",
    "d/kept=kept",
    "link -> d/kept",
    "run.sh=#!/bin/sh",
];

#[test]
fn standard_input_is_an_archive() {
    let home = Home::new();
    let context = sample();
    for compression in COMPRESSIONS {
        let archive = packed(context.path(), compression);
        assert_eq!(files_of(&mut home.build("-"), &archive), SAMPLE, "{compression:?}");
        let other = files_of(home.build("-").args(["-f", "d/Other"]), &archive);
        assert_eq!(other, ["other=kept"], "-f names a file of the archive, {compression:?}");
    }
    // The same files as in a directory: nothing runs again.
    let runs = Context::new("FROM busybox\nCOPY run.sh /\nRUN sh -e /run.sh\n").file("run.sh", "echo ran\n");
    home.steps(&runs, &[]);
    let done = feed(home.build("-").arg("--progress=rawjson"), &packed(runs.path(), &["--zstd"])).ok();
    done.steps().all_cached();
}

#[test]
fn an_archive_that_is_broken_is_an_error() {
    let home = Home::new();
    let big = Context::new(ALL).file("noise", noise(300_000));
    for compression in COMPRESSIONS {
        let whole = packed(big.path(), compression);
        feed(&mut home.build("-"), &whole[..whole.len() / 2]).code_is(1).says("standard input");
    }
    // Paths that lead out of it lead nowhere.
    let dir = tempdir();
    fs::create_dir(dir.path().join("in")).expect("make a directory");
    fs::write(dir.path().join("in/Dockerfile"), ALL).expect("write");
    fs::write(dir.path().join("outside"), "outside").expect("write");
    let archive = dir.path().join("a.tar");
    let mut tar = tool("tar");
    tar.arg("-cPf").arg(&archive).arg("-C").arg(dir.path().join("in")).args(["Dockerfile", "../outside"]);
    run(&mut tar).ok();
    let bytes = fs::read(&archive).expect("read");
    let out = tempdir();
    let done = feed(home.build("-").arg("-o").arg(out.path().join("out")), &bytes);
    // Refused, or kept inside.
    assert!(
        done.code == Some(1) && done.stderr.contains("outside")
            || fs::read_to_string(out.path().join("out/outside")).is_ok_and(|text| text == "outside"),
        "{done}"
    );
    assert!(!home.path().join("outside").exists() && !out.path().join("outside").exists());
    feed(&mut home.build("-"), &packed(Context::new("").path(), &[])).code_is(1);
    let empty = tempdir();
    feed(&mut home.build("-"), &packed(empty.path(), &[])).code_is(1).says("Dockerfile");
}

/// Somebody has typed `builder build -` and thinks better of it.
#[test]
fn reading_standard_input_can_be_interrupted() {
    let home = Home::new();
    for begun in [&b""[..], b"FROM scr", &[b'x'; 2000]] {
        let mut build = home.build("-");
        build.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut build = Running::start(&mut build);
        let mut input = build.0.stdin.take().expect("its input");
        input.write_all(begun).expect("write");
        // It says that it reads before it does.
        let mut said = String::new();
        let mut stderr = BufReader::new(build.0.stderr.take().expect("its messages"));
        stderr.read_line(&mut said).expect("read");
        std::thread::sleep(Duration::from_millis(300));
        eventually(Duration::from_secs(20), "a handler of signals", || build.handles(Signal::INT));
        build.signal(Signal::INT);
        assert_eq!(build.wait(Duration::from_secs(5)).code(), Some(130), "{said}");
        drop(input);
    }
    let bytes = run(tool("grep").args(["-rl", "xxxxxxxx"]).arg(home.path()));
    assert_eq!(bytes.stdout, "", "what was read is gone");
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .expect("read /dev/urandom");
    bytes
}

#[test]
fn standard_input_is_a_dockerfile() {
    let home = Home::new();
    let heredoc = b"FROM scratch\nCOPY <<EOF /f\nfrom standard input\nEOF\n";
    assert_eq!(files_of(&mut home.build("-"), heredoc), ["f=from standard input"]);
    // There are no files beside it.
    feed(&mut home.build("-"), b"FROM scratch\nCOPY f /f\n").code_is(1).says("\"/f\": not found");
    let context = sample();
    assert_eq!(files_of(home.build(&context).args(["-f", "-"]), ALL.as_bytes()), SAMPLE);
    feed(home.build("-").args(["-f", "-"]), heredoc).code_is(2).says("standard input");
    feed(&mut home.build("-"), b"").code_is(1).says("no instructions");
    feed(&mut home.build("-"), b"FROM scratch\nCOPPY a b\n")
        .code_is(1)
        .says("standard input:2:1")
        .says("did you mean COPY?");
}

#[test]
fn which_dockerfile_is_read() {
    let home = Home::new();
    let says = |text: &str| format!("FROM scratch\nCOPY <<EOF /which\n{text}\nEOF\n");
    let context = Context::new(&says("Dockerfile")).file("dockerfile", says("dockerfile"));
    assert_eq!(files(&mut home.build(&context)), ["which=Dockerfile"]);
    fs::remove_file(context.path().join("Dockerfile")).expect("remove");
    assert_eq!(files(&mut home.build(&context)), ["which=dockerfile"]);
    // An archive, too.
    assert_eq!(files_of(&mut home.build("-"), &packed(context.path(), &[])), ["which=dockerfile"]);
    fs::remove_file(context.path().join("dockerfile")).expect("remove");
    run(&mut home.build(&context)).code_is(1).says("there is no Dockerfile").says("-f");

    // Outside the context, and relative to where the command runs.
    let outside = tempdir();
    fs::write(outside.path().join("Some.dockerfile"), ALL).expect("write");
    context.write("f", "f");
    let absolute = outside.path().join("Some.dockerfile");
    assert_eq!(files(home.build(&context).arg("-f").arg(&absolute)), ["f=f"]);
    let relative = files(home.build(&context).args(["-f", "Some.dockerfile"]).current_dir(outside.path()));
    assert_eq!(relative, ["f=f"]);
    // Through a link, and a pipe of the shell.
    symlink(&absolute, context.path().join("Dockerfile")).expect("make a link");
    assert!(files(&mut home.build(&context)).contains(&"f=f".to_owned()));
    let mut shell = Command::new("bash");
    let line = "exec \"$0\" \"$@\" -f <(printf 'FROM scratch\\nCOPY f /piped\\n')";
    let build = home.build(&context);
    shell.args(["-c", line]).arg(build.get_program()).args(build.get_args());
    assert_eq!(files(shell.env("BUILDER_HOME", home.path())), ["piped=f"]);
}

#[test]
fn an_ignore_file_of_the_dockerfile_wins() {
    let home = Home::new();
    let context = Context::new(ALL)
        .file(".dockerignore", "a\nDockerfile*\nci\n.dockerignore\n")
        .file("Dockerfile.dockerignore", "b\nDockerfile*\nci\n.dockerignore\n")
        .file("ci/Other", ALL)
        .file("ci/Other.dockerignore", "*\n!c\n")
        .file("ci/Plain", ALL)
        .file("a", "a")
        .file("b", "b")
        .file("c", "c");
    let root = context.path().to_owned();
    let with = |file: &str| files(home.build(&context).arg("-f").arg(root.join(file)));
    assert_eq!(files(&mut home.build(&context)), ["a=a", "c=c"], "never merged");
    assert_eq!(with("ci/Other"), ["c=c"]);
    assert_eq!(with("ci/Plain"), ["b=b", "c=c"], "no file of its own: that of the context");
    // Beside a Dockerfile that is outside.
    let outside = tempdir();
    fs::write(outside.path().join("Mine"), ALL).expect("write");
    fs::write(outside.path().join("Mine.dockerignore"), "*\n!b\n").expect("write");
    assert_eq!(files(home.build(&context).arg("-f").arg(outside.path().join("Mine"))), ["b=b"]);
    // In an archive.
    let archive = packed(&root, &[]);
    assert_eq!(files_of(home.build("-").args(["-f", "ci/Other"]), &archive), ["c=c"]);
    assert_eq!(files_of(&mut home.build("-"), &archive), ["a=a", "c=c"]);
    // The Dockerfile is read although it is ignored; COPY of it is refused and says why.
    context.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    run(&mut home.build(&context)).code_is(1).says("Dockerfile.dockerignore excludes it");
}

/// `main` of [`Repositories`] as its Dockerfile copies it.
fn repository(file: &str) -> Vec<String> {
    let all = [".dockerignore=hidden", "Dockerfile=…", "dir/Dockerfile=…", "dir/inner=inner"];
    let mut all: Vec<String> = all.map(str::to_owned).to_vec();
    all.push(format!("file={file}"));
    all
}

#[test]
fn a_repository_over_http() {
    let home = Home::new();
    let repositories = Repositories::new();
    let server = repositories.serve();
    let url = server.url("/app.git");
    let at = |rest: &str| files(&mut home.build(&format!("{url}{rest}")));
    assert_eq!(at(""), repository("main"), "the default branch, without what it ignores and without .git");
    let first = repository("first");
    for rest in ["#v1", "#refs/tags/v1", &format!("#{}", repositories.first), "?tag=v1", "?ref=v1"] {
        assert_eq!(at(rest), first, "{rest}");
    }
    let below = ["below/Dockerfile=…", "below/inner=inner"];
    for rest in ["#main:dir", "#:dir", "?branch=main&subdir=dir", "?subdir=dir#v1"] {
        assert_eq!(at(rest), below, "{rest}");
    }
    let mut side = repository("side");
    side.extend([".gitmodules=[submodule \"lib\"]\n\tpath = lib\n\turl = ../lib.git".to_owned()]);
    side.sort();
    assert_eq!(at("?branch=side&submodules=false"), side);
    side.push("lib/module=module".to_owned());
    side.sort();
    let with_module: Vec<String> =
        at("#side").into_iter().filter(|line| !line.starts_with("lib/.git=")).collect();
    assert_eq!(with_module, side, "submodules by default");
    // A commit that is named must be that one.
    let checksum = &repositories.main[..12];
    assert_eq!(at(&format!("?branch=main&checksum={checksum}")), repository("main"));
    let fails = |rest: &str| run(&mut home.build(&format!("{url}{rest}")));
    fails(&format!("?ref=v1&checksum={checksum}")).code_is(1).says(checksum);
    fails("#nothing").code_is(1).says("nothing");
    fails("#main:nothing").code_is(1).says("nothing");
    fails("?wrong=1").code_is(2).says("wrong");
    run(&mut home.build(&server.url("/none.git"))).code_is(1).says("none.git");

    // `-f` is a file of the repository; .git is kept on request.
    let other = files(home.build(&url).args(["-f", "dir/Dockerfile"]));
    assert_eq!(other.len(), 5, "{other:?}");
    assert!(other.iter().all(|line| line.starts_with("below/")), "{other:?}");
    let kept = at("?keep-git-dir=true");
    assert!(kept.iter().any(|line| line.starts_with(".git/HEAD=")), "{kept:?}");
}

/// As upstream, by an argument that the Dockerfile need not declare.
#[test]
fn a_build_argument_keeps_the_git_directory_of_a_context() {
    let home = Home::new();
    let repositories = Repositories::new();
    let server = repositories.serve();
    let mut build = home.build(&server.url("/app.git"));
    let kept = files(build.args(["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]));
    assert!(kept.iter().any(|line| line.starts_with(".git/HEAD=")), "{kept:?}");
}

#[test]
fn a_repository_is_asked_again_and_a_new_commit_is_seen() {
    let home = Home::new();
    let repositories = Repositories::new();
    let server = repositories.serve();
    let url = server.url("/app.git");
    let context = Context::new(&format!(
        "FROM busybox\nADD {url}#main /app\nRUN cat /app/file && test ! -e /app/.git && ls -a /app\n"
    ));
    let first = home.steps(&context, &[]);
    assert!(first.named("RUN").log.starts_with("main\n"), "{first:#?}");
    assert!(first.named("RUN").log.contains("hidden"), "its ignore file is for contexts: {first:#?}");
    let packs = server.take().iter().filter(|request| request.method == "POST").count();
    assert!(packs > 0);
    home.steps(&context, &[]).all_cached();
    let again = server.take();
    assert!(!again.is_empty(), "a branch may have moved: the server is asked");
    let fetched =
        again.iter().filter(|request| String::from_utf8_lossy(&request.body).contains("want ")).count();
    assert_eq!(fetched, 0, "nothing is fetched again");
    let commit = repositories.edit("edited\n");
    let third = home.steps(&context, &[]);
    assert!(third.named("RUN").log.starts_with("edited\n"), "{third:#?}");
    assert_eq!(third.executed().len(), 2);
    // A whole commit is itself: nobody is asked.
    let pinned = Context::new(&format!("FROM scratch\nADD {url}#{commit} /app\n"));
    home.steps(&pinned, &[]);
    server.take();
    home.steps(&pinned, &[]).all_cached();
    assert_eq!(server.take().len(), 0, "a commit cannot change");
}

#[test]
fn add_from_a_repository() {
    let home = Home::new();
    let repositories = Repositories::new();
    let server = repositories.serve();
    let url = server.url("/app.git");
    let add = |arguments: &str| {
        let context = Context::new(&format!("FROM scratch\nADD {arguments} /o/\n"));
        files(&mut home.build(&context))
    };
    assert_eq!(add(&format!("{url}#main:dir")), ["o/Dockerfile=…", "o/inner=inner"]);
    assert_eq!(add(&format!("{url}?subdir=dir&tag=v1")), ["o/Dockerfile=…", "o/inner=inner"]);
    assert!(add(&format!("{url}#side")).contains(&"o/lib/module=module".to_owned()), "with submodules");
    let bare = add(&format!("{url}?branch=side&submodules=false"));
    assert!(!bare.iter().any(|line| line.starts_with("o/lib/")), "{bare:?}");
    assert!(!bare.iter().any(|line| line.starts_with("o/.git/")), "{bare:?}");
    let kept = add(&format!("--keep-git-dir=true {url}"));
    assert!(kept.iter().any(|line| line.starts_with("o/.git/HEAD=")), "{kept:?}");
    let whole = &repositories.main;
    let main = add(&format!("--checksum={} {url}", &whole[..20]));
    assert!(main.contains(&"o/file=main".to_owned()), "{main:?}");
    let chosen = add(&format!("--exclude=dir --chown=1:2 {url}"));
    assert!(!chosen.iter().any(|line| line.contains("dir/")), "{chosen:?}");
    let wrong = Context::new(&format!("FROM scratch\nADD --checksum={} {url}#v1 /o/\n", &whole[..20]));
    run(&mut home.build(&wrong)).code_is(1).says(&whole[..20]).says(&repositories.first);
    let none = Context::new(&format!("FROM scratch\nADD {url}#nothing /o/\n"));
    run(&mut home.build(&none)).code_is(1).says("nothing");
    let copy = Context::new(&format!("FROM scratch\nCOPY {url} /o/\n"));
    run(&mut home.build(&copy)).code_is(1).says("ADD");
}

#[test]
fn a_repository_over_ssh() {
    let home = Home::new();
    let repositories = Repositories::new();
    let agent = Agent::start();
    let sshd = Sshd::start(&agent);
    let url = sshd.url(&repositories.app());
    let socket = format!("default={}", agent.socket().display());
    let context = files(home.build(&url).args(["--ssh", &socket]));
    assert_eq!(context, repository("main"), "{}", sshd.log());
    let side = files(home.build(&format!("{url}#side")).args(["--ssh", &socket]));
    assert!(side.contains(&"lib/module=module".to_owned()), "the submodule, too: {side:?}");
    // The environment's agent, and a key file.
    let mut from_environment = home.build(&format!("{url}#main:dir"));
    from_environment.args(["--ssh", "default"]).env("SSH_AUTH_SOCK", agent.socket());
    assert_eq!(files(&mut from_environment), ["below/Dockerfile=…", "below/inner=inner"]);
    let add = Context::new(&format!("FROM scratch\nADD {url}#v1 /o/\n"));
    let added = files(home.build(&add).args(["--ssh", &socket]));
    assert!(added.contains(&"o/file=first".to_owned()), "{added:?}");
    let other = Context::new(&format!("FROM scratch\nADD {url}#v1:dir /o/\n"));
    run(home.build(&other).env_remove("SSH_AUTH_SOCK")).code_is(1).says("no ssh agent was given");
    let stranger = Agent::start();
    let wrong = format!("default={}", stranger.socket().display());
    run(home.build(&other).args(["--ssh", &wrong])).code_is(1).says("Permission denied");
}

#[test]
fn a_repository_of_gits_own_daemon() {
    let home = Home::new();
    let repositories = Repositories::new();
    let (_daemon, url) = repositories.daemon();
    assert_eq!(files(&mut home.build(&format!("{url}/app.git"))), repository("main"));
    let side = files(&mut home.build(&format!("{url}/app.git#side")));
    assert!(side.contains(&"lib/module=module".to_owned()), "{side:?}");
    let add = Context::new(&format!("FROM scratch\nADD {url}/app.git#v1:dir /o/\n"));
    assert_eq!(files(&mut home.build(&add)), ["o/Dockerfile=…", "o/inner=inner"]);
}

/// `printf x-access-token:sesame | base64`, and what `user:password` is.
const TOKEN: &str = "basic eC1hY2Nlc3MtdG9rZW46c2VzYW1l";
const LOGIN: &str = "basic dXNlcjpwYXNzd29yZA==";

#[test]
fn repositories_behind_a_login() {
    let repositories = Repositories::new();
    let server = repositories.serve_to(TOKEN);
    let url = server.url("/app.git");
    let dir = tempdir();
    fs::write(dir.path().join("token"), "sesame\n").expect("write");
    let secret = |id: &str| format!("--secret=id={id},src={}", dir.path().join("token").display());
    let add = Context::new(&format!("FROM scratch\nADD {url}#v1:dir /o/\n"));
    for id in ["GIT_AUTH_TOKEN".to_owned(), format!("GIT_AUTH_TOKEN.{}", server.host())] {
        let home = Home::new();
        assert_eq!(files(home.build(&url).arg(secret(&id))), repository("main"), "{id}");
        let added = files(home.build(&add).arg(secret(&id)));
        assert_eq!(added, ["o/Dockerfile=…", "o/inner=inner"]);
        let grep = run(tool("grep").args(["-rlE", "sesame|c2VzYW1l"]).arg(home.path()));
        assert_eq!(grep.stdout, "", "the token is kept nowhere");
    }
    let home = Home::new();
    // As upstream, it is sent to that repository and not to those of its submodules, which may be anybody's.
    let side = format!("{url}#side");
    run(home.build(&side).arg(secret("GIT_AUTH_TOKEN"))).code_is(1).says("lib.git");
    run(&mut home.build(&add)).code_is(1).says("GIT_AUTH_TOKEN").says("Dockerfile:2");
    run(home.build(&url).arg(secret("GIT_AUTH_TOKEN.example.org"))).code_is(1);
}

/// A login in the address is used, and stands nowhere afterwards.
#[test]
fn a_login_in_an_address_is_not_kept() {
    let home = Home::new();
    let repositories = Repositories::new();
    let server = repositories.serve_to(LOGIN);
    let url = server.url("/app.git").replacen("http://", "http://user:password@", 1);
    let done = run(home.build(&url).args(["-q", "--progress=plain"])).ok();
    assert!(!done.stderr.contains("password"), "{done}");
    let named = Context::new("FROM scratch\nCOPY --from=named file /f\n");
    assert_eq!(files(home.build(&named).arg(format!("--build-context=named={url}"))), ["f=main"]);
    let grep = run(tool("grep").args(["-rlE", "user:password|dXNlcjpwYXNzd29yZA"]).arg(home.path()));
    assert_eq!(grep.stdout, "", "the login is kept nowhere");
}

#[test]
fn http_contexts() {
    let home = Home::new();
    let context = sample();
    let archives: Vec<Vec<u8>> =
        COMPRESSIONS.iter().map(|compression| packed(context.path(), compression)).collect();
    let server = Server::start(move |request| match request.target.as_str() {
        "/Dockerfile" => Reply::new(200, "FROM scratch\nCOPY <<EOF /f\nfrom a server\nEOF\n"),
        "/moved" => Reply::redirect(302, "/again"),
        "/again" => Reply::redirect(307, "/0"),
        "/round" => Reply::redirect(302, "/round"),
        "/gone" => Reply::new(410, "gone"),
        "/page" => Reply::new(200, "<html>not a Dockerfile</html>\n"),
        name => match name[1..].parse::<usize>().ok().and_then(|number| archives.get(number)) {
            Some(archive) => Reply::new(200, archive.clone()),
            None => Reply::new(404, "nothing here"),
        },
    });
    for (number, compression) in COMPRESSIONS.iter().enumerate() {
        let found = files(&mut home.build(&server.url(&format!("/{number}"))));
        assert_eq!(found, SAMPLE, "{compression:?}");
    }
    assert_eq!(files(home.build(&server.url("/1")).args(["-f", "d/Other"])), ["other=kept"]);
    assert_eq!(files(&mut home.build(&server.url("/moved"))), SAMPLE, "two redirects");
    assert_eq!(files(&mut home.build(&server.url("/Dockerfile"))), ["f=from a server"]);
    let own = files_of(home.build(&server.url("/0")).args(["-f", "-"]), b"FROM scratch\nCOPY d/kept /own\n");
    assert_eq!(own, ["own=kept"], "a Dockerfile of one's own");
    run(&mut home.build(&server.url("/none"))).code_is(1).says("404");
    run(&mut home.build(&server.url("/gone"))).code_is(1).says("410");
    run(&mut home.build(&server.url("/round"))).code_is(1).says("redirect");
    run(&mut home.build(&server.url("/page"))).code_is(1).says("<html>not");
    let nobody = format!("http://127.0.0.1:{}/x.tar", e2e::free_port());
    run(&mut home.build(&nobody)).code_is(1).says("127.0.0.1");
}

/// A file that a test changes, with its ETag and its time.
struct Changing {
    server: Server,
    content: Arc<Mutex<Version>>,
}

#[derive(Clone)]
struct Version {
    text: String,
    etag: Option<&'static str>,
    modified: &'static str,
}

/// When the file was changed last.
const MODIFIED: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

impl Changing {
    fn start() -> Self {
        let first = Version { text: "one\n".to_owned(), etag: Some("\"1\""), modified: MODIFIED };
        let content = Arc::new(Mutex::new(first));
        let shared = Arc::clone(&content);
        let server = Server::start(move |request| {
            let Version { text, etag, modified } = shared.lock().expect("the file").clone();
            let known = |known: &str| etag.is_some_and(|etag| known.contains(etag));
            let is_known = request.header("if-none-match").is_some_and(known)
                || etag.is_none() && request.header("if-modified-since") == Some(modified);
            let reply = if is_known { Reply::new(304, "") } else { Reply::new(200, text) };
            let reply = reply.with("Last-Modified", modified).with("Date", "Thu, 01 Jan 2026 00:00:00 GMT");
            etag.into_iter().fold(reply, |reply, etag| reply.with("ETag", etag))
        });
        Self { server, content }
    }

    fn set(&self, text: &str, etag: &'static str) {
        self.turn_into(Version { text: text.to_owned(), etag: Some(etag), modified: MODIFIED });
    }

    fn turn_into(&self, version: Version) {
        *self.content.lock().expect("the file") = version;
    }
}

#[test]
fn add_asks_a_server_whether_a_file_changed() {
    let home = Home::new();
    let served = Changing::start();
    let url = served.server.url("/dir/name.txt?query=1");
    let context =
        Context::new(&format!("FROM busybox\nADD {url} /o/\nRUN ls -l --full-time /o && cat /o/*\n"));
    let log = home.steps(&context, &[]).named("RUN").log.clone();
    assert!(log.contains("-rw-------") && log.contains("2023-11-14 22:13:20"), "mode and time: {log}");
    assert!(log.contains("/name.txt") || log.contains(" name.txt"), "the name is that of the path: {log}");
    assert!(log.ends_with("one\n"), "{log}");
    let first = served.server.take();
    assert_eq!(first.iter().filter(|request| request.method == "GET").count(), 1, "{first:?}");
    // Asked, and told that there is nothing new.
    home.steps(&context, &[]).all_cached();
    let second = served.server.take();
    assert_eq!(second.len(), 1, "{second:?}");
    assert_eq!(second[0].header("if-none-match"), Some("\"1\""), "{second:?}");
    // Another ETag, the same bytes: fetched, and nothing runs.
    served.set("one\n", "\"2\"");
    home.steps(&context, &[]).all_cached();
    served.set("two\n", "\"3\"");
    served.server.take();
    let changed = home.steps(&context, &[]);
    assert!(changed.named("RUN").log.ends_with("two\n"), "{changed:#?}");
    assert_eq!(changed.executed().len(), 2);
    // Another state directory knows nothing.
    served.server.take();
    Home::new().steps(&context, &[]);
    assert!(served.server.take().iter().all(|request| request.header("if-none-match").is_none()));
}

/// The same bytes with another date: fetched again, where the server says that it is another version, and nothing runs. Upstream's key has
/// the date.
#[test]
fn the_date_of_a_download_is_in_no_key() {
    let home = Home::new();
    let served = Changing::start();
    let context = Context::new(&format!(
        "FROM busybox\nADD {} /o/\nRUN cat /o/* > /copy\n",
        served.server.url("/name.txt")
    ));
    let version = |text: &str, etag, modified| Version { text: text.to_owned(), etag, modified };
    home.steps(&context, &[]);
    let key = |home: &Home| {
        let told = run(home.builder("history").args(["inspect", "--format=json"])).ok().stdout;
        let record: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        record["steps"].as_array().expect("steps").last().expect("a step")["key"].clone()
    };
    let first = key(&home);
    let later = ["Wed, 15 Nov 2023 22:13:20 GMT", "Thu, 16 Nov 2023 22:13:20 GMT"];
    for (etag, modified) in [(Some("\"2\""), later[0]), (Some("\"1\""), later[1]), (None, later[0])] {
        served.server.take();
        served.turn_into(version("one\n", etag, modified));
        home.steps(&context, &[]).all_cached();
        assert_eq!(key(&home), first);
        assert!(!served.server.take().is_empty(), "it was asked");
    }
    // Nor on a machine that has never seen the other date.
    let other = Home::new();
    other.steps(&context, &[]);
    assert_eq!(key(&other), first);
    // Without an ETag the date alone says that there is something new, and then it counts.
    served.turn_into(version("two\n", None, later[1]));
    assert_eq!(home.steps(&context, &[]).executed().len(), 2);
    assert_ne!(key(&home), first);
}

#[test]
fn a_broken_download_goes_on_where_it_ended() {
    let home = Home::new();
    let whole = noise(400_000);
    let content = whole.clone();
    let server = Server::start(move |request| {
        let offset =
            request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let offset: Option<usize> = offset.and_then(|offset| offset.parse().ok());
        let reply = match offset {
            Some(offset) => {
                let range = format!("bytes {offset}-{}/{}", content.len() - 1, content.len());
                Reply::new(206, &content[offset..]).with("Content-Range", range)
            }
            None => Reply::new(200, content.clone()).cut(250_000),
        };
        reply.with("ETag", "\"whole\"").with("Accept-Ranges", "bytes")
    });
    let context = Context::new(&format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    let out = tempdir();
    run(home.build(&context).arg("-o").arg(out.path().join("out"))).ok();
    assert!(fs::read(out.path().join("out/f")).expect("read") == whole, "every byte");
    let requests = server.take();
    let ranges: Vec<_> = requests.iter().filter_map(|request| request.header("range")).collect();
    assert!(requests.len() == 2 && ranges.len() == 1 && ranges[0] != "bytes=0-", "{ranges:?}");

    // One that breaks again and again is an error in the end, and leaves nothing.
    let broken = Server::start(|_| Reply::new(200, vec![b'x'; 1000]).cut(10));
    let context = Context::new(&format!("FROM scratch\nADD {} /f\n", broken.url("/f")));
    let done = run(&mut home.build(&context)).code_is(1).says(&broken.url("/f"));
    assert!(done.took < Duration::from_secs(120), "{done}");
    assert!(broken.take().len() > 1, "tried again");
}

/// `sha256:…` of bytes, by coreutils.
fn sha256(text: &str) -> String {
    let done = feed(&mut tool("sha256sum"), text.as_bytes()).ok();
    format!("sha256:{}", done.stdout.split(' ').next().unwrap_or_default())
}

#[test]
fn add_compares_the_checksum() {
    let home = Home::new();
    let served = Changing::start();
    let url = served.server.url("/f");
    let (right, wrong) = (sha256("one\n"), sha256("two\n"));
    let with = |checksum: &str| Context::new(&format!("FROM scratch\nADD --checksum={checksum} {url} /f\n"));
    assert_eq!(files(&mut home.build(&with(&right))), ["f=one"]);
    // What is known by its checksum is not asked for again.
    served.server.take();
    home.steps(&with(&right), &[]).all_cached();
    assert!(served.server.take().len() <= 1);
    let refused = run(&mut home.build(&with(&wrong))).code_is(1);
    refused.says(&right).says(&wrong).says("Dockerfile:2");
    served.set("two\n", "\"2\"");
    assert_eq!(files(&mut home.build(&with(&wrong))), ["f=two"]);
    run(&mut Home::new().build(&with(&right))).code_is(1).says(&wrong);
    run(&mut home.build(&with("sha256:12"))).code_is(1).says("sha256:12");
    run(&mut home.build(&with("md5:9e107d9d372bb6826bd81d3542a419d6"))).code_is(1).says("md5");
}

#[test]
fn a_download_that_fails_shows_its_line() {
    let home = Home::new();
    let server = Server::start(|_| Reply::new(404, "nothing here"));
    for source in [server.url("/f"), server.url("/x.git")] {
        let context = Context::new(&format!("FROM scratch\nADD {source} /f\n"));
        run(&mut home.build(&context)).code_is(1).says("Dockerfile:2").says(&format!("ADD {source} /f"));
    }
}

#[test]
fn add_over_http() {
    let home = Home::new();
    let archive = Context::new("").file("in/x", "x");
    let tar = packed(archive.path(), &["--gzip"]);
    let server = Server::start(move |request| {
        let allowed = request.header("authorization") == Some("Bearer sesame");
        match request.target.as_str() {
            "/" => Reply::new(200, "root\n"),
            "/a.tar.gz" => Reply::new(200, tar.clone()),
            "/file" | "/dir/final" => Reply::new(200, "file\n"),
            "/start" => Reply::redirect(301, "/dir/final"),
            "/named" => {
                Reply::new(200, "named\n").with("Content-Disposition", "attachment; filename=\"proper\"")
            }
            "/closed" if allowed => Reply::new(200, "open\n"),
            "/closed" => Reply::new(401, "no").with("WWW-Authenticate", "Bearer"),
            "/ill" => Reply::new(500, "ill"),
            _ => Reply::new(404, "nothing here"),
        }
    });
    let url = |path: &str| server.url(path);
    let add = |arguments: &str, more: &[&str]| {
        let context = Context::new(&format!("FROM scratch\nADD {arguments}\n"));
        files(home.build(&context).args(more))
    };
    let fails = |arguments: &str| {
        run(&mut home.build(&Context::new(&format!("FROM scratch\nADD {arguments}\n")))).code_is(1)
    };
    assert_eq!(add(&format!("{} /o/", url("/file")), &[]), ["o/file=file"]);
    assert_eq!(add(&format!("{} /o", url("/file")), &[]), ["o=file"]);
    assert_eq!(add(&format!("{} /o/", url("/start")), &[]), ["o/start=file"], "named as it was asked for");
    let packed = add(&format!("{} /o/", url("/a.tar.gz")), &[]);
    assert!(packed.len() == 1 && packed[0].starts_with("o/a.tar.gz="), "not unpacked: {packed:?}");
    let unpacked = add(&format!("--unpack=true {} /o/", url("/a.tar.gz")), &[]);
    assert_eq!(unpacked, ["o/Dockerfile=…", "o/in/x=x"]);
    // Owner and mode as wanted, in the image.
    let owned = Context::new(&format!("FROM scratch\nADD --chmod=640 --chown=3:4 {} /o\n", url("/file")));
    let tree = home.export(&owned, &[]).tree();
    let node = tree.at("o");
    assert_eq!((node.mode, node.uid, node.gid), (0o640, 3, 4));
    // Two at once.
    let both = add(&format!("{} {} /o/", url("/file"), url("/dir/final")), &[]);
    assert_eq!(both, ["o/file=file", "o/final=file"]);
    fails(&format!("{} /o", url("/none"))).says("404").says(&url("/none"));
    assert_eq!(add(&format!("{} /o/", url("/")), &[]), ["o/__unnamed__=root"], "upstream's name");
    // A secret for the host opens it, and is nowhere in what is said.
    fails(&format!("{} /o", url("/closed"))).says("HTTP_AUTH_TOKEN_127.0.0.1");
    let dir = tempdir();
    fs::write(dir.path().join("token"), "sesame\n").expect("write");
    let secret = format!("id=HTTP_AUTH_TOKEN_127.0.0.1,src={}", dir.path().join("token").display());
    assert_eq!(add(&format!("{} /o", url("/closed")), &["--secret", &secret]), ["o=open"]);
}

#[test]
fn every_kind_of_context_has_its_ignore_file() {
    let home = Home::new();
    let repositories = Repositories::new();
    let git = repositories.serve();
    let context = sample();
    let archive = packed(context.path(), &["--gzip"]);
    let body = archive.clone();
    let http = Server::start(move |_| Reply::new(200, body.clone()));
    assert_eq!(files(&mut home.build(&context)), SAMPLE, "a directory");
    assert_eq!(files_of(&mut home.build("-"), &archive), SAMPLE, "standard input");
    assert_eq!(files(&mut home.build(&http.url("/x.tgz"))), SAMPLE, "HTTP");
    assert_eq!(files(&mut home.build(&git.url("/app.git"))), repository("main"), "git");
    let copies = Context::new("FROM scratch\nCOPY --from=named . /\n");
    let named = |source: &str| files(home.build(&copies).arg(format!("--build-context=named={source}")));
    assert_eq!(named(&context.path().display().to_string()), SAMPLE, "a named directory");
    assert_eq!(named(&http.url("/x.tgz")), SAMPLE, "named, over HTTP");
    assert_eq!(named(&git.url("/app.git")), repository("main"), "named, of git");
}

#[test]
fn named_contexts() {
    let home = Home::new();
    let repositories = Repositories::new();
    let git = repositories.serve();
    let directory = Context::new("").file("d/f", "from a directory");
    let archive = packed(directory.path(), &["--xz"]);
    let http = Server::start(move |_| Reply::new(200, archive.clone()));
    let image = Context::new("FROM scratch\nCOPY d/f /d/f\nENV FROM=image\n").file("d/f", "from an image");
    run(home.build(&image).args(["-t", "stored:1"])).ok();
    let layout = home.export(&image, &[]);
    let context = Context::new("FROM scratch\nCOPY --from=other d/f /f\n");
    let with = |source: &str| files(home.build(&context).arg(format!("--build-context=other={source}")));
    assert_eq!(with(&directory.path().display().to_string()), ["f=from a directory"]);
    assert_eq!(with(&http.url("/a.tar.xz")), ["f=from a directory"]);
    assert_eq!(with("docker-image://stored:1"), ["f=from an image"]);
    let path = layout.layout.display();
    for rest in ["", ":latest", &format!("@{}", layout.digest), &format!(":latest@{}", layout.digest)] {
        assert_eq!(with(&format!("oci-layout://{path}{rest}")), ["f=from an image"], "oci-layout {rest}");
    }
    let context = Context::new("FROM scratch\nCOPY --from=other /file /f\n");
    let url = git.url("/app.git#v1");
    assert_eq!(files(home.build(&context).arg(format!("--build-context=other={url}"))), ["f=first"]);

    let refused =
        |source: &str| run(home.build(&context).arg(format!("--build-context=other={source}"))).says("other");
    refused("/no/such/directory").code_is(1).says("/no/such/directory");
    refused("oci-layout:///no/such/directory").code_is(1).says("/no/such/directory");
    refused(&format!("oci-layout://{path}:none")).code_is(1).says("none");
    refused("docker-image://127.0.0.1:1/none").code_is(1);
    refused("-").code_is(2).says("standard input");
    refused("ftp://host/x").code_is(2).says("ftp");
    run(home.build(&context).arg("--build-context=other")).code_is(2);
}

#[test]
fn a_named_context_replaces_a_stage_or_an_image() {
    let home = Home::new();
    let directory = Context::new("").file("out", "from the directory\n");
    let replaced = format!("--build-context=tools={}", directory.path().display());
    let dockerfile = "FROM busybox AS tools\nRUN echo from the stage > /out\n\
                      FROM busybox\nCOPY --from=tools /out /copied\nRUN --mount=from=tools,target=/m cat /m/out\n";
    let context = Context::new(dockerfile);
    assert_eq!(home.steps(&context, &[]).named("RUN --mount").log, "from the stage\n");
    let steps = home.steps(&context, &[&replaced]);
    assert_eq!(steps.named("RUN --mount").log, "from the directory\n");
    assert!(!steps.all().iter().any(|step| step.name.contains("from the stage")), "the stage is not built");
    // As the base of another stage, an image with its config, and a directory.
    let image = Context::new("FROM busybox\nENV WHO=replaced\n");
    run(home.build(&image).args(["-t", "replacement"])).ok();
    let base_stage = Context::new("FROM busybox AS base\nENV WHO=stage\nFROM base\nRUN echo $WHO\n");
    let steps = home.steps(&base_stage, &["--build-context=base=docker-image://replacement"]);
    assert_eq!(steps.named("RUN").log, "replaced\n");
    let on_files = Context::new("FROM base\nCOPY f /f\n").file("f", "f");
    let found = files(home.build(&on_files).arg(replaced.replacen("tools", "base", 1)));
    assert!(found.contains(&"out=from the directory".to_owned()) && found.contains(&"f=f".to_owned()));
    // An image, by each of its names.
    let layout = format!("oci-layout://{}", base("busybox").display());
    for (written, given) in [
        ("nothing.invalid/x:1", "nothing.invalid/x:1"),
        ("alpine", "alpine"),
        ("alpine:latest", "alpine"),
        ("docker.io/library/alpine:3", "alpine:3"),
        ("alpine:3", "docker.io/library/alpine:3"),
        ("alpine", "alpine::linux/amd64"),
    ] {
        let context = Context::new(&format!("FROM {written}\nRUN echo built on it\n"));
        let home = Home::new();
        let steps = home.steps(&context, &[&format!("--build-context={given}={layout}")]);
        assert_eq!(steps.named("RUN").log, "built on it\n", "FROM {written}, given {given}");
    }
    let copies = Context::new("FROM scratch\nCOPY --from=nothing.invalid/x:1 /out /out\n");
    let found = files(home.build(&copies).arg(replaced.replacen("tools", "nothing.invalid/x:1", 1)));
    assert_eq!(found, ["out=from the directory"]);
}

#[test]
fn contexts_from_elsewhere_leave_nothing() {
    let home = Home::new();
    let temporary = tempdir();
    let archive = packed(sample().path(), &[]);
    let done: Done = feed(home.build("-").env("TMPDIR", temporary.path()).arg("-q"), &archive).ok();
    assert!(done.stdout.starts_with("sha256:"), "{done}");
    assert_eq!(fs::read_dir(temporary.path()).expect("list").count(), 0, "temporary files");
    let grep = run(tool("grep").args(["-rl", "#!/bin/sh"]).arg(home.path()));
    let in_image = grep.stdout.lines().filter(|line| line.ends_with("run.sh")).count();
    assert!(in_image <= 1, "the context is not kept beside the image's files: {grep}");
    // The times are those of the archive, not of the build.
    let image = Context::new("FROM scratch\nCOPY f /f\n").file("f", "f");
    let file = fs::File::options().append(true).open(image.path().join("f")).expect("open");
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_000)).expect("set a time");
    let out = tempdir();
    let archive = packed(image.path(), &[]);
    feed(home.build("-").arg("-o").arg(out.path().join("out")), &archive).ok();
    assert_eq!(fs::metadata(out.path().join("out/f")).expect("stat").mtime(), 1_600_000_000);
}
