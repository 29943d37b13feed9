//! What the machine holds already is not downloaded again.
//!
//! The user's `$CARGO_HOME` holds packed packages and what their registries say of them. A packed package is taken when its bytes have the lock's
//! checksum; a page of an index when it speaks of that checksum. Unpacked packages are never taken: people edit them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::lock::LockedPackage;
use super::verify::{self, Sums};

/// Bytes of one page of an index, and of the page that says where packages lie.
const PAGE_LEN: u64 = 64 << 20;

/// Copies what the user's cargo has of the packages. Whatever fails is a saving lost.
pub(crate) fn seed(packages: &[&LockedPackage], sums: &Sums, own: &Path, kept: &Path) {
    for registry in directories(&own.join("registry/cache")) {
        let (from, to) = (own.join("registry/cache").join(&registry), kept.join("registry/cache").join(&registry));
        for (file, wanted) in sums {
            if from.join(file).exists() && !to.join(file).exists() {
                copy_checked(&from.join(file), &to, file, wanted).ok();
            }
        }
    }
    for registry in directories(&own.join("registry/index")) {
        let (from, to) = (own.join("registry/index").join(&registry), kept.join("registry/index").join(&registry));
        let mut any = false;
        for package in packages {
            let page = Path::new(".cache").join(page_of(&package.name));
            any |= seed_page(&from.join(&page), &to.join(&page), package).unwrap_or(false);
        }
        // Where packages lie: cargo wants to know it even when it has them all.
        if any && !to.join("config.json").exists() {
            read_page(&from.join("config.json")).and_then(|bytes| write(&to.join("config.json"), &bytes)).ok();
        }
    }
}

/// Returns where an index keeps its page of a name: by its first letters, in lower case.
fn page_of(name: &str) -> String {
    let name = name.to_lowercase();
    let letters: Vec<char> = name.chars().collect();
    let part = |range: std::ops::Range<usize>| letters[range].iter().collect::<String>();
    match letters.len() {
        0 => name,
        1 => format!("1/{name}"),
        2 => format!("2/{name}"),
        3 => format!("3/{}/{name}", part(0..1)),
        _ => format!("{}/{}/{name}", part(0..2), part(2..4)),
    }
}

/// Copies a page that speaks of the package, unless the page there does; returns whether it was copied.
fn seed_page(from: &Path, to: &Path, package: &LockedPackage) -> io::Result<bool> {
    let checksum = package.checksum.as_deref().unwrap_or_default();
    let speaks = |bytes: &[u8]| !checksum.is_empty() && String::from_utf8_lossy(bytes).contains(checksum);
    if read_page(to).is_ok_and(|bytes| speaks(&bytes)) {
        return Ok(false);
    }
    let bytes = read_page(from)?;
    if speaks(&bytes) {
        write(to, &bytes)?;
    }
    Ok(speaks(&bytes))
}

fn read_page(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = vec![];
    file.take(PAGE_LEN).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    verify::make_open_dir(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    io::Write::write_all(&mut file, bytes)?;
    name_it(file, path)
}

/// Copies a file into a directory if its bytes have one of the checksums. What is hashed is the copy: nobody can change that in between.
fn copy_checked(from: &Path, dir: &Path, name: &str, wanted: &BTreeSet<String>) -> io::Result<()> {
    let mut source = File::open(from)?;
    if !source.metadata()?.is_file() {
        return Ok(());
    }
    verify::make_open_dir(dir)?;
    let mut copy = tempfile::NamedTempFile::new_in(dir)?;
    if rustix::fs::ioctl_ficlone(copy.as_file(), &source).is_err() {
        io::copy(&mut source, &mut copy)?;
    }
    copy.as_file_mut().rewind()?;
    if wanted.contains(&verify::sha256(copy.as_file_mut())?) {
        name_it(copy, &dir.join(name))?;
    }
    Ok(())
}

fn name_it(file: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Returns the names of the directories in a directory, sorted.
fn directories(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lie_where_indexes_keep_them() {
        for (name, expected) in [("a", "1/a"), ("ab", "2/ab"), ("abc", "3/a/abc"), ("Serde_Json", "se/rd/serde_json")] {
            assert_eq!(page_of(name), expected);
        }
    }
}
