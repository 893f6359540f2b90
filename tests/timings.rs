//! `build --timings`: what it says of builds whose times are known, and that it says it of every build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::{Context, Home, Image, Running, json, run, tempdir, tool};
use serde_json::Value;

/// A build that writes its timings as JSON.
fn timed(home: &Home, context: &Context, arguments: &[&str]) -> Value {
    let dir = tempdir();
    let file = dir.path().join("timings.json");
    run(told(home, context, &file).args(arguments)).ok();
    read(&file)
}

fn told(home: &Home, context: &Context, file: &Path) -> Command {
    let mut build = home.build(context);
    build.arg(format!("--timings={}", file.display()));
    build
}

/// Reads what was written, which is as the schema says, and adds up.
fn read(file: &Path) -> Value {
    let timings = json(file);
    let schema = json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/timings.schema.json"));
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let wrong: Vec<String> =
        schema.iter_errors(&timings).map(|error| format!("{error} at {}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let number = |value: &Value| value.as_u64().expect("a number");
    let (rows, spans) = (list(&timings, "rows"), list(&timings, "spans"));
    for span in spans {
        assert!(
            number(&span["begin"]) <= number(&span["end"])
                && number(&span["end"]) <= number(&timings["total"])
        );
        assert!(number(&span["row"]) < rows.len() as u64);
    }
    let path = list(&timings, "critical_path");
    let length = |link: &Value| {
        let span = &spans[number(&link["span"]) as usize];
        number(&span["end"]) - number(&span["begin"])
    };
    let sum = path.iter().map(length).sum::<u64>() + number(&timings["idle"]);
    let blur = 201 * path.len() as u64;
    assert!(sum.abs_diff(number(&timings["total"])) <= blur, "{sum} of {}: {timings:#}", timings["total"]);
    timings
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("{name} is no list"))
}

/// The spans of a kind for the steps with a text in their names.
fn spans<'a>(timings: &'a Value, name: &str, work: &str) -> Vec<&'a Value> {
    let rows = list(timings, "rows");
    let is = |span: &&Value| {
        let row = &rows[span["row"].as_u64().expect("a row") as usize];
        span["work"] == work && row["name"].as_str().is_some_and(|row| row.contains(name))
    };
    list(timings, "spans").iter().filter(is).collect()
}

/// Milliseconds.
fn took(span: &Value) -> u64 {
    (span["end"].as_u64().expect("a time") - span["begin"].as_u64().expect("a time")) / 1000
}

/// The slow one begins before the quick one ends, and ends after it, however busy the machine is.
const STAGES: &str = "\
FROM busybox AS slow
RUN --mount=type=cache,target=/meet touch /meet/slow; until [ -e /meet/quick ]; do sleep 0.01; done; sleep 1.5 && echo slow > /slow
FROM busybox AS quick
RUN --mount=type=cache,target=/meet until [ -e /meet/slow ]; do sleep 0.01; done; sleep 0.2; touch /meet/quick; echo quick > /quick
FROM busybox
COPY --from=quick /quick /
COPY --from=slow /slow /
COPY data /data
RUN sleep 0.1 && cat /slow /quick > /both
";

#[test]
fn the_slower_of_two_stages_is_what_counts() {
    let home = Home::new();
    let context = Context::new(STAGES).file("data", "x".repeat(3 << 20));
    let dir = tempdir();
    let archive = format!("type=oci,dest={}", dir.path().join("a.tar").display());
    let timings = timed(&home, &context, &["-t", "app", "-o", &archive]);
    let one = |name: &str| match spans(&timings, name, "run")[..] {
        [span] => span,
        ref other => panic!("{name}: {other:?}"),
    };
    let (slow, quick, last) = (one("sleep 1.5"), one("sleep 0.2"), one("sleep 0.1"));
    assert!(took(slow) >= 1_500 && took(quick) >= 200 && took(last) >= 100, "{slow} {quick} {last}");
    // They ran at the same time.
    assert!(slow["begin"].as_u64() < quick["end"].as_u64() && quick["begin"].as_u64() < slow["end"].as_u64());
    let critical = |span: &Value| span["critical"] == true;
    assert!(critical(slow) && critical(last) && !critical(quick), "{timings:#}");
    for (name, work) in [
        ("COPY data", "hash"),
        ("COPY data", "copy"),
        ("COPY data", "pack"),
        ("COPY data", "compress"),
        ("sleep 1.5", "mount"),
        ("exporting to oci", "export"),
        ("FROM busybox", "fetch"),
        ("builder", "solve"),
    ] {
        assert!(!spans(&timings, name, work).is_empty(), "no {work} of {name}: {timings:#}");
    }
    assert_eq!(timings["result"], "done");
    // Nothing of that happens again, and nothing of it is told.
    let again = timed(&home, &context, &["-t", "app"]);
    let works: Vec<&str> = list(&again, "lanes").iter().filter_map(|lane| lane["work"].as_str()).collect();
    for work in ["run", "mount", "copy", "compress", "pack"] {
        assert!(!works.contains(&work), "{work}: {again:#}");
    }
    assert!(again["total"].as_u64() < timings["total"].as_u64());
}

