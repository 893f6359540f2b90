//! Builds by an ordinary user: with a range of subordinate ids, and with the one id that everybody has.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use e2e::{
    Context, Home, Image, Running, User, eventually, mounts_with, need_root, processes_with, run, tempdir,
    tool, unpack,
};
use rustix::process::Signal;

/// The same by root.
fn image_by_root(context: &Context) -> Image {
    let home = e2e::Home::new();
    let dir = tempdir();
    let layout = dir.path().join("layout");
    let mut build = home.build(&context);
    build.env("SOURCE_DATE_EPOCH", "1600000000");
    run(build.args(["-o", &format!("type=oci,tar=false,dest={}", layout.display())])).ok();
    Image::open(layout, Some(dir))
}

/// Owners of all kinds, made by RUN.
const OWNERS: &str = "\
FROM busybox AS make
RUN echo me:x:1000:1000::/:/bin/sh >> /etc/passwd && echo me:x:1000: >> /etc/group && mkdir -p /d/e && echo x > /d/e/f && chown -R me:me /d && chmod 4755 /d/e/f && chgrp 33 /d
COPY --chown=1234:5678 file /owned
RUN mkdir /gone /opaque && touch /gone/x /opaque/x
FROM busybox
COPY --from=make / /
RUN rm -r /gone && rm -r /opaque && mkdir /opaque && touch /opaque/new && stat -c '%n %u %g %a' /d/e/f /owned && id -u
USER 1234
RUN id -u && touch /tmp/mine && stat -c %u /tmp/mine
";

fn owners() -> Context {
    let context = Context::new(OWNERS).file("file", "owned\n");
    context.chmod("file", 0o644);
    context.chmod("Dockerfile", 0o644);
    context
}

#[test]
fn with_a_range() {
    let user = User::with_range();
    let context = owners();
    let steps = user.built(&context).steps();
    assert!(steps.named("RUN rm -r").log.contains("/owned 1234 5678 644"), "{steps:#?}");
    assert_eq!(steps.named("RUN id -u").log, "1234\n1234\n");
    user.built(&context).steps().all_cached();
    // The store is where an ordinary user's data is, and root has no part in it.
    assert!(user.at("home/.local/share/builder").is_dir(), "the state directory");
}

#[test]
fn the_image_is_the_one_that_root_makes() {
    let context = owners();
    let user = User::with_range();
    let (theirs, roots) = (user.image(&context), image_by_root(&context));
    theirs.tree().same(&roots.tree(), "built by an ordinary user, and by root");
    assert_eq!(theirs.digest, roots.digest);
}

/// Without subordinate ids a process cannot give files away, but COPY can, and the image says so.
const ONE_ID: &str = "\
FROM busybox
COPY --chown=1234:5678 --chmod=4711 file /owned
WORKDIR /work
RUN echo made > made && mkdir -p sub && mv made sub/ && ln sub/made hard && id -u && rm /etc/shadow
COPY --chown=7 file sub/
RUN cat /owned sub/file
";

#[test]
fn with_one_id() {
    let user = User::with_one_id();
    let context = Context::new(ONE_ID).file("file", "text\n");
    context.chmod("file", 0o644);
    context.chmod("Dockerfile", 0o644);
    let steps = user.built(&context).steps();
    assert!(steps.named("RUN echo made").log.starts_with("0\n"), "root inside: {steps:#?}");
    assert_eq!(steps.named("RUN cat").log, "text\ntext\n");
    user.built(&context).steps().all_cached();
    let (theirs, roots) = (user.image(&context), image_by_root(&context));
    let tree = theirs.tree();
    assert_eq!((tree.at("owned").uid, tree.at("owned").gid, tree.at("owned").mode), (1234, 5678, 0o4711));
    tree.same(&roots.tree(), "built with one id, and by root");
    assert_eq!(theirs.digest, roots.digest);
}

