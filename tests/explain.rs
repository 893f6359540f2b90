//! Why steps ran, in the user's words; and what is kept of builds.

use std::fs;
use std::path::Path;

use e2e::{Context, Done, Home, Repositories, base, feed, run, tempdir, tool};
use serde_json::Value;

const NPM: &str = "\
FROM busybox
ARG GIT_SHA=a1b2
WORKDIR /app
COPY package.json ./
RUN cat package.json > installed
COPY . .
RUN sh ./run.sh
";

fn npm() -> Context {
    let context = Context::new(NPM).file("package.json", "{}\n").file("run.sh", "echo said\n");
    context.chmod("run.sh", 0o644);
    context
}

fn build(home: &Home, context: &Context, arguments: &[&str]) -> Done {
    run(home.build(context).arg("--progress=plain").args(arguments)).ok()
}

fn explain(home: &Home, arguments: &[&str]) -> String {
    run(home.builder("explain").args(arguments)).ok().stdout
}

/// The sentence about one step of the last build.
#[track_caller]
fn sentence(home: &Home, step: &str) -> String {
    let text = explain(home, &[&format!(":{step}")]);
    text.lines().next().unwrap_or_default().to_owned()
}

/// Builds what `edit` makes of the context; whether `step` then ran for the reason `words`, and is there again once that is undone.
#[track_caller]
fn reason(edit: impl Fn(&Context), undo: impl Fn(&Context), step: &str, words: &str) {
    let home = Home::new();
    let context = npm();
    build(&home, &context, &[]);
    edit(&context);
    let done = build(&home, &context, &[]);
    let (title, cause) = words.split_once(": ").expect("a step and a reason");
    assert!(done.stderr.contains(&format!("not cached: {cause}")), "{words}\n{done}");
    assert_eq!(sentence(&home, step), words);
    undo(&context);
    let done = build(&home, &context, &[]);
    assert!(!done.stderr.contains("not cached"), "{title} hits again\n{done}");
    assert!(sentence(&home, step).ends_with(": it was cached"), "{}", sentence(&home, step));
}

#[test]
fn a_file_changed() {
    reason(
        |context| context.write("package.json", "{ }\n"),
        |context| context.write("package.json", "{}\n"),
        "RUN cat",
        "RUN cat package.json > installed: package.json changed (COPY package.json ./)",
    );
}

#[test]
fn a_mode_changed() {
    reason(
        |context| context.chmod("run.sh", 0o664),
        |context| context.chmod("run.sh", 0o644),
        "COPY . .",
        "COPY . .: mode of run.sh 0644 → 0664",
    );
}

#[test]
fn a_file_came_and_another_went() {
    reason(
        |context| {
            context.write("new", "");
            fs::remove_file(context.path().join("run.sh")).expect("remove");
            context.write("run.sh/x", "");
            fs::remove_dir_all(context.path().join("run.sh")).expect("remove");
            context.write("Dockerfile", NPM.replace("sh ./run.sh", "echo no"));
        },
        |context| {
            fs::remove_file(context.path().join("new")).expect("remove");
            context.write("run.sh", "echo said\n");
            context.chmod("run.sh", 0o644);
            context.write("Dockerfile", NPM);
        },
        "COPY . .",
        "COPY . .: Dockerfile changed, new added, run.sh removed",
    );
}

#[test]
fn a_command_changed() {
    reason(
        |context| context.write("Dockerfile", NPM.replace("> installed", "> elsewhere")),
        |context| context.write("Dockerfile", NPM),
        "RUN cat",
        "RUN cat package.json > elsewhere: command: /bin/sh -c cat package.json > installed → /bin/sh -c cat package.json > \
         elsewhere",
    );
}

/// Ids of cache mounts are kept and shown.
#[test]
fn a_cache_mount_named_by_a_secret_does_not_tell_it() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nARG NPM_TOKEN\nARG PART\n\
         RUN --mount=type=cache,id=npm-$NPM_TOKEN,target=/c echo $PART >> /c/parts && cat /c/parts > /parts\n",
    );
    let parts = |token: &str, part: &str| {
        let (token, part) = (format!("--build-arg=NPM_TOKEN={token}"), format!("--build-arg=PART={part}"));
        let output = tempdir();
        let to = format!("--output={}", output.path().display());
        run(home.build(&context).args([&token, &part, &to])).ok();
        fs::read_to_string(output.path().join("parts")).expect("read")
    };
    assert_eq!(parts("hunter22", "1"), "1\n");
    // Which one it is still depends on the value.
    assert_eq!(parts("hunter33", "2"), "2\n");
    assert_eq!(parts("hunter22", "3"), "1\n3\n");
    for command in [&["cache", "ls"][..], &["du", "--verbose"], &["history", "inspect"]] {
        let told = run(home.builder(command[0]).args(&command[1..])).ok().stdout;
        assert!(!told.contains("hunter"), "{command:?}: {told}");
    }
    let listed = run(home.builder("cache").arg("ls")).ok().stdout;
    assert_eq!(listed.matches("npm-***-").count(), 2, "{listed}");
    let found = run(tool("grep").args(["-rlE", "hunter(22|33)"]).arg(home.path()));
    assert_eq!(found.stdout, "", "no file of the store has it");
}

/// Nor does the step that brings files of the context to a mount, whose name has their path.
#[test]
fn a_bind_mount_named_by_a_secret_does_not_tell_it() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nARG API_TOKEN\nRUN --mount=type=bind,source=d-$API_TOKEN,target=/m cat /m/a > /seen\n",
    );
    let context = context.file("d-hunter22/a", "1").file("d-hunter33/a", "2");
    for token in ["hunter22", "hunter33"] {
        let token = format!("--build-arg=API_TOKEN={token}");
        let done = build(&home, &context, &[&token]).says("[internal] prepare mount of d-***\n");
        assert!(!done.stderr.contains("hunter"), "{done}");
        for command in [&["history", "inspect", "--format=json"][..], &["explain"]] {
            let told = run(home.builder(command[0]).args(&command[1..])).ok().stdout;
            assert!(!told.contains("hunter"), "{command:?}: {told}");
        }
    }
}