/// A context with a file of which nothing can be compressed.
fn noisy(dockerfile: &str, size: &str) -> Context {
    let context = Context::new(dockerfile);
    let file = context.path().join("data");
    run(tool("sh").args(["-c", "head -c $0 /dev/urandom > $1", size]).arg(&file)).ok();
    context
}

/// How many blobs of more than a MiB there are.
fn large_blobs(home: &Home) -> usize {
    let found =
        run(tool("find").arg(home.path()).args(["-path", "*/blobs/*", "-type", "f", "-size", "+1M"])).ok();
    found.stdout.lines().count()
}

/// What an output will want of a finished layer is made while later steps run, and is what would be made after them.
#[test]
fn layers_are_packed_behind_running_steps() {
    const STEP: &str = "RUN --mount=type=cache,target=/gate for i in $(seq 600); do [ -e /gate/open ] && break; sleep 0.1; done";
    let context = noisy(&format!("FROM busybox\nCOPY data /data\n{STEP}\n"), "6M");
    let (home, dir) = (Home::new(), tempdir());
    let layout = |name: &str| {
        let path = dir.path().join(name);
        (format!("type=oci,tar=false,compression=zstd,dest={}", path.display()), path)
    };
    let (output, behind) = layout("behind");
    let file = dir.path().join("timings.json");
    let mut build = told(&home, &context, &file);
    let mut build = Running::start(build.args(["-o", &output]).stderr(Stdio::null()));
    // The last step goes on until the layer before it is there, unless that takes a minute.
    let (start, mut has_packed) = (Instant::now(), false);
    while !has_packed && start.elapsed() < Duration::from_secs(120) {
        has_packed = home.path().join("blobs").exists() && large_blobs(&home) == 2;
        std::thread::sleep(Duration::from_millis(20));
    }
    let key = Context::new("FROM busybox\nRUN --mount=type=cache,target=/gate touch /gate/open\n");
    run(&mut home.build(&key)).ok();
    assert!(build.wait(Duration::from_secs(60)).success());
    let timings = read(&file);
    let one = |name: &str, work: &str| match spans(&timings, name, work)[..] {
        [span] => span.clone(),
        ref other => panic!("{work} of {name}: {other:?}"),
    };
    let (pack, run_of_last) = (one("COPY data", "pack"), one("/gate/open", "run"));
    let (began, ended) = (pack["begin"].as_u64(), run_of_last["end"].as_u64());
    assert!(began.is_some() && began < ended, "{timings:#}");
    let (other, (output, later)) = (Home::new(), layout("later"));
    run(&mut other.build(&key)).ok();
    run(&mut other.build(&context)).ok();
    assert!(spans(&timed(&other, &context, &["-o", &output]), "/gate/open", "run").is_empty());
    let layer = |layout: PathBuf| Image::open(layout, None).manifest["layers"][1]["digest"].clone();
    assert_eq!(layer(behind), layer(later));
}

