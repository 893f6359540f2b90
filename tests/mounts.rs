//! RUN --mount: every type with the options that matter, and that nothing of a mount stays behind.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use e2e::{
    Agent, Context, Done, Home, Image, Running, Tree, User, eventually, need_root, processes_with, run,
    ssh_key, tempdir, tool,
};

/// The log of the one RUN of a build, with these arguments.
#[track_caller]
fn log(home: &Home, context: &Context, arguments: &[&str]) -> String {
    home.steps(context, arguments).named("RUN").log.clone()
}

/// As [`log`], of `FROM busybox` and this. It runs, also when there was the same before.
#[track_caller]
fn busybox(home: &Home, rest: &str, arguments: &[&str]) -> String {
    log(home, &Context::new(&format!("FROM busybox\n{}{rest}\n", anew())), arguments)
}

/// An instruction that is another one each time: neither ids of cache mounts nor values of secrets are reasons to run again.
fn anew() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("ARG NUMBER={}\n", NUMBER.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn binds_of_the_context() {
    let home = Home::new();
    let with = |text: &str| {
        let context = Context::new(&format!("FROM busybox\nWORKDIR /w\n{}{text}\n", anew()));
        let context = context.file("d/f", "f\n").file("other", "other\n").file("hidden", "hidden\n");
        context.file(".dockerignore", "hidden\n.dockerignore\nDockerfile\n")
    };
    let says = |text: &str| log(&home, &with(text), &[]);
    assert_eq!(says("RUN --mount=target=/c cd /c && find . | sort"), ".\n./d\n./d/f\n./other\n");
    // `ro` is what is there without a word.
    for option in ["", ",ro", ",readonly=true", ",rw=false"] {
        let step = format!("RUN --mount=type=bind,target=/c{option} touch /c/new || echo refused");
        assert!(says(&step).contains("refused\n"), "{option}");
    }
    // What is written with `rw` is seen by the step and by nobody after it.
    for option in ["rw", "readwrite", "rw=true", "ro=false"] {
        let context = with(&format!(
            "RUN --mount=target=/c,{option} echo changed > /c/d/f && rm /c/other && touch /c/new && cat /c/d/f\n\
             RUN --mount=target=/c cat /c/d/f && ls /c"
        ));
        let steps = home.steps(&context, &[]);
        assert_eq!(steps.named("changed").log, "changed\n", "{option}");
        assert_eq!(steps.named("&& ls").log, "f\nd\nother\n", "{option}");
        assert_eq!(fs::read(context.path().join("d/f")).expect("read"), b"f\n", "{option}");
        assert!(context.path().join("other").exists() && !context.path().join("new").exists());
    }
    // Targets: relative to WORKDIR, by each of their names; sources: a directory, a file.
    for (mount, read) in [
        ("target=c", "/w/c/d/f"),
        ("dst=/c", "/c/d/f"),
        ("destination=c/../e", "/w/e/d/f"),
        ("source=d,target=/c", "/c/f"),
        ("src=/d,target=/c", "/c/f"),
        ("source=../d,target=/c", "/c/f"),
        ("source=d/f,target=/c", "/c"),
        ("source=d/f,target=/etc/hostname", "/etc/hostname"),
        ("source=d", "/w/f"),
    ] {
        assert_eq!(says(&format!("RUN --mount={mount} cat {read}")), "f\n", "{mount}");
    }
    assert_eq!(says("ARG where=d\nRUN --mount=source=$where,target=/c cat /c/f"), "f\n", "expanded");
    let fails = |mount: &str| run(&mut home.build(&with(&format!("RUN --mount={mount} true")))).code_is(1);
    fails("source=none,target=/c").says("none");
    fails("source=hidden,target=/c").says(".dockerignore");
    fails("target=/").says("target");
    fails("target=..").says("target");
    fails("target=/c,size=1").says("size");
    fails("target=/c,from=none.invalid/x").says("none.invalid/x");
}

#[test]
fn a_bind_counts_with_what_it_shows() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nRUN --mount=source=d,target=/c cat /c/f\nRUN --mount=source=other,target=/c true\n",
    );
    let context = context.file("d/f", "one\n").file("other", "x\n");
    home.steps(&context, &[]);
    home.steps(&context, &[]).all_cached();
    context.write("unrelated", "x\n");
    home.steps(&context, &[]).all_cached();
    context.write("other", "y\n");
    assert_eq!(home.steps(&context, &[]).executed().len(), 1, "only the second");
    context.write("d/f", "two\n");
    let steps = home.steps(&context, &[]);
    assert_eq!(steps.named("RUN --mount=source=d").log, "two\n");
}

#[test]
fn binds_of_stages_and_images() {
    let home = Home::new();
    let stage = "FROM busybox AS Tools\nRUN mkdir -p /d/e && echo x > /d/e/f && ln -s e /d/l && chown -R 5:6 /d\nFROM busybox\n";
    let says = |mount: &str, command: &str| {
        let context = Context::new(&format!("{stage}RUN --mount={mount} {command}\n"));
        home.steps(&context, &[]).named("RUN --mount").log.clone()
    };
    assert_eq!(says("from=tools,source=/d,target=/m", "cat /m/l/f"), "x\n", "names are of any case");
    assert_eq!(says("from=Tools,source=/d/l,target=/m", "cat /m/f"), "x\n", "through a link");
    assert_eq!(says("from=tools,source=d/e/f,target=/m", "stat -c '%u:%g' /m && cat /m"), "5:6\nx\n");
    assert_eq!(says("from=tools,source=/d,target=/m", "touch /m/new 2>/dev/null || echo no"), "no\n");
    assert_eq!(says("from=tools,source=/d,target=/m,rw", "echo y > /m/e/f && cat /m/e/f"), "y\n");
    // An image that is built nowhere, and one of the local store.
    assert_eq!(says("from=busybox,source=/bin,target=/m", "test -x /m/busybox && echo there"), "there\n");
    run(home.build(&Context::new("FROM busybox\nRUN echo stored > /s\n")).args(["-t", "kept:1"])).ok();
    assert_eq!(says("from=kept:1,source=/s,target=/m", "cat /m"), "stored\n");
    // Writing leaves the stage as it was, for those that come later.
    let twice = Context::new(&format!(
        "{stage}RUN --mount=from=tools,source=/d,target=/m,rw rm -r /m/e && touch /m/new\n\
         RUN --mount=from=tools,source=/d,target=/m ls -R /m\n"
    ));
    let steps = home.steps(&twice, &[]);
    assert_eq!(steps.named("ls -R").log, "/m:\ne\nl\n\n/m/e:\nf\n");
    let fails = |mount: &str| {
        let context = Context::new(&format!("{stage}RUN --mount={mount} true\n"));
        run(&mut home.build(&context)).code_is(1)
    };
    fails("from=tools,source=/none,target=/m").says("none");
    fails("from=${WHICH:-tools},target=/m").says("from");
}

/// The commonest form of all.
#[test]
fn a_whole_stage_is_bound() {
    let home = Home::new();
    let stage = "FROM busybox AS tools\nRUN echo x > /out\nFROM busybox\n";
    for (mount, read) in [
        ("from=tools,target=/m", "/m/out"),
        ("from=tools,source=/,target=/m", "/m/out"),
        ("from=busybox,target=/m", "/m/etc/passwd"),
        ("from=tools,target=/m,rw", "/m/out"),
    ] {
        let text = format!("{stage}{}RUN --mount={mount} test -s {read} && echo read\n", anew());
        let context = Context::new(&text);
        assert_eq!(home.steps(&context, &[]).named("RUN --mount").log, "read\n", "{mount}");
    }
}

#[test]
fn cache_mounts_by_id() {
    let home = Home::new();
    busybox(&home, "RUN --mount=type=cache,target=/c echo target > /c/f", &[]);
    busybox(&home, "RUN --mount=type=cache,target=/c,id=named echo named > /c/f", &[]);
    let reads =
        |mount: &str| busybox(&home, &format!("RUN --mount=type=cache,{mount} cat /r/f || echo none"), &[]);
    assert_eq!(reads("target=/r,id=/c"), "target\n", "without an id it is the target");
    assert_eq!(reads("target=/r,id=named"), "named\n");
    assert!(reads("target=/r,id=other").contains("none\n"));
    assert!(reads("target=/r").contains("none\n"));
    assert_eq!(busybox(&home, "RUN --mount=type=cache,target=//c/./ cat /c/f", &[]), "target\n", "cleaned");
    // As upstream, the target as it is written: not below WORKDIR.
    let relative = "WORKDIR /r\nRUN --mount=type=cache,target=../c ls /c";
    assert_eq!(busybox(&home, relative, &[]), "");
    let variable = "ARG ID=named\nRUN --mount=type=cache,target=/r,id=$ID cat /r/f";
    assert_eq!(busybox(&home, variable, &[]), "named\n");
    // What is in it never decides whether a step runs, and `ro` keeps it.
    let step = "RUN --mount=type=cache,target=/c,ro cat /c/f; echo changed > /c/f";
    let done = run(&mut home.build(&Context::new(&format!("FROM busybox\n{step}\n")))).code_is(1);
    done.says("Read-only file system");
    let again =
        Context::new("FROM busybox\nRUN --mount=type=cache,target=/c cat /c/f; echo changed > /c/f\n");
    assert_eq!(log(&home, &again, &[]), "target\n");
    home.steps(&again, &[]).all_cached();
    // A part of it.
    busybox(&home, "RUN --mount=type=cache,target=/c,id=parts mkdir -p /c/a && echo part > /c/a/f", &[]);
    // A step runs in the image's layer only.
    let image = home.export(&again, &[]);
    assert!(!image.tree().0.contains_key("c"), "the mount point is gone");
    // --no-cache begins anew.
    assert!(log(&home, &again, &["--no-cache"]).contains("can't open"), "upstream's meaning of --no-cache");
}

