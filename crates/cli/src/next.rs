//! Which `df` comes after ours, and becoming it.
//!
//! The next one stands on PATH *after our own entry*: a wrapper in front of us that calls us must not be called back. Our own device and
//! inode are skipped under whatever name they lie there, and so is any other distributive-flow, which is recognised without running it
//! by a marker that every build of this program holds.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use df_core::text::{escape, shorten};

use crate::exit::Exit;

/// Device and inode: what a file is, under any name.
pub type FileId = (u64, u64);

/// Why no other `df` took over.
#[derive(Debug, thiserror::Error)]
pub enum NextError {
    /// PATH has no further `df`.
    #[error("these words are not for distributive-flow, and PATH has no other `df` after {}", escape(.own.as_os_str().as_bytes()))]
    None {
        /// Our own program.
        own: PathBuf,
    },
    /// Something on PATH that calls itself `df` calls us again.
    #[error("these words are not for distributive-flow, and the next `df` on PATH, {}, hands them back", escape(.next.as_os_str().as_bytes()))]
    Circle {
        /// The program that calls back.
        next: PathBuf,
    },
    /// The system would not start it.
    #[error("start the next `df`, {}", escape(.next.as_os_str().as_bytes()))]
    Start {
        /// The program that would not start.
        next: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Every build of this program holds these bytes, so that one distributive-flow knows another.
#[used]
static MARKER: [u8; MARKER_LEN] = *b"\x01distributive-flow\x02is this df; the next one is further along PATH\x03";
const MARKER_LEN: usize = 66;

/// The longest program that is searched for the marker.
const SEARCHED_BYTES: u64 = 256 << 20;

/// How often words may have been passed on by the processes that led here: more is a circle of programs that call each other.
const MAX_PASSES: u32 = 8;
const PASSES: &str = "DISTRIBUTIVE_FLOW_PASSES";

/// Becomes the next `df` with these arguments. Returns only when there is none: the reason is on stderr then.
pub fn pass_on(args: &[OsString]) -> Exit {
    explain(&become_next(args))
}

/// Prints our version line, then becomes the next `df`, which prints its own; without one our line is the whole answer.
pub fn version_both(args: &[OsString]) -> Exit {
    let mut out = io::stdout();
    // A reader that went away is the next program's to notice as well.
    let _ = writeln!(out, "{}", version_line()).and_then(|()| out.flush());
    match become_next(args) {
        NextError::None { .. } => Exit::Done,
        other => explain(&other),
    }
}

/// Returns `distributive-flow 0.1.0`.
pub fn version_line() -> String {
    format!("distributive-flow {}", env!("CARGO_PKG_VERSION"))
}

/// Prints the last line of our help: who gets the words that are not ours.
pub fn name_the_next() {
    let line = match find_next().1 {
        Some(next) => format!(
            "All other words go to the next df on PATH: {} (`{0} --help` shows its own help)",
            escape(next.as_os_str().as_bytes())
        ),
        None => "All other words would go to the next df on PATH, but there is none".to_owned(),
    };
    let _ = writeln!(io::stdout(), "\n{line}");
}

/// Tells a person, and only a person, which command of ours was perhaps meant.
pub fn hint(word: &OsStr, command: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        let word = shorten(&escape(word.as_bytes()), 40);
        let _ = writeln!(stderr, "df: `{word}` is no command of distributive-flow; the nearest is `df {command}`");
    }
}

/// Returns the first `df` on `path_var` that comes after the file `own`, is not that file and not another distributive-flow.
///
/// Where `own` lies in no directory of PATH (it was started by its path), the search begins at the front.
pub fn next_df(path_var: &OsStr, own: FileId) -> Option<PathBuf> {
    let candidates: Vec<_> = env::split_paths(path_var).filter_map(candidate).collect();
    let after = candidates.iter().position(|(_, id)| *id == own).map_or(0, |at| at + 1);
    candidates.into_iter().skip(after).find(|(path, id)| *id != own && !is_distributive_flow(path)).map(|(path, _)| path)
}

/// Replaces this process by the next `df`, called `df` as the shell would (busybox goes by that name).
fn become_next(args: &[OsString]) -> NextError {
    let (own, next) = find_next();
    let Some(next) = next else { return NextError::None { own } };
    let passes = env::var(PASSES).ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    if passes >= MAX_PASSES {
        return NextError::Circle { next };
    }
    let source = Command::new(&next).arg0("df").args(args).env(PASSES, (passes + 1).to_string()).exec();
    NextError::Start { next, source }
}

fn explain(error: &NextError) -> Exit {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let _ = writeln!(io::stderr(), "df: {error}{cause}; `df --help` lists our commands");
    Exit::NoNextDf
}

/// Returns our own program and the next one.
fn find_next() -> (PathBuf, Option<PathBuf>) {
    let own = env::current_exe().unwrap_or_else(|_| PathBuf::from("df"));
    // The link also leads to a program that was replaced or removed while it runs.
    let id = fs::metadata("/proc/self/exe").map(|meta| (meta.dev(), meta.ino())).unwrap_or((0, 0));
    let path_var = env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    (own, next_df(&path_var, id))
}

/// Returns the program `df` of a directory, if it holds one that we may start. An empty entry of PATH is the current directory.
fn candidate(dir: PathBuf) -> Option<(PathBuf, FileId)> {
    let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir };
    let path = dir.join("df");
    let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).ok()?;
    Some((path, (meta.dev(), meta.ino())))
}

