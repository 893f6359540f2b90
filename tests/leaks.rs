//! Builds of many steps, at once and one after another: what the builder holds does not grow with them.
//!
//! Few by default; with `BUILDER_LONG` 105 at once, of seven builds, and 1,000 one after another. `cargo xtask long leaks` sets it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::{Context, Home, User, eventually, mounts_with};

fn count(short: usize, long: usize) -> usize {
    if std::env::var_os("BUILDER_LONG").is_some() { long } else { short }
}

/// What a builder held at a moment, or the most of several.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// The number of the step that had said something last.
    step: usize,
    descriptors: usize,
    /// Descriptors beside those, by which others know which layers the build uses: one a layer, until they share 512.
    leases: usize,
    /// In its own namespace.
    mounts: usize,
    /// Of its own, in KiB: not the pages of files.
    memory: u64,
    /// Processes below it.
    processes: usize,
    /// Control groups of those, and of those before them.
    groups: usize,
}

impl Held {
    /// The most that was held while the last step to speak was one of these. Nothing, where nobody looked then.
    fn most(samples: &[Held], from: usize, to: usize) -> Option<Held> {
        samples.iter().filter(|held| (from..to).contains(&held.step)).copied().reduce(|a, b| Held {
            step: a.step.max(b.step),
            descriptors: a.descriptors.max(b.descriptors),
            leases: a.leases.max(b.leases),
            mounts: a.mounts.max(b.mounts),
            memory: a.memory.max(b.memory),
            processes: a.processes.max(b.processes),
            groups: a.groups.max(b.groups),
        })
    }
}

/// Processes below one, by the kernel's lists of children.
fn below(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut next = vec![pid];
    while let Some(pid) = next.pop() {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children: Vec<u32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            found.extend(&children);
            next.extend(children);
        }
    }
    found
}

/// Control groups of these guards. The number of a guard is in the name; others build at the same time. To look takes less time than a step.
fn groups_of(guards: &BTreeSet<u32>) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = next.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let guard =
                    name.strip_prefix("builder-").and_then(|rest| rest.split('-').next()?.parse().ok());
                if guard.is_some_and(|guard| guards.contains(&guard)) {
                    found.push(entry.path().display().to_string());
                }
                next.push(entry.path());
            }
        }
    }
    found
}

/// The number behind `step-`, of a line of output. The name of the step has no number there.
fn step_of(line: &str) -> Option<usize> {
    line.rsplit_once(" step-")?.1.trim_end().parse().ok()
}

/// Runs a build, and looks at it all the time. Then nothing of it is left.
fn watched(build: Command, place: &str) -> Vec<Held> {
    let (samples, seen) = watch(build, Duration::from_millis(10));
    nothing_is_left(&seen, place);
    samples
}

/// Runs a build, and looks at it after each pause. Returns the processes that were seen, too.
fn watch(mut build: Command, pause: Duration) -> (Vec<Held>, BTreeSet<u32>) {
    let mut child = build
        .arg("--progress=plain")
        // The allocator makes more of them where there are more processors, each with holes of its own.
        .env("MALLOC_ARENA_MAX", "4")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start a build");
    let stderr = BufReader::new(child.stderr.take().expect("just asked for"));
    let step = AtomicUsize::new(0);
    let (mut samples, mut seen) = (Vec::new(), BTreeSet::new());
    std::thread::scope(|scope| {
        let said = scope.spawn(|| {
            let mut last = Vec::new();
            for line in stderr.lines().map_while(Result::ok) {
                if let Some(number) = step_of(&line) {
                    step.store(number, Ordering::Relaxed);
                }
                last.push(line);
            }
            last.split_off(last.len().saturating_sub(30)).join("\n")
        });
        let proc = format!("/proc/{}", child.id());
        while child.try_wait().expect("wait for a build").is_none() {
            let processes = below(child.id());
            seen.extend(&processes);
            let status = fs::read_to_string(format!("{proc}/status")).unwrap_or_default();
            let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
            // It may end meanwhile.
            let memory = memory.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
            let table = fs::read_to_string(format!("{proc}/mountinfo")).unwrap_or_default();
            if let Some(memory) = memory {
                let (leases, descriptors): (Vec<PathBuf>, Vec<PathBuf>) = fs::read_dir(format!("{proc}/fd"))
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter_map(|entry| fs::read_link(entry.path()).ok())
                    .partition(|file| file.to_string_lossy().contains("/leases-"));
                samples.push(Held {
                    step: step.load(Ordering::Relaxed),
                    descriptors: descriptors.len(),
                    leases: leases.len(),
                    mounts: table.lines().count(),
                    memory,
                    processes: processes.len(),
                    groups: groups_of(&seen).len(),
                });
            }
            std::thread::sleep(pause);
        }
        let said = said.join().expect("a thread");
        assert!(child.wait().expect("wait for a build").success(), "{said}");
    });
    assert!(!seen.is_empty(), "nobody was seen");
    (samples, seen)
}

fn nothing_is_left(seen: &BTreeSet<u32>, place: &str) {
    eventually(Duration::from_secs(10), "processes, control groups and mounts to be gone", || {
        let gone = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
        };
        seen.iter().all(gone) && groups_of(seen).is_empty() && mounts_with(place).is_empty()
    });
}

