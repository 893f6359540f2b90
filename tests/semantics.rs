//! What instructions mean where it is easy to get wrong. Every expectation is what BuildKit makes of the same input, unless the
//! test says otherwise; `docs/differences.md` lists where the two differ.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Context, Home, Tree, need_root, run, tempdir, unpack};
use serde_json::{Value, json};

/// A build context that a shell script fills, and builds of it.
struct Case {
    home: Home,
    context: Context,
}

impl Case {
    fn new(script: &str) -> Self {
        need_root();
        let context = Context::new("");
        run(Command::new("sh").args(["-ec", script]).current_dir(context.path())).ok();
        Self { home: Home::new(), context }
    }

    /// The tree below a path, a line an entry: path, kind, mode, owner, then content, target, or the first name of a file
    /// with several.
    #[track_caller]
    fn tree(&self, dockerfile: &str, below: &str) -> Vec<String> {
        self.context.write("Dockerfile", dockerfile);
        let out = tempdir();
        let tar = out.path().join("root.tar");
        let output = format!("type=tar,dest={}", tar.display());
        run(self.home.build(&self.context).args(["-o", &output])).ok();
        listing(&unpacked(&tar), below)
    }

    #[track_caller]
    fn is(&self, dockerfile: &str, below: &str, expected: &[&str]) {
        assert_eq!(self.tree(dockerfile, below), expected, "{dockerfile}");
    }

    #[track_caller]
    fn fails(&self, dockerfile: &str, message: &str) {
        self.context.write("Dockerfile", dockerfile);
        let done = run(&mut self.home.build(&self.context)).code_is(1).says(message);
        assert!(!done.stderr.contains("panicked"), "{done}");
    }

    /// The config's inner part.
    #[track_caller]
    fn config(&self, dockerfile: &str, arguments: &[&str]) -> Value {
        self.context.write("Dockerfile", dockerfile);
        self.home.export(&self.context, arguments).config["config"].clone()
    }
}

/// What a tar holds, beside it, owners included: an export to a directory leaves them to whoever builds.
#[track_caller]
fn unpacked(tar: &Path) -> PathBuf {
    let root = tar.with_extension("");
    fs::create_dir(&root).expect("make a directory");
    let mut extract = Command::new("tar");
    extract.args(["--extract", "--numeric-owner", "--same-owner", "--preserve-permissions", "--file"]);
    run(extract.arg(tar).arg("-C").arg(&root)).ok();
    root
}

fn listing(root: &Path, below: &str) -> Vec<String> {
    let below = below.trim_matches('/');
    let inside = |path: &str| path == below || below.is_empty() || path.starts_with(&format!("{below}/"));
    let tree = Tree::from_dir(root);
    let nodes = tree.0.iter().filter(|(path, _)| inside(path));
    let line = |(path, node): (&String, &e2e::Node)| {
        let content = match (&node.links, node.kind.as_str()) {
            (Some(first), _) if first != path => format!(" = {first}"),
            (_, "file") => {
                format!(" {}", String::from_utf8_lossy(&fs::read(root.join(path)).expect("read")).trim_end())
            }
            (_, "symlink") => format!(" -> {}", node.content),
            _ => String::new(),
        };
        let kind = match node.kind.as_str() {
            "directory" => "dir",
            "symlink" => "link",
            other => other,
        };
        format!("{path} {kind} {:o} {}:{}{content}", node.mode, node.uid, node.gid)
    };
    nodes.map(line).collect()
}

