use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::VertexId;

/// Something that happened to a vertex. One stream feeds every way of showing progress.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Work on it began (a lookup that needs hashing, an execution).
    Started {
        /// Which.
        vertex: VertexId,
        /// When.
        at: SystemTime,
    },
    /// Output of its process, as it came.
    Log {
        /// Which.
        vertex: VertexId,
        /// Which stream.
        stream: LogStream,
        /// Raw bytes, cut anywhere.
        data: Vec<u8>,
        /// When.
        at: SystemTime,
    },
    /// Progress of one transfer or other countable part.
    Progress {
        /// Which.
        vertex: VertexId,
        /// Names the part: `sha256:…`, `extracting`.
        id: String,
        /// Done so far, in bytes.
        current: u64,
        /// In all, 0 when unknown.
        total: u64,
        /// When.
        at: SystemTime,
    },
    /// A remark that deserves notice.
    Warning {
        /// Which.
        vertex: VertexId,
        /// One line.
        message: String,
    },
    /// A process of it ended.
    Computed {
        /// Which.
        vertex: VertexId,
        /// Processor time that the process took, with all that it started.
        cpu: Duration,
    },
    /// It ended.
    Finished {
        /// Which.
        vertex: VertexId,
        /// How.
        outcome: Outcome,
        /// When.
        at: SystemTime,
    },
}

/// How a vertex ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Found in the cache; `saved` is what it took when it ran.
    Cached {
        /// Wall time of the recorded run.
        saved: Duration,
    },
    /// Executed, because of `reason`.
    Done {
        /// Why it was not cached; `None` where nothing is ever cached (a local context).
        reason: Option<MissReason>,
    },
    /// Failed.
    Failed {
        /// One line.
        message: String,
    },
    /// Given up because another failed or the user asked.
    Cancelled,
}

/// Why a vertex was not found in the cache. As text it is one line that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissReason {
    /// Never built here.
    FirstBuild,
    /// The lookup was switched off.
    Disabled,
    /// It was built from the same before, but the result is gone.
    Evicted {
        /// Seconds since it was removed, where that is known.
        ago: Option<u64>,
        /// By whom or what for: `by builder prune`, `to keep under 10GB`.
        why: String,
    },
    /// Not built here since the records of the cache were lost with a damaged database; whether it was before, nobody knows.
    Lost {
        /// Seconds since then.
        ago: u64,
    },
    /// It was built before by a version of this program whose keys are others, and nothing that can be compared is different.
    OtherVersion,
    /// The operation is another than last time.
    OpChanged {
        /// What of it: `command`, `ARG VERSION`, `destination`.
        field: String,
        /// How.
        change: ValueChange,
    },
    /// A result is here, but it rests on the word of a cache that this build does not name.
    Distrusted {
        /// Which.
        cache: String,
    },
    /// What it works on is another result than last time.
    InputChanged {
        /// The name of the vertex that made it.
        input: String,
        /// Why that was not found, where it is known: the first cause, which is no change of an input.
        cause: Option<Box<MissReason>>,
        /// The name of the vertex that was hit first, where that is further below.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<String>,
    },
    /// An image that it stands on or takes from is another than last time.
    ImageChanged {
        /// As the Dockerfile had it.
        old: String,
        /// As it has it now.
        new: String,
    },
    /// Files that it uses have changed.
    ContentChanged {
        /// The first of them by name; none where they are not known one by one.
        paths: Vec<PathChange>,
        /// How many more there are.
        more: u64,
    },
}

/// From what to what a value changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueChange {
    /// Shown as it was and is, long ones cut; `None` where there was or is none.
    Shown {
        /// Last time.
        old: Option<String>,
        /// Now.
        new: Option<String>,
    },
    /// Its name says that it is a secret.
    Hidden,
}

/// What happened to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct PathChange {
    /// Where, relative to the context.
    pub path: String,
    /// What.
    pub kind: PathChangeKind,
}

/// How a file changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its permissions are others, and nothing else.
    Mode {
        /// `0o7777`.
        old: u32,
        /// Likewise.
        new: u32,
    },
    /// Its content, kind, owner or attributes are others.
    Changed,
}

