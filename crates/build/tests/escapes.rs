//! Malicious build scripts: each attempt to get out of a strict build fails, and the same attempt outside of one succeeds.
//!
//! `escapes/attempts` is the build script: a program without dependencies that tries one thing after the other and says what came of it. What it is after is
//! made by `escapes/stage.rs`. An attempt that reads says what it read; one that changes something is believed only when the change is seen from outside.
//! The control is the same script, run by cargo without a sandbox in namespaces and on files that are thrown away: an attempt that fails there proves nothing.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "escapes/stage.rs"]
mod stage;

#[path = "escapes/run.rs"]
mod run;

#[path = "escapes/ends.rs"]
mod ends;

#[path = "escapes/outputs.rs"]
mod outputs;

#[path = "escapes/poison.rs"]
mod poison;

use std::collections::BTreeMap;
use std::path::Path;

use run::Sandboxed;
use stage::Stage;

/// How it is known that an attempt got out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The attempt has the evidence.
    Said,
    /// The test looks.
    Seen,
    /// The attempt has the evidence, but some machines lack what it is after: there the control proves nothing and is counted apart.
    SaidWhere,
}

use Known::{Said, SaidWhere, Seen};

#[rustfmt::skip]
const ATTEMPTS: &[(&str, Known)] = &[
    ("read-ssh-key", Said), ("read-aws-credentials", Said), ("read-cargo-credentials", Said), ("read-netrc", Said), ("read-home-variable", Said),
    ("read-shared-tmp", Said), ("read-shared-memory-file", Said), ("read-other-build", Said), ("read-images", Said), ("read-working-tree", Said),
    ("read-etc-shadow", Said), ("read-root-home", Said), ("read-environment", Said),
    ("proc-environ", Said), ("proc-1-root", SaidWhere), ("proc-any-root", Said), ("proc-any-cwd", Said), ("proc-any-descriptor", Said),
    ("inherited-descriptor", Said), ("chroot-breakout", Said), ("file-handle", SaidWhere), ("hard-link", Said), ("raw-disk", SaidWhere),
    ("dev-kvm", SaidWhere), ("dev-fuse", SaidWhere), ("dev-mem", SaidWhere), ("dev-kmsg", SaidWhere), ("dev-loop-control", SaidWhere),
    ("dev-tun", SaidWhere), ("dev-console", SaidWhere), ("dev-userfaultfd", SaidWhere),
    ("write-authorized-keys", Seen), ("write-shell-profile", Seen), ("write-cargo-configuration", Seen), ("write-git-hook", Seen),
    ("write-git-configuration", Seen), ("write-ld-preload", Seen), ("write-program-of-the-host", Seen), ("write-shared-tmp", Seen),
    ("write-shared-memory-file", Seen), ("write-images", Seen), ("write-kept-source", Seen), ("write-kept-layers", Seen),
    ("write-kept-registry", Seen), ("write-kept-recipes", Seen), ("write-own-registry", Seen), ("write-own-target", Seen),
    ("write-own-source", Seen), ("write-toolchain", Seen), ("plant-link-at-temporary-target", Seen), ("swap-output-directory", Seen),
    ("read-only-remount", Said), ("unmount", Said),
    ("tcp-loopback", Seen), ("udp-name-server", Seen), ("metadata-address", SaidWhere), ("public-address", SaidWhere), ("abstract-socket", Seen),
    ("descriptor-through-abstract-socket", Seen), ("ssh-agent", Seen), ("docker-socket", Seen), ("packet-socket", SaidWhere), ("raw-socket", Said),
    ("vsock", SaidWhere), ("netlink-audit", SaidWhere), ("interfaces", SaidWhere),
    ("kill-process", Seen), ("ptrace", Said), ("process-vm-readv", Said), ("proc-mem", Said), ("pidfd-getfd", Said), ("limits-of-others", Said),
    ("setns-mount", Said), ("setns-network", Said), ("setns-init", SaidWhere), ("shared-memory-segment", Said), ("terminal-tiocsti", Said),
    ("terminal-tioclinux", SaidWhere), ("daemon", Seen), ("descriptor-kept", Seen), ("fork-many", Said),
    ("become-root", Said), ("take-capabilities", Said), ("new-privileges", Said), ("device-node", Said), ("file-capabilities", Said),
    ("trusted-attribute", Said), ("mount", Said), ("mount-by-descriptor", Said), ("pivot-root", Said), ("unshare-user", Said),
    ("unshare-mount", Said), ("clone-user", Said), ("clone3-user", Said), ("add-key", SaidWhere), ("keyctl", SaidWhere), ("bpf", SaidWhere),
    ("perf-event", SaidWhere), ("io-uring", SaidWhere), ("userfaultfd", SaidWhere), ("fanotify", SaidWhere), ("kexec", SaidWhere),
    ("load-module", SaidWhere), ("remove-module", SaidWhere), ("reboot", Said), ("swapon", SaidWhere), ("accounting", SaidWhere),
    ("io-ports", SaidWhere), ("kernel-log", Said), ("clock-rate", Said), ("clock-set", Said), ("host-name", Said), ("quota", SaidWhere),
    ("sysrq", SaidWhere), ("core-pattern", Said), ("module-program", SaidWhere), ("proc-sys", Said), ("sys", SaidWhere),
    ("control-group", SaidWhere), ("other-architecture", SaidWhere),
];

