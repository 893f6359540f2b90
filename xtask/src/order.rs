//! `cargo xtask order`: which functions of the release binary stand side by side.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::shell::{self, Result};
use crate::{bases, packages};

mod stale;

pub(crate) use stale::check;

/// Finds the functions that a build executes which has little or nothing to do, and writes crates/builder/hot.ld, by which the linker puts them
/// side by side.
///
/// The kernel maps 16 pages of a program around each that is touched. Functions that lie scattered over 15 MB bring nearly all of them
/// into memory, side by side they bring themselves.
///
/// Watched by callgrind. To be repeated when the target of S1's memory (`cargo xtask bench M1`) is missed: functions were added; or when `cargo
/// xtask dist` says that the list is stale: functions were renamed, or the compiler mangles names otherwise.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// What a pattern costs, in bytes that are not executed: fewer patterns match more of those.
const PATTERN: u64 = 400;

/// What an executed function costs that is not matched: the 16 pages around it.
const AWAY: u64 = 64 << 10;

const SCRIPT: &str = "crates/builder/hot.ld";

pub(crate) fn run(_: &Args) -> Result {
    packages::ensure(packages::BASES)?;
    packages::ensure(packages::ORDER)?;
    let binary = shell::builder(true)?;
    let executed = executed(&binary, &bases::ensure(false)?)?;
    let mut functions = functions(&binary, &executed)?;
    functions.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let choice = choose(&functions, 0);
    let matched: u64 = choice.patterns.iter().map(|(_, hot, cold)| hot + cold).sum();
    println!(
        "{SCRIPT}: {} patterns match {:.1} MB, {:.1} MB of it executed",
        choice.patterns.len(),
        matched as f64 / 1e6,
        choice.patterns.iter().map(|(_, hot, _)| *hot).sum::<u64>() as f64 / 1e6,
    );
    fs::write(shell::root().join(SCRIPT), script(choice.patterns))?;
    Ok(())
}

/// The symbols of the functions that builds execute: the first, those of which nothing or one file changed.
fn executed(binary: &Path, bases: &Path) -> Result<HashSet<String>> {
    let dir = tempfile::tempdir()?;
    let context = dir.path().join("context");
    fs::create_dir(&context)?;
    let write = |name: &str, text: &str| fs::write(context.join(name), text);
    write(
        "Dockerfile",
        "FROM busybox AS made\nWORKDIR /src\nCOPY a b ./\nRUN cat a b > c\nFROM busybox\nENV A=b\nCOPY --from=made /src/c /\nCOPY . /all\nCMD [\"sh\"]\n",
    )?;
    write("a", "a")?;
    write("b", "b")?;
    let mut symbols = HashSet::new();
    let mut watch = |watched: bool, options: &[&str]| -> Result {
        let told = dir.path().join("callgrind");
        let mut build = if watched { shell::command("valgrind") } else { shell::command(binary) };
        if watched {
            build.args(["--quiet", "--tool=callgrind", "--demangle=no", "--compress-strings=no"]);
            build.arg(format!("--callgrind-out-file={}", told.display())).arg(binary);
        }
        build.args(["build", "--build-context"]);
        build.arg(format!("busybox=oci-layout://{}", bases.join("busybox").display()));
        build.env("BUILDER_HOME", dir.path().join("home")).args(options).arg(&context);
        shell::run(build.stdout(Stdio::null()).stderr(Stdio::null()))?;
        if watched {
            let text = fs::read_to_string(&told)?;
            let names = text.lines().filter_map(|line| line.strip_prefix("fn="));
            // A function that calls itself is told with the depth, too.
            symbols.extend(names.map(|name| name.split('\'').next().unwrap_or(name).to_owned()));
        }
        Ok(())
    };
    watch(false, &[])?;
    watch(true, &[])?;
    watch(true, &["--tag", "app"])?;
    watch(true, &["--progress", "quiet", "--tag", "app"])?;
    fs::write(context.join("d"), "d")?;
    watch(true, &["--tag", "app"])?;
    Ok(symbols)
}

struct Function {
    /// As sections of objects are named, without the hash at the end of Rust's symbols.
    name: String,
    size: u64,
    is_executed: bool,
}

fn functions(binary: &Path, executed: &HashSet<String>) -> Result<Vec<Function>> {
    let function = |(symbol, size): (String, u64)| Function {
        name: without_hash(&symbol).to_owned(),
        size,
        is_executed: executed.contains(&symbol),
    };
    Ok(symbols(binary)?.into_iter().map(function).collect())
}

