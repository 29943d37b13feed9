//! What is in a directory? A [`Tree`] is the answer as a value: made from a table or a seed, written, read, changed, compared.

use crate::seed::Random;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// What a row of a table describes; its content is the bytes of a file or the target of a symlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file without the executable bit.
    File,
    /// A file with it.
    Executable,
    /// A symbolic link.
    Symlink,
    /// A directory, needed only where it holds nothing.
    Directory,
}

/// One row of a tree: a kind and its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// The bytes of a file, the target of a symlink, nothing for a directory.
    pub content: Vec<u8>,
}

/// A directory's content by path, relative to it. Directories above an entry need no row of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Entry>);

/// How large a seeded tree is.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How many files and symlinks.
    pub n_entries: usize,
    /// The length of the largest file.
    pub max_len: usize,
}

/// One thing by which two trees differ, with the path it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Only the first has it.
    OnlyFirst(PathBuf),
    /// Only the second has it.
    OnlySecond(PathBuf),
    /// They disagree about what it is; the executable bit counts.
    Kind(PathBuf, Kind, Kind),
    /// The bytes or the link's target differ.
    Content(PathBuf),
}

/// What [`Tree::mutate`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Some bytes of this file are others now.
    Bytes(PathBuf),
    /// The first path became the second.
    Renamed(PathBuf, PathBuf),
    /// This path is new.
    Added(PathBuf),
    /// This path is gone.
    Removed(PathBuf),
}

impl Tree {
    /// Makes a tree of rows `(path, content, kind)`.
    pub fn from_table(rows: &[(&str, &str, Kind)]) -> Tree {
        let row = |&(path, content, kind): &(&str, &str, Kind)| {
            let content = content.as_bytes().to_vec();
            (PathBuf::from(path), Entry { kind, content })
        };
        Tree(rows.iter().map(row).collect())
    }

    /// Makes a tree of plain files from rows `(path, content)`.
    pub fn of_files(rows: &[(&str, &str)]) -> Tree {
        let rows: Vec<_> = rows.iter().map(|&(path, content)| (path, content, Kind::File)).collect();
        Tree::from_table(&rows)
    }

    /// Makes a tree that follows from the seed: text and random bytes, a few executables and symlinks, nested three deep.
    pub fn seeded(random: &mut Random, shape: Shape) -> Tree {
        let mut tree = Tree::default();
        for number in 0..shape.n_entries {
            let path = seeded_path(random, number);
            let entry = tree.seeded_entry(random, shape.max_len);
            tree.0.insert(path, entry);
        }
        tree
    }

    /// Writes the tree into `dir`, which is made if it is missing. What else is in `dir` stays.
    #[track_caller]
    pub fn write(&self, dir: &Path) {
        for (path, entry) in &self.0 {
            let at = dir.join(path);
            if let Err(error) = write_entry(&at, entry) {
                panic!("write {}: {error}", at.display());
            }
        }
    }

    /// Reads what is in `dir`; directories have rows only where they are empty.
    #[track_caller]
    pub fn read(dir: &Path) -> Tree {
        let mut tree = Tree::default();
        if let Err(error) = read_into(&mut tree, dir, Path::new("")) {
            panic!("read {}: {error}", dir.display());
        }
        tree
    }

    /// Changes `n` things, as a developer's next commit would: bytes, names, new files, removed files.
    pub fn mutate(&mut self, random: &mut Random, n: usize) -> Vec<Change> {
        (0..n).filter_map(|round| self.mutate_once(random, round)).collect()
    }

    /// Lists by what `self` and `other` differ, in the order of paths.
    pub fn differences(&self, other: &Tree) -> Vec<Difference> {
        let mut found = Vec::new();
        for (path, mine) in &self.0 {
            match other.0.get(path) {
                None => found.push(Difference::OnlyFirst(path.clone())),
                Some(theirs) if theirs.kind != mine.kind => {
                    found.push(Difference::Kind(path.clone(), mine.kind, theirs.kind));
                }
                Some(theirs) if theirs.content != mine.content => found.push(Difference::Content(path.clone())),
                Some(_) => {}
            }
        }
        let only_theirs = other.0.keys().filter(|path| !self.0.contains_key(*path));
        found.extend(only_theirs.map(|path| Difference::OnlySecond(path.clone())));
        found
    }

    fn seeded_entry(&self, random: &mut Random, max_len: usize) -> Entry {
        let len = random.below(max_len as u64 + 1) as usize;
        let (kind, content) = match random.below(10) {
            0 => (Kind::Symlink, format!("target-{}", random.below(100)).into_bytes()),
            1 => (Kind::Executable, random.bytes(len)),
            2 | 3 => (Kind::File, random.bytes(len)),
            _ => (Kind::File, random.text(len)),
        };
        Entry { kind, content }
    }

    fn mutate_once(&mut self, random: &mut Random, round: usize) -> Option<Change> {
        let paths: Vec<PathBuf> = self.0.keys().cloned().collect();
        if paths.is_empty() || random.below(4) == 0 {
            let path = fresh_path(self, random, round);
            let entry = self.seeded_entry(random, 4096);
            self.0.insert(path.clone(), entry);
            return Some(Change::Added(path));
        }
        let path = random.pick(&paths).clone();
        match random.below(4) {
            0 => {
                self.0.remove(&path);
                Some(Change::Removed(path))
            }
            1 => {
                let to = fresh_path(self, random, round);
                let entry = self.0.remove(&path)?;
                self.0.insert(to.clone(), entry);
                Some(Change::Renamed(path, to))
            }
            _ => {
                let entry = self.0.get_mut(&path)?;
                change_bytes(random, &mut entry.content);
                Some(Change::Bytes(path))
            }
        }
    }
}

