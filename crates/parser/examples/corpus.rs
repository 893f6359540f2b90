//! Compares this parser with what BuildKit's makes of a corpus of real Dockerfiles.
//!
//! ```text
//! BUILDER_DOCKERFILE_CORPUS=DIRECTORY cargo run -p parser --example corpus
//! ```
//!
//! The directory holds the Dockerfiles and `expected.tsv`, whose columns are `file` (relative to the directory),
//! `repository`, `commit`, `outcome` (`ok`, or `refused: …`) and `instructions` (`name:first-last` for each, lines
//! counted from 1). Every instruction must be found with its lines, and what is accepted there must be accepted
//! here; what is refused there may be accepted here only if a later stage refuses it, which is listed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

use parser::{Dockerfile, Instruction, Parsed};

fn main() -> ExitCode {
    let Some(directory) = env::var_os("BUILDER_DOCKERFILE_CORPUS").map(PathBuf::from) else {
        eprintln!("BUILDER_DOCKERFILE_CORPUS must name the directory of the corpus");
        return ExitCode::FAILURE;
    };
    match compare(&directory) {
        Ok(report) => {
            report.print();
            // Nothing compared is nothing shown.
            if report.mismatches == 0 && report.instructions > 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("cannot read the corpus in {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Report {
    files: usize,
    instructions: usize,
    both_refuse: usize,
    only_they_refuse: usize,
    warnings: usize,
    mismatches: usize,
}

impl Report {
    fn print(&self) {
        println!(
            "{} files, {} instructions compared; refused by both: {}, only by BuildKit: {}; warnings: {}; mismatches: {}",
            self.files,
            self.instructions,
            self.both_refuse,
            self.only_they_refuse,
            self.warnings,
            self.mismatches
        );
    }
}

fn compare(directory: &Path) -> io::Result<Report> {
    let mut report = Report::default();
    for row in fs::read_to_string(directory.join("expected.tsv"))?.lines().skip(1) {
        let mut columns = row.split('\t');
        let file = columns.next().unwrap_or_default();
        let outcome = columns.nth(2).unwrap_or_default();
        let expected = columns.next().unwrap_or_default();
        let bytes = fs::read(directory.join(file))?;
        let (text, parsed) = parser::parse_bytes(&bytes);
        report.files += 1;
        report.warnings += parsed.diagnostics.len() - parsed.errors().count();
        match (outcome == "ok", parsed.has_errors()) {
            (true, false) => {
                let found = lines(&parsed.dockerfile);
                report.instructions += found.split(' ').count();
                if found != expected {
                    report.mismatches += 1;
                    println!("{file}: other lines\n  expected {expected}\n  found    {found}");
                }
            }
            (true, true) => {
                report.mismatches += 1;
                println!("{file}: refused only here");
                print_diagnostics(&text, &parsed);
            }
            (false, true) => {
                report.both_refuse += 1;
                println!("{file}: refused by both");
                print_diagnostics(&text, &parsed);
            }
            (false, false) => {
                report.only_they_refuse += 1;
                println!("{file}: {outcome}, accepted here");
            }
        }
    }
    Ok(report)
}

fn print_diagnostics(text: &str, parsed: &Parsed) {
    for diagnostic in parsed.errors().take(3) {
        let (line, column) = diagnostic.line_col(text);
        println!("  {line}:{column}: {}; {}", diagnostic.message, diagnostic.label);
    }
}

/// The instructions in the order of the file, as the corpus lists them.
fn lines(dockerfile: &Dockerfile) -> String {
    let mut all: Vec<String> = dockerfile.args.iter().map(one).collect();
    for stage in &dockerfile.stages {
        all.push(one(&stage.from));
        all.extend(stage.instructions.iter().map(one));
    }
    all.join(" ")
}

fn one<K>(instruction: &Instruction<K>) -> String {
    format!("{}:{}-{}", instruction.keyword.to_lowercase(), instruction.lines.first, instruction.lines.last)
}
