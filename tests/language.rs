//! The language, case by case: `testdata/language/*.cases`. Each case is a Dockerfile with its context, and beside it the layers, config
//! and history that it must give, or the mistakes that are found in it. They were compared with BuildKit's results when they were
//! written; with `BUILDKIT_HOST` set and `buildctl` in the path they are compared again.
//!
//! ```text
//! === name
//! context: NAME            filled by contexts/NAME.sh
//! arg: NAME=VALUE          a build argument; repeatable
//! ignore: PATTERN          a line of .dockerignore; repeatable
//! file: NAME               what the Dockerfile is called; `dockerfile` is found without being named
//! target: STAGE            what is built, if not the last stage
//! platform: PLATFORM       for what
//! label: NAME=VALUE        a label of the command line; repeatable
//! named: NAME=DIR          a named context, a directory of the context; repeatable
//! secret: NAME=VALUE       a secret; repeatable
//! differs: ROW             BuildKit gives something else: the beginning of a row of docs/differences.md
//! --- Dockerfile
//! --- expect
//! ```
//!
//! `UPDATE_EXPECT=1` writes expectations anew: read them before you keep them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use e2e::{Context, Done, Home, Image, Tree, base, need_root, run, tempdir, tool};
use serde_json::Value;

/// One case, as it stands in its file.
#[derive(Clone, Default)]
struct Case {
    name: String,
    context: Option<String>,
    args: Vec<String>,
    ignore: Vec<String>,
    file: Option<String>,
    target: Option<String>,
    platform: Option<String>,
    labels: Vec<String>,
    named: Vec<String>,
    secrets: Vec<String>,
    differs: Option<String>,
    dockerfile: String,
    expect: String,
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/language")
}

fn files() -> Vec<PathBuf> {
    let entries = fs::read_dir(testdata()).expect("list the cases");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cases"));
    files.sort();
    files
}

fn parse(path: &Path) -> Vec<Case> {
    let text = fs::read_to_string(path).expect("read the cases");
    let blocks = text.split("=== ").skip(1);
    blocks.map(|block| parse_case(block, path)).collect()
}

fn parse_case(block: &str, path: &Path) -> Case {
    let wrong = || panic!("{}: a case is not in its form: {block}", path.display());
    let (head, rest) = block.split_once("--- Dockerfile\n").unwrap_or_else(wrong);
    let (dockerfile, expect) = rest.split_once("--- expect\n").unwrap_or_else(wrong);
    let mut lines = head.lines();
    let mut case = Case {
        name: lines.next().unwrap_or_default().to_owned(),
        dockerfile: dockerfile.to_owned(),
        expect: expect.trim_end_matches('\n').to_owned() + "\n",
        ..Case::default()
    };
    for line in lines {
        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{}: {line}", case.name));
        let value = value.to_owned();
        match key {
            "context" => case.context = Some(value),
            "arg" => case.args.push(value),
            "ignore" => case.ignore.push(value),
            "file" => case.file = Some(value),
            "target" => case.target = Some(value),
            "platform" => case.platform = Some(value),
            "label" => case.labels.push(value),
            "named" => case.named.push(value),
            "secret" => case.secrets.push(value),
            "differs" => case.differs = Some(value),
            _ => panic!("{}: {key}", case.name),
        }
    }
    case
}

fn written(cases: &[Case]) -> String {
    let mut text = String::new();
    for case in cases {
        let _ = writeln!(text, "=== {}", case.name);
        let mut line = |key: &str, value: &String| {
            let _ = writeln!(text, "{key}: {value}");
        };
        case.context.iter().for_each(|value| line("context", value));
        case.args.iter().for_each(|value| line("arg", value));
        case.ignore.iter().for_each(|value| line("ignore", value));
        case.file.iter().for_each(|value| line("file", value));
        case.target.iter().for_each(|value| line("target", value));
        case.platform.iter().for_each(|value| line("platform", value));
        case.labels.iter().for_each(|value| line("label", value));
        case.named.iter().for_each(|value| line("named", value));
        case.secrets.iter().for_each(|value| line("secret", value));
        case.differs.iter().for_each(|value| line("differs", value));
        let _ = writeln!(text, "--- Dockerfile\n{}--- expect\n{}", case.dockerfile, case.expect);
    }
    text
}

impl Case {
    fn prepare(&self) -> Context {
        let context = Context::new(&self.dockerfile);
        if let Some(name) = &self.file {
            fs::remove_file(context.path().join("Dockerfile")).expect("remove a file");
            context.write(name, &self.dockerfile);
        }
        if let Some(name) = &self.context {
            let script = testdata().join("contexts").join(format!("{name}.sh"));
            run(Command::new("sh").arg("-e").arg(script).current_dir(context.path())).ok();
        }
        if !self.ignore.is_empty() {
            context.write(".dockerignore", self.ignore.join("\n") + "\n");
        }
        context
    }

