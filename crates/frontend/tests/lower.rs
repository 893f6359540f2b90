//! Dockerfiles in, plans out. `testdata/frontend/NAME/X.Dockerfile` is the input, `X.plan` beside it what is expected, written
//! by a run that fails when it is missing (and anew with `UPDATE_EXPECT=1`): read it before you keep it. Options stand in the Dockerfile as comments: `#> target=build`.
//! The images that exist are those of `images.json`.

mod dump;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use files::Ignore;
use frontend::{
    EpochTime, ImageOrigin, ImageRequest, Lowered, NamedContext, NoCache, Options, epoch_source, lower,
    targets,
};
use graph::Network;
use hash::Digest;
use image::{
    BlobSource, Compression, ContentStore, Descriptor, ImageConfig, Layer, MediaType, ResolveError,
    ResolvedImage, TransferProgress,
};
use proptest::prelude::*;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/frontend")
}

/// Lowers a text with its options, resolving images from the catalogue, and says what came out.
fn lowered(text: &str) -> String {
    let mut out = String::new();
    let parsed = parser::parse(text);
    let options = options(text);
    let mut images = BTreeMap::new();
    if asks(text, "targets") {
        dump::targets(&mut out, text, &targets(&parsed));
    }
    if let Ok(Some(source)) = epoch_source(&parsed, &options) {
        dump::epoch_source(&mut out, &source);
    }
    for _ in 0..5 {
        match lower(&parsed, &options, &images) {
            Err(findings) => {
                dump::findings(&mut out, text, &findings);
                return out;
            }
            Ok(Lowered::Plan(plan)) => {
                if asks(text, "outline") {
                    dump::outline(&mut out, text, &plan.targets[0].outline);
                }
                dump::plan(&mut out, text, &plan);
                return out;
            }
            Ok(Lowered::Missing(missing)) => {
                for image in missing {
                    dump::missing(&mut out, text, &image);
                    match catalogue(&image.request) {
                        Some(found) => drop(images.insert(image.request, found)),
                        None => return out + "error: not found\n",
                    }
                }
            }
        }
    }
    panic!("it asks for images again and again: {out}")
}

/// Whether a file wants more of it to be written than the plan.
fn asks(text: &str, what: &str) -> bool {
    text.lines().any(|line| line.strip_prefix("#> ") == Some(what))
}

