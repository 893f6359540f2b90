//! Builds that are interrupted and killed at any moment of a step: while it is mounted, runs, is collected, committed, exported.
//! Nothing of them stays that the next build does not take away, and what that one gives is what a clean build gives.
//!
//! `BUILDER_KILLS` says how many times (default 12), `BUILDER_KILLS_SEED` repeats a run. Half of them are of root's builds, of which
//! some run through runc; the others of an ordinary user's. Every other one comes at any moment, the others when a build says that it does
//! what was hit least so far ([`STAGES`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use e2e::{
    Context, Home, Image, Step, Steps, User, eventually, mounts_with, need_root, number_from, processes_with,
    run, tempdir,
};
use rustix::process::{Pid, Signal, kill_process};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Each kind of mount, processes that hide, files to collect, two steps at once, layers to pack. `NUMBER` makes all of it new. What steps
/// say shows where a kill hits them.
const DOCKERFILE: &str = "\
FROM busybox AS other
ARG NUMBER
RUN echo begun; mkdir -p /o/a/b && i=0; while [ $i -lt 200 ]; do echo $NUMBER $i > /o/a/b/$i; i=$((i+1)); done; ln -s a/b /o/link; echo ended
FROM busybox
ARG NUMBER
COPY . /ctx/
RUN --mount=type=bind,from=other,source=/o,target=/b,rw --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=s \
    echo begun; (setsid sh -c 'trap \"\" TERM INT; sleep 2' &) ; cp -r /b/a /copied && echo $NUMBER > /c/last && rm /ctx/gone && chmod 700 /copied && rm -r /b/a && echo ended
