//! Which old bytes each new byte may be made of. Pure: both sides compute it from the two manifests, and get the same.

use std::collections::{HashMap, HashSet};

use df_core::{Digest, Kind, Manifest};

mod content;
mod cut;
mod pair;
mod resemble;
mod sketch;

pub use content::pairs;
pub(crate) use cut::window;
pub use pair::Pair;

/// A part of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The file's content.
    pub digest: Digest,
    /// Where in it.
    pub offset: u64,
    /// How much of it.
    pub len: u64,
}

/// A stretch of new bytes and the stretch of old ones that it is packed against; each at most 64 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Slices of the base's files, one after the other; none when nothing resembles the target.
    pub base: Vec<Slice>,
    /// Slices of the target's files, one after the other.
    pub target: Vec<Slice>,
    /// For each slice of the target, the place in `base` of the slice that it was paired with; `None` when it was paired with nothing, or with several.
    pub paired: Vec<Option<u32>>,
}

/// What a delta holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In the order they are sent. Together they hold each blob that the base lacks once, whole and in order.
    pub pieces: Vec<Piece>,
    /// Bytes of distinct blobs that both images hold; they do not travel.
    pub reused_len: u64,
    /// Bytes of distinct blobs that only the target holds.
    pub new_len: u64,
}

/// What of a target a base would save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resemblance {
    /// Bytes of distinct blobs that the base holds.
    pub reused: u64,
    /// Bytes in pieces that have a base.
    pub changed: u64,
    /// Bytes in pieces that have none.
    pub fresh: u64,
    /// Bytes of the largest piece.
    pub largest: u64,
    /// About so many bytes are new: all of a file that resembles nothing, an eighth of one with the same path, more of one whose name is only alike.
    pub expected: u64,
}

impl Plan {
    /// Returns the base of each piece that has one: what a receiver is asked to sign, one signature each.
    pub fn stretches(&self) -> impl Iterator<Item = &[Slice]> {
        self.pieces.iter().map(|piece| &piece.base[..]).filter(|base| !base.is_empty())
    }
}

impl Piece {
    /// Returns the bytes of its base.
    pub fn base_len(&self) -> u64 {
        self.base.iter().map(|slice| slice.len).sum()
    }

    /// Returns the bytes of its target.
    pub fn target_len(&self) -> u64 {
        self.target.iter().map(|slice| slice.len).sum()
    }
}

/// Decides what travels, and against which old bytes.
///
/// Blobs that both manifests hold are left out. Each other one, in the order of the target's manifest, is paired with the base's file of the same path; else of
/// the same path without digits, so that version numbers do not matter; else of the same name and about the same length; else of a similar name; else of the same
/// extension and nearly the same length; else with whatever is left in the base that nothing else wants. `pairs` come before all of that: the sender compared
/// contents. Those of blobs that do not travel, and those that name no blob, mean nothing.
///
/// Small files share a piece, so that what moved between them costs nothing, those that look like programs by their names apart from the others; those of
/// 16 MiB and more have one each, and those of 64 MiB and more are cut in windows of 32 MiB, each against 64 MiB around the proportional place of the old.
///
/// Takes O(n log n) of the entries of both.
pub fn plan(base: Option<&Manifest>, target: &Manifest, pairs: &[Pair]) -> Plan {
    let held = held(base);
    let (reused, new): (Vec<_>, Vec<_>) = target.blobs().into_iter().partition(|(digest, _)| held.contains(digest));
    let total = |blobs: &[(Digest, u64)]| blobs.iter().map(|(_, len)| len).sum();
    Plan { pieces: cut::pieces(&pair::pair(base, target, &held, pairs)), reused_len: total(&reused), new_len: total(&new) }
}

/// Judges by names and lengths alone what of the target a base would save: for choosing among bases.
pub fn resemblance(base: &Manifest, target: &Manifest) -> Resemblance {
    let held = held(Some(base));
    let plan = plan(Some(base), target, &[]);
    let with_base = plan.pieces.iter().filter(|piece| !piece.base.is_empty());
    let changed = with_base.map(Piece::target_len).sum();
    Resemblance {
        reused: plan.reused_len,
        changed,
        fresh: plan.new_len - changed,
        largest: plan.pieces.iter().map(Piece::target_len).max().unwrap_or(0),
        expected: pair::expected_new(base, target, &held),
    }
}

fn held(base: Option<&Manifest>) -> HashSet<Digest> {
    base.map(|base| base.blobs().into_iter().map(|(digest, _)| digest).collect()).unwrap_or_default()
}

