//! A program and all that it starts, step by step: one of them is killed before any one of its steps.
//!
//! Steps are the calls that somebody else can see: those that change a file, write to a pipe or a socket, listen, steer connections, signal or start a process, and the end. The whole tree is
//! traced by one thread. Programs that are not followed are let go as soon as they are what they are, and those that live on are let go at the end.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::{CALL, Caller, What, go_on, info, result};
use crate::process::Run;

/// How often it is asked whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// Which processes of a tree count, and when one of them is killed.
pub struct Watch<'a> {
    /// Whether a program, with these words, is one whose steps count.
    pub counts: &'a (dyn Fn(&[String]) -> bool + Sync),
    /// Whether it is followed at all, or let go.
    pub follows: &'a (dyn Fn(&[String]) -> bool + Sync),
    /// The step, counted from 1, that the process which is about to make it does not live to make.
    pub kill_before: Option<usize>,
    /// Done while it stands before that step.
    pub at_the_kill: &'a (dyn Fn() + Sync),
    /// Asked again and again once the first program has ended: whether what goes on after it is over, too.
    pub is_over: &'a (dyn Fn() -> bool + Sync),
}

/// A tree that was watched.
#[derive(Debug)]
pub struct Followed {
    /// The steps that count, in words, in the order in which they began; the last of them is the one that was not made, where somebody was killed.
    pub steps: Vec<String>,
    /// Who was killed.
    pub killed: Option<u32>,
    /// The exit code of the first program, unless it was the one.
    pub code: Option<i32>,
}

/// Runs a program, its output thrown away, until it has ended and what it left is over.
#[track_caller]
pub fn follow(run: &Run, watch: &Watch<'_>) -> Followed {
    // The thread that starts it is the one that traces it; its end is the end of all tracing.
    thread::scope(|scope| scope.spawn(|| trace(run, watch)).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn trace(run: &Run, watch: &Watch<'_>) -> Followed {
    let mut command = run.command();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: ptrace with PTRACE_TRACEME takes numbers only; it is one of the calls that a child may make before it is another program.
    unsafe { command.pre_exec(|| result(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)).map(drop)) };
    let child = command.spawn().unwrap_or_else(|error| panic!("start {:?}: {error}", command.get_program()));
    let root = child.id() as libc::pid_t;
    // Its end is heard below.
    std::mem::forget(child);
    let followed = Followed { steps: vec![], killed: None, code: None };
    let mut tree = Tree { watch, counted: HashMap::new(), groups: HashMap::new(), followed, asked: Instant::now() };
    tree.begin(root);
    while !(tree.groups.is_empty() || tree.is_over(root)) {
        tree.hear(root);
    }
    tree.let_go();
    tree.followed
}

struct Tree<'a> {
    watch: &'a Watch<'a>,
    /// The processes that are a program of their own, and whether its steps count.
    counted: HashMap<libc::pid_t, bool>,
    /// The process of each thread.
    groups: HashMap<libc::pid_t, libc::pid_t>,
    followed: Followed,
    /// When it was asked last whether it is over.
    asked: Instant,
}

