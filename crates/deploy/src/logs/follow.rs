//! `df logs -f`: what an application writes, whichever of its generations serves.

use std::io;

use df_core::AppName;

use super::{CHUNK_LEN, Log};
use crate::generation;
use crate::layout::Layout;

/// An application's output that is followed.
pub struct Following<'a> {
    layout: &'a Layout,
    app: &'a AppName,
    /// What is shown.
    generation: u64,
    /// It was named: no other takes its place.
    stays: bool,
    lines: usize,
    log: Log,
    /// The last lines of the log were not read yet.
    is_new: bool,
    /// A line was begun and has no end yet.
    is_within_line: bool,
}

impl<'a> Following<'a> {
    /// Begins with the last lines of a generation. One that `stays` is followed alone; else what comes to serve in its place is.
    ///
    /// # Errors
    /// Its log cannot be opened.
    pub fn begin(layout: &'a Layout, app: &'a AppName, generation: u64, stays: bool, lines: usize) -> io::Result<Self> {
        let log = Log::open(&layout.log(app, generation))?;
        Ok(Self { layout, app, generation, stays, lines, log, is_new: true, is_within_line: false })
    }

    /// Returns what was written since.
    ///
    /// # Errors
    /// A log cannot be read, or what serves cannot be told.
    pub fn more(&mut self) -> io::Result<Vec<u8>> {
        // Looked at first: what the former one wrote until it was replaced comes before the next.
        let next = self.next()?;
        let mut bytes = if std::mem::take(&mut self.is_new) { self.log.tail(self.lines)? } else { self.log.more()? };
        if let Some(last) = bytes.last() {
            self.is_within_line = *last != b'\n';
        }
        if let Some(next) = next.filter(|_| (bytes.len() as u64) < CHUNK_LEN) {
            bytes.extend(self.go_on_with(next)?);
        }
        Ok(bytes)
    }

    fn next(&self) -> io::Result<Option<u64>> {
        if self.stays {
            return Ok(None);
        }
        let current = generation::current(self.layout, self.app).map_err(io::Error::other)?;
        // None serves: nothing takes the place.
        Ok(Some(current).filter(|current| *current != 0 && *current != self.generation))
    }

    /// Goes over to another generation; returns the line that says so, and its last lines: what it said on trial.
    fn go_on_with(&mut self, next: u64) -> io::Result<Vec<u8>> {
        let end = if std::mem::take(&mut self.is_within_line) { "\n" } else { "" };
        let said = format!("{end}df-node: generation {next} serves now, in the place of {}\n", self.generation);
        (self.log, self.generation) = (Log::open(&self.layout.log(self.app, next))?, next);
        let mut bytes = said.into_bytes();
        bytes.extend(self.log.tail(self.lines)?);
        self.is_within_line = bytes.last() != Some(&b'\n');
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io::Write as _;
    use std::path::Path;

    use super::super::{PIECE, bound};
    use super::*;

    fn program(path: &Path) -> File {
        OpenOptions::new().create(true).append(true).open(path).expect("opened")
    }

    /// Returns a node with an application of which generation 1 serves.
    fn node() -> (tempfile::TempDir, Layout, AppName) {
        let ((dir, layout), app) = (crate::fixture::layout(), "greeter".parse().expect("a name"));
        crate::supervise::prepare(&layout, &app).expect("made");
        generation::set_current(&layout, &app, 1).expect("current");
        (dir, layout, app)
    }

    fn heard(following: &mut Following<'_>) -> String {
        String::from_utf8(following.more().expect("read")).expect("text")
    }

    #[test]
    fn who_follows_hears_the_generation_that_serves_next_and_which_it_is() {
        let (_dir, layout, app) = node();
        let old = program(&layout.log(&app, 1));
        (&old).write_all(b"a\nb\nc\n").expect("written");
        let mut follower = Following::begin(&layout, &app, 1, false, 2).expect("opened");
        let mut named = Following::begin(&layout, &app, 1, true, 0).expect("opened");
        assert_eq!((heard(&mut follower), heard(&mut named)), ("b\nc\n".into(), String::new()));
        (&old).write_all(b"d\nhal").expect("written");
        assert_eq!(heard(&mut follower), "d\nhal");
        let new = program(&layout.log(&app, 2));
        (&new).write_all(b"on trial\nready\n").expect("written");
        assert_eq!(heard(&mut follower), "", "nobody is served by it yet");
        (&old).write_all(b"f").expect("written");
        generation::set_current(&layout, &app, 2).expect("current");
        assert_eq!(heard(&mut follower), "f\ndf-node: generation 2 serves now, in the place of 1\non trial\nready\n");
        (&old).write_all(b"leaves\n").expect("written");
        (&new).write_all(b"serves\n").expect("written");
        assert_eq!(heard(&mut follower), "serves\n");
        assert_eq!(heard(&mut named), "d\nhalfleaves\n", "who names a generation hears that one alone");
        generation::clear_current(&layout, &app).expect("none");
        assert_eq!(heard(&mut follower), "");
        generation::set_current(&layout, &app, 1).expect("current");
        assert_eq!(
            heard(&mut follower),
            "df-node: generation 1 serves now, in the place of 2\nd\nhalfleaves\n",
            "two lines again"
        );
    }

    #[test]
    fn who_follows_hears_what_is_written_after_the_front_of_the_log_was_taken_away() {
        let (_dir, layout, app) = node();
        let path = layout.log(&app, 1);
        let log = program(&path);
        let mut follower = Following::begin(&layout, &app, 1, false, 10).expect("opened");
        let line = format!("{:063}\n", 0);
        (&log).write_all(line.repeat((2 * PIECE / 64) as usize).as_bytes()).expect("written");
        assert_eq!(heard(&mut follower).lines().count(), 10);
        for round in 0..3 {
            (&log).write_all(line.repeat((PIECE / 64) as usize).as_bytes()).expect("written");
            let mut n_lines = 0;
            while n_lines < PIECE / 64 {
                n_lines += heard(&mut follower).lines().count() as u64;
            }
            assert_eq!(n_lines, PIECE / 64);
            bound(&path).expect("bounded");
            assert_eq!(heard(&mut follower), "");
            writeln!(&log, "round {round}").expect("written");
            assert_eq!(heard(&mut follower), format!("round {round}\n"));
        }
    }

    #[test]
    fn who_follows_hears_another_file_of_the_same_name_and_one_that_comes_later() {
        let (_dir, layout, app) = node();
        let path = layout.log(&app, 1);
        let mut follower = Following::begin(&layout, &app, 1, false, 10).expect("opened");
        assert_eq!(heard(&mut follower), "");
        let log = program(&path);
        writeln!(&log, "first").expect("written");
        assert_eq!(heard(&mut follower), "first\n");
        // So a df-node before this one puts a log aside.
        fs::rename(&path, path.with_extension("log.1")).expect("renamed");
        writeln!(&log, "last words").expect("written");
        let log = program(&path);
        writeln!(&log, "second").expect("written");
        assert_eq!(heard(&mut follower), "last words\n");
        assert_eq!(heard(&mut follower), "second\n");
        let tail = Log::open(&path).and_then(|mut log| log.tail(2)).expect("read");
        assert_eq!(tail, b"last words\nsecond\n", "what was put aside goes before it");
    }
}
