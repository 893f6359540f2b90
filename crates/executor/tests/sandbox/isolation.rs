//! What a process can see and do.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use executor::{Mount, MountKind, Network, ProcessSpec, User};

use crate::reference;
use crate::support::{Case, Fixture, Needs, bind};

pub(crate) const CASES: &[Case] = &[
    Case { name: "isolation::namespaces", needs: Needs::Nothing, run: namespaces },
    Case { name: "isolation::no_network", needs: Needs::Nothing, run: no_network },
    Case { name: "isolation::capabilities_of_root", needs: Needs::Nothing, run: capabilities_of_root },
    Case { name: "isolation::capabilities_of_user", needs: Needs::Ids, run: capabilities_of_user },
    Case { name: "isolation::hidden_paths", needs: Needs::Nothing, run: hidden_paths },
    Case { name: "isolation::devices", needs: Needs::Nothing, run: devices },
    Case { name: "isolation::no_descriptors", needs: Needs::Nothing, run: no_descriptors },
    Case { name: "isolation::only_given_environment", needs: Needs::Nothing, run: only_given_environment },
    Case { name: "isolation::host_name_and_files", needs: Needs::Nothing, run: host_name_and_files },
    Case { name: "isolation::mounts", needs: Needs::Nothing, run: mounts },
    Case { name: "isolation::forbidden_calls", needs: Needs::Nothing, run: forbidden_calls },
    Case { name: "isolation::no_way_out", needs: Needs::Nothing, run: no_way_out },
    Case { name: "isolation::no_disks", needs: Needs::Root, run: no_disks },
    Case { name: "isolation::working_directory_is_inside", needs: Needs::Nothing, run: cwd_is_inside },
    Case { name: "isolation::seccomp", needs: Needs::Nothing, run: seccomp },
    Case { name: "isolation::seccomp_of_32_bits", needs: Needs::Nothing, run: seccomp_of_32_bits },
    Case { name: "isolation::setuid_programs_work", needs: Needs::Ids, run: setuid_programs_work },
    Case { name: "isolation::links_do_not_lead_out", needs: Needs::Nothing, run: links_do_not_lead_out },
    Case { name: "isolation::as_runc", needs: Needs::Root, run: as_runc },
    Case { name: "isolation::mounts_as_runc", needs: Needs::Root, run: mounts_as_runc },
    Case { name: "isolation::namespaces_as_runc", needs: Needs::Root, run: namespaces_as_runc },
    Case { name: "isolation::users_as_runc", needs: Needs::Root, run: users_as_runc },
    Case { name: "isolation::insecure_as_runc", needs: Needs::Root, run: insecure_as_runc },
    Case { name: "isolation::keys_of_the_caller", needs: Needs::Nothing, run: keys_of_the_caller },
    Case { name: "isolation::shared_proc", needs: Needs::MaskedProc, run: shared_proc },
];

const DEFAULT_CAPABILITIES: &str = "00000000a80425fb";

fn namespaces(fixture: &Fixture) {
    for (name, same) in [
        ("mnt", false),
        ("pid", false),
        ("ipc", false),
        ("uts", false),
        ("cgroup", false),
        ("net", true),
        ("user", true),
    ] {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let inside = fixture.output(&format!("readlink /proc/self/ns/{name}"));
        assert_eq!(inside.trim() == own.to_str().unwrap(), same, "{name}");
    }
    // The shell lists what there is itself: of a pipe the first program may run before the second one exists.
    let alone_then_with_a_child = "echo $$ /proc/[0-9]*; sleep 60 & echo /proc/[0-9]*";
    assert_eq!(fixture.output(alone_then_with_a_child), "1 /proc/1\n/proc/1 /proc/2\n");
}

fn no_network(fixture: &Fixture) {
    let mut spec = fixture.shell("grep -c : /proc/net/dev; ip -o addr show dev lo; ls /sys/class/net");
    spec.network = Network::None;
    let output = fixture.output_of(spec);
    assert!(output.starts_with("1\n") && output.contains("127.0.0.1/8"), "{output}");
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let mut spec = fixture.shell("readlink /proc/self/ns/net");
    spec.network = Network::None;
    assert_ne!(fixture.output_of(spec).trim(), own.to_str().unwrap());
}