impl MissReason {
    /// The result is gone, and nobody knows since when.
    pub fn evicted() -> MissReason {
        MissReason::Evicted { ago: None, why: String::new() }
    }
}

/// Seconds as people say it.
struct Ago(u64);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = match self.0 {
            0..60 => return f.write_str("just now"),
            60..3_600 => (self.0 / 60, "minute"),
            3_600..86_400 => (self.0 / 3_600, "hour"),
            _ => (self.0 / 86_400, "day"),
        };
        write!(f, "{count} {unit}{} ago", if count == 1 { "" } else { "s" })
    }
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MissReason::FirstBuild => f.write_str("never built here"),
            MissReason::Disabled => f.write_str("the cache is switched off for it"),
            MissReason::Evicted { ago: None, .. } => f.write_str("the result was removed from the cache"),
            MissReason::Evicted { ago: Some(seconds), why } => {
                write!(f, "evicted {}{}{why}", Ago(*seconds), if why.is_empty() { "" } else { " " })
            }
            MissReason::Lost { ago } => {
                write!(f, "not built here since the damaged cache database was replaced {}", Ago(*ago))
            }
            MissReason::Distrusted { cache } => {
                write!(f, "what is here came from the cache {cache}, which --cache-from does not name")
            }
            MissReason::OtherVersion => {
                f.write_str("last built by another version of builder, whose keys are others")
            }
            MissReason::OpChanged { field, change } => match change {
                ValueChange::Hidden => write!(f, "{field} changed"),
                ValueChange::Shown { old: Some(old), new: Some(new) } => write!(f, "{field}: {old} → {new}"),
                ValueChange::Shown { old: None, new: Some(new) } => write!(f, "{field}: now {new}"),
                ValueChange::Shown { old: Some(old), new: None } => write!(f, "{field}: no longer {old}"),
                ValueChange::Shown { old: None, new: None } => write!(f, "{field} changed"),
            },
            MissReason::InputChanged { input, cause, first } => {
                let first = first.as_ref().unwrap_or(input);
                match cause {
                    None => write!(f, "{first} changed"),
                    Some(cause) => write!(f, "{cause} ({first})"),
                }
            }
            MissReason::ImageChanged { old, new } if old == new => {
                write!(f, "base image {new}: new digest")
            }
            MissReason::ImageChanged { old, new } => write!(f, "base image {old} → {new}"),
            MissReason::ContentChanged { paths, more } => {
                if paths.is_empty() {
                    return f.write_str("its files changed");
                }
                for (index, path) in paths.iter().take(SHOWN).enumerate() {
                    write!(f, "{}{path}", if index == 0 { "" } else { ", " })?;
                }
                match *more + paths.len().saturating_sub(SHOWN) as u64 {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}

/// So many changed files fit into a line.
const SHOWN: usize = 3;

impl fmt::Display for PathChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names of files are anything; a line of output must stay one.
        let path = self.path.escape_debug();
        match self.kind {
            PathChangeKind::Added => write!(f, "{path} added"),
            PathChangeKind::Removed => write!(f, "{path} removed"),
            PathChangeKind::Mode { old, new } => write!(f, "mode of {path} {old:04o} → {new:04o}"),
            PathChangeKind::Changed => write!(f, "{path} changed"),
        }
    }
}

/// Which stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Receives events, in order for each vertex. Called from any thread; must not block for long.
pub trait ProgressSink: Send + Sync {
    /// Takes an event.
    fn event(&self, event: Event);
}

/// A sink that keeps what it got, for tests.
#[derive(Debug, Default)]
pub struct Recorder {
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ProgressSink for Recorder {
    fn event(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evictions_in_words() {
        let evicted = |ago, why: &str| MissReason::Evicted { ago, why: why.to_owned() }.to_string();
        assert_eq!(evicted(None, ""), "the result was removed from the cache");
        assert_eq!(evicted(Some(7_300), "to keep under 10GB"), "evicted 2 hours ago to keep under 10GB");
        assert_eq!(evicted(Some(86_400), "by builder prune"), "evicted 1 day ago by builder prune");
        assert_eq!(evicted(Some(3), ""), "evicted just now");
    }
}