#[test]
fn what_a_new_cache_mount_is_like() {
    let home = Home::new();
    let stat = |mount: &str| {
        busybox(&home, &format!("RUN --mount=type=cache,target=/c,{mount} stat -c '%a %u:%g' /c; ls /c"), &[])
    };
    assert_eq!(stat("id=plain"), "755 0:0\n");
    assert_eq!(stat("id=own,mode=0700,uid=1000,gid=1001"), "700 1000:1001\n");
    assert_eq!(stat("id=own,mode=0777,uid=5,gid=5"), "700 1000:1001\n", "only for a new one");
    assert_eq!(stat("id=sticky,mode=1777"), "1777 0:0\n");
    // An ordinary user of the image may write where it is his.
    let user = "USER 1000\nRUN --mount=type=cache,target=/c,id=user,uid=1000 echo mine > /c/f && cat /c/f";
    assert_eq!(busybox(&home, user, &[]), "mine\n");
    // Filled once, from a stage.
    let seeded = |text: &str, command: &str| {
        let context = Context::new(&format!(
            "FROM busybox AS seed\nRUN mkdir -p /s/d && echo {text} > /s/d/f && chown 7:8 /s/d/f\nFROM busybox\n\
             ARG NUMBER\nRUN --mount=type=cache,target=/c,id=seeded,from=seed,source=/s {command}\n"
        ));
        home.steps(&context, &[]).named("RUN --mount").log.clone()
    };
    let first = seeded("one", "cat /c/d/f && stat -c %u:%g /c/d/f && echo two > /c/d/f");
    assert_eq!(first, "one\n7:8\n");
    assert_eq!(seeded("one", "cat /c/d/f"), "two\n", "it is as it was left");
    let fails = |mount: &str| {
        let context = Context::new(&format!("FROM busybox\nRUN --mount=type=cache,{mount} true\n"));
        run(&mut home.build(&context)).code_is(1)
    };
    fails("target=/c,sharing=none").says("sharing");
    fails("target=/c,mode=9").says("mode");
    fails("id=x").says("target");
    fails("target=/c,required=true").says("required");
}

/// A build in the background, its standard error in a file.
struct Background {
    build: Running,
    log: PathBuf,
    _context: Context,
}

impl Background {
    /// Builds one step, which may say that it is `ready`.
    fn start(home: &Home, dir: &Path, name: &str, mounts: &str, script: &str) -> Self {
        let context = Context::new(&format!("FROM busybox\nRUN {mounts} : {name}; {script}\n"));
        Self::of(home.build(&context), dir.join(name), context)
    }

    fn of(mut build: Command, log: PathBuf, context: Context) -> Self {
        let file = fs::File::create(&log).expect("a log");
        build.arg("--progress=plain").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        Self { build: Running::start(&mut build), log, _context: context }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether the step wrote this as a line.
    fn said(&self, line: &str) -> bool {
        self.text().lines().any(|said| {
            let words: Vec<&str> = said.splitn(3, ' ').collect();
            words.len() == 3 && words[1].contains('.') && words[2] == line
        })
    }

    #[track_caller]
    fn ends_well(&mut self) {
        let status = self.build.wait(Duration::from_secs(60));
        assert!(status.success(), "{status}: {}", self.text());
    }
}

/// Both together, so that a failure shows what each of them did.
#[track_caller]
fn end_well(builds: &mut [Background; 2]) {
    let ended = builds.each_mut().map(|build| build.build.wait(Duration::from_secs(120)));
    let texts = builds.each_ref().map(Background::text);
    assert!(ended.iter().all(std::process::ExitStatus::success), "{ended:?}\n{}\n{}", texts[0], texts[1]);
}

/// Waits in a step until there are two files in `/meet`, at most a minute.
const MEET: &str = "for i in $(seq 600); do test $(ls /meet | wc -l) = 2 && break; sleep 0.1; done; \
                    echo there: $(ls /meet); test $(ls /meet | wc -l) = 2";

#[test]
fn processes_share_a_cache_mount() {
    let home = Home::new();
    let dir = tempdir();
    let mounts = "--mount=type=cache,target=/meet,sharing=shared";
    let mut builds = ["a", "b"].map(|name| {
        Background::start(&home, dir.path(), name, mounts, &format!("touch /meet/{name}; {MEET}"))
    });
    end_well(&mut builds);
}

#[test]
fn processes_have_a_private_cache_mount_each() {
    let home = Home::new();
    let dir = tempdir();
    let mounts = "--mount=type=cache,target=/meet --mount=type=cache,target=/own,id=own,sharing=private";
    let step = |name: &str| {
        let script = format!("touch /own/{name} /meet/{name}; {MEET} && echo of $(ls /own)");
        Background::start(&home, dir.path(), name, mounts, &script)
    };
    let mut builds = ["a", "b"].map(step);
    end_well(&mut builds);
    assert!(builds[0].said("of a") && builds[1].said("of b"), "{} {}", builds[0].text(), builds[1].text());
    // One after the other they take what is free, not a new one each.
    let later = "RUN --mount=type=cache,target=/own,id=own,sharing=private ls /own";
    let found = busybox(&home, later, &[]);
    assert!(found == "a\n" || found == "b\n", "{found}");
    let list = run(home.builder("cache").arg("ls")).ok().stdout;
    assert_eq!(list.lines().filter(|line| line.starts_with("own ")).count(), 2, "{list}");
}

#[test]
fn processes_wait_for_a_locked_cache_mount() {
    let home = Home::new();
    let dir = tempdir();
    let mounts = "--mount=type=cache,target=/l,id=l,sharing=locked --mount=type=cache,target=/free";
    let script = |name: &str| {
        format!(
            "echo {name} in >> /l/order; echo ready; while ! test -e /free/go; do sleep 0.05; done; \
                 echo {name} out >> /l/order"
        )
    };
    let mut first = Background::start(&home, dir.path(), "a", mounts, &script("a"));
    eventually(Duration::from_secs(30), "the first step to run", || first.said("ready"));
    let mut second = Background::start(&home, dir.path(), "b", mounts, &script("b"));
    eventually(Duration::from_secs(30), "the second step to begin", || second.text().contains("RUN "));
    sleep(Duration::from_millis(700));
    assert!(!second.said("ready"), "it waits: {}", second.text());
    // A third without the lock runs through meanwhile, and lets both go on.
    busybox(&home, "RUN --mount=type=cache,target=/free touch /free/go", &[]);
    first.ends_well();
    second.ends_well();
    let order = busybox(&home, "RUN --mount=type=cache,target=/l,id=l cat /l/order", &[]);
    assert_eq!(order, "a in\na out\nb in\nb out\n");
}

/// A lock ends with the process that holds it, however that ends.
#[test]
fn a_killed_build_frees_its_cache_mounts() {
    let home = Home::new();
    let dir = tempdir();
    let marker = format!("84{}", std::process::id());
    let mounts = "--mount=type=cache,target=/l,id=l,sharing=locked";
    let script = format!("echo kept > /l/f; echo ready; sleep {marker}");
    let mut first = Background::start(&home, dir.path(), "a", mounts, &script);
    eventually(Duration::from_secs(30), "the first step to run", || first.said("ready"));
    first.build.signal(rustix::process::Signal::KILL);
    first.build.wait(Duration::from_secs(5));
    assert_eq!(busybox(&home, &format!("RUN {mounts} cat /l/f"), &[]), "kept\n");
    eventually(Duration::from_secs(5), "no process to be left", || {
        processes_with(&format!("sleep {marker}")).is_empty()
    });
}

#[test]
fn tmpfs() {
    let home = Home::new();
    let small = "RUN --mount=type=tmpfs,target=/t,size=1m df -k /t | tail -1 | awk '{print $2}'; \
                 stat -f -c %T /t; dd if=/dev/zero of=/t/f bs=1024 count=2048 2>&1 | grep -o 'No space.*'";
    assert_eq!(busybox(&home, small, &[]), "1024\ntmpfs\nNo space left on device\n");
    for (size, kib) in [("64k", "64"), ("2097152", "2048"), ("1M", "1024")] {
        let step =
            format!("RUN --mount=type=tmpfs,target=/t,size={size} df -k /t | tail -1 | awk '{{print $2}}'");
        assert_eq!(busybox(&home, &step, &[]), format!("{kib}\n"), "{size}");
    }
    // Over what is there: hidden while it lasts, and back in the next step.
    let context = Context::new(
        "FROM busybox\nRUN mkdir /d && echo below > /d/f\nRUN --mount=type=tmpfs,target=/d echo lost > /d/g; ls /d\n\
         RUN ls /d\n",
    );
    let steps = home.steps(&context, &[]);
    assert_eq!(steps.named("RUN --mount").log, "g\n");
    assert_eq!(steps.named("RUN ls").log, "f\n");
    let fails = |mount: &str| {
        let context = Context::new(&format!("FROM busybox\nRUN --mount=type=tmpfs,{mount} true\n"));
        run(&mut home.build(&context)).code_is(1)
    };
    fails("target=/t,mode=0700").says("mode");
    fails("target=/t,uid=1").says("uid");
    fails("target=/t,size=many").says("many");
    fails("size=1m").says("target");
}

/// A value that stands nowhere by accident.
fn sesame(what: &str) -> String {
    format!("sesame-{what}-{}-open", std::process::id())
}

#[test]
fn secrets_and_where_they_come_from() {
    let home = Home::new();
    let dir = tempdir();
    let file = dir.path().join("file");
    // Every byte there is.
    let bytes: Vec<u8> = (0..=255).collect();
    fs::write(&file, &bytes).expect("write");
    let from_file = format!("id=s,src={}", file.display());
    let count = busybox(
        &home,
        "RUN --mount=type=secret,id=s wc -c < /run/secrets/s && md5sum < /run/secrets/s && stat -c '%a %u:%g' /run/secrets/s",
        &["--secret", &from_file],
    );
    let sum = run(tool("md5sum").arg(&file)).ok().stdout.replacen(&file.display().to_string(), "-", 1);
    assert_eq!(count, format!("256\n{sum}400 0:0\n"));
    let length = |given: &str, variable: &str| {
        let context = Context::new(&format!(
            "FROM busybox\n{}RUN --mount=type=secret,id=s wc -c < /run/secrets/s\n",
            anew()
        ));
        let mut build = home.build(&context);
        build.args(["--progress=rawjson", "--secret", given]).env("VARIABLE", variable).env("s", "1234567");
        run(&mut build).ok().steps().named("RUN").log.trim().to_owned()
    };
    assert_eq!(length("id=s,env=VARIABLE", "12345"), "5");
    assert_eq!(length("id=s,type=env,src=VARIABLE", "123456"), "6");
    assert_eq!(length("id=s", ""), "7", "the variable of that name");
    assert_eq!(length("id=s,command=printf 12345678", ""), "8");
    assert_eq!(length("id=s,\"command=printf '%s,%s' 1 2345678\"", ""), "9");
    assert_eq!(length("id=s,env=VARIABLE", ""), "0", "an empty one is one");
    let given = |arguments: &[&str]| {
        let context = Context::new("FROM busybox\nRUN --mount=type=secret,id=s,required true\n");
        run(home.build(&context).args(arguments))
    };
    given(&[]).code_is(1).says("--secret id=s");
    given(&["--secret", "id=s,src=/no/such/file"]).code_is(1).says("/no/such/file");
    given(&["--secret", "id=s,env=NO_SUCH_VARIABLE_HERE"]).code_is(1).says("NO_SUCH_VARIABLE_HERE");
    given(&["--secret", "id=s,command=exit 4"]).code_is(1).says("exit status: 4");
}

#[test]
fn secrets_as_files_and_variables() {
    let home = Home::new();
    let dir = tempdir();
    fs::write(dir.path().join("s"), "value\n").expect("write");
    let secret = format!("id=s,src={}", dir.path().join("s").display());
    let says = |rest: &str| busybox(&home, rest, &["--secret", &secret]);
    let mount = |options: &str, command: &str| says(&format!("RUN --mount=type=secret,{options} {command}"));
    let stat = "stat -c '%a %u:%g %s'";
    assert_eq!(mount("id=s,mode=0440,uid=5,gid=6", &format!("{stat} /run/secrets/s")), "440 5:6 6\n");
    assert_eq!(mount("id=s,target=/etc/my/key", &format!("{stat} /etc/my/key")), "400 0:0 6\n");
    assert_eq!(mount("target=/root/s", &format!("{stat} /root/s")), "400 0:0 6\n", "id is the target's name");
    assert_eq!(mount("id=s,dst=/k,mode=444", &format!("{stat} /k")), "444 0:0 6\n");
    let relative = format!("WORKDIR /w\nRUN --mount=type=secret,id=s,target=k {stat} /w/k");
    assert_eq!(says(&relative), "400 0:0 6\n");
    assert_eq!(mount("id=s,env=KEY", "echo ${#KEY}; ls /run/secrets 2>&1 | wc -l"), "6\n1\n", "no file");
    assert_eq!(
        mount("id=s,env=KEY,target=/k", "echo ${#KEY}; wc -c < /k"),
        "6\n6\n",
        "both when both are asked for"
    );
    // One for each, as an ordinary user, and in a heredoc.
    let user = "USER 9:9\nRUN --mount=type=secret,id=s,uid=9 --mount=type=secret,id=s,target=/t test ! -r /t && wc -c < /run/secrets/s";
    assert_eq!(says(user), "6\n");
    assert_eq!(says("RUN --mount=type=secret,id=s <<EOF\nwc -c < /run/secrets/s\nEOF"), "6\n");
    // Nothing can be changed, and one that is not given is not there.
    assert!(mount("id=s", "echo x > /run/secrets/s || echo refused").contains("refused\n"));
    assert!(mount("id=other", "ls /run/secrets 2>&1; echo went on").ends_with("went on\n"));
    assert_eq!(mount("id=other,env=OTHER", "echo ${OTHER-unset}"), "\n", "empty, as upstream");
    // Another value is no reason to run again; a version that the user gives it is.
    let context = Context::new("FROM busybox\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s\n");
    assert_eq!(log(&home, &context, &["--secret", &secret]), "6\n");
    fs::write(dir.path().join("s"), "longer value\n").expect("write");
    home.steps(&context, &["--secret", &secret]).all_cached();
    assert_eq!(log(&home, &context, &["--secret", &format!("{secret},version=2")]), "13\n");
    let fails = |mount: &str| {
        let context = Context::new(&format!("FROM busybox\nRUN --mount=type=secret,{mount} true\n"));
        run(&mut home.build(&context)).code_is(1)
    };
    fails("id=s,source=x").says("source");
    fails("mode=0400").says("id");
}

/// All bytes of files below a directory, those compressed by zstd unpacked, one file after the other.
fn everything(dir: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("list").flatten() {
        let kind = entry.file_type().expect("its kind");
        if kind.is_dir() {
            everything(&entry.path(), found);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).expect("read");
            if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                let plain = tool("zstd").arg("-dcq").arg(entry.path()).output().expect("run zstd").stdout;
                found.push((entry.path(), plain));
            }
            if bytes.starts_with(&[0x1f, 0x8b]) {
                let mut plain = Vec::new();
                // What only begins like gzip has been taken as it is.
                let _ = flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain);
                found.push((entry.path(), plain));
            }
            found.push((entry.path(), bytes));
        }
    }
}

