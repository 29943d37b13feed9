//! What comes of a receive, however it ends.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::fixture;
use df_core::{Entry, Kind};
use df_delta::Level;

/// A tree of plain files, in memory.
struct Tree {
    manifest: Manifest,
    blobs: HashMap<Digest, Vec<u8>>,
}

fn tree(files: &[(&str, &[u8])]) -> Tree {
    let blobs = files.iter().map(|(_, bytes)| (Digest::of(bytes), bytes.to_vec())).collect();
    let entries = files.iter().map(|(path, bytes)| Entry {
        path: path.parse().expect("a path"),
        kind: Kind::File { executable: false, len: bytes.len() as u64, digest: Digest::of(bytes) },
    });
    Tree { manifest: Manifest::new(entries.collect()).expect("a tree"), blobs }
}

fn delta(base: Option<&Tree>, target: &Tree) -> Vec<u8> {
    let from = |tree: &Tree, digest, offset: u64, len| Ok(tree.blobs[&digest][offset as usize..][..len].to_vec());
    let read_base = |digest, offset, len| from(base.expect("asked only with a base"), digest, offset, len);
    let read_target = |digest, offset, len| from(target, digest, offset, len);
    let mut bytes = vec![];
    let base = base.map(|base| (&base.manifest, &read_base as df_delta::ReadBlob<'_>));
    df_delta::encode(base, (&target.manifest, &read_target), Level::Fast, &mut bytes).expect("made");
    bytes
}

fn take(layout: &Layout, base: Option<&Tree>, target: &Tree, bytes: &[u8]) -> Result<Received, ReceiveError> {
    let base = base.map(|base| base.manifest.image());
    receive(layout, &Parcel { image: target.manifest.image(), base, delta: None, from: 0 }, &mut &bytes[..])
}

fn inode(layout: &Layout, tree: &Tree, path: &str) -> u64 {
    std::fs::metadata(layout.image(tree.manifest.image()).join(path)).expect("it is there").ino()
}

#[test]
fn whole_then_a_delta_that_shares_what_did_not_change() {
    let (_dir, layout) = fixture::layout();
    let (v1, v2) = (tree(&[("a", b"one"), ("b", b"old")]), tree(&[("a", b"one"), ("b", b"new")]));
    take(&layout, None, &v1, &delta(None, &v1)).expect("received");
    let received = take(&layout, Some(&v1), &v2, &delta(Some(&v1), &v2)).expect("received");
    assert_eq!(received.reused, 3);
    assert_eq!(inode(&layout, &v1, "a"), inode(&layout, &v2, "a"), "an unchanged file is one inode");
    for tree in [&v1, &v2] {
        let image = tree.manifest.image();
        assert_eq!(store::manifest(&layout, image).expect("kept"), tree.manifest);
        assert_eq!(df_cache::check::tree(&layout.image(image), &tree.manifest).expect("read"), []);
    }
    assert_eq!(store::images(&layout).expect("listed").len(), 2);
    assert_eq!(std::fs::read_dir(layout.incoming()).expect("listed").count(), 0, "nothing is left behind");
}

#[test]
fn a_damaged_delta_or_base_gives_no_image_and_leaves_nothing() {
    let (_dir, layout) = fixture::layout();
    let (v1, v2) = (tree(&[("a", b"one"), ("b", b"old")]), tree(&[("a", b"one"), ("b", b"new")]));
    take(&layout, None, &v1, &delta(None, &v1)).expect("received");
    let good = delta(Some(&v1), &v2);
    for cut in 0..good.len() {
        assert!(take(&layout, Some(&v1), &v2, &good[..cut]).is_err(), "cut at {cut}");
    }
    let stranger = tree(&[("z", b"z")]);
    assert!(matches!(take(&layout, Some(&stranger), &v2, &good), Err(ReceiveError::Base(StoreError::Missing(_)))));
    df_testkit::faults::flip_byte(&layout.image(v1.manifest.image()).join("a"), 0);
    assert!(matches!(take(&layout, Some(&v1), &v2, &good), Err(ReceiveError::Export(ExportError::Damaged { .. }))));
    assert!(!store::holds(&layout, v2.manifest.image()));
    assert_eq!(std::fs::read_dir(layout.incoming()).expect("listed").count(), 0);
    take(&layout, None, &v2, &delta(None, &v2)).expect("whole is the way out");
}

/// Ends with an error instead of an end, as a connection does.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() && !out.is_empty() { Err(io::ErrorKind::ConnectionReset.into()) } else { self.0.read(out) }
    }
}

