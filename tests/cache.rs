//! What a second build does, and what it does not do.

use std::collections::BTreeSet;
use std::fs;
use std::thread::{sleep, spawn};
use std::time::Duration;

use e2e::{Context, Home, Steps, run, tempdir, tool};

const TWO_STAGES: &str = "\
FROM busybox AS left
COPY left.txt /in
RUN tr a-z A-Z < /in > /out
FROM busybox AS right
WORKDIR /work
COPY right.txt .
RUN rev right.txt > out
FROM busybox
COPY --from=left /out /left
COPY --from=right /work/out /right
RUN cat /left /right > /both
";

fn two_stages() -> Context {
    Context::new(TWO_STAGES).file("left.txt", "left\n").file("right.txt", "right\n")
}

#[test]
fn the_second_build_is_all_cached() {
    let home = Home::new();
    let context = two_stages();
    let first = home.steps(&context, &[]);
    assert_eq!(first.cached(), [""; 0]);
    assert_eq!(first.executed().len(), 8, "{first:#?}");
    home.steps(&context, &[]).all_cached();
    // Another folder with the same content is the same input.
    home.steps(&two_stages(), &[]).all_cached();
}

/// Not only does the second build say CACHED: it starts no process, mounts nothing and reads no file of the context
/// but the Dockerfile and `.dockerignore`.
#[test]
fn the_second_build_executes_mounts_and_reads_nothing() {
    e2e::need_root();
    let home = Home::new();
    let context = two_stages();
    // A file that has just changed is read again for two seconds, in case it changes within the clock's resolution.
    sleep(Duration::from_millis(2_500));
    home.steps(&context, &[]);
    let dir = tempdir();
    let trace = dir.path().join("trace");
    let build = home.build(&context);
    let calls = "trace=execve,execveat,mount,fsmount,move_mount,open_tree,open,openat,openat2";
    let mut strace = tool("strace");
    strace.args(["-f", "-qq", "-e", calls, "-o"]).arg(&trace).arg(build.get_program()).args(build.get_args());
    strace.env("BUILDER_HOME", home.path());
    run(&mut strace).ok();
    let text = fs::read_to_string(&trace).expect("the trace");
    let lines = |call: &str| -> Vec<&str> {
        text.lines().filter(|line| line.contains(&format!(" {call}(")) && !line.contains(" = -1 ")).collect()
    };
    assert!(lines("openat").len() > 3, "the trace holds something:\n{text}");
    // The first is the binary's own start.
    assert!(lines("execve").len() + lines("execveat").len() <= 1, "{:#?}", lines("execve"));
    for call in ["mount", "fsmount", "move_mount", "open_tree"] {
        assert_eq!(lines(call), [""; 0], "the second build mounts");
    }
    let read: Vec<&str> =
        text.lines().filter(|line| line.contains("left.txt") || line.contains("right.txt")).collect();
    assert_eq!(read, [""; 0], "the second build opens unchanged files");
}

/// What is named again as it was is there already, on the disk too: nobody waits for it, nor for what other programs have not written yet.
#[test]
fn an_image_that_is_there_is_not_waited_for() {
    e2e::need_root();
    let home = Home::new();
    let context = two_stages();
    let waits = |arguments: &[&str]| {
        let dir = tempdir();
        let trace = dir.path().join("trace");
        let mut build = home.build(&context);
        build.args(arguments);
        let mut strace = tool("strace");
        strace.args(["-f", "-qq", "-e", "trace=syncfs,sync,fsync,fdatasync", "-o"]).arg(&trace);
        strace.arg(build.get_program()).args(build.get_args()).env("BUILDER_HOME", home.path());
        run(&mut strace).ok();
        let text = fs::read_to_string(&trace).expect("the trace");
        text.lines().filter(|line| line.contains("sync(") || line.contains("syncfs(")).count()
    };
    for arguments in [&["-t", "app"][..], &["-t", "further"], &["-q"]] {
        assert!(waits(arguments) > 0, "a new name is {arguments:?}");
        assert_eq!(waits(arguments), 0, "the name was there {arguments:?}");
    }
}

