//! `--call`: questions about a Dockerfile, answered without building. Words and JSON are those of `docker buildx build --call`
//! (BuildKit's `frontend/subrequests`), so that scripts go on working.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use frontend::{Outline, OutlineMount, TargetInfo};
use graph::SecretValues;
use parser::{Diagnostic, Parsed, Span};
use serde_json::{Value, json};

use super::contexts::DockerfileText;
use crate::diagnostics;
use crate::failure::Failure;

/// A question, and the form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) question: Question,
    pub(super) json: bool,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Nothing: it is an ordinary build.
    Build,
    /// Which checks the file violates.
    Check,
    /// What the target can be given.
    Outline,
    /// Which targets there are.
    Targets,
    /// Which questions there are.
    Describe,
    /// What would be done: `builder graph`.
    Graph(insight::Format),
}

/// Reads `QUESTION[,format=json|text]`.
pub(super) fn parse(text: &str) -> Result<Call, String> {
    let mut fields = text.split(',');
    let question = match fields.next().unwrap_or_default() {
        "" | "build" => Question::Build,
        "check" | "lint" => Question::Check,
        "outline" => Question::Outline,
        "targets" => Question::Targets,
        "subrequests.describe" => Question::Describe,
        other => {
            return Err(format!(
                "`{other}` is unknown; known are build, check, outline, targets and subrequests.describe"
            ));
        }
    };
    let mut json = false;
    for field in fields {
        json = match field {
            "format=json" => true,
            "format=text" | "format=" => false,
            // Buildx's own: whether it looks at the files of a remote build. There is none here.
            "ignorestatus=true" | "ignorestatus=false" => json,
            other => return Err(format!("`{other}` is unknown; known are format=json and format=text")),
        };
    }
    Ok(Call { question, json })
}

/// Answers with the exit code that upstream has: 1 when a check found something.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) code: u8,
}

impl Answer {
    pub(super) fn print(&self) -> Result<u8, Failure> {
        let mut out = anstream::stdout().lock();
        out.write_all(self.text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| Failure::standard_output(&error))?;
        Ok(self.code)
    }
}

/// What checks found. `error` is the first mistake of a file that cannot be built.
pub(super) fn check(findings: &[Diagnostic], source: &DockerfileText, json: bool) -> Answer {
    let (violations, mistakes): (Vec<&Diagnostic>, Vec<&Diagnostic>) =
        findings.iter().partition(|finding| finding.rule.is_some() && !finding.is_error());
    // `# check=error=true` adds one that says no more than the violations do.
    let mistake = mistakes.into_iter().find(|finding| finding.is_error() && finding.rule.is_none());
    let mistake =
        mistake.filter(|mistake| violations.is_empty() || !mistake.message.starts_with("lint violation"));
    let code = u8::from(!violations.is_empty() || mistake.is_some());
    let text = if json {
        let warnings: Vec<Value> = violations.iter().map(|finding| warning(finding, source)).collect();
        let mut result = json!({ "warnings": warnings, "sources": [source_info(source)] });
        if let Some(mistake) = mistake {
            result["buildError"] =
                json!({ "message": mistake.message, "location": location(mistake.span, &source.text) });
        }
        pretty(&result)
    } else {
        let mut text = match violations.len() {
            0 if mistake.is_some() => String::new(),
            0 => "Check complete, no warnings found.\n".to_owned(),
            1 => "Check complete, one warning has been found!\n".to_owned(),
            count => format!("Check complete, {count} warnings have been found!\n"),
        };
        for finding in violations {
            text.push('\n');
            text.push_str(&violation(finding, source));
        }
        if let Some(mistake) = mistake {
            text.push_str(&diagnostics::render(std::slice::from_ref(mistake), &source.text, &source.path));
        }
        text
    };
    Answer { text, code }
}

