//! What goes wrong, what is said about it, and the exit code: 1 the build failed, 2 wrong usage, 3 the machine lacks
//! something.

use std::path::Path;
use std::process::Command;

use e2e::{Context, Done, Home, User, base, binary, feed, need_root, run, tempdir, tool};

fn fails(dockerfile: &str) -> Done {
    run(&mut Home::new().build(&Context::new(dockerfile))).code_is(1)
}

#[test]
fn a_failed_run_shows_everything() {
    let done = fails(
        "FROM busybox AS build\nRUN echo fine\n\nRUN for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; done; \\\n    echo to stderr >&2; exit 42\n",
    );
    let done = done.says("exit code: 42").says("[3/3] RUN for i in").says("to stderr").says("line 12");
    let report = done.stderr.rsplit_once("------").expect("the last lines stand between rules").0;
    let excerpt = report.rsplit_once("------").expect("two rules").1;
    assert!(!excerpt.contains("line 1\n"), "only the last lines are repeated: {excerpt}");
    let marked = done.stderr.lines().filter(|line| line.contains(">>>")).collect::<Vec<_>>();
    assert!(marked.iter().any(|line| line.contains("RUN for i in")), "the line is marked: {done}");
    assert!(marked.iter().all(|line| !line.contains("RUN echo fine")), "only that line is: {done}");
    assert!(done.stderr.contains("Dockerfile:4"), "the line's number: {done}");
    let mut last = done.stderr.trim_end().lines().rev().skip_while(|line| line.starts_with("hint: "));
    let last = last.next().unwrap_or_default();
    assert!(last.starts_with("ERROR:"), "the last line but for hints is the error: {last:?}");
}

#[test]
fn a_step_ended_by_a_signal() {
    fails("FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?\n").says("137");
}

#[test]
fn a_missing_program() {
    fails("FROM busybox\nRUN [\"/no/such/program\"]\n").says("/no/such/program");
    fails("FROM busybox\nRUN no-such-command\n").says("exit code: 127");
}

#[test]
fn a_missing_source_is_named() {
    fails("FROM busybox\nCOPY not-here.txt /\n").says("not-here.txt").says("not found").says("Dockerfile:2");
    fails("FROM busybox AS a\nFROM busybox\nCOPY --from=a /no/such /\n").says("/no/such").says("not found");
}

#[test]
fn a_source_excluded_by_dockerignore_says_so() {
    let context = Context::new("FROM busybox\nCOPY secret.txt /\n")
        .file("secret.txt", "x\n")
        .file(".dockerignore", "# not for images\nsecret.*\n");
    run(&mut Home::new().build(&context))
        .code_is(1)
        .says("secret.txt")
        .says(".dockerignore")
        .says("secret.*");
}

/// `ls` shows it, so that "not found" alone is no help.
#[test]
fn a_source_that_is_a_link_to_nowhere_says_so() {
    for (target, source, link) in
        [("/etc/hostname", "a", "a"), ("nowhere", "a", "a"), ("../../../etc", "d/a/hostname", "d/a")]
    {
        let context = Context::new(&format!("FROM scratch\nCOPY {source} /a\n")).file("d/other", "");
        std::os::unix::fs::symlink(target, context.path().join(link)).expect("make a link");
        run(&mut Home::new().build(&context))
            .code_is(1)
            .says(&format!("\"/{source}\": not found in the build context"))
            .says(&format!("hint: `{link}` is a link to `{target}`"));
    }
}

#[test]
fn a_source_that_may_not_be_read_says_what_to_do() {
    let user = User::with_one_id();
    let context = Context::new("FROM scratch\nCOPY . /a\n").file("private", "x");
    let mut build = user.build(&context);
    context.chmod("private", 0);
    run(&mut build).code_is(1).says("private: Permission denied").says("hint: ").says(".dockerignore");
}

#[test]
fn a_mistake_in_the_dockerfile_is_pointed_at() {
    let done = fails("FROM busybox\nRUN echo ok\nCOYP a b\nRUN [\"not\", 1]\nEXPOSE\n");
    // All of them, each with its line, its text and a caret.
    for text in ["COYP", "COPY", "EXPOSE"] {
        assert!(done.stderr.contains(text), "{text}: {done}");
    }
    for line in [":3:", ":4:", ":5:"] {
        assert!(done.stderr.contains(line), "line and column {line}: {done}");
    }
    assert!(done.stderr.matches('^').count() >= 3, "a caret each: {done}");
}

