//! Which programs build, by what they say of themselves; asked once, then remembered as long as their files stay the same.
//!
//! A rustup shim needs some 30 ms to start and names another compiler in each directory. So the answer is kept under the digest of all that leads to it
//! (search path, homes, the commit's rust-toolchain file, cargo's and rustup's files in the directories above the source), with the stamps of the
//! programs behind it; when one differs, the programs are asked again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use df_core::Digest;
use df_core::text::{escape, shorten};
use serde::{Deserialize, Serialize};

use crate::environment::Host;
use crate::keep::Keep;

/// What the images of this version of the build depend on besides the tools: raise it when the same recipe would give other bits.
const BUILD_VERSION: &str = "1";
const N_KEPT: usize = 50;

/// The tools are missing or cannot be asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ToolchainError {
    #[error("{program} is not on PATH; {advice}")]
    Missing { program: &'static str, advice: &'static str },
    #[error("{program} does not work here: {said}")]
    Refused { program: &'static str, said: String },
    #[error("rust-toolchain.toml may name a channel, not a path or an escaped text")]
    NamedByPath,
    #[error("cannot ask {program} for its version")]
    Ask { program: &'static str, source: io::Error },
}

/// The tools of one recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Toolchain {
    /// What each says of itself: part of the recipe.
    pub versions: BTreeMap<String, String>,
    /// Where the compiler's own files lie, and the commit it was made of.
    pub sysroot: Option<String>,
    pub commit_hash: Option<String>,
}

/// The files of the commit that choose a toolchain: name, digest, and how to read them when the answer is not remembered.
pub(crate) struct Chosen<'a> {
    pub digests: Vec<(&'static str, Digest)>,
    pub read: &'a dyn Fn(&str) -> Option<Vec<u8>>,
}

/// Returns the tools of a build; `cargo` when a Rust compiler and a linker must be among them.
pub(crate) fn of(host: &Host, keep: &Keep, chosen: &Chosen<'_>, cargo: bool) -> Result<Toolchain, ToolchainError> {
    let found = Found::new(host, cargo)?;
    let files_above = files_above(host, &keep.dir.join("src"));
    let name = format!("{}.json", question(host, &found, chosen, &files_above));
    if let Some(answer) = keep.read::<Answer>("toolchain", &name).filter(Answer::still_holds) {
        return Ok(answer.toolchain);
    }
    let toolchain = ask(host, keep, chosen, &found, &files_above)?;
    let mut behind = vec![host.rustup_home.join("settings.toml")];
    behind.extend(found.0.iter().map(|(_, path)| path.clone()));
    if let Some(sysroot) = &toolchain.sysroot {
        behind.extend(["bin/rustc", "bin/cargo"].map(|program| Path::new(sysroot).join(program)));
    }
    let stamps = behind.into_iter().map(|path| (path.to_string_lossy().into_owned(), stamp(&path))).collect();
    keep.write_json("toolchain", &name, &Answer { toolchain: toolchain.clone(), stamps }, N_KEPT);
    Ok(toolchain)
}

/// Returns the text of cargo's configuration outside of the source that applies to it: of the directories above, and of cargo's home.
pub(crate) fn cargo_config_above(host: &Host, source: &Path) -> Vec<u8> {
    files_above(host, source)
        .iter()
        .filter(|path| is_cargo_config(path))
        .flat_map(|path| fs::read(path).unwrap_or_default())
        .collect()
}

#[derive(Serialize, Deserialize)]
struct Answer {
    toolchain: Toolchain,
    stamps: BTreeMap<String, Option<(i64, i64, u64, u64)>>,
}

impl Answer {
    fn still_holds(&self) -> bool {
        self.stamps.iter().all(|(path, expected)| stamp(Path::new(path)) == *expected)
    }
}

/// When a file was changed, how long it is, and which it is.
fn stamp(path: &Path) -> Option<(i64, i64, u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.size(), metadata.ino()))
}

