//! The cache is never wrong: whatever was built before, a build gives the image that an empty state directory gives, byte for byte. And
//! nothing is explained wrongly: what is named as the cause of a miss, undone, makes the step hit.
//!
//! Each round edits one thing or two: files of the context, the Dockerfile, build arguments, the base image, the target, options. The same
//! state directory builds through a whole series of edits, now and then beside another process that builds the same or removes what is in
//! nobody's use; a new one builds once, and is then asked to explain the next edit.
//!
//! One of the two builds does without a fast path (`BUILDER_DISABLE`), drawn in each round.
//!
//! `BUILDER_FUZZ_SEED` repeats a run, `BUILDER_FUZZ_ROUNDS` and `BUILDER_FUZZ_SECONDS` (default 20) end it. `cargo xtask long fuzz-cache` is
//! the long form.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use e2e::fuzz::{PATHS, Random, dockerfile, edit_context, edit_dockerfile, fill};
use e2e::{Context, Done, Home, Image, base, run, tempdir, tool};
use serde_json::Value;
use tempfile::TempDir;

/// So many builds go through one state directory before the next Dockerfile.
const SERIES: u64 = 12;

fn number_from(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// All that a build is made from, but the files of its context.
#[derive(Debug, Clone)]
struct Inputs {
    dockerfile: String,
    args: BTreeMap<&'static str, String>,
    /// Which of the base images is called busybox.
    base: usize,
    target: Option<&'static str>,
}

/// What an edit was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Something whose consequences are explained.
    Explained,
    /// The target, the ignore file or another context: other steps, or others of the same files.
    Other,
}

struct Fuzz {
    dir: TempDir,
    bases: [PathBuf; 2],
    /// The names of the fast paths (`BUILDER_DISABLE`).
    fast_paths: Vec<String>,
    /// The one without which a build does; mostly none.
    without: String,
    story: Vec<String>,
    explained: u64,
}

impl Fuzz {
    fn new() -> Self {
        let dir = tempdir();
        let other = dir.path().join("other");
        let context = Context::new("FROM busybox\nRUN echo other > /etc/other\n");
        let output = format!("type=oci,tar=false,dest={}", other.display());
        run(Home::new().build(&context).args(["-o", &output])).ok();
        // As the program itself tells them.
        let told = run(Home::new().build(&context).env("BUILDER_DISABLE", "?")).code_is(2).stderr;
        let told = told.split("there are ").nth(1).and_then(|rest| rest.split(';').next()).expect("a list");
        let mut fast_paths: Vec<String> =
            told.replace(" and ", ", ").split(", ").map(str::to_owned).collect();
        assert!(fast_paths.len() >= 5, "{fast_paths:?}");
        // A step that changes one of several names of a file parts them on an overlay, as everywhere where there is one, and not in a copy.
        fast_paths.retain(|path| path != "overlay");
        let (bases, without) = ([base("busybox"), other], String::new());
        Self { dir, bases, fast_paths, without, story: Vec::new(), explained: 0 }
    }

    /// The image as one of the fast paths left out makes it.
    fn image_without(
        &mut self,
        path: usize,
        home: &Home,
        inputs: &Inputs,
        options: &[&str],
    ) -> Result<Image, Done> {
        self.without = self.fast_paths[path % self.fast_paths.len()].clone();
        self.story.push(format!("without {}", self.without));
        let image = self.image(home, inputs, options);
        self.without.clear();
        image
    }

    fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    /// A context that has a name.
    fn more(&self) -> PathBuf {
        self.dir.path().join("more")
    }

    fn build(&self, home: &Home, context: &Path, inputs: &Inputs) -> Command {
        // Not in the context: an edit of it is to be one edit.
        let file = self.dir.path().join("Dockerfile");
        fs::write(&file, &inputs.dockerfile).expect("write the Dockerfile");
        let mut build = home.builder("build");
        build.arg("--build-context");
        build.arg(format!("busybox=oci-layout://{}", self.bases[inputs.base].display()));
        build.arg(format!("--build-context=more={}", self.more().display()));
        build
            .env("SOURCE_DATE_EPOCH", "0")
            .env("BUILDER_DISABLE", &self.without)
            .arg("--progress=plain")
            .arg("-f")
            .arg(&file);
        build.args(inputs.args.iter().map(|(name, value)| format!("--build-arg={name}={value}")));
        build.args(inputs.target.iter().map(|target| format!("--target={target}")));
        build.arg(context);
        build
    }

