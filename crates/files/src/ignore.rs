//! The rules of `.dockerignore`, as `moby/patternmatcher` has them: patterns are rooted, the last that matches wins, a pattern
//! that matches a directory matches all below it, `!` takes out again.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::Error;
use crate::glob::{DoubleStar, Glob};

/// The patterns of an ignore file, compiled. A path costs a few hash look-ups and the patterns that can match it, not all of them.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
    /// Patterns without wildcards.
    exact: HashMap<Vec<u8>, Vec<u32>>,
    /// Patterns by what every match begins or ends with, whichever is longer.
    by_start: Literals,
    by_end: Literals,
    /// Patterns that begin and end with a wildcard.
    loose: Vec<u32>,
    exceptions: Exceptions,
}

#[derive(Debug, Clone)]
struct Rule {
    /// As written, for messages.
    text: String,
    exception: bool,
    shape: Shape,
}

#[derive(Debug, Clone)]
enum Shape {
    Exact,
    /// `**x`: anything that ends so, in the middle of a name too.
    Suffix(Vec<u8>),
    Glob(Glob),
}

/// What the patterns say of one path, and what those below it need to know.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    excluded: bool,
    by: Option<u32>,
    /// The patterns that matched this path or one above, ascending. As upstream, a pattern that could not have changed the
    /// outcome at the time is not among them.
    matched: Arc<[u32]>,
}

impl Verdict {
    /// Whether the path is left out.
    pub fn is_excluded(&self) -> bool {
        self.excluded
    }
}

impl Ignore {
    /// Reads an ignore file: a byte order mark is dropped, `#` in the first column begins a comment, the rest is trimmed and
    /// cleaned as a path, one leading `/` is dropped.
    ///
    /// # Errors
    /// Naming the line of the first malformed pattern.
    pub fn parse(file: &[u8]) -> Result<Ignore, Error> {
        let mut ignore = Ignore::default();
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        for (number, line) in file.split(|&byte| byte == b'\n').enumerate() {
            if line.starts_with(b"#") {
                continue;
            }
            ignore.add(line).map_err(|reason| Error::BadIgnoreLine {
                line: number + 1,
                pattern: String::from_utf8_lossy(trim(line)).into_owned(),
                reason,
            })?;
        }
        ignore.finish();
        Ok(ignore)
    }

