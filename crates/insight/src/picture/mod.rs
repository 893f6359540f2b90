//! The graph of a build, to be looked at.

mod dot;
mod json;
mod mermaid;
mod svg;
mod text;

use std::collections::BTreeMap;

use frontend::Plan;
use graph::{Op, Source, Vertex, VertexId};

/// What the cache knows of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheState {
    /// It would be found.
    Cached,
    /// It would run, unless its inputs come out as they were at some time before.
    Missing,
    /// It runs whatever the cache has (`--no-cache`), or an input does.
    Always,
    /// Something must be fetched before it can be known.
    Unknown,
    /// It is no step: an image, a context.
    Source,
}

impl CacheState {
    /// One word for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            CacheState::Cached => "cached",
            CacheState::Missing => "runs",
            CacheState::Always => "always",
            CacheState::Unknown => "unknown",
            CacheState::Source => "source",
        }
    }
}

/// How a [`Picture`] is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a terminal of so many columns.
    Text {
        /// At least 40 are taken.
        width: usize,
    },
    /// For Graphviz (`dot -Tsvg`).
    Dot,
    /// For Markdown pages that draw Mermaid.
    Mermaid,
    /// For programs.
    Json,
    /// A picture that needs nothing else.
    Svg,
}

/// A build as lanes of steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// A lane for each stage, in the order of the file; what belongs to none comes first.
    pub lanes: Vec<Lane>,
    /// All steps; an [`Edge`] and a [`Lane`] name them by their place here.
    pub steps: Vec<Step>,
    /// From what is used to what uses it, in the order of the users.
    pub edges: Vec<Edge>,
}

/// The steps of one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// The stage's name, as names of steps have it; empty for the only stage of a file, `None` for what belongs to no stage.
    pub stage: Option<String>,
    /// In order.
    pub steps: Vec<usize>,
}

/// One vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `2/5`; empty for what has no number.
    pub number: String,
    /// What it does: `RUN make`.
    pub title: String,
    /// What the cache knows of it.
    pub state: CacheState,
    /// First and last line in the Dockerfile.
    pub lines: Option<(u32, u32)>,
    /// Whether it is what the build is for.
    pub target: bool,
}

/// An input of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// What is used.
    pub from: usize,
    /// What uses it.
    pub to: usize,
    /// Whether it is the tree that is worked on, as opposed to something copied or mounted from.
    pub base: bool,
}

impl Picture {
    /// What will be done for a plan. `state` says what the cache knows of a step.
    pub fn new(plan: &Plan, state: impl Fn(VertexId) -> CacheState) -> Picture {
        let needed = needed(plan);
        let mut places = BTreeMap::new();
        let mut picture = Picture { lanes: Vec::new(), steps: Vec::new(), edges: Vec::new() };
        for id in needed {
            let vertex = plan.definition.vertex(id);
            let place = picture.steps.len();
            places.insert(id, place);
            let (stage, number, title) = taken_apart(&vertex.name);
            picture.lane(stage).steps.push(place);
            picture.steps.push(Step {
                number: number.to_owned(),
                title: title.to_owned(),
                state: match vertex.op {
                    Op::Source(_) => CacheState::Source,
                    _ => state(id),
                },
                lines: vertex.lines,
                target: plan.targets.iter().any(|target| target.vertex == id),
            });
            for (index, input) in vertex.inputs.iter().enumerate() {
                let Some(&from) = places.get(&input.vertex) else { continue };
                let edge = Edge { from, to: place, base: index == 0 };
                if !picture
                    .edges
                    .iter()
                    .rev()
                    .take(vertex.inputs.len())
                    .any(|known| (known.from, known.to) == (from, place))
                {
                    picture.edges.push(edge);
                }
            }
        }
        picture.lanes.sort_by_key(|lane| lane.stage.is_some());
        picture
    }

    fn lane(&mut self, stage: Option<&str>) -> &mut Lane {
        let found = self.lanes.iter().position(|lane| lane.stage.as_deref() == stage);
        let index = found.unwrap_or_else(|| {
            self.lanes.push(Lane { stage: stage.map(str::to_owned), steps: Vec::new() });
            self.lanes.len() - 1
        });
        &mut self.lanes[index]
    }

    /// Draws it.
    pub fn draw(&self, format: Format) -> String {
        match format {
            Format::Text { width } => text::draw(self, width.max(40)),
            Format::Dot => dot::draw(self),
            Format::Mermaid => mermaid::draw(self),
            Format::Json => json::draw(self),
            Format::Svg => svg::draw(self),
        }
    }

    /// What a step stands on and takes from.
    fn inputs(&self, step: usize) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.to == step)
    }

    /// What to call a step where another one refers to it.
    fn reference(&self, step: usize) -> String {
        let lane = self.lanes.iter().find(|lane| lane.steps.contains(&step));
        let stage = lane.and_then(|lane| lane.stage.as_deref()).unwrap_or_default();
        let Step { number, title, .. } = &self.steps[step];
        match (stage.is_empty(), number.is_empty()) {
            (_, true) => source_reference(title),
            (true, false) => number.clone(),
            (false, false) => format!("{stage} {number}"),
        }
    }
}

