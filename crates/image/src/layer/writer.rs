use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::header::BLOCK;
use super::{Entry, EntryKind, LayerError, NO_ID, OPAQUE, WHITEOUT, check_path, check_symlink, pax};

/// The largest numbers in fields of 7 and 11 octal digits.
const MAX_7: u64 = (1 << 21) - 1;
const MAX_11: u64 = (1 << 33) - 1;

/// Writes entries as a tar stream: the same entries give the same bytes, everywhere and always.
///
/// The format is POSIX ustar, with an extended header only for what ustar cannot hold: paths and targets that do not fit,
/// ids of more than 7 octal digits, sizes and times of more than 11, times before 1970 or with nanoseconds, extended attributes
/// (as `SCHILY.xattr.*`). No user or group names, no access times. Names are written as the bytes that they are.
///
/// The order of entries is the caller's. Whiteouts become empty files `.wh.<name>` without owner and mode, as containerd
/// writes them. The root is written as `./` when it is appended; BuildKit's layers have no such entry and containerd ignores
/// it, Docker and umoci obey it.
#[derive(Debug)]
pub struct LayerWriter<W: Write> {
    out: W,
    buffer: Vec<u8>,
    broken: bool,
    layer: bool,
}

impl<W: Write> LayerWriter<W> {
    /// Writes to `out`, in many small pieces: give it a buffer where that matters.
    pub fn new(out: W) -> Self {
        LayerWriter { out, buffer: vec![0; 128 << 10], broken: false, layer: true }
    }

    /// Writes a tar that is no layer: names that begin with `.wh.` mean nothing special there.
    pub fn archive(out: W) -> Self {
        LayerWriter { layer: false, ..LayerWriter::new(out) }
    }

    /// What is written to.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// What is written to, with all that was appended so far.
    pub fn flushed(&mut self) -> Result<&mut W, LayerError> {
        self.out.flush().map_err(failed)?;
        Ok(&mut self.out)
    }

    /// Appends an entry. `content` is read for regular files only, and must have exactly as many bytes as the entry says.
    ///
    /// # Errors
    /// An entry that a layer cannot hold: a name that begins with `.wh.`, a path that is not clean, an attribute with `=` in its
    /// name. Content that is shorter or longer than the entry says. The writer cannot be used any more after an error of
    /// the streams or the content.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError> {
        if self.layer && entry.path.split(|b| *b == b'/').any(|name| name.starts_with(WHITEOUT)) {
            let reason = "names that begin with `.wh.` mean removed files in layers: rename the file";
            return Err(LayerError::entry(&entry.path, reason));
        }
        let (header, extended) = encode(entry)?;
        if self.broken {
            return Err(failed(io::Error::other("an earlier entry failed")));
        }
        self.broken = true;
        if !extended.is_empty() {
            self.write_extended(&extended)?;
        }
        self.out.write_all(header.as_bytes()).map_err(failed)?;
        if let EntryKind::File { size } = entry.kind {
            self.copy(&entry.path, size, content)?;
        }
        self.broken = false;
        Ok(())
    }

    fn write_extended(&mut self, records: &[u8]) -> Result<(), LayerError> {
        let mut header = Header::new_ustar();
        set_bytes(&mut header.as_old_mut().name, b"././@PaxHeader");
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(failed)?;
        self.out.write_all(records).map_err(failed)?;
        self.pad(records.len() as u64)
    }

    fn copy(&mut self, path: &[u8], size: u64, content: &mut dyn Read) -> Result<(), LayerError> {
        let unreadable = |source| LayerError::Content { path: super::show(path), source };
        let mut left = size;
        while left > 0 {
            let wanted = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = read_some(content, &mut self.buffer[..wanted]).map_err(unreadable)?;
            if read == 0 {
                let reason = format!("the file shrank while it was read: {} of {size} bytes", size - left);
                return Err(LayerError::entry(path, reason));
            }
            self.out.write_all(&self.buffer[..read]).map_err(failed)?;
            left -= read as u64;
        }
        if read_some(content, &mut [0]).map_err(unreadable)? != 0 {
            let reason = format!("the file grew while it was read: it has more than {size} bytes");
            return Err(LayerError::entry(path, reason));
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<(), LayerError> {
        let over = (size % BLOCK as u64) as usize;
        if over == 0 {
            return Ok(());
        }
        self.out.write_all(&[0; BLOCK][over..]).map_err(failed)
    }

    /// Ends the tar (two blocks of zeros) and hands the writer back.
    ///
    /// # Errors
    /// When writing fails, or an earlier entry did: half a layer must not look like a whole one.
    pub fn finish(mut self) -> Result<W, LayerError> {
        if self.broken {
            return Err(failed(io::Error::other("an earlier entry failed")));
        }
        self.out.write_all(&[0; 2 * BLOCK]).map_err(failed)?;
        self.out.flush().map_err(failed)?;
        Ok(self.out)
    }
}

fn failed(source: io::Error) -> LayerError {
    LayerError::Io { action: "write layer", source }
}

fn read_some(content: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match content.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The header of an entry and the records of its extended header, empty when it needs none.
fn encode(entry: &Entry) -> Result<(Header, Vec<u8>), LayerError> {
    let refused = |reason: &str| LayerError::entry(&entry.path, reason);
    check_path(&entry.path).map_err(refused)?;
    if entry.path.is_empty() && !matches!(entry.kind, EntryKind::Directory | EntryKind::Opaque) {
        return Err(refused("the root is a directory"));
    }
    if entry.uid == NO_ID || entry.gid == NO_ID {
        return Err(refused("the owner's id is 4294967295, which is none"));
    }
    if entry.mtime_nanos >= 1_000_000_000 {
        return Err(refused("the time has more than a second's nanoseconds"));
    }
    let bare = Entry { mtime: entry.mtime, ..Entry::bare(Vec::new(), EntryKind::Whiteout) };
    let attributes =
        if matches!(entry.kind, EntryKind::Whiteout | EntryKind::Opaque) { &bare } else { entry };

    let mut header = Header::new_ustar();
    let mut records = Records::default();
    set_name(&mut header, &name_of(entry), &mut records);
    header.set_mode(attributes.mode & 0o7777);
    header.set_uid(records.small(b"uid", attributes.uid.into(), MAX_7));
    header.set_gid(records.small(b"gid", attributes.gid.into(), MAX_7));
    set_time(&mut header, attributes.mtime, attributes.mtime_nanos, &mut records);
    header.set_size(0);
    set_kind(&mut header, &entry.kind, &mut records).map_err(refused)?;
    for (name, value) in &attributes.xattrs {
        if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
            let reason =
                format!("the layer format cannot hold the extended attribute `{}`", super::show(name));
            return Err(refused(&reason));
        }
        records.0.push(([pax::XATTR, name].concat(), value.clone()));
    }
    header.set_cksum();
    Ok((header, records.encode()))
}

/// The name in the tar: directories end with a slash, whiteouts have their prefix.
fn name_of(entry: &Entry) -> Vec<u8> {
    let path = &entry.path;
    match entry.kind {
        EntryKind::Directory if path.is_empty() => b"./".to_vec(),
        EntryKind::Directory => [path, &b"/"[..]].concat(),
        EntryKind::Opaque if path.is_empty() => OPAQUE.to_vec(),
        EntryKind::Opaque => [path, &b"/"[..], OPAQUE].concat(),
        EntryKind::Whiteout => {
            let name = path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
            [&path[..name], WHITEOUT, &path[name..]].concat()
        }
        _ => path.clone(),
    }
}

/// What goes into the extended header.
#[derive(Default)]
struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.0.push((key.to_vec(), value.to_vec()));
    }

    /// The number for the header's own field: zero when it does not fit there and becomes a record.
    fn small(&mut self, key: &[u8], value: u64, max: u64) -> u64 {
        if value <= max {
            return value;
        }
        self.add(key, value.to_string().as_bytes());
        0
    }

    fn encode(mut self) -> Vec<u8> {
        self.0.sort();
        let mut out = Vec::new();
        for (key, value) in &self.0 {
            pax::push_record(&mut out, key, value);
        }
        out
    }
}

