//! A plan as text, for people to read and for comparing.

use std::fmt::Write;

use files::Selection;
use frontend::{EpochSource, ImageOrigin, ImageRequest, MissingImage, Outline, Plan, Target, TargetInfo};
use graph::{
    CacheMount, Definition, Exec, Git, MountKind, Network, Op, Owner, OwnerId, SecretFile, Security, Source,
    VertexId,
};
use image::History;
use parser::Diagnostic;

pub(crate) fn missing(out: &mut String, source: &str, image: &MissingImage) {
    let (line, column) = image.span.line_col(source);
    writeln!(out, "needs `{}`: {} (line {line}, column {column})", image.name, request(&image.request))
        .unwrap();
}

pub(crate) fn findings(out: &mut String, source: &str, findings: &[Diagnostic]) {
    for finding in findings {
        let kind = if finding.is_error() { "error" } else { "warning" };
        let (line, column) = finding.line_col(source);
        let rule = finding.rule.map(|rule| format!(" [{rule}]")).unwrap_or_default();
        writeln!(out, "{kind} {line}:{column}{rule}: {}", finding.message).unwrap();
        let marked = source[finding.span.range()].lines().next().unwrap_or_default();
        if !marked.is_empty() {
            writeln!(out, "    at `{marked}`").unwrap();
        }
        for label in &finding.related {
            let (line, column) = label.span.line_col(source);
            writeln!(out, "    {line}:{column}: {}", label.text).unwrap();
        }
        for note in &finding.notes {
            writeln!(out, "    note: {note}").unwrap();
        }
        if let Some(help) = &finding.help {
            writeln!(out, "    help: {help}").unwrap();
        }
    }
}

pub(crate) fn plan(out: &mut String, source: &str, plan: &Plan) {
    for (id, vertex) in plan.definition.iter() {
        let lines = vertex.lines.map(|(first, last)| format!(" (lines {first}-{last})")).unwrap_or_default();
        let fresh = if vertex.no_cache { " NO CACHE" } else { "" };
        writeln!(out, "#{} {:?}{lines}{fresh}", id.0, vertex.name).unwrap();
        op(out, &vertex.op);
        for input in &vertex.inputs {
            writeln!(out, "    from #{} {}", input.vertex.0, selection(&input.selection)).unwrap();
        }
    }
    for target in &plan.targets {
        self::target(out, &plan.definition, target);
    }
    findings(out, source, &plan.warnings);
    if plan.inline_cache {
        writeln!(out, "inline cache").unwrap();
    }
    if let Some(multi) = plan.multi_platform {
        writeln!(out, "multi-platform {multi}").unwrap();
    }
    for name in &plan.unused_build_args {
        writeln!(out, "unused build argument {name}").unwrap();
    }
    if let Some(epoch) = plan.source_date_epoch {
        writeln!(out, "epoch {epoch}").unwrap();
    }
}

pub(crate) fn targets(out: &mut String, source: &str, targets: &[TargetInfo]) {
    for target in targets {
        let default = if target.default { " (default)" } else { "" };
        let platform = target.platform.as_ref().map(|p| format!(" on {p}")).unwrap_or_default();
        let name = target.name.as_deref().unwrap_or("(no name)");
        let line = target.span.line_col(source).0;
        writeln!(out, "stage {name}{default} from {}{platform}, line {line}", target.base).unwrap();
        if let Some(description) = &target.description {
            writeln!(out, "    {description}").unwrap();
        }
    }
}

pub(crate) fn outline(out: &mut String, source: &str, outline: &Outline) {
    let name = outline.name.as_deref().unwrap_or("(no name)");
    writeln!(out, "outline of {name}: {}", outline.description.as_deref().unwrap_or_default()).unwrap();
    for arg in &outline.args {
        let value = arg.value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
        let description = arg.description.as_deref().unwrap_or_default();
        writeln!(out, "    arg {}{value}, line {}: {description}", arg.name, arg.span.line_col(source).0)
            .unwrap();
    }
    for (kind, mounts) in [("secret", &outline.secrets), ("ssh", &outline.ssh), ("cache", &outline.caches)] {
        for mount in mounts {
            let line = mount.span.line_col(source).0;
            writeln!(out, "    {kind} {}{}, line {line}", mount.id, required(mount.required)).unwrap();
        }
    }
}

