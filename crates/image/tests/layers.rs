//! Layers against arbitrary input, and against GNU tar and Python's tarfile.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};

use image::layer::{Entry, EntryKind, LayerError, LayerReader, LayerWriter};
use proptest::prelude::*;

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 1_600_000_000,
        mtime_nanos: 0,
        xattrs: BTreeMap::new(),
    }
}

fn file(path: &str, content: &[u8]) -> (Entry, Vec<u8>) {
    (entry(path, EntryKind::File { size: content.len() as u64 }), content.to_vec())
}

fn write(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new());
    for (entry, content) in entries {
        writer.append(entry, &mut &content[..]).unwrap_or_else(|error| panic!("{error}"));
    }
    writer.finish().unwrap()
}

fn read(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, String> {
    let mut reader = LayerReader::new(tar);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(|error| error.to_string())? {
        let mut content = Vec::new();
        // A sparse file may claim any size.
        reader.by_ref().take(1 << 22).read_to_end(&mut content).map_err(|error| error.to_string())?;
        entries.push((entry, content));
    }
    Ok(entries)
}

fn refusal(entry: &Entry, mut content: &[u8]) -> String {
    match LayerWriter::new(io::sink()).append(entry, &mut content) {
        Ok(()) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

// ---- any entries, any bytes -------------------------------------------------------------------------------------------

fn component() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => b'a'..=b'z', 1 => Just(b'\n'), 1 => any::<u8>()];
    let short = prop::collection::vec(byte.clone(), 1..12);
    let long = prop::collection::vec(byte, 90..=255);
    prop_oneof![6 => short, 1 => long].prop_filter("a name", |name| {
        !name.contains(&0)
            && !name.contains(&b'/')
            && name != b"."
            && name != b".."
            && !name.starts_with(b".wh.")
    })
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(component(), 1..8).prop_map(|components| components.join(&b'/'))
}

fn id() -> impl Strategy<Value = u32> {
    prop_oneof![0..70_000u32, (1u32 << 21) - 2..(1u32 << 21) + 2, 0..u32::MAX]
}

fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let target = || prop::collection::vec(1..=255u8, 1..300);
    let device = || (0..1u32 << 12, 0..1u32 << 20);
    let content = prop::collection::vec(any::<u8>(), 0..2000);
    let kind = prop_oneof![
        4 => content.prop_map(|content| (EntryKind::File { size: content.len() as u64 }, content)),
        2 => Just((EntryKind::Directory, vec![])),
        1 => target().prop_map(|target| (EntryKind::Symlink { target }, vec![])),
        1 => path().prop_map(|target| (EntryKind::Hardlink { target }, vec![])),
        1 => device().prop_map(|(major, minor)| (EntryKind::CharDevice { major, minor }, vec![])),
        1 => device().prop_map(|(major, minor)| (EntryKind::BlockDevice { major, minor }, vec![])),
        1 => Just((EntryKind::Fifo, vec![])),
        1 => Just((EntryKind::Whiteout, vec![])),
        1 => Just((EntryKind::Opaque, vec![])),
    ];
    let name = prop::collection::vec(1..=255u8, 1..40).prop_filter("no =", |name| !name.contains(&b'='));
    let value = prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'=')], 0..300);
    let xattrs = prop::collection::btree_map(name, value, 0..3);
    let time = prop_oneof![0..2_000_000_000i64, -5..5i64, (1i64 << 33) - 2..(1i64 << 33) + 2, any::<i64>()];
    let nanos = prop_oneof![3 => Just(0), 1 => 0..1_000_000_000u32];
    (path(), kind, 0..=0o7777u32, id(), id(), time, nanos, xattrs).prop_map(
        |(path, (kind, content), mode, uid, gid, mtime, mtime_nanos, xattrs)| match kind {
            EntryKind::Whiteout => (Entry::whiteout(path), content),
            EntryKind::Opaque => (Entry::opaque(path), content),
            // i64::MIN seconds cannot be negated; no file system has them.
            kind => {
                let mtime = mtime.max(i64::MIN + 2);
                (Entry { path, kind, mode, uid, gid, mtime, mtime_nanos, xattrs }, content)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_written_is_read(entries in prop::collection::vec(any_entry(), 0..12)) {
        let tar = write(&entries);
        prop_assert_eq!(tar.len() % 512, 0);
        prop_assert_eq!(&write(&entries), &tar);
        prop_assert_eq!(read(&tar).unwrap(), entries);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = read(&bytes);
    }

    #[test]
    fn damaged_tars_never_panic(
        entries in prop::collection::vec(any_entry(), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut tar = write(&entries);
        for (place, byte) in damage {
            // Repair the checksums, so that the damage gets further than the first check.
            let place = place.index(tar.len());
            tar[place] = byte;
            fix_checksum(&mut tar, place / 512 * 512);
        }
        if let Some(cut) = cut {
            tar.truncate(cut.index(tar.len()));
        }
        if let Ok(entries) = read(&tar) {
            for (entry, _) in entries {
                let clean = entry.path.is_empty()
                    || entry.path.split(|b| *b == b'/').all(|name| !matches!(name, b"" | b"." | b".."));
                prop_assert!(clean, "{:?}", entry.path);
            }
        }
    }
}

fn fix_checksum(tar: &mut [u8], start: usize) {
    let Some(block) = tar.get_mut(start..start + 512) else { return };
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

// ---- hostile and odd archives ------------------------------------------------------------------------------------------

/// A header block as an attacker would write it.
fn raw(name: &[u8], flag: u8, size: u64, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    fix_checksum(&mut block, 0);
    block
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut block = content.to_vec();
    block.resize(content.len().next_multiple_of(512), 0);
    block
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let length =
        (1..).map(|digits| rest.len() + digits).find(|n| n.to_string().len() + rest.len() == *n).unwrap();
    [length.to_string().as_bytes(), &rest].concat()
}

fn extended(flag: u8, content: &[u8]) -> Vec<u8> {
    [raw(b"x", flag, content.len() as u64, |_| ()), padded(content)].concat()
}

fn end() -> Vec<u8> {
    vec![0; 1024]
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../x", "a/../../x", "a/..", "..", "/../etc/passwd"] {
        let tar = [raw(path.as_bytes(), b'0', 0, |_| ()), end()].concat();
        assert!(read(&tar).unwrap_err().contains("upwards"), "{path}");
        let long =
            [extended(b'x', &record("path", path.as_bytes())), raw(b"ok", b'0', 0, |_| ()), end()].concat();
        assert!(read(&long).unwrap_err().contains("upwards"), "{path}");
        let link = raw(b"ok", b'1', 0, |block| block[157..157 + path.len()].copy_from_slice(path.as_bytes()));
        assert!(read(&[link, end()].concat()).unwrap_err().contains("upwards"), "{path}");
        let gnu = [extended(b'L', path.as_bytes()), raw(b"ok", b'0', 0, |_| ()), end()].concat();
        assert!(read(&gnu).unwrap_err().contains("upwards"), "{path}");
    }
}

#[test]
fn paths_come_out_clean() {
    for (path, clean) in [("/etc//x", "etc/x"), ("./a/./b", "a/b"), ("a/b/", "a/b"), ("./", ""), ("/", "")] {
        let tar = [raw(path.as_bytes(), b'5', 0, |_| ()), end()].concat();
        assert_eq!(read(&tar).unwrap()[0].0.path, clean.as_bytes(), "{path}");
    }
    let root_file = [raw(b"./", b'0', 0, |_| ()), end()].concat();
    assert!(read(&root_file).unwrap_err().contains("the root is a directory"));
    // V7 knew directories by their slash.
    let v7 = [raw(b"d/", 0, 0, |block| block[257..265].fill(0)), end()].concat();
    assert_eq!(read(&v7).unwrap()[0].0.kind, EntryKind::Directory);
}

#[test]
fn a_value_cannot_forge_a_record() {
    let forged =
        [record("SCHILY.xattr.user.a", b"x\n18 path=../../evil\n"), record("path", b"good")].concat();
    let tar = [extended(b'x', &forged), raw(b"short", b'0', 0, |_| ()), end()].concat();
    let (entry, _) = read(&tar).unwrap().remove(0);
    assert_eq!(entry.path, b"good");
    assert_eq!(entry.xattrs[&b"user.a"[..]], b"x\n18 path=../../evil\n");
}

#[test]
fn whiteouts_are_recognised() {
    let names: &[(&str, Entry)] = &[
        (".wh.a", Entry::whiteout(&b"a"[..])),
        ("d/.wh.a b", Entry::whiteout(&b"d/a b"[..])),
        (".wh..wh..opq", Entry::opaque(&b""[..])),
        ("d/e/.wh..wh..opq", Entry::opaque(&b"d/e"[..])),
        // Whatever they are: AUFS made them hard links.
    ];
    for (name, expected) in names {
        for flag in [b'0', b'1', b'5'] {
            let tar = raw(name.as_bytes(), flag, 0, |block| {
                block[157..168].copy_from_slice(b".wh..wh.aaa");
                block[101..107].copy_from_slice(b"000777");
            });
            let entries = read(&[tar, end()].concat());
            assert_eq!(entries, Ok(vec![(expected.clone(), vec![])]), "{name} {flag}");
        }
        let written = write(&[(expected.clone(), vec![])]);
        assert!(written.starts_with(name.as_bytes()), "{name}");
    }
    for name in [".wh.", "a/.wh..", ".wh...", ".wh..wh.plnk", "a/.wh.b/c", ".wh..wh..opq/x"] {
        let tar = [raw(name.as_bytes(), b'0', 0, |_| ()), end()].concat();
        assert!(read(&tar).unwrap_err().contains("`.wh.`"), "{name}");
    }
}

#[test]
fn the_longest_names_can_be_removed() {
    let longest = "n".repeat(255);
    let deepest = format!("dd/{}{}", "d/".repeat(1919), &longest);
    assert_eq!(deepest.len(), 4096);
    for path in [longest.clone(), deepest.clone()] {
        for one in [Entry::whiteout(path.clone()), Entry::opaque(path.clone()), file(&path, b"").0] {
            assert_eq!(read(&write(&[(one.clone(), vec![])])), Ok(vec![(one, vec![])]));
        }
    }
    for path in [longest + "n", deepest + "n"] {
        let tar = |name: &str| {
            [extended(b'x', &record("path", name.as_bytes())), raw(b"f", b'0', 0, |_| ()), end()].concat()
        };
        assert!(read(&tar(&path)).is_err());
        let name = path.rfind('/').map_or(0, |slash| slash + 1);
        assert!(read(&tar(&format!("{}.wh.{}", &path[..name], &path[name..]))).is_err());
    }
}

#[test]
fn entries_that_no_layer_can_hold_are_refused_by_name() {
    let (good, content) = file("a", b"abc");
    assert_eq!(refusal(&good, &content), "accepted");
    for path in [".wh.x", "a/.wh.x", ".wh.d/x"] {
        let text = refusal(&Entry { path: path.into(), ..good.clone() }, &content);
        assert!(text.starts_with(path) && text.contains("`.wh.`"), "{text}");
    }
    for path in ["/a", "a//b", "../a", "a/", "a/./b", "a\0b"] {
        assert_ne!(refusal(&Entry { path: path.into(), ..good.clone() }, &content), "accepted", "{path:?}");
    }
    assert!(refusal(&good, b"ab").contains("2 of 3"));
    assert!(refusal(&good, b"abcd").contains("more than 3"));
    let odd = BTreeMap::from([(b"user.a=b".to_vec(), vec![])]);
    assert!(refusal(&Entry { xattrs: odd, ..good.clone() }, &content).contains("user.a=b"));
    let link = |target: &str| entry("l", EntryKind::Symlink { target: target.into() });
    assert_ne!(refusal(&link(""), b""), "accepted");
    let hard = |target: &str| entry("l", EntryKind::Hardlink { target: target.into() });
    assert_ne!(refusal(&hard("../x"), b""), "accepted");
    assert_ne!(refusal(&Entry { uid: u32::MAX, ..good.clone() }, &content), "accepted");
    let device = entry("d", EntryKind::CharDevice { major: 1 << 21, minor: 0 });
    assert!(refusal(&device, b"").contains("device numbers"));
}

#[test]
fn unreadable_content_names_the_file() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("bad sector"))
        }
    }
    let mut writer = LayerWriter::new(io::sink());
    let error = writer.append(&file("some/file", b"abc").0, &mut Broken).unwrap_err();
    assert!(matches!(error, LayerError::Content { .. }));
    assert_eq!(error.to_string(), "read some/file: bad sector");
}

