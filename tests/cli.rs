//! The command line: help, progress in every form, what is written beside the image, interruption.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use e2e::{
    Context, Done, Home, Image, Running, Terminal, eventually, json, mounts_with, processes_with, run,
    tempdir, tool,
};
use rustix::process::Signal;

const HELLO: &str =
    "FROM busybox AS build\nCOPY greeting /greeting\nRUN echo loud and clear && cat /greeting\n";

fn hello() -> Context {
    Context::new(HELLO).file("greeting", "good morning\n")
}

#[test]
fn help_teaches() {
    let home = Home::new();
    let top = run(home.builder("--help").env_remove("BUILDER_HOME")).ok().stdout;
    for command in ["build", "images", "run", "du", "prune", "info"] {
        assert!(top.contains(command), "`builder --help` names {command}:\n{top}");
    }
    let build = run(home.builder("build").arg("--help")).ok().stdout;
    let flags = [
        "--tag",
        "--file",
        "--target",
        "--build-arg",
        "--build-context",
        "--no-cache",
        "--no-cache-filter",
        "--pull",
        "--progress",
        "--output",
        "--iidfile",
        "--metadata-file",
        "--quiet",
    ];
    for flag in flags {
        assert!(build.contains(flag), "`builder build --help` names {flag}:\n{build}");
    }
    assert!(top.contains("builder build -t app ."), "help shows examples:\n{top}");
}

