//! Dockerfiles in, pictures out: `testdata/insight/graph/X.Dockerfile` and what is expected of each format beside it, written by a run
//! that fails when it is missing (and anew with `UPDATE_EXPECT=1`): look at it before you keep it. What the cache has of the step in a
//! line stands in comments at the top, `#> runs 4 5`; of all others it has everything.

mod invented;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use frontend::{NamedContext, Options};
use insight::{CacheState, Format, Picture};
use unicode_width::UnicodeWidthStr as _;

const FORMATS: [(&str, Format); 5] = [
    ("txt", Format::Text { width: 80 }),
    ("dot", Format::Dot),
    ("mmd", Format::Mermaid),
    ("json", Format::Json),
    ("svg", Format::Svg),
];

/// The picture of a text.
fn picture(text: &str) -> Picture {
    let mut options = Options { ..invented::options() };
    options.named_contexts.insert("assets".to_owned(), NamedContext::Directory);
    let mut states = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("#> ")) {
        let (word, values) = line.split_once(' ').unwrap();
        let state = match word {
            "runs" => CacheState::Missing,
            "always" => CacheState::Always,
            "unknown" => CacheState::Unknown,
            "platform" => {
                options.platforms.push(values.parse().unwrap());
                continue;
            }
            _ => panic!("{line}"),
        };
        states.extend(values.split(' ').map(|line| (line.parse::<u32>().unwrap(), state)));
    }
    let plan = invented::plan(&parser::parse(text), &options).unwrap();
    Picture::new(&plan, |id| {
        let lines = plan.definition.vertex(id).lines;
        lines.and_then(|(line, _)| states.get(&line)).copied().unwrap_or(CacheState::Cached)
    })
}

