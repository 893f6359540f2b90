//! The cases of the language: `testdata/language/*.cases`, see `tests/language.rs` for their form.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Context, run};

/// One case, as it stands in its file.
#[derive(Clone, Default)]
pub struct Case {
    /// Its name, which no other case has.
    pub name: String,
    context: Option<String>,
    /// Build arguments, `NAME=VALUE`.
    pub args: Vec<String>,
    ignore: Vec<String>,
    /// What the Dockerfile is called, if not `Dockerfile`.
    pub file: Option<String>,
    /// The stage that is built, if not the last.
    pub target: Option<String>,
    /// The platform for which.
    pub platform: Option<String>,
    /// The directory of the context that is given out on the loopback, see [`crate::Served`].
    pub served: Option<String>,
    /// How the context is given, if not as a directory: `tar`, `dockerfile`, `http` or `git`.
    pub given: Option<String>,
    /// Labels of the command line, `NAME=VALUE`.
    pub labels: Vec<String>,
    named: Vec<String>,
    secrets: Vec<String>,
    /// The beginning of the row of docs/differences.md that says why BuildKit gives something else.
    pub differs: Option<String>,
    /// The Dockerfile.
    pub dockerfile: String,
    /// What it must give.
    pub expect: String,
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/language")
}

impl Case {
    /// The files with cases, in the order of their names.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub fn files() -> Vec<PathBuf> {
        let entries = fs::read_dir(testdata()).expect("list the cases");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "cases"));
        files.sort();
        files
    }

    /// The cases of a file.
    ///
    /// # Panics
    /// When it cannot be read, or is not in its form.
    pub fn read(path: &Path) -> Vec<Case> {
        let text = fs::read_to_string(path).expect("read the cases");
        let blocks = text.split("=== ").skip(1);
        blocks.map(|block| parse_case(block, path)).collect()
    }

    /// Writes the cases of a file anew.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(path: &Path, cases: &[Case]) {
        let mut text = String::new();
        for case in cases {
            let _ = writeln!(text, "=== {}", case.name);
            let mut line = |key: &str, value: &String| {
                let _ = writeln!(text, "{key}: {value}");
            };
            case.context.iter().for_each(|value| line("context", value));
            case.args.iter().for_each(|value| line("arg", value));
            case.ignore.iter().for_each(|value| line("ignore", value));
            case.file.iter().for_each(|value| line("file", value));
            case.target.iter().for_each(|value| line("target", value));
            case.platform.iter().for_each(|value| line("platform", value));
            case.served.iter().for_each(|value| line("served", value));
            case.given.iter().for_each(|value| line("given", value));
            case.labels.iter().for_each(|value| line("label", value));
            case.named.iter().for_each(|value| line("named", value));
            case.secrets.iter().for_each(|value| line("secret", value));
            case.differs.iter().for_each(|value| line("differs", value));
            let _ = writeln!(text, "--- Dockerfile\n{}--- expect\n{}", case.dockerfile, case.expect);
        }
        fs::write(path, text).expect("write the cases");
    }

    /// The context, with the Dockerfile in it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn prepare(&self) -> Context {
        let context = Context::new(&self.dockerfile);
        if let Some(name) = &self.file {
            fs::remove_file(context.path().join("Dockerfile")).expect("remove a file");
            context.write(name, &self.dockerfile);
        }
        if let Some(name) = &self.context {
            let script = testdata().join("contexts").join(format!("{name}.sh"));
            run(Command::new("sh").arg("-e").arg(script).current_dir(context.path())).ok();
        }
        if !self.ignore.is_empty() {
            context.write(".dockerignore", self.ignore.join("\n") + "\n");
        }
        context
    }

    /// The build arguments as words of a command line.
    pub fn build_args(&self) -> impl Iterator<Item = String> {
        self.args.iter().map(|arg| format!("--build-arg={arg}"))
    }

    /// Whether its Dockerfile, context and build arguments are all there is to it.
    pub fn is_plain(&self) -> bool {
        let others = [&self.file, &self.target, &self.platform, &self.served, &self.given];
        others.iter().all(|other| other.is_none())
            && [&self.labels, &self.named, &self.secrets].iter().all(|list| list.is_empty())
    }

    /// The secrets as files of a directory, by name.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn secrets(&self, dir: &Path) -> Vec<(&str, PathBuf)> {
        let written = self.secrets.iter().map(|secret| {
            let (name, value) = secret.split_once('=').expect("a secret has a value");
            let path = dir.join(format!("secret.{name}"));
            fs::write(&path, value).expect("write a secret");
            (name, path)
        });
        written.collect()
    }

    /// The named contexts: name and directory.
    ///
    /// # Panics
    /// When one is not in its form.
    pub fn named<'a>(&'a self, context: &'a Context) -> impl Iterator<Item = (&'a str, PathBuf)> {
        let pairs = self.named.iter().map(|named| named.split_once('=').expect("a context has a directory"));
        pairs.map(|(name, dir)| (name, context.path().join(dir)))
    }

    /// What stands on the command line of our builder. `dir` takes what has to be written for that.
    ///
    /// # Panics
    /// When that cannot be written.
    pub fn flags(&self, context: &Context, dir: &Path) -> Vec<String> {
        let mut flags: Vec<String> = self.build_args().collect();
        // This name is found without being told.
        let file = self.file.iter().filter(|name| *name != "dockerfile");
        flags.extend(file.map(|name| format!("--file={}", context.path().join(name).display())));
        flags.extend(self.target.iter().map(|name| format!("--target={name}")));
        flags.extend(self.platform.iter().map(|platform| format!("--platform={platform}")));
        flags.extend(self.labels.iter().map(|label| format!("--label={label}")));
        let named = self.named(context);
        flags.extend(named.map(|(name, dir)| format!("--build-context={name}={}", dir.display())));
        let secrets = self.secrets(dir).into_iter();
        flags.extend(secrets.map(|(name, path)| format!("--secret=id={name},src={}", path.display())));
        flags
    }
}

