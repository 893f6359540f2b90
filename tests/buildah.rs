//! The same Dockerfiles built by Buildah give the same file trees and configs. Where Buildah 1.28 (Debian 12) does
//! something else, the difference is listed here with the reason.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use e2e::{
    Case, Context, Done, Home, Image, Tree, base, dockerfiles, in_parallel, need_root, run, tempdir, tool,
    unpack,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Buildah with a store of its own.
struct Buildah {
    dir: TempDir,
}

impl Buildah {
    fn new() -> Self {
        need_root();
        let buildah = Self { dir: tempdir() };
        for name in ["busybox", "debian"] {
            let layout = format!("oci:{}:latest", base(name).display());
            let id = run(buildah.command("pull").args(["--quiet", &layout])).ok().stdout;
            run(buildah.command("tag").args([id.trim(), &format!("localhost/{name}:latest")])).ok();
        }
        buildah
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut buildah = tool("buildah");
        buildah
            .arg("--root")
            .arg(self.dir.path().join("root"))
            .arg("--runroot")
            .arg(self.dir.path().join("run"));
        buildah.args(["--storage-driver=overlay", subcommand]);
        buildah
    }

    /// Builds; the tree and the config. The Docker format, since the OCI format of this version loses HEALTHCHECK,
    /// ONBUILD and SHELL. runc, since crun refuses hybrid cgroups.
    fn build(&self, context: &Path, arguments: &[&str]) -> (Tree, Value) {
        self.try_build(context, &[&["--layers"], arguments].concat()).unwrap_or_else(|done| panic!("{done}"))
    }

    /// The same, without a cache, for a Dockerfile that may be refused.
    fn try_build(&self, context: &Path, arguments: &[&str]) -> Result<(Tree, Value), Box<Done>> {
        let mut build = self.command("bud");
        build.args(["--runtime=runc", "--network=host", "--format=docker", "--identity-label=false"]);
        let done = run(build.args(["--tag", "built"]).args(arguments).arg(context));
        if done.code != Some(0) {
            return Err(Box::new(done));
        }
        let layout = self.dir.path().join("layout");
        let _ = std::fs::remove_dir_all(&layout);
        let mut push = self.command("push");
        push.args(["--quiet", "--disable-compression", "built"]);
        run(push.arg(format!("oci:{}:latest", layout.display()))).ok();
        let inspect = run(self.command("inspect").args(["--type=image", "built"])).ok().stdout;
        let inspect: Value = serde_json::from_str(&inspect).expect("JSON");
        Ok((unpack(&layout), inspect["Docker"]["config"].clone()))
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        // Its overlay mounts and layers go with its own command.
        let _ = self.command("rm").arg("--all").output();
        let _ = self.command("rmi").args(["--all", "--force"]).output();
        let _ = tool("umount").arg(self.dir.path().join("root/overlay")).output();
    }
}

/// Paths at which the trees differ, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("etc/hostname", "Buildah leaves the place it mounts this file on as an empty file in the layer"),
    ("etc/hosts", "the same"),
    ("etc/resolv.conf", "the same"),
    ("run/.containerenv", "Buildah leaves this mark of its containers"),
    ("run/secrets", "Buildah makes this directory for its secrets"),
    ("etc/mtab", "Buildah makes this symlink, as it stands in containers of podman"),
    ("var/log/", "logs hold times"),
    ("var/cache/ldconfig/aux-cache", "holds inode numbers and times"),
    ("var/lib/apt/", "the state of a download, with times"),
    ("var/cache/apt/", "the same"),
    ("var/cache/debconf/", "holds paths of temporary files in an order that changes"),
];

fn explained(path: &str) -> bool {
    DIFFERENT.iter().any(|(place, _)| path == *place || place.ends_with('/') && path.starts_with(place))
}

