//! Which step of an earlier build a step is to be compared with.
//!
//! The same text in the same place of the same Dockerfile; failing that, the one that stood in its place. Names of vertices are
//! `[place] text`, such as `[build 2/5] RUN make`.

use std::collections::{HashMap, HashSet};

use graph::{Definition, Vertex, VertexId};
use hash::{CacheKey, StableHasher};

/// Under which keys a step is remembered: by its text, and by its place if that is numbered.
pub(crate) type Keys = (CacheKey, Option<CacheKey>);

/// Under which keys the steps of a definition are remembered.
#[derive(Debug)]
pub(crate) struct Steps {
    keys: HashMap<VertexId, Keys>,
    texts: HashSet<CacheKey>,
}

impl Steps {
    pub(crate) fn of(definition: &Definition, scope: &str) -> Steps {
        let occurrences = occurrences(definition);
        let keys = |(id, vertex): (VertexId, &Vertex)| {
            (id, keys(scope, &vertex.name, occurrences.get(&id).copied().unwrap_or(0)))
        };
        let keys: HashMap<VertexId, Keys> = definition.iter().map(keys).collect();
        let texts = keys.values().map(|(text, _)| *text).collect();
        Steps { keys, texts }
    }

    /// Those of one step.
    pub(crate) fn keys(&self, id: VertexId) -> Option<Keys> {
        self.keys.get(&id).copied()
    }

    /// Whether one of the steps says this: what stood elsewhere then has moved, and not become what stands there now.
    pub(crate) fn has(&self, text: &CacheKey) -> bool {
        self.texts.contains(text)
    }
}

/// `occurrence` says how many steps of its stage that say the same come before it.
fn keys(scope: &str, name: &str, occurrence: u64) -> Keys {
    let (place, text) = split(name);
    // How many steps there are may change, and the place of a step that has a number is still the same.
    let (stage, number) = apart(place);
    let key = |kind: &str, parts: [&str; 2]| {
        StableHasher::new("step-v1").with(scope).with(kind).with(parts[0]).with(parts[1])
    };
    let by_text = key("text", [stage, text]);
    let by_text = if occurrence == 0 { by_text } else { by_text.with(&occurrence) };
    let by_place = number.map(|number| key("place", [format!("{stage} {number}").trim_start(), ""]));
    (CacheKey::from_bytes(by_text.finish()), by_place.map(|key| CacheKey::from_bytes(key.finish())))
}

/// How many steps of the same stage and text come before each vertex, of those where it is not none.
fn occurrences(definition: &Definition) -> HashMap<VertexId, u64> {
    let mut seen: HashMap<(&str, &str), u64> = HashMap::new();
    let mut occurrences = HashMap::new();
    for (id, vertex) in definition.iter() {
        let (place, text) = split(&vertex.name);
        let count = seen.entry((apart(place).0, text)).or_default();
        if *count > 0 {
            occurrences.insert(id, *count);
        }
        *count += 1;
    }
    occurrences
}

/// Stage and number of a place: `build 3/5`. Numbers of one stage are of one width, so there may be more than one space: `build  3/12`.
fn apart(place: &str) -> (&str, Option<&str>) {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((before, count)) = place.rsplit_once('/') else { return (place, None) };
    let (stage, number) = before.rsplit_once(' ').unwrap_or(("", before));
    // The name of a context may have a slash in it.
    match is_number(number) && is_number(count) {
        true => (stage.trim_end(), Some(number)),
        false => (place, None),
    }
}

/// For messages: without the place.
pub(crate) fn text(name: &str) -> &str {
    split(name).1
}

/// The named context that something is of: `x` of `[context x] …`.
pub(crate) fn context(name: &str) -> Option<&str> {
    split(name).0.strip_prefix("context ")
}

fn split(name: &str) -> (&str, &str) {
    name.strip_prefix('[').and_then(|rest| rest.split_once("] ")).unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use graph::{Input, Op};

    use super::*;

    #[test]
    fn steps_are_found_by_text_or_place() {
        let keys = |scope, name| keys(scope, name, 0);
        let now = keys("s", "[build 3/5] RUN make");
        assert_eq!(now.0, keys("s", "[build 4/9] RUN make").0, "moved");
        assert_eq!(now.1, keys("s", "[build 3/6] RUN make all").1, "edited");
        assert_eq!(keys("s", "[3/5] RUN make").0, keys("s", "[4/9] RUN make").0, "in a stage without a name");
        assert_ne!(now, keys("s", "[test 3/5] RUN make"));
        assert_ne!(now, keys("other", "[build 3/5] RUN make"));
        assert_ne!(now.0, keys("s", "[build 3/5] RUN make all").0);
        assert_ne!(now.1, keys("s", "[build 2/5] RUN make").1);
        // With ten steps numbers get wider.
        assert_eq!(now, keys("s", "[build  3/10] RUN make"));
        assert_eq!(keys("s", "[9/9] RUN make"), keys("s", "[ 9/10] RUN make"));
        assert_eq!(now.0, keys("s", "[build 10/10] RUN make").0);
        assert_eq!(keys("s", "[internal] prepare").1, None);
        assert_eq!(keys("s", "step").1, None);
        // Nor have names of contexts numbers.
        let (one, other) =
            (keys("s", "[context a/b] prepare mount of d"), keys("s", "[context a/c] prepare mount of d"));
        assert!(one.0 != other.0 && one.1.is_none());
        assert_eq!(context("[context a/b] prepare mount of d"), Some("a/b"));
        assert_eq!(context("[internal] prepare mount of d"), None);
        assert_eq!(text("[build 3/5] RUN [ -d x ]"), "RUN [ -d x ]");
        assert_eq!(text("step"), "step");
    }
    #[test]
    fn steps_that_say_the_same_are_told_apart() {
        let mut definition = Definition::default();
        for name in ["[a 1/2] RUN x", "[a 2/2] RUN x", "[b 1/2] RUN x", "[b  2/10] RUN x", "[b 10/10] RUN x"]
        {
            let name = name.to_owned();
            let last = definition.iter().last().map(|(id, _)| Input::whole(id));
            let inputs = last.into_iter().collect();
            definition.add(Vertex { op: Op::Merge, inputs, name, no_cache: false, lines: None });
        }
        let occurrences = occurrences(&definition);
        let of = |place| occurrences.get(&VertexId(place)).copied().unwrap_or(0);
        assert_eq!([0, 1, 2, 3, 4].map(of), [0, 1, 0, 1, 2]);
        let steps = Steps::of(&definition, "s");
        let texts: HashSet<_> = (0..5).filter_map(|place| Some(steps.keys(VertexId(place))?.0)).collect();
        assert_eq!(texts.len(), 5);
        assert!(texts.iter().all(|text| steps.has(text)) && !steps.has(&keys("s", "[a 1/2] RUN y", 0).0));
    }
}
