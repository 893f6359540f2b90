use std::io;
use std::time::SystemTime;

use super::Display;
use super::model::{Change, Model};

/// Shows nothing.
pub(super) struct Quiet;

impl Display for Quiet {
    fn note(&mut self, _model: &Model, _change: &Change, _now: SystemTime) -> io::Result<()> {
        Ok(())
    }

    fn draw(&mut self, _model: &Model, _now: SystemTime) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _model: &Model, _now: SystemTime) -> io::Result<()> {
        Ok(())
    }
}
