//! A build as data: vertices, operations, edges and the events of their execution. Nothing here runs or reads anything.

mod definition;
mod event;
mod op;

pub use definition::{Definition, Input, Vertex, VertexId};
pub use event::{Event, LogStream, MissReason, Outcome, ProgressSink, Recorder};
pub use op::{Copy, Exec, Inline, InlineFile, Mkdir, Network, Op, Owner, OwnerId, Source};
