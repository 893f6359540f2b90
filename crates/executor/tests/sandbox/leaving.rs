//! Nothing outlives a run.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use executor::{ExitStatus, ProcessSpec, Rootfs, Sandbox};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::support::{Case, Fixture, Needs, Recorder, bind, eventually, processes_with};

pub(crate) const CASES: &[Case] = &[
    Case { name: "leaving::exit_ends_the_tree", needs: Needs::Nothing, run: exit_ends_the_tree },
    Case { name: "leaving::drop_ends_the_tree", needs: Needs::Nothing, run: drop_ends_the_tree },
    Case { name: "leaving::killed_caller", needs: Needs::Nothing, run: killed_caller },
    Case { name: "leaving::killed_helpers", needs: Needs::Nothing, run: killed_helpers },
    Case { name: "leaving::killed_guard", needs: Needs::Nothing, run: killed_guard },
    Case { name: "leaving::waiting_keeper", needs: Needs::Nothing, run: waiting_keeper },
    Case { name: "leaving::ended_thread", needs: Needs::Nothing, run: ended_thread },
];

/// An argument to find processes by.
pub(crate) fn marker(name: &str) -> String {
    format!("98765.{name}{}", std::process::id()).replace(|c: char| !c.is_ascii_digit() && c != '.', "7")
}

/// Processes that try to stay: deaf, daemonised, stopped, orphaned.
fn tree(marker: &str, last: &str) -> String {
    format!(
        "trap '' HUP INT TERM QUIT
         (setsid sleep {marker} &)
         ( (sleep {marker} &) & )
         sleep {marker} & kill -STOP $!
         setsid sh -c 'trap \"\" TERM; sleep {marker} & wait' &
         sleep 0.2; echo ready; {last}"
    )
}

fn exit_ends_the_tree(fixture: &Fixture) {
    let marker = marker("1");
    let output = fixture.output(&tree(&marker, "exit 0"));
    assert_eq!(output, "ready\n");
    assert_eq!(processes_with(&marker), Vec::<std::ffi::OsString>::new());
}

fn drop_ends_the_tree(fixture: &Fixture) {
    let marker = marker("2");
    let recorder = Recorder::default();
    fixture.runtime.block_on(async {
        let running = fixture.sandbox.start(&fixture.shell(&tree(&marker, "sleep 1000"))).await.unwrap();
        tokio::select! {
            outcome = running.wait(&recorder) => panic!("{outcome:?}"),
            () = async {
                while recorder.time_of("ready").is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            } => {}
        }
    });
    // The future was dropped with the block.
    assert_eq!(processes_with(&marker), Vec::<std::ffi::OsString>::new());
    fixture.output("true");
}

/// Starts a process that starts a sandbox; returns once the tree stands.
pub(crate) fn start_caller(fixture: &Fixture, marker: &str) -> Caller {
    let script = fixture.dir.path().join("script");
    std::fs::write(&script, tree(marker, "sleep 1000")).unwrap();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("run-and-wait")
        .arg(fixture.dir.path())
        .env("EXECUTOR_TEST_XATTR", fixture.identity.needs_userxattr().to_string())
        .stdin(Stdio::null());
    let caller = Caller(command.spawn().unwrap());
    // The one that is stopped may not be called so yet.
    eventually("the tree stands", || {
        processes_with(marker).len() >= 3 && fixture.dir.path().join("ready").exists()
    });
    caller
}

/// Does not outlive a case that fails.
pub(crate) struct Caller(pub(crate) Child);

impl Drop for Caller {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The other side of the function above.
pub(crate) fn run_and_wait(dir: &str) -> ExitCode {
    let dir = Path::new(dir);
    let spec = spec_in(dir, &std::fs::read_to_string(dir.join("script")).unwrap());
    let recorder = Recorder::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let running = Sandbox::new().start(&spec).await.unwrap();
        let wait = running.wait(&recorder);
        let ready = async {
            while recorder.time_of("ready").is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            std::fs::write(dir.join("ready"), "").unwrap();
        };
        tokio::join!(wait, ready).0
    });
    println!("{outcome:?}");
    match outcome {
        Err(executor::Error::Killed(_)) => ExitCode::from(77),
        _ => ExitCode::FAILURE,
    }
}

