//! Packs of which little is used are written again: what of them lives goes into new packs, as it is stored, and they are condemned.

use std::collections::{HashMap, HashSet};

use df_core::Digest;

use super::super::S3Store;
use super::super::failure::BucketError;
use super::super::format::name::{Reference, Space};
use super::super::format::pack::{self, PACK_LEN, Piece};
use super::super::format::segment::Segment;
use super::super::format::slot::{DEPTH, Slot};
use super::super::index::Index;
use super::super::swap::{Change, Plan, Run};
use super::super::upload::{Fill, Sent};
use crate::store::{PutError, ReadError};

/// What was written again, and from which packs.
#[derive(Default)]
struct Moved {
    from: HashSet<Reference>,
    to: Vec<Sent>,
}

impl S3Store {
    /// Writes half-dead packs again, in one commit; returns the bytes that are free because of it.
    pub(super) fn repack(&self) -> Result<u64, PutError> {
        let (mut moved, mut bad) = (Moved::default(), HashSet::new());
        self.commit(|view, run| {
            let index = self.index(view)?;
            let rows = by_pack(&index);
            let chosen: Vec<Reference> =
                rows.iter().filter(|(pack, slots)| is_wasteful(pack, slots)).map(|(pack, _)| *pack).collect();
            let chosen: Vec<Reference> = chosen.into_iter().filter(|pack| !bad.contains(pack)).collect();
            if chosen.is_empty() {
                return Ok(Plan::Leave(0));
            }
            if !moved.covers(&chosen, &rows, view.head.fence) {
                moved = self.move_out(run, &index, &chosen, &rows, &mut bad)?;
            }
            let stays = rows.iter().filter(|(pack, _)| !moved.from.contains(pack));
            let whole = stays.map(|(pack, slots)| (*pack, slots.clone())).chain(moved.to.iter().cloned());
            let free: u64 = moved.from.iter().map(|pack| u64::from(pack.len)).sum::<u64>();
            let used: u64 = moved.to.iter().map(|(pack, _)| u64::from(pack.len)).sum::<u64>();
            if moved.from.is_empty() {
                return Ok(Plan::Leave(0));
            }
            let change = Change {
                index: Some(vec![Segment::new(whole)]),
                condemned: Some(self.condemned(&view.head)?.with(moved.from.iter().copied(), self.options.now)),
                fence: Some(view.head.sequence),
                ..Change::default()
            };
            Ok::<_, PutError>(Plan::Commit(Box::new(change), free.saturating_sub(used)))
        })
    }

    /// Copies what lives in some packs into new ones, each piece checked. A pack with a bad piece stays where it is and goes to `bad`: a repair looks after it.
    fn move_out(
        &self,
        run: &Run,
        index: &Index,
        chosen: &[Reference],
        rows: &HashMap<Reference, Vec<Slot>>,
        bad: &mut HashSet<Reference>,
    ) -> Result<Moved, PutError> {
        let (mut moved, mut open, mut fill) = (Moved::default(), vec![], Fill::default());
        for source in chosen {
            match self.pieces_of(index, source, &rows[source])? {
                None => drop(bad.insert(*source)),
                Some(pieces) => {
                    moved.from.insert(*source);
                    for piece in pieces {
                        if fill.add(piece.stored.len() as u64, piece.slot.part_len() as u64) {
                            moved.to.extend(self.write_pack(run, std::mem::take(&mut open))?);
                        }
                        open.push(piece);
                    }
                }
            }
        }
        moved.to.extend(self.write_pack(run, open)?);
        Ok(moved)
    }

