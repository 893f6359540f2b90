//! What ARCHITECTURE.md promises about the code, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// The packages in crates/.
fn crates() -> Vec<Package> {
    let manifest = root().join("Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata");
    let ours = root().join("crates");
    metadata.packages.into_iter().filter(|package| package.manifest_path.starts_with(&ours)).collect()
}

/// What a package depends on, tests aside.
fn dependencies(package: &Package) -> BTreeSet<String> {
    let normal =
        package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
    normal.map(|dependency| dependency.name.clone()).collect()
}

/// The rows of the table of crates: name to dependencies.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("read ARCHITECTURE.md");
    let table = text.split_once("| crate | responsibility | depends on |").expect("the table of crates").1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let quoted =
        |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (quoted(cells[1]).into_iter().next().expect("a name in the first column"), quoted(cells[3]))
    })
    .collect()
}

#[test]
fn the_table_of_crates_is_true() {
    let packages = crates();
    let names: BTreeSet<String> = packages.iter().map(|package| package.name.to_string()).collect();
    let actual: BTreeMap<String, BTreeSet<String>> =
        packages.iter().map(|package| (package.name.to_string(), &dependencies(package) & &names)).collect();
    let written = table();
    for (name, dependencies) in &actual {
        let list: Vec<String> = dependencies.iter().map(|name| format!("`{name}`")).collect();
        assert_eq!(
            written.get(name),
            Some(dependencies),
            "ARCHITECTURE.md should say of {name} that it depends on {}",
            if list.is_empty() { "–".to_owned() } else { list.join(" ") }
        );
    }
    let unknown: Vec<_> = written.keys().filter(|name| !actual.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "ARCHITECTURE.md describes crates that do not exist: {unknown:?}");
}

#[test]
fn a_folder_has_the_name_of_its_package() {
    for package in crates() {
        let folder = package.manifest_path.parent().and_then(|dir| dir.file_name()).unwrap_or_default();
        assert_eq!(folder, package.name.as_str());
    }
}

/// External crates that stand for a resource with one owner.
const OWNED: &[(&str, &[&str])] = &[
    ("annotate-snippets", &["builder"]),
    ("clap", &["builder"]),
    ("docker_credential", &["registry"]),
    ("pest", &["parser"]),
    ("pest_derive", &["parser"]),
    ("reqwest", &["transport"]),
    ("rusqlite", &["cache"]),
    ("rustls", &["transport"]),
    ("seccompiler", &["executor"]),
    ("tar", &["exporter", "image"]),
    ("terminal_size", &["builder"]),
];

#[test]
fn resources_have_one_owner() {
    for package in crates() {
        for dependency in dependencies(&package) {
            if let Some((_, owners)) = OWNED.iter().find(|(name, _)| *name == dependency) {
                let name = package.name.as_str();
                assert!(owners.contains(&name), "{name} depends on {dependency}, which only {owners:?} may");
            }
        }
    }
}

/// What source text of a crate must not hold, tests aside.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("hash", &["std::fs", "TcpStream", "TcpListener", "UdpSocket", "std::env", "std::process", "tokio"]),
    ("parser", &["std::fs", "TcpStream", "TcpListener", "UdpSocket", "std::env", "std::process", "tokio"]),
    (
        "graph",
        &["std::fs", "TcpStream", "TcpListener", "UdpSocket", "std::env", "std::process", "tokio", "rustix"],
    ),
    (
        "frontend",
        &["std::fs", "TcpStream", "TcpListener", "UdpSocket", "std::env", "std::process", "tokio", "rustix"],
    ),
    (
        "solver",
        &[
            "std::fs",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "std::env",
            "std::process",
            "rustix",
            "tokio::fs",
        ],
    ),
    ("files", &["std::env::var", "TcpStream", "TcpListener", "UdpSocket", "std::process"]),
    ("image", &["std::env::var", "TcpStream", "TcpListener", "UdpSocket", "std::process"]),
    ("cache", &["TcpStream", "TcpListener", "UdpSocket", "std::env::var", "rustix::mount"]),
    ("exporter", &["TcpStream", "TcpListener", "UdpSocket", "std::env::var", "std::process::Command"]),
    ("worker", &["TcpStream", "TcpListener", "UdpSocket", "std::env::var", "std::process::Command"]),
    ("runtime", &["std::process::Command", "std::env::var", "rustix::mount", "println!"]),
    ("registry", &["std::process::Command", "println!"]),
    ("transport", &["std::process", "std::env::var", "println!"]),
    ("remote", &["std::env::var", "println!"]),
];