    fn image(&self, home: &Home, inputs: &Inputs, options: &[&str]) -> Result<Image, Done> {
        let dir = tempdir();
        let layout = dir.path().join("layout");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let done = run(self.build(home, &self.context(), inputs).args(options).args(["-o", &output]));
        match done.code {
            Some(0) => Ok(Image::open(layout, Some(dir))),
            Some(1) => Err(done),
            _ => self.fail(inputs, &format!("neither built nor failed\n{done}")),
        }
    }

    /// Begins a build of the same in another process, which may keep next to nothing in the cache.
    fn beside(&self, home: &Home, inputs: &Inputs, removes: bool) -> Child {
        let mut build = self.build(home, &self.context(), inputs);
        if removes {
            build.env("BUILDER_MAX_USED_SPACE", "1000000").env("BUILDER_RESERVED_SPACE", "0");
        }
        build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a build")
    }

    fn fail(&self, inputs: &Inputs, what: &str) -> ! {
        let (mut before, mut files) = (String::new(), String::new());
        list(&self.dir.path().join("before"), &mut before);
        list(&self.context(), &mut files);
        let story = self.story.join("\n");
        panic!(
            "{what}\n--- story\n{story}\n--- inputs {inputs:#?}\n--- context before\n{before}\n--- context\n{files}"
        )
    }

    /// Both have one image, or both fail.
    fn compare(&self, inputs: &Inputs, got: &Result<Image, Done>, want: &Result<Image, Done>) -> bool {
        match (got, want) {
            (Ok(got), Ok(want)) if got.digest == want.digest => true,
            (Ok(got), Ok(want)) => {
                let mut report = format!("another image than a clean build's\n{:#}\n", got.config);
                let _ = writeln!(report, "instead of\n{:#}", want.config);
                for difference in got.tree().differences(&want.tree()) {
                    let _ = writeln!(report, "{difference}");
                }
                for (number, (got, want)) in got.layers().iter().zip(want.layers()).enumerate() {
                    if *got != want {
                        let (got, want) = (entries(got), entries(&want));
                        let other = got.iter().zip(&want).find(|(got, want)| got != want);
                        let _ =
                            writeln!(report, "layer {number}: {other:?}, {} and {}", got.len(), want.len());
                    }
                }
                self.fail(inputs, &report)
            }
            (Err(_), Err(_)) => false,
            (Ok(_), Err(error)) => self.fail(inputs, &format!("a clean build fails: {error}")),
            (Err(error), Ok(_)) => self.fail(inputs, &format!("only a clean build succeeds: {error}")),
        }
    }

    /// What is kept of the last build.
    fn record(&self, home: &Home) -> Value {
        let told = run(home.builder("history").args(["inspect", "--format=json"])).ok().stdout;
        serde_json::from_str(&told).expect("JSON")
    }