#[test]
fn an_argument_changed_and_a_secret_one_is_not_shown() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nARG GIT_SHA=a1b2\nARG NPM_TOKEN=hunter22\nENV MODE=x\nRUN echo $NPM_TOKEN\n",
    );
    build(&home, &context, &[]);
    build(&home, &context, &["--build-arg=GIT_SHA=c3d4"]).says("not cached: ARG GIT_SHA: a1b2 → c3d4");
    assert!(sentence(&home, "2/2").ends_with(": ARG GIT_SHA: a1b2 → c3d4"), "{}", sentence(&home, "2/2"));
    build(&home, &context, &["--build-arg=GIT_SHA=c3d4", "--build-arg=NPM_TOKEN=hunter33"])
        .says("not cached: ARG NPM_TOKEN changed");
    context.write(
        "Dockerfile",
        fs::read_to_string(context.path().join("Dockerfile")).expect("read").replace("=x", "=y"),
    );
    let same = ["--build-arg=GIT_SHA=c3d4", "--build-arg=NPM_TOKEN=hunter33"];
    build(&home, &context, &same).says("not cached: ENV MODE: x → y");
    for id in ["^0", "^1", "^2", "^3"] {
        for command in ["export", "inspect", "logs"] {
            let told = run(home.builder("history").args([command, id])).ok().stdout;
            assert!(!told.contains("hunter"), "{command} {id}: {told}");
        }
    }
}

#[test]
fn a_base_image_changed() {
    let home = Home::new();
    let layouts = tempdir();
    let layout = layouts.path().join("base");
    let make = |text: &str| {
        let base = Context::new(&format!("FROM busybox\nRUN echo {text} > /base\n"));
        let _ = fs::remove_dir_all(&layout);
        build(&home, &base, &["-o", &format!("type=oci,tar=false,dest={}", layout.display())]);
    };
    let context = Context::new("FROM mybase\nRUN cat /base\n");
    let argument = format!("--build-context=mybase=oci-layout://{}", layout.display());
    make("one");
    build(&home, &context, &[&argument]);
    make("two");
    build(&home, &context, &[&argument]).says("not cached: base image mybase: new digest");
    assert_eq!(sentence(&home, "RUN"), "RUN cat /base: base image mybase: new digest");
}

#[test]
fn never_built_switched_off_and_removed() {
    let home = Home::new();
    let context = npm();
    let done = build(&home, &context, &[]);
    told(&home, &done, &["RUN sh ./run.sh: never built here"]);
    let done = build(&home, &context, &["--no-cache"]);
    told(&home, &done, &["RUN sh ./run.sh: the cache is switched off for it"]);
    run(home.builder("prune").args(["--all", "--force"])).ok();
    let done = build(&home, &context, &[]);
    told(&home, &done, &["RUN sh ./run.sh: evicted just now by builder prune --all"]);
    assert_eq!(explain(&home, &[]).matches("evicted").count(), 1, "one cause");
    // The same two hours later.
    run(home.builder("prune").args(["--all", "--force"])).ok();
    remembered(&home, |note| {
        let Some(evicted) = note["evicted"].as_i64() else { return false };
        note["evicted"] = (evicted - 2 * 3_600_000).into();
        true
    });
    let done = build(&home, &context, &[]);
    told(&home, &done, &["RUN sh ./run.sh: evicted 2 hours ago by builder prune --all"]);
}

/// What was built before is not known after the database was lost, and nobody says that it never was.
#[test]
fn a_lost_database_is_named() {
    let home = Home::new();
    let context = npm();
    build(&home, &context, &[]);
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(home.path().join(format!("cache-v1.db{suffix}")));
    }
    fs::write(home.path().join("cache-v1.db"), vec![7; 10_000]).expect("damage the database");
    let done = build(&home, &context, &[]).says("WARNING: the cache database was damaged");
    let why = "not built here since the damaged cache database was replaced just now";
    told(&home, &done, &[&format!("RUN sh ./run.sh: {why}")]);
    context.write("run.sh", "echo changed\n");
    build(&home, &context, &[]);
    assert_eq!(sentence(&home, "RUN sh"), "RUN sh ./run.sh: run.sh changed (COPY . .)");
}

/// A step whose own files changed may stand on another that ran for a reason of its own: undoing one of them would not be enough.
#[test]
fn each_of_two_causes_is_named() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nCOPY a /a\nCOPY b /b\nRUN cat /a /b > /c\n");
    let context = context.file("a", "1").file("b", "1");
    build(&home, &context, &[]);
    context.write("a", "2");
    context.write("b", "2");
    build(&home, &context, &[]);
    // By the numbers that it shows.
    let text = explain(&home, &[]);
    assert!(text.contains("  1  [2/4] COPY a /a") && text.contains("  3  [4/4] RUN cat"), "{text}");
    assert_eq!(explain(&home, &[":1"]), "COPY a /a: a changed\n");
    assert_eq!(explain(&home, &[":2"]), "COPY b /b: b changed\n  and a changed (COPY a /a)\n");
    assert_eq!(
        explain(&home, &[":3"]),
        "RUN cat /a /b > /c: a changed (COPY a /a)\n  and b changed (COPY b /b)\n"
    );
}

#[test]
fn tables_fit_into_a_narrow_terminal() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nRUN echo a command that is longer than any terminal of sixty columns could ever show in one line\n",
    );
    build(&home, &context, &["-t", "a-registry.example/with/a/long/path/and/a/long/name:of-a-tag"]);
    let piped = run(home.builder("history").arg("inspect")).ok().stdout;
    assert!(!piped.contains('…') && piped.contains("could ever show in one line"), "{piped}");
    for command in
        ["history ls", "history inspect", "explain", "du --by=step", "du --by=image", "du --by=stage"]
    {
        let line = format!(
            "stty rows 24 cols 60; exec env BUILDER_HOME={} {} {command}",
            home.path().display(),
            e2e::binary().display()
        );
        let shown = run(tool("script").args(["-qec", &line, "/dev/null"])).ok().stdout;
        for line in shown.lines() {
            let columns = line.trim_end().chars().count();
            // A sentence is not cut; a table is.
            assert!(columns <= 60 || !line.contains("  "), "{command}: {columns} columns\n{shown}");
        }
    }
}

