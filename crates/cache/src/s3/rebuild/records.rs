//! What the log says of a head that is lost.
//!
//! That a record is there does not mean that its head ever was. Of the newest sequence there may be several: one commit made the head, others lost, or none did and its writer died. What
//! none of them condemned and any of them names is kept; so nothing that was acknowledged is lost as long as what they name can be read, and where it cannot, what is lost is said.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Parts;
use super::redo::Redo;
use crate::blobs::Blobs;
use crate::s3::S3Store;
use crate::s3::failure::BucketError;
use crate::s3::format::FormatError;
use crate::s3::format::condemned::Condemned;
use crate::s3::format::head::{Head, SEQUENCE};
use crate::s3::format::log::{LOG_LEN, Record};
use crate::s3::format::name::{Name, Owner, Space, Txid, log_key, owner};
use crate::s3::format::roots::{ImageRow, Roots};
use crate::s3::format::segment::Segment;
use crate::s3::index::Index;
use crate::s3::objects::ObjectError;
use crate::s3::swap::{Run, head_key};
use crate::scrub::Repaired;
use crate::store::PutError;

/// The records that are in the bucket, by name; the newest first.
pub(super) struct Records(Vec<(u64, Txid)>);

impl Records {
    /// Returns whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the newest record that can be read, and its sequence: of one of these caches when there is one, because a cache that was begun where another one was leaves the other's
    /// records, which may have counted further.
    pub(super) fn newest(&self, store: &S3Store, caches: &[[u8; 16]]) -> Result<Option<(u64, Record)>, BucketError> {
        let mut of_any = None;
        for &(sequence, txid) in &self.0 {
            let Some(record) = store.record(sequence, txid)? else { continue };
            if caches.is_empty() || caches.contains(&record.head.cache) {
                return Ok(Some((sequence, record)));
            }
            of_any = of_any.or(Some((sequence, record)));
        }
        // What says which cache it was is damaged at both places.
        Ok(of_any)
    }

    /// Returns the commits after one of which a record is there and cannot be read.
    pub(super) fn unreadable_after(&self, store: &S3Store, sequence: u64) -> Result<Vec<u64>, BucketError> {
        let mut unreadable = vec![];
        for &(later, txid) in self.0.iter().filter(|(later, _)| *later > sequence) {
            unreadable.extend(store.record(later, txid)?.is_none().then_some(later));
        }
        Ok(unreadable)
    }
}

