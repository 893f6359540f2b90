//! What a run leaves in its root file system: what the process did, and nothing else.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use executor::{Mount, MountKind, ProcessSpec, Rootfs};

use crate::support::{Case, Fixture, Needs, age, bind, listing, names};

pub(crate) const CASES: &[Case] = &[
    Case { name: "traces::mounts_leave_none", needs: Needs::Nothing, run: mounts_leave_none },
    Case { name: "traces::times_are_the_images", needs: Needs::Nothing, run: times_are_the_images },
    Case { name: "traces::work_of_the_process_stays", needs: Needs::Nothing, run: work_of_the_process_stays },
    Case { name: "traces::changed_directory_stays", needs: Needs::Nothing, run: changed_directory_stays },
    Case { name: "traces::link_to_nowhere", needs: Needs::Nothing, run: link_to_nowhere },
    Case { name: "traces::existing_upper", needs: Needs::Nothing, run: existing_upper },
    Case { name: "traces::moved_parent", needs: Needs::Nothing, run: moved_parent },
    Case { name: "traces::plain_directory", needs: Needs::Nothing, run: plain_directory },
    Case { name: "traces::failure_leaves_none", needs: Needs::Nothing, run: failure_leaves_none },
    Case { name: "traces::many_layers", needs: Needs::Nothing, run: many_layers },
    Case { name: "traces::long_paths", needs: Needs::Nothing, run: long_paths },
    Case { name: "traces::watched", needs: Needs::Nothing, run: watched },
    Case { name: "traces::nothing_stays_mounted", needs: Needs::Nothing, run: nothing_stays_mounted },
];

/// A specification with mounts at places that the image lacks.
fn with_mounts(fixture: &Fixture, script: &str) -> ProcessSpec {
    for dir in ["proc", "sys", "dev"] {
        let _gone = std::fs::remove_dir(fixture.lower.join(dir));
    }
    let mut spec = fixture.shell(script);
    spec.hosts = Some("127.0.0.1 localhost\n".to_owned());
    spec.resolv_conf = Some("nameserver 10.0.0.1\n".into());
    let file = MountKind::File { contents: b"secret".to_vec(), mode: 0o400, uid: 0, gid: 0 };
    let tmpfs = MountKind::Tmpfs { size: None, mode: Some(0o755) };
    spec.mounts = vec![
        Mount { target: "/run/secrets/key".into(), kind: file, read_only: true },
        Mount { target: "/root/.cache/tool/data".into(), kind: tmpfs, read_only: false },
    ];
    spec
}

fn mounts_leave_none(fixture: &Fixture) {
    let spec = with_mounts(
        fixture,
        "cat /etc/hosts /run/secrets/key > /dev/null; echo x > /root/.cache/tool/data/x",
    );
    for dir in ["etc", "root", ""] {
        age(&fixture.lower.join(dir));
    }
    age(&fixture.upper);
    let before = (listing(&fixture.lower), listing(&fixture.upper));
    fixture.output_of(spec);
    assert_eq!(names(&fixture.upper), Vec::<String>::new());
    assert_eq!((listing(&fixture.lower), listing(&fixture.upper)), before);
}

fn times_are_the_images(fixture: &Fixture) {
    let spec =
        with_mounts(fixture, "stat -c %Y /etc /root; ls -A /etc; rmdir /run/secrets/key 2>/dev/null; true");
    for dir in ["etc", "root"] {
        age(&fixture.lower.join(dir));
    }
    assert_eq!(fixture.output_of(spec), "1000000000\n1000000000\nhosts\npasswd\nresolv.conf\n");
}

fn work_of_the_process_stays(fixture: &Fixture) {
    let script = "mkdir /run/secrets/own; touch /etc/made /root/.cache/mine; rm /etc/passwd; cd /proc; true";
    fixture.output_of(with_mounts(fixture, script));
    assert_eq!(
        names(&fixture.upper),
        [
            "etc",
            "etc/made",
            "etc/passwd",
            "root",
            "root/.cache",
            "root/.cache/mine",
            "run",
            "run/secrets",
            "run/secrets/own"
        ]
    );
    let whiteout = fixture.upper.join("etc/passwd").symlink_metadata().unwrap();
    assert_eq!((whiteout.mode() & 0o170_000, whiteout.rdev()), (0o020_000, 0), "a whiteout");
}

