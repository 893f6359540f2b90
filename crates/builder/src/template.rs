//! `--format`: Go's templates (package text/template), as far as Docker's users write them.
//!
//! There is text, `{{.Field.Field}}`, pipelines of functions, `{{range}}`, `{{if}}` and `{{with}}` with `{{else}}`, comments and trim marks. Values are
//! JSON. No variables, no definitions.

use serde_json::Value;

/// A template that can be filled in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Node>);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Print(Pipeline),
    Block { kind: Block, over: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    If,
    Range,
    With,
}

/// Commands, each of which gets the value of the one before as its last argument.
type Pipeline = Vec<Vec<Argument>>;

#[derive(Debug, Clone, PartialEq)]
enum Argument {
    /// `.A.B`; the path is empty for `.`, and begins at the outermost value for `$.A`.
    Field {
        from_root: bool,
        path: Vec<String>,
    },
    Value(Value),
    Function(String),
    Nested(Pipeline),
}

const FUNCTIONS: &[&str] = &[
    "json", "join", "lower", "upper", "title", "len", "index", "print", "println", "not", "and", "or", "eq",
    "ne", "truncate", "split",
];

impl Template {
    /// Reads a template. `\t` and `\n` as people type them in a shell count as what they mean.
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut pieces = pieces(&text)?.into_iter();
        let (nodes, end) = nodes(&mut pieces)?;
        match end {
            Stop::Input => Ok(Template(nodes)),
            _ => Err("`{{end}}` or `{{else}}` without a beginning".to_owned()),
        }
    }

    /// Fills it in.
    pub(crate) fn fill(&self, value: &Value) -> Result<String, String> {
        let mut out = String::new();
        write(&self.0, value, value, &mut out)?;
        Ok(out)
    }

    /// Whether there are the fields that it names, in all branches, of values that have `fields`, none of which has fields itself: before
    /// there is such a value.
    pub(crate) fn check(&self, fields: &[&str]) -> Result<(), String> {
        check(&self.0, fields, Some(fields))
    }

    /// The names of the fields that it shows, as `docker` titles the columns of a table: `{{.CreatedAt}}` is CREATED AT.
    pub(crate) fn title(&self) -> String {
        let text = |node: &Node| match node {
            Node::Text(text) => text.clone(),
            Node::Print(pipeline) => {
                let fields = pipeline.iter().flatten().filter_map(|argument| match argument {
                    Argument::Field { path, .. } => path.last(),
                    _ => None,
                });
                fields.map(|name| heading(name)).collect::<Vec<_>>().join(" ")
            }
            Node::Block { .. } => String::new(),
        };
        self.0.iter().map(text).collect()
    }
}

/// `CreatedSince` is CREATED, as Docker has it; other words are cut at their capitals.
fn heading(name: &str) -> String {
    match name {
        "ID" => return "IMAGE ID".to_owned(),
        "CreatedSince" => return "CREATED".to_owned(),
        _ => {}
    }
    let mut heading = String::new();
    let mut before = 'A';
    for c in name.chars() {
        if c.is_uppercase() && before.is_lowercase() {
            heading.push(' ');
        }
        heading.extend(c.to_uppercase());
        before = c;
    }
    heading
}

/// Text, or what stands between braces.
enum Piece {
    Text(String),
    Action(String),
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    loop {
        let (before, action) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let mut before = if trim { before.trim_start() } else { before };
        let Some(after) = action else {
            pieces.push(Piece::Text(before.to_owned()));
            return Ok(pieces);
        };
        let end = closing(after).ok_or("`{{` without `}}`")?;
        let (mut inner, next) = (&after[..end], &after[end + 2..]);
        if let Some(cut) = inner.strip_prefix("- ") {
            (inner, before) = (cut, before.trim_end());
        }
        trim = inner.ends_with(" -");
        inner = inner.strip_suffix(" -").unwrap_or(inner);
        pieces.push(Piece::Text(before.to_owned()));
        let inner = inner.trim();
        if !(inner.starts_with("/*") && inner.ends_with("*/")) {
            pieces.push(Piece::Action(inner.to_owned()));
        }
        rest = next;
    }
}

/// Where `}}` stands outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