    /// From patterns one by one, without comments.
    ///
    /// # Errors
    /// When one is malformed.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Ignore, Error> {
        let mut ignore = Ignore::default();
        for pattern in patterns {
            ignore
                .add(pattern.as_bytes())
                .map_err(|reason| Error::BadPattern { pattern: pattern.to_owned(), reason })?;
        }
        ignore.finish();
        Ok(ignore)
    }

    fn add(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let text = trim(line);
        if text.is_empty() {
            return Ok(());
        }
        let (exception, pattern) = match text.strip_prefix(b"!") {
            Some(pattern) => (true, trim(pattern)),
            None => (false, text),
        };
        if pattern.is_empty() {
            return Err("a `!` needs a pattern");
        }
        let pattern = clean(pattern);
        let index = u32::try_from(self.rules.len()).map_err(|_| "too many patterns")?;
        let shape = self.index(index, &pattern, exception)?;
        self.rules.push(Rule { text: String::from_utf8_lossy(text).into_owned(), exception, shape });
        Ok(())
    }

    /// Files a pattern under what finds it.
    fn index(&mut self, index: u32, pattern: &[u8], exception: bool) -> Result<Shape, &'static str> {
        let glob = Glob::new(pattern, DoubleStar::Crosses)?;
        if let Some(literal) = glob.as_literal() {
            self.exact.entry(literal.to_vec()).or_default().push(index);
            if exception {
                self.exceptions.exact(index, literal);
            }
            return Ok(Shape::Exact);
        }
        let suffix = pattern
            .strip_prefix(b"**")
            .filter(|rest| !rest.is_empty() && !rest.iter().any(|byte| b"*?[]\\".contains(byte)))
            .filter(|rest| !rest.starts_with(b"/"));
        if let Some(suffix) = suffix {
            self.by_end.add(suffix, index);
            if exception {
                self.exceptions.wild(index, b"");
            }
            return Ok(Shape::Suffix(suffix.to_vec()));
        }
        let (start, end) = (glob.start(), glob.end());
        if start.is_empty() && end.is_empty() {
            self.loose.push(index);
        } else if start.len() >= end.len() {
            self.by_start.add(start, index);
        } else {
            self.by_end.add(end, index);
        }
        if exception {
            self.exceptions.wild(index, start);
        }
        Ok(Shape::Glob(glob))
    }

    fn finish(&mut self) {
        self.exceptions.exact.sort();
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether some pattern takes paths in again.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.exception)
    }

    /// Judges a path, given the verdict on the directory that holds it (the default one for the root).
    pub fn judge(&self, path: &Path, parent: &Verdict) -> Verdict {
        let mut matched = Vec::new();
        let (excluded, by) = self.fold(path.as_os_str().as_bytes(), parent, |index| matched.push(index));
        let matched = if *matched == *parent.matched { parent.matched.clone() } else { matched.into() };
        Verdict { excluded, by, matched }
    }

    /// Whether a path is left out, given the verdict on the directory that holds it.
    pub(crate) fn excludes_below(&self, path: &[u8], parent: &Verdict) -> bool {
        self.fold(path, parent, |_| {}).0
    }

    /// Judges a path from the root on.
    pub fn judge_whole(&self, path: &Path) -> Verdict {
        let mut verdict = Verdict::default();
        let bytes = path.as_os_str().as_bytes();
        let ends = (0..bytes.len()).filter(|&at| bytes[at] == b'/').chain([bytes.len()]);
        for end in ends.filter(|&end| end > 0) {
            verdict = self.judge(Path::new(std::ffi::OsStr::from_bytes(&bytes[..end])), &verdict);
        }
        verdict
    }

    /// The pattern that excludes a path, as written.
    pub fn reason(&self, verdict: &Verdict) -> Option<&str> {
        let by = verdict.by.filter(|_| verdict.excluded)?;
        self.rules.get(by as usize).map(|rule| rule.text.as_str())
    }

    /// Whether something below an excluded directory may be taken in again. When not, the directory need not be looked into.
    pub fn may_include_below(&self, directory: &Path, verdict: &Verdict) -> bool {
        // All below match what this directory matched; only a later exception can change the outcome.
        let after = verdict.by.unwrap_or(0);
        self.exceptions.last.is_some_and(|last| last > after)
            && self.exceptions.reach_below(directory.as_os_str().as_bytes())
    }

    /// Goes through the patterns that match `path` or matched above it, in order, and returns the outcome. A pattern is asked
    /// only when it could change the outcome so far; `record` is told of those that matched.
    fn fold(&self, path: &[u8], parent: &Verdict, mut record: impl FnMut(u32)) -> (bool, Option<u32>) {
        let own = self.matches(path);
        let (mut above, mut own) = (parent.matched.iter().copied().peekable(), own.into_iter().peekable());
        let (mut excluded, mut by) = (false, None);
        loop {
            let (index, inherited) = match (above.peek(), own.peek()) {
                (None, None) => return (excluded, by),
                (Some(&a), Some(&o)) if a > o => (o, false),
                (None, Some(&o)) => (o, false),
                (Some(&a), other) => {
                    if other == Some(&a) {
                        own.next();
                    }
                    (a, true)
                }
            };
            if inherited {
                above.next();
            } else {
                own.next();
            }
            let exception = self.rules[index as usize].exception;
            if inherited || exception == excluded {
                record(index);
                excluded = !exception;
                by = Some(index);
            }
        }
    }

    /// The patterns that match this very path, ascending.
    fn matches(&self, path: &[u8]) -> Vec<u32> {
        let mut found = self.exact.get(path).cloned().unwrap_or_default();
        let exact = found.len();
        let mut try_each = |candidates: &[u32]| {
            found.extend(candidates.iter().filter(|&&index| self.rules[index as usize].matches(path)));
        };
        try_each(&self.loose);
        self.by_start.find(path.len(), |length| &path[..length], &mut try_each);
        self.by_end.find(path.len(), |length| &path[path.len() - length..], &mut try_each);
        if found.len() > exact.min(1) {
            found.sort_unstable();
        }
        found
    }
}

impl Rule {
    fn matches(&self, path: &[u8]) -> bool {
        match &self.shape {
            // Found by look-up.
            Shape::Exact => true,
            Shape::Suffix(suffix) => path.ends_with(suffix),
            Shape::Glob(glob) => glob.matches(path),
        }
    }
}