/// Returns a blob that is listed with two lengths, in one manifest or between the two. No tree has one; a plan of such lists makes no sense.
pub(crate) fn two_lengths(base: Option<&Manifest>, target: &Manifest) -> Option<Digest> {
    let mut lens = HashMap::new();
    base.into_iter().chain([target]).flat_map(Manifest::entries).find_map(|entry| match entry.kind {
        Kind::File { len, digest, .. } if *lens.entry(digest).or_insert(len) != len => Some(digest),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_core::Entry;

    const MIB: u64 = 1 << 20;

    /// A manifest of `path length content-name` lines; directories are added.
    fn manifest(files: &[(&str, u64, &str)]) -> Manifest {
        let mut entries = Vec::new();
        let mut directories = HashSet::new();
        for &(path, len, content) in files {
            let parts: Vec<&str> = path.split('/').collect();
            for n in 1..parts.len() {
                if directories.insert(parts[..n].join("/")) {
                    entries.push(Entry { path: parts[..n].join("/").parse().expect("a path"), kind: Kind::Directory });
                }
            }
            let kind = Kind::File { executable: false, len, digest: Digest::of(content.as_bytes()) };
            entries.push(Entry { path: path.parse().expect("a path"), kind });
        }
        Manifest::new(entries).expect("a tree")
    }

    /// Shows pieces as `base slices > target slices`, each content by name, with its stretch in MiB when it is not whole.
    #[track_caller]
    fn check(base: &[(&str, u64, &str)], target: &[(&str, u64, &str)], expected: &[&str]) {
        let names: HashMap<Digest, (&str, u64)> =
            base.iter().chain(target).map(|&(_, len, content)| (Digest::of(content.as_bytes()), (content, len))).collect();
        let show = |slices: &[Slice]| {
            let one = |slice: &Slice| match names[&slice.digest] {
                (name, len) if (slice.offset, slice.len) == (0, len) => name.to_owned(),
                (name, _) => format!("{name}[{}+{}]", slice.offset / MIB, slice.len / MIB),
            };
            slices.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        let plan = plan(Some(&manifest(base)), &manifest(target), &[]);
        let shown: Vec<String> =
            plan.pieces.iter().map(|piece| format!("{} > {}", show(&piece.base), show(&piece.target))).collect();
        assert_eq!(shown, expected);
        for piece in &plan.pieces {
            assert!(piece.base_len() <= crate::format::BASE_LEN && piece.target_len() <= crate::format::TARGET_LEN);
        }
        assert_eq!(plan.new_len, plan.pieces.iter().map(Piece::target_len).sum::<u64>());
    }

    #[test]
    fn what_both_hold_does_not_travel_whatever_its_name() {
        check(&[("a", 9, "x"), ("b", 9, "y")], &[("c/d", 9, "x"), ("e", 9, "y"), ("f", 9, "x")], &[]);
    }

    #[test]
    fn equal_new_files_travel_once() {
        check(&[], &[("a", 9, "x"), ("b", 9, "x"), ("c", 9, "y")], &[" > x y"]);
    }

    #[test]
    fn the_same_path_comes_first_then_the_same_but_for_digits() {
        check(
            &[("bin/a", 900, "a"), ("lib/foo-1.2.js", 900, "foo1"), ("lib/bar-1.js", 900, "bar1")],
            &[("bin/a", 900, "A"), ("lib/bar-2.js", 900, "bar2"), ("lib/foo-1.10.js", 900, "foo2")],
            &["a bar1 foo1 > A bar2 foo2"],
        );
    }

    #[test]
    fn of_files_with_one_name_the_nearest_in_length_is_taken() {
        check(
            &[
                ("a/index.js", 1000, "large"),
                ("b/index.js", 100, "small"),
                ("c/index.js", 990, "kept"),
                ("d/index.js", 2000, "huge"),
            ],
            &[("c/index.js", 990, "kept"), ("e/index.js", 996, "new")],
            &["large > new"],
        );
    }

    #[test]
    fn similar_names_and_extensions_count_when_lengths_are_near() {
        check(
            &[("js/app-3f2a.js", 900, "old"), ("x", 5000, "x")],
            &[("assets/app-9b1c.js", 1000, "new"), ("x", 5000, "x")],
            &["old > new"],
        );
        check(
            &[("a/one.rs", 1000, "one"), ("b", 10, "b")],
            &[("a/one.rs", 1000, "one"), ("a/two.rs", 1050, "two"), ("b", 10, "b")],
            &["one > two"],
        );
        check(
            &[("a/one.rs", 1000, "one"), ("b", 10, "b")],
            &[("a/one.rs", 1000, "one"), ("a/two.rs", 1500, "two"), ("b", 10, "b")],
            &[" > two"],
        );
    }

    #[test]
    fn what_nothing_else_wants_is_better_than_nothing() {
        check(
            &[("alpha", 700, "p"), ("beta", 100, "q"), ("k", 9, "k")],
            &[("k", 9, "k"), ("z/gamma.txt", 1200, "new")],
            &["p q > new"],
        );
    }

    #[test]
    fn small_files_share_a_piece_and_large_ones_have_their_own() {
        check(
            &[("a", MIB, "a"), ("b", 20 * MIB, "b"), ("c", MIB, "c")],
            &[("a", MIB, "A"), ("b", 20 * MIB, "B"), ("c", MIB, "C")],
            &["b > B", "a c > A C"],
        );
    }

    #[test]
    fn pieces_of_small_files_are_closed_when_full() {
        let old: Vec<_> = [("a", "a"), ("b", "b"), ("c", "c")].map(|(path, content)| (path, 15 * MIB, content)).into();
        let new: Vec<_> = [("a", "A"), ("b", "B"), ("c", "C")].map(|(path, content)| (path, 15 * MIB, content)).into();
        check(&old, &new, &["a b > A B", "c > C"]);
    }

    #[test]
    fn pieces_are_closed_when_their_bases_are_full() {
        check(&[("a", 60 * MIB, "a"), ("b", 60 * MIB, "b")], &[("a", 15 * MIB, "A"), ("b", 15 * MIB, "B")], &["a > A", "b > B"]);
    }

    #[test]
    fn huge_files_are_cut_in_windows_against_the_proportional_place() {
        check(
            &[("disk", 200 * MIB, "old")],
            &[("disk", 100 * MIB, "new")],
            &["old[0+64] > new[0+32]", "old[64+64] > new[32+32]", "old[128+64] > new[64+32]", "old[183+16] > new[96+4]"],
        );
    }

    #[test]
    fn a_small_file_does_not_drag_a_huge_one_in() {
        check(&[("log", 200 * MIB, "old")], &[("log", MIB, "new")], &["old[97+4] > new"]);
    }

    #[test]
    fn empty_files_travel_and_help_nobody() {
        check(&[("a", 0, "")], &[("a", 5, "x")], &[" > x"]);
        check(&[("a", 5, "x")], &[("a", 0, "")], &[" > "]);
    }

    #[test]
    fn programs_do_not_share_pieces_with_the_rest() {
        check(
            &[("a.py", 9, "a"), ("b.cpython-311.so", 9, "b"), ("c.py", 9, "c"), ("libd.so.1", 9, "d")],
            &[("a.py", 9, "A"), ("b.cpython-311.so", 9, "B"), ("c.py", 9, "C"), ("libd.so.1", 9, "D")],
            &["b d > B D", "a c > A C"],
        );
    }

    #[test]
    fn what_the_sender_found_comes_before_names_and_nonsense_means_nothing() {
        let base = manifest(&[("a", 900, "a"), ("b", 900, "b"), ("empty", 0, ""), ("kept", 9, "k")]);
        let target = manifest(&[("a", 900, "A"), ("b", 900, "B"), ("c", 900, "C"), ("kept", 9, "k")]);
        let pair = |target, base| Pair { target, base };
        let paired = |pairs: &[Pair]| {
            let pieces = plan(Some(&base), &target, pairs).pieces;
            assert_eq!(pieces.len(), 1);
            let name = |place: u32| base.blobs().iter().position(|(digest, _)| *digest == pieces[0].base[place as usize].digest);
            pieces[0].paired.iter().map(|place| place.and_then(name)).collect::<Vec<_>>()
        };
        assert_eq!(paired(&[]), [Some(0), Some(1), None]);
        assert_eq!(paired(&[pair(0, 1), pair(2, 0)]), [Some(1), Some(1), Some(0)]);
        assert_eq!(paired(&[pair(3, 0), pair(9, 0), pair(0, 9), pair(0, 2)]), [Some(0), Some(1), None]);
    }

    #[test]
    fn the_base_that_saves_most_is_expected_to() {
        let target = manifest(&[("bin/a", 1000, "A"), ("data", 5000, "d")]);
        let expected = |files: &[_]| resemblance(&manifest(files), &target).expected;
        let (other, digits) = (expected(&[("x", 1000, "x")]), expected(&[("bin/a2", 1000, "a")]));
        let (same, data, longer) = (
            expected(&[("bin/a", 1000, "a")]),
            expected(&[("bin/a", 1000, "a"), ("q", 5000, "d")]),
            expected(&[("bin/a", 600, "a")]),
        );
        assert_eq!((other, digits, same, data, longer), (6000, 5125, 5125, 125, 5475));
        let judged = resemblance(&manifest(&[("bin/a", 1000, "a"), ("q", 5000, "d")]), &target);
        assert_eq!((judged.reused, judged.changed, judged.fresh, judged.largest), (5000, 1000, 0, 1000));
    }

    #[test]
    fn a_blob_of_two_lengths_is_found() {
        let (a, b) = (manifest(&[("a", 5, "x")]), manifest(&[("b", 6, "x")]));
        assert_eq!(two_lengths(Some(&a), &b), Some(Digest::of(b"x")));
        assert_eq!(two_lengths(Some(&a), &a), None);
    }
}
