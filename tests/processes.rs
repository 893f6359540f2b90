//! Many processes on one state directory: equal steps run once, nobody waits for the dead, and what watches a step changes nothing.
//!
//! How often a step really ran is counted in a cache mount: it is in no key and in no layer.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::{Context, Home, Running, Tree, eventually, need_root, run, tempdir, tool};
use rustix::process::Signal;

/// So many builds at a time.
const PROCESSES: usize = 16;

/// A RUN that notes that it ran before it does what it does.
fn counted(name: &str, command: &str) -> String {
    format!("RUN --mount=type=cache,id=count,target=/count echo {name} >> /count/log && {command}\n")
}

/// How often each step ran.
fn counts(home: &Home) -> Vec<(String, usize)> {
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=cache,id=count,target=/count mkdir /out && sort /count/log | uniq -c > /out/log\n",
    );
    let dir = tempdir();
    // Never asked before in this state directory. With --no-cache it would get a mount of its own.
    run(home.build(&context).arg("-o").arg(dir.path())).ok();
    let text = fs::read_to_string(dir.path().join("out/log")).expect("the counts");
    let count = |line: &str| {
        let (count, name) = line.trim().split_once(' ').expect("a count and a name");
        (name.to_owned(), count.parse().expect("a number"))
    };
    text.lines().map(count).collect()
}

fn once(names: &[&str]) -> Vec<(String, usize)> {
    names.iter().map(|name| ((*name).to_owned(), 1)).collect()
}

/// Runs them all at once, to their ends.
#[track_caller]
fn at_once(builds: Vec<Command>) {
    let start = |mut build: Command| {
        build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        build.spawn().expect("start a build")
    };
    let children: Vec<Child> = builds.into_iter().map(start).collect();
    let ended: Vec<_> = children.into_iter().map(|child| child.wait_with_output().expect("wait")).collect();
    for output in ended {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn layered() -> Context {
    let text = format!(
        "FROM busybox AS left\nCOPY a /\n{}{}FROM busybox AS right\n{}FROM left\nCOPY --from=right /r /\n{}",
        counted("left1", "sleep 0.2; cat /a > /l1"),
        counted("left2", "cat /l1 > /l2"),
        counted("right", "sleep 0.3; echo right > /r"),
        counted("last", "cat /l2 /r > /all"),
    );
    Context::new(&text).file("a", "a\n")
}

#[test]
fn sixteen_builds_of_one_dockerfile_run_each_step_once() {
    let home = Home::new();
    let context = layered();
    let trees = tempdir();
    let builds = (0..PROCESSES).map(|number| {
        let mut build = home.build(&context);
        let output = format!("type=tar,dest={}", trees.path().join(number.to_string()).display());
        build.args(["-o", &output]);
        build
    });
    at_once(builds.collect());
    assert_eq!(counts(&home), once(&["last", "left1", "left2", "right"]));
    let tree = |number: usize| {
        Tree::from_tar(&fs::read(trees.path().join(number.to_string())).expect("read a tree"))
    };
    let first = tree(0);
    (1..PROCESSES).for_each(|number| tree(number).same(&first, "another build's tree"));
}

#[test]
fn sixteen_builds_of_four_dockerfiles_share_what_they_have_in_common() {
    let home = Home::new();
    let contexts: Vec<Context> = (0..4)
        .map(|own| {
            let text = format!(
                "FROM busybox\n{}COPY a /\n{}{}",
                counted("common1", "sleep 0.2; echo 1 > /1"),
                counted("common2", "cat /a > /2"),
                counted(&format!("own{own}"), &format!("echo {own} > /own"))
            );
            Context::new(&text).file("a", "a\n")
        })
        .collect();
    at_once((0..PROCESSES).map(|number| home.build(&contexts[number % 4])).collect());
    assert_eq!(counts(&home), once(&["common1", "common2", "own0", "own1", "own2", "own3"]));
}

/// What an older program has left: the first tables only.
#[test]
fn a_state_directory_of_an_older_program() {
    let home = Home::new();
    let context = layered();
    run(&mut home.build(&context)).ok();
    let older = "import sqlite3,sys\ndb = sqlite3.connect(sys.argv[1])\n\
                 db.execute('DROP TRIGGER base_gone')\n\
                 for table in ['kept', 'downloads', 'steps', 'chunks', 'versions', 'sums', 'record_origins', 'holdings']: db.execute('DROP TABLE ' + table)\ndb.commit()";
    run(tool("python3").args(["-c", older]).arg(home.path().join("cache-v1.db"))).ok();
    at_once((0..PROCESSES).map(|_| home.build(&context)).collect());
    assert_eq!(counts(&home), once(&["last", "left1", "left2", "right"]));
}

/// What the first program really left, see `testdata/state`: it is used by many at once, loses nothing, and can be made smaller.
#[test]
fn a_state_directory_of_the_first_program() {
    // Its layers have the marks of root's overlays.
    need_root();
    let home = Home::new();
    fs::create_dir(home.path()).expect("make a directory");
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/state/version-1.tar.gz");
    run(tool("tar").arg("-xzf").arg(archive).arg("-C").arg(home.path())).ok();
    let context = layered();
    at_once((0..PROCESSES).map(|_| home.build(&context)).collect());
    assert_eq!(counts(&home), once(&["last", "left1", "left2", "right"]));
    let images = run(&mut home.builder("images")).ok().stdout;
    assert!(images.lines().any(|line| line.starts_with("old ")), "{images}");
    let files = home.path().join("../old.tar");
    run(home.builder("export").args(["old:1", "-o"]).arg(&files)).ok();
    let tree = Tree::from_tar(&fs::read(&files).expect("read a tree"));
    assert_eq!(tree.0.keys().collect::<Vec<_>>(), ["c", "d"]);
    run(&mut home.builder("fsck")).ok();
    let listed = |filter: &str| {
        run(home.builder("du").args(["--format=json", "--filter", filter])).ok().stdout.lines().count()
    };
    assert_eq!(listed("description=COPY b"), 2);
    run(home.builder("prune").args(["--filter", "description=COPY b"])).ok();
    assert_eq!((listed("description=COPY b"), listed("description=COPY a")), (0, 2));
    run(home.build(&context).arg("--progress=rawjson")).ok().steps().all_cached();
    run(home.builder("prune").args(["--all", "--force"])).ok();
    assert_eq!(listed("shared=false") + listed("shared"), 0);
    run(&mut home.builder("fsck")).ok();
}

/// Waits for a line of a process's stderr that holds a text; passes on what comes later to nobody.
fn wait_for(child: &mut Running, text: &str) {
    let stderr = child.0.stderr.take().expect("a pipe");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let end = Instant::now() + Duration::from_secs(120);
    let mut seen = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left) {
            Ok(line) if line.contains(text) => return,
            Ok(line) => seen.push(line),
            Err(_) => panic!("no line with {text:?} in {seen:#?}"),
        }
    }
}

