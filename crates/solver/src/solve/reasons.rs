//! Why steps are executed, and what is noted and remembered of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use cache::CacheError;
use files::Selection;
use graph::{
    Files, Input, InputPart, KeyParts, Listing, MissReason, Naming, Op, PathPart, Source, Vertex, VertexId,
};
use hash::{CacheKey, ContentDigest, StableHasher};

use super::{Answer, Explaining, Run, is_keyed_by_content, lock, operation};
use crate::history;
use crate::notes::{self, StepNote};
use crate::worker::{SelectedPath, Worker};

/// What is remembered of steps, by what they are found with.
type Remembered = Vec<(CacheKey, Vec<u8>)>;

impl<W: Worker> Run<W> {
    /// Why a vertex was not found, and what of it is to be remembered once it is built.
    pub(super) async fn explain(
        self: &Arc<Self>,
        id: VertexId,
        gone: bool,
    ) -> Answer<(MissReason, Remembered), W::Error> {
        let vertex = self.definition.vertex(id);
        let plain = if vertex.no_cache {
            MissReason::Disabled
        } else if gone {
            MissReason::evicted()
        } else if let Some(cache) = lock(&self.distrusted).get(&id).cloned() {
            MissReason::Distrusted { cache }
        } else {
            MissReason::FirstBuild
        };
        let Some(explaining) = &self.explaining else { return Ok((plain, Vec::new())) };
        let steps = self.steps(&explaining.scope);
        let Some((by_text, by_place)) = steps.keys(id) else { return Ok((plain, Vec::new())) };
        let parts = self.parts(id, explaining).await?;
        let now = parts.clone();
        let is_first = plain == MissReason::FirstBuild;
        let definition = self.keyed(id).await?.definition;
        let (last, changed) = self
            .blocking(id, move |cache| {
                if let Some(eviction) = cache.eviction(&definition)? {
                    let since = SystemTime::now().duration_since(eviction.at).unwrap_or_default();
                    let evicted = MissReason::Evicted { ago: Some(since.as_secs()), why: eviction.why };
                    return Ok((None, Some(evicted).filter(|_| is_first)));
                }
                // What another version of this program has written, or a failing disk, says nothing.
                let recall = |key: &CacheKey| -> Result<Option<KeyParts>, CacheError> {
                    Ok(cache.recall(key)?.and_then(|last| serde_json::from_slice(&last).ok()))
                };
                let mut last = recall(&by_text)?;
                if last.is_none()
                    && let Some(by_place) = by_place
                    && let Some(Ok(text)) = cache.recall(&by_place)?.map(<[u8; 32]>::try_from)
                    && let text = CacheKey::from_bytes(text)
                    && !steps.has(&text)
                {
                    last = recall(&text)?.filter(|last| now.is_of_one_kind_with(last));
                }
                if last.is_none()
                    && let Some(lost) = cache.lost()?.filter(|_| is_first)
                {
                    let since = SystemTime::now().duration_since(lost).unwrap_or_default();
                    return Ok((None, Some(MissReason::Lost { ago: since.as_secs() })));
                }
                let listing = |name: &str| notes::listing(cache, name);
                let changed = last.as_ref().filter(|_| is_first).map(|last| now.differences(last, &listing));
                Ok((last, changed.and_then(|changed| changed.into_iter().next())))
            })
            .await?;
        let reason = match (last, changed) {
            (Some(last), Some(MissReason::InputChanged { input, .. })) => {
                let at = parts.changed_input(&last).and_then(|index| vertex.inputs.get(index));
                let (cause, first) = at.map(|input| self.first_change(input.vertex)).unwrap_or_default();
                MissReason::InputChanged { input, cause, first }
            }
            (_, Some(reason)) => reason,
            (Some(last), None) if is_first => match last.finder() {
                Some(cache) if !self.trusted.contains(cache) => {
                    MissReason::Distrusted { cache: cache.to_owned() }
                }
                _ => self.renewed_input(id).await?.unwrap_or(MissReason::evicted()),
            },
            _ => plain,
        };
        lock(&self.reasons).insert(id, reason.clone());
        Ok((reason, self.remembered(id, &explaining.scope, &parts)))
    }

    /// What a vertex does, to be written down.
    fn title(vertex: &Vertex) -> String {
        history::text(&vertex.name).to_owned()
    }

    /// Of which context a vertex brings files to a mount; nothing of the main one, nor of other vertices.
    fn mounted_context(vertex: &Vertex) -> Option<String> {
        history::text(&vertex.name).strip_prefix(graph::MOUNTED)?;
        Some(history::context(&vertex.name).unwrap_or_default().to_owned())
    }