/// The fields of a config that say how to run the image; absent, null and empty mean the same.
fn config(config: &Value) -> Value {
    let fields = [
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "Healthcheck",
        "OnBuild",
        "Shell",
    ];
    let mut known = serde_json::Map::new();
    for field in fields {
        let value = &config[field];
        // An image from scratch has "/" for its working directory, as with BuildKit; Buildah leaves it out.
        let root = field == "WorkingDir" && *value == json!("/");
        let empty =
            root || value.is_null() || *value == json!("") || *value == json!([]) || *value == json!({});
        if !empty {
            known.insert(field.to_owned(), value.clone());
        }
    }
    Value::Object(known)
}

/// Builds with both and compares; `adjust` makes Buildah's result what it would be without a listed difference.
fn compare(context: &Path, arguments: &[&str], adjust: impl FnOnce(&mut Tree, &mut Value, &Image)) {
    let buildah = Buildah::new();
    let (tree, mut their_config) = buildah.build(context, arguments);
    let mut theirs = tree.without(explained);
    let home = Home::new();
    let image = home.export(context, arguments);
    let ours = image.tree().without(explained);
    adjust(&mut theirs, &mut their_config, &image);
    ours.same(&theirs, "built here, and by Buildah");
    assert_eq!(config(&image.config["config"]), config(&their_config), "config: here, and Buildah's");
}

/// Takes the directories that WORKDIR names from our tree: Buildah makes them when a container starts,
/// Docker and BuildKit make them in the image.
fn with_our_directories(theirs: &mut Tree, image: &Image, names: &[&str]) {
    let ours = image.tree();
    for name in names {
        theirs.0.entry((*name).to_owned()).or_insert_with(|| ours.at(name).clone());
    }
}

#[test]
fn c_scratch() {
    compare(&dockerfiles().join("c-scratch"), &[], |_, _, _| {});
}

#[test]
fn go_hello() {
    compare(&dockerfiles().join("go-hello"), &["--build-arg=VERSION=3"], |_, _, _| {});
}

#[test]
fn node_app() {
    compare(&dockerfiles().join("node-app"), &[], |_, _, _| {});
}

#[test]
fn python_web() {
    // `COPY --chown DIRECTORY/ ./` leaves the owner of a directory that is there, as with BuildKit; Buildah changes it.
    compare(&dockerfiles().join("python-web"), &[], |theirs, _, _| {
        if let Some(app) = theirs.0.get_mut("app") {
            (app.uid, app.gid) = (0, 0);
        }
    });
}

#[test]
fn nginx_static() {
    compare(&dockerfiles().join("nginx-static"), &[], |_, _, _| {});
}

// shell-tool is left out: Buildah 1.28 knows no heredocs. What it uses besides stands in the next tests.

#[test]
fn copying() {
    let context = Context::new(
        "FROM busybox AS other\nRUN mkdir -p /tree/sub && echo 1 > /tree/sub/1 && ln -s sub/1 /tree/link && chown -R 3:4 /tree \
         && chmod 2750 /tree/sub && ln /tree/sub/1 /tree/hard\n\
         FROM busybox\n\
         COPY a.txt b.txt /into/\n\
         COPY a.txt /renamed\n\
         COPY dir /dir-content\n\
         COPY dir/*.c /wild/\n\
         COPY --chown=5:6 dir /owned/\n\
         COPY --chown=www-data a.txt /named\n\
         COPY --chmod=600 a.txt /moded\n\
         COPY --from=other /tree /tree\n\
         COPY --from=other /tree/link /followed\n\
         WORKDIR /work\n\
         COPY dir/one.c relative/\n\
         COPY [\"with space\", \"/sp ace\"]\n\
         ADD dir/two.c /added/\n",
    )
    .file("a.txt", "a\n")
    .file("b.txt", "b\n")
    .file("dir/one.c", "1\n")
    .file("dir/two.c", "2\n")
    .file("dir/.hidden", "h\n")
    .file("dir/deep/er/file", "d\n")
    .file("dir/ignored/x", "x\n")
    .file("with space", "s\n")
    .file(".dockerignore", "dir/ignored\n**/*.bak\n!dir/keep.bak\n")
    .file("dir/lost.bak", "l\n")
    .file("dir/keep.bak", "k\n");
    context.chmod("dir/one.c", 0o755);
    context.chmod("dir/deep", 0o711);
    compare(context.path(), &[], |_, _, _| {});
}