/// Tells whether the file holds the marker. What cannot be read is taken for a stranger: it can be started all the same.
fn is_distributive_flow(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| holds_marker(file.take(SEARCHED_BYTES)).unwrap_or(false))
}

fn holds_marker(mut bytes: impl Read) -> io::Result<bool> {
    // Opaque to the optimiser, which might else take the static apart into constants of the search.
    let marker: &[u8] = std::hint::black_box(&MARKER);
    let mut window = vec![0; 256 << 10];
    let mut len = 0;
    loop {
        let n = match bytes.read(&mut window[len..]) {
            Ok(0) => return Ok(false),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        len += n;
        if contains(&window[..len], marker) {
            return Ok(true);
        }
        let kept = len.min(marker.len() - 1);
        window.copy_within(len - kept..len, 0);
        len = kept;
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&b| b == part[0]) {
        if rest[at..].starts_with(part) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Output;

    use super::*;

    /// Directories `a`, `b`, ... for a PATH, each with a `df` or without.
    struct Places(tempfile::TempDir);

    impl Places {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }
        fn dir(&self, dir: &str) -> PathBuf {
            let path = self.0.path().join(dir);
            fs::create_dir_all(&path).expect("a directory");
            path
        }
        fn put(&self, dir: &str, bytes: &[u8]) -> PathBuf {
            let path = self.dir(dir).join("df");
            fs::write(&path, bytes).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
            path
        }
        fn path_var(&self, dirs: &str) -> OsString {
            env::join_paths(dirs.split_whitespace().map(|dir| self.dir(dir))).expect("no colons")
        }
        #[track_caller]
        fn check(&self, dirs: &str, own: &Path, expected: Option<&Path>) {
            let meta = fs::metadata(own).expect("it was just made");
            assert_eq!(next_df(&self.path_var(dirs), (meta.dev(), meta.ino())).as_deref(), expected, "{dirs}");
        }
    }

    fn ours(padding: usize) -> Vec<u8> {
        let mut bytes = vec![1; padding];
        bytes.extend(MARKER);
        bytes.extend([1; 1000]);
        bytes
    }

    #[test]
    fn the_next_df_stands_after_our_own_entry() {
        let at = Places::new();
        let (first, own, last) = (at.put("first", b"#!/bin/sh\n"), at.put("own", b"own"), at.put("last", b"#!/bin/sh\n"));
        at.check("own last", &own, Some(&last));
        at.check("first own last", &own, Some(&last));
        at.check("none own none last first", &own, Some(&last));
        at.check("last own", &own, None);
        at.check("own", &own, None);
        at.check("none", &own, None);
        at.check("first last", &own, Some(&first));
    }

    #[test]
    fn ourselves_under_other_names_and_other_distributive_flows_are_skipped() {
        let at = Places::new();
        let (own, last) = (at.put("own", b"own"), at.put("last", b"the marker distributive-flow is not in here"));
        symlink(&own, at.dir("link").join("df")).expect("a link");
        fs::hard_link(&own, at.dir("hard").join("df")).expect("a link");
        at.put("other", &ours(0));
        // Across the end of the window that is searched at a time.
        at.put("large", &ours((256 << 10) - 20));
        at.check("link own hard other large last", &own, Some(&last));
        at.check("own other large link", &own, None);
        at.check("other last", &own, Some(&last));
    }

    #[test]
    fn what_cannot_be_started_is_skipped() {
        let at = Places::new();
        let (own, last, plain) = (at.put("own", b"own"), at.put("last", b""), at.put("plain", b"text"));
        fs::set_permissions(plain, fs::Permissions::from_mode(0o644)).expect("a mode");
        fs::create_dir(at.dir("dir").join("df")).expect("a directory");
        symlink("nowhere", at.dir("dangling").join("df")).expect("a link");
        at.check("own plain dir dangling last", &own, Some(&last));
    }

    #[test]
    fn this_very_program_holds_the_marker() {
        assert!(is_distributive_flow(&env::current_exe().expect("a program runs")));
        assert!(!is_distributive_flow(Path::new("/bin/sh")));
    }

    /// Not a test by itself: the others start this program again with it alone, and it becomes another `df`.
    #[test]
    fn child() {
        let Some(args) = env::var_os("DF_TEST_PASS_ON") else { return };
        let args: Vec<_> = args.as_bytes().split(|&b| b == b'|').map(|arg| OsStr::from_bytes(arg).to_owned()).collect();
        let exit = if args == ["--version"] { version_both(&args) } else { pass_on(&args) };
        std::process::exit(exit.code().into());
    }

    fn run(path_var: &OsStr, args: &[u8], passes: &str) -> Output {
        let mut child = Command::new(env::current_exe().expect("a program runs"));
        child
            .args(["--exact", "next::tests::child", "--nocapture"])
            .env("DF_TEST_PASS_ON", OsStr::from_bytes(args))
            .env("PATH", path_var);
        if !passes.is_empty() {
            child.env(PASSES, passes);
        }
        child.output().expect("this program starts")
    }

    #[test]
    fn arguments_output_and_exit_status_are_those_of_the_next_df() {
        let at = Places::new();
        at.put("next", b"#!/bin/sh\nfor a in \"$@\"; do printf '<%s>' \"$a\"; done; echo problem >&2; exit 37\n");
        let output = run(&at.path_var("next"), b"--output=source| two words |\xff|-h", "");
        assert_eq!(output.status.code(), Some(37));
        assert!(output.stdout.ends_with(b"<--output=source>< two words ><\xff><-h>"), "{output:?}");
        assert_eq!(output.stderr, b"problem\n");
    }

    #[test]
    fn the_next_df_ends_quietly_when_its_reader_goes_away() {
        // Rust programs ignore SIGPIPE; `df | head` must not inherit that.
        let at = Places::new();
        at.put("next", b"#!/bin/sh\n/bin/grep SigIgn /proc/$$/status\n");
        let output = run(&at.path_var("next"), b"/tmp", "");
        let text = String::from_utf8_lossy(&output.stdout);
        let mask = text.split("SigIgn:").nth(1).and_then(|rest| u64::from_str_radix(rest.trim(), 16).ok());
        assert_eq!(mask.map(|mask| mask & (1 << 12)), Some(0), "{output:?}");
    }

    #[test]
    fn version_is_ours_and_then_the_next() {
        let at = Places::new();
        at.put("next", b"#!/bin/sh\necho \"df (GNU coreutils) 9.1 $1\"\n");
        let output = run(&at.path_var("next"), b"--version", "");
        let expected = format!("{}\ndf (GNU coreutils) 9.1 --version\n", version_line());
        assert!(output.status.success() && output.stdout.ends_with(expected.as_bytes()), "{output:?}");
        let output = run(&at.path_var("none"), b"--version", "");
        assert!(output.status.success() && output.stdout.ends_with(format!("{}\n", version_line()).as_bytes()), "{output:?}");
    }

    #[test]
    fn without_a_next_df_the_exit_is_127_and_says_why() {
        let at = Places::new();
        let output = run(&at.path_var("none"), b"/tmp", "");
        assert_eq!(output.status.code(), Some(127));
        assert!(String::from_utf8_lossy(&output.stderr).contains("PATH has no other `df` after"), "{output:?}");
    }

    #[test]
    fn a_circle_of_wrappers_ends() {
        let at = Places::new();
        at.put("next", b"#!/bin/sh\necho never\n");
        let output = run(&at.path_var("next"), b"/tmp", "8");
        assert_eq!(output.status.code(), Some(127));
        assert!(String::from_utf8_lossy(&output.stderr).contains("hands them back"), "{output:?}");
    }
}
