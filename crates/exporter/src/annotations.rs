use std::collections::BTreeMap;

use image::{MediaTypes, Platform};

use crate::ExportError;

/// Texts that an image carries beside its config, each at its place (image spec, `annotations.md`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations(Vec<Annotation>);

/// One text and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Into which document.
    pub place: AnnotationPlace,
    /// Only for the image of this platform. Indexes have none.
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.title`, …
    pub key: String,
    /// Any text.
    pub value: String,
}

/// A document that carries annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationPlace {
    /// The manifest of an image.
    Manifest,
    /// What points to that manifest: an entry of the index.
    ManifestDescriptor,
    /// The index of several platforms.
    Index,
    /// What points to that index: the entry of a layout.
    IndexDescriptor,
}

impl Annotations {
    /// Adds one. The last one of a key at a place counts.
    pub fn push(&mut self, annotation: Annotation) {
        self.0.push(annotation);
    }

    /// Adds those of another list: they count more.
    pub fn extend(&mut self, others: &Annotations) {
        self.0.extend(others.0.iter().cloned());
    }

    /// Those of one document. `platform` is that of the image, `None` for an index. Those for a platform count more than those for any.
    pub(crate) fn at(&self, place: AnnotationPlace, platform: Option<&Platform>) -> BTreeMap<String, String> {
        let wanted = |annotation: &&Annotation| annotation.place == place;
        let texts = |annotation: &Annotation| (annotation.key.clone(), annotation.value.clone());
        let all = self.0.iter().filter(wanted).filter(|annotation| annotation.platform.is_none());
        let own = self.0.iter().filter(wanted);
        let own = own
            .filter(|annotation| annotation.platform.is_some() && annotation.platform.as_ref() == platform);
        all.chain(own).map(texts).collect()
    }

    /// Refuses what would have no place in the result.
    pub(crate) fn check(
        &self,
        platforms: &[&Platform],
        has_index: bool,
        types: MediaTypes,
    ) -> Result<(), ExportError> {
        for annotation in &self.0 {
            let fail = |reason: String| Err(ExportError::Annotation { key: annotation.key.clone(), reason });
            if let Some(platform) = &annotation.platform
                && !platforms.contains(&platform)
            {
                return fail(format!("the image has no platform {platform}"));
            }
            let of_index =
                matches!(annotation.place, AnnotationPlace::Index | AnnotationPlace::IndexDescriptor);
            if of_index && !has_index {
                return fail("an image of a single platform has no index".to_owned());
            }
            if types == MediaTypes::Docker {
                return fail(
                    "Docker's media types have no annotations; leave oci-mediatypes=false out".to_owned(),
                );
            }
        }
        Ok(())
    }
}

impl FromIterator<Annotation> for Annotations {
    fn from_iter<T: IntoIterator<Item = Annotation>>(annotations: T) -> Annotations {
        Annotations(annotations.into_iter().collect())
    }
}
