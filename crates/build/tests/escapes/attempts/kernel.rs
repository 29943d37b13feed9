//! Asking the kernel for what a compiler never needs. Where the question who asks comes first, a call with wrong arguments shows whether it was passed.

use std::fs::{self, OpenOptions};
use std::io;

use crate::stage::Stage;
use crate::system::{at, call, call2, call3, held, judged, text};
use crate::{Attempt, Outcome};

const NEW_USER: usize = 0x1000_0000;
const SIGCHLD: usize = 17;

pub const ATTEMPTS: &[Attempt] = &[
    ("become-root", |_| done(call3(117, 0, 0, 0))),
    ("take-capabilities", take_capabilities),
    ("new-privileges", new_privileges),
    ("device-node", device_node),
    ("file-capabilities", file_capabilities),
    ("trusted-attribute", |stage| attribute(stage, "trusted.overlay.opaque", b"y")),
    ("mount", mount),
    ("mount-by-descriptor", |_| done(call2(430, at(&text("tmpfs")), 0))),
    ("pivot-root", |_| judged(call2(155, at(&text("/nowhere")), at(&text("/nowhere"))))),
    ("unshare-user", |_| done(call2(272, NEW_USER, 0))),
    ("unshare-mount", |_| done(call2(272, 0x0002_0000, 0))),
    ("clone-user", |_| child(call(56, [NEW_USER | SIGCHLD, 0, 0, 0, 0, 0]))),
    ("clone3-user", clone3),
    ("add-key", add_key),
    ("keyctl", |_| done(call3(250, 0, (-4_isize) as usize, 1))),
    ("bpf", bpf),
    ("perf-event", perf_event),
    ("io-uring", io_uring),
    ("userfaultfd", |_| done(call2(323, 1, 0))),
    ("fanotify", |_| done(call2(300, 0, 0))),
    ("kexec", |_| judged(call(246, [0, 17, 0, 0, 0, 0]))),
    ("load-module", |_| judged(call3(313, usize::MAX, at(&text("")), 0))),
    ("remove-module", |_| judged(call2(176, at(&text("df_no_such_module")), 0o4000))),
    ("reboot", |_| judged(call3(169, 0, 0, 0))),
    ("swapon", |_| judged(call2(167, at(&text("/nowhere")), 0))),
    ("accounting", |_| judged(call2(163, at(&text("/nowhere/at/all")), 0))),
    ("io-ports", |_| done(call2(172, 3, 0))),
    ("kernel-log", kernel_log),
    ("clock-rate", clock_rate),
    ("clock-set", clock_set),
    ("host-name", host_name),
    ("quota", |_| judged(call3(179, 0x8000_0700, at(&text("/nowhere")), 0))),
    ("sysrq", |_| writable("/proc/sysrq-trigger")),
    ("core-pattern", |_| writable("/proc/sys/kernel/core_pattern")),
    ("module-program", |_| writable("/proc/sys/kernel/modprobe")),
    ("proc-sys", |_| writable("/proc/sys/vm/overcommit_memory")),
    ("sys", |_| writable("/sys/kernel/mm/transparent_hugepage/enabled")),
    ("control-group", control_group),
    ("other-architecture", other_architecture),
];

fn done(answer: io::Result<usize>) -> Outcome {
    answer.map(|_| "the kernel did it".to_owned())
}

/// Ends the child of a successful fork, and says that there was one.
fn child(answer: io::Result<usize>) -> Outcome {
    if answer? == 0 {
        call(231, [0; 6])?;
    }
    Ok("a process in a namespace of its own".to_owned())
}

fn take_capabilities(_: &Stage) -> Outcome {
    let header = [0x2008_0522_u32, 0];
    let administer_system = 1_u32 << 21;
    let sets = [administer_system, administer_system, 0, 0, 0, 0];
    done(call2(126, header.as_ptr() as usize, sets.as_ptr() as usize))
}

/// Whether a setuid program would run with its owner's rights.
fn new_privileges(_: &Stage) -> Outcome {
    match call(157, [39, 0, 0, 0, 0, 0])? {
        0 => Ok("they may still be gained".to_owned()),
        _ => held("no new privileges"),
    }
}

fn device_node(stage: &Stage) -> Outcome {
    let own = stage.own("null");
    call3(133, at(&text(&own)), 0o020666, 0x103)?;
    fs::remove_file(&own)?;
    Ok("made".to_owned())
}

