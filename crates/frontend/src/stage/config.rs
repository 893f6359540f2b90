//! The instructions that change nothing but the config.

use std::time::Duration;

use image::Healthcheck as HealthcheckConfig;
use parser::{
    Arg, Cmd, Command, Diagnostic, Entrypoint, Env, Healthcheck, Instruction, Label, Maintainer, Onbuild,
    Pair, Shell, Span, Spanned, Stopsignal, User, Volume,
};

use super::{StageLowering, signal};
use crate::shown::{Secretive, Text};
use crate::{OutlineArg, go, lint::rules};

impl StageLowering<'_, '_> {
    pub(super) fn env(&mut self, of: &Instruction, env: &Env) {
        let Some(pairs) = self.pairs(of, &env.pairs, env.legacy) else { return };
        let mut created_by = "ENV".to_owned();
        for (key, value) in pairs {
            if let Some(finding) = rules::secrets_used_in_arg_or_env(of.span, "ENV", key.shown()) {
                self.lint(finding);
            }
            self.all.definition.hide((&key.value, &value.value));
            let value = value.of_variable(&key.value);
            for part in [" ", key.shown(), "=", value.shown()] {
                created_by.push_str(part);
            }
            self.state.set_env(&key.value, &value);
        }
        self.state.remember(created_by, false);
    }

    pub(super) fn label(&mut self, of: &Instruction, label: &Label) {
        let Some(pairs) = self.pairs(of, &label.pairs, label.legacy) else { return };
        let mut created_by = "LABEL".to_owned();
        for (key, value) in pairs {
            for part in [" ", key.shown(), "=", value.shown()] {
                created_by.push_str(part);
            }
            self.config().config.labels.get_or_insert_default().insert(key.value, value.value);
        }
        self.state.remember(created_by, false);
    }

    /// All pairs, expanded with the variables from before the instruction.
    fn pairs(&mut self, of: &Instruction, pairs: &[Pair], legacy: bool) -> Option<Vec<(Text, Text)>> {
        if legacy {
            self.lint(rules::legacy_key_value_format(of.span, &of.keyword));
        }
        let words = self.expand_all(of, pairs.iter().flat_map(|pair| [&pair.key, &pair.value]))?;
        let mut words = words.into_iter();
        let mut expanded = Vec::with_capacity(pairs.len());
        while let (Some(key), Some(value)) = (words.next(), words.next()) {
            expanded.push((key, value));
        }
        Some(expanded)
    }

    /// `--build-arg` beats the default, which beats the global argument. Without any of them the argument stays unset.
    pub(super) fn arg(&mut self, of: &Instruction, arg: &Arg) {
        let mut created_by = "ARG".to_owned();
        for name in &arg.names {
            let key = &name.key.text;
            if let Some(finding) = rules::secrets_used_in_arg_or_env(of.span, "ARG", key) {
                self.lint(finding);
            }
            let value = match (self.all.build_args.get(key), &name.value) {
                (Some(value), _) => Some(value.clone().into()),
                (None, Some(word)) => self.expand_shown(of, word),
                (None, None) => self
                    .all
                    .globals
                    .with_shown(key)
                    .map(|(value, shown)| Text::new(value.to_owned(), shown.map(str::to_owned))),
            };
            let value = value.map(|value| {
                self.all.definition.hide((key, &value.value));
                value.of_variable(key)
            });
            self.outline_arg(of, key, name.value.is_none(), value.as_ref().map(|value| value.value.as_str()));
            created_by.push(' ');
            created_by.push_str(key);
            if let Some(value) = &value {
                created_by.push('=');
                created_by.push_str(value.shown());
            }
            self.state.declare(key, value);
        }
        self.state.remember(created_by, false);
    }

    /// An argument without a default that has its value from a global one is that one.
    fn outline_arg(&mut self, of: &Instruction, name: &str, bare: bool, value: Option<&str>) {
        let inherited = bare
            && !self.all.build_args.contains_key(name)
            && crate::Variables::get(self.all.globals, name).is_some();
        if inherited {
            return self.all.globals.outline(name, &mut self.outline.args);
        }
        let arg = OutlineArg {
            name: name.to_owned(),
            description: of.description(name).map(str::to_owned),
            value: value.map(str::to_owned),
            span: self.span(of),
        };
        self.outline.args.push(arg);
    }

    pub(super) fn cmd(&mut self, of: &Instruction, cmd: &Cmd) {
        let previous = self.seen.cmd.replace(of.span);
        self.only_once(of, previous);
        let args = self.command(of, &cmd.command);
        self.state.remember(format!("CMD {}", go::quoted_list(&args)), false);
        let config = &mut self.config().config;
        config.cmd = (!args.is_empty()).then_some(args);
        // What Docker's images always have, on Linux too.
        config.args_escaped = true;
    }

