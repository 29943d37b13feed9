//! Which steps make a room and start a program in it: all decided, and all memory had, before the process exists that takes them.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, c_char};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use seccompiler::BpfProgram;

use super::filter;
use super::machine::{Machine, Part, c_path};
use super::who::{BUILDER, Who};
use super::words::Lacking;

/// One step; each is one or few system calls.
#[derive(Debug)]
pub(super) enum Step {
    /// Leave the terminal and the process groups of df.
    NewSession,
    /// Be killed when df ends.
    DieWithParent,
    /// Wait until df says that the user exists; if df is dead, end.
    AwaitGo,
    /// Let no mount go out.
    Unshare,
    /// Begin a new root directory, with the old one at [`HOST`].
    NewRoot {
        data: CString,
    },
    Directory {
        at: CString,
        mode: u32,
        owner: u32,
    },
    File {
        at: CString,
        text: Vec<u8>,
    },
    Link {
        at: CString,
        target: CString,
    },
    Memory {
        at: CString,
        data: CString,
    },
    Bind {
        from: CString,
        at: CString,
        attributes: u64,
    },
    Overlay {
        at: CString,
        data: CString,
    },
    Proc,
    /// Take a mount away with all below it, then its directory.
    Remove {
        at: CString,
    },
    /// The root directory itself becomes unchangeable.
    SealRoot,
    HostName {
        name: CString,
    },
    /// Nothing of the room may look into process 1.
    Undumpable,
    /// Process 1 stays behind and waits; a child goes on.
    Fork,
    NoGroups,
    BecomeBuilder,
    NoCapabilities,
    NoNewPrivileges,
    Limit {
        resource: u32,
        soft: u64,
        hard: u64,
    },
    Umask,
    Enter {
        dir: CString,
    },
    Landlock {
        attributes: [u64; 3],
        len: usize,
        rules: Vec<(CString, u64)>,
    },
    PlainSignals,
    Filter {
        program: BpfProgram,
    },
    Execute(Call),
}

/// A program with its arguments and environment, as the kernel wants them.
#[derive(Debug)]
pub(super) struct Call {
    pub program: CString,
    pub args: Vec<*const c_char>,
    pub environment: Vec<*const c_char>,
    // What the pointers are to; the text of a CString does not move with it.
    _texts: Vec<CString>,
}

/// What to run in a room; all paths are inside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program<'a> {
    pub program: &'a Path,
    pub args: &'a [String],
    pub dir: &'a Path,
    pub environment: &'a BTreeMap<String, String>,
}

/// Where the host's root directory is while the room is made.
const HOST: &CStr = c"/.host";
/// Where the memory is of which all private directories are made, so that one bound holds for them together.
const MEMORY: &CStr = c"/.memory";
/// The bound.
const MEMORY_DATA: &CStr = c"mode=0755,size=50%,nr_inodes=1000000";

const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;

/// The longest options of a mount: a page, without its end.
const OPTIONS_LEN: usize = 4000;

/// Decides the steps.
pub(super) fn plan(program: Program<'_>, host_name: &str, machine: &Machine) -> Result<Vec<Step>, Lacking> {
    let mut plan = Plan { steps: vec![], n_private: 0, written: vec![] };
    plan.steps.extend([Step::NewSession, Step::DieWithParent, Step::AwaitGo, Step::Unshare]);
    plan.steps.push(Step::NewRoot { data: c"mode=0755,size=4m,nr_inodes=4k".into() });
    plan.directory(MEMORY, 0o755);
    plan.steps.push(Step::Memory { at: MEMORY.into(), data: MEMORY_DATA.into() });
    plan.devices();
    plan.etc();
    plan.steps.push(Step::Proc);
    plan.private(c"/tmp", 0o1777);
    for part in machine.system.iter().chain(&machine.mounts) {
        plan.part(part)?;
    }
    plan.steps.extend([Step::Remove { at: HOST.into() }, Step::Remove { at: MEMORY.into() }, Step::SealRoot]);
    let name = CString::new(host_name).unwrap_or_else(|_| c"df".into());
    plan.steps.extend([Step::HostName { name }, Step::Undumpable, Step::Fork]);
    plan.shut(program, machine)?;
    Ok(plan.steps)
}

struct Plan {
    steps: Vec<Step>,
    n_private: usize,
    /// Where the program may write.
    written: Vec<CString>,
}

