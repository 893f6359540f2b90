use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::{Expanded, Expander};

/// Runs a file of cases; its first lines say how it is written.
fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/frontend/expand").join(name);
    let text = std::fs::read_to_string(&path).expect("the cases are there");
    let mut how = Expander::new('\\');
    let mut variables = BTreeMap::new();
    let mut last = Expanded::default();
    for (index, line) in text.lines().enumerate() {
        let at = format!("{name}:{}: {line}", index + 1);
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (input, expected) = rest.split_once(" →").unwrap_or((rest, ""));
        let expected = expected.strip_prefix(' ').unwrap_or(expected);
        match kind {
            "" | "#" => {}
            "set" => {
                let (name, value) = rest.split_once('=').expect(&at);
                variables.insert(name.to_owned(), serde_json::from_str::<String>(value).expect(&at));
            }
            "unset" => drop(variables.remove(rest)),
            "escape" => how = Expander::new(rest.chars().next().expect(&at)),
            "mode" if rest == "heredoc" => how = Expander::for_heredoc(),
            "mode" if rest == "display" => how = Expander::for_display('\\'),
            "word" => {
                last = how.expand(input, &variables).expect(&at);
                assert_eq!(last.text, expected, "{at}");
            }
            "words" => {
                last = how.expand(input, &variables).expect(&at);
                let expected: Vec<String> = serde_json::from_str(expected).expect(&at);
                assert_eq!(last.words, expected, "{at}");
            }
            "error" => {
                let error = how.expand(input, &variables).expect_err(&at);
                assert!(error.message.contains(expected), "{at}: {}", error.message);
                assert!(input.get(error.range.clone()).is_some(), "{at}: {:?}", error.range);
            }
            "used" => assert_eq!(last.used, rest.split_whitespace().map(str::to_owned).collect(), "{at}"),
            "missing" => assert_eq!(last.unset, rest.split_whitespace().map(str::to_owned).collect(), "{at}"),
            _ => panic!("{at}: what is that?"),
        }
    }
}

#[test]
fn words() {
    check("words.txt");
}

#[test]
fn splitting() {
    check("splitting.txt");
}

#[test]
fn operators() {
    check("operators.txt");
}

#[test]
fn backtick() {
    check("backtick.txt");
}

#[test]
fn heredoc() {
    check("heredoc.txt");
}

#[test]
fn display() {
    check("display.txt");
}

#[test]
fn hostile_nesting_is_refused() {
    let text = "${a:-".repeat(100_000);
    let error = Expander::new('\\').expand(&text, &BTreeMap::new()).unwrap_err();
    assert!(error.message.contains("nested"), "{}", error.message);
}

#[test]
fn hostile_growth_is_refused() {
    let how = Expander::new('\\');
    let variables = BTreeMap::from([("a".to_owned(), "x".repeat(1 << 20))]);
    for text in ["$a".repeat(17), format!("\"{}\"", "$a".repeat(17)), "${a//x/0123456789abcdefg}".to_owned()]
    {
        assert!(how.expand(&text, &variables).unwrap_err().message.contains("16 MiB"));
    }
}

proptest! {
    #[test]
    fn never_panics(text in r#"[$\{\}:+\-?#%/*\\'" a-cé`=]{0,40}"#, a: String, raw: bool) {
        let variables = BTreeMap::from([("a".to_owned(), a)]);
        let how = if raw { Expander::for_heredoc() } else { Expander::new('\\') };
        match how.expand(&text, &variables) {
            Ok(_) => {}
            Err(error) => prop_assert!(text.get(error.range).is_some()),
        }
    }

    #[test]
    fn plain_text_stays(text in "[a-z0-9/._=é-]{0,40}") {
        let expanded = Expander::new('\\').expand(&text, &BTreeMap::new()).unwrap();
        prop_assert_eq!(expanded.text, text);
    }
}
