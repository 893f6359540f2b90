//! Builds by an ordinary user: with a range of subordinate ids, and with the one id that everybody has.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use e2e::{
    Context, Home, Image, Running, User, eventually, mounts_with, processes_with, run, tempdir, unpack,
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

#[test]
fn apt_get_works() {
    let user = User::with_range();
    let context = Context::new(
        "FROM debian\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends hello && hello\n",
    );
    let steps = user.built(&context).steps();
    assert!(steps.named("RUN apt-get").log.ends_with("Hello, world!\n"), "{steps:#?}");
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
    assert_eq!(mounts_with(&place), [""; 0], "mounts left");
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
}
