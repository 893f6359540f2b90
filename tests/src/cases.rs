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
    /// Why BuildKit gives something else.
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
}

fn parse_case(block: &str, path: &Path) -> Case {
    let wrong = || panic!("{}: a case is not in its form: {block}", path.display());
    let (head, rest) = block.split_once("--- Dockerfile\n").unwrap_or_else(wrong);
    let (dockerfile, expect) = rest.split_once("--- expect\n").unwrap_or_else(wrong);
    let mut lines = head.lines();
    let mut case = Case {
        name: lines.next().unwrap_or_default().to_owned(),
        dockerfile: dockerfile.to_owned(),
        expect: expect.trim_end().to_owned() + "\n",
        ..Case::default()
    };
    for line in lines {
        let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{}: {line}", case.name));
        let value = value.to_owned();
        match key {
            "context" => case.context = Some(value),
            "arg" => case.args.push(value),
            "ignore" => case.ignore.push(value),
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