#[test]
fn a_changed_file_reruns_exactly_its_dependents() {
    let home = Home::new();
    let context = two_stages();
    home.steps(&context, &[]);
    context.write("right.txt", "new\n");
    let steps = home.steps(&context, &[]);
    let executed = [
        "COPY right.txt .",
        "RUN rev right.txt > out",
        "COPY --from=right /work/out /right",
        "RUN cat /left /right > /both",
    ];
    assert_eq!(sorted(steps.executed()), sorted(executed.to_vec()));
    assert_eq!(steps.cached().len(), 4, "{steps:#?}");
    home.steps(&context, &[]).all_cached();
    // And back: the old results are still there.
    context.write("right.txt", "right\n");
    home.steps(&context, &[]).all_cached();
}

fn sorted(mut list: Vec<&str>) -> Vec<&str> {
    list.sort_unstable();
    list
}

#[test]
fn the_new_content_arrives() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nCOPY f /f\nRUN cat /f\n").file("f", "one\n");
    assert_eq!(home.steps(&context, &[]).named("RUN").log, "one\n");
    // The same size within the same clock tick: only reading can tell.
    context.write("f", "two\n");
    assert_eq!(home.steps(&context, &[]).named("RUN").log, "two\n");
}

#[test]
fn a_new_time_changes_nothing_a_new_mode_does() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nCOPY f /f\nRUN ls -l /f\n").file("f", "text\n");
    context.chmod("f", 0o644);
    home.steps(&context, &[]);
    let file = fs::File::options().append(true).open(context.path().join("f")).expect("open");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("set a time");
    home.steps(&context, &[]).all_cached();
    context.chmod("f", 0o755);
    assert_eq!(home.steps(&context, &[]).executed().len(), 2);
}

#[test]
fn a_rename_is_a_change() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nCOPY d/ /d/\nRUN ls /d\n").file("d/a", "same\n");
    assert_eq!(home.steps(&context, &[]).named("RUN").log, "a\n");
    fs::rename(context.path().join("d/a"), context.path().join("d/b")).expect("rename");
    assert_eq!(home.steps(&context, &[]).named("RUN").log, "b\n");
}

#[test]
fn an_ignored_file_changes_nothing() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nCOPY . /src\nRUN ls -A /src\n")
        .file(".dockerignore", "*.log\n.git\n!keep.log\n")
        .file("keep.log", "kept\n")
        .file("debug.log", "one\n")
        .file(".git/HEAD", "ref\n");
    assert_eq!(home.steps(&context, &[]).named("RUN").log, ".dockerignore\nDockerfile\nkeep.log\n");
    context.write("debug.log", "two\n");
    context.write(".git/HEAD", "other\n");
    home.steps(&context, &[]).all_cached();
}

/// A step that runs again and gives what it gave before lets everything after it be found.
#[test]
fn the_same_result_of_a_changed_input_stops_the_change() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox AS count\nCOPY text /text\nRUN wc -l < /text > /lines\nFROM busybox\nCOPY --from=count /lines /lines\nRUN cat /lines\n",
    )
    .file("text", "a\nb\n");
    home.steps(&context, &[]);
    context.write("text", "c\nd\n");
    let steps = home.steps(&context, &[]);
    assert_eq!(sorted(steps.executed()), ["COPY text /text", "RUN wc -l < /text > /lines"]);
}

