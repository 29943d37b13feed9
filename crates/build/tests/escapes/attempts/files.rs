//! Reading what is not the build's: keys, credentials, other processes' files, the disk itself.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use crate::stage::Stage;
use crate::system::{at, call, call2, call3, held, text};
use crate::{Attempt, Outcome};

pub const ATTEMPTS: &[Attempt] = &[
    ("read-ssh-key", |stage| secret_in(stage, &stage.home(".ssh/id_ed25519"))),
    ("read-aws-credentials", |stage| secret_in(stage, &stage.home(".aws/credentials"))),
    ("read-cargo-credentials", |stage| secret_in(stage, &stage.home(".cargo/credentials.toml"))),
    ("read-netrc", |stage| secret_in(stage, &stage.home(".netrc"))),
    ("read-home-variable", |stage| secret_in(stage, &format!("{}/.netrc", std::env::var("HOME").unwrap_or_default()))),
    ("read-shared-tmp", |stage| secret_in(stage, stage.get("tmp_file"))),
    ("read-shared-memory-file", |stage| secret_in(stage, stage.get("shm_file"))),
    ("read-other-build", |stage| secret_in(stage, &format!("{}/target/other/secret", stage.get("keep")))),
    ("read-images", |stage| secret_in(stage, &format!("{}/objects/secret", stage.get("cache")))),
    ("read-working-tree", |stage| secret_in(stage, &format!("{}/.env", stage.get("repo")))),
    ("read-etc-shadow", etc_shadow),
    ("read-root-home", root_home),
    ("read-environment", environment),
    ("proc-environ", proc_environ),
    ("proc-1-root", |stage| secret_in(stage, &format!("/proc/1/root{}", stage.home(".netrc")))),
    ("proc-any-root", proc_any_root),
    ("proc-any-cwd", proc_any_cwd),
    ("proc-any-descriptor", proc_any_descriptor),
    ("inherited-descriptor", inherited_descriptor),
    ("chroot-breakout", chroot_breakout),
    ("file-handle", file_handle),
    ("hard-link", hard_link),
    ("raw-disk", raw_disk),
    ("dev-kvm", |_| device("/dev/kvm")),
    ("dev-fuse", |_| device("/dev/fuse")),
    ("dev-mem", |_| device("/dev/mem")),
    ("dev-kmsg", |_| device("/dev/kmsg")),
    ("dev-loop-control", |_| device("/dev/loop-control")),
    ("dev-tun", |_| device("/dev/net/tun")),
    ("dev-console", |_| device("/dev/tty0")),
    ("dev-userfaultfd", |_| device("/dev/userfaultfd")),
];

fn found(stage: &Stage, bytes: &[u8], what: &str) -> Outcome {
    let token = stage.token().as_bytes();
    if bytes.windows(token.len()).any(|window| window == token) {
        Ok(format!("the secret, from {what}"))
    } else {
        held(format!("no secret in {what}"))
    }
}

fn secret_in(stage: &Stage, path: &str) -> Outcome {
    found(stage, &fs::read(path)?, path)
}

fn etc_shadow(_: &Stage) -> Outcome {
    let mut bytes = [0; 64];
    match File::open("/etc/shadow")?.read(&mut bytes)? {
        0 => held("it is empty"),
        n => Ok(format!("{n} bytes")),
    }
}

fn root_home(_: &Stage) -> Outcome {
    match fs::read_dir("/root")?.count() {
        0 => held("it is empty"),
        n => Ok(format!("{n} names")),
    }
}

fn environment(stage: &Stage) -> Outcome {
    let with_it = |(_, value): &(std::ffi::OsString, std::ffi::OsString)| value.to_string_lossy().contains(stage.token());
    let names: Vec<_> = std::env::vars_os().filter(with_it).map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    let ours = ["AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "SSH_AUTH_SOCK"];
    match names.iter().find(|name| ours.contains(&name.as_str())) {
        Some(name) => Ok(format!("{name} is set")),
        None => held("not in the environment"),
    }
}

/// Returns the directories of all processes that can be seen but this one.
fn processes() -> Vec<String> {
    let own = std::process::id().to_string();
    let names =
        fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && *name != own).map(|pid| format!("/proc/{pid}")).collect()
}

