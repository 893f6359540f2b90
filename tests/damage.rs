//! Whatever happens to a state directory, the next build succeeds and gives the image of a clean build: a disk that fills up, writes that
//! fail, bytes that change on the disk, the power that goes.
//!
//! Each test takes a few seconds and tries what its random numbers choose. `BUILDER_DAMAGE_SEED` repeats a run, `BUILDER_DAMAGE_ROUNDS` makes
//! it longer (`cargo xtask long full-disk`, `failing-writes`, `corruption`, `power`); where there are only so many things to break, each
//! is broken once then; `BUILDER_DAMAGE_CALL` names one system call.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use e2e::fuzz::Random;
use e2e::{Context, Done, Home, Image, bases, binary, feed, need_root, run, tempdir, tool};
use tempfile::TempDir;

const DOCKERFILE: &str = "\
FROM busybox AS left
COPY data/ /data/
RUN cat /data/[0-9] > /left && mkdir -p /kept/deep && cp /data/1 /kept/deep && rm -r /data/sub
FROM busybox
WORKDIR /out
COPY --from=left /left /kept/ ./
COPY data/2 data/1 ./
RUN sha256sum * 2>/dev/null > /sums; rm /etc/group
";

/// The build that everything here is done to, in several versions.
struct Subject {
    contexts: Vec<Context>,
    digests: Mutex<BTreeMap<usize, String>>,
    dir: TempDir,
    rounds: Option<u64>,
    seed: u64,
}

impl Subject {
    fn new() -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
        let number = |name: &str| env::var(name).ok().map(|text| text.parse().expect("a number"));
        let seed = number("BUILDER_DAMAGE_SEED").unwrap_or_else(now);
        println!("BUILDER_DAMAGE_SEED={seed} repeats this");
        let version = |version: u8| {
            let random = &mut Random(7);
            let bytes: Vec<u8> = (0..150_000).map(|_| random.number() as u8).collect();
            let context = Context::new(DOCKERFILE).file("data/1", [version]).file("data/2", bytes);
            context.file("data/sub/3", "three\n").file("data/4", vec![0; 50_000])
        };
        Self {
            contexts: (0..4).map(version).collect(),
            digests: Mutex::default(),
            dir: tempdir(),
            rounds: number("BUILDER_DAMAGE_ROUNDS"),
            seed,
        }
    }

    /// `builder build` of a version to a layout, and where that will be.
    fn build(&self, state: &Path, version: usize) -> (Command, PathBuf) {
        let layout =
            tempfile::Builder::new().prefix("layout.").tempdir_in(self.dir.path()).expect("a directory");
        let layout = layout.keep().join("layout");
        let mut build = Command::new(binary());
        build.arg("build").args(bases()).arg("--progress=plain");
        build.args(["-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
        build.arg(self.contexts[version].path());
        build.env("BUILDER_HOME", state).env("SOURCE_DATE_EPOCH", "0");
        (build, layout)
    }

    /// `builder build -t NAME` of a version.
    fn tagged(&self, state: &Path, version: usize, name: &str) -> Command {
        let mut build = Command::new(binary());
        build.arg("build").args(bases()).args(["--progress=plain", "-t", name]);
        build.arg(self.contexts[version].path());
        build.env("BUILDER_HOME", state).env("SOURCE_DATE_EPOCH", "0");
        build
    }

    /// The id of the image of a clean build.
    fn id(&self, version: usize) -> String {
        let home = Home::new();
        run(&mut self.tagged(&home.path(), version, "app")).ok();
        let mut inspect = Command::new(binary());
        inspect.env("BUILDER_HOME", home.path()).args(["inspect", "-f", "{{.Id}}", "app"]);
        run(&mut inspect).ok().stdout.trim().to_owned()
    }

    /// The image of a clean build.
    fn digest(&self, version: usize) -> String {
        let mut digests = self.digests.lock().expect("no test fails while it holds it");
        let clean = || {
            let home = Home::new();
            let (mut build, layout) = self.build(&home.path(), version);
            run(&mut build).ok();
            Image::open(layout, None).digest
        };
        digests.entry(version).or_insert_with(clean).clone()
    }

    /// Builds, and fails unless that gives the image of a clean build.
    #[track_caller]
    fn sound(&self, state: &Path, version: usize, after: &str) -> Done {
        let (mut build, layout) = self.build(state, version);
        let done = run(&mut build);
        assert_eq!(done.code, Some(0), "after {after}\n{done}");
        self.right(&layout, version, after, &done);
        done
    }

    #[track_caller]
    fn right(&self, layout: &Path, version: usize, after: &str, done: &Done) {
        let digest = Image::open(layout.to_owned(), None).digest;
        assert_eq!(digest, self.digest(version), "another image after {after}\n{done}");
        fs::remove_dir_all(layout.parent().expect("a parent")).expect("remove");
    }

    /// A build that was disturbed is right or says that it failed.
    #[track_caller]
    fn honest(&self, done: &Done, layout: &Path, version: usize, after: &str) {
        // strace fails any write; no disk makes that of an eventfd fail, with which the runtime wakes itself. It ends then, or is ended.
        let of_the_runtime = done.stderr.contains("failed to wake I/O driver");
        match done.code {
            Some(0) => self.right(layout, version, after, done),
            Some(1 | 3) => {}
            // It did not even begin.
            Some(127) if done.stderr.contains("error while loading shared libraries") => {}
            _ => assert!(of_the_runtime, "after {after}\n{done}"),
        }
        assert!(of_the_runtime || !done.stderr.contains("panicked"), "after {after}\n{done}");
    }
}

/// `sh -c SCRIPT` in a mount namespace of its own.
fn in_namespace(script: &str, arguments: &[&Path]) -> Command {
    let mut command = tool("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-u", "-c", script, "sh"]).args(arguments);
    command.envs(bases_environment());
    command
}

/// What the builder is given by its environment.
fn bases_environment() -> [(&'static str, &'static str); 1] {
    [("SOURCE_DATE_EPOCH", "0")]
}

/// A command as one line for `sh`.
fn line(command: &Command) -> String {
    let quoted =
        |word: &std::ffi::OsStr| format!("'{}'", word.to_str().expect("text").replace('\'', "'\\''"));
    let set =
        command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, quoted(value?))));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    set.chain(words).collect::<Vec<_>>().join(" ")
}

/// Copies a directory with all that its files are.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    run(tool("cp").arg("-a").arg(from).arg(to)).ok();
}

