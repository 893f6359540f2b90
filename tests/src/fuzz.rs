//! Random Dockerfiles, random contexts and random edits of both, for tests that compare what a used state directory gives with what an
//! empty one gives.
//!
//! There are few names and few contents, so that edits often lead back to something that was there before: old results lie about
//! to be taken by mistake.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// SplitMix64 (Steele, Lea, Flood 2014): enough randomness for a test, the same on every machine.
pub struct Random(pub u64);

impl Random {
    /// A number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// True once in so many times.
    pub fn one_in(&mut self, number: u64) -> bool {
        self.below(number) == 0
    }

    /// One of several.
    pub fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Where the files of a context are.
pub const PATHS: [&str; 9] = ["a", "b", "d/a", "d/b", "d/sub/c", "e/x", "e/y", "f", ARCHIVE];
/// A file that often is an archive.
const ARCHIVE: &str = "t.tar";
const CONTENTS: [&str; 4] = ["one\n", "two\n", "", "a longer content\n"];
const MODES: [u32; 4] = [0o644, 0o755, 0o600, 0o4755];

/// Fills an empty context.
///
/// # Panics
/// When it cannot be written.
pub fn fill(context: &Path, random: &mut Random) {
    for path in PATHS {
        let path = context.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make directories");
        fs::write(path, random.pick(&CONTENTS)).expect("write");
    }
    fs::write(context.join(ARCHIVE), archive(random)).expect("write");
}

/// A tar of a few entries.
fn archive(random: &mut Random) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for path in ["in", "in/a", "in/b", "c"] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(MODES[random.below(4) as usize] | 0o100);
        header.set_uid(random.below(2));
        let content = random.pick(&CONTENTS);
        let appended = match (path, random.below(6)) {
            ("in", _) => {
                header.set_entry_type(tar::EntryType::Directory);
                archive.append_data(&mut header, path, &b""[..])
            }
            (_, 0) => continue,
            (_, 1) => {
                header.set_entry_type(tar::EntryType::Symlink);
                archive.append_link(&mut header, path, random.pick(&["a", "../c", "/etc/passwd"]))
            }
            _ => {
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, path, content.as_bytes())
            }
        };
        appended.expect("append to an archive");
    }
    archive.into_inner().expect("an archive")
}

/// One edit of a context; what it was.
///
/// # Panics
/// When it cannot be made.
pub fn edit_context(context: &Path, random: &mut Random) -> String {
    let path = random.pick(&PATHS);
    let other = random.pick(&PATHS);
    let at = |path: &str| context.join(path);
    let clear = |path: &str| {
        let _ = fs::remove_file(at(path));
        let _ = fs::remove_dir_all(at(path));
        // A file may stand where a directory is needed.
        for parent in Path::new(path).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            if fs::symlink_metadata(context.join(parent)).is_ok_and(|metadata| !metadata.is_dir()) {
                let _ = fs::remove_file(context.join(parent));
            }
        }
        fs::create_dir_all(at(path).parent().expect("a parent")).expect("make directories");
    };
    let choice = random.below(12);
    // What these do follows links, also of directories on the way, and links lead to files of this machine.
    let root = fs::canonicalize(context).expect("resolve the context");
    let leads_away = !fs::canonicalize(at(path)).is_ok_and(|real| real == root.join(path));
    match choice {
        0..3 => {
            let content = random.pick(&CONTENTS);
            clear(path);
            fs::write(at(path), content).expect("write");
            format!("write {path} {content:?}")
        }
        3 => {
            clear(path);
            format!("remove {path}")
        }
        4 if !leads_away => {
            let mode = MODES[random.below(4) as usize];
            let done = fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).is_ok();
            format!("chmod {mode:o} {path}: {done}")
        }
        5 => {
            clear(path);
            let target = random.pick(&["a", "../a", "/etc/passwd", "missing", "."]);
            symlink(target, at(path)).expect("make a link");
            format!("link {path} -> {target}")
        }
        6 if path != other => {
            clear(other);
            format!("hard link {other} to {path}: {}", fs::hard_link(at(path), at(other)).is_ok())
        }
        7 if !path.starts_with(other) && !other.starts_with(path) => {
            clear(other);
            format!("rename {path} to {other}: {}", fs::rename(at(path), at(other)).is_ok())
        }
        11 => {
            clear(ARCHIVE);
            fs::write(at(ARCHIVE), archive(random)).expect("write");
            format!("write another archive to {ARCHIVE}")
        }
        8 => {
            clear(path);
            fs::create_dir_all(at(path)).expect("make a directory");
            format!("mkdir {path}")
        }
        9 if !leads_away => {
            let value = random.pick(&["1", "2"]);
            let flags = rustix::fs::XattrFlags::empty();
            let done = rustix::fs::setxattr(at(path), "user.test", value.as_bytes(), flags).is_ok();
            format!("attribute {path} {value}: {done}")
        }
        _ if leads_away => "nothing".to_owned(),
        _ => {
            // Same size, same time of change as far as anybody can set it.
            let before = fs::metadata(at(path)).ok().filter(fs::Metadata::is_file);
            let Some(before) = before else { return "nothing".to_owned() };
            let content = if before.len() == 4 { random.pick(&["one\n", "two\n"]) } else { "" };
            let file = fs::File::options().write(true).open(at(path)).expect("open");
            fs::write(at(path), content).expect("write");
            file.set_modified(before.modified().expect("a time")).expect("set a time");
            format!("rewrite {path} {content:?} with its old time")
        }
    }
}