fn first(places: impl Iterator<Item = Outcome>) -> Outcome {
    let mut last = held("nothing to be seen");
    for outcome in places {
        match outcome {
            Ok(_) => return outcome,
            Err(_) => last = outcome,
        }
    }
    last
}

fn proc_environ(stage: &Stage) -> Outcome {
    let wanted = format!("VICTIM={}", stage.token());
    first(processes().into_iter().map(|dir| {
        let place = format!("{dir}/environ");
        match fs::read(&place)? {
            bytes if bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes()) => Ok(place),
            _ => held("another environment"),
        }
    }))
}

fn proc_any_root(stage: &Stage) -> Outcome {
    let own_too = processes().into_iter().chain(["/proc/thread-self".to_owned()]);
    first(own_too.map(|dir| secret_in(stage, &format!("{dir}/root{}", stage.home(".netrc")))))
}

fn proc_any_cwd(stage: &Stage) -> Outcome {
    first(processes().into_iter().map(|dir| secret_in(stage, &format!("{dir}/cwd/id_ed25519"))))
}

fn proc_any_descriptor(stage: &Stage) -> Outcome {
    first(processes().into_iter().flat_map(|dir| {
        let entries = fs::read_dir(format!("{dir}/fd")).into_iter().flatten().flatten();
        entries.map(|entry| {
            let metadata = fs::metadata(entry.path())?;
            if !metadata.is_file() || metadata.len() > 200 {
                return held("nothing small to read");
            }
            secret_in(stage, &entry.path().to_string_lossy())
        })
    }))
}

fn inherited_descriptor(stage: &Stage) -> Outcome {
    first((3..256).map(|n| {
        let mut bytes = [0; 200];
        let len = call(17, [n, bytes.as_mut_ptr() as usize, bytes.len(), 0, 0, 0])?;
        found(stage, &bytes[..len], &format!("descriptor {n}"))
    }))
}

/// The oldest one: a directory that is held while the root moves below it.
fn chroot_breakout(stage: &Stage) -> Outcome {
    let inner = stage.own("inner");
    fs::create_dir_all(&inner)?;
    call2(161, at(&text(&inner)), 0)?;
    for _ in 0..64 {
        std::env::set_current_dir("..")?;
    }
    call2(161, at(&text(".")), 0)?;
    secret_in(stage, &stage.home(".netrc"))
}

/// Opens a file by its number on the disk, which asks for no path.
fn file_handle(stage: &Stage) -> Outcome {
    let (kind, hex) = stage.get("handle").split_once(':').expect("a type and bytes");
    let bytes: Vec<u8> = (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex")).collect();
    let mut handle = vec![];
    handle.extend((bytes.len() as u32).to_ne_bytes());
    handle.extend(kind.parse::<i32>().expect("a number").to_ne_bytes());
    handle.extend(&bytes);
    first([".", "/", "/usr", &stage.own(""), "/proc/self/exe", "/etc", "/tmp"].into_iter().map(|mounted| {
        let mount = File::open(mounted)?;
        let file = call3(304, mount.as_raw_fd() as usize, handle.as_ptr() as usize, 0)?;
        secret_in(stage, &format!("/proc/self/fd/{file}"))
    }))
}

fn hard_link(stage: &Stage) -> Outcome {
    let own = stage.own("linked");
    fs::hard_link(stage.home(".netrc"), &own)?;
    secret_in(stage, &own)
}

/// Makes a node of the disk that the host's files lie on, and reads it.
fn raw_disk(stage: &Stage) -> Outcome {
    let own = stage.own("disk");
    call3(133, at(&text(&own)), 0o060600, stage.number("disk"))?;
    let n = File::open(&own).and_then(|mut disk| disk.read(&mut [0; 512]));
    fs::remove_file(&own)?;
    Ok(format!("{} bytes of the disk", n?))
}

fn device(path: &str) -> Outcome {
    let file = fs::OpenOptions::new().read(true).custom_flags(0o4000).open(path)?;
    let metadata = file.metadata()?;
    // A plain file of that name gives nothing away.
    if metadata.rdev() == 0 { held("it is no device") } else { Ok(format!("device {:x} is open", metadata.rdev())) }
}