/// A delta on its way.
struct Sent<'a> {
    layout: &'a Layout,
    parcel: Parcel,
    delta: &'a [u8],
}

impl<'a> Sent<'a> {
    fn new(layout: &'a Layout, base: Option<ImageId>, target: &Tree, delta: &'a [u8]) -> Self {
        let parcel = Parcel { image: target.manifest.image(), base, delta: Some(Digest::of(delta)), from: 0 };
        Self { layout, parcel, delta }
    }

    fn part(&self, from: u64, to: usize) -> Result<Received, ReceiveError> {
        let parcel = Parcel { from, ..self.parcel };
        receive(self.layout, &parcel, &mut Wire(&self.delta[from as usize..to]))
    }

    #[track_caller]
    fn cut(&self, from: u64, to: usize) {
        let cut = self.part(from, to).expect_err("cut");
        assert!(matches!(cut, ReceiveError::Delta(ApplyError::Input(_))), "{from}..{to}: {cut:?}");
    }

    fn rest(&self, from: u64) -> Result<Received, ReceiveError> {
        receive(self.layout, &Parcel { from, ..self.parcel }, &mut &self.delta[from as usize..])
    }

    /// Returns what the node tells of it.
    fn told(&self) -> Option<df_wire::message::Incoming> {
        let told = cut(self.layout).expect("listed");
        assert!(told.len() < 2);
        told.into_iter().next().inspect(|told| {
            let Parcel { image, base, delta, .. } = self.parcel;
            assert_eq!((told.image, told.base, Some(told.delta)), (image, base, delta));
        })
    }

    fn offset(&self) -> u64 {
        self.told().map_or(0, |told| told.offset)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.layout.incoming().join(self.parcel.image.to_string()).join(name)
    }

    fn forget(&self) {
        df_cache::durable::remove_tree(&self.layout.incoming().join(self.parcel.image.to_string())).expect("removed");
    }
}

#[track_caller]
fn is_held(layout: &Layout, tree: &Tree) {
    let image = tree.manifest.image();
    assert_eq!(df_cache::check::tree(&layout.image(image), &tree.manifest).expect("read"), []);
    assert_eq!(std::fs::read_dir(layout.incoming()).expect("listed").count(), 0, "nothing is left behind");
    store::remove(layout, image).expect("removed");
}

/// Bytes that differ everywhere and pack well.
fn lines(seed: u8, len: usize) -> Vec<u8> {
    let line = |n: usize| format!("{n:016x}{seed:02x}{}", " and the same words again".repeat(20)).into_bytes();
    let mut bytes: Vec<u8> = (0..=len / 500).flat_map(line).collect();
    bytes.truncate(len);
    bytes
}

/// Three pieces: a large file, a library, and the rest.
fn three(n: u8) -> Tree {
    let large = lines(n, 16 << 20);
    tree(&[("a", b"one"), ("b", &[n; 5]), ("c", &[n; 5]), ("large", &large), ("lib.so", &[n; 9])])
}

