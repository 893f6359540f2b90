//! `--runtime`: what runc and crun make of a RUN is what the builder itself makes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::{
    Case, Context, Done, Home, Image, Running, Steps, Terminal, User, bases, binary, eventually, feed,
    in_parallel, mounts_with, need_root, processes_with, run, tempdir,
};
use rustix::process::Signal;
use tempfile::TempDir;

/// The runtimes, which `cargo xtask test` installs.
const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// A build with fixed times, its layout and what it said. The empty name is the builder's own way.
fn built(mut build: Command, runtime: &str) -> (Done, Option<Image>) {
    let dir = tempdir();
    let layout = dir.path().join("layout");
    let output = format!("type=oci,tar=false,name=case:latest,dest={}", layout.display());
    build.args(["-o", &output, "--progress=rawjson"]);
    build.env("SOURCE_DATE_EPOCH", "1600000000").env("BUILDER_RUNTIME", runtime);
    let done = run(&mut build);
    let image = (done.code == Some(0)).then(|| Image::open(layout, Some(dir)));
    (done, image)
}

/// What each step printed.
fn printed(steps: &Steps) -> Vec<(String, String)> {
    let steps = steps.instructions().map(|step| (step.name.clone(), step.log.clone()));
    let mut steps: Vec<_> = steps.filter(|(name, _)| name.contains("RUN")).collect();
    steps.sort();
    steps
}

/// runc knows no user ids from 2^31 on, and says so.
const BEYOND_RUNC: &str = "run_user_with_large_id";

/// The cases of the language that are about RUN, each with one of the runtimes.
#[test]
fn the_language_is_the_same() {
    need_root();
    let files = Case::files();
    let file = files.iter().find(|file| file.ends_with("run.cases")).expect("the cases of RUN");
    let cases: Vec<Case> = Case::read(file).into_iter().filter(Case::is_plain).collect();
    assert!(cases.len() > 40, "cases of RUN");
    let mut cases: Vec<(&Case, &str)> =
        cases.iter().enumerate().map(|(number, case)| (case, RUNTIMES[number % 2])).collect();
    let homes: Vec<[Home; 2]> = (0..2).map(|_| [Home::new(), Home::new()]).collect();
    in_parallel(&mut cases, |worker, (case, runtime)| {
        let runtime = if case.name == BEYOND_RUNC { "crun" } else { *runtime };
        let name = format!("{} by {runtime}", case.name);
        let context = case.prepare();
        let of = |home: &Home, runtime: &str| {
            let mut build = home.build(&context);
            build.args(case.build_args()).arg("--no-cache");
            built(build, runtime)
        };
        let [own, other] = &homes[worker];
        let (done, image) = of(own, "");
        let (theirs, their_image) = of(other, runtime);
        assert_eq!(theirs.code, done.code, "{name}\n{theirs}\n{done}");
        match (&image, &their_image) {
            (Some(image), Some(theirs)) => {
                theirs.tree().same(&image.tree(), &name);
                assert_eq!(theirs.digest, image.digest, "{name}");
            }
            _ => assert!(image.is_none() && their_image.is_none(), "{name}"),
        }
        if done.code == Some(0) {
            assert_eq!(printed(&theirs.steps()), printed(&done.steps()), "{name}");
        }
    });
}