/// The disk is full after so many KiB; then there is room again.
#[test]
fn a_disk_that_fills_up() {
    need_root();
    let subject = Subject::new();
    let random = &mut Random(subject.seed);
    let disk = subject.dir.path().join("disk");
    fs::create_dir(&disk).expect("make a directory");
    let state = disk.join("state");
    let used = {
        let home = Home::new();
        subject.sound(&home.path(), 0, "nothing");
        let used = run(tool("du").arg("-sk").arg(home.path())).ok().stdout;
        used.split_whitespace().next().expect("a number").parse::<u64>().expect("a number") * 5 / 4
    };
    let rounds = subject.rounds.unwrap_or(8);
    let script = "\
mount -t tmpfs -o size=64m,mode=755 tmpfs \"$1\" || exit 99
fallocate -l $((65536 - $5))K \"$1/ballast\" || exit 99
sh \"$2\" 2> \"$4\"; echo $?
rm \"$1/ballast\"
exec sh \"$3\"";
    for round in 0..rounds {
        // Each size once, in a long run; any in a short one.
        let room = if subject.rounds.is_some() { used * round / rounds } else { random.below(used) };
        let after = format!("{room} KiB of {used}");
        let (first, layout) = subject.build(&state, 0);
        let (second, layout_of_second) = subject.build(&state, 0);
        let file = |name: &str| subject.dir.path().join(name);
        fs::write(file("first"), line(&first)).expect("write");
        fs::write(file("second"), line(&second)).expect("write");
        let room = PathBuf::from(room.to_string());
        let done =
            run(&mut in_namespace(script, &[&disk, &file("first"), &file("second"), &file("stderr"), &room]));
        assert_eq!(done.code, Some(0), "after {after}\n{done}");
        let stderr = fs::read_to_string(file("stderr")).expect("what it said");
        let code = done.stdout.lines().next().and_then(|code| code.parse().ok());
        let first = Done { code, stderr, ..run(&mut Command::new("true")) };
        if first.code != Some(0) {
            let said = first.stderr.to_lowercase();
            let why = ["no space left", "disk is full", "disk i/o error"];
            assert!(why.iter().any(|why| said.contains(why)), "it says why, after {after}\n{first}");
        }
        subject.honest(&first, &layout, 0, &after);
        subject.right(&layout_of_second, 0, &after, &done);
    }
    println!("{rounds} sizes of a disk that needs {used} KiB");
}

/// The system calls that change a file system, or wait until it is changed.
const WRITES: &str = "write,pwrite64,writev,pwritev,ftruncate,fallocate,fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,\
                      symlink,symlinkat,mkdir,mkdirat,unlink,unlinkat,rmdir,mknodat,fchmod,fchmodat,fchown,fchownat,setxattr,\
                      lsetxattr,fsetxattr,utimensat,copy_file_range,sendfile";

/// The system calls that open a file, and may make it.
const OPENS: &str = "open,openat,creat";

/// Which of the calls of one name fails.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Failing {
    /// The so-manieth of each thread.
    Number(u64),
    /// The first of each thread with this path. Threads open other files as well, so that their numbers say little.
    Path(String),
}

/// The path that a call makes, `None` where it makes none.
fn made<'a>(call: &str, arguments: &'a str) -> Option<&'a str> {
    let makes = call == "creat" || arguments.contains("O_CREAT");
    makes.then(|| arguments.split('"').nth(1)).flatten()
}

/// One call of each thread fails: the so-manieth of its kind, or the first that makes a file. strace counts for each thread by itself (`inject=`
/// and its `when=` in strace(1)), so "once" is once in every thread that comes so far, be it of the builder, of a helper or of a step.
#[test]
fn a_write_that_fails() {
    need_root();
    let subject = Subject::new();
    let random = &mut Random(subject.seed);
    let trace = subject.dir.path().join("trace");
    let state = subject.dir.path().join("state");
    let patience = std::cell::Cell::new(600);
    let traced = |build: &Command, options: &[&str]| {
        let mut strace = tool("strace");
        strace.args(["-f", "-qq", "--seccomp-bpf", "-o"]).arg(&trace).args(options);
        // A runtime that could not wake itself may never end.
        strace.args(["timeout", "--foreground", "--signal=KILL", &patience.get().to_string()]);
        strace.arg(build.get_program()).args(build.get_args());
        strace.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
        strace
    };
    // Which calls of a thread are about files: the so-manieth of its kind, of whichever thread.
    let (build, layout) = subject.build(&state, 0);
    let done = run(&mut traced(&build, &["-y", "-e", &format!("trace={WRITES},{OPENS}")])).ok();
    patience.set((20 * done.took.as_secs()).max(30));
    subject.right(&layout, 0, "nothing", &done);
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut calls: BTreeSet<(&str, Failing)> = BTreeSet::new();
    let below = |path: &str| Some(Path::new(path).strip_prefix(&state).ok()?.starts_with("tmp-v1"));
    let lines = fs::read_to_string(&trace).expect("the trace");
    for line in lines.lines() {
        let Some((thread, (call, arguments))) = line
            .split_once(' ')
            .and_then(|(thread, rest)| Some((thread, rest.trim_start().split_once('(')?)))
        else {
            continue;
        };
        let opens = OPENS.split(',').any(|name| name == call);
        if !opens && !WRITES.split(',').any(|name| name == call) {
            continue;
        }
        let number = counts.entry((thread, call)).or_default();
        *number += 1;
        // No disk makes the write to a pipe, a socket or memory fail, nor that to an eventfd, with which the runtime wakes itself.
        let mut of = arguments.split_once('<').map_or("/", |(_, of)| of);
        let mut failing = Failing::Number(*number);
        if opens {
            let Some(path) = made(call, arguments) else { continue };
            if path.starts_with('/') {
                of = path;
            }
            // Unfinished things have another name each time.
            if below(path) == Some(false) {
                failing = Failing::Path(path.to_owned());
            }
        }
        if of.starts_with('/') && !["/memfd:", "/proc/", "/sys/"].iter().any(|no| of.starts_with(no)) {
            calls.insert((call, failing));
        }
    }
    let mut most: BTreeMap<&str, u64> = BTreeMap::new();
    calls.iter().for_each(|(call, _)| *most.entry(call).or_default() += 1);
    let only = env::var("BUILDER_DAMAGE_CALL").ok();
    let all: Vec<(&str, &Failing, &str)> = calls
        .iter()
        .filter(|(call, _)| only.as_ref().is_none_or(|only| only == call))
        .flat_map(|(call, failing)| [(*call, failing, "EIO"), (*call, failing, "ENOSPC")])
        .collect();
    assert!(calls.len() > 25 && most.contains_key("openat"), "{most:?}");
    let rounds = subject.rounds.unwrap_or(10);
    let (mut failed, mut tried) = (0, 0);
    for round in 0..rounds.min(all.len() as u64) {
        if round > 0 && round % 100 == 0 {
            println!("{round} of {} calls", all.len());
        }
        let at = if rounds >= all.len() as u64 { round } else { random.below(all.len() as u64) };
        let (call, failing, error) = all[at as usize];
        let after = format!("{error} of {call} {failing:?} of each thread");
        let _ = fs::remove_dir_all(&state);
        // Some begin with what another build made.
        let version = usize::from(random.one_in(2));
        if version == 1 {
            subject.sound(&state, 0, &after);
        }
        let (build, layout) = subject.build(&state, version);
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}:when="));
        let done = run(&mut match failing {
            Failing::Number(number) => traced(&build, &["-e", &trace, "-e", &format!("{inject}{number}")]),
            Failing::Path(path) => traced(&build, &["-e", &trace, "-e", &format!("{inject}1"), "-P", path]),
        });
        subject.honest(&done, &layout, version, &after);
        (tried, failed) = (tried + 1, failed + u64::from(done.code != Some(0)));
        subject.sound(&state, version, &after);
        subject.sound(&state, 2, &after);
    }
    println!("{tried} of {} calls failed, and {failed} builds with them: {most:?}", all.len());
}