impl Tree<'_> {
    fn begin(&mut self, root: libc::pid_t) {
        wait(root);
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK
            | libc::PTRACE_O_TRACEEXEC;
        // SAFETY: a request with a number, to a child that is stopped.
        result(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, root, 0, options) }).expect("a kernel that traces");
        self.groups.insert(root, root);
        self.counted.insert(root, (self.watch.counts)(&words(root)));
        go_on(root, 0);
    }

    fn root_ended(&self, root: libc::pid_t) -> bool {
        !self.groups.contains_key(&root)
    }

    /// Returns whether nobody is followed any more. What others see is asked now and then only: it takes longer than a step.
    fn is_over(&mut self, root: libc::pid_t) -> bool {
        if !self.root_ended(root) {
            return false;
        }
        if self.followed.killed.is_some() {
            return true;
        }
        let is_time = self.asked.elapsed() >= LOOK;
        if is_time {
            self.asked = Instant::now();
        }
        is_time && (self.watch.is_over)()
    }

    /// Takes the next thing that a thread does; returns after a moment without any.
    fn hear(&mut self, root: libc::pid_t) {
        let heard = if self.root_ended(root) { wait_a_moment() } else { wait(-1).ok_or(Nobody) };
        let (tid, status) = match heard {
            Ok((0, _)) => return,
            Ok(heard) => heard,
            Err(Nobody) => return self.groups.clear(),
        };
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            self.groups.remove(&tid);
            self.counted.remove(&tid);
            if tid == root && libc::WIFEXITED(status) {
                self.followed.code = Some(libc::WEXITSTATUS(status));
            }
            return;
        }
        let group = *self.groups.entry(tid).or_insert_with(|| group_of(tid));
        match (libc::WSTOPSIG(status), status >> 16) {
            (libc::SIGTRAP, libc::PTRACE_EVENT_EXEC) => {
                let words = words(tid);
                if !(self.watch.follows)(&words) {
                    self.groups.retain(|_, of| *of != group);
                    return detach(tid);
                }
                self.counted.insert(group, (self.watch.counts)(&words));
            }
            (CALL, _) => self.call(tid, group),
            // A process or a thread begins, or something of ptrace's own.
            (libc::SIGSTOP | libc::SIGTRAP, _) => {}
            (signal, _) => return go_on(tid, signal),
        }
        go_on(tid, 0);
    }

    fn call(&mut self, tid: libc::pid_t, group: libc::pid_t) {
        if self.followed.killed.is_some() || self.counted.get(&group) != Some(&true) {
            return;
        }
        let Some(info) = info(tid).filter(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY) else { return };
        // SAFETY: the kernel says that this is what it filled in.
        let entry = unsafe { info.u.entry };
        let Some(step) = step(&Caller(tid), entry.nr as libc::c_long, entry.args) else { return };
        self.followed.steps.push(step);
        if self.watch.kill_before == Some(self.followed.steps.len()) {
            (self.watch.at_the_kill)();
            self.followed.killed = Some(group as u32);
            // SAFETY: two numbers. The thread is stopped before its call, and will not make it.
            unsafe { libc::kill(group, libc::SIGKILL) };
        }
    }

    /// Lets go what lives on: each thread is stopped for it, and forgets that anybody looked.
    ///
    /// Whoever stops first is let go first: a thread that starts a process stands still until that is another program, and so until it is let go.
    fn let_go(&mut self) {
        for (tid, group) in &self.groups {
            // SAFETY: numbers only; a thread that has ended meanwhile is no failure.
            unsafe { libc::syscall(libc::SYS_tgkill, *group, *tid, libc::SIGSTOP) };
        }
        // Those that have just begun and were not heard of yet, too: until nobody is left to hear of.
        while let Some((tid, status)) = wait(-1) {
            if !libc::WIFSTOPPED(status) {
                continue;
            }
            match libc::WSTOPSIG(status) {
                libc::SIGSTOP => detach(tid),
                CALL | libc::SIGTRAP => go_on(tid, 0),
                signal => go_on(tid, signal),
            }
        }
        self.groups.clear();
    }
}

/// Returns what a call does that others can see.
fn step(caller: &Caller, number: libc::c_long, args: [u64; 6]) -> Option<String> {
    if let Some((what, path, _)) = caller.meaning(number, args) {
        let seen = what == What::Say || !path.starts_with("/dev");
        return seen.then(|| format!("{what:?} {}", path.display()));
    }
    let starts = |flags: u64| flags & libc::CLONE_THREAD as u64 == 0;
    let says = || caller.file(args[0]).to_string_lossy().starts_with("socket:");
    let what = match number {
        libc::SYS_write | libc::SYS_writev | libc::SYS_sendto | libc::SYS_sendmsg if says() => "say to a socket",
        libc::SYS_setsockopt if args[1] == libc::SOL_SOCKET as u64 && args[2] == libc::SO_ATTACH_REUSEPORT_CBPF as u64 => "steer",
        libc::SYS_bind => "bind",
        libc::SYS_listen => "listen",
        libc::SYS_kill | libc::SYS_pidfd_send_signal => "signal",
        libc::SYS_clone if starts(args[0]) => "start",
        libc::SYS_clone3 if starts(caller.number(args[0])) => "start",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork | libc::SYS_vfork => "start",
        libc::SYS_execve => "become another program",
        libc::SYS_exit_group => "end",
        _ => return None,
    };
    Some(what.to_owned())
}

/// Returns the words a process was started with.
fn words(pid: libc::pid_t) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn group_of(tid: libc::pid_t) -> libc::pid_t {
    let status = fs::read_to_string(Path::new("/proc").join(tid.to_string()).join("status")).unwrap_or_default();
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    group.and_then(|group| group.trim().parse().ok()).unwrap_or(tid)
}

