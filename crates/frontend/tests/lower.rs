//! Dockerfiles in, plans out. `testdata/frontend/NAME/X.Dockerfile` is the input, `X.plan` beside it what is expected, written
//! by a run that fails when it is missing (and anew with `UPDATE_EXPECT=1`): read it before you keep it. Options stand in the Dockerfile as comments: `#> target=build`.
//! The images that exist are those of `images.json`.

mod dump;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use files::{Ignore, Selection};
use frontend::{
    EpochTime, ImageOrigin, ImageRequest, Lowered, NamedContext, NoCache, Options, epoch_source, lower,
    targets,
};
use graph::{Definition, MountKind, Network, Op};
use hash::Digest;
use image::{
    BlobSource, Compression, ContentStore, Descriptor, ImageConfig, Layer, MediaType, ResolveError,
    ResolvedImage, TransferProgress,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

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
                    "host" => Network::Host,
                    other => panic!("network {other}"),
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
        index: None,
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

/// Inputs come before what uses them, and mounts name inputs that are there, as one path without wildcards.
fn verify_inputs(definition: &Definition) {
    for (id, vertex) in definition.iter() {
        assert!(vertex.inputs.iter().all(|input| input.vertex < id));
        let Op::Exec(exec) = &vertex.op else { continue };
        for mount in &exec.mounts {
            assert!(mount.target.starts_with('/') && mount.target != "/", "{mount:?}");
            let input = match &mount.kind {
                MountKind::Bind { input } => Some(*input),
                MountKind::Cache(cache) => cache.seed,
                _ => None,
            };
            let Some(input) = input else { continue };
            assert!(input > 0);
            let selection = &vertex.inputs[input].selection;
            assert!(matches!(selection, Selection::Path(path) if !path.wildcards && path.exclude.is_empty()));
            let of_context = definition.vertex(vertex.inputs[input].vertex);
            assert!(!matches!(&of_context.op, Op::Source(source) if source.is_keyed_by_content()));
        }
    }
}

/// What every plan must keep to, whatever the file.
fn verify_plan(text: &str) {
    let parsed = parser::parse(text);
    let mut options = options("");
    options.allow.extend(["network.host", "security.insecure", "device"].map(str::to_owned));
    let places = |findings: &[parser::Diagnostic]| {
        for finding in findings {
            assert!(text.get(finding.span.range()).is_some(), "{finding:?}");
            for label in &finding.related {
                assert!(text.get(label.span.range()).is_some(), "{finding:?}");
            }
        }
    };
    for target in targets(&parsed) {
        assert!(text.get(target.span.range()).is_some(), "{target:?}");
    }
    places(&parsed.diagnostics);
    for stage in &parsed.dockerfile.stages {
        let spans = stage.instructions.iter().map(|instruction| instruction.span);
        for span in std::iter::once(stage.from.span).chain(spans) {
            assert!(text.get(span.range()).is_some(), "{span:?}");
        }
    }
    let mut images = BTreeMap::new();
    for _ in 0..5 {
        match lower(&parsed, &options, &images) {
            Err(findings) => {
                assert!(findings.iter().any(parser::Diagnostic::is_error));
                places(&findings);
                return;
            }
            Ok(Lowered::Plan(plan)) => {
                places(&plan.warnings);
                verify_inputs(&plan.definition);
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

/// The names of steps and the texts of history.
fn readable(text: &str) -> Vec<String> {
    let busybox = ImageRequest {
        origin: ImageOrigin::Reference("busybox".parse().unwrap()),
        platform: "linux/amd64".parse().unwrap(),
    };
    let images = BTreeMap::from([(busybox.clone(), catalogue(&busybox).unwrap())]);
    let Ok(Lowered::Plan(plan)) = lower(&parser::parse(text), &options(text), &images) else {
        panic!("{text}");
    };
    let names = plan.definition.iter().map(|(_, vertex)| vertex.name.clone());
    let history = plan.targets[0].config.history.iter().filter_map(|entry| entry.created_by.clone());
    names.chain(history).collect()
}

#[test]
fn secret_like_values_are_hidden_without_any_run() {
    let text =
        "#> build-arg=API_TOKEN=hunter22\nFROM scratch\nARG API_TOKEN\nADD https://h/?t=$API_TOKEN /f\n";
    let readable = readable(text).join("\n");
    assert!(!readable.contains("hunter22"), "{readable}");
    assert!(readable.contains("[internal] load https://h/?t=***\n"), "{readable}");
    assert!(readable.contains("1/1] ADD https://h/?t=*** /f\n"), "{readable}");
}

#[test]
fn secret_like_values_are_hidden_in_history_whatever_instruction_has_them() {
    for instruction in [
        "ADD https://h/$API_TOKEN /f",
        "COPY --chown=$API_TOKEN a-$API_TOKEN \"/b/${API_TOKEN}\"",
        "WORKDIR /w/${API_TOKEN%2}",
        "WORKDIR /w/$API_TOKEN\nWORKDIR below",
        "LABEL $API_TOKEN=$API_TOKEN",
        "ENV A=x$API_TOKEN\nLABEL l=$A",
        "ENV OTHER_TOKEN=hunter22",
        "ARG A=x$API_TOKEN\nRUN echo $A",
        "USER $API_TOKEN",
        "VOLUME $API_TOKEN",
        "ONBUILD LABEL l=$API_TOKEN\nFROM base AS next\nARG API_TOKEN",
    ] {
        let text =
            format!("#> build-arg=API_TOKEN=hunter22\nFROM busybox AS base\nARG API_TOKEN\n{instruction}\n");
        let readable = readable(&text).join("\n");
        assert!(!readable.contains("hunter2"), "{instruction}: {readable}");
        assert!(readable.contains("***"), "{instruction}: {readable}");
    }
}

#[test]
fn secret_like_values_are_in_no_message() {
    let messages = |body: &str| {
        let text = format!("ARG API_TOKEN=hunter22\n{body}\n");
        match frontend::lower(&parser::parse(&text), &Options::default(), &BTreeMap::new()) {
            Ok(Lowered::Missing(missing)) => {
                missing.iter().map(|image| image.hidden.conceal(&image.name).into_owned()).collect()
            }
            Ok(Lowered::Plan(plan)) => plan.warnings.iter().map(|warning| format!("{warning:?}")).collect(),
            Err(findings) => findings.iter().map(|finding| format!("{finding:?}")).collect::<Vec<_>>(),
        }
    };
    for (body, shown) in [
        ("FROM h/$API_TOKEN/img", "h/***/img"),
        ("FROM busybox:$API_TOKEN@@", "`busybox:***@@`"),
        ("FROM --platform=$API_TOKEN/a/b/c/d busybox", "***/a/b/c/d"),
        ("FROM scratch\nARG API_TOKEN\nEXPOSE $API_TOKEN", "`***` is no port"),
        ("FROM scratch\nARG API_TOKEN\nSTOPSIGNAL $API_TOKEN", "***"),
        ("FROM scratch\nARG API_TOKEN\nCOPY --chmod=$API_TOKEN a b", "***"),
        ("FROM scratch\nARG API_TOKEN\nRUN --mount=type=$API_TOKEN true", "***"),
    ] {
        let messages = messages(body).join("\n");
        assert!(!messages.contains("hunter22"), "{body}: {messages}");
        assert!(messages.contains(shown), "{body}: {messages}");
    }
    // Nobody substituted it there.
    assert_eq!(messages("FROM hunter22"), ["hunter22"]);
}

#[test]
fn words_that_are_written_so_have_no_stars() {
    let text = "#> build-arg=POSTGRES_PASSWORD=busybox\nFROM busybox\nARG POSTGRES_PASSWORD\nENV TOKENIZERS_PARALLELISM=false\n\
                RUN git config core.autocrlf false\nCOPY false /busybox\nLABEL l=busybox m=$l\n";
    let readable = readable(text);
    let stars: Vec<&String> = readable.iter().filter(|text| text.contains('*')).collect();
    let expected = [
        "ARG POSTGRES_PASSWORD=***",
        "ENV TOKENIZERS_PARALLELISM=***",
        "RUN |1 POSTGRES_PASSWORD=*** /bin/sh -c git config core.autocrlf false # buildkit",
    ];
    assert_eq!(stars, expected);
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
        "--link",
        "--parents",
        "--parents=false",
        "--exclude=*.md",
        "--keep-git-dir",
        "--checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d",
        "--checksum=abc",
        "--unpack",
        "--unpack=$A",
        "--platform=$BUILDPLATFORM",
        "--platform=linux/arm64",
        "--network=host",
        "--network=none",
        "--security=insecure",
        "--device=a/b=c,required",
        "--timeout=1s",
        "--retry=2",
        "--mount=type=cache,target=/c,sharing=locked",
        "--mount=type=bind,target=/b,from=a",
        "--mount=type=bind,source=$A,rw",
        "--mount=type=secret,id=s,env=S",
        "--mount=type=ssh,required",
        "--mount=type=tmpfs,target=$B,size=1m",
        "--mount=type=$A,target=/x",
        "--mount=",
        "--interval=1s",
        "--retries=x",
        "https://x/y.tar",
        "https://x/y.git#a:b",
        "git@x:y?ref=$A",
        "a/./b",
        "#!/bin/sh",
        "--from=0",
        "--from=c",
        "--chown=a:b",
        "--chmod=755",
        "--chmod=x",
        "<<EOF",
        "<<-\"E F\"",
        "\nEOF\n",
        "\n#!/bin/sh\nEOF\n",
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
        "# check=skip=all;error=true",
        "# escape=`\nFROM",
        "ONBUILD ADD",
        "RUN <<EOF\n#!/bin/sh\nEOF\nRUN",
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

/// Bytes that may be no text at all, cut into a file that is.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let file = prop::collection::vec(line(), 1..12).prop_map(|lines| lines.join("\n").into_bytes());
    (file, prop::collection::vec(any::<u8>(), 0..6), any::<prop::sample::Index>(), 0..8usize).prop_map(
        |(mut file, bytes, at, cut)| {
            let at = at.index(file.len());
            let end = (at + cut).min(file.len());
            file.splice(at..end, bytes);
            file
        },
    )
}

/// The fuzz target: random files for as long as `FUZZ_SECONDS` says (2 without it), from a seed that `FUZZ_SEED` can repeat. None
/// makes the parser or the frontend panic or take two seconds; all places that they give are in the text.
#[test]
fn lowering_never_panics_for_a_while() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(2));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("FUZZ_SEED").unwrap_or(now.as_nanos() as u64);
    println!("FUZZ_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let files = prop::collection::vec(line(), 0..20).prop_map(|lines| lines.join("\n"));
    let damaged = damaged();
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time {
        let text = files.new_tree(&mut runner).unwrap().current();
        in_time(&text);
        in_time(&format!("FROM busybox AS c\n{text}\n"));
        let bytes = damaged.new_tree(&mut runner).unwrap().current();
        let (text, _) = parser::parse_bytes(&bytes);
        in_time(&text);
        count += 3;
    }
    println!("{count} files");
}

/// Verifies what a file gives, in a thread of its own: one that never ends fails the test as well. Where the machine did something else
/// meanwhile, it is verified again.
fn in_time(text: &str) {
    let times: Vec<Duration> =
        (0..3).map(|_| time_of(text)).take_while(|took| *took >= Duration::from_secs(2)).collect();
    assert!(times.len() < 3, "{times:?}: {text:?}");
}

fn time_of(text: &str) -> Duration {
    let began = Instant::now();
    let (done, ended) = std::sync::mpsc::channel();
    let own = text.to_owned();
    let thread = std::thread::spawn(move || {
        verify_plan(&own);
        let _ = done.send(());
    });
    match ended.recv_timeout(Duration::from_secs(60)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("no end in 60 seconds: {text:?}"),
        // It ended, or panicked, which joining tells.
        Ok(()) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {}
    }
    assert!(thread.join().is_ok(), "it panics: {text:?}");
    began.elapsed()
}
