//! What the Dockerfiles of [`fuzz`](crate::fuzz) mean, worked out from their text alone: what the program says of them is compared with it.

use std::collections::BTreeMap;

/// A Dockerfile, instruction by instruction; those with inline text are one with it. Comments are left out.
pub fn instructions(dockerfile: &str) -> Vec<String> {
    let mut instructions = Vec::new();
    let mut lines = dockerfile.lines();
    while let Some(line) = lines.next() {
        // In a text it is no comment.
        if line.starts_with("# ") {
            continue;
        }
        let mut instruction = line.to_owned();
        if line.contains("<<X") {
            for line in lines.by_ref() {
                instruction = format!("{instruction}\n{line}");
                if line == "X" {
                    break;
                }
            }
        }
        instructions.push(instruction);
    }
    instructions
}

/// The instructions of a stage.
pub fn of_stage(dockerfile: &str, stage: &str) -> Vec<String> {
    let is_from = |line: &String| line.starts_with("FROM ");
    let own = |line: &String| is_from(line) && line.ends_with(&format!(" AS {stage}"));
    let all = instructions(dockerfile);
    let from = all.iter().position(own).map_or(all.len(), |at| at + 1);
    all[from..].iter().take_while(|line| !is_from(line)).cloned().collect()
}

/// What is set where an instruction stands.
#[derive(Clone, Default)]
struct Setting {
    user: String,
    directory: String,
    shell: Option<String>,
    variables: BTreeMap<String, String>,
}

/// The fields of each instruction with this first line in a stage, by the names that reasons give them.
pub fn fields(
    dockerfile: &str,
    args: &BTreeMap<&str, String>,
    stage: &str,
    title: &str,
) -> Vec<BTreeMap<String, String>> {
    let (mut ends, mut current) = (BTreeMap::new(), String::new());
    let mut setting = Setting::default();
    let mut found = Vec::new();
    for instruction in instructions(dockerfile) {
        let first = instruction.lines().next().unwrap_or_default();
        let (keyword, rest) = first.split_once(' ').unwrap_or((first, ""));
        match keyword {
            "FROM" => {
                ends.insert(current, setting);
                let words: Vec<&str> = rest.split(' ').collect();
                setting = ends
                    .get(words[0])
                    .cloned()
                    .unwrap_or(Setting { directory: "/".to_owned(), ..Setting::default() });
                current = words[2].to_owned();
            }
            "USER" => setting.user = rest.to_owned(),
            "WORKDIR" => setting.directory = rest.to_owned(),
            "SHELL" => {
                let words = rest.trim_matches(['[', ']']).split(", ");
                let words: Vec<&str> = words.map(|word| word.trim_matches('"')).collect();
                setting.shell = Some(words.join(" "));
            }
            "ENV" => {
                let (name, value) = rest.split_once('=').expect("a value");
                setting.variables.insert(format!("ENV {name}"), value.to_owned());
            }
            "ARG" => {
                let (name, default) =
                    rest.split_once('=').map_or((rest, None), |(n, value)| (n, Some(value)));
                if let Some(value) = args.get(name).map(String::as_str).or(default) {
                    setting.variables.insert(format!("ARG {name}"), value.to_owned());
                }
            }
            _ => {}
        }
        if current == stage && first == title {
            found.push(of_instruction(&setting, keyword, rest));
        }
    }
    found
}

fn of_instruction(setting: &Setting, keyword: &str, rest: &str) -> BTreeMap<String, String> {
    let words: Vec<&str> = rest.split(' ').collect();
    let flags: Vec<&str> = words.iter().copied().take_while(|word| word.starts_with("--")).collect();
    let mut fields = BTreeMap::new();
    let mut put = |name: &str, value: &str| drop(fields.insert(name.to_owned(), value.to_owned()));
    match keyword {
        "RUN" => {
            let shell = setting.shell.as_deref().unwrap_or("/bin/sh -c");
            put("command", &format!("{shell} {}", words[flags.len()..].join(" ")));
            put("user", &setting.user);
            put("directory", &setting.directory);
            setting.variables.iter().for_each(|(name, value)| put(name, value));
        }
        "COPY" | "ADD" => {
            put("destination", words.last().expect("a destination"));
            for flag in flags {
                match flag.split_once('=') {
                    Some(("--chown", owner)) => put("owner", owner),
                    Some(("--chmod", mode)) => match u32::from_str_radix(mode, 8) {
                        Ok(mode) => put("mode", &format!("{mode:04o}")),
                        Err(_) => put("mode", "symbolic"),
                    },
                    _ => {}
                }
            }
        }
        "WORKDIR" => put("path", rest),
        _ => {}
    }
    fields
}

