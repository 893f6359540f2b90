//! Questions about a build that does not run: its graph, its syntax, its arguments and stages, what is advised.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::{Context, Done, Home, bases, binary, dockerfiles, feed, json, run, tempdir};
use serde_json::{Value, json};

const DOCKERFILE: &str = "\
# Who is greeted
ARG WHO=world
# left turns letters
FROM busybox AS left
COPY left.txt /in
RUN tr a-z A-Z < /in > /out

FROM busybox AS right
ARG WHO
WORKDIR /work
COPY right.txt .
RUN --mount=type=secret,id=key --mount=type=cache,target=/c \\
    rev right.txt > out; echo \"$WHO\" >> out

FROM busybox AS unused
RUN echo never

FROM busybox AS final
COPY --from=left /out /left
COPY --from=right /work/out /right
RUN cat /left /right > /both
CMD [\"cat\", \"/both\"]
";

fn context() -> Context {
    Context::new(DOCKERFILE).file("left.txt", "left\n").file("right.txt", "right\n")
}

/// `builder graph` with the arguments of a build.
#[track_caller]
fn graph(home: &Home, context: &Context, arguments: &[&str]) -> String {
    run(home.builder("graph").args(bases()).arg(context.path()).args(arguments)).ok().stdout
}

/// Stage and text of each step, and what becomes of it.
#[track_caller]
fn states(home: &Home, context: &Context, arguments: &[&str]) -> Vec<(String, String)> {
    let arguments = [&["--format=json"], arguments].concat();
    let value: Value = serde_json::from_str(&graph(home, context, &arguments)).expect("JSON");
    let text = |step: &Value, name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let steps = value["steps"].as_array().expect("steps").iter();
    steps
        .filter(|step| step["cache"] != "source")
        .map(|step| (format!("{} {}", text(step, "stage"), text(step, "title")), text(step, "cache")))
        .collect()
}

/// The steps that would run.
#[track_caller]
fn running(home: &Home, context: &Context, arguments: &[&str]) -> Vec<String> {
    let run = states(home, context, arguments).into_iter().filter(|(_, state)| state != "cached");
    run.map(|(name, _)| name).collect()
}

#[test]
fn the_graph_tells_what_the_next_build_does() {
    let home = Home::new();
    let context = context();
    let all = states(&home, &context, &[]);
    assert_eq!(all.len(), 8, "without the stage that nobody wants: {all:#?}");
    assert!(all.iter().all(|(_, state)| state == "runs"), "{all:#?}");
    home.steps(&context, &[]);
    assert_eq!(running(&home, &context, &[]), [""; 0]);
    // What it says of a change is what the build then does.
    for (change, arguments) in [
        (Some(("left.txt", "new\n")), &[][..]),
        (Some(("right.txt", "new\n")), &[]),
        (None, &["--build-arg", "WHO=you"]),
        (None, &["--target=unused"]),
    ] {
        if let Some((file, text)) = change {
            context.write(file, text);
        }
        let would = running(&home, &context, arguments);
        assert!(!would.is_empty(), "{change:?} {arguments:?}");
        let steps = home.steps(&context, arguments);
        let did: BTreeSet<&str> = steps.executed().into_iter().collect();
        // A step further down may be found all the same, by what it is given.
        for text in &did {
            assert!(would.iter().any(|step| step.ends_with(text)), "{text} of {would:#?}");
        }
        let first = would.first().and_then(|step| step.split_once(' ')).expect("stage and text").1;
        assert!(did.contains(first), "{first} of {did:#?}");
        assert_eq!(running(&home, &context, arguments), [""; 0], "{arguments:?}");
    }
    // Nothing is found that is not to be looked for.
    assert_eq!(running(&home, &context, &["--no-cache"]).len(), 8);
    let of_one = running(&home, &context, &["--no-cache-filter=right"]);
    assert!(of_one.len() >= 3 && of_one.iter().take(3).all(|step| step.starts_with("right ")), "{of_one:#?}");
    // Asking changes nothing.
    home.steps(&context, &[]).all_cached();
}

#[test]
fn every_format_shows_the_same() {
    let home = Home::new();
    let context = context();
    let value: Value = serde_json::from_str(&graph(&home, &context, &["--format=json"])).expect("JSON");
    let steps = value["steps"].as_array().expect("steps");
    // Identities, edges, lines and the target.
    let edges: usize = steps.iter().map(|step| step["inputs"].as_array().expect("inputs").len()).sum();
    assert_eq!(steps.len(), 10);
    assert_eq!(edges, 12);
    let target: Vec<&Value> = steps.iter().filter(|step| step["target"] == true).collect();
    assert_eq!(target.len(), 1);
    assert_eq!(target[0]["title"], "RUN cat /left /right > /both");
    assert_eq!(target[0]["lines"], json!([21, 21]));
    let secret = steps.iter().find(|step| step["title"].as_str().unwrap_or_default().contains("rev"));
    assert_eq!(secret.expect("the step")["lines"], json!([12, 13]));
    for step in steps {
        for input in step["inputs"].as_array().expect("inputs") {
            assert!(input.as_u64() < step["id"].as_u64(), "in the order in which they can run: {step}");
        }
    }
    let titles = ["COPY left.txt /in", "WORKDIR /work", "COPY --from=left /out /left"];
    let text = graph(&home, &context, &[]);
    let dot = graph(&home, &context, &["--format=dot"]);
    let mermaid = graph(&home, &context, &["--format=mermaid"]);
    let svg = graph(&home, &context, &["--format=svg"]);
    for (name, drawn) in [("text", &text), ("dot", &dot), ("mermaid", &mermaid), ("svg", &svg)] {
        for title in titles {
            assert!(drawn.contains(title), "{title} in {name}:\n{drawn}");
        }
        for stage in ["left", "right", "final"] {
            assert!(drawn.contains(stage), "{stage} in {name}:\n{drawn}");
        }
        assert!(!drawn.contains("never"), "{name}:\n{drawn}");
    }
    assert!(text.contains("8 steps: 0 cached, 8 to run"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let arrows = |text: &str, arrow: &str| text.lines().filter(|line| line.contains(arrow)).count();
    assert_eq!(arrows(&dot, " -> "), edges, "{dot}");
    assert_eq!(arrows(&mermaid, "-->") + arrows(&mermaid, "-.->"), edges, "{mermaid}");
    assert!(mermaid.starts_with("flowchart"), "{mermaid}");
    // Python's parser of XML takes the picture.
    let parse = "import sys, xml.dom.minidom as m; d = m.parse(sys.stdin); print(len(d.getElementsByTagName('title')))";
    feed(e2e::tool("python3").args(["-c", parse]), svg.as_bytes()).ok();
    assert!(svg.starts_with("<svg "), "{svg}");
    // The states change with a build, in every format.
    home.steps(&context, &[]);
    assert!(graph(&home, &context, &[]).contains("8 steps: 8 cached"));
    for (format, before) in [("dot", dot), ("mermaid", mermaid), ("svg", svg)] {
        assert_ne!(graph(&home, &context, &[&format!("--format={format}")]), before, "{format}");
    }
    let wrong = run(home.builder("graph").arg(context.path()).arg("--format=gif"));
    wrong.code_is(2).says("gif");
    // Colours for people only.
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

/// The graph of a hundred steps stays one: as text a line a step, as a picture drawn in a moment.
#[test]
fn a_long_dockerfile_is_drawn() {
    let home = Home::new();
    let mut dockerfile = String::new();
    for stage in 0..12 {
        dockerfile += &format!("FROM busybox AS s{stage}\n");
        for step in 0..8 {
            dockerfile += &format!("RUN echo {stage} {step} \"<&>\" > /f{step}\n");
        }
        if stage > 0 {
            dockerfile += &format!("COPY --from=s{} /f1 /from\n", stage - 1);
        }
    }
    let context = Context::new(&dockerfile);
    let text = graph(&home, &context, &[]);
    assert!(text.contains("107 steps: 0 cached, 107 to run"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains(" RUN echo ")).count(), 96, "{text}");
    let svg = run(home.builder("graph").args(bases()).arg(context.path()).arg("--format=svg")).ok();
    assert!(svg.took.as_secs() < 30, "{svg}");
    assert!(svg.stdout.contains("&lt;&amp;&gt;"), "what XML must not hold as it is is escaped");
    feed(
        e2e::tool("python3").args(["-c", "import sys, xml.dom.minidom as m; m.parse(sys.stdin)"]),
        svg.stdout.as_bytes(),
    )
    .ok();
}

/// `builder parse` of a text on standard input.
fn parse(format: &str, text: &[u8]) -> Done {
    feed(Command::new(binary()).args(["parse", &format!("--format={format}"), "-"]), text)
}

/// The piece of a text that a span names.
fn piece<'t>(text: &'t str, span: &Value) -> &'t str {
    let at = |name: &str| usize::try_from(span[name].as_u64().expect("an offset")).expect("small");
    &text[at("start")..at("end")]
}

#[test]
fn the_syntax_tree() {
    let text = parse("text", DOCKERFILE.as_bytes()).ok().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines.iter().any(|line| line.split_whitespace().eq(["4", "FROM", "busybox", "AS", "left"])),
        "{text}"
    );
    assert!(lines.iter().any(|line| line.contains("12-13") && line.contains("RUN --mount")), "{text}");
    let value: Value = serde_json::from_str(&parse("json", DOCKERFILE.as_bytes()).ok().stdout).expect("JSON");
    let stages = value["dockerfile"]["stages"].as_array().expect("stages");
    assert_eq!(stages.len(), 4);
    let names: Vec<&str> = stages.iter().map(|stage| piece(DOCKERFILE, &stage["from"]["span"])).collect();
    assert_eq!(names[0], "FROM busybox AS left");
    let of_right = stages[1]["instructions"].as_array().expect("instructions");
    assert_eq!(piece(DOCKERFILE, &of_right[1]["keyword"]["span"]), "WORKDIR");
    assert_eq!(of_right[3]["lines"], json!({"first": 12, "last": 13}));
    // A file, and the one that is there without a word.
    let context = context();
    let mut by_itself = Command::new(binary());
    assert_eq!(run(by_itself.arg("parse").current_dir(context.path())).ok().stdout, text);
    run(Command::new(binary()).args(["parse", "/no/such/file"])).code_is(1).says("/no/such/file");
}

#[test]
fn an_editor_is_told_of_every_mistake() {
    let wrong = "FROM busybox\nCOPPY a /b\nRUN --mount=type=bind,z true\nENV\nCOPY --chwon=1 a /b\n";
    let done = parse("json", wrong.as_bytes()).code_is(1);
    let value: Value = serde_json::from_str(&done.stdout).expect("JSON, also of what is wrong");
    let findings = value["diagnostics"].as_array().unwrap_or_else(|| panic!("no diagnostics: {value:#}"));
    let lines: Vec<u64> = findings.iter().filter_map(|finding| finding["line"].as_u64()).collect();
    assert_eq!(lines, [2, 3, 4, 5], "all at once: {value:#}");
    for finding in findings {
        assert!(finding["message"].as_str().is_some_and(|message| !message.is_empty()), "{finding:#}");
        assert!(!piece(wrong, &finding["span"]).contains('\n'), "{finding:#}");
    }
    let text = parse("text", wrong.as_bytes()).code_is(1);
    for hint in ["COPY?", "'z'", "--chown?"] {
        assert!(text.stderr.contains(hint), "{hint}: {text}");
    }
    parse("text", b"").code_is(1);
    parse("json", b"FROM scratch\nRUN \xff\n").code_is(1);
}

/// The programs of Dockerfiles/ are read without a complaint.
#[test]
fn our_own_dockerfiles() {
    let mut seen = 0;
    for entry in fs::read_dir(dockerfiles()).expect("list the programs").flatten() {
        let file = entry.path().join("Dockerfile");
        if file.is_file() {
            let done = run(Command::new(binary()).arg("parse").arg(&file)).ok();
            assert_eq!(done.stderr, "", "{done}");
            seen += 1;
        }
    }
    assert!(seen >= 5);
}

fn call(home: &Home, context: &Context, question: &str) -> Done {
    run(home.build(context).arg(format!("--call={question}")).arg("--progress=quiet"))
}

/// The answers in JSON, without where they come from: that is the same each time.
#[track_caller]
fn answer(home: &Home, context: &Context, question: &str) -> Value {
    let done = call(home, context, &format!("{question},format=json"));
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done}"))
}