/// The layers of an image are fetched at the same time, and unpacked at the same time.
#[test]
fn layers_of_an_image_are_unpacked_beside_each_other() {
    let context = Context::new("FROM scratch\nCOPY 1 /1\nCOPY 2 /2\nCOPY 3 /3\n");
    for name in ["1", "2", "3"] {
        let file = context.path().join(name);
        run(tool("sh").args(["-c", "head -c 12M /dev/urandom | base64 > $0"]).arg(&file)).ok();
    }
    let dir = tempdir();
    let layout = dir.path().join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    run(Home::new().build(&context).args(["-o", &output])).ok();
    let on_top = Context::new("FROM three\nCOPY f /f\n").file("f", "f");
    let named = format!("--build-context=three=oci-layout://{}", layout.display());
    let timings = timed(&Home::new(), &on_top, &[&named]);
    for what in ["fetch a layer", "unpack a layer"] {
        let of_what: Vec<&Value> =
            list(&timings, "spans").iter().filter(|span| span["what"] == what).collect();
        assert_eq!(of_what.len(), 3, "{what}: {timings:#}");
        let mut times: Vec<_> =
            of_what.iter().map(|span| (span["begin"].as_u64(), span["end"].as_u64())).collect();
        times.sort_unstable();
        // On a busy machine one may be late.
        let beside = times.windows(2).filter(|pair| pair[1].0 < pair[0].1).count();
        assert!(beside > 0, "{what}: each waits for the one before: {of_what:#?}");
    }
}

/// Without `-t`, `-o` of an image, `-q` or `--iidfile` no layer is packed, and no blob of it is there.
#[test]
fn where_nobody_wants_an_image_nothing_is_packed() {
    let context = noisy("FROM busybox\nCOPY data /data\nRUN sleep 0.5\n", "6M");
    let (home, dir) = (Home::new(), tempdir());
    let files = format!("type=local,dest={}", dir.path().join("files").display());
    for arguments in [&[][..], &["-o", &files]] {
        let timings = timed(&home, &context, arguments);
        let lanes: Vec<&str> =
            list(&timings, "lanes").iter().filter_map(|lane| lane["work"].as_str()).collect();
        assert!(!lanes.contains(&"pack") && !lanes.contains(&"compress"), "{arguments:?}: {lanes:?}");
        assert_eq!(large_blobs(&home), 1, "{arguments:?}: that of the base image");
    }
    // So that none means something.
    let id = dir.path().join("id");
    let timings = timed(&home, &context, &["--iidfile", id.to_str().expect("text")]);
    assert_eq!(spans(&timings, "COPY data", "pack").len(), 1, "{timings:#}");
    assert_eq!(large_blobs(&home), 2);
}

/// What is packed for nothing is given up. Where many fast processors are done with it before the step fails, there has to be more of it.
#[test]
fn a_failing_build_does_not_wait_for_packing() {
    let dir = tempdir();
    let output = format!("type=oci,compression-level=9,dest={}", dir.path().join("a.tar").display());
    // How long a sixteenth of it takes here.
    let part = noisy("FROM scratch\nCOPY data /data\n", "16M");
    let part = run(Home::new().build(&part).args(["-o", &output])).ok().took;
    let is_given_up = |size: &str| {
        let home = Home::new();
        let context = noisy("FROM busybox\nCOPY data /data\nRUN sleep 0.1; exit 7\n", size);
        let file = dir.path().join("timings.json");
        let failed = run(told(&home, &context, &file).args(["-o", &output])).code_is(1);
        let timings = read(&file);
        let end = spans(&timings, "exit 7", "run")[0]["end"].as_u64().expect("a time");
        if spans(&timings, "COPY data", "pack").iter().any(|span| span["end"].as_u64() < Some(end)) {
            return false;
        }
        let more = Duration::from_micros(timings["total"].as_u64().expect("a time") - end);
        assert!(more < Duration::from_secs(2).max(4 * part), "{more:?} after the step failed: {failed}");
        assert_eq!(large_blobs(&home), 1, "that of the base image");
        let left = || fs::read_dir(home.path().join("tmp-v1")).expect("list").flatten().collect::<Vec<_>>();
        // A machine so slow that a piece takes seconds is not waited for: the next build tidies up.
        if more > Duration::from_secs(2) && !left().is_empty() {
            run(&mut home.build(&Context::new("FROM busybox\nRUN true\n"))).ok();
        }
        assert!(left().is_empty(), "{:?}", left());
        true
    };
    assert!(["256M", "512M", "1G"].into_iter().any(is_given_up), "packed before the step fails");
}