#[test]
fn lists_of_packages_that_bring_nothing_new_rerun_nothing() {
    let home = Home::new();
    let package = |name: &str| {
        format!(
            "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: n\nFilename: ./{name}.deb\nSize: 1\n\n"
        )
    };
    let context = Context::new(
        "FROM debian AS lists\n\
         RUN --mount=type=bind,source=repo,target=/repo echo 'deb [trusted=yes] copy:/repo ./' > /etc/apt/sources.list \\\n\
          && apt-get update -qq -o Dir::Etc::SourceParts=/none\n\
         FROM lists\n\
         RUN apt-cache pkgnames | sort > /names && cat /names\n",
    )
    .file("repo/Packages", package("one"));
    assert!(home.steps(&context, &[]).named("RUN apt-cache").log.contains("one\n"));
    let updated = |steps: &Steps| steps.executed().iter().any(|step| step.contains("apt-get update"));
    let steps = home.steps(&context, &["--no-cache-filter=lists"]);
    assert!(updated(&steps) && steps.cached().contains(&steps.named("RUN apt-cache").text()), "{steps:#?}");
    // And when there is something new, it arrives.
    context.write("repo/Packages", package("one") + &package("two"));
    let steps = home.steps(&context, &["--no-cache-filter=lists"]);
    assert!(updated(&steps) && steps.named("RUN apt-cache").log.contains("two\n"), "{steps:#?}");
}

#[test]
fn no_cache_gives_what_a_clean_build_gives() {
    let home = Home::new();
    let context = two_stages();
    let epoch = |home: &Home, arguments: &[&str]| {
        let done = run(home.build(&context).env("SOURCE_DATE_EPOCH", "0").arg("-q").args(arguments)).ok();
        done.stdout.trim().to_owned()
    };
    let first = epoch(&home, &[]);
    let steps = home.steps(&context, &["--no-cache"]);
    assert_eq!(steps.cached(), [""; 0], "{steps:#?}");
    assert_eq!(epoch(&home, &["--no-cache"]), first);
    assert_eq!(epoch(&Home::new(), &[]), first);
}

/// What is elsewhere is one thing, then another, and then the first again: what stands on it is of the same time.
#[test]
fn what_no_cache_superseded_does_not_come_back() {
    let (home, dir) = (Home::new(), tempdir());
    let secret = dir.path().join("version");
    let context = Context::new(
        "FROM busybox AS got\nRUN --mount=type=secret,id=v cat /run/secrets/v > /version\n\
         FROM got AS made\nRUN echo \"of $(cat /version)\" > /program\n\
         FROM scratch\nCOPY --from=got /version /\nCOPY --from=made /program /\n",
    );
    let build = |version: &str, arguments: &[&str]| {
        fs::write(&secret, version).expect("write");
        let mut build = home.build(&context);
        build.arg(format!("--secret=id=v,src={}", secret.display())).args(arguments);
        run(&mut build).ok();
    };
    let out = dir.path().join("out");
    let output = format!("--output=type=local,dest={}", out.display());
    let read = |name: &str| fs::read_to_string(out.join(name)).expect("read");
    build("1.0", &["--target=made"]);
    build("1.1", &["--target=made", "--no-cache-filter=got"]);
    build("1.0", &["--target=made", "--no-cache-filter=got"]);
    build("2.0", &[&output]);
    assert_eq!((read("version"), read("program")), ("1.0".to_owned(), "of 1.0\n".to_owned()));
    // Nor when what took its place is lost.
    let layers = || -> BTreeSet<u64> {
        let names = fs::read_dir(home.path().join("snapshots-v1")).expect("the layers").flatten();
        names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    };
    let before = layers();
    build("2.0", &["--target=got", "--no-cache-filter=got"]);
    for lost in layers().difference(&before) {
        fs::remove_dir_all(home.path().join(format!("snapshots-v1/{lost}"))).expect("lose it");
    }
    build("3.0", &["--target=got", &output]);
    assert_eq!(read("version"), "3.0");
}

#[test]
fn no_cache_filter_is_for_the_named_stages() {
    let home = Home::new();
    let context = two_stages();
    home.steps(&context, &[]);
    let steps = home.steps(&context, &["--no-cache-filter=left"]);
    // `left` gives what it gave before, so that nothing after it need run.
    assert_eq!(sorted(steps.executed()), ["COPY left.txt /in", "RUN tr a-z A-Z < /in > /out"], "{steps:#?}");
}

