//! The pages in `docs/checks` are true: each rule has one, its bad example violates this rule and no other, and its good one none.

mod checked;
mod invented;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::Ignore;
use frontend::Options;
use insight::{ListedFile, Listing};

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/checks")
}

/// The names of all rules, upstream's and this crate's.
fn rules() -> BTreeSet<String> {
    let upstream = frontend::rules().iter().map(|rule| rule.name);
    upstream.chain(insight::rules().iter().map(|rule| rule.name)).map(str::to_owned).collect()
}

/// A fenced block: what stands behind the fence, and the lines.
struct Block {
    info: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block { info: info.to_owned(), text: text.join("\n") + "\n" });
        }
    }
    blocks
}

/// A page's examples and what they are built with.
struct Page {
    context: Option<Listing>,
    ignore: Option<Arc<Ignore>>,
    bad: Block,
    good: Block,
}

impl Page {
    fn read(name: &str) -> Page {
        let text = fs::read_to_string(pages().join(format!("{name}.md"))).unwrap();
        assert!(text.starts_with(&format!("# {name}\n")), "{name} has another title");
        for heading in ["\n## Why\n", "\n## Bad\n", "\n## Good\n", "\n## How to skip it\n"] {
            assert!(text.contains(heading), "{name} has no {heading}");
        }
        let mut found: BTreeMap<String, Block> = BTreeMap::new();
        for block in blocks(&text) {
            // Those without a second word are there for the reader only.
            let key = block.info.split(' ').take(2).collect::<Vec<_>>().join(" ");
            if key.contains(' ') {
                assert!(found.insert(key.clone(), block).is_none(), "{name} has two blocks `{key}`");
            }
        }
        let mut take = |key: &str| found.remove(key);
        let page = Page {
            context: take("text context").map(|block| listing(&block.text)),
            ignore: take("text ignore").map(|block| Arc::new(Ignore::parse(block.text.as_bytes()).unwrap())),
            bad: take("dockerfile bad").unwrap_or_else(|| panic!("{name} has no bad example")),
            good: take("dockerfile good").unwrap_or_else(|| panic!("{name} has no good example")),
        };
        assert!(found.is_empty(), "{name} has further blocks: {:?}", found.keys());
        page
    }

    /// The names of the rules that a text violates.
    fn violated(&self, text: &str, info: &str) -> BTreeSet<String> {
        let mut options = Options { ignore: self.ignore.clone(), ..invented::options() };
        for option in info.split(' ').skip(2) {
            match option.split_once('=') {
                Some(("platform", platform)) => options.platforms.push(platform.parse().unwrap()),
                Some(("build-arg", arg)) => {
                    let (name, value) = arg.split_once('=').unwrap();
                    options.build_args.insert(name.to_owned(), value.to_owned());
                }
                _ => panic!("unknown option {option}"),
            }
        }
        let findings = checked::check(text, &options, self.context.as_ref())
            .unwrap_or_else(|errors| panic!("cannot be built: {errors:#?}\n{text}"));
        findings.iter().map(|finding| finding.rule.unwrap_or("a warning without a rule").to_owned()).collect()
    }
}

/// Lines of a path and a size.
fn listing(text: &str) -> Listing {
    Listing::new(text.lines().map(|line| {
        let (path, size) = line.rsplit_once(' ').unwrap();
        ListedFile { path: path.to_owned(), size: size.parse().unwrap(), link: false }
    }))
}

#[test]
fn each_rule_has_a_page_and_each_page_a_rule() {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(pages()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        files.insert(name.strip_suffix(".md").unwrap_or_else(|| panic!("{name} is no page")).to_owned());
    }
    assert!(files.remove("README"));
    assert_eq!(files, rules());
    for rule in insight::rules() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(rule.url());
        assert!(page.is_file(), "{} leads nowhere", rule.url());
    }
}

#[test]
fn the_index_links_to_each_page_once() {
    let index = fs::read_to_string(pages().join("README.md")).unwrap();
    for rule in rules() {
        assert_eq!(index.matches(&format!("| [{rule}]({rule}.md) | ")).count(), 1, "{rule}");
    }
}

#[test]
fn bad_examples_violate_their_rule_and_good_ones_none() {
    for rule in rules() {
        let page = Page::read(&rule);
        let bad = page.violated(&page.bad.text, &page.bad.info);
        assert_eq!(bad, BTreeSet::from([rule.clone()]), "{rule}: the bad example\n{}", page.bad.text);
        let good = page.violated(&page.good.text, &page.good.info);
        assert_eq!(good, BTreeSet::new(), "{rule}: the good example\n{}", page.good.text);
    }
}

#[test]
fn rules_can_be_skipped() {
    for rule in rules() {
        let page = Page::read(&rule);
        if page.bad.text.starts_with("# check=experimental") {
            let without = page.bad.text.split_once('\n').unwrap().1;
            assert_eq!(page.violated(without, &page.bad.info), BTreeSet::new(), "{rule}");
            continue;
        }
        for skip in [rule.as_str(), "all"] {
            let text = format!("# check=skip={skip}\n{}", page.bad.text);
            assert_eq!(page.violated(&text, &page.bad.info), BTreeSet::new(), "{rule}: {text}");
        }
    }
}