/// What ended a list of nodes.
enum Stop {
    Input,
    End,
    Else(Option<(Block, Pipeline)>),
}

fn nodes(pieces: &mut std::vec::IntoIter<Piece>) -> Result<(Vec<Node>, Stop), String> {
    let mut list = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                if !text.is_empty() {
                    list.push(Node::Text(text));
                }
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
        match word {
            "end" => return Ok((list, Stop::End)),
            "else" => {
                let rest = rest.trim();
                return Ok((list, Stop::Else(if rest.is_empty() { None } else { block(rest)? })));
            }
            _ => match block(&action)? {
                Some((kind, over)) => list.push(inside(kind, over, pieces)?),
                None => list.push(Node::Print(pipeline(&action)?)),
            },
        }
    }
    Ok((list, Stop::Input))
}

fn block(action: &str) -> Result<Option<(Block, Pipeline)>, String> {
    let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
    let kind = match word {
        "if" => Block::If,
        "range" => Block::Range,
        "with" => Block::With,
        _ => return Ok(None),
    };
    Ok(Some((kind, pipeline(rest)?)))
}

fn inside(kind: Block, over: Pipeline, pieces: &mut std::vec::IntoIter<Piece>) -> Result<Node, String> {
    let open = || Err("a block without `{{end}}`".to_owned());
    let (then, end) = nodes(pieces)?;
    let otherwise = match end {
        Stop::End => Vec::new(),
        Stop::Else(None) => match nodes(pieces)? {
            (otherwise, Stop::End) => otherwise,
            _ => return open(),
        },
        Stop::Else(Some((kind, over))) => vec![inside(kind, over, pieces)?],
        Stop::Input => return open(),
    };
    Ok(Node::Block { kind, over, then, otherwise })
}

fn pipeline(text: &str) -> Result<Pipeline, String> {
    let mut tokens = tokens(text)?.into_iter().peekable();
    let parsed = commands(&mut tokens)?;
    if tokens.next().is_some() {
        return Err(format!("`{{{{{text}}}}}`: `)` without `(`"));
    }
    Ok(parsed)
}

fn commands(tokens: &mut std::iter::Peekable<std::vec::IntoIter<String>>) -> Result<Pipeline, String> {
    let mut pipeline = vec![Vec::new()];
    while let Some(token) = tokens.peek() {
        if token == ")" {
            break;
        }
        let token = tokens.next().unwrap_or_default();
        if token == "|" {
            pipeline.push(Vec::new());
            continue;
        }
        let argument = if token == "(" {
            let nested = commands(tokens)?;
            if tokens.next().is_none() {
                return Err("`(` without `)`".to_owned());
            }
            Argument::Nested(nested)
        } else {
            argument(&token)?
        };
        if let Some(command) = pipeline.last_mut() {
            command.push(argument);
        }
    }
    match pipeline.iter().any(Vec::is_empty) {
        true => Err("an empty command".to_owned()),
        false => Ok(pipeline),
    }
}

fn tokens(text: &str) -> Result<Vec<String>, String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' | ')' | '|' => tokens.push(c.to_string()),
            '"' | '`' => {
                let mut token = c.to_string();
                let mut closed = false;
                while let Some(next) = chars.next() {
                    token.push(next);
                    if next == '\\' && c == '"' {
                        token.extend(chars.next());
                    } else if next == c {
                        closed = true;
                        break;
                    }
                }
                if !closed {
                    return Err("a quotation without end".to_owned());
                }
                tokens.push(token);
            }
            c => {
                let mut token = c.to_string();
                while let Some(next) = chars.peek().filter(|c| !c.is_whitespace() && !"()|\"`".contains(**c))
                {
                    token.push(*next);
                    chars.next();
                }
                tokens.push(token);
            }
        }
    }
    Ok(tokens)
}