#[test]
fn version_names_the_commit() {
    let head =
        run(tool("git").args(["rev-parse", "--short=7", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")))
            .ok();
    let version = run(Home::new().builder("--version").env_remove("BUILDER_HOME")).ok();
    assert!(version.stdout.contains(head.stdout.trim()), "{version}");
}

/// Every flag of `docker buildx build` is either there or refused by its name, never ignored.
#[test]
fn upstream_flags_are_there_or_refused_by_name() {
    let flags = [
        "--add-host=a:127.0.0.1",
        "--allow=network.host",
        "--annotation=a=b",
        "--attest=type=sbom",
        "--builder=x",
        "--cache-from=type=local,src=x",
        "--cache-to=type=local,dest=x",
        "--call=check",
        "--cgroup-parent=x",
        "--check",
        "--label=a=b",
        "--load",
        "--network=none",
        "--no-cache-filter=build",
        "--platform=linux/amd64",
        "--policy=x",
        "--provenance=true",
        "--push",
        "--resource=memory=1g",
        "--sbom=true",
        "--secret=id=x,src=y",
        "--shm-size=1m",
        "--squash",
        "--ssh=default",
        "--ulimit=nofile=1",
    ];
    let home = Home::new();
    let help = run(home.builder("build").arg("--help")).ok().stdout;
    let context = hello();
    for flag in flags {
        let name = flag.split('=').next().unwrap_or(flag);
        if help.contains(name) {
            continue;
        }
        let done = run(home.build(&context).arg(flag)).code_is(2);
        assert!(done.stderr.contains(name), "{name} is refused by name: {done}");
    }
}

#[test]
fn wrong_usage_is_2() {
    let home = Home::new();
    run(home.build(&hello()).arg("--frobnicate")).code_is(2).says("--frobnicate");
    run(&mut home.builder("bild")).code_is(2).says("bild");
    run(&mut home.builder("build")).code_is(2);
    run(home.build(&hello()).arg("--progress=loud")).code_is(2).says("loud");
    run(home.build(&hello()).args(["-o", "type=floppy,dest=x"])).code_is(2).says("floppy");
}

#[test]
fn plain_progress() {
    let home = Home::new();
    let context = hello();
    let first = run(home.build(&context).arg("--progress=plain")).ok();
    let number = step_number(&first, "[3/3] RUN echo loud and clear");
    let lines: Vec<&str> =
        first.stderr.lines().filter(|line| line.starts_with(&format!("#{number} "))).collect();
    let has = |want: &dyn Fn(&str) -> bool| lines.iter().any(|line| want(line));
    assert!(has(&|line| line.ends_with(" loud and clear") && seconds(line)), "a log line: {first}");
    assert!(has(&|line| line.ends_with(" good morning") && seconds(line)), "a log line: {first}");
    assert!(
        has(&|line| line.starts_with(&format!("#{number} DONE ")) && line.ends_with('s')),
        "its end: {first}"
    );
    step_number(&first, "[1/3] FROM busybox");
    step_number(&first, "[internal] load build definition from Dockerfile");

    let second = run(home.build(&context).arg("--progress=plain")).ok();
    for step in ["[2/3] COPY greeting /greeting", "[3/3] RUN echo loud and clear"] {
        let number = step_number(&second, step);
        assert!(second.stderr.contains(&format!("\n#{number} CACHED")), "{step} is CACHED: {second}");
    }
    // Nothing asked for the result: the last line says where it went and what to do about it.
    let last = first.stderr.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains("cache") && last.contains("-t"), "the last line tells of -t: {last:?}");
}

/// `#3 [build 2/3] …` → 3.
#[track_caller]
fn step_number(done: &Done, name: &str) -> u32 {
    let line = done
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix('#')?.split_once(' ').filter(|(_, n)| n.starts_with(name)));
    line.and_then(|(number, _)| number.parse().ok()).unwrap_or_else(|| panic!("no step {name:?} in {done}"))
}

/// `#3 0.312 text`: the second word is a number with a point.
fn seconds(line: &str) -> bool {
    line.split(' ').nth(1).is_some_and(|word| word.contains('.') && word.parse::<f64>().is_ok())
}

#[test]
fn rawjson_progress() {
    let done = run(Home::new().build(&hello()).arg("--progress=rawjson")).ok();
    for line in done.stderr.lines().filter(|line| !line.is_empty()) {
        assert!(line.starts_with('{'), "every line is JSON: {line:?}");
    }
    let steps = done.steps();
    assert_eq!(steps.named("RUN echo loud").log, "loud and clear\ngood morning\n");
    assert!(steps.all().iter().all(|step| step.completed && step.error.is_none()), "{steps:#?}");
}

#[test]
fn quiet_progress() {
    let home = Home::new();
    let context = hello();
    let quiet = run(home.build(&context).arg("--quiet")).ok();
    assert_eq!(quiet.stderr, "", "-q writes nothing but the image's id");
    let id = quiet.stdout.trim();
    assert!(id.len() == 71 && id.starts_with("sha256:"), "an id: {id:?}");
    assert_eq!(run(home.build(&context).arg("-q")).ok().stdout.trim(), id, "the same image, the same id");
    let none = run(home.build(&context).args(["--progress=none", "-t", "app"])).ok();
    assert_eq!(none.stderr, "", "--progress=none writes nothing");
    // A build that fails says so in any mode.
    let broken = Context::new("FROM busybox\nRUN exit 3\n");
    run(home.build(&broken).arg("-q")).code_is(1).says("exit code: 3");
}

#[test]
fn progress_from_the_environment() {
    let done = run(Home::new().build(&hello()).env("BUILDKIT_PROGRESS", "rawjson")).ok();
    assert!(done.stderr.starts_with('{'), "BUILDKIT_PROGRESS is heeded: {done}");
}

#[test]
fn iidfile_and_metadata_file_agree_with_the_image() {
    let home = Home::new();
    let dir = tempdir();
    let (iid, metadata) = (dir.path().join("iid"), dir.path().join("metadata.json"));
    let layout = dir.path().join("layout");
    run(home
        .build(&hello())
        .args(["-t", "app:1"])
        .arg("--iidfile")
        .arg(&iid)
        .arg("--metadata-file")
        .arg(&metadata)
        .arg("-o")
        .arg(format!("type=oci,tar=false,dest={}", layout.display())))
    .ok();
    let image = Image::open(layout, None);
    assert_eq!(
        fs::read_to_string(&iid).expect("the iidfile"),
        image.id(),
        "the iidfile holds the config's digest"
    );
    let metadata = json(&metadata);
    assert_eq!(metadata["containerimage.digest"], image.digest.as_str());
    assert_eq!(metadata["containerimage.config.digest"], image.id());
    assert_eq!(metadata["containerimage.descriptor"]["digest"], image.digest.as_str());
    // By its name there the build is found in the history.
    let build = metadata["buildx.build.ref"].as_str().expect("a name of the build");
    run(home.builder("history").args(["inspect", build])).ok();
    assert!(metadata["image.name"].as_str().is_some_and(|name| name.ends_with("app:1")), "{metadata:#}");
}

#[test]
fn tagged_images_are_listed_and_run() {
    let home = Home::new();
    let context =
        Context::new("FROM busybox\nENV WHO=world\nENTRYPOINT [\"sh\", \"-c\"]\nCMD [\"echo hello $WHO\"]\n");
    run(home.build(&context).args(["-t", "greet:2", "-t", "greet:latest"])).ok();
    let images = run(&mut home.builder("images")).ok().stdout;
    assert!(images.contains("greet") && images.contains('2') && images.contains("latest"), "{images}");
    assert_eq!(run(home.builder("run").arg("greet")).ok().stdout, "hello world\n");
    assert_eq!(run(home.builder("run").args(["greet:2", "echo $WHO | tr a-z A-Z"])).ok().stdout, "WORLD\n");
    run(home.builder("run").args(["greet", "exit 7"])).code_is(7);
    run(home.builder("run").args(["greet", "exec /nothing-here"])).code_is(127);
    run(home.builder("run").arg("no-such-image")).code_is(125).says("no-such-image");
    let bare = Context::new("FROM busybox\nRUN touch /plain\n");
    run(home.build(&bare).args(["-t", "bare"])).ok();
    run(home.builder("run").args(["bare", "/nothing-here"])).code_is(127).says("/nothing-here");
    run(home.builder("run").args(["bare", "/plain"])).code_is(126).says("/plain");
    // What a run writes stays in its own container.
    run(home.builder("run").args(["bare", "touch", "/new"])).ok();
    run(home.builder("run").args(["bare", "ls", "/new"])).code_is(1);
}

#[test]
fn an_image_built_before_is_a_base() {
    let home = Home::new();
    run(home.build(&Context::new("FROM busybox\nRUN echo parent > /p\nENV P=1\n")).args(["-t", "parent"]))
        .ok();
    let child = Context::new("FROM parent\nRUN cat /p && echo \"P is $P\"\n");
    assert_eq!(home.steps(&child, &[]).named("RUN cat").log, "parent\nP is 1\n");
}

#[test]
fn du_and_prune() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN dd if=/dev/urandom of=/big bs=1M count=4 2>/dev/null\n");
    home.steps(&context, &[]);
    let du = run(&mut home.builder("du")).ok().stdout;
    assert!(du.to_lowercase().contains("total"), "a sum: {du}");
    let before = size(&home.path());
    assert!(before > 4 << 20, "the store holds the layer: {before} bytes");
    run(home.builder("prune").args(["--all", "--force"])).ok();
    let after = size(&home.path());
    assert!(after < 1 << 20, "the store is empty: {after} bytes");
    assert_eq!(home.steps(&context, &[]).executed().len(), 1, "after a prune the step runs again");
}

