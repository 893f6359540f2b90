//! Package managers of programming languages.

use super::{Install, Word, Work, has_option, is_flag, is_local, option, positionals};

/// What a manager does; `None` when the program is none.
pub(super) fn work(program: &str, args: &[Word]) -> Option<Work> {
    Some(match program {
        "npm" => npm(args),
        "yarn" => yarn(args),
        "pnpm" => pnpm(args),
        "bun" => bun(args),
        "uv" => uv(args),
        "python" | "python2" | "python3" => match args {
            [module, pip, rest @ ..] if module.text == "-m" && pip.text == "pip" => self::pip(rest),
            _ => Work::Unknown,
        },
        "pipenv" => pipenv(args),
        "poetry" => poetry(args),
        "bundle" | "bundler" => bundle(args),
        "gem" => by_name(
            "gem",
            args,
            &["-v", "--version", "-i", "-n"],
            &["install"],
            &["update", "cleanup", "sources"],
        ),
        "composer" => composer(args),
        "go" => go(args),
        "cargo" => cargo(args),
        "rustup" => by_name(
            "rustup",
            args,
            &["--toolchain", "--profile"],
            &["component", "target", "toolchain", "install", "default", "update"],
            &["show", "set"],
        ),
        "mvn" | "./mvnw" => maven(program, args),
        "mix" => mix(args),
        "conda" | "mamba" | "micromamba" => conda(args),
        "docker-php-ext-install"
        | "docker-php-ext-configure"
        | "docker-php-ext-enable"
        | "install-php-extensions" => named("php", args.iter()),
        "pecl" => {
            by_name("php", args, &[], &["install"], &["channel-update", "clear-cache", "update-channels"])
        }
        "cpanm" => named("cpanm", args.iter()),
        program if program.strip_prefix("pip").is_some_and(is_version) => pip(args),
        _ => return None,
    })
}

/// Nothing, `3` or `3.11`.
fn is_version(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// All that is installed stands in the command.
fn named<'w>(manager: &'static str, mut names: impl Iterator<Item = &'w Word>) -> Work {
    match names.any(is_local) {
        true => Work::Unknown,
        false => Work::Install(Install { manager, ..Install::default() }),
    }
}

/// A manager whose first word says what to do, and the others to what.
fn by_name(
    manager: &'static str,
    args: &[Word],
    values: &[&str],
    install: &[&str],
    trifles: &[&str],
) -> Work {
    match positionals(args, values).split_first() {
        Some((does, [])) if install.contains(&does.text.as_str()) => Work::Unknown,
        Some((does, names)) if install.contains(&does.text.as_str()) => named(manager, names.iter().copied()),
        Some((does, _)) if trifles.contains(&does.text.as_str()) => Work::Trifle,
        _ => Work::Unknown,
    }
}

/// Directories whose content scripts of packages need, by common use.
const NODE_DIRECTORIES: [&str; 2] = ["patches", "prisma"];

/// Files of a project that has packages of its own, which have such files as well.
const NODE_WORKSPACES: [&str; 4] = ["pnpm-workspace.yaml", "lerna.json", "nx.json", "rush.json"];

fn npm(args: &[Word]) -> Work {
    const VALUES: [&str; 8] =
        ["--prefix", "-C", "--registry", "--cache", "--loglevel", "--omit", "--include", "--only"];
    let words = positionals(args, &VALUES);
    let Some((does, names)) = words.split_first() else { return Work::Unknown };
    let is_global = has_option(args, &["-g", "--global", "--location"]);
    match (does.text.as_str(), names) {
        ("ci" | "install" | "i" | "clean-install", []) if !is_global => {
            if has_option(args, &["-w", "--workspace", "--workspaces"]) {
                return Work::Unknown;
            }
            in_directory(
                Install {
                    manager: "npm",
                    files: vec!["package.json".to_owned()],
                    also: &["package-lock.json", "npm-shrinkwrap.json", ".npmrc"],
                    usual: &["package-lock.json"],
                    directories: &NODE_DIRECTORIES,
                    made: &["node_modules"],
                    unless: &NODE_WORKSPACES,
                    ..Install::default()
                },
                option(args, &["--prefix", "-C"]),
            )
        }
        ("install" | "i" | "add", [_, ..]) if is_global => named("npm", names.iter().copied()),
        ("cache" | "config" | "set" | "version", _) => Work::Trifle,
        _ => Work::Unknown,
    }
}

