//! What a person sees on stderr while long work runs.
//!
//! On a terminal: a line per phase, under it a bar per node at work with bytes, rate and time left; a node that is done leaves a line and
//! its bar goes, so that of a thousand nodes only those at work are shown. Elsewhere one plain line per phase, without any escape code;
//! with `-q` nothing. Results never pass through here: they go to stdout.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use df_core::text::{escape, shorten};
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::args::Color;
use crate::render::NODE_WIDTH;

/// Where text is shown, as far as it matters for what may be written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// A person looks at it.
    pub is_terminal: bool,
    /// NO_COLOR is set and not empty.
    pub no_color: bool,
    /// It says of itself (TERM) that it can do nothing but show lines.
    pub dumb: bool,
}

impl Terminal {
    /// Returns what stderr is.
    pub fn of_stderr() -> Self {
        let term = std::env::var_os("TERM").unwrap_or_default();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = term.is_empty() || term == OsStr::new("dumb");
        Self { is_terminal: io::stderr().is_terminal(), no_color, dumb }
    }

    /// Tells whether text may be coloured here.
    pub fn wants_color(self, color: Color) -> bool {
        match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => self.is_terminal && !self.no_color && !self.dumb,
        }
    }
}

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing.
    Silent,
    /// One line per phase, no escape codes.
    Lines,
    /// Bars that are drawn over.
    Bars {
        /// In colours.
        color: bool,
    },
}

impl Mode {
    /// Decides by the flags and by what stderr is. No colour is forced onto what is no terminal.
    pub fn choose(quiet: bool, color: Color, stderr: Terminal) -> Self {
        match stderr {
            _ if quiet => Self::Silent,
            Terminal { is_terminal: true, dumb: false, .. } => Self::Bars { color: stderr.wants_color(color) },
            _ => Self::Lines,
        }
    }
}

/// The progress of one command; clones show on the same screen, from any thread.
#[derive(Debug, Clone)]
pub struct Progress {
    screen: Arc<Screen>,
}

/// One node's, or one thing's, share of the progress. Dropped, it goes without a trace.
#[derive(Debug)]
pub struct Bar {
    shown: Option<(MultiProgress, ProgressBar)>,
    color: bool,
}

/// Work that goes through phases, on a row of its own. Dropped, it goes without a trace.
#[derive(Debug)]
pub struct Row {
    progress: Progress,
    shown: Option<(MultiProgress, ProgressBar)>,
    color: bool,
}

enum Screen {
    Silent,
    Lines(Mutex<Box<dyn Write + Send>>),
    Bars {
        multi: MultiProgress,
        color: bool,
        /// The last row, which shows that the phase is alive.
        pulse: Mutex<Option<ProgressBar>>,
    },
}

impl Progress {
    /// Begins to show the progress of a command on stderr.
    pub fn new(mode: Mode) -> Self {
        Self::on(mode, Box::new(io::stderr()), ProgressDrawTarget::stderr())
    }

    /// Says what is done from now on, in a word or two: "building".
    pub fn phase(&self, what: &str) {
        let what = escape(what.as_bytes());
        match &*self.screen {
            Screen::Silent => {}
            Screen::Lines(out) => {
                // Progress that nobody can read is no reason to fail.
                let _ = writeln!(out.lock().unwrap_or_else(PoisonError::into_inner), "{what}");
            }
            Screen::Bars { multi, pulse, .. } => {
                self.stop_pulse();
                let _ = multi.println(&what);
                let row = multi.add(ProgressBar::new_spinner().with_style(style("{spinner} {elapsed}")));
                row.enable_steady_tick(TICK);
                *pulse.lock().unwrap_or_else(PoisonError::into_inner) = Some(row);
            }
        }
    }

