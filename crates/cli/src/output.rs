//! Where events go: results to stdout, steps and errors to stderr; with `--json` every event to stdout.

use std::borrow::Cow;
use std::io::{self, Write as _};

use df_core::Timestamp;

use crate::event::{Event, FORMAT};
use crate::exit::Exit;
use crate::progress::Progress;
use crate::render;
use crate::session::now;

/// The output of one command; clones write to the same place, from any thread.
#[derive(Debug, Clone)]
pub struct Output {
    json: bool,
    quiet: bool,
    /// Each event is one line that begins with the time.
    is_log: bool,
    progress: Progress,
}

impl Output {
    /// Begins the output of a command: with `--json` by saying which df speaks.
    pub fn begin(json: bool, quiet: bool, progress: Progress) -> Self {
        let output = Self { json, quiet, is_log: false, progress };
        output.script(&Event::Version { df: env!("CARGO_PKG_VERSION"), format: FORMAT });
        output
    }

    /// Writes each event as one line from now on, the time before it.
    #[must_use]
    pub fn into_log(self) -> Self {
        Self { is_log: true, ..self }
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

    /// Tells scripts what people need not read.
    pub fn only_scripts(&self, event: &Event) {
        self.script(event);
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
            self.to_stdout(&[plain(&line)]);
        }
    }

    /// A reader that went away (`| head`) is no failure of the command: what it does goes on.
    fn to_stdout(&self, lines: &[String]) {
        let lines = &self.laid_out(lines);
        self.progress.suspend(|| {
            let mut out = io::stdout().lock();
            let _ = lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
        });
    }

    /// Returns the lines of one event as they are written.
    fn laid_out<'a>(&self, lines: &'a [String]) -> Cow<'a, [String]> {
        match self.is_log && !self.json && !lines.is_empty() {
            false => Cow::Borrowed(lines),
            true => Cow::Owned(vec![log_line(now(), lines)]),
        }
    }

    fn to_stderr(&self, lines: &[String]) {
        let lines = &self.laid_out(lines);
        self.progress.suspend(|| {
            let mut out = io::stderr().lock();
            let _ = lines.iter().try_for_each(|line| writeln!(out, "{line}"));
        });
    }
}

/// Returns the lines of one event as one, behind the time; a name's column is not wider than the name there.
fn log_line(at: Timestamp, lines: &[String]) -> String {
    let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{at} {}", lines.iter().map(words).collect::<Vec<_>>().join("; "))
}

/// Returns a JSON text with what steers a terminal or is not shown written as `\uNNNN`: the same value, and harmless where it is looked at.
///
/// Beyond ASCII's controls, which serde_json escapes, such characters lie in strings only.
fn plain(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        let shown = c.is_ascii_graphic()
            || c == ' '
            || df_core::text::escape(c.encode_utf8(&mut [0; 4]).as_bytes()).len() == c.len_utf8();
        if shown {
            text.push(c);
        } else {
            let units = c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            text.push_str(&units);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_of_a_log() {
        let lines =
            ["df: n1: repair: it ended".to_owned(), "  serves now: generation 2".to_owned(), "  n1               x".to_owned()];
        assert_eq!(
            log_line(Timestamp(0), &lines),
            "1970-01-01T00:00:00Z df: n1: repair: it ended; serves now: generation 2; n1 x"
        );
    }

    #[test]
    fn json_holds_no_byte_that_steers_a_terminal_and_means_the_same() {
        let value = "caf\u{e9} \\ \" \u{9b}2J \u{7f} \u{202e}txt.exe \u{e0001} \n";
        let line = plain(&serde_json::to_string(value).expect("a string"));
        assert!(line.chars().all(|c| c == '\u{e9}' || c == ' ' || c.is_ascii_graphic()), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).expect("JSON"), value);
    }
}
