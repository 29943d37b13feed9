//! Is a tree on disk what its manifest says? Everything is read back; what cannot be read is never taken for equal.
//!
//! Bytes, length, kind, mode, owner, time of files, link targets, missing and extra names are compared, on all cores. Nothing is followed and no mounted file
//! system is entered.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use df_core::{Entry, Kind, Manifest, text};
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Stat};

use crate::beneath::{self, Beneath};
use crate::blobs::hash;
use crate::diff::{self, DifferenceKind as D};
use crate::export;
use crate::import::special;

pub use crate::diff::{Difference, DifferenceKind};

/// Reads a whole tree back and lists by what it differs, in the order of paths; nothing exactly when all of it is right.
///
/// # Errors
/// Only when the top itself cannot be opened; whatever cannot be read below it is a difference of its own kind.
pub fn tree(directory: &Path, manifest: &Manifest) -> io::Result<Vec<Difference>> {
    let top = Beneath::hold(directory)?.without_mounts();
    let owner = rustix::fs::fstat(&top)?.st_uid;
    let mut children: HashMap<&[u8], HashMap<&[u8], &Entry>> = HashMap::from([(&b""[..], HashMap::new())]);
    for entry in manifest.entries() {
        children.entry(entry.path.parent().unwrap_or(b"")).or_default().insert(entry.path.file_name(), entry);
        if entry.kind == Kind::Directory {
            children.entry(entry.path.as_bytes()).or_default();
        }
    }
    let comparison = Comparison { top, owner };
    let mut differences: Vec<Difference> =
        children.par_iter().flat_map_iter(|(path, entries)| comparison.directory(path, entries)).collect();
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(differences)
}

struct Comparison {
    top: Beneath,
    owner: u32,
}

impl Comparison {
    /// Compares what a directory that the manifest lists holds.
    fn directory(&self, path: &[u8], entries: &HashMap<&[u8], &Entry>) -> Vec<Difference> {
        let opened = self.top.directory(path).and_then(|fd| beneath::names(&fd).map(|names| (fd, names)));
        let (fd, names) = match opened {
            Ok(opened) => opened,
            // The directory above says what is wrong with one that is missing or something else; here only silence would be wrong.
            Err(errno) => return self.unopened(path, errno, entries),
        };
        let mut differences: Vec<Difference> = entries.values().filter_map(|entry| self.entry(&fd, entry)).collect();
        for name in names.iter().filter(|name| !entries.contains_key(&name[..])) {
            let found = rustix::fs::statat(&fd, &name[..], AtFlags::SYMLINK_NOFOLLOW)
                .map_or("something unreadable", |stat| special(FileType::from_raw_mode(stat.st_mode)));
            differences.push(Difference::new(&beneath::join(path, name), D::Extra, "nothing", found));
        }
        differences
    }

    fn unopened(&self, path: &[u8], errno: rustix::io::Errno, entries: &HashMap<&[u8], &Entry>) -> Vec<Difference> {
        use rustix::io::Errno;
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => entries.values().map(|entry| diff::missing(entry)).collect(),
            Errno::XDEV => {
                vec![Difference::new(path, D::Unreadable, "a directory of the image", "another file system mounted over it")]
            }
            errno => vec![unreadable(path, "a directory", &errno.into())],
        }
    }

    fn entry(&self, directory: &OwnedFd, entry: &Entry) -> Option<Difference> {
        let path = entry.path.as_bytes();
        let expected = || diff::words(&entry.kind);
        let stat = match rustix::fs::statat(directory, entry.path.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => return Some(diff::missing(entry)),
            Err(errno) => return Some(unreadable(path, &expected(), &errno.into())),
            Ok(stat) => stat,
        };
        match (&entry.kind, FileType::from_raw_mode(stat.st_mode)) {
            (Kind::Directory, FileType::Directory) => self.attributes(path, &stat, 0o555, None),
            (Kind::File { executable, len, .. }, FileType::RegularFile) => {
                if u64::try_from(stat.st_size).ok() != Some(*len) {
                    return Some(Difference::new(path, D::Content, expected(), format!("{} bytes", stat.st_size)));
                }
                read_back(&self.top, entry).or_else(|| self.attributes(path, &stat, export::mode(*executable), Some(1)))
            }
            (Kind::Symlink { target }, FileType::Symlink) => {
                match rustix::fs::readlinkat(directory, entry.path.file_name(), vec![]) {
                    Err(errno) => Some(unreadable(path, &expected(), &errno.into())),
                    Ok(found) if found.as_bytes() == &target[..] => None,
                    Ok(found) => {
                        let found = text::shorten(&text::escape(found.as_bytes()), 200);
                        Some(Difference::new(path, D::Target, expected(), format!("a link to {found}")))
                    }
                }
            }
            (_, found) => Some(Difference::new(path, D::Kind, expected(), special(found))),
        }
    }

    fn attributes(&self, path: &[u8], stat: &Stat, mode: u32, time: Option<i64>) -> Option<Difference> {
        let found = stat.st_mode & 0o7777;
        if found != mode {
            return Some(Difference::new(path, D::Mode, format!("mode {mode:04o}"), format!("mode {found:04o}")));
        }
        if stat.st_uid != self.owner {
            return Some(Difference::new(path, D::Mode, format!("owner {}", self.owner), format!("owner {}", stat.st_uid)));
        }
        let changed = stat.st_mtime;
        time.filter(|&time| time != changed)
            .map(|time| Difference::new(path, D::Mode, format!("time {time}"), format!("time {changed}")))
    }
}