#[test]
fn crates_do_not_hold_what_they_must_not() {
    let mut found = Vec::new();
    for (name, words) in FORBIDDEN {
        for (path, text) in sources(&root().join("crates").join(name).join("src")) {
            if is_test(&path) {
                continue;
            }
            for (number, line) in code(&text) {
                found.extend(
                    words
                        .iter()
                        .filter(|word| line.contains(**word))
                        .map(|word| format!("{}:{number}: {word}", path.display())),
                );
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unsafe_is_in_one_file() {
    let allowed = root().join("crates/executor/src/sys.rs");
    for dir in ["crates", "tests", "xtask"] {
        for (path, text) in sources(&root().join(dir)) {
            let keyword = |line: &str| {
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                    .iter()
                    .any(|word| line.contains(word))
            };
            let line = code(&text).find(|(_, line)| keyword(line)).map(|(number, _)| number);
            let this_file = path.ends_with("xtask/tests/tidy.rs");
            assert!(
                path == allowed || this_file || line.is_none(),
                "unsafe in {}:{}",
                path.display(),
                line.unwrap_or(0)
            );
        }
    }
}

#[test]
fn exceptions_carry_their_reason() {
    for dir in ["crates", "tests", "xtask"] {
        // What tests share is not used by each of them: there an expectation would fail in turn.
        for (path, text) in sources(&root().join(dir)).into_iter().filter(|(path, _)| !is_test(path)) {
            let allow = text.lines().position(|line| {
                let line = line.trim_start();
                line.starts_with("#[allow(") || line.starts_with("#![allow(")
            });
            assert_eq!(
                allow,
                None,
                "{}: #[expect(lint, reason = \"…\")] instead of #[allow]",
                path.display()
            );
        }
    }
}

#[test]
fn every_part_of_the_tests_is_run() {
    let list = fs::read_to_string(root().join("xtask/src/test.rs")).expect("read the list of parts");
    for entry in fs::read_dir(root().join("tests")).expect("list tests/").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let variant = format!("    {}{},\n", name[..1].to_uppercase(), &name[1..]);
        assert!(list.contains(&variant), "tests/{name}.rs is no part of `cargo xtask test`");
    }
}

#[test]
fn files_are_of_a_size_to_read() {
    let mut long = Vec::new();
    for dir in ["crates", "tests", "xtask"] {
        for (path, text) in sources(&root().join(dir)) {
            let lines = code(&text).count();
            if !is_test(&path) && lines > 800 {
                long.push(format!("{}: {lines} lines without its tests", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// A commit is for every machine.
#[test]
fn nothing_names_one_machine() {
    let home = std::env::var("HOME").unwrap_or_default();
    for dir in ["crates", "tests", "xtask", "Dockerfiles", "benches"] {
        for (path, text) in sources(&root().join(dir)) {
            for word in [root().display().to_string(), home.clone()] {
                // A home of `/` or `/root` is in many a test that means another one.
                let telling = word.matches('/').count() > 1;
                assert!(!(telling && text.contains(&word)), "{} names {word}", path.display());
            }
        }
    }
}

/// Whether a file holds tests only.
fn is_test(path: &Path) -> bool {
    let within = path.strip_prefix(root()).unwrap_or(path);
    within.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// All Rust files below a directory with their text.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("list {}: {error}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("read a source file");
            found.push((path, text));
        }
    }
    found
}

/// The lines of code with their numbers: without comments, and only up to the file's tests.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = |line: &str| line.starts_with("#[cfg(test)]") || line.starts_with("#![cfg(test)]");
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered
        .take_while(move |(_, line)| !tests(line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// What README.md says of speed is what was measured, and what is slower than it should be has its reason.
#[test]
fn the_table_of_figures_is_the_measured_one() {
    let checked = std::process::Command::new(env!("CARGO_BIN_EXE_xtask")).args(["bench", "--check"]).output();
    let checked = checked.expect("run xtask");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