fn options(text: &str) -> Options {
    let mut options = Options { build_platform: "linux/amd64".parse().unwrap(), ..Options::default() };
    for line in text.lines().filter_map(|line| line.strip_prefix("#> ")) {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let pair = || {
            let (name, value) = value.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        match key {
            "target" => options.target = Some(value.to_owned()),
            "platform" => options.platforms.push(value.parse().unwrap()),
            "no-cache" => options.no_cache = NoCache::All,
            "no-cache-filter" => {
                options.no_cache = NoCache::Stages(value.split(',').map(str::to_owned).collect());
            }
            "network" => {
                options.network = match value {
                    "none" => Network::None,
                    "private" => Network::Private,
                    _ => Network::Host,
                };
            }
            "outline" | "targets" => {}
            "ignore" => {
                options.ignore = Some(Arc::new(Ignore::from_patterns(value.split(' ')).unwrap()));
            }
            "epoch" => {
                options.epoch = value.parse().map_or(EpochTime::None, EpochTime::Seconds);
            }
            "allow" => drop(options.allow.insert(value.to_owned())),
            "timeout" => options.timeout = Some(Duration::from_secs(value.parse().unwrap())),
            "retries" => options.retries = value.parse().unwrap(),
            "secret-version" => options.secret_versions.extend([pair()]),
            "add-host" => options.extra_hosts.push(pair()),
            "build-arg" => options.build_args.extend([pair()]),
            "label" => options.labels.extend([pair()]),
            "context" => {
                let (name, kind) = pair();
                let kind = match kind.as_str() {
                    "directory" => NamedContext::Directory,
                    "scratch" => NamedContext::Scratch,
                    _ => NamedContext::Image,
                };
                options.named_contexts.insert(name, kind);
            }
            _ => panic!("unknown option: {line}"),
        }
    }
    options
}

/// The image of a name. Contexts hold the image of the context's name.
fn catalogue(request: &ImageRequest) -> Option<Arc<ResolvedImage>> {
    let name = match &request.origin {
        ImageOrigin::Reference(reference) => {
            let name = reference.familiar();
            name.strip_suffix(":latest").map(str::to_owned).unwrap_or(name)
        }
        ImageOrigin::Context(name) => name.clone(),
    };
    let all = fs::read_to_string(testdata().join("images.json")).unwrap();
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    let entry = all.get(&name)?;
    let mut config: ImageConfig = serde_json::from_value(entry["config"].clone()).unwrap();
    if config.architecture.is_empty() {
        config.os = request.platform.os.clone();
        config.architecture = request.platform.architecture.clone();
        config.variant = request.platform.variant.clone();
    }
    let descriptor = |text: String| Descriptor {
        media_type: MediaType::MANIFEST.to_owned(),
        digest: Digest::of(text.as_bytes()),
        size: 1,
        urls: Vec::new(),
        annotations: BTreeMap::new(),
        platform: None,
    };
    let layers = 0..entry["layers"].as_u64().unwrap_or(1);
    Some(Arc::new(ResolvedImage {
        manifest_digest: Digest::of(format!("{name} {}", request.platform).as_bytes()),
        manifest: descriptor(name.clone()),
        config_digest: Digest::of(b"config"),
        platform: request.platform.clone(),
        layers: layers
            .map(|layer| Layer {
                descriptor: Descriptor {
                    media_type: Compression::Gzip.layer_media_type(),
                    ..descriptor(format!("{name} {layer}"))
                },
                diff_id: Digest::of(format!("{name} {layer}").as_bytes()),
            })
            .collect(),
        documents: None,
        blobs: Arc::new(NoBlobs),
        config,
        name,
    }))
}

/// Lowering fetches nothing.
struct NoBlobs;

#[async_trait]
impl BlobSource for NoBlobs {
    async fn fetch(
        &self,
        blob: &Descriptor,
        _store: &dyn ContentStore,
        _progress: &dyn TransferProgress,
    ) -> Result<(), ResolveError> {
        Err(ResolveError::NotFound(blob.digest.to_string()))
    }
}

fn check(folder: &str, verify: impl Fn(&str, &str)) {
    let mut cases: Vec<PathBuf> = fs::read_dir(testdata().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {folder}");
    let mut wrong = Vec::new();
    for case in cases {
        let text = fs::read_to_string(&case).unwrap();
        let actual = lowered(&text);
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        verify(&name, &actual);
        let expectation = case.with_extension("plan");
        let expected = fs::read_to_string(&expectation).unwrap_or_default();
        if expected == actual {
            continue;
        }
        if expected.is_empty() || std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&expectation, &actual).unwrap();
        }
        wrong.push(format!("--- {name}: expected\n{expected}+++ got\n{actual}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_that_can_be_built() {
    check("ok", |name, actual| assert!(actual.contains("target "), "{name} failed:\n{actual}"));
}

#[test]
fn files_with_mistakes() {
    check("err", |name, actual| assert!(actual.contains("error"), "{name} has no error:\n{actual}"));
}

/// Each file is named after the rule that it violates, and violates no other.
#[test]
fn violations() {
    check("lint", |name, actual| {
        let rule = format!("[{}]", name.split(['.', '-']).next().unwrap());
        let warnings: Vec<&str> = actual.lines().filter(|line| line.starts_with("warning ")).collect();
        assert!(!warnings.is_empty(), "{name} gives no warning");
        assert!(warnings.iter().all(|line| line.contains(&rule)), "{name}: {warnings:#?}");
    });
}

/// What every plan must keep to, whatever the file.
fn verify_plan(text: &str) {
    let parsed = parser::parse(text);
    let options = options("");
    let mut images = BTreeMap::new();
    for _ in 0..5 {
        match lower(&parsed, &options, &images) {
            Err(findings) => {
                assert!(findings.iter().any(parser::Diagnostic::is_error));
                for finding in findings {
                    assert!(text.get(finding.span.range()).is_some(), "{finding:?}");
                }
                return;
            }
            Ok(Lowered::Plan(plan)) => {
                for target in &plan.targets {
                    let layers = target.config.history.iter().filter(|entry| !entry.empty_layer).count();
                    let below = target.base.as_ref().map_or(0, |base| base.image.layers.len());
                    assert_eq!(layers, below + target.layer_steps.len());
                }
                return;
            }
            Ok(Lowered::Missing(missing)) => {
                for image in missing {
                    let Some(found) = catalogue(&image.request) else { return };
                    images.insert(image.request, found);
                }
            }
        }
    }
    panic!("it asks for images again and again");
}

fn line() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "a",
        "b/",
        "/c",
        "$A",
        "${B:-x}",
        "${C",
        "\"q\"",
        "'",
        "..",
        "*",
        "--from=a",
        "--from=0",
        "--from=c",
        "--chown=a:b",
        "--chmod=755",
        "--chmod=x",
        "<<EOF",
        "A=1",
        "B=$A",
        "[\"x\"]",
        "80/tcp",
        "9",
        "SIGTERM",
        "AS",
        "scratch",
        "busybox",
        "onbuild",
        "full",
        "\\",
        "&&",
    ]);
    let keyword = prop::sample::select(vec![
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "ENV",
        "ARG",
        "WORKDIR",
        "USER",
        "LABEL",
        "EXPOSE",
        "VOLUME",
        "CMD",
        "ENTRYPOINT",
        "SHELL",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "HEALTHCHECK CMD",
        "ONBUILD RUN",
        "ONBUILD COPY",
        "MAINTAINER",
        "EOF",
        "#",
        "FROM scratch AS",
        "FROM busybox AS",
        "FROM a AS",
        "ARG A=1\nFROM",
    ]);
    (keyword, prop::collection::vec(word, 0..4))
        .prop_map(|(keyword, words)| format!("{keyword} {}", words.join(" ")))
}

proptest! {
    #[test]
    fn lowering_never_panics(lines in prop::collection::vec(line(), 0..10), bare: bool) {
        let head = if bare { "" } else { "FROM busybox AS c\n" };
        verify_plan(&format!("{head}{}\n", lines.join("\n")));
    }
}
