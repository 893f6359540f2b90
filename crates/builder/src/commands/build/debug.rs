//! A shell inside a step.

use std::sync::Arc;

use cache::{KeptId, Store};
use executor::Sandbox;
use runtime::Runtime;
use worker::{Cancel, Inside, Lent};

use super::foreground::Threads;
use super::lent::{Agents, Secrets};
use crate::failure::{Failure, NOT_STARTED};
use crate::{console, interrupt, terminal};

/// The best shell that a step's file system has.
const SHELL: &str = "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi";

/// What a shell inside a step is made of.
pub(super) struct Shell {
    pub(super) store: Store,
    pub(super) sandbox: Sandbox,
    /// What makes its process, where the sandbox does not: whoever demands that of RUN demands it of a shell.
    pub(super) runtime: Option<Runtime>,
    pub(super) secrets: Arc<Secrets>,
    pub(super) agents: Arc<Agents>,
    pub(super) options: worker::RunOptions,
    /// What runs; without it an interactive shell.
    pub(super) command: Option<String>,
}

impl Shell {
    /// Opens one in what a failed step left.
    pub(super) fn in_kept(&self, threads: &mut Threads, id: KeptId) -> Result<u8, Failure> {
        let session = threads.session(&self.store)?;
        let Some(kept) = self.store.kept_step(id)? else {
            return Err(Failure::build(format!(
                "there is nothing of a failed step {}: what it left was removed, or none had that number",
                id.0
            ))
            .hint("`builder debug --list` shows what is there"));
        };
        let inside = Inside::kept(&kept).map_err(|error| Failure::from(&error))?;
        let code = self.open(threads, &inside, &format!("the failed step {}", kept.name));
        session.finish()?;
        code
    }

    /// Opens one, and says so. The exit code is the shell's.
    pub(super) fn open(&self, threads: &mut Threads, inside: &Inside, what: &str) -> Result<u8, Failure> {
        if self.command.is_none() {
            terminal::tell(&format!(
                "\nA shell inside {what}\nWhat it changes is thrown away; `exit` leaves it.\n"
            ));
            if let Some(runtime) = self.runtime.as_ref().filter(|_| console::is_terminal()) {
                let program = runtime.program().display();
                terminal::tell(&format!(
                    "{program} makes it, with this terminal and none of its own: there is no job control.\n"
                ));
            }
        }
        let words = ["/bin/sh", "-c", self.command.as_deref().unwrap_or(SHELL)].map(str::to_owned);
        let Threads { runtime, signals, .. } = threads;
        runtime.block_on(async {
            let lent = Lent { secrets: &*self.secrets, agents: &*self.agents, options: &self.options };
            signals.add_those_of_program();
            let cancel = Cancel::new();
            let opened = tokio::select! {
                opened = inside.open(&self.store, &self.sandbox, &lent, &words, &cancel) => opened,
                signal = signals.next() => {
                    cancel.cancel();
                    return Ok(interrupt::exit_code(signal));
                }
            };
            let mut opened = opened.map_err(|error| Failure::from(&error))?;
            if let Ok(terminal) = std::env::var("TERM")
                && !opened.spec.env.iter().any(|(name, _)| name == "TERM")
            {
                opened.spec.env.push(("TERM".into(), terminal.into()));
            }
            let spec = opened.spec.clone();
            let (spec, own_terminal) = match &self.runtime {
                Some(runtime) => (runtime.hand_over(spec)?, false),
                None => (spec, true),
            };
            match console::run(&self.sandbox, spec, own_terminal, signals).await {
                Ok(code) => Ok(code),
                Err(error @ executor::Error::Program { .. }) => {
                    let failure = console::not_started(error, NOT_STARTED);
                    Err(failure.hint("a shell needs /bin/sh in the step's file system"))
                }
                Err(error) => Err(Failure::from(error)),
            }
        })
    }
}
