//! What a person meets at the command line beside builds that go well: refusals, questions, `builder run` as a stand-in
//! for `docker run`, `builder info`, output that cannot be written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::{Context, Home, Running, Terminal, base, binary, eventually, need_root, run, tempdir, tool};
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
    for (flag, name) in [
        ("-d", "--detach"),
        ("-p=80:80", "--publish"),
        ("--name=x", "--name"),
        ("--init", "--init"),
        ("--read-only", "--read-only"),
        ("--pull=always", "--pull"),
    ] {
        run(home.builder("run").args([flag, "app", "true"]))
            .code_is(125)
            .says(&format!("{name} is not supported yet"))
            .says("tip: ");
    }
    run(home.builder("run").args(["--userns=host", "app"])).code_is(125).says("tip: BUILDER_USERNS=1");
    run(home.builder("run").args(["--pull=never", "app", "true"])).ok();
}

/// `-u`, `-w` and `--entrypoint` reach the process, and what the image says otherwise does not.
#[test]
fn run_has_another_user_directory_and_program() {
    need_root();
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nUSER 7\nWORKDIR /srv\nENTRYPOINT [\"echo\", \"of the image\"]\nCMD [\"x\"]\n",
    );
    run(home.build(&context).args(["-t", "app", "-q"])).ok();
    let out = |arguments: &[&str]| run(home.builder("run").args(arguments)).ok().stdout;
    let say = "echo $(id -u):$(id -g) $PWD";
    assert_eq!(out(&["app"]), "of the image x\n");
    assert_eq!(out(&["--entrypoint=sh", "app", "-c", say]), "7:0 /srv\n");
    assert_eq!(out(&["-u", "5:6", "-w", "/tmp", "--entrypoint", "sh", "app", "-c", say]), "5:6 /tmp\n");
    assert_eq!(
        out(&["--user=0", "--workdir=/not/there/yet", "--entrypoint=sh", "app", "-c", say]),
        "0:0 /not/there/yet\n"
    );
    // The image's own arguments go with its own program.
    assert_eq!(out(&["--entrypoint=id", "app"]).split(' ').next(), Some("uid=7"));
}

#[test]
fn run_gives_a_program_its_surroundings() {
    let (home, dir) = (with_app(), tempdir());
    let variables = dir.path().join("variables");
    fs::write(&variables, "# a comment\nA=of the file\nB=1\nOUTER\n").expect("write");
    let given = |arguments: &[&str], script: &str| {
        run(home.builder("run").env("OUTER", "here").args(arguments).args(["app", "sh", "-c", script]))
            .ok()
            .stdout
    };
    let file = format!("--env-file={}", variables.display());
    assert_eq!(given(&[&file, "-e", "B=2"], "echo $A $B $OUTER"), "of the file 2 here\n");
    let hosts =
        given(&["--hostname=box", "--add-host=db:10.1.2.3"], "hostname; grep -w -e db -e box /etc/hosts");
    assert_eq!(hosts, "box\n127.0.0.1\tlocalhost box\n10.1.2.3\tdb\n");
    let memory = given(
        &["--tmpfs=/t:size=1m,mode=700", "--shm-size=2m"],
        "stat -c %a /t; df -k /t /dev/shm | awk '/^[^F]/ {print $2}'",
    );
    assert_eq!(memory, "700\n1024\n2048\n");
    let bound = format!("--mount=type=bind,src={},dst=/d,ro", dir.path().display());
    assert_eq!(given(&[&bound], "ls /d; touch /d/x 2>/dev/null || echo kept"), "variables\nkept\n");
    assert_eq!(given(&["--ulimit=nofile=99", "--platform=linux"], "ulimit -n"), "99\n");
    for (wrong, said) in [
        ("--env-file=/no-such", "read /no-such"),
        ("--mount=source=name,target=/x", "named volumes do not exist here"),
        ("--tmpfs=/x:noexec", "`noexec` is not supported"),
        ("--platform=linux/s390x", "it has linux/amd64"),
        ("--cpus=0", "is not a number of processors"),
    ] {
        run(home.builder("run").args([wrong, "app", "true"])).code_is(125).says(said);
    }
}