/// Lists by what two directories differ: content, kinds, the executable bit, targets of symlinks.
#[track_caller]
pub fn compare(first: &Path, second: &Path) -> Vec<Difference> {
    Tree::read(first).differences(&Tree::read(second))
}

fn seeded_path(random: &mut Random, number: usize) -> PathBuf {
    let mut path = PathBuf::new();
    for _ in 0..random.below(4) {
        path.push(format!("dir{}", random.below(5)));
    }
    path.push(format!("file{number}"));
    path
}

fn fresh_path(tree: &Tree, random: &mut Random, round: usize) -> PathBuf {
    loop {
        let number = 10_000 + round * 1000 + random.index(1000);
        let path = seeded_path(random, number);
        if !tree.0.contains_key(&path) {
            return path;
        }
    }
}

/// Overwrites, inserts or cuts a few bytes; the result always differs.
fn change_bytes(random: &mut Random, content: &mut Vec<u8>) {
    if content.is_empty() {
        content.push(b'x');
        return;
    }
    let at = random.index(content.len());
    match random.below(3) {
        0 => content[at] = content[at].wrapping_add(1).max(1),
        1 => {
            content.insert(at, b'+');
        }
        // A cut to nothing would be no legal symlink target.
        _ if content.len() > 1 => {
            content.remove(at);
        }
        _ => content.push(b'+'),
    }
}

fn write_entry(at: &Path, entry: &Entry) -> io::Result<()> {
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    match entry.kind {
        Kind::Directory => return fs::create_dir_all(at),
        Kind::Symlink => {
            remove_if_there(at)?;
            return symlink(std::ffi::OsStr::from_bytes(&entry.content), at);
        }
        Kind::File | Kind::Executable => {}
    }
    // Remove first: the old name may be a symlink or a read-only file, and a running program can't be overwritten.
    remove_if_there(at)?;
    fs::write(at, &entry.content)?;
    let mode = if entry.kind == Kind::Executable { 0o755 } else { 0o644 };
    fs::set_permissions(at, fs::Permissions::from_mode(mode))
}

fn remove_if_there(at: &Path) -> io::Result<()> {
    match fs::remove_file(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_into(tree: &mut Tree, root: &Path, below: &Path) -> io::Result<()> {
    for item in fs::read_dir(root.join(below))? {
        let item = item?;
        let path = below.join(item.file_name());
        let entry = match item.metadata()? {
            meta if meta.is_dir() => {
                if fs::read_dir(item.path())?.next().is_some() {
                    read_into(tree, root, &path)?;
                    continue;
                }
                Entry { kind: Kind::Directory, content: Vec::new() }
            }
            meta if meta.is_symlink() => {
                let content = fs::read_link(item.path())?.into_os_string().into_vec();
                Entry { kind: Kind::Symlink, content }
            }
            meta if meta.is_file() => {
                let executable = meta.permissions().mode() & 0o111 != 0;
                let kind = if executable { Kind::Executable } else { Kind::File };
                Entry { kind, content: fs::read(item.path())? }
            }
            _ => return Err(io::Error::other(format!("{} is no file, directory or symlink", path.display()))),
        };
        tree.0.insert(path, entry);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    const SHAPE: Shape = Shape { n_entries: 60, max_len: 3000 };

    #[test]
    fn what_is_written_reads_back_equal() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = Tree::seeded(&mut Seed(1).random(), SHAPE);
        tree.write(dir.path());
        assert_eq!(Tree::read(dir.path()).differences(&tree), []);
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let (a, b) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        Tree::from_table(&[
            ("bytes", "one", Kind::File),
            ("gone", "x", Kind::File),
            ("link", "here", Kind::Symlink),
            ("mode", "x", Kind::File),
            ("same/deep", "x", Kind::Executable),
        ])
        .write(a.path());
        Tree::from_table(&[
            ("bytes", "two", Kind::File),
            ("empty", "", Kind::Directory),
            ("link", "there", Kind::Symlink),
            ("mode", "x", Kind::Executable),
            ("same/deep", "x", Kind::Executable),
        ])
        .write(b.path());
        let expected = vec![
            Difference::Content("bytes".into()),
            Difference::OnlyFirst("gone".into()),
            Difference::Content("link".into()),
            Difference::Kind("mode".into(), Kind::File, Kind::Executable),
            Difference::OnlySecond("empty".into()),
        ];
        assert_eq!(compare(a.path(), b.path()), expected);
    }

    #[test]
    fn each_mutation_shows_as_a_difference() {
        let seed = Seed::from_env_or(3);
        let mut random = seed.random();
        let old = Tree::seeded(&mut random, SHAPE);
        for _ in 0..200 {
            let mut new = old.clone();
            let changes = new.mutate(&mut random, 1);
            let n_expected = if matches!(changes[0], Change::Renamed(..)) { 2 } else { 1 };
            assert_eq!(old.differences(&new).len(), n_expected, "{changes:?}");
        }
    }

    #[test]
    fn writing_over_an_older_tree_replaces_links_and_bits() {
        let dir = tempfile::tempdir().expect("a directory");
        Tree::from_table(&[("a", "elsewhere", Kind::Symlink), ("b", "1", Kind::Executable)]).write(dir.path());
        let new = Tree::from_table(&[("a", "text", Kind::File), ("b", "2", Kind::File)]);
        new.write(dir.path());
        assert_eq!(Tree::read(dir.path()), new);
    }
}
