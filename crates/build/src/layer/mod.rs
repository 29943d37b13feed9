//! Dependency layers: what was compiled of registries and git repositories, kept read-only under all later builds that need the same.
//!
//! `<keep>/layers/<key>/target` is a target directory with nothing else in it, `<key>/used` holds its length and has the time of its last use. A layer comes into being by one
//! rename and its target directory is never written to again; a build sees it as the lower directory of its own. `boot` and `synced` tell whether it is on the disk.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use df_core::Digest;
use rustix::fs::FileType;

use crate::directory;
use crate::keep::{Keep, make_dir};
use crate::sandbox;

pub(crate) mod outside;
pub(crate) mod stub;
pub(crate) mod units;

/// Layers kept.
const N_LAYERS: usize = 10;
/// Bytes of all layers together.
const LEN: u64 = 20 << 30;
/// Keys of which is known that no layer can be made.
const N_IMPOSSIBLE: usize = 50;
/// Where they are noted.
const IMPOSSIBLE: &str = "no-layer";
/// Hexadecimal digits with which cargo ends the names of a unit's files.
const N_DIGITS: usize = 16;

/// Returns the target directory of a layer if there is one, and notes that it is used.
pub(crate) fn find(keep: &Keep, key: Digest) -> Option<PathBuf> {
    let dir = dir_of(keep, key);
    let used = fs::File::options().write(true).open(dir.join("used")).ok()?;
    if !dir.join("synced").exists() {
        let boot = boot();
        if boot.is_empty() || fs::read(dir.join("boot")).ok()? != boot {
            sandbox::remove(&dir).ok();
            return None;
        }
        sync_later(dir.clone());
    }
    used.set_modified(SystemTime::now()).ok();
    Some(dir.join("target")).filter(|target| target.is_dir())
}

/// Makes a layer of a target directory on the same file system, in which nobody is at work any more: keeps what belongs to packages of these names.
/// `None` when that was made of files of the commit outside of its `vendored` directories.
pub(crate) fn put(
    keep: &Keep,
    key: Digest,
    target: &Path,
    names: &BTreeSet<&str>,
    vendored: &[String],
) -> io::Result<Option<PathBuf>> {
    let all = keep.dir.join("layers");
    make_dir(&all)?;
    prune(target, names)?;
    if profiles(target)?.iter().any(|profile| outside::names_any(profile, vendored)) {
        return Ok(None);
    }
    let new = tempfile::Builder::new().prefix(".new-").tempdir_in(&all)?;
    fs::rename(target, new.path().join("target"))?;
    fs::write(new.path().join("used"), len_below(&new.path().join("target"))?.to_string())?;
    fs::write(new.path().join("boot"), boot())?;
    let dir = dir_of(keep, key);
    sandbox::remove(&dir)?;
    fs::rename(new.path(), &dir)?;
    drop(new.keep());
    sync_later(dir.clone());
    collect(&all, &dir);
    Ok(Some(dir.join("target")))
}

/// Returns whether it is known that no layer of this key can be made.
pub(crate) fn is_impossible(keep: &Keep, key: Digest) -> bool {
    keep.read_bytes(IMPOSSIBLE, &key.to_string()).is_some()
}

/// Notes that no layer of this key can be made.
pub(crate) fn note_impossible(keep: &Keep, key: Digest) {
    keep.write(IMPOSSIBLE, &key.to_string(), b"", N_IMPOSSIBLE);
}

fn dir_of(keep: &Keep, key: Digest) -> PathBuf {
    keep.dir.join("layers").join(key.to_string())
}

/// Writes a layer to the disk while the build goes on, and notes when that is done.
///
/// After a power cut cargo would take a torn file for a fresh one. So a layer counts in the boot that it was made in, and in later ones only with this note.
fn sync_later(dir: PathBuf) {
    std::thread::spawn(move || {
        let synced = fs::File::open(&dir).and_then(|open| Ok(rustix::fs::syncfs(open)?));
        synced.and_then(|()| fs::write(dir.join("synced"), "")).ok();
    });
}

/// Returns what names this boot of the machine; nothing where nothing does.
fn boot() -> Vec<u8> {
    fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Removes layers, the ones used longest ago first, until the rest is within its bounds; and what killed builds left half made.
fn collect(all: &Path, in_use: &Path) {
    let Ok(entries) = fs::read_dir(all) else { return };
    let (mut layers, mut torn) = (vec![], vec![]);
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path != in_use) {
        let used = path.join("used");
        let known = fs::metadata(&used).and_then(|m| m.modified()).ok().zip(fs::read_to_string(&used).ok());
        match known.and_then(|(time, len)| Some((time, len.parse::<u64>().ok()?))) {
            Some((time, len)) if !is_unfinished(&path) => layers.push((time, len, path)),
            _ => torn.push(path),
        }
    }
    layers.sort();
    layers.reverse();
    let (mut n, mut len) = (1, len_of(in_use));
    let beyond = layers.into_iter().filter(|(_, layer_len, _)| {
        n += 1;
        len += layer_len;
        n > N_LAYERS || len > LEN
    });
    for path in beyond.map(|(_, _, path)| path).collect::<Vec<_>>().into_iter().chain(torn) {
        // A layer made just now may get its note meanwhile.
        if sandbox::remove(&path).is_err() {
            sandbox::remove(&path).ok();
        }
    }
}

fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".new-"))
}

fn len_of(layer: &Path) -> u64 {
    fs::read_to_string(layer.join("used")).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Returns how much room files take, each once. Follows no link.
fn len_below(dir: &Path) -> io::Result<u64> {
    let (mut open, mut len, mut seen) = (vec![dir.to_owned()], 0, HashSet::new());
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir)? {
            let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if metadata.is_dir() {
                open.push(path);
            } else if metadata.nlink() == 1 || seen.insert(metadata.ino()) {
                len += metadata.blocks() * 512;
            }
        }
    }
    Ok(len)
}

/// Removes from a target directory all but what belongs to packages of these names. Build scripts have written to it: no link is followed.
fn prune(target: &Path, names: &BTreeSet<&str>) -> io::Result<()> {
    let top = directory::open(target)?;
    for (name, dir) in entries(&top)? {
        match dir {
            Some(dir) if is_profile(&dir)? => prune_profile(&dir, names)?,
            // A target's own directory, with profiles in it.
            Some(dir) => {
                let mut is_empty = true;
                for (inner_name, inner) in entries(&dir)? {
                    match inner {
                        Some(inner) if is_profile(&inner)? => {
                            prune_profile(&inner, names)?;
                            is_empty = false;
                        }
                        _ => directory::remove(dir.as_fd(), &inner_name)?,
                    }
                }
                if is_empty {
                    directory::remove(top.as_fd(), &name)?;
                }
            }
            None => directory::remove(top.as_fd(), &name)?,
        }
    }
    Ok(())
}

/// Returns the directories of profiles in a target directory that was pruned.
fn profiles(target: &Path) -> io::Result<Vec<OwnedFd>> {
    let mut profiles = vec![];
    for dir in entries(&directory::open(target)?)?.into_iter().filter_map(|(_, dir)| dir) {
        match is_profile(&dir)? {
            true => profiles.push(dir),
            // All that pruning left there.
            false => profiles.extend(entries(&dir)?.into_iter().filter_map(|(_, dir)| dir)),
        }
    }
    Ok(profiles)
}

fn prune_profile(profile: &OwnedFd, names: &BTreeSet<&str>) -> io::Result<()> {
    let is_kept = |name: &[u8]| unit_of(name).is_some_and(|(name, _)| names.contains(name));
    let mut digits = HashSet::new();
    for (name, dir) in entries(profile)? {
        match (&name[..], dir) {
            (b".fingerprint", Some(dir)) => {
                keep_only(dir.as_fd(), &is_kept)?;
                let kept = directory::names(&dir)?;
                digits.extend(kept.iter().filter_map(|name| Some(unit_of(name)?.1.to_owned())));
            }
            (b"build" | b"deps", Some(_)) => {}
            _ => directory::remove(profile.as_fd(), &name)?,
        }
    }
    for (name, dir) in entries(profile)? {
        match (&name[..], dir) {
            (b"build", Some(dir)) => keep_only(dir.as_fd(), &is_kept)?,
            (b"deps", Some(dir)) => keep_only(dir.as_fd(), &|name| digits_in(name).any(|found| digits.contains(found)))?,
            _ => {}
        }
    }
    Ok(())
}

fn keep_only(dir: BorrowedFd<'_>, is_kept: &dyn Fn(&[u8]) -> bool) -> io::Result<()> {
    directory::names(dir)?.iter().filter(|name| !is_kept(name)).try_for_each(|name| directory::remove(dir, name))
}

/// Returns the names in a directory, with what is open of those that are directories themselves.
fn entries(dir: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Option<OwnedFd>)>> {
    let open = |name: Vec<u8>| {
        let is_dir = directory::look(dir, &name)?.is_some_and(|stat| directory::type_of(&stat) == FileType::Directory);
        let open = if is_dir { Some(directory::open_in(dir, &name)?) } else { None };
        Ok((name, open))
    };
    directory::names(dir)?.into_iter().map(open).collect()
}

fn is_profile(dir: &OwnedFd) -> io::Result<bool> {
    Ok(directory::look(dir, b".fingerprint")?.is_some_and(|stat| directory::type_of(&stat) == FileType::Directory))
}

