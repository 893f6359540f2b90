//! Nothing is taken for unchanged that may have changed: files that look as they did, files that change while they are read, clocks
//! that jump, file systems that know less.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use e2e::{Context, Home, Running, bases, binary, need_root, run, tempdir, tool};

fn copying() -> Context {
    Context::new("FROM scratch\nCOPY f /f\n")
}

/// Writes over a file, byte by byte where it was, and gives it a time.
fn write_over(path: &Path, content: &[u8], time: SystemTime) {
    let mut file = File::options().write(true).open(path).expect("open");
    file.write_all(content).expect("write");
    file.set_modified(time).expect("set a time");
}

/// What a build of the file gives.
fn built(build: &mut Command) -> String {
    let out = tempdir();
    run(build.arg("-o").arg(out.path())).ok();
    fs::read_to_string(out.path().join("f")).expect("the file")
}

/// The same size and the same time, right after a build and when everything has settled: the time of change tells, or it is read again.
#[test]
fn a_file_that_looks_as_it_did_is_seen_to_have_changed() {
    let (home, context) = (Home::new(), copying().file("f", "0000"));
    let path = context.path().join("f");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for round in 0..12 {
        let content = format!("{round:04}");
        write_over(&path, content.as_bytes(), time);
        assert_eq!(built(&mut home.build(&context)), content, "right after another");
    }
    sleep(Duration::from_millis(2_300));
    assert_eq!(built(&mut home.build(&context)), "0011", "now it is remembered");
    write_over(&path, b"9999", time);
    assert_eq!(built(&mut home.build(&context)), "9999", "with its times restored");
    // Another file of the same size and time in its place.
    let other = context.path().join("other");
    fs::write(&other, "8888").expect("write");
    write_over(&other, b"8888", time);
    fs::rename(&other, &path).expect("rename");
    assert_eq!(built(&mut home.build(&context)), "8888", "another inode");
}

/// Stops the writer also when the test fails, which would wait for it.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Either the build says so, or it has the file as it was at one moment; and what it leaves in the cache is right.
#[test]
fn a_file_that_changes_during_builds_is_never_a_mix() {
    const SIZE: usize = 24 << 20;
    let (home, context) = (Home::new(), copying().file("f", vec![b'a'; SIZE]));
    let path = context.path().join("f");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let (stop, pause) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut refused, mut whole) = (0, 0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut letters = [b'a', b'b'].into_iter().cycle();
            while !stop.load(Ordering::Relaxed) {
                write_over(&path, &vec![letters.next().expect("a letter"); SIZE], time);
                let written = Instant::now();
                let rests = || written.elapsed() < Duration::from_millis(pause.load(Ordering::Relaxed));
                while rests() && !stop.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(2));
                }
            }
        });
        let stopping = Stopping(&stop);
        // Now and then the file rests for longer than a build takes, or for no time at all. How long one takes beside the writer is seen.
        let mut longest = 1_000;
        for round in 0..60 {
            let milliseconds = [150, 0, 3 * longest][round % 3];
            if whole + refused >= 12 && whole > 0 && refused > 0 {
                break;
            }
            pause.store(milliseconds, Ordering::Relaxed);
            let out = tempdir();
            let done = run(home.build(&context).arg("-o").arg(out.path()));
            longest = longest.max(done.took.as_millis() as u64);
            if done.code == Some(0) {
                let bytes = fs::read(out.path().join("f")).expect("the file");
                assert_eq!(bytes.len(), SIZE);
                let mixed = bytes.iter().any(|byte| *byte != bytes[0]);
                assert!(!mixed, "a mix of two states");
                whole += 1;
            } else {
                done.code_is(1).says("changed while it was read");
                refused += 1;
            }
        }
        drop(stopping);
        writer.join().expect("the writer");
    });
    assert!(whole > 0 && refused > 0, "{whole} built, {refused} refused");
    for letter in [b'b', b'a'] {
        write_over(&path, &vec![letter; SIZE], time);
        assert!(built(&mut home.build(&context)).bytes().all(|byte| byte == letter));
    }
}

/// Maps an archive into memory, says so, and writes other content there when it is told to: no time of the file tells.
const MAPPING: &str = r#"
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    archive = mmap.mmap(file.fileno(), 0)
at = archive.find(b"old content")
archive[at:at + 3] = b"old"
for word in [b"new", b"old"]:
    print("mapped", flush=True)
    sys.stdin.readline()
    archive[at:at + 3] = word
