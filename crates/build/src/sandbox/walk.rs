//! Taking the steps: what the processes of a room do before the program is there.
//!
//! They are copies of one thread of df, made while others may hold any lock, so nothing here allocates, panics or calls anything but the kernel.
//! Where the C library keeps books of its own about threads or users, the call goes around it.

use std::ffi::{CStr, c_int, c_long};

use super::plan::{Call, Step};
use super::who::BUILDER;

/// The descriptors that a room begins with, besides 0, 1 and 2: where its end is told, and where it waits for its beginning.
pub(super) const REPORT: c_int = 3;
/// See [`REPORT`].
pub(super) const GO: c_int = 4;

/// A step failed: its index and errno follow.
pub(super) const FAILED: i32 = 1;
/// The program ended: its status follows.
pub(super) const ENDED: i32 = 2;

/// What a room tells over its pipe.
pub(super) type Report = [i32; 3];

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

#[repr(C, packed)]
struct PathRule {
    allowed: u64,
    parent: i32,
}

type Done = Result<(), c_int>;

/// Puts the descriptors at 0 to 4, closes all others, and takes the steps. Never returns.
///
/// # Safety
/// Only in a process of its own, a copy of the one thread that made it, with all signals blocked. The descriptors are 10 or above.
pub(super) unsafe fn walk(descriptors: [c_int; 5], steps: &[Step]) -> ! {
    // SAFETY: as above; a failure leaves nothing to tell it by, and the parent sees an end without a report.
    unsafe {
        for (place, from) in (0..).zip(descriptors) {
            let flags = if place < REPORT { 0 } else { libc::O_CLOEXEC };
            if libc::dup3(from, place, flags) < 0 {
                exit(126);
            }
        }
        if libc::syscall(libc::SYS_close_range, 5_u32, u32::MAX, 0_u32) < 0 {
            exit(126);
        }
        for (index, step) in (0..).zip(steps) {
            if let Err(errno) = take(step) {
                tell([FAILED, index, errno]);
                exit(127);
            }
        }
        exit(125)
    }
}

/// # Safety
/// As for [`walk`].
unsafe fn take(step: &Step) -> Done {
    // SAFETY: every pointer is to memory of the plan, which outlives the process; the rest are numbers.
    unsafe {
        match step {
            Step::NewSession => ok(libc::syscall(libc::SYS_setsid)),
            Step::DieWithParent => prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64),
            Step::AwaitGo => await_go(),
            Step::Unshare => mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None),
            Step::NewRoot { data } => new_root(data),
            Step::Directory { at, mode, owner } => directory(at, *mode, *owner),
            Step::File { at, text } => file(at, text),
            Step::Link { at, target } => ok(libc::symlink(target.as_ptr(), at.as_ptr()).into()),
            Step::Memory { at, data } => mount(Some(c"df"), at, Some(c"tmpfs"), libc::MS_NOSUID | libc::MS_NODEV, Some(data)),
            Step::Bind { from, at, attributes } => {
                mount(Some(from), at, None, libc::MS_BIND | libc::MS_REC, None)?;
                seal(at, libc::AT_RECURSIVE as u32, *attributes)
            }
            Step::Overlay { at, data } => mount(Some(c"df"), at, Some(c"overlay"), libc::MS_NOSUID | libc::MS_NODEV, Some(data)),
            Step::Proc => proc(),
            Step::Remove { at } => {
                ok(libc::umount2(at.as_ptr(), libc::MNT_DETACH).into())?;
                ok(libc::rmdir(at.as_ptr()).into())
            }
            // RDONLY, NOSUID, NODEV
            Step::SealRoot => seal(c"/", 0, 7),
            Step::HostName { name } => {
                ok(libc::sethostname(name.as_ptr(), name.count_bytes()).into())?;
                ok(libc::setdomainname(c"(none)".as_ptr(), 6).into())
            }
            Step::Undumpable => prctl(libc::PR_SET_DUMPABLE, 0),
            Step::Fork => fork(),
            Step::NoGroups => ok(libc::syscall(libc::SYS_setgroups, 0_usize, 0_usize)),
            Step::BecomeBuilder => {
                ok(libc::syscall(libc::SYS_setresgid, BUILDER, BUILDER, BUILDER))?;
                drop_bounds()?;
                ok(libc::syscall(libc::SYS_setresuid, BUILDER, BUILDER, BUILDER))
            }
            Step::NoCapabilities => no_capabilities(),
            Step::NoNewPrivileges => prctl(libc::PR_SET_NO_NEW_PRIVS, 1),
            Step::Limit { resource, soft, hard } => {
                let limit = [*soft, *hard];
                ok(libc::syscall(libc::SYS_prlimit64, 0, *resource, limit.as_ptr(), 0_usize))
            }
            Step::Umask => {
                libc::syscall(libc::SYS_umask, 0o022);
                Ok(())
            }
            Step::Enter { dir } => ok(libc::chdir(dir.as_ptr()).into()),
            Step::Landlock { attributes, len, rules } => {
                let set = number(libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), *len, 0_u32))?;
                for (path, allowed) in rules {
                    rule(set, path, *allowed)?;
                }
                ok(libc::syscall(libc::SYS_landlock_restrict_self, set, 0_u32))?;
                ok(libc::close(set).into())
            }
            Step::PlainSignals => plain_signals(),
            Step::Filter { program } => {
                let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() };
                ok(libc::syscall(libc::SYS_seccomp, 1_u32, 0_u32, &raw const program))
            }
            Step::Execute(call) => execute(call),
        }
    }
}