/// The first to run it takes longer than anybody waits here, the next no time.
const SLOW_ONCE: &str = "FROM busybox
RUN --mount=type=cache,id=once,target=/once echo began; [ -e /once/x ] || { touch /once/x; sleep 6000; }
";

fn piped(build: &mut Command) -> Running {
    Running::start(
        build.arg("--progress=plain").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()),
    )
}

#[test]
fn a_killed_process_blocks_nobody() {
    let home = Home::new();
    let context = Context::new(SLOW_ONCE);
    let mut first = piped(&mut home.build(&context));
    wait_for(&mut first, "began");
    let mut others: Vec<Running> = (0..3).map(|_| piped(&mut home.build(&context))).collect();
    std::thread::sleep(Duration::from_millis(300));
    assert!(others.iter_mut().all(|other| other.0.try_wait().expect("wait").is_none()), "they wait");
    first.signal(Signal::KILL);
    for other in &mut others {
        assert!(other.wait(Duration::from_secs(20)).success());
    }
}

#[test]
fn whoever_waits_for_a_stopped_process_says_so() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN echo began; sleep 1; echo x > /x\n");
    let mut first = piped(&mut home.build(&context));
    wait_for(&mut first, "began");
    first.signal(Signal::STOP);
    let mut second = piped(&mut home.build(&context));
    wait_for(&mut second, "waiting for another build that executes this step");
    // Readers do not wait, which would be for as long as the other is stopped.
    run(home.builder("history").arg("ls")).ok();
    run(home.builder("du").arg("--format=json")).ok();
    first.signal(Signal::CONT);
    assert!(first.wait(Duration::from_secs(20)).success());
    assert!(second.wait(Duration::from_secs(20)).success());
}

/// Whoever looks at a step's mounts keeps its mount namespace alive for a moment; that must not show in the layer.
#[test]
fn an_onlooker_changes_nothing() {
    need_root();
    let home = Home::new();
    // A program of its own name, so that it is not that of another test.
    let sleeps = format!("3.375{}", std::process::id());
    let context = Context::new(&format!("FROM busybox\nRUN sleep {sleeps}\n"));
    let command = format!("sleep\0{sleeps}\0");
    let is_over = AtomicBool::new(false);
    let own = fs::metadata("/proc/self/ns/mnt").expect("the own namespace").ino();
    let tree = std::thread::scope(|scope| {
        let onlooker = scope.spawn(|| {
            let mut held = Vec::new();
            while !is_over.load(Ordering::Relaxed) && held.is_empty() {
                for entry in fs::read_dir("/proc").expect("list processes").filter_map(Result::ok) {
                    let path = entry.path();
                    let line = fs::read(path.join("cmdline")).unwrap_or_default();
                    if line == command.as_bytes()
                        && let Ok(namespace) = fs::File::open(path.join("ns/mnt"))
                        && namespace.metadata().is_ok_and(|namespace| namespace.ino() != own)
                    {
                        held.push(namespace);
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            eventually(Duration::from_secs(60), "the build to end", || is_over.load(Ordering::Relaxed));
            held.len()
        });
        let image = home.export(&context, &[]);
        is_over.store(true, Ordering::Relaxed);
        assert!(onlooker.join().expect("no panic") > 0, "it held the namespace");
        Tree::from_tar(image.layers().last().expect("a layer"))
    });
    assert!(tree.0.is_empty(), "the step changed nothing: {tree:?}");
}
