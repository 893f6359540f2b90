//! The language, case by case: `testdata/language/*.cases`. Each case is a Dockerfile with its context, and beside it the layers, config
//! and history that it must give, or the mistakes that are found in it. They were compared with BuildKit's results when they were
//! written; with `BUILDKIT_HOST` set and `buildctl` in the path they are compared again. `tests/buildah.rs` builds those that Buildah
//! understands with Buildah.
//!
//! ```text
//! === name
//! context: NAME            filled by contexts/NAME.sh
//! arg: NAME=VALUE          a build argument; repeatable
//! ignore: PATTERN          a line of .dockerignore; repeatable
//! file: NAME               what the Dockerfile is called; `dockerfile` is found without being named
//! target: STAGE            what is built, if not the last stage
//! platform: PLATFORM       for what
//! served: DIR              a directory of the context, given out at `$HTTP` and, its repositories, at `$GIT`
//! given: FORM              the context as `tar` or `dockerfile` on standard input, by `http`, or by `git`, with `#ref:dir` after it
//! label: NAME=VALUE        a label of the command line; repeatable
//! named: NAME=DIR          a named context, a directory of the context; repeatable
//! secret: NAME=VALUE       a secret; repeatable
//! differs: ROW             BuildKit gives something else: the beginning of a row of docs/differences.md
//! --- Dockerfile
//! --- expect
//! ```
//!
//! `UPDATE_EXPECT=1` writes expectations anew: read them before you keep them.
//!
//! Each case is built without one fast path (`BUILDER_DISABLE`), or with all of them, in turn: what stands beside it knows of none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use e2e::{Case, Context, Done, Home, Image, Served, Tree, base, in_parallel, need_root, run, tempdir, tool};
use serde_json::Value;

/// What a case gives.
trait Results {
    fn ours(&self, home: &Home, known: &Known, without: &str) -> String;
    fn buildkit(&self, known: &Known) -> String;
}

impl Results for Case {
    /// What our builder makes of it without a fast path.
    fn ours(&self, home: &Home, known: &Known, without: &str) -> String {
        let context = self.prepare();
        let dir = tempdir();
        let around = Around::new(self, &context, dir.path());
        let layout = dir.path().join("layout");
        let output = format!("type=oci,tar=false,name=case:latest,dest={}", layout.display());
        let mut build = match self.given.as_deref() {
            None => home.build(&context),
            Some("tar" | "dockerfile") => home.build("-"),
            Some(_) => home.build(&around.context(self)),
        };
        build.env("BUILDER_DISABLE", without);
        build.args(["-o", &output]).args(around.args()).args(self.flags(&context, dir.path()));
        let done = match self.given.as_deref() {
            Some("tar") => run(&mut reading(&build, &dir.path().join("given/context.tar.gz"))),
            Some("dockerfile") => run(&mut reading(&build, &context.path().join("Dockerfile"))),
            _ => run(&mut build),
        };
        let result = result(&done, || Image::open(layout, Some(dir)), known);
        let bases = base("busybox");
        let bases = bases.parent().expect("a directory of base images");
        around
            .unnamed(&result)
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
        let around = Around::new(self, &context, dir.path());
        if self.given.is_none() {
            for name in ["context", "dockerfile"] {
                build.arg(format!("--local={name}={}", context.path().display()));
            }
        } else {
            // It takes from standard input what its client serves by HTTP.
            build.arg(format!("--opt=context={}", around.context(self)));
        }
        build.args(around.args().iter().map(|arg| arg.replace("--build-arg=", "--opt=build-arg:")));
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
        around.unnamed(&result(&done, open, known))
    }
}

/// What a case needs beside its context: servers.
struct Around {
    served: Option<Served>,
    given: Option<Served>,
}

impl Around {
    fn new(case: &Case, context: &Context, dir: &Path) -> Around {
        let served = case.served.as_ref().map(|name| Served::new(&context.path().join(name)));
        let given = case.given.is_some().then(|| {
            let script = r#"mkdir "$1"; tar -C "$0" -czf "$1/context.tar.gz" .; cp "$0/Dockerfile" "$1"; cp -a "$0" "$1/context"
                cd "$1/context"; git init -q -b main; git add -A; git -c user.name=x -c user.email=x commit -q -m x"#;
            let given = dir.join("given");
            run(Command::new("sh").args(["-ec", script]).arg(context.path()).arg(&given)).ok();
            Served::new(&given)
        });
        Around { served, given }
    }

