use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::{Builder, NamedTempFile};

use crate::ExportError;

const BUFFER: usize = 256 << 10;

/// Where a single stream of bytes goes.
#[derive(Clone)]
pub enum Output {
    /// A file. It is replaced in one step when all is written; until then what was there stays. Devices and pipes are written to.
    File(PathBuf),
    /// A stream, as standard output.
    Stream(Arc<Mutex<dyn Write + Send>>),
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::File(path) => f.debug_tuple("File").field(path).finish(),
            Output::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Output {
    /// Has `write` write to it, and completes it when that succeeds.
    ///
    /// # Errors
    /// Those of `write`; [`ExportError`] when the place cannot be written to.
    pub fn write<E: From<ExportError>>(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Output::File(path) => write_file(path, write),
            Output::Stream(stream) => {
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                buffered(&mut *stream, ExportError::Stream, write)
            }
        }
    }
}

fn write_file<E: From<ExportError>>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    // A link's target is replaced, not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            let reason = "it is a directory: name the file to be written";
            return Err(ExportError::destination(path, reason).into());
        }
        Ok(found) if !found.is_file() => {
            let mut device =
                OpenOptions::new().write(true).open(path).map_err(ExportError::io("open", path))?;
            return buffered(&mut device, ExportError::io("write", path), write);
        }
        _ => {}
    }
    let temporary = beside(path)?;
    buffered(&mut temporary.as_file(), ExportError::io("write", path), write)?;
    temporary.persist(path).map_err(|error| ExportError::io("replace", path)(error.error))?;
    Ok(())
}

/// Whoever writes knows nothing of the place; when it is the writing that failed, `unwritable` says where.
fn buffered<E: From<ExportError>>(
    out: &mut dyn Write,
    unwritable: impl FnOnce(io::Error) -> ExportError,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffered = BufWriter::with_capacity(BUFFER, Remembering { out, failed: None });
    let written = write(&mut buffered);
    let flushed = match &written {
        Ok(()) => buffered.flush(),
        Err(_) => Ok(()),
    };
    // What is left in the buffer after an error is not tried again.
    let (Remembering { failed, .. }, _) = buffered.into_parts();
    match failed.or(flushed.err()) {
        Some(error) => Err(unwritable(error).into()),
        None => written,
    }
}

/// A writer that keeps the error that ended it.
struct Remembering<'a> {
    out: &'a mut dyn Write,
    failed: Option<io::Error>,
}

impl Remembering<'_> {
    fn remember<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|error| {
            let same = plain(&error);
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(error);
            }
            same
        })
    }
}

impl Write for Remembering<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.remember(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.remember(flushed)
    }
}

/// A temporary file in the directory of `path`, gone when it is dropped. Its mode is what the umask leaves of 0666.
pub(crate) fn beside(path: &Path) -> Result<NamedTempFile, ExportError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = Builder::new();
    builder.prefix(".export-").suffix(".tmp").permissions(Permissions::from_mode(0o666));
    builder.tempfile_in(parent).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound if !parent.exists() => {
            ExportError::destination(path, format!("the directory {} does not exist", parent.display()))
        }
        _ => ExportError::io("write", path)(plain(&source)),
    })
}

/// An error without the name of the temporary file, which tempfile puts in front and which says nothing to anyone.
pub(crate) fn plain(error: &io::Error) -> io::Error {
    // tempfile keeps the system's error to itself, but says it.
    let said = || error.to_string().split_once("(os error ")?.1.split_once(')')?.0.parse().ok();
    error.raw_os_error().or_else(said).map_or(error.kind().into(), io::Error::from_raw_os_error)
}
