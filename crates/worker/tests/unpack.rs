//! Archives thrown at the unpacker for as long as `FUZZ_SECONDS` says (2 without it), from a seed that `FUZZ_SEED` can repeat: nothing is
//! written outside of the directory, and nothing panics.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

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

#[test]
fn unpacking_stays_inside_for_a_while() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(2));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("FUZZ_SEED").unwrap_or(now.as_nanos() as u64) | 1;
    println!("FUZZ_SEED={seed}");
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "untouched").unwrap();
    fs::create_dir(outside.join("d")).unwrap();
    let before = state(&outside);
    let absolute = outside.display().to_string();
    let secret = format!("{absolute}/secret");
    let names = [
        "a", "b", "a/b", "a/b/c", "b/a", "l", "l/x", "l/secret", "a/l/d", "./a/", "/a", "a//b", "l/d", "c",
        "c/secret", ".",
    ];
    let links = [
        "a",
        "b",
        "..",
        "../outside",
        "../../outside",
        "/",
        ".",
        "l",
        "a/b",
        "c",
        &absolute,
        &secret,
        "/proc/self/root",
        "l/secret",
    ];
    let (start, mut count, mut good) = (Instant::now(), 0, 0);
    while start.elapsed() < time {
        let mut tar = Vec::new();
        for _ in 0..dice.below(9) {
            let (name, link) = (dice.pick(&names), dice.pick(&links));
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
        let inside = dir.path().join("inside");
        fs::create_dir(&inside).unwrap();
        if dice.below(3) == 0 {
            // A directory that is not empty is not asked for, but must not lead out either.
            symlink(&outside, inside.join("c")).unwrap();
        }
        good += u32::from(worker::unpack_archive(&tar[..], &inside, &|| false).is_ok());
        assert_eq!(state(&outside), before, "round {count}: it got out");
        fs::remove_dir_all(&inside).unwrap();
        count += 1;
    }
    println!("{count} archives, {good} of them unpacked");
    assert!(good > 0);
}