/// With a single id the kernel gives nothing away: owners that a step gives are recorded, seen by later steps, and in the image.
#[test]
fn with_one_id_owners_that_steps_give() {
    let user = User::with_one_id();
    let context = Context::new(
        "FROM busybox\n\
         RUN mkdir -p /d && echo x > /d/f && echo y > /d/g && ln -s f /d/link && chown 5:6 /d /d/f && chmod 4755 /d/f && chgrp 9 /d/g && stat -c '%n %u:%g %a' /d /d/f /d/g\n\
         RUN stat -c '%n %u:%g %a' /d /d/f /d/g && mv /d/g /d/h && chown 3:4 /d/h\n",
    );
    let steps = user.built(&context).steps();
    let seen = "/d 5:6 755\n/d/f 5:6 4755\n/d/g 0:9 644\n";
    assert_eq!(steps.named("RUN mkdir").log, seen, "in the step itself: {steps:#?}");
    assert_eq!(steps.named("RUN stat").log, seen, "in a later step: {steps:#?}");
    let (theirs, roots) = (user.image(&context), image_by_root(&context));
    let tree = theirs.tree();
    let owners = ["d", "d/f", "d/h", "d/link"].map(|path| (tree.at(path).uid, tree.at(path).gid));
    assert_eq!(owners, [(5, 6), (5, 6), (3, 4), (0, 0)]);
    tree.same(&roots.tree(), "built with one id, and by root");
    assert_eq!(theirs.digest, roots.digest);
}

/// Owners of what takes no attributes of users.
const LINKS: &str = "\
FROM busybox AS make
RUN mkdir /d /many && cd /d && ln -s f link && chown -h 5:6 link && mkfifo pipe && chown 7:8 pipe && ln link name \
 && for i in $(seq 3000); do ln -s $i /many/$i; done && chown -R -h 9:10 /many \
 && ln -s x a && chown -h 11:12 a && mv a moved && ln -s y new && chown -h 3:3 new && rm new && ln -s y new \
 && stat -c '%n %u:%g' link pipe name moved new /many/3000
RUN cd /d && stat -c '%n %u:%g' link pipe name moved new /many/3000 && ls -ln link | awk '{print $3, $4}'
RUN cd /d && mv moved again && mv pipe tube && rm /many/1 && ln -s 1 /many/1 && touch -h /many/2 && chown -h :11 /many/3 \
 && rm -r /many/4 && mkdir /many/4 && cp -a /d /copied && cp -a /many/5 /copied/five && stat -c '%n %u:%g' /copied/link /copied/tube /copied/five
FROM busybox
COPY --from=make /d /d
COPY --from=make /many /many
COPY --from=make /copied /copied
COPY --from=make --chown=50:60 /copied /chowned
RUN cd /copied && stat -c '%n %u:%g' again five /d/link /d/tube /many/3 /chowned/five && mv five 5 && rm again && ln -s x again
";

