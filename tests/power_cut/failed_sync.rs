//! A sync that failed once: the bytes may be lost and the kernel may have forgotten it, so the file is thrown away and never synced again.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Mutex;

use df_testkit::calls::{CAN_ANSWER, Call, Meddling, What};

use super::campaign::{Operation, Ran, memory};
use super::in_cache::InCache;
use super::on_node::OnNode;
use super::{is_full, recorded};
use crate::receiving::copy;

/// What was asked of the disk in one run.
#[derive(Default)]
struct Asked {
    syncs: Vec<Sync>,
    /// The file whose sync failed. As long as it is held, no other file gets its inode.
    failed: Option<File>,
}

/// A sync.
struct Sync {
    call: Call,
    /// Of what is synced; a whole file system has none.
    inode: Option<u64>,
    is_file: bool,
}

/// Runs an operation whose n-th sync fails, and that one only; returns whether it said that it succeeded.
fn fail(operation: &dyn Operation, disk: &Path, n: usize, asked: &Mutex<Asked>) -> bool {
    let answers = |call: &Call, file: Option<File>| {
        if !matches!(call.what, What::Sync | What::SyncAll) {
            return None;
        }
        let mut asked = asked.lock().expect("no panic while locked");
        let metadata = file.as_ref().and_then(|file| file.metadata().ok());
        let is_file = metadata.as_ref().is_some_and(|metadata| metadata.is_file());
        asked.syncs.push(Sync { call: call.clone(), inode: metadata.map(|metadata| metadata.ino()), is_file });
        if asked.syncs.len() != n {
            return None;
        }
        asked.failed = file;
        Some(-i64::from(libc::EIO))
    };
    let counts = |call: &Call| call.path.starts_with(disk);
    operation.run(disk, &Meddling { counts: &counts, answers: &answers, ..Meddling::NONE }).is_done
}

/// Lets each sync of an operation fail once.
#[track_caller]
fn each_sync_fails_once(operation: &dyn Operation) {
    let dir = memory().expect("a directory");
    let dir = std::fs::canonicalize(dir.path()).expect("it is there");
    let (before, disk) = (dir.join("before"), dir.join("disk"));
    std::fs::create_dir(&before).expect("made");
    operation.lay_out(&before);
    let syncs = |n: usize| {
        copy(&before, &disk);
        let asked = Mutex::new(Asked::default());
        let is_done = fail(operation, &disk, n, &asked);
        (is_done, asked.into_inner().expect("no panic while locked"))
    };
    let (is_done, all) = syncs(usize::MAX);
    assert!(is_done && !all.syncs.is_empty(), "{} without a failure", operation.name());
    let (mut n_failed, mut n_files) = (0, 0);
    // Directories are left to the long campaign.
    for n in (1..=all.syncs.len()).filter(|n| is_full() || all.syncs[n - 1].is_file) {
        let (is_done, first) = syncs(n);
        // Not every run makes as many.
        let Some(Sync { call: failed, inode, .. }) = first.syncs.get(n - 1) else { continue };
        n_failed += 1;
        assert!(!is_done, "{} says that it is done, and sync {n} failed: {failed:?}", operation.name());
        let ran = Ran { n_calls: 0, is_killed: false, is_done };
        assert_eq!(operation.torn(&disk, &ran), [""; 0], "{}: sync {n} failed: {failed:?}", operation.name());
        let same = |other: &&Sync| other.is_file && other.inode == *inode;
        let again = first.syncs[n..].iter().find(same).map(|sync| &sync.call);
        assert!(again.is_none(), "{}: synced once more after it failed: {again:?}", operation.name());
        // Whoever comes next finds nothing of it.
        let asked = Mutex::new(Asked::default());
        assert!(fail(operation, &disk, usize::MAX, &asked), "{} after sync {n} failed: {failed:?}", operation.name());
        let second = asked.into_inner().expect("no panic while locked");
        assert_eq!(operation.torn(&disk, &Ran { is_done: true, ..ran }), [""; 0], "{} again: sync {n} failed", operation.name());
        let again = second.syncs.iter().find(same).map(|sync| &sync.call);
        assert!(again.is_none(), "{}: synced by the next one, after it failed: {again:?}", operation.name());
        n_files += usize::from(first.syncs[n - 1].is_file);
    }
    println!("{}: {n_failed} syncs failed, {n_files} of them those of a file", operation.name());
}

#[test]
fn a_file_whose_sync_failed_is_never_synced_again() {
    if !CAN_ANSWER {
        return eprintln!("not run: nobody can let a sync fail on this kind of machine");
    }
    let recorded = recorded();
    let (on_node, in_cache) =
        if is_full() { (&OnNode::ALL[..], &InCache::ALL[..]) } else { (&[OnNode::Delta][..], &[InCache::Put][..]) };
    on_node.iter().for_each(|what| each_sync_fails_once(&what.of(&recorded)));
    in_cache.iter().for_each(|what| each_sync_fails_once(&what.of(&recorded)));
}