/// Bytes that are not what they were.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Bit,
    Zeroes,
    Garbage,
    Truncation,
    Loss,
}

const DAMAGES: [Damage; 5] = [Damage::Bit, Damage::Zeroes, Damage::Garbage, Damage::Truncation, Damage::Loss];

/// So much of a file is one piece of it: a page of the database.
const PAGE: u64 = 4096;

impl Damage {
    fn apply(self, path: &Path, page: u64, random: &mut Random) {
        let mode = fs::metadata(path).expect("stat").permissions().mode();
        // A copy: the file may have other names.
        let bytes = fs::read(path).expect("read");
        fs::remove_file(path).expect("remove");
        if matches!(self, Damage::Loss) {
            return;
        }
        fs::write(path, &bytes).expect("write");
        let mut file = fs::File::options().read(true).write(true).open(path).expect("open");
        let start = page * PAGE;
        let length = (bytes.len() as u64 - start).min(PAGE);
        match self {
            Damage::Bit => {
                let at = start + random.below(length);
                let mut byte = [0];
                file.seek(SeekFrom::Start(at)).expect("seek");
                file.read_exact(&mut byte).expect("read");
                byte[0] ^= 1 << random.below(8);
                file.seek(SeekFrom::Start(at)).expect("seek");
                file.write_all(&byte).expect("write");
            }
            Damage::Zeroes | Damage::Garbage => {
                let zero = matches!(self, Damage::Zeroes);
                let byte = |_| if zero { 0 } else { random.number() as u8 };
                let bytes: Vec<u8> = (0..length).map(byte).collect();
                file.seek(SeekFrom::Start(start)).expect("seek");
                file.write_all(&bytes).expect("write");
            }
            Damage::Truncation => file.set_len(start + random.below(length)).expect("truncate"),
            Damage::Loss => {}
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set a mode");
    }
}

/// The files whose bytes are promised to be checked, in pages: all of the database, some of every other file.
fn pages(state: &Path) -> Vec<(PathBuf, u64)> {
    let mut pages = Vec::new();
    let mut waiting = vec![state.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).expect("list") {
            let path = entry.expect("an entry").path();
            let relative = path.strip_prefix(state).expect("below").to_str().expect("text").to_owned();
            let metadata = fs::symlink_metadata(&path).expect("stat");
            let is_layer = relative.starts_with("snapshots-") && relative.matches('/').count() > 0;
            if metadata.is_dir() && !is_layer && !relative.starts_with("objects-") {
                waiting.push(path);
            } else if metadata.is_file() && metadata.len() > 0 && !is_layer && relative != "format" {
                let count = metadata.len().div_ceil(PAGE);
                let step = if relative.starts_with("cache-v1.db") { 1 } else { count.div_ceil(4) };
                pages.extend((0..count).step_by(step as usize).map(|page| (path.clone(), page)));
            }
        }
    }
    pages.sort();
    pages
}

/// Blobs, the database and everything else but the layers' own files, which `builder fsck` is for.
#[test]
fn bytes_that_changed_on_the_disk() {
    let subject = Subject::new();
    let random = &mut Random(subject.seed);
    let home = Home::new();
    for version in [0, 1] {
        subject.sound(&home.path(), version, "nothing");
    }
    run(Home::builder(&home, "build").args(bases()).args(["-t", "app"]).arg(subject.contexts[0].path())).ok();
    // The database as it is when its log was folded into it, on every other turn; as builds leave it, on the others.
    let folded = subject.dir.path().join("folded");
    copy(&home.path(), &folded);
    let fold = "import sqlite3,sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)')";
    run(tool("python3").args(["-c", fold]).arg(folded.join("cache-v1.db"))).ok();
    let states = [folded.as_path(), &home.path()].map(|state| (state.to_owned(), pages(state)));
    let state = subject.dir.path().join("state");
    let total: usize = states.iter().map(|(_, pages)| pages.len()).sum();
    let rounds = subject.rounds.unwrap_or(12);
    let every = rounds as usize >= total * DAMAGES.len();
    // What each build reads: the blobs that it exports, but for manifest and config, which are made anew.
    copy(&folded, &state);
    let (mut build, layout) = subject.build(&state, 0);
    run(&mut build).ok();
    let exported = fs::read_dir(layout.join("blobs/sha256")).expect("list").flatten();
    let exported: BTreeSet<_> = exported.map(|blob| blob.file_name()).collect();
    let (mut told, mut must, mut kinds, mut failures) = (0, 0, BTreeSet::new(), Vec::new());
    for round in 0..rounds.min((total * DAMAGES.len()) as u64) {
        let chosen = if every { round } else { random.below((total * DAMAGES.len()) as u64) } as usize;
        let damage = DAMAGES[chosen % DAMAGES.len()];
        let page = chosen / DAMAGES.len();
        let (from, (path, page)) = match page.checked_sub(states[0].1.len()) {
            None => (&states[0].0, &states[0].1[page]),
            Some(page) => (&states[1].0, &states[1].1[page]),
        };
        copy(from, &state);
        let relative = path.strip_prefix(from).expect("below");
        damage.apply(&state.join(relative), *page, random);
        let after = format!("{damage:?} in page {page} of {} (round {round})", relative.display());
        let is_read = match relative.starts_with("blobs") {
            true => relative.file_name().is_some_and(|name| exported.contains(name)),
            // Its header is on the first page. Without any bytes it is a new one.
            false => {
                let is_header = relative == Path::new("cache-v1.db") && *page == 0 && *from == folded;
                is_header && matches!(damage, Damage::Zeroes | Damage::Garbage)
            }
        };
        let mut said = String::new();
        for version in [0, 2, 0] {
            let (mut build, layout) = subject.build(&state, version);
            let done = run(&mut build);
            let right = || Image::open(layout.clone(), None).digest == subject.digest(version);
            if done.code != Some(0) || done.stderr.contains("panicked") || !right() {
                failures.push(format!("{after}\n{done}"));
                break;
            }
            fs::remove_dir_all(layout.parent().expect("a parent")).expect("remove");
            said += &done.stderr;
            if done.stderr.contains("damaged") {
                told += 1;
                kinds.insert(relative.components().next().expect("a name").as_os_str().to_owned());
            }
        }
        let names = |line: &str| line.starts_with("WARNING: ") && line.contains("was damaged and ");
        if is_read && !said.lines().any(names) {
            failures.push(format!("{after}: nothing was said of it\n{said}"));
        }
        must += u64::from(is_read);
    }
    println!(
        "{rounds} of {} damages to {total} pages, {must} to what is read; {told} builds said something: {kinds:?}",
        total * DAMAGES.len()
    );
    assert!(
        failures.is_empty(),
        "after {} of {rounds} damages the next build was wrong\n{}",
        failures.len(),
        failures.join("\n==========\n")
    );
}