fn status(fixture: &Fixture, user: User) -> String {
    let mut spec = fixture.spec(&["grep", "-E", "^(Cap|NoNew|Seccomp:|Groups)", "/proc/self/status"]);
    spec.user = user;
    fixture.output_of(spec)
}

/// As `docker run busybox grep Cap /proc/self/status` shows.
fn capabilities_of_root(fixture: &Fixture) {
    let all = DEFAULT_CAPABILITIES;
    let expected = format!(
        "CapInh:\t0000000000000000\nCapPrm:\t{all}\nCapEff:\t{all}\nCapBnd:\t{all}\nCapAmb:\t0000000000000000\n\
         NoNewPrivs:\t0\nSeccomp:\t2\n"
    );
    let status = status(fixture, User::default());
    assert!(status.ends_with(&expected), "{status}");
}

fn capabilities_of_user(fixture: &Fixture) {
    let user = User { uid: 1000, gid: 1001, additional_gids: vec![5, 1007] };
    let expected = format!(
        "Groups:\t5 1001 1007 \nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
         CapBnd:\t{DEFAULT_CAPABILITIES}\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
    );
    assert_eq!(status(fixture, user), expected);
}

fn hidden_paths(fixture: &Fixture) {
    for file in ["kcore", "keys", "timer_list", "sched_debug", "latency_stats", "interrupts"] {
        let script = format!("if [ -e /proc/{file} ]; then wc -c < /proc/{file}; else echo 0; fi");
        assert_eq!(fixture.output(&script), "0\n", "{file}");
    }
    for dir in ["/proc/acpi", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"] {
        let script = format!("if [ -e {dir} ]; then ls -A {dir}; fi");
        assert_eq!(fixture.output(&script), "", "{dir}");
    }
    for file in ["/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run"] {
        let (code, _, errors) = fixture.run(fixture.shell(&format!("echo 0 > {file}")));
        let refused = errors.contains("Read-only file system") || errors.contains("nonexistent");
        assert!(code != 0 && refused, "{file}: {errors}");
    }
    assert_ne!(fixture.run(fixture.shell("touch /sys/x || mkdir /proc/fs/x")).0, 0);
}

fn devices(fixture: &Fixture) {
    let core = if std::path::Path::new("/proc/kcore").exists() { "core " } else { "" };
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(fixture.output("echo $(ls /dev)"), format!("{core}{expected}\n"));
    assert_eq!(fixture.output("head -c 3 /dev/zero | wc -c; head -c 9 /dev/urandom | wc -c"), "3\n9\n");
    assert_eq!(fixture.output("echo x > /dev/null; cat /dev/null"), "");
    let (_, _, errors) = fixture.run(fixture.shell("echo x > /dev/full"));
    assert!(errors.contains("No space left"), "{errors}");
    assert_eq!(fixture.output("stat -c '%a %t:%T' /dev/null /dev/tty"), "666 1:3\n666 5:0\n");
    assert_eq!(
        fixture.output("df -k /dev/shm | awk 'NR==2 {print $2}'; stat -c %a /dev/shm"),
        "65536\n1777\n"
    );
    assert_eq!(fixture.output("ls /dev/pts; stat -c %a /dev/pts/ptmx"), "ptmx\n666\n");
    assert_eq!(fixture.output("echo out > /dev/stdout"), "out\n");
    let mut spec = fixture.shell("df -k /dev/shm | awk 'NR==2 {print $2}'");
    spec.shm_size = Some(1 << 20);
    assert_eq!(fixture.output_of(spec), "1024\n");
    if fixture.is_root() {
        // A change of ours must not reach the host's.
        fixture.output("chmod 600 /dev/null");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata("/dev/null").unwrap().mode() & 0o777, 0o666);
    }
}

fn no_descriptors(fixture: &Fixture) {
    let open = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    // The fourth is that of the directory being listed.
    assert_eq!(fixture.output_of(fixture.spec(&["ls", "/proc/self/fd"])), "0\n1\n2\n3\n");
}

