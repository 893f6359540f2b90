//! What a person meets at the command line beside builds that go well: refusals, questions, `builder run` as a stand-in
//! for `docker run`, `builder info`, output that cannot be written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::{Context, Home, Running, base, binary, eventually, need_root, run, tempdir, tool};
use rustix::process::Signal;

/// An image `app` that holds busybox.
fn with_app() -> Home {
    let home = Home::new();
    run(home.build(&Context::new("FROM busybox\nRUN touch /plain\n")).args(["-t", "app", "-q"])).ok();
    home
}

#[test]
fn run_takes_the_flags_of_docker_run() {
    let home = with_app();
    for flags in [&["-it"][..], &["-i", "-t"], &["--interactive", "--tty", "--rm"]] {
        assert_eq!(run(home.builder("run").args(flags).args(["app", "echo", "hi"])).ok().stdout, "hi\n");
    }
    // What stands behind the image is the program's.
    assert_eq!(run(home.builder("run").args(["app", "echo", "-e", "-u", "x"])).ok().stdout, "-u x\n");
    for (flag, name) in [("-d", "--detach"), ("-p=80:80", "--publish"), ("--name=x", "--name")] {
        run(home.builder("run").args([flag, "app", "true"]))
            .code_is(125)
            .says(&format!("{name} is not supported yet"));
    }
}

#[test]
fn what_keeps_a_run_from_starting_is_125() {
    let home = with_app();
    run(home.builder("run").args(["no-such-image"])).code_is(125).says("no-such-image");
    run(home.builder("run").args(["--frobnicate", "app"])).code_is(125).says("--frobnicate");
    run(home.builder("run").args(["--network=bridge", "app"])).code_is(125).says("bridge");
    run(home.builder("run").args(["-u", "nobody-here", "app", "true"])).code_is(125).says("nobody-here");
    run(home.builder("run").args(["app", "sh", "-c", "exit 3"])).code_is(3);
}

#[test]
fn a_run_reads_standard_input() {
    let home = with_app();
    let mut cat = home.builder("run");
    cat.args(["-i", "app", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = cat.spawn().expect("start");
    std::io::Write::write_all(&mut child.stdin.take().expect("its input"), b"through\n").expect("write");
    let output = child.wait_with_output().expect("wait");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through\n");
}

/// The first process of a pid namespace is given no signal that it does not handle; here it ends all the same.
#[test]
fn signals_end_a_run_as_they_end_any_program() {
    let home = with_app();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let marker = format!("85{}", std::process::id());
        let mut command = home.builder("run");
        command.args(["app", "sleep", &marker]).stdin(Stdio::null()).stderr(Stdio::null());
        let mut sleeping = Running::start(&mut command);
        let sandboxed = || e2e::processes_with(&format!("sleep {marker}"));
        eventually(Duration::from_secs(20), "the program to run", || sandboxed().len() >= 2);
        sleeping.signal(signal);
        assert_eq!(sleeping.wait(Duration::from_secs(5)).code(), Some(code));
        assert!(sandboxed().is_empty(), "processes left");
    }
    // A program with a handler decides by itself.
    let script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let dir = tempdir();
    let log = dir.path().join("log");
    let mut command = home.builder("run");
    command.args(["app", "sh", "-c", script]).stdin(Stdio::null());
    let mut trapping = Running::start(command.stdout(fs::File::create(&log).expect("a log")));
    eventually(Duration::from_secs(20), "the program to be ready", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))
    });
    trapping.signal(Signal::TERM);
    assert_eq!(trapping.wait(Duration::from_secs(5)).code(), Some(9));
}

