//! Dockerfiles in, advice out. `testdata/insight/advice/X.Dockerfile` is the input, `X.txt` beside it what is expected, written by a run
//! that fails when it is missing (and anew with `UPDATE_EXPECT=1`): read it before you keep it. Comments at the top list the files
//! of the context, with their sizes in bytes: `#> src/main.c 1000`. Without any, nothing is known of the context.

mod checked;
mod invented;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use insight::{ListedFile, Listing};
use parser::Diagnostic;
use proptest::prelude::*;

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

/// Pieces of which commands and instructions are made.
const PIECES: [&str; 48] = [
    "\nRUN ",
    "\nCOPY ",
    "\nADD ",
    "\nWORKDIR ",
    "\nARG ",
    "\nENV ",
    "\nUSER ",
    "\nFROM x AS y\n",
    "\nONBUILD ",
    "\nRUN <<E\n",
    "\nE\n",
    "--from=y ",
    "--mount=target=/m ",
    "--chown=1 ",
    "--link ",
    ". ",
    "./ ",
    "/ ",
    "/app ",
    "a.txt ",
    "package.json ",
    "src/ ",
    "* ",
    "$A ",
    "${A} ",
    "$(",
    ")",
    "`",
    "'",
    "\"",
    " && ",
    " || ",
    "; ",
    " | ",
    " & ",
    " > ",
    " < ",
    "\\\n",
    "apt-get ",
    "update ",
    "install ",
    "-y ",
    "npm ",
    "ci ",
    "cd ",
    "pip install -r a.txt ",
    "é",
    "[\"a\", \"b\"]",
];

fn soup() -> impl Strategy<Value = String> {
    let piece =
        prop_oneof![8 => prop::sample::select(PIECES.as_slice()).prop_map(str::to_owned), 1 => ".{0,3}"];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| format!("FROM debian AS a\n{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is written, advice is about places in the text, and every cure can be built.
    #[test]
    fn nothing_is_too_strange(text in soup(), is_listed in any::<bool>()) {
        let files = ["a.txt", "package.json", "src/a", "src/b", "big/x"];
        let listing = Listing::new(files.map(|path| ListedFile { path: path.to_owned(), size: 20_000_000, link: false }));
        let listing = is_listed.then_some(&listing);
        if let Ok(findings) = checked::check(&text, &invented::options(), listing) {
            for finding in findings.iter().filter(|finding| finding.rule.is_some_and(|rule| insight::rule(rule).is_some())) {
                let spans = finding.related.iter().map(|related| related.span).chain([finding.span]);
                for span in spans {
                    prop_assert!(text.get(span.range()).is_some(), "{finding:?}");
                }
                if finding.rule == Some("CopyBeforeExpensiveRun") {
                    let cure = finding.help.as_deref().unwrap_or_default().lines().skip(1);
                    let cure = cure.map(|line| line.trim_start().to_owned() + "\n").collect::<String>();
                    let parsed = parser::parse(&format!("FROM debian\n{cure}"));
                    prop_assert!(!parsed.has_errors(), "{cure}\n{:?}", parsed.diagnostics);
                }
            }
        }
    }
}

/// Nobody waits for advice, however long a file is.
#[test]
fn long_files_take_no_time() {
    let repeated = |line: &dyn Fn(usize) -> String| {
        let lines: String = (0..1_000).map(line).collect();
        format!("FROM debian\nWORKDIR /app\n{lines}RUN true\nLABEL x=$A0\n")
    };
    let texts = [
        repeated(&|index| format!("COPY a{index} /app/\n")),
        repeated(&|_| "COPY . .\n".to_owned()),
        repeated(&|index| format!("COPY . .\nENV A{index}=1\n")),
        repeated(&|index| format!("ARG A{index}\n")),
        repeated(&|index| format!("ARG A{index}\nRUN apt-get install a{index}\n")),
        repeated(&|_| "RUN apt-get update\n".to_owned()),
        format!("FROM debian\nCOPY . /app\nRUN {}\n", "$(`\"'".repeat(100_000)),
        format!("FROM debian\nCOPY . /app\nRUN {}\n", "apt-get update && ".repeat(50_000)),
    ];
    let files = (0..20_000).map(|index| ListedFile {
        path: format!("d{}/f{index}", index % 100),
        size: 1_000,
        link: false,
    });
    let listing = Listing::new(files);
    for text in texts {
        let parsed = parser::parse(&text);
        let Ok(plan) = invented::plan(&parsed, &invented::options()) else { continue };
        let checks = frontend::Checks::default();
        let subject = insight::Subject {
            source: &text,
            parsed: &parsed,
            plan: &plan,
            context: Some(&listing),
            checks: &checks,
        };
        let start = Instant::now();
        let found = insight::advise(&subject).len();
        let took = start.elapsed();
        // Tests are not optimised, and other tests run beside them.
        assert!(took < Duration::from_secs(5), "{took:?} for {found} findings in {}…", &text[..40]);
    }
}