#[test]
fn changes_made_by_steps() {
    let context = Context::new(
        "FROM busybox\nRUN mkdir -p /a/b /c/d /e && touch /a/b/1 /c/d/1 /e/1 && chmod 1777 /e && mkfifo /p && ln /e/1 /e/2\n\
         RUN rm -r /a/b && rm -r /c && mkdir /c && touch /c/new && chown 9:9 /e && echo x > /a/b\n\
         RUN mv /e /moved && rm /etc/shadow && ln -sf /moved/1 /link\n",
    );
    compare(context.path(), &[], |_, _, _| {});
}

#[test]
fn metadata() {
    let context = Context::new(
        "ARG WHO=world\nFROM busybox\nARG WHO\nARG UNSET\nENV A=1 B=\"two words\" C=$WHO\nENV D=${A}${UNSET:-none} E=${B:+set}\n\
         LABEL one=1 \"two words\"='single $WHO' three=\"$WHO\"\nEXPOSE 80 443/tcp 53/udp\nVOLUME /data /more\n\
         WORKDIR /x\nWORKDIR y\nSTOPSIGNAL SIGUSR1\nHEALTHCHECK --interval=5s --timeout=2s --retries=4 CMD [\"true\"]\n\
         ONBUILD RUN echo $A\nONBUILD COPY a b\nUSER 12:34\nENTRYPOINT [\"/entry\"]\nCMD [\"one\", \"two\"]\n",
    );
    compare(context.path(), &[], |theirs, _, image| with_our_directories(theirs, image, &["x", "x/y"]));
}

#[test]
fn entrypoint_and_command_of_a_child() {
    let context = Context::new(
        "FROM busybox AS parent\nENTRYPOINT [\"/parent\"]\nCMD [\"from parent\"]\nENV P=1\nFROM parent\nENTRYPOINT [\"/child\"]\nUSER 7\n",
    );
    compare(context.path(), &[], |_, _, _| {});
}

#[test]
fn stage_arguments() {
    let context = Context::new(
        "ARG BASE=busybox\nFROM $BASE AS one\nARG X=1\nRUN echo \"x is $X\" > /x\nFROM one AS two\nARG X\nRUN echo \"then $X\" >> /x\n\
         FROM ${BASE}\nCOPY --from=two /x /x\nCOPY --from=0 /x /first\n",
    );
    compare(context.path(), &["--build-arg=X=2"], |_, _, _| {});
}

/// What Buildah 1.28 does not know: a Dockerfile that holds it is not compared.
const UNKNOWN: &[&str] = &[
    "<<",
    "--link",
    "--parents",
    "--exclude",
    "--unpack",
    "--checksum",
    "--keep-git-dir",
    "--mount",
    "--network",
    "--security",
    "--device",
    "--timeout",
    "--retry",
];

