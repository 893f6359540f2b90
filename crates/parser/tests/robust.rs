//! No input makes the parser panic, hang, or give places that are not in the text.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use parser::{CopySource, InstructionKind, Parsed, Word};
use proptest::prelude::*;

/// Far more than a linear parser needs without optimisation on a busy machine, far less than a quadratic one.
const PATIENCE: Duration = Duration::from_secs(60);

fn good_files() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parser/ok");
    let mut files: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"))
        .map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned())
        .collect();
    files.sort();
    files
}

/// What must hold for every text.
fn check(text: &str) -> Parsed {
    let parsed = parser::parse(text);
    if let Some(last) = parsed.diagnostics.last() {
        last.line_col(text);
    }
    for diagnostic in &parsed.diagnostics {
        assert!(text.get(diagnostic.span.range()).is_some(), "{diagnostic:?}");
        assert!(
            diagnostic.related.iter().all(|label| text.get(label.span.range()).is_some()),
            "{diagnostic:?}"
        );
        assert!(!diagnostic.message.is_empty());
    }
    assert!(parsed.has_errors() || !parsed.dockerfile.stages.is_empty());
    for stage in &parsed.dockerfile.stages {
        check_word(text, &stage.from.kind.base);
        for instruction in &stage.instructions {
            let written = &text[instruction.span.range()];
            if !written.contains('\n') {
                assert_eq!(written, instruction.text);
            }
            assert_eq!(instruction.keyword.span.start, instruction.span.start);
            for heredoc in instruction.heredocs() {
                assert_eq!(text[heredoc.content_span.range()], heredoc.content);
            }
            for word in words(&instruction.kind) {
                check_word(text, word);
            }
        }
    }
    parsed
}

/// A word of a single line without escapes stands in the file as it is.
fn check_word(text: &str, word: &Word) {
    let written = &text[word.span.range()];
    if written.len() == word.text.len() {
        assert_eq!(written, word.text);
    }
    assert!(word.text.len() <= written.len(), "{word:?}");
}

fn words(kind: &InstructionKind) -> Vec<&Word> {
    match kind {
        InstructionKind::Env(env) => env.pairs.iter().flat_map(|pair| [&pair.key, &pair.value]).collect(),
        InstructionKind::Arg(arg) => arg.names.iter().map(|name| &name.key).collect(),
        InstructionKind::Volume(volume) => volume.paths.iter().collect(),
        InstructionKind::Copy(copy) => {
            let paths = copy.sources.iter().filter_map(|source| match source {
                CopySource::Path(path) => Some(path),
                CopySource::Heredoc(_) => None,
            });
            paths.chain([&copy.dest]).collect()
        }
        InstructionKind::Workdir(workdir) => vec![&workdir.path],
        _ => Vec::new(),
    }
}

/// Lines made of the pieces that mean something.
fn dockerfile_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("FROM a\n"),
        Just("RUN "),
        Just("COPY "),
        Just("ENV "),
        Just("ARG "),
        Just("ONBUILD "),
        Just("SHELL "),
        Just("HEALTHCHECK "),
        Just("VOLUME "),
        Just("# escape=`\n"),
        Just("#"),
        Just("\\"),
        Just("`"),
        Just("\n"),
        Just("\\\n"),
        Just("\r\n"),
        Just(" "),
        Just("\t"),
        Just("<<EOF"),
        Just("<<-'A b'"),
        Just("EOF\n"),
        Just("A b\n"),
        Just("\""),
        Just("'"),
        Just("["),
        Just("]"),
        Just(","),
        Just("="),
        Just("--"),
        Just("--mount="),
        Just("--from"),
        Just("${"),
        Just("}"),
        Just("$x"),
        Just(":-"),
        Just("NONE"),
        Just("CMD"),
        Just("AS"),
        Just("ü"),
        Just("\u{a0}"),
        Just("\u{2003}"),
        Just("\u{feff}"),
        Just("\\u00e9"),
        Just("1"),
        Just("\0"),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (text, parsed) = parser::parse_bytes(&bytes);
        for diagnostic in &parsed.diagnostics {
            prop_assert!(text.get(diagnostic.span.range()).is_some());
        }
        check(&text);
        parser::parse_instruction(&text);
    }

    #[test]
    fn any_pieces(text in dockerfile_like()) {
        check(&text);
        parser::parse_instruction(&text);
    }

    #[test]
    fn good_files_with_a_piece_moved(
        file in prop::sample::select(good_files()),
        from in any::<prop::sample::Index>(),
        length in 0..30usize,
        to in any::<prop::sample::Index>(),
        delete in any::<bool>(),
    ) {
        let mut characters: Vec<char> = file.chars().collect();
        let start = from.index(characters.len());
        let end = (start + length).min(characters.len());
        let piece: Vec<char> = characters[start..end].to_vec();
        if delete {
            characters.drain(start..end);
        }
        let at = to.index(characters.len() + 1);
        characters.splice(at..at, piece);
        check(&characters.into_iter().collect::<String>());
    }
}

