//! `cargo xtask bench --quick`: what builds ask of the kernel. Times depend on the machine and its load, these counts do not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;

use serde_json::Value;

use crate::bench::Lab;
use crate::bench::contexts::{Content, Context};
use crate::bench::scenarios::{self, SETTLED};
use crate::shell::{self, Result};

/// What is counted of one build, by name.
type Counts = BTreeMap<&'static str, u64>;

/// How much more than what is written down passes: how threads share work differs from run to run.
const TOLERANCE: f64 = 1.15;

fn file() -> PathBuf {
    shell::root().join("benches/counts.json")
}

/// Counts a few builds and compares that with benches/counts.json; with `write`, writes it.
///
/// # Errors
/// When a build asks for more than it did when that was written.
pub(crate) fn run(binary: &Path, lab: &Lab, write: bool) -> Result {
    let home = lab.dir.join("counts");
    shell::remove(&home)?;
    fs::create_dir_all(&home)?;
    let small = Content::Small.make(lab, "S1", scenarios::THREE_STEPS)?;
    let many = Content::Many(4);
    let many = many.make(lab, &many.name(), scenarios::COPY_ALL)?;
    scenarios::touch(&many)?;
    sleep(SETTLED);
    let archive = format!("type=oci,dest={}", lab.dir.join("archive.tar").display());
    let counter = Counter { binary, lab, home: &home };
    let mut counted = BTreeMap::new();
    // Each builds on what the one before left.
    counted.insert("first build of 1,000 files", counter.build(&many, &[])?);
    counter.build(&many, &["-o", &archive])?;
    counted.insert("nothing changed, 1,000 files", counter.build(&many, &[])?);
    scenarios::touch(&many)?;
    counted.insert("one of 1,000 files changed", counter.build(&many, &[])?);
    counted.insert("one of 1,000 files changed, and an archive", {
        scenarios::touch(&many)?;
        counter.build(&many, &["-o", &archive])?
    });
    counter.build(&small, &[])?;
    counted.insert("nothing changed, 3 steps", counter.build(&small, &[])?);
    counted.insert("3 steps without cache", counter.build(&small, &["--no-cache"])?);
    shell::remove(&home)?;
    let text = serde_json::to_string_pretty(&counted)? + "\n";
    if write {
        fs::write(file(), text)?;
        println!("written to benches/counts.json");
        return Ok(());
    }
    compare(&counted, &serde_json::from_str(&fs::read_to_string(file())?)?)
}

/// Prints all of it, and fails for what became more.
fn compare(counted: &BTreeMap<&str, Counts>, before: &Value) -> Result {
    let mut more = Vec::new();
    for (build, counts) in counted {
        println!("{build}");
        for (name, count) in counts {
            let known = before[*build][*name].as_u64().unwrap_or(0);
            println!("  {name:24} {count:>12}  (was {known})");
            // Small numbers may differ by a few whatever happens: a thread more, a log rotated.
            let slack = if name.contains("bytes") { 65_536.0 } else { 12.0 };
            if *count as f64 > known as f64 * TOLERANCE + slack {
                more.push(format!("{build}: {name}: {count}, was {known}"));
            }
        }
    }
    match more.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "builds ask for more than they did (where that is meant: `cargo xtask bench --quick --write`):\n  {}",
            more.join("\n  ")
        )
        .into()),
    }
}

struct Counter<'a> {
    binary: &'a Path,
    lab: &'a Lab,
    home: &'a Path,
}

impl Counter<'_> {
    fn build(&self, context: &Context, options: &[&str]) -> Result<Counts> {
        let trace = self.lab.dir.join("trace");
        let mut strace = shell::command("strace");
        strace.args(["-f", "-qq", "-y", "-s", "0", "-o"]).arg(&trace).arg(self.binary);
        strace.env("BUILDER_HOME", self.home).args(["build", "--progress=quiet", "--build-context"]);
        strace.arg(format!("busybox=oci-layout://{}", self.lab.bases.join("busybox").display()));
        let timings = self.lab.dir.join("timings.json");
        strace.arg(format!("--timings={}", timings.display()));
        strace.args(options).arg(&context.dir).stdout(Stdio::null());
        shell::run(&mut strace)?;
        let mut counts = count(&fs::read_to_string(&trace)?, &context.dir.display().to_string());
        let told: Value = serde_json::from_str(&fs::read_to_string(&timings)?)?;
        let spans = told["spans"].as_array().map_or(&[][..], Vec::as_slice).iter();
        let compressed =
            spans.filter(|span| span["work"] == "compress").filter_map(|span| span["bytes"].as_u64());
        counts.insert("bytes compressed", compressed.sum());
        for (name, hash) in [("bytes hashed, sha256", "sha256"), ("bytes hashed, blake3", "blake3")] {
            counts.insert(name, told["hashed"][hash].as_u64().ok_or("no bytes that were hashed")?);
        }
        Ok(counts)
    }
}

/// Calls whose number depends on how threads happened to run, or that only manage memory.
const LEFT_OUT: &[&str] = &[
    "futex",
    "sched_yield",
    "epoll_wait",
    "epoll_pwait",
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "brk",
    "mremap",
    "rt_sigprocmask",
    "rt_sigaction",
    "sigaltstack",
    "restart_syscall",
    "set_robust_list",
    "rseq",
    "sched_getaffinity",
    "gettid",
    "prctl",
    "exit",
    "getrandom",
];

