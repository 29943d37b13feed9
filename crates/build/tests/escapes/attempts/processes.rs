//! Reaching other processes, the terminal, and the time after the build.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::stage::Stage;
use crate::system::{call, call2, call3, held};
use crate::{Attempt, Outcome};

pub const ATTEMPTS: &[Attempt] = &[
    ("kill-process", kill),
    ("ptrace", ptrace),
    ("process-vm-readv", process_vm_readv),
    ("proc-mem", proc_mem),
    ("pidfd-getfd", pidfd_getfd),
    ("limits-of-others", limits_of_others),
    ("setns-mount", |stage| setns(stage, "mnt")),
    ("setns-network", |stage| setns(stage, "net")),
    ("setns-init", setns_init),
    ("shared-memory-segment", shared_memory),
    ("terminal-tiocsti", tiocsti),
    ("terminal-tioclinux", tioclinux),
    ("daemon", daemon),
    ("descriptor-kept", descriptor_kept),
    ("fork-many", fork_many),
];

fn victim(stage: &Stage) -> usize {
    stage.number("victim")
}

fn kill(stage: &Stage) -> Outcome {
    call2(62, stage.number("killed"), 9)?;
    Ok("sent".to_owned())
}

fn ptrace(stage: &Stage) -> Outcome {
    const SEIZE: usize = 0x4206;
    call(101, [SEIZE, victim(stage), 0, 0, 0, 0])?;
    Ok("traced".to_owned())
}

fn token_in(stage: &Stage, bytes: &[u8]) -> Outcome {
    if bytes == stage.token().as_bytes() { Ok("its memory".to_owned()) } else { held("other bytes") }
}

fn process_vm_readv(stage: &Stage) -> Outcome {
    let mut bytes = vec![0u8; stage.token().len()];
    let local = [bytes.as_mut_ptr() as usize, bytes.len()];
    let remote = [stage.number("memory"), bytes.len()];
    call(310, [stage.number("tester"), local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0])?;
    token_in(stage, &bytes)
}

fn proc_mem(stage: &Stage) -> Outcome {
    let mut bytes = vec![0u8; stage.token().len()];
    File::open(format!("/proc/{}/mem", stage.get("tester")))?.read_exact_at(&mut bytes, stage.number("memory") as u64)?;
    token_in(stage, &bytes)
}

/// The victim's standard input is a secret.
fn pidfd_getfd(stage: &Stage) -> Outcome {
    let process = call2(434, victim(stage), 0)?;
    let descriptor = call3(438, process, 0, 0)?;
    if fs::read_to_string(format!("/proc/self/fd/{descriptor}"))?.contains(stage.token()) {
        Ok("its descriptor".to_owned())
    } else {
        held("another file")
    }
}

fn limits_of_others(stage: &Stage) -> Outcome {
    const CORE: usize = 4;
    let mut limits = [0u64; 2];
    call(302, [victim(stage), CORE, 0, limits.as_mut_ptr() as usize, 0, 0])?;
    Ok(format!("limits {limits:?}"))
}

fn setns(stage: &Stage, kind: &str) -> Outcome {
    let namespace = File::open(format!("/proc/{}/ns/{kind}", victim(stage)))?;
    call2(308, namespace.as_raw_fd() as usize, 0)?;
    Ok(format!("in its {kind} namespace"))
}

/// The first process that can be seen, which in a room must not be of the host.
fn setns_init(_: &Stage) -> Outcome {
    const NEWUTS: usize = 0x0400_0000;
    let process = call2(434, 1, 0)?;
    call2(308, process, NEWUTS)?;
    Ok("in the namespace of process 1".to_owned())
}

fn shared_memory(stage: &Stage) -> Outcome {
    let segment = call3(29, stage.number("shm_key"), 0, 0)?;
    let address = call3(30, segment, 0, 0o10000)?;
    // SAFETY: the test made the segment of at least a page, and it stays attached.
    let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, stage.token().len()) };
    token_in(stage, bytes)
}

/// Types into the terminal of who runs the build.
fn tiocsti(_: &Stage) -> Outcome {
    const TIOCSTI: usize = 0x5412;
    let ours = || OpenOptions::new().read(true).write(true).open("/dev/tty");
    let mut last = match ours() {
        Ok(terminal) => match call3(16, terminal.as_raw_fd() as usize, TIOCSTI, c"x".as_ptr() as usize) {
            Ok(_) => return Ok("typed".to_owned()),
            Err(error) => error,
        },
        Err(error) => error,
    };
    for descriptor in 0..16 {
        match call3(16, descriptor, TIOCSTI, c"x".as_ptr() as usize) {
            Ok(_) => return Ok(format!("typed through descriptor {descriptor}")),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The console's own way to paste; asked only for the state of its shift keys.
fn tioclinux(_: &Stage) -> Outcome {
    const TIOCLINUX: usize = 0x541c;
    const SHIFT_STATE: u8 = 6;
    let console = OpenOptions::new().read(true).write(true).open("/dev/tty1")?;
    let mut argument = [SHIFT_STATE];
    call3(16, console.as_raw_fd() as usize, TIOCLINUX, argument.as_mut_ptr() as usize)?;
    Ok("the console answers".to_owned())
}

/// Starts a process that nobody waits for, in a session of its own.
fn leave(stage: &Stage, output: Stdio, kind: &str) -> Outcome {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["daemon", &format!("{kind}-{}", stage.token())]).stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
    // SAFETY: two plain system calls between fork and exec; the first child ends at once, so that the daemon has no parent here.
    unsafe {
        command.pre_exec(|| {
            call(112, [0; 6])?;
            if call(57, [0; 6])? != 0 {
                call(231, [0; 6])?;
            }
            Ok(())
        });
    }
    // The child that was waited for is gone before it ran a program, which spawn takes for success.
    command.spawn()?.wait()?;
    Ok("left".to_owned())
}

fn daemon(stage: &Stage) -> Outcome {
    leave(stage, Stdio::null(), "daemon")
}

fn descriptor_kept(stage: &Stage) -> Outcome {
    let file = OpenOptions::new().create(true).append(true).open(stage.own("kept-open"))?;
    leave(stage, file.into(), "writer")
}

/// More processes than the user may have; all of them end with this one's children's parent, which is this one.
fn fork_many(_: &Stage) -> Outcome {
    const N: usize = 4500;
    const PDEATHSIG: usize = 1;
    let mut children = vec![];
    let outcome = loop {
        match call(57, [0; 6]) {
            Ok(0) => {
                call2(157, PDEATHSIG, 9)?;
                // Waits for a signal.
                call(34, [0; 6]).ok();
                call(231, [0; 6])?;
            }
            Ok(_) if children.len() == N => break Ok(format!("{N} processes")),
            Ok(pid) => children.push(pid),
            Err(error) => break Err(error),
        }
    };
    children.iter().for_each(|&pid| drop(call2(62, pid, 9)));
    outcome
}

/// Goes on writing until it is killed, or for a minute.
pub fn be_a_daemon(_token: &str) {
    for _ in 0..600 {
        let mut output = io::stdout();
        output.write_all(b"still here\n").and_then(|()| output.flush()).ok();
        std::thread::sleep(Duration::from_millis(100));
    }
}