fn only_given_environment(fixture: &Fixture) {
    let mut spec = fixture.spec(&["env"]);
    spec.env.push(("GREETING".into(), "hello = world\nnext".into()));
    spec.env.push(("EMPTY".into(), "".into()));
    assert_eq!(fixture.output_of(spec), "PATH=/bin\nGREETING=hello = world\nnext\nEMPTY=\nHOME=/root\n");
    let mut spec = fixture.spec(&["env"]);
    spec.env.push(("HOME".into(), "/x".into()));
    assert_eq!(fixture.output_of(spec), "PATH=/bin\nHOME=/x\n");
}

fn host_name_and_files(fixture: &Fixture) {
    let mut spec =
        fixture.shell("hostname; cat /etc/hosts /etc/resolv.conf; echo x >> /etc/hosts || rm /etc/hosts");
    spec.hostname = "box".to_owned();
    spec.hosts = Some("127.0.0.1 localhost\n".to_owned());
    spec.resolv_conf = Some("nameserver 10.0.0.1\n".into());
    let (code, output, errors) = fixture.run(spec);
    assert_eq!(output, "box\n127.0.0.1 localhost\nnameserver 10.0.0.1\n");
    assert!(code != 0 && errors.contains("Read-only file system") && errors.contains("busy"), "{errors}");
    let own = rustix::system::uname();
    assert_ne!(own.nodename().to_str().unwrap(), "box");
}

fn mounts(fixture: &Fixture) {
    let source = fixture.dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    let mut spec = fixture.shell(
        "cat /ro/file /deep/down/file /run/secrets/key; echo new > /rw/new; stat -c %a /run/secrets/key /scratch
         touch /scratch/x; df -k /scratch | awk 'NR==2 {print $2}'; touch /ro/x 2>&1; touch /deep/down/file 2>&1; true",
    );
    let file =
        |contents: &[u8], mode| MountKind::File { contents: contents.to_owned(), mode, uid: 0, gid: 0 };
    spec.mounts = vec![
        bind(&source, "/ro", true),
        bind(&source, "/rw", false),
        bind(source.join("file"), "/deep/down/file", true),
        Mount { target: "/run/secrets/key".into(), kind: file(b"secret\n", 0o400), read_only: true },
        Mount {
            target: "/scratch".into(),
            kind: MountKind::Tmpfs { size: Some(1 << 20), mode: Some(0o700) },
            read_only: false,
        },
    ];
    assert_eq!(
        fixture.output_of(spec),
        "contentcontentsecret\n400\n700\n1024\ntouch: /ro/x: Read-only file system\n\
         touch: /deep/down/file: Read-only file system\n"
    );
    assert_eq!(std::fs::read_to_string(source.join("new")).unwrap(), "new\n");
    let mut spec = fixture.shell("true");
    spec.mounts = vec![bind("/nonexistent-source", "/x", true)];
    let error = fixture.error(spec).to_string();
    assert_eq!(error, "bind /nonexistent-source to /x: No such file or directory");
    for target in ["/", "/proc", "/x/../proc/sys", "/.."] {
        let mut spec = fixture.shell("true");
        spec.mounts = vec![bind(&source, target, true)];
        let error = fixture.error(spec).to_string();
        assert_eq!(error, format!("mount {target}: nothing can be mounted there"));
    }
}

fn forbidden_calls(fixture: &Fixture) {
    for script in [
        "mount -t tmpfs none /tmp",
        "mount -o bind /bin /tmp",
        "umount /proc",
        "umount /etc/hosts",
        "mount -o remount,rw /sys",
        "unshare -U true",
        "unshare -m true",
        "nsenter -t 1 -m true",
        "hostname other",
        "swapoff -a -v /bin/busybox",
        "chroot / pivot_root / /tmp",
        "sysctl -w kernel.domainname=x",
        "setarch linux32 setarch uname26 true && setarch i686 -R true",
    ] {
        let mut spec = fixture.shell(script);
        spec.hosts = Some(String::new());
        let (code, _, _) = fixture.run(spec);
        assert_ne!(code, 0, "{script}");
    }
}

