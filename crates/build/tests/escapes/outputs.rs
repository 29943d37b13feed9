//! Outputs that are something else than they seem: the build is refused, or what is taken is what the build made and nothing of the host.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use df_testkit::Tree;

use crate::run::Sandboxed;
use crate::stage::Stage;

fn stage() -> Stage {
    let stage = Stage::new(Path::new(env!("CARGO_TARGET_TMPDIR")), None);
    stage.repo.commit(&[("a", "a")], "one");
    stage
}

/// Runs a command outside, and copies what it left as `cp` does it. The control: true says that the copy is as bad as it was meant.
#[track_caller]
fn outside(stage: &Stage, line: &str, is_bad: fn(&Path) -> bool) {
    let (dir, copy) = (stage.path("copies/work"), stage.path("copies/out"));
    fs::create_dir_all(&dir).expect("made");
    let status = Command::new("/bin/sh").args(["-c", line]).current_dir(&dir).status().expect("a shell");
    assert!(status.success(), "{line}");
    let status = Command::new("cp").arg("-a").args([dir.join("out"), copy.clone()]).status().expect("cp");
    assert!(status.success() && is_bad(&copy), "{line} proves nothing");
}

#[test]
fn an_output_of_the_wrong_kind_is_refused() {
    let check = |line: &str, is_bad: fn(&Path) -> bool, only_root: bool, expected: &str| {
        let stage = stage();
        if !only_root || rustix::process::geteuid().is_root() {
            outside(&stage, line, is_bad);
        }
        let outcome = Sandboxed::command(line).build(&stage);
        assert!(!outcome.output.exists(), "{line} was built");
        assert!(outcome.said.contains(expected), "{line}: {:?} does not say {expected:?}", outcome.said);
        assert!(!outcome.said.contains(['\u{1b}', '\u{7}']), "{:?}", outcome.said);
        assert_eq!(stage.rooms(), Vec::<String>::new(), "{line}");
    };
    check("ln -s /etc out", Path::is_symlink, false, "is a symbolic link");
    check("touch out", Path::is_file, false, "is no directory");
    let pipe = |out: &Path| fs::metadata(out.join("p")).is_ok_and(|p| p.file_type().is_fifo());
    check("mkdir out; mkfifo out/p", pipe, false, "a named pipe");
    let device = |out: &Path| fs::metadata(out.join("d")).is_ok_and(|d| d.file_type().is_char_device());
    check("set -e; mkdir out; mknod out/d c 1 3", device, true, "Operation not permitted");
    let mode = |out: &Path| fs::metadata(out.join("s")).is_ok_and(|s| s.permissions().mode() & 0o6000 != 0);
    check("set -e; mkdir out; cp /bin/true out/s; chmod u+s out/s", mode, false, "Operation not permitted");
    check("set -e; mkdir out; cp /bin/true out/s; chmod g+s out/s", mode, false, "Operation not permitted");
    let link =
        |out: &Path| fs::read(out.join("program")).is_ok_and(|bytes| bytes == fs::read("/usr/bin/env").expect("a program"));
    check("set -e; mkdir out; cd out; ln /usr/bin/env program || cp -l /usr/bin/env program", link, true, "cross-device");
    let raw_name =
        |out: &Path| fs::read_dir(out).expect("listed").flatten().any(|e| e.file_name().as_encoded_bytes().contains(&0x1b));
    check("mkdir out; mkfifo \"out/$(printf 'p\\033]0;title\\007')\"", raw_name, false, "a named pipe");
}

#[test]
fn a_link_in_the_output_stays_a_link() {
    let stage = stage();
    let outcome =
        Sandboxed::command(&format!("mkdir out; ln -s {} out/secret; touch out/a", stage.path("home/.netrc").display()))
            .build(&stage);
    if outcome.output.exists() {
        assert!(outcome.output.join("secret").is_symlink(), "{}", outcome.said);
    }
}

#[test]
fn an_output_that_is_swapped_by_a_daemon_is_never_another_directory() {
    let stage = stage();
    let line = "mkdir out; touch out/a; setsid sh -c 'while :; do mv out b; ln -s / out; rm out; mv b out; done' > /dev/null 2>&1 & sleep 0.1";
    for _ in 0..5 {
        let outcome = Sandboxed::command(line).build(&stage);
        let names: Vec<_> = if outcome.output.exists() { Tree::read(&outcome.output).0.into_keys().collect() } else { vec![] };
        assert!(names.is_empty() || names == [Path::new("a")], "{names:?} {}", outcome.said);
    }
}

