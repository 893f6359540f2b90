//! The same attempts in this sandbox and in other runtimes, beside each other. Each case prints a table.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use executor::{Network, ProcessSpec};

use crate::calls::{CALLS, calling};
use crate::escapes::{Victim, abstract_socket, attempts, own_matters};
use crate::support::{Case, Fixture, Needs};
use crate::{binary, reference};

pub(crate) const CASES: &[Case] = &[
    Case { name: "beside::by_files", needs: Needs::Root, run: by_files },
    Case { name: "beside::by_calls", needs: Needs::Root, run: by_calls },
    Case { name: "beside::by_abstract_sockets", needs: Needs::Root, run: by_abstract_sockets },
    Case { name: "beside::by_own_binary", needs: Needs::Root, run: by_own_binary },
];

/// Those that this machine has: runc, and perhaps crun.
fn runtimes() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    let find =
        |name: &str| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    std::iter::once(find("runc").expect("runc is installed")).chain(find("crun")).collect()
}

/// What attempts came to, by their names: here, then in each of the runtimes.
struct Table {
    columns: Vec<String>,
    rows: Vec<(String, Vec<Option<String>>)>,
}

impl Table {
    fn new() -> Self {
        Self { columns: Vec::new(), rows: Vec::new() }
    }

    /// Runs the same here and there. Of what it prints, each line is an attempt with its end.
    fn of(fixture: &Fixture, spec: &ProcessSpec) -> Self {
        let mut table = Self::new();
        table.add("here", &fixture.run(spec.clone()).1);
        for runtime in runtimes() {
            let ran = reference::run(&runtime, fixture, spec.clone(), |_| ());
            table.add_run(&runtime, &ran);
        }
        table
    }

    fn add(&mut self, column: &str, output: &str) {
        for line in output.lines() {
            let Some((name, end)) = line.rsplit_once(": ") else { continue };
            let place = self.rows.iter().position(|(row, _)| row == name).unwrap_or_else(|| {
                self.rows.push((name.to_owned(), Vec::new()));
                self.rows.len() - 1
            });
            let ends = &mut self.rows[place].1;
            ends.resize(self.columns.len(), None);
            ends.push(Some(end.to_owned()));
        }
        self.columns.push(column.to_owned());
        self.rows.iter_mut().for_each(|(_, ends)| ends.resize(self.columns.len(), None));
    }

    fn add_run(&mut self, runtime: &Path, ran: &Output) {
        assert!(!ran.stdout.is_empty(), "{runtime:?}: {}", String::from_utf8_lossy(&ran.stderr));
        self.add(&name_of(runtime), &String::from_utf8_lossy(&ran.stdout));
    }

    fn print(&self, what: &str) {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(what.len());
        let row = |name: &str, ends: &mut dyn Iterator<Item = &str>| {
            let ends: String = ends.map(|end| format!("  {end:24}")).collect();
            println!("{}", format!("{name:width$}{ends}").trim_end());
        };
        row(what, &mut self.columns.iter().map(String::as_str));
        for (name, ends) in &self.rows {
            row(name, &mut ends.iter().map(|end| end.as_deref().unwrap_or("-")));
        }
    }
}

fn name_of(runtime: &Path) -> String {
    runtime.file_name().unwrap().to_string_lossy().into_owned()
}

/// What succeeds here succeeds there.
fn by_files(fixture: &Fixture) {
    let victim = Victim::of(fixture);
    let table = Table::of(fixture, &fixture.shell(&attempts(fixture, &victim)));
    table.print("by files");
    for (name, ends) in table.rows.iter().filter(|(name, _)| !own_matters(name)) {
        let succeeded = |end: &Option<String>| end.as_deref() == Some("succeeded");
        assert!(!succeeded(&ends[0]) || ends.iter().all(succeeded), "{name}: {ends:?}");
    }
}

/// Each call has the same error.
fn by_calls(fixture: &Fixture) {
    let table = Table::of(fixture, &calling(fixture));
    table.print("by calls: number of the error");
    assert_eq!(table.rows.len(), CALLS.len());
    for (name, ends) in &table.rows {
        assert!(ends.iter().all(|end| *end == ends[0]), "{name}: {ends:?}");
    }
}

fn by_abstract_sockets(fixture: &Fixture) {
    let (_listener, mut spec) = abstract_socket(fixture);
    for (network, expected) in [(Network::None, "refused"), (Network::Host, "reached")] {
        spec.network = network;
        let table = Table::of(fixture, &spec);
        table.print(&format!("network {network:?}"));
        assert!(table.rows[0].1.iter().all(|end| end.as_deref() == Some(expected)), "{expected}");
    }
}

/// Loaded into the runtime's own program when that is executed inside.
const PRELOADED: &str = r#"
    #include <fcntl.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <unistd.h>
    __attribute__((constructor)) static void attempt(void) {
        char script[256];
        snprintf(script, sizeof script, "if error=$( (echo overwritten > /proc/self/fd/%d) 2>&1); \
            then echo own binary: succeeded; else echo own binary: ${error##*: }; fi", open("/proc/self/exe", O_RDONLY));
        unsetenv("LD_PRELOAD");
        execl("/bin/sh", "sh", "-c", script, NULL);
    }
"#;

/// CVE-2019-5736: the program that is to be run is the runtime's own, with a library of the image. Copies of the runtimes take part.
fn by_own_binary(fixture: &Fixture) {
    let source = fixture.dir.path().join("preloaded.c");
    std::fs::write(&source, PRELOADED).unwrap();
    let library = fixture.lower.join("preloaded.so");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(compiled.success());
    let copy = |program: &Path| {
        let copy = fixture.dir.path().join(name_of(program));
        std::fs::copy(program, &copy).unwrap();
        copy
    };
    // Without a sandbox it is overwritten.
    let id = copy(Path::new("/usr/bin/id"));
    let output = Command::new(&id).env("LD_PRELOAD", &library).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "own binary: succeeded\n");
    assert_eq!(std::fs::read(&id).unwrap(), b"overwritten\n");

    let mut spec = binary::own(fixture, &[]);
    spec.env.push(("LD_PRELOAD".into(), "/preloaded.so".into()));
    let mut table = Table::new();
    let (_, output, errors) = fixture.run(spec.clone());
    table.add("here", &output);
    for runtime in runtimes() {
        let copied = copy(&runtime);
        let ran = reference::run(&copied, fixture, spec.clone(), |_| ());
        table.add_run(&runtime, &ran);
        assert_eq!(std::fs::read(&copied).unwrap(), std::fs::read(&runtime).unwrap());
    }
    table.print("CVE-2019-5736");
    assert_eq!(table.rows[0].1[0].as_deref(), Some("Read-only file system"), "{errors}");
}