/// The least number of attempts that a control proves to be real ones.
const N_PROVEN: usize = 40;

#[test]
fn outside_of_the_sandbox_every_attempt_succeeds() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root may do most of these: no control here");
        return;
    }
    let mut stage = Stage::new(Path::new(env!("CARGO_TARGET_TMPDIR")), None);
    let said = run::outside(&stage);
    let got_out = judge(&mut stage, &said);
    let (apart, held): (Vec<_>, Vec<_>) =
        ATTEMPTS.iter().filter(|(name, _)| !got_out.contains(name)).partition(|(_, known)| *known == SaidWhere);
    let with_reasons =
        |rows: &[&(&str, Known)]| rows.iter().map(|(name, _)| format!("{name}: {}\n", said[*name])).collect::<String>();
    assert!(held.is_empty(), "attempts that prove nothing:\n{}", with_reasons(&held));
    eprintln!("{} succeed outside; not possible on this machine:\n{}", got_out.len(), with_reasons(&apart));
    assert!(got_out.len() >= N_PROVEN, "{}", got_out.len());
}

#[test]
fn no_attempt_gets_out_of_a_strict_build() {
    holds(Stage::new(Path::new(env!("CARGO_TARGET_TMPDIR")), None), None);
}

#[test]
fn no_attempt_gets_out_of_a_strict_build_of_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        return; // The other test was one.
    }
    const NOBODY: u32 = 65534;
    holds(Stage::new(&std::env::temp_dir(), Some(NOBODY)), Some(NOBODY));
}

#[track_caller]
fn holds(mut stage: Stage, user: Option<u32>) {
    let said = run::shut_in(&mut stage, &Sandboxed { user, n_processes: Some(stage::N_PROCESSES), ..Sandboxed::cargo() });
    let got_out = judge(&mut stage, &said);
    assert!(
        got_out.is_empty(),
        "got out: {:?}",
        got_out.iter().map(|name| format!("{name}: {}", said[*name])).collect::<Vec<_>>()
    );
    assert_eq!(stage.changed(), Vec::<String>::new());
}

/// Returns the attempts that got out, and refuses a list that is not the whole table.
#[track_caller]
fn judge(stage: &mut Stage, said: &BTreeMap<String, String>) -> Vec<&'static str> {
    let mut names: Vec<&str> = ATTEMPTS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(said.keys().collect::<Vec<_>>(), names, "every attempt was made");
    let got_out = |(name, known): &&(&str, Known)| match known {
        Said | SaidWhere => said[*name].starts_with("escaped "),
        Seen => stage.seen(name),
    };
    ATTEMPTS.iter().filter(got_out).map(|(name, _)| *name).collect()
}