/// What later steps, copies and the image have is what root makes, also where steps work in full copies.
#[test]
fn with_one_id_owners_of_links() {
    let context = Context::new(LINKS);
    let (digest, roots) = {
        let image = image_by_root(&context);
        (image.digest.clone(), image.tree())
    };
    for disabled in ["", "overlay"] {
        let user = User::with_one_id();
        let built = run(user.build(&context).arg("--progress=rawjson").env("BUILDER_DISABLE", disabled)).ok();
        assert!(!built.stderr.contains("not recorded"), "{built}");
        let steps = built.steps();
        let first = "link 5:6\npipe 7:8\nname 5:6\nmoved 11:12\nnew 0:0\n/many/3000 9:10\n";
        assert_eq!(steps.named("RUN mkdir").log, first, "in the step itself");
        assert_eq!(steps.named("RUN cd /d && stat").log, format!("{first}5 6\n"), "in a later step");
        let copies = "/copied/link 5:6\n/copied/tube 7:8\n/copied/five 9:10\n";
        assert_eq!(steps.named("RUN cd /d && mv").log, copies, "of copies that a step makes");
        let last = "again 11:12\nfive 9:10\n/d/link 5:6\n/d/tube 7:8\n/many/3 9:11\n/chowned/five 50:60\n";
        assert_eq!(steps.named("RUN cd /copied").log, last, "of copies that COPY makes");
        let layout = user.at("out/layout");
        let mut again = user.build(&context);
        again.args(["--progress=rawjson", "-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
        again.env("SOURCE_DATE_EPOCH", "1600000000").env("BUILDER_DISABLE", disabled);
        run(&mut again).ok().steps().all_cached();
        let theirs = Image::open(layout, None);
        let tree = theirs.tree();
        tree.same(&roots, &format!("built with one id, and by root {disabled}"));
        assert_eq!(theirs.digest, digest, "{disabled}");
        let of = |path: &str| (tree.at(path).uid, tree.at(path).gid);
        let owners = [
            "d/link",
            "d/name",
            "d/tube",
            "d/again",
            "d/new",
            "many/1",
            "many/2",
            "copied/5",
            "copied/again",
        ]
        .map(of);
        let (given, none) = ((9, 10), (0, 0));
        assert_eq!(owners, [(5, 6), (5, 6), (7, 8), (11, 12), none, none, given, given, none]);
    }
}

/// Those of devices are the machine's, which is said.
#[test]
fn with_one_id_owners_of_devices() {
    let user = User::with_one_id();
    let context = Context::new("FROM busybox\nRUN chown 7:8 /dev/null\n");
    let dropped = "owners of devices, and of files on file systems without attributes, are not recorded";
    drop(run(user.build(&context).arg("--progress=plain")).ok().says(dropped));
}

/// A limit that this user cannot set fails the build, and says why; nothing runs without it.
#[test]
fn limits_that_cannot_be_set_fail() {
    let user = User::with_range();
    let context = Context::new("FROM busybox\nRUN echo it \"ran\"\n");
    for (limit, controller) in
        [("--memory=64m", "memory"), ("--pids-limit=50", "pids"), ("--cpuset-cpus=0", "cpuset")]
    {
        let refused = run(user.build(&context).args(["--progress=plain", limit])).code_is(3);
        assert!(!refused.stderr.contains(" it ran"), "{refused}");
        let why = format!("limits cannot be enforced: cgroup controller {controller}: ");
        drop(refused.says(&why).says("builder info"));
    }
    // Nobody asked for one.
    let built = run(user.build(&context).arg("--progress=plain")).ok().says(" it ran");
    assert!(!built.stderr.contains("cgroup"), "{built}");
    let info = run(&mut user.builder("info")).ok().stdout;
    let row = info.lines().find(|line| line.starts_with("cgroups ")).expect("a row");
    let (can, cannot) = row.split_once("those that cannot: ").expect("what cannot be enforced");
    assert!(can.contains("can be enforced: none") && cannot.contains("memory ("), "{row}");
}

#[test]
fn apt_get_works() {
    let context = Context::new(
        "FROM debian\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends cron hello && hello\n\
         RUN stat -c '%u:%g %a' /usr/bin/crontab\n",
    );
    // But for times of what was done, in logs and caches.
    let installed = |image: Image| image.tree().without(|path| path.starts_with("var/"));
    let by_root = installed(image_by_root(&context));
    for user in [User::with_range(), User::with_one_id()] {
        let steps = user.built(&context).steps();
        assert!(steps.named("RUN apt-get").log.ends_with("Hello, world!\n"), "{steps:#?}");
        // Set by the maintainer's script.
        assert_eq!(steps.named("RUN stat").log, "0:101 2755\n");
        installed(user.image(&context)).same(&by_root, "what is installed, by a user and by root");
    }
}

#[test]
fn an_image_runs() {
    let user = User::with_range();
    run(user
        .build(&Context::new("FROM busybox\nRUN echo hi > /f\nCMD [\"cat\", \"/f\"]\n"))
        .args(["-t", "hi"]))
    .ok();
    assert_eq!(run(user.builder("run").arg("hi")).ok().stdout, "hi\n");
    run(user.builder("run").args(["hi", "sh", "-c", "exit 9"])).code_is(9);
}

/// What a range owns the user cannot remove with `rm`; `builder prune` can.
#[test]
fn prune_empties_the_store() {
    let user = User::with_range();
    run(&mut user.build(&owners())).ok();
    run(user.builder("prune").args(["--all", "--force"])).ok();
    let mut remove = user.command(Path::new("rm"));
    run(remove.args(["-rf"]).arg(user.at("home/.local"))).ok();
    assert!(!user.at("home/.local").exists());
}

/// Steps of root are in a user namespace on request: root there can do nothing outside, and the image is the same.
#[test]
fn root_may_have_a_user_namespace() {
    need_root();
    let context = owners();
    let by_root = image_by_root(&context);
    let (home, dir) = (Home::new(), tempdir());
    let layout = dir.path().join("layout");
    let mut build = home.build(&context);
    build.env("SOURCE_DATE_EPOCH", "1600000000").env("BUILDER_USERNS", "1");
    run(build.args(["-o", &format!("type=oci,tar=false,dest={}", layout.display())])).ok();
    assert_eq!(Image::open(layout, Some(dir)).digest, by_root.digest);
    let seen = |wanted: &str| {
        let home = Home::new();
        let context = Context::new("FROM busybox\nRUN readlink /proc/self/ns/user\n");
        let mut build = home.build(&context);
        run(build.arg("--progress=rawjson").env("BUILDER_USERNS", wanted))
            .ok()
            .steps()
            .named("RUN")
            .log
            .clone()
    };
    let own = fs::read_link("/proc/self/ns/user").expect("the own namespace");
    assert_eq!(seen("0").trim(), own.display().to_string());
    assert_ne!(seen("1").trim(), own.display().to_string());
    // Each kind of layers has a state directory of its own.
    run(&mut home.build(&context))
        .code_is(3)
        .says("it was made in a user namespace (of an ordinary user, or of root with BUILDER_USERNS=1), ")
        .says("and is opened by root, without a user namespace;");
    run(home.build(&context).env("BUILDER_USERNS", "perhaps")).code_is(2).says("BUILDER_USERNS");
}

#[test]
fn interruption_leaves_nothing() {
    let user = User::with_range();
    let marker = format!("89{}", std::process::id());
    let context =
        Context::new(&format!("FROM busybox\nRUN trap '' INT TERM; sleep {marker} & sleep {marker}\n"));
    let quiet = || Stdio::null();
    let mut build = Running::start(user.build(&context).stdin(quiet()).stdout(quiet()).stderr(quiet()));
    let text = format!("sleep {marker}");
    eventually(Duration::from_secs(60), "the step to run", || processes_with(&text).len() >= 2);
    build.signal(Signal::INT);
    build.wait(Duration::from_secs(5));
    eventually(Duration::from_secs(2), "all processes to be gone", || processes_with(&text).is_empty());
    let place = user.at("").display().to_string();
    // Whoever started the build has them too, and goes a moment later.
    eventually(Duration::from_secs(5), "all mounts to be gone", || mounts_with(&place).is_empty());
    let left: Vec<_> =
        fs::read_dir(user.at("tmp")).expect("list TMPDIR").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "temporary files left: {left:?}");
    user.built(&Context::new("FROM busybox\nRUN echo fine\n"));
}

/// A process of an ordinary user's build is root only to itself.
#[test]
fn root_inside_is_nobody_outside() {
    let user = User::with_range();
    let context = Context::new(
        "FROM busybox\nRUN id -u && ! mount -t tmpfs none /tmp && ! chroot / true 2>&1 | grep -q nothing; cat /proc/self/uid_map\n",
    );
    let steps = user.built(&context).steps();
    let log = &steps.named("RUN id").log;
    assert!(log.starts_with("0\n"), "{log}");
    assert!(log.contains("65534") || log.contains("100000"), "mapped to the user's ids: {log}");
}

/// Where overlay cannot be mounted a RUN works in a copy of its file system, and leaves the same.
#[test]
fn without_overlay_the_same_tree() {
    let context = Context::new(
        "FROM busybox\nRUN mkdir -p /a/b && echo 1 > /a/b/1 && ln -s b /a/l && chown 3:4 /a && chmod 2755 /a\nWORKDIR /w\nCOPY f .\n\
         RUN rm /a/b/1 && echo 2 > /a/b/2 && mv /w/f /w/g && rm -r /home && touch /etc/new && ln /a/b/2 /hard\n",
    )
    .file("f", "f\n");
    let with = Home::new().export(&context, &[]).tree();
    let home = Home::new();
    let dir = tempdir();
    let layout = dir.path().join("layout");
    let output = format!("type=oci,tar=false,name=e2e:latest,dest={}", layout.display());
    run(home.build(&context).args(["-o", &output]).env("BUILDER_DISABLE", "overlay")).ok();
    with.same(&unpack(&layout), "with overlay, and without");
    // On an overlay, as the files of a privileged container are, another one cannot be, nor its marks.
    let place = tempdir();
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(place.path().join(name)).expect("make a directory");
    }
    let script =
        "mount -t overlay -o lowerdir=$0/lower,upperdir=$0/upper,workdir=$0/work none $0/merged; exec \"$@\"";
    let mut within = tool("unshare");
    within.args(["--mount", "sh", "-ec", script]).arg(place.path());
    let build = home.build(&context);
    within.arg(build.get_program()).args(build.get_args()).args(["-o", &output]);
    within.env("BUILDER_HOME", place.path().join("merged/state"));
    run(&mut within).ok().says("every RUN works in a full copy of its file system");
    with.same(&unpack(&layout), "with overlay, and on one");
}