const LINES: [&str; 59] = [
    "COPY . /ctx/",
    "COPY d /d",
    "COPY d /ctx/d",
    "COPY --chmod=640 f /x/f",
    "COPY --chown=5:6 e /e",
    "COPY [ab] /glob/",
    "COPY a b f /some/",
    "COPY e /link/e",
    "COPY --link d /linked/",
    "COPY --link --chmod=600 f /linked/f",
    "COPY --exclude=*a d /part/",
    "COPY --parents d/sub e/x /parents/",
    "ADD e /added/",
    "COPY <<X /heredoc\n#\nX",
    "RUN echo # > /n",
    "RUN rm -rf /ctx/d /d/a",
    "RUN [ ! -d /ctx ] || { mkdir -p /o && rm -rf /o/ctx && mv /ctx /o/; }",
    "RUN [ ! -e /n ] || ln -f /n /hard",
    "RUN rm -rf /d && mkdir /d && echo # > /d/new",
    "RUN rm -rf /d; mkdir /d",
    "RUN ln -sfn /ctx /link",
    "RUN mkdir -p /ctx && chmod 70# /ctx && chown #:7 /ctx",
    "RUN rm -f /p && mkfifo -m 60# /p",
    "RUN rm -rf /etc2 && cp -a /etc /etc2",
    "RUN mkdir -p /ctx && touch /ctx/a && chmod 644 /ctx/a",
    "RUN find / -xdev -type f -newer / >/dev/null; find /ctx /d /e 2>/dev/null | sort > /list",
    "RUN cat /ctx/a /ctx/d/a /d/a /n 2>/dev/null | sha256sum > /sum; env | sort > /env",
    "RUN mkdir -p /deep/1/2/3/4 && echo # > /deep/1/2/3/4/f && rm -rf /deep/1/2/#",
    "RUN [ ! -e /e/x ] || cp -a /e/x /e/x2; rm -f /e/x",
    "RUN --mount=type=bind,target=/bound cat /bound/a /bound/d/b > /seen 2>/dev/null; true",
    "RUN --mount=type=bind,source=d,target=/bound,rw rm -f /bound/a; ls -lR /bound | cut -c1-10 > /seen",
    "RUN --mount=type=tmpfs,target=/tmpfs echo # > /tmpfs/x && cp /tmpfs/x /fromtmpfs",
    "RUN --mount=type=cache,target=/kept echo x >> /kept/x && echo # > /withcache",
    "RUN true",
    "ADD t.tar /unpacked/",
    "ADD --link t.tar /linked/",
    "ADD --unpack=false t.tar /ctx/",
    "COPY t.* e /ctx/",
    "COPY --chmod=u+x,go-w d /ctx/d",
    "COPY --from=more d /more/d",
    "COPY --from=more --link . /more/",
    "COPY --from=more --exclude=d . /ctx/",
    "COPY --from=busybox /etc /ctx/etc",
    "RUN --mount=type=bind,from=more,target=/bound cat /bound/a /bound/d/a > /ofmore 2>/dev/null; true",
    "RUN [ ! -f /ctx/a ] || { rm -f /ctx/hard && ln /ctx/a /ctx/hard; }; true",
    "RUN rm -rf /moved; [ ! -d /d ] || mv /d /moved; true",
    "RUN rm -rf /ctx && mkdir -p /ctx/new && echo # > /ctx/new/f; true",
    "RUN touch -d @10000000# /n /ctx/a 2>/dev/null; true",
    "RUN chmod 75# / && rm -rf /unpacked/in; true",
    "WORKDIR /w/#",
    "ENV KEY=#",
    "USER #",
    "USER root",
    "SHELL [\"/bin/sh\", \"-e#c\"]",
    "ARG NAME=#",
    "ARG OTHER",
    "LABEL label=#",
    "EXPOSE 80#",
    "CMD [\"#\"]",
];

