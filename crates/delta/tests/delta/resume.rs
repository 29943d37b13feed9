//! An apply that was cut goes on from the last mark, with what the sink kept; and finds what was damaged since.

use std::io::{self, Read};
use std::sync::LazyLock;

use df_core::Manifest;
use df_delta::{Applied, ApplyError, Level, Mark};

use crate::trees::{Blobs, Kept, Tree, encode, manifest, tree};

const MIB: usize = 1 << 20;

/// Bytes that pack well and differ everywhere.
fn lines(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 1000);
    for n in 0.. {
        if bytes.len() >= len {
            break;
        }
        bytes.extend_from_slice(format!("{n:016x}{seed:02x}{}", " and the same words again".repeat(20)).as_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Two files with pieces of their own, one that is cut in windows, and small ones that share a piece.
fn pair() -> (Tree, Tree) {
    let long = |first: u8| [vec![first], lines(1, 65 * MIB)].concat();
    let files =
        |first: u8| [("a", lines(first, 16 * MIB)), ("long", long(first)), ("s/1", vec![first; 9]), ("s/2", vec![first + 1; 9])];
    (tree(files(3)), tree(files(7)))
}

/// Ends with an error instead of an end, as a connection does.
struct Cut<'a>(&'a [u8]);

impl Read for Cut<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() && !out.is_empty() { Err(io::ErrorKind::ConnectionReset.into()) } else { self.0.read(out) }
    }
}

struct Case {
    base: Option<(Manifest, Blobs)>,
    target: Tree,
    manifest: Manifest,
    delta: Vec<u8>,
}

static WHOLE: LazyLock<Case> = LazyLock::new(|| Case::new(None, pair().1));

impl Case {
    fn new(base: Option<&Tree>, target: Tree) -> Self {
        let delta = encode(base, &target, Level::Fast).expect("encodes");
        let base = base.map(|base| (manifest(base), Blobs::of(base)));
        Self { base, manifest: manifest(&target), target, delta }
    }

