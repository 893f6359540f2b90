//! Work is in proportion to what changed: what builds open, read, hash, compress, link and write, counted from outside (strace) and
//! inside (`--timings`). Times are of no account here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use e2e::{Context, Home, User, json, run, tempdir, tool};

const FILES: usize = 2_000;
const DIRECTORIES: usize = 30;

/// A file that has just changed is read again for two seconds, in case it changes within the clock's resolution.
fn settle() {
    sleep(Duration::from_millis(2_300));
}

/// Some 14 MB.
fn many() -> Context {
    let context = Context::new("FROM busybox\nCOPY . /src\nRUN true\n")
        .file(".dockerignore", "Dockerfile\n.dockerignore\n");
    let mut state = 1_u32;
    for file in 0..FILES {
        let letter = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'a' + (state >> 28) as u8
        };
        let text: Vec<u8> = (0..file * 7).map(letter).collect();
        context.write(&path_of(file), text);
    }
    context
}

fn path_of(file: usize) -> String {
    format!("d{:02}/f{file:04}", file % DIRECTORIES)
}

/// The calls of a build that ended well, file descriptors with their paths.
struct Calls(Vec<String>);

impl Calls {
    fn of(build: &Command, home: &Home, calls: &str) -> Calls {
        Calls::traced(build, calls, |strace| strace.env("BUILDER_HOME", home.path()))
    }

    fn traced(build: &Command, calls: &str, set: impl Fn(&mut Command) -> &mut Command) -> Calls {
        let envs = build.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let dir = tempdir();
        let trace = dir.path().join("trace");
        let mut strace = tool("strace");
        strace.args(["-f", "-z", "-qq", "-y", "-e", &format!("trace={calls}"), "-o"]).arg(&trace);
        strace.arg(build.get_program()).args(build.get_args()).envs(envs);
        if let Some(directory) = build.get_current_dir() {
            strace.current_dir(directory);
        }
        run(set(&mut strace)).ok();
        let text = fs::read_to_string(&trace).expect("the trace");
        Calls(text.lines().map(str::to_owned).collect())
    }

    fn with<'a>(&'a self, calls: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let is = |line: &&str| calls.iter().any(|call| line.contains(&format!(" {call}(")));
        self.0.iter().map(String::as_str).filter(is)
    }

    /// The files of the context that are opened for their contents.
    fn opened(&self) -> BTreeSet<String> {
        let opens = self.with(&["openat", "openat2", "open"]);
        let opens = opens.filter(|line| !line.contains("O_PATH") && !line.contains("O_DIRECTORY"));
        opens.filter_map(file_of).map(str::to_owned).collect()
    }

    /// Bytes that are read of the context's files and of their copies, or of one of them.
    fn read(&self, only: Option<&str>) -> u64 {
        let is_read = |line: &&str| file_of(line).is_some_and(|file| only.is_none_or(|only| file == only));
        let reads = self.with(&["read", "pread64"]).filter(is_read);
        reads.filter_map(|line| line.rsplit("= ").next()?.trim().parse::<u64>().ok()).sum()
    }
}

