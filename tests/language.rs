//! The language, case by case: `testdata/language/*.cases`. Each case is a Dockerfile with its context, and beside it the layers, config
//! and history that it must give, or that it must fail. They were compared with BuildKit's results when they were written; with
//! `BUILDKIT_HOST` set and `buildctl` in the path they are compared again. `tests/buildah.rs` builds those that Buildah
//! understands with Buildah.
//!
//! ```text
//! === name
//! context: NAME            filled by contexts/NAME.sh
//! arg: NAME=VALUE          a build argument; repeatable
//! ignore: PATTERN          a line of .dockerignore; repeatable
//! differs: WHY             BuildKit gives something else, see docs/differences.md
//! buildah: WHY             not compared with Buildah 1.28
//! --- Dockerfile
//! --- expect
//! ```
//!
//! `UPDATE_EXPECT=1` writes expectations anew: read them before you keep them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::sync::Mutex;

use e2e::{Case, Done, Home, Image, Tree, base, in_parallel, need_root, run, tempdir, tool};
use serde_json::Value;

/// What a case gives.
trait Results {
    fn ours(&self, home: &Home, known: &Known) -> String;
    fn buildkit(&self, known: &Known) -> String;
}

impl Results for Case {
    /// What our builder makes of it.
    fn ours(&self, home: &Home, known: &Known) -> String {
        let context = self.prepare();
        let dir = tempdir();
        let layout = dir.path().join("layout");
        let output = format!("type=oci,tar=false,name=case:latest,dest={}", layout.display());
        let done = run(home.build(&context).args(["-o", &output]).args(self.build_args()));
        result(&done, || Image::open(layout, Some(dir)), known)
    }

    /// What BuildKit makes of it.
    fn buildkit(&self, known: &Known) -> String {
        let context = self.prepare();
        let dir = tempdir();
        let tar = dir.path().join("image.tar");
        let mut build = tool("buildctl");
        build.args(["build", "--frontend=dockerfile.v0", "--progress=plain"]);
        for name in ["context", "dockerfile"] {
            build.arg(format!("--local={name}={}", context.path().display()));
        }
        let digest = e2e::json(&base("busybox").join("index.json"))["manifests"][0]["digest"].clone();
        let digest = digest.as_str().expect("a digest").to_owned();
        build.arg(format!("--oci-layout=busybox={}", base("busybox").display()));
        build.arg(format!("--opt=context:busybox=oci-layout://busybox@{digest}"));
        build.args(self.args.iter().map(|arg| format!("--opt=build-arg:{arg}")));
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
        return "fails\n".to_owned();
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

#[test]
fn every_case_gives_what_stands_beside_it() {
    need_root();
    let known = Known::new();
    let home = Home::new();
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let wrong = Mutex::new(Vec::new());
    let mut count = 0;
    for file in Case::files() {
        let mut cases = Case::read(&file);
        count += cases.len();
        in_parallel(&mut cases, |_, case| {
            let found = case.ours(&home, &known);
            if found != case.expect {
                let message = format!("--- {}: expected\n{}--- found\n{found}", case.name, case.expect);
                wrong.lock().expect("a list").push(message);
                case.expect = found;
            }
        });
        if update {
            Case::write(&file, &cases);
        }
    }
    let wrong = wrong.into_inner().expect("a list");
    assert!(count >= 150, "{count} cases");
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
    for file in Case::files() {
        let mut cases = Case::read(&file);
        in_parallel(&mut cases, |_, case| {
            let theirs = case.buildkit(&known);
            let message = match (&case.differs, theirs == case.expect) {
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
