//! Blocking work that ends when nobody waits for it any more.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::ExportError;

/// Whether the export was given up; asked before each file and each MiB.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<(), ExportError> {
        if self.is_set() { Err(ExportError::Cancelled) } else { Ok(()) }
    }
}

/// Sets its token when the future that waits is dropped.
struct OnDrop(Cancel);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Cancel) -> Result<T, ExportError> + Send + 'static,
) -> Result<T, ExportError> {
    let cancel = Cancel::default();
    let _guard = OnDrop(cancel.clone());
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&cancel);
        // A reader that was interrupted reports a broken file; the cause is the better message.
        if result.is_err() && cancel.is_set() { Err(ExportError::Cancelled) } else { result }
    });
    done.await.unwrap_or_else(|error| Err(ExportError::Crashed(error.to_string())))
}

/// A reader that fails once the export was given up.
pub(crate) struct Cancellable<'a, R> {
    pub(crate) reader: R,
    pub(crate) cancel: &'a Cancel,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_set() {
            return Err(io::Error::other("cancelled"));
        }
        let wanted = buffer.len().min(1 << 20);
        self.reader.read(&mut buffer[..wanted])
    }
}