    /// Builds after an edit where everything before it was built just now, undoes what is named as the cause for one step, and builds again.
    fn explain(&mut self, home: &Home, before: (&Path, &Inputs), now: &Inputs, random: &mut Random) {
        let earlier = self.record(home);
        if run(&mut self.build(home, &self.context(), now)).code != Some(0) {
            return;
        }
        let record = self.record(home);
        let steps = record["steps"].as_array().expect("a list");
        let of_earlier = earlier["steps"].as_array().expect("a list");
        let ran: Vec<usize> = (0..steps.len()).filter(|step| reason_of(&steps[*step]).is_some()).collect();
        if ran.is_empty() {
            return;
        }
        let step = ran[random.below(ran.len() as u64) as usize];
        let Some((name, reason)) = reason_of(&steps[step]) else { return };
        let (stage, title) = identity(name);
        let same = |step: &&Value| identity(step["name"].as_str().expect("a name")) == (stage, title);
        if steps.iter().filter(same).count() > 1 || of_earlier.iter().filter(same).count() > 1 {
            return;
        }
        self.story.push(format!("{name} ran because of {reason}"));
        self.explained += 1;
        if reason == "first_build" {
            if of_earlier.iter().any(|step| same(&step)) {
                self.fail(now, &format!("{name} was built before"));
            }
            return;
        }
        let mut below = BTreeSet::new();
        ancestors(steps, step, &mut below);
        // What ran below it, each for a reason of its own: all of that has to be undone.
        let is_first = |reason: &&Value| reason.get("input_changed").is_none();
        let of_below: Vec<&Value> =
            below.iter().filter_map(|step| Some(reason_of(&steps[*step])?.1)).filter(is_first).collect();
        let told = &reason["input_changed"]["cause"];
        if !told.is_null() && !of_below.contains(&told) {
            self.fail(now, &format!("{name} ran because of {reason}, which is said of no step below it"));
        }
        let mut causes = of_below.clone();
        if is_first(&reason) || causes.is_empty() {
            causes.push(reason);
        }
        // What is undone by doing nothing would hit as well: the build just now made it.
        if let Some(wrong) = causes.iter().find(|cause| !self.is_so(cause, before, now)) {
            self.fail(now, &format!("{name} ran because of {reason}, but {wrong} did not happen"));
        }
        let (context, inputs) = self.undo(&causes, before, now);
        let undone = run(&mut self.build(home, &context, &inputs));
        if undone.code != Some(0) {
            self.fail(now, &format!("{undone}"));
        }
        let record = self.record(home);
        let again = record["steps"].as_array().expect("a list").iter().find(same);
        if let Some(again) = again
            && let Some((_, why)) = reason_of(again)
        {
            let mut files = String::new();
            list(&context, &mut files);
            let what = format!(
                "{name} ran because of {reason}\nwith that undone it runs because of {why}\nin {inputs:#?}\n{files}"
            );
            self.fail(now, &what);
        }
        // With the others undone it must be what keeps the step from hitting.
        let is_of_files = |reason: &&Value| reason.get("content_changed").is_some();
        let known: BTreeSet<&str> = of_below.iter().flat_map(|reason| paths_of(reason)).collect();
        if of_below.is_empty()
            || !of_below.iter().all(&is_of_files)
            || !is_of_files(&reason)
            || paths_of(reason).any(|path| known.contains(path))
        {
            return;
        }
        let (context, inputs) = self.undo(&of_below, before, now);
        run(&mut self.build(home, &context, &inputs)).ok();
        let record = self.record(home);
        let again = record["steps"].as_array().expect("a list").iter().find(same);
        if again.is_some_and(|again| reason_of(again).is_none()) {
            self.fail(now, &format!("{name} ran because of {reason}, but hits without that being undone"));
        }
    }

    /// Whether what a reason names is different now.
    fn is_so(&self, reason: &Value, before: (&Path, &Inputs), now: &Inputs) -> bool {
        if reason.get("content_changed").is_some() {
            // A link may lead to another file that is as it was: not each path by itself.
            let (context, undone) = (self.context(), self.dir.path().join("undone"));
            let paths: Vec<&str> = paths_of(reason).collect();
            if paths.is_empty() {
                // It is only known that something is different.
                return held(before.0) != held(&context);
            }
            copy(&context, &undone);
            restore(&undone, before.0, &paths);
            return held(&undone) != held(&context);
        }
        let inputs = |inputs: &Inputs| (inputs.dockerfile.clone(), inputs.args.clone());
        match reason.get("image_changed") {
            Some(changed) if changed["old"] == changed["new"] => before.1.base != now.base,
            Some(_) => before.1.dockerfile != now.dockerfile,
            None => reason.get("op_changed").is_none() || inputs(before.1) != inputs(now),
        }
    }

    /// The inputs with what reasons name as it was before, and nothing else.
    fn undo(&mut self, reasons: &[&Value], before: (&Path, &Inputs), now: &Inputs) -> (PathBuf, Inputs) {
        let undone = self.dir.path().join("undone");
        copy(&self.context(), &undone);
        let mut inputs = now.clone();
        let mut paths = Vec::new();
        for reason in reasons {
            if let Some(changed) = reason.get("content_changed") {
                assert_eq!(changed["more"], 0, "the context is small");
                paths.extend(paths_of(reason));
            } else if reason.get("image_changed").is_some() {
                inputs.base = before.1.base;
            } else if let Some(changed) = reason.get("op_changed") {
                inputs.dockerfile.clone_from(&before.1.dockerfile);
                // Only a variable can have come from the command line.
                if changed["field"].as_str().expect("text").starts_with("ARG ") {
                    inputs.args.clone_from(&before.1.args);
                }
            } else if *reason == "first_build" || reason.get("input_changed").is_some() {
                inputs.dockerfile.clone_from(&before.1.dockerfile);
            } else {
                self.fail(now, &format!("{reason} cannot be the cause"));
            }
        }
        paths.sort_unstable();
        paths.dedup();
        restore(&undone, before.0, &paths);
        (undone, inputs)
    }

