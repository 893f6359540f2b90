//! What `docs/dockerfile.md` and `docs/differences.md` promise about the tests, checked.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// A row of a table: where it stands, and its cells.
struct Row {
    place: String,
    cells: Vec<String>,
}

/// The rows of all tables of a page, without their heads.
fn rows(page: &str) -> Vec<Row> {
    let text = read(page);
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: &str| line.starts_with("|--");
    let mut rows = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let is_head = lines.get(index + 1).is_some_and(|next| is_rule(next));
        if !line.starts_with('|') || is_rule(line) || is_head {
            continue;
        }
        let cells = line.replace("\\|", "\u{1}");
        let cells =
            cells.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect();
        rows.push(Row { place: format!("{page}:{}", index + 1), cells });
    }
    rows
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The cases of the language: name, and the row of the differences that it belongs to.
fn language() -> Vec<(String, Option<String>)> {
    let mut cases = Vec::new();
    for path in files("testdata/language", "cases") {
        for case in read(path).split("=== ").skip(1) {
            let head = case.split("--- Dockerfile\n").next().unwrap_or_default();
            let name = head.lines().next().unwrap_or_default().to_owned();
            let differs = head.lines().find_map(|line| line.strip_prefix("differs: "));
            cases.push((name, differs.map(str::to_owned)));
        }
    }
    cases
}

/// The files of a folder with an extension.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("list {folder}: {error}"));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// Whether a test that a page names exists: a case of the language, a file of `testdata`, or `FILE.rs: FUNCTION`.
fn exists(name: &str, language: &BTreeSet<String>) -> bool {
    if let Some((file, function)) = name.split_once(".rs: ") {
        let text = fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
        return text.contains(&format!("fn {function}("));
    }
    let path = root().join("testdata").join(name);
    language.contains(name)
        || (name.contains('/') && (path.is_file() || path.with_extension("Dockerfile").is_file()))
}

#[test]
fn every_row_about_the_language_names_its_tests() {
    let language: BTreeSet<String> = language().into_iter().map(|(name, _)| name).collect();
    let rows = rows("docs/dockerfile.md");
    let mut wrong = Vec::new();
    for Row { place, cells } in &rows {
        let tests = cells.last().map(String::as_str).unwrap_or_default();
        if quoted(tests).count() == 0 {
            wrong.push(format!("{place}: no test is named: {cells:?}"));
        }
        let missing = quoted(tests).filter(|name| !exists(name, &language));
        wrong.extend(missing.map(|name| format!("{place}: there is no {name}")));
    }
    assert!(rows.len() > 200, "{} rows", rows.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_that_differs_has_its_row() {
    let rows = rows("docs/differences.md");
    let mut wrong = Vec::new();
    for (name, differs) in language() {
        let Some(differs) = differs else { continue };
        if !rows.iter().any(|row| row.cells[0].starts_with(&differs)) {
            wrong.push(format!("{name}: no row begins with {differs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_of_cases_are_their_own() {
    let mut names: Vec<String> = language().into_iter().map(|(name, _)| name).collect();
    names.sort();
    let twice: Vec<&[String]> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

/// At least 400 beside the cases that are built.
#[test]
fn there_are_many_cases() {
    let dockerfiles = |folder: &str| files(folder, "Dockerfile").len();
    let parser = dockerfiles("testdata/parser/ok") + dockerfiles("testdata/parser/err");
    let frontend: usize =
        ["ok", "err", "lint"].iter().map(|name| dockerfiles(&format!("testdata/frontend/{name}"))).sum();
    let lines =
        |path: &PathBuf, keep: &dyn Fn(&str) -> bool| read(path).lines().filter(|line| keep(line)).count();
    let expansion: usize = files("testdata/frontend/expand", "txt")
        .iter()
        .map(|path| {
            lines(path, &|line| ["word ", "words ", "error "].iter().any(|start| line.starts_with(start)))
        })
        .sum();
    let patterns: usize =
        files("testdata/files", "txt").iter().map(|path| lines(path, &|line| line.contains('\t'))).sum();
    let sum = parser + frontend + expansion + patterns;
    println!(
        "{parser} of the parser, {frontend} of the frontend, {expansion} of expansion, {patterns} of patterns: {sum}"
    );
    println!("{} built", language().len());
    assert!(sum >= 400, "{sum} cases");
    assert!(language().len() >= 700, "{} cases of the language", language().len());
}
