//! Ctrl-C and its relatives.

use tokio::signal::unix::{SignalKind, signal};

/// Waits until the user or the system asks the process to end (SIGINT, SIGTERM, SIGHUP). Where no handler can be installed, nothing
/// is waited for and the signals keep their default: they end the process.
pub(crate) async fn received() {
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
