//! A directory becomes a manifest: walked by descriptors, hashed on all cores, refused rather than changed.
//!
//! What an image cannot hold is refused by path and in words: devices, fifos, sockets, files with a setuid, setgid or sticky bit or with capabilities, links
//! that leave, paths that are too long. Symbolic links are read, never followed. Owner, times and other mode bits are dropped; a file is executable when
//! its owner may execute it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use df_core::manifest::{ManifestError, leaves};
use df_core::name::NameError;
use df_core::{Digest, Entry, Kind, Manifest, TreePath, limits, text};
use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Stat};

use crate::beneath::{self, Beneath};
use crate::blobs::{Blobs, Bytes, absent, hash_file};

/// What may be in a tree.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions<'a> {
    /// Link targets that may leave the tree; each must be the very target.
    pub outside_links: &'a [String],
}

/// A manifest and where on disk each blob of it lies.
#[derive(Debug, Clone)]
pub struct Located {
    /// The list.
    pub manifest: Manifest,
    /// One file for each distinct content.
    pub files: HashMap<Digest, PathBuf>,
}

/// A directory is no image.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ImportError {
    #[error("{} is {what}; an image holds files, directories and links only", text::escape(path))]
    Special { path: Box<[u8]>, what: &'static str },
    #[error("{} has {what}, which an image cannot keep", text::escape(path))]
    Privilege { path: Box<[u8]>, what: &'static str },
    #[error("the link {path} leaves the tree: {} (name this target in build.outside_links to keep it)", text::escape(target))]
    LeavingLink { path: TreePath, target: Box<[u8]> },
    #[error("a path that no image can hold")]
    Path(#[source] NameError),
    #[error("not a tree that can be an image")]
    Tree(#[source] ManifestError),
    #[error("{path} changed while it was read")]
    Changed { path: TreePath },
    #[error("cannot read {}", text::escape(path))]
    Read {
        path: Box<[u8]>,
        #[source]
        source: io::Error,
    },
}

/// Reads a directory.
///
/// # Errors
/// Says which path makes this no image, or cannot be read.
pub fn tree(directory: &Path, options: ImportOptions<'_>) -> Result<Manifest, ImportError> {
    located(directory, options).map(|located| located.manifest)
}

/// Reads a directory and remembers where each blob lies, so that a store can take the bytes from there.
///
/// # Errors
/// As [`tree`].
pub fn located(directory: &Path, options: ImportOptions<'_>) -> Result<Located, ImportError> {
    let top = Beneath::hold(directory).map_err(|source| ImportError::Read { path: [].into(), source })?;
    let mut entries = vec![];
    let mut level = vec![vec![]];
    // Level by level, so that the directories of one level are read on all cores and no depth exhausts a stack.
    while !level.is_empty() {
        let read: Vec<Vec<Found>> = level.par_iter().map(|path| read_directory(&top, path, options)).collect::<Result<_, _>>()?;
        level.clear();
        for found in read.into_iter().flatten() {
            if matches!(found, Found::Directory(_)) {
                level.push(found.path().as_bytes().to_owned());
            }
            entries.push(found);
            if entries.len() > limits::MANIFEST_ENTRIES {
                return Err(ImportError::Tree(ManifestError::TooMany));
            }
        }
    }
    let entries = entries.into_par_iter().map_init(Vec::new, |buffer, found| found.entry(&top, buffer));
    let entries: Vec<Entry> = entries.collect::<Result<_, _>>()?;
    let mut files = HashMap::new();
    for entry in &entries {
        if let Kind::File { digest, .. } = entry.kind {
            files.entry(digest).or_insert_with(|| top.join(entry.path.as_bytes()));
        }
    }
    Ok(Located { manifest: Manifest::new(entries).map_err(ImportError::Tree)?, files })
}

/// Refuses a link that leaves the tree, unless its very target is allowed.
pub(crate) fn check_link(path: &TreePath, target: &[u8], options: ImportOptions<'_>) -> Result<(), ImportError> {
    if leaves(path, target) && !options.outside_links.iter().any(|allowed| allowed.as_bytes() == target) {
        return Err(ImportError::LeavingLink { path: path.clone(), target: target.into() });
    }
    Ok(())
}

impl Blobs for Located {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        self.files.get(&digest).map(|path| Bytes::File(path.clone())).ok_or_else(|| absent(digest))
    }
}

/// What a directory holds, before any file is read.
enum Found {
    Directory(TreePath),
    Symlink(TreePath, Box<[u8]>),
    File(TreePath),
}

fn read_directory(top: &Beneath, directory: &[u8], options: ImportOptions<'_>) -> Result<Vec<Found>, ImportError> {
    let failed = |source: rustix::io::Errno| ImportError::Read { path: directory.into(), source: source.into() };
    let fd = top.directory(directory).map_err(failed)?;
    let names = beneath::listing(&fd).map_err(failed)?;
    names.iter().map(|(name, kind)| look_at(&fd, directory, name, *kind, options)).collect()
}

fn look_at(
    directory: &OwnedFd,
    above: &[u8],
    name: &[u8],
    kind: FileType,
    options: ImportOptions<'_>,
) -> Result<Found, ImportError> {
    let path = TreePath::new(&beneath::join(above, name)).map_err(ImportError::Path)?;
    let failed = |source: rustix::io::Errno| ImportError::Read { path: path.as_bytes().into(), source: source.into() };
    let kind = match kind {
        FileType::Unknown => {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            FileType::from_raw_mode(stat.st_mode)
        }
        told => told,
    };
    match kind {
        FileType::Directory => Ok(Found::Directory(path)),
        FileType::RegularFile => Ok(Found::File(path)),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(directory, name, vec![]).map_err(failed)?.into_bytes();
            check_link(&path, &target, options)?;
            Ok(Found::Symlink(path, target.into()))
        }
        other => Err(ImportError::Special { path: path.as_bytes().into(), what: special(other) }),
    }
}

pub(crate) fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::Directory => "a directory",
        FileType::RegularFile => "a file",
        FileType::Symlink => "a link",
        FileType::Unknown => "of an unknown kind",
    }
}

