//! A build as data: vertices, operations, edges and the events of their execution. Nothing here runs or reads anything.

mod definition;
mod event;
mod exec;
mod op;
mod source;

pub use definition::{Definition, Input, Vertex, VertexId};
pub use event::{
    Event, LogStream, MissReason, Outcome, PathChange, PathChangeKind, ProgressSink, Recorder, ValueChange,
};
pub use exec::{
    CacheMount, Device, Exec, Mount, MountKind, Network, SecretEnv, SecretFile, Security, Sharing,
};
pub use op::{Copy, Inline, InlineFile, Mkdir, Op, Owner, OwnerId};
pub use source::{Git, Http, Source};