/// Which of those hold a text, or its base64.
fn holding(dirs: &[&Path], texts: &[String]) -> Vec<String> {
    use base64::Engine;
    let mut files = Vec::new();
    dirs.iter().for_each(|dir| everything(dir, &mut files));
    assert!(files.len() > 10, "something to search in");
    let mut found = Vec::new();
    for text in texts {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        for (path, bytes) in &files {
            let has = |needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            if has(text) || has(encoded.trim_end_matches('=')) {
                found.push(format!("{text} in {}", path.display()));
            }
        }
    }
    found
}

#[test]
fn secrets_are_kept_nowhere() {
    let home = Home::new();
    let out = tempdir();
    let given = tempdir();
    let (file, variable, command) = (sesame("file"), sesame("variable"), sesame("command"));
    fs::write(given.path().join("s"), format!("{file}\n")).expect("write");
    let arguments = [
        format!("--secret=id=file,src={}", given.path().join("s").display()),
        "--secret=id=variable,env=VARIABLE".to_owned(),
        // The command line itself does not hold the value.
        format!("--secret=id=command,command=printf '%s' \"sesame-command-{}\"-open", std::process::id()),
    ];
    let mounts = "--mount=type=secret,id=file --mount=type=secret,id=variable,env=V --mount=type=secret,id=command,target=/c";
    // Said whole, in pieces, twice in a line, on both streams; and all that in a step that fails.
    let speak = "cat /run/secrets/file; echo is $V, really $V >&2; cat /c; echo; \
                 half=$(cut -c1-9 /c); printf %s $half; sleep 0.2; cut -c10- /c; echo spoken";
    let context = Context::new(&format!(
        "FROM busybox AS good\nRUN {mounts} {speak}\nFROM good AS bad\nRUN {mounts} {speak}; touch /x; exit 3\n"
    ));
    let build = |target: &str, progress: &str| {
        let mut build = home.build(&context);
        build.args(&arguments).args(["--target", target, &format!("--progress={progress}")]);
        build.env("VARIABLE", &variable);
        build
    };
    let texts = [file, variable.clone(), command];
    let silent = |text: &str, what: &str| {
        for secret in &texts {
            assert!(!text.contains(secret.as_str()), "{what}: {text}");
        }
    };
    for progress in ["plain", "rawjson", "quiet"] {
        let mut command = build("good", progress);
        command.arg("--no-cache").arg("--iidfile").arg(out.path().join("iid"));
        command.arg("--metadata-file").arg(out.path().join("metadata")).args(["-t", "app"]);
        for output in ["type=oci,tar=false,dest=oci", "type=docker,dest=docker.tar", "type=local,dest=local"]
        {
            let (kind, name) = output.split_once("dest=").expect("a destination");
            let dest = out.path().join(format!("{progress}-{name}"));
            command.arg("-o").arg(format!("{kind}dest={}", dest.display()));
        }
        let done = run(&mut command).ok();
        silent(&done.stdout, progress);
        silent(&done.stderr, progress);
        if progress == "rawjson" {
            let log = done.steps().named("RUN").log.clone();
            silent(&log, "rawjson, decoded");
            assert!(log.contains("is ***, really ***") && log.matches("***").count() == 5, "{log}");
            assert!(log.ends_with("spoken\n"), "{log}");
        }
        let failed = run(&mut build("bad", progress)).code_is(1);
        silent(&failed.stderr, progress);
        silent(&failed.stdout, progress);
        if progress == "plain" {
            assert!(failed.stderr.contains("really ***"), "{failed}");
        }
    }
    let found = holding(&[&home.path(), out.path()], &texts);
    assert!(found.is_empty(), "{found:#?}");
    let config = fs::read_to_string(out.path().join("metadata")).expect("read");
    silent(&config, "metadata");
    // The search finds what is there.
    let careless = Context::new(&format!("FROM busybox\nRUN {mounts} cat /c > /careless\n"));
    let mut build = home.build(&careless);
    run(build.args(&arguments).env("VARIABLE", &texts[1])).ok();
    let found = holding(&[&home.path()], &texts[2..]);
    assert!(!found.is_empty(), "the search would have found it");
}

