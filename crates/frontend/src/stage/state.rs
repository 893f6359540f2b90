use std::sync::Arc;

use graph::{Environment, VertexId};
use image::{History, ImageConfig, Platform};

use super::variables::Scope;
use crate::chain::Chain;
use crate::shown::Text;
use crate::{BaseImage, paths};

/// What BuildKit puts into `comment` of its history entries; tools look for it.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// What a stage is after some of its instructions.
#[derive(Debug)]
pub(crate) struct StageState {
    pub(crate) vertex: VertexId,
    /// Without what changes with every instruction: variables and history.
    pub(crate) config: ImageConfig,
    pub(crate) platform: Platform,
    pub(crate) base: Option<BaseImage>,
    /// WORKDIR was used in this file.
    pub(crate) workdir_set: bool,
    /// What is shown in place of the working directory.
    pub(crate) shown_workdir: Option<String>,
    layer_steps: Chain<VertexId>,
    history: Chain<History>,
    scope: Scope,
    /// What every RUN says of the arguments, made again only when they change.
    history_args: Option<Arc<str>>,
}

impl StageState {
    pub(crate) fn new(vertex: VertexId, mut config: ImageConfig, platform: Platform) -> Self {
        Self {
            vertex,
            platform,
            base: None,
            workdir_set: false,
            shown_workdir: None,
            layer_steps: Chain::new(Vec::new()),
            history: Chain::new(std::mem::take(&mut config.history)),
            scope: Scope::new(config.config.env.take().unwrap_or_default()),
            history_args: None,
            config,
        }
    }

    /// What a stage begins with that stands on this one.
    pub(crate) fn child(&mut self) -> Self {
        let mut config = self.config.clone();
        // Triggers are for the child, not for those that stand on it.
        config.config.on_build = None;
        Self {
            vertex: self.vertex,
            config,
            platform: self.platform.clone(),
            base: self.base.clone(),
            workdir_set: self.workdir_set,
            shown_workdir: self.shown_workdir.clone(),
            layer_steps: self.layer_steps.share(),
            history: self.history.share(),
            scope: self.scope.child(),
            history_args: self.history_args.clone(),
        }
    }

    /// The config in full.
    pub(crate) fn full_config(&self) -> ImageConfig {
        let mut config = self.config.clone();
        config.config.env = Some(self.scope.env());
        config.history = self.history.to_vec();
        config
    }

    /// The vertices that made layers, bottom first.
    pub(crate) fn layer_steps(&self) -> Vec<VertexId> {
        self.layer_steps.to_vec()
    }

    /// The variables that instructions see.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Declares an argument; a declaration without a value keeps an earlier one.
    pub(crate) fn declare(&mut self, name: &str, value: Option<Text>) {
        self.history_args = None;
        self.scope.declare(name, value);
    }

    /// Sets a variable of the image.
    pub(crate) fn set_env(&mut self, name: &str, value: &Text) {
        self.history_args = None;
        self.scope.set_env(name, value);
    }

    /// The environment of a process.
    pub(crate) fn process_env(&mut self) -> Environment {
        self.scope.process_env().clone()
    }

    /// `|2 A=1 B=2 ` as history has it before a command, for the declared arguments.
    pub(crate) fn history_args(&mut self) -> Arc<str> {
        let scope = &self.scope;
        self.history_args.get_or_insert_with(|| scope.history_args().into()).clone()
    }

    /// The working directory, absolute and clean.
    pub(crate) fn cwd(&self) -> String {
        paths::clean(paths::absolute("/", &self.config.config.working_dir))
    }

    /// Goes on to `vertex`, which adds a layer.
    pub(crate) fn add_layer(&mut self, vertex: VertexId, created_by: String) {
        self.vertex = vertex;
        self.layer_steps.push(vertex);
        self.remember(created_by, true);
    }

    /// Adds a history entry.
    pub(crate) fn remember(&mut self, created_by: String, layer: bool) {
        self.history.push(History {
            created: None,
            created_by: Some(created_by),
            author: None,
            comment: Some(HISTORY_COMMENT.to_owned()),
            empty_layer: !layer,
        });
    }
}
