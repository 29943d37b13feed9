//! A git repository for a test: real objects, fixed author and times, so that equal content gives equal commits.

use crate::tree::{Kind, Tree};
use git2::build::TreeUpdateBuilder;
use git2::{FileMode, ObjectType, Oid, Repository, RepositoryInitOptions, Signature, Time};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The time of the first commit, in seconds; each later one is a minute after its parent.
pub const FIRST_COMMIT_TIME: i64 = 1_700_000_000;

/// A repository with a working directory and a checked-out branch, at first `main`.
pub struct Repo {
    git: Repository,
    dir: PathBuf,
}

/// An entry of a raw tree object, kept as given: git's own rules about names and modes are not applied.
#[derive(Debug, Clone)]
pub struct RawEntry<'a> {
    /// The mode as it stands in the object, for example `100644`, `100755`, `120000`, `40000`, `160000`.
    pub mode: &'a str,
    /// The name's bytes; `..`, `.git`, `a/b` and an empty name are the point of it.
    pub name: &'a [u8],
    /// The object it names, in hex.
    pub oid: &'a str,
}

impl Repo {
    /// Makes an empty repository without commits in `dir`, on the branch `main`.
    #[track_caller]
    pub fn new(dir: &Path) -> Repo {
        let mut options = RepositoryInitOptions::new();
        // Without a template no hooks or settings of this machine come in.
        options.initial_head("main").external_template(false);
        let git = Repository::init_opts(dir, &options).expect("an empty repository");
        Repo { git, dir: dir.to_owned() }
    }

    /// Returns the working directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Commits these plain files on top of what is there; returns the commit in hex.
    #[track_caller]
    pub fn commit(&self, files: &[(&str, &str)], message: &str) -> String {
        self.commit_over(&Tree::of_files(files), message)
    }

    /// Commits these entries on top of what is there; returns the commit in hex. Empty directories don't exist for git.
    #[track_caller]
    pub fn commit_over(&self, tree: &Tree, message: &str) -> String {
        let base = self.head_tree();
        let new = self.store(base, tree);
        self.advance(new, message)
    }

    /// Commits what `dir` holds, and nothing else; returns the commit in hex. A `.git` in `dir` is left out.
    #[track_caller]
    pub fn commit_tree(&self, dir: &Path, message: &str) -> String {
        let mut tree = Tree::read(dir);
        tree.0.retain(|path, _| !path.starts_with(".git"));
        let new = self.store(self.empty_tree(), &tree);
        self.advance(new, message)
    }

    /// Commits the removal of these paths; returns the commit in hex.
    #[track_caller]
    pub fn remove(&self, paths: &[&str], message: &str) -> String {
        let base = self.git.find_tree(self.head_tree()).expect("the tree of HEAD");
        let mut update = TreeUpdateBuilder::new();
        for path in paths {
            update.remove(path);
        }
        let new = update.create_updated(&self.git, &base).expect("paths that are in HEAD");
        self.advance(new, message)
    }

    /// Makes a branch at HEAD and switches to it; the working directory stays.
    #[track_caller]
    pub fn branch(&self, name: &str) {
        let head = self.head().expect("a commit to branch from");
        let commit = self.git.find_commit(head).expect("the commit of HEAD");
        self.git.branch(name, &commit, false).expect("a new branch");
        self.git.set_head(&format!("refs/heads/{name}")).expect("HEAD on the new branch");
    }

    /// Switches to a branch that exists and writes its files into the working directory.
    #[track_caller]
    pub fn switch(&self, name: &str) {
        let old = self.head_tree();
        self.git.set_head(&format!("refs/heads/{name}")).expect("a branch of this name");
        self.write_working_directory(old, self.head_tree());
    }

    /// Returns the commit HEAD stands on, in hex; `None` in a repository without commits.
    pub fn head_commit(&self) -> Option<String> {
        self.head().map(|oid| oid.to_string())
    }

    /// Stores bytes as a blob; returns its name in hex.
    #[track_caller]
    pub fn blob(&self, bytes: &[u8]) -> String {
        self.git.blob(bytes).expect("a stored blob").to_string()
    }

