//! The cache is never wrong: whatever was built before, a build gives the image that an empty state directory gives, byte for byte. And
//! nothing is explained wrongly: what is named as the cause of a miss, undone, makes the step hit.
//!
//! Each round edits one thing or two: files of the context, the Dockerfile, build arguments, the base image, the target, options. The same
//! state directory builds through a whole series of edits, now and then beside another process that builds the same or removes what is in
//! nobody's use; a new one builds once, and is then asked to explain the next edit, or the next two. Of a field of an instruction that is
//! named, the values that are told are those that the two Dockerfiles and their arguments have, and only the line or argument that has it
//! is undone.
//!
//! One of the two builds does without a fast path (`BUILDER_DISABLE`), drawn in each round. One series in [`CALM`] waits before each build
//! until no file has changed within two seconds, so that what is remembered of files counts.
//!
//! `BUILDER_FUZZ_SEED` repeats a run, `BUILDER_FUZZ_ROUNDS` and `BUILDER_FUZZ_SECONDS` (default 20) end it, the latter not before some builds
//! succeeded, however slow the machine is. `cargo xtask long fuzz-cache` is
//! the long form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use e2e::fuzz::{PATHS, Random, dockerfile, edit_context, edit_dockerfile, fill};
use e2e::meaning::{Changed, fields, instructions, of_stage, reverted};
use e2e::{Context, Done, Home, Image, base, number_from, run, tempdir, tool};
use serde_json::Value;
use tempfile::TempDir;

/// So many builds go through one state directory before the next Dockerfile.
const SERIES: u64 = 12;
/// One series in so many is built without haste.
const CALM: u64 = 20;
/// What changed within two seconds before it is read is read again.
const RACY: Duration = Duration::from_millis(2_100);
/// What of a step may be another value.
const SETTINGS: [&str; 9] =
    ["command", "user", "directory", "ENV KEY", "ARG NAME", "ARG OTHER", "destination", "owner", "path"];
/// So many builds that succeed show something; those that fail have nothing to compare but their failure.
const LEAST: u64 = 10;
/// In so many rounds there are such, or something is wrong.
const ENOUGH: u64 = 300;
/// From so many rounds on each fast path must have been left out.
const MANY: u64 = 300;

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
    /// The names of the fast paths (`BUILDER_DISABLE`), and how many images were made without each.
    fast_paths: Vec<(String, u64)>,
    /// The one without which a build does; mostly none.
    without: String,
    story: Vec<String>,
    counts: Counts,
}

