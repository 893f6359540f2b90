//! Archives and images thrown at the unpackers for as long as `FUZZ_SECONDS` says (2 without it), from a seed that `FUZZ_SEED` can repeat:
//! nothing is written outside of the directory, nothing outside of it is read, and nothing panics.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use cache::{Store, StoreOptions};
use files::{FileTree, Kind};
use graph::{Event, ProgressSink};
use hash::{Digest, SystemClock};
use image::{
    BlobSource, ContentStore, Descriptor, ImageConfig, Layer, MediaType, Platform, ResolveError,
    ResolvedImage, TransferProgress,
};
use tempfile::TempDir;
use worker::{Cancel, LocalWorker, WorkerError};

/// Numbers from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// A header as it may come from anybody.
fn header(name: &str, flag: u8, size: usize, link: &str, mode: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..100 + mode.len()].copy_from_slice(mode.as_bytes());
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..345].copy_from_slice(b"0000001\x000000003\0");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// What is outside: names, contents, modes, times of change.
fn state(outside: &Path) -> Vec<(String, Vec<u8>, u32, i64, i64)> {
    let mut found: Vec<_> = fs::read_dir(outside)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let stat = fs::metadata(&path).unwrap();
            let content = if stat.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            (path.display().to_string(), content, stat.mode(), stat.ctime(), stat.ctime_nsec())
        })
        .collect();
    found.sort();
    found
}

/// So many at least, also where the machine is busy: without a good one among them nothing is tested.
const LEAST: u32 = 30;

/// How long, and from which seed.
fn time_and_dice() -> (Duration, Dice) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(2));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("FUZZ_SEED").unwrap_or(now.as_nanos() as u64) | 1;
    println!("FUZZ_SEED={seed}");
    (time, Dice(seed))
}

/// A directory to unpack in, beside something that is not to be touched.
struct Surroundings {
    dir: TempDir,
    outside: PathBuf,
    before: Vec<(String, Vec<u8>, u32, i64, i64)>,
    /// Where links may lead.
    links: Vec<String>,
}

