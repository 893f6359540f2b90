//! "Did you mean …?"

/// The candidate that differs from `word` in at most two characters, the closest first; `None` also when one is equal,
/// since then the word is not what is wrong.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
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
        let distance = distance(word, candidate);
        if distance < least {
            least = distance;
            best = Some(candidate);
        }
    }
    best
}

/// The number of characters to insert, delete or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let cost = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_near() {
        assert_eq!(closest("biuld", ["test", "build"]), Some("build"));
        assert_eq!(closest("build", ["test", "build"]), None);
        assert_eq!(closest("nothing", ["test", "build"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
