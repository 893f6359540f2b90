//! Limits of all processes of a step together.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use executor::{Cause, Error, ExitStatus, Limits, OutputStream};

use crate::support::{Case, Fixture, Needs, Recorder, eventually};

pub(crate) const CASES: &[Case] = &[
    Case { name: "limits::memory", needs: Needs::Root, run: memory },
    Case { name: "limits::processes", needs: Needs::Root, run: processes },
    Case { name: "limits::processors", needs: Needs::Root, run: processors },
    Case { name: "limits::values", needs: Needs::Root, run: values },
    Case { name: "limits::parent", needs: Needs::Root, run: parent },
    Case { name: "limits::own_group_is_the_top", needs: Needs::Nothing, run: own_group_is_the_top },
    Case { name: "limits::that_make_no_sense", needs: Needs::Nothing, run: that_make_no_sense },
    Case { name: "limits::that_cannot_be_enforced", needs: Needs::Nothing, run: that_cannot_be_enforced },
    Case { name: "limits::abandoned_groups", needs: Needs::Root, run: abandoned_groups },
];

const MIB: u64 = 1 << 20;

/// Groups of steps, wherever they are.
pub(crate) fn groups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with("builder-") {
                    found.push(entry.path());
                }
                pending.push(entry.path());
            }
        }
    }
    found
}

/// The groups of a step that this process waits for: nobody else's.
fn groups_of(guard: u32) -> Vec<PathBuf> {
    let prefix = format!("builder-{guard}-");
    groups()
        .into_iter()
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&prefix))
        .collect()
}

/// Processes that this one started, and that nobody waited for yet.
pub(crate) fn own_children() -> Vec<u32> {
    let text = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let mut children: Vec<u32> = text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    children
}

fn memory(fixture: &Fixture) {
    // sort holds everything in memory.
    let hungry = "head -c 100000000 /dev/zero | sort | wc -c";
    let mut spec = fixture.shell(&format!("{hungry}; echo went on"));
    spec.limits.memory = Some(24 * MIB);
    spec.limits.memory_swap = Some((24 * MIB).try_into().unwrap());
    let outcome = fixture.run_with(spec, &Recorder::default()).unwrap();
    assert_eq!(outcome.cause, Some(Cause::OutOfMemory { limit: 24 * MIB }));
    assert!(outcome.cause.unwrap().to_string().contains("its limit is 24 MiB"));
    let mut spec = fixture.spec(&["sort", "/big"]);
    std::fs::write(fixture.lower.join("big"), vec![0; 100_000_000]).unwrap();
    spec.limits.memory = Some(24 * MIB);
    let outcome = fixture.run_with(spec, &Recorder::default()).unwrap();
    assert_eq!(outcome.status, ExitStatus::Signal(9), "{outcome:?}");
    assert_eq!(outcome.cause, Some(Cause::OutOfMemory { limit: 24 * MIB }));
    let mut spec = fixture.shell("echo little");
    spec.limits.memory = Some(24 * MIB);
    let outcome = fixture.run_with(spec, &Recorder::default()).unwrap();
    assert_eq!((outcome.status, outcome.cause), (ExitStatus::Code(0), None));
}

fn processes(fixture: &Fixture) {
    let mut spec = fixture.shell("i=0; while [ $i -lt 50 ]; do sleep 100 & i=$((i + 1)); done; echo all");
    spec.limits.pids = Some(20);
    let recorder = Recorder::default();
    let outcome = fixture.run_with(spec, &recorder).unwrap();
    let errors = recorder.text(OutputStream::Stderr);
    assert!(outcome.status != ExitStatus::Code(0) && errors.contains("fork"), "{outcome:?} {errors}");
    // A fork bomb without end is bounded too, and goes with the step.
    let begin = Instant::now();
    let mut spec = fixture.shell("bomb() { bomb | bomb & }; bomb 2> /dev/null; sleep 0.5; echo alive");
    spec.limits.pids = Some(30);
    spec.timeout = Some(Duration::from_secs(20));
    fixture.run_with(spec, &recorder).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(120));
}

