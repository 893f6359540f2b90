//! What callers do with the tree.

use parser::{
    Command, CopySource, Escape, Instruction, InstructionKind, Keyword, Lines, Run, Severity, parse,
};

fn only_instruction(text: &str) -> Instruction {
    let parsed = parse(&format!("FROM a\n{text}"));
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    parsed.dockerfile.stages[0].instructions[0].clone()
}

fn run(text: &str) -> Run {
    match only_instruction(text).kind {
        InstructionKind::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sole_heredoc_is_the_script_of_a_run() {
    for text in ["RUN <<EOF\nls\nEOF", "RUN --network=none 3<<EOF\nls\nEOF", "RUN \\\n  <<'EOF'\nls\nEOF"] {
        assert_eq!(run(text).script().map(|heredoc| heredoc.content.as_str()), Some("ls\n"), "{text}");
    }
    for text in
        ["RUN <<EOF python3\nls\nEOF", "RUN cat <<EOF\nls\nEOF", "RUN <<A <<B\nA\nB", "RUN [\"<<EOF\"]"]
    {
        assert!(run(text).script().is_none(), "{text}");
    }
}

#[test]
fn other_heredocs_of_a_run_are_handed_to_the_shell() {
    assert_eq!(
        run("RUN cat <<'A' <<-B \\\n  && true\n$x\nA\n\ty\n\tB").shell_text().as_deref(),
        Some("cat <<'A' <<-B   && true\n$x\nA\n\ty\nB")
    );
    assert_eq!(run("RUN  a   b").shell_text().as_deref(), Some("a   b"));
    assert_eq!(run("RUN [\"a\"]").shell_text(), None);
}

#[test]
fn leading_tabs_are_not_part_of_a_body_written_with_a_dash() {
    let copy = only_instruction("COPY <<-EOF /x\n\t\ta\n\n \tb\t\n\tEOF");
    assert_eq!(copy.heredocs()[0].body(), "a\n\n \tb\t\n");
    let copy = only_instruction("COPY <<EOF /x\n\ta\nEOF");
    assert_eq!(copy.heredocs()[0].body(), "\ta\n");
}

#[test]
fn places_are_right_across_continuations_and_comments() {
    let text = "FROM a\nCOPY --chown=$u \\\n  # a comment\n  one \\\n  tw\\\no /dest\n";
    let parsed = parse(text);
    let instruction = &parsed.dockerfile.stages[0].instructions[0];
    let InstructionKind::Copy(copy) = &instruction.kind else { panic!("{instruction:?}") };
    assert_eq!(instruction.lines, Lines { first: 2, last: 6 });
    assert_eq!(&text[copy.dest.span.range()], "/dest");
    assert_eq!(copy.dest.span.line_col(text), (6, 3));
    let [CopySource::Path(one), CopySource::Path(two)] = copy.sources.as_slice() else { panic!("{copy:?}") };
    assert_eq!(one.span.line_col(text), (4, 3));
    assert_eq!(two.text, "two");
    assert_eq!(&text[two.span.range()], "tw\\\no");
    // Inside a word that is in one piece, places are exact; else they are the word's.
    assert_eq!(&text[copy.dest.span_of(1..3).range()], "de");
    assert_eq!(two.span_of(0..1), two.span);
}

#[test]
fn line_and_column_count_characters_from_one() {
    let text = "\u{feff}FROM a\r\nCOPY ☃ ♥ \\\r\n   --ü /x\r\nENV ♥\r\n";
    let parsed = parse(text);
    let found: Vec<_> = parsed
        .diagnostics
        .iter()
        .map(|diagnostic| (diagnostic.severity, diagnostic.line_col(text)))
        .collect();
    assert_eq!(found, [(Severity::Error, (4, 6))]);
    let text = "\u{feff}FORM a\n";
    assert_eq!(parse(text).diagnostics[0].line_col(text), (1, 1));
}

#[test]
fn all_mistakes_are_reported_and_the_rest_is_kept() {
    let parsed = parse("FROM a AS 1\nRUN ok\nCOPY x\nFOO\nENV a\nFROM b\nWORKDIR /x\n");
    assert_eq!(parsed.errors().count(), 4);
    assert_eq!(parsed.dockerfile.stages.len(), 2);
    assert_eq!(parsed.dockerfile.stages[0].instructions.len(), 1);
    assert_eq!(parsed.dockerfile.stages[1].instructions.len(), 1);
}

#[test]
fn comments_above_describe_names() {
    let parsed = parse("# base the first stage\n# other thing\nFROM a AS base\n#\n# A is it\n\nARG A\n");
    let stage = &parsed.dockerfile.stages[0];
    assert_eq!(stage.from.description("base"), Some("the first stage"));
    assert_eq!(stage.from.description("bas"), None);
    assert_eq!(stage.instructions[0].description("A"), Some("is it"));
}

#[test]
fn a_trigger_can_be_parsed_again() {
    let parsed = parse("FROM a\nONBUILD COPY --chown=1 <<-A <<'B' /x/\n\ta\n\tA\nb\nB\n");
    let InstructionKind::Onbuild(onbuild) = &parsed.dockerfile.stages[0].instructions[0].kind else {
        panic!()
    };
    let again = parser::parse_instruction(&onbuild.trigger);
    assert_eq!(again.diagnostics, []);
    let again = again.instruction.unwrap();
    let first = onbuild.instruction.as_ref().unwrap();
    assert_eq!(again.text, first.text);
    let bodies = |instruction: &Instruction| -> Vec<(String, bool)> {
        instruction.heredocs().iter().map(|heredoc| (heredoc.body().into_owned(), heredoc.expand)).collect()
    };
    assert_eq!(bodies(&again), bodies(first));
    assert_eq!(bodies(&again), [("a\n".to_owned(), true), ("b\n".to_owned(), false)]);
}

#[test]
fn a_single_instruction_is_all_that_a_trigger_can_be() {
    let good = parser::parse_instruction("  run a \\\n  b\n");
    assert_eq!(good.diagnostics, []);
    assert_eq!(good.instruction.unwrap().kind.keyword(), Keyword::Run);
    for bad in ["", "# x", "FROM a", "RUN a\nRUN b", "FOO", "COPY a", "RUN <<EOF\n"] {
        assert!(
            parser::parse_instruction(bad).diagnostics.iter().any(parser::Diagnostic::is_error),
            "{bad:?}"
        );
    }
    // The escape directive of the file that made the trigger is not known any more.
    let backtick = parser::parse_instruction("# escape=`\nRUN a `\n").instruction.unwrap();
    let InstructionKind::Run(run) = backtick.kind else { panic!() };
    assert!(matches!(run.command, Command::Shell(text) if text.text == "a `"));
}

#[test]
fn the_escape_character_is_the_files_choice() {
    let parsed = parse("# escape=`\nFROM a\nENV a=b` c\\ d=e\n");
    assert_eq!(parsed.dockerfile.directives.escape, Escape::Backtick);
    let InstructionKind::Env(env) = &parsed.dockerfile.stages[0].instructions[0].kind else { panic!() };
    let pairs: Vec<_> =
        env.pairs.iter().map(|pair| (pair.key.text.as_str(), pair.value.text.as_str())).collect();
    assert_eq!(pairs, [("a", "b` c\\"), ("d", "e")]);
}

#[test]
fn every_instruction_has_a_name() {
    for keyword in Keyword::ALL {
        assert_eq!(Keyword::parse(&keyword.to_string().to_lowercase()), Some(keyword));
    }
    assert_eq!(Keyword::parse("RUNN"), None);
}