#[test]
fn cut_off_and_padded_streams() {
    let tar = write(&[file("a", &[7; 700]), file("b", b"x")]);
    for cut in [1, 511, 513, 600, 1211, 1536 + 1, 1536 + 512] {
        assert!(read(&tar[..cut]).unwrap_err().contains("cut off"), "{cut}");
    }
    // Between entries no reader minds, nor where only the padding is missing.
    for end in [1212, 1213, 1535] {
        assert_eq!(read(&tar[..end]).unwrap(), [file("a", &[7; 700])], "{end}");
    }
    assert_eq!(read(&tar[..1536]).unwrap().len(), 1);
    assert_eq!(read(&[]).unwrap().len(), 0);
    assert_eq!(read(&[tar.clone(), vec![0; 8000]].concat()).unwrap().len(), 2);
    assert!(
        read(&[tar.clone(), vec![0; 512], b"x".to_vec()].concat()).unwrap_err().contains("follows the end")
    );
    let gap = [raw(b"a", b'0', 0, |_| ()), vec![0; 512], raw(b"b", b'0', 0, |_| ()), end()].concat();
    assert!(read(&gap).unwrap_err().contains("block of zeros"));
    let alone = [extended(b'x', &record("path", b"a")), end()].concat();
    assert!(read(&alone).unwrap_err().contains("ends after"));
}

