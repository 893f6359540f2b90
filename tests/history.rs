//! Whatever happened to a state directory before, the next build gives what a clean build gives.
//!
//! Random histories: the context and the Dockerfile are edited, builds are killed, stores pruned, caches turned off. After each
//! round the tree that the battered state directory gives is compared with that of an empty one. The battered one is built upon without a
//! fast path (`BUILDER_DISABLE`) in every other build; the empty one with all.
//!
//! `BUILDER_HISTORY_SECONDS` says how long (default 40), `BUILDER_HISTORY_SEED` repeats a run; without it the seed is a new one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use e2e::fuzz::{Random, dockerfile, edit_context, edit_dockerfile, fill};
use e2e::{Context, Done, Home, Image, Tree, number_from, run, tempdir};

struct Round {
    context: Context,
    battered: Home,
    /// The fast path without which the next build on the battered state directory does; none where it is empty.
    without: String,
    story: Vec<String>,
}

impl Round {
    fn tar(&self, home: &Home, arguments: &[&str]) -> Result<Tree, Done> {
        let dir = tempdir();
        let tar = dir.path().join("tree.tar");
        let output = format!("type=tar,dest={}", tar.display());
        let done = run(self.build(home).args(["-o", &output]).args(arguments));
        match done.code {
            Some(0) => Ok(Tree::from_tar(&fs::read(tar).expect("read the tar"))),
            _ => Err(done),
        }
    }

    fn build(&self, home: &Home) -> Command {
        let mut build = home.build(&self.context);
        build.arg(format!("--build-context=more={}", self.context.path().display()));
        if home.path() == self.battered.path() {
            build.env("BUILDER_DISABLE", &self.without);
        }
        build
    }

    /// Half of the builds do without a fast path, each in its turn; `text` is the Dockerfile that they are of.
    fn draw_path(&mut self, paths: &[String], turn: &mut usize, text: &str, random: &mut Random) {
        self.without.clear();
        if random.one_in(2) {
            let path = |turn: usize| &paths[turn % paths.len()];
            let tells = path(*turn) == "overlay" && !self.is_the_same_in_a_copy(text);
            self.without.clone_from(path(*turn + usize::from(tells)));
            *turn += 1;
        }
    }

    /// Whether programs cannot tell an overlay from a copy, as in `tests/fuzz.rs`: a step that changes one of several names of a file of a layer
    /// below parts them on an overlay, and `mv` copies directories of those layers.
    fn is_the_same_in_a_copy(&self, text: &str) -> bool {
        let names = "find \"$0\" -type f -links +1 -print -quit";
        let found = run(Command::new("sh").args(["-c", names]).arg(self.context.path())).ok().stdout;
        found.is_empty() && !["ln -f ", "ln /ctx", "mv /"].iter().any(|command| text.contains(command))
    }

    /// The same through layers.
    fn layers(&self, home: &Home) -> Tree {
        let dir = tempdir();
        let layout = dir.path().join("layout");
        let output = format!("type=oci,tar=false,name=e2e:latest,dest={}", layout.display());
        run(self.build(home).args(["-o", &output])).ok();
        Image::open(layout, Some(dir)).tree()
    }

    fn kill_one(&mut self, random: &mut Random) {
        let dir = tempdir();
        let kind = random.pick(&["tar", "oci"]);
        let output = format!("type={kind},dest={}", dir.path().join("x").display());
        let mut build = self.build(&self.battered);
        if random.one_in(5) {
            build = self.battered.builder("prune");
            build.args(["--all", "--force"]);
        } else {
            build.args(["-o", &output]);
        }
        let mut child = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start a build");
        let after = Duration::from_micros(random.below(600_000));
        std::thread::sleep(after);
        let _ = child.kill();
        let _ = child.wait();
        self.story.push(format!("killed after {after:?}"));
    }