fn processors(fixture: &Fixture) {
    let busy = "grep Cpus_allowed_list /proc/self/status; timeout 1 sh -c 'while :; do :; done'; cat /proc/self/stat > /dev/null; times";
    let mut spec = fixture.shell(busy);
    spec.limits.cpu_period = Some(50_000);
    spec.limits.cpu_quota = Some(10_000);
    // In a container the first one need not be number 0.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let first = all.split(['-', ',']).next().unwrap();
    spec.limits.cpuset_cpus = Some(first.to_owned());
    let begin = Instant::now();
    let (_, output, errors) = fixture.run(spec);
    let took = begin.elapsed().as_secs_f64();
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some(&*format!("Cpus_allowed_list:\t{first}")), "{output} {errors}");
    // The second line of `times` is that of the children: a fifth of a second of work in one.
    let used = lines.nth(1).unwrap().split(['m', 's']).nth(1).unwrap().parse::<f64>().unwrap();
    assert!(used < 0.4 + 0.2 * took, "{used} s of {took} s: {output}");
}

/// The files of the groups while the step runs.
fn values(fixture: &Fixture) {
    let mut spec = fixture.shell("echo ready; sleep 1000");
    spec.limits = Limits {
        memory: Some(64 * MIB),
        memory_swap: Some(i64::try_from(96 * MIB).unwrap()),
        cpu_shares: Some(512),
        cpuset_mems: Some("0".to_owned()),
        pids: Some(77),
        ..Limits::default()
    };
    let recorder = Recorder::default();
    let guard = fixture.runtime.block_on(async {
        let running = fixture.sandbox.start(&spec).await.unwrap();
        let guard = *own_children().iter().find(|pid| !groups_of(**pid).is_empty()).unwrap();
        let groups = groups_of(guard);
        let value = |file: &str| {
            let found = groups.iter().find_map(|group| std::fs::read_to_string(group.join(file)).ok());
            found.map(|text| text.trim().to_owned())
        };
        for (one, want_of_one, two, want_of_two) in [
            ("memory.limit_in_bytes", 64 * MIB, "memory.max", 64 * MIB),
            // Version 1 counts memory and swap together, version 2 swap alone.
            ("memory.memsw.limit_in_bytes", 96 * MIB, "memory.swap.max", 32 * MIB),
            // Shares and weights: crun's cgroups v2 conversion, which the runtime spec's implementations share.
            ("cpu.shares", 512, "cpu.weight", 20),
            ("cpuset.mems", 0, "cpuset.mems", 0),
            ("pids.max", 77, "pids.max", 77),
        ] {
            match (value(one), value(two)) {
                (Some(found), _) => assert_eq!(found, want_of_one.to_string(), "{one}"),
                (None, Some(found)) => assert_eq!(found, want_of_two.to_string(), "{two}"),
                (None, None) => panic!("neither {one} nor {two}"),
            }
        }
        let ready = async {
            while recorder.time_of("ready").is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Now its processes are in each of them.
            let members = |group: &PathBuf| std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
            assert!(groups.iter().all(|group| !members(group).is_empty()));
        };
        tokio::select! {
            outcome = running.wait(&recorder) => panic!("{outcome:?}"),
            () = ready => {}
        }
        guard
    });
    assert_eq!(groups_of(guard), Vec::<PathBuf>::new());
}

fn parent(fixture: &Fixture) {
    let name = format!("executor-test-{}", std::process::id());
    let mut spec = fixture.shell("true");
    spec.limits.pids = Some(50);
    spec.limits.cgroup_parent = Some(format!("/{name}/below").into());
    fixture.output_of(spec.clone());
    let made: Vec<PathBuf> = std::fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .map(|entry| entry.unwrap().path().join(&name))
        .filter(|path| path.is_dir())
        .collect();
    // Cgroups v2 have one tree, in which it is at the top.
    let unified = std::path::PathBuf::from("/sys/fs/cgroup").join(&name);
    let there = unified.is_dir() || made.iter().any(|path| path.parent().unwrap().ends_with("pids"));
    let made: Vec<PathBuf> = made.into_iter().chain(unified.is_dir().then_some(unified)).collect();
    for path in &made {
        std::fs::remove_dir(path.join("below")).unwrap();
        std::fs::remove_dir(path).unwrap();
    }
    assert!(there, "{made:?}");
    spec.limits.cgroup_parent = Some("../outside".into());
    let error = fixture.error(spec).to_string();
    assert!(error.contains("limits cannot be enforced"), "{error}");
}

fn own_group_is_the_top(fixture: &Fixture) {
    let output = fixture.output("cut -d: -f3 /proc/self/cgroup | sort -u");
    assert_eq!(output, "/\n");
}

