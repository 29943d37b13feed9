use std::process::Command;

use super::*;

/// A shim that stands for another compiler, as rustup's does, and the toolchain that it stands for.
struct Machine {
    dir: tempfile::TempDir,
    keep: Keep,
}

const REAL: &str =
    "case \"$1\" in -vV) echo 'rustc 1.2.3 (abc 2026-01-01)'; echo 'commit-hash: abc';; --print) echo SYSROOT;; esac";

fn machine() -> Machine {
    let dir = tempfile::tempdir().expect("a directory");
    let keep = Keep { dir: dir.path().join("keep") };
    let machine = Machine { dir, keep };
    let sysroot = machine.path("sysroot");
    machine.program("sysroot/bin/rustc", &REAL.replace("SYSROOT", sysroot.to_str().expect("text")));
    machine.program("sysroot/bin/cargo", "echo cargo 1.2.3");
    machine.file("sysroot/lib/librustc_driver-1.so", "the compiler");
    machine.file("sysroot/lib/rustlib/components", "rust-src\n");
    machine.shims("exec SYSROOT/bin/$(basename \"$0\") \"$@\"");
    machine
}

impl Machine {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("a path").join(name)
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below")).expect("a directory");
        fs::write(&path, text).expect("written");
    }

    /// Another process writes it: a program that is open for writing cannot start, and what other tests start just now would hold our descriptor open.
    fn program(&self, name: &str, script: &str) {
        let (path, text) = (self.path(name), format!("#!/bin/sh\n{script}\n"));
        fs::create_dir_all(path.parent().expect("below")).expect("a directory");
        let write = "rm -f \"$1\" && printf %s \"$2\" > \"$1\" && chmod 755 \"$1\"";
        let status = Command::new("/bin/sh").args(["-c", write, "sh"]).arg(path).arg(text).status().expect("a shell");
        assert!(status.success());
    }

    fn shims(&self, script: &str) {
        let script = script.replace("SYSROOT", self.path("sysroot").to_str().expect("text"));
        let counted = format!("echo x >> {}\n{script}", self.path("asked").display());
        self.program("shim/rustc", &counted);
        self.program("shim/cargo", &counted);
    }

    fn n_asked(&self) -> usize {
        fs::read(self.path("asked")).map_or(0, |bytes| bytes.len() / 2)
    }

    fn host(&self, path: &str) -> Host {
        let (home, path) = (self.path("home"), path.replace("SHIM", self.path("shim").to_str().expect("text")));
        Host::of(&|name| match name {
            "HOME" => Some(home.to_str()?.to_owned()),
            "PATH" => Some(path.clone()),
            _ => None,
        })
    }

    fn tools(&self, strict: bool, rust_toolchain: Option<&str>) -> Result<Toolchain, ToolchainError> {
        let digests = rust_toolchain.map(|text| ("rust-toolchain.toml", Digest::of(text.as_bytes()))).into_iter().collect();
        let read = |_: &str| rust_toolchain.map(|text| text.as_bytes().to_vec());
        let wanted = Wanted { cargo: true, strict };
        of(&self.host("SHIM:/usr/bin:/bin"), &self.keep, &Chosen { digests, read: &read }, wanted)
    }

    #[track_caller]
    fn refusal(&self, rust_toolchain: &str) -> String {
        self.tools(true, Some(rust_toolchain)).expect_err("refused").to_string()
    }
}

#[test]
fn the_tools_are_asked_once_and_again_when_a_file_behind_them_changes() {
    let machine = machine();
    let first = machine.tools(true, None).expect("tools");
    let n = machine.n_asked();
    assert!(n > 0);
    assert_eq!(first.bin, Some(machine.path("sysroot/bin")));
    assert_eq!(first.commit_hash.as_deref(), Some("abc"));
    assert!(first.versions["rustc"].starts_with("1.2.3 (abc 2026-01-01) #"), "{:?}", first.versions);
    assert_eq!(machine.tools(true, None).expect("tools"), first);
    assert_eq!(machine.n_asked(), n, "remembered");

    machine.file("sysroot/lib/librustc_driver-1.so", "the compiler with a door");
    let second = machine.tools(true, None).expect("tools");
    assert!(machine.n_asked() > n);
    assert_ne!(second.versions["rustc"], first.versions["rustc"]);
    assert_eq!(second.versions["cargo"], first.versions["cargo"]);
    machine.file("sysroot/lib/rustlib/x86_64-unknown-linux-gnu/lib/libstd-1.rlib", "a library more");
    let third = machine.tools(true, None).expect("tools");
    assert_ne!(third.versions["rustc"], second.versions["rustc"]);
}

#[test]
fn what_a_commit_names_and_is_missing_is_said_with_the_line_that_mends_it() {
    let machine = machine();
    assert!(machine.tools(true, Some("[toolchain]\ncomponents = ['rust-src']\n")).is_ok());
    let said = machine.refusal("[toolchain]\nchannel = '1.2.3'\ncomponents = ['miri']\n");
    assert!(said.ends_with("run: rustup component add --toolchain 1.2.3 miri"), "{said}");
    let said = machine.refusal("[toolchain]\ntargets = ['wasm32-wasip1']\n");
    assert!(said.ends_with("run: rustup target add wasm32-wasip1"), "{said}");
    machine.shims("echo \"error: toolchain 'nightly-2026-01-31-x86_64-unknown-linux-gnu' is not installed\" >&2; exit 1");
    let said = machine.refusal("[toolchain]\nchannel = 'nightly-2026-01-31'\n");
    assert!(said.ends_with("run: rustup toolchain install nightly-2026-01-31"), "{said}");
}

#[test]
fn a_compiler_without_rustup_is_the_one_that_the_commit_names_or_none() {
    let machine = machine();
    fs::remove_dir_all(machine.path("shim")).expect("removed");
    std::os::unix::fs::symlink(machine.path("sysroot/bin"), machine.path("shim")).expect("a link");
    assert!(machine.tools(true, Some("[toolchain]\nchannel = '1.2.3'\n")).is_ok());
    let said = machine.refusal("[toolchain]\nchannel = '1.2.4'\n");
    assert!(said.contains("names 1.2.4, and the rustc here is 1.2.3"), "{said}");
}

#[test]
fn a_program_that_is_missing_is_named() {
    let machine = machine();
    let ask = |path: &str| {
        let wanted = Wanted { cargo: true, strict: false };
        of(&machine.host(path), &machine.keep, &Chosen { digests: vec![], read: &|_| None }, wanted)
            .expect_err("refused")
            .to_string()
    };
    assert_eq!(ask("/nowhere"), "rustc is not on PATH; install Rust from https://rustup.rs");
    assert!(ask("SHIM").starts_with("cc is not on PATH; install a C compiler"), "{}", ask("SHIM"));
}

#[test]
fn a_command_builds_where_rustup_is_there_and_no_compiler_of_its_own() {
    let machine = machine();
    machine.shims("echo 'error: rustup could not choose a version of rustc to run' >&2; exit 1");
    let ask = |cargo| {
        let chosen = Chosen { digests: vec![], read: &|_| None };
        of(&machine.host("SHIM:/usr/bin:/bin"), &machine.keep, &chosen, Wanted { cargo, strict: true })
    };
    let tools = ask(false).expect("tools");
    assert!(!tools.versions.contains_key("rustc") && tools.versions.contains_key("cc"), "{:?}", tools.versions);
    let said = ask(true).expect_err("refused").to_string();
    assert!(said.starts_with("rustc does not work here: error: rustup could not choose"), "{said}");
}
