//! Dockerfiles that people wrote, as they stand in source packages of well-known programs: each is parsed, and lowered for its
//! last stage. `cargo xtask test` fetches the packages that `sources.tsv` pins.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use e2e::{Done, Home, base, binary, run, tempdir, tool};
use serde_json::Value;

/// What is wrong on purpose, and what is refused there as it is by BuildKit: the end of the path, a part of the message.
const REFUSED: &[(&str, &str)] = &[
    // Tests of Buildah that something is refused.
    ("tests/bud/add-chmod/Dockerfile.bad", "missing a value on flag: --chmod"),
    ("tests/bud/add-chown/Dockerfile.bad", "missing a value on flag: --chown"),
    ("tests/bud/copy-chmod/Dockerfile.bad", "missing a value on flag: --chmod"),
    ("tests/bud/copy-chown/Dockerfile.bad", "missing a value on flag: --chown"),
    ("tests/bud/copy-from/Dockerfile.bad", "missing a value on flag: --from"),
    ("tests/bud/copy-multistage-paths/Dockerfile.invalid_from", "missing a value on flag: --from"),
    ("tests/bud/unrecognized/Dockerfile", "unknown instruction: BOGUS"),
    // What Buildah allows and BuildKit does not: names of stages, SELinux labels of mounts, a stage from a variable, a quote.
    ("tests/bud/base-with-arg/Containerfile", "invalid name for build stage: \"platform-arm/v7\""),
    ("tests/bud/buildkit-mount/Dockerfile", "invalid field 'z' must be a key=value pair"),
    ("tests/bud/from-with-arg/Containerfile", "variables are not expanded in `--from`"),
    ("testdata/Dockerfile.env", "a single quote without its end"),
    ("testdata/transientmount/Dockerfile.env", "a single quote without its end"),
];

/// Values for the arguments without which some bases have no name; all others have their defaults.
const ARGUMENTS: &[&str] = &["GO_VERSION=1", "BASE=busybox", "base=busybox", "SAFEIMAGE=busybox"];

/// Ends of names like those of Dockerfiles that are none: manuals and rules for editors about them, and templates that another
/// program has to fill in first.
const OTHERS: &[&str] = &[
    ".md",
    ".nanorc",
    ".tmPreferences",
    ".tmLanguage",
    ".dockerignore",
    ".in",
    ".tmpl",
    ".template",
    ".j2",
    ".erb",
    ".m4",
];

/// Whether a file is a Dockerfile, by its name: `Dockerfile`, `Dockerfile.x`, `Dockerfile_x`, `x.Dockerfile`, the same with
/// `Containerfile`.
fn is_dockerfile(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    if OTHERS.iter().any(|end| name.ends_with(end)) {
        return false;
    }
    let lower = name.to_lowercase();
    ["dockerfile", "containerfile"].iter().any(|word| {
        let before =
            lower.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with(['.', '-', '_']));
        let after = lower.strip_prefix(word).is_some_and(|rest| rest.starts_with(['.', '-', '_']));
        before || after
    })
}

/// Unpacks the Dockerfiles of an archive below a directory and returns their paths.
fn unpack(archive: &Path, into: &Path) -> Vec<PathBuf> {
    let list = run(tool("tar").args(["--quoting-style=literal", "-tf"]).arg(archive)).ok().stdout;
    let names: Vec<&str> = list.lines().filter(|name| is_dockerfile(name)).collect();
    let wanted = into.join("wanted");
    fs::create_dir_all(into).expect("make a directory");
    fs::write(&wanted, names.join("\n")).expect("write the list");
    let mut tar = tool("tar");
    tar.args(["--no-same-owner", "--verbatim-files-from", "-xf"]).arg(archive).arg("-C").arg(into);
    run(tar.arg("-T").arg(&wanted)).ok();
    let paths = names.iter().map(|name| into.join(name.trim_start_matches("./")));
    // Links lead to others of them.
    paths.filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_file())).collect()
}

