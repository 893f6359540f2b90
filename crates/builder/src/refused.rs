//! Flags of `docker buildx build` and `docker run` that are not there yet: refused by name, never ignored.

use std::ffi::OsString;
use std::fmt;

/// A flag that is refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) name: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) has_value: bool,
    /// What does the same here, when something does.
    instead: &'static str,
    /// Values that ask for what is done anyway: with these it is no flag to refuse.
    harmless: &'static [&'static str],
}

impl Refused {
    /// Whether a value asks for nothing that is not there.
    pub(crate) fn permits(&self, value: &str) -> bool {
        self.harmless.contains(&value)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} is not supported yet", self.name)?;
        if self.instead.is_empty() { Ok(()) } else { write!(f, "\n\n  tip: {}", self.instead) }
    }
}

const fn switch(name: &'static str, short: Option<char>, instead: &'static str) -> Refused {
    Refused { name, short, has_value: false, instead, harmless: &[] }
}

const fn valued(name: &'static str, short: Option<char>, instead: &'static str) -> Refused {
    Refused { name, short, has_value: true, instead, harmless: &[] }
}

/// One of which some values say what is so anyway.
const fn harmless(name: &'static str, harmless: &'static [&'static str], instead: &'static str) -> Refused {
    Refused { name, short: None, has_value: true, instead, harmless }
}

/// As Go's `strconv.ParseBool` takes it.
const FALSE: &[&str] = &["false", "0", "f", "F", "False", "FALSE"];

const ATTACHED: &str = "leave it out, and attach what another program wrote to the pushed image (`oras attach`, \
                        `cosign attest`); `builder image referrers` lists it";
const RECORDED: &str = "leave it out: `builder history inspect --format=json` tells what a build was made from, \
                        `builder verify` repeats it";

const ONE_LAYER: &str = "a last stage `FROM scratch` with `COPY --from=STAGE / /` has one layer";

/// Of `docker buildx build`.
pub(crate) const BUILD: &[Refused] = &[
    valued("attest", None, ATTACHED),
    valued("builder", None, "there is only one builder, and no daemon: leave it out"),
    switch("compress", None, ""),
    switch("debug", Some('D'), ""),
    harmless(
        "isolation",
        &["default"],
        "leave it out: there is one sandbox, in which root has a user namespace with BUILDER_USERNS=1",
    ),
    valued("policy", None, ""),
    harmless("provenance", FALSE, RECORDED),
    harmless("sbom", FALSE, ATTACHED),
    valued("security-opt", None, ""),
    switch("squash", None, ONE_LAYER),
];

const SANDBOX: &str = "a program runs with what Docker allows by default, and alone";
const PUBLISH: &str = "with --network=host the program's ports are this machine's";

/// Of `docker run`, those that people type most.
pub(crate) const RUN: &[Refused] = &[
    valued("attach", Some('a'), "the program has this command's standard streams"),
    valued("cap-add", None, SANDBOX),
    valued("cap-drop", None, SANDBOX),
    valued("cidfile", None, "no container stays that would have an id"),
    switch("detach", Some('d'), "a run stays in the foreground; a shell's `&` puts it elsewhere"),
    valued("device", None, SANDBOX),
    valued("expose", None, PUBLISH),
    valued("gpus", None, SANDBOX),
    valued("group-add", None, "-u USER takes the user's groups from the image's /etc/group"),
    switch(
        "init",
        None,
        "leave it out: signals and Ctrl-C end a program here also where it is process 1, and all that it started goes with it",
    ),
    valued("ipc", None, SANDBOX),
    valued("label", Some('l'), "a run leaves nothing behind that could be found by a label"),
    valued("name", None, "a run leaves nothing behind that would need a name"),
    valued("pid", None, SANDBOX),
    switch("privileged", None, SANDBOX),
    valued("publish", Some('p'), PUBLISH),
    switch("publish-all", Some('P'), PUBLISH),
    harmless("pull", &["never"], "images are taken from the local store: `builder pull IMAGE` brings one"),
    switch(
        "read-only",
        None,
        "what a program writes is thrown away when it ends; -v HOST:PATH:ro makes a directory of this machine read-only",
    ),
    valued("restart", None, "a run stays in the foreground and ends with its program"),
    valued("security-opt", None, SANDBOX),
    valued("stop-signal", None, "signals of this command are passed on as they are"),
    valued("stop-timeout", None, "signals of this command are passed on as they are"),
    valued(
        "userns",
        None,
        "BUILDER_USERNS=1 in the environment gives root's programs a user namespace; an ordinary user's always have one",
    ),
    valued(
        "volumes-from",
        None,
        "no container stays whose volumes could be used; -v HOST:PATH shows a directory",
    ),
];

const LEAVE_OUT_LAYERS: &str = "leave it out: every step is looked up and kept; --no-cache looks none up";
const PLACE: &str = "leave it out: BUILDER_HOME says where everything is kept, `builder info` in which way";
const LOGIN: &str =
    "`builder login` stores credentials where Docker has them; DOCKER_CONFIG names another directory";
const CERTIFICATES: &str = "BUILDER_INSECURE_REGISTRIES=HOST,… names registries that need no valid certificate; others need one that this machine trusts";

/// Of Podman's and Buildah's commands, whatever the command.
const PODMAN: &[(&str, &str)] = &[
    ("authfile", LOGIN),
    ("cert-dir", CERTIFICATES),
    ("creds", LOGIN),
    ("root", PLACE),
    ("runroot", PLACE),
    ("storage-driver", PLACE),
    ("storage-opt", PLACE),
    ("tls-verify", CERTIFICATES),
];

/// Of `podman build` and `buildah build`.
const PODMAN_BUILD: &[(&str, &str)] = &[
    ("all-platforms", "--platform=A,B names them"),
    ("arch", "--platform=OS/ARCH"),
    ("env", "ENV in the Dockerfile, or ARG and --build-arg"),
    ("force-rm", "leave it out: no container stays"),
    ("format", "leave it out: --load and -o type=docker write what Docker reads, -o type=oci an OCI archive"),
    ("from", "--build-context NAME=docker-image://OTHER puts another image in the place of a base"),
    ("ignorefile", "a file beside the Dockerfile, called as it and .dockerignore"),
    ("jobs", "leave it out: what does not depend on each other runs at the same time"),
    ("layers", LEAVE_OUT_LAYERS),
    ("manifest", "--platform=A,B -t NAME makes an index"),
    ("os", "--platform=OS/ARCH"),
    ("rm", "leave it out: no container stays"),
    ("squash-all", ONE_LAYER),
    ("timestamp", "SOURCE_DATE_EPOCH in the environment"),
    ("userns", "BUILDER_USERNS=1 gives root's steps a user namespace; an ordinary user's have one"),
    ("variant", "--platform=OS/ARCH/VARIANT"),
    (
        "volume",
        "RUN --mount=type=bind,from=NAME shows files of --build-context NAME=DIRECTORY, --mount=type=cache keeps some",
    ),
];

/// What to type instead of a flag that other builders have for the same.
pub(crate) fn instead_of_flag(command: &str, name: &str) -> Option<&'static str> {
    let of_build = PODMAN_BUILD.iter().filter(|_| command == "build");
    PODMAN.iter().chain(of_build).find(|(flag, _)| *flag == name).map(|(_, instead)| *instead)
}

