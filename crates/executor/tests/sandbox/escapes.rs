//! Known ways out, each tried.

use std::process::Command;

use executor::Network;

use crate::support::{Case, Fixture, Needs, Recorder, bind};

pub(crate) const CASES: &[Case] = &[
    Case { name: "escapes::by_files", needs: Needs::Nothing, run: by_files },
    Case { name: "escapes::by_files_as_runc", needs: Needs::Root, run: by_files_as_runc },
    Case { name: "escapes::by_calls", needs: Needs::Nothing, run: by_calls },
    Case { name: "escapes::by_abstract_sockets", needs: Needs::Nothing, run: by_abstract_sockets },
    Case {
        name: "escapes::by_mount_points_that_change",
        needs: Needs::Nothing,
        run: by_changing_mount_points,
    },
];

/// Every attempt prints its name when it succeeds. `OUTSIDE` is a file of the host, `HOST` a process of it.
const ATTEMPTS: &str = r#"
try() { name=$1; shift; "$@" > /dev/null 2>&1 && echo "$name succeeded"; }
for dir in /proc/1/root /proc/self/root /proc/1/cwd /proc/self/cwd /proc/$HOST/root /proc/$HOST/cwd /dev/pts /dev/shm /sys; do
    try "$dir" cat "$dir/$OUTSIDE"
    try "$dir/.." cat "$dir/../../../../../../../../$OUTSIDE"
done
for fd in /proc/[0-9]*/fd/*; do try "$fd" cat "$fd/$OUTSIDE"; try "$fd/.." cat "$fd/../../../../../../$OUTSIDE"; done
cut -d' ' -f5 /proc/self/mountinfo | while read -r mount; do
    try "$mount/.." cat "$mount/../../../../../../../../../$OUTSIDE"
done
for file in environ maps mem cmdline; do try "/proc/$HOST/$file" grep -q builder-outside "/proc/$HOST/$file"; done
try "kill" kill -0 "$HOST"
try "core pattern" sh -c 'echo "|/tmp/x" > /proc/sys/kernel/core_pattern'
try "modprobe path" sh -c 'echo /tmp/x > /proc/sys/kernel/modprobe'
try "hotplug" sh -c 'echo /tmp/x > /sys/kernel/uevent_helper'
try "sysrq" sh -c 'echo h > /proc/sysrq-trigger'
try "binfmt" sh -c 'echo ":x:M::xyz::/tmp/x:" > /proc/sys/fs/binfmt_misc/register'
try "host name" sh -c 'echo x > /proc/sys/kernel/hostname'
try "forwarding" sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
try "drop caches" sh -c 'echo 1 > /proc/sys/vm/drop_caches'
try "out of memory" sh -c 'echo -1000 > /proc/self/oom_score_adj'
try "huge pages" sh -c 'echo always > /sys/kernel/mm/transparent_hugepage/enabled'
try "release agent" sh -c 'mkdir /tmp/cg && mount -t cgroup -o memory none /tmp/cg && echo /tmp/x > /tmp/cg/release_agent'
try "release agent in place" sh -c 'find /sys/fs/cgroup -name release_agent | while read f; do echo /tmp/x > $f && exit 0; done; exit 1'
try "cgroup" sh -c 'find /sys/fs/cgroup -name cgroup.procs | while read f; do echo 0 > $f && exit 0; done; exit 1'
for kind in proc sysfs tmpfs devpts cgroup2 overlay; do try "mount $kind" mount -t $kind none /tmp; done
try "bind" mount -o bind / /tmp
try "remount" mount -o remount,rw /proc/sys
try "unmount" umount -l /proc
try "mounts in a namespace" unshare -m mount -t tmpfs none /tmp
try "namespace of init" nsenter -t 1 -m -n true
try "host's namespace" nsenter -t "$HOST" -m -n true
for node in mem:c:1:1 kmsg:c:1:11 disk:b:254:0 disk:b:8:0 port:c:1:4 fuse:c:10:229; do
    set -- $(echo $node | tr : ' ')
    rm -f /tmp/$1; mknod /tmp/$1 $2 $3 $4 2> /dev/null; try "node $1" head -c 1 /tmp/$1
done
for file in /dev/mem /dev/kmem /dev/port /dev/kmsg /proc/kcore /proc/kallsyms-x /proc/config-x; do try "$file" sh -c "head -c 1 $file | grep -q ."; done
try "log" sh -c 'dmesg | grep -q .'
try "modules" insmod /bin/busybox
try "time" sh -c 'date -s 2001-01-01; [ $(date +%Y) = 2001 ]'
try "swap" swapon /bin/busybox
try "chroot" sh -c 'mkdir -p /tmp/j/bin && cp /bin/busybox /tmp/j/bin/ && chroot /tmp/j /bin/busybox cat ../../../../../../'"$OUTSIDE"
ln -s "/proc/self/fd" /tmp/fds; ln -s "$OUTSIDE" /tmp/link; try "link" cat /tmp/link
echo tried
"#;

/// A host's file and process to look for.
fn attempts(fixture: &Fixture) -> String {
    let outside = fixture.dir.path().join("outside");
    std::fs::write(&outside, "secret of the host").unwrap();
    format!("OUTSIDE={}; HOST={};{ATTEMPTS}", outside.display(), std::process::id())
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
    let bundle = fixture.dir.path().join("bundle");
    std::fs::create_dir(&bundle).unwrap();
    let made = Command::new("runc").arg("spec").current_dir(&bundle).status().expect("runc is installed");
    assert!(made.success());
    let file = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/sh", "-c", script]);
    config["process"]["env"] = serde_json::json!(["PATH=/bin"]);
    config["root"] = serde_json::json!({"path": fixture.lower, "readonly": false});
    std::fs::write(&file, config.to_string()).unwrap();
    let name = format!("executor-escapes-{}", std::process::id());
    let state = fixture.dir.path().join("runc");
    let runc = Command::new("runc")
        .arg("--root")
        .arg(state)
        .args(["run", &name])
        .current_dir(&bundle)
        .output()
        .unwrap();
    let reference = String::from_utf8(runc.stdout).unwrap();
    let (_, output, _) = fixture.run(fixture.shell(&script));
    let reference: Vec<&str> = reference.lines().collect();
    for line in output.lines() {
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

fn by_calls(fixture: &Fixture) {
    let host = std::process::id().to_string();
    let mut script = String::from("$|=1;$b='x'x8;$v=pack('PQ',$b,8);");
    for (name, arguments) in CALLS {
        let arguments = arguments.replace("HOST", &host);
        script.push_str(&format!("$!=0;$r=syscall({arguments});printf(\"%s %d\\n\",'{name}',$r<0?$!+0:0);"));
    }
    let spec = crate::isolation::with_host_libraries(fixture, &["/usr/bin/perl", "-e", &script]);
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
