//! Whether compiled dependencies hold anything of the commit besides what was vendored for them.
//!
//! A dependency can read any file of the commit: with `include!`, by a module's path, in a build script. A layer is made over a stub of the commit and used
//! for other commits, so such a file would be the wrong one. The compiler names all files that it read (`deps/*.d`), a build script those for which it wants
//! to be run again (`build/*/output`).

use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use crate::directory;
use crate::rooms::SOURCE;

/// Bytes of one list; what is longer counts as holding anything.
const LEN: u64 = 64 << 20;

/// Returns whether anything compiled in the directory of a profile names a file of the commit that is not in these directories of it.
///
/// Build scripts have written there: no link is followed, and what cannot be read as it should be counts as such a name.
pub(crate) fn names_any(profile: &OwnedFd, vendored: &[String]) -> bool {
    look(profile, vendored).unwrap_or(true)
}

fn look(profile: &OwnedFd, vendored: &[String]) -> io::Result<bool> {
    let mut dirs: Vec<OwnedFd> = open(profile, b"deps")?.into_iter().collect();
    if let Some(build) = open(profile, b"build")? {
        for unit in directory::names(&build)? {
            dirs.push(directory::open_in(&build, &unit)?);
        }
    }
    for dir in dirs {
        for name in directory::names(&dir)? {
            let names_any = match &name[..] {
                b"output" => is_watched(&read(&dir, &name)?, vendored),
                _ if name.ends_with(b".d") => is_read(&read(&dir, &name)?, vendored),
                _ => false,
            };
            if names_any {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn open(profile: &OwnedFd, name: &[u8]) -> io::Result<Option<OwnedFd>> {
    directory::look(profile, name)?.map(|_| directory::open_in(profile, name)).transpose()
}

fn read(dir: &OwnedFd, name: &[u8]) -> io::Result<String> {
    let (mut bytes, file) = (vec![], directory::open_file(dir, name)?);
    match file.take(LEN + 1).read_to_end(&mut bytes)? as u64 {
        ..=LEN => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// Judges a compiler's list, which is written like a makefile. A space in a name is taken for its end, which makes the name an unknown one.
fn is_read(list: &str, vendored: &[String]) -> bool {
    let files = list.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    files.map(|file| file.trim_end_matches(':')).any(|file| is_outside(file, vendored))
}

/// Judges what a build script said. Its relative paths begin at its package, and where vendored packages lie beside the commit's files none may leave it.
fn is_watched(said: &str, vendored: &[String]) -> bool {
    let after = |line| str::strip_prefix(line, "cargo:").map(|rest| rest.strip_prefix(':').unwrap_or(rest));
    let mut watched = said.lines().filter_map(after).filter_map(|rest| rest.strip_prefix("rerun-if-changed="));
    let leaves = |path: &str| !vendored.is_empty() && Path::new(path).is_relative() && normal(Path::new(path)).is_none();
    watched.any(|path| is_outside(path, vendored) || leaves(path))
}

fn is_outside(path: &str, vendored: &[String]) -> bool {
    let Some(path) = Path::new(path).strip_prefix("/").ok().and_then(normal) else { return false };
    match Path::new("/").join(path).strip_prefix(SOURCE) {
        Ok(below) => !vendored.iter().any(|dir| below.starts_with(dir)),
        Err(_) => false,
    }
}

/// Returns a path without `.` and `..`; `None` when it leads out of where it begins.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir if !normal.pop() => return None,
            _ => {}
        }
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_commit_is_known_however_it_is_written() {
        let vendored = ["vendor".to_owned()];
        for (list, expected) in [
            ("/df/target/release/deps/x.d: /df/cargo/registry/src/a/b.rs /df/src/vendor/x/src/lib.rs\n", false),
            ("/df/target/x.d: /df/src/vendor/x/src/../../../src/main.rs\n", true),
            ("/df/target/x.d: /df/cargo/../src/Cargo.toml\n", true),
            ("/df/src/Cargo.lock:\n", true),
            ("/df/src/vendored/x.rs:\n", true),
            ("# env-dep:X=/df/src/a\n", false),
        ] {
            assert_eq!(is_read(list, &vendored), expected, "{list}");
        }
        assert!(is_read("/df/target/x.d: /df/src/vendor/x/src/lib.rs\n", &[]));
        for (said, expected) in [
            ("cargo:rerun-if-changed=build.rs\ncargo::rerun-if-changed=./src/../x.c\n", false),
            ("cargo::rerun-if-changed=/df/src/src/main.rs", true),
            ("cargo:rerun-if-changed=/df/src", true),
            ("cargo:rerun-if-changed=../../Cargo.toml", true),
            ("cargo:rerun-if-env-changed=../X", false),
        ] {
            assert_eq!(is_watched(said, &vendored), expected, "{said}");
        }
        // A repository of several packages: its files are beside them, and none of the commit's.
        assert!(!is_watched("cargo:rerun-if-changed=../proto/a.proto", &[]));
    }
}