/// What octal digits cannot say is said otherwise: in base 256 (GNU) and in a record (POSIX), which is what is written here.
#[test]
fn files_of_more_than_8_gib() {
    let size: u64 = (9 << 30) + 1;
    let kind = EntryKind::File { size };
    let first = |tar: &[u8]| LayerReader::new(tar).next_entry().unwrap().unwrap().kind;
    let number = [&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat();
    assert_eq!(first(&raw(b"f", b'0', 0, |block| block[124..136].copy_from_slice(&number))), kind);
    let text = size.to_string();
    assert_eq!(
        first(&[extended(b'x', &record("size", text.as_bytes())), raw(b"f", b'0', 0, |_| ())].concat()),
        kind
    );
    let sparse = [record("GNU.sparse.map", b"0,3"), record("GNU.sparse.size", text.as_bytes())].concat();
    let sparse = [extended(b'x', &sparse), raw(b"f", b'0', 3, |_| ()), padded(b"abc"), end()].concat();
    assert_eq!(first(&sparse), kind);
    // The content is not there, but what is announced is.
    let mut written = Vec::new();
    let large = entry("f", kind.clone());
    assert!(LayerWriter::new(&mut written).append(&large, &mut &b"short"[..]).is_err());
    assert_eq!(first(&written), kind);
}

#[test]
fn claims_of_size_are_limited() {
    let huge = raw(b"x", b'x', 1 << 30, |_| ());
    assert!(read(&huge).unwrap_err().contains("1 MiB"));
    let negative = raw(b"f", b'0', 0, |block| block[124..136].fill(0xff));
    assert!(read(&negative).unwrap_err().contains("size"));
    let enormous =
        [extended(b'x', &record("size", b"18446744073709551615")), raw(b"f", b'0', 0, |_| ())].concat();
    assert!(read(&enormous).unwrap_err().contains("size"));
    let long = [extended(b'x', &record("path", &[b'a'; 5000])), raw(b"f", b'0', 0, |_| ()), end()].concat();
    assert!(read(&long).unwrap_err().contains("4096"));
    let deep = vec![b"abc/"[..].to_vec(); 2000].concat();
    let deep = [extended(b'x', &record("path", &deep)), raw(b"f", b'0', 0, |_| ()), end()].concat();
    assert!(read(&deep).unwrap_err().contains("4096"));
}

#[test]
fn ambiguous_headers_are_refused() {
    let path = |name: &[u8]| extended(b'x', &record("path", name));
    let twice = [path(b"a"), path(b"b"), raw(b"f", b'0', 0, |_| ()), end()].concat();
    assert!(read(&twice).unwrap_err().contains("two extended"));
    let both = [path(b"a"), extended(b'L', b"b"), raw(b"f", b'0', 0, |_| ()), end()].concat();
    assert!(read(&both).unwrap_err().contains("disagree"));
    let global = |key| [extended(b'g', &record(key, b"1")), raw(b"f", b'0', 0, |_| ()), end()].concat();
    assert_eq!(read(&global("comment")).unwrap().len(), 1);
    assert!(read(&global("size")).unwrap_err().contains("`size`"));
    for flag in [b'M', b'V', b'N', b'X', b'z', 0xff] {
        let tar = [raw(b"f", flag, 0, |_| ()), end()].concat();
        assert!(read(&tar).unwrap_err().contains("type"), "{flag}");
    }
    let mut wrong = raw(b"f", b'0', 0, |_| ());
    wrong[0] = b'g';
    assert!(read(&wrong).unwrap_err().contains("checksum"));
}

#[test]
fn sparse_maps_are_checked() {
    let sparse = |map: &str, size: &str, stored: &[u8]| {
        let records =
            [record("GNU.sparse.map", map.as_bytes()), record("GNU.sparse.size", size.as_bytes())].concat();
        let header = raw(b"f", b'0', stored.len() as u64, |_| ());
        read(&[extended(b'x', &records), header, padded(stored), end()].concat())
    };
    assert_eq!(sparse("2,3", "6", b"abc").unwrap()[0].1, b"\0\0abc\0");
    assert_eq!(sparse("0,1,3,2", "5", b"abc").unwrap()[0].1, b"a\0\0bc");
    for (map, size) in
        [("3,2,0,1", "5"), ("0,2,1,1", "5"), ("0,4", "5"), ("4,3", "5"), ("0", "5"), ("x", "5"), ("0,3", "x")]
    {
        assert!(sparse(map, size, b"abc").is_err(), "{map} {size}");
    }
    assert!(sparse("18446744073709551615,3", "5", b"abc").is_err());
}

// ---- against other programs ----------------------------------------------------------------------------------------------

fn run(program: &str, arguments: &[&str], directory: &Path, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // The program may stop reading at the end of the archive.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Entries with everything that other programs must understand as well.
fn gallery() -> Vec<(Entry, Vec<u8>)> {
    let deep = format!("{}/{}", "directory-name-".repeat(9), "n".repeat(90));
    let deeper = format!("{}/{}", ["0123456789".repeat(20), "ä".repeat(60)].join("/"), "file");
    let mut capable = file("bin/ping", b"#!");
    capable.0.mode = 0o4755;
    capable
        .0
        .xattrs
        .insert(b"security.capability".to_vec(), b"\x01\0\0\x02\n=\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec());
    capable.0.xattrs.insert(b"user.note".to_vec(), b"one\n12 path=x\n".to_vec());
    let mut large_ids = file("large-ids", b"");
    (large_ids.0.uid, large_ids.0.gid) = (3_000_000_000, 2_097_152);
    let mut fraction = file("fraction", b"");
    fraction.0.mtime_nanos = 250_000_000;
    let mut future = file("future", b"");
    future.0.mtime = 9_000_000_000;
    let mut past = file("past", b"");
    past.0.mtime = -1_000;
    vec![
        (entry("bin", EntryKind::Directory), vec![]),
        capable,
        (entry("bin/link", EntryKind::Hardlink { target: b"bin/ping".to_vec() }), vec![]),
        (entry("sh", EntryKind::Symlink { target: b"bin/busybox".to_vec() }), vec![]),
        (entry("long", EntryKind::Symlink { target: [b'x'; 300].to_vec() }), vec![]),
        (entry("pipe", EntryKind::Fifo), vec![]),
        (entry("null", EntryKind::CharDevice { major: 1, minor: 3 }), vec![]),
        (entry("disk", EntryKind::BlockDevice { major: 259, minor: 1_048_575 }), vec![]),
        file(&deep, b"split between prefix and name"),
        file(&deeper, b"extended"),
        (entry(&"d/".repeat(120)[..239], EntryKind::Directory), vec![]),
        large_ids,
        fraction,
        future,
        past,
        file("empty", b""),
        file("block", &[b'b'; 512]),
        file("sp ace\nnewline", b"odd"),
        (Entry::whiteout(&b"gone"[..]), vec![]),
        (Entry::opaque(&b"bin"[..]), vec![]),
    ]
}

/// What Python makes of a tar on standard input: one JSON object a member.
const LIST: &str = r#"
import sys, tarfile, json, hashlib, io
t = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()), errors="surrogateescape", encoding="utf-8")
for m in t:
    kind = {b"0": "file", b"5": "dir", b"1": "hard", b"2": "sym", b"3": "char", b"4": "block", b"6": "fifo"}[m.type]
    data = t.extractfile(m).read() if m.isreg() else b""
    b = lambda s: list(s.encode("utf-8", "surrogateescape"))
    x = {k[13:]: b(v) for k, v in m.pax_headers.items() if k.startswith("SCHILY.xattr.")}
    print(json.dumps([b(m.name), kind, m.mode, m.uid, m.gid, float(m.mtime), list(data), b(m.linkname), m.devmajor, m.devminor, x]))
"#;

fn describe(entry: &Entry, content: &[u8]) -> serde_json::Value {
    let mut name = entry.path.clone();
    let (mut link, mut device) = (vec![], (0, 0));
    let kind = match &entry.kind {
        EntryKind::File { .. } => "file",
        EntryKind::Directory => "dir",
        EntryKind::Hardlink { target } => {
            link = target.clone();
            "hard"
        }
        EntryKind::Symlink { target } => {
            link = target.clone();
            "sym"
        }
        EntryKind::CharDevice { major, minor } => {
            device = (*major, *minor);
            "char"
        }
        EntryKind::BlockDevice { major, minor } => {
            device = (*major, *minor);
            "block"
        }
        EntryKind::Fifo => "fifo",
        EntryKind::Whiteout => {
            name = [b".wh.", &name[..]].concat();
            "file"
        }
        EntryKind::Opaque => {
            name = [&name[..], b"/.wh..wh..opq"].concat();
            "file"
        }
    };
    let time = entry.mtime as f64 + f64::from(entry.mtime_nanos) / 1e9;
    let xattrs: serde_json::Map<_, _> = entry
        .xattrs
        .iter()
        .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), serde_json::json!(value)))
        .collect();
    serde_json::json!([
        name, kind, entry.mode, entry.uid, entry.gid, time, content, link, device.0, device.1, xattrs
    ])
}