fn no_way_out(fixture: &Fixture) {
    std::fs::write(fixture.dir.path().join("outside"), "").unwrap();
    let outside = fixture.dir.path().join("outside");
    let outside = outside.display();
    let script = format!(
        "for dir in / /.. /../.. /proc/1/root /proc/self/root/.. /proc/1/cwd/../.. /dev/../../..; do
             [ -e $dir/bin/busybox ] || echo \"$dir is elsewhere\"
             [ -e $dir{outside} ] && echo \"$dir leads out\"
         done
         mkdir -p /tmp/jail && cp /bin/busybox /tmp/jail && chroot /tmp/jail /busybox ls ../../../../..
         grep -c ' / / ' /proc/self/mountinfo"
    );
    assert_eq!(fixture.output(&script), "busybox\n1\n");
    let mountinfo = fixture.output("cut -d' ' -f5 /proc/self/mountinfo");
    let roots = ["/", "/proc", "/sys", "/dev"];
    for line in mountinfo.lines() {
        let known =
            roots.iter().any(|root| line == *root || *root != "/" && line.starts_with(&format!("{root}/")));
        assert!(known, "{line} is mounted");
    }
}

/// Capabilities allow mknod; what is made must not work, wherever it is made.
fn no_disks(fixture: &Fixture) {
    let cache = fixture.dir.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    for dir in ["/tmp", "/dev", "/dev/shm", "/cache", "/scratch"] {
        let mut spec = fixture.shell(&format!(
            "cd {dir}; mknod mem c 1 1 && mknod disk b 254 0 && mknod none c 1 3 && echo made; cat none && echo works
             head -c 1 mem; head -c 1 disk; cat < mem; echo > disk; exit 1"
        ));
        let tmpfs = MountKind::Tmpfs { size: None, mode: Some(0o755) };
        spec.mounts = vec![
            bind(&cache, "/cache", false),
            Mount { target: "/scratch".into(), kind: tmpfs, read_only: false },
        ];
        let (code, output, errors) = fixture.run(spec);
        // Docker's rules: any node can be made, the harmless ones work. /dev/shm has no devices there either.
        if dir == "/dev/shm" || dir == "/scratch" && !output.contains("works") {
            assert_eq!((code, output.as_str()), (1, "made\n"), "{dir}");
            assert_eq!(errors.matches("Permission denied").count(), 5, "{dir}: {errors}");
        } else {
            assert_eq!((code, output.as_str()), (1, "made\nworks\n"), "{dir}: {errors}");
            assert_eq!(errors.matches("Operation not permitted").count(), 4, "{dir}: {errors}");
        }
    }
}

/// CVE-2024-21626: a working directory that is a descriptor of the host.
fn cwd_is_inside(fixture: &Fixture) {
    for number in 0..24 {
        let mut spec = fixture.shell("ls -a ..; cat ../../../../../etc/machine-id");
        spec.cwd = format!("/proc/self/fd/{number}").into();
        let text = fixture.error(spec).to_string();
        assert!(text.contains("working directory"), "{text}");
    }
}

/// A specification that can run this very binary, with the host's libraries.
pub(crate) fn with_host_libraries(fixture: &Fixture, args: &[&str]) -> ProcessSpec {
    let mut spec = fixture.spec(args);
    let own = std::env::current_exe().unwrap();
    spec.mounts = vec![bind(own, "/probe", true)];
    for dir in ["/lib", "/lib64", "/usr/lib", "/usr/bin"] {
        if let Ok(real) = std::fs::canonicalize(dir) {
            spec.mounts.push(bind(real, dir, true));
        }
    }
    spec
}

fn seccomp(fixture: &Fixture) {
    let expected = "inet ok\nthread ok\nalg EPERM\nvsock EPERM\nfsopen EPERM\nopen_tree EPERM\nsetns EPERM\npivot EPERM\n";
    assert_eq!(fixture.output_of(with_host_libraries(fixture, &["/probe", "probe"])), expected);
}

