//! What edits rerun under two orders of instructions: predicted, and then done.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use e2e::{Context, Home, bases, run, tool};
use serde_json::Value;

/// An edit of the context.
#[derive(Clone, Copy)]
enum Edit {
    Change(&'static str),
    Create(&'static str),
    Delete(&'static str),
}

impl Edit {
    fn path(self) -> &'static str {
        match self {
            Edit::Change(path) | Edit::Create(path) | Edit::Delete(path) => path,
        }
    }

    /// Does it, and returns what undoes it.
    fn apply(self, context: &Context) -> impl FnOnce() {
        let path = context.path().join(self.path());
        let before = fs::read(&path).ok();
        match self {
            Edit::Change(_) => {
                fs::write(&path, [before.as_deref().expect("it is there"), b"more\n"].concat())
            }
            Edit::Create(_) => fs::write(&path, "new\n"),
            Edit::Delete(_) => fs::remove_file(&path),
        }
        .expect("edit the context");
        move || match before {
            Some(bytes) => fs::write(&path, bytes).expect("write it back"),
            None => fs::remove_file(&path).expect("remove it"),
        }
    }
}

fn compare(home: &Home, context: &Context, arguments: &[&str]) -> Value {
    let mut command = home.builder("compare");
    command.args(bases()).arg("--format=json").args(arguments);
    command.args([context.path().join("A"), context.path().join("B")]).arg(context.path());
    serde_json::from_str(&run(&mut command).ok().stdout).expect("JSON")
}

/// The titles of steps, without what is no instruction.
fn titles(names: &Value) -> Vec<String> {
    let names = names.as_array().expect("a list").iter().map(|name| name.as_str().expect("a name"));
    let instructions = names.filter(|name| !name.starts_with("[internal]"));
    let mut titles: Vec<String> =
        instructions.map(|name| name.split_once("] ").expect("a place").1.to_owned()).collect();
    titles.sort();
    titles
}

/// Builds both, predicts each edit, does it, builds again. Exactly what was predicted runs; of what is predicted as "at most", perhaps
/// not all. `exact` says that there is no such step.
#[track_caller]
fn predicted(a: &str, b: &str, files: &[&str], ignored: &str, edits: &[Edit], exact: bool) {
    // In one store what the one has built would be there for the other.
    let homes = [Home::new(), Home::new(), Home::new()];
    let mut context = Context::new("").file("A", a).file("B", b);
    context = context.file(".dockerignore", format!("A\nB\nDockerfile\n.dockerignore\n{ignored}"));
    for file in files {
        context = context.file(file, format!("text of {file}\n"));
    }
    let build = |home: usize, file: &str| {
        homes[home].steps(&context, &["-f", context.path().join(file).to_str().expect("text")])
    };
    for (home, file) in [(0, "A"), (0, "B"), (1, "A"), (2, "B")] {
        build(home, file);
    }
    let changes: Vec<String> = edits.iter().map(|edit| format!("--change={}", edit.path())).collect();
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    let told = compare(&homes[0], &context, &changes);
    for (edit, told) in edits.iter().zip(told["edits"].as_array().expect("a list")) {
        let undo = edit.apply(&context);
        for ((home, file), told) in
            [(1, "A"), (2, "B")].into_iter().zip(told["orderings"].as_array().expect("a list"))
        {
            let steps = build(home, file);
            let mut ran: Vec<String> = steps.executed().into_iter().map(str::to_owned).collect();
            ran.sort();
            let (runs, at_most) = (titles(&told["runs"]), titles(&told["at_most"]));
            let place = format!("{} under {file}: {told:#}\nran {ran:#?}", edit.path());
            assert_eq!(told["most"]["unknown"], 0, "{place}");
            if exact {
                assert_eq!(at_most, [""; 0], "{place}");
            }
            let ran: BTreeSet<&String> = ran.iter().collect();
            let least: BTreeSet<&String> = runs.iter().collect();
            let most: BTreeSet<&String> = runs.iter().chain(&at_most).collect();
            assert!(least.is_subset(&ran) && ran.is_subset(&most), "{place}");
        }
        undo();
    }
    // Nothing was run by asking, and nothing is left of the edits.
    for (home, file) in [(0, "A"), (0, "B"), (1, "A"), (2, "B")] {
        build(home, file).all_cached();
    }
}

/// The classic one.
#[test]
fn dependencies_before_or_after_the_program() {
    predicted(
        "FROM busybox\nCOPY . /app\nRUN cat /app/requirements.txt > /installed\n",
        "FROM busybox\nCOPY requirements.txt /r\nRUN cat /r > /installed\nCOPY . /app\n",
        &["requirements.txt", "main.py", "lib/util.py", "docs/index.md"],
        "docs\n",
        &[
            Edit::Change("requirements.txt"),
            Edit::Change("main.py"),
            Edit::Change("lib/util.py"),
            Edit::Change("docs/index.md"),
            Edit::Create("lib/new.py"),
            Edit::Create("docs/new.md"),
            Edit::Delete("main.py"),
        ],
        true,
    );
}

#[test]
fn patterns_and_excluded_files() {
    predicted(
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
        "**/*.log\n",
        &[
            Edit::Change("package-lock.json"),
            Edit::Change("tsconfig.json"),
            Edit::Change("README.md"),
            Edit::Change("src/deep/y.md"),
            Edit::Create("package-extra.json"),
            Edit::Create("src/x.log"),
            Edit::Create("b.ts"),
            Edit::Delete("package-lock.json"),
        ],
        true,
    );
}

/// What is copied out of a stage may be the same although the stage ran.
#[test]
fn one_stage_or_two() {
    predicted(
        "FROM busybox AS build\nCOPY . /src\nRUN head -c 4 /src/main.c > /out\nFROM busybox\nCOPY --from=build /out /out\nRUN cat /out\n",
        "FROM busybox\nCOPY . /src\nRUN head -c 4 /src/main.c > /out\nRUN cat /out\n",
        &["main.c", "notes.txt"],
        "",
        &[Edit::Change("main.c"), Edit::Change("notes.txt"), Edit::Create("x"), Edit::Delete("notes.txt")],
        false,
    );
}

/// A step that only looks at files changes nothing for what stands on it.
#[test]
fn mounted_or_copied() {
    predicted(
        "FROM busybox\nRUN --mount=type=bind,source=src,target=/src cat /src/a > /dev/null\nRUN echo after\n",
        "FROM busybox\nCOPY src /src\nRUN cat /src/a > /dev/null\nRUN echo after\n",
        &["src/a", "src/b", "other"],
        "",
        &[Edit::Change("src/a"), Edit::Change("src/b"), Edit::Change("other"), Edit::Create("src/c")],
        false,
    );
}

#[test]
fn layers_of_their_own_or_not() {
    predicted(
        "FROM busybox\nCOPY --link a /a\nCOPY --link b /b\nCOPY --chmod=600 c /c\n",
        "FROM busybox\nCOPY a /a\nCOPY b /b\nCOPY --chmod=600 c /c\n",
        &["a", "b", "c"],
        "",
        &[Edit::Change("a"), Edit::Change("b"), Edit::Change("c")],
        false,
    );
}

#[test]
fn added_or_copied() {
    predicted(
        "FROM busybox\nADD conf /conf\nRUN ls /conf\nARG X=1\nRUN echo $X\n",
        "FROM busybox\nARG X=1\nRUN echo $X\nCOPY conf /conf\nRUN ls /conf\n",
        &["conf/a.conf", "conf/b.conf", "else"],
        "",
        &[Edit::Change("conf/a.conf"), Edit::Change("else"), Edit::Delete("conf/b.conf")],
        false,
    );
}

fn git(context: &Context, arguments: &[&str]) {
    let mut git = tool("git");
    git.arg("-C").arg(context.path()).args(["-c", "user.name=n", "-c", "user.email=n@example.com"]);
    run(git.args(arguments)).ok();
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
    git(&context, &["init", "-q", "-b", "main"]);
    git(&context, &["add", "-A"]);
    git(&context, &["commit", "-q", "-m", "Begin"]);
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
    let mut command = home.builder("compare");
    command.args(bases()).args(["--build", "--history=1000", "--format=json"]);
    command.args([context.path().join("A"), context.path().join("B")]).arg(context.path());
    run(&mut command).ok();
    let mut command = home.builder("compare");
    command.args(bases()).args(["--history=1000", "--format=json"]);
    command.args([context.path().join("A"), context.path().join("B")]).arg(context.path());
    let done = run(&mut command).ok();
    assert!(done.took < Duration::from_secs(5), "{:?}", done.took);
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

#[test]
fn the_directories_of_a_context() {
    let home = Home::new();
    let context = Context::new("")
        .file("A", "FROM busybox\nCOPY . /app\n")
        .file("B", "FROM busybox\nCOPY src/lock /\nCOPY src /src\nCOPY docs /docs\n")
        .file(".dockerignore", "A\nB\nDockerfile\n.dockerignore\n")
        .file("src/lock", "")
        .file("src/a", "")
        .file("src/deep/b", "")
        .file("docs/deep/c", "")
        .file("docs/d", "");
    let told = compare(&home, &context, &[]);
    let names: Vec<&str> = told["edits"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|edit| edit["name"].as_str().expect("text"))
        .collect();
    assert_eq!(names, ["docs/", "src/a", "src/deep/b", "src/lock"], "{told:#}");
}

#[test]
fn a_page_for_the_browser() {
    let home = Home::new();
    let context =
        Context::new("").file("A", "FROM busybox\nCOPY . /app\n").file("B", "FROM busybox AS x\nCOPY A /\n");
    let page = context.path().join("report.html");
    let mut command = home.builder("compare");
    command.args(bases()).args(["--change=A", "--format=html", "-o"]).arg(&page);
    command.args([context.path().join("A"), context.path().join("B")]).arg(context.path());
    assert_eq!(run(&mut command).ok().stdout, "");
    let text = fs::read_to_string(&page).expect("the page");
    assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>\n"), "{text}");
    assert!(text.contains("data-effects=\"r\"") && !text.contains("://"), "{text}");
}

#[test]
fn mistakes_are_told() {
    let home = Home::new();
    let context = Context::new("").file("A", "FROM busybox\n").file("B", "FORM busybox\n");
    let fails = |arguments: &[&str], b: &str, code: i32, words: &str| {
        let mut command = home.builder("compare");
        command.args(bases()).args(arguments).args([context.path().join("A"), context.path().join(b)]);
        run(command.arg(context.path())).code_is(code).says(words);
    };
    fails(&[], "B", 1, "B has a mistake");
    fails(&[], "C", 1, "there is no such file");
    fails(&["--change=../x"], "A", 2, "without `..`");
    fails(&["--change=x", "--history=3"], "A", 2, "exclude each other");
    fails(&["--history=3"], "A", 2, "git log");
    fails(&["--build-context=x"], "A", 2, "expected NAME=SOURCE");
}
