//! A build as data: vertices, operations, edges, the events of their execution, and what went into their keys. Nothing here runs or reads anything.

mod definition;
mod environment;
mod event;
mod exec;
mod op;
mod parts;
mod secrets;
mod source;
mod uses;

pub use definition::{Definition, Input, Vertex, VertexId};
pub use environment::Environment;
pub use event::{
    Event, LogStream, MissReason, Outcome, PathChange, PathChangeKind, ProgressSink, Recorder, ValueChange,
};
pub use exec::{
    CacheMount, Device, Exec, HOSTNAME, Mount, MountKind, Network, SecretEnv, SecretFile, Security, Sharing,
};
pub use op::{Copy, Inline, InlineFile, Mkdir, Op, Owner, OwnerId};
pub use parts::{KEY_VERSION, KeyParts, Naming};
pub use secrets::{SecretValues, hide_cache_mounts, is_secret_like};
pub use source::{Git, Http, Source};
pub use uses::{Files, InputPart, Listing, MOUNTED, PathPart};
