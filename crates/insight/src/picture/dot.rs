use super::{CacheState, Picture, shortened, shown};

/// A cluster for each stage.
pub(super) fn draw(picture: &Picture) -> String {
    let mut text = String::from(
        "digraph build {\n  rankdir=TB;\n  node [shape=box, style=filled, fontname=\"sans-serif\", fontsize=11];\n",
    );
    for (index, lane) in picture.lanes.iter().enumerate() {
        let title = lane.stage.as_deref().unwrap_or("sources");
        text.push_str(&format!("  subgraph cluster_{index} {{\n    label={};\n", quoted(title)));
        for &place in &lane.steps {
            let step = &picture.steps[place];
            let label = format!("{} {}", step.number, shortened(&step.title, 60));
            let edge = if step.target { ", penwidth=3" } else { "" };
            let (label, tip) = (quoted(label.trim()), quoted(&step.title));
            text.push_str(&format!(
                "    s{place} [label={label}, tooltip={tip}, fillcolor=\"{}\"{edge}];\n",
                fill(step.state)
            ));
        }
        text.push_str("  }\n");
    }
    for edge in &picture.edges {
        let style = if edge.base { "" } else { " [style=dashed]" };
        text.push_str(&format!("  s{} -> s{}{style};\n", edge.from, edge.to));
    }
    text.push_str("}\n");
    text
}

fn fill(state: CacheState) -> &'static str {
    match state {
        CacheState::Cached => "#c8e6c9",
        CacheState::Missing => "#ffe0b2",
        CacheState::Always => "#ffcdd2",
        CacheState::Unknown => "#e1bee7",
        CacheState::Source => "#e3f2fd",
    }
}

/// A string of the DOT language: quotes and backslashes mean something in it, and entities in labels.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '&' => quoted.push_str("&amp;"),
            c => quoted.push(shown(c)),
        }
    }
    quoted.push('"');
    quoted
}