/// Of each row that a build reads to find bytes it says when it is not what was written.
#[test]
fn rows_that_changed_are_told() {
    let subject = Subject::new();
    let home = Home::new();
    subject.sound(&home.path(), 0, "nothing");
    let state = subject.dir.path().join("state");
    // A bit of what stands there, or a number more.
    let flip = "import sqlite3,sys\ndb = sqlite3.connect(sys.argv[1])\ntable, column = sys.argv[2].split('.')\n\
                for row, value in db.execute(f'SELECT seal, {column} FROM {table} WHERE seal IS NOT NULL').fetchall():\n \
                value = bytes([value[0] ^ 1]) + value[1:] if isinstance(value, bytes) else value + 1\n \
                db.execute(f'UPDATE {table} SET {column} = ? WHERE seal = ?', (value, row))\ndb.commit()";
    for (column, name) in [
        ("keys.seal", "the record of a cached step"),
        ("chains.seal", "the record of an unpacked layer"),
        ("packed.diff_id", "the record of a packed layer"),
        ("packed.seal", "the record of a packed layer"),
        ("snapshots.changes", "layer "),
        ("snapshots.created", "layer "),
    ] {
        copy(&home.path(), &state);
        run(tool("python3").args(["-c", flip]).arg(state.join("cache-v1.db")).arg(column)).ok();
        // Nothing is new, and then some of the steps: those look for the image's layers.
        let said = [0, 2].map(|version| subject.sound(&state, version, column).stderr).concat();
        let sentence = format!("WARNING: {name}");
        let tells = |line: &str| line.starts_with(&sentence) && line.contains(" was damaged and thrown away");
        assert!(said.lines().any(tells), "{column}: {said}");
    }
}

/// Stops all writing to a file system at once and forgets what was not written yet, as a power failure does (`EXT4_IOC_SHUTDOWN` without
/// flushing the journal).
const PULL_THE_PLUG: &str = "import fcntl,os,struct,sys; \
    fcntl.ioctl(os.open(sys.argv[1],os.O_RDONLY),0x8004587d,struct.pack('I',2))";

/// The power goes at some moment of builds, again and again; the journal of the file system is replayed, and the builder finds itself in
/// another boot.
#[test]
fn the_power_goes() {
    need_root();
    let subject = Subject::new();
    let random = &mut Random(subject.seed);
    let file = |name: &str| subject.dir.path().join(name);
    let (disk, mount) = (file("disk.img"), file("disk"));
    fs::create_dir(&mount).expect("make a directory");
    fs::File::create(&disk).expect("make a file").set_len(256 << 20).expect("make it large");
    run(tool("mkfs.ext4").args(["-q", "-F"]).arg(&disk)).ok();
    // A journal that is written every second: so that there is something of the builds in it.
    let begin = "\
mount -o loop,commit=1 \"$1\" \"$2\" || exit 99
mount --bind \"$3\" /proc/sys/kernel/random/boot_id || exit 99\n";
    let end = "until umount \"$2\"; do sleep 0.05; done 2>/dev/null";
    let lost = format!(
        "{begin}sh \"$4\" >/dev/null 2>&1 & builds=$!\nsleep \"$5\"\npython3 -c \"{PULL_THE_PLUG}\" \"$2\" || exit 99\n\
         kill -9 $builds; wait $builds 2>/dev/null\n{end}"
    );
    let again = format!("{begin}sh \"$4\"; code=$?\n{end}\nexit $code");
    let rounds = subject.rounds.unwrap_or(3);
    let state = mount.join("state");
    for round in 0..rounds {
        // Kept in the image store, so that some of it is promised to be on the disk; and not.
        let mut script = String::new();
        for _ in 0..20 {
            let (mut build, _) = subject.build(&state, random.below(4) as usize);
            if random.one_in(3) {
                build.args(["-t", "app"]);
            }
            script += &format!("{}\n", line(&build));
            if random.one_in(6) {
                script += &format!("BUILDER_HOME='{}' '{}' prune -af\n", state.display(), binary().display());
            }
        }
        fs::write(file("builds"), script).expect("write");
        fs::write(file("boot"), format!("boot-{round}-a\n")).expect("write");
        let after = PathBuf::from(format!("{:.3}", random.below(3_000) as f64 / 1000.0 + 0.1));
        let done = run(&mut in_namespace(&lost, &[&disk, &mount, &file("boot"), &file("builds"), &after]));
        assert_eq!(done.code, Some(0), "{done}");
        // What the killed builds were writing to is of no use.
        for version in 0..4 {
            fs::write(file("boot"), format!("boot-{round}-b{version}\n")).expect("write");
            let (build, layout) = subject.build(&state, version);
            fs::write(file("build"), line(&build)).expect("write");
            let after = format!("power failure {round} after {} s (seed {})", after.display(), subject.seed);
            let done = run(&mut in_namespace(
                &again,
                &[&disk, &mount, &file("boot"), &file("build"), &after_none()],
            ));
            assert_eq!(done.code, Some(0), "after {after}\n{done}");
            subject.right(&layout, version, &after, &done);
        }
    }
    println!("{rounds} power failures");
}

fn after_none() -> PathBuf {
    PathBuf::from("0")
}

/// In a mount namespace of its own: the disk with the builds' state is a loop device whose file lies on a file system that can share what
/// files hold, so that a copy of that file is the disk of one moment. `$1` is a directory outside, `$2` the disk's file there.
const MOUNT_DISK: &str = r#"
set -eu
d=$1
mount -t "$TYPE" -o loop "$d/outer.img" "$d/outer" || exit 77
mount -o loop,commit=1 "$d/outer/$2" "$d/disk" || exit 99
mount --bind "$d/boot" /proc/sys/kernel/random/boot_id || exit 99
away() { until umount "$d/disk"; do sleep 0.05; done 2>/dev/null; umount "$d/outer"; }
"#;

