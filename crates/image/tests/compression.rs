//! Compressed layers, read by other programs; and streams that nobody vouches for.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use image::layer::{Entry, EntryKind};
use image::{Compression, Compressor, ContentStore, LayerPacker, MemoryStore, PackOptions, decompress};
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
    assert!(Command::new("gzip").arg("-t").arg(&path).status().unwrap().success());

    // Python's own reader of members, around zlib itself.
    let script = "import gzip, shutil, sys\nshutil.copyfileobj(gzip.open(sys.argv[1]), sys.stdout.buffer)";
    let python = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    assert!(python.stdout == bytes);
}

/// The files of a folder as entries of a layer, in order.
fn files_below(root: &Path) -> Vec<(Entry, Vec<u8>)> {
    let (mut waiting, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let content = fs::read(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let kind = EntryKind::File { size: content.len() as u64 };
            files.push((Entry { kind, mode: 0o644, ..Entry::whiteout(name) }, content));
        }
    }
    files.sort_by(|(one, _), (other, _)| one.path.cmp(&other.path));
    files
}

/// Pieces that begin where paths say so, each compressed by itself, are hardly larger than one stream: of sources and of a program.
#[test]
fn pieces_cost_less_than_a_hundredth() {
    let sources = files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let program = fs::read(std::env::current_exe().unwrap()).unwrap();
    let program = program[..program.len().min(12 << 20)].to_vec();
    let kind = EntryKind::File { size: program.len() as u64 };
    let program = vec![(Entry { kind, mode: 0o755, ..Entry::whiteout("program") }, program)];
    for (name, files) in [("sources", sources), ("a program", program)] {
        for (compression, level) in
            [(Compression::Zstd, 3)].into_iter().chain((1..=9).map(|n| (Compression::Gzip, n)))
        {
            let store = MemoryStore::default();
            let options = PackOptions { compression, level: Some(level), epoch: Some(0) };
            let mut packer = LayerPacker::new(&store, options).unwrap();
            for (entry, content) in &files {
                packer.append(entry, &mut &content[..]).unwrap();
            }
            let layer = packer.finish().unwrap();
            let blob =
                (&store as &dyn ContentStore).read(&layer.descriptor.digest, 1 << 30).unwrap().unwrap();
            let mut tar = Vec::new();
            decompress(&blob[..]).unwrap().read_to_end(&mut tar).unwrap();
            let one = match compression {
                Compression::Zstd => zstd::encode_all(&tar[..], level as i32).unwrap(),
                _ => {
                    let mut one = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
                    one.write_all(&tar).unwrap();
                    one.finish().unwrap()
                }
            };
            let more = (blob.len() as f64 / one.len() as f64 - 1.0) * 100.0;
            println!(
                "{name}, {compression:?} {level}: {} bytes, one stream {} ({more:+.2} %)",
                blob.len(),
                one.len()
            );
            assert!(more <= 1.0, "{name}, {compression:?} {level}: {more:+.2} %");
        }
    }
}
