//! Findings in a Dockerfile, drawn with the lines that they are about.

use std::fmt::Write as _;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use parser::{Diagnostic, Severity};

/// Draws findings one after the other: line and column, the line itself, a caret, what was expected.
pub(crate) fn render(findings: &[Diagnostic], source: &str, path: &str) -> String {
    let width =
        terminal_size::terminal_size_of(std::io::stderr()).map_or(140, |(width, _)| usize::from(width.0));
    let renderer = Renderer::styled().decor_style(DecorStyle::Ascii).term_width(width.max(40));
    let mut text = String::new();
    for finding in findings {
        let _ = writeln!(text, "{}\n", render_one(finding, source, path, &renderer));
    }
    text
}

fn render_one(finding: &Diagnostic, source: &str, path: &str, renderer: &Renderer) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut snippet = Snippet::source(source).path(path).annotation(
        AnnotationKind::Primary.span(clamp(finding.span.range(), source)).label(finding.label.as_str()),
    );
    for related in &finding.related {
        let span = clamp(related.span.range(), source);
        snippet = snippet.annotation(AnnotationKind::Context.span(span).label(related.text.as_str()));
    }
    let mut title = level.primary_title(finding.message.as_str());
    if let Some(rule) = finding.rule {
        title = title.id(rule);
    }
    let mut group = title.element(snippet);
    for note in &finding.notes {
        group = group.element(Level::NOTE.message(note.as_str()));
    }
    if let Some(help) = &finding.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    renderer.render(&[group])
}

/// The line in which a span begins, 1-based.
pub(crate) fn line(source: &str, span: parser::Span) -> usize {
    1 + source.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
}

/// Keeps a span within the text: a finding about the end of the file may point behind it.
fn clamp(range: std::ops::Range<usize>, source: &str) -> std::ops::Range<usize> {
    let within = |mut at: usize| {
        at = at.min(source.len());
        while !source.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    within(range.start)..within(range.end)
}

/// The lines around an instruction, those of the instruction marked, as BuildKit shows them.
pub(crate) fn excerpt(source: &str, path: &str, lines: (u32, u32)) -> String {
    const AROUND: u32 = 2;
    let (first, last) = lines;
    let shown = first.saturating_sub(AROUND).max(1)..=last.saturating_add(AROUND);
    let mut text = format!("{path}:{first}\n--------------------\n");
    for (number, line) in (1..).zip(source.lines()) {
        if !shown.contains(&number) {
            continue;
        }
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        let _ = writeln!(text, "{number:4} | {mark} {line}");
    }
    text.push_str("--------------------\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use parser::Span;

    #[test]
    fn shows_place_line_caret_and_expectation() {
        let source = "FROM busybox\nCOYP a b\n";
        let finding =
            Diagnostic::error(Span::new(13, 17), "unknown instruction COYP").with_label("did you mean COPY?");
        let text = anstream::adapter::strip_str(&render(&[finding], source, "Dockerfile")).to_string();
        assert!(text.contains("Dockerfile:2:1"), "{text}");
        assert!(text.contains("2 | COYP a b"), "{text}");
        assert!(text.contains("  | ^^^^ did you mean COPY?"), "{text}");
    }

    #[test]
    fn places_behind_the_end_do_not_panic() {
        let finding = Diagnostic::error(Span::new(100, 200), "x");
        render(&[finding], "é", "Dockerfile");
    }

    #[test]
    fn excerpt_marks_the_instruction() {
        let source = "FROM a\nRUN x \\\n  y\nRUN z\nRUN 1\nRUN 2\n";
        let text = excerpt(source, "Dockerfile", (2, 3));
        assert!(text.starts_with("Dockerfile:2\n"), "{text}");
        assert!(
            text.contains("   1 |     FROM a\n   2 | >>> RUN x \\\n   3 | >>>   y\n   4 |     RUN z\n"),
            "{text}"
        );
        assert!(!text.contains("RUN 2"), "{text}");
    }
}