impl Plan {
    fn part(&mut self, part: &Part) -> Result<(), Lacking> {
        match part {
            Part::Link { inside, target } => {
                self.parents(inside);
                self.steps.push(Step::Link { at: inside.clone(), target: target.clone() });
            }
            Part::Bind { inside, host, is_dir, writable } => {
                self.parents(inside);
                if *is_dir {
                    self.directory(inside, 0o755)
                } else {
                    self.file(inside, b"")
                }
                let attributes = if *writable { NOSUID | NODEV } else { RDONLY | NOSUID | NODEV };
                self.steps.push(Step::Bind { from: in_host(host), at: inside.clone(), attributes });
                self.written.extend(writable.then(|| inside.clone()));
            }
            Part::Private { inside } => {
                self.parents(inside);
                self.private(inside, 0o755);
            }
            Part::Layered { inside, lower, upper, work } => {
                self.parents(inside);
                self.directory(inside, 0o755);
                self.steps.push(Step::Overlay { at: inside.clone(), data: overlay(lower, upper, work)? });
                self.written.push(inside.clone());
            }
        }
        Ok(())
    }

    /// A private directory: all of them share one memory.
    fn private(&mut self, inside: &CStr, mode: u32) {
        let from = joined(MEMORY, &self.n_private.to_string());
        self.n_private += 1;
        self.steps.push(Step::Directory { at: from.clone(), mode, owner: BUILDER });
        self.directory(inside, 0o755);
        self.steps.push(Step::Bind { from, at: inside.into(), attributes: NOSUID | NODEV });
        self.written.push(inside.into());
    }

    fn devices(&mut self) {
        self.directory(c"/dev", 0o755);
        for device in [c"/dev/null", c"/dev/zero", c"/dev/full", c"/dev/random", c"/dev/urandom"] {
            self.file(device, b"");
            // Without NODEV, the only place; the flag that forbids changing does not forbid writing to a device.
            self.steps.push(Step::Bind { from: in_host(device), at: device.into(), attributes: RDONLY | NOSUID | NOEXEC });
        }
        let links =
            [(c"/dev/fd", c"/proc/self/fd"), (c"/dev/stdin", c"fd/0"), (c"/dev/stdout", c"fd/1"), (c"/dev/stderr", c"fd/2")];
        self.steps.extend(links.map(|(at, target)| Step::Link { at: at.into(), target: target.into() }));
        self.private(c"/dev/shm", 0o1777);
    }

    fn etc(&mut self) {
        let passwd = format!(
            "root:x:0:0:root:/:/bin/sh\nbuilder:x:{BUILDER}:{BUILDER}:builder:/df/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        );
        let group = format!("root:x:0:\nbuilder:x:{BUILDER}:\nnogroup:x:65534:\n");
        self.directory(c"/etc", 0o755);
        self.file(c"/etc/passwd", passwd.as_bytes());
        self.file(c"/etc/group", group.as_bytes());
        self.file(c"/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n");
        self.file(c"/etc/nsswitch.conf", b"passwd: files\ngroup: files\nshadow: files\nhosts: files\n");
    }

    /// All that happens in the process that becomes the program.
    fn shut(&mut self, program: Program<'_>, machine: &Machine) -> Result<(), Lacking> {
        if machine.who == Who::Root {
            self.steps.push(Step::NoGroups);
        }
        self.steps.extend([Step::BecomeBuilder, Step::NoCapabilities, Step::NoNewPrivileges, Step::Umask]);
        self.steps.extend(LIMITS.iter().map(|&(resource, limit)| {
            let hard = limit.min((machine.hard)(resource));
            Step::Limit { resource, soft: if resource == STACK { hard.min(STACK_LEN) } else { hard }, hard }
        }));
        self.steps.push(Step::Enter { dir: c_path(program.dir)? });
        let landlock = landlock(machine.landlock, &self.written);
        self.steps.extend([landlock, Step::PlainSignals]);
        self.steps.extend(filter::programs().iter().map(|program| Step::Filter { program: program.clone() }));
        self.steps.push(Step::Execute(Call::of(program)?));
        Ok(())
    }

    fn directory(&mut self, at: &CStr, mode: u32) {
        self.steps.push(Step::Directory { at: at.into(), mode, owner: 0 });
    }

    fn file(&mut self, at: &CStr, text: &[u8]) {
        self.steps.push(Step::File { at: at.into(), text: text.into() });
    }

    fn parents(&mut self, inside: &CStr) {
        let path = Path::new(OsStr::from_bytes(inside.to_bytes()));
        let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|dir| *dir != Path::new("/")).collect();
        above.reverse();
        for dir in above {
            let at = CString::new(dir.as_os_str().as_bytes()).expect("a part of a text without NUL");
            self.directory(&at, 0o755);
        }
    }
}