fn yarn(args: &[Word]) -> Work {
    const VALUES: [&str; 6] =
        ["--cwd", "--network-timeout", "--registry", "--cache-folder", "--mutex", "--network-concurrency"];
    let words = positionals(args, &VALUES);
    let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    match words.as_slice() {
        [] | ["install"] if !has_option(args, &["--version", "-v", "--help"]) => in_directory(
            Install {
                manager: "yarn",
                files: vec!["package.json".to_owned()],
                also: &["yarn.lock", ".yarnrc", ".yarnrc.yml", ".npmrc"],
                usual: &["yarn.lock"],
                directories: &[".yarn", "patches", "prisma"],
                made: &["node_modules"],
                unless: &NODE_WORKSPACES,
                ..Install::default()
            },
            option(args, &["--cwd"]),
        ),
        ["global", "add", ..] => named("yarn", positionals(args, &VALUES).into_iter().skip(2)),
        ["cache" | "config", ..] => Work::Trifle,
        _ => Work::Unknown,
    }
}

fn pnpm(args: &[Word]) -> Work {
    if has_option(args, &["-r", "--recursive", "-F", "--filter", "-w", "--workspace-root"]) {
        return Work::Unknown;
    }
    let words = positionals(args, &["-C", "--dir", "--store-dir", "--registry"]);
    let Some((does, names)) = words.split_first() else { return Work::Unknown };
    let is_global = has_option(args, &["-g", "--global"]);
    match (does.text.as_str(), names) {
        ("install" | "i", []) if !is_global => in_directory(
            Install {
                manager: "pnpm",
                files: vec!["package.json".to_owned()],
                also: &["pnpm-lock.yaml", ".npmrc", ".pnpmfile.cjs"],
                usual: &["pnpm-lock.yaml"],
                directories: &NODE_DIRECTORIES,
                made: &["node_modules"],
                unless: &NODE_WORKSPACES,
                ..Install::default()
            },
            option(args, &["-C", "--dir"]),
        ),
        ("add" | "install" | "i", [_, ..]) if is_global => named("pnpm", names.iter().copied()),
        ("config" | "store" | "setup", _) => Work::Trifle,
        _ => Work::Unknown,
    }
}

fn bun(args: &[Word]) -> Work {
    if has_option(args, &["--filter"]) {
        return Work::Unknown;
    }
    let words = positionals(args, &["--cwd"]);
    let Some((does, names)) = words.split_first() else { return Work::Unknown };
    match (does.text.as_str(), names) {
        ("install" | "i", []) => in_directory(
            Install {
                manager: "bun",
                files: vec!["package.json".to_owned()],
                also: &["bun.lock", "bun.lockb", "bunfig.toml", ".npmrc"],
                usual: &["bun.lock"],
                directories: &NODE_DIRECTORIES,
                made: &["node_modules"],
                unless: &NODE_WORKSPACES,
                ..Install::default()
            },
            option(args, &["--cwd"]),
        ),
        ("add" | "install", [_, ..]) if has_option(args, &["-g", "--global"]) => {
            named("bun", names.iter().copied())
        }
        _ => Work::Unknown,
    }
}

/// An installation in another directory than the step's.
fn in_directory(install: Install, directory: Option<&Word>) -> Work {
    match directory {
        Some(directory) if !directory.literal => Work::Unknown,
        directory => {
            let directory = directory.map(|word| word.text.clone());
            Work::Install(Install { directory, ..install })
        }
    }
}

