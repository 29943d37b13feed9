//! Two moments by themselves, each time the same: who was stopped there goes on with a view that is not true any more.

use std::sync::Arc;

use df_cache::Store as _;
use df_cache::contract::assert_whole;
use df_testkit::s3::Server;

use super::judge::{assert_nothing_is_left, stranger};
use super::member::{Answer, Member, Seat};
use super::mortal::{At, End};
use super::versions::version;

/// A bucket and those who use it.
struct Room {
    server: Server,
    directory: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        Self { server: Server::start(), directory: tempfile::tempdir().expect("a directory") }
    }

    fn member(&self, who: &str) -> Member {
        Member::start(&self.server, self.directory.path(), who, &Arc::<Seat>::default())
    }

    fn packs(&self) -> Vec<String> {
        self.server.keys().into_iter().filter(|key| key.contains("/p/")).collect()
    }

    #[track_caller]
    fn assert_there(&self, writer: u64, n: u64) {
        let (manifest, blobs, release) = version(writer, n);
        let store = stranger(&self.server, self.directory.path());
        assert_whole(&store, &manifest, &blobs);
        assert!(store.releases().expect("read").iter().any(|stored| stored.release == release));
    }

    #[track_caller]
    fn assert_sound(&self) {
        let store = stranger(&self.server, self.directory.path());
        assert_eq!(store.verify().expect("read"), []);
        assert_nothing_is_left(&self.server, &store);
    }
}

#[track_caller]
fn done(answer: Answer) -> Vec<u64> {
    match answer {
        Answer::Done(numbers) => numbers,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_writer_that_is_stopped_before_its_swap_begins_anew_when_the_fence_rose_and_its_packs_were_swept() {
    let room = Room::new();
    let (mut writer, mut collector) = (room.member("writer-1"), room.member("collector-0"));
    done(writer.ask("put 0", End::None, || {}));
    let before = room.packs();
    let numbers = done(writer.ask("put 1", End::Stops(At::Swap), || {
        let sent: Vec<String> = room.packs().into_iter().filter(|pack| !before.contains(pack)).collect();
        assert_eq!(sent.len(), 1);
        let numbers = done(collector.ask("collect", End::None, || {}));
        assert!(numbers[1] >= 1, "{numbers:?}");
        assert!(!room.packs().contains(&sent[0]), "nobody names it");
    }));
    assert_eq!(numbers, [2], "its packs were sent again, under another session");
    (0..2).for_each(|n| room.assert_there(1, n));
    room.assert_sound();
}

#[test]
fn a_collection_that_is_stopped_before_it_deletes_takes_nothing_that_was_put_meanwhile() {
    let room = Room::new();
    let (mut writer, mut collector) = (room.member("writer-1"), room.member("collector-0"));
    for n in 0..4 {
        done(writer.ask(&format!("put {n}"), End::None, || {}));
    }
    done(collector.ask("collect", End::Stops(At::Delete), || {
        // What it is about to delete is wanted again.
        for n in [0, 1] {
            done(writer.ask(&format!("put {n}"), End::None, || {}));
        }
        done(room.member("collector-1").ask("collect", End::None, || {}));
    }));
    (0..2).for_each(|n| room.assert_there(1, n));
    room.assert_sound();
}
