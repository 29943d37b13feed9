//! What a repository may hold, and what never runs.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use df_build::{Commit, Repository};
use df_core::{CommitId, Kind as Entry, TreePath};
use df_testkit::repo::RawEntry;
use df_testkit::{Kind, Repo, Tree};

struct Place {
    dir: tempfile::TempDir,
    repo: Repo,
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    let repo = Repo::new(&dir.path().join("repo"));
    Place { dir, repo }
}

impl Place {
    fn open(&self) -> Repository {
        Repository::open(self.repo.dir()).expect("the repository opens")
    }

    fn head(&self) -> Commit {
        self.open().resolve("HEAD").expect("a commit")
    }

    fn dest(&self) -> std::path::PathBuf {
        let dest = self.dir.path().join("dest");
        fs::create_dir_all(&dest).expect("a directory");
        dest
    }

    fn write(&self) -> std::path::PathBuf {
        let dest = self.dest();
        self.open().write_tree(&self.head(), &dest).expect("the tree is written");
        dest
    }

    fn refusal(&self) -> String {
        let (dest, head) = (self.dest(), self.head());
        let refused = self.open().write_tree(&head, &dest).expect_err("the tree is refused");
        assert_eq!(fs::read_dir(&dest).expect("a directory").count(), 0, "nothing is written");
        let cause = std::error::Error::source(&refused).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{refused}{cause}")
    }
}

#[track_caller]
fn check_refused(entries: &[(&str, &[u8])], expected: &str) {
    let place = place();
    let blob = place.repo.blob(b"x");
    let entries: Vec<RawEntry<'_>> = entries.iter().map(|(mode, name)| RawEntry { mode, name, oid: &blob }).collect();
    place.repo.commit_raw(&place.repo.raw_tree(&entries), "hostile");
    let refusal = place.refusal();
    assert!(refusal.contains(expected), "{refusal:?} does not say {expected:?}");
}

#[test]
fn names_that_would_leave_or_mislead_are_refused_by_name() {
    for name in [".git", ".GIT", ".git ", ".g\u{200c}it", "git~1", ".git::$INDEX_ALLOCATION"] {
        check_refused(&[("100644", name.as_bytes())], "would take for .git");
    }
    check_refused(&[("100644", b"..")], "component . or ..");
    check_refused(&[("100644", b".")], "component . or ..");
    check_refused(&[("100644", b"")], "empty component");
    check_refused(&[("100644", b"a/b")], "begins or ends with a slash");
    check_refused(&[("100644", b"/etc")], "begins or ends with a slash");
    check_refused(&[("100644", b"a"), ("100755", b"a")], "twice or out of order");
    check_refused(&[("100644", b"b"), ("100644", b"a")], "twice or out of order");
    check_refused(&[("160000", b"sub")], "sub is a submodule");
    check_refused(&[("120644", b"odd")], "the mode 120644");
    check_refused(&[("100644", &[b'n'; 256])], "more than 255 bytes");
}

#[test]
fn a_file_and_a_directory_of_one_name_are_refused_however_far_apart() {
    let place = place();
    let blob = place.repo.blob(b"x");
    let inner = place.repo.raw_tree(&[RawEntry { mode: "100644", name: b"f", oid: &blob }]);
    let tree = place.repo.raw_tree(&[
        RawEntry { mode: "100644", name: b"a", oid: &blob },
        RawEntry { mode: "100644", name: b"a.b", oid: &blob },
        RawEntry { mode: "40000", name: b"a", oid: &inner },
    ]);
    place.repo.commit_raw(&tree, "two of a name");
    assert!(place.refusal().contains("lists a twice"), "{}", place.refusal());
}

#[test]
fn a_tree_that_holds_itself_a_thousand_times_ends_quickly() {
    let place = place();
    let blob = place.repo.blob(b"x");
    let mut tree = place.repo.raw_tree(&[RawEntry { mode: "100644", name: b"f", oid: &blob }]);
    for _ in 0..40 {
        let entries: Vec<[u8; 1]> = (b'a'..=b'z').map(|c| [c]).collect();
        let entries: Vec<_> = entries.iter().map(|name| RawEntry { mode: "40000", name, oid: &tree }).collect();
        tree = place.repo.raw_tree(&entries);
    }
    place.repo.commit_raw(&tree, "bomb");
    assert!(place.refusal().contains("more than 1000000"));
}

