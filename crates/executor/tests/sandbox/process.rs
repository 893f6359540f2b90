//! How a process is started, and what comes back.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use executor::{Error, ExitStatus, External, OutputStream, Rootfs, Sandbox, User};

use crate::support::{Case, Fixture, Needs, Recorder, eventually};

pub(crate) const CASES: &[Case] = &[
    Case { name: "process::exit_codes", needs: Needs::Nothing, run: exit_codes },
    Case { name: "process::signals", needs: Needs::Nothing, run: signals },
    Case { name: "process::processor_time", needs: Needs::Nothing, run: processor_time },
    Case { name: "process::times_of_its_parts", needs: Needs::Nothing, run: times_of_its_parts },
    Case { name: "process::programs_that_cannot_run", needs: Needs::Nothing, run: programs_that_cannot_run },
    Case { name: "process::output_as_it_comes", needs: Needs::Nothing, run: output_as_it_comes },
    Case {
        name: "process::joined_output_is_in_order",
        needs: Needs::Nothing,
        run: joined_output_is_in_order,
    },
    Case { name: "process::much_output", needs: Needs::Nothing, run: much_output },
    Case { name: "process::daemons_do_not_hold_it", needs: Needs::Nothing, run: daemons_do_not_hold_it },
    Case { name: "process::users", needs: Needs::Ids, run: users },
    Case { name: "process::unmapped_user", needs: Needs::Nothing, run: unmapped_user },
    Case { name: "process::home", needs: Needs::Ids, run: home },
    Case { name: "process::working_directory", needs: Needs::Nothing, run: working_directory },
    Case { name: "process::defaults", needs: Needs::Nothing, run: defaults },
    Case { name: "process::inherited_streams", needs: Needs::Nothing, run: inherited_streams },
    Case { name: "process::many_at_once", needs: Needs::Nothing, run: many_at_once },
    Case { name: "process::raw_bytes", needs: Needs::Nothing, run: raw_bytes },
];

fn exit_codes(fixture: &Fixture) {
    for code in [0, 1, 3, 126, 127, 255] {
        let outcome = fixture.run_with(fixture.shell(&format!("exit {code}")), &Recorder::default()).unwrap();
        assert_eq!(outcome.status, ExitStatus::Code(code));
        assert_eq!(outcome.notes, Vec::<String>::new());
    }
}

/// Of a step that asks, and without what the program itself takes.
fn times_of_its_parts(fixture: &Fixture) {
    let mut spec = fixture.shell("sleep 0.5");
    let run = |spec| fixture.run_with(spec, &Recorder::default()).unwrap().times;
    assert_eq!(run(spec.clone()), None);
    spec.timed = true;
    let of_rest = || {
        let begin = Instant::now();
        let times = run(spec.clone()).unwrap();
        let rest = begin.elapsed() - Duration::from_millis(500);
        let parts = [times.namespaces, times.mounts, times.process, times.enter, times.unmount];
        assert!(parts.iter().all(|part| !part.is_zero()), "{times:?}");
        (parts.iter().sum::<Duration>(), rest)
    };
    // Where it waits for a processor, who made the process may see it only when the program runs already; not each time.
    let wrong: Vec<_> = (0..5).map(|_| of_rest()).take_while(|(sum, rest)| sum >= rest).collect();
    assert!(wrong.len() < 5, "{wrong:?}");
}