/// A container of an ordinary user, as far as builds see it: a user namespace with one id, parts of `/proc` hidden, its files on an
/// overlay, on which no other can be, and a volume at `$HOME/volume`. `id` is the one id, as
/// seen inside: without root's there is nothing that one can do there.
fn in_a_container(user: &User, id: u32) -> Command {
    let without =
        if id == 0 { "" } else { "setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all" };
    let script = format!(
        "mkdir -p $TMPDIR/upper $TMPDIR/work $TMPDIR/volume $HOME/volume
         mount -t overlay -o userxattr,lowerdir=$HOME,upperdir=$TMPDIR/upper,workdir=$TMPDIR/work overlay $HOME
         mount --bind $TMPDIR/volume $HOME/volume
         cd $HOME; exec {without} \"$@\""
    );
    let mut command = user.command(Path::new("unshare"));
    let (uid, gid) = (format!("--map-user={id}"), format!("--map-group={id}"));
    command.args([
        "--user",
        &uid,
        &gid,
        "--keep-caps",
        "--mount",
        "--pid",
        "--fork",
        "sh",
        "-ec",
        &script,
        "sh",
    ]);
    command.arg(user.at("builder")).arg("build");
    command.arg(format!("--build-context=busybox=oci-layout://{}", user.at("busybox").display()));
    command.arg("--progress=plain");
    // Who hides something is more powerful than who is in the container.
    let mut hidden = tool("unshare");
    hidden.args(["--mount", "sh", "-ec", "mount -t tmpfs none /proc/tty; exec \"$@\"", "sh"]);
    hidden.arg(command.get_program()).args(command.get_args()).current_dir(user.at("home"));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => hidden.env(name, value),
            None => hidden.env_remove(name),
        };
    }
    hidden
}

