//! Sole owner of the state directory: nothing else reads or writes there. No vertices, no HTTP, no mounting.
//!
//! ```text
//! <state directory>/
//!   format                       version of the layout; how layers keep marks and owners. Locked while the database is made
//!   session-v1.lock              flock: shared by builds and by who removes what they do not use, exclusive by repairs
//!   cache-v1.db, -wal, -shm      SQLite: what is known about everything below (schema.sql)
//!   cache-v1.db.damaged          the database was found broken: a build saves what can be read of it
//!   cache-v1.db.damaged-<time>   what it was then; the newest two
//!   images-v1                    names of images, once more, for when the database is damaged
//!   blobs/sha256-v1/ab/<hex>     blobs, read only, named by their sha256
//!   snapshots-v1/<id>/           layers, each as overlayfs' upper directory has it: 0:0 devices for removed names,
//!                                overlay.opaque for directories that hide what is below
//!   snapshots-v1/<id>.owners     owners that the layer's files cannot carry (user namespace with a single id)
//!   snapshots-v1/<id>.files      all that is in a layer that a copy wrote, to compare the next version with
//!   versions-v1/<id>/, .owners   layers that are written as what is different from a full one, over whose directory they lie
//!   empty-v1/                    a layer with nothing in it, for mounts of no layers
//!   claims-v1/<key>              flock: a key that somebody is computing
//!   leases-v1/<bucket>           flock: shared by builds that use something of it, exclusive while it is removed
//!   collector-v1.lock            flock: one process removes things at a time; empty unless it was cut short
//!   reserve-v1                   bytes that are removed first where the disk is full, so that more can be
//!   stat-v1/<context>            digests of a context's files by their stat
//!   logs-v1/<id>                 what the step printed that made the layer
//!   points-v2/, points-etc-v1/   what mounts of steps are put on: directories and files with nothing in them
//!   mounts-v1/<hash>/<n>/        cache mounts (RUN --mount=type=cache), each with locks of its own
//!   secret-v1                    random bytes: secret values are remembered only as hashes made with them
//!   builds-v1/<time>-<name>.*    records and logs of the newest builds
//!   remotes-v1/<hash>/<n>/       git repositories, likewise
//!   partial-v1/<digest>          beginnings of blobs, for transfers to go on with; locked while one does
//!   tmp-v1/<process>/, .lock     unfinished things; the lock lives as long as the process
//! ```
//!
//! A layer or blob counts only if the database has a row for it, and the row is written after the file is complete and in place
//! (for a snapshot: before the rename, when nobody has its id). Whatever has no row is rubbish, and what has a row but is not
//! there is forgotten when it is asked for. So a kill at any instant leaves a store that works. After a power failure,
//! rows that were not followed by a `syncfs` are dropped (`Session`).

mod blobs;
mod builds;
mod changes;
mod chunks;
mod claims;
mod collect;
mod copying;
mod damage;
mod database;
mod downloads;
mod entries;
mod error;
mod evict;
mod evictions;
mod fsck;
mod holders;
mod images;
mod import;
mod kept;
mod layers;
mod layout;
mod leases;
mod listing;
mod lock;
mod logs;
mod memory;
mod mounts;
mod names;
mod near;
mod packed;
mod partial;
mod prune;
mod record;
mod records;
mod remove;
mod room;
mod salvage;
mod scratch;
mod seals;
mod secret;
mod session;
mod shared;
mod snapshots;
mod stat_cache;
mod store;
mod strays;
mod sums;
mod trees;
mod trial;
mod turn;
mod upper;
mod usage;
mod versions;
mod view;
mod written;

pub use blobs::BlobStore;
pub use builds::BuildId;
pub use changes::Changes;
pub use chunks::StoredChunks;
pub use collect::Whys;
pub use downloads::Download;
pub use entries::Entries;
pub use error::CacheError;
pub use evict::{CacheKind, CachePart, Limits};
pub use fsck::{Checked, Finding, FindingKind};
pub use images::{Meaning, StoredImage};
pub use kept::{KeptId, KeptStep};
pub use listing::Listing;
pub use logs::{LogPiece, LogReader, LogSource, LogWriter};
pub use memory::MemoryCache;
pub use mounts::{
    Anew, CacheMount, CacheMountInfo, CacheMountOptions, ReadableCacheMount, RemoteKind, Sharing,
};
pub use prune::{PruneOptions, Pruned};
pub use record::{
    CacheBackend, CacheRecord, Claim, Eviction, NewRecord, Origins, RecordId, SnapshotId, StepRun,
};
pub use records::Records;
pub use salvage::Replaced;
pub use session::Session;
pub use snapshots::{ActiveRoot, ActiveSnapshot, RootForm, Snapshot};
pub use stat_cache::DiskStatCache;
pub use store::{Opening, Snapshotter, Store, StoreOptions};
pub use sums::{Held, Holding, Sum};
pub use trial::OverlayTrial;
pub use usage::{Amount, ImageUsage, SnapshotUsage, Usage};
pub use versions::{Difference, VersionName};
pub use view::TreeView;
