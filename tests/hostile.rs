//! Hostile archives, each through every door by which archives come in: as a layer of an image, as an archive that ADD unpacks, and as a
//! build context on standard input. What is refused leaves nothing behind, and what is not stays inside.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::forge::{
    changed, directory, end, extended, file, file_with, hard_link, header, padded, record, symlink,
};
use e2e::{Context, Home, Tree, User, eventually, feed, in_parallel, run, tempdir, tool, unpack};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// An archive, and what comes of it.
struct Attack {
    /// What it tries.
    tries: &'static str,
    bytes: Vec<u8>,
    /// Whether it is no tar, but what should hold one.
    stream: bool,
    /// As a layer.
    layer: Verdict,
    /// By ADD, and as a context.
    archive: Verdict,
}

/// What comes of an archive.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// The build fails, and says this.
    Refused(&'static str),
    /// The build succeeds, and what the archive holds is inside.
    Inside,
}

use Verdict::{Inside, Refused};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Everything that an attack may want to reach, and where it is tried.
struct Place {
    dir: tempfile::TempDir,
    before: Tree,
}

impl Place {
    fn new() -> Place {
        let dir = tempdir();
        fs::create_dir(dir.path().join("outside")).expect("make a directory");
        fs::write(dir.path().join("outside/secret"), "untouched").expect("write");
        let before = Tree::from_dir(&dir.path().join("outside"));
        Place { dir, before }
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn untouched(&self, tries: &str, door: &str) {
        let after = Tree::from_dir(&self.outside());
        assert_eq!(after, self.before, "{tries} ({door}): it reached what is outside");
    }
}

/// An image of two layers: a good one with links that lead out, and the hostile one.
fn image(at: &Path, good: &[u8], hostile: &[u8], diff_id: &str) {
    let blobs = at.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("make directories");
    let put = |media_type: &str, bytes: &[u8]| -> Value {
        let digest = digest(bytes);
        fs::write(blobs.join(&digest[7..]), bytes).expect("write a blob");
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux",
        "config": {}, "rootfs": { "type": "layers", "diff_ids": [digest(good), diff_id] },
    });
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let config = put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let layers = [put(tar, good), put(tar, hostile)];
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let document = json!({ "schemaVersion": 2, "mediaType": manifest, "config": config, "layers": layers });
    let entry = put(manifest, document.to_string().as_bytes());
    fs::write(at.join("index.json"), json!({ "schemaVersion": 2, "manifests": [entry] }).to_string())
        .expect("write");
    fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write");
}

/// What is below the hostile layer, and where ADD unpacks to.
fn good(outside: &str) -> Vec<u8> {
    let entries = [
        directory("dir/"),
        file("dir/file", b"good"),
        file("ok", b"ok"),
        symlink("way-out", outside),
        symlink("way-up", &format!("../../../../../../..{outside}")),
        end(),
    ];
    entries.concat()
}

/// The tar that a hostile stream holds, where it is one that is compressed and not damaged.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let read = std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(bytes), &mut plain);
    if bytes.starts_with(&[0x1f, 0x8b]) && read.is_ok() { plain } else { bytes.to_vec() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("compress");
    encoder.finish().expect("compress")
}