#[test]
fn a_failed_step_is_explained_too() {
    let home = Home::new();
    let context = npm();
    build(&home, &context, &[]);
    context.write("run.sh", "echo before; exit 3\n");
    run(home.build(&context).arg("--progress=plain")).code_is(1);
    assert_eq!(sentence(&home, "RUN sh"), "RUN sh ./run.sh: run.sh changed (COPY . .)");
    let list = run(home.builder("history").arg("ls")).ok().stdout;
    assert!(list.contains("failed"), "{list}");
    let logs = run(home.builder("history").args(["logs", ":RUN sh"])).ok().stdout;
    assert_eq!(logs, "before\n");
}

#[test]
fn one_change_and_all_that_it_dragged_along() {
    let home = Home::new();
    let context = npm();
    build(&home, &context, &[]);
    context.write("package.json", "{ }\n");
    build(&home, &context, &[]);
    let json: Value = serde_json::from_str(&explain(&home, &["--format=json"])).expect("JSON");
    let names = |list: &Value| -> Vec<String> {
        let steps = list.as_array().expect("a list").iter();
        steps.map(|step| step["name"].as_str().expect("a name").to_owned()).collect()
    };
    let causes = json["causes"].as_array().expect("a list");
    assert_eq!(causes.len(), 1, "{json:#}");
    assert_eq!(causes[0]["cause"], "package.json changed");
    assert_eq!(names(&causes[0]["hit"]), ["[3/6] COPY package.json ./", "[5/6] COPY . ."]);
    assert_eq!(
        names(&causes[0]["dragged"]),
        ["[4/6] RUN cat package.json > installed", "[6/6] RUN sh ./run.sh"]
    );
    assert_eq!((&json["executed"], &json["steps"]), (&4.into(), &5.into()));
    assert!(causes[0]["bytes"].as_u64().expect("bytes") >= 4, "{json:#}");
    // The record agrees with what was shown while it was built.
    build(&home, &context, &[]);
    assert!(explain(&home, &[]).contains("Everything was cached"), "{}", explain(&home, &[]));
    assert!(explain(&home, &["--against", "^1"]).contains("Nothing is different"));
}

/// A build on a server, taken along as a file, against one on another machine.
#[test]
fn builds_of_two_machines() {
    let (server, laptop) = (Home::new(), Home::new());
    let context = npm();
    build(&server, &context, &[]);
    let dir = tempdir();
    let record = dir.path().join("ci.json");
    run(server.builder("history").arg("export").arg("-o").arg(&record)).ok();
    let text = fs::read_to_string(&record).expect("the record");
    assert!(text.contains("run.sh"), "it has the files' digests");

    let itself = ["--against-record", record.to_str().expect("text")];
    assert!(explain(&server, &itself).contains("Nothing is different"), "{}", explain(&server, &itself));
    build(&laptop, &context, &[]);
    let against = ["--against-record", record.to_str().expect("text")];
    assert!(explain(&laptop, &against).contains("Nothing is different"), "{}", explain(&laptop, &against));
    context.chmod("run.sh", 0o755);
    build(&laptop, &context, &["--build-arg=GIT_SHA=c3d4"]);
    let told = explain(&laptop, &against);
    assert!(told.contains("mode of run.sh 0644 → 0755"), "{told}");
    assert!(told.contains("ARG GIT_SHA: a1b2 → c3d4"), "{told}");

    let id = run(laptop.builder("history").arg("import").arg(&record)).ok().stdout;
    let told = explain(&laptop, &["--against", id.trim()]);
    assert!(told.contains("mode of run.sh 0644 → 0755"), "{told}");
    run(laptop.builder("history").arg("import").arg(file(dir.path(), "{}")))
        .code_is(2)
        .says("no build record");
}

fn file(dir: &Path, text: &str) -> std::path::PathBuf {
    let path = dir.join("file");
    fs::write(&path, text).expect("write");
    path
}

/// Values that only one machine can compare are told as such, never as a change.
#[test]
fn hidden_values_of_two_machines_do_not_compare() {
    let (server, laptop) = (Home::new(), Home::new());
    let context = Context::new("FROM busybox\nARG API_KEY\nRUN true\n");
    build(&server, &context, &["--build-arg=API_KEY=same-value"]);
    build(&laptop, &context, &["--build-arg=API_KEY=other-value"]);
    let dir = tempdir();
    let record = dir.path().join("ci.json");
    run(server.builder("history").arg("export").arg("-o").arg(&record)).ok();
    let told = explain(&laptop, &["--against-record", record.to_str().expect("text")]);
    assert!(told.contains("a value that is kept secret may be another one"), "{told}");
}

/// A step that computes takes its time of a processor, one that waits does not, and of a cached one nothing is told.
#[test]
fn processor_time_of_steps_is_kept() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nRUN sleep 0.4; i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done\nRUN sleep 0.4\nCOPY Dockerfile /\n",
    );
    let cpu = || {
        let told = run(home.builder("history").args(["inspect", "--format=json"])).ok().stdout;
        let record: Value = serde_json::from_str(&told).expect("JSON");
        let of = |word: &str| {
            let steps = record["steps"].as_array().expect("a list");
            let is = |step: &&Value| step["name"].as_str().is_some_and(|name| name.ends_with(word));
            let step = steps.iter().find(is).expect("the step");
            (step["cpu"].as_u64(), step["took"].as_u64().unwrap_or(0))
        };
        ["done", "RUN sleep 0.4", "COPY Dockerfile /"].map(of)
    };
    build(&home, &context, &[]);
    let [(computing, all), (waiting, _), (copying, _)] = cpu();
    let (computing, waiting) = (computing.expect("known"), waiting.expect("known"));
    assert!(computing > 3 * waiting.max(5) && computing + 350 < all, "{computing} of {all} ms, {waiting} ms");
    assert_eq!(copying, None);
    let shown = run(home.builder("history").arg("inspect")).ok().stdout;
    assert!(shown.lines().any(|line| line.contains("TIME ") && line.contains(" CPU ")), "{shown}");
    build(&home, &context, &[]);
    assert_eq!(cpu().map(|(cpu, _)| cpu), [None; 3]);
}

