//! Many runs, and many ends: nothing is left. `BUILDER_LONG=1` makes them longer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use executor::{Executor, Rootfs};

use crate::support::{Case, Fixture, Needs, Recorder, bind, eventually, processes_with};

pub(crate) const CASES: &[Case] = &[
    Case { name: "endurance::one_after_another", needs: Needs::Nothing, run: one_after_another },
    Case { name: "endurance::at_once", needs: Needs::Nothing, run: at_once },
    Case { name: "endurance::killed_at_every_stage", needs: Needs::Nothing, run: killed_at_every_stage },
];

/// How long it may take until all of many steps have begun; in an emulated machine that is long.
const PATIENCE: Duration = Duration::from_secs(180);

fn count(short: usize, long: usize) -> usize {
    if std::env::var_os("BUILDER_LONG").is_some() { long } else { short }
}

/// Mounts of a test's own files: others test, and mount, at the same time.
fn own_mounts(fixture: &Fixture) -> Vec<String> {
    let own = fixture.dir.path().to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned).collect()
}

/// What could leak.
#[derive(Debug)]
struct Held {
    mounts: usize,
    /// Descriptors and KiB of memory of this process, and of each guard that waits for its next step.
    processes: BTreeMap<u32, (usize, u64)>,
}

/// KiB that the allocator may spread out while nothing leaks. A process that starts steps one after the other, and their guard, do not
/// grow by a page in 1,000 steps. A leak of 200 bytes a step shows there; one of 100 fits into what the first steps' buffers left.
const SPREAD: u64 = 64;
/// KiB of the two buffers that each run reads output into. Of many at once the allocator may keep all for the next.
const BUFFERS: u64 = 128;

fn held(fixture: &Fixture) -> Held {
    let of = |pid: u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        // Without the pages of the program, which others map too. Counted one by one: the sums in `status` are off by some pages for each
        // processor that the process was on.
        let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let memory = maps.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        (pid, (descriptors, memory.trim().trim_end_matches(" kB").parse().unwrap()))
    };
    let processes = crate::limits::own_children().into_iter().chain([std::process::id()]).map(of).collect();
    Held { mounts: own_mounts(fixture).len(), processes }
}

/// What is held when guards have made the keepers of their next steps.
fn held_at_rest(fixture: &Fixture) -> Held {
    let mut before = held(fixture);
    eventually("guards rest", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = held(fixture);
        let rests = now.processes == before.processes;
        before = now;
        rests
    });
    before
}

/// Groups of these guards: others test, and have groups, at the same time.
fn groups_of(guards: &BTreeSet<u32>) -> Vec<PathBuf> {
    let is_theirs = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.split('-').nth(1).and_then(|pid| pid.parse().ok()).is_some_and(|pid| guards.contains(&pid))
    };
    crate::limits::groups().into_iter().filter(is_theirs).collect()
}

/// Takes down who guards the steps of this process while they run.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<u32>>,
}

impl Watcher {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut guards = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                guards.extend(crate::limits::own_children());
                std::thread::sleep(Duration::from_millis(2));
            }
            guards
        });
        Self { stop, thread }
    }

    fn guards(self) -> BTreeSet<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// `kept` are KiB that this process may have more than before.
fn assert_nothing_leaked(fixture: &Fixture, watcher: Watcher, before: &Held, kept: u64) {
    let mut guards = watcher.guards();
    assert!(!guards.is_empty(), "nobody was seen");
    // One that waits for the next step keeps a group for it.
    let waiting = crate::limits::own_children();
    guards.retain(|guard| !waiting.contains(guard));
    assert_eq!(groups_of(&guards), Vec::<PathBuf>::new(), "groups");
    let mut after = held(fixture);
    assert_eq!(after.mounts, before.mounts);
    // A guard may be making the keeper of the next step.
    eventually("descriptors are closed", || {
        after = held(fixture);
        after.processes.iter().all(|(pid, now)| before.processes.get(pid).is_none_or(|then| now.0 == then.0))
    });
    for (pid, (_, then)) in &before.processes {
        let (_, now) = after.processes[pid];
        let most = then + if *pid == std::process::id() { kept } else { SPREAD };
        assert!(now <= most, "memory of process {pid}: {then} KiB, then {now}");
    }
}