/// Options of pip that take the next word and name no file of the project.
const PIP_VALUES: [&str; 28] = [
    "-i",
    "--index-url",
    "--extra-index-url",
    "--trusted-host",
    "-t",
    "--target",
    "--prefix",
    "--root",
    "--timeout",
    "--retries",
    "--no-binary",
    "--only-binary",
    "--platform",
    "--python-version",
    "--implementation",
    "--abi",
    "--proxy",
    "--cert",
    "--cache-dir",
    "--upgrade-strategy",
    "-w",
    "--wheel-dir",
    "-d",
    "--dest",
    "--src",
    "--python",
    "-p",
    "--progress-bar",
];

fn pip(args: &[Word]) -> Work {
    let Some((does, args)) = args.split_first() else { return Work::Unknown };
    match does.text.as_str() {
        "install" | "download" | "wheel" | "sync" => {}
        "cache" | "config" | "list" | "--version" | "uninstall" | "freeze" | "check" => return Work::Trifle,
        _ => return Work::Unknown,
    }
    let mut files = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let text = word.text.as_str();
        let (name, value) = match text.split_once('=') {
            Some((name, value)) if text.starts_with("--") => (name, Some(value)),
            _ => (text, None),
        };
        match name {
            "-r" | "--requirement" | "-c" | "--constraint" => {
                let is_literal = word.literal;
                let file = match value {
                    Some(value) => Some(value).filter(|_| is_literal),
                    None => words.next().filter(|word| word.literal).map(|word| word.text.as_str()),
                };
                match file {
                    Some(file) if file.contains("://") => {}
                    Some(file) => files.push(file.to_owned()),
                    None => return Work::Unknown,
                }
            }
            "-e" | "--editable" | "-f" | "--find-links" | "--group" => return Work::Unknown,
            name if value.is_none() && PIP_VALUES.contains(&name) => drop(words.next()),
            name if name.starts_with("-r") && !name.starts_with("--") => {
                if !word.literal {
                    return Work::Unknown;
                }
                files.push(name[2..].to_owned());
            }
            name if name.starts_with('-') => {}
            // A name with a slash is a directory of the project, unless it is an address.
            _ if is_local(word) || !word.literal || (text.contains('/') && !text.contains("://")) => {
                return Work::Unknown;
            }
            _ => {}
        }
    }
    Work::Install(Install { manager: "pip", files, ..Install::default() })
}

fn uv(args: &[Word]) -> Work {
    match args {
        [pip, rest @ ..] if pip.text == "pip" => self::pip(rest),
        [sync, rest @ ..]
            if sync.text == "sync"
                && has_option(rest, &["--no-install-project"])
                && !has_option(rest, &["--all-packages", "--package", "--directory", "--project"]) =>
        {
            Work::Install(Install {
                manager: "uv",
                made: &[".venv"],
                files: vec!["pyproject.toml".to_owned()],
                also: &["uv.lock", ".python-version", "uv.toml"],
                usual: &["uv.lock"],
                ..Install::default()
            })
        }
        [tool, install, names @ ..] if tool.text == "tool" && install.text == "install" => {
            named("uv", names.iter())
        }
        [python, install, ..] if python.text == "python" && install.text == "install" => {
            Work::Install(Install { manager: "uv", ..Install::default() })
        }
        _ => Work::Unknown,
    }
}

fn pipenv(args: &[Word]) -> Work {
    let words = positionals(args, &["--python", "--pypi-mirror"]);
    match words.as_slice() {
        [does]
            if matches!(does.text.as_str(), "install" | "sync")
                && !has_option(args, &["-r", "--requirements", "-e", "--editable"]) =>
        {
            Work::Install(Install {
                manager: "pipenv",
                made: &[".venv"],
                files: vec!["Pipfile".to_owned()],
                also: &["Pipfile.lock"],
                usual: &["Pipfile.lock"],
                ..Install::default()
            })
        }
        _ => Work::Unknown,
    }
}

