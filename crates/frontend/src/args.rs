//! The ARGs before the first FROM, and the names that builders define themselves.

use std::collections::{BTreeMap, BTreeSet};

use image::Platform;
use parser::{Diagnostic, Dockerfile};

use crate::shown::{Secretive, Text};
use crate::{Expander, Options, OutlineArg, Variables, shown};

/// The variables of FROM lines, which a stage gets by declaring them.
#[derive(Clone, Debug, Default)]
pub(crate) struct GlobalArgs {
    values: BTreeMap<String, String>,
    /// What is shown in place of values that nobody should read.
    shown: BTreeMap<String, String>,
    declared: BTreeSet<String>,
    infos: BTreeMap<String, Info>,
}

/// What an outline says of a declared argument.
#[derive(Clone, Debug)]
struct Info {
    arg: OutlineArg,
    /// The variables that its default uses, through earlier defaults of the same name too.
    made_of: BTreeSet<String>,
}

impl Variables for GlobalArgs {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

impl Secretive for GlobalArgs {
    fn with_shown(&self, name: &str) -> Option<(&str, Option<&str>)> {
        Some((self.get(name)?, self.shown.get(name).map(String::as_str)))
    }
}

impl GlobalArgs {
    /// Evaluates the global ARGs; `build_args` beat defaults. What cannot be expanded is reported and left out.
    pub(crate) fn new(
        dockerfile: &Dockerfile,
        options: &Options,
        build_args: &BTreeMap<String, String>,
        platform: &Platform,
        report: &mut dyn FnMut(Diagnostic),
    ) -> Self {
        let mut args = Self::default();
        for (name, value) in predefined(dockerfile, options, platform) {
            let value = build_args.get(name).cloned().unwrap_or(value);
            args.values.insert(name.to_owned(), value);
        }
        let expander = Expander::new(dockerfile.directives.escape.char());
        // They are evaluated several times, so there is less room than for all the rest.
        let mut room: usize = 32 << 20;
        for instruction in &dockerfile.args {
            if room == 0 {
                let message = "what the variables expand to is too long, all together";
                report(Diagnostic::error(instruction.span, message));
                break;
            }
            for name in &instruction.kind.names {
                let key = &name.key.text;
                args.declared.insert(key.clone());
                let mut made_of = BTreeSet::new();
                let value = match (build_args.get(key), &name.value) {
                    (Some(value), _) => Some(Text::from(value.clone())),
                    (None, None) => None,
                    (None, Some(word)) => {
                        match shown::expand(expander, Expander::expand, &word.text, &args) {
                            Ok((expanded, shown)) => {
                                made_of = expanded.used;
                                if made_of.remove(key)
                                    && let Some(before) = args.infos.get(key)
                                {
                                    made_of.extend(before.made_of.iter().cloned());
                                }
                                room = room.saturating_sub(expanded.text.len());
                                Some(Text::new(expanded.text, shown))
                            }
                            Err(error) => {
                                room = room.saturating_sub(error.cost());
                                report(Diagnostic::error(word.span_of(error.range), error.message));
                                None
                            }
                        }
                    }
                };
                let arg = OutlineArg {
                    name: key.clone(),
                    description: instruction.description(key).map(str::to_owned),
                    value: None,
                    span: instruction.span,
                };
                args.infos.insert(key.clone(), Info { arg, made_of });
                if let Some(value) = value {
                    let value = value.of_variable(key);
                    match value.instead() {
                        Some(shown) => drop(args.shown.insert(key.clone(), shown.to_owned())),
                        None => drop(args.shown.remove(key)),
                    }
                    args.values.insert(key.clone(), value.value);
                }
            }
        }
        args
    }

    /// Gives an argument another value, or none.
    pub(crate) fn set(&mut self, name: &str, value: Option<String>) {
        self.shown.remove(name);
        match value {
            Some(value) => drop(self.values.insert(name.to_owned(), value)),
            None => drop(self.values.remove(name)),
        }
    }

    /// What is known about declared arguments: `name` and those that its default is made of.
    pub(crate) fn outline(&self, name: &str, into: &mut Vec<OutlineArg>) {
        let mut seen = BTreeSet::new();
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            if let Some(info) = self.infos.get(name)
                && seen.insert(name)
            {
                into.push(OutlineArg { value: self.values.get(name).cloned(), ..info.arg.clone() });
                open.extend(info.made_of.iter().map(String::as_str));
            }
        }
    }

    /// The names that FROM may use.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().chain(self.values.keys()).map(String::as_str)
    }

    /// All with a value that is not shown, and those values.
    pub(crate) fn concealed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.shown.keys().filter_map(|name| Some((name.as_str(), self.get(name)?)))
    }

    /// Whether FROM may use `name`, which may still be unset.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.declared.contains(name) || self.values.contains_key(name)
    }
}

fn predefined(dockerfile: &Dockerfile, options: &Options, target: &Platform) -> [(&'static str, String); 11] {
    let build = &options.build_platform;
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let last = dockerfile.stages.last().and_then(|stage| stage.name());
    let stage = options.target.as_deref().or(last).unwrap_or("default");
    [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", text(&build.os_version)),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", text(&build.variant)),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", text(&target.os_version)),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", text(&target.variant)),
        ("TARGETSTAGE", stage.to_owned()),
    ]
}

/// The arguments that steer builders instead of steps.
const OF_BUILDERS: [&str; 11] = [
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    "BUILDKIT_SYNTAX",
    "SOURCE_DATE_EPOCH",
];

/// Whether builders give `name` a meaning without any ARG.
pub(crate) fn is_predefined(name: &str) -> bool {
    let platform = ["BUILD", "TARGET"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            matches!(rest, "PLATFORM" | "OS" | "OSVERSION" | "ARCH" | "VARIANT" | "STAGE")
        })
    });
    platform || proxy_of(name).is_some() || OF_BUILDERS.contains(&name)
}

/// The proxies among the build arguments, in both spellings that programs read. They reach RUN without any ARG.
pub(crate) fn proxies(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    // Lower case comes after upper case in the map, and wins.
    let values: BTreeMap<&str, &String> =
        build_args.iter().filter_map(|(name, value)| Some((proxy_of(name)?, value))).collect();
    let spellings = |(name, value): (&str, &String)| {
        [(name.to_uppercase(), value.clone()), (name.to_owned(), value.clone())]
    };
    values.into_iter().filter(|(_, value)| !value.is_empty()).flat_map(spellings).collect()
}

fn proxy_of(name: &str) -> Option<&'static str> {
    ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"]
        .into_iter()
        .find(|proxy| proxy.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_come_in_both_spellings_and_lower_case_wins() {
        let args = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let given = [
            ("ALL_PROXY", "upper"),
            ("all_proxy", "lower"),
            ("HTTP_PROXY", "h"),
            ("FOO", "x"),
            ("NO_PROXY", ""),
        ];
        let expected =
            [("ALL_PROXY", "lower"), ("all_proxy", "lower"), ("HTTP_PROXY", "h"), ("http_proxy", "h")];
        let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(proxies(&args(&given)), expected);
    }

    #[test]
    fn predefined_names() {
        for name in
            ["HTTP_PROXY", "no_proxy", "TARGETARCH", "BUILDPLATFORM", "BUILDKIT_SYNTAX", "SOURCE_DATE_EPOCH"]
        {
            assert!(is_predefined(name), "{name}");
        }
        for name in ["VERSION", "TARGET", "PROXY", "BUILDKIT_SYNTACKS"] {
            assert!(!is_predefined(name), "{name}");
        }
    }
}
