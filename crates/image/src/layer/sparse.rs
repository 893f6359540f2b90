//! Sparse files as GNU tar stores them: the regions that have data, one after the other, without the holes.

use std::io::{self, Read};

use super::pax::decimal;

/// How many regions a file may have: what one of the largest real files needs, times many.
const MAX_REGIONS: usize = 1 << 18;

/// Offsets and lengths in bytes.
pub(super) type Regions = Vec<(u64, u64)>;

/// The regions of a file that have data.
#[derive(Debug, Default)]
pub(super) struct Map {
    /// In order.
    regions: Regions,
    /// Size of the whole file in bytes.
    size: u64,
}

impl Map {
    /// A map, `None` unless the regions are in order, within `size`, and make up `stored` bytes.
    pub(super) fn new(regions: Regions, size: u64, stored: u64) -> Option<Map> {
        let (mut end, mut sum) = (0u64, 0u64);
        for (offset, length) in &regions {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
            sum = sum.checked_add(*length)?;
        }
        let valid = end <= size && sum == stored && regions.len() <= MAX_REGIONS && size <= i64::MAX as u64;
        valid.then_some(Map { regions, size })
    }

    /// The regions of format 0.1, and of 0.0 with its records joined: `offset,length,offset,length`.
    pub(super) fn parse_list(text: &[u8]) -> Option<Regions> {
        if text.is_empty() {
            return Some(Vec::new());
        }
        let numbers: Vec<u64> = text.split(|b| *b == b',').map(decimal).collect::<Option<_>>()?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        rest.is_empty().then(|| pairs.iter().map(|[offset, length]| (*offset, *length)).collect())
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// Reads the regions of format 1.0, which stand in front of the data: their number, then offsets and lengths, a line each,
/// padded to whole blocks. `next_block` yields them; `None` when malformed.
pub(super) fn read_map_1_0(
    mut next_block: impl FnMut() -> io::Result<[u8; 512]>,
) -> io::Result<Option<Regions>> {
    let mut line = Vec::new();
    let mut numbers: Vec<u64> = Vec::new();
    let mut expected = None;
    loop {
        for byte in next_block()? {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > 20 {
                    return Ok(None);
                }
                continue;
            }
            let Some(number) = decimal(&line) else { return Ok(None) };
            line.clear();
            match expected {
                None if number > MAX_REGIONS as u64 => return Ok(None),
                None => expected = Some(number as usize * 2),
                Some(_) => numbers.push(number),
            }
            if expected == Some(numbers.len()) {
                let (pairs, _) = numbers.as_chunks::<2>();
                return Ok(Some(pairs.iter().map(|[offset, length]| (*offset, *length)).collect()));
            }
        }
    }
}

/// Where a reader stands in a sparse file.
#[derive(Debug)]
pub(super) struct Position {
    map: Map,
    region: usize,
    offset: u64,
}

impl Position {
    pub(super) fn new(map: Map) -> Position {
        Position { map, region: 0, offset: 0 }
    }

    /// Fills `buffer` with holes' zeros or with data from `stored`; 0 at the end of the file.
    pub(super) fn read(&mut self, stored: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        while self.map.regions.get(self.region).is_some_and(|(start, length)| start + length <= self.offset) {
            self.region += 1;
        }
        let clamp = |length: u64| buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let read = match self.map.regions.get(self.region) {
            Some((start, length)) if *start <= self.offset => {
                let wanted = clamp(start + length - self.offset);
                let read = stored.read(&mut buffer[..wanted])?;
                if read == 0 && wanted > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                read
            }
            next => {
                let hole_end = next.map_or(self.map.size, |(start, _)| *start);
                let zeros = clamp(hole_end - self.offset);
                buffer[..zeros].fill(0);
                zeros
            }
        };
        self.offset += read as u64;
        Ok(read)
    }
}
