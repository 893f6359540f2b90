//! A stream that another thread reads, a little ahead of who needs it: what it takes to decompress and hash goes on beside what it
//! takes to write files.

use std::io::{self, Cursor, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Bytes that are handed over at a time.
const PORTION: u64 = 256 << 10;
/// Portions that wait.
const AHEAD: usize = 4;

/// Calls `take` with what `source` gives. When `take` has read to the end, `source` is at its end afterwards; otherwise anywhere.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn read_beside<T>(
    source: &mut (impl Read + Send),
    take: impl FnOnce(&mut dyn Read) -> T,
) -> io::Result<T> {
    thread::scope(|scope| {
        let (sender, portions) = sync_channel(AHEAD);
        thread::Builder::new()
            .name("read-beside".to_owned())
            .spawn_scoped(scope, move || read(source, &sender))?;
        // Gone before the scope ends: the other thread must not wait for a place in it.
        Ok(take(&mut Portions { portions, current: Cursor::default() }))
    })
}

fn read(source: &mut impl Read, sender: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut portion = Vec::with_capacity(PORTION as usize);
        let portion = source.by_ref().take(PORTION).read_to_end(&mut portion).map(|_| portion);
        let is_last = portion.as_ref().map_or(true, Vec::is_empty);
        // Nobody takes it where reading was given up.
        if sender.send(portion).is_err() || is_last {
            return;
        }
    }
}

/// What came from the other thread.
struct Portions {
    portions: Receiver<io::Result<Vec<u8>>>,
    current: Cursor<Vec<u8>>,
}

impl Read for Portions {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.current.read(buffer)?;
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        // The channel is closed behind the empty portion that is the end, and behind an error.
        let Ok(portion) = self.portions.recv() else { return Ok(0) };
        self.current = Cursor::new(portion?);
        self.current.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n / 3) as u8).collect()
    }

    #[test]
    fn everything_comes_in_order() {
        for length in [0, 1, PORTION as usize - 1, PORTION as usize, 3 * PORTION as usize + 5] {
            let bytes = bytes(length);
            let mut source = &bytes[..];
            let read = read_beside(&mut source, |reader| {
                let mut read = Vec::new();
                reader.read_to_end(&mut read).map(|_| read)
            });
            assert!(read.unwrap().unwrap() == bytes, "{length}");
            assert!(source.is_empty());
        }
    }

    #[test]
    fn giving_up_ends_the_other_thread() {
        let mut endless = io::repeat(7);
        let first = read_beside(&mut endless, |reader| {
            let mut first = [0; 3];
            reader.read_exact(&mut first).map(|()| first)
        });
        assert_eq!(first.unwrap().unwrap(), [7; 3]);
    }

    #[test]
    fn an_error_comes_where_it_happened() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let bytes = bytes(PORTION as usize + 9);
        let mut source = bytes.chain(Broken);
        let mut read = Vec::new();
        let result = read_beside(&mut source, |reader| reader.read_to_end(&mut read));
        assert_eq!(result.unwrap().unwrap_err().to_string(), "broken");
        assert_eq!(read.len(), PORTION as usize, "what came with an error is not to be used");
    }
}
