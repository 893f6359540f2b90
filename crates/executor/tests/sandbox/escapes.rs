//! Known ways out, each tried.

use executor::Network;

use crate::reference;
use crate::support::{Case, Fixture, Needs, Recorder, bind};

pub(crate) const CASES: &[Case] = &[
    Case { name: "escapes::by_files", needs: Needs::Nothing, run: by_files },
    Case { name: "escapes::by_files_as_runc", needs: Needs::Root, run: by_files_as_runc },
    Case { name: "escapes::by_calls", needs: Needs::Nothing, run: by_calls },
    Case { name: "escapes::by_calls_as_runc", needs: Needs::Root, run: by_calls_as_runc },
    Case { name: "escapes::by_abstract_sockets", needs: Needs::Nothing, run: by_abstract_sockets },
    Case {
        name: "escapes::by_mount_points_that_change",
        needs: Needs::Nothing,
        run: by_changing_mount_points,
    },
];

/// Every attempt prints its name when it succeeds. `OUTSIDE` is a file of the host, `HOST` a process of it.
const ATTEMPTS: &str = include_str!("attempts.sh");

/// A host's file and process to look for.
fn attempts(fixture: &Fixture) -> String {
    let outside = fixture.dir.path().join("outside");
    std::fs::write(&outside, "secret of the host").unwrap();
    format!("OUTSIDE={}; HOST={}\n{ATTEMPTS}", outside.display(), std::process::id())
}

fn by_files(fixture: &Fixture) {
    let mounted = fixture.dir.path().join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    for network in [Network::Host, Network::None] {
        let mut spec = fixture.shell(&attempts(fixture));
        spec.network = network;
        spec.hosts = Some(String::new());
        spec.mounts =
            vec![bind(&mounted, "/mounted", false), bind(fixture.lower.join("etc"), "/other/etc", true)];
        let (_, output, errors) = fixture.run(spec);
        let harmless = |line: &&str| *line != "tried" && !own_matters(line);
        let found: Vec<&str> = output.lines().filter(harmless).collect();
        assert_eq!(found, Vec::<&str>::new(), "{errors}");
        assert!(output.ends_with("tried\n"), "{output} {errors}");
        let _removed = std::fs::remove_dir_all(fixture.upper.join("tmp"));
        std::fs::remove_dir_all(fixture.dir.path().join("work")).unwrap();
        std::fs::create_dir(fixture.dir.path().join("work")).unwrap();
    }
}

/// Whoever is root anywhere may make its own processes likelier victims; less likely ones only root of the machine.
fn own_matters(line: &str) -> bool {
    line.starts_with("kill ") && std::process::id() < 200
}

/// The reference fails at the same attempts.
fn by_files_as_runc(fixture: &Fixture) {
    let script = attempts(fixture);
    let runc = reference::runc(fixture, fixture.shell(&script), |_| ());
    let reference = String::from_utf8(runc.stdout).unwrap();
    let (_, output, _) = fixture.run(fixture.shell(&script));
    let reference: Vec<&str> = reference.lines().collect();
    for line in output.lines().filter(|line| !own_matters(line)) {
        assert!(reference.contains(&line), "{line} here, but not in runc: {reference:?}");
    }
}

