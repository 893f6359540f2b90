//! Everything that is written, against the JSON schemas that the OCI image specification publishes (`testdata/image-spec`).

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::{Context, Home, Image, Registry, json, run, tempdir, tool};
use jsonschema::{Draft, Retrieve, Uri, Validator};
use serde_json::Value;

/// The media types of the specification (`media-types.md`) that may stand in an image.
const MEDIA_TYPES: [&str; 6] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
];

fn published(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/image-spec").join(name)
}

/// Finds what schemas refer to by its file name, and nothing anywhere else.
struct Published;

impl Retrieve for Published {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        let name = uri.path().as_str().rsplit('/').next().unwrap_or_default().to_owned();
        Ok(serde_json::from_slice(&fs::read(published(&name))?)?)
    }
}

fn schema(name: &str) -> Validator {
    let schema = json(&published(name));
    let options = jsonschema::options().with_draft(Draft::Draft4).with_retriever(Published);
    options.build(&schema).unwrap_or_else(|error| panic!("{name}: {error}"))
}

struct Schemas {
    layout: Validator,
    index: Validator,
    manifest: Validator,
    config: Validator,
    descriptor: Validator,
    seen: BTreeSet<String>,
}

#[track_caller]
fn check(validator: &Validator, value: &Value) {
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{error} at {}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{value:#}");
}

impl Schemas {
    fn new() -> Schemas {
        Schemas {
            layout: schema("image-layout-schema.json"),
            index: schema("image-index-schema.json"),
            manifest: schema("image-manifest-schema.json"),
            config: schema("config-schema.json"),
            descriptor: schema("content-descriptor.json"),
            seen: BTreeSet::new(),
        }
    }

    /// A layout with everything in it.
    fn layout(&mut self, layout: &Path) {
        check(&self.layout, &json(&layout.join("oci-layout")));
        let index = json(&layout.join("index.json"));
        let read = |digest: &str| {
            let (algorithm, hex) = digest.split_once(':').expect("a digest");
            json(&layout.join("blobs").join(algorithm).join(hex))
        };
        self.document("application/vnd.oci.image.index.v1+json", &index, &read);
    }

    /// A document, and those that it points to.
    fn document(&mut self, media_type: &str, value: &Value, read: &dyn Fn(&str) -> Value) {
        // Where a document says what it is, it says the same.
        assert!(value.get("mediaType").is_none_or(|own| own == media_type), "{media_type}: {value:#}");
        match media_type {
            "application/vnd.oci.image.index.v1+json" => check(&self.index, value),
            "application/vnd.oci.image.manifest.v1+json" => check(&self.manifest, value),
            "application/vnd.oci.image.config.v1+json" => return check(&self.config, value),
            other => panic!("a document of type {other}"),
        }
        let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
        let config = value.get("config").cloned();
        for descriptor in list("manifests").iter().chain(&config) {
            let media_type = self.descriptor(descriptor);
            self.document(&media_type, &read(descriptor["digest"].as_str().expect("a digest")), read);
        }
        for layer in list("layers") {
            self.descriptor(&layer);
        }
    }

    fn descriptor(&mut self, descriptor: &Value) -> String {
        check(&self.descriptor, descriptor);
        let media_type = descriptor["mediaType"].as_str().expect("a media type").to_owned();
        assert!(MEDIA_TYPES.contains(&media_type.as_str()), "{media_type} is none of the specification");
        self.seen.insert(media_type.clone());
        media_type
    }
}

/// A Dockerfile with all that a config can hold.
const EVERYTHING: &str = "\
FROM busybox
LABEL a=b empty=
MAINTAINER me
ENV A=b C=
ARG X=1
EXPOSE 80 53/udp
VOLUME /data /logs
USER 1:2
WORKDIR /srv
COPY --chown=1:2 Dockerfile .
RUN true
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --retries=2 CMD true
SHELL [\"/bin/sh\", \"-ec\"]
ONBUILD RUN true
ENTRYPOINT [\"cat\"]
CMD [\"/f\"]
";

#[test]
fn what_is_written_is_valid() {
    let mut schemas = Schemas::new();
    let (home, dir) = (Home::new(), tempdir());
    let context = Context::new(EVERYTHING);
    let small = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let forms = [
        ("gzip", &context, "", &[][..]),
        ("epoch", &context, "", &["--build-arg=SOURCE_DATE_EPOCH=1"]),
        ("zstd", &context, "compression=zstd,force-compression=true,", &[]),
        ("plain", &context, "compression=uncompressed,force-compression=true,", &[]),
        ("annotated", &context, "annotation.a=b,annotation-manifest-descriptor.c=d,", &[]),
        ("named", &context, "name=registry.example.com/a/b:1,", &[]),
        (
            "platforms",
            &small,
            "annotation-index.a=b,annotation-index-descriptor.c=d,",
            &["--platform=linux/amd64,linux/arm64,linux/arm/v7"],
        ),
    ];
    for (name, context, attributes, arguments) in forms {
        let layout = dir.path().join(name);
        let output = format!("type=oci,tar=false,{attributes}dest={}", layout.display());
        run(home.build(context).args(["-o", &output]).args(arguments)).ok();
        schemas.layout(&layout);
    }
    let seen: Vec<&str> = schemas.seen.iter().map(String::as_str).collect();
    assert_eq!(seen.len(), MEDIA_TYPES.len(), "{seen:?}");

    // An image without layers is what it is, as upstream's: the schema alone wants one, the text says that one should be there.
    let empty = home.export(&Context::new("FROM scratch\nLABEL only=metadata\n"), &[]);
    let errors: Vec<String> =
        schemas.manifest.iter_errors(&empty.manifest).map(|error| error.to_string()).collect();
    assert_eq!(errors, ["[] has less than 1 item"]);

    // Archives, of builds and of the store.
    run(home.build(&context).args(["-t", "app:1"])).ok();
    let at = |name: &str| dir.path().join(name);
    run(home.builder("save").args(["app:1", "-o"]).arg(at("saved.tar"))).ok();
    let dest = format!("type=oci,dest={}", at("oci.tar").display());
    run(home.build(&context).args(["-o", &dest])).ok();
    for archive in ["saved", "oci"] {
        fs::create_dir(at(archive)).expect("make a directory");
        run(tool("tar").arg("-xf").arg(at(&format!("{archive}.tar"))).arg("-C").arg(at(archive))).ok();
        schemas.layout(&at(archive));
    }

    // An image that carries a cache.
    let inline = dir.path().join("inline");
    let output = format!("type=oci,tar=false,dest={}", inline.display());
    run(home.build(&context).args(["--cache-to=type=inline", "-o", &output])).ok();
    assert!(Image::open(inline.clone(), None).config.get("builder.cache.v1").is_some(), "it carries one");
    schemas.layout(&inline);

    // What arrives in a registry.
    let registry = Registry::start(None);
    let name = format!("{}/app:1", registry.address);
    run(home.build(&small).args(["--platform=linux/amd64,linux/arm64", "-t", &name, "--push"])).ok();
    let index = registry.manifest("app:1");
    check(&schemas.index, &index);
    for entry in index["manifests"].as_array().expect("manifests") {
        check(&schemas.descriptor, entry);
        let digest = entry["digest"].as_str().expect("a digest");
        check(&schemas.manifest, &registry.manifest(&format!("app@{digest}")));
    }

    // A cache there, which is an image manifest with a document of its own in the place of the config (`manifest.md`, "Guidelines for Artifact
    // Usage").
    let cache = format!("type=registry,mode=max,ref={}/cache:1", registry.address);
    run(home.build(&context).args(["--cache-to", &cache])).ok();
    let manifest = registry.manifest("cache:1");
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    check(&schemas.manifest, &manifest);
    let layers = manifest["layers"].as_array().expect("a list");
    assert!(!layers.is_empty(), "{manifest:#}");
    for descriptor in layers.iter().chain([&manifest["config"]]) {
        check(&schemas.descriptor, descriptor);
    }
}

/// A schema that accepts everything would accept what is written, too.
#[test]
fn what_is_wrong_is_not_valid() {
    let schemas = Schemas::new();
    let wrong = |validator: &Validator, text: &str| {
        let value: Value = serde_json::from_str(text).expect("JSON");
        assert!(!validator.is_valid(&value), "{text}");
    };
    wrong(&schemas.layout, "{}");
    wrong(&schemas.index, r#"{ "schemaVersion": 1, "manifests": [] }"#);
    wrong(
        &schemas.index,
        r#"{ "schemaVersion": 2, "manifests": [{ "mediaType": "a", "size": 1, "digest": "x" }] }"#,
    );
    wrong(&schemas.manifest, r#"{ "schemaVersion": 2, "layers": [] }"#);
    wrong(&schemas.config, r#"{ "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } }"#);
    wrong(&schemas.descriptor, r#"{ "mediaType": "a/b", "digest": "sha256:0", "size": "1" }"#);
}