fn changed_directory_stays(fixture: &Fixture) {
    age(&fixture.lower.join("etc"));
    fixture.output_of(with_mounts(fixture, "chmod 700 /etc; touch -d @1234567890 /root"));
    assert_eq!(names(&fixture.upper), ["etc", "root"]);
    let etc = std::fs::metadata(fixture.upper.join("etc")).unwrap();
    assert_eq!((etc.mode() & 0o777, etc.mtime()), (0o700, 1_000_000_000));
    assert_eq!(std::fs::metadata(fixture.upper.join("root")).unwrap().mtime(), 1_234_567_890);
}

fn link_to_nowhere(fixture: &Fixture) {
    symlink("../run/systemd/resolve/stub-resolv.conf", fixture.lower.join("etc/resolv.conf")).unwrap();
    age(&fixture.upper);
    let before = listing(&fixture.upper);
    let output = fixture.output_of(with_mounts(fixture, "readlink /etc/resolv.conf; cat /etc/resolv.conf"));
    assert_eq!(output, "../run/systemd/resolve/stub-resolv.conf\nnameserver 10.0.0.1\n");
    assert_eq!(listing(&fixture.upper), before);
}

fn existing_upper(fixture: &Fixture) {
    std::fs::create_dir_all(fixture.upper.join("etc")).unwrap();
    std::fs::write(fixture.upper.join("etc/hosts"), "").unwrap();
    std::fs::create_dir_all(fixture.upper.join("run/secrets")).unwrap();
    for path in ["etc/hosts", "etc", "run/secrets", "run", ""] {
        age(&fixture.upper.join(path));
    }
    let before = listing(&fixture.upper);
    fixture.output_of(with_mounts(fixture, "true"));
    assert_eq!(listing(&fixture.upper), before, "an empty file that was there is not a stub");
}

fn moved_parent(fixture: &Fixture) {
    let spec = with_mounts(fixture, "mv /run /moved; echo y > /moved/secrets/own");
    fixture.output_of(spec);
    assert_eq!(names(&fixture.upper), ["moved", "moved/secrets", "moved/secrets/own"]);
}

fn plain_directory(fixture: &Fixture) {
    let mut spec = with_mounts(fixture, "touch /made");
    spec.rootfs = Rootfs::Directory(fixture.lower.clone());
    age(&fixture.lower.join("etc"));
    age(&fixture.lower.join("root"));
    let mut before = names(&fixture.lower);
    fixture.output_of(spec);
    before.push("made".to_owned());
    before.sort();
    assert_eq!(names(&fixture.lower), before);
    for dir in ["etc", "root"] {
        assert_eq!(std::fs::metadata(fixture.lower.join(dir)).unwrap().mtime(), 1_000_000_000);
    }
}

fn failure_leaves_none(fixture: &Fixture) {
    age(&fixture.upper);
    let before = listing(&fixture.upper);
    let mut spec = with_mounts(fixture, "");
    spec.args = vec!["missing".into()];
    fixture.error(spec);
    assert_eq!(listing(&fixture.upper), before);
    let mut spec = with_mounts(fixture, "");
    spec.mounts.push(bind("/nonexistent", "/x/y", true));
    fixture.error(spec);
    assert_eq!(listing(&fixture.upper), before, "mounts that were made before the one that failed");
}

fn layers(fixture: &Fixture, count: usize, parent: &PathBuf) -> Vec<PathBuf> {
    std::fs::create_dir_all(parent).unwrap();
    let mut layers: Vec<PathBuf> = (1..count)
        .map(|index| {
            let layer = parent.join(format!("layer-{index}"));
            std::fs::create_dir(&layer).unwrap();
            std::fs::write(layer.join(format!("file-{index}")), index.to_string()).unwrap();
            std::fs::write(layer.join("last"), index.to_string()).unwrap();
            layer
        })
        .collect();
    layers.reverse();
    layers.push(fixture.lower.clone());
    layers
}