#[test]
fn a_cut_receive_goes_on_wherever_it_was_cut() {
    let (_dir, layout) = fixture::layout();
    let (v1, v2) = (three(1), three(2));
    take(&layout, None, &v1, &delta(None, &v1)).expect("received");
    for base in [None, Some(&v1)] {
        let bytes = delta(base, &v2);
        let sent = Sent::new(&layout, base.map(|base| base.manifest.image()), &v2, &bytes);
        let mut offsets = std::collections::BTreeSet::new();
        for to in 0..bytes.len() {
            // Every place near one where something ends, and some in between.
            let is_near = |offset: &u64| to.abs_diff(*offset as usize) < 3;
            if to % 5003 > 0 && !offsets.iter().any(is_near) && to + 30 < bytes.len() {
                continue;
            }
            sent.cut(0, to);
            let from = sent.offset();
            assert!(from <= to as u64 && !store::holds(&layout, v2.manifest.image()));
            if from == 0 {
                assert_eq!(std::fs::read_dir(layout.incoming()).expect("listed").count(), 0, "nothing to go on with");
                continue;
            }
            offsets.insert(from);
            let middle = usize::midpoint(from as usize, bytes.len());
            sent.cut(from, middle);
            let again = sent.offset();
            assert!(from <= again && again <= middle as u64, "{from} {again} {middle}");
            sent.rest(again).expect("the rest");
            is_held(&layout, &v2);
        }
        assert_eq!(offsets.len(), 3, "{offsets:?} of {}", bytes.len());
    }
}

#[test]
fn a_long_file_goes_on_in_its_middle() {
    let (_dir, layout) = fixture::layout();
    let long = lines(1, 66 << 20);
    let v1 = tree(&[("long", &long), ("z", b"z")]);
    let bytes = delta(None, &v1);
    let sent = Sent::new(&layout, None, &v1, &bytes);
    // Each time a little more, until the first of the three windows is there.
    let to = (0..bytes.len()).step_by(500).find(|&to| {
        sent.cut(0, to);
        std::fs::metadata(sent.path("tree/long")).is_ok_and(|it| it.len() == 32 << 20)
    });
    let (from, to) = (sent.offset(), to.expect("a window"));
    assert_eq!(sent.told().expect("told").partial, None, "no file is complete");
    sent.cut(from, to);
    // A window without its mark, as a kill leaves it: it comes again.
    let file = std::fs::OpenOptions::new().append(true).open(sent.path("tree/long")).expect("opened");
    io::Write::write_all(&mut &file, b"more").expect("written");
    sent.rest(from).expect("the rest");
    is_held(&layout, &v1);

    sent.cut(0, to);
    df_testkit::faults::flip_byte(&sent.path("tree/long"), 20 << 20);
    let damaged = sent.rest(from).expect_err("damaged");
    let ReceiveError::Elsewhere { offset } = damaged else { panic!("{damaged:?}") };
    assert!(offset > 0 && offset < from && sent.offset() == offset, "from where the file begins");
    sent.rest(offset).expect("the rest");
    is_held(&layout, &v1);
}

type Damage = fn(&std::path::Path);

#[test]
fn what_was_damaged_meanwhile_comes_again() {
    let (_dir, layout) = fixture::layout();
    let v1 = three(1);
    let bytes = delta(None, &v1);
    let sent = Sent::new(&layout, None, &v1, &bytes);
    let damage: [(&str, &str, Damage); 6] = [
        ("a byte of a file", "tree/large", |path| df_testkit::faults::flip_byte(path, 99)),
        ("a file", "tree/lib.so", |path| std::fs::remove_file(path).expect("removed")),
        ("the head", "head", |path| df_testkit::faults::flip_byte(path, 70)),
        ("the manifest", "manifest", |path| df_testkit::faults::flip_byte(path, 9)),
        ("the record", "record.json", |path| std::fs::write(path, "{").expect("written")),
        ("the last mark", "marks", |path| {
            let file = std::fs::OpenOptions::new().write(true).open(path).expect("opened");
            file.set_len(file.metadata().expect("there").len() - 1).expect("cut");
        }),
    ];
    for (what, path, damage) in damage {
        sent.cut(0, bytes.len() - 1);
        let told = sent.offset();
        damage(&sent.path(path));
        let again = match sent.rest(told) {
            Err(ReceiveError::Elsewhere { offset }) => offset,
            other => panic!("{what}: {other:?}"),
        };
        assert!(again < told, "{what}");
        assert_eq!(sent.offset(), again, "{what}");
        sent.rest(again).expect(what);
        is_held(&layout, &v1);
    }
}