/// # Safety
/// As for [`walk`].
unsafe fn await_go() -> Done {
    let mut go = 0_u8;
    // SAFETY: one byte of our own. The end of the pipe without a byte says that df died before it could be the one whose death kills us.
    unsafe {
        if libc::read(GO, (&raw mut go).cast(), 1) != 1 {
            exit(124);
        }
        ok(libc::close(GO).into())
    }
}

/// Mounts a new root over /tmp, which every machine has, and goes there.
///
/// # Safety
/// As for [`walk`].
unsafe fn new_root(data: &CStr) -> Done {
    // SAFETY: constant texts.
    unsafe {
        mount(Some(c"df"), c"/tmp", Some(c"tmpfs"), libc::MS_NOSUID | libc::MS_NODEV, Some(data))?;
        ok(libc::mkdir(c"/tmp/.host".as_ptr(), 0o700).into())?;
        ok(libc::syscall(libc::SYS_pivot_root, c"/tmp".as_ptr(), c"/tmp/.host".as_ptr()))?;
        ok(libc::chdir(c"/".as_ptr()).into())?;
        libc::syscall(libc::SYS_umask, 0);
        Ok(())
    }
}

/// # Safety
/// As for [`walk`].
unsafe fn directory(at: &CStr, mode: u32, owner: u32) -> Done {
    // SAFETY: texts of the plan.
    unsafe {
        match ok(libc::mkdir(at.as_ptr(), mode).into()) {
            Err(libc::EEXIST) => return Ok(()),
            made => made?,
        }
        if owner != 0 { ok(libc::chown(at.as_ptr(), owner, owner).into()) } else { Ok(()) }
    }
}

/// # Safety
/// As for [`walk`].
unsafe fn file(at: &CStr, text: &[u8]) -> Done {
    // SAFETY: texts of the plan. The file system is memory: a write is whole or fails.
    unsafe {
        let file = match number(
            libc::open(at.as_ptr(), libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC, 0o644).into(),
        ) {
            Err(libc::EEXIST) => return Ok(()),
            file => file?,
        };
        let written = number(libc::write(file, text.as_ptr().cast(), text.len()) as c_long);
        ok(libc::close(file).into())?;
        if written? as usize == text.len() { Ok(()) } else { Err(libc::ENOSPC) }
    }
}

/// # Safety
/// As for [`walk`].
unsafe fn proc() -> Done {
    // SAFETY: constant texts.
    unsafe {
        directory(c"/proc", 0o555, 0)?;
        mount(Some(c"proc"), c"/proc", Some(c"proc"), libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, None)?;
        // RDONLY: no program of a build has anything to write there.
        seal(c"/proc", 0, 1)
    }
}

/// Process 1 goes no further than here; what goes on is its child.
///
/// # Safety
/// As for [`walk`].
unsafe fn fork() -> Done {
    // SAFETY: a copy of a process with one thread; the C library is not asked, so its books about processes are not touched.
    unsafe {
        let child = number(libc::syscall(libc::SYS_clone, libc::SIGCHLD as u64, 0_usize, 0_usize, 0_usize, 0_usize))?;
        if child != 0 {
            stay(child)
        }
        Ok(())
    }
}