    /// Reads the pieces of a pack that live; nothing when one of them is not what its row says, or the pack is gone.
    fn pieces_of(&self, index: &Index, source: &Reference, slots: &[Slot]) -> Result<Option<Vec<Piece>>, PutError> {
        let Some(bytes) = self.get_object_as_it_is(&source.name.key(Space::Pack), source)? else { return Ok(None) };
        let mut pieces = vec![];
        for slot in slots {
            let Some(stored) = bytes.get(slot.offset as usize..(slot.offset + slot.stored) as usize) else { return Ok(None) };
            match self.decode(index, slot, stored, DEPTH) {
                Err(ReadError::Damaged { .. }) => return Ok(None),
                result => drop(result.map_err(std::io::Error::from)?),
            }
            pieces.push(Piece { slot: slot.clone(), stored: stored.to_vec() });
        }
        Ok(Some(pieces))
    }

    fn write_pack(&self, run: &Run, mut pieces: Vec<Piece>) -> Result<Option<Sent>, BucketError> {
        // A piece that lay in two packs lies in one now.
        let mut seen: HashSet<(Digest, u32)> = HashSet::new();
        pieces.retain(|piece| seen.insert((piece.slot.digest, piece.slot.part)));
        if pieces.is_empty() {
            return Ok(None);
        }
        let (bytes, slots) = pack::pack(pieces);
        let name = run.name();
        let len = u32::try_from(bytes.len()).expect("packs stay below 64 MiB");
        let reference = Reference { name, len, digest: Digest::of(&bytes) };
        self.write_once(&name.key(Space::Pack), &bytes.into())?;
        Ok(Some((reference, slots)))
    }
}

impl Moved {
    /// Returns whether this, made for another head, is all that is to be done for one with these rows and this fence.
    fn covers(&self, chosen: &[Reference], rows: &HashMap<Reference, Vec<Slot>>, fence: u64) -> bool {
        let held: HashSet<(Digest, u32)> =
            self.to.iter().flat_map(|(_, slots)| slots).map(|slot| (slot.digest, slot.part)).collect();
        let same = self.from.len() == chosen.len() && chosen.iter().all(|pack| self.from.contains(pack));
        let usable = self.to.iter().all(|(pack, _)| pack.name.session.began > fence);
        let all = chosen.iter().flat_map(|pack| &rows[pack]).all(|slot| held.contains(&(slot.digest, slot.part)));
        same && usable && all && !self.to.is_empty()
    }
}

/// Returns every pack with all its rows, once.
pub(crate) fn by_pack(index: &Index) -> HashMap<Reference, Vec<Slot>> {
    index.rows().fold(HashMap::new(), |mut all, (pack, slots)| {
        all.entry(pack).or_insert_with(Vec::new).extend(slots);
        all
    })
}

/// Returns whether less than half of a pack is used.
fn is_wasteful(pack: &Reference, slots: &[Slot]) -> bool {
    let mut seen = HashSet::new();
    let used: u64 = slots.iter().filter(|slot| seen.insert(slot.offset)).map(|slot| u64::from(slot.stored)).sum();
    let footer = slots.len() as u64 * ROW_LEN;
    wastes(u64::from(pack.len), used + footer)
}

/// What a row takes in a footer, about.
const ROW_LEN: u64 = 64;

/// Says by its length and what is used of it whether a pack is written again. Each byte is then written again at most once for each byte that goes, and what is stored is at most
/// twice what lives.
fn wastes(len: u64, used: u64) -> bool {
    len <= PACK_LEN && used.saturating_mul(2) < len.saturating_sub(OVERHEAD)
}

/// What every pack has, however little is in it: moving that is no gain.
const OVERHEAD: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_written_again_when_less_than_half_of_it_is_used() {
        let mib = 1 << 20;
        for (len, used, expected) in [
            (32 * mib, 17 * mib, false),
            (32 * mib, 16 * mib, false),
            (32 * mib, 15 * mib, true),
            (32 * mib, 0, true),
            (300, 30, false),
            (100, 0, false),
            (2_000, 800, true),
            (PACK_LEN + 1, 0, false),
            (mib, u64::MAX, false),
        ] {
            assert_eq!(wastes(len, used), expected, "{used} of {len}");
        }
    }
}
