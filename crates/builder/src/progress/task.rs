use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use graph::Outcome;
use hash::Digest;
use image::TransferProgress;

use super::model::{Message, Progressed, StepKey};

/// Something that is done around the build, shown like a step. Dropping it without [`Task::done`] or [`Task::failed`] shows it
/// as cancelled.
pub(crate) struct Task {
    messages: Sender<Message>,
    key: StepKey,
    title: Arc<str>,
    ended: bool,
}

impl Task {
    pub(super) fn begin(messages: Sender<Message>, number: usize, name: &str) -> Task {
        let task = Task { messages, key: StepKey::Task(number), title: name.into(), ended: false };
        task.send(Message::Task { number, name: name.to_owned(), at: SystemTime::now() });
        task
    }

    /// What it is called.
    pub(crate) fn title(&self) -> Arc<str> {
        self.title.clone()
    }

    /// Begins a part of the task, `exporting layers`. One that is not [done](Part::done) ends with the task.
    pub(crate) fn part(&self, name: &str) -> Part<'_> {
        self.progress(name, 0, 0, false);
        Part { task: self, name: name.to_owned() }
    }

    /// Something worth notice, one line.
    pub(crate) fn warn(&self, message: &str) {
        self.send(Message::Warning { key: self.key, message: message.to_owned() });
    }

    /// It succeeded.
    pub(crate) fn done(self) {
        self.end(Outcome::Done { reason: None });
    }

    /// It failed, for a reason of one line.
    pub(crate) fn failed(self, message: &str) {
        self.end(Outcome::Failed { message: message.to_owned() });
    }

    fn end(mut self, outcome: Outcome) {
        self.ended = true;
        self.send(Message::Finished { key: self.key, outcome, at: SystemTime::now() });
    }

    fn progress(&self, id: &str, current: u64, total: u64, complete: bool) {
        let progressed = Progressed { id: id.to_owned(), current, total, at: SystemTime::now(), complete };
        self.send(Message::Progress { key: self.key, progressed });
    }

    fn send(&self, message: Message) {
        // Fails only when the display has ended.
        let _ = self.messages.send(message);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.ended {
            self.send(Message::Finished {
                key: self.key,
                outcome: Outcome::Cancelled,
                at: SystemTime::now(),
            });
        }
    }
}

/// Blobs that a task transfers are parts of it.
impl TransferProgress for Task {
    fn transferred(&self, blob: &Digest, current: u64, total: u64) {
        self.progress(&blob.to_string(), current, total, total > 0 && current >= total);
    }
}

/// A part of a [`Task`] that has begun.
pub(crate) struct Part<'a> {
    task: &'a Task,
    name: String,
}

impl Part<'_> {
    /// So many bytes of it are done, of so many where that is known.
    pub(crate) fn set(&self, current: u64, total: Option<u64>) {
        self.task.progress(&self.name, current, total.unwrap_or(0), false);
    }

    /// It succeeded.
    pub(crate) fn done(self) {
        self.task.progress(&self.name, 0, 0, true);
    }
}