#[test]
fn a_file_goes_where_its_destination_says() {
    let case = Case::new("echo f > f");
    let f = |path: &str| format!("{path} file 644 0:0 f");
    let at = |prepare: &str, destination: &str, path: &str| {
        let dockerfile =
            format!("FROM busybox\nRUN mkdir /t && cd /t && {prepare}\nWORKDIR /t\nCOPY f {destination}\n");
        let tree = case.tree(&dockerfile, "t");
        assert!(tree.contains(&f(path)), "{dockerfile}{path} should hold it: {tree:#?}");
    };
    at("true", "new", "t/new");
    at("true", "new/", "t/new/f");
    at("true", "a/b/new", "t/a/b/new");
    at("true", "a/b/.", "t/a/b/f");
    at("true", ".", "t/f");
    at("true", "\"\"", "t/f");
    at("mkdir d", "d", "t/d/f");
    at("mkdir d", "d/..", "t/f");
    at("true", "missing/..", "t/f");
    at("mkdir d", "d/../e", "t/e");
    at("mkdir d && ln -s d l", "l", "t/d/f");
    at("mkdir d && ln -s /t/d l", "l/x/y", "t/d/x/y");
    at("mkdir -p d/e && ln -s d/e l", "l/../x", "t/x");
    at("echo long > old && ln -s old l", "l", "t/old");
    at("ln -s /t/not/there l", "l", "t/not/there");
    at("ln -s /t/not/there l", "l/", "t/not/there/f");
    at("ln -s ../../../../t/up l", "l", "t/up");
    at("mkfifo f", "f", "t/f");
    at("mkdir d && mkdir d/sub", "d/f", "t/d/f");
}

#[test]
fn what_a_copy_cannot_replace() {
    let case = Case::new("echo f > f; mkdir d; echo x > d/x");
    let base = "FROM busybox\nRUN mkdir -p /dir/f /parent/x && echo > /file && ln -s b /a && ln -s a /b\n";
    case.fails(&format!("{base}COPY f /dir/\n"), "cannot replace to directory");
    case.fails(&format!("{base}COPY d /parent\n"), "cannot replace to directory");
    case.fails(&format!("{base}COPY d /file\n"), "/file");
    case.fails(&format!("{base}COPY f /file/\n"), "/file");
    case.fails(&format!("{base}COPY f /file/below\n"), "/file");
    case.fails(&format!("{base}COPY f /a/x\n"), "too many");
    // BuildKit lets the last one win.
    case.fails("FROM scratch\nCOPY f d/x /one\n", "/one/");
}

#[test]
fn directories_that_exist_keep_or_take_metadata() {
    let case =
        Case::new("mkdir -p s/sub s/new; echo x > s/sub/x; chmod 711 s/sub; chmod 1770 s/new; chmod 700 s");
    let base = "FROM busybox\nRUN mkdir -p /d/sub && echo k > /d/sub/k && chmod 1700 /d && chown 5:6 /d && chown 7:8 /d/sub\n";
    // The top keeps its own, what is below takes the source's.
    case.is(
        &format!("{base}COPY s /d\n"),
        "d",
        &[
            "d dir 1700 5:6",
            "d/new dir 1770 0:0",
            "d/sub dir 711 0:0",
            "d/sub/k file 644 0:0 k",
            "d/sub/x file 644 0:0 x",
        ],
    );
    // A new top is made as any missing parent is.
    case.is(
        "FROM scratch\nCOPY --chown=3:4 s/sub /a/b\n",
        "a",
        &["a dir 755 3:4", "a/b dir 755 3:4", "a/b/x file 644 3:4 x"],
    );
    case.is(
        "FROM scratch\nCOPY --chmod=640 s/sub /a/b\n",
        "a",
        &["a dir 640 0:0", "a/b dir 640 0:0", "a/b/x file 640 0:0 x"],
    );
    // BuildKit loses the sticky bit of directories, and lets new ones take the group of a setgid parent.
    case.is("FROM scratch\nCOPY --chmod=1777 s/sub /t\n", "t", &["t dir 1777 0:0", "t/x file 1777 0:0 x"]);
    case.is(
        "FROM busybox\nRUN mkdir -m 2755 /g && chown 0:55 /g\nCOPY s/sub /g/n\nWORKDIR /g/w\n",
        "g",
        &["g dir 2755 0:55", "g/n dir 755 0:0", "g/n/x file 644 0:0 x", "g/w dir 755 0:0"],
    );
}

