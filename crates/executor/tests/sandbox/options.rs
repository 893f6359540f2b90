//! What a specification can ask for beyond the defaults.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use executor::{
    Cause, ExitStatus, HostDevice, Mount, MountKind, OutputStream, Security, Stdio, Ulimit, User, Writable,
};

use crate::support::{Case, Fixture, Needs, Recorder, names};

pub(crate) const CASES: &[Case] = &[
    Case { name: "options::layers", needs: Needs::Nothing, run: layers },
    Case { name: "options::layers_stay_inside", needs: Needs::Nothing, run: layers_stay_inside },
    Case { name: "options::discarded_writes", needs: Needs::Nothing, run: discarded_writes },
    Case { name: "options::sockets", needs: Needs::Nothing, run: sockets },
    Case { name: "options::insecure", needs: Needs::Nothing, run: insecure },
    Case { name: "options::insecure_as_root", needs: Needs::Root, run: insecure_as_root },
    Case { name: "options::insecure_as_user", needs: Needs::Ids, run: insecure_as_user },
    Case { name: "options::ulimits", needs: Needs::Nothing, run: ulimits },
    Case { name: "options::host_devices", needs: Needs::Nothing, run: host_devices },
    Case { name: "options::timeout", needs: Needs::Nothing, run: timeout },
    Case { name: "options::terminal", needs: Needs::Nothing, run: terminal },
];

/// Three layers: the middle one replaces a file and removes another of the lowest, the top adds one.
fn tree(fixture: &Fixture) -> Vec<PathBuf> {
    let dirs = ["top", "middle", "bottom"].map(|name| fixture.dir.path().join(name));
    for dir in &dirs {
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
    }
    std::fs::write(dirs[2].join("a/old"), "old\n").unwrap();
    std::fs::write(dirs[2].join("a/both"), "bottom\n").unwrap();
    std::fs::write(dirs[1].join("a/both"), "middle\n").unwrap();
    std::fs::write(dirs[0].join("a/b/new"), "new\n").unwrap();
    dirs.into()
}

fn of_layers(fixture: &Fixture, path: &str, target: &str, lower: Vec<PathBuf>) -> Mount {
    let kind = MountKind::Layers {
        lower,
        writable: None,
        userxattr: fixture.identity.needs_userxattr(),
        path: path.into(),
    };
    Mount { target: target.into(), kind, read_only: true }
}

fn layers(fixture: &Fixture) {
    let tree = tree(fixture);
    let mut spec = fixture.shell("cd /m; echo $(find . -type f | sort); cat a/both /one /single/old; touch /m/x 2>&1; touch /one 2>&1; touch /single/x 2>&1; true");
    let mut open = of_layers(fixture, "a", "/single", vec![tree[2].clone()]);
    // Where nothing can be written, that it was not forbidden makes no difference.
    open.read_only = false;
    spec.mounts = vec![
        of_layers(fixture, "", "/m", tree.clone()),
        of_layers(fixture, "a/b/new", "/one", tree.clone()),
        open,
    ];
    assert_eq!(
        fixture.output_of(spec),
        "./a/b/new ./a/both ./a/old\nmiddle\nnew\nold\ntouch: /m/x: Read-only file system\n\
         touch: /one: Read-only file system\ntouch: /single/x: Read-only file system\n"
    );
    assert_eq!(names(&fixture.upper), Vec::<String>::new());
    let mut spec = fixture.shell("true");
    spec.mounts = vec![of_layers(fixture, "a/missing", "/m", tree.clone())];
    let error = fixture.error(spec).to_string();
    assert_eq!(error, "mount a/missing of a tree to /m: No such file or directory");
    let mut spec = fixture.shell("true");
    spec.mounts = vec![of_layers(fixture, "/", "/m", vec![])];
    let error = fixture.error(spec).to_string();
    assert!(error.contains("an overlay of 0 lower directories"), "{error}");
}

/// Whatever links a tree has, what is mounted is of the tree.
fn layers_stay_inside(fixture: &Fixture) {
    let tree = tree(fixture);
    let outside = fixture.dir.path().join("outside");
    std::fs::create_dir_all(outside.join("b")).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, tree[0].join(name)).unwrap();
    };
    link(outside.to_str().unwrap(), "absolute");
    link("../../../../../../../../..", "up");
    link("/a", "inside");
    link("/proc/self/root", "magic");
    for lower in [tree.clone(), vec![tree[0].clone()]] {
        for path in ["absolute", "absolute/secret", "magic", "magic/etc", "../outside", "a/../../outside"] {
            let mut spec = fixture.shell("true");
            spec.mounts = vec![of_layers(fixture, path, "/m", lower.clone())];
            let error = fixture.error(spec).to_string();
            assert_eq!(error, format!("mount {path} of a tree to /m: No such file or directory"));
        }
        let mut spec = fixture.shell("ls /up; cat /inside/b/new");
        spec.mounts = vec![
            of_layers(fixture, "up/..", "/up", lower.clone()),
            of_layers(fixture, "inside", "/inside", lower),
        ];
        assert_eq!(fixture.output_of(spec), "a\nabsolute\ninside\nmagic\nup\nnew\n");
    }
}