/// What was shown.
#[derive(Debug, Default)]
struct Counts {
    /// Causes undone.
    explained: u64,
    /// Of them fields of instructions, by name.
    fields: BTreeMap<String, u64>,
    /// After several edits, where one of them was not enough to make a step run or not.
    several: u64,
    /// Builds for which something was remembered of files.
    remembered: u64,
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
        let told = told.replace(" and ", ", ");
        let fast_paths: Vec<(String, u64)> = told.split(", ").map(|path| (path.to_owned(), 0)).collect();
        assert!(fast_paths.len() >= 5, "{fast_paths:?}");
        let (bases, without) = ([base("busybox"), other], String::new());
        Self { dir, bases, fast_paths, without, story: Vec::new(), counts: Counts::default() }
    }

    /// Whether programs cannot tell an overlay from a copy. A step that changes one of several names of a file parts them on an overlay, as
    /// everywhere where there is one; and it cannot rename directories of layers below, so that `mv` copies them, without extended attributes.
    fn is_the_same_in_a_copy(&self, inputs: &Inputs) -> bool {
        let contexts = [self.context(), self.more()];
        let mut files = contexts.iter().flat_map(|context| held(context).into_values());
        let tells = ["ln -f ", "ln /ctx", "mv /"].iter().any(|command| inputs.dockerfile.contains(command));
        !tells && files.all(|(_, _, file)| file.is_none_or(|(names, ..)| names == 1))
    }

    /// The image as one of the fast paths left out makes it.
    fn image_without(
        &mut self,
        path: usize,
        home: &Home,
        inputs: &Inputs,
        options: &[&str],
    ) -> Result<Image, Done> {
        let mut path = path % self.fast_paths.len();
        if self.fast_paths[path].0 == "overlay" && !self.is_the_same_in_a_copy(inputs) {
            path = (path + 1) % self.fast_paths.len();
        }
        self.without.clone_from(&self.fast_paths[path].0);
        self.story.push(format!("without {}", self.without));
        let image = self.image(home, inputs, options);
        self.without.clear();
        self.fast_paths[path].1 += u64::from(image.is_ok());
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

    /// Builds after one edit or several where everything before was built just now, undoes what is named as the cause for one step, and
    /// builds again.
    fn explain(
        &mut self,
        home: &Home,
        before: (&Path, &Inputs),
        now: &Inputs,
        edits: usize,
        random: &mut Random,
    ) {
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
        // Those whose own instruction or setting changed are few.
        let is_own =
            |step: &&usize| reason_of(&steps[**step]).is_some_and(|(_, why)| why.get("op_changed").is_some());
        let own: Vec<usize> = ran.iter().filter(is_own).copied().collect();
        let ran = if own.is_empty() || random.one_in(2) { ran } else { own };
        let step = ran[random.below(ran.len() as u64) as usize];
        let Some((name, reason)) = reason_of(&steps[step]) else { return };
        let (stage, title) = identity(name);
        let same = |step: &&Value| identity(step["name"].as_str().expect("a name")) == (stage, title);
        if steps.iter().filter(same).count() > 1 || of_earlier.iter().filter(same).count() > 1 {
            return;
        }
        self.story.push(format!("{name} ran because of {reason}"));
        self.counts.explained += 1;
        if reason == "first_build" {
            if of_earlier.iter().any(|step| same(&step)) {
                self.fail(now, &format!("{name} was built before"));
            }
            return;
        }
        let mut below = BTreeSet::new();
        ancestors(steps, step, &mut below);
        // What ran below it, each for a reason of its own: all of that has to be undone.
        let is_first = |reason: &Value| reason.get("input_changed").is_none();
        let of_below: Vec<Cause<'_>> = below
            .iter()
            .filter_map(|step| reason_of(&steps[*step]))
            .filter(|(_, reason)| is_first(reason))
            .map(|(name, reason)| Cause { name, reason })
            .collect();
        let told = &reason["input_changed"]["cause"];
        if !told.is_null() && !of_below.iter().any(|cause| cause.reason == told) {
            self.fail(now, &format!("{name} ran because of {reason}, which is said of no step below it"));
        }
        let mut causes = of_below.clone();
        if is_first(reason) || causes.is_empty() {
            causes.push(Cause { name, reason });
        }
        // What is undone by doing nothing would hit as well: the build just now made it.
        if let Some(wrong) = causes.iter().find(|cause| !self.is_so(cause, before, now)) {
            self.fail(now, &format!("{name} ran because of {reason}, but {} did not happen", wrong.reason));
        }
        for cause in &causes {
            let Some(changed) = cause.reason.get("op_changed") else { continue };
            let field = changed["field"].as_str().expect("text");
            *self.counts.fields.entry(field.to_owned()).or_default() += 1;
            // One edit is one field: under any other name it would not have been taken for true.
            let others = SETTINGS.iter().filter(|other| **other != field);
            for other in others.filter(|_| edits == 1) {
                let renamed = serde_json::json!({ "field": other, "change": changed["change"] });
                assert!(!cause.is_field(&renamed, before.1, now), "{other} is taken for {field}");
            }
        }
        let here = self.context();
        let (context, inputs) = self.mixed(&causes, (&here, now), before);
        let undone = run(&mut self.build(home, &context, &inputs));
        // Of several edits one may need the other.
        if undone.code != Some(0) && edits > 1 {
            return;
        }
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
            if edits == 1 {
                self.fail(now, &what);
            }
            // Another edit is a cause too; then what is named must be one by itself.
            self.counts.several += 1;
            let (context, inputs) = self.mixed(&causes, before, (&here, now));
            // Where only the builds before the edits are known: what both make would be found.
            let apart = Home::new();
            let _none = run(&mut self.build(&apart, before.0, before.1));
            if run(&mut self.build(&apart, &context, &inputs)).code != Some(0) {
                return;
            }
            let record = self.record(&apart);
            let alone = record["steps"].as_array().expect("a list").iter().find(same);
            if alone.is_some_and(|alone| reason_of(alone).is_none()) {
                self.fail(now, &format!("{what}\nand hits with nothing else done"));
            }
            return;
        }
        // With the others undone it must be what keeps the step from hitting.
        let is_of_files = |reason: &Value| reason.get("content_changed").is_some();
        let known: BTreeSet<&str> = of_below.iter().flat_map(|cause| paths_of(cause.reason)).collect();
        if of_below.is_empty()
            || !of_below.iter().all(|cause| is_of_files(cause.reason))
            || !is_of_files(reason)
            || paths_of(reason).any(|path| known.contains(path))
        {
            return;
        }
        let (context, inputs) = self.mixed(&of_below, (&here, now), before);
        run(&mut self.build(home, &context, &inputs)).ok();
        let record = self.record(home);
        let again = record["steps"].as_array().expect("a list").iter().find(same);
        if again.is_some_and(|again| reason_of(again).is_none()) {
            self.fail(now, &format!("{name} ran because of {reason}, but hits without that being undone"));
        }
    }

    /// Whether what a reason names is different now, and was and is what it says.
    fn is_so(&self, cause: &Cause<'_>, before: (&Path, &Inputs), now: &Inputs) -> bool {
        let reason = cause.reason;
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
        if let Some(changed) = reason.get("image_changed") {
            return match changed["old"] == changed["new"] {
                true => before.1.base != now.base,
                false => before.1.dockerfile != now.dockerfile,
            };
        }
        match reason.get("op_changed") {
            Some(changed) => cause.is_field(changed, before.1, now),
            None => true,
        }
    }

    /// The inputs `of` with what reasons name as it is in `from`, and nothing else of that.
    fn mixed(
        &mut self,
        causes: &[Cause<'_>],
        of: (&Path, &Inputs),
        from: (&Path, &Inputs),
    ) -> (PathBuf, Inputs) {
        let undone = self.dir.path().join("undone");
        copy(of.0, &undone);
        let mut inputs = of.1.clone();
        let mut paths = Vec::new();
        for cause in causes {
            let reason = cause.reason;
            if let Some(changed) = reason.get("content_changed") {
                assert_eq!(changed["more"], 0, "the context is small");
                paths.extend(paths_of(reason));
            } else if reason.get("image_changed").is_some() {
                inputs.base = from.1.base;
            } else if let Some(changed) = reason.get("op_changed") {
                let field = changed["field"].as_str().expect("text");
                inputs.dockerfile =
                    reverted(&inputs.dockerfile, &from.1.dockerfile, &|line| cause.is_line(field, line));
                // Only a variable can have come from the command line.
                if let Some(name) = field.strip_prefix("ARG ") {
                    inputs.args.retain(|known, _| *known != name);
                    inputs
                        .args
                        .extend(from.1.args.get_key_value(name).map(|(name, value)| (*name, value.clone())));
                }
            } else if *reason == "first_build" || reason.get("input_changed").is_some() {
                inputs.dockerfile.clone_from(&from.1.dockerfile);
            } else {
                self.fail(of.1, &format!("{reason} cannot be the cause"));
            }
        }
        paths.sort_unstable();
        paths.dedup();
        restore(&undone, from.0, &paths);
        (undone, inputs)
    }

    fn edit(&mut self, inputs: &mut Inputs, random: &mut Random) -> Kind {
        let context = self.context();
        let (kind, what) = match random.below(17) {
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
            12..15 => {
                edit_number(&mut inputs.dockerfile, random);
                (Kind::Explained, format!("with another number the Dockerfile is\n{}", inputs.dockerfile))
            }
            15 => (Kind::Other, format!("of the other context: {}", edit_context(&self.more(), random))),
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

/// Makes a line say another number, if there is one: a value, a path, a mode, an owner, a user.
fn edit_number(dockerfile: &mut String, random: &mut Random) {
    let is_from = |at: usize| dockerfile[..at].lines().last().is_some_and(|line| line.starts_with("FROM"));
    let digits = dockerfile.char_indices().filter(|(_, c)| c.is_ascii_digit()).map(|(at, _)| at);
    // The last of a number, so that modes and dates stay such.
    let is_last = |at: &usize| !dockerfile.as_bytes().get(at + 1).is_some_and(u8::is_ascii_digit);
    let digits: Vec<usize> = digits.filter(|at| is_last(at) && !is_from(*at)).collect();
    if digits.is_empty() {
        return;
    }
    let at = digits[random.below(digits.len() as u64) as usize];
    let digit = u64::from(dockerfile.as_bytes()[at] - b'0');
    let other = (digit + 1 + random.below(2)) % 3;
    dockerfile.replace_range(at..=at, &other.to_string());
}

/// What is named as the cause of a miss, and of which step it is said.
#[derive(Debug, Clone, Copy)]
struct Cause<'a> {
    name: &'a str,
    reason: &'a Value,
}

impl Cause<'_> {
    /// Whether the field of an instruction that is named was and is what the reason tells, as the Dockerfiles and their arguments have it.
    fn is_field(&self, changed: &Value, before: &Inputs, now: &Inputs) -> bool {
        let (stage, title) = identity(self.name);
        let stage = stage.trim_start_matches('[');
        let field = changed["field"].as_str().expect("text");
        let of = |inputs: &Inputs, title: &str| fields(&inputs.dockerfile, &inputs.args, stage, title);
        let times = |lines: &[String], line: &String| lines.iter().filter(|other| *other == line).count();
        let first = |instruction: &String| instruction.lines().next().unwrap_or_default().to_owned();
        let of_now = of_stage(&now.dockerfile, stage);
        // What it was compared with has the same text, or stood in its place and is gone.
        let of_before = of_stage(&before.dockerfile, stage);
        let olds: Vec<String> = match of(before, title).is_empty() {
            false => vec![title.to_owned()],
            true => {
                let is_gone = |line: &&String| times(&of_before, line) > times(&of_now, line);
                of_before.iter().filter(is_gone).map(first).collect()
            }
        };
        let told = &changed["change"]["shown"];
        let told = [&told["old"], &told["new"]].map(|value| value.as_str().map(str::to_owned));
        match field.split(' ').next().expect("a word") {
            "command" | "user" | "directory" | "ENV" | "ARG" | "destination" | "owner" | "mode" | "path" => {
                let news = of(now, title);
                let [new] = &news[..] else { return false };
                let is_it = |old: BTreeMap<String, String>| {
                    let values =
                        [&old, new].map(|fields| fields.get(field).filter(|value| !value.is_empty()));
                    // Symbolic modes look the same.
                    let differ = values[0] != values[1] || field == "mode";
                    let mut shown = values.map(|value| value.map(|value| shown(value)));
                    if shown[0] == shown[1] {
                        shown = [None, None];
                    }
                    // The name KEY is one that secrets have.
                    differ && (changed["change"] == "hidden" || shown == told)
                };
                olds.iter().flat_map(|old| of(before, old)).any(is_it)
            }
            "sources" => {
                let names = |line: &str, told: &Option<String>| {
                    let mut words = told.as_deref().unwrap_or_default().split(' ');
                    words.all(|word| word == "." || word.ends_with('…') || line.contains(word))
                };
                if stage == "internal" {
                    // Files of a context for a mount are brought by a step of their own.
                    let texts = [&before.dockerfile, &now.dockerfile];
                    return texts[0] != texts[1] && names(texts[0], &told[0]) && names(texts[1], &told[1]);
                }
                names(title, &told[1]) && olds.iter().any(|old| old != title && names(old, &told[0]))
            }
            // Of these no text is told: some instruction that has such must be another one.
            "text" | "mount" | "the" => {
                let mark = if field.starts_with("text") { "<<X" } else { "" };
                let own = |inputs: &Inputs| {
                    let lines = instructions(&inputs.dockerfile).into_iter();
                    lines.filter(|line| line.contains(mark)).collect::<Vec<_>>()
                };
                own(before) != own(now)
            }
            _ => false,
        }
    }

    /// Whether a line that is different has to do with a field of the instruction.
    fn is_line(&self, field: &str, line: Changed<'_>) -> bool {
        let (_, title) = identity(self.name);
        let is_own = line.instruction.lines().next() == Some(title);
        let keyword = |line: &str| line.split(' ').next().unwrap_or_default().replace("ADD", "COPY");
        // What it was before, which is not there any more.
        let was_own = !line.moved && keyword(line.instruction) == keyword(title);
        let setting = match field.split(' ').next().expect("a word") {
            "user" => "USER ",
            "directory" => "WORKDIR ",
            "command" => "SHELL ",
            "ENV" | "ARG" => field,
            // Inline files are steps of their own.
            "text" => return line.instruction.contains("<<X"),
            _ if self.name.starts_with("[internal]") => {
                return !line.moved && keyword(line.instruction) == "RUN";
            }
            _ => return is_own || was_own,
        };
        // An instruction may have moved over what is set.
        line.instruction.starts_with(setting) || (is_own && line.moved) || (field == "command" && was_own)
    }
}

/// A value as reasons show it.
fn shown(value: &str) -> String {
    let all: Vec<char> = value.chars().flat_map(char::escape_debug).collect();
    let cut: String = all.iter().take(80).collect();
    if all.len() > 80 { cut + "…" } else { cut }
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
    let (mut rounds, mut failures, mut series, mut calm) = (0, 0, 0, 0);
    let mut fuzz = Fuzz::new();
    let is_over = |rounds: u64, failures: u64| {
        let is_late = start.elapsed() > budget && (rounds - failures >= LEAST || rounds >= ENOUGH);
        is_late || most.is_some_and(|most| rounds >= most)
    };
    while !is_over(rounds, failures) {
        // A series of its own seed, so that one can be repeated without all before it.
        let of_series = seed.wrapping_add(series);
        let (random, is_calm) = (&mut Random(of_series), of_series.is_multiple_of(CALM));
        fuzz.story = vec![format!("series with the seed {of_series}")];
        series += 1;
        calm += u64::from(is_calm);
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
            if is_calm {
                fuzz.story.push("nothing has changed for two seconds".to_owned());
                std::thread::sleep(RACY);
                fuzz.counts.remembered += u64::from(remembers_files(&used));
            }
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
            let mut kinds = vec![fuzz.edit(&mut inputs, random)];
            if random.one_in(3) {
                kinds.push(fuzz.edit(&mut inputs, random));
            }
            if built && kinds.iter().all(|kind| *kind == Kind::Explained) {
                fuzz.explain(&clean, (&before, &old), &inputs, kinds.len(), random);
            }
            if is_over(rounds, failures) {
                break;
            }
        }
    }
    println!(
        "seed {seed}: {rounds} rounds in {series} series in {} s; {failures} failed as a clean build does\nwithout {:?}\n{:?}",
        start.elapsed().as_secs(),
        fuzz.fast_paths,
        fuzz.counts
    );
    // What one series begins with may be nothing that can be built.
    let succeeded = rounds - failures;
    let is_short = most.is_some() && (series < 4 || succeeded > 0);
    assert!(succeeded >= LEAST || is_short, "{failures} of {rounds} builds failed");
    if rounds >= MANY {
        assert!(fuzz.fast_paths.iter().all(|(_, images)| *images > 0), "{:?}", fuzz.fast_paths);
        let is_set = |field: &&str| fuzz.counts.fields.contains_key(*field);
        let named: Vec<&str> =
            ["command", "ARG NAME", "ENV KEY", "user", "directory"].into_iter().filter(is_set).collect();
        assert!(named.len() > 2, "{:?}", fuzz.counts);
        // Few of them may copy nothing of their contexts.
        assert!(calm < 5 || fuzz.counts.remembered > 0, "{calm} series without haste: {:?}", fuzz.counts);
    }
}

/// Whether a state directory remembers something of files of contexts.
fn remembers_files(home: &Home) -> bool {
    let Ok(found) = fs::read_dir(home.path()) else { return false };
    let stats = found.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("stat-"));
    let files = stats.flat_map(|stats| fs::read_dir(stats.path()).expect("list").flatten());
    // A heading, a checksum, and what is remembered.
    files.into_iter().any(|file| file.metadata().is_ok_and(|metadata| metadata.len() > 48))
}