/// One door: builds, and looks at what is left.
fn through(door: &str, attack: &Attack, place: &Place, verdict: Verdict) -> Option<String> {
    let home = Home::new();
    let out = tempdir();
    let dest = out.path().join("out");
    let output = format!("type=local,dest={}", dest.display());
    let outside = place.outside().display().to_string();
    let layout = out.path().join("image");
    let with_image = |hostile: &[u8], diff_id: &str| {
        image(&layout, &good(&outside), hostile, diff_id);
        format!("--build-context=evil=oci-layout://{}", layout.display())
    };
    let done = match door {
        "layer" => {
            let named = with_image(&attack.bytes, &digest(&plain(&attack.bytes)));
            let context = Context::new("FROM evil\n");
            run(home.builder("build").args([&named, "-o", &output]).arg(context.path()))
        }
        "ADD" => {
            let empty = end();
            let named = with_image(&empty, &digest(&empty));
            let context = Context::new("FROM evil\nADD a.tar /\n").file("a.tar", &attack.bytes);
            run(home.builder("build").args([&named, "-o", &output]).arg(context.path()))
        }
        _ => {
            let hostile = plain(&attack.bytes);
            let dockerfile = file("Dockerfile", b"FROM scratch\nCOPY . /\n");
            let context = [dockerfile, good(&outside)[..5 * 512 + 1024].to_vec(), hostile].concat();
            feed(home.builder("build").args(["-o", &output, "-"]), &context)
        }
    };
    place.untouched(attack.tries, door);
    let wrong = match verdict {
        Refused(words) if done.code == Some(1) && done.stderr.contains(words) => None,
        Inside if done.code == Some(0) => None,
        _ => Some(format!(
            "{} ({door}): expected {verdict:?}, exit code {:?}, {}",
            attack.tries,
            done.code,
            done.stderr
                .lines()
                .filter(|line| line.contains("error") || line.contains("ERROR"))
                .collect::<Vec<_>>()
                .join(" | ")
        )),
    };
    if done.code != Some(0) {
        assert!(!dest.exists(), "{} ({door}): there is a result", attack.tries);
        let list = |name: &str| {
            let entries = fs::read_dir(home.path().join(name)).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        nothing_unfinished(&home);
        // Of an image the good layer may stay, and the empty one.
        let most = match door {
            "layer" => 1,
            "ADD" => 2,
            _ => 0,
        };
        let snapshots = list("snapshots-v1");
        let layers = snapshots.iter().filter(|name| !name.to_string_lossy().contains('.')).count();
        assert!(layers <= most, "{} ({door}): {snapshots:?} are left", attack.tries);
    }
    wrong
}

/// Where the end came before it was tidied up, those who come next do it, as long as they last.
fn nothing_unfinished(home: &Home) {
    let left = || fs::read_dir(home.path().join("tmp-v1")).into_iter().flatten().count();
    eventually(Duration::from_secs(20), "what is left to go", || {
        if left() > 0 {
            run(home.builder("build").arg(Context::new("FROM scratch\n").path())).ok();
        }
        left() == 0
    });
}

#[test]
fn archives_stay_inside_or_are_refused() {
    let place = Place::new();
    let mut attacks: Vec<_> =
        attacks(&place.outside().display().to_string()).into_iter().enumerate().collect();
    assert!(attacks.len() >= 60, "{} attacks", attacks.len());
    let wrong = std::sync::Mutex::new(Vec::new());
    in_parallel(&mut attacks, |_, attack| {
        let (number, attack) = attack;
        // The last two are one reader and one writer. What is no archive is a file for ADD, and nothing for a context.
        let other = if *number % 2 == 0 && !attack.stream { "context" } else { "ADD" };
        let mut doors = vec![("layer", attack.layer), (other, attack.archive)];
        // What the reader refuses, which is the same behind every door.
        if attack.layer == attack.archive && matches!(attack.layer, Refused(_)) {
            doors.swap_remove(usize::from(*number % 3 == 0));
        }
        for (door, verdict) in doors {
            wrong.lock().expect("the list").extend(through(door, attack, &place, verdict));
        }
    });
    let wrong = wrong.into_inner().expect("the list");
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// All of them.
fn attacks(outside: &str) -> Vec<Attack> {
    let long = "n".repeat(300);
    let deep = "d/".repeat(2100);
    let secret = format!("{outside}/secret");
    let up = format!("../../../../../../../../../..{secret}");
    let sparse = |map: &str, size: &str, stored: &[u8]| {
        file_with(&[("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.size", size.as_bytes())], stored)
    };
    let old_sparse = |extended: u8, size: &[u8]| {
        let block = changed(&header(b"sparse", b'S', 512, b""), 257, b"ustar  \0");
        let block = changed(&block, 386, b"00000000000\x0000000001000\0");
        changed(&changed(&block, 482, &[extended]), 483, size)
    };
    let numeric = |at: usize, bytes: &[u8]| changed(&header(b"f", b'0', 0, b""), at, bytes);
    let mut attacks = Vec::new();
    let mut tries = |tries: &'static str, layer: Verdict, archive: Verdict, parts: &[Vec<u8>]| {
        attacks.push(Attack {
            tries,
            bytes: [&parts.concat()[..], &end()].concat(),
            stream: false,
            layer,
            archive,
        });
    };
    let both = |verdict: Verdict| (verdict, verdict);

    // Names.
    let (l, a) = both(Refused("upwards"));
    tries("a name that leads up", l, a, &[file("../x", b"x")]);
    tries("a name that leads up from within", l, a, &[file("a/../../x", b"x")]);
    tries("a name that leads up and down", l, a, &[file("dir/../dir/../../x", b"x")]);
    tries("only upwards", l, a, &[directory("..")]);
    tries("upwards behind a dot", l, a, &[file("./../x", b"x")]);
    tries("upwards from the top", l, a, &[file("/../x", b"x")]);
    tries("ending upwards", l, a, &[directory("a/..")]);
    tries("a long name (POSIX) that leads up", l, a, &[file_with(&[("path", b"../x")], b"x")]);
    tries("a long name (GNU) that leads up", l, a, &[extended(b'L', b"../x\0"), file("f", b"x")]);
    tries("a prefix that leads up", l, a, &[changed(&header(b"x", b'0', 0, b""), 345, b"../..")]);
    tries("an absolute name", Inside, Inside, &[file(&secret, b"x")]);
    tries("slashes without end", Inside, Inside, &[file("////x", b"x")]);
    tries("another system's separator", Inside, Inside, &[file("..\\..\\x", b"x")]);
    tries("a newline, escapes and no UTF-8", Inside, Inside, &[header(b"a\n\x1b[31m\xff\xfe", b'0', 0, b"")]);
    tries(
        "a name of 300 bytes",
        Refused("255"),
        Refused("255"),
        &[file_with(&[("path", long.as_bytes())], b"")],
    );
    tries(
        "a path of 4,200 bytes",
        Refused("4096"),
        Refused("4096"),
        &[file_with(&[("path", deep.as_bytes())], b"")],
    );
    tries("a name with NUL", Refused("NUL"), Refused("NUL"), &[file_with(&[("path", b"a\0/../x")], b"")]);
    tries("no name", Refused("root"), Refused("root"), &[file("", b"x")]);
    tries("a file for the root", Refused("root"), Refused("root"), &[file("./", b"x")]);
    tries("a link for the root", Refused("root"), Refused("root"), &[symlink(".", outside)]);

    // Links.
    tries(
        "a link out, and a file through it",
        Refused("parent is a link"),
        Inside,
        &[symlink("l", outside), file("l/x", b"x")],
    );
    tries(
        "a relative link out, and a file through it",
        Refused("parent is a link"),
        Inside,
        &[symlink("l", &up[..up.len() - 7]), file("l/x", b"x")],
    );
    tries(
        "two links out, and a file through both",
        Refused("parent is a link"),
        Inside,
        &[symlink("b", outside), symlink("a", "b"), file("a/x", b"x")],
    );
    tries("a file through a link of the layer below", Inside, Inside, &[file("way-out/x", b"x")]);
    tries("a file through a relative link of the layer below", Inside, Inside, &[file("way-up/x", b"x")]);
    tries("a file over a link to a file", Inside, Inside, &[symlink("l", &secret), file("l", b"x")]);
    tries("a directory over a link", Inside, Inside, &[symlink("l", outside), directory("l/")]);
    tries(
        "a mode through a link of the layer below",
        Inside,
        Inside,
        &[changed(&directory("way-out/"), 100, b"0000777\0")],
    );
    tries(
        "a directory that becomes a link",
        Refused("parent is a link"),
        Inside,
        &[directory("d/"), symlink("d", outside), file("d/x", b"x")],
    );
    tries(
        "links in a circle",
        Refused("parent is a link"),
        Refused("too many symbolic links"),
        &[symlink("a", "b"), symlink("b", "a"), file("a/x", b"x")],
    );
    tries(
        "a link to itself",
        Refused("parent is a link"),
        Refused("too many symbolic links"),
        &[symlink("a", "a"), file("a/x", b"x")],
    );
    tries(
        "a link into /proc",
        Refused("parent is a link"),
        Inside,
        &[symlink("p", "/proc/self/cwd"), file("p/x", b"x")],
    );
    tries("a link without target", Refused("target"), Refused("target"), &[symlink("l", "")]);
    tries(
        "a link's target of 5,000 bytes",
        Refused("4095"),
        Refused("4095"),
        &[extended(b'x', &record("linkpath", &[b'x'; 5000])), symlink("l", "x")],
    );
    tries(
        "a link's target with NUL",
        Refused("NUL"),
        Refused("NUL"),
        &[extended(b'x', &record("linkpath", b"a\0b")), symlink("l", "x")],
    );
    tries(
        "a hard link upwards",
        Refused("upwards"),
        Refused("upwards"),
        &[hard_link("h", "../../etc/passwd")],
    );
    tries("a hard link to an absolute name", Refused(""), Refused(""), &[hard_link("h", &secret)]);
    tries(
        "a hard link through a link out",
        Refused(""),
        Refused(""),
        &[symlink("l", outside), hard_link("h", "l/secret")],
    );
    tries(
        "a hard link through a link of the layer below",
        Refused(""),
        Refused(""),
        &[hard_link("h", "way-out/secret")],
    );
    tries(
        "a hard link to a link out, written through",
        Inside,
        Inside,
        &[symlink("l", &secret), hard_link("h", "l"), file("h", b"x")],
    );
    tries("a hard link to itself", Refused(""), Refused(""), &[hard_link("h", "h")]);
    tries("a hard link to a directory", Refused(""), Refused(""), &[directory("d/"), hard_link("h", "d")]);
    tries("a hard link to the root", Refused("root"), Refused("root"), &[hard_link("h", "/")]);
    tries("a hard link to nothing", Refused(""), Refused(""), &[hard_link("h", "nothing")]);
    tries(
        "a hard link to what comes later",
        Refused(""),
        Refused(""),
        &[hard_link("h", "later"), file("later", b"x")],
    );
    tries(
        "a hard link to a removal",
        Refused(".wh."),
        Refused(""),
        &[file(".wh.x", b""), hard_link("h", ".wh.x")],
    );

    // What is no file.
    let device = |flag, numbers: &[u8; 16]| changed(&header(b"device", flag, 0, b""), 329, numbers);
    tries("the memory as a device", Inside, Inside, &[device(b'3', b"0000001\x000000001\0")]);
    tries("a disk as a device", Inside, Inside, &[device(b'4', b"0000010\x000000000\0")]);
    tries(
        "device numbers that are none",
        Refused("device numbers"),
        Refused("device numbers"),
        &[device(b'3', b"x000001\x000000001\0")],
    );
    tries(
        "device numbers below nothing",
        Refused("device numbers"),
        Refused("device numbers"),
        &[device(b'3', &[0xff; 16])],
    );
    tries(
        "a file below a pipe",
        Refused("parent is a link"),
        Refused("not a directory"),
        &[header(b"p", b'6', 0, b""), file("p/x", b"x")],
    );
    tries("a file over a pipe", Inside, Inside, &[header(b"p", b'6', 0, b""), file("p", b"x")]);
    tries(
        "a program for everybody's root",
        Inside,
        Inside,
        &[changed(&header(b"su", b'0', 0, b""), 100, b"0006755\0")],
    );
    for (what, flag) in
        [("a volume's label", b'V'), ("a continued volume", b'M'), ("a type that nobody knows", b'Z')]
    {
        tries(what, Refused("type"), Refused("type"), &[header(b"f", flag, 0, b"")]);
    }

    // Sizes.
    tries(
        "less content than promised",
        Refused("cut off"),
        Refused("cut off"),
        &[header(b"f", b'0', 1 << 30, b"")],
    );
    tries("a negative size", Refused("size"), Refused("size"), &[numeric(124, &[0xff; 12])]);
    tries(
        "a size of 2^80",
        Refused("size"),
        Refused("size"),
        &[numeric(124, &[0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
    );
    tries("a size that is no number", Refused("size"), Refused("size"), &[numeric(124, b"99999999999\0")]);
    tries(
        "a size of 2^64-1 (POSIX)",
        Refused("size"),
        Refused("size"),
        &[file_with(&[("size", b"18446744073709551615")], b"")],
    );
    tries(
        "a negative size (POSIX)",
        Refused("malformed"),
        Refused("malformed"),
        &[file_with(&[("size", b"-1")], b"")],
    );
    tries(
        "a smaller size (POSIX), and a header in the content",
        Refused("upwards"),
        Refused("upwards"),
        &[extended(b'x', &record("size", b"0")), header(b"f", b'0', 512, b""), header(b"../x", b'0', 0, b"")],
    );
    tries(
        "a directory with content, which is a header",
        Refused("upwards"),
        Refused("upwards"),
        &[header(b"d/", b'5', 512, b""), header(b"../x", b'0', 0, b"")],
    );
    tries(
        "a wrong checksum",
        Refused("checksum"),
        Refused("checksum"),
        &[{
            let mut block = header(b"f", b'0', 0, b"");
            block[0] = b'g';
            [file("first", b""), block].concat()
        }],
    );
    tries("an owner of 2^32-1", Refused("id"), Refused("id"), &[file_with(&[("uid", b"4294967295")], b"")]);
    tries(
        "an owner of 2^64",
        Refused("malformed"),
        Refused("malformed"),
        &[file_with(&[("gid", b"18446744073709551616")], b"")],
    );
    tries(
        "a time that is none",
        Refused("malformed"),
        Refused("malformed"),
        &[file_with(&[("mtime", b"yesterday")], b"")],
    );
    tries(
        "a time at the end of all",
        Inside,
        Inside,
        &[file_with(&[("mtime", b"9223372036854775807")], b"")],
    );

    // Extended headers.
    let x = |content: &[u8]| vec![extended(b'x', content), file("f", b"")];
    let (l, a) = both(Refused("malformed"));
    tries("a record longer than its header", l, a, &x(b"99 path=x\n"));
    tries("a record of no length", l, a, &x(b"0 path=x\n"));
    tries("a record of negative length", l, a, &x(b"-9 path=x\n"));
    tries("a record without end", l, a, &x(b"9 path=xy"));
    tries("a key with NUL", l, a, &x(&record("pa\0th", b"x")));
    tries("a record without key", l, a, &x(&record("", b"x")));
    tries("a record of 2^64 bytes", l, a, &x(b"99999999999999999999 path=x\n"));
    tries(
        "two names, the second leads up",
        Refused("upwards"),
        Refused("upwards"),
        &[file_with(&[("path", b"x"), ("path", b"../x")], b"")],
    );
    tries(
        "a value that looks like a record",
        Inside,
        Inside,
        &[file_with(&[("comment", b"x\n14 path=../x\n")], b"")],
    );
    tries(
        "two extended headers",
        Refused("two extended"),
        Refused("two extended"),
        &[extended(b'x', &record("path", b"a")), file_with(&[("path", b"b")], b"")],
    );
    tries(
        "two names of two kinds",
        Refused("disagree"),
        Refused("disagree"),
        &[extended(b'L', b"a"), file_with(&[("path", b"b")], b"")],
    );
    tries(
        "a name for all files",
        Refused("global"),
        Refused("global"),
        &[extended(b'g', &record("path", b"../x")), file("f", b"")],
    );
    tries(
        "an extended header of 1 GiB",
        Refused("1 MiB"),
        Refused("1 MiB"),
        &[header(b"x", b'x', 1 << 30, b"")],
    );
    tries("an extended header for nothing", Refused("ends after"), Refused("ends after"), &x(b"")[..1]);
    tries("an attribute without name", l, a, &x(&record("SCHILY.xattr.", b"x")));
    tries(
        "marks of overlayfs as attributes",
        Inside,
        Inside,
        &[
            extended(
                b'x',
                &[
                    record("SCHILY.xattr.trusted.overlay.redirect", outside.as_bytes()),
                    record("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ]
                .concat(),
            ),
            directory("dir/"),
        ],
    );
    tries(
        "an attribute of 100 kB",
        Refused("attribute user.x"),
        Refused("attribute user.x"),
        &[file_with(&[("SCHILY.xattr.user.x", &[b'x'; 100_000])], b"")],
    );

    // Sparse files.
    tries(
        "a sparse file of 2^63-1 bytes",
        Refused("bomb"),
        Refused("bomb"),
        &[sparse("0,3", "9223372036854775807", b"abc")],
    );
    tries(
        "a thousand sparse files of 100 GiB",
        Refused("bomb"),
        Refused("bomb"),
        &[sparse("0,3", "107374182400", b"abc").repeat(1000)],
    );
    let (l, a) = both(Refused("malformed"));
    tries("a sparse map in disorder", l, a, &[sparse("2,1,0,2", "5", b"abc")]);
    tries("a sparse map that overlaps", l, a, &[sparse("0,2,1,1", "5", b"abc")]);
    tries("a sparse map beyond the end", l, a, &[sparse("4,3", "5", b"abc")]);
    tries("a sparse map that overflows", l, a, &[sparse("18446744073709551615,3", "5", b"abc")]);
    tries(
        "a sparse map of 2^60 regions",
        l,
        a,
        &[file_with(
            &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"5")],
            &padded(b"1152921504606846976\n"),
        )],
    );
    tries(
        "an old sparse header that goes on for ever",
        Refused("malformed"),
        Refused("malformed"),
        &[old_sparse(1, b"00000001000\0"), changed(&[0; 512], 504, &[1]).repeat(3)],
    );
    tries(
        "a sparse directory",
        Refused("sparse"),
        Refused("sparse"),
        &[extended(b'x', &record("GNU.sparse.size", b"5")), directory("d/")],
    );

    // Removals.
    let (l, a) = (Refused(".wh."), Refused(".wh."));
    tries("the removal of what is above", l, a, &[file(".wh...", b"")]);
    tries("the removal of the directory itself", l, a, &[file("dir/.wh..", b"")]);
    tries("the removal of nothing", l, a, &[file(".wh.", b"")]);
    tries("the removal of a removal", l, a, &[file(".wh..wh.x", b"")]);
    tries("AUFS' own directory", l, a, &[directory(".wh..wh.plnk/")]);
    tries("a file in a removal", l, a, &[file("dir/.wh.d/x", b"")]);
    tries("the removal of a file outside, through a link", Inside, a, &[file("way-out/.wh.secret", b"")]);
    tries("the removal of all outside, through a link", Inside, a, &[file("way-out/.wh..wh..opq", b"")]);
    tries(
        "a link out, and removals through it",
        Refused("parent is a link"),
        a,
        &[symlink("l", outside), file("l/.wh.secret", b""), file("l/.wh..wh..opq", b"")],
    );
    tries("the removal of everything", Inside, a, &[file(".wh..wh..opq", b""), file("ok", b"ok")]);
    tries(
        "the removal of what is not there",
        Inside,
        a,
        &[file("no/where/.wh.x", b""), file("no/.wh..wh..opq", b"")],
    );
    tries("a removal with content", Inside, a, &[file(".wh.ok", b"content")]);

    // One path several times.
    tries("a file twice", Inside, Inside, &[file("f", b"1"), file("f", b"2")]);
    tries(
        "a file that becomes a directory",
        Inside,
        Inside,
        &[file("f", b"1"), directory("f/"), file("f/x", b"2")],
    );
    tries(
        "a directory that becomes a file",
        Inside,
        Inside,
        &[directory("f/"), file("f/x", b"2"), file("f", b"1")],
    );
    tries(
        "a file below a file",
        Refused("parent is a link"),
        Refused("not a directory"),
        &[file("f", b"1"), file("f/x", b"2")],
    );

    // Streams.
    let tar = [file("f", &[b'x'; 5000]), end()].concat();
    let mut stream = |tries: &'static str, layer: Verdict, archive: Verdict, bytes: Vec<u8>| {
        attacks.push(Attack { tries, bytes, stream: true, layer, archive });
    };
    stream("an archive cut off within a file", Refused("cut off"), Refused("cut off"), tar[..1000].to_vec());
    stream(
        "an archive cut off within a header",
        Refused("cut off"),
        Inside,
        [&tar[..], &[1; 100]].concat()[..100].to_vec(),
    );
    stream(
        "more behind the end",
        Refused("follows the end"),
        Refused("follows the end"),
        [&tar[..], &padded(b"x")].concat(),
    );
    stream("a gzip stream cut off", Refused(""), Inside, gzip(&tar)[..40].to_vec());
    stream("a gzip stream with a wrong checksum", Refused(""), Refused(""), {
        let mut bytes = gzip(&tar);
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        bytes
    });
    stream(
        "rubbish behind a gzip stream",
        Refused(""),
        Refused(""),
        [gzip(&tar), b"rubbish".to_vec()].concat(),
    );
    stream("gzip in gzip", Refused(""), Inside, gzip(&gzip(&tar)));
    stream("no archive at all", Refused(""), Inside, b"#!/bin/sh\necho no archive\n".repeat(40));
    attacks
}

/// Little that unpacks to much: in each compression, as a sparse file, and as files without content, through each door. The limit is a small one, so that
/// reaching it costs little; what is below it comes through.
#[test]
fn bombs_are_refused() {
    let zeros = |size: u64| {
        let mut tar = header(b"zeros", b'0', size, b"");
        tar.resize(tar.len() + size as usize, 0);
        tar
    };
    let hole = file_with(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"2097152")], b"x");
    let many: Vec<u8> = (0..1500).flat_map(|number| directory(&format!("many-{number}/"))).collect();
    let few: Vec<u8> = (0..800).flat_map(|number| directory(&format!("few-{number}/"))).collect();
    // By a program, or as it is.
    let packed = |program: &str, bytes: &[u8]| {
        if program.is_empty() {
            return bytes.to_vec();
        }
        let mut command = tool(program);
        command.arg("-c").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("start it");
        let mut input = child.stdin.take().expect("just asked for");
        let output = std::thread::scope(|scope| {
            scope.spawn(move || input.write_all(bytes).expect("feed it"));
            child.wait_with_output().expect("wait for it")
        });
        output.stdout
    };
    let mut bombs = vec![
        ("", "holes", hole, Some("bomb")),
        ("", "entries", many, Some("entries are taken for a bomb")),
        ("", "few entries", few, None),
    ];
    for program in ["gzip", "zstd", "xz", "bzip2"] {
        bombs.push((program, "zeros", zeros(16 << 20), Some("bomb")));
        bombs.push((program, "few zeros", zeros(900 << 10), None));
    }
    let place = Place::new();
    let outside = place.outside().display().to_string();
    for (program, what, tar, says) in bombs {
        for door in ["layer", "ADD", "context"] {
            let (home, out) = (Home::new(), tempdir());
            let dest = out.path().join("out");
            let output = format!("type=local,dest={}", dest.display());
            let layout = out.path().join("image");
            let whole = [&tar[..], &end()].concat();
            let mut build = home.builder("build");
            build.args(["-o", &output]).env("BUILDER_UNPACK_LIMIT", "1m");
            let named = |hostile: &[u8], diff_id: &str| {
                image(&layout, &good(&outside), hostile, diff_id);
                format!("--build-context=evil=oci-layout://{}", layout.display())
            };
            let done = match door {
                "layer" => {
                    let context = Context::new("FROM evil\n");
                    build.arg(named(&packed(program, &whole), &digest(&whole))).arg(context.path());
                    run(&mut build)
                }
                "ADD" => {
                    let context =
                        Context::new("FROM evil\nADD a.tar /\n").file("a.tar", packed(program, &whole));
                    build.arg(named(&end(), &digest(&end()))).arg(context.path());
                    run(&mut build)
                }
                _ => {
                    let dockerfile = file("Dockerfile", b"FROM scratch\nCOPY . /\n");
                    feed(build.arg("-"), &packed(program, &[&dockerfile[..], &whole].concat()))
                }
            };
            match says {
                None => drop(done.ok()),
                Some(words) => {
                    done.code_is(1).says(words);
                    assert!(!dest.exists(), "{program} {what} ({door}): there is a result");
                    nothing_unfinished(&home);
                }
            }
        }
    }
    run(Home::new().builder("images").env("BUILDER_UNPACK_LIMIT", "much"))
        .code_is(2)
        .says("BUILDER_UNPACK_LIMIT");
}

/// `cap_net_raw` permitted and effective, as version 2 of the attribute says it (capabilities(7)).
const CAPABILITY: [u8; 20] = *b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// What unpackers treat in different ways: devices where none can be made, hard links to files of the layer below, also through a link
/// there, directories without entries, attributes and capabilities, entries that come again. Whoever unpacks it, it is the tree that umoci makes.
#[test]
fn odd_ones_are_one_tree_for_everybody() {
    let device = changed(&header(b"null", b'3', 0, b""), 329, b"0000001\x000000003\0");
    let below = [
        changed(&directory("dir/"), 100, b"0000700\0"),
        changed(&header(b"dir/file", b'0', 6, b""), 108, b"0000007\x000000007\0"),
        padded(b"shared"),
        symlink("way", "dir"),
        device,
        file("no/entry/file", b"deep"),
        extended(b'x', &record("SCHILY.xattr.user.of-a-directory", b"\0\x01\xff")),
        directory("attributes/"),
        file_with(&[("SCHILY.xattr.user.b", b"two\nlines="), ("SCHILY.xattr.user.a", b"")], b"named"),
        extended(b'x', &record("SCHILY.xattr.security.capability", &CAPABILITY)),
        file("attributes/capable", b"ping"),
        // The last one is what counts, with its own attributes alone.
        extended(b'x', &record("SCHILY.xattr.user.first", b"1")),
        file("twice/file", b"the first is longer"),
        file("twice/file", b"second"),
        file("twice/link", b"a file first"),
        symlink("twice/link", "file"),
        symlink("twice/plain", "file"),
        file("twice/plain", b"no link"),
        changed(&directory("twice/directory/"), 100, b"0000700\0"),
        file("twice/directory/kept", b"kept"),
        changed(&directory("twice/directory/"), 100, b"0000711\0"),
        file("cleared/gone", b"gone"),
        file("cleared/sub/gone", b"gone"),
        file("late/gone", b"gone"),
        file("emptied/gone", b"gone"),
        file("removed/gone", b"gone"),
        file("replaced", b"a file"),
        file("changed/kept", b"kept"),
        file("changed/gone", b"gone"),
        symlink("to-changed", "changed"),
        // As ko and kaniko write layers: the root of a name is that of the image.
        directory("/"),
        directory("/absolute"),
        file("/absolute/file", b"within"),
        file("//absolute/./slashes", b"within as well"),
        hard_link("/absolute/linked", "/absolute/file"),
        end(),
    ];
    let above = [
        file("attributes/above", b"longer than what follows"),
        changed(&header(b"attributes/above", b'0', 1, b""), 100, b"0000600\0"),
        padded(b"2"),
        hard_link("linked", "dir/file"),
        hard_link("new/linked", "way/file"),
        hard_link("no/entry/again", "no/entry/file"),
        file("/absolute/.wh.slashes", b""),
        // Removals wherever others put them: before and behind what takes the place, of a directory without an entry, of what is not there.
        directory("cleared/"),
        file("cleared/.wh..wh..opq", b""),
        file("cleared/new", b"new"),
        file("late/new", b"new"),
        file("late/.wh..wh..opq", b""),
        file("emptied/.wh..wh..opq", b""),
        file(".wh.removed", b""),
        file(".wh.replaced", b""),
        directory("replaced/"),
        file("replaced/new", b"new"),
        file("changed/.wh.gone", b""),
        file("changed/.wh.never", b"not even empty"),
        file("/way/absolute", b"through a link"),
        end(),
    ];
    let dir = tempdir();
    let (layout, above) = (dir.path().join("odd"), above.concat());
    image(&layout, &below.concat(), &above, &digest(&above));
    run(tool("chmod").args(["-R", "a+rX"]).arg(dir.path())).ok();
    let named = format!("--build-context=odd=oci-layout://{}", layout.display());
    let context = Context::new("FROM scratch\nCOPY --from=odd / /\n");
    let image = Home::new().export(&context, &[&named]);
    image.tree().same(&unpack(&layout), "the tree that umoci makes");
    let tree = image.tree();
    let attribute = |path: &str, name: &str| tree.at(path).xattrs.get(name).cloned();
    assert_eq!(attribute("attributes/capable", "security.capability"), Some(CAPABILITY.to_vec()));
    assert_eq!(attribute("attributes", "user.of-a-directory"), Some(b"\0\x01\xff".to_vec()));
    assert_eq!(attribute("named", "user.b"), Some(b"two\nlines=".to_vec()));
    assert_eq!(attribute("twice/file", "user.first"), None);
    let on_top = Context::new("FROM odd\n");
    let dest = dir.path().join("tar");
    let output = |dest: &Path| format!("type=tar,dest={}", dest.display());
    run(Home::new().build(&on_top).args([&named, "-o", &output(&dest)])).ok();
    for user in [User::with_range(), User::with_one_id()] {
        let own = user.at("out").join("tar");
        run(user.build(&on_top).args([&named, "-o", &output(&own)])).ok();
        assert!(fs::read(&own).expect("a tar") == fs::read(&dest).expect("a tar"), "another tree");
    }
    // An owner that a user does not have is named.
    let file = changed(&file("f", b""), 108, b"7777777\0");
    let other = [file, end()].concat();
    let foreign = dir.path().join("foreign");
    self::image(&foreign, &end(), &other, &digest(&other));
    let named = format!("--build-context=odd=oci-layout://{}", foreign.display());
    let user = User::with_range();
    run(user.build(&on_top).args([&named, "-o", &output(&user.at("out").join("tar"))]))
        .code_is(1)
        .says("2097151:0 is not among the ids that this user may use");
}

/// As deep as the kernel takes paths: through a step, another stage, a context, with and without overlay, out again, and removed. Deeper is
/// refused, and removed as well.
#[test]
fn directories_may_be_nested_deep() {
    let context = Context::new(
        "FROM busybox AS nest\n\
         RUN i=0; while [ $i -lt 1500 ]; do mkdir d && cd d; i=$((i+1)); done; echo deep > f\n\
         FROM busybox\nCOPY --from=nest /d /d\nCOPY . /context\nRUN cd /d && i=1; while [ $i -lt 1500 ]; do cd d; i=$((i+1)); done; cat f\n",
    );
    let mut deep = context.path().to_owned();
    for _ in 0..1500 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).expect("nest directories");
    fs::write(deep.join("f"), "deep\n").expect("write the deepest file");
    for disabled in ["", "overlay"] {
        let home = Home::new();
        let out = tempdir();
        let path = |name: &str| out.path().join(name).display().to_string();
        let mut build = home.build(&context);
        build.args(["-t", "deep", "--progress=rawjson", "-o", &format!("type=local,dest={}", path("local"))]);
        build.args([
            "-o",
            &format!("type=oci,dest={}", path("oci")),
            "-o",
            &format!("type=tar,dest={}", path("tar")),
        ]);
        let done = run(build.env("BUILDER_DISABLE", disabled)).ok();
        assert_eq!(done.steps().named("RUN cd /d").log, "deep\n", "{done}");
        let tar = Tree::from_tar(&fs::read(path("tar")).expect("read the archive"));
        for deepest in ["", "context/"].map(|top| format!("{top}{}f", "d/".repeat(1500))) {
            tar.at(&deepest);
            let exported = out.path().join("local").join(&deepest);
            assert!(exported.is_file(), "the directory has {deepest}");
        }
        run(&mut home.builder("du")).ok();
        run(home.builder("prune").args(["--all", "--force"])).ok();
    }
    // Half of it put into the deepest of the other half.
    let deeper = Context::new(
        "FROM busybox\n\
         RUN for top in /a /b; do mkdir $top; cd $top; i=0; while [ $i -lt 1500 ]; do mkdir d && cd d; i=$((i+1)); done; done; mv /a .\n",
    );
    for disabled in ["", "overlay"] {
        let home = Home::new();
        let mut build = home.build(&deeper);
        run(build.args(["-t", "deeper"]).env("BUILDER_DISABLE", disabled))
            .code_is(1)
            .says("File name too long");
        run(home.builder("prune").args(["--all", "--force"])).ok();
    }
}

