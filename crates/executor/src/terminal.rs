//! The caller's end of a process's terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::termios::{LocalModes, SpecialCodeIndex};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{Error, sys};

/// The caller's end of a process's terminal. What is written here is typed there; copies are of the same terminal.
#[derive(Clone, Debug)]
pub struct Terminal {
    controller: Arc<AsyncFd<OwnedFd>>,
}

impl Terminal {
    pub(crate) fn new(controller: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&controller)?;
        rustix::fs::fcntl_setfl(&controller, flags | OFlags::NONBLOCK)?;
        let controller = sys::watch(controller, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { controller: Arc::new(controller) })
    }

    /// Types something. What is typed after the end of the process is lost.
    ///
    /// # Errors
    /// When the terminal fails.
    pub async fn write(&self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let written = self
                .controller
                .async_io(Interest::WRITABLE, |end| Ok(rustix::io::write(end.as_fd(), bytes)?))
                .await;
            match written {
                Ok(length) => bytes = &bytes[length..],
                Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => return Ok(()),
                Err(error) => return Err(Error::io("write to the process's terminal")(error)),
            }
        }
        Ok(())
    }

    /// Changes its size, of which the process is told (SIGWINCH).
    ///
    /// # Errors
    /// When the terminal fails.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(self.controller.get_ref(), size)
            .map_err(Error::io("resize the process's terminal"))
    }

    /// The signal that typing a character gives, as the terminal is set now.
    pub fn signal_of(&self, character: u8) -> Option<i32> {
        let modes = rustix::termios::tcgetattr(self.controller.get_ref()).ok()?;
        let of = |code: SpecialCodeIndex| modes.special_codes[code] == character;
        match modes.local_modes.contains(LocalModes::ISIG) {
            true if of(SpecialCodeIndex::VINTR) => Some(libc::SIGINT),
            true if of(SpecialCodeIndex::VQUIT) => Some(libc::SIGQUIT),
            _ => None,
        }
    }

    /// The process group in the foreground.
    pub(crate) fn foreground(&self) -> Option<Pid> {
        rustix::termios::tcgetpgrp(self.controller.get_ref()).ok()
    }

    /// The next output; 0 when nothing is left that could write.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |end: &OwnedFd| Ok(rustix::io::read(end.as_fd(), &mut *buffer)?);
        hung_up(self.controller.async_io(Interest::READABLE, read).await)
    }

    /// Output that is there already; 0 when there is none.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(self.controller.get_ref(), buffer) {
            Err(Errno::AGAIN) => Ok(0),
            other => hung_up(other.map_err(io::Error::from)),
        }
    }
}

/// The kernel's answer when the last process with the other end is gone.
fn hung_up(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => Ok(0),
        other => other,
    }
}