/// Commands of Docker that are called otherwise here, or that there is no use for.
const COMMANDS: &[(&str, &str)] = &[
    ("bake", "a shell script of `builder build --target=NAME .` does it; equal steps run once"),
    ("builder", "`builder build`, `builder prune` and `builder du` stand for themselves"),
    ("buildx", "`builder build`, `builder history` and `builder du` stand for themselves"),
    ("cache prune", "`builder cache rm` removes cache mounts, `builder prune` what is cached"),
    ("commit", "images are built from Dockerfiles: `builder build -t NAME .`"),
    ("container", "no container stays: `builder run` runs one in the foreground"),
    ("context", "there is no daemon, so there is none to choose"),
    ("cp", "`builder export IMAGE` gives an image's files, `builder cache cp` those of a cache mount"),
    ("create", "no container stays: `builder run` runs one in the foreground"),
    ("exec", "`builder run` starts a program, `builder debug` opens a shell behind any instruction"),
    ("history list", "`builder history ls`"),
    ("history open", "`builder history inspect`, and `builder build --timings` for a page"),
    ("history trace", "`builder build --timings`"),
    ("image build", "`builder build`"),
    ("image prune", "`builder prune` removes what nothing uses, `builder rmi` images by name"),
    ("import", "`FROM scratch` and `ADD files.tar /` make an image of files"),
    ("logs", "`builder history logs` shows what steps of a build printed"),
    ("kill", "no container stays: `builder run` runs one in the foreground"),
    ("manifest", "`builder build --platform=A,B` makes an index, `builder push` sends it whole"),
    ("network", "`--network` of `builder build` and `builder run` chooses one"),
    ("ps", "no container stays: `builder run` runs one in the foreground"),
    ("rm", "no container stays; `builder rmi` removes images"),
    ("start", "no container stays: `builder run` runs one in the foreground"),
    ("stop", "no container stays: `builder run` runs one in the foreground"),
    (
        "system",
        "`builder du` says what takes room, `builder prune` frees it, `builder info` describes the machine",
    ),
    ("version", "`builder --version`"),
    ("volume", "`builder cache ls` lists cache mounts"),
];