    /// The address of a context that is given by one.
    fn context(&self, case: &Case) -> String {
        let server = self.given.as_ref().expect("only where the context is given so");
        match case.given.as_deref().unwrap_or_default() {
            "dockerfile" => format!("{}/Dockerfile", server.http()),
            "tar" | "http" => format!("{}/context.tar.gz", server.http()),
            git => {
                format!("{}/context{}", server.git(), git.strip_prefix("git").expect("a form that is known"))
            }
        }
    }

    fn args(&self) -> Vec<String> {
        let of = |served: &Served| {
            [format!("--build-arg=HTTP={}", served.http()), format!("--build-arg=GIT={}", served.git())]
        };
        self.served.iter().flat_map(of).collect()
    }

    fn unnamed(&self, text: &str) -> String {
        let servers = self.served.iter().chain(&self.given);
        servers.fold(text.to_owned(), |text, server| server.unnamed(&text))
    }
}

/// The same command with a file as standard input.
fn reading(command: &Command, file: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec "$0" "$@" <"$STANDARD_INPUT""#]).env("STANDARD_INPUT", file);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
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

/// The fast paths, as the program itself tells them, and none.
fn fast_paths(home: &Home) -> Vec<String> {
    let told = run(home.build(&Context::new("FROM busybox\n")).env("BUILDER_DISABLE", "?")).code_is(2).stderr;
    let told = told.split("there are ").nth(1).and_then(|rest| rest.split(';').next()).expect("a list");
    let paths = told.replace(" and ", ", ");
    paths.split(", ").chain([""]).map(str::to_owned).collect()
}

/// Cases that an overlay and a copy do not give alike (`README.md` says so of `BUILDER_DISABLE`), each with the reason: on an overlay a
/// change of one of several names of a file of a lower layer parts it from the others, in a copy all of them change.
const TELL_A_COPY: [(&str, &str); 4] = [
    ("hard_link_to_lower_file", "a further name of one of two: all three are in the layer"),
    ("hard_links_chmod", "the mode of one of three: all three are in the layer"),
    ("hard_link_removed", "one of three is removed: the two that are left have fewer names than before"),
    ("link_then_remove", "one of two is removed: the one that is left has fewer names than before"),
];

#[test]
fn every_case_gives_what_stands_beside_it() {
    need_root();
    let known = Known::new();
    let home = Home::new();
    let paths = fast_paths(&home);
    assert!(paths.len() >= 6, "{paths:?}");
    // How many cases there were without each.
    let times = Mutex::new(BTreeMap::<String, usize>::new());
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let wrong = Mutex::new(Vec::new());
    let mut count = 0;
    for file in Case::files() {
        let mut cases = Case::read(&file);
        let mut turns: Vec<(usize, &mut Case)> = (count..).zip(&mut cases).collect();
        count += turns.len();
        in_parallel(&mut turns, |_, (turn, case)| {
            let mut without = &paths[*turn % paths.len()];
            if without == "overlay" && TELL_A_COPY.iter().any(|(name, _)| *name == case.name) {
                without = &paths[(*turn + 1) % paths.len()];
            }
            *times.lock().expect("a map").entry(without.clone()).or_default() += 1;
            let found = case.ours(&home, &known, without);
            if found != case.expect {
                let message = format!(
                    "--- {} without {without:?}: expected\n{}--- found\n{found}",
                    case.name, case.expect
                );
                wrong.lock().expect("a list").push(message);
                case.expect = found;
            }
        });
        if update {
            Case::write(&file, &cases);
        }
    }
    let (wrong, times) = (wrong.into_inner().expect("a list"), times.into_inner().expect("a map"));
    assert!(count >= 500, "{count} cases");
    let often = |path: &String| times.get(path).is_some_and(|times| *times >= 80);
    assert!(paths.iter().all(often), "of {paths:?}: {times:?}");
    assert!(update || wrong.is_empty(), "{} of {count} cases differ\n{}", wrong.len(), wrong.concat());
}

/// Where BuildKit is at hand. `CASE` says which: those with that in their name.
#[test]
fn buildkit_gives_the_same() {
    if std::env::var_os("BUILDKIT_HOST").is_none() {
        println!("BUILDKIT_HOST is not set: not compared with BuildKit");
        return;
    }
    let only = std::env::var("CASE").unwrap_or_default();
    let known = Known::new();
    let wrong = Mutex::new(Vec::new());
    for file in Case::files() {
        let mut cases = Case::read(&file);
        cases.retain(|case| case.name.contains(&only));
        in_parallel(&mut cases, |_, case| {
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
