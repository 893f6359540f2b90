//! Timings for programs: `docs/timings.md` describes every field.

use std::time::Duration;

use serde_json::{Map, Value, json};
use trace::Work;

use super::{RowKind, Timings};
use crate::BuildResult;

/// Version of the document. Readers of a version read all additions to it.
const VERSION: u32 = 1;

impl Timings {
    /// The document.
    pub fn json(&self) -> Value {
        let on_path: std::collections::HashSet<usize> = self.critical.iter().map(|link| link.span).collect();
        let rows = self.rows.iter().enumerate().map(|(place, row)| {
            let extent = self.extent(place);
            let worked: Map<String, Value> = self
                .worked(place)
                .into_iter()
                .map(|(work, time)| (work.name().into(), micros(time)))
                .collect();
            json!({
                "name": row.name,
                "kind": match row.kind {
                    RowKind::Build => "build",
                    RowKind::Step => "step",
                    RowKind::Task => "task",
                },
                "lines": row.lines,
                "outcome": row.outcome,
                "reason": row.reason,
                "inputs": row.inputs,
                "begin": extent.map(|(begin, _)| micros(begin)),
                "end": extent.map(|(_, end)| micros(end)),
                "work": worked,
                "critical": micros(self.on_path(|span| span.row == place)),
            })
        });
        let spans = self.spans.iter().enumerate().map(|(place, span)| {
            json!({
                "row": span.row,
                "work": span.work.name(),
                "what": span.what,
                "begin": micros(span.begin),
                "end": micros(span.end),
                "busy": micros(span.busy.unwrap_or(span.length())),
                "bytes": span.bytes,
                "critical": on_path.contains(&place),
            })
        });
        let path = self.critical.iter().map(|link| json!({ "span": link.span, "idle": micros(link.idle) }));
        let lanes = Work::ALL.into_iter().filter(|work| self.spans.iter().any(|span| span.work == *work));
        let lanes = lanes.map(|work| {
            let critical = self.on_path(|span| span.work == work);
            json!({ "work": work.name(), "time": micros(self.lane(work)), "critical": micros(critical) })
        });
        let (result, message) = match &self.result {
            BuildResult::Done => ("done", None),
            BuildResult::Failed { message } => ("failed", Some(message)),
            BuildResult::Cancelled => ("cancelled", None),
        };
        json!({
            "version": VERSION,
            "builder": self.builder,
            "dockerfile": self.title,
            "started": self.started,
            "unit": "microseconds",
            "total": micros(self.total),
            "idle": micros(self.idle()),
            "hashed": { "sha256": self.hashed.sha256, "blake3": self.hashed.blake3 },
            "result": result,
            "message": message,
            "lanes": lanes.collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(),
            "spans": spans.collect::<Vec<_>>(),
            "critical_path": path.collect::<Vec<_>>(),
        })
    }
}

fn micros(time: Duration) -> Value {
    json!(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}
