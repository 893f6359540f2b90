//! Which build made an image.

use cache::{BuildId, StoredImage};
use insight::{BuildRecord, BuildResult, GivenImage};

/// How surely a build made images, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Made {
    /// It gave them the name that they have.
    UnderTheirName,
    /// It gave these manifests another name, or none.
    UnderAnother,
    /// Its image had the same config: packed in another way, or built before it was written down what was given.
    SameConfig,
    /// It gave their name to something else.
    NameAlone,
}

impl Made {
    /// Of a build that did not end well nothing is known.
    pub(super) fn of(record: &BuildRecord, images: &[StoredImage]) -> Option<Made> {
        if record.result != BuildResult::Done {
            return None;
        }
        let is_name_of =
            |names: &[String]| images.iter().any(|image| names.contains(&image.name.to_string()));
        let given = || record.given.iter().filter(|given| holds(given, images));
        if given().any(|given| is_name_of(&given.names)) {
            Some(Made::UnderTheirName)
        } else if given().next().is_some() {
            Some(Made::UnderAnother)
        } else if images.iter().any(|image| record.image == Some(image.config.to_string())) {
            Some(Made::SameConfig)
        } else {
            is_name_of(&record.names).then_some(Made::NameAlone)
        }
    }
}

/// Whether all images are among what was given: some of its platforms may have lost the name since.
pub(super) fn holds(given: &GivenImage, images: &[StoredImage]) -> bool {
    let manifests: Vec<&String> = given.manifests.values().collect();
    images.iter().all(|image| manifests.contains(&&image.manifest.digest.to_string()))
}

/// The build that is meant most surely: of those that are so as surely the first, which is the last that was built. No more records are
/// read where none can be meant more surely than `surest`.
pub(super) fn surest<R: Ord>(
    records: impl Iterator<Item = (BuildId, BuildRecord)>,
    surest: &R,
    mut rank: impl FnMut(&BuildRecord) -> Option<R>,
) -> Option<(R, BuildId, BuildRecord)> {
    let mut best: Option<(R, BuildId, BuildRecord)> = None;
    for (id, record) in records {
        let Some(rank) = rank(&record) else { continue };
        if best.as_ref().is_none_or(|(best, ..)| rank < *best) {
            let is_surest = rank <= *surest;
            best = Some((rank, id, record));
            if is_surest {
                break;
            }
        }
    }
    best
}