/// One violation, as a build shows it too.
fn violation(finding: &Diagnostic, source: &DockerfileText) -> String {
    let name = finding.rule.unwrap_or_default();
    let mut text = format!("WARNING: {name}");
    if let Some((_, Some(url))) = rule(name) {
        text.push_str(&format!(" - {url}"));
    }
    text.push_str(&format!("\n{}\n", finding.message));
    for advice in finding.notes.iter().chain(&finding.help) {
        text.push_str(&format!("{advice}\n"));
    }
    text.push_str(&diagnostics::excerpt(&source.text, &source.path, lines(finding.span, &source.text)));
    text
}

fn warning(finding: &Diagnostic, source: &DockerfileText) -> Value {
    let name = finding.rule.unwrap_or_default();
    let mut value = json!({ "ruleName": name });
    if let Some((description, url)) = rule(name) {
        value["description"] = description.into();
        if let Some(url) = url {
            value["url"] = url.into();
        }
    }
    value["detail"] = finding.message.as_str().into();
    value["location"] = location(finding.span, &source.text);
    // Not upstream's: there, all is said in the detail.
    let advice: Vec<&str> = finding.notes.iter().chain(&finding.help).map(String::as_str).collect();
    if !advice.is_empty() {
        value["help"] = advice.into();
    }
    value
}

/// What a rule asks for, and where it is explained: upstream's rules and this project's own.
pub(super) fn rule(name: &str) -> Option<(&'static str, Option<String>)> {
    let upstream = frontend::rule(name).map(|rule| (rule.description(), rule.url()));
    upstream.or_else(|| insight::rule(name).map(|rule| (rule.description, Some(rule.url()))))
}

/// What a target can be given; without values that nobody should read.
pub(super) fn outline(
    mut outline: Outline,
    hidden: &SecretValues,
    source: &DockerfileText,
    json: bool,
) -> Answer {
    for arg in &mut outline.args {
        let is_secret = graph::is_secret_like(&arg.name);
        arg.value = arg.value.take().filter(|value| !value.is_empty()).map(|value| match is_secret {
            true => "***".to_owned(),
            false => hidden.conceal(&value).into_owned(),
        });
    }
    for mount in outline.secrets.iter_mut().chain(&mut outline.ssh).chain(&mut outline.caches) {
        mount.id = hidden.conceal(&mount.id).into_owned();
    }
    let text = if json { outline_json(&outline, source) } else { outline_text(&outline) };
    Answer { text, code: 0 }
}

fn outline_json(outline: &Outline, source: &DockerfileText) -> String {
    let mut result = json!({});
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            result[key] = value;
        }
    };
    set("name", outline.name.as_deref().map(Value::from));
    set("description", outline.description.as_deref().map(Value::from));
    let args = outline.args.iter().map(|arg| {
        let mut value = json!({ "name": arg.name });
        if let Some(description) = &arg.description {
            value["description"] = description.as_str().into();
        }
        if let Some(text) = arg.value.as_deref().filter(|text| !text.is_empty()) {
            value["value"] = text.into();
        }
        value["location"] = location(arg.span, &source.text);
        value
    });
    let mounts = |mounts: &[OutlineMount], key: &str| -> Vec<Value> {
        let value = |mount: &OutlineMount| {
            let mut value = json!({});
            value[key] = mount.id.as_str().into();
            if mount.required {
                value["required"] = true.into();
            }
            value["location"] = location(mount.span, &source.text);
            value
        };
        mounts.iter().map(value).collect()
    };
    let some = |values: Vec<Value>| (!values.is_empty()).then(|| Value::from(values));
    set("args", some(args.collect()));
    set("secrets", some(mounts(&outline.secrets, "name")));
    set("ssh", some(mounts(&outline.ssh, "name")));
    set("cache", some(mounts(&outline.caches, "ID")));
    set("sources", Some(json!([STANDARD.encode(&source.text)])));
    pretty(&result)
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    if outline.name.is_some() || outline.description.is_some() {
        let mut rows = vec![vec!["TARGET:", outline.name.as_deref().unwrap_or("(default)")]];
        if let Some(description) = &outline.description {
            rows.push(vec!["DESCRIPTION:", description]);
        }
        text.push_str(&columns(&rows, 1));
        text.push('\n');
    }
    if !outline.args.is_empty() {
        let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
        rows.extend(outline.args.iter().map(|arg| {
            vec![
                arg.name.as_str(),
                arg.value.as_deref().unwrap_or_default(),
                arg.description.as_deref().unwrap_or_default(),
            ]
        }));
        text.push_str(&columns(&rows, 3));
        text.push('\n');
    }
    for (title, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !mounts.is_empty() {
            let mut rows = vec![vec![title, "REQUIRED"]];
            rows.extend(
                mounts.iter().map(|mount| vec![mount.id.as_str(), if mount.required { "true" } else { "" }]),
            );
            text.push_str(&columns(&rows, 3));
            text.push('\n');
        }
    }
    text
}