#[test]
fn what_a_cut_receive_has_is_a_base() {
    let (_dir, layout) = fixture::layout();
    let (v1, v2) = (three(1), three(2));
    let bytes = delta(None, &v1);
    let sent = Sent::new(&layout, None, &v1, &bytes);
    sent.cut(0, bytes.len() - 1);
    let told = sent.told().expect("told").partial.expect("two files are complete");
    let partial = find(&layout, told, None).expect("found").manifest;
    assert_eq!(partial.image(), told);
    assert_eq!(partial.entries().iter().map(|entry| entry.path.to_string()).collect::<Vec<_>>(), ["large", "lib.so"]);
    let held = Tree { manifest: partial, blobs: v1.blobs.clone() };

    // Of another image.
    let two = delta(Some(&held), &v2);
    let received = Sent::new(&layout, Some(told), &v2, &two).rest(0).expect("received");
    assert_eq!(received.reused, 0);
    store::remove(&layout, v2.manifest.image()).expect("removed");
    assert_eq!(sent.told().expect("told").partial, Some(told), "it is still there");

    // Of the same image: what is there does not travel again. That may be cut, too.
    let one = delta(Some(&held), &v1);
    assert!(one.len() < bytes.len() / 10);
    let again = Sent::new(&layout, Some(told), &v1, &one);
    again.cut(0, one.len() - 1);
    assert!(again.offset() > 0);
    let received = again.rest(again.offset()).expect("the rest");
    assert_eq!(received.reused, (16 << 20) + 9);
    is_held(&layout, &v1);

    // One that is damaged is no base.
    sent.cut(0, bytes.len() - 1);
    df_testkit::faults::flip_byte(&sent.path("tree/large"), 99);
    let damaged = again.rest(0).expect_err("damaged");
    assert!(matches!(damaged, ReceiveError::Base(StoreError::Damaged(_))), "{damaged:?}");
    assert_eq!(std::fs::read_dir(layout.incoming()).expect("listed").count(), 0);
    let missing = again.rest(0).expect_err("gone");
    assert!(matches!(missing, ReceiveError::Base(StoreError::Missing(_))), "{missing:?}");
}

#[test]
fn only_the_same_delta_goes_on() {
    let (_dir, layout) = fixture::layout();
    let v1 = three(1);
    let bytes = delta(None, &v1);
    let sent = Sent::new(&layout, None, &v1, &bytes);
    sent.cut(0, bytes.len() - 1);
    let from = sent.offset();
    let other = Sent { parcel: Parcel { delta: Some(Digest::of(b"another")), ..sent.parcel }, ..sent };
    assert!(matches!(other.rest(from), Err(ReceiveError::Elsewhere { offset: 0 })));
    assert_eq!(sent.offset(), 0, "whoever sends another one has its reasons");
    sent.cut(0, bytes.len() - 1);
    assert!(matches!(sent.rest(from - 1), Err(ReceiveError::Elsewhere { offset }) if offset == from));
    assert_eq!(sent.offset(), from, "a wrong place costs nothing");
    let unnamed = Parcel { delta: None, ..sent.parcel };
    assert!(receive(&layout, &unnamed, &mut Wire(&bytes[..bytes.len() - 1])).is_err());
    assert_eq!(std::fs::read_dir(layout.incoming()).expect("listed").count(), 0, "who names no delta leaves nothing");
    sent.forget();
    sent.rest(0).expect("whole");
    is_held(&layout, &v1);
}

#[test]
fn a_delta_that_is_wrong_leaves_nothing_to_go_on_with() {
    let (_dir, layout) = fixture::layout();
    let v1 = three(1);
    let mut bytes = delta(None, &v1);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let sent = Sent::new(&layout, None, &v1, &bytes);
    assert!(matches!(sent.rest(0), Err(ReceiveError::Delta(error)) if error.is_damaged()));
    assert_eq!(std::fs::read_dir(layout.incoming()).expect("listed").count(), 0);
}