fn many_layers(fixture: &Fixture) {
    let overlay = |lower| Rootfs::Overlay {
        lower,
        upper: fixture.upper.clone(),
        work: fixture.dir.path().join("work"),
        userxattr: fixture.identity.needs_userxattr(),
        volatile: false,
    };
    let mut all = layers(fixture, 500, &fixture.dir.path().join("layers"));
    let mut spec = fixture.shell("cat /last; ls / | grep -c file-");
    spec.rootfs = overlay(all.clone());
    assert_eq!(fixture.output_of(spec), "499499\n");
    all.push(fixture.lower.clone());
    let mut spec = fixture.shell("true");
    spec.rootfs = overlay(all);
    let error = fixture.error(spec).to_string();
    assert_eq!(error, "mount an overlay of 501 lower directories: the kernel takes 1 to 500");
}

/// fsconfig(2) takes 255 bytes a value: these go the other way.
fn long_paths(fixture: &Fixture) {
    let parent = fixture.dir.path().join("a".repeat(200)).join("b:c,d\\e".repeat(20));
    let mut spec = fixture.shell("cat /last; ls / | grep -c file-; touch /made");
    let lower = layers(fixture, 300, &parent);
    let (upper, work) = (parent.join("upper"), parent.join("work"));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    let userxattr = fixture.identity.needs_userxattr();
    spec.rootfs = Rootfs::Overlay { lower, upper: upper.clone(), work, userxattr, volatile: true };
    assert_eq!(fixture.output_of(spec), "299299\n");
    assert_eq!(names(&upper), ["made"]);
}

/// Whoever reads a process's table of mounts keeps its mount namespace alive for that time.
fn watched(fixture: &Fixture) {
    let flag = fixture.dir.path().join("shared");
    std::fs::create_dir(&flag).unwrap();
    let marker = crate::leaving::marker("7");
    let script = "touch /shared/ready; while [ ! -e /shared/go ]; do usleep 10000; done; true";
    let mut spec = with_mounts(fixture, script);
    spec.args.push((&marker).into());
    spec.mounts.push(bind(&flag, "/shared", false));
    let before = listing(&fixture.lower);
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| fixture.run(spec));
        crate::support::eventually("the process runs", || flag.join("ready").exists());
        let pids = crate::support::processes_with(&marker);
        let program = pids.first().and_then(|pid| pid.to_str()?.parse::<u32>().ok()).unwrap();
        let parent = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(") ").next()?.split(' ').nth(1)?.parse::<u32>().ok()
        };
        let chain = std::iter::successors(Some(program), parent).take_while(|pid| *pid != std::process::id());
        let watched: Vec<std::fs::File> =
            chain.filter_map(|pid| std::fs::File::open(format!("/proc/{pid}/mountinfo")).ok()).collect();
        assert!(watched.len() >= 3, "guard, keeper and the process");
        std::fs::write(flag.join("go"), "").unwrap();
        let (code, _, errors) = ran.join().unwrap();
        assert_eq!((code, errors.as_str()), (0, ""));
        drop(watched);
    });
    assert_eq!(names(&fixture.upper), [""; 0], "left in the layer");
    assert_eq!(listing(&fixture.lower), before);
}

fn nothing_stays_mounted(fixture: &Fixture) {
    let before = std::fs::read_to_string("/proc/self/mounts").unwrap();
    fixture.output_of(with_mounts(fixture, "touch /made"));
    assert_eq!(std::fs::read_to_string("/proc/self/mounts").unwrap(), before);
    // Free for the caller at once: an upper directory that is still mounted cannot be mounted again.
    std::fs::rename(&fixture.upper, fixture.dir.path().join("kept")).unwrap();
    std::fs::create_dir(&fixture.upper).unwrap();
    std::fs::set_permissions(&fixture.upper, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fixture.output("ls /made 2>/dev/null || echo fresh"), "fresh\n");
}
