//! Looking into steps: `builder debug`, `--on-error=shell`, stored output, terminals.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use e2e::{
    Agent, Context, Done, Home, Running, Terminal, User, bases, binary, eventually, processes_with, run,
    ssh_key, tempdir,
};
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
    run(&mut debug(&home, &[])).code_is(1).says("no step that failed left anything");
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
    run(&mut debug(&home, &["17"]))
        .code_is(1)
        .says("nothing of a failed step 17: ")
        .says("none had that number");
    run(&mut debug(&home, &["/nowhere"])).code_is(2).says("is no number of a failed step");
    run(home.builder("prune").args(["--all", "--force"])).ok();
    run(&mut debug(&home, &["1"])).code_is(1).says("nothing of a failed step 1: ").says("was removed");
    // What could not be started left nothing.
    run(&mut home.build(&Context::new("FROM scratch\nRUN /a\n"))).code_is(1).says("/bin/sh");
    for looked in [&[][..], &["--list"]] {
        let done = run(&mut debug(&home, looked)).says("what failed could not be started");
        assert_eq!(done.code, Some(i32::from(looked.is_empty())), "{done}");
    }
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

/// What an ordinary user sees of a step is what root does: owners too, whether there are ids for them or they are only recorded.
#[test]
fn shells_of_an_ordinary_user() {
    let context = Context::new(
        "FROM busybox\nENV COLOR=blue\n\
         RUN echo ann:x:1000:1000::/home/ann:/bin/sh >> /etc/passwd && mkdir /src && chown 1000:1000 /src && echo x > /below && chown 5:6 /below && chmod 1777 /tmp\n\
         WORKDIR /src\nCOPY --chown=7:8 Dockerfile .\n\
         RUN --network=none --mount=type=secret,id=word --mount=type=cache,target=/c --mount=type=tmpfs,target=/t,size=1m \
         cp /run/secrets/word /src/copy && chown ann:9 /src/copy && echo kept > /c/f && chown 11:12 /c/f && rm Dockerfile && chown -h 13:14 /below && exit 7\n\
         USER ann\n",
    )
    .file("word", "open sesame");
    const LOOK: &str = "id -u; id -g; pwd; echo $COLOR; stat -c '%n %u:%g %a' /below copy /src /c/f /etc/passwd /tmp /run/secrets/word; cat /c/f copy; ls /sys/class/net; \
        df -k /t | tail -1 | awk '{print $2}'; touch new && chown 20:21 new && stat -c %u:%g new; grep -E '^(NoNew|Seccomp:)' /proc/self/status";
    let secret = format!("--secret=id=word,src={}", context.path().join("word").display());
    let shells = |build: Command, debug: &dyn Fn() -> Command, bases: Vec<String>| {
        let mut build = build;
        let (code, at_once, stderr) = fed(build.args([&secret, "--on-error=shell"]), &format!("{LOOK}\n"));
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("A shell inside the failed step"), "{stderr}");
        let later = run(debug().args(["1", "--command", LOOK, &secret])).ok().stdout;
        let mut behind = debug();
        behind.args(["--at=5", "--command", "pwd; stat -c '%n %u:%g' Dockerfile /below /src; touch new"]);
        let behind = run(behind.args(bases).arg(context.path())).ok().stdout;
        (at_once, later, behind)
    };
    let home = Home::new();
    let (at_once, later, behind) = shells(home.build(&context), &|| home.builder("debug"), bases());
    assert_eq!(at_once, later);
    let seen = "/below 13:14 644\ncopy 1000:9 400\n/src 1000:1000 755\n/c/f 11:12 644\n/etc/passwd 0:0 644\n";
    assert!(later.contains(seen) && later.contains("kept\nopen sesamelo\n1024\n20:21\n"), "{later}");
    assert!(behind.ends_with("Dockerfile 7:8\n/below 5:6\n/src 1000:1000\n"), "{behind}");
    for (user, kind) in [(User::with_range(), "range"), (User::with_one_id(), "one id")] {
        let bases = vec![format!("--build-context=busybox=oci-layout://{}", user.at("busybox").display())];
        let of_user = shells(user.build(&context), &|| user.builder("debug"), bases);
        assert_eq!(of_user, (at_once.clone(), later.clone(), behind.clone()), "{kind}");
        // Another user's, where there is one to become.
        if kind == "range" {
            run(user.build(&failing()).arg(&secret)).code_is(1);
            let seen = run(user.builder("debug").args(["--command", self::LOOK, &secret])).ok().stdout;
            assert_eq!(seen, "ann\n/src\nblue []\nhalf\nkept\nDockerfile\nopen sesame");
        }
        // What the first shell changed is gone.
        let gone = run(user.builder("debug").args(["1", "--command", "test ! -e new", &secret]));
        assert_eq!(gone.code, Some(0), "{kind}: {gone}");
    }
}

