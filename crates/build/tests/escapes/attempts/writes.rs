//! Writing what is not the build's: what others will run, and what the next build will read. Whether it worked is seen from outside.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use crate::stage::Stage;
use crate::system::{at, call, call2, held, text};
use crate::{Attempt, Outcome};

pub const ATTEMPTS: &[Attempt] = &[
    ("write-authorized-keys", |stage| write(&stage.home(".ssh/authorized_keys"), stage)),
    ("write-shell-profile", |stage| write(&stage.home(".bashrc"), stage)),
    ("write-cargo-configuration", |stage| write(&stage.home(".cargo/config.toml"), stage)),
    ("write-git-hook", |stage| write(&format!("{}/.git/hooks/post-checkout", stage.get("repo")), stage)),
    ("write-git-configuration", |stage| write(&format!("{}/.git/config", stage.get("repo")), stage)),
    ("write-ld-preload", |stage| write("/etc/ld.so.preload", stage)),
    ("write-program-of-the-host", |stage| write(&format!("/usr/local/bin/df-{}", stage.token()), stage)),
    ("write-shared-tmp", |stage| write(&format!("{}-left", stage.get("tmp_file")), stage)),
    ("write-shared-memory-file", |stage| write(&format!("{}-left", stage.get("shm_file")), stage)),
    ("write-images", |stage| plant(&format!("{}/objects", stage.get("cache")), stage, "images")),
    ("write-kept-source", |stage| plant(&format!("{}/src", stage.get("keep")), stage, "kept-source")),
    ("write-kept-layers", |stage| plant(&format!("{}/layers", stage.get("keep")), stage, "kept-layers")),
    ("write-kept-registry", |stage| plant(&format!("{}/cargo/registry", stage.get("keep")), stage, "kept-registry")),
    ("write-kept-recipes", |stage| plant(&format!("{}/recipes", stage.get("keep")), stage, "kept-recipes")),
    ("write-own-registry", |stage| plant(&format!("{}/registry", variable("CARGO_HOME")), stage, "own-registry")),
    ("write-own-target", |stage| plant(&stage.own("../../.."), stage, "own-target")),
    ("write-own-source", |stage| plant(&variable("CARGO_MANIFEST_DIR"), stage, "own-source")),
    ("write-toolchain", |stage| plant(&format!("{}/etc", sysroot()), stage, "toolchain")),
    ("plant-link-at-temporary-target", temporary_target),
    ("swap-output-directory", swap_output),
    ("read-only-remount", remount),
    ("unmount", unmount),
];

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| "/nowhere".to_owned())
}

fn write(path: &str, stage: &Stage) -> Outcome {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    // A comment in all the languages of these files.
    writeln!(file, "# {}", stage.token())?;
    Ok(path.to_owned())
}

/// Leaves a file in a directory, whatever its mode says.
fn plant(dir: &str, stage: &Stage, what: &str) -> Outcome {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).ok();
    write(&format!("{dir}/planted-{what}-{}", stage.token()), stage)
}

fn sysroot() -> String {
    let said = Command::new(variable("RUSTC")).args(["--print", "sysroot"]).output();
    said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// CVE-2026-39860: a link lies where a copy of the output will be written first, and the copy writes through it.
fn temporary_target(stage: &Stage) -> Outcome {
    let target = format!("{}/overwritten", stage.get("canary"));
    let mut places = vec![format!("{}/program.tmp", stage.get("copies"))];
    // Where the copy of a room's output goes: every directory that is there by now.
    let outputs = format!("{}/output", stage.get("keep"));
    places.extend(fs::read_dir(outputs).into_iter().flatten().flatten().map(|entry| format!("{}/bin", entry.path().display())));
    let planted = places.iter().map(|place| symlink(&target, place)).filter(Result::is_ok).count();
    if planted == 0 { held("no place to plant it") } else { Ok(format!("{planted} links")) }
}

/// The directory that the output is copied to becomes a link to another.
fn swap_output(stage: &Stage) -> Outcome {
    let place = format!("{}/swapped", stage.get("copies"));
    fs::remove_dir(&place)?;
    symlink(stage.get("canary"), &place)?;
    Ok(place)
}

fn mounts(stage: &Stage) -> Vec<String> {
    [stage.get("read_only"), &format!("{}/registry", variable("CARGO_HOME")), "/df/toolchain", "/usr"].map(str::to_owned).into()
}

fn remount(stage: &Stage) -> Outcome {
    const REMOUNT_BIND: usize = 0x1020;
    let mut last = held("nothing mounted");
    for place in mounts(stage) {
        match call(165, [0, at(&text(&place)), 0, REMOUNT_BIND, 0, 0]) {
            Ok(_) => return Ok(format!("{place} is writable")),
            Err(error) => last = Err(error),
        }
    }
    last
}

fn unmount(stage: &Stage) -> Outcome {
    const DETACH: usize = 2;
    let mut last = held("nothing mounted");
    for place in mounts(stage) {
        match call2(166, at(&text(&place)), DETACH) {
            Ok(_) => return Ok(format!("{place} is gone")),
            Err(error) => last = Err(error),
        }
    }
    last
}