impl Call {
    fn of(program: Program<'_>) -> Result<Self, Lacking> {
        let failed = |error: std::ffi::NulError| Lacking::place(program.program, &error.into());
        let path = c_path(program.program)?;
        let mut texts = vec![path.clone()];
        for arg in program.args {
            texts.push(CString::new(arg.as_str()).map_err(failed)?);
        }
        let n_args = texts.len();
        for (name, value) in program.environment {
            texts.push(CString::new(format!("{name}={value}")).map_err(failed)?);
        }
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Self { program: path, args: pointers(&texts[..n_args]), environment: pointers(&texts[n_args..]), _texts: texts })
    }
}

const STACK_LEN: u64 = 8 << 20;
#[allow(clippy::unnecessary_cast, reason = "with another C library it has another type")]
const STACK: u32 = libc::RLIMIT_STACK as u32;

/// What every program is limited to, the same on every machine whose own limits are not lower.
#[allow(clippy::unnecessary_cast, reason = "with another C library they have another type")]
const LIMITS: [(u32, u64); 7] = [
    // 1, not 0: that is the value with which the kernel starts no program of the host for what is left of a crash either.
    (libc::RLIMIT_CORE as u32, 1),
    (libc::RLIMIT_NOFILE as u32, 65_536),
    (libc::RLIMIT_NPROC as u32, 4096),
    (libc::RLIMIT_FSIZE as u32, 64 << 30),
    (STACK, libc::RLIM_INFINITY),
    (libc::RLIMIT_MEMLOCK as u32, 8 << 20),
    (libc::RLIMIT_AS as u32, libc::RLIM_INFINITY),
];

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
/// Rights over files by the version of Landlock that brought them, from 2 on.
const FS_RIGHTS: [(u32, u64); 3] = [(2, (1 << 14) - 1), (3, 1 << 14), (5, 1 << 15)];

/// Decides the rules: everything may be read and executed, only the own places written, no TCP, no sockets and signals to outside.
fn landlock(version: u32, written: &[CString]) -> Step {
    let all = FS_RIGHTS.iter().filter(|(since, _)| *since <= version).fold(0, |all, (_, right)| all | right);
    let read = EXECUTE | READ_FILE | READ_DIR;
    let ioctl_and_truncate = all & (1 << 14 | 1 << 15);
    let mut rules = vec![(c"/".into(), read)];
    rules.extend(written.iter().map(|dir| (dir.clone(), all & !(MAKE_CHAR | MAKE_BLOCK | 1 << 15))));
    for device in [c"/dev/null", c"/dev/zero", c"/dev/full", c"/dev/random", c"/dev/urandom"] {
        rules.push((device.into(), READ_FILE | WRITE_FILE | ioctl_and_truncate));
    }
    let (network, scoped) = (3, 3);
    let attributes = [all, network, scoped];
    let len = if version >= 6 {
        24
    } else if version >= 4 {
        16
    } else {
        8
    };
    Step::Landlock { attributes, len, rules }
}

fn in_host(path: &CStr) -> CString {
    let mut bytes = HOST.to_bytes().to_vec();
    bytes.extend_from_slice(path.to_bytes());
    CString::new(bytes).expect("two texts without NUL")
}

fn joined(dir: &CStr, name: &str) -> CString {
    CString::new([dir.to_bytes(), b"/", name.as_bytes()].concat()).expect("texts without NUL")
}

/// Writes the options of an overlay; its own words for the signs that part them.
fn overlay(lower: &Path, upper: &Path, work: &Path) -> Result<CString, Lacking> {
    let mut data = b"userxattr".to_vec();
    for (name, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        data.extend(format!(",{name}=").bytes());
        data.extend_from_slice(HOST.to_bytes());
        for &byte in path.as_os_str().as_bytes() {
            if matches!(byte, b'\\' | b',' | b':') {
                data.push(b'\\');
            }
            data.push(byte);
        }
    }
    let shown = || PathBuf::from(std::ffi::OsString::from_vec(upper.as_os_str().as_bytes().to_vec()));
    if data.len() > OPTIONS_LEN {
        return Err(Lacking::place(&shown(), &std::io::Error::from(std::io::ErrorKind::InvalidFilename)));
    }
    CString::new(data).map_err(|error| Lacking::place(&shown(), &error.into()))
}