/// The bytes of all files below a directory.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("list the store").flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn info_tells_about_the_machine() {
    let info = run(&mut Home::new().builder("info")).ok().stdout.to_lowercase();
    for word in ["kernel", "overlay", "user namespaces", "cgroup", "network", "state"] {
        assert!(info.contains(word), "`builder info` tells of {word}:\n{info}");
    }
}

/// Ctrl-C in a RUN that ignores it, with a child of its own: everything is gone at once.
#[test]
fn interruption_leaves_nothing() {
    let home = Home::new();
    let temporary = tempdir();
    let marker = format!("86{}", std::process::id());
    let context = Context::new(&format!(
        "FROM busybox\nRUN trap '' INT TERM HUP; (trap '' INT TERM; sleep {marker}) & echo ready; sleep {marker}\n"
    ));
    let log = temporary.path().join("log");
    let mut build = Running::start(
        home.build(&context)
            .arg("--progress=plain")
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log")),
    );
    eventually(Duration::from_secs(60), "the step to run", || {
        processes_with(&format!("sleep {marker}")).len() >= 2
    });
    build.signal(Signal::INT);
    let status = build.wait(Duration::from_secs(5));
    let text = fs::read_to_string(&log).expect("the log");
    assert!(
        status.code() == Some(130) || status.code() == Some(1) || status.signal() == Some(2),
        "{status}: {text}"
    );
    assert!(!text.contains("panicked"), "{text}");
    eventually(Duration::from_secs(2), "all processes to be gone", || {
        processes_with(&format!("sleep {marker}")).is_empty()
    });
    let state = home.path().display().to_string();
    assert_eq!(processes_with(&format!("BUILDER_HOME={state}")), [""; 0], "processes left");
    assert_eq!(mounts_with(&state), [""; 0], "mounts left");
    fs::remove_file(&log).expect("remove the log");
    let left: Vec<_> =
        fs::read_dir(temporary.path()).expect("list TMPDIR").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "temporary files left: {left:?}");
    // And the store is as good as before.
    let after = Context::new("FROM busybox\nRUN echo fine\n");
    assert_eq!(home.steps(&after, &[]).named("RUN").log, "fine\n");
}