/// What was promised until then is read before the disk is copied: `$3` seconds after the builds began, or when the next promise is made.
const BUILD_AND_COPY: &str = r#"
sh "$d/builds" > /dev/null 2>&1 & builds=$!
sleep "$3"
if [ "$4" = promised ]; then
    n=$(wc -l < "$d/told")
    while kill -0 $builds 2>/dev/null && [ "$(wc -l < "$d/told")" = "$n" ]; do sleep 0.01; done
fi
cp "$d/told" "$d/promised"
cp --reflink=always "$d/outer/$2" "$d/outer/copy.img" || exit 98
kill -9 $builds 2>/dev/null || true
wait $builds 2>/dev/null || true
away
"#;

const USE_COPY: &str = r#"
code=0; sh -eu "$d/uses" || code=$?
away
exit $code
"#;

/// Builds go on while a copy of their disk is taken, which no program takes notice of. In another boot the copy has all that was promised, and
/// serves builds.
#[test]
fn the_power_goes_at_a_moment_of_which_there_is_a_copy() {
    need_root();
    let subject = Subject::new();
    let random = &mut Random(subject.seed);
    let file = |name: &str| subject.dir.path().join(name);
    let state = file("disk/state");
    for dir in ["outer", "disk", "out"] {
        fs::create_dir(file(dir)).expect("make a directory");
    }
    let on_disk = |kind: &str, script: &str, arguments: &[&Path]| {
        let script = format!("{MOUNT_DISK}{script}");
        let arguments = [&[subject.dir.path()], arguments].concat();
        run(in_namespace(&script, &arguments).env("TYPE", kind))
    };
    let make = |kind: &str| -> bool {
        let _ = fs::remove_file(file("outer.img"));
        fs::File::create(file("outer.img")).expect("make a file").set_len(1 << 30).expect("make it large");
        let options: &[&str] = if kind == "xfs" { &["-q", "-m", "reflink=1"] } else { &["-q"] };
        run(tool(&format!("mkfs.{kind}")).args(options).arg(file("outer.img"))).ok();
        let fill = "mount -t \"$TYPE\" -o loop \"$1/outer.img\" \"$1/outer\" || exit 77\n\
                    truncate -s 256M \"$1/outer/disk.img\" && mkfs.ext4 -q -F \"$1/outer/disk.img\" && umount \"$1/outer\"";
        let made = run(in_namespace(fill, &[subject.dir.path()]).env("TYPE", kind));
        assert!(matches!(made.code, Some(0 | 77)), "{kind}: {made}");
        made.code == Some(0)
    };
    let ids: Vec<String> = (0..4).map(|version| subject.id(version)).collect();
    let rounds = subject.rounds.unwrap_or(2);
    let (mut kind, mut kept) = ("", 0);
    for round in 0..rounds {
        // A disk that has seen some builds, and not more than fits.
        if round % 5 == 0 {
            let kinds = if round % 2 == 0 { ["xfs", "btrfs"] } else { ["btrfs", "xfs"] };
            kind = kinds.into_iter().find(|kind| make(kind)).expect("this kernel has neither btrfs nor xfs");
            fs::write(file("told"), "").expect("write");
        }
        let mut script = String::new();
        for build in 0..20 {
            let version = random.below(4) as usize;
            script += &match random.one_in(2) {
                true => {
                    let name = format!("app:{round}-{build}");
                    let tagged = subject.tagged(&state, version, &name);
                    format!("{} && echo {name} {version} >> '{}'\n", line(&tagged), file("told").display())
                }
                false => {
                    let (build, layout) = subject.build(&state, version);
                    let of_no_use = layout.parent().expect("a parent").display();
                    format!("{}; rm -r '{of_no_use}'\n", line(&build))
                }
            };
        }
        fs::write(file("builds"), script).expect("write");
        fs::write(file("boot"), format!("boot-{round}-a\n")).expect("write");
        // Every other time as soon as something was promised.
        let (when, most) = if round % 2 == 0 { ("promised", 1_000) } else { ("now", 4_000) };
        let seconds = format!("{:.3}", random.below(most) as f64 / 1000.0 + 0.3);
        let after = format!("{seconds} s, {when}, of round {round} on {kind} (seed {})", subject.seed);
        let arguments = ["disk.img", &seconds, when].map(Path::new);
        let done = on_disk(kind, BUILD_AND_COPY, &arguments);
        assert_eq!(done.code, Some(0), "after {after}\n{done}");

        fs::write(file("boot"), format!("boot-{round}-b\n")).expect("write");
        let promised = fs::read_to_string(file("promised")).expect("what was promised");
        let builder = format!("BUILDER_HOME='{}' '{}'", state.display(), binary().display());
        let mut uses = String::new();
        for promise in promised.lines() {
            let (name, version) = promise.split_once(' ').expect("name and version");
            let id = &ids[version.parse::<usize>().expect("a number")];
            uses += &format!("echo {name}\n[ \"$({builder} inspect -f '{{{{.Id}}}}' {name})\" = '{id}' ]\n");
            uses += &format!("{builder} save -o '{}' {name}\n", file("out/saved.tar").display());
            kept += 1;
        }
        let builds: Vec<_> = (0..4).map(|version| (version, subject.build(&state, version))).collect();
        builds.iter().for_each(|(_, (build, _))| uses += &format!("{}\n", line(build)));
        fs::write(file("uses"), uses).expect("write");
        let done = on_disk(kind, USE_COPY, &[Path::new("copy.img")]);
        assert_eq!(done.code, Some(0), "after {after}\n{done}");
        for (version, (_, layout)) in builds {
            subject.right(&layout, version, &after, &done);
        }
    }
    println!("{rounds} copies of a disk, {kept} images that were promised");
}

/// What `builder fsck` says, as JSON.
fn fsck(state: &Path, arguments: &[&str], code: i32) -> serde_json::Value {
    let mut command = Command::new(binary());
    command.env("BUILDER_HOME", state).args(["fsck", "--format=json"]).args(arguments);
    serde_json::from_str(&run(&mut command).code_is(code).stdout).expect("JSON")
}

/// The files of layers that hold exactly these bytes.
fn layer_files(state: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![state.join("snapshots-v1"), state.join("versions-v1")];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).expect("list") {
            let path = entry.expect("an entry").path();
            match fs::symlink_metadata(&path).expect("stat") {
                metadata if metadata.is_dir() => waiting.push(path),
                metadata if metadata.is_file() && fs::read(&path).expect("read") == bytes => found.push(path),
                _ => {}
            }
        }
    }
    found
}

/// Changes a bit, and nothing else: size, mode and time stay.
fn rewrite(path: &Path) {
    let before = fs::metadata(path).expect("stat");
    let mut bytes = fs::read(path).expect("read");
    bytes[0] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("set a mode");
    fs::write(path, bytes).expect("write");
    fs::set_permissions(path, before.permissions()).expect("set a mode");
    let file = fs::File::options().read(true).open(path).expect("open");
    file.set_modified(before.modified().expect("a time")).expect("set a time");
}