fn parse_case(block: &str, path: &Path) -> Case {
    let wrong = || panic!("{}: a case is not in its form: {block}", path.display());
    let (head, rest) = block.split_once("--- Dockerfile\n").unwrap_or_else(wrong);
    let (dockerfile, expect) = rest.split_once("--- expect\n").unwrap_or_else(wrong);
    let mut lines = head.lines();
    let mut case = Case {
        name: lines.next().unwrap_or_default().to_owned(),
        dockerfile: dockerfile.to_owned(),
        expect: expect.trim_end_matches('\n').to_owned() + "\n",
        ..Case::default()
    };
    for line in lines {
        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{}: {line}", case.name));
        let value = value.to_owned();
        match key {
            "context" => case.context = Some(value),
            "arg" => case.args.push(value),
            "ignore" => case.ignore.push(value),
            "file" => case.file = Some(value),
            "target" => case.target = Some(value),
            "platform" => case.platform = Some(value),
            "served" => case.served = Some(value),
            "given" => case.given = Some(value),
            "label" => case.labels.push(value),
            "named" => case.named.push(value),
            "secret" => case.secrets.push(value),
            "differs" => case.differs = Some(value),
            _ => panic!("{}: {key}", case.name),
        }
    }
    case
}

/// Does something with each, two at a time: as many as the smallest machine has processors. `work` is told which of the
/// two it is.
///
/// # Panics
/// When `work` does.
pub fn in_parallel<T: Send>(items: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
    let next = AtomicUsize::new(0);
    let cells: Vec<Mutex<&mut T>> = items.iter_mut().map(Mutex::new).collect();
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (next, cells, work) = (&next, &cells, &work);
            scope.spawn(move || {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(worker, &mut cell.lock().expect("an item"));
                }
            });
        }
    });
}