impl S3Store {
    /// Lists the log.
    pub(super) fn records(&self) -> Result<Records, BucketError> {
        let mut records: Vec<(u64, Txid)> = self
            .list("log/")?
            .iter()
            .filter_map(|key| match owner(key)? {
                Owner::Log(sequence, txid) if sequence <= SEQUENCE => Some((sequence, txid)),
                _ => None,
            })
            .collect();
        records.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Records(records))
    }

    /// Reads a record; nothing when it is damaged or gone.
    fn record(&self, sequence: u64, txid: Txid) -> Result<Option<Record>, BucketError> {
        let key = log_key(sequence, txid);
        match self.objects.get(&key, LOG_LEN) {
            Ok(object) => match Record::decode(&object.bytes) {
                Err(FormatError::NEWER) => Err(BucketError::Newer { key }),
                read => Ok(read.ok().filter(|record| record.key() == key)),
            },
            Err(ObjectError::Absent { .. } | ObjectError::TooLong { .. } | ObjectError::Malformed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the heads that other records of the same moment would have made: nothing says which of all was the last.
    pub(super) fn heads_beside(&self, newest: &Head) -> Result<Vec<Head>, BucketError> {
        let mut heads = vec![];
        for (sequence, txid) in self.records()?.0.into_iter().filter(|(sequence, _)| *sequence == newest.sequence) {
            let other = self.record(sequence, txid)?.map(|record| record.head);
            heads.extend(other.filter(|head| head.cache == newest.cache && head != newest));
        }
        Ok(heads)
    }

    /// Returns the newest root table that can be read, with what the records of later commits and another copy say of what came after it.
    pub(super) fn older_roots(
        &self,
        head: &Head,
        index: &Index,
        run: &Run,
        source: &dyn Blobs,
        said: &mut Repaired,
    ) -> Result<Roots, PutError> {
        let (first, roots, since) = self.last_table(head)?;
        said.rebuilt.push(format!("the root table, as it was after commit {first} of {}", head.sequence));
        let mut redo = Redo::new(roots, index, source);
        since.iter().rev().try_for_each(|record| redo.commit(record))?;
        said.rebuilt.extend(redo.doubts());
        said.gone.extend(redo.lost());
        let n_known = since.iter().map(|record| record.head.sequence).collect::<BTreeSet<_>>().len() as u64;
        match (head.sequence - first).saturating_sub(n_known) {
            0 => {}
            n => said.gone.push(format!("what {n} commits after commit {first} did is lost: their records are gone too")),
        }
        said.gone.push(format!(
            "pins and leases since commit {first} are not known, nor documents that no other copy has: pin and attach again what is missing"
        ));
        let mut roots = redo.roots;
        self.take_documents(&mut roots, run, source)?;
        Ok(roots)
    }

    /// Returns the newest root table that can be read and its commit, and the records of later ones, the newest first.
    fn last_table(&self, head: &Head) -> Result<(u64, Roots, Vec<Record>), BucketError> {
        let (mut since, mut known) = (Vec::<Record>::new(), head.clone());
        for (sequence, txid) in self.records()?.0 {
            // Each commit remembers those before it; of one that none remembers a record that is there is believed.
            if sequence > head.sequence || known.txid_of(sequence).is_some_and(|it| it != txid) {
                continue;
            }
            let Some(record) = self.record(sequence, txid)?.filter(|record| record.head.cache == head.cache) else { continue };
            match self.roots_of(&record.head) {
                Ok(roots) => return Ok((sequence, (*roots).clone(), since)),
                Err(BucketError::Damaged { .. } | BucketError::Gone { .. }) => {
                    known = record.head.clone();
                    since.push(record);
                }
                Err(error) => return Err(error),
            }
        }
        // The first head names nothing, and every commit after it is known.
        if since.len() as u64 == head.sequence - 1 {
            return Ok((1, Roots::default(), since));
        }
        let key = head.roots.map_or_else(head_key, |roots| roots.name.key(Space::Table));
        Err(BucketError::Damaged { key, source: FormatError("it is lost, and so are all before it") })
    }
}

/// Returns what either of two commits names and neither condemned.
pub(super) fn join(one: Parts, other: Parts) -> Parts {
    let condemned = other.condemned.0.into_iter().fold(one.condemned, |all: Condemned, (pack, since)| all.with([pack], since));
    let gone: HashSet<Name> = condemned.0.iter().map(|(pack, _)| pack.name).collect();
    let rows =
        one.segments.iter().chain(&other.segments).flat_map(Segment::by_pack).filter(|(pack, _)| !gone.contains(&pack.name));
    let segments = vec![Segment::new(rows)];
    Parts { roots: join_roots(one.roots, other.roots), segments, condemned }
}

fn join_roots(mut one: Roots, other: Roots) -> Roots {
    for (image, row) in other.images {
        let known = one.images.entry(image).or_insert(row);
        *known = ImageRow { whole: known.whole || row.whole, ..*known };
    }
    one.pins.extend(other.pins);
    one.leases.extend(other.leases);
    let mut releases: BTreeMap<_, _> = BTreeMap::new();
    for row in one.releases.into_iter().chain(other.releases) {
        let key = (row.stored.sequence, row.stored.id);
        let documents = row.documents.clone();
        releases.entry(key).or_insert(row).documents.extend(documents);
    }
    // Two may have taken the same number; the same release has the later one only.
    let mut rows = vec![];
    for row in releases.into_values() {
        rows.retain(|known: &crate::s3::format::roots::ReleaseRow| known.stored.id != row.stored.id);
        rows.push(row);
    }
    let mut last = 0;
    for row in &mut rows {
        row.stored.sequence = row.stored.sequence.max(last + 1);
        last = row.stored.sequence;
    }
    one.sequence = one.sequence.max(other.sequence).max(last);
    one.releases = rows;
    one
}

#[cfg(test)]
mod tests {
    use df_core::{Digest, ImageId, Timestamp};

    use super::*;
    use crate::contract::release;

    #[test]
    fn what_either_of_two_commits_put_is_kept_in_order() {
        let image = |n: u8| ImageId(Digest::of(&[n]));
        let mut old = Roots::default();
        old.put_release(&release("a", 1, image(1)), Timestamp(1));
        let (mut one, mut other) = (old.clone(), old);
        one.put_release(&release("a", 2, image(2)), Timestamp(2));
        other.put_release(&release("b", 3, image(3)), Timestamp(2));
        other.put_release(&release("a", 1, image(1)), Timestamp(3));
        other.images.insert(image(3), ImageRow { stored: Timestamp(2), manifest_len: 9, whole: true });
        for joined in [join_roots(one.clone(), other.clone()), join_roots(other, one)] {
            assert_eq!(Roots::decode(&joined.encode()), Ok(joined.clone()));
            let mut ids: Vec<_> = joined.releases.iter().map(|row| row.stored.release.image).collect();
            assert_eq!(ids.pop(), Some(image(1)));
            ids.sort_unstable();
            let mut expected = vec![image(2), image(3)];
            expected.sort_unstable();
            assert_eq!(ids, expected);
            assert!(joined.images.contains_key(&image(3)));
        }
    }
}
