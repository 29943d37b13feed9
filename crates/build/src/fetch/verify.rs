//! Whether what was brought is what the lock names: checked once by its bytes, after that by the stamps of its files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::lock::{Lock, LockedSource};
use crate::directory::EPOCH_S;

/// The checksums that a packed package of a name may have: several when two registries have a package of one name and version.
pub(crate) type Sums = BTreeMap<String, BTreeSet<String>>;

/// When a file was changed last, how long it is, and which it is.
pub(crate) type Stamp = (i64, i64, u64, u64);

/// A packed package that is not the one of the lock.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub path: PathBuf,
    pub file: String,
    pub expected: String,
    pub found: String,
}

/// Packed packages whose bytes were looked at, so that none is hashed twice.
#[derive(Default)]
pub(crate) struct Seen(HashMap<PathBuf, (Stamp, String)>);

/// What a fetch left: if all of it is as it was, nothing has to be fetched.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Marker(Vec<(PathBuf, Stamp)>);

/// Returns the files of packed packages that a lock names.
pub(crate) fn sums(lock: &Lock) -> Sums {
    let mut sums = Sums::new();
    for package in lock.of_registries() {
        let checksum = package.checksum.clone().expect("each package of a registry has one, or the lock is refused");
        sums.entry(format!("{}.crate", package.file_stem())).or_default().insert(checksum);
    }
    sums
}

/// Returns the packed packages that are not what the lock names.
pub(crate) fn wrong(kept: &Path, sums: &Sums, seen: &mut Seen) -> io::Result<Vec<Wrong>> {
    let mut wrong = vec![];
    for dir in directories(&kept.join("registry/cache")) {
        for (file, wanted) in sums {
            let path = dir.join(file);
            let Some(found) = seen.sha256_of(&path)? else { continue };
            if !wanted.contains(&found) {
                let expected = wanted.iter().cloned().collect::<Vec<_>>().join(" or ");
                wrong.push(Wrong { path, file: file.clone(), expected, found });
            }
        }
    }
    Ok(wrong)
}

/// Removes a packed package, and what was unpacked from it.
pub(crate) fn remove(kept: &Path, wrong: &Wrong) -> io::Result<()> {
    fs::remove_file(&wrong.path)?;
    let registry = wrong.path.parent().and_then(Path::file_name).unwrap_or_default();
    let unpacked = kept.join("registry/src").join(registry).join(wrong.file.trim_end_matches(".crate"));
    match fs::remove_dir_all(unpacked) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Seen {
    fn sha256_of(&mut self, path: &Path) -> io::Result<Option<String>> {
        let Some(stamp) = stamp(path) else { return Ok(None) };
        if let Some((_, sum)) = self.0.get(path).filter(|(seen, _)| *seen == stamp) {
            return Ok(Some(sum.clone()));
        }
        let nofollow = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut file = File::options().read(true).custom_flags(nofollow).open(path)?;
        let sum = sha256(&mut file)?;
        self.0.insert(path.to_owned(), (stamp, sum.clone()));
        Ok(Some(sum))
    }
}

impl Marker {
    /// Notes what of the lock is there.
    pub fn of(kept: &Path, lock: &Lock) -> Self {
        let noted = |path: PathBuf| stamp(&path).map(|stamp| (path, stamp));
        let mut files = vec![];
        let registries: Vec<_> = directories(&kept.join("registry/cache"));
        for package in lock.of_registries() {
            for cache in &registries {
                let (name, registry) = (package.file_stem(), cache.file_name().unwrap_or_default());
                let unpacked = kept.join("registry/src").join(registry).join(&name).join(".cargo-ok");
                files.extend([cache.join(format!("{name}.crate")), unpacked].into_iter().filter_map(noted));
            }
        }
        files.extend(checkouts(kept, lock).into_iter().map(|dir| dir.join(".cargo-ok")).filter_map(noted));
        Self(files)
    }

    pub fn still_holds(&self) -> bool {
        self.0.iter().all(|(path, expected)| stamp(path) == Some(*expected))
    }
}

/// Makes what was unpacked equal on every machine, whatever the umask and the clock were: modes 0755 and 0644, and the times of sources.
///
/// Everybody may read it then: builds run as another user, and a package may hold files for its owner alone.
pub(crate) fn level(kept: &Path, lock: &Lock) -> io::Result<()> {
    for checkout in checkouts(kept, lock) {
        forget_machine(&checkout.join(".git"))?;
    }
    let registries = directories(&kept.join("registry/src"));
    let unpacked = lock.of_registries().flat_map(|package| registries.iter().map(|dir| dir.join(package.file_stem())));
    let mut open: Vec<PathBuf> = unpacked.chain(checkouts(kept, lock)).filter(|path| path.is_dir()).collect();
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        let mode = metadata.mode() & 0o7777;
        let (is_dir, is_file) = (metadata.is_dir(), metadata.is_file());
        let wanted = if is_dir || mode & 0o100 != 0 { 0o755 } else { 0o644 };
        if (is_dir || is_file) && mode != wanted {
            fs::set_permissions(&path, fs::Permissions::from_mode(wanted))?;
        }
        if (is_dir || is_file) && (metadata.mtime(), metadata.mtime_nsec()) != (EPOCH_S, 0) {
            File::open(&path)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_S.unsigned_abs()))?;
        }
        if is_dir {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        }
    }
    Ok(())
}