#[test]
fn pictures_are_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/insight/graph");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let cases: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "Dockerfile")).collect();
    assert!(cases.len() >= 4);
    let mut wrong = Vec::new();
    for case in cases {
        let picture = picture(&fs::read_to_string(&case).unwrap());
        for (extension, format) in FORMATS {
            let actual = picture.draw(format);
            let expectation = case.with_extension(extension);
            let expected = fs::read_to_string(&expectation).unwrap_or_default();
            if expected != actual {
                if expected.is_empty() || std::env::var_os("UPDATE_EXPECT").is_some() {
                    fs::write(&expectation, &actual).unwrap();
                }
                wrong.push(format!("--- {}: expected\n{expected}+++ got\n{actual}", expectation.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Four stages of fifteen steps each; every third step takes something from the stage before.
fn sixty_steps() -> String {
    let mut text = String::new();
    for stage in 0..4 {
        text.push_str(&format!("FROM debian:{stage} AS stage{stage}\n"));
        for step in 1..15 {
            match (stage, step % 3) {
                (1.., 0) => text.push_str(&format!(
                    "COPY --from=stage{} /a/rather/long/path/to/be/copied/number/{step} /somewhere/else/{step}/\n",
                    stage - 1
                )),
                _ => text.push_str(&format!(
                    "RUN echo this is step {step} of stage {stage} && make --directory=/src/东京 all install check\n"
                )),
            }
        }
    }
    text
}

#[test]
fn sixty_steps_can_be_read_in_eighty_columns() {
    let picture = picture(&sixty_steps());
    assert_eq!(picture.steps.iter().filter(|step| !step.number.is_empty()).count(), 60);
    for width in [40, 60, 80, 200] {
        let text = picture.draw(Format::Text { width });
        for line in text.lines() {
            assert!(line.width() <= width, "{} columns: {line}", line.width());
        }
        // Each step in a line of its own, in the order of the file.
        let mut lines = text.lines();
        for stage in 0..4 {
            assert!(lines.any(|line| line == format!("stage{stage}")), "stage{stage} is missing:\n{text}");
            for step in 1..=15 {
                let number = format!(" {step}/15 ");
                assert!(lines.next().is_some_and(|line| line.contains(&number)), "{stage} {step}:\n{text}");
            }
        }
        // Images are no steps.
        assert!(text.ends_with("\n56 steps: 56 cached\n"), "{text}");
    }
    // What a step takes from another stage is said even where there is little room.
    let text = picture.draw(Format::Text { width: 80 });
    assert!(text.lines().any(|line| line.contains(" 4/15 ") && line.ends_with("← stage0 15/15")), "{text}");
}

#[test]
fn sixty_steps_in_other_formats() {
    let picture = picture(&sixty_steps());
    let json: serde_json::Value = serde_json::from_str(&picture.draw(Format::Json)).unwrap();
    let steps = json["steps"].as_array().unwrap();
    assert_eq!(steps.len(), picture.steps.len());
    for (place, step) in steps.iter().enumerate() {
        let inputs = step["inputs"].as_array().unwrap();
        assert!(inputs.iter().all(|input| input.as_u64().unwrap() < place as u64), "{step}");
    }
    let arrows = |format, arrows: [&str; 2]| {
        let text = picture.draw(format);
        let count: usize = arrows.iter().map(|arrow| text.matches(arrow).count()).sum();
        assert_eq!(count, picture.edges.len(), "{text}");
    };
    arrows(Format::Dot, [" -> ", " => "]);
    arrows(Format::Mermaid, [" --> ", " -.-> "]);
    let svg = picture.draw(Format::Svg);
    assert_eq!(svg.matches("<rect class=\"step\"").count(), steps.len());
    assert_eq!(svg.matches("marker-end").count(), picture.edges.len());
}

/// Names that would end a string, open an element or be taken for code.
const HOSTILE: &str = "FROM debian\nRUN echo '\"]; s0 -> s0; [x=\"' '</text><script>alert(1)</script>' '`&#x41;' \\\\ %% \u{7} \u{202e} end\n";

#[test]
fn hostile_names_are_only_text() {
    let picture = picture(HOSTILE);
    let dot = picture.draw(Format::Dot);
    // Within quotes, nothing but text; outside, only what the drawing itself writes.
    let mut outside = String::new();
    let mut quoted = false;
    let mut chars = dot.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => drop(chars.next()),
            '"' => quoted = !quoted,
            c if !quoted => outside.push(c),
            _ => {}
        }
    }
    assert!(!quoted && !outside.contains("x=") && !outside.contains("script"), "{outside}");
    assert_eq!(outside.matches("->").count(), picture.edges.len(), "{outside}");

    let mermaid = picture.draw(Format::Mermaid);
    for line in mermaid.lines().filter(|line| line.contains("echo")) {
        let (_, rest) = line.split_once("[\"").unwrap();
        let (inside, end) = rest.rsplit_once("\"]").unwrap();
        assert!(end.starts_with(":::"), "{line}");
        assert!(!inside.contains(['"', '<', '>', '`', '\u{7}']), "{line}");
    }

    let svg = picture.draw(Format::Svg);
    assert!(!svg.contains("<script") && !svg.contains('\u{7}'), "{svg}");
    elements_are_balanced(&svg);
    let json: serde_json::Value = serde_json::from_str(&picture.draw(Format::Json)).unwrap();
    let titles: Vec<&str> =
        json["steps"].as_array().unwrap().iter().filter_map(|step| step["title"].as_str()).collect();
    assert!(titles.iter().any(|title| title.contains("</text><script>")), "{titles:?}");
    let text = picture.draw(Format::Text { width: 300 });
    assert!(!text.contains(['\u{7}', '\u{202e}']), "{text:?}");
}

/// Each element of an XML text is closed, in order; `<` and `&` stand nowhere else.
fn elements_are_balanced(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml;
    while let Some((text, after)) = rest.split_once('<') {
        for entity in text.split('&').skip(1) {
            let (name, _) = entity.split_once(';').unwrap_or_else(|| panic!("a bare &: {text}"));
            assert!(["amp", "lt", "gt", "quot"].contains(&name), "&{name};");
        }
        let (tag, after) = after.split_once('>').unwrap();
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        rest = after;
    }
    assert!(open.is_empty(), "{open:?}");
}