impl Found {
    fn path(&self) -> &TreePath {
        match self {
            Self::Directory(path) | Self::Symlink(path, _) | Self::File(path) => path,
        }
    }

    fn entry(self, top: &Beneath, buffer: &mut Vec<u8>) -> Result<Entry, ImportError> {
        Ok(match self {
            Self::Directory(path) => Entry { path, kind: Kind::Directory },
            Self::Symlink(path, target) => Entry { path, kind: Kind::Symlink { target } },
            Self::File(path) => {
                let kind = read_file(top, &path, buffer)?;
                Entry { path, kind }
            }
        })
    }
}

fn read_file(top: &Beneath, path: &TreePath, buffer: &mut Vec<u8>) -> Result<Kind, ImportError> {
    let failed = |source: io::Error| ImportError::Read { path: path.as_bytes().into(), source };
    let mut file = top.file(path.as_bytes()).map_err(|errno| failed(errno.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
    // What was listed as a file may be something else by now; what is open is what counts.
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(ImportError::Special { path: path.as_bytes().into(), what: special(kind) });
    }
    refuse_privileges(path, &file, &stat)?;
    let announced = u64::try_from(stat.st_size).unwrap_or(0);
    if announced > limits::FILE_LEN {
        return Err(ImportError::Tree(ManifestError::TooLarge(path.clone())));
    }
    let (digest, len) = hash_file(&mut file, Some(announced), buffer).map_err(failed)?;
    if len != announced {
        return Err(ImportError::Changed { path: path.clone() });
    }
    Ok(Kind::File { executable: stat.st_mode & 0o100 != 0, len, digest })
}

fn refuse_privileges(path: &TreePath, file: &std::fs::File, stat: &Stat) -> Result<(), ImportError> {
    let bits = [(0o4000, "the setuid bit"), (0o2000, "the setgid bit"), (0o1000, "the sticky bit")];
    let mut what = bits.iter().find(|(bit, _)| stat.st_mode & bit != 0).map(|(_, what)| *what);
    if what.is_none() && stat.st_mode & 0o111 != 0 {
        let mut none: [u8; 0] = [];
        if matches!(rustix::fs::fgetxattr(file, "security.capability", &mut none), Ok(len) if len > 0) {
            what = Some("file capabilities");
        }
    }
    what.map_or(Ok(()), |what| Err(ImportError::Privilege { path: path.as_bytes().into(), what }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn refusal(make: impl Fn(&Path)) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("d")).expect("made");
        make(&dir.path().join("d/x"));
        tree(dir.path(), ImportOptions::default()).expect_err("no image").to_string()
    }

    fn mode(path: &Path, mode: u32) {
        fs::write(path, "x").expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode set");
    }

    #[test]
    fn a_tree_is_listed_with_its_empty_directories_links_and_executable_bits() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("bin/empty")).expect("made");
        mode(&dir.path().join("bin/hi"), 0o700);
        mode(&dir.path().join("bin/lo"), 0o606);
        symlink("../bin/hi", dir.path().join("bin/link")).expect("a link");
        let located = located(dir.path(), ImportOptions::default()).expect("an image");
        let lines: Vec<_> =
            located.manifest.entries().iter().map(|e| format!("{} {}", e.path, crate::diff::words(&e.kind))).collect();
        let digest = Digest::of(b"x");
        assert_eq!(
            lines,
            [
                "bin a directory".to_owned(),
                "bin/empty a directory".to_owned(),
                format!("bin/hi an executable of 1 bytes, {}", digest.short()),
                "bin/link a link to ../bin/hi".to_owned(),
                format!("bin/lo a file of 1 bytes, {}", digest.short()),
            ]
        );
        assert_eq!(fs::read(&located.files[&digest]).expect("where it lies"), b"x");
    }

    #[test]
    fn what_no_image_can_hold_is_refused_by_path_and_in_words() {
        let fifo =
            |path: &Path| rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("a fifo");
        let socket = |path: &Path| drop(std::os::unix::net::UnixListener::bind(path).expect("a socket"));
        assert_eq!(refusal(fifo), "d/x is a fifo; an image holds files, directories and links only");
        assert_eq!(refusal(socket), "d/x is a socket; an image holds files, directories and links only");
        assert_eq!(refusal(|path| mode(path, 0o4755)), "d/x has the setuid bit, which an image cannot keep");
        assert_eq!(refusal(|path| mode(path, 0o2755)), "d/x has the setgid bit, which an image cannot keep");
        assert_eq!(
            refusal(|path| symlink("/etc/passwd", path).expect("a link")),
            "the link d/x leaves the tree: /etc/passwd (name this target in build.outside_links to keep it)"
        );
        assert!(refusal(|path| symlink("../../x", path).expect("a link")).starts_with("the link d/x leaves the tree"));
    }

    #[test]
    fn a_device_is_refused() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not run: making a device needs root");
            return;
        }
        let device = |path: &Path| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                path,
                FileType::CharacterDevice,
                rustix::fs::Mode::RUSR,
                rustix::fs::makedev(1, 3),
            )
            .expect("a device");
        };
        assert_eq!(refusal(device), "d/x is a character device; an image holds files, directories and links only");
    }

    #[test]
    fn only_the_very_target_may_leave() {
        let dir = tempfile::tempdir().expect("a directory");
        symlink("/usr/bin/python3", dir.path().join("python")).expect("a link");
        let allowed = |target: &str| {
            let outside_links = &[target.to_owned()][..];
            tree(dir.path(), ImportOptions { outside_links })
        };
        assert!(allowed("/usr/bin/python3").is_ok());
        assert!(allowed("/usr/bin").is_err());
    }

    #[test]
    fn a_directory_that_changes_places_with_a_link_all_the_time_leads_nowhere() {
        use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
        let dir = tempfile::tempdir().expect("a directory");
        let (outside, tree_dir) = (dir.path().join("outside"), dir.path().join("tree"));
        for path in [&outside, &tree_dir.join("d/e")] {
            fs::create_dir_all(path).expect("made");
        }
        fs::write(outside.join("f"), "secret").expect("written");
        fs::write(tree_dir.join("d/e/f"), "inside").expect("written");
        symlink(&outside, tree_dir.join("d/link")).expect("a link");
        let (stop, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut images = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let (a, b) = (tree_dir.join("d/e"), tree_dir.join("d/link"));
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, flags).expect("swapped");
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            });
            let target = outside.to_str().expect("a name").to_owned();
            for _ in 0..2_000 {
                let options = ImportOptions { outside_links: std::slice::from_ref(&target) };
                let Ok(manifest) = tree(&tree_dir, options) else { continue };
                images += 1;
                assert!(!manifest.blobs().iter().any(|(digest, _)| *digest == Digest::of(b"secret")));
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(images > 0 && swaps.load(Ordering::Relaxed) > 100);
    }

    #[test]
    fn a_path_that_is_too_long_is_refused_and_a_link_in_place_of_the_top_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut at: OwnedFd = fs::File::open(dir.path()).expect("open").into();
        let name = "d".repeat(250);
        for _ in 0..20 {
            rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).expect("made");
            at = rustix::fs::openat(&at, &name, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).expect("open");
        }
        assert!(matches!(tree(dir.path(), ImportOptions::default()), Err(ImportError::Path(_))));
        let other = tempfile::tempdir().expect("a directory");
        symlink(other.path(), other.path().join("link")).expect("a link");
        assert!(matches!(tree(&other.path().join("link"), ImportOptions::default()), Err(ImportError::Read { .. })));
        crate::durable::remove_tree(&dir.path().join(&name)).expect("removed");
    }
}