fn discarded_writes(fixture: &Fixture) {
    let tree = tree(fixture);
    for (index, lower) in [tree.clone(), vec![tree[2].clone()]].into_iter().enumerate() {
        let dir = |name: &str| {
            let dir = fixture.dir.path().join(format!("{name}{index}"));
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        let (upper, work) = (dir("bind-upper"), dir("bind-work"));
        let mut spec =
            fixture.shell("echo changed > /m/both; rm /m/old; echo x > /m/made; cat /m/both; ls /m");
        spec.mounts = vec![Mount {
            target: "/m".into(),
            kind: MountKind::Layers {
                lower: lower.clone(),
                writable: Some(Writable { upper: upper.clone(), work }),
                userxattr: fixture.identity.needs_userxattr(),
                path: "/a".into(),
            },
            read_only: false,
        }];
        assert_eq!(fixture.output_of(spec), "changed\nb\nboth\nmade\n");
        assert_eq!(names(&upper), ["a", "a/both", "a/made", "a/old"]);
        assert_eq!(std::fs::read_to_string(tree[2].join("a/both")).unwrap(), "bottom\n");
        assert!(tree[2].join("a/old").exists() && !tree[0].join("a/made").exists());
    }
    assert_eq!(names(&fixture.upper), Vec::<String>::new());
}

/// As an SSH agent's: read-only means that it cannot be replaced, not that nobody can talk to it.
fn sockets(fixture: &Fixture) {
    use std::io::{Read, Write};
    let socket = fixture.dir.path().join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut word = [0; 5];
        stream.read_exact(&mut word).unwrap();
        stream.write_all(b"pong\n").unwrap();
        word
    });
    let mut spec = crate::isolation::with_host_libraries(fixture, &["/probe", "connect", "/run/agent.0"]);
    spec.mounts.push(crate::support::bind(&socket, "/run/agent.0", true));
    assert_eq!(fixture.output_of(spec), "pong\n");
    assert_eq!(&answer.join().unwrap(), b"ping\n");
    assert!(!fixture.upper.join("run").exists());
}

const OWN: &str =
    "grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|Seccomp:)' /proc/self/status | tr -s '\\t' ' '";

/// What this process has: all that there is to give.
fn own_capabilities() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap().to_owned()
}

fn insecure(fixture: &Fixture) {
    let mut spec = fixture.shell(&format!(
        "{OWN}; mkdir -p /tmp/m && mount -t tmpfs none /tmp/m && umount /tmp/m && hostname other && hostname
         for file in /proc/kcore /proc/keys; do [ -e $file ] && grep -c \" $file \" /proc/self/mountinfo; done
         grep ' /sys ' /proc/self/mountinfo | cut -d' ' -f6 | cut -d, -f1"
    ));
    spec.security = Security::Insecure;
    let all = own_capabilities();
    let output = fixture.output_of(spec);
    let expected = format!(
        "CapInh: {all}\nCapPrm: {all}\nCapEff: {all}\nCapBnd: {all}\nCapAmb: {all}\nSeccomp: 0\nother\n"
    );
    assert!(output.starts_with(&expected), "{output}");
    // Read-only inside a container, and that cannot be changed.
    let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let host = host.lines().find(|line| line.split(' ').nth(4) == Some("/sys")).unwrap().to_owned();
    let flag = if host.split(' ').nth(5).unwrap().starts_with("ro") { "ro" } else { "rw" };
    assert!(output.ends_with(&format!("{flag}\n")), "{output}");
    assert!(!output.contains("\n1\n"), "nothing is masked: {output}");
}

fn insecure_as_root(fixture: &Fixture) {
    let mut spec = fixture.shell(
        "mknod /tmp/zero c 1 5 && head -c 2 /tmp/zero | wc -c; cd /dev; ls -d kmsg fuse net/tun loop-control loop0 loop7
         stat -c '%F %t:%T' loop3 kvm; echo 64 > /proc/sys/kernel/random/write_wakeup_threshold && echo wrote
         [ -w /sys/kernel/mm ] && echo writable",
    );
    spec.security = Security::Insecure;
    let (_, output, errors) = fixture.run(spec);
    let expected = "2\nfuse\nkmsg\nloop-control\nloop0\nloop7\nnet/tun\nblock special file 7:3\n\
                    character special file a:e8\nwrote\nwritable\n";
    assert_eq!(output, expected, "{errors}");
}

fn insecure_as_user(fixture: &Fixture) {
    let mut spec = fixture.shell(&format!("id -u; {OWN}"));
    spec.security = Security::Insecure;
    spec.user = User { uid: 1000, gid: 1001, additional_gids: vec![] };
    let all = own_capabilities();
    let expected = format!(
        "1000\nCapInh: {all}\nCapPrm: {all}\nCapEff: {all}\nCapBnd: {all}\nCapAmb: {all}\nSeccomp: 0\n"
    );
    assert_eq!(fixture.output_of(spec), expected);
}

