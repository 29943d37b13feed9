//! Programs under test: run to their end with a deadline, or kept as a child that is killed by id when its guard goes.

use crate::survivors::{descendants, send};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a program may take when a test says nothing else.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// A program to start, with its arguments, environment, directory, input and deadline.
#[derive(Debug, Clone)]
pub struct Run {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
    stdin: Vec<u8>,
    deadline: Duration,
}

/// What a program did. Its `Display` shows everything, for the message of a failed test.
#[derive(Debug, Clone)]
pub struct Output {
    /// What was run, as a person would type it.
    pub command: String,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the deadline passed and the program was killed for it.
    pub timed_out: bool,
    /// Whether a process it left behind still holds its output open: a daemon that was not detached.
    pub left_open: bool,
    /// What it printed.
    pub stdout: String,
    /// What it reported.
    pub stderr: String,
    /// From its start to its end.
    pub elapsed: Duration,
}

/// A running program, killed by its id (with all that descends from it) when this goes out of scope.
#[derive(Debug)]
pub struct Child {
    command: String,
    process: std::process::Child,
    started: Instant,
    status: Option<ExitStatus>,
    stdout: Capture,
    stderr: Capture,
}

/// A running program on a terminal, and who sits there; killed as a [`Child`] is.
#[derive(Debug)]
pub struct Typist {
    child: Child,
    keys: File,
}

