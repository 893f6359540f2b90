use graph::{Mkdir, Op};
use parser::{Instruction, Workdir};

use super::StageLowering;
use super::transfer::owner;
use crate::lint::rules;
use crate::shown::Text;
use crate::{Expander, paths};

impl StageLowering<'_, '_> {
    pub(super) fn workdir(&mut self, of: &Instruction, workdir: &Workdir) {
        let Some(path) = self.expand_shown(of, &workdir.path) else { return };
        if !self.state.workdir_set && !path.value.starts_with('/') {
            self.lint(rules::workdir_relative_path(of.span, path.shown()));
        }
        self.state.workdir_set = true;
        let below = &self.state.config.config.working_dir;
        let shown_below = self.state.shown_workdir.as_ref().unwrap_or(below);
        let path =
            Text::new(paths::absolute(below, &path.value), Some(paths::absolute(shown_below, path.shown())));
        let created_by = format!("WORKDIR {}", path.shown());
        self.state.shown_workdir = path.instead().map(str::to_owned);
        self.config().config.working_dir = path.value;
        let clean = self.state.cwd();
        if clean == "/" {
            self.state.remember(created_by, false);
            return;
        }
        let owner = match self.state.config.config.user.as_str() {
            "" => owner("0:0"),
            user => owner(user),
        };
        let title = self.title(of, Expander::new(self.all.escape), "");
        self.step(of, Op::Mkdir(Mkdir { path: clean, owner }), Vec::new(), &title, created_by);
    }
}