/// A bit of a file in a layer, of each way to make one: found by the first check there ever was, and where the layer is packed.
#[test]
fn a_layer_whose_bytes_changed() {
    let archive = tempdir();
    fs::write(archive.path().join("archived"), "archived\n").expect("write");
    let archived = archive.path().join("archive.tar");
    run(tool("tar").arg("-cf").arg(&archived).arg("-C").arg(archive.path()).arg("archived")).ok();
    let context = Context::new(
        "FROM busybox\nRUN true\nCOPY many/ /many/\nCOPY one two /pair/\nADD archive.tar /\nRUN echo made > /made\n",
    );
    let many = |context: Context, n| context.file(&format!("many/{n}"), format!("many {n}\n"));
    let context = (0..60).fold(context, many).file("one", "one\n").file("two", "two\n");
    fs::copy(&archived, context.path().join("archive.tar")).expect("copy");
    let (home, clean) = (Home::new(), Home::new());
    let build = |state: &Path| {
        let mut build = Command::new(binary());
        build.arg("build").args(bases()).arg("--progress=plain").arg(context.path());
        build.env("BUILDER_HOME", state).env("SOURCE_DATE_EPOCH", "0");
        build
    };
    let export = |state: &Path| {
        let out = tempdir();
        let layout = out.path().join("layout");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let done = run(build(state).args(["-o", &output])).ok();
        (Image::open(layout, Some(out)).digest, done.stderr)
    };
    // Nothing is packed, nothing was ever checked, and the second COPY is a version of the first.
    run(&mut build(&home.path())).ok();
    context.write("many/7", "seven\n");
    run(&mut build(&home.path())).ok();
    let want = export(&clean.path()).0;
    let versions = fs::read_dir(home.path().join("versions-v1")).expect("list").count();
    assert!(versions > 0, "a version of an earlier layer");
    let scratch = tempdir();
    let state = scratch.path().join("state");
    let layer_findings = || -> Vec<String> {
        let mut command = Command::new(binary());
        let told = run(command.env("BUILDER_HOME", &state).args(["fsck", "--format=json"]));
        let told: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON");
        let findings = told["findings"].as_array().expect("a list").iter();
        findings
            .filter(|finding| finding["kind"] != "stray")
            .map(|finding| format!("{} {}", finding["kind"], finding["what"]))
            .collect()
    };
    copy(&home.path(), &state);
    assert_eq!(layer_findings(), Vec::<String>::new());
    let (digest, said) = export(&state);
    assert_eq!((digest.as_str(), said.contains("WARNING")), (&*want, false), "what is sound: {said}");
    for held in ["many 8\n", "seven\n", "one\n", "two\n", "archived\n", "made\n", "busybox"] {
        copy(&home.path(), &state);
        // In the layers of both builds.
        let damaged = match held {
            "busybox" => {
                let layers = fs::read_dir(state.join("snapshots-v1")).expect("list").flatten();
                layers.map(|layer| layer.path().join("bin/busybox")).filter(|path| path.is_file()).collect()
            }
            held => layer_files(&state, held.as_bytes()),
        };
        assert!(!damaged.is_empty(), "{held}");
        damaged.iter().for_each(|path| rewrite(path));
        // Of a version and what it lies over either may be the cause.
        let found = layer_findings();
        let is_right = |found: &String| found.starts_with("\"layer\" \"its files are not what was written");
        assert!(!found.is_empty() && found.iter().all(is_right), "{held}: {found:#?}");
        // What is below a step is not packed.
        if held == "busybox" {
            continue;
        }
        let (digest, said) = export(&state);
        assert_eq!(digest, want, "{held}: {said}");
        let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("WARNING")).collect();
        assert!(!warnings.is_empty(), "{held}: {said}");
        for warning in warnings {
            assert!(
                warning.starts_with("WARNING: layer ")
                    && warning.ends_with(" was damaged and thrown away; building again"),
                "{held}: {warning}"
            );
        }
        let (digest, said) = export(&state);
        assert_eq!((digest.as_str(), said.contains("WARNING")), (&*want, false), "{held}: {said}");
        // Those of the first build are not asked for any more.
        assert!(layer_findings().len() < found.len(), "{held}");
    }
}

/// Nothing but the export of a cache packs a layer here. That it is damaged is no fault of the place that the cache goes to.
#[test]
fn a_layer_whose_bytes_changed_is_in_no_exported_cache() {
    let dir = tempdir();
    let context = Context::new("FROM busybox\nCOPY one /one\nRUN echo made > /made\n").file("one", "one\n");
    let damaged = || {
        let home = Home::new();
        run(&mut home.build(&context)).ok();
        let files = layer_files(&home.path(), b"made\n");
        assert!(!files.is_empty());
        files.iter().for_each(|path| rewrite(path));
        home
    };
    let at = |name: &str| dir.path().join(name);
    let to = |name: &str| format!("--cache-to=type=local,mode=max,dest={}", at(name).display());
    // A cache that cannot be written anywhere is another matter, and no reason to do anything again.
    fs::write(at("file"), "").expect("write");
    let done = run(damaged().build(&context).args([&to("cache"), &to("file/none")])).ok();
    assert_eq!(done.stderr.matches("was damaged and thrown away; building again").count(), 1, "{done}");
    assert_eq!(done.stderr.matches("the cache was not exported").count(), 1, "{done}");
    // What was read from standard input is not there a second time: such a build succeeds without the cache.
    let dockerfile = fs::read(context.path().join("Dockerfile")).expect("read");
    let done = feed(damaged().build(&context).args(["-f", "-", &to("stdin")]), &dockerfile).ok();
    assert_eq!(done.stderr.matches("the cache was not exported").count(), 1, "{done}");
    assert!(done.says("was damaged and thrown away\n").stdout.is_empty());
    let other = Home::new();
    let from = format!("--cache-from=type=local,src={}", at("cache").display());
    other.steps(&context, &[&from]).all_cached();
    run(other.build(&context).args([&from, "-t", "app"])).ok();
    assert_eq!(run(other.builder("run").args(["app", "cat", "/made"])).ok().stdout, "made\n");
}