/// Where Buildah 1.28 does something else than BuildKit and this project, and what.
const OTHERWISE: &[(&str, &[&str])] = &[
    (
        "Buildah does not check it",
        &[
            "expand_empty_braces",
            "expose_unknown_protocol",
            "expose_range_backwards",
            "expose_json",
            "from_bad_stage_name",
            "instruction_before_from",
            "copy_file_called_as_a_whiteout",
            "healthcheck_too_short",
            "copy_id_minus_one",
            "flag_twice",
        ],
    ),
    (
        "Buildah's expansion knows no patterns, no special names and no escape but the backslash",
        &[
            "env_escape_is_backtick",
            "expand_patterns",
            "expand_special_names",
            "directive_in_any_case",
            "from_with_operator",
            "expand_pattern_escapes",
            "expand_shortest_and_longest",
            "expand_escape_is_backtick",
            "expand_must_be_set_and_is",
            "expand_defaults_and_alternatives",
            "expand_replace_slash",
            "expand_special_characters",
        ],
    ),
    ("Buildah expands only the first word of an ARG", &["arg_several_left_to_right"]),
    ("Buildah gives proxies in both spellings, and to ENV", &["proxy_in_run", "proxy_is_not_expanded"]),
    ("Buildah reads JSON up to its end and drops the rest", &["json_then_text", "json_then_words"]),
    ("Buildah does not inherit the SHELL of a stage", &["shell_inherited"]),
    (
        "Buildah makes the directories of volumes",
        &[
            "stage_inherits_config",
            "volume_json_with_variable",
            "volume_words_and_json",
            "json_before_continuation",
        ],
    ),
    ("Buildah makes no directory for WORKDIR while it builds", &["workdir_is_a_file"]),
    ("Buildah writes ports as they stand", &["expose_forms", "expose_host_port", "expose_ipv6"]),
    ("Buildah keeps one protocol of a port", &["expose_sorted_and_inherited"]),
    ("Buildah refuses a time of zero, which means the default", &["healthcheck_zero"]),
    ("Buildah looks for an image even where a stage has that name", &["named_context_beats_stage"]),
    ("Buildah takes an image of another platform for a missing one", &["from_other_platform"]),
    ("Buildah takes two backslashes for a continuation", &["continuation_escaped"]),
    ("Buildah runs an empty RUN", &["instruction_without_arguments"]),
    ("Buildah knows no stage by number in ONBUILD", &["onbuild_copy_from_index"]),
    (
        "Buildah replaces what is in the way of a COPY",
        &[
            "copy_file_onto_dir",
            "copy_inner_dir_vs_link",
            "copy_inner_dir_vs_file",
            "copy_several_no_slash",
            "copy_several_file_over_directory",
            "copy_link_over_directory",
            "copy_several_onto_a_file",
        ],
    ),
    ("Buildah makes a file of `name/.`", &["copy_dest_slashdot"]),
    ("Buildah makes a directory where a symlink leads to nothing", &["copy_file_onto_dangling"]),
    (
        "Buildah does not give --chmod to directories",
        &["chmod_special_bits_of_new_directories", "chmod_octal_over_modes", "expand_in_every_instruction"],
    ),
    ("Buildah copies a FIFO as if it were a directory with it", &["copy_fifo_direct"]),
    (
        "Buildah does not know all wildcards",
        &["copy_json_class_of_star", "wildcard_escaped", "wildcard_bracket_unescaped", "wildcard_unicode"],
    ),
    (
        "Buildah refuses wildcards that match nothing, BuildKit not",
        &[
            "copy_wildcard_in_directory_without_match",
            "wildcard_matches_nothing",
            "ignore_hides_from_wildcard",
        ],
    ),
    ("Buildah matches wildcards behind symlinks", &["wildcard_through_link"]),
    ("Buildah drops setuid with --chown", &["copy_chown_setuid"]),
    (
        "Buildah leaves owners of unpacked archives, and gives them --chmod",
        &["add_chown_archive", "add_archive_keeps_owners"],
    ),
    (
        "containers/storage matches ignore patterns in another way",
        &[
            "ignore_escaped_letter",
            "ignore_double_star_suffix",
            "ignore_parentheses_are_characters",
            "ignore_caret_is_a_character",
            "ignore_all_but_double_star",
            "ignore_exception_double_star",
            "ignore_then_exception_of_parent",
        ],
    ),
    (
        "the environment, hosts and names of a container are Buildah's",
        &[
            "run_env",
            "run_user_without_home",
            "run_interrupts",
            "run_control_groups",
            "run_env_path_set",
            "run_env_empty_value",
            "run_hosts",
            "run_surroundings",
            "sandbox_host_name",
        ],
    ),
    (
        "Buildah leaves the places of its mounts behind",
        &[
            "copy_whole_stage",
            "stubs_resolv_is_link",
            "stubs_of_the_base",
            "run_no_shell_exec",
            "stubs_mountpoints",
        ],
    ),
    ("a stage of Buildah does not have the ARGs of the one it is built from", &["arg_inherited_by_stage"]),
    ("Buildah drops what changes in a volume", &["volume_keeps_later_changes"]),
    (
        "Buildah lets no container make devices",
        &["run_device_in_layer", "copy_devices", "copy_character_device"],
    ),
    ("Buildah takes SHELL for RUN alone", &["shell_for_later_instructions", "expand_not_in_commands"]),
    ("Buildah knows no byte order mark before a directive", &["byte_order_mark"]),
    ("Buildah looks for an image where ONBUILD names a stage", &["onbuild_copy_from_other_stage"]),
    ("Buildah garbles text beyond ASCII in flags", &["copy_owner_not_ascii"]),
    ("Buildah finds the stage that a variable names when it happens to be there", &["copy_from_var"]),
    ("runc knows no ids above 2³¹", &["run_user_with_large_id"]),
    ("Buildah looks up users in another order", &["run_user_dupname"]),
    (
        "Buildah without --layers has one layer, in which hard links hold",
        &["hard_link_to_lower_file", "hard_links_chmod"],
    ),
];