    /// The change that made an executed step, or one below it, miss, and the one that it hit, if that is below.
    fn first_change(&self, id: VertexId) -> (Option<Box<MissReason>>, Option<String>) {
        match lock(&self.reasons).get(&id) {
            Some(MissReason::InputChanged { input, cause, first }) => {
                (cause.clone(), Some(first.as_ref().unwrap_or(input).clone()))
            }
            None
            | Some(
                MissReason::Lost { .. }
                | MissReason::Disabled
                | MissReason::Evicted { .. }
                | MissReason::Distrusted { .. },
            ) => (None, None),
            Some(reason) => (Some(Box::new(reason.clone())), None),
        }
    }

    /// What goes into the definition key of a vertex.
    async fn parts(self: &Arc<Self>, id: VertexId, explaining: &Explaining) -> Answer<KeyParts, W::Error> {
        let vertex = self.definition.vertex(id);
        let known = lock(&self.secret).to_owned();
        let secret = match known {
            Some(secret) => secret,
            None => self.blocking(id, |cache| cache.secret()).await?,
        };
        *lock(&self.secret) = Some(secret);
        let naming = Naming { secret: &secret, args: &explaining.args, hidden: &self.hidden };
        Ok(KeyParts::new(&vertex.op, self.input_parts(id, naming).await?, naming))
    }

    /// The parts of the definition key that come from inputs.
    async fn input_parts(
        self: &Arc<Self>,
        id: VertexId,
        naming: Naming<'_>,
    ) -> Answer<Vec<InputPart>, W::Error> {
        let vertex = self.definition.vertex(id);
        let mut parts = Vec::with_capacity(vertex.inputs.len());
        for input in &vertex.inputs {
            let source = self.definition.vertex(input.vertex);
            let files = Files::of(&input.selection, naming);
            if is_keyed_by_content(source) {
                let digest = self.content_of(id, input.vertex, &input.selection)?.await?;
                let listing = self.list(id, input, &digest).await?;
                let pattern = match &input.selection {
                    Selection::Whole => history::text(&source.name).to_owned(),
                    Selection::Path(path) => self.hidden.conceal(&path.pattern).into_owned(),
                };
                let commit = self.worker.commit(&self.input(input.vertex).await?.tree);
                let digest = digest.to_string();
                parts.push(InputPart::Content { pattern, digest, listing, files, commit });
            } else {
                let key = self.keyed(input.vertex).await?.definition;
                let key = StableHasher::new("input-part-v1").with(&key).with(&input.selection).finish();
                let key = CacheKey::from_bytes(key).to_string();
                parts.push(match &source.op {
                    Op::Source(Source::Image { .. }) => {
                        InputPart::Image { name: image_name(source), key, files }
                    }
                    _ => InputPart::Vertex {
                        name: Self::title(source),
                        key,
                        files,
                        context: Self::mounted_context(source),
                    },
                });
            }
        }
        Ok(parts)
    }

    /// Remembers which files were selected, so that a later build can say which of them changed. Returns the name of the listing.
    async fn list(
        self: &Arc<Self>,
        id: VertexId,
        input: &Input,
        digest: &ContentDigest,
    ) -> Answer<Option<String>, W::Error> {
        let place = (input.vertex, input.selection.clone());
        if let Some(known) = lock(&self.listings).get(&place) {
            return Ok(known.clone());
        }
        let tree = self.input(input.vertex).await?.tree;
        let sources = self.worker.content_sources(&tree, &input.selection).await;
        let modes = !matches!(&input.selection, Selection::Path(path) if !path.modes);
        let sources = sources.map_err(|error| operation(id, error))?;
        let name = notes::listing_name(digest, modes, &sources);
        let asked = name.clone();
        if !self.blocking(id, move |cache| notes::is_listed(cache, &asked)).await? {
            let paths = self.worker.content_paths(&tree, &input.selection).await;
            if let Some(paths) = paths.map_err(|error| operation(id, error))? {
                let part = |path: SelectedPath| (path.path, PathPart::new(path.mode, &path.digest));
                let listing: Listing = paths.into_iter().map(part).collect();
                let remembered = [notes::remembered(&name, &listing)];
                // That a later miss may go unexplained is no reason to fail.
                let _ = self.blocking(id, move |cache| cache.remember(&remembered)).await;
            }
        }
        lock(&self.listings).insert(place, Some(name.clone()));
        Ok(Some(name))
    }

