//! A commit without its code: manifests, lock and configuration as they are, and an empty program in place of every Rust file.
//!
//! cargo makes the same plan for it as for the commit, so its dependencies come out the same, and nothing of the commit is there that could run meanwhile.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use df_core::{Kind, Manifest};

use crate::directory;

/// An empty library and an empty program at once, whatever the manifest forbids.
const EMPTY: &[u8] = b"#![allow(warnings)]\nfn main() {}\n";
/// Bytes of one manifest or lock.
const FILE_LEN: u64 = 64 << 20;

/// What stands for a file of the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The file itself.
    Same,
    /// An empty program.
    Empty,
}

/// Decides what a stub of a tree holds. `vendored` are directories that are put there otherwise; nothing of them is in it.
pub(crate) fn plan<'a>(manifest: &'a Manifest, vendored: &[String]) -> Vec<(&'a [u8], Piece)> {
    let is_vendored = |path: &[u8]| vendored.iter().any(|dir| is_below(path, dir));
    let piece = |path: &[u8]| {
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
        let is_configuration = path.starts_with(b".cargo/") || matches!(name, b"Cargo.toml");
        let is_same = is_configuration || matches!(path, b"Cargo.lock" | b"rust-toolchain" | b"rust-toolchain.toml");
        match () {
            () if is_vendored(path) => None,
            () if is_same => Some(Piece::Same),
            () if name.ends_with(b".rs") => Some(Piece::Empty),
            () => None,
        }
    };
    let files = manifest.entries().iter().filter(|entry| matches!(entry.kind, Kind::File { .. }));
    files.filter_map(|entry| Some((entry.path.as_bytes(), piece(entry.path.as_bytes())?))).collect()
}

/// Returns the files of a tree that dependencies may depend on, with their digests: cargo's configuration, and vendored packages.
pub(crate) fn files_that_count(manifest: &Manifest, vendored: &[String]) -> Vec<String> {
    let counts = |path: &[u8]| path.starts_with(b".cargo/") || vendored.iter().any(|dir| is_below(path, dir));
    let line = |entry: &df_core::Entry| match &entry.kind {
        Kind::File { executable, digest, .. } => format!("{} {executable} {digest}", entry.path),
        Kind::Symlink { target } => format!("{} -> {}", entry.path, df_core::text::escape(target)),
        Kind::Directory => entry.path.to_string(),
    };
    manifest.entries().iter().filter(|entry| counts(entry.path.as_bytes())).map(line).collect()
}

/// Returns whether what lies in vendored directories is all that counts of them: what a link leads to, the stub lacks and the key does not know.
pub(crate) fn are_whole(manifest: &Manifest, vendored: &[String]) -> bool {
    let below = |entry: &df_core::Entry| vendored.iter().any(|dir| is_below(entry.path.as_bytes(), dir));
    let has_link = manifest.entries().iter().any(|entry| below(entry) && matches!(entry.kind, Kind::Symlink { .. }));
    // Nothing is below a directory that is reached through a link.
    let has_files = |dir: &String| {
        let is_file = |entry: &df_core::Entry| matches!(entry.kind, Kind::File { .. });
        manifest.entries().iter().any(|entry| is_file(entry) && is_below(entry.path.as_bytes(), dir))
    };
    !has_link && vendored.iter().all(has_files)
}

/// Writes a stub of the tree in `source` to an empty directory.
pub(crate) fn write(plan: &[(&[u8], Piece)], vendored: &[String], source: &Path, dest: &Path) -> io::Result<()> {
    let (from, to) = (directory::open(source)?, directory::open(dest)?);
    for (path, piece) in plan {
        let (above, name) = split(path);
        let dir = descend(&to, above, true)?;
        let bytes = match piece {
            Piece::Empty => EMPTY.to_vec(),
            Piece::Same => {
                let mut bytes = vec![];
                let file = directory::open_file(descend(&from, above, false)?, name)?;
                file.take(FILE_LEN).read_to_end(&mut bytes)?;
                bytes
            }
        };
        directory::write_file(dir.as_fd(), name, false, &bytes)?;
    }
    for dir in vendored {
        descend(&to, dir.as_bytes(), true)?;
    }
    Ok(())
}

fn is_below(path: &[u8], dir: &str) -> bool {
    path.strip_prefix(dir.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn descend(top: &OwnedFd, path: &[u8], make: bool) -> io::Result<OwnedFd> {
    let mut dir = top.try_clone()?;
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        dir = if make { directory::make_in(dir.as_fd(), name)? } else { directory::open_in(&dir, name)? };
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_core::{Digest, Entry, TreePath};

    fn manifest(paths: &[&str]) -> Manifest {
        let mut entries = std::collections::BTreeMap::new();
        for path in paths {
            let file = Kind::File { executable: false, len: 1, digest: Digest::of(path.as_bytes()) };
            entries.insert((*path).to_owned(), file);
            for (at, _) in path.match_indices('/') {
                entries.insert(path[..at].to_owned(), Kind::Directory);
            }
        }
        let entry = |(path, kind): (String, Kind)| Entry { path: TreePath::new(path.as_bytes()).expect("a path"), kind };
        Manifest::new(entries.into_iter().map(entry).collect()).expect("a tree")
    }

    #[test]
    fn a_stub_has_no_code() {
        let tree = manifest(&[
            "Cargo.toml",
            "Cargo.lock",
            ".cargo/config.toml",
            "README.md",
            "build.rs",
            "src/main.rs",
            "src/schema.sql",
            "a/Cargo.toml",
            "a/src/lib.rs",
            "vendor/serde/Cargo.toml",
            "vendor/serde/src/lib.rs",
            "vendored.rs",
        ]);
        let vendored = ["vendor".to_owned()];
        let mut plan: Vec<(String, Piece)> =
            plan(&tree, &vendored).iter().map(|(path, piece)| (String::from_utf8_lossy(path).into_owned(), *piece)).collect();
        plan.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            (".cargo/config.toml", Piece::Same),
            ("Cargo.lock", Piece::Same),
            ("Cargo.toml", Piece::Same),
            ("a/Cargo.toml", Piece::Same),
            ("a/src/lib.rs", Piece::Empty),
            ("build.rs", Piece::Empty),
            ("src/main.rs", Piece::Empty),
            ("vendored.rs", Piece::Empty),
        ];
        assert_eq!(plan, expected.map(|(path, piece)| (path.to_owned(), piece)));
        let counted: Vec<String> =
            files_that_count(&tree, &vendored).iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect();
        assert_eq!(
            counted,
            [
                ".cargo/config.toml",
                "vendor",
                "vendor/serde",
                "vendor/serde/Cargo.toml",
                "vendor/serde/src",
                "vendor/serde/src/lib.rs"
            ]
        );
    }
}