/// System calls that Docker's profile or the capabilities forbid, by their x86-64 numbers; each with the errors that
/// are right.
#[cfg(target_arch = "x86_64")]
const CALLS: &[(&str, &str)] = &[
    ("keyctl", "250,0,-3,0"),
    ("add_key", "248,0,0,0,0,0"),
    ("request_key", "249,0,0,0,0"),
    ("bpf", "321,0,0,0"),
    ("perf_event_open", "298,0,0,-1,-1,0"),
    ("userfaultfd", "323,0"),
    ("io_uring_setup", "425,1,0"),
    ("open_by_handle_at", "304,0,0,0"),
    ("mount_setattr", "442,-100,0,0,0,0"),
    ("move_mount", "429,-100,0,-100,0,0"),
    ("fsopen", "430,0,0"),
    ("fspick", "433,-100,0,0"),
    ("setns", "308,0,0"),
    ("unshare user", "272,0x10000000"),
    ("unshare mount", "272,0x20000"),
    ("kexec_load", "246,0,0,0,0"),
    ("init_module", "175,0,0,0"),
    ("finit_module", "313,0,0,0"),
    ("delete_module", "176,0,0"),
    ("reboot", "169,0xfee1dead,672274793,0,0"),
    ("swapon", "167,0,0"),
    ("settimeofday", "164,0,0"),
    ("iopl", "172,3"),
    ("ioperm", "173,0,1,1"),
    ("quotactl", "179,0,0,0,0"),
    ("acct", "163,0"),
    ("pivot_root", "155,0,0"),
    ("sethostname", "170,0,0"),
    ("vhangup", "153"),
    ("lookup_dcookie", "212,0,0,0"),
    ("personality", "135,0x0040000"),
    ("ptrace host", "101,16,HOST,0,0"),
    ("kill host", "62,HOST,0"),
    ("process_vm_readv host", "310,HOST,$v,1,$v,1,0"),
    ("pidfd_open host", "434,HOST,0"),
    ("socket vsock", "41,40,1,0"),
    ("clone3", "435,0,0"),
];

#[cfg(not(target_arch = "x86_64"))]
const CALLS: &[(&str, &str)] = &[];

/// Tries each, and prints its name with the number of the error.
fn calling(fixture: &Fixture) -> executor::ProcessSpec {
    let host = std::process::id().to_string();
    let mut script = String::from("$|=1;$b='x'x8;$v=pack('PQ',$b,8);");
    for (name, arguments) in CALLS {
        let arguments = arguments.replace("HOST", &host);
        script.push_str(&format!("$!=0;$r=syscall({arguments});printf(\"%s %d\\n\",'{name}',$r<0?$!+0:0);"));
    }
    crate::isolation::with_host_libraries(fixture, &["/usr/bin/perl", "-e", &script])
}

/// The reference answers each call with the same error.
fn by_calls_as_runc(fixture: &Fixture) {
    let output = fixture.output_of(calling(fixture));
    let runc = reference::runc(fixture, calling(fixture), |_| ());
    assert_eq!(output, String::from_utf8(runc.stdout).unwrap());
    assert_eq!(output.lines().count(), CALLS.len());
}

fn by_calls(fixture: &Fixture) {
    let spec = calling(fixture);
    let output = fixture.output_of(spec);
    assert_eq!(output.lines().count(), CALLS.len());
    for (line, (name, _)) in output.lines().zip(CALLS) {
        let right: &[i32] = match *name {
            "clone3" => &[libc::ENOSYS],
            "ptrace host" | "kill host" | "process_vm_readv host" | "pidfd_open host" => {
                &[libc::ESRCH, libc::EPERM]
            }
            _ => &[libc::EPERM, libc::ENOSYS],
        };
        let errno = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(right.contains(&errno), "{line}");
    }
}

/// They belong to the network namespace.
fn by_abstract_sockets(fixture: &Fixture) {
    let name = format!("executor-test-{}-{:?}", std::process::id(), fixture.identity.needs_userxattr());
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0); print connect(S, pack('S', AF_UNIX) . \"\\0{name}\") ? 'reached' : 'refused'"
    );
    for (network, expected) in [(Network::None, "refused"), (Network::Host, "reached")] {
        let mut spec = crate::isolation::with_host_libraries(fixture, &["/usr/bin/perl", "-e", &script]);
        let share = std::fs::canonicalize("/usr/share/perl").ok();
        spec.mounts.extend(share.map(|share| bind(share, "/usr/share/perl", true)));
        spec.network = network;
        assert_eq!(fixture.output_of(spec), expected);
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
