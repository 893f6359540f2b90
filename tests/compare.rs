//! What edits rerun under two orders of instructions: predicted, and then done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::Duration;

use e2e::{Context, Home, bases, git, run, tempdir, tool};
use serde_json::Value;

/// An edit of the context.
#[derive(Debug, Clone, Copy)]
enum Edit {
    Change(&'static str),
    /// With commas several at once, as `--change` has them.
    Create(&'static str),
    Delete(&'static str),
    /// As git does it: a directory goes with its last file. With commas several at once.
    Empty(&'static str),
    /// It may be executed, and nothing else.
    Mode(&'static str),
    /// The ignore file has this line as well.
    Ignore(&'static str),
    /// The link leads elsewhere.
    Link(&'static str, &'static str),
}

impl Edit {
    fn path(self) -> &'static str {
        match self {
            Edit::Change(path) | Edit::Create(path) | Edit::Delete(path) | Edit::Empty(path) => path,
            Edit::Mode(path) | Edit::Link(path, _) => path,
            Edit::Ignore(_) => ".dockerignore",
        }
    }

    /// Does it; how many bytes a file has more or less since.
    fn apply(self, context: &Context) -> u64 {
        let path = context.path().join(self.path());
        let append = |text: &str| {
            let before = fs::read(&path).expect("it is there");
            fs::write(&path, [&before, text.as_bytes()].concat()).expect("write");
            text.len() as u64
        };
        match self {
            Edit::Change(_) => append("more\n"),
            Edit::Create(names) => names.split(',').fold(0, |bytes, name| {
                let path = context.path().join(name);
                fs::create_dir_all(path.parent().expect("it has one")).expect("make directories");
                fs::write(&path, "new\n").expect("write");
                bytes + 4
            }),
            Edit::Delete(_) => {
                let bytes = fs::metadata(&path).expect("it is there").len();
                fs::remove_file(&path).expect("remove");
                // What was left out is of any size.
                if path.ends_with(".dockerignore") { 10_000_000 } else { bytes }
            }
            Edit::Empty(names) => names.split(',').fold(0, |bytes, name| {
                let length = fs::metadata(context.path().join(name)).expect("it is there").len();
                git(context.path(), &["rm", "-q", name]);
                bytes + length
            }),
            Edit::Mode(path) => {
                context.chmod(path, 0o755);
                0
            }
            // What is left out or stands elsewhere is of any size.
            Edit::Ignore(line) => append(&format!("{line}\n")) + 20_000,
            Edit::Link(_, target) => {
                fs::remove_file(&path).expect("remove the link");
                symlink(target, &path).expect("make a link");
                20_000
            }
        }
    }
}

/// What is told of two Dockerfiles or builds.
fn told(home: &Home, context: &Context, sides: [&str; 2], arguments: &[&str]) -> Value {
    let mut command = home.builder("compare");
    command.args(bases()).arg("--format=json").args(arguments).args(sides).arg(context.path());
    serde_json::from_str(&run(&mut command).ok().stdout).expect("JSON")
}

/// The same of the files `A` and `B`.
fn compare(home: &Home, context: &Context, arguments: &[&str]) -> Value {
    let [a, b] = ["A", "B"].map(|name| context.path().join(name).display().to_string());
    told(home, context, [&a, &b], arguments)
}

/// Makes a repository of a context.
fn commit_first(context: &Context) {
    git(context.path(), &["init", "-q", "-b", "main"]);
    commit_all(context, "Begin");
}

fn commit_all(context: &Context, message: &str) {
    git(context.path(), &["add", "-A"]);
    git(context.path(), &["commit", "-q", "-m", message]);
}

/// The titles of steps, without what is no instruction.
fn titles(names: &Value) -> Vec<String> {
    let names = names.as_array().expect("a list").iter().map(|name| name.as_str().expect("a name"));
    let is_instruction = |name: &&str| !["[internal]", "[context "].iter().any(|no| name.starts_with(no));
    let instructions = names.filter(is_instruction);
    let mut titles: Vec<String> =
        instructions.map(|name| name.split_once("] ").expect("a place").1.to_owned()).collect();
    titles.sort();
    titles
}

/// Two Dockerfiles and their context, in a repository, so that edits are commits as well.
struct Pair {
    /// With both; in one store what the one has built is there for the other.
    both: Home,
    own: [Home; 2],
    context: Context,
    /// What both are built with.
    arguments: Vec<String>,
}

/// The steps under either Dockerfile that run at most.
type AtMost = [&'static [&'static str]; 2];

/// An edit, and what is predicted of it as long as nobody knows more than its path, and as a commit.
struct Expected {
    edit: Edit,
    named: AtMost,
    commit: AtMost,
}

/// All is known of it.
fn sure(edit: Edit) -> Expected {
    Expected { edit, named: [&[], &[]], commit: [&[], &[]] }
}

/// Early cutoff may save these.
fn at_most(edit: Edit, steps: AtMost) -> Expected {
    Expected { edit, named: steps, commit: steps }
}

/// By its path it may touch these; what it really does is known of a commit.
fn open(edit: Edit, steps: AtMost) -> Expected {
    Expected { edit, named: steps, commit: [&[], &[]] }
}

/// What a build did.
struct Rebuilt {
    ran: BTreeSet<String>,
    stored: u64,
    pushed: u64,
    /// How far that may be off what it was before the edit.
    slack: u64,
}

impl Pair {
    fn new(a: &str, b: &str, files: &[&str], links: &[(&str, &str)], ignored: &str) -> Pair {
        Pair::named(&[], a, b, files, links, ignored)
    }

    /// With directories of the context as named contexts.
    fn named(
        directories: &[(&str, &str)],
        a: &str,
        b: &str,
        files: &[&str],
        links: &[(&str, &str)],
        ignored: &str,
    ) -> Pair {
        let mut context = Context::new("").file("A", a).file("B", b);
        let hidden = "A\nB\nDockerfile\n.dockerignore\n.git\n";
        context = context.file(".dockerignore", format!("{hidden}{ignored}"));
        context.chmod(".dockerignore", 0o644);
        for file in files {
            // Of different sizes, so that sums tell which layers are meant.
            context = context.file(file, format!("text of {file}\n").repeat(100));
            context.chmod(file, 0o644);
        }
        for (path, target) in links {
            symlink(target, context.path().join(path)).expect("make a link");
        }
        commit_first(&context);
        let argument = |(name, directory): &(&str, &str)| {
            format!("--build-context={name}={}", context.path().join(directory).display())
        };
        let arguments = directories.iter().map(argument).collect();
        let pair = Pair { both: Home::new(), own: [Home::new(), Home::new()], context, arguments };
        pair.settle();
        pair.build(&pair.both, 0);
        pair.build(&pair.both, 1);
        (0..2).for_each(|index| drop(pair.build(&pair.own[index], index)));
        pair
    }

    fn file(&self, index: usize) -> String {
        self.context.path().join(["A", "B"][index]).display().to_string()
    }

    fn with<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.arguments.iter().map(String::as_str).chain(more.iter().copied()).collect()
    }

    fn build(&self, home: &Home, index: usize) -> Vec<String> {
        let steps = home.steps(&self.context, &self.with(&["-f", &self.file(index)]));
        let mut ran: Vec<String> = steps.executed().into_iter().map(str::to_owned).collect();
        ran.sort();
        ran
    }

    /// What the layers of an image are, by digest, and the bytes of files in each.
    fn layers(&self, index: usize) -> BTreeMap<String, u64> {
        let image = self.own[index].export(&self.context, &self.with(&["-f", &self.file(index)]));
        let digests = image.config["rootfs"]["diff_ids"].as_array().expect("a list").clone();
        let size = |layer: Vec<u8>| {
            let mut archive = tar::Archive::new(&*layer);
            let entries = archive.entries().expect("a tar");
            entries.map(|entry| entry.expect("an entry").header().size().expect("a size")).sum()
        };
        let digests = digests.iter().map(|digest| digest.as_str().expect("text").to_owned());
        digests.zip(image.layers().into_iter().map(size)).collect()
    }

    /// The layers of both. What runs again later gives others, also where it writes the same: files tell the second in which they were written.
    fn layers_before(&self) -> [BTreeMap<String, u64>; 2] {
        let layers = [0, 1].map(|index| self.layers(index));
        std::thread::sleep(Duration::from_millis(1_100));
        layers
    }

    /// Builds after an edit that made a file so many bytes longer or shorter.
    fn rebuild(&self, index: usize, before: &BTreeMap<String, u64>, bytes: u64) -> Rebuilt {
        let ran: BTreeSet<String> = self.build(&self.own[index], index).into_iter().collect();
        let steps = steps_of(&self.own[index]);
        let executed = steps.iter().filter(|step| step["outcome"]["ran"].is_object());
        let stored = executed.filter_map(|step| step["bytes"].as_u64()).sum();
        let now = self.layers(index);
        let new = now.iter().filter(|(digest, _)| !before.contains_key(*digest));
        // Each layer may have a copy of the file.
        let slack = bytes * (ran.len() as u64 + 1);
        Rebuilt { ran, stored, pushed: new.map(|(_, bytes)| bytes).sum(), slack }
    }

    /// As it was before the last commit, and before what was not committed.
    fn undo(&self, commits: usize) {
        git(self.context.path(), &["add", "-A"]);
        git(self.context.path(), &["reset", "-q", "--hard", &format!("HEAD~{commits}")]);
        self.settle();
    }

    /// Whatever the umask is, and whenever git wrote it.
    fn settle(&self) {
        run(tool("chmod").args(["-R", "u=rwX,go=rX"]).arg(self.context.path())).ok();
        run(tool("find").arg(self.context.path()).args([
            "-exec",
            "touch",
            "-h",
            "-d",
            "@1700000000",
            "{}",
            "+",
        ]))
        .ok();
    }

    /// Nothing was run by asking, and nothing is left of the edits.
    #[track_caller]
    fn is_as_it_was(&self) {
        for (home, index) in [(&self.both, 0), (&self.both, 1), (&self.own[0], 0), (&self.own[1], 1)] {
            assert_eq!(self.build(home, index), [""; 0]);
        }
    }
}

/// Whether what is told of an edit is what a build of it executes, and the layers that it makes.
#[track_caller]
fn is_true(told: &Value, rebuilt: &Rebuilt, what: &str) {
    let (runs, at_most) = (titles(&told["runs"]), titles(&told["at_most"]));
    let Rebuilt { ran, stored, pushed, slack } = rebuilt;
    let place = format!("{what}: {told:#}\nran {ran:#?}, {stored} bytes stored, {pushed} pushed");
    assert_eq!((&told["most"]["unknown"], &told["most"]["unsized"]), (&0.into(), &0.into()), "{place}");
    let least: BTreeSet<String> = runs.iter().cloned().collect();
    let most: BTreeSet<String> = runs.into_iter().chain(at_most).collect();
    assert!(least.is_subset(ran) && ran.is_subset(&most), "{place}");
    for (bytes, what) in [(stored, "stored"), (pushed, "pushed")] {
        let of = |bound: &str| told[bound][what].as_u64().expect("a number");
        assert!(bytes + slack >= of("least") && *bytes <= of("most") + slack, "{what} {place}");
    }
}

/// Builds both, predicts each edit, does it and builds again: exactly what was predicted runs; of what is predicted as "at most", perhaps not
/// all. Then the edit is a commit, and predicted as that.
#[track_caller]
fn predicted(pair: &Pair, edits: &[Expected]) {
    let changes: Vec<String> = edits.iter().map(|one| format!("--change={}", one.edit.path())).collect();
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    let told = compare(&pair.both, &pair.context, &pair.with(&changes));
    let before = pair.layers_before();
    for (Expected { edit, named, commit }, told) in
        edits.iter().zip(told["edits"].as_array().expect("a list"))
    {
        let bytes = edit.apply(&pair.context);
        let rebuilt = [0, 1].map(|index| pair.rebuild(index, &before[index], bytes));
        commit_all(&pair.context, "Edit");
        let of_commit = compare(&pair.both, &pair.context, &pair.with(&["--history=1", "--no-build"]));
        pair.undo(1);
        assert_eq!(of_commit["edits"].as_array().map(Vec::len), Some(1), "{of_commit:#}");
        for index in 0..2 {
            let check = |told: &Value, expected: &[&str], what: &str| {
                let what = format!("{edit:?} {what} under {index}");
                assert_eq!(titles(&told["at_most"]), expected, "{what}: {told:#}");
                is_true(told, &rebuilt[index], &what);
            };
            // Who names a path edits what is in it.
            if !matches!(edit, Edit::Mode(_) | Edit::Empty(_)) {
                check(&told["orderings"][index], named[index], "by its path");
            }
            check(&of_commit["edits"][0]["orderings"][index], commit[index], "as a commit");
        }
    }
    pair.is_as_it_was();
}

/// As [`predicted`], of stages that are put together: what uses the context runs as it is told, and what stands on it perhaps.
#[track_caller]
fn predicted_of_stages(pair: &Pair, edits: &[Edit]) {
    for edit in edits {
        let change = format!("--change={}", edit.path());
        let by_path = compare(&pair.both, &pair.context, &pair.with(&[&change]));
        edit.apply(&pair.context);
        let ran =
            [0, 1].map(|index| pair.build(&pair.own[index], index).into_iter().collect::<BTreeSet<_>>());
        commit_all(&pair.context, "Edit");
        let of_commit = compare(&pair.both, &pair.context, &pair.with(&["--history=1", "--no-build"]));
        pair.undo(1);
        for (index, ran) in ran.iter().enumerate() {
            let check = |told: &Value, is_open: bool| {
                let told = &told["edits"][0]["orderings"][index];
                let (runs, at_most) = (titles(&told["runs"]), titles(&told["at_most"]));
                let place = format!("{edit:?} under {index}: {told:#}\nran {ran:#?}");
                assert!(runs.iter().all(|step| ran.contains(step)), "{place}");
                assert!(ran.iter().all(|step| runs.contains(step) || at_most.contains(step)), "{place}");
                assert!(is_open || at_most.iter().all(|step| step.starts_with("COPY --from=s")), "{place}");
            };
            if !matches!(edit, Edit::Mode(_) | Edit::Empty(_)) {
                check(&by_path, matches!(edit, Edit::Link(..) | Edit::Ignore(_)));
            }
            check(&of_commit, matches!(edit, Edit::Link(..)));
        }
    }
    pair.is_as_it_was();
}

/// The classic one.
#[test]
fn dependencies_before_or_after_the_program() {
    let pair = Pair::new(
        "FROM busybox\nCOPY . /app\nRUN cat /app/requirements.txt > /installed\n",
        "FROM busybox\nCOPY requirements.txt /r\nRUN cat /r > /installed\nCOPY . /app\n",
        &["requirements.txt", "main.py", "lib/util.py", "docs/index.md"],
        &[],
        "docs\n",
    );
    let all: AtMost = [
        &["COPY . /app", "RUN cat /app/requirements.txt > /installed"],
        &["COPY . /app", "COPY requirements.txt /r", "RUN cat /r > /installed"],
    ];
    predicted(
        &pair,
        &[
            sure(Edit::Change("requirements.txt")),
            sure(Edit::Change("main.py")),
            sure(Edit::Change("lib/util.py")),
            sure(Edit::Change("docs/index.md")),
            sure(Edit::Create("lib/new.py")),
            sure(Edit::Create("docs/new.md")),
            sure(Edit::Delete("main.py")),
            sure(Edit::Mode("main.py")),
            sure(Edit::Mode("docs/index.md")),
            open(Edit::Ignore("lib"), all),
            open(Edit::Ignore("!docs"), all),
            open(Edit::Ignore("nothing"), all),
            open(Edit::Delete(".dockerignore"), all),
        ],
    );
}

#[test]
fn patterns_and_excluded_files() {
    let pair = Pair::new(
        "FROM busybox\nCOPY package*.json ./\nRUN cat package*.json > /installed\nCOPY --exclude=*.md . /app\nRUN ls /app\n",
        "FROM busybox\nWORKDIR /app\nCOPY *.json *.ts ./\nRUN ls\nCOPY src src\nRUN ls src\n",
        &[
            "package.json",
            "package-lock.json",
            "tsconfig.json",
            "a.ts",
            "README.md",
            "src/x.ts",
            "src/deep/y.md",
        ],
        &[],
        "**/*.log\n",
    );
    let all: AtMost = [
        &[
            "COPY --exclude=*.md . /app",
            "COPY package*.json ./",
            "RUN cat package*.json > /installed",
            "RUN ls /app",
        ],
        &["COPY *.json *.ts ./", "COPY src src", "RUN ls", "RUN ls src"],
    ];
    predicted(
        &pair,
        &[
            sure(Edit::Change("package-lock.json")),
            sure(Edit::Change("tsconfig.json")),
            sure(Edit::Change("README.md")),
            sure(Edit::Change("src/deep/y.md")),
            sure(Edit::Create("package-extra.json")),
            sure(Edit::Create("src/x.log")),
            sure(Edit::Create("b.ts")),
            sure(Edit::Delete("package-lock.json")),
            sure(Edit::Mode("a.ts")),
            // It is left out anyway.
            open(Edit::Ignore("*.md"), all),
            open(Edit::Ignore("a.ts"), all),
        ],
    );
}

/// What is copied out of a stage may be the same although the stage ran.
#[test]
fn one_stage_or_two() {
    let pair = Pair::new(
        "FROM busybox AS build\nCOPY . /src\nRUN head -c 4 /src/main.c > /out\nFROM busybox\nCOPY --from=build /out /out\nRUN cat /out\n",
        "FROM busybox\nCOPY . /src\nRUN head -c 4 /src/main.c > /out\nRUN cat /out\n",
        &["main.c", "notes.txt"],
        &[],
        "",
    );
    let edits =
        [Edit::Change("main.c"), Edit::Change("notes.txt"), Edit::Create("x"), Edit::Delete("notes.txt")];
    let saved: AtMost = [&["COPY --from=build /out /out", "RUN cat /out"], &[]];
    predicted(&pair, &edits.map(|edit| at_most(edit, saved)));
}

/// A step that only looks at files changes nothing for what stands on it.
#[test]
fn mounted_or_copied() {
    let pair = Pair::new(
        "FROM busybox\nRUN --mount=type=bind,source=src,target=/src cat /src/a > /dev/null\nRUN echo after\n",
        "FROM busybox\nCOPY src /src\nRUN cat /src/a > /dev/null\nRUN echo after\n",
        &["src/a", "src/b", "other"],
        &[],
        "",
    );
    let after: AtMost = [&["RUN echo after"], &[]];
    predicted(
        &pair,
        &[
            at_most(Edit::Change("src/a"), after),
            at_most(Edit::Change("src/b"), after),
            at_most(Edit::Create("src/c"), after),
            at_most(Edit::Mode("src/b"), after),
            sure(Edit::Change("other")),
            sure(Edit::Mode("other")),
        ],
    );
}

#[test]
fn layers_of_their_own_or_not() {
    let pair = Pair::new(
        "FROM busybox\nCOPY --link a /a\nCOPY --link b /b\nCOPY --chmod=600 c /c\n",
        "FROM busybox\nCOPY a /a\nCOPY b /b\nCOPY --chmod=600 c /c\n",
        &["a", "b", "c"],
        &[],
        "",
    );
    predicted(
        &pair,
        &[
            sure(Edit::Change("a")),
            sure(Edit::Change("b")),
            sure(Edit::Change("c")),
            sure(Edit::Mode("a")),
            // It is given one.
            sure(Edit::Mode("c")),
        ],
    );
}

#[test]
fn added_or_copied() {
    let pair = Pair::new(
        "FROM busybox\nADD conf /conf\nRUN ls /conf\nARG X=1\nRUN echo $X\n",
        "FROM busybox\nARG X=1\nRUN echo $X\nCOPY conf /conf\nRUN ls /conf\n",
        &["conf/a.conf", "conf/b.conf", "else"],
        &[],
        "",
    );
    // An archive may unpack to the same.
    let after: AtMost = [&["RUN echo 1", "RUN ls /conf"], &[]];
    predicted(
        &pair,
        &[
            at_most(Edit::Change("conf/a.conf"), after),
            at_most(Edit::Delete("conf/b.conf"), after),
            sure(Edit::Change("else")),
        ],
    );
}

/// Modes that are given, that follow a rule, and that are taken over.
#[test]
fn modes_given_or_taken() {
    let pair = Pair::new(
        "FROM busybox\nCOPY --chmod=a+x d /d\nRUN ls -l /d\nCOPY d /e\n",
        "FROM busybox\nCOPY --chmod=755 d /d\nRUN ls -l /d\nADD --link --chmod=644 d /e\n",
        &["d/a", "d/b"],
        &[],
        "",
    );
    predicted(&pair, &[at_most(Edit::Mode("d/a"), [&["RUN ls -l /d"], &[]]), sure(Edit::Change("d/a"))]);
}

/// Links that lead to what is copied, and are no part of it.
#[test]
fn links_that_lead_elsewhere() {
    let pair = Pair::new(
        "FROM busybox\nCOPY current/ /app\nRUN ls /app\n",
        "FROM busybox\nCOPY releases/2 /other\nCOPY curr*t /app\nCOPY current/a /a\n",
        &["releases/1/a", "releases/1/c", "releases/1/deep/d", "releases/2/a", "releases/2/b"],
        &[("current", "releases/latest"), ("releases/latest", "1"), ("fixed", "/releases/latest")],
        "**/*.log\n",
    );
    let through: AtMost =
        [&["COPY current/ /app", "RUN ls /app"], &["COPY curr*t /app", "COPY current/a /a"]];
    predicted(
        &pair,
        &[
            at_most(Edit::Link("current", "releases/2"), through),
            at_most(Edit::Link("releases/latest", "2"), through),
            sure(Edit::Change("releases/1/a")),
            sure(Edit::Change("releases/2/b")),
            sure(Edit::Create("releases/1/new")),
            sure(Edit::Create("releases/1/new.log")),
            sure(Edit::Create("releases/1/deep/new")),
            sure(Edit::Create("releases/new")),
            sure(Edit::Delete("releases/1/c")),
        ],
    );
    // By the name that leads through the links.
    let of = |change: &str| compare(&pair.both, &pair.context, &[change])["edits"][0]["orderings"].clone();
    for file in ["a", "new", "deep/new", "new/new.log"] {
        let real = of(&format!("--change=releases/1/{file}"));
        assert!(file.ends_with(".log") || real[1]["most"]["steps"] != 0, "{file}: {real:#}");
        // An absolute target begins where the context does.
        for link in ["current", "fixed"] {
            assert_eq!(of(&format!("--change={link}/{file}")), real, "{link}/{file}");
        }
    }
}

/// Only what git makes and removes with a file.
#[test]
fn directories_that_come_and_go_with_what_is_left_out() {
    let pair = Pair::new(
        "FROM busybox\nCOPY --exclude=**/*.md . /app\nRUN ls /app\n",
        "FROM busybox\nCOPY s* /s/\nCOPY --parents */*.txt /t/\nRUN --mount=target=/m ls /m/src > /l\n",
        &[
            "src/a.txt",
            "src/b.log",
            "src/c.md",
            "sole/deep/x.log",
            "sole/deep/y.md",
            "sum.log/z",
            "still/a.log",
            "still/deep/b.log",
        ],
        &[],
        "**/*.log\n",
    );
    predicted(
        &pair,
        &[
            sure(Edit::Create("src/new.log")),
            sure(Edit::Create("src/new.md")),
            sure(Edit::Create("src/sub/new.log")),
            sure(Edit::Create("some/new/new.log")),
            sure(Edit::Create("docs/new.md")),
            sure(Edit::Create("sum.log/new")),
            sure(Edit::Empty("src/b.log")),
            sure(Edit::Empty("sole/deep/x.log")),
            sure(Edit::Empty("sum.log/z")),
            // A directory comes and goes with several.
            sure(Edit::Create("guide/a.log,guide/b.log")),
            sure(Edit::Create("sea/a.log,sea/new/b.log,src/new/c.md")),
            sure(Edit::Create("src/d.log,src/e.log")),
            sure(Edit::Empty("still/a.log,still/deep/b.log")),
            sure(Edit::Empty("still/a.log,src/b.log")),
            sure(Edit::Empty("sole/deep/x.log,sole/deep/y.md")),
        ],
    );
    // When the first of two went, the directory was not empty yet.
    for file in ["still/a.log", "still/deep/b.log"] {
        git(pair.context.path(), &["rm", "-q", file]);
        commit_all(&pair.context, file);
    }
    let told = compare(&pair.both, &pair.context, &["--history=2", "--no-build"]);
    pair.undo(2);
    let edits = told["edits"].as_array().expect("a list").iter();
    let runs: BTreeMap<_, _> = edits
        .map(|edit| {
            let name = edit["name"].as_str().expect("text").rsplit(' ').next();
            (name.expect("a subject"), edit["orderings"][0]["most"]["steps"].as_u64())
        })
        .collect();
    assert_eq!(runs, BTreeMap::from([("still/a.log", Some(0)), ("still/deep/b.log", Some(2))]), "{told:#}");
    let pair = Pair::new(
        "FROM busybox\nCOPY --exclude=**/*.md . /app\n",
        "FROM busybox\nCOPY s* /s/\n",
        &["src/a.txt", "sole/deep/x.log", "sole/deep.md/y.md"],
        &[],
        "**/*.log\n",
    );
    predicted(
        &pair,
        &[
            sure(Edit::Empty("sole/deep/x.log")),
            sure(Edit::Empty("sole/deep.md/y.md")),
            sure(Edit::Change("sole/deep/x.log")),
            sure(Edit::Change("sole/deep.md/y.md")),
        ],
    );
}

/// Each with its own ignore file, which that of the main one has nothing to do with.
#[test]
fn contexts_with_names_that_lie_in_this_one_or_around_it() {
    let pair = Pair::named(
        &[("v", "vendor"), ("all", "."), ("up", "..")],
        "FROM busybox\nCOPY --from=v . /v\nRUN ls /v\nCOPY src /s\n",
        "FROM busybox\nCOPY --from=all src/y /y\nCOPY src /s\nCOPY --from=v l*k/ /l\n\
         RUN --mount=type=bind,from=v,target=/m cat /m/a > /o\n",
        &["src/x", "src/y", "vendor/a", "vendor/lib/b", "vendor/other/b", "vendor/c.log"],
        &[("vendor/link", "lib")],
        "vendor\n**/*.txt\n",
    );
    predicted(
        &pair,
        &[
            sure(Edit::Change("src/y")),
            sure(Edit::Change("src/x")),
            sure(Edit::Change("vendor/a")),
            sure(Edit::Change("vendor/lib/b")),
            sure(Edit::Create("vendor/lib/new.txt")),
            sure(Edit::Create("vendor/new")),
            sure(Edit::Create("src/new.txt")),
            sure(Edit::Mode("vendor/a")),
            sure(Edit::Delete("vendor/c.log")),
            at_most(Edit::Link("vendor/link", "other"), [&[], &["COPY --from=v l*k/ /l"]]),
        ],
    );
}

/// Also of a build that was recorded, and when the ignore file that belongs to the name is edited.
#[test]
fn ignore_files_of_contexts_with_names() {
    let home = Home::new();
    let context = Context::new("").file("A", "FROM busybox\nCOPY --from=v s /s\nCOPY --from=v t /t\n");
    let context = context.file("v/s/a", "1\n").file("v/s/b.log", "1\n").file("v/t", "1\n");
    let context = context.file("v/.dockerignore", "*.log\n").file(".dockerignore", "v\nA\n");
    commit_first(&context);
    let (a, v) = (context.path().join("A"), context.path().join("v"));
    let (a, named) = (a.to_str().expect("text"), format!("--build-context=v={}", v.display()));
    let build = || home.steps(&context, &["-f", a, &named]).executed().len();
    let most = |arguments: &[&str], ordering: usize| {
        let told = told(&home, &context, ["^0", a], &[&["--no-build", &named], arguments].concat());
        let of = &told["edits"][0]["orderings"][ordering];
        (of["least"]["steps"].as_u64().expect("a number"), of["most"]["steps"].as_u64().expect("a number"))
    };
    assert_eq!(build(), 2);
    for (file, of_record, of_file) in [
        ("v/s/a", (2, 2), (2, 2)),
        ("v/t", (1, 1), (1, 1)),
        // It is left out where it lies.
        ("v/s/new", (0, 2), (2, 2)),
        ("v/new.log", (0, 0), (0, 0)),
        ("v/.dockerignore", (0, 2), (0, 2)),
        (".dockerignore", (0, 0), (0, 0)),
    ] {
        let change = format!("--change={file}");
        assert_eq!(most(&[&change], 0), of_record, "{file}, of a record");
        assert_eq!(most(&[&change], 1), of_file, "{file}");
    }
    context.write("v/.dockerignore", "s/*.log\n");
    commit_all(&context, "Leave out");
    assert_eq!(most(&["--history=1"], 1), (2, 2));
    assert_eq!(build(), 2);
}

/// Each way to name files, in a stage of its own.
#[test]
fn all_that_can_be_asked_for() {
    let forms = [
        "COPY --parents ./d/./e/*.txt /p%/",
        "COPY --parents d/**/f.txt /p%/",
        "COPY --parents d/e /p%/",
        "COPY --parents --exclude=**/f* ./d/./ /p%/",
        "COPY --exclude=* --exclude=!d/e d /x%",
        "COPY --exclude=e d /x%",
        "COPY --exclude=*/f.txt d* /x%/",
        "COPY [a-c]* ./d/../g.txt /x%/",
        "COPY d/*/f.txt /x%/",
        "COPY d/e/?.txt l*k /x%/",
        "COPY li\\nk g\\.txt /x%/",
        "COPY link/. /link/.. /x%/",
        "COPY d/e /x%/\nCOPY <<EOF g.txt /y/\nd/e/new.txt\nEOF",
        "ADD --chmod=u+x link/f.txt /x%",
        "ADD --exclude=*.md d /x%",
        "RUN --mount=source=d/e,target=/m true %",
        "RUN --mount=source=link,target=/m true %",
        "RUN --mount=source=d/e/f.txt,target=/m true %",
        "RUN --mount=source=d,target=/m --mount=source=g.txt,target=/g true %",
        "RUN --mount=type=cache,from=ctx,source=d/e,target=/m true %",
    ];
    let dockerfile = |forms: &[&str]| {
        // Each is another step, or what one does would be found for the other.
        let stage = |(number, form): (usize, &&str)| {
            format!("FROM busybox AS s{number}\n{}\n", form.replace('%', &number.to_string()))
        };
        let stages: String = forms.iter().enumerate().map(stage).collect();
        let all: String =
            (0..forms.len()).map(|number| format!("COPY --from=s{number} / /{number}\n")).collect();
        format!("# syntax=docker/dockerfile:1\n{stages}FROM scratch\n{all}")
    };
    let (a, b) = forms.split_at(forms.len() / 2);
    let pair = Pair::named(
        &[("ctx", ".")],
        &dockerfile(a),
        &dockerfile(b),
        &["a", "g.txt", "d/e/f.txt", "d/e/g.txt", "d/h/f.txt", "d/h/i.md", "d/j.log", "k/f.txt"],
        &[("link", "d/e")],
        "d/h/*\n!d/h/f*\n**/*.log\n",
    );
    let edits = [
        Edit::Change("g.txt"),
        Edit::Change("d/e/f.txt"),
        Edit::Change("d/h/f.txt"),
        Edit::Change("d/h/i.md"),
        Edit::Create("d/e/new.txt"),
        Edit::Create("d/e/x.txt"),
        Edit::Create("d/h/f.md"),
        Edit::Create("d/h/x.txt"),
        Edit::Create("d/n/f.txt"),
        Edit::Create("d/o/x.log"),
        Edit::Create("d/e/deep/f.txt"),
        Edit::Create("b/c.txt"),
        Edit::Create("dd/f.txt"),
        Edit::Create("dd/e/x.log"),
        Edit::Create("lnk"),
        Edit::Create("link2"),
        Edit::Mode("d/e/f.txt"),
        Edit::Mode("k/f.txt"),
        Edit::Empty("d/h/f.txt"),
        Edit::Empty("d/j.log"),
        Edit::Empty("k/f.txt"),
        Edit::Link("link", "d/h"),
        Edit::Ignore("d/e/g.txt"),
        Edit::Ignore("d/n"),
        Edit::Ignore("!d/j.log"),
    ];
    predicted_of_stages(&pair, &edits);
}

/// Where none is named, whatever the file is called.
#[test]
fn the_ignore_file_of_a_dockerfile_that_is_found() {
    let home = Home::new();
    let context = Context::new("").file("dockerfile", "FROM busybox\nCOPY . /a\n");
    fs::remove_file(context.path().join("Dockerfile")).expect("remove");
    let context = context.file("Dockerfile.dockerignore", "x*\n").file("dockerfile.dockerignore", "y*\n");
    let build = || home.steps(&context, &[]).executed().len();
    assert_eq!(build(), 1);
    for (file, runs) in [("x", 0), ("y", 1)] {
        let told = told(&home, &context, ["^0", "^0"], &["--no-build", &format!("--change={file}")]);
        assert_eq!(told["edits"][0]["orderings"][0]["most"]["steps"], runs, "{file}: {told:#}");
        context.write(file, "1\n");
        assert_eq!(build(), runs, "{file}");
    }
}

/// Each directory as it is told, with an edit of all that is in it.
#[test]
fn directories_one_after_the_other() {
    let pair = Pair::new(
        "FROM busybox\nCOPY src /src\nRUN cat /src/lock > /installed\nCOPY docs /docs\n",
        "FROM busybox\nCOPY src/lock /\nRUN cat /lock > /installed\nCOPY src /src\nCOPY docs /docs\n",
        &["src/lock", "src/a", "src/deep/b", "docs/deep/c", "docs/d", "unused/e"],
        &[],
        "",
    );
    let told = compare(&pair.both, &pair.context, &["--per-directory"]);
    let before = pair.layers_before();
    let edits = told["edits"].as_array().expect("a list");
    let name = |edit: &Value| edit["name"].as_str().expect("text").to_owned();
    let names: Vec<String> = edits.iter().map(name).collect();
    assert_eq!(names, ["docs/", "src/a", "src/deep/b", "src/lock"], "{told:#}");
    for edit in edits {
        let name = name(edit);
        let listed =
            run(tool("find").arg(&name).args(["-type", "f"]).current_dir(pair.context.path())).ok().stdout;
        let files: Vec<&str> = listed.lines().collect();
        for file in &files {
            let path = pair.context.path().join(file);
            fs::write(&path, [&fs::read(&path).expect("read"), &b"more\n"[..]].concat()).expect("write");
        }
        for index in 0..2 {
            let rebuilt = pair.rebuild(index, &before[index], 5 * files.len() as u64);
            let told = &edit["orderings"][index];
            assert_eq!(titles(&told["at_most"]), [""; 0], "{name}: {told:#}");
            is_true(told, &rebuilt, &name);
        }
        pair.undo(0);
    }
    pair.is_as_it_was();
}

/// So many rounds of a shell keep a processor busy for about a second.
fn work(rounds: u32) -> String {
    format!("i=0; while [ $i -lt {rounds} ]; do i=$((i+1)); done")
}

/// How long edits take, of steps that keep a processor busy: predicted, and then measured. Only where `BUILDER_PREDICTIONS_ROUNDS` says how
/// often, since a machine that does other things beside makes times what they are not (`cargo xtask long predictions`).
#[test]
fn times_are_within_a_fifth_of_what_was_predicted() {
    let rounds = std::env::var("BUILDER_PREDICTIONS_ROUNDS").ok().and_then(|text| text.parse().ok());
    let (short, long) = (work(300_000), work(1_200_000));
    let pairs = [
        [
            format!("FROM busybox\nCOPY . /app\nRUN cat /app/lock; {long}\nRUN {short}\n"),
            format!("FROM busybox\nCOPY lock /\nRUN cat /lock; {long}\nRUN {short}\nCOPY . /app\n"),
        ],
        [
            format!("FROM busybox\nCOPY . /app\nRUN {short}\nRUN cat /app/main; {long}\n"),
            format!("FROM busybox\nRUN {short}\nCOPY lock /\nCOPY . /app\nRUN cat /app/main; {long}\n"),
        ],
        [
            format!(
                "FROM busybox AS b\nCOPY . /s\nRUN {long}; cp /s/main /o\nFROM busybox\nCOPY --from=b /o /o\nRUN {short}\n"
            ),
            format!("FROM busybox\nCOPY . /s\nRUN {long}; cp /s/main /o\nRUN {short}\n"),
        ],
        [
            format!("FROM busybox\nRUN --mount=type=bind,target=/s {long}; cat /s/* > /o\nRUN {short}\n"),
            format!("FROM busybox\nCOPY . /s\nRUN {short}\nRUN {long}; cat /s/* > /o\n"),
        ],
        [
            format!("FROM busybox\nADD lock main /s/\nRUN {short}\nRUN {long}\n"),
            format!("FROM busybox\nADD lock /s/\nRUN {long}\nADD main /s/\nRUN {short}\n"),
        ],
    ];
    let (mut first, mut all) = (0, 0);
    for round in 0..rounds.unwrap_or(0u32) {
        for [a, b] in &pairs {
            let of_pair = times(a, b, round);
            (first, all) = (first + of_pair.iter().filter(|wrong| **wrong == 0).count(), all + of_pair.len());
        }
    }
    println!("{first} of {all} predictions were within a fifth at the first try");
    // Even alone, a processor may be slower for a moment: one in twenty.
    assert!(rounds.is_none_or(|rounds| rounds == 0) || all > 0, "nothing was predicted");
    assert!(first * 20 >= all * 19, "{first} of {all} at the first try");
}

/// How often each of the predictions was wrong before it was right.
fn times(a: &str, b: &str, round: u32) -> Vec<u32> {
    let mut wrongs = Vec::new();
    let homes = [Home::new(), Home::new()];
    let contexts = [(), ()].map(|()| {
        let context = Context::new("").file("A", a).file("B", b).file("lock", "1\n").file("main", "1\n");
        context.file(".dockerignore", "A\nB\nDockerfile\n.dockerignore\n")
    });
    let files = ["A", "B"];
    // Each in a store of its own, so that neither has what the other built. Whether its steps had a processor for themselves.
    let build = |index: usize| {
        let file = contexts[index].path().join(files[index]);
        homes[index].steps(&contexts[index], &["-f", file.to_str().expect("text")]);
        let had_it = |step: &Value| match (step["cpu"].as_f64(), step["took"].as_f64()) {
            // Files are waited for.
            (Some(cpu), Some(took)) => cpu + 50.0 > took * 0.9,
            _ => true,
        };
        steps_of(&homes[index]).iter().all(had_it)
    };
    let mut quiet = [build(0), build(1)];
    for edited in ["lock", "main"] {
        for index in 0..2 {
            let what = format!("{edited} under {}", files[index]);
            // What ran while others computed says nothing, neither of what is predicted nor of what is measured. Even alone, a processor may
            // be slower for a moment, but not each time.
            let mut wrong = 0;
            for attempt in 0.. {
                let change = format!("--change={edited}");
                let told = compare(&homes[index], &contexts[index], &[&change]);
                contexts[index].write(edited, format!("{edited} {round} {attempt}\n"));
                let was_quiet = std::mem::replace(&mut quiet[index], build(index));
                let told = &told["edits"][0]["orderings"][index];
                let (measured, ran) = of_steps(&homes[index]);
                // Where early cutoff saved what it may save, it is the lower bound that came true.
                let predicted = if told["most"]["steps"] == ran { &told["most"] } else { &told["least"] };
                assert_eq!(
                    (&predicted["steps"], &predicted["unknown"]),
                    (&ran.into(), &0.into()),
                    "{told:#}"
                );
                let predicted = predicted["milliseconds"].as_f64().expect("a number");
                let others = if was_quiet && quiet[index] { "" } else { ", while others computed" };
                println!("{what}: {predicted} ms predicted, {measured} ms measured{others}");
                // What takes no time is not measured to a fifth.
                let near = (predicted - measured).abs() <= (measured / 5.0).max(50.0);
                if near && others.is_empty() {
                    break;
                }
                wrong += u32::from(others.is_empty());
                assert!(wrong < 5, "{what}: {predicted} ms predicted, {measured} ms measured");
                assert!(attempt < 12, "{what}: the machine has other things to do");
            }
            wrongs.push(wrong);
        }
    }
    wrongs
}

/// The steps of the last build.
fn steps_of(home: &Home) -> Vec<Value> {
    let told = run(home.builder("history").args(["inspect", "--format=json"])).ok().stdout;
    let record: Value = serde_json::from_str(&told).expect("JSON");
    record["steps"].as_array().expect("a list").clone()
}

/// How long the steps of the last build took that were executed, from begin to end, in milliseconds; and how many they were.
fn of_steps(home: &Home) -> (f64, usize) {
    let steps = steps_of(home);
    let ran = steps.iter().filter(|step| step["source"] == false && step["outcome"]["ran"].is_object());
    let times: Vec<(f64, f64)> = ran
        .filter_map(|step| Some((step["began"].as_f64()?, step["took"].as_f64()?)))
        .map(|(began, took)| (began, began + took))
        .collect();
    let first = times.iter().map(|(began, _)| *began).fold(f64::INFINITY, f64::min);
    let last = times.iter().map(|(_, ended)| *ended).fold(0.0, f64::max);
    ((last - first).max(0.0), times.len())
}

/// What lies beside the only directory that is used is no part of the edit, also where a record says what was used.
#[test]
fn only_what_is_used_is_edited() {
    let (home, context) = (Home::new(), Context::new("FROM busybox\nCOPY src/ .\n"));
    let context = context.file("src/a", "a").file("src/deep/b", "b").file("docs/c", "c").file("README", "d");
    run(&mut home.build(&context)).ok();
    let dockerfile = context.path().join("Dockerfile").display().to_string();
    for other in ["^0", &dockerfile] {
        let told = told(&home, &context, ["^0", other], &["--per-directory"]);
        let names: Vec<&Value> =
            told["edits"].as_array().expect("a list").iter().map(|edit| &edit["name"]).collect();
        assert_eq!(names, ["src/"], "{other}: {told:#}");
    }
}

/// A thousand commits, weighted by what they rerun, in a few seconds.
#[test]
fn the_commits_of_a_repository() {
    let home = Home::new();
    let context = Context::new("")
        .file("A", "FROM busybox\nCOPY . /app\nRUN cat /app/lock > /installed\n")
        .file("B", "FROM busybox\nCOPY lock /\nRUN cat /lock > /installed\nCOPY . /app\n")
        .file(".dockerignore", "A\nB\nDockerfile\n.dockerignore\n.git\nREADME\n")
        .file("lock", "1\n")
        .file("main", "1\n")
        .file("README", "1\n");
    commit_first(&context);
    let mut import = tool("git");
    import.arg("-C").arg(context.path()).args(["fast-import", "--quiet"]).stdin(Stdio::piped());
    let mut child = import.spawn().expect("start git fast-import");
    let mut stream = child.stdin.take().expect("a pipe");
    for number in 0..999 {
        let file = match number % 10 {
            0 => "lock",
            1 | 2 => "README",
            _ => "main",
        };
        let from = if number == 0 { "from refs/heads/main^0\n" } else { "" };
        write!(
            stream,
            "commit refs/heads/main\ncommitter n <n@example.com> {} +0000\ndata 1\nx\n{from}M 644 inline {file}\ndata {}\n{number:04}\n",
            1_700_000_000 + number,
            5,
        )
        .expect("write to git");
    }
    drop(stream);
    assert!(child.wait().expect("wait for git").success());
    let told = compare(&home, &context, &["--history=1000"]);
    for index in 0..2 {
        let expected = &told["orderings"][index]["expected"];
        assert_eq!(
            (&expected["unknown"], &expected["unsized"]),
            (&0.0.into(), &0.0.into()),
            "both are built: {told:#}"
        );
        assert!(
            expected["milliseconds"].as_f64() > Some(0.0) && expected["pushed"].as_f64() > Some(0.0),
            "{told:#}"
        );
    }
    let mut command = home.builder("compare");
    command.args(bases()).args(["--history=1000", "--format=json"]);
    command.args([context.path().join("A"), context.path().join("B")]).arg(context.path());
    let done = run(&mut command).ok();
    // It takes a tenth of a second; a commit at a time it would be minutes.
    assert!(done.took < Duration::from_secs(30), "{:?}", done.took);
    let told: Value = serde_json::from_str(&done.stdout).expect("JSON");
    let edits = told["edits"].as_array().expect("a list");
    let times = |runs: u64| -> u64 {
        let of_b = |edit: &&Value| edit["orderings"][1]["most"]["steps"] == runs;
        edits.iter().filter(of_b).map(|edit| edit["times"].as_u64().expect("a number")).sum()
    };
    // The first commit has every file.
    assert_eq!((times(0), times(1), times(3)), (200, 699, 101), "{told:#}");
    let expected = |index: usize| told["orderings"][index]["expected"]["steps"].as_f64().expect("a number");
    assert!((expected(0) - 1.6).abs() < 0.01 && (expected(1) - 1.002).abs() < 0.01, "{told:#}");
}

/// What nobody knows is built before; what is known, or is not to be, is not.
#[test]
fn what_is_unknown_is_built_before() {
    let home = Home::new();
    let context = Context::new("").file("A", "FROM busybox\nCOPY f /f\nRUN cat /f > /g\n").file("f", "1\n");
    let context = context.file("B", "FROM busybox\nRUN touch /x\nCOPY f /f\n");
    context.write(".dockerignore", "A\nB\nDockerfile\n.dockerignore\n");
    let builds = || {
        let told = run(home.builder("history").args(["ls", "--format=json"]));
        serde_json::from_str::<Value>(&told.stdout).map_or(0, |told| told.as_array().map_or(0, Vec::len))
    };
    let unknown = |told: &Value| {
        [0, 1].map(|index| told["orderings"][index]["expected"]["unknown"].as_f64().expect("a number"))
    };
    assert_eq!(unknown(&compare(&home, &context, &["--no-build", "--change=f"])), [2.0, 1.0]);
    assert_eq!(builds(), 0);
    // One of them.
    home.steps(&context, &["-f", context.path().join("A").to_str().expect("text")]);
    assert_eq!(unknown(&compare(&home, &context, &["--change=f"])), [0.0, 0.0]);
    assert_eq!(builds(), 2);
    assert_eq!(unknown(&compare(&home, &context, &["--change=f"])), [0.0, 0.0]);
    assert_eq!(builds(), 2);
    // A build that fails is told, and how to do without.
    context.write("B", "FROM busybox\nRUN exit 3\nCOPY f /f\n");
    let mut command = home.builder("compare");
    command.args(bases()).args([context.path().join("A"), context.path().join("B")]).arg(context.path());
    run(&mut command).code_is(1).says("the build of ").says("--no-build");
}

/// Builds that were recorded stand for their Dockerfiles, here and elsewhere, whatever has become of those.
#[test]
fn recorded_builds_are_compared() {
    let (server, laptop) = (Home::new(), Home::new());
    let a = "FROM busybox AS one\nCOPY lib /lib2\nRUN cat /lib2/x > /o\nFROM busybox\nCOPY --link lib/y /y\nCOPY --chmod=600 m /m\n\
             RUN --mount=type=bind,source=m,target=/n cat /n\nCOPY --from=one /o /o\n";
    let b = "FROM busybox\nCOPY *.txt /t/\nRUN ls /t\n";
    let context =
        Context::new("").file("A", a).file("B", b).file("lib/x", "1").file("lib/y", "1").file("m", "1");
    let context =
        context.file("a.txt", "1").file(".dockerignore", "A\nB\nDockerfile\n.dockerignore\nno.txt\n");
    let file = |name: &str| context.path().join(name).display().to_string();
    let of = |home: &Home, sides: [&str; 2], change: &str| {
        let change = format!("--change={change}");
        told(home, &context, sides, &["--no-build", &change])["edits"][0]["orderings"].clone()
    };
    for name in ["A", "B"] {
        server.steps(&context, &["-f", &file(name)]);
    }
    let dir = tempdir();
    let record = dir.path().join("record.json").display().to_string();
    run(server.builder("history").args(["export", "^1", "-o", &record])).ok();
    let listed = run(server.builder("history").args(["ls", "--format=json"])).ok().stdout;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let id = |build: usize| listed[build]["id"].as_str().expect("text").to_owned();
    // The mode of `m` is given once, and counts where it is mounted.
    for change in ["lib/x", "lib/y", "m", "a.txt", "no.txt", "other"] {
        let files = of(&server, [&file("A"), &file("B")], change);
        for recorded in [["^1", "^0"], [&id(1), &id(0)], [&record, "^0"]] {
            assert_eq!(of(&server, recorded, change), files, "{change} by {recorded:?}");
        }
        let elsewhere = of(&laptop, [&record, &record], change);
        assert_eq!(elsewhere[0], files[0], "{change} elsewhere");
        assert_eq!(elsewhere[1], files[0], "{change} elsewhere");
    }
    // What is new may be among what was asked for, which a record has roughly.
    let new = of(&server, ["^1", "^0"], "new.txt");
    assert_eq!(
        (titles(&new[0]["at_most"]), titles(&new[1]["at_most"])),
        (vec![], vec!["COPY *.txt /t/".into(), "RUN ls /t".into()])
    );
    assert_eq!(titles(&of(&server, ["^1", "^0"], "lib/new")[0]["runs"]), [""; 0]);
    // The Dockerfiles are not needed any more.
    fs::remove_file(context.path().join("A")).expect("remove");
    assert_eq!(titles(&of(&server, ["^1", "^0"], "m")[0]["runs"]).len(), 3);
    let mut command = server.builder("compare");
    run(command.args(["^7", "^0"]).arg(context.path())).code_is(1).says("there is no build `^7`");
}

/// A name means what it meant before the comparison built anything.
#[test]
fn names_of_builds_are_looked_up_before_anything_is_built() {
    let home = Home::new();
    let context = Context::new("").file("OLD", "FROM busybox\nCOPY a /a\n").file("a", "1\n");
    let file = |name: &str| context.path().join(name).display().to_string();
    let heading = |name: &str, new: &str| {
        let told = told(&home, &context, [name, &file(new)], &["--change=a"]);
        [0, 1].map(|index| told["orderings"][index]["name"].as_str().expect("text").to_owned())
    };
    home.steps(&context, &["-f", &file("OLD"), "-t", "app"]);
    for (number, name) in ["^0", "^1", "app"].into_iter().enumerate() {
        let new = format!("NEW{number}");
        context.write(&new, format!("FROM busybox\nRUN echo {number} > /b\nCOPY a /a\n"));
        let [a, b] = heading(name, &new);
        assert!(a.contains(&file("OLD")) && b == file(&new), "{name}: {a}, {b}");
    }
    // Where nothing has that name, nothing is built, which might have it then.
    let never = Home::new();
    for (home, name, why) in
        [(&home, "^9", "there is no build `^9`"), (&never, "^0", "there is no state directory")]
    {
        context.write("NEW", format!("FROM busybox\nRUN echo {name} > /b\n"));
        let mut command = home.builder("compare");
        command.args(bases()).args([name, &file("NEW")]).arg(context.path());
        let told = run(&mut command).code_is(1).says(why);
        assert!(!told.stderr.contains("NEW"), "{told}");
    }
}

/// As in a build, the ignore file of a Dockerfile counts before that of the context.
#[test]
fn recorded_builds_have_the_ignore_files_of_their_dockerfiles() {
    let home = Home::new();
    let context = Context::new("").file("A", "FROM busybox\nCOPY . /a\n").file("A.dockerignore", "zzz\n");
    let context = context.file(".dockerignore", "new*\n");
    let a = context.path().join("A").display().to_string();
    home.steps(&context, &["-f", &a]);
    for (file, runs) in [("newfile", 1), ("zzz", 0)] {
        let told = told(&home, &context, ["^0", &a], &["--no-build", &format!("--change={file}")]);
        for ordering in [0, 1] {
            let most = &told["edits"][0]["orderings"][ordering]["most"]["steps"];
            assert_eq!(most, &Value::from(runs), "{file}, {ordering}: {told:#}");
        }
        context.write(file, "1\n");
        let ran = home.steps(&context, &["-f", &a]).executed().len();
        assert_eq!(ran, runs, "{file}");
        fs::remove_file(context.path().join(file)).expect("remove");
        home.steps(&context, &["-f", &a]);
    }
}

/// What a step took when it ran last is known also while the files that it uses are others than at that time.
#[test]
fn times_are_known_beside_other_files() {
    let home = Home::new();
    let dockerfile = "FROM busybox\nRUN --mount=type=bind,target=/s cat /s/f > /o\nCOPY f /f\n";
    let context = Context::new("").file("A", dockerfile).file("B", dockerfile).file("f", "1\n");
    context.write(".dockerignore", "A\nB\nDockerfile\n.dockerignore\n");
    home.steps(&context, &["-f", context.path().join("A").to_str().expect("text")]);
    context.write("f", "2\n");
    let told = compare(&home, &context, &["--change=f"]);
    let most = &told["edits"][0]["orderings"][0]["most"];
    assert_eq!((&most["steps"], &most["unknown"]), (&3.into(), &0.into()), "{told:#}");
}

#[test]
fn a_page_for_the_browser() {
    let home = Home::new();
    let context =
        Context::new("").file("A", "FROM busybox\nCOPY . /app\n").file("B", "FROM busybox AS x\nCOPY A /\n");
    let page = context.path().join("report.html");
    let mut command = home.builder("compare");
    command.args(bases()).args(["--no-build", "--change=A", "--format=html", "-o"]).arg(&page);
    command.args([context.path().join("A"), context.path().join("B")]).arg(context.path());
    assert_eq!(run(&mut command).ok().stdout, "");
    let told = run(tool("stat").args(["-c", "%a"]).arg(&page)).ok().stdout;
    let usual = run(tool("sh").args(["-c", "umask"])).ok().stdout;
    let umask = u32::from_str_radix(usual.trim(), 8).expect("a umask");
    assert_eq!(told.trim(), format!("{:o}", 0o666 & !umask), "as of any other file");
    let text = fs::read_to_string(&page).expect("the page");
    assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>\n"), "{text}");
    assert!(text.contains("data-effects=\"r\"") && !text.contains("://"), "{text}");
    // What the pointer shows over a step: all of its name, and what it took where somebody knows.
    assert!(text.contains(" title=\"[2/2] COPY . /app\n? when it ran, ?, a layer of the image\""), "{text}");
}

#[test]
fn mistakes_are_told() {
    let home = Home::new();
    let context = Context::new("").file("A", "FROM busybox\n").file("B", "FORM busybox\n");
    let fails = |arguments: &[&str], b: &str, code: i32, words: &str| {
        let mut command = home.builder("compare");
        command.args(bases()).args(arguments).args([context.path().join("A"), context.path().join(b)]);
        run(command.arg(context.path())).code_is(code).says(words)
    };
    fails(&[], "B", 1, "B has a mistake");
    fails(&[], "C", 1, "there is no file");
    fails(&["--change=../x"], "A", 2, "without `..`");
    fails(&["-o", "/not/there/page"], "A", 1, "the directory /not/there does not exist");
    fails(&["--change=x", "--history=3"], "A", 2, "cannot be used with");
    fails(
        &["--change=package.jsno"],
        "A",
        0,
        "the context has no such file, and neither Dockerfile would use it",
    );
    // A `COPY .` would take it.
    context.write("A", "FROM busybox\nCOPY . /all\nRUN true\n");
    context.write("package.json", "{}");
    fails(
        &["--change=package.jsno"],
        "A",
        0,
        "no such file; it counts as a new one; did you mean package.json?",
    );
    let never = Home::new();
    let mut command = never.builder("compare");
    command
        .args(bases())
        .args(["--no-build", "--change=package.json"])
        .args([context.path().join("A"), context.path().join("A")]);
    let told = run(command.arg(context.path())).ok();
    assert!(told.stdout.contains("expected cost per edit: A unknown time and unknown bytes"), "{told}");
    assert!(told.stderr.is_empty(), "{told}");
    fails(&["--history=3"], "A", 2, "git log");
    fails(&["--build-context=x"], "A", 2, "expected NAME=SOURCE");
}