/// Splits `serde-0123456789abcdef`.
fn unit_of(name: &[u8]) -> Option<(&str, &str)> {
    let (name, digits) = std::str::from_utf8(name).ok()?.rsplit_once('-')?;
    is_digits(digits).then_some((name, digits))
}

/// Returns what may be a unit's digits in `libserde-0123456789abcdef.rlib`.
fn digits_in(name: &[u8]) -> impl Iterator<Item = &str> {
    let parts = std::str::from_utf8(name).unwrap_or_default().split('-').skip(1);
    parts.map(|part| part.split('.').next().unwrap_or(part)).filter(|part| is_digits(part))
}

fn is_digits(text: &str) -> bool {
    text.len() == N_DIGITS && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use df_testkit::{Tree, wait_until};

    const SERDE: &str = "0123456789abcdef";
    const APP: &str = "fedcba9876543210";

    #[test]
    fn only_the_files_of_dependencies_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let files: Vec<String> = ["release", "x86_64-unknown-linux-gnu/release"]
            .iter()
            .flat_map(|profile| {
                [
                    format!("{profile}/.fingerprint/serde-{SERDE}/lib-serde"),
                    format!("{profile}/.fingerprint/app-{APP}/bin-app"),
                    format!("{profile}/.fingerprint/app-lib-{APP}/lib-app"),
                    format!("{profile}/.fingerprint/serde"),
                    format!("{profile}/build/serde-{SERDE}/out/a.rs"),
                    format!("{profile}/build/app-{APP}/out/a.rs"),
                    format!("{profile}/deps/libserde-{SERDE}.rlib"),
                    format!("{profile}/deps/serde-{SERDE}.d"),
                    format!("{profile}/deps/app-{APP}"),
                    format!("{profile}/deps/libserde.so"),
                    format!("{profile}/incremental/serde-{SERDE}/x"),
                    format!("{profile}/app"),
                    format!("{profile}/.cargo-lock"),
                ]
            })
            .chain([".rustc_info.json".to_owned(), "CACHEDIR.TAG".to_owned(), "tmp/x".to_owned()])
            .collect();
        let target = dir.path().join("target");
        Tree::of_files(&files.iter().map(|file| (file.as_str(), "x")).collect::<Vec<_>>()).write(&target);
        // What a build script may have planted.
        std::os::unix::fs::symlink("/etc", target.join("release/deps/evil-link")).expect("linked");
        std::os::unix::fs::symlink("release", target.join("debug")).expect("linked");
        prune(&target, &BTreeSet::from(["serde"])).expect("pruned");
        let left: Vec<String> = Tree::read(&target).0.keys().map(|path| path.display().to_string()).collect();
        let kept = |profile: &str| {
            [
                format!("{profile}/.fingerprint/serde-{SERDE}/lib-serde"),
                format!("{profile}/build/serde-{SERDE}/out/a.rs"),
                format!("{profile}/deps/libserde-{SERDE}.rlib"),
                format!("{profile}/deps/serde-{SERDE}.d"),
            ]
        };
        let mut expected = [kept("release"), kept("x86_64-unknown-linux-gnu/release")].concat();
        let mut left: Vec<String> = left.into_iter().filter(|path| target.join(path).is_file()).collect();
        expected.sort();
        left.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn the_layers_used_longest_ago_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let keep = Keep { dir: dir.path().canonicalize().expect("a path") };
        let key = |i: usize| Digest::of(&i.to_le_bytes());
        for i in 0..N_LAYERS + 2 {
            let target = keep.dir.join("target");
            Tree::of_files(&[(&format!("release/.fingerprint/serde-{SERDE}/x"), "x")]).write(&target);
            put(&keep, key(i), &target, &BTreeSet::from(["serde"]), &[]).expect("pruned").expect("a layer");
            // Use is what counts, not age.
            assert!(find(&keep, key(0)).is_some());
        }
        let left: Vec<usize> = (0..N_LAYERS + 2).filter(|i| dir_of(&keep, key(*i)).exists()).collect();
        assert_eq!(left, (0..1).chain(3..N_LAYERS + 2).collect::<Vec<_>>());
        assert_eq!(fs::read_dir(keep.dir.join("layers")).expect("layers").count(), N_LAYERS);
        // One that a power cut may have torn does not count.
        let torn = dir_of(&keep, key(5));
        wait_until(Duration::from_secs(60), || torn.join("synced").exists().then_some(())).expect("it is noted");
        fs::write(torn.join("boot"), "an earlier one").expect("written");
        assert!(find(&keep, key(5)).is_some(), "it is on the disk");
        fs::remove_file(torn.join("synced")).expect("removed");
        assert!(find(&keep, key(5)).is_none() && !torn.exists());
        assert!(!is_impossible(&keep, key(0)));
        note_impossible(&keep, key(0));
        assert!(is_impossible(&keep, key(0)));
    }
}