/// Waits for the program, takes in what it leaves behind, and ends when it has ended: then the kernel kills every process of the room.
///
/// # Safety
/// As for [`walk`].
unsafe fn stay(program: c_int) -> ! {
    // SAFETY: a status of our own.
    unsafe {
        // What the program writes must end when the program does.
        libc::syscall(libc::SYS_close_range, 0_u32, 2_u32, 0_u32);
        loop {
            let mut status: c_int = 0;
            let ended = libc::syscall(libc::SYS_wait4, -1, &raw mut status, 0, 0_usize);
            if ended == c_long::from(program) {
                tell([ENDED, status, 0]);
                exit(0);
            }
            if ended < 0 {
                exit(123);
            }
        }
    }
}

/// Drops every capability from the bounding set; done while the right to is still there.
///
/// # Safety
/// As for [`walk`].
unsafe fn drop_bounds() -> Done {
    for capability in 0..64 {
        // SAFETY: numbers only.
        match unsafe { prctl(libc::PR_CAPBSET_DROP, capability) } {
            // Beyond the last one that the kernel knows.
            Err(libc::EINVAL) if capability > 0 => break,
            dropped => dropped?,
        }
    }
    Ok(())
}

/// # Safety
/// As for [`walk`].
unsafe fn no_capabilities() -> Done {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: memory of our own, of the lengths that version 3 has.
    unsafe {
        ok(libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0_usize, 0_usize, 0_usize))?;
        ok(libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()))
    }
}

/// # Safety
/// As for [`walk`].
unsafe fn rule(set: c_int, path: &CStr, allowed: u64) -> Done {
    const BENEATH: u32 = 1;
    // SAFETY: a text of the plan and a rule of our own.
    unsafe {
        let parent = number(libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC).into())?;
        let rule = PathRule { allowed, parent };
        ok(libc::syscall(libc::SYS_landlock_add_rule, set, BENEATH, &raw const rule, 0_u32))?;
        ok(libc::close(parent).into())
    }
}

/// Every signal does what it does by default, and none is blocked.
///
/// # Safety
/// As for [`walk`].
unsafe fn plain_signals() -> Done {
    // The kernel's own form: handler 0 is the default, and so are no flags, no restorer and no mask.
    let default = [0_u64; 4];
    let none = 0_u64;
    // SAFETY: memory of our own; a set of signals has 8 bytes. Two signals cannot be changed, and need not be.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0_usize, 8_usize);
        }
        ok(libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0_usize, 8_usize))
    }
}

/// # Safety
/// As for [`walk`].
unsafe fn execute(call: &Call) -> Done {
    // SAFETY: lists that end with null, of texts that the plan holds.
    unsafe { ok(libc::syscall(libc::SYS_execve, call.program.as_ptr(), call.args.as_ptr(), call.environment.as_ptr())) }
}

/// # Safety
/// As for [`walk`].
unsafe fn mount(from: Option<&CStr>, at: &CStr, kind: Option<&CStr>, flags: u64, data: Option<&CStr>) -> Done {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: texts or null.
    unsafe { ok(libc::mount(pointer(from), at.as_ptr(), pointer(kind), flags as _, pointer(data).cast()).into()) }
}

/// Adds what may not be done below a mount; what was forbidden before stays so.
///
/// # Safety
/// As for [`walk`].
unsafe fn seal(at: &CStr, flags: u32, attributes: u64) -> Done {
    let attributes = MountAttributes { set: attributes, clear: 0, propagation: 0, user_namespace: 0 };
    let len = size_of::<MountAttributes>();
    // SAFETY: a text and a structure of our own.
    unsafe { ok(libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, at.as_ptr(), flags, &raw const attributes, len)) }
}

/// # Safety
/// As for [`walk`].
unsafe fn prctl(option: c_int, value: u64) -> Done {
    // SAFETY: numbers only.
    unsafe { ok(libc::syscall(libc::SYS_prctl, option, value, 0_usize, 0_usize, 0_usize)) }
}

/// # Safety
/// As for [`walk`].
unsafe fn tell(report: Report) {
    // SAFETY: memory of our own; so few bytes go into a pipe whole.
    unsafe { libc::write(REPORT, report.as_ptr().cast(), size_of::<Report>()) };
}

/// # Safety
/// As for [`walk`].
unsafe fn exit(status: c_int) -> ! {
    loop {
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

fn ok(answer: c_long) -> Done {
    number(answer).map(|_| ())
}

fn number(answer: c_long) -> Result<c_int, c_int> {
    if answer >= 0 {
        return Ok(answer as c_int);
    }
    // SAFETY: the address of this thread's own errno.
    Err(unsafe { *libc::__errno_location() })
}
