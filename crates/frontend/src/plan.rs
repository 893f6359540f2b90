use std::sync::Arc;

use graph::{Definition, SecretValues, VertexId};
use image::{ImageConfig, Platform, ResolvedImage};
use parser::{Diagnostic, Span};

use crate::{ImageRequest, Outline};

/// What lowering gave.
#[derive(Clone, Debug)]
pub enum Lowered {
    /// Everything is known.
    Plan(Box<Plan>),
    /// These images have to be resolved first; then lower again with them. It can happen more than once: ONBUILD triggers
    /// of a base image may ask for further images.
    Missing(Vec<MissingImage>),
}

/// An image to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingImage {
    /// Which.
    pub request: ImageRequest,
    /// As the Dockerfile has it, for messages.
    pub name: String,
    /// Values that nobody should read and that may stand in the name.
    pub hidden: SecretValues,
    /// Who asks for it.
    pub span: Span,
}

/// A build, ready to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What has to be done; platforms share what they have in common.
    pub definition: Definition,
    /// What comes out, one for each platform.
    pub targets: Vec<Target>,
    /// Findings that do not stop the build, the parser's included, in order of their place.
    pub warnings: Vec<Diagnostic>,
    /// The names of build arguments that no ARG declares.
    pub unused_build_args: Vec<String>,
    /// The build argument `BUILDKIT_INLINE_CACHE`: the image is to carry what a later build needs to use it as a cache.
    pub inline_cache: bool,
    /// The build argument `BUILDKIT_MULTI_PLATFORM`: whether the result is an index, whatever the number of platforms.
    pub multi_platform: Option<bool>,
    /// `SOURCE_DATE_EPOCH`, in seconds since 1970: what the times of new layers and of the config are set to.
    pub source_date_epoch: Option<i64>,
}

/// A result.
#[derive(Clone, Debug)]
pub struct Target {
    /// The stage's name.
    pub name: Option<String>,
    /// What it runs on.
    pub platform: Platform,
    /// The vertex whose tree it is.
    pub vertex: VertexId,
    /// The config; `created`, the times of new history entries and `rootfs.diff_ids` are still to be filled in. Its history
    /// has one entry with a layer for each layer of `base`, then one for each of `layer_steps`.
    pub config: ImageConfig,
    /// The vertices that made the layers above the base image's, bottom first.
    pub layer_steps: Vec<VertexId>,
    /// What can be set from outside.
    pub outline: Outline,
    /// The image at the bottom; `None` for scratch and directories.
    pub base: Option<BaseImage>,
}

/// The image that a target stands on.
#[derive(Clone, Debug)]
pub struct BaseImage {
    /// How it was asked for.
    pub request: ImageRequest,
    /// What was found.
    pub image: Arc<ResolvedImage>,
}