/// What is hidden leaves the rest of the output as it is.
#[test]
fn masks_are_as_narrow_as_they_can_be() {
    let (home, dir) = (Home::new(), tempdir());
    let printed = |secret: &str, command: &str| {
        let file = dir.path().join("s");
        fs::write(&file, secret).expect("write");
        let context = Context::new(&format!("FROM busybox\nRUN --mount=type=secret,id=s {command}\n"));
        let given = format!("--secret=id=s,src={}", file.display());
        let done = run(home.build(&context).args(["--progress=rawjson", "--no-cache", &given])).ok();
        let plain = run(home.build(&context).args(["--progress=plain", "--no-cache", &given])).ok();
        (
            done.steps().named("RUN").log.clone(),
            plain.stderr.contains("the secret s is too short to be hidden"),
        )
    };
    let shown = |text: &str, said: bool| (text.to_owned(), said);
    assert_eq!(printed("a", "echo banana"), shown("banana\n", true));
    assert_eq!(printed("\n", "echo a; echo b"), shown("a\nb\n", false));
    assert_eq!(printed("sesame\n", "cat /run/secrets/s; echo line1"), shown("***\nline1\n", false));
    let lines = "registry=https://r.example\n_authToken=open-sesame\n";
    assert_eq!(printed(lines, "tail -n 1 /run/secrets/s; echo after"), shown("***\nafter\n", false));
    assert_eq!(printed(lines, "cat /run/secrets/s; echo after"), shown("***\nafter\n", false));
}

/// What a step has of secrets is in memory: no file of the store, or among temporary ones, holds them even meanwhile.
#[test]
fn secrets_are_in_no_file_while_a_step_has_them() {
    let given = tempdir();
    let (file, variable) = (sesame("file"), sesame("variable"));
    fs::write(given.path().join("s"), &file).expect("write");
    for runtime in ["", "runc"] {
        let (home, temporary) = (Home::new(), tempdir());
        let marker = format!("85{}", std::process::id());
        let context = Context::new(&format!(
            "FROM busybox\nRUN --mount=type=secret,id=file --mount=type=secret,id=file,target=/etc/word --mount=type=secret,id=variable,env=V \
             --mount=type=secret,id=command,target=/deep/in/c \
             test -n \"$V\" && cat /deep/in/c /etc/word > /dev/null && grep -E ' (/run/secrets/file|/etc/word|/deep/in/c) ' /proc/mounts | cut -d' ' -f3; sleep {marker}\n"
        ));
        let mut build = home.build(&context);
        build.arg(format!("--secret=id=file,src={}", given.path().join("s").display()));
        build.arg("--secret=id=variable,env=VARIABLE").env("VARIABLE", &variable);
        // The command line itself does not hold the value.
        let command = format!("printf '%s' \"sesame-command-{}\"-open", std::process::id());
        build.arg(format!("--secret=id=command,command={command}"));
        build.args(["--progress=plain"]).env("TMPDIR", temporary.path()).env("BUILDER_RUNTIME", runtime);
        let said = given.path().join("said");
        let stderr = fs::File::create(&said).expect("create a file");
        let mut running = Running::start(build.stdin(Stdio::null()).stderr(stderr));
        let sleeps = format!("sleep {marker}");
        eventually(Duration::from_secs(60), "the step to sleep", || {
            // Its shell has the same words in its command line.
            processes_with(&sleeps)
                .iter()
                .any(|line| line.trim_end().ends_with(&format!(" {sleeps}")) && !line.contains("grep"))
        });
        // What it said before may still be on its way, and is not read any more once the build is interrupted.
        let mounted = || fs::read_to_string(&said).expect("read").matches(" tmpfs\n").count();
        eventually(Duration::from_secs(20), "the mounts to be told", || mounted() >= 3);
        let found =
            holding(&[&home.path(), temporary.path()], &[file.clone(), variable.clone(), sesame("command")]);
        assert!(found.is_empty(), "{runtime}: {found:#?}");
        running.signal(rustix::process::Signal::INT);
        running.wait(Duration::from_secs(60));
        assert_eq!(mounted(), 3, "{runtime}: {:?}", fs::read_to_string(&said));
    }
}

/// A builder that crashes while a step has a secret leaves no memory behind; what steps run dumps as it does anywhere.
#[test]
fn secrets_are_in_no_core_dump() {
    let home = Home::new();
    let dir = tempdir();
    let secret = sesame("dump");
    fs::write(dir.path().join("s"), &secret).expect("write");
    let given = format!("--secret=id=s,src={}", dir.path().join("s").display());
    let step = "RUN --mount=type=secret,id=s,env=S cat /proc/self/coredump_filter";
    assert_eq!(busybox(&home, step, &[&given]), "00000033\n");

    let marker = format!("sleep 86{}", std::process::id());
    let context = Context::new(&format!("FROM busybox\nRUN --mount=type=secret,id=s,env=S {marker}\n"));
    let build = home.build(&context);
    let mut shell = tool("sh");
    shell
        .args(["-c", "ulimit -c unlimited; exec \"$0\" \"$@\""])
        .arg(build.get_program())
        .args(build.get_args());
    shell.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    // Where it crashes, so that a dump lands here.
    let crash = tempdir();
    let mut running = Running::start(shell.arg(&given).current_dir(crash.path()).stderr(Stdio::null()));
    eventually(Duration::from_secs(60), "the step to run", || !processes_with(&marker).is_empty());
    running.signal(rustix::process::Signal::ABORT);
    running.wait(Duration::from_secs(60));
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read");
    let dumps: Vec<PathBuf> =
        fs::read_dir(crash.path()).expect("list").flatten().map(|entry| entry.path()).collect();
    assert!(!dumps.is_empty() || pattern.starts_with(['|', '/']), "a dump was made, of something");
    for dump in dumps {
        let bytes = fs::read(&dump).expect("read");
        let holds = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!holds, "{}: {} bytes", dump.display(), bytes.len());
    }
    eventually(Duration::from_secs(60), "the step to end", || processes_with(&marker).is_empty());
}

/// Every type in one build, after a stage `tools` with `/d/f` and with this machine's `ssh-add` in the context `ssh`.
const EVERYTHING: &str = "\
FROM busybox AS tools
RUN mkdir /d && echo x > /d/f && chmod 640 /d/f
FROM busybox
RUN --mount=from=tools,target=/t --mount=target=/c cat /t/d/f /c/f && touch /c/no 2>/dev/null || echo read-only
RUN --mount=from=tools,source=/d,target=/t,rw --mount=target=/c,rw rm /t/f && echo y > /t/f && echo z > /c/f && cat /t/f /c/f
RUN --mount=from=tools,source=/d,target=/t stat -c '%a %u:%g' /t/f && cat /t/f
RUN --mount=type=cache,target=/k,mode=0700 stat -c '%a %u:%g' /k && echo kept > /k/f
RUN --mount=type=cache,target=/k,sharing=locked cat /k/f
RUN --mount=type=cache,target=/p,from=tools,source=/d,sharing=private cat /p/f
RUN --mount=type=tmpfs,target=/m,size=1m echo m > /m/f && cat /m/f && df -k /m | tail -1 | awk '{print $2}'
RUN --mount=type=secret,id=s --mount=type=secret,id=s,env=S stat -c '%a %u:%g %s' /run/secrets/s && echo ${#S}
RUN --mount=type=secret,id=s,uid=9,gid=9 wc -c < /run/secrets/s
RUN --mount=type=ssh --mount=from=ssh,target=/tools /tools/add -L && stat -c '%a %u:%g' $SSH_AUTH_SOCK
RUN ls -d /t /c /k /p /m /run/secrets /run/buildkit /tools 2>/dev/null; echo nothing
";

/// An ordinary user's steps see what root's see, and leave what root's leave.
#[test]
fn mounts_of_an_ordinary_user() {
    let context = Context::new(EVERYTHING).file("f", "f\n");
    let tools = ssh_tools();
    let dir = tempdir();
    fs::write(dir.path().join("s"), "value\n").expect("write");
    // An agent talks to nobody but its own user: each build starts one for the key.
    let keys = ssh_key();
    let key = keys.path().join("key");
    let arguments = [
        format!("--build-context=ssh={}", tools.path().display()),
        format!("--secret=id=s,src={}", dir.path().join("s").display()),
        format!("--ssh=default={}", key.display()),
    ];
    let logs = |done: &Done| -> Vec<(String, String)> {
        let steps = done.steps();
        steps.instructions().map(|step| (step.name.clone(), step.log.clone())).collect()
    };
    let by_root = Home::new();
    let mut build = by_root.build(&context);
    let roots = logs(&run(build.args(&arguments).arg("--progress=rawjson")).ok());
    assert_eq!(roots.len(), 12, "{roots:#?}");
    let of_ssh = format!("{}\n600 0:0\n", public(&key));
    assert!(roots.iter().any(|(_, log)| *log == of_ssh), "{roots:#?}");
    assert_eq!(roots.last().expect("the last").1, "nothing\n");
    for user in [User::with_range(), User::with_one_id()] {
        // All that the build is given is the user's.
        for path in [tools.path(), dir.path(), keys.path()] {
            run(tool("chown").args(["-R", "65534:65534"]).arg(path)).ok();
        }
        let mut build = user.build(&context);
        build.args(&arguments).arg("--progress=rawjson");
        let users = logs(&run(&mut build).ok());
        assert_eq!(users, roots);
        let mut again = user.build(&context);
        run(again.args(&arguments).arg("--progress=rawjson")).ok().steps().all_cached();
        let list = run(user.builder("cache").arg("ls")).ok().stdout;
        assert!(list.contains("/k ") && list.contains("/p "), "{list}");
        let tar = user.at("out").join("k.tar");
        run(user.builder("cache").args(["export", "/k", "-o"]).arg(&tar)).ok();
        assert_eq!(run(tool("tar").arg("-xOf").arg(&tar).arg("f")).ok().stdout, "kept\n");
    }
}

/// A directory with this machine's `ssh-add` and its libraries: the base image has none.
fn ssh_tools() -> Context {
    let context = Context::new("");
    let program = tool("ssh-add").get_program().to_owned();
    fs::copy(&program, context.path().join("ssh-add")).expect("copy ssh-add");
    let libraries = run(tool("ldd").arg(&program)).ok().stdout;
    let mut loader = None;
    for word in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let name = Path::new(word).file_name().expect("a file");
        fs::copy(word, context.path().join(name)).expect("copy a library");
        if name.to_string_lossy().starts_with("ld-linux") {
            loader = Some(name.to_string_lossy().into_owned());
        }
    }
    let loader = loader.expect("the dynamic loader");
    // By the loader, whatever the image's own libraries are.
    context.write(
        "add",
        format!("#!/bin/sh\nexec /tools/{loader} --library-path /tools /tools/ssh-add \"$@\"\n"),
    );
    context.chmod("add", 0o755);
    context
}