    fn edit(&mut self, inputs: &mut Inputs, random: &mut Random) -> Kind {
        let context = self.context();
        let (kind, what) = match random.below(14) {
            0..6 => (Kind::Explained, edit_context(&context, random)),
            6..9 => {
                edit_dockerfile(&mut inputs.dockerfile, random);
                (Kind::Explained, format!("the Dockerfile is\n{}", inputs.dockerfile))
            }
            9 => {
                let name = ["NAME", "OTHER"][random.below(2) as usize];
                match random.below(3) {
                    0 => drop(inputs.args.remove(name)),
                    value => drop(inputs.args.insert(name, value.to_string())),
                }
                (Kind::Explained, format!("arguments {:?}", inputs.args))
            }
            10 => {
                inputs.base = 1 - inputs.base;
                (Kind::Explained, format!("base image {}", inputs.base))
            }
            11 => {
                edit_sources(&mut inputs.dockerfile, random);
                (Kind::Explained, format!("with other sources the Dockerfile is\n{}", inputs.dockerfile))
            }
            12 => (Kind::Other, format!("of the other context: {}", edit_context(&self.more(), random))),
            _ if random.one_in(2) => {
                inputs.target = [None, Some("one"), Some("two")][random.below(3) as usize];
                (Kind::Other, format!("target {:?}", inputs.target))
            }
            _ => {
                let text = random.pick(&["", "d/a\n", "*\n!a\n!d\n", "**/x\n"]);
                fs::write(context.join(".dockerignore"), text).expect("write");
                (Kind::Other, format!("ignored {text:?}"))
            }
        };
        self.story.push(what);
        kind
    }
}

/// Makes a copy of something take other files of it, if there is one: not what is in them is different then.
fn edit_sources(dockerfile: &mut String, random: &mut Random) {
    const SOURCES: [(&str, &str); 9] = [
        ("COPY d /", "COPY e /"),
        ("COPY e /", "COPY d /"),
        ("COPY a b f ", "COPY a f "),
        ("COPY a f ", "COPY a b f "),
        ("--exclude=*a ", "--exclude=*b "),
        ("--from=one /etc ", "--from=one /bin "),
        ("--from=one / ", "--from=one /etc "),
        ("--from=busybox /etc ", "--from=busybox /root "),
        ("source=d,", "source=e,"),
    ];
    let first = random.below(SOURCES.len() as u64) as usize;
    let mut others = SOURCES.iter().cycle().skip(first).take(SOURCES.len());
    if let Some((old, new)) = others.find(|(old, _)| dockerfile.contains(old)) {
        *dockerfile = dockerfile.replacen(old, new, 1);
    }
}

/// The entries of a tar, raw.
fn entries(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    let mut entries = archive.entries().expect("a tar").raw(true);
    let header = |entry: tar::Entry<'_, &[u8]>| format!("{:?}", entry.header());
    entries.by_ref().map(|entry| header(entry.expect("an entry"))).collect()
}

/// Name and reason of a step that was executed.
fn reason_of(step: &Value) -> Option<(&str, &Value)> {
    let why = &step["outcome"]["ran"]["why"];
    (!why.is_null() && step["source"] == false).then(|| (step["name"].as_str().expect("a name"), why))
}

/// What a context holds: of each path the mode and an attribute, and what is no directory.
type Held = BTreeMap<PathBuf, (u32, Vec<u8>, Option<HeldFile>)>;

/// How many names it has, when it was written, what is in it or where it leads.
type HeldFile = (u64, (i64, i64), Vec<u8>);