#[test]
fn an_empty_dockerfile() {
    fails("# nothing\n").says("Dockerfile");
    let empty = Context::new("FROM busybox\n");
    std::fs::remove_file(empty.path().join("Dockerfile")).expect("remove");
    run(&mut Home::new().build(&empty))
        .code_is(1)
        .says("hint: -f names a Dockerfile of another name or place");
    for other in ["app.Dockerfile", "Containerfile"] {
        let other = empty.path().join(other);
        std::fs::write(&other, "FROM scratch\nLABEL a=b\n").expect("write");
        let meant = format!("hint: did you mean -f {}?", other.display());
        run(&mut Home::new().build(&empty)).code_is(1).says("there is no Dockerfile in").says(&meant);
    }
    run(&mut Home::new().build("/no/such/context")).says("/no/such/context");
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    fails("FROM busybox\nRUN --security=insecure true\n").says("--allow").says("security.insecure");
    fails("FROM busybox\nRUN --mount=type=secret,id=k,required=true true\n").says("--secret id=k");
    fails("# syntax=example.invalid/other:1\nFROM busybox\n").says("example.invalid/other:1");
}

/// What is no layer is not called one.
#[test]
fn a_truncated_context() {
    let context = Context::new("FROM scratch\nLABEL a=b\n").file("file", "x".repeat(4000));
    let archive =
        tool("tar").arg("-C").arg(context.path()).args(["-c", "file", "Dockerfile"]).output().expect("tar");
    for (length, said) in [(1024, "the tar is cut off within a file"), (4700, "damaged tar at byte")] {
        let done =
            feed(Home::new().builder("build").arg("-"), &archive.stdout[..length]).code_is(1).says(said);
        assert!(!done.stderr.contains("layer"), "{done}");
    }
}

#[test]
fn a_bad_base_reference() {
    fails("FROM UPPER/Case:::x\nRUN true\n").says("UPPER/Case:::x").says("Dockerfile:1");
    fails("FROM ${NOTHING}\nRUN true\n").says("Dockerfile:1");
}

#[test]
fn an_unknown_target() {
    let context = Context::new("FROM busybox AS build\n");
    run(Home::new().build(&context).arg("--target=biuld")).code_is(1).says("biuld").says("build");
}

#[test]
fn a_base_that_is_not_in_the_layout() {
    let context = Context::new("FROM thing\n");
    let home = Home::new();
    run(home.build(&context).arg("--build-context=thing=oci-layout:///no/such/layout"))
        .code_is(1)
        .says("/no/such/layout");
    let layout = format!("--build-context=thing=oci-layout://{}:no-tag", base("busybox").display());
    run(home.build(&context).arg(layout)).code_is(1).says("no-tag");
}

#[test]
fn an_unreachable_registry() {
    // A port of this machine that nothing listens on.
    let port = e2e::free_port();
    let done = fails(&format!("FROM 127.0.0.1:{port}/some/image:1\nRUN true\n"));
    let done = done.says(&format!("127.0.0.1:{port}")).says("refused");
    assert!(!done.stderr.contains("panicked"), "{done}");
}

/// It is listed, so that it is missing is not the whole truth, nor is "build it with -t" advice.
#[test]
fn a_base_that_is_here_for_another_platform() {
    let (home, name) = (Home::new(), format!("127.0.0.1:{}/some/image:1", e2e::free_port()));
    run(home.build(&Context::new("FROM scratch\nLABEL a=b\n")).args(["-t", &name, "-q"])).ok();
    for (from, arguments) in [("", &["--platform=linux/s390x"][..]), ("--platform=linux/s390x ", &[])] {
        let context = Context::new(&format!("FROM {from}{name}\nLABEL c=d\n"));
        let done = run(home.build(&context).args(arguments)).code_is(1);
        let done = done.says("no image for platform linux/s390x; it has linux/").says(" here, and ");
        let done = done.says("cannot reach registry 127.0.0.1").says(">>> FROM ");
        assert!(!done.stderr.contains("-t 127"), "{done}");
    }
}

#[test]
fn a_variable_that_must_be_set() {
    fails("FROM busybox\nARG VERSION\nENV V=${VERSION:?give a version}\n")
        .says("give a version")
        .says("Dockerfile:3");
}

/// Runs the binary as another command's child: `prefix… builder arguments…`, through a shell in a mount namespace of
/// its own, after `setup`.
fn in_namespace(setup: &str, build: &Command) -> Done {
    need_root();
    let mut command = tool("unshare");
    command.args([
        "--mount",
        "--propagation=private",
        "sh",
        "-e",
        "-c",
        &format!("{setup}\nexec \"$@\""),
        "sh",
    ]);
    command.arg(build.get_program()).args(build.get_args());
    for (key, value) in build.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    run(&mut command)
}