/// A package whose build script makes `target/release` a link to a directory of the room; at the same place of the host lies a secret of the program's name.
#[test]
fn a_program_is_not_taken_through_a_link_out_of_the_room() {
    let stage = stage();
    let outside = std::env::temp_dir().join(format!("{}-release", stage.token));
    let script = format!(
        "fn main() {{
            let own = std::env::var(\"OUT_DIR\").unwrap();
            let release = std::path::Path::new(&own).join(\"../../..\").canonicalize().unwrap();
            let line = format!(\"set -e; mkdir -p /tmp; cp -a {{0}} {to}; mv {{0}} {{0}}.old; ln -s {to} {{0}}\", release.display());
            assert!(std::process::Command::new(\"sh\").args([\"-c\", &line]).status().unwrap().success());
        }}\n",
        to = outside.display()
    );
    let files = [
        ("Cargo.toml", "[package]\nname = \"attempts\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n"),
        ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"attempts\"\nversion = \"0.1.0\"\n"),
        ("build.rs", &script),
        ("src/main.rs", "fn main() { println!(\"mine\"); }\n"),
    ];
    stage.repo.commit(&files, "swap");
    let secret = || {
        fs::create_dir_all(&outside).expect("made");
        fs::write(outside.join("attempts"), &stage.token).expect("written");
    };
    if rustix::process::geteuid().is_root() {
        Tree::of_files(&files).write(&stage.path("package"));
        crate::run::in_private_tmp(&stage);
        secret();
        let taken = fs::read_to_string(stage.path("package/target/release/attempts")).expect("it looks like a program");
        assert_eq!(taken, stage.token, "the control gives the secret away");
    }
    secret();
    let outcome = Sandboxed::cargo().build(&stage);
    let program = fs::read(outcome.output.join("bin/attempts")).unwrap_or_default();
    fs::remove_dir_all(&outside).expect("ours");
    assert_ne!(program, stage.token.as_bytes());
    assert!(program.starts_with(b"\x7fELF") || outcome.said.contains("error: "), "{}", outcome.said);
}

/// Writes lines as if cargo had said them, into cargo's own output, from when the program is there on.
const FORGER: &str = r#"
use std::io::Write;
fn main() {
    let mut args = std::env::args().skip(1);
    if let (Some(output), Some(program), Some(line)) = (args.next(), args.next(), args.next()) {
        let mut output = std::fs::OpenOptions::new().append(true).open(output).unwrap();
        while !std::path::Path::new(&program).exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        (0..20_000).try_for_each(|_| output.write_all(line.as_bytes())).ok();
        return;
    }
    let package = format!("path+file://{}#attempts@0.1.0", std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let source = format!("{}/src/main.rs", std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let line = format!("\n{{\"reason\":\"compiler-artifact\",\"package_id\":\"{package}\",\"manifest_path\":\"{source}\",\"target\":{{\"kind\":[\"bin\"],\"crate_types\":[\"bin\"],\"name\":\"attempts\",\"src_path\":\"{source}\",\"edition\":\"2024\",\"doc\":true,\"doctest\":false,\"test\":true}},\"profile\":{{\"opt_level\":\"3\",\"debuginfo\":0,\"debug_assertions\":false,\"overflow_checks\":false,\"test\":false}},\"features\":[],\"filenames\":[\"PLACE\"],\"executable\":\"PLACE\",\"fresh\":false}}\n");
    let own = std::env::var("OUT_DIR").unwrap();
    let release = std::path::Path::new(&own).join("../../..").canonicalize().unwrap();
    std::os::unix::fs::symlink("SECRET", release.join("link")).unwrap();
    let output = format!("/proc/{}/fd/1", std::os::unix::process::parent_id());
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.arg(output).arg(release.join("attempts")).arg(line);
    child.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    child.spawn().unwrap();
}
"#;

#[test]
fn a_forged_message_of_cargo_gives_no_file_of_the_host() {
    let stage = stage();
    let secret = stage.path("home/.netrc").display().to_string();
    let places =
        [secret.clone(), format!("/df/target/release{}{secret}", "/..".repeat(20)), "/df/target/release/link".to_owned()];
    for (n, place) in places.into_iter().enumerate() {
        let script = FORGER.replace("PLACE", &place).replace("SECRET", &secret);
        let files = [
            ("Cargo.toml", "[package]\nname = \"attempts\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n"),
            ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"attempts\"\nversion = \"0.1.0\"\n"),
            ("build.rs", &script),
            ("src/main.rs", "fn main() { println!(\"mine\"); }\n"),
        ];
        stage.repo.commit(&files, "forged");
        if n == 0 {
            Tree::of_files(&files).write(&stage.path("package"));
            let is_forged = || crate::run::messages_outside(&stage).contains(&format!("\"executable\":\"{secret}\""));
            let believed = df_testkit::wait_until(std::time::Duration::from_secs(60), || is_forged().then_some(()));
            assert!(believed.is_some(), "the control is not fooled");
        }
        let outcome = Sandboxed::cargo().build(&stage);
        let program = fs::read(outcome.output.join("bin/attempts")).unwrap_or_default();
        assert_ne!(program, stage.token.as_bytes(), "{place}");
        assert!(program.starts_with(b"\x7fELF") || outcome.said.contains("error: "), "{place}: {}", outcome.said);
    }
}