pub(crate) fn epoch_source(out: &mut String, source: &EpochSource) {
    match source {
        EpochSource::Context(name) => writeln!(out, "the time of the context {name}"),
        EpochSource::Source(source) => writeln!(out, "the time of {source:?}"),
    }
    .unwrap();
}

fn target(out: &mut String, definition: &Definition, target: &Target) {
    let name = target.name.as_deref().unwrap_or("(no name)");
    writeln!(out, "target {name} {} = #{}", target.platform, target.vertex.0).unwrap();
    if let Some(base) = &target.base {
        writeln!(out, "    base {}, {} layers", request(&base.request), base.image.layers.len()).unwrap();
    }
    let mut config = target.config.clone();
    let history = std::mem::take(&mut config.history);
    let json = serde_json::to_string_pretty(&config).unwrap();
    writeln!(out, "    {}", json.replace('\n', "\n    ")).unwrap();
    let below = target.base.as_ref().map_or(0, |base| base.image.layers.len());
    let mut layers = 0;
    for entry in &history {
        let layer = (!entry.empty_layer).then(|| {
            layers += 1;
            layers - 1
        });
        let made_by = match layer {
            None => "     ".to_owned(),
            Some(layer) if layer < below => " base".to_owned(),
            Some(layer) => format!("{:>5}", format!("#{}", target.layer_steps[layer - below].0)),
        };
        writeln!(out, "    {made_by} {}", history_line(entry)).unwrap();
    }
    assert_eq!(layers, below + target.layer_steps.len(), "each layer has its history entry");
    let on_chain =
        |id: &VertexId| definition.find_root(target.vertex, |op| op == &definition.vertex(*id).op).is_some();
    assert!(target.layer_steps.iter().all(on_chain), "layers are made by the target's own chain");
}

fn history_line(entry: &History) -> String {
    let created_by = entry.created_by.clone().unwrap_or_else(|| "(unknown)".to_owned());
    let comment = match entry.comment.as_deref() {
        Some("buildkit.dockerfile.v0") => String::new(),
        other => format!(" (comment {other:?})"),
    };
    format!("{}{comment}", created_by.replace('\n', "\\n"))
}

fn request(request: &ImageRequest) -> String {
    match &request.origin {
        ImageOrigin::Reference(reference) => format!("image {reference} for {}", request.platform),
        ImageOrigin::Context(name) => format!("context {name} for {}", request.platform),
    }
}

fn op(out: &mut String, op: &Op) {
    let text = match op {
        Op::Merge => "merge".to_owned(),
        Op::Source(Source::Http(http)) => {
            let checksum = http.checksum.map(|checksum| format!(" {checksum}")).unwrap_or_default();
            format!("http {} as {:?}{checksum}", http.url, http.name)
        }
        Op::Source(Source::Git(git)) => self::git(git),
        Op::Source(Source::Scratch) => "scratch".to_owned(),
        Op::Source(Source::Image { name, platform, .. }) => format!("image {name} {platform}"),
        Op::Source(Source::Local { name }) => format!("local {name}"),
        Op::Inline(inline) => {
            let files: Vec<String> = inline
                .files
                .iter()
                .map(|file| {
                    format!("{} {:04o} {:?}", file.name, file.mode, String::from_utf8_lossy(&file.content))
                })
                .collect();
            format!("inline {}", files.join(", "))
        }
        Op::Mkdir(mkdir) => format!("mkdir {} owner {}", mkdir.path, owner(&mkdir.owner)),
        Op::Copy(copy) => {
            let mut text = format!("copy to {}", copy.destination);
            if let Some(id) = &copy.owner {
                write!(text, " owner {}", owner(id)).unwrap();
            }
            if let Some(mode) = &copy.mode {
                write!(text, " mode {mode}").unwrap();
            }
            if copy.unpack {
                text.push_str(" unpack");
            }
            for index in &copy.packed {
                write!(text, " but source {index} stays packed").unwrap();
            }
            text
        }
        Op::Exec(exec) => return self::exec(out, exec),
    };
    writeln!(out, "    {text}").unwrap();
}

