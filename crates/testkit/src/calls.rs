//! A program's changes to files, call by call: it is killed before any one of them, or all are listed in their order.
//!
//! The program runs under ptrace, with all its threads. Counted are the system calls that change a file, make a change durable, or write to anybody else: a pipe.
//! [`meddle`] also looks away from some, does something while the program stands before one, or answers in the kernel's place. [`order`] says of such a list what a
//! power cut could have taken; [`tree`] follows what a program starts, too.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{collections::HashMap, ffi::OsString, io, mem, ptr, thread};

use crate::process::Run;

pub mod order;
pub mod tree;

/// A call that changes something, or makes it durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What it does.
    pub what: What,
    /// What it is about: the whole path, as far as the kernel tells it.
    pub path: PathBuf,
    /// The new name that a link or a rename makes.
    pub to: PathBuf,
    /// How many calls had ended when this one began.
    pub began: usize,
    /// Its number among all that began, from 1.
    pub number: usize,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// Opens a file that it may make.
    Open,
    /// Makes a directory.
    Directory,
    /// Changes the bytes of a file, or its length.
    Write,
    /// Changes what is known of a file: its mode or its times.
    Mark,
    /// Makes one more name of a file.
    Link,
    /// Makes a symbolic link.
    Symlink,
    /// Renames.
    Rename,
    /// Removes a name.
    Remove,
    /// Syncs a file or a directory.
    Sync,
    /// Syncs the whole file system.
    SyncAll,
    /// Writes to a pipe: whoever is at its other end.
    Say,
}

/// A program that was watched to its end.
#[derive(Debug)]
pub struct Watched {
    /// The calls that succeeded, in the order in which they ended.
    pub calls: Vec<Call>,
    /// How many calls began, whatever came of them.
    pub n_begun: usize,
    /// Whether it was killed.
    pub killed: bool,
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
}

/// What is done to a program that is watched.
pub struct Meddling<'a> {
    /// Whether a call counts; the others are made, and nobody hears of them.
    pub counts: &'a (dyn Fn(&Call) -> bool + Sync),
    /// The call, counted from 1 among those that count, that the program does not live to make.
    pub kill_before: Option<usize>,
    /// Done while the program stands before that call.
    pub at_the_kill: &'a (dyn Fn() + Sync),
    /// What a call comes to that is not made: a result, or an error number below zero. `None`: it is made. Of a sync the file is handed over; as long as it is kept, no
    /// other file gets its inode.
    pub answers: &'a (dyn Fn(&Call, Option<File>) -> Option<i64> + Sync),
}

impl Meddling<'_> {
    /// Nothing is done to it.
    pub const NONE: Meddling<'static> =
        Meddling { counts: &|_| true, kill_before: None, at_the_kill: &|| (), answers: &|_, _| None };
}

/// Whether calls can be answered in the kernel's place on this kind of machine.
pub const CAN_ANSWER: bool = cfg!(target_arch = "x86_64");

/// Runs a program with a file as its input; `kill_before` names the call, counted from 1, that it does not live to make.
#[track_caller]
pub fn watch(program: &Path, args: &[OsString], stdin: &Path, kill_before: Option<usize>) -> Watched {
    meddle(&Run::new(program).args(args), Some(stdin), &Meddling { kill_before, ..Meddling::NONE })
}

/// Runs a program, with a file as its input or none, and meddles; what it reports is thrown away.
#[track_caller]
pub fn meddle(run: &Run, stdin: Option<&Path>, meddling: &Meddling<'_>) -> Watched {
    let open = |path: &Path| File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut command = run.command();
    command.stdin(stdin.map_or_else(Stdio::null, |path| open(path).into())).stdout(Stdio::piped()).stderr(Stdio::null());
    // The thread that starts it is the one that traces it, and it hears of nothing else.
    let watched = thread::scope(|scope| scope.spawn(|| trace(command, meddling)).join());
    watched.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn trace(mut command: Command, meddling: &Meddling<'_>) -> Watched {
    // SAFETY: ptrace with PTRACE_TRACEME takes numbers only; it is one of the calls that a child may make before it is another program.
    unsafe { command.pre_exec(|| result(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)).map(drop)) };
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {:?}: {error}", command.get_program()));
    let mut stdout = child.stdout.take().expect("a pipe asked for above");
    let said = thread::spawn(move || {
        let mut said = vec![];
        stdout.read_to_end(&mut said).map(|_| said)
    });
    let pid = child.id() as libc::pid_t;
    let mut tracer = Tracer { pid, meddling, entered: HashMap::new(), calls: vec![], n_begun: 0, killed: false, code: None };
    tracer.run();
    // Its end was heard already.
    mem::forget(child);
    let stdout = said.join().expect("a thread that only reads").expect("a pipe can be read");
    Watched { calls: tracer.calls, n_begun: tracer.n_begun, killed: tracer.killed, code: tracer.code, stdout }
}