/// The public key beside a key.
fn public(key: &Path) -> String {
    fs::read_to_string(key.with_extension("pub")).expect("read").trim().to_owned()
}

#[test]
fn ssh_agents_and_keys() {
    let home = Home::new();
    let tools = ssh_tools();
    let named = format!("--build-context=tools={}", tools.path().display());
    let agent = Agent::start();
    let keys = [ssh_key(), ssh_key()];
    let key = |at: usize| keys[at].path().join("key");
    let says = |run_flags: &str, command: &str, given: &[String]| {
        let context = Context::new(&format!(
            "FROM busybox\n{}RUN --mount=from=tools,target=/tools {run_flags} {command}\n",
            anew()
        ));
        let mut build = home.build(&context);
        build.args([&named, "--progress=rawjson"]).args(given).env("SSH_AUTH_SOCK", agent.socket());
        run(&mut build).ok().steps().named("RUN").log.trim().to_owned()
    };
    let list = "/tools/add -L";
    let default = ["--ssh=default".to_owned()];
    assert_eq!(says("--mount=type=ssh", list, &default), agent.public_key(), "the user's agent");
    let socket = [format!("--ssh=default={}", agent.socket().display())];
    assert_eq!(says("--mount=type=ssh,required", list, &socket), agent.public_key(), "by its socket");
    let file = [format!("--ssh=default={}", key(0).display())];
    assert_eq!(says("--mount=type=ssh,required=true", list, &file), public(&key(0)), "an agent for a key");
    let two = [format!("--ssh=default={},{}", key(0).display(), key(1).display())];
    let both = says("--mount=type=ssh,id=default", list, &two);
    assert_eq!(both, format!("{}\n{}", public(&key(0)), public(&key(1))));
    // Several ids in a step, the first one in the variable.
    let ids = [format!("--ssh=a={}", key(0).display()), format!("--ssh=b={}", key(1).display())];
    let several = says(
        "--mount=type=ssh,id=b --mount=type=ssh,id=a",
        "echo $SSH_AUTH_SOCK && /tools/add -L && SSH_AUTH_SOCK=/run/buildkit/ssh_agent.1 /tools/add -L",
        &ids,
    );
    let expected = format!("/run/buildkit/ssh_agent.0\n{}\n{}", public(&key(1)), public(&key(0)));
    assert_eq!(several, expected);
    // Where, whose, and how open.
    let stat = "stat -c '%a %u:%g %F' $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK";
    assert_eq!(says("--mount=type=ssh", stat, &default), "600 0:0 socket\n/run/buildkit/ssh_agent.0");
    assert_eq!(
        says("--mount=type=ssh,target=/my/agent,mode=0666,uid=5,gid=6", stat, &default),
        "666 5:6 socket\n/my/agent"
    );
    // An ordinary user of the image.
    let context = Context::new(
        "FROM busybox\nUSER 7\nRUN --mount=from=tools,target=/tools --mount=type=ssh,uid=7 /tools/add -L\n",
    );
    let user = run(home.build(&context).args([&named, "--progress=rawjson"]).args(&socket)).ok();
    assert_eq!(user.steps().named("RUN").log.trim(), agent.public_key());
    // Not given: not there, or told. The variable stands all the same, as upstream has it.
    let absent = "test ! -e $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK";
    assert_eq!(says("--mount=type=ssh", absent, &[]), "/run/buildkit/ssh_agent.0");
    let required = Context::new("FROM busybox\nRUN --mount=type=ssh,required true\n");
    run(&mut home.build(&required)).code_is(1).says("--ssh default");
    let other = Context::new("FROM busybox\nRUN --mount=type=ssh,id=x,required true\n");
    run(home.build(&other).args(&socket)).code_is(1).says("--ssh x");
    run(home.build(&other).arg("--ssh=x=/no/such/socket")).code_is(1).says("/no/such/socket");
    // No agent that a build started is left.
    for at in [0, 1] {
        let path = key(at).display().to_string();
        eventually(Duration::from_secs(5), "agents to end", || processes_with(&path).is_empty());
    }
    // The key is nowhere in the state.
    let private = fs::read_to_string(key(0)).expect("read");
    let line = private.lines().nth(1).expect("a line of the key").to_owned();
    assert_eq!(holding(&[&home.path()], &[line]), [""; 0]);
}

/// A step uses the user's keys; which keys there are is the user's.
#[test]
fn an_agent_cannot_be_changed_by_a_step() {
    let home = Home::new();
    let tools = ssh_tools();
    let agent = Agent::start();
    let context = Context::new(
        "FROM busybox\nRUN --mount=from=tools,target=/tools --mount=type=ssh,required \
         /tools/add -D; /tools/add -d /tools/key.pub; /tools/add -L\n",
    );
    let mut build = home.build(&context);
    build.arg(format!("--build-context=tools={}", tools.path().display()));
    build.arg(format!("--ssh=default={}", agent.socket().display())).arg("--progress=rawjson");
    let steps = run(&mut build).ok().steps();
    assert!(steps.named("RUN").log.contains(&agent.public_key()), "{steps:#?}");
    let left = run(tool("ssh-add").arg("-L").env("SSH_AUTH_SOCK", agent.socket()));
    assert_eq!(left.stdout.trim(), agent.public_key(), "the user's agent is as it was");
}

/// A mount in another one is seen whichever is written first.
#[test]
fn mounts_within_mounts() {
    let home = Home::new();
    let dir = tempdir();
    fs::write(dir.path().join("s"), "value\n").expect("write");
    let secret = format!("--secret=id=s,src={}", dir.path().join("s").display());
    let mut mounts = [
        "--mount=target=/a,rw",
        "--mount=type=tmpfs,target=/a/b",
        "--mount=type=cache,target=/a/b/c",
        "--mount=type=secret,id=s,target=/a/b/c/d",
    ];
    let says = |mounts: &[&str]| {
        let step = format!("{}RUN {} find /a | sort; echo x > /a/b/c/f", anew(), mounts.join(" "));
        let context = Context::new(&format!("FROM busybox\n{step}\n")).file("file", "x");
        let context = context.file(".dockerignore", "Dockerfile\n.dockerignore\n");
        run(home.build(&context).args(["--progress=rawjson", &secret])).ok().steps().named("RUN").log.clone()
    };
    says(&mounts);
    for _ in 0..mounts.len() {
        mounts.rotate_left(1);
        assert_eq!(says(&mounts), "/a\n/a/b\n/a/b/c\n/a/b/c/d\n/a/b/c/f\n/a/file\n", "{mounts:?}");
    }
    mounts.reverse();
    assert_eq!(says(&mounts), "/a\n/a/b\n/a/b/c\n/a/b/c/d\n/a/b/c/f\n/a/file\n", "{mounts:?}");
    // What is read-only stays without a place for another mount.
    let context =
        Context::new("FROM busybox\nRUN --mount=target=/a --mount=type=cache,target=/a/none true\n");
    run(&mut home.build(&context)).code_is(1).says("/a/none");
}

/// Mounts inside of the cache mount `/c`, and a script that fails where one of them is not there.
const INSIDE: &str = "--mount=type=cache,id=outer,target=/c --mount=type=secret,id=s,target=/c/settings --mount=type=secret,id=s,target=/c/new/s \
                      --mount=type=cache,id=inner,target=/c/inner --mount=type=tmpfs,target=/c/tmp --mount=from=busybox,source=/bin,target=/c/bin";
const IS_ALL_THERE: &str = "test $(cat /c/settings /c/new/s | wc -c) = 12 && test -x /c/bin/busybox && touch /c/inner/x && \
                            grep -q ' /c/inner ' /proc/self/mountinfo && grep -q ' /c/tmp ' /proc/self/mountinfo";

/// A secret for [`INSIDE`], in the directory.
fn with_settings(dir: &Path) -> String {
    fs::write(dir.join("s"), "value\n").expect("write");
    format!("--secret=id=s,src={}", dir.join("s").display())
}