/// A `--chmod` that is not octal, which Buildah 1.28 does not know.
fn has_symbolic_mode(dockerfile: &str) -> bool {
    let mut modes = dockerfile.split("--chmod=").skip(1);
    modes.any(|mode| !mode.starts_with(|c: char| c.is_ascii_digit() || c == '$'))
}

/// The cases of the language that Buildah understands: it gives the same trees and configs, and refuses the same.
#[test]
fn language() {
    let mut cases: Vec<Case> = Case::files().iter().flat_map(|file| Case::read(file)).collect();
    for name in OTHERWISE.iter().flat_map(|(_, names)| *names) {
        assert!(cases.iter().any(|case| case.name == *name), "no case is called {name}");
    }
    cases.retain(|case| !UNKNOWN.iter().any(|unknown| case.dockerfile.contains(unknown)));
    cases.retain(|case| case.is_plain() && !has_symbolic_mode(&case.dockerfile));
    cases.retain(|case| !OTHERWISE.iter().any(|(_, names)| names.contains(&case.name.as_str())));
    assert!(cases.len() >= 150, "{} cases are compared", cases.len());
    let workers = [(Buildah::new(), Home::new()), (Buildah::new(), Home::new())];
    let wrong = Mutex::new(Vec::new());
    in_parallel(&mut cases, |worker, case| {
        let (buildah, home) = &workers[worker];
        if let Some(difference) = difference(case, buildah, home) {
            wrong.lock().expect("a list").push(format!("--- {}: {difference}", case.name));
        }
    });
    let wrong = wrong.into_inner().expect("a list");
    println!("{} cases compared", cases.len());
    assert!(wrong.is_empty(), "{} of {} cases differ\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// What the two make different of a case.
fn difference(case: &Case, buildah: &Buildah, home: &Home) -> Option<String> {
    let context = case.prepare();
    let arguments: Vec<String> = case.build_args().collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let fails = case.expect.starts_with("fails\n");
    let (tree, theirs) = match buildah.try_build(context.path(), &arguments) {
        Ok(_) if fails => return Some("Buildah builds it".to_owned()),
        Err(_) if fails => return None,
        Err(done) => return Some(format!("Buildah refuses it: {}", done.stderr)),
        Ok(built) => built,
    };
    let image = home.export(&context, &arguments);
    let mut lines = image.tree().without(explained).differences(&tree.without(explained));
    let ours = config(&image.config["config"]);
    if ours != config(&theirs) {
        lines.push(format!("config {ours} and {}", config(&theirs)));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}