fn signals(fixture: &Fixture) {
    let run = |script: &str, signal: i32, heeds: bool| {
        let recorder = Recorder::default();
        let outcome = fixture.runtime.block_on(async {
            let running = fixture.sandbox.start(&fixture.shell(script)).await.unwrap();
            let ready = async {
                while recorder.time_of("ready").is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            // The handle is used while the future waits, as a caller that passes on Ctrl-C does.
            let signaller = running.signaller();
            let wait = running.wait(&recorder);
            let (outcome, ()) = tokio::join!(wait, async {
                ready.await;
                assert_eq!(signaller.heeds(signal), heeds, "{script}");
                signaller.signal(signal).unwrap();
            });
            outcome
        });
        outcome.unwrap().status
    };
    let handled = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.02; done";
    assert_eq!(run(handled, 15, true), ExitStatus::Code(42));
    let killed = run("echo ready; sleep 1000", 9, false);
    assert_eq!((killed, killed.code()), (ExitStatus::Signal(9), 137));
}

fn processor_time(fixture: &Fixture) {
    let cpu_of = |spec| fixture.run_with(spec, &Recorder::default()).unwrap().cpu.as_secs_f64();
    let cpu = |script: &str| cpu_of(fixture.shell(script));
    // Of the processor time that the loop itself sees: as long as the machine is busy with something else, it takes longer.
    let busy = "while read -r _ _ _ _ _ _ _ _ _ _ _ _ _ user system _ < /proc/self/stat; [ $((user + system)) -lt 50 ]; do :; done";
    let is_counted = |script: &str| {
        let seconds = cpu(script);
        assert!((0.4..2.5).contains(&seconds), "{script}: {seconds}");
    };
    is_counted(busy);
    // Of a child, of one whose parent has ended, before or after what is left of it is taken away.
    is_counted(&format!("sh -c '{busy}'"));
    is_counted(&format!(
        "(sh -c '{busy}; echo > /tmp/done' &); while ! [ -e /tmp/done ]; do sleep 0.05; done; sleep 0.1"
    ));
    // The first process waits for nobody, and ends when the loop has ended for a while.
    is_counted(
        &format!(
            "mkfifo /tmp/end; sh -c \"(sh -c '{busy}; echo > /tmp/done2' &)\"; \
             sh -c \"(sh -c 'until [ -e /tmp/done2 ]; do sleep 0.05; done; sleep 0.3; : > /tmp/end' &)\"; exec cat /tmp/end"
        )
        .replace('$', "\\$"),
    );
    // Of one that fails, and of one that is killed.
    is_counted(&format!("{busy}; false"));
    is_counted(&format!("sh -c '{busy}'; sh -c 'kill -9 $$'"));
    let idle = cpu("sleep 0.5");
    assert!(idle < 0.1, "{idle}");
    if fixture.is_root() {
        // The process that a runtime makes is a child of the same one.
        let by_runc = |script: &str| {
            let mut spec = fixture.shell(script);
            let config = serde_json::json!({
                "ociVersion": "1.0.2",
                "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/"},
                "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
                "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
            });
            let (program, args) = ("/usr/sbin/runc".into(), Vec::new());
            spec.external = Some(External { program, args, enters_groups: true, config: config.to_string() });
            cpu_of(spec)
        };
        // The runtime's own time is in both.
        let (busy, idle) = (by_runc(&format!("sh -c '{busy}'")), by_runc("sleep 0.5"));
        assert!((0.4..2.5).contains(&(busy - idle)), "{busy} {idle}");
    }
}

