//! Ctrl-C and its relatives.

use std::future::poll_fn;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

const HANGUP: i32 = 1;
pub(crate) const INTERRUPT: i32 = 2;
pub(crate) const QUIT: i32 = 3;
const USER_1: i32 = 10;
const USER_2: i32 = 12;
const TERMINATE: i32 = 15;

/// What asks a command to end.
const ENDING: [i32; 3] = [HANGUP, INTERRUPT, TERMINATE];
/// What a program in the foreground is given: all of them end a program that does nothing about them.
const PASSED_ON: [i32; 6] = [HANGUP, INTERRUPT, QUIT, USER_1, USER_2, TERMINATE];

/// Signals that reach this process. None is lost between the making of the value and the next question for them, so it is made once, as
/// soon as there is something that a signal must not simply end.
pub(crate) struct Signals {
    streams: Vec<(i32, Signal)>,
}

impl Signals {
    /// Those by which the user or the system asks the process to end. Call it inside a Tokio runtime.
    pub(crate) fn that_end() -> Signals {
        Signals::of(&ENDING)
    }

    /// Those that are a program's in the foreground.
    pub(crate) fn of_program() -> Signals {
        Signals::of(&PASSED_ON)
    }

    /// From now on also those of a program.
    pub(crate) fn add_those_of_program(&mut self) {
        self.add(&PASSED_ON);
    }

    fn of(numbers: &[i32]) -> Signals {
        let mut signals = Signals { streams: Vec::new() };
        signals.add(numbers);
        signals
    }

    /// Where no handler can be had a signal keeps its default: it ends the process, and what the process runs.
    fn add(&mut self, numbers: &[i32]) {
        for number in numbers {
            if self.streams.iter().all(|(known, _)| known != number) {
                self.streams
                    .extend(signal(SignalKind::from_raw(*number)).ok().map(|stream| (*number, stream)));
            }
        }
    }

    /// Waits for the next one, which may have come already.
    pub(crate) async fn next(&mut self) -> i32 {
        let streams = &mut self.streams;
        poll_fn(|context| {
            let mut came = streams.iter_mut().filter_map(|(number, stream)| {
                (stream.poll_recv(context) == Poll::Ready(Some(()))).then_some(*number)
            });
            came.next().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Waits until the user or the system asks the process to end.
pub(crate) async fn received() {
    Signals::that_end().next().await;
}

/// The exit code of what a signal ended, as a shell has it.
pub(crate) fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