/// The functions of a binary with their sizes.
fn symbols(binary: &Path) -> Result<BTreeMap<String, u64>> {
    let table = shell::output(Command::new("nm").arg("--print-size").arg(binary))?;
    let mut by_symbol = BTreeMap::new();
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, size, "t" | "T" | "w" | "W", symbol] = words[..] {
            by_symbol.insert(symbol.to_owned(), u64::from_str_radix(size, 16)?);
        }
    }
    Ok(by_symbol)
}

/// The hash stands for the types that a function was made for, the compiler and more.
fn without_hash(symbol: &str) -> &str {
    let hash = symbol.rfind("17h").filter(|_| symbol.starts_with("_ZN"));
    hash.map_or(symbol, |end| &symbol[..end + "17h".len()])
}

/// Patterns of names, with the bytes of what they match: executed, and not.
#[derive(Default)]
struct Choice {
    cost: u64,
    patterns: Vec<(String, u64, u64)>,
}

/// The cheapest patterns for functions that begin with the same bytes: one for all of them, or those of each that has the same byte next,
/// or none. The functions are sorted.
fn choose(functions: &[Function], begin: usize) -> Choice {
    let sum = |executed: bool| -> u64 {
        functions.iter().filter(|f| f.is_executed == executed).map(|function| function.size).sum()
    };
    let count = functions.iter().filter(|function| function.is_executed).count() as u64;
    let (Some(first), Some(last), 1..) = (functions.first(), functions.last(), count) else {
        return Choice::default();
    };
    let same = first.name.bytes().zip(last.name.bytes()).skip(begin).take_while(|(a, b)| a == b).count();
    let end = begin + same;
    let of_all = PATTERN + sum(false);
    let of_none = AWAY * count;
    let of_each = if first.name.len() == last.name.len() && end == first.name.len() {
        Choice { cost: u64::MAX, patterns: Vec::new() }
    } else {
        let next = |function: &Function| function.name.as_bytes().get(end).copied();
        let each = functions.chunk_by(|a, b| next(a) == next(b));
        each.map(|functions| choose(functions, end)).fold(Choice::default(), |mut all, one| {
            all.cost += one.cost;
            all.patterns.extend(one.patterns);
            all
        })
    };
    if of_each.cost < of_all.min(of_none) {
        return of_each;
    }
    if of_none < of_all {
        return Choice { cost: of_none, patterns: Vec::new() };
    }
    let whole = functions.len() == 1 && !first.name.ends_with("17h");
    let pattern = format!("{}{}", &first.name[..end], if whole { "" } else { "*" });
    Choice { cost: of_all, patterns: vec![(pattern, sum(true), sum(false))] }
}

/// The linker script, those first of which most is executed.
fn script(mut patterns: Vec<(String, u64, u64)>) -> String {
    let share = |(_, hot, cold): &(String, u64, u64)| hot * 1000 / (hot + cold);
    patterns.sort_unstable_by(|a, b| share(b).cmp(&share(a)).then_with(|| a.0.cmp(&b.0)));
    let mut script = String::from(
        "/* Functions that a build executes which has little or nothing to do, side by side: fewer pages of the program come into memory.\n   \
         Written by `cargo xtask order`. */\nSECTIONS {\n  .text.hot : {\n",
    );
    for (pattern, ..) in patterns {
        let _ = writeln!(script, "    *(.text.{pattern})");
    }
    script + "  }\n} INSERT BEFORE .text;\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(functions: &[(&str, u64, bool)]) -> Vec<String> {
        let function = |(name, size, is_executed): &(&str, u64, bool)| Function {
            name: without_hash(name).to_owned(),
            size: *size,
            is_executed: *is_executed,
        };
        let mut functions: Vec<Function> = functions.iter().map(function).collect();
        functions.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        choose(&functions, 0).patterns.into_iter().map(|(pattern, ..)| pattern).collect()
    }

    #[test]
    fn what_is_executed_is_matched_and_little_else() {
        let [read, lines] = [("_ZN6parser4read17h0a", 5_000, true), ("_ZN6parser5lines17h0b", 7_000, true)];
        let between = |size| [read, ("_ZN6parser4skip17h0c", size, false), lines];
        assert_eq!(patterns(&between(10)), ["_ZN6parser*"], "a pattern less is worth ten bytes");
        assert_eq!(patterns(&between(9_000)), ["_ZN6parser4read17h*", "_ZN6parser5lines17h*"]);
        assert_eq!(patterns(&[("sqlite3Step", 9, true), ("sqlite3Stat", 9_000, false)]), ["sqlite3Step"]);
    }

    #[test]
    fn what_matches_too_much_is_left_where_it_is() {
        let of_many_types = [("_ZN4core4next17h0a", 100, true), ("_ZN4core4next17h0b", 300_000, false)];
        assert_eq!(patterns(&of_many_types), [""; 0]);
        assert_eq!(patterns(&[("_ZN4core4next17h0a", 100, false)]), [""; 0]);
    }
}
