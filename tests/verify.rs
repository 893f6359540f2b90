//! `builder verify`: an image is built again from nothing, and what differs is named.

use std::fs;
use std::sync::{Arc, Mutex};

use e2e::{Context, Done, Home, Reply, Repositories, Server, bases, run};
use serde_json::{Value, json};

const EPOCH: &str = "1600000000";

/// The report as JSON, and the exit code.
fn report(home: &Home, arguments: &[&str]) -> (Value, Option<i32>) {
    let done = run(home.builder("verify").args(["--format=json"]).args(arguments));
    let value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}\n{done}"));
    (value, done.code)
}

fn verify(home: &Home, arguments: &[&str]) -> Done {
    run(home.builder("verify").args(arguments))
}

/// What the report says of the files of all layers: path, and what is different.
fn files(report: &Value) -> Vec<(String, Vec<String>)> {
    let layers = report["platforms"][0]["layers"].as_array().expect("layers");
    let files = layers.iter().flat_map(|layer| layer["files"].as_array().expect("files"));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let changes = |file: &Value| {
        file["changes"].as_array().expect("changes").iter().map(|change| text(&change["what"])).collect()
    };
    files.map(|file| (text(&file["path"]), changes(file))).collect()
}

fn nothing_is_left(home: &Home) {
    let left: Vec<_> = fs::read_dir(home.path().join("tmp-v1")).expect("list").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_recorded_build_is_repeated() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nARG A\nARG API_KEY\nCOPY f /f\nRUN echo $A $API_KEY $(cat /f) > /made && mkdir -m 700 /d\nENV X=$A\n",
    )
    .file("f", "text");
    let mut build = home.build(&context);
    build.env("SOURCE_DATE_EPOCH", EPOCH).env("FROM_ENV", "x").env("A", "of the environment");
    run(build.args(["-t", "app:1", "--build-arg=A", "--build-arg", "API_KEY=hunter22", "--label=l=1"])).ok();
    // The secret is not written down anywhere; its name is.
    verify(&home, &["app:1"]).code_is(2).says("the value of --build-arg API_KEY is not recorded");
    let again = |variable: &str| run(home.builder("verify").arg("app:1").env("API_KEY", variable));
    let done = again("hunter22").ok();
    assert!(done.stdout.contains("byte for byte"), "{done}");
    nothing_is_left(&home);
    let images = run(home.builder("images").arg("-q")).ok().stdout;
    assert_eq!(images.lines().count(), 1, "the rebuilt image does not stay: {images}");
    // Another value gives another file.
    let other = again("hunter33").code_is(1);
    assert!(
        other.stdout.contains(
            "/made  2 of its 33 bytes differ, at offsets 25-26; offset 25: 0x32 (2), rebuilt 0x33 (3)\n"
        ),
        "{other}"
    );
    // What is found wrong with the recorded directory is said.
    fs::remove_file(context.path().join("Dockerfile")).expect("remove");
    again("hunter22").code_is(1).says("Dockerfile");
    let history = run(home.builder("history").args(["inspect", "--format=json"])).ok();
    assert!(!history.stdout.contains("hunter"), "{history}");
}

#[test]
fn what_is_not_reproducible_is_named() {
    let home = Home::new();
    let context = Context::new(
        "FROM busybox\nRUN echo always > /same; { echo one; cat /proc/sys/kernel/random/uuid; echo two; } > /f\n",
    );
    run(home.build(&context).env("SOURCE_DATE_EPOCH", EPOCH).args(["-t", "app"])).ok();
    let (found, code) = report(&home, &["app"]);
    assert_eq!((code, &found["identical"]), (Some(1), &json!(false)));
    assert_eq!(files(&found), [("/f".to_owned(), vec!["content".to_owned()])]);
    let layer = &found["platforms"][0]["layers"][0];
    assert_eq!(layer["index"], 1);
    assert!(layer["made_by"].as_str().expect("text").contains("random/uuid"), "{layer}");
    // Four bytes in front, a UUID of 36, and five behind.
    let ranges = layer["files"][0]["changes"][0]["ranges"].as_array().expect("ranges").clone();
    let number = |value: &Value| value.as_u64().expect("a number");
    assert!(ranges.iter().all(|range| number(&range["from"]) >= 4), "{ranges:?}");
    assert!(ranges.iter().all(|range| number(&range["from"]) + number(&range["bytes"]) <= 40), "{ranges:?}");
    let text = verify(&home, &["app"]).code_is(1).stdout;
    assert!(text.contains("layer 2: RUN") && text.contains("\n  /f  "), "{text}");
    assert!(!text.contains("\n  /same"), "{text}");
    nothing_is_left(&home);
}