/// Names as long as they get: 4,096 bytes, one more than the kernel takes at once. A layer with such a name is unpacked, used by a step, and
/// exported. What a step writes may have one byte less.
#[test]
fn the_longest_names_are_unpacked() {
    let deep = |length: usize| {
        let mut path = vec!["n".repeat(255); (length - 4) / 256].join("/");
        // Two more names share what is left.
        let left = length - path.len() - 2;
        path += &format!("/{}/{}", "m".repeat(left / 2), "f".repeat(left - left / 2));
        assert_eq!(path.len(), length);
        path
    };
    let dir = tempdir();
    let at = |name: &str| dir.path().join(name);
    for (length, says) in [(4095, None), (4096, None), (4097, Some("longer than 4096 bytes"))] {
        let path = deep(length);
        let layer = [file_with(&[("path", path.as_bytes())], b"deep\n"), end()].concat();
        let layout = at(&length.to_string());
        image(&layout, &end(), &layer, &digest(&layer));
        // It takes two steps to get there.
        let (top, rest) = path.split_at(2047);
        let rest = rest.trim_start_matches('/');
        let change = if length == 4095 { format!(" && chmod 600 {rest}") } else { String::new() };
        let context = Context::new(&format!(
            "FROM busybox AS tool\nFROM long\nCOPY --from=tool /bin/busybox /bin/sh\n\
             RUN cd /{top} && cat {rest} > /read && cat /read{change}\n"
        ));
        // The same where a step works in a copy.
        for disabled in ["", "overlay"] {
            let home = Home::new();
            let mut build = home.build(&context);
            build.env("BUILDER_DISABLE", disabled);
            build.arg(format!("--build-context=long=oci-layout://{}", layout.display()));
            build.arg("--progress=rawjson");
            let output = |kind: &str| layout.join(format!("out-{kind}-{disabled}"));
            for kind in ["local", "tar", "oci"] {
                build.args(["-o", &format!("type={kind},dest={}", output(kind).display())]);
            }
            let done = run(&mut build);
            let Some(says) = says else {
                let done = done.ok();
                assert_eq!(done.steps().named("RUN cd").log, "deep\n", "{done}");
                let tar = Tree::from_tar(&fs::read(output("tar")).expect("read the archive"));
                let mode = if length == 4095 { 0o600 } else { 0o644 };
                assert_eq!((tar.at(&path).kind.as_str(), tar.at(&path).mode), ("file", mode), "{done}");
                continue;
            };
            done.code_is(1).says(says);
            assert!(["local", "tar", "oci"].iter().all(|kind| !output(kind).exists()), "{length}");
        }
    }
}

#[test]
fn the_good_ones_come_through() {
    let place = Place::new();
    let good = Attack {
        tries: "nothing",
        bytes: [file("f", b"x"), end()].concat(),
        stream: false,
        layer: Inside,
        archive: Inside,
    };
    for door in ["layer", "ADD", "context"] {
        assert_eq!(through(door, &good, &place, Inside), None);
    }
}
