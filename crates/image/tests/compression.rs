//! Compressed layers, read by other programs; and streams that nobody vouches for.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;

use image::{Compression, Compressor, decompress};
use proptest::prelude::*;

proptest! {
    #[test]
    fn hostile_streams_never_panic(
        how in prop_oneof![Just(Compression::Gzip), Just(Compression::Zstd)],
        content in prop::collection::vec(0..4u8, 0..2000),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        tail in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut compressor = Compressor::new(Vec::new(), how, None).unwrap();
        compressor.write_all(&content).unwrap();
        let mut packed = compressor.finish().unwrap();
        for (place, byte) in damage {
            let place = place.index(packed.len());
            packed[place] = byte;
        }
        packed.extend(tail);
        if let Ok(reader) = decompress(&packed[..]) {
            let _ = reader.take(1 << 20).read_to_end(&mut Vec::new());
        }
    }
}

#[test]
fn gzip_and_python_read_the_parallel_stream() {
    let bytes: Vec<u8> =
        (0..5_000_000u32).map(|n| (n / 7).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layer.gz");
    let mut compressor = Compressor::new(fs::File::create(&path).unwrap(), Compression::Gzip, None).unwrap();
    compressor.write_all(&bytes).unwrap();
    compressor.finish().unwrap();
    assert!(fs::metadata(&path).unwrap().len() < bytes.len() as u64 * 9 / 10);

    let gzip = Command::new("gzip").arg("-dc").arg(&path).output().unwrap();
    assert!(gzip.status.success(), "{}", String::from_utf8_lossy(&gzip.stderr));
    assert!(gzip.stdout == bytes);

    // zlib itself, as one member only: nothing may be left over.
    let script = "import sys, zlib\nd = zlib.decompressobj(31)\n\
                  out = d.decompress(open(sys.argv[1], 'rb').read())\n\
                  assert d.eof and not d.unused_data\nsys.stdout.buffer.write(out)";
    let python = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    assert!(python.stdout == bytes);
}
