//! Which system calls a program of a build may make.
//!
//! Three filters, of which the strictest answer holds: a list of what is allowed (all else does not exist: ENOSYS, as on an older kernel, so that
//! programs fall back), arguments that are refused (EPERM), and extended attributes (EOPNOTSUPP, as on a file system without them).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};

mod calls;

/// Returns the filters in the order in which they are to be set.
pub(super) fn programs() -> &'static [BpfProgram] {
    static PROGRAMS: OnceLock<[BpfProgram; 3]> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let errno = |errno: i32| SeccompAction::Errno(errno.unsigned_abs());
        let attributes = calls::ATTRIBUTES.iter().map(|&call| (call, vec![])).collect();
        let allowed = calls::ALLOWED.iter().chain(calls::LEGACY).map(|&call| (call, vec![])).collect();
        [
            compiled(refused(), SeccompAction::Allow, errno(libc::EPERM)),
            compiled(attributes, SeccompAction::Allow, errno(libc::EOPNOTSUPP)),
            compiled(allowed, errno(libc::ENOSYS), SeccompAction::Allow),
        ]
    })
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compiled(rules: Rules, otherwise: SeccompAction, on_match: SeccompAction) -> BpfProgram {
    let arch = std::env::consts::ARCH.try_into().expect("df is built for machines that the filter knows");
    let filter = SeccompFilter::new(rules, otherwise, on_match, arch).expect("two different answers");
    filter.try_into().expect("a few hundred constant rules fit")
}

/// Namespaces that a clone can make.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// Requests to a terminal that type for somebody, copy what is shown, or change who drives it.
const TERMINAL: [u32; 4] = [0x5412, 0x541c, 0x541d, 0x5423];
/// Bits of a mode that let a file run with its owner's rights.
const SET_ID: [u32; 2] = [libc::S_ISUID, libc::S_ISGID];
/// Flags with which opening makes a file.
const MAKING: [i32; 2] = [libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY];
const DEVICES: [u32; 2] = [libc::S_IFCHR, libc::S_IFBLK];

/// Arguments that are refused.
fn refused() -> Rules {
    let mut rules = Rules::new();
    rules.insert(libc::SYS_clone, NAMESPACES.iter().map(|&flag| rule([bit(0, flag.cast_unsigned())])).collect());
    rules.insert(libc::SYS_ioctl, TERMINAL.iter().map(|&request| rule([is(1, request)])).collect());
    // Unix sockets, and internet sockets on a network that has nothing, not even loopback.
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].map(|family| is_not(0, family.cast_unsigned()));
    rules.insert(libc::SYS_socket, vec![rule(families)]);
    rules.insert(libc::SYS_socketpair, vec![rule([is_not(0, libc::AF_UNIX.cast_unsigned())])]);
    rules.insert(libc::SYS_personality, vec![rule([is_not(0, u32::MAX)])]);
    for (call, mode) in calls::MODE_CHANGES {
        rules.insert(*call, SET_ID.iter().map(|&set| rule([bit(*mode, set)])).collect());
    }
    for (call, mode) in calls::NODE_MAKERS {
        let set_ids = SET_ID.iter().map(|&set| rule([bit(*mode, set)]));
        rules.insert(*call, set_ids.chain(DEVICES.iter().map(|&kind| rule([masked(*mode, libc::S_IFMT, kind)]))).collect());
    }
    for (call, flags, mode) in calls::OPENERS {
        let pairs = MAKING.iter().flat_map(|&flag| SET_ID.map(|set| rule([bit(*flags, flag.cast_unsigned()), bit(*mode, set)])));
        rules.insert(*call, pairs.collect());
    }
    rules
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> SeccompRule {
    SeccompRule::new(conditions.into()).expect("at least one condition")
}

fn is(argument: u8, value: u32) -> SeccompCondition {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: u32) -> SeccompCondition {
    condition(argument, SeccompCmpOp::Ne, value)
}

fn bit(argument: u8, bit: u32) -> SeccompCondition {
    masked(argument, bit, bit)
}

fn masked(argument: u8, mask: u32, value: u32) -> SeccompCondition {
    condition(argument, SeccompCmpOp::MaskedEq(mask.into()), value)
}

/// The kernel itself looks at no more than 32 bits of these arguments.
fn condition(argument: u8, op: SeccompCmpOp, value: u32) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value.into()).expect("an argument from 0 to 5")
}