    /// What was learned of the steps that the targets need, as far as it was.
    pub(super) async fn note(self: &Arc<Self>, targets: &[VertexId]) -> Vec<StepNote> {
        let mut notes: Vec<StepNote> = Vec::new();
        let Some(explaining) = self.explaining.clone() else { return notes };
        for id in self.ancestors(targets) {
            if matches!(self.definition.vertex(id).op, Op::Source(_)) {
                continue;
            }
            let Some(key) = self.known_key(id) else { continue };
            let Ok(parts) = self.parts(id, &explaining).await else { continue };
            let record = lock(&self.results).get(&id).cloned();
            let why = lock(&self.reasons).get(&id).cloned();
            let away = self.known_away(id);
            notes.push(StepNote { vertex: id, key, parts, record, away, why });
        }
        // What stands below something that was found was not looked up.
        let Some(first) = notes.first().map(|note| note.vertex) else { return notes };
        let missing: Vec<CacheKey> =
            notes.iter().filter(|note| note.record.is_none()).map(|note| note.key).collect();
        let trusted = self.trusted.clone();
        let found =
            self.blocking(first, move |cache| cache.glance(&missing, &trusted)).await.unwrap_or_default();
        let without = notes.iter_mut().filter(|note| note.record.is_none());
        for (note, record) in without.zip(found) {
            note.record = record;
        }
        self.remember_away(&notes, explaining).await;
        notes
    }

    /// What was found elsewhere, and what stands below it, is remembered as if it had been built here: a later miss can then be explained.
    async fn remember_away(self: &Arc<Self>, notes: &[StepNote], explaining: Arc<Explaining>) {
        let Some(first) = notes.iter().find(|note| note.away.is_some()).map(|note| note.vertex) else {
            return;
        };
        // The cache that had what a step led to; nobody asked which one has the step itself.
        let mut below: HashMap<VertexId, Option<String>> = HashMap::new();
        for note in notes {
            let Some(away) = &note.away else { continue };
            let cache = self.worker.origin(away);
            for id in self.ancestors(&[note.vertex]) {
                below.entry(id).or_insert_with(|| cache.clone());
            }
        }
        let is_new = |note: &&StepNote| note.why.is_none() && (note.record.is_none() || note.away.is_some());
        let remembered: Remembered = notes
            .iter()
            .filter(is_new)
            .filter_map(|note| Some((note, below.get(&note.vertex)?.clone())))
            .flat_map(|(note, cache)| {
                let parts = note.parts.clone().found_in(cache);
                self.remembered(note.vertex, &explaining.scope, &parts)
            })
            .collect();
        // That a later miss may go unexplained is no reason to fail.
        let _ = self.blocking(first, move |cache| cache.remember(&remembered)).await;
    }

    /// Under which keys steps are remembered.
    fn steps(&self, scope: &str) -> Arc<history::Steps> {
        self.steps.get_or_init(|| Arc::new(history::Steps::of(&self.definition, scope))).clone()
    }

    /// What is remembered of a step: its parts by what it says, and what it says by where it stands.
    fn remembered(&self, id: VertexId, scope: &str, parts: &KeyParts) -> Remembered {
        let Some((by_text, by_place)) = self.steps(scope).keys(id) else { return Vec::new() };
        let mut remembered = vec![(by_text, serde_json::to_vec(parts).unwrap_or_default())];
        remembered.extend(by_place.map(|place| (place, by_text.as_bytes().to_vec())));
        remembered
    }

    /// The definition key of a vertex, unless something would have to be fetched for it.
    fn known_key(&self, id: VertexId) -> Option<CacheKey> {
        if let Some(keyed) = lock(&self.keys).get(&id) {
            return Some(keyed.definition);
        }
        let late = lock(&self.late_keys).get(&id).and_then(|key| key.peek().cloned());
        late?.ok().map(|keyed| keyed.definition)
    }

    /// The input that was built again without looking it up, and came out otherwise.
    async fn renewed_input(self: &Arc<Self>, id: VertexId) -> Answer<Option<MissReason>, W::Error> {
        for input in &self.definition.vertex(id).inputs {
            let source = self.definition.vertex(input.vertex);
            if !is_keyed_by_content(source) && self.keyed(input.vertex).await?.fresh {
                let (cause, first) = self.first_change(input.vertex);
                let input = Self::title(source);
                return Ok(Some(MissReason::InputChanged { input, cause, first }));
            }
        }
        Ok(None)
    }
}

/// An image as the Dockerfile has it, without what it was found to be.
fn image_name(vertex: &Vertex) -> String {
    let text = history::text(&vertex.name);
    let name = text.strip_prefix("FROM ").unwrap_or(text);
    name.split_once("@sha256:").map_or(name, |(name, _)| name).to_owned()
}
