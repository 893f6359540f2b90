//! Compressed layers, read by other programs; and streams that nobody vouches for.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
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

/// How much of each kind of data is packed, in bytes: several pieces of the largest size that there is.
const AMOUNT: usize = 36 << 20;

/// The sources of the crates that `Cargo.lock` names, as entries of a layer: many small files, as in most layers. They are the same on every machine.
fn sources() -> Vec<(Entry, Vec<u8>)> {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock")).unwrap();
    let value = |line: &str, key: &str| line.strip_prefix(key)?.strip_suffix('"').map(str::to_owned);
    let names: Vec<_> = lock.lines().filter_map(|line| value(line, "name = \"")).collect();
    let versions: Vec<_> = lock.lines().filter_map(|line| value(line, "version = \"")).collect();
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"));
    let registries: Vec<PathBuf> =
        fs::read_dir(home.join("registry/src")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (mut files, mut size) = (Vec::new(), 0);
    for (name, version) in names.iter().zip(&versions) {
        let folder =
            registries.iter().map(|root| root.join(format!("{name}-{version}"))).find(|at| at.is_dir());
        let Some(folder) = folder else { continue };
        let mut of_crate = files_below(&folder, name);
        of_crate.retain(|(_, content)| {
            size += content.len();
            size < AMOUNT
        });
        files.extend(of_crate);
    }
    files
}

/// A large program.
fn program() -> Vec<(Entry, Vec<u8>)> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let library = Path::new(String::from_utf8_lossy(&sysroot.stdout).trim()).join("lib");
    let driver = fs::read_dir(library).unwrap().map(|entry| entry.unwrap().path());
    let driver = driver.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut content = fs::read(driver).unwrap();
    content.truncate(AMOUNT);
    let kind = EntryKind::File { size: content.len() as u64 };
    vec![(Entry { kind, mode: 0o755, ..Entry::whiteout("program") }, content)]
}

/// The files of a folder as entries of a layer, in order.
fn files_below(root: &Path, prefix: &str) -> Vec<(Entry, Vec<u8>)> {
    let (mut waiting, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
                continue;
            }
            let content = fs::read(&path).unwrap();
            let name = format!("{prefix}/{}", path.strip_prefix(root).unwrap().display());
            let kind = EntryKind::File { size: content.len() as u64 };
            files.push((Entry { kind, mode: 0o644, ..Entry::whiteout(name) }, content));
        }
    }
    files.sort_by(|(one, _), (other, _)| one.path.cmp(&other.path));
    files
}

/// The size of a layer, and how much more that is than one stream has, in hundredths.
fn compared(files: &[(Entry, Vec<u8>)], compression: Compression, level: u32) -> (usize, f64) {
    let store = MemoryStore::default();
    let options = PackOptions { compression, level: Some(level), epoch: Some(0) };
    let mut packer = LayerPacker::new(&store, options).unwrap();
    for (entry, content) in files {
        packer.append(entry, &mut &content[..]).unwrap();
    }
    let layer = packer.finish().unwrap();
    let blob = (&store as &dyn ContentStore).read(&layer.descriptor.digest, 1 << 30).unwrap().unwrap();
    let mut tar = Vec::new();
    decompress(&blob[..]).unwrap().read_to_end(&mut tar).unwrap();
    assert!(tar.len() > 30 << 20, "{}", tar.len());
    let one = match compression {
        Compression::Zstd => zstd::encode_all(&tar[..], level as i32).unwrap(),
        _ => {
            let mut one = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
            one.write_all(&tar).unwrap();
            one.finish().unwrap()
        }
    };
    (blob.len(), (blob.len() as f64 / one.len() as f64 - 1.0) * 100.0)
}

/// Pieces that begin where paths say so, each compressed by itself, are hardly larger than one stream: of sources and of a program. The levels
/// between those here (`PACKED_LEVELS=all`) take minutes.
#[test]
fn pieces_cost_less_than_a_hundredth() {
    let all = std::env::var_os("PACKED_LEVELS").is_some();
    let zstd: Vec<u32> = if all { (1..=22).collect() } else { vec![1, 3, 7] };
    let gzip: Vec<u32> = if all { (1..=9).collect() } else { vec![1, 6] };
    let levels = zstd.into_iter().map(|level| (Compression::Zstd, level));
    let levels: Vec<_> = levels.chain(gzip.into_iter().map(|level| (Compression::Gzip, level))).collect();
    let mut wrong = Vec::new();
    for (name, files) in [("sources", sources()), ("a program", program())] {
        for (compression, level) in &levels {
            let (size, more) = compared(&files, *compression, *level);
            let line = format!("{name}, {compression:?} {level}: {size} bytes, {more:+.2} %");
            println!("{line}");
            wrong.extend((more > 1.0).then_some(line));
        }
    }
    assert!(wrong.is_empty(), "more than a hundredth:\n{}", wrong.join("\n"));
}