    /// Stores a tree object of exactly these entries, in this order, without any check; returns its name in hex.
    #[track_caller]
    pub fn raw_tree(&self, entries: &[RawEntry<'_>]) -> String {
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.extend_from_slice(entry.mode.as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(entry.name);
            bytes.push(0);
            bytes.extend_from_slice(parse(entry.oid).as_bytes());
        }
        self.raw_object(ObjectType::Tree, &bytes)
    }

    /// Stores a commit of this tree and moves the branch to it; the working directory stays, and so does the index.
    ///
    /// On top of a hostile tree only [`Repo::commit_tree`] and this work: git itself refuses to edit it.
    #[track_caller]
    pub fn commit_raw(&self, tree: &str, message: &str) -> String {
        let parent = self.head().map(|oid| format!("parent {oid}\n")).unwrap_or_default();
        let time = self.next_time();
        let who = format!("{NAME} <{EMAIL}> {time} +0000");
        let text = format!("tree {tree}\n{parent}author {who}\ncommitter {who}\n\n{message}");
        let commit = self.raw_object(ObjectType::Commit, text.as_bytes());
        let branch = self.branch_reference();
        self.git.reference(&branch, parse(&commit), true, "raw").expect("a moved branch");
        commit
    }

    fn raw_object(&self, kind: ObjectType, bytes: &[u8]) -> String {
        let objects = self.git.odb().expect("an object database");
        objects.write(kind, bytes).expect("a stored object").to_string()
    }

    fn head(&self) -> Option<Oid> {
        self.git.refname_to_id("HEAD").ok()
    }

    fn branch_reference(&self) -> String {
        let head = self.git.find_reference("HEAD").expect("a HEAD");
        let target = head.symbolic_target().expect("a readable HEAD").expect("a HEAD on a branch");
        target.to_owned()
    }

    fn head_tree(&self) -> Oid {
        match self.head() {
            Some(oid) => self.git.find_commit(oid).expect("the commit of HEAD").tree_id(),
            None => self.empty_tree(),
        }
    }

    fn empty_tree(&self) -> Oid {
        let builder = self.git.treebuilder(None).expect("a tree builder");
        builder.write().expect("the empty tree")
    }

    fn store(&self, base: Oid, tree: &Tree) -> Oid {
        let base = self.git.find_tree(base).expect("a tree stored before");
        let mut update = TreeUpdateBuilder::new();
        for (path, entry) in &tree.0 {
            let mode = match entry.kind {
                Kind::File => FileMode::Blob,
                Kind::Executable => FileMode::BlobExecutable,
                Kind::Symlink => FileMode::Link,
                Kind::Directory => continue,
            };
            let blob = self.git.blob(&entry.content).expect("a stored blob");
            update.upsert(path.as_os_str().as_bytes(), blob, mode);
        }
        update.create_updated(&self.git, &base).expect("names that git allows; use raw_tree for others")
    }

    fn advance(&self, tree: Oid, message: &str) -> String {
        let old = self.head_tree();
        let who = Signature::new(NAME, EMAIL, &Time::new(self.next_time(), 0)).expect("a fixed author");
        let parent = self.head().map(|oid| self.git.find_commit(oid).expect("the commit of HEAD"));
        let parents: Vec<_> = parent.iter().collect();
        let tree = self.git.find_tree(tree).expect("a tree stored before");
        let commit = self.git.commit(Some("HEAD"), &who, &who, message, &tree, &parents);
        let commit = commit.expect("a commit").to_string();
        self.write_working_directory(old, tree.id());
        commit
    }

    fn next_time(&self) -> i64 {
        let parent = self.head().and_then(|oid| self.git.find_commit(oid).ok());
        parent.map_or(FIRST_COMMIT_TIME, |commit| commit.time().seconds() + 60)
    }

    /// Makes the working directory and the index agree with `new`, so that `git status` is clean.
    fn write_working_directory(&self, old: Oid, new: Oid) {
        let (old, new) = (self.load(old), self.load(new));
        for path in old.0.keys().filter(|path| !new.0.contains_key(*path)) {
            // It may be gone already, or never have been written after a raw commit.
            let _ = fs::remove_file(self.dir.join(path));
        }
        new.write(&self.dir);
        let tree = self.git.find_tree(self.head_tree()).expect("the tree of HEAD");
        let mut index = self.git.index().expect("an index");
        index.read_tree(&tree).expect("an index of HEAD");
        index.write().expect("a written index");
    }

    fn load(&self, tree: Oid) -> Tree {
        let mut loaded = Tree::default();
        self.load_below(tree, Path::new(""), &mut loaded);
        loaded
    }

    fn load_below(&self, tree: Oid, below: &Path, loaded: &mut Tree) {
        let tree = self.git.find_tree(tree).expect("a tree stored before");
        for entry in tree.iter() {
            let path = below.join(std::ffi::OsStr::from_bytes(entry.name_bytes()));
            if !stays_inside(&path) {
                // Written by `raw_tree`; it must never reach the disk of the one who tests.
                continue;
            }
            let kind = match entry.filemode() {
                0o040000 => {
                    self.load_below(entry.id(), &path, loaded);
                    continue;
                }
                0o100755 => Kind::Executable,
                0o120000 => Kind::Symlink,
                _ => Kind::File,
            };
            let blob = self.git.find_blob(entry.id()).expect("a blob stored before");
            let content = blob.content().to_vec();
            loaded.0.insert(path, crate::tree::Entry { kind, content });
        }
    }
}

fn stays_inside(path: &Path) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(name) if name != ".git");
    path.components().all(plain)
}

