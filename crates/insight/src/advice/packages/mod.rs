//! What commands of package managers need. What is not known for certain is [`Work::Unknown`].

mod language;
mod system;

use super::shell::{Command, Join, Word};

/// What a command does, as far as advice is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// Fetches and installs packages of the distribution.
    System,
    /// Fetches what the distribution has, installs nothing.
    Lists,
    /// Fetches and installs what the command names, or what files say.
    Install(Install),
    /// `cd` to a directory whose name is known.
    Enter(String),
    /// Takes no time, and needs no file that an instruction copies.
    Trifle,
    /// Anything else.
    Unknown,
}

/// What an installation needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Install {
    /// `npm`
    pub(super) manager: &'static str,
    /// The directory that the command works in, where it says so.
    pub(super) directory: Option<String>,
    /// Files that must be there; nothing when the command names all packages.
    pub(super) files: Vec<String>,
    /// Files that it reads where they are.
    pub(super) also: &'static [&'static str],
    /// Of those, what projects usually have: for when nobody knows which files there are.
    pub(super) usual: &'static [&'static str],
    /// Directories that it reads where they are.
    pub(super) directories: &'static [&'static str],
    /// Directories that it makes where the files are, which the project should not bring along.
    pub(super) made: &'static [&'static str],
    /// The project has several such files, or its files are needed as well, where one of these exists: `*` at the beginning stands
    /// for any path.
    pub(super) unless: &'static [&'static str],
    /// Options that make it do without the project's other files, and the command that does the rest once they are there.
    pub(super) later: Option<(&'static str, &'static str)>,
}

/// What a command does.
pub(super) fn work(command: &Command) -> Work {
    let Some((program, args)) = program(command) else { return Work::Unknown };
    if command.reads {
        return Work::Unknown;
    }
    let found = system::work(program, args).or_else(|| language::work(program, args));
    let found = found.unwrap_or_else(|| trifle(program, args, command.join));
    let is_certain = command.writes.iter().all(|path| is_elsewhere(path));
    if is_certain { found } else { Work::Unknown }
}

/// The program without directories, and its arguments. Assignments and programs that run another one are left out.
fn program(command: &Command) -> Option<(&str, &[Word])> {
    let mut words = command.words.as_slice();
    loop {
        let (first, rest) = words.split_first()?;
        let name = first.text.rsplit('/').next().unwrap_or_default();
        let is_assignment = first.text.split_once('=').is_some_and(|(name, _)| is_name(name));
        match name {
            _ if is_assignment => words = rest,
            "sudo" | "env" | "exec" | "command" | "time" | "nice" | "eatmydata" => {
                let flags = rest.iter().take_while(|word| word.text.starts_with('-')).count();
                words = &rest[flags..];
            }
            _ if !first.literal => return None,
            // A program of the project itself may do anything.
            _ if first.text.starts_with("./") => return Some((first.text.as_str(), rest)),
            name => return Some((name, rest)),
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether a file is none that a project brings.
fn is_elsewhere(path: &str) -> bool {
    const ELSEWHERE: [&str; 8] =
        ["/dev/", "/etc/", "/tmp/", "/usr/", "/var/lib/", "/var/cache/", "/root/", "/opt/"];
    ELSEWHERE.iter().any(|directory| path.starts_with(directory))
}

/// Commands that take no time.
fn trifle(program: &str, args: &[Word], join: Join) -> Work {
    let all = |test: fn(&Word) -> bool| args.iter().all(test);
    let is_trifle = match program {
        "cd" => {
            return match args {
                [directory] if directory.literal => Work::Enter(directory.text.clone()),
                _ => Work::Unknown,
            };
        }
        "set" | ":" | "true" | "echo" | "printf" | "export" | "mkdir" | "sleep" | "groupadd" | "useradd"
        | "addgroup" | "adduser" | "usermod" | "locale-gen" | "corepack" | "id" | "whoami" | "umask"
        | "shopt" => true,
        "rm" | "ln" | "touch" | "sed" | "find" => all(|word| is_flag(word) || is_elsewhere_or_no_path(word)),
        "curl" | "wget" => {
            all(|word| !is_local(word) || is_elsewhere(&word.text))
                && !has_option(args, &["-T", "-K", "-d", "--data", "-i"])
        }
        // What comes through a pipe was fetched by what stands before.
        "gpg" | "apt-key" | "tee" | "tar" | "bash" | "sh" | "grep" | "sort" | "xz" | "gunzip" | "cat" => {
            join == Join::Pipe && all(|word| is_flag(word) || word.text == "add" || is_elsewhere(&word.text))
        }
        _ => false,
    };
    if is_trifle { Work::Trifle } else { Work::Unknown }
}

/// For programs whose arguments are paths or something else that is no file of the project.
fn is_elsewhere_or_no_path(word: &Word) -> bool {
    is_elsewhere(&word.text)
        || word.text.starts_with("s/")
        || word.text.starts_with("s|")
        || word.text.starts_with("s@")
}

fn is_flag(word: &Word) -> bool {
    word.text.starts_with('-')
}

fn has_option(args: &[Word], options: &[&str]) -> bool {
    args.iter().any(|word| {
        let name = word.text.split_once('=').map_or(word.text.as_str(), |(name, _)| name);
        options.contains(&name)
    })
}

/// Whether a word may name a file or directory of the project: as it is written, or by what comes out.
fn is_local(word: &Word) -> bool {
    const ARCHIVES: [&str; 8] = [".deb", ".rpm", ".apk", ".whl", ".gem", ".tgz", ".gz", ".zip"];
    let text = word.text.as_str();
    if text.contains("://") && !text.starts_with("file:") {
        return false;
    }
    text.starts_with(['.', '/', '~'])
        || text.starts_with("file:")
        || text.contains("$(")
        || text.contains('`')
        || ARCHIVES.iter().any(|ending| text.ends_with(ending))
}

/// What stands beside the options. `values` are those that take the next word.
fn positionals<'w>(args: &'w [Word], values: &[&str]) -> Vec<&'w Word> {
    let mut found = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word.text == "--" {
            found.extend(words);
            break;
        }
        if values.contains(&word.text.as_str()) {
            words.next();
        } else if !is_flag(word) {
            found.push(word);
        }
    }
    found
}

