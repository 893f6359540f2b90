//! A COPY, and the export after it, cost in proportion to what changed, and a layer is the same whatever was built before it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use e2e::{Context, Home, Image, Tree, User, run, tempdir, tool};

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
fn one_changed_file_is_all_that_is_read_and_written() {
    e2e::need_root();
    let home = Home::new();
    let context = many();
    settle();
    run(&mut home.build(&context)).ok();
    context.write("d07/f007", "changed\n");
    settle();
    let text = trace(&home, &context, "trace=openat,openat2,read,copy_file_range,linkat,mkdirat");
    let done = |call: &str| -> Vec<&str> {
        text.lines().filter(|line| line.contains(&format!(" {call}(")) && !line.contains(" = -1 ")).collect()
    };
    let opened: BTreeSet<&str> = done("openat")
        .into_iter()
        .chain(done("openat2"))
        // Not for its contents, nor as a directory.
        .filter(|line| !line.contains("O_PATH") && !line.contains("O_DIRECTORY"))
        .filter_map(|line| line.split("\"d").nth(1)?.split('"').next())
        // `07/f007`: the store has files named by digests, which may begin alike.
        .filter(|path| path.len() == 7 && path.get(2..4) == Some("/f") && path[4..].parse::<u32>().is_ok())
        .collect();
    assert_eq!(opened, BTreeSet::from(["07/f007"]), "files of the context that are opened");
    let source = context.path().display().to_string();
    let bytes: u64 = done("read")
        .into_iter()
        .filter(|line| line.contains(&source) && line.contains("/f007>"))
        .filter_map(|line| line.rsplit("= ").next()?.trim().parse::<u64>().ok())
        .sum();
    assert!((8..=4 * 8).contains(&bytes), "{bytes} bytes of the context's files are read");
    let unfinished = format!("{}/tmp-v1/", home.path().display());
    let made = |call: &str, what: &str| {
        done(call)
            .into_iter()
            .filter(|line| line.contains(&unfinished) && line.contains("/upper") && line.contains(what))
            .count()
    };
    assert_eq!(made("openat", "O_CREAT"), 1, "files that are written");
    assert_eq!(made("mkdirat", "\"d"), 1, "directories of the context that are made");
    assert!(done("linkat").is_empty() && done("copy_file_range").is_empty());
}

/// What the layers of a store hold: for each file its path and its number of names.
fn stored_files(home: &Home) -> Vec<(String, u64)> {
    let find = ["-path", "*/src/*", "-type", "f", "-printf", "%p %n\\n"];
    let dirs = ["snapshots-v1", "versions-v1"].map(|dir| home.path().join(dir));
    let list = run(tool("find").args(dirs).args(find)).ok();
    let parse = |line: &str| {
        let (path, names) = line.split_once(' ')?;
        Some((path.to_owned(), names.parse().ok()?))
    };
    list.stdout.lines().filter_map(parse).collect()
}

#[test]
fn a_version_takes_what_it_changes() {
    let home = Home::new();
    let context = many();
    run(&mut home.build(&context)).ok();
    // With the Dockerfile.
    assert_eq!(stored_files(&home).len(), FILES + 1);
    // Bytes of all layers.
    let size = || {
        let du = run(home.builder("du").args(["--format", "json"])).ok().stdout;
        let sizes = du.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        sizes.map(|part| part["Size"].as_u64().expect("a size")).sum::<u64>()
    };
    let before = size();
    for version in 0..3 {
        context.write("new", format!("{version}"));
        context.write("d03/f003", format!("{version}"));
        run(&mut home.build(&context)).ok();
    }
    let files = stored_files(&home);
    assert_eq!(files.len(), FILES + 1 + 3 * 2, "two of each version");
    assert!(files.iter().all(|(_, names)| *names == 1));
    // Each a byte, and that twice.
    assert_eq!(size(), before + 3 * 2);
    let of_versions = || fs::read_dir(home.path().join("versions-v1")).expect("versions").count();
    assert_eq!(of_versions(), 3);
    // What is not to be taken from the cache is not taken from an earlier version either.
    run(home.build(&context).arg("--no-cache")).ok();
    assert_eq!((of_versions(), stored_files(&home).len()), (3, 2 * (FILES + 1) + 1 + 3 * 2));
    // A result of before still has what it had.
    context.write("d03/f003", "0");
    context.write("new", "0");
    run(&mut home.build(&context)).ok();
    assert_eq!(of_versions(), 3);
    run(home.builder("prune").args(["--all", "--force"])).ok();
    assert_eq!((of_versions(), stored_files(&home).len()), (0, 0));
}

