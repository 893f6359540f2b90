use files::{PathSelection, Selection};
use graph::{
    Device, Exec, InlineFile, Input, Mount, MountKind, Network, Op, SecretEnv, Security as Privileges,
};
use parser::{Command, Diagnostic, Heredoc, Instruction, Run, Security, Span};

use super::StageLowering;
use super::mount::Mounts;
use super::variables::Scope;
use crate::shown::Secretive;
use crate::{Expander, Variables};

/// The shell of images that set none.
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Where scripts with an interpreter of their own are found.
const SCRIPTS: &str = "/dev/pipes";

impl StageLowering<'_, '_> {
    pub(super) fn run(&mut self, of: &Instruction, run: &Run) {
        let mut mounts = Mounts::default();
        let args = self.run_args(of, run, &mut mounts);
        let mounted = self.mounts(of, run, &mut mounts);
        let allowed = self.check_entitlements(run);
        let (Some(args), Some(()), Some(())) = (args, mounted, allowed) else { return };

        let title = self.run_title(of, run, &mounts.secret_env);
        let created_by = ["RUN ", &self.state.history_args(), &args.join(" "), " # buildkit"].concat();
        let mut env = self.state.process_env();
        if let Some(agent) = mounts.agents.first()
            && self.scope().get("SSH_AUTH_SOCK").is_none()
        {
            env.push("SSH_AUTH_SOCK".to_owned(), agent.clone());
        }
        let declared = |name: &String| self.scope().get(name).is_some();
        let unkeyed_env = self.all.proxies.iter().filter(|(name, _)| !declared(name)).cloned().collect();
        let devices = run
            .devices
            .iter()
            .map(|device| Device { name: device.name.value.clone(), required: device.required });
        let timeout = run.timeout.as_ref().map_or(self.all.options.timeout, |timeout| Some(timeout.value));
        let exec = Exec {
            args,
            env,
            unkeyed_env,
            secret_env: mounts.secret_env,
            cwd: self.state.cwd(),
            user: self.state.config.config.user.clone(),
            hostname: self.all.hostname.clone(),
            network: self.network(run),
            security: match run.security.as_ref().map(|security| security.value) {
                Some(Security::Insecure) => Privileges::Insecure,
                Some(Security::Sandbox) | None => Privileges::Sandbox,
            },
            devices: devices.collect(),
            platform: self.state.platform.clone(),
            extra_hosts: self.all.options.extra_hosts.clone(),
            mounts: mounts.mounts,
            timeout: timeout.filter(|timeout| !timeout.is_zero()),
            retries: run.retry.as_ref().map_or(self.all.options.retries, |retry| retry.value),
        };
        self.step(of, Op::Exec(exec), mounts.inputs, &title, created_by);
    }

    fn network(&self, run: &Run) -> Network {
        match run.network.as_ref().map(|network| network.value) {
            None | Some(parser::Network::Default) => self.all.options.network,
            Some(parser::Network::None) => Network::None,
            Some(parser::Network::Host) => Network::Host,
        }
    }

    /// What a step may not do unless the command line says so.
    fn check_entitlements(&mut self, run: &Run) -> Option<()> {
        let mut allowed = Some(());
        if let Some(network) = &run.network
            && network.value == parser::Network::Host
            // The command line says so for every step.
            && self.all.options.network != Network::Host
        {
            allowed = allowed.and(self.entitled(network.span, "`--network=host`", &["network.host"]));
        }
        if let Some(security) = &run.security
            && security.value == Security::Insecure
        {
            allowed =
                allowed.and(self.entitled(security.span, "`--security=insecure`", &["security.insecure"]));
        }
        for device in &run.devices {
            let name = &device.name;
            let what = format!("the device `{}`", **name);
            allowed =
                allowed.and(self.entitled(name.span, &what, &[&format!("device={}", **name), "device"]));
        }
        allowed
    }

    /// Any of `entitlements` will do; the first one is the narrowest.
    fn entitled(&mut self, span: Span, what: &str, entitlements: &[&str]) -> Option<()> {
        if entitlements.iter().any(|entitlement| self.all.options.allow.contains(*entitlement)) {
            return Some(());
        }
        let narrowest = entitlements.first().copied().unwrap_or_default();
        let error = Diagnostic::error(span, format!("{what} is not allowed"))
            .with_note("a step gets more than the sandbox gives only where the command line says so")
            .with_help(format!("add `--allow {narrowest}` to the command"));
        self.report(error);
        None
    }

    /// The arguments of the process. A script with an interpreter of its own is one more mount.
    fn run_args(&mut self, of: &Instruction, run: &Run, mounts: &mut Mounts) -> Option<Vec<String>> {
        if let Some(script) = run.script() {
            let body = script.body();
            if body.starts_with("#!") {
                return self.script(of, script, &body, mounts);
            }
            return Some(self.with_shell(&body));
        }
        match &run.command {
            Command::Shell(text) => {
                Some(self.with_shell(&run.shell_text().unwrap_or_else(|| text.text.clone())))
            }
            Command::Exec(args) if args.is_empty() => {
                self.report(Diagnostic::error(of.span, "RUN needs a program to run"));
                None
            }
            Command::Exec(args) => Some(args.iter().map(|arg| arg.value.clone()).collect()),
        }
    }

    fn script(
        &mut self,
        of: &Instruction,
        script: &Heredoc,
        body: &str,
        mounts: &mut Mounts,
    ) -> Option<Vec<String>> {
        self.check_file_name(script)?;
        let name = script.name.clone();
        let file = InlineFile { name: name.clone(), mode: 0o755, content: body.as_bytes().to_vec() };
        let vertex = self.inline(of, file);
        let selection = Selection::Path(PathSelection::exact(name.as_str()));
        let input = mounts.input(Input { vertex, selection });
        let target = format!("{SCRIPTS}/{name}");
        let kind = MountKind::Bind { input };
        mounts.mounts.push(Mount { target: target.clone(), kind, read_only: true });
        Some(self.with_shell(&target))
    }

    /// The step's title, in which secrets are not even names of files.
    fn run_title(&self, of: &Instruction, run: &Run, secrets: &[SecretEnv]) -> String {
        let suffix = match run.script() {
            Some(script) => format!(" ({})", summary(&script.content)),
            None => String::new(),
        };
        let masked = Masked { scope: self.scope(), secrets };
        self.title_with(of, Expander::for_display(self.all.escape), &suffix, &masked)
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

/// The variables of a step for people: what a secret sets is stars, too.
struct Masked<'a> {
    scope: &'a Scope,
    secrets: &'a [SecretEnv],
}

impl Variables for Masked<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        if self.secrets.iter().any(|secret| secret.variable == name) {
            return Some("****");
        }
        self.scope.with_shown(name).map(|(value, shown)| shown.unwrap_or(value))
    }
}

/// The first line of a script, and a sign that there are more.
fn summary(script: &str) -> String {
    let mut lines = script.trim().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
}
