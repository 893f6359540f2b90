//! A program in the foreground: it gets this command's terminal, or its standard streams, and its signals.

use std::io::{IsTerminal as _, Read as _, Write as _};

use executor::{
    Outcome, OutputSink, OutputStream, ProcessSpec, Running, Sandbox, Signaller, Stdio, Terminal,
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

const KILL: i32 = 9;
const INTERRUPT: i32 = 2;
const QUIT: i32 = 3;
/// SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM: all of them end a program that does nothing about them.
const PASSED_ON: [i32; 6] = [1, INTERRUPT, QUIT, 10, 12, 15];

/// How a program in the foreground ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What the sandbox says.
    pub(crate) outcome: Outcome,
    /// The signal that reached this command and ended the program.
    by_signal: Option<i32>,
}

impl Ended {
    /// The exit code, as a shell has it: 128 and the number of the signal that ended it.
    pub(crate) fn code(&self) -> u8 {
        let code = self.by_signal.map_or(self.outcome.status.code(), |signal| 128 + signal);
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

/// Runs a program to its end. With `own_terminal`, and where standard input and output are a terminal, it gets one of its own, which
/// shows through this command's; otherwise it has this command's standard streams.
pub(crate) async fn run(
    sandbox: &Sandbox,
    mut spec: ProcessSpec,
    own_terminal: bool,
) -> Result<Ended, executor::Error> {
    let own_terminal = own_terminal && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    spec.stdio = if own_terminal { Stdio::Terminal } else { Stdio::Inherit };
    spec.terminal_size = size();
    let running = sandbox.start(&spec).await?;
    // Only now: what goes wrong before is printed to a terminal as people have it.
    let _raw = own_terminal.then(RawTerminal::begin);
    let typing = running.terminal().map(|terminal| tokio::spawn(typed(terminal)));
    let ended = with_signals(running).await;
    if let Some(typing) = typing {
        typing.abort();
    }
    ended
}

/// Waits for the program, passing on the signals that reach this process.
async fn with_signals(running: Running) -> Result<Ended, executor::Error> {
    let mut signals: Vec<(i32, Signal)> = Vec::new();
    for number in PASSED_ON {
        // Where no handler can be had the signal keeps its default: it ends this process, and the program with it.
        signals.extend(signal(SignalKind::from_raw(number)).ok().map(|stream| (number, stream)));
    }
    let signaller = running.signaller();
    let has_terminal = running.terminal().is_some();
    let mut wait = std::pin::pin!(running.wait(&Screen));
    let mut by_signal = None;
    loop {
        let next = async {
            let streams = signals.iter_mut().map(|(number, stream)| Box::pin(received(*number, stream)));
            match streams.len() {
                0 => std::future::pending().await,
                _ => futures::future::select_all(streams).await.0,
            }
        };
        tokio::select! {
            outcome = &mut wait => return Ok(Ended { outcome: outcome?, by_signal }),
            received = next => {
                if let Some(number) = received && pass_on(&signaller, number, has_terminal) {
                    by_signal = Some(number);
                }
            }
        }
    }
}

async fn received(number: i32, stream: &mut Signal) -> Option<i32> {
    stream.recv().await.map(|()| number)
}

/// Gives the program a signal, and says whether that ends it. The program is the first of its sandbox, to which the kernel
/// gives no signal that it has not asked for; what would end any other program ends it too.
fn pass_on(signaller: &Signaller, number: i32, has_terminal: bool) -> bool {
    let ends = !signaller.heeds(number);
    // A program that cannot be signalled any more has ended.
    let _ = match number {
        _ if ends => signaller.signal(KILL),
        // As a terminal does; the program is not in the foreground of this one, where it would come by itself.
        INTERRUPT | QUIT if !has_terminal && std::io::stdin().is_terminal() => signaller.signal_group(number),
        _ => signaller.signal(number),
    };
    ends
}

/// Passes on what is typed, and changes of the size.
async fn typed(terminal: Terminal) {
    let (keys, mut typed) = tokio::sync::mpsc::channel::<Vec<u8>>(16);
    // A thread that the end of the program does not wait for: it may sit in a read.
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = stdin.read(&mut bytes) {
            if keys.blocking_send(bytes[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let Ok(mut resized) = signal(SignalKind::window_change()) else { return };
    loop {
        tokio::select! {
            keys = typed.recv() => match keys {
                Some(keys) => {
                    if terminal.write(&keys).await.is_err() {
                        return;
                    }
                }
                None => return,
            },
            _ = resized.recv() => {
                if let Some((rows, columns)) = size() {
                    // A program that does not hear of it draws for the old size.
                    let _ = terminal.resize(rows, columns);
                }
            }
        }
    }
}

fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// This command's terminal passing on every key while the value lives.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn begin() -> RawTerminal {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else { return RawTerminal(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let _ = tcsetattr(&stdin, OptionalActions::Now, &raw);
        RawTerminal(Some(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Shows what the program writes to its terminal.
struct Screen;

impl OutputSink for Screen {
    fn write(&self, _: OutputStream, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        // A terminal that is gone sends SIGHUP.
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    }
}

/// The exit code of a program that is there but cannot be executed, or is not there; of everything else the one given.
pub(crate) fn not_started(error: executor::Error, otherwise: u8) -> Failure {
    let code = match &error {
        executor::Error::Program { code, .. } => u8::try_from(*code).unwrap_or(otherwise),
        _ => otherwise,
    };
    Failure::from(error).with_code(code)
}
