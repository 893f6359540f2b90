use serde_json::{Value, json};

use super::Picture;

/// Steps with the numbers of their inputs.
pub(super) fn draw(picture: &Picture) -> String {
    let stage = |place: usize| {
        let lane = picture.lanes.iter().find(|lane| lane.steps.contains(&place));
        lane.and_then(|lane| lane.stage.clone())
    };
    let steps: Vec<Value> = picture
        .steps
        .iter()
        .enumerate()
        .map(|(place, step)| {
            json!({
                "id": place,
                "stage": stage(place),
                "number": step.number,
                "title": step.title,
                "cache": step.state.word(),
                "lines": step.lines,
                "target": step.target,
                "inputs": picture.inputs(place).map(|edge| edge.from).collect::<Vec<_>>(),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "steps": steps }))
}
