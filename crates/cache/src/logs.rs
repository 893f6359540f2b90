//! What steps printed, beside the layers that they made.
//!
//! A log is a zstd stream of records: a kind (0: standard output, 1: standard error, 2: something was left out), milliseconds since the
//! step began (4 bytes), a length (4 bytes, little-endian as the one before), and that many bytes; for kind 2 the number of bytes left out.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::At;
use crate::upper::remove_file_if_there;
use crate::{CacheError, SnapshotId, Store};

/// Which stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPiece {
    /// Output as it came, cut anywhere.
    Output {
        /// From which stream.
        source: LogSource,
        /// Since the step began.
        after: Duration,
        /// Raw bytes.
        data: Vec<u8>,
    },
    /// Here so many bytes were left out, to keep the limit.
    Omitted {
        /// How many.
        bytes: u64,
    },
}

/// Of a log that is too long, this much of its end is kept: the reason of a failure stands there.
const TAIL: usize = 256 << 10;
/// Longer output is cut into several pieces.
const LONGEST: usize = 64 << 10;
const HEAD: usize = 9;
/// Most logs are a few lines: higher levels clear tables of half a megabyte for them.
const LEVEL: i32 = 1;

/// A log being written. Dropping it throws it away. Memory does not grow with what is written.
pub struct LogWriter {
    store: Store,
    path: PathBuf,
    out: zstd::Encoder<'static, BufWriter<File>>,
    /// What may still go to the file at once.
    left: u64,
    /// What came after that, as far as it is not too old.
    tail: VecDeque<Vec<u8>>,
    tail_bytes: usize,
    omitted: u64,
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Begins a log that holds `limit` bytes of output and the last 256 KiB, whatever comes between.
    pub fn log_writer(&self, limit: u64) -> Result<LogWriter, CacheError> {
        let path = self.inner.scratch.fresh()?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let out = file
            .and_then(|file| zstd::Encoder::new(BufWriter::new(file), LEVEL))
            .and_then(|mut out| out.include_checksum(true).map(|()| out))
            .at("create", &path)?;
        let tail = VecDeque::new();
        Ok(LogWriter { store: self.clone(), path, out, left: limit, tail, tail_bytes: 0, omitted: 0 })
    }

    /// What the step printed that made this layer: one that is cached, or that was kept after it failed. `None` when nothing was
    /// stored.
    pub fn log(&self, layer: SnapshotId) -> Result<Option<LogReader>, CacheError> {
        let path = self.inner.layout.log(layer);
        match File::open(&path) {
            Ok(file) => {
                let stream = zstd::Decoder::new(file).at("read", &path)?;
                Ok(Some(LogReader { path, stream: BufReader::new(stream), ended: false }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("open", &path),
        }
    }
}

impl LogWriter {
    /// Appends output.
    pub fn write(&mut self, source: LogSource, after: Duration, data: &[u8]) -> Result<(), CacheError> {
        for data in data.chunks(LONGEST) {
            let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
            let (now, later) = data.split_at(if self.tail.is_empty() { room } else { 0 });
            if !now.is_empty() {
                self.left -= now.len() as u64;
                let record = encode(source, after, now);
                self.out.write_all(&record).at("write", &self.path)?;
            }
            if !later.is_empty() {
                self.left = 0;
                self.put_off(encode(source, after, later));
            }
        }
        Ok(())
    }

    fn put_off(&mut self, record: Vec<u8>) {
        self.tail_bytes += record.len();
        self.tail.push_back(record);
        while self.tail_bytes > TAIL
            && let Some(oldest) = self.tail.pop_front()
        {
            self.tail_bytes -= oldest.len();
            self.omitted += (oldest.len() - HEAD) as u64;
        }
    }

    /// Stores it as that of the step that made `layer`.
    pub fn finish(mut self, layer: SnapshotId) -> Result<(), CacheError> {
        let written = self.end();
        written.at("write", &self.path)?;
        let target = self.store.inner.layout.log(layer);
        fs::rename(&self.path, &target).at("rename", &self.path)
    }

    fn end(&mut self) -> io::Result<()> {
        if self.omitted > 0 {
            let mut record = vec![2; 1];
            record.extend([0; 4]);
            record.extend(8u32.to_le_bytes());
            record.extend(self.omitted.to_le_bytes());
            self.out.write_all(&record)?;
        }
        for record in &self.tail {
            self.out.write_all(record)?;
        }
        self.out.do_finish()?;
        self.out.get_mut().flush()
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        // Gone already when it was finished.
        let _ = remove_file_if_there(&self.path);
    }
}

fn encode(source: LogSource, after: Duration, data: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD + data.len());
    record.push(match source {
        LogSource::Stdout => 0,
        LogSource::Stderr => 1,
    });
    record.extend(u32::try_from(after.as_millis()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes());
    record.extend(data);
    record
}

/// Reads a stored log, piece by piece.
pub struct LogReader {
    path: PathBuf,
    stream: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    ended: bool,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Iterator for LogReader {
    type Item = Result<LogPiece, CacheError>;

    /// The next piece. Nothing comes after an error: the log is damaged.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let piece = read_piece(&mut self.stream);
        self.ended = !matches!(piece, Ok(Some(_)));
        piece.at("read", Path::new(&self.path)).transpose()
    }
}

fn read_piece(stream: &mut impl Read) -> io::Result<Option<LogPiece>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the log is damaged");
    let mut kind = [0];
    if stream.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let (mut after, mut length) = ([0; 4], [0; 4]);
    stream.read_exact(&mut after)?;
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(|_| damaged())?;
    if length > LONGEST {
        return Err(damaged());
    }
    let mut data = vec![0; length];
    stream.read_exact(&mut data)?;
    let source = match kind[0] {
        0 => LogSource::Stdout,
        1 => LogSource::Stderr,
        2 => {
            let bytes = data.try_into().map_err(|_| damaged())?;
            return Ok(Some(LogPiece::Omitted { bytes: u64::from_le_bytes(bytes) }));
        }
        _ => return Err(damaged()),
    };
    let after = Duration::from_millis(u32::from_le_bytes(after).into());
    Ok(Some(LogPiece::Output { source, after, data }))
}