/// Everything that a step can be given, and what it sees of it.
const SURROUNDINGS: &str = r#"
FROM busybox AS other
RUN mkdir /o && echo of the stage > /o/f
FROM busybox
RUN echo me:x:1234:1234::/home/me:/bin/sh >> /etc/passwd && printf 'me:x:1234:\nmore:x:77:me\n' >> /etc/group && chmod 1777 /tmp
ENV NAME="a value"
WORKDIR /w
USER me
RUN --mount=type=bind,from=other,source=/o,target=/b --mount=type=bind,target=/ctx,rw --mount=type=cache,target=/c,uid=1234 --mount=type=tmpfs,target=/t,size=1m --mount=type=secret,id=s,target=/run/s,uid=1234 --mount=type=secret,id=s,env=S <<END
exec 2>&1; id; pwd; echo "$NAME $HOME"; hostname; umask; ulimit -n; ulimit -c
grep -E '^(Cap|NoNew|Seccomp:|SigBlk|SigIgn)' /proc/self/status
cat /b/f /ctx/f /run/s; [ "$S" = secret ] && echo as a variable; stat -c '%a %u %g' /run/s /c /t
echo mine > /c/mine; echo kept > /tmp/kept; echo x > /b/new || echo refused
df -k /t | tail -1 | awk '{print $2}'; df -k /dev/shm | tail -1 | awk '{print $2}'
ls /dev; cat /etc/hosts; ls /proc/acpi; head -c 1 /proc/kcore /proc/timer_list
echo 0 > /proc/sys/kernel/domainname; unshare -m true; cat | wc -c
[ "$(stat -c %i /)" = "$(stat -c %i /..)" ] && [ "$(stat -c %d /)" = "$(stat -c %d /..)" ] && echo the top
grep -c -v -E ' /(proc|dev|sys|etc/(hosts|resolv.conf)|b|ctx|c|t|run/s)?[/ ]' /proc/self/mountinfo; true
END
USER root
RUN --network=none exec 2>&1; ip link | grep -c '^[0-9]'; head -c 1 /dev/null; mknod /disk b 254 0; head -c 1 /disk; rm /disk; mount -t tmpfs none /mnt; true
RUN --mount=type=cache,target=/c cat /c/mine && rm -rf /w/gone && chown 5:6 /tmp/kept && (setsid sleep 300 & echo left one)
"#;

#[test]
fn surroundings_are_the_same() {
    need_root();
    let context = Context::new(SURROUNDINGS).file("f", "of the context\n").file("secret", "secret");
    let of = |runtime: &str| {
        let home = Home::new();
        let mut build = home.build(&context);
        build.args(["--ulimit=core=0", "--shm-size=4m", "--add-host=db:10.0.0.1"]);
        build.arg(format!("--secret=id=s,src={}", context.path().join("secret").display()));
        built(build, runtime)
    };
    let (done, image) = of("");
    let (steps, image) = (done.steps(), image.unwrap_or_else(|| panic!("{done}")));
    let seen = &steps.named("exec 2>&1; id; pwd").log;
    assert!(seen.contains("the top\n") && seen.contains("as a variable\n"), "{seen}");
    for runtime in RUNTIMES {
        let (theirs, their_image) = of(runtime);
        let their_image = their_image.unwrap_or_else(|| panic!("{runtime}: {theirs}"));
        assert_eq!(printed(&theirs.steps()), printed(&steps), "{runtime}");
        their_image.tree().same(&image.tree(), runtime);
    }
}

/// Known ways out, as the sandbox's own tests try them.
const ATTEMPTS: &str = include_str!("../crates/executor/tests/sandbox/attempts.sh");

#[test]
fn no_way_out() {
    need_root();
    let outside = tempdir();
    let file = outside.path().join("outside");
    std::fs::write(&file, "secret of the host").expect("write a file");
    let script = format!("OUTSIDE={}\nHOST={}\n{ATTEMPTS}", file.display(), std::process::id());
    let context = Context::new("FROM busybox\nRUN --mount=target=/ctx sh /ctx/attempts.sh\n")
        .file("attempts.sh", script);
    for runtime in RUNTIMES {
        let home = Home::new();
        let steps = home.steps(&context, &[&format!("--runtime={runtime}")]);
        let log = &steps.named("attempts").log;
        let found: Vec<&str> = log.lines().filter(|line| line.ends_with(" succeeded")).collect();
        // With a number of the host's a process of its own may be meant.
        let found: Vec<&str> = found.into_iter().filter(|line| !line.starts_with("kill ")).collect();
        assert!(found.is_empty() && log.ends_with("tried\n"), "{runtime}: {log}");
    }
}