    /// Shows that work of unknown length goes on; [`Bar::set_total`] makes it a bar.
    pub fn spinner(&self, label: &str) -> Bar {
        let Screen::Bars { multi, color, pulse } = &*self.screen else { return Bar { shown: None, color: false } };
        let style = style(&format!("  {{prefix:{NODE_WIDTH}!}} {{spinner}} {{elapsed}}"));
        let label = shorten(&escape(label.as_bytes()), NODE_WIDTH);
        let row = ProgressBar::new_spinner().with_style(style).with_prefix(label);
        let row = match &*pulse.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(pulse) => multi.insert_before(pulse, row),
            None => multi.add(row),
        };
        row.enable_steady_tick(TICK);
        Bar { shown: Some((multi.clone(), row)), color: *color }
    }

    /// Shows work that goes through phases, one of which counts: `building 1a2b3c4d`. Where nobody looks at rows, the label and each long phase are a line.
    pub fn row(&self, label: &str) -> Row {
        let Screen::Bars { multi, color, .. } = &*self.screen else {
            self.phase(label);
            return Row { progress: self.clone(), shown: None, color: false };
        };
        self.stop_pulse();
        let row = multi.add(ProgressBar::new_spinner().with_style(style(PHASE)).with_prefix(escape(label.as_bytes())));
        row.enable_steady_tick(TICK);
        Row { progress: self.clone(), shown: Some((multi.clone(), row)), color: *color }
    }

    /// Runs what prints, with the bars out of its way.
    pub fn suspend<R>(&self, print: impl FnOnce() -> R) -> R {
        match &*self.screen {
            Screen::Bars { multi, .. } => multi.suspend(print),
            _ => print(),
        }
    }

    /// Takes everything that is drawn over off the screen; the lines stay.
    pub fn finish(&self) {
        self.screen.clear();
    }

    fn on(mode: Mode, out: Box<dyn Write + Send>, target: ProgressDrawTarget) -> Self {
        let screen = match mode {
            Mode::Silent => Screen::Silent,
            Mode::Lines => Screen::Lines(Mutex::new(out)),
            Mode::Bars { color } => {
                Screen::Bars { multi: MultiProgress::with_draw_target(target), color, pulse: Mutex::new(None) }
            }
        };
        Self { screen: Arc::new(screen) }
    }

    fn stop_pulse(&self) {
        self.screen.stop_pulse();
    }
}

impl Screen {
    fn stop_pulse(&self) {
        let Self::Bars { multi, pulse, .. } = self else { return };
        if let Some(row) = pulse.lock().unwrap_or_else(PoisonError::into_inner).take() {
            row.finish_and_clear();
            multi.remove(&row);
        }
    }

    fn clear(&self) {
        self.stop_pulse();
        if let Self::Bars { multi, .. } = self {
            let _ = multi.clear();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear();
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Silent => "Silent",
            Self::Lines(_) => "Lines",
            Self::Bars { .. } => "Bars",
        })
    }
}

impl Bar {
    /// Says that so many more bytes are done.
    pub fn advance(&self, n_bytes: u64) {
        if let Some((_, row)) = &self.shown {
            row.inc(n_bytes);
        }
    }

    /// Says how many bytes it really is, once that is known; the bar begins anew.
    pub fn set_total(&self, total_bytes: u64) {
        if let Some((_, row)) = &self.shown {
            row.set_style(bar_style(self.color));
            row.set_position(0);
            row.set_length(total_bytes);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((multi, row)) = self.shown.take() {
            row.finish_and_clear();
            multi.remove(&row);
        }
    }
}

impl Row {
    /// Says what is done from now on. Elsewhere than on a terminal only what takes long is worth a line.
    pub fn phase(&self, words: &str, is_long: bool) {
        match &self.shown {
            Some((_, row)) => {
                row.set_style(style(PHASE));
                row.set_message(escape(words.as_bytes()));
            }
            None if is_long => self.progress.phase(&format!("  {words}")),
            None => {}
        }
    }

    /// Says how many of how many crates are compiled, and which was the last.
    pub fn count(&self, done: usize, total: usize, name: &str) {
        let Some((_, row)) = &self.shown else { return };
        row.set_style(crates_style(self.color));
        row.set_length(total as u64);
        row.set_position(done as u64);
        row.set_message(escape(name.as_bytes()));
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        if let Some((multi, row)) = self.shown.take() {
            row.finish_and_clear();
            multi.remove(&row);
        }
    }
}

const PHASE: &str = "{prefix}  {msg} {spinner} {elapsed}";
const TICK: Duration = Duration::from_millis(120);

/// Returns the style of bytes on their way; the bar takes the room that the numbers leave.
fn bar_style(color: bool) -> ProgressStyle {
    let bar = if color { "{wide_bar:.green/dim}" } else { "{wide_bar}" };
    let template = format!("  {{prefix:{NODE_WIDTH}!}} {bar} {{bytes}} of {{total_bytes}}, {{bytes_per_sec}}{{left}}");
    style(&template).progress_chars("=> ").with_key("left", left)
}

/// Writes how long it takes yet; before the first byte nobody knows.
fn left(state: &ProgressState, out: &mut dyn fmt::Write) {
    if state.pos() > 0 {
        let _ = write!(out, ", {:#} left", HumanDuration(state.eta()));
    }
}

fn crates_style(color: bool) -> ProgressStyle {
    let bar = if color { "{bar:24.green/dim}" } else { "{bar:24}" };
    style(&format!("{{prefix}}  [{bar}] {{pos}}/{{len}} crates  {{msg}}  {{elapsed}}")).progress_chars("## ")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this file are well formed").tick_chars("|/-\\ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A screen that keeps all that was ever written to it.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>, u16);