/// What to use instead of a command that Docker has, by its words.
pub(crate) fn instead_of(arguments: &[OsString]) -> Option<String> {
    let word = |at: usize| arguments.get(at).and_then(|word| word.to_str()).unwrap_or_default();
    let (first, both) = (word(1), format!("{} {}", word(1), word(2)));
    let known = COMMANDS.iter().find(|(command, _)| *command == both || *command == first);
    let instead = known.map(|(_, instead)| (*instead).to_owned());
    instead.or_else(|| {
        // `docker history IMAGE`, where `builder history` is about builds.
        let is_image = first == "history" && !word(2).is_empty() && !word(2).starts_with('-');
        is_image.then(|| format!("`builder image history {}` shows the layers of an image", word(2)))
    })
}

/// The first refused flag on a command line that could not be understood, perhaps because of it.
pub(crate) fn in_arguments(arguments: &[OsString]) -> Option<&'static Refused> {
    let (command, rest) = (arguments.get(1)?, arguments.get(2..)?);
    let flags = match command.to_str()? {
        "build" => BUILD,
        "run" => RUN,
        _ => return None,
    };
    let words = rest.iter().filter_map(|word| word.to_str()).take_while(|word| *word != "--");
    words.filter_map(|word| word.strip_prefix("--")).find_map(|word| {
        let name = word.split('=').next().unwrap_or(word);
        flags.iter().find(|flag| flag.name == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tip_says_what_to_do_instead() {
        let text = |name| BUILD.iter().find(|flag| flag.name == name).unwrap().to_string();
        assert_eq!(text("compress"), "--compress is not supported yet");
        assert!(text("builder").starts_with("--builder is not supported yet\n\n  tip: "));
    }

    #[test]
    fn docker_users_are_told_what_to_type() {
        let instead = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            instead_of(&words).unwrap_or_default()
        };
        assert!(instead("builder ps -a").contains("builder run"));
        assert!(instead("builder image prune").contains("builder prune"));
        assert!(instead("builder history app").contains("builder image history app"));
        assert_eq!(instead("builder history list"), "`builder history ls`");
        assert_eq!(instead("builder image nonsense"), "");
        assert_eq!(instead("builder"), "");
    }

    #[test]
    fn values_and_what_follows_two_dashes_are_no_flags() {
        let find = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            in_arguments(&words).map(|flag| flag.name)
        };
        assert_eq!(find("builder build --sbom="), Some("sbom"));
        assert_eq!(find("builder build -t sbom -- --sbom"), None);
        assert_eq!(find("builder images --sbom"), None);
        assert_eq!(find("builder"), None);
    }
}
