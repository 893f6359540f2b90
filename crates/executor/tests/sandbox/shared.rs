//! Mounts inside of mounts that several sandboxes share, such as a secret in a cache mount.

use std::path::Path;

use executor::{Mount, MountKind, OutputStream, ProcessSpec, Rootfs};

use crate::support::{Case, Fixture, Needs, Recorder, age, bind, eventually, listing, names};

pub(crate) const CASES: &[Case] = &[
    Case { name: "shared::mount_points_stay", needs: Needs::Nothing, run: mount_points_stay },
    Case { name: "shared::others_keep_theirs", needs: Needs::Nothing, run: others_keep_theirs },
    Case { name: "shared::made_at_once", needs: Needs::Nothing, run: made_at_once },
    Case { name: "shared::directory_of_another", needs: Needs::Nothing, run: directory_of_another },
    Case { name: "shared::those_of_the_root_go", needs: Needs::Nothing, run: those_of_the_root_go },
];

fn tmpfs(target: &str) -> Mount {
    let kind = MountKind::Tmpfs { size: None, mode: None };
    Mount { target: target.into(), kind, read_only: false }
}

fn file(target: &str) -> Mount {
    let kind = MountKind::File { contents: b"secret\n".to_vec(), mode: 0o400, uid: 0, gid: 0 };
    Mount { target: target.into(), kind, read_only: true }
}

fn directory(fixture: &Fixture, name: &str) -> std::path::PathBuf {
    let path = fixture.dir.path().join(name);
    std::fs::create_dir(&path).unwrap();
    path
}

/// A process with one mount of each kind inside of the mount of `source`.
fn nested(fixture: &Fixture, source: &Path, script: &str) -> ProcessSpec {
    let mut spec = fixture.shell(script);
    spec.mounts = vec![
        bind(source, "/cache", false),
        bind(fixture.lower.join("bin"), "/cache/bin", true),
        tmpfs("/cache/deep/memory"),
        file("/cache/deep/settings/key"),
        file("/cache/key"),
    ];
    spec
}

/// Fails where a mount is missing.
const ALL: &str = "test -x /cache/bin/busybox && grep -q ' /cache/deep/memory ' /proc/self/mountinfo && \
                   cat /cache/key /cache/deep/settings/key";

/// As runc leaves them: empty, mode 0755. What is around them keeps its times, and the next run is as the first.
fn mount_points_stay(fixture: &Fixture) {
    let source = directory(fixture, "source");
    age(&source);
    let look = |name: &str| listing(&source).iter().find(|line| line.starts_with(name)).cloned();
    let before = look(" ");
    let script = format!("{ALL} && stat -c %a /cache/deep/memory && echo x > /cache/deep/memory/x");
    let mut after = None;
    for _ in 0..3 {
        assert_eq!(fixture.output_of(nested(fixture, &source, &script)), "secret\nsecret\n1777\n");
        let now = Some(listing(&source));
        assert!(after.is_none() || after == now, "{after:?} {now:?}");
        after = now;
    }
    assert_eq!(names(&source), ["bin", "deep", "deep/memory", "deep/settings", "deep/settings/key", "key"]);
    assert_eq!(look(" "), before);
    assert!(look("bin ").unwrap().starts_with("bin 40755 "));
    let key = look("key ").unwrap();
    assert!(key.starts_with("key 100755 ") && key.ends_with(" []"), "{key}");
    // Without those mounts they are what there is.
    let mut spec = fixture.shell("ls /cache /cache/bin /cache/deep/memory; wc -c < /cache/key");
    spec.mounts = vec![bind(&source, "/cache", false)];
    let seen = "/cache:\nbin\ndeep\nkey\n\n/cache/bin:\n\n/cache/deep/memory:\n0\n";
    assert_eq!(fixture.output_of(spec), seen);
    assert_eq!(names(&fixture.upper), [""; 0]);
    // A directory that is somebody's own gives its mode to what is mounted there.
    let own = source.join("own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("x"), "").unwrap();
    let mut spec = fixture.shell("stat -c %a /cache/own");
    spec.mounts = vec![bind(&source, "/cache", false), tmpfs("/cache/own")];
    assert_eq!(fixture.output_of(spec), "755\n");
}

/// Whoever ends first made the mount points, and the other one's mounts stay.
fn others_keep_theirs(fixture: &Fixture) {
    let other = Fixture::new(fixture.identity.clone());
    for copies in [false, true] {
        let source = directory(fixture, &format!("source-{copies}"));
        let spec = |of: &Fixture, own: &str, awaited: &str| {
            let wait = format!("touch /cache/{own}; until test -e /cache/{awaited}; do usleep 5000; done");
            let mut spec = nested(of, &source, &format!("{wait}; {ALL}"));
            if copies {
                spec.rootfs = Rootfs::Directory(of.lower.clone());
            }
            spec
        };
        let before = names(&fixture.lower);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| fixture.output_of(spec(fixture, "first", "second")));
            eventually("the first runs", || source.join("first").exists() || first.is_finished());
            let second = scope.spawn(|| other.output_of(spec(&other, "second", "go")));
            let ended = first.join();
            std::fs::write(source.join("go"), "").unwrap();
            assert_eq!(
                (ended.unwrap().as_str(), second.join().unwrap().as_str()),
                ("secret\nsecret\n", "secret\nsecret\n")
            );
        });
        assert_eq!(names(&fixture.lower), before);
        assert_eq!((names(&fixture.upper), names(&other.upper)), (vec![], vec![]));
    }
}

/// Nobody minds who makes a mount point first.
fn made_at_once(fixture: &Fixture) {
    let others: Vec<Fixture> = (0..3).map(|_| Fixture::new(fixture.identity.clone())).collect();
    for round in 0..6 {
        let source = directory(fixture, &format!("source-{round}"));
        std::thread::scope(|scope| {
            for one in others.iter().chain([fixture]) {
                let source = &source;
                scope.spawn(move || {
                    for _ in 0..3 {
                        assert_eq!(one.output_of(nested(one, source, ALL)), "secret\nsecret\n");
                    }
                });
            }
        });
        assert_eq!(names(&source).len(), 6);
    }
}

/// Who may make something in a directory need not be the one who may set its times.
fn directory_of_another(fixture: &Fixture) {
    let name = format!("{}-key", fixture.dir.path().file_name().unwrap().display());
    let mut spec = fixture.shell("cat /cache/*-key");
    spec.mounts = vec![bind("/tmp", "/cache", false), file(&format!("/cache/{name}"))];
    let output = Recorder::default();
    let ran = fixture.run_with(spec, &output);
    std::fs::remove_file(Path::new("/tmp").join(name)).unwrap();
    assert_eq!((ran.unwrap().status.code(), output.text(OutputStream::Stdout)), (0, "secret\n".to_owned()));
}

/// A link in a shared mount may lead out of it.
fn those_of_the_root_go(fixture: &Fixture) {
    let source = directory(fixture, "source");
    std::os::unix::fs::symlink("/srv/new", source.join("link")).unwrap();
    let before = listing(&source);
    let mut spec = fixture.shell("cat /srv/new/key");
    spec.mounts = vec![bind(&source, "/cache", false), file("/cache/link/key")];
    assert_eq!(fixture.output_of(spec), "secret\n");
    assert_eq!(names(&fixture.upper), [""; 0]);
    assert_eq!(listing(&source), before);
}