fn set_name(header: &mut Header, name: &[u8], records: &mut Records) {
    if name.len() <= 100 {
        set_bytes(&mut header.as_old_mut().name, name);
    } else if let Some(slash) = split_name(name)
        && let Some(ustar) = header.as_ustar_mut()
    {
        set_bytes(&mut ustar.prefix, &name[..slash]);
        set_bytes(&mut ustar.name, &name[slash + 1..]);
    } else {
        records.add(b"path", name);
        set_bytes(&mut header.as_old_mut().name, name);
    }
}

/// Where a long name is cut into ustar's prefix (at most 155 bytes) and name (at most 100): at the last slash that can be.
fn split_name(name: &[u8]) -> Option<usize> {
    let body = name.strip_suffix(b"/").unwrap_or(name);
    let slash = body[..body.len().min(156)].iter().rposition(|b| *b == b'/')?;
    (slash > 0 && name.len() - slash - 1 <= 100).then_some(slash)
}

fn set_time(header: &mut Header, seconds: i64, nanos: u32, records: &mut Records) {
    let whole = u64::try_from(seconds).ok().filter(|whole| *whole <= MAX_11);
    if whole.is_none() || nanos != 0 {
        records.add(b"mtime", pax::format_time(seconds, nanos).as_bytes());
    }
    header.set_mtime(whole.unwrap_or(0));
}

fn set_kind(header: &mut Header, kind: &EntryKind, records: &mut Records) -> Result<(), &'static str> {
    let kind = match kind {
        EntryKind::File { size } => {
            header.set_size(records.small(b"size", *size, MAX_11));
            EntryType::Regular
        }
        EntryKind::Whiteout | EntryKind::Opaque => EntryType::Regular,
        EntryKind::Directory => EntryType::Directory,
        EntryKind::Symlink { target } => {
            check_symlink(target)?;
            set_link(header, target, records);
            EntryType::Symlink
        }
        EntryKind::Hardlink { target } => {
            check_path(target)?;
            if target.is_empty() {
                return Err("a hard link to the root");
            }
            set_link(header, target, records);
            EntryType::Link
        }
        EntryKind::CharDevice { major, minor } => {
            set_device(header, *major, *minor)?;
            EntryType::Char
        }
        EntryKind::BlockDevice { major, minor } => {
            set_device(header, *major, *minor)?;
            EntryType::Block
        }
        EntryKind::Fifo => EntryType::Fifo,
    };
    header.set_entry_type(kind);
    Ok(())
}

fn set_link(header: &mut Header, target: &[u8], records: &mut Records) {
    if target.len() > 100 {
        records.add(b"linkpath", target);
    }
    set_bytes(&mut header.as_old_mut().linkname, target);
}

fn set_device(header: &mut Header, major: u32, minor: u32) -> Result<(), &'static str> {
    // There is no record for these; Linux' own numbers have 12 and 20 bits.
    if u64::from(major.max(minor)) > MAX_7 {
        return Err("the device numbers are too large for the layer format");
    }
    header.set_device_major(major).map_err(|_| "the layer format has no devices")?;
    header.set_device_minor(minor).map_err(|_| "the layer format has no devices")
}

/// As much of `value` as fits.
fn set_bytes(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}