const NAME: &str = "A Tester";
const EMAIL: &str = "tester@example.org";

#[track_caller]
fn parse(hex: &str) -> Oid {
    Oid::from_str(hex).unwrap_or_else(|_| panic!("{hex:?} is no object name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Run;

    fn git(dir: &Path, args: &[&str]) -> String {
        let safe = format!("safe.directory={}", dir.display());
        let run = Run::new("git").args(["-c", &safe]).args(args).dir(dir);
        run.ok().stdout
    }

    #[test]
    fn equal_content_gives_equal_commits() {
        let make = || {
            let dir = tempfile::tempdir().expect("a directory");
            let repo = Repo::new(dir.path());
            repo.commit(&[("a", "1"), ("b/c", "2")], "one");
            repo.remove(&["a"], "two")
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn git_itself_finds_the_working_directory_clean() {
        let dir = tempfile::tempdir().expect("a directory");
        let repo = Repo::new(dir.path());
        assert_eq!(repo.head_commit(), None);
        repo.commit(&[("a", "1"), ("b/c", "2")], "one");
        let run = Tree::from_table(&[("run", "#!/bin/sh\n", Kind::Executable), ("l", "a", Kind::Symlink)]);
        let second = repo.commit_over(&run, "two");
        repo.branch("side");
        repo.remove(&["b/c"], "three");
        assert!(!dir.path().join("b/c").exists());
        repo.switch("main");
        assert_eq!(git(dir.path(), &["rev-parse", "HEAD"]).trim(), second);
        assert_eq!(git(dir.path(), &["status", "--porcelain"]), "");
        assert_eq!(git(dir.path(), &["log", "--format=%an %at", "-1"]), "A Tester 1700000060\n");
        git(dir.path(), &["fsck", "--strict"]);
    }

    #[test]
    fn a_directory_becomes_a_commit_and_nothing_else_stays() {
        let (dir, from) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        Tree::of_files(&[("new/file", "n")]).write(from.path());
        let repo = Repo::new(dir.path());
        repo.commit(&[("old", "o")], "one");
        repo.commit_tree(from.path(), "two");
        assert_eq!(git(dir.path(), &["ls-tree", "-r", "--name-only", "HEAD"]), "new/file\n");
        assert!(!dir.path().join("old").exists());
    }

    #[test]
    fn names_that_git_refuses_can_be_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let repo = Repo::new(dir.path());
        repo.commit(&[("a", "1")], "one");
        let blob = repo.blob(b"evil");
        let hostile =
            [RawEntry { mode: "100644", name: b"..", oid: &blob }, RawEntry { mode: "100644", name: b".git", oid: &blob }];
        let tree = repo.raw_tree(&hostile);
        let commit = repo.commit_raw(&tree, "hostile");
        assert_eq!(git(dir.path(), &["rev-parse", "HEAD"]).trim(), commit);
        let names = git(dir.path(), &["ls-tree", "--name-only", "HEAD"]);
        assert_eq!(names, "..\n.git\n");
        assert_eq!(repo.head_commit(), Some(commit));
        let from = tempfile::tempdir().expect("a directory");
        Tree::of_files(&[("b", "2")]).write(from.path());
        repo.commit_tree(from.path(), "after");
        assert!(dir.path().join("b").is_file() && dir.path().join(".git").is_dir());
    }
}