fn listed_by_python(tar: &[u8]) -> Vec<serde_json::Value> {
    let listed = run("python3", &["-c", LIST], Path::new("/"), tar);
    listed.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

#[test]
fn python_reads_what_is_written() {
    let entries = gallery();
    let listed = listed_by_python(&write(&entries));
    assert_eq!(listed.len(), entries.len());
    for ((entry, content), listed) in entries.iter().zip(listed) {
        assert_eq!(listed, describe(entry, content), "{}", String::from_utf8_lossy(&entry.path));
    }
}

#[test]
fn gnu_tar_extracts_what_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = |path: &[u8]| !matches!(path, b"disk" | b"null" | b"gone" | b"bin/.wh..wh..opq");
    let entries: Vec<_> = gallery().into_iter().filter(|(entry, _)| wanted(&entry.path)).collect();
    let arguments = ["-x", "-p", "--xattrs", "--xattrs-include=user.*", "--numeric-owner", "--no-same-owner"];
    run("tar", &arguments, directory.path(), &write(&entries));
    for (entry, content) in &entries {
        let path = directory.path().join(std::ffi::OsStr::from_bytes(&entry.path));
        let found = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        match &entry.kind {
            EntryKind::File { .. } => assert_eq!(&fs::read(&path).unwrap(), content),
            EntryKind::Symlink { target } => {
                assert_eq!(&fs::read_link(&path).unwrap().into_os_string().into_vec(), target);
            }
            EntryKind::Directory => assert!(found.is_dir()),
            _ => {}
        }
    }
    let links = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(directory.path().join(name)).unwrap().ino()
    };
    assert_eq!(links("bin/link"), links("bin/ping"));
    let listing = run("tar", &["-tv", "--numeric-owner"], directory.path(), &write(&gallery()));
    let listing = String::from_utf8_lossy(&listing);
    for part in ["3000000000/2097152", "-rwsr-xr-x", "bin/link link to bin/ping", "259,1048575", "2255-"] {
        assert!(listing.contains(part), "{part} in {listing}");
    }
}