impl Surroundings {
    fn new() -> Surroundings {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "untouched").unwrap();
        fs::create_dir(outside.join("d")).unwrap();
        let absolute = [outside.display().to_string(), format!("{}/secret", outside.display())];
        let links = LINKS.map(str::to_owned).into_iter().chain(absolute).collect();
        Surroundings { before: state(&outside), dir, outside, links }
    }

    fn archive(&self, dice: &mut Dice, names: &[&str]) -> Vec<u8> {
        archive(dice, names, &self.links.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn check(&self, round: u32) {
        assert_eq!(state(&self.outside), self.before, "round {round}: it got out");
    }
}

const NAMES: [&str; 16] = [
    "a", "b", "a/b", "a/b/c", "b/a", "l", "l/x", "l/secret", "a/l/d", "./a/", "/a", "a//b", "l/d", "c",
    "c/secret", ".",
];
/// Of layers alone.
const REMOVALS: [&str; 6] = [".wh.a", ".wh.l", "a/.wh.b", "a/.wh..wh..opq", "l/.wh..wh..opq", ".wh..wh..opq"];
const LINKS: [&str; 12] =
    ["a", "b", "..", "../outside", "../../outside", "/", ".", "l", "a/b", "c", "/proc/self/root", "l/secret"];

/// Some entries, one after the other.
fn archive(dice: &mut Dice, names: &[&str], links: &[&str]) -> Vec<u8> {
    let mut tar = Vec::new();
    for _ in 0..dice.below(9) {
        let (name, link) = (dice.pick(names), dice.pick(links));
        let mode = dice.pick(&["0000644", "0000755", "0000000", "0006777"]);
        match dice.below(8) {
            0 | 1 => tar.extend(header(name, b'2', 0, link, mode)),
            2 => tar.extend(header(name, b'1', 0, link, mode)),
            3 | 4 => tar.extend(header(name, b'5', 0, "", mode)),
            5 => tar.extend(header(name, b'6', 0, "", mode)),
            _ => {
                tar.extend(header(name, b'0', 5, "", mode));
                let mut content = b"wrong".to_vec();
                content.resize(512, 0);
                tar.extend(content);
            }
        }
    }
    tar.extend([0; 1024]);
    tar
}

#[test]
fn unpacking_stays_inside_for_a_while() {
    let (time, mut dice) = time_and_dice();
    let around = Surroundings::new();
    let (start, mut count, mut good) = (Instant::now(), 0, 0);
    while start.elapsed() < time || count < LEAST {
        let tar = around.archive(&mut dice, &NAMES);
        let inside = around.dir.path().join("inside");
        fs::create_dir(&inside).unwrap();
        if dice.below(3) == 0 {
            // A directory that is not empty is not asked for, but must not lead out either.
            symlink(&around.outside, inside.join("c")).unwrap();
        }
        good += u32::from(worker::unpack_archive(&tar[..], &inside, &|| false).is_ok());
        around.check(count);
        fs::remove_dir_all(&inside).unwrap();
        count += 1;
    }
    println!("{count} archives, {good} of them unpacked");
    assert!(good > 0);
}

struct Silent;

impl ProgressSink for Silent {
    fn event(&self, _: Event) {}
}

/// All blobs are in the store.
struct Nowhere;

#[async_trait]
impl BlobSource for Nowhere {
    async fn fetch(
        &self,
        _: &Descriptor,
        _: &dyn ContentStore,
        _: &dyn TransferProgress,
    ) -> Result<(), ResolveError> {
        Ok(())
    }
}

fn image(store: &Store, tars: &[Vec<u8>]) -> ResolvedImage {
    let blobs: &dyn ContentStore = store.blobs();
    let layer = |tar: &Vec<u8>| {
        blobs.put(tar).unwrap();
        let digest = Digest::of(tar);
        Layer { descriptor: Descriptor::new(MediaType::LAYER, digest, tar.len() as u64), diff_id: digest }
    };
    let digest = Digest::of(b"not looked at");
    ResolvedImage {
        name: "fuzz".to_owned(),
        manifest_digest: digest,
        manifest: Descriptor::new(MediaType::MANIFEST, digest, 0),
        config: ImageConfig::default(),
        config_digest: digest,
        platform: Platform::host(),
        layers: tars.iter().map(layer).collect(),
        index: None,
        documents: None,
        blobs: Arc::new(Nowhere),
    }
}

/// No file of a tree has other content than files that were put there.
fn look_around(tree: &dyn FileTree, directory: &Path) {
    for (name, metadata) in tree.list(directory).unwrap() {
        let path = directory.join(name);
        match metadata.kind {
            Kind::Directory => look_around(tree, &path),
            Kind::File => {
                let mut content = String::new();
                tree.open(&path).unwrap().read_to_string(&mut content).unwrap();
                assert_eq!(content, "wrong", "{}", path.display());
            }
            _ => {}
        }
    }
}

/// Layers on top of each other, with links and hard links to what is below.
#[test]
fn layers_stay_inside_for_a_while() {
    let (time, mut dice) = time_and_dice();
    let around = Surroundings::new();
    let names = [&NAMES[..], &REMOVALS].concat();
    let home = around.dir.path().join("state");
    let store = Store::open(&home, StoreOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (start, mut count, mut good) = (Instant::now(), 0, 0);
    while start.elapsed() < time || count < LEAST {
        let tars: Vec<Vec<u8>> = (0..=dice.below(3)).map(|_| around.archive(&mut dice, &names)).collect();
        let image = Arc::new(image(&store, &tars));
        let cancel = Cancel::new();
        let files = LocalWorker::image_files(&store, image, Arc::new(Silent), Arc::new(SystemClock), &cancel);
        match runtime.block_on(files) {
            Ok(tree) => {
                look_around(&tree, Path::new(""));
                good += 1;
            }
            Err(error) => assert!(!matches!(error, WorkerError::Internal(_)), "round {count}: {error}"),
        }
        around.check(count);
        count += 1;
    }
    println!("{count} images, {good} of them unpacked");
    assert!(good > 0);
}