/// Fails when later more was held than earlier. What is known of steps, and what the allocator keeps, takes some memory: 7 to 12 KiB a
/// step. By heap profiles (heaptrack) of 333 and 1,000 steps in ten stages, some 4 KiB of that live, to the end of the build: 1.6 are pages
/// that SQLite remembers, up to 2 MiB of them; 0.9 two lists of the layers of its stage so far, in the tree that it made and in its record,
/// which grow with the stage; 1.2 what the solver knows of it for others that wait and for the record of the build; 0.6 its name, times
/// and output on the terminal. The rest is holes between those: it is as much with a single arena (`MALLOC_ARENA_MAX`), and a fifth less
/// where the allocator gives back at once what is free at the end of its heap (`MALLOC_TRIM_THRESHOLD_`).
#[track_caller]
fn compare(what: &str, steps: usize, early: Option<Held>, late: Option<Held>) {
    let (early, late) = (early.expect("a look at the first steps"), late.expect("a look at the last ones"));
    println!("{what}, {steps} steps\n  early {early:?}\n  late  {late:?}");
    // The keeper of the next step comes and goes between looks.
    assert!(late.descriptors <= early.descriptors + 8, "descriptors: {early:?}, then {late:?}");
    assert!(late.leases <= 520, "leases: {late:?}");
    assert!(late.mounts <= early.mounts, "mounts: {early:?}, then {late:?}");
    // Each of the eight guards that are kept makes the keeper of its next step once it has guarded two.
    assert!(late.processes <= early.processes + 8, "processes: {early:?}, then {late:?}");
    assert!(late.groups <= early.groups + 2, "control groups: {early:?}, then {late:?}");
    let each = (steps * 8) as u64;
    assert!(late.memory <= early.memory + (8 << 10) + each, "memory: {early:?}, then {late:?}");
}

/// Stages of so many steps each, one after another.
fn in_a_row(steps: usize, stages: usize) -> Context {
    let each = steps / stages;
    let mut text = String::new();
    for stage in 0..stages {
        text.push_str(&format!("FROM busybox AS s{stage}\n"));
        if stage > 0 {
            text.push_str(&format!("COPY --from=s{} /made /before\n", stage - 1));
        }
        for step in stage * each..(stage + 1) * each {
            text.push_str(&format!("RUN echo step-$(({step} + 1)) | tee -a /made\n"));
        }
    }
    Context::new(&text)
}

#[test]
fn steps_one_after_another_leave_nothing() {
    let (steps, stages) = (count(60, 1_000), count(4, 10));
    let context = in_a_row(steps, stages);
    let compare = |who: &str, samples: &[Held]| {
        // The first ones find out what the machine can do.
        let early = Held::most(samples, steps / 10, steps / 3);
        compare(who, steps, early, Held::most(samples, steps * 2 / 3, steps + 1));
    };
    let home = Home::new();
    compare("root", &watched(home.build(&context), &home.path().display().to_string()));
    let user = User::with_range();
    compare("an ordinary user", &watched(user.build(&context), &user.at("home").display().to_string()));
}

/// How many steps of a build may run at once, but for one.
const AT_ONCE: usize = 15;
/// How many steps run one after another when those at once are done.
const SOME: usize = 5;

/// Twice as many as may be at once, each time with those of all other builds: no step ends before all of them have begun. After each
/// time some one after another.
fn at_once(build: usize, builds: usize) -> Context {
    let all = builds * AT_ONCE;
    let mut text = String::new();
    for wave in 0..2 {
        for stage in 0..AT_ONCE {
            text.push_str(&format!("FROM busybox AS s{wave}-{stage}\n"));
            if wave > 0 {
                text.push_str("COPY --from=joined0 /last /before\n");
            }
            text.push_str(&format!(
                "RUN --mount=type=cache,id=wave{wave},target=/all echo {build}-{stage} > /made; : > /all/$(cat /made); tries=300; \
                 while set -- /all/*; [ $# -lt {all} ]; do [ $((tries-=1)) -gt 0 ] || exit 1; sleep 1; done\n"
            ));
        }
        text.push_str(&format!("FROM busybox AS joined{wave}\n"));
        for stage in 0..AT_ONCE {
            text.push_str(&format!("COPY --from=s{wave}-{stage} /made /from/{stage}\n"));
        }
        for step in wave * SOME..(wave + 1) * SOME {
            text.push_str(&format!("RUN sleep 0.5; echo step-$(({step} + 1)) | tee /last\n"));
        }
    }
    Context::new(&text)
}

#[test]
fn steps_at_once_leave_nothing() {
    let builds = count(2, 7);
    let home = Home::new();
    let watched: Vec<_> = std::thread::scope(|scope| {
        let build = |number| {
            let context = at_once(number, builds);
            watch(home.build(&context), Duration::from_millis(20 * builds as u64))
        };
        let running: Vec<_> = (0..builds).map(|number| scope.spawn(move || build(number))).collect();
        running.into_iter().map(|build| build.join().expect("a build")).collect()
    });
    for (number, (samples, seen)) in watched.iter().enumerate() {
        nothing_is_left(seen, &home.path().display().to_string());
        let early = Held::most(samples, 1, SOME);
        let late = Held::most(samples, SOME + 1, 2 * SOME + 1);
        compare(&format!("at once, build {number} of {builds}"), 2 * AT_ONCE, early, late);
    }
}