print("done", flush=True)
"#;

/// What is unpacked is what was hashed, which was before any step ran.
#[test]
fn an_archive_that_changes_before_it_is_unpacked_is_refused() {
    let home = Home::new();
    let packed = |context: &Context, form: &str, content: &str| {
        context.write("f", content);
        let archive = context.path().join(format!("{content}.tar"));
        let mut pack = tool("tar");
        pack.arg("-C").arg(context.path()).args(form.split(' ')).arg("-f").arg(&archive).args(["-c", "f"]);
        run(&mut pack).ok();
        archive
    };
    let (new, old) = ("new content", "old content");
    for (number, (form, options, way)) in [
        ("--format=gnu", "", "another file"),
        ("-z", "--chown=1:1", "another file"),
        ("-j", "", "in place"),
        ("-J", "--unpack=true", "in place"),
        ("--zstd", "", "removed"),
        ("--format=gnu", "", "no archive"),
        ("--format=gnu", "", "mapped"),
        ("--format=gnu", "--unpack=true", "mapped"),
    ]
    .into_iter()
    .enumerate()
    {
        let case = format!("{form} {options}: {way}");
        let gate = format!("--mount=type=cache,id=gate-{number},target=/gate");
        let context = Context::new(&format!(
            "FROM busybox AS one\nRUN {gate} printf 'at the %s\\n' gate; echo {number} > /case; until test -e /gate/open; do sleep 0.05; done\n\
             ADD {options} archive /x/\nFROM scratch\nCOPY --from=one /x/f /f\n"
        ));
        let [other, first] = [new, old].map(|content| packed(&context, form, content));
        let archive = context.path().join("archive");
        fs::copy(&first, &archive).expect("copy");
        let mut mapping = (way == "mapped").then(|| {
            let mut python = tool("python3");
            python.args(["-c", MAPPING]).arg(&archive).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut python = Running::start(&mut python);
            let input = python.0.stdin.take().expect("its input");
            let mut said = BufReader::new(python.0.stdout.take().expect("its output")).lines();
            assert_eq!(said.next().expect("a line").expect("text"), "mapped");
            // So that the build takes it for one whose times say nothing, however late it looks.
            let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
            File::options()
                .write(true)
                .open(&archive)
                .and_then(|file| file.set_modified(tomorrow))
                .expect("touch");
            (python, input, said)
        });
        let mut build = home.build(&context);
        let build =
            build.arg("--progress=plain").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut build = Running::start(build);
        let mut said =
            BufReader::new(build.0.stderr.take().expect("its output")).lines().map_while(Result::ok);
        assert!(said.any(|line| line.ends_with(" at the gate")), "{case}");
        match way {
            "another file" => fs::rename(&other, &archive).expect("rename"),
            "in place" => fs::write(&archive, fs::read(&other).expect("read")).expect("write"),
            "no archive" => fs::write(&archive, "text").expect("write"),
            "removed" => fs::remove_file(&archive).expect("remove"),
            _ => {
                let (_, input, said) = mapping.as_mut().expect("a mapping");
                input.write_all(b"\n").expect("tell");
                assert_eq!(said.next().expect("a line").expect("text"), "mapped");
            }
        }
        let key =
            Context::new(&format!("FROM busybox\nRUN {gate} touch /gate/open; echo {number} > /case\n"));
        run(&mut home.build(&key)).ok();
        let said: Vec<String> = said.collect();
        let code = build.0.wait().expect("the build").code();
        let refused = said.iter().any(|line| line.contains("\"/archive\" changed while it was read"));
        assert!(code == Some(1) && refused, "{case}: {code:?}\n{}", said.join("\n"));
        // Nothing was filed under its name.
        match mapping {
            Some((mut python, mut input, mut said)) => {
                input.write_all(b"\n").expect("tell");
                assert_eq!(said.next().expect("a line").expect("text"), "done");
                python.0.wait().expect("the end");
            }
            None => drop(fs::copy(&first, &archive).expect("copy")),
        }
        assert_eq!(built(&mut home.build(&context)), old, "{case}");
    }
}