#[test]
fn archives_of_gnu_tar_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("t");
    let deep = format!("{}/{}", "directory-name-".repeat(9), "long".repeat(30));
    fs::create_dir_all(root.join(&deep)).unwrap();
    fs::write(root.join(&deep).join("f"), "deep").unwrap();
    fs::write(root.join("plain"), vec![b'p'; 1000]).unwrap();
    fs::hard_link(root.join("plain"), root.join("twin")).unwrap();
    std::os::unix::fs::symlink("y".repeat(200), root.join("link")).unwrap();
    fs::write(root.join("sch\u{f6}n"), "utf-8").unwrap();
    for format in ["gnu", "pax", "posix", "oldgnu"] {
        let arguments = ["-c", "--sort=name", &format!("--format={format}"), "-C", "t", "."];
        let tar = run("tar", &arguments, directory.path(), b"");
        let entries = read(&tar).unwrap_or_else(|error| panic!("{format}: {error}"));
        let find = |path: &str| {
            let found = entries.iter().find(|(entry, _)| entry.path == path.as_bytes());
            found.unwrap_or_else(|| panic!("{format}: no {path}"))
        };
        assert_eq!(find("").0.kind, EntryKind::Directory);
        assert_eq!(find(&format!("{deep}/f")).1, b"deep");
        assert_eq!(find("plain").1, vec![b'p'; 1000]);
        assert_eq!(find("twin").0.kind, EntryKind::Hardlink { target: b"plain".to_vec() });
        assert_eq!(find("link").0.kind, EntryKind::Symlink { target: vec![b'y'; 200] });
        assert_eq!(find("sch\u{f6}n").1, b"utf-8");
        assert_eq!(find("plain").0.mtime_nanos != 0, format == "pax" || format == "posix");
        // What was read can be written, and other programs see the same.
        let ours = listed_by_python(&write(&entries));
        let mut theirs = listed_by_python(&tar);
        for one in &mut theirs {
            let name: Vec<u8> = serde_json::from_value(one[0].clone()).unwrap();
            let name = if name == b"." { b"".to_vec() } else { name[2..].to_vec() };
            one[0] = serde_json::json!(name);
            if one[1] == "hard" {
                let link: Vec<u8> = serde_json::from_value(one[7].clone()).unwrap();
                one[7] = serde_json::json!(link[2..]);
            }
        }
        assert_eq!(ours.len(), theirs.len());
        for (ours, mut theirs) in ours.into_iter().zip(theirs) {
            if ours[0] == serde_json::json!(b".") {
                theirs[0] = ours[0].clone();
            }
            assert_eq!(ours, theirs, "{format}");
        }
    }
    let tar = run("tar", &["-c", "--format=ustar", "-C", "t", "plain", "twin"], directory.path(), b"");
    assert_eq!(read(&tar).unwrap()[0].1, vec![b'p'; 1000]);
    let tar = run("tar", &["-c", "--format=v7", "-C", "t", "plain"], directory.path(), b"");
    assert_eq!(read(&tar).unwrap()[0].1, vec![b'p'; 1000]);
}