/// A Dockerfile with what [`is_named`](Changed) of its differences from another as that has it, and all else as it is.
pub fn reverted(now: &str, before: &str, is_named: &dyn Fn(Changed<'_>) -> bool) -> String {
    let (now, before) = (instructions(now), instructions(before));
    // How many instructions are common to both from here on.
    let mut common = vec![vec![0; before.len() + 1]; now.len() + 1];
    for n in (0..now.len()).rev() {
        for b in (0..before.len()).rev() {
            common[n][b] = match now[n] == before[b] {
                true => common[n + 1][b + 1] + 1,
                false => common[n + 1][b].max(common[n][b + 1]),
            };
        }
    }
    let (mut n, mut b, mut text) = (0, 0, String::new());
    // Of two that are the same, one may have gone and the other stayed.
    let number = |lines: &[String], line: &String| lines.iter().filter(|one| *one == line).count();
    let mut put = |line: &str| text += &format!("{line}\n");
    while n < now.len() || b < before.len() {
        // Where both have something else, what was comes first.
        let only_now = n < now.len() && (b == before.len() || common[n + 1][b] > common[n][b + 1]);
        match () {
            () if n < now.len() && b < before.len() && now[n] == before[b] => {
                put(&now[n]);
                (n, b) = (n + 1, b + 1);
            }
            () if only_now => {
                let moved = number(&before, &now[n]) >= number(&now, &now[n]);
                if !is_named(Changed { instruction: &now[n], is_new: true, moved }) {
                    put(&now[n]);
                }
                n += 1;
            }
            () => {
                let moved = number(&now, &before[b]) >= number(&before, &before[b]);
                if is_named(Changed { instruction: &before[b], is_new: false, moved }) {
                    put(&before[b]);
                }
                b += 1;
            }
        }
    }
    text
}

/// An instruction that one of two Dockerfiles has and the other has not, in its place.
#[derive(Debug, Clone, Copy)]
pub struct Changed<'a> {
    /// All of it.
    pub instruction: &'a str,
    /// Whether the later one has it.
    pub is_new: bool,
    /// Whether the other one has it elsewhere.
    pub moved: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_where_an_instruction_stands() {
        let text = "FROM a AS one\nARG NAME=1\nENV KEY=2\nSHELL [\"/bin/sh\", \"-ec\"]\nFROM one AS two\nUSER 3\n# USER 4\nRUN --mount=x true a\nCOPY --chmod=640 a b /c\n";
        let args = BTreeMap::from([("NAME", "9".to_owned())]);
        let of = |title: &str| fields(text, &args, "two", title).pop().expect("it is there");
        let run = of("RUN --mount=x true a");
        let value = |name: &str| run.get(name).map(String::as_str).unwrap_or_default();
        assert_eq!(["command", "user", "directory"].map(value), ["/bin/sh -ec true a", "3", "/"]);
        assert_eq!(["ARG NAME", "ENV KEY"].map(value), ["9", "2"]);
        let copy = of("COPY --chmod=640 a b /c");
        assert_eq!((&*copy["destination"], &*copy["mode"]), ("/c", "0640"));
        assert!(fields(text, &args, "one", "RUN --mount=x true a").is_empty());
    }

    #[test]
    fn only_what_is_named_is_reverted() {
        let (before, now) = ("FROM a\nENV A=1\nRUN x\nRUN y\n", "FROM a\nENV A=2\nRUN y\nRUN x\nRUN z\n");
        let env = |changed: Changed<'_>| changed.instruction.starts_with("ENV");
        assert_eq!(reverted(now, before, &env), "FROM a\nENV A=1\nRUN y\nRUN x\nRUN z\n");
        assert_eq!(reverted(now, before, &|_| true), before);
        assert_eq!(reverted(now, before, &|_| false), now);
        // One of two that were the same.
        let (before, now) = ("FROM a\nRUN x1\nFROM a\nRUN x1\n", "FROM a\nRUN x1\nFROM a\nRUN x2\n");
        assert_eq!(reverted(now, before, &|changed| !changed.moved), before);
    }
}