#[test]
fn a_tree_deeper_than_the_bound_is_refused() {
    let place = place();
    let blob = place.repo.blob(b"x");
    let mut tree = place.repo.raw_tree(&[RawEntry { mode: "100644", name: b"f", oid: &blob }]);
    for _ in 0..200 {
        tree = place.repo.raw_tree(&[RawEntry { mode: "40000", name: b"d", oid: &tree }]);
    }
    place.repo.commit_raw(&tree, "deep");
    assert!(place.refusal().contains("deeper than 128"));
}

#[test]
fn an_object_that_is_not_here_is_named_and_not_fetched() {
    let place = place();
    let absent = "1234567890123456789012345678901234567890";
    place.repo.commit_raw(&place.repo.raw_tree(&[RawEntry { mode: "100644", name: b"gone", oid: absent }]), "partial");
    let refusal = place.refusal();
    assert!(refusal.contains("gone is missing from the repository (1234567890"), "{refusal}");
}

#[test]
fn nothing_named_in_a_repository_runs() {
    let place = place();
    let canary = place.dir.path().join("canary");
    let run = format!("touch {}", canary.display());
    place.repo.commit(
        &[("a.txt", "$Id$ one\r\n"), (".gitattributes", "* filter=evil ident text eol=lf diff=evil export-subst\n")],
        "one",
    );
    let git = place.repo.dir().join(".git");
    let config = format!(
        "\n[core]\n\tfsmonitor = \"{run}\"\n\thooksPath = {0}\n\tsshCommand = \"{run}\"\n\tpager = \"{run}\"\n\tautocrlf = true\n\
         [filter \"evil\"]\n\tclean = \"{run}\"\n\tsmudge = \"{run}\"\n\trequired = true\n[diff \"evil\"]\n\tcommand = \"{run}\"\n",
        git.join("hooks").display()
    );
    let mut text = fs::read_to_string(git.join("config")).expect("a config");
    text.push_str(&config);
    fs::write(git.join("config"), text).expect("a config");
    fs::create_dir_all(git.join("hooks")).expect("hooks");
    for hook in ["post-checkout", "post-index-change", "fsmonitor-watchman", "reference-transaction"] {
        let path = git.join("hooks").join(hook);
        fs::write(&path, format!("#!/bin/sh\n{run}\n")).expect("a hook");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a hook");
    }
    fs::write(place.repo.dir().join("a.txt"), "changed").expect("a dirty file");
    let dest = place.write();
    assert!(place.open().n_uncommitted(Duration::from_secs(30)).is_some());
    assert_eq!(fs::read(dest.join("a.txt")).expect("the file"), b"$Id$ one\r\n", "no filter, no line ends, no ident");
    assert!(!canary.exists(), "something ran");
}

#[test]
fn a_replace_ref_changes_nothing() {
    let place = place();
    let truth = place.repo.commit(&[("a", "true")], "one");
    let lie = place.repo.commit(&[("a", "a lie")], "two");
    let dir = place.repo.dir().join(".git/refs/replace");
    fs::create_dir_all(&dir).expect("refs");
    fs::write(dir.join(&truth), format!("{lie}\n")).expect("a replace ref");
    let repository = place.open();
    let commit = repository.resolve(&truth).expect("the commit");
    let file = repository.file(&commit, &TreePath::new(b"a").expect("a path")).expect("it reads");
    assert_eq!(file.as_deref(), Some(&b"true"[..]));
}

#[test]
fn a_damaged_object_is_refused() {
    let place = place();
    place.repo.commit(&[("a", "good")], "one");
    let other = place.repo.blob(b"evil");
    let good = place.repo.blob(b"good");
    let object = |id: &str| place.repo.dir().join(".git/objects").join(&id[..2]).join(&id[2..]);
    fs::set_permissions(object(&good), fs::Permissions::from_mode(0o644)).expect("writable");
    fs::copy(object(&other), object(&good)).expect("another object under this name");
    assert!(place.refusal().contains("cannot read a "), "{}", place.refusal());
}

#[track_caller]
fn check_unresolved(repository: &Repository, text: &str, expected: &str) {
    let error = repository.resolve(text).expect_err("no commit").to_string();
    assert!(error.contains(expected), "{text}: {error:?} does not say {expected:?}");
}

