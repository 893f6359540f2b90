//! "Did you mean …?"

/// The candidate that differs from `word` in at most two characters, the closest first; `None` also when one is equal,
/// since then the word is not what is wrong.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    let mut least = 3;
    for candidate in candidates {
        if candidate == word {
            return None;
        }
        // Names differ in length by more than that: no need to look.
        if candidate.len().abs_diff(word.len()) > 8 {
            continue;
        }
        let distance = parser::distance(word, candidate);
        // Nothing of it would be left.
        let is_another = distance >= word.chars().count().max(candidate.chars().count());
        if distance < least && !is_another {
            least = distance;
            best = Some(candidate);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_near() {
        assert_eq!(closest("biuld", ["test", "build"]), Some("build"));
        assert_eq!(closest("build", ["test", "build"]), None);
        assert_eq!(closest("nothing", ["test", "build"]), None);
        assert_eq!([closest("ZZ", ["A"]), closest("c", ["a", "b"])], [None, None]);
        assert_eq!([closest("evn", ["env"]), closest("AA", ["A"])], [Some("env"), Some("A")]);
    }
}
