//! `parse`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use parser::{Diagnostic, Parsed, Severity};
use serde_json::json;

use crate::diagnostics;
use crate::failure::Failure;

/// Show how a Dockerfile is understood: its instructions with their places
///
/// Nothing is expanded or looked up. With --format=json the whole syntax tree is written, spans as byte offsets, and the findings with
/// lines and columns: for editors and other tools.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Dockerfile; `-` is standard input
    #[arg(value_name = "FILE", default_value = "Dockerfile")]
    file: PathBuf,

    /// text or json
    #[arg(long, value_enum, hide_possible_values = true, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A line for each instruction
    Text,
    /// The syntax tree
    Json,
}

pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let (path, text) = read(&args.file)?;
    let parsed = parser::parse(&text);
    let shown = match args.format {
        Format::Text => as_text(&parsed),
        Format::Json => format!("{:#}\n", as_json(&parsed, &path, &text)),
    };
    let mut out = anstream::stdout().lock();
    out.write_all(shown.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::standard_output(&error))?;
    if matches!(args.format, Format::Text) && !parsed.diagnostics.is_empty() {
        let mut errors = anstream::stderr().lock();
        // Nobody is left to be told when this fails.
        let _ = errors.write_all(diagnostics::render(&parsed.diagnostics, &text, &path).as_bytes());
    }
    Ok(u8::from(parsed.has_errors()))
}

fn read(file: &Path) -> Result<(String, String), Failure> {
    let (path, read) = match file.as_os_str() == "-" {
        true => ("standard input".to_owned(), std::io::read_to_string(std::io::stdin())),
        false => (file.display().to_string(), std::fs::read_to_string(file)),
    };
    match read {
        Ok(text) => Ok((path, text)),
        Err(error) => Err(Failure::io("read", Path::new(&path), &error)),
    }
}

fn as_text(parsed: &Parsed) -> String {
    let mut text = String::new();
    let mut line = |lines: parser::Lines, indent: &str, instruction: &str, heredocs: usize| {
        let place = match lines.first == lines.last {
            true => lines.first.to_string(),
            false => format!("{}-{}", lines.first, lines.last),
        };
        let more = match heredocs {
            0 => String::new(),
            1 => "  (1 heredoc)".to_owned(),
            count => format!("  ({count} heredocs)"),
        };
        text.push_str(&format!("{place:>9}  {indent}{instruction}{more}\n"));
    };
    for arg in &parsed.dockerfile.args {
        line(arg.lines, "", &arg.text, 0);
    }
    for stage in &parsed.dockerfile.stages {
        line(stage.from.lines, "", &stage.from.text, 0);
        for instruction in &stage.instructions {
            line(instruction.lines, "  ", &instruction.text, instruction.heredocs().len());
        }
    }
    text
}

fn as_json(parsed: &Parsed, path: &str, text: &str) -> serde_json::Value {
    let findings: Vec<_> = parsed.diagnostics.iter().map(|finding| finding_json(finding, text)).collect();
    json!({ "path": path, "dockerfile": parsed.dockerfile, "diagnostics": findings })
}

fn finding_json(finding: &Diagnostic, text: &str) -> serde_json::Value {
    let (line, column) = finding.line_col(text);
    json!({
        "severity": match finding.severity { Severity::Error => "error", Severity::Warning => "warning" },
        "rule": finding.rule,
        "message": finding.message,
        "span": finding.span,
        "line": line,
        "column": column,
        "label": finding.label,
        "related": finding.related,
        "notes": finding.notes,
        "help": finding.help,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_with_their_lines() {
        let parsed = parser::parse("ARG A\nFROM a AS b\nRUN x \\\n  y\nRUN <<E\nz\nE\n");
        assert_eq!(
            as_text(&parsed),
            "        1  ARG A\n        2  FROM a AS b\n      3-4    RUN x   y\n      5-7    RUN <<E  (1 heredoc)\n"
        );
    }

    #[test]
    fn the_tree_has_places() {
        let text = "FROM a\nCOYP x\n";
        let json = as_json(&parser::parse(text), "Dockerfile", text);
        let from = &json["dockerfile"]["stages"][0]["from"];
        assert_eq!((from["span"]["start"].as_u64(), from["span"]["end"].as_u64()), (Some(0), Some(6)));
        assert_eq!(json["diagnostics"][0]["line"], 2);
        assert_eq!(json["diagnostics"][0]["severity"], "error");
    }
}