/// The targets and all that they need but the empty tree, in topological order.
fn needed(plan: &Plan) -> Vec<VertexId> {
    let mut needed = vec![false; plan.definition.len()];
    let mut waiting: Vec<VertexId> = plan.targets.iter().map(|target| target.vertex).collect();
    while let Some(id) = waiting.pop() {
        if !std::mem::replace(&mut needed[id.0], true) {
            waiting.extend(plan.definition.vertex(id).inputs.iter().map(|input| input.vertex));
        }
    }
    let is_shown = |vertex: &Vertex| !matches!(vertex.op, Op::Source(Source::Scratch));
    let vertices = plan.definition.iter().filter(|(id, vertex)| needed[id.0] && is_shown(vertex));
    vertices.map(|(id, _)| id).collect()
}

/// `[linux/amd64 build 2/5] RUN make` to stage, number and the rest.
pub(crate) fn taken_apart(name: &str) -> (Option<&str>, &str, &str) {
    let Some((inside, title)) = name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
        return (None, "", name);
    };
    if inside == "internal" || inside.starts_with("context ") {
        return (None, "", name);
    }
    let (stage, number) = inside.rsplit_once(' ').unwrap_or(("", inside));
    // Numbers of one stage are of one width: ` 1/12`.
    (Some(stage.trim_end()), number, title)
}

/// What to call a step without a number.
fn source_reference(title: &str) -> String {
    let inside = title.strip_prefix("[context ").and_then(|rest| rest.split_once(']'));
    if let Some((name, _)) = inside {
        return format!("context {name}");
    }
    match title.strip_prefix("[internal] ") {
        None => title.to_owned(),
        Some("load build context") => "context".to_owned(),
        Some("preparing inline document") => "heredoc".to_owned(),
        Some(title) => title.trim_start_matches("load ").trim_start_matches("prepare ").to_owned(),
    }
}

/// A character as it can be shown: what moves the cursor, turns the direction of writing or is not there at all becomes a blank.
fn shown(c: char) -> char {
    match c {
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => ' ',
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => ' ',
        c if c.is_control() => ' ',
        c => c,
    }
}

/// Digests are cut to twelve digits: enough to tell them apart, and the rest of the line can be read.
fn with_short_digests(text: &str) -> String {
    const START: &str = "@sha256:";
    const DIGITS: usize = 12;
    let mut short = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(START) {
        let digits = after.bytes().take_while(u8::is_ascii_hexdigit).count();
        let kept = if digits == 64 { DIGITS } else { digits };
        short.extend([before, START, &after[..kept]]);
        rest = &after[digits..];
    }
    short + rest
}

/// At most `width` columns of a text, its end cut off visibly.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    use unicode_width::UnicodeWidthStr as _;
    let text: String = with_short_digests(text).chars().map(shown).collect();
    if text.width() <= width {
        return text;
    }
    format!("{}…", crate::words::start(&text, width.saturating_sub(1)).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_steps() {
        assert_eq!(taken_apart("[build 2/5] RUN a [b] c"), (Some("build"), "2/5", "RUN a [b] c"));
        assert_eq!(taken_apart("[2/5] RUN"), (Some(""), "2/5", "RUN"));
        assert_eq!(taken_apart("[build  2/12] RUN"), (Some("build"), "2/12", "RUN"));
        assert_eq!(taken_apart("[ 2/12] RUN"), (Some(""), "2/12", "RUN"));
        assert_eq!(
            taken_apart("[linux/arm64 build 1/2] FROM x"),
            (Some("linux/arm64 build"), "1/2", "FROM x")
        );
        assert_eq!(taken_apart("[internal] load build context").0, None);
        assert_eq!(taken_apart("no brackets").2, "no brackets");
    }

    #[test]
    fn long_titles() {
        assert_eq!(shortened("RUN make", 8), "RUN make");
        assert_eq!(shortened("RUN make all", 8), "RUN mak…");
        assert_eq!(shortened("東京東京", 6), "東京…");
        // A heart that the character after it makes twice as wide.
        assert_eq!(shortened("a \u{2764}\u{fe0f} b", 4), "a \u{2764}…");
        assert_eq!(shortened("a \u{2764}\u{fe0f} bc", 5), "a \u{2764}\u{fe0f}…");
        assert_eq!(shortened("a\nb\u{202e}c", 9), "a b c");
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(shortened(&format!("FROM a@sha256:{digest} b"), 99), "FROM a@sha256:0123456789ab b");
        assert_eq!(shortened("FROM a@sha256:0123", 99), "FROM a@sha256:0123");
    }

    #[test]
    fn references() {
        assert_eq!(source_reference("[internal] load build context"), "context");
        assert_eq!(source_reference("[context assets] load from client"), "context assets");
        assert_eq!(source_reference("[internal] load https://example.org/x"), "https://example.org/x");
        assert_eq!(source_reference("[internal] prepare mount of web"), "mount of web");
        assert_eq!(source_reference("else"), "else");
    }
}
