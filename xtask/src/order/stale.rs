//! Whether crates/builder/hot.ld names functions that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{SCRIPT, symbols};
use crate::shell::{self, Result};

/// Percent of the patterns that must match a function. Hours of changes after the list was written it was 99.7; each that matches none may cost the
/// 16 pages around what it stood for, so that a twentieth of them could take more memory than S1 is allowed over what it takes.
const ENOUGH: usize = 95;

/// Compares the list with the functions of a binary that was just linked by it. That nothing else notices: a pattern that matches nothing is no error
/// to the linker.
///
/// # Errors
/// When too many patterns match none of them.
pub(crate) fn check(binary: &Path) -> Result {
    let script = fs::read_to_string(shell::root().join(SCRIPT))?;
    let symbols = symbols(binary)?;
    let known: BTreeSet<&str> = symbols.keys().map(String::as_str).collect();
    let (patterns, stale) = stale(&script, &known);
    let matching = patterns - stale.len();
    println!("{SCRIPT}: {matching} of {patterns} patterns match functions");
    if matching * 100 >= patterns * ENOUGH {
        return Ok(());
    }
    let names = stale.iter().take(3).copied().collect::<Vec<_>>().join("\n  ");
    Err(format!(
        "{SCRIPT} is stale: run `cargo xtask order`; nothing has these names, among others:\n  {names}"
    )
    .into())
}

/// How many patterns a linker script has, and those that match none of the symbols.
fn stale<'a>(script: &'a str, symbols: &BTreeSet<&str>) -> (usize, Vec<&'a str>) {
    let patterns = script.lines().filter_map(|line| line.trim().strip_prefix("*(.text.")?.strip_suffix(')'));
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(begin) => symbols.range(begin..).next().is_some_and(|symbol| symbol.starts_with(begin)),
        None => symbols.contains(pattern),
    };
    let count = patterns.clone().count();
    (count, patterns.filter(|pattern| !matches(pattern)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::script;

    #[test]
    fn patterns_of_functions_that_are_gone_are_stale() {
        let patterns = ["sqlite3Step", "_ZN6parser4read17h*", "ZSTD_*", "_ZN6parser5lines17h*", "sqlite3"];
        let script = script(patterns.map(|pattern| (pattern.to_owned(), 1, 0)).into());
        let symbols =
            ["_ZN6parser4read17h0123456789abcdefE", "_ZN6parser6lines217h0E", "sqlite3Step", "zlib"];
        let (count, stale) = stale(&script, &symbols.into());
        assert_eq!((count, stale), (5, vec!["ZSTD_*", "_ZN6parser5lines17h*", "sqlite3"]));
    }

    #[test]
    fn the_list_has_patterns() {
        let script = fs::read_to_string(shell::root().join(SCRIPT)).unwrap();
        let (count, stale) = stale(&script, &BTreeSet::new());
        assert!(count > 1_000 && stale.len() == count, "{count}");
    }
}