fn argument(token: &str) -> Result<Argument, String> {
    if token.starts_with('"') {
        let text = serde_json::from_str(token).map_err(|_| format!("`{token}` is no text"))?;
        return Ok(Argument::Value(Value::String(text)));
    }
    if let Some(text) = token.strip_prefix('`') {
        return Ok(Argument::Value(Value::String(text.trim_end_matches('`').to_owned())));
    }
    if let Some(path) = token.strip_prefix("$.").or_else(|| token.strip_prefix('.')) {
        let path = path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        return Ok(Argument::Field { from_root: token.starts_with('$'), path });
    }
    if let Ok(value @ (Value::Number(_) | Value::Bool(_))) = serde_json::from_str(token) {
        return Ok(Argument::Value(value));
    }
    if FUNCTIONS.contains(&token) {
        return Ok(Argument::Function(token.to_owned()));
    }
    Err(format!("`{token}` is not understood; known functions are {}", FUNCTIONS.join(", ")))
}

/// `dot`: the fields of what `.` is, none of a plain value; `None` where that is not known.
fn check(nodes: &[Node], root: &[&str], dot: Option<&[&str]>) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(_) => {}
            Node::Print(pipeline) => check_pipeline(pipeline, root, dot)?,
            Node::Block { kind, over, then, otherwise } => {
                check_pipeline(over, root, dot)?;
                let inner = match (kind, only_field(over)) {
                    (Block::If, _) => dot,
                    (Block::With, Some([])) => dot,
                    (Block::With, Some(_)) => Some(&[][..]),
                    (Block::With, None) | (Block::Range, _) => None,
                };
                check(then, root, inner)?;
                check(otherwise, root, dot)?;
            }
        }
    }
    Ok(())
}

/// The path of the field that a pipeline is, if it is nothing else.
fn only_field(pipeline: &Pipeline) -> Option<&[String]> {
    match pipeline.as_slice() {
        [command] => match command.as_slice() {
            [Argument::Field { from_root: false, path }] => Some(path),
            _ => None,
        },
        _ => None,
    }
}

fn check_pipeline(pipeline: &Pipeline, root: &[&str], dot: Option<&[&str]>) -> Result<(), String> {
    for argument in pipeline.iter().flatten() {
        match argument {
            Argument::Value(_) | Argument::Function(_) => {}
            Argument::Nested(pipeline) => check_pipeline(pipeline, root, dot)?,
            Argument::Field { from_root, path } => {
                let Some(fields) = (if *from_root { Some(root) } else { dot }) else { continue };
                let [name, deeper @ ..] = path.as_slice() else { continue };
                if !fields.is_empty() && !fields.contains(&name.as_str()) {
                    return Err(no_field(name, fields.iter()));
                }
                if let Some(name) = if fields.is_empty() { Some(name) } else { deeper.first() } {
                    return Err(no_field_of_plain(name));
                }
            }
        }
    }
    Ok(())
}