#[test]
fn a_text_names_one_commit_or_says_why_not() {
    let place = place();
    check_unresolved(&place.open(), "HEAD", "no commits yet");
    check_unresolved(&place.open(), "main", "no commits yet");
    let first = place.repo.commit(&[("a", "1")], "one\n\nbody");
    let second = place.repo.commit(&[("a", "2")], "two \u{1b}[2J");
    place.repo.branch("v1.0");
    let repository = place.open();
    for text in ["--upload-pack=x", "-x", ":/one", "HEAD^{/one}", "HEAD:a", "a b", "HEAD@{1}", "", "main..v1.0", "x\n"] {
        check_unresolved(&repository, text, "cannot name a commit");
    }
    check_unresolved(&repository, "nosuch", "no commit \"nosuch\"");
    check_unresolved(&repository, &"a".repeat(40), "there is no commit");
    check_unresolved(&repository, &place.repo.blob(b"1"), "is a blob, not a commit");
    let id = CommitId::new(&first).expect("an id");
    for text in [first.as_str(), &first[..10], &first.to_uppercase(), "HEAD~1", "main~", "v1.0^"] {
        assert_eq!(repository.resolve(text).expect(text).id, id, "{text}");
    }
    let head = repository.resolve("@").expect("HEAD");
    assert_eq!((head.id.as_str(), head.summary.as_str(), head.committed.0), (second.as_str(), "two \\u{1b}[2J", 1_700_000_060));
}

#[test]
fn a_branch_named_like_another_commit_is_ambiguous() {
    let place = place();
    let first = place.repo.commit(&[("a", "1")], "one");
    let second = place.repo.commit(&[("a", "2")], "two");
    let refs = place.repo.dir().join(".git/refs/heads");
    fs::write(refs.join(&first), format!("{second}\n")).expect("a ref");
    fs::write(refs.join("cafe"), format!("{second}\n")).expect("a ref");
    check_unresolved(&place.open(), &first, "could be several things");
    assert_eq!(place.open().resolve("cafe").expect("a branch").id.as_str(), second);
}

#[test]
fn a_repository_of_another_user_is_refused_with_the_line_that_mends_it() {
    let place = place();
    place.repo.commit(&[("a", "1")], "one");
    if std::os::unix::fs::chown(place.repo.dir(), Some(12345), Some(12345)).is_err() {
        return; // Only root can give a directory away.
    }
    std::os::unix::fs::chown(place.repo.dir().join(".git"), Some(12345), Some(12345)).expect("root");
    let error = Repository::open(place.repo.dir()).err().expect("refused").to_string();
    assert!(error.contains("belongs to another user") && error.contains("git config --global --add safe.directory"), "{error}");
    let error = Repository::open(Path::new("/proc")).err().expect("refused").to_string();
    assert!(error.contains("/proc is in no git repository"), "{error}");
}

#[test]
fn a_bare_repository_and_a_directory_below_open_too() {
    let place = place();
    let id = place.repo.commit(&[("d/a", "1")], "one");
    let below = Repository::open(&place.repo.dir().join("d")).expect("below the top");
    assert_eq!(below.resolve("HEAD").expect("a commit").id.as_str(), id);
    let bare = place.dir.path().join("bare.git");
    git2::build::RepoBuilder::new().bare(true).clone(place.repo.dir().to_str().expect("text"), &bare).expect("a clone");
    let bare = Repository::open(&bare).expect("a bare one");
    assert_eq!(bare.resolve("main").expect("a commit").id.as_str(), id);
    assert_eq!((bare.work_dir(), bare.n_uncommitted(Duration::from_secs(9))), (None, None));
}