    /// The secrets as files of a directory, by name.
    fn secrets(&self, dir: &Path) -> Vec<(&str, PathBuf)> {
        let written = self.secrets.iter().map(|secret| {
            let (name, value) = secret.split_once('=').expect("a secret has a value");
            let path = dir.join(format!("secret.{name}"));
            fs::write(&path, value).expect("write a secret");
            (name, path)
        });
        written.collect()
    }

    /// The named contexts: name and directory.
    fn named<'a>(&'a self, context: &'a Context) -> impl Iterator<Item = (&'a str, PathBuf)> {
        let pairs = self.named.iter().map(|named| named.split_once('=').expect("a context has a directory"));
        pairs.map(|(name, dir)| (name, context.path().join(dir)))
    }

    fn flags(&self, context: &Context, dir: &Path) -> Vec<String> {
        let mut flags: Vec<String> = self.args.iter().map(|arg| format!("--build-arg={arg}")).collect();
        // This name is found without being told.
        let file = self.file.iter().filter(|name| *name != "dockerfile");
        flags.extend(file.map(|name| format!("--file={}", context.path().join(name).display())));
        flags.extend(self.target.iter().map(|name| format!("--target={name}")));
        flags.extend(self.platform.iter().map(|platform| format!("--platform={platform}")));
        flags.extend(self.labels.iter().map(|label| format!("--label={label}")));
        let named = self.named(context);
        flags.extend(named.map(|(name, dir)| format!("--build-context={name}={}", dir.display())));
        let secrets = self.secrets(dir).into_iter();
        flags.extend(secrets.map(|(name, path)| format!("--secret=id={name},src={}", path.display())));
        flags
    }

    /// What our builder makes of it.
    fn ours(&self, home: &Home, known: &Known) -> String {
        let context = self.prepare();
        let dir = tempdir();
        let layout = dir.path().join("layout");
        let output = format!("type=oci,tar=false,name=case:latest,dest={}", layout.display());
        let done = run(home.build(&context).args(["-o", &output]).args(self.flags(&context, dir.path())));
        let result = result(&done, || Image::open(layout, Some(dir)), known);
        let bases = base("busybox");
        let bases = bases.parent().expect("a directory of base images");
        result
            .replace(&format!("{}/", context.path().display()), "")
            .replace(&format!("{}/", bases.display()), "")
    }

    /// What BuildKit makes of it.
    fn buildkit(&self, known: &Known) -> String {
        let context = self.prepare();
        let dir = tempdir();
        let tar = dir.path().join("image.tar");
        let mut build = tool("buildctl");
        build.args(["build", "--frontend=dockerfile.v0", "--progress=plain", "--no-cache"]);
        for name in ["context", "dockerfile"] {
            build.arg(format!("--local={name}={}", context.path().display()));
        }
        let digest = e2e::json(&base("busybox").join("index.json"))["manifests"][0]["digest"].clone();
        let digest = digest.as_str().expect("a digest").to_owned();
        build.arg(format!("--oci-layout=busybox={}", base("busybox").display()));
        build.arg(format!("--opt=context:busybox=oci-layout://busybox@{digest}"));
        build.args(self.args.iter().map(|arg| format!("--opt=build-arg:{arg}")));
        let file = self.file.iter().filter(|name| *name != "dockerfile");
        build.args(file.map(|name| format!("--opt=filename={name}")));
        build.args(self.target.iter().map(|name| format!("--opt=target={name}")));
        build.args(self.platform.iter().map(|platform| format!("--opt=platform={platform}")));
        build.args(self.labels.iter().map(|label| format!("--opt=label:{label}")));
        for (name, dir) in self.named(&context) {
            build.arg(format!("--local={name}={}", dir.display()));
            build.arg(format!("--opt=context:{name}=local:{name}"));
        }
        let secrets = self.secrets(dir.path()).into_iter();
        build.args(secrets.map(|(name, path)| format!("--secret=id={name},src={}", path.display())));
        build.arg(format!("--output=type=oci,name=case:latest,dest={}", tar.display()));
        let done = run(&mut build);
        let open = || {
            let layout = dir.path().join("layout");
            fs::create_dir(&layout).expect("make a directory");
            run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&layout)).ok();
            Image::open(layout, None)
        };
        result(&done, open, known)
    }
}

/// What the base image brings, to be left out.
struct Known {
    layers: BTreeSet<String>,
    history: Vec<Value>,
}

impl Known {
    fn new() -> Known {
        let image = Image::open(base("busybox"), None);
        let ids = image.config["rootfs"]["diff_ids"].as_array().expect("diff ids").iter();
        let history = image.config["history"].as_array().cloned().unwrap_or_default();
        Known { layers: ids.map(|id| id.as_str().expect("a digest").to_owned()).collect(), history }
    }
}

