//! The files behind the tools, by content.
//!
//! A version text is what a program says of itself; what it does is decided by its bytes and those of the libraries beside it. Each tool is named by the
//! digest over `role NUL digest LF` of its files in order, where a role is a name that is equal on all machines (`lib/librustc_driver-1a2b.so`, `crt1.o`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use df_core::{Digest, Hasher};

use crate::keep::Keep;
use crate::recipe::TARGET;

/// Files of one directory of a toolchain; a standard library has some thirty.
const N_FILES: usize = 2000;
/// Directories of a target's part of a toolchain: the standard library, what static programs are linked from, linkers.
const PARTS: [&str; 4] = ["lib", "lib/self-contained", "bin", "bin/gcc-ld"];
/// The file of the digests that are known already.
const KNOWN: &str = "contents.json";

/// When a file was changed, how long it is, and which it is. Its change time cannot be set back as its modification time can.
pub(super) type Stamp = (i64, i64, i64, i64, u64, u64);

/// Returns a file's stamp; `None` when it is not there.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let m = fs::metadata(path).ok()?;
    Some((m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec(), m.size(), m.ino()))
}

/// The files of one tool: what each is to it, and where it is here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Files(pub BTreeMap<String, PathBuf>);

impl Files {
    /// Adds a file with all links resolved, if it is there.
    pub fn add(&mut self, role: impl Into<String>, path: &Path) {
        if let Ok(path) = path.canonicalize()
            && path.is_file()
        {
            self.0.insert(role.into(), path);
        }
    }

    /// Adds the files of a directory whose names fit.
    fn add_directory(&mut self, role: &str, dir: &Path, fits: &dyn Fn(&str) -> bool) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten().take(N_FILES) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if fits(&name) {
                self.add(format!("{role}/{name}"), &entry.path());
            }
        }
    }
}

/// Returns the files that decide what a Rust compiler makes: itself, its libraries, the standard library, the linker that it brings.
pub(super) fn of_rustc(rustc: &Path, sysroot: &Path) -> Files {
    let mut files = Files::default();
    files.add("bin/rustc", rustc);
    let is_compiler =
        |name: &str| name.starts_with("librustc_driver") || name.starts_with("libLLVM") || name.starts_with("libstd-");
    for dir in [sysroot.join("lib"), sysroot.join("lib/x86_64-linux-gnu")] {
        files.add_directory("lib", &dir, &is_compiler);
    }
    for (part, dir) in PARTS.iter().zip(directories(sysroot)) {
        files.add_directory(&format!("{TARGET}/{part}"), &dir, &|_| true);
    }
    files
}

/// Returns the directories of a toolchain whose names count as well: what is put there is used.
pub(super) fn directories(sysroot: &Path) -> Vec<PathBuf> {
    let rustlib = sysroot.join("lib/rustlib");
    PARTS.iter().map(|part| rustlib.join(TARGET).join(part)).chain([rustlib.join("components")]).collect()
}

/// Returns where a toolchain would have a linker of its own.
pub(super) fn own_linker(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib").join(TARGET).join("bin/gcc-ld/ld.lld")
}

/// Digests that were taken before, by path: in this process, and kept for the next.
pub(super) struct Contents<'a> {
    keep: &'a Keep,
}

static TAKEN: LazyLock<Mutex<BTreeMap<PathBuf, (Stamp, Digest)>>> = LazyLock::new(Mutex::default);

impl<'a> Contents<'a> {
    /// Takes what is kept into this process.
    pub fn known(keep: &'a Keep) -> Self {
        let kept: BTreeMap<PathBuf, (Stamp, Digest)> = keep.read("toolchain", KNOWN).unwrap_or_default();
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, known) in kept {
            taken.entry(path).or_insert(known);
        }
        Self { keep }
    }

    /// Returns the digest over a tool's files.
    pub fn digest(&self, files: &Files) -> io::Result<Digest> {
        let mut text = Vec::new();
        for (role, path) in &files.0 {
            text.extend_from_slice(role.as_bytes());
            text.push(0);
            text.extend_from_slice(of_file(path)?.to_string().as_bytes());
            text.push(b'\n');
        }
        Ok(Digest::of(&text))
    }

    /// Keeps what is known for the next process.
    pub fn keep(&self, n_kept: usize) {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|path, (known, _)| stamp(path) == Some(*known));
        self.keep.write_json("toolchain", KNOWN, &*taken, n_kept);
    }
}

/// Returns the digest of a file, read only when its stamp is not a known one.
fn of_file(path: &Path) -> io::Result<Digest> {
    let stamped = stamp(path).ok_or(io::ErrorKind::NotFound)?;
    let known = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied();
    if let Some((_, digest)) = known.filter(|(known, _)| *known == stamped) {
        return Ok(digest);
    }
    let (mut file, mut hasher, mut buffer) = (File::open(path)?, Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => drop(hasher.update(&buffer[..n])),
        }
    }
    let digest = hasher.finish();
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), (stamped, digest));
    Ok(digest)
}

/// Returns the version that a GNU C library names in its bytes: `2.36`.
pub(super) fn libc_version(libc: &Path) -> Option<String> {
    const BEFORE: &[u8] = b"release version ";
    let mut bytes = vec![];
    File::open(libc).ok()?.take(64 << 20).read_to_end(&mut bytes).ok()?;
    let at = bytes.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let digits = bytes[at..].iter().take(12).take_while(|b| b.is_ascii_digit() || **b == b'.');
    let version: String = digits.map(|&b| char::from(b)).collect();
    Some(version.trim_end_matches('.').to_owned()).filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_changed_under_equal_times_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let keep = Keep { dir: dir.path().join("keep") };
        let tool = dir.path().join("cc1");
        let digest = || {
            let mut files = Files::default();
            files.add("cc1", &tool);
            Contents::known(&keep).digest(&files).expect("it reads")
        };
        fs::write(&tool, "one").expect("written");
        let times = fs::metadata(&tool).and_then(|m| m.modified()).expect("a time");
        let first = digest();
        assert_eq!(digest(), first);
        let begun = fs::metadata(&tool).map(|m| (m.ctime(), m.ctime_nsec())).expect("a time");
        // The file system's clock may tick only every few milliseconds.
        loop {
            fs::write(&tool, "two").expect("written");
            File::options().write(true).open(&tool).and_then(|file| file.set_modified(times)).expect("the old time");
            if fs::metadata(&tool).map(|m| (m.ctime(), m.ctime_nsec())).expect("a time") != begun {
                break;
            }
        }
        assert_ne!(digest(), first);
    }

    #[test]
    fn where_a_file_lies_does_not_count() {
        let dir = tempfile::tempdir().expect("a directory");
        let keep = Keep { dir: dir.path().join("keep") };
        let digest = |place: &str, text: &str| {
            let path = dir.path().join(place);
            fs::create_dir_all(path.parent().expect("below")).expect("a directory");
            fs::write(&path, text).expect("written");
            let mut files = Files::default();
            files.add("ld", &path);
            files.add("absent", &dir.path().join("absent"));
            Contents::known(&keep).digest(&files).expect("it reads")
        };
        assert_eq!(digest("a/ld", "x"), digest("b/other", "x"));
        assert_ne!(digest("a/ld", "x"), digest("c/ld", "y"));
    }

    #[test]
    fn a_c_library_names_its_version() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), b"\x7fELF\0GNU C Library (X) stable release version 2.36.\nCopyright").expect("written");
        assert_eq!(libc_version(file.path()).as_deref(), Some("2.36"));
        fs::write(file.path(), b"\x7fELF release version").expect("written");
        assert_eq!(libc_version(file.path()), None);
    }
}