#[test]
fn what_is_kept_of_builds() {
    let home = Home::new();
    let context = npm();
    let history = |arguments: &[&str]| run(home.builder("history").args(arguments));
    history(&["inspect"]).code_is(1).says("there is no state directory at");
    build(&home, &Context::new("FROM busybox\n"), &[]);
    run(home.builder("history").args(["rm", "--all"])).ok();
    history(&["inspect"]).code_is(1).says("no builds are recorded yet");
    assert_eq!(history(&["ls"]).ok().stdout, "");
    build(&home, &context, &["-t", "app"]);
    build(&home, &context, &["--build-arg=GIT_SHA=x"]);
    let list: Value = serde_json::from_str(&history(&["ls", "--format=json"]).ok().stdout).expect("JSON");
    let ids: Vec<&str> =
        list.as_array().expect("a list").iter().map(|b| b["id"].as_str().expect("id")).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(list[1]["names"][0], "docker.io/library/app:latest");
    assert_eq!((&list[0]["executed"], &list[1]["executed"]), (&2.into(), &5.into()), "{list:#}");
    assert!(list[1]["image"].as_str().expect("an id").starts_with("sha256:"));
    let shown = history(&["inspect", &ids[0][..6]]).ok().stdout;
    assert!(shown.contains("build-arg GIT_SHA:") && shown.contains("[4/6] RUN cat"), "{shown}");
    // An image stands for the build that made it last, also with a step.
    let image = list[1]["image"].as_str().expect("an id");
    for name in ["app", "app:latest", "docker.io/library/app", image, &image["sha256:".len()..][..6]] {
        let shown = history(&["inspect", name]).ok().stdout;
        assert!(shown.contains(ids[1]), "{name}: {shown}");
    }
    for name in ["app", "app:latest", image] {
        assert_eq!(
            explain(&home, &[&format!("{name}:6/6")]),
            "RUN sh ./run.sh: never built here\n",
            "{name}"
        );
    }
    // As few digits of it as elsewhere, as long as they tell it apart.
    let beginning = &image[.."sha256:".len() + 6];
    let exported = history(&["export", image]).ok().stdout;
    let other = exported.replace(image, &format!("{beginning:0<71}")).replace(ids[1], "0123456789");
    let dir = tempdir();
    let file = dir.path().join("record.json");
    fs::write(&file, other).expect("write a record");
    history(&["import", file.to_str().expect("text")]).ok();
    history(&["inspect", beginning]).code_is(2).says("several images");
    assert!(history(&["inspect", image]).ok().stdout.contains(ids[1]));
    history(&["rm", "0123456789"]).ok();
    assert!(history(&["inspect", beginning]).ok().stdout.contains(ids[1]));
    // Also by a name that it got later.
    run(home.builder("tag").args(["app", "other:later"])).ok();
    assert!(history(&["inspect", "other:later"]).ok().stdout.contains(ids[1]));
    // A name in full comes before the beginning of an id, and an id in full before a name.
    build(&home, &context, &["-t", &ids[1][..2], "-t", ids[1], "--build-arg=GIT_SHA=x"]);
    let newest = history(&["ls", "-q", "-n1"]).ok().stdout;
    assert!(history(&["inspect", &ids[1][..2]]).ok().stdout.contains(newest.trim()));
    assert!(history(&["inspect", &ids[1][..6]]).ok().stdout.contains(ids[1]));
    assert!(!history(&["inspect", ids[1]]).ok().stdout.contains(newest.trim()));
    history(&["rm", newest.trim()]).ok();
    history(&["inspect", "app:other"]).code_is(1).says("there is no build `app:other`");
    let logs = history(&["logs", "^0"]).ok().stdout;
    assert_eq!(logs, "[6/6] RUN sh ./run.sh\nsaid\n");
    history(&["inspect", "zz"]).code_is(1).says("there is no build `zz`");
    // What is cached prints nothing; who ran it has the logs.
    build(&home, &context, &["--build-arg=GIT_SHA=x"]);
    let cached = history(&["logs"]).ok();
    assert_eq!(cached.stdout, "");
    assert!(cached.stderr.contains("All steps were cached. Built by"), "{cached}");
    assert!(cached.stderr.contains(&format!("`builder history logs {}`", ids[0])), "{cached}");
    history(&["logs", ":6/6"]).ok().says("The step was cached");
    history(&["rm", "^0"]).ok();
    history(&["rm", ids[1]]).ok();
    history(&["inspect", ids[1]]).code_is(1);
    history(&["rm", "--all"]).ok();
    assert_eq!(history(&["ls", "--format=json"]).ok().stdout.trim(), "[]");
}