struct Tracer<'a> {
    pid: libc::pid_t,
    meddling: &'a Meddling<'a>,
    /// What each thread is in the middle of.
    entered: HashMap<libc::pid_t, Call>,
    calls: Vec<Call>,
    n_begun: usize,
    killed: bool,
    code: Option<i32>,
}

impl Tracer<'_> {
    fn run(&mut self) {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
        self.wait_for(self.pid);
        // SAFETY: a request with a number, to a child that is stopped.
        result(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, self.pid, 0, options) }).expect("a kernel that traces");
        go_on(self.pid, 0);
        loop {
            let (tid, status) = self.wait_for(-1);
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                // The first thread is the last to be heard of.
                if tid == self.pid {
                    self.code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
                    return;
                }
                continue;
            }
            let signal = libc::WSTOPSIG(status);
            match signal {
                CALL => self.call(tid),
                // A thread begins, or something of ptrace's own.
                libc::SIGSTOP | libc::SIGTRAP => {}
                other => {
                    go_on(tid, other);
                    continue;
                }
            }
            go_on(tid, 0);
        }
    }

    fn wait_for(&self, pid: libc::pid_t) -> (libc::pid_t, libc::c_int) {
        let mut status = 0;
        loop {
            // SAFETY: the status is a number that lives until the call returns. Children of other threads are not ours to wait for.
            match unsafe { libc::waitpid(pid, &mut status, libc::__WALL | libc::__WNOTHREAD) } {
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                -1 => panic!("wait for a traced program: {}", io::Error::last_os_error()),
                tid => return (tid, status),
            }
        }
    }

    /// Looks at a thread that is about to make a call, or has made one.
    fn call(&mut self, tid: libc::pid_t) {
        let Some(info) = info(tid) else { return };
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            // SAFETY: the kernel says that this is what it filled in.
            let is_done = unsafe { info.u.exit.is_error } == 0;
            if let Some(call) = self.entered.remove(&tid).filter(|_| is_done) {
                self.calls.push(call);
            }
            return;
        }
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return;
        }
        // SAFETY: the kernel says that this is what it filled in.
        let entry = unsafe { info.u.entry };
        let Some((what, path, to)) = Caller(tid).meaning(entry.nr as libc::c_long, entry.args) else { return };
        let call = Call { what, path, to, began: self.calls.len(), number: self.n_begun + 1 };
        if !(self.meddling.counts)(&call) {
            return;
        }
        self.n_begun += 1;
        if self.meddling.kill_before == Some(self.n_begun) {
            (self.meddling.at_the_kill)();
            self.killed = true;
            // SAFETY: two numbers. The thread is stopped before its call, and will not make it.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
        let file = (what == What::Sync).then(|| Caller(tid).open(entry.args[0])).flatten();
        if let Some(answer) = (self.meddling.answers)(&call, file) {
            answer_instead(tid, answer);
        }
        self.entered.insert(tid, call);
    }
}

/// The stop of a thread at a call, as PTRACE_O_TRACESYSGOOD marks it.
const CALL: libc::c_int = libc::SIGTRAP | 0x80;

/// A thread that is stopped at a call.
struct Caller(libc::pid_t);

