//! Where events go: results to stdout, steps and errors to stderr; with `--json` every event to stdout.

use std::io::{self, Write as _};

use crate::event::{Event, FORMAT};
use crate::exit::Exit;
use crate::progress::Progress;
use crate::render;

/// The output of one command; clones write to the same place, from any thread.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    quiet: bool,
    progress: Progress,
}

impl Output {
    /// Begins the output of a command: with `--json` by saying which df speaks.
    pub fn begin(json: bool, quiet: bool, progress: Progress) -> Self {
        let output = Self { json, quiet, progress };
        output.script(&Event::Version { df: env!("CARGO_PKG_VERSION"), format: FORMAT });
        output
    }

    /// Returns whether scripts read this.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Returns the progress that shows on the same terminal.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Writes something that happened on the way.
    pub fn step(&self, event: &Event) {
        if self.json {
            self.script(event);
        } else if !self.quiet {
            self.to_stderr(&render::lines(event));
        }
    }

    /// Writes something that was asked for.
    pub fn result(&self, event: &Event) {
        if self.json {
            self.script(event);
        } else {
            self.to_stdout(&render::lines(event));
        }
    }

    /// Writes something that failed.
    pub fn error(&self, event: &Event) {
        if self.json {
            self.script(event);
        } else {
            self.to_stderr(&render::lines(event));
        }
    }

    /// Mentions something beside the results.
    pub fn note(&self, message: impl Into<String>) {
        self.step(&Event::Note { message: message.into() });
    }

    /// Writes results that people read as lines of their own, and scripts as events.
    pub fn table(&self, events: &[Event], lines: &[String]) {
        if self.json {
            events.iter().for_each(|event| self.script(event));
        } else {
            self.to_stdout(lines);
        }
    }

    /// Writes the last line for scripts.
    pub fn end(&self, exit: Exit) {
        self.progress.finish();
        self.script(&Event::Result { ok: exit == Exit::Done, exit: exit.code() });
    }

    fn script(&self, event: &Event) {
        if self.json {
            let line = serde_json::to_string(event).expect("events are plain data");
            self.to_stdout(&[line]);
        }
    }

    /// A reader that went away (`| head`) is no failure of the command: what it does goes on.
    fn to_stdout(&self, lines: &[String]) {
        self.progress.suspend(|| {
            let mut out = io::stdout().lock();
            let _ = lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
        });
    }

    fn to_stderr(&self, lines: &[String]) {
        self.progress.suspend(|| {
            let mut out = io::stderr().lock();
            let _ = lines.iter().try_for_each(|line| writeln!(out, "{line}"));
        });
    }
}