/// Waits for a thread, or for any; `None`: there is none.
fn wait(tid: libc::pid_t) -> Option<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: the status is a number that lives until the call returns. Children of other threads are not ours to wait for.
        match unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::__WNOTHREAD) } {
            -1 if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
            -1 => return None,
            tid => return Some((tid, status)),
        }
    }
}

/// There is nobody to wait for.
struct Nobody;

/// Waits for any thread, but not for long; nobody, number 0, has done anything then. The pauses are short at first: most follow each other at once.
fn wait_a_moment() -> Result<(libc::pid_t, libc::c_int), Nobody> {
    let mut status = 0;
    for n in 0..8 {
        // SAFETY: as in `wait`.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG) } {
            0 => thread::sleep(Duration::from_micros(20 << n)),
            -1 => return Err(Nobody),
            tid => return Ok((tid, status)),
        }
    }
    Ok((0, 0))
}

fn detach(tid: libc::pid_t) {
    // SAFETY: numbers only.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, tid, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dir: &Path, kill_before: Option<usize>) -> Followed {
        let inner = dir.join("inner.sh");
        fs::write(&inner, format!("cd {}; echo 1 > a; echo 2 > b", dir.display())).expect("written");
        let script = format!("sh {} inner; echo 3 > {}/c", inner.display(), dir.display());
        let counts = |words: &[String]| words.contains(&"inner".to_owned());
        let watch = Watch { counts: &counts, follows: &|_| true, kill_before, at_the_kill: &|| (), is_over: &|| true };
        follow(&Run::new("sh").args(["-c", &script]), &watch)
    }

    #[test]
    fn one_program_of_a_tree_is_killed_before_any_of_its_steps_and_the_others_go_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let all = of(dir.path(), None);
        assert_eq!((all.killed, all.code), (None, Some(0)));
        assert!(all.steps.len() >= 5 && all.steps.last().is_some_and(|step| step == "end"), "{all:?}");
        for n in 1..=all.steps.len() {
            ["a", "b", "c"].iter().for_each(|name| drop(fs::remove_file(dir.path().join(name))));
            let killed = of(dir.path(), Some(n));
            assert!(killed.killed.is_some() && killed.steps == all.steps[..n], "{killed:?}");
            let there = |name: &str| dir.path().join(name).exists();
            assert_eq!((there("a"), there("b"), there("c")), (n > 1, n > 3, true), "{n}");
        }
        assert_eq!(of(dir.path(), Some(all.steps.len() + 1)).killed, None);
    }

    #[test]
    fn what_is_just_starting_another_program_is_let_go_too() {
        let dir = tempfile::tempdir().expect("a directory");
        // As Rust's Command, Python stands still until the new process is another program: at nearly every moment it is.
        let script = "import os, subprocess\nopen('ready', 'w')\nwhile os.path.exists('ready') and not os.path.exists('enough'):\n  subprocess.run(['true'])\n";
        fs::write(dir.path().join("starts.py"), script).expect("written");
        let run = Run::new("sh").args(["-c", "python3 starts.py &"]).dir(dir.path());
        for _ in 0..4 {
            ["ready", "enough"].iter().for_each(|name| drop(fs::remove_file(dir.path().join(name))));
            let is_over = || dir.path().join("ready").exists();
            let watch =
                Watch { counts: &|_| false, follows: &|_| true, kill_before: None, at_the_kill: &|| (), is_over: &is_over };
            assert_eq!(follow(&run, &watch).code, Some(0));
            fs::write(dir.path().join("enough"), "").expect("written");
        }
    }

    #[test]
    fn what_lives_on_is_let_go() {
        let run = Run::new("sh").args(["-c", "sleep 1000 & echo $! > pid; exit 3"]);
        let dir = tempfile::tempdir().expect("a directory");
        let watch = Watch { counts: &|_| true, follows: &|_| true, kill_before: None, at_the_kill: &|| (), is_over: &|| true };
        assert_eq!(follow(&run.dir(dir.path()), &watch).code, Some(3));
        let pid: u32 = fs::read_to_string(dir.path().join("pid")).expect("read").trim().parse().expect("a number");
        let status = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let free = || (status().contains("TracerPid:\t0") && status().contains("State:\tS")).then_some(());
        assert!(crate::wait_until(Duration::from_secs(20), free).is_some(), "{}", status());
        crate::survivors::send(pid, libc::SIGKILL);
    }
}