/// What a name means now counts, and not which builds were to give it.
#[test]
fn a_name_finds_the_build_that_made_its_image() {
    let home = Home::new();
    let context = Context::new("");
    let with = |text: &str| context.write("Dockerfile", format!("FROM busybox\nRUN {text}\n"));
    let newest = || run(home.builder("history").args(["ls", "-q", "-n1"])).ok().stdout.trim().to_owned();
    let build = |text: &str, name: &str| {
        with(text);
        run(home.build(&context).args(["-t", name])).ok();
        newest()
    };
    let fails = |name: &str| {
        with("exit 3");
        run(home.build(&context).args(["-t", name])).code_is(1);
        newest()
    };
    let tag = |from: &str, to: &str| drop(run(home.builder("tag").args([from, to])).ok());
    let found = |name: &str| {
        let shown = run(home.builder("history").args(["inspect", "--format=json", name])).ok().stdout;
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        shown["id"].as_str().expect("an id").to_owned()
    };
    let (app, other) = (build("echo app > /f", "app"), build("echo other > /f", "other"));
    assert_eq!((found("app"), found("other")), (app.clone(), other.clone()));
    // One that failed gave nothing to anybody.
    fails("app");
    assert_eq!(found("app"), app);
    // Where there is no image by that name, a build that was to make it is meant.
    let never = fails("never");
    assert_eq!(found("never"), never);
    // A name that a build gave to another image.
    let moved = build("echo moved > /f", "moved");
    tag("other", "moved");
    assert_eq!(found("moved"), other);
    with("echo other > /f");
    let told = run(home.builder("verify").args(["--ignore-times", "--format=json", "moved"])).ok().stdout;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["build"], found("moved"), "verify says the same: {told:#}");
    run(home.builder("rmi").arg("moved")).ok();
    assert_eq!(found("moved"), moved, "the name was given by that one at least");
    // The same image under another name is not this one's.
    let twin = build("echo app > /f", "twin");
    assert_eq!(found("app"), app);
    // An index has an id, which an image of a single platform has not.
    let both = ["-q", "-t", "both", "--platform=linux/amd64,linux/arm64"];
    context.write("Dockerfile", "FROM busybox\nLABEL of=both\n");
    let index = run(home.build(&context).args(both)).ok().stdout;
    let exported = |build: &str| -> Value {
        let record = run(home.builder("history").args(["export", build])).ok().stdout;
        serde_json::from_str(&record).expect("JSON")
    };
    assert_eq!(found(index.trim()), newest());
    assert_eq!(exported("both")["given"][0]["index"], index.trim());
    assert_eq!(exported(&twin)["given"][0]["index"], Value::Null);
}

/// Whether a build said why a step ran, and `builder explain` says the same; sentences as `STEP: REASON`.
#[track_caller]
fn told(home: &Home, done: &Done, sentences: &[&str]) {
    for words in sentences {
        let (step, why) = words.split_once(": ").expect("a step and a reason");
        let lines = || done.stderr.lines();
        let title = format!("] {step}");
        let first = lines().find(|line| line.ends_with(&title)).unwrap_or_else(|| panic!("{step}: {done}"));
        let number = first.split(' ').next().expect("a number");
        let said = format!("{number} not cached: {why}");
        assert!(lines().any(|line| line == said), "{words}\n{done}");
        assert_eq!(sentence(home, step), *words);
    }
}

/// Builds one Dockerfile and then another from the same files: why steps of the second ran.
#[track_caller]
fn edited(old: &str, new: &str, options: &[&str], sentences: &[&str]) {
    let home = Home::new();
    let context = Context::new(old).file("a", "a\n").file("b", "b\n").file("d/a", "a\n");
    build(&home, &context, options);
    context.write("Dockerfile", new);
    let done = build(&home, &context, options);
    assert_eq!(done.stderr.matches("not cached").count(), sentences.len(), "{done}");
    told(&home, &done, sentences);
    // Undone, all of it is there.
    context.write("Dockerfile", old);
    assert!(!build(&home, &context, options).stderr.contains("not cached"));
}

const OTHER_VERSION: &str = "last built by another version of builder, whose keys are others";

/// Edits what a state directory remembers of steps and of the files that they used; `edit` says whether it did. What is no JSON (where a
/// step stands) stays.
fn remembered(home: &Home, edit: impl Fn(&mut Value) -> bool) {
    let database = home.path().join("cache-v1.db");
    let python = |script: &str, input: &[u8]| {
        let script = format!("import sqlite3,sys\ndb = sqlite3.connect(sys.argv[1])\n{script}\ndb.commit()");
        feed(tool("python3").args(["-c", &script]).arg(&database), input).ok().stdout
    };
    let rows = python("for row in db.execute('SELECT hex(step), hex(parts) FROM steps'): print(*row)", b"");
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hex");
    let mut rewritten = String::new();
    for (step, parts) in rows.lines().filter_map(|row| row.split_once(' ')) {
        let packed: Vec<u8> = parts.as_bytes().chunks(2).map(byte).collect();
        let text = zstd::decode_all(&*packed).expect("zstd");
        let Ok(mut value) = serde_json::from_slice::<Value>(&text) else { continue };
        if edit(&mut value) {
            let packed = zstd::encode_all(value.to_string().as_bytes(), 1).expect("zstd");
            let hex: String = packed.iter().map(|byte| format!("{byte:02x}")).collect();
            rewritten += &format!("{hex} {step}\n");
        }
    }
    assert!(!rewritten.is_empty(), "nothing like that is remembered");
    let write = "for row in sys.stdin: db.execute('UPDATE steps SET parts = ? WHERE step = ?', \
                 [bytes.fromhex(value) for value in row.split()])";
    python(write, rewritten.as_bytes());
}

/// Makes of a state directory what a version with other keys leaves: results under keys that nobody looks up any more, and steps that
/// are remembered with that version.
fn of_another_version(home: &Home) {
    let script = "import sqlite3,sys\ndb = sqlite3.connect(sys.argv[1])\n\
                  db.execute('UPDATE keys SET key = randomblob(32)')\ndb.commit()";
    run(tool("python3").args(["-c", script]).arg(home.path().join("cache-v1.db"))).ok();
    remembered(home, |parts| {
        if parts["version"].is_null() {
            return false;
        }
        parts["version"] = "key-v0".into();
        parts["op"] = "of another version".into();
        for input in parts["inputs"].as_array_mut().expect("a list") {
            for kind in ["vertex", "image"] {
                if let Some(input) = input.get_mut(kind) {
                    input["key"] = "of another version".into();
                }
            }
        }
        true
    });
}

