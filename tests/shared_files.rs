//! After a change only what changed is hashed and compressed, and a layer is the same whatever was built before it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use e2e::{Context, Home, Image, Tree, run, tempdir, tool};

const FILES: usize = 400;
const DIRECTORIES: usize = 20;

/// A file that has just changed is read again for two seconds, in case it changes within the clock's resolution.
fn settle() {
    sleep(Duration::from_millis(2_300));
}

fn many() -> Context {
    let context = Context::new("FROM busybox\nCOPY . /src\nRUN true\n");
    for file in 0..FILES {
        let path = format!("d{:02}/f{file:03}", file % DIRECTORIES);
        context.write(&path, format!("{}\n", file / 2).repeat(1 + file / 2));
        // The same twice, to the time: they stay two files.
        let file = fs::File::options().append(true).open(context.path().join(path)).expect("open");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).expect("set a time");
    }
    context
}

/// The calls of a build that ended well, file descriptors with their paths.
fn trace(home: &Home, context: &Context, calls: &str) -> String {
    let dir = tempdir();
    let trace = dir.path().join("trace");
    let build = home.build(context);
    let mut strace = tool("strace");
    strace.args(["-f", "-z", "-qq", "-y", "-e", calls, "-o"]).arg(&trace);
    strace.arg(build.get_program()).args(build.get_args()).env("BUILDER_HOME", home.path());
    run(&mut strace).ok();
    fs::read_to_string(&trace).expect("the trace")
}

#[test]
fn one_changed_file_is_all_that_is_hashed() {
    e2e::need_root();
    let home = Home::new();
    let context = many();
    settle();
    run(&mut home.build(&context)).ok();
    context.write("d07/f007", "changed\n");
    settle();
    let text = trace(&home, &context, "trace=openat,openat2");
    let done = |call: &str| -> Vec<&str> {
        text.lines().filter(|line| line.contains(&format!(" {call}(")) && !line.contains(" = -1 ")).collect()
    };
    let opened = done("openat")
        .into_iter()
        .chain(done("openat2"))
        // Not for its contents, nor as a directory.
        .filter(|line| !line.contains("O_PATH") && !line.contains("O_DIRECTORY") && !line.contains("O_CREAT"))
        .filter_map(|line| line.split("\"d").nth(1)?.split('"').next())
        .filter(|path| path.contains("/f"));
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    opened.for_each(|path| *times.entry(path).or_default() += 1);
    assert_eq!(times.len(), FILES, "each is copied");
    times.retain(|_, count| *count > 1);
    assert_eq!(times, BTreeMap::from([("07/f007", 2)]), "what is hashed, too");
}