fn exec(out: &mut String, exec: &Exec) {
    writeln!(out, "    exec {:?}", exec.args).unwrap();
    let user = if exec.user.is_empty() { "(root)" } else { &exec.user };
    let network = match exec.network {
        Network::None => "none",
        Network::Default => "default",
        Network::Private => "private",
        Network::Host => "host",
    };
    writeln!(out, "    in {} as {user} on {} {} network {network}", exec.cwd, exec.hostname, exec.platform)
        .unwrap();
    let pairs = |pairs: &[(String, String)]| {
        pairs.iter().map(|(name, value)| format!(" {name}={value}")).collect::<String>()
    };
    let env: Vec<(String, String)> = exec.env.iter().cloned().collect();
    writeln!(out, "    env{}", pairs(&env)).unwrap();
    if !exec.unkeyed_env.is_empty() {
        writeln!(out, "    unkeyed{}", pairs(&exec.unkeyed_env)).unwrap();
    }
    if !exec.extra_hosts.is_empty() {
        writeln!(out, "    hosts{}", pairs(&exec.extra_hosts)).unwrap();
    }
    if exec.security == Security::Insecure {
        writeln!(out, "    insecure").unwrap();
    }
    for device in &exec.devices {
        writeln!(out, "    device {}{}", device.name, required(device.required)).unwrap();
    }
    for secret in &exec.secret_env {
        let version = version(secret.version.as_deref());
        writeln!(
            out,
            "    {} from secret {}{}{version}",
            secret.variable,
            secret.id,
            required(secret.required)
        )
        .unwrap();
    }
    for mount in &exec.mounts {
        let access = if mount.read_only { "ro" } else { "rw" };
        writeln!(out, "    mount {} {access} {}", mount.target, self::mount(&mount.kind)).unwrap();
    }
    if let Some(timeout) = exec.timeout {
        writeln!(out, "    timeout {timeout:?}").unwrap();
    }
    if exec.retries > 0 {
        writeln!(out, "    retries {}", exec.retries).unwrap();
    }
}

fn mount(kind: &MountKind) -> String {
    let file = |what: &str, file: &SecretFile| {
        let (required, version) = (required(file.required), version(file.version.as_deref()));
        format!("{what} {} {:04o} {}:{}{required}{version}", file.id, file.mode, file.uid, file.gid)
    };
    match kind {
        MountKind::Bind { input } => format!("bind of input {input}"),
        MountKind::Cache(cache) => {
            let seed = cache.seed.map(|input| format!(" seeded by input {input}")).unwrap_or_default();
            let CacheMount { id, sharing, mode, uid, gid, .. } = cache;
            format!("cache {id} {sharing:?} {mode:04o} {uid}:{gid}{seed}")
        }
        MountKind::Tmpfs { size } => {
            format!("tmpfs{}", size.map(|size| format!(" of {size} bytes")).unwrap_or_default())
        }
        MountKind::Secret(secret) => file("secret", secret),
        MountKind::Ssh(agent) => file("ssh", agent),
    }
}

fn required(required: bool) -> &'static str {
    if required { " required" } else { "" }
}

fn version(version: Option<&str>) -> String {
    version.map(|version| format!(" version {version}")).unwrap_or_default()
}

fn git(git: &Git) -> String {
    let mut text = format!("git {} {}", git.remote, git.reference.as_deref().unwrap_or("(default branch)"));
    if !git.directory.is_empty() {
        write!(text, " directory {}", git.directory).unwrap();
    }
    if let Some(checksum) = &git.checksum {
        write!(text, " checksum {checksum}").unwrap();
    }
    for (set, name) in [
        (git.keep_git_dir, " with .git"),
        (!git.submodules, " without submodules"),
        (git.fetch_by_commit, " fetched by commit"),
        (git.commit_times, " times of the commit"),
    ] {
        text.push_str(if set { name } else { "" });
    }
    text
}

fn owner(owner: &Owner) -> String {
    let id = |id: &OwnerId| match id {
        OwnerId::Number(number) => number.to_string(),
        OwnerId::Name(name) => format!("{name:?}"),
    };
    let group = owner.group.as_ref().map(|group| format!(":{}", id(group))).unwrap_or_default();
    format!("{}{group}", id(&owner.user))
}

fn selection(selection: &Selection) -> String {
    match selection {
        Selection::Whole => "whole".to_owned(),
        Selection::Path(path) => {
            let flags = [(path.wildcards, " wildcards"), (path.modes, " modes"), (path.owners, " owners")];
            let mut text = format!("{:?}", path.pattern);
            text.extend(flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name));
            if let Some(include) = &path.include {
                text.push_str(&format!(" include {include:?}"));
            }
            for exclude in &path.exclude {
                text.push_str(&format!(" exclude {exclude:?}"));
            }
            text
        }
    }
}