/// Also of what goes to standard error: `set -x` says what follows.
#[test]
fn output_has_the_order_in_which_it_was_written() {
    need_root();
    let script = "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); echo $i >&2; i=$((i+1)); done";
    let context = Context::new(&format!("FROM busybox\nRUN {script}\n"));
    let expected: String = (0..200).map(|number| format!("{number}\n")).collect();
    let home = Home::new();
    assert_eq!(home.steps(&context, &[]).named("RUN").log, expected);
    for runtime in RUNTIMES {
        let steps = home.steps(&context, &["--no-cache", &format!("--runtime={runtime}")]);
        assert_eq!(steps.named("RUN").log, expected, "{runtime}");
    }
}

#[test]
fn an_ordinary_user_has_them_too() {
    let context = Context::new(
        "FROM busybox\nRUN id -u && echo me:x:1234:1234::/home/me:/bin/sh >> /etc/passwd && mkdir -p /home/me && chown me /home/me && chmod 1777 /tmp && touch /new && cat /proc/self/uid_map\n\
         USER me\nRUN --mount=type=cache,target=/c,uid=1234 id && echo x > /c/x && touch /tmp/mine && ! touch /no 2>/dev/null\n",
    );
    let of = |runtime: &str| {
        let user = User::with_range();
        let (done, _) =
            (run(user.build(&context).arg("--progress=rawjson").env("BUILDER_RUNTIME", runtime)).ok(), ());
        let layout = user.at("out/layout");
        let mut build = user.build(&context);
        build.args(["-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
        run(build.env("SOURCE_DATE_EPOCH", "1600000000").env("BUILDER_RUNTIME", runtime).arg("--no-cache"))
            .ok();
        (printed(&done.steps()), Image::open(layout, None).tree())
    };
    let (steps, tree) = of("");
    for runtime in RUNTIMES {
        let (their_steps, their_tree) = of(runtime);
        assert_eq!(their_steps, steps, "{runtime}");
        their_tree.same(&tree, runtime);
    }
    // Nobody records owners for a runtime.
    let user = User::with_one_id();
    run(user.build(&context).arg("--runtime=runc"))
        .code_is(3)
        .says("the runtime /usr/sbin/runc cannot record owners");
}

/// The ends of a step that are not its own doing.
#[test]
fn ends_are_the_same() {
    need_root();
    let failing = |runtime: &str, run_line: &str, flags: &[&str]| {
        let context = Context::new(&format!("FROM busybox\nRUN {run_line}\n"));
        let home = Home::new();
        let mut build = home.build(&context);
        build.args(flags).arg(format!("--runtime={runtime}"));
        run(&mut build)
    };
    for runtime in RUNTIMES {
        failing(runtime, "exit 77", &[]).code_is(1).says("exit code: 77");
        failing(runtime, "[\"no-such-program\"]", &[]).code_is(1).says("no-such-program");
        let marker = format!("sleep 297{}", std::process::id());
        failing(runtime, &format!("--timeout=500ms {marker}"), &[])
            .code_is(1)
            .says("killed after its timeout of 500ms");
        let hungry = "x=$(head -c 100m /dev/zero | tr '\\0' x); echo $x | wc -c";
        failing(runtime, hungry, &["--memory=32m"]).code_is(1).says("its limit is 32 MiB");
        // Part of them are the runtime's own until the program runs.
        let many = "i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done; wait";
        failing(runtime, many, &["--pids-limit=20"]).says("fork");
        assert!(processes_with(&marker).is_empty(), "{runtime}");
    }
    // Other tests kill builds, whose groups go with the next.
    eventually(Duration::from_secs(30), "no group to be left", no_group_is_left);
    failing("./no/such", "true", &[]).code_is(1).says("--runtime=./no/such: there is no runtime ./no/such");
    failing("no-such", "true", &[]).code_is(1).says("there is no runtime no-such: it is not in PATH");
    failing("/bin/false", "true", &[]).code_is(3).says("/bin/false create: it ended with exit code 1");
}

/// A runtime by its path, which calls another, and says a lot.
struct Talker(TempDir);

impl Talker {
    fn new(runtime: &str) -> Self {
        let talker = Self(tempdir());
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {}\ncase \"$*\" in *start*) echo talks; echo more >&2;; esac\nexec {runtime} \"$@\"\n",
            talker.0.path().join("calls").display()
        );
        // By the name from which it is known what it can do.
        fs::write(talker.program(runtime), script).expect("write a program");
        fs::set_permissions(talker.program(runtime), fs::Permissions::from_mode(0o755)).expect("make it one");
        talker
    }

    fn program(&self, runtime: &str) -> PathBuf {
        self.0.path().join(runtime)
    }

    /// How it was called since the last look.
    fn calls(&self) -> Vec<String> {
        let path = self.0.path().join("calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        calls.lines().map(str::to_owned).collect()
    }

    /// That it made one process since the last look, and nothing else did.
    #[track_caller]
    fn made_one(&self, what: &str) {
        let calls = self.calls();
        let is = |at: usize, text: &str| calls.get(at).is_some_and(|call| call.contains(text));
        assert!(calls.len() == 2 && is(0, " create --bundle ") && is(1, " start "), "{what}: {calls:?}");
    }
}

#[test]
fn any_program_can_be_one() {
    need_root();
    let talker = Talker::new("runc");
    let context = Context::new("FROM busybox\nRUN echo said\n");
    let steps = Home::new().steps(&context, &[&format!("--runtime={}", talker.program("runc").display())]);
    assert_eq!(steps.named("RUN").log, "said\n");
    talker.made_one("a step");
}

/// A Dockerfile whose last step fails after it did something, with a bit of each kind around it.
const FAILING: &str = r#"
FROM busybox
ENV COLOR=blue
RUN echo ann:x:1000:1000::/home/ann:/bin/sh >> /etc/passwd && mkdir /src && chmod 1777 /tmp
WORKDIR /src
USER ann
RUN --network=none --mount=type=cache,target=/c,uid=1000 --mount=type=tmpfs,target=/t,size=1m --mount=type=secret,id=s,uid=1000 --mount=target=/ctx echo half > /tmp/half; echo kept > /c/f; exit 7
"#;

/// What a shell sees of it.
const LOOK: &str = "exec 2>&1; id; pwd; echo $COLOR; cat /tmp/half /c/f /run/secrets/s; ls /ctx /sys/class/net; \
    grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; df -k /t | tail -1 | awk '{print $2}'; mount -t tmpfs none /t; \
    echo x 2> /dev/null > /ctx/new || echo refused; head -c 1 /proc/timer_list | wc -c; hostname; ulimit -n";

/// Whoever demands that a runtime makes what RUN runs has it make the shells inside steps as well.
#[test]
fn shells_are_made_by_them() {
    need_root();
    let context = Context::new(FAILING).file("secret", "of mine\n");
    let secret = format!("--secret=id=s,src={}", context.path().join("secret").display());
    // What three shells see: at once, later, and behind an instruction that did not fail.
    let shells = |runtime: &str, made: &dyn Fn(&str)| {
        let home = Home::new();
        let mut build = home.build(&context);
        build.args([&secret, "--on-error=shell"]).env("BUILDER_RUNTIME", runtime);
        let at_once = feed(&mut build, format!("{LOOK}\nexit 3\n").as_bytes()).code_is(1);
        made("two steps and a shell");
        let mut debug = home.builder("debug");
        debug.args(["1", "--command", &format!("{LOOK}; exit 3"), &secret]);
        let later = run(debug.env("BUILDER_RUNTIME", runtime)).code_is(3);
        made("a shell later");
        let mut debug = home.builder("debug");
        debug.args(["--at=4", "--command=cat /etc/passwd; grep Seccomp: /proc/self/status"]).args(bases());
        let behind = run(debug.arg(context.path()).env("BUILDER_RUNTIME", runtime)).ok();
        made("a shell behind an instruction");
        assert_eq!(at_once.stdout, later.stdout, "{runtime}");
        (later.stdout, behind.stdout)
    };
    let own = shells("", &|_| ());
    assert!(own.0.contains("uid=1000(ann)") && own.0.contains("half\nkept\nof mine\n"), "{}", own.0);
    for runtime in RUNTIMES {
        let talker = Talker::new(runtime);
        let made = |what: &str| {
            let calls = talker.calls();
            let created = calls.iter().filter(|call| call.contains(" create --bundle ")).count();
            assert_eq!(created, if what.starts_with("two") { 3 } else { 1 }, "{runtime}, {what}: {calls:?}");
        };
        let program = talker.program(runtime);
        assert_eq!(shells(&program.display().to_string(), &made), own, "{runtime}");
    }
    // The flag is for them too, and whoever gave it is told how to go on.
    let (home, talker) = (Home::new(), Talker::new("crun"));
    let flag = format!("--runtime={}", talker.program("crun").display());
    let failed = run(home.build(&context).args([&secret, &flag])).code_is(1);
    talker.calls();
    drop(failed.says(&format!("look into it: builder debug {flag} 1")));
    run(home.builder("debug").args(["1", &secret, "--command=true", &flag])).ok();
    talker.made_one("a shell");
    run(home.builder("debug").args(["1", &secret, "--command=true", "--runtime=no-such"]))
        .code_is(1)
        .says("--runtime=no-such: there is no runtime no-such");
    // A user with a single id: no runtime, and nothing else in its place.
    let user = User::with_one_id();
    let context = Context::new("FROM busybox\nRUN exit 7\n");
    run(&mut user.build(&context)).code_is(1);
    let refused = run(user.builder("debug").args(["--runtime=runc", "--command", "echo inside"])).code_is(3);
    assert_eq!(refused.stdout, "", "{refused}");
    drop(refused.says("cannot record owners"));
}

/// A shell in the user's terminal, which it shares where a runtime makes it.
#[test]
fn shells_have_the_terminal() {
    need_root();
    let (home, context) = (Home::new(), Context::new("FROM busybox\nRUN echo half > /half; exit 7\n"));
    run(&mut home.build(&context)).code_is(1);
    for runtime in RUNTIMES {
        let terminal = Terminal::start(90, 30, &home.path(), &["sh"]);
        terminal.keys(&[&format!("'{}' debug --runtime={runtime}", binary().display()), "Enter"]);
        terminal.until("prompt", |screen| screen.trim_end().ends_with("/ #"));
        assert!(terminal.screen().contains("no job control"), "{runtime}: {}", terminal.screen());
        terminal.keys(&["cat /half; stty size", "Enter"]);
        terminal.until("what it has", |screen| screen.contains("\nhalf\n30 90\n"));
        // What runs there ends, and the shell does not.
        let marker = format!("sleep 298{}", std::process::id());
        terminal.keys(&[&marker, "Enter"]);
        eventually(Duration::from_secs(20), "a program to run", || !processes_with(&marker).is_empty());
        terminal.until("the end of a command", |screen| {
            terminal.keys(&["C-c"]);
            processes_with(&marker).is_empty() && screen.trim_end().ends_with("/ #")
        });
        run(&mut terminal.tmux(&["resize-window", "-x", "70", "-y", "20"])).ok();
        terminal.keys(&["stty size", "Enter"]);
        terminal.shows("20 70");
        // How the shell leaves the terminal is not how it stays.
        terminal.keys(&["stty -echo; exit 5", "Enter"]);
        terminal.until("outer prompt", |screen| screen.trim_end().ends_with("\n#"));
        terminal.keys(&["echo code=$?", "Enter"]);
        terminal.shows("# echo code=$?");
        terminal.shows("code=5");
    }
}

/// A description of devices among the machine's own.
struct Described(PathBuf);

impl Described {
    fn new(text: &str) -> Self {
        let dir = Path::new("/var/run/cdi");
        fs::create_dir_all(dir).expect("make a directory");
        let described = Self(dir.join(format!("builder-e2e-runtimes-{}.json", std::process::id())));
        fs::write(&described.0, text).expect("write a description");
        described
    }
}

impl Drop for Described {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What a step may do that has been allowed to.
#[test]
fn privileges_and_devices_are_the_same() {
    need_root();
    let kind = format!("e2e.example/runtimes{}", std::process::id());
    let _described = Described::new(&format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "{kind}", "devices": [{{"name": "full", "containerEdits":
        {{"env": ["THING=1"], "deviceNodes": [{{"path": "/dev/thing", "hostPath": "/dev/full"}}]}}}}]}}"#
    ));
    let context = Context::new(&format!(
        "FROM busybox\n\
         RUN --security=insecure exec 2>&1; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; mkdir /t && mount -t tmpfs none /t && echo mounted; \
         umount /t; mknod /disk b 254 0 && rm /disk && echo made; echo x > /proc/sys/kernel/domainname && echo written; unshare -m true && echo apart; \
         grep -c -E ' /proc/(sys|acpi|timer_list)' /proc/self/mountinfo; true\n\
         RUN --device={kind}=full,required echo $THING; stat -c '%t %T' /dev/thing; echo x 2> /said > /dev/thing || grep -o 'No space left' /said; rm /said\n\
         RUN ls /dev/thing; echo \"[$THING]\"\n"
    ));
    let of = |runtime: &str| {
        let home = Home::new();
        let mut build = home.build(&context);
        build.args(["--allow=security.insecure", "--allow=device"]);
        let (done, image) = built(build, runtime);
        (printed(&done.steps()), image.unwrap_or_else(|| panic!("{runtime}: {done}")))
    };
    let (steps, image) = of("");
    let log = |name: &str| &steps.iter().find(|(step, _)| step.contains(name)).expect("a step").1;
    let free = "mounted\nmade\nwritten\napart\n0\n";
    assert!(log("insecure").ends_with(free) && log("insecure").contains("Seccomp:\t0\n"), "{steps:#?}");
    assert!(log("required").ends_with("1\n1 7\nNo space left\n"), "{steps:#?}");
    for runtime in RUNTIMES {
        let (theirs, their_image) = of(runtime);
        assert_eq!(theirs, steps, "{runtime}");
        their_image.tree().same(&image.tree(), runtime);
    }
}