/// Files of all sorts, with what else they have: names, modes, owners, attributes, times that no file system keeps.
const ODD: &str = r"
mkdir -p dir/sub dir/a dir/a-b other
for n in 1 2 3 4 5 6; do echo $n > dir/f$n; done
ln dir/f1 dir/sub/hard && ln dir/f1 other/hard && echo x > dir/a/x && ln dir/a/x dir/a-b/x && ln -s f1 dir/link && mkfifo dir/pipe
chmod 4755 dir/f3 && chmod 1777 dir/sub && mknod dir/device c 5 6 && head -c 5000000 /dev/urandom > dir/large && truncate -s 3M dir/holes
touch -d 2500-01-01 dir/f4 && touch -d 1890-01-01 dir/f5 && echo x > $(printf 'dir/\377') && : > dir/empty
python3 -c 'import os; os.setxattr(`dir/f2`, `user.a`, b`b`); os.setxattr(`dir/sub`, `user.c`, b`d`)'
mkdir tree && cp -a dir tree && ln tree/dir/f6 tree/again && ln -s dir tree/link && ln -P tree/link tree/other && tar --xattrs -cf archive.tar -C tree . && rm -r tree
";

/// However a layer is written, what is noted of it then is what is read of it later, also as a user whose files cannot have all that.
#[test]
fn what_is_noted_of_layers_is_what_is_there() {
    need_root();
    let context = Context::new(
        "FROM busybox AS first\nRUN mkdir /real && ln -s /real /link && rm /bin/vi && mkdir /bin/vi\nCOPY dir /link/\n\
         COPY --chmod=u=rwX,go=rX --chown=3:4 dir /changed/\nCOPY --link dir/ /linked/\nCOPY --parents dir/sub/hard other/hard /parents/\n\
         COPY dir/f1 dir/f2 other /several/\nADD archive.tar /unpacked/\nADD --chown=9:9 archive.tar dir/f3 /both/\n\
         COPY --exclude=f1 dir /\nWORKDIR /work/there\nFROM busybox\nCOPY --from=first / /all/\n\
         COPY --from=first /unpacked /unpacked\nRUN rm -r /all/unpacked && echo changed > /all/changed/f1\n",
    );
    run(tool("sh").args(["-euc", &ODD.replace('`', "\"")]).current_dir(context.path())).ok();
    let homes = [Home::new(), Home::new()];
    let builds = |more: &[&str]| -> Vec<String> {
        let build = |(n, home): (usize, &Home)| {
            let mut build = home.build(&context);
            build.env("SOURCE_DATE_EPOCH", "0").env("BUILDER_USERNS", n.to_string()).args(more);
            let done = run(&mut build).ok();
            assert!(!done.stderr.contains("damaged"), "{done}");
            run(home.builder("fsck").env("BUILDER_USERNS", n.to_string())).ok();
            done.stdout
        };
        homes.iter().enumerate().map(build).collect()
    };
    builds(&[]);
    // Packed by another process than wrote it.
    let ids = builds(&["--quiet"]);
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn fsck_finds_what_is_damaged_and_removes_it() {
    let subject = Subject::new();
    let home = Home::new();
    let state = home.path();
    subject.sound(&state, 0, "nothing");
    let told = fsck(&state, &[], 0);
    assert!(told["findings"].as_array().is_some_and(Vec::is_empty), "{told:#}");
    assert!(told["layers"].as_u64() >= Some(6) && told["blobs"].as_u64() >= Some(5), "{told:#}");
    // What a RUN wrote, and what a COPY did.
    let copied = layer_files(&state, b"three\n");
    let output = tempdir();
    run(home.build(&subject.contexts[0]).arg("-o").arg(output.path())).ok();
    let sums = layer_files(&state, &fs::read(output.path().join("sums")).expect("read"));
    assert_eq!((copied.len(), sums.len()), (1, 1));
    // What a killed process left is listed, and no damage.
    fs::create_dir(state.join("snapshots-v1/4711")).expect("make a stray");
    fs::create_dir_all(state.join("tmp-v1/4711-killed/1/upper")).expect("make a stray");
    fs::write(state.join("tmp-v1/4711-killed.lock"), "").expect("make a stray");
    let told = fsck(&state, &[], 0);
    assert!(told.to_string().contains("snapshots-v1/4711"), "{told:#}");
    rewrite(&copied[0]);
    rewrite(&sums[0]);
    let blob =
        pages(&state).into_iter().find(|(path, _)| path.starts_with(state.join("blobs"))).expect("a blob").0;
    rewrite(&blob);
    let unseal = "import sqlite3,sys\ndb = sqlite3.connect(sys.argv[1])\n\
                  db.execute('UPDATE records SET content = randomblob(32) WHERE id = (SELECT min(id) FROM records)')\ndb.commit()";
    run(tool("python3").args(["-c", unseal]).arg(state.join("cache-v1.db"))).ok();

    let kinds = |told: &serde_json::Value| -> Vec<String> {
        let findings = told["findings"].as_array().expect("a list").iter();
        let mut kinds: Vec<String> =
            findings.map(|finding| finding["kind"].as_str().expect("text").to_owned()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    let want = ["blob", "layer", "record", "stray"];
    let told = fsck(&state, &[], 1);
    assert_eq!(kinds(&told), want, "{told:#}");
    let layers =
        told["findings"].as_array().expect("a list").iter().filter(|finding| finding["kind"] == "layer");
    assert_eq!(layers.count(), 2, "{told:#}");
    assert_eq!(kinds(&fsck(&state, &["--repair"], 1)), want);
    let told = fsck(&state, &[], 0);
    assert!(told["findings"].as_array().is_some_and(Vec::is_empty), "{told:#}");
    let text = run(Command::new(binary()).env("BUILDER_HOME", &state).arg("fsck")).ok().stdout;
    assert!(text.contains("nothing is damaged"), "{text}");
    subject.sound(&state, 0, "a repair");

    // A database that is not one. Those who only look leave it alone; names of images are saved.
    run(Home::builder(&home, "build").args(bases()).args(["-t", "app"]).arg(subject.contexts[0].path())).ok();
    let mut garbage = vec![7; 10_000];
    fs::write(state.join("cache-v1.db"), &garbage).expect("write");
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(state.join(format!("cache-v1.db{suffix}")));
    }
    for command in [
        &["images"][..],
        &["du"],
        &["history", "ls"],
        &["prune", "--all"],
        &["inspect", "app"],
        &["rmi", "app"],
    ] {
        let refused = run(Command::new(binary()).env("BUILDER_HOME", &state).args(command)).code_is(3);
        assert!(refused.stderr.contains("is damaged"), "{refused}");
        assert!(refused.stderr.contains("builder fsck --repair"), "{refused}");
    }
    assert_eq!(kinds(&fsck(&state, &[], 1)), ["database"]);
    assert_eq!(fs::read(state.join("cache-v1.db")).expect("read"), garbage);
    let repaired = fsck(&state, &["--repair"], 1);
    assert_eq!(kinds(&repaired), ["database", "stray"]);
    assert!(
        repaired["findings"][0]["what"]
            .as_str()
            .is_some_and(|what| what.contains("1 image and 0 cached steps were saved")),
        "{repaired:#}"
    );
    fsck(&state, &[], 0);
    let images = || run(Command::new(binary()).env("BUILDER_HOME", &state).arg("images")).ok().stdout;
    assert!(images().contains("app"), "{}", images());
    garbage.push(1);
    fs::write(state.join("cache-v1.db"), &garbage).expect("write");
    let built = subject.sound(&state, 0, "a lost database");
    assert!(built.stderr.contains("WARNING: the cache database was damaged"), "{built}");
    assert!(built.stderr.contains("1 image and 0 cached steps were saved"), "{built}");
    assert!(images().contains("app"), "{}", images());
    subject.sound(&state, 0, "a lost database");
}

/// Its bytes make no sense long before the end, where its digest is known.
#[test]
fn a_compressed_layer_that_is_damaged_is_fetched_again() {
    need_root();
    let (maker, places) = (Home::new(), tempdir());
    let mut random = Random(1);
    let bytes: Vec<u8> = (0..3 << 20).map(|_| random.below(256) as u8).collect();
    let base = Context::new("FROM busybox\nCOPY large /\n");
    fs::write(base.path().join("large"), bytes).expect("write");
    let context = Context::new("FROM base\nRUN echo x > /x\n");
    for compression in ["gzip", "zstd"] {
        let place = places.path().join(compression);
        let output = format!(
            "type=oci,tar=false,compression={compression},force-compression=true,dest={}",
            place.display()
        );
        run(maker.build(&base).args(["-o", &output])).ok();
        let other = if compression == "gzip" { "zstd" } else { "gzip" };
        for more in [String::new(), format!(",compression={other},force-compression=true")] {
            let image = |home: &Home| {
                let out = tempdir();
                let layout = out.path().join("layout");
                let output = format!("type=oci,tar=false,dest={}{more}", layout.display());
                let mut build = home.build(&context);
                build.arg(format!("--build-context=base=oci-layout://{}", place.display()));
                let done = run(build.env("SOURCE_DATE_EPOCH", "1600000000").args(["-o", &output])).ok();
                (Image::open(layout, Some(out)).digest, done)
            };
            let home = Home::new();
            let (digest, _) = image(&home);
            let blobs = pages(&home.path()).into_iter().map(|(path, _)| path);
            let size = |path: &PathBuf| fs::metadata(path).expect("examine").len();
            let blobs =
                blobs.filter(|path| path.starts_with(home.path().join("blobs")) && size(path) > 2 << 20);
            for blob in blobs.collect::<BTreeSet<_>>() {
                let mut bytes = fs::read(&blob).expect("read");
                bytes[1 << 19..][..100].fill(0);
                fs::set_permissions(&blob, fs::Permissions::from_mode(0o600)).expect("set a mode");
                fs::write(&blob, bytes).expect("write");
            }
            // It has to be unpacked again, and packed.
            run(Command::new("sh").arg("-c").arg("rm -r snapshots-v1/*").current_dir(home.path())).ok();
            let (again, done) = image(&home);
            assert!(done.stderr.contains("was damaged and thrown away; building again"), "{done}");
            assert_eq!(digest, again, "{compression}{more}: {done}");
        }
    }
}

/// The layer of a step that failed is kept for `builder debug`, and nothing noted of it: no older version is to blame.
#[test]
fn a_layer_of_which_nothing_was_noted() {
    let home = Home::new();
    run(&mut home.build(&Context::new("FROM busybox\nRUN echo half > /half; exit 3\n"))).code_is(1);
    let told = run(&mut home.builder("fsck")).ok().stdout;
    assert!(told.contains("1 layer could be read, but not compared: nothing was noted when"), "{told}");
    assert!(!told.contains("version"), "{told}");
    assert!(!run(&mut home.builder("fsck")).ok().stdout.contains("not compared"), "now it is known");
}

/// Nobody who only looks makes a state directory where none is.
#[test]
fn a_mistyped_state_directory_is_not_made() {
    let home = Home::new();
    let mistyped = home.path().join("mistyped");
    for command in ["images", "du", "fsck", "prune", "history ls", "cache ls", "inspect app", "debug --list"]
    {
        let mut look = Command::new(binary());
        let refused = run(look.env("BUILDER_HOME", &mistyped).args(command.split(' '))).code_is(1);
        assert!(refused.stderr.contains("there is no state directory at"), "{command}: {refused}");
        assert!(!mistyped.exists(), "{command}");
    }
}

/// What was damaged and is healed is no reason to do again what fails by itself.
#[test]
fn a_step_that_fails_is_not_tried_again_for_damage_elsewhere() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN echo one > /one\n");
    run(&mut home.build(&context)).ok();
    let layers = home.path().join("snapshots-v1");
    for layer in fs::read_dir(&layers).expect("list layers").flatten() {
        if layer.path().join("one").exists() {
            fs::remove_dir_all(layer.path()).expect("lose a layer");
        }
    }
    context.write("Dockerfile", "FROM busybox\nRUN echo one > /one\nRUN echo tried; exit 3\n");
    let failed = run(&mut home.build(&context)).code_is(1);
    assert!(!failed.stderr.contains("building again"), "{failed}");
    assert_eq!(failed.stderr.matches("ERROR: process").count(), 1, "{failed}");
}

/// Without its index an image is still the one of its platform.
#[test]
fn an_image_whose_index_is_damaged() {
    let context = Context::new("FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n");
    let built = || {
        let home = Home::new();
        let both = ["-q", "-t", "app:1", "--platform=linux/amd64,linux/arm64"];
        let index = run(home.build(&context).args(both)).ok().stdout;
        let hex = index.trim().trim_start_matches("sha256:");
        rewrite(&home.path().join("blobs/sha256-v1").join(&hex[..2]).join(hex));
        home
    };
    let rows = |home: &Home, name: &str| {
        let images = run(home.builder("images").args(["--format", "{{.Platform}}", name])).ok().stdout;
        images.lines().count()
    };
    let archive = context.path().join("archive");
    let saved = |home: &Home| {
        run(home.builder("save").arg("app:1").arg("-o").arg(&archive)).ok();
        let manifest = run(tool("tar").arg("-xOf").arg(&archive).arg("manifest.json")).ok().stdout;
        assert!(manifest.contains("\"RepoTags\":[\"app:1\"]"), "{manifest}");
    };
    let home = built();
    saved(&home);
    run(home.builder("tag").args(["app:1", "app:2"])).ok();
    assert_eq!(["app:1", "app:2"].map(|name| rows(&home, name)), [2, 2]);
    run(built().builder("tag").args(["app:1", "app:2"])).ok();
    let home = built();
    fsck(&home.path(), &["--repair"], 1);
    run(home.builder("prune").arg("-f")).ok();
    fsck(&home.path(), &[], 0);
    assert_eq!(rows(&home, "app:1"), 2);
    saved(&home);
}
