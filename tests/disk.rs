//! What the cache takes on the disk, and what goes when it has to become smaller.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::{Context, Done, Home, Image, Running, bases, binary, eventually, need_root, run, tempdir, tool};
use serde_json::Value;

/// With a first step that takes so many seconds.
fn dockerfile(seconds: &str) -> String {
    format!(
        "FROM busybox
RUN head -c 3000000 /dev/zero > /a && sleep {seconds}
RUN head -c 3000000 /dev/zero > /b
RUN --mount=type=cache,target=/cache head -c 1000000 /dev/zero > /cache/x && echo made > /c
"
    )
}

/// What [`built`] builds.
const SECONDS: &str = "0.5";

fn built() -> (Home, Context) {
    let (home, context) = (Home::new(), Context::new(&dockerfile(SECONDS)));
    home.steps(&context, &[]);
    (home, context)
}

fn parts(home: &Home, filters: &[&str]) -> Vec<Value> {
    let mut command = home.builder("du");
    command.arg("--format=json");
    command.args(filters.iter().map(|filter| format!("--filter={filter}")));
    let text = run(&mut command).ok().stdout;
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn prune(home: &Home, arguments: &[&str]) -> String {
    run(home.builder("prune").args(arguments)).ok().stdout
}

#[test]
fn what_can_be_removed_is_listed_with_what_goes_with_it() {
    let (home, _context) = built();
    let all = parts(&home, &[]);
    let of = |text: &str| {
        let found = all.iter().find(|part| part["Description"].as_str().is_some_and(|of| of.contains(text)));
        found.unwrap_or_else(|| panic!("no {text} in {all:#?}"))
    };
    let (a, b) = (of("> /a"), of("> /b"));
    assert_eq!((&a["Size"], &b["Size"]), (&3_000_000.into(), &3_000_000.into()));
    assert_eq!(a["Frees"], 6_000_005, "with what stands on it");
    assert_eq!(b["Parents"][0], a["ID"]);
    assert!(a["Milliseconds"].as_u64() >= Some(500), "{a:#}");
    let mounts = parts(&home, &["type=exec.cachemount"]);
    assert_eq!(mounts.len(), 1);
    assert_eq!((&mounts[0]["ID"], &mounts[0]["Mutable"]), (&"/cache".into(), &true.into()));
    assert_eq!(parts(&home, &["type!=regular"]), mounts);
    assert_eq!(parts(&home, &["until=1h"]).len(), 0);
    let table = run(home.builder("du").args(["--filter", "description=> /b"])).ok().stdout;
    assert!(
        table.contains("RUN head -c 3000000 /dev/zero > /b") && table.contains("Reclaimable:  3MB"),
        "{table}"
    );
    run(home.builder("du").args(["--filter", "label=x"])).code_is(2).says("there is no filter `label`");
}

/// The rows of a table, in words.
fn table(home: &Home, by: &str) -> Vec<Vec<String>> {
    let text = run(home.builder("du").args(["--by", by])).ok().stdout;
    text.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn what_images_stages_steps_and_mounts_take() {
    let context = Context::new(
        "FROM busybox AS tools\nRUN --mount=type=cache,id=m,target=/m head -c 70000 /dev/zero > /m/f; head -c 2000000 /dev/zero > /big\n\
         FROM tools AS app\nRUN head -c 1000000 /dev/zero > /small\n",
    );
    let home = Home::new();
    run(home.build(&context).args(["-t", "app"])).ok();
    let stages = table(&home, "stage");
    let of = |name: &str| {
        let row = stages.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name}: {stages:?}"));
        (row[1].clone(), row[2].clone(), row[3].clone())
    };
    let megabytes = |text: &str| text.trim_end_matches("MB").parse::<f64>().expect("MB");
    let (layers, size, frees) = of("tools");
    assert!(layers == "1" && (2.0..2.1).contains(&megabytes(&size)), "{stages:?}");
    // What stands on it goes with it.
    assert!((3.0..3.2).contains(&megabytes(&frees)), "{stages:?}");
    assert_eq!(of("(images)").0, "1", "{stages:?}");
    assert_eq!(table(&home, "step").iter().filter(|row| row.iter().any(|word| word == "RUN")).count(), 2);
    let mounts = table(&home, "mount");
    assert!(mounts[0][0] == "m" && mounts[0][1] == "exec.cachemount", "{mounts:?}");
    let images = table(&home, "image");
    assert!(images.iter().any(|row| row[0].starts_with("app")), "{images:?}");
    // What stands on a stage goes with it, also where only the stage is asked for.
    let filtered = run(home.builder("du").args(["--by=stage", "--filter=description=/big"])).ok().stdout;
    assert_eq!(filtered.lines().count(), 2, "{filtered}");
    let row: Vec<&str> = filtered.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!((row[0], row[3]), ("tools", &*frees), "{filtered}");
    // Ten steps: the numbers before are filled up.
    let steps: String = (0..10).map(|step| format!("RUN echo {step} > /{step}\n")).collect();
    let text = format!("FROM busybox AS long\n{steps}FROM long AS last\nRUN echo last > /last\n");
    run(&mut home.build(&Context::new(&text))).ok();
    let long: Vec<Vec<String>> = table(&home, "stage").into_iter().filter(|row| row[0] == "long").collect();
    assert!(long.len() == 1 && long[0][1] == "10", "{long:?}");
}

/// Two images that were built elsewhere, with one layer in common: it stays with the other.
#[test]
fn an_image_frees_what_no_other_has() {
    let home = Home::new();
    let text = "FROM busybox\nRUN head -c 2000000 /dev/urandom > /common\n";
    let folder = tempdir();
    for (name, own) in [("one", 1_000_000), ("two", 3_000_000)] {
        let context = Context::new(&format!("{text}RUN head -c {own} /dev/urandom > /own\n"));
        let file = folder.path().join(name);
        run(home.build(&context).args(["-o", &format!("type=docker,name={name},dest={}", file.display())]))
            .ok();
    }
    let other = Home::new();
    for name in ["one", "two"] {
        run(other.builder("load").arg("-i").arg(folder.path().join(name))).ok();
    }
    let images = table(&other, "image");
    let megabytes = |text: &str| {
        let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic()).expect("a unit"));
        number.parse::<f64>().expect("a number") * if unit == "MB" { 1.0 } else { 0.001 }
    };
    for (name, own) in [("one", 1.0), ("two", 3.0)] {
        let row = images.iter().find(|row| row[0].starts_with(name)).unwrap_or_else(|| panic!("{images:?}"));
        let (size, frees) = (megabytes(&row[2]), megabytes(&row[3]));
        assert!((own..own + 0.5).contains(&frees), "{images:?}");
        assert!(size > frees + 2.0, "{images:?}");
    }
}

