use unicode_width::UnicodeWidthStr as _;

use super::{CacheState, Picture, shortened};

/// Lanes one below the other, a line for each step, its other inputs behind an arrow.
pub(super) fn draw(picture: &Picture, width: usize) -> String {
    let mut text = String::new();
    let numbers = picture.steps.iter().map(|step| step.number.len()).max().unwrap_or(0);
    for lane in &picture.lanes {
        if !text.is_empty() {
            text.push('\n');
        }
        let title = match lane.stage.as_deref() {
            None => "sources",
            Some("") => "stage",
            Some(stage) => stage,
        };
        text.push_str(&format!("{title}\n"));
        for (index, &place) in lane.steps.iter().enumerate() {
            let step = &picture.steps[place];
            // What a step stands on is the line above it, where it is not said otherwise.
            let above = index.checked_sub(1).map(|above| lane.steps[above]);
            let others: Vec<String> = picture
                .inputs(place)
                .filter(|edge| !(edge.base && Some(edge.from) == above))
                .map(|edge| picture.reference(edge.from))
                .collect();
            let arrow =
                if others.is_empty() { String::new() } else { format!("  ← {}", others.join(", ")) };
            let mark = if step.target { "▶" } else { " " };
            let state = match step.state {
                CacheState::Source => "",
                state => state.word(),
            };
            let start = match numbers {
                0 => format!(" {mark} {state:<7} "),
                _ => format!(" {mark} {state:<7} {:<numbers$} ", step.number),
            };
            let room = width.saturating_sub(start.width());
            // What it does has half of the line, if it needs that.
            let arrow = shortened(&arrow, (room / 2).max(room.saturating_sub(step.title.width())));
            let room = room.saturating_sub(arrow.width());
            text.push_str(format!("{start}{}{arrow}", shortened(&step.title, room)).trim_end());
            text.push('\n');
        }
    }
    let count = |state| picture.steps.iter().filter(|step| step.state == state).count();
    let steps = picture.steps.iter().filter(|step| step.state != CacheState::Source).count();
    let noun = if steps == 1 { "step" } else { "steps" };
    text.push_str(&format!("\n{steps} {noun}: {} cached", count(CacheState::Cached)));
    for (state, words) in [
        (CacheState::Missing, "to run"),
        (CacheState::Always, "never cached"),
        (CacheState::Unknown, "unknown"),
    ] {
        if count(state) > 0 {
            text.push_str(&format!(", {} {words}", count(state)));
        }
    }
    text.push('\n');
    text
}
