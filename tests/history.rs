//! Whatever happened to a state directory before, the next build gives what a clean build gives.
//!
//! Random histories: the context and the Dockerfile are edited, builds are killed, stores pruned, caches turned off. After each
//! round the tree that the battered state directory gives is compared with that of an empty one.
//!
//! `BUILDER_HISTORY_SECONDS` says how long (default 40), `BUILDER_HISTORY_SEED` repeats a run.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use e2e::{Context, Done, Home, Image, Tree, run, tempdir};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, number: u64) -> bool {
        self.below(number) == 0
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

fn number_from(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

const PATHS: [&str; 8] = ["a", "b", "d/a", "d/b", "d/sub/c", "e/x", "e/y", "f"];
const CONTENTS: [&str; 4] = ["one\n", "two\n", "", "a longer content\n"];
const MODES: [u32; 4] = [0o644, 0o755, 0o600, 0o4755];

/// One edit of the context. Most leave something that an earlier state had, so that old results are there to be taken by mistake.
fn edit(context: &Context, random: &mut Random) -> String {
    let path = random.pick(&PATHS);
    let other = random.pick(&PATHS);
    let at = |path: &str| context.path().join(path);
    let clear = |path: &str| {
        let _ = fs::remove_file(at(path));
        let _ = fs::remove_dir_all(at(path));
        // A file may stand where a directory is needed.
        for parent in PathBuf::from(path).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty())
        {
            if fs::symlink_metadata(context.path().join(parent)).is_ok_and(|metadata| !metadata.is_dir()) {
                let _ = fs::remove_file(context.path().join(parent));
            }
        }
        fs::create_dir_all(at(path).parent().expect("a parent")).expect("make directories");
    };
    match random.below(11) {
        0..3 => {
            let content = random.pick(&CONTENTS);
            clear(path);
            context.write(path, content);
            format!("write {path} {content:?}")
        }
        3 => {
            clear(path);
            format!("remove {path}")
        }
        4 => {
            let mode = MODES[random.below(4) as usize];
            let done = fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).is_ok();
            format!("chmod {mode:o} {path}: {done}")
        }
        5 => {
            clear(path);
            let target = random.pick(&["a", "../a", "/etc/passwd", "missing", "."]);
            symlink(target, at(path)).expect("make a link");
            format!("link {path} -> {target}")
        }
        6 if path != other => {
            clear(other);
            format!("hard link {other} to {path}: {}", fs::hard_link(at(path), at(other)).is_ok())
        }
        7 if !path.starts_with(other) && !other.starts_with(path) => {
            clear(other);
            format!("rename {path} to {other}: {}", fs::rename(at(path), at(other)).is_ok())
        }
        8 => {
            clear(path);
            fs::create_dir_all(at(path)).expect("make a directory");
            format!("mkdir {path}")
        }
        9 => {
            let value = random.pick(&["1", "2"]);
            let flags = rustix::fs::XattrFlags::empty();
            let done = rustix::fs::setxattr(at(path), "user.test", value.as_bytes(), flags).is_ok();
            format!("attribute {path} {value}: {done}")
        }
        _ => {
            // Same size, same time of change as far as anybody can set it.
            let before = fs::metadata(at(path)).ok().filter(fs::Metadata::is_file);
            let Some(before) = before else { return "nothing".to_owned() };
            let content = if before.len() == 4 { random.pick(&["one\n", "two\n"]) } else { "" };
            let file = fs::File::options().write(true).open(at(path)).expect("open");
            fs::write(at(path), content).expect("write");
            file.set_modified(before.modified().expect("a time")).expect("set a time");
            format!("rewrite {path} {content:?} with its old time")
        }
    }
}

const LINES: [&str; 31] = [
    "COPY . /ctx/",
    "COPY d /d",
    "COPY d /ctx/d",
    "COPY --chmod=640 f /x/f",
    "COPY --chown=5:6 e /e",
    "COPY [ab] /glob/",
    "COPY a b f /some/",
    "COPY e /link/e",
    "COPY <<X /heredoc\n#\nX",
    "RUN echo # > /n",
    "RUN rm -rf /ctx/d /d/a",
    "RUN [ ! -d /ctx ] || { mkdir -p /o && rm -rf /o/ctx && mv /ctx /o/; }",
    "RUN [ ! -e /n ] || ln -f /n /hard",
    "RUN rm -rf /d && mkdir /d && echo # > /d/new",
    "RUN rm -rf /d; mkdir /d",
    "RUN ln -sfn /ctx /link",
    "RUN mkdir -p /ctx && chmod 70# /ctx && chown #:7 /ctx",
    "RUN rm -f /p && mkfifo -m 60# /p",
    "RUN rm -rf /etc2 && cp -a /etc /etc2",
    "RUN mkdir -p /ctx && touch /ctx/a && chmod 644 /ctx/a",
    "RUN find / -xdev -type f -newer / >/dev/null; find /ctx /d /e 2>/dev/null | sort > /list",
    "RUN cat /ctx/a /ctx/d/a /d/a /n 2>/dev/null | sha256sum > /sum; env | sort > /env",
    "RUN mkdir -p /deep/1/2/3/4 && echo # > /deep/1/2/3/4/f && rm -rf /deep/1/2/#",
    "RUN [ ! -e /e/x ] || cp -a /e/x /e/x2; rm -f /e/x",
    "RUN true",
    "WORKDIR /w/#",
    "ENV KEY=#",
    "USER #",
    "USER root",
    "SHELL [\"/bin/sh\", \"-e#c\"]",
    "ARG NAME=#",
];

