//! Known ways out, each tried. What other runtimes answer stands in `beside`.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use executor::{Network, ProcessSpec};

use crate::NEIGHBOUR;
use crate::calls::{CALLS, calling};
use crate::isolation::with_host_libraries;
use crate::support::{Case, Fixture, Needs, Recorder, bind, eventually};

pub(crate) const CASES: &[Case] = &[
    Case { name: "escapes::by_files", needs: Needs::Nothing, run: by_files },
    Case { name: "escapes::by_files_of_shared_proc", needs: Needs::MaskedProc, run: by_files_of_shared_proc },
    Case { name: "escapes::by_calls", needs: Needs::Nothing, run: by_calls },
    Case {
        name: "escapes::by_calls_with_shared_proc",
        needs: Needs::MaskedProc,
        run: by_calls_with_shared_proc,
    },
    Case { name: "escapes::by_abstract_sockets", needs: Needs::Nothing, run: by_abstract_sockets },
    Case {
        name: "escapes::by_mount_points_that_change",
        needs: Needs::Nothing,
        run: by_changing_mount_points,
    },
];

/// Every attempt prints its name and how it ended.
const ATTEMPTS: &str = include_str!("attempts.sh");

/// A process of the host to look for. It ends with the value.
pub(crate) struct Victim(Child);

impl Victim {
    pub(crate) fn of(fixture: &Fixture) -> Self {
        Self::start(&mut Command::new("env"), fixture.dir.path())
    }