    pub(super) fn entrypoint(&mut self, of: &Instruction, entrypoint: &Entrypoint) {
        let previous = self.seen.entrypoint.replace(of.span);
        self.only_once(of, previous);
        let args = self.command(of, &entrypoint.command);
        self.state.remember(format!("ENTRYPOINT {}", go::quoted_list(&args)), false);
        let keep_cmd = self.seen.cmd.is_some();
        let config = &mut self.config().config;
        config.entrypoint = (!args.is_empty()).then_some(args);
        if !keep_cmd {
            // The arguments were meant for another program.
            config.cmd = None;
        }
    }

    fn command(&mut self, of: &Instruction, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(args) => args.iter().map(|arg| arg.value.clone()).collect(),
            Command::Shell(text) => {
                if self.state.config.config.shell.as_ref().is_none_or(Vec::is_empty) {
                    self.lint(rules::json_args_recommended(of.span, &of.keyword));
                }
                self.with_shell(&text.text)
            }
        }
    }

    /// Marks the earlier one, which has no effect.
    fn only_once(&mut self, of: &Instruction, previous: Option<Span>) {
        if let Some(previous) = previous {
            self.lint(rules::multiple_instructions_disallowed(previous, &of.keyword));
        }
    }

    pub(super) fn healthcheck(&mut self, of: &Instruction, healthcheck: &Healthcheck) {
        let previous = self.seen.healthcheck.replace(of.span);
        self.only_once(of, previous);
        let nanoseconds = |duration: &Option<Spanned<Duration>>| {
            duration.as_ref().map_or(0, |d| i64::try_from(d.value.as_nanos()).unwrap_or(i64::MAX))
        };
        let config = match healthcheck {
            Healthcheck::None => {
                HealthcheckConfig { test: vec!["NONE".to_owned()], ..HealthcheckConfig::default() }
            }
            Healthcheck::Cmd(cmd) => HealthcheckConfig {
                test: match &cmd.command {
                    Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.text.clone()],
                    Command::Exec(args) => std::iter::once("CMD".to_owned())
                        .chain(args.iter().map(|arg| arg.value.clone()))
                        .collect(),
                },
                interval: nanoseconds(&cmd.interval),
                timeout: nanoseconds(&cmd.timeout),
                start_period: nanoseconds(&cmd.start_period),
                start_interval: nanoseconds(&cmd.start_interval),
                retries: cmd.retries.as_ref().map_or(0, |retries| i64::from(retries.value)),
            },
        };
        let created_by = format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            go::list(&config.test),
            go::duration(config.interval),
            go::duration(config.timeout),
            go::duration(config.start_period),
            go::duration(config.start_interval),
            config.retries
        );
        self.config().config.healthcheck = Some(config);
        self.state.remember(created_by, false);
    }

    pub(super) fn maintainer(&mut self, maintainer: &Maintainer) {
        self.config().author = Some(maintainer.name.value.clone());
        self.state.remember(format!("MAINTAINER {}", maintainer.name.value), false);
    }

    /// Kept as text for the builds that use the image; no history, as in BuildKit.
    pub(super) fn onbuild(&mut self, onbuild: &Onbuild) {
        let trigger = onbuild.trigger.value.clone();
        self.config().config.on_build.get_or_insert_default().push(trigger);
    }

    pub(super) fn shell(&mut self, shell: &Shell) {
        let argv: Vec<String> = shell.argv.iter().map(|arg| arg.value.clone()).collect();
        self.state.remember(format!("SHELL {}", go::list(&argv)), false);
        self.config().config.shell = Some(argv);
    }

    pub(super) fn stopsignal(&mut self, of: &Instruction, stopsignal: &Stopsignal) {
        let Some(signal) = self.expand_shown(of, &stopsignal.signal) else { return };
        if !signal::is_valid(&signal.value) {
            let message = format!("`{}` is no signal", signal.shown());
            let error = Diagnostic::error(stopsignal.signal.span, message)
                .with_help("signals are names as SIGTERM or TERM, and numbers");
            self.report(error);
            return;
        }
        self.state.remember(format!("STOPSIGNAL {}", signal.shown()), false);
        self.config().config.stop_signal = signal.value;
    }

    pub(super) fn user(&mut self, of: &Instruction, user: &User) {
        let Some(user) = self.expand_shown(of, &user.user) else { return };
        self.state.remember(format!("USER {}", user.shown()), false);
        self.config().config.user = user.value;
    }

    pub(super) fn volume(&mut self, of: &Instruction, volume: &Volume) {
        let Some(paths) = self.expand_all(of, &volume.paths) else { return };
        for (path, word) in paths.iter().zip(&volume.paths) {
            if path.value.is_empty() {
                self.report(Diagnostic::error(word.span, "the path of a volume is empty"));
                return;
            }
        }
        let shown: Vec<&str> = paths.iter().map(Text::shown).collect();
        self.state.remember(format!("VOLUME {}", go::list(&shown)), false);
        let volumes = self.config().config.volumes.get_or_insert_default();
        volumes.extend(paths.into_iter().map(|path| (path.value, serde_json::json!({}))));
    }
}
