//! Dockerfiles in, advice out. `testdata/insight/advice/X.Dockerfile` is the input, `X.txt` beside it what is expected, written by a run
//! that fails when it is missing (and anew with `UPDATE_EXPECT=1`): read it before you keep it. Comments at the top list the files
//! of the context, with their sizes in bytes: `#> src/main.c 1000`. Without any, nothing is known of the context.

mod checked;
mod invented;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use insight::{ListedFile, Listing};
use parser::Diagnostic;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/insight/advice");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "Dockerfile")).collect();
    cases.sort();
    cases
}

fn context(text: &str) -> Option<Listing> {
    let files: Vec<ListedFile> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#> "))
        .map(|line| {
            let (path, size) = line.split_once(' ').unwrap();
            let link = size == "link";
            ListedFile { path: path.to_owned(), size: if link { 0 } else { size.parse().unwrap() }, link }
        })
        .collect();
    (!files.is_empty()).then(|| Listing::new(files))
}

/// The advice for a text; other warnings are none of it.
fn advice(text: &str) -> Vec<Diagnostic> {
    let findings = checked::check(text, &invented::options(), context(text).as_ref()).unwrap();
    findings
        .into_iter()
        .filter(|finding| finding.rule.is_some_and(|rule| insight::rule(rule).is_some()))
        .collect()
}

fn described(text: &str) -> String {
    let mut out = String::new();
    for finding in advice(text) {
        let (line, _) = finding.line_col(text);
        let _ = writeln!(out, "line {line}: {}: {}", finding.rule.unwrap(), finding.message);
        for related in &finding.related {
            let line = related.span.line_col(text).0;
            let _ = writeln!(out, "  line {line}: {}", related.text);
        }
        for note in &finding.notes {
            let _ = writeln!(out, "  note: {note}");
        }
        if let Some(help) = &finding.help {
            let _ = writeln!(out, "  help: {help}");
        }
    }
    if out.is_empty() { "nothing\n".to_owned() } else { out }
}

#[test]
fn advice_is_as_expected() {
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() > 40, "{} cases", cases.len());
    for case in cases {
        let text = fs::read_to_string(&case).unwrap();
        let actual = described(&text);
        let expectation = case.with_extension("txt");
        let expected = fs::read_to_string(&expectation).unwrap_or_default();
        if expected == actual {
            continue;
        }
        if expected.is_empty() || std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&expectation, &actual).unwrap();
        }
        let name = case.file_name().unwrap().to_string_lossy();
        wrong.push(format!("--- {name}: expected\n{expected}+++ got\n{actual}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the help says to write cures what was found: the lines take the place of those that they are about.
#[test]
fn cures_cure() {
    let mut cured = 0;
    for case in cases() {
        let text = fs::read_to_string(&case).unwrap();
        for finding in advice(&text).iter().filter(|finding| finding.rule == Some("CopyBeforeExpensiveRun")) {
            let lines: String = finding
                .help
                .as_deref()
                .unwrap()
                .lines()
                .skip(1)
                .map(|line| format!("{}\n", line.strip_prefix("    ").unwrap()))
                .collect();
            let end = finding.related.iter().map(|related| related.span.end).max().unwrap();
            let better = format!("{}{lines}{}", &text[..finding.span.start], &text[end..]);
            let left = advice(&better);
            let again = left.iter().any(|finding| finding.rule == Some("CopyBeforeExpensiveRun"));
            assert!(!again, "{}: {left:#?}\n{better}", case.display());
            cured += 1;
        }
    }
    assert!(cured > 15, "{cured}");
}
