//! The 512-byte header block of an entry: its fields as they are found in V7, ustar, star and GNU archives.

use tar::Header;

use super::sparse::Regions;

/// The size of a block in bytes: everything in a tar is padded to it.
pub(super) const BLOCK: usize = 512;

/// A header block, its checksum verified.
pub(super) struct Block(Header);

impl Block {
    /// `None` when the checksum is wrong.
    pub(super) fn parse(bytes: &[u8; BLOCK]) -> Option<Block> {
        let header = Header::from_byte_slice(bytes);
        let stored = number(&header.as_old().cksum)?;
        // Some old writers summed signed bytes.
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (position, byte) in bytes.iter().enumerate() {
            let byte = if (148..156).contains(&position) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        (stored == unsigned || stored == signed).then(|| Block(header.clone()))
    }

    /// The type flag.
    pub(super) fn flag(&self) -> u8 {
        self.0.as_old().linkflag[0]
    }

    /// The path as it stands.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0.as_old().name);
        let bytes = self.0.as_bytes();
        // GNU headers ("ustar  ") keep other things where POSIX has the prefix; star shortens it.
        let prefix = match &bytes[257..263] {
            b"ustar\0" if &bytes[508..] == b"tar\0" => text(&bytes[345..476]),
            b"ustar\0" => text(&bytes[345..500]),
            _ => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// The target of a link.
    pub(super) fn link_name(&self) -> Vec<u8> {
        text(&self.0.as_old().linkname).to_vec()
    }

    /// Mode, owner, group, size and time.
    pub(super) fn mode(&self) -> Option<i64> {
        number(&self.0.as_old().mode)
    }

    pub(super) fn uid(&self) -> Option<i64> {
        number(&self.0.as_old().uid)
    }

    pub(super) fn gid(&self) -> Option<i64> {
        number(&self.0.as_old().gid)
    }

    pub(super) fn size(&self) -> Option<i64> {
        number(&self.0.as_old().size)
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        number(&self.0.as_old().mtime)
    }

    /// Major and minor number; zeros in V7 headers, which have none.
    pub(super) fn device(&self) -> Option<(i64, i64)> {
        match (self.0.as_ustar(), self.0.as_gnu()) {
            (Some(header), _) => Some((number(&header.dev_major)?, number(&header.dev_minor)?)),
            (_, Some(header)) => Some((number(&header.dev_major)?, number(&header.dev_minor)?)),
            _ => Some((0, 0)),
        }
    }

    /// What GNU's old sparse headers hold: the stored regions so far, whether more follow, and the whole size.
    pub(super) fn old_sparse(&self) -> Option<(Regions, bool, u64)> {
        let bytes = self.0.as_bytes();
        self.0.as_gnu()?;
        let regions = old_regions(&bytes[386..482])?;
        Some((regions, bytes[482] != 0, u64::try_from(number(&bytes[483..495])?).ok()?))
    }
}

/// The regions of a block that continues an old GNU sparse header, and whether another follows.
pub(super) fn old_sparse_extension(bytes: &[u8; BLOCK]) -> Option<(Regions, bool)> {
    Some((old_regions(&bytes[..504])?, bytes[504] != 0))
}

/// Pairs of offset and length, 12 bytes each; an empty pair ends them.
fn old_regions(bytes: &[u8]) -> Option<Regions> {
    let mut regions = Vec::new();
    for pair in bytes.chunks_exact(24).take_while(|pair| pair[0] != 0) {
        let offset = u64::try_from(number(&pair[..12])?).ok()?;
        regions.push((offset, u64::try_from(number(&pair[12..])?).ok()?));
    }
    Some(regions)
}

/// A text field: up to the first NUL, or all of it.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number field: octal digits, or two's complement with the top bit set (base 256, GNU and star). Empty is zero.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let fill = if negative { 0xff } else { 0 };
        let mut value = 0u64;
        for (position, byte) in field.iter().enumerate() {
            let byte = byte ^ fill;
            let byte = if position == 0 { byte & 0x7f } else { byte };
            if value >> 55 != 0 {
                return None;
            }
            value = value << 8 | u64::from(byte);
        }
        let value = i64::try_from(value).ok()?;
        return Some(if negative { !value } else { value });
    }
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(blank) {
        return None;
    }
    let mut value = 0i64;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777"), Some(0o77777777));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\0"), Some(256));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Some(i64::MAX));
        assert_eq!(number(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), None);
        assert_eq!(number(b"\x80\x01\0\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(number(b"64 4\0\0\0\0"), None);
        assert_eq!(number(b"-000644\0"), None);
        assert_eq!(number(b"0000648\0"), None);
    }
}