#[test]
fn another_version_built_it() {
    let home = Home::new();
    let context = npm();
    build(&home, &context, &[]);
    of_another_version(&home);
    let done = build(&home, &context, &[]);
    assert_eq!(done.stderr.matches("not cached").count(), 5, "{done}");
    for step in ["WORKDIR /app", "COPY package.json ./", "RUN cat package.json > installed", "COPY . ."] {
        told(&home, &done, &[&format!("{step}: {OTHER_VERSION}")]);
    }
    assert_eq!(explain(&home, &[]).matches(OTHER_VERSION).count(), 1, "one cause");
    // From then on it is known.
    assert!(!build(&home, &context, &[]).stderr.contains("not cached"));
    // What else is different is said instead, of the steps where that is known.
    of_another_version(&home);
    context.write("package.json", "{ }\n");
    let done = build(&home, &context, &["--build-arg=GIT_SHA=c3d4"]);
    told(
        &home,
        &done,
        &[
            &format!("WORKDIR /app: {OTHER_VERSION}"),
            "COPY package.json ./: package.json changed",
            "RUN cat package.json > installed: ARG GIT_SHA: a1b2 → c3d4",
            "COPY . .: package.json changed",
        ],
    );
}

/// A layer's directory that somebody removed: nobody knows when.
#[test]
fn a_result_that_is_gone() {
    let home = Home::new();
    let context = npm();
    build(&home, &context, &[]);
    let snapshots = home.path().join("snapshots-v1");
    run(tool("chmod").args(["-R", "u+w"]).arg(&snapshots)).ok();
    for layer in fs::read_dir(&snapshots).expect("list").flatten() {
        fs::remove_dir_all(layer.path()).expect("remove");
    }
    let done = build(&home, &context, &[]);
    told(&home, &done, &["RUN sh ./run.sh: the result was removed from the cache"]);
}

/// Builds something large and something else with these limits, and the first again. What takes less time for its bytes goes first.
#[track_caller]
fn evicted(most: &str, free: &str, why: &str) {
    let home = Home::new();
    let capped = |command: &str| {
        let text = format!("FROM busybox\nRUN {command}\n");
        let context = Context::new(&text);
        let mut build = home.build(&context);
        build.env("BUILDER_MAX_USED_SPACE", most).env("BUILDER_MIN_FREE_SPACE", free);
        run(build.env("BUILDER_RESERVED_SPACE", "0").arg("--progress=plain")).ok()
    };
    let command = "head -c 3000000 /dev/zero > /a";
    capped(command);
    capped("sleep 3; head -c 3000000 /dev/zero > /b");
    let done = capped(command);
    told(&home, &done, &[&format!("RUN {command}: evicted just now {why}")]);
}

#[test]
fn evicted_to_keep_a_limit() {
    evicted("5000000", "0", "to keep under 5MB");
}

/// More than any disk has.
#[test]
fn evicted_to_keep_the_disk_free() {
    evicted("0", "900000000000000000", "to keep 900PB of the disk free");
}

/// What a filter removes, and what the user's own limits do.
#[test]
fn evicted_by_hand() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN head -c 9000 /dev/zero > /a\n");
    build(&home, &context, &[]);
    run(home.builder("prune").args(["--force", "--filter=type=regular"])).ok();
    let done = build(&home, &context, &[]);
    told(&home, &done, &["RUN head -c 9000 /dev/zero > /a: evicted just now by builder prune"]);
    run(home.builder("prune").args(["--force", "--max-used-space=1"])).ok();
    let done = build(&home, &context, &[]);
    told(&home, &done, &["RUN head -c 9000 /dev/zero > /a: evicted just now to keep under 1B"]);
}

/// What came from a cache that this build does not name.
#[test]
fn the_word_of_a_cache_that_is_not_named() {
    let dir = tempdir();
    let context = npm();
    build(
        &Home::new(),
        &context,
        &[&format!("--cache-to=type=local,mode=max,dest={}", dir.path().display())],
    );
    let home = Home::new();
    build(&home, &context, &["-t", "app", &format!("--cache-from=type=local,src={}", dir.path().display())]);
    let done = build(&home, &context, &[]);
    let why = format!(
        "what is here came from the cache {}:latest, which --cache-from does not name",
        dir.path().display()
    );
    told(&home, &done, &[&format!("COPY . .: {why}"), &format!("RUN sh ./run.sh: {why}")]);
}

#[test]
fn each_field_of_an_instruction_is_named() {
    let copy = "COPY a b /d/";
    edited(
        &format!("FROM busybox\n{copy}\n"),
        "FROM busybox\nCOPY a b /e/\n",
        &[],
        &["COPY a b /e/: destination: /d/ → /e/"],
    );
    edited(
        &format!("FROM busybox\n{copy}\n"),
        "FROM busybox\nCOPY --chmod=640 a b /d/\n",
        &[],
        &["COPY --chmod=640 a b /d/: mode: now 0640"],
    );
    edited(
        "FROM busybox\nCOPY --chown=1:2 a b /d/\n",
        &format!("FROM busybox\n{copy}\n"),
        &[],
        &["COPY a b /d/: owner: no longer 1:2"],
    );
    edited(
        "FROM busybox\nCOPY b /d/b\n",
        "FROM busybox\nADD b /d/b\n",
        &[],
        &["ADD b /d/b: the operation changed"],
    );
    edited("FROM busybox\nRUN true\n", "FROM busybox\nUSER 7\nRUN true\n", &[], &["RUN true: user: now 7"]);
    edited(
        "FROM busybox\nRUN <<X\ntouch /one\nX\n",
        "FROM busybox\nRUN <<X\ntouch /two\nX\n",
        &[],
        &["RUN <<X (touch /two): command: /bin/sh -c touch /one\\n → /bin/sh -c touch /two\\n"],
    );
    // What is cut off is not shown as if nothing were different.
    let long = "x".repeat(100);
    edited(
        &format!("FROM busybox\nRUN echo {long}1\n"),
        &format!("FROM busybox\nRUN echo {long}2\n"),
        &[],
        &[&format!("RUN echo {long}2: command changed")],
    );
    let home = Home::new();
    let text = |text: &str| format!("FROM busybox\nCOPY <<x /x\n{text}\nx\n");
    let context = Context::new(&text("one"));
    build(&home, &context, &[]);
    context.write("Dockerfile", text("two"));
    let done = build(&home, &context, &[]).says("not cached: text of x changed\n");
    told(&home, &done, &["COPY <<x /x: text of x changed (preparing inline document)"]);
}