/// What a failed step left keeps all that it stands on: it is listed all the same, with what it takes.
#[test]
fn what_a_failed_step_holds_is_listed() {
    let (home, _context) = built();
    let before = parts(&home, &["type=regular"]);
    let failing = Context::new(&format!("{}RUN echo more > /d; exit 3\n", dockerfile(SECONDS)));
    run(&mut home.build(&failing)).code_is(1);
    let after = parts(&home, &["type=regular"]);
    assert_eq!(after.len(), before.len() + 1, "{after:#?}");
    for part in &after {
        assert_eq!(
            (&part["Frees"], &part["HeldBy"], &part["Reclaimable"]),
            (&0.into(), &1.into(), &false.into())
        );
    }
    assert!(after.iter().any(|part| part["Size"] == 3_000_000), "{after:#?}");
    let steps = table(&home, "step");
    assert!(steps.iter().any(|row| row.join(" ").contains("3MB 0B (debug 1)")), "{steps:?}");
    let stages = table(&home, "stage");
    assert!(stages.iter().all(|row| row[3] == "0B"), "{stages:?}");
    assert!(prune(&home, &["--filter=type=regular"]).contains("nothing to remove"));
}

#[test]
fn only_what_filters_match_goes() {
    let (home, context) = built();
    assert!(prune(&home, &["--filter=until=24h"]).contains("nothing to remove"));
    assert!(prune(&home, &["--filter=type=exec.cachemount"]).contains("1 cache mount"));
    assert_eq!(parts(&home, &["mutable"]).len(), 0);
    home.steps(&context, &[]).all_cached();
    // What stands on it stays, so it stays.
    prune(&home, &["--filter=description=> /a"]);
    home.steps(&context, &[]).all_cached();
    prune(&home, &["--filter=description=/cache/x"]);
    assert_eq!(home.steps(&context, &[]).executed().len(), 1);
}