/// Which targets a file has. Its mistakes do not matter.
pub(super) fn targets(parsed: &Parsed, source: &DockerfileText, json: bool) -> Answer {
    let targets = frontend::targets(parsed);
    let text = if json {
        let target = |target: &TargetInfo| {
            let mut value = json!({});
            if let Some(name) = &target.name {
                value["name"] = name.as_str().into();
            }
            if target.default {
                value["default"] = true.into();
            }
            if let Some(description) = &target.description {
                value["description"] = description.as_str().into();
            }
            value["base"] = target.base.as_str().into();
            if let Some(platform) = &target.platform {
                value["platform"] = platform.as_str().into();
            }
            value["location"] = location(target.span, &source.text);
            value
        };
        let targets: Vec<Value> = targets.iter().map(target).collect();
        pretty(&json!({ "targets": targets, "sources": [STANDARD.encode(&source.text)] }))
    } else {
        let names: Vec<String> = targets
            .iter()
            .map(|target| match (&target.name, target.default) {
                (None, true) => "(default)".to_owned(),
                (Some(name), true) => format!("{name} (default)"),
                (name, false) => name.clone().unwrap_or_default(),
            })
            .collect();
        let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
        let described = names.iter().zip(&targets);
        rows.extend(
            described
                .map(|(name, target)| vec![name.as_str(), target.description.as_deref().unwrap_or_default()]),
        );
        columns(&rows, 1)
    };
    Answer { text, code: 0 }
}

/// Which questions can be asked.
pub(super) fn describe(json: bool) -> Answer {
    let known = [
        ("frontend.outline", "List all parameters current build target supports"),
        ("frontend.targets", "List all targets current build supports"),
        ("frontend.lint", "Lint a Dockerfile"),
        ("frontend.subrequests.describe", "List available subrequest types"),
    ];
    let text = if json {
        let request = |(name, description): &(&str, &str)| {
            json!({
                "name": name, "version": "1.0.0", "type": "rpc", "description": description,
                "metadata": [{ "name": "result.json", "description": "" }, { "name": "result.txt", "description": "" }],
            })
        };
        pretty(&Value::from(known.iter().map(request).collect::<Vec<_>>()))
    } else {
        let mut rows = vec![vec!["NAME", "VERSION", "DESCRIPTION"]];
        let short = |name: &'static str| name.strip_prefix("frontend.").unwrap_or(name);
        rows.extend(known.iter().map(|(name, description)| vec![short(name), "1.0.0", description]));
        columns(&rows, 1)
    };
    Answer { text, code: 0 }
}

/// Columns with so many blanks between.
fn columns(rows: &[Vec<&str>], gap: usize) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
    insight::in_columns(&rows, &insight::widths(&rows), gap, "<")
}

