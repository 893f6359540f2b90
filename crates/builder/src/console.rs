//! A program in the foreground: it gets this command's terminal, or its standard streams, and its signals.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use executor::{Cause, OutputSink, OutputStream, ProcessSpec, Running, Sandbox, Signaller, Stdio, Terminal};
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;
use crate::interrupt::{self, INTERRUPT, QUIT, Signals};
use crate::terminal;

const KILL: i32 = 9;

/// Runs a program to its end, and says its exit code, as a shell has it: 128 and the number of the signal that ended it. With
/// `own_terminal`, and where standard input and output are a terminal, it gets one of its own, which shows through this command's;
/// otherwise it has this command's standard streams. A signal ends it also before it is there.
pub(crate) async fn run(
    sandbox: &Sandbox,
    mut spec: ProcessSpec,
    own_terminal: bool,
    signals: &mut Signals,
) -> Result<u8, executor::Error> {
    let own_terminal = own_terminal && is_terminal();
    spec.stdio = if own_terminal { Stdio::Terminal } else { Stdio::Inherit };
    spec.terminal_size = size();
    let before = TerminalBefore::remember();
    let running = tokio::select! {
        running = sandbox.start(&spec) => running?,
        // What there is of the sandbox goes with the future.
        signal = signals.next() => return Ok(interrupt::exit_code(signal)),
    };
    // Only now: what goes wrong before is printed to a terminal as people have it.
    if own_terminal {
        before.pass_on_every_key();
    }
    let ended_by = EndedBy::default();
    let typing = running
        .terminal()
        .map(|terminal| tokio::spawn(typed(terminal, running.signaller(), ended_by.clone())));
    let ended = with_signals(running, signals, &ended_by).await;
    if let Some(typing) = typing {
        typing.abort();
    }
    drop(before);
    let (code, cause) = ended?;
    if let Some(cause) = cause {
        terminal::tell(&format!("WARNING: {cause}\n"));
    }
    Ok(code)
}

/// The signal that has ended a program which would have ignored it, set before the program is killed in its place.
type EndedBy = Arc<OnceLock<i32>>;

/// Waits for the program, passing on the signals that reach this process.
async fn with_signals(
    running: Running,
    signals: &mut Signals,
    ended_by: &EndedBy,
) -> Result<(u8, Option<Cause>), executor::Error> {
    let signaller = running.signaller();
    let has_terminal = running.terminal().is_some();
    let mut wait = std::pin::pin!(running.wait(&Screen));
    loop {
        tokio::select! {
            outcome = &mut wait => {
                let outcome = outcome?;
                let own = u8::try_from(outcome.status.code()).unwrap_or(u8::MAX);
                return Ok((ended_by.get().map_or(own, |signal| interrupt::exit_code(*signal)), outcome.cause));
            }
            signal = signals.next() => pass_on(&signaller, signal, has_terminal, ended_by),
        }
    }
}

/// Gives the program a signal. It is the first of its sandbox, to which the kernel gives no signal that it has not asked for; what
/// would end any other program ends it too.
fn pass_on(signaller: &Signaller, number: i32, has_terminal: bool, ended_by: &EndedBy) {
    // A program that cannot be signalled any more has ended.
    let _ended = match number {
        _ if !signaller.heeds(number) => {
            kill_for(signaller, number, ended_by);
            return;
        }
        // As a terminal does; the program is not in the foreground of this one, where it would come by itself.
        INTERRUPT | QUIT if !has_terminal && std::io::stdin().is_terminal() => signaller.signal_group(number),
        _ => signaller.signal(number),
    };
}

/// Ends a program that does not heed a signal which would end any other.
fn kill_for(signaller: &Signaller, number: i32, ended_by: &EndedBy) {
    // The first one counts.
    let _ = ended_by.set(number);
    // It may have ended already.
    let _ = signaller.signal(KILL);
}

/// Passes on what is typed, and changes of the size.
async fn typed(terminal: Terminal, signaller: Signaller, ended_by: EndedBy) {
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
                    // Before the terminal makes a signal of it: that ends what the program waits for, and lets it go on.
                    let signal = keys.iter().find_map(|key| terminal.signal_of(*key));
                    if let Some(signal) = signal
                        && signaller.is_in_foreground(&terminal)
                        && !signaller.heeds(signal)
                    {
                        kill_for(&signaller, signal, &ended_by);
                    }
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

/// Whether people are at both ends.
pub(crate) fn is_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// This command's terminal as it was, which it is again when the value goes: of those that pass on every key, and in the one case in which
/// the program has this terminal itself, that of a shell made by an OCI runtime, which may end before it puts things right. In a pipeline
/// nothing is remembered: what a pager at the other end has set there is not to be undone.
struct TerminalBefore(Option<Termios>);

impl TerminalBefore {
    fn remember() -> TerminalBefore {
        TerminalBefore(if is_terminal() { tcgetattr(std::io::stdin()).ok() } else { None })
    }

    fn pass_on_every_key(&self) {
        if let Some(before) = &self.0 {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &raw);
        }
    }
}

impl Drop for TerminalBefore {
    fn drop(&mut self) {
        if let Some(before) = self.0.as_ref().filter(|_| is_in_foreground()) {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Whether the terminal is this command's to change: in the background it is another's, and the kernel stops who changes it.
fn is_in_foreground() -> bool {
    tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == getpgrp())
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