/// A step whose output nobody takes is waiting, and ends all the same when the build is interrupted.
#[test]
fn interruption_reaches_a_step_whose_output_is_stuck() {
    let home = Home::new();
    let marker = format!("89{}", std::process::id());
    let context = Context::new(&format!("FROM busybox\nRUN yes {marker}\n"));
    let mut build = Running::start(
        home.build(&context)
            .args(["--progress=plain", "--log-size=-1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped()),
    );
    let stderr = build.0.stderr.take().expect("just asked for");
    eventually(Duration::from_secs(60), "the step to be stuck", || {
        // State and times of the program itself: the words behind the name.
        let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let pid = build.0.id().to_string();
        let before = stat(&pid);
        std::thread::sleep(Duration::from_millis(300));
        !processes_with(&format!("yes {marker}")).is_empty() && before == stat(&pid)
    });
    build.signal(Signal::TERM);
    eventually(Duration::from_secs(5), "the step to be gone", || {
        processes_with(&format!("yes {marker}")).is_empty()
    });
    // Now somebody reads.
    let said = std::io::read_to_string(stderr).expect("read");
    assert_eq!(build.wait(Duration::from_secs(5)).code(), Some(130), "{}", &said[..said.len().min(2000)]);
}

/// As [`interruption_leaves_nothing`], with a signal that cannot be handled.
#[test]
fn a_killed_build_leaves_no_process() {
    let home = Home::new();
    let marker = format!("87{}", std::process::id());
    let context = Context::new(&format!("FROM busybox\nRUN sleep {marker} & sleep {marker}\n"));
    let mut build =
        Running::start(home.build(&context).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    eventually(Duration::from_secs(60), "the step to run", || {
        processes_with(&format!("sleep {marker}")).len() >= 2
    });
    build.signal(Signal::KILL);
    build.wait(Duration::from_secs(5));
    eventually(Duration::from_secs(5), "all processes to be gone", || {
        processes_with(&format!("sleep {marker}")).is_empty()
    });
    // Nobody waits for the sandbox to be taken down: its last process may still be on its way out.
    let state = home.path().display().to_string();
    eventually(Duration::from_secs(5), "all mounts to be gone", || mounts_with(&state).is_empty());
    let after = Context::new("FROM busybox\nRUN echo fine\n");
    assert_eq!(home.steps(&after, &[]).named("RUN").log, "fine\n");
}

/// What a step leaves in the background ends with the step.
#[test]
fn no_process_outlives_its_step() {
    let marker = format!("88{}", std::process::id());
    let context = Context::new(&format!(
        "FROM busybox\nRUN setsid sleep {marker} </dev/null >/dev/null 2>&1 &\nRUN ps\n"
    ));
    let steps = Home::new().steps(&context, &[]);
    assert!(!steps.named("RUN ps").log.contains(&marker), "seen by the next step");
    assert_eq!(processes_with(&format!("sleep {marker}")), [""; 0], "left after the build");
}

#[test]
fn terminal_60_columns() {
    terminal(60);
}

#[test]
fn terminal_200_columns() {
    terminal(200);
}

/// Runs a build in a real terminal and looks at what a person would see, while it runs and afterwards. Its first step prints until its
/// output was seen.
fn terminal(columns: usize) {
    let home = Home::new();
    let long = "a_line_that_is_much_longer_than_the_terminal_is_wide_".repeat(6);
    let context = Context::new(&format!(
        "FROM busybox AS first\nRUN --mount=type=cache,target=/gate for i in $(seq 600); do echo $i {long}; sleep 0.2; test -e /gate/open && break; done\n\
         FROM busybox AS second\nRUN printf 'tab\\there \\033[31mred\\033[0m \\r100%%\\n'; sleep 1\n\
         FROM busybox\nCOPY --from=first /etc/passwd /1\nCOPY --from=second /etc/passwd /2\n"
    ));
    let dir = tempdir();
    let raw = dir.path().join("raw");
    let script = dir.path().join("script");
    let build = home.build(&context);
    let words: Vec<String> = std::iter::once(build.get_program())
        .chain(build.get_args())
        .map(|w| format!("'{}'", w.to_string_lossy()))
        .collect();
    // Nothing starts before the recording does.
    let text = format!("read _\n{}\necho \"status=$?\"\nread _\n", words.join(" "));
    fs::write(&script, text).expect("a script");
    let script = script.to_str().expect("UTF-8");
    let terminal = Terminal::start(columns, 24, &home.path(), &["sh", script]);
    run(&mut terminal.tmux(&["pipe-pane", &format!("cat > '{}'", raw.display())])).ok();
    terminal.keys(&["Enter"]);

    let screen = || run(&mut terminal.tmux(&["capture-pane", "-p", "-J", "-S", "-"])).ok().stdout;
    let mut frames = Vec::new();
    let (mut shown, mut opened) = (0, false);
    eventually(Duration::from_secs(60), "the build to end", || {
        let frame = screen();
        shown += usize::from(frame.contains("=> => #"));
        frames.push(frame);
        if shown > 5 && !opened {
            let key = Context::new("FROM busybox\nRUN --mount=type=cache,target=/gate touch /gate/open\n");
            run(&mut home.build(&key)).ok();
            opened = true;
        }
        frames.last().is_some_and(|frame| frame.contains("status="))
    });
    let last = frames.last().expect("at least one").clone();
    assert!(last.contains("status=0"), "{last}");
    for frame in &frames {
        // -J joins a line that the terminal had to wrap: such a line would be longer than the terminal is wide.
        // What is said after the build may be wrapped as any text.
        let mut view = frame.lines().filter(|line| line.starts_with("[+]") || line.starts_with(" =>"));
        let wrapped = view.find(|line| line.trim_end().chars().count() > columns);
        assert_eq!(wrapped, None, "a wrapped line");
        let headers = frame.lines().filter(|line| line.starts_with("[+] Building")).count();
        assert!(headers <= 1, "an earlier picture was left behind:\n{frame}");
    }
    assert!(
        frames.iter().any(|frame| frame.contains("=> => #")),
        "the output of a running step is shown:\n{last}"
    );
    assert!(last.contains("FINISHED"), "{last}");
    assert!(!last.contains("=> => #"), "the output of finished steps is left behind:\n{last}");
    assert!(last.contains("[first 2/2] RUN") && last.contains("[second 2/2] RUN"), "{last}");
    let bytes = fs::read(&raw).expect("the recording");
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        !text.contains("\u{1b}[2J") && !text.contains("\u{1b}c"),
        "the screen is never cleared: it would flicker"
    );
    if text.contains("\u{1b}[?25l") {
        assert!(text.rfind("\u{1b}[?25h") > text.rfind("\u{1b}[?25l"), "the cursor comes back");
    }
}