fn stage(random: &mut Random, text: &mut String, from_first: bool) {
    for _ in 0..random.below(7) {
        let line = match random.below(6) {
            0 if from_first => random.pick(&[
                "COPY --from=one / /all/",
                "COPY --from=one /etc /n* /from/",
                "COPY --from=one /ctx /d2/",
            ]),
            _ => random.pick(&LINES),
        };
        let _ = writeln!(text, "{}", line.replace("-e#c", "-ec").replace('#', &random.below(3).to_string()));
    }
}

fn dockerfile(random: &mut Random) -> String {
    let mut text = "FROM busybox AS one\n".to_owned();
    stage(random, &mut text, false);
    let _ = writeln!(text, "FROM {} AS two", random.pick(&["busybox", "one"]));
    stage(random, &mut text, true);
    text.push_str("COPY --from=one / /one/\n");
    text
}

/// Changes, adds or takes away one line after the first.
fn edit_dockerfile(text: &mut String, random: &mut Random) {
    let mut lines: Vec<&str> = text.lines().collect();
    let at = 1 + random.below(lines.len() as u64 - 1) as usize;
    let is_part = |line: &str| line.starts_with("FROM") || line.contains("<<X") || line.len() < 3;
    let new = random.pick(&LINES).replace("-e#c", "-ec").replace('#', &random.below(3).to_string());
    match random.below(4) {
        0 => lines.insert(at, "# a comment"),
        1 if !is_part(lines[at]) => drop(lines.remove(at)),
        2 if at + 2 < lines.len() && !is_part(lines[at]) && !is_part(lines[at + 1]) => lines.swap(at, at + 1),
        _ if lines[at] != "X" && !lines[at - 1].contains("<<X") => lines.insert(at, &new),
        _ => {}
    }
    *text = lines.join("\n") + "\n";
}

struct Round {
    context: Context,
    battered: Home,
    story: Vec<String>,
}

impl Round {
    fn tar(&self, home: &Home, arguments: &[&str]) -> Result<Tree, Done> {
        let dir = tempdir();
        let tar = dir.path().join("tree.tar");
        let output = format!("type=tar,dest={}", tar.display());
        let done = run(home.build(&self.context).args(["-o", &output]).args(arguments));
        match done.code {
            Some(0) => Ok(Tree::from_tar(&fs::read(tar).expect("read the tar"))),
            _ => Err(done),
        }
    }

    /// The same through layers.
    fn layers(&self, home: &Home) -> Tree {
        let dir = tempdir();
        let layout = dir.path().join("layout");
        let output = format!("type=oci,tar=false,name=e2e:latest,dest={}", layout.display());
        run(home.build(&self.context).args(["-o", &output])).ok();
        Image::open(layout, Some(dir)).tree()
    }

    fn kill_one(&mut self, random: &mut Random) {
        let dir = tempdir();
        let kind = random.pick(&["tar", "oci"]);
        let output = format!("type={kind},dest={}", dir.path().join("x").display());
        let mut build = self.battered.build(&self.context);
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

#[test]
fn any_history_gives_what_a_clean_build_gives() {
    let seed = number_from("BUILDER_HISTORY_SEED", 1);
    let budget = Duration::from_secs(number_from("BUILDER_HISTORY_SECONDS", 40));
    let random = &mut Random(seed);
    let start = Instant::now();
    let (mut rounds, mut failures) = (0, 0);
    while start.elapsed() < budget {
        let context = Context::new("");
        for path in PATHS {
            context.write(path, random.pick(&CONTENTS));
        }
        let story = vec![format!("seed {seed}, after {rounds} rounds")];
        let mut round = Round { context, battered: Home::new(), story };
        let mut text = dockerfile(random);
        for _ in 0..10 {
            round.context.write("Dockerfile", &text);
            if random.one_in(4) {
                round.kill_one(random);
            }
            let arguments: &[&str] = match random.below(10) {
                0 => &["--no-cache"],
                1 => &["--no-cache-filter=one"],
                2 => &["--no-cache-filter=two"],
                _ => &[],
            };
            round.story.push(format!("build {arguments:?}"));
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
                let what = edit(&round.context, random);
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
            if start.elapsed() > budget {
                break;
            }
        }
    }
    println!("seed {seed}: {rounds} builds, {failures} of them with an error that a clean build has as well");
    assert!(rounds > 5 && failures < rounds, "{failures} of {rounds} builds failed");
}
