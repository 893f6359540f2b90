use super::{CacheState, Picture, shortened, shown};

/// A flowchart with a subgraph for each stage.
pub(super) fn draw(picture: &Picture) -> String {
    let mut text = String::from("flowchart TB\n");
    for (index, lane) in picture.lanes.iter().enumerate() {
        let title = match lane.stage.as_deref() {
            None => "sources",
            Some("") => "stage",
            Some(stage) => stage,
        };
        text.push_str(&format!("  subgraph l{index}[{}]\n", quoted(title)));
        for &place in &lane.steps {
            let step = &picture.steps[place];
            let label = format!("{} {}", step.number, shortened(&step.title, 60));
            text.push_str(&format!("    s{place}[{}]:::{}\n", quoted(label.trim()), step.state.word()));
        }
        text.push_str("  end\n");
    }
    for edge in &picture.edges {
        let arrow = if edge.base { "-->" } else { "-.->" };
        text.push_str(&format!("  s{} {arrow} s{}\n", edge.from, edge.to));
    }
    for (state, fill) in [
        (CacheState::Cached, "#c8e6c9"),
        (CacheState::Missing, "#ffe0b2"),
        (CacheState::Always, "#ffcdd2"),
        (CacheState::Unknown, "#e1bee7"),
        (CacheState::Source, "#e3f2fd"),
    ] {
        text.push_str(&format!("  classDef {} fill:{fill},stroke:#555,color:#000\n", state.word()));
    }
    text
}

/// Text in quotes: what would end them, or be taken for markup, is written as an entity.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '<' | '>' | '&' | '#' | '`' | ';' => quoted.push_str(&format!("#{};", u32::from(c))),
            c => quoted.push(shown(c)),
        }
    }
    quoted.push('"');
    quoted
}