fn that_make_no_sense(fixture: &Fixture) {
    let mut spec = fixture.shell("true");
    spec.limits.memory_swap = Some(5);
    assert_eq!(fixture.error(spec).to_string(), "a limit of memory and swap needs a limit of memory");
    if fixture.is_root() {
        let mut spec = fixture.shell("true");
        spec.limits.cpuset_cpus = Some("many".to_owned());
        let error = fixture.error(spec).to_string();
        assert!(error.contains("controller cpuset: write many to"), "{error}");
        for absent in ["9999", "0-700"] {
            let mut spec = fixture.shell("true");
            spec.limits.cpuset_cpus = Some(absent.to_owned());
            let error = fixture.error(spec).to_string();
            let said = format!("processors {absent} are not all there to be used; there are 0");
            assert!(error.contains(&said), "{error}");
        }
    }
}

/// Each is enforced, which its group shows, or refused by its name.
fn that_cannot_be_enforced(fixture: &Fixture) {
    let limited = |limits: &dyn Fn(&mut Limits)| {
        let mut spec = fixture.shell("echo ready; sleep 1000");
        limits(&mut spec.limits);
        spec
    };
    let memory = limited(&|limits| limits.memory = Some(64 * MIB));
    let quota = limited(&|limits| limits.cpu_quota = Some(20_000));
    let nodes = limited(&|limits| limits.cpuset_mems = Some("0".to_owned()));
    let pids = limited(&|limits| limits.pids = Some(77));
    let mut refused = 0;
    for (spec, controller, files, values) in [
        (memory, "memory", ["memory.limit_in_bytes", "memory.max"], ["67108864"; 2]),
        (quota, "cpu", ["cpu.cfs_quota_us", "cpu.max"], ["20000", "20000 100000"]),
        (nodes, "cpuset", ["cpuset.mems", "cpuset.mems"], ["0"; 2]),
        (pids, "pids", ["pids.max", "pids.max"], ["77"; 2]),
    ] {
        let recorder = Recorder::default();
        let ended = fixture.runtime.block_on(async {
            let running = fixture.sandbox.start(&spec).await?;
            let ready = async {
                while recorder.time_of("ready").is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let groups: Vec<PathBuf> = own_children().into_iter().flat_map(groups_of).collect();
                let shows = |group: &PathBuf| {
                    let text = |file: &str| std::fs::read_to_string(group.join(file)).unwrap_or_default();
                    let is = |(file, value): (&&str, &&str)| text(file).trim() == *value;
                    files.iter().zip(&values).any(is) && !text("cgroup.procs").is_empty()
                };
                assert!(groups.iter().any(shows), "{controller}: {groups:?}");
            };
            tokio::select! {
                outcome = running.wait(&recorder) => outcome.map(drop),
                () = ready => Ok(()),
            }
        });
        match ended {
            Ok(()) => {}
            Err(Error::Unsupported(text)) => {
                let why = format!("limits cannot be enforced: cgroup controller {controller}: ");
                assert!(text.starts_with(&why), "{text}");
                assert_eq!(recorder.text(OutputStream::Stdout), "", "nothing runs without it");
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(!fixture.is_root() || refused == 0, "this machine's root may limit everything");
}

/// What a killed guard left is removed by the next one; what a live one holds is not.
fn abandoned_groups(fixture: &Fixture) {
    let marker = crate::leaving::marker("6");
    let caller = crate::leaving::start_caller(fixture, &marker);
    let guard = crate::leaving::descendants(caller.0.id())[0];
    assert!(!groups_of(guard).is_empty(), "devices are guarded");
    let held = groups_of(guard);
    fixture.output("true");
    assert_eq!(groups_of(guard), held, "it is in use");
    crate::leaving::kill(&[caller.0.id(), guard]);
    drop(caller);
    eventually("the tree is gone", || crate::support::processes_with(&marker).is_empty());
    eventually("the groups are gone", || {
        // A step with limits has groups of its own; others may get those of a guard that has them already.
        let mut spec = fixture.shell("true");
        spec.limits.memory = Some(24 * MIB);
        fixture.run_with(spec, &Recorder::default()).unwrap();
        groups_of(guard).is_empty()
    });
    assert!(Path::new("/sys/fs/cgroup").exists());
}
