//! Which programs build, by version and content; asked once, then remembered as long as their files stay the same.
//!
//! A rustup shim needs some 30 ms to start and names another compiler in each directory, and a compiler's files are half a gigabyte. So the answer is kept
//! under the digest of all that leads to it (search path, homes, the commit's rust-toolchain file, cargo's and rustup's files in the directories above the
//! source), with the stamps of all the files behind it; when one differs, the programs are asked again.

mod ask;
mod choice;
mod content;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use df_core::Digest;
use serde::{Deserialize, Serialize};

use crate::keep::Keep;
use crate::recipe::environment::Host;
use ask::Found;
use content::{Stamp, stamp};

/// What the images of this version of the build depend on besides the tools: raise it when the same recipe would give other bits.
const BUILD_VERSION: &str = "3";
const N_KEPT: usize = 50;

/// The tools are missing or cannot be asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ToolchainError {
    #[error("{program} is not on PATH; {advice}")]
    Missing { program: &'static str, advice: &'static str },
    #[error(
        "the C library has no crt1.o, which every program begins with; install its files for building (Debian: apt install libc6-dev)"
    )]
    NoCLibrary,
    #[error("{program} does not work here: {said}")]
    Refused { program: &'static str, said: String },
    #[error("rust-toolchain.toml may name a channel, not a path or an escaped text")]
    NamedByPath,
    #[error("rust-toolchain.toml cannot be read as rustup reads it: a table [toolchain] with channel, components and targets")]
    Unreadable,
    #[error("the commit's rust-toolchain file names {channel}, which is not installed; run: rustup toolchain install {channel}")]
    NotInstalled { channel: String },
    #[error(
        "the commit's rust-toolchain file names {channel}, and the rustc here is {version}; install that one, or rustup (https://rustup.rs)"
    )]
    Other { channel: String, version: String },
    #[error("the commit's rust-toolchain file names the {what} {name}, which is not installed; run: {mend}")]
    Lacking { what: &'static str, name: String, mend: String },
    #[error(
        "{program} is at {}, which a strict build does not see; install one below /usr, or write `sandbox: off`",
        path.display()
    )]
    NotVisible { program: &'static str, path: PathBuf },
    #[error("cannot ask {program} what it is")]
    Ask { program: &'static str, source: io::Error },
}

/// The tools of one recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Toolchain {
    /// What each says of itself and the digest of its files (`1.95.0 (59807616e 2026-04-14) #3fa2b1c09d11`): part of the recipe.
    pub versions: BTreeMap<String, String>,
    /// Where the compiler's own files lie, and the commit it was made of.
    pub sysroot: Option<String>,
    pub commit_hash: Option<String>,
    /// The directory of the real `rustc` and `cargo`, no shims of rustup; `None` when they do not lie together.
    pub bin: Option<PathBuf>,
}

/// What a build needs of its tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// A Rust compiler and a linker must be among them.
    pub cargo: bool,
    /// They must be where a strict build sees them, and nothing else of the machine counts.
    pub strict: bool,
}

/// The files of the commit that choose a toolchain: name, digest, and how to read them when the answer is not remembered.
pub(crate) struct Chosen<'a> {
    pub digests: Vec<(&'static str, Digest)>,
    pub read: &'a dyn Fn(&str) -> Option<Vec<u8>>,
}

/// Returns the tools of a build.
///
/// # Errors
/// Says what is missing and the line that mends it, before anything is compiled.
pub(crate) fn of(host: &Host, keep: &Keep, chosen: &Chosen<'_>, wanted: Wanted) -> Result<Toolchain, ToolchainError> {
    let found = Found::new(host, wanted)?;
    let files_above = files_above(host, &keep.dir.join("src"));
    let name = format!("{}.json", question(host, &found, chosen, wanted, &files_above));
    if let Some(answer) = keep.read::<Answer>("toolchain", &name).filter(Answer::still_holds) {
        return Ok(answer.toolchain);
    }
    let (toolchain, behind) = ask::ask(host, keep, chosen, wanted, &found, &files_above)?;
    let stamps = behind.into_iter().map(|path| (path.to_string_lossy().into_owned(), stamp(&path))).collect();
    keep.write_json("toolchain", &name, &Answer { toolchain: toolchain.clone(), stamps }, N_KEPT);
    Ok(toolchain)
}

/// Returns the text of cargo's configuration outside of the source that applies to it: of the directories above, and of cargo's home.
pub(crate) fn cargo_config_above(host: &Host, source: &Path) -> Vec<u8> {
    text_of_configs(&files_above(host, source))
}

#[derive(Serialize, Deserialize)]
struct Answer {
    toolchain: Toolchain,
    stamps: BTreeMap<String, Option<Stamp>>,
}

impl Answer {
    fn still_holds(&self) -> bool {
        self.stamps.iter().all(|(path, expected)| stamp(Path::new(path)) == *expected)
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

fn text_of_configs(files: &[PathBuf]) -> Vec<u8> {
    let is_config = |path: &&PathBuf| path.file_name().is_some_and(|name| name == "config" || name == "config.toml");
    files.iter().filter(is_config).flat_map(|path| fs::read(path).unwrap_or_default()).collect()
}

fn question(host: &Host, found: &Found, chosen: &Chosen<'_>, wanted: Wanted, files_above: &[PathBuf]) -> Digest {
    let above: Vec<_> = files_above.iter().map(|path| (path, stamp(path))).collect();
    let text = format!("{BUILD_VERSION} {wanted:?} {:?} {:?} {:?} {above:?}", host.environment(), found.0, chosen.digests);
    Digest::of(text.as_bytes())
}

#[cfg(test)]
mod tests;
