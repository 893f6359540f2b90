//! Looking into steps: `builder debug`, `--on-error=shell`, stored output, terminals.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::{Context, Done, Home, Running, Terminal, bases, binary, run, tempdir};
use rustix::process::Signal;

/// A Dockerfile whose third step fails after it did something.
fn failing() -> Context {
    Context::new(
        "FROM busybox\nENV COLOR=blue API_TOKEN=hidden\nRUN echo ann:x:1000:1000::/home/ann:/bin/sh >> /etc/passwd && mkdir /home/ann && echo first\nWORKDIR /src\nCOPY Dockerfile .\nUSER ann\n\
         RUN --mount=type=cache,target=/cache,mode=0777 --mount=type=secret,id=word,mode=0444 \
         --mount=type=bind,target=/bound \
         cp /run/secrets/word /tmp/copy; echo half > /tmp/half; echo kept > /cache/file; exit 7\n",
    )
}

fn debug(home: &Home, words: &[&str]) -> Command {
    let mut debug = home.builder("debug");
    debug.args(words).stdin(Stdio::null());
    debug
}

/// Runs with text on standard input.
fn fed(command: &mut Command, input: &str) -> (Option<i32>, String, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("wait");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn build(home: &Home, context: &Context, words: &[&str]) -> Command {
    let secret = context.path().join("../word");
    std::fs::write(&secret, "open sesame").expect("write the secret");
    let mut build = home.build(context);
    build.arg(format!("--secret=id=word,src={}", secret.display())).args(words);
    build
}

const LOOK: &str =
    "id -un; pwd; echo $COLOR [$API_TOKEN]; cat /tmp/half /cache/file; ls /bound; cat /run/secrets/word";

#[test]
fn a_failed_step_can_be_looked_into_later() {
    let (home, dir) = (Home::new(), tempdir());
    run(&mut debug(&home, &[])).code_is(1).says("there is no state directory at");
    run(&mut home.build(&Context::new("FROM busybox\n"))).ok();
    run(&mut debug(&home, &[])).code_is(1).says("no step failed lately");
    let context = failing();
    run(&mut build(&home, &context, &[])).code_is(1).says("look into it: builder debug 1");
    run(&mut debug(&home, &["--list"])).ok_stdout_says("[5/5] RUN");
    // Secrets are not kept: one that the step cannot do without must be given again.
    let secret = dir.path().join("again");
    std::fs::write(&secret, "again").expect("write the secret");
    let given = format!("--secret=id=word,src={}", secret.display());
    let look = run(&mut debug(&home, &["1", "--command", LOOK, &given])).ok();
    // Nor are values of variables with names like a secret's.
    assert_eq!(look.stdout, "ann\n/src\nblue []\nhalf\nkept\nDockerfile\nagain");
    // What the shell changes is gone, and its exit code is that of the command.
    let change = "rm /tmp/half && touch /tmp/new && exit 9";
    run(&mut debug(&home, &["--command", change, &given])).code_is(9);
    run(&mut debug(&home, &["--command", "ls /tmp", &given])).ok_stdout_says("copy\nhalf\n");
    run(&mut debug(&home, &["17"])).code_is(1).says("what step 17 left is gone");
    run(&mut debug(&home, &["/nowhere"])).code_is(2).says("is no number of a failed step");
    run(home.builder("prune").args(["--all", "--force"])).ok();
    run(&mut debug(&home, &["1"])).code_is(1).says("is gone");
}

/// A shell has the secrets that are given to it, and none of the build's.
#[test]
fn a_shell_asks_for_secrets_again() {
    let (home, dir) = (Home::new(), tempdir());
    std::fs::write(dir.path().join("s"), "open sesame").expect("write the secret");
    let given = format!("--secret=id=word,src={}", dir.path().join("s").display());
    let look = "cat /run/secrets/word 2> /dev/null || echo no file; echo [$WORD]";
    for (number, (options, seen)) in [
        ("", "open sesame[]\n"),
        (",env=WORD", "no file\n[open sesame]\n"),
        (",required=true", "open sesame[]\n"),
        (",required,env=WORD", "no file\n[open sesame]\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let step = format!("FROM busybox\nRUN --mount=type=secret,id=word{options} exit 7\n");
        run(home.build(&Context::new(&step)).arg(&given)).code_is(1);
        let number = (number + 1).to_string();
        let mut without = debug(&home, &[&number, "--command", look]);
        if options.contains("required") {
            let refused = run(&mut without).code_is(1);
            assert_eq!(refused.stdout, "", "{refused}");
            drop(refused.says("secret word is required: give it with --secret id=word,src=FILE"));
        } else {
            assert_eq!(run(&mut without).ok().stdout, "no file\n[]\n");
        }
        assert_eq!(run(&mut debug(&home, &[&number, "--command", look, &given])).ok().stdout, seen);
    }
}

/// Both shells have the network that the step had.
#[test]
fn a_shell_has_the_network_of_its_step() {
    let home = Home::new();
    let host = std::fs::read_link("/proc/self/ns/net").expect("the name of the network");
    let host = format!("{}\n", host.display());
    let look = "ls /sys/class/net; readlink /proc/self/ns/net";
    for (number, mode) in ["none", "host"].into_iter().enumerate() {
        let context = Context::new(&format!("FROM busybox\nRUN --network={mode} echo {mode}; exit 7\n"));
        let mut build = home.build(&context);
        build.args(["--on-error=shell", "--allow=network.host"]);
        let (code, at_once, stderr) = fed(&mut build, &format!("{look}\n"));
        assert_eq!(code, Some(1), "{stderr}");
        let later = run(&mut debug(&home, &[&(number + 1).to_string(), "--command", look])).ok().stdout;
        for seen in [at_once, later] {
            match mode {
                "none" => assert!(seen.starts_with("lo\nnet:") && !seen.ends_with(&host), "{mode}: {seen}"),
                _ => assert!(seen.ends_with(&host), "{mode}: {seen}"),
            }
        }
    }
}

/// `prune --all` and `fsck --repair` hold the store for themselves.
#[test]
fn who_waits_for_the_store_can_be_interrupted() {
    let (home, context) = (Home::new(), failing());
    run(&mut build(&home, &context, &[])).code_is(1);
    let lock =
        std::fs::File::options().write(true).open(home.path().join("session-v1.lock")).expect("a lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    for mut command in [debug(&home, &["--command", "true"]), build(&home, &context, &[])] {
        let mut waiting = Running::start(&mut command);
        std::thread::sleep(Duration::from_millis(500));
        waiting.signal(Signal::INT);
        assert_eq!(waiting.wait(Duration::from_secs(3)).code(), Some(130));
    }
}

#[test]
fn nothing_secret_stays_in_the_state_directory() {
    let (home, context) = (Home::new(), failing());
    let mut build = build(&home, &context, &["--build-arg=HTTP_PROXY=http://user:pass-word@127.0.0.1:9"]);
    run(&mut build).code_is(1);
    let kept = run(Command::new("grep").args(["-rlae", "pass-word"]).arg(home.path()));
    assert_eq!(kept.stdout, "", "the proxy's password");
    // The step itself wrote the secret down; nothing else did.
    let kept = run(Command::new("grep").args(["-rla", "open sesame"]).arg(home.path()));
    assert!(kept.stdout.lines().all(|path| path.ends_with("/tmp/copy")), "{}", kept.stdout);
}

#[test]
fn a_shell_opens_where_it_failed() {
    let (home, context) = (Home::new(), failing());
    let mut build = build(&home, &context, &["--on-error=shell"]);
    let (code, stdout, stderr) = fed(&mut build, &format!("{LOOK}\nexit 3\n"));
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!(stdout, "ann\n/src\nblue []\nhalf\nkept\nDockerfile\nopen sesame");
    assert!(stderr.contains("exit code: 7") && stderr.contains("A shell inside the failed step"), "{stderr}");
    // Nothing failed: no shell.
    let fine = Context::new("FROM busybox\nRUN true\n");
    let (code, stdout, _) = fed(home.build(&fine).arg("--on-error=shell"), "echo inside\n");
    assert_eq!((code, stdout.as_str()), (Some(0), ""));
}

#[test]
fn any_instruction_can_be_looked_into() {
    let (home, context) = (Home::new(), failing());
    let at = |line: &str, command: &str| {
        let mut debug = debug(&home, &["--at", line, "--command", command]);
        run(debug.args(bases()).arg(context.path()))
    };
    let behind_run = at("3", "ls -d /home/ann /src; echo $COLOR").code_is(0);
    assert_eq!(behind_run.stdout, "/home/ann\nblue\n");
    assert!(behind_run.stderr.contains("first"), "it is built first: {behind_run}");
    let behind_copy = at("5", "pwd; ls").code_is(0);
    assert_eq!(behind_copy.stdout, "/src\nDockerfile\n");
    assert!(!behind_copy.stderr.contains("0 first"), "it comes from the cache: {behind_copy}");
    at("2", "true").code_is(2).says("no instruction that makes files is there in");
    let help = run(debug(&home, &["--help"]).stdin(Stdio::null())).ok().stdout;
    assert!(help.contains("--build-arg") && help.contains("--secret"), "{help}");
    for of_a_build in ["--tag", "--output", "--push", "--iidfile", "--cache-to", "--on-error"] {
        assert!(!help.contains(of_a_build), "{of_a_build}: {help}");
    }
    run(debug(&home, &["-t", "x"]).arg("1")).code_is(2).says("--tag is for `builder build`");
    at("7", "true").code_is(1).says("exit code: 7");
}

#[test]
fn without_a_shell_it_says_so() {
    let home = Home::new();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let mut debug = debug(&home, &["--at", "2"]);
    run(debug.arg(context.path())).says("a shell needs /bin/sh");
}

#[test]
fn every_try_but_the_last_is_forgotten() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN --retry=2 date +%N > /try; false\n");
    run(&mut home.build(&context)).code_is(1);
    let list = run(&mut debug(&home, &["--list"])).ok().stdout;
    assert_eq!(list.lines().count(), 2, "{list}");
}

/// Each try begins with the file system of the first; what a cache mount holds stays.
#[test]
fn a_further_try_can_succeed() {
    let home = Home::new();
    // The third try succeeds, unless it sees what one before it made.
    let context = |flag: &str, cache: &str| {
        Context::new(&format!(
            "FROM busybox\nRUN {flag} --mount=type=cache,id={cache},target=/c \
             test ! -e /tried || exit 9; touch /tried; rm /etc/group || exit 8; echo x >> /c/tries; exit $((3 - $(wc -l < /c/tries)))\n\
             RUN --mount=type=cache,id={cache},target=/c wc -l < /c/tries; ls /tried /etc\n"
        ))
    };
    let built = |context: &Context, arguments: &[&str]| {
        run(home.build(context).args(["--progress=rawjson", "--no-cache"]).args(arguments))
    };
    for (flag, cache, arguments) in
        [("--retry=2", "said", &[][..]), ("", "asked", &["--retry=2"]), ("--retry=2", "both", &["--retry=0"])]
    {
        let done = built(&context(flag, cache), arguments).ok();
        let log = done.steps().named("wc -l < /c/tries; ls").log.clone();
        assert!(log.starts_with("3\n/tried\n") && !log.contains("group"), "{flag} {arguments:?}: {done}");
    }
    // One try too few.
    built(&context("--retry=1", "few"), &[]).code_is(1);
    built(&context("", "fewer"), &["--retry=1"]).code_is(1);
    built(&context("--retry=0", "none"), &["--retry=2"]).code_is(1);
}

/// The time that the command line gives is for each RUN that says nothing itself.
#[test]
fn a_step_that_takes_too_long_is_ended() {
    let home = Home::new();
    let endless = Context::new("FROM busybox\nRUN echo begun; sleep 40\n");
    let ended = run(home.build(&endless).args(["--progress=plain", "--timeout=1s"])).code_is(1);
    assert!(ended.stderr.contains(" begun\n") && ended.took < Duration::from_secs(30), "{ended}");
    drop(ended.says("timeout of 1s"));
    let patient = Context::new("FROM busybox\nRUN --timeout=1m sleep 2\n");
    run(home.build(&patient).arg("--timeout=1s")).ok();
    let own = Context::new("FROM busybox\nRUN --timeout=1s sleep 40\n");
    run(home.build(&own).arg("--timeout=1m")).code_is(1).says("timeout of 1s");
}

#[test]
fn output_is_limited_and_replayed() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox AS one\nRUN seq 1 2000 >&2\nFROM busybox\nCOPY --from=one /etc/passwd /\nRUN echo last\n",
    );
    let built = run(home.build(&context).args(["--progress=plain", "--log-size=1k"])).ok();
    built.says_in_stderr(" 100\n").says_in_stderr("output clipped, log limit of 1024 bytes reached");
    assert!(!built.stderr.contains(" 2000\n"), "{built}");
    built.says_in_stderr("7869 bytes of output were not shown");
    let quiet = run(home.build(&context).arg("--progress=plain")).ok();
    assert!(!quiet.stderr.contains(" 1\n"), "{quiet}");
    // All of it was stored, and the cached steps of every stage show it again.
    let again = run(home.build(&context).args(["--progress=plain", "--replay"])).ok();
    again.says_in_stderr(" 1\n").says_in_stderr(" 2000\n").says_in_stderr(" last\n");
    assert!(again.stderr.contains("CACHED") && !again.stderr.contains("clipped"), "{again}");
}