/// What the groups of a step's processes say, by the names of both versions.
fn limit(pid: &str, controller: &str, files: [&str; 2]) -> (String, String) {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the groups of a process");
    let of = |line: &&str| {
        line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == controller))
    };
    let old = groups.lines().find(of).and_then(|line| line.split(':').nth(2));
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let found = [
        (old.map(|group| format!("/sys/fs/cgroup/{controller}{group}")), files[0]),
        (unified.map(|group| format!("/sys/fs/cgroup{group}")), files[1]),
    ]
    .into_iter()
    .find_map(|(dir, file)| {
        let text = fs::read_to_string(Path::new(dir.as_ref()?).join(file)).ok()?;
        Some((dir?, text.trim().to_owned()))
    });
    found.unwrap_or_else(|| panic!("neither of {files:?} in {groups}"))
}

/// A parent of steps' groups. What was named is the user's, who takes it away.
struct Parent(String);

impl Parent {
    /// Everything that is left of it, what is inside first.
    fn left(&self) -> String {
        let below = format!("*/{}*", self.0);
        run(Command::new("find").args(["/sys/fs/cgroup", "-depth", "-path", &below])).stdout
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let start = Instant::now();
        while !self.left().is_empty() && start.elapsed() < Duration::from_secs(20) {
            self.left().lines().for_each(|path| drop(fs::remove_dir(path)));
        }
    }
}