/// What stands in a Dockerfile beside the command. Where the step looks another way then, it is known by its place.
#[test]
fn each_field_of_a_process_is_named() {
    let run = |old: &str, new: &str, options: &[&str], why: &str| {
        let text = |line: &str| format!("FROM busybox\n{line}\n");
        edited(&text(old), &text(new), options, &[&format!("{new}: {why}")]);
    };
    edited(
        "FROM busybox\nRUN true\n",
        "FROM busybox\nWORKDIR /tmp\nRUN true\n",
        &[],
        &["WORKDIR /tmp: never built here", "RUN true: directory: / → /tmp"],
    );
    run("WORKDIR /a", "WORKDIR /b", &[], "path: /a → /b");
    run("RUN true", "RUN --network=none true", &[], "network: default → none");
    let insecure = "--allow=security.insecure";
    run("RUN true", "RUN --security=insecure true", &[insecure], "security: sandbox → insecure");
    let device = "vendor.example/none=x";
    run(
        "RUN true",
        &format!("RUN --device={device} true"),
        &["--allow=device"],
        &format!("device {device}: now added"),
    );
    run("RUN true", "RUN --mount=type=secret,id=s,env=S true", &[], "secret s: now added");
    run("RUN true", "RUN --mount=type=tmpfs,target=/t true", &[], "mount /t: now tmpfs, writable");
    run(
        "RUN --mount=type=cache,target=/t true",
        "RUN --mount=type=cache,target=/t,readonly true",
        &[],
        "mount /t: cache, writable → cache, read-only",
    );
    run("RUN --mount=type=tmpfs,target=/t true", "RUN true", &[], "mount /t: no longer tmpfs, writable");
    // Programs of this machine serve as those of another that it runs as well.
    let (layouts, home) = (tempdir(), Home::new());
    let layout = layouts.path().join("base");
    let both =
        ["--platform=linux/amd64,linux/386", "-o", &format!("type=oci,tar=false,dest={}", layout.display())];
    build(&home, &Context::new("FROM scratch\nCOPY --from=busybox / /\n"), &both);
    let base = format!("--build-context=both=oci-layout://{}", layout.display());
    let platform = |name: &str| format!("FROM --platform={name} both\nRUN true\n");
    edited(
        &platform("linux/amd64"),
        &platform("linux/386"),
        &[&base],
        &["RUN true: platform: linux/amd64 → linux/386"],
    );
}

/// What the command line sets for a process.
#[test]
fn each_option_for_a_process_is_named() {
    let set = |old: &str, new: &str, why: &str| {
        let home = Home::new();
        let context = Context::new("FROM busybox\nRUN true\n");
        build(&home, &context, &[old]);
        let done = build(&home, &context, &[new]);
        told(&home, &done, &[&format!("RUN true: {why}")]);
        assert!(!build(&home, &context, &[old]).stderr.contains("not cached"));
    };
    set(
        "--build-arg=BUILDKIT_SANDBOX_HOSTNAME=one",
        "--build-arg=BUILDKIT_SANDBOX_HOSTNAME=two",
        "host name: one → two",
    );
    set("--network=default", "--network=none", "network: default → none");
    set("--add-host=a:127.0.0.1", "--add-host=b:127.0.0.1", "host a: no longer added");
}

/// Another source of a mount is no new step, be it of a context or of a stage.
#[test]
fn another_source_of_a_mount_is_named() {
    let mount = |from: &str, source: &str| {
        format!("RUN --mount=type=bind,{from}source={source},target=/m cp -r /m /seen")
    };
    let text = |line: &str| {
        format!("FROM busybox AS s\nRUN mkdir /x /y; touch /x/x\nFROM busybox\n{line}\nRUN ls -R /seen\n")
    };
    let other = |from: &str, old: &str, new: &str, brought: &[&str]| {
        let line = mount(from, new);
        let why = format!("sources: {old} → {new}");
        let sentences = [format!("{line}: {why}"), format!("RUN ls -R /seen: {why} ({line})")];
        let sentences: Vec<&str> =
            brought.iter().copied().chain(sentences.iter().map(String::as_str)).collect();
        edited(&text(&mount(from, old)), &text(&line), &[], &sentences);
    };
    other("from=s,", "x", "y", &[]);
    // They are brought to where the mount finds them by a step that is new.
    other("", "a", "b", &["prepare mount of b: never built here"]);
}

/// Nor that files of the context changed when it is another context.
#[test]
fn another_context_of_a_mount_is_named() {
    let (x, y) = (Context::new("").file("d/f", "1"), Context::new("").file("d/f", "2"));
    let contexts =
        [("x", &x), ("y", &y)].map(|(name, at)| format!("--build-context={name}={}", at.path().display()));
    let contexts = contexts.each_ref().map(String::as_str);
    let line = |from: &str| format!("RUN --mount={from}source=d,target=/m cp -r /m /seen");
    let text = |from: &str| format!("FROM busybox\n{}\nRUN ls -R /seen\n", line(from));
    let line_of_y = line("from=y,");
    let why = "sources: d from x → d from y";
    let sentences = [
        "prepare mount of d: never built here".to_owned(),
        format!("{line_of_y}: {why}"),
        format!("RUN ls -R /seen: {why} ({line_of_y})"),
    ];
    let sentences = sentences.each_ref().map(String::as_str);
    edited(&text("from=x,"), &text("from=y,"), &contexts, &sentences);
}