/// Standard error holds a text.
trait Says {
    fn says_in_stderr(&self, text: &str) -> &Self;
    fn ok_stdout_says(self, text: &str);
}

impl Says for Done {
    fn says_in_stderr(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "{text:?} is missing: {self}");
        self
    }

    fn ok_stdout_says(self, text: &str) {
        let done = self.ok();
        assert!(done.stdout.contains(text), "{text:?} is missing: {done}");
    }
}

#[test]
fn a_terminal_of_its_own() {
    let home = Home::new();
    run(home.build(&Context::new("FROM busybox\nCMD [\"sh\"]\n")).args(["-t", "app"])).ok();
    let terminal = Terminal::start(90, 30, &home.path(), &["sh"]);
    terminal.keys(&[&format!("'{}' run -it app", binary().display()), "Enter"]);
    terminal.until("prompt", |screen| screen.contains("/ #"));
    terminal.keys(&["stty size; tty", "Enter"]);
    terminal.shows("30 90");
    terminal.shows("/dev/pts/0");
    // Job control, which needs a terminal that is the shell's own.
    terminal.keys(&["sleep 1000", "Enter"]);
    terminal.until("stopped job", |_| {
        // Before the program is in the foreground the key reaches nobody.
        terminal.keys(&["C-z"]);
        terminal.screen().contains("Stopped")
    });
    run(&mut terminal.tmux(&["resize-window", "-x", "70", "-y", "20"])).ok();
    terminal.keys(&["kill -KILL %1; wait; stty size", "Enter"]);
    terminal.shows("20 70");
    terminal.until("end of the job, without which the shell stays", |_| {
        terminal.keys(&["Enter"]);
        terminal.screen().contains("Killed")
    });
    terminal.keys(&["exit 5", "Enter"]);
    // What is typed before the program has ended is the program's.
    terminal.until("outer prompt", |screen| screen.trim_end().ends_with("\n#"));
    // The terminal is as it was.
    terminal.keys(&["echo code=$?", "Enter"]);
    terminal.shows("code=5");
}

#[test]
fn directories_of_the_machine() {
    let (home, dir) = (Home::new(), tempdir());
    run(home.build(&Context::new("FROM busybox\nCMD [\"sh\"]\n")).args(["-t", "app"])).ok();
    std::fs::write(dir.path().join("in"), "inside\n").expect("write a file");
    let host = dir.path().display();
    let volume = format!("{host}:/data");
    let done = run(home.builder("run").args([
        "-v",
        &volume,
        "app",
        "sh",
        "-c",
        "cat /data/in; echo out > /data/out",
    ]));
    assert_eq!(done.ok().stdout, "inside\n");
    assert_eq!(std::fs::read_to_string(dir.path().join("out")).expect("what it wrote"), "out\n");
    let read_only = format!("{host}:/data:ro");
    run(home.builder("run").args(["-v", &read_only, "app", "touch", "/data/new"]))
        .code_is(1)
        .says("Read-only file system");
    run(home.builder("run").args(["-v", "nowhere:/data", "app"]))
        .code_is(125)
        .says("named volumes do not exist");
}
