//! Every file in `testdata/parser/{ok,err}` with the expectation beside it.
//!
//! To add a case, add a `NAME.Dockerfile` and run the tests with `UPDATE_EXPECTATIONS=1`, then read what was
//! written to `NAME.txt`. For files in `ok` that is the tree, for those in `err` the diagnostics.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use parser::{Diagnostic, Dockerfile, Instruction, Severity};

#[test]
fn good_files_have_the_expected_tree() {
    check("ok", |path, text, parsed| {
        assert!(!parsed.has_errors(), "{}:\n{}", path.display(), render(text, &parsed.diagnostics));
        tree(&parsed.dockerfile) + &render(text, &parsed.diagnostics)
    });
}

#[test]
fn bad_files_have_the_expected_diagnostics() {
    check("err", |path, text, parsed| {
        assert!(parsed.has_errors(), "{} has no errors", path.display());
        render(text, &parsed.diagnostics)
    });
}

/// Compares what `describe` makes of each file with the text beside it.
fn check(folder: &str, describe: impl Fn(&Path, &str, &parser::Parsed) -> String) {
    let update = env::var_os("UPDATE_EXPECTATIONS").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parser").join(folder);
    let files = dockerfiles(&folder);
    assert!(!files.is_empty(), "no files in {}", folder.display());
    let mut failures = String::new();
    for path in files {
        let bytes = fs::read(&path).unwrap();
        let (text, parsed) = parser::parse_bytes(&bytes);
        check_places(&text, &parsed);
        let actual = describe(&path, &text, &parsed);
        let expectation = path.with_extension("txt");
        let expected = fs::read_to_string(&expectation).unwrap_or_default();
        if update {
            fs::write(&expectation, &actual).unwrap();
        } else if actual != expected {
            writeln!(failures, "{}\n--- expected\n{expected}\n--- actual\n{actual}", path.display()).unwrap();
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

fn dockerfiles(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "Dockerfile")).collect();
    files.sort();
    files
}

/// Every place lies in the text, and instructions follow one another.
fn check_places(text: &str, parsed: &parser::Parsed) {
    for diagnostic in &parsed.diagnostics {
        assert!(text.get(diagnostic.span.range()).is_some(), "{diagnostic:?}");
    }
    let mut end = 0;
    for stage in &parsed.dockerfile.stages {
        let spans = stage.instructions.iter().map(|instruction| instruction.span);
        for span in std::iter::once(stage.from.span).chain(spans) {
            assert!(span.start >= end && text.get(span.range()).is_some(), "{span:?}");
            end = span.end;
        }
    }
}

fn tree(dockerfile: &Dockerfile) -> String {
    let mut out = format!("{:#?}\n", dockerfile.directives);
    for arg in &dockerfile.args {
        describe(&mut out, arg, &arg.kind);
    }
    for stage in &dockerfile.stages {
        writeln!(out, "\nstage {:?}", stage.name().unwrap_or_default()).unwrap();
        describe(&mut out, &stage.from, &stage.from.kind);
        for instruction in &stage.instructions {
            describe(&mut out, instruction, &instruction.kind);
        }
    }
    out
}

fn describe<K>(out: &mut String, instruction: &Instruction<K>, kind: &dyn std::fmt::Debug) {
    let lines = instruction.lines;
    writeln!(out, "\n{}-{} {:?} {:?}", lines.first, lines.last, instruction.span, instruction.text).unwrap();
    for comment in &instruction.comments {
        writeln!(out, "# {}", comment.text).unwrap();
    }
    writeln!(out, "{kind:#?}").unwrap();
}

/// Diagnostics as a person would see them, with line, column, the line itself and a caret.
fn render(text: &str, diagnostics: &[Diagnostic]) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let rule = diagnostic.rule.map(|rule| format!("[{rule}]")).unwrap_or_default();
        writeln!(out, "{severity}{rule}: {}", diagnostic.message).unwrap();
        mark(&mut out, text, diagnostic.span, &diagnostic.label);
        for label in &diagnostic.related {
            mark(&mut out, text, label.span, &label.text);
        }
        for note in &diagnostic.notes {
            writeln!(out, "  note: {note}").unwrap();
        }
        if let Some(help) = &diagnostic.help {
            writeln!(out, "  help: {help}").unwrap();
        }
        out.push('\n');
    }
    out
}

fn mark(out: &mut String, text: &str, span: parser::Span, label: &str) {
    let (line, column) = span.line_col(text);
    let source = text.lines().nth(line - 1).unwrap_or_default();
    let marked = text[span.range()].lines().next().unwrap_or_default().chars().count().max(1);
    let carets = "^".repeat(marked);
    writeln!(out, "{line:>4}:{column:<3} | {source}").unwrap();
    let marks = format!("         | {:column$}{carets} {label}", "", column = column - 1);
    writeln!(out, "{}", marks.trim_end()).unwrap();
}