fn programs_that_cannot_run(fixture: &Fixture) {
    let make = |name: &str, text: &str, mode| {
        let path = fixture.lower.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    make("plain", "text", 0o644);
    make("bin/plain-in-path", "text", 0o644);
    make("no-interpreter", "#!/nowhere\n", 0o755);
    make("garbage", "\u{1}\u{2}\u{3}", 0o755);
    for (program, code, message) in [
        ("missing", 127, "exec: \"missing\": executable file not found in $PATH"),
        ("/bin/missing", 127, "exec: \"/bin/missing\": stat /bin/missing: no such file or directory"),
        ("/plain", 126, "exec: \"/plain\": permission denied"),
        ("plain-in-path", 126, "exec: \"plain-in-path\": permission denied"),
        ("/bin", 126, "exec: \"/bin\": is a directory"),
        ("/no-interpreter", 127, "exec /no-interpreter: no such file or directory"),
        ("/garbage", 126, "exec /garbage: exec format error"),
        ("", 127, "exec: no command"),
    ] {
        match fixture.error(fixture.spec(&[program])) {
            Error::Program { code: found, message: text } => {
                assert_eq!((found, text.as_str()), (code, message))
            }
            other => panic!("{program}: {other}"),
        }
    }
    let mut spec = fixture.spec(&["true"]);
    spec.env.clear();
    assert!(matches!(fixture.error(spec), Error::Program { code: 127, .. }), "no PATH");
}

fn output_as_it_comes(fixture: &Fixture) {
    let between = || {
        let recorder = Recorder::default();
        let script = "echo first; echo error >&2; sleep 0.7; echo second";
        fixture.run_with(fixture.shell(script), &recorder).unwrap();
        assert_eq!(recorder.text(OutputStream::Stdout), "first\nsecond\n");
        assert_eq!(recorder.text(OutputStream::Stderr), "error\n");
        recorder.time_of("second").unwrap() - recorder.time_of("first").unwrap()
    };
    // A busy machine may keep the reader from the first one for so long; not each time.
    let times: Vec<Duration> =
        (0..3).map(|_| between()).take_while(|between| *between <= Duration::from_millis(400)).collect();
    assert!(times.len() < 3, "{times:?}");
}

fn joined_output_is_in_order(fixture: &Fixture) {
    let recorder = Recorder::default();
    let script = "i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); echo $i >&2; i=$((i+1)); done; echo named > /dev/stderr";
    let mut spec = fixture.shell(script);
    spec.stdio = executor::Stdio::Joined;
    fixture.run_with(spec, &recorder).unwrap();
    let expected: String = (0..500).map(|number| format!("{number}\n")).collect();
    assert_eq!(recorder.text(OutputStream::Stdout), expected + "named\n");
    assert_eq!(recorder.text(OutputStream::Stderr), "");
}

fn much_output(fixture: &Fixture) {
    let recorder = Recorder::default();
    let script = "yes e | head -c 5000000 >&2 & yes o | head -c 20000001; wait";
    fixture.run_with(fixture.shell(script), &recorder).unwrap();
    let (out, err) = (recorder.bytes(OutputStream::Stdout), recorder.bytes(OutputStream::Stderr));
    assert_eq!((out.len(), err.len()), (20_000_001, 5_000_000));
    assert!(out.chunks(2).all(|pair| b"o\n".starts_with(pair)), "in order");
    // The last words of a process that is gone at once.
    for _ in 0..20 {
        let (_, output, _) = fixture.run(fixture.shell("head -c 60000 /dev/zero"));
        assert_eq!(output.len(), 60_000);
    }
}

fn daemons_do_not_hold_it(fixture: &Fixture) {
    let begin = Instant::now();
    assert_eq!(fixture.output("setsid sleep 1000 & sleep 1000 & echo started"), "started\n");
    assert!(begin.elapsed() < Duration::from_secs(100));
}

fn users(fixture: &Fixture) {
    let mut spec = fixture
        .shell("id -u; id -g; id -G; touch /tmp/mine; echo said > /dev/stdout; touch /etc/x || echo no");
    spec.user = User { uid: 1000, gid: 1001, additional_gids: vec![1001, 7, 2000] };
    let (code, output, _) = fixture.run(spec);
    assert_eq!((code, output.as_str()), (0, "1000\n1001\n1001 7 2000\nsaid\nno\n"));
    let made = std::fs::metadata(fixture.upper.join("tmp/mine")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1000, 1001, 0o644));
}

fn unmapped_user(fixture: &Fixture) {
    let mut spec = fixture.shell("id -u");
    spec.user = User { uid: 3_000_000, gid: 0, additional_gids: vec![] };
    if fixture.identity.can_use(3_000_000, 0) {
        assert_eq!(fixture.output_of(spec), "3000000\n");
    } else {
        let error = fixture.error(spec);
        assert!(matches!(&error, Error::Unsupported(text) if text.contains("/etc/subuid")), "{error}");
    }
}

fn home(fixture: &Fixture) {
    for (uid, home) in [(0, "/root"), (1000, "/srv/web"), (77, "/")] {
        let mut spec = fixture.shell("echo $HOME");
        spec.user = User { uid, gid: uid, additional_gids: vec![] };
        assert_eq!(fixture.output_of(spec), format!("{home}\n"));
    }
    // Reading it must not block.
    std::fs::remove_file(fixture.lower.join("etc/passwd")).unwrap();
    let status = Command::new("mkfifo").arg(fixture.lower.join("etc/passwd")).status().unwrap();
    assert!(status.success());
    assert_eq!(fixture.output("echo $HOME"), "/\n");
}