/// The lines of a span, from 1.
pub(super) fn lines(span: Span, source: &str) -> (u32, u32) {
    let line = |at: usize| {
        let at = at.min(source.len());
        u32::try_from(source.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1)
            .unwrap_or(u32::MAX)
    };
    let last = span.range().end.saturating_sub(1).max(span.range().start);
    (line(span.range().start), line(last))
}

/// BuildKit's location: whole lines, characters from 0.
fn location(span: Span, source: &str) -> Value {
    let (first, last) = lines(span, source);
    json!({ "ranges": [{ "start": { "line": first, "character": 0 }, "end": { "line": last, "character": 0 } }] })
}

pub(super) fn source_info(source: &DockerfileText) -> Value {
    json!({ "filename": source.path, "language": "Dockerfile", "data": STANDARD.encode(&source.text) })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> DockerfileText {
        DockerfileText { path: "Dockerfile".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn questions() {
        let call = |text: &str| parse(text).map(|call| (call.question, call.json)).unwrap();
        assert_eq!(call("build"), (Question::Build, false));
        assert_eq!(call("check"), (Question::Check, false));
        assert_eq!(call("targets,format=json"), (Question::Targets, true));
        assert!(parse("x").is_err() && parse("check,format=xml").is_err());
    }

    #[test]
    fn targets_as_upstream_lists_them() {
        let text = "# base the tools\nFROM a AS base\nFROM base\n";
        let parsed = parser::parse(text);
        let answer = targets(&parsed, &source(text), false);
        assert_eq!(answer.text, "TARGET    DESCRIPTION\nbase      the tools\n(default)\n");
        let json: Value = serde_json::from_str(&targets(&parsed, &source(text), true).text).unwrap();
        assert_eq!(json["targets"][0]["description"], "the tools");
        assert_eq!(json["targets"][1]["default"], true);
        assert_eq!(json["targets"][1]["location"]["ranges"][0]["start"]["line"], 3);
    }

    #[test]
    fn findings_of_checks() {
        let text = "FROM a AS Foo\n";
        let finding = Diagnostic::warning(Span::new(0, 13), "Stage name 'Foo' should be lowercase")
            .with_rule("StageNameCasing");
        let answer = check(std::slice::from_ref(&finding), &source(text), false);
        assert_eq!(answer.code, 1);
        assert_eq!(
            answer.text,
            "Check complete, one warning has been found!\n\nWARNING: StageNameCasing - \
             https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\nStage name 'Foo' should be lowercase\n\
             Dockerfile:1\n--------------------\n   1 | >>> FROM a AS Foo\n--------------------\n"
        );
        let json: Value = serde_json::from_str(&check(&[finding], &source(text), true).text).unwrap();
        assert_eq!(json["warnings"][0]["ruleName"], "StageNameCasing");
        assert_eq!(check(&[], &source(text), false).code, 0);
    }

    #[test]
    fn advice_comes_with_its_page_and_what_to_do() {
        let text = "FROM a\nRUN apt-get update\n";
        let finding = Diagnostic::warning(Span::new(7, 25), "a message")
            .with_rule("AptGetUpdateAlone")
            .with_note("a fact")
            .with_help("write instead:\n    RUN x");
        let answer = check(std::slice::from_ref(&finding), &source(text), false);
        let start = "\nWARNING: AptGetUpdateAlone - docs/checks/AptGetUpdateAlone.md\na message\na fact\nwrite instead:\n    RUN x\n\
                     Dockerfile:2\n";
        assert!(answer.text.contains(start), "{}", answer.text);
        let json: Value = serde_json::from_str(&check(&[finding], &source(text), true).text).unwrap();
        let warning = &json["warnings"][0];
        assert_eq!(warning["url"], "docs/checks/AptGetUpdateAlone.md");
        assert!(warning["description"].as_str().is_some_and(|text| text.starts_with("Package lists")));
        assert_eq!(warning["help"], json!(["a fact", "write instead:\n    RUN x"]));
    }
}