/// Patterns by a literal part, looked up one length at a time.
#[derive(Debug, Clone, Default)]
struct Literals(BTreeMap<usize, HashMap<Vec<u8>, Vec<u32>>>);

impl Literals {
    fn add(&mut self, literal: &[u8], index: u32) {
        self.0.entry(literal.len()).or_default().entry(literal.to_vec()).or_default().push(index);
    }

    fn find<'a>(&self, longest: usize, part: impl Fn(usize) -> &'a [u8], mut found: impl FnMut(&[u32])) {
        for (&length, literals) in self.0.range(..=longest) {
            if let Some(indices) = literals.get(part(length)) {
                found(indices);
            }
        }
    }
}

/// Where `!` patterns can match.
#[derive(Debug, Clone, Default)]
struct Exceptions {
    last: Option<u32>,
    /// Whole paths, sorted, and the literal beginnings of the others.
    exact: Vec<Vec<u8>>,
    starts: Literals,
}

impl Exceptions {
    fn exact(&mut self, index: u32, path: &[u8]) {
        self.last = Some(index);
        self.exact.push(path.to_vec());
    }

    fn wild(&mut self, index: u32, start: &[u8]) {
        self.last = Some(index);
        self.exact.push(start.to_vec());
        self.starts.add(start, index);
    }

    fn reach_below(&self, directory: &[u8]) -> bool {
        let prefix = [directory, b"/"].concat();
        let from = self.exact.partition_point(|path| *path < prefix);
        if self.exact.get(from).is_some_and(|path| path.starts_with(&prefix)) {
            return true;
        }
        let mut found = false;
        self.starts.find(prefix.len(), |length| &prefix[..length], |_| found = true);
        found
    }
}

/// Without blanks around, Unicode's where the text is UTF-8.
fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