#[test]
fn outline_and_targets() {
    let home = Home::new();
    let context = context();
    let outline = call(&home, &context, "outline").ok().stdout;
    // As docker/dockerfile's own answer has it, blanks aside.
    let rows = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(
        rows(&outline),
        ["TARGET: final", "", "BUILD ARG VALUE DESCRIPTION", "WHO world", "", "SECRET REQUIRED", "key", ""]
    );
    let value = answer(&home, &context, "outline");
    assert_eq!(value["args"][0]["name"], "WHO");
    assert_eq!(value["args"][0]["value"], "world");
    assert_eq!(value["secrets"][0]["name"], "key");
    assert_eq!(value["cache"][0]["ID"], "/c");
    let of_left = run(home.build(&context).args(["--call=outline", "--target=left", "-q"])).ok().stdout;
    assert!(
        rows(&of_left).starts_with(&["TARGET: left".to_owned(), "DESCRIPTION: turns letters".to_owned()]),
        "{of_left}"
    );
    let given = run(home.build(&context).args(["--call=outline", "--build-arg=WHO=me"])).ok().stdout;
    assert!(given.contains(" me"), "{given}");

    let targets = call(&home, &context, "targets").ok().stdout;
    let expected = ["TARGET DESCRIPTION", "left turns letters", "right", "unused", "final (default)"];
    assert_eq!(rows(&targets), expected);
    let value = answer(&home, &context, "targets");
    let names: Vec<&str> = value["targets"]
        .as_array()
        .expect("targets")
        .iter()
        .filter_map(|target| target["name"].as_str())
        .collect();
    assert_eq!(names, ["left", "right", "unused", "final"]);
    assert_eq!(value["targets"][3]["default"], true);
    assert_eq!(value["targets"][0]["location"]["ranges"][0]["start"]["line"], 4);
    // Nothing was built.
    home.steps(&context, &[]);
    call(&home, &context, "frobnicate").code_is(2).says("frobnicate");
}

