//! What a power cut could take: judged by the order of calls alone, so that no disk has to lose anything for it.
//!
//! The rule is the strictest a disk may follow: bytes, modes and times of a file are there for certain when it was synced after they changed; a name is there
//! when the directory that holds it was synced after the name was made. A sync covers what had ended when it began.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Call, What};

/// Something that could be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// When a tree got its name, this of it was not on disk.
    Within {
        /// The name.
        name: PathBuf,
        /// The file or directory that could be lost, or be less than it was.
        lost: PathBuf,
    },
    /// When somebody was told, or at the end, this name was not on disk.
    Name(PathBuf),
}

/// Returns what could be lost of trees and files that get a name by a rename, where `is_name` says which names count.
pub fn losses(calls: &[Call], is_name: impl Fn(&Path) -> bool) -> Vec<Loss> {
    let mut disk = Disk::default();
    let (mut losses, mut named): (Vec<Loss>, Vec<PathBuf>) = (vec![], vec![]);
    for (at, call) in calls.iter().enumerate() {
        disk.take(call, at);
        if call.what == What::Rename && is_name(&call.to) {
            let lost = disk.dirty_within(&call.to).into_iter();
            losses.extend(lost.map(|lost| Loss::Within { name: call.to.clone(), lost }));
            named.push(call.to.clone());
        }
        if call.what == What::Say || at + 1 == calls.len() {
            let lost = named.iter().filter(|name| disk.is_dirty(parent(name)));
            losses.extend(lost.cloned().map(Loss::Name));
        }
    }
    losses
}

/// What is in memory only.
#[derive(Default)]
struct Disk {
    /// The file or directory that a path stands for; those with one number are one file.
    files: HashMap<PathBuf, usize>,
    /// The last call that changed a file or a directory and is not synced.
    changed: HashMap<usize, usize>,
    n_files: usize,
}

impl Disk {
    fn take(&mut self, call: &Call, at: usize) {
        match call.what {
            What::Open | What::Directory | What::Symlink => {
                let is_new = !self.files.contains_key(&call.path);
                self.change(&call.path, at);
                // A link has nothing but its name.
                if call.what == What::Symlink {
                    self.synced(&call.path, usize::MAX);
                }
                if is_new {
                    self.change(parent(&call.path), at);
                }
            }
            What::Write | What::Mark => self.change(&call.path, at),
            What::Link => {
                let file = self.file(&call.path);
                self.files.insert(call.to.clone(), file);
                self.change(parent(&call.to), at);
            }
            What::Rename => {
                self.rename(&call.path, &call.to);
                self.change(parent(&call.path), at);
                self.change(parent(&call.to), at);
            }
            What::Remove => {
                self.files.remove(&call.path);
                self.change(parent(&call.path), at);
            }
            What::Sync => self.synced(&call.path, call.began),
            What::SyncAll => self.changed.retain(|_, changed| *changed >= call.began),
            What::Say => {}
        }
    }

    fn file(&mut self, path: &Path) -> usize {
        if let Some(&file) = self.files.get(path) {
            return file;
        }
        self.n_files += 1;
        self.files.insert(path.to_owned(), self.n_files);
        self.n_files
    }

    fn change(&mut self, path: &Path, at: usize) {
        let file = self.file(path);
        self.changed.insert(file, at);
    }

    /// Takes note of a sync that began when so many calls had ended.
    fn synced(&mut self, path: &Path, began: usize) {
        let file = self.file(path);
        if self.changed.get(&file).is_some_and(|changed| *changed < began) {
            self.changed.remove(&file);
        }
    }

    /// Moves a path with all that lies below it.
    fn rename(&mut self, from: &Path, to: &Path) {
        self.files.retain(|path, _| !path.starts_with(to));
        let moved: Vec<PathBuf> = self.files.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            let file = self.files.remove(&path).expect("listed above");
            let below = path.strip_prefix(from).expect("it lies below");
            let path = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
            self.files.insert(path, file);
        }
    }

    fn is_dirty(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|file| self.changed.contains_key(file))
    }

    fn dirty_within(&self, top: &Path) -> Vec<PathBuf> {
        let mut dirty: Vec<PathBuf> =
            self.files.keys().filter(|path| path.starts_with(top) && self.is_dirty(path)).cloned().collect();
        dirty.sort();
        dirty
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes calls of lines: a word, a path, another path.
    fn calls(lines: &str) -> Vec<Call> {
        let call = |(at, line): (usize, &str)| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let what = match words[0] {
                "open" => What::Open,
                "directory" => What::Directory,
                "write" => What::Write,
                "mark" => What::Mark,
                "link" => What::Link,
                "symlink" => What::Symlink,
                "rename" => What::Rename,
                "sync" => What::Sync,
                "sync-all" => What::SyncAll,
                "say" => What::Say,
                other => panic!("{other}"),
            };
            let path = |n: usize| words.get(n).map(PathBuf::from).unwrap_or_default();
            Call { what, path: path(1), to: path(2), began: at, number: at + 1 }
        };
        lines.lines().filter(|line| !line.trim().is_empty()).enumerate().map(call).collect()
    }

    const RIGHT: &str = "
        directory /in/tree
        directory /in/tree/d
        open /in/tree/d/a
        write /in/tree/d/a
        mark /in/tree/d/a
        link /store/old/b /in/tree/b
        symlink /in/tree/d/l
        mark /in/tree/d
        mark /in/tree
        sync /in/tree/d/a
        sync /in/tree/d
        sync /in/tree
        rename /in/tree /store/new
        sync /store
        say pipe:[1]";

    fn of(lines: &str) -> Vec<Loss> {
        losses(&calls(lines), |path| path.starts_with("/store"))
    }

    #[test]
    fn whoever_leaves_out_a_sync_is_named() {
        assert_eq!(of(RIGHT), []);
        let within = |lost: &str| vec![Loss::Within { name: "/store/new".into(), lost: lost.into() }];
        for (without, lost) in [
            ("sync /in/tree/d/a", within("/store/new/d/a")),
            ("sync /in/tree/d\n", within("/store/new/d")),
            ("sync /in/tree\n", within("/store/new")),
            ("sync /store\n", vec![Loss::Name("/store/new".into())]),
        ] {
            assert!(RIGHT.contains(without));
            assert_eq!(of(&RIGHT.replace(without, "\n")), lost, "without {without}");
        }
    }

    #[test]
    fn a_sync_covers_what_ended_before_it_began_and_no_more() {
        let late = |line: &str| RIGHT.replace("rename", &format!("{line}\nrename"));
        for line in ["write /in/tree/d/a", "mark /in/tree/d/a", "open /in/tree/d/a", "symlink /in/tree/d/more", "mark /in/tree"] {
            assert_eq!(of(&late(line)).len(), 1, "{line}");
            assert_eq!(of(&late(&format!("{line}\nsync-all /in"))), [], "{line}");
        }
        let mut early = calls(RIGHT);
        let sync = early.iter().position(|call| call.what == What::Sync).expect("there is one");
        early[sync].began = 3;
        assert_eq!(losses(&early, |path| path.starts_with("/store")).len(), 1, "it began before the bytes were written");
    }

    #[test]
    fn a_file_is_synced_by_any_of_its_names() {
        let linked = "directory /t\nopen /t/a\nwrite /t/a\nlink /t/a /t/b\nsync /t/b\nsync /t\nrename /t /store/t\nsync /store";
        assert_eq!(of(linked), []);
        assert_eq!(of(&linked.replace("sync /t/b", "")).len(), 2, "both names of one file");
    }
}
