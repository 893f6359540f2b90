//! Looking into a step: its file system, with the mounts, variables, user and network that it has.

use std::collections::BTreeMap;

use cache::{ActiveRoot, KeptStep, SnapshotId, Store};
use executor::{Executor, ProcessSpec};
use files::{PathSelection, Selection};
use graph::{Exec, Op, VertexId};
use image::Platform;
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::mounts::{Input, Mounts, Preparing};
use crate::{LocalWorker, Prepared, RunOptions, Secrets, SshAgents, Tree, WorkerError, exec};

/// The inside of a step, before or after it ran.
#[derive(Debug, Clone)]
pub struct Inside {
    /// Its file system, bottom first.
    layers: Vec<SnapshotId>,
    surroundings: Surroundings,
}

/// What a process has besides a root.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Surroundings {
    exec: Exec,
    inputs: BTreeMap<usize, StoredInput>,
}

/// [`Input`], in the form that is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredInput {
    layers: Vec<i64>,
    /// Absent: the whole tree.
    path: Option<String>,
    digest: Option<String>,
}

impl StoredInput {
    fn of(input: &Input) -> StoredInput {
        let path = match &input.selection {
            Selection::Whole => None,
            Selection::Path(path) => Some(path.pattern.clone()),
        };
        let layers = input.layers.iter().map(|layer| layer.0).collect();
        StoredInput { layers, path, digest: input.digest.clone() }
    }

    fn input(&self) -> Input {
        let whole = || Selection::Whole;
        let selection =
            self.path.as_ref().map_or_else(whole, |path| Selection::Path(PathSelection::exact(path)));
        let layers = self.layers.iter().map(|layer| SnapshotId(*layer)).collect();
        Input { layers, selection, digest: self.digest.clone() }
    }
}

/// What the user lends to somebody who looks in.
pub struct Lent<'a> {
    /// Asked for again: no secret is ever stored.
    pub secrets: &'a dyn Secrets,
    /// Likewise.
    pub agents: &'a dyn SshAgents,
    /// What all processes get.
    pub options: &'a RunOptions,
}

/// A process ready to be started inside a step. What it writes is gone when the value is dropped, except what it writes to cache mounts.
pub struct Opened {
    /// The process.
    pub spec: ProcessSpec,
    _root: ActiveRoot,
    _mounts: Mounts,
}

impl Inside {
    pub(crate) fn new(layers: Vec<SnapshotId>, exec: &Exec, inputs: &BTreeMap<usize, Input>) -> Inside {
        let inputs = inputs.iter().map(|(index, input)| (*index, StoredInput::of(input))).collect();
        Inside { layers, surroundings: Surroundings { exec: exec.clone(), inputs } }
    }

    /// What a failed step left.
    ///
    /// # Errors
    /// When it was kept by another version, in a form that this one does not know.
    pub fn kept(kept: &KeptStep) -> Result<Inside, WorkerError> {
        let unknown = |error| WorkerError::Internal(format!("what step {} left: {error}", kept.id.0));
        let surroundings = serde_json::from_str(&kept.spec).map_err(unknown)?;
        Ok(Inside { layers: kept.layers.clone(), surroundings })
    }

    /// As text, for [`Inside::kept`]. Values of variables with names like a secret's are left out, and proxies, which may hold a
    /// password.
    pub(crate) fn spec(&self) -> Result<String, WorkerError> {
        let mut stored = self.surroundings.clone();
        let env = stored.exec.env.iter().filter(|(name, _)| !graph::is_secret_like(name));
        stored.exec.env = env.cloned().collect();
        stored.exec.unkeyed_env.clear();
        let internal = |error| WorkerError::Internal(format!("describe a step: {error}"));
        serde_json::to_string(&stored).map_err(internal)
    }

    /// Makes a process ready that runs `args` in place of the step's own program.
    ///
    /// # Errors
    /// When a layer is gone, or a secret is missing that the step cannot do without.
    pub async fn open(
        &self,
        store: &Store,
        executor: &dyn Executor,
        lent: &Lent<'_>,
        args: &[String],
        cancel: &Cancel,
    ) -> Result<Opened, WorkerError> {
        let inputs = self.surroundings.inputs.iter().map(|(index, input)| (*index, input.input())).collect();
        let mut exec = self.surroundings.exec.clone();
        exec.args = args.to_vec();
        exec.timeout = None;
        let preparing = Preparing {
            store,
            cancel,
            secrets: lent.secrets,
            agents: lent.agents,
            inputs: &inputs,
            anew: None,
        };
        let mounts = preparing.prepare(&exec).await?;
        let Prepared { root, user } =
            crate::prepare(store.clone(), self.layers.clone(), exec.user.clone()).await?;
        let rootfs = crate::rootfs(root.form());
        let start = exec::Start { exec: &exec, user, rootfs, mounts: &mounts, options: lent.options };
        let spec = start.spec(executor).await?;
        Ok(Opened { spec, _root: root, _mounts: mounts })
    }
}

impl LocalWorker {
    /// The inside of a step that ran: what it left, with its mounts. For other instructions their file system, with the environment and
    /// directory of a RUN of the same stage. `inputs` are the trees of the vertex's inputs.
    ///
    /// # Errors
    /// When the image cannot be brought, or the step is no tree of layers.
    pub async fn inside(
        &self,
        vertex: VertexId,
        tree: &Tree,
        inputs: &[Tree],
    ) -> Result<Inside, WorkerError> {
        let Tree::Layers(layers) = tree else {
            return Err(WorkerError::Unsupported("a shell in a context".to_owned()));
        };
        let layers = self.snapshots(layers, vertex).await?;
        if let Op::Exec(exec) = &self.definition.vertex(vertex).op {
            let mounted = self.mounted(vertex, exec, inputs).await?;
            return Ok(Inside::new(layers, exec, &mounted));
        }
        let mut exec = self.exec_near(vertex).cloned().unwrap_or_else(nothing_special);
        (exec.mounts, exec.secret_env) = (Vec::new(), Vec::new());
        Ok(Inside::new(layers, &exec, &BTreeMap::new()))
    }

    /// A RUN of the same stage: the next one, else the one before.
    fn exec_near(&self, vertex: VertexId) -> Option<&Exec> {
        let definition = &self.definition;
        let below = |id: VertexId| definition.vertex(id).inputs.first().map(|input| input.vertex);
        let line = |from: VertexId| std::iter::successors(Some(from), |id| below(*id));
        let exec = |id: VertexId| match &definition.vertex(id).op {
            Op::Exec(exec) => Some(exec),
            _ => None,
        };
        let later = definition.iter().map(|(id, _)| id).find_map(|id| {
            let exec = exec(id)?;
            line(id).any(|below| below == vertex).then_some(exec)
        });
        later.or_else(|| line(vertex).find_map(exec))
    }
}

/// Of a stage without RUN.
fn nothing_special() -> Exec {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Exec {
        args: Vec::new(),
        env: [("PATH".to_owned(), path.to_owned())].into(),
        unkeyed_env: Vec::new(),
        secret_env: Vec::new(),
        cwd: "/".to_owned(),
        user: String::new(),
        hostname: graph::HOSTNAME.to_owned(),
        network: graph::Network::Default,
        security: graph::Security::Sandbox,
        devices: Vec::new(),
        platform: Platform::host(),
        extra_hosts: Vec::new(),
        mounts: Vec::new(),
        timeout: None,
        retries: 0,
    }
}
