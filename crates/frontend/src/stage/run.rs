use graph::{Exec, Network, Op, Security as Privileges};
use parser::{Command, Diagnostic, Instruction, Run, Security};

use super::StageLowering;
use crate::Expander;
use crate::findings::unsupported;

/// The shell of images that set none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

impl StageLowering<'_, '_> {
    pub(super) fn run(&mut self, of: &Instruction, run: &Run) {
        self.refuse_flags(run);
        let Some((args, shown)) = self.run_command(of, run) else { return };
        let network = match run.network.as_ref().map(|network| network.value) {
            None | Some(parser::Network::Default) => self.all.options.network,
            Some(parser::Network::None) => Network::None,
            Some(parser::Network::Host) => Network::Host,
        };
        let env = self.state.process_env();
        let declared = |name: &String| env.iter().any(|(known, _)| known == name);
        let unkeyed_env = self.all.proxies.iter().filter(|(name, _)| !declared(name)).cloned().collect();
        let created_by = format!("RUN {}{} # buildkit", self.state.history_args(), args.join(" "));
        let exec = Exec {
            args,
            env: env.into(),
            unkeyed_env,
            cwd: self.state.cwd(),
            user: self.state.config.config.user.clone(),
            hostname: self.all.hostname.clone(),
            network,
            security: Privileges::Sandbox,
            devices: Vec::new(),
            secret_env: Vec::new(),
            mounts: Vec::new(),
            timeout: None,
            retries: 0,
            platform: self.state.platform.clone(),
            extra_hosts: self.all.options.extra_hosts.clone(),
        };
        self.step(of, Op::Exec(exec), Vec::new(), &shown, created_by);
    }

    fn refuse_flags(&mut self, run: &Run) {
        for mount in &run.mounts {
            self.report(unsupported(mount.text.span, "`RUN --mount`"));
        }
        for device in &run.devices {
            self.report(unsupported(device.name.span, "`RUN --device`"));
        }
        if let Some(security) = &run.security
            && security.value == Security::Insecure
        {
            self.report(unsupported(security.span, "`RUN --security=insecure`"));
        }
    }

    /// The arguments of the process, and the step's title.
    fn run_command(&mut self, of: &Instruction, run: &Run) -> Option<(Vec<String>, String)> {
        let display = Expander::for_display(self.all.escape);
        if let Some(script) = run.script() {
            let body = script.body();
            if body.starts_with("#!") {
                let error = unsupported(script.span, "a script that begins with `#!`");
                self.report(error.with_help("name the interpreter instead: `RUN <<EOF python3`"));
                return None;
            }
            let title = self.title(of, display, &format!(" ({})", summary(&script.content)));
            return Some((self.with_shell(&body), title));
        }
        let args = match &run.command {
            Command::Shell(text) => self.with_shell(&run.shell_text().unwrap_or_else(|| text.text.clone())),
            Command::Exec(args) if args.is_empty() => {
                self.report(Diagnostic::error(of.span, "RUN needs a program to run"));
                return None;
            }
            Command::Exec(args) => args.iter().map(|arg| arg.value.clone()).collect(),
        };
        Some((args, self.title(of, display, "")))
    }

    /// The shell with `text` as its script.
    pub(super) fn with_shell(&self, text: &str) -> Vec<String> {
        let mut args = match &self.state.config.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => DEFAULT_SHELL.map(str::to_owned).to_vec(),
        };
        args.push(text.to_owned());
        args
    }
}

/// The first line of a script, and a sign that there are more.
fn summary(script: &str) -> String {
    let mut lines = script.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
}