/// An agent is asked for again, as secrets are; what is in memory is the step's own, and gone with it.
#[test]
fn a_shell_asks_for_agents_again() {
    // The agents' protocol (draft-ietf-sshm-ssh-agent): 11 asks for the keys.
    const LOOK: &str = r#"perl -MIO::Socket::UNIX -e '
        my $agent = IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK}) or die "no agent"; $agent->syswrite(pack("NC", 1, 11));
        my $keys; 1 while length($keys) < 4 + unpack("N", $keys . "\0\0\0\0") && $agent->sysread($keys, 9999, length $keys); print unpack("H*", $keys), "\n"';
        echo $SSH_AUTH_SOCK; ls -A /t; df -k /t | tail -1 | awk '{print $2}'; head -c 2000000 /dev/zero > /t/f || rm /t/f; exit 3"#;
    let (home, agent, key) = (Home::new(), Agent::start(), ssh_key());
    let context = Context::new(
        "FROM debian\nRUN --mount=type=ssh,required --mount=type=tmpfs,target=/t,size=1m echo gone > /t/f; exit 7\n",
    );
    let public = |text: &str| {
        let blob = text.split_whitespace().nth(1).expect("a public key");
        let blob = base64::engine::general_purpose::STANDARD.decode(blob).expect("base64");
        blob.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let sees = |stdout: &str, key: &str| {
        let lines: Vec<&str> = stdout.lines().collect();
        assert!(lines[0].contains(&public(key)), "{stdout}");
        assert_eq!(lines[1..], ["/run/buildkit/ssh_agent.0", "1024"], "{stdout}");
    };
    let given = format!("--ssh=default={}", agent.socket().display());
    let (code, at_once, stderr) =
        fed(home.build(&context).args([&given, "--on-error=shell"]), &format!("{LOOK}\n"));
    assert!(code == Some(1) && stderr.contains("No space left"), "{stderr}");
    sees(&at_once, &agent.public_key());
    let refused = run(&mut debug(&home, &["1", "--command", LOOK])).code_is(1);
    assert_eq!(refused.stdout, "", "{refused}");
    drop(refused.says("ssh default is required: give it with --ssh default"));
    let look = |command: &mut Command| run(command).code_is(3).stdout;
    sees(&look(&mut debug(&home, &["1", "--command", LOOK, &given])), &agent.public_key());
    // Another one is given this time.
    let of_key = format!("--ssh=default={}", key.path().join("key").display());
    let other = std::fs::read_to_string(key.path().join("key.pub")).expect("read the key");
    sees(&look(&mut debug(&home, &["1", "--command", LOOK, &of_key])), &other);
    // A user's own, in a file that only that user may read.
    run(Command::new("chown").args(["-R", "65534:65534"]).arg(key.path())).ok();
    let user = User::with_one_id();
    run(user.build(&context).arg(&of_key)).code_is(1);
    sees(&look(user.builder("debug").args(["1", "--command", LOOK, &of_key])), &other);
}