struct Found(Vec<(&'static str, PathBuf)>);

impl Found {
    fn new(host: &Host, cargo: bool) -> Result<Self, ToolchainError> {
        let tools = [
            ("rustc", "install Rust from https://rustup.rs", true),
            ("cargo", "install Rust from https://rustup.rs", true),
            ("cc", "install a C compiler, which links Rust programs (Debian: apt install gcc)", true),
            ("ld", "", false),
        ];
        let mut found = vec![];
        for (program, advice, needed) in tools {
            match host.find(program) {
                Some(path) => found.push((program, path)),
                None if cargo && needed => return Err(ToolchainError::Missing { program, advice }),
                None => {}
            }
        }
        Ok(Self(found))
    }

    fn has(&self, program: &str) -> bool {
        self.0.iter().any(|(name, _)| *name == program)
    }
}

/// Returns the existing files above the source that choose a toolchain or configure cargo.
fn files_above(host: &Host, source: &Path) -> Vec<PathBuf> {
    let names = ["rust-toolchain", "rust-toolchain.toml", ".cargo/config", ".cargo/config.toml"];
    let above = source.ancestors().skip(1).flat_map(|dir| names.map(|name| dir.join(name)));
    let mut files: Vec<PathBuf> = above.chain(["config", "config.toml"].map(|name| host.cargo_home.join(name))).collect();
    files.sort();
    files.dedup();
    files.retain(|path| path.is_file());
    files
}

fn is_cargo_config(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "config" || name == "config.toml")
}

fn question(host: &Host, found: &Found, chosen: &Chosen<'_>, files_above: &[PathBuf]) -> Digest {
    let above: Vec<_> = files_above.iter().map(|path| (path, stamp(path))).collect();
    Digest::of(format!("{BUILD_VERSION} {:?} {:?} {:?} {above:?}", host.environment(), found.0, chosen.digests).as_bytes())
}

fn ask(
    host: &Host,
    keep: &Keep,
    chosen: &Chosen<'_>,
    found: &Found,
    files_above: &[PathBuf],
) -> Result<Toolchain, ToolchainError> {
    let failed = |source| ToolchainError::Ask { program: "rustc", source };
    // Beside the source, so that what rustup and cargo find in the directories above is the same.
    crate::keep::make_dir(&keep.dir).map_err(failed)?;
    let dir = tempfile::Builder::new().prefix("ask-").tempdir_in(&keep.dir).map_err(failed)?;
    for (name, _) in &chosen.digests {
        let bytes = (chosen.read)(name).unwrap_or_default();
        refuse_path(&bytes)?;
        fs::write(dir.path().join(name), bytes).map_err(failed)?;
    }
    let mut versions = BTreeMap::from([("df build".to_owned(), BUILD_VERSION.to_owned())]);
    let ask = |program, args: &[&str]| said(host, found, dir.path(), program, args);
    let (mut sysroot, mut commit_hash) = (None, None);
    if found.has("rustc") {
        let verbose = ask("rustc", &["-vV"])?;
        versions.insert("rustc".into(), version_of(&verbose, "rustc "));
        commit_hash = verbose.lines().find_map(|line| line.strip_prefix("commit-hash: ")).map(str::to_owned);
        sysroot = Some(ask("rustc", &["--print", "sysroot"])?.trim().to_owned());
    }
    for (program, args, prefix) in [("cargo", "-V", "cargo "), ("cc", "--version", "cc "), ("ld", "--version", "GNU ld ")] {
        if found.has(program) {
            versions.insert(program.into(), version_of(&ask(program, &[args])?, prefix));
        }
    }
    let configs: Vec<u8> =
        files_above.iter().filter(|path| is_cargo_config(path)).flat_map(|path| fs::read(path).unwrap_or_default()).collect();
    if !configs.is_empty() {
        versions.insert("cargo configuration outside of the source".into(), Digest::of(&configs).short());
    }
    Ok(Toolchain { versions, sysroot, commit_hash })
}

/// A toolchain named by a path would run a program of the repository's choice before anyone agreed to run anything.
fn refuse_path(rust_toolchain: &[u8]) -> Result<(), ToolchainError> {
    let text = String::from_utf8_lossy(rust_toolchain);
    let names_a_path = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        line.contains("path") || line.contains('\\') || line.contains('/')
    };
    if text.lines().any(names_a_path) { Err(ToolchainError::NamedByPath) } else { Ok(()) }
}

fn said(host: &Host, found: &Found, dir: &Path, program: &'static str, args: &[&str]) -> Result<String, ToolchainError> {
    let path = found.0.iter().find_map(|(name, path)| (*name == program).then_some(path)).expect("asked only for what was found");
    let output = Command::new(path)
        .args(args)
        .current_dir(dir)
        .env_clear()
        .envs(host.environment())
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ToolchainError::Ask { program, source })?;
    if !output.status.success() {
        let first = output.stderr.split(|&b| b == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
        return Err(ToolchainError::Refused { program, said: shorten(&escape(first), 400) });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn version_of(text: &str, prefix: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    shorten(&escape(line.strip_prefix(prefix).unwrap_or(line).trim().as_bytes()), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolchain_file_that_names_a_program_is_refused() {
        for text in [
            "[toolchain]\npath = \"/tmp/evil\"",
            "toolchain.path='/x'",
            "[toolchain]\n\"p\\u0061th\" = 'x'",
            "toolchain = { path = 'x' }",
            "/opt/x",
        ] {
            assert!(refuse_path(text.as_bytes()).is_err(), "{text}");
        }
        assert!(refuse_path(b"[toolchain]\nchannel = \"1.95.0\" # not a path\ncomponents = ['clippy']\n").is_ok());
        assert!(refuse_path(b"stable\n").is_ok());
    }

    #[test]
    fn versions_are_short() {
        assert_eq!(version_of("rustc 1.95.0 (abc 2026-01-01)\nbinary: rustc", "rustc "), "1.95.0 (abc 2026-01-01)");
        assert_eq!(version_of("gcc (Debian 12) 12.2\n", "cc "), "gcc (Debian 12) 12.2");
    }
}