#[test]
fn two_receives_of_one_image_do_not_mix() {
    let (_dir, layout) = fixture::layout();
    let v1 = tree(&[("a", b"one")]);
    let _held = Work::take(&layout, v1.manifest.image()).expect("taken");
    assert!(matches!(take(&layout, None, &v1, &delta(None, &v1)), Err(ReceiveError::Busy)));
}

#[test]
fn no_room_is_said_before_anything_is_written() {
    let (_dir, layout) = fixture::layout();
    assert!(matches!(check_room(&layout, u64::MAX), Err(ReceiveError::NoRoom { .. })));
    check_room(&layout, 1).expect("room for a byte");
}

const CHILD: &str = "DF_TEST_RECEIVE";

/// Receives from its standard input into the node that the environment names, when it does: the other end of the next test.
#[test]
fn a_process_that_is_killed() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let [root, image, delta, from] = told.split('\n').collect::<Vec<_>>()[..] else { panic!("four words") };
    let root = std::path::Path::new(root);
    let layout = Layout { root: root.join("root"), data: root.join("data"), tmp: root.join("tmp"), is_machine: false };
    let (image, delta, from) = (image.parse().expect("an id"), delta.parse().expect("a digest"), from.parse().expect("a number"));
    let _ = receive(&layout, &Parcel { image, base: None, delta: Some(delta), from }, &mut io::stdin());
}

#[test]
fn whoever_is_killed_leaves_something_to_go_on_with_or_nothing() {
    let (dir, layout) = fixture::layout();
    let v1 = three(1);
    let bytes = delta(None, &v1);
    let sent = Sent::new(&layout, None, &v1, &bytes);
    let image = sent.parcel.image;
    let mut from = 0;
    let mut n_resumed = 0;
    for n in 1..=40_u64 {
        let told = format!("{}\n{image}\n{}\n{from}", dir.path().display(), Digest::of(&bytes));
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "receive::tests::a_process_that_is_killed"])
            .env(CHILD, told)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("started");
        // Killed after it was given a part, each time another one, or everything; where it is by then is chance.
        let to = from as usize + (bytes.len() - from as usize) * (n % 5) as usize / 4 * usize::from(n % 5 > 0);
        let mut input = child.stdin.take().expect("piped");
        let _ = io::Write::write_all(&mut input, &bytes[from as usize..to.min(bytes.len())]);
        let begun = sent.path("marks");
        let patience = std::time::Instant::now() + std::time::Duration::from_millis(n * 7 % 90);
        while std::time::Instant::now() < patience && !(n % 3 == 0 && begun.exists()) {
            std::thread::yield_now();
        }
        child.kill().expect("killed");
        child.wait().expect("waited for");
        if store::holds(&layout, image) {
            assert_eq!(df_cache::check::tree(&layout.image(image), &v1.manifest).expect("read"), []);
            store::remove(&layout, image).expect("removed");
            let _ = df_cache::durable::remove_tree(&sent.path(""));
            from = 0;
            continue;
        }
        assert!(!layout.image(image).exists(), "half of it has its name");
        from = sent.offset();
        n_resumed += u32::from(from > 0);
    }
    assert!(n_resumed > 3, "only {n_resumed} of 40 had come to a mark");
    sent.rest(from).expect("the rest");
    is_held(&layout, &v1);
}

#[test]
fn a_tree_without_its_manifest_is_no_image_and_becomes_one_when_it_is_received_again() {
    let (_dir, layout) = fixture::layout();
    let v1 = tree(&[("a", b"one")]);
    let image = v1.manifest.image();
    for damaged in [false, true] {
        take(&layout, None, &v1, &delta(None, &v1)).expect("received");
        std::fs::remove_file(layout.manifest(image)).expect("lost");
        if damaged {
            df_testkit::faults::flip_byte(&layout.image(image).join("a"), 0);
        }
        assert!(!store::holds(&layout, image));
        store::sweep(&layout).expect("swept");
        assert!(layout.image(image).exists(), "a generation may run from it");
        take(&layout, None, &v1, &delta(None, &v1)).expect("received again");
        assert!(store::holds(&layout, image));
        assert_eq!(df_cache::check::tree(&layout.image(image), &v1.manifest).expect("read"), []);
    }
}
