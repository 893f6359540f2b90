//! What a name means in a layout: a whole name one image, and a tag one image, the last that was written with it.

use image::Reference;
use image::layout::{IMAGE_NAME, REF_NAME};
use serde_json::Value;

/// What an entry of `index.json` is called.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    /// As `docker.io/library/app:latest`, however it is spelt.
    whole: Option<String>,
    /// The spec's annotation, by which most programs find it; usually a tag.
    tag: Option<String>,
}

impl Name {
    fn of(entry: &Value) -> Name {
        let text = |key: &str| entry["annotations"][key].as_str().filter(|text| !text.is_empty());
        let tag = text(REF_NAME);
        // Some write the whole name where the spec wants a tag.
        let whole = text(IMAGE_NAME).or(tag.filter(|text| text.contains(['/', ':'])));
        let canonical = |text: &str| match text.parse::<Reference>() {
            Ok(name) => name.to_string(),
            Err(_) => text.to_owned(),
        };
        Name { whole: whole.map(canonical), tag: tag.map(str::to_owned) }
    }
}

/// The tag of an entry that others have too, which lose it to that one.
pub(crate) fn of_same_tag<'a>(list: &'a [Value], new: &Value) -> Vec<&'a Value> {
    let tag = Name::of(new).tag;
    list.iter().filter(|old| tag.is_some() && Name::of(old).tag == tag).collect()
}

/// Adds an entry to those of `index.json`. One of the same name makes room for it. One that only shares its tag, and has a whole name of its own,
/// stays under that and loses the tag, as with containers/image: of programs that know tags alone some take the first that has one, and others
/// none of two, be they the same image.
pub(crate) fn enter(list: &mut Vec<Value>, new: Value) {
    let ours = Name::of(&new);
    list.retain_mut(|old| {
        let theirs = Name::of(old);
        let is_whole = theirs.whole.is_some() && theirs.whole == ours.whole;
        if *old == new || is_whole {
            return false;
        }
        if ours.tag.is_none() || theirs.tag != ours.tag {
            return true;
        }
        let annotations = old.get_mut("annotations").and_then(Value::as_object_mut);
        annotations.map(|all| all.shift_remove(REF_NAME));
        theirs.whole.is_some()
    });
    list.push(new);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(digest: &str, whole: &str, tag: &str) -> Value {
        let annotations = [(IMAGE_NAME, whole), (REF_NAME, tag), ("more", "kept")];
        let annotations = annotations.into_iter().filter(|(_, text)| !text.is_empty());
        json!({ "digest": digest, "annotations": annotations.collect::<std::collections::BTreeMap<_, _>>() })
    }

    #[test]
    fn a_name_and_a_tag_mean_one_entry() {
        const APP: &str = "docker.io/library/app:latest";
        const WEB: &str = "docker.io/library/web:latest";
        let (app, web) = (("1", APP, "latest"), ("1", WEB, "latest"));
        let tagged = ("1", "", "latest");
        for (old, new, left) in [
            // By the same name, however it is spelt and by whomever it was written.
            (app, ("2", APP, "latest"), None),
            (tagged, ("2", "", "latest"), None),
            (("1", "app", "latest"), ("2", APP, "latest"), None),
            (("1", "", "app:latest"), ("2", APP, "latest"), None),
            (("1", "", APP), ("2", APP, "latest"), None),
            // The name of what has a tag alone is its tag.
            (tagged, ("2", APP, "latest"), None),
            (tagged, ("1", APP, "latest"), None),
            // Another image of the same tag.
            (app, ("2", WEB, "latest"), Some(("1", APP, ""))),
            (app, ("2", "", "latest"), Some(("1", APP, ""))),
            (app, web, Some(("1", APP, ""))),
            // Nothing in common.
            (app, ("2", "docker.io/library/app:2", "2"), Some(app)),
            (tagged, ("2", "", "2"), Some(tagged)),
            (("1", "", ""), ("2", "", ""), Some(("1", "", ""))),
            (("1", "", ""), ("1", "", ""), None),
        ] {
            let of = |(digest, whole, tag)| entry(digest, whole, tag);
            let mut list = vec![of(old)];
            enter(&mut list, of(new));
            let expected: Vec<Value> = left.into_iter().chain([new]).map(of).collect();
            assert_eq!(list, expected, "{old:?}, then {new:?}");
        }
    }
}