    fn with_base<T>(&self, run: impl FnOnce(Option<(&Manifest, df_delta::ReadBlob<'_>)>) -> T) -> T {
        let read = |digest, offset, len| self.base.as_ref().expect("only with a base").1.read(digest, offset, len);
        run(self.base.as_ref().map(|(manifest, _)| (manifest, &read as df_delta::ReadBlob<'_>)))
    }

    /// Applies the first `len` bytes.
    fn begin(&self, sink: &Kept, len: usize) -> Result<Applied, ApplyError> {
        self.with_base(|base| df_delta::apply(base, self.manifest.image(), &mut Cut(&self.delta[..len]), sink))
    }

    /// Goes on from the last of these marks.
    fn go_on(&self, sink: &Kept, marks: &[Mark], to: usize) -> Result<Applied, ApplyError> {
        let (head, from) = (marks[0].offset as usize, marks[marks.len() - 1].offset as usize);
        let kept = df_delta::Kept { head: &mut &self.delta[..head], marks };
        self.with_base(|base| df_delta::resume(base, self.manifest.image(), kept, &mut Cut(&self.delta[from..to]), sink))
    }

    #[track_caller]
    fn is_complete(&self, sink: &Kept) {
        let (got, held) = (sink.got(), self.base.as_ref().map(|(base, _)| base.blobs()).unwrap_or_default());
        for (digest, _) in self.manifest.blobs().iter().filter(|blob| !held.contains(blob)) {
            assert!(got.blobs.contains_key(digest), "a blob is missing");
        }
        assert!(got.unfinished.is_none());
    }
}

fn marks(sink: &Kept) -> Vec<Mark> {
    sink.got().marks.clone()
}

/// Cuts at each of these distances from each mark, goes on, is cut again, and goes on to the end.
#[track_caller]
fn check(case: &Case, distances: &[isize]) {
    let whole = Kept::default();
    assert!(matches!(case.begin(&whole, case.delta.len()), Err(ApplyError::Input(_))), "the end is asked for");
    let all = marks(&whole);
    assert_eq!(all.len(), 1 + 1 + 3 + 1, "the head, a file, three windows, the small ones");
    assert_eq!(all[5].offset, case.delta.len() as u64);
    let around =
        |mark: &Mark| distances.iter().map(move |far| (mark.offset as usize).saturating_add_signed(*far)).collect::<Vec<_>>();
    for cut in all[..5].iter().flat_map(around) {
        let sink = Kept::default();
        assert!(matches!(case.begin(&sink, cut), Err(ApplyError::Input(_))), "cut at {cut}");
        let kept = marks(&sink);
        assert_eq!(kept, all.iter().filter(|mark| mark.offset <= cut as u64).copied().collect::<Vec<_>>(), "cut at {cut}");
        let Some(last) = kept.last() else { continue };
        let again = usize::midpoint(last.offset as usize, case.delta.len());
        assert!(matches!(case.go_on(&sink, &kept, again), Err(ApplyError::Input(_))), "cut at {cut}, then {again}");
        let kept = marks(&sink);
        let (mut head, mut rest) = (&case.delta[..kept[0].offset as usize], &case.delta[kept[kept.len() - 1].offset as usize..]);
        let resumed = case.with_base(|base| {
            df_delta::resume(base, case.manifest.image(), df_delta::Kept { head: &mut head, marks: &kept }, &mut rest, &sink)
        });
        assert_eq!(resumed.expect("goes on").manifest, case.manifest);
        case.is_complete(&sink);
    }
}

#[test]
fn whatever_the_place_of_the_cut_the_rest_makes_the_image() {
    check(&WHOLE, &[-1, 0, 1]);
}

#[test]
fn a_delta_goes_on_with_its_base() {
    let (old, new) = pair();
    check(&Case::new(Some(&old), new), &[1]);
}

type Damage = fn(&mut Vec<u8>);

#[test]
fn what_was_damaged_since_the_cut_is_found_and_the_mark_before_it_holds() {
    let case = &*WHOLE;
    let digest = |path: &str| df_core::Digest::of(&case.target[path]);
    // Pieces: a, long in three windows, the small ones.
    let damage: [(&str, Damage, usize); 4] = [
        ("a", |bytes| bytes[5] ^= 1, 1),
        ("a", |bytes| bytes.truncate(5), 1),
        ("long", |bytes| bytes[33 * MIB] ^= 1, 2),
        ("long", |bytes| bytes.truncate(33 * MIB), 2),
    ];
    let sink = Kept::default();
    let _ = case.begin(&sink, case.delta.len() - 1);
    let all = marks(&sink);
    for (path, damage, n_marks) in damage {
        // With the long file complete, and with two of its three windows.
        for n_kept in [5, 4] {
            let sink = Kept::default();
            let _ = case.begin(&sink, all[n_kept - 1].offset as usize);
            let mut got = sink.got();
            let bytes = match &mut got.unfinished {
                Some((unfinished, bytes)) if *unfinished == digest(path) => bytes,
                _ => got.blobs.get_mut(&digest(path)).expect("complete"),
            };
            damage(bytes);
            drop(got);
            let error = case.go_on(&sink, &all[..n_kept], case.delta.len()).expect_err("damaged");
            assert!(matches!(error, ApplyError::NotKept { n_marks: found } if found == n_marks), "{path}, {n_kept}: {error:?}");
            assert!(!error.is_damaged(), "the delta is good");
        }
    }
}

#[test]
fn marks_and_a_head_that_do_not_fit_hold_nothing() {
    let case = Case::new(None, tree([("a", lines(1, 17 * MIB)), ("b", lines(2, 17 * MIB))]));
    let sink = Kept::default();
    let _ = case.begin(&sink, case.delta.len() - 1);
    let all = marks(&sink);
    assert_eq!(all.len(), 2);
    let go_on = |head: &[u8], marks: &[Mark]| {
        let kept = df_delta::Kept { head: &mut &*head, marks };
        let image = case.manifest.image();
        df_delta::resume(None, image, kept, &mut io::empty(), &sink).expect_err("does not fit")
    };
    let head = &case.delta[..all[0].offset as usize];
    for (head, marks) in [
        (head, &[][..]),
        (&head[..head.len() - 1], &all[..]),
        (&[head, b"x"].concat()[..], &[Mark { offset: all[0].offset + 1, ..all[0] }][..]),
        (head, &[all[0], all[1], all[1], all[1]]),
    ] {
        assert!(matches!(go_on(head, marks), ApplyError::NotKept { n_marks: 0 }));
    }
    // A mark within a blob where the plan has none.
    let lying = [all[0], Mark { unfinished: Some((5, df_core::Digest::of(b"x"))), ..all[1] }];
    assert!(matches!(go_on(head, &lying), ApplyError::Damaged(_)), "it means nothing there, and the rest is missing");
}