fn in_time(name: &str, text: &str) -> Parsed {
    let start = Instant::now();
    let parsed = check(text);
    let took = start.elapsed();
    println!("{name}: {} bytes in {took:?}", text.len());
    assert!(took < PATIENCE, "{name} took {took:?}");
    parsed
}

#[test]
fn a_line_of_five_megabytes() {
    let size = 5 << 20;
    let parsed = in_time("RUN", &format!("FROM a\nRUN {}", "x ".repeat(size / 2)));
    assert!(!parsed.has_errors());
    let parsed = in_time("continued", &format!("FROM a\nRUN x{}", " \\\n x".repeat(size / 5)));
    assert!(!parsed.has_errors());
}

/// What is most work for the grammar.
#[test]
fn long_lines_of_every_kind() {
    let size = 1 << 15;
    for piece in [
        "a ",
        "[",
        "\"",
        "'",
        "\\ ",
        "\\\"",
        "--a ",
        "--a=\"b\" ",
        "--",
        "<<",
        "<<A ",
        "${x:-",
        "$",
        "a=b ",
        "\u{2003}",
        ", ",
        "ü",
    ] {
        for name in ["ENV ", "COPY ", "RUN ", "FROM ", "SHELL [\"a", "HEALTHCHECK ", "ONBUILD ARG a", "CMD ["]
        {
            in_time(
                &format!("{name}{piece}"),
                &format!("FROM a\n{name}{}", piece.repeat(size / piece.len())),
            );
        }
    }
}

#[test]
fn a_hundred_thousand_instructions() {
    let parsed = in_time("instructions", &format!("FROM a\n{}", "COPY --from=b a b c/\n".repeat(100_000)));
    assert_eq!(parsed.dockerfile.stages[0].instructions.len(), 100_000);
    assert!(parsed.diagnostics.is_empty());
    let parsed = in_time("mistakes", &format!("FROM a\n{}", "COPPY a b\nRUN --x y\n".repeat(20_000)));
    assert_eq!(parsed.errors().count(), 40_000);
    let parsed = in_time("heredocs", &format!("FROM a\n{}", "RUN <<EOF cat\nx\nEOF\n".repeat(20_000)));
    assert_eq!(parsed.dockerfile.stages[0].instructions.len(), 20_000);
}

#[test]
fn many_flags_and_heredocs_on_one_line() {
    let mounts = "--mount=type=cache,target=/x ".repeat(20_000);
    let parsed = in_time("mounts", &format!("FROM a\nRUN {mounts} x"));
    assert!(!parsed.has_errors());
    let duplicates = "--link ".repeat(20_000);
    in_time("duplicates", &format!("FROM a\nCOPY {duplicates} a b"));
    let heredocs = "<<A ".repeat(20_000);
    let parsed = in_time("heredocs", &format!("FROM a\nCOPY {heredocs} /x/\n{}", "A\n".repeat(20_000)));
    assert!(!parsed.has_errors());
}