/// What a step sees of the files below it, with programs that refuse a file of more names than one.
const COUNTS: &str = "\
FROM busybox AS made
RUN mkdir /made && echo one > /made/one && echo two > /made/two && ln /made/two /made/again
FROM busybox
COPY . /src
RUN stat -c '%h %n' /src/* > /counts && for file in /src/f*; do gzip -k $file || exit 1; done
COPY --from=made /made /made
RUN stat -c '%h %n' /made/* >> /counts && gzip -k /made/one
";

/// The number of links that a step sees is that of the image, however many versions of a layer are in the store.
#[test]
fn a_step_sees_the_number_of_links_that_the_image_has() {
    let home = Home::new();
    let context =
        Context::new(COUNTS).file("f1", "one").file("f2", "two").file("f3", "three").file("h1", "hard");
    context.write(".dockerignore", "Dockerfile\n.dockerignore\n");
    fs::hard_link(context.path().join("h1"), context.path().join("h2")).expect("a hard link");
    let counts = |home: &Home| {
        let dir = tempdir();
        let output = format!("type=local,dest={}", dir.path().display());
        run(home.build(&context).args(["-o", &output])).ok();
        fs::read_to_string(dir.path().join("counts")).expect("what the steps saw")
    };
    let expected = "\
1 /src/f1
1 /src/f2
1 /src/f3
2 /src/h1
2 /src/h2
2 /made/again
1 /made/one
2 /made/two
";
    assert_eq!(counts(&home), expected, "the first build");
    for round in 0..3 {
        context.write("f2", round.to_string());
        assert_eq!(counts(&home), expected, "version {round}");
    }
    context.write("f3", "of another store");
    assert_eq!(counts(&Home::new()), counts(&home));
}

/// What the layers of an image hold, by their digests.
fn diff_ids(image: &Image) -> Vec<String> {
    let ids = image.config["rootfs"]["diff_ids"].as_array().expect("diff ids");
    ids.iter().map(|id| id.as_str().unwrap_or_default().to_owned()).collect()
}

/// An export of a build in this store, with some fast paths switched off.
fn export(home: &Home, context: &Context, disabled: &str) -> Image {
    let dir = tempdir();
    let layout = dir.path().join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let mut build = home.build(context);
    run(build.env("SOURCE_DATE_EPOCH", "1600000000").env("BUILDER_DISABLE", disabled).args(["-o", &output]))
        .ok();
    Image::open(layout, Some(dir))
}

const WORK: &str = "\
FROM busybox AS made
COPY . /src
RUN ln /src/a /src/link && echo more >> /src/b && chmod 4755 /src/c && mkdir -p /src/made && mv /src/d /src/made/
FROM busybox
COPY --chown=3:4 . /owned
COPY . /src
COPY --chmod=u+x . /src
COPY --from=made /src /made
RUN echo changed > /src/a && touch -d @0 /owned/b && rm /made/c
";

fn work() -> Context {
    let context = Context::new(WORK);
    for name in ["a", "b", "c", "d", "same", "same-again", "sub/same"] {
        let content = if name.contains("same") { "same" } else { name };
        context.write(name, content);
        context.chmod(name, 0o644);
    }
    fs::hard_link(context.path().join("a"), context.path().join("hard")).expect("a hard link");
    context
}

#[test]
fn every_fast_path_can_be_switched_off_and_the_image_is_the_same() {
    let context = work();
    let with_all = Home::new();
    let first = export(&with_all, &context, "");
    for disabled in ["stat-cache", "chunks", "stat-cache,chunks"] {
        assert_eq!(export(&Home::new(), &context, disabled).digest, first.digest, "without {disabled}");
    }
    // Now where there is a version of before.
    context.write("d", "changed");
    let second = export(&with_all, &context, "");
    assert_ne!(diff_ids(&second), diff_ids(&first));
    for disabled in ["", "stat-cache", "chunks"] {
        assert_eq!(export(&Home::new(), &context, disabled).digest, second.digest, "without {disabled}");
    }
    let home = Home::new();
    run(home.build(&context).env("BUILDER_DISABLE", "link")).code_is(2).says("stat-cache");
}

#[test]
fn hard_links_of_the_store_are_none_of_the_image() {
    let home = Home::new();
    let context = work();
    export(&home, &context, "");
    context.write("d", "changed");
    let tree = export(&home, &context, "").tree();
    let links = |path: &str| tree.0.get(path).unwrap_or_else(|| panic!("{path} is missing")).links.clone();
    for path in ["same", "same-again", "sub/same", "b", "c", "d"] {
        assert_eq!(links(&format!("owned/{path}")), None, "{path}");
    }
    assert_eq!(links("owned/hard"), Some("owned/a".to_owned()), "the context's own");
}

/// The regular files of the built layers, relative to all layers.
fn snapshot_files(home: &Home) -> Vec<String> {
    let snapshots = home.path().join("snapshots-v1");
    let list =
        run(tool("find").arg(snapshots).args(["-path", "*/src/*", "-type", "f", "-printf", "%P\\n"])).ok();
    list.stdout.lines().map(str::to_owned).collect()
}

/// What steps write never gets into the layers below, however they write it.
#[test]
fn nothing_is_written_through_to_a_layer() {
    let home = Home::new();
    let steps = "\
FROM busybox AS first
COPY . /src
RUN --mount=type=bind,from=busybox,target=/other,rw \
    cd /src && echo x >> append && : > truncate && chmod 600 mode && chown 5:6 owner && touch -d @0 time && ln link link2 \
    && echo y >> link2 && mv rename renamed && echo z >> renamed && dd if=/dev/zero of=inside bs=1 count=1 conv=notrunc 2>/dev/null
FROM busybox AS second
COPY --from=first /src /again
RUN --mount=type=bind,from=first,target=/bound,rw cd /bound/src && for f in *; do echo bound >> $f; done
RUN --mount=type=bind,target=/bound,rw cd /bound && for f in *; do echo bound >> $f; done
";
    let context = Context::new(steps);
    let names = ["append", "truncate", "mode", "owner", "time", "link", "rename", "inside"];
    for name in names {
        context.write(name, format!("content of {name}"));
        context.chmod(name, 0o644);
    }
    let stage = |home: &Home, target: &str| {
        let dir = tempdir();
        let output = format!("type=local,dest={}", dir.path().display());
        run(home.build(&context).args(["--target", target, "-o", &output])).ok();
        Tree::from_dir(dir.path())
    };
    for round in 0..3 {
        context.write("changing", round.to_string());
        assert_eq!(stage(&home, "second"), stage(&Home::new(), "second"), "round {round}");
    }
    // The layers that COPY made are as the context is, in all versions.
    let mut seen = 0;
    for path in snapshot_files(&home) {
        let place = home.path().join("snapshots-v1").join(&path);
        let name = place.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let layer = place.parent().expect("a directory");
        if names.contains(&name) && layer.join("Dockerfile").exists() {
            seen += 1;
            let text = fs::read_to_string(&place).expect("a file of a layer");
            assert_eq!(text, format!("content of {name}"), "{path}");
            let metadata = fs::metadata(&place).expect("its metadata");
            assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o644, 0), "{path}");
        }
    }
    assert_eq!(seen, 3 * names.len(), "three versions");
}

/// Builds that go on at the same time disturb each other in nothing, and what is pruned takes nothing from what stays.
#[test]
fn builds_beside_each_other_and_prunes() {
    let home = Home::new();
    let contexts: Vec<Context> = (0..4)
        .map(|n| {
            let context = many();
            context.write("which", n.to_string());
            context
        })
        .collect();
    let trees: Vec<Tree> = std::thread::scope(|scope| {
        let exports: Vec<_> =
            contexts.iter().map(|context| scope.spawn(|| home.export(context, &[]).tree())).collect();
        exports.into_iter().map(|export| export.join().expect("an export")).collect()
    });
    let expected = |context: &Context| {
        let mut tree = Tree::from_dir(context.path());
        tree.0.values_mut().for_each(|node| (node.uid, node.gid) = (0, 0));
        tree
    };
    for (tree, context) in trees.iter().zip(&contexts) {
        for (path, node) in &expected(context).0 {
            assert_eq!(tree.0.get(&format!("src/{path}")), Some(node), "{path}");
        }
    }
    run(home.builder("prune").arg("--all")).ok();
    let tree = home.export(&contexts[0], &[]).tree();
    for (path, node) in &expected(&contexts[0]).0 {
        assert_eq!(tree.0.get(&format!("src/{path}")), Some(node), "{path}");
    }
}

/// An export after a change compresses what changed; what is remembered may be lost or damaged.
#[test]
fn an_export_compresses_only_what_changed() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nCOPY . /src\n");
    let mut noise = 1u32;
    for file in 0..600 {
        let text: String = (0..1_000)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                format!("{:x}", noise >> 4)
            })
            .collect();
        context.write(&format!("f{file:03}"), text);
    }
    let first = export(&home, &context, "");
    context.write("f300", "changed");
    let chunks = || {
        let list = run(tool("python3").args(["-c", COUNT]).arg(home.path().join("cache-v1.db"))).ok().stdout;
        let mut numbers = list.split_whitespace().map(|word| word.parse::<u64>().expect("a number"));
        (numbers.next().expect("rows"), numbers.next().expect("blobs"))
    };
    let (before, blobs) = chunks();
    assert!(before > 6 && blobs == 1, "{before} pieces of {blobs} blobs");
    let second = export(&home, &context, "");
    let (after, blobs) = chunks();
    assert!(after > before && after <= before + 2 && blobs == 2, "{after} pieces of {blobs} blobs");
    assert_ne!(diff_ids(&first), diff_ids(&second));
    assert_eq!(export(&Home::new(), &context, "chunks").digest, second.digest);
    // Damage in the blob that pieces are taken from is seen.
    let largest = run(tool("sh").args(["-c", "find \"$0\"/blobs -type f -size +1500k -exec sh -c 'chmod u+w $0; printf XXXX | dd of=$0 bs=1 seek=1000000 conv=notrunc 2>/dev/null' {} \\;"]).arg(home.path()));
    largest.ok();
    context.write("f000", "changed");
    let third = export(&home, &context, "");
    assert_eq!(export(&Home::new(), &context, "chunks").digest, third.digest);
    run(home.builder("prune").arg("--all")).ok();
    assert_eq!(chunks(), (0, 0));
}

const COUNT: &str = "import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(*db.execute('SELECT count(*), count(DISTINCT blob) FROM chunks').fetchone())";

#[test]
fn the_files_that_changed_are_named() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nCOPY . /src\n").file("a", "a").file("d/b", "b");
    let build = |says: &str| run(home.build(&context).arg("--progress=plain")).ok().says(says);
    build("COPY . /src");
    context.write("d/b", "changed");
    context.write("d/new", "new");
    build("not cached: d/b changed, d/new added");
    context.chmod("a", 0o700);
    build("not cached: mode of a");
    // Of very many, directories are named.
    for file in 0..2_100 {
        context.write(&format!("many/of/them/f{file:04}"), "");
    }
    build("COPY . /src");
    context.write("many/of/them/f0077", "changed");
    context.write("a", "changed");
    build("not cached: a changed, many/of/them/ changed");
}