fn attribute(stage: &Stage, name: &str, value: &[u8]) -> Outcome {
    let own = stage.own("attributes");
    fs::write(&own, "")?;
    done(call(188, [at(&text(&own)), at(&text(name)), value.as_ptr() as usize, value.len(), 0, 0]))
}

fn file_capabilities(stage: &Stage) -> Outcome {
    let all: Vec<u8> = [0x0200_0001_u32, u32::MAX, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    attribute(stage, "security.capability", &all)
}

fn mount(stage: &Stage) -> Outcome {
    let own = stage.own("mounted");
    fs::create_dir_all(&own)?;
    done(call(165, [at(&text("none")), at(&text(&own)), at(&text("tmpfs")), 0, 0, 0]))
}

fn clone3(_: &Stage) -> Outcome {
    let mut arguments = [0_u64; 8];
    arguments[0] = NEW_USER as u64;
    arguments[4] = SIGCHLD as u64;
    child(call2(435, arguments.as_ptr() as usize, 64))
}

fn add_key(stage: &Stage) -> Outcome {
    let (kind, name, value) = (text("user"), text(stage.token()), b"x");
    let of_the_user = (-4_isize) as usize;
    let key = call(248, [at(&kind), at(&name), value.as_ptr() as usize, 1, of_the_user, 0])?;
    // Leave nothing behind where it works.
    call(250, [9, key, of_the_user, 0, 0, 0]).ok();
    Ok(format!("key {key}"))
}

fn bpf(_: &Stage) -> Outcome {
    let mut map = [0_u32; 16];
    // An array of one number: kind, bytes of a key, bytes of a value, how many.
    map[..4].copy_from_slice(&[2, 4, 8, 1]);
    done(call3(321, 0, map.as_ptr() as usize, 64))
}

fn perf_event(_: &Stage) -> Outcome {
    let mut event = [0_u64; 8];
    // A software event of this process, without the kernel's part.
    event[0] = 1 | (64 << 32);
    event[5] = 1 << 5 | 1 << 6;
    done(call(298, [event.as_ptr() as usize, 0, usize::MAX, usize::MAX, 0, 0]))
}

fn io_uring(_: &Stage) -> Outcome {
    let mut parameters = [0_u32; 30];
    done(call2(425, 1, parameters.as_mut_ptr() as usize))
}

fn kernel_log(_: &Stage) -> Outcome {
    let mut bytes = vec![0u8; 4096];
    done(call3(103, 3, bytes.as_mut_ptr() as usize, bytes.len()))
}

/// Sets the length of a tick to what it is.
fn clock_rate(_: &Stage) -> Outcome {
    const TICK: u32 = 0x4000;
    let mut timex = [0_u64; 26];
    call2(159, timex.as_mut_ptr() as usize, 0)?;
    timex[0] = u64::from(TICK);
    done(call2(159, timex.as_mut_ptr() as usize, 0))
}

/// Sets the clock to what it just said.
fn clock_set(_: &Stage) -> Outcome {
    let mut now = [0_i64; 2];
    call2(228, 0, now.as_mut_ptr() as usize)?;
    done(call2(227, 0, now.as_ptr() as usize))
}

fn host_name(_: &Stage) -> Outcome {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    done(call2(170, at(&text(name.trim())), name.trim().len()))
}

/// Opens for writing, and writes nothing.
fn writable(path: &str) -> Outcome {
    OpenOptions::new().write(true).open(path)?;
    Ok(format!("{path} is open"))
}

fn control_group(stage: &Stage) -> Outcome {
    let tops = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"];
    let mut last = held("no control groups");
    for top in tops {
        let own = format!("{top}/df-{}", stage.token());
        match fs::create_dir(&own).and_then(|()| fs::remove_dir(&own)) {
            Ok(()) => return Ok(format!("a group in {top}")),
            Err(error) => last = Err(error),
        }
    }
    last
}

/// Calls as a program of 32 bits does, by numbers that a filter for this architecture does not know.
fn other_architecture(_: &Stage) -> Outcome {
    let pid: u32;
    // SAFETY: the call takes no argument and the kernel keeps all registers but these.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") 20_u32 => pid, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    if pid == std::process::id() { Ok("32-bit calls work".to_owned()) } else { held(format!("answer {}", pid as i32)) }
}
