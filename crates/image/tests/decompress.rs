//! Archives as other programs write them.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use image::{StreamCompression, compression_of, decompress};
use proptest::prelude::*;

const PROGRAMS: [(&str, StreamCompression); 4] = [
    ("gzip", StreamCompression::Gzip),
    ("bzip2", StreamCompression::Bzip2),
    ("xz", StreamCompression::Xz),
    ("zstd", StreamCompression::Zstd),
];

fn packed(program: &str, options: &[&str], content: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(options)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let content = content.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&content).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn unpacked(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decompress(bytes)?.read_to_end(&mut out)?;
    Ok(out)
}

fn sample(length: u32) -> Vec<u8> {
    (0..length).flat_map(|n| (n / 3).wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

#[test]
fn what_other_programs_pack_comes_back() {
    for (program, kind) in PROGRAMS {
        for content in [Vec::new(), b"x".to_vec(), sample(300_000)] {
            let bytes = packed(program, &[], &content);
            assert_eq!(compression_of(&bytes), kind, "{program}");
            assert_eq!(compression_of(&bytes[..bytes.len().min(10)]), kind, "{program}");
            assert!(unpacked(&bytes).unwrap() == content, "{program}, {} bytes", content.len());
        }
    }
}

#[test]
fn several_streams_are_one() {
    for (program, _) in PROGRAMS {
        let (first, second) = (sample(50_000), sample(7));
        let bytes = [packed(program, &[], &first), packed(program, &[], &second)].concat();
        assert!(unpacked(&bytes).unwrap() == [first, second].concat(), "{program}");
    }
}

#[test]
fn a_stream_that_was_cut_off_is_an_error() {
    for (program, _) in PROGRAMS {
        let whole = packed(program, &[], &sample(20_000));
        // From where it is known for what it is.
        for length in (START..whole.len()).step_by(whole.len() / 60).chain([whole.len() - 1]) {
            assert!(unpacked(&whole[..length]).is_err(), "{program}: {length} of {}", whole.len());
        }
    }
}

const START: usize = 10;

#[test]
fn a_changed_byte_is_an_error() {
    for (program, _) in PROGRAMS {
        let whole = packed(program, &[], &sample(20_000));
        let mut broken = whole.clone();
        let middle = whole.len() / 2;
        broken[middle] ^= 0x10;
        // zstd's program adds a checksum of the content, the others have one in their formats.
        assert!(unpacked(&broken).is_err(), "{program}");
    }
}

#[test]
fn a_stream_that_asks_for_too_much_memory_is_an_error() {
    let bytes = packed("xz", &["--lzma2=dict=512MiB"], b"small");
    let error = unpacked(&bytes).unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
    assert!(unpacked(&packed("xz", &["-9e"], b"small")).unwrap() == b"small");
}

#[test]
fn a_file_that_is_only_called_so_is_no_archive() {
    for text in [&b"BZh9 is how it begins"[..], b"BZh", b"\x1f\x8b", b"", b"\xfd7zXZ"] {
        assert_eq!(compression_of(text), StreamCompression::None);
        assert_eq!(unpacked(text).unwrap(), text);
    }
}

proptest! {
    #[test]
    fn hostile_streams_never_panic(
        which in 0..PROGRAMS.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        tail in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        static WHOLE: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(|| {
            PROGRAMS.iter().map(|(program, _)| packed(program, &[], &sample(500))).collect()
        });
        let mut bytes = WHOLE[which].clone();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.extend(tail);
        if let Ok(reader) = decompress(&bytes[..]) {
            let _ = reader.take(1 << 20).read_to_end(&mut Vec::new());
        }
    }
}
