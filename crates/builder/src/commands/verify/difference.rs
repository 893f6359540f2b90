//! What two JSON documents differ in.

use std::collections::BTreeSet;

use serde_json::Value;

/// A value that is not the same, or stands in one document only.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Difference {
    /// As a JSON pointer (RFC 6901): `/config/Env/0`.
    pub(super) place: String,
    pub(super) image: Option<Value>,
    pub(super) rebuilt: Option<Value>,
}

/// All values that differ, in order of the first document.
pub(super) fn differences(image: &Value, rebuilt: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(String::new(), Some(image), Some(rebuilt), &mut found);
    found
}

fn compare(place: String, image: Option<&Value>, rebuilt: Option<&Value>, found: &mut Vec<Difference>) {
    match (image, rebuilt) {
        (Some(Value::Object(image)), Some(Value::Object(rebuilt))) => {
            let keys: BTreeSet<&String> = image.keys().chain(rebuilt.keys()).collect();
            for key in keys {
                let step = key.replace('~', "~0").replace('/', "~1");
                compare(format!("{place}/{step}"), image.get(key), rebuilt.get(key), found);
            }
        }
        (Some(Value::Array(image)), Some(Value::Array(rebuilt))) => {
            for at in 0..image.len().max(rebuilt.len()) {
                compare(format!("{place}/{at}"), image.get(at), rebuilt.get(at), found);
            }
        }
        _ if image != rebuilt => {
            found.push(Difference { place, image: image.cloned(), rebuilt: rebuilt.cloned() });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_are_pointers() {
        let image =
            json!({ "a/b": 1, "same": [1, { "x": null }], "list": [1, 2, 3], "gone": true, "kind": {} });
        let rebuilt = json!({ "a/b": 2, "same": [1, { "x": null }], "list": [1, 5], "new": "", "kind": [] });
        let found = differences(&image, &rebuilt);
        let places: Vec<&str> = found.iter().map(|one| one.place.as_str()).collect();
        assert_eq!(places, ["/a~1b", "/gone", "/kind", "/list/1", "/list/2", "/new"]);
        assert_eq!((&found[1].image, &found[1].rebuilt), (&Some(json!(true)), &None));
    }
}