/// The value of an option: `--option value` or `--option=value`.
fn option<'w>(args: &'w [Word], names: &[&str]) -> Option<&'w Word> {
    args.windows(2).find(|pair| names.contains(&pair[0].text.as_str())).map(|pair| &pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::shell::Script;

    fn of(text: &str) -> Work {
        let script = Script::parse(text);
        work(script.commands.last().unwrap())
    }

    /// The manager and the files that it must have.
    fn install(text: &str) -> Option<String> {
        match of(text) {
            Work::Install(install) => Some(format!("{} {}", install.manager, install.files.join(" "))),
            Work::System => Some("system".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn packages_of_distributions() {
        for text in [
            "apt-get install -y --no-install-recommends curl $EXTRA",
            "DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install x",
            "sudo -E /usr/bin/apt-get dist-upgrade",
            "apk add --no-cache -t .build gcc",
            "apk --no-cache add git",
            "dnf -y install x",
            "yum update -y",
            "microdnf install x",
            "zypper -n in x",
            "pacman -Syu --noconfirm git",
        ] {
            assert_eq!(of(text), Work::System, "{text}");
        }
        for text in ["apt-get update -qq", "apk update", "dnf makecache", "pacman -Sy", "zypper ref"] {
            assert_eq!(of(text), Work::Lists, "{text}");
        }
        for text in [
            "apt-get install ./x.deb",
            "apt-get install $(cat l)",
            "apt-get install <l",
            "apt-get x",
            "dpkg -i x",
        ] {
            assert_eq!(of(text), Work::Unknown, "{text}");
        }
        assert_eq!(of("apt-get clean"), Work::Trifle);
    }

    #[test]
    fn packages_of_languages() {
        for (text, expected) in [
            ("npm ci", "npm package.json"),
            ("npm install --omit=dev", "npm package.json"),
            ("npm i -g typescript@5 @angular/cli", "npm "),
            ("yarn --frozen-lockfile", "yarn package.json"),
            ("yarn install", "yarn package.json"),
            ("pnpm install --frozen-lockfile", "pnpm package.json"),
            ("pip install --no-cache-dir -r requirements.txt", "pip requirements.txt"),
            ("python3 -m pip install -U pip", "pip "),
            ("pip3.11 install -rreq/dev.txt --constraint=c.txt flask", "pip req/dev.txt c.txt"),
            ("uv pip install -r requirements.txt", "pip requirements.txt"),
            ("uv sync --frozen --no-install-project", "uv pyproject.toml"),
            ("poetry install --no-root", "poetry pyproject.toml"),
            ("pipenv install --system --deploy", "pipenv Pipfile"),
            ("bundle install --jobs 4", "bundler Gemfile"),
            ("gem install bundler", "gem "),
            ("composer install --no-dev", "composer composer.json"),
            ("go mod download", "go go.mod"),
            ("go install example.org/x@v1", "go "),
            ("cargo install --locked cargo-chef", "cargo "),
            ("mvn -B dependency:go-offline", "maven pom.xml"),
            ("mix deps.get --only prod", "mix mix.exs"),
            ("conda env create -f environment.yml", "conda environment.yml"),
            ("docker-php-ext-install -j4 pdo", "php "),
        ] {
            assert_eq!(install(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_may_need_more_is_unknown() {
        for text in [
            "npm run build",
            "npm install lodash",
            "npm install -g .",
            "npm ci && make",
            "npm install $X -w a",
            "pip install .",
            "pip install -e .[dev]",
            "pip install -r $FILE",
            "pip install dist/x.whl",
            "poetry install",
            "uv sync",
            "bundle exec rake",
            "go mod vendor",
            "go install ./...",
            "cargo install --path .",
            "cargo build",
            "mvn package",
            "./gradlew build",
            "./install.sh",
            "$CMD install",
            "make",
            "echo x >> .env",
            "rm package-lock.json",
            "sh setup.sh",
            "cd $DIR",
        ] {
            assert_eq!(of(text), Work::Unknown, "{text}");
        }
        assert_eq!(of("cd web"), Work::Enter("web".to_owned()));
        for text in
            ["rm -rf /var/lib/apt/lists/x", "curl -sL https://x.org/s | bash -", "echo a >/etc/b", "set -e"]
        {
            assert_eq!(of(text), Work::Trifle, "{text}");
        }
    }
}