/// Go's `filepath.Clean`, then one leading `/` dropped.
fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.starts_with(b"/");
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if components.last().is_some_and(|last| *last != b"..") => drop(components.pop()),
            b".." if rooted => {}
            component => components.push(component),
        }
    }
    match components.as_slice() {
        [] if rooted => b"/".to_vec(),
        [] => b".".to_vec(),
        components => components.join(&b"/"[..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    #[test]
    fn agrees_with_moby() {
        let table = include_str!("../../../testdata/files/dockerignore.txt");
        let mut cases = 0;
        for line in table.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let fields: Vec<&str> = line.split('\t').collect();
            let [patterns, path, expected] = fields[..] else { panic!("{line}") };
            let got = match Ignore::parse(patterns.replace(' ', "\n").as_bytes()) {
                Ok(ignore) if ignore.judge_whole(Path::new(path)).is_excluded() => "yes",
                Ok(_) => "no",
                Err(_) => "bad",
            };
            assert_eq!(got, expected, "{line}");
            cases += 1;
        }
        assert!(cases > 120, "{cases}");
    }

    fn texts(file: &[u8]) -> Vec<String> {
        Ignore::parse(file).unwrap().rules.into_iter().map(|rule| rule.text).collect()
    }

    #[test]
    fn reads_files_as_docker_does() {
        let file = b"\xef\xbb\xbf# comment\ntest1\r\n/test2\n  # no comment  \n\n ! /inverted/abs/path \n";
        assert_eq!(texts(file), ["test1", "/test2", "# no comment", "! /inverted/abs/path"]);
        let ignore = Ignore::parse(b"/*\n! /keep/this/\n").unwrap();
        assert!(!ignore.judge_whole(Path::new("keep/this/file")).is_excluded());
        assert!(ignore.judge_whole(Path::new("keep/that")).is_excluded());
    }

    #[test]
    fn errors_name_the_line() {
        for (file, line) in [("a\n\n!\n", 3), ("# x\n[a\n", 2), ("a\\", 1), ("[b-a]", 1), ("[]a]", 1)] {
            match Ignore::parse(file.as_bytes()) {
                Err(Error::BadIgnoreLine { line: got, .. }) => assert_eq!(got, line, "{file:?}"),
                other => panic!("{file:?}: {other:?}"),
            }
        }
        assert_eq!(
            Ignore::parse(b"x\n[a").unwrap_err().to_string(),
            "line 2: invalid pattern `[a`: a `[` is never closed"
        );
    }

    #[test]
    fn the_deciding_pattern_is_named() {
        let ignore = Ignore::parse(b"*.log\nbuild\n!build/keep\n").unwrap();
        let reason = |path: &str| ignore.reason(&ignore.judge_whole(Path::new(path))).map(str::to_owned);
        assert_eq!(reason("a.log").as_deref(), Some("*.log"));
        assert_eq!(reason("build/x/y").as_deref(), Some("build"));
        assert_eq!(reason("build/keep/y"), None);
    }

    /// The rule as upstream writes it down: every pattern in turn.
    fn slow(rules: &[(bool, &str)], path: &str) -> bool {
        let mut parent: Vec<bool> = vec![false; rules.len()];
        let mut excluded = false;
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            excluded = false;
            let mut matched = vec![false; rules.len()];
            for (index, (exception, pattern)) in rules.iter().enumerate() {
                let one = Ignore::from_patterns([*pattern]).unwrap();
                if !parent[index]
                    && (*exception != excluded || one.matches(&path.as_bytes()[..at]).is_empty())
                {
                    continue;
                }
                matched[index] = true;
                excluded = !exception;
            }
            parent = matched;
        }
        excluded
    }

    fn rules() -> impl Strategy<Value = Vec<(bool, String)>> {
        prop::collection::vec((any::<bool>(), "[ab*](/?[ab*?]){0,4}"), 0..6)
    }

    fn compile(rules: &[(bool, String)]) -> Ignore {
        let file: String = rules
            .iter()
            .map(|(exception, text)| format!("{}{text}\n", if *exception { "!" } else { "" }))
            .collect();
        Ignore::parse(file.as_bytes()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_index_finds_what_trying_each_pattern_finds(rules in rules(), path in "[ab]{1,2}(/[ab]{1,2}){0,3}") {
            let plain: Vec<(bool, &str)> = rules.iter().map(|(e, text)| (*e, text.as_str())).collect();
            prop_assert_eq!(compile(&rules).judge_whole(Path::new(&path)).is_excluded(), slow(&plain, &path));
        }

        #[test]
        fn a_pruned_directory_has_nothing_included(rules in rules(), path in "[ab]{1,2}(/[ab]{1,2}){1,4}") {
            let ignore = compile(&rules);
            let path = PathBuf::from(path);
            for directory in path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
                let verdict = ignore.judge_whole(directory);
                if verdict.is_excluded() && !ignore.may_include_below(directory, &verdict) {
                    prop_assert!(ignore.judge_whole(&path).is_excluded());
                }
            }
        }

        #[test]
        fn any_file_is_read_without_panic(file: Vec<u8>, path in "[a-z!/]{1,9}") {
            if let Ok(ignore) = Ignore::parse(&file) {
                ignore.judge_whole(Path::new(&path));
            }
        }
    }

    #[test]
    fn prunes_what_no_exception_reaches() {
        let ignore = Ignore::parse(b"*\n!src/**\n!docs/a.md\n").unwrap();
        let may =
            |path: &str| ignore.may_include_below(Path::new(path), &ignore.judge_whole(Path::new(path)));
        assert!(may("src") && may("docs"));
        assert!(!may("node_modules") && !may("docs/x") && !may("srcs"));
        let late = Ignore::parse(b"!**/*.go\nnode_modules\n").unwrap();
        let path = Path::new("node_modules");
        assert!(!late.may_include_below(path, &late.judge_whole(path)));
    }

    #[test]
    fn a_hundred_thousand_patterns_are_no_burden() {
        let file: String = (0..100_000)
            .map(|n| match n % 5 {
                0 => format!("dir{n}/file\n"),
                1 => format!("*.ext{n}\n"),
                2 => format!("**/name{n}\n"),
                3 => format!("some/dir{n}/**\n"),
                _ => format!("!some/dir{n}/*.txt\n"),
            })
            .collect();
        let started = std::time::Instant::now();
        let ignore = Ignore::parse(file.as_bytes()).unwrap();
        let mut verdict = Verdict::default();
        for n in 0..10_000 {
            verdict = ignore.judge(Path::new(&format!("some/dir{n}/sub/file.ext{n}")), &Verdict::default());
        }
        assert!(!verdict.is_excluded());
        assert!(ignore.judge_whole(Path::new("a/b/name2/c")).is_excluded());
        // Unoptimised, on a slow machine; trying each pattern would take minutes.
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }
}
