//! `RUN --mount`: from keys to what a process sees (BuildKit's `convert_runmount.go`, `convert_secrets.go`, `convert_ssh.go`).

use files::{PathSelection, Selection};
use graph::{
    CacheMount, Copy, Input, Mount, MountKind, Op, SecretEnv, SecretFile, SecretValues, Sharing, Vertex,
    VertexId,
};
use parser::{Diagnostic, Instruction, Run, Span};

use super::StageLowering;
use super::mount_keys::{Keys, Kind};
use crate::stages::{BUILD_CONTEXT, Origin, mounted_from};
use crate::{Outline, OutlineMount, paths};

/// Where a bind mount of a context finds the files that were copied for it.
const COPIED: &str = "m";

/// The mounts of a RUN.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<Mount>,
    pub(super) secret_env: Vec<SecretEnv>,
    /// What they show; in the vertex, they come after its root.
    pub(super) inputs: Vec<Input>,
    /// Sockets of agents, in order.
    pub(super) agents: Vec<String>,
}

impl Mounts {
    /// Adds an input and gives its index in the vertex.
    pub(super) fn input(&mut self, input: Input) -> usize {
        self.inputs.push(input);
        self.inputs.len()
    }
}

impl StageLowering<'_, '_> {
    /// Adds the mounts of a RUN; `None` when one of them is wrong, which is reported.
    pub(super) fn mounts(&mut self, of: &Instruction, run: &Run, mounts: &mut Mounts) -> Option<()> {
        let mut good = Some(());
        let place = self.span(of);
        for mount in &run.mounts {
            let added = self.mount_keys(of, mount).and_then(|keys| {
                let from = match mounted_from(mount) {
                    // Mistakes in the name were reported when the stages were looked at.
                    Some(from) => Some(self.all.stages.origin(from).ok()?),
                    None => None,
                };
                self.mount(of, mount.text.span, keys, from, mounts)
            });
            good = good.and(added);
        }
        let outline = &mut self.outline;
        let mut note = |list: fn(&mut Outline) -> &mut Vec<OutlineMount>, id: &str, required: bool| {
            list(outline).push(OutlineMount { id: id.to_owned(), required, span: place });
        };
        for mount in &mounts.mounts {
            match &mount.kind {
                MountKind::Secret(secret) => {
                    note(|outline| &mut outline.secrets, &secret.id, secret.required)
                }
                MountKind::Ssh(agent) => note(|outline| &mut outline.ssh, &agent.id, agent.required),
                MountKind::Cache(cache) => note(|outline| &mut outline.caches, &cache.id, false),
                MountKind::Bind { .. } | MountKind::Tmpfs { .. } => {}
            }
        }
        for secret in &mounts.secret_env {
            note(|outline| &mut outline.secrets, &secret.id, secret.required);
        }
        good
    }

    fn mount(
        &mut self,
        of: &Instruction,
        span: Span,
        keys: Keys,
        from: Option<Origin>,
        mounts: &mut Mounts,
    ) -> Option<()> {
        match keys.kind {
            Kind::Secret => return self.secret(span, keys, mounts),
            Kind::Ssh => return self.agent(span, keys, mounts),
            Kind::Bind | Kind::Cache | Kind::Tmpfs => {}
        }
        let target = self.mount_target(span, &keys.target)?;
        let kind = match keys.kind {
            Kind::Tmpfs => MountKind::Tmpfs { size: keys.size },
            Kind::Cache => MountKind::Cache(self.cache(of, &keys, from, mounts)?),
            _ => {
                let from = from.unwrap_or_else(|| Origin::Directory(BUILD_CONTEXT.to_owned()));
                let input = self.mounted(of, &from, &keys.source)?;
                MountKind::Bind { input: mounts.input(input) }
            }
        };
        let read_only = keys.read_only.unwrap_or(keys.kind == Kind::Bind);
        mounts.mounts.push(Mount { target, kind, read_only });
        Some(())
    }

    /// Relative targets begin at the working directory, which a mount without any covers.
    fn mount_target(&mut self, span: Span, target: &str) -> Option<String> {
        let target = paths::clean(paths::absolute(&self.state.cwd(), target));
        if target == "/" {
            let error = Diagnostic::error(span, "invalid mount target \"/\"")
                .with_label("expected a `target` below the root")
                .with_help("say where the process finds it: `target=/path`");
            self.report(error);
            return None;
        }
        Some(target)
    }