impl Run {
    /// Describes a run of `program`, which is searched on PATH unless it holds a slash.
    pub fn new(program: impl AsRef<Path>) -> Run {
        Run {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            stdin: Vec::new(),
            deadline: DEFAULT_DEADLINE,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Run {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment; the rest is inherited.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Run {
        self.env.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes a variable from its environment.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Run {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// Sets its working directory.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Run {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Gives it these bytes as input; without them its input is empty.
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Run {
        self.stdin = bytes.as_ref().to_vec();
        self
    }

    /// Sets the deadline of [`Run::output`].
    pub fn deadline(mut self, deadline: Duration) -> Run {
        self.deadline = deadline;
        self
    }

    /// Runs it to its end, or kills it at the deadline.
    #[track_caller]
    pub fn output(&self) -> Output {
        self.spawn().finish(self.deadline)
    }

    /// Runs it and panics with everything it said unless it ends with 0.
    #[track_caller]
    pub fn ok(&self) -> Output {
        self.output().expect_code(0)
    }

    /// Starts it and returns at once.
    #[track_caller]
    pub fn spawn(&self) -> Child {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
        let line = self.line();
        let started = Instant::now();
        let mut process = command.spawn().unwrap_or_else(|error| panic!("start {line}: {error}"));
        if let Some(mut pipe) = process.stdin.take() {
            let bytes = self.stdin.clone();
            // A program that does not read its input must not stop the test.
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        let stdout = Capture::of(process.stdout.take().expect("a pipe asked for above"));
        let stderr = Capture::of(process.stderr.take().expect("a pipe asked for above"));
        Child { command: line, process, started, status: None, stdout, stderr }
    }

    /// Starts it on a terminal of its own, 100 columns wide, and returns at once.
    #[track_caller]
    pub fn on_terminal(&self) -> Typist {
        let (ours, theirs) = terminal().unwrap_or_else(|error| panic!("open a terminal: {error}"));
        let mut command = self.command();
        let line = self.line();
        let end = || Stdio::from(theirs.try_clone().unwrap_or_else(|error| panic!("copy a descriptor: {error}")));
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: system calls that may be called between fork and exec; descriptor 0 is the terminal then.
        unsafe {
            command.pre_exec(|| {
                // A test that runs in the background was told to ignore Ctrl-C; who sits at this terminal was not.
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let started = Instant::now();
        let process = command.spawn().unwrap_or_else(|error| panic!("start {line}: {error}"));
        let screen = ours.try_clone().unwrap_or_else(|error| panic!("copy a descriptor: {error}"));
        let (stdout, stderr) = (Capture::of(screen), Capture::of(std::io::empty()));
        Typist { child: Child { command: line, process, started, status: None, stdout, stderr }, keys: ours }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    fn line(&self) -> String {
        let words = std::iter::once(self.program.as_os_str()).chain(self.args.iter().map(OsString::as_os_str));
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }
}

impl Output {
    /// Returns itself when the program ended with `code`, else panics with everything it said.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Output {
        assert!(self.code == Some(code), "expected exit code {code}\n{self}");
        self
    }

    /// Returns standard output's lines as JSON values; panics with everything when one is none.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}\n{self}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Returns the JSON values among the lines whose `type` is `kind`.
    #[track_caller]
    pub fn events(&self, kind: &str) -> Vec<serde_json::Value> {
        self.json_lines().into_iter().filter(|value| value["type"] == kind).collect()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {}", self.command)?;
        match (self.timed_out, self.code, self.signal) {
            (true, _, _) => writeln!(f, "killed at its deadline after {:?}", self.elapsed)?,
            (_, Some(code), _) => writeln!(f, "ended with {code} after {:?}", self.elapsed)?,
            (_, None, signal) => writeln!(f, "ended by signal {signal:?} after {:?}", self.elapsed)?,
        }
        write!(f, "--- stdout\n{}\n--- stderr\n{}\n---", self.stdout, self.stderr)
    }
}

impl Child {
    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns what it has printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Returns what it has reported so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// Sends it a signal, by number (`libc::SIGTERM`).
    pub fn signal(&mut self, signal: i32) {
        if self.poll().is_none() {
            send(self.pid(), signal);
        }
    }

    /// Kills it, and only it: what it started lives on, as after a crash.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        if self.status.is_none() {
            self.status = self.process.wait().ok();
        }
    }

    /// Waits for its end, or kills it and its descendants at the deadline; returns what it did.
    #[track_caller]
    pub fn finish(mut self, deadline: Duration) -> Output {
        let status = wait_until(deadline, || self.poll());
        let timed_out = status.is_none();
        if timed_out {
            self.end();
        }
        let elapsed = self.started.elapsed();
        let closed = wait_until(PIPE_DEADLINE, || (self.stdout.ended() && self.stderr.ended()).then_some(()));
        Output {
            command: self.command.clone(),
            code: self.status.and_then(|status| status.code()),
            signal: self.status.and_then(|status| status.signal()),
            timed_out,
            left_open: closed.is_none(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            elapsed,
        }
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.process.try_wait().expect("a child of this process");
        }
        self.status
    }

    fn end(&mut self) {
        if self.poll().is_some() {
            return;
        }
        for pid in descendants(self.pid()) {
            send(pid, libc::SIGKILL);
        }
        self.kill();
    }
}

impl Typist {
    /// Waits until the screen shows a text; panics with all it shows when that does not come.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let shown = wait_until(DEFAULT_DEADLINE, || self.child.stdout().contains(text).then_some(()));
        assert!(shown.is_some(), "{text:?} never came:\n{}", self.child.stdout());
    }

    /// Types; `\n` is Enter and `\x03` is Ctrl-C.
    #[track_caller]
    pub fn types(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap_or_else(|error| panic!("type {text:?}: {error}"));
    }

    /// Returns all that was ever shown.
    pub fn screen(&self) -> String {
        self.child.stdout()
    }

    /// Waits for the program's end, as [`Child::finish`]; all that was shown is its `stdout`.
    #[track_caller]
    pub fn finish(self, deadline: Duration) -> Output {
        self.child.finish(deadline)
    }
}

/// Opens a terminal; returns the end of the person and that of the program.
fn terminal() -> std::io::Result<(File, OwnedFd)> {
    let size = libc::winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: the two descriptors are written to locals and owned at once; no name or settings are asked for.
    unsafe {
        let done = libc::openpty(&raw mut ours, &raw mut theirs, std::ptr::null_mut(), std::ptr::null(), &raw const size);
        if done < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let (ours, theirs) = (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs));
        // The program's copies are made on purpose; no other child of the test may hold the terminal open.
        for fd in [ours.as_raw_fd(), theirs.as_raw_fd()] {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        Ok((ours, theirs))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Asks again and again until there is an answer; `None` when the deadline passes first.
pub fn wait_until<T>(deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

const PIPE_DEADLINE: Duration = Duration::from_secs(2);

/// Bytes read from a pipe by a thread of its own, so that no full pipe stops the program.
#[derive(Debug)]
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Capture {
    fn of(mut pipe: impl Read + Send + 'static) -> Capture {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                shared.lock().expect("no panic while locked").extend_from_slice(&buffer[..n]);
            }
        });
        Capture { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no panic while locked")).into_owned()
    }

    fn ended(&self) -> bool {
        self.reader.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survivors::state;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_program_on_a_terminal_sees_one_and_what_is_typed() {
        let script = "test -t 0 && test -t 1 && test -t 2 && stty size && read word && echo got $word";
        let mut typist = sh(script).on_terminal();
        typist.wait_for("40 100");
        typist.types("hello\n");
        let output = typist.finish(SOON).expect_code(0);
        assert!(output.stdout.contains("got hello"), "{output}");
        // No shell: it may lose a signal while it starts another program.
        let mut typist = Run::new("cat").on_terminal();
        typist.types("here\n");
        typist.wait_for("here\r\nhere");
        typist.types("\x03");
        assert_eq!(typist.finish(SOON).signal, Some(libc::SIGINT));
    }

    fn sh(script: &str) -> Run {
        Run::new("sh").arg("-c").arg(script)
    }

    #[test]
    fn a_run_tells_all_it_saw() {
        let run = sh("cat; echo $WORD >&2; pwd; exit 3").env("WORD", "said").stdin("given\n").dir("/");
        let output = run.output();
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(3), "given\n/\n", "said\n"));
        let shown = output.to_string();
        assert!(shown.contains("ended with 3") && shown.contains("given") && shown.contains("said"), "{shown}");
    }

    #[test]
    #[should_panic(expected = "the reason")]
    fn a_wrong_code_shows_what_was_said() {
        sh("echo the reason >&2; exit 1").ok();
    }

    #[test]
    fn a_deadline_kills_the_program_and_its_children() {
        let run = sh("sleep 1000 & echo $!; wait").deadline(Duration::from_millis(300));
        let output = run.output();
        assert!(output.timed_out, "{output}");
        assert!(output.elapsed < SOON, "{output}");
        let child: u32 = output.stdout.trim().parse().expect("the child's id");
        wait_until(SOON, || (state(child).is_none_or(|state| state == 'Z')).then_some(())).expect("a dead child");
    }

    #[test]
    fn a_daemon_that_holds_the_output_is_noticed() {
        let output = sh("sleep 1000 & echo $!").output();
        assert!(output.left_open);
        send(output.stdout.trim().parse().expect("the daemon's id"), libc::SIGKILL);
        assert!(!sh("exit 0").output().left_open);
    }

    #[test]
    fn a_dropped_guard_leaves_nothing() {
        let child = sh("echo up; sleep 1000").spawn();
        wait_until(SOON, || child.stdout().contains("up").then_some(())).expect("a started program");
        let pid = child.pid();
        drop(child);
        assert_eq!(state(pid), None);
    }

    #[test]
    fn events_are_picked_by_type() {
        let output = sh(r#"echo '{"type":"version"}'; echo '{"type":"result","ok":true}'"#).ok();
        let events = output.events("result");
        assert_eq!((events.len(), &events[0]["ok"]), (1, &serde_json::Value::Bool(true)));
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        assert_eq!(wait_until(Duration::from_millis(20), || None::<()>), None);
        let mut n = 0;
        let answer = wait_until(SOON, || {
            n += 1;
            (n == 3).then_some(n)
        });
        assert_eq!(answer, Some(3));
    }
}
