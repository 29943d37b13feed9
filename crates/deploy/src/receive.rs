//! Bytes become an image: applied, checked, synced, and only then named.
//!
//! When the bytes end too early, what came stays, if the sender named its delta: a later receive goes on with it, or takes it for a base.

use std::io::{self, Read};
use std::path::PathBuf;

use df_cache::blobs::{Blobs, Bytes};
use df_cache::export::{ExportError, Growing};
use df_core::{Digest, ImageId, Manifest};
use df_delta::{Applied, ApplyError, Kept, ReadBlob};

use crate::layout::Layout;
use crate::store::{self, Contents, StoreError};

mod base;
mod landing;
mod work;

pub use base::{Base, cut, find};
use landing::Landing;
pub use work::touched;
use work::{Left, Record, Work};

/// An image did not come about. Nothing has its name.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ReceiveError {
    #[error("the same image is being received by another session")]
    Busy,
    /// The bytes do not go on where this one ends.
    #[error("what lies here of the delta ends at byte {offset}")]
    Elsewhere { offset: u64 },
    #[error("the base cannot be used")]
    Base(#[source] StoreError),
    #[error("the bytes do not make the image")]
    Delta(#[source] ApplyError),
    #[error("the image cannot be put together")]
    Export(#[source] ExportError),
    #[error("no room: the image needs {needed} bytes, {free} are free")]
    NoRoom { needed: u64, free: u64 },
    #[error("{}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the image that came from the base.
    pub reused: u64,
}

/// What is to be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parcel {
    /// What it makes.
    pub image: ImageId,
    /// The image that the delta is to; `None`: it is whole.
    pub base: Option<ImageId>,
    /// The digest of the delta; without it nothing stays after a cut.
    pub delta: Option<Digest>,
    /// Where in the delta the bytes begin.
    pub from: u64,
}

/// Receives an image from a stream, as a delta to a base or whole, or the rest of one that was cut.
///
/// Memory is bounded by [`df_delta::apply::IN_FLIGHT`]; what comes is written once, where it stays, and unchanged files are hard links to the base's. Every file
/// is hashed before it counts, the linked ones and those of an earlier sitting too, so a base that was damaged on disk is found here, not when it runs.
///
/// # Errors
/// The image has no name then. What was written is removed, unless the bytes ended too early.
pub fn receive(layout: &Layout, parcel: &Parcel, input: &mut dyn Read) -> Result<Received, ReceiveError> {
    let mut work = Work::take(layout, parcel.image)?;
    let left = work.left().filter(|left| left.manifest.image() == parcel.image);
    let received =
        if parcel.from > 0 { go_on(layout, &work, left, parcel, input) } else { begin(layout, &work, left, parcel, input) };
    if let Err(ReceiveError::Delta(ApplyError::Input(_)) | ReceiveError::Elsewhere { offset: 1.. }) = received
        && work.left().is_some()
    {
        work.keep();
    }
    received
}

/// Receives a delta from its first byte.
fn begin(
    layout: &Layout,
    work: &Work,
    left: Option<Left>,
    parcel: &Parcel,
    input: &mut dyn Read,
) -> Result<Received, ReceiveError> {
    let io = |source| ReceiveError::Io { path: layout.incoming(), source };
    let base =
        parcel.base.map(|base| base::find(layout, base, Some((work, parcel.image)))).transpose().map_err(ReceiveError::Base)?;
    let own = base.as_ref().filter(|base| base.is_own);
    let growing = match (own, left) {
        (Some(base), Some(left)) => Some(grown(work, &left.manifest, base)?),
        (Some(base), None) => return Err(ReceiveError::Base(StoreError::Missing(base.manifest.image()))),
        (None, _) => None,
    };
    let record = parcel.delta.map(|delta| Record::new(parcel.base, delta));
    work.begin(record.as_ref(), own.map(|base| &base.manifest), growing.is_some()).map_err(io)?;
    let landing = Landing::new(work, record.is_some(), growing).map_err(io)?;
    let applied = with(base.as_ref(), |base| df_delta::apply(base, parcel.image, &mut landing.noting(input), &landing));
    name(layout, work, parcel.image, base.as_ref(), applied.map_err(ReceiveError::Delta)?, landing)
}

/// Receives the rest of a delta.
fn go_on(
    layout: &Layout,
    work: &Work,
    left: Option<Left>,
    parcel: &Parcel,
    input: &mut dyn Read,
) -> Result<Received, ReceiveError> {
    let io = |source| ReceiveError::Io { path: layout.incoming(), source };
    let is_it = |left: &Left| parcel.delta.map(|delta| Record::new(parcel.base, delta)) == Some(left.record);
    let Some(left) = left.filter(is_it) else { return Err(ReceiveError::Elsewhere { offset: 0 }) };
    let Some(last) = left.marks.iter().position(|mark| mark.offset == parcel.from) else {
        return Err(ReceiveError::Elsewhere { offset: left.offset() });
    };
    let marks = &left.marks[..=last];
    work.forget_marks(marks.len()).map_err(io)?;
    let base =
        parcel.base.map(|base| base::find(layout, base, Some((work, parcel.image)))).transpose().map_err(ReceiveError::Base)?;
    let growing = match base.as_ref().filter(|base| base.is_own) {
        Some(base) => grown(work, &left.manifest, base)?,
        None => Growing::in_old(&left.manifest, &work.tree()).map_err(ReceiveError::Export)?,
    };
    let landing = Landing::again(work, growing).map_err(io)?;
    let mut head = work.head().map_err(io)?;
    let applied =
        with(base.as_ref(), |base| df_delta::resume(base, parcel.image, Kept { head: &mut head, marks }, input, &landing));
    match applied {
        Err(ApplyError::NotKept { n_marks }) => {
            work.forget_marks(n_marks).map_err(io)?;
            let offset = n_marks.checked_sub(1).map_or(0, |last| marks[last].offset);
            Err(ReceiveError::Elsewhere { offset })
        }
        applied => name(layout, work, parcel.image, base.as_ref(), applied.map_err(ReceiveError::Delta)?, landing),
    }
}

/// Goes on with a tree that is its own base: all of the base's contents have to be right.
fn grown(work: &Work, manifest: &Manifest, base: &Base) -> Result<Growing, ReceiveError> {
    let growing = Growing::in_old(manifest, &work.tree()).map_err(ReceiveError::Export)?;
    growing.look_over();
    if base.manifest.blobs().iter().all(|(digest, _)| growing.has(*digest)) {
        Ok(growing)
    } else {
        Err(ReceiveError::Base(StoreError::Damaged(base.manifest.image())))
    }
}

/// Hands a base to a function that reads its blobs.
fn with<T>(base: Option<&Base>, run: impl FnOnce(Option<(&Manifest, ReadBlob<'_>)>) -> T) -> T {
    let read = |digest, offset, len| base.ok_or(io::ErrorKind::NotFound)?.contents.read(digest, offset, len);
    run(base.map(|base| (&base.manifest, &read as ReadBlob<'_>)))
}

/// Completes the tree and gives it its name.
fn name(
    layout: &Layout,
    work: &Work,
    image: ImageId,
    base: Option<&Base>,
    applied: Applied,
    landing: Landing<'_>,
) -> Result<Received, ReceiveError> {
    landing.finish(&Sources(base.map(|base| &base.contents))).map_err(ReceiveError::Export)?;
    store::adopt(layout, image, &applied.manifest, &work.tree())
        .map_err(|source| ReceiveError::Io { path: layout.image(image), source })?;
    Ok(Received { reused: applied.reused_len })
}

/// Returns an error when there is certainly no room for an image.
///
/// # Errors
/// Fewer bytes are free than must be written, or the file system does not say.
pub fn check_room(layout: &Layout, needed: u64) -> Result<(), ReceiveError> {
    let stat = rustix::fs::statvfs(&layout.root)
        .map_err(|error| ReceiveError::Io { path: layout.root.clone(), source: error.into() })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed > free { Err(ReceiveError::NoRoom { needed, free }) } else { Ok(()) }
}

/// Where the bytes of the new image lie that did not come: in the base.
struct Sources<'a>(Option<&'a Contents>);

impl Blobs for Sources<'_> {
    fn blob(&self, digest: Digest) -> io::Result<Bytes> {
        let held = self.0.and_then(|base| base.any(digest)).ok_or(io::ErrorKind::NotFound)?;
        Ok(Bytes::File(held))
    }

    fn twin(&self, digest: Digest, executable: bool) -> Option<PathBuf> {
        self.0?.exact(digest, executable)
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn what_was_damaged_meanwhile_comes_again() {
        let (_dir, layout) = fixture::layout();
        let v1 = three(1);
        let bytes = delta(None, &v1);
        let sent = Sent::new(&layout, None, &v1, &bytes);
        let damage: [(&str, &str, fn(&std::path::Path)); 6] = [
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
}