/// Where the state directory has the files of layers, and packed ones.
const LAYERS: [&str; 3] = ["/snapshots-v1/", "/versions-v1/", "/tmp-v1/"];
const BLOBS: &str = "/blobs/";

/// The descriptor that a call reads from, with its path.
fn source_of<'a>(name: &str, arguments: &'a str) -> &'a str {
    let mut descriptors = arguments.split(", ");
    // sendfile(2) names the other one first.
    let first = descriptors.next().unwrap_or_default();
    if name == "sendfile" { descriptors.next().unwrap_or_default() } else { first }
}

/// Reads a trace of strace.
fn count(trace: &str, context: &str) -> Counts {
    let names = [
        "calls",
        "files opened",
        "files of the context opened",
        "files made",
        "files examined",
        "bytes read",
        // What is hashed of files has to be read: of the context, of layers in the store, of packed ones.
        "bytes of the context read",
        "bytes of layers read",
        "bytes of blobs read",
        "bytes written",
        "processes",
        "mounts",
    ];
    let mut counts: Counts = names.into_iter().map(|name| (name, 0)).collect();
    let mut add = |name: &'static str, amount: u64| *counts.entry(name).or_default() += amount;
    // What a thread was in when another came between: the beginning of its line.
    let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, begun);
            continue;
        }
        let begun = if rest.starts_with("<... ") { unfinished.remove(thread).unwrap_or("") } else { rest };
        let Some((name, arguments)) = begun.split_once('(') else { continue };
        if LEFT_OUT.contains(&name) {
            continue;
        }
        add("calls", 1);
        let result = rest.rsplit_once(" = ").map_or("", |(_, result)| result);
        let number: u64 = result.split([' ', '<']).next().and_then(|word| word.parse().ok()).unwrap_or(0);
        let failed = result.starts_with('-');
        match name {
            "open" | "openat" | "openat2" if !failed => {
                // A look at a directory on the way is none of a file.
                let is_file = !arguments.contains("O_DIRECTORY") && !rest.contains("O_DIRECTORY");
                add("files opened", u64::from(is_file));
                add("files of the context opened", u64::from(is_file && result.contains(context)));
                add("files made", u64::from(begun.contains("O_CREAT")));
            }
            "mkdir" | "mkdirat" | "symlink" | "symlinkat" | "link" | "linkat" | "mknod" | "mknodat"
                if !failed =>
            {
                add("files made", 1);
            }
            "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => add("files examined", 1),
            "read" | "pread64" | "readv" | "preadv" | "copy_file_range" | "sendfile" => {
                add("bytes read", number);
                match source_of(name, arguments) {
                    source if source.contains(context) => add("bytes of the context read", number),
                    source if LAYERS.iter().any(|dir| source.contains(dir)) => {
                        add("bytes of layers read", number)
                    }
                    source if source.contains(BLOBS) => add("bytes of blobs read", number),
                    _ => {}
                }
                if !name.contains("read") {
                    add("bytes written", number);
                }
            }
            "write" | "pwrite64" | "writev" | "pwritev" => add("bytes written", number),
            "fork" | "vfork" => add("processes", 1),
            "clone" | "clone3" if !begun.contains("CLONE_THREAD") => add("processes", 1),
            "mount" | "fsmount" | "move_mount" | "open_tree" if !failed => add("mounts", 1),
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_trace_is_counted() {
        let trace = "\
1 openat(AT_FDCWD</w>, \"/c/a\", O_RDONLY|O_CLOEXEC) = 3</c/a>
1 read(3</c/a>, \"\"..., 4096) = 100
2 read(4</o>, <unfinished ...>
1 futex(0x1, FUTEX_WAIT) = 0
2 <... read resumed>\"\"..., 4096) = 7
1 openat(5</s>, \"x\", O_WRONLY|O_CREAT|O_EXCL, 0600) = 6</s/x>
1 openat(5</s>, \"none\", O_RDONLY) = -1 ENOENT (No such file or directory)
1 pread64(7</h/snapshots-v1/4/f>, \"\"..., 4096, 0) = 20
1 read(7</h/blobs/sha256/ab>, \"\"..., 4096) = 3
1 copy_file_range(3</c/a>, NULL, 8</h/tmp-v1/x/upper/a>, NULL, 9, 0) = 9
1 sendfile(8</h/tmp-v1/x/upper/a>, 3</c/a>, NULL, 5) = 5
1 clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0}, 88) = 9
1 clone3({flags=CLONE_NEWPID, exit_signal=SIGCHLD}, 88) = 10
1 --- SIGCHLD {si_signo=SIGCHLD} ---
";
        let counts = count(trace, "/c");
        let of = |name: &str| counts[name];
        assert_eq!((of("calls"), of("files opened"), of("files of the context opened")), (11, 2, 1));
        assert_eq!((of("bytes read"), of("bytes of the context read")), (144, 114));
        assert_eq!((of("bytes of layers read"), of("bytes of blobs read")), (20, 3));
        assert_eq!(of("bytes written"), 14);
        assert_eq!((of("files made"), of("processes")), (1, 1));
    }

    #[test]
    fn more_is_an_error_and_a_little_more_is_not() {
        let counted = |calls| BTreeMap::from([("a build", Counts::from([("calls", calls)]))]);
        let before = json!({ "a build": { "calls": 1000 } });
        assert!(compare(&counted(1_100), &before).is_ok());
        assert!(compare(&counted(10), &before).is_ok());
        assert!(compare(&counted(1_200), &before).is_err());
    }
}