/// The number in the name of the context's file that a call is about, as [`path_of`] gives it: the store has files named by digests,
/// which may begin alike.
fn file_of(line: &str) -> Option<&str> {
    line.split("/f").skip(1).find_map(|rest| {
        let (number, rest) = rest.split_at_checked(4)?;
        let ends = rest.starts_with(['"', '>']);
        (ends && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
    })
}

/// How many bytes a build compressed, by its timings.
fn compressed(timings: &Path) -> u64 {
    let spans = json(timings)["spans"].as_array().expect("spans").clone();
    let compressed = spans.iter().filter(|span| span["work"] == "compress");
    compressed.filter_map(|span| span["bytes"].as_u64()).sum()
}

const OPENS: &str = "open,openat,openat2,read,pread64,mmap";
/// What makes processes and mounts.
const STARTS: &str = "clone,clone3,fork,vfork,execve,mount,fsopen,fsmount,move_mount,open_tree,unshare,setns";

/// S1 to S3: nothing changed.
#[test]
fn a_build_of_which_nothing_changed_opens_no_file_and_starts_nothing() {
    e2e::need_root();
    let (home, context) = (Home::new(), many());
    settle();
    // So that none means something below.
    assert_eq!(
        Calls::of(&home.build(&context), &home, OPENS).opened().len(),
        FILES,
        "a first build opens all"
    );
    let calls = Calls::of(&home.build(&context), &home, &format!("{OPENS},{STARTS}"));
    assert_eq!(calls.opened(), BTreeSet::new());
    // Unless what files looked like is not to be trusted.
    let mut distrusting = home.build(&context);
    distrusting.env("BUILDER_DISABLE", "stat-cache");
    assert_eq!(Calls::of(&distrusting, &home, OPENS).opened().len(), FILES);
    let processes: Vec<&str> = calls
        .with(&["clone", "clone3", "fork", "vfork", "execve"])
        .filter(|line| !line.contains("CLONE_THREAD"))
        .collect();
    // The one that strace starts.
    assert_eq!(processes.len(), 1, "{processes:#?}");
    let mounts: Vec<&str> =
        calls.with(&["mount", "fsopen", "fsmount", "move_mount", "open_tree", "unshare", "setns"]).collect();
    assert_eq!(mounts, Vec::<&str>::new());
}

/// Files of several owners take a user namespace to look at, for which two programs that come with the system map the user's ids. That is all
/// that starts for an ordinary user, one with a single id starts nothing, nothing is mounted for either, and no file of the context is opened.
#[test]
fn of_an_ordinary_user_only_ids_are_mapped() {
    const FEW: usize = 20;
    for (user, mapped) in [(User::with_range(), 2), (User::with_one_id(), 0)] {
        let context = Context::new("FROM busybox\nCOPY . /src\nRUN true\n");
        (0..FEW).for_each(|file| context.write(&path_of(file), "text\n"));
        // One command for all of them: making it touches the files.
        let mut build = user.build(&context);
        settle();
        run(&mut build).ok();
        let traced = |build: &Command| {
            let calls = Calls::traced(build, &format!("{OPENS},{STARTS}"), |strace| strace);
            // Before it, what makes the test's user.
            let is_builder = |line: &&String| line.contains(" execve(") && line.contains("/builder\", [");
            let begins = calls.0.iter().position(|line| is_builder(&line)).expect("the builder");
            Calls(calls.0[begins + 1..].to_vec())
        };
        let calls = traced(&build);
        assert_eq!(calls.opened(), BTreeSet::new());
        // So that none means something.
        build.env("BUILDER_DISABLE", "stat-cache");
        assert_eq!(traced(&build).opened().len(), FEW);
        let processes: Vec<&str> = calls
            .with(&["clone", "clone3", "fork", "vfork"])
            .filter(|line| !line.contains("CLONE_THREAD"))
            .collect();
        // The two, and who calls them: a process that stays outside of the namespace.
        assert!(processes.len() <= if mapped == 0 { 0 } else { mapped + 1 }, "{processes:#?}");
        let programs: Vec<&str> = calls.with(&["execve"]).collect();
        assert_eq!(programs.len(), mapped, "{programs:#?}");
        assert!(programs.iter().all(|line| line.contains("idmap")), "{programs:#?}");
        let mounts: Vec<&str> =
            calls.with(&["mount", "fsopen", "fsmount", "move_mount", "open_tree", "setns"]).collect();
        assert!(mounts.is_empty(), "{mounts:#?}");
    }
}

/// S4 and S6, then S5 and S7: one file changed.
#[test]
fn what_one_changed_file_costs_is_that_file() {
    e2e::need_root();
    let (home, context) = (Home::new(), many());
    settle();
    let out = tempdir();
    let archive = |name: &str| format!("type=oci,dest={}", out.path().join(name).display());
    let timings = out.path().join("timings.json");
    let hashed = || {
        let told = json(&timings);
        ["sha256", "blake3"].map(|hash| told["hashed"][hash].as_u64().expect("bytes that were hashed"))
    };
    let timed = || {
        let mut build = home.build(&context);
        build.arg(format!("--timings={}", timings.display()));
        build
    };
    run(timed().args(["-o", &archive("before.tar")])).ok();
    // Beside contents, what the other files look like, and where the store knows them: a few hundred bytes each.
    let looks = FILES as u64 * 700;
    context.write(&path_of(1_234), "a change\n");
    settle();
    run(&mut timed()).ok();
    let [sha256, blake3] = hashed();
    assert!(sha256 < 8_000 && blake3 < looks, "{sha256} and {blake3} bytes hashed for one small file");
    let changed = "changed\n".repeat(1_000);
    context.write(&path_of(1_234), &changed);
    settle();
    let mut build = timed();
    build.args(["-o", &archive("after.tar")]);
    let calls = Calls::of(&build, &home, &format!("{OPENS},linkat,mkdirat,copy_file_range,sendfile,ioctl"));
    // The layer is packed from its own copy of the files, each opened for that; the context's are not touched.
    let context_path = context.path().display().to_string();
    let of_context = Calls(calls.0.iter().filter(|line| line.contains(&context_path)).cloned().collect());
    assert_eq!(of_context.opened(), BTreeSet::from(["1234".to_owned()]));
    let size = changed.len() as u64;
    // Once to hash it, once to copy it, and what shows that there is no more.
    assert!(
        (1..=3 * size).contains(&of_context.read(Some("1234"))),
        "{} bytes",
        of_context.read(Some("1234"))
    );
    assert!(calls.with(&["linkat"]).next().is_none());
    let unfinished = format!("{}/tmp-v1/", home.path().display());
    let made = calls
        .with(&["openat"])
        .filter(|line| line.contains(&unfinished) && line.contains("/upper") && line.contains("O_CREAT"));
    assert_eq!(made.count(), 1, "files that are written");
    let ([sha256, blake3], compressed) = (hashed(), compressed(&timings));
    // The piece that it is in, and the next where that begins elsewhere now: at most 1 MiB each.
    assert!((1..=2 << 20).contains(&compressed), "{compressed} bytes compressed");
    let archive = fs::metadata(out.path().join("after.tar")).expect("the archive").size();
    assert!(archive > 6 << 20, "there is much more that is not: {archive}");
    // Over all of the layer go two hashes that OCI wants, of its tar and of its blob, one that shows that its files are what was written,
    // and two that show that what is taken from memory is what would be made: of each piece, and of that piece compressed. No byte goes
    // through one of them twice.
    let tar = (0..FILES as u64).map(|file| 512 + (file * 7).next_multiple_of(512)).sum::<u64>();
    let most = (tar + archive) * 102 / 100;
    assert!(
        (tar..=most).contains(&sha256),
        "{sha256} bytes hashed, of a layer of {tar} and an archive of {archive}"
    );
    assert!(
        blake3 <= most + tar + looks,
        "{blake3} bytes hashed, of a layer of {tar} and an archive of {archive}"
    );
}

/// The form that a layer is kept in takes what changed, and no link or copy of what did not.
#[test]
fn a_version_has_the_files_that_changed() {
    let (home, context) = (Home::new(), many());
    run(&mut home.build(&context)).ok();
    let count = || {
        let dirs = ["snapshots-v1", "versions-v1"].map(|dir| home.path().join(dir));
        let existing = dirs.iter().filter(|dir| dir.exists());
        let found = run(tool("find").args(existing).args(["-name", "f[0-9]*"])).ok().stdout;
        found.lines().count()
    };
    assert_eq!(count(), FILES);
    for file in [7, 8, 9] {
        context.write(&path_of(file), "changed\n");
    }
    run(&mut home.build(&context)).ok();
    assert_eq!(count(), FILES + 3);
    fs::remove_file(context.path().join(path_of(10))).expect("remove");
    run(&mut home.build(&context)).ok();
    // The three again, and a mark for the one that is gone.
    assert_eq!(count(), FILES + 3 + 4);
}

/// What a RUN writes is its layer, moved to its place: the builder copies none of it.
#[test]
fn what_a_run_writes_is_moved_and_not_copied() {
    e2e::need_root();
    const WRITTEN: u64 = 20 << 20;
    let home = Home::new();
    // With the base unpacked.
    run(&mut home.build(&Context::new("FROM busybox\nRUN true\n"))).ok();
    let context = Context::new(
        "FROM busybox\nRUN for i in 1 2 3 4; do dd if=/dev/zero of=/large$i bs=1M count=5 conv=fsync 2> /dev/null; done\n",
    );
    let calls = Calls::of(
        &home.build(&context),
        &home,
        "rename,renameat,renameat2,write,pwrite64,writev,pwritev,copy_file_range,sendfile,ioctl,execve",
    );
    let bytes_of = |lines: &mut dyn Iterator<Item = &str>| -> u64 {
        lines.filter_map(|line| line.rsplit("= ").next()?.trim().parse::<u64>().ok()).sum()
    };
    let copies = ["write", "pwrite64", "writev", "pwritev", "copy_file_range", "sendfile"];
    // The program's own are those to files that it calls by their names in the container.
    let is_of_run = |line: &&str| (1..=4).any(|n| line.contains(&format!("</large{n}>")));
    let of_run = bytes_of(&mut calls.with(&copies).filter(is_of_run));
    let others = bytes_of(&mut calls.with(&copies).filter(|line| !is_of_run(line)));
    assert_eq!(of_run, WRITTEN, "so what is counted is counted");
    assert!(
        others < 1 << 20,
        "{others} bytes: {:#?}",
        calls.with(&copies).filter(|line| !is_of_run(line)).collect::<Vec<_>>()
    );
    assert!(!calls.with(&["ioctl"]).any(|line| line.contains("FICLONE")));
    let moved: Vec<&str> =
        calls.with(&["rename", "renameat", "renameat2"]).filter(|line| line.contains("/upper")).collect();
    assert_eq!(moved.len(), 1, "{moved:#?}");
    assert!(moved[0].contains("renameat2("), "{moved:#?}");
}

/// Start-up: bounds on what is asked of the kernel, with room for other versions of the C library.
#[test]
fn starting_takes_little() {
    e2e::need_root();
    let (home, context) = (Home::new(), Context::new("FROM busybox\nRUN true\nRUN true\n"));
    run(&mut home.build(&context)).ok();
    let count = |command: &Command| {
        let calls = Calls::of(command, &home, "all");
        let opened: Vec<String> = calls.with(&["open", "openat", "openat2"]).map(str::to_owned).collect();
        (calls.0.len(), opened)
    };
    let mut version = Command::new(e2e::binary());
    version.arg("--version");
    let (calls, opened) = count(&version);
    println!("--version: {calls} calls, {} opened", opened.len());
    assert!(calls <= 120 && opened.len() <= 12, "{calls} calls: {opened:#?}");
    let home_path = home.path().display().to_string();
    assert!(
        !opened.iter().any(|line| line.contains(&home_path)),
        "the store is nobody's business: {opened:#?}"
    );
    let (calls, opened) = count(&home.build(&context));
    println!("cached build: {calls} calls, {} opened", opened.len());
    assert!(calls <= 900 && opened.len() <= 90, "{calls} calls: {opened:#?}");
}

/// Whatever hashes a file's content has to read it: of files that are what they were nothing is read, neither in the context nor in the store,
/// and of the one that changed no more than what hashing and copying it take.
#[test]
fn what_did_not_change_is_not_hashed_again() {
    e2e::need_root();
    let (home, context) = (Home::new(), many());
    settle();
    run(&mut home.build(&context)).ok();
    let changed = "changed\n".repeat(1_000);
    context.write(&path_of(1_234), &changed);
    settle();
    let calls = Calls::of(&home.build(&context), &home, OPENS);
    let opened = calls.opened();
    assert!(opened.iter().eq(["1234"]), "{} files of the context and of the store", opened.len());
    let (size, read) = (changed.len() as u64, calls.read(None));
    assert!((2 * size..=3 * size).contains(&read), "{read} bytes of {size}, to hash and to copy");
    // So that none means something.
    let mut distrusting = home.build(&context);
    distrusting.env("BUILDER_DISABLE", "stat-cache");
    let calls = Calls::of(&distrusting, &home, OPENS);
    let all: u64 = (0..FILES as u64).map(|file| file * 7).sum();
    assert!(
        calls.opened().len() == FILES && calls.read(None) >= all - 1_234 * 7,
        "{} bytes",
        calls.read(None)
    );
}

/// A step looks at what layers below have to say to it, not into each of them.
#[test]
fn layers_that_say_nothing_are_not_opened() {
    let opened = |layers: usize| {
        let others: String = (0..layers).map(|number| format!("COPY file /{number}\n")).collect();
        let dockerfile = format!("FROM scratch\nCOPY file /d/first\n{others}COPY file /d/last\n");
        let context = Context::new(&dockerfile).file("file", "");
        let home = Home::new();
        let calls = Calls::of(&home.build(&context), &home, "open,openat,openat2");
        calls.with(&["open", "openat", "openat2"]).filter(|line| line.contains("/snapshots-v1/")).count()
    };
    let (few, many) = (opened(20), opened(80));
    assert!(many <= 5 * few, "{few} for 20 layers, {many} for 80");
}

/// What `BUILDER_DISABLE` switches off is then not done (`stat-cache` above, `reflink` in `tests/reflinks.rs`); that the image is the same is
/// in `tests/reproducible.rs`.
#[test]
fn a_fast_path_that_is_switched_off_is_not_taken() {
    e2e::need_root();
    let context = Context::new("FROM busybox\nCOPY . /src\nRUN echo > /made\n");
    (0..50).for_each(|file| context.write(&path_of(file), "text\n".repeat(file + 10)));
    // More than one piece.
    context.write("large", "0123456789\n".repeat(400_000));
    let out = tempdir();
    let timings = out.path().join("timings.json");
    // Files made for layers, bytes compressed and overlays mounted, when one file changed.
    let costs = |without: &str| {
        let home = Home::new();
        let mut build = home.build(&context);
        let archive = format!("type=oci,dest={}", out.path().join("out.tar").display());
        build.env("BUILDER_DISABLE", without).args(["-o", &archive]);
        build.arg(format!("--timings={}", timings.display()));
        context.write(&path_of(7), "before\n");
        run(&mut build).ok();
        context.write(&path_of(7), format!("after, without {without}\n"));
        let calls = Calls::of(&build, &home, "openat,mount,fsopen");
        let made = calls.with(&["openat"]).filter(|line| line.contains("/upper") && line.contains("O_CREAT"));
        let overlays = calls.with(&["mount", "fsopen"]).filter(|line| line.contains("\"overlay\""));
        (made.count(), compressed(&timings), overlays.count())
    };
    let (made, compressed, overlays) = costs("");
    assert!(made < 10 && overlays > 0, "{made} files made, {overlays} overlays");
    assert!(costs("versions").0 >= 50);
    assert!(costs("chunks").1 > compressed + (4 << 20));
    assert_eq!(costs("overlay").2, 0);
}

/// Bytes that do not compress are in pieces that are longer than what they are made of; those are found again, too.
#[test]
fn what_does_not_compress_is_found_again() {
    let (home, out) = (Home::new(), tempdir());
    let mut state = 1_u64;
    let noise = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let context =
        Context::new("FROM scratch\nCOPY . /\n").file("large", (0..12 << 20).map(noise).collect::<Vec<u8>>());
    let timings = out.path().join("timings.json");
    let of_build = |small: &str| -> u64 {
        context.write("small", small);
        let mut build = home.build(&context);
        build
            .arg(format!("--output=type=oci,compression=zstd,dest={}", out.path().join("out.tar").display()));
        run(build.arg(format!("--timings={}", timings.display()))).ok();
        compressed(&timings)
    };
    assert!(of_build("before") > 12 << 20);
    let again = of_build("after");
    assert!(again <= 3 << 20, "{again} bytes are compressed again");
}
