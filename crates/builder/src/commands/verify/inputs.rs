//! What changed of what an image was made from, since it was made: the Dockerfile, files, downloads, options.

use cache::Store;
use graph::{MissReason, PathChange};
use insight::{BuildRecord, Explanation};
use serde_json::{Value, json};

use crate::commands::history;
use crate::failure::Failure;
use crate::format;
use crate::progress::harmless;

/// Inputs that are not what they were.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// The build that made the image.
    build: String,
    changes: Vec<Change>,
}

/// One of them.
#[derive(Debug)]
enum Change {
    /// The text of the Dockerfile.
    Dockerfile(String),
    /// The bytes at an address.
    Download { url: String, image: String, rebuilt: String },
    /// Files that a step uses.
    Files { steps: Vec<String>, paths: Vec<PathChange>, more: u64 },
    /// Anything else, in words.
    Other { steps: Vec<String>, text: String },
}

impl Inputs {
    /// Compares what the recorded build was made from with what the only build of `rebuilt` was.
    pub(super) fn new(record: &BuildRecord, store: &Store, rebuilt: &Store) -> Result<Inputs, Failure> {
        let mut inputs = Inputs { build: record.id.clone(), changes: Vec::new() };
        let newest = rebuilt.builds()?.into_iter().next();
        let again = newest.map(|id| rebuilt.build_record(&id)).transpose()?.flatten();
        let Some(again) = again.and_then(|bytes| BuildRecord::from_json(&bytes).ok()) else {
            return Ok(inputs);
        };
        if record.dockerfile_digest.is_some() && record.dockerfile_digest != again.dockerfile_digest {
            inputs.changes.push(Change::Dockerfile(again.dockerfile.clone()));
        }
        for (url, rebuilt) in &again.fetched {
            if let Some(image) = record.fetched.get(url).filter(|image| *image != rebuilt) {
                let (url, image, rebuilt) = (url.clone(), image.clone(), rebuilt.clone());
                inputs.changes.push(Change::Download { url, image, rebuilt });
            }
        }
        let (here, there) =
            (history::listing(store, [record, &again]), history::listing(rebuilt, [record, &again]));
        let listing = |name: &str| here(name).or_else(|| there(name));
        for cause in Explanation::against(&again, record, &listing).causes {
            let steps = cause.hit.iter().map(|place| again.steps[*place].title().to_owned()).collect();
            inputs.changes.push(match cause.reason {
                Some(MissReason::ContentChanged { paths, more }) => Change::Files { steps, paths, more },
                _ => Change::Other { steps, text: cause.text },
            });
            // That another step changed is told where that one is.
            let is_step = |text: &String| {
                let name = text.strip_suffix(" changed").unwrap_or_default();
                again.steps.iter().any(|step| step.title() == name)
            };
            let more = cause.more.into_iter().filter(|text| !is_step(text));
            inputs.changes.extend(more.map(|text| Change::Other { steps: Vec::new(), text }));
        }
        Ok(inputs)
    }

    pub(super) fn text(&self) -> String {
        if self.changes.is_empty() {
            return String::new();
        }
        let mut text = format!("changed since build {}\n", self.build);
        for change in &self.changes {
            match change {
                Change::Dockerfile(path) => text += &format!("  the text of {}\n", harmless(path)),
                Change::Download { url, image, rebuilt } => {
                    text += &format!("  {}: {image}, now {rebuilt}\n", harmless(url));
                }
                Change::Files { steps, paths, more } => {
                    text += &format!("  files of {}\n", all(steps));
                    for path in paths {
                        text += &format!("    {path}\n");
                    }
                    if *more > 0 {
                        text += &format!("    and {}\n", format::count(*more, "other file"));
                    }
                    if paths.is_empty() {
                        text += "    which ones is not known any more\n";
                    }
                }
                Change::Other { steps, text: what } if steps.is_empty() => {
                    text += &format!("  {}\n", harmless(what));
                }
                Change::Other { steps, text: what } => {
                    text += &format!("  {} ({})\n", harmless(what), all(steps));
                }
            }
        }
        text + "\n"
    }

    pub(super) fn json(&self) -> Vec<Value> {
        let one = |change: &Change| match change {
            Change::Dockerfile(path) => json!({ "what": "Dockerfile", "path": path }),
            Change::Download { url, image, rebuilt } => {
                json!({ "what": "download", "url": url, "image": image, "rebuilt": rebuilt })
            }
            Change::Files { steps, paths, more } => {
                json!({ "what": "files", "steps": steps, "paths": paths, "more": more })
            }
            Change::Other { steps, text } => json!({ "what": "other", "steps": steps, "text": text }),
        };
        self.changes.iter().map(one).collect()
    }
}

fn all(steps: &[String]) -> String {
    harmless(&steps.join(", "))
}