const IN_A_CONTAINER: &str = "\
FROM busybox
RUN mkdir /d && echo 1 > /d/f && chmod 700 /d && ls /proc/self > /dev/null && id -u && chown 3:4 /d && chgrp 7 /d/f
COPY --chown=5:6 file /owned
RUN rm -r /home && echo 2 > /d/g && cat /owned
";

#[test]
fn inside_an_unprivileged_container() {
    let context = Context::new(IN_A_CONTAINER).file("file", "text\n");
    context.chmod("file", 0o644);
    context.chmod("Dockerfile", 0o644);
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(context.path())).ok();
    let by_root = image_by_root(&context);
    // As root of the container, and as one who can do nothing there and needs a namespace within.
    for id in [0, 1000] {
        for disabled in ["", "overlay"] {
            let user = User::with_one_id();
            let layout = user.at("out/layout");
            let mut build = in_a_container(&user, id);
            build.args(["-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
            build.env("BUILDER_HOME", user.at("home/volume/state")).env("BUILDER_DISABLE", disabled);
            let done = run(build.arg(context.path()).env("SOURCE_DATE_EPOCH", "1600000000")).ok();
            // A step sees the processes around it.
            let done = done.says("no new one can be mounted");
            let image = Image::open(layout, None);
            image
                .tree()
                .same(&by_root.tree(), &format!("in a container and by root: {id} {disabled}\n{done}"));
            assert_eq!(image.digest, by_root.digest, "{id} {disabled}");
        }
        // On the container's own files no overlay can be: steps work in copies, which is said, and what is removed is recorded.
        let user = User::with_one_id();
        let layout = user.at("out/layout");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let build = |again: &str| {
            let mut build = in_a_container(&user, id);
            build.env("BUILDER_HOME", user.at("home/state")).env("SOURCE_DATE_EPOCH", "1600000000");
            run(build.arg(context.path()).args(["-o", &output, again])).ok()
        };
        let done = build("--no-cache").says("every RUN works in a full copy of its file system");
        drop(done.says("no new one can be mounted"));
        let image = Image::open(layout.clone(), None);
        image.tree().same(&by_root.tree(), &format!("on an overlay and by root: {id}"));
        assert_eq!(image.digest, by_root.digest, "{id}");
        drop(build("--pull=false").says("CACHED"));
        assert_eq!(Image::open(layout, None).digest, by_root.digest, "{id}, cached");
    }
}

/// The machine allows no user namespaces: the setting that forbids them is named, also those that this kernel lacks.
#[test]
fn without_user_namespaces() {
    need_root();
    let context = Context::new("FROM busybox\nRUN true\n");
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(context.path())).ok();
    let user = User::with_one_id();
    // In a chroot the kernel refuses as it does where one of these is set.
    let other = |name: &str, value: u32| {
        format!(
            "mount -t tmpfs none /proc/sys/kernel; echo {value} > /proc/sys/kernel/{name}; mkdir $TMPDIR/{name}
             mount --rbind / $TMPDIR/{name}; exec chroot $TMPDIR/{name}"
        )
    };
    for (setting, how) in [
        (
            "sysctl user.max_user_namespaces allows, 0: raise it",
            "echo 0 > /proc/sys/user/max_user_namespaces; exec".to_owned(),
        ),
        ("kernel.unprivileged_userns_clone is 0", other("unprivileged_userns_clone", 0)),
        (
            "kernel.apparmor_restrict_unprivileged_userns is 1",
            other("apparmor_restrict_unprivileged_userns", 1),
        ),
    ] {
        // A limit of a namespace counts for those below it, and not for the machine.
        let script = format!("{how} setpriv --bounding-set=-all --inh-caps=-all \"$@\"");
        let mut build = user.command(Path::new("unshare"));
        build
            .args(["--user", "--map-root-user", "--mount", "sh", "-ec", &script, "sh"])
            .arg(user.at("builder"));
        build.args([
            "build",
            &format!("--build-context=busybox=oci-layout://{}", user.at("busybox").display()),
        ]);
        run(build.arg(context.path())).code_is(3).says(setting);
    }
}