    #[track_caller]
    fn compare(&self, got: &Tree, want: &Tree, how: &str) {
        if got == want {
            return;
        }
        let mut report = format!("{how} differs from that of a clean build\n");
        for (path, node) in &got.0 {
            if want.0.get(path) != Some(node) {
                let _ = writeln!(report, "{path}: {node:?}\n   instead of {:?}", want.0.get(path));
            }
        }
        for path in want.0.keys().filter(|path| !got.0.contains_key(*path)) {
            let _ = writeln!(report, "{path} is missing");
        }
        let text = fs::read_to_string(self.context.path().join("Dockerfile")).expect("the Dockerfile");
        panic!("{report}\n--- story\n{}\n--- Dockerfile\n{text}", self.story.join("\n"));
    }
}

/// The names that `BUILDER_DISABLE` knows, as the program itself tells them.
fn fast_paths() -> Vec<String> {
    let told = run(Home::new().build(&Context::new("FROM busybox\n")).env("BUILDER_DISABLE", "?")).code_is(2);
    let list =
        told.stderr.split("there are ").nth(1).and_then(|rest| rest.split(';').next()).expect("a list");
    list.replace(" and ", ", ").split(", ").map(str::to_owned).collect()
}

#[test]
fn any_history_gives_what_a_clean_build_gives() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    let seed = number_from("BUILDER_HISTORY_SEED").unwrap_or_else(now);
    let budget = Duration::from_secs(number_from("BUILDER_HISTORY_SECONDS").unwrap_or(40));
    println!("seed {seed}: BUILDER_HISTORY_SEED={seed} repeats it");
    let random = &mut Random(seed);
    let start = Instant::now();
    let (mut rounds, mut failures) = (0_u64, 0);
    let paths = fast_paths();
    // How many builds there were without each.
    let (mut turn, mut times) = (0, BTreeMap::<String, u64>::new());
    // Some rounds there are however slow the machine is.
    let is_over = |rounds: u64| start.elapsed() > budget && rounds > 5;
    while !is_over(rounds) {
        let context = Context::new("");
        fill(context.path(), random);
        let story = vec![format!("seed {seed}, after {rounds} rounds")];
        let mut round = Round { context, battered: Home::new(), without: String::new(), story };
        let mut text = dockerfile(random);
        for _ in 0..10 {
            round.context.write("Dockerfile", &text);
            round.draw_path(&paths, &mut turn, &text, random);
            if random.one_in(4) {
                round.kill_one(random);
            }
            let arguments: &[&str] = match random.below(10) {
                0 => &["--no-cache"],
                1 => &["--no-cache-filter=one"],
                2 => &["--no-cache-filter=two"],
                _ => &[],
            };
            round.story.push(format!("build {arguments:?} without {:?}", round.without));
            *times.entry(round.without.clone()).or_default() += 1;
            let got = round.tar(&round.battered, arguments);
            let clean = Home::new();
            let want = round.tar(&clean, &[]);
            match (&got, &want) {
                (Ok(got), Ok(want)) => {
                    round.compare(got, want, "the tree");
                    if random.one_in(5) {
                        round.compare(&round.layers(&round.battered), want, "the tree in the layers");
                    }
                }
                (Err(_), Err(_)) => failures += 1,
                (Ok(_), Err(error)) => {
                    panic!("a clean build fails: {error}\n{}\n{text}", round.story.join("\n"))
                }
                (Err(error), Ok(_)) => {
                    panic!("only a clean build succeeds: {error}\n{}\n{text}", round.story.join("\n"))
                }
            }
            rounds += 1;
            for _ in 0..=random.below(2) {
                let what = edit_context(round.context.path(), random);
                round.story.push(what);
            }
            if random.one_in(2) {
                edit_dockerfile(&mut text, random);
                round.story.push("the Dockerfile is edited".to_owned());
            }
            if random.one_in(12) {
                run(round.battered.builder("prune").args(["--all", "--force"])).ok();
                round.story.push("prune".to_owned());
            }
            if is_over(rounds) {
                break;
            }
        }
    }
    println!("seed {seed}: {rounds} builds, {failures} of them with an error that a clean build has as well");
    println!("without: {times:?}");
    // A copy instead of an overlay takes Dockerfiles and contexts that cannot tell.
    let left_out = |path: &String| path == "overlay" || times.contains_key(path);
    assert!(turn < paths.len() || paths.iter().all(left_out), "of {paths:?}: {times:?}");
    assert!(rounds > 5 && failures < rounds, "{failures} of {rounds} builds failed");
}