    impl Paper {
        fn of(width: u16) -> Self {
            Self(Arc::default(), width)
        }
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("no test panics with it").clone()).expect("text")
        }
        /// Bars are drawn a few times a second, when it suits them.
        #[track_caller]
        fn wait_for(&self, part: &str) {
            let begun = std::time::Instant::now();
            while !self.text().contains(part) {
                assert!(begun.elapsed() < Duration::from_secs(30), "{part} never came: {}", self.text());
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panics with it").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl indicatif::TermLike for Paper {
        fn width(&self) -> u16 {
            self.1
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)?;
            self.write_str("\n")
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.clone().write_all(text.as_bytes())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn deploy_to_two_nodes(mode: Mode) -> String {
        let paper = Paper::of(100);
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        let progress = Progress::on(mode, Box::new(paper.clone()), target);
        progress.phase("building");
        progress.phase("copying \x1b[2Jto 2 nodes");
        let (one, two) = (progress.spinner("one"), progress.spinner("two\nthree"));
        one.set_total(2048);
        one.advance(1024);
        if matches!(mode, Mode::Bars { .. }) {
            paper.wait_for("1.00 KiB of 2.00 KiB");
        }
        two.set_total(4096);
        two.advance(4096);
        drop(one);
        assert_eq!(progress.suspend(|| 7), 7);
        progress.finish();
        paper.text()
    }

    #[test]
    fn what_is_no_terminal_gets_one_line_per_phase() {
        assert_eq!(deploy_to_two_nodes(Mode::Lines), "building\ncopying \\u{1b}[2Jto 2 nodes\n");
    }

    #[test]
    fn quiet_is_silent() {
        assert_eq!(deploy_to_two_nodes(Mode::Silent), "");
    }

    #[test]
    fn a_terminal_gets_bars_with_true_totals_and_lines_that_stay() {
        let text = deploy_to_two_nodes(Mode::Bars { color: false });
        for part in ["building", "copying", "1.00 KiB of 2.00 KiB", "two\\nthree"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn a_line_is_no_longer_than_the_screen_and_says_no_time_before_the_first_byte() {
        for width in [80, 100, 200] {
            let paper = Paper::of(width);
            let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
            let progress = Progress::on(Mode::Bars { color: false }, Box::new(paper.clone()), target);
            let bar = progress.spinner("a-node-of-a-long-name");
            bar.set_total(200 << 20);
            paper.wait_for("of 200.00 MiB, ");
            assert!(!paper.text().contains("left"), "{width}: {}", paper.text());
            bar.advance(123 << 20);
            paper.wait_for("left");
            progress.finish();
            let text = paper.text();
            let longest = text.split("  a-node").map(|line| "  a-node".len() + line.trim_end().len()).max();
            assert!(longest <= Some(width.into()), "{width}: {longest:?}, {text}");
        }
    }

    fn build(mode: Mode) -> String {
        let paper = Paper::of(100);
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        let progress = Progress::on(mode, Box::new(paper.clone()), target);
        let row = progress.row("building 1a2b3c4d");
        row.phase("writing the source", false);
        row.phase("compiling", true);
        for (done, name) in [(36, "serde"), (37, "serde_json\n")] {
            row.count(done, 154, name);
        }
        if matches!(mode, Mode::Bars { .. }) {
            paper.wait_for("37/154 crates  serde_json\\n");
        }
        drop(row);
        progress.finish();
        paper.text()
    }

    #[test]
    fn a_build_is_a_bar_of_crates_on_a_terminal_and_a_line_per_long_phase_elsewhere() {
        assert_eq!(build(Mode::Lines), "building 1a2b3c4d\n  compiling\n");
        assert_eq!(build(Mode::Silent), "");
        let text = build(Mode::Bars { color: false });
        assert!(text.contains("building 1a2b3c4d  [#####"), "{text}");
    }

    #[test]
    fn the_mode_is_decided_by_flags_and_terminal() {
        let terminal = Terminal { is_terminal: true, no_color: false, dumb: false };
        let plain = Terminal { no_color: true, ..terminal };
        let dumb = Terminal { dumb: true, ..terminal };
        let pipe = Terminal { is_terminal: false, ..terminal };
        let table = [
            (true, Color::Always, terminal, Mode::Silent),
            (true, Color::Auto, pipe, Mode::Silent),
            (false, Color::Auto, terminal, Mode::Bars { color: true }),
            (false, Color::Never, terminal, Mode::Bars { color: false }),
            (false, Color::Auto, plain, Mode::Bars { color: false }),
            (false, Color::Always, plain, Mode::Bars { color: true }),
            (false, Color::Auto, pipe, Mode::Lines),
            (false, Color::Always, pipe, Mode::Lines),
            (false, Color::Always, dumb, Mode::Lines),
        ];
        for (quiet, color, stderr, expected) in table {
            assert_eq!(Mode::choose(quiet, color, stderr), expected, "{quiet} {color:?} {stderr:?}");
        }
        assert!(!pipe.wants_color(Color::Auto) && pipe.wants_color(Color::Always) && terminal.wants_color(Color::Auto));
    }
}