/// However a tree is changed, its version is the tree, for those who look at files and for those who get the image.
#[test]
fn a_version_is_what_a_clean_build_gives() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nRUN mkdir -p /src/d05 && echo base > /src/d05/below && echo base > /src/f-below\nCOPY . /src\nRUN find /src | sort > /list && find /src -type f -exec md5sum {} + | sort > /sums\n",
    );
    let many = many();
    run(tool("cp").arg("-an").arg(many.path().join(".")).arg(context.path())).ok();
    let changes: [&dyn Fn(); 8] = [
        &|| {},
        &|| fs::remove_dir_all(context.path().join("d04")).expect("remove"),
        &|| fs::rename(context.path().join("d06"), context.path().join("d99")).expect("rename"),
        &|| context.write("d05/below", "hides"),
        &|| fs::remove_file(context.path().join("d05/below")).expect("remove"),
        &|| {
            fs::remove_file(context.path().join("d01/f001")).expect("remove");
            context.write("d01/f001/now/a/directory", "x");
        },
        &|| {
            fs::remove_dir_all(context.path().join("d02")).expect("remove");
            context.write("d02", "now a file");
        },
        &|| context.chmod("d03", 0o700),
    ];
    for (step, change) in changes.iter().enumerate() {
        change();
        let built = export(&home, &context, "");
        assert_eq!(built.digest, export(&Home::new(), &context, "versions").digest, "change {step}");
    }
    assert!(fs::read_dir(home.path().join("versions-v1")).expect("versions").count() >= 3);
    // What was noted of them when they were written is what is there.
    run(&mut home.builder("fsck")).ok();
}

/// Owners are recorded beside files where there is one user id; links have theirs in a file of each directory.
#[test]
fn versions_are_the_same_in_every_mode() {
    let context = Context::new(
        "FROM busybox\nCOPY --chown=7:8 . /src\nRUN find /src | sort > /list && cat /src/many/* /src/changing > /all\n",
    );
    (0..40).for_each(|n| context.write(&format!("many/{n}"), n.to_string()));
    for name in ["link", "other", "gone"] {
        symlink("many/1", context.path().join(name)).expect("a link");
    }
    context.write("changing", "first");
    run(tool("chmod").args(["-R", "u=rwX,go=rX"]).arg(context.path())).ok();
    let (range, one_id, copying) = (User::with_range(), User::with_one_id(), Home::new());
    let copied = |context: &Context| export(&copying, context, "overlay");
    range.image(&context);
    one_id.image(&context);
    copied(&context);
    context.write("changing", "second");
    fs::remove_file(context.path().join("gone")).expect("remove a link");
    symlink("many/2", context.path().join("new")).expect("a link");
    let clean = export(&Home::new(), &context, "versions").digest;
    assert_eq!(range.image(&context).digest, clean, "with subordinate ids");
    assert_eq!(one_id.image(&context).digest, clean, "with one id");
    assert_eq!(copied(&context).digest, clean, "without overlay");
    let state = |user: &User| user.at("home/.local/share/builder");
    for state in [state(&range), state(&one_id), copying.path().to_owned()] {
        let versions = fs::read_dir(state.join("versions-v1")).expect("versions");
        assert!(versions.flatten().any(|entry| entry.path().join("src/new").is_symlink()));
    }
    for check in [range.builder("fsck"), one_id.builder("fsck"), copying.builder("fsck")] {
        run(&mut { check }).ok();
    }
}