/// Removes from the repository of a checkout what tells of this machine and no cargo needs any more: who fetched it, when, and where it came from.
fn forget_machine(repository: &Path) -> io::Result<()> {
    let absent_is_fine = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    absent_is_fine(fs::remove_dir_all(repository.join("logs")))?;
    absent_is_fine(fs::remove_file(repository.join("FETCH_HEAD")))?;
    absent_is_fine(fs::remove_file(repository.join("index")))?;
    let path = repository.join("config");
    let Ok(config) = fs::read_to_string(&path) else { return Ok(()) };
    let mut is_kept = true;
    let kept = config.lines().filter(|line| {
        if line.starts_with('[') {
            is_kept = !["[remote ", "[branch "].iter().any(|section| line.starts_with(section));
        }
        is_kept
    });
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    if kept == config { Ok(()) } else { fs::write(path, kept) }
}

/// Makes a directory that everybody may read, with its parents, whatever the umask is.
pub(crate) fn make_open_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.is_dir()).collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?,
        }
    }
    Ok(())
}

/// Returns the SHA-256 of what is left of a file, as 64 hexadecimal digits.
pub(crate) fn sha256(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns where cargo has the git revisions of a lock: each in a directory named by the first digits of the revision.
fn checkouts(kept: &Path, lock: &Lock) -> Vec<PathBuf> {
    let revisions: BTreeSet<&str> = lock
        .packages
        .iter()
        .filter_map(|package| match &package.source {
            Some(LockedSource::Git { revision, .. }) => Some(revision.as_str()),
            _ => None,
        })
        .collect();
    if revisions.is_empty() {
        return vec![];
    }
    let all = directories(&kept.join("git/checkouts")).into_iter().flat_map(|repository| directories(&repository));
    let named = |dir: &PathBuf| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        name.len() >= 7 && revisions.iter().any(|revision| revision.starts_with(&*name))
    };
    all.filter(named).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some((metadata.ctime(), metadata.ctime_nsec(), metadata.size(), metadata.ino()))
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_umask_hides_nothing_fetched_from_the_user_that_builds_run_as() {
        let top = tempfile::tempdir().expect("a directory");
        let dir = top.path().join("cargo/registry/index");
        df_testkit::faults::with_umask(0o077, || make_open_dir(&dir)).expect("made");
        for dir in dir.ancestors().take(3) {
            assert_eq!(fs::metadata(dir).expect("it is there").mode() & 0o777, 0o755, "{}", dir.display());
        }
    }
}