impl Caller {
    /// Returns what a call is about to change, if it changes anything.
    fn meaning(&self, number: libc::c_long, args: [u64; 6]) -> Option<(What, PathBuf, PathBuf)> {
        let none = PathBuf::new;
        let [a, b, c, d, ..] = args;
        let (at, here) = (|dir, path| self.path(dir, path), |path| self.path(libc::AT_FDCWD as u64, path));
        let makes = |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0;
        Some(match number {
            libc::SYS_openat if makes(c) => (What::Open, at(a, b), none()),
            libc::SYS_openat2 if makes(self.number(c)) => (What::Open, at(a, b), none()),
            libc::SYS_mkdirat => (What::Directory, at(a, b), none()),
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
                self.written(a)?
            }
            libc::SYS_ftruncate | libc::SYS_fallocate => (What::Write, self.file(a), none()),
            libc::SYS_copy_file_range => (What::Write, self.file(c), none()),
            libc::SYS_sendfile | libc::SYS_fchmod => {
                (if number == libc::SYS_fchmod { What::Mark } else { What::Write }, self.file(a), none())
            }
            libc::SYS_ioctl if b == libc::FICLONE => (What::Write, self.file(a), none()),
            libc::SYS_fchmodat => (What::Mark, at(a, b), none()),
            libc::SYS_utimensat if b == 0 => (What::Mark, self.file(a), none()),
            libc::SYS_utimensat => (What::Mark, at(a, b), none()),
            libc::SYS_linkat => (What::Link, at(a, b), at(c, d)),
            libc::SYS_symlinkat => (What::Symlink, at(b, c), none()),
            libc::SYS_renameat2 | libc::SYS_renameat => (What::Rename, at(a, b), at(c, d)),
            libc::SYS_unlinkat => (What::Remove, at(a, b), none()),
            libc::SYS_fsync | libc::SYS_fdatasync => (What::Sync, self.file(a), none()),
            libc::SYS_syncfs => (What::SyncAll, self.file(a), none()),
            libc::SYS_sync => (What::SyncAll, none(), none()),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open if makes(b) => (What::Open, here(a), none()),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => (What::Directory, here(a), none()),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chmod => (What::Mark, here(a), none()),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_link => (What::Link, here(a), here(b)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_symlink => (What::Symlink, here(b), none()),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => (What::Rename, here(a), here(b)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink | libc::SYS_rmdir => (What::Remove, here(a), none()),
            libc::SYS_truncate => (What::Write, here(a), none()),
            _ => return None,
        })
    }

    fn written(&self, fd: u64) -> Option<(What, PathBuf, PathBuf)> {
        let path = self.file(fd);
        let is_pipe = path.to_string_lossy().starts_with("pipe:");
        (is_pipe || path.is_absolute()).then(|| (if is_pipe { What::Say } else { What::Write }, path, PathBuf::new()))
    }

    /// Returns what a descriptor stands for.
    fn file(&self, fd: u64) -> PathBuf {
        fs::read_link(format!("/proc/{}/fd/{}", self.0, fd as i32)).unwrap_or_default()
    }

    /// Opens what a descriptor stands for once more.
    fn open(&self, fd: u64) -> Option<File> {
        File::open(format!("/proc/{}/fd/{}", self.0, fd as i32)).ok()
    }

    fn path(&self, dir: u64, path: u64) -> PathBuf {
        let path = PathBuf::from(OsString::from_vec(self.text(path)));
        match dir as i32 {
            _ if path.is_absolute() => path,
            libc::AT_FDCWD => fs::read_link(format!("/proc/{}/cwd", self.0)).unwrap_or_default().join(path),
            _ => self.file(dir).join(path),
        }
    }

    fn text(&self, at: u64) -> Vec<u8> {
        let mut text = self.read(at, 4096);
        text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(text.len()));
        text
    }

    fn number(&self, at: u64) -> u64 {
        self.read(at, 8).try_into().map_or(0, u64::from_ne_bytes)
    }

    /// Returns what can be read there, at most so many bytes.
    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let memory = File::open(format!("/proc/{}/mem", self.0));
        let n = memory.and_then(|memory| memory.read_at(&mut bytes, at)).unwrap_or(0);
        bytes.truncate(n);
        bytes
    }
}

fn go_on(tid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: numbers only. A thread that was killed meanwhile is no failure: its end will be heard.
    unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid, 0, signal) };
}

