//! Tar archives as an attacker writes them: byte by byte, without a library that would refuse.

/// A header block of POSIX ustar with the right checksum.
///
/// # Panics
/// When the name or the link is too long for its field.
pub fn header(name: &[u8], flag: u8, size: u64, link: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(block)
}

/// A header with some bytes changed.
pub fn changed(block: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut block = block.to_vec();
    block[at..at + bytes.len()].copy_from_slice(bytes);
    seal(block)
}

fn seal(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Content, filled up to whole blocks.
pub fn padded(content: &[u8]) -> Vec<u8> {
    let mut block = content.to_vec();
    block.resize(content.len().next_multiple_of(512), 0);
    block
}

/// A regular file.
pub fn file(name: &str, content: &[u8]) -> Vec<u8> {
    [header(name.as_bytes(), b'0', content.len() as u64, b""), padded(content)].concat()
}

/// A directory.
pub fn directory(name: &str) -> Vec<u8> {
    changed(&header(name.as_bytes(), b'5', 0, b""), 100, b"0000755\0")
}

/// A symbolic link.
pub fn symlink(name: &str, target: &str) -> Vec<u8> {
    header(name.as_bytes(), b'2', 0, target.as_bytes())
}

/// A hard link.
pub fn hard_link(name: &str, target: &str) -> Vec<u8> {
    header(name.as_bytes(), b'1', 0, target.as_bytes())
}

/// A record of an extended header: its length counts itself.
///
/// # Panics
/// Never: some number of digits fits.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let length = (1..)
        .map(|digits| rest.len() + digits)
        .find(|n| n.to_string().len() + rest.len() == *n)
        .expect("one fits");
    [length.to_string().as_bytes(), &rest].concat()
}

/// A header in front of another: `x` and `g` hold records (POSIX), `L` and `K` a long name (GNU).
pub fn extended(flag: u8, content: &[u8]) -> Vec<u8> {
    [header(b"x", flag, content.len() as u64, b""), padded(content)].concat()
}

/// A file for which records say something.
pub fn file_with(records: &[(&str, &[u8])], content: &[u8]) -> Vec<u8> {
    let records = records.iter().map(|(key, value)| record(key, value)).collect::<Vec<_>>().concat();
    [extended(b'x', &records), file("named", content)].concat()
}

/// The end of an archive.
pub fn end() -> Vec<u8> {
    vec![0; 1024]
}