/// A script in the root file system of the fixture in a directory.
pub(crate) fn spec_in(dir: &Path, script: &str) -> ProcessSpec {
    let rootfs = Rootfs::Overlay {
        lower: vec![dir.join("lower")],
        upper: dir.join("upper"),
        work: dir.join("work"),
        userxattr: std::env::var("EXECUTOR_TEST_XATTR").unwrap() == "true",
        volatile: false,
    };
    let mut spec = ProcessSpec::new(rootfs, ["/bin/sh", "-c", script]);
    spec.env.push(("PATH".into(), "/bin".into()));
    spec
}

/// Processes below one, the nearest first.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let text = format!("/proc/{0}/task/{0}/children", found[at]);
        let children = std::fs::read_to_string(text).unwrap_or_default();
        found.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        at += 1;
    }
    found.remove(0);
    found
}

/// One that ends with another before its turn comes is gone as well.
pub(crate) fn kill(pids: &[u32]) {
    for pid in pids {
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        let killed = rustix::process::kill_process(pid, Signal::KILL);
        assert!(matches!(killed, Ok(()) | Err(Errno::SRCH)), "{killed:?}");
    }
}

fn killed_caller(fixture: &Fixture) {
    let marker = marker("3");
    let Caller(child) = &mut start_caller(fixture, &marker);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    eventually("the tree is gone", || processes_with(&marker).is_empty());
}

/// As `pkill -9 builder` would: caller, guard and keeper at once. Only the kernel is left to clean up.
fn killed_helpers(fixture: &Fixture) {
    let marker = marker("4");
    let Caller(child) = &mut start_caller(fixture, &marker);
    let helpers = descendants(child.id());
    kill(&[child.id(), helpers[0], helpers[1]]);
    child.wait().unwrap();
    eventually("the tree is gone", || processes_with(&marker).is_empty());
}

fn killed_guard(fixture: &Fixture) {
    for index in [0, 1] {
        let marker = marker(&format!("5{index}"));
        let Caller(child) = &mut start_caller(fixture, &marker);
        kill(&[descendants(child.id())[index]]);
        assert_eq!(child.wait().unwrap().code(), Some(77), "the caller hears of it");
        eventually("the tree is gone", || processes_with(&marker).is_empty());
        std::fs::remove_file(fixture.dir.path().join("ready")).unwrap();
    }
}

/// Lets a step go on, also when the test fails: the scope waits for it.
struct Go(PathBuf);

impl Drop for Go {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.0, "");
    }
}

/// The keeper of a step that is not asked for yet is killed: that step says so, and the one after it runs.
fn waiting_keeper(fixture: &Fixture) {
    let guards = || descendants(std::process::id());
    let others = guards();
    assert_eq!(fixture.output("echo ran"), "ran\n");
    let below_the_guard = || {
        let new = guards().into_iter().filter(|pid| !others.contains(pid));
        new.flat_map(descendants).collect::<Vec<u32>>()
    };
    // From the second step on the keeper of the next one is made ahead. That of the second may still be ending then.
    let shared = fixture.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let script = "touch /shared/runs; until [ -e /shared/go ]; do usleep 10000; done; echo ran";
    let mut second = fixture.shell(script);
    second.mounts = vec![bind(&shared, "/shared", false)];
    let of_second = std::thread::scope(|scope| {
        let go = Go(shared.join("go"));
        let ran = scope.spawn(|| fixture.output_of(second));
        eventually("the second step runs", || shared.join("runs").exists() || ran.is_finished());
        let of_second = below_the_guard();
        drop(go);
        assert_eq!(ran.join().unwrap(), "ran\n");
        of_second
    });
    let mut keepers = Vec::new();
    eventually("the keeper waits", || {
        keepers = below_the_guard();
        !keepers.is_empty() && keepers.iter().all(|pid| !of_second.contains(pid))
    });
    kill(&keepers);
    assert!(matches!(fixture.error(fixture.shell("echo never")), executor::Error::Killed(_)));
    assert_eq!(fixture.output("echo ran"), "ran\n");
}

/// A thread that started a process and ends must not take the process with it.
fn ended_thread(fixture: &Fixture) {
    let begin = Instant::now();
    let handle = fixture.runtime.handle().clone();
    let (sandbox, spec) = (fixture.sandbox.clone(), fixture.shell("sleep 0.5; exit 3"));
    let running = std::thread::spawn(move || handle.block_on(sandbox.start(&spec)).unwrap()).join().unwrap();
    let outcome = fixture.runtime.block_on(running.wait(&Recorder::default())).unwrap();
    assert_eq!(outcome.status, ExitStatus::Code(3));
    assert!(begin.elapsed() > Duration::from_millis(400));
}