/// Each filter, and each with `!=`: both sides together are everything.
#[test]
fn every_filter_has_two_sides() {
    let (home, context) = built();
    run(home.build(&context).args(["-t", "app"])).ok();
    let names = |filters: &[&str]| -> BTreeSet<String> {
        parts(&home, filters).iter().map(|part| part["ID"].as_str().expect("an id").to_owned()).collect()
    };
    let (all, everything) = (parts(&home, &[]), names(&[]));
    let of = |text: &str| {
        let found = all.iter().find(|part| part["Description"].as_str().is_some_and(|of| of.contains(text)));
        found
            .and_then(|part| part["ID"].as_str())
            .unwrap_or_else(|| panic!("no {text} in {all:#?}"))
            .to_owned()
    };
    let (a, b, c, mount) = (of("> /a"), of("> /b"), of("> /c"), "/cache".to_owned());
    let steps = [a.clone(), b.clone(), c.clone(), mount.clone()];
    // The base's layer was made by no step.
    let base = everything.iter().find(|id| !steps.contains(id)).expect("a base").clone();
    age(&home, &a);
    let set = |names: &[&String]| names.iter().map(|name| (*name).clone()).collect::<BTreeSet<_>>();
    for (key, value, want) in [
        ("id", a.as_str(), set(&[&a])),
        ("parents", a.as_str(), set(&[&b])),
        ("description", "/dev/zero > /b", set(&[&b])),
        ("type", "exec.cachemount", set(&[&mount])),
        ("type", "regular", set(&[&a, &b, &c, &base])),
        ("mutable", "true", set(&[&mount])),
        ("immutable", "true", set(&[&a, &b, &c, &base])),
        ("shared", "true", set(&[&a, &b, &c, &base])),
        ("private", "true", set(&[&mount])),
        ("inuse", "true", set(&[])),
        ("until", "1h", set(&[&a, &mount])),
        ("until", "3h", set(&[])),
        ("unused-for", "1h", set(&[&a, &mount])),
    ] {
        assert_eq!(names(&[&format!("{key}={value}")]), want, "{key}={value} of {all:#?}");
        let rest: BTreeSet<String> = everything.difference(&want).cloned().collect();
        assert_eq!(names(&[&format!("{key}!={value}")]), rest, "{key}!={value} of {all:#?}");
        // Several must all be so.
        assert_eq!(names(&[&format!("{key}={value}"), &format!("{key}!={value}")]), set(&[]), "{key}");
    }
    // `prune` has the same ones.
    prune(&home, &[&format!("--filter=id={c}")]);
    assert_eq!(names(&[]), set(&[&a, &b, &base, &mount]));
    // What is old stays where something young stands on it.
    prune(&home, &["--filter=until=1h"]);
    assert_eq!(names(&[]), set(&[&a, &b, &base]));
    prune(&home, &["--filter=unused-for!=1h", "--filter=description=RUN"]);
    assert_eq!(names(&[]), set(&[&a, &base]));
    prune(&home, &["--filter=unused-for=1h"]);
    assert_eq!(names(&[]), set(&[&base]));
}

/// A layer and all cache mounts were not used for two hours.
fn age(home: &Home, layer: &str) {
    let program = "import sqlite3,sys\ndb = sqlite3.connect(sys.argv[1])\n\
                   db.execute('UPDATE snapshots SET used = used - 7200000 WHERE id = ?', [int(sys.argv[2])])\ndb.commit()";
    run(tool("python3").args(["-c", program]).arg(home.path().join("cache-v1.db")).arg(layer)).ok();
    let uses = "touch -d '2 hours ago' \"$1\"/mounts-v1/*/*/uses";
    run(tool("sh").args(["-c", uses, "sh"]).arg(home.path())).ok();
}