fn numbered(line: &str, random: &mut Random) -> String {
    line.replace("-e#c", "-ec").replace('#', &random.below(3).to_string())
}

fn stage(random: &mut Random, text: &mut String, from_first: bool) {
    for _ in 0..random.below(7) {
        let line = match random.below(6) {
            0 if from_first => random.pick(&[
                "COPY --from=one / /all/",
                "COPY --from=one /etc /n* /from/",
                "COPY --from=one /ctx /d2/",
                "COPY --from=one --link /etc /linked/etc",
                "RUN --mount=type=bind,from=one,source=/etc,target=/one ls /one > /ofone",
                "RUN --mount=type=cache,from=one,source=/etc,target=/seeded ls -l /seeded | cut -c1-10 > /ofseed",
                "COPY --from=one --parents /e*/./ /pa/",
            ]),
            _ => random.pick(&LINES),
        };
        let _ = writeln!(text, "{}", numbered(line, random));
    }
}

/// A Dockerfile with the stages `one` and `two`, on `busybox`.
pub fn dockerfile(random: &mut Random) -> String {
    let mut text = "FROM busybox AS one\n".to_owned();
    stage(random, &mut text, false);
    let _ = writeln!(text, "FROM {} AS two", random.pick(&["busybox", "one"]));
    stage(random, &mut text, true);
    text.push_str("COPY --from=one / /one/\n");
    text
}

/// Changes, adds or takes away one line after the first.
pub fn edit_dockerfile(text: &mut String, random: &mut Random) {
    let mut lines: Vec<&str> = text.lines().collect();
    let at = 1 + random.below(lines.len() as u64 - 1) as usize;
    let is_part = |line: &str| line.starts_with("FROM") || line.contains("<<X") || line.len() < 3;
    let line = random.pick(&LINES);
    let new = numbered(line, random);
    match random.below(4) {
        0 => lines.insert(at, "# a comment"),
        1 if !is_part(lines[at]) => drop(lines.remove(at)),
        2 if at + 2 < lines.len() && !is_part(lines[at]) && !is_part(lines[at + 1]) => lines.swap(at, at + 1),
        _ if lines[at] != "X" && !lines[at - 1].contains("<<X") => lines.insert(at, &new),
        _ => {}
    }
    *text = lines.join("\n") + "\n";
}