/// The clock goes forth and back by years between builds, and files have times of any year.
#[test]
fn clocks_that_jump_change_nothing() {
    let (home, context) = (Home::new(), copying().file("f", "----"));
    let path = context.path().join("f");
    let jumps = ["+0", "+3y", "-3y", "+1d", "-1d", "-0.5s", "+0"];
    let years = [0_u64, 1_000_000_000, 4_000_000_000];
    for (round, jump) in jumps.iter().cycle().take(21).enumerate() {
        let content = format!("{:04}", round / 2);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(years[round % years.len()]);
        write_over(&path, content.as_bytes(), time);
        let mut faked = tool("faketime");
        let build = home.build(&context);
        faked
            .args(["-f", jump])
            .arg(build.get_program())
            .args(build.get_args())
            .env("BUILDER_HOME", home.path());
        assert_eq!(built(&mut faked), content, "{jump}");
    }
    // What was recorded in other years is still of use, and can be cleaned up.
    home.steps(&context, &[]).all_cached();
    run(home.builder("prune").args(["--all", "--force"])).ok();
    run(&mut home.builder("fsck")).ok();
}

/// Runs a script in a mount namespace of its own: what it mounts is gone with it. `$1` is a directory of its own, `$2` the context; `build
/// CONTEXT OUT` builds.
fn in_namespace(script: &str, dir: &Path, context: &Path) -> String {
    let bases = bases().iter().map(|base| format!("'{base}'")).collect::<Vec<_>>().join(" ");
    let script = format!(
        "set -eu\nbuild() {{ '{}' build --progress=plain {bases} -o \"type=oci,tar=false,dest=$2\" \"$1\" 2>> \"$d/log\"; }}\n\
         d=$1 c=$2\n{script}",
        binary().display()
    );
    let mut command = tool("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", &script, "sh"]).args([dir, context]);
    command.env("BUILDER_HOME", dir.join("state")).env("SOURCE_DATE_EPOCH", "1600000000");
    let done = run(&mut command);
    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
    assert_eq!(done.code, Some(0), "{done}\n{log}");
    done.stdout
}

/// The digest of the image in a layout that a build wrote.
const DIGEST: &str = "digest() { grep -o 'sha256:[0-9a-f]*' \"$1/index.json\" | head -1; }\n";