#[test]
fn sparse_archives_come_out_whole() {
    use std::os::unix::fs::FileExt;
    let directory = tempfile::tempdir().unwrap();
    let sparse = fs::File::create(directory.path().join("s")).unwrap();
    for n in 0..60 {
        sparse.write_all_at(format!("region {n}").as_bytes(), n * 40_000 + 8192).unwrap();
    }
    sparse.set_len(3_000_000).unwrap();
    fs::File::create(directory.path().join("hole")).unwrap().set_len(1_000_000).unwrap();
    fs::write(directory.path().join("z"), "behind").unwrap();
    let expected = fs::read(directory.path().join("s")).unwrap();
    let formats: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for format in formats {
        let arguments = [&["-c", "-S"], format, &["s", "hole", "z"]].concat();
        let tar = run("tar", &arguments, directory.path(), b"");
        assert!(tar.len() < 1_000_000, "{format:?}: the archive is not sparse, so this tests nothing");
        let entries = read(&tar).unwrap_or_else(|error| panic!("{format:?}: {error}"));
        let names: Vec<_> = entries.iter().map(|(entry, _)| entry.path.as_slice()).collect();
        assert_eq!(names, [&b"s"[..], b"hole", b"z"], "{format:?}");
        assert_eq!(entries[0].0.kind, EntryKind::File { size: 3_000_000 });
        assert!(entries[0].1 == expected, "{format:?}");
        assert!(entries[1].1 == vec![0; 1_000_000], "{format:?}");
        assert_eq!(entries[2].1, b"behind");
        // Unread content is skipped as it is stored.
        let mut reader = LayerReader::new(&tar[..]);
        let mut names = vec![];
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(entry.path);
        }
        assert_eq!(names.len(), 3, "{format:?}");
    }
}