#[test]
fn limits_are_kept_and_told() {
    // What the others take may differ by seconds on a machine that does much else.
    let (home, context) = (Home::new(), Context::new(&dockerfile("4")));
    home.steps(&context, &[]);
    assert!(prune(&home, &["--max-used-space=1g"]).contains("nothing to remove"));
    assert!(prune(&home, &["--max-used-space=1m", "--reserved-space=1g"]).contains("nothing to remove"));
    assert!(prune(&home, &["--min-free-space=1k"]).contains("nothing to remove"));
    // What is cheap for its bytes goes first: the second step, and what stands on it. The first took seconds.
    let total: u64 = parts(&home, &[]).iter().map(|part| part["Size"].as_u64().expect("bytes")).sum();
    let most = format!("--max-used-space={}", total - 2_000_000);
    prune(&home, &[&most, "--filter=type=regular", "--filter=description=RUN"]);
    let steps = run(home.build(&context).arg("--progress=plain")).ok();
    assert!(steps.stderr.contains("not cached: evicted just now to keep under"), "{steps}");
    let left: u64 =
        parts(&home, &["description=> /a"]).iter().map(|part| part["Size"].as_u64().expect("bytes")).sum();
    assert_eq!(left, 3_000_000, "the first was not touched");
    let told = run(home.builder("explain").arg(":2/4")).ok().stdout;
    assert!(told.ends_with("it was cached\n"), "{told}");
}

fn capped(home: &Home, context: &Context, most: &str) -> Done {
    let mut build = home.build(context);
    build.env("BUILDER_MAX_USED_SPACE", most).env("BUILDER_MIN_FREE_SPACE", "0");
    run(build.env("BUILDER_RESERVED_SPACE", "0").arg("--progress=plain")).ok()
}

/// Bytes of layers.
fn used(home: &Home) -> u64 {
    parts(home, &["type=regular"]).iter().map(|part| part["Size"].as_u64().expect("bytes")).sum()
}

#[test]
fn builds_keep_to_a_limit_by_themselves() {
    let home = Home::new();
    let step = |name: &str, slow: &str| {
        Context::new(&format!("FROM busybox\nRUN head -c 3000000 /dev/zero > /{name}{slow}\n"))
    };
    // What the others take may differ by seconds on a machine that does much else.
    let (slow, fast) = (step("slow", " && sleep 4"), step("fast", ""));
    capped(&home, &slow, "10000000");
    capped(&home, &fast, "10000000");
    for number in 0..4 {
        capped(&home, &step(&number.to_string(), ""), "10000000");
        assert!(used(&home) <= 10_000_000, "{}", used(&home));
    }
    // The slow one is worth its bytes.
    assert!(capped(&home, &slow, "10000000").stderr.contains("CACHED"));
    capped(&home, &fast, "10000000").says("not cached: evicted just now to keep under 10MB");
    // One build may be larger than the limit: what it uses stays until it ends, what others have left goes at once.
    let large: String =
        (0..6).map(|n| format!("RUN head -c 3000000 /dev/zero > /l{n} && sleep 0.2\n")).collect();
    let large = Context::new(&format!("FROM busybox\n{large}RUN ls /l0 /l5\n"));
    capped(&home, &large, "10000000");
    capped(&home, &slow, "10000000").says("not cached: evicted just now to keep under 10MB");
    assert!(used(&home) <= 10_000_000, "{}", used(&home));
    // Nothing is left of what went. What is kept for a full disk is no cache.
    let reserve = fs::metadata(home.path().join("reserve-v1")).expect("a reserve").len();
    assert!((1..=8 << 20).contains(&reserve), "{reserve}");
    let snapshots = run(tool("du").args(["-sb", "--apparent-size"]).arg(home.path())).ok().stdout;
    let bytes: u64 = snapshots.split_whitespace().next().expect("a number").parse().expect("a number");
    assert!(bytes - reserve < 16_000_000, "{bytes} bytes in the state directory");
    let nonsense = run(home.build(&slow).env("BUILDER_MAX_USED_SPACE", "much"));
    nonsense.code_is(2).says("BUILDER_MAX_USED_SPACE");
}