/// Limits of all processes together are in the groups that the program is in.
#[test]
fn limits_are_the_same() {
    need_root();
    let groups = Parent(format!("builders-e2e-{}", std::process::id()));
    let parent = &groups.0;
    for (number, runtime) in ["", "runc", "crun"].into_iter().enumerate() {
        let marker = format!("sleep 1{}{number}", std::process::id());
        let context = Context::new(&format!("FROM busybox\nRUN exec {marker}\n"));
        let home = Home::new();
        let mut build = home.build(&context);
        build.args(["--memory=64m", "--memory-swap=96m", "--pids-limit=77"]);
        build.arg(format!("--cgroup-parent=/{parent}/below")).env("BUILDER_RUNTIME", runtime);
        let building = Running::start(build.stdout(Stdio::null()).stderr(Stdio::null()));
        let mut pid = String::new();
        eventually(Duration::from_secs(30), &format!("{runtime} to run the step"), || {
            let found = processes_with(&marker);
            let mut programs =
                found.iter().filter_map(|process| process.strip_suffix(&format!(" {marker} ")));
            // The shell that is about to become it has more words in front.
            let program = programs.find(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()));
            pid = program.unwrap_or_default().to_owned();
            !pid.is_empty()
        });
        let (group, memory) = limit(&pid, "memory", ["memory.limit_in_bytes", "memory.max"]);
        assert_eq!(memory, "67108864", "{runtime}");
        assert!(group.contains(&format!("/{parent}/below/builder-")), "{runtime}: {group}");
        let (_, swap) = limit(&pid, "memory", ["memory.memsw.limit_in_bytes", "memory.swap.max"]);
        // Version 2 counts swap apart.
        let wanted = if group.starts_with("/sys/fs/cgroup/memory/") { "100663296" } else { "33554432" };
        assert_eq!(swap, wanted, "{runtime}");
        let (_, pids) = limit(&pid, "pids", ["pids.max", "pids.max"]);
        assert_eq!(pids, "77", "{runtime}");
        drop(building);
    }
}

