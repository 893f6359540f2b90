//! `--cache-from` and `--cache-to`: where results come from, and where they go.

use std::path::PathBuf;
use std::time::Duration;

use hash::Digest;
use image::{MediaTypes, Reference};
use warm::ArtifactForm;
use worker::LayerForm;

use super::limits::duration;
use super::output::{Attributes, fields};

/// How long a cache is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The tag of caches that have none.
const TAG: &str = "latest";

/// What there is to choose from.
const SOURCES: &str = "one of registry, local";
const TARGETS: &str = "one of registry, local, inline";

/// A cache that results are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheSource {
    pub(super) place: Place,
    /// How long its document is waited for, and then for any sign of life.
    pub(super) patience: Duration,
}

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A layout in a directory.
    Local { path: PathBuf, tag: String, digest: Option<Digest> },
    /// A registry; `insecure`: without a valid certificate, and over plain HTTP.
    Registry { name: Reference, insecure: bool },
}

/// A cache that results are put into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CacheTarget {
    /// The image itself.
    Inline,
    /// One that stands by itself.
    Standing(Standing),
}

/// A cache of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(super) place: Place,
    /// Whether it gets all results, not those alone whose layers the image has.
    pub(super) max: bool,
    pub(super) layers: LayerForm,
    /// Whether layers that came from another cache are compressed so as well.
    pub(super) force: bool,
    pub(super) form: ArtifactForm,
    /// How long a registry is waited for that neither takes nor says anything, where it is not as long as any other is.
    pub(super) patience: Option<Duration>,
    /// Whether the build succeeds without it.
    pub(super) ignore_error: bool,
}

impl CacheTarget {
    pub(super) fn is_inline(&self) -> bool {
        *self == CacheTarget::Inline
    }
}

/// Parses the value of `--cache-from`.
pub(super) fn parse_source(text: &str) -> Result<CacheSource, String> {
    let Some((kind, mut attributes)) = read(text, SOURCES)? else {
        let place = Place::Registry { name: bare(text, "src")?, insecure: false };
        return Ok(CacheSource { place, patience: PATIENCE });
    };
    let patience = patience(&mut attributes)?.unwrap_or(PATIENCE);
    let place = match kind.as_str() {
        "local" => {
            let path = path("src", &mut attributes)?;
            let digest = attributes.take("digest").map(|text| text.parse::<Digest>()).transpose();
            let digest = digest.map_err(|error| format!("digest: {error}"))?;
            Place::Local { path, tag: tag(&mut attributes), digest }
        }
        "registry" => registry(&mut attributes)?,
        "inline" => {
            return Err(
                "what an image carries is found by the image's name: type=registry,ref=NAME".to_owned()
            );
        }
        other => return Err(unknown(other, SOURCES)),
    };
    attributes.end(&kind)?;
    Ok(CacheSource { place, patience })
}

/// Parses the value of `--cache-to`.
pub(super) fn parse_target(text: &str) -> Result<CacheTarget, String> {
    let (kind, mut attributes) = match read(text, TARGETS)? {
        Some(read) => read,
        None => {
            bare(text, "dest")?;
            ("registry".to_owned(), Attributes::of(&[format!("ref={text}")])?)
        }
    };
    if kind == "inline" {
        attributes.end(&kind)?;
        return Ok(CacheTarget::Inline);
    }
    let place = match kind.as_str() {
        "local" => {
            let path = path("dest", &mut attributes)?;
            Place::Local { path, tag: tag(&mut attributes), digest: None }
        }
        "registry" => registry(&mut attributes)?,
        other => return Err(unknown(other, TARGETS)),
    };
    if let Place::Registry { name: Reference { digest: Some(_), .. }, .. } = &place {
        return Err("a cache is written under a tag, not under a digest".to_owned());
    }
    let max = match attributes.take("mode").as_deref() {
        None | Some("" | "min") => false,
        Some("max") => true,
        Some(other) => return Err(format!("mode={other}: expected min or max")),
    };
    let (compression, level) = attributes.compression()?;
    let types = attributes.types(compression)?.unwrap_or(MediaTypes::Oci);
    let image_manifest = attributes.boolean("image-manifest", types == MediaTypes::Oci)?;
    if image_manifest && types == MediaTypes::Docker {
        return Err("image-manifest=true needs OCI media types: leave oci-mediatypes=false out".to_owned());
    }
    let target = Standing {
        place,
        max,
        layers: LayerForm { compression, level, epoch: None },
        force: attributes.boolean("force-compression", false)?,
        form: ArtifactForm { image_manifest, types },
        patience: patience(&mut attributes)?,
        // Upstream's default is an error. A cache is worth less than the build that it was to make faster.
        ignore_error: attributes.boolean("ignore-error", true)?,
    };
    attributes.end(&kind)?;
    Ok(CacheTarget::Standing(target))
}

/// Type and attributes; `None` of a name alone.
fn read(text: &str, types: &str) -> Result<Option<(String, Attributes)>, String> {
    let fields = fields(text)?;
    match &fields[..] {
        [only] if !only.contains('=') => return Ok(None),
        _ => {}
    }
    let mut attributes = Attributes::of(&fields)?;
    match attributes.take("type") {
        Some(kind) => Ok(Some((kind, attributes))),
        None => Err(attributes.without_type(types)),
    }
}

fn unknown(kind: &str, types: &str) -> String {
    match kind {
        "gha" | "s3" | "azblob" => format!("type={kind} is not supported yet: {types}"),
        _ => format!("unknown type `{kind}`: {types}"),
    }
}

