//! A comparison as one page that needs nothing else: both orderings side by side, lanes of steps, coloured by what the chosen edit
//! reruns.

use super::render::{amounts, cells, letter, time};
use super::{Comparison, OrderedStep, Ordering};
use crate::picture::taken_apart;
use crate::words;

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

impl Comparison {
    /// The page.
    pub fn html(&self) -> String {
        let mut page =
            String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        page +=
            "<meta name=\"viewport\" content=\"width=device-width\">\n<title>Orderings compared</title>\n";
        page += &format!("<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>What an edit reruns</h1>\n");
        match self.nothing() {
            Some(sentence) => page += &format!("<p>{sentence}</p>\n"),
            None => page += &self.summary(),
        }
        page += "<p class=\"legend\"><span class=\"runs\">runs</span> <span class=\"atmost\">runs at most: its input may \
                 come out as it was</span> <span class=\"cached\">cached</span> <span class=\"source\">source</span></p>\n";
        if !self.edits.is_empty() {
            page += &self.edits_table();
        }
        page += "<div class=\"orderings\">\n";
        for index in 0..self.orderings.len() {
            page += &self.ordering(index);
        }
        page += &format!("</div>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
        page
    }

    fn summary(&self) -> String {
        let cards = self.orderings.iter().enumerate().map(|(index, ordering)| {
            let [time, bytes, pushed] = amounts(&self.expected(index));
            format!(
                "<div class=\"card\"><h2>{} {}</h2><p><b>{time}</b> and <b>{bytes}</b> per {}, <b>{pushed}</b> of them \
                 to push</p></div>\n",
                letter(index),
                escape(&ordering.name),
                self.unit
            )
        });
        format!("<div class=\"cards\">\n{}</div>\n", cards.collect::<String>())
    }

    fn edits_table(&self) -> String {
        let mut table = String::from("<table>\n<thead><tr><th>edit</th><th>times</th>");
        for index in 0..self.orderings.len() {
            let letter = letter(index);
            for what in ["reruns", "time", "layers", "pushed"] {
                table += &format!("<th>{letter} {what}</th>");
            }
        }
        table += "</tr></thead>\n<tbody>\n";
        for (number, (edit, predictions)) in self.edits.iter().zip(&self.predictions).enumerate() {
            table += &format!(
                "<tr data-edit=\"{number}\" tabindex=\"0\"><td>{}</td><td>{}</td>",
                escape(&edit.name),
                edit.weight
            );
            for (ordering, prediction) in self.orderings.iter().zip(predictions) {
                let steps = ordering.steps.iter().filter(|step| !step.source).count();
                for cell in cells(prediction, steps) {
                    table += &format!("<td>{}</td>", escape(&cell));
                }
            }
            table += "</tr>\n";
        }
        table + "</tbody>\n</table>\n"
    }

    fn ordering(&self, index: usize) -> String {
        let ordering = &self.orderings[index];
        let mut section = format!("<section>\n<h2>{} {}</h2>\n", letter(index), escape(&ordering.name));
        for (stage, steps) in lanes(ordering) {
            section += "<div class=\"lane\">\n";
            if let Some(stage) = stage.filter(|stage| !stage.is_empty()) {
                section += &format!("<h3>{}</h3>\n", escape(stage));
            }
            for step in steps {
                section += &self.step(index, step);
            }
            section += "</div>\n";
        }
        section + "</section>\n"
    }

    fn step(&self, index: usize, place: usize) -> String {
        let step = &self.orderings[index].steps[place];
        // One letter an edit: what it does to this step.
        let effects: String = self
            .predictions
            .iter()
            .map(|predictions| match predictions[index].effects[place] {
                super::Effect::Cached => 'c',
                super::Effect::AtMost => 'm',
                super::Effect::Runs => 'r',
            })
            .collect();
        let (_, number, title) = taken_apart(&step.name);
        let class = if step.source { "step source" } else { "step" };
        format!(
            "<div class=\"{class}\" data-effects=\"{}\" title=\"{}\"><span class=\"number\">{}</span> <span \
             class=\"title\">{}</span> <span class=\"cost\">{}</span></div>\n",
            if step.source { "" } else { &effects },
            escape(&hover(step)),
            escape(number),
            escape(title),
            if step.source { String::new() } else { escape(&time(step)) },
        )
    }
}

/// What the pointer shows over a step.
fn hover(step: &OrderedStep) -> String {
    if step.source {
        return step.name.clone();
    }
    let bytes = step.bytes.map_or_else(|| "?".to_owned(), words::bytes);
    let image = if step.pushed { ", a layer of the image" } else { "" };
    format!("{}\n{} when it ran, {bytes}{image}", step.name, time(step))
}

/// Stages with the places of their steps, in the order of the file.
fn lanes(ordering: &Ordering) -> Vec<(Option<&str>, Vec<usize>)> {
    let mut lanes: Vec<(Option<&str>, Vec<usize>)> = Vec::new();
    for (place, step) in ordering.steps.iter().enumerate() {
        let (stage, ..) = taken_apart(&step.name);
        match lanes.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, steps)) => steps.push(place),
            None => lanes.push((stage, vec![place])),
        }
    }
    lanes
}

/// Names of files and commits are anybody's.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' => escaped.push('\n'),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}