#[test]
fn build_arguments_count_where_they_are_declared() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN echo before\nARG A=1\nRUN echo $A\nRUN echo unused\n");
    home.steps(&context, &[]);
    let steps = home.steps(&context, &["--build-arg", "A=2"]);
    // The last one does not mention it, but its process may read it.
    assert_eq!(steps.executed(), ["RUN echo 2", "RUN echo unused"]);
    assert_eq!(steps.named("RUN echo 2").log, "2\n");
    home.steps(&context, &["--build-arg", "NOT_DECLARED=3"]).all_cached();
    home.steps(&context, &["--build-arg", "HTTP_PROXY=http://127.0.0.1:9"]).all_cached();
}

#[test]
fn labels_names_and_comments_are_not_part_of_a_step() {
    let home = Home::new();
    home.steps(&Context::new("FROM busybox AS a\nRUN echo hi > /x\n"), &[]);
    let same = Context::new("# A comment\n\nFROM busybox AS b\nLABEL x=y\nRUN echo hi > /x\nEXPOSE 80\n");
    home.steps(&same, &[]).all_cached();
}

/// None of them ends before all have begun: one after the other, the first would wait in vain.
#[test]
fn independent_stages_run_side_by_side() {
    let stage = |name: &str| {
        format!(
            "FROM busybox AS {name}\nRUN --mount=type=cache,target=/meet touch /meet/{name}; for i in $(seq 300); do \
             test $(ls /meet | wc -l) = 3 && break; sleep 0.1; done; test $(ls /meet | wc -l) = 3 && echo {name} > /{name}\n"
        )
    };
    let dockerfile = format!(
        "{}{}{}FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\nCOPY --from=c /c /\nRUN cat /a /b /c\n",
        stage("a"),
        stage("b"),
        stage("c")
    );
    let done = run(Home::new().build(&Context::new(&dockerfile)).arg("--progress=rawjson")).ok();
    assert_eq!(done.steps().named("RUN cat").log, "a\nb\nc\n");
}

#[test]
fn stages_that_nothing_needs_are_never_touched() {
    let context = Context::new(
        "FROM unknown.invalid/never/pulled AS unused\nCOPY not-there /\nRUN exit 1\n\
         FROM busybox AS wanted\nRUN echo wanted\nFROM wanted AS later\nRUN exit 2\n",
    );
    let steps = Home::new().steps(&context, &["--target=wanted"]);
    assert_eq!(steps.executed(), ["RUN echo wanted"]);
    let named: Vec<_> = steps.all().iter().filter(|step| step.name.contains("unknown.invalid")).collect();
    assert!(named.is_empty(), "{named:#?}");
}

/// Two builds of the same at the same time share their work: what both need is executed once.
#[test]
fn concurrent_builds_share_their_work() {
    let home = std::sync::Arc::new(Home::new());
    let context = std::sync::Arc::new(Context::new(
        "FROM busybox\nRUN sleep 2; cat /proc/sys/kernel/random/uuid > /id\nRUN cat /id\n",
    ));
    let build = || {
        let (home, context) = (home.clone(), context.clone());
        spawn(move || home.steps(context.path(), &[]))
    };
    let (one, two) = (build(), build());
    let both = [one.join().expect("the first build"), two.join().expect("the second build")];
    let executed =
        both.iter().flat_map(|steps| steps.executed()).filter(|text| text.contains("uuid")).count();
    assert_eq!(executed, 1, "{both:#?}");
}

#[test]
fn a_failed_step_is_not_remembered() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN echo before\nCOPY answer /answer\nRUN grep yes /answer\n")
        .file("answer", "no\n");
    run(&mut home.build(&context)).code_is(1);
    let again = run(home.build(&context).arg("--progress=rawjson")).code_is(1).steps();
    assert_eq!(again.cached(), ["RUN echo before", "COPY answer /answer"]);
    context.write("answer", "yes\n");
    assert_eq!(home.steps(&context, &[]).executed(), ["COPY answer /answer", "RUN grep yes /answer"]);
}