#[test]
fn a_tree_is_written_exactly_and_what_is_right_stays() {
    let place = place();
    let tree = Tree::from_table(&[
        ("run", "#!/bin/sh\n", Kind::Executable),
        ("d/e/f", "text", Kind::File),
        ("d/link", "e/f", Kind::Symlink),
        ("gone/x", "x", Kind::File),
    ]);
    place.repo.commit_over(&tree, "one");
    let dest = place.write();
    let inode = fs::metadata(dest.join("d/e/f")).expect("the file").ino();
    let stat = |path: &str| fs::symlink_metadata(dest.join(path)).expect("an entry");
    for path in ["run", "d", "d/e", "d/e/f", "d/link"] {
        assert_eq!(stat(path).mtime(), 315_532_800, "{path}");
    }
    assert_eq!((stat("run").mode() & 0o7777, stat("d/e/f").mode() & 0o7777, stat("d").mode() & 0o7777), (0o755, 0o644, 0o755));

    // What a build leaves: other bytes of equal length and time, more names, other kinds, other modes, a locked directory.
    fs::write(dest.join("run"), "#!/bin/xx\n").expect("changed");
    fs::create_dir_all(dest.join("target/deep/er")).expect("more");
    fs::set_permissions(dest.join("target/deep"), fs::Permissions::from_mode(0o0)).expect("locked");
    fs::remove_file(dest.join("d/link")).expect("gone");
    std::os::unix::fs::symlink("/etc/passwd", dest.join("d/link")).expect("another target");
    fs::hard_link(dest.join("gone/x"), dest.join("gone/y")).expect("a second name");
    place.repo.remove(&["gone/x"], "two");
    fs::remove_dir(place.repo.dir().join("gone")).expect("an empty directory");
    place.repo.commit(&[("gone", "now a file")], "three");
    place.write();
    assert_eq!(fs::metadata(dest.join("d/e/f")).expect("the file").ino(), inode, "an unchanged file stays");
    let written = Tree::read(&dest);
    let expected = Tree::from_table(&[
        ("run", "#!/bin/sh\n", Kind::Executable),
        ("d/e/f", "text", Kind::File),
        ("d/link", "e/f", Kind::Symlink),
        ("gone", "now a file", Kind::File),
    ]);
    assert_eq!(written.differences(&expected), []);
}

#[test]
fn writing_follows_no_link_that_an_earlier_build_left() {
    let place = place();
    place.repo.commit(&[("d/a", "new")], "one");
    let (dest, outside) = (place.dest(), place.dir.path().join("outside"));
    fs::create_dir(&outside).expect("a directory");
    fs::write(outside.join("a"), "old").expect("a file");
    std::os::unix::fs::symlink(&outside, dest.join("d")).expect("a link");
    place.write();
    assert_eq!(fs::read_to_string(outside.join("a")).expect("the file"), "old");
    assert_eq!(fs::read_to_string(dest.join("d/a")).expect("the file"), "new");
}

#[test]
fn a_manifest_lists_what_the_commit_holds() {
    let place = place();
    place.repo.commit(&[("b/c", "2"), ("a", "1")], "one");
    let manifest = place.open().manifest(&place.head()).expect("a manifest");
    let paths: Vec<String> = manifest.entries().iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["a", "b", "b/c"]);
    let digest = df_core::Digest::of(b"2");
    assert_eq!(manifest.get(b"b/c").expect("listed").kind, Entry::File { executable: false, len: 1, digest });
    let path = |text: &str| TreePath::new(text.as_bytes()).expect("a path");
    let (repository, head) = (place.open(), place.head());
    assert_eq!(repository.file(&head, &path("b/c")).expect("reads").as_deref(), Some(&b"2"[..]));
    assert_eq!(repository.file(&head, &path("b/d")).expect("reads"), None);
    assert!(repository.file(&head, &path("b")).is_err(), "a directory is no file");
    assert!(repository.file(&head, &path("a/x")).is_err(), "nothing lies below a file");
    place.repo.commit(&[("df.yaml", &"#".repeat(1 << 21))], "huge");
    let error = repository.file(&place.head(), &path("df.yaml")).expect_err("too large").to_string();
    assert!(error.contains("the limit is 1048576"), "{error}");
}

#[test]
fn what_is_not_committed_is_counted() {
    let place = place();
    place.repo.commit(&[("a", "1"), (".gitignore", "ignored\n")], "one");
    let count = || place.open().n_uncommitted(Duration::from_secs(30));
    assert_eq!(count(), Some(0));
    fs::write(place.repo.dir().join("a"), "2").expect("changed");
    fs::write(place.repo.dir().join("new"), "2").expect("new");
    fs::write(place.repo.dir().join("ignored"), "2").expect("ignored");
    assert_eq!(count(), Some(2));
}