#[test]
fn checks_and_their_exit_codes() {
    let home = Home::new();
    let clean = context();
    let done = run(home.build(&clean).arg("--check").arg("--progress=quiet")).ok();
    assert!(done.stdout.contains("no warnings found"), "{done}");
    assert!(answer(&home, &clean, "check")["warnings"].as_array().is_some_and(Vec::is_empty));
    // Warnings are no failure of the question, as upstream has it, unless the Dockerfile says so.
    let careless = "FROM busybox as base\nMAINTAINER me\nWORKDIR here\nCMD echo hi\nCMD echo $NOBODY\n";
    let context = Context::new(careless);
    let done = call(&home, &context, "check").code_is(1);
    let rules =
        ["FromAsCasing", "MaintainerDeprecated", "WorkdirRelativePath", "MultipleInstructionsDisallowed"];
    for rule in rules {
        assert!(done.stdout.contains(rule), "{rule}: {done}");
    }
    assert!(done.stdout.contains("WORKDIR here"), "with the line: {done}");
    let value = answer(&home, &context, "check");
    let found: BTreeSet<&str> = value["warnings"]
        .as_array()
        .expect("warnings")
        .iter()
        .filter_map(|warning| warning["ruleName"].as_str())
        .collect();
    assert!(rules.iter().all(|rule| found.contains(rule)), "{found:?}");
    let lines = |rule: &str| {
        let of = value["warnings"].as_array().expect("warnings").iter();
        let of = of.filter(|warning| warning["ruleName"] == rule);
        of.filter_map(|warning| warning["location"]["ranges"][0]["start"]["line"].as_u64())
            .collect::<Vec<_>>()
    };
    assert_eq!(lines("WorkdirRelativePath"), [3]);
    // The directive: some rules or all left out, by name; warnings as errors, which stops a build.
    let with = |directive: &str| Context::new(&format!("# check={directive}\n{careless}"));
    let some = call(&home, &with("skip=FromAsCasing,WorkdirRelativePath"), "check");
    assert!(
        !some.stdout.contains("WARNING: WorkdirRelativePath") && some.stdout.contains("MaintainerDeprecated"),
        "{some}"
    );
    call(&home, &with("skip=all"), "check").ok();
    run(&mut home.build(&with("error=true"))).code_is(1).says("MaintainerDeprecated");
    run(&mut home.build(&with("skip=all;error=true"))).ok();
    run(home.build(&with("skip=all")).args(["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true"]))
        .code_is(1);
    run(&mut home.build(&context)).ok().says("MaintainerDeprecated");
    // What cannot be built at all.
    let broken = Context::new("FROM busybox\nCOPPY a b\n");
    let done = call(&home, &broken, "check").code_is(1);
    assert!(done.stdout.contains("unknown instruction: COPPY"), "it is what the check found: {done}");
    let done = call(&home, &broken, "outline").code_is(1);
    assert!(done.stdout.is_empty() && done.stderr.contains("did you mean COPY?"), "{done}");
}