/// A result as text.
fn result(done: &Done, open: impl FnOnce() -> Image, known: &Known) -> String {
    if done.code != Some(0) {
        assert!(!done.stderr.contains("panicked"), "{done}");
        return "fails\n".to_owned() + &messages(&done.stderr);
    }
    let image = open();
    let mut text = String::new();
    // BuildKit writes null where there are none.
    let ids = image.config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
    let layers = if ids.is_empty() { Vec::new() } else { image.layers() };
    for (layer, id) in layers.iter().zip(&ids) {
        if known.layers.contains(id.as_str().unwrap_or_default()) {
            continue;
        }
        text.push_str("layer\n");
        for (path, node) in &Tree::from_tar(layer).0 {
            let _ = write!(text, "  /{path} {} {:04o} {}:{}", node.kind, node.mode, node.uid, node.gid);
            let _ = match node.kind.as_str() {
                "symlink" => write!(text, " -> {}", node.content),
                "file" => write!(text, " {}", &node.content[..12]),
                _ => Ok(()),
            };
            if let Some(first) = node.links.as_ref().filter(|first| *first != path) {
                let _ = write!(text, " = /{first}");
            }
            for (name, value) in &node.xattrs {
                let _ = write!(text, " {name}={value:02x?}");
            }
            text.push('\n');
        }
    }
    let mut config = image.config["config"].clone();
    if let Some(config) = config.as_object_mut() {
        // A null and an absent field are the same.
        config.retain(|_, value| !value.is_null());
    }
    let config: std::collections::BTreeMap<String, Value> =
        serde_json::from_value(config).expect("a config is an object");
    let _ = writeln!(text, "config {}", serde_json::to_string(&config).expect("JSON"));
    if let Some(author) = image.config["author"].as_str() {
        let _ = writeln!(text, "author {author}");
    }
    for entry in image.config["history"].as_array().unwrap_or(&Vec::new()) {
        if !known.history.contains(entry) {
            let empty = if entry["empty_layer"] == true { " (empty)" } else { "" };
            let _ = writeln!(text, "history{empty} {}", entry["created_by"].as_str().unwrap_or_default());
        }
    }
    text
}

/// What a failed build says: its mistakes, or what went wrong.
fn messages(stderr: &str) -> String {
    let lines = |start: &str| -> String {
        let found = stderr.lines().filter_map(|line| line.strip_prefix(start));
        found.map(|message| format!("  {message}\n")).collect()
    };
    let mistakes = lines("error: ");
    if mistakes.is_empty() { lines("ERROR: failed to build: ") } else { mistakes }
}

/// Whether both failed, with whatever words, or gave the same.
fn same(ours: &str, theirs: &str) -> bool {
    let failed = |result: &str| result.starts_with("fails\n");
    ours == theirs || (failed(ours) && failed(theirs))
}

/// Two at a time: as many as the smallest machine has processors.
fn in_parallel(cases: &mut [Case], work: impl Fn(&mut Case) + Sync) {
    let next = AtomicUsize::new(0);
    let cells: Vec<Mutex<&mut Case>> = cases.iter_mut().map(Mutex::new).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(&mut cell.lock().expect("a case"));
                }
            });
        }
    });
}

#[test]
fn every_case_gives_what_stands_beside_it() {
    need_root();
    let known = Known::new();
    let home = Home::new();
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let wrong = Mutex::new(Vec::new());
    let mut count = 0;
    for file in files() {
        let mut cases = parse(&file);
        count += cases.len();
        in_parallel(&mut cases, |case| {
            let found = case.ours(&home, &known);
            if found != case.expect {
                let message = format!("--- {}: expected\n{}--- found\n{found}", case.name, case.expect);
                wrong.lock().expect("a list").push(message);
                case.expect = found;
            }
        });
        if update {
            fs::write(&file, written(&cases)).expect("write the cases");
        }
    }
    let wrong = wrong.into_inner().expect("a list");
    assert!(count >= 500, "{count} cases");
    assert!(update || wrong.is_empty(), "{} of {count} cases differ\n{}", wrong.len(), wrong.concat());
}

/// Where BuildKit is at hand.
#[test]
fn buildkit_gives_the_same() {
    if std::env::var_os("BUILDKIT_HOST").is_none() {
        println!("BUILDKIT_HOST is not set: not compared with BuildKit");
        return;
    }
    let known = Known::new();
    let wrong = Mutex::new(Vec::new());
    for file in files() {
        let mut cases = parse(&file);
        in_parallel(&mut cases, |case| {
            let theirs = case.buildkit(&known);
            let message = match (&case.differs, same(&case.expect, &theirs)) {
                (None, false) => format!("--- {}: here\n{}--- BuildKit\n{theirs}", case.name, case.expect),
                (Some(why), true) => format!("--- {}: does not differ: {why}\n", case.name),
                _ => return,
            };
            wrong.lock().expect("a list").push(message);
        });
    }
    let wrong = wrong.into_inner().expect("a list");
    assert!(wrong.is_empty(), "{} cases\n{}", wrong.len(), wrong.concat());
}