/// Whole seconds, 128 bytes of inode, no reflinks; for the context and for the state directory.
#[test]
fn file_systems_that_know_less_give_the_same() {
    need_root();
    let context = Context::new("FROM busybox\nCOPY . /src\nRUN cat /src/f > /copy && mkdir /made\nCOPY --from=busybox /bin/busybox /other\n")
        .file("f", "0000")
        .file("sub/g", "g");
    let script = |mount: &str| {
        format!(
            "{DIGEST}mkdir -p \"$d/m\"\n{mount}\ncp -a \"$c\" \"$d/m/c\"\nexport BUILDER_HOME=\"$d/m/state\"\n\
             for n in 1111 2222 3333 1111; do\n\
             printf $n 1<> \"$d/m/c/f\"; touch -d @1000000000 \"$d/m/c/f\"\n\
             build \"$d/m/c\" \"$d/m/out-$n\"; digest \"$d/m/out-$n\"; rm -r \"$d/m/out-$n\"\ndone"
        )
    };
    let digests = |mount: &str| {
        let dir = tempdir();
        let told = in_namespace(&script(mount), dir.path(), context.path());
        told.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let plain = digests("");
    assert_eq!(plain.len(), 4);
    assert!(plain[0] != plain[1] && plain[1] != plain[2] && plain[3] == plain[0], "{plain:?}");
    let disk = |make: &str| {
        format!(
            "truncate -s 256M \"$d/disk\"\n{make} \"$d/disk\" > /dev/null 2>&1\nmount -o loop \"$d/disk\" \"$d/m\""
        )
    };
    for (name, mount) in [
        ("tmpfs", "mount -t tmpfs tmpfs \"$d/m\"".to_owned()),
        ("ext2", disk("mke2fs -q -F -t ext2 -I 128")),
        ("ext3", disk("mke2fs -q -F -t ext3 -I 128")),
    ] {
        assert_eq!(digests(&mount), plain, "{name}");
    }
}

/// File systems that keep no extended attributes, and such as programs of users serve, here one whose time of change is what the file's owner
/// sets. Contexts on them are as good as any; a state directory where the first kind would lose what files are is refused.
#[test]
fn contexts_on_file_systems_that_tell_little() {
    need_root();
    let context = Context::new("FROM scratch\nCOPY . /src\n").file("f", "0000").file("sub/g", "g");
    let edits = "for n in 1111 2222 3333 1111; do\n\
         printf $n 1<> \"$d/m/f\"; touch -d @1000000000.25 \"$d/m/f\"\n\
         build \"$d/m\" \"$d/out\"; digest \"$d/out\"; rm -r \"$d/out\"\n\
         sleep 2.2; build \"$d/m\" \"$d/out\"; digest \"$d/out\"; rm -r \"$d/out\"\ndone\n";
    let digests = |mount: &str, end: &str| {
        let dir = tempdir();
        let script = format!("{DIGEST}mkdir \"$d/m\"\n{mount}\n{edits}{end}");
        in_namespace(&script, dir.path(), context.path()).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let copied = "cp -a \"$c/.\" \"$d/m\"";
    let plain = digests(copied, "");
    assert_eq!(plain.len(), 8);
    assert!(plain[0] == plain[1] && plain[1] != plain[2] && plain[2] != plain[4] && plain[6] == plain[0]);
    let bare = format!(
        "mount -t ramfs ramfs \"$d/m\"\n{copied}\n\
         if python3 -c 'import os, sys; os.setxattr(sys.argv[1], \"user.a\", b\"1\")' \"$d/m/f\" 2> /dev/null; then exit 9; fi"
    );
    assert_eq!(digests(&bare, ""), plain, "without extended attributes");
    let served = format!(
        "mkdir \"$d/real\"\nbindfs --ctime-from-mtime \"$d/real\" \"$d/m\"\n{copied}\n\
         touch -d @1000000000.25 \"$d/m/f\"; test \"$(stat -c %Z \"$d/m/f\")\" = 1000000000"
    );
    assert_eq!(digests(&served, "umount \"$d/m\"\n"), plain, "served by a program");
    let dir = tempdir();
    let refused = "mkdir \"$d/m\"; mount -t ramfs ramfs \"$d/m\"; export BUILDER_HOME=\"$d/m/state\"\n\
                   if build \"$c\" \"$d/out\"; then exit 9; fi; cat \"$d/log\"; test ! -e \"$d/out\"";
    let told = in_namespace(refused, dir.path(), context.path());
    assert!(told.contains("cannot hold the marks of layers") && told.contains("BUILDER_HOME"), "{told}");
}

/// Through a mapping that stays open, a file in memory changes without any of its times.
#[test]
fn a_file_in_memory_that_changes_through_a_mapping_is_seen() {
    need_root();
    let context = copying().file("f", "old content");
    for (kind, at, around) in [("tmpfs", "m", "m"), ("ramfs", "m", "m"), ("tmpfs", "m/sub", "m")] {
        let dir = tempdir();
        fs::write(dir.path().join("mapping.py"), MAPPING).expect("write");
        let script = format!(
            "{DIGEST}mkdir -p \"$d/{at}\"; mount -t {kind} {kind} \"$d/{at}\"; cp \"$c/f\" \"$d/{at}\"\n\
             printf 'FROM scratch\\nCOPY {copied} /f\\n' > \"$d/{around}/Dockerfile\"\n\
             mkfifo \"$d/to\" \"$d/from\"\n\
             python3 \"$d/mapping.py\" \"$d/{at}/f\" < \"$d/to\" > \"$d/from\" &\n\
             exec 3> \"$d/to\" 4< \"$d/from\"; read -r said <&4\n\
             stat -c %y-%z \"$d/{at}/f\" > \"$d/times\"; sleep 2.3\n\
             build \"$d/{around}\" \"$d/1\"; digest \"$d/1\"\n\
             echo >&3; read -r said <&4; stat -c %y-%z \"$d/{at}/f\" | cmp - \"$d/times\"\n\
             build \"$d/{around}\" \"$d/2\"; digest \"$d/2\"\n\
             BUILDER_DISABLE=stat-cache build \"$d/{around}\" \"$d/3\"; digest \"$d/3\"\n\
             echo >&3; read -r said <&4; test \"$said\" = done; wait\n",
            copied = if at == around { "f" } else { "sub/f" },
        );
        let told = in_namespace(&script, dir.path(), context.path());
        let digests: Vec<&str> = told.lines().collect();
        assert_eq!(digests.len(), 3, "{kind} at {at}: {told}");
        assert!(digests[0] != digests[1] && digests[1] == digests[2], "{kind} at {at}: {told}");
    }
}

/// Numbers of files and all their times come out of an image, so that two images may agree in them and in nothing else.
#[test]
fn file_systems_whose_times_may_be_made_up_are_not_believed() {
    need_root();
    let dir = tempdir();
    let context = copying();
    let image = |content: &str| -> PathBuf {
        context.write("f", content);
        let image = dir.path().join(format!("{content}.squashfs"));
        let mut make = tool("mksquashfs");
        make.arg(context.path()).arg(&image).args([
            "-quiet",
            "-no-progress",
            "-all-time",
            "1000000000",
            "-mkfs-time",
            "0",
        ]);
        run(&mut make).ok();
        image
    };
    let squashed = [image("0000"), image("1111")];
    // A file system that is written to elsewhere, made as a whole: the second image differs in the bytes of the file alone.
    let made = [dir.path().join("0.ext4"), dir.path().join("1.ext4")];
    context.write("f", "content number zero");
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(context.path()).arg(&made[0]).arg("4m")).ok();
    let mut bytes = std::fs::read(&made[0]).expect("read an image");
    let at =
        bytes.windows(19).position(|window| window == b"content number zero").expect("the file's content");
    bytes[at..at + 19].copy_from_slice(b"content number one!");
    std::fs::write(&made[1], bytes).expect("write an image");
    let plain = "mount -o loop \"$image\" \"$at\"";
    // What an overlay lies over, it shows as its own.
    let over = "mkdir -p \"$d/low\" \"$d/up\" \"$d/work\"; mount -o loop \"$image\" \"$d/low\"; \
                mount -t overlay overlay -o \"lowerdir=$d/low,upperdir=$d/up,workdir=$d/work\" \"$at\"";
    // The time of change of these files is what a program sets, fractions and all.
    let told = ["0000", "1111"].map(PathBuf::from);
    let fuse = "mkdir -p \"$d/low\" \"$d/up\" \"$d/work\" \"$d/told\"; cp \"$c/Dockerfile\" \"$d/told\"\n\
                printf \"$image\" > \"$d/told/f\"; touch -d @1000000000.25 \"$d/told/f\"\n\
                bindfs --ctime-from-mtime \"$d/told\" \"$d/low\"; options=\"lowerdir=$d/low\"\n";
    let alone = format!("{fuse}mount --bind \"$d/low\" \"$at\"");
    let below =
        format!("{fuse}mount -t overlay overlay -o \"$options,upperdir=$d/up,workdir=$d/work\" \"$at\"");
    let one_device = below.replace("$options", "$options,xino=on");
    let only_lower = format!("{fuse}mount -t overlay overlay -o \"$options:$d/work\" \"$at\"");
    for (kind, images, mount) in [
        ("squashfs", &squashed, plain),
        ("made", &made, plain),
        ("overlay", &squashed, over),
        ("FUSE", &told, &alone),
        ("overlay-FUSE", &told, &below),
        ("xino", &told, &one_device),
        ("lower", &told, &only_lower),
    ] {
        // As a context of its own, and mounted inside of one.
        for inside in [false, true] {
            let (at, around) = if inside { ("m/sub", "m") } else { ("m", "m") };
            let mut script = format!(
                "mkdir -p \"$d/m/sub\"\nexport BUILDER_HOME=\"$d/state-{kind}-{inside}\"\nat=\"$d/{at}\"\n"
            );
            if inside {
                script += "printf 'FROM scratch\\nCOPY sub/f /f\\n' > \"$d/m/Dockerfile\"\n";
            }
            for (number, image) in images.iter().enumerate() {
                let (image, out) = (image.display(), format!("$d/out-{kind}-{inside}-{number}"));
                script +=
                    &format!("image=\"{image}\"\n{mount}\nbuild \"$d/{around}\" \"{out}\"\numount \"$at\"\n");
                script += &format!("umount \"$d/low\" 2>/dev/null || true\n{DIGEST}digest \"{out}\"\n");
            }
            let told = in_namespace(&script, dir.path(), context.path());
            let digests: Vec<&str> = told.lines().collect();
            assert_eq!(digests.len(), 2, "{kind}, inside: {inside}");
            assert_ne!(digests[0], digests[1], "{kind}, inside: {inside}");
        }
    }
}