/// As upstream.
#[test]
fn a_broken_dockerfile_has_no_targets() {
    let broken = Context::new("FROM busybox AS a\nCOPPY a b\n");
    for question in ["targets", "targets,format=json"] {
        call(&Home::new(), &broken, question).code_is(1).says("did you mean COPY?");
    }
}

/// The answers go to standard output, everything else to standard error: `--call` can be piped.
#[test]
fn answers_can_be_piped() {
    let home = Home::new();
    let context = context();
    let dir = tempdir();
    for question in ["check", "outline", "targets"] {
        let path = dir.path().join(question);
        let mut build = home.build(&context);
        build.arg(format!("--call={question},format=json"));
        let status =
            build.stdout(fs::File::create(&path).expect("a file")).stderr(std::process::Stdio::null());
        assert!(status.status().expect("start").success(), "{question}");
        assert!(json(&path).is_object(), "{question}");
    }
    assert!(Path::new(&dir.path().join("check")).exists());
}

/// The scenarios S16 and S16r of `cargo xtask bench` with an installer that is known: the order that installs anew at each edit is told by
/// `--check`, and by `builder compare`, beside the one that does not; and that is what builds do.
#[test]
fn an_install_below_the_sources_is_reported() {
    let context = Context::new("")
        .file("wrong", "FROM busybox\nCOPY --chmod=755 tools/npm /usr/local/bin/npm\nWORKDIR /app\nCOPY . .\nRUN npm ci\nRUN cat src/* > program\n")
        .file("right", "FROM busybox\nCOPY --chmod=755 tools/npm /usr/local/bin/npm\nWORKDIR /app\nCOPY package.json package-lock.json ./\nRUN npm ci\nCOPY . .\nRUN cat src/* > program\n")
        .file("package.json", "{}\n")
        .file("package-lock.json", "{}\n")
        .file("tools/npm", "#!/bin/sh\nmkdir node_modules && cp package-lock.json node_modules/$1\n");
    (0..10).for_each(|file| context.write(&format!("src/{file}.js"), "text\n"));
    let home = Home::new();
    let file = |order: &str| format!("--file={}", context.path().join(order).display());
    let reruns = |order: &str| {
        home.steps(&context, &[&file(order)]);
        context.write("src/3.js", format!("edited, {order}\n"));
        let steps = home.steps(&context, &[&file(order)]);
        steps.executed().iter().any(|step| step.ends_with("RUN npm ci"))
    };
    assert_eq!(["wrong", "right"].map(reruns), [true, false]);
    let is_told = |order: &str| {
        let done = run(home.build(&context).args(["--check", &file(order)]));
        let found = done.stdout.contains("CopyBeforeExpensiveRun");
        assert_eq!(
            (done.code, done.stdout.contains("no warnings")),
            (Some(i32::from(found)), !found),
            "{done}"
        );
        found
    };
    assert_eq!(["wrong", "right"].map(is_told), [true, false]);
    let mut compare = home.builder("compare");
    compare.args(bases()).args(["--change=src/3.js", "--format=json"]);
    compare.args(["wrong", "right"].map(|order| context.path().join(order))).arg(context.path());
    let told: Value = serde_json::from_str(&run(&mut compare).ok().stdout).expect("JSON");
    let is_predicted = |order: usize| {
        let runs = told["edits"][0]["orderings"][order]["runs"].as_array().expect("a list");
        runs.iter().any(|step| step.as_str().is_some_and(|step| step.ends_with("RUN npm ci")))
    };
    assert_eq!([0, 1].map(is_predicted), [true, false], "{told:#}");
}