/// Lets a call that is about to be made come to nothing but this result.
#[cfg(target_arch = "x86_64")]
fn answer_instead(tid: libc::pid_t, answer: i64) {
    // SAFETY: zeroes are a value of this struct of numbers.
    let mut registers: libc::user_regs_struct = unsafe { mem::zeroed() };
    // SAFETY: the kernel fills in this struct, and reads it again below. A thread that was killed meanwhile makes no call.
    if unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, 0, ptr::from_mut(&mut registers)) } == -1 {
        return;
    }
    // There is no call of this number, and for that one the kernel leaves the result as it is.
    registers.orig_rax = u64::MAX;
    registers.rax = answer as u64;
    // SAFETY: as above.
    unsafe { libc::ptrace(libc::PTRACE_SETREGS, tid, 0, ptr::from_mut(&mut registers)) };
}

#[cfg(not(target_arch = "x86_64"))]
fn answer_instead(_: libc::pid_t, _: i64) {
    panic!("calls cannot be answered on this kind of machine");
}

fn info(tid: libc::pid_t) -> Option<libc::ptrace_syscall_info> {
    // SAFETY: zeroes are a value of this struct of numbers.
    let mut info: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
    // SAFETY: the kernel fills in no more than the length that it is told, which is that of the struct.
    let len = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, mem::size_of_val(&info), ptr::from_mut(&mut info)) };
    (len > 0).then_some(info)
}

fn result(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &Path, script: &str, kill_before: Option<usize>) -> Watched {
        fs::write(dir.join("input"), "said").expect("written");
        let script = format!("cd {}; {script}", dir.display());
        watch(Path::new("/bin/sh"), &["-c".into(), script.into()], &dir.join("input"), kill_before)
    }

    #[test]
    fn what_changes_a_file_is_listed_in_its_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = fs::canonicalize(dir.path()).expect("it is there");
        let watched = shell(&dir, "read x; echo $x > a; exec 2>b; echo done", None);
        let calls: Vec<_> = watched.calls.iter().map(|call| (call.what, call.path.as_path())).collect();
        let (a, b) = (dir.join("a"), dir.join("b"));
        assert_eq!(calls[..3], [(What::Open, a.as_path()), (What::Write, &a), (What::Open, &b)], "{calls:?}");
        assert_eq!((calls[3].0, &watched.stdout[..], watched.killed), (What::Say, &b"done\n"[..], false));
    }

    #[test]
    fn a_call_that_is_answered_is_not_made_and_the_program_believes_the_answer() {
        if !CAN_ANSWER {
            return eprintln!("not run: calls cannot be answered on this kind of machine");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let dir = fs::canonicalize(dir.path()).expect("it is there");
        let python = "import os\nos.mkdir('a')\ntry: os.mkdir('b')\nexcept OSError as error: raise SystemExit(error.errno)\n";
        let python = Run::new("python3").args(["-c", python]).dir(&dir);
        let answers = |call: &Call, _| match call.path.file_name()?.to_str()? {
            "a" => Some(0),
            _ => Some(-i64::from(libc::EDQUOT)),
        };
        let counts = |call: &Call| call.what == What::Directory;
        let watched = meddle(&python, None, &Meddling { counts: &counts, answers: &answers, ..Meddling::NONE });
        assert_eq!((watched.code, watched.n_begun, watched.calls.len()), (Some(libc::EDQUOT), 2, 1), "{watched:?}");
        assert!(!dir.join("a").exists() && !dir.join("b").exists());
    }

    #[test]
    fn a_program_is_killed_before_the_call_that_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = fs::canonicalize(dir.path()).expect("it is there");
        for (n, there) in [(1, &[][..]), (2, &["a"]), (3, &["a"]), (4, &["a", "b"])] {
            let watched = shell(&dir, "echo 1 > a; echo 2 > b", Some(n));
            assert!(watched.killed && watched.n_begun == n, "{watched:?}");
            let found: Vec<&str> = ["a", "b"].into_iter().filter(|name| dir.join(name).exists()).collect();
            assert_eq!(found, there);
            let written = fs::read(dir.join("a")).is_ok_and(|bytes| bytes == b"1\n");
            assert_eq!(written, n > 2, "{n}");
            ["a", "b"].iter().for_each(|name| drop(fs::remove_file(dir.join(name))));
        }
        assert!(!shell(&dir, "echo 1 > a", Some(9)).killed);
    }
}