/// Attributes that GNU tar stores; skipped by name where the file system has none.
#[test]
fn extended_attributes_of_gnu_tar_are_read() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("f"), "x").unwrap();
    let value = "0x0a313220706174683d65760a003d";
    let set = Command::new("python3")
        .args(["-c", "import os,sys; os.setxattr(sys.argv[1], 'user.odd', bytes.fromhex(sys.argv[2][2:]))"])
        .args([directory.path().join("f").to_str().unwrap(), value])
        .status()
        .unwrap();
    assert!(set.success(), "the file system of the temporary directory has no user attributes");
    let tar = run("tar", &["-c", "--xattrs", "--format=pax", "f"], directory.path(), b"");
    let (entry, _) = read(&tar).unwrap().remove(0);
    assert_eq!(entry.xattrs[&b"user.odd"[..]], b"\n12 path=ev\n\0=");
}

#[test]
fn archives_of_python_are_read() {
    let script = r#"
import tarfile, sys, io
t = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=getattr(tarfile, sys.argv[1]))
def add(name, type=tarfile.REGTYPE, data=b"", **more):
    i = tarfile.TarInfo(name)
    i.type, i.size = type, len(data)
    for k, v in more.items(): setattr(i, k, v)
    t.addfile(i, io.BytesIO(data))