/// A name that stands alone is that of an image; what can only be a directory is not taken for one.
fn bare(text: &str, key: &str) -> Result<Reference, String> {
    let hint = format!("a directory is given as type=local,{key}={text}");
    match text.starts_with(['/', '.', '~']) {
        true => Err(hint),
        false => reference(text).map_err(|error| format!("{error}; {hint}")),
    }
}

fn path(key: &str, attributes: &mut Attributes) -> Result<PathBuf, String> {
    match attributes.take(key) {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Err(format!("type=local needs {key}=DIRECTORY")),
    }
}

fn patience(attributes: &mut Attributes) -> Result<Option<Duration>, String> {
    let parse = |text: String| duration(&text).map_err(|error| format!("timeout={text}: {error}"));
    attributes.take("timeout").map(parse).transpose()
}

fn tag(attributes: &mut Attributes) -> String {
    attributes.take("tag").filter(|tag| !tag.is_empty()).unwrap_or_else(|| TAG.to_owned())
}

fn registry(attributes: &mut Attributes) -> Result<Place, String> {
    let name = attributes.take("ref").ok_or("type=registry needs ref=NAME")?;
    let insecure = attributes.boolean("registry.insecure", false)?;
    Ok(Place::Registry { name: reference(&name)?, insecure })
}

fn reference(name: &str) -> Result<Reference, String> {
    name.parse().map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use image::Compression;

    use super::*;

    fn standing(text: &str) -> Standing {
        match parse_target(text) {
            Ok(CacheTarget::Standing(target)) => target,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn sources() {
        let local = parse_source("type=local,src=x").unwrap();
        assert_eq!(local.place, Place::Local { path: "x".into(), tag: "latest".into(), digest: None });
        assert_eq!(local.patience, PATIENCE);
        let quick =
            parse_source("type=registry,ref=r.example/c:1,timeout=2s,registry.insecure=true").unwrap();
        assert_eq!(quick.patience, Duration::from_secs(2));
        assert!(matches!(quick.place, Place::Registry { insecure: true, .. }));
        assert!(matches!(
            parse_source("r.example/app").unwrap().place,
            Place::Registry { insecure: false, .. }
        ));
        for wrong in [
            "",
            "src=x",
            "type=local",
            "type=local,dest=x",
            "type=local,src=x,mode=max",
            "type=local,src=x,digest=1",
            "type=registry",
            "type=registry,ref=A B",
            "type=inline",
            "type=gha",
            "type=nothing",
            "type=local,src=x,timeout=soon",
        ] {
            assert!(parse_source(wrong).is_err(), "{wrong}");
        }
        let says = |text: &str, said: &str| refused(text, parse_source(text), said);
        says("type=gha", "not supported yet");
        says("./cache", "type=local,src=./cache");
        says("/tmp/cache", "type=local,src=/tmp/cache");
        // A folder of that name says nothing about an image.
        assert!(matches!(parse_source("src").unwrap().place, Place::Registry { .. }));
        says("Some Thing", "type=local,src=Some Thing");
        says("type=local,scr=x", "type=local needs src=");
        says("type=local,src=x,tga=y", "did you mean `tag`?");
        says("type=local,src=x,mode=max", "not supported yet");
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(text: &str, parsed: Result<T, String>, said: &str) {
        let error = parsed.unwrap_err();
        assert!(error.contains(said), "{text}: {error}");
    }

    #[test]
    fn targets() {
        assert_eq!(parse_target("type=inline"), Ok(CacheTarget::Inline));
        let plain = standing("type=local,dest=x");
        assert!(!plain.max && plain.ignore_error && plain.form.image_manifest);
        assert_eq!(plain.patience, None);
        assert!(!standing("type=local,dest=x,ignore-error=false").ignore_error);
        assert_eq!(plain.layers.compression, Compression::Gzip);
        let all = "type=registry,ref=r/c:1,mode=max,compression=zstd,compression-level=9,force-compression=true,\
                   ignore-error=true,timeout=5s,image-manifest=false,oci-mediatypes=true";
        let all = standing(all);
        assert!(all.max && all.force && all.ignore_error && !all.form.image_manifest);
        assert_eq!((all.layers.compression, all.layers.level), (Compression::Zstd, Some(9)));
        assert_eq!(all.patience, Some(Duration::from_secs(5)));
        let docker = standing("type=local,dest=x,oci-mediatypes=false");
        assert_eq!((docker.form.types, docker.form.image_manifest), (MediaTypes::Docker, false));
        assert!(matches!(standing("r.example/c").place, Place::Registry { .. }));
        for wrong in [
            "type=inline,mode=max",
            "type=local,src=x",
            "type=local,dest=x,mode=most",
            "type=local,dest=x,oci-mediatypes=false,image-manifest=true",
            "type=local,dest=x,compression=zstd,oci-mediatypes=false",
            "type=registry,ref=r/c@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "type=s3,bucket=x",
            "type=local,dest=x,ignore-error=maybe",
            "type=local,dest=x,timeout=soon",
        ] {
            assert!(parse_target(wrong).is_err(), "{wrong}");
        }
        let says = |text: &str, said: &str| refused(text, parse_target(text), said);
        says("./cache", "type=local,dest=./cache");
        says("dest=x", "one of registry, local, inline");
        says("type=lokal,dest=x", "one of registry, local, inline");
        says("type=registry,ref=r/c:1,mdoe=max", "did you mean `mode`?");
        says("type=local,dest=x,conpression=zstd", "did you mean `compression`?");
    }
}
