//! "Did you mean …?"

/// Changes of one character up to which two words are taken for one another; nearly all short words are near
/// to one another otherwise.
const fn max_distance(length: usize) -> usize {
    if length <= 4 { 1 } else { 2 }
}

/// The option that is nearest to `word`, if one is near; capitals count.
pub(crate) fn nearest<'o>(word: &str, options: impl IntoIterator<Item = &'o str>) -> Option<&'o str> {
    // A long word is near to nothing, and measuring it would take its time.
    if word.len() > 64 {
        return None;
    }
    let length = word.chars().count();
    options
        .into_iter()
        .map(|option| (distance(word, option), option))
        .filter(|&(distance, _)| distance > 0 && distance <= max_distance(length))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, option)| option)
}

/// How many characters have to be inserted, left out, replaced or swapped with their neighbour to make one word of another
/// (Levenshtein's distance with transpositions). It takes time in proportion to the product of the lengths.
pub fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut current = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            current[j] = replaced.min(last[j] + 1).min(current[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                current[j] = current[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn suggests_what_is_near() {
        assert_eq!(nearest("FORM", ["RUN", "FROM"]), Some("FROM"));
        assert_eq!(nearest("chwon", ["chmod", "chown"]), Some("chown"));
        assert_eq!(nearest("platfrm", ["platform"]), Some("platform"));
        assert_eq!(nearest("apt-get", ["FROM", "RUN"]), None);
        assert_eq!(nearest("CMD", ["CMD"]), None);
        assert_eq!(nearest("FOO", ["FROM"]), None);
        assert_eq!(nearest("", ["RUN"]), None);
        assert_eq!([distance("kitten", "sitting"), distance("ab", "ba"), distance("", "ab")], [3, 1, 2]);
    }
}
