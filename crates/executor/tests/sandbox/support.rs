//! What every case needs: a root file system of busybox, and a way to run things in it.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use executor::{
    Error, Executor, Identity, Mount, MountKind, Outcome, OutputSink, OutputStream, ProcessSpec, Rootfs,
    Sandbox,
};

/// One test.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) run: fn(&Fixture),
}

/// Who can run it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// More than one user id.
    Ids,
    /// The machine's root.
    Root,
    /// A machine that hides a part of `/proc`.
    MaskedProc,
}

/// Collects output, with the time of each piece.
#[derive(Default)]
pub(crate) struct Recorder {
    pieces: Mutex<Vec<(OutputStream, Vec<u8>, Instant)>>,
}

impl OutputSink for Recorder {
    fn write(&self, stream: OutputStream, bytes: &[u8]) {
        self.pieces.lock().unwrap().push((stream, bytes.to_owned(), Instant::now()));
    }
}

impl Recorder {
    pub(crate) fn bytes(&self, of: OutputStream) -> Vec<u8> {
        let pieces = self.pieces.lock().unwrap();
        pieces.iter().filter(|(stream, ..)| *stream == of).flat_map(|(_, bytes, _)| bytes.clone()).collect()
    }

    pub(crate) fn text(&self, of: OutputStream) -> String {
        String::from_utf8(self.bytes(of)).unwrap()
    }

    /// When output that ends with this text came.
    pub(crate) fn time_of(&self, text: &str) -> Option<Instant> {
        let pieces = self.pieces.lock().unwrap();
        pieces
            .iter()
            .find(|(_, bytes, _)| String::from_utf8_lossy(bytes).contains(text))
            .map(|(.., time)| *time)
    }
}

/// A directory with a root file system, gone at the end.
pub(crate) struct Fixture {
    pub(crate) identity: Identity,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) lower: PathBuf,
    pub(crate) upper: PathBuf,
    pub(crate) sandbox: Sandbox,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Fixture {
    pub(crate) fn new(identity: Identity) -> Self {
        let dir = tempfile::Builder::new().prefix("executor-test-").tempdir().unwrap();
        // Other users walk through it.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let lower = dir.path().join("lower");
        let upper = dir.path().join("upper");
        for name in ["bin", "etc", "root", "tmp", "proc", "sys", "dev"] {
            std::fs::create_dir_all(lower.join(name)).unwrap();
        }
        std::fs::set_permissions(lower.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let busybox = "/bin/busybox";
        std::fs::copy(busybox, lower.join("bin/busybox")).expect("busybox-static is installed");
        let applets = std::process::Command::new(busybox).arg("--list").output().unwrap().stdout;
        for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", lower.join("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/srv/web:/bin/sh\n";
        std::fs::write(lower.join("etc/passwd"), passwd).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let sandbox = Sandbox::new();
        Self { identity, dir, lower, upper, sandbox, runtime }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.identity == Identity::Root
    }

    /// An overlay of the root file system.
    pub(crate) fn overlay(&self) -> Rootfs {
        Rootfs::Overlay {
            lower: vec![self.lower.clone()],
            upper: self.upper.clone(),
            work: self.dir.path().join("work"),
            userxattr: self.identity.needs_userxattr(),
            volatile: false,
        }
    }

    pub(crate) fn spec(&self, args: &[&str]) -> ProcessSpec {
        let mut spec = ProcessSpec::new(self.overlay(), args.iter().copied());
        spec.env.push(("PATH".into(), "/bin".into()));
        spec
    }

    pub(crate) fn shell(&self, script: &str) -> ProcessSpec {
        self.spec(&["/bin/sh", "-c", script])
    }

    pub(crate) fn run_with(&self, spec: ProcessSpec, output: &Recorder) -> Result<Outcome, Error> {
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(180), self.sandbox.run(spec, output))
                .await
                .expect("hangs")
        })
    }

    /// Runs and returns code, output and errors.
    pub(crate) fn run(&self, spec: ProcessSpec) -> (i32, String, String) {
        let recorder = Recorder::default();
        let outcome = self.run_with(spec, &recorder).unwrap();
        (outcome.status.code(), recorder.text(OutputStream::Stdout), recorder.text(OutputStream::Stderr))
    }

    /// Runs a script that must succeed; returns its output.
    pub(crate) fn output(&self, script: &str) -> String {
        self.output_of(self.shell(script))
    }

    pub(crate) fn output_of(&self, spec: ProcessSpec) -> String {
        let (code, stdout, stderr) = self.run(spec);
        assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
        stdout
    }

    pub(crate) fn error(&self, spec: ProcessSpec) -> Error {
        self.run_with(spec, &Recorder::default()).unwrap_err()
    }
}

/// A bind mount.
pub(crate) fn bind(source: impl Into<PathBuf>, target: &str, read_only: bool) -> Mount {
    Mount { target: target.into(), kind: MountKind::Bind { source: source.into() }, read_only }
}

/// A path below a directory, with type, mode, owner, mtime and content: what an export would see.
pub(crate) fn listing(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let mut line = format!(
            "{} {:o} {}:{} {}.{}",
            path.strip_prefix(dir).unwrap().display(),
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        );
        if metadata.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_file() && metadata.len() < 4096 {
            line.push_str(&format!(" {:?}", std::fs::read(&path).unwrap()));
        }
        lines.push(line);
    }
    lines.sort();
    lines
}

/// Names below a directory.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = listing(dir)
        .iter()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// Gives a path a time in the past.
pub(crate) fn age(path: &Path) {
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// Processes whose command line has this argument.
pub(crate) fn processes_with(argument: &str) -> Vec<OsString> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|found| found == argument.as_bytes())
        })
        .map(|path| path.file_name().unwrap().to_owned())
        .collect()
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        // Longer than it takes on a machine that does much else.
        assert!(begin.elapsed() < Duration::from_secs(120), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