fn ulimits(fixture: &Fixture) {
    let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
    let mut spec = fixture.shell("ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc; ulimit -St");
    spec.ulimits = vec![limit("nofile", 100, 200), limit("core", 0, 0), limit("cpu", 33, 44)];
    assert_eq!(fixture.output_of(spec), "100\n200\n0\n0\n33\n");
    let mut spec = fixture.shell("true");
    spec.ulimits = vec![limit("files", 1, 1)];
    assert_eq!(fixture.error(spec).to_string(), "set the ulimit files: there is no such limit");
    let mut spec = fixture.shell("true");
    spec.ulimits = vec![limit("nofile", 1 << 40, 1 << 40)];
    let error = fixture.error(spec).to_string();
    assert!(error.starts_with("set the ulimit nofile to 1099511627776:1099511627776: "), "{error}");
    // A bounded fork bomb ends by itself; the kernel does not count root's processes.
    let uid = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if uid.split_ascii_whitespace().nth(1) != Some("0") {
        let mut spec = fixture.shell("i=0; while [ $i -lt 50 ]; do sleep 100 & i=$((i + 1)); done; echo all");
        spec.ulimits = vec![limit("nproc", 20, 20)];
        let (code, output, _) = fixture.run(spec);
        assert!(code != 0 && output.is_empty(), "{code} {output}");
    }
}

fn host_devices(fixture: &Fixture) {
    let mut spec =
        fixture.shell("head -c 4 /dev/nothing/zero | wc -c; head -c 3 /opt/zero | wc -c; ls /dev/nothing");
    let zero = |target: &str| HostDevice { target: target.into(), ..HostDevice::new("/dev/zero") };
    spec.devices = vec![zero("/dev/nothing/zero"), zero("/opt/zero")];
    assert_eq!(fixture.output_of(spec), "4\n3\nzero\n");
    assert_eq!(names(&fixture.upper), Vec::<String>::new());
    for (path, error) in [
        ("/etc/passwd", "bind the device /etc/passwd: it is no device"),
        ("/dev/nonexistent", "bind the device /dev/nonexistent: No such file or directory"),
    ] {
        let mut spec = fixture.shell("true");
        spec.devices = vec![HostDevice::new(path)];
        assert_eq!(fixture.error(spec).to_string(), error);
    }
}

fn timeout(fixture: &Fixture) {
    let begin = Instant::now();
    let mut spec = fixture.shell("trap '' TERM; echo begun; (setsid sleep 1000 &); sleep 1000");
    // Long enough for an emulated processor to begin.
    let after = Duration::from_millis(1_500);
    spec.timeout = Some(after);
    let recorder = Recorder::default();
    let outcome = fixture.run_with(spec, &recorder).unwrap();
    assert_eq!((outcome.status, outcome.cause), (ExitStatus::Signal(9), Some(Cause::TimedOut { after })));
    assert_eq!(recorder.text(OutputStream::Stdout), "begun\n");
    assert!(begin.elapsed() >= after && begin.elapsed() < Duration::from_secs(150));
    let mut spec = fixture.shell("exit 4");
    spec.timeout = Some(Duration::MAX);
    let outcome = fixture.run_with(spec, &recorder).unwrap();
    assert_eq!((outcome.status, outcome.cause), (ExitStatus::Code(4), None));
}

fn terminal(fixture: &Fixture) {
    let mut spec = fixture.shell(
        "trap 'stty size' WINCH; stty size; tty; readlink -f /dev/stdin; echo error >&2
         : > /dev/console; : > /dev/tty; echo ready; until read line; do :; done; echo got $line
         until read line; do :; done; echo ^$line; exit 6",
    );
    spec.stdio = Stdio::Terminal;
    spec.terminal_size = Some((30, 100));
    let recorder = Recorder::default();
    let says = async |text: &str| {
        while !recorder.text(OutputStream::Stdout).contains(text) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = fixture.runtime.block_on(async {
        let running = fixture.sandbox.start(&spec).await.unwrap();
        let terminal = running.terminal().unwrap();
        let typing = async {
            says("ready").await;
            terminal.resize(40, 120).unwrap();
            terminal.write(b"word\n").await.unwrap();
            says("got word").await;
            // Ctrl-U rubs the line out: it is a terminal that interprets what is typed.
            terminal.write(b"wrong\x15right\n").await.unwrap();
        };
        let both = async { tokio::join!(running.wait(&recorder), typing).0 };
        tokio::time::timeout(Duration::from_secs(120), both).await.expect("hangs").unwrap()
    });
    assert_eq!(outcome.status, ExitStatus::Code(6));
    let text = recorder.text(OutputStream::Stdout).replace("\r\n", "\n");
    assert!(text.starts_with("30 100\n/dev/pts/0\n/dev/pts/0\nerror\nready\n"), "{text:?}");
    assert!(text.contains("40 120\n") && text.contains("got word\n"), "{text:?}");
    assert!(text.ends_with("^right\n"), "{text:?}");
    let mut plain = fixture.shell("tty; true");
    plain.stdio = Stdio::Captured;
    assert_eq!(fixture.output_of(plain), "not a tty\n");
}