#[test]
fn builds_that_fail_are_told_as_well() {
    let (home, dir) = (Home::new(), tempdir());
    let context = Context::new("FROM busybox\nRUN sleep 0.1\nRUN sleep 0.2; exit 7\nRUN true\n");
    let file = dir.path().join("timings.json");
    let failed = run(&mut told(&home, &context, &file)).code_is(1);
    assert!(failed.stderr.contains(&file.display().to_string()), "{failed}");
    let timings = read(&file);
    assert_eq!(timings["result"], "failed");
    assert!(timings["message"].as_str().is_some_and(|message| message.contains('7')), "{timings:#}");
    let outcome = |name: &str| {
        let rows = list(&timings, "rows");
        rows.iter().find(|row| row["name"].as_str().is_some_and(|row| row.contains(name))).expect(name)["outcome"].clone()
    };
    assert_eq!(
        (outcome("sleep 0.1"), outcome("exit 7"), outcome("true")),
        ("ran".into(), "failed".into(), Value::Null)
    );
    assert_eq!(spans(&timings, "exit 7", "run")[0]["critical"], true);
}

#[test]
fn it_goes_to_a_file_and_nowhere_else() {
    let home = Home::new();
    let context = Context::new("FROM scratch\nCOPY data /data\n").file("data", "data");
    let dir = tempdir();
    let build = |arguments: &[&str]| {
        let mut build = home.build(&context);
        build.current_dir(dir.path()).args(arguments);
        build
    };
    let told = run(build(&["-o", "-", "--timings"]).arg("--progress=plain")).ok();
    let page = dir.path().join("builder-timings.html");
    assert!(told.stderr.contains(&page.display().to_string()), "{told}");
    assert!(told.stdout.contains("data") && !told.stdout.contains("<html"), "an archive");
    let text = fs::read_to_string(&page).expect("the page");
    assert!(text.starts_with("<!DOCTYPE html>") && text.trim_end().ends_with("</html>"));
    for quiet in ["--progress=quiet", "--progress=rawjson"] {
        let file = dir.path().join("builder-timings.json");
        let told = run(&mut build(&["--timings=json", quiet])).ok();
        assert!(!told.stderr.contains("builder-timings"), "{told}");
        fs::remove_file(file).expect("the file");
    }
    run(&mut build(&[])).ok();
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "without being asked nothing is written");
    run(&mut build(&["--timings=out.svg"])).code_is(2).says(".html");
    run(&mut build(&["--timings=no/such/place.html"])).code_is(1).says("--timings");
    run(&mut build(&["--timings", "--check"])).code_is(2);
}

#[test]
fn secrets_do_not_stand_in_it() {
    let (home, dir) = (Home::new(), tempdir());
    let context = Context::new(
        "FROM busybox\nARG API_TOKEN\nWORKDIR /at/$API_TOKEN\nRUN --mount=type=secret,id=key echo $API_TOKEN > /dev/null; cat /run/secrets/key\nRUN echo \"<b>${API_TOKEN}\"; false\n",
    );
    let secret = dir.path().join("key");
    fs::write(&secret, "of-the-mount").expect("write");
    for form in ["html", "json"] {
        let file = dir.path().join(format!("timings.{form}"));
        let mut build = told(&home, &context, &file);
        build.arg(format!("--secret=id=key,src={}", secret.display()));
        run(build.args(["--build-arg", "API_TOKEN=of-the-argument"])).code_is(1);
        let text = fs::read_to_string(&file).expect("the file");
        assert!(!text.contains("of-the-") && text.contains("RUN"), "{text}");
        assert!(text.contains("/at/***"), "{text}");
        assert!(form == "json" || !text.contains("<b>$"), "names are anybody's");
    }
}

#[test]
fn steps_of_several_platforms_are_told_apart() {
    let context = Context::new("FROM scratch\nARG TARGETARCH\nCOPY data /$TARGETARCH\n").file("data", "data");
    let timings = timed(&Home::new(), &context, &["--platform=linux/amd64,linux/arm64", "-t", "app"]);
    for arch in ["amd64", "arm64"] {
        assert_eq!(spans(&timings, &format!("/{arch}"), "copy").len(), 1, "{timings:#}");
        assert_eq!(spans(&timings, &format!("/{arch}"), "pack").len(), 1, "{timings:#}");
    }
}