add("a" * 150 + "/" + "b" * 90, data=b"one", mtime=1)
add("d", tarfile.DIRTYPE, mode=0o1777)
add("l", tarfile.SYMTYPE, linkname="t" * 140 if sys.argv[1] != "USTAR_FORMAT" else "t")
add("big", data=b"two", uid=2097152 if sys.argv[1] != "USTAR_FORMAT" else 5, mtime=-5 if sys.argv[1] != "USTAR_FORMAT" else 5)
t.close()
"#;
    for format in ["PAX_FORMAT", "GNU_FORMAT", "USTAR_FORMAT"] {
        let tar = run("python3", &["-c", script, format], Path::new("/"), b"");
        let entries = read(&tar).unwrap_or_else(|error| panic!("{format}: {error}"));
        assert_eq!(entries[0].0.path, [[b'a'; 150].as_slice(), b"/", &[b'b'; 90]].concat());
        assert_eq!(entries[0].1, b"one");
        assert_eq!((entries[1].0.kind.clone(), entries[1].0.mode), (EntryKind::Directory, 0o1777));
        let large = format != "USTAR_FORMAT";
        assert_eq!(entries[3].0.uid, if large { 2_097_152 } else { 5 });
        assert_eq!(entries[3].0.mtime, if large { -5 } else { 5 });
        let target = vec![b't'; if large { 140 } else { 1 }];
        assert_eq!(entries[2].0.kind, EntryKind::Symlink { target });
    }
}

/// A change here changes the digest of every layer that is built: it needs a reason, and a line in the change log.
#[test]
fn golden_digest() {
    assert_eq!(
        hash::Digest::of(&write(&gallery())).to_string(),
        "sha256:394ad6fb2bd030237b31b905e8c7e6de84708f1929f9ec871ed9c76725b031f0"
    );
}