/// Without `--no-root` the project itself is installed, for which all of its files may be needed.
fn poetry(args: &[Word]) -> Work {
    let words = positionals(args, &["-E", "--extras", "--with", "--without", "--only"]);
    match words.first().map(|word| word.text.as_str()) {
        Some("install" | "sync")
            if has_option(args, &["--no-root"])
                && !has_option(args, &["-C", "--directory", "-P", "--project"]) =>
        {
            Work::Install(Install {
                manager: "poetry",
                made: &[".venv"],
                files: vec!["pyproject.toml".to_owned()],
                also: &["poetry.lock", "poetry.toml"],
                usual: &["poetry.lock"],
                ..Install::default()
            })
        }
        Some("config") if !has_option(args, &["--local"]) => Work::Trifle,
        _ => Work::Unknown,
    }
}

fn bundle(args: &[Word]) -> Work {
    if has_option(args, &["--gemfile"]) {
        return Work::Unknown;
    }
    let words = positionals(args, &["--jobs", "-j", "--retry", "--without", "--with", "--path"]);
    match words.first().map(|word| word.text.as_str()) {
        None | Some("install") if words.len() <= 1 => Work::Install(Install {
            manager: "bundler",
            made: &["vendor/bundle"],
            files: vec!["Gemfile".to_owned()],
            also: &["Gemfile.lock", ".ruby-version", ".tool-versions"],
            usual: &["Gemfile.lock"],
            directories: &["vendor/cache", ".bundle"],
            // A project that is a package itself reads its version from its sources.
            unless: &["*.gemspec"],
            ..Install::default()
        }),
        Some("config") => Work::Trifle,
        _ => Work::Unknown,
    }
}

fn composer(args: &[Word]) -> Work {
    if has_option(args, &["-d", "--working-dir"]) {
        return Work::Unknown;
    }
    let words = positionals(args, &[]);
    let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    match words.as_slice() {
        ["install" | "i"] => {
            let without_scripts = has_option(args, &["--no-scripts"]);
            let later = match (without_scripts, has_option(args, &["--no-autoloader"])) {
                (_, true) => None,
                (true, false) => Some((" --no-autoloader", "composer dump-autoload --no-scripts")),
                (false, false) => Some((" --no-scripts --no-autoloader", "composer dump-autoload")),
            };
            Work::Install(Install {
                manager: "composer",
                made: &["vendor"],
                files: vec!["composer.json".to_owned()],
                also: &["composer.lock", "auth.json", "symfony.lock"],
                usual: &["composer.lock"],
                directories: &["patches"],
                later,
                ..Install::default()
            })
        }
        ["global", "require", ..] => named("composer", args.iter()),
        ["clear-cache" | "self-update", ..] => Work::Trifle,
        ["config", ..] if has_option(args, &["-g", "--global"]) => Work::Trifle,
        _ => Work::Unknown,
    }
}

fn go(args: &[Word]) -> Work {
    let words = positionals(args, &["-modfile", "-C"]);
    match words.as_slice() {
        [module, download]
            if module.text == "mod"
                && download.text == "download"
                && !has_option(args, &["-modfile", "-C"]) =>
        {
            Work::Install(Install {
                manager: "go",
                files: vec!["go.mod".to_owned()],
                also: &["go.sum"],
                usual: &["go.sum"],
                unless: &["go.work"],
                ..Install::default()
            })
        }
        [install, names @ ..] if install.text == "install" && !names.is_empty() => {
            match names.iter().all(|name| name.text.contains('@') && !is_local(name)) {
                true => named("go", names.iter().copied()),
                false => Work::Unknown,
            }
        }
        [does, ..] if matches!(does.text.as_str(), "env" | "version") => Work::Trifle,
        [module, verify] if module.text == "mod" && verify.text == "verify" => Work::Trifle,
        _ => Work::Unknown,
    }
}