RUN --network=none echo begun; head -c 3000000 /dev/zero | tr '\\0' x > /large && cat /copied/b/* > /all && rm -r /copied/b && mkdir /copied/b && chown 3:4 /all && echo ended
COPY --from=other /o/ /from/other/
";

/// What a step may be doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Anything,
    /// Its program has begun.
    Running,
    /// Its program is done, and what it left is collected.
    Ended,
}

/// Each has to be hit where there are [`MANY`] kills: a step by a part of its name, and what it does.
const STAGES: &[(&str, Doing)] = &[
    ("] COPY ", Doing::Anything),
    ("[other 2/2] RUN", Doing::Running),
    ("[other 2/2] RUN", Doing::Ended),
    ("3/5] RUN", Doing::Running),
    ("3/5] RUN", Doing::Ended),
    ("4/5] RUN", Doing::Running),
    ("4/5] RUN", Doing::Ended),
    ("exporting to oci", Doing::Anything),
];

/// Kills of one victim.
const MANY: u64 = 25;

/// When a build is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    After(Duration),
    /// When it says that it is at one of [`STAGES`].
    At(usize),
}

/// Somebody whose builds are killed.
struct Victim<'a> {
    who: &'static str,
    build: Box<dyn Fn(&Context) -> Command + 'a>,
    prune: Box<dyn Fn() -> Command + 'a>,
    /// The directory of state, temporary files and output.
    place: PathBuf,
    /// Where the image goes, each time over what was there.
    layout: PathBuf,
    state: PathBuf,
    context: Context,
}

impl Victim<'_> {
    fn command(&self, number: u64) -> Command {
        let mut build = (self.build)(&self.context);
        build.arg(format!("--build-arg=NUMBER={number}"));
        build.arg(format!("--secret=id=s,src={}", self.context.path().join("secret").display()));
        build.args(["-o", &format!("type=oci,tar=false,name=kill:latest,dest={}", self.layout.display())]);
        build.env("SOURCE_DATE_EPOCH", "1600000000").arg("--progress=rawjson");
        build.stdin(Stdio::null()).stdout(Stdio::null());
        build
    }

    /// Starts a build, and ends it. Gives what it had said then, if it was still running.
    fn kill(&self, number: u64, moment: Moment, signal: Signal, runtime: &str) -> Option<String> {
        let said = tempfile::NamedTempFile::new().expect("make a file");
        let mut build = self.command(number);
        build.env("BUILDER_RUNTIME", runtime).stderr(said.reopen().expect("open a file"));
        let mut child = build.spawn().expect("start a build");
        let text = || fs::read_to_string(said.path()).expect("read what a build says");
        let mut is_over = || child.try_wait().expect("look at a build").is_some();
        match moment {
            Moment::After(time) => sleep(time),
            Moment::At(stage) => {
                while !is_at(&text(), stage) && !is_over() {
                    sleep(Duration::from_micros(500));
                }
            }
        }
        if is_over() {
            return None;
        }
        let text = text();
        let below = descendants(child.id());
        // To the builder alone: that nothing else stays is its business.
        kill_process(Pid::from_child(&child), signal).expect("kill a build");
        let how = format!("{}: {signal:?} {moment:?}, {runtime:?}", self.who);
        eventually(Duration::from_secs(20), &format!("the build to end; {how}"), || {
            child.try_wait().expect("look at a build").is_some()
        });
        eventually(Duration::from_secs(10), &format!("all processes to end; {how}"), || {
            below.iter().all(|pid| is_gone(*pid)) && processes_with(&format!("NUMBER={number}")).is_empty()
        });
        eventually(Duration::from_secs(5), &format!("all mounts to go; {how}"), || {
            mounts_with(&self.place.display().to_string()).is_empty()
        });
        Some(text)
    }

    /// Builds to the end, and looks for what is left of those before. Says in how many further builds that was taken away.
    fn finish(&self, number: u64) -> (Image, usize) {
        let left = || names(&self.state.join("tmp-v1"));
        let executed = !run(&mut self.command(number)).ok().steps().executed().is_empty();
        // A build takes away what others left while it works, and ends before that is done when there is nothing to do.
        let mut more = 0;
        while !executed && !left().is_empty() && more < 5 {
            run(&mut self.command(number)).ok();
            more += 1;
        }
        assert_eq!(left(), [""; 0], "{}: half of something; the build executed steps: {executed}", self.who);
        assert_eq!(abandoned_groups(), [""; 0], "{}: control groups", self.who);
        (Image::open(self.layout.clone(), None), more)
    }
}

/// The steps of a build that has said this until now, in the middle of a line maybe.
fn steps(said: &str) -> Option<Steps> {
    let whole = said.rfind('\n').map_or("", |end| &said[..end]);
    whole.contains('{').then(|| Steps::parse(whole))
}

/// What a step does that has begun and is not done.
fn doing(step: &Step) -> Doing {
    match step.log.as_str() {
        log if log.contains("ended") => Doing::Ended,
        log if log.contains("begun") => Doing::Running,
        _ => Doing::Anything,
    }
}

/// Whether a build that has said this until now is at one of [`STAGES`].
fn is_at(said: &str, stage: usize) -> bool {
    let (name, wanted) = STAGES[stage];
    let is_it = |step: &Step| {
        let is_active = step.started && !step.completed && step.name.contains(name);
        is_active && (wanted == Doing::Anything || doing(step) == wanted)
    };
    steps(said).is_some_and(|steps| steps.all().iter().any(is_it))
}

/// What a build was doing that has said this until now, in words.
fn stage(said: &str) -> String {
    let Some(steps) = steps(said) else { return "nothing said yet".to_owned() };
    let name = |step: &Step| step.name.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
    let what = |step: &Step| match doing(step) {
        Doing::Ended => format!("{}: ended", name(step)),
        Doing::Running => format!("{}: runs", name(step)),
        Doing::Anything => name(step),
    };
    let active = steps.all().iter().filter(|step| step.started && !step.completed);
    let mut active: Vec<String> = active.map(what).collect();
    active.sort();
    match steps.all().iter().rfind(|step| step.completed) {
        Some(last) if active.is_empty() => format!("after {}", name(last)),
        _ => active.join(", "),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
    entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Everything below a process, by numbers.
fn descendants(pid: u32) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let all: Vec<(u32, u32)> = names(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

/// Whether a process has ended. One that nobody waits for any more has.
fn is_gone(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// Control groups of guards that are no more. A guard's number is in the name; those of other tests live.
fn abandoned_groups() -> Vec<String> {
    let find =
        || run(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", "builder-*"])).stdout;
    let guard = |path: &str| path.rsplit("/builder-").next()?.split('-').next()?.parse::<u32>().ok();
    let dead = |path: &&str| guard(path).is_some_and(is_gone);
    let seen = find();
    let mut seen: Vec<&str> = seen.lines().filter(dead).collect();
    // A guard that ends now is about to remove its own; those of other tests' builds go with the next of these.
    let start = Instant::now();
    while !seen.is_empty() && start.elapsed() < Duration::from_secs(60) {
        sleep(Duration::from_millis(20));
        seen.retain(|path| Path::new(path).exists());
    }
    seen.into_iter().map(str::to_owned).collect()
}

fn torment(victim: &Victim<'_>, kills: u64, runtimes: &[&str], random: &mut Random) {
    let clean = |number: u64| {
        let home = Home::new();
        let dir = tempdir();
        let layout = dir.path().join("layout");
        let mut build = home.build(&victim.context);
        build.arg(format!("--build-arg=NUMBER={number}")).env("SOURCE_DATE_EPOCH", "1600000000");
        build.arg(format!("--secret=id=s,src={}", victim.context.path().join("secret").display()));
        run(build.args(["-o", &format!("type=oci,tar=false,name=kill:latest,dest={}", layout.display())]))
            .ok();
        Image::open(layout, Some(dir))
    };
    let start = Instant::now();
    victim.finish(0);
    let first = start.elapsed();
    let mut whole = first;
    // How often each was hit, and aimed at.
    let mut hits = vec![(0, 0); STAGES.len()];
    let (mut killed, mut late, mut compared) = (0, 0, 0);
    // Which stages were hit, and how many further builds it took to take everything away, each how often.
    let (mut stages, mut further) = (BTreeMap::<String, u64>::new(), BTreeMap::<usize, u64>::new());
    while killed < kills {
        let number = 1 + random.below(1_000_000_000);
        for _ in 0..(2 + random.below(3)).min(kills - killed) {
            let moment = match random.below(2) {
                0 => Moment::After(Duration::from_micros(random.below(whole.as_micros() as u64))),
                _ => {
                    let least = (0..STAGES.len()).min_by_key(|stage| hits[*stage]).expect("there are some");
                    hits[least].1 += 1;
                    Moment::At(least)
                }
            };
            let signal = [Signal::INT, Signal::TERM, Signal::KILL][killed as usize % 3];
            let runtime = runtimes[random.below(runtimes.len() as u64) as usize];
            let Some(said) = victim.kill(number, moment, signal, runtime) else {
                late += 1;
                // The first one unpacks the base, and has nobody beside it: others take less long, or longer.
                if let Moment::After(_) = moment {
                    whole = whole * 3 / 4;
                }
                // All of it is cached now.
                break;
            };
            if let Moment::After(_) = moment {
                whole = first.min(whole * 11 / 10);
            }
            killed += 1;
            (0..STAGES.len()).filter(|at| is_at(&said, *at)).for_each(|at| hits[at].0 += 1);
            *stages.entry(stage(&said)).or_default() += 1;
        }
        let ((got, more), want) = (victim.finish(number), clean(number));
        *further.entry(more).or_default() += 1;
        let what = format!("{}, after {killed} kills", victim.who);
        got.tree().same(&want.tree(), &what);
        assert_eq!(got.digest, want.digest, "{what}");
        compared += 1;
    }
    run(&mut (victim.prune)()).ok();
    assert_eq!(
        names(&victim.state.join("snapshots-v1")),
        [""; 0],
        "{}: snapshots that nobody knows",
        victim.who
    );
    assert_eq!(names(&victim.place.join("tmp")), [""; 0], "{}: temporary files", victim.who);
    println!(
        "{}: {killed} builds killed ({late} had ended before), {compared} finished after kills, each as a clean build; \
         one takes {first:?}, later {whole:?}; in so many further ones all was taken away, where the first had nothing to execute: {further:?}",
        victim.who
    );
    stages.iter().for_each(|(stage, times)| println!("{times:4} {stage}"));
    let missed = || (0..STAGES.len()).filter(|stage| hits[*stage].0 == 0).map(|stage| STAGES[stage]);
    assert!(kills < MANY || missed().count() == 0, "never hit: {:?}", missed().collect::<Vec<_>>());
}

fn context() -> Context {
    let context =
        Context::new(DOCKERFILE).file("file", "text\n").file("gone", "gone\n").file("secret", "s3cret\n");
    ["file", "gone", "secret", "Dockerfile"].iter().for_each(|name| context.chmod(name, 0o644));
    context
}

fn share(of: u64) -> (u64, Random) {
    let seed = number_from("BUILDER_KILLS_SEED").unwrap_or(u64::from(std::process::id()));
    println!("seed {seed}");
    (number_from("BUILDER_KILLS").unwrap_or(12).div_ceil(2), Random(seed ^ of))
}

#[test]
fn root_leaves_nothing() {
    need_root();
    let (kills, mut random) = share(1);
    let dir = tempdir();
    let place = dir.path().to_owned();
    fs::create_dir(place.join("tmp")).expect("make a directory");
    let set = |mut command: Command| {
        command.env("BUILDER_HOME", place.join("state")).env("TMPDIR", place.join("tmp"));
        command
    };
    let home = Home::new();
    let victim = Victim {
        who: "root",
        build: Box::new(|context| set(home.build(context))),
        prune: Box::new(|| {
            let mut prune = set(home.builder("prune"));
            prune.args(["--all", "--force"]);
            prune
        }),
        layout: place.join("layout"),
        place: place.clone(),
        state: place.join("state"),
        context: context(),
    };
    torment(&victim, kills, &["", "", "runc"], &mut random);
}

#[test]
fn an_ordinary_user_leaves_nothing() {
    let (kills, mut random) = share(2);
    let user = User::with_range();
    let victim = Victim {
        who: "an ordinary user",
        build: Box::new(|context| user.build(context)),
        prune: Box::new(|| {
            let mut prune = user.builder("prune");
            prune.args(["--all", "--force"]);
            prune
        }),
        layout: user.at("out/layout"),
        place: user.at(""),
        state: user.at("home/.local/share/builder"),
        context: context(),
    };
    torment(&victim, kills, &[""], &mut random);
}