fn read_back(top: &Beneath, entry: &Entry) -> Option<Difference> {
    let Kind::File { digest: expected, .. } = entry.kind else { return None };
    let path = entry.path.as_bytes();
    let read = top.file(path).map_err(io::Error::from).and_then(hash);
    match read {
        Err(error) => Some(unreadable(path, &diff::words(&entry.kind), &error)),
        Ok((digest, _)) if digest == expected => None,
        Ok((digest, len)) => {
            Some(Difference::new(path, D::Content, diff::words(&entry.kind), format!("{len} bytes, {}", digest.short())))
        }
    }
}

fn unreadable(path: &[u8], expected: &str, error: &io::Error) -> Difference {
    Difference::new(path, D::Unreadable, expected, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable;
    use df_core::Digest;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::PathBuf;

    fn image(dir: &Path) -> (Manifest, PathBuf) {
        let entry = |path: &str, kind| Entry { path: path.parse().expect("a path"), kind };
        let file = |bytes: &[u8]| Kind::File { executable: false, len: bytes.len() as u64, digest: Digest::of(bytes) };
        let link = Kind::Symlink { target: b"f"[..].into() };
        let manifest = Manifest::new(vec![
            entry("d", Kind::Directory),
            entry("d/f", file(b"inner")),
            entry("e", Kind::Directory),
            entry("f", file(b"outer")),
            entry("l", link),
        ]);
        let manifest = manifest.expect("a tree");
        let source: HashMap<Digest, Vec<u8>> = [&b"inner"[..], b"outer"].iter().map(|b| (Digest::of(b), b.to_vec())).collect();
        let out = dir.join("image");
        export::tree(&manifest, &source, &out).expect("exported");
        for path in ["", "d", "e"] {
            fs::set_permissions(out.join(path), fs::Permissions::from_mode(0o755)).expect("writable");
        }
        (manifest, out)
    }

    /// Damages an image and returns what `tree` says, as "kind path" lines.
    fn after(damage: impl Fn(&Path)) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let (manifest, out) = image(dir.path());
        damage(&out);
        for path in ["d", "e"] {
            if fs::symlink_metadata(out.join(path)).is_ok_and(|m| m.is_dir() && m.permissions().mode() & 0o777 == 0o755) {
                fs::set_permissions(out.join(path), fs::Permissions::from_mode(0o555)).expect("sealed");
            }
        }
        let found = tree(&out, &manifest).expect("opened");
        durable::remove_tree(&out).expect("removed");
        found.iter().map(|d| format!("{} {}", d.kind, text::escape(&d.path))).collect()
    }

    fn rewrite(path: &Path, bytes: &str) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("writable");
        fs::write(path, bytes).expect("written");
        let file = fs::File::open(path).expect("open");
        export::seal(&file, false).expect("sealed");
    }

    #[test]
    fn every_change_is_reported_by_path_and_kind() {
        let check = |damage: &dyn Fn(&Path), line: &str| assert_eq!(after(damage), [line]);
        check(&|dir| fs::remove_file(dir.join("f")).expect("removed"), "missing f");
        check(&|dir| fs::write(dir.join("d/x\x1b"), "").expect("written"), "extra d/x\\u{1b}");
        check(&|dir| rewrite(&dir.join("f"), "longer!"), "content f");
        check(&|dir| fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o555)).expect("mode"), "mode f");
        check(&|dir| fs::set_permissions(dir.join("e"), fs::Permissions::from_mode(0o777)).expect("mode"), "mode e");
        let touch = |dir: &Path| {
            let file = fs::File::open(dir.join("f")).expect("open");
            file.set_modified(std::time::UNIX_EPOCH).expect("touched");
        };
        check(&touch, "mode f");
        let relink = |dir: &Path| {
            fs::remove_file(dir.join("l")).expect("removed");
            symlink("d/f", dir.join("l")).expect("a link");
        };
        check(&relink, "target l");
        let fifo = |dir: &Path| {
            fs::remove_file(dir.join("f")).expect("removed");
            let mode = rustix::fs::Mode::RUSR;
            rustix::fs::mknodat(rustix::fs::CWD, dir.join("f"), FileType::Fifo, mode, 0).expect("a fifo");
        };
        check(&fifo, "kind f");
    }

    #[test]
    fn a_flipped_bit_is_found() {
        assert_eq!(after(|dir| rewrite(&dir.join("d/f"), "Inner")), ["content d/f"]);
        assert_eq!(after(|_| {}), [""; 0]);
    }

    #[test]
    fn a_directory_that_became_a_link_is_not_entered() {
        let planted = |dir: &Path| {
            fs::rename(dir.join("d"), dir.join("e/moved")).expect("moved");
            symlink("e/moved", dir.join("d")).expect("a link");
        };
        assert_eq!(after(planted), ["kind d", "missing d/f", "extra e/moved"]);
    }
}