fn one_after_another(fixture: &Fixture) {
    for _ in 0..5 {
        fixture.output("true");
    }
    let before = held_at_rest(fixture);
    let watcher = Watcher::start();
    for index in 0..count(60, 1000) {
        assert_eq!(fixture.output(&format!("echo {index}")), format!("{index}\n"));
    }
    assert_nothing_leaked(fixture, watcher, &before, SPREAD);
}

/// All are alive at the same moment; of their guards few are kept for steps to come.
fn at_once(fixture: &Fixture) {
    const NUMBER: usize = 100;
    fixture.output("true");
    let dir = |name: &str| {
        let dir = fixture.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    };
    let together = dir("together");
    let gate = together.join("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let specs: Vec<_> = (0..NUMBER)
        .map(|index| {
            // Opening a pipe waits for whoever writes to it.
            let mut spec = fixture
                .shell(&format!("echo x > /made; mkdir /together/{index}; : < /together/gate; cat /made"));
            spec.mounts = vec![bind(&together, "/together", false)];
            spec.rootfs = Rootfs::Overlay {
                lower: vec![fixture.lower.clone()],
                upper: dir(&format!("upper{index}")),
                work: dir(&format!("work{index}")),
                userxattr: fixture.identity.needs_userxattr(),
                volatile: true,
            };
            spec
        })
        .collect();
    let before = held_at_rest(fixture);
    let sandbox = executor::Sandbox::new();
    let watcher = Watcher::start();
    fixture.runtime.block_on(async {
        let start = |spec| {
            let sandbox = sandbox.clone();
            tokio::spawn(async move { sandbox.run(spec, &Recorder::default()).await.unwrap().status.code() })
        };
        let tasks: Vec<_> = specs.into_iter().map(start).collect();
        let waiting = || std::fs::read_dir(&together).unwrap().count() - 1;
        let begin = Instant::now();
        while waiting() < NUMBER {
            assert!(begin.elapsed() < PATIENCE, "{} of {NUMBER} are alive at once", waiting());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // With a writer that stays, also those get in that are about to open it.
        let opened = std::fs::File::options().read(true).write(true).open(&gate).unwrap();
        for task in tasks {
            assert_eq!(task.await.unwrap(), 0);
        }
        drop(opened);
    });
    let waiting: BTreeSet<u32> = crate::limits::own_children().into_iter().collect();
    assert!((1..=9).contains(&waiting.len()), "{waiting:?} wait for more");
    drop(sandbox);
    assert_nothing_leaked(fixture, watcher, &before, SPREAD + BUFFERS * NUMBER as u64);
}

/// The caller ends after a time that grows from nothing to longer than the start takes.
fn killed_at_every_stage(fixture: &Fixture) {
    let marker = crate::leaving::marker("8");
    std::fs::write(fixture.dir.path().join("script"), format!("echo ready; sleep {marker}")).unwrap();
    let mounts = own_mounts(fixture);
    let mut guards = BTreeSet::new();
    let repetitions = count(15, 200);
    for index in 0..repetitions {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("run-and-wait")
            .arg(fixture.dir.path())
            .env("EXECUTOR_TEST_XATTR", fixture.identity.needs_userxattr().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut caller = crate::leaving::Caller(command.spawn().unwrap());
        std::thread::sleep(Duration::from_micros((index * 60_000 / repetitions).try_into().unwrap()));
        let below = crate::leaving::descendants(caller.0.id());
        guards.extend(&below);
        let signal = ["-KILL", "-TERM", "-INT"][index % 3];
        let _sent = Command::new("kill").args([signal, &caller.0.id().to_string()]).status().unwrap();
        caller.0.wait().unwrap();
        eventually("nothing of the step is left", || {
            processes_with(&marker).is_empty()
                && below.iter().all(|pid| {
                    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                    stat.is_empty() || stat.contains(") Z ")
                })
        });
        assert_eq!(own_mounts(fixture), mounts);
    }
    eventually("the groups are gone", || {
        fixture.output("true");
        groups_of(&guards).is_empty()
    });
}