/// A shell in the user's terminal has one of its own, that of a failed build as well.
#[test]
fn a_shell_has_a_terminal() {
    let (home, context) = (Home::new(), failing());
    let secret = context.path().join("../word");
    std::fs::write(&secret, "open sesame").expect("write the secret");
    let secret = format!("--secret=id=word,src={}", secret.display());
    let program = binary();
    let program = program.display();
    let mut build = format!("'{program}' build --on-error=shell {secret} '{}'", context.path().display());
    bases().iter().for_each(|base| build.push_str(&format!(" '{base}'")));
    for (command, code) in [(build, 1), (format!("'{program}' debug {secret} 1"), 5)] {
        let terminal = Terminal::start(100, 40, &home.path(), &["sh"]);
        terminal.keys(&[&command, "Enter"]);
        terminal.until("prompt", |screen| {
            screen.contains("A shell inside") && screen.trim_end().ends_with("/src $")
        });
        terminal.keys(&[
            "clear; id -un; echo $COLOR $TERM; cat /tmp/half /run/secrets/word; stty size; tty",
            "Enter",
        ]);
        terminal.until("what it has", |screen| {
            screen.contains("ann\nblue screen") || screen.contains("ann\nblue tmux")
        });
        terminal.shows("half");
        terminal.shows("open sesame40 100");
        terminal.shows("/dev/pts/0");
        let marker = format!("of {}", std::process::id());
        let program = format!("trap 'echo size: $(stty size)' WINCH; while sleep 0.1; do : {marker}; done");
        terminal.keys(&[&format!("sh -c \"{}\"", program.replace('$', "\\$")), "Enter"]);
        eventually(Duration::from_secs(20), "a program to run", || !processes_with(&marker).is_empty());
        // Job control, which needs a terminal that is the shell's own.
        terminal.until("stopped job", |_| {
            terminal.keys(&["C-z"]);
            terminal.screen().contains("Stopped")
        });
        terminal.keys(&["fg", "Enter"]);
        let mut rows = 20;
        terminal.until("new size", |screen| {
            // Before the program is in the foreground it is not told.
            rows = 41 - rows;
            run(&mut terminal.tmux(&["resize-window", "-x", "70", "-y", &rows.to_string()])).ok();
            ["size: 20 70", "size: 21 70"].iter().any(|size| screen.contains(size))
        });
        // It ends, and the shell does not.
        terminal.until("the end of a command", |screen| {
            terminal.keys(&["C-c"]);
            processes_with(&marker).is_empty() && screen.trim_end().ends_with("/src $")
        });
        terminal.keys(&["exit 5", "Enter"]);
        terminal.until("outer prompt", |screen| screen.trim_end().ends_with("\n#"));
        terminal.keys(&["echo code=$?", "Enter"]);
        terminal.shows("# echo code=$?");
        terminal.shows(&format!("code={code}"));
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

/// `fsck --repair` holds the store for itself.
#[test]
fn who_waits_for_the_store_can_be_interrupted() {
    let (home, context) = (Home::new(), failing());
    run(&mut build(&home, &context, &[])).code_is(1);
    let lock =
        std::fs::File::options().write(true).open(home.path().join("session-v1.lock")).expect("a lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    for mut command in [debug(&home, &["--command", "true"]), build(&home, &context, &[])] {
        let mut waiting = Running::start(&mut command);
        let opened = || {
            let files =
                std::fs::read_dir(format!("/proc/{}/fd", waiting.0.id())).into_iter().flatten().flatten();
            let mut files = files.filter_map(|file| std::fs::read_link(file.path()).ok());
            files.any(|file| file.ends_with("session-v1.lock"))
        };
        eventually(Duration::from_secs(20), "it to come to the lock", || {
            opened() && waiting.handles(Signal::INT)
        });
        std::thread::sleep(Duration::from_millis(300));
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
    run(&mut home.build(&context)).code_is(1).says("hint: that was the last of 3 tries");
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
    let endless = Context::new("FROM busybox\nRUN echo begun; sleep 400\n");
    let ended = run(home.build(&endless).args(["--progress=plain", "--timeout=3s"])).code_is(1);
    assert!(ended.stderr.contains(" begun\n") && ended.took < Duration::from_secs(200), "{ended}");
    drop(ended.says("timeout of 3s"));
    let patient = Context::new("FROM busybox\nRUN --timeout=1m sleep 2\n");
    run(home.build(&patient).arg("--timeout=1s")).ok();
    let own = Context::new("FROM busybox\nRUN --timeout=1s sleep 400\n");
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

/// Nothing runs to be shown: neither what ran in this build, nor what is not needed and is gone.
#[test]
fn a_replay_runs_nothing() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox AS other\nRUN echo other\nFROM busybox AS main\nCOPY --from=other /etc/passwd /\n\
         RUN cat /proc/sys/kernel/random/uuid > /uuid; echo once >&2\n",
    );
    let built = |words: &[&str]| {
        let out = tempdir();
        let mut build = home.build(&context);
        let done = run(build.args(["--progress=plain", "-o"]).arg(out.path()).args(words)).ok();
        (std::fs::read_to_string(out.path().join("uuid")).expect("what the step wrote"), done)
    };
    // Lines such as `#5 0.062 text`.
    let printed = |done: &Done, text: &str| {
        done.stderr.lines().filter(|line| line.split(' ').skip(2).eq([text])).count()
    };
    let (first, _) = built(&[]);
    let (second, done) = built(&["--no-cache", "--replay"]);
    assert_ne!(first, second);
    for text in ["once", "other"] {
        assert_eq!(printed(&done, text), 1, "{done}");
    }
    assert_eq!(built(&[]).0, second, "what is in the image is what is found");
    let (third, done) = built(&["--no-cache-filter=main", "--replay"]);
    assert!(third != second && printed(&done, "other") == 1, "{done}");
    assert_eq!(built(&["--replay"]).0, third);

    // A stage whose layer is gone, and what was copied of it is not.
    let counting = Context::new(
        "FROM busybox AS made\nRUN --mount=type=cache,id=counter,target=/c echo x >> /c/n; wc -l < /c/n > /n; echo made\n\
         FROM busybox\nCOPY --from=made /etc/passwd /\nRUN echo last\n",
    );
    let counted = || {
        let look = "FROM busybox\nRUN --mount=type=cache,id=counter,target=/c wc -l < /c/n\n";
        let looked = run(home.build(&Context::new(look)).arg("--progress=rawjson")).ok();
        looked.steps().named("wc -l < /c/n").log.clone()
    };
    run(&mut home.build(&counting)).ok();
    let listed =
        run(home.builder("du").args(["--format=json", "--filter=description=echo made"])).ok().stdout;
    let layer: serde_json::Value = serde_json::from_str(listed.trim()).expect("the layer of the stage");
    let id = layer["ID"].as_str().expect("an id");
    run(home.builder("prune").args(["--force", &format!("--filter=id={id}")])).ok();
    for words in [&["--progress=plain"][..], &["--progress=plain", "--replay"]] {
        let done = run(home.build(&counting).args(words)).ok();
        assert!(done.stderr.contains("CACHED") && printed(&done, "made") == 0, "{done}");
        assert_eq!(printed(&done, "last"), words.len() - 1, "{done}");
    }
    assert_eq!(counted(), "1\n", "the step ran once");
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

/// What a pager sets while it reads from a program stays, also when the program ends: in a pipeline the terminal is the pager's.
#[test]
fn a_pager_keeps_its_terminal() {
    let home = Home::new();
    run(home.build(&Context::new("FROM busybox\n")).args(["-t", "app"])).ok();
    let dir = tempdir();
    let pager = dir.path().join("pager");
    // It sets the terminal when the program runs, and looks when nobody writes any more.
    let text = "read -r first; stty -icanon -echo < /dev/tty; cat; stty -a < /dev/tty; stty sane < /dev/tty; echo all\n";
    std::fs::write(&pager, text).expect("write");
    let terminal = Terminal::start(100, 30, &home.path(), &["sh"]);
    let program = "sh -c 'echo begun; sleep 0.5; echo hi'";
    terminal
        .keys(&[&format!("'{}' run app {program} | sh '{}'", binary().display(), pager.display()), "Enter"]);
    terminal.shows("all");
    let screen = terminal.screen();
    assert!(screen.contains(" -icanon") && screen.contains(" -echo "), "{screen}");
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