/// A cache mount is one directory for all who have it: who is ready leaves the others what they have mounted in it.
#[track_caller]
fn a_step_leaves_others_their_mounts(build: &dyn Fn(&Context) -> Command) -> Context {
    let dir = tempdir();
    let secret = with_settings(dir.path());
    run(tool("chown").args(["-R", "65534:65534"]).arg(dir.path())).ok();
    let context = |name: &str, awaited: &str| {
        let wait = format!("touch /c/{name}; until test -e /c/{awaited}; do sleep 0.02; done");
        Context::new(&format!("FROM busybox\nRUN {INSIDE} {wait}; {IS_ALL_THERE} && echo x > /result\n"))
    };
    let start = |name: &str, awaited: &str| {
        let context = context(name, awaited);
        let mut command = build(&context);
        command.arg(&secret);
        Background::of(command, dir.path().join(name), context)
    };
    let (mut first, mut second) = (start("first", "second"), start("second", "go"));
    first.ends_well();
    let go = "FROM busybox\nRUN --mount=type=cache,id=outer,target=/free touch /free/go\n";
    run(&mut build(&Context::new(go))).ok();
    second.ends_well();
    // What is left is empty, and seen where nothing is mounted on it.
    let look = "FROM busybox\nRUN --mount=type=cache,id=outer,target=/c cd /c && find bin inner new settings tmp | sort && stat -c '%a %s' settings\n";
    let steps = run(build(&Context::new(look)).arg("--progress=rawjson")).ok().steps();
    assert_eq!(steps.named("find bin").log, "bin\ninner\nnew\nnew/s\nsettings\ntmp\n755 0\n");
    context("second", "go")
}

#[test]
fn a_step_that_ends_leaves_others_their_mounts() {
    for disabled in ["", "overlay"] {
        let home = Home::new();
        let build = |context: &Context| {
            let mut build = home.build(context);
            build.env("BUILDER_DISABLE", disabled);
            build
        };
        let context = a_step_leaves_others_their_mounts(&build);
        let layers = home.export(&context, &[]).layers();
        let paths: Vec<String> = Tree::from_tar(layers.last().expect("a layer")).0.into_keys().collect();
        assert_eq!(paths, ["result"], "nothing but what the command wrote");
    }
}

#[test]
fn a_step_of_an_ordinary_user_leaves_others_their_mounts() {
    for user in [User::with_range(), User::with_one_id()] {
        a_step_leaves_others_their_mounts(&|context| user.build(context));
    }
}

/// Whoever makes what a mount needs in a cache mount, or finds it: each step has its mounts.
#[test]
fn steps_at_once_have_mounts_in_a_cache_mount() {
    let dir = tempdir();
    let secret = with_settings(dir.path());
    let home = Home::new();
    for round in 0..3 {
        let mounts = INSIDE.replace("outer", &format!("outer{round}"));
        let mut text = String::new();
        for stage in 0..4 {
            text += &format!("FROM busybox AS s{stage}\n");
            for step in 0..6 {
                text += &format!("RUN {mounts} : {round} {stage} {step}; {IS_ALL_THERE}\n");
            }
        }
        text += "FROM busybox\n";
        for stage in 0..4 {
            text += &format!("COPY --from=s{stage} /etc/passwd /{stage}\n");
        }
        let steps = home.steps(&Context::new(&text), &[&secret]);
        assert_eq!(steps.executed().iter().filter(|name| name.contains("RUN")).count(), 24);
    }
}

/// The same of a directory of the machine, which keeps an empty directory as it does of `docker run`.
#[test]
fn a_program_that_ends_leaves_others_their_mounts() {
    let home = Home::new();
    run(home.build(&Context::new("FROM busybox\nRUN echo x > /x\n")).args(["-t", "app"])).ok();
    let dir = tempdir();
    let at = |name: &str| dir.path().join(name);
    for name in ["src", "mods"] {
        fs::create_dir(at(name)).expect("make a directory");
    }
    fs::write(at("mods/m"), "module\n").expect("write");
    let volume = |name: &str, target: &str| format!("-v={}:{target}", at(name).display());
    let program = |more: &[String], script: &str| {
        let mut command = home.builder("run");
        command.arg(volume("src", "/src")).args(more).args(["app", "sh", "-c", script]);
        command
    };
    let start = |name: &str, awaited: &str| {
        let script = format!(
            "touch /src/{name}; until test -e /src/{awaited}; do sleep 0.02; done; cat /src/node_modules/m"
        );
        let mut command =
            program(&[volume("mods", "/src/node_modules"), "--tmpfs=/src/tmp".to_owned()], &script);
        let file = |kind: &str| fs::File::create(at(&format!("{name}.{kind}"))).expect("a file");
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Running::start(&mut command)
    };
    let (mut first, mut second) = (start("first", "second"), start("second", "go"));
    let ended = first.wait(Duration::from_secs(60));
    fs::write(at("src/go"), "").expect("write");
    let ended = [ended, second.wait(Duration::from_secs(60))];
    for (status, name) in ended.into_iter().zip(["first", "second"]) {
        let said =
            ["out", "err"].map(|kind| fs::read_to_string(at(&format!("{name}.{kind}"))).expect("read"));
        assert_eq!((status.code(), said), (Some(0), ["module\n".to_owned(), String::new()]), "{name}");
    }
    let left =
        run(&mut program(&[], "cd /src && stat -c '%n %a %u:%g' node_modules tmp && ls -A node_modules tmp"))
            .ok();
    assert_eq!(left.stdout, "node_modules 755 0:0\ntmp 755 0:0\nnode_modules:\n\ntmp:\n");
}

/// What BuildKit does, found by running it.
#[test]
fn mounts_are_as_upstream_has_them() {
    let home = Home::new();
    let stage = "FROM busybox AS st\nRUN mkdir -p /s/d && echo f > /s/f && chown 5:6 /s && chmod 750 /s\nFROM busybox\n";
    let says = |text: &str| {
        let context = Context::new(&format!("{stage}{}{text}\n", anew()));
        home.steps(&context, &[]).named("RUN --mount").log.clone()
    };
    let stat = "stat -c '%a %u:%g'";
    assert_eq!(says(&format!("RUN --mount=type=tmpfs,target=/root {stat} /root")), "700 0:0\n");
    assert_eq!(says(&format!("RUN --mount=type=tmpfs,target=/new {stat} /new")), "1777 0:0\n");
    let seeded = format!("RUN --mount=type=cache,target=/c,from=st,source=/s {stat} /c && ls /c");
    assert_eq!(says(&seeded), "750 5:6\nd\nf\n");
    assert_eq!(says("RUN --mount=type=secret,id=none,env=E echo ${E-unset}"), "\n");
}

#[test]
fn mounts_leave_no_trace() {
    let home = Home::new();
    let dir = tempdir();
    fs::write(dir.path().join("s"), "value\n").expect("write");
    let secret = format!("--secret=id=s,src={}", dir.path().join("s").display());
    let agent = Agent::start();
    let socket = format!("--ssh=default={}", agent.socket().display());
    let types = [
        ("bind", "type=bind,source=d,target="),
        ("file", "type=bind,source=d/f,target="),
        ("rw", "type=bind,source=d,rw,target="),
        ("stage", "type=bind,from=other,source=/bin,target="),
        ("cache", "type=cache,target="),
        ("tmpfs", "type=tmpfs,target="),
        ("secret", "type=secret,id=s,target="),
        ("ssh", "type=ssh,target="),
    ];
    // At a place that is not there, deep; at one that is; and where they go without a word.
    let mut flags = String::new();
    let mut existing = String::new();
    for (name, options) in types {
        flags += &format!("--mount={options}/new/{name}/deep --mount={options}/srv/{name} ");
        let make = if matches!(name, "file" | "secret" | "ssh") { "echo old >" } else { "mkdir" };
        existing += &format!("{make} /srv/{name}; ");
    }
    flags += "--mount=type=secret,id=s --mount=type=ssh";
    let base = format!(
        "FROM busybox AS other\nFROM busybox AS base\nRUN mkdir -p /srv && {existing} touch -d 2020-01-01 /srv /srv/* /run\n"
    );
    let build = |rest: &str| {
        let context = Context::new(&format!("{base}{rest}")).file("d/f", "f\n");
        home.export(&context, &[&secret, &socket])
    };
    let before = build("");
    let after = build(&format!(
        "RUN {flags} ls -lR /new /srv /run > /dev/null && test -S $SSH_AUTH_SOCK && echo x > /result\n"
    ));
    let layers = after.layers();
    assert_eq!(layers.len(), before.layers().len() + 1);
    let paths: Vec<String> = Tree::from_tar(layers.last().expect("a layer")).0.into_keys().collect();
    assert_eq!(paths, ["result"], "nothing but what the command wrote");
    // An empty step makes an empty layer, however many mounts it has.
    let nothing = build(&format!("RUN {flags} true\n"));
    assert!(Tree::from_tar(nothing.layers().last().expect("a layer")).0.is_empty());
    // What the command itself puts beside a mount stays.
    let beside = build("RUN --mount=type=tmpfs,target=/a/b echo kept > /a/c; echo lost > /a/b/d\n");
    let tree = beside.tree();
    assert!(tree.0.contains_key("a/c") && !tree.0.contains_key("a/b/d"), "{:?}", tree.0.keys());
}

