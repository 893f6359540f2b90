//! Docker's daemon, or one that answers as it does (Podman's service): where it is, and how images get into it
//! (Docker Engine API, "Import images"). One that is there already gets its names, and nothing is sent; which layers of another one are
//! there can be asked.
//!
//! Not here: what an archive holds, HTTP itself ([`transport`]).

mod connection;
mod endpoint;
mod images;
mod load;

pub use endpoint::{Endpoint, Surroundings};
pub use images::{has_image, knows_manifests, layers_there, tag};
pub use load::load;

/// Images cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// None is where one would be.
    #[error("there is no Docker daemon: no socket at {places}")]
    None {
        /// Where it was looked for.
        places: String,
    },
    /// The address makes no sense, or is of a kind that is not spoken.
    #[error("{origin}: {reason}")]
    Address {
        /// Where it stands: `DOCKER_HOST`, a context.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// It could not be asked, or broke off.
    #[error("the Docker daemon at {endpoint}: {reason}")]
    Unreachable {
        /// Its address.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// It does not take the archive.
    #[error("the Docker daemon at {endpoint} refuses the image: {reason}")]
    Refused {
        /// Its address.
        endpoint: String,
        /// What it says.
        reason: String,
    },
}