/// A shell in a terminal: Ctrl-C ends what it runs, not the shell.
#[test]
fn a_shell_survives_ctrl_c() {
    let home = with_app();
    let dir = tempdir();
    let socket = dir.path().join("tmux");
    let tmux = || {
        let mut command = tool("tmux");
        command.arg("-S").arg(&socket).args(["-f", "/dev/null"]);
        command
    };
    let mut start = tmux();
    start.args(["new-session", "-d", "-x", "80", "-y", "24", "sh"]).env("BUILDER_HOME", home.path());
    run(&mut start).ok();
    let keys = |keys: &[&str]| run(tmux().arg("send-keys").args(keys)).ok();
    let screen = || run(tmux().args(["capture-pane", "-p"])).ok().stdout;
    let shows = |text: &str| {
        eventually(Duration::from_secs(10), text, || {
            screen().lines().any(|line| line.trim_end().ends_with(text))
        });
    };
    keys(&[&format!("'{}' run -it app sh", binary().display()), "Enter"]);
    shows("/ #");
    keys(&["echo begun; sleep 1000; echo 'slept'", "Enter"]);
    shows("begun");
    keys(&["C-c"]);
    keys(&["echo still $((40 + 2))", "Enter"]);
    shows("still 42");
    keys(&["exit 6", "Enter"]);
    // What is typed before the program has ended is the program's.
    eventually(Duration::from_secs(10), "the outer prompt", || screen().trim_end().ends_with("\n#"));
    keys(&["echo code=$?", "Enter"]);
    shows("code=6");
    let _ = tmux().arg("kill-server").output();
}

#[test]
fn output_that_cannot_be_written_is_no_panic() {
    let home = with_app();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("open /dev/full");
    let context = Context::new("FROM busybox\n");
    let output = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output().expect("start");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for mut command in [home.builder("images"), home.builder("du"), home.builder("info")] {
        // The standard library captures what is piped, so a shell gives the descriptor.
        let line = format!("exec {} >/dev/full", shell_words(&command));
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).env("BUILDER_HOME", home.path());
        let (code, stderr) = output(&mut shell);
        assert_eq!(code, Some(1), "{command:?}: {stderr}");
        assert!(stderr.contains("standard output: No space left on device"), "{stderr}");
        // Nobody to tell is no reason to fail.
        command.stdout(Stdio::null()).stderr(full());
        assert_eq!(command.status().expect("start").code(), Some(0));
    }
    let mut build = home.build(&context);
    build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full());
    assert_eq!(build.status().expect("start").code(), Some(0), "a build without anybody to tell");
    let line = format!("exec {} -o - >/dev/full", shell_words(&home.build(&context)));
    let (code, stderr) = output(Command::new("sh").args(["-c", &line]).env("BUILDER_HOME", home.path()));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("write to standard output: No space left on device"), "{stderr}");
}

fn shell_words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}' ", word.to_string_lossy())).collect()
}

#[test]
fn places_that_cannot_be_written_to_are_told_before_the_build() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN echo must not run\n");
    for arguments in [
        ["--iidfile", "/no/such/place/iid"],
        ["--metadata-file", "/no/such/place/metadata"],
        ["-o", "type=oci,dest=/no/such/place/x.tar"],
    ] {
        let done = run(home.build(&context).args(arguments)).code_is(2).says("/no/such/place");
        assert!(!done.stderr.contains("must not run"), "{done}");
    }
    run(home.build(&context).args(["-o", "type=docker,dest=/tmp"])).code_is(2).says("it is a directory");
}

#[test]
fn hints_lead_on() {
    let home = Home::new();
    let fails = |dockerfile: &str| run(&mut home.build(&Context::new(dockerfile))).code_is(1);
    let copy = fails("FROM busybox AS base\nRUN true\nFROM busybox\nCOPY --from=base /none /x\n");
    copy.says("\"/none\": not found in the result of [base 2/2] RUN true");
    fails("FROM busybox\nCOPY --from=127.0.0.1:1/nope /a /b\n")
        .says("no stage and no --build-context is called");
    fails("FROM busybox\nRUN false\n").says(
        "ERROR: failed to build: process \"/bin/sh -c false\" did not complete successfully: exit code: 1",
    );
    let context = Context::new("FROM busybox\n");
    run(home.build(&context).args(["-f", "Dockerfile"]).current_dir("/"))
        .code_is(1)
        .says(&format!("did you mean -f {}", context.path().join("Dockerfile").display()));
    run(home.build(&context).arg("--target=bsae")).code_is(1).says("there is no stage `bsae`");
    run(&mut home.builder("build")).code_is(2).says("`builder build .`");
    run(home.build(&context).arg("--load").env("DOCKER_HOST", "unix:///none"))
        .code_is(1)
        .says("the Docker daemon at unix:///none");
    run(home.build(&context).arg("--push")).code_is(2).says("-t REGISTRY/NAME");
    // A named ignore file is named.
    let hidden =
        Context::new("FROM busybox\nCOPY a /\n").file("a", "").file("Dockerfile.dockerignore", "a\n");
    run(&mut home.build(&hidden)).code_is(1).says("`a`").says("Dockerfile.dockerignore excludes it");
}