/// Of an image that has none of what every step has mounted.
#[test]
fn an_image_without_mount_points() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox AS tools\nFROM scratch AS bare\nCOPY --from=tools /bin /bin\n\
         FROM bare AS empty\nRUN ls / /etc && test -s /etc/hosts\n\
         FROM empty AS made\nRUN echo x > /etc/x && mkdir /sys.d\n\
         FROM made AS gone\nRUN rm /etc/x && ls -A /etc\n\
         FROM gone\nRUN --mount=from=bare,target=/m ls -A /m\n",
    );
    let steps = home.steps(&context, &[]);
    assert_eq!(steps.named("RUN ls /").log, "/:\nbin\ndev\netc\nproc\nsys\n\n/etc:\nhosts\nresolv.conf\n");
    assert_eq!(steps.named("RUN rm").log, "hosts\nresolv.conf\n");
    assert_eq!(steps.named("RUN --mount").log, "bin\n", "what is bound is what there is");
    let layers = home.export(&context, &[]).layers();
    let names = |index: usize| Tree::from_tar(&layers[index]).0.into_keys().collect::<Vec<_>>();
    assert_eq!(names(1), [""; 0], "looking makes nothing");
    assert_eq!(names(2), ["etc", "etc/x", "sys.d"]);
    assert_eq!(Tree::from_tar(&layers[2]).0["etc"].mode, 0o755);
}

/// As above: what a step does to its mount points leaves the same, whether its root is an overlay or a copy.
#[test]
fn mount_points_of_a_bare_image_are_in_no_layer() {
    let kept: [(&str, &[&str]); 15] = [
        ("chmod 755 /etc", &[]),
        ("chmod 700 /etc", &[]),
        ("chown 1:1 /etc && touch -d @1 /etc", &[]),
        ("touch /etc/x && rm /etc/x", &[]),
        ("echo x > /etc/x", &["etc", "etc/x"]),
        ("mv /etc /etc2", &["etc2"]),
        ("rm -r /etc || true", &[]),
        ("mkdir /proc2 && mv /proc2 /proc || rmdir /proc2", &[]),
        ("rmdir /sys || mv /sys /sys2 || mv /dev /dev2 || mv /proc /proc2 || true", &[]),
        ("chmod 700 /dev && touch -d @1 /dev /sys /proc || chown 1:1 /dev /sys || true", &[]),
        ("rm -r /dev/* 2> /dev/null; mkdir -p /dev/x/y", &[]),
        ("ls / /etc > /listing && stat -c '%n %F %a %u:%g' /dev /etc /proc /sys >> /listing", &["listing"]),
        ("mkdir /a && cp -a /etc /a", &["a", "a/etc", "a/etc/hosts", "a/etc/resolv.conf"]),
        ("ln -s /etc /l && chmod 711 /l", &["l"]),
        ("touch -d @1 /", &[]),
    ];
    let privileged = [
        "umount -l /sys && chmod 700 /sys",
        "umount -l /sys && rmdir /sys",
        "umount -l /dev && touch -d @1 /dev",
        "umount -l /proc && touch /proc/x && rm /proc/x",
        "umount -l /sys && mv /sys /sys2",
        "umount -l /etc/hosts && chmod 600 /etc/hosts",
    ];
    let homes = [("", Home::new()), ("overlay", Home::new())];
    let bare = "FROM busybox AS tools\nFROM scratch AS bare\nCOPY --from=tools /bin /bin\n";
    let layer = |home: &Home, disabled: &str, from: &str, step: &str| {
        let dir = tempdir();
        let output = format!("type=oci,tar=false,dest={}", dir.path().join("layout").display());
        let context = Context::new(&format!("{bare}{from}RUN {step}\n"));
        let mut build = home.build(&context);
        build.env("SOURCE_DATE_EPOCH", "1600000000").env("BUILDER_DISABLE", disabled);
        run(build.args(["--allow", "security.insecure", "-o", &output])).ok();
        Image::open(dir.path().join("layout"), None).layers().pop().expect("a layer")
    };
    let same = |from: &str, step: &str| {
        let layers =
            homes.each_ref().map(|(disabled, home)| Tree::from_tar(&layer(home, disabled, from, step)));
        let names = layers.each_ref().map(|tree| tree.0.keys().cloned().collect::<Vec<_>>());
        assert_eq!(names[0], names[1], "{step}");
        assert_eq!(layers[0].0, layers[1].0, "{step}");
        names[0].clone()
    };
    for (step, kept) in kept {
        assert_eq!(same("FROM bare\n", step), kept, "{step}");
    }
    for step in privileged {
        same("FROM bare\n", &format!("--security=insecure {step}"));
    }
    // What an image has of them is its own.
    let has = "FROM bare\nCOPY --from=tools /bin/busybox /dev/\nRUN echo x > /etc/x && chmod 711 /etc\n";
    for step in ["chmod 700 /dev /etc", "touch /etc/y && rm -f /etc/y", "rm /etc/x", "true"] {
        same(has, step);
    }
    // Of an /etc that it has, the same: whole, made anew over another, without a file that was there, behind a link.
    let refused = "for try in 'rm /etc/hosts' 'mv /etc/resolv.conf /a' 'ln /etc/hosts /b' 'chmod 600 /etc/hosts' 'rm -r /etc' \
                   'touch -d @1 /etc/resolv.conf'; do $try || echo $try >> /refused; done; ls -a /etc/ > /listing || true";
    let etc = "FROM bare\nRUN mkdir -p /etc && echo x > /etc/x && chmod 711 /etc\n";
    for more in [
        "",
        "RUN mv /etc /old && mkdir -m 700 /etc || true\n",
        "COPY Dockerfile /etc/hosts\nRUN --security=insecure umount /etc/hosts && rm /etc/hosts\n",
        "RUN --security=insecure umount /etc/hosts /etc/resolv.conf && mv /etc /here && ln -s here /etc\n",
    ] {
        let kept = same(&format!("{etc}{more}"), refused);
        let kept: Vec<&str> = kept.iter().map(String::as_str).filter(|name| name.contains("hosts")).collect();
        assert_eq!(kept, [""; 0], "{more}");
    }
    let file = Context::new(&format!("{bare}FROM bare\nCOPY Dockerfile /proc\nRUN true\n"));
    for (disabled, home) in &homes {
        run(home.build(&file).env("BUILDER_DISABLE", disabled)).code_is(1).says("/proc");
    }
}

/// A description of devices among the machine's own.
struct Described(std::path::PathBuf);

impl Described {
    fn new(text: &str) -> Self {
        let dir = Path::new("/var/run/cdi");
        fs::create_dir_all(dir).expect("make a directory");
        let file = dir.join(format!("builder-e2e-{}.json", std::process::id()));
        fs::write(&file, text).expect("write a description");
        Self(file)
    }
}

impl Drop for Described {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A device of the machine is there for the step that names it, and in no layer; and only where the command line allows it.
#[test]
fn a_device_of_the_machine_by_its_name() {
    need_root();
    let kind = format!("e2e.example/thing{}", std::process::id());
    let _described = Described::new(&format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "{kind}", "devices": [{{"name": "full", "containerEdits":
        {{"env": ["THING=1"], "deviceNodes": [{{"path": "/dev/thing", "hostPath": "/dev/full"}}]}}}}]}}"#
    ));
    let uses =
        "test \"$THING\" = 1 && ! echo x 2> /said > /dev/thing && grep 'No space left' /said && rm /said";
    let context = Context::new(&format!(
        "FROM busybox\nRUN --device={kind}=full,required {uses}\nRUN test ! -e /dev/thing && test -z \"$THING\"\n"
    ));
    let home = Home::new();
    run(&mut home.build(&context)).code_is(1).says("--allow device");
    let dir = tempdir();
    let output = format!("type=oci,tar=false,dest={}", dir.path().join("layout").display());
    run(home.build(&context).args(["--allow", "device", "-o", &output])).ok();
    let layers = Image::open(dir.path().join("layout"), None).layers();
    for layer in &layers[layers.len() - 2..] {
        assert!(Tree::from_tar(layer).0.is_empty());
    }
}