/// Builds that end in the middle of what a runtime does: nothing of them stays, and the next one makes what a clean one makes.
#[test]
fn killed_builds_leave_nothing() {
    need_root();
    const KILLS: u32 = 12;
    let context = Context::new(
        "FROM busybox\nARG NUMBER\nRUN echo $NUMBER > /a\n\
         RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c (setsid sh -c 'trap \"\" TERM INT; sleep 900' &) ; cp /a /b\n\
         RUN --network=none sleep 0.2; cat /b > /c; rm /a\nRUN echo $NUMBER >> /b\n",
    );
    for runtime in RUNTIMES {
        let (home, dir) = (Home::new(), tempdir());
        let number = |kill: u32| format!("{}{runtime}{kill}", std::process::id());
        let build = |home: &Home, kill: u32| {
            let mut build = home.build(&context);
            build.arg(format!("--build-arg=NUMBER={}", number(kill))).env("TMPDIR", dir.path());
            build
        };
        let start = Instant::now();
        run(build(&home, 0).env("BUILDER_RUNTIME", runtime)).ok();
        let whole = start.elapsed();
        for kill in 1..=KILLS {
            let mut killed = build(&home, kill);
            killed.env("BUILDER_RUNTIME", runtime).stdout(Stdio::null()).stderr(Stdio::null());
            let mut killed = Running::start(&mut killed);
            std::thread::sleep(whole * kill / (KILLS + 1));
            let signal = [Signal::INT, Signal::TERM, Signal::KILL][kill as usize % 3];
            killed.signal(signal);
            killed.wait(Duration::from_secs(20));
            let how = format!("{runtime}, {signal:?}, {kill} of {KILLS}");
            eventually(Duration::from_secs(20), &format!("its processes to end: {how}"), || {
                processes_with(&format!("NUMBER={}", number(kill))).is_empty()
            });
            eventually(Duration::from_secs(20), &format!("its mounts to go: {how}"), || {
                mounts_with(&home.path().display().to_string()).is_empty()
            });
        }
        let (_, image) = built(build(&home, KILLS), runtime);
        let (_, clean) = built(build(&Home::new(), KILLS), "");
        assert_eq!(image.map(|image| image.digest), clean.map(|image| image.digest), "{runtime}");
        eventually(Duration::from_secs(30), "no group to be left", no_group_is_left);
        let left: Vec<_> = fs::read_dir(dir.path()).expect("list").flatten().collect();
        assert!(left.is_empty(), "{runtime}: {left:?}");
        // They keep what they make in memory that went with the step, and not where others have theirs.
        assert!(!Path::new("/run").join(runtime).join("step").exists(), "{runtime}");
    }
}