/// What is named and not there is 1 everywhere; 2 is for command lines that make no sense.
#[test]
fn what_is_not_there_is_1() {
    let home = with_app();
    for line in [
        "rmi nope",
        "inspect nope",
        "tag nope x",
        "save nope",
        "export nope",
        "push nope",
        "image history nope",
        "explain nope",
        "history inspect nope",
        "history logs nope",
        "history rm nope",
        "history logs :nope",
        "cache inspect nope",
        "cache rm nope",
        "debug 99",
        "build nope",
        "build -f nope .",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let done = run(home.builder(words[0]).args(&words[1..]).current_dir("/proc/self"));
        assert!(
            done.code == Some(1) && done.stderr.contains("nope") | done.stderr.contains("99"),
            "{line}: {done}"
        );
    }
    let context = Context::new("FROM scratch\nLABEL a=b\n");
    for given in [
        "--secret=id=x,src=nope",
        "--secret=id=x,env=nope",
        "--build-context=x=nope",
        "--build-context=x=oci-layout://nope",
        "--ssh=x=nope",
        "--output=type=tar,dest=nope/x",
        "--metadata-file=nope/x",
        "--runtime=nope",
    ] {
        run(home.build(&context).arg(given)).code_is(1).says("nope");
    }
    run(home.builder("run").arg("apq"))
        .code_is(125)
        .says("hint: did you mean app?")
        .says("`builder pull NAME`");
    // Each of those that are not there is told.
    let both = run(home.builder("rmi").args(["one", "app", "two"])).code_is(1);
    assert!(both.stderr.contains("no image one:") && both.stderr.contains("no image two:"), "{both}");
    assert_eq!(both.stdout.lines().next(), Some("Untagged: app:latest"));
    run(home.builder("rmi").args(["--force", "one"])).ok();
    let builds = |arguments: &[&str]| {
        run(home.builder("history").arg("ls").args(arguments)).ok().stdout.lines().count()
    };
    run(home.build(&Context::new("FROM busybox\n")).arg("-q")).ok();
    assert_eq!([builds(&[]), builds(&["-n", "1"]), builds(&["--last=9"])], [3, 2, 3]);
}

/// A word less to type, wherever there is JSON.
#[test]
fn json_for_short() {
    let home = with_app();
    let out = |line: &str, flag: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        run(home.builder(words[0]).args(&words[1..]).arg(flag)).ok().stdout
    };
    for line in ["du", "history ls", "history inspect", "fsck", "explain"] {
        assert_eq!(out(line, "--json"), out(line, "--format=json"), "{line}");
        assert!(out(line, "--json").starts_with(['{', '[']), "{line}");
    }
    let ids = out("history ls", "-q");
    assert!(ids.lines().all(|id| id.len() == 10 && id.bytes().all(|byte| byte.is_ascii_hexdigit())), "{ids}");
    assert_eq!(ids.lines().count(), 1);
}

