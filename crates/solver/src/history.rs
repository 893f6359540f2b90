//! Which step of an earlier build a step is to be compared with.
//!
//! The same text in the same place of the same Dockerfile; failing that, the one that stood in its place. Names of vertices are
//! `[place] text`, such as `[build 2/5] RUN make`.

use hash::{CacheKey, StableHasher};

/// Under which keys a step is remembered: by its text, and by its place if that is numbered.
pub(crate) fn keys(scope: &str, name: &str) -> (CacheKey, Option<CacheKey>) {
    let (place, text) = split(name);
    // How many steps there are may change, and the place of a step that has a number is still the same.
    let numbered = place.rsplit_once('/').map(|(place, _)| place);
    let stage = numbered.map_or(place, |place| place.rsplit_once(' ').map_or("", |(stage, _)| stage));
    let key = |kind: &str, parts: [&str; 2]| {
        let hasher = StableHasher::new("step-v1").with(scope).with(kind).with(parts[0]).with(parts[1]);
        CacheKey::from_bytes(hasher.finish())
    };
    (key("text", [stage, text]), numbered.map(|place| key("place", [place, ""])))
}

/// For messages: without the place.
pub(crate) fn text(name: &str) -> &str {
    split(name).1
}

fn split(name: &str) -> (&str, &str) {
    name.strip_prefix('[').and_then(|rest| rest.split_once("] ")).unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_by_text_or_place() {
        let now = keys("s", "[build 3/5] RUN make");
        assert_eq!(now.0, keys("s", "[build 4/9] RUN make").0, "moved");
        assert_eq!(now.1, keys("s", "[build 3/6] RUN make all").1, "edited");
        assert_eq!(keys("s", "[3/5] RUN make").0, keys("s", "[4/9] RUN make").0, "in a stage without a name");
        assert_ne!(now, keys("s", "[test 3/5] RUN make"));
        assert_ne!(now, keys("other", "[build 3/5] RUN make"));
        assert_ne!(now.0, keys("s", "[build 3/5] RUN make all").0);
        assert_ne!(now.1, keys("s", "[build 2/5] RUN make").1);
        assert_eq!(keys("s", "[internal] prepare").1, None);
        assert_eq!(keys("s", "step").1, None);
        assert_eq!(text("[build 3/5] RUN [ -d x ]"), "RUN [ -d x ]");
        assert_eq!(text("step"), "step");
    }
}