    /// `by` is a program that becomes the one that it is given.
    pub(crate) fn start(by: &mut Command, dir: &Path) -> Self {
        // Its name stands in its command line and its memory.
        let program = dir.join("busybox-builder-outside");
        std::fs::copy("/bin/busybox", &program).unwrap();
        by.arg(program).args(["sleep", "1000"]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let victim = Self(by.env("SECRET", "builder-outside").stdin(Stdio::null()).spawn().unwrap());
        // What is looked for is there, for whoever may look.
        for file in ["cmdline", "environ", "maps"] {
            let path = format!("/proc/{}/{file}", victim.pid());
            let text = || String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            eventually(file, || text().contains("builder-outside"));
        }
        victim
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The script that tries all, on a file of the host and on its processes: one that belongs to this one, and one of the same user that does
/// not.
pub(crate) fn attempts(fixture: &Fixture, victim: &Victim) -> String {
    let outside = fixture.dir.path().join("outside");
    std::fs::write(&outside, "secret of the host").unwrap();
    let neighbour = std::env::var(NEIGHBOUR).unwrap_or_default();
    format!("OUTSIDE={}; HOSTS='{} {neighbour}'\n{ATTEMPTS}", outside.display(), victim.pid())
}

fn by_files(fixture: &Fixture) {
    files_that_lead_out(fixture, &[]);
}

/// Where the surroundings' `/proc` has to do, this is there for all to read, as on any machine.
fn by_files_of_shared_proc(fixture: &Fixture) {
    let readable = [
        "/proc/HOST/cgroup",
        "/proc/HOST/cmdline",
        "/proc/HOST/limits",
        "/proc/HOST/mountinfo",
        "/proc/HOST/status",
        "/proc/HOST/task/HOST/cmdline",
    ];
    files_that_lead_out(fixture, &readable);
}

/// `readable` are files of each process that are no secret.
fn files_that_lead_out(fixture: &Fixture, readable: &[&str]) {
    let mounted = fixture.dir.path().join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    let victim = Victim::of(fixture);
    for network in [Network::Host, Network::None] {
        let mut spec = fixture.shell(&attempts(fixture, &victim));
        spec.network = network;
        spec.hosts = Some(String::new());
        spec.mounts =
            vec![bind(&mounted, "/mounted", false), bind(fixture.lower.join("etc"), "/other/etc", true)];
        let (_, output, errors) = fixture.run(spec);
        let succeeded = output.lines().filter_map(|line| line.strip_suffix(": succeeded"));
        let mut found: Vec<&str> = succeeded.filter(|name| !own_matters(name)).collect();
        found.sort_unstable();
        // Of either process.
        let expected: Vec<&str> = readable.iter().flat_map(|name| [*name; 2]).collect();
        assert_eq!(found, expected, "{errors}");
        assert!(output.ends_with("tried\n"), "{output} {errors}");
        let _removed = std::fs::remove_dir_all(fixture.upper.join("tmp"));
        std::fs::remove_dir_all(fixture.dir.path().join("work")).unwrap();
        std::fs::create_dir(fixture.dir.path().join("work")).unwrap();
    }
}

/// A process inside may have the number of one outside, where that is small.
pub(crate) fn own_matters(name: &str) -> bool {
    name == "kill" && std::process::id() < 200
}

fn by_calls(fixture: &Fixture) {
    calls_that_lead_out(fixture, libc::EBADF);
}

/// The process is to be seen there, but is none of this pid namespace or one below it.
fn by_calls_with_shared_proc(fixture: &Fixture) {
    calls_that_lead_out(fixture, libc::EINVAL);
}

/// `by_proc` is what pidfd_send_signal(2) says of a directory of `/proc`.
fn calls_that_lead_out(fixture: &Fixture, by_proc: i32) {
    let output = fixture.output_of(calling(fixture));
    assert_eq!(output.lines().count(), CALLS.len());
    for (line, (name, _)) in output.lines().zip(CALLS) {
        let right: &[i32] = match *name {
            "clone3" => &[libc::ENOSYS],
            "ptrace host" | "kill host" | "process_vm_readv host" | "pidfd_open host" => {
                &[libc::ESRCH, libc::EPERM]
            }
            "signal by /proc" => &[by_proc],
            _ => &[libc::EPERM, libc::ENOSYS],
        };
        let errno = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(right.contains(&errno), "{line}");
    }
}

/// A server at an abstract address, and a step that says whether it gets there.
pub(crate) fn abstract_socket(fixture: &Fixture) -> (std::os::unix::net::UnixListener, ProcessSpec) {
    let name = format!("executor-test-{}-{:?}", std::process::id(), fixture.identity.needs_userxattr());
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0); print connect(S, pack('S', AF_UNIX) . \"\\0{name}\") ? 'abstract socket: reached' : 'abstract socket: refused'"
    );
    let mut spec = with_host_libraries(fixture, &["/usr/bin/perl", "-e", &script]);
    let share = std::fs::canonicalize("/usr/share/perl").ok();
    spec.mounts.extend(share.map(|share| bind(share, "/usr/share/perl", true)));
    (listener, spec)
}

/// They belong to the network namespace.
fn by_abstract_sockets(fixture: &Fixture) {
    let (_listener, mut spec) = abstract_socket(fixture);
    for (network, expected) in [(Network::None, "refused"), (Network::Host, "reached")] {
        spec.network = network;
        assert_eq!(fixture.output_of(spec.clone()), format!("abstract socket: {expected}"));
    }
}

/// A directory that turns into a link and back while mounts are made on it, as another step that shares the tree can do.
fn by_changing_mount_points(fixture: &Fixture) {
    let outside = fixture.dir.path().join("elsewhere");
    std::fs::create_dir_all(outside.join("deep")).unwrap();
    let shared = fixture.dir.path().join("shared");
    std::fs::create_dir_all(shared.join("real/deep")).unwrap();
    std::os::unix::fs::symlink(&outside, shared.join("trap")).unwrap();
    std::fs::create_dir_all(shared.join("place/deep")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (place, trap, spare) = (shared.join("place"), shared.join("trap"), shared.join("spare"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _raced = std::fs::rename(&place, &spare);
                let _raced = std::fs::rename(&trap, &place);
                let _raced = std::fs::rename(&place, &trap);
                let _raced = std::fs::rename(&spare, &place);
            }
        });
        for _ in 0..20 {
            let mut spec = fixture.shell("echo inside > /shared/place/deep/mark 2> /dev/null; true");
            let tmpfs = executor::MountKind::Tmpfs { size: None, mode: Some(0o755) };
            spec.mounts = vec![
                bind(&shared, "/shared", false),
                executor::Mount {
                    target: "/shared/place/deep/new/mount".into(),
                    kind: tmpfs,
                    read_only: false,
                },
            ];
            // It may fail; it may not touch what is outside.
            let _raced = fixture.run_with(spec, &Recorder::default());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(std::fs::read_dir(outside.join("deep")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}