#[test]
fn a_full_disk() {
    let home = Home::new();
    std::fs::create_dir_all(home.path()).expect("make the state directory");
    let context = Context::new("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=64\n");
    let setup = format!("mount -t tmpfs -o size=16m,mode=755 tmpfs '{}'", home.path().display());
    let done = in_namespace(&setup, &home.build(&context));
    assert!(matches!(done.code, Some(1 | 3)), "{done}");
    assert!(done.stderr.contains("No space left on device"), "{done}");
    // The same while the builder itself writes: the base does not fit.
    let setup = format!("mount -t tmpfs -o size=256k,mode=755 tmpfs '{}'", home.path().display());
    let done = in_namespace(&setup, &home.build(&context));
    assert!(matches!(done.code, Some(1 | 3)), "{done}");
    let state = home.path().display().to_string();
    let said = done.stderr.to_lowercase();
    assert!(said.contains("no space left") || said.contains("disk is full"), "{done}");
    assert!(done.stderr.contains(&state), "the place is named: {done}");
    assert!(!done.stderr.contains("panicked"), "{done}");
}

#[test]
fn a_read_only_state_directory() {
    let home = Home::new();
    std::fs::create_dir_all(home.path()).expect("make the state directory");
    let state = home.path().display().to_string();
    let setup = format!("mount --bind '{state}' '{state}'; mount -o remount,bind,ro '{state}'");
    let done = in_namespace(&setup, &home.build(&Context::new("FROM busybox\nRUN true\n")));
    let done = done.code_is(3).says(&state);
    assert!(done.stderr.to_lowercase().contains("read-only"), "{done}");
}

/// An ordinary user for whom the kernel makes no user namespaces: in a chroot it refuses them.
#[test]
fn no_user_namespaces() {
    let dir = tempdir();
    let home = dir.path().join("home");
    let context = Context::new("FROM busybox\nRUN true\n");
    let program = dir.path().join("builder");
    std::fs::copy(binary(), &program).expect("copy the binary to where everyone may read it");
    let root = dir.path().join("root");
    for made in [&home, &root] {
        std::fs::create_dir(made).expect("make a directory");
    }
    let mut build = Command::new("chroot");
    build.args(["--userspec=65534:65534", "--groups="]).arg(&root).arg(&program).arg("build");
    build.arg(format!("--build-context=busybox=oci-layout://{}", copied_base(dir.path()).display()));
    build.arg(context.path()).env("HOME", &home).env("BUILDER_HOME", home.join("state"));
    let setup = format!("chown 65534:65534 '{}'; mount --rbind / '{}'", home.display(), root.display());
    let done = in_namespace(&setup, &build).code_is(3);
    assert!(done.stderr.contains("user namespace"), "{done}");
}

fn copied_base(dir: &Path) -> std::path::PathBuf {
    let copy = dir.join("busybox");
    run(Command::new("cp").arg("-r").arg(base("busybox")).arg(&copy)).ok();
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(&copy)).ok();
    copy
}

/// Also before there is a plan, and in what is kept of a build that failed.
#[test]
fn secret_like_values_are_in_no_message() {
    let home = Home::new();
    let argument = "--build-arg=API_TOKEN=hunter22";
    for (dockerfile, call) in [
        ("ARG API_TOKEN\nFROM 127.0.0.1:1/${API_TOKEN}/img\n", "build"),
        ("ARG API_TOKEN\nFROM busybox:${API_TOKEN}@@\n", "build"),
        ("FROM busybox\nARG API_TOKEN\nEXPOSE $API_TOKEN\n", "build"),
        ("FROM busybox\nARG API_TOKEN\nCOPY $API_TOKEN /\n", "build"),
        ("FROM busybox\nARG API_TOKEN\nARG A=a-$API_TOKEN\nRUN true\n", "outline"),
    ] {
        for progress in ["plain", "rawjson"] {
            let context = Context::new(dockerfile);
            let mut build = home.build(&context);
            build.args([argument, "--progress", progress, "--call", call]);
            let done = run(&mut build);
            let said = format!("{}{}", done.stdout, done.stderr);
            assert!(said.contains("***") && !said.contains("hunter22"), "{dockerfile}: {done}");
        }
    }
    let records = run(home.builder("history").args(["export"]));
    assert!(!records.stdout.contains("hunter22"), "{records}");
}
