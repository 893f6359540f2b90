//! Package managers of distributions.

use super::{Word, Work, is_local, positionals};

/// A manager's words.
struct Manager {
    programs: &'static [&'static str],
    /// Options that take the next word.
    values: &'static [&'static str],
    install: &'static [&'static str],
    lists: &'static [&'static str],
    trifles: &'static [&'static str],
}

const MANAGERS: [Manager; 4] = [
    Manager {
        programs: &["apt-get", "apt", "aptitude"],
        values: &["-o", "--option", "-t", "--target-release", "-c", "--config-file", "-a"],
        install: &[
            "install",
            "upgrade",
            "dist-upgrade",
            "full-upgrade",
            "build-dep",
            "safe-upgrade",
            "reinstall",
        ],
        lists: &["update"],
        trifles: &["clean", "autoclean", "autoremove", "remove", "purge"],
    },
    Manager {
        programs: &["apk"],
        values: &["-X", "--repository", "-t", "--virtual", "-p", "--root", "--arch", "--keys-dir"],
        install: &["add", "upgrade", "fix"],
        lists: &["update"],
        trifles: &["del", "cache", "info"],
    },
    Manager {
        programs: &["dnf", "yum", "microdnf", "tdnf"],
        values: &["-c", "--config", "-x", "--exclude", "--enablerepo", "--disablerepo", "--installroot"],
        install: &[
            "install",
            "upgrade",
            "update",
            "groupinstall",
            "group",
            "reinstall",
            "distro-sync",
            "module",
            "builddep",
        ],
        lists: &["makecache"],
        trifles: &["clean", "remove", "erase", "autoremove"],
    },
    Manager {
        programs: &["zypper"],
        values: &["-c", "--config", "-R", "--root"],
        install: &["install", "in", "update", "up", "dist-upgrade", "dup", "patch"],
        lists: &["refresh", "ref"],
        trifles: &["clean", "cc", "remove", "rm", "addrepo", "ar"],
    },
];

/// What a manager does; `None` when the program is none.
pub(super) fn work(program: &str, args: &[Word]) -> Option<Work> {
    if program == "pacman" {
        return Some(pacman(args));
    }
    if matches!(program, "add-apt-repository" | "apt-mark" | "dpkg-reconfigure") {
        return Some(if args.iter().any(is_local) { Work::Unknown } else { Work::Trifle });
    }
    let manager = MANAGERS.iter().find(|manager| manager.programs.contains(&program))?;
    let words = positionals(args, manager.values);
    let Some((does, packages)) = words.split_first() else { return Some(Work::Unknown) };
    let is = |list: &[&str]| list.contains(&does.text.as_str());
    Some(if packages.iter().any(|word| is_local(word)) {
        Work::Unknown
    } else if is(manager.install) {
        Work::System
    } else if is(manager.lists) && packages.is_empty() {
        Work::Lists
    } else if is(manager.trifles) {
        Work::Trifle
    } else {
        Work::Unknown
    })
}

/// `pacman -Sy` and its like: letters in one word.
fn pacman(args: &[Word]) -> Work {
    let Some(does) = args.iter().find(|word| word.text.starts_with("-S")) else { return Work::Unknown };
    let names = positionals(args, &[]);
    if names.iter().any(|word| is_local(word)) {
        Work::Unknown
    } else if does.text.contains('c') {
        Work::Trifle
    } else if names.is_empty() && !does.text.contains('u') {
        Work::Lists
    } else {
        Work::System
    }
}
