//! What the log says of a head that is lost.
//!
//! That a record is there does not mean that its head ever was. Of the newest sequence there may be several: one commit made the head, others lost, or none did and its writer died. What
//! none of them condemned and any of them names is kept; so nothing that was acknowledged is lost.

use std::collections::{BTreeMap, HashSet};

use super::Parts;
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
use crate::s3::swap::head_key;
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
            Ok(object) => Ok(Record::decode(&object.bytes).ok().filter(|record| record.key() == key)),
            Err(ObjectError::Absent { .. } | ObjectError::TooLong { .. } | ObjectError::Malformed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns what the newest records lead to, those of one sequence all of whose objects can be read; none when there are none.
    pub(super) fn joined_parts(&self, newest: &Head, words: &mut Vec<String>) -> Result<Option<Parts>, BucketError> {
        let records = self.records()?;
        let mut found: Vec<(u64, Parts)> = vec![];
        for &(sequence, txid) in &records.0 {
            if found.last().is_some_and(|(first, _)| *first != sequence) {
                break;
            }
            let record = self.record(sequence, txid)?.filter(|record| record.head.cache == newest.cache);
            let parts = record.map(|record| self.whole_parts(&record.head)).transpose()?.flatten();
            found.extend(parts.map(|parts| (sequence, parts)));
        }
        let Some(&(sequence, _)) = found.first() else { return Ok(None) };
        if sequence < newest.sequence {
            words.push(format!("commits after {sequence} are lost: nothing of them can be read"));
        }
        if found.len() > 1 {
            words.push(format!(
                "what {} commits of one moment name, because nothing says which of them was the last",
                found.len()
            ));
        }
        Ok(found.into_iter().map(|(_, parts)| parts).reduce(join))
    }

    /// Returns the newest root table that can be read, with what the records of later commits say: images by what the index has of them, releases from another copy, because a record
    /// only names them.
    pub(super) fn older_roots(
        &self,
        head: &Head,
        index: &Index,
        source: &dyn Blobs,
        words: &mut Vec<String>,
    ) -> Result<Roots, PutError> {
        let mut since = vec![];
        let of_head =
            |sequence: u64, txid: Txid| sequence <= head.sequence && head.txid_of(sequence).is_none_or(|known| known == txid);
        for (sequence, txid) in self.records()?.0.into_iter().filter(|&(sequence, txid)| of_head(sequence, txid)) {
            let record = self.record(sequence, txid)?.filter(|record| record.head.cache == head.cache);
            let Some(record) = record else { continue };
            match self.roots_of(&record.head) {
                Ok(roots) => {
                    words.push(format!("the root table, as it was after commit {sequence} of {}", head.sequence));
                    let mut roots = (*roots).clone();
                    since.iter().rev().for_each(|record| redo(&mut roots, record, index, source, words));
                    return Ok(roots);
                }
                Err(BucketError::Damaged { .. } | BucketError::Gone { .. }) => since.push(record),
                Err(error) => return Err(error.into()),
            }
        }
        let key = head.roots.map_or_else(head_key, |roots| roots.name.key(Space::Table));
        Err(BucketError::Damaged { key, source: FormatError("it is lost, and so are all before it") }.into())
    }
}

/// Does to a root table what a later commit did, as far as its record and another copy say, and says what they do not.
fn redo(roots: &mut Roots, record: &Record, index: &Index, source: &dyn Blobs, words: &mut Vec<String>) {
    roots.images.retain(|image, _| !record.images_removed.contains(image));
    for image in &record.images_added {
        match index.find(image.0, None) {
            // Whether all of it is whole the reading finds out that follows.
            Some(manifest) => {
                let row = ImageRow { stored: record.when, manifest_len: manifest.len, whole: true };
                roots.images.insert(*image, row);
            }
            None => words.push(format!("image {image} is lost: no pack has its manifest; put it again")),
        }
    }
    roots.releases.retain(|row| !record.releases_removed.contains(&row.stored.id));
    for id in &record.releases_put {
        let known = roots.release(*id).map(|row| row.stored.release.clone());
        let found = known.or_else(|| source.release(*id).filter(|release| release.id() == *id));
        match found.filter(|release| roots.images.contains_key(&release.image)) {
            Some(release) => roots.put_release(&release, record.when),
            None => {
                let who = df_core::text::escape(record.who.as_bytes());
                words.push(format!("release {id} is lost: no other copy has what {who} put; put it again"));
            }
        }
    }
}

/// Returns what either of two commits names and neither condemned.
fn join(one: Parts, other: Parts) -> Parts {
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