#[test]
fn a_look_into_cache_mounts() {
    let home = Home::new();
    let cache = |arguments: &[&str]| {
        let mut command = home.builder("cache");
        command.args(arguments);
        run(&mut command)
    };
    busybox(&home, "RUN true", &[]);
    assert_eq!(cache(&["ls"]).ok().stdout, "", "none yet");
    busybox(
        &home,
        "RUN --mount=type=cache,target=/c,id=a:b mkdir -p /c/d/e && echo x > /c/d/f && ln -s f /c/d/l && chown 5:6 /c/d/f",
        &[],
    );
    busybox(&home, "RUN --mount=type=cache,target=/other echo y > /other/f", &[]);
    let list = cache(&["ls"]).ok().stdout;
    assert!(list.contains("a:b") && list.contains("/other") && list.lines().count() == 3, "{list}");
    let root = cache(&["inspect", "a:b"]).ok().stdout;
    assert!(root.lines().any(|line| line.starts_with("d0755") && line.ends_with(" d")), "{root}");
    let below = cache(&["inspect", "a:b", "/d"]).ok().stdout;
    for (start, end) in [("-0644", " f"), ("d0755", " e"), ("l", " l")] {
        assert!(below.lines().any(|line| line.starts_with(start) && line.ends_with(end)), "{start}: {below}");
    }
    assert!(below.contains("5:6"), "{below}");
    let dir = tempdir();
    let at = |name: &str| dir.path().join(name).display().to_string();
    cache(&["cp", "a:b:/d/f", &at("one")]).ok();
    assert_eq!(fs::read_to_string(at("one")).expect("read"), "x\n");
    cache(&["cp", "a:b:d", &at("all")]).ok();
    assert_eq!(fs::read_to_string(at("all/f")).expect("read"), "x\n");
    assert_eq!(fs::read_link(at("all/l")).expect("read"), Path::new("f"));
    // `-` is standard output, which gets a tar as that of `docker cp`.
    let piped = |from: &str, read: &str| {
        let line = format!("cd \"$1\" && \"$0\" cache cp \"$2\" - | {read} && ! test -e ./-");
        let mut shell = tool("sh");
        shell.args(["-ec", &line]).arg(e2e::binary()).arg(dir.path()).arg(from);
        run(shell.env("BUILDER_HOME", home.path())).ok().stdout
    };
    assert_eq!(piped("a:b:/d/f", "tar -xO f"), "x\n");
    assert_eq!(piped("a:b:/d", "tar -t"), "d/\nd/e/\nd/f\nd/l\n");
    assert_eq!(piped("a:b:/", "tar -t | grep -c d/"), "4\n");
    cache(&["cp", "a:b:/d/none", "-"]).code_is(1).says("a:b:/d/none: there is nothing");

    // To another machine and back.
    cache(&["export", "a:b", "-o", &at("a.tar")]).ok();
    let names = run(tool("tar").arg("-tvf").arg(at("a.tar"))).ok().stdout;
    assert!(names.contains("5/6") && names.contains("d/f"), "{names}");
    run(tool("gzip").arg(at("a.tar"))).ok();
    let elsewhere = Home::new();
    let mut import = elsewhere.builder("cache");
    run(import.args(["import", "a:b", "-i", &at("a.tar.gz")])).ok();
    let read = "RUN --mount=type=cache,target=/c,id=a:b cat /c/d/l && stat -c %u:%g /c/d/f";
    assert_eq!(busybox(&elsewhere, read, &[]), "x\n5:6\n");
    // Through pipes, in the place of what is there.
    let mut shell = tool("sh");
    let line = "\"$0\" cache export /other | \"$0\" cache import a:b";
    shell.args(["-ec", line]).arg(e2e::binary()).env("BUILDER_HOME", home.path());
    run(&mut shell).ok();
    assert_eq!(busybox(&home, "RUN --mount=type=cache,target=/c,id=a:b ls /c && cat /c/f", &[]), "f\ny\n");

    cache(&["rm", "a:b"]).ok();
    let list = cache(&["ls"]).ok().stdout;
    assert!(!list.contains("a:b") && list.contains("/other"), "{list}");
    for arguments in [
        &["inspect", "none"][..],
        &["rm", "none"],
        &["export", "none", "-o", "/tmp/none"],
        &["cp", "none:/f", "/tmp/none"],
        &["inspect", "/other", "/none"],
        &["cp", "/other:/none", "/tmp/none"],
    ] {
        cache(arguments).code_is(1).says("none");
    }
    // Garbage is refused and what is there stays.
    let garbage = dir.path().join("garbage");
    fs::write(&garbage, vec![b'x'; 4096]).expect("write");
    cache(&["import", "/other", "-i", &garbage.display().to_string()]).code_is(1);
    assert_eq!(busybox(&home, "RUN --mount=type=cache,target=/other cat /other/f", &[]), "y\n");
}

#[test]
fn exports_write_to_devices() {
    e2e::need_root();
    let home = Home::new();
    busybox(&home, "RUN --mount=type=cache,target=/c echo x > /c/f", &[]);
    let dir = tempdir();
    let null = dir.path().join("null");
    run(tool("mknod").arg(&null).args(["c", "1", "3"])).ok();
    run(home.builder("cache").args(["export", "/c", "-o"]).arg(&null)).ok();
    run(home.builder("cache").args(["cp", "/c:/f"]).arg(&null)).ok();
    let kind = fs::symlink_metadata(&null).expect("it is there").file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&kind), "still the device");
}

#[test]
fn a_cache_mount_in_use_is_removed_when_it_is_free() {
    let home = Home::new();
    let dir = tempdir();
    let mounts = "--mount=type=cache,target=/c,id=busy --mount=type=cache,target=/free";
    let script = "echo old > /c/f; echo ready; while ! test -e /free/go; do sleep 0.05; done; cat /c/f";
    let mut build = Background::start(&home, dir.path(), "a", mounts, script);
    eventually(Duration::from_secs(30), "the step to run", || build.said("ready"));
    let list = run(home.builder("cache").arg("ls")).ok().stdout;
    assert!(list.lines().any(|line| line.starts_with("busy") && line.contains("in use")), "{list}");
    let removed = run(home.builder("cache").args(["rm", "busy"])).ok();
    assert!(removed.stdout.contains("in use"), "{removed}");
    // Nobody gets it any more, and the step that has it is not disturbed.
    let new = busybox(&home, "RUN --mount=type=cache,target=/c,id=busy ls /c; echo new > /c/g", &[]);
    assert_eq!(new, "");
    busybox(&home, "RUN --mount=type=cache,target=/free touch /free/go", &[]);
    build.ends_well();
    assert!(build.said("old"), "{}", build.text());
    let step = "RUN --mount=type=cache,target=/c,id=busy ls /c";
    assert_eq!(busybox(&home, step, &[]), "g\n");
}

/// Two steps of one build that run at the same time, in each sharing mode.
#[test]
fn steps_of_a_build_share_by_mode() {
    let home = Home::new();
    let meet = "--mount=type=cache,target=/meet";
    let both = |mounts: &str, script: &dyn Fn(&str) -> String| {
        let stage = |name: &str| format!("FROM busybox AS {name}\nRUN {mounts} : {name}; {}\n", script(name));
        let context = Context::new(&format!(
            "{}{}FROM busybox\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n",
            stage("a"),
            stage("b")
        ));
        let steps = home.steps(&context, &[]);
        ["a", "b"].map(|name| steps.named(&format!(": {name};")).log.clone())
    };
    // Both are in it at once.
    let shared =
        both("--mount=type=cache,target=/meet,id=together", &|name| format!("touch /meet/{name}; {MEET}"));
    assert_eq!(shared, ["there: a b\n"; 2]);
    // Both run at once, each with one of its own.
    let private = both(&format!("{meet} --mount=type=cache,target=/own,id=steps,sharing=private"), &|name| {
        format!("touch /own/{name} /meet/{name}; {{ {MEET}; }} > /dev/null && ls /own")
    });
    assert_eq!(private, ["a\n", "b\n"]);
    // One after the other, whoever is first.
    let locked = both("--mount=type=cache,target=/l,id=steps-locked,sharing=locked", &|name| {
        format!(
            "test ! -e /l/inside && touch /l/inside && sleep 0.5 && rm /l/inside && echo {name} >> /l/order && wc -l < /l/order"
        )
    });
    assert!(locked == ["1\n", "2\n"] || locked == ["2\n", "1\n"], "{locked:?}");
    // A lock is of a name: another mode of the same name waits for it as well, and one step may have a name twice.
    let twice = "RUN --mount=type=cache,target=/x,id=steps-locked,sharing=locked \
                 --mount=type=cache,target=/y,id=steps-locked,sharing=locked cmp /x/order /y/order && echo same";
    assert_eq!(busybox(&home, twice, &[]), "same\n");
}

/// A build argument keeps the cache mounts of several projects apart.
#[test]
fn names_of_cache_mounts_have_a_space() {
    let home = Home::new();
    let write = "RUN --mount=type=cache,target=/c,id=n echo first > /c/f";
    busybox(&home, write, &["--build-arg=BUILDKIT_CACHE_MOUNT_NS=one"]);
    let read = "RUN --mount=type=cache,target=/c,id=n cat /c/f 2>/dev/null || echo none";
    assert_eq!(busybox(&home, read, &["--build-arg=BUILDKIT_CACHE_MOUNT_NS=one"]), "first\n");
    assert_eq!(busybox(&home, read, &["--build-arg=BUILDKIT_CACHE_MOUNT_NS=two"]), "none\n");
    assert_eq!(busybox(&home, read, &[]), "none\n");
}

/// Seeds from an image and from a named context, in whole and in part, and what a variable that is there already is worth.
#[test]
fn further_sources() {
    let home = Home::new();
    let named = tempdir();
    fs::create_dir(named.path().join("d")).expect("make a directory");
    fs::write(named.path().join("d/f"), "named\n").expect("write");
    let named = format!("--build-context=other={}", named.path().display());
    let says = |rest: &str| busybox(&home, rest, &[&named]);
    assert_eq!(
        says(
            "RUN --mount=type=cache,target=/c,id=i,from=busybox,source=/bin test -x /c/busybox && echo there"
        ),
        "there\n"
    );
    assert_eq!(says("RUN --mount=type=cache,target=/c,id=w,from=other cat /c/d/f"), "named\n");
    assert_eq!(says("RUN --mount=type=cache,target=/c,id=p,from=other,source=d cat /c/f"), "named\n");
    assert_eq!(says("RUN --mount=from=other,source=d/f,target=/m cat /m"), "named\n");
    assert_eq!(says("RUN --mount=from=other,target=/m,rw echo x > /m/d/f && cat /m/d/f"), "x\n");
    assert_eq!(
        says(
            "RUN --mount=type=cache,target=/c,id=w,from=other,readonly cat /c/d/f; touch /c/x 2>/dev/null || echo no"
        ),
        "named\nno\n"
    );
    let agent = Agent::start();
    let socket = format!("--ssh={}", format_args!("default={}", agent.socket().display()));
    let own = "ENV SSH_AUTH_SOCK=/mine\nRUN --mount=type=ssh echo $SSH_AUTH_SOCK && test -S /run/buildkit/ssh_agent.0 && echo there";
    assert_eq!(busybox(&home, own, &[&socket]), "/mine\nthere\n");
}