/// Builds that take everything from each other, except what they are using.
#[test]
fn what_a_running_build_uses_is_never_collected() {
    let home = Home::new();
    let context = |own: usize| {
        let text = format!(
            "FROM busybox AS one\nCOPY a /\nRUN head -c 1000000 /dev/zero > /one\nFROM busybox\nRUN head -c 1000000 /dev/zero > /{own}\n\
             COPY --from=one /one /a /\nRUN cat /one /{own} /a | sha256sum > /sum; sleep 0.0{own}\nCOPY a /b\n"
        );
        Context::new(&text).file("a", "a\n")
    };
    let contexts: Vec<Context> = (0..4).map(context).collect();
    let clean: Vec<String> = contexts.iter().map(|context| digest(&Home::new(), context)).collect();
    std::thread::scope(|scope| {
        for own in 0..4 {
            let (home, contexts, clean) = (&home, &contexts, &clean);
            scope.spawn(move || {
                for round in 0..6 {
                    let which = (own + round) % 4;
                    assert_eq!(digest(home, &contexts[which]), clean[which]);
                }
            });
        }
    });
}

/// Of the image that a build gives in a cache with hardly any room.
fn digest(home: &Home, context: &Context) -> String {
    let dir = tempdir();
    let layout = dir.path().join("layout");
    let mut build = home.build(context);
    build
        .env("BUILDER_MAX_USED_SPACE", "1MB")
        .env("SOURCE_DATE_EPOCH", "0")
        .env("BUILDER_RESERVED_SPACE", "0");
    run(build.args(["-o", &format!("type=oci,tar=false,dest={}", layout.display())])).ok();
    Image::open(layout, None).digest
}

/// A step that waits until somebody opens the gate, which is a file in a cache mount.
const GATE: &str =
    "RUN --mount=type=cache,id=gate,target=/gate while [ ! -e /gate/open ]; do sleep 0.05; done && ";

