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
        run(command.arg(context.path())).code_is(code).says(words);
    };
    fails(&[], "B", 1, "B has a mistake");
    fails(&[], "C", 1, "there is no such file");
    fails(&["--change=../x"], "A", 2, "without `..`");
    fails(&["--change=x", "--history=3"], "A", 2, "exclude each other");
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
    let mut command = home.builder("compare");
    command
        .args(bases())
        .args(["--change=package.json"])
        .args([context.path().join("A"), context.path().join("A")]);
    let told = run(command.arg(context.path())).ok();
    assert!(told.stdout.contains("expected cost per edit: A unknown time and unknown bytes"), "{told}");
    assert!(told.stderr.is_empty(), "{told}");
    fails(&["--history=3"], "A", 2, "git log");
    fails(&["--build-context=x"], "A", 2, "expected NAME=SOURCE");
}
