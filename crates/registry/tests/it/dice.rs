//! What is thrown at those who read answers from elsewhere. The tests of other crates have this file as well.

use std::time::{Duration, SystemTime};

/// Numbers from a seed (xorshift64*): what a run throws can be thrown again.
pub(crate) struct Dice(u64);

/// For how long: `FUZZ_SECONDS`, 2 without it.
pub(crate) fn seconds() -> Duration {
    Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(2))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Dice {
    /// From the seed that `FUZZ_SEED` says, else from a new one, which is printed.
    pub(crate) fn for_a_while() -> Dice {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let seed = number("FUZZ_SEED").unwrap_or(now.as_nanos() as u64) | 1;
        println!("FUZZ_SEED={seed}");
        Dice(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub(crate) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// Words strung together.
    pub(crate) fn text(&mut self, words: &[&str]) -> String {
        (0..self.below(9)).map(|_| self.pick(words)).collect()
    }

    /// Bytes changed, left out, doubled, replaced by words.
    pub(crate) fn damaged(&mut self, mut bytes: Vec<u8>, words: &[&str]) -> Vec<u8> {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(12)).min(bytes.len());
            let with = match self.below(4) {
                0 => Vec::new(),
                1 => vec![self.next() as u8],
                2 => bytes[at..end].repeat(2),
                _ => self.pick(words).as_bytes().to_vec(),
            };
            bytes.splice(at..end, with);
        }
        bytes
    }
}