/// The commonest machine of that kind: a container of Docker's defaults. A step of a build has their filter; root in there has as little.
#[test]
fn the_filter_of_a_container_is_named() {
    need_root();
    let text = "FROM debian\nCOPY --chmod=755 builder /\nRUN mkdir /ctx && echo FROM scratch > /ctx/Dockerfile\n\
                RUN id -u; /builder build /ctx; echo \"code $?\"\nUSER nobody\nENV HOME=/tmp\nRUN id -u; /builder build /ctx; echo \"code $?\"\n\
                RUN /builder info\n";
    let context = Context::new(text).file("builder", fs::read(e2e::binary()).expect("read the binary"));
    let why = "create a user namespace: Operation not permitted (a seccomp filter is in force, as in a container: allow unshare and \
               mount there, for example with --security-opt seccomp=unconfined)";
    for steps in [Home::new().steps(&context, &[]), User::with_range().built(&context).steps()] {
        for id in [0, 65534] {
            let step = steps.all().iter().find(|step| step.log.starts_with(&format!("{id}\n")));
            let log = &step.unwrap_or_else(|| panic!("no step of user {id}: {steps:#?}")).log;
            assert!(log.contains(why) && log.ends_with("code 3\n"), "{id}: {log}");
        }
        let info = &steps.named("RUN /builder info").log;
        let row = info.lines().find(|line| line.starts_with("user namespaces")).expect("a row");
        assert!(row.contains(why), "{info}");
    }
}