#[test]
fn modes_owners_links_and_special_files_are_copied() {
    let case = Case::new(
        "mkdir s; cd s; echo a > none; chmod 0 none; echo a > setuid; chmod 6755 setuid; mkdir sticky; chmod 1777 sticky
         echo h > hard1; ln hard1 hard2; ln hard1 sticky/hard3; ln hard1 ../outside; mkfifo -m 640 p; ln -s nowhere dangling
         ln -s / abs; chown 9:9 none",
    );
    case.is(
        "FROM scratch\nCOPY s /d\n",
        "d",
        &[
            "d dir 755 0:0",
            "d/abs link 0 0:0 -> /",
            "d/dangling link 0 0:0 -> nowhere",
            "d/hard1 file 644 0:0 h",
            "d/hard2 file 644 0:0 = d/hard1",
            "d/none file 0 0:0 a",
            "d/p fifo 640 0:0",
            "d/setuid file 6755 0:0 a",
            "d/sticky dir 1777 0:0",
            "d/sticky/hard3 file 644 0:0 = d/hard1",
        ],
    );
    // From a stage owners stay; between instructions and between sources there are no hard links.
    let stage = "FROM busybox AS a\nRUN mkdir /s && cd /s && echo x > x && ln x y && mknod c c 1 3 && mknod b b 7 9 && chown -R 3:4 . && ln -s x l && chown -h 5:6 l\nFROM scratch\n";
    case.is(
        &format!("{stage}COPY --from=a /s /d\n"),
        "d",
        &[
            "d dir 755 0:0",
            // BuildKit makes a character device of it.
            "d/b block 7:9 644 3:4",
            "d/c char 1:3 644 3:4",
            "d/l link 0 5:6 -> x",
            "d/x file 644 3:4 x",
            "d/y file 644 3:4 = d/x",
        ],
    );
    case.is(
        &format!("{stage}COPY --from=a --chown=7:8 --chmod=600 /s/x /s/y /d/\n"),
        "d",
        &["d dir 600 7:8", "d/x file 600 7:8 x", "d/y file 600 7:8 x"],
    );
}

#[test]
fn sources_are_cleaned_and_links_followed_inside() {
    let case = Case::new(
        "echo f > f; mkdir -p d/e; echo i > d/i; echo x > d/e/x; ln -s d dl; ln -s /d/i abs; ln -s ../../../../f up
         ln -s dl/e chain; ln -s /etc/passwd host; ln -s l2 l1; ln -s l1 l2; ln -s d/e de",
    );
    for (source, content) in [
        ("f", "f"),
        ("/f", "f"),
        ("../f", "f"),
        ("../../d/../f", "f"),
        ("f/", "f"),
        ("dl/i", "i"),
        ("abs", "i"),
        ("up", "f"),
        ("chain/x", "x"),
        ("de/../f", "f"),
    ] {
        let expected = format!("o file 644 0:0 {content}");
        case.is(&format!("FROM scratch\nCOPY {source} /o\n"), "o", &[&expected]);
    }
    case.is("FROM scratch\nCOPY dl /o\n", "o/e", &["o/e dir 755 0:0", "o/e/x file 644 0:0 x"]);
    for missing in ["host", "f/x", "nope", "d/nope/x"] {
        case.fails(&format!("FROM scratch\nCOPY {missing} /o\n"), "not found");
    }
    case.fails("FROM scratch\nCOPY l1 /o\n", "l1");
}

