//! Annotations as they are typed: `--annotation` and attributes of `--output`.

use exporter::{Annotation, AnnotationPlace};
use image::Platform;

/// Parses `[PLACE[,PLACE]:]KEY=VALUE`, where a place is manifest (the default), index, manifest-descriptor or index-descriptor, the first
/// and the third with a platform: `manifest[linux/amd64]`.
pub(super) fn parse(text: &str) -> Result<Vec<Annotation>, String> {
    let (name, value) = text.split_once('=').ok_or("expected [PLACE:]KEY=VALUE")?;
    let (places, key) = match name.split_once(':') {
        Some((places, key)) => (places, key),
        None => ("manifest", name),
    };
    places.split(',').map(|place| annotation(place, key, value)).collect()
}

/// Whether an attribute of an output is an annotation.
pub(super) fn is_attribute(key: &str) -> bool {
    key.strip_prefix("annotation").is_some_and(|rest| rest.starts_with(['.', '-', '[']))
}

/// Parses the attribute `annotation[-PLACE][[PLATFORM]].KEY`.
pub(super) fn of_attribute(name: &str, value: &str) -> Result<Annotation, String> {
    let malformed = || format!("`{name}`: expected annotation[-PLACE][[PLATFORM]].KEY");
    let rest = name.strip_prefix("annotation").ok_or_else(malformed)?;
    // A platform has no dot, so the first one behind it ends the place.
    let (place, key) = rest.split_once('.').ok_or_else(malformed)?;
    let place = match place {
        "" => "manifest".to_owned(),
        platform if platform.starts_with('[') => format!("manifest{platform}"),
        place => place.strip_prefix('-').ok_or_else(malformed)?.to_owned(),
    };
    annotation(&place, key, value)
}

fn annotation(place: &str, key: &str, value: &str) -> Result<Annotation, String> {
    let (name, platform) = match place.split_once('[') {
        None => (place, None),
        Some((name, rest)) => {
            let platform = rest.strip_suffix(']').ok_or_else(|| format!("`{place}`: a `]` is missing"))?;
            let platform: Platform =
                platform.parse().map_err(|error| format!("annotation of `{place}`: {error}"))?;
            (name, Some(platform))
        }
    };
    let place = match name {
        "manifest" => AnnotationPlace::Manifest,
        "manifest-descriptor" => AnnotationPlace::ManifestDescriptor,
        "index" => AnnotationPlace::Index,
        "index-descriptor" => AnnotationPlace::IndexDescriptor,
        other => {
            return Err(format!(
                "annotation place `{other}`: one of manifest, manifest-descriptor, index, index-descriptor"
            ));
        }
    };
    if platform.is_some() && matches!(place, AnnotationPlace::Index | AnnotationPlace::IndexDescriptor) {
        return Err("an index is of no single platform".to_owned());
    }
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err("an annotation needs a key without blanks".to_owned());
    }
    Ok(Annotation { place, platform, key: key.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<(AnnotationPlace, Option<String>, String)> {
        let parsed = parse(text).unwrap();
        let one = |one: Annotation| (one.place, one.platform.map(|platform| platform.to_string()), one.key);
        parsed.into_iter().map(one).collect()
    }

    #[test]
    fn flags() {
        use AnnotationPlace::{Index, Manifest, ManifestDescriptor};
        assert_eq!(places("a=b"), [(Manifest, None, "a".to_owned())]);
        assert_eq!(
            places("index,manifest:a=b:c"),
            [(Index, None, "a".to_owned()), (Manifest, None, "a".to_owned())]
        );
        assert_eq!(
            places("manifest-descriptor[linux/arm64]:a.b=c"),
            [(ManifestDescriptor, Some("linux/arm64".to_owned()), "a.b".to_owned())]
        );
        assert_eq!(parse("a=b=c").unwrap()[0].value, "b=c");
        for text in ["a", "=b", "layer:a=b", "index[linux/amd64]:a=b", "manifest[linux:a=b", "a b=c"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn attributes() {
        let one = |name| of_attribute(name, "v").unwrap();
        assert_eq!(one("annotation.org.a").key, "org.a");
        assert_eq!(one("annotation-index.x").place, AnnotationPlace::Index);
        let of_platform = one("annotation-manifest[linux/arm/v7].x.y");
        assert_eq!(of_platform.platform.unwrap().to_string(), "linux/arm/v7");
        assert_eq!(one("annotation[linux/amd64].x").place, AnnotationPlace::Manifest);
        assert!(is_attribute("annotation.a") && !is_attribute("annotations"));
        assert!(of_attribute("annotation-x.a", "").is_err());
    }
}