/// The images that a build asked for.
fn images(done: &Done) -> BTreeSet<String> {
    let asked = |line: &str| line.split_once("] load metadata for ").map(|(_, name)| name.to_owned());
    done.stderr.lines().filter_map(asked).collect()
}

/// The bases that are written without variables and are no stages.
fn plain_bases(syntax: &str) -> BTreeSet<String> {
    let tree: Value = serde_json::from_str(syntax).expect("`builder parse` writes JSON");
    let stages = tree["dockerfile"]["stages"].as_array().map_or(&[][..], Vec::as_slice);
    let all = |pointer: &str| -> BTreeSet<String> {
        let texts = stages.iter().filter_map(|stage| stage.pointer(pointer)?.as_str());
        texts.map(str::to_owned).collect()
    };
    let names = all("/from/kind/alias/name");
    let bases = all("/from/kind/base/text").into_iter();
    bases
        .filter(|base| !base.contains('$') && base != "scratch" && !names.contains(&base.to_lowercase()))
        .collect()
}

/// Lowers a Dockerfile for its last stage: every base is busybox, nothing is fetched, nothing is built. `known` are some of them.
fn lower(home: &Home, dockerfile: &Path, context: &Path, mut known: BTreeSet<String>) -> Done {
    let busybox = base("busybox");
    loop {
        let mut outline = Command::new(binary());
        outline.env("BUILDER_HOME", home.path()).args(["build", "--call=outline", "--progress=plain", "-f"]);
        outline.arg(dockerfile).arg(context);
        outline.args(ARGUMENTS.iter().map(|argument| format!("--build-arg={argument}")));
        for image in &known {
            outline.arg(format!("--build-context={image}=oci-layout://{}", busybox.display()));
        }
        // Which images there are is read from what is asked for; nobody shall answer.
        outline.envs(["HTTP_PROXY", "HTTPS_PROXY"].map(|name| (name, "http://127.0.0.1:1")));
        let done = run(&mut outline);
        let asked: BTreeSet<String> = &images(&done) | &known;
        if done.code == Some(0) || asked == known {
            return done;
        }
        known = asked;
    }
}

#[test]
fn dockerfiles_of_well_known_programs() {
    let sources = std::env::var_os("BUILDER_SOURCES").map(PathBuf::from);
    let sources = sources.expect(
        "BUILDER_SOURCES is not set: `cargo xtask test` fetches the source packages and says why not",
    );
    let pins =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("sources.tsv")).expect("read the pins");
    let dir = tempdir();
    let mut packages: BTreeMap<&str, usize> = BTreeMap::new();
    let mut all: Vec<PathBuf> = Vec::new();
    for line in pins.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let found = unpack(&sources.join(columns[1]), &dir.path().join(columns[1]));
        *packages.entry(columns[0]).or_default() += found.len();
        all.extend(found);
    }
    assert!(packages.len() >= 20 && packages.values().all(|count| *count > 0), "{packages:#?}");
    assert!(all.len() >= 400, "{} Dockerfiles", all.len());

    let home = Home::new();
    let context = tempdir();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let refused = Mutex::new(BTreeSet::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(path) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let complain = |done: &Done| {
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).push(done.to_string());
                    };
                    let parsed = run(Command::new(binary()).args(["parse", "--format=json"]).arg(path));
                    let lowered = lower(&home, path, context.path(), plain_bases(&parsed.stdout));
                    match REFUSED.iter().find(|(end, _)| path.ends_with(end)) {
                        Some((end, message)) => {
                            refused.lock().unwrap_or_else(PoisonError::into_inner).insert(*end);
                            if lowered.code != Some(1) || !lowered.stderr.contains(message) {
                                complain(&lowered);
                            }
                        }
                        None if parsed.code != Some(0) => complain(&parsed),
                        None if lowered.code != Some(0) => complain(&lowered),
                        None => {}
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{} of {} Dockerfiles:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    let refused = refused.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(refused.len(), REFUSED.len(), "every exception is one: {refused:#?}");
    println!("{} Dockerfiles of {} packages", all.len(), packages.len());
}