#[test]
fn images_run_in_them() {
    need_root();
    let home = Home::new();
    let context =
        Context::new("FROM busybox\nENV A=b\nWORKDIR /w\nCMD [\"sh\", \"-c\", \"echo $A; pwd; exit 9\"]\n");
    run(home.build(&context).args(["-t", "app"])).ok();
    for runtime in RUNTIMES {
        let flag = format!("--runtime={runtime}");
        assert_eq!(run(home.builder("run").args([&flag, "app"])).code_is(9).stdout, "b\n/w\n", "{runtime}");
        let mut cat = home.builder("run");
        let done = feed(cat.args([&flag, "app", "cat"]), b"through\n").ok();
        assert_eq!(done.stdout, "through\n", "{runtime}");
        run(home.builder("run").args([&flag, "app", "none"])).code_is(127);
        run(home.builder("run").args([&flag, "-t", "app"])).code_is(125).says("leave out -t");
    }
}

/// Groups of other tests' steps have their guards still.
fn no_group_is_left() -> bool {
    let groups = run(Command::new("find").args(["/sys/fs/cgroup", "-name", "builder-*"])).stdout;
    !groups.lines().any(is_left)
}

/// Whether a group's guard, whose number is in the name, has ended. One that ends removes its group first.
fn is_left(group: &str) -> bool {
    let guard = group.rsplit("/builder-").next().and_then(|name| name.split('-').next());
    guard.is_some_and(|guard| !Path::new("/proc").join(guard).exists())
}