#[test]
fn a_run_says_when_its_memory_was_too_little() {
    need_root();
    let home = with_app();
    let hungry = ["-m", "16m", "app", "sh", "-c", "exec tail -c 200m /dev/zero"];
    let done = run(home.builder("run").args(hungry));
    assert_eq!(done.code, Some(137), "{done}");
    run(home.builder("run").args(["--cpuset-cpus=9999", "app", "true"]))
        .code_is(125)
        .says("limits cannot be enforced: processors 9999 are not all there to be used; there are 0");
    done.says("killed for want of memory: its limit is 16 MiB");
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

/// The first process of a pid namespace is given no signal that it does not handle; here it ends all the same. A signal that comes
/// before there is a program, while the image is looked up and the sandbox made, ends it as well.
#[test]
fn signals_end_a_run_as_they_end_any_program() {
    let home = with_app();
    let moments = [0, 2, 5, 10, 15, 20, 30, 50, 80, 120, 200, 300].map(Duration::from_millis);
    for (at, moment) in moments.into_iter().enumerate() {
        for network in ["host", "private"] {
            let (signal, code) = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)][at % 3];
            let marker = format!("85{}", std::process::id());
            let mut command = home.builder("run");
            command.args(["--network", network, "app", "sleep", &marker]);
            ends_with(&mut command, moment, signal, code);
            assert!(e2e::processes_with(&format!("sleep {marker}")).is_empty(), "processes left");
        }
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

/// Also of a build, and of a look into one: what was not begun yet has to end as promptly as what was.
#[test]
fn signals_end_builds_and_looks_into_them_at_any_moment() {
    let home = with_app();
    let context = Context::new("FROM busybox\nRUN sleep 85\n");
    run(&mut home.build(&Context::new("FROM busybox\nRUN false\n"))).code_is(1);
    for moment in [0, 3, 8, 20, 40, 80, 160, 320].map(Duration::from_millis) {
        ends_with(&mut home.build(&context), moment, Signal::INT, 130);
        ends_with(home.builder("debug").args(["--command", "sleep 85"]), moment, Signal::INT, 130);
    }
}

/// Starts something that would take long, sends it a signal after a while, and compares how it ends with what a shell would say.
fn ends_with(command: &mut Command, after: Duration, signal: Signal, code: i32) {
    let mut running =
        Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    std::thread::sleep(after);
    running.signal(signal);
    let status = running.wait(Duration::from_secs(5));
    let as_shells_say = status.code().or(status.signal().map(|signal| 128 + signal));
    assert_eq!(as_shells_say, Some(code), "{command:?}: {signal:?} after {after:?}");
}

/// A shell in a terminal: Ctrl-C ends what it runs, not the shell.
#[test]
fn a_shell_survives_ctrl_c() {
    let home = with_app();
    let terminal = Terminal::start(80, 24, &home.path(), &["sh"]);
    terminal.keys(&[&format!("'{}' run -it app sh", binary().display()), "Enter"]);
    terminal.shows("/ #");
    terminal.keys(&["echo be''gun; sleep 1000; echo 'slept'", "Enter"]);
    terminal.shows("begun");
    terminal.keys(&["C-c"]);
    terminal.keys(&["echo still $((40 + 2))", "Enter"]);
    terminal.shows("still 42");
    terminal.keys(&["exit 6", "Enter"]);
    // What is typed before the program has ended is the program's.
    terminal.until("outer prompt", |screen| screen.trim_end().ends_with("\n#"));
    terminal.keys(&["echo code=$?", "Enter"]);
    terminal.shows("code=6");
    // The first process of a sandbox is not ended by a signal that it has no handler for, where any other is.
    terminal.keys(&[
        &format!("clear; '{}' run -it app sh -c 'echo wait\"\"ing; sleep 1000; echo on'", binary().display()),
        "Enter",
    ]);
    // Put together, since what was typed may be broken into lines anywhere.
    terminal.shows("waiting");
    terminal.keys(&["C-c"]);
    terminal.until("outer prompt", |screen| screen.trim_end().ends_with('#'));
    assert!(!terminal.screen().contains("\non"), "it went on: {}", terminal.screen());
    terminal.keys(&["echo ended=$?", "Enter"]);
    terminal.shows("ended=130");
}

/// What a key press makes of a line, in each shell as people have it: commands, flags, and the names of images, stages and files, also of
/// images whose names hold what bash takes words apart at.
#[test]
fn shells_complete_what_is_typed() {
    let (home, context, dir) =
        (Home::new(), Context::new("FROM busybox AS first\nFROM busybox\n"), tempdir());
    run(home.build(&context).args(["-q", "-t", "app", "-t", "lib:2", "-t", "localhost:5000/team/tool:1.5"]))
        .ok();
    let script = |shell: &str| {
        let path = dir.path().join(shell);
        fs::write(&path, run(home.builder("completion").arg(shell)).ok().stdout).expect("write the script");
        path.display().to_string()
    };
    let (bash, zsh, fish) = (script("bash"), script("zsh"), script("fish"));
    let setup = |shell: &str, lines: &str| {
        let path = dir.path().join(format!("{shell}.rc"));
        fs::write(&path, lines).expect("write the settings");
        path.display().to_string()
    };
    let bash = setup("bash", &format!("PS1='$ '\n. {bash}\n"));
    let zsh = format!("PS1='$ '; autoload -Uz compinit; compinit -u -D; . {zsh}");
    let fish = setup("fish", &format!("function fish_prompt; echo -n '$ '; end\nsource {fish}\n"));
    let program = |name: &str| tool(name).get_program().to_string_lossy().into_owned();
    let path = format!("PATH={}:/usr/bin:/bin", binary().parent().expect("a directory").display());
    let at = context.path().display().to_string();
    let cases = [
        ("bui", "build"),
        ("build --metad", "build --metadata-file"),
        ("build --progress=pl", "build --progress=plain"),
        ("image hist", "image history"),
        ("rmi ap", "rmi app"),
        ("rmi li", "rmi lib:2"),
        ("rmi lib:", "rmi lib:2"),
        ("run -it localhost:50", "run -it localhost:5000/team/tool:1.5"),
        (&*format!("build {at} --target fi"), &*format!("build {at} --target first")),
        (&*format!("build {at} --target=fi"), &*format!("build {at} --target=first")),
        (&*format!("build -f {at}/Doc"), &*format!("build -f {at}/Dockerfile")),
    ];
    for (shell, arguments) in [
        ("bash", ["--noprofile", "--rcfile", &bash].as_slice()),
        ("zsh", &["-f"]),
        ("fish", &["--no-config", "-C", &format!("source {fish}")]),
    ] {
        let (shell, home_dir) = (program(shell), format!("HOME={}", dir.path().display()));
        let terminal =
            Terminal::start(150, 24, &home.path(), &[&["env", &path, &home_dir, &shell], arguments].concat());
        if shell.ends_with("zsh") {
            terminal.keys(&[&format!("{zsh}; clear"), "Enter"]);
        }
        for (typed, whole) in cases {
            terminal.until("prompt", |screen| screen.trim_end().ends_with("\n$") || screen.trim_end() == "$");
            terminal.keys(&[&format!("builder {typed}")]);
            terminal.shows(&format!("$ builder {typed}"));
            terminal.keys(&["Tab"]);
            terminal.shows(&format!("$ builder {whole}"));
            terminal.keys(&["C-u", "clear", "Enter"]);
        }
    }
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
    let mut help = home.builder("build");
    help.arg("--help");
    for mut command in [home.builder("images"), home.builder("du"), home.builder("info"), help] {
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
        let done = run(home.build(&context).args(arguments)).code_is(1).says("/no/such/place");
        assert!(!done.stderr.contains("must not run"), "{done}");
    }
    run(home.build(&context).args(["-o", "type=docker,dest=/tmp"])).code_is(2).says("it is a directory");
}

#[test]
fn hints_lead_on() {
    let home = Home::new();
    let fails = |dockerfile: &str| run(&mut home.build(&Context::new(dockerfile))).code_is(1);
    let copy = fails("FROM busybox AS base\nRUN true\nFROM busybox\nCOPY --from=base /none /x\n");
    copy.says("\"/none\": not found in the stage base");
    fails("FROM busybox\nCOPY ../up /x\n").says("`../up` was taken as `/up`: `..` leads no further up than");
    fails("FROM --platform=linux/amd46 busybox\nRUN true\n").says("did you mean linux/amd64?");
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

/// Names of images are not thrown away without a question; scripts have to say that they mean it.
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
    run(home.build(&Context::new("FROM scratch\nLABEL a=b\n")).arg("-q")).ok();
    run(home.build(&Context::new("FROM busybox\nRUN touch /plain\n")).arg("-q")).ok();
    let asked = typed("n");
    assert!(asked.contains("the cache and 2 images, 1 of them without a name ("), "{asked}");
    assert!(typed("y").contains("Removed"));
    assert!(!run(&mut home.builder("images")).ok().stdout.contains("app"));
    let scripted = with_app();
    run(scripted.builder("prune").arg("--all")).code_is(2).says("--force");
    assert!(run(&mut scripted.builder("images")).ok().stdout.contains("app"));
    assert!(run(scripted.builder("prune").args(["--all", "-f"])).ok().stdout.contains("Removed"));
}

/// Lines of tables end where a narrow terminal does; what is written to a pipe is whole.
#[test]
fn tables_fit_a_narrow_terminal() {
    let (home, dir) = (with_app(), tempdir());
    let long = "registry.example.com:5000/a-team-with-a-long-name/app";
    run(home.builder("tag").args(["app", &format!("{long}:1")])).ok();
    let failing = "RUN echo of a name that is longer than a line of sixty columns has room for; false";
    run(&mut home.build(&Context::new(&format!("FROM busybox AS base-with-a-name\n{failing}\n")))).code_is(1);
    let tmux = || {
        let mut command = tool("tmux");
        command.arg("-S").arg(dir.path().join("tmux")).args(["-f", "/dev/null"]);
        command
    };
    let mut start = tmux();
    start.args(["new-session", "-d", "-x", "60", "-y", "60", "sh"]).env("BUILDER_HOME", home.path());
    run(&mut start).ok();
    let builder = binary().display().to_string();
    let script = format!(
        "b='{builder}'; clear; $b images; $b image history app; $b history ls; $b debug --list; $b history inspect; echo the-end"
    );
    run(tmux().args(["send-keys", &script, "Enter"])).ok();
    // Wrapped lines are joined, so that they would be longer.
    let screen = || run(tmux().args(["capture-pane", "-p", "-J"])).ok().stdout;
    let ends = |screen: &str| screen.lines().any(|line| line.trim_end() == "the-end");
    eventually(Duration::from_secs(20), "both tables", || ends(&screen()));
    let screen = screen();
    let _ = tmux().arg("kill-server").output();
    let tables: Vec<&str> = screen.lines().skip_while(|line| !line.starts_with("REPOSITORY")).collect();
    assert!(tables.iter().all(|line| line.trim_end().chars().count() <= 60), "{screen}");
    // How much of a long word has room depends on how long ago all that was, in words.
    let is_cut = |name: &str| name.starts_with("registry") && name.contains('…') && name.ends_with("app");
    assert!(tables.iter().any(|line| line.split(' ').next().is_some_and(is_cut)), "{screen}");
    assert!(tables.iter().any(|line| line.starts_with("IMAGE ")), "{screen}");
    assert!(tables.iter().any(|line| line.contains("  RUN touch /plain  ")), "{screen}");
    assert!(tables.iter().any(|line| line.contains(" done ") && line.ends_with(" app:latest")), "{screen}");
    assert!(tables.iter().any(|line| line.starts_with("1 ") && line.contains("[2/2] RUN echo")), "{screen}");
    assert!(run(&mut home.builder("images")).ok().stdout.contains(long));
}