#[test]
fn wildcards() {
    let case = Case::new(
        "mkdir -p s/sub/deep s/.hid d1/x d2/x; touch s/a.txt s/b.txt s/.h s/sub/c.txt s/sub/deep/e.txt 's/[x]' 's/é' 's/we*ird' s/weXird
         echo 1 > d1/x/f; echo 2 > d2/x/f; ln -s s sl",
    );
    let names = |source: &str| -> Vec<String> {
        let tree = case.tree(&format!("FROM scratch\nCOPY [{source}, \"/o/\"]\n"), "");
        let name = |line: &String| line.split(" file").next().unwrap_or_default().replacen("o/", "", 1);
        tree.iter().filter(|line| line.contains(" file ")).map(name).collect()
    };
    assert_eq!(names(r#""s/*.txt""#), ["a.txt", "b.txt"]);
    assert_eq!(names(r#""s/.*""#), [".h"], "a hidden directory gives its contents: none");
    assert_eq!(names(r#""s/?""#), ["é"], "one character, not one byte");
    assert_eq!(names(r#""s/[^a].txt""#), ["b.txt"]);
    assert_eq!(names(r#""s/[[]x]""#), ["[x]"]);
    assert_eq!(names(r#""s/we\\*ird""#), ["we*ird", "weXird"], "expansion has taken the backslash");
    assert_eq!(names(r#""s/we[*]ird""#), ["we*ird"]);
    assert_eq!(names(r#""s*/*/*.txt""#), ["c.txt"], "links on the way are not followed after a wildcard");
    assert_eq!(names(r#""s/**/c.txt""#), ["c.txt"], "`**` is one component");
    assert_eq!(names(r#""d*""#), ["x/f"], "directories merge");
    assert!(case.tree("FROM scratch\nCOPY d* /o/\n", "o").contains(&"o/x/f file 644 0:0 2".to_owned()));
    assert!(names(r#""nothing*""#).is_empty(), "no error");
    assert!(names(r#""s/[!a].txt""#).contains(&"a.txt".to_owned()), "`!` is no negation");
    case.fails("FROM scratch\nCOPY s/[a /o/\n", "[");
    case.fails("FROM scratch\nCOPY nothing*/x nothing /o/\n", "not found");
}

#[test]
fn odd_names_survive() {
    let case = Case::new(
        "mkdir s; cd s; touch -- 'sp ace' 'q\"uote' \"q'uote\" 'new
line' 'back\\slash' '-dash' '...' '*' \"$(printf '\\377')\" \"$(printf '%0255d' 1)\"
         p=$(printf '%0200d' 1); mkdir -p $p/$p; echo deep > $p/$p/f; ln $p/$p/f $p/g; ln -s $(printf '%0300d' 1) l",
    );
    case.context.write("Dockerfile", "FROM scratch\nCOPY s /\n");
    let image = case.home.export(&case.context, &[]);
    image.tree().same(&Tree::from_dir(&case.context.path().join("s")), "in the image, and in the context");
}

#[test]
fn owners_by_name() {
    let case = Case::new("echo f > f");
    let base = "FROM busybox\nRUN echo bob:x:100:200::/home/bob:/bin/sh >> /etc/passwd && echo grp:x:300:bob >> /etc/group\n";
    for (chown, owner) in [
        ("5", "5:5"),
        ("5:6", "5:6"),
        ("bob", "100:200"),
        ("bob:grp", "100:300"),
        ("9:grp", "9:300"),
        (":7", "0:7"),
    ] {
        let expected = format!("o file 644 {owner} f");
        case.is(&format!("{base}COPY --chown={chown} f /o\n"), "o", &[&expected]);
    }
    // BuildKit takes these for root.
    case.fails(&format!("{base}COPY --chown=nobody-here f /o\n"), "nobody-here");
    case.fails(&format!("{base}COPY --chown=bob:nogroup-here f /o\n"), "nogroup-here");
    // The kernel takes this number for "leave it as it is".
    case.fails(&format!("{base}COPY --chown=4294967295 f /o\n"), "4294967295");
    case.fails(&format!("{base}USER 4294967295\nRUN id\n"), "4294967295");
    case.is(
        &format!("{base}COPY --chown=4294967294:3000000 f /o\n"),
        "o",
        &["o file 644 4294967294:3000000 f"],
    );
}

#[test]
fn ignored_files() {
    let case = Case::new(
        "mkdir -p a/b/c 'sp ace'; for f in a/1 a/b/2 a/b/c/3 f.txt a/f.txt '{b}' '#hash' 'we[ird' é.x 'sp ace/f'; do echo x > \"$f\"; done",
    );
    let all = ["#hash", "a/1", "a/b/2", "a/b/c/3", "a/f.txt", "f.txt", "sp ace/f", "we[ird", "{b}", "é.x"];
    let left = |ignore: &str, gone: &[&str]| {
        case.context.write(".dockerignore", format!("Dockerfile\n.dockerignore\n{ignore}\n"));
        let tree = case.tree("FROM scratch\nCOPY . /o/\n", "o");
        let path = |line: &String| line.split(" file").next().unwrap_or_default().replacen("o/", "", 1);
        let found: Vec<String> = tree.iter().filter(|line| line.contains(" file ")).map(path).collect();
        let expected: Vec<&&str> = all.iter().filter(|name| !gone.contains(*name)).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{ignore}");
    };
    let below_a = ["a/1", "a/b/2", "a/b/c/3", "a/f.txt"];
    left("a", &below_a);
    left("/a/", &below_a);
    left("./x/../a", &below_a);
    left("  a  ", &below_a);
    left("a/*", &below_a);
    left("*/b", &["a/b/2", "a/b/c/3"]);
    left("f.txt", &["f.txt"]);
    left("**/f.txt", &["a/f.txt", "f.txt"]);
    left("**.txt", &["a/f.txt", "f.txt"]);
    left("a/**/3", &["a/b/c/3"]);
    left("b", &[]);
    left("#hash", &[]);
    left("\\#hash", &["#hash"]);
    left("{b}", &["{b}"]);
    left("we[[]ird", &["we[ird"]);
    left("?.x", &["é.x"]);
    left("sp*", &["sp ace/f"]);
    left("a\n!a/b", &["a/1", "a/f.txt"]);
    left("a\n!a/b\na/b/c", &["a/1", "a/f.txt", "a/b/c/3"]);
    left("a/**\n!**/2", &["a/1", "a/b/c/3", "a/f.txt"]);
    left("!a\na", &below_a);
    left("*\n!a/b/2\n!{b}", &["#hash", "a/1", "a/b/c/3", "a/f.txt", "f.txt", "sp ace/f", "we[ird", "é.x"]);
    // BuildKit reads `\f` as a form feed.
    left("\\f.txt", &["f.txt"]);
    case.context.write(".dockerignore", "a\n!a/b/c\n");
    case.is(
        "FROM scratch\nCOPY a /o\n",
        "o",
        &["o dir 755 0:0", "o/b dir 755 0:0", "o/b/c dir 755 0:0", "o/b/c/3 file 644 0:0 x"],
    );
    for bad in ["[", "a/[\n", "!"] {
        case.context.write(".dockerignore", bad);
        case.fails("FROM scratch\nCOPY . /o/\n", ".dockerignore");
    }
}

#[test]
fn who_a_step_runs_as() {
    let case = Case::new("true");
    let base = "FROM busybox\nRUN printf '%s\\n' bob:x:100:200::/home/bob:/bin/sh >> /etc/passwd && printf '%s\\n' bobs:x:200: grp:x:300:bob num:x:400:100 >> /etc/group\n";
    for (user, ids, home) in [
        ("0", "uid=0(root) gid=0(root) groups=0(root)", "/root"),
        ("5", "uid=5 gid=0(root) groups=0(root)", "/"),
        ("5:6", "uid=5 gid=6 groups=6", "/"),
        ("007", "uid=7 gid=0(root) groups=0(root)", "/"),
        ("bob", "uid=100(bob) gid=200(bobs) groups=200(bobs),300(grp)", "/home/bob"),
        ("bob:", "uid=100(bob) gid=200(bobs) groups=200(bobs),300(grp)", "/home/bob"),
        ("100", "uid=100(bob) gid=200(bobs) groups=200(bobs),300(grp)", "/home/bob"),
        ("bob:grp", "uid=100(bob) gid=300(grp) groups=300(grp)", "/home/bob"),
        ("bob:9", "uid=100(bob) gid=9 groups=9", "/home/bob"),
        (":grp", "uid=0(root) gid=300(grp) groups=300(grp)", "/root"),
    ] {
        let tree = case.tree(
            &format!("{base}USER {user}\nRUN echo \"$(id) $HOME $(umask) $(pwd)\" > /tmp/o\n"),
            "tmp/o",
        );
        assert!(tree[0].ends_with(&format!(" {ids} {home} 0022 /")), "USER {user}: {tree:?}");
    }
    case.fails(&format!("{base}USER zed\nRUN id\n"), "zed");
    case.fails(&format!("{base}USER bob:zed\nRUN id\n"), "zed");
    case.fails("FROM busybox\nRUN rm /etc/passwd\nUSER root\nRUN id\n", "root");
}

#[test]
fn working_directories() {
    let case = Case::new("echo f > f");
    case.is(
        "FROM scratch\nWORKDIR /a\nWORKDIR b\nWORKDIR ../c\nCOPY f .\n",
        "",
        &["a dir 755 0:0", "a/b dir 755 0:0", "a/c dir 755 0:0", "a/c/f file 644 0:0 f"],
    );
    case.is("FROM busybox\nUSER 5:6\nWORKDIR /a/b\n", "a", &["a dir 755 5:6", "a/b dir 755 5:6"]);
    case.is(
        "FROM busybox\nRUN mkdir -m 1777 /d && chown 3:4 /d\nUSER 7:8\nWORKDIR /d\nWORKDIR e\n",
        "d",
        &["d dir 1777 3:4", "d/e dir 755 7:8"],
    );
    case.is(
        "FROM busybox\nRUN mkdir /r && ln -s r /l\nWORKDIR /l/x\nRUN pwd > p\n",
        "r",
        &["r dir 755 0:0", "r/x dir 755 0:0", "r/x/p file 644 0:0 /r/x"],
    );
    case.fails("FROM busybox\nRUN touch /f\nWORKDIR /f\n", "/f");
    // A user of a later step; BuildKit says nothing.
    case.context.write("Dockerfile", "FROM scratch\nUSER app\nWORKDIR /w\nCOPY f .\n");
    run(case.home.build(&case.context).arg("--progress=plain")).ok().says("unable to find user app");
    case.is("FROM scratch\nUSER app:grp\nWORKDIR /w\n", "w", &["w dir 755 0:0"]);
    assert_eq!(case.config("FROM scratch\nWORKDIR $UNSET/x\n", &[])["WorkingDir"], "/x");
}

/// The steps leave what the overlay showed, layer by layer.
#[test]
fn changes_of_steps_are_what_a_reader_of_the_layers_sees() {
    let case = Case::new("mkdir -p new/e; echo n > new/e/n; echo g > new/g");
    let start = "RUN mkdir -p /d/e/f /x && echo 1 > /d/a && echo 2 > /d/e/b && echo 3 > /d/e/f/c && ln /d/a /x/hard && chmod 711 /d/e && chown 4:5 /d/e\n";
    for steps in [
        "RUN rm /d/a\nRUN rm -r /d/e\n",
        "RUN rm -r /d && mkdir /d && echo n > /d/n\n",
        "RUN rm -r /d/e && mkdir -p /d/e/f && echo i > /d/e/f/i\nRUN rm -r /d/e/f && mkdir /d/e/f\n",
        "RUN rm -r /d/e && echo file > /d/e\nRUN rm /d/e && mkdir /d/e && echo y > /d/e/y\n",
        "RUN rm -r /d/e && ln -s /x /d/e\nRUN rm /d/e && mkdir /d/e\n",
        "RUN mv /d /moved\nRUN mv /moved/e /d\n",
        "RUN mv /d /t && mv /x /d && mv /t /x\n",
        "RUN chmod 700 /d/e && chown 9 /d/a\nRUN touch /d\n",
        "RUN ln /d/a /x/third\nRUN echo more >> /x/third\n",
        "RUN mkfifo /x/p && ln /x/p /x/q && ln -s t /x/l && ln /x/l /x/m\n",
        "RUN rm -r /d && mkdir /d\nCOPY new /d/\n",
        "RUN rm -r /d/e\nCOPY new /d/\n",
        "RUN rm -r /d\nCOPY new/g /d\n",
        "COPY new /d/\nRUN rm -r /d/e/n /d/e/f\nCOPY new /d/\n",
        "RUN chmod 700 / && chown 3:4 /\nRUN echo z > /z\n",
    ] {
        // A step that sees the tree, beside what the layers say.
        let look = "RUN find /d /x /moved /z 2>/dev/null | sort | while read p; do stat -c '%n %F %a %u:%g' \"$p\"; done > /seen\n";
        case.context.write("Dockerfile", format!("FROM busybox\n{start}{steps}{look}"));
        let out = tempdir();
        let (tar, layout) = (out.path().join("root.tar"), out.path().join("layout"));
        let outputs = [
            format!("type=tar,dest={}", tar.display()),
            format!("type=oci,tar=false,name=e2e:latest,dest={}", layout.display()),
        ];
        run(case.home.build(&case.context).args(["-o", &outputs[0], "-o", &outputs[1]])).ok();
        let root = unpacked(&tar);
        let local = Tree::from_dir(&root);
        unpack(&layout).same(&local, steps);
        let seen = fs::read_to_string(root.join("seen")).expect("the step wrote it");
        for line in seen.lines() {
            let path = line.split(' ').next().unwrap_or_default().trim_start_matches('/');
            let node = local.at(path);
            let owner = format!("{}:{}", node.uid, node.gid);
            assert!(line.ends_with(&owner), "{steps}{line}: {node:?}");
            let mode = format!(" {:o} ", node.mode);
            assert!(node.kind == "symlink" || line.contains(&mode), "{steps}{line}: {node:?}");
        }
        let count = local
            .0
            .keys()
            .filter(|path| ["d", "x", "moved", "z"].contains(&path.split('/').next().unwrap_or_default()))
            .count();
        assert_eq!(seen.lines().count(), count, "{steps}{seen}{local:#?}");
    }
}

#[test]
fn what_a_step_is_given_leaves_no_trace() {
    let case =
        Case::new("mkdir etc; ln -s ../run/a/b/resolv.conf etc/resolv.conf; ln -s /nowhere/hosts etc/hosts");
    // Links in the image lead somewhere inside of it, and the step still finds its files.
    let before = case.tree("FROM busybox\nCOPY etc /etc/\n", "");
    let after = case.tree(
        "FROM busybox\nCOPY etc /etc/\nRUN grep -q localhost /etc/hosts && test -e /etc/resolv.conf && echo x > /dev/shm/x && mkdir /dev/d\n",
        "",
    );
    assert_eq!(before, after);
    // From scratch, BuildKit leaves /dev, /proc and /sys.
    let tree = case.tree(
        "FROM scratch\nCOPY --from=busybox /bin/busybox /bin/sh\nRUN test -d /proc/self || exit 1\n",
        "",
    );
    assert_eq!(tree.iter().filter(|line| !line.starts_with("bin")).count(), 0, "{tree:?}");
    // What the step changes itself stays.
    case.is(
        "FROM scratch\nCOPY --from=busybox /bin/busybox /bin/sh\nRUN printf '%s' kept > /etc/own\n",
        "etc",
        &["etc dir 755 0:0", "etc/own file 644 0:0 kept"],
    );
}

#[test]
fn heredocs() {
    let case = Case::new("true");
    case.is(
        "FROM scratch\nARG X=1\nCOPY --chown=1:2 --chmod=755 <<A <<\"B\" <<-C /d/\n$X ${Y:-d} \\$X \"$X\" '$X'\nA\n$X \\$X\nB\n\t\ttab\n\tC\n",
        "d",
        &[
            "d dir 755 1:2",
            "d/A file 755 1:2 1 d $X \"1\" '1'",
            "d/B file 755 1:2 $X \\$X",
            "d/C file 755 1:2 tab",
        ],
    );
    case.is(
        "FROM busybox\nCOPY <<one /tmp\n1\none\n",
        "tmp",
        &["tmp dir 1777 0:0", "tmp/one file 644 0:0 1"],
    );
    case.is(
        "FROM busybox\nENV V=env\nRUN <<EOF\nV=own\necho \"$V\" > /tmp/a\nfalse\necho \"$((1<<2))\" > /tmp/b\nEOF\nRUN cat <<X > /tmp/c && cat <<-'Y' > /tmp/d\n$V\nX\n\t$V\n\tY\n",
        "tmp",
        &[
            "tmp dir 1777 0:0",
            "tmp/a file 644 0:0 own",
            "tmp/b file 644 0:0 4",
            "tmp/c file 644 0:0 env",
            "tmp/d file 644 0:0 $V",
        ],
    );
}

#[test]
fn variables() {
    let case = Case::new("true");
    let config = case.config(
        "FROM scratch\nARG ARG=arg\nENV A=abc E= P=/a/b.c/d.tar.gz\nENV A=x OLD=$A\n\
         ENV O1=${E:-d} O2=${E-d} O3=${U-$A} O4=${A:+p} O5=${E:+p} O6=${E+p} O7=${U:-${V:-deep}}\n\
         ENV P1=${P#*/} P2=${P##*/} P3=${P%.*} P4=${P%%.*} P5=${P/\\/a/X} P6=${P//\\//_}\n\
         ENV Q1='$A' Q2=\"$A\" Q3=\\$A Q4=\"\\$A\" Q5=a\\ b Q6=\"a\\b\" Q7=$ Q8=${ARG}\n\
         ENV LEGACY some  value $A\n",
        &["--build-arg=ARG=cli"],
    );
    let env: Vec<&str> = config["Env"].as_array().expect("an Env").iter().filter_map(Value::as_str).collect();
    let expected = [
        "A=x",
        "E=",
        "P=/a/b.c/d.tar.gz",
        "OLD=abc",
        "O1=d",
        "O2=",
        "O3=x",
        "O4=p",
        "O5=",
        "O6=p",
        "O7=deep",
        "P1=a/b.c/d.tar.gz",
        "P2=d.tar.gz",
        "P3=/a/b.c/d.tar",
        "P4=/a/b",
        "P5=X/b.c/d.tar.gz",
        "P6=_a_b.c_d.tar.gz",
        "Q1=$A",
        "Q2=x",
        "Q3=$A",
        "Q4=$A",
        "Q5=a b",
        "Q6=a\\b",
        "Q7=$",
        "Q8=cli",
        "LEGACY=some  value x",
    ];
    assert_eq!(env[1..], expected);
    // ENV beats ARG, also where the ARG comes later; in BuildKit the later one wins, against its reference.
    case.is("FROM busybox\nENV A=env\nARG A=arg\nRUN echo $A > /o\n", "o", &["o file 644 0:0 env"]);
}

#[test]
fn metadata_rules() {
    let case = Case::new("true");
    let of = |dockerfile: &str| case.config(dockerfile, &[]);
    let parent = "FROM busybox AS a\nENTRYPOINT [\"x\"]\nCMD [\"p\"]\nFROM a\n";
    assert_eq!(of(&format!("{parent}ENTRYPOINT [\"e\"]\n"))["Cmd"], Value::Null, "an inherited CMD is reset");
    assert_eq!(of(&format!("{parent}CMD [\"q\"]\nENTRYPOINT [\"e\"]\n"))["Cmd"], json!(["q"]));
    assert_eq!(of(&format!("{parent}CMD [\"q\"]\n"))["Entrypoint"], json!(["x"]));
    assert_eq!(of("FROM busybox\nCMD ['a']\n")["Cmd"], json!(["/bin/sh", "-c", "['a']"]), "no JSON");
    assert_eq!(
        of("FROM busybox\nEXPOSE 80 53/udp 8000-8001 $NOTHING\n")["ExposedPorts"],
        json!({"53/udp": {}, "80/tcp": {}, "8000/tcp": {}, "8001/tcp": {}})
    );
    assert!(of("FROM busybox\nEXPOSE $NOTHING\n").get("ExposedPorts").is_none());
    let triggers = of("FROM busybox AS a\nENV E=1\nONBUILD ENV A=$E\nONBUILD LABEL l=$A\nFROM a\nENV B=$A\n");
    assert!(triggers.get("OnBuild").is_none(), "they ran");
    assert_eq!(triggers["Labels"], json!({"l": "1"}));
    let inherited = of("FROM busybox AS a\nONBUILD ENV A=1\nFROM a AS b\nFROM b\n");
    assert_eq!(inherited["Env"].as_array().map(Vec::len), Some(2), "once, not in the grandchild");
}

#[test]
fn a_context_is_copied_as_it_is_now() {
    let case = Case::new("echo 1 > f; touch -d 2020-01-01 f");
    let dockerfile = "FROM scratch\nCOPY f /f\n";
    case.is(dockerfile, "f", &["f file 644 0:0 1"]);
    // The same size and time: BuildKit keeps the old bytes.
    let path = case.context.path().join("f");
    run(Command::new("sh")
        .args(["-ec", "echo 2 > f; touch -d 2020-01-01 f"])
        .current_dir(case.context.path()))
    .ok();
    assert_eq!(fs::metadata(&path).expect("stat").size(), 2);
    case.is(dockerfile, "f", &["f file 644 0:0 2"]);
    case.context.chmod("f", 0o600);
    case.is(dockerfile, "f", &["f file 600 0:0 2"]);
    fs::remove_file(&path).expect("remove");
    symlink("g", &path).expect("link");
    case.context.write("g", "3\n");
    case.is(dockerfile, "f", &["f file 644 0:0 3"]);
}