/// Where a commit counts in place of what its files hold, it is named when none of them changed.
#[test]
fn another_commit_is_named() {
    for option in ["--keep-git-dir %", "%?mtime=commit"] {
        let (home, repositories) = (Home::new(), Repositories::new());
        let (server, before) = (repositories.serve(), repositories.edit("first\n"));
        let add = format!("ADD {} /src/", option.replace('%', &server.url("/app.git")));
        let context = Context::new(&format!("FROM busybox\n{add}\nRUN ls /src\n"));
        build(&home, &context, &[]);
        let commit = repositories.commit_at(1_600_000_000);
        let why = format!("commit: {} → {}", &before[..7], &commit[..7]);
        let done = build(&home, &context, &[]);
        told(&home, &done, &[&format!("{add}: {why}"), &format!("RUN ls /src: {why} ({add})")]);
        repositories.edit("edited\n");
        let done = build(&home, &context, &[]);
        told(&home, &done, &[&format!("{add}: file changed"), &format!("RUN ls /src: file changed ({add})")]);
    }
}

/// Another part of what is as it was: not that it changed.
#[test]
fn other_sources_are_named() {
    let other = |old: &str, new: &str, why: &str| {
        let text =
            |line: &str| format!("FROM busybox AS s\nRUN echo 1 > /x; echo 2 > /y\nFROM busybox\n{line}\n");
        edited(&text(old), &text(new), &[], &[&format!("{new}: sources: {why}")]);
    };
    other("COPY a /f", "COPY b /f", "a → b");
    other("COPY a b /f/", "COPY a b d /f/", "a b → a b d");
    other("COPY a b /f/", "COPY b /f/", "a b → b");
    other("COPY d /f", "COPY --exclude=a d /f", "d → d --exclude=a");
    other("COPY --from=s /x /f", "COPY --from=s /y /f", "x → y");
    other(
        "COPY --from=busybox /etc/passwd /f",
        "COPY --from=busybox /etc/group /f",
        "etc/passwd → etc/group",
    );
}

/// A step that is new is not taken for an edit of what stood in its place and still is there, nor of what is something else.
#[test]
fn a_step_that_was_put_in_is_new() {
    edited(
        "FROM busybox\nRUN touch /x\n",
        "FROM busybox\nRUN touch /new\nRUN touch /x\n",
        &[],
        &["RUN touch /new: never built here", "RUN touch /x: never built here (RUN touch /new)"],
    );
    edited(
        "FROM busybox\nRUN touch /x\n",
        "FROM busybox\nCOPY a /x\n",
        &[],
        &["COPY a /x: never built here"],
    );
}

/// Numbers get wider with the tenth step, and a text may stand in a stage twice.
#[test]
fn steps_are_known_again_among_ten_and_twice() {
    let steps = |count: u32| (1..=count).map(|n| format!("RUN touch /{n}\n")).collect::<String>();
    let text =
        |middle: &str| format!("FROM busybox AS one\nCOPY a /a\nRUN true\n{middle}RUN true\nCOPY b /b\n");
    let home = Home::new();
    let context = Context::new(&text(&steps(5))).file("a", "1").file("b", "1");
    let done = build(&home, &context, &[]);
    assert_eq!(done.stderr.matches("not cached: never built here").count(), 9, "{done}");
    context.write("Dockerfile", text(&steps(6)));
    let done = build(&home, &context, &[]);
    told(&home, &done, &["RUN touch /6: never built here", "COPY b /b: never built here (RUN touch /6)"]);
    context.write("a", "2");
    let done = build(&home, &context, &[]);
    assert_eq!(done.stderr.matches("not cached: a changed").count(), 11 - 1, "{done}");
}

/// What was built again without being looked up, and came out otherwise.
#[test]
fn what_ran_again_is_named_where_it_came_out_otherwise() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox AS a\nRUN cat /proc/sys/kernel/random/uuid > /x\nFROM busybox\nCOPY --from=a /x /x\nRUN cat /x > /y\n",
    );
    build(&home, &context, &[]);
    let done = build(&home, &context, &["--no-cache-filter=a"]);
    let random = "RUN cat /proc/sys/kernel/random/uuid > /x";
    for step in ["COPY --from=a /x /x", "RUN cat /x > /y"] {
        assert!(done.stderr.contains(&format!("{step}\n")), "{done}");
        let why = "the cache is switched off for it";
        assert_eq!(sentence(&home, step), format!("{step}: {why} ({random})"));
    }
    assert_eq!(done.stderr.matches(&format!("not cached: {random} changed\n")).count(), 2, "{done}");
    told(&home, &done, &[&format!("{random}: the cache is switched off for it")]);
}

#[test]
fn another_base_image() {
    let other = format!("--build-context=other=oci-layout://{}", base("debian").display());
    edited(
        "FROM busybox\nRUN true > /x\nRUN cat /x\n",
        "FROM other\nRUN true > /x\nRUN cat /x\n",
        &[&other],
        &[
            "RUN true > /x: base image busybox → other",
            "RUN cat /x: base image busybox → other (RUN true > /x)",
        ],
    );
}

/// More than a line has room for, and what is not known file by file any more.
#[test]
fn many_files_and_files_that_nobody_listed() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nCOPY d /d\n").file("d/a", "1").file("d/b", "1");
    let context = context.file("d/c", "1").file("d/d", "1").file("d/e", "1");
    build(&home, &context, &[]);
    ["a", "b", "c", "d", "e"].iter().for_each(|name| context.write(&format!("d/{name}"), "2"));
    let done = build(&home, &context, &[]);
    told(&home, &done, &["COPY d /d: d/a changed, d/b changed, d/c changed and 2 more"]);
    remembered(&home, |listing| {
        let is_one = listing.get("d/a").is_some();
        *listing = Value::Null;
        is_one
    });
    context.write("d/a", "3");
    let done = build(&home, &context, &[]);
    told(&home, &done, &["COPY d /d: its files changed"]);
}