/// Begins a build, and returns when it waits at the gate.
fn begun(home: &Home, build: &mut Command) -> Running {
    let build = Running::start(build.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    eventually(Duration::from_secs(30), "the build to come to its gate", || {
        Path::new(&home.path()).exists() && parts(home, &["id=gate", "inuse"]).len() == 1
    });
    build
}

fn open_gate(home: &Home) {
    let key = Context::new("FROM busybox\nRUN --mount=type=cache,id=gate,target=/gate touch /gate/open\n");
    run(&mut home.build(&key)).ok();
}

#[test]
fn prune_takes_what_a_running_build_does_not_use() {
    let own = format!(
        "FROM busybox\nRUN head -c 2000000 /dev/zero > /a\nCOPY file /\n{GATE}cat /a /file > /b\nRUN cat /b /a | wc -c > /c\nCOPY file /d\n"
    );
    let context = Context::new(&own).file("file", "text\n");
    let output = |dir: &Path| format!("type=oci,tar=false,dest={}", dir.display());
    let building = |home: &Home, dir: &Path| {
        let mut build = home.build(&context);
        build.env("SOURCE_DATE_EPOCH", "0").args(["-t", "own", "-o", &output(dir)]);
        build
    };
    let dir = tempdir();
    let clean = Home::new();
    open_gate(&clean);
    run(&mut building(&clean, &dir.path().join("clean"))).ok();

    let home = Home::new();
    let made = |text: &str| {
        let context = Context::new(&format!("FROM busybox\n{text}"));
        run(home.build(&context).args(["-t", "named"])).ok();
    };
    // The first step is found, the others are made.
    made("RUN head -c 2000000 /dev/zero > /a\n");
    for name in ["filtered", "limited", "all"] {
        made(&format!("RUN head -c 3000000 /dev/zero > /{name}\n"));
    }
    run(home.builder("rmi").arg("named")).ok();
    made("RUN echo an image that stays > /image\n");
    let is_there = |text: &str| !parts(&home, &[&format!("description={text}")]).is_empty();
    let mut build = begun(&home, &mut building(&home, &dir.path().join("beside")));
    let used = parts(&home, &["inuse", "type=regular"]);
    assert!(used.iter().any(|part| part["Description"].as_str().is_some_and(|text| text.contains("> /a"))));
    let others = parts(&home, &["inuse!=true"]);
    assert!(["> /filtered", "> /limited", "> /all"].into_iter().all(|text| {
        others.iter().any(|part| part["Description"].as_str().is_some_and(|of| of.contains(text)))
    }));

    let told = prune(&home, &[]);
    assert!(told.contains("blob"), "those of images that lost their name: {told}");
    assert!(["> /a", "> /filtered", "> /limited", "> /all", "> /image"].into_iter().all(is_there));
    prune(&home, &["--filter=description=> /filtered"]);
    assert!(!is_there("> /filtered") && is_there("> /limited"));
    let total: u64 = parts(&home, &[]).iter().map(|part| part["Size"].as_u64().expect("bytes")).sum();
    prune(&home, &[&format!("--max-used-space={}", total - 1_000_000), "--filter=description!=> /all"]);
    assert!(!is_there("> /limited") && is_there("> /all") && is_there("> /a"));
    let all = run(home.builder("prune").args(["--all", "--force"])).ok();
    assert!(all.stderr.contains("stayed: builds or other commands are using them"), "{all}");
    assert!(!is_there("> /all") && !is_there("> /image") && is_there("> /a"));
    // What is left is the build's.
    let left = parts(&home, &[]);
    assert!(left.iter().all(|part| part["InUse"] == true) && left.len() >= 4, "{left:#?}");
    assert_eq!(parts(&home, &["inuse"]), left);
    assert_eq!(parts(&home, &["inuse=false"]).len(), 0);
    assert!(run(&mut home.builder("images")).ok().stdout.lines().count() == 1, "no image has a name");
    assert!(build.0.try_wait().expect("wait").is_none(), "it has not ended");

    open_gate(&home);
    assert!(build.wait(Duration::from_secs(60)).success());
    let of = |name| Image::open(dir.path().join(name), None);
    assert_eq!(of("beside").digest, of("clean").digest);
    run(home.builder("run").args(["own", "sh", "-c", "[ $(cat /c) = 4000005 ] && cmp /file /d"])).ok();
    run(&mut home.builder("fsck")).ok();
    home.steps(&context, &[]).all_cached();
}

/// A limit is kept while a step runs, not after it.
#[test]
fn what_is_old_goes_while_a_build_runs() {
    let home = Home::new();
    run(&mut home.build(&Context::new("FROM busybox\nRUN head -c 3000000 /dev/zero > /old\n"))).ok();
    let context = Context::new(&format!(
        "FROM busybox\nRUN sleep 0.5 && head -c 3000000 /dev/zero > /new\n{GATE}ls -l /new\n"
    ));
    let mut build = home.build(&context);
    build.env("BUILDER_MIN_FREE_SPACE", "0");
    let is_there = |text: &str| !parts(&home, &[&format!("description={text}")]).is_empty();
    // Busybox and both do not fit into this.
    let most = used(&home) + 1_000_000;
    build.env("BUILDER_MAX_USED_SPACE", most.to_string()).env("BUILDER_RESERVED_SPACE", "0");
    assert!(is_there("> /old"));
    let mut build = begun(&home, &mut build);
    eventually(Duration::from_secs(30), "the old layer to go", || !is_there("> /old"));
    assert!(build.0.try_wait().expect("wait").is_none(), "the build runs");
    assert!(is_there("> /new") && used(&home) <= most, "{} of {most}", used(&home));
    open_gate(&home);
    assert!(build.wait(Duration::from_secs(60)).success());
}

/// A program of an image that somebody runs keeps its files, and a repair says that it waits for that.
#[test]
fn what_runs_keeps_its_files() {
    let home = Home::new();
    let context = Context::new("FROM busybox\nRUN echo text > /file && head -c 1000000 /dev/zero > /zeros\n");
    run(home.build(&context).args(["-t", "app"])).ok();
    let shared = tempdir();
    let script =
        "touch /shared/began; while [ ! -e /shared/open ]; do sleep 0.05; done; cat /file; wc -c < /zeros";
    let mut command = home.builder("run");
    command.args(["-v", &format!("{}:/shared", shared.path().display()), "app", "sh", "-c", script]);
    let mut program = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let began = || shared.path().join("began").exists();
    eventually(Duration::from_secs(30), "the program to begin", began);
    let repair = run(home.builder("fsck").arg("--repair")).code_is(1);
    repair.says(&format!("is in use by `builder run` (process {})", program.0.id()));
    assert!(prune(&home, &["--all", "--force"]).contains("1 image"));
    std::fs::write(shared.path().join("open"), "").expect("open the gate");
    assert!(program.wait(Duration::from_secs(30)).success());
    let mut said = String::new();
    program.0.stdout.take().expect("a pipe").read_to_string(&mut said).expect("read");
    assert_eq!(said, "text\n1000000\n");
    run(home.builder("fsck").arg("--repair")).ok();
    assert!(prune(&home, &["--all", "--force"]).contains("layer"), "now it goes");
}

/// A disk of 60 MB with blocks of so many bytes, in a mount namespace of its own: what a script says that finds it in `disk`. In that, `made` builds an
/// image and then something that fails, each with 6 MB, `good` only the former, and `fill N` leaves N KiB of the disk free.
fn on_a_small_disk(block_size: &str, script: &str) -> Done {
    need_root();
    let dir = tempdir();
    let context =
        Context::new("FROM busybox\nRUN head -c 6000000 /dev/urandom > /a\nCOPY f /f\n").file("f", "f");
    let fails = Context::new("FROM busybox\nRUN head -c 6000000 /dev/urandom > /b; false\n");
    let command = |arguments: &[&str]| {
        let mut words: Vec<String> = vec![binary().display().to_string()];
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
    };
    let bases = bases();
    let build = |context: &Context, name: &str| {
        let path = context.path().display().to_string();
        let mut arguments = vec!["build", "-q", "-t", name];
        arguments.extend(bases.iter().map(String::as_str));
        command(&[&arguments[..], &[&path]].concat())
    };
    let script = format!(
        "set -u; cd {dir}; mkdir disk; truncate -s 60M image; mkfs.ext4 -q -m 0 -b {block_size} image || exit 99\n\
         mount -o loop image disk || exit 99\nexport BUILDER_HOME={dir}/disk/state\nbuilder={builder}\n\
         fill() {{ dd if=/dev/zero of=disk/fill bs=1k status=none 2> /dev/null; truncate -s -$1k disk/fill; }}\n\
         good() {{ {good} $@ > /dev/null; }}\nmade() {{ good || exit 98; {bad} > /dev/null 2>&1; }}\n{script}\n",
        dir = dir.path().display(),
        builder = binary().display(),
        good = build(&context, "a"),
        bad = build(&fails, "b"),
    );
    run(tool("unshare").args(["--mount", "--fork", "sh", "-c", &script]))
}

/// What is written to a full disk fails in words; what removes something succeeds, whatever little is left, and then there is room.
#[test]
fn a_full_disk_can_be_cleared() {
    for block_size in ["1024", "4096"] {
        let script = "\
for left in 0 5 13 30 100; do
    made; fill $left
    $builder images > out 2>&1; code=$?
    grep -q '^a ' out || grep -q 'No space left\\|storage full\\|disk is full' out || { echo \"images, $left: $code\"; cat out; exit 1; }
    for remove in 'rmi a' 'prune --all --force'; do
        $builder $remove > out 2>&1 || { echo \"$remove, $left: $?\"; cat out; exit 1; }
    done
    rm disk/fill; good || exit 1
    $builder prune --all --force > /dev/null || exit 1
done; echo cleared";
        let done = on_a_small_disk(block_size, script);
        assert_eq!((done.code, done.stdout.trim()), (Some(0), "cleared"), "{block_size}: {done}");
    }
}

/// What failed steps left goes before anything else that limits want gone, and before a build that finds the disk full of it.
#[test]
fn failed_steps_go_first() {
    let left = "$builder debug --list 2>&1 | grep -c /b; $builder du --by step | grep -c /a";
    let limited =
        on_a_small_disk("4096", &format!("made; {left}; $builder prune --max-used-space 12m; {left}"));
    let told = "1\n1\nRemoved 1 failed step, 1 layer: freed 6MB.\n0\n1\n";
    assert_eq!(limited.stdout, told, "{limited}");
    let script = format!("made; fill 8500; {left}; good --no-cache || exit 1; {left}");
    let filled = on_a_small_disk("4096", &script);
    assert_eq!((filled.code, &*filled.stdout), (Some(0), "1\n1\n0\n2\n"), "{filled}");
}