fn write(nodes: &[Node], root: &Value, dot: &Value, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipeline) => out.push_str(&shown(&evaluate(pipeline, root, dot)?)),
            Node::Block { kind, over, then, otherwise } => {
                let value = evaluate(over, root, dot)?;
                match kind {
                    _ if !is_true(&value) => write(otherwise, root, dot, out)?,
                    Block::If => write(then, root, dot, out)?,
                    Block::With => write(then, root, &value, out)?,
                    Block::Range => {
                        let items: Vec<&Value> = match &value {
                            Value::Array(items) => items.iter().collect(),
                            Value::Object(fields) => fields.values().collect(),
                            other => return Err(format!("range cannot go over {}", shown(other))),
                        };
                        items.into_iter().try_for_each(|item| write(then, root, item, out))?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn evaluate(pipeline: &Pipeline, root: &Value, dot: &Value) -> Result<Value, String> {
    let mut last: Option<Value> = None;
    for command in pipeline {
        let mut arguments = command.iter();
        let Some(first) = arguments.next() else { return Err("an empty command".to_owned()) };
        let mut values = arguments.map(|one| value_of(one, root, dot)).collect::<Result<Vec<_>, _>>()?;
        values.extend(last.take());
        last = Some(match first {
            Argument::Function(name) => call(name, values)?,
            other if values.is_empty() => value_of(other, root, dot)?,
            _ => return Err("a value takes no arguments".to_owned()),
        });
    }
    last.ok_or_else(|| "an empty command".to_owned())
}

fn value_of(argument: &Argument, root: &Value, dot: &Value) -> Result<Value, String> {
    match argument {
        Argument::Value(value) => Ok(value.clone()),
        Argument::Function(name) => call(name, Vec::new()),
        Argument::Nested(pipeline) => evaluate(pipeline, root, dot),
        Argument::Field { from_root, path } => {
            let mut value = if *from_root { root } else { dot };
            for (depth, name) in path.iter().enumerate() {
                value = match value {
                    Value::Object(fields) => match fields.get(name) {
                        Some(value) => value,
                        // Deeper down are maps whose keys vary from image to image.
                        None if depth > 0 => &Value::Null,
                        None => return Err(no_field(name, fields.keys())),
                    },
                    Value::Null => &Value::Null,
                    _ => return Err(no_field_of_plain(name)),
                };
            }
            Ok(value.clone())
        }
    }
}

fn no_field(name: &str, fields: impl Iterator<Item = impl std::fmt::Display>) -> String {
    let known: Vec<String> = fields.map(|name| format!(".{name}")).collect();
    format!("there is no field .{name}; there are {}", known.join(", "))
}

fn no_field_of_plain(name: &str) -> String {
    format!("there is no field {name} in a plain value")
}

fn call(name: &str, mut values: Vec<Value>) -> Result<Value, String> {
    let wrong = || format!("wrong arguments for {name}");
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
    let count =
        |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok()).ok_or_else(wrong);
    Ok(match (name, values.as_slice()) {
        ("json", [value]) => Value::String(value.to_string()),
        ("lower", [value]) => Value::String(text(value)?.to_lowercase()),
        ("upper", [value]) => Value::String(text(value)?.to_uppercase()),
        ("title", [value]) => {
            let text = text(value)?;
            let mut chars = text.chars();
            let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
            Value::String(first + chars.as_str())
        }
        ("len", [value]) => Value::from(match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            Value::Null => 0,
            _ => return Err(wrong()),
        }),
        ("join", [list, separator]) => {
            let (items, separator) = (list.as_array().ok_or_else(wrong)?, text(separator)?);
            Value::String(items.iter().map(shown).collect::<Vec<_>>().join(&separator))
        }
        ("split", [whole, separator]) => {
            let (whole, separator) = (text(whole)?, text(separator)?);
            whole.split(&separator).map(|part| Value::String(part.to_owned())).collect()
        }
        ("truncate", [value, most]) => Value::String(text(value)?.chars().take(count(most)?).collect()),
        ("index", [value, keys @ ..]) => {
            let mut value = value;
            for key in keys {
                value = match (value, key) {
                    (Value::Array(items), key) => items
                        .get(count(key)?)
                        .ok_or_else(|| format!("index {key} of a list of {}", items.len()))?,
                    (Value::Object(fields), Value::String(key)) => fields.get(key).unwrap_or(&Value::Null),
                    (Value::Null, Value::String(_)) => &Value::Null,
                    _ => return Err(wrong()),
                };
            }
            value.clone()
        }
        ("print", values) => Value::String(values.iter().map(shown).collect::<Vec<_>>().concat()),
        ("println", values) => Value::String(values.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n"),
        ("not", [value]) => Value::Bool(!is_true(value)),
        ("eq", [first, others @ ..]) if !others.is_empty() => Value::Bool(others.contains(first)),
        ("ne", [first, second]) => Value::Bool(first != second),
        ("and" | "or", [_, ..]) => {
            let wanted = name == "or";
            let decides = values.iter().position(|value| is_true(value) == wanted);
            values.swap_remove(decides.unwrap_or(values.len() - 1))
        }
        _ => return Err(wrong()),
    })
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// As Go prints a value: lists in brackets, maps as `map[a:b]`.
fn shown(value: &Value) -> String {
    let all = |items: Vec<String>| items.join(" ");
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", all(items.iter().map(shown).collect())),
        Value::Object(fields) => {
            format!(
                "map[{}]",
                all(fields.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect())
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str) -> Result<String, String> {
        let value = serde_json::json!({
            "Id": "sha256:1", "RepoTags": ["a:1", "b:2"], "Size": 12, "Empty": "", "None": null,
            "Config": { "Env": ["A=b", "C=d"], "Labels": { "x.y": "z" }, "Cmd": null },
        });
        Template::parse(template)?.fill(&value)
    }

    #[test]
    fn what_people_write() {
        for (template, text) in [
            ("{{.Id}}", "sha256:1"),
            ("{{ .Id }}: {{.Size}}\\n", "sha256:1: 12\n"),
            ("{{json .Config.Env}}", r#"["A=b","C=d"]"#),
            ("{{.Config.Env | json}}", r#"["A=b","C=d"]"#),
            ("{{index .RepoTags 0}}", "a:1"),
            ("{{index .Config.Labels \"x.y\"}}", "z"),
            ("{{index .Config.Labels \"none\"}}", "<no value>"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=b\nC=d\n"),
            ("{{range .RepoTags}}<{{.}} {{$.Size}}>{{end}}", "<a:1 12><b:2 12>"),
            ("{{join .RepoTags \", \"}}", "a:1, b:2"),
            ("{{if .Empty}}x{{else if .Id}}y{{else}}z{{end}}", "y"),
            ("{{with .Config}}{{.Env}}{{end}}", "[A=b C=d]"),
            ("{{range .None}}x{{else}}none{{end}}", "none"),
            ("{{.Config.Labels}}", "map[x.y:z]"),
            ("{{len .RepoTags}}", "2"),
            ("{{upper (index .RepoTags 1)}}", "B:2"),
            ("{{if and .Id (not .Empty)}}both{{end}}", "both"),
            ("a {{- /* no */ -}} b", "ab"),
            ("{{\"}}\"}}", "}}"),
            ("{{.Config.Missing}}", "<no value>"),
            ("", ""),
        ] {
            assert_eq!(fill(template).as_deref(), Ok(text), "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (template, part) in [
            ("{{.Name}}", "there is no field .Name; there are .Id, .RepoTags"),
            ("{{.Id", "without `}}`"),
            ("{{if .Id}}", "without `{{end}}`"),
            ("{{end}}", "without a beginning"),
            ("{{frob .Id}}", "`frob` is not understood"),
            ("{{lower}}", "wrong arguments"),
            ("{{index .RepoTags 9}}", "index 9"),
            ("{{(.Id}}", "without `)`"),
            ("{{\"a}}", "`{{` without `}}`"),
            ("{{|}}", "empty command"),
        ] {
            let message = fill(template).unwrap_err();
            assert!(message.contains(part), "{template}: {message}");
        }
    }

    #[test]
    fn fields_are_known_before_there_is_a_value() {
        let check = |template: &str| Template::parse(template).unwrap().check(&["Name", "ID"]);
        for good in [
            "{{.Name}} {{$.ID | json}}",
            "{{json .}}",
            "{{with .}}{{.Name}}{{end}}",
            "{{with .Name}}{{.}} {{$.ID}}{{end}}",
            "{{range split .Name \"/\"}}{{.}}{{$.ID}}{{end}}",
            "{{if eq .Name (lower .ID)}}{{.ID}}{{else if .ID}}{{.Name}}{{end}}",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let unknown = "there is no field .Nope; there are .Name, .ID";
        for wrong in [
            "{{.Nope}}",
            "{{$.Nope}}",
            "{{.Name}}{{if .ID}}{{.Nope}}{{end}}",
            "{{if .ID}}{{else}}{{.Nope}}{{end}}",
            "{{with .ID}}{{$.Nope}}{{else}}{{end}}",
            "{{range split .Name \"/\"}}{{else}}{{.Nope}}{{end}}",
            "{{lower (print .Nope)}}",
            "{{with .}}{{.Nope}}{{end}}",
        ] {
            assert_eq!(check(wrong).unwrap_err(), unknown, "{wrong}");
        }
        for wrong in ["{{.ID.Nope}}", "{{with .Name}}{{.Nope}}{{end}}"] {
            assert_eq!(check(wrong).unwrap_err(), "there is no field Nope in a plain value", "{wrong}");
        }
    }

    #[test]
    fn titles_of_tables() {
        let title = |text| Template::parse(text).unwrap().title();
        assert_eq!(title("{{.ID}}\\t{{.Repository}}\\t{{.CreatedSince}}"), "IMAGE ID\tREPOSITORY\tCREATED");
        assert_eq!(title("{{.CreatedAt}}"), "CREATED AT");
    }
}