/// `cargo fetch` is not among them: without sources a manifest has no target, and that is an error.
fn cargo(args: &[Word]) -> Work {
    const VALUES: [&str; 14] = [
        "--version",
        "--vers",
        "--features",
        "-F",
        "--git",
        "--branch",
        "--tag",
        "--rev",
        "--root",
        "--profile",
        "--target",
        "-j",
        "--jobs",
        "--registry",
    ];
    let args = match args {
        [toolchain, rest @ ..] if toolchain.text.starts_with('+') => rest,
        args => args,
    };
    if has_option(args, &["--path"]) {
        return Work::Unknown;
    }
    match positionals(args, &VALUES).as_slice() {
        [install, names @ ..]
            if matches!(install.text.as_str(), "install" | "binstall") && !names.is_empty() =>
        {
            named("cargo", names.iter().copied())
        }
        [install] if install.text == "install" && has_option(args, &["--git"]) => {
            named("cargo", std::iter::empty())
        }
        _ => Work::Unknown,
    }
}

fn maven(program: &str, args: &[Word]) -> Work {
    if has_option(args, &["-f", "--file", "-pl", "--projects", "-s", "--settings"]) {
        return Work::Unknown;
    }
    let goals = positionals(args, &["-P", "-T"]);
    let fetches = |goal: &&Word| {
        let name = goal.text.rsplit_once("dependency-plugin:").map_or(goal.text.as_str(), |(_, name)| name);
        let name = name.strip_prefix("dependency:").unwrap_or(name);
        name.ends_with("go-offline") || matches!(name, "resolve" | "resolve-plugins")
    };
    if goals.is_empty() || !goals.iter().all(fetches) {
        return Work::Unknown;
    }
    let mut files = vec!["pom.xml".to_owned()];
    files.extend((program == "./mvnw").then(|| "mvnw".to_owned()));
    let directories = &[".mvn"];
    Work::Install(Install {
        manager: "maven",
        files,
        directories,
        unless: &["*/pom.xml"],
        ..Install::default()
    })
}

fn mix(args: &[Word]) -> Work {
    match positionals(args, &["--only"]).as_slice() {
        [does] if does.text == "deps.get" => Work::Install(Install {
            manager: "mix",
            made: &["deps"],
            files: vec!["mix.exs".to_owned()],
            also: &["mix.lock"],
            usual: &["mix.lock"],
            directories: &["config"],
            unless: &["*/mix.exs"],
            ..Install::default()
        }),
        [does, ..] if matches!(does.text.as_str(), "local.hex" | "local.rebar") => {
            Work::Install(Install { manager: "mix", ..Install::default() })
        }
        _ => Work::Unknown,
    }
}

fn conda(args: &[Word]) -> Work {
    const VALUES: [&str; 8] = ["-n", "--name", "-c", "--channel", "-p", "--prefix", "-f", "--file"];
    let words = positionals(args, &VALUES);
    let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let file = match option(args, &["-f", "--file"]) {
        Some(file) if !file.literal || file.text.contains("://") => return Work::Unknown,
        file => file.map(|file| file.text.clone()),
    };
    match (words.as_slice(), file) {
        (["install" | "create" | "update", ..] | ["env", "create" | "update"], Some(file)) => {
            // Several files, or one that says to install the project.
            if args
                .iter()
                .filter(|word| is_flag(word) && matches!(word.text.as_str(), "-f" | "--file"))
                .count()
                > 1
            {
                return Work::Unknown;
            }
            Work::Install(Install { manager: "conda", files: vec![file], ..Install::default() })
        }
        (["install" | "create" | "update", ..], None) => {
            match args.iter().any(|word| is_local(word) && !word.text.starts_with('/')) {
                true => Work::Unknown,
                false => Work::Install(Install { manager: "conda", ..Install::default() }),
            }
        }
        (["clean" | "config", ..], _) => Work::Trifle,
        _ => Work::Unknown,
    }
}
