//! `--runtime`: what runc and crun make of a RUN is what the builder itself makes of it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::{
    Case, Context, Done, Home, Image, Steps, User, eventually, in_parallel, need_root, processes_with, run,
    tempdir,
};

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
        failing(runtime, "--timeout=500ms sleep 297", &[])
            .code_is(1)
            .says("killed after its timeout of 500ms");
        let hungry = "x=$(head -c 100m /dev/zero | tr '\\0' x); echo $x | wc -c";
        failing(runtime, hungry, &["--memory=32m"]).code_is(1).says("its limit is 33554432 bytes");
        // Part of them are the runtime's own until the program runs.
        let many = "i=0; while [ $i -lt 40 ]; do sleep 2 & i=$((i+1)); done; wait";
        failing(runtime, many, &["--pids-limit=20"]).says("fork");
        assert!(processes_with("sleep 297").is_empty(), "{runtime}");
    }
    // Other tests kill builds, whose groups go with the next.
    eventually(Duration::from_secs(30), "no group to be left", || {
        let groups = run(Command::new("find").args(["/sys/fs/cgroup", "-name", "builder-*"])).stdout;
        !groups.lines().any(is_left)
    });
    failing("./no/such", "true", &[]).code_is(2).says("--runtime=./no/such: there is no runtime ./no/such");
    failing("no-such", "true", &[]).code_is(2).says("there is no runtime no-such: it is not in PATH");
    failing("/bin/false", "true", &[]).code_is(3).says("/bin/false create: it ended with exit code 1");
}

/// A runtime by its path, here one that calls another, and says a lot.
#[test]
fn any_program_can_be_one() {
    need_root();
    let dir = tempdir();
    let talker = dir.path().join("talker");
    let calls = dir.path().join("calls");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}\ncase \"$*\" in *start*) echo talks; echo more >&2;; esac\nexec runc \"$@\"\n",
        calls.display()
    );
    std::fs::write(&talker, script).expect("write a program");
    std::fs::set_permissions(&talker, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("make it one");
    let context = Context::new("FROM busybox\nRUN echo said\n");
    let home = Home::new();
    let steps = home.steps(&context, &[&format!("--runtime={}", talker.display())]);
    assert_eq!(steps.named("RUN").log, "said\n");
    let calls = std::fs::read_to_string(&calls).expect("it was called");
    assert!(
        calls.lines().count() == 2 && calls.contains(" create --bundle ") && calls.contains(" start "),
        "{calls}"
    );
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
        let done = e2e::feed(cat.args([&flag, "app", "cat"]), b"through\n").ok();
        assert_eq!(done.stdout, "through\n", "{runtime}");
        run(home.builder("run").args([&flag, "app", "none"])).code_is(127);
        run(home.builder("run").args([&flag, "-t", "app"])).code_is(125).says("leave out -t");
    }
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
    run(home.build(&context).arg("--runtime=/nonexistent")).code_is(2).says("--runtime=/nonexistent: ");
    run(home.build(&context).env("BUILDER_RUNTIME", "/nonexistent"))
        .code_is(2)
        .says("BUILDER_RUNTIME=/nonexistent: ");
    let info = run(home.builder("info").env("BUILDER_RUNTIME", "/nonexistent")).ok();
    assert!(info.stdout.contains("BUILDER_RUNTIME: ") && info.stdout.contains("cannot run"), "{info}");
    let info = run(home.builder("info").env("BUILDER_RUNTIME", "runc")).ok();
    assert!(!info.stdout.contains("BUILDER_RUNTIME"), "{info}");
}
