//! What is compared: a Dockerfile, or a build that was recorded.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cache::Store;
use insight::BuildRecord;
use serde_json::Value;

use super::Args;
use crate::Machine;
use crate::commands::history;
use crate::failure::Failure;

/// One of the two.
pub(super) enum Side {
    /// A Dockerfile; standard input too.
    Dockerfile(PathBuf),
    /// A recorded build: what `history export` wrote, or one whose name was looked up.
    Recorded(Box<BuildRecord>),
    /// A name, maybe of a recorded build.
    Named(String),
}

impl Side {
    pub(super) fn of(given: &Path) -> Result<Side, Failure> {
        let is_there = given.as_os_str() == "-" || given.exists();
        if !is_there {
            return Ok(Side::Named(given.display().to_string()));
        }
        // A pipe can be read once.
        if !given.is_file() {
            return Ok(Side::Dockerfile(given.to_owned()));
        }
        let text = fs::read(given).map_err(|error| Failure::io("read", given, &error))?;
        // No Dockerfile begins so.
        match text.trim_ascii_start().starts_with(b"{") {
            true => history::read_file(given).map(|record| Side::Recorded(Box::new(record))),
            false => Ok(Side::Dockerfile(given.to_owned())),
        }
    }

    pub(super) fn dockerfile(&self) -> Option<&Path> {
        match self {
            Side::Dockerfile(file) => Some(file),
            Side::Recorded(_) | Side::Named(_) => None,
        }
    }

    /// The build that is meant, unless it is a Dockerfile.
    pub(super) fn record(&self, store: &Store) -> Result<Option<BuildRecord>, Failure> {
        match self {
            Side::Dockerfile(_) => Ok(None),
            Side::Recorded(record) => Ok(Some((**record).clone())),
            Side::Named(name) => {
                let found = history::find(store, Some(name));
                found
                    .map(|(_, record)| Some(record))
                    .map_err(|failure| failure.hint(format!("there is no file `{name}` either")))
            }
        }
    }

    /// Looks up the build that a name means now, in a process of its own like those that build.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        let Side::Named(name) = self else { return Ok(()) };
        let program = this_program()?;
        let mut ask = Command::new(&program);
        ask.args(["history", "inspect", "--format=json", "--", name.as_str()]).stdin(Stdio::null());
        let told =
            ask.stderr(Stdio::null()).output().map_err(|error| Failure::io("start", &program, &error))?;
        *self = match BuildRecord::from_json(&told.stdout) {
            Ok(record) if told.status.success() => Side::Recorded(Box::new(record)),
            // What is wrong is said by this process: it has nothing to start any more.
            _ => {
                let store = Machine::enter()?.existing_store()?;
                self.record(&store)?;
                return Err(Failure::build("builds were recorded or removed at this moment: try again"));
            }
        };
        Ok(())
    }

    /// Builds a Dockerfile of some of whose steps nobody knows what they take. In processes of their own, which enter namespaces of their own:
    /// who has entered one cannot start a build as the user that he was.
    pub(super) fn build_unless_known(&self, args: &Args) -> Result<(), Failure> {
        let Some(file) = self.dockerfile().filter(|file| file.is_file()) else { return Ok(()) };
        let program = this_program()?;
        let start = |error: io::Error| Failure::io("start", &program, &error);
        let mut ask = Command::new(&program);
        ask.args(["compare", "--no-build", "--format=json", "--change="]).args(args.options());
        ask.arg("--").args([file, file, &args.context]).stdin(Stdio::null()).stderr(Stdio::null());
        let told = ask.output().map_err(start)?;
        // What is wrong is said once, by who asks next.
        if !told.status.success() || is_known(&told.stdout) {
            return Ok(());
        }
        let mut build = Command::new(&program);
        build.arg("build").args(args.line(file)).stdin(Stdio::null()).stdout(io::stderr());
        match build.status().map_err(start)?.success() {
            true => Ok(()),
            false => Err(Failure::build(format!("the build of {} failed", file.display()))
                .hint("--no-build compares without it; of what never ran here no times are known then")),
        }
    }
}

fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::machine(format!("find this program: {error}")))
}

/// Whether a comparison of a Dockerfile with itself knows what each step takes.
fn is_known(told: &[u8]) -> bool {
    let Ok(told) = serde_json::from_slice::<Value>(told) else { return true };
    let steps = told["orderings"][0]["steps"].as_array().into_iter().flatten();
    steps
        .into_iter()
        .all(|step| step["source"] == true || (step["milliseconds"].is_number() && step["bytes"].is_number()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_which_something_is_unknown() {
        let known = |steps: &str| is_known(format!(r#"{{"orderings":[{{"steps":[{steps}]}}]}}"#).as_bytes());
        assert!(known(r#"{"source":true,"milliseconds":null,"bytes":null}"#));
        assert!(known(r#"{"source":false,"milliseconds":1,"bytes":0}"#));
        assert!(!known(r#"{"source":false,"milliseconds":null,"bytes":0}"#));
        assert!(!known(r#"{"source":false,"milliseconds":1,"bytes":null}"#));
    }

    #[test]
    fn files_are_told_from_builds() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("A");
        assert!(matches!(Side::of(&file), Ok(Side::Named(_))));
        fs::write(&file, "FROM a\n").unwrap();
        assert_eq!(Side::of(&file).unwrap().dockerfile(), Some(&*file));
        fs::write(&file, " {}").unwrap();
        assert!(Side::of(&file).is_err(), "no record");
        assert!(Side::of(Path::new("-")).unwrap().dockerfile().is_some());
    }
}