    fn cache(
        &mut self,
        of: &Instruction,
        keys: &Keys,
        from: Option<Origin>,
        mounts: &mut Mounts,
    ) -> Option<CacheMount> {
        let id = if keys.id.is_empty() { paths::clean(keys.target.as_str()) } else { keys.id.clone() };
        let namespace = self.all.build_args.get("BUILDKIT_CACHE_MOUNT_NS").filter(|name| !name.is_empty());
        let id = namespace.map(|namespace| format!("{namespace}/{id}")).unwrap_or(id);
        let seed = match from {
            None => None,
            Some(Origin::Scratch) if paths::source(&keys.source).is_empty() => None,
            Some(from) => {
                let input = self.mounted(of, &from, &keys.source)?;
                Some(mounts.input(input))
            }
        };
        Some(CacheMount {
            id,
            sharing: keys.sharing.unwrap_or(Sharing::Shared),
            seed,
            mode: keys.mode.unwrap_or(0o755),
            uid: keys.uid.unwrap_or(0),
            gid: keys.gid.unwrap_or(0),
        })
    }

    /// A path of something, for mounting. A context is no tree: what is wanted of it is copied, by content, into one.
    fn mounted(&mut self, of: &Instruction, from: &Origin, source: &str) -> Option<Input> {
        let source = paths::source(source);
        let (vertex, path) = match from {
            Origin::Directory(context) => (self.copied_for_mount(of, context, &source), COPIED.to_owned()),
            from => (self.all.origin(from)?.0, source),
        };
        Some(Input { vertex, selection: Selection::Path(PathSelection::exact(path)) })
    }

    fn copied_for_mount(&mut self, of: &Instruction, context: &str, source: &str) -> VertexId {
        let selection = Selection::Path(PathSelection { owners: false, ..PathSelection::exact(source) });
        let inputs =
            vec![Input::whole(self.all.scratch()), Input { vertex: self.all.directory(context), selection }];
        let op = Op::Copy(Copy {
            destination: format!("/{COPIED}"),
            owner: None,
            mode: None,
            unpack: false,
            packed: Vec::new(),
        });
        let shown = if source.is_empty() { "all files" } else { source };
        // An argument of a secret-like name may be in it, and names are shown and kept.
        let hidden = SecretValues::of(self.all.definition);
        let shown = hidden.conceal(shown);
        let name = match context {
            BUILD_CONTEXT => format!("[internal] {}{shown}", graph::MOUNTED),
            context => format!("[context {context}] {}{shown}", graph::MOUNTED),
        };
        let lines = self.lines(of.lines);
        self.all.definition.add(Vertex { op, inputs, name, lines, no_cache: false })
    }

    fn secret(&mut self, span: Span, keys: Keys, mounts: &mut Mounts) -> Option<()> {
        let id = [&keys.source, &keys.id].into_iter().find(|id| !id.is_empty()).cloned();
        let id = id.unwrap_or_else(|| paths::base(&keys.target).to_owned());
        let version = self.all.options.secret_versions.get(&id).cloned();
        // A secret is a variable, a file, or both when both are asked for.
        let target = match (&keys.env, keys.target.as_str()) {
            (Some(_), "") => None,
            (None, "") => Some(format!("/run/secrets/{}", paths::base(&id))),
            (_, target) => Some(target.to_owned()),
        };
        if let Some(target) = target {
            let target = self.mount_target(span, &target)?;
            let kind = MountKind::Secret(SecretFile {
                id: id.clone(),
                required: keys.required,
                version: version.clone(),
                mode: keys.mode.unwrap_or(0o400),
                uid: keys.uid.unwrap_or(0),
                gid: keys.gid.unwrap_or(0),
            });
            mounts.mounts.push(Mount { target, kind, read_only: true });
        }
        if let Some(variable) = keys.env {
            let variable = if variable.is_empty() { id.clone() } else { variable };
            if variable.contains(['=', '\0']) {
                let message = format!("`{variable}` cannot be the name of a variable");
                self.report(Diagnostic::error(span, message));
                return None;
            }
            mounts.secret_env.push(SecretEnv { id, variable, required: keys.required, version });
        }
        Some(())
    }

    fn agent(&mut self, span: Span, keys: Keys, mounts: &mut Mounts) -> Option<()> {
        let id = if keys.id.is_empty() { "default".to_owned() } else { keys.id };
        let target = match keys.target.as_str() {
            "" => format!("/run/buildkit/ssh_agent.{}", mounts.agents.len()),
            target => self.mount_target(span, target)?,
        };
        mounts.agents.push(target.clone());
        let kind = MountKind::Ssh(SecretFile {
            version: None,
            id,
            required: keys.required,
            mode: keys.mode.unwrap_or(0o600),
            uid: keys.uid.unwrap_or(0),
            gid: keys.gid.unwrap_or(0),
        });
        mounts.mounts.push(Mount { target, kind, read_only: true });
        Some(())
    }
}