fn held(context: &Path) -> Held {
    let mut found = Held::new();
    let mut waiting = vec![context.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).expect("stat");
        let (mode, value) = attributes(&path).expect("attributes");
        if metadata.is_dir() {
            waiting.extend(fs::read_dir(&path).expect("list").map(|entry| entry.expect("an entry").path()));
        }
        let file = (!metadata.is_dir()).then(|| {
            let bytes = match fs::read_link(&path) {
                Ok(target) => target.into_os_string().into_encoded_bytes(),
                Err(_) => fs::read(&path).expect("read"),
            };
            (metadata.nlink(), (metadata.mtime(), metadata.mtime_nsec()), bytes)
        });
        let path = path.strip_prefix(context).expect("below the context").to_owned();
        found.insert(path, (mode, value, file));
    }
    found
}

/// The mode and the attribute, if there is something.
fn attributes(path: &Path) -> Option<(u32, Vec<u8>)> {
    let mut value = [0; 16];
    let length = rustix::fs::lgetxattr(path, "user.test", &mut value).unwrap_or_default();
    Some((fs::symlink_metadata(path).ok()?.mode(), value[..length].to_vec()))
}

/// The files that a reason names.
fn paths_of(reason: &Value) -> impl Iterator<Item = &str> {
    let paths = reason["content_changed"]["paths"].as_array().into_iter().flatten();
    paths.map(|path| path["path"].as_str().expect("a path"))
}

/// The steps that a step stands on.
fn ancestors(steps: &[Value], step: usize, below: &mut BTreeSet<usize>) {
    for input in steps[step]["inputs"].as_array().expect("a list") {
        let input = input["step"].as_u64().expect("a number") as usize;
        if below.insert(input) {
            ancestors(steps, input, below);
        }
    }
}

/// Stage and instruction of `[two 3/4] RUN true`.
fn identity(name: &str) -> (&str, &str) {
    let (place, title) = name.split_once("] ").unwrap_or(("", name));
    (place.split(' ').next().unwrap_or_default(), title)
}

/// Copies a directory with all that its files are.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    run(tool("cp").arg("-a").arg(from).arg(to)).ok();
}

/// Makes these paths, in their order, what they were.
fn restore(context: &Path, before: &Path, paths: &[&str]) {
    for path in paths.iter().rev() {
        let at = context.join(path);
        let is_directory = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        match is_directory(&at) {
            true if is_directory(&before.join(path)) => {}
            // What is in it came with it.
            true => fs::remove_dir_all(&at).expect("remove"),
            false => drop(fs::remove_file(&at)),
        }
    }
    for path in paths {
        let (at, old) = (context.join(path), before.join(path));
        let Ok(metadata) = fs::symlink_metadata(&old) else { continue };
        if metadata.is_dir() {
            let _ = fs::create_dir(&at);
            fs::set_permissions(&at, metadata.permissions()).expect("set a mode");
            let (name, mut value, flags) = ("user.test", [0; 8], rustix::fs::XattrFlags::empty());
            match rustix::fs::getxattr(&old, name, &mut value[..]) {
                Ok(length) => rustix::fs::setxattr(&at, name, &value[..length], flags).expect("set"),
                Err(_) => drop(rustix::fs::removexattr(&at, name)),
            }
        } else {
            run(tool("cp").arg("-aT").arg(&old).arg(&at)).ok();
        }
    }
    // Names of one file are one again, unless the other one is not to be what it was.
    for path in paths {
        let Ok(old) = fs::symlink_metadata(before.join(path)) else { continue };
        let look = |path: PathBuf| (fs::read(&path).ok(), attributes(&path));
        let is_as_it_was = |other: &str| look(context.join(other)) == look(before.join(other));
        for other in PATHS.iter().filter(|other| **other != *path) {
            let linked = fs::symlink_metadata(before.join(other)).is_ok_and(|peer| peer.ino() == old.ino());
            if linked && old.is_file() && context.join(other).is_file() && is_as_it_was(other) {
                fs::remove_file(context.join(path)).expect("remove");
                fs::hard_link(context.join(other), context.join(path)).expect("link");
                break;
            }
        }
    }
}

fn list(dir: &Path, text: &mut String) {
    // Before the first edit there is none.
    let Ok(found) = fs::read_dir(dir) else { return };
    let mut entries: Vec<PathBuf> = found.map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        let metadata = fs::symlink_metadata(&path).expect("stat");
        let content = match metadata.is_file() {
            true => fs::read_to_string(&path).expect("read"),
            false => format!("{:?}", metadata.file_type()),
        };
        let (mode, links) = (metadata.permissions().mode(), metadata.nlink());
        let _ = writeln!(text, "{} {mode:o} {links} links {content:?}", path.display());
        if metadata.is_dir() {
            list(&path, text);
        }
    }
}