/// What a step sees of the files below it, with programs that refuse a file of more names than one.
const COUNTS: &str = "\
FROM busybox AS made
RUN mkdir /made && echo one > /made/one && echo two > /made/two && ln /made/two /made/again
FROM busybox
COPY . /src
RUN stat -c '%h %n' /src/[fh]* > /counts && for file in /src/f*; do gzip -k $file || exit 1; done
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
    // So many that a version is written as what changed.
    (0..40).for_each(|n| context.write(&format!("many/{n}"), n.to_string()));
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
    let versions = fs::read_dir(home.path().join("versions-v1")).expect("versions").count();
    assert_eq!(versions, 3, "each is written as what changed");
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
    for disabled in ["versions", "stat-cache", "chunks", "versions,stat-cache,chunks"] {
        assert_eq!(export(&Home::new(), &context, disabled).digest, first.digest, "without {disabled}");
    }
    // Now where there is a version of before.
    context.write("d", "changed");
    let second = export(&with_all, &context, "");
    assert_ne!(diff_ids(&second), diff_ids(&first));
    for disabled in ["", "versions", "stat-cache", "chunks"] {
        assert_eq!(export(&Home::new(), &context, disabled).digest, second.digest, "without {disabled}");
    }
    // And where a version of before is there but not to be used.
    context.write("b", "changed, too");
    let third = export(&with_all, &context, "versions");
    assert_eq!(export(&Home::new(), &context, "").digest, third.digest);
    run(&mut with_all.builder("fsck")).ok();
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
    for (path, _) in stored_files(&home) {
        let place = Path::new(&path);
        let name = place.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let layer = place.parent().expect("a directory");
        if names.contains(&name) && layer.join("Dockerfile").exists() {
            seen += 1;
            let text = fs::read_to_string(place).expect("a file of a layer");
            assert_eq!(text, format!("content of {name}"), "{path}");
            let metadata = fs::metadata(place).expect("its metadata");
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
    run(home.builder("prune").args(["--all", "--force"])).ok();
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
    let damaged = run(tool("sh").args(["-c", DAMAGE]).arg(home.path())).ok().stdout;
    assert_eq!(damaged.lines().count(), 2, "each blob: {damaged}");
    context.write("f000", "changed");
    let third = export(&home, &context, "");
    assert_eq!(export(&Home::new(), &context, "chunks").digest, third.digest);
    run(home.builder("prune").args(["--all", "--force"])).ok();
    assert_eq!(chunks(), (0, 0));
}

const DAMAGE: &str = "find \"$0\"/blobs -type f -size +1500k -exec sh -c 'chmod u+w \"$0\" &&
printf XXXX | dd of=\"$0\" bs=1 seek=1000000 conv=notrunc status=none && echo \"$0\"' {} \\;";

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

#[test]
fn damage_in_a_version_is_found_and_nothing_else() {
    let home = Home::new();
    let context = many();
    run(&mut home.build(&context)).ok();
    context.write("d07/f007", "changed\n");
    run(&mut home.build(&context)).ok();
    let versions = home.path().join("versions-v1");
    let version = fs::read_dir(&versions).expect("list versions").flatten().next().expect("a version").path();
    fs::write(version.join("src/d07/f007"), "damaged\n").expect("damage a file");
    let checked = run(&mut home.builder("fsck")).code_is(1);
    assert!(checked.stdout.contains("not what was written"), "{checked}");
    fs::create_dir(versions.join("77")).expect("make a stray directory");
    let repaired = run(home.builder("fsck").arg("--repair")).code_is(1);
    assert!(repaired.stdout.contains("versions-v1/77"), "{repaired}");
    run(&mut home.builder("fsck")).ok();
    run(&mut home.build(&context)).ok();
}