/// Who made a layer is not in its key.
#[test]
fn the_cache_is_the_same() {
    let context = Context::new("FROM busybox\nRUN echo x > /x\n");
    let home = Home::new();
    run(home.build(&context).arg("--runtime=runc")).ok();
    home.steps(&context, &[]).all_cached();
    let info = run(&mut home.builder("info")).ok().stdout;
    assert!(info.contains("OCI runtimes") && info.contains("/runc"), "{info}");
}

/// Whoever named it, what is wrong is told with its name.
#[test]
fn a_runtime_that_is_not_there_is_named() {
    let (home, context) = (Home::new(), Context::new("FROM busybox\nRUN true\n"));
    run(home.build(&context).arg("--runtime=/nonexistent")).code_is(1).says("--runtime=/nonexistent: ");
    run(home.build(&context).env("BUILDER_RUNTIME", "/nonexistent"))
        .code_is(1)
        .says("BUILDER_RUNTIME=/nonexistent: ");
    let info = run(home.builder("info").env("BUILDER_RUNTIME", "/nonexistent")).ok();
    assert!(info.stdout.contains("BUILDER_RUNTIME: ") && info.stdout.contains("cannot run"), "{info}");
    let info = run(home.builder("info").env("BUILDER_RUNTIME", "runc")).ok();
    assert!(!info.stdout.contains("BUILDER_RUNTIME"), "{info}");
}