/// A program for i386 that asks for a key, which nothing but the profile refuses, and ends with the error's number: its calls have other
/// numbers than those of the machine.
#[cfg(target_arch = "x86_64")]
fn seccomp_of_32_bits(fixture: &Fixture) {
    let code: &[u8] = &[
        0xb8, 0x20, 0x01, 0x00, 0x00, // mov eax, 288: keyctl
        0x31, 0xdb, // xor ebx, ebx: KEYCTL_GET_KEYRING_ID
        0xb9, 0xff, 0xff, 0xff, 0xff, // mov ecx, -1: KEY_SPEC_THREAD_KEYRING
        0x31, 0xd2, // xor edx, edx: do not make it
        0xcd, 0x80, // int 0x80
        0xf7, 0xd8, // neg eax
        0x89, 0xc3, // mov ebx, eax
        0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1: exit
        0xcd, 0x80, // int 0x80
    ];
    // elf(5): the header, one segment, and the code behind both.
    let (base, headers) = (0x0804_8000_u32, 84_u32);
    let size = headers + u32::try_from(code.len()).unwrap();
    let mut program = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves = |halves: &[u16]| halves.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<_>>();
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    program.extend(halves(&[2, 3])); // executable, i386
    program.extend(words(&[1, base + headers, 52, 0, 0]));
    program.extend(halves(&[52, 32, 1, 40, 0, 0]));
    program.extend(words(&[1, 0, base, base, size, size, 5, 0x1000])); // loaded, read and executed
    program.extend(code);
    let path = fixture.lower.join("bin/program-of-32-bits");
    std::fs::write(&path, program).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let outside = std::process::Command::new(&path).status();
    match outside {
        // ENOKEY: there is none.
        Ok(status) => assert_eq!(status.code(), Some(126), "without a profile"),
        Err(error) => {
            eprintln!("this kernel runs no programs for i386: {error}");
            return;
        }
    }
    let (code, ..) = fixture.run(fixture.spec(&["/bin/program-of-32-bits"]));
    assert_eq!(code, 1, "EPERM");
}

#[cfg(not(target_arch = "x86_64"))]
fn seccomp_of_32_bits(_: &Fixture) {}