#[test]
fn warnings_take_a_line_each() {
    let context = Context::new("FROM busybox as base\nCMD echo hi\n");
    let done = run(Home::new().build(&context).args(["--build-arg", "NOBODY=1"])).ok();
    let done =
        done.says("3 warnings found:").says("JSONArgsRecommended").says("Dockerfile:2)").says("NOBODY");
    assert!(!done.stderr.contains("(os error"), "{done}");
}

#[test]
fn info_as_json() {
    let home = Home::new();
    let done = run(home.builder("info").arg("--json")).ok();
    let info: serde_json::Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!(info["usable"], true, "{done}");
    assert_eq!(info["stateDirectory"]["path"], home.path().display().to_string());
    assert_eq!(info["stateDirectory"]["exists"], false, "asking makes nothing: {done}");
    for feature in
        ["overlay", "user namespaces", "cgroups", "seccomp", "security modules", "network", "state directory"]
    {
        assert!(info["features"][feature]["detail"].is_string(), "{feature}: {done}");
    }
    assert!(!home.path().exists());
    let left = fs::read_dir(home.path().parent().expect("a parent")).expect("list").count();
    assert_eq!(left, 0, "what was tried leaves nothing");
}

/// An ordinary user without subordinate ids builds with one id, and is told what that means and what helps.
#[test]
fn a_single_id_is_told_about() {
    need_root();
    let dir = tempdir();
    let program = dir.path().join("builder");
    fs::copy(binary(), &program).expect("copy the binary to where everyone may read it");
    let layout = dir.path().join("busybox");
    run(Command::new("cp").arg("-r").arg(base("busybox")).arg(&layout)).ok();
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(&layout)).ok();
    let home = dir.path().join("home");
    fs::create_dir(&home).expect("make a directory");
    std::os::unix::fs::chown(&home, Some(4242), Some(4242)).expect("give it away");
    let context = Context::new(
        "FROM busybox\nRUN chown 5:5 /etc/passwd && test \"$(stat -c %u:%g /etc/passwd)\" = 5:5\n",
    );
    fs::set_permissions(context.path(), fs::Permissions::from_mode(0o755)).expect("open the context");
    let as_user = |arguments: &[&str]| {
        let mut command = tool("setpriv");
        command.args(["--reuid=4242", "--regid=4242", "--clear-groups"]).arg(&program).args(arguments);
        command.env("HOME", &home).env("BUILDER_HOME", home.join("state"));
        run(&mut command)
    };
    let named = format!("--build-context=busybox=oci-layout://{}", layout.display());
    let path = context.path().to_string_lossy();
    let done = as_user(&["build", &named, "--progress=plain", &path]).ok();
    let first = done.stderr.lines().next().unwrap_or_default();
    assert!(
        first.starts_with("WARNING: ") && first.contains("/etc/subuid") && first.contains("uidmap"),
        "{done}"
    );
    let quiet = as_user(&["build", &named, "-q", "--target=base", &path]);
    assert!(!quiet.stderr.contains("WARNING"), "{quiet}");
    let info = as_user(&["info"]).ok();
    assert!(info.stdout.contains("single id") && info.stdout.contains("usermod --add-subuids"), "{info}");
}

/// Names of images are not thrown away without a question; scripts are not asked.
#[test]
fn prune_asks_a_person_before_images_go() {
    let home = with_app();
    let dir = tempdir();
    let typed = |answer: &str| {
        let script = dir.path().join("script");
        let line = format!("BUILDER_HOME='{}' '{}' prune --all", home.path().display(), binary().display());
        // script(1) gives a terminal.
        fs::write(&script, format!("echo {answer} | script -qec \"{line}\" /dev/null\n")).expect("a script");
        run(Command::new("sh").arg(&script)).stdout
    };
    let asked = typed("n");
    assert!(asked.contains("1 image") && asked.contains("Nothing was removed"), "{asked}");
    assert!(run(&mut home.builder("images")).ok().stdout.contains("app"));
    assert!(typed("y").contains("Removed"));
    assert!(!run(&mut home.builder("images")).ok().stdout.contains("app"));
    let scripted = with_app();
    assert!(run(scripted.builder("prune").arg("--all")).ok().stdout.contains("Removed"));
}