#[test]
fn times_are_told_apart() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN echo always > /same\n");
    run(home.build(&context).args(["-t", "app"])).ok();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let done = verify(&home, &["app"]).code_is(1);
    assert!(done.stdout.contains("/same  time 20"), "{done}");
    assert!(done.stdout.contains("Only times differ"), "{done}");
    assert!(verify(&home, &["--ignore-times", "app"]).ok().stdout.contains("but for times"));
}

#[test]
fn another_context_is_compared_file_by_file() {
    let home = Home::new();
    let context = Context::new("FROM scratch\nCOPY dir /dir\nLABEL v=1\n")
        .file("dir/mode", "m")
        .file("dir/old-place", "moved")
        .file("dir/bytes", "0123456789")
        .file("dir/longer", "abc");
    run(home.build(&context).env("SOURCE_DATE_EPOCH", EPOCH).args(["-t", "app"])).ok();
    let place = context.path().display().to_string();
    let mut arguments = vec!["app", "--context", &place, "--build-arg=SOURCE_DATE_EPOCH=1600000000"];
    let bases = bases();
    arguments.extend(bases.iter().map(String::as_str));
    assert_eq!(report(&home, &arguments).1, Some(0));
    context.chmod("dir/mode", 0o750);
    fs::rename(context.path().join("dir/old-place"), context.path().join("dir/new-place")).expect("move");
    context.write("dir/bytes", "01x34567yz");
    context.write("dir/longer", "abcdef");
    context.write("Dockerfile", "FROM scratch\nCOPY dir /dir\nLABEL v=2\n");
    let (found, code) = report(&home, &arguments);
    assert_eq!(code, Some(1));
    let one = |path: &str, what: &str| (path.to_owned(), vec![what.to_owned()]);
    assert_eq!(
        files(&found),
        [
            one("/dir/bytes", "content"),
            one("/dir/longer", "content"),
            one("/dir/mode", "mode"),
            one("/dir/new-place", "only in the rebuilt image"),
            one("/dir/old-place", "only in the image"),
        ]
    );
    let changes = |at: usize| &found["platforms"][0]["layers"][0]["files"][at]["changes"][0];
    assert_eq!(changes(0)["ranges"], json!([{ "from": 2, "bytes": 1 }, { "from": 8, "bytes": 2 }]));
    assert_eq!(changes(1)["ranges"], json!([{ "from": 3, "bytes": 3 }]));
    assert_eq!((&changes(2)["image"], &changes(2)["rebuilt"]), (&json!("0644"), &json!("0750")));
    let places: Vec<_> = found["platforms"][0]["documents"]
        .as_array()
        .expect("documents")
        .iter()
        .map(|one| one["place"].as_str().expect("text"))
        .collect();
    assert!(places.contains(&"/config/Labels/v"), "{places:?}");
    let text = verify(&home, &arguments).code_is(1).stdout;
    for line in [
        "  /dir/bytes  3 of its 10 bytes differ, at offsets 2, 8-9; offset 2: 0x32 (2), rebuilt 0x78 (x)\n",
        "  /dir/longer  size 3, rebuilt 6; 3 bytes differ, at offsets 3-5; offset 3: the end of the file, rebuilt 0x64 (d)\n",
        "  /dir/mode  mode 0644, rebuilt 0750\n",
        "  /dir/old-place  only in the image\n",
        "  /config/Labels/v: \"1\", rebuilt \"2\"\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

/// `-f` names the file that is compared, wherever it lies; another than the recorded one is another image.
#[test]
fn another_file_is_compared() {
    let home = Home::new();
    let context = Context::new("FROM scratch\nCOPY f /f\n")
        .file("f", "f")
        .file("other.Dockerfile", "FROM scratch\nCOPY f /g\nLABEL v=2\n");
    let place = context.path().display().to_string();
    let mut build = home.build(&context);
    run(build.env("SOURCE_DATE_EPOCH", EPOCH).args(["-t", "app"])).ok();
    let other = context.path().join("other.Dockerfile").display().to_string();
    let mut arguments = vec!["app", "--context", &place, "--build-arg=SOURCE_DATE_EPOCH=1600000000"];
    assert_eq!(report(&home, &arguments).1, Some(0));
    arguments.extend(["-f", &other]);
    let (found, code) = report(&home, &arguments);
    assert_eq!((code, &found["identical"]), (Some(1), &json!(false)));
    let one = |path: &str, what: &str| (path.to_owned(), vec![what.to_owned()]);
    assert_eq!(files(&found), [one("/f", "only in the image"), one("/g", "only in the rebuilt image")]);
    // And the other way round: the image of that file is no other.
    let mut build = home.build(&context);
    run(build.env("SOURCE_DATE_EPOCH", EPOCH).args(["-t", "app", "-f", &other])).ok();
    assert_eq!(report(&home, &arguments).1, Some(0));
    nothing_is_left(&home);
}

/// A name may mean another image by now: the rebuilt image stands on the one that was used.
#[test]
fn base_images_are_those_that_were_used() {
    let home = Home::new();
    let base = Context::new("FROM scratch\nCOPY f /f\n").file("f", "first");
    run(home.build(&base).env("SOURCE_DATE_EPOCH", EPOCH).args(["-t", "base"])).ok();
    let app = Context::new("FROM base\nCOPY g /g\n").file("g", "g");
    let mut build = home.build(&app);
    run(build.env("SOURCE_DATE_EPOCH", EPOCH).args([
        "-o",
        "type=image,name=app,compression=zstd,annotation.a=b",
        "--platform=linux/amd64",
    ]))
    .ok();
    base.write("f", "second");
    run(home.build(&base).env("SOURCE_DATE_EPOCH", EPOCH).args(["-t", "base"])).ok();
    assert_eq!(report(&home, &["app"]).1, Some(0));
}

#[test]
fn every_platform_is_built_again() {
    let home = Home::new();
    let context = Context::new("FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n").file("f", "f");
    let mut build = home.build(&context);
    let arguments = ["-t", "app", "--platform=linux/arm64,linux/amd64"];
    run(build.env("SOURCE_DATE_EPOCH", EPOCH).args(arguments)).ok();
    let (found, code) = report(&home, &["app"]);
    assert_eq!((code, found["platforms"].as_array().map(Vec::len)), (Some(0), Some(2)), "{found}");
}

/// What is repeated is the build that gave the name the image that it has, and not any later one: whose image has the same config, or
/// which gave the name another image that it no longer means.
#[test]
fn the_build_is_the_one_that_gave_the_image() {
    let home = Home::new();
    let context =
        Context::new("FROM scratch\nARG TARGETARCH V\nCOPY f /$TARGETARCH\nLABEL v=$V\n").file("f", "f");
    let build = |arguments: &[&str]| {
        run(home.build(&context).env("SOURCE_DATE_EPOCH", EPOCH).args(arguments)).ok();
        let id = run(home.builder("history").args(["ls", "-q", "-n1"])).ok().stdout;
        id.trim().to_owned()
    };
    let is_of = |image: &str, build: &str| {
        let (found, code) = report(&home, &[image]);
        assert_eq!((code, &found["build"]), (Some(0), &json!(build)), "{image}: {found}");
    };
    let gzip = build(&["-t", "gzip"]);
    let zstd = build(&["-o", "type=image,name=zstd,compression=zstd"]);
    is_of("gzip", &gzip);
    is_of("zstd", &zstd);
    let both =
        |v: &str| build(&["-t", "app", "--platform=linux/amd64,linux/arm64", &format!("--build-arg=V={v}")]);
    let first = both("1");
    run(home.builder("tag").args(["app", "kept"])).ok();
    let second = both("2");
    is_of("kept", &first);
    is_of("app", &second);
    run(home.builder("tag").args(["kept", "app"])).ok();
    is_of("app", &first);
    // Of two outputs of one build, the one that the image has been, whatever it is called now.
    let two = build(&["-o", "type=image,name=a", "-o", "type=image,name=b,compression=zstd"]);
    run(home.builder("tag").args(["b", "c"])).ok();
    run(home.builder("rmi").args(["zstd", "gzip"])).ok();
    is_of("c", &two);
}

#[test]
fn what_cannot_be_repeated_is_said() {
    let home = Home::new();
    let context = Context::new("FROM scratch\nCOPY f /\n").file("f", "f");
    run(home.build(&context).args(["-t", "app"])).ok();
    verify(&home, &["nothing"]).code_is(1).says("there is no image nothing:latest");
    verify(&home, &["app", "--build-arg=A=1"]).code_is(2).says("--build-arg says how to build");
    verify(&home, &["--ignore-times", "app", "."]).code_is(0).says("exporting");
    verify(&home, &["app", "elsewhere"]).code_is(2).says("--context PATH");
    // A record of elsewhere brings no command with it.
    let exported = context.path().join("record.json");
    run(home.builder("history").args(["export", "-o"]).arg(&exported)).ok();
    let text = fs::read_to_string(&exported).expect("the record");
    assert!(!text.contains("invocation"), "{text}");
    run(home.builder("history").args(["rm", "--all"])).ok();
    verify(&home, &["app"]).code_is(2).says("no build is recorded that made this image");
    let mut record: Value = serde_json::from_str(&text).expect("JSON");
    record["invocation"] = json!({ "directory": "/", "arguments": ["."] });
    fs::write(&exported, record.to_string()).expect("write");
    run(home.builder("history").arg("import").arg(&exported)).ok();
    verify(&home, &["app"]).code_is(2).says("cannot be repeated");
    // One from standard input.
    let piped = e2e::feed(home.builder("build").args(["-t", "piped", "-"]), b"FROM scratch\nLABEL a=b\n");
    piped.ok();
    verify(&home, &["piped"]).code_is(2).says("standard input");
}

/// What the image was made from may be another by now: that is told before anybody looks for the reason in the steps.
#[test]
fn what_changed_since_the_build_is_named() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nCOPY src /src\nRUN cat /src/a > /made\nLABEL v=1\n")
        .file("src/a", "a")
        .file("src/gone", "gone")
        .file("src/same", "same");
    for _ in 0..2 {
        // The second one finds all in the cache, and is the one that is repeated.
        run(home.build(&context).env("SOURCE_DATE_EPOCH", EPOCH).args(["-t", "app"])).ok();
    }
    let (found, code) = report(&home, &["app"]);
    assert_eq!((code, &found["inputs"]), (Some(0), &json!([])));
    context.write("src/a", "b");
    context.write("src/new", "new");
    fs::remove_file(context.path().join("src/gone")).expect("remove");
    let done = verify(&home, &["app"]).code_is(1);
    let expected = "  files of COPY src /src\n    src/a changed\n    src/new added\n    src/gone removed\n";
    assert!(done.stdout.contains(expected) && done.stdout.contains("changed since build "), "{done}");
    assert!(!done.stdout.contains("the text of"), "{done}");
    context.write("Dockerfile", "FROM busybox\nCOPY src /src\nRUN cat /src/a > /made\nLABEL v=2\n");
    let (found, code) = report(&home, &["app"]);
    assert_eq!(code, Some(1));
    assert_eq!(found["inputs"][0]["what"], "Dockerfile");
    let files = &found["inputs"][1];
    assert_eq!((&files["what"], &files["steps"]), (&json!("files"), &json!(["COPY src /src"])));
    assert_eq!(files["paths"][0]["path"], "src/a");
    assert_eq!(found["inputs"].as_array().map(Vec::len), Some(2), "{found}");
    // From a context that is given it is told as well, and what the build is asked for.
    context.write("Dockerfile", "FROM busybox\nARG A\nCOPY src /src\nRUN cat /src/a > /made\nLABEL v=2\n");
    let place = context.path().display().to_string();
    let bases = bases();
    let mut arguments = vec!["app", "--context", &place, "--build-arg=A=1"];
    arguments.extend(bases.iter().map(String::as_str));
    let done = verify(&home, &arguments).code_is(1);
    assert!(done.stdout.contains(expected) && done.stdout.contains("the text of"), "{done}");
    assert!(done.stdout.contains("  ARG A: now 1 (RUN "), "{done}");
    assert!(!done.stdout.contains("COPY src /src changed"), "a step that is named already: {done}");
}

/// A branch moves, and a file is replaced: the commits of the build are taken again, and of the file it is told.
#[test]
fn what_is_fetched_is_what_was_fetched() {
    let (home, repositories) = (Home::new(), Repositories::new());
    let git = repositories.serve();
    let content = Arc::new(Mutex::new("first"));
    let given = content.clone();
    let server = Server::start(move |_| Reply::new(200, *given.lock().expect("a lock")));
    // A context that is a branch, one of two names, and what steps add: a tag that is an object of its own, with the commit in it.
    let (url, file, first) = (git.url("/app.git"), server.url("/f"), &repositories.first);
    let text = format!(
        "FROM scratch\nADD {url} /added\nADD --checksum={first} {url}#v1 /tagged\nADD {file} /\nCOPY --from=x file /x\n"
    );
    let context = Context::new(&text);
    let build = |context: &str, arguments: &[&str]| {
        let mut build = home.builder("build");
        run(build.env("SOURCE_DATE_EPOCH", EPOCH).arg(context).args(arguments)).ok();
    };
    build(&context.path().display().to_string(), &["-t", "app", &format!("--build-context=x={url}#main")]);
    build(&url, &["-t", "of-git"]);
    repositories.edit("another");
    for image in ["app", "of-git"] {
        let (found, code) = report(&home, &[image]);
        assert_eq!((code, &found["inputs"]), (Some(0), &json!([])), "{found}");
    }
    *content.lock().expect("a lock") = "second";
    let (found, code) = report(&home, &["app"]);
    assert_eq!(code, Some(1));
    let download = &found["inputs"][0];
    assert_eq!((&download["what"], &download["url"]), (&json!("download"), &json!(file)));
    let text = verify(&home, &["app"]).code_is(1).stdout;
    assert!(text.contains(&format!("  {file}: sha256:")), "{text}");
}

/// Options that say nothing about the result need no context.
#[test]
fn who_makes_the_processes_says_nothing_of_the_image() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN echo made > /f\n");
    run(home.build(&context).env("SOURCE_DATE_EPOCH", EPOCH).args(["-t", "app"])).ok();
    for options in [&["--no-cache"][..], &["--runtime=runc"], &["--no-cache-filter=x", "--progress=plain"]] {
        let arguments = [options, &["app"]].concat();
        assert_eq!(report(&home, &arguments).1, Some(0), "{options:?}");
    }
    verify(&home, &["app", "--runtime=/nonexistent"]).code_is(1).says("/nonexistent");
}