#[test]
fn every_build_is_that_of_an_empty_cache_and_every_cause_is_one() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    let seed = number_from("BUILDER_FUZZ_SEED").unwrap_or_else(now);
    let most = number_from("BUILDER_FUZZ_ROUNDS");
    let seconds =
        number_from("BUILDER_FUZZ_SECONDS").unwrap_or(if most.is_some() { u64::MAX / 4 } else { 20 });
    let (budget, start) = (Duration::from_secs(seconds), Instant::now());
    println!("seed {seed}: BUILDER_FUZZ_SEED={seed} repeats it");
    let (mut rounds, mut failures, mut series) = (0, 0, 0);
    let mut fuzz = Fuzz::new();
    let is_over = |rounds: u64| start.elapsed() > budget || most.is_some_and(|most| rounds >= most);
    while !is_over(rounds) {
        // A series of its own seed, so that one can be repeated without all before it.
        let random = &mut Random(seed.wrapping_add(series));
        fuzz.story = vec![format!("series with the seed {}", seed.wrapping_add(series))];
        series += 1;
        for context in [fuzz.context(), fuzz.more()] {
            let _ = fs::remove_dir_all(&context);
            fs::create_dir(&context).expect("make a context");
            fill(&context, random);
        }
        let mut inputs =
            Inputs { dockerfile: dockerfile(random), args: BTreeMap::new(), base: 0, target: None };
        fuzz.story.push(inputs.dockerfile.clone());
        let used = Home::new();
        let mut built_last: Option<Inputs> = None;
        for _ in 0..SERIES {
            let options: &[&str] = match random.below(10) {
                0 => &["--no-cache"],
                1 => &["--no-cache-filter=one"],
                2 => &["--no-cache-filter=two"],
                _ => &[],
            };
            fuzz.story.push(format!("build {options:?}"));
            let clean = Home::new();
            // One of the two does without a fast path, and what it left has to do for those that have it.
            let (path, clean_lacks) = (random.below(60) as usize, random.one_in(2));
            let want = match clean_lacks {
                true => fuzz.image_without(path, &clean, &inputs, &[]),
                false => fuzz.image(&clean, &inputs, &[]),
            };
            // Others may build at the same time, and what nobody uses may go meanwhile.
            let others = random.below(6);
            let beside = (others < 2).then(|| fuzz.beside(&used, &inputs, others == 0));
            let got = match clean_lacks {
                true => fuzz.image(&used, &inputs, options),
                false => fuzz.image_without(path, &used, &inputs, options),
            };
            if let Some(mut beside) = beside {
                fuzz.story
                    .push(format!("beside another build, which removes all that it can: {}", others == 0));
                beside.wait().expect("wait for the other build");
            }
            let built = fuzz.compare(&inputs, &got, &want);
            (rounds, failures) = (rounds + 1, failures + u64::from(!built));
            // What cannot be built shows nothing about a cache: back to what could be.
            let good = fuzz.dir.path().join("good");
            match (built, &mut built_last) {
                (true, last) => {
                    copy(&fuzz.context(), &good);
                    copy(&fuzz.more(), &fuzz.dir.path().join("good-more"));
                    *last = Some(inputs.clone());
                }
                (false, Some(last)) => {
                    copy(&good, &fuzz.context());
                    copy(&fuzz.dir.path().join("good-more"), &fuzz.more());
                    inputs = last.clone();
                    fuzz.story.push("back to what could be built".to_owned());
                }
                (false, None) => {}
            }
            let (before, old) = (fuzz.dir.path().join("before"), inputs.clone());
            copy(&fuzz.context(), &before);
            let kind = fuzz.edit(&mut inputs, random);
            if random.one_in(3) {
                fuzz.edit(&mut inputs, random);
            } else if built && kind == Kind::Explained {
                fuzz.explain(&clean, (&before, &old), &inputs, random);
            }
            if is_over(rounds) {
                break;
            }
        }
    }
    println!(
        "seed {seed}: {rounds} rounds in {series} series in {} s; {failures} failed as a clean build does; {} causes undone",
        start.elapsed().as_secs(),
        fuzz.explained
    );
    assert!(rounds > 3 && failures < rounds, "{failures} of {rounds} builds failed");
}
