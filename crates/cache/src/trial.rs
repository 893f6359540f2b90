use std::fmt;
use std::sync::{Arc, LazyLock};

type Try = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// Whether overlay can be mounted. It is tried when a RUN first needs a tree, and once: clones share what came out.
#[derive(Clone)]
pub struct OverlayTrial(Arc<Trial>);

struct Trial(LazyLock<Result<(), String>, Try>);

impl OverlayTrial {
    /// The try gives the reason why it cannot.
    pub fn new(try_overlay: impl FnOnce() -> Result<(), String> + Send + 'static) -> OverlayTrial {
        OverlayTrial(Arc::new(Trial(LazyLock::new(Box::new(try_overlay)))))
    }

    /// Tries it, unless that was done.
    pub(crate) fn succeeds(&self) -> bool {
        self.0.0.is_ok()
    }

    /// Why it cannot, where that was tried.
    pub(crate) fn refusal(&self) -> Option<&str> {
        LazyLock::get(&self.0.0)?.as_ref().err().map(String::as_str)
    }
}

impl fmt::Debug for OverlayTrial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OverlayTrial({})", if self.refusal().is_some() { "refused" } else { "not refused" })
    }
}