/// A key of the caller's session, which any process of it may read, is none of the step's, also where no profile keeps it from asking. By the
/// numbers of x86-64: add_key and keyctl (KEYCTL_JOIN_SESSION_KEYRING, KEYCTL_SEARCH, KEYCTL_DESCRIBE).
#[cfg(target_arch = "x86_64")]
fn keys_of_the_caller(fixture: &Fixture) {
    const LOOK: &str =
        "($type, $name) = ('user', 'executor-test'); $found = syscall(250, 10, -3, $type, $name, 0);
        print $found < 0 ? $! + 0 : 'found', ' ';";
    // A session of its own, so that it does not end up in this one's.
    let begin = format!(
        "($type, $name, $text) = ('user', 'executor-test', 'secret'); syscall(250, 1, 0) > 0 or die $!;
         syscall(248, $type, $name, $text, 6, -3) > 0 or die $!; $| = 1; {LOOK} exec @ARGV"
    );
    for (security, found) in
        [(executor::Security::Insecure, "found 126 "), (executor::Security::Default, "found 1 ")]
    {
        let mut spec = with_host_libraries(fixture, &["/usr/bin/perl", "-e", LOOK]);
        spec.security = security;
        let file = fixture.dir.path().join("spec");
        std::fs::write(&file, serde_json::to_string(&spec).unwrap()).unwrap();
        let mut caller = std::process::Command::new("perl");
        caller.args(["-e", &begin]).arg(std::env::current_exe().unwrap()).arg("run-spec").arg(file);
        let output = caller.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        // ENOKEY, EPERM.
        assert_eq!(String::from_utf8_lossy(&output.stdout), found, "{security:?} {errors}");
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn keys_of_the_caller(_: &Fixture) {}

/// The caller of the one above: runs what a file says.
pub(crate) fn run_spec(file: &str) -> ExitCode {
    let spec: ProcessSpec = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let recorder = crate::support::Recorder::default();
    use executor::Executor;
    let outcome = runtime.block_on(executor::Sandbox::new().run(spec, &recorder)).unwrap();
    print!("{}", recorder.text(executor::OutputStream::Stdout));
    eprint!("{}", recorder.text(executor::OutputStream::Stderr));
    ExitCode::from(u8::try_from(outcome.status.code()).unwrap())
}

/// Runs inside: says something over a socket and prints the answer.
pub(crate) fn connect(path: &str) -> ExitCode {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.write_all(b"ping\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    print!("{answer}");
    ExitCode::SUCCESS
}

/// Runs inside: tries calls that the profile decides on.
pub(crate) fn probe() -> ExitCode {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};
    let show = |name: &str, result: Result<(), Errno>| match result {
        Ok(()) => println!("{name} ok"),
        Err(Errno::PERM) => println!("{name} EPERM"),
        Err(error) => println!("{name} {error}"),
    };
    let open = |family| socket(AddressFamily::from_raw(family), SocketType::STREAM, None).map(drop);
    show("inet", open(2));
    // The C library tries clone3 first, and only ENOSYS makes it go on to clone.
    show("thread", std::thread::Builder::new().spawn(|| ()).map(drop).map_err(|_| Errno::AGAIN));
    show("alg", open(38));
    show("vsock", open(40));
    show("fsopen", rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::empty()).map(drop));
    let flags = rustix::mount::OpenTreeFlags::OPEN_TREE_CLONE;
    show("open_tree", rustix::mount::open_tree(rustix::fs::CWD, "/", flags).map(drop));
    let own = std::fs::File::open("/proc/self/ns/uts").unwrap();
    use std::os::fd::AsFd;
    show("setns", rustix::thread::move_into_link_name_space(own.as_fd(), None));
    show("pivot", rustix::process::pivot_root("/", "/"));
    ExitCode::SUCCESS
}

/// The filter comes without no_new_privs, so that su and sudo work.
fn setuid_programs_work(fixture: &Fixture) {
    use std::os::unix::fs::PermissionsExt;
    let program = fixture.lower.join("bin/setuid-id");
    std::fs::copy("/usr/bin/id", &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
    let mut spec = with_host_libraries(fixture, &["setuid-id", "-u"]);
    spec.user = User { uid: 1000, gid: 1001, additional_gids: vec![] };
    assert_eq!(fixture.output_of(spec), "0\n");
}

/// Mount points are looked up inside the root file system, whatever links the image has.
fn links_do_not_lead_out(fixture: &Fixture) {
    let outside = fixture.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, fixture.lower.join("away")).unwrap();
    std::os::unix::fs::symlink("../../../../../..", fixture.lower.join("up")).unwrap();
    std::os::unix::fs::symlink("loop", fixture.lower.join("loop")).unwrap();
    let mut spec = fixture.shell("cat /away/a/hosts /up/b");
    let file = |text: &str| MountKind::File { contents: text.into(), mode: 0o644, uid: 0, gid: 0 };
    spec.mounts = vec![
        Mount { target: "/away/a/hosts".into(), kind: file("a"), read_only: true },
        Mount { target: "/up/b".into(), kind: file("b"), read_only: true },
    ];
    assert_eq!(fixture.output_of(spec), "ab");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let mut spec = fixture.shell("true");
    spec.mounts = vec![Mount { target: "/loop/x".into(), kind: file(""), read_only: true }];
    assert!(fixture.error(spec).to_string().contains("Too many levels of symbolic links"));

    std::fs::remove_dir(fixture.lower.join("proc")).unwrap();
    std::os::unix::fs::symlink(&outside, fixture.lower.join("proc")).unwrap();
    let error = fixture.error(fixture.shell("true")).to_string();
    assert_eq!(error, "prepare the mount point /proc: it is a symbolic link");
}

/// Where no new /proc can be mounted, that of the surroundings is shown, but leads nowhere.
fn shared_proc(fixture: &Fixture) {
    let script = format!(
        "readlink /proc/self/ns/pid > /dev/null && echo self
         ls /proc/{0}/root; cat /proc/{0}/environ /proc/{0}/fd/0 /proc/{0}/mem
         echo 0 > /proc/sys/kernel/domainname; kill -9 {0}",
        std::process::id()
    );
    let recorder = crate::support::Recorder::default();
    let outcome = fixture.run_with(fixture.shell(&script), &recorder).unwrap();
    let stdout = recorder.text(executor::OutputStream::Stdout);
    let stderr = recorder.text(executor::OutputStream::Stderr);
    assert_eq!(stdout, "self\n", "{stderr}");
    assert_eq!(stderr.matches("Permission denied").count(), 4, "{stderr}");
    assert!(stderr.contains("Read-only file system") && stderr.contains("No such process"), "{stderr}");
    assert!(outcome.notes.len() == 1 && outcome.notes[0].contains("/proc"), "{outcome:?}");
    // All of it is read-only, but not where nothing is to be in the way.
    for (security, code) in [(executor::Security::Default, 1), (executor::Security::Insecure, 0)] {
        let mut spec = fixture.shell("echo 500 > /proc/self/oom_score_adj");
        spec.security = security;
        assert_eq!(fixture.run(spec).0, code, "{security:?}");
    }
}

/// The same program in runc, with what Docker asks of it, sees the same surroundings.
fn as_runc(fixture: &Fixture) {
    const SCRIPT: &str = "grep -E '^(Cap|NoNew|SigBlk|Groups|Seccomp)' /proc/self/status; ls /dev | grep -v console; umask; id
        stat -c '%n %a %u:%g' /dev /dev/* /proc /sys; ls -l /dev | grep -o '[a-z]* -> .*'; echo $$; pwd
        env | sort; hostname; cat /proc/self/cgroup; cat /proc/self/oom_score_adj
        cat /proc/self/limits; ls /proc/self/fd; ip -o addr; ls /sys/class/net; cat /proc/self/uid_map
        cut -d' ' -f5 /proc/self/mountinfo | grep -vE '^/sys|^/dev/(null|zero|full|tty|u?random)$|interrupts' | sort -u
        for file in /proc/kcore /proc/keys /proc/timer_list; do [ -e $file ] && wc -c $file; done
        for file in /proc/sys/kernel/domainname /sys/kernel/profiling; do echo 0 > $file; done; ls -A /proc/acpi /proc/scsi
        echo 0 > /proc/sys/kernel/sem; echo 1 > /proc/bus/x";
    let spec = || {
        let mut spec = fixture.shell(SCRIPT);
        spec.env.extend([("A".into(), "b c=d".into()), ("EMPTY".into(), "".into())]);
        spec.ulimits.push(executor::Ulimit { name: "core".to_owned(), soft: 5, hard: 7 });
        spec.ulimits.push(executor::Ulimit { name: "stack".to_owned(), soft: 1 << 20, hard: 1 << 21 });
        spec.network = Network::None;
        spec
    };
    let runc = reference::runc(fixture, spec(), |_| ());
    let (_, stdout, stderr) = fixture.run(spec());
    assert!(stdout.contains("A=b c=d\n") && stdout.contains("EMPTY=\n"), "{stdout}");
    assert_eq!(stdout, String::from_utf8(runc.stdout).unwrap());
    assert_eq!(stderr, String::from_utf8(runc.stderr).unwrap());
}

/// Each mount is of the same kind of file system and has the same flags, but for what is named here.
fn mounts_as_runc(fixture: &Fixture) {
    let spec = || {
        let mut spec = fixture.shell("cat /proc/self/mountinfo");
        spec.network = Network::None;
        spec
    };
    let runc = reference::runc(fixture, spec(), |config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        let proc = mounts.iter_mut().find(|mount| mount["destination"] == "/proc").unwrap();
        // As Docker asks of it; `runc spec` does not.
        proc["options"] = serde_json::json!(["nosuid", "noexec", "nodev"]);
    });
    let (mut ours, mut theirs) =
        (mounts_in(&fixture.output_of(spec())), mounts_in(std::str::from_utf8(&runc.stdout).unwrap()));
    assert!(ours.len() > 10, "{ours:?}");
    // Here an overlay, there its lower directory.
    assert_eq!(ours.remove("/").unwrap().flags, theirs.remove("/").unwrap().flags);
    // Hierarchies of version 1 are not shown.
    theirs.retain(|path, _| !path.starts_with("/sys/fs/cgroup") || ours.contains_key(path));
    for path in executor::Defaults::new().unwrap().masked {
        // Docker hides more than `runc spec` says: interrupts, and of some machines the counters of their power.
        if !theirs.contains_key(*path) {
            ours.remove(*path);
        }
        let (Some(our), Some(their)) = (ours.get_mut(*path), theirs.get(*path)) else { continue };
        // What covers a hidden path comes from a file system of our own, on which nothing can be executed.
        for flag in ["nosuid", "nodev", "noexec"] {
            if !their.flags.contains(flag) {
                our.flags.remove(flag);
            }
        }
        // Theirs is a /dev/null whose time of access is kept.
        if !their.flags.contains("relatime") {
            our.flags.remove("relatime");
        }
    }
    assert_eq!(ours, theirs);
}

#[derive(Debug, PartialEq)]
struct Shown {
    file_system: String,
    flags: BTreeSet<String>,
}

/// What proc_pid_mountinfo(5) says, by mount point; the last one covers those before.
fn mounts_in(mountinfo: &str) -> BTreeMap<String, Shown> {
    let lines = mountinfo.lines().map(|line| {
        let (mount, source) = line.split_once(" - ").unwrap();
        let fields: Vec<&str> = mount.split(' ').collect();
        let flags = fields[5].split(',').map(str::to_owned).collect();
        (fields[4].to_owned(), Shown { file_system: source.split(' ').next().unwrap().to_owned(), flags })
    });
    lines.collect()
}

/// Of each kind of namespace, both have one of their own, or both that of the caller.
fn namespaces_as_runc(fixture: &Fixture) {
    const SCRIPT: &str =
        "for kind in cgroup ipc mnt net pid time user uts; do readlink /proc/self/ns/$kind; done";
    let own = |output: &str| -> Vec<(String, bool)> {
        let lines = output.lines().map(|line| {
            let kind = line.split(':').next().unwrap();
            let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            (kind.to_owned(), host.to_str().unwrap() != line)
        });
        lines.collect()
    };
    for network in [Network::None, Network::Host] {
        let mut spec = fixture.shell(SCRIPT);
        spec.network = network;
        let runc = reference::runc(fixture, spec.clone(), |_| ());
        let ours = own(&fixture.output_of(spec));
        assert_eq!(ours.len(), 8);
        assert_eq!(ours, own(std::str::from_utf8(&runc.stdout).unwrap()), "{network:?}");
    }
}

/// What an ordinary user with further groups may do, in both.
fn users_as_runc(fixture: &Fixture) {
    let spec = || {
        let mut spec = fixture.shell(
            "id; grep -E '^(Cap|Groups|Uid|Gid|NoNew)' /proc/self/status; echo $HOME; touch /etc/x; cat /proc/1/environ | wc -c",
        );
        spec.user = User { uid: 1000, gid: 1001, additional_gids: vec![5, 1001, 7] };
        spec
    };
    let runc = reference::runc(fixture, spec(), |_| ());
    let (_, stdout, stderr) = fixture.run(spec());
    assert_eq!(stdout, String::from_utf8(runc.stdout).unwrap());
    assert_eq!(stderr, String::from_utf8(runc.stderr).unwrap());
}

/// Insecure steps have in both what the caller has.
fn insecure_as_runc(fixture: &Fixture) {
    let spec = || {
        let mut spec = fixture.shell("grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; echo 0 > /proc/sys/kernel/sem; ls -A /proc/scsi");
        spec.security = executor::Security::Insecure;
        spec
    };
    let runc = reference::runc(fixture, spec(), |config| {
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = own.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap();
        let bits = u64::from_str_radix(line.trim(), 16).unwrap();
        let has = |(number, _): &(usize, &&str)| bits >> number & 1 == 1;
        let names = reference::CAPABILITIES.iter().enumerate().filter(has);
        let names: Vec<String> = names.map(|(_, name)| format!("CAP_{name}")).collect();
        config["process"]["capabilities"] = serde_json::json!({
            "bounding": names, "effective": names, "permitted": names, "inheritable": names, "ambient": names
        });
        config["linux"]["seccomp"] = serde_json::Value::Null;
        config["linux"]["maskedPaths"] = serde_json::json!([]);
        config["linux"]["readonlyPaths"] = serde_json::json!([]);
    });
    let (_, stdout, stderr) = fixture.run(spec());
    assert_eq!(stdout, String::from_utf8(runc.stdout).unwrap());
    assert_eq!(stderr, String::from_utf8(runc.stderr).unwrap());
}