fn working_directory(fixture: &Fixture) {
    let mut spec = fixture.shell("pwd; umask");
    spec.cwd = "/srv/app/data".into();
    assert_eq!(fixture.output_of(spec), "/srv/app/data\n0022\n");
    for dir in ["srv", "srv/app", "srv/app/data"] {
        let metadata = std::fs::metadata(fixture.upper.join(dir)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o755, 0), "{dir}");
    }
    let mut spec = fixture.shell("true");
    spec.cwd = "/bin/busybox".into();
    assert!(fixture.error(spec).to_string().contains("Not a directory"));
    let mut spec = fixture.shell("true");
    spec.cwd = "relative".into();
    assert!(fixture.error(spec).to_string().contains("not absolute"));
}

fn defaults(fixture: &Fixture) {
    assert_eq!(fixture.output("umask; ulimit -Sn; cat; read line || echo end"), "0022\n1024\nend\n");
    // Blocked or ignored signals of the caller are not handed down.
    assert_eq!(
        fixture.output_of(fixture.spec(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])),
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    );
}

fn inherited_streams(fixture: &Fixture) {
    let mut child = Command::new("/proc/self/exe")
        .arg("inherit")
        .arg(fixture.dir.path())
        .env("EXECUTOR_TEST_XATTR", fixture.identity.needs_userxattr().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"to the sandbox\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "TO THE SANDBOX\n");
    assert_eq!(output.status.code(), Some(5));
}

/// The other side of the case above: a process of its own, whose streams are pipes.
pub(crate) fn run_inheriting(dir: &str) -> ExitCode {
    let dir = std::path::Path::new(dir);
    let rootfs = Rootfs::Overlay {
        lower: vec![dir.join("lower")],
        upper: dir.join("upper"),
        work: dir.join("work"),
        userxattr: std::env::var("EXECUTOR_TEST_XATTR").unwrap() == "true",
        volatile: true,
    };
    let mut spec = executor::ProcessSpec::new(rootfs, ["/bin/sh", "-c", "/bin/tr a-z A-Z; exit 5"]);
    spec.stdio = executor::Stdio::Inherit;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let code = runtime.block_on(async {
        let running = Sandbox::new().start(&spec).await.unwrap();
        running.wait(&Recorder::default()).await.unwrap().status.code()
    });
    ExitCode::from(u8::try_from(code).unwrap())
}

fn many_at_once(fixture: &Fixture) {
    let specs: Vec<_> = (0..12)
        .map(|index| {
            let dir = |name: &str| {
                let dir = fixture.dir.path().join(format!("{name}{index}"));
                std::fs::create_dir(&dir).unwrap();
                dir
            };
            let mut spec = fixture.shell(&format!("echo {index} > /made; sleep 0.1; exit {index}"));
            spec.rootfs = Rootfs::Overlay {
                lower: vec![fixture.lower.clone()],
                upper: dir("upper"),
                work: dir("work"),
                userxattr: fixture.identity.needs_userxattr(),
                volatile: true,
            };
            spec
        })
        .collect();
    fixture.runtime.block_on(async {
        let mut tasks = Vec::new();
        for spec in specs {
            let sandbox = fixture.sandbox.clone();
            tasks.push(tokio::spawn(async move {
                use executor::Executor;
                sandbox.run(spec, &Recorder::default()).await.unwrap().status
            }));
        }
        for (index, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), ExitStatus::Code(index.try_into().unwrap()));
            let made =
                std::fs::read_to_string(fixture.dir.path().join(format!("upper{index}/made"))).unwrap();
            assert_eq!(made, format!("{index}\n"));
        }
    });
    eventually("no helper is left", || {
        let own = std::process::id().to_string();
        std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"))
            .unwrap_or_default()
            .trim()
            .is_empty()
    });
}

fn raw_bytes(fixture: &Fixture) {
    use std::os::unix::ffi::OsStringExt;
    let raw = std::ffi::OsString::from_vec(vec![0xff, b'"', b'\\', 0x01]);
    let mut spec = fixture.spec(&["printf", "%s"]);
    spec.args.push(raw.clone());
    let recorder = Recorder::default();
    fixture.run_with(spec, &recorder).unwrap();
    assert_eq!(recorder.bytes(OutputStream::Stdout), raw.into_vec());
}
